//! What is an API key, and who keeps them?
//!
//! A key is text that tells its own id and whether it was typed in full; whose it is and what it may do is a record in
//! the store, where the key itself is only as a MAC. `tollgate keys` writes the records; the gateway has a copy of all of
//! them in memory, so that a request costs a look and a MAC, and follows the store, so that a revocation counts at once.
//! It does not know tokens of issuers.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use aws_lc_rs::hmac;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::{API_KEY, Agent, Authentication, Binding, Credential, Identity, User, claims};
use crate::{
    clock::{self, Timestamp},
    config::{Config, Endpoint, UpstreamId},
    digest::{self, sha256},
    random::{self, NoRandomness},
    refusal::{Refusal, TokenFault},
    secret::Secret,
    state::{Place, Store, StoreFault, Value, understood},
    tasks,
};

/// Whose a key is and what it may do, as it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiKey {
    /// Names the key without being it.
    pub id: String,
    /// The person; `None` for software in its own name.
    pub user: Option<String>,
    /// The software that holds it.
    pub agent: String,
    /// The customer or division.
    pub tenant: Option<String>,
    /// Groups, for policies.
    pub groups: Vec<String>,
    /// Scopes, as a token would have them.
    pub scopes: Vec<String>,
    /// The upstreams at whose endpoints it is good; all endpoints, where not said.
    pub upstreams: Option<Vec<String>>,
    /// When it was made, in Unix milliseconds.
    pub created_ms: u64,
    /// When it ends, in Unix milliseconds.
    pub expires_ms: u64,
    /// When it was revoked, in Unix milliseconds, if it was.
    pub revoked_ms: Option<u64>,
    /// HMAC-SHA256 of the key, under the store's pepper.
    mac: [u8; MAC_BYTES],
}

/// What a new key is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// See [`ApiKey::user`].
    pub user: Option<String>,
    /// See [`ApiKey::agent`].
    pub agent: String,
    /// See [`ApiKey::tenant`].
    pub tenant: Option<String>,
    /// See [`ApiKey::groups`].
    pub groups: Vec<String>,
    /// See [`ApiKey::scopes`].
    pub scopes: Vec<String>,
    /// See [`ApiKey::upstreams`].
    pub upstreams: Option<Vec<String>>,
    /// How long it is good.
    pub life: Duration,
}

/// Why a key is not made or revoked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ApiKeyFault {
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreFault),
    /// Two are valid already; their ids.
    #[error("two keys of this user and agent are valid already, `{}`: revoke one first", .0.join("` and `"))]
    TwoValid(Vec<String>),
    /// There is no key with this id.
    #[error("there is no key `{0}`")]
    Unknown(String),
    /// A key that was not typed in full; what stands where its id would. The rest may be somebody's secret.
    #[error("this is neither an id nor a whole key; its id would be `{0}`")]
    NotWhole(String),
    /// A name, group or scope that no token could have.
    #[error("{0} is no name: 1 to 256 characters of text, scopes without blanks")]
    NotAName(&'static str),
    /// The machine.
    #[error(transparent)]
    NoRandomness(#[from] NoRandomness),
    /// A record that cannot be read or written.
    #[error("the record of a key cannot be understood")]
    Malformed,
}

impl ApiKey {
    /// `valid`, `expired` or `revoked`.
    #[must_use]
    pub fn state(&self, now: Timestamp) -> &'static str {
        match self.revoked_ms {
            Some(_) => "revoked",
            None if self.expires_ms <= now.unix_ms() => "expired",
            None => "valid",
        }
    }

    fn is_of(&self, order: &Order) -> bool {
        (&self.user, &self.agent, &self.tenant) == (&order.user, &order.agent, &order.tenant)
    }

    fn identity(&self, text: &str) -> Identity {
        claims::told_apart(Identity {
            user: self.user.as_ref().map(|user| User { issuer: ISSUER.to_owned(), subject: user.clone() }),
            agent: Agent { client_id: self.agent.clone(), actors: Vec::new() },
            tenant: self.tenant.clone(),
            groups: self.groups.clone(),
            scopes: self.scopes.clone(),
            authentication: Authentication {
                method: API_KEY,
                issuer: ISSUER.to_owned(),
                token_id: Some(self.id.clone()),
                token_digest: digest::short(text),
                login_id: None,
                acr: None,
                issued_at: Timestamp::from_unix_ms(self.created_ms),
                auth_time: None,
                binding: Binding::Nothing,
                may_act: None,
                expires_at: Timestamp::from_unix_ms(self.expires_ms),
            },
            principal: [0; 32],
            class: [0; 32],
            credential: Credential::new(text.to_owned()),
        })
    }
}

