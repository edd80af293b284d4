//! Every published client in front of every published server: lists, calls, progress, cancellation.

use std::{collections::BTreeSet, path::Path};

use serde_json::{Value, json};

use crate::harness::{
    gateway::{Gateway, Setup},
    issuer::Issuer,
    peer::{self, Dial, Peer, Sdk},
    place, rmcp_server,
    serve::Served,
};

/// Servers of both eras on four SDKs, behind one gateway.
struct Estate {
    typescript: Peer,
    everything: Peer,
    python: Peer,
    rust: Served,
    issuer: Issuer,
    gateway: Gateway,
}

impl Estate {
    fn start(name: &str) -> Self {
        let setup = Setup::new(name);
        let folder = setup.folder().to_owned();
        let (typescript, everything) = (peer::typescript(&folder), peer::everything(&folder));
        let (python, rust) = (peer::python(&folder), rmcp_server::start());
        let issuer = Issuer::good();
        let gateway = setup
            .issuer(&issuer.url())
            .policy("allow.cedar", crate::harness::gateway::ALLOW_ALL)
            .open_upstream("typescript", &typescript.url())
            .open_upstream("everything", &everything.url())
            .open_upstream("python", &python.url())
            .open_upstream("rust", &format!("{}/mcp", rust.origin()))
            .start();
        for (id, tool) in [("typescript", "add"), ("everything", "echo"), ("python", "add"), ("rust", "add")] {
            gateway.client_of(Some(id), &issuer, "alice").awaiting(tool);
        }
        Self { typescript, everything, python, rust, issuer, gateway }
    }

    fn folder(&self) -> &Path {
        self.gateway.setup().folder()
    }

