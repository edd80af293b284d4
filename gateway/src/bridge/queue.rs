//! How much may wait for a client that does not read?
//!
//! Events on their way to one client: so many, and of large ones so many bytes, counted until they have left for the
//! socket. Whoever sends waits for room, for a while. It does not know what events say.

use std::{mem, sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    time::timeout,
};

/// The way to one client.
#[derive(Debug)]
pub struct Queue {
    to: mpsc::Sender<Bytes>,
    room: Arc<Semaphore>,
}

impl Queue {
    /// A way on which nothing waits yet, and its end.
    #[must_use]
    pub fn new() -> (Self, mpsc::Receiver<Bytes>) {
        Self::holding(EVENTS_MAX)
    }

    /// The same for this many events.
    pub(super) fn holding(events_max: usize) -> (Self, mpsc::Receiver<Bytes>) {
        let (to, end) = mpsc::channel(events_max);
        (Self { to, room: Arc::new(Semaphore::new(BYTES_MAX)) }, end)
    }

    /// Sends an event, as soon as there is room for it; whether the client is still there to take it.
    pub async fn send(&self, event: Bytes) -> bool {
        let sending = async {
            // An event larger than all the room has it for itself.
            let weight = if event.len() > LIGHT_BYTES_MAX { event.len().min(BYTES_MAX) } else { 0 };
            let room = Arc::clone(&self.room).acquire_many_owned(u32::try_from(weight).unwrap_or(u32::MAX));
            let event = match room.await {
                Ok(room) if weight > 0 => Bytes::from_owner(Weighed { event, _room: room }),
                Ok(_) | Err(_) => event,
            };
            self.to.send(event).await.is_ok()
        };
        timeout(CLIENT_STALL_MAX, sending).await.unwrap_or(false)
    }

    /// Sends a small event where there is room for it at once.
    pub fn offer(&self, event: Bytes) {
        drop(self.to.try_send(event));
    }

    /// Whether nobody is there.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.to.is_closed()
    }

    /// Returns when nobody is there any more.
    pub async fn closed(&self) {
        self.to.closed().await;
    }

    /// From now on nobody is there.
    pub(super) fn close(&mut self) {
        drop(mem::replace(&mut self.to, mpsc::channel(1).0));
    }
}

/// An event with the room that it takes, until it is gone.
struct Weighed {
    event: Bytes,
    _room: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Weighed {
    fn as_ref(&self) -> &[u8] {
        &self.event
    }
}

/// Events that may wait for a client that reads slowly; beyond that the upstream is not read.
pub(super) const EVENTS_MAX: usize = 16;

/// Bytes that may wait, of events that are not light.
const BYTES_MAX: usize = 256 * 1024;

/// Of light events only the number counts.
const LIGHT_BYTES_MAX: usize = 4 * 1024;

/// A client that takes no event for so long is taken to be gone.
const CLIENT_STALL_MAX: Duration = Duration::from_secs(20);

#[cfg(test)]
mod tests {
    use super::*;

    fn event(bytes: usize) -> Bytes {
        Bytes::from(vec![b'x'; bytes])
    }

    /// How many events of this size go in before one has to wait.
    async fn fits(bytes: usize) -> usize {
        let (queue, end) = Queue::new();
        for count in 0.. {
            if !queue.send(event(bytes)).await {
                drop(end);
                return count;
            }
        }
        usize::MAX
    }

    #[tokio::test(start_paused = true)]
    async fn what_waits_is_bounded_by_number_and_by_bytes() {
        for (bytes, expect) in [(10, 16), (LIGHT_BYTES_MAX, 16), (64 << 10, 4), (BYTES_MAX, 1), (4 << 20, 1)] {
            assert_eq!(fits(bytes).await, expect, "{bytes}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn room_comes_back_when_an_event_is_gone() {
        let (queue, mut end) = Queue::new();
        for _ in 0..100 {
            assert!(queue.send(event(BYTES_MAX)).await);
            assert_eq!(end.recv().await.unwrap().len(), BYTES_MAX);
        }
        assert!(queue.send(event(BYTES_MAX)).await);
        drop(end);
        assert!(!queue.send(event(BYTES_MAX)).await && queue.is_closed());
    }
}