/// Makes a key and keeps its record: the key itself is in what this returns, and nowhere else.
///
/// # Errors
/// Every [`ApiKeyFault`] but [`ApiKeyFault::Unknown`].
pub async fn make(store: &Store, order: Order, now: Timestamp) -> Result<(Secret, ApiKey), ApiKeyFault> {
    let names = order.user.iter().chain(&order.tenant).chain([&order.agent]).chain(&order.groups);
    if !names.into_iter().all(|name| super::token::is_name(name)) {
        return Err(ApiKeyFault::NotAName("a user, agent, tenant or group"));
    }
    if !order.scopes.iter().all(|scope| super::metadata::is_scope(scope)) {
        return Err(ApiKeyFault::NotAName("a scope"));
    }
    let valid = all(store, now).await?.into_iter().filter(|key| key.is_of(&order) && key.state(now) == "valid");
    let valid: Vec<String> = valid.map(|key| key.id).collect();
    if valid.len() >= VALID_MAX {
        return Err(ApiKeyFault::TwoValid(valid));
    }
    let fresh = random::drawn::<PEPPER_BYTES>()?;
    // Whoever comes first makes the pepper; then it is the same for all keys.
    store.claim(Place::ApiKey, PEPPER, Value { bytes: fresh.to_vec(), until: None }, now).await?;
    let pepper = store.get(Place::ApiKey, PEPPER, now).await?.ok_or(ApiKeyFault::Malformed)?;
    let id = random_text(ID_CHARS)?;
    let text = Secret::new(written(&id, &random_text(SECRET_CHARS)?));
    let mut mac = [0; MAC_BYTES];
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &pepper), text.expose().as_bytes());
    for (to, from) in mac.iter_mut().zip(tag.as_ref()) {
        *to = *from;
    }
    let Order { user, agent, tenant, groups, scopes, upstreams, life } = order;
    let key = ApiKey {
        id,
        user,
        agent,
        tenant,
        groups: claims::sorted(groups),
        scopes: claims::sorted(scopes),
        upstreams: upstreams.map(claims::sorted),
        created_ms: now.unix_ms(),
        expires_ms: now.plus(life).unix_ms(),
        revoked_ms: None,
        mac,
    };
    keep(store, &key, now).await?;
    Ok((text, key))
}

/// Every key there is, or was until a while ago. One whose record cannot be read is nobody's: it is left out, and told of.
///
/// # Errors
/// [`ApiKeyFault::Store`].
pub async fn all(store: &Store, now: Timestamp) -> Result<Vec<ApiKey>, ApiKeyFault> {
    let kept = store.readable(Place::ApiKey, now).await?;
    let records = kept.iter().filter(|(key, _)| key != PEPPER);
    Ok(records.filter_map(|(_, bytes)| understood("an API key", bytes)).collect())
}

/// Revokes the key with this id, for good.
///
/// # Errors
/// [`ApiKeyFault::Store`], [`ApiKeyFault::Unknown`], [`ApiKeyFault::Malformed`].
pub async fn revoke(store: &Store, id: &str, now: Timestamp) -> Result<ApiKey, ApiKeyFault> {
    let kept = if id.as_bytes() == PEPPER { None } else { store.get(Place::ApiKey, id.as_bytes(), now).await? };
    let kept = kept.ok_or_else(|| ApiKeyFault::Unknown(id.to_owned()))?;
    let mut key: ApiKey = serde_json::from_slice(&kept).map_err(|_not_one| ApiKeyFault::Malformed)?;
    key.revoked_ms.get_or_insert(now.unix_ms());
    keep(store, &key, now).await?;
    Ok(key)
}

/// A record outlives its key for a while, so that the journal can say why a key is refused.
async fn keep(store: &Store, key: &ApiKey, now: Timestamp) -> Result<(), ApiKeyFault> {
    let bytes = serde_json::to_vec(key).map_err(|_cannot_be| ApiKeyFault::Malformed)?;
    let until = Some(Timestamp::from_unix_ms(key.expires_ms).plus(REMEMBERED));
    Ok(store.put(Place::ApiKey, key.id.as_bytes(), Value { bytes, until }, now).await?)
}

/// Whether a credential says that it is an API key.
pub(super) fn is_one(text: &str) -> bool {
    text.starts_with(PREFIX)
}

