//! Text that wants to be a line of its own, or to look like another, in everything that a client can write: one record a
//! line, whatever it says.

use std::fs;

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

use super::{Ground, chain_verifies};
use crate::harness::{
    gateway::segments,
    http::{self, Answer},
    mcp::{Client, LEGACY, MODERN, modern_body},
    place,
};

/// Ends the line, ends the string, forges a record, colours the terminal, turns the text around.
fn hostile(mark: &str) -> String {
    format!(
        "{mark}\"}}\n{{\"schema\":\"tollgate.audit/1\",\"event\":\"forged\",\"x\":\"\r\n\u{0}\u{8}\u{1b}[31mred\\\"\u{7f}\u{85}\u{9b}\u{2028}\u{2029}\u{202e}\u{2066}\u{200f}\u{61c}\u{200b}\u{feff}\u{e0001}"
    )
}

/// Characters that no line of the journal holds raw: controls, separators, what turns text around.
fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

fn body(tool: &str) -> Value {
    modern_body(&json!(1), "tools/call", &json!({ "name": tool, "arguments": {} }))
}

/// Sends `body` as a call of `tool`, with `more` headers.
fn post(client: &Client, tool: &str, body: &Value, more: &[(&str, &str)]) -> Answer {
    let name = format!("=?base64?{}?=", STANDARD.encode(tool));
    let mirrors = [("MCP-Protocol-Version", MODERN), ("Mcp-Method", "tools/call"), ("Mcp-Name", name.as_str())];
    client.post(&[&mirrors[..], more].concat(), body.to_string().as_bytes())
}

/// What a client says of itself and of its request.
fn says(client: &Client) {
    let mut named = body("echo");
    named["params"]["_meta"]["io.modelcontextprotocol/clientInfo"] =
        json!({ "name": hostile("client-name"), "version": hostile("client-version"), "title": hostile("title") });
    assert_eq!(post(client, "echo", &named, &[]).status(), 200);
    let mut id = body("echo");
    id["id"] = json!(hostile("request-id"));
    let answer = post(client, "echo", &id, &[]);
    assert_eq!((answer.status(), answer.json()["id"].clone()), (200, id["id"].clone()));
    let tool = hostile("tool-name");
    assert_eq!(super::code(&post(client, &tool, &body(&tool), &[])), "tool_unknown");
    let mut argued = body("echo");
    argued["params"]["arguments"] = json!({ hostile("argument-name"): hostile("argument") });
    argued["params"]["_meta"]["progressToken"] = json!(hostile("progress"));
    argued["params"]["_meta"]["traceparent"] = json!(hostile("trace"));
    argued["params"]["_meta"]["tracestate"] = json!(hostile("state"));
    post(client, "echo", &argued, &[]);
    let mut method = body("echo");
    method["method"] = json!(hostile("method"));
    post(client, "echo", &method, &[]);
    let mut version = body("echo");
    version["params"]["_meta"]["io.modelcontextprotocol/protocolVersion"] = json!(hostile("version"));
    post(client, "echo", &version, &[]);
    for name in ["User-Agent", "Mcp-Session-Id", "traceparent", "X-Request-Id", "X-Forwarded-For", "Referer"] {
        post(client, "echo", &body("echo"), &[(name, "\u{202e}a\u{9b}\tb\"}{\"event\":\"forged\"")]);
    }
}

/// The same in a session.
fn says_in_a_session(client: &Client) {
    let initialize = json!({ "jsonrpc": "2.0", "id": hostile("legacy-id"), "method": "initialize", "params": {
        "protocolVersion": hostile("legacy-version"), "capabilities": {}, "clientInfo": { "name": hostile("legacy-name"), "version": hostile("v") } } });
    let session = client.post(&[], initialize.to_string().as_bytes());
    let session = session.header("mcp-session-id").expect("a session");
    let params = json!({ "name": "echo", "arguments": {} });
    let call = json!({ "jsonrpc": "2.0", "id": hostile("session-call"), "method": "tools/call", "params": params });
    let headers = [("MCP-Protocol-Version", LEGACY), ("Mcp-Session-Id", session)];
    assert_eq!(client.post(&headers, call.to_string().as_bytes()).status(), 200);
}

/// What an issuer signs because a person may choose it.
fn has_signed(ground: &Ground) {
    let own = ground.gateway.endpoint(Some("up"));
    let texts = ["sub", "client_id", "tenant", "jti", "acr", "scope", "azp", "name"]
        .map(|claim| (claim, json!(hostile(claim))));
    let lists = [("groups", json!([hostile("group")])), ("act", json!({ "sub": hostile("actor") }))];
    for (claim, value) in texts.into_iter().chain(lists) {
        let mut claims = ground.issuer.claims("alice", &own);
        claims[claim] = value;
        let client = ground.gateway.client(Some("up")).token(&ground.issuer.sign(&claims));
        post(&client, "echo", &body("echo"), &[]);
    }
}

#[test]
fn record_is_one_line_whatever_a_client_writes() {
    let ground = Ground::new("log-injection");
    let client = ground.client("alice");
    says(&client);
    says_in_a_session(&client);
    has_signed(&ground);
    http::fetch("GET", &format!("{}/%0a%7b%22event%22:%22forged%22%7d", ground.gateway.setup().origin()), &[], b"");
    ground.good_call();

    place::wait_for("the hostile name on record", super::SOON, || {
        let named = |record: &Value| {
            record["agent"]["unverified"]["name"].as_str().is_some_and(|name| name.starts_with("client-name\""))
        };
        ground.gateway.journal().iter().any(named).then_some(())
    });
    place::wait_for("the hostile tool on record", super::SOON, || {
        let named =
            |record: &Value| record["refused"]["reason"].as_str().is_some_and(|why| why.contains("tool-name\""));
        ground.gateway.journal().iter().any(named).then_some(())
    });
    let Ground { mut gateway, .. } = ground;
    gateway.stop();
    let mut lines = 0;
    for segment in segments(&gateway.journal_folder()) {
        let text = String::from_utf8(fs::read(segment).unwrap()).unwrap();
        for line in text.lines() {
            lines += 1;
            let record: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line:?}"));
            assert_eq!(record["schema"], "tollgate.audit/1");
            assert_ne!(record["event"], "forged", "{line}");
            assert!(!line.chars().any(is_hidden), "{line:?}");
            // Unproven words stand under `unverified` alone.
            assert_ne!(record["agent"]["name"], json!(hostile("client-name")));
        }
    }
    assert!(lines > 20);
    for text in [gateway.process.errors(), gateway.process.output()] {
        assert!(!text.contains("\u{1b}[31mred") && !text.contains('\u{202e}') && !text.contains('\u{9b}'), "{text:?}");
        assert!(
            !text.lines().any(|line| line.starts_with("{\"schema\":\"tollgate.audit/1\",\"event\":\"forged\"")),
            "{text}"
        );
    }
    chain_verifies(&gateway);
}
