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
use tokio::sync::mpsc;

use super::queue::{self, Queue};
use crate::{
    clock::{self, Timestamp},
    rpc::sse,
};

/// The events of one session that can still be had.
#[derive(Debug)]
pub(super) struct Replay {
    state: Mutex<State>,
    room: Room,
}

/// The room for events that one principal's sessions share, within that for all.
#[derive(Debug, Default)]
pub(super) struct Room {
    /// Bytes that the principal's sessions keep.
    own: Arc<AtomicUsize>,
    /// Bytes that all keep.
    all: Arc<AtomicUsize>,
}

#[derive(Debug, Default)]
struct State {
    /// Streams opened so far.
    streams: u64,
    kept: VecDeque<Kept>,
    bytes: usize,
    /// Streams that still have something to say.
    open: HashMap<u64, Open>,
}

#[derive(Debug, Default)]
struct Open {
    /// Events so far.
    said: u64,
    /// Where a client has come back, where the rest goes.
    way: Option<Queue>,
}

#[derive(Debug)]
struct Kept {
    stream: u64,
    number: u64,
    at: Timestamp,
    event: Bytes,
}

impl Room {
    pub(super) fn new(own: Arc<AtomicUsize>, all: Arc<AtomicUsize>) -> Self {
        Self { own, all }
    }

    /// Takes so much of it, where there is so much.
    fn take(&self, bytes: usize) -> bool {
        let own = self.own.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes);
        let all = self.all.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes);
        let fits = own <= OWN_BYTES_MAX && all <= ALL_BYTES_MAX;
        if !fits {
            self.give_back(bytes);
        }
        fits
    }

    fn give_back(&self, bytes: usize) {
        self.own.fetch_sub(bytes, Ordering::Relaxed);
        self.all.fetch_sub(bytes, Ordering::Relaxed);
    }
}

impl State {
    /// Forgets the events that are `gone`; how many bytes that were.
    fn forget(&mut self, gone: impl Fn(&Kept, &HashMap<u64, Open>) -> bool) -> usize {
        let mut freed = 0_usize;
        let Self { kept, open, bytes, .. } = self;
        kept.retain(|kept| {
            let gone = gone(kept, open);
            if gone {
                freed = freed.saturating_add(kept.event.len());
            }
            !gone
        });
        *bytes = bytes.saturating_sub(freed);
        freed
    }
}

impl Replay {
    /// Nothing yet.
    pub(super) fn new(room: Room) -> Self {
        Self { state: Mutex::new(State::default()), room }
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
        self.state.lock().open.insert(stream, Open::default());
        stream
    }

    /// Carries the events of `from` to `to`, and keeps them. A client that goes away ends nothing (RL-07): the events wait
    /// for its return, the answer among them.
    pub(super) async fn carry(&self, stream: u64, mut from: mpsc::Receiver<Bytes>, mut to: Queue) {
        let mut number = 0_u64;
        while let Some(event) = from.recv().await {
            number = number.saturating_add(1);
            let event = sse::with_id(&id(stream, number), &event);
            if let Some(again) = self.keep(Kept { stream, number, at: clock::now(), event: event.clone() }) {
                to = again;
            }
            if !to.is_closed() && !to.send(event).await {
                // At once: nobody waits for a client that takes nothing a second time.
                to.close();
            }
        }
        self.state.lock().open.remove(&stream);
    }

    /// Keeps an event, the oldest going first where there is no room; where a client has come back, gives the way to it.
    fn keep(&self, kept: Kept) -> Option<Queue> {
        let mut state = self.state.lock();
        let (stream, number, size) = (kept.stream, kept.number, kept.event.len());
        if size > BYTES_MAX || !self.room.take(size) {
            // It leaves a hole, and what came before that is of no use to anybody.
            self.room.give_back(state.forget(|kept, _open| kept.stream == stream));
        } else {
            self.push(&mut state, kept);
        }
        let open = state.open.get_mut(&stream)?;
        open.said = number;
        open.way.take()
    }

    fn push(&self, state: &mut State, kept: Kept) {
        let size = kept.event.len();
        while state.kept.len() >= EVENTS_MAX || state.bytes.saturating_add(size) > BYTES_MAX {
            let Some(oldest) = state.kept.pop_front() else { break };
            state.bytes = state.bytes.saturating_sub(oldest.event.len());
            self.room.give_back(oldest.event.len());
        }
        state.bytes = state.bytes.saturating_add(size);
        state.kept.push_back(kept);
    }

    /// Forgets what was said long ago on streams that have ended: whoever lost one comes back soon, or not at all.
    pub(super) fn forget(&self, now: Timestamp) {
        let old =
            |kept: &Kept, open: &HashMap<u64, Open>| now.since(kept.at) > KEPT_MAX && !open.contains_key(&kept.stream);
        self.room.give_back(self.state.lock().forget(old));
    }