/// The id of a key that was typed in full: wrong ones end here, before anything is looked up.
#[must_use]
pub fn id_of(text: &str) -> Option<&str> {
    let (id, rest) = text.strip_prefix(PREFIX)?.split_once('_')?;
    let (secret, _) = rest.split_once('_')?;
    let fits = |part: &str, chars: usize| part.len() == chars && part.bytes().all(|byte| byte.is_ascii_alphanumeric());
    (fits(id, ID_CHARS) && fits(secret, SECRET_CHARS) && text == written(id, secret)).then_some(id)
}

/// The id that somebody means who gives it, or the key in full.
///
/// # Errors
/// [`ApiKeyFault::NotWhole`].
pub fn id_given(text: &str) -> Result<&str, ApiKeyFault> {
    if let Some(id) = id_of(text) {
        return Ok(id);
    }
    if text.len() <= ID_CHARS {
        return Ok(text);
    }
    let rest = text.split_once('_').map_or(text, |(_, rest)| rest);
    Err(ApiKeyFault::NotWhole(rest.chars().take_while(char::is_ascii_alphanumeric).take(ID_CHARS).collect()))
}

/// `tgk_ID_SECRET_CHECKSUM`.
fn written(id: &str, secret: &str) -> String {
    let text = format!("{PREFIX}{id}_{secret}");
    let sum: String = sha256(text.as_bytes()).iter().take(CHECKSUM_CHARS).map(|byte| letter(byte % LETTERS)).collect();
    format!("{text}_{sum}")
}

/// Letters and digits, all equally likely: 43 of them hold 256 bits.
fn random_text(chars: usize) -> Result<String, ApiKeyFault> {
    let mut text = String::with_capacity(chars);
    while text.len() < chars {
        let bytes = random::drawn::<64>()?;
        // The last few values would make some letters likelier than others.
        let even = bytes.iter().filter(|byte| **byte < LETTERS.saturating_mul(4));
        text.extend(even.take(chars.saturating_sub(text.len())).map(|byte| letter(byte % LETTERS)));
    }
    Ok(text)
}

/// One of base62's letters.
fn letter(number: u8) -> char {
    char::from(match number {
        0..=9 => b'0'.saturating_add(number),
        10..=35 => b'A'.saturating_add(number.saturating_sub(10)),
        _ => b'a'.saturating_add(number.saturating_sub(36)),
    })
}

/// The gateway's copy of all keys.
#[derive(Debug)]
pub struct ApiKeys {
    store: Store,
    /// The resources of all endpoints, and those of single upstreams.
    everywhere: Vec<String>,
    root: String,
    known: ArcSwap<Known>,
    /// Grows when a key changed: what was verified under an older generation is verified again.
    generation: AtomicU64,
    read: watch::Sender<bool>,
    news: Mutex<News>,
}

/// What has changed since somebody asked.
#[derive(Debug, Default, Clone)]
struct News {
    /// The keys at the last reading that did not fail, and which of them were revoked; nothing before the first.
    seen: Option<HashMap<String, bool>>,
    changes: Vec<(&'static str, ApiKey)>,
}

impl News {
    fn note(&mut self, keys: &HashMap<String, ApiKey>) {
        let next = keys.iter().map(|(id, key)| (id.clone(), key.revoked_ms.is_some())).collect();
        // What was there when the process began is no news.
        let Some(before) = self.seen.replace(next) else { return };
        for (id, key) in keys {
            let state = match (before.get(id), key.revoked_ms) {
                (Some(false), Some(_)) => "revoked",
                (None, None) => "made",
                _ => continue,
            };
            self.changes.push((state, key.clone()));
        }
    }
}

#[derive(Debug, Default)]
struct Known {
    pepper: Option<hmac::Key>,
    keys: HashMap<String, ApiKey>,
    failure: Option<String>,
}

/// A key that is good now.
#[derive(Debug)]
pub(super) struct Shown {
    pub(super) identity: Identity,
    /// The resources that it is good for.
    pub(super) audiences: Vec<String>,
}

impl ApiKeys {
    /// Those in `store`, for the endpoints of `config`. None are known before they are read.
    #[must_use]
    pub fn new(config: &Config, store: Store) -> Self {
        let upstreams = config.upstreams.keys().cloned().map(Endpoint::Upstream);
        let endpoints = std::iter::once(Endpoint::Federated).chain(upstreams);
        Self::good_at(config.resource(&Endpoint::Federated), endpoints.map(|it| config.resource(&it)).collect(), store)
    }

