//! Tables of what clients send and what is understood, and what goes up for it.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use proptest::prelude::*;

use super::{
    answers::{self, CacheScope, Capabilities, Page, Served},
    call::{Call, Message, Method},
    json::{Bounds, Document, Value},
    meta::LogLevel,
    outbound::{self, Outgoing},
    parse::parse,
    versions,
};
use crate::{
    config::Limits,
    refusal::{Era, Refusal},
};

pub(super) fn limits() -> Limits {
    Limits {
        body_bytes_max: 1 << 20,
        header_bytes_max: 1 << 15,
        header_read: Duration::from_secs(8),
        body_read: Duration::from_secs(15),
        handshake: Duration::from_secs(5),
        idle: Duration::from_secs(60),
        connections_max: 100,
        streams_max: 100,
        json_depth_max: 64,
        json_nodes_max: 20_000,
        reply_bytes_max: 8 << 20,
        event_bytes_max: 1 << 20,
        stream_max: Duration::from_secs(3600),
        stream_bytes_max: 256 << 20,
        calls_max: 100,
        sessions_max: 100,
        session_idle: Duration::from_secs(600),
        list_cache_bytes: 1 << 20,
        result_cache_bytes: 1 << 20,
        children_max: 4,
        listeners_max: 100,
        holds_max: 16,
        hold_max: Duration::from_secs(60),
        proofs_max: 16,
        connect_per_min: 60,
    }
}

