//! API keys that are cut off, made up, revoked, hidden in the wrong place or on their way up.

use aws_lc_rs::digest;
use serde_json::json;

use super::{ECHO_HEADERS, Ground, call_text};
use crate::harness::{
    mcp::{Client, MODERN},
    recorder::{Era, Recorder},
};

fn ground(name: &str) -> Ground {
    Ground::before(name, Recorder::good(Era::Modern), |setup, _, up| setup.api_keys().open_upstream("up", &up.url()))
}

/// Text that has the form of a key and its checksum.
fn written(id: &str, secret: &str) -> String {
    const LETTERS: &[u8] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    let text = format!("tgk_{id}_{secret}");
    let sum = digest::digest(&digest::SHA256, text.as_bytes());
    let sum: String = sum.as_ref()[..6].iter().map(|byte| char::from(LETTERS[usize::from(byte % 62)])).collect();
    format!("{text}_{sum}")
}

#[test]
fn a_key_that_is_not_exactly_one_is_none() {
    let ground = ground("keys-forged");
    let key = ground.gateway.key("--user alice");
    let parts: Vec<&str> = key.split('_').collect();
    assert_eq!(key, written(parts[1], parts[2]), "the test knows how a key is written");
    let other = ground.gateway.key("--agent reports");
    let others: Vec<&str> = other.split('_').collect();
    let show = |text: &str| ground.gateway.client(Some("up")).token(text).call("echo", &json!({}));
    assert_eq!(show(&key).status(), 200);
    let mut last = key.clone().into_bytes();
    let end = last.len() - 1;
    last[end] = if last[end] == b'0' { b'1' } else { b'0' };
    for (what, text) in [
        ("cut off", key[..key.len() - 1].to_owned()),
        ("without a checksum", format!("tgk_{}_{}", parts[1], parts[2])),
        ("a typo", String::from_utf8(last).unwrap()),
        ("upper case", key.to_ascii_uppercase()),
        ("made up", written("0123456789ab", &"x".repeat(43))),
        ("one's id with another's secret", written(parts[1], others[2])),
        ("the id of what is no key", written("pepper", parts[2])),
        ("more of it", format!("{key}_x")),
        ("nothing", "tgk_".to_owned()),
    ] {
        let answer = ground.refused(what, &["token_invalid"], || show(&text));
        assert_eq!(answer.status(), 401, "{what}");
        assert!(answer.header("www-authenticate").unwrap().contains("resource_metadata="), "{what}");
    }
    ground.recorded_refusal("token_invalid");
    assert_eq!(show(&key).status(), 200);
    ground.good_call();
}

#[test]
fn a_key_counts_in_one_header_and_nowhere_else() {
    let ground = ground("keys-elsewhere");
    let key = ground.gateway.key("--user alice");
    let body = call_text("echo", "{}");
    for query in ["access_token", "ACCESS_TOKEN"] {
        let url = format!("{}?{query}={key}", ground.gateway.endpoint(Some("up")));
        let answer =
            ground.refused(query, &["token_in_query"], || Client::new(&url).post(&ECHO_HEADERS, body.as_bytes()));
        assert_eq!(answer.status(), 400);
    }
    for (name, value) in [("X-Api-Key", key.clone()), ("Cookie", format!("key={key}")), ("Api-Key", key.clone())] {
        let headers = [&ECHO_HEADERS[..], &[(name, value.as_str())]].concat();
        let client = ground.gateway.client(Some("up"));
        ground.refused(name, &["token_missing"], || client.post(&headers, body.as_bytes()));
    }
    let basic = format!("Basic {key}");
    let basic = [&ECHO_HEADERS[..], &[("Authorization", basic.as_str())]].concat();
    let client = ground.gateway.client(Some("up"));
    ground.refused("Basic", &["authorization_malformed"], || client.post(&basic, body.as_bytes()));
    assert!(!ground.upstream.saw_text(&key));
    ground.good_call();
}

#[test]
fn a_key_on_its_way_up_is_stopped() {
    let ground = ground("keys-tripwire");
    let key = ground.gateway.key("--user alice");
    let client = ground.gateway.client(Some("up")).token(&key);
    assert_eq!(client.call("echo", &json!({ "message": "hi" })).status(), 200);
    let secret = key.split('_').nth(2).unwrap();
    for arguments in [json!({ "message": key }), json!({ "a": [{ "b": format!("x{key}x") }] })] {
        ground.refused(&arguments.to_string(), &["credential_leak"], || client.call("echo", &arguments));
    }
    let headers = [
        ("MCP-Protocol-Version", MODERN),
        ("Mcp-Method", "tools/call"),
        ("Mcp-Name", "echo"),
        ("Mcp-Param-Note", &key),
    ];
    ground.refused("a header that goes up", &["credential_leak"], || {
        client.post(&headers, call_text("echo", "{}").as_bytes())
    });
    assert!(!ground.upstream.saw_text(secret));
    ground.good_call();
}

#[test]
fn where_keys_are_not_accepted_none_is() {
    let ground = ground("keys-off");
    let key = ground.gateway.key("--user alice");
    let client = ground.gateway.client(Some("up")).token(&key).awaiting("echo");
    assert_eq!(client.call("echo", &json!({})).status(), 200);
    ground.gateway.reconfigure(|text| text.replace("enabled = true", "enabled = false"));
    let answer = ground.refused("where none is taken", &["token_invalid"], || client.call("echo", &json!({})));
    assert_eq!(answer.status(), 401);
    ground.good_call();
}
