//! What happens to a call once it is recorded?
//!
//! A task of its own carries it: out under its grant, the messages of the answer inspected one by one on their way back,
//! and the outcome written down however it ends. A client that goes away does not take the outcome with it.

use std::{
    borrow::Cow,
    future::Future,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, StatusCode};
use tokio::{
    sync::{OwnedSemaphorePermit, mpsc, oneshot},
    time::sleep_until,
};
use uuid::Uuid;

use super::{
    Asking, Estate, Response,
    kept::{Allowed, Keeping},
    local, respond,
    trail::Trail,
};
use crate::{
    audit::{
        journal::{Journal, Receipt},
        record::{self, Ending, Outcome, Who},
    },
    bridge::Tracked,
    catalog::Target,
    clock,
    exchange::Grant,
    identity::Identity,
    inspect::{self, Answer, Outcome as Judged, Relay, Sent},
    refusal::{Era, Refusal},
    rpc::{
        Asker, Call, mirrors, outbound,
        reply::{self, Inbound},
        sse,
    },
    tasks::Tasks,
    telemetry::{
        Operation,
        metrics::{self, metrics},
        names,
    },
    upstream::{Forwarded, Passage, Peer, Reply},
};

/// A call under way, with everything that it holds until it ends.
#[derive(Debug)]
pub(super) struct Carriage {
    estate: Arc<Estate>,
    peer: Arc<Peer>,
    identity: Arc<Identity>,
    call: Call,
    target: Target,
    /// Whether the URIs that the client sees carry the upstream's id.
    prefixed: bool,
    held: Held,
    /// `Mcp-Param-*` headers that no schema declares: forwarded and otherwise ignored (RI-02).
    unrecognised: Vec<(HeaderName, HeaderValue)>,
    /// Whether the client takes a stream of events.
    streams: bool,
    /// What let it through.
    allowed: Allowed,
    /// The span of the request, and that of the call to the upstream within it.
    spans: (Operation, Operation),
    /// The latter as the upstream gets it.
    traceparent: String,
    /// When the request came in, and when the call set out.
    times: (Instant, Instant),
}

/// What a call holds besides the ceilings' room, given back when it ends.
#[derive(Debug)]
pub(super) struct Held {
    /// To whom the answer goes, and in what form.
    pub(super) asker: Asker,
    /// Its place in a legacy session.
    pub(super) tracked: Option<Tracked>,
    /// Its room among the calls in flight.
    pub(super) _room: OwnedSemaphorePermit,
}

impl Drop for Held {
    fn drop(&mut self) {
        metrics().calls.decrement();
    }
}

/// A call whose outcome is not written yet. It gets one however it ends: also where a bug stops the carriage, or the
/// drain's time is up before the upstream has answered.
struct Open {
    journal: Arc<Journal>,
    id: Uuid,
    noted: bool,
}

impl Open {
    fn close(mut self, outcome: &Outcome<'_>) {
        self.note(outcome);
    }

    fn note(&mut self, outcome: &Outcome<'_>) {
        self.noted = true;
        if !self.journal.note(self.id, outcome) {
            metrics().audit_failures.increment();
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        if !self.noted {
            let mut outcome = Outcome::new(Ending::Unknown);
            outcome.reason = Some("the gateway stopped waiting for the call");
            self.note(&outcome);
        }
    }
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
    /// Whether the answer is one that was kept.
    cached: bool,
}

impl Carriage {
    /// Puts together what the call needs on its way.
    pub(super) fn load(asking: Asking<'_>, target: Target, held: Held, trail: &mut Trail) -> Result<Self, Refusal> {
        let Asking { estate, head, caller, call, .. } = asking;
        let peer = estate.upstreams.peer(&target.definition.upstream).ok_or(Refusal::Bug("a tool of no upstream"))?;
        let server = trail.asked.take().ok_or(Refusal::Bug("a call that was not read"))?.operation;
        let client = server.client(|| names::span(call.method().as_str(), target.label()));
        let allowed = trail.allowed().ok_or(Refusal::Bug("a call that was not judged"))?;
        let unrecognised = mirrors::unrecognised(&target.definition.mirrors, &head.headers);
        Ok(Self {
            unrecognised: unrecognised.map(|(name, value)| (name.clone(), value.clone())).collect(),
            streams: respond::takes_streams(&head.headers),
            allowed,
            peer: Arc::clone(peer),
            prefixed: estate.catalogue.load().uri_prefix(&head.endpoint, &target.definition.upstream).is_some(),
            estate: Arc::clone(estate),
            identity: Arc::clone(caller.identity()),
            traceparent: client.traceparent(),
            spans: (server, client),
            times: (trail.began, clock::instant()),
            call,
            target,
            held,
        })
    }

