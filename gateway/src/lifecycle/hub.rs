//! Who has to be told that something changed?
//!
//! One word for all listeners at once: each looks for itself whether what it may see is another than before, so that
//! nobody learns of a change in what is hidden from them, and a listener costs nothing while it waits. It sends nothing.

use std::{
    collections::{BTreeMap, HashMap, hash_map::Entry},
    hash::{DefaultHasher, Hash as _, Hasher as _},
    sync::{Arc, Weak},
};

use parking_lot::Mutex;
use tokio::sync::watch;

use super::Estate;
use crate::{
    catalog::Definition,
    clock::Timestamp,
    config::{Endpoint, UpstreamId},
    identity::Identity,
    refusal::Refusal,
    rpc::{Topic, Topics},
    telemetry::metrics::metrics,
};

/// Where listeners wait.
#[derive(Debug)]
pub(super) struct Hub {
    news: watch::Sender<Arc<News>>,
    seats: Arc<Seats>,
}

/// What has happened so far, as far as it concerns anybody.
#[derive(Debug, Clone, Default)]
pub(super) struct News {
    /// How often each upstream has said that a list of its own has changed, and the list was read again since. A change
    /// that cannot be seen in the list is one too: the upstream says so.
    words: BTreeMap<UpstreamId, [u64; Topic::ALL.len()]>,
    /// The gateway ends.
    pub(super) draining: bool,
}

impl Hub {
    /// Room for `listeners_max`.
    pub(super) fn new(listeners_max: usize) -> Self {
        let seats =
            Seats { max: listeners_max, share: listeners_max.div_ceil(SHARES), taken: Mutex::new(Taken::default()) };
        Self { news: watch::Sender::new(Arc::default()), seats: Arc::new(seats) }
    }

    /// From now on the receiver is told of every change.
    pub(super) fn listen(&self) -> watch::Receiver<Arc<News>> {
        self.news.subscribe()
    }

    /// Everybody looks again. What they will see has to be in place.
    pub(super) fn changed(&self) {
        self.news.send_modify(|_same| {});
    }

    /// The same, and an upstream said that its lists `topics` have changed.
    pub(super) fn said(&self, upstream: &UpstreamId, topics: Topics) {
        self.news.send_modify(|news| {
            let words = Arc::make_mut(news).words.entry(upstream.clone()).or_default();
            for (topic, count) in Topic::ALL.into_iter().zip(words) {
                *count = count.saturating_add(u64::from(topics.has(topic)));
            }
        });
    }

    /// Listeners end.
    pub(super) fn drain(&self) {
        self.news.send_modify(|news| Arc::make_mut(news).draining = true);
    }

    /// Room for one more listener of `principal`. A session has one stream: its next takes the room of the one before, which
    /// its client may have lost without our noticing.
    pub(super) fn seat(&self, principal: [u8; 32], session: Option<&str>) -> Result<Arc<Seat>, Refusal> {
        self.seats.take(principal, session)
    }
}

/// What one caller sees of an endpoint, by topic: two that are equal show the same lists, and nothing was said of them
/// in between.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct View {
    marks: [u64; Topic::ALL.len()],
    /// Whether there is anything in it.
    pub(super) any: bool,
}

impl View {
    /// What `identity` sees at `now`.
    pub(super) fn of(
        estate: &Estate,
        news: &News,
        (identity, endpoint): (&Identity, &Endpoint),
        now: Timestamp,
    ) -> Self {
        let (rules, catalogue) = (estate.rules.load(), estate.catalogue.load());
        let mut view = Self::default();
        for (id, listing) in catalogue.behind(endpoint) {
            let words = news.words.get(id).copied().unwrap_or_default();
            let lists: [[&[Arc<Definition>]; 2]; Topic::ALL.len()] =
                [[&listing.tools, &[]], [&listing.prompts, &[]], [&listing.resources, &listing.templates]];
            for (lists, (mark, words)) in lists.into_iter().zip(view.marks.iter_mut().zip(words)) {
                let mut seen = DefaultHasher::new();
                let mut any = false;
                let known = lists.into_iter().flatten();
                for definition in known.filter(|known| rules.policies.visible(identity, known, now)) {
                    (&definition.name, &definition.whole).hash(&mut seen);
                    any = true;
                }
                if any {
                    (&*mark, id.as_str(), words).hash(&mut seen);
                    *mark = seen.finish();
                    view.any = true;
                }
            }
        }
        view
    }

