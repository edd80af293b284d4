//! A session id in the wrong hands: it is a handle, never a proof (RR-09, I7).

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicUsize, Ordering},
};

use serde_json::json;

use super::{Ground, code};
use crate::harness::{
    http::Answer,
    issuer::claims_of,
    mcp::{Client, LEGACY},
    recorder::{Era, Recorder, Reply},
};

fn call_in(client: &Client, session: &str) -> Answer {
    let body =
        json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": { "name": "echo", "arguments": {} } });
    client.post(&[("MCP-Protocol-Version", LEGACY), ("Mcp-Session-Id", session)], body.to_string().as_bytes())
}

#[test]
fn session_of_another_caller_is_as_unknown_as_none() {
    let ground = Ground::new("stranger-session");
    let alice = ground.client("alice").initialize();
    let id = alice.id().unwrap().to_owned();
    assert_eq!(alice.call("echo", &json!({})).status(), 200);

    let bob = ground.client("bob");
    let stolen = ground.refused("bob in alice's session", &["session_unknown"], || call_in(&bob, &id));
    let invented = ground.refused("bob in no session", &["session_unknown"], || call_in(&bob, "invented"));
    assert_eq!((stolen.status(), &stolen.body), (404, &invented.body));
    // The same person by another agent, from another tenant, on another endpoint.
    let variants = [json!({ "client_id": "another-agent" }), json!({ "tenant": "other" })];
    for change in variants {
        let mut claims = ground.issuer.claims("alice", &ground.gateway.endpoint(Some("up")));
        for (name, value) in change.as_object().unwrap() {
            claims[name] = value.clone();
        }
        let client = ground.gateway.client(Some("up")).token(&ground.issuer.sign(&claims));
        ground.refused(&change.to_string(), &["session_unknown"], || call_in(&client, &id));
    }
    let elsewhere = ground.gateway.client_of(None, &ground.issuer, "alice");
    ground.refused("another endpoint", &["session_unknown"], || call_in(&elsewhere, &id));
    for guess in ["", "0", "../", "session-of-the-recorder", &id.to_lowercase(), &id[1..], &format!("{id}{id}")] {
        ground.refused(guess, &["session_unknown", "session_missing"], || call_in(&bob, guess));
    }
    // Nor can bob end it, or cancel in it.
    let headers = [("MCP-Protocol-Version", LEGACY), ("Mcp-Session-Id", id.as_str())];
    let ended = bob.connection().exchange(&bob.bytes("DELETE", &headers, b""));
    assert_eq!((ended.status(), code(&ended).as_str()), (404, "session_unknown"));
    let anonymous = ground.gateway.client(Some("up"));
    assert_eq!(call_in(&anonymous, &id).status(), 401);
    assert_eq!(alice.call("echo", &json!({})).status(), 200, "alice lost her session to bob");
    assert_eq!(ground.recorded_refusal("session_unknown")["authentication"]["method"], "jwt");
    assert_eq!(alice.delete().status(), 204);
    ground.refused("after its end", &["session_unknown"], || alice.call("echo", &json!({})));
    ground.good_call();
}

/// Behind the gateway too: neither a credential nor a session of one caller serves another.
#[test]
fn upstream_sees_each_caller_under_a_credential_and_a_session_of_their_own() {
    let sessions = AtomicUsize::new(0);
    let upstream = Recorder::scripted(Era::Legacy, move |seen| {
        let call = seen.json();
        let answer = match call["method"].as_str()? {
            "initialize" => {
                let id = format!("session-{}", sessions.fetch_add(1, Ordering::SeqCst));
                let result = json!({ "protocolVersion": LEGACY, "capabilities": { "tools": {} }, "serverInfo": { "name": "up", "version": "1" } });
                Reply::result(seen, &result).header("mcp-session-id", &id)
            }
            "tools/list" => Reply::result(seen, &json!({ "tools": crate::harness::recorder::tools() })),
            "tools/call" => Reply::result(
                seen,
                &json!({ "content": [{ "type": "text", "text": "echo {\"message\":\"still here\"}" }] }),
            ),
            _ => return None,
        };
        Some(answer)
    });
    let ground = Ground::before("stranger-upstream", upstream, |setup, issuer, up| {
        setup.exchanged_upstream("up", &up.url(), &issuer.url(), "")
    });
    for user in ["alice", "bob", "alice", "carol", "bob"] {
        assert_eq!(ground.client(user).call("echo", &json!({ "user": user })).status(), 200);
    }
    let calls = ground.upstream.seen_method("tools/call");
    assert_eq!(calls.len(), 5);
    let mut session_of: BTreeMap<String, String> = BTreeMap::new();
    for call in &calls {
        let user = call.json()["params"]["arguments"]["user"].as_str().unwrap().to_owned();
        let token = call.header("authorization").unwrap().strip_prefix("Bearer ").unwrap();
        assert_eq!(claims_of(token)["sub"], json!(user), "one caller's call under another's credential");
        let session = call.header("mcp-session-id").unwrap().to_owned();
        for (other, theirs) in &session_of {
            assert!(*other == user || *theirs != session, "{user} in the session of {other}");
        }
        session_of.insert(user, session);
    }
    ground.good_call();
}
