//! One trace from the client through the gateway to the upstream, with the journal's id on it.

use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::any_value::Value,
    trace::v1::{ResourceSpans, Span, span::SpanKind, status::StatusCode},
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
const BY_HEADER: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn attribute(span: &Span, name: &str) -> String {
    let found: Vec<_> = span.attributes.iter().filter(|attribute| attribute.key == name).collect();
    assert_eq!(found.len(), 1, "{name} in {span:?}");
    match found[0].value.as_ref().and_then(|value| value.value.as_ref()) {
        Some(Value::StringValue(text)) => text.clone(),
        Some(Value::IntValue(number)) => number.to_string(),
        other => panic!("{name}: {other:?} in {span:?}"),
    }
}

fn exported(collector: &Recorder) -> Vec<ResourceSpans> {
    let sent = collector.seen_path("/v1/traces").into_iter();
    sent.flat_map(|seen| ExportTraceServiceRequest::decode(seen.body).unwrap().resource_spans).collect()
}

fn spans_in(collector: &Recorder, trace: &str) -> Vec<Span> {
    let scopes = exported(collector).into_iter().flat_map(|resource| resource.scope_spans);
    scopes.flat_map(|scope| scope.spans).filter(|span| hex(&span.trace_id) == trace).collect()
}

/// The server span and the client span of the one call in `trace`.
fn spans_of(collector: &Recorder, trace: &str) -> (Span, Span) {
    let spans = spans_in(collector, trace);
    let of = |kind: SpanKind| {
        let found = spans.iter().find(|span| span.kind == kind as i32);
        found.cloned().unwrap_or_else(|| panic!("no {kind:?} in {spans:?}"))
    };
    (of(SpanKind::Server), of(SpanKind::Client))
}

