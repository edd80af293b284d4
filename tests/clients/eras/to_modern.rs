//! What does a legacy client find before modern servers (spec §2.2)?

use std::time::Duration;

use serde_json::{Value, json};

use super::{Behind, Cells, OLDER, Row, Server, answered, begin, code, odd, said};
use crate::{
    harness::{
        gateway::Setup,
        http::{Answer, Connection},
        mcp::{LEGACY, Session},
        peer::{self, Sdk},
        place,
        recorder::Seen,
        rmcp_tasks,
    },
    request::input::{capabilities, converse},
};

const PATIENCE: Duration = place::PATIENCE;

pub(super) fn hold() {
    let setup = Setup::new("eras-to-modern");
    let folder = setup.folder().to_owned();
    let modern = "era = \"modern\"";
    let server = |id, behind, tool| Server { id, behind, lines: modern, tool };
    let servers = vec![
        server("typescript", Behind::Published(peer::typescript(&folder)), "add"),
        server("fixture", Behind::Published(peer::fixture(&folder)), "test_simple_text"),
        server("tasks", Behind::Rust(rmcp_tasks::start()), "greet"),
        server("odd", Behind::Odd(odd::modern()), "odd"),
    ];
    super::hold("legacy clients, modern servers", ROWS, &Cells::start(setup, servers));
}

const PUBLISHED: &str = "TypeScript 1, Python 1 → TypeScript 2";
const HALF: &str = "by bytes → TypeScript 2";
const BYTES: &str = "by bytes";

const ROWS: &[Row] = &[
    Row {
        feature: "`initialize`",
        verdict: "emulate",
        peers: "TypeScript 1, Python 1, by bytes → TypeScript 2",
        see: initialize,
    },
    Row { feature: "`notifications/initialized`", verdict: "emulate", peers: BYTES, see: initialized },
    Row { feature: "requests", verdict: "bridge", peers: "TypeScript 1, Python 1 → by bytes", see: requests },
    Row { feature: "`x-mcp-header`", verdict: "bridge", peers: PUBLISHED, see: mirrored },
    Row { feature: "modern members of results", verdict: "drop", peers: HALF, see: members },
    Row { feature: "`structuredContent` that is no object", verdict: "drop", peers: BYTES, see: structured },
    Row { feature: "`input_required`", verdict: "emulate", peers: PUBLISHED, see: asked },
    Row {
        feature: "`input_required` that asks nothing",
        verdict: "emulate",
        peers: "TypeScript 1, Python 1 → by bytes",
        see: busy,
    },
    Row { feature: "the client cannot be asked: a tool", verdict: "refuse", peers: PUBLISHED, see: unable },
    Row { feature: "the client cannot be asked: a prompt", verdict: "refuse", peers: PUBLISHED, see: unable_prompt },
    Row { feature: "pages", verdict: "bridge", peers: BYTES, see: pages },
    Row { feature: "a form is declined", verdict: "bridge", peers: BYTES, see: declined },
    Row { feature: "a form gets an error", verdict: "bridge", peers: BYTES, see: form_failed },
    Row { feature: "sampling gets an error", verdict: "refuse", peers: BYTES, see: sampling_failed },
    Row { feature: "GET stream", verdict: "emulate", peers: BYTES, see: stream },
    Row { feature: "`resources/subscribe`", verdict: "emulate", peers: BYTES, see: subscribed },
    Row {
        feature: "`resources/subscribe`, not to be had",
        verdict: "refuse",
        peers: "by bytes → TypeScript 2, by bytes",
        see: not_subscribed,
    },
    Row { feature: "`logging/setLevel`", verdict: "emulate", peers: HALF, see: logged },
    Row { feature: "`logging/setLevel`, a server that logs nothing", verdict: "refuse", peers: HALF, see: not_logged },
    Row { feature: "`ping`", verdict: "emulate", peers: BYTES, see: pinged },
    Row {
        feature: "`notifications/cancelled`",
        verdict: "emulate",
        peers: "TypeScript 1 → TypeScript 2",
        see: cancelled,
    },
    Row { feature: "the client goes away", verdict: "emulate", peers: HALF, see: left },
    Row { feature: "`Last-Event-ID`", verdict: "emulate", peers: HALF, see: resumed },
    Row { feature: "DELETE", verdict: "emulate", peers: BYTES, see: deleted },
    Row { feature: "progress", verdict: "bridge", peers: PUBLISHED, see: progress },
    Row { feature: "batches of 2025-03-26", verdict: "emulate", peers: HALF, see: batch },
    Row { feature: "batches since", verdict: "refuse", peers: HALF, see: no_batch },
    Row { feature: "`params.task`", verdict: "drop", peers: "by bytes → Rust 3", see: task },
    Row {
        feature: "tasks of the server", verdict: "emulate", peers: "TypeScript 1, Python 1 → Rust 3", see: followed
    },
    Row {
        feature: "`tasks/get`, `tasks/result`, `tasks/list`, `tasks/cancel`",
        verdict: "refuse",
        peers: "by bytes → Rust 3",
        see: no_tasks,
    },
    Row { feature: "a resource that is not there", verdict: "bridge", peers: PUBLISHED, see: missing },
    Row {
        feature: "server says `-32020`, once",
        verdict: "emulate",
        peers: BYTES,
        see: |cells| disliked(cells, "minds the headers once"),
    },
    Row {
        feature: "server says `-32020`, again",
        verdict: "refuse",
        peers: BYTES,
        see: |cells| disliked(cells, "minds the headers"),
    },
    Row {
        feature: "server says `-32022`, once",
        verdict: "emulate",
        peers: BYTES,
        see: |cells| disliked(cells, "minds the version once"),
    },
    Row {
        feature: "server says `-32022`, again",
        verdict: "refuse",
        peers: BYTES,
        see: |cells| disliked(cells, "minds the version"),
    },
    Row {
        feature: "an answer that is no MCP",
        verdict: "refuse",
        peers: "by bytes, TypeScript 1, Python 1",
        see: invalid,
    },
    Row { feature: "no token", verdict: "refuse", peers: BYTES, see: nobody },
];

