//! An upstream that answers one call with another's answer, to see where it goes (CVE-2026-25536, I7).

use serde_json::{Value, json};

use super::{Ground, SOON, call_text};
use crate::harness::{
    mcp::Client,
    place,
    recorder::{Era, Recorder, Reply, Seen},
};

fn answer_with(id: &Value) -> Value {
    json!({ "jsonrpc": "2.0", "id": id, "result": { "resultType": "complete", "content": [{ "type": "text", "text": "stolen" }] } })
}

fn good(seen: &Seen) -> Value {
    let text = format!("echo {}", seen.json()["params"]["arguments"]);
    json!({ "jsonrpc": "2.0", "id": seen.json()["id"], "result": { "resultType": "complete", "content": [{ "type": "text", "text": text }] } })
}

fn script(seen: &Seen) -> Option<Reply> {
    let call = seen.json();
    let arguments = &call["params"]["arguments"];
    let own = call["id"].as_u64()?;
    let id = match arguments["id"].as_str()? {
        "previous" => json!(own - 1),
        "next" => json!(own + 1),
        "text" => json!(own.to_string()),
        "float" => json!(own as f64 + 0.5),
        "null" => json!(null),
        "list" => json!([own]),
        "huge" => json!(u64::MAX),
        "the client's" => json!("id-of-the-client"),
        "own" => {
            return Some(Reply::events(&[
                answer_with(&json!(own + 1)),
                answer_with(&json!(own.to_string())),
                good(seen),
            ]));
        }
        _ => return None,
    };
    Some(match arguments["form"].as_str()? {
        "json" => Reply::json(200, &answer_with(&id)),
        _ => Reply::events(&[answer_with(&id)]),
    })
}

fn call(client: &Client, arguments: &Value) -> crate::harness::http::Answer {
    let params = json!({ "name": "echo", "arguments": arguments });
    client.connection().exchange(&client.modern_bytes(&json!("id-of-the-client"), "tools/call", &params))
}

#[test]
fn answer_to_another_request_reaches_nobody() {
    let ground = Ground::before("another-id", Recorder::scripted(Era::Modern, script), |setup, _, up| {
        setup.open_upstream("up", &up.url())
    });
    let client = ground.client("alice");
    let mut sent = 0;
    for form in ["json", "events"] {
        for id in ["previous", "next", "text", "float", "null", "list", "huge", "the client's"] {
            let answer = call(&client, &json!({ "id": id, "form": form }));
            sent += 1;
            let found = super::code(&answer);
            let what = format!("{id} as {form}: {}", answer.text());
            assert!(["upstream_invalid", "upstream_lost"].contains(&found.as_str()), "{what}");
            assert!(!answer.text().contains("stolen"), "{what}");
            assert_eq!(answer.json()["id"], "id-of-the-client", "{what}");
            // It may have been executed, so it was not sent again (I6).
            assert_eq!(ground.calls(), sent, "{what}");
        }
    }
    let answer = call(&client, &json!({ "id": "own" }));
    assert_eq!((answer.status(), answer.messages().len().max(1)), (200, 1), "{}", answer.text());
    assert!(!answer.text().contains("stolen"));
    assert_eq!(answer.json()["id"], "id-of-the-client");
    place::wait_for("the outcome", SOON, || {
        ground.gateway.journal().into_iter().find(|record| record["result"]["code"] == "upstream_invalid")
    });
    ground.good_call();
}

#[test]
fn every_client_gets_its_own_answer_under_its_own_id() {
    let ground = Ground::new("own-ids");
    let ids =
        [json!(1), json!(0), json!(-7), json!(9_007_199_254_740_993_i64), json!(""), json!("é\u{1F600}"), json!("1")];
    std::thread::scope(|scope| {
        for worker in 0..4 {
            let (ground, ids) = (&ground, &ids);
            scope.spawn(move || {
                let client = ground.client(&format!("user-{worker}"));
                for (turn, id) in ids.iter().enumerate() {
                    let arguments = json!({ "message": format!("{worker} {turn}") });
                    let params = json!({ "name": "echo", "arguments": arguments });
                    let answer = client.connection().exchange(&client.modern_bytes(id, "tools/call", &params)).json();
                    assert_eq!(answer["id"], *id);
                    assert_eq!(answer["result"]["content"][0]["text"], format!("echo {arguments}"));
                }
            });
        }
    });
    // No id of a client is known upstream.
    let mut upstream_ids: Vec<_> =
        ground.upstream.seen_method("tools/call").iter().map(|seen| seen.json()["id"].to_string()).collect();
    upstream_ids.sort();
    upstream_ids.dedup();
    assert_eq!(upstream_ids.len(), 4 * ids.len());
    for id in [r#"{"a":1}"#, "[1]", "true", "1.5", "1e3"] {
        let body = call_text("echo", "{}").replace(r#""id":1"#, &format!(r#""id":{id}"#));
        ground.refused(id, &["not_a_request"], || ground.client("alice").post(&super::ECHO_HEADERS, body.as_bytes()));
    }
    ground.good_call();
}
