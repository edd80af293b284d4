//! One trace from the client through the gateway to the upstream, with the journal's id on it.

use std::time::Duration;

use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::any_value::Value,
    trace::v1::{Span, span::SpanKind},
};
use prost::Message;
use serde_json::json;

use super::text_of;
use crate::harness::{
    gateway::Setup,
    issuer::Issuer,
    place,
    recorder::{Era, Recorder, Reply},
};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const CALLER: &str = "b7ad6b7169203331";

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn attribute(span: &Span, name: &str) -> String {
    let found = span.attributes.iter().find(|attribute| attribute.key == name);
    match found.and_then(|attribute| attribute.value.as_ref()?.value.as_ref()) {
        Some(Value::StringValue(text)) => text.clone(),
        other => panic!("{name}: {other:?} in {span:?}"),
    }
}

/// What all other tests rely on: the traces of every gateway come to a recorder that looks for credentials.
#[test]
fn every_gateway_of_the_tests_is_traced() {
    let (issuer, upstream) = (Issuer::good(), Recorder::good(Era::Modern));
    let gateway = Setup::usual("traced", &issuer).open_upstream("up", &upstream.url()).start();
    let answer = gateway.client_of(Some("up"), &issuer, "alice").awaiting("echo").call("echo", &json!({}));
    assert_eq!(text_of(&answer), "echo {}");
    place::wait_for("the spans of the call", Duration::from_secs(10), || {
        let mut sent = gateway.setup().collector().seen_path("/v1/traces").into_iter();
        sent.any(|seen| String::from_utf8_lossy(&seen.body).contains("tools/call echo")).then_some(())
    });
}

#[test]
fn a_call_is_two_spans_in_the_callers_trace_and_the_upstream_continues_it() {
    let issuer = Issuer::good();
    let (collector, upstream) = (Recorder::serving(|_| Reply::status(200)), Recorder::good(Era::Modern));
    let mut gateway = Setup::usual("telemetry", &issuer)
        .section(&format!("[telemetry]\notlp = \"{}\"\nsample_ratio = 0.0", collector.origin()))
        .open_upstream("up", &upstream.url())
        .start();
    let traceparent = format!("00-{TRACE}-{CALLER}-01");
    let meta = json!({ "traceparent": traceparent, "tracestate": "a=1", "baggage": "user=alice" });
    let client = gateway.client_of(Some("up"), &issuer, "alice");
    let answer = client.modern("tools/call", &json!({ "name": "echo", "arguments": {}, "_meta": meta }));
    assert_eq!(text_of(&answer), "echo {}");
    let metrics = gateway.metric("mcp_server_operation_duration_seconds_count");
    gateway.stop();

    let sent = collector.seen_path("/v1/traces");
    let spans: Vec<Span> = sent
        .iter()
        .flat_map(|seen| ExportTraceServiceRequest::decode(seen.body.clone()).unwrap().resource_spans)
        .flat_map(|resource| resource.scope_spans)
        .flat_map(|scope| scope.spans)
        .filter(|span| hex(&span.trace_id) == TRACE)
        .collect();
    let of = |kind: SpanKind| {
        spans.iter().find(|span| span.kind == kind as i32).unwrap_or_else(|| panic!("no {kind:?} in {spans:?}"))
    };
    let (server, client) = (of(SpanKind::Server), of(SpanKind::Client));
    assert_eq!((server.name.as_str(), client.name.as_str()), ("tools/call echo", "tools/call echo"));
    assert_eq!(hex(&server.parent_span_id), CALLER);
    assert_eq!(client.parent_span_id, server.span_id);
    assert_eq!(attribute(server, "gen_ai.tool.name"), "echo");
    let intent = gateway.journal().into_iter().find(|record| record["event"] == "intent").unwrap();
    assert_eq!(attribute(server, "tollgate.audit.id"), intent["id"].as_str().unwrap());
    assert_eq!(intent["request"]["trace_id"], TRACE);

    // Our own span goes up, in `_meta` and in the header; baggage does not.
    let call = upstream.seen_method("tools/call").remove(0);
    let ours = format!("00-{TRACE}-{}-01", hex(&client.span_id));
    assert_eq!(call.json()["params"]["_meta"]["traceparent"], ours);
    assert_eq!(call.header("traceparent"), Some(ours.as_str()));
    assert_eq!(call.json()["params"]["_meta"]["tracestate"], "a=1");
    assert!(call.json()["params"]["_meta"].get("baggage").is_none());
    assert!(metrics.is_some_and(|count| count >= 1.0));
}
