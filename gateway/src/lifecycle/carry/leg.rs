//! For which request is a call carried?
//!
//! A call is carried for one request of a client, with its record, its spans and its way back; one that is held goes on
//! for the next request of the same client, which has its own. However it ends, its outcome is written down. It does not
//! know the upstream.

use std::{
    borrow::Cow,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::StatusCode;
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use uuid::Uuid;

use super::deliver::{Answered, Delivery};
use crate::{
    audit::{
        journal::Journal,
        record::{Ending, Outcome, Who},
    },
    bridge::{Session, Tracked},
    catalog::Target,
    clock,
    config::Transport,
    exchange::Grant,
    identity::Identity,
    inspect::{Answer, Outcome as Judged},
    lifecycle::{
        Asking, respond,
        revoke::Ward,
        trail::{Trail, describe},
        witness::Cause,
    },
    refusal::{Era, Page, Refusal, TokenFault},
    rpc::{Asker, Method, meta::LogLevel},
    telemetry::{
        Operation,
        metrics::{self, metrics},
        names,
    },
    upstream::{Peer, Reply, Sent},
};

/// One request for which a call is carried.
#[derive(Debug)]
pub(in crate::lifecycle) struct Leg {
    /// Who asks.
    pub(super) identity: Arc<Identity>,
    /// Name and version that the client claims.
    claimed: (Option<String>, Option<String>),
    method: Method,
    /// The legacy session that it is in, and the other end of the connection.
    origin: (Option<Arc<Session>>, SocketAddr),
    target: Target,
    pub(super) held: Held,
    /// Whether the client takes a stream of events.
    pub(super) streams: bool,
    pub(super) delivery: Delivery,
    /// What of the call has gone up for it.
    pub(super) sent: Sent,
    /// The id and the version under which the upstream took it in.
    heard: Option<(u64, &'static str)>,
    /// The span of the request.
    operation: Operation,
    /// When it came in.
    began: Instant,
    /// Nothing, for as long as nobody is called.
    way: Option<Way>,
    open: Open,
}

/// How the call goes up.
#[derive(Debug)]
struct Way {
    /// The span of the call to the upstream, within that of the request.
    operation: Operation,
    /// That as the upstream gets it.
    traceparent: String,
    /// When it set out.
    since: Instant,
}

/// What an upstream sees of a leg.
#[derive(Clone, Copy)]
pub(super) struct Outbound<'a> {
    pub(super) identity: &'a Arc<Identity>,
    pub(super) log_level: Option<LogLevel>,
    pub(super) traceparent: Option<&'a str>,
    pub(super) tracestate: Option<&'a str>,
    claimed: &'a (Option<String>, Option<String>),
    method: Method,
    asker: &'a Asker,
    session: Option<&'a Session>,
    peer: SocketAddr,
    id: Uuid,
    operation: &'a Operation,
}

impl Outbound<'_> {
    /// The request, for the record of what is minted because of it.
    pub(super) fn cause(&self) -> Cause {
        Cause {
            identity: Some(Arc::clone(self.identity)),
            claimed: self.claimed.clone(),
            call: Some(self.id),
            request_id: Some(self.asker.id.clone()),
            method: Some(self.method.as_str()),
            era: Some(self.asker.era),
            version: Some(self.asker.version),
            session: self.session.map(|session| session.name().to_owned()),
            trace: Some((self.operation.trace_id(), self.operation.span_id())),
            peer: Some(self.peer),
        }
    }
}

/// What a request holds besides the ceilings' room, given back when it ends.
#[derive(Debug)]
pub(in crate::lifecycle) struct Held {
    /// To whom the answer goes, and in what form.
    pub(in crate::lifecycle) asker: Asker,
    /// Its place in a legacy session.
    pub(in crate::lifecycle) tracked: Option<Tracked>,
    /// Whether its caller is still welcome.
    pub(in crate::lifecycle) ward: Ward,
    /// Whether it waits for what no single answer brings, such as a task that is followed.
    pub(in crate::lifecycle) lasts: bool,
    /// Its room among the calls in flight.
    pub(in crate::lifecycle) _room: OwnedSemaphorePermit,
}

impl Drop for Held {
    fn drop(&mut self) {
        metrics().calls.decrement();
    }
}

/// A record whose outcome is not written yet. It gets one however the request ends: also where a bug stops the carriage,
/// or the drain's time is up before the upstream has answered.
#[derive(Debug)]
struct Open {
    journal: Arc<Journal>,
    id: Uuid,
    noted: bool,
}

