//! What if a call becomes a task? Clients that know of tasks and clients that do not, before servers of both eras.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use super::input::{call, capabilities, form, text};
use crate::harness::{
    gateway::{Gateway, Setup},
    http::Answer,
    issuer::Issuer,
    mcp::{Client, MODERN, modern_body},
    place,
    recorder::{Era, Recorder, Reply, Seen, tools},
};

pub(crate) const EXTENSION: &str = "io.modelcontextprotocol/tasks";

/// What a client that knows of tasks declares.
pub(crate) fn knowing() -> Value {
    let mut all = capabilities();
    all["extensions"][EXTENSION] = json!({});
    all
}

/// A request about a task.
pub(crate) fn ask(client: &Client, declared: &Value, method: &str, id: &str, more: Value) -> Answer {
    let mut params = more;
    params["taskId"] = json!(id);
    params["_meta"]["io.modelcontextprotocol/clientCapabilities"] = declared.clone();
    let body = modern_body(&json!(1), method, &params).to_string();
    client.post(&[("MCP-Protocol-Version", MODERN), ("Mcp-Method", method), ("Mcp-Name", id)], body.as_bytes())
}

fn state(status: &str, more: Value) -> Value {
    let mut state = json!({
        "resultType": "complete", "taskId": "raw-1", "status": status, "createdAt": "2026-11-21T10:00:00Z",
        "lastUpdatedAt": "2026-11-21T10:00:00Z", "ttlMs": 60_000, "pollIntervalMs": 1,
    });
    for (name, value) in more.as_object().into_iter().flatten() {
        state[name] = value.clone();
    }
    state
}

/// A modern upstream whose calls become the task `raw-1`; `states` says what its nth `tasks/get` finds: without one it
/// is overloaded, and where that is `false` it does not take the credential.
fn upstream(ttl_ms: u64, states: impl Fn(usize) -> Value + Send + Sync + 'static) -> Recorder {
    let asked = AtomicUsize::new(0);
    Recorder::scripted(Era::Modern, move |seen| {
        let message = seen.json();
        let params = &message["params"];
        match seen.rpc_method().as_str() {
            "server/discover" => {
                Some(Reply::discovered(seen, &json!({ "tools": {}, "extensions": { EXTENSION: {} } })))
            }
            "tools/call" => Some(Reply::result(
                seen,
                &state(
                    "working",
                    json!({
                        "resultType": "task", "ttlMs": ttl_ms, "statusMessage": "begun", "vendor": [1],
                        "_meta": { "io.modelcontextprotocol/serverInfo": { "name": "up", "version": "1" } },
                    }),
                ),
            )),
            method
                if method.starts_with("tasks/")
                    && (params["taskId"] != "raw-1" || seen.header("mcp-name") != Some("raw-1")) =>
            {
                Some(Reply::error(seen, 200, -32602, "Task not found"))
            }
            "tasks/get" => {
                let state = states(asked.fetch_add(1, Ordering::AcqRel));
                Some(match &state {
                    Value::Null => Reply::status(503),
                    Value::Bool(_) => Reply::status(401),
                    Value::Number(_) | Value::String(_) | Value::Array(_) | Value::Object(_) => {
                        Reply::result(seen, &state)
                    }
                })
            }
            "tasks/update" | "tasks/cancel" => Some(Reply::result(seen, &json!({ "resultType": "complete" }))),
            _ => None,
        }
    })
}

/// A task that works for ever, and is kept for so long.
pub(crate) fn lasting(ttl_ms: u64) -> Recorder {
    upstream(ttl_ms, |_| state("working", json!({})))
}

/// A task that is at work, asks who, and when it was answered says hello.
fn asking() -> Recorder {
    upstream(60_000, |nth| match nth {
        0 => state("working", json!({ "statusMessage": "half of it" })),
        // What was answered is asked for a while longer.
        1 | 2 => state(
            "input_required",
            json!({ "inputRequests": { "who": { "method": "elicitation/create", "params": form() } } }),
        ),
        _ => done(),
    })
}

fn done() -> Value {
    let result = json!({ "content": [{ "type": "text", "text": "hello Ada" }], "_meta": { "io.modelcontextprotocol/related-task": { "taskId": "raw-1" } } });
    state("completed", json!({ "result": result }))
}

