//! How does something get to the client?
//!
//! One answer, or a stream that is opened when there is something to say before it. It does not know what is said.

use std::{
    future::Future,
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use tokio::{sync::oneshot, time::sleep_until};

use super::leg::{Ended, Held, instant_after};
use crate::{
    bridge::{Queue, Tracked},
    clock,
    identity::revocation::What,
    inspect::Answer,
    lifecycle::{Response, respond},
    refusal::{Challenge, Era, Refusal},
    rpc::{Asker, sse},
    upstream::Sent,
};

/// What goes back first, and the challenge that belongs to it: what that leads to, the estate knows.
#[derive(Debug)]
pub(in crate::lifecycle) struct Answered {
    pub(in crate::lifecycle) response: Response,
    pub(in crate::lifecycle) challenge: Option<Challenge>,
}

impl From<Response> for Answered {
    fn from(response: Response) -> Self {
        Self { response, challenge: None }
    }
}

/// The way to the client.
#[derive(Debug)]
pub(super) enum Delivery {
    /// Nothing was said yet.
    Waiting(oneshot::Sender<Answered>),
    /// A stream is open.
    Streaming(Arc<Queue>),
    /// The client went away.
    Gone,
}

impl Delivery {
    /// Begins a stream, where nothing was said yet; one of a session can be come back to.
    pub(super) fn open(&mut self, tracked: Option<&Tracked>) {
        if let Self::Waiting(_) = self
            && let Self::Waiting(to_client) = std::mem::replace(self, Self::Gone)
        {
            let (events, to_body) = Queue::new();
            let to_body = match tracked {
                Some(tracked) => tracked.session().carry(to_body),
                None => to_body,
            };
            if to_client.send(respond::stream(to_body).into()).is_ok() {
                *self = Self::Streaming(Arc::new(events));
            }
        }
    }

    /// Sends a notification, where a stream is open; says whether somebody is there. A client that does not read holds
    /// up only its own call, and that as long as [`Self::attend`] waits for anything.
    pub(super) async fn event(&mut self, held: &Held, late: Instant, message: Bytes) -> Result<bool, Interrupted> {
        let events = match self {
            Self::Waiting(_) => return Ok(true),
            Self::Gone => return Ok(false),
            Self::Streaming(events) => Arc::clone(events),
        };
        let there = self.attend(held, late, events.send(sse::message(&message))).await?;
        if !there {
            *self = Self::Gone;
        }
        Ok(there)
    }

    pub(super) async fn answer(self, answer: Answer) {
        match self {
            Self::Waiting(to_client) => drop(to_client.send(respond::answer(answer).into())),
            Self::Streaming(events) => drop(events.send(sse::message(answer.body())).await),
            Self::Gone => {}
        }
    }

    pub(super) async fn refuse(self, asker: &Asker, refusal: &Refusal) {
        let outside = refusal.outside(asker.era);
        match self {
            Self::Waiting(to_client) => {
                let response = respond::refusal(Some(&asker.id), asker.era, &outside, None);
                drop(to_client.send(Answered { response, challenge: outside.challenge }));
            }
            Self::Streaming(events) => {
                let body = respond::error_body(Some(&asker.id), asker.era, &outside);
                events.send(sse::message(&body)).await;
            }
            Self::Gone => {}
        }
    }

    /// Ends what was said, which may be nothing: a client that took its call back waits for no answer, but HTTP has one.
    pub(super) fn end(self) {
        if let Self::Waiting(to_client) = self {
            drop(to_client.send(respond::accepted().into()));
        }
    }

    /// Waits for `work`, unless the client takes the call back, time runs out, or the caller is not welcome any more. For
    /// the latter it looks now and again: whoever is told of it would cost every call, and nearly none is revoked. What
    /// lasts ends with the caller's credential; one answer may come after it, for its tool's time is short and known.
    pub(super) async fn attend<T>(
        &mut self,
        held: &Held,
        late: Instant,
        work: impl Future<Output = T>,
    ) -> Result<T, Interrupted> {
        let mut work = pin!(work);
        let lasts = held.lasts || !matches!(self, Self::Waiting(_));
        loop {
            let now = clock::instant();
            if now >= late {
                return Err(Interrupted::Late); // also where there is always something to do
            }
            held.ward.admit(What::Call).map_err(Interrupted::Revoked)?;
            if lasts && now >= held.ward.until() {
                return Err(Interrupted::Expired);
            }
            let look = instant_after(LOOK_AFTER).min(late);
            tokio::select! {
                biased;
                done = &mut work => return Ok(done),
                () = self.taken_back(held) => {
                    // A session that was ended takes its calls back.
                    return Err(held.ward.admit(What::Call).err().map_or(Interrupted::Cancelled, Interrupted::Revoked));
                }
                () = sleep_until(look.into()) => {}
            }
        }
    }

    /// A modern client takes a call back by closing the stream (RS-09); a legacy client says so, and going away means
    /// nothing (RL-07).
    async fn taken_back(&mut self, held: &Held) {
        match (held.asker.era, &held.tracked) {
            (Era::Modern, _) => self.closed().await,
            (Era::Legacy, Some(tracked)) => tracked.cancelled().await,
            (Era::Legacy, None) => std::future::pending().await,
        }
    }

    /// Returns when the client has gone away.
    async fn closed(&mut self) {
        match self {
            Self::Waiting(to_client) => to_client.closed().await,
            Self::Streaming(events) => events.closed().await,
            Self::Gone => {}
        }
    }
}

/// Why the carriage stopped waiting.
pub(super) enum Interrupted {
    /// The client took the call back.
    Cancelled,
    /// The deadline passed.
    Late,
    /// The caller is not welcome any more.
    Revoked(Refusal),
    /// The caller's credential has ended.
    Expired,
}

impl Interrupted {
    /// How a call ends that nothing else can be made of; `late` is what a deadline means there.
    pub(super) fn end(self, late: Refusal) -> Ended {
        match self {
            Self::Cancelled => Ended::cancelled(),
            Self::Late => Ended::refused(late),
            Self::Revoked(refusal) => Ended::revoked(refusal),
            Self::Expired => Ended::expired(),
        }
    }

    /// The same of a call of which so much has gone up: what was never executed leaves nobody to wonder what came of it.
    pub(super) fn end_of(self, sent: &Sent, late: Refusal) -> Ended {
        match self {
            Self::Revoked(refusal) if !sent.has_left() => {
                let ended = Ended::unsent(refusal);
                if sent.is_seen() { ended.once_seen() } else { ended }
            }
            Self::Cancelled | Self::Late | Self::Revoked(_) | Self::Expired => self.end(late),
        }
    }
}

/// How soon a call under way ends whose caller was revoked, or whose credential has ended.
const LOOK_AFTER: Duration = Duration::from_millis(250);

#[cfg(test)]
mod tests {
    use tokio::{join, sync::Semaphore, time::sleep};

    use super::*;
    use crate::{
        identity::revocation::{Revocations, Whom},
        lifecycle::revoke::Ward,
        policy::fixtures,
        rpc::{
            RequestId,
            json::{Bounds, Document},
        },
    };

    fn held(revocations: &Revocations) -> Held {
        let bounds = Bounds { depth_max: 1, values_max: 1, name_bytes_max: 1, number_chars_max: 9 };
        let id = RequestId::of(Document::parse(Bytes::from_static(b"1"), &bounds).unwrap().root()).unwrap();
        let asker = Asker { id, version: "2026-07-28", era: Era::Modern, progress_token: None, log_level: None };
        let ward = Ward::of(revocations, fixtures::caller("alice", None, &[], &[]));
        let room = Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap();
        Held { asker, tracked: None, ward, lasts: false, _room: room }
    }

    #[tokio::test(start_paused = true)]
    async fn who_does_not_read_is_not_waited_for_longer_than_anybody() {
        let revocations = Revocations::default();
        let (held, (events, unread)) = (held(&revocations), Queue::new());
        let mut delivery = Delivery::Streaming(Arc::new(events));
        let (hour, message) = (|| instant_after(Duration::from_secs(3_600)), Bytes::from_static(b"{}"));
        for _ in 0..16 {
            assert!(matches!(delivery.event(&held, hour(), message.clone()).await, Ok(true)));
        }
        let late = delivery.event(&held, clock::instant(), message.clone()).await;
        assert!(matches!(late, Err(Interrupted::Late)), "the deadline counts");
        let (revoked, ()) = join!(delivery.event(&held, hour(), message.clone()), async {
            sleep(Duration::from_secs(1)).await;
            revocations.end_here(Whom::User { name: "alice".to_owned(), issuer: None }, None, "gone");
        });
        assert!(matches!(revoked, Err(Interrupted::Revoked(_))), "and so does a revocation");
        drop(unread);
    }
}
