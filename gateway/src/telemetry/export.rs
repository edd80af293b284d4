//! How do traces and metrics reach the collector?
//!
//! OTLP over HTTP in protobuf, over `egress`, on one thread of its own: a collector that is slow or away costs memory
//! within bounds and nothing of a request's time. It does not decide what is recorded.

use std::{
    thread::{Builder, JoinHandle},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use http::{Request, Response, header};
use opentelemetry_http::{HttpClient, HttpError};
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_proto::tonic::{
    collector::metrics::v1::ExportMetricsServiceRequest,
    common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value},
    metrics::v1::{
        AggregationTemporality, Gauge, Histogram, HistogramDataPoint, Metric, NumberDataPoint, ResourceMetrics,
        ScopeMetrics, Sum, metric, number_data_point,
    },
    resource::v1::Resource as OtlpResource,
};
use opentelemetry_sdk::{
    Resource,
    trace::{Sampler, SdkTracerProvider},
};
use prost::Message;
use tokio::sync::{mpsc, oneshot};
use url::Url;

use super::{
    metrics::{BOUNDS_MS, Kind, Metrics, Point, Value, metrics, seconds},
    names,
};
use crate::{
    clock::{self, Timestamp},
    config,
    egress::{Bounds, Client, EgressError, Trust},
};

/// What the collector may cost.
const BOUNDS: Bounds = Bounds { deadline: Duration::from_secs(10), bytes_max: 64 * 1024 };
/// Time between two exports of metrics; OpenTelemetry's own default.
const METRICS_EVERY: Duration = Duration::from_secs(60);
/// Exports that may wait for the thread: traces come one batch at a time.
const WAITING_MAX: usize = 8;

/// What runs beside the gateway until it ends.
#[derive(Debug)]
pub(super) struct Export {
    pub(super) provider: SdkTracerProvider,
    orders: mpsc::Sender<Order>,
    thread: JoinHandle<()>,
}

/// What the thread is asked for.
#[derive(Debug)]
enum Order {
    Send(Box<Request<Bytes>>, oneshot::Sender<Result<Response<Bytes>, EgressError>>),
    Stop,
}

impl Export {
    /// Begins to export to the collector at `otlp`.
    pub(super) fn start(otlp: &Url, config: &config::Telemetry) -> Result<Self, String> {
        // An administrator who writes `http:` means the collector beside the gateway.
        let trust = Trust { plain_http: otlp.scheme() == "http", ..Trust::default() };
        let client = Client::new(&trust).map_err(|error| error.to_string())?;
        let (orders, receiver) = mpsc::channel(WAITING_MAX);
        let instance = uuid::Uuid::now_v7().to_string();
        let exporter = SpanExporter::builder()
            .with_http()
            .with_http_client(Wire(orders.clone()))
            .with_endpoint(at(otlp, "v1/traces"))
            .with_protocol(Protocol::HttpBinary)
            .with_timeout(BOUNDS.deadline)
            .build()
            .map_err(|error| error.to_string())?;
        let resource = Resource::builder()
            .with_service_name(config.service_name.clone())
            .with_attribute(opentelemetry::KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
            .with_attribute(opentelemetry::KeyValue::new("service.instance.id", instance.clone()))
            .build();
        // `Spans` has decided by the time that a span is made.
        let provider = SdkTracerProvider::builder()
            .with_sampler(Sampler::AlwaysOn)
            .with_resource(resource)
            .with_batch_exporter(exporter)
            .build();
        let writer = Writer {
            client,
            endpoint: at(otlp, "v1/metrics"),
            service: config.service_name.clone(),
            instance,
            started_at: clock::now(),
        };
        let thread = writer.start(receiver)?;
        Ok(Self { provider, orders, thread })
    }

    /// Sends what is left and ends. Waits for that, so it belongs on a thread that may wait.
    pub(super) fn stop(self) {
        if let Err(error) = self.provider.shutdown() {
            tracing::warn!(%error, "last spans not exported");
        }
        // Both fail only where the thread is gone already.
        drop(self.orders.blocking_send(Order::Stop));
        drop(self.thread.join());
    }
}

/// The SDK's idea of an HTTP client. Its futures need no runtime: they wait for the thread that has one.
#[derive(Debug)]
struct Wire(mpsc::Sender<Order>);

#[async_trait]
impl HttpClient for Wire {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let (reply, answer) = oneshot::channel();
        self.0.send(Order::Send(Box::new(request), reply)).await?;
        Ok(answer.await??)
    }
}

/// The thread's own.
struct Writer {
    client: Client,
    endpoint: String,
    service: String,
    instance: String,
    started_at: Timestamp,
}

