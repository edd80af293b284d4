//! What was granted, and may it be used once more?
//!
//! A login gives one *grant*; a code and then refresh tokens lead to it, one at a time, each good for one use. Whoever uses
//! one a second time ends the grant with all that leads to it and all that came of it (RFC 6749 §4.1.2, RFC 9700
//! §4.14.2). It is one value in the store, however often it is refreshed. It signs nothing.

use std::time::Duration;

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use zeroize::Zeroize as _;

use super::{
    binding::Bound,
    keys::{unavailable, unusable},
};
use crate::{
    clock::Timestamp,
    digest,
    identity::{
        Vouched,
        revocation::{self, Revocation, Whom},
    },
    random,
    refusal::Refusal,
    secret::Secret,
    state::{Place, Plain, Store, StoreFault, Value},
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
    /// The first half of each refresh token that leads to it.
    pub(super) id: String,
    pub(super) client: String,
    /// Whether its client proved who it is, so that nobody goes on with it who does not.
    #[serde(default)]
    pub(super) proven: bool,
    /// Where the person logged in: a `sub` is unique there only.
    pub(super) provider: String,
    pub(super) person: Person,
    pub(super) resource: String,
    pub(super) scopes: Vec<String>,
    /// The digest of the one code or refresh token that leads to it now.
    pub(super) current: Option<String>,
    /// Whether refresh tokens lead to it.
    pub(super) refreshed: bool,
    /// What its tokens are bound to; what has to be shown with the refresh token of a client that proves nothing else.
    pub(super) bound: Option<Bound>,
    /// What the provider gave to be asked again with.
    pub(super) renewal: Option<Renewal>,
    pub(super) began_ms: u64,
    pub(super) ends_ms: u64,
}

/// A refresh token of the provider. The store seals it; it is printed nowhere.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Renewal(String);

impl Renewal {
    pub(super) fn new(token: &Secret) -> Self {
        Self(token.expose().to_owned())
    }

    pub(super) fn token(&self) -> Secret {
        Secret::new(self.0.clone())
    }
}

impl Drop for Renewal {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl std::fmt::Debug for Renewal {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("[secret]")
    }
}

/// What a code is bound to.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Code {
    grant: String,
    pub(super) client: String,
    pub(super) redirect_uri: String,
    pub(super) challenge: String,
    /// The thumbprint of the key that it was asked for with (RFC 9449 §10).
    pub(super) key: Option<String>,
    issued_ms: u64,
}

/// A grant as it was found.
pub(super) struct Found {
    pub(super) id: String,
    pub(super) grant: Grant,
    /// As it is kept, byte for byte.
    kept: Plain,
}

/// Keeps `grant`, and gives the code that leads to it: to this redirect URI, for whoever has the verifier of this challenge
/// and, where there is one, the key of this thumbprint.
pub(super) async fn begin(
    store: &Store,
    grant: Grant,
    (redirect_uri, challenge, held): (&str, &str, Option<&str>),
    now: Timestamp,
) -> Result<String, Refusal> {
    let (id, code) = (random::unguessable()?, random::unguessable()?);
    let grant = Grant { id: id.clone(), current: Some(digest(&code)), ..grant };
    // A login whose code nobody redeems is forgotten with that.
    put(store, &key("grant", &id), &grant, now.plus(CODE_KNOWN), now).await?;
    let bound = Code {
        grant: id,
        client: grant.client,
        redirect_uri: redirect_uri.to_owned(),
        challenge: challenge.to_owned(),
        key: held.map(str::to_owned),
        issued_ms: now.unix_ms(),
    };
    put(store, &key("code", &code), &bound, now.plus(CODE_KNOWN), now).await?;
    Ok(code)
}

/// The grant that a code leads to; it is not used up by that. `fits` says whether the one who has it may use it: a stranger
/// with the wrong verifier does not end another's login.
pub(super) async fn of_code(
    store: &Store,
    code: &str,
    fits: impl FnOnce(&Code) -> Result<(), Refusal>,
    now: Timestamp,
) -> Result<Found, Refusal> {
    let bytes = get(store, &key("code", code), now).await?.ok_or(Refusal::CodeInvalid("no such code"))?;
    let bound: Code = read(&bytes)?;
    fits(&bound)?;
    let found = known(store, &bound.grant, now).await?;
    is_current(store, &found, code, now).await?;
    if now.since(Timestamp::from_unix_ms(bound.issued_ms)) > CODE_LIFE {
        return Err(Refusal::CodeInvalid("the code has expired"));
    }
    Ok(found)
}

