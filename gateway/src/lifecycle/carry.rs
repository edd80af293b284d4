//! What happens to a call once it is recorded?
//!
//! A task of its own carries it: out under its grant, the messages of the answer inspected one by one on their way back,
//! and the outcome written down however it ends. A client that goes away does not take the outcome with it.

use std::{
    future::Future,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderName, HeaderValue};
use tokio::{
    sync::{OwnedSemaphorePermit, mpsc, oneshot},
    time::sleep_until,
};

use super::{Estate, Response, respond};
use crate::{
    audit::{Ending, Journal, Outcome, Receipt},
    bridge::Tracked,
    catalog::Target,
    ceiling::Admission,
    clock,
    exchange::Grant,
    identity::Identity,
    inspect::{Answer, Inspector, Verdict},
    refusal::{Era, Refusal},
    rpc::{Asker, Call, sse},
    tasks::Tasks,
    upstream::{Forwarded, Passage, Peer, Reply},
};

/// A call under way, with everything that it holds until it ends.
#[derive(Debug)]
pub(super) struct Carriage {
    pub(super) estate: Arc<Estate>,
    pub(super) journal: Arc<Journal>,
    pub(super) peer: Arc<Peer>,
    pub(super) identity: Arc<Identity>,
    pub(super) began: Instant,
    pub(super) call: Call,
    pub(super) asker: Asker,
    pub(super) target: Target,
    /// `Mcp-Param-*` headers that no schema declares: forwarded and otherwise ignored (RI-02).
    pub(super) unrecognised: Vec<(HeaderName, HeaderValue)>,
    /// Whether the client takes a stream of events.
    pub(super) streams: bool,
    pub(super) tracked: Option<Tracked>,
    /// Room in the ceilings and in the gateway, given back when the call ends.
    pub(super) held: (Admission, OwnedSemaphorePermit),
}

/// Why the carriage stopped waiting.
enum Interrupted {
    /// The client took the call back.
    Cancelled,
    /// The deadline passed.
    Late,
}

/// How a call ended, for its record.
struct Ended {
    ending: Ending,
    refusal: Option<Refusal>,
    answer: Option<Answer>,
}

impl Carriage {
    /// Sets out, and returns as soon as there is something to tell the client.
    pub(super) async fn depart(self, tasks: &Tasks, receipt: Receipt, grant: Grant) -> Result<Response, Refusal> {
        let (to_client, from_carriage) = oneshot::channel();
        tasks.spawn(self.carry(receipt, grant, Delivery::Waiting(to_client)));
        from_carriage.await.map_err(|_gone| Refusal::Bug("a call ended without an answer"))
    }

    async fn carry(self, receipt: Receipt, grant: Grant, mut delivery: Delivery) {
        let id = receipt.id();
        let ended = self.ride(receipt, grant, &mut delivery).await;
        self.journal.outcome(id, &self.outcome(&ended));
        match ended {
            Ended { answer: Some(answer), .. } => delivery.answer(answer).await,
            Ended { refusal: Some(refusal), .. } => delivery.refuse(&self.asker, &refusal).await,
            Ended { .. } => {}
        }
    }

    async fn ride(&self, receipt: Receipt, grant: Grant, delivery: &mut Delivery) -> Ended {
        let late = self.deadline();
        let reply = match self.attend(delivery, late, self.send(receipt, grant)).await {
            Ok(Ok(reply)) => reply,
            Ok(Err(refusal)) => return Ended::refused(refusal),
            Err(Interrupted::Cancelled) => return Ended::cancelled(),
            Err(Interrupted::Late) => return Ended::refused(Refusal::UpstreamTimeout),
        };
        self.read(reply, delivery).await
    }

