//! A legacy conversation, to the byte: `initialize`, the session, notifications, `ping`, the end (spec RL).

use serde_json::{Value, json};

use super::{refused, text_of};
use crate::harness::{
    gateway::{Gateway, Setup},
    issuer::Issuer,
    mcp::{Client, LEGACY},
    recorder::{Era, Recorder},
};

fn gateway(name: &str, issuer: &Issuer, upstream: &Recorder) -> Gateway {
    Setup::usual(name, issuer).open_upstream("up", &upstream.url()).start()
}

fn initialize(client: &Client, version: &str) -> (u16, Option<String>, Value) {
    let params =
        json!({ "protocolVersion": version, "capabilities": {}, "clientInfo": { "name": "tests", "version": "1" } });
    let body = json!({ "jsonrpc": "2.0", "id": "first", "method": "initialize", "params": params });
    let answer = client.post(&[], body.to_string().as_bytes());
    (answer.status(), answer.header("mcp-session-id").map(str::to_owned), answer.json())
}

#[test]
fn every_older_revision_is_agreed_on_and_any_other_gets_the_newest() {
    let issuer = Issuer::good();
    let recorder = Recorder::good(Era::Modern);
    let gateway = gateway("versions", &issuer, &recorder);
    let alice = gateway.client_of(None, &issuer, "alice");
    for (asked, agreed) in [
        ("2025-11-25", "2025-11-25"),
        ("2025-06-18", "2025-06-18"),
        ("2025-03-26", "2025-03-26"),
        ("1999-01-01", LEGACY),
    ] {
        let (status, session, answer) = initialize(&alice, asked);
        assert_eq!((status, &answer["id"]), (200, &json!("first")));
        assert_eq!(answer["result"]["protocolVersion"], agreed, "{answer}");
        assert_eq!(answer["result"]["serverInfo"]["name"], "tollgate");
        assert!(answer["result"]["capabilities"]["tools"].is_object());
        let session = session.unwrap();
        assert!(session.len() >= 32 && session.bytes().all(|byte| (0x21..=0x7e).contains(&byte)), "{session}");
    }
}

#[test]
fn a_session_lives_until_it_is_deleted() {
    let issuer = Issuer::good();
    let recorder = Recorder::good(Era::Modern);
    let gateway = gateway("session", &issuer, &recorder);
    let alice = gateway.client_of(Some("up"), &issuer, "alice").awaiting("echo");
    let session = alice.initialize();
    assert_eq!(text_of(&session.call("echo", &json!({ "message": "hi" }))), "echo {\"message\":\"hi\"}");
    let pong = session.request("ping", &json!({}));
    assert_eq!((pong.status(), pong.json()), (200, json!({ "jsonrpc": "2.0", "id": 1, "result": {} })));
    let listed = session.request("tools/list", &json!({})).json();
    let first = &listed["result"];
    assert_eq!(first["tools"].as_array().unwrap().len(), 3);
    assert!(
        first["resultType"].is_null() && first["ttlMs"].is_null(),
        "nothing modern goes to a legacy client: {first}"
    );

    let noted = session.notify("notifications/initialized", &json!({}));
    assert_eq!((noted.status(), noted.body.len()), (202, 0));
    assert_eq!(session.notify("notifications/whatever", &json!({})).status(), 202);
    assert_eq!(session.notify("notifications/cancelled", &json!({ "requestId": 99 })).status(), 202);
    let posted = alice.post(&session.headers(), b"{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{}}");
    assert_eq!(posted.status(), 202, "a client's response is taken");

    let unknown = session.request("no/such", &json!({}));
    assert_eq!(refused(&unknown), (200, -32601, "method_unknown".into()));
    assert_eq!(session.delete().status(), 204);
    let after = session.call("echo", &json!({}));
    assert_eq!((after.status(), after.json()["error"]["data"]["code"].as_str()), (404, Some("session_unknown")));
    assert_eq!(session.delete().status(), 404);
    let posted =
        |headers: &[(&str, &str)]| refused(&alice.post(headers, b"{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{}}"));
    assert_eq!(posted(&session.headers()), (404, 40402, "session_unknown".into()));
    assert_eq!(posted(&[]), (400, -32600, "session_missing".into()));
    assert_eq!(recorder.seen_method("tools/call").len(), 1);
}

#[test]
fn a_session_is_its_owners_at_its_endpoint() {
    let issuer = Issuer::good();
    let recorder = Recorder::good(Era::Legacy);
    let gateway = gateway("owner", &issuer, &recorder);
    let alice = gateway.client_of(Some("up"), &issuer, "alice").awaiting("echo");
    let list = json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/list" }).to_string();
    let session = alice.initialize();
    let id = session.id().unwrap();
    let bob = gateway.client_of(Some("up"), &issuer, "bob");
    let federated = gateway.client_of(None, &issuer, "alice");
    for stranger in [&bob, &federated] {
        let answer = stranger.post(&[("MCP-Protocol-Version", LEGACY), ("Mcp-Session-Id", id)], list.as_bytes());
        assert_eq!(refused(&answer), (404, 40402, "session_unknown".into()));
        let ended = stranger.connection().exchange(&stranger.bytes("DELETE", &[("Mcp-Session-Id", id)], b""));
        assert_eq!(ended.status(), 404);
    }
    assert_eq!(session.request("tools/list", &json!({})).status(), 200, "it still lives");
    // The session is a handle and no proof: without a token it is worth nothing.
    let nobody = gateway.client(Some("up")).post(&[("Mcp-Session-Id", id)], list.as_bytes());
    assert_eq!(refused(&nobody), (401, 40101, "token_missing".into()));
}

#[test]
fn a_version_header_that_is_not_served_is_refused() {
    let issuer = Issuer::good();
    let recorder = Recorder::good(Era::Legacy);
    let gateway = gateway("header", &issuer, &recorder);
    let alice = gateway.client_of(Some("up"), &issuer, "alice").awaiting("echo");
    let session = alice.initialize();
    let id = session.id().unwrap();
    let list = json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/list" }).to_string();
    let answer = alice.post(&[("MCP-Protocol-Version", "2024-11-05"), ("Mcp-Session-Id", id)], list.as_bytes());
    assert_eq!(refused(&answer), (400, -32600, "version_header_unsupported".into()));
}

#[test]
fn what_is_not_one_request_is_refused_in_the_older_form() {
    let issuer = Issuer::good();
    let recorder = Recorder::good(Era::Legacy);
    let gateway = gateway("shape", &issuer, &recorder);
    let alice = gateway.client_of(Some("up"), &issuer, "alice").awaiting("echo");
    let session = alice.initialize();
    let post = |body: &[u8]| refused(&alice.post(&session.headers(), body));
    assert_eq!(post(b"{"), (400, -32700, "not_json".into()));
    assert_eq!(post(b"[{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"ping\"}]"), (400, -32600, "not_a_request".into()));
    assert_eq!(post(b"{\"jsonrpc\":\"1.0\",\"id\":1,\"method\":\"ping\"}"), (400, -32600, "not_a_request".into()));
    let call = |params: &str| format!("{{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"tools/call\",\"params\":{params}}}");
    assert_eq!(post(call("{}").as_bytes()), (200, -32602, "params_invalid".into()));
    assert_eq!(post(call("{\"name\":\"nowhere\"}").as_bytes()), (200, -32602, "tool_unknown".into()));
    // Discovery without metadata is a modern request that went wrong, not a method that nobody knows (spec §1.0).
    let (status, code, _) = post(b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"server/discover\"}");
    assert_eq!((status, code), (400, -32602));
    assert!(recorder.seen_method("tools/call").is_empty());
}