/// The grant that a refresh token leads to, where `fits` says that the one who has it may use it; it is not used up by
/// that.
pub(super) async fn of_refresh_token(
    store: &Store,
    token: &str,
    fits: impl FnOnce(&Grant) -> Result<(), Refusal>,
    now: Timestamp,
) -> Result<Found, Refusal> {
    let parts =
        token.split_once('.').filter(|(id, random)| random::is_unguessable(id) && random::is_unguessable(random));
    let (id, _random) = parts.ok_or(Refusal::CodeInvalid("no such refresh token"))?;
    let found = known(store, id, now).await?;
    fits(&found.grant)?;
    if now.unix_ms() >= found.grant.ends_ms {
        return Err(Refusal::CodeInvalid("the login has lasted for its time"));
    }
    is_current(store, &found, token, now).await?;
    Ok(found)
}

/// The grant that a refresh token leads to, or led to before: only who was given one knows which that is.
pub(super) async fn behind(store: &Store, token: &str, now: Timestamp) -> Result<Option<Found>, Refusal> {
    let parts = token.split_once('.').filter(|(id, rest)| random::is_unguessable(id) && random::is_unguessable(rest));
    let Some((id, _random)) = parts else { return Ok(None) };
    match known(store, id, now).await {
        Ok(found) => Ok(Some(found)),
        Err(Refusal::CodeInvalid(_)) => Ok(None),
        Err(refusal) => Err(refusal),
    }
}

/// Uses up what led to the grant that was found, and gives the refresh token that leads to it from now on, where one does.
/// Of several that found it by one code or refresh token the first goes on, and each other ends the grant.
pub(super) async fn use_up(store: &Store, found: Found, now: Timestamp) -> Result<Option<String>, Refusal> {
    let Found { id, mut grant, kept } = found;
    let next = if grant.refreshed { Some(format!("{id}.{}", random::unguessable()?)) } else { None };
    grant.current = next.as_deref().map(digest);
    replace(store, Found { id, grant, kept }, now).await?;
    Ok(next)
}

/// Keeps a grant as it is now, where it is still kept as it was found: who comes second has shown what was used up.
pub(super) async fn replace(store: &Store, found: Found, now: Timestamp) -> Result<Found, Refusal> {
    let Found { id, grant, kept } = found;
    let bytes = written(&grant)?;
    // As long as a token lives that came of it: who ends it has to find it.
    let ends = if grant.refreshed { Timestamp::from_unix_ms(grant.ends_ms) } else { now };
    let value = Value { bytes: bytes.clone(), until: Some(ends.plus(TOKENS_LIVE)) };
    let swapped = store.swap(Place::Token, &key("grant", &id), (&kept, Some(value)), now).await;
    if swapped.map_err(unavailable)? {
        return Ok(Found { id, grant, kept: bytes.into() });
    }
    Err(reused(store, &id, now).await?)
}

/// Lets one at a time do what `id` names with a grant; gives the word by which it is released.
pub(super) async fn alone(store: &Store, id: &str, most: Duration, now: Timestamp) -> Result<Option<String>, Refusal> {
    let word = random::unguessable()?;
    let lock = Value { bytes: word.clone().into_bytes(), until: Some(now.plus(most)) };
    let claimed = store.claim(Place::Token, &key("alone", id), lock, now).await.map_err(unavailable)?;
    Ok(claimed.then_some(word))
}

/// The end of that.
pub(super) async fn released(store: &Store, id: &str, word: &str, now: Timestamp) -> Result<(), Refusal> {
    store.swap(Place::Token, &key("alone", id), (word.as_bytes(), None), now).await.map(drop).map_err(unavailable)
}

/// Whether a grant is still as it was found; one that is not was used by somebody else meanwhile.
pub(super) async fn is_unchanged(store: &Store, found: &Found, now: Timestamp) -> Result<(), Refusal> {
    if get(store, &key("grant", &found.id), now).await?.as_ref() == Some(&found.kept) {
        return Ok(());
    }
    Err(reused(store, &found.id, now).await?)
}

