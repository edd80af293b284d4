//! What was granted, and may it be used once more?
//!
//! A login gives one *grant*; codes and refresh tokens lead to it, each good for one use. Whoever uses one a second time
//! ends the grant with all that leads to it and all that came of it (RFC 6749 §4.1.2, RFC 9700 §4.14.2). It signs nothing.

use std::time::Duration;

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{
    keys::{unavailable, unusable},
    secrets,
};
use crate::{
    clock::Timestamp,
    identity::{
        Vouched,
        revocation::{self, Revocation, Whom},
    },
    refusal::Refusal,
    state::{Place, Store, Value},
};

/// Who logged in, as the tokens say it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Person {
    pub(super) subject: String,
    pub(super) tenant: Option<String>,
    pub(super) groups: Vec<String>,
    pub(super) acr: Option<String>,
    pub(super) auth_time: Option<u64>,
}

impl From<&Vouched> for Person {
    fn from(vouched: &Vouched) -> Self {
        let Vouched { subject, tenant, groups, acr, auth_time, .. } = vouched.clone();
        Self { subject, tenant, groups, acr, auth_time }
    }
}

/// What a person granted to a client.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Grant {
    pub(super) client: String,
    /// Where the person logged in: a `sub` is unique there only.
    pub(super) provider: String,
    pub(super) person: Person,
    pub(super) resource: String,
    pub(super) scopes: Vec<String>,
    /// Whether refresh tokens lead to it.
    pub(super) refreshed: bool,
    pub(super) began_ms: u64,
    pub(super) ends_ms: u64,
}

/// What a code is bound to.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Code {
    grant: String,
    pub(super) client: String,
    pub(super) redirect_uri: String,
    pub(super) challenge: String,
    issued_ms: u64,
}

/// What a refresh token leads to.
#[derive(Debug, Serialize, Deserialize)]
struct Refresh {
    grant: String,
}

/// Keeps `grant`, and gives the code that leads to it.
pub(super) async fn begin(
    store: &Store,
    grant: &Grant,
    redirect_uri: &str,
    challenge: &str,
    now: Timestamp,
) -> Result<String, Refusal> {
    let (id, code) = (secrets::random()?, secrets::random()?);
    put(store, &key("grant", &id), grant, Timestamp::from_unix_ms(grant.ends_ms), now).await?;
    let bound = Code {
        grant: id,
        client: grant.client.clone(),
        redirect_uri: redirect_uri.to_owned(),
        challenge: challenge.to_owned(),
        issued_ms: now.unix_ms(),
    };
    put(store, &key("code", &code), &bound, now.plus(CODE_KNOWN), now).await?;
    Ok(code)
}

/// The grant that a code leads to. `fits` says whether the one who has it may use it: a stranger with the wrong verifier
/// does not end another's login.
pub(super) async fn redeem(
    store: &Store,
    code: &str,
    fits: impl FnOnce(&Code) -> Result<(), Refusal>,
    now: Timestamp,
) -> Result<(String, Grant), Refusal> {
    let name = key("code", code);
    let bound: Code = get(store, &name, now).await?.ok_or(Refusal::CodeInvalid("no such code"))?;
    fits(&bound)?;
    used_once(store, ("code used", code), &bound.grant, now.plus(CODE_KNOWN), now).await?;
    if now.since(Timestamp::from_unix_ms(bound.issued_ms)) > CODE_LIFE {
        return Err(Refusal::CodeInvalid("the code has expired"));
    }
    let grant = known(store, &bound.grant, now).await?;
    Ok((bound.grant, grant))
}

/// A refresh token for a grant.
pub(super) async fn refreshing(store: &Store, id: &str, grant: &Grant, now: Timestamp) -> Result<String, Refusal> {
    let token = secrets::random()?;
    let leads = Refresh { grant: id.to_owned() };
    put(store, &key("refresh", &token), &leads, Timestamp::from_unix_ms(grant.ends_ms), now).await?;
    Ok(token)
}

