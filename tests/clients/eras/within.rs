//! What is found within one era: the same revision, and two that are not (spec §2.7)?

use serde_json::{Value, json};

use super::{Behind, Cells, NEWER, OLDER, Row, Server, answered, begin, code, odd, said};
use crate::{
    harness::{
        gateway::Setup,
        http::Answer,
        mcp::Client,
        peer::{self, Sdk},
        rmcp_tasks,
    },
    request::{
        input::{call, capabilities},
        task_states::{Telling, listen},
        tasks::{ask, begun, knowing},
    },
};

pub(super) fn hold() {
    let setup = Setup::new("eras-within");
    let folder = setup.folder().to_owned();
    let (legacy, modern) = ("era = \"legacy\"", "era = \"modern\"");
    let server = |id, behind, lines, tool| Server { id, behind, lines, tool };
    let servers = vec![
        server("typescript", Behind::Published(peer::typescript(&folder)), modern, "add"),
        server("fixture", Behind::Published(peer::fixture(&folder)), modern, "test_simple_text"),
        server("everything", Behind::Published(peer::everything(&folder)), "", "echo"),
        server("sessions", Behind::Published(peer::fixture(&folder)), legacy, "test_simple_text"),
        server("modern", Behind::Odd(odd::modern()), modern, "odd"),
        server("telling", Behind::Odd(Telling::new(60_000).recorder), modern, "echo"),
        server("tasks", Behind::Rust(rmcp_tasks::start()), modern, "greet"),
        server("2025-11-25", Behind::Odd(odd::legacy("2025-11-25", false)), legacy, "odd"),
        server("2025-06-18", Behind::Odd(odd::legacy("2025-06-18", false)), legacy, "odd"),
        server("2025-03-26", Behind::Odd(odd::legacy("2025-03-26", false)), legacy, "odd"),
    ];
    super::hold("within an era", ROWS, &Cells::start(setup, servers));
}

const MODERN: &str = "TypeScript 2, Python 2 → TypeScript 2";
const LEGACY: &str = "TypeScript 1, Python 1 → server-everything";
const SESSIONS: &str = "TypeScript 1, Python 1 → TypeScript 2 in sessions";
const OLD_CLIENT: &str = "by bytes → server-everything";
const BYTES: &str = "by bytes";

const ROWS: &[Row] = &[
    Row { feature: "modern, modern: a call", verdict: "bridge", peers: MODERN, see: modern_call },
    Row { feature: "modern, modern: `input_required`", verdict: "bridge", peers: MODERN, see: modern_input },
    Row { feature: "modern, modern: another `resultType`", verdict: "refuse", peers: BYTES, see: other_type },
    Row { feature: "modern, modern: `notifications/tasks`", verdict: "bridge", peers: BYTES, see: task_states },
    Row {
        feature: "modern, modern: `notifications/tasks`, a server that sends none",
        verdict: "drop",
        peers: "by bytes → Rust 3",
        see: no_task_states,
    },
    Row { feature: "legacy, legacy: a call", verdict: "bridge", peers: LEGACY, see: legacy_call },
    Row { feature: "legacy, legacy: requests of the server", verdict: "bridge", peers: SESSIONS, see: legacy_input },
    Row { feature: "legacy, legacy: `-32042`", verdict: "bridge", peers: BYTES, see: legacy_pages },
    Row {
        feature: "the server's version is its own",
        verdict: "bridge",
        peers: "TypeScript 1 → by bytes",
        see: versions,
    },
    Row { feature: "2025-03-26 client: definitions", verdict: "drop", peers: OLD_CLIENT, see: definitions_of_march },
    Row {
        feature: "2025-03-26 client: `structuredContent`",
        verdict: "drop",
        peers: OLD_CLIENT,
        see: structured_of_march,
    },
    Row { feature: "2025-03-26 client: `resource_link`", verdict: "bridge", peers: OLD_CLIENT, see: link_of_march },
    Row { feature: "2025-03-26 client: elicitation", verdict: "drop", peers: BYTES, see: asked_of_march },
    Row { feature: "2025-06-18 client: icons", verdict: "drop", peers: BYTES, see: icons },
    Row { feature: "2025-06-18 client: pages, `sampling.tools`", verdict: "drop", peers: BYTES, see: asked_of_june },
    Row { feature: "2025-06-18 client: forms with titled choices", verdict: "bridge", peers: BYTES, see: form_of_june },
    Row {
        feature: "2025-11-25 client: forms with titled choices",
        verdict: "bridge",
        peers: BYTES,
        see: form_of_november,
    },
    Row { feature: "any client: tasks of 2025-11-25", verdict: "drop", peers: OLD_CLIENT, see: tasks },
    Row { feature: "2025-06-18 server: a page", verdict: "refuse", peers: BYTES, see: page_of_june },
    Row { feature: "2025-03-26 server: an answer in a batch", verdict: "bridge", peers: BYTES, see: batch_of_march },
    Row { feature: "2025-06-18 server: an answer in a batch", verdict: "refuse", peers: BYTES, see: batch_of_june },
];

