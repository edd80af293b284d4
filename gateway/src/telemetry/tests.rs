//! Does a collector get what was recorded?

use std::{convert::Infallible, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full, Limited};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use opentelemetry_proto::tonic::{
    collector::{metrics::v1::ExportMetricsServiceRequest, trace::v1::ExportTraceServiceRequest},
    common::v1::any_value,
    metrics::v1::metric::Data,
    trace::v1::Span,
};
use parking_lot::Mutex;
use prost::Message;
use tokio::net::{TcpListener, TcpStream};

use super::{
    Telemetry,
    context::Parent,
    metrics::{self, Operation},
    names,
};
use crate::{clock, config, tasks};

/// A collector on loopback that keeps what it is sent.
#[derive(Default)]
struct Collector {
    received: Mutex<Vec<(String, Bytes)>>,
}

impl Collector {
    async fn start() -> (Arc<Self>, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let collector = Arc::new(Self::default());
        let taking = Arc::clone(&collector);
        drop(tasks::background(async move {
            while let Ok((stream, _)) = listener.accept().await {
                drop(tasks::background(Arc::clone(&taking).serve(stream)));
            }
        }));
        (collector, url)
    }

    async fn serve(self: Arc<Self>, stream: TcpStream) {
        let service = service_fn(|request| self.take(request));
        drop(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await);
    }

    #[expect(clippy::disallowed_methods, reason = "bounded by `Limited`")]
    async fn take(&self, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
        let path = request.uri().path().to_owned();
        assert_eq!(request.headers()["content-type"], "application/x-protobuf");
        let body = Limited::new(request.into_body(), 1024 * 1024).collect().await.unwrap().to_bytes();
        self.received.lock().push((path, body));
        Ok(Response::new(Full::default()))
    }

    fn bodies<M: Message + Default>(&self, path: &str) -> Vec<M> {
        let received = self.received.lock();
        received.iter().filter(|(at, _)| at == path).map(|(_, body)| M::decode(body.clone()).unwrap()).collect()
    }

    fn spans(&self) -> Vec<Span> {
        let requests = self.bodies::<ExportTraceServiceRequest>("/v1/traces");
        let resources = requests.into_iter().flat_map(|request| request.resource_spans);
        resources.flat_map(|resource| resource.scope_spans).flat_map(|scope| scope.spans).collect()
    }
}

fn telemetry(otlp: Option<&str>, sample_ratio: f64) -> Telemetry {
    let otlp = otlp.map(|url| url.parse().unwrap());
    Telemetry::new(&config::Telemetry { otlp, sample_ratio, service_name: "tollgate-test".to_owned() }).unwrap()
}

fn text(span: &Span, name: &str) -> Option<String> {
    let value = span.attributes.iter().find(|attribute| attribute.key == name)?.value.as_ref()?.value.as_ref()?;
    if let any_value::Value::StringValue(text) = value { Some(text.clone()) } else { None }
}

#[tokio::test]
async fn spans_and_metrics_reach_the_collector() {
    let (collector, url) = Collector::start().await;
    let telemetry = telemetry(Some(&url), 0.0);
    let parent = Parent::parse("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", Some("a=1")).unwrap();
    let (server_id, client_id, upward) = {
        let _here = tracing::subscriber::set_default(telemetry.subscriber(super::filter("off").unwrap()));
        let server = telemetry.spans().server(&names::span("tools/call", None), Some(&parent), clock::now());
        server.rename(&names::span("tools/call", Some("crm__find")));
        server.note(names::METHOD, "tools/call");
        server.note(names::AUDIT_ID, "0190");
        let client = server.client(|| names::span("tools/call", Some("find")));
        client.note(names::UPSTREAM, "crm".to_owned());
        client.fail("-32603");
        (server.span_id(), client.span_id(), client.traceparent())
    };
    assert_eq!(upward, format!("00-0af7651916cd43dd8448eb211c80319c-{client_id}-01"));
    let call = Operation { method: "tools/call", target: "otlp__find", error: "", status: "", version: "2026-07-28" };
    metrics::metrics().served(call, Duration::from_millis(3));
    tokio::task::spawn_blocking(|| telemetry.stop()).await.unwrap();

    let spans = collector.spans();
    let [server, client] = ["tools/call crm__find", "tools/call find"]
        .map(|name| spans.iter().find(|span| span.name == name).unwrap_or_else(|| panic!("{name} in {spans:?}")));
    assert_eq!(server.trace_id, 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c_u128.to_be_bytes());
    assert_eq!(server.parent_span_id, 0xb7ad_6b71_6920_3331_u64.to_be_bytes());
    assert_eq!(server.span_id, server_id.0.to_be_bytes());
    assert_eq!((server.kind, client.kind), (2, 3));
    assert_eq!(text(server, names::AUDIT_ID).as_deref(), Some("0190"));
    assert_eq!(client.parent_span_id, server.span_id);
    assert_eq!(text(client, names::ERROR_TYPE).as_deref(), Some("-32603"));
    assert_eq!(client.status.as_ref().unwrap().code, 2);

    let sent = collector.bodies::<ExportMetricsServiceRequest>("/v1/metrics");
    let mut metrics =
        sent.iter().flat_map(|r| &r.resource_metrics).flat_map(|r| &r.scope_metrics).flat_map(|s| &s.metrics);
    let durations = metrics.rfind(|metric| metric.name == names::SERVER_DURATION).unwrap();
    assert_eq!(durations.unit, "s");
    let Some(Data::Histogram(histogram)) = &durations.data else { panic!("{durations:?}") };
    assert!(histogram.data_points.iter().any(|point| point.count == 1 && point.bucket_counts[2] == 1));
}

#[tokio::test]
async fn without_a_parent_a_recorded_trace_has_ids_of_its_own() {
    let (collector, url) = Collector::start().await;
    let telemetry = telemetry(Some(&url), 1.0);
    let trace_id = {
        let _here = tracing::subscriber::set_default(telemetry.subscriber(super::filter("off").unwrap()));
        let server = telemetry.spans().server("ping", None, clock::now());
        assert!(server.is_recorded());
        server.trace_id()
    };
    tokio::task::spawn_blocking(|| telemetry.stop()).await.unwrap();
    assert!(collector.spans().iter().any(|span| span.trace_id == trace_id.0.to_be_bytes()));
}

#[tokio::test]
async fn a_collector_that_is_away_stops_nothing() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let telemetry = telemetry(Some(&url), 1.0);
    {
        let _here = tracing::subscriber::set_default(telemetry.subscriber(super::filter("off").unwrap()));
        drop(telemetry.spans().server("ping", None, clock::now()));
    }
    let stopped = tokio::task::spawn_blocking(|| telemetry.stop());
    assert!(tokio::time::timeout(Duration::from_secs(30), stopped).await.is_ok());
}

#[test]
fn without_a_collector_nothing_is_recorded() {
    let telemetry = telemetry(None, 1.0);
    let server = telemetry.spans().server("ping", None, clock::now());
    assert!(!server.is_recorded());
    assert!(server.traceparent().ends_with("-00"));
    telemetry.stop();
}

#[test]
fn what_is_no_level_is_no_filter() {
    for good in ["info", "WARN", "info,pingora_core=warn", "tollgate::upstream=debug", "off"] {
        super::filter(good).unwrap();
    }
    for bad in ["verbose", "info,verbos", "", "nonsense=foo=bar", "tollgate=loud"] {
        assert!(!super::filter(bad).unwrap_err().is_empty(), "{bad}");
    }
}