fn session(cells: &Cells, id: &str) -> Session {
    cells.client(id).initialize_with(&capabilities())
}

/// A call of the odd tool, and the answers to what it asks.
fn odd_call(cells: &Cells, how: &str, answer: impl Fn(&Value) -> Option<Value>) -> (Vec<Value>, Value) {
    converse(&session(cells, "odd"), &json!({ "name": "odd", "arguments": { "how": how } }), answer)
}

fn last(cells: &Cells) -> Seen {
    cells.odd("odd").seen_method("tools/call").pop().unwrap()
}

fn initialize(cells: &Cells) -> String {
    // Both agree on 2025-11-25, or they have not connected.
    cells.both(OLDER, ("typescript", false), &json!([]), |_| String::new());
    let params =
        json!({ "protocolVersion": "1999-01-01", "capabilities": {}, "clientInfo": { "name": "t", "version": "1" } });
    let body = json!({ "jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params });
    let answer = cells.client("typescript").post(&[], body.to_string().as_bytes());
    assert!(answer.header("mcp-session-id").is_some());
    let result = &answer.json()["result"];
    assert_eq!(result["serverInfo"]["name"], "tollgate");
    format!("{}, whatever else was asked for; a session", code(result["protocolVersion"].as_str().unwrap()))
}

fn initialized(cells: &Cells) -> String {
    let before = cells.odd("odd").seen().len();
    let answer = session(cells, "odd").notify("notifications/initialized", &json!({}));
    assert!(cells.odd("odd").seen().iter().skip(before).all(|seen| seen.rpc_method() != "notifications/initialized"));
    assert!(answer.body.is_empty());
    code(answer.status())
}

fn requests(cells: &Cells) -> String {
    cells.both(OLDER, ("odd", true), &json!([{ "call": "odd", "arguments": {} }]), |lines| said(&lines[0]));
    let seen = last(cells);
    let headers = ["mcp-protocol-version", "mcp-method", "mcp-name"].map(|name| seen.header(name).unwrap().to_owned());
    assert_eq!(headers, ["2026-07-28", "tools/call", "odd"]);
    assert_eq!(seen.header("mcp-session-id"), None);
    let meta = seen.json()["params"]["_meta"].clone();
    assert_eq!(meta["io.modelcontextprotocol/protocolVersion"], "2026-07-28");
    let declared = meta["io.modelcontextprotocol/clientCapabilities"].as_object().unwrap();
    assert!(declared["elicitation"].is_object() && declared["sampling"].is_object() && declared["roots"].is_object());
    let names = meta.as_object().unwrap().keys().filter_map(|name| name.strip_prefix("io.modelcontextprotocol/"));
    let mut names: Vec<&str> = names.collect();
    names.sort_unstable();
    format!("{}; in `_meta` `{}`", code(headers.join(" ")), names.join("`, `"))
}

fn mirrored(cells: &Cells) -> String {
    let commands = json!([{ "call": "test_x_mcp_header", "arguments": { "region": "eu" } }]);
    cells.both(OLDER, ("fixture", false), &commands, |lines| code(said(&lines[0])))
}

fn members(cells: &Cells) -> String {
    let session = session(cells, "fixture");
    for (method, params) in [
        ("tools/list", json!({})),
        ("prompts/list", json!({})),
        ("resources/list", json!({})),
        ("resources/templates/list", json!({})),
        ("resources/read", json!({ "uri": "test://static-text" })),
        ("tools/call", json!({ "name": "test_simple_text" })),
    ] {
        let result = session.request(method, &params).json()["result"].clone();
        assert!(result.is_object(), "{method}");
        let left = ["resultType", "ttlMs", "cacheScope"].iter().find(|name| !result[**name].is_null());
        assert_eq!(left, None, "{method}: {result}");
    }
    "no `resultType`, `ttlMs`, `cacheScope`".to_owned()
}

fn structured(cells: &Cells) -> String {
    let session = session(cells, "odd");
    let tools = session.request("tools/list", &json!({})).json()["result"]["tools"].clone();
    let odd = tools.as_array().unwrap().iter().find(|tool| tool["name"] == "odd").unwrap();
    assert!(odd["outputSchema"].is_null(), "{odd}");
    let result = session.call("odd", &json!({ "how": "lists" })).json();
    assert!(result["result"]["structuredContent"].is_null(), "{result}");
    format!("the text {}, no `outputSchema`", code(said(&result)))
}

fn asked(cells: &Cells) -> String {
    let commands = json!([
        { "call": "test_input_required_result_elicitation" },
        { "call": "test_input_required_result_sampling" },
        { "call": "test_input_required_result_list_roots" },
        { "call": "test_input_required_result_multi_round" },
    ]);
    cells.both(OLDER, ("fixture", true), &commands, |lines| {
        let said: Vec<String> = lines.iter().map(|line| code(said(line))).collect();
        said.join(", ")
    })
}

fn busy(cells: &Cells) -> String {
    let before = cells.odd("odd").seen_method("tools/call").len();
    let commands = json!([{ "call": "odd", "arguments": { "how": "is busy" } }]);
    let said = cells.both(OLDER, ("odd", true), &commands, |lines| code(said(&lines[0])));
    let calls = cells.odd("odd").seen_method("tools/call").len() - before;
    assert_eq!(calls, 6, "three for each client");
    format!("{said}, at the third try")
}

fn unable(cells: &Cells) -> String {
    let commands = json!([{ "call": "test_missing_capability" }]);
    cells.both(OLDER, ("fixture", false), &commands, |lines| code(said(&lines[0])))
}

fn unable_prompt(cells: &Cells) -> String {
    let commands = json!([{ "ask": "prompts/get", "params": { "name": "test_input_required_result_prompt" } }]);
    cells.both(OLDER, ("fixture", false), &commands, |lines| code(said(&lines[0])))
}

fn pages(cells: &Cells) -> String {
    let accept = |asked: &Value| (!asked["id"].is_null()).then(|| json!({ "result": { "action": "accept" } }));
    let (asked, done) = odd_call(cells, "sends to a page", accept);
    assert!(asked.iter().all(|message| message["params"]["elicitationId"] == asked[0]["params"]["elicitationId"]));
    let methods: Vec<&str> = asked.iter().map(|message| message["method"].as_str().unwrap()).collect();
    let action: Value = serde_json::from_str(&said(&done)).unwrap();
    assert_eq!(action, json!({ "action": "accept" }));
    format!("`{}`", methods.join("`, `"))
}

fn answered_with(cells: &Cells, how: &str, answer: &Value) -> String {
    said(&odd_call(cells, how, |_| Some(answer.clone())).1)
}

fn declined(cells: &Cells) -> String {
    format!("the server gets {}", code(answered_with(cells, "asks", &json!({ "result": { "action": "decline" } }))))
}

fn no() -> Value {
    json!({ "error": { "code": -1, "message": "no" } })
}

fn form_failed(cells: &Cells) -> String {
    format!("the server gets {}", code(answered_with(cells, "asks", &no())))
}

fn sampling_failed(cells: &Cells) -> String {
    let before = cells.odd("odd").seen_method("tools/call").len();
    let said = answered_with(cells, "asks the model", &no());
    assert_eq!(cells.odd("odd").seen_method("tools/call").len() - before, 1, "not made again");
    code(said)
}

fn event(stream: &mut Connection, method: &str) -> Value {
    loop {
        let event = stream.event().unwrap();
        if event["method"] == method {
            return event;
        }
    }
}

fn stream(cells: &Cells) -> String {
    let session = session(cells, "odd");
    let mut stream = session.stream();
    assert_eq!(stream.head().status, 200);
    session.call("odd", &json!({ "how": "changes" }));
    let told = event(&mut stream, "notifications/tools/list_changed");
    assert!(told["params"]["_meta"]["io.modelcontextprotocol/subscriptionId"].is_null(), "{told}");
    let tools = session.request("tools/list", &json!({})).json()["result"]["tools"].clone();
    assert!(tools.as_array().unwrap().iter().any(|tool| tool["name"] == "after-1"), "{tools}");
    code(told["method"].as_str().unwrap())
}

fn subscribed(cells: &Cells) -> String {
    let session = session(cells, "odd");
    let ask = |method: &str| session.request(method, &json!({ "uri": "odd://a" })).json()["result"].clone();
    assert_eq!(ask("resources/subscribe"), json!({}));
    let mut stream = session.stream();
    assert_eq!(stream.head().status, 200);
    session.call("odd", &json!({ "how": "changes" }));
    let told = event(&mut stream, "notifications/resources/updated");
    assert_eq!(ask("resources/unsubscribe"), json!({}));
    format!("{} of {}", code(told["method"].as_str().unwrap()), code(told["params"]["uri"].as_str().unwrap()))
}

fn not_subscribed(cells: &Cells) -> String {
    let ask =
        |id: &str, uri: &str| answered(&session(cells, id).request("resources/subscribe", &json!({ "uri": uri })));
    let (unknown, unserved) = (ask("odd", "odd://b"), ask("typescript", "note://all"));
    format!("{} where the server does not, {} where it cannot", code(unknown), code(unserved))
}

fn logged(cells: &Cells) -> String {
    let session = session(cells, "fixture");
    let logged = || {
        let answer = session.call("test_logging_tool", &json!({}));
        let messages = if answer.text().starts_with('{') { Vec::new() } else { answer.messages() };
        let data = |message: &Value| message["params"]["data"].as_str().map(str::to_owned);
        messages.iter().filter_map(data).collect::<Vec<_>>()
    };
    assert_eq!(logged(), Vec::<String>::new(), "nobody asked");
    assert_eq!(session.request("logging/setLevel", &json!({ "level": "info" })).json()["result"], json!({}));
    code(logged().join(" "))
}

fn not_logged(cells: &Cells) -> String {
    code(answered(&session(cells, "typescript").request("logging/setLevel", &json!({ "level": "info" }))))
}

fn pinged(cells: &Cells) -> String {
    let before = cells.odd("odd").seen_method("ping").len();
    let answer = session(cells, "odd").request("ping", &json!({}));
    assert_eq!(cells.odd("odd").seen_method("ping").len(), before);
    format!("{}, by the gateway", code(&answer.json()["result"]))
}

/// How often the published server said this on its console.
fn times(cells: &Cells, line: &str) -> usize {
    cells.peer("typescript").process.output().matches(line).count()
}

fn cancelled(cells: &Cells) -> String {
    let before = times(cells, "wait cancelled");
    let commands = json!([{ "call": "wait", "arguments": { "ms": 20_000 }, "cancel_after_ms": 500 }]);
    let lines = cells.run((Sdk::TypeScriptLegacy, "legacy"), "typescript", false, &commands);
    assert_eq!(lines[0], json!({ "cancelled": true }));
    place::wait_for("it is cancelled", PATIENCE, || (times(cells, "wait cancelled") == before + 1).then_some(()));
    "the server stops".to_owned()
}

fn left(cells: &Cells) -> String {
    let (began, cancelled) = (times(cells, "wait began"), times(cells, "wait cancelled"));
    let session = session(cells, "typescript");
    let mut connection = session.client().connection();
    let params = json!({ "name": "wait", "arguments": { "ms": 500 } });
    connection.send(&session.bytes(&json!(77), "tools/call", &params)).unwrap();
    place::wait_for("the call", PATIENCE, || (times(cells, "wait began") == began + 1).then_some(()));
    drop(connection);
    let of = |record: &Value, event: &str| record["event"] == event;
    let ending = place::wait_for("the outcome", PATIENCE, || {
        let journal = cells.gateway.journal();
        let asked = |record: &&Value| of(record, "intent") && record["request"]["id"] == "77";
        let intent = journal.iter().find(asked)?["id"].clone();
        let outcome = journal.iter().find(|record| of(record, "outcome") && record["id"] == intent)?;
        Some(outcome["result"]["ending"].as_str().unwrap().to_owned())
    });
    assert_eq!(times(cells, "wait cancelled"), cancelled);
    format!("the server goes on, {}", code(ending))
}

fn resumed(cells: &Cells) -> String {
    let session = session(cells, "typescript");
    let params = json!({ "name": "count", "arguments": { "steps": 4 }, "_meta": { "progressToken": "t" } });
    let mut first = session.client().connection();
    first.send(&session.bytes(&json!("call"), "tools/call", &params)).unwrap();
    assert_eq!(first.head().status, 200);
    let text = first.text_until("\"total\":4}}\n\n");
    drop(first);
    let id = text.lines().filter_map(|line| line.strip_prefix("id: ")).next_back().unwrap();
    let mut second = session.client().connection();
    let mut headers = session.headers();
    headers.extend([("Accept", "text/event-stream"), ("Last-Event-ID", id)]);
    second.send(&session.client().bytes("GET", &headers, b"")).unwrap();
    assert_eq!(second.head().status, 200);
    loop {
        let message = second.event().unwrap();
        if message["id"] == "call" {
            return format!("{} on another stream", code(said(&message)));
        }
    }
}

fn deleted(cells: &Cells) -> String {
    let session = session(cells, "odd");
    let ended = session.delete().status();
    let after = session.request("tools/list", &json!({}));
    format!("{}, then {}", code(ended), code(answered(&after)))
}

fn progress(cells: &Cells) -> String {
    let commands = json!([{ "call": "count", "arguments": { "steps": 3 }, "progress": true }]);
    cells.both(OLDER, ("typescript", false), &commands, |lines| {
        let steps: Vec<String> =
            lines[0]["progress"].as_array().unwrap().iter().map(|step| step.as_f64().unwrap().to_string()).collect();
        code(steps.join(" "))
    })
}

/// Two calls in one body, in a session of `version`.
fn batched(cells: &Cells, version: &str) -> Answer {
    let client = cells.client("typescript");
    let session = begin(&client, version, &json!({})).0;
    let call = |id: u64| {
        let params = json!({ "name": "add", "arguments": { "a": id, "b": 1 } });
        json!({ "jsonrpc": "2.0", "id": id, "method": "tools/call", "params": params })
    };
    let body = json!([call(1), call(2)]).to_string();
    client.post(&[("MCP-Protocol-Version", version), ("Mcp-Session-Id", &session)], body.as_bytes())
}

fn batch(cells: &Cells) -> String {
    let answer = batched(cells, "2025-03-26").json();
    let said: Vec<String> = answer.as_array().unwrap_or_else(|| panic!("{answer}")).iter().map(said).collect();
    format!("{}, each by itself", code(said.join(" ")))
}

fn no_batch(cells: &Cells) -> String {
    let (one, other) = (answered(&batched(cells, "2025-06-18")), answered(&batched(cells, LEGACY)));
    assert_eq!(one, other);
    code(one)
}

fn task(cells: &Cells) -> String {
    let session = session(cells, "tasks");
    assert!(session.initialized["result"]["capabilities"]["tasks"].is_null(), "{}", session.initialized);
    let params = json!({ "name": "greet", "arguments": { "name": "Ada" }, "task": { "ttl": 60_000 } });
    code(answered(&session.request("tools/call", &params)))
}

fn followed(cells: &Cells) -> String {
    let commands = json!([{ "call": "slow_compute", "arguments": { "seconds": 0.5 } }, { "call": "failing_job" }]);
    cells.both(OLDER, ("tasks", false), &commands, |lines| {
        format!("{}, {}", code(said(&lines[0])), code(said(&lines[1])))
    })
}

fn no_tasks(cells: &Cells) -> String {
    let session = session(cells, "tasks");
    let answers: Vec<String> = ["tasks/get", "tasks/result", "tasks/list", "tasks/cancel"]
        .map(|method| answered(&session.request(method, &json!({ "taskId": "t" }))))
        .into();
    assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:?}");
    code(&answers[0])
}

fn missing(cells: &Cells) -> String {
    let commands = json!([{ "ask": "resources/read", "params": { "uri": "note://none" } }]);
    cells.both(OLDER, ("typescript", false), &commands, |lines| code(&lines[0]["error"]["code"]))
}

/// What becomes of a call whose server does not like how it is spoken to (RC-04).
fn disliked(cells: &Cells, how: &str) -> String {
    let before = cells.odd("odd").seen_method("tools/call").len();
    let answer = session(cells, "odd").call("odd", &json!({ "how": how }));
    let calls = cells.odd("odd").seen_method("tools/call").len() - before;
    assert_eq!(calls, 2, "what is known of the server is read again, and the call sent again");
    format!("{}, called twice", code(answered(&answer)))
}

/// In band, because any status but success ends a session of Python 1.
fn invalid(cells: &Cells) -> String {
    let answer = session(cells, "odd").call("odd", &json!({ "how": "is of another type" }));
    let commands =
        json!([{ "call": "odd", "arguments": { "how": "is of another type" } }, { "call": "odd", "arguments": {} }]);
    let goes_on = |client: &(Sdk, &'static str)| {
        let lines = cells.run(*client, "odd", false, &commands);
        lines.get(1).is_some_and(|line| line["result"].is_object())
    };
    let goes_on: Vec<String> =
        OLDER.iter().filter(|client| goes_on(client)).map(|(sdk, _)| format!("{sdk:?}")).collect();
    assert_eq!(goes_on, ["TypeScriptLegacy", "PythonLegacy"]);
    format!("{}; both go on", code(answered(&answer)))
}

fn nobody(cells: &Cells) -> String {
    let client = cells.gateway.client(Some("odd"));
    let list = json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/list" }).to_string();
    let legacy = client.post(&[("MCP-Protocol-Version", LEGACY)], list.as_bytes());
    let modern = client.modern("tools/list", &json!({}));
    assert_eq!(answered(&legacy), answered(&modern));
    assert_eq!(legacy.header("www-authenticate"), modern.header("www-authenticate"));
    assert!(legacy.header("www-authenticate").is_some_and(|challenge| challenge.contains("resource_metadata=")));
    format!("{}, as for modern clients", code(answered(&legacy)))
}
