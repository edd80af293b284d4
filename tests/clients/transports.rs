//! Every published client in front of published servers that are programs, or speak HTTP+SSE: no client can tell.

use serde_json::{Value, json};

use crate::harness::{
    gateway::{Gateway, Setup},
    issuer::Issuer,
    peer::{self, Dial, Peer, Sdk},
    place,
    program::runs,
};

/// A tool of each server, its arguments, and what it says.
const SERVERS: [(&str, &str, &str, &str); 6] = [
    ("typescript", "add", r#"{"a":1,"b":2}"#, "3"),
    ("everything", "echo", r#"{"message":"hi"}"#, "Echo: hi"),
    ("python", "add", r#"{"a":1,"b":2}"#, "3"),
    ("python-legacy", "add", r#"{"a":1,"b":2}"#, "3"),
    ("everything-sse", "echo", r#"{"message":"hi"}"#, "Echo: hi"),
    ("python-sse", "add", r#"{"a":1,"b":2}"#, "3"),
];

struct Estate {
    issuer: Issuer,
    gateway: Gateway,
    _sse: [Peer; 2],
}

impl Estate {
    fn start(name: &str) -> Self {
        let issuer = Issuer::good();
        let mut setup = Setup::usual(name, &issuer);
        let folder = setup.folder().to_owned();
        let sse = [peer::everything_sse(&folder), peer::python_legacy_sse(&folder)];
        for (id, peer) in ["everything-sse", "python-sse"].iter().zip(&sse) {
            let lines = "transport = \"sse\"\ngrant = { strategy = \"none\" }";
            setup = setup.upstream(id, &format!("{}/sse", peer.origin()), lines);
        }
        for (id, command) in peer::programs() {
            setup = setup.program(id, &command, "");
        }
        let gateway = setup.start();
        for (id, tool, ..) in SERVERS {
            gateway.client_of(Some(id), &issuer, "alice").awaiting(tool);
        }
        Self { issuer, gateway, _sse: sse }
    }

    fn run(&self, (sdk, era): (Sdk, &'static str), id: &str, commands: &Value) -> Vec<Value> {
        let url = self.gateway.endpoint(Some(id));
        let token = self.issuer.token("alice", &url);
        let folder = self.gateway.setup().folder();
        let lines = sdk.run(folder, &Dial { url, token: Some(token), era, authority: None, input: false }, commands);
        assert!(lines[0]["connected"].is_object(), "{sdk:?} {era} {id}: {}", lines[0]);
        lines
    }
}

#[test]
fn every_client_uses_every_server_whatever_its_transport() {
    let mut estate = Estate::start("transports");
    for client in Sdk::IN_EACH_ERA {
        for (id, tool, arguments, says) in SERVERS {
            let arguments: Value = serde_json::from_str(arguments).unwrap();
            let commands = json!([{ "list": true }, { "call": tool, "arguments": arguments }, { "call": "nowhere" }]);
            let lines = estate.run(client, id, &commands);
            assert!(lines[1]["tools"].as_array().unwrap().iter().any(|name| name == tool), "{client:?} {id}");
            assert_eq!(lines[2]["result"]["content"][0]["text"], says, "{client:?} {id}: {}", lines[2]);
            assert_eq!(lines[3]["error"]["code"], -32602, "{client:?} {id}: {}", lines[3]);
        }
    }
    let log = estate.gateway.process.errors();
    let events = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let started = events.filter(|event| event["message"] == "started a program");
    let started: Vec<u32> = started.map(|event| event["process"].as_u64().unwrap().try_into().unwrap()).collect();
    assert!(started.len() >= 4, "{log}");
    estate.gateway.stop();
    place::wait_for("the end of the programs", place::PATIENCE, || {
        (!started.iter().any(|process| runs(*process))).then_some(())
    });
}

#[test]
fn progress_comes_through_every_transport() {
    let estate = Estate::start("transports-progress");
    let counting = json!([{ "call": "count", "arguments": { "steps": 3 }, "progress": true }]);
    let long = json!([{
        "call": "trigger-long-running-operation", "arguments": { "duration": 1, "steps": 3 }, "progress": true,
    }]);
    for client in Sdk::IN_EACH_ERA {
        for (id, ..) in SERVERS {
            let commands = if id.starts_with("everything") { &long } else { &counting };
            let line = estate.run(client, id, commands).remove(1);
            let seen: Vec<f64> = line["progress"].as_array().unwrap().iter().filter_map(Value::as_f64).collect();
            assert_eq!(seen, [1.0, 2.0, 3.0], "{client:?} {id}: {line}");
        }
    }
}
