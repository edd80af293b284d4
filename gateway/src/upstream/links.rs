//! Which lasting connection to an upstream is this message for?
//!
//! A process or a stream that carries many messages is a link; a session is one link, by name. It bounds them, and lets
//! go of the least used. What a link is made of is known to the transport.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use http::HeaderValue;
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use super::routes::Routes;

/// One lasting connection. It ends when nobody holds it any more, or when told to.
#[derive(Debug)]
pub(super) struct Link<W> {
    number: u64,
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

/// The links to one upstream.
#[derive(Debug)]
pub(super) struct Links<W> {
    open: Mutex<BTreeMap<u64, Arc<Link<W>>>>,
    numbers: AtomicU64,
    seats: Arc<Semaphore>,
    max: usize,
}

impl<W> Links<W> {
    pub(super) fn new(max: usize) -> Arc<Self> {
        let seats = Arc::new(Semaphore::new(max));
        Arc::new(Self { open: Mutex::new(BTreeMap::new()), numbers: AtomicU64::new(1), seats, max })
    }

    /// The link with this name, if it is still there.
    pub(super) fn find(&self, name: &HeaderValue) -> Option<Arc<Link<W>>> {
        let number = name.to_str().ok()?.parse().ok()?;
        self.open.lock().get(&number).cloned()
    }

    /// Room for one more link; whoever is connected holds on to it. The least used that nobody waits on goes for it.
    pub(super) async fn seat(&self, within: Duration) -> Result<OwnedSemaphorePermit, usize> {
        if let Ok(seat) = Arc::clone(&self.seats).try_acquire_owned() {
            return Ok(seat);
        }
        let unused = {
            let mut open = self.open.lock();
            let idle = open.values().filter(|link| link.routes.is_idle());
            let least = idle.min_by_key(|link| link.routes.last_used()).map(|link| link.number);
            least.and_then(|number| open.remove(&number))
        };
        unused.ok_or(self.max)?.end();
        match tokio::time::timeout(within, Arc::clone(&self.seats).acquire_owned()).await {
            Ok(Ok(seat)) => Ok(seat),
            Ok(Err(_)) | Err(_) => Err(self.max),
        }
    }

    /// A new link, known by its name from now on.
    pub(super) fn open(&self, routes: Arc<Routes>, way: W) -> (Arc<Link<W>>, Ending) {
        let (end, ending) = watch::channel(false);
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        let link = Arc::new(Link { number, routes, way, end });
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
