//! Which calls wait at legacy upstreams until a modern client comes back with answers?
//!
//! A *hold* is one call whose upstream asked for something and whose client was told so (spec §2.3). It has a name that
//! nobody guesses, belongs to one principal, is bounded in number, and each of its rounds is continued by one request. It
//! does not know what a request brings: that is the assembly's `T`.

use std::{collections::HashMap, sync::Arc};

use parking_lot::Mutex;
use quick_cache::sync::Cache;
use tokio::sync::oneshot;
use uuid::Uuid;

use crate::{config::Limits, refusal::Refusal, telemetry::metrics};

/// All holds of this process.
#[derive(Debug)]
pub struct Holds<T> {
    seats: Mutex<Seats<T>>,
    /// Holds that were continued to their end, as long as there is room to remember them: their states were used.
    spent: Cache<Uuid, ()>,
    max: usize,
    share: usize,
}

#[derive(Debug)]
struct Seats<T> {
    by_id: HashMap<Uuid, Seat<T>>,
    by_principal: HashMap<[u8; 32], usize>,
    /// Nobody comes back to a gateway that ends.
    drained: bool,
}

#[derive(Debug)]
struct Seat<T> {
    round: u32,
    door: Option<oneshot::Sender<T>>,
}

impl<T> Seat<T> {
    /// Whether its call waits or has waited: the room is taken before anybody knows whether it comes to that.
    const fn is_held(&self) -> bool {
        self.round > 0
    }
}

impl<T> Holds<T> {
    /// No holds yet, at most `limits.holds_max`, and for one principal a share of them.
    #[must_use]
    pub fn new(limits: &Limits) -> Self {
        Self {
            seats: Mutex::new(Seats { by_id: HashMap::new(), by_principal: HashMap::new(), drained: false }),
            spent: Cache::new(limits.holds_max),
            max: limits.holds_max,
            share: limits.holds_max.div_ceil(super::SHARES),
        }
    }

    /// A place for one more call that may have to be held.
    ///
    /// # Errors
    /// [`Refusal::Overloaded`] where there is none, in all or for this principal.
    pub fn place(self: &Arc<Self>, principal: [u8; 32]) -> Result<Place<T>, Refusal> {
        let mut seats = self.seats.lock();
        if seats.by_id.len() >= self.max {
            return Err(Refusal::Overloaded("held calls"));
        }
        let own = seats.by_principal.entry(principal).or_default();
        if *own >= self.share {
            return Err(Refusal::Overloaded("held calls of one principal"));
        }
        *own = own.saturating_add(1);
        let id = Uuid::new_v4();
        seats.by_id.insert(id, Seat { round: 0, door: None });
        Ok(Place { holds: Arc::clone(self), id, principal, continued: false })
    }

    /// Ends every hold, and each that would begin: who waits at a door finds it closed.
    pub fn drain(&self) {
        let mut seats = self.seats.lock();
        seats.drained = true;
        for seat in seats.by_id.values_mut() {
            seat.door = None;
        }
    }

    /// Takes the one chance to continue `round` of the hold `id`; it is given back where the claim is dropped.
    ///
    /// # Errors
    /// [`Refusal::RequestStateUsed`], or [`Refusal::ContinuationLost`] where nothing waits under this name.
    pub fn claim(self: &Arc<Self>, id: Uuid, round: u32) -> Result<Claim<T>, Refusal> {
        if self.spent.contains_key(&id) {
            return Err(Refusal::RequestStateUsed);
        }
        let mut seats = self.seats.lock();
        let seat = seats.by_id.get_mut(&id).ok_or(Refusal::ContinuationLost)?;
        let door = if seat.round == round { seat.door.take() } else { None };
        let door = door.ok_or(Refusal::RequestStateUsed)?;
        Ok(Claim { holds: Arc::clone(self), id, door: Some(door) })
    }
}

/// A held call's place; dropping it ends the hold.
#[derive(Debug)]
pub struct Place<T> {
    holds: Arc<Holds<T>>,
    id: Uuid,
    principal: [u8; 32],
    continued: bool,
}

impl<T> Place<T> {
    /// The hold's name.
    #[must_use]
    pub const fn id(&self) -> Uuid {
        self.id
    }

    /// Opens the hold for the request that continues `round`, from 1.
    #[must_use]
    pub fn open(&self, round: u32) -> oneshot::Receiver<T> {
        let (door, arrives) = oneshot::channel();
        let mut seats = self.holds.seats.lock();
        let door = (!seats.drained).then_some(door);
        if let Some(seat) = seats.by_id.get_mut(&self.id) {
            if !seat.is_held() {
                metrics().holds.increment();
            }
            *seat = Seat { round, door };
        }
        arrives
    }

