//! What is known of a request so far?
//!
//! Facts, gathered as the stages find them out, so that a refusal at any stage can be recorded with everything that was
//! known by then; and the request's span. It decides nothing.

use std::{borrow::Cow, net::SocketAddr, sync::Arc, time::Instant};

use bytes::Bytes;
use tracing::{debug, field::display};
use uuid::Uuid;

use super::{Head, kept::Allowed, witness::Cause};
use crate::{
    audit::{
        journal::{self, Journal},
        record::{self, Who},
    },
    bridge::Session,
    catalog::{Kind, Target},
    clock::{self, Timestamp},
    config::Endpoint,
    identity::Identity,
    policy::{Denial, Permit, Verdict},
    refusal::{Era, Outside, Refusal},
    rpc::{
        Call, Rejected, RequestId,
        canonical::canonical,
        json::{Bounds, Document, Value},
    },
    telemetry::{
        Operation, Spans,
        context::Parent,
        metrics::{self, metrics},
        names,
    },
};

/// One request's facts.
#[derive(Debug)]
pub(super) struct Trail {
    /// The request's name in the journal.
    pub(super) id: Uuid,
    /// When it began, by the wall clock: what every stage judges by.
    pub(super) now: Timestamp,
    /// When it began, by the clock that does not step.
    pub(super) began: Instant,
    /// Who is at the other end of the connection.
    pub(super) peer: SocketAddr,
    /// Where it came in.
    pub(super) endpoint: Endpoint,
    /// Whether it was asked for with a slash at its end.
    pub(super) slashed: bool,
    /// Whether a proof of possession came with it, so that a challenge answers to that.
    pub(super) proves: bool,
    /// Who asks, once that is proven.
    pub(super) identity: Option<Arc<Identity>>,
    /// The era of the client, once that is known.
    pub(super) era: Option<Era>,
    /// The JSON-RPC id, as the client wrote it.
    pub(super) request_id: Option<RequestId>,
    /// The session that it is in, for the era of sessions.
    pub(super) session: Option<Arc<Session>>,
    /// What is asked, once that is read.
    pub(super) asked: Option<Asked>,
    /// What it is aimed at, once that is found.
    pub(super) target: Option<Target>,
    /// The policy set that judges it.
    pub(super) policy_set: Option<Arc<str>>,
    /// What that said.
    pub(super) verdict: Option<Arc<Verdict>>,
    /// The arguments that it said that of, and how they were read; nothing where no record may speak of them.
    pub(super) arguments: Option<(Bytes, Bounds)>,
}

/// What the envelope said.
#[derive(Debug)]
pub(super) struct Asked {
    /// The version that the client speaks.
    pub(super) version: &'static str,
    /// The JSON-RPC method.
    pub(super) method: &'static str,
    /// Name and version that the client claims.
    pub(super) client: (Option<String>, Option<String>),
    /// The span of the request.
    pub(super) operation: Operation,
}

impl Trail {
    pub(super) fn new(head: &Head) -> Self {
        Self {
            id: journal::new_id(),
            now: clock::now(),
            began: clock::instant(),
            peer: head.peer,
            endpoint: head.endpoint.clone(),
            slashed: head.slashed,
            proves: head.headers.contains_key("dpop"),
            identity: None,
            era: None,
            request_id: None,
            session: None,
            asked: None,
            target: None,
            policy_set: None,
            verdict: None,
            arguments: None,
        }
    }

    /// Keeps what could be read of a message that was refused.
    pub(super) fn reject(&mut self, rejected: Rejected) -> Refusal {
        self.era = Some(rejected.era);
        self.request_id = rejected.id;
        rejected.refusal
    }