    /// Runs a client through the gateway.
    fn run(&self, (sdk, era): (Sdk, &'static str), endpoint: Option<&str>, commands: &Value) -> Vec<Value> {
        let url = self.gateway.endpoint(endpoint);
        let token = self.issuer.token("alice", &url);
        let lines =
            sdk.run(self.folder(), &Dial { url, token: Some(token), era, authority: None, input: false }, commands);
        assert!(lines[0]["connected"].is_object(), "{sdk:?} {era} {endpoint:?}: {}", lines[0]);
        lines
    }

    /// Runs the same client at the server itself.
    fn directly(&self, (sdk, era): (Sdk, &'static str), id: &str, commands: &Value) -> Vec<Value> {
        let url = match id {
            "typescript" => self.typescript.url(),
            "everything" => self.everything.url(),
            "python" => self.python.url(),
            _ => format!("{}/mcp", self.rust.origin()),
        };
        sdk.run(self.folder(), &Dial { url, era, ..Dial::default() }, commands)
    }
}

fn text_of(line: &Value) -> &str {
    line["result"]["content"][0]["text"].as_str().unwrap_or_else(|| panic!("no text: {line}"))
}

#[test]
fn every_client_uses_every_server_at_its_own_endpoint() {
    let estate = Estate::start("matrix");
    let adding = json!([
        { "list": true },
        { "call": "add", "arguments": { "a": 1, "b": 2 } },
        { "call": "nowhere" },
    ]);
    let everything = json!([
        { "list": true },
        { "call": "echo", "arguments": { "message": "hi" } },
        { "call": "nowhere" },
    ]);
    for client in Sdk::IN_EACH_ERA {
        for id in ["typescript", "everything", "python", "rust"] {
            let commands = if id == "everything" { &everything } else { &adding };
            let lines = estate.run(client, Some(id), commands);
            // A legacy client reaches every server directly, and a modern one those that are modern.
            if client.1 == "legacy" || id != "everything" {
                let direct = estate.directly(client, id, commands);
                assert_eq!(set(&lines[1]["tools"]), set(&direct[1]["tools"]), "{client:?} {id}");
                assert_eq!(lines[2]["result"]["content"], direct[2]["result"]["content"], "{client:?} {id}");
                assert_eq!(
                    lines[2]["result"]["structuredContent"], direct[2]["result"]["structuredContent"],
                    "{client:?} {id}"
                );
            }
            assert_eq!(text_of(&lines[2]), if id == "everything" { "Echo: hi" } else { "3" }, "{client:?} {id}");
            assert_eq!(lines[3]["error"]["code"], -32602, "{client:?} {id}: {}", lines[3]);
        }
    }
}

#[test]
fn every_client_uses_all_servers_at_the_federated_endpoint() {
    let estate = Estate::start("federated");
    let commands = json!([
        { "list": true },
        { "call": "typescript__add", "arguments": { "a": 1, "b": 2 } },
        { "call": "everything__echo", "arguments": { "message": "hi" } },
        { "call": "python__add", "arguments": { "a": 3, "b": 4 } },
        { "call": "rust__add", "arguments": { "a": 5, "b": 6 } },
        { "call": "typescript__fail" },
        { "call": "add", "arguments": { "a": 1, "b": 2 } },
    ]);
    let mut lists = Vec::new();
    for client in Sdk::IN_EACH_ERA {
        let lines = estate.run(client, None, &commands);
        let said: Vec<&str> = lines[2..6].iter().map(text_of).collect();
        assert_eq!(said, ["3", "Echo: hi", "7", "11"], "{client:?}");
        assert_eq!((&lines[6]["result"]["isError"], text_of(&lines[6])), (&json!(true), "it failed"), "{client:?}");
        assert_eq!(lines[7]["error"]["code"], -32602, "{client:?}: no name without its upstream");
        lists.push(lines[1]["tools"].clone());
    }
    assert!(lists.iter().all(|list| *list == lists[0]), "one order for everybody: {lists:?}");
    let names = set(&lists[0]);
    for (id, count) in [("typescript", 7), ("python", 4), ("rust", 1)] {
        assert_eq!(names.iter().filter(|name| name.starts_with(&format!("{id}__"))).count(), count, "{id}");
    }
    assert!(names.iter().filter(|name| name.starts_with("everything__")).count() >= 8, "{names:?}");
}

#[test]
fn every_client_follows_progress() {
    let estate = Estate::start("progress");
    let counting = json!([{ "call": "count", "arguments": { "steps": 3 }, "progress": true }]);
    let long = json!([{
        "call": "trigger-long-running-operation", "arguments": { "duration": 1, "steps": 4 }, "progress": true,
    }]);
    for client in Sdk::IN_EACH_ERA {
        for (id, commands, steps) in [("typescript", &counting, 3), ("python", &counting, 3), ("everything", &long, 4)]
        {
            let line = estate.run(client, Some(id), commands).remove(1);
            let expected: Vec<u64> = (1..=steps).collect();
            let seen: Vec<u64> = line["progress"]
                .as_array()
                .unwrap_or_else(|| panic!("{client:?} {id}: {line}"))
                .iter()
                .map(|step| step.as_f64().unwrap() as u64)
                .collect();
            assert_eq!(seen, expected, "{client:?} {id}");
        }
    }
}

#[test]
fn a_cancelled_call_is_cancelled_at_the_server() {
    let estate = Estate::start("cancel");
    let commands = json!([{ "call": "wait", "arguments": { "ms": 20_000 }, "cancel_after_ms": 1_000 }]);
    let cancelling = Sdk::IN_EACH_ERA.into_iter().filter(|(sdk, _)| *sdk != Sdk::PythonLegacy);
    for (before, client) in cancelling.enumerate() {
        for (id, server) in [("typescript", &estate.typescript), ("python", &estate.python)] {
            assert_eq!(estate.run(client, Some(id), &commands)[1], json!({ "cancelled": true }), "{client:?} {id}");
            place::wait_for(&format!("{client:?} cancels at {id}"), place::PATIENCE, || {
                (server.process.output().matches("wait cancelled").count() == before + 1).then_some(())
            });
        }
    }
}

/// As it is deployed: by TLS, with an authority that only the client was told of.
#[test]
fn every_client_gets_through_by_tls() {
    let issuer = Issuer::good();
    let rust = rmcp_server::start();
    let setup = Setup::usual("tls", &issuer).tls().open_upstream("rust", &format!("{}/mcp", rust.origin()));
    let gateway = setup.start();
    let url = gateway.endpoint(None);
    assert!(url.starts_with("https://"), "{url}");
    gateway.client_of(None, &issuer, "alice").awaiting("rust__add");
    for (sdk, era) in Sdk::IN_EACH_ERA {
        let token = Some(issuer.token("alice", &url));
        let dial = Dial { url: url.clone(), token, era, authority: gateway.authority(), input: false };
        let commands = json!([{ "list": true }, { "call": "rust__add", "arguments": { "a": 1, "b": 2 } }]);
        let lines = sdk.run(gateway.setup().folder(), &dial, &commands);
        assert_eq!(lines[1]["tools"], json!(["rust__add"]), "{sdk:?} {era}: {}", lines[0]);
        assert_eq!(text_of(&lines[2]), "3", "{sdk:?} {era}");
    }
    let blind = Dial {
        url: url.clone(),
        token: Some(issuer.token("alice", &url)),
        era: "legacy",
        authority: None,
        input: false,
    };
    let lines = Sdk::TypeScript.run(gateway.setup().folder(), &blind, &json!([{ "list": true }]));
    assert!(lines[0]["failed"].is_object(), "nobody else is believed: {}", lines[0]);
}

fn set(list: &Value) -> BTreeSet<&str> {
    list.as_array().unwrap_or_else(|| panic!("no list: {list}")).iter().map(|name| name.as_str().unwrap()).collect()
}
