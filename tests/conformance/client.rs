//! Is the gateway a good client of its upstreams, as the official suite judges clients?
//!
//! The suite plays a server; the gateway has it as its only upstream, and a client before the gateway does what the
//! scenario asks for. How the gateway comes by a credential is in [`super::grants`].

use std::{fs, path::PathBuf, time::Duration};

use serde_json::{Value, json};

use super::{Found, checks_under, judged, passed};
use crate::harness::{
    gateway::{Gateway, Setup},
    issuer::Issuer,
    mcp::Client,
    page::Table,
    peer::{Dial, Sdk, Suite},
    place,
};

/// What the gateway does as a client, by scenario.
pub(super) const CLIENT: Table = Table {
    page: "tests/README.md",
    name: "conformance of clients",
    rows: &[
        "initialize",
        "tools_call at 2025-11-25",
        "tools_call at 2026-07-28",
        "sse-retry",
        "request-metadata",
        "sep-2322-client-request-state",
        "http-standard-headers",
        "http-custom-headers",
        "http-invalid-tool-headers",
        "json-schema-ref-no-deref",
        "json-schema-2020-12-preservation at 2025-11-25",
        "json-schema-2020-12-preservation at 2026-07-28",
    ],
};

/// A scenario under way: the suite's server, and what it tells the client beforehand.
pub(super) struct Scenario {
    row: String,
    pub(super) folder: PathBuf,
    suite: crate::harness::process::Process,
    pub(super) url: String,
    pub(super) context: Value,
}

impl Scenario {
    pub(super) fn begin(name: &str, version: &str, row: &str) -> Self {
        let folder = place::scratch(&row.replace([' ', '/'], "-"));
        let mut suite = Suite::Newer.client(&folder, name, version);
        let asked = suite.until(Duration::from_secs(90), |_| fs::read_to_string(folder.join("asked")).ok());
        let asked: Value = serde_json::from_str(&asked).unwrap();
        let url = asked["url"].as_str().unwrap().to_owned();
        Self { row: row.to_owned(), folder, suite, url, context: asked["context"].clone() }
    }

    /// A gateway with the suite as its upstream, with these further lines.
    fn gateway(&self, issuer: &Issuer, lines: &str) -> Gateway {
        Setup::usual("client", issuer).upstream("suite", &self.url, lines).start()
    }

    /// Ends the scenario: nothing fails, not even with a warning, and the table says how much passes. Of what the test did
    /// itself, in an administrator's stead, one check each does not count: that `own` names, the first of its name.
    pub(super) fn end(mut self, table: &Table, own: &[&str]) {
        fs::write(self.folder.join("answered"), "").unwrap();
        self.suite.wait(Duration::from_secs(90));
        let mut checks = checks_under(&self.folder.join("found"));
        for name in own {
            let first = checks.iter().position(|check| check["id"] == *name);
            checks.remove(first.unwrap_or_else(|| panic!("{}: no check `{name}`: {checks:#?}", self.row)));
        }
        let mut found = Found::new();
        judged(&checks, "", &mut found);
        let bad = |status: &str| ["FAILURE", "WARNING"].iter().any(|begins| status.starts_with(begins));
        assert!(!found.values().any(|status| bad(status)), "{}: {found:#?}", self.row);
        table.has(&self.row, &[passed(&found).to_string()]);
    }
}

const OPEN: &str = "grant = { strategy = \"none\" }";

/// A scenario whose server takes everybody: `drive` is the client before the gateway.
fn open(name: &str, version: &str, row: &str, drive: impl FnOnce(&Scenario, &Gateway, &Issuer, Client)) {
    let scenario = Scenario::begin(name, version, row);
    let issuer = Issuer::good();
    let gateway = scenario.gateway(&issuer, OPEN);
    let client = gateway.client_of(Some("suite"), &issuer, "alice");
    drive(&scenario, &gateway, &issuer, client);
    drop(gateway);
    scenario.end(&CLIENT, &[]);
}

/// A published client of either era calls these tools, and answers what is asked.
fn published(gateway: &Gateway, issuer: &Issuer, calls: &Value) {
    for era in ["2026-07-28", "legacy"] {
        let url = gateway.endpoint(Some("suite"));
        let dial = Dial { token: Some(issuer.token("alice", &url)), url, era, input: true, ..Dial::default() };
        let lines = Sdk::TypeScript.run(gateway.setup().folder(), &dial, calls);
        assert!(lines.iter().all(|line| line["error"].is_null() && line["failed"].is_null()), "{era}: {lines:?}");
    }
}

#[test]
fn it_initializes() {
    open("initialize", "2025-11-25", "initialize", |_, _, _, client| {
        client.modern("tools/list", &json!({}));
    });
}

