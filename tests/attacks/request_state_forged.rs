//! A `requestState` that was forged, changed, stolen or used for another request (RS-31, I7).

use serde_json::{Value, json};

use super::{Ground, chain_verifies};
use crate::{
    harness::recorder::Recorder,
    request::input::{asking, call, capabilities, text},
};

#[test]
fn a_state_is_good_for_its_caller_and_its_request_only() {
    let ground = Ground::before("state-forged", asking(), |setup, _, up: &Recorder| {
        setup.open_upstream("up", &up.url()).open_upstream("other", &up.url())
    });
    let (alice, bob) = (ground.client("alice"), ground.client("bob"));
    let all = capabilities();
    let asked = call(&alice, &all, json!({ "arguments": { "a": 1 } })).json();
    let state = asked["result"]["requestState"].as_str().unwrap_or_else(|| panic!("{asked}")).to_owned();
    let who = json!({ "who": { "action": "accept", "content": { "name": "Ada" } } });
    let retry =
        |state: &str, arguments: Value| json!({ "arguments": arguments, "inputResponses": who, "requestState": state });

    let garbage =
        ground.refused("garbage", &["request_state_invalid"], || call(&alice, &all, retry("AAAA", json!({ "a": 1 }))));
    let stolen = ground.refused("bob with alice's state", &["request_state_invalid"], || {
        call(&bob, &all, retry(&state, json!({ "a": 1 })))
    });
    assert_eq!((stolen.status(), &stolen.body), (garbage.status(), &garbage.body), "no oracle");
    assert_eq!(stolen.json()["error"]["code"], -32602);
    // The same person by another agent, and from another tenant.
    for change in [json!({ "client_id": "another-agent" }), json!({ "tenant": "other" })] {
        let mut claims = ground.issuer.claims("alice", &ground.gateway.endpoint(Some("up")));
        for (name, value) in change.as_object().unwrap() {
            claims[name] = value.clone();
        }
        let client = ground.gateway.client(Some("up")).token(&ground.issuer.sign(&claims));
        ground.refused(&change.to_string(), &["request_state_invalid"], || {
            call(&client, &all, retry(&state, json!({ "a": 1 })))
        });
    }
    let (middle, last) = (state.len() / 2, state.len() - 1);
    for at in [0, 6, middle, last] {
        let mut changed = state.clone().into_bytes();
        changed[at] = if changed[at] == b'B' { b'C' } else { b'B' };
        let changed = String::from_utf8(changed).unwrap();
        ground.refused("a changed byte", &["request_state_invalid"], || {
            call(&alice, &all, retry(&changed, json!({ "a": 1 })))
        });
    }
    for arguments in [json!({ "a": 2 }), json!({}), json!({ "a": 1, "b": 1 })] {
        ground.refused("other arguments", &["request_state_mismatch"], || call(&alice, &all, retry(&state, arguments)));
    }
    let mut renamed = retry(&state, json!({ "a": 1 }));
    renamed["name"] = json!("erase");
    ground.refused("another tool", &["request_state_mismatch"], || call(&alice, &all, renamed));
    let other = ground.gateway.client_of(Some("other"), &ground.issuer, "alice").awaiting("echo");
    ground.refused("another upstream", &["request_state_mismatch"], || {
        call(&other, &all, retry(&state, json!({ "a": 1 })))
    });
    let unasked = call(&alice, &all, json!({ "inputResponses": who })).json();
    assert_eq!(unasked["result"]["resultType"], "input_required", "the upstream minds which question is answered");
    let last = ground.upstream.seen_method("tools/call").pop().unwrap();
    assert!(last.json()["params"]["inputResponses"].is_null(), "and go nowhere");
    let wrong =
        json!({ "arguments": { "a": 1 }, "inputResponses": { "who": { "action": "maybe" } }, "requestState": state });
    ground.refused("no answer to a form", &["params_invalid"], || call(&alice, &all, wrong));
    let session = alice.initialize_with(&all);
    ground.refused("a legacy client", &["request_state_invalid"], || {
        let mut params = retry(&state, json!({ "a": 1 }));
        params["name"] = json!("echo");
        session.request("tools/call", &params)
    });
    for code in ["request_state_invalid", "request_state_mismatch"] {
        assert_eq!(ground.recorded_refusal(code)["user"]["subject"], "alice");
    }
    let done = call(&alice, &all, retry(&state, json!({ "a": 1 }))).json();
    assert_eq!(text(&done), "hello Ada", "alice lost her call");
    chain_verifies(&ground.gateway);
}
