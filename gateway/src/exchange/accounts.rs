//! Which accounts have users connected, and are their tokens still good?
//!
//! What upstreams granted to users, one for each user and upstream, in the state (RFC 6749 §4.1, §6): read, refreshed by
//! one at a time, forgotten. It does not speak to a browser; [`super::connect`] does.

use std::time::Duration;

use quick_cache::sync::Cache;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{
    MARGIN, Slot,
    answer::{Fault, Token},
    endpoint::{Endpoint, Order},
    grant::{Facts, Witness},
};
use crate::{
    clock::{self, Timestamp},
    config::UpstreamId,
    digest::{self, Name, sha256},
    identity::{Identity, User},
    random,
    refusal::Refusal,
    secret::Secret,
    state::{Place, Plain, Store, StoreFault, Value},
    tasks,
};

/// The accounts.
#[derive(Debug)]
pub(super) struct Accounts {
    store: Store,
    /// Tokens that an upstream refused, by account: what the state holds of it is refreshed before it is used again.
    refused: Cache<Slot, String>,
    /// Until when a server that is in trouble is not asked to refresh an account that has something left.
    resting: Cache<Slot, Timestamp>,
}

/// Whose account, and where.
#[derive(Debug, Clone)]
pub(super) struct Account {
    pub(super) user: User,
    pub(super) tenant: Option<String>,
    pub(super) upstream: UpstreamId,
    /// The authorization server that granted it: credentials of one are never shown to another (RC-24).
    pub(super) server: String,
}

/// What an upstream granted, as it is kept.
#[derive(Serialize, Deserialize)]
struct Kept {
    issuer: String,
    subject: String,
    tenant: Option<String>,
    upstream: String,
    server: String,
    #[serde(serialize_with = "expose", deserialize_with = "secret")]
    access_token: Secret,
    #[serde(serialize_with = "expose_some", deserialize_with = "secret_some")]
    refresh_token: Option<Secret>,
    scopes: Vec<String>,
    granted_ms: u64,
    expires_ms: u64,
}

/// A usable token of an account.
#[derive(Debug)]
pub(super) struct Granted {
    pub(super) token: Secret,
    pub(super) scopes: Vec<String>,
    pub(super) expires_at: Timestamp,
    /// Whether it was obtained for whoever gets it, and not found.
    pub(super) fresh: bool,
}

impl Granted {
    /// The same for the same token, however often it is read: what refused one of two refused both.
    pub(super) fn generation(&self) -> u64 {
        sha256(self.token.expose().as_bytes()).first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes))
    }
}

/// Why there is none.
#[derive(Debug)]
pub(super) enum Lacking {
    /// The user has to connect their account, anew or for the first time.
    Consent,
    /// Something else stands in the way.
    Refused(Refusal),
}

impl Account {
    /// The account of `caller`; none for a machine, which has none.
    pub(super) fn of(caller: &Identity, upstream: &UpstreamId, endpoint: &Endpoint) -> Option<Self> {
        Some(Self {
            user: caller.user.clone()?,
            tenant: caller.tenant.clone(),
            upstream: upstream.clone(),
            server: endpoint.request.at.to_string(),
        })
    }

    /// Its name in the state, and in the cache of grants.
    pub(super) fn key(&self) -> Slot {
        let mut name = Name::of("account");
        name.maybe(self.tenant.as_deref());
        for part in [self.upstream.as_str(), &self.server, &self.user.issuer, &self.user.subject] {
            name.add(part);
        }
        name.finish()
    }
}

impl Accounts {
    pub(super) fn new(store: Store) -> Self {
        Self { store, refused: Cache::new(REFUSED_MAX), resting: Cache::new(REFUSED_MAX) }
    }

    /// The upstream would not take this token of the account.
    pub(super) fn refuse(&self, account: Slot, token_digest: &str) {
        self.refused.insert(account, token_digest.to_owned());
    }

    /// Whether no account of this person is kept that the same server granted; no, where that cannot be told.
    pub(super) async fn lacks(&self, account: &Account, now: Timestamp) -> bool {
        let Ok(all) = self.store.readable(Place::UserGrant, now).await else { return false };
        let kept = all.iter().filter_map(|(_, bytes)| serde_json::from_slice::<Kept>(bytes).ok());
        let mut theirs =
            kept.filter(|kept| (&kept.issuer, &kept.subject) == (&account.user.issuer, &account.user.subject));
        !theirs.any(|kept| kept.server == account.server)
    }