    /// What followed the event `last` on its stream, and what still comes; nothing where that is not known any more.
    pub(super) fn resume(&self, last: &str) -> Option<mpsc::Receiver<Bytes>> {
        let (stream, number) = last.split_once('-')?;
        let (stream, number): (u64, u64) = (stream.parse().ok()?, number.parse().ok()?);
        let mut state = self.state.lock();
        let State { kept, open, .. } = &mut *state;
        let oldest = kept.iter().find(|kept| kept.stream == stream).map(|kept| kept.number);
        // What is missing in the middle is not passed over in silence.
        let whole = match oldest {
            Some(oldest) => oldest <= number.saturating_add(1),
            None => open.get(&stream).is_some_and(|open| open.said == number),
        };
        if !whole {
            return None;
        }
        let (events, to_body) = Queue::holding(EVENTS_MAX.saturating_add(queue::EVENTS_MAX));
        for kept in kept.iter().filter(|kept| kept.stream == stream && kept.number > number) {
            events.offer(kept.event.clone());
        }
        if let Some(open) = open.get_mut(&stream) {
            open.way = Some(events);
        }
        Some(to_body)
    }
}

impl Drop for Replay {
    fn drop(&mut self) {
        self.room.give_back(self.state.get_mut().bytes);
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

/// Bytes that the sessions of one principal keep together, and those of all; beyond that nothing is kept, and a stream
/// that breaks is lost.
const OWN_BYTES_MAX: usize = 16 * 1024 * 1024;
const ALL_BYTES_MAX: usize = 64 * 1024 * 1024;

/// For so long after it was said, what was said on a stream that has ended.
const KEPT_MAX: Duration = Duration::from_secs(300);

#[cfg(test)]
mod tests {
    use super::*;

    fn replay() -> Replay {
        Replay::new(Room::default())
    }

    fn large(replay: &Replay, stream: u64, number: u64, bytes: usize) {
        replay.keep(Kept { stream, number, at: NOON, event: Bytes::from(vec![b'x'; bytes]) });
    }

    const NOON: Timestamp = Timestamp::from_unix_seconds(1_000_000);

    fn event(text: &str) -> Bytes {
        sse::message(text.as_bytes())
    }

    fn kept(replay: &Replay, stream: u64, numbers: std::ops::RangeInclusive<u64>) {
        for number in numbers {
            let event = sse::with_id(&id(stream, number), &event("{}"));
            replay.keep(Kept { stream, number, at: NOON, event });
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
        let (to, mut first) = Queue::new();
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
        let replay = Replay::new(Room::new(Arc::default(), Arc::clone(&all)));
        kept(&replay, 1, 1..=1_000);
        assert_eq!(replay.state.lock().kept.len(), EVENTS_MAX);
        assert!(replay.resume("1-900").is_none(), "something is missing in between");
        assert!(replay.resume("1-940").is_some());
        for number in 1..=10 {
            large(&replay, 2, number, BYTES_MAX / 3);
        }
        assert!(replay.state.lock().bytes <= BYTES_MAX);
        assert_eq!(all.load(Ordering::Relaxed), replay.state.lock().bytes);
        drop(replay);
        assert_eq!(all.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn what_could_not_be_kept_is_a_gap_of_its_own_stream_alone() {
        let replay = replay();
        let (one, other) = (replay.open(), replay.open());
        kept(&replay, one, 1..=3);
        kept(&replay, other, 1..=3);
        large(&replay, one, 4, BYTES_MAX + 1);
        assert!(replay.resume("1-2").is_none() && replay.resume("1-0").is_none());
        assert!(replay.resume("1-4").is_some(), "whoever got it has missed nothing");
        assert!(replay.resume("2-1").is_some());
        kept(&replay, one, 5..=6);
        assert!(replay.resume("1-3").is_none() && replay.resume("1-4").is_some());
        // The first event of a stream can be what is missing.
        let third = replay.open();
        assert!(replay.resume("3-0").is_some());
        large(&replay, third, 1, BYTES_MAX + 1);
        assert!(replay.resume("3-0").is_none());
    }

    #[test]
    fn one_principals_sessions_do_not_take_all_the_room() {
        let all = Arc::new(AtomicUsize::new(0));
        let own = Arc::new(AtomicUsize::new(0));
        let hoard: Vec<Replay> = (0..100).map(|_| Replay::new(Room::new(Arc::clone(&own), Arc::clone(&all)))).collect();
        for replay in &hoard {
            large(replay, 1, 1, BYTES_MAX);
        }
        assert_eq!((own.load(Ordering::Relaxed), all.load(Ordering::Relaxed)), (OWN_BYTES_MAX, OWN_BYTES_MAX));
        let other = Replay::new(Room::new(Arc::default(), Arc::clone(&all)));
        large(&other, 1, 1, BYTES_MAX);
        assert!(other.resume("1-0").is_some());
        drop((hoard, other));
        assert_eq!((own.load(Ordering::Relaxed), all.load(Ordering::Relaxed)), (0, 0));
    }

    #[test]
    fn what_nobody_came_back_for_is_forgotten_when_its_stream_has_ended() {
        let replay = replay();
        let open = replay.open();
        kept(&replay, open, 1..=2);
        kept(&replay, 7, 1..=2);
        replay.forget(NOON.plus(KEPT_MAX));
        assert!(replay.resume("1-0").is_some() && replay.resume("7-0").is_some());
        replay.forget(NOON.plus(KEPT_MAX + Duration::from_secs(1)));
        assert!(replay.resume("1-0").is_some() && replay.resume("7-0").is_none());
        assert_eq!(replay.room.own.load(Ordering::Relaxed), replay.state.lock().bytes);
    }
}
