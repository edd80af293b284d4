//! `notifications/tasks`: how its task stands, told to whoever may ask about it, as `tasks/get` would say it (ext-tasks,
//! RS-33, RS-37). No published server sends them yet, so the server here speaks to the byte.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::{
    input::{capabilities, form},
    listen::{PATIENCE, listening},
    tasks::{EXTENSION, ask, begun, knowing},
};
use crate::harness::{
    gateway::{ALLOW_ALL, Gateway, Setup},
    http::Connection,
    issuer::Issuer,
    mcp::Client,
    place,
    recorder::{Era, Recorder, Reply, Seen, Step},
    rmcp_tasks,
};

/// A server whose calls become the tasks `raw-1`, `raw-2` and so on, of which it tells what the test says.
pub(crate) struct Telling {
    pub(crate) recorder: Recorder,
    words: Arc<Mutex<Vec<Value>>>,
}

impl Telling {
    /// It keeps its tasks for so long.
    pub(crate) fn new(ttl_ms: u64) -> Self {
        let (words, calls) = (Arc::<Mutex<Vec<Value>>>::default(), AtomicUsize::new(0));
        let shared = Arc::clone(&words);
        let recorder = Recorder::scripted(Era::Modern, move |seen| answer(seen, (&shared, &calls), ttl_ms));
        Self { recorder, words }
    }

    fn tell(&self, id: &str, status: &str, more: Value) {
        self.words.lock().push(state(id, status, more));
    }

    /// What was listened for, where that was tasks: their ids, in order.
    fn asked(&self) -> Vec<Value> {
        let tasks = |seen: &Seen| seen.json()["params"]["notifications"]["taskIds"].clone();
        let all = self.recorder.seen_method("subscriptions/listen");
        all.iter().map(tasks).filter(Value::is_array).collect()
    }
}

fn state(id: &str, status: &str, more: Value) -> Value {
    let mut state = json!({
        "taskId": id, "status": status, "createdAt": "2026-11-21T10:00:00Z", "lastUpdatedAt": "2026-11-21T10:00:00Z",
        "ttlMs": 60_000, "pollIntervalMs": 1, "vendor": [1],
        "_meta": { "io.modelcontextprotocol/subscriptionId": 99, "vendor/x": 1 },
    });
    for (name, value) in more.as_object().into_iter().flatten() {
        state[name] = value.clone();
    }
    state
}

fn done() -> Value {
    let meta = json!({ "io.modelcontextprotocol/related-task": { "taskId": "raw-1" } });
    json!({ "result": { "content": [{ "type": "text", "text": "hello Ada" }], "_meta": meta } })
}

fn answer(seen: &Seen, (words, calls): (&Arc<Mutex<Vec<Value>>>, &AtomicUsize), ttl_ms: u64) -> Option<Reply> {
    let params = seen.json()["params"].clone();
    let id = params["taskId"].as_str().unwrap_or_default();
    let complete = |mut result: Value| {
        result["resultType"] = json!("complete");
        Some(Reply::result(seen, &result))
    };
    match seen.rpc_method().as_str() {
        "server/discover" => Some(Reply::discovered(seen, &json!({ "tools": {}, "extensions": { EXTENSION: {} } }))),
        "tools/call" => {
            let id = format!("raw-{}", calls.fetch_add(1, Ordering::AcqRel) + 1);
            let created = state(&id, "working", json!({ "resultType": "task", "ttlMs": ttl_ms }));
            Some(Reply::result(seen, &created))
        }
        "tasks/get" => {
            let latest = words.lock().iter().rfind(|word| word["taskId"] == id).cloned();
            complete(latest.unwrap_or_else(|| state(id, "working", json!({}))))
        }
        "tasks/cancel" => {
            words.lock().push(state(id, "cancelled", json!({})));
            complete(json!({}))
        }
        "subscriptions/listen" if params["notifications"]["taskIds"].is_array() => Some(told(&params, words)),
        _ => None,
    }
}

