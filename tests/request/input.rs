//! What if an upstream asks the client something in the middle of a call? Any client era before any server era, to the byte.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL};
use serde_json::{Value, json};

use crate::harness::{
    gateway::{Gateway, Setup},
    http::Answer,
    issuer::Issuer,
    mcp::{Client, Session},
    place,
    recorder::{Era, Recorder, Reply, Seen, Step},
};

/// What the clients of these tests declare.
pub(crate) fn capabilities() -> Value {
    json!({ "elicitation": { "form": {}, "url": {} }, "sampling": {}, "roots": {} })
}

/// A form with one field, as an upstream asks for it.
pub(crate) fn form() -> Value {
    json!({ "mode": "form", "message": "Who?", "requestedSchema": { "type": "object", "properties": { "name": { "type": "string" } } } })
}

/// A modern call with these capabilities, and what more is given in `params`.
pub(crate) fn call(client: &Client, capabilities: &Value, more: Value) -> Answer {
    let mut params = more;
    if params["name"].is_null() {
        params["name"] = json!("echo");
    }
    params["_meta"]["io.modelcontextprotocol/clientCapabilities"] = capabilities.clone();
    client.modern("tools/call", &params)
}

/// A modern upstream that asks for a name until it has one.
pub(crate) fn asking() -> Recorder {
    Recorder::scripted(Era::Modern, |seen| {
        if seen.rpc_method() != "tools/call" {
            return None;
        }
        let params = seen.json()["params"].clone();
        let name = &params["inputResponses"]["who"]["content"]["name"];
        if params["requestState"] == "état \"1\"" && name.is_string() {
            let content = json!([{ "type": "text", "text": format!("hello {}", name.as_str().unwrap()) }]);
            return Some(Reply::result(seen, &json!({ "resultType": "complete", "content": content })));
        }
        let id = seen.json()["id"].clone();
        // The state is spelt as no serializer would.
        let result = format!(
            r#"{{"resultType":"input_required","inputRequests":{{"who":{{"method":"elicitation/create","params":{}}}}},"requestState":"\u00e9tat \u00221\u0022"}}"#,
            form()
        );
        Some(Reply::text(200, "application/json", format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{result}}}"#)))
    })
}

/// A legacy upstream whose call asks `requests` (id, method, params), and answers when each got a response.
pub(crate) fn holding(requests: Vec<Value>) -> Recorder {
    let waiting = std::sync::Arc::new(parking_lot::Mutex::new(Vec::<Value>::new()));
    Recorder::scripted(Era::Legacy, move |seen| {
        let message = seen.json();
        if message["method"].is_null() && !message["id"].is_null() {
            waiting.lock().push(message);
            return Some(Reply::status(202));
        }
        if seen.rpc_method() != "tools/call" {
            return None;
        }
        waiting.lock().clear();
        let (count, waiting, id) = (requests.len(), std::sync::Arc::clone(&waiting), message["id"].clone());
        let reply = requests.iter().fold(Reply::stream(), |reply, request| reply.event(request));
        Some(reply.step(Step::later(move || {
            let answers = waiting.lock();
            (answers.len() >= count).then(|| {
                let mut said: Vec<String> = answers.iter().map(ToString::to_string).collect();
                said.sort();
                let text = said.join(" ");
                let result = json!({ "content": [{ "type": "text", "text": text }] });
                format!("data: {}\n\n", json!({ "jsonrpc": "2.0", "id": id, "result": result })).into()
            })
        })))
    })
}

/// One request of an upstream.
pub(crate) fn request(id: Value, method: &str, params: Value) -> Value {
    json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params })
}

pub(crate) fn start(name: &str, issuer: &Issuer, recorder: &Recorder) -> Gateway {
    let gateway = Setup::usual(name, issuer).open_upstream("up", &recorder.url()).start();
    gateway.client_of(Some("up"), issuer, "alice").awaiting("echo");
    gateway
}

pub(crate) fn text(answer: &Value) -> &str {
    answer["result"]["content"][0]["text"].as_str().unwrap_or_else(|| panic!("no text: {answer}"))
}

fn calls(recorder: &Recorder) -> Vec<Seen> {
    recorder.seen_method("tools/call")
}