    fn good_at(root: String, everywhere: Vec<String>, store: Store) -> Self {
        Self {
            store,
            everywhere,
            root,
            known: ArcSwap::from_pointee(Known { failure: Some("not read yet".to_owned()), ..Known::default() }),
            generation: AtomicU64::new(0),
            read: watch::Sender::new(false),
            news: Mutex::default(),
        }
    }

    /// Begins with what `before` knows.
    pub(super) fn inherit(&self, before: &Self) {
        self.known.store(before.known.load_full());
        self.read.send_replace(*before.read.borrow());
        *self.news.lock() = before.news.lock().clone();
    }

    /// Reads them again after every change, for as long as somebody else holds them.
    pub(super) fn keep(self: Arc<Self>) {
        let mut changed = self.store.changed();
        let held = Arc::downgrade(&self);
        drop(self);
        drop(tasks::background(async move {
            while let Some(keys) = held.upgrade() {
                changed.borrow_and_update();
                let failed = keys.refresh().await;
                drop(keys);
                let pause = if failed { RETRY } else { REFRESH };
                // Whichever comes first; neither is an error.
                drop(tokio::time::timeout(pause, changed.changed()).await);
                // The store is written for other things too: many writes are one reading.
                tokio::time::sleep(GATHERED).await;
            }
        }));
    }

    /// The generation that a verification happens under.
    pub(super) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Who shows `text`.
    pub(super) async fn check(&self, text: &str, now: Timestamp) -> Result<Shown, Refusal> {
        let id = id_of(text).ok_or(Refusal::TokenInvalid(TokenFault::Malformed))?;
        if !*self.read.borrow() {
            // A request that comes before the first reading waits for it; were it to fail, that is said below.
            drop(tokio::time::timeout(FIRST_READING, self.read.subscribe().wait_for(|read| *read)).await);
        }
        let known = self.known.load();
        if let Some(why) = &known.failure {
            return Err(Refusal::IdentityUnavailable(format!("API keys: {why}")));
        }
        let found = known.keys.get(id).zip(known.pepper.as_ref());
        let (key, _) = found
            .filter(|(key, pepper)| hmac::verify(pepper, text.as_bytes(), &key.mac).is_ok())
            .ok_or(Refusal::TokenInvalid(TokenFault::ApiKeyUnknown))?;
        match key.state(now) {
            "valid" => Ok(Shown { identity: key.identity(text), audiences: self.resources(key) }),
            "expired" => Err(Refusal::TokenInvalid(TokenFault::Expired)),
            _ => Err(Refusal::TokenInvalid(TokenFault::ApiKeyRevoked)),
        }
    }

    /// The keys that were made or revoked since this was asked.
    pub(super) fn changes(&self) -> Vec<(&'static str, ApiKey)> {
        std::mem::take(&mut self.news.lock().changes)
    }

    /// Whether the key with this id is revoked, as far as is known.
    pub(super) fn is_revoked(&self, id: &str) -> bool {
        self.known.load().keys.get(id).is_some_and(|key| key.revoked_ms.is_some())
    }

    fn resources(&self, key: &ApiKey) -> Vec<String> {
        let resource = |id: &String| UpstreamId::parse(id).map(|id| format!("{}/{id}", self.root));
        match &key.upstreams {
            None => self.everywhere.clone(),
            Some(upstreams) => upstreams.iter().filter_map(resource).collect(),
        }
    }