fn modern_call(cells: &Cells) -> String {
    let commands = json!([{ "call": "add", "arguments": { "a": 1, "b": 2 } }]);
    cells.both(NEWER, ("typescript", false), &commands, |lines| code(said(&lines[0])))
}

fn modern_input(cells: &Cells) -> String {
    let commands = json!([{ "call": "test_input_required_result_multi_round" }]);
    cells.both(NEWER, ("fixture", true), &commands, |lines| code(said(&lines[0])))
}

fn other_type(cells: &Cells) -> String {
    code(answered(&cells.client("modern").call("odd", &json!({ "how": "is of another type" }))))
}

fn task_states(cells: &Cells) -> String {
    let client = cells.client("telling");
    let id = begun(&client);
    let mut connection = listen(&client, &knowing(), &json!({ "taskIds": [id] }));
    assert_eq!(connection.head().status, 200);
    assert_eq!(connection.event().unwrap()["params"]["notifications"], json!({ "taskIds": [id] }));
    ask(&client, &knowing(), "tasks/cancel", &id, json!({}));
    let told = connection.event().unwrap();
    assert_eq!((&told["method"], &told["params"]["taskId"]), (&json!("notifications/tasks"), &json!(id)));
    format!("{} under the client's id, then the end", code(told["params"]["status"].as_str().unwrap()))
}

fn no_task_states(cells: &Cells) -> String {
    let client = cells.client("tasks");
    let slow = json!({ "name": "slow_compute", "arguments": { "seconds": 60 } });
    let created = call(&client, &knowing(), slow).json();
    let id = created["result"]["taskId"].as_str().unwrap_or_else(|| panic!("{created}"));
    let mut connection = listen(&client, &knowing(), &json!({ "taskIds": [id], "toolsListChanged": true }));
    assert_eq!(connection.head().status, 200);
    let acknowledged = connection.event().unwrap()["params"]["notifications"].clone();
    let names: Vec<&str> = acknowledged.as_object().unwrap().keys().map(String::as_str).collect();
    let asked = ask(&client, &knowing(), "tasks/get", id, json!({})).json();
    let status = asked["result"]["status"].as_str().unwrap_or_else(|| panic!("{asked}"));
    format!("acknowledged: {}; {} {}", code(names.join("`, `")), code("tasks/get"), code(status))
}

fn legacy_call(cells: &Cells) -> String {
    let commands = json!([{ "call": "echo", "arguments": { "message": "hi" } }]);
    cells.both(OLDER, ("everything", false), &commands, |lines| code(said(&lines[0])))
}

fn legacy_input(cells: &Cells) -> String {
    let commands = json!([
        { "call": "test_elicitation", "arguments": { "message": "m" } },
        { "call": "test_sampling", "arguments": { "prompt": "p" } },
    ]);
    cells.both(OLDER, ("sessions", true), &commands, |lines| {
        let said: Vec<String> = lines.iter().map(|line| code(said(line).split(", content").next().unwrap())).collect();
        said.join(", ")
    })
}

fn legacy_pages(cells: &Cells) -> String {
    let session = Speaker::begin(cells, "2025-11-25", "2025-11-25");
    let error = session.request("tools/call", &json!({ "name": "odd", "arguments": { "how": "wants a page" } })).json()
        ["error"]
        .clone();
    format!("{} with {}", code(&error["code"]), code(&error["data"]["elicitations"][0]["elicitationId"]))
}

/// The version in the header of the last call, and of the last `initialize`.
fn versions(cells: &Cells) -> String {
    let version = |id: &str| {
        cells.run((Sdk::TypeScriptLegacy, "legacy"), id, false, &json!([{ "call": "odd", "arguments": {} }]));
        let seen = cells.odd(id).seen_method("tools/call").pop().unwrap();
        seen.header("mcp-protocol-version").map(str::to_owned)
    };
    let (june, march) = (version("2025-06-18"), version("2025-03-26"));
    format!("{}, {} in the header", code(june.unwrap()), code(march.unwrap_or_else(|| "none".to_owned())))
}

/// A client in a session of an older version.
struct Speaker {
    client: Client,
    session: String,
    version: &'static str,
}

impl Speaker {
    fn begin(cells: &Cells, id: &str, version: &'static str) -> Self {
        let client = cells.client(id);
        let declared = json!({
            "elicitation": { "form": {}, "url": {} }, "sampling": { "tools": {} }, "roots": { "listChanged": true },
        });
        let session = begin(&client, version, &declared).0;
        Self { client, session, version }
    }

    fn headers(&self) -> [(&str, &str); 2] {
        [("MCP-Protocol-Version", self.version), ("Mcp-Session-Id", &self.session)]
    }