    /// Keeps what the envelope said, and begins the request's span under the caller's, where it named one: `_meta` first
    /// (MCP basic, trace context), and a link to the headers' where that is another.
    pub(super) fn ask(&mut self, call: &Call, head: &Head, spans: &Spans, client: Option<&(String, String)>) {
        let meta = call.meta();
        let ambient = Parent::from_headers(&head.headers);
        let state = meta.tracestate.and_then(Value::text);
        let named = meta.traceparent.and_then(Value::text).and_then(|text| Parent::parse(&text, state.as_deref()));
        let method = call.method().as_str();
        let operation = spans.server(method, named.as_ref().or(ambient.as_ref()), self.now);
        if let (Some(named), Some(ambient)) = (&named, &ambient)
            && named.trace_id != ambient.trace_id
        {
            operation.link(ambient);
        }
        if operation.is_recorded() {
            operation.note(names::METHOD, method);
            operation.note(names::PROTOCOL_VERSION, call.version());
            operation.note(names::ENDPOINT, self.endpoint.path());
            operation.note(names::AUDIT_ID, self.id.to_string());
            operation.note(names::NETWORK_TRANSPORT, "tcp");
            operation.note(names::NETWORK_PROTOCOL, "http");
            operation.note(names::CLIENT_ADDRESS, self.peer.ip().to_string());
            operation.note(names::CLIENT_PORT, i64::from(self.peer.port()));
            if let Some(session) = &self.session {
                operation.note(names::SESSION_ID, session.name().to_owned());
            }
            if let Some(id) = call.id() {
                operation.note(names::REQUEST_ID, id.text().to_owned());
            }
            if let Some(identity) = &self.identity {
                operation.note(names::AGENT, identity.agent.client_id.clone());
            }
        }
        self.era = Some(call.era());
        self.request_id = call.id().cloned();
        let claimed = match client {
            Some((name, version)) => (Some(name.clone()), Some(version.clone())),
            None => (meta.client_name().map(Cow::into_owned), meta.client_version().map(Cow::into_owned)),
        };
        self.asked = Some(Asked { version: call.version(), method, client: claimed, operation });
    }

    /// Keeps what the call is aimed at.
    pub(super) fn aim(&mut self, target: Target) -> Target {
        if let Some(asked) = &self.asked
            && asked.operation.is_recorded()
        {
            asked.operation.rename(&names::span(asked.method, target.label()));
            describe(&asked.operation, asked.method, &target);
        }
        self.target = Some(target.clone());
        target
    }

    /// Keeps what policy said, and of what, and counts it.
    pub(super) fn judge(
        &mut self,
        judged: Result<Permit, Denial>,
        arguments: Option<(Bytes, Bounds)>,
    ) -> Result<Permit, Refusal> {
        self.arguments = arguments;
        let verdict = match &judged {
            Ok(permit) => permit.verdict(),
            Err(denial) => &denial.verdict,
        };
        metrics().decisions.with([verdict.as_str()]).increment();
        for finding in verdict.shadow() {
            let changes = if finding.changes { "true" } else { "false" };
            metrics().shadow.with([&finding.policy, finding.outcome.as_str(), changes]).increment();
        }
        self.verdict = Some(Arc::clone(verdict));
        Ok(judged?)
    }

    /// What policy said of the call, once it was asked.
    pub(super) fn allowed(&self) -> Option<Allowed> {
        let (policy_set, verdict) = self.policy_set.as_ref().zip(self.verdict.as_ref())?;
        Some(Allowed { policy_set: Arc::clone(policy_set), verdict: Arc::clone(verdict) })
    }

    /// The era to answer in: that of the request, or the one whose errors every client understands.
    pub(super) fn answer_era(&self) -> Era {
        self.era.unwrap_or(Era::Modern)
    }

