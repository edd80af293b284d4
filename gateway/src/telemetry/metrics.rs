//! How often, how long, how many?
//!
//! Counters, gauges and histograms of atomics: recording takes no lock and no allocation beyond a label lookup. The
//! same numbers go out twice, as Prometheus text ([`render`]) and over OTLP (`export`); there is no second book.
//! Labels come from the catalogue and the configuration only; whatever comes from outside is `_OTHER`.

use std::{
    collections::HashMap,
    fmt::Write,
    sync::{
        Arc, LazyLock,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use parking_lot::Mutex;

use super::names;

/// The numbers of this process.
#[must_use]
pub fn metrics() -> &'static Metrics {
    static METRICS: LazyLock<Metrics> = LazyLock::new(Metrics::default);
    &METRICS
}

/// Every metric there is.
#[derive(Debug, Default)]
pub struct Metrics {
    /// `mcp.server.operation.duration`, by [`Operation`].
    pub server: Family<Histogram, 6>,
    /// `mcp.client.operation.duration`, by [`Operation`] with the upstream's id before.
    pub client: Family<Histogram, 7>,
    /// `mcp.server.session.duration`, by protocol version: legacy sessions only.
    pub server_sessions: Family<Histogram, 1>,
    /// `mcp.client.session.duration`, by protocol version: those of legacy upstreams.
    pub client_sessions: Family<Histogram, 1>,
    /// Refusals, by code.
    pub refusals: Family<Counter, 1>,
    /// Credentials that are not valid, by what is wrong with them.
    pub token_faults: Family<Counter, 1>,
    /// Whether what was last read of `upstreams.toml` or `policies/` is not in force, by which (`config`, `policy`).
    pub changes_rejected: Family<Gauge, 1>,
    /// Policies that name what is not there, or read it as what it is not.
    pub policy_problems: Gauge,
    /// Decisions of policy: `allow` or `deny`.
    pub decisions: Family<Counter, 1>,
    /// What policies on trial (`@shadow`) would have done, by policy, that (`permit`, `forbid`, `fail`) and whether it
    /// would have changed the decision (`true`, `false`).
    pub shadow: Family<Counter, 3>,
    /// Requests that deviate from the specification and were served, by the habit that was forgiven.
    pub tolerated: Family<Counter, 1>,
    /// Records that wait for the disk.
    pub audit_queue: Gauge,
    /// Time that one group of records took to reach the disk.
    pub audit_commit: Histogram,
    /// Records made durable.
    pub audit_records: Counter,
    /// Records that could not be made durable.
    pub audit_failures: Counter,
    /// Requests to token endpoints, by endpoint, or the issuer that names it, and outcome (`ok`, `failed`).
    pub mints: Family<Counter, 2>,
    /// Looks into the grant cache, by outcome (`hit`, `miss`).
    pub grant_cache: Family<Counter, 1>,
    /// Looks into the cache of verified tokens, by outcome (`hit`, `miss`).
    pub token_cache: Family<Counter, 1>,
    /// Looks for what was answered before, by what ([`names::CACHE`]) and outcome (`hit`, `miss`).
    pub answer_cache: Family<Counter, 2>,
    /// Bytes of lists that went out, by whether they were written for it (`miss`) or had been before (`hit`).
    pub list_bytes: Family<Counter, 1>,
    /// Readings of issuers' keys, by issuer and outcome (`ok`, `failed`).
    pub key_fetches: Family<Counter, 2>,
    /// Questions about tokens, by issuer and outcome (`active`, `inactive`, `failed`, `refused` for one not asked).
    pub introspections: Family<Counter, 2>,
    /// 1 where the upstream answers, 0 where not; by upstream.
    pub upstream_up: Family<Gauge, 1>,
    /// Messages from upstreams that nobody asked for or that fit nothing, by upstream and reason.
    pub upstream_dropped: Family<Counter, 2>,
    /// Requests stopped because the caller's credential was in them: any but 0 is a bug.
    pub tripwire: Counter,
    /// Client connections open.
    pub connections: Gauge,
    /// Client connections refused because there were too many.
    pub connections_refused: Counter,
    /// Calls in flight.
    pub calls: Gauge,
    /// Legacy sessions, ours to clients.
    pub sessions: Gauge,
    /// Streams on which clients wait for changes.
    pub listeners: Gauge,
    /// Calls held at legacy upstreams until a modern client answers.
    pub holds: Gauge,
    /// What was done at the gateway's own authorization server: `client`, `consent`, `token`.
    pub authorizations: Family<Counter, 1>,
    /// Values of the state that could not be read, each time that they were to be.
    pub state_unreadable: Counter,
    /// Times that clients were asked something in the middle of a call, by upstream.
    pub input_rounds: Family<Counter, 1>,
}

/// What tells one kind of operation from another, in the order of the labels of [`Metrics::server`].
#[derive(Debug, Clone, Copy)]
pub struct Operation<'a> {
    /// The MCP method; one that is not MCP's counts as `_OTHER`.
    pub method: &'a str,
    /// The tool or prompt as the catalogue has it; [`names::OTHER`] for one that it has not; empty where there is none.
    pub target: &'a str,
    /// `error.type`; empty where all went well.
    pub error: &'a str,
    /// The JSON-RPC code; empty where there is none.
    pub status: &'a str,
    /// The protocol version agreed on; empty where unknown.
    pub version: &'a str,
}