    /// Keeps what the user agreed to.
    pub(super) async fn connect(&self, account: &Account, token: Token, now: Timestamp) -> Result<(), StoreFault> {
        self.refused.remove(&account.key());
        let value = Kept::of(account, token, None, now).value()?;
        self.store.put(Place::UserGrant, &account.key(), value, now).await
    }

    /// A token of `account` that may be used now, refreshed before `witness` where it has to be. One refresh at a time, over
    /// all processes that share the state: a refresh token that is used twice is taken for stolen (RFC 9700 §4.14.2).
    pub(super) async fn granted(
        &self,
        account: &Account,
        (endpoint, witness): (&Endpoint, &Witness),
        began: Timestamp,
    ) -> Result<Granted, Lacking> {
        let (key, since) = (account.key(), clock::instant());
        for _ in 0..LOOKS_MAX {
            let now = began.plus(clock::instant().duration_since(since));
            let (kept, bytes) = self.get(&key, now).await?.ok_or(Lacking::Consent)?;
            let rests = || self.resting.get(&key).is_some_and(|until| now < until) && self.has_left(&key, &kept, now);
            if self.is_good(&key, &kept, now) || rests() {
                return Ok(kept.granted(false));
            }
            let Some(token) = kept.refresh_token.clone() else {
                if self.swap(&key, (&bytes, None), now).await? {
                    return Err(Lacking::Consent);
                }
                continue;
            };
            if let Some(owner) = self.begin(&key, now).await? {
                let refreshed = Box::pin(self.refresh(account, (endpoint, witness), (&bytes, token), now)).await;
                self.end(&key, owner, now).await;
                if let Some(outcome) = refreshed.transpose() {
                    return outcome;
                }
            }
            tokio::time::sleep(LOOK_AFTER).await;
        }
        Err(Lacking::Refused(Refusal::GrantUnavailable("a refresh under way did not end".to_owned())))
    }

    /// The word by which this refresh is known, where nobody else refreshes this account now. A process that dies in the
    /// middle holds it for a moment only.
    async fn begin(&self, key: &Slot, now: Timestamp) -> Result<Option<String>, Lacking> {
        let owner = random::unguessable().map_err(|fault| Lacking::Refused(fault.into()))?;
        let lock = Value { bytes: owner.clone().into_bytes(), until: Some(now.plus(REFRESH_MAX)) };
        let claimed = self.store.claim(Place::UserGrant, &refreshing(key), lock, now).await.map_err(unkept)?;
        Ok(claimed.then_some(owner))
    }

    /// Lets others refresh. That the state cannot be written for a while takes from nobody what was granted; it is tried again,
    /// as nobody could refresh this account before the word has ended by itself.
    async fn end(&self, key: &Slot, owner: String, now: Timestamp) {
        let (store, key) = (self.store.clone(), refreshing(key));
        let release = async move || store.swap(Place::UserGrant, &key, (owner.as_bytes(), None), now).await;
        let Err(fault) = release().await else { return };
        tracing::warn!(why = %fault, "that an account's refresh has ended could not be kept yet");
        tasks::background(async move {
            for _ in 0..LOOKS_MAX {
                tokio::time::sleep(LOOK_AFTER).await;
                if release().await.is_ok() {
                    return;
                }
            }
        });
    }

