//! What happened, in which order, for whom?
//!
//! One server span an operation, one client span a call to an upstream, through `tracing`. Whether a trace is recorded
//! is decided here and first, so that one which is not costs two random numbers and no more.
//! It does not know what a request is; `lifecycle` says what to note.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use opentelemetry::{
    Context, KeyValue, Value,
    trace::{
        SpanContext, SpanId as OtelSpanId, Status, TraceContextExt, TraceFlags, TraceId as OtelTraceId, TraceState,
    },
};
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;

use super::context::{Parent, SpanId, TraceId, traceparent};
use crate::{clock::Timestamp, random};

/// The target of every span that goes to the collector, and of nothing else.
pub(super) const TARGET: &str = "tollgate::trace";

/// Callers may ask for their traces to be recorded; so many a second are, for anybody can ask.
const ASKED_PER_SECOND_MAX: u64 = 100;

/// Decides which traces are recorded, and begins spans. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Spans(Arc<Sampler>);

#[derive(Debug)]
struct Sampler {
    /// Of 2^63: traces whose random part is below are recorded.
    threshold: u64,
    exports: bool,
    /// The second in the upper 40 bits, how many callers asked in it in the lower 24.
    asked: AtomicU64,
}

/// Something that takes time, with its place in a trace. It ends when it and every clone of its span are dropped.
#[derive(Debug)]
pub struct Operation {
    span: Span,
    recorded: Option<Context>,
    trace_id: TraceId,
    span_id: SpanId,
    state: Option<String>,
}

impl Spans {
    /// Spans of which `ratio` are recorded where the caller did not decide; none at all where nothing `exports` them.
    #[must_use]
    pub fn new(ratio: f64, exports: bool) -> Self {
        Self(Arc::new(Sampler { threshold: threshold(ratio), exports, asked: AtomicU64::new(0) }))
    }

    /// Begins the span of an operation that a client asked for; `name` is [`super::names::span`]'s.
    #[must_use]
    pub fn server(&self, name: &str, parent: Option<&Parent>, now: Timestamp) -> Operation {
        let fresh = random();
        let trace_id = parent.map_or(fresh.0, |parent| parent.trace_id);
        let state = parent.and_then(|parent| parent.state.clone());
        if !self.0.records(parent, fresh.0, now) {
            return Operation { span: Span::none(), recorded: None, trace_id, span_id: fresh.1, state };
        }
        let span = tracing::info_span!(target: TARGET, parent: None, "server", otel.name = name, otel.kind = "server");
        if let Some(parent) = parent {
            // Fails only where no exporter listens, and then there is nothing to have a parent.
            drop(span.set_parent(Context::new().with_remote_span_context(remote(parent))));
        }
        Operation::of(span, (trace_id, fresh.1), state)
    }
}

impl Sampler {
    fn records(&self, parent: Option<&Parent>, fresh: TraceId, now: Timestamp) -> bool {
        if !self.exports {
            return false;
        }
        match parent {
            Some(parent) if !parent.sampled => false,
            // Not by the parent's own id: whoever asks chooses that, and would choose one that is recorded.
            Some(_) => self.is_chosen(fresh) || self.may_ask(now),
            None => self.is_chosen(fresh),
        }
    }

    /// By the random part of a trace that begins here, so that services which do likewise choose the same traces.
    #[expect(clippy::cast_possible_truncation, reason = "the lower half is what is wanted")]
    const fn is_chosen(&self, trace_id: TraceId) -> bool {
        (trace_id.0 as u64) >> 1 < self.threshold
    }

    fn may_ask(&self, now: Timestamp) -> bool {
        let second = now.unix_seconds() << 24;
        let next = |asked: u64| {
            let so_far = if asked >> 24 == second >> 24 { asked & 0xff_ffff } else { 0 };
            (so_far < ASKED_PER_SECOND_MAX).then(|| second | so_far.saturating_add(1))
        };
        self.asked.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next).is_ok()
    }
}

impl Operation {
    fn of(span: Span, own: (TraceId, SpanId), state: Option<String>) -> Self {
        let context = span.context();
        let within = context.span().span_context().clone();
        if !within.is_valid() {
            return Self { span, recorded: None, trace_id: own.0, span_id: own.1, state };
        }
        Self {
            span,
            recorded: Some(context),
            trace_id: TraceId(u128::from_be_bytes(within.trace_id().to_bytes())),
            span_id: SpanId(u64::from_be_bytes(within.span_id().to_bytes())),
            state,
        }
    }

    /// Begins the span of a call to an upstream, within this operation.
    #[must_use]
    pub fn client(&self, name: impl FnOnce() -> String) -> Self {
        let own = (self.trace_id, random().1);
        if self.recorded.is_none() {
            let state = self.state.clone();
            return Self { span: Span::none(), recorded: None, trace_id: own.0, span_id: own.1, state };
        }
        let name = name();
        let span =
            tracing::info_span!(target: TARGET, parent: &self.span, "client", otel.name = name, otel.kind = "client");
        Self::of(span, own, self.state.clone())
    }

    /// The trace, for the audit record.
    #[must_use]
    pub const fn trace_id(&self) -> TraceId {
        self.trace_id
    }

    /// The span, for the audit record.
    #[must_use]
    pub const fn span_id(&self) -> SpanId {
        self.span_id
    }