    /// One reading; says whether it failed. Where it fails nobody can tell what was revoked, so that no key is good.
    async fn refresh(&self) -> bool {
        let next = match read(&self.store).await {
            Ok(next) => next,
            Err(why) => {
                tracing::error!(why, "API keys cannot be read");
                Known { failure: Some(why), ..Known::default() }
            }
        };
        let failed = next.failure.is_some();
        if !failed {
            self.news.lock().note(&next.keys);
        }
        let before = self.known.load();
        let stands = !failed && before.keys.iter().all(|(id, key)| next.keys.get(id) == Some(key));
        drop(before);
        self.known.store(Arc::new(next));
        if !stands {
            tracing::info!(failed, "what is verified by API keys is verified again");
            self.generation.fetch_add(1, Ordering::AcqRel);
        }
        self.read.send_replace(true);
        failed
    }
}

async fn read(store: &Store) -> Result<Known, String> {
    let now = clock::now();
    let pepper = store.get(Place::ApiKey, PEPPER, now).await.map_err(|fault| fault.to_string())?;
    let keys = all(store, now).await.map_err(|fault| fault.to_string())?;
    Ok(Known {
        pepper: pepper.map(|bytes| hmac::Key::new(hmac::HMAC_SHA256, &bytes)),
        keys: keys.into_iter().map(|key| (key.id.clone(), key)).collect(),
        failure: None,
    })
}

/// Who vouches for the holders of keys: the gateway itself, under a name that no issuer can have, for theirs are URLs.
pub const ISSUER: &str = "urn:tollgate:keys";

/// For secret scanners, and for whoever finds a key in a place where it should not be.
const PREFIX: &str = "tgk_";

const ID_CHARS: usize = 12;

/// 32 bytes' worth in base62.
const SECRET_CHARS: usize = 43;

/// Enough to notice a key that was cut off or mistyped.
const CHECKSUM_CHARS: usize = 6;

/// Base62.
const LETTERS: u8 = 62;

const MAC_BYTES: usize = 32;
const PEPPER_BYTES: usize = 32;

/// The pepper's key in the store, where no key's id can be: it is sealed there like the records.
const PEPPER: &[u8] = b"pepper";

/// Valid at once for one user and agent: the old one and the new one of a rotation.
const VALID_MAX: usize = 2;

/// After its end a key is remembered as expired for so long.
const REMEMBERED: Duration = Duration::from_secs(30 * 86_400);

/// Without a change, keys are read again so often.
const REFRESH: Duration = Duration::from_secs(60);

/// After a failure.
const RETRY: Duration = Duration::from_secs(1);

/// Two readings are apart by this much at least.
const GATHERED: Duration = Duration::from_millis(100);

/// How long a request waits for the first reading.
const FIRST_READING: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::State;

    const fn at(ms: u64) -> Timestamp {
        Timestamp::from_unix_ms(ms)
    }

    fn order() -> Order {
        Order {
            user: Some("alice".to_owned()),
            agent: "cli".to_owned(),
            tenant: None,
            groups: vec!["b".to_owned(), "a".to_owned(), "b".to_owned()],
            scopes: Vec::new(),
            upstreams: None,
            life: Duration::from_secs(60),
        }
    }

    #[test]
    fn a_key_tells_its_id_and_whether_it_is_whole() {
        let text = written("0123456789ab", &"x".repeat(SECRET_CHARS));
        assert_eq!(id_of(&text), Some("0123456789ab"));
        for cut in 0..text.len() {
            assert_eq!(id_of(text.get(..cut).unwrap()), None, "{cut}");
        }
        for at in 0..text.len() {
            let mut typo = text.clone().into_bytes();
            typo[at] = if typo[at] == b'y' { b'z' } else { b'y' };
            assert_eq!(id_of(&String::from_utf8(typo).unwrap()), None, "{at}");
        }
        assert_eq!(id_of(&format!("{text}a")), None);
        assert_eq!((id_given(&text), id_given("0123456789ab")), (Ok("0123456789ab"), Ok("0123456789ab")));
        for mistyped in [format!("{text}a"), text.replacen("tgk_", "tkg_", 1)] {
            assert_eq!(id_given(&mistyped), Err(ApiKeyFault::NotWhole("0123456789ab".to_owned())), "no secret in it");
        }
        assert_eq!(id_of(&format!("{text}_a")), None);
    }