/// The acknowledgement, and what is said from now on.
fn told(params: &Value, words: &Arc<Mutex<Vec<Value>>>) -> Reply {
    let note = |method: &str, params: &Value| json!({ "jsonrpc": "2.0", "method": method, "params": params });
    let honoured = json!({ "notifications": params["notifications"] });
    let begun = Reply::stream().event(&note("notifications/subscriptions/acknowledged", &honoured));
    let from = words.lock().len();
    let all = (from..from + 16).fold(begun, |stream, nth| {
        let words = Arc::clone(words);
        stream.step(Step::later(move || {
            let word = words.lock().get(nth).map(|word| note("notifications/tasks", word));
            word.map(|word| format!("data: {word}\n\n").into())
        }))
    });
    all.step(Step::Pause(PATIENCE * 3))
}

fn behind(name: &str, issuer: &Issuer, url: &str) -> Gateway {
    let gateway = Setup::usual(name, issuer).open_upstream("up", url).start();
    gateway.client_of(Some("up"), issuer, "alice").awaiting("echo");
    gateway
}

/// Listens as a client that declares this.
pub(crate) fn listen(client: &Client, declared: &Value, notifications: &Value) -> Connection {
    let meta = json!({ "io.modelcontextprotocol/clientCapabilities": declared });
    let params = json!({ "notifications": notifications, "_meta": meta });
    let mut connection = client.connection();
    connection.send(&client.modern_bytes(&json!("t"), "subscriptions/listen", &params)).unwrap();
    connection
}

/// Listens for these tasks, all of which are acknowledged.
fn listening_to(client: &Client, ids: &[&str]) -> Connection {
    let mut connection = listen(client, &knowing(), &json!({ "taskIds": ids }));
    let acknowledged = listening(&mut connection);
    let mut expect = ids.to_vec();
    expect.sort_unstable();
    assert_eq!(acknowledged["params"]["notifications"], json!({ "taskIds": expect }), "{acknowledged}");
    connection
}

fn status(event: Option<Value>) -> String {
    let event = event.unwrap();
    assert_eq!(event["method"], "notifications/tasks", "{event}");
    event["params"]["status"].as_str().unwrap().to_owned()
}

fn reason(gateway: &Gateway) -> Value {
    gateway.recorded("listen_end", 1)[0]["listened"]["reason"].clone()
}

#[test]
fn rs_37_a_client_is_told_how_its_task_stands_until_that_has_ended() {
    let issuer = Issuer::good();
    let telling = Telling::new(60_000);
    let gateway = behind("task-states", &issuer, &telling.recorder.url());
    let alice = gateway.client_of(Some("up"), &issuer, "alice");
    let id = begun(&alice);
    let mut connection = listening_to(&alice, &[&id]);
    let seen = telling.recorder.seen_method("subscriptions/listen").pop().unwrap().json();
    assert_eq!(seen["params"]["notifications"], json!({ "taskIds": ["raw-1"] }));
    let declared = &seen["params"]["_meta"]["io.modelcontextprotocol/clientCapabilities"];
    assert_eq!(*declared, knowing(), "an extension that is not declared is not served");

    telling.tell("raw-1", "working", json!({ "statusMessage": "half of it" }));
    assert_eq!(
        connection.event().unwrap(),
        json!({
            "jsonrpc": "2.0", "method": "notifications/tasks",
            "params": {
                "taskId": id, "status": "working", "ttlMs": 60_000, "pollIntervalMs": 1, "vendor": [1],
                "createdAt": "2026-11-21T10:00:00Z", "lastUpdatedAt": "2026-11-21T10:00:00Z", "statusMessage": "half of it",
                "_meta": { "io.modelcontextprotocol/subscriptionId": "t", "vendor/x": 1 },
            },
        })
    );
    let who = json!({ "who": { "method": "elicitation/create", "params": form() } });
    telling.tell("raw-1", "input_required", json!({ "inputRequests": who }));
    assert_eq!(connection.event().unwrap()["params"]["inputRequests"], who);
    // Of what comes in a burst the last is told: it says everything.
    telling.tell("raw-1", "working", json!({}));
    telling.tell("raw-1", "completed", done());
    let told = connection.event().unwrap();
    assert_eq!(told["params"]["result"]["content"][0]["text"], "hello Ada", "{told}");
    assert!(!told.to_string().contains("raw-1"), "{told}");
    assert_eq!(connection.event().unwrap()["result"]["resultType"], "complete", "there is nothing more to tell");

    assert_eq!(reason(&gateway), "nothing");
    let intents = gateway.recorded("intent", 2);
    let watched = &intents[1];
    assert_eq!(
        (&watched["request"]["method"], &watched["target"]["name"], &watched["continues"]),
        (&json!("subscriptions/listen"), &json!("echo"), &intents[0]["id"])
    );
    let asked = gateway.recorded("input_requested", 1).remove(0);
    assert_eq!((&asked["id"], &asked["input"]["call"]), (&watched["id"], &intents[0]["id"]));
    let outcome = gateway.recorded("outcome", 2).into_iter().find(|outcome| outcome["id"] == watched["id"]).unwrap();
    assert_eq!(outcome["result"]["ending"], "ok");
    let listened = gateway.recorded("listen", 1).remove(0);
    assert_eq!((&listened["listen"]["resources"], &listened["listen"]["tasks"]), (&json!(0), &json!(1)));
    assert!(gateway.verify().status.success());
}

