//! An upstream turns a call down because the gateway believes of it what is no longer true (`-32020`, `-32022`): it is read
//! anew, and the call sent once more, if it is still what was judged (spec §2.2, RC-04).

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use serde_json::{Value, json};

use super::{refused, text_of};
use crate::harness::{
    gateway::{Gateway, Setup},
    http::Answer,
    issuer::Issuer,
    mcp::{Client, modern_body},
    recorder::{Era, Recorder, Reply, Seen, tools},
};

/// A modern server whose list changes from `tools[0]` to the next after each call that it turns down with `code`: the first
/// ones, as many as there are changes.
fn changing(code: i64, tools: Vec<Value>) -> Recorder {
    let turned = AtomicUsize::new(0);
    Recorder::scripted(Era::Modern, move |seen| match seen.rpc_method().as_str() {
        "tools/list" => {
            let tools = &tools[turned.load(Ordering::Acquire).min(tools.len() - 1)];
            let result = json!({ "resultType": "complete", "tools": tools, "ttlMs": 600_000, "cacheScope": "private" });
            Some(Reply::result(seen, &result))
        }
        "tools/call" if turned.fetch_add(1, Ordering::AcqRel) + 1 < tools.len() => {
            Some(Reply::error(seen, 400, code, "not so"))
        }
        _ => None,
    })
}

/// The tool `echo`, whose `place` is mirrored in `Mcp-Param-{header}`.
fn mirrored(header: &str) -> Value {
    let place = json!({ "type": "string", "x-mcp-header": header });
    json!([{ "name": "echo", "inputSchema": { "type": "object", "properties": { "place": place } } }])
}

fn behind(name: &str, issuer: &Issuer, recorder: &Recorder) -> (Gateway, Client) {
    let setup = Setup::usual(name, issuer).exchanged_upstream("up", &recorder.url(), &issuer.url(), "\"up.call\"");
    let gateway = setup.start();
    let client = gateway.client_of(Some("up"), issuer, "alice").awaiting("echo");
    (gateway, client)
}

fn calls(recorder: &Recorder) -> Vec<Seen> {
    recorder.seen_method("tools/call")
}

/// One intent and one outcome, with so many attempts (nothing for one).
#[track_caller]
fn on_record(gateway: &Gateway, attempts: &Value) {
    assert_eq!((gateway.recorded("intent", 1).len(), gateway.recorded("outcome", 1).len()), (1, 1));
    assert_eq!(gateway.recorded("outcome", 1)[0]["result"]["attempts"], *attempts);
}

