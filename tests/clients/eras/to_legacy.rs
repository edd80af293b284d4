//! What does a modern client find before legacy servers (spec §2.1)?

use std::time::Duration;

use serde_json::{Value, json};

use super::{Behind, Cells, MODERN, NEWER, Row, Server, answered, code, odd, said};
use crate::{
    harness::{
        gateway::Setup,
        http::{Answer, Connection},
        peer::{self, Sdk},
        place,
        recorder::Seen,
    },
    request::input::{call, capabilities},
};

const PATIENCE: Duration = place::PATIENCE;

pub(super) fn hold() {
    let setup = Setup::new("eras-to-legacy");
    let folder = setup.folder().to_owned();
    let legacy = "era = \"legacy\"";
    let server = |id, behind, lines, tool| Server { id, behind, lines, tool };
    let servers = vec![
        server("everything", Behind::Published(peer::everything(&folder)), "", "echo"),
        server("sessions", Behind::Published(peer::fixture(&folder)), legacy, "test_simple_text"),
        server("python", Behind::Published(peer::python(&folder)), legacy, "add"),
        server("python-sse", Behind::Older(peer::python_legacy_sse(&folder)), "transport = \"sse\"", "add"),
        server("odd", Behind::Odd(odd::legacy("2025-11-25", false)), legacy, "odd"),
        server("ambient", Behind::Odd(odd::legacy("2025-11-25", true)), legacy, "odd"),
        server("stubborn", Behind::Odd(odd::stubborn()), legacy, ""),
    ];
    super::hold("modern clients, legacy servers", ROWS, &Cells::start(setup, servers));
}

const EVERYTHING: &str = "TypeScript 2, Python 2 → server-everything";
const FIXTURE: &str = "TypeScript 2, Python 2 → TypeScript 2 in sessions";
const BYTES: &str = "by bytes";

const ROWS: &[Row] = &[
    Row { feature: "`server/discover`", verdict: "emulate", peers: EVERYTHING, see: discover },
    Row { feature: "lifecycle", verdict: "emulate", peers: BYTES, see: lifecycle },
    Row { feature: "no version in common", verdict: "refuse", peers: BYTES, see: no_version },
    Row { feature: "version header", verdict: "bridge", peers: BYTES, see: headers },
    Row { feature: "modern `_meta`", verdict: "bridge", peers: BYTES, see: metadata },
    Row { feature: "lists, completion, get, read", verdict: "bridge", peers: EVERYTHING, see: offers },
    Row {
        feature: "members that the revision wants",
        verdict: "bridge",
        peers: "by bytes → server-everything",
        see: members,
    },
    Row {
        feature: "`x-mcp-header` of a legacy tool",
        verdict: "bridge",
        peers: "TypeScript 2, Python 2, by bytes",
        see: mirrored,
    },
    Row { feature: "result of `tools/call`", verdict: "bridge", peers: EVERYTHING, see: structured },
    Row { feature: "elicitation, sampling, roots", verdict: "emulate", peers: FIXTURE, see: asked },
    Row { feature: "elicitation, undeclared", verdict: "refuse", peers: FIXTURE, see: undeclared },
    Row { feature: "elicitation, asked nevertheless", verdict: "refuse", peers: BYTES, see: asked_nevertheless },
    Row { feature: "any other request of a server", verdict: "refuse", peers: BYTES, see: asked_otherwise },
    Row { feature: "any request on the session's stream", verdict: "refuse", peers: BYTES, see: ambient },
    Row { feature: "some of the answers", verdict: "emulate", peers: BYTES, see: in_part },
    Row {
        feature: "pages first: `-32042`",
        verdict: "bridge",
        peers: "TypeScript 2, Python 2 → Python 1 on HTTP+SSE",
        see: pages,
    },
    Row {
        feature: "`-32042`, without `elicitation.url`",
        verdict: "refuse",
        peers: "by bytes → Python 1 on HTTP+SSE",
        see: no_pages,
    },
    Row { feature: "`notifications/elicitation/complete`", verdict: "drop", peers: BYTES, see: completed },
    Row { feature: "`roots.listChanged`", verdict: "drop", peers: BYTES, see: roots_changed },
    Row {
        feature: "`subscriptions/listen`", verdict: "emulate", peers: "by bytes → server-everything", see: listened
    },
    Row { feature: "word of a change", verdict: "emulate", peers: BYTES, see: told },
    Row {
        feature: "`subscriptions/listen`, a server without streams",
        verdict: "emulate",
        peers: BYTES,
        see: streamless,
    },
    Row {
        feature: "logging", verdict: "emulate", peers: "by bytes → TypeScript 2 in sessions, by bytes", see: logged
    },
    Row { feature: "progress", verdict: "bridge", peers: EVERYTHING, see: progress },
    Row { feature: "progress that goes back", verdict: "drop", peers: BYTES, see: backwards },
    Row {
        feature: "cancellation",
        verdict: "emulate",
        peers: "TypeScript 2, Python 2 → Python 2 in sessions",
        see: cancelled,
    },
    Row { feature: "stream ends early, with event ids", verdict: "bridge", peers: FIXTURE, see: resumed },
    Row { feature: "stream ends early, without", verdict: "refuse", peers: BYTES, see: broken },
    Row { feature: "`ping` of a server", verdict: "emulate", peers: BYTES, see: pinged },
    Row { feature: "removed methods", verdict: "refuse", peers: BYTES, see: removed },
    Row { feature: "tasks of 2025-11-25", verdict: "emulate", peers: "TypeScript 2 → server-everything", see: task },
    Row { feature: "error `-32002`", verdict: "bridge", peers: BYTES, see: missing },
    Row { feature: "errors without a meaning", verdict: "bridge", peers: BYTES, see: failed },
    Row { feature: "experimental capabilities, extensions", verdict: "drop", peers: BYTES, see: extended },
    Row { feature: "HTTP+SSE", verdict: "bridge", peers: "TypeScript 2, Python 2 → Python 1 on HTTP+SSE", see: sse },
];