/// A legacy client's call, and its answers to what it is asked on the way; gives what it was asked and the result.
pub(crate) fn converse(
    session: &Session,
    params: &Value,
    answer: impl Fn(&Value) -> Option<Value>,
) -> (Vec<Value>, Value) {
    let mut connection = session.client().connection();
    connection.send(&session.bytes(&json!("call"), "tools/call", params)).unwrap();
    assert_eq!(connection.head().status, 200);
    let mut asked = Vec::new();
    loop {
        let message = connection.event().expect("the stream ended without a response");
        if message["id"] == "call" && message["method"].is_null() {
            return (asked, message);
        }
        if let Some(mut response) = answer(&message) {
            response["jsonrpc"] = json!("2.0");
            response["id"] = message["id"].clone();
            let accepted = session.client().post(&session.headers(), response.to_string().as_bytes());
            assert_eq!(accepted.status(), 202, "{}", accepted.text());
        }
        asked.push(message);
    }
}

#[test]
fn what_a_modern_upstream_asks_reaches_a_modern_client_and_its_answers_come_back_to_the_byte() {
    let (issuer, recorder) = (Issuer::good(), asking());
    let gateway = start("input-modern", &issuer, &recorder);
    let client = gateway.client_of(Some("up"), &issuer, "alice");
    let asked = call(&client, &capabilities(), json!({ "arguments": { "a": 1 } })).json();
    let result = &asked["result"];
    assert_eq!(result["resultType"], "input_required");
    assert_eq!(result["inputRequests"], json!({ "who": { "method": "elicitation/create", "params": form() } }));
    let state = result["requestState"].clone();
    // Not as it is, and not in base64, at whatever place it stands there.
    let said = "état \"1\"".as_bytes();
    let forms = (0..3).map(|skipped| BASE64URL.encode(said[skipped..].as_chunks::<3>().0.as_flattened()));
    for form in forms.chain(["tat \"1\"".to_owned()]) {
        assert!(!state.as_str().unwrap().contains(&form), "what the upstream said is not to be read");
    }
    let declared = &calls(&recorder)[0].json()["params"]["_meta"]["io.modelcontextprotocol/clientCapabilities"];
    assert_eq!(*declared, capabilities());

    let who = json!({ "action": "accept", "content": { "name": "Ada" } });
    let responses = json!({ "who": who, "unasked": { "action": "accept" } });
    let retry = json!({ "arguments": { "a": 1 }, "inputResponses": responses, "requestState": state });
    let done = call(&client, &capabilities(), retry).json();
    assert_eq!(text(&done), "hello Ada");
    let sent = &calls(&recorder)[1];
    let body = String::from_utf8(sent.body.to_vec()).unwrap();
    assert!(body.contains(r#""requestState":"\u00e9tat \u00221\u0022""#), "byte for byte: {body}");
    assert_eq!(sent.json()["params"]["inputResponses"], json!({ "who": who }), "nothing that was not asked");
    assert_ne!(sent.json()["id"], calls(&recorder)[0].json()["id"], "a new id");

    let requested = gateway.recorded("input_requested", 1).remove(0);
    let answered = gateway.recorded("input_answered", 1).remove(0);
    let intents = gateway.recorded("intent", 2);
    assert_eq!(requested["id"], intents[0]["id"]);
    assert_eq!(requested["input"]["asks"][0]["mode"], "form");
    assert_eq!((&answered["id"], &intents[1]["continues"]), (&intents[1]["id"], &intents[0]["id"]));
    assert_eq!(answered["input"]["call"], intents[0]["id"]);
    assert_eq!(
        answered["input"]["answers"],
        json!([{ "key": "who", "method": "elicitation/create", "action": "accept" }])
    );
    assert_eq!((&answered["user"]["subject"], answered["agent"]["client_id"].is_string()), (&json!("alice"), true));
    let endings: Vec<Value> =
        gateway.recorded("outcome", 2).iter().map(|end| end["result"]["ending"].clone()).collect();
    assert_eq!(endings, ["input_required", "ok"]);
    assert!(
        !gateway.journal().iter().any(|record| record.to_string().contains("Ada")),
        "answers are nobody's business"
    );
    assert!(gateway.verify().status.success());
}

#[test]
fn a_legacy_client_is_asked_by_requests_and_the_modern_upstream_gets_a_retry() {
    let (issuer, recorder) = (Issuer::good(), asking());
    let gateway = start("input-emulated", &issuer, &recorder);
    let session = gateway.client_of(Some("up"), &issuer, "alice").initialize_with(&capabilities());
    let answer = |_: &Value| Some(json!({ "result": { "action": "accept", "content": { "name": "Ada" } } }));
    let (asked, done) = converse(&session, &json!({ "name": "echo", "arguments": { "a": 1 } }), answer);
    assert_eq!(asked.len(), 1);
    assert_eq!((&asked[0]["method"], &asked[0]["params"]), (&json!("elicitation/create"), &form()));
    assert_eq!(text(&done), "hello Ada");
    assert!(done["result"]["resultType"].is_null());
    let [first, second] = &calls(&recorder)[..] else { panic!("two calls") };
    assert_ne!(first.json()["id"], second.json()["id"]);
    assert_eq!(first.json()["params"]["arguments"], second.json()["params"]["arguments"]);
    assert!(String::from_utf8_lossy(&second.body).contains(r#""requestState":"\u00e9tat \u00221\u0022""#));
    assert_eq!(gateway.recorded("intent", 1).len(), 1, "one record stands for all of it");
    gateway.recorded("input_requested", 1);
    assert_eq!(gateway.recorded("input_answered", 1)[0]["input"]["answers"][0]["action"], "accept");
}

#[test]
fn a_legacy_client_that_cannot_be_asked_is_told_what_it_lacks() {
    let (issuer, recorder) = (Issuer::good(), asking());
    let gateway = start("input-incapable", &issuer, &recorder);
    let session = gateway.client_of(Some("up"), &issuer, "alice").initialize();
    let done = session.call("echo", &json!({})).json();
    assert_eq!(done["result"]["isError"], true, "{done}");
    assert!(text(&done).contains(r#"{"elicitation":{"form":{}}}"#), "{done}");
    assert_eq!(done["result"]["_meta"]["dev.tollgate/error"]["code"], "input_undeclared");
    let modern = gateway.client_of(Some("up"), &issuer, "alice");
    assert_eq!(modern.call("echo", &json!({})).json()["error"]["data"]["code"], "input_undeclared");
}

/// What it says of itself is a modern client's word, and there is no session in which it could be asked.
#[test]
fn a_legacy_client_without_a_session_is_not_asked() {
    for (name, recorder) in
        [("modern", asking()), ("legacy", holding(vec![request(json!(7), "elicitation/create", form())]))]
    {
        let issuer = Issuer::good();
        let gateway = start(&format!("input-sessionless-{name}"), &issuer, &recorder);
        let client = gateway.client_of(Some("up"), &issuer, "alice");
        let meta = json!({ "io.modelcontextprotocol/clientCapabilities": capabilities() });
        let params = json!({ "name": "echo", "arguments": {}, "_meta": meta });
        let body = request(json!(1), "tools/call", params).to_string();
        let done = client.post(&[("MCP-Protocol-Version", "2025-11-25")], body.as_bytes()).json();
        if name == "modern" {
            assert_eq!(done["result"]["_meta"]["dev.tollgate/error"]["code"], "input_undeclared", "{done}");
        } else {
            assert!(text(&done).contains("-32601"), "{done}");
        }
        assert_eq!(calls(&recorder).len(), 1);
    }
}

#[test]
fn what_a_legacy_upstream_asks_reaches_a_legacy_client_under_an_id_of_ours() {
    let issuer = Issuer::good();
    let recorder = holding(vec![
        request(json!(7), "elicitation/create", form()),
        request(json!("s"), "sampling/createMessage", json!({ "messages": [], "maxTokens": 1 })),
        request(json!("r"), "roots/list", json!({})),
        request(json!("p"), "ping", json!({})),
    ]);
    let gateway = start("input-legacy", &issuer, &recorder);
    let session = gateway.client_of(Some("up"), &issuer, "alice").initialize_with(&capabilities());
    let (asked, done) = converse(&session, &json!({ "name": "echo" }), |asked| {
        Some(match asked["method"].as_str().unwrap() {
            "elicitation/create" => json!({ "result": { "action": "decline" } }),
            "sampling/createMessage" => json!({ "error": { "code": -1, "message": "no" } }),
            _ => json!({ "result": { "roots": [] } }),
        })
    });
    assert_eq!(asked.len(), 3);
    assert!(asked.iter().all(|asked| asked["id"].as_str().is_some_and(|id| id.len() > 20)), "{asked:?}");
    assert_eq!(asked[0]["params"], form());
    let said: Vec<Value> = text(&done).split(' ').map(|text| serde_json::from_str(text).unwrap()).collect();
    assert!(said.contains(&json!({ "jsonrpc": "2.0", "id": 7, "result": { "action": "decline" } })), "{said:?}");
    assert!(said.contains(&json!({ "jsonrpc": "2.0", "id": "s", "error": { "code": -1, "message": "no" } })));
    assert!(said.contains(&json!({ "jsonrpc": "2.0", "id": "r", "result": { "roots": [] } })));
    assert!(said.contains(&json!({ "jsonrpc": "2.0", "id": "p", "result": {} })), "a ping is our business");
    let mut actions: Vec<String> = gateway
        .recorded("input_answered", 3)
        .iter()
        .map(|record| record["input"]["answers"][0]["action"].as_str().unwrap().to_owned())
        .collect();
    actions.sort();
    assert_eq!(actions, ["answer", "decline", "error"]);
}

#[test]
fn a_modern_clients_call_is_held_at_a_legacy_upstream_until_it_answers() {
    let issuer = Issuer::good();
    let recorder =
        holding(vec![request(json!(7), "elicitation/create", form()), request(json!("r"), "roots/list", json!({}))]);
    let gateway = start("input-held", &issuer, &recorder);
    let client = gateway.client_of(Some("up"), &issuer, "alice");
    let asked = call(&client, &capabilities(), json!({})).json();
    let requests = asked["result"]["inputRequests"].as_object().unwrap_or_else(|| panic!("{asked}"));
    assert_eq!(requests.len(), 2, "what is asked together is asked at once");
    let key = |method: &str| requests.iter().find(|(_, ask)| ask["method"] == method).unwrap().0.clone();
    let (form_key, roots_key) = (key("elicitation/create"), key("roots/list"));
    assert_eq!(requests[&form_key]["params"], form());
    assert_eq!(gateway.metric("tollgate_holds"), Some(1.0));

    // One answer only: the other is asked for again, under its key.
    let accepted = json!({ "action": "accept", "content": { "name": "Ada" } });
    let state = asked["result"]["requestState"].clone();
    let retry = json!({ "inputResponses": { form_key.as_str(): accepted, "x": 1 }, "requestState": state });
    let again = call(&client, &capabilities(), retry.clone()).json();
    let left: Vec<&String> =
        again["result"]["inputRequests"].as_object().unwrap_or_else(|| panic!("{again}")).keys().collect();
    assert_eq!(left, [&roots_key]);
    assert_eq!(call(&client, &capabilities(), retry).json()["error"]["code"], -32602, "a state is used once");

    let roots = json!({ roots_key.as_str(): { "roots": [{ "uri": "file:///a" }] } });
    let last = json!({ "inputResponses": roots, "requestState": again["result"]["requestState"] });
    let done = call(&client, &capabilities(), last.clone()).json();
    let said: Vec<Value> = text(&done).split(' ').map(|text| serde_json::from_str(text).unwrap()).collect();
    assert!(said.contains(&json!({ "jsonrpc": "2.0", "id": 7, "result": accepted })), "{said:?}");
    assert_eq!(calls(&recorder).len(), 1, "nothing is executed twice");
    assert_eq!(call(&client, &capabilities(), last).json()["error"]["data"]["code"], "request_state_used");
    assert_eq!(gateway.metric("tollgate_holds"), Some(0.0));
    let intents = gateway.recorded("intent", 3);
    assert!(intents[1..].iter().all(|intent| intent["continues"] == intents[0]["id"]), "{intents:?}");
    let endings: Vec<Value> =
        gateway.recorded("outcome", 3).iter().map(|end| end["result"]["ending"].clone()).collect();
    assert_eq!(endings, ["input_required", "input_required", "ok"]);
    let used = |record: &&Value| record["refused"]["code"] == "request_state_used";
    assert_eq!(gateway.recorded("refusal", 2).iter().filter(used).count(), 2);
}

#[test]
fn who_comes_back_with_fewer_capabilities_is_asked_no_more_than_those() {
    let issuer = Issuer::good();
    let recorder =
        holding(vec![request(json!(7), "elicitation/create", form()), request(json!("r"), "roots/list", json!({}))]);
    let gateway = start("input-narrowed", &issuer, &recorder);
    let client = gateway.client_of(Some("up"), &issuer, "alice");
    let asked = call(&client, &capabilities(), json!({})).json();
    let requests = asked["result"]["inputRequests"].as_object().unwrap_or_else(|| panic!("{asked}"));
    let (key, _) = requests.iter().find(|(_, ask)| ask["method"] == "elicitation/create").unwrap();
    let answers = json!({ key.as_str(): { "action": "decline" } });
    let retry = json!({ "inputResponses": answers, "requestState": asked["result"]["requestState"] });
    let done = call(&client, &json!({ "elicitation": {} }), retry).json();
    let said: Vec<Value> = text(&done).split("} {").map(Value::from).collect();
    assert_eq!(said.len(), 2, "{done}");
    assert!(text(&done).contains("-32601"), "{done}");
}

#[test]
fn a_held_call_that_nobody_answers_is_given_up() {
    let issuer = Issuer::good();
    let recorder = holding(vec![
        request(json!(7), "elicitation/create", form()),
        request(json!("s"), "sampling/createMessage", json!({ "messages": [], "maxTokens": 1 })),
        request(json!("r"), "roots/list", json!({})),
        request(json!("never"), "roots/list", json!({})),
        request(json!("never"), "tasks/list", json!({})),
    ]);
    let setup = Setup::usual("input-expires", &issuer).section("[limits]\nhold_max_ms = 1000");
    let gateway = setup.open_upstream("up", &recorder.url()).start();
    let client = gateway.client_of(Some("up"), &issuer, "alice").awaiting("echo");
    let asked = call(&client, &capabilities(), json!({})).json();
    let abandoned = gateway.recorded("input_abandoned", 1).remove(0);
    assert_eq!(abandoned["input"]["reason"], "nobody answered in time");
    let answers = place::wait_for("an answer to each", place::PATIENCE, || {
        let seen = recorder.seen().into_iter().map(|seen| seen.json());
        let answers: Vec<Value> = seen.filter(|seen| seen.is_object() && seen["method"].is_null()).collect();
        let all = [json!(7), json!("s"), json!("r")];
        let to_all = all.iter().all(|id| answers.iter().any(|answer| answer["id"] == *id));
        to_all.then_some(answers)
    });
    let to = |id: Value| answers.iter().find(|answer| answer["id"] == id).unwrap().clone();
    assert_eq!(to(json!(7))["result"], json!({ "action": "cancel" }));
    assert_eq!(to(json!("s"))["error"]["code"], -1);
    assert_eq!(to(json!("r"))["error"]["code"], -32603);
    place::wait_for("the cancellation", place::PATIENCE, || {
        let told = recorder.seen_method("notifications/cancelled");
        (told.len() == 1 && told[0].json()["params"]["requestId"] == calls(&recorder)[0].json()["id"]).then_some(())
    });
    let retry = json!({ "requestState": asked["result"]["requestState"] });
    let code = call(&client, &capabilities(), retry).json()["error"]["data"]["code"].clone();
    assert!(["continuation_lost", "request_state_expired"].contains(&code.as_str().unwrap()), "{code}");
    assert_eq!(calls(&recorder).len(), 1, "and never made again");
}

#[test]
fn pages_to_visit_first_are_the_same_in_both_eras() {
    let issuer = Issuer::good();
    let page =
        json!({ "mode": "url", "elicitationId": "e1", "url": "https://up.example/connect", "message": "Connect" });
    let listed = page.clone();
    let recorder = Recorder::scripted(Era::Legacy, move |seen| {
        let first = seen.rpc_method() == "tools/call" && seen.json()["params"]["arguments"]["again"].is_null();
        first.then(|| {
            let error = json!({ "code": -32042, "message": "visit", "data": { "elicitations": [listed] } });
            Reply::json(200, &json!({ "jsonrpc": "2.0", "id": seen.json()["id"], "error": error }))
        })
    });
    let gateway = start("input-pages", &issuer, &recorder);
    let client = gateway.client_of(Some("up"), &issuer, "alice");
    let asked = call(&client, &capabilities(), json!({})).json();
    let told = json!({ "mode": "url", "url": "https://up.example/connect", "message": "Connect" });
    assert_eq!(asked["result"]["inputRequests"]["url-0"], json!({ "method": "elicitation/create", "params": told }));
    let retry = json!({ "requestState": asked["result"]["requestState"], "inputResponses": { "url-0": { "action": "accept" } } });
    assert_eq!(call(&client, &capabilities(), retry).json()["result"]["resultType"], "input_required");
    assert_eq!(calls(&recorder).len(), 2, "made again, and asked again");
    assert!(calls(&recorder)[1].json()["params"]["inputResponses"].is_null(), "a legacy server knows no such member");
    let incapable = client.call("echo", &json!({}));
    assert_eq!((incapable.status(), &incapable.json()["error"]["code"]), (400, &json!(-32021)));
    assert_eq!(incapable.json()["error"]["data"]["requiredCapabilities"], json!({ "elicitation": { "url": {} } }));
    let session = client.initialize_with(&capabilities());
    let error = session.call("echo", &json!({})).json()["error"].clone();
    assert_eq!((&error["code"], &error["data"]["elicitations"][0]), (&json!(-32042), &page));
    let requested = gateway.recorded("input_requested", 3);
    assert_eq!(requested.len(), 3, "twice of the modern client, once of the legacy one");
}

#[test]
fn a_legacy_client_is_sent_to_a_page_once_and_told_when_it_has_served() {
    let issuer = Issuer::good();
    let recorder = Recorder::scripted(Era::Modern, |seen| {
        if seen.rpc_method() != "tools/call" {
            return None;
        }
        let round = seen.json()["params"]["requestState"].as_str().map_or(0, |state| state.parse::<u32>().unwrap());
        if round == 3 {
            let accepted = seen.json()["params"]["inputResponses"]["page"]["action"].clone();
            let content = json!([{ "type": "text", "text": accepted }]);
            return Some(Reply::result(seen, &json!({ "resultType": "complete", "content": content })));
        }
        let page = json!({ "mode": "url", "url": "https://up.example/connect", "message": "Connect" });
        let requests = json!({ "page": { "method": "elicitation/create", "params": page } });
        let state = (round + 1).to_string();
        // The second time it only asks for patience.
        let mut result = json!({ "resultType": "input_required", "requestState": state });
        if round != 1 {
            result["inputRequests"] = requests;
        }
        Some(Reply::result(seen, &result))
    });
    let gateway = start("input-visit", &issuer, &recorder);
    let session = gateway.client_of(Some("up"), &issuer, "alice").initialize_with(&capabilities());
    let accept = |asked: &Value| (!asked["id"].is_null()).then(|| json!({ "result": { "action": "accept" } }));
    let (asked, done) = converse(&session, &json!({ "name": "echo" }), accept);
    assert_eq!(text(&done), "accept");
    let [ask, complete] = &asked[..] else { panic!("{asked:?}") };
    let id = ask["params"]["elicitationId"].as_str().unwrap();
    assert_eq!(complete["method"], "notifications/elicitation/complete");
    assert_eq!(complete["params"]["elicitationId"], id);
    assert_eq!(calls(&recorder).len(), 4);
}

#[test]
fn what_the_administrator_withholds_is_not_declared() {
    let issuer = Issuer::good();
    for (era, method) in [(Era::Modern, "tools/call"), (Era::Legacy, "initialize")] {
        let recorder = Recorder::good(era);
        let lines = "grant = { strategy = \"none\" }\ninput = [\"roots\"]";
        let gateway = Setup::usual("input-withheld", &issuer).upstream("up", &recorder.url(), lines).start();
        let client = gateway.client_of(Some("up"), &issuer, "alice").awaiting("echo");
        call(&client, &capabilities(), json!({}));
        client.initialize_with(&capabilities()).call("echo", &json!({}));
        client.call("echo", &json!({}));
        let declared: Vec<Value> = recorder
            .seen_method(method)
            .iter()
            .map(|seen| {
                let params = seen.json()["params"].clone();
                let modern = &params["_meta"]["io.modelcontextprotocol/clientCapabilities"];
                if modern.is_null() { params["capabilities"].clone() } else { modern.clone() }
            })
            .collect();
        let (roots, nothing) = (json!({ "roots": {} }), json!({}));
        let expected = match era {
            Era::Modern => vec![&roots, &roots, &nothing],
            // Of the catalogue; of the two callers who can be asked; of the one who cannot: apart, and pooled.
            Era::Legacy => vec![&nothing, &roots, &nothing],
        };
        assert_eq!(declared.iter().collect::<Vec<_>>(), expected, "{era:?}");
    }
}

#[test]
fn a_restart_loses_held_calls_and_no_sealed_state() {
    let issuer = Issuer::good();
    let (modern, legacy) = (asking(), holding(vec![request(json!(7), "elicitation/create", form())]));
    let setup = Setup::usual("input-restart", &issuer)
        .section("[state]\nsealing_key = { env = \"SEALING_KEY\" }")
        .environment("SEALING_KEY", &"5a".repeat(32))
        .gateway("drain_ms = 200")
        .open_upstream("modern", &modern.url())
        .open_upstream("legacy", &legacy.url());
    let mut gateway = setup.start();
    let client = |gateway: &Gateway, id| gateway.client_of(Some(id), &issuer, "alice").awaiting("echo");
    let first = call(&client(&gateway, "modern"), &capabilities(), json!({})).json();
    let held = call(&client(&gateway, "legacy"), &capabilities(), json!({})).json();
    let (form_key, _) = held["result"]["inputRequests"].as_object().unwrap().iter().next().unwrap();
    gateway.stop();
    let gateway = gateway.again();
    let who = json!({ "action": "accept", "content": { "name": "Ada" } });
    let retry = json!({ "inputResponses": { "who": who }, "requestState": first["result"]["requestState"] });
    assert_eq!(text(&call(&client(&gateway, "modern"), &capabilities(), retry).json()), "hello Ada");
    let retry = json!({ "inputResponses": { form_key.as_str(): who }, "requestState": held["result"]["requestState"] });
    let lost = call(&client(&gateway, "legacy"), &capabilities(), retry).json();
    assert_eq!((&lost["error"]["code"], &lost["error"]["data"]["code"]), (&json!(-32603), &json!("continuation_lost")));
    assert_eq!(calls(&legacy).len(), 1, "never executed again");
}

#[test]
fn a_legacy_clients_refusal_of_sampling_ends_its_call_and_that_of_a_form_does_not() {
    let issuer = Issuer::good();
    let recorder = Recorder::scripted(Era::Modern, |seen| {
        let params = seen.json()["params"].clone();
        let what = params["arguments"]["ask"].as_str()?;
        if !params["inputResponses"].is_null() {
            let content = json!([{ "type": "text", "text": params["inputResponses"].to_string() }]);
            return Some(Reply::result(seen, &json!({ "resultType": "complete", "content": content })));
        }
        let asked = match what {
            "form" => json!({ "method": "elicitation/create", "params": form() }),
            _ => json!({ "method": "sampling/createMessage", "params": { "messages": [], "maxTokens": 1 } }),
        };
        Some(Reply::result(seen, &json!({ "resultType": "input_required", "inputRequests": { "a": asked } })))
    });
    let setup = Setup::usual("input-refused", &issuer).section("[limits]\nhold_max_ms = 10_000");
    let gateway = setup.open_upstream("up", &recorder.url()).start();
    let client = gateway.client_of(Some("up"), &issuer, "alice").awaiting("echo");
    let session = client.initialize_with(&capabilities());
    let call = |ask: &str, answer: Option<Value>| {
        converse(&session, &json!({ "name": "echo", "arguments": { "ask": ask } }), |_| answer.clone()).1
    };
    let no = json!({ "error": { "code": -1, "message": "no" } });
    let refused = call("sampling", Some(no.clone()));
    assert_eq!(refused["result"]["isError"], true, "{refused}");
    assert_eq!(refused["result"]["_meta"]["dev.tollgate/error"]["code"], "input_refused");
    assert_eq!(text(&call("form", Some(no))), r#"{"a":{"action":"cancel"}}"#);
    let late = call("form", None);
    assert_eq!(late["result"]["_meta"]["dev.tollgate/error"]["code"], "input_timeout", "{late}");
    assert_eq!(gateway.recorded("input_abandoned", 1)[0]["input"]["reason"], "nobody answered in time");
    assert_eq!(gateway.recorded("outcome", 3)[2]["result"]["code"], "input_timeout");
    assert_eq!(calls(&recorder).len(), 4, "one is made again, with an answer");
}

#[test]
fn an_upstream_that_asks_without_end_is_stopped_in_both_eras() {
    let issuer = Issuer::good();
    let recorder = Recorder::scripted(Era::Modern, |seen| {
        let result = json!({ "resultType": "input_required", "inputRequests": { "a": { "method": "roots/list" } } });
        (seen.rpc_method() == "tools/call").then(|| Reply::result(seen, &result))
    });
    let gateway = start("input-rounds", &issuer, &recorder);
    let client = gateway.client_of(Some("up"), &issuer, "alice");
    let mut answer = call(&client, &capabilities(), json!({})).json();
    let mut rounds = 0;
    while answer["error"].is_null() {
        rounds += 1;
        let responses = json!({ "a": { "roots": [] } });
        let retry = json!({ "inputResponses": responses, "requestState": answer["result"]["requestState"] });
        answer = call(&client, &capabilities(), retry).json();
    }
    assert_eq!((rounds, &answer["error"]["data"]["code"]), (16, &json!("input_rounds_exceeded")));
    let session = client.initialize_with(&capabilities());
    let roots = |_: &Value| Some(json!({ "result": { "roots": [] } }));
    let (asked, done) = converse(&session, &json!({ "name": "echo" }), roots);
    assert_eq!((asked.len(), &done["error"]["data"]["code"]), (16, &json!("input_rounds_exceeded")));
}

/// RS-32: a modern client may bring answers before it was asked. They are given to nobody who did not ask for them.
#[test]
fn answers_that_came_along_are_given_to_an_upstream_that_asks_for_just_these() {
    let issuer = Issuer::good();
    let recorder = Recorder::scripted(Era::Modern, |seen| {
        let params = seen.json()["params"].clone();
        if seen.rpc_method() != "tools/call" {
            return None;
        }
        let name = &params["inputResponses"]["who"]["content"]["name"];
        if let Some(name) = name.as_str() {
            let content = json!([{ "type": "text", "text": format!("hello {name}") }]);
            return Some(Reply::result(seen, &json!({ "resultType": "complete", "content": content })));
        }
        let asks = json!({ "who": { "method": "elicitation/create", "params": form() } });
        Some(Reply::result(seen, &json!({ "resultType": "input_required", "inputRequests": asks })))
    });
    let gateway = start("input-offered", &issuer, &recorder);
    let client = gateway.client_of(Some("up"), &issuer, "alice");
    let who = json!({ "action": "accept", "content": { "name": "Ada" } });
    let offered = json!({ "who": who, "another": { "action": "accept" } });
    let done = call(&client, &capabilities(), json!({ "inputResponses": offered })).json();
    assert_eq!(text(&done), "hello Ada");
    let given = |at: usize| calls(&recorder)[at].json()["params"]["inputResponses"].clone();
    assert_eq!((calls(&recorder).len(), given(0), given(1)), (2, Value::Null, json!({ "who": who })));
    let intent = gateway.recorded("intent", 1).remove(0);
    for (event, member) in [("input_requested", "asks"), ("input_answered", "answers")] {
        let recorded = gateway.recorded(event, 1).remove(0);
        assert_eq!((&recorded["id"], &recorded["input"][member][0]["key"]), (&intent["id"], &json!("who")), "{event}");
    }

    // Not all of it, or no answer to it: the client is asked. Not what it cannot be asked: nobody is.
    for offered in [json!({ "another": who }), json!({ "who": { "action": "maybe" } }), json!({})] {
        let asked = call(&client, &capabilities(), json!({ "inputResponses": offered })).json();
        assert_eq!(asked["result"]["resultType"], "input_required", "{offered}");
    }
    let unable = call(&client, &json!({ "roots": {} }), json!({ "inputResponses": { "who": who } })).json();
    assert!(unable["error"].is_object(), "{unable}");
    let gave = |seen: &Seen| !seen.json()["params"]["inputResponses"].is_null();
    assert_eq!(calls(&recorder).iter().filter(|seen| gave(seen)).count(), 1);
}
