//! How often and how many at once, by key?
//!
//! Rates are GCRA (ITU-T I.371): one point in time for each key, the theoretical arrival time of the next call, so a
//! counter is one number wherever it is kept. Several keys are taken together or not at all. It does not know what a
//! key stands for.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use parking_lot::{Mutex, MutexGuard};

use crate::{clock::Timestamp, digest::name_of, refusal::Refusal};

/// A bound on how often.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// The time that one call pays for.
    pub interval: Duration,
    /// Calls that may come at once; at least 1.
    pub burst: u32,
}

/// One counter that a call touches.
#[derive(Debug, Clone, Copy)]
pub struct Take {
    /// SHA-256 of what is counted.
    pub key: [u8; 32],
    /// How often.
    pub rate: Option<Rate>,
    /// How many at once.
    pub in_flight: Option<u32>,
}

/// Why nothing was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exhausted {
    /// The counter at this place of the question has no room before so much time has passed.
    Counter {
        /// The place.
        place: usize,
        /// The time; a guess where calls have to end first.
        retry_after: Duration,
    },
    /// There are as many live counters as may be.
    Full,
}

/// The slots of one call, given back when dropped.
#[derive(Debug, Default)]
pub struct Taken {
    slots: Vec<Arc<AtomicU32>>,
}

impl Taken {
    /// How many slots.
    #[must_use]
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether no slot is held.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        for slot in &self.slots {
            slot.fetch_sub(1, Ordering::AcqRel);
        }
    }
}

/// Counters in the memory of this process.
#[derive(Debug)]
pub struct Rates {
    shards: Vec<Mutex<Shard>>,
    counters_max: usize,
}

/// Part of the counters, so that callers seldom meet at a lock; it is held for a few map operations.
#[derive(Debug, Default)]
struct Shard {
    counters: HashMap<[u8; 32], Counter>,
    /// No sweep before this point in time, so that a full shard does not sweep for every call.
    sweep_at_ms: u64,
}

#[derive(Debug, Default)]
struct Counter {
    /// GCRA's theoretical arrival time, in nanoseconds since the epoch.
    arrival_ns: u64,
    calls: Arc<AtomicU32>,
}

impl Rates {
    /// Room for `counters_max` live counters, rounded up to a whole number in each shard.
    #[must_use]
    pub fn new(counters_max: usize) -> Self {
        let shards = (0..SHARDS).map(|_| Mutex::default()).collect();
        Self { shards, counters_max: counters_max.div_ceil(SHARDS) }
    }

    /// Takes one call from every counter, or from none.
    ///
    /// # Errors
    /// Which counter has no room, the one that takes longest first.
    pub fn take(&self, takes: &[Take], now: Timestamp) -> Result<Taken, Exhausted> {
        let mut shards = self.lock(takes);
        let now_ns = now.unix_ms().saturating_mul(NANOS_PER_MILLI);
        let mut longest: Option<(usize, Duration)> = None;
        for (place, take) in takes.iter().enumerate() {
            let shard = shard_of(&take.key);
            let Some((_, shard)) = shards.iter_mut().find(|(at, _)| *at == shard) else { return Err(Exhausted::Full) };
            let counter = shard.counter(take.key, now, self.counters_max).ok_or(Exhausted::Full)?;
            let wait = counter.wait(take, now_ns);
            if let Some(wait) = wait.filter(|wait| longest.is_none_or(|(_, other)| *wait > other)) {
                longest = Some((place, wait));
            }
        }
        if let Some((place, retry_after)) = longest {
            return Err(Exhausted::Counter { place, retry_after });
        }
        let mut taken = Taken::default();
        for take in takes {
            let shard = shard_of(&take.key);
            let Some((_, shard)) = shards.iter_mut().find(|(at, _)| *at == shard) else { return Err(Exhausted::Full) };
            // A sweep for a later counter of this question may have forgotten this one again.
            taken.slots.extend(shard.counters.entry(take.key).or_default().count(take, now_ns));
        }
        Ok(taken)
    }

    /// Counts one of what `name` names for each of `who`, at their rates, or for none; an empty `who` is everybody together.
    ///
    /// # Errors
    /// [`Refusal::CeilingReached`], of the ceiling `name`; [`Refusal::Overloaded`].
    pub fn admit(&self, name: &str, who: &[(&str, Rate)], now: Timestamp) -> Result<(), Refusal> {
        let take = |(who, rate): &(&str, Rate)| Take { key: name_of(name, &[who]), rate: Some(*rate), in_flight: None };
        let takes: Vec<Take> = who.iter().map(take).collect();
        match self.take(&takes, now) {
            Ok(_counted) => Ok(()),
            Err(Exhausted::Counter { retry_after, .. }) => {
                Err(Refusal::CeilingReached { ceiling: name.to_owned(), retry_after_ms: whole_ms(retry_after) })
            }
            Err(Exhausted::Full) => Err(Refusal::Overloaded("those who are counted")),
        }
    }