/// The last request of this method that the odd server saw.
fn last(cells: &Cells, method: &str) -> Seen {
    cells.odd("odd").seen_method(method).pop().unwrap_or_else(|| panic!("no {method}"))
}

/// The responses that the odd server got to what it asked.
fn responses(answer: &Answer) -> Value {
    serde_json::from_str(&said(&answer.json())).unwrap()
}

/// A call of the odd tool, by a client that can be asked anything.
fn odd_call(cells: &Cells, how: &str, meta: Value) -> Answer {
    let params = json!({ "name": "odd", "arguments": { "how": how }, "_meta": meta });
    call(&cells.client("odd"), &capabilities(), params)
}

fn discover(cells: &Cells) -> String {
    // Both clients have agreed on the version by then.
    cells.both(NEWER, ("everything", false), &json!([]), |_| String::new());
    let offered = cells.client("everything").modern("server/discover", &json!({})).json()["result"].clone();
    assert_eq!(offered["supportedVersions"], json!(["2026-07-28"]));
    let names: Vec<&str> = offered["capabilities"].as_object().unwrap().keys().map(String::as_str).collect();
    assert!(cells.odd("odd").seen_method("server/discover").is_empty(), "a legacy server is not asked");
    format!("{}, `{}`", code("2026-07-28"), names.join("`, `"))
}

fn lifecycle(cells: &Cells) -> String {
    let count = |method: &str| cells.odd("odd").seen_method(method).len();
    odd_call(cells, "well", json!({}));
    let before = ["initialize", "notifications/initialized", "tools/call"].map(count);
    let answer = odd_call(cells, "forgets the session", json!({}));
    let after = ["initialize", "notifications/initialized", "tools/call"].map(count);
    let more: Vec<usize> = after.iter().zip(before).map(|(after, before)| after - before).collect();
    assert_eq!(more, [1, 1, 2], "a session is begun again, and the call made again, once");
    format!("{}, after a lost session", code(answered(&answer)))
}

