//! An upstream that asks what it may not: other methods, undeclared modes, in the wrong era, of whoever is there (RS-30).

use serde_json::{Value, json};

use super::{Ground, code};
use crate::{
    harness::recorder::{Era, Recorder, Reply},
    request::input::{call, form, holding, request, text},
};

#[test]
fn nothing_undeclared_reaches_a_client() {
    let page = json!({ "mode": "url", "elicitationId": "e", "url": "https://up.example/", "message": "m" });
    let script = json!({ "mode": "url", "elicitationId": "e", "url": "javascript:alert(1)", "message": "m" });
    let tools = json!({ "messages": [], "maxTokens": 1, "tools": [] });
    let upstream = holding(vec![
        request(json!(1), "elicitation/create", page),
        request(json!(2), "elicitation/create", script),
        request(json!(3), "sampling/createMessage", tools),
        request(json!(4), "roots/list", json!({})),
        request(json!(5), "tools/call", json!({ "name": "erase" })),
        request(json!(6), "tasks/list", json!({})),
    ]);
    let ground =
        Ground::before("asks-undeclared", upstream, |setup, _, up: &Recorder| setup.open_upstream("up", &up.url()));
    let declared = json!({ "elicitation": {}, "sampling": {} });
    let modern = call(&ground.client("alice"), &declared, json!({})).json();
    let legacy = ground.client("alice").initialize_with(&declared).call("echo", &json!({})).json();
    for answer in [modern, legacy] {
        let said: Vec<Value> = text(&answer).split_inclusive("} {").map(Value::from).collect();
        assert!(!said.is_empty());
        for (id, code) in [(1, -32601), (2, -32602), (3, -32601), (4, -32601), (5, -32601), (6, -32601)] {
            let told = format!("\"error\":{{\"code\":{code},");
            let all = text(&answer);
            let own = all.split("} {").find(|one| one.contains(&format!("\"id\":{id},"))).unwrap();
            assert!(own.contains(&told), "{id}: {own}");
        }
    }
    assert!(!ground.gateway.journal().iter().any(|record| record["event"] == "input_requested"));
}

#[test]
fn a_modern_upstream_asks_in_its_answer_or_not_at_all() {
    let upstream = Recorder::scripted(Era::Modern, |seen| {
        let params = seen.json()["params"].clone();
        match params["arguments"]["how"].as_str()? {
            "stream" => {
                let result = json!({ "resultType": "complete", "content": [{ "type": "text", "text": "done" }] });
                let answer = json!({ "jsonrpc": "2.0", "id": seen.json()["id"], "result": result });
                Some(Reply::events(&[request(json!(7), "elicitation/create", form()), answer]))
            }
            method => {
                let requests = json!({ "a": { "method": method, "params": form() } });
                Some(Reply::result(seen, &json!({ "resultType": "input_required", "inputRequests": requests })))
            }
        }
    });
    let ground =
        Ground::before("asks-wrongly", upstream, |setup, _, up: &Recorder| setup.open_upstream("up", &up.url()));
    let client = ground.client("alice");
    let forms = json!({ "elicitation": {} });
    let how = |capabilities: &Value, how: &str| call(&client, capabilities, json!({ "arguments": { "how": how } }));
    let streamed = how(&forms, "stream");
    assert_eq!(text(&streamed.json()), "done");
    assert!(!streamed.text().contains("elicitation"), "{}", streamed.text());
    assert_eq!(code(&how(&forms, "tools/list")), "upstream_invalid");
    assert_eq!(code(&how(&json!({ "elicitation": { "url": {} } }), "elicitation/create")), "input_undeclared");
    assert_eq!(code(&how(&json!({}), "elicitation/create")), "input_undeclared");
    assert_eq!(how(&forms, "elicitation/create").json()["result"]["resultType"], "input_required");
    ground.good_call();
}
