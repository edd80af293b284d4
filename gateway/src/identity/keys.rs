//! Which keys does an issuer sign with now?
//!
//! One [`Keys`] an issuer: read in the background, read again on demand within a budget, and kept when the issuer is
//! away. All fetching is done by one task, so that no flood of tokens can make two fetches at once, and demand has a
//! budget apart from the background's, of which one site has a share, so that no flood can starve a rotation.
//! It does not verify tokens.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use jsonwebtoken::Algorithm;
use parking_lot::Mutex;
use quick_cache::sync::Cache;
use tokio::sync::{Notify, watch};

use super::{
    discovery,
    keyset::{Found, Key, KeySet},
};
use crate::{
    clock::{self, Timestamp},
    config::Issuer,
    egress::Client,
    random::jittered,
    refusal::{Refusal, TokenFault},
    state::Site,
    tasks,
    telemetry::metrics,
};

/// Time between two readings in the background; a tenth more or less, so that replicas do not ask together.
const REFRESH: Duration = Duration::from_secs(300);
/// Time between two readings that tokens with an unknown `kid` may cause which come from one site.
const DEMAND_FLOOR: Duration = Duration::from_secs(10);
/// The same for all sites together: whoever shows a new key first need not wait for who makes keys up.
const DEMAND_REST: Duration = Duration::from_secs(2);
/// The first wait after a failure while there are no keys at all; doubles up to [`DEMAND_FLOOR`].
const RETRY: Duration = Duration::from_millis(500);
/// Keys of an issuer that is away are believed so long.
const STALE_MAX: Duration = Duration::from_secs(24 * 3600);
/// A `kid` that the issuer did not know a moment ago is not asked for again so soon.
const UNKNOWN_MEMORY: Duration = Duration::from_secs(60);
/// `kid`s remembered as unknown.
const UNKNOWN_MAX: usize = 1024;
/// How long one request waits for a reading: discovery at three places and the set take longer only in trouble.
const WAIT_MAX: Duration = Duration::from_secs(5);

/// The keys of one issuer.
#[derive(Debug)]
pub(super) struct Keys {
    /// Whose.
    pub(super) issuer: Arc<Issuer>,
    /// How they are read, and what the issuer's metadata names; not at all where they are given: the gateway's own.
    clients: Option<(Client, Client)>,
    known: ArcSwap<Known>,
    /// Grows when a key vanished: what was verified under an older generation is verified again.
    generation: AtomicU64,
    /// Each with the site that it was shown from: nobody makes another's key unknown by naming it first. Those that the issuer
    /// itself took away have none.
    unknown: Cache<(Option<Site>, String), Timestamp>,
    /// The readings of late that were demanded, each by a site; the rest between two bounds them.
    demanded: Mutex<Vec<(Option<Site>, Timestamp)>>,
    wanted: AtomicU64,
    wake: Notify,
    done: watch::Sender<u64>,
    fetches: AtomicU64,
}

#[derive(Debug, Default)]
struct Known {
    keys: Arc<KeySet>,
    read_at: Option<Timestamp>,
    failure: Option<String>,
}

/// What an operator sees of an issuer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IssuerStatus {
    /// Which.
    pub issuer: String,
    /// How many keys are known; none means that its tokens cannot be checked.
    pub keys: usize,
    /// When they were read.
    pub read_at: Option<Timestamp>,
    /// Why the last reading failed, if it did.
    pub failure: Option<String>,
    /// Readings so far.
    pub fetches: u64,
}

impl Keys {
    pub(super) fn new(issuer: Arc<Issuer>, clients: Option<(Client, Client)>) -> Self {
        Self {
            issuer,
            clients,
            known: ArcSwap::default(),
            generation: AtomicU64::new(0),
            unknown: Cache::new(UNKNOWN_MAX),
            demanded: Mutex::default(),
            // The first reading is wanted from the start: requests that come before its end wait for it.
            wanted: AtomicU64::new(1),
            wake: Notify::new(),
            done: watch::Sender::new(0),
            fetches: AtomicU64::new(0),
        }
    }