fn headers(fields: &[(&str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in fields {
        headers.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_str(value).unwrap());
    }
    headers
}

const META: &str = r#""_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{},"io.modelcontextprotocol/clientInfo":{"name":"c","version":"1"}}"#;
const VERSION: (&str, &str) = ("MCP-Protocol-Version", "2026-07-28");

fn modern(method: &str, members: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{method}","params":{{{META}{members}}}}}"#)
}

fn legacy(method: &str, params: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{method}","params":{params}}}"#)
}

fn read(fields: &[(&str, &str)], body: &str) -> Call {
    match parse(&headers(fields), Bytes::copy_from_slice(body.as_bytes()), &limits()) {
        Ok(Message::Call(call)) => call,
        other => panic!("{body}: {other:?}"),
    }
}

/// The code, the era and the id of the refusal.
fn refused(fields: &[(&str, &str)], body: &str) -> (i32, Era, Option<String>) {
    match parse(&headers(fields), Bytes::copy_from_slice(body.as_bytes()), &limits()) {
        Err(rejected) => {
            let rpc = rejected.refusal.outside(rejected.era).rpc;
            (rpc, rejected.era, rejected.id.map(|id| id.text().to_owned()))
        }
        Ok(message) => panic!("{body}: {message:?}"),
    }
}

fn check(fields: &[(&str, &str)], body: &str, rpc: i32, era: Era) {
    let (found, found_era, _) = refused(fields, body);
    assert_eq!((found, found_era), (rpc, era), "{fields:?} {body}");
}

#[test]
fn rs_04_the_body_is_one_json_rpc_object() {
    for (body, rpc) in [
        ("", -32700),
        ("{", -32700),
        (r#"{"jsonrpc":"2.0","id":1,"method":"ping","method":"tools/call"}"#, -32700),
        (r#"{"jsonrpc":"2.0","id":1,"method":"ping","params":{"a":{"b":1,"b":2}}}"#, -32700),
        ("[]", -32600),
        (r#"[{"jsonrpc":"2.0","id":1,"method":"ping"}]"#, -32600),
        ("7", -32600),
        ("{}", -32600),
        (r#"{"id":1,"method":"ping"}"#, -32600),
        (r#"{"jsonrpc":"1.0","id":1,"method":"ping"}"#, -32600),
        (r#"{"jsonrpc":"2.0","id":null,"method":"ping"}"#, -32600),
        (r#"{"jsonrpc":"2.0","id":1.0,"method":"ping"}"#, -32600),
        (r#"{"jsonrpc":"2.0","id":[],"method":"ping"}"#, -32600),
        (r#"{"jsonrpc":"2.0","id":1,"method":7}"#, -32600),
        (r#"{"jsonrpc":"2.0","id":1,"method":"ping","params":[]}"#, -32600),
        (r#"{"jsonrpc":"2.0","id":1,"method":"ping","params":null}"#, -32600),
        (r#"{"jsonrpc":"2.0","id":1,"method":"ping","extra":1}"#, -32600),
        (r#"{"jsonrpc":"2.0","id":1,"method":"ping","Method":"tools/call"}"#, -32600),
        (r#"{"jsonrpc":"2.0","id":1,"method":"ping","paramſ":{}}"#, -32600),
        (r#"{"jsonrpc":"2.0","id":1,"method":"ping","result":{}}"#, -32600),
        (r#"{"jsonrpc":"2.0","method":"tools/call","params":{"name":"a"}}"#, -32600),
        (r#"{"jsonrpc":"2.0","id":1,"result":{},"error":{}}"#, -32600),
    ] {
        check(&[], body, rpc, Era::Legacy);
        check(&[VERSION], body, rpc, Era::Modern);
    }
    let long = format!(r#"{{"jsonrpc":"2.0","id":"{}","method":"ping"}}"#, "x".repeat(300));
    check(&[], &long, -32600, Era::Legacy);
}

#[test]
fn imitated_members_are_refused() {
    for (member, rpc) in [
        (r#""Name":"b""#, -32600),
        (r#""ARGUMENTS":{}"#, -32600),
        (r#""_Meta":{}"#, -32600),
        (r#""nam\u0065 ":"b""#, -32600),
        (r#""na\u200bme":"b""#, -32600),
        (r#""argument\u017f":{}"#, -32600),
        (r#""_meta":{"ProgressToken":1}"#, -32600),
        (r#""_meta":{"io.modelcontextprotocol/ProtocolVersion":"2026-07-28"}"#, -32600),
        (r#""arguments":{"path":"/a","Path":"/b"}"#, -32602),
        (r#""arguments":{"files":"/a","file\u017f":"/b"}"#, -32602),
    ] {
        check(&[], &legacy("tools/call", &format!(r#"{{"name":"a",{member}}}"#)), rpc, Era::Legacy);
    }
    let call = read(&[], &legacy("tools/call", r#"{"name":"a","names":1,"arguments":{"Path":"a","other":1}}"#));
    assert_eq!(call.method(), Method::ToolsCall);
}

#[test]
fn spec_1_0_the_era_is_that_of_the_metadata() {
    let ping = legacy("ping", "{}");
    // A removed method with modern metadata, in the body or in the headers, is an unknown method.
    for method in ["initialize", "ping", "logging/setLevel", "resources/subscribe", "resources/unsubscribe"] {
        let fields = [VERSION, ("Mcp-Method", method)];
        check(&fields, &modern(method, ""), -32601, Era::Modern);
    }
    // The metadata wins over a session id.
    let fields = [VERSION, ("Mcp-Method", "tools/list"), ("Mcp-Session-Id", "s")];
    assert_eq!(read(&fields, &modern("tools/list", "")).era(), Era::Modern);
    // The header alone makes it modern, known legacy versions excepted.
    check(&[VERSION], &ping, -32602, Era::Modern);
    check(&[("Mcp-Method", "ping")], &ping, -32602, Era::Modern);
    check(&[("MCP-Protocol-Version", "v999")], &ping, -32602, Era::Modern);
    // A legacy version beside `Mcp-Method` is a legacy client that mirrors; what it mirrors has to be true.
    let older = ("MCP-Protocol-Version", "2025-11-25");
    assert_eq!(read(&[older, ("Mcp-Method", "ping")], &ping).era(), Era::Legacy);
    check(&[older, ("Mcp-Method", "tools/list")], &ping, -32600, Era::Legacy);
    let call = legacy("tools/call", r#"{"name":"echo"}"#);
    assert_eq!(read(&[older, ("Mcp-Name", "echo")], &call).era(), Era::Legacy);
    check(&[older, ("Mcp-Name", "erase")], &call, -32600, Era::Legacy);
    check(&[], &legacy("server/discover", "{}"), -32602, Era::Modern);
    check(&[("MCP-Protocol-Version", "2025-11-25")], &legacy("server/discover", "{}"), -32602, Era::Modern);
    for version in versions::LEGACY {
        let call = read(&[("MCP-Protocol-Version", version)], &ping);
        assert_eq!((call.era(), call.version(), call.version_assumed()), (Era::Legacy, *version, false));
    }
}

#[test]
fn rs_16_rs_10_rs_11_rs_13_modern_checks_stand_in_this_order() {
    let method = ("Mcp-Method", "tools/call");
    let name = ("Mcp-Name", "echo");
    let body = modern("tools/call", r#","name":"echo""#);
    let all = [VERSION, method, name];
    assert_eq!(read(&all, &body).version(), "2026-07-28");
    let with_meta = |meta: &str| {
        format!(r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"_meta":{meta},"name":"echo"}}}}"#)
    };
    let version_of = |version: &str| {
        with_meta(&format!(
            r#"{{"io.modelcontextprotocol/protocolVersion":"{version}","io.modelcontextprotocol/clientCapabilities":{{}}}}"#
        ))
    };
    let none = legacy("tools/call", r#"{"name":"echo"}"#);
    let half = with_meta(r#"{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}"#);
    let v999 = ("MCP-Protocol-Version", "v999");
    for (fields, body, rpc) in [
        // 8 before 9.
        (all.to_vec(), &none, -32602),
        (vec![v999], &half, -32602),
        (all.to_vec(), &with_meta("[]"), -32602),
        (
            all.to_vec(),
            &with_meta(
                r#"{"io.modelcontextprotocol/protocolVersion":7,"io.modelcontextprotocol/clientCapabilities":{}}"#,
            ),
            -32602,
        ),
        // 9 before 10.
        (vec![v999, method, name], &body, -32020),
        (vec![method, name], &body, -32020),
        (vec![VERSION, VERSION, method, name], &body, -32020),
        (all.to_vec(), &version_of("2025-11-25"), -32020),
        // 10 before 11.
        (vec![v999], &version_of("v999"), -32022),
        (vec![("MCP-Protocol-Version", "2025-11-25")], &version_of("2025-11-25"), -32022),
        // 11 before 12 and 13.
        (vec![VERSION, name], &body, -32020),
        (vec![VERSION, ("Mcp-Method", "tools/list"), name], &body, -32020),
        (vec![VERSION, ("Mcp-Method", "TOOLS/CALL"), name], &body, -32020),
        (vec![VERSION, method], &body, -32020),
        (vec![VERSION, method, ("Mcp-Name", "Echo")], &body, -32020),
        (vec![VERSION, method, ("Mcp-Name", "=?base64?!!?=")], &body, -32020),
        (vec![VERSION, method, name, name], &body, -32020),
        (vec![VERSION, ("Mcp-Method", "prompts/get")], &modern("prompts/get", r#","name":"p""#), -32020),
        (all.to_vec(), &modern("tools/call", r#","name":"other","arguments":7"#), -32020),
        // 12.
        (
            vec![VERSION, ("Mcp-Method", "tasks/list"), ("Mcp-Name", "p")],
            &modern("tasks/list", r#","name":"p""#),
            -32601,
        ),
        (vec![VERSION, ("Mcp-Method", "no/such")], &modern("no/such", ""), -32601),
        // 13.
        (all.to_vec(), &modern("tools/call", r#","name":"echo","arguments":7"#), -32602),
        (vec![VERSION, method], &modern("tools/call", ""), -32602),
        (all.to_vec(), &modern("tools/call", r#","name":"echo","requestState":1"#), -32602),
        (all.to_vec(), &modern("tools/call", r#","name":"echo","inputResponses":[]"#), -32602),
    ] {
        check(&fields, body, rpc, Era::Modern);
    }
    assert_eq!(refused(&[VERSION], &body).2.as_deref(), Some("1"));
    read(&[VERSION, method, ("Mcp-Name", "=?base64?ZWNobw==?=")], &body);
    read(&[VERSION, method, ("Mcp-Name", "\t echo ")], &body);
}

#[test]
fn rs_11_the_version_asked_for_goes_back() {
    let body = r#"{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{"_meta":{"io.modelcontextprotocol/protocolVersion":"v999","io.modelcontextprotocol/clientCapabilities":{}}}}"#;
    let fields = headers(&[("MCP-Protocol-Version", "v999")]);
    let rejected = parse(&fields, Bytes::from_static(body.as_bytes()), &limits()).unwrap_err();
    assert_eq!(rejected.refusal, Refusal::VersionUnsupported("v999".to_owned()));
    let text = answers::error(&rejected.refusal.outside(Era::Modern), Era::Modern, rejected.id.as_ref()).into_bytes();
    insta::assert_snapshot!(String::from_utf8(text).unwrap());
}

#[test]
fn rl_01_rl_02_legacy_versions_are_negotiated_named_or_assumed() {
    let initialize = |version: &str| {
        legacy(
            "initialize",
            &format!(
                r#"{{"protocolVersion":"{version}","capabilities":{{"roots":{{}}}},"clientInfo":{{"name":"c","version":"2"}}}}"#
            ),
        )
    };
    for (asked_for, got) in [
        ("2025-11-25", "2025-11-25"),
        ("2025-06-18", "2025-06-18"),
        ("2025-03-26", "2025-03-26"),
        ("2024-11-05", "2025-11-25"),
        ("2026-07-28", "2025-11-25"),
        ("x", "2025-11-25"),
    ] {
        let call = read(&[], &initialize(asked_for));
        assert_eq!((call.method(), call.version()), (Method::Initialize, got));
        let carried = call.initialize().unwrap();
        assert_eq!(carried.requested_version, asked_for);
        assert_eq!((carried.client_name.as_ref(), carried.client_version.as_ref()), ("c", "2"));
        assert_eq!(carried.capabilities.raw_text(), r#"{"roots":{}}"#);
    }
    let call = read(&[], &legacy("ping", "{}"));
    assert_eq!((call.version(), call.version_assumed()), ("2025-03-26", true));
    let call = call.in_version("2025-06-18");
    assert_eq!((call.version(), call.version_assumed()), ("2025-06-18", false));
    check(&[("MCP-Protocol-Version", "2024-11-05")], &legacy("ping", "{}"), -32600, Era::Legacy);
    for params in [
        "{}",
        r#"{"protocolVersion":1,"capabilities":{},"clientInfo":{"name":"c","version":"2"}}"#,
        r#"{"protocolVersion":"2025-11-25","clientInfo":{"name":"c","version":"2"}}"#,
        r#"{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"c"}}"#,
    ] {
        check(&[], &legacy("initialize", params), -32602, Era::Legacy);
    }
    check(&[], &legacy("tasks/list", "{}"), -32601, Era::Legacy);
}

#[test]
fn rl_05_posted_responses_are_accepted_of_legacy_clients_only() {
    let body = r#"{"jsonrpc":"2.0","id":"srv-1","result":{}}"#;
    let parsed = |fields: &[(&str, &str)]| parse(&headers(fields), Bytes::from_static(body.as_bytes()), &limits());
    assert!(matches!(parsed(&[]), Ok(Message::Response(_))));
    assert!(matches!(parsed(&[("MCP-Protocol-Version", "2025-11-25")]), Ok(Message::Response(_))));
    check(&[VERSION], body, -32600, Era::Modern);
}

#[test]
fn rs_05_notifications_of_both_eras() {
    let cancelled = r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":"7","reason":"r"}}"#;
    let call = read(&[], cancelled);
    let carried = call.cancelled().unwrap();
    assert_eq!((carried.request_id.text(), carried.reason.as_deref()), ("\"7\"", Some("r")));
    assert!(call.asker().is_none());
    let malformed = r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":null}}"#;
    assert_eq!(read(&[], malformed).method(), Method::OtherNotification);
    assert_eq!(read(&[], r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#).method(), Method::Initialized);
    let other = r#"{"jsonrpc":"2.0","method":"notifications/x"}"#;
    assert_eq!(read(&[VERSION], other).method(), Method::OtherNotification);
    check(&[VERSION, ("Mcp-Method", "tools/call")], other, -32020, Era::Modern);
    check(&[("MCP-Protocol-Version", "v999")], other, -32022, Era::Modern);
    check(&[], &legacy("notifications/cancelled", r#"{"requestId":1}"#), -32601, Era::Legacy);
}

#[test]
fn meta_is_read_with_its_types() {
    let body = r#"{"jsonrpc":"2.0","id":"x","method":"tools/call","params":{"name":"a","_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{"sampling":{}},"io.modelcontextprotocol/logLevel":"warning","progressToken":"p","traceparent":"00-a","tracestate":"k=v","baggage":"b=1","v/k":[1]}}}"#;
    let call = read(&[VERSION, ("Mcp-Method", "tools/call"), ("Mcp-Name", "a")], body);
    let meta = call.meta();
    assert_eq!(meta.progress_token.unwrap().raw_text(), "\"p\"");
    assert_eq!(meta.traceparent.and_then(Value::text).as_deref(), Some("00-a"));
    assert_eq!(meta.client_name(), None);
    assert_eq!(meta.client_capabilities.unwrap().raw_text(), r#"{"sampling":{}}"#);
    assert_eq!(meta.others().map(|(name, _)| name.raw_text().to_owned()).collect::<Vec<_>>(), ["\"v/k\""]);
    let asker = call.asker().unwrap();
    assert_eq!((asker.id.text(), asker.log_level), ("\"x\"", Some(LogLevel::Warning)));
    for bad in [r#""progressToken":1.5"#, r#""progressToken":{}"#, r#""io.modelcontextprotocol/logLevel":"loud""#] {
        check(&[], &legacy("tools/list", &format!(r#"{{"_meta":{{{bad}}}}}"#)), -32602, Era::Legacy);
    }
    check(&[], &legacy("tools/list", r#"{"cursor":7}"#), -32602, Era::Legacy);
    assert_eq!(read(&[], &legacy("tools/list", r#"{"cursor":""}"#)).cursor().as_deref(), Some(""));
}

fn outgoing(version: &str) -> Outgoing<'_> {
    Outgoing {
        progress_token: Some("p:1"),
        traceparent: Some("00-ours"),
        tracestate: Some("t=1"),
        ..Outgoing::own(42, version)
    }
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap()
}

#[test]
fn rc_06_what_goes_up_keeps_arguments_and_owns_its_meta() {
    let body = r#"{"jsonrpc":"2.0","id":"x","method":"tools/call","params":{"arguments" : {"n": 1.10, "s":"\u00e9"},"task":{"ttl":1},"vendor":[ 1 ],"name":"crm__add","_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{"sampling":{}},"io.modelcontextprotocol/clientInfo":{"name":"c","version":"1"},"progressToken":7,"traceparent":"00-theirs","baggage":"b=1","v/k":[1]}}}"#;
    let call = read(&[VERSION, ("Mcp-Method", "tools/call"), ("Mcp-Name", "crm__add")], body);
    let claimed = Outgoing {
        client_info: call.meta().client_info.map(Value::raw),
        log_level: Some(LogLevel::Info),
        ..outgoing("2026-07-28")
    };
    insta::assert_snapshot!(
        [
            outbound::call(&outgoing("2026-07-28"), "add", &call),
            outbound::call(&claimed, "add \"x\"", &call),
            outbound::call(&outgoing("2025-11-25"), "add", &call),
            outbound::call(
                &Outgoing::own(1, "2025-11-25"),
                "add",
                &read(&[], &legacy("tools/call", r#"{"name":"x"}"#))
            ),
            outbound::initialize(&Outgoing::own(1, "2025-11-25")),
            outbound::initialized(),
            outbound::cancelled(9, "the client went away"),
            outbound::list(&Outgoing::own(2, "2026-07-28"), "tools/list", Some("c\"1")),
            outbound::list(&Outgoing::own(2, "2025-11-25"), "tools/list", None),
            outbound::discover(&Outgoing::own(3, "2026-07-28")),
            outbound::pong(call.id().unwrap()),
            outbound::method_not_found(call.id().unwrap()),
        ]
        .map(text)
        .join("\n")
    );
}

#[test]
fn what_the_gateway_answers_itself() {
    let call = read(&[VERSION, ("Mcp-Method", "tools/list")], &modern("tools/list", ""));
    let modern_asker = call.asker().unwrap();
    let legacy_asker = read(&[], &legacy("tools/list", "{}")).asker().unwrap();
    let degraded = ["crm".into()];
    let served = Served {
        capabilities: Capabilities { tools: true, prompts: true, ..Capabilities::default() },
        instructions: Some("use \"crm\""),
        degraded: &degraded,
        ttl_ms: 5_000,
        cache_scope: CacheScope::Private,
    };
    let tools = [br#"{"name":"a"}"#.to_vec(), br#"{"name":"b"}"#.to_vec()];
    let page = Page { member: "tools", definitions: &tools, next_cursor: Some("n"), degraded: &degraded };
    let last = Page { next_cursor: None, degraded: &[], definitions: &[], ..page };
    let list = |asker: &crate::rpc::Asker, page: &Page<'_>| {
        answers::list(asker, &answers::page(asker.era, page), 30_000, CacheScope::Private)
    };
    let error = |refusal: Refusal, era| answers::error(&refusal.outside(era), era, Some(&modern_asker.id));
    insta::assert_snapshot!(
        [
            answers::initialize(&legacy_asker, &served),
            answers::discover(&modern_asker, &served),
            list(&modern_asker, &page),
            list(&legacy_asker, &page),
            list(&modern_asker, &last),
            list(&legacy_asker, &last),
            answers::pong(&legacy_asker.id),
            error(Refusal::CapabilityMissing(r#"{"sampling":{}}"#.into()), Era::Modern),
            error(Refusal::ScopeInsufficient(vec!["a:b".to_owned(), "c".to_owned()]), Era::Modern),
            error(Refusal::CeilingReached { ceiling: "x".to_owned(), retry_after_ms: 1500 }, Era::Legacy),
            error(Refusal::BodyTooLarge(7), Era::Legacy),
            error(Refusal::MethodNotAllowed("POST"), Era::Modern),
            answers::error(&Refusal::TokenMissing.outside(Era::Modern), Era::Modern, None),
            answers::error(&Refusal::TokenMissing.outside(Era::Legacy), Era::Legacy, None),
        ]
        .map(|local| text(local.into_bytes()))
        .join("\n")
    );
}

fn strict(text: &[u8]) -> Document {
    let bounds = Bounds { depth_max: 80, values_max: 50_000, name_bytes_max: 4096, number_chars_max: 64 };
    Document::parse(Bytes::copy_from_slice(text), &bounds).unwrap()
}

fn arguments() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just("null".to_owned()),
        Just("1.10".to_owned()),
        Just("18446744073709551616".to_owned()),
        any::<i64>().prop_map(|number| number.to_string()),
        any::<String>().prop_map(|text| serde_json::to_string(&text).unwrap()),
        Just(r#""\u00e9\/""#.to_owned()),
    ];
    let any = leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(|all| format!("[ {} ]", all.join(" , "))),
            prop::collection::btree_map("[a-z]{1,5}", inner, 0..4).prop_map(object),
        ]
    });
    prop::collection::btree_map("[a-z]{1,5}", any, 0..4).prop_map(object)
}

fn object(members: std::collections::BTreeMap<String, String>) -> String {
    let members: Vec<_> = members.into_iter().map(|(name, value)| format!("\"{name}\" :\t{value}")).collect();
    format!("{{\n{}}}", members.join(",\n"))
}

proptest! {
    /// I2: what policy judged is, byte for byte, what the upstream reads.
    #[test]
    fn arguments_go_up_as_they_came(arguments in arguments(), name in "[ -~]{1,20}", to in prop::sample::select(&["2026-07-28", "2025-11-25"])) {
        let named = serde_json::to_string(&name).unwrap();
        let body = legacy("tools/call", &format!(r#"{{"name":{named},"arguments":{arguments},"_meta":{{"v/k":1}}}}"#));
        let call = read(&[], &body);
        prop_assert_eq!(call.arguments().unwrap().raw(), arguments.as_bytes());
        let sent = outbound::call(&Outgoing::own(7, to), &name, &call);
        let document = strict(&sent);
        let root = document.root();
        prop_assert!(root.get("id").unwrap().raw() == b"7" && root.get("method").unwrap().is("tools/call"));
        let params = root.get("params").unwrap();
        prop_assert_eq!(params.get("arguments").unwrap().raw(), arguments.as_bytes());
        prop_assert!(params.get("name").unwrap().is(&name));
        prop_assert!(params.get("_meta").unwrap().get("v/k").is_some());
        // What goes up is itself a call that this gateway would read the same way.
        let fields: Vec<(&str, String)> = if versions::era(to) == Era::Modern {
            vec![("mcp-protocol-version", to.to_owned()), ("mcp-method", "tools/call".to_owned()), ("mcp-name", super::headers::encode(&name).into_owned())]
        } else {
            vec![("mcp-protocol-version", to.to_owned())]
        };
        let fields: Vec<(&str, &str)> = fields.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let again = read(&fields, std::str::from_utf8(&sent).unwrap());
        prop_assert_eq!(again.name(), call.name());
        prop_assert_eq!(again.arguments().map(Value::raw), call.arguments().map(Value::raw));
        prop_assert_eq!(again.version(), to);
    }

    #[test]
    fn no_bytes_panic(body: Vec<u8>) {
        let _verdict = parse(&HeaderMap::new(), Bytes::from(body), &limits());
    }

    #[test]
    fn no_json_panics(body in r#"[{}\[\]":,a-z0-9_"jsonrpcidmethodparamsname ]{0,60}"#) {
        let _verdict = parse(&headers(&[VERSION]), Bytes::from(body), &limits());
    }
}