    #[test]
    fn random_text_is_of_all_letters() {
        let text = random_text(20_000).unwrap();
        let mut seen: Vec<char> = text.chars().collect();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), 62);
        assert_ne!(random_text(SECRET_CHARS).unwrap(), random_text(SECRET_CHARS).unwrap());
    }

    #[tokio::test]
    async fn two_keys_of_one_principal_are_valid_at_once_and_the_store_holds_neither() {
        let store = Store::open(&State::default()).unwrap();
        let (text, first) = make(&store, order(), at(0)).await.unwrap();
        let (_, second) = make(&store, order(), at(0)).await.unwrap();
        assert_eq!(first.groups, ["a", "b"]);
        let mut ids = vec![first.id.clone(), second.id.clone()];
        ids.sort_unstable();
        assert_eq!(make(&store, order(), at(0)).await.unwrap_err(), ApiKeyFault::TwoValid(ids));
        make(&store, Order { user: None, ..order() }, at(0)).await.unwrap();
        assert_eq!(revoke(&store, &first.id, at(5)).await.unwrap().state(at(5)), "revoked");
        assert_eq!(revoke(&store, &first.id, at(9)).await.unwrap().revoked_ms, Some(5));
        make(&store, order(), at(5)).await.unwrap();
        // Expired, they make room too.
        make(&store, order(), at(60_005)).await.unwrap();
        for unknown in ["nobody", "pepper"] {
            assert_eq!(revoke(&store, unknown, at(0)).await, Err(ApiKeyFault::Unknown(unknown.to_owned())));
        }
        for (_, bytes) in store.all(Place::ApiKey, at(0)).await.unwrap() {
            assert!(!String::from_utf8_lossy(&bytes).contains(text.expose()));
        }
        let wrong = Order { agent: "a\nb".to_owned(), ..order() };
        assert!(matches!(make(&store, wrong, at(0)).await, Err(ApiKeyFault::NotAName(_))));
        let wrong = Order { scopes: vec!["a b".to_owned()], ..order() };
        assert!(matches!(make(&store, wrong, at(0)).await, Err(ApiKeyFault::NotAName(_))));
    }
    fn keys(store: &Store) -> ApiKeys {
        let at = |path: &str| format!("https://gw.example/mcp{path}");
        ApiKeys::good_at(at(""), vec![at(""), at("/crm"), at("/notes")], store.clone())
    }

    #[tokio::test]
    async fn a_key_is_good_for_its_holder_its_endpoints_and_its_time() {
        let store = Store::open(&State::default()).unwrap();
        let start = clock::now();
        let limited = Order { upstreams: Some(vec!["crm".to_owned()]), user: None, ..order() };
        let (anywhere, record) = make(&store, order(), start).await.unwrap();
        let (crm, _) = make(&store, limited, start).await.unwrap();
        let keys = keys(&store);
        assert!(!keys.refresh().await);
        let shown = keys.check(anywhere.expose(), start).await.unwrap();
        assert_eq!(shown.audiences, ["", "/crm", "/notes"].map(|path| format!("https://gw.example/mcp{path}")));
        let identity = shown.identity;
        assert_eq!(identity.user, Some(User { issuer: ISSUER.to_owned(), subject: "alice".to_owned() }));
        assert_eq!((identity.authentication.method, identity.agent.client_id.as_str()), (API_KEY, "cli"));
        assert_eq!(identity.authentication.token_id, Some(record.id.clone()));
        let machine = keys.check(crm.expose(), start).await.unwrap();
        assert_eq!((machine.identity.user, machine.audiences), (None, vec!["https://gw.example/mcp/crm".to_owned()]));

        let refused = async |text: &str, now| keys.check(text, now).await.map(drop).unwrap_err();
        let end = Timestamp::from_unix_ms(record.expires_ms);
        assert_eq!(refused(anywhere.expose(), end).await, Refusal::TokenInvalid(TokenFault::Expired));
        // The id of one and the secret of another, well written.
        let mixed = written(&record.id, &"x".repeat(SECRET_CHARS));
        assert_eq!(refused(&mixed, start).await, Refusal::TokenInvalid(TokenFault::ApiKeyUnknown));
        let unknown = written("0123456789ab", &"x".repeat(SECRET_CHARS));
        assert_eq!(refused(&unknown, start).await, Refusal::TokenInvalid(TokenFault::ApiKeyUnknown));

        let before = keys.generation();
        assert!(!keys.refresh().await);
        assert_eq!(keys.generation(), before, "nothing changed");
        revoke(&store, &record.id, start).await.unwrap();
        assert!(!keys.refresh().await);
        assert_eq!(refused(anywhere.expose(), start).await, Refusal::TokenInvalid(TokenFault::ApiKeyRevoked));
        assert!(keys.generation() > before, "what was verified before is verified again");

        // What cannot be read is nobody's key, and the others stay.
        let broken = async |id: &[u8]| {
            store.put(Place::ApiKey, id, Value { bytes: b"{}".to_vec(), until: None }, start).await.unwrap();
            assert!(!keys.refresh().await);
        };
        broken(b"broken").await;
        assert!(keys.check(crm.expose(), start).await.is_ok());
        broken(id_of(crm.expose()).unwrap().as_bytes()).await;
        assert_eq!(refused(crm.expose(), start).await, Refusal::TokenInvalid(TokenFault::ApiKeyUnknown));
        broken(PEPPER).await;
        assert_eq!(refused(anywhere.expose(), start).await, Refusal::TokenInvalid(TokenFault::ApiKeyUnknown));
    }
}