    /// Takes keys that nobody has to read.
    pub(super) fn give(&self, document: &[u8], now: Timestamp) -> Result<(), &'static str> {
        let keys = KeySet::read(document, &self.issuer.algorithms)?;
        self.replace(keys, now);
        Ok(())
    }

    /// Begins with what `before` knows, for as long as that lasts.
    pub(super) fn inherit(&self, before: &Self) {
        self.known.store(before.known.load_full());
    }

    /// Reads keys for as long as somebody else holds them: a changed configuration has keys of its own.
    pub(super) fn keep(self: Arc<Self>) {
        if self.clients.is_none() {
            return;
        }
        let held = Arc::downgrade(&self);
        drop(tasks::background(async move {
            let mut retry = RETRY;
            while let Some(keys) = held.upgrade() {
                let wanted = keys.wanted.load(Ordering::Acquire);
                keys.read().await;
                keys.done.send_replace(wanted);
                let pause = if keys.known.load().failure.is_none() {
                    retry = RETRY;
                    jittered(REFRESH)
                } else if keys.usable(clock::now()) {
                    jittered(DEMAND_FLOOR)
                } else {
                    retry = retry.saturating_mul(2).min(DEMAND_FLOOR);
                    jittered(retry)
                };
                // Whichever comes first; neither is an error.
                drop(tokio::time::timeout(pause, keys.wake.notified()).await);
            }
        }));
    }

    /// The generation that a verification happens under.
    pub(super) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Runs `use_key` with the key for a token's header, reading the issuer's keys again where that may help. The token came
    /// from `site`, or from nobody who could make one up.
    pub(super) async fn with_key<R>(
        &self,
        (id, algorithm): (Option<&str>, Algorithm),
        site: Option<Site>,
        now: Timestamp,
        use_key: impl Fn(&Key) -> R,
    ) -> Result<R, Refusal> {
        let first = match self.look(id, algorithm, now) {
            Look::Found(keys) => return settle(keys.find(id, algorithm), use_key),
            Look::Missing(why) => why,
        };
        let memory = (site, id.unwrap_or_default().to_owned());
        let is_known_unknown =
            |memory: &(Option<Site>, String)| self.unknown.get(memory).is_some_and(|until| now < until);
        let remembered = is_known_unknown(&memory);
        // What the issuer took away may have been there a moment ago by a reading that was out of date: it is read again, and
        // where it cannot be, the word of the last reading counts.
        let is_gone = is_known_unknown(&(None, memory.1.clone()));
        // Keys that are given are all there are.
        if self.clients.is_none() || remembered && first == UNKNOWN_KEY {
            return Err(first);
        }
        match self.reread(site, now).await {
            Some(true) => {}
            // It may be a key of the issuer all the same.
            Some(false) => return Err(self.unavailable("not read in time")),
            None if first == UNKNOWN_KEY && !is_gone => {
                return Err(self.unavailable("read for unknown keys a moment ago"));
            }
            None => return Err(first),
        }
        match self.look(id, algorithm, now) {
            Look::Found(keys) => settle(keys.find(id, algorithm), use_key),
            Look::Missing(why) => {
                if why == UNKNOWN_KEY && site.is_some() {
                    self.unknown.insert(memory, now.plus(UNKNOWN_MEMORY));
                }
                Err(why)
            }
        }
    }

    /// Whether the issuer is the gateway itself, which never lacks its keys.
    pub(super) const fn is_own(&self) -> bool {
        self.clients.is_none()
    }

    /// Whether tokens of this issuer can be checked.
    pub(super) fn usable(&self, now: Timestamp) -> bool {
        let known = self.known.load();
        known.read_at.is_some_and(|read_at| now.since(read_at) <= STALE_MAX)
    }

    /// For the operator.
    pub(super) fn status(&self) -> IssuerStatus {
        let known = self.known.load();
        IssuerStatus {
            issuer: self.issuer.issuer.clone(),
            keys: known.keys.len(),
            read_at: known.read_at,
            failure: known.failure.clone(),
            fetches: self.fetches.load(Ordering::Relaxed),
        }
    }

    fn look(&self, id: Option<&str>, algorithm: Algorithm, now: Timestamp) -> Look {
        if !self.usable(now) {
            return Look::Missing(self.unavailable(self.known.load().failure.as_deref().unwrap_or("no keys yet")));
        }
        let known = self.known.load();
        match (known.keys.find(id, algorithm), &known.failure) {
            (Found::Key(_) | Found::OtherAlgorithm, _) => Look::Found(Arc::clone(&known.keys)),
            (Found::Nothing, None) => Look::Missing(UNKNOWN_KEY),
            // It may be newer than what could be read: no word against the token.
            (Found::Nothing, Some(why)) => Look::Missing(self.unavailable(why)),
        }
    }

    fn unavailable(&self, why: &str) -> Refusal {
        Refusal::IdentityUnavailable(format!("keys of `{}`: {why}", self.issuer.issuer))
    }

    /// Waits for a reading that began after this call or is under way, and says whether it ended; nothing where the budget
    /// has none.
    async fn reread(&self, site: Option<Site>, now: Timestamp) -> Option<bool> {
        let mut done = self.done.subscribe();
        let under_way = self.wanted.load(Ordering::Acquire);
        let ticket = if *done.borrow() < under_way {
            under_way
        } else if self.demand(site, now) {
            let ticket = self.wanted.fetch_add(1, Ordering::AcqRel).saturating_add(1);
            self.wake.notify_one();
            ticket
        } else {
            return None;
        };
        let ended = tokio::time::timeout(WAIT_MAX, done.wait_for(|finished| *finished >= ticket)).await;
        Some(ended.is_ok_and(|end| end.is_ok()))
    }

    /// Takes a reading for `site`, where there is one.
    fn demand(&self, site: Option<Site>, now: Timestamp) -> bool {
        let mut demanded = self.demanded.lock();
        demanded.retain(|(_, at)| now.since(*at) < DEMAND_FLOOR);
        let rested = |(whose, at): &(Option<Site>, Timestamp)| {
            now.since(*at) >= DEMAND_REST && (site.is_none() || *whose != site)
        };
        let free = demanded.iter().all(rested);
        if free {
            demanded.push((site, now));
        }
        free
    }

    /// One reading. Keys are replaced only by keys: a failure leaves the last good ones.
    async fn read(&self) {
        let Some((client, outside)) = &self.clients else { return };
        self.fetches.fetch_add(1, Ordering::Relaxed);
        let outcome = discovery::keys((client, outside), &self.issuer).await;
        let word = if outcome.is_ok() { "ok" } else { "failed" };
        metrics().key_fetches.with([&self.issuer.issuer, word]).increment();
        let known = self.known.load_full();
        match outcome {
            Ok(keys) => self.replace(keys, clock::now()),
            Err(why) => {
                tracing::warn!(issuer = self.issuer.issuer, why, "issuer keys not read");
                self.known.store(Arc::new(Known {
                    keys: Arc::clone(&known.keys),
                    read_at: known.read_at,
                    failure: Some(why),
                }));
            }
        }
    }
}

impl Keys {
    fn replace(&self, keys: KeySet, now: Timestamp) {
        let before = self.known.load_full();
        let vanished = !before.keys.is_kept_by(&keys);
        for id in before.keys.gone_from(&keys) {
            self.unknown.insert((None, id.to_owned()), now.plus(UNKNOWN_MEMORY));
        }
        self.known.store(Arc::new(Known { keys: Arc::new(keys), read_at: Some(now), failure: None }));
        if vanished {
            self.generation.fetch_add(1, Ordering::AcqRel);
        }
    }
}

enum Look {
    Found(Arc<KeySet>),
    Missing(Refusal),
}

const UNKNOWN_KEY: Refusal = Refusal::TokenInvalid(TokenFault::KeyUnknown);

fn settle<R>(found: Found<'_>, use_key: impl Fn(&Key) -> R) -> Result<R, Refusal> {
    match found {
        Found::Key(key) => Ok(use_key(key)),
        Found::OtherAlgorithm => Err(Refusal::TokenInvalid(TokenFault::AlgorithmNotAllowed)),
        Found::Nothing => Err(UNKNOWN_KEY),
    }
}
