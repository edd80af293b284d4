//! Which lasting connection to an upstream is this message for?
//!
//! A process or a stream that carries many messages is a link; a session is one link, by name. It bounds them, in all and
//! for each owner, and lets go of the least used. What a link is made of is known to the transport.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use http::HeaderValue;
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use super::{routes::Routes, session::OWN};

/// One lasting connection. It ends when nobody holds it any more, or when told to.
#[derive(Debug)]
pub(super) struct Link<W> {
    number: u64,
    owner: [u8; 32],
    /// Who waits for what comes over it.
    pub(super) routes: Arc<Routes>,
    /// The way out.
    pub(super) way: W,
    end: watch::Sender<bool>,
}

impl<W> Link<W> {
    /// The link as a session's name.
    pub(super) fn name(&self) -> HeaderValue {
        HeaderValue::from(self.number)
    }

    /// Tells it to end.
    pub(super) fn end(&self) {
        self.end.send_replace(true);
    }
}

/// Says when a link is to end: told to, or let go of.
#[derive(Debug, Clone)]
pub(super) struct Ending(watch::Receiver<bool>);

impl Ending {
    pub(super) async fn come(&mut self) {
        // An error says that the link is gone, which is the same.
        drop(self.0.wait_for(|ended| *ended).await);
    }
}

/// Room for one link, held by whoever is connected.
#[derive(Debug)]
pub(super) struct Seat {
    owner: [u8; 32],
    /// Given back in this order: whoever waits for the last of them finds the others.
    _room: Vec<OwnedSemaphorePermit>,
}

/// The links to one upstream.
#[derive(Debug)]
pub(super) struct Links<W> {
    open: Mutex<BTreeMap<u64, Arc<Link<W>>>>,
    numbers: AtomicU64,
    seats: Arc<Semaphore>,
    /// All but one, which is left for the gateway itself: what nobody can find is no use to anybody.
    callers: Arc<Semaphore>,
    /// What each caller may have of those.
    shares: Mutex<HashMap<[u8; 32], Arc<Semaphore>>>,
    max: usize,
}

impl<W> Links<W> {
    pub(super) fn new(max: usize) -> Arc<Self> {
        let [seats, callers] = [max, max.saturating_sub(1)].map(|bound| Arc::new(Semaphore::new(bound)));
        let (open, shares) = (Mutex::default(), Mutex::default());
        Arc::new(Self { open, numbers: AtomicU64::new(1), seats, callers, shares, max })
    }

    /// The link with this name, if it is still there.
    pub(super) fn find(&self, name: &HeaderValue) -> Option<Arc<Link<W>>> {
        let number = name.to_str().ok()?.parse().ok()?;
        self.open.lock().get(&number).cloned()
    }

    /// Room for one more link of `owner`. The least used that nobody waits on goes for it: their own, where they have their
    /// share already.
    ///
    /// # Errors
    /// The bound that it met.
    pub(super) async fn seat(&self, owner: [u8; 32], within: Duration) -> Result<Seat, usize> {
        let (mut room, who) = (Vec::with_capacity(3), (owner, within));
        if owner != OWN {
            let own = self.share_of(owner);
            room.push(self.take((&own, self.share()), who, |link| link.owner == owner).await?);
            let bound = self.max.saturating_sub(1);
            room.push(self.take((&self.callers, bound), who, |link| link.owner != OWN).await?);
        }
        room.push(self.take((&self.seats, self.max), who, |_| true).await?);
        room.reverse();
        Ok(Seat { owner, _room: room })
    }

    async fn take(
        &self,
        (seats, bound): (&Arc<Semaphore>, usize),
        (owner, within): ([u8; 32], Duration),
        counts: impl Fn(&Link<W>) -> bool,
    ) -> Result<OwnedSemaphorePermit, usize> {
        if let Ok(seat) = Arc::clone(seats).try_acquire_owned() {
            return Ok(seat);
        }
        let (unused, at_work) = {
            let mut open = self.open.lock();
            let at_work = open.values().filter(|link| counts(link)).count();
            let idle = open.values().filter(|link| counts(link) && link.routes.is_idle());
            let least = idle.min_by_key(|link| (link.owner != owner, link.routes.last_used())).map(|link| link.number);
            (least.and_then(|number| open.remove(&number)), at_work)
        };
        match unused {
            Some(unused) => unused.end(),
            None if at_work >= bound => return Err(bound),
            // Somebody is leaving, or has yet to begin.
            None => {}
        }
        match tokio::time::timeout(within, Arc::clone(seats).acquire_owned()).await {
            Ok(Ok(seat)) => Ok(seat),
            Ok(Err(_)) | Err(_) => Err(bound),
        }
    }

