//! Tables of what upstreams say and what clients get.

use std::time::Duration;

use super::*;
use crate::rpc::{
    RequestId,
    json::{Bounds, Document},
    meta::LogLevel,
    reply::{Inbound, Notification},
};

const BOUNDS: Bounds = Bounds { depth_max: 64, values_max: 10_000, name_bytes_max: 256, number_chars_max: 64 };
const MODERN: &str = "2026-07-28";
const LEGACY: &str = "2025-11-25";

fn asker(id: &str, version: &'static str) -> Asker {
    let document = Document::parse(Bytes::copy_from_slice(id.as_bytes()), &BOUNDS).unwrap();
    Asker {
        id: RequestId::of(document.root()).unwrap(),
        version,
        era: versions::era(version),
        progress_token: Some(Bytes::from_static(b"17")),
        log_level: Some(LogLevel::Warning),
    }
}

fn response(text: &str) -> Response {
    let Ok(Inbound::Response(response)) = Inbound::parse(Bytes::copy_from_slice(text.as_bytes()), &BOUNDS) else {
        panic!("{text}")
    };
    response
}

fn sent(version: &str) -> Sent<'_> {
    let all = br#"{"elicitation":{"form":{},"url":{}},"roots":{}}"#;
    let declared = Capabilities::declared(Document::parse(Bytes::from_static(all), &BOUNDS).unwrap().root());
    Sent {
        method: Method::ToolsCall,
        id: 5,
        version,
        declared: declared.in_version(version),
        as_task: false,
        prefix: None,
        age: Duration::ZERO,
    }
}

