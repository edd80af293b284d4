//! What an upstream logs about a call goes back with the call, from the level that its client asked for (RS-34).

use serde_json::{Value, json};

use super::refused;
use crate::harness::{
    gateway::Setup,
    issuer::Issuer,
    mcp::Session,
    recorder::{Era, Recorder, Reply},
};

/// Logs at every level about each call.
fn talkative(era: Era) -> Recorder {
    Recorder::scripted(era, move |seen| {
        let call = seen.json();
        match seen.rpc_method().as_str() {
            "server/discover" if era == Era::Modern => {
                Some(Reply::discovered(seen, &json!({ "tools": {}, "logging": {} })))
            }
            "initialize" => Some(
                Reply::result(
                    seen,
                    &json!({
                        "protocolVersion": "2025-11-25", "capabilities": { "tools": {}, "logging": {} },
                        "serverInfo": { "name": "recorder", "version": "1" },
                    }),
                )
                .header("mcp-session-id", "session-of-the-recorder"),
            ),
            "logging/setLevel" => Some(Reply::result(seen, &json!({}))),
            "tools/call" => {
                let word = |level: &str| json!({ "jsonrpc": "2.0", "method": "notifications/message", "params": { "level": level, "data": "x" } });
                let mut result = json!({ "content": [{ "type": "text", "text": "done" }] });
                if era == Era::Modern {
                    result["resultType"] = json!("complete");
                }
                let last = json!({ "jsonrpc": "2.0", "id": call["id"], "result": result });
                Some(Reply::events(&[word("debug"), word("info"), word("error"), last]))
            }
            _ => None,
        }
    })
}

fn logged(session: &Session) -> Vec<String> {
    let answer = session.call("echo", &json!({}));
    assert_eq!(answer.json()["result"]["content"][0]["text"], "done", "{}", answer.text());
    let stream = answer.header("content-type").is_some_and(|kind| kind.starts_with("text/event-stream"));
    let messages = if stream { answer.messages() } else { Vec::new() };
    messages.iter().filter_map(|message| message["params"]["level"].as_str()).map(str::to_owned).collect()
}

fn levels_up(recorder: &Recorder) -> Vec<Value> {
    recorder.seen_method("logging/setLevel").iter().map(|seen| seen.json()["params"]["level"].clone()).collect()
}

#[test]
fn the_level_of_a_session_is_that_of_its_calls() {
    let issuer = Issuer::good();
    for era in [Era::Modern, Era::Legacy] {
        let recorder = talkative(era);
        let gateway = Setup::usual("logging", &issuer).open_upstream("up", &recorder.url()).start();
        let alice = gateway.client_of(Some("up"), &issuer, "alice").awaiting("echo");
        let (session, other) = (alice.initialize(), alice.initialize());
        assert_eq!(session.initialized["result"]["capabilities"]["logging"], json!({}));
        assert_eq!(logged(&session), Vec::<String>::new(), "nobody asked");
        let set = |session: &Session, level: &Value| session.request("logging/setLevel", &json!({ "level": level }));
        let done = set(&session, &json!("info"));
        assert_eq!((done.status(), done.json()), (200, json!({ "jsonrpc": "2.0", "id": 1, "result": {} })));
        assert_eq!(logged(&session), ["info", "error"]);
        assert_eq!(logged(&other), Vec::<String>::new(), "the other session did not ask");
        set(&session, &json!("error"));
        assert_eq!(logged(&session), ["error"]);
        set(&other, &json!("debug"));
        assert_eq!(logged(&other), ["debug", "info", "error"]);
        for level in [json!("loud"), json!(7), json!(null)] {
            assert_eq!(refused(&set(&session, &level)), (200, -32602, "params_invalid".into()), "{level}");
        }
        assert_eq!(logged(&session), ["error"], "what was refused changed nothing");
        match era {
            Era::Modern => {
                let key = "io.modelcontextprotocol/logLevel";
                let calls = recorder.seen_method("tools/call");
                let asked: Vec<Value> = calls.iter().map(|seen| seen.json()["params"]["_meta"][key].clone()).collect();
                let expected =
                    [json!(null), json!("info"), json!(null), json!("error"), json!("debug"), json!("error")];
                assert_eq!(asked, expected);
                assert!(levels_up(&recorder).is_empty(), "a modern server is asked in each request");
            }
            // The pooled session is as talkative as anybody wanted it so far; each call is filtered for itself.
            Era::Legacy => assert_eq!(levels_up(&recorder), [json!("info"), json!("debug")]),
        }
        // A modern client asks in each request, in front of either.
        let params = json!({
            "name": "echo", "arguments": {}, "_meta": { "io.modelcontextprotocol/logLevel": "error" },
        });
        let answer = alice.modern("tools/call", &params);
        let said: Vec<Value> =
            answer.messages().iter().filter_map(|said| said["params"].get("level").cloned()).collect();
        assert_eq!(said, [json!("error")], "{}", answer.text());
    }
}

/// A server that does not log is not asked to.
#[test]
fn a_legacy_server_without_logging_is_not_asked() {
    let issuer = Issuer::good();
    let recorder = Recorder::good(Era::Legacy);
    let gateway = Setup::usual("logging-none", &issuer).open_upstream("up", &recorder.url()).start();
    let session = gateway.client_of(Some("up"), &issuer, "alice").awaiting("echo").initialize();
    assert!(session.initialized["result"]["capabilities"]["logging"].is_null());
    let answer = session.request("logging/setLevel", &json!({ "level": "debug" }));
    assert_eq!(refused(&answer), (200, -32601, "method_unknown".into()));
    assert_eq!(session.call("echo", &json!({})).status(), 200);
    assert!(levels_up(&recorder).is_empty());
}