    /// Sends the call. A credential that the upstream refuses is minted anew, once: a 401 proves that nothing was
    /// executed (spec §2.6).
    async fn send(&self, receipt: Receipt, grant: Grant) -> Result<Reply, Refusal> {
        let key = grant.key();
        let receipt = match self.peer.forward(receipt, grant, &self.passage()).await? {
            Forwarded::Answered(reply) => return Ok(reply),
            Forwarded::Unauthorized(receipt) => receipt,
        };
        let exchange = &self.estate.exchange;
        exchange.drop_grant(&key);
        let grant = exchange.mint(&self.identity, self.peer.settings(), &self.target.tool.mints, clock::now()).await?;
        let key = grant.key();
        match self.peer.forward(receipt, grant, &self.passage()).await? {
            Forwarded::Answered(reply) => Ok(reply),
            Forwarded::Unauthorized(_receipt) => {
                exchange.drop_grant(&key);
                Err(Refusal::UpstreamUnauthorized)
            }
        }
    }

    fn passage(&self) -> Passage<'_> {
        Passage {
            caller: &self.identity,
            call: &self.call,
            target: &self.target,
            unrecognised: &self.unrecognised,
            traceparent: None,
            tracestate: None,
        }
    }

    /// Reads the upstream's messages until this call's response, and lets through what may go back.
    async fn read(&self, mut reply: Reply, delivery: &mut Delivery) -> Ended {
        let mut inspector = Inspector::new(&self.asker, reply.id, reply.spoken.era, reply.status.as_u16());
        let end_of_stream = self.instant_after(self.estate.config.limits.stream_max);
        let mut late = self.deadline();
        let mut opens = reply.messages.is_stream().then(|| self.instant_after(STREAM_OPENS_AFTER));
        loop {
            let until = opens.map_or(late, |opens| opens.min(late)).min(end_of_stream);
            let message = match self.attend(delivery, until, reply.messages.next()).await {
                Ok(Ok(Some(message))) => message,
                Ok(Ok(None)) => return Ended::refused(Refusal::UpstreamLost("the answer ended without a response".to_owned())),
                Ok(Err(refusal)) => return Ended::refused(refusal),
                Err(Interrupted::Cancelled) => {
                    reply.cancel("the caller took the call back").await;
                    return Ended::cancelled();
                }
                Err(Interrupted::Late) if opens.take().is_some_and(|opens| opens < late) => {
                    self.open(delivery);
                    continue;
                }
                Err(Interrupted::Late) => {
                    reply.cancel("the deadline passed").await;
                    return Ended::refused(Refusal::UpstreamTimeout);
                }
            };
            match inspector.admit(message) {
                Ok(Verdict::Answer(answer)) => return Ended::answered(answer),
                Ok(Verdict::Forward(notification)) => {
                    // Progress is a sign of life: the tool's own time begins anew, within the life of a stream.
                    late = self.deadline();
                    opens = None;
                    self.open(delivery);
                    if !delivery.event(notification).await && self.call.era() == Era::Modern {
                        reply.cancel("the caller went away").await;
                        return Ended::cancelled();
                    }
                }
                Ok(Verdict::Respond(message)) => reply.respond(message).await,
                Ok(Verdict::Dropped(why)) => tracing::debug!(upstream = %self.target.tool.upstream, why, "dropped a message"),
                Err(refusal) => return Ended::refused(refusal),
            }
        }
    }

    /// From now on the client gets events, where it takes them.
    fn open(&self, delivery: &mut Delivery) {
        if self.streams {
            delivery.open();
        }
    }

    /// Waits for `work`, unless the client takes the call back or time runs out.
    async fn attend<T>(
        &self,
        delivery: &mut Delivery,
        late: Instant,
        work: impl Future<Output = T>,
    ) -> Result<T, Interrupted> {
        tokio::select! {
            biased;
            done = work => Ok(done),
            () = self.taken_back(delivery) => Err(Interrupted::Cancelled),
            () = sleep_until(late.into()) => Err(Interrupted::Late),
        }
    }

    /// A modern client takes a call back by closing the stream (RS-09); a legacy client says so, and going away means
    /// nothing (RL-07).
    async fn taken_back(&self, delivery: &mut Delivery) {
        match (self.call.era(), &self.tracked) {
            (Era::Modern, _) => delivery.closed().await,
            (Era::Legacy, Some(tracked)) => tracked.cancelled().await,
            (Era::Legacy, None) => std::future::pending().await,
        }
    }

    fn deadline(&self) -> Instant {
        self.instant_after(self.target.tool.timeout)
    }

    fn instant_after(&self, span: Duration) -> Instant {
        let now = clock::instant();
        now.checked_add(span).unwrap_or(now)
    }

    fn outcome<'a>(&self, ended: &'a Ended) -> Outcome<'a> {
        let mut outcome = Outcome::new(ended.ending);
        outcome.duration_us = u64::try_from(self.began.elapsed().as_micros()).ok();
        if let Some(answer) = &ended.answer {
            outcome.status = Some(200);
            outcome.rpc_code = answer.rpc_code();
            outcome.bytes = u64::try_from(answer.body().len()).ok();
        }
        if let Some(refusal) = &ended.refusal {
            let outside = refusal.outside(self.call.era());
            outcome.status = Some(outside.status);
            outcome.rpc_code = Some(i64::from(outside.rpc));
            outcome.code = Some(outside.code);
        }
        outcome
    }
}

