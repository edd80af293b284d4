//! What may a legacy client still get of a stream that broke?
//!
//! Each event of a session has an id, and the latest are kept, within bounds: a client that comes back and names the last
//! one it got is given what followed, and the rest of the stream as it comes (RL-08). It does not know what events say.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::{sync::mpsc, time::timeout};

use crate::rpc::sse;

/// The events of one session that can still be had.
#[derive(Debug)]
pub(super) struct Replay {
    state: Mutex<State>,
    /// Bytes kept over all sessions.
    all: Arc<AtomicUsize>,
}

#[derive(Debug, Default)]
struct State {
    /// Streams opened so far.
    streams: u64,
    kept: VecDeque<Kept>,
    bytes: usize,
    /// Streams that still have something to say; and where a client has come back to one, where that goes from now on.
    open: HashMap<u64, Option<mpsc::Sender<Bytes>>>,
}

#[derive(Debug)]
struct Kept {
    stream: u64,
    number: u64,
    event: Bytes,
}

impl Replay {
    /// Nothing yet; `all` counts what all sessions keep.
    pub(super) fn new(all: Arc<AtomicUsize>) -> Self {
        Self { state: Mutex::new(State::default()), all }
    }

    /// The number of a stream that begins now.
    pub(super) fn stream(&self) -> u64 {
        let mut state = self.state.lock();
        state.streams = state.streams.saturating_add(1);
        state.streams
    }

    /// The number of a stream that begins now, whose events [`Self::carry`] keeps.
    pub(super) fn open(&self) -> u64 {
        let stream = self.stream();
        self.state.lock().open.insert(stream, None);
        stream
    }

    /// Carries the events of `from` to `to`, and keeps them. A client that goes away ends nothing (RL-07): the events wait
    /// for its return, the answer among them.
    pub(super) async fn carry(&self, stream: u64, mut from: mpsc::Receiver<Bytes>, mut to: mpsc::Sender<Bytes>) {
        let mut number = 0_u64;
        while let Some(event) = from.recv().await {
            number = number.saturating_add(1);
            let event = sse::with_id(&id(stream, number), &event);
            if let Some(again) = self.keep(Kept { stream, number, event: event.clone() }) {
                to = again;
            }
            if !to.is_closed() && !matches!(timeout(CLIENT_STALL_MAX, to.send(event)).await, Ok(Ok(()))) {
                // Closed at once: nobody waits for a client that takes nothing a second time.
                to = mpsc::channel(1).0;
            }
        }
        self.state.lock().open.remove(&stream);
    }

    /// Keeps an event, the oldest going first where there is no room; where a client has come back, gives the way to it.
    fn keep(&self, kept: Kept) -> Option<mpsc::Sender<Bytes>> {
        let mut state = self.state.lock();
        let size = kept.event.len();
        while state.kept.len() >= EVENTS_MAX || state.bytes.saturating_add(size) > BYTES_MAX {
            let Some(oldest) = state.kept.pop_front() else { break };
            state.bytes = state.bytes.saturating_sub(oldest.event.len());
            self.all.fetch_sub(oldest.event.len(), Ordering::Relaxed);
        }
        let stream = kept.stream;
        let room = self.all.load(Ordering::Relaxed).saturating_add(size) <= ALL_BYTES_MAX;
        if room && size <= BYTES_MAX {
            self.all.fetch_add(size, Ordering::Relaxed);
            state.bytes = state.bytes.saturating_add(size);
            state.kept.push_back(kept);
        }
        state.open.get_mut(&stream).and_then(Option::take)
    }

    /// What followed the event `last` on its stream, and what still comes; nothing where that is not known any more.
    pub(super) fn resume(&self, last: &str) -> Option<mpsc::Receiver<Bytes>> {
        let (stream, number) = last.split_once('-')?;
        let (stream, number): (u64, u64) = (stream.parse().ok()?, number.parse().ok()?);
        let mut state = self.state.lock();
        let State { kept, open, .. } = &mut *state;
        let oldest = kept.iter().find(|kept| kept.stream == stream).map(|kept| kept.number);
        // What is missing in the middle is not passed over in silence.
        let whole =
            oldest.map_or(open.contains_key(&stream) && number == 0, |oldest| oldest <= number.saturating_add(1));
        if !whole {
            return None;
        }
        let (events, to_body) = mpsc::channel(EVENTS_MAX.saturating_add(EVENTS_WAITING));
        for kept in kept.iter().filter(|kept| kept.stream == stream && kept.number > number) {
            drop(events.try_send(kept.event.clone()));
        }
        if let Some(way) = open.get_mut(&stream) {
            *way = Some(events);
        }
        Some(to_body)
    }
}

