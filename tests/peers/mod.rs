//! Do the published servers, clients and the identity provider work without the gateway?
//!
//! What fails here is not the gateway's fault. Every party that stands before, behind or beside it in other tests is
//! proved here on its own.

use serde_json::{Value, json};

use crate::harness::{
    issuer::claims_of,
    login,
    mcp::Client,
    peer::{self, Dial, Sdk},
    place, rmcp_server,
};

const TOKEN_EXCHANGE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";
const ACCESS_TOKEN: &str = "urn:ietf:params:oauth:token-type:access_token";

fn text_of(answer: &Value) -> &str {
    answer["result"]["content"][0]["text"].as_str().unwrap_or_else(|| panic!("no text: {answer}"))
}

#[test]
fn typescript_server_answers_both_eras() {
    let server = peer::typescript(&place::scratch("typescript"));
    let client = Client::new(&server.url());
    assert_eq!(text_of(&client.call("echo", &json!({ "message": "hi" })).json()), "hi");
    assert_eq!(client.tools(), ["whoami", "echo", "add", "fail", "blob", "count", "wait"]);
    assert_eq!(text_of(&client.initialize().call("add", &json!({ "a": 1, "b": 2 })).json()), "3");
}

#[test]
fn everything_server_is_legacy_and_says_so_to_a_modern_probe() {
    let server = peer::everything(&place::scratch("everything"));
    let client = Client::new(&server.url());
    let probe = client.modern("server/discover", &json!({}));
    assert_eq!((probe.status(), probe.json()["error"]["code"].as_i64()), (400, Some(-32000)));
    let session = client.initialize();
    assert!(session.id().is_some());
    assert_eq!(text_of(&session.call("echo", &json!({ "message": "hi" })).json()), "Echo: hi");
}

#[test]
fn python_server_answers_both_eras() {
    let server = peer::python(&place::scratch("python"));
    let client = Client::new(&server.url());
    assert_eq!(text_of(&client.call("add", &json!({ "a": 1, "b": 2 })).json()), "3");
    assert_eq!(text_of(&client.initialize().call("add", &json!({ "a": 2, "b": 2 })).json()), "4");
}

#[test]
fn rust_server_answers_both_eras() {
    let server = rmcp_server::start();
    let client = Client::new(&format!("{}/mcp", server.origin()));
    assert_eq!(text_of(&client.call("add", &json!({ "a": 1, "b": 2 })).json()), "3");
    assert_eq!(text_of(&client.initialize().call("add", &json!({ "a": 2, "b": 2 })).json()), "4");
}

#[test]
fn conformance_fixture_answers_both_eras() {
    let server = peer::fixture(&place::scratch("fixture"));
    let client = Client::new(&server.url());
    let said = "This is a simple text response for testing.";
    assert_eq!(text_of(&client.call("test_simple_text", &json!({})).json()), said);
    assert_eq!(text_of(&client.initialize().call("test_simple_text", &json!({})).json()), said);
}

#[test]
fn every_client_lists_calls_follows_progress_and_cancels() {
    let folder = place::scratch("clients");
    let server = peer::typescript(&folder);
    let commands = json!([
        { "list": true },
        { "call": "add", "arguments": { "a": 1, "b": 2 } },
        { "call": "count", "arguments": { "steps": 3 }, "progress": true },
        { "call": "nowhere" },
    ]);
    let mut met = Vec::new();
    for sdk in Sdk::ALL {
        let eras: &[&'static str] = match sdk {
            Sdk::TypeScript | Sdk::Python => &["auto", "legacy", "2026-07-28"],
            Sdk::TypeScriptLegacy | Sdk::PythonLegacy => &["legacy"],
        };
        for era in eras {
            let dial = Dial { url: server.url(), era, ..Dial::default() };
            let lines = sdk.run(&folder, &dial, &commands);
            met.push(format!("{sdk:?} {era}: {}", lines[0]["connected"]["protocol"].as_str().unwrap()));
            assert_eq!(lines[1]["tools"].as_array().unwrap().len(), 7, "{sdk:?} {era}");
            assert_eq!(text_of(&lines[2]), "3", "{sdk:?} {era}");
            assert_eq!(lines[3]["progress"].as_array().unwrap().len(), 3, "{sdk:?} {era}");
            assert_eq!(lines[4]["error"]["code"], -32602, "{sdk:?} {era}");
        }
    }
    assert_eq!(
        met,
        [
            "TypeScript auto: 2026-07-28",
            "TypeScript legacy: 2025-11-25",
            "TypeScript 2026-07-28: 2026-07-28",
            "TypeScriptLegacy legacy: 2025-11-25",
            "Python auto: 2026-07-28",
            "Python legacy: 2025-11-25",
            "Python 2026-07-28: 2026-07-28",
            "PythonLegacy legacy: 2025-11-25",
        ]
    );
    let cancel = json!([{ "call": "wait", "arguments": { "ms": 20_000 }, "cancel_after_ms": 300 }]);
    for (sdk, era) in [(Sdk::TypeScript, "2026-07-28"), (Sdk::Python, "2026-07-28")] {
        let dial = Dial { url: server.url(), era, ..Dial::default() };
        assert_eq!(sdk.run(&folder, &dial, &cancel)[1], json!({ "cancelled": true }), "{sdk:?} {era}");
    }
    let cancelled = || server.process.output().matches("wait cancelled").count();
    place::wait_for("both are cancelled", place::PATIENCE, || (cancelled() >= 2).then_some(()));
    assert_eq!(cancelled(), 2);
}

#[test]
fn provider_logs_in_and_exchanges_for_a_server_that_takes_nothing_else() {
    let folder = place::scratch("provider");
    let provider = peer::provider(&folder);
    let issuer = provider.origin();
    let server = peer::typescript_guarded(&folder, &issuer);

    let token = login::login(&issuer, "alice", "https://gateway.test/mcp", "openid tools:read tools:call");
    let claims = claims_of(&token);
    assert_eq!((claims["sub"].as_str(), claims["tenant"].as_str()), (Some("alice"), Some("acme")));
    let refused = Client::new(&server.url()).token(&token).call("whoami", &json!({}));
    assert_eq!(refused.status(), 401, "a token for the gateway is not one for the server");

    let url = server.url();
    let mut fields = vec![
        ("grant_type", TOKEN_EXCHANGE),
        ("subject_token", token.as_str()),
        ("subject_token_type", ACCESS_TOKEN),
        ("resource", url.as_str()),
        ("scope", "tools:read"),
    ];
    let exchanged = login::token(&issuer, "gateway", "gateway-secret", &fields);
    let exchanged = exchanged["access_token"].as_str().unwrap();
    let answer = Client::new(&url).token(exchanged).call("whoami", &json!({})).json();
    let known: Value = serde_json::from_str(text_of(&answer)).unwrap();
    assert_eq!(known["auth"]["sub"], "alice");
    assert_eq!(known["auth"]["act"], json!({ "sub": "gateway" }));
    assert_eq!(known["auth"]["scopes"], json!(["tools:read"]));

    *fields.last_mut().unwrap() = ("scope", "admin");
    assert_eq!(login::ask(&issuer, "gateway", "gateway-secret", &fields).status(), 400, "scope cannot grow");
}