fn start(name: &str, issuer: &Issuer, recorder: &Recorder) -> Gateway {
    let gateway = Setup::usual(name, issuer).open_upstream("up", &recorder.url()).start();
    gateway.client_of(Some("up"), issuer, "alice").awaiting("echo");
    gateway
}

/// The id that a client got for its task.
pub(crate) fn begun(client: &Client) -> String {
    let created = call(client, &knowing(), json!({ "arguments": {} })).json();
    assert_eq!(created["result"]["resultType"], "task", "{created}");
    created["result"]["taskId"].as_str().unwrap().to_owned()
}

fn declared(seen: &Seen) -> Value {
    seen.json()["params"]["_meta"]["io.modelcontextprotocol/clientCapabilities"].clone()
}

fn endings(gateway: &Gateway, count: usize) -> Vec<Value> {
    gateway.recorded("outcome", count).iter().map(|outcome| outcome["result"]["ending"].clone()).collect()
}

#[test]
fn rs_37_a_client_that_knows_of_tasks_follows_its_own_under_a_sealed_id() {
    let (issuer, recorder) = (Issuer::good(), asking());
    let gateway = start("tasks-own", &issuer, &recorder);
    let client = gateway.client_of(Some("up"), &issuer, "alice");
    let discovered = client.modern("server/discover", &json!({})).json();
    assert_eq!(discovered["result"]["capabilities"]["extensions"], json!({ EXTENSION: {} }), "{discovered}");

    let created = call(&client, &knowing(), json!({ "arguments": { "a": 1 } })).json();
    let task = &created["result"];
    assert_eq!(
        (&task["resultType"], &task["status"], &task["ttlMs"]),
        (&json!("task"), &json!("working"), &json!(60_000))
    );
    assert_eq!(
        (&task["pollIntervalMs"], &task["statusMessage"], &task["vendor"]),
        (&json!(1), &json!("begun"), &json!([1]))
    );
    assert_eq!(task["_meta"]["io.modelcontextprotocol/serverInfo"]["name"], "tollgate");
    let id = task["taskId"].as_str().unwrap();
    assert!(!created.to_string().contains("raw-1"), "what the upstream calls it is not to be seen: {created}");
    assert_eq!(declared(&recorder.seen_method("tools/call")[0]), knowing());

    let all = knowing();
    let working = ask(&client, &all, "tasks/get", id, json!({})).json();
    assert_eq!(
        (&working["result"]["taskId"], &working["result"]["status"]),
        (&json!(id), &json!("working")),
        "{working}"
    );
    let asked = ask(&client, &all, "tasks/get", id, json!({})).json();
    assert_eq!(
        asked["result"]["inputRequests"],
        json!({ "who": { "method": "elicitation/create", "params": form() } })
    );
    let who = json!({ "who": { "action": "accept", "content": { "name": "Ada" } } });
    let updated = ask(&client, &all, "tasks/update", id, json!({ "inputResponses": who })).json();
    assert_eq!(updated["result"]["resultType"], "complete");
    assert!(updated["result"]["taskId"].is_null() && updated["result"]["status"].is_null(), "{updated}");
    assert_eq!(recorder.seen_method("tasks/update")[0].json()["params"]["inputResponses"], who);
    ask(&client, &all, "tasks/get", id, json!({}));
    let done = ask(&client, &all, "tasks/get", id, json!({})).json();
    assert_eq!(
        (&done["result"]["status"], &done["result"]["result"]["content"][0]["text"]),
        (&json!("completed"), &json!("hello Ada"))
    );
    assert!(!done.to_string().contains("raw-1"), "{done}");
    let cancelled = ask(&client, &all, "tasks/cancel", id, json!({})).json();
    assert_eq!(cancelled["result"]["resultType"], "complete");

    let seen = &recorder.seen_method("tasks/get")[0];
    assert_eq!((seen.header("mcp-method"), seen.header("mcp-name")), (Some("tasks/get"), Some("raw-1")));
    assert_eq!(declared(seen), all);
    let intents = gateway.recorded("intent", 7);
    assert_eq!(intents[1]["request"]["method"], "tasks/get");
    assert!(
        intents[1..].iter().all(|intent| intent["continues"] == intents[0]["id"] && intent["target"]["name"] == "echo")
    );
    assert_eq!(endings(&gateway, 7), ["task", "ok", "ok", "ok", "ok", "ok", "ok"]);
    let answered = gateway.recorded("input_answered", 1).remove(0);
    assert_eq!(answered["input"]["call"], intents[0]["id"]);
    assert_eq!(
        answered["input"]["answers"],
        json!([{ "key": "who", "method": "elicitation/create", "action": "accept" }])
    );
    gateway.recorded("input_requested", 2);
    assert!(gateway.verify().status.success());
}