fn calls_tools(version: &str) {
    open("tools_call", version, &format!("tools_call at {version}"), |_, gateway, issuer, _| {
        published(
            gateway,
            issuer,
            &json!([{ "list": true }, { "call": "add_numbers", "arguments": { "a": 1, "b": 2 } }]),
        );
    });
}

#[test]
fn it_calls_tools_of_2025_11_25() {
    calls_tools("2025-11-25");
}

#[test]
fn it_calls_tools_of_2026_07_28() {
    calls_tools("2026-07-28");
}

#[test]
fn it_comes_back_to_a_stream() {
    open("sse-retry", "2025-11-25", "sse-retry", |_, _, _, client| {
        let answer = client.call("test_reconnection", &json!({})).json();
        assert!(answer["result"].is_object(), "{answer}");
    });
}

#[test]
fn its_requests_carry_their_metadata() {
    open("request-metadata", "2026-07-28", "request-metadata", |_, _, _, client| {
        client.modern("tools/list", &json!({}));
    });
}

#[test]
fn what_a_server_wants_back_comes_back_as_it_was() {
    let name = "sep-2322-client-request-state";
    open(name, "2026-07-28", name, |_, gateway, issuer, client| {
        let calls: Vec<Value> = client.tools().iter().map(|tool| json!({ "call": tool })).collect();
        assert_eq!(calls.len(), 4, "{calls:?}");
        published(gateway, issuer, &calls.into());
    });
}

#[test]
fn its_headers_mirror_the_body() {
    open("http-standard-headers", "2026-07-28", "http-standard-headers", |_, _, _, client| {
        for tool in client.tools() {
            assert_eq!(client.call(&tool, &json!({})).status(), 200, "{tool}");
        }
        let mut asked = 0;
        for (list, kind, key, method) in [
            ("resources/list", "resources", "uri", "resources/read"),
            ("prompts/list", "prompts", "name", "prompts/get"),
        ] {
            for offered in client.modern(list, &json!({})).json()["result"][kind].as_array().unwrap() {
                let answer = client.modern(method, &json!({ key: offered[key] }));
                assert_eq!(answer.status(), 200, "{offered}: {}", answer.text());
                asked += 1;
            }
        }
        assert_eq!(asked, 3, "two resources and a prompt");
    });
}

#[test]
fn its_headers_mirror_arguments() {
    open("http-custom-headers", "2026-07-28", "http-custom-headers", |scenario, gateway, issuer, _| {
        let calls = scenario.context["toolCalls"].as_array().unwrap().iter();
        let calls = calls.map(|call| json!({ "call": call["name"], "arguments": call["arguments"] }));
        published(gateway, issuer, &std::iter::once(json!({ "list": true })).chain(calls).collect());
    });
}

#[test]
fn tools_with_impossible_headers_are_not_offered() {
    open("http-invalid-tool-headers", "2026-07-28", "http-invalid-tool-headers", |_, _, _, client| {
        assert_eq!(client.tools(), ["valid_tool"]);
        let session = client.initialize();
        assert_eq!(session.call("valid_tool", &json!({ "region": "eu" })).status(), 200);
        for tool in
            ["invalid_empty_header", "invalid_object_header", "invalid_duplicate_diff_case", "invalid_space_in_name"]
        {
            assert_eq!(session.call(tool, &json!({})).json()["error"]["code"], -32602, "{tool}");
        }
    });
}

#[test]
fn references_in_schemas_are_not_followed() {
    open("json-schema-ref-no-deref", "2026-07-28", "json-schema-ref-no-deref", |_, _, _, client| {
        assert_eq!(client.tools(), ["lookup_user"]);
        client.call("lookup_user", &json!({ "id": "alice" }));
    });
}

fn schemas_are_kept(version: &str) {
    let (name, echo) = ("json-schema-2020-12-preservation", "json_schema_echo");
    open(name, version, &format!("{name} at {version}"), |_, _, _, client| {
        let listed = client.modern("tools/list", &json!({})).json();
        let tools = listed["result"]["tools"].as_array().unwrap();
        let focal = tools.iter().find(|tool| tool["name"] != echo).unwrap();
        assert_eq!(client.call(echo, &json!({ "schema": focal["inputSchema"] })).status(), 200);
    });
}

#[test]
fn schemas_of_2025_11_25_are_kept() {
    schemas_are_kept("2025-11-25");
}

#[test]
fn schemas_of_2026_07_28_are_kept() {
    schemas_are_kept("2026-07-28");
}

#[test]
fn the_page_has_no_other_row() {
    CLIENT.has_nothing_else();
}