#[test]
fn an_id_that_may_not_be_asked_about_is_not_acknowledged() {
    let issuer = Issuer::good();
    let telling = Telling::new(60_000);
    let gateway = behind("task-states-foreign", &issuer, &telling.recorder.url());
    let alice = gateway.client_of(Some("up"), &issuer, "alice");
    let own = begun(&alice);
    let of_bob = begun(&gateway.client_of(Some("up"), &issuer, "bob"));
    let forged = format!("{}AAAA", &own[..own.len() - 4]);
    let mut all = listen(&alice, &knowing(), &json!({ "taskIds": [own, of_bob, forged, "raw-1"] }));
    assert_eq!(listening(&mut all)["params"]["notifications"], json!({ "taskIds": [own] }));
    let refusals = gateway.recorded("refusal", 3);
    assert!(refusals.iter().all(|refusal| refusal["refused"]["code"] == "task_unknown"), "{refusals:?}");
    assert_eq!(telling.asked(), [json!(["raw-1"])]);
    // What is told of bob's is not told to alice.
    telling.tell("raw-2", "completed", done());
    telling.tell("raw-1", "cancelled", json!({}));
    assert_eq!(all.event().unwrap()["params"]["taskId"], json!(own));

    let federated = gateway.client_of(None, &issuer, "alice");
    let mut elsewhere = listen(&federated, &knowing(), &json!({ "taskIds": [own] }));
    assert_eq!(listening(&mut elsewhere)["params"]["notifications"], json!({}), "a task of another endpoint");

    let brief = Telling::new(1);
    let gateway = behind("task-states-expired", &issuer, &brief.recorder.url());
    let alice = gateway.client_of(Some("up"), &issuer, "alice");
    let brief_id = begun(&alice);
    std::thread::sleep(Duration::from_millis(20)); // longer than the id lives
    let mut expired = listen(&alice, &knowing(), &json!({ "taskIds": [brief_id] }));
    assert_eq!(listening(&mut expired)["params"]["notifications"], json!({}));
    assert!(brief.asked().is_empty());
    let many: Vec<String> = (0..65).map(|nth| nth.to_string()).collect();
    let refused = alice.modern("subscriptions/listen", &json!({ "notifications": { "taskIds": many } })).json();
    assert_eq!(refused["error"]["code"], -32602, "{refused}");
}