fn admitted(client: &'static str, upstream: &str, body: &str) -> Result<(String, Outcome), Refusal> {
    let response = response(&format!(r#"{{"jsonrpc":"2.0","id":5,{body}}}"#));
    let asker = asker(r#""a\u0062""#, client);
    let answer = match admit(&asker, &sent(upstream), &response)? {
        Admitted::Answer(answer) | Admitted::Pages(_, answer) => answer,
        Admitted::Input(asked) => asked.answer(&asker, "SEALED", None),
        Admitted::Task(created) => created.answer(&asker, "SEALED", 60_000)?,
    };
    let text = String::from_utf8(answer.body().to_vec()).unwrap();
    // Whatever goes back is itself strict JSON.
    Document::parse(Bytes::copy_from_slice(text.as_bytes()), &BOUNDS).unwrap();
    let head = r#"{"jsonrpc":"2.0","id":"a\u0062","#;
    let rest = text.strip_prefix(head).unwrap().strip_suffix('}').unwrap();
    let server =
        format!(r#""io.modelcontextprotocol/serverInfo":{}"#, std::str::from_utf8(outbound::IMPLEMENTATION).unwrap());
    Ok((rest.replace(&server, "SERVER"), answer.outcome()))
}

fn check(client: &'static str, upstream: &'static str, body: &str, expect: &str, outcome: Outcome) {
    assert_eq!(admitted(client, upstream, body).unwrap(), (expect.to_owned(), outcome), "{client} {upstream} {body}");
}

#[test]
fn rs_18_rc_08_every_modern_result_is_complete_and_ours() {
    let expect = r#""result":{"resultType":"complete","content":[ {"type":"text","text":"\u00e9"} ],"vendor":1.10,"_meta":{SERVER,"v/k": [1]}}"#;
    let expect = expect.replace("\"v/k\": [1]", "\"v/k\":[1]");
    for (upstream, body) in [
        (LEGACY, r#""result":{"content":[ {"type":"text","text":"\u00e9"} ],"vendor":1.10,"_meta":{"v/k":[1]}}"#),
        (MODERN, r#""result":{"content":[ {"type":"text","text":"\u00e9"} ],"vendor":1.10,"_meta":{"v/k":[1]}}"#),
        (
            MODERN,
            r#""result":{"resultType":"complete","content":[ {"type":"text","text":"\u00e9"} ],"vendor":1.10,"_meta":{"io.modelcontextprotocol/serverInfo":{"name":"up","version":"1"},"v/k":[1]}}"#,
        ),
        // A legacy upstream that writes a modern word means nothing by it.
        (
            LEGACY,
            r#""result":{"resultType":"input_required","content":[ {"type":"text","text":"\u00e9"} ],"vendor":1.10,"_meta":{"v/k":[1]}}"#,
        ),
    ] {
        check(MODERN, upstream, body, &expect, Outcome::Complete);
    }
}

#[test]
fn legacy_results_lose_what_legacy_clients_do_not_know() {
    let body = r#""result":{"resultType":"complete","content":[],"structuredContent":[1],"ttlMs":5,"cacheScope":"public","isError":true}"#;
    check(LEGACY, MODERN, body, r#""result":{"content":[],"isError":true}"#, Outcome::ToolError);
    let body = r#""result":{"content":[],"structuredContent":{"a":1}}"#;
    check(LEGACY, LEGACY, body, r#""result":{"content":[],"structuredContent":{"a":1}}"#, Outcome::Complete);
    check("2025-03-26", LEGACY, body, r#""result":{"content":[]}"#, Outcome::Complete);
    let body = r#""result":{"content":[{"type":"resource_link","uri":"x:1","name":"n"},{"type":"text","text":"t"}]}"#;
    let texts = r#""result":{"content":[{"type":"text","text":"x:1"},{"type":"text","text":"t"}]}"#;
    check("2025-03-26", LEGACY, body, texts, Outcome::Complete);
    let linked = r#""result":{"content":[{"uri":"x:1","type":"resource_link","name":"n"},{"type":"text","text":"t"}]}"#;
    check("2025-06-18", LEGACY, body, linked, Outcome::Complete);
    let body = r#""result":{"content":[{"type":"resource_link","uri":"x:1","icons":[{"src":"data:,"}],"name":"n"}]}"#;
    check(LEGACY, LEGACY, body, body, Outcome::Complete);
    let linked = r#""result":{"content":[{"uri":"x:1","type":"resource_link","name":"n"}]}"#;
    check("2025-06-18", MODERN, body, linked, Outcome::Complete);
    check("2025-03-26", MODERN, body, r#""result":{"content":[{"type":"text","text":"x:1"}]}"#, Outcome::Complete);
}

#[test]
fn what_is_not_a_tool_result_is_refused() {
    for body in [
        r#""result":{"resultType":"input_required","inputRequests":{}}"#,
        r#""result":{"resultType":"task"}"#,
        r#""result":{"resultType":7}"#,
        r#""result":{"content":{}}"#,
        r#""result":{"content":[],"isError":"no"}"#,
        r#""result":{"content":[],"_meta":[]}"#,
    ] {
        assert!(matches!(admitted(MODERN, MODERN, body), Err(Refusal::UpstreamInvalid(_))), "{body}");
    }
    let other = response(r#"{"jsonrpc":"2.0","id":6,"result":{}}"#);
    assert!(matches!(admit(&asker("1", MODERN), &sent(MODERN), &other), Err(Refusal::UpstreamInvalid(_))));
}

#[test]
fn spec_2_1_errors_keep_their_provenance() {
    let wrapped = |code: i64| {
        format!(
            r#""error":{{"code":-32603,"message":"the server behind this answered with a protocol error","data":{{"source":"gateway","code":"upstream_error","version":"1","retryable":false,"upstream":{{"code":{code},"message":"m"}}}}}}"#
        )
    };
    for code in [-32700, -32600, -32601, -32000, -32001, -32003, -32020, -32021, -32022, -32042, -32099, -32768] {
        let body = format!(r#""error":{{"code":{code},"message":"m","data":{{"host":"internal"}}}}"#);
        if code != -32021 {
            check(LEGACY, MODERN, &body, &wrapped(code), Outcome::RpcError(code));
            check(MODERN, MODERN, &body, &wrapped(code), Outcome::RpcError(code));
        }
    }
    // RS-17: what a modern upstream says of the client's capabilities is the client's business.
    let needs = |data: &str| {
        let text = format!(r#"{{"jsonrpc":"2.0","id":5,"error":{{"code":-32021,"message":"m","data":{data}}}}}"#);
        admit(&asker("1", MODERN), &sent(MODERN), &response(&text)).unwrap_err()
    };
    let sampling = r#"{"sampling":{}}"#;
    let asked = format!(r#"{{"requiredCapabilities":{sampling},"host":"internal"}}"#);
    assert_eq!(needs(&asked), Refusal::CapabilityMissing(sampling.into()));
    let huge = format!(r#"{{"requiredCapabilities":{{"a":"{}"}}}}"#, "x".repeat(2_000));
    for odd in [r#"{"requiredCapabilities":"sampling"}"#, huge.as_str(), "7"] {
        assert_eq!(needs(odd), Refusal::CapabilityMissing("{}".into()), "{odd}");
    }
    for code in [-32602, -32603, 7, -1, 40304] {
        let body = format!(r#""error":{{"code":{code},"message":"m","data":{{"a":1}}}}"#);
        check(MODERN, LEGACY, &body, &body, Outcome::RpcError(code));
    }
    let missing = r#""error":{"code":-32002,"message":"m"}"#;
    check(LEGACY, LEGACY, missing, missing, Outcome::RpcError(-32002));
    check(MODERN, LEGACY, missing, r#""error":{"code":-32602,"message":"m"}"#, Outcome::RpcError(-32002));
    let forged = r#""error":{"code":40304,"message":"m","data":{"source":"gateway","code":"denied"}}"#;
    check(MODERN, LEGACY, forged, r#""error":{"code":40304,"message":"m"}"#, Outcome::RpcError(40304));
}

#[test]
fn spec_2_2_pages_to_visit_are_the_clients_business_where_it_knows_such_an_error() {
    let page = r#"{"mode":"url","elicitationId":"e","url":"https://up.example/","message":"m"}"#;
    let body = format!(r#""error":{{"code":-32042,"message":"m","data":{{"elicitations":[{page}]}}}}"#);
    check(LEGACY, LEGACY, &body, &body, Outcome::RpcError(-32042));
    let told = r#"{"mode":"url","url":"https://up.example/","message":"m"}"#;
    let expect = format!(
        r#""result":{{"resultType":"input_required","inputRequests":{{"url-0":{{"method":"elicitation/create","params":{told}}}}},"requestState":"SEALED","_meta":{{SERVER}}}}"#
    );
    check(MODERN, LEGACY, &body, &expect, Outcome::InputRequired);
    let older = admitted(MODERN, "2025-06-18", &body).unwrap_err();
    assert_eq!(older, Refusal::CapabilityMissing(r#"{"elicitation":{"url":{}}}"#.into()));
    // Whoever passes it on has read what it asks: it is recorded, and no page but one is asked for.
    let whole = format!(r#"{{"jsonrpc":"2.0","id":5,{body}}}"#);
    let Ok(Admitted::Pages(asked, _)) = admit(&asker("1", LEGACY), &sent(LEGACY), &response(&whole)) else { panic!() };
    assert_eq!(asked.asks.len(), 1);
    assert_eq!((asked.asks[0].0.as_str(), asked.asks[0].1.kind), ("url-0", asks::Kind::Url));
    for hostile in ["file:///etc/passwd", "javascript:alert(1)", "vscode://run"] {
        for client in [LEGACY, MODERN] {
            let body = body.replace("https://up.example/", hostile);
            assert!(matches!(admitted(client, LEGACY, &body), Err(Refusal::UpstreamInvalid(_))), "{client} {hostile}");
        }
    }
    // Completion asks for nothing.
    let sent = Sent { method: Method::CompletionComplete, ..sent(LEGACY) };
    let Ok(Admitted::Answer(answer)) = admit(&asker("1", LEGACY), &sent, &response(&whole)) else { panic!() };
    assert!(answer.body().windows(14).any(|text| text == b"upstream_error"), "{answer:?}");
}

#[test]
fn rs_30_an_upstream_asks_what_the_protocol_has_and_the_client_declared() {
    let asks = |requests: &str| format!(r#""result":{{"resultType":"input_required","inputRequests":{{{requests}}}}}"#);
    let good = r#""a":{"method":"elicitation/create","params":{"message":"m","requestedSchema":{"type":"object"},"_meta":{"progressToken":1,"v":2}}},"b":{"method":"roots/list"}"#;
    let expect = r#""result":{"resultType":"input_required","inputRequests":{"a":{"method":"elicitation/create","params":{"message":"m","requestedSchema":{"type":"object"},"_meta":{"v":2}}},"b":{"method":"roots/list"}},"requestState":"SEALED","_meta":{SERVER}}"#;
    check(MODERN, MODERN, &asks(good), expect, Outcome::InputRequired);
    for bad in [
        "",
        r#""a":{"method":"tools/list"}"#,
        r#""a":{"method":"elicitation/create"}"#,
        r#""a":{"method":"elicitation/create","params":{"mode":"voice","message":"m"}}"#,
        r#""a":{"method":"elicitation/create","params":{"mode":"url","message":"m","url":"javascript:alert(1)"}}"#,
        r#""a":{"params":{}}"#,
        r#""a":7"#,
    ] {
        assert!(matches!(admitted(MODERN, MODERN, &asks(bad)), Err(Refusal::UpstreamInvalid(_))), "{bad}");
    }
    let sampling = r#""a":{"method":"sampling/createMessage","params":{"messages":[],"maxTokens":1,"tools":[]}}"#;
    for client in [MODERN, LEGACY] {
        let refused = admitted(client, MODERN, &asks(sampling)).unwrap_err();
        assert_eq!(refused, Refusal::InputUndeclared(r#"{"sampling":{"tools":{}}}"#.into()));
    }
    let state = r#""result":{"resultType":"input_required","requestState":7}"#;
    assert!(matches!(admitted(MODERN, MODERN, state), Err(Refusal::UpstreamInvalid(_))));
}

#[test]
fn a_resource_that_is_not_there_is_named_as_the_client_named_it() {
    let body = r#"{"jsonrpc":"2.0","id":5,"error":{"code":-32602,"message":"m","data":{"uri":"note:a","of":"uri"}}}"#;
    let data = |method, prefix| {
        let sent = Sent { method, prefix, ..sent(MODERN) };
        let Ok(Admitted::Answer(answer)) = admit(&asker("1", MODERN), &sent, &response(body)) else { panic!() };
        String::from_utf8(answer.body().to_vec()).unwrap().split_once("\"data\":").unwrap().1.to_owned()
    };
    assert_eq!(data(Method::ResourcesRead, Some("crm")), r#"{"uri":"crm+note:a","of":"uri"}}}"#);
    assert_eq!(data(Method::ResourcesRead, None), r#"{"uri":"note:a","of":"uri"}}}"#);
    assert_eq!(data(Method::ToolsCall, Some("crm")), r#"{"uri":"note:a","of":"uri"}}}"#, "what it means is not known");
}

#[test]
fn ids_are_restored_with_their_type() {
    for id in ["1", "\"1\"", "-9007199254740993", r#""\u0000\"""#] {
        let answer =
            admit(&asker(id, MODERN), &sent(MODERN), &response(r#"{"jsonrpc":"2.0","id":5,"result":{}}"#)).unwrap();
        let Admitted::Answer(answer) = answer else { panic!("no answer") };
        assert!(answer.body().starts_with(format!(r#"{{"jsonrpc":"2.0","id":{id},"#).as_bytes()));
    }
}

fn notification(text: &str) -> Notification {
    let Ok(Inbound::Notification(notification)) = Inbound::parse(Bytes::copy_from_slice(text.as_bytes()), &BOUNDS)
    else {
        panic!("{text}")
    };
    notification
}

#[test]
fn rs_34_progress_goes_back_under_the_clients_token_and_only_forwards() {
    let mut relay = Relay::new(&asker("1", MODERN), "ours".to_owned());
    let mut send = |token: &str, progress: &str| {
        relay.admit(&notification(&format!(
            r#"{{"jsonrpc":"2.0","method":"notifications/progress","params":{{"progressToken":{token},"progress":{progress},"total":9,"message":"m"}}}}"#
        )))
    };
    let expect = r#"{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":17,"progress":1.50,"total":9,"message":"m"}}"#;
    assert_eq!(send("\"ours\"", "1.50").unwrap(), expect);
    assert_eq!(send("\"ours\"", "1.5"), Err(Dropped::ProgressBackwards));
    assert_eq!(send("\"ours\"", "0"), Err(Dropped::ProgressBackwards));
    assert_eq!(send("17", "2"), Err(Dropped::ProgressUnasked));
    assert_eq!(send("\"ours\"", "\"2\""), Err(Dropped::Malformed));
    assert!(send("\"ours\"", "2").is_ok());
}

#[test]
fn rs_34_logs_go_back_where_they_were_asked_for() {
    let mut relay = Relay::new(&asker("1", MODERN), "ours".to_owned());
    let log = |level: &str| {
        notification(&format!(
            r#"{{"jsonrpc":"2.0","method":"notifications/message","params":{{"level":"{level}","data":1}}}}"#
        ))
    };
    let expect = r#"{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"error","data":1}}"#;
    assert_eq!(relay.admit(&log("error")).unwrap(), expect);
    assert_eq!(relay.admit(&log("info")), Err(Dropped::LogUnasked));
    assert_eq!(relay.admit(&log("loud")), Err(Dropped::Malformed));
    let mut silent = Relay::new(&Asker { log_level: None, ..asker("1", MODERN) }, "ours".to_owned());
    assert_eq!(silent.admit(&log("emergency")), Err(Dropped::LogUnasked));
    let other = notification(r#"{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}"#);
    assert_eq!(silent.admit(&other), Err(Dropped::Unsolicited));
}

#[test]
fn progress_of_our_own_goes_on_where_the_upstreams_ended() {
    let mut relay = Relay::new(&asker("1", MODERN), "ours".to_owned());
    let theirs = notification(
        r#"{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":"ours","progress":1.5}}"#,
    );
    assert!(relay.admit(&theirs).is_ok());
    let expect = r#"{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":17,"progress":2,"message":"\"m\""}}"#;
    assert_eq!(relay.report(Some("\"m\"")).unwrap(), expect);
    assert!(relay.report(None).unwrap().ends_with(br#""progress":3}}"#));
    let mut nobody = Relay::new(&Asker { progress_token: None, ..asker("1", MODERN) }, "ours".to_owned());
    assert_eq!(nobody.report(None), None);
}

/// What a client that knows of tasks is told of the task `raw`, which it calls `SEALED`.
fn told(method: Method, body: &str) -> Result<(String, Outcome, usize), Refusal> {
    let sent = Sent { method, prefix: Some("up"), ..sent(MODERN) };
    let known = tasks::Known { id: "raw", shown: "SEALED", life_ms: 500 };
    let response = response(&format!(r#"{{"jsonrpc":"2.0","id":5,"result":{body}}}"#));
    let (answer, asks) = tasks::follow(&asker("1", MODERN), &sent, &known, &response)?;
    let text = String::from_utf8(answer.body().to_vec()).unwrap();
    Document::parse(Bytes::copy_from_slice(text.as_bytes()), &BOUNDS).unwrap();
    let server =
        format!(r#""io.modelcontextprotocol/serverInfo":{}"#, std::str::from_utf8(outbound::IMPLEMENTATION).unwrap());
    let rest = text.strip_prefix(r#"{"jsonrpc":"2.0","id":1,"result":"#).unwrap().strip_suffix('}').unwrap();
    Ok((rest.replace(&server, "SERVER"), answer.outcome(), asks.len()))
}

#[test]
fn rs_37_a_task_goes_back_under_our_name_for_it() {
    let base = r#""resultType":"task","taskId":"raw","createdAt":"t","lastUpdatedAt":"t""#;
    let task = |more: &str| format!("{{{base},{more}}}");
    let head = r#"{"resultType":"complete","taskId":"SEALED""#;
    let tail = r#""createdAt":"t","lastUpdatedAt":"t""#;
    for (more, expect, outcome) in [
        // Our name is not good for longer than we said.
        (r#""status":"working","ttlMs":null"#, format!(r#","status":"working","ttlMs":500,{tail}"#), Outcome::Complete),
        (
            r#""status":"cancelled","ttlMs":5,"pollIntervalMs":7,"v":[1]"#,
            format!(r#","status":"cancelled","ttlMs":5,"pollIntervalMs":7,{tail},"v":[1]"#),
            Outcome::Complete,
        ),
        (
            r#""status":"completed","ttlMs":5,"requestState":"s","inputRequests":{},"result":{"isError":true,"content":[{"type":"resource_link","uri":"file:///x","name":"x"}]}"#,
            format!(
                r#","status":"completed","ttlMs":5,{tail},"result":{{"resultType":"complete","isError":true,"content":[{{"type":"resource_link","uri":"up+file:///x","name":"x"}}],"_meta":{{SERVER}}}}"#
            ),
            Outcome::ToolError,
        ),
        (
            r#""status":"failed","ttlMs":5,"error":{"code":-32603,"message":"m"}"#,
            format!(r#","status":"failed","ttlMs":5,{tail},"error":{{"code":-32603,"message":"m"}}"#),
            Outcome::RpcError(-32603),
        ),
        (
            r#""status":"input_required","ttlMs":5,"inputRequests":{"k":{"method":"roots/list"}}"#,
            format!(r#","status":"input_required","ttlMs":5,{tail},"inputRequests":{{"k":{{"method":"roots/list"}}}}"#),
            Outcome::Complete,
        ),
    ] {
        let (text, found, _) = told(Method::TasksGet, &task(more)).unwrap();
        assert_eq!((text, found), (format!(r#"{head}{expect},"_meta":{{SERVER}}}}"#), outcome), "{more}");
    }
    let acknowledged = (r#"{"resultType":"complete","_meta":{SERVER}}"#.to_owned(), Outcome::Complete, 0);
    assert_eq!(told(Method::TasksCancel, &task(r#""status":"working""#)).unwrap(), acknowledged);
    assert_eq!(told(Method::TasksUpdate, "{}").unwrap(), acknowledged);
}

#[test]
fn what_is_no_task_does_not_go_back() {
    for body in [
        "{}",
        r#"{"taskId":"","status":"working"}"#,
        r#"{"taskId":7,"status":"working"}"#,
        r#"{"taskId":"other","status":"working"}"#,
        r#"{"taskId":"raw"}"#,
        r#"{"taskId":"raw","status":"Working"}"#,
        r#"{"taskId":"raw","status":"working","ttlMs":-1}"#,
        r#"{"taskId":"raw","status":"working","pollIntervalMs":"1"}"#,
        r#"{"taskId":"raw","status":"completed"}"#,
        r#"{"taskId":"raw","status":"completed","result":[]}"#,
        r#"{"taskId":"raw","status":"completed","result":{"resultType":"task"}}"#,
        r#"{"taskId":"raw","status":"failed","error":{"code":"1","message":"m"}}"#,
        r#"{"taskId":"raw","status":"input_required"}"#,
        r#"{"taskId":"raw","status":"input_required","inputRequests":{"k":{"method":"tools/call"}}}"#,
    ] {
        assert_eq!(told(Method::TasksGet, body).unwrap_err().code(), "upstream_invalid", "{body}");
    }
    let sampling =
        r#"{"taskId":"raw","status":"input_required","inputRequests":{"k":{"method":"sampling/createMessage"}}}"#;
    assert_eq!(told(Method::TasksGet, sampling).unwrap_err().code(), "input_undeclared");
    let long = format!(r#"{{"taskId":"{}","status":"working"}}"#, "x".repeat(513));
    assert_eq!(told(Method::TasksGet, &long).unwrap_err().code(), "upstream_invalid");
}

#[test]
fn rs_37_a_task_that_nobody_asked_for_is_no_answer() {
    let created = r#""result":{"resultType":"task","taskId":"raw","status":"working"}"#;
    assert_eq!(admitted(MODERN, MODERN, created).unwrap_err().code(), "upstream_invalid");
    let of_2025 = r#""result":{"task":{"taskId":"raw","status":"working"}}"#;
    assert!(admitted(MODERN, LEGACY, of_2025).unwrap().0.contains(r#""task":{"#), "a member like any other");
}
