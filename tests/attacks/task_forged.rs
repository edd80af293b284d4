//! A task's id that was forged, changed, stolen, outlived or taken elsewhere; the id that the upstream gave it; and a tool
//! that was taken away from whoever began the task (RS-37, I7).

use std::fs;

use serde_json::{Value, json};

use super::{Ground, SOON, chain_verifies, code};
use crate::{
    harness::{place, recorder::Recorder},
    request::{
        input::{call, capabilities},
        tasks::{ask, begun, knowing, lasting},
    },
};

const METHODS: [&str; 3] = ["tasks/get", "tasks/update", "tasks/cancel"];

#[test]
fn a_task_answers_to_its_caller_at_its_endpoint_in_its_time_only() {
    let ground = Ground::before("task-forged", lasting(600_000), |setup, _, up: &Recorder| {
        setup.open_upstream("up", &up.url()).open_upstream("other", &up.url())
    });
    let (alice, bob) = (ground.client("alice"), ground.client("bob"));
    let id = begun(&alice);
    let about = || ground.upstream.seen().iter().filter(|seen| seen.rpc_method().starts_with("tasks/")).count();
    let refused = |what: &str, client: &crate::harness::mcp::Client, id: &str| {
        METHODS.map(|method| {
            ground.refused(what, &["task_unknown"], || {
                ask(client, &knowing(), method, id, json!({ "inputResponses": {} }))
            })
        })
    };
    let [garbage, ..] = refused("garbage", &alice, "AAAA");
    assert_eq!((garbage.status(), garbage.json()["error"]["code"].clone()), (200, json!(-32602)));
    refused("what the upstream calls it", &alice, "raw-1");
    let [stolen, ..] = refused("bob with alice's task", &bob, &id);
    assert_eq!((stolen.status(), &stolen.body), (garbage.status(), &garbage.body), "no oracle");
    for change in [json!({ "client_id": "another-agent" }), json!({ "tenant": "other" })] {
        let mut claims = ground.issuer.claims("alice", &ground.gateway.endpoint(Some("up")));
        for (name, value) in change.as_object().unwrap() {
            claims[name] = value.clone();
        }
        let client = ground.gateway.client(Some("up")).token(&ground.issuer.sign(&claims));
        refused(&change.to_string(), &client, &id);
    }
    for at in [0, 6, id.len() / 2, id.len() - 1] {
        let mut changed = id.clone().into_bytes();
        changed[at] = if changed[at] == b'B' { b'C' } else { b'B' };
        refused("a changed byte", &alice, &String::from_utf8(changed).unwrap());
    }
    let other = ground.gateway.client_of(Some("other"), &ground.issuer, "alice").awaiting("echo");
    refused("another upstream", &other, &id);
    let federated = ground.gateway.client_of(None, &ground.issuer, "alice");
    refused("another endpoint", &federated, &id);
    // What was sealed for another purpose is no task, and a task is no state.
    let state = call(&alice, &capabilities(), json!({ "arguments": {}, "requestState": id }));
    assert_eq!(code(&state), "request_state_invalid");
    assert_eq!(about(), 0, "nothing of it reached the upstream");
    for why in ["did not seal", "another principal", "another endpoint"] {
        let is_it = |record: &Value| record["refused"]["reason"].as_str().is_some_and(|reason| reason.contains(why));
        place::wait_for(&format!("the journal says which: {why}"), SOON, || {
            ground.gateway.journal().iter().any(is_it).then_some(())
        });
    }
    assert_eq!(
        ask(&alice, &knowing(), "tasks/get", &id, json!({})).json()["result"]["status"],
        "working",
        "alice lost hers"
    );
    chain_verifies(&ground.gateway);
}

#[test]
fn a_task_that_nobody_keeps_any_more_is_unknown() {
    let ground =
        Ground::before("task-expired", lasting(8_000), |setup, _, up: &Recorder| setup.open_upstream("up", &up.url()));
    let alice = ground.client("alice");
    let id = begun(&alice);
    assert_eq!(ask(&alice, &knowing(), "tasks/get", &id, json!({})).json()["result"]["status"], "working");
    let found = place::wait_for("the id's end", SOON, || {
        let answer = ask(&alice, &knowing(), "tasks/get", &id, json!({}));
        answer.json()["error"].is_object().then(|| code(&answer))
    });
    assert_eq!(found, "task_unknown");
}

#[test]
fn who_may_no_longer_use_the_tool_may_not_follow_its_tasks() {
    let ground =
        Ground::before("task-denied", lasting(600_000), |setup, _, up: &Recorder| setup.open_upstream("up", &up.url()));
    let alice = ground.client("alice");
    let id = begun(&alice);
    ground.gateway.rule("denied.cedar", "forbid (principal, action, resource);\n");
    assert_eq!(alice.tools(), Vec::<String>::new());
    for method in METHODS {
        let before = ground.upstream.seen_method(method).len();
        let refused = ask(&alice, &knowing(), method, &id, json!({ "inputResponses": {} }));
        assert_eq!(
            (code(&refused), ground.upstream.seen_method(method).len()),
            ("tool_unknown".to_owned(), before),
            "{method}"
        );
    }
    assert_eq!(ground.recorded_refusal("tool_unknown")["target"]["name"], "echo");
    fs::remove_file(ground.gateway.setup().folder().join("policies/denied.cedar")).unwrap();
    place::wait_for("the old policy", SOON, || {
        ask(&alice, &knowing(), "tasks/get", &id, json!({})).json()["result"].is_object().then_some(())
    });
    chain_verifies(&ground.gateway);
}