    /// How many counters there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().counters.len()).sum()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Every shard that `takes` needs, once, in one order for everybody, so that nobody waits in a circle.
    fn lock(&self, takes: &[Take]) -> Vec<(usize, MutexGuard<'_, Shard>)> {
        let mut places: Vec<usize> = takes.iter().map(|take| shard_of(&take.key)).collect();
        places.sort_unstable();
        places.dedup();
        places.into_iter().filter_map(|place| Some((place, self.shards.get(place)?.lock()))).collect()
    }
}

impl Shard {
    fn counter(&mut self, key: [u8; 32], now: Timestamp, counters_max: usize) -> Option<&mut Counter> {
        if self.counters.len() >= counters_max && !self.counters.contains_key(&key) {
            self.sweep(now);
            if self.counters.len() >= counters_max {
                return None;
            }
        }
        Some(self.counters.entry(key).or_default())
    }

    /// Forgets counters that are as good as new.
    fn sweep(&mut self, now: Timestamp) {
        if now.unix_ms() < self.sweep_at_ms {
            return;
        }
        self.sweep_at_ms = now.unix_ms().saturating_add(SWEEP_PAUSE_MS);
        let now_ns = now.unix_ms().saturating_mul(NANOS_PER_MILLI);
        self.counters.retain(|_, counter| counter.arrival_ns > now_ns || counter.calls.load(Ordering::Acquire) > 0);
    }
}

impl Counter {
    /// How long `take` has to wait; `None` where it need not.
    fn wait(&mut self, take: &Take, now_ns: u64) -> Option<Duration> {
        let by_rate = take.rate.and_then(|rate| {
            let (interval, window) = (rate.interval_ns(), rate.window_ns());
            // A clock that was set back must not lock anybody out for longer than an exhausted burst does.
            self.arrival_ns = self.arrival_ns.min(now_ns.saturating_add(window));
            let earliest = self.arrival_ns.max(now_ns).saturating_add(interval).saturating_sub(window);
            (earliest > now_ns).then(|| Duration::from_nanos(earliest.saturating_sub(now_ns)))
        });
        let at_once = take.in_flight.filter(|max| self.calls.load(Ordering::Acquire) >= *max);
        by_rate.max(at_once.map(|_| IN_FLIGHT_RETRY))
    }

    /// Counts one call; the slot to give back, where calls at once are counted.
    fn count(&mut self, take: &Take, now_ns: u64) -> Option<Arc<AtomicU32>> {
        if let Some(rate) = take.rate {
            self.arrival_ns = self.arrival_ns.max(now_ns).saturating_add(rate.interval_ns());
        }
        take.in_flight.map(|_| {
            self.calls.fetch_add(1, Ordering::AcqRel);
            Arc::clone(&self.calls)
        })
    }
}

impl Rate {
    /// So many in `span`, and as many at once.
    #[must_use]
    pub fn per(span: Duration, count: u32) -> Self {
        Self { interval: span.checked_div(count).unwrap_or(span), burst: count }
    }

    fn interval_ns(self) -> u64 {
        u64::try_from(self.interval.as_nanos()).unwrap_or(u64::MAX)
    }

    /// The time that a whole burst pays for.
    fn window_ns(self) -> u64 {
        self.interval_ns().saturating_mul(u64::from(self.burst.max(1)))
    }
}