impl Operation<'_> {
    /// The tool, and the prompt: one of them is empty.
    fn names(&self) -> [&str; 2] {
        if self.method == "prompts/get" { ["", self.target] } else { [self.target, ""] }
    }
}

impl Metrics {
    /// Counts a refusal; `fault` is what is wrong with a credential.
    pub fn refused(&self, code: &str, fault: Option<&str>) {
        self.refusals.with([code]).increment();
        if let Some(fault) = fault {
            self.token_faults.with([fault]).increment();
        }
    }

    /// Counts an operation that a client asked for.
    pub fn served(&self, operation: Operation<'_>, took: Duration) {
        let Operation { method, error, status, version, .. } = operation;
        let [tool, prompt] = operation.names();
        self.server.with([names::method(method), tool, prompt, error, status, version]).record(took);
    }

    /// Counts an operation that an upstream was asked for.
    pub fn called(&self, upstream: &str, operation: Operation<'_>, took: Duration) {
        let Operation { method, error, status, version, .. } = operation;
        let [tool, prompt] = operation.names();
        self.client.with([upstream, names::method(method), tool, prompt, error, status, version]).record(took);
    }

    /// Every metric with its name: the one list that both exports are made from.
    pub(super) fn all(&self) -> Vec<Metric<'_>> {
        let mut all = self.of_protocol();
        all.extend(self.of_gateway());
        all.extend(self.of_rules());
        all.extend(self.of_room());
        all
    }

    fn of_protocol(&self) -> Vec<Metric<'_>> {
        const OPERATION: [&str; 6] =
            [names::METHOD, names::TOOL, names::PROMPT, names::ERROR_TYPE, names::RPC_STATUS, names::PROTOCOL_VERSION];
        const CALL: [&str; 7] = [
            names::UPSTREAM,
            names::METHOD,
            names::TOOL,
            names::PROMPT,
            names::ERROR_TYPE,
            names::RPC_STATUS,
            names::PROTOCOL_VERSION,
        ];
        vec![
            Metric::family(names::SERVER_DURATION, "Time to answer a client.", &OPERATION, &self.server),
            Metric::family(names::CLIENT_DURATION, "Time that an upstream took.", &CALL, &self.client),
            Metric::family(
                names::SERVER_SESSION_DURATION,
                "Life of a legacy session.",
                &[names::PROTOCOL_VERSION],
                &self.server_sessions,
            ),
            Metric::family(
                names::CLIENT_SESSION_DURATION,
                "Life of a session with a legacy upstream.",
                &[names::PROTOCOL_VERSION],
                &self.client_sessions,
            ),
        ]
    }

    fn of_gateway(&self) -> Vec<Metric<'_>> {
        const OUTCOME: [&str; 1] = [names::OUTCOME];
        vec![
            Metric::family("tollgate.refusals", "Refusals, by code.", &[names::REFUSAL], &self.refusals),
            Metric::family(
                "tollgate.identity.faults",
                "Credentials that are not valid, by what is wrong with them.",
                &[names::FAULT],
                &self.token_faults,
            ),
            Metric::family(
                "tollgate.tolerated",
                "Deviations of clients that were forgiven.",
                &[names::HABIT],
                &self.tolerated,
            ),
            Metric::one("tollgate.audit.queue", "Records that wait for the disk.", &self.audit_queue),
            Metric::one(
                "tollgate.audit.commit.duration",
                "Time that a group of records took to reach the disk.",
                &self.audit_commit,
            ),
            Metric::one("tollgate.audit.records", "Records made durable.", &self.audit_records),
            Metric::one("tollgate.audit.failures", "Records that could not be written.", &self.audit_failures),
            Metric::family(
                "tollgate.exchange.mints",
                "Requests to token endpoints.",
                &[names::TOKEN_ENDPOINT, names::OUTCOME],
                &self.mints,
            ),
            Metric::family("tollgate.exchange.cache", "Looks into the grant cache.", &OUTCOME, &self.grant_cache),
            Metric::family("tollgate.identity.cache", "Looks for a verified token.", &OUTCOME, &self.token_cache),
            Metric::family(
                "tollgate.answers.cache",
                "Looks for what was answered before.",
                &[names::CACHE, names::OUTCOME],
                &self.answer_cache,
            ),
            Metric::family("tollgate.lists.bytes", "Bytes of lists that went out.", &OUTCOME, &self.list_bytes),
            Metric::family(
                "tollgate.identity.key_fetches",
                "Readings of issuers' keys.",
                &[names::ISSUER, names::OUTCOME],
                &self.key_fetches,
            ),
            Metric::family(
                "tollgate.identity.introspections",
                "Questions to issuers about tokens.",
                &[names::ISSUER, names::OUTCOME],
                &self.introspections,
            ),
            Metric::family(
                "tollgate.upstream.up",
                "Whether an upstream answers.",
                &[names::UPSTREAM],
                &self.upstream_up,
            ),
            Metric::family(
                "tollgate.upstream.dropped",
                "Messages of upstreams that were dropped.",
                &[names::UPSTREAM, names::REASON],
                &self.upstream_dropped,
            ),
            Metric::family("tollgate.facade", "What the facade granted.", &OUTCOME, &self.authorizations),
            Metric::one("tollgate.tripwire", "Credentials stopped on their way out.", &self.tripwire),
            Metric::one("tollgate.state.unreadable", "Kept values that could not be read.", &self.state_unreadable),
        ]
    }

    /// What was written by administrators, and what it came to.
    fn of_rules(&self) -> Vec<Metric<'_>> {
        vec![
            Metric::family(
                "tollgate.changes.rejected",
                "Whether what was last written is not in force.",
                &[names::SUBJECT],
                &self.changes_rejected,
            ),
            Metric::one("tollgate.policy.problems", "Policies that do not fit what is there.", &self.policy_problems),
            Metric::family("tollgate.policy.decisions", "Decisions of policy.", &[names::OUTCOME], &self.decisions),
            Metric::family(
                "tollgate.policy.shadow",
                "What policies on trial would have done.",
                &[names::POLICY, names::OUTCOME, names::CHANGES],
                &self.shadow,
            ),
        ]
    }

    /// What is open, under way or held at this moment.
    fn of_room(&self) -> Vec<Metric<'_>> {
        vec![
            Metric::one("tollgate.connections", "Client connections open.", &self.connections),
            Metric::one("tollgate.connections.refused", "Client connections refused.", &self.connections_refused),
            Metric::one("tollgate.calls", "Calls in flight.", &self.calls),
            Metric::one("tollgate.sessions", "Legacy sessions.", &self.sessions),
            Metric::one("tollgate.listeners", "Streams on which clients wait for changes.", &self.listeners),
            Metric::one("tollgate.holds", "Calls held until a client answers.", &self.holds),
            Metric::family(
                "tollgate.input.rounds",
                "Times that clients were asked something.",
                &[names::UPSTREAM],
                &self.input_rounds,
            ),
        ]
    }
}

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// One more.
    pub fn increment(&self) {
        self.add(1);
    }

    /// So many more.
    pub fn add(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    /// How many.
    #[must_use]
    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A number that goes up and down.
#[derive(Debug, Default)]
pub struct Gauge(AtomicI64);

impl Gauge {
    /// One more.
    pub fn increment(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// One less.
    pub fn decrement(&self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }

    /// Exactly so many.
    pub fn set(&self, value: i64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// How many.
    #[must_use]
    pub fn value(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Durations, counted by the bucket that they fall into.
#[derive(Debug, Default)]
pub struct Histogram {
    buckets: [AtomicU64; BOUNDS_MS.len() + 1],
    sum_ns: AtomicU64,
}

impl Histogram {
    /// One more.
    pub fn record(&self, took: Duration) {
        let at = BOUNDS_MS.iter().take_while(|bound| took > Duration::from_millis(**bound)).count();
        if let Some(bucket) = self.buckets.get(at) {
            bucket.fetch_add(1, Ordering::Relaxed);
        }
        self.sum_ns.fetch_add(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    fn read(&self) -> Value {
        Value::Histogram {
            counts: self.buckets.iter().map(|bucket| bucket.load(Ordering::Relaxed)).collect(),
            sum: Duration::from_nanos(self.sum_ns.load(Ordering::Relaxed)).as_secs_f64(),
        }
    }
}

/// The upper bounds of all but the last bucket, in milliseconds: those of the MCP conventions, and below them the
/// ones in which a gateway lives.
pub(super) const BOUNDS_MS: [u64; 17] =
    [1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 30_000, 60_000, 120_000, 300_000];

/// Metrics of one name, told apart by labels.
#[derive(Debug)]
pub struct Family<T, const LABELS: usize> {
    series: ArcSwap<HashMap<String, Arc<Series<T, LABELS>>>>,
    growing: Mutex<()>,
}

#[derive(Debug)]
struct Series<T, const LABELS: usize> {
    labels: [Box<str>; LABELS],
    metric: T,
}

/// More series than that in one family are a mistake somewhere: what comes after is counted under `_OTHER`.
const SERIES_MAX: usize = 4096;

impl<T, const LABELS: usize> Default for Family<T, LABELS> {
    fn default() -> Self {
        Self { series: ArcSwap::default(), growing: Mutex::new(()) }
    }
}

/// One series of a family, to be recorded into at once or kept by who records often.
#[derive(Debug)]
pub struct Handle<T, const LABELS: usize>(Arc<Series<T, LABELS>>);

impl<T, const LABELS: usize> std::ops::Deref for Handle<T, LABELS> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0.metric
    }
}

impl<T: Default, const LABELS: usize> Family<T, LABELS> {
    /// The series with these labels, in the order of the family's names.
    pub fn with(&self, labels: [&str; LABELS]) -> Handle<T, LABELS> {
        // Joined by a character that no name has.
        let key = labels.join("\u{1f}");
        match self.series.load().get(&key) {
            Some(series) => Handle(Arc::clone(series)),
            None => self.grown(key, labels),
        }
    }

    #[cold]
    fn grown(&self, key: String, labels: [&str; LABELS]) -> Handle<T, LABELS> {
        let _growing = self.growing.lock();
        let known = self.series.load_full();
        let full = known.len() >= SERIES_MAX;
        let (key, labels) =
            if full { ([names::OTHER; LABELS].join("\u{1f}"), [names::OTHER; LABELS]) } else { (key, labels) };
        if let Some(series) = known.get(&key) {
            return Handle(Arc::clone(series));
        }
        let series = Arc::new(Series { labels: labels.map(Box::from), metric: T::default() });
        let mut larger = HashMap::clone(&known);
        larger.insert(key, Arc::clone(&series));
        self.series.store(Arc::new(larger));
        Handle(series)
    }
}

/// One metric, read.
#[derive(Debug)]
pub(super) struct Metric<'a> {
    pub(super) name: &'static str,
    pub(super) help: &'static str,
    pub(super) kind: Kind,
    pub(super) points: Vec<Point<'a>>,
}

/// What kind of numbers a metric has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// One number of a metric, with the labels that are not empty.
#[derive(Debug)]
pub(super) struct Point<'a> {
    pub(super) labels: Vec<(&'a str, String)>,
    pub(super) value: Value,
}

/// A number.
#[derive(Debug)]
pub(super) enum Value {
    Counter(u64),
    Gauge(i64),
    Histogram { counts: Vec<u64>, sum: f64 },
}

/// What a metric's type can say of itself.
trait Readable {
    const KIND: Kind;
    fn value(&self) -> Value;
}

impl Readable for Counter {
    const KIND: Kind = Kind::Counter;
    fn value(&self) -> Value {
        Value::Counter(self.value())
    }
}

impl Readable for Gauge {
    const KIND: Kind = Kind::Gauge;
    fn value(&self) -> Value {
        Value::Gauge(self.value())
    }
}

impl Readable for Histogram {
    const KIND: Kind = Kind::Histogram;
    fn value(&self) -> Value {
        self.read()
    }
}

impl<'a> Metric<'a> {
    fn one<T: Readable>(name: &'static str, help: &'static str, metric: &T) -> Self {
        Self { name, help, kind: T::KIND, points: vec![Point { labels: Vec::new(), value: metric.value() }] }
    }

    fn family<T: Readable, const LABELS: usize>(
        name: &'static str,
        help: &'static str,
        names: &[&'a str; LABELS],
        family: &Family<T, LABELS>,
    ) -> Self {
        let mut points: Vec<Point<'a>> = family
            .series
            .load()
            .values()
            .map(|series| Point {
                labels: names
                    .iter()
                    .zip(&series.labels)
                    .filter(|(_, value)| !value.is_empty())
                    .map(|(name, value)| (*name, value.to_string()))
                    .collect(),
                value: series.metric.value(),
            })
            .collect();
        points.sort_unstable_by(|one, other| one.labels.cmp(&other.labels));
        Self { name, help, kind: T::KIND, points }
    }
}

/// `metrics` as Prometheus text, version 0.0.4.
#[must_use]
pub fn render(metrics: &Metrics) -> String {
    let mut text = String::with_capacity(16 * 1024);
    for metric in metrics.all() {
        // Writing to a String cannot fail; were it to, half a page is better than none.
        if write_metric(&mut text, &metric).is_err() {
            break;
        }
    }
    text
}

fn write_metric(text: &mut String, metric: &Metric<'_>) -> std::fmt::Result {
    let mut name = metric.name.replace('.', "_");
    name.push_str(match metric.kind {
        Kind::Counter => "_total",
        Kind::Gauge => "",
        Kind::Histogram => "_seconds",
    });
    let kind = match metric.kind {
        Kind::Counter => "counter",
        Kind::Gauge => "gauge",
        Kind::Histogram => "histogram",
    };
    writeln!(text, "# HELP {name} {}\n# TYPE {name} {kind}", metric.help)?;
    for point in &metric.points {
        let labels = written(&point.labels);
        match &point.value {
            Value::Counter(value) => writeln!(text, "{name}{} {value}", braced(&labels))?,
            Value::Gauge(value) => writeln!(text, "{name}{} {value}", braced(&labels))?,
            Value::Histogram { counts, sum } => {
                let comma = if labels.is_empty() { "" } else { "," };
                let mut below = 0_u64;
                let bounds = BOUNDS_MS.iter().map(|bound| seconds(*bound).to_string()).chain(["+Inf".to_owned()]);
                for (bound, count) in bounds.zip(counts) {
                    below = below.saturating_add(*count);
                    writeln!(text, "{name}_bucket{{{labels}{comma}le=\"{bound}\"}} {below}")?;
                }
                writeln!(text, "{name}_sum{} {sum}\n{name}_count{} {below}", braced(&labels), braced(&labels))?;
            }
        }
    }
    Ok(())
}

/// A bound in the unit of every duration that goes out.
pub(super) fn seconds(bound_ms: u64) -> f64 {
    Duration::from_millis(bound_ms).as_secs_f64()
}

fn written(labels: &[(&str, String)]) -> String {
    let label = |(name, value): &(&str, String)| {
        let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
        format!("{}=\"{value}\"", name.replace('.', "_"))
    };
    labels.iter().map(label).collect::<Vec<_>>().join(",")
}

fn braced(labels: &str) -> String {
    if labels.is_empty() { String::new() } else { format!("{{{labels}}}") }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Metrics, Operation, SERIES_MAX, render};

    const CALL: Operation<'_> =
        Operation { method: "tools/call", target: "crm__find", error: "", status: "", version: "2026-07-28" };

    #[test]
    fn numbers_come_out_as_prometheus_text() {
        let metrics = Metrics::default();
        metrics.served(CALL, Duration::from_millis(15));
        metrics.served(CALL, Duration::from_secs(400));
        metrics.refusals.with(["de\"ni\\ed\n"]).increment();
        metrics.upstream_up.with(["crm"]).set(1);
        let text = render(&metrics);
        let labels = r#"mcp_method_name="tools/call",gen_ai_tool_name="crm__find",mcp_protocol_version="2026-07-28""#;
        for line in [
            format!(r#"mcp_server_operation_duration_seconds_bucket{{{labels},le="0.01"}} 0"#),
            format!(r#"mcp_server_operation_duration_seconds_bucket{{{labels},le="0.02"}} 1"#),
            format!(r#"mcp_server_operation_duration_seconds_bucket{{{labels},le="+Inf"}} 2"#),
            format!("mcp_server_operation_duration_seconds_sum{{{labels}}} 400.015"),
            format!("mcp_server_operation_duration_seconds_count{{{labels}}} 2"),
            r#"tollgate_refusals_total{tollgate_refusal_code="de\"ni\\ed\n"} 1"#.to_owned(),
            r#"tollgate_upstream_up{tollgate_upstream_id="crm"} 1"#.to_owned(),
            "tollgate_tripwire_total 0".to_owned(),
            "# TYPE tollgate_audit_commit_duration_seconds histogram".to_owned(),
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
    }

    #[test]
    fn series_are_bounded() {
        let metrics = Metrics::default();
        for n in 0..SERIES_MAX + 50 {
            metrics.refusals.with([&format!("code{n}")]).increment();
        }
        let text = render(&metrics);
        assert!(text.contains(r#"tollgate_refusals_total{tollgate_refusal_code="_OTHER"} 50"#));
        let prompt = Operation { method: "prompts/get", target: "crm__greet", ..CALL };
        metrics.called("crm", prompt, Duration::ZERO);
        let text = render(&metrics);
        let of_the_prompt = text.lines().find(|line| line.contains("crm__greet")).unwrap();
        assert!(of_the_prompt.contains(r#"gen_ai_prompt_name="crm__greet""#) && !of_the_prompt.contains("gen_ai_tool"));
        let made_up = Operation { method: "tools/made-up", ..CALL };
        metrics.served(made_up, Duration::ZERO);
        assert!(render(&metrics).contains(r#"mcp_method_name="_OTHER""#));
    }
}
