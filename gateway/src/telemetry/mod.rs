//! What does an operator see?
//!
//! Traces and metrics to an OpenTelemetry collector, metrics as Prometheus text, logs as JSON on standard error. A line
//! about one request names it as its audit records do (`id`), and its trace where it has one (`trace_id`): also where the
//! trace is not recorded.
//! It does not see audit records: those are a product with promises of its own, and telemetry may be lost.

pub mod context;
mod export;
pub mod metrics;
pub mod names;
mod spans;
#[cfg(test)]
mod tests;

use std::io;

use export::Export;
pub use metrics::metrics;
use opentelemetry::{InstrumentationScope, trace::TracerProvider};
pub use spans::{Operation, Spans};
use tracing::Subscriber;
use tracing_subscriber::{
    EnvFilter, Layer, filter::filter_fn, layer::SubscriberExt, registry, util::SubscriberInitExt,
};

use crate::config;

/// What runs until the process ends; [`Telemetry::stop`] sends what is left.
#[derive(Debug)]
pub struct Telemetry {
    spans: Spans,
    export: Option<Export>,
}

impl Telemetry {
    /// Begins to log what `log_filter` lets through (the grammar of `RUST_LOG`), and to export where there is a collector.
    ///
    /// Where this process logs already, as in a test, logs and spans stay with whoever came first.
    ///
    /// # Errors
    /// Where the exporter cannot be built; why, in words.
    pub fn start(config: &config::Telemetry, log_filter: &str) -> Result<Self, String> {
        let filter = filter(log_filter)?;
        let telemetry = Self::new(config)?;
        if telemetry.subscriber(filter).try_init().is_err() {
            tracing::debug!("this process logs already");
        }
        Ok(telemetry)
    }

    /// How spans begin.
    #[must_use]
    pub const fn spans(&self) -> &Spans {
        &self.spans
    }

    /// Sends what is left. Waits for the collector within bounds: not on a thread that serves requests.
    pub fn stop(self) {
        if let Some(export) = self.export {
            export.stop();
        }
    }

    fn new(config: &config::Telemetry) -> Result<Self, String> {
        let export = match &config.otlp {
            Some(otlp) => Some(Export::start(otlp, config)?),
            None => None,
        };
        Ok(Self { spans: Spans::new(config.sample_ratio, export.is_some()), export })
    }

    fn subscriber(&self, log_filter: EnvFilter) -> impl Subscriber + Send + Sync + use<> {
        let log = tracing_subscriber::fmt::layer()
            .json()
            .flatten_event(true)
            .with_current_span(false)
            .with_span_list(false)
            .with_writer(io::stderr)
            .with_filter(log_filter);
        let trace = self.export.as_ref().map(|export| {
            let scope = InstrumentationScope::builder("tollgate")
                .with_version(env!("CARGO_PKG_VERSION"))
                .with_schema_url(names::SCHEMA)
                .build();
            tracing_opentelemetry::layer()
                .with_tracer(export.provider.tracer_with_scope(scope))
                .with_location(false)
                .with_threads(false)
                .with_tracked_inactivity(false)
                .with_context_activation(false)
                .with_filter(filter_fn(|metadata| metadata.is_span() && metadata.target() == spans::TARGET))
        });
        registry().with(trace).with(log)
    }
}

/// What is logged: levels, and targets with levels.
fn filter(text: &str) -> Result<EnvFilter, String> {
    // By the grammar a word alone may be a target, all of which is logged then, and nothing else: a misspelt level would be
    // silence.
    let is_level = |word: &str| LEVELS.iter().any(|level| level.eq_ignore_ascii_case(word));
    let mut alone = text.split(',').map(str::trim).filter(|part| !part.contains('='));
    if let Some(word) = alone.find(|word| !is_level(word)) {
        let levels = LEVELS.join("`, `");
        return Err(format!("`{word}` is no log level; write `{levels}`, or `TARGET=LEVEL`"));
    }
    EnvFilter::try_new(text).map_err(|error| format!("what to log, `{text}`: {error}"))
}

const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