    /// Says that the client came back: when the call ends, its states count as used and not as lost.
    pub const fn continued(&mut self, came_back: bool) {
        self.continued = came_back;
    }
}

impl<T> Drop for Place<T> {
    fn drop(&mut self) {
        if self.continued {
            self.holds.spent.insert(self.id, ());
        }
        let mut seats = self.holds.seats.lock();
        if seats.by_id.remove(&self.id).is_some_and(|seat| seat.is_held()) {
            metrics().holds.decrement();
        }
        if let Some(own) = seats.by_principal.get_mut(&self.principal) {
            *own = own.saturating_sub(1);
            if *own == 0 {
                seats.by_principal.remove(&self.principal);
            }
        }
    }
}

/// The one chance to continue a hold.
#[derive(Debug)]
pub struct Claim<T> {
    holds: Arc<Holds<T>>,
    id: Uuid,
    door: Option<oneshot::Sender<T>>,
}

impl<T> Claim<T> {
    /// Hands over what the request brings.
    ///
    /// # Errors
    /// `next` again, where the call ended meanwhile.
    pub fn enter(mut self, next: T) -> Result<(), T> {
        match self.door.take() {
            Some(door) => door.send(next),
            None => Err(next),
        }
    }
}

impl<T> Drop for Claim<T> {
    fn drop(&mut self) {
        let Some(door) = self.door.take() else { return };
        let mut seats = self.holds.seats.lock();
        let drained = seats.drained;
        if let Some(seat) = seats.by_id.get_mut(&self.id)
            && !drained
        {
            seat.door = Some(door);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::HashMap, sync::Arc};

    use parking_lot::Mutex;
    use quick_cache::sync::Cache;
    use tokio::sync::oneshot::error::TryRecvError;

    use super::{Holds, Seats};
    use crate::refusal::Refusal;

    fn holds(max: usize, share: usize) -> Arc<Holds<u8>> {
        let seats = Mutex::new(Seats { by_id: HashMap::new(), by_principal: HashMap::new(), drained: false });
        Arc::new(Holds { seats, spent: Cache::new(16), max, share })
    }

    #[test]
    fn a_round_is_continued_once_and_a_chance_that_was_not_used_comes_back() {
        let holds = holds(4, 4);
        let mut place = holds.place([1; 32]).unwrap();
        let mut arrives = place.open(1);
        let (id, code) = (place.id(), |claim: Result<_, Refusal>| claim.err().map(|refusal| refusal.code()));
        drop(holds.claim(id, 1).unwrap());
        let claim = holds.claim(id, 1).unwrap();
        assert_eq!(code(holds.claim(id, 1)), Some("request_state_used"), "while the first is at work");
        claim.enter(7).unwrap();
        assert_eq!(arrives.try_recv(), Ok(7));
        place.continued(true);
        let _arrives = place.open(2);
        assert_eq!(code(holds.claim(id, 1)), Some("request_state_used"), "an earlier round");
        let late = holds.claim(id, 2).unwrap();
        drop(place);
        assert_eq!(late.enter(8), Ok(()), "the door was open still");
        assert_eq!(code(holds.claim(id, 2)), Some("request_state_used"));
        let lost = holds.place([1; 32]).unwrap();
        let id = lost.id();
        drop(lost);
        assert_eq!(code(holds.claim(id, 0)), Some("continuation_lost"));
    }

    #[test]
    fn a_drain_closes_every_door() {
        let holds = holds(4, 4);
        let (place, claimed) = (holds.place([1; 32]).unwrap(), holds.place([1; 32]).unwrap());
        let (mut arrives, mut comes) = (place.open(1), claimed.open(1));
        let claim = holds.claim(claimed.id(), 1).unwrap();
        holds.drain();
        assert_eq!(arrives.try_recv(), Err(TryRecvError::Closed));
        assert_eq!(comes.try_recv(), Err(TryRecvError::Empty), "who is let in already gets in");
        drop(claim);
        assert_eq!(comes.try_recv(), Err(TryRecvError::Closed));
        assert_eq!(place.open(2).try_recv(), Err(TryRecvError::Closed));
    }

    #[test]
    fn holds_are_bounded_in_all_and_for_each_principal() {
        let holds = holds(3, 2);
        let own = [holds.place([1; 32]).unwrap(), holds.place([1; 32]).unwrap()];
        assert!(holds.place([1; 32]).is_err());
        let other = holds.place([2; 32]).unwrap();
        assert!(holds.place([3; 32]).is_err());
        drop((own, other));
        assert!(holds.place([1; 32]).is_ok() && holds.place([3; 32]).is_ok());
    }
}
