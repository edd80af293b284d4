//! One caller lets call after call be held, and never answers (I9).

use serde_json::json;

use super::{Ground, code};
use crate::{
    harness::recorder::Recorder,
    request::input::{call, capabilities, form, holding, request},
};

#[test]
fn one_callers_held_calls_are_bounded_and_leave_room_for_others() {
    let upstream = holding(vec![request(json!(7), "elicitation/create", form())]);
    let ground = Ground::before("hold-flood", upstream, |setup, _, up: &Recorder| {
        setup.section("[limits]\nholds_max = 4").open_upstream("up", &up.url())
    });
    let (alice, bob) = (ground.client("alice"), ground.client("bob"));
    let held = call(&alice, &capabilities(), json!({}));
    assert_eq!(held.json()["result"]["resultType"], "input_required", "{}", held.text());
    for _ in 0..8 {
        let refused = call(&alice, &capabilities(), json!({}));
        assert_eq!((refused.status(), code(&refused).as_str()), (503, "overloaded"), "{}", refused.text());
    }
    assert_eq!(ground.gateway.metric("tollgate_holds"), Some(1.0));
    // What cannot be held is not made: afterwards it could only be given up, and nobody would know what it did.
    assert_eq!(ground.calls(), 1);
    let endings = ground.gateway.recorded("outcome", 9);
    assert_eq!(endings.iter().filter(|end| end["result"]["ending"] == "not_forwarded").count(), 8);
    let others = call(&bob, &capabilities(), json!({})).json();
    assert_eq!(others["result"]["resultType"], "input_required", "bob had to pay for alice: {others}");
    let answers = |asked: &serde_json::Value| {
        let (key, _) = asked["result"]["inputRequests"].as_object().unwrap().iter().next().unwrap();
        json!({ "inputResponses": { key.as_str(): { "action": "decline" } }, "requestState": asked["result"]["requestState"] })
    };
    let done = call(&bob, &capabilities(), answers(&others)).json();
    assert_eq!(done["result"]["resultType"], "complete", "{done}");
    // Who can be asked nothing is not held.
    let unasked = call(&alice, &json!({}), json!({})).json();
    assert_eq!(unasked["result"]["resultType"], "complete", "{unasked}");
}