#[test]
fn a_modern_client_without_the_extension_gets_the_result_and_is_asked_as_by_any_call() {
    let (issuer, recorder) = (Issuer::good(), asking());
    let gateway = start("tasks-polled", &issuer, &recorder);
    let client = gateway.client_of(Some("up"), &issuer, "alice");
    let params = json!({ "arguments": {}, "_meta": { "progressToken": "p" } });
    let answer = call(&client, &capabilities(), params.clone());
    let messages = answer.messages();
    let reports: Vec<_> = messages.iter().filter(|message| message["method"] == "notifications/progress").collect();
    assert_eq!(reports.len(), 2, "{messages:?}");
    assert_eq!(reports[0]["params"], json!({ "progressToken": "p", "progress": 1, "message": "begun" }));
    assert_eq!(reports[1]["params"], json!({ "progressToken": "p", "progress": 2, "message": "half of it" }));
    let asked = &messages.last().unwrap()["result"];
    assert_eq!(
        asked["inputRequests"],
        json!({ "who": { "method": "elicitation/create", "params": form() } }),
        "{messages:?}"
    );
    assert!(recorder.seen_method("tasks/cancel").is_empty(), "the task waits for the client");

    let who = json!({ "who": { "action": "accept", "content": { "name": "Ada" } } });
    let mut retry = params;
    retry["inputResponses"] = who.clone();
    retry["requestState"] = asked["requestState"].clone();
    let done = call(&client, &capabilities(), retry).messages();
    assert_eq!(text(done.last().unwrap()), "hello Ada");
    assert_eq!(recorder.seen_method("tools/call").len(), 1, "nothing is executed twice");
    let [update] = &recorder.seen_method("tasks/update")[..] else { panic!("one update") };
    assert_eq!(update.json()["params"]["inputResponses"], who);
    assert_eq!((update.header("mcp-name"), declared(update)), (Some("raw-1"), knowing()));
    assert_eq!(endings(&gateway, 2), ["input_required", "ok"]);
    assert_eq!(gateway.recorded("intent", 2)[1]["continues"], gateway.recorded("intent", 2)[0]["id"]);
    gateway.recorded("input_requested", 1);
    gateway.recorded("input_answered", 1);
    assert!(recorder.seen_method("tasks/cancel").is_empty(), "what has ended is not cancelled");
}

#[test]
fn a_legacy_client_gets_the_result_and_is_asked_by_requests() {
    let (issuer, recorder) = (Issuer::good(), asking());
    let gateway = start("tasks-legacy-client", &issuer, &recorder);
    let session = gateway.client_of(Some("up"), &issuer, "alice").initialize_with(&capabilities());
    assert!(session.initialized["result"]["capabilities"]["extensions"].is_null());
    assert!(session.initialized["result"]["capabilities"]["tasks"].is_null(), "spec §2.2: refused by not advertising");
    let answer = |_: &Value| Some(json!({ "result": { "action": "accept", "content": { "name": "Ada" } } }));
    // What asks for a legacy task is ignored.
    let params = json!({ "name": "echo", "arguments": {}, "task": { "ttl": 1 } });
    let (asked, done) = super::input::converse(&session, &params, answer);
    assert_eq!(asked.len(), 1, "{asked:?}");
    assert_eq!(text(&done), "hello Ada");
    assert!(recorder.seen_method("tools/call")[0].json()["params"]["task"].is_null());
    assert_eq!(gateway.recorded("intent", 1).len(), 1, "one record stands for all of it");
    let refused = session.request("tasks/get", &json!({ "taskId": "raw-1" })).json();
    assert_eq!(refused["error"]["code"], -32601);
}

