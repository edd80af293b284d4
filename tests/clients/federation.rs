//! Two published servers, one of each era, behind `/mcp`: what each does alone, it does beside the other, for every
//! published client.
//!
//! The same operations run at the server itself, at `/mcp/{upstream}` and at `/mcp`. What comes back has to be the same,
//! but for the names and URIs, which on `/mcp` say whose they are.

use serde_json::{Value, json};

use crate::harness::{
    gateway::{Gateway, Setup},
    issuer::Issuer,
    peer::{self, Dial, Peer, Sdk},
    place,
};

/// The server on the SDK of 2026-07-28.
const NEWER: &str = "newer";
/// The server that knows nothing but sessions.
const OLDER: &str = "older";

struct Estate {
    newer: Peer,
    older: Peer,
    issuer: Issuer,
    gateway: Gateway,
}

impl Estate {
    fn start(name: &str, prefix: &str) -> Self {
        let issuer = Issuer::good();
        let setup = Setup::usual(name, &issuer).gateway(&format!("prefix = \"{prefix}\""));
        let folder = setup.folder().to_owned();
        let (newer, older) = (peer::typescript(&folder), peer::everything(&folder));
        // Nobody tells the gateway which is which.
        let gateway = setup.open_upstream(NEWER, &newer.url()).open_upstream(OLDER, &older.url()).start();
        for (id, tool) in [(NEWER, "add"), (OLDER, "get-sum")] {
            gateway.client_of(Some(id), &issuer, "alice").awaiting(tool);
        }
        Self { newer, older, issuer, gateway }
    }