fn no_version(cells: &Cells) -> String {
    let answer = place::wait_for("it was asked", PATIENCE, || {
        let answer = cells.client("stubborn").call("odd", &json!({}));
        (answer.json()["error"]["data"]["code"] != "catalogue_unavailable").then_some(answer)
    });
    assert_eq!(answer.json()["error"]["data"]["code"], "upstream_incompatible");
    assert!(cells.odd("stubborn").seen_method("tools/call").is_empty());
    code(answered(&answer))
}

fn headers(cells: &Cells) -> String {
    odd_call(cells, "well", json!({}));
    let seen = last(cells, "tools/call");
    let modern: Vec<&str> = seen
        .headers
        .keys()
        .map(|name| name.as_str())
        .filter(|name| name.starts_with("mcp-") && *name != "mcp-session-id")
        .collect();
    assert_eq!(modern, ["mcp-protocol-version"]);
    code(seen.header("mcp-protocol-version").unwrap())
}

fn metadata(cells: &Cells) -> String {
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    odd_call(
        cells,
        "well",
        json!({
            "vendor/key": 1, "progressToken": "mine", "traceparent": trace, "io.modelcontextprotocol/logLevel": "error",
        }),
    );
    let meta = last(cells, "tools/call").json()["params"]["_meta"].clone();
    assert_ne!(meta["progressToken"], "mine");
    assert_eq!(meta["traceparent"].as_str().unwrap()[..35], trace[..35], "the trace goes on");
    let mut names: Vec<&str> = meta.as_object().unwrap().keys().map(String::as_str).collect();
    names.sort_unstable();
    format!("left: `{}`", names.join("`, `"))
}

/// The lists, and one of each that is in them.
fn offers(cells: &Cells) -> String {
    let commands = json!([
        { "ask": "tools/list" }, { "ask": "prompts/list" }, { "ask": "resources/list" }, { "ask": "resources/templates/list" },
        { "ask": "prompts/get", "params": { "name": "simple-prompt" } },
        { "ask": "resources/read", "params": { "uri": "demo://resource/dynamic/text/1" } },
        { "ask": "completion/complete", "params": {
            "ref": { "type": "ref/prompt", "name": "completable-prompt" }, "argument": { "name": "department", "value": "E" },
        } },
    ]);
    let read = |lines: &[Value]| {
        let count = |at: usize, member: &str| {
            lines[at]["result"][member].as_array().unwrap_or_else(|| panic!("{}", lines[at])).len()
        };
        let completed = &lines[6]["result"]["completion"]["values"];
        assert_eq!(*completed, json!(["Engineering"]), "{}", lines[6]);
        assert!(lines[5]["result"]["contents"][0]["text"].as_str().unwrap().starts_with("Resource 1:"), "{}", lines[5]);
        assert!(lines[4]["result"]["messages"][0]["content"]["text"].is_string(), "{}", lines[4]);
        format!(
            "{} tools, {} prompts, {} resources, {} templates, and one of each",
            count(0, "tools"),
            count(1, "prompts"),
            count(2, "resources"),
            count(3, "resourceTemplates")
        )
    };
    cells.both(NEWER, ("everything", false), &commands, read)
}

fn members(cells: &Cells) -> String {
    let client = cells.client("everything");
    for (method, params) in [
        ("tools/list", json!({})),
        ("prompts/list", json!({})),
        ("resources/list", json!({})),
        ("resources/templates/list", json!({})),
        ("resources/read", json!({ "uri": "demo://resource/dynamic/text/1" })),
    ] {
        let result = client.modern(method, &params).json()["result"].clone();
        assert_eq!(
            (&result["resultType"], &result["cacheScope"]),
            (&json!("complete"), &json!("private")),
            "{method}: {result}"
        );
        assert!(result["ttlMs"].is_u64(), "{method}: {result}");
        assert!(
            result["tools"].as_array().is_none_or(|tools| tools.iter().all(|tool| tool["execution"].is_null())),
            "{result}"
        );
    }
    assert_eq!(client.call("echo", &json!({ "message": "m" })).json()["result"]["resultType"], "complete");
    "`resultType`, `ttlMs`, `cacheScope` `private`; no `execution`".to_owned()
}