/// `SubscriptionFilter` of the crate `rmcp` has no `taskIds`: its clients ask.
#[test]
fn a_server_that_does_not_tell_of_tasks_is_not_said_to() {
    let (issuer, server) = (Issuer::good(), rmcp_tasks::start());
    let setup = Setup::usual("task-states-silent", &issuer);
    let gateway = setup.open_upstream("up", &format!("{}/mcp", server.origin())).start();
    let alice = gateway.client_of(Some("up"), &issuer, "alice").awaiting("slow_compute");
    let slow = json!({ "name": "slow_compute", "arguments": { "seconds": 60 } });
    let mut params = slow;
    params["_meta"]["io.modelcontextprotocol/clientCapabilities"] = knowing();
    let created = alice.modern("tools/call", &params).json();
    let id = created["result"]["taskId"].as_str().unwrap_or_else(|| panic!("{created}"));
    let mut connection = listen(&alice, &knowing(), &json!({ "taskIds": [id], "toolsListChanged": true }));
    assert_eq!(listening(&mut connection)["params"]["notifications"], json!({ "toolsListChanged": true }));
    assert_eq!(ask(&alice, &knowing(), "tasks/get", id, json!({})).json()["result"]["status"], "working");
    let intents = gateway.recorded("intent", 2);
    let watched = intents.iter().find(|intent| intent["request"]["method"] == "subscriptions/listen").unwrap();
    let outcome = gateway.recorded("outcome", 2).into_iter().find(|outcome| outcome["id"] == watched["id"]).unwrap();
    assert_eq!(outcome["result"]["ending"], "failed", "{outcome}");
}

/// One conversation an upstream and principal, for tasks and whoever wants to be told of them.
#[test]
fn listeners_of_one_caller_share_a_conversation() {
    let issuer = Issuer::good();
    let telling = Telling::new(60_000);
    let gateway = behind("task-states-shared", &issuer, &telling.recorder.url());
    let alice = gateway.client_of(Some("up"), &issuer, "alice");
    let (one, two) = (begun(&alice), begun(&alice));
    let mut first = listening_to(&alice, &[&one]);
    let mut second = listening_to(&alice, &[&one, &two]);
    assert_eq!(telling.asked(), [json!(["raw-1"]), json!(["raw-1", "raw-2"])]);
    telling.tell("raw-1", "completed", done());
    assert_eq!(status(first.event()), "completed");
    assert_eq!(status(second.event()), "completed");
    assert!(first.event().unwrap()["result"].is_object());
    place::wait_for("what has ended is asked for no more", PATIENCE, || {
        (telling.asked().last() == Some(&json!(["raw-2"]))).then_some(())
    });
    ask(&alice, &knowing(), "tasks/cancel", &two, json!({}));
    let told = second.event().unwrap();
    assert_eq!((&told["params"]["taskId"], &told["params"]["status"]), (&json!(two), &json!("cancelled")));
    assert!(second.event().unwrap()["result"].is_object());
}

/// A stream that broke may have had something to say: the task is asked about, and that is told.
#[test]
fn what_was_missed_is_asked_for() {
    let issuer = Issuer::good();
    let (opened, calls, words) = (AtomicUsize::new(0), AtomicUsize::new(0), Arc::<Mutex<Vec<Value>>>::default());
    let recorder = Recorder::scripted(Era::Modern, move |seen| {
        let tasks = seen.json()["params"]["notifications"]["taskIds"].clone();
        if tasks.is_array() && opened.fetch_add(1, Ordering::AcqRel) == 0 {
            let params = json!({ "notifications": { "taskIds": tasks } });
            let method = "notifications/subscriptions/acknowledged";
            let told = Reply::stream().event(&json!({ "jsonrpc": "2.0", "method": method, "params": params }));
            // What happens just before the break nobody is told.
            let missed = Arc::clone(&words);
            let ends = Step::later(move || {
                missed.lock().push(state("raw-1", "completed", done()));
                Some(Bytes::new())
            });
            return Some(told.step(Step::Pause(Duration::from_millis(200))).step(ends).step(Step::Cut));
        }
        answer(seen, (&words, &calls), 60_000)
    });
    let gateway = behind("task-states-gap", &issuer, &recorder.url());
    let alice = gateway.client_of(Some("up"), &issuer, "alice");
    let id = begun(&alice);
    let mut connection = listening_to(&alice, &[&id]);
    let told = connection.event().unwrap();
    assert_eq!(told["params"]["result"]["content"][0]["text"], "hello Ada", "{told}");
    let [get] = &recorder.seen_method("tasks/get")[..] else { panic!("asked once") };
    assert_eq!((get.header("mcp-name"), &get.json()["params"]["taskId"]), (Some("raw-1"), &json!("raw-1")));
    assert!(connection.event().unwrap()["result"].is_object());
}

