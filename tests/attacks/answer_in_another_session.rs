//! Somebody else answers what a legacy client was asked (RL-05, I7).

use serde_json::json;

use super::Ground;
use crate::{
    harness::recorder::Recorder,
    request::input::{capabilities, form, holding, request, text},
};

#[test]
fn an_answer_counts_in_the_session_that_was_asked_and_once() {
    let upstream = holding(vec![request(json!(7), "elicitation/create", form())]);
    let ground =
        Ground::before("answer-stranger", upstream, |setup, _, up: &Recorder| setup.open_upstream("up", &up.url()));
    let all = capabilities();
    let alice = ground.client("alice").initialize_with(&all);
    let strangers = [ground.client("bob").initialize_with(&all), ground.client("alice").initialize_with(&all)];
    let mut connection = alice.client().connection();
    connection.send(&alice.bytes(&json!("call"), "tools/call", &json!({ "name": "echo" }))).unwrap();
    assert_eq!(connection.head().status, 200);
    let asked = connection.event().unwrap();
    let answer = |action: &str| {
        json!({ "jsonrpc": "2.0", "id": asked["id"], "result": { "action": action } }).to_string().into_bytes()
    };
    for stranger in &strangers {
        let ignored = stranger.client().post(&stranger.headers(), &answer("accept"));
        assert_eq!(ignored.status(), 202, "{}", ignored.text());
    }
    let stolen = strangers[0].client().post(&alice.headers(), &answer("accept"));
    assert_eq!(stolen.status(), 404, "bob in alice's session: {}", stolen.text());
    let invented =
        json!({ "jsonrpc": "2.0", "id": "tollgate-AAAAAAAAAAAAAAAAAAAAAA", "result": { "action": "accept" } });
    assert_eq!(alice.client().post(&alice.headers(), invented.to_string().as_bytes()).status(), 202);
    for action in ["decline", "accept"] {
        assert_eq!(alice.client().post(&alice.headers(), &answer(action)).status(), 202);
    }
    let done = connection.event().unwrap();
    assert!(text(&done).contains(r#""action":"decline""#), "{done}");
    let answers = ground.upstream.seen().iter().filter(|seen| !seen.json()["result"].is_null()).count();
    assert_eq!(answers, 1, "the first answer of the one who was asked");
    assert_eq!(ground.gateway.recorded("input_answered", 1).len(), 1);
}
