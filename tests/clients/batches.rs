//! Batches, which 2025-03-26 had and no revision since (RL-10): each message is judged, recorded and sent on by itself.

use serde_json::{Value, json};

use crate::harness::{
    gateway::{ALLOW_ALL, Gateway, Setup},
    http::Answer,
    issuer::Issuer,
    mcp::Client,
    recorder::{Era, Recorder, Reply},
};

const OLDEST: &str = "2025-03-26";

/// A client in a session of this version.
struct Speaker {
    client: Client,
    session: String,
}

impl Speaker {
    fn begin(client: Client, version: &str) -> Self {
        let params =
            json!({ "protocolVersion": version, "capabilities": {}, "clientInfo": { "name": "t", "version": "1" } });
        let body = json!({ "jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params });
        let answer = client.post(&[], body.to_string().as_bytes());
        assert_eq!(answer.json()["result"]["protocolVersion"], version);
        Self { session: answer.header("mcp-session-id").unwrap().to_owned(), client }
    }

    fn say(&self, body: &Value) -> Answer {
        self.client.post(&[("Mcp-Session-Id", &self.session)], body.to_string().as_bytes())
    }
}

fn gateway(name: &str, issuer: &Issuer, upstream: &Recorder) -> Gateway {
    let forbid = "@id(\"no-erasing\")\nforbid (principal, action == Action::\"up/erase\", resource)\n\
                  when { context.input has id && context.input.id == \"root\" };\n";
    let setup = Setup::new(name).issuer(&issuer.url()).policy("rules.cedar", &format!("{ALLOW_ALL}{forbid}"));
    setup.open_upstream("up", &upstream.url()).start()
}

fn speaker(gateway: &Gateway, issuer: &Issuer) -> Speaker {
    Speaker::begin(gateway.client_of(Some("up"), issuer, "alice").awaiting("echo"), OLDEST)
}

fn request(id: u64, method: &str, params: &Value) -> Value {
    json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params })
}

fn call(id: u64, tool: &str, arguments: &Value) -> Value {
    request(id, "tools/call", &json!({ "name": tool, "arguments": arguments }))
}

fn note() -> Value {
    json!({ "jsonrpc": "2.0", "method": "notifications/initialized" })
}

#[test]
fn each_message_of_a_batch_is_judged_recorded_and_sent_by_itself() {
    let issuer = Issuer::good();
    let recorder = Recorder::good(Era::Modern);
    let gateway = gateway("batch", &issuer, &recorder);
    let answer = speaker(&gateway, &issuer).say(&json!([
        note(),
        request(1, "ping", &json!({})),
        call(2, "echo", &json!({ "message": "hi" })),
        call(3, "erase", &json!({ "id": "root" })),
        call(4, "erase", &json!({ "id": "7" })),
        call(5, "nowhere", &json!({})),
        request(6, "no/such", &json!({})),
        { "jsonrpc": "1.0", "id": 7, "method": "ping" },
        { "jsonrpc": "2.0", "id": 8, "result": {} },
        request(9, "tools/list", &json!({})),
    ]));
    assert_eq!((answer.status(), answer.header("content-type")), (200, Some("application/json")));
    let answers = answer.json();
    let said: Vec<(u64, String)> = answers
        .as_array()
        .unwrap()
        .iter()
        .map(|answer| {
            let word = answer["error"]["data"]["code"].as_str().or(answer["result"]["content"][0]["text"].as_str());
            (answer["id"].as_u64().unwrap(), word.unwrap_or("result").to_owned())
        })
        .collect();
    let expected = [
        (1, "result"),
        (2, "echo {\"message\":\"hi\"}"),
        (3, "denied"),
        (4, "erase {\"id\":\"7\"}"),
        (5, "tool_unknown"),
        (6, "method_unknown"),
        (7, "not_a_request"),
        (9, "result"),
    ];
    assert_eq!(said, expected.map(|(id, word)| (id, word.to_owned())));
    let tools = answers[7]["result"]["tools"].as_array().unwrap();
    assert!(tools.len() == 3 && tools.iter().all(|tool| tool["title"].is_null()), "as 2025-03-26 has them");

    let sent: Vec<Value> =
        recorder.seen_method("tools/call").iter().map(|seen| seen.json()["params"].clone()).collect();
    assert_eq!(sent.len(), 2, "the others were refused here: {sent:?}");
    let ids = |event| {
        let mut ids: Vec<String> = gateway
            .recorded(event, 2)
            .iter()
            .filter_map(|record| Some(record["request"]["id"].as_str()?.to_owned()))
            .collect();
        ids.sort();
        ids
    };
    assert_eq!(ids("intent"), ["2", "4"]);
    assert_eq!(gateway.recorded("refusal", 4).len(), 4);
}

#[test]
fn a_batch_without_requests_is_accepted() {
    let issuer = Issuer::good();
    let recorder = Recorder::good(Era::Modern);
    let gateway = gateway("batch-notes", &issuer, &recorder);
    let answer = speaker(&gateway, &issuer).say(&json!([note(), { "jsonrpc": "2.0", "id": 1, "result": {} }]));
    assert_eq!((answer.status(), answer.body.len()), (202, 0));
}