/// What all other tests rely on: the traces of every gateway come to a recorder that looks for credentials.
#[test]
fn every_gateway_of_the_tests_is_traced() {
    let (issuer, upstream) = (Issuer::good(), Recorder::good(Era::Modern));
    let gateway = Setup::usual("traced", &issuer).open_upstream("up", &upstream.url()).start();
    let answer = gateway.client_of(Some("up"), &issuer, "alice").awaiting("echo").call("echo", &json!({}));
    assert_eq!(text_of(&answer), "echo {}");
    place::wait_for("the spans of the call", place::PATIENCE, || {
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
    let parent = format!("00-{BY_HEADER}-{CALLER}-01");
    let params = json!({ "name": "echo", "arguments": {} });
    let answer = client.modern_showing("tools/call", &params, &[("traceparent", &parent)]);
    assert_eq!(text_of(&answer), "echo {}");
    let metrics = gateway.metric("mcp_server_operation_duration_seconds_count");
    gateway.stop();

    // A header alone names the parent, too.
    assert_eq!(hex(&spans_of(&collector, BY_HEADER).0.parent_span_id), CALLER);
    let (server, client) = spans_of(&collector, TRACE);
    assert_eq!((server.name.as_str(), client.name.as_str()), ("tools/call echo", "tools/call echo"));
    assert_eq!(hex(&server.parent_span_id), CALLER);
    assert_eq!(client.parent_span_id, server.span_id);
    let intent = gateway.journal().into_iter().find(|record| record["event"] == "intent").unwrap();
    assert_eq!(attribute(&server, "tollgate.audit.id"), intent["id"].as_str().unwrap());
    assert_eq!(intent["request"]["trace_id"], TRACE);

    // Our own span goes up, in `_meta` and in the header; baggage does not.
    let call = upstream.seen_method("tools/call").remove(0);
    let ours = format!("00-{TRACE}-{}-01", hex(&client.span_id));
    assert_eq!(call.json()["params"]["_meta"]["traceparent"], ours);
    assert_eq!(call.header("traceparent"), Some(ours.as_str()));
    assert_eq!(call.json()["params"]["_meta"]["tracestate"], "a=1");
    assert!(call.json()["params"]["_meta"].get("baggage").is_none());
    assert!(metrics.is_some_and(|count| count >= 1.0));

    for (span, name, value) in [
        (&server, "network.transport", "tcp"),
        (&server, "network.protocol.name", "http"),
        (&server, "client.address", "127.0.0.1"),
        (&client, "network.transport", "tcp"),
        (&client, "network.protocol.name", "http"),
        (&client, "server.address", "127.0.0.1"),
        (&client, "server.port", upstream.origin().rsplit(':').next().unwrap()),
        (&client, "jsonrpc.request.id", &call.json()["id"].to_string()),
        (&client, "tollgate.grant.strategy", "none"),
    ] {
        assert_eq!(attribute(span, name), value, "{name}");
    }
    for span in [&server, &client] {
        assert_eq!(attribute(span, "mcp.method.name"), "tools/call");
        assert_eq!(attribute(span, "mcp.protocol.version"), "2026-07-28");
        assert_eq!(attribute(span, "gen_ai.tool.name"), "echo");
        assert_eq!(attribute(span, "gen_ai.operation.name"), "execute_tool");
        assert_eq!(attribute(span, "tollgate.upstream.id"), "up");
        assert!(span.attributes.iter().all(|attribute| attribute.key != "mcp.session.id"), "no session in this era");
    }
    assert!(attribute(&server, "client.port").parse::<u16>().is_ok());
    let schemas = exported(&collector).into_iter().flat_map(|resource| resource.scope_spans);
    assert!(schemas.into_iter().all(|scope| scope.schema_url.contains("/schemas/gen-ai")));
}

/// A span of a client is a call to somebody.
#[test]
fn an_answer_that_was_kept_is_no_call_to_the_upstream() {
    let (issuer, upstream) = (Issuer::good(), Recorder::good(Era::Modern));
    let lines = "grant = { strategy = \"none\" }\n[[upstreams.up.tools]]\nmatch = \"echo\"\ncache_s = 600";
    let mut gateway = Setup::usual("span-kept", &issuer).upstream("up", &upstream.url(), lines).start();
    let client = gateway.client_of(Some("up"), &issuer, "alice").awaiting("echo");
    let params = json!({ "name": "echo", "arguments": {} });
    for trace in [TRACE, BY_HEADER] {
        let parent = format!("00-{trace}-{CALLER}-01");
        assert_eq!(text_of(&client.modern_showing("tools/call", &params, &[("traceparent", &parent)])), "echo {}");
    }
    gateway.stop();
    assert_eq!(upstream.seen_method("tools/call").len(), 1);
    let kinds = |trace: &str| {
        let mut kinds: Vec<i32> = spans_in(gateway.setup().collector(), trace).iter().map(|span| span.kind).collect();
        kinds.sort_unstable();
        kinds
    };
    assert_eq!(kinds(TRACE), [SpanKind::Server as i32, SpanKind::Client as i32]);
    assert_eq!(kinds(BY_HEADER), [SpanKind::Server as i32]);
}

/// The session of a legacy client is on the span as the journal has it: its id is the client's alone.
#[test]
fn a_session_is_on_the_span_by_its_name_in_the_journal() {
    let (issuer, upstream) = (Issuer::good(), Recorder::good(Era::Legacy));
    let mut gateway = Setup::usual("span-session", &issuer).open_upstream("up", &upstream.url()).start();
    let session = gateway.client_of(Some("up"), &issuer, "alice").awaiting("echo").initialize();
    let meta = json!({ "traceparent": format!("00-{TRACE}-{CALLER}-01") });
    let answer = session.request("tools/call", &json!({ "name": "echo", "arguments": {}, "_meta": meta }));
    assert_eq!(text_of(&answer), "echo {}");
    gateway.stop();
    let (server, client) = spans_of(gateway.setup().collector(), TRACE);
    let journal = gateway.journal();
    let intent = journal.iter().find(|record| record["event"] == "intent").unwrap();
    assert_eq!(attribute(&server, "mcp.session.id"), intent["request"]["session"].as_str().unwrap());
    assert_ne!(Some(attribute(&server, "mcp.session.id").as_str()), session.id());
    assert_eq!(attribute(&client, "mcp.protocol.version"), "2025-11-25");
}

/// Also where the trace is not recorded.
#[test]
fn a_line_about_a_request_names_its_records_and_its_trace() {
    let issuer = Issuer::good();
    let upstream = Recorder::scripted(Era::Modern, |seen| {
        (seen.rpc_method() == "tools/call").then(|| Reply::text(200, "text/html", "<p>"))
    });
    let gateway = Setup::usual("log-lines", &issuer)
        .environment("TOLLGATE_LOG", "info,tollgate::lifecycle=debug")
        .open_upstream("up", &upstream.url())
        .start();
    let client = gateway.client_of(Some("up"), &issuer, "alice").awaiting("echo");
    let meta = json!({ "traceparent": format!("00-{TRACE}-{CALLER}-00") });
    for (tool, event, code) in [("echo", "outcome", "upstream_invalid"), ("nothing", "refusal", "tool_unknown")] {
        client.modern("tools/call", &json!({ "name": tool, "arguments": {}, "_meta": meta }));
        let record = gateway.recorded(event, 1).remove(0);
        let line = place::wait_for("the line", place::PATIENCE, || {
            let lines = gateway.process.errors();
            let mut lines = lines.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
            lines.find(|line| line["id"] == record["id"])
        });
        assert_eq!((&line["trace_id"], &line["code"]), (&json!(TRACE), &json!(code)), "{line}");
        assert!(line["why"].is_string(), "{line}");
    }
}

/// What the client did wrong is no error of the server's span, and one of the client's (MCP in OpenTelemetry).
#[test]
fn an_error_of_the_caller_is_none_of_the_servers() {
    for (code, is_servers) in [(-32_602, false), (-32_603, true)] {
        let issuer = Issuer::good();
        let upstream = Recorder::scripted(Era::Modern, move |seen| {
            (seen.rpc_method() == "tools/call").then(|| Reply::error(seen, 200, code, "no"))
        });
        let mut gateway = Setup::usual("span-errors", &issuer).open_upstream("up", &upstream.url()).start();
        let client = gateway.client_of(Some("up"), &issuer, "alice").awaiting("echo");
        let meta = json!({ "traceparent": format!("00-{TRACE}-{CALLER}-01") });
        let answer = client.modern("tools/call", &json!({ "name": "echo", "arguments": {}, "_meta": meta }));
        assert_eq!(answer.json()["error"]["code"], code, "{}", answer.text());
        gateway.stop();
        let (server, client) = spans_of(gateway.setup().collector(), TRACE);
        let failed = |span: &Span| span.status.as_ref().is_some_and(|status| status.code == StatusCode::Error as i32);
        assert_eq!((failed(&server), failed(&client)), (is_servers, true), "{code}");
        for span in [&server, &client] {
            assert_eq!(attribute(span, "rpc.response.status_code"), code.to_string());
        }
    }
}
