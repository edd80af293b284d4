//! What does a modern client find before legacy servers (spec §2.1)?

use std::time::Duration;

use serde_json::{Value, json};

use super::{Behind, Cells, NEWER, Row, Server, answered, code, odd, said};
use crate::{
    harness::{gateway::Setup, peer, place, recorder::Seen},
    request::input::{call, capabilities},
};

const PATIENCE: Duration = Duration::from_secs(20);

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
        server("odd", Behind::Odd(odd::legacy("2025-11-25")), legacy, "odd"),
        server("ambient", Behind::Odd(odd::ambient()), legacy, "echo"),
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
    Row { feature: "the same, undeclared", verdict: "refuse", peers: FIXTURE, see: undeclared },
    Row { feature: "the same, asked nevertheless", verdict: "refuse", peers: BYTES, see: asked_nevertheless },
    Row { feature: "any other request of a server", verdict: "refuse", peers: BYTES, see: asked_otherwise },
];

/// The last request of this method that the odd server saw.
fn last(cells: &Cells, method: &str) -> Seen {
    cells.odd("odd").seen_method(method).pop().unwrap_or_else(|| panic!("no {method}"))
}

/// A call of the odd tool, by a client that can be asked anything.
fn odd_call(cells: &Cells, how: &str, meta: Value) -> crate::harness::http::Answer {
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
    let answer = cells.client("stubborn").call("odd", &json!({}));
    place::wait_for("an end of the session", PATIENCE, || {
        let recorder = cells.odd("stubborn");
        (!recorder.seen_method("initialize").is_empty()).then_some(())
    });
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
    let response: Value = serde_json::from_str(&said(&answer.json())).unwrap();
    format!("the server gets {}", code(&response["error"]["code"]))
}

fn asked_otherwise(cells: &Cells) -> String {
    let answer = odd_call(cells, "asks for tasks", json!({}));
    let response: Value = serde_json::from_str(&said(&answer.json())).unwrap();
    format!("the server gets {}", code(&response["error"]["code"]))
}