#[test]
fn a_client_that_goes_away_cancels_the_task_that_it_does_not_know() {
    let (issuer, recorder) = (Issuer::good(), lasting(60_000));
    let gateway = start("tasks-cancelled", &issuer, &recorder);
    let client = gateway.client_of(Some("up"), &issuer, "alice");
    let mut connection = client.connection();
    connection
        .send(&client.modern_bytes(&json!(1), "tools/call", &json!({ "name": "echo", "arguments": {} })))
        .unwrap();
    assert_eq!(connection.head().header("content-type"), Some("text/event-stream"), "the client hears keep-alives");
    drop(connection);
    let cancelled = place::wait_for("tasks/cancel", place::PATIENCE, || recorder.seen_method("tasks/cancel").pop());
    assert_eq!(cancelled.header("mcp-name"), Some("raw-1"));
    assert_eq!(endings(&gateway, 1), ["cancelled"]);

    let session = client.initialize();
    let mut connection = session.client().connection();
    connection.send(&session.bytes(&json!("call"), "tools/call", &json!({ "name": "echo" }))).unwrap();
    assert_eq!(connection.head().status, 200);
    session.notify("notifications/cancelled", &json!({ "requestId": "call" }));
    place::wait_for("tasks/cancel", place::PATIENCE, || {
        (recorder.seen_method("tasks/cancel").len() == 2).then_some(())
    });
}

/// What is short as text may be long in the form in which it is sealed.
#[test]
fn a_task_whose_id_cannot_be_carried_is_cancelled() {
    let issuer = Issuer::good();
    let recorder = Recorder::scripted(Era::Modern, |seen| match seen.rpc_method().as_str() {
        "server/discover" => Some(Reply::discovered(seen, &json!({ "tools": {}, "extensions": { EXTENSION: {} } }))),
        "tools/call" => {
            Some(Reply::result(seen, &state("working", json!({ "resultType": "task", "taskId": "\u{1}".repeat(400) }))))
        }
        _ => None,
    });
    let gateway = start("tasks-long-id", &issuer, &recorder);
    let client = gateway.client_of(Some("up"), &issuer, "alice");
    let refused = call(&client, &knowing(), json!({ "arguments": {} })).json();
    assert_eq!(refused["error"]["data"]["code"], "upstream_invalid", "{refused}");
    let cancelled = place::wait_for("tasks/cancel", place::PATIENCE, || recorder.seen_method("tasks/cancel").pop());
    assert_eq!(cancelled.json()["params"]["taskId"], "\u{1}".repeat(400));
}

#[test]
fn a_task_that_takes_longer_than_the_tool_may_is_cancelled() {
    let (issuer, recorder) = (Issuer::good(), lasting(60_000));
    let lines = "grant = { strategy = \"none\" }\ntimeout_ms = 4_000";
    let gateway = Setup::usual("tasks-late", &issuer).upstream("up", &recorder.url(), lines).start();
    let client = gateway.client_of(Some("up"), &issuer, "alice").awaiting("echo");
    let began = Instant::now();
    let late = client.call("echo", &json!({})).json();
    let most = 1 + began.elapsed().as_millis() as usize / 200;
    assert_eq!(late["error"]["data"]["code"], "upstream_timeout", "{late:?}");
    place::wait_for("tasks/cancel", place::PATIENCE, || recorder.seen_method("tasks/cancel").pop());
    let polls = recorder.seen_method("tasks/get").len();
    assert!((1..=most).contains(&polls), "not as often as the upstream says: {polls}, and not more than {most}");
}

#[test]
fn a_task_that_shows_signs_of_life_may_take_longer() {
    let alive = |nth: usize| {
        let at = json!({ "lastUpdatedAt": format!("2026-11-21T10:00:{nth:02}Z"), "pollIntervalMs": 700 });
        if nth < 8 { state("working", at) } else { done() }
    };
    let (issuer, recorder) = (Issuer::good(), upstream(60_000, alive));
    let lines = "grant = { strategy = \"none\" }\ntimeout_ms = 4_000";
    let gateway = Setup::usual("tasks-alive", &issuer).upstream("up", &recorder.url(), lines).start();
    let client = gateway.client_of(Some("up"), &issuer, "alice").awaiting("echo");
    let began = Instant::now();
    assert_eq!(text(&client.call("echo", &json!({})).json()), "hello Ada");
    assert!(began.elapsed() > Duration::from_secs(4), "it took longer: {:?}", began.elapsed());
}

