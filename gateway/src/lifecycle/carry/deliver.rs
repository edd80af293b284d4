//! How does something get to the client?
//!
//! One answer, or a stream that is opened when there is something to say before it. It does not know what is said.

use std::{
    future::Future,
    pin::pin,
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
    refusal::{Era, Refusal},
    rpc::{Asker, sse},
};

/// The way to the client.
#[derive(Debug)]
pub(super) enum Delivery {
    /// Nothing was said yet.
    Waiting(oneshot::Sender<Response>),
    /// A stream is open.
    Streaming(Queue),
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
            if to_client.send(respond::stream(to_body)).is_ok() {
                *self = Self::Streaming(events);
            }
        }
    }

    /// Sends a notification, where a stream is open; says whether somebody is there. A client that does not read holds
    /// up only its own call, and that until the deadline.
    pub(super) async fn event(&mut self, message: Bytes) -> bool {
        match self {
            Self::Waiting(_) => true,
            Self::Gone => false,
            Self::Streaming(events) => {
                let there = events.send(sse::message(&message)).await;
                if !there {
                    *self = Self::Gone;
                }
                there
            }
        }
    }

    pub(super) async fn answer(self, answer: Answer) {
        match self {
            Self::Waiting(to_client) => drop(to_client.send(respond::answer(answer))),
            Self::Streaming(events) => drop(events.send(sse::message(answer.body())).await),
            Self::Gone => {}
        }
    }

    pub(super) async fn refuse(self, asker: &Asker, refusal: &Refusal) {
        let outside = refusal.outside(asker.era);
        match self {
            Self::Waiting(to_client) => {
                drop(to_client.send(respond::refusal(Some(&asker.id), asker.era, &outside, None)))
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
            drop(to_client.send(respond::accepted()));
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
}

/// How soon a call under way ends whose caller was revoked, or whose credential has ended.
const LOOK_AFTER: Duration = Duration::from_millis(250);
