//! A real provider binds a token to what its client holds, and the gateway takes it from nobody else.

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use serde_json::{Value, json};

use super::identity::known;
use crate::harness::{
    gateway::{ALLOW_ALL, Gateway, Setup},
    http::Answer,
    issuer::claims_of,
    login,
    mcp::Client,
    peer,
    prover::Prover,
};

fn whoami(client: &Client, headers: &[(&str, &str)]) -> Answer {
    client.modern_showing("tools/call", &json!({ "name": "whoami", "arguments": {} }), headers)
}

fn code(answer: &Answer) -> (u16, String) {
    (answer.status(), answer.json()["error"]["data"]["code"].as_str().unwrap_or_default().to_owned())
}

fn bindings(gateway: &Gateway) -> Vec<Value> {
    let intents = gateway.journal().into_iter().filter(|record| record["event"] == "intent");
    intents.map(|intent| intent["authentication"]["binding"].clone()).collect()
}

#[test]
fn a_token_that_is_bound_to_a_key_needs_a_proof_at_every_request() {
    let setup = Setup::new("bound-to-a-key");
    let folder = setup.folder().to_owned();
    let provider = peer::provider(&folder);
    let issuer = provider.origin();
    let server = peer::typescript_guarded(&folder, &issuer);
    let gateway = setup
        .issuer(&issuer)
        .policy("allow.cedar", ALLOW_ALL)
        .gateway("dpop = { nonce = true }")
        .exchanged_upstream("up", &server.url(), &issuer, "\"tools:read\"")
        .start();
    let (endpoint, key) = (gateway.endpoint(Some("up")), Prover::new());
    let scope = (endpoint.as_str(), "openid tools:read");
    let proof = key.proof("POST", &format!("{issuer}/token"), None);
    let token = login::login_showing(&issuer, "alice", scope, &[("DPoP", &proof)]);
    assert_eq!(claims_of(&token)["cnf"], json!({ "jkt": key.thumbprint() }));
    let free = login::login(&issuer, "bob", scope.0, scope.1);
    gateway.client(Some("up")).token(&free).awaiting("whoami");

    let client = gateway.client(Some("up"));
    let shown = format!("DPoP {token}");
    let call = |proof: &str| whoami(&client, &[("Authorization", &shown), ("DPoP", proof)]);
    let asked = call(&key.proof("POST", &endpoint, Some(&token)));
    assert_eq!(code(&asked), (401, "proof_nonce_needed".into()));
    let challenge = asked.header("www-authenticate").unwrap();
    assert!(challenge.starts_with("DPoP error=\"use_dpop_nonce\", resource_metadata=\"http://"), "{challenge}");
    assert!(challenge.ends_with("algs=\"ES256 ES384 EdDSA PS256 RS256\""), "{challenge}");

    let mut claims = key.claims("POST", &endpoint, Some(&token));
    claims["nonce"] = json!(asked.header("dpop-nonce").unwrap());
    let proof = key.sign(&key.header(), &claims);
    let answer = call(&proof);
    assert_eq!(known(&answer.json())["sub"], "alice", "{}", answer.text());
    assert!(answer.header("dpop-nonce").is_some(), "the next one comes with the answer");
    assert_eq!(code(&call(&proof)), (401, "proof_invalid".into()), "a second time");
    let stolen = whoami(&client.clone().token(&token), &[]);
    assert_eq!(code(&stolen), (401, "token_invalid".into()));
    let challenge = stolen.header("www-authenticate").unwrap();
    assert!(
        challenge.starts_with("Bearer error=\"invalid_token\"") && challenge.contains(", DPoP algs=\""),
        "{challenge}"
    );

    assert_eq!(known(&whoami(&client.clone().token(&free), &[]).json())["sub"], "bob", "bearers are served beside");
    assert_eq!(bindings(&gateway), [json!({ "method": "dpop", "thumbprint": key.thumbprint() }), Value::Null]);
}

#[test]
fn a_token_that_is_bound_to_a_certificate_needs_its_connection() {
    let setup = Setup::new("bound-to-a-certificate").mutual_tls();
    let folder = setup.folder().to_owned();
    let provider = peer::provider(&folder);
    let issuer = provider.origin();
    let server = peer::typescript_guarded(&folder, &issuer);
    let gateway = setup
        .issuer(&issuer)
        .policy("allow.cedar", ALLOW_ALL)
        .exchanged_upstream("up", &server.url(), &issuer, "\"tools:read\"")
        .start();
    let endpoint = gateway.endpoint(Some("up"));
    let authority = gateway.setup().authority();
    let (own, other) = (authority.leaf("agent", &[]), authority.leaf("other", &[]));
    let certificate = BASE64.encode(own.der());
    let fields = [("grant_type", "client_credentials"), ("resource", &endpoint), ("scope", "tools:read")];
    let shown = ("agent-secret", &[("Client-Certificate", certificate.as_str())][..]);
    let given = login::token_showing(&issuer, "agent-tls", shown, &fields);
    let token = given["access_token"].as_str().unwrap();
    assert_eq!(claims_of(token)["cnf"], json!({ "x5t#S256": own.thumbprint() }));

    let agent = gateway.client_showing(Some("up"), &own).token(token).awaiting("whoami");
    assert_eq!(known(&whoami(&agent, &[]).json())["clientId"], "gateway");
    let header = [("Client-Certificate", certificate.as_str())];
    for thief in [gateway.client(Some("up")), gateway.client_showing(Some("up"), &other)] {
        assert_eq!(code(&whoami(&thief.token(token), &header)), (401, "token_invalid".into()));
    }
    assert_eq!(bindings(&gateway), [json!({ "method": "certificate", "thumbprint": own.thumbprint() })]);
    assert_eq!(gateway.recorded("intent", 1)[0]["agent"]["client_id"], "agent-tls");
}