impl Open {
    fn note(&mut self, outcome: &Outcome<'_>, answer: Option<Bytes>) {
        self.noted = true;
        if !self.journal.note_answer(self.id, outcome, answer) {
            metrics().audit_failures.increment();
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        if !self.noted {
            let mut outcome = Outcome::new(Ending::Unknown);
            outcome.reason = Some("the gateway stopped waiting for the call");
            self.note(&outcome, None);
        }
    }
}

impl Leg {
    /// Puts together what is known of a request whose record is `id`; what comes back with it brings the answer.
    pub(in crate::lifecycle) fn new(
        asking: &Asking<'_>,
        (target, held): (Target, Held),
        trail: &mut Trail,
        (journal, id, grant): (&Arc<Journal>, Uuid, &Grant),
    ) -> Result<(Self, oneshot::Receiver<Answered>), Refusal> {
        let open = Open { journal: Arc::clone(journal), id, noted: false };
        let asked = trail.asked.take().ok_or(Refusal::Bug("a call that was not read"))?;
        let (to_client, answered) = oneshot::channel();
        let leg = Self {
            identity: Arc::clone(asking.caller.identity()),
            claimed: asked.client,
            method: asking.call.method(),
            origin: (trail.session.clone(), trail.peer),
            target,
            held,
            streams: respond::takes_streams(&asking.head.headers),
            delivery: Delivery::Waiting(to_client),
            sent: Sent::under(grant),
            heard: None,
            operation: asked.operation,
            began: trail.began,
            way: None,
            open,
        };
        Ok((leg, answered))
    }

    /// The call sets out for `peer` under `grant`.
    pub(super) fn sets_out(&mut self, peer: &Peer, grant: &Grant) {
        let operation = self.operation.client(|| names::span(self.method.as_str(), self.target.label()));
        if operation.is_recorded() {
            describe_upward(&operation, (self.method, &self.target), peer, grant);
        }
        self.way = Some(Way { traceparent: operation.traceparent(), operation, since: clock::instant() });
    }

    /// The upstream has taken the call in.
    pub(super) const fn is_heard(&mut self, reply: &Reply) {
        self.heard = Some((reply.id, reply.spoken.version));
    }

    /// Its way back, what goes out, and what has.
    pub(super) fn outbound(&mut self) -> ((&mut Delivery, &Held), Outbound<'_>, &mut Sent) {
        let outbound = Outbound {
            identity: &self.identity,
            log_level: self.held.asker.log_level,
            traceparent: self.way.as_ref().map(|way| way.traceparent.as_str()),
            tracestate: self.operation.tracestate(),
            claimed: &self.claimed,
            method: self.method,
            asker: &self.held.asker,
            session: self.origin.0.as_deref(),
            peer: self.origin.1,
            id: self.open.id,
            operation: &self.operation,
        };
        ((&mut self.delivery, &self.held), outbound, &mut self.sent)
    }

    /// The id of its record.
    pub(super) const fn id(&self) -> Uuid {
        self.open.id
    }

    /// The client's era.
    pub(super) const fn era(&self) -> Era {
        self.held.asker.era
    }

    /// Who asks, for a record.
    pub(super) fn who(&self) -> Who<'_> {
        Who {
            identity: Some(&self.identity),
            claimed_name: self.claimed.0.as_deref(),
            claimed_version: self.claimed.1.as_deref(),
        }
    }

    /// From now on the client gets events, where it takes them.
    pub(super) fn open(&mut self) {
        if self.streams {
            self.delivery.open(self.held.tracked.as_ref());
        }
    }

    /// Sends a notification, where a stream is open; says whether somebody is there. `late` is when the call ends that is
    /// held up by a client that does not read.
    pub(super) async fn event(&mut self, late: Instant, message: Bytes) -> Result<bool, Ended> {
        let sent = self.delivery.event(&self.held, late, message).await;
        sent.map_err(|interrupted| interrupted.end(Refusal::UpstreamTimeout))
    }

    /// Writes down how it ended, and tells the client.
    pub(in crate::lifecycle) async fn end(mut self, ended: Ended) {
        let ended = ended.told_by(&self.held.asker, self.method);
        let reason = ended.refusal.as_ref().map(Refusal::inside);
        let (mut outcome, renewed) =
            (self.outcome(&ended, reason.as_deref()), self.sent.token_digest().map(str::to_owned));
        outcome.token_digest = renewed.as_deref();
        self.open.note(&outcome, ended.answer.as_ref().map(|answer| answer.body().clone()));
        self.measure(&ended, &outcome);
        if let Some(refusal) = &ended.refusal {
            let (id, trace_id, why) = (self.id(), self.operation.trace_id(), outcome.reason);
            tracing::debug!(%id, %trace_id, code = refusal.code(), why, "a call has failed");
        }
        self.held.tracked = None; // who has the answer may use the id again
        match ended {
            Ended { answer: Some(answer), .. } => self.delivery.answer(answer).await,
            Ended { refusal: Some(refusal), .. } => self.delivery.refuse(&self.held.asker, &refusal).await,
            Ended { .. } => self.delivery.end(),
        }
    }

