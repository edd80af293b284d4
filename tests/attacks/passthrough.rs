//! The caller's own credential on its way up: never, under no strategy, in no header, no body and no disguise (I1, I3).

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::json;

use super::{ECHO_HEADERS, Ground, call_text, code};
use crate::{
    harness::{
        gateway::Setup,
        issuer::{Issuer, claims_of},
        mcp::{Client, MODERN, modern_body},
        recorder::{Era, Recorder, Seen},
    },
    request::input::{call, capabilities, form, holding, request},
};

type With = fn(Setup, &Issuer, &Recorder) -> Setup;

/// Every strategy by which an upstream gets a credential.
fn strategies() -> [(&'static str, With); 4] {
    [
        ("none", |setup, _, up| setup.open_upstream("up", &up.url())),
        ("exchange", |setup, issuer, up| setup.exchanged_upstream("up", &up.url(), &issuer.url(), "\"read\"")),
        ("static_secret", |setup, _, up| {
            let grant = "grant = { strategy = \"static_secret\", header = \"x-key\", value = { env = \"UP_KEY\" } }";
            setup.environment("UP_KEY", "the-key-of-the-upstream").upstream("up", &up.url(), grant)
        }),
        ("client_credentials", |setup, issuer, up| {
            let client = "client = { id = \"gateway\", secret = { env = \"GATEWAY_SECRET\" } }";
            let endpoint = format!("token_endpoint = \"{}/token\"", issuer.url());
            let grant = format!("grant = {{ strategy = \"client_credentials\", {endpoint}, {client}, scopes = [] }}");
            setup.environment("GATEWAY_SECRET", "gateway-secret").upstream("up", &up.url(), &grant)
        }),
    ]
}

#[test]
fn no_byte_of_the_callers_credential_reaches_an_upstream_under_any_strategy() {
    for (strategy, with) in strategies() {
        for era in [Era::Modern, Era::Legacy] {
            let ground = Ground::before("passthrough", Recorder::good(era), with);
            let endpoint = ground.gateway.endpoint(Some("up"));
            let token = ground.issuer.token("alice", &endpoint);
            // The recorder would have seen it.
            Client::new(&ground.upstream.url()).post(&[("X-Probe", "a-probe-of-the-recorder")], b"{}");
            assert!(ground.upstream.saw_text("a-probe-of-the-recorder"));

            let client = Client::new(&endpoint).token(&token);
            let secrets = [
                ("Cookie", "session=cookie-of-the-caller"),
                ("DPoP", "proof-of-the-caller"),
                ("Proxy-Authorization", "Basic proxy-of-the-caller"),
                ("X-Api-Key", "key-of-the-caller"),
                ("X-Forwarded-Access-Token", "forwarded-of-the-caller"),
                ("Forwarded", "for=forwarded-of-the-caller"),
                ("Baggage", "token=baggage-of-the-caller"),
                ("User-Agent", "agent-of-the-caller"),
            ];
            let headers = [&ECHO_HEADERS[..], &secrets[..]].concat();
            let answer = client.post(&headers, call_text("echo", r#"{"message":"hi"}"#).as_bytes());
            assert_eq!(answer.status(), 200, "{strategy} {era:?}: {}", answer.text());
            let legacy = client.initialize();
            assert_eq!(legacy.call("echo", &json!({})).status(), 200);
            let seen = ground.upstream.seen_method("tools/call");
            assert_eq!(seen.len(), 2);

            for part in token.split('.').chain([token.as_str()]).filter(|part| !part.starts_with("eyJhbGci")) {
                assert!(!ground.upstream.saw_text(part), "{strategy} {era:?}: {part}");
            }
            assert!(!ground.upstream.saw_text("of-the-caller"), "{strategy} {era:?}");
            for call in &seen {
                is_of(strategy, call);
            }
            ground.good_call();
        }
    }
}

/// The call came under the credential that `strategy` is about, and under no other.
fn is_of(strategy: &str, call: &Seen) {
    let authorization = call.header("authorization");
    let subject = authorization.map(|value| claims_of(value.strip_prefix("Bearer ").unwrap())["sub"].clone());
    let (expected, key) = match strategy {
        "exchange" => (Some(json!("alice")), None),
        "client_credentials" => (Some(json!("gateway")), None),
        "static_secret" => (None, Some("the-key-of-the-upstream")),
        _ => (None, None),
    };
    assert_eq!((subject, call.header("x-key")), (expected, key), "{strategy}");
}

/// A caller, or what has taken over its agent, who puts the token where the gateway carries things on.
#[test]
fn credential_that_the_caller_hides_in_its_own_call_is_stopped() {
    let recorder = Recorder::good(Era::Modern);
    let ground = Ground::before("passthrough-tripwire", recorder, |setup, issuer, up| {
        setup.exchanged_upstream("up", &up.url(), &issuer.url(), "")
    });
    let endpoint = ground.gateway.endpoint(Some("up"));
    let token = ground.issuer.token("alice", &endpoint);
    let client = Client::new(&endpoint).token(&token);
    assert_eq!(client.call("echo", &json!({ "message": "hi" })).status(), 200);
    let signature = token.rsplit('.').next().unwrap();
    for arguments in [
        json!({ "message": token }),
        json!({ "message": format!("Bearer {token}") }),
        json!({ "a": [{ "b": { "c": format!("x{token}x") } }] }),
        json!({ signature: 1 }),
        json!({ "message": STANDARD.encode(&token) }),
        json!({ "message": signature }),
    ] {
        let answer = ground.refused(&arguments.to_string(), &["credential_leak"], || client.call("echo", &arguments));
        assert_eq!(answer.status(), 500);
        assert!(!answer.text().contains(signature));
    }
    let escaped: String = token.bytes().map(|byte| format!("\\u{byte:04x}")).collect();
    let body = call_text("echo", &format!(r#"{{"message":"{escaped}"}}"#));
    ground.refused("with JSON's escapes", &["credential_leak"], || client.post(&ECHO_HEADERS, body.as_bytes()));
    let with = |name: &'static str, value: &str| {
        let headers = [&ECHO_HEADERS[..], &[(name, value)]].concat();
        client.post(&headers, call_text("echo", "{}").as_bytes())
    };
    ground.refused("a header that goes up", &["credential_leak"], || with("Mcp-Param-Note", &token));
    let meta = json!({ "name": "echo", "_meta": { "progressToken": token } });
    let body = modern_body(&json!(1), "tools/call", &meta).to_string();
    let headers = [("MCP-Protocol-Version", MODERN), ("Mcp-Method", "tools/call"), ("Mcp-Name", "echo")];
    client.post(&headers, body.as_bytes());
    assert!(!ground.upstream.saw_text(signature), "in the progress token");
    with("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
    with("tracestate", &format!("a={}", &token[..200]));
    assert!(!ground.upstream.saw_text(&token[100..200]), "in the trace state");

    let outcome = crate::harness::place::wait_for("the outcome", super::SOON, || {
        ground.gateway.journal().into_iter().find(|record| record["result"]["code"] == "credential_leak")
    });
    assert_eq!((&outcome["event"], &outcome["result"]["ending"]), (&json!("outcome"), &json!("not_forwarded")));
    let journal: String = ground.gateway.journal().iter().map(ToString::to_string).collect();
    assert!(!journal.contains(signature), "the journal holds a credential");
    assert!(
        !ground.gateway.process.errors().contains(signature) && !ground.gateway.process.output().contains(signature)
    );
    ground.good_call();
}

/// Every byte of `token` as an escape of JSON.
fn escaped(token: &str) -> String {
    token.bytes().map(|byte| format!("\\u{byte:04x}")).collect()
}

fn asked_in_the_middle(name: &str) -> Ground {
    let recorder = holding(vec![request(json!(7), "elicitation/create", form())]);
    Ground::before(name, recorder, |setup, _, up| setup.open_upstream("up", &up.url()))
}

#[test]
fn credential_in_an_answer_to_what_was_asked_is_stopped_with_its_escapes_too() {
    let ground = asked_in_the_middle("passthrough-answer");
    let endpoint = ground.gateway.endpoint(Some("up"));
    let token = ground.issuer.token("alice", &endpoint);
    let alice = Client::new(&endpoint).token(&token);
    let asked = call(&alice, &capabilities(), json!({ "arguments": {} })).json();
    let responses = json!({ "ask-1": { "action": "accept", "content": { "name": "HERE" } } });
    let retry = json!({
        "name": "echo", "arguments": {}, "inputResponses": responses, "requestState": asked["result"]["requestState"],
        "_meta": { "io.modelcontextprotocol/clientCapabilities": capabilities() },
    });
    let body = modern_body(&json!(1), "tools/call", &retry).to_string().replace("HERE", &escaped(&token));
    let answer = alice.post(&ECHO_HEADERS, body.as_bytes());
    assert_eq!(code(&answer), "credential_leak", "{}", answer.text());
    assert!(!ground.upstream.saw_text(&escaped(&token)));
}

/// The call came under one token of a person, the answer comes with another, and in it.
#[test]
fn credential_of_the_answer_itself_is_stopped() {
    let ground = asked_in_the_middle("passthrough-second");
    let endpoint = ground.gateway.endpoint(Some("up"));
    let [first, second] = [(); 2].map(|()| ground.issuer.token("alice", &endpoint));
    let session = Client::new(&endpoint).token(&first).initialize_with(&capabilities());
    let mut connection = session.client().connection();
    connection.send(&session.bytes(&json!("call"), "tools/call", &json!({ "name": "echo" }))).unwrap();
    assert_eq!(connection.head().status, 200);
    let asked = connection.event().expect("the question");
    let renewed = Client::new(&endpoint).token(&second);
    for text in [second.clone(), escaped(&second)] {
        let result = json!({ "action": "accept", "content": { "name": "HERE" } });
        let body = json!({ "jsonrpc": "2.0", "id": asked["id"], "result": result }).to_string().replace("HERE", &text);
        let answer = renewed.post(&session.headers(), body.as_bytes());
        assert_eq!(code(&answer), "credential_leak", "{}", answer.text());
        assert!(!ground.upstream.saw_text(&text));
    }
    assert_eq!(ground.recorded_refusal("credential_leak")["user"]["subject"], "alice");
    let answer = json!({ "jsonrpc": "2.0", "id": asked["id"], "result": { "action": "decline" } });
    assert_eq!(renewed.post(&session.headers(), answer.to_string().as_bytes()).status(), 202);
    let done = connection.event().expect("the result");
    assert!(done["result"]["content"][0]["text"].as_str().is_some_and(|text| text.contains("decline")), "{done}");
}
