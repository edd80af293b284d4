//! Headers that say one thing and a body that says another: an intermediary would route by the one, and the tool would
//! run with the other (I2, RS-10, RS-13, RS-14).

use serde_json::json;

use super::{ECHO_HEADERS, Ground, META, call_text};
use crate::harness::mcp::MODERN;

/// A header's new value; `None` takes it away.
type Change<'a> = (&'a str, Option<&'a str>);

fn headers<'a>(changes: &[Change<'a>]) -> Vec<(&'a str, &'a str)> {
    let mut headers: Vec<_> = ECHO_HEADERS.to_vec();
    for (name, value) in changes {
        headers.retain(|(known, _)| known != name);
        headers.extend(value.map(|value| (*name, value)));
    }
    headers
}

#[test]
fn headers_that_disagree_with_the_body_are_refused() {
    let ground = Ground::new("header-body-mismatch");
    let client = ground.client("alice");
    let body = call_text("echo", r#"{"message":"hi"}"#);
    let good = client.post(&headers(&[]), body.as_bytes());
    assert_eq!((good.status(), ground.calls()), (200, 1), "{}", good.text());

    let changes: [Change<'_>; 15] = [
        ("Mcp-Method", None),
        ("Mcp-Method", Some("tools/list")),
        ("Mcp-Method", Some("Tools/Call")),
        ("Mcp-Method", Some("")),
        ("Mcp-Method", Some("tools/call, tools/list")),
        ("Mcp-Name", None),
        ("Mcp-Name", Some("erase")),
        ("Mcp-Name", Some("Echo")),
        ("Mcp-Name", Some("echo,erase")),
        ("Mcp-Name", Some("=?base64?ZXJhc2U=?=")),
        ("Mcp-Name", Some("=?base64?ZWNobw?=")),
        ("Mcp-Name", Some("=?base64?!!!!?=")),
        ("Mcp-Name", Some("e\u{301}cho")),
        ("MCP-Protocol-Version", None),
        ("MCP-Protocol-Version", Some("2025-11-25")),
    ];
    for change in changes {
        let answer = ground.refused(&format!("{change:?}"), &["header_mismatch"], || {
            client.post(&headers(&[change]), body.as_bytes())
        });
        assert_eq!((answer.status(), answer.json()["error"]["code"].as_i64()), (400, Some(-32020)), "{change:?}");
    }
    for (name, value) in ECHO_HEADERS {
        let twice = [headers(&[]), vec![(name, value)]].concat();
        ground.refused(&format!("{name} twice"), &["header_mismatch"], || client.post(&twice, body.as_bytes()));
    }
    let record = ground.recorded_refusal("header_mismatch");
    assert_eq!(record["user"]["subject"], "alice");
    ground.good_call();
}

#[test]
fn name_in_base64_is_the_name_and_goes_up_recomputed() {
    let ground = Ground::new("header-base64");
    let client = ground.client("alice");
    let body = call_text("echo", "{}");
    let encoded = headers(&[("Mcp-Name", Some("=?base64?ZWNobw==?="))]);
    assert_eq!(client.post(&encoded, body.as_bytes()).status(), 200);
    let seen = ground.upstream.seen_method("tools/call");
    assert_eq!(seen[0].header("mcp-name"), Some("echo"));
    assert_eq!(seen[0].json()["params"]["name"], "echo");
    ground.good_call();
}

#[test]
fn version_that_is_not_served_is_refused_with_those_that_are() {
    let ground = Ground::new("version");
    let client = ground.client("alice");
    let body = call_text("echo", "{}").replace(MODERN, "2099-01-01");
    let answer = ground.refused("2099", &["version_unsupported"], || {
        client.post(&headers(&[("MCP-Protocol-Version", Some("2099-01-01"))]), body.as_bytes())
    });
    assert_eq!(answer.json()["error"]["data"]["supported"][0], MODERN);

    let without = call_text("echo", "{}").replace(META, "{}");
    ground.refused("no metadata", &["meta_missing"], || client.post(&ECHO_HEADERS, without.as_bytes()));

    let session = client.initialize();
    let legacy = json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": { "name": "echo" } }).to_string();
    let id = session.id().unwrap();
    ground.refused("an old version", &["version_header_unsupported"], || {
        client.post(&[("MCP-Protocol-Version", "2024-11-05"), ("Mcp-Session-Id", id)], legacy.as_bytes())
    });
    ground.good_call();
}