/// Another than the one that leads to the grant now has been used already.
async fn is_current(store: &Store, found: &Found, value: &str, now: Timestamp) -> Result<(), Refusal> {
    let current = found.grant.current.as_deref();
    if current.is_some_and(|current| digest::same(current, &digest(value))) {
        return Ok(());
    }
    Err(reused(store, &found.id, now).await?)
}

/// Ends a grant with all that came of it, and says why.
async fn reused(store: &Store, id: &str, now: Timestamp) -> Result<Refusal, Refusal> {
    let ending = Ending { why: "a code or refresh token of its login came a second time", by: None };
    withdraw(store, id, &ending, now).await.map_err(unavailable)?;
    Ok(Refusal::CodeReused)
}

/// Why a grant ends before its time, and who ended it, for the journal.
pub(super) struct Ending<'a> {
    pub(super) why: &'a str,
    pub(super) by: Option<&'a str>,
}

/// Ends a grant with all that came of it, also at the other gateways on the folder.
pub(super) async fn withdraw(store: &Store, id: &str, ending: &Ending<'_>, now: Timestamp) -> Result<(), StoreFault> {
    // It outlives every access token that came of the grant.
    let came_of_it = Whom::Token { name: login_id(id), issuer: None };
    let mut revocation = Revocation::new(came_of_it, now, Some(now.plus(TOKENS_LIVE)));
    (revocation.why, revocation.by) = (Some(ending.why.to_owned()), ending.by.map(str::to_owned));
    revocation::revoke(store, &revocation, now).await?;
    store.remove(Place::Token, &key("grant", id)).await.map(drop)
}

/// Nothing leads to this grant any more.
pub(super) async fn end(store: &Store, id: &str) -> Result<(), Refusal> {
    store.remove(Place::Token, &key("grant", id)).await.map(drop).map_err(unavailable)
}

/// What the access tokens of a grant say that they came of: names it, and leads nowhere.
pub(super) fn login_id(id: &str) -> String {
    digest::base64(format!("login {id}"))
}

async fn known(store: &Store, id: &str, now: Timestamp) -> Result<Found, Refusal> {
    let kept = get(store, &key("grant", id), now).await?;
    let kept = kept.ok_or(Refusal::CodeInvalid("what was granted has ended"))?;
    Ok(Found { id: id.to_owned(), grant: read(&kept)?, kept })
}

async fn put<T: Serialize>(
    store: &Store,
    key: &[u8],
    value: &T,
    until: Timestamp,
    now: Timestamp,
) -> Result<(), Refusal> {
    let bytes = written(value)?;
    store.put(Place::Token, key, Value { bytes, until: Some(until) }, now).await.map_err(unavailable)
}

async fn get(store: &Store, key: &[u8], now: Timestamp) -> Result<Option<Plain>, Refusal> {
    store.get(Place::Token, key, now).await.map_err(unavailable)
}

fn written<T: Serialize>(value: &T) -> Result<Vec<u8>, Refusal> {
    serde_json::to_vec(value).map_err(|_not_json| Refusal::Bug("a grant that is no JSON"))
}

fn read<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Refusal> {
    serde_json::from_slice(bytes).map_err(|_not_json| unusable("a grant"))
}

/// A code or a refresh token as the store knows it.
fn digest(value: &str) -> String {
    digest::base64(format!("current {value}"))
}