/// An acknowledgement that is not true any more ends, so that its client asks again and hears the truth.
#[test]
fn a_listener_ends_with_what_it_may_be_told() {
    let issuer = Issuer::good();
    let telling = Telling::new(60_000);
    let gateway = behind("task-states-policy", &issuer, &telling.recorder.url());
    let alice = gateway.client_of(Some("up"), &issuer, "alice");
    let mut connection = listening_to(&alice, &[&begun(&alice)]);
    let less = "@id(\"less\")\nforbid (principal, action, resource == Upstream::\"up\");\n";
    gateway.rule("allow.cedar", &format!("{ALLOW_ALL}{less}"));
    assert_eq!(connection.event().unwrap()["result"]["resultType"], "complete");
    assert_eq!(reason(&gateway), "withdrawn");

    let brief = Telling::new(10_000);
    let gateway = behind("task-states-life", &issuer, &brief.recorder.url());
    let alice = gateway.client_of(Some("up"), &issuer, "alice");
    let mut connection = listening_to(&alice, &[&begun(&alice)]);
    assert_eq!(connection.event().unwrap()["result"]["resultType"], "complete");
    assert_eq!(reason(&gateway), "expired");

    // The upstream takes its word back.
    let (opened, calls) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let recorder = Recorder::scripted(Era::Modern, move |seen| {
        if !seen.json()["params"]["notifications"]["taskIds"].is_array() {
            return answer(seen, (&Arc::default(), &calls), 60_000);
        }
        let tasks = if opened.fetch_add(1, Ordering::AcqRel) == 0 { json!(["raw-1"]) } else { json!([]) };
        let params = json!({ "notifications": { "taskIds": tasks } });
        let method = "notifications/subscriptions/acknowledged";
        Some(Reply::stream().event(&json!({ "jsonrpc": "2.0", "method": method, "params": params })))
    });
    let gateway = behind("task-states-taken-back", &issuer, &recorder.url());
    let alice = gateway.client_of(Some("up"), &issuer, "alice");
    let mut connection = listening_to(&alice, &[&begun(&alice)]);
    assert_eq!(connection.event().unwrap()["result"]["resultType"], "complete");
    assert_eq!(reason(&gateway), "withdrawn");
}

#[test]
fn what_may_not_go_down_is_not_told() {
    let issuer = Issuer::good();
    let telling = Telling::new(60_000);
    let gateway = behind("task-states-unfit", &issuer, &telling.recorder.url());
    let alice = gateway.client_of(Some("up"), &issuer, "alice");
    let id = begun(&alice);
    let sampling = json!({ "method": "sampling/createMessage", "params": { "messages": [], "maxTokens": 1 } });
    let mut declared = json!({ "extensions": { EXTENSION: {} } });
    let mut less = listen(&alice, &declared, &json!({ "taskIds": [id] }));
    assert_eq!(listening(&mut less)["params"]["notifications"], json!({ "taskIds": [id] }));
    declared["sampling"] = capabilities()["sampling"].clone();
    let mut more = listen(&alice, &declared, &json!({ "taskIds": [id] }));
    assert_eq!(listening(&mut more)["params"]["notifications"], json!({ "taskIds": [id] }));
    place::wait_for("the upstream hears what one of them can do", PATIENCE, || {
        let seen = telling.recorder.seen_method("subscriptions/listen").pop()?.json();
        (seen["params"]["_meta"]["io.modelcontextprotocol/clientCapabilities"] == declared).then_some(())
    });
    telling.tell("raw-1", "input_required", json!({ "inputRequests": { "s": sampling } }));
    assert_eq!(status(more.event()), "input_required");
    telling.tell("raw-1", "asleep", json!({}));
    telling.tell("raw-1", "working", json!({ "ttlMs": "x" }));
    telling.tell("raw-9", "working", json!({}));
    telling.tell("raw-1", "completed", json!({}));
    // That it has ended is as much as can be told: whoever asks hears why.
    assert!(more.event().unwrap()["result"].is_object());
    assert!(less.event().unwrap()["result"].is_object());
    assert_eq!(gateway.recorded("input_requested", 1).len(), 1, "only whoever can be asked");
}
