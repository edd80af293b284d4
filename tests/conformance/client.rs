//! Is the gateway a good client of its upstreams, as the official suite judges clients?
//!
//! The suite plays a server; the gateway has it as its only upstream, and a client before the gateway does what the
//! scenario asks for. It runs what a gateway does as a client; the page says what it leaves out.

use std::{fs, path::PathBuf, time::Duration};

use serde_json::{Value, json};

use super::{found_under, passed};
use crate::harness::{
    gateway::{Gateway, Setup},
    http,
    issuer::Issuer,
    mcp::Client,
    page::Table,
    peer::{Dial, Sdk, Suite},
    place,
};

/// What the gateway does as a client, by scenario.
const CLIENT: Table = Table {
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
        "auth/client-credentials-basic",
        "auth/client-credentials-jwt",
    ],
};

/// What the test does instead of an administrator: the token endpoint stands in the configuration.
const ADMINISTRATORS: [&str; 2] = ["authorization-server-metadata", "prm-pathbased-requested"];

/// A scenario under way: the suite's server, and what it tells the client beforehand.
struct Scenario {
    row: String,
    folder: PathBuf,
    suite: crate::harness::process::Process,
    url: String,
    context: Value,
}

impl Scenario {
    fn begin(name: &str, version: &str, row: &str) -> Self {
        let folder = place::scratch(&row.replace([' ', '/'], "-"));
        let mut suite = Suite::Newer.client(&folder, name, version);
        let asked = suite.until(Duration::from_secs(30), |_| fs::read_to_string(folder.join("asked")).ok());
        let asked: Value = serde_json::from_str(&asked).unwrap();
        let url = asked["url"].as_str().unwrap().to_owned();
        Self { row: row.to_owned(), folder, suite, url, context: asked["context"].clone() }
    }

    /// A gateway with the suite as its upstream, with these further lines.
    fn gateway(&self, issuer: &Issuer, lines: &str) -> Gateway {
        Setup::usual("client", issuer).upstream("suite", &self.url, lines).start()
    }

    /// Ends the scenario: nothing fails, not even with a warning, and the page says how much passes.
    fn end(mut self) {
        fs::write(self.folder.join("answered"), "").unwrap();
        self.suite.wait(Duration::from_secs(30));
        let mut found = found_under(&self.folder.join("found"));
        found.retain(|check, _| !ADMINISTRATORS.contains(&check.as_str()));
        let bad = |status: &str| ["FAILURE", "WARNING"].iter().any(|begins| status.starts_with(begins));
        assert!(!found.values().any(|status| bad(status)), "{}: {found:#?}", self.row);
        CLIENT.has(&self.row, &[passed(&found).to_string()]);
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
    scenario.end();
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

/// What an administrator looks up for `upstreams.toml`: the metadata of the authorization server of an upstream.
fn authorization_server(url: &str) -> Value {
    let at = url::Url::parse(url).unwrap();
    let resource = at.join(&format!("/.well-known/oauth-protected-resource{}", at.path())).unwrap();
    let server = http::fetch("GET", resource.as_str(), &[], b"").json()["authorization_servers"][0].clone();
    let metadata =
        url::Url::parse(server.as_str().unwrap()).unwrap().join("/.well-known/oauth-authorization-server").unwrap();
    http::fetch("GET", metadata.as_str(), &[], b"").json()
}

/// The gateway in its own name, with these further lines of the client.
fn in_its_own_name(name: &str, authentication: impl FnOnce(&Scenario, &Value) -> String) {
    let scenario = Scenario::begin(name, "2025-11-25", name);
    let issuer = Issuer::good();
    let server = authorization_server(&scenario.url);
    let client = format!("{{ id = {}, {} }}", scenario.context["client_id"], authentication(&scenario, &server));
    let endpoint = &server["token_endpoint"];
    let grant = format!(
        "grant = {{ strategy = \"client_credentials\", token_endpoint = {endpoint}, client = {client}, resource = \"{}\" }}",
        scenario.url
    );
    let gateway = scenario.gateway(&issuer, &grant);
    let listed = gateway.client_of(Some("suite"), &issuer, "alice").modern("tools/list", &json!({}));
    assert_eq!(listed.status(), 200, "{}", listed.text());
    drop(gateway);
    scenario.end();
}

#[test]
fn it_shows_its_secret() {
    in_its_own_name("auth/client-credentials-basic", |scenario, _| {
        let file = scenario.folder.join("secret");
        secret(&file, scenario.context["client_secret"].as_str().unwrap());
        format!("authentication = \"client_secret_basic\", secret = {{ file = \"{}\" }}", file.display())
    });
}

#[test]
fn it_signs_with_its_key() {
    in_its_own_name("auth/client-credentials-jwt", |scenario, server| {
        let file = scenario.folder.join("key.pem");
        secret(&file, scenario.context["private_key_pem"].as_str().unwrap());
        format!(
            "authentication = \"private_key_jwt\", key = {{ file = \"{}\" }}, assertion_audience = {}",
            file.display(),
            server["issuer"]
        )
    });
}

/// A secret's file is not readable by everybody.
fn secret(file: &std::path::Path, text: &str) {
    use std::os::unix::fs::PermissionsExt;
    fs::write(file, text).unwrap();
    fs::set_permissions(file, fs::Permissions::from_mode(0o600)).unwrap();
}

#[test]
fn the_page_has_no_other_row() {
    CLIENT.has_nothing_else();
}
