//! Which credentials are there already, and which are being fetched right now?
//!
//! The cache, the memory of failures, and one flight a key: however many calls want a credential, it is asked for once.
//! It does not know how a credential is obtained, and no lock of it is held while somebody waits.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use quick_cache::{Weighter, sync::Cache};
use tokio::sync::watch;

use super::{
    FAILURES_MAX, FLIGHTS_MAX, GRANT_BYTES_MAX, GRANTS_EXPECTED, REFUSED_FOR, UNAVAILABLE_FOR, WAIT_MAX,
    grant::{GrantKey, Minted},
};
use crate::{
    clock::{self, Timestamp},
    identity::revocation::Revocations,
    refusal::Refusal,
    tasks,
};

/// What a key resolves to.
pub(super) type Slot = [u8; 32];

/// What a flight lands with.
type Landed = Option<Result<Arc<Minted>, Refusal>>;

/// A credential, and whether it was minted for whoever gets it here.
pub(super) type Obtained = (Arc<Minted>, bool);

/// Credentials by key.
#[derive(Debug)]
pub(super) struct Flights {
    grants: Cache<Slot, Arc<Minted>, ByBytes>,
    failures: Cache<Slot, Failure>,
    under_way: Mutex<HashMap<Slot, watch::Receiver<Landed>>>,
    /// Which credentials are not to be used any more.
    pub(super) revocations: Revocations,
    generations: AtomicU64,
}

#[derive(Debug, Clone)]
struct Failure {
    refusal: Refusal,
    until: Timestamp,
}

/// A token may have any length up to 16 KiB, so the cache is bounded by bytes.
#[derive(Debug, Clone)]
struct ByBytes;

impl Weighter<Slot, Arc<Minted>> for ByBytes {
    fn weight(&self, _slot: &Slot, minted: &Arc<Minted>) -> u64 {
        let header = minted.header.as_ref().map_or(0, |(_, value)| value.len());
        u64::try_from(header).unwrap_or(u64::MAX).saturating_add(FACTS_BYTES)
    }
}

/// A flight's entry; dropping it makes room for the next flight, also where a task dies.
struct Berth {
    flights: Arc<Flights>,
    slot: Slot,
}

impl Drop for Berth {
    fn drop(&mut self) {
        self.flights.under_way.lock().remove(&self.slot);
    }
}

impl Flights {
    pub(super) fn new(revocations: Revocations) -> Arc<Self> {
        Arc::new(Self {
            grants: Cache::with_weighter(GRANTS_EXPECTED, GRANT_BYTES_MAX, ByBytes),
            failures: Cache::new(FAILURES_MAX),
            under_way: Mutex::new(HashMap::new()),
            revocations,
            generations: AtomicU64::new(1),
        })
    }

    /// A number that no credential of this process had before.
    pub(super) fn generation(&self) -> u64 {
        self.generations.fetch_add(1, Ordering::Relaxed)
    }

    /// The credential under `slot`, where it may still be used.
    pub(super) fn ready(&self, slot: &Slot, now: Timestamp) -> Option<Arc<Minted>> {
        self.grants.get(slot).filter(|minted| now < minted.usable_until)
    }

    /// Forgets what is under `slot`, whichever it is.
    pub(super) fn clear(&self, slot: &Slot) {
        self.grants.remove(slot);
    }

    /// The digest of the credential that `key` names, where that is still there.
    pub(super) fn digest(&self, key: &GrantKey) -> Option<String> {
        let minted = self.grants.get(&key.slot).filter(|minted| minted.generation == key.generation)?;
        minted.facts.token_digest.clone()
    }

    /// Forgets one credential, and no newer one in its place.
    pub(super) fn forget(&self, key: &GrantKey) {
        let _gone = self.grants.remove_if(&key.slot, |minted| minted.generation == key.generation);
    }

    /// The credential under `slot`, from `fetch` if need be. The flight is a task of its own: a waiter that leaves, leaves
    /// alone. Refusals concern this slot only, so that no failing caller stands in the way of another.
    pub(super) async fn obtain<F>(self: &Arc<Self>, slot: Slot, now: Timestamp, fetch: F) -> Result<Obtained, Refusal>
    where
        F: Future<Output = Result<Arc<Minted>, Refusal>> + Send + 'static,
    {
        let (mut landing, own) = match self.board(slot, now, fetch)? {
            Boarded::Ready(minted) => return Ok((minted, false)),
            Boarded::Waiting(landing, own) => (landing, own),
        };
        let landed = tokio::time::timeout(WAIT_MAX, landing.wait_for(Option::is_some)).await;
        match landed {
            Ok(Ok(landed)) => {
                let landed = landed.clone().unwrap_or(Err(Refusal::Bug("a flight landed with nothing")));
                landed.map(|minted| (minted, own))
            }
            // The task died: a panic, which `tasks` keeps from going further.
            Ok(Err(_closed)) => Err(Refusal::Bug("a flight was lost")),
            Err(_elapsed) => Err(Refusal::GrantUnavailable("no answer in time".to_owned())),
        }
    }

    fn board<F>(self: &Arc<Self>, slot: Slot, now: Timestamp, fetch: F) -> Result<Boarded, Refusal>
    where
        F: Future<Output = Result<Arc<Minted>, Refusal>> + Send + 'static,
    {
        if let Some(failure) = self.failures.get(&slot).filter(|failure| now < failure.until) {
            return Err(failure.refusal);
        }
        let mut under_way = self.under_way.lock();
        if let Some(landing) = under_way.get(&slot) {
            return Ok(Boarded::Waiting(landing.clone(), false));
        }
        // A flight that landed after the caller looked has left its credential before it gave up its berth.
        if let Some(minted) = self.ready(&slot, now) {
            return Ok(Boarded::Ready(minted));
        }
        if under_way.len() >= FLIGHTS_MAX {
            return Err(Refusal::Overloaded("credentials being obtained"));
        }
        let (landed, landing) = watch::channel(None);
        under_way.insert(slot, landing.clone());
        drop(under_way);
        let berth = Berth { flights: Arc::clone(self), slot };
        let began = clock::instant();
        tasks::background(async move {
            let outcome = fetch.await;
            let landed_at = now.plus(clock::instant().duration_since(began));
            berth.flights.keep(slot, &outcome, landed_at);
            drop(berth);
            landed.send_replace(Some(outcome));
        });
        Ok(Boarded::Waiting(landing, true))
    }

    fn keep(&self, slot: Slot, outcome: &Result<Arc<Minted>, Refusal>, now: Timestamp) {
        match outcome {
            Ok(minted) if now < minted.usable_until => self.grants.insert(slot, Arc::clone(minted)),
            Ok(_) => {}
            Err(refusal) => {
                if let Some(span) = remembered_for(refusal) {
                    self.failures.insert(slot, Failure { refusal: refusal.clone(), until: now.plus(span) });
                }
            }
        }
    }
}

enum Boarded {
    Ready(Arc<Minted>),
    /// And whether the flight is one's own.
    Waiting(watch::Receiver<Landed>, bool),
}

/// How long an answer "no" stands in for the next question.
fn remembered_for(refusal: &Refusal) -> Option<Duration> {
    if matches!(refusal, Refusal::GrantRefused(_) | Refusal::GrantNeedsLogin(..)) {
        return Some(REFUSED_FOR);
    }
    matches!(refusal, Refusal::GrantUnavailable(_)).then_some(UNAVAILABLE_FOR)
}

/// What an entry costs besides its header: the struct, its facts and the cache's own.
const FACTS_BYTES: u64 = 512;