/// The grant that a refresh token leads to, where `fits` says that the one who has it may use it; it is used up then.
pub(super) async fn refreshed(
    store: &Store,
    token: &str,
    fits: impl FnOnce(&Grant) -> Result<(), Refusal>,
    now: Timestamp,
) -> Result<(String, Grant), Refusal> {
    let leads: Option<Refresh> = get(store, &key("refresh", token), now).await?;
    let leads = leads.ok_or(Refusal::CodeInvalid("no such refresh token"))?;
    let grant = known(store, &leads.grant, now).await?;
    fits(&grant)?;
    let until = Timestamp::from_unix_ms(grant.ends_ms);
    used_once(store, ("refresh used", token), &leads.grant, until, now).await?;
    Ok((leads.grant, grant))
}

/// Of several uses the first goes on, and each other ends the grant.
async fn used_once(
    store: &Store,
    (what, value): (&str, &str),
    grant: &str,
    until: Timestamp,
    now: Timestamp,
) -> Result<(), Refusal> {
    let mark = Value { bytes: Vec::new(), until: Some(until) };
    if store.claim(Place::Token, &key(what, value), mark, now).await.map_err(unavailable)? {
        return Ok(());
    }
    // Also at the other gateways on the folder. It outlives every access token that came of the grant.
    let came_of_it = Whom::Token { name: login_id(grant), issuer: None };
    let mut revocation = Revocation::new(came_of_it, now, Some(now.plus(TOKENS_LIVE)));
    revocation.why = Some("a code or refresh token of its login came a second time".to_owned());
    revocation::revoke(store, &revocation, now).await.map_err(unavailable)?;
    end(store, grant).await?;
    Err(Refusal::CodeReused)
}

/// Nothing leads to this grant any more.
pub(super) async fn end(store: &Store, id: &str) -> Result<(), Refusal> {
    store.remove(Place::Token, &key("grant", id)).await.map(drop).map_err(unavailable)
}

/// What the access tokens of a grant say that they came of: names it, and leads nowhere.
pub(super) fn login_id(id: &str) -> String {
    secrets::hashed(&format!("login {id}"))
}

async fn known(store: &Store, id: &str, now: Timestamp) -> Result<Grant, Refusal> {
    let grant: Option<Grant> = get(store, &key("grant", id), now).await?;
    grant.ok_or(Refusal::CodeInvalid("what was granted has ended"))
}

async fn put<T: Serialize>(
    store: &Store,
    key: &[u8],
    value: &T,
    until: Timestamp,
    now: Timestamp,
) -> Result<(), Refusal> {
    let bytes = serde_json::to_vec(value).map_err(|_not_json| Refusal::Bug("a grant that is no JSON"))?;
    store.put(Place::Token, key, Value { bytes, until: Some(until) }, now).await.map_err(unavailable)
}

async fn get<T: DeserializeOwned>(store: &Store, key: &[u8], now: Timestamp) -> Result<Option<T>, Refusal> {
    let Some(bytes) = store.get(Place::Token, key, now).await.map_err(unavailable)? else { return Ok(None) };
    serde_json::from_slice(&bytes).map(Some).map_err(|_not_json| unusable("a grant"))
}

fn key(what: &str, value: &str) -> [u8; 32] {
    secrets::name_of(&["facade", what, value])
}