/// The gateway holds it, as the last who can: the server does not know it.
fn mirrored(cells: &Cells) -> String {
    let commands = json!([{ "list": true }, { "call": "test_x_mcp_header", "arguments": { "region": "eu" } }]);
    let said = cells.both(NEWER, ("sessions", false), &commands, |lines| said(&lines[1]));
    let without = cells.client("odd").call("mirrored", &json!({ "region": "eu" }));
    format!("{}; without the header {}", code(said), code(answered(&without)))
}

fn structured(cells: &Cells) -> String {
    let commands =
        json!([{ "list": true }, { "call": "get-structured-content", "arguments": { "location": "Chicago" } }]);
    cells.both(NEWER, ("everything", false), &commands, |lines| {
        let result = &lines[1]["result"];
        let text: Value = serde_json::from_str(result["content"][0]["text"].as_str().unwrap()).unwrap();
        assert_eq!(text, result["structuredContent"]);
        code(&result["structuredContent"])
    })
}

fn asked(cells: &Cells) -> String {
    let commands = json!([
        { "call": "test_elicitation", "arguments": { "message": "m" } },
        { "call": "test_sampling", "arguments": { "prompt": "p" } },
        { "call": "test_input_required_result_list_roots" },
    ]);
    let said = cells.both(NEWER, ("sessions", true), &commands, |lines| {
        let said: Vec<String> = lines.iter().map(|line| code(said(line).split(", content").next().unwrap())).collect();
        said.join(", ")
    });
    assert_eq!(cells.gateway.metric("tollgate_holds"), Some(0.0));
    said
}

fn undeclared(cells: &Cells) -> String {
    let commands = json!([{ "call": "test_elicitation", "arguments": { "message": "m" } }]);
    cells.both(NEWER, ("sessions", false), &commands, |lines| code(said(&lines[0])))
}

fn asked_nevertheless(cells: &Cells) -> String {
    let answer = cells.client("odd").call("odd", &json!({ "how": "asks" }));
    format!("the server gets {}", code(&responses(&answer)[0]["error"]["code"]))
}

fn asked_otherwise(cells: &Cells) -> String {
    let answer = odd_call(cells, "asks for tasks", json!({}));
    format!("the server gets {}", code(&responses(&answer)[0]["error"]["code"]))
}

fn ambient(cells: &Cells) -> String {
    let response = place::wait_for("a response", PATIENCE, || {
        cells.odd("ambient").seen().iter().map(Seen::json).find(|message| message["id"] == "odd-9")
    });
    format!("the server gets {}", code(&response["error"]["code"]))
}

/// What is missing is asked for again, and a state is good for one answer.
fn in_part(cells: &Cells) -> String {
    let client = cells.client("odd");
    let params = |more: Value| {
        let mut params = more;
        (params["name"], params["arguments"]) = (json!("odd"), json!({ "how": "asks twice" }));
        call(&client, &capabilities(), params)
    };
    let first = params(json!({})).json()["result"].clone();
    let asked = first["inputRequests"].as_object().unwrap_or_else(|| panic!("{first}"));
    let key = |method: &str| asked.iter().find(|(_, ask)| ask["method"] == method).unwrap().0.as_str();
    let accepted = json!({ "action": "accept", "content": { "name": "Ada" } });
    let retry =
        json!({ "inputResponses": { key("elicitation/create"): accepted }, "requestState": first["requestState"] });
    let second = params(retry.clone()).json()["result"].clone();
    let left: Vec<&Value> = second["inputRequests"].as_object().unwrap().values().map(|ask| &ask["method"]).collect();
    assert_eq!(left, [&json!("roots/list")]);
    let used = answered(&params(retry));
    let retry =
        json!({ "inputResponses": { key("roots/list"): { "roots": [] } }, "requestState": second["requestState"] });
    let done = responses(&params(retry));
    assert_eq!((&done[0]["result"], &done[1]["result"]), (&accepted, &json!({ "roots": [] })));
    format!("asked for `roots/list` again; with the used state {}", code(used))
}