    /// Links of one caller.
    const fn share(&self) -> usize {
        self.max.div_ceil(SHARES)
    }

    fn share_of(&self, owner: [u8; 32]) -> Arc<Semaphore> {
        let mut shares = self.shares.lock();
        shares.retain(|_owner, seats| Arc::strong_count(seats) > 1); // somebody has of it, or waits for it
        Arc::clone(shares.entry(owner).or_insert_with(|| Arc::new(Semaphore::new(self.share()))))
    }

    /// A new link, known by its name from now on.
    pub(super) fn open(&self, seat: &Seat, routes: Arc<Routes>, way: W) -> (Arc<Link<W>>, Ending) {
        let (end, ending) = watch::channel(false);
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        let link = Arc::new(Link { number, owner: seat.owner, routes, way, end });
        self.open.lock().insert(number, Arc::clone(&link));
        (link, Ending(ending))
    }

    /// The link has ended.
    pub(super) fn forget(&self, name: &HeaderValue) {
        if let Some(number) = name.to_str().ok().and_then(|name| name.parse().ok()) {
            self.open.lock().remove(&number);
        }
    }

    /// Ends the link with this name.
    pub(super) fn end(&self, name: Option<&HeaderValue>) {
        if let Some(link) = name.and_then(|name| self.find(name)) {
            link.end();
        }
    }

    /// Ends all links, and waits until they have let go of their seats.
    pub(super) async fn close(&self) {
        let open = std::mem::take(&mut *self.open.lock());
        open.into_values().for_each(|link| link.end());
        let all = u32::try_from(self.max).unwrap_or(u32::MAX);
        drop(self.seats.acquire_many(all).await);
        self.seats.close();
    }
}

/// A caller may have this part of all links.
const SHARES: usize = 4;

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use super::{Ending, Link, Links, OWN, Seat};
    use crate::{
        config::UpstreamId,
        rpc::json::Bounds,
        upstream::routes::{Place, Routes, Sharing},
    };

    type Opened = (Seat, Arc<Link<()>>, Ending);

    async fn opened(links: &Links<()>, owner: u8) -> Result<Opened, usize> {
        let seat = links.seat([owner; 32], Duration::ZERO).await?;
        let bounds = Bounds { depth_max: 8, values_max: 100, name_bytes_max: 100, number_chars_max: 20 };
        let routes = Routes::new(&UpstreamId::parse("up").unwrap(), bounds, Sharing::Session);
        let (link, ending) = links.open(&seat, routes, ());
        Ok((seat, link, ending))
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_takes_the_links_of_others_or_the_gateways_own() {
        let links = Links::<()>::new(8);
        let mut alice = vec![opened(&links, 1).await.unwrap(), opened(&links, 1).await.unwrap()];
        let mut others = Vec::new();
        for owner in 2..=6 {
            others.push(opened(&links, owner).await.unwrap());
        }
        // Another of hers takes the place of one of hers.
        let (first, mut ends) = (alice.remove(0), others.remove(0));
        let kept = alice[0].1.name();
        let another = tokio::join!(links.seat([1; 32], Duration::from_secs(1)), async move {
            let (seat, _link, mut ending) = first;
            ending.come().await;
            drop(seat);
        });
        assert!(another.0.is_ok() && links.find(&kept).is_some());
        drop(another);
        assert!(tokio::time::timeout(Duration::ZERO, ends.2.come()).await.is_err(), "and not of another's");
        // What is in use is nobody's to take.
        let (_more, mut busy) = (opened(&links, 1).await.unwrap(), Vec::new());
        for link in links.open.lock().values() {
            busy.push(link.routes.expect(Place::Call(1)));
        }
        assert_eq!(opened(&links, 1).await.unwrap_err(), 2, "her share");
        assert_eq!(opened(&links, 9).await.unwrap_err(), 7, "all that there is for callers");
        assert!(links.seat(OWN, Duration::ZERO).await.is_ok(), "and one is the gateway's own");
        drop((busy, ends));
    }
}