    /// What a client prints at an endpoint of the gateway, a line for each command.
    fn run(&self, client: (Sdk, &'static str), endpoint: Option<&str>, commands: &[Value]) -> Vec<Value> {
        let url = self.gateway.endpoint(endpoint);
        let token = Some(self.issuer.token("alice", &url));
        self.dial(client, Dial { url, token, era: client.1, ..Dial::default() }, commands)
    }

    /// What it prints at the server itself, where it can speak with it.
    fn directly(&self, client: (Sdk, &'static str), id: &str, commands: &[Value]) -> Option<Vec<Value>> {
        let server = if id == NEWER { &self.newer } else { &self.older };
        let dial = Dial { url: server.url(), era: client.1, ..Dial::default() };
        (id == NEWER || client.1 == "legacy").then(|| self.dial(client, dial, commands))
    }

    fn dial(&self, (sdk, era): (Sdk, &'static str), dial: Dial, commands: &[Value]) -> Vec<Value> {
        let url = dial.url.clone();
        let mut lines = sdk.run(self.gateway.setup().folder(), &dial, &json!(commands));
        let first = lines.remove(0);
        assert!(first["connected"].is_object(), "{sdk:?} {era} at {url}: {first}");
        assert_eq!(lines.len(), commands.len(), "{sdk:?} {era} at {url}: {lines:?}");
        lines
    }
}

/// Everything that is asked of a server, in its own names.
fn operations(id: &str) -> Vec<Value> {
    let ask = |method: &str, params: Value| json!({ "ask": method, "params": params });
    let call = |tool: &str, arguments: Value| json!({ "call": tool, "arguments": arguments });
    let complete = |reference: Value, name: &str, value: &str| {
        ask("completion/complete", json!({ "ref": reference, "argument": { "name": name, "value": value } }))
    };
    let prompt = |name: &str| json!({ "type": "ref/prompt", "name": name });
    let template = |uri: &str| json!({ "type": "ref/resource", "uri": uri });
    let lists = ["tools/list", "prompts/list", "resources/list", "resources/templates/list"];
    let own = match id {
        NEWER => vec![
            call("echo", json!({ "message": "hi" })),
            // Structured content, a tool's own error, arguments of the wrong type.
            call("add", json!({ "a": 1, "b": 2 })),
            call("fail", json!({})),
            call("add", json!({ "a": "x" })),
            call("blob", json!({ "n": 100_000 })),
            json!({ "call": "count", "arguments": { "steps": 3 }, "progress": true }),
            ask("prompts/get", json!({ "name": "greet", "arguments": { "name": "ada" } })),
            ask("prompts/get", json!({ "name": "greet", "arguments": {} })),
            ask("resources/read", json!({ "uri": "note://all" })),
            ask("resources/read", json!({ "uri": "note://of/ada" })),
            ask("resources/read", json!({ "uri": "none://of/ada" })),
            complete(prompt("greet"), "name", "a"),
            complete(template("note://of/{name}"), "name", "g"),
        ],
        _ => vec![
            call("echo", json!({ "message": "hi" })),
            call("get-structured-content", json!({ "location": "Chicago" })),
            call("get-annotated-message", json!({ "messageType": "error", "includeImage": true })),
            call("get-sum", json!({ "a": "x" })),
            call("get-tiny-image", json!({})),
            call("get-resource-links", json!({ "count": 2 })),
            call("get-resource-reference", json!({ "resourceType": "Text", "resourceId": 1 })),
            json!({ "call": "trigger-long-running-operation", "arguments": { "duration": 1, "steps": 4 }, "progress": true }),
            ask("prompts/get", json!({ "name": "args-prompt", "arguments": { "city": "Turin" } })),
            ask(
                "prompts/get",
                json!({ "name": "resource-prompt", "arguments": { "resourceType": "Text", "resourceId": "1" } }),
            ),
            ask("resources/read", json!({ "uri": "demo://resource/static/document/features.md" })),
            ask("resources/read", json!({ "uri": "demo://resource/dynamic/text/7" })),
            ask("resources/read", json!({ "uri": "demo://nothing" })),
            complete(prompt("completable-prompt"), "department", "S"),
            complete(template("demo://resource/dynamic/text/{resourceId}"), "resourceId", "7"),
        ],
    };
    let unknown = [
        call("nowhere", json!({})),
        ask("prompts/get", json!({ "name": "nowhere" })),
        complete(prompt("nowhere"), "name", "a"),
    ];
    lists.iter().map(|method| ask(method, json!({}))).chain(own).chain(unknown).collect()
}

/// The same command in the names of the federated endpoint.
fn outward(id: &str, command: &Value) -> Value {
    let mut command = command.clone();
    for (place, joint) in [
        ("/call", "__"),
        ("/params/name", "__"),
        ("/params/ref/name", "__"),
        ("/params/uri", "+"),
        ("/params/ref/uri", "+"),
    ] {
        if let Some(name) = command.pointer_mut(place) {
            *name = json!(format!("{id}{joint}{}", name.as_str().unwrap()));
        }
    }
    command
}

/// What came back on the federated endpoint, in the names of one upstream, and of its lists only what is its own.
fn inward(id: &str, line: &Value) -> Value {
    let mut line = line.clone();
    let prefix = format!("{id}__");
    for list in ["tools", "prompts"] {
        let Some(all) = line.pointer_mut(&format!("/result/{list}")).and_then(Value::as_array_mut) else { continue };
        all.retain(|one| one["name"].as_str().unwrap().starts_with(&prefix));
        for one in all {
            one["name"] = json!(one["name"].as_str().unwrap().strip_prefix(&prefix));
        }
    }
    for (list, member) in [("resources", "uri"), ("resourceTemplates", "uriTemplate")] {
        let Some(all) = line.pointer_mut(&format!("/result/{list}")).and_then(Value::as_array_mut) else { continue };
        all.retain(|one| one[member].as_str().unwrap().starts_with(&format!("{id}+")));
    }
    unprefixed(&mut line, &format!("{id}+"));
    line
}

/// Takes the upstream from every URI; one that does not carry it is left, and will not be the same.
fn unprefixed(value: &mut Value, prefix: &str) {
    match value {
        Value::Array(all) => all.iter_mut().for_each(|one| unprefixed(one, prefix)),
        Value::Object(members) => {
            for (name, value) in members {
                match value.as_str() {
                    Some(text) if name.starts_with("uri") => {
                        *value = json!(text.strip_prefix(prefix).unwrap_or(&format!("not under {prefix}: {text}")));
                    }
                    _ => unprefixed(value, prefix),
                }
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// Without what belongs to the moment: the time of day in a text, in refusals the words, which name what was asked, and
/// how long an answer is good, which for several upstreams is the shortest of their times.
fn lasting(line: &Value) -> Value {
    match line {
        Value::Array(all) => all.iter().map(lasting).collect(),
        Value::Object(members) => {
            let kept = members.iter().filter(|(name, _)| !["message", "requestId", "ttlMs"].contains(&name.as_str()));
            kept.map(|(name, value)| (name.clone(), lasting(value))).collect()
        }
        Value::String(text) if text.contains(" created at ") => json!(text.split(" created at ").next()),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => line.clone(),
    }
}

/// What a tool, prompt or resource gave, without what is said about the answer itself.
fn given(line: &Value) -> Value {
    let of = |member: &str| lasting(&line["result"][member]);
    let members = ["content", "structuredContent", "isError", "messages", "contents", "completion", "description"];
    members
        .iter()
        .map(|member| ((*member).to_owned(), of(member)))
        .chain([("progress".to_owned(), line["progress"].clone())])
        .collect()
}

#[test]
fn federation_passes_everything_that_each_upstream_passes_alone() {
    let estate = Estate::start("federation", "always");
    let both = [NEWER, OLDER].map(|id| (id, operations(id)));
    let federated: Vec<Value> =
        both.iter().flat_map(|(id, commands)| commands.iter().map(|command| outward(id, command))).collect();
    for client in Sdk::IN_EACH_ERA {
        let mut together = estate.run(client, None, &federated);
        for (id, commands) in &both {
            let theirs: Vec<Value> = together.drain(..commands.len()).collect();
            let alone = estate.run(client, Some(id), commands);
            for ((command, alone), together) in commands.iter().zip(&alone).zip(&theirs) {
                assert_eq!(lasting(&inward(id, together)), lasting(alone), "{client:?} {id} {command}");
            }
            let Some(direct) = estate.directly(client, id, commands) else { continue };
            for ((command, direct), alone) in commands.iter().zip(&direct).zip(&alone) {
                // What nobody has, the gateway itself refuses; servers differ in how they do.
                if command.to_string().contains("nowhere") {
                    continue;
                }
                assert_eq!(given(alone), given(direct), "{client:?} {id} {command}: {alone} {direct}");
                assert_eq!(
                    alone["error"].is_object(),
                    direct["error"].is_object(),
                    "{client:?} {id} {command}: {alone} {direct}"
                );
            }
        }
    }
    assert!(estate.gateway.verify().status.success());
}

/// Names that only one upstream has need no prefix, and find their upstream all the same.
#[test]
fn bare_names_find_their_upstream_in_both_eras() {
    let estate = Estate::start("federation-bare", "on_conflict");
    let commands = [
        json!({ "list": true }),
        json!({ "call": "add", "arguments": { "a": 1, "b": 2 } }),
        json!({ "call": "get-sum", "arguments": { "a": 3, "b": 4 } }),
        json!({ "call": "newer__echo", "arguments": { "message": "hi" } }),
        json!({ "call": "older__echo", "arguments": { "message": "hi" } }),
        json!({ "ask": "prompts/get", "params": { "name": "greet", "arguments": { "name": "ada" } } }),
        json!({ "ask": "prompts/get", "params": { "name": "args-prompt", "arguments": { "city": "Turin" } } }),
        json!({ "ask": "resources/read", "params": { "uri": "note://all" } }),
        json!({ "ask": "resources/read", "params": { "uri": "demo://resource/static/document/features.md" } }),
    ];
    for client in Sdk::IN_EACH_ERA {
        let lines = estate.run(client, None, &commands);
        let names = lines[0]["tools"].as_array().unwrap();
        for name in ["add", "get-sum", "newer__echo", "older__echo"] {
            assert!(names.contains(&json!(name)), "{client:?}: {names:?}");
        }
        let texts = lines[1..5].iter().map(|line| line["result"]["content"][0]["text"].as_str().unwrap_or_default());
        assert_eq!(
            texts.collect::<Vec<_>>(),
            ["3", "The sum of 3 and 4 is 7.", "hi", "Echo: hi"],
            "{client:?}: {lines:?}"
        );
        let prompts = lines[5..7].iter().map(|line| line["result"]["messages"][0]["content"]["text"].clone());
        assert_eq!(prompts.collect::<Vec<_>>(), ["Greet ada.", "What's weather in Turin?"], "{client:?}: {lines:?}");
        assert_eq!(lines[7]["result"]["contents"][0]["text"], "all notes", "{client:?}: {lines:?}");
        assert!(
            lines[8]["result"]["contents"][0]["text"].as_str().unwrap().contains("Features"),
            "{client:?}: {}",
            lines[8]
        );
    }
}

/// A cancelled call ends at the upstream that has it, and the other's calls go on.
#[test]
fn a_call_cancelled_in_a_federation_is_cancelled_at_its_server_alone() {
    let estate = Estate::start("federation-cancel", "always");
    let cancelled = json!({ "cancelled": true });
    let commands = [
        json!({ "call": "newer__wait", "arguments": { "ms": 20_000 }, "cancel_after_ms": 700 }),
        json!({ "call": "older__trigger-long-running-operation", "arguments": { "duration": 20, "steps": 2 }, "cancel_after_ms": 700 }),
        json!({ "call": "newer__add", "arguments": { "a": 1, "b": 2 } }),
        json!({ "call": "older__get-sum", "arguments": { "a": 3, "b": 4 } }),
    ];
    for (before, client) in Sdk::IN_EACH_ERA.into_iter().filter(|(sdk, _)| *sdk != Sdk::PythonLegacy).enumerate() {
        let lines = estate.run(client, None, &commands);
        assert_eq!(lines[..2], [cancelled.clone(), cancelled.clone()], "{client:?}");
        assert_eq!(lines[2]["result"]["content"][0]["text"], "3", "{client:?}: {}", lines[2]);
        assert_eq!(lines[3]["result"]["content"][0]["text"], "The sum of 3 and 4 is 7.", "{client:?}: {}", lines[3]);
        place::wait_for(&format!("{client:?} cancels"), place::PATIENCE, || {
            let there = estate.newer.process.output().matches("wait cancelled").count() == before + 1;
            let endings = estate.gateway.journal();
            let ended = endings.iter().filter(|record| record["result"]["ending"] == "cancelled").count();
            (there && ended == 2 * (before + 1)).then_some(())
        });
    }
}