    /// Sets out, and returns as soon as there is something to tell the client.
    pub(super) async fn depart(
        self,
        (tasks, journal): (&Tasks, &Arc<Journal>),
        receipt: Receipt,
        grant: Grant,
    ) -> Result<Response, Refusal> {
        let (to_client, from_carriage) = oneshot::channel();
        tasks.spawn(self.carry(Arc::clone(journal), receipt, grant, Delivery::Waiting(to_client)));
        from_carriage.await.map_err(|_gone| Refusal::Bug("a call ended without an answer"))
    }

    async fn carry(self, journal: Arc<Journal>, receipt: Receipt, grant: Grant, mut delivery: Delivery) {
        let open = Open { journal, id: receipt.id(), noted: false };
        let keeping = Keeping::of(&self.peer, &self.passage(), &grant, &self.allowed);
        let recalled = keeping.as_ref().and_then(|it| it.recall(&self.estate.kept, &self.held.asker, self.prefix()));
        let ended = match recalled {
            Some(answer) => Ended { cached: true, ..Ended::answered(answer) },
            None => self.ride((receipt, grant), &open.journal, (&mut delivery, keeping.as_ref())).await,
        };
        let outcome = self.outcome(&ended);
        open.close(&outcome);
        self.measure(&ended, &outcome);
        match ended {
            Ended { answer: Some(answer), .. } => delivery.answer(answer).await,
            Ended { refusal: Some(refusal), .. } => delivery.refuse(&self.held.asker, &refusal).await,
            Ended { .. } => delivery.end(),
        }
    }

    async fn ride(
        &self,
        sent: (Receipt, Grant),
        journal: &Journal,
        (delivery, keeping): (&mut Delivery, Option<&Keeping>),
    ) -> Ended {
        let late = self.deadline();
        // On the heap while it lasts: a stream may be read for an hour, and sending takes three times the room of reading.
        let sending = Box::pin(self.send(sent, journal));
        let reply = match self.attend(delivery, late, sending).await {
            Ok(Ok(reply)) => reply,
            Ok(Err(refusal)) => return Ended::refused(refusal),
            Err(Interrupted::Cancelled) => return Ended::cancelled(),
            Err(Interrupted::Late) => return Ended::refused(Refusal::UpstreamTimeout),
        };
        self.read(reply, delivery, keeping).await
    }

    /// Sends the call. A credential that the upstream refuses is minted anew, once: a 401 proves that nothing was
    /// executed (spec §2.6).
    async fn send(&self, (receipt, grant): (Receipt, Grant), journal: &Journal) -> Result<Reply, Refusal> {
        let key = grant.key();
        let receipt = match self.peer.forward(receipt, grant, &self.passage()).await? {
            Forwarded::Answered(reply) => return Ok(*reply),
            Forwarded::Unauthorized(receipt) => receipt,
        };
        let exchange = &self.estate.exchange;
        exchange.drop_grant(&key);
        let grant =
            exchange.mint(&self.identity, self.peer.settings(), &self.target.definition.mints, clock::now()).await?;
        if grant.key() == key {
            // The same credential always: it would be refused again.
            return Err(Refusal::UpstreamUnauthorized);
        }
        let who = Who { identity: Some(&self.identity), ..Who::default() };
        local::record_mint(
            journal,
            &grant,
            self.target.definition.upstream.as_str(),
            (who, record::Request::default()),
        );
        let key = grant.key();
        match Box::pin(self.peer.forward(receipt, grant, &self.passage())).await? {
            Forwarded::Answered(reply) => Ok(*reply),
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
            log_level: self.held.asker.log_level,
            traceparent: Some(&self.traceparent),
            tracestate: self.spans.1.tracestate(),
        }
    }