    /// Who asks, for a record.
    pub(super) fn who(&self) -> Who<'_> {
        let client = self.asked.as_ref().map(|asked| &asked.client);
        Who {
            identity: self.identity.as_deref(),
            claimed_name: client.and_then(|(name, _)| name.as_deref()),
            claimed_version: client.and_then(|(_, version)| version.as_deref()),
        }
    }

    /// The request, for the record of what is minted because of it.
    pub(super) fn cause(&self) -> Cause {
        let asked = self.asked.as_ref();
        Cause {
            identity: self.identity.clone(),
            claimed: asked.map(|asked| asked.client.clone()).unwrap_or_default(),
            call: Some(self.id),
            request_id: self.request_id.clone(),
            method: asked.map(|asked| asked.method),
            era: self.era,
            version: asked.map(|asked| asked.version),
            session: self.session.as_deref().map(|session| session.name().to_owned()),
            trace: asked.map(|asked| (asked.operation.trace_id(), asked.operation.span_id())),
            peer: Some(self.peer),
        }
    }

    /// Runs `write` with the request as a record has it; `arguments` is their digest.
    pub(super) fn with_request<T>(&self, arguments: Option<&str>, write: impl FnOnce(record::Request<'_>) -> T) -> T {
        let trace =
            self.asked.as_ref().map(|asked| (asked.operation.trace_id().text(), asked.operation.span_id().text()));
        write(record::Request {
            id: self.request_id.as_ref().map(RequestId::text),
            method: self.asked.as_ref().map(|asked| asked.method),
            era: self.era,
            version: self.asked.as_ref().map(|asked| asked.version),
            session: self.session.as_deref().map(Session::name),
            arguments,
            trace_id: trace.as_ref().map(|(trace_id, _)| trace_id.as_str()),
            span_id: trace.as_ref().map(|(_, span_id)| span_id.as_str()),
            peer: Some(self.peer),
        })
    }

    /// Records that the request was refused: one record each for callers who are known, counted for those who are not,
    /// lest a flood of strangers fill the disk.
    pub(super) fn refused(&self, journal: &Journal, refusal: &Refusal, outside: &Outside) {
        self.measure(outside.code, Some(outside.rpc));
        let trace_id = self.asked.as_ref().map(|asked| display(asked.operation.trace_id()));
        debug!(id = %self.id, trace_id, code = outside.code, why = %refusal.inside(), "a request was refused");
        self.note_refused(journal, refusal, outside);
    }

    /// The same for a part of the request, where the whole goes on.
    pub(super) fn note_refused(&self, journal: &Journal, refusal: &Refusal, outside: &Outside) {
        metrics().refused(outside.code, refusal.fault());
        if self.identity.is_none() {
            journal.count_refusal(self.peer.ip(), outside.code, refusal.fault());
            return;
        }
        let path = self.endpoint.path();
        let reason = refusal.inside();
        let reached = if let Refusal::CeilingReached { ceiling, .. } = refusal { Some(ceiling.as_str()) } else { None };
        let arguments = self.arguments.as_ref().and_then(|(text, bounds)| {
            let read = Document::parse(text.clone(), bounds).ok()?;
            Some(journal.argument_digest(&canonical(read.root())))
        });
        let recorded = self.with_request(arguments.as_deref(), |request| {
            journal.note(
                self.id,
                &record::Refused {
                    who: self.who(),
                    target: self.target.as_ref().map(|target| record_target(target, &path)),
                    decision: self.decision(&reason),
                    ceilings: record::Words::Borrowed(reached.as_slice()),
                    request,
                    code: outside.code,
                    reason: &reason,
                    status: outside.status,
                },
            )
        });
        if !recorded {
            metrics().audit_failures.increment();
        }
    }

    /// What policy said, for a record, where it was asked; `reason` is that of the refusal, and policy's own where no
    /// policy can be named for it.
    fn decision<'a>(&'a self, reason: &'a str) -> Option<record::Decision<'a>> {
        let (verdict, policy_set) = self.verdict.as_deref().zip(self.policy_set.as_deref())?;
        Some(record::Decision {
            outcome: verdict.as_str(),
            policies: record::Words::Shared(verdict.policies()),
            policy_set,
            reason: verdict.policies().is_empty().then_some(reason),
            shadow: verdict.shadow(),
        })
    }

    /// Counts how long the request took, and closes its span; `error` is empty where all went well.
    pub(super) fn measure(&self, error: &str, rpc: Option<i32>) {
        let Some(asked) = &self.asked else { return };
        let status = rpc.map(|code| code.to_string()).unwrap_or_default();
        if !error.is_empty() && rpc.map(i64::from).is_none_or(names::is_server_error) {
            asked.operation.fail(error);
        }
        if !status.is_empty() {
            asked.operation.note(names::RPC_STATUS, status.clone());
        }
        let target = match &self.target {
            Some(target) => target.label().unwrap_or_default(),
            None if asked.method == "tools/call" || asked.method == "prompts/get" => names::OTHER,
            None => "",
        };
        let operation =
            metrics::Operation { method: asked.method, target, error, status: &status, version: asked.version };
        metrics().served(operation, self.began.elapsed());
    }
}

/// Notes what a request of `method` is aimed at, on the span of either side.
pub(super) fn describe(operation: &Operation, method: &'static str, target: &Target) {
    let definition = &target.definition;
    match definition.kind {
        Kind::Tool => operation.note(names::TOOL, definition.name.clone()),
        Kind::Prompt => operation.note(names::PROMPT, definition.name.clone()),
        Kind::Resource | Kind::Template | Kind::Subscription => {
            operation.note(names::RESOURCE_URI, definition.name.clone());
        }
        Kind::Completion => {}
    }
    if method == "tools/call" {
        operation.note(names::OPERATION, names::EXECUTE_TOOL);
    }
    operation.note(names::UPSTREAM, definition.upstream.to_string());
}

/// A target as a record has it; `path` is its endpoint's.
pub(super) fn record_target<'a>(target: &'a Target, path: &'a str) -> record::Target<'a> {
    record::Target {
        endpoint: path,
        upstream: target.definition.upstream.as_str(),
        kind: target.definition.kind.as_str(),
        name: &target.definition.name,
        exposed: &target.exposed,
        definition: Some(&target.definition.digest),
    }
}
