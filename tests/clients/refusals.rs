//! A refusal costs a legacy client one call, and neither its session nor the other upstreams: what is refused of a request
//! travels as a JSON-RPC error with HTTP 200. Published clients take any other status for the end (PyPI mcp 1), or do not
//! read what it says (npm sdk 1).

use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{
    gateway::{ALLOW_ALL, Gateway, Setup},
    issuer::Issuer,
    mcp::LEGACY,
    peer::{Dial, Sdk},
    recorder::{Era, Recorder, Reply, Seen},
};

const POLICY: &str = r#"
@id("no-secrets")
forbid (principal, action == Action::"up/echo", resource) when { context.input has message && context.input.message == "secret" };
"#;

const CEILING: &str = r#"
[[ceilings]]
name = "one-erasure"
match = { tool = "erase" }
per = ["user"]
rate = { count = 1, per = "1h", burst = 1 }
"#;

fn answer(seen: &Seen) -> Option<Reply> {
    match seen.json()["params"]["arguments"]["message"].as_str()? {
        "broken" => Some(Reply::status(500)),
        "unauthorized" => Some(Reply::status(401)),
        "slow" => Some(Reply::status(500).after(Duration::from_secs(30))),
        _ => None,
    }
}

fn start(name: &str, issuer: &Issuer, (up, other): (&Recorder, &Recorder)) -> Gateway {
    let setup = Setup::new(name).issuer(&issuer.url()).policy("allow.cedar", ALLOW_ALL).policy("forbid.cedar", POLICY);
    let up_lines = "grant = { strategy = \"none\" }\n[[upstreams.up.tools]]\nmatch = \"echo\"\ntimeout_ms = 4_000\n\
                    [[upstreams.up.tools]]\nmatch = \"add\"\nrequires = [\"add\"]";
    let setup = setup.upstream("up", &up.url(), up_lines).open_upstream("other", &other.url());
    let gateway = setup.policy("ceilings.toml", CEILING).start();
    drop(gateway.client_of(None, issuer, "alice").awaiting("up__echo").awaiting("other__echo"));
    gateway
}

/// What is refused, and its JSON-RPC code.
fn refused() -> [(Value, i64); 5] {
    let echo = |message: &str| json!({ "call": "up__echo", "arguments": { "message": message } });
    [
        (echo("secret"), 40304),
        (json!({ "call": "up__erase", "arguments": { "id": "2" } }), 42901),
        (echo("broken"), 50205),
        (echo("unauthorized"), 50204),
        (echo("slow"), 50401),
    ]
}