impl Writer {
    fn start(self, orders: mpsc::Receiver<Order>) -> Result<JoinHandle<()>, String> {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|error| error.to_string())?;
        Builder::new()
            .name("telemetry".to_owned())
            .spawn(move || runtime.block_on(self.run(orders)))
            .map_err(|error| error.to_string())
    }

    async fn run(self, mut orders: mpsc::Receiver<Order>) {
        let mut ticks = tokio::time::interval(METRICS_EVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        ticks.tick().await; // the first is at once, when there is nothing to say
        loop {
            tokio::select! {
                order = orders.recv() => match order {
                    Some(Order::Send(request, reply)) => {
                        // Whoever asked may have given up.
                        drop(reply.send(self.client.fetch(*request, BOUNDS).await));
                    }
                    Some(Order::Stop) | None => return self.send(metrics()).await,
                },
                _ = ticks.tick() => self.send(metrics()).await,
            }
        }
    }

    async fn send(&self, metrics: &Metrics) {
        let body = Bytes::from(self.request(metrics, clock::now()).encode_to_vec());
        let request = Request::post(&self.endpoint).header(header::CONTENT_TYPE, "application/x-protobuf").body(body);
        let outcome = match request {
            Ok(request) => self.client.fetch(request, BOUNDS).await.map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        match outcome {
            Ok(response) if response.status().is_success() => {}
            Ok(response) => tracing::warn!(status = response.status().as_u16(), "metrics not taken"),
            Err(error) => tracing::warn!(error, "metrics not exported"),
        }
    }

    fn request(&self, metrics: &Metrics, now: Timestamp) -> ExportMetricsServiceRequest {
        let times = Times { start: nanoseconds(self.started_at), now: nanoseconds(now) };
        let metrics = metrics.all().into_iter().filter(|metric| !metric.points.is_empty()).map(|metric| Metric {
            name: metric.name.to_owned(),
            description: metric.help.to_owned(),
            unit: if metric.kind == Kind::Histogram { "s".to_owned() } else { "1".to_owned() },
            data: Some(times.data(metric.kind, &metric.points)),
            ..Metric::default()
        });
        let scope = InstrumentationScope {
            name: "tollgate".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ..InstrumentationScope::default()
        };
        ExportMetricsServiceRequest {
            resource_metrics: vec![ResourceMetrics {
                resource: Some(OtlpResource {
                    attributes: vec![
                        attribute("service.name", &self.service),
                        attribute("service.version", env!("CARGO_PKG_VERSION")),
                        attribute("service.instance.id", &self.instance),
                    ],
                    ..OtlpResource::default()
                }),
                scope_metrics: vec![ScopeMetrics {
                    scope: Some(scope),
                    metrics: metrics.collect(),
                    schema_url: names::SCHEMA.to_owned(),
                }],
                ..ResourceMetrics::default()
            }],
        }
    }
}

/// The span of time that cumulative numbers are about.
#[derive(Clone, Copy)]
struct Times {
    start: u64,
    now: u64,
}

impl Times {
    fn data(self, kind: Kind, points: &[Point<'_>]) -> metric::Data {
        let numbers = || points.iter().filter_map(|point| self.number(point)).collect();
        match kind {
            Kind::Counter => metric::Data::Sum(Sum {
                data_points: numbers(),
                aggregation_temporality: AggregationTemporality::Cumulative.into(),
                is_monotonic: true,
            }),
            Kind::Gauge => metric::Data::Gauge(Gauge { data_points: numbers() }),
            Kind::Histogram => metric::Data::Histogram(Histogram {
                data_points: points.iter().filter_map(|point| self.histogram(point)).collect(),
                aggregation_temporality: AggregationTemporality::Cumulative.into(),
            }),
        }
    }

    fn number(self, point: &Point<'_>) -> Option<NumberDataPoint> {
        let value = match &point.value {
            Value::Counter(value) => i64::try_from(*value).unwrap_or(i64::MAX),
            Value::Gauge(value) => *value,
            Value::Histogram { .. } => return None,
        };
        Some(NumberDataPoint {
            attributes: attributes(point),
            start_time_unix_nano: self.start,
            time_unix_nano: self.now,
            value: Some(number_data_point::Value::AsInt(value)),
            ..NumberDataPoint::default()
        })
    }

    fn histogram(self, point: &Point<'_>) -> Option<HistogramDataPoint> {
        let Value::Histogram { counts, sum } = &point.value else { return None };
        Some(HistogramDataPoint {
            attributes: attributes(point),
            start_time_unix_nano: self.start,
            time_unix_nano: self.now,
            count: counts.iter().sum(),
            sum: Some(*sum),
            bucket_counts: counts.clone(),
            explicit_bounds: BOUNDS_MS.iter().map(|bound| seconds(*bound)).collect(),
            ..HistogramDataPoint::default()
        })
    }
}

fn attributes(point: &Point<'_>) -> Vec<KeyValue> {
    point.labels.iter().map(|(name, value)| attribute(name, value)).collect()
}

fn attribute(name: &str, value: &str) -> KeyValue {
    let value = any_value::Value::StringValue(value.to_owned());
    KeyValue { key: name.to_owned(), value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
}

fn nanoseconds(at: Timestamp) -> u64 {
    at.unix_ms().saturating_mul(1_000_000)
}

/// Where a signal goes, below the collector's base URL (OTLP §"Endpoint URLs for OTLP/HTTP").
fn at(base: &Url, signal: &str) -> String {
    format!("{}/{signal}", base.as_str().trim_end_matches('/'))
}