#[test]
fn what_is_wrong_with_a_batch_lets_nothing_of_it_run() {
    let issuer = Issuer::good();
    let recorder = Recorder::good(Era::Modern);
    let gateway = gateway("batch-wrong", &issuer, &recorder);
    let alice = speaker(&gateway, &issuer);
    let good = call(1, "echo", &json!({}));
    let initialize = request(2, "initialize", &json!({}));
    let many: Vec<Value> = (0..21).map(|id| call(id, "echo", &json!({}))).collect();
    let refused = |answer: Answer| {
        let error = answer.json()["error"].clone();
        (answer.status(), error["code"].as_i64(), error["data"]["code"].as_str().map(str::to_owned))
    };
    let expected = (400, Some(-32600), Some("not_a_request".to_owned()));
    for batch in [
        json!([]),
        json!([good, good]),
        json!([good, [good]]),
        json!([good, 1]),
        json!([good, initialize]),
        json!(many),
    ] {
        assert_eq!(refused(alice.say(&batch)), expected, "{batch}");
    }
    // Any sign of another revision, and it is none.
    let batch = json!([good]).to_string();
    for headers in [("MCP-Protocol-Version", "2025-06-18"), ("Mcp-Method", "tools/call"), ("Mcp-Name", "echo")] {
        let answer = alice.client.post(&[("Mcp-Session-Id", &alice.session), headers], batch.as_bytes());
        assert_eq!(refused(answer), expected, "{headers:?}");
    }
    for version in ["2025-06-18", "2025-11-25"] {
        let later = Speaker::begin(alice.client.clone(), version);
        assert_eq!(refused(later.say(&json!([good]))), expected, "{version}");
    }
    // A stranger's session is none.
    let bob = gateway.client_of(Some("up"), &issuer, "bob");
    let strange = bob.post(&[("Mcp-Session-Id", &alice.session)], batch.as_bytes());
    assert_eq!(refused(strange), (404, Some(40402), Some("session_unknown".to_owned())));
    assert!(recorder.seen_method("tools/call").is_empty());
    assert_eq!(alice.say(&json!([good])).json()[0]["result"]["content"][0]["text"], "echo {}");
}

#[test]
fn a_batch_is_answered_as_one_array_even_where_an_upstream_streams() {
    let issuer = Issuer::good();
    let recorder = Recorder::scripted(Era::Modern, |seen| {
        (seen.rpc_method() == "tools/call").then(|| {
            let token = &seen.json()["params"]["_meta"]["progressToken"];
            let progress = json!({ "progressToken": token, "progress": 1 });
            let result = json!({ "resultType": "complete", "content": [{ "type": "text", "text": "done" }] });
            Reply::events(&[
                json!({ "jsonrpc": "2.0", "method": "notifications/progress", "params": progress }),
                json!({ "jsonrpc": "2.0", "id": seen.json()["id"], "result": result }),
            ])
        })
    });
    let gateway = gateway("batch-stream", &issuer, &recorder);
    let mut asked = call(1, "echo", &json!({}));
    asked["params"]["_meta"] = json!({ "progressToken": "p" });
    let answer = speaker(&gateway, &issuer).say(&json!([asked, call(2, "echo", &json!({}))]));
    assert_eq!(answer.header("content-type"), Some("application/json"));
    let texts: Vec<Value> =
        answer.json().as_array().unwrap().iter().map(|one| one["result"]["content"][0]["text"].clone()).collect();
    assert_eq!(texts, ["done", "done"]);
}

/// The other side of the same rule: such an upstream may answer in batches, and one of a later revision may not.
#[test]
fn an_upstreams_batch_is_its_messages_in_the_revision_that_has_them() {
    for (version, taken) in [(OLDEST, true), ("2025-06-18", false)] {
        let issuer = Issuer::good();
        let recorder = Recorder::scripted(Era::Legacy, move |seen| match seen.rpc_method().as_str() {
            "initialize" => {
                let server = json!({ "name": "old", "version": "1" });
                let result =
                    json!({ "protocolVersion": version, "capabilities": { "tools": {} }, "serverInfo": server });
                Some(Reply::result(seen, &result).header("mcp-session-id", "session-of-the-recorder"))
            }
            "tools/call" => {
                let result = json!({ "content": [{ "type": "text", "text": "done" }] });
                let progress = json!({ "progressToken": "none", "progress": 1 });
                Some(Reply::json(
                    200,
                    &json!([
                        { "jsonrpc": "2.0", "method": "notifications/progress", "params": progress },
                        { "jsonrpc": "2.0", "id": seen.json()["id"], "result": result },
                    ]),
                ))
            }
            _ => None,
        });
        let gateway = gateway(&format!("batch-up-{version}"), &issuer, &recorder);
        let answer = gateway.client_of(Some("up"), &issuer, "alice").awaiting("echo").call("echo", &json!({}));
        if taken {
            assert_eq!(answer.json()["result"]["content"][0]["text"], "done", "{version}: {}", answer.text());
        } else {
            assert_eq!(answer.json()["error"]["data"]["code"], "upstream_invalid", "{version}: {}", answer.text());
        }
    }
}