/// A client has its code at once, or never (RFC 6749 §4.1.2: ten minutes at most).
const CODE_LIFE: Duration = Duration::from_secs(60);
/// No access token of the gateway lives longer, whatever `token_s` was when it was issued; clocks may differ a little.
const TOKENS_LIVE: Duration = Duration::from_secs(3_600 + 60);
/// So long a second use of a code is told from a code that never was.
const CODE_KNOWN: Duration = Duration::from_secs(600);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    fn grant(now: Timestamp) -> Grant {
        let person =
            Person { subject: "alice".into(), tenant: None, groups: Vec::new(), acr: None, auth_time: Some(7) };
        let ends_ms = now.plus(Duration::from_secs(3600)).unix_ms();
        let resource = "https://gw.example/mcp".to_owned();
        Grant {
            client: "c".into(),
            provider: "https://login.example".into(),
            person,
            resource,
            scopes: vec!["a".into()],
            refreshed: true,
            began_ms: now.unix_ms(),
            ends_ms,
        }
    }

    async fn begun(store: &Store, now: Timestamp) -> String {
        begin(store, &grant(now), "https://app.example/cb", "challenge", now).await.unwrap()
    }

    #[tokio::test]
    async fn a_code_is_good_once_and_its_second_use_ends_what_came_of_it() {
        let store = Store::open(&config::State::default()).unwrap();
        let now = Timestamp::from_unix_seconds(1_800_000_000);
        let code = begun(&store, now).await;
        let stranger = redeem(&store, &code, |_| Err(Refusal::CodeInvalid("not yours")), now).await.err();
        assert_eq!(stranger, Some(Refusal::CodeInvalid("not yours")));
        let (id, known) = redeem(&store, &code, |_| Ok(()), now).await.unwrap();
        assert_eq!(known.person.subject, "alice");
        let token = refreshing(&store, &id, &known, now).await.unwrap();
        assert!(revocation::all(&store, now).await.unwrap().is_empty());
        assert_eq!(redeem(&store, &code, |_| Ok(()), now).await.err(), Some(Refusal::CodeReused));
        let revoked = revocation::all(&store, now).await.unwrap().remove(0);
        assert_eq!(revoked.whom, Whom::Token { name: login_id(&id), issuer: None });
        assert!(matches!(refreshed(&store, &token, |_| Ok(()), now).await.err(), Some(Refusal::CodeInvalid(_))));
        let late = now.plus(CODE_LIFE).plus(Duration::from_millis(1));
        let code = begun(&store, now).await;
        assert!(matches!(redeem(&store, &code, |_| Ok(()), late).await.err(), Some(Refusal::CodeInvalid(_))));
    }

    #[tokio::test]
    async fn a_refresh_token_is_good_once_and_for_its_client() {
        let store = Store::open(&config::State::default()).unwrap();
        let now = Timestamp::from_unix_seconds(1_800_000_000);
        let (id, known) = redeem(&store, &begun(&store, now).await, |_| Ok(()), now).await.unwrap();
        let first = refreshing(&store, &id, &known, now).await.unwrap();
        let other = |_: &Grant| Err(Refusal::CodeInvalid("not yours"));
        assert!(matches!(refreshed(&store, &first, other, now).await.err(), Some(Refusal::CodeInvalid(_))));
        let (id, known) = refreshed(&store, &first, |_| Ok(()), now).await.unwrap();
        let second = refreshing(&store, &id, &known, now).await.unwrap();
        assert_eq!(refreshed(&store, &first, |_| Ok(()), now).await.err(), Some(Refusal::CodeReused));
        assert!(
            refreshed(&store, &second, |_| Ok(()), now).await.is_err(),
            "the thief's and the owner's have both ended"
        );
    }

    #[tokio::test]
    async fn of_two_that_race_with_one_refresh_token_at_most_one_gets_a_new_one() {
        let store = Store::open(&config::State::default()).unwrap();
        let now = Timestamp::from_unix_seconds(1_800_000_000);
        let (id, known) = redeem(&store, &begun(&store, now).await, |_| Ok(()), now).await.unwrap();
        let token = refreshing(&store, &id, &known, now).await.unwrap();
        let (one, other) =
            tokio::join!(refreshed(&store, &token, |_| Ok(()), now), refreshed(&store, &token, |_| Ok(()), now));
        assert!(one.is_ok() != other.is_ok());
    }
}