    fn outcome<'a>(&self, ended: &'a Ended, reason: Option<&'a str>) -> Outcome<'a> {
        let mut outcome = Outcome::new(ended.ending);
        outcome.duration_us = u64::try_from(self.began.elapsed().as_micros()).ok();
        outcome.reason = reason;
        outcome.cached = ended.cached;
        outcome.attempts = self.sent.attempts();
        if let Some(refusal) = &ended.refusal {
            let outside = refusal.outside(self.era());
            outcome.status = Some(outside.status);
            outcome.rpc_code = Some(i64::from(outside.rpc));
            outcome.code = Some(outside.code);
            if let Refusal::OutcomeUnknown(why) = refusal {
                outcome.reason = Some(why);
            }
        }
        if let Some(answer) = &ended.answer {
            outcome.status = Some(200);
            outcome.rpc_code = match answer.outcome() {
                Judged::RpcError(code) => Some(code),
                Judged::Complete | Judged::ToolError | Judged::InputRequired | Judged::Task => None,
            };
            outcome.bytes = u64::try_from(answer.body().len()).ok();
        }
        outcome
    }

    /// Counts the request, and closes its two spans.
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
            method: self.method.as_str(),
            target: self.target.label().unwrap_or_default(),
            error,
            status: &rpc,
            version: self.held.asker.version,
        };
        metrics().served(operation, self.began.elapsed());
        if let Some(way) = &self.way {
            metrics().called(self.target.definition.upstream.as_str(), operation, way.since.elapsed());
        }
        let (server, client) = (&self.operation, self.way.as_ref().map(|way| &way.operation));
        // Once it has ended: a span has one of each, and the call may have been sent again.
        if let (Some(client), Some((id, version))) = (client.filter(|client| client.is_recorded()), self.heard) {
            client.note(names::REQUEST_ID, id.to_string());
            client.note(names::PROTOCOL_VERSION, version);
        }
        if let Some(client) = client.filter(|_| !error.is_empty()) {
            client.fail(error);
        }
        if !error.is_empty() && outcome.rpc_code.is_none_or(names::is_server_error) {
            server.fail(error);
        }
        for operation in std::iter::once(server).chain(client).filter(|operation| operation.is_recorded()) {
            if let Some(code) = outcome.rpc_code {
                operation.note(names::RPC_STATUS, code.to_string());
            }
            if let Some(refusal) = &ended.refusal {
                operation.note(names::REFUSAL, refusal.code());
            }
        }
    }
}

/// Notes what is known of a call before it sets out. The server at its other end is the upstream (MCP in OpenTelemetry).
fn describe_upward(client: &Operation, (method, target): (Method, &Target), peer: &Peer, grant: &Grant) {
    client.note(names::METHOD, method.as_str());
    describe(client, method.as_str(), target);
    client.note(names::GRANT_STRATEGY, grant.strategy());
    match &peer.settings().transport {
        Transport::Http(remote) | Transport::Sse(remote) => {
            client.note(names::NETWORK_TRANSPORT, "tcp");
            client.note(names::NETWORK_PROTOCOL, "http");
            if let Some((host, port)) = remote.url.host_str().zip(remote.url.port_or_known_default()) {
                client.note(names::SERVER_ADDRESS, host.trim_matches(['[', ']']).to_owned());
                client.note(names::SERVER_PORT, i64::from(port));
            }
        }
        Transport::Stdio(_) => client.note(names::NETWORK_TRANSPORT, "pipe"),
    }
}

/// How a request ended, for its record and its client.
#[derive(Debug)]
pub(in crate::lifecycle) struct Ended {
    ending: Ending,
    refusal: Option<Refusal>,
    answer: Option<Answer>,
    /// Whether the answer is one that was kept.
    cached: bool,
}

