//! A client tries to write more than one message to a program, or its own token: lines are what separates messages there.

use serde_json::{Value, json};

use super::{META, SOON};
use crate::harness::{gateway::Setup, issuer::Issuer, mcp::MODERN, place, program::Program, recorder::Era};

#[test]
fn line_breaks_in_arguments_begin_no_message() {
    let issuer = Issuer::good();
    for era in [Era::Modern, Era::Legacy] {
        let setup = Setup::usual("program-injection", &issuer);
        let program = Program::new(&setup, "up", era, "good");
        let gateway = setup.program("up", &program.command(&[]), "").start();
        let client = gateway.client_of(Some("up"), &issuer, "alice").awaiting("pid");
        let smuggled = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"die","arguments":{}}}"#;
        let arguments = format!("{{\"a\":\r\n{smuggled}\n,\"b\":\"\\n{{\\\"jsonrpc\\\"\"\r}}");
        let body = format!(
            "{{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"tools/call\",\"params\":{{\"name\":\"pid\",\"arguments\":{arguments},\"_meta\":{META}}}}}"
        );
        let headers = [("MCP-Protocol-Version", MODERN), ("Mcp-Method", "tools/call"), ("Mcp-Name", "pid")];
        let answer = client.post(&headers, body.as_bytes());
        assert_eq!(answer.status(), 200, "{era:?}: {}", answer.text());
        let calls: Vec<String> = program.seen().into_iter().filter(|line| line.contains("tools/call")).collect();
        assert_eq!(calls.len(), 1, "{era:?}: {calls:?}");
        let seen: Value = serde_json::from_str(&calls[0]).unwrap();
        assert_eq!(seen["params"]["arguments"], serde_json::from_str::<Value>(&arguments).unwrap(), "{era:?}");
        assert_eq!(seen["params"]["name"], "pid");
        for line in program.seen() {
            assert!(serde_json::from_str::<Value>(&line).is_ok(), "{era:?}: {line}");
        }
        assert_eq!(client.call("pid", &json!({})).status(), 200);
    }
}

#[test]
fn a_callers_token_does_not_reach_a_program() {
    let issuer = Issuer::good();
    let setup = Setup::usual("program-tripwire", &issuer);
    let program = Program::new(&setup, "up", Era::Legacy, "good");
    let gateway = setup.program("up", &program.command(&[]), "").start();
    let token = issuer.token("alice", &gateway.endpoint(Some("up")));
    let client = gateway.client(Some("up")).token(&token).awaiting("pid");
    let answer = client.call("pid", &json!({ "note": token }));
    assert_eq!(answer.json()["error"]["data"]["code"], "credential_leak", "{}", answer.text());
    assert_eq!(client.call("pid", &json!({ "note": "innocent" })).status(), 200);
    let seen = program.seen();
    assert!(seen.iter().any(|line| line.contains("innocent")) && !seen.iter().any(|line| line.contains(&token)));
    place::wait_for("the tripwire's count", SOON, || {
        gateway.metric("tollgate_tripwire_total").filter(|count| *count > 0.0)
    });
}