    /// The topics of which `self` differs from what was seen `before`.
    pub(super) fn differs(&self, before: &Self) -> Topics {
        let marks = Topic::ALL.into_iter().zip(self.marks.iter().zip(&before.marks));
        marks.filter(|(_, (now, then))| now != then).map(|(topic, _)| topic).collect()
    }
}

/// The room for listeners, over all and by principal: one who opens listener after listener keeps only themselves out.
#[derive(Debug)]
struct Seats {
    max: usize,
    share: usize,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    all: usize,
    by_principal: HashMap<[u8; 32], usize>,
    by_session: HashMap<String, Weak<Seat>>,
}

/// Room for one listener, until dropped.
#[derive(Debug)]
pub(super) struct Seat {
    seats: Arc<Seats>,
    principal: [u8; 32],
    session: Option<String>,
}

impl Seats {
    fn take(self: &Arc<Self>, principal: [u8; 32], session: Option<&str>) -> Result<Arc<Seat>, Refusal> {
        let mut taken = self.taken.lock();
        if let Some(seat) = session.and_then(|session| taken.by_session.get(session)).and_then(Weak::upgrade) {
            return Ok(seat);
        }
        let own = taken.by_principal.get(&principal).copied().unwrap_or_default();
        if taken.all >= self.max || own >= self.share {
            return Err(Refusal::Overloaded("listeners"));
        }
        taken.all = taken.all.saturating_add(1);
        taken.by_principal.insert(principal, own.saturating_add(1));
        let session = session.map(str::to_owned);
        let seat = Arc::new(Seat { seats: Arc::clone(self), principal, session });
        taken.by_session.extend(seat.session.clone().map(|session| (session, Arc::downgrade(&seat))));
        drop(taken);
        metrics().listeners.increment();
        Ok(seat)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut taken = self.seats.taken.lock();
        taken.all = taken.all.saturating_sub(1);
        if let Entry::Occupied(mut own) = taken.by_principal.entry(self.principal) {
            *own.get_mut() = own.get().saturating_sub(1);
            if *own.get() == 0 {
                own.remove();
            }
        }
        // The session may have a seat again by now.
        if let Some(session) = &self.session
            && taken.by_session.get(session).is_some_and(|seat| seat.strong_count() == 0)
        {
            taken.by_session.remove(session);
        }
        metrics().listeners.decrement();
    }
}

/// One principal may have one of so many shares of the room for listeners.
const SHARES: usize = 4;

#[cfg(test)]
mod tests {
    use super::{Hub, Refusal};

    #[test]
    fn nobody_takes_all_the_room_and_what_is_given_back_can_be_taken() {
        let hub = Hub::new(8);
        let seat = |who: u8, session| hub.seat([who; 32], session);
        let full = Refusal::Overloaded("listeners");
        let mut own = vec![seat(1, None).unwrap(), seat(1, Some("s")).unwrap()];
        assert_eq!(seat(1, None).unwrap_err(), full);
        let again = seat(1, Some("s")).unwrap();
        assert_eq!(seat(1, Some("t")).unwrap_err(), full, "another session is another listener");
        let others: Vec<_> = (2..8).map(|who| seat(who, None).unwrap()).collect();
        assert_eq!(seat(9, None).unwrap_err(), full, "the whole is bounded too");
        own.pop();
        assert_eq!(seat(1, None).unwrap_err(), full, "the session still has its room");
        drop(again);
        assert!(seat(1, None).is_ok());
        drop((own, others));
        let taken = hub.seats.taken.lock();
        assert!(taken.by_principal.is_empty() && taken.by_session.is_empty());
    }
}