/// The second and the third time it is asked, the upstream is overloaded; a task is given up at the fourth in a row.
#[test]
fn an_upstream_may_fail_a_few_times_to_say_how_far_a_task_is() {
    for (failures, code) in [(3, None), (4, Some("upstream_invalid"))] {
        let recorder = upstream(60_000, move |nth| match nth {
            0 => state("working", json!({})),
            nth if nth <= failures => Value::Null,
            _ => done(),
        });
        let issuer = Issuer::good();
        let gateway = start(&format!("tasks-flaky-{failures}"), &issuer, &recorder);
        let client = gateway.client_of(Some("up"), &issuer, "alice");
        let answer = client.call("echo", &json!({})).messages().pop().unwrap();
        assert_eq!(answer["error"]["data"]["code"].as_str(), code, "{answer}");
        if code.is_none() {
            assert_eq!(text(&answer), "hello Ada");
        }
        place::wait_for("tasks/cancel", place::PATIENCE, || {
            (recorder.seen_method("tasks/cancel").len() == usize::from(code.is_some())).then_some(())
        });
    }
}

/// A call that was made once is on record as made once, under its own credential.
#[test]
fn what_is_asked_of_a_task_is_no_attempt_at_the_call() {
    let (issuer, recorder) = (Issuer::good(), upstream(60_000, |nth| if nth == 0 { json!(false) } else { done() }));
    let setup =
        Setup::usual("tasks-repolled", &issuer).exchanged_upstream("up", &recorder.url(), &issuer.url(), "\"up.call\"");
    let gateway = setup.start();
    let client = gateway.client_of(Some("up"), &issuer, "alice").awaiting("echo");
    assert_eq!(text(&client.call("echo", &json!({})).messages().pop().unwrap()), "hello Ada");
    assert_eq!((recorder.seen_method("tools/call").len(), recorder.seen_method("tasks/get").len()), (1, 2));
    let result = &gateway.recorded("outcome", 1)[0]["result"];
    assert_eq!((&result["ending"], &result["attempts"]), (&json!("ok"), &Value::Null));
    assert_eq!(result["token_digest"], Value::Null);
}

#[test]
fn how_a_task_ends_is_how_the_call_ends() {
    let error = json!({ "code": -32603, "message": "rate limit", "data": { "x": 1 } });
    for (name, found, expect) in [
        ("failed", state("failed", json!({ "error": error })), ("/error/message", json!("rate limit"), "rpc_error")),
        (
            "error",
            state("completed", json!({ "result": { "content": [], "isError": true } })),
            ("/result/isError", json!(true), "tool_error"),
        ),
        ("cancelled", state("cancelled", json!({})), ("/error/data/code", json!("upstream_lost"), "failed")),
        (
            "another",
            state("working", json!({ "taskId": "raw-2" })),
            ("/error/data/code", json!("upstream_invalid"), "failed"),
        ),
        ("asleep", state("asleep", json!({})), ("/error/data/code", json!("upstream_invalid"), "failed")),
    ] {
        let (issuer, recorder) = (Issuer::good(), upstream(60_000, move |_| found.clone()));
        let gateway = start(&format!("tasks-end-{name}"), &issuer, &recorder);
        let client = gateway.client_of(Some("up"), &issuer, "alice");
        let answer = client.call("echo", &json!({})).json();
        assert_eq!(answer.pointer(expect.0), Some(&expect.1), "{name}: {answer}");
        assert_eq!(endings(&gateway, 1), [expect.2], "{name}");
    }
}

