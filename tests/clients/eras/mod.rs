//! What becomes of each feature where client and server are of different eras, or of different revisions of one?
//!
//! The tables of `tests/README.md`, row by row. Clients and servers are published ones wherever they show the feature;
//! where none does, because it breaks a rule or comes too seldom, a row speaks to the byte and says so. What a row saw is
//! what the page says.

mod credentials;
mod odd;
mod to_legacy;
mod to_modern;
mod within;

use std::panic::{AssertUnwindSafe, catch_unwind};

use serde_json::{Value, json};

use crate::harness::{
    gateway::{ALLOW_ALL, Gateway, Setup},
    http::Answer,
    issuer::Issuer,
    mcp::Client,
    page::Table,
    peer::{Dial, Peer, Sdk},
    recorder::Recorder,
    serve::Served,
};

/// One feature.
struct Row {
    feature: &'static str,
    /// `bridge`: carried in the other's form; `emulate`: played by the gateway; `refuse`: neither; `drop`: not carried on.
    verdict: &'static str,
    /// Who shows it.
    peers: &'static str,
    /// Shows it, and says what was seen.
    see: fn(&Cells) -> String,
}

/// Holds every row of a table, and says of all that fail.
fn hold(name: &'static str, rows: &[Row], cells: &Cells) {
    let features: Vec<&'static str> = rows.iter().map(|row| row.feature).collect();
    let table = Table { page: "tests/README.md", name, rows: features.leak() };
    let holds = |row: &&Row| {
        let held = catch_unwind(AssertUnwindSafe(|| {
            let seen = (row.see)(cells);
            table.has(row.feature, &[row.verdict.to_owned(), seen, row.peers.to_owned()]);
        }));
        held.is_err()
    };
    let failed: Vec<&str> = rows.iter().filter(holds).map(|row| row.feature).collect();
    assert!(failed.is_empty(), "{name}: these rows fail, as said above: {failed:?}");
    table.has_nothing_else();
    assert!(cells.gateway.verify().status.success());
}

/// A server behind the gateway.
struct Server {
    id: &'static str,
    behind: Behind,
    /// Its configuration besides.
    lines: &'static str,
    /// One of its tools, to wait for; none where none will ever be seen.
    tool: &'static str,
}

enum Behind {
    Published(Peer),
    /// On HTTP+SSE.
    Older(Peer),
    Rust(Served),
    Odd(Recorder),
}

/// One gateway, and the servers behind it.
struct Cells {
    issuer: Issuer,
    gateway: Gateway,
    servers: Vec<Server>,
}

impl Cells {
    fn start(setup: Setup, servers: Vec<Server>) -> Self {
        let issuer = Issuer::good();
        let mut setup = setup.issuer(&issuer.url()).policy("allow.cedar", ALLOW_ALL);
        for Server { id, behind, lines, .. } in &servers {
            let url = match behind {
                Behind::Published(peer) => peer.url(),
                Behind::Older(peer) => format!("{}/sse", peer.origin()),
                Behind::Rust(served) => format!("{}/mcp", served.origin()),
                Behind::Odd(recorder) => recorder.url(),
            };
            setup = setup.upstream(id, &url, &format!("grant = {{ strategy = \"none\" }}\n{lines}"));
        }
        let cells = Self { issuer, gateway: setup.start(), servers };
        for Server { id, tool, .. } in cells.servers.iter().filter(|server| !server.tool.is_empty()) {
            drop(cells.client(id).awaiting(tool));
        }
        cells
    }

    fn server(&self, id: &str) -> &Behind {
        &self.servers.iter().find(|server| server.id == id).unwrap().behind
    }

    /// What an odd server saw.
    fn odd(&self, id: &str) -> &Recorder {
        let Behind::Odd(recorder) = self.server(id) else { panic!("`{id}` records nothing") };
        recorder
    }

    /// A published server.
    fn peer(&self, id: &str) -> &Peer {
        let (Behind::Published(peer) | Behind::Older(peer)) = self.server(id) else {
            panic!("`{id}` is not published")
        };
        peer
    }

    /// A client to the byte.
    fn client(&self, id: &str) -> Client {
        self.gateway.client_of(Some(id), &self.issuer, "alice")
    }

    /// What a published client prints after it has connected, which it does in the era asked for.
    fn run(&self, (sdk, era): (Sdk, &'static str), id: &str, input: bool, commands: &Value) -> Vec<Value> {
        let url = self.gateway.endpoint(Some(id));
        let dial = Dial { token: Some(self.issuer.token("alice", &url)), url, era, authority: None, input };
        let mut lines = sdk.run(self.gateway.setup().folder(), &dial, commands);
        let revision = if era == MODERN { MODERN } else { "2025-11-25" };
        assert_eq!(lines.remove(0)["connected"]["protocol"], revision, "{sdk:?} {era} at {id}");
        lines
    }

    /// What `read` makes of what both published clients print, which is the same.
    fn both(
        &self,
        clients: [(Sdk, &'static str); 2],
        (id, input): (&str, bool),
        commands: &Value,
        read: impl Fn(&[Value]) -> String,
    ) -> String {
        // One after the other would take twice as long.
        let printed = std::thread::scope(|scope| {
            let running = clients.map(|client| scope.spawn(move || self.run(client, id, input, commands)));
            running.map(|client| client.join().unwrap())
        });
        let [one, other] = printed.map(|lines| (read(&lines), lines));
        assert_eq!(one.0, other.0, "{clients:?} at {id}:\n{:?}\n{:?}", one.1, other.1);
        one.0
    }
}

const MODERN: &str = "2026-07-28";
/// The published clients of each era.
const NEWER: [(Sdk, &str); 2] = [(Sdk::TypeScript, MODERN), (Sdk::Python, MODERN)];
const OLDER: [(Sdk, &str); 2] = [(Sdk::TypeScriptLegacy, "legacy"), (Sdk::PythonLegacy, "legacy")];

/// Begins a session in `version`: its id, and what the gateway says of itself.
fn begin(client: &Client, version: &str, declared: &Value) -> (String, Value) {
    let params =
        json!({ "protocolVersion": version, "capabilities": declared, "clientInfo": { "name": "t", "version": "1" } });
    let body = json!({ "jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params });
    let answer = client.post(&[], body.to_string().as_bytes());
    let result = answer.json()["result"].clone();
    assert_eq!(result["protocolVersion"], version, "{}", answer.text());
    (answer.header("mcp-session-id").unwrap().to_owned(), result)
}

/// What an answer says: its text, or its error.
fn said(answer: &Value) -> String {
    let code = &answer["error"]["code"];
    if !code.is_null() {
        let own = answer["error"]["data"]["code"].as_str();
        return own.map_or_else(|| code.to_string(), |own| format!("{code} {own}"));
    }
    let result = &answer["result"];
    let text = result["content"][0]["text"].as_str().unwrap_or_else(|| panic!("neither text nor error: {answer}"));
    if result["isError"] == true { format!("isError: {text}") } else { text.to_owned() }
}

/// The same with the status.
fn answered(answer: &Answer) -> String {
    format!("{} {}", answer.status(), said(&answer.json()))
}

/// As a piece of a table's cell.
fn code(text: impl ToString) -> String {
    format!("`{}`", text.to_string())
}

#[test]
fn a_modern_client_before_legacy_servers() {
    to_legacy::hold();
}

#[test]
fn a_legacy_client_before_modern_servers() {
    to_modern::hold();
}

#[test]
fn within_an_era() {
    within::hold();
}

#[test]
fn credentials_of_the_gateway() {
    credentials::hold();
}