fn key(what: &str, value: &str) -> [u8; 32] {
    digest::name_of("facade", &[what, value])
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
            id: String::new(),
            client: "c".into(),
            proven: false,
            provider: "https://login.example".into(),
            person,
            resource,
            scopes: vec!["a".into()],
            current: None,
            refreshed: true,
            bound: None,
            renewal: None,
            began_ms: now.unix_ms(),
            ends_ms,
        }
    }

    async fn begun(store: &Store, now: Timestamp) -> String {
        begin(store, grant(now), ("https://app.example/cb", "challenge", None), now).await.unwrap()
    }

    /// Logs in, redeems the code, and gives the refresh token.
    async fn redeemed(store: &Store, now: Timestamp) -> String {
        let found = of_code(store, &begun(store, now).await, |_| Ok(()), now).await.unwrap();
        use_up(store, found, now).await.unwrap().unwrap()
    }

    async fn refreshed(store: &Store, token: &str, now: Timestamp) -> Result<String, Refusal> {
        let found = of_refresh_token(store, token, |_| Ok(()), now).await?;
        Ok(use_up(store, found, now).await?.unwrap())
    }

    #[tokio::test]
    async fn a_code_is_good_once_and_its_second_use_ends_what_came_of_it() {
        let store = Store::open(&config::State::default()).unwrap();
        let now = Timestamp::from_unix_seconds(1_800_000_000);
        let code = begun(&store, now).await;
        let stranger = of_code(&store, &code, |_| Err(Refusal::CodeInvalid("not yours")), now).await.err();
        assert_eq!(stranger, Some(Refusal::CodeInvalid("not yours")));
        let found = of_code(&store, &code, |_| Ok(()), now).await.unwrap();
        assert_eq!(found.grant.person.subject, "alice");
        let id = found.id.clone();
        let token = use_up(&store, found, now).await.unwrap().unwrap();
        assert!(revocation::all(&store, now).await.unwrap().is_empty());
        assert_eq!(of_code(&store, &code, |_| Ok(()), now).await.err(), Some(Refusal::CodeReused));
        let revoked = revocation::all(&store, now).await.unwrap().remove(0);
        assert_eq!(revoked.whom, Whom::Token { name: login_id(&id), issuer: None });
        assert!(matches!(refreshed(&store, &token, now).await.err(), Some(Refusal::CodeInvalid(_))));
        let late = now.plus(CODE_LIFE).plus(Duration::from_millis(1));
        let code = begun(&store, now).await;
        assert!(matches!(of_code(&store, &code, |_| Ok(()), late).await.err(), Some(Refusal::CodeInvalid(_))));
        let once = Grant { refreshed: false, ..grant(now) };
        let code = begin(&store, once, ("https://app.example/cb", "challenge", None), now).await.unwrap();
        let found = of_code(&store, &code, |_| Ok(()), now).await.unwrap();
        assert_eq!(use_up(&store, found, now).await, Ok(None));
        assert_eq!(of_code(&store, &code, |_| Ok(()), now).await.err(), Some(Refusal::CodeReused));
    }

    #[tokio::test]
    async fn a_refresh_token_is_good_once_and_for_its_client() {
        let store = Store::open(&config::State::default()).unwrap();
        let now = Timestamp::from_unix_seconds(1_800_000_000);
        let first = redeemed(&store, now).await;
        let other = |_: &Grant| Err(Refusal::CodeInvalid("not yours"));
        assert!(matches!(of_refresh_token(&store, &first, other, now).await.err(), Some(Refusal::CodeInvalid(_))));
        assert!(of_refresh_token(&store, &first, |_| Ok(()), now).await.is_ok(), "nothing was answered: not used up");
        let second = refreshed(&store, &first, now).await.unwrap();
        assert_eq!(refreshed(&store, &first, now).await, Err(Refusal::CodeReused));
        assert!(refreshed(&store, &second, now).await.is_err(), "the thief's and the owner's have both ended");
    }

    #[tokio::test]
    async fn of_two_that_race_with_one_refresh_token_at_most_one_gets_a_new_one() {
        let store = Store::open(&config::State::default()).unwrap();
        let now = Timestamp::from_unix_seconds(1_800_000_000);
        let token = redeemed(&store, now).await;
        let (one, other) = tokio::join!(refreshed(&store, &token, now), refreshed(&store, &token, now));
        assert!(one.is_ok() != other.is_ok());
    }

    #[tokio::test]
    async fn a_grant_takes_no_more_room_however_often_it_is_refreshed() {
        let store = Store::open(&config::State::default()).unwrap();
        let now = Timestamp::from_unix_seconds(1_800_000_000);
        let mut token = redeemed(&store, now).await;
        let before = store.all(Place::Token, now).await.unwrap().len();
        for _ in 0..20 {
            token = refreshed(&store, &token, now).await.unwrap();
        }
        assert_eq!(store.all(Place::Token, now).await.unwrap().len(), before);
        let later = now.plus(CODE_KNOWN);
        assert_eq!(store.all(Place::Token, later).await.unwrap().len(), 1, "the grant itself");
        begun(&store, now).await;
        assert_eq!(store.all(Place::Token, later).await.unwrap().len(), 1, "a code that nobody redeems leaves nothing");
        assert!(refreshed(&store, &token, later).await.is_ok());
    }
}
