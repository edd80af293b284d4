//! Is anything going on, on this connection?
//!
//! What a connection's watchdog looks at: requests begun and in flight, and answers that the client does not take.
//! It closes nothing; `connection` does.

use std::sync::{
    Arc, Weak,
    atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
};

use parking_lot::Mutex;

/// The traffic of one connection. Relaxed atomics: these are counts that a watchdog samples, nothing is ordered by them.
#[derive(Debug, Default)]
pub(super) struct Activity {
    /// Whether the client says, as in HTTP/2, how much it takes of each answer (RFC 9113 §5.2).
    has_windows: bool,
    begun: AtomicU64,
    in_flight: AtomicUsize,
    flows: Mutex<Vec<Weak<Flow>>>,
}

/// One request that has begun and whose answer has not gone out; dropping it says that it has.
#[derive(Debug)]
pub(super) struct Busy(Arc<Activity>);

/// An answer that its client can hold up: whether it does.
#[derive(Debug, Default)]
pub(super) struct Flow {
    /// A piece is there, or was handed over, and the next one has not been asked for.
    waiting_for_client: AtomicBool,
    /// For how many looks in a row that has been so.
    looks: AtomicUsize,
}

/// What the watchdog of a connection concludes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Something goes on.
    Alive,
    /// No request since the last look, and none in flight.
    Quiet,
    /// The client has not taken a piece of an answer for the given number of looks.
    Stalled,
}

impl Activity {
    /// That of a connection of HTTP/2, or of HTTP/1.1.
    pub(super) fn new(http2: bool) -> Self {
        Self { has_windows: http2, ..Self::default() }
    }

    /// A request begins.
    pub(super) fn begin(self: &Arc<Self>) -> Busy {
        self.begun.fetch_add(1, Relaxed);
        self.in_flight.fetch_add(1, Relaxed);
        Busy(Arc::clone(self))
    }

    /// How many requests have begun.
    pub(super) fn begun(&self) -> u64 {
        self.begun.load(Relaxed)
    }

    /// Whether a request is being answered.
    pub(super) fn in_flight(&self) -> bool {
        self.in_flight.load(Relaxed) > 0
    }

    /// Looks at the connection; `seen` is [`Self::begun`] at the last look.
    pub(super) fn look(&self, seen: u64, stalled_after: usize) -> Verdict {
        if self.flows_stalled(stalled_after) {
            return Verdict::Stalled;
        }
        let quiet = !self.in_flight() && self.begun() == seen;
        if quiet { Verdict::Quiet } else { Verdict::Alive }
    }

    fn flows_stalled(&self, stalled_after: usize) -> bool {
        let mut stalled = false;
        self.flows.lock().retain(|flow| {
            let Some(flow) = flow.upgrade() else { return false };
            if flow.waiting_for_client.load(Relaxed) {
                stalled |= flow.looks.fetch_add(1, Relaxed) >= stalled_after;
            }
            true
        });
        stalled
    }
}

impl Busy {
    /// Whether the client can hold up the first piece of an answer, too.
    pub(super) fn has_windows(&self) -> bool {
        self.0.has_windows
    }

    /// An answer begins of which the first piece `is_there`, or is still to come.
    pub(super) fn flow(&self, is_there: bool) -> Arc<Flow> {
        let flow = Arc::new(Flow::default());
        flow.asked(is_there);
        let mut flows = self.0.flows.lock();
        if flows.len() == flows.capacity() {
            flows.retain(|flow| flow.strong_count() > 0); // no more room than for those that go on
        }
        flows.push(Arc::downgrade(&flow));
        drop(flows);
        flow
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Relaxed);
    }
}

impl Flow {
    /// The next piece was asked for, and `handed_over` or not there yet.
    pub(super) fn asked(&self, handed_over: bool) {
        self.waiting_for_client.store(handed_over, Relaxed);
        self.looks.store(0, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_is_quiet_between_requests_and_stalled_when_nobody_asks_for_the_next_piece() {
        let activity = Arc::new(Activity::default());
        assert_eq!(activity.look(0, 2), Verdict::Quiet);
        let busy = activity.begin();
        assert_eq!(activity.look(1, 2), Verdict::Alive);
        let flow = busy.flow(false);
        for _ in 0..9 {
            assert_eq!(activity.look(1, 2), Verdict::Alive, "we owe the next piece");
        }
        flow.asked(true);
        let looks = [activity.look(1, 2), activity.look(1, 2), activity.look(1, 2)];
        assert_eq!(looks, [Verdict::Alive, Verdict::Alive, Verdict::Stalled]);
        drop(flow);
        assert_eq!(activity.look(1, 2), Verdict::Alive);
        let untouched = busy.flow(true);
        let looks = [activity.look(1, 1), activity.look(1, 1)];
        assert_eq!(looks, [Verdict::Alive, Verdict::Stalled], "not even the first piece was asked for");
        drop(untouched);
        drop(busy);
        assert_eq!(activity.look(0, 2), Verdict::Alive, "a request came and went");
        assert_eq!(activity.look(1, 2), Verdict::Quiet);
    }
}
