//! Is there room for one more connection?
//!
//! Counts connections, over all and by peer address. It does not know what is spoken on them.

use std::{collections::HashMap, net::IpAddr, sync::Arc};

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{state::Site, telemetry::metrics};

/// All the room there is.
#[derive(Debug)]
pub(super) struct Seats {
    free: Arc<Semaphore>,
    all: u32,
    by_peer_max: usize,
    by_peer: Mutex<HashMap<Site, usize>>,
}

/// Room for one connection, until dropped.
#[derive(Debug)]
pub(super) struct Seat {
    seats: Arc<Seats>,
    peer: Site,
    _permit: OwnedSemaphorePermit,
}

impl Seats {
    /// Room for `connections_max`.
    pub(super) fn new(connections_max: usize) -> Arc<Self> {
        let all = u32::try_from(connections_max.clamp(1, Semaphore::MAX_PERMITS)).unwrap_or(u32::MAX);
        let places = usize::try_from(all).unwrap_or(connections_max);
        Arc::new(Self {
            free: Arc::new(Semaphore::new(places)),
            all,
            by_peer_max: places.div_ceil(PEER_SHARE),
            by_peer: Mutex::new(HashMap::new()),
        })
    }

    /// A seat for a connection from `peer`, if there is one.
    pub(super) fn take(self: &Arc<Self>, peer: IpAddr) -> Option<Seat> {
        let permit = Arc::clone(&self.free).try_acquire_owned().ok()?;
        let peer = Site::of(peer);
        let mut by_peer = self.by_peer.lock();
        let count = by_peer.entry(peer).or_insert(0);
        if *count >= self.by_peer_max {
            return None;
        }
        *count = count.saturating_add(1);
        drop(by_peer);
        metrics().connections.increment();
        Some(Seat { seats: Arc::clone(self), peer, _permit: permit })
    }

    /// Waits until every seat is free. Nobody gets a seat while this waits.
    pub(super) async fn empty(&self) {
        // The semaphore is never closed, so there is no other outcome than all permits.
        drop(self.free.acquire_many(self.all).await);
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        metrics().connections.decrement();
        let mut by_peer = self.seats.by_peer.lock();
        let left = by_peer.get(&self.peer).copied().unwrap_or(0).saturating_sub(1);
        if left == 0 {
            by_peer.remove(&self.peer);
        } else {
            by_peer.insert(self.peer, left);
        }
    }
}

/// One peer gets at most this part of the seats: a single source must not shut all others out, and a single proxy in
/// front of the gateway, which looks like one peer, must not be choked either.
const PEER_SHARE: usize = 2;

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_peer_gets_half_and_all_together_no_more_than_all() {
        let seats = Seats::new(4);
        let [a, b, c]: [IpAddr; 3] = ["10.0.0.1", "2001:db8::1", "2001:db8:0:1::1"].map(|text| text.parse().unwrap());
        let held = [seats.take(a).unwrap(), seats.take(a).unwrap()];
        assert!(seats.take(a).is_none());
        let same_site: IpAddr = "2001:db8::2".parse().unwrap();
        let others = [seats.take(b).unwrap(), seats.take(same_site).unwrap()];
        assert!(seats.take(c).is_none(), "all four are taken");
        drop(held);
        assert!(seats.take(same_site).is_none(), "two of one /64 are there already");
        let last = seats.take(c).unwrap();
        drop((others, last));
        seats.empty().await;
        assert!(seats.by_peer.lock().is_empty());
    }
}