impl Ended {
    fn answered(answer: Answer) -> Self {
        let ending = match (answer.rpc_code(), answer.is_error()) {
            (Some(_), _) => Ending::RpcError,
            (None, true) => Ending::ToolError,
            (None, false) => Ending::Ok,
        };
        Self { ending, refusal: None, answer: Some(answer) }
    }

    fn refused(refusal: Refusal) -> Self {
        let ending = match refusal {
            Refusal::UpstreamUnreachable(_) | Refusal::CredentialLeak => Ending::NotForwarded,
            _ => Ending::Failed,
        };
        Self { ending, refusal: Some(refusal), answer: None }
    }

    const fn cancelled() -> Self {
        Self { ending: Ending::Cancelled, refusal: None, answer: None }
    }
}

/// The way to the client.
enum Delivery {
    /// Nothing was said yet.
    Waiting(oneshot::Sender<Response>),
    /// A stream is open.
    Streaming(mpsc::Sender<Bytes>),
    /// The client went away.
    Gone,
}

impl Delivery {
    /// Begins a stream, where nothing was said yet.
    fn open(&mut self) {
        if let Self::Waiting(_) = self
            && let Self::Waiting(to_client) = std::mem::replace(self, Self::Gone)
        {
            let (events, to_body) = mpsc::channel(EVENTS_WAITING_MAX);
            if to_client.send(respond::stream(to_body)).is_ok() {
                *self = Self::Streaming(events);
            }
        }
    }

    /// Sends a notification, where a stream is open; says whether somebody is there. A client that does not read holds
    /// up only its own call, and that until the deadline.
    async fn event(&mut self, message: Bytes) -> bool {
        match self {
            Self::Waiting(_) => true,
            Self::Gone => false,
            Self::Streaming(events) => {
                let sent = tokio::time::timeout(CLIENT_STALL_MAX, events.send(sse::event(&message))).await;
                let there = matches!(sent, Ok(Ok(())));
                if !there {
                    *self = Self::Gone;
                }
                there
            }
        }
    }

    async fn answer(self, answer: Answer) {
        match self {
            Self::Waiting(to_client) => drop(to_client.send(respond::answer(answer))),
            Self::Streaming(events) => drop(tokio::time::timeout(CLIENT_STALL_MAX, events.send(sse::event(answer.body()))).await),
            Self::Gone => {}
        }
    }

    async fn refuse(self, asker: &Asker, refusal: &Refusal) {
        match self {
            Self::Waiting(to_client) => drop(to_client.send(respond::refusal(Some(&asker.id), asker.era, refusal, None))),
            Self::Streaming(events) => {
                let body = respond::error_body(Some(&asker.id), asker.era, refusal);
                drop(tokio::time::timeout(CLIENT_STALL_MAX, events.send(sse::event(&body))).await);
            }
            Self::Gone => {}
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

/// An upstream's stream that has said nothing for so long is opened towards the client, so that it hears keep-alives; an
/// answer that comes sooner goes back as plain JSON.
const STREAM_OPENS_AFTER: Duration = Duration::from_millis(500);

/// Events that may wait for a client that reads slowly; beyond that the upstream is not read.
const EVENTS_WAITING_MAX: usize = 16;

/// A client that takes no event for so long is taken to be gone.
const CLIENT_STALL_MAX: Duration = Duration::from_secs(20);