    /// Nothing where the account has changed meanwhile: refreshed by somebody else, connected anew, or forgotten. What is
    /// there then stays as it is.
    async fn refresh(
        &self,
        account: &Account,
        (endpoint, witness): (&Endpoint, &Witness),
        (read, refresh_token): (&[u8], Secret),
        now: Timestamp,
    ) -> Result<Option<Granted>, Lacking> {
        let key = account.key();
        let (before, current) = self.get(&key, now).await?.ok_or(Lacking::Consent)?;
        if current.as_slice() != read {
            return Ok(None);
        }
        let (order, asked) = (Order::Refresh { token: refresh_token.clone() }, clock::instant());
        let after = || now.plus(clock::instant().duration_since(asked));
        match endpoint.ask(&order, &before.scopes, now).await {
            Ok(token) => {
                // Before anything else may fail: no credential is minted without a trace. Of one that leaves none only what
                // leads to another is kept.
                let seen = witness.sees(&facts(endpoint, &token.value, token.scopes.clone()));
                let life = if seen.is_ok() { token.life } else { Duration::ZERO };
                let kept = Kept::of(account, Token { life, ..token }, Some(refresh_token), now);
                if !self.swap(&key, (read, Some(&kept)), now).await? {
                    self.disown(&key, (kept, endpoint), now).await?;
                    return Ok(None);
                }
                seen.map_err(Lacking::Refused)?;
                self.refused.remove(&key);
                Ok(Some(kept.granted(true)))
            }
            // Revoked, expired, used by somebody else, or the server wants to see the user: only they can help.
            Err(fault) if fault.says("invalid_grant") || matches!(fault, Fault::NeedsLogin(..)) => {
                tracing::warn!(upstream = %account.upstream, ?fault, "an account's refresh token is no longer good");
                if self.swap(&key, (read, None), now).await? { Err(Lacking::Consent) } else { Ok(None) }
            }
            Err(Fault::Refused(why) | Fault::NeedsLogin(_, why)) => {
                Err(Lacking::Refused(Refusal::GrantRefused(named(endpoint, &why))))
            }
            Err(Fault::Unusable(why)) if self.has_left(&key, &before, after()) => {
                // What is left of the old token is better than nothing.
                self.resting.insert(key, after().plus(REST));
                tracing::warn!(upstream = %account.upstream, why, "an account's token could not be refreshed yet");
                Ok(Some(before.granted(false)))
            }
            Err(Fault::Unusable(why)) => Err(Lacking::Refused(Refusal::GrantUnavailable(named(endpoint, &why)))),
        }
    }

    /// Of an account that was forgotten while it was refreshed nothing is left at the server either (RFC 7009).
    async fn disown(&self, key: &Slot, (kept, endpoint): (Kept, &Endpoint), now: Timestamp) -> Result<(), Lacking> {
        if self.get(key, now).await?.is_some() {
            return Ok(()); // connected anew: many servers would revoke the one grant with the other
        }
        let token = kept.refresh_token.unwrap_or(kept.access_token);
        if let Err(fault) = endpoint.revoke(&token, now).await {
            tracing::warn!(upstream = kept.upstream, ?fault, "a token of a forgotten account could not be revoked");
        }
        Ok(())
    }

    /// Forgets what was granted until then to `user` at `upstream`, or to anybody, or anywhere, whatever the tenant and the
    /// server; gives the tokens, to be revoked where they came from.
    pub(super) async fn forget(
        &self,
        (user, upstream): (Option<&str>, Option<&str>),
        until: Timestamp,
        now: Timestamp,
    ) -> Result<Vec<Forgotten>, StoreFault> {
        let mut forgotten = Vec::new();
        for (key, bytes) in self.store.readable(Place::UserGrant, now).await? {
            let Ok(kept) = serde_json::from_slice::<Kept>(&bytes) else { continue };
            let theirs = user.is_none_or(|user| kept.subject == user);
            let there = upstream.is_none_or(|id| kept.upstream == id);
            if !theirs || !there || kept.granted_ms > until.unix_ms() {
                continue;
            }
            // What is revoked is what was there in the end: it may have been refreshed since.
            let taken = self.store.take(Place::UserGrant, &key, now).await?;
            let Some(kept) = taken.and_then(|bytes| serde_json::from_slice::<Kept>(&bytes).ok()) else { continue };
            if let (Some(upstream), Ok(slot)) = (UpstreamId::parse(&kept.upstream), Slot::try_from(key)) {
                let token = kept.refresh_token.unwrap_or(kept.access_token);
                forgotten.push(Forgotten { upstream, server: kept.server, slot, token });
            }
        }
        Ok(forgotten)
    }

    /// Whether what is kept may still be sent.
    fn is_good(&self, key: &Slot, kept: &Kept, now: Timestamp) -> bool {
        let ends = Timestamp::from_unix_ms(kept.expires_ms);
        let life = ends.since(Timestamp::from_unix_ms(kept.granted_ms));
        let margin = MARGIN.min(life.checked_div(2).unwrap_or_default());
        now < ends && ends.since(now) > margin && !self.is_refused(key, kept)
    }

    /// Whether it may be sent where there is nothing better.
    fn has_left(&self, key: &Slot, kept: &Kept, now: Timestamp) -> bool {
        now.unix_ms() < kept.expires_ms && !self.is_refused(key, kept)
    }

    fn is_refused(&self, key: &Slot, kept: &Kept) -> bool {
        self.refused.get(key).is_some_and(|digest| digest == digest::short(kept.access_token.expose()))
    }