    /// Whether anybody will see what is noted here; saves making text for nobody.
    #[must_use]
    pub const fn is_recorded(&self) -> bool {
        self.recorded.is_some()
    }

    /// `traceparent` for whoever works on behalf of this operation.
    #[must_use]
    pub fn traceparent(&self) -> String {
        traceparent(self.trace_id, self.span_id, self.is_recorded())
    }

    /// `tracestate` to go with it: the caller's, untouched.
    #[must_use]
    pub fn tracestate(&self) -> Option<&str> {
        self.state.as_deref()
    }

    /// A better name, known later.
    pub fn rename(&self, name: &str) {
        if let Some(recorded) = &self.recorded {
            recorded.span().update_name(name.to_owned());
        }
    }

    /// Notes `value` under one of [`super::names`].
    pub fn note(&self, name: &'static str, value: impl Into<Value>) {
        if let Some(recorded) = &self.recorded {
            recorded.span().set_attribute(KeyValue::new(name, value));
        }
    }

    /// Points to another trace that this operation has to do with, such as that of the HTTP request where `_meta` named
    /// the parent.
    pub fn link(&self, other: &Parent) {
        if let Some(recorded) = &self.recorded {
            recorded.span().add_link(remote(other), Vec::new());
        }
    }

    /// Marks the operation as failed; `error_type` is what [`super::names::ERROR_TYPE`] says.
    pub fn fail(&self, error_type: &str) {
        if let Some(recorded) = &self.recorded {
            recorded.span().set_attribute(KeyValue::new(super::names::ERROR_TYPE, error_type.to_owned()));
            recorded.span().set_status(Status::error(error_type.to_owned()));
        }
    }
}

fn remote(parent: &Parent) -> SpanContext {
    let state = parent.state.as_deref().and_then(|state| state.parse::<TraceState>().ok()).unwrap_or_default();
    SpanContext::new(
        OtelTraceId::from(parent.trace_id.0),
        OtelSpanId::from(parent.span_id.0),
        TraceFlags::SAMPLED,
        true,
        state,
    )
}

/// Ids that are not zero. Without randomness they are all alike, which spoils traces and nothing else.
fn random() -> (TraceId, SpanId) {
    let trace_id = random::bytes().map_or(1, u128::from_be_bytes);
    let span_id = random::bytes().map_or(1, u64::from_be_bytes);
    (TraceId(trace_id.max(1)), SpanId(span_id.max(1)))
}

/// `ratio` of 2^63.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "clamped to the range first; a share needs no more precision"
)]
fn threshold(ratio: f64) -> u64 {
    (ratio.clamp(0.0, 1.0) * (1_u64 << 63) as f64) as u64
}

#[cfg(test)]
mod tests {
    use super::{ASKED_PER_SECOND_MAX, Parent, Spans};
    use crate::clock::Timestamp;

    const NOW: Timestamp = Timestamp::from_unix_seconds(1_800_000_000);

    fn chosen(spans: &Spans, parent: Option<&Parent>, of: usize) -> usize {
        (0..of).filter(|_| spans.0.records(parent, super::random().0, NOW)).count()
    }

    #[test]
    fn the_ratio_holds_where_the_caller_did_not_decide() {
        assert_eq!(chosen(&Spans::new(1.0, true), None, 1000), 1000);
        assert_eq!(chosen(&Spans::new(0.0, true), None, 1000), 0);
        assert_eq!(chosen(&Spans::new(1.0, false), None, 1000), 0);
        assert!((1500..2500).contains(&chosen(&Spans::new(0.2, true), None, 10_000)));
    }

    #[test]
    fn the_caller_decides_within_bounds() {
        let parent = |flags: &str| {
            Parent::parse(&format!("00-ffffffffffffffffffffffffffffffff-b7ad6b7169203331-{flags}"), None).unwrap()
        };
        let spans = Spans::new(0.0, true);
        assert_eq!(chosen(&spans, Some(&parent("01")), 1000), usize::try_from(ASKED_PER_SECOND_MAX).unwrap());
        assert!(!spans.0.records(Some(&parent("00")), super::random().0, NOW));
        let later = Timestamp::from_unix_seconds(1_800_000_001);
        assert!(spans.0.records(Some(&parent("01")), super::random().0, later));
        assert_eq!(chosen(&Spans::new(1.0, true), Some(&parent("00")), 100), 0);
    }

    #[test]
    fn an_id_that_was_chosen_to_be_recorded_is_not_for_that() {
        let low = Parent::parse("00-00000000000000010000000000000000-b7ad6b7169203331-01", None).unwrap();
        assert!((1..2500).contains(&chosen(&Spans::new(0.2, true), Some(&low), 10_000)));
    }

    #[test]
    fn a_trace_that_is_not_recorded_is_still_handed_on() {
        let parent = Parent::parse("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00", Some("a=1")).unwrap();
        let server = Spans::new(1.0, true).server("tools/call x", Some(&parent), NOW);
        let client = server.client(|| "tools/call x".to_owned());
        assert!(client.traceparent().starts_with("00-0af7651916cd43dd8448eb211c80319c-"));
        assert!(client.traceparent().ends_with("-00"));
        assert_eq!(client.tracestate(), Some("a=1"));
        assert_ne!(client.span_id(), server.span_id());
        assert_ne!(server.span_id(), parent.span_id);
    }
}