impl Drop for Replay {
    fn drop(&mut self) {
        self.all.fetch_sub(self.state.get_mut().bytes, Ordering::Relaxed);
    }
}

/// The id of an event: unique in its session, and it names the stream (RL-08).
pub(super) fn id(stream: u64, number: u64) -> String {
    format!("{stream}-{number}")
}

/// Events that one session keeps.
const EVENTS_MAX: usize = 64;

/// Bytes that one session keeps.
const BYTES_MAX: usize = 256 * 1024;

/// Bytes that all sessions keep together; beyond that nothing is kept, and a stream that breaks is lost.
const ALL_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Events that may wait for a client that has come back, besides those that were kept for it.
const EVENTS_WAITING: usize = 16;

/// A client that takes no event for so long is taken to be gone.
const CLIENT_STALL_MAX: Duration = Duration::from_secs(20);

#[cfg(test)]
mod tests {
    use super::*;

    fn replay() -> Replay {
        Replay::new(Arc::default())
    }

    fn event(text: &str) -> Bytes {
        sse::message(text.as_bytes())
    }

    fn kept(replay: &Replay, stream: u64, numbers: std::ops::RangeInclusive<u64>) {
        for number in numbers {
            let event = sse::with_id(&id(stream, number), &event("{}"));
            replay.keep(Kept { stream, number, event });
        }
    }

    async fn all(mut events: mpsc::Receiver<Bytes>) -> Vec<String> {
        let mut texts = Vec::new();
        while let Some(event) = events.recv().await {
            texts.push(String::from_utf8(event.to_vec()).unwrap());
        }
        texts
    }

    #[tokio::test]
    async fn a_client_that_comes_back_gets_what_it_missed_and_what_still_comes() {
        let replay = Arc::new(replay());
        let stream = replay.open();
        let (said, from) = mpsc::channel(8);
        let (to, mut first) = mpsc::channel(8);
        let carried = {
            let replay = Arc::clone(&replay);
            crate::tasks::background(async move { replay.carry(stream, from, to).await })
        };
        said.send(event("1")).await.unwrap();
        assert_eq!(first.recv().await.unwrap(), "id: 1-1\nevent: message\ndata: 1\n\n");
        drop(first);
        said.send(event("2")).await.unwrap();
        while replay.state.lock().kept.len() < 2 {
            tokio::task::yield_now().await;
        }
        let second = replay.resume("1-1").unwrap();
        said.send(event("3")).await.unwrap();
        drop(said);
        carried.await.unwrap();
        let rest = ["id: 1-2\nevent: message\ndata: 2\n\n", "id: 1-3\nevent: message\ndata: 3\n\n"];
        assert_eq!(all(second).await, rest);
        assert_eq!(all(replay.resume("1-1").unwrap()).await, rest, "and again, for it is still known");
        assert_eq!(all(replay.resume("1-3").unwrap()).await, Vec::<String>::new());
    }

    #[tokio::test]
    async fn only_what_followed_on_that_stream_comes_back() {
        let replay = replay();
        kept(&replay, 1, 1..=2);
        kept(&replay, 2, 1..=2);
        let rest = all(replay.resume("2-1").unwrap()).await;
        assert_eq!(rest, ["id: 2-2\nevent: message\ndata: {}\n\n"]);
        for unknown in ["", "2", "3-1", "2-x", "-1", "99999999999999999999-1"] {
            assert!(replay.resume(unknown).is_none(), "{unknown}");
        }
    }

    #[test]
    fn what_is_kept_is_bounded_and_a_gap_is_not_passed_over() {
        let all = Arc::new(AtomicUsize::new(0));
        let replay = Replay::new(Arc::clone(&all));
        kept(&replay, 1, 1..=1_000);
        assert_eq!(replay.state.lock().kept.len(), EVENTS_MAX);
        assert!(replay.resume("1-900").is_none(), "something is missing in between");
        assert!(replay.resume("1-940").is_some());
        let large = Bytes::from(vec![b'x'; BYTES_MAX / 3]);
        for number in 1..=10 {
            replay.keep(Kept { stream: 2, number, event: large.clone() });
        }
        assert!(replay.state.lock().bytes <= BYTES_MAX);
        replay.keep(Kept { stream: 2, number: 11, event: Bytes::from(vec![0; BYTES_MAX + 1]) });
        assert_eq!(all.load(Ordering::Relaxed), replay.state.lock().bytes);
        drop(replay);
        assert_eq!(all.load(Ordering::Relaxed), 0);
    }
}