    /// The account, and the very bytes that are kept of it.
    async fn get(&self, key: &Slot, now: Timestamp) -> Result<Option<(Kept, Plain)>, Lacking> {
        let Some(bytes) = self.store.get(Place::UserGrant, key, now).await.map_err(unkept)? else { return Ok(None) };
        // What cannot be read is of another version: as good as nothing.
        Ok(serde_json::from_slice(&bytes).ok().map(|kept| (kept, bytes)))
    }

    /// Changes the account where it is still what was read; says whether it was.
    async fn swap(&self, key: &Slot, (read, after): (&[u8], Option<&Kept>), now: Timestamp) -> Result<bool, Lacking> {
        let after = after.map(Kept::value).transpose().map_err(unkept)?;
        self.store.swap(Place::UserGrant, key, (read, after), now).await.map_err(unkept)
    }
}

/// A grant that is no longer kept.
#[derive(Debug)]
pub(super) struct Forgotten {
    pub(super) upstream: UpstreamId,
    pub(super) server: String,
    pub(super) slot: Slot,
    pub(super) token: Secret,
}

impl Kept {
    /// A server that rotates gives another refresh token each time; one that does not leaves us the one we have.
    fn of(account: &Account, token: Token, before: Option<Secret>, now: Timestamp) -> Self {
        Self {
            issuer: account.user.issuer.clone(),
            subject: account.user.subject.clone(),
            tenant: account.tenant.clone(),
            upstream: account.upstream.to_string(),
            server: account.server.clone(),
            access_token: token.value,
            refresh_token: token.refresh_token.or(before),
            scopes: token.scopes,
            granted_ms: now.unix_ms(),
            expires_ms: now.plus(token.life).unix_ms(),
        }
    }

    fn value(&self) -> Result<Value, StoreFault> {
        let bytes = serde_json::to_vec(self).map_err(|error| StoreFault::Unusable(error.to_string()))?;
        // A token that cannot be refreshed is of no use after its end.
        let until = self.refresh_token.is_none().then(|| Timestamp::from_unix_ms(self.expires_ms));
        Ok(Value { bytes, until })
    }

    fn granted(&self, fresh: bool) -> Granted {
        Granted {
            token: self.access_token.clone(),
            scopes: self.scopes.clone(),
            expires_at: Timestamp::from_unix_ms(self.expires_ms),
            fresh,
        }
    }
}

/// What is recorded of a token of an account.
pub(super) fn facts(endpoint: &Endpoint, token: &Secret, scopes: Vec<String>) -> Facts {
    Facts { strategy: "user_grant", scopes, ..Facts::of(endpoint, token) }
}

fn named(endpoint: &Endpoint, why: &str) -> String {
    format!("{}: {why}", endpoint.request.at)
}

fn unkept(fault: StoreFault) -> Lacking {
    Lacking::Refused(Refusal::GrantUnavailable(fault.to_string()))
}

/// The name under which a refresh under way is kept.
fn refreshing(key: &Slot) -> Vec<u8> {
    [b"refreshing ".as_slice(), key].concat()
}

fn expose<S: Serializer>(secret: &Secret, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(secret.expose())
}

#[expect(clippy::ref_option, reason = "serde hands a reference to the field")]
pub(super) fn expose_some<S: Serializer>(secret: &Option<Secret>, serializer: S) -> Result<S::Ok, S::Error> {
    match secret {
        Some(secret) => serializer.serialize_some(secret.expose()),
        None => serializer.serialize_none(),
    }
}

fn secret<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Secret, D::Error> {
    String::deserialize(deserializer).map(Secret::new)
}

pub(super) fn secret_some<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Secret>, D::Error> {
    Option::<String>::deserialize(deserializer).map(|text| text.map(Secret::new))
}

/// Refused tokens that are remembered.
const REFUSED_MAX: usize = 4_096;

/// A refresh that has not ended by then never will: metadata in three places, a turn, and two requests where the server
/// wants its nonce, each with a deadline of its own, take 35 seconds at most.
const REFRESH_MAX: Duration = Duration::from_secs(60);

/// How often, and how soon after another, one looks whether somebody else's refresh has ended.
const LOOKS_MAX: usize = 90;
const LOOK_AFTER: Duration = Duration::from_millis(100);

/// How soon a server is asked again that could not refresh.
const REST: Duration = Duration::from_secs(1);