#[test]
fn headers_are_computed_anew_from_the_definition_as_it_is_now() {
    let issuer = Issuer::good();
    let recorder = changing(-32020, vec![mirrored("Region"), mirrored("Zone")]);
    let (gateway, client) = behind("mirrors-anew", &issuer, &recorder);
    let params = json!({ "name": "echo", "arguments": { "place": "eu" } });
    // Nobody checked the second header when the call was judged: it does not stand for the argument afterwards.
    let headers = [
        ("MCP-Protocol-Version", "2026-07-28"),
        ("Mcp-Method", "tools/call"),
        ("Mcp-Name", "echo"),
        ("Mcp-Param-Region", "eu"),
        ("Mcp-Param-Zone", "us"),
        ("Mcp-Param-Other", "as it came"),
    ];
    let answer = client.post(&headers, modern_body(&json!(1), "tools/call", &params).to_string().as_bytes());
    assert_eq!(text_of(&answer), r#"echo {"place":"eu"}"#);
    let seen = calls(&recorder);
    let mirrors = |seen: &Seen| {
        ["mcp-param-region", "mcp-param-zone", "mcp-param-other"].map(|name| seen.header(name).map(str::to_owned))
    };
    let some = |text: &str| Some(text.to_owned());
    let seen: Vec<_> = seen.iter().map(mirrors).collect();
    assert_eq!(seen, [[some("eu"), some("us"), some("as it came")], [None, some("eu"), some("as it came")]]);
    on_record(&gateway, &json!(2));
}

/// What a call is judged by is its own list.
#[test]
fn another_list_that_cannot_be_read_stands_in_nobodys_way() {
    let (issuer, turned) = (Issuer::good(), AtomicUsize::new(0));
    let recorder = Recorder::scripted(Era::Modern, move |seen| {
        let complete = |mut result: Value| {
            result["resultType"] = json!("complete");
            result["cacheScope"] = json!("private");
            result["ttlMs"] = json!(600_000);
            Some(Reply::result(seen, &result))
        };
        match seen.rpc_method().as_str() {
            "server/discover" => Some(Reply::discovered(seen, &json!({ "tools": {}, "prompts": {} }))),
            "prompts/list" => Some(Reply::status(503)),
            "tools/list" if turned.load(Ordering::Acquire) == 0 => complete(json!({ "tools": mirrored("Region") })),
            "tools/list" => complete(json!({ "tools": mirrored("Zone") })),
            "tools/call" if turned.fetch_add(1, Ordering::AcqRel) == 0 => Some(Reply::error(seen, 400, -32020, "no")),
            _ => None,
        }
    });
    let (gateway, client) = behind("other-list", &issuer, &recorder);
    assert_eq!(text_of(&client.call("echo", &json!({}))), "echo {}");
    on_record(&gateway, &json!(2));
}

/// RC-04: what is turned down again is the last word, and no call waits for another reading.
#[test]
fn a_call_is_sent_twice_and_not_a_third_time() {
    for code in [-32020, -32022] {
        let issuer = Issuer::good();
        let recorder = changing(code, vec![mirrored("Region"); 9]);
        let (gateway, client) = behind("turned-down", &issuer, &recorder);
        let (lists, probes) = (recorder.seen_method("tools/list").len(), recorder.seen_method("server/discover").len());
        let answer = client.initialize().call("echo", &json!({}));
        assert_eq!(refused(&answer), (200, -32603, "upstream_error".into()), "{code}");
        assert_eq!(calls(&recorder).len(), 2, "{code}");
        assert!(
            recorder.seen_method("tools/list").len() > lists && recorder.seen_method("server/discover").len() > probes
        );
        on_record(&gateway, &json!(2));
    }
}

#[test]
fn what_is_another_than_was_judged_is_not_sent() {
    let told = |change: Value| {
        let mut tools = mirrored("Region");
        tools[0].as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        tools
    };
    let number = json!({ "type": "object", "properties": { "place": { "type": "number" } } });
    for (what, now) in [
        ("another schema", told(json!({ "inputSchema": number }))),
        ("other hints", told(json!({ "annotations": { "destructiveHint": true } }))),
        ("another description", told(json!({ "description": "Erases everything." }))),
        ("no such tool", json!([{ "name": "other", "inputSchema": { "type": "object" } }])),
    ] {
        let issuer = Issuer::good();
        let recorder = changing(-32020, vec![mirrored("Region"), now]);
        let (gateway, client) = behind("another", &issuer, &recorder);
        let answer = client.call("echo", &json!({}));
        assert_eq!(refused(&answer), (409, 40901, "definition_changed".into()), "{what}");
        assert_eq!(answer.json()["error"]["data"]["retryable"], true, "nothing was executed");
        assert_eq!(calls(&recorder).len(), 1, "{what}");
        on_record(&gateway, &Value::Null);
        let again = client.call("echo", &json!({}));
        if what == "no such tool" {
            assert_eq!(refused(&again).2, "tool_unknown");
        } else {
            assert_eq!(text_of(&again), "echo {}", "{what}: by the new definition");
        }
    }
}

/// The server went back a release under a gateway that runs.
#[test]
fn a_server_that_has_become_a_legacy_one_is_called_in_a_session() {
    let issuer = Issuer::good();
    let old = Arc::new(AtomicUsize::new(0));
    let recorder = Recorder::serving(move |seen| older_from_the_first_call(seen, &old));
    let (gateway, client) = behind("older", &issuer, &recorder);
    assert_eq!(text_of(&client.call("echo", &json!({}))), "from a session");
    assert_eq!(calls(&recorder).len(), 2);
    on_record(&gateway, &json!(2));
}

fn older_from_the_first_call(seen: &Seen, old: &AtomicUsize) -> Reply {
    let modern = seen.header("mcp-method").is_some();
    let method = seen.rpc_method();
    let tools = json!([{ "name": "echo", "inputSchema": { "type": "object" } }]);
    if modern && method == "tools/call" {
        old.store(1, Ordering::Release);
    }
    if modern && old.load(Ordering::Acquire) == 1 {
        let data = json!({ "supported": ["2025-11-25"], "requested": "2026-07-28" });
        let error = json!({ "code": -32022, "message": "not this version", "data": data });
        return Reply::json(400, &json!({ "jsonrpc": "2.0", "id": seen.json()["id"], "error": error }));
    }
    let capabilities = json!({ "tools": {} });
    match (method.as_str(), modern) {
        ("server/discover", true) => Reply::discovered(seen, &capabilities),
        ("initialize", false) => {
            let server = json!({ "name": "older", "version": "1" });
            let result = json!({ "protocolVersion": "2025-11-25", "capabilities": capabilities, "serverInfo": server });
            Reply::result(seen, &result).header("mcp-session-id", "one")
        }
        ("tools/list", _) => {
            let result = json!({ "resultType": "complete", "tools": tools, "ttlMs": 600_000, "cacheScope": "private" });
            Reply::result(seen, &result)
        }
        ("tools/call", false) if seen.header("mcp-session-id") == Some("one") => {
            Reply::result(seen, &json!({ "content": [{ "type": "text", "text": "from a session" }] }))
        }
        _ => Reply::status(if seen.method == "POST" { 202 } else { 405 }),
    }
}

/// What cannot be read anew is not put right, and an error in the middle of a call proves nothing.
#[test]
fn without_a_new_reading_or_a_proof_nothing_is_sent_again() {
    let turned = |seen: &Seen| Reply::error(seen, 400, -32020, "not so");
    let in_the_middle = |seen: &Seen| {
        let error = json!({ "code": -32020, "message": "not so" });
        let note =
            json!({ "jsonrpc": "2.0", "method": "notifications/message", "params": { "level": "info", "data": 1 } });
        Reply::events(&[note, json!({ "jsonrpc": "2.0", "id": seen.json()["id"], "error": error })])
    };
    for what in ["cannot be read", "in the middle"] {
        let issuer = Issuer::good();
        let called = AtomicUsize::new(0);
        let recorder = Recorder::scripted(Era::Modern, move |seen| match seen.rpc_method().as_str() {
            "tools/call" => {
                called.store(1, Ordering::Release);
                Some(if what == "in the middle" { in_the_middle(seen) } else { turned(seen) })
            }
            "tools/list" if called.load(Ordering::Acquire) == 1 => Some(Reply::status(500)),
            _ => None,
        });
        let (gateway, client) = behind("no-proof", &issuer, &recorder);
        let answer: Answer = client.call("echo", &json!({}));
        assert_eq!(refused(&answer), (200, -32603, "upstream_error".into()), "{what}");
        assert_eq!(calls(&recorder).len(), 1, "{what}");
        on_record(&gateway, &Value::Null);
    }
}

/// Not made, and so not of unknown outcome.
#[test]
fn what_fails_between_the_two_may_be_tried_again() {
    let away = Arc::new(AtomicUsize::new(0));
    let down = Arc::clone(&away);
    let issuer = Issuer::scripted(move |seen| {
        seen.field("subject_token")?;
        let life = json!({ "access_token": "for-a-second", "token_type": "Bearer", "expires_in": 1,
            "issued_token_type": "urn:ietf:params:oauth:token-type:access_token" });
        Some(if down.load(Ordering::Acquire) == 1 { Reply::status(503) } else { Reply::json(200, &life) })
    });
    let reads = Arc::clone(&away);
    let recorder = Recorder::scripted(Era::Modern, move |seen| match seen.rpc_method().as_str() {
        "tools/call" => {
            away.store(1, Ordering::Release);
            Some(Reply::error(seen, 400, -32020, "not so"))
        }
        // Long enough for the credential of the call to end.
        "tools/list" if reads.load(Ordering::Acquire) == 1 => {
            let result = json!({ "resultType": "complete", "tools": tools(), "ttlMs": 0, "cacheScope": "private" });
            Some(Reply::result(seen, &result).after(Duration::from_millis(1_100)))
        }
        _ => None,
    });
    let (gateway, client) = behind("between", &issuer, &recorder);
    let answer = client.call("echo", &json!({}));
    assert_eq!(refused(&answer), (502, 50201, "grant_unavailable".into()));
    assert_eq!(answer.json()["error"]["data"]["retryable"], true);
    assert_eq!(calls(&recorder).len(), 1);
    assert_eq!(gateway.recorded("outcome", 1)[0]["result"]["ending"], "failed", "the upstream has seen it");
}