impl Ended {
    pub(super) fn answered(answer: Answer) -> Self {
        let ending = match answer.outcome() {
            Judged::RpcError(_) => Ending::RpcError,
            Judged::ToolError => Ending::ToolError,
            Judged::InputRequired => Ending::InputRequired,
            Judged::Task => Ending::Task,
            Judged::Complete => Ending::Ok,
        };
        Self { ending, refusal: None, answer: Some(answer), cached: false }
    }

    /// The answer is one that was kept.
    pub(super) fn kept(answer: Answer) -> Self {
        Self { cached: true, ..Self::answered(answer) }
    }

    /// Whether that is what the upstream said.
    pub(super) const fn is_answer(&self) -> bool {
        self.answer.is_some()
    }

    /// Whether the gateway says so.
    pub(super) const fn is_refused(&self) -> bool {
        self.refusal.is_some()
    }

    /// The page that a person has to visit before the call can be made.
    pub(super) fn page(&self) -> Option<&Page> {
        if let Some(Refusal::ConnectRequired(page)) = &self.refusal { Some(page) } else { None }
    }

    pub(in crate::lifecycle) fn refused(refusal: Refusal) -> Self {
        let kept =
            matches!(refusal, Refusal::UpstreamUnreachable(_) | Refusal::CredentialLeak | Refusal::Overloaded(_));
        let ending = if kept { Ending::NotForwarded } else { Ending::Failed };
        if refusal == Refusal::CredentialLeak {
            metrics().tripwire.increment();
        }
        Self { ending, refusal: Some(refusal), answer: None, cached: false }
    }

    /// It has not left the gateway, and will not.
    pub(super) const fn unsent(refusal: Refusal) -> Self {
        Self { ending: Ending::NotForwarded, refusal: Some(refusal), answer: None, cached: false }
    }

    /// The same of a call that the upstream has already.
    pub(super) fn once_sent(self) -> Self {
        let ended = self.once_seen();
        Self { refusal: ended.refusal.map(Refusal::once_sent), ..ended }
    }

    /// The same of a call that the upstream has seen, and did not make.
    pub(super) fn once_seen(self) -> Self {
        let ending = if self.ending == Ending::NotForwarded { Ending::Failed } else { self.ending };
        Self { ending, ..self }
    }

    /// The upstream ended its answer without a response; a status that says why is worth recording.
    pub(super) fn lost(status: StatusCode) -> Self {
        Self::refused(match status {
            StatusCode::FORBIDDEN => Refusal::UpstreamUnauthorized,
            _ if status.is_success() => Refusal::UpstreamLost("the answer ended without a response".to_owned()),
            _ => Refusal::UpstreamInvalid(format!("HTTP {} without a JSON-RPC message", status.as_u16())),
        })
    }

    pub(super) const fn cancelled() -> Self {
        Self { ending: Ending::Cancelled, refusal: None, answer: None, cached: false }
    }

    /// Its caller is not welcome any more.
    pub(super) fn revoked(refusal: Refusal) -> Self {
        Self { ending: Ending::Revoked, refusal: Some(refusal.once_sent()), answer: None, cached: false }
    }

    /// The credential of its caller has ended, and it was more than one answer.
    pub(super) fn expired() -> Self {
        let refusal = Refusal::TokenInvalid(TokenFault::Expired).once_sent();
        Self { ending: Ending::Expired, refusal: Some(refusal), answer: None, cached: false }
    }

    /// Where a legacy client could not be asked, or would not answer, its model is told so (spec §2.2).
    fn told_by(mut self, asker: &Asker, method: Method) -> Self {
        if let Some(refusal) = &self.refusal
            && (asker.era, method) == (Era::Legacy, Method::ToolsCall)
            && matches!(refusal, Refusal::InputUndeclared(_) | Refusal::InputRefused(_) | Refusal::InputTimeout)
        {
            self.answer = Some(Answer::failed(asker, refusal));
        }
        self
    }
}

/// The time after `span` from now.
pub(super) fn instant_after(span: Duration) -> Instant {
    let now = clock::instant();
    now.checked_add(span).unwrap_or(now)
}

#[cfg(test)]
mod tests {
    use super::{Ended, Ending};
    use crate::refusal::Refusal;

    #[test]
    fn a_call_that_was_sent_did_not_stay_here() {
        for refusal in [Refusal::CredentialLeak, Refusal::UpstreamUnreachable(String::new()), Refusal::Overloaded("")] {
            let before = Ended::refused(refusal);
            assert_eq!(before.ending, Ending::NotForwarded);
            assert_eq!(before.once_sent().ending, Ending::Failed);
        }
        assert_eq!(Ended::cancelled().once_sent().ending, Ending::Cancelled);
    }
}