#[test]
fn rs_37_nobody_gets_a_task_who_did_not_ask_for_one_and_no_upstream_is_told_what_it_does_not_have() {
    let (issuer, recorder) = (Issuer::good(), asking());
    let gateway = start("tasks-undeclared", &issuer, &recorder);
    let client = gateway.client_of(Some("up"), &issuer, "alice");
    for method in ["tasks/get", "tasks/update", "tasks/cancel"] {
        let refused = ask(&client, &capabilities(), method, "x", json!({ "inputResponses": {} }));
        assert_eq!((refused.status(), refused.json()["error"]["code"].clone()), (400, json!(-32021)));
        let required = refused.json()["error"]["data"]["requiredCapabilities"].clone();
        assert_eq!(required, json!({ "extensions": { EXTENSION: {} } }));
    }
    let about = json!({ "notifications": { "taskIds": ["x"], "toolsListChanged": true } });
    let unknowing = client.modern("subscriptions/listen", &about);
    assert_eq!((unknowing.status(), unknowing.json()["error"]["code"].clone()), (400, json!(-32021)));
    let mut knowing_about = about;
    knowing_about["_meta"]["io.modelcontextprotocol/clientCapabilities"] = knowing();
    let mut connection = client.connection();
    connection.send(&client.modern_bytes(&json!(1), "subscriptions/listen", &knowing_about)).unwrap();
    assert_eq!(connection.head().status, 200);
    let acknowledged = connection.event().unwrap();
    let honoured = json!({ "toolsListChanged": true });
    assert_eq!(acknowledged["params"]["notifications"], honoured, "what is not told is not promised: {acknowledged}");
    for method in ["tasks/result", "tasks/list"] {
        let refused = client.modern(method, &json!({ "taskId": "x" }));
        assert_eq!((refused.status(), refused.json()["error"]["code"].clone()), (404, json!(-32601)), "{method}");
    }
    let body = modern_body(&json!(1), "tasks/get", &json!({ "taskId": "x" })).to_string();
    let unnamed = client.post(&[("MCP-Protocol-Version", MODERN), ("Mcp-Method", "tasks/get")], body.as_bytes());
    assert_eq!((unnamed.status(), unnamed.json()["error"]["code"].clone()), (400, json!(-32020)), "RS-13");

    let plain = Recorder::good(Era::Modern);
    let gateway = start("tasks-unoffered", &issuer, &plain);
    let client = gateway.client_of(Some("up"), &issuer, "alice");
    assert_eq!(text(&call(&client, &knowing(), json!({ "arguments": {} })).json()), "echo {}");
    assert_eq!(declared(&plain.seen_method("tools/call")[0]), capabilities());
    assert!(client.modern("server/discover", &json!({})).json()["result"]["capabilities"]["extensions"].is_null());
}

/// A legacy upstream whose `echo` is a task only, and asks who.
fn of_2025(asks: bool) -> Recorder {
    let waiting = Arc::new(parking_lot::Mutex::new(Vec::<Value>::new()));
    Recorder::scripted(Era::Legacy, move |seen| {
        let message = seen.json();
        let params = &message["params"];
        if message["method"].is_null() && !message["id"].is_null() {
            waiting.lock().push(message);
            return Some(Reply::status(202));
        }
        match seen.rpc_method().as_str() {
            "initialize" => Some(
                Reply::result(
                    seen,
                    &json!({
                        "protocolVersion": "2025-11-25", "serverInfo": { "name": "recorder", "version": "1" },
                        "capabilities": { "tools": {}, "tasks": { "requests": { "tools": { "call": {} } } } },
                    }),
                )
                .header("mcp-session-id", "session-of-the-recorder"),
            ),
            "tools/list" => {
                let mut tools = tools();
                tools[0]["execution"] = json!({ "taskSupport": "required" });
                tools[1]["execution"] = json!({ "taskSupport": "optional" });
                Some(Reply::result(seen, &json!({ "tools": tools })))
            }
            "tools/call" if params["name"] == "echo" && params["task"]["ttl"].is_u64() => Some(Reply::result(
                seen,
                &json!({
                    "task": { "taskId": "raw-1", "status": "working", "ttl": 60_000, "createdAt": "2026-11-21T10:00:00Z", "lastUpdatedAt": "2026-11-21T10:00:00Z" },
                }),
            )),
            "tools/call" if params["name"] == "echo" => {
                Some(Reply::error(seen, 200, -32601, "task augmentation required"))
            }
            "tasks/cancel" => Some(Reply::result(seen, &json!({ "taskId": "raw-1", "status": "cancelled" }))),
            "tasks/result" if params["taskId"] == "raw-1" => {
                let (id, waiting) = (message["id"].clone(), Arc::clone(&waiting));
                let related = json!({ "io.modelcontextprotocol/related-task": { "taskId": "raw-1" } });
                let mut reply = Reply::stream();
                if asks {
                    let mut form = form();
                    form["_meta"] = related.clone();
                    reply = reply
                        .event(&json!({ "jsonrpc": "2.0", "id": "q", "method": "elicitation/create", "params": form }));
                }
                Some(reply.step(crate::harness::recorder::Step::later(move || {
                    let name = match waiting.lock().first() {
                        Some(answer) => answer["result"]["content"]["name"].as_str()?.to_owned(),
                        None if asks => return None,
                        None => "nobody".to_owned(),
                    };
                    let result =
                        json!({ "content": [{ "type": "text", "text": format!("hello {name}") }], "_meta": related });
                    Some(format!("data: {}\n\n", json!({ "jsonrpc": "2.0", "id": id, "result": result })).into())
                })))
            }
            _ => None,
        }
    })
}