fn pages(cells: &Cells) -> String {
    let visit = |sdk: Sdk| {
        let commands = json!([{ "call": "visit", "arguments": { "who": format!("{sdk:?}") } }]);
        said(&cells.run((sdk, MODERN), "python-sse", true, &commands)[0])
    };
    let both = NEWER.map(|(sdk, _)| visit(sdk));
    assert_eq!(both[0], both[1]);
    code(&both[0])
}

fn no_pages(cells: &Cells) -> String {
    let answer = cells.client("python-sse").call("visit", &json!({ "who": "nobody" }));
    let needed = answer.json()["error"]["data"]["requiredCapabilities"].clone();
    format!("{}, needs {}", code(answered(&answer)), code(needed))
}

fn completed(cells: &Cells) -> String {
    let answer = odd_call(cells, "completes", json!({}));
    assert!(!answer.text().contains("elicitation/complete"), "{}", answer.text());
    format!("{} alone", code(answered(&answer)))
}

fn roots_changed(cells: &Cells) -> String {
    let declared = json!({ "roots": { "listChanged": true } });
    call(&cells.client("odd"), &declared, json!({ "name": "odd", "arguments": {} }));
    format!("the server gets {}", code(&last(cells, "initialize").json()["params"]["capabilities"]))
}

/// The acknowledgement of everything that can be asked for, and the stream.
fn listening(cells: &Cells, id: &str, uri: &str) -> (Value, Connection) {
    let all = json!({
        "toolsListChanged": true, "promptsListChanged": true, "resourcesListChanged": true, "resourceSubscriptions": [uri],
    });
    let mut connection = cells.client(id).listen(&json!("l"), &all);
    assert_eq!(connection.head().status, 200);
    let acknowledged = connection.event().unwrap();
    assert_eq!(acknowledged["method"], "notifications/subscriptions/acknowledged");
    (acknowledged["params"]["notifications"].clone(), connection)
}

fn honoured(acknowledged: &Value) -> String {
    let names: Vec<&str> = acknowledged.as_object().unwrap().keys().map(String::as_str).collect();
    format!("acknowledged: `{}`", names.join("`, `"))
}

fn listened(cells: &Cells) -> String {
    honoured(&listening(cells, "everything", "demo://resource/dynamic/text/1").0)
}

fn told(cells: &Cells) -> String {
    let (_, mut connection) = listening(cells, "ambient", "odd://a");
    let event = connection.event().unwrap();
    assert_eq!(event["params"]["_meta"]["io.modelcontextprotocol/subscriptionId"], "l");
    format!("{} of {}", code(event["method"].as_str().unwrap()), code(event["params"]["uri"].as_str().unwrap()))
}

/// The lists are read again at intervals; for a single resource there is no such thing.
fn streamless(cells: &Cells) -> String {
    honoured(&listening(cells, "odd", "odd://a").0)
}

fn logged(cells: &Cells) -> String {
    let levels = |answer: &Answer| -> Vec<Value> {
        let stream = answer.header("content-type").is_some_and(|kind| kind.starts_with("text/event-stream"));
        let messages = if stream { answer.messages() } else { Vec::new() };
        messages.iter().filter_map(|message| message["params"].get("level").cloned()).collect()
    };
    let published = |meta: Value| {
        levels(
            &cells.client("sessions").modern("tools/call", &json!({ "name": "test_tool_with_logging", "_meta": meta })),
        )
    };
    assert_eq!(published(json!({})), Vec::<Value>::new(), "nobody asked");
    let asked = published(json!({ "io.modelcontextprotocol/logLevel": "info" }));
    let odd = levels(&odd_call(cells, "logs", json!({ "io.modelcontextprotocol/logLevel": "warning" })));
    let bad = odd_call(cells, "logs", json!({ "io.modelcontextprotocol/logLevel": "loud" }));
    format!(
        "{} of `info`; from `warning` on {}; a level that is none {}",
        asked.len(),
        code(Value::from(odd)),
        code(answered(&bad))
    )
}