    /// Counts the call, and closes its two spans.
    fn measure(&self, ended: &Ended, outcome: &Outcome<'_>) {
        let rpc = match (&ended.refusal, outcome.rpc_code) {
            (_, None) => Cow::Borrowed(""),
            (Some(_), Some(own)) => Cow::Owned(own.to_string()),
            (None, Some(upstreams)) => Cow::Borrowed(names::rpc_code(upstreams)),
        };
        let error = match (&ended.refusal, ended.ending) {
            (Some(refusal), _) => refusal.code(),
            (None, Ending::ToolError) => names::TOOL_ERROR,
            (None, Ending::Cancelled) => "cancelled",
            (None, _) => &rpc,
        };
        let operation = metrics::Operation {
            method: self.call.method().as_str(),
            target: self.target.label().unwrap_or_default(),
            error,
            status: &rpc,
            version: self.held.asker.version,
        };
        metrics().served(operation, self.times.0.elapsed());
        if !ended.cached {
            metrics().called(self.target.definition.upstream.as_str(), operation, self.times.1.elapsed());
        }
        for operation in [&self.spans.0, &self.spans.1] {
            if !error.is_empty() {
                operation.fail(error);
            }
            if let Some(code) = outcome.rpc_code {
                operation.note(names::RPC_STATUS, code.to_string());
            }
        }
    }

    /// Reads the upstream's messages until this call's response, and lets through what may go back.
    async fn read(&self, mut reply: Reply, delivery: &mut Delivery, mut keeping: Option<&Keeping>) -> Ended {
        let mut relay = Relay::new(&self.held.asker, reply.progress_token());
        let end_of_stream = self.instant_after(self.estate.config.limits.stream_max);
        let mut late = self.deadline();
        let mut opens = reply.messages.is_stream().then(|| self.instant_after(STREAM_OPENS_AFTER));
        loop {
            let until = opens.map_or(late, |opens| opens.min(late)).min(end_of_stream);
            let message = match self.attend(delivery, until, reply.messages.next()).await {
                Ok(Ok(Some(message))) => message,
                Ok(Ok(None)) => return Ended::lost(reply.status),
                Ok(Err(_)) if !reply.status.is_success() => return Ended::lost(reply.status),
                Ok(Err(refusal)) => return Ended::refused(refusal),
                Err(Interrupted::Late) if opens.take().is_some_and(|opens| opens < late) => {
                    self.open(delivery);
                    continue;
                }
                Err(Interrupted::Late) => return Ended::refused(Refusal::UpstreamTimeout),
                Err(Interrupted::Cancelled) => return Ended::cancelled(),
            };
            if reply.gives_away(&message) {
                return Ended::refused(Refusal::UpstreamInvalid(
                    "the answer holds the gateway's credential".to_owned(),
                ));
            }
            match Inbound::parse(message, reply.bounds()) {
                Err(_) if !reply.status.is_success() => return Ended::lost(reply.status),
                Err(why) => return Ended::refused(Refusal::UpstreamInvalid(why.to_owned())),
                Ok(Inbound::Response(response)) => {
                    if !response.answers(reply.id) && reply.messages.is_stream() {
                        self.dropped("id_unknown");
                        continue;
                    }
                    reply.is_answered();
                    if !reply.status.is_success() && (response.outcome().is_ok() || !response.answers(reply.id)) {
                        return Ended::lost(reply.status);
                    }
                    if reply.spoken.era == Era::Modern
                        && let Err(error) = response.outcome()
                    {
                        self.peer.heed(error.code);
                    }
                    return self.admit(&reply, response, keeping);
                }
                Ok(Inbound::Notification(notification)) => match relay.admit(&notification) {
                    Ok(notification) => {
                        // A sign of life: the tool's own time begins anew, within the life of a stream.
                        late = self.deadline();
                        opens = None;
                        self.open(delivery);
                        if !delivery.event(notification).await && self.call.era() == Era::Modern {
                            return Ended::cancelled();
                        }
                    }
                    Err(why) => {
                        self.peer.heed_word(&notification.method());
                        self.dropped(why.as_str());
                    }
                },
                // A modern server may ask nothing (RS-07), and a legacy one nothing that was not declared.
                Ok(Inbound::Request(_)) if reply.spoken.era == Era::Modern => self.dropped("request_unasked"),
                Ok(Inbound::Request(request)) if request.method() == "ping" => {
                    Box::pin(reply.respond(outbound::pong(request.id()))).await;
                }
                Ok(Inbound::Request(request)) => {
                    // What comes of it may be due to what was asked (RI-06).
                    keeping = None;
                    self.dropped("request_undeclared");
                    Box::pin(reply.respond(outbound::method_not_found(request.id()))).await;
                }
            }
        }
    }

    /// What may go back, and is kept where it may be.
    fn admit(&self, reply: &Reply, response: reply::Response, keeping: Option<&Keeping>) -> Ended {
        match inspect::admit(&self.held.asker, &self.sent(reply), &response) {
            Ok(answer) => {
                if let Some(keeping) = keeping {
                    keeping.keep(&self.estate.kept, response, reply.id, reply.spoken);
                }
                Ended::answered(answer)
            }
            Err(refusal) => Ended::refused(refusal),
        }
    }