    fn request(&self, method: &str, params: &Value) -> Answer {
        let body = json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params });
        self.client.post(&self.headers(), body.to_string().as_bytes())
    }

    fn result(&self, method: &str, params: &Value) -> Value {
        let answer = self.request(method, params);
        let result = answer.json()["result"].clone();
        assert!(result.is_object(), "{}", answer.text());
        result
    }

    /// What it is asked in the middle of a call.
    fn asked(&self, how: &str) -> Value {
        let params = json!({ "name": "odd", "arguments": { "how": how } });
        let body = json!({ "jsonrpc": "2.0", "id": "call", "method": "tools/call", "params": params });
        let mut connection = self.client.connection();
        connection.send(&self.client.post_bytes(&self.headers(), body.to_string().as_bytes())).unwrap();
        assert_eq!(connection.head().status, 200);
        let asked = connection.event().unwrap();
        let response = json!({ "jsonrpc": "2.0", "id": asked["id"], "result": { "action": "decline" } });
        assert_eq!(self.client.post(&self.headers(), response.to_string().as_bytes()).status(), 202);
        assert_eq!(connection.event().unwrap()["id"], "call");
        asked
    }
}

/// Which members the definitions have that this client sees.
fn members(tools: &Value) -> Vec<String> {
    let tools = tools.as_array().unwrap().iter().flat_map(|tool| tool.as_object().unwrap().keys().cloned());
    let mut names: Vec<String> = tools.collect();
    names.sort_unstable();
    names.dedup();
    names
}

fn definitions_of_march(cells: &Cells) -> String {
    let tools = Speaker::begin(cells, "everything", "2025-03-26").result("tools/list", &json!({}))["tools"].clone();
    format!("left: `{}`", members(&tools).join("`, `"))
}

fn structured_of_march(cells: &Cells) -> String {
    let params = json!({ "name": "get-structured-content", "arguments": { "location": "Chicago" } });
    let result = Speaker::begin(cells, "everything", "2025-03-26").result("tools/call", &params);
    assert!(result["structuredContent"].is_null(), "{result}");
    code(result["content"][0]["text"].as_str().unwrap())
}

fn link_of_march(cells: &Cells) -> String {
    let params = json!({ "name": "get-resource-links", "arguments": { "count": 1 } });
    let links =
        |version| Speaker::begin(cells, "everything", version).result("tools/call", &params)["content"][1].clone();
    assert_eq!(links("2025-06-18")["type"], "resource_link");
    code(links("2025-03-26"))
}

/// What is declared to a server of `id`, by a client of `version` that declares all there is.
fn declared(cells: &Cells, id: &str, version: &'static str) -> String {
    let speaker = Speaker::begin(cells, id, version);
    speaker.result("tools/call", &json!({ "name": "odd", "arguments": {} }));
    let sessions = cells.odd(id).seen_method("initialize");
    let all: Vec<Value> = sessions.iter().map(|seen| seen.json()["params"]["capabilities"].clone()).collect();
    format!("the server gets {}", code(all.last().unwrap()))
}

fn asked_of_march(cells: &Cells) -> String {
    declared(cells, "2025-11-25", "2025-03-26")
}

fn asked_of_june(cells: &Cells) -> String {
    declared(cells, "2025-11-25", "2025-06-18")
}

fn page_of_june(cells: &Cells) -> String {
    let params = json!({ "name": "odd", "arguments": { "how": "asks for a visit" } });
    let answer = call(&cells.client("2025-06-18"), &capabilities(), params);
    let responses: Value = serde_json::from_str(&said(&answer.json())).unwrap();
    format!("the server gets {}", code(&responses[0]["error"]["code"]))
}

fn icons(cells: &Cells) -> String {
    let members =
        |version| members(&Speaker::begin(cells, "2025-11-25", version).result("tools/list", &json!({}))["tools"]);
    assert!(members("2025-11-25").contains(&"icons".to_owned()));
    format!("left: `{}`", members("2025-06-18").join("`, `"))
}

/// The fields of the form, the same whichever era it comes from.
fn form(cells: &Cells, version: &'static str) -> Value {
    let form = |id| Speaker::begin(cells, id, version).asked("asks at length")["params"]["requestedSchema"].clone();
    let (legacy, modern) = (form("2025-11-25"), form("modern"));
    assert_eq!(legacy, modern);
    legacy
}

fn form_of_june(cells: &Cells) -> String {
    let form = form(cells, "2025-06-18");
    assert_eq!(form["required"], json!(["one"]));
    code(&form["properties"])
}

fn form_of_november(cells: &Cells) -> String {
    assert_eq!(form(cells, "2025-11-25"), odd::newest_form()["requestedSchema"]);
    "as it is".to_owned()
}

fn tasks(cells: &Cells) -> String {
    let speaker = Speaker::begin(cells, "everything", "2025-11-25");
    let tools = speaker.result("tools/list", &json!({}))["tools"].clone();
    assert!(!members(&tools).contains(&"execution".to_owned()));
    let initialized = begin(&cells.client("everything"), "2025-11-25", &json!({})).1;
    let names: Vec<&str> = initialized["capabilities"].as_object().unwrap().keys().map(String::as_str).collect();
    format!("left: `{}`", names.join("`, `"))
}

fn batched(cells: &Cells, id: &str) -> String {
    let params = json!({ "name": "odd", "arguments": { "how": "answers in a batch" } });
    code(answered(&call(&cells.client(id), &capabilities(), params)))
}

fn batch_of_march(cells: &Cells) -> String {
    batched(cells, "2025-03-26")
}

fn batch_of_june(cells: &Cells) -> String {
    batched(cells, "2025-06-18")
}