/// Rounded up, so that a client that waits exactly this long is not refused again.
#[must_use]
pub fn whole_ms(span: Duration) -> u64 {
    u64::try_from(span.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}

/// Keys are digests, so any byte spreads them.
fn shard_of(key: &[u8; 32]) -> usize {
    let [first, ..] = key;
    usize::from(*first) % SHARDS
}

const SHARDS: usize = 64;
const NANOS_PER_MILLI: u64 = 1_000_000;
const SWEEP_PAUSE_MS: u64 = 100;

/// Nobody knows when a call ends; soon enough to be of use, late enough not to be a storm.
const IN_FLIGHT_RETRY: Duration = Duration::from_secs(1);

#[cfg(test)]
#[expect(clippy::arithmetic_side_effects, reason = "an overflow in a test should fail it")]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::{Exhausted, Rate, Rates, SHARDS, Take};
    use crate::{clock::Timestamp, refusal::Refusal};

    const RATE: Rate = Rate { interval: Duration::from_millis(100), burst: 3 };

    fn take(key: u8, rate: Option<Rate>, in_flight: Option<u32>) -> Take {
        Take { key: [key; 32], rate, in_flight }
    }

    #[test]
    fn a_burst_passes_and_then_the_rate() {
        let rates = Rates::new(1000);
        let at = |ms| rates.take(&[take(1, Some(RATE), None)], Timestamp::from_unix_ms(ms)).err();
        let wait = |ms| Some(Exhausted::Counter { place: 0, retry_after: Duration::from_millis(ms) });
        assert_eq!([at(1000), at(1000), at(1000)], [None, None, None]);
        assert_eq!(at(1000), wait(100));
        assert_eq!(at(1099), wait(1));
        assert_eq!(at(1100), None);
        assert_eq!(at(1100), wait(100));
        // Idle time earns no more than one burst.
        assert_eq!([at(90_000), at(90_000), at(90_000)], [None, None, None]);
        assert_eq!(at(90_000), wait(100));
    }

    #[test]
    fn a_clock_set_back_locks_nobody_out() {
        let rates = Rates::new(1000);
        let at = |ms| rates.take(&[take(1, Some(RATE), None)], Timestamp::from_unix_ms(ms)).err();
        assert_eq!([at(1_000_000), at(1_000_000), at(1_000_000)], [None, None, None]);
        assert_eq!(at(1000), Some(Exhausted::Counter { place: 0, retry_after: Duration::from_millis(100) }));
        assert_eq!(at(1100), None);
    }

    #[test]
    fn slots_come_back_when_the_call_ends() {
        let rates = Rates::new(1000);
        let now = Timestamp::from_unix_ms(5);
        let question = [take(1, None, Some(2))];
        let first = rates.take(&question, now).unwrap();
        let second = rates.take(&question, now).unwrap();
        assert_eq!(
            rates.take(&question, now).unwrap_err(),
            Exhausted::Counter { place: 0, retry_after: Duration::from_secs(1) }
        );
        drop(first);
        let third = rates.take(&question, now);
        assert!(third.is_ok() && rates.take(&question, now).is_err());
        drop((second, third));
        assert!(rates.take(&question, now).is_ok());
    }

    #[test]
    fn all_counters_are_taken_or_none() {
        let rates = Rates::new(1000);
        let now = Timestamp::from_unix_ms(1000);
        let (free, tight) = (take(1, Some(RATE), Some(9)), take(2, Some(Rate { burst: 1, ..RATE }), None));
        drop(rates.take(&[free, tight], now).unwrap());
        for _ in 0..10 {
            let fault = rates.take(&[free, tight], now).unwrap_err();
            assert_eq!(fault, Exhausted::Counter { place: 1, retry_after: Duration::from_millis(100) });
        }
        assert!(rates.take(&[free], now).is_ok() && rates.take(&[free], now).is_ok());
        assert!(rates.take(&[free], now).is_err());
    }

    #[test]
    fn counters_are_bounded_and_idle_ones_are_forgotten() {
        let rates = Rates::new(SHARDS);
        let question = |low: u8, rate| {
            [Take { key: std::array::from_fn(|at| if at == 1 { low } else { 0 }), rate, in_flight: None }]
        };
        let at = |low, ms| rates.take(&question(low, Some(RATE)), Timestamp::from_unix_ms(ms)).err();
        assert_eq!(at(1, 1000), None);
        assert_eq!(at(2, 1000), Some(Exhausted::Full));
        assert_eq!(at(2, 1200), None);
        assert_eq!(rates.len(), 1);
    }

    #[test]
    fn who_is_over_a_rate_hears_which_and_when_and_keeps_nobody_else() {
        let (rates, now) = (Rates::new(1000), Timestamp::from_unix_ms(1000));
        let all = Rate { burst: 5, ..RATE };
        let ask = |who| rates.admit("pages", &[(who, RATE), ("", all)], now);
        assert_eq!([ask("a"), ask("a"), ask("a")], [Ok(()), Ok(()), Ok(())]);
        let over = Err(Refusal::CeilingReached { ceiling: "pages".to_owned(), retry_after_ms: 100 });
        assert_eq!([ask("a"), ask("b"), ask("b"), ask("b")], [over.clone(), Ok(()), Ok(()), over]);
        assert_eq!(rates.admit("others", &[("a", RATE)], now), Ok(()));
        assert_eq!(Rate::per(Duration::from_secs(60), 30), Rate { interval: Duration::from_secs(2), burst: 30 });
    }

    #[test]
    fn who_waits_as_long_as_they_are_told_is_let_in() {
        let rates = Rates::new(1000);
        let third = Rate::per(Duration::from_millis(1000), 3); // 333.3 ms
        let ask = |ms| rates.admit("thirds", &[("a", Rate { burst: 1, ..third })], Timestamp::from_unix_ms(ms));
        assert_eq!(ask(1000), Ok(()));
        let Err(Refusal::CeilingReached { retry_after_ms, .. }) = ask(1000) else { panic!("there was no room") };
        assert_eq!((retry_after_ms, ask(1000 + retry_after_ms)), (334, Ok(())));
    }

    proptest! {
        /// Over any span, no more calls pass than a burst and what the time pays for.
        #[test]
        fn the_rate_holds(steps in prop::collection::vec(0_u64..300, 1..200)) {
            let rates = Rates::new(1000);
            let (mut now, mut passed) = (1_000_u64, 0_u64);
            for step in steps {
                now += step;
                passed += u64::from(rates.take(&[take(1, Some(RATE), None)], Timestamp::from_unix_ms(now)).is_ok());
                prop_assert!(passed <= 3 + (now - 1_000) / 100);
            }
        }
    }
}