    fn sent<'s>(&'s self, reply: &Reply) -> Sent<'s> {
        Sent {
            method: self.call.method(),
            id: reply.id,
            version: reply.spoken.version,
            prefix: self.prefix(),
            age: Duration::ZERO,
        }
    }

    /// The upstream's id, where the URIs that the client sees carry it.
    fn prefix(&self) -> Option<&str> {
        self.prefixed.then(|| self.target.definition.upstream.as_str())
    }

    /// Counts a message that nobody asked for, or that fits nothing.
    fn dropped(&self, reason: &str) {
        metrics().upstream_dropped.with([self.target.definition.upstream.as_str(), reason]).increment();
        tracing::debug!(upstream = %self.target.definition.upstream, reason, "dropped a message of an upstream");
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
        if clock::instant() >= late {
            return Err(Interrupted::Late); // also where there is always something to do
        }
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
        match (self.call.era(), &self.held.tracked) {
            (Era::Modern, _) => delivery.closed().await,
            (Era::Legacy, Some(tracked)) => tracked.cancelled().await,
            (Era::Legacy, None) => std::future::pending().await,
        }
    }

    fn deadline(&self) -> Instant {
        self.instant_after(self.target.definition.timeout)
    }

    fn instant_after(&self, span: Duration) -> Instant {
        let now = clock::instant();
        now.checked_add(span).unwrap_or(now)
    }

    fn outcome<'a>(&self, ended: &'a Ended) -> Outcome<'a> {
        let mut outcome = Outcome::new(ended.ending);
        outcome.duration_us = u64::try_from(self.times.0.elapsed().as_micros()).ok();
        outcome.cached = ended.cached;
        if let Some(answer) = &ended.answer {
            outcome.status = Some(200);
            outcome.rpc_code = match answer.outcome() {
                Judged::RpcError(code) => Some(code),
                Judged::Complete | Judged::ToolError => None,
            };
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
        let ending = match answer.outcome() {
            Judged::RpcError(_) => Ending::RpcError,
            Judged::ToolError => Ending::ToolError,
            Judged::Complete => Ending::Ok,
        };
        Self { ending, refusal: None, answer: Some(answer), cached: false }
    }

    fn refused(refusal: Refusal) -> Self {
        let kept = matches!(refusal, Refusal::UpstreamUnreachable(_) | Refusal::CredentialLeak);
        let ending = if kept { Ending::NotForwarded } else { Ending::Failed };
        if refusal == Refusal::CredentialLeak {
            metrics().tripwire.increment();
        }
        Self { ending, refusal: Some(refusal), answer: None, cached: false }
    }

    /// The upstream ended its answer without a response; a status that says why is worth recording.
    fn lost(status: StatusCode) -> Self {
        Self::refused(match status {
            StatusCode::FORBIDDEN => Refusal::UpstreamUnauthorized,
            _ if status.is_success() => Refusal::UpstreamLost("the answer ended without a response".to_owned()),
            _ => Refusal::UpstreamInvalid(format!("HTTP {} without a JSON-RPC message", status.as_u16())),
        })
    }

    const fn cancelled() -> Self {
        Self { ending: Ending::Cancelled, refusal: None, answer: None, cached: false }
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
                let sent = tokio::time::timeout(CLIENT_STALL_MAX, events.send(sse::message(&message))).await;
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
            Self::Streaming(events) => {
                drop(tokio::time::timeout(CLIENT_STALL_MAX, events.send(sse::message(answer.body()))).await)
            }
            Self::Gone => {}
        }
    }

    async fn refuse(self, asker: &Asker, refusal: &Refusal) {
        match self {
            Self::Waiting(to_client) => {
                drop(to_client.send(respond::refusal(Some(&asker.id), asker.era, refusal, None)))
            }
            Self::Streaming(events) => {
                let body = respond::error_body(Some(&asker.id), asker.era, refusal);
                drop(tokio::time::timeout(CLIENT_STALL_MAX, events.send(sse::message(&body))).await);
            }
            Self::Gone => {}
        }
    }

    /// Ends what was said, which may be nothing: a client that took its call back waits for no answer, but HTTP has one.
    fn end(self) {
        if let Self::Waiting(to_client) = self {
            drop(to_client.send(respond::accepted()));
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
