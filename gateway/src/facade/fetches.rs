//! May a host that a stranger named be asked now?
//!
//! One question at a time about each address, so many at once, and of these a part for one site, however slow the hosts are
//! that it names. It asks nothing itself, and keeps no answer.

use std::{
    collections::HashMap,
    fmt,
    net::IpAddr,
    sync::{Arc, Weak},
};

use parking_lot::Mutex;
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::{
    clock::Timestamp,
    digest::name_of,
    refusal::Refusal,
    state::{Rates, Site, Take, Taken},
};

/// What is fetched of one kind.
pub(super) struct Fetches {
    kind: &'static str,
    /// Whose turn it is to ask.
    turns: Mutex<HashMap<String, Weak<Turn>>>,
    /// How many ask at once, and for which sites.
    places: Semaphore,
    sites: Rates,
}

/// Who waits for it finds what the one before fetched.
pub(super) type Turn = tokio::sync::Mutex<()>;

impl fmt::Debug for Fetches {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Fetches").field("kind", &self.kind).finish_non_exhaustive()
    }
}

impl Fetches {
    pub(super) fn new(kind: &'static str) -> Self {
        let (places, sites) = (Semaphore::new(FETCHES_MAX), Rates::new(SITES_MAX));
        Self { kind, turns: Mutex::default(), places, sites }
    }

    /// The turn to ask about this address.
    pub(super) fn turn(&self, address: &str) -> Arc<Turn> {
        let mut turns = self.turns.lock();
        if let Some(turn) = turns.get(address).and_then(Weak::upgrade) {
            return turn;
        }
        turns.retain(|_, turn| turn.strong_count() > 0);
        let turn = Arc::default();
        turns.insert(address.to_owned(), Arc::downgrade(&turn));
        turn
    }

    /// Room for one more, for whoever comes from there.
    pub(super) fn room(&self, peer: IpAddr, now: Timestamp) -> Result<(Taken, SemaphorePermit<'_>), Refusal> {
        let key = name_of(self.kind, &[&Site::of(peer).to_string()]);
        let take = Take { key, rate: None, in_flight: Some(SITE_FETCHES_MAX) };
        let share = self.sites.take(&[take], now).map_err(|_exhausted| Refusal::Overloaded(self.kind))?;
        let place = self.places.try_acquire().map_err(|_full| Refusal::Overloaded(self.kind))?;
        Ok((share, place))
    }
}

/// Fetches at once.
const FETCHES_MAX: usize = 16;
/// Of these, one site has so many at most.
const SITE_FETCHES_MAX: u32 = 4;
/// Sites that are counted; each has a fetch going on.
const SITES_MAX: usize = 4096;
