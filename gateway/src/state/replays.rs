//! Was this shown before?
//!
//! What may be shown once within a time, such as the `jti` of a proof of possession (RFC 9449 §11.1). In the memory of one
//! process, asked in a form that a shared store can answer in one atomic step. It forgets nothing before its time to make
//! room: where there is no room, nothing new can be told from a replay, and the answer is no.

use std::collections::{HashMap, VecDeque};

use parking_lot::Mutex;

use crate::clock::Timestamp;

/// What was shown, and by whom.
#[derive(Debug, Default)]
pub struct Replays(Mutex<Shown>);

#[derive(Debug, Default)]
struct Shown {
    /// Each with whose it is.
    known: HashMap<Digest, Digest>,
    /// In the order of their coming, which is that of their ends.
    ends: VecDeque<(Timestamp, Digest)>,
    /// How many are whose: nobody may fill the room alone.
    shares: HashMap<Digest, usize>,
}

/// Who, or what, by its SHA-256.
type Digest = [u8; 32];

/// Why something may not be shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repeated {
    /// It was shown before.
    Known,
    /// As many are remembered as may be.
    Full,
}

impl Replays {
    /// Notes that `owner` shows `what`, and remembers it until `until`; of `room` in all, one owner has a quarter.
    ///
    /// # Errors
    /// [`Repeated`].
    pub fn claim(
        &self,
        (owner, what): (Digest, Digest),
        (now, until): (Timestamp, Timestamp),
        room: usize,
    ) -> Result<(), Repeated> {
        let mut shown = self.0.lock();
        shown.forget(now);
        if shown.known.contains_key(&what) {
            return Err(Repeated::Known);
        }
        let share = shown.shares.get(&owner).copied().unwrap_or(0);
        if shown.known.len() >= room || share >= room.div_ceil(SHARES) {
            return Err(Repeated::Full);
        }
        shown.known.insert(what, owner);
        shown.ends.push_back((until, what));
        shown.shares.insert(owner, share.saturating_add(1));
        Ok(())
    }
}

impl Shown {
    fn forget(&mut self, now: Timestamp) {
        while let Some((until, what)) = self.ends.front().copied()
            && until <= now
        {
            self.ends.pop_front();
            let Some(owner) = self.known.remove(&what) else { continue };
            let left = self.shares.get(&owner).copied().unwrap_or(0).saturating_sub(1);
            if left == 0 {
                self.shares.remove(&owner);
            } else {
                self.shares.insert(owner, left);
            }
        }
    }
}

/// Of the room, so that one sender's flood is its own trouble.
const SHARES: usize = 4;

#[cfg(test)]
mod tests {
    use super::{Repeated, Replays, Timestamp};

    const fn at(seconds: u64) -> Timestamp {
        Timestamp::from_unix_seconds(seconds)
    }

    #[test]
    fn what_was_shown_is_known_until_its_time_is_over() {
        let replays = Replays::default();
        let show = |what: u8, now: u64| replays.claim(([0; 32], [what; 32]), (at(now), at(now + 10)), 100);
        assert_eq!(show(1, 0), Ok(()));
        assert_eq!(show(1, 9), Err(Repeated::Known));
        assert_eq!(show(2, 9), Ok(()));
        assert_eq!(show(1, 10), Ok(()));
        assert_eq!(show(2, 10), Err(Repeated::Known));
    }

    #[test]
    fn nobody_fills_the_room_alone_and_nothing_is_forgotten_for_room() {
        let replays = Replays::default();
        let show = |owner: u8, what: u8, now: u64| replays.claim(([owner; 32], [what; 32]), (at(now), at(now + 10)), 8);
        assert_eq!((show(1, 1, 0), show(1, 2, 0), show(1, 3, 0)), (Ok(()), Ok(()), Err(Repeated::Full)));
        for (owner, what) in [(2, 4), (2, 5), (3, 6), (3, 7), (4, 8), (4, 9)] {
            assert_eq!(show(owner, what, 1), Ok(()), "{owner}");
        }
        assert_eq!(show(5, 10, 1), Err(Repeated::Full));
        assert_eq!(show(1, 1, 9), Err(Repeated::Known));
        assert_eq!(show(5, 10, 10), Ok(()), "the two of the first have ended");
    }
}