#[test]
fn a_client_goes_on_after_each_refusal() {
    let (issuer, up, other) = (Issuer::good(), Recorder::scripted(Era::Legacy, answer), Recorder::good(Era::Modern));
    let gateway = start("refusals", &issuer, (&up, &other));
    let well = json!({ "call": "other__echo", "arguments": { "message": "hi" } });
    let mut commands = vec![json!({ "call": "up__erase", "arguments": { "id": "1" } })];
    for (command, _) in refused() {
        commands.extend([command, well.clone()]);
    }
    for (sdk, era) in Sdk::IN_EACH_ERA.into_iter().filter(|(_, era)| *era == "legacy") {
        let url = gateway.endpoint(None);
        let user = format!("{sdk:?}").to_lowercase();
        let dial = Dial { token: Some(issuer.token(&user, &url)), url, era, ..Dial::default() };
        let lines = sdk.run(gateway.setup().folder(), &dial, &json!(commands));
        assert_eq!(lines.len(), commands.len() + 1, "{sdk:?} {lines:?}");
        let answers: Vec<_> = lines[2..].chunks(2).collect();
        for ((command, code), pair) in refused().iter().zip(answers) {
            assert_eq!(pair[0]["error"]["code"], *code, "{sdk:?} {command}: {}", pair[0]);
            assert_eq!(pair[0]["error"]["data"]["source"], "gateway", "{sdk:?} {command}: {}", pair[0]);
            let text = &pair[1]["result"]["content"][0]["text"];
            assert_eq!(text, r#"echo {"message":"hi"}"#, "{sdk:?} after {command}");
        }
    }
}

/// By bytes: what of a refusal HTTP says to each era.
#[test]
fn http_says_only_what_is_its_own_to_a_legacy_client() {
    let (issuer, up, other) = (Issuer::good(), Recorder::scripted(Era::Legacy, answer), Recorder::good(Era::Modern));
    let gateway = start("refusals-http", &issuer, (&up, &other));
    let alice = gateway.client_of(None, &issuer, "alice");
    let session = alice.initialize();
    assert_eq!(session.call("up__erase", &json!({ "id": "1" })).status(), 200);
    let modern_statuses = [403, 429, 502, 502, 504];
    for ((command, code), status) in refused().iter().zip(modern_statuses) {
        let (tool, arguments) = (command["call"].as_str().unwrap(), &command["arguments"]);
        let (old, new) = (session.call(tool, arguments), alice.call(tool, arguments));
        assert_eq!((old.status(), new.status()), (200, status), "{command}");
        let (old_error, new_error) = (&old.json()["error"], &new.json()["error"]);
        assert_eq!((&old_error["code"], &new_error["code"]), (&json!(code), &json!(code)), "{command}");
        assert_eq!(old_error["message"], new_error["message"], "{command}");
        assert_eq!(old.header("retry-after"), None, "{command}");
        let wait = |error: &Value| error["data"]["retryAfterMs"].as_u64().is_some_and(|wait| wait > 0);
        assert_eq!((wait(old_error), wait(new_error)), (*code == 42901, *code == 42901), "{command}");
    }
    let recorded = gateway.recorded("refusal", 4);
    let of = |code: &str, era: &str| {
        let is = |it: &&Value| it["refused"]["code"] == code && it["request"]["era"] == era;
        recorded.iter().find(is).unwrap()["refused"]["status"].clone()
    };
    assert_eq!((of("denied", "legacy"), of("denied", "modern")), (json!(200), json!(403)), "as it was told");

    // What authorization, the transport and HTTP say by a status.
    let step_up = session.call("up__add", &json!({}));
    assert_eq!((step_up.status(), &step_up.json()["error"]["data"]["code"]), (403, &json!("scope_insufficient")));
    assert!(step_up.header("www-authenticate").unwrap().contains("insufficient_scope"));
    let list = json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/list" }).to_string();
    let version = ("MCP-Protocol-Version", LEGACY);
    let unknown = alice.post(&[version, ("Mcp-Session-Id", "no-such-session")], list.as_bytes());
    assert_eq!((unknown.status(), &unknown.json()["error"]["data"]["code"]), (404, &json!("session_unknown")));
    let nobody = gateway.client(None).post(&[version], list.as_bytes());
    assert_eq!((nobody.status(), nobody.header("www-authenticate").is_some()), (401, true));
    let strange = alice.post(&[("MCP-Protocol-Version", "1999-01-01")], list.as_bytes());
    assert_eq!(strange.status(), 400);
}

/// A stream that is asked for is no request: there is no id to answer under.
#[test]
fn a_stream_that_cannot_be_had_is_refused_by_its_status() {
    let (issuer, up) = (Issuer::good(), Recorder::good(Era::Modern));
    let setup = Setup::usual("refused-stream", &issuer).section("[limits]\nlisteners_max = 1");
    let gateway = setup.open_upstream("up", &up.url()).start();
    let alice = gateway.client_of(Some("up"), &issuer, "alice").awaiting("echo");
    let (first, second) = (alice.initialize(), alice.initialize());
    let mut open = first.stream();
    assert_eq!(open.head().status, 200);
    let mut headers = second.headers();
    headers.push(("Accept", "text/event-stream"));
    let mut refused = alice.connection();
    refused.send(&alice.bytes("GET", &headers, b"")).unwrap();
    let refused = refused.answer();
    assert_eq!((refused.status(), refused.json()["id"].is_null()), (503, true), "{}", refused.text());
    assert!(refused.header("retry-after").is_some());
    drop(open);
}