fn progress(cells: &Cells) -> String {
    let long = json!([{
        "call": "trigger-long-running-operation", "arguments": { "duration": 1, "steps": 3 }, "progress": true,
    }]);
    cells.both(NEWER, ("everything", false), &long, |lines| {
        let steps: Vec<String> =
            lines[0]["progress"].as_array().unwrap().iter().map(|step| step.as_f64().unwrap().to_string()).collect();
        code(steps.join(" "))
    })
}

fn backwards(cells: &Cells) -> String {
    let messages = odd_call(cells, "goes backwards", json!({ "progressToken": "t" })).messages();
    let steps: Vec<String> =
        messages.iter().filter_map(|message| message["params"].get("progress")).map(Value::to_string).collect();
    format!("{} of `1 3 2 3 4`", code(steps.join(" ")))
}

fn cancelled(cells: &Cells) -> String {
    let commands = json!([{ "call": "wait", "arguments": { "ms": 20_000 }, "cancel_after_ms": 700 }]);
    cells.both(NEWER, ("python", false), &commands, |lines| lines[0]["cancelled"].to_string());
    place::wait_for("both are cancelled", PATIENCE, || {
        (cells.peer("python").process.output().matches("wait cancelled").count() == 2).then_some(())
    });
    "the server stops".to_owned()
}

fn resumed(cells: &Cells) -> String {
    let commands = json!([{ "call": "test_reconnection" }]);
    cells.both(NEWER, ("sessions", false), &commands, |lines| code(said(&lines[0])))
}

fn broken(cells: &Cells) -> String {
    let calls = cells.odd("odd").seen_method("tools/call").len();
    let answer = odd_call(cells, "breaks off", json!({}));
    assert_eq!(cells.odd("odd").seen_method("tools/call").len() - calls, 1, "not made again");
    format!("{}, called once", code(answered(&answer)))
}

fn pinged(cells: &Cells) -> String {
    format!("the server gets {}", code(&responses(&odd_call(cells, "pings", json!({})))[0]["result"]))
}

fn removed(cells: &Cells) -> String {
    let client = cells.client("odd");
    let answers: Vec<String> =
        ["initialize", "ping", "logging/setLevel", "resources/subscribe", "resources/unsubscribe"]
            .map(|method| answered(&client.modern(method, &json!({ "uri": "odd://a", "level": "info" }))))
            .into();
    assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:?}");
    code(&answers[0])
}

fn task(cells: &Cells) -> String {
    let commands = json!([{ "call": "simulate-research-query", "arguments": { "topic": "eras" } }]);
    let lines = cells.run((Sdk::TypeScript, MODERN), "everything", false, &commands);
    code(said(&lines[0]).lines().next().unwrap())
}

fn missing(cells: &Cells) -> String {
    code(answered(&cells.client("odd").modern("resources/read", &json!({ "uri": "odd://a" }))))
}

fn failed(cells: &Cells) -> String {
    let answer = odd_call(cells, "fails", json!({}));
    let upstream = answer.json()["error"]["data"]["upstream"]["code"].clone();
    format!("{}, inside it {}", code(answered(&answer)), code(upstream))
}

fn extended(cells: &Cells) -> String {
    let offered = cells.client("odd").modern("server/discover", &json!({})).json()["result"]["capabilities"].clone();
    let names: Vec<&str> = offered.as_object().unwrap().keys().map(String::as_str).collect();
    format!("left: `{}`", names.join("`, `"))
}

fn sse(cells: &Cells) -> String {
    let commands = json!([{ "call": "add", "arguments": { "a": 1, "b": 2 } }]);
    cells.both(NEWER, ("python-sse", false), &commands, |lines| code(said(&lines[0])))
}