#[test]
fn a_tool_that_is_a_task_of_2025_only_is_called_as_any_other() {
    let (issuer, recorder) = (Issuer::good(), of_2025(false));
    let gateway = start("tasks-of-2025", &issuer, &recorder);
    let client = gateway.client_of(Some("up"), &issuer, "alice");
    let listed = client.modern("tools/list", &json!({})).json();
    assert!(listed["result"]["tools"].as_array().unwrap().iter().all(|tool| tool["execution"].is_null()));
    assert!(client.modern("server/discover", &json!({})).json()["result"]["capabilities"]["extensions"].is_null());
    for declared in [capabilities(), knowing()] {
        let done = call(&client, &declared, json!({ "arguments": {} })).json();
        assert_eq!(text(&done), "hello nobody", "{done}");
        assert!(!done.to_string().contains("raw-1"), "{done}");
    }
    let session = client.initialize();
    assert_eq!(text(&session.call("echo", &json!({})).json()), "hello nobody");
    assert_eq!(text(&client.call("add", &json!({ "a": 1 })).json()), "add {\"a\":1}");
    assert!(
        recorder.seen_method("tools/call").last().unwrap().json()["params"]["task"].is_null(),
        "it need not be one"
    );
    assert!(recorder.seen_method("tasks/cancel").is_empty());
    assert_eq!(endings(&gateway, 4), ["ok", "ok", "ok", "ok"]);
}

/// The server says of the tool that it is a task only, and offers no tasks: it was asked for none.
#[test]
fn a_result_with_a_task_that_nobody_asked_for_is_a_result() {
    let issuer = Issuer::good();
    let recorder = Recorder::scripted(Era::Legacy, |seen| match seen.rpc_method().as_str() {
        "tools/list" => {
            let mut tools = tools();
            tools[0]["execution"] = json!({ "taskSupport": "required" });
            Some(Reply::result(seen, &json!({ "tools": tools })))
        }
        "tools/call" => Some(Reply::result(
            seen,
            &json!({
                "content": [{ "type": "text", "text": "done" }],
                "task": { "taskId": "raw-1", "status": "working", "ttl": 60_000, "createdAt": "2026-11-21T10:00:00Z", "lastUpdatedAt": "2026-11-21T10:00:00Z" },
            }),
        )),
        _ => None,
    });
    let gateway = start("tasks-unasked", &issuer, &recorder);
    let client = gateway.client_of(Some("up"), &issuer, "alice");
    assert_eq!(text(&client.call("echo", &json!({})).json()), "done");
    assert!(recorder.seen_method("tools/call")[0].json()["params"]["task"].is_null());
    assert!(recorder.seen_method("tasks/result").is_empty());
}

#[test]
fn what_a_task_of_2025_asks_holds_the_call_as_any_question_does() {
    let (issuer, recorder) = (Issuer::good(), of_2025(true));
    let gateway = start("tasks-of-2025-asking", &issuer, &recorder);
    let client = gateway.client_of(Some("up"), &issuer, "alice");
    let asked = call(&client, &capabilities(), json!({ "arguments": {} })).json();
    let requests = asked["result"]["inputRequests"].as_object().unwrap_or_else(|| panic!("{asked}"));
    let (key, request) = requests.iter().next().unwrap();
    assert_eq!(request["params"], form(), "without what the upstream calls the task");
    let who = json!({ key.as_str(): { "action": "accept", "content": { "name": "Ada" } } });
    let retry = json!({ "arguments": {}, "inputResponses": who, "requestState": asked["result"]["requestState"] });
    let done = call(&client, &capabilities(), retry).json();
    assert_eq!(text(&done), "hello Ada");
}
