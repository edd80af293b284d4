//! Callers whose tokens only their issuer can read, or whose issuer is asked whether they still hold.

use std::{fs, os::unix::fs::PermissionsExt};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL};
use serde_json::{Value, json};

use super::{refused, text_of};
use crate::harness::{
    gateway::{ALLOW_ALL, Gateway, Setup},
    issuer::{Issuer, Signature, claims_of, now},
    place,
    recorder::{Era, Recorder, Reply},
};

fn start(name: &str, issuer: &Issuer, more: &str, recorder: &Recorder) -> Gateway {
    let endpoint = format!("{}/introspect", issuer.url());
    let setup = Setup::new(name).introspecting(&issuer.url(), &endpoint, more).policy("allow.cedar", ALLOW_ALL);
    setup.open_upstream("up", &recorder.url()).start()
}

fn intents(gateway: &Gateway) -> Vec<Value> {
    gateway.journal().into_iter().filter(|record| record["event"] == "intent").collect()
}

#[test]
fn an_opaque_token_is_asked_about_once_and_means_what_its_issuer_says() {
    let (issuer, recorder) = (Issuer::good(), Recorder::good(Era::Modern));
    let gateway = start("opaque", &issuer, "tokens = [\"opaque\"]", &recorder);
    let mut claims = issuer.claims("alice", &gateway.endpoint(Some("up")));
    claims["username"] = json!("Alice");
    claims["token_type"] = json!("Bearer");
    let token = issuer.opaque(&claims);
    let alice = gateway.client(Some("up")).token(&token).awaiting("echo");
    std::thread::scope(|scope| {
        for _ in 0..20 {
            scope.spawn(|| assert_eq!(text_of(&alice.call("echo", &json!({}))), "echo {}"));
        }
    });
    assert_eq!(issuer.introspected(), [token.as_str()], "once for all");
    let asked = issuer.recorder().seen_path("/introspect").remove(0);
    assert_eq!(asked.field("token_type_hint").as_deref(), Some("access_token"));
    assert!(asked.header("authorization").unwrap().starts_with("Basic "));
    assert!(!asked.path.contains(&token), "never in a URL");

    let intent = intents(&gateway).remove(0);
    assert_eq!(intent["user"], json!({ "issuer": issuer.url(), "subject": "alice" }));
    assert_eq!((&intent["tenant"], &intent["agent"]["client_id"]), (&json!("acme"), &json!("agent")));
    assert_eq!(intent["authentication"]["method"], "introspection");
    assert_eq!(intent["authentication"]["token_id"], claims["jti"]);
    assert!(!recorder.saw_text(&token) && !gateway.process.errors().contains(&token));
    assert!(!gateway.journal().iter().any(|record| record.to_string().contains(&token)));
    assert_eq!(gateway.metric("tollgate_identity_introspections_total"), Some(1.0));

    // A JWT of the same issuer needs no question, and each endpoint wants a token of its own.
    assert_eq!(gateway.client_of(Some("up"), &issuer, "bob").call("echo", &json!({})).status(), 200);
    let elsewhere = gateway.client(None).token(&token).call("up__echo", &json!({}));
    assert_eq!(refused(&elsewhere), (401, 40102, "token_invalid".into()));
    assert_eq!(issuer.introspected().len(), 1);
    let methods: Vec<Value> = intents(&gateway).iter().map(|it| it["authentication"]["method"].clone()).collect();
    assert_eq!(methods.last(), Some(&json!("jwt")));
}

#[test]
fn a_revocation_at_the_issuer_is_seen_within_the_life_of_an_answer() {
    let (issuer, recorder) = (Issuer::good(), Recorder::good(Era::Modern));
    let gateway = start("revoked", &issuer, "tokens = [\"opaque\", \"jwt\"], cache_s = 1", &recorder);
    let endpoint = gateway.endpoint(Some("up"));
    let opaque = issuer.opaque(&issuer.claims("alice", &endpoint));
    for token in [opaque, issuer.token("bob", &endpoint)] {
        let client = gateway.client(Some("up")).token(&token).awaiting("echo");
        assert_eq!(client.call("echo", &json!({})).status(), 200);
        issuer.revoke(&token);
        let answer = place::wait_for("the revocation", place::PATIENCE, || {
            let answer = client.call("echo", &json!({}));
            (answer.status() != 200).then_some(answer)
        });
        assert_eq!(refused(&answer), (401, 40102, "token_invalid".into()));
        assert!(answer.header("www-authenticate").unwrap().contains("invalid_token"));
    }
    let methods: Vec<Value> = intents(&gateway).iter().map(|it| it["authentication"]["method"].clone()).collect();
    assert!(methods.iter().all(|method| method == "introspection"), "{methods:?}");
}

/// Nobody is asked about a JWT that is not genuine.
#[test]
fn a_signature_is_proved_before_the_issuer_is_asked() {
    let (issuer, recorder) = (Issuer::good(), Recorder::good(Era::Modern));
    let gateway = start("signature-first", &issuer, "tokens = [\"jwt\"]", &recorder);
    let claims = issuer.claims("alice", &gateway.endpoint(Some("up")));
    let forged = issuer.forge(&issuer.header(), &claims, Signature::Stranger);
    for token in [forged, issuer.opaque(&claims)] {
        let answer = gateway.client(Some("up")).token(&token).call("echo", &json!({}));
        assert_eq!(refused(&answer), (401, 40102, "token_invalid".into()));
    }
    assert!(issuer.introspected().is_empty(), "{:?}", issuer.introspected());
    let alice = gateway.client(Some("up")).token(&issuer.sign(&claims)).awaiting("echo");
    assert_eq!(alice.call("echo", &json!({})).status(), 200);
    assert_eq!(issuer.introspected().len(), 1);
}

/// An issuer of nothing but opaque tokens has no keys to read; the gateway proves itself there by a key of its own.
#[test]
fn an_issuer_that_signs_nothing_is_asked_by_a_client_with_a_key() {
    let recorder = Recorder::good(Era::Modern);
    let issuer = Recorder::serving(|seen| match seen.path.as_str() {
        "/introspect" => {
            let claims = claims_of(&format!(".{}.", seen.field("token").unwrap_or_default()));
            Reply::json(200, &if claims["active"] == true { claims } else { json!({ "active": false }) })
        }
        _ => Reply::status(404),
    });
    let (name, setup) = (issuer.origin(), Setup::new("signs-nothing"));
    let key = setup.folder().join("client.key");
    fs::write(&key, rcgen::KeyPair::generate().unwrap().serialize_pem()).unwrap();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    let client = format!("client = {{ id = \"tollgate\", key = {{ file = \"{}\" }} }}", key.display());
    let setup = setup.section(&format!(
        "[[issuers]]\nissuer = \"{name}\"\nintrospection = {{ endpoint = \"{name}/introspect\", {client} }}"
    ));
    let gateway = setup.policy("allow.cedar", ALLOW_ALL).open_upstream("up", &recorder.url()).start();
    let claims = json!({
        "active": true, "sub": "alice", "client_id": "agent", "aud": gateway.endpoint(Some("up")), "exp": now() + 300,
    });
    let token = BASE64URL.encode(claims.to_string());
    let alice = gateway.client(Some("up")).token(&token).awaiting("echo");
    assert_eq!(alice.call("echo", &json!({})).status(), 200);
    let asked = issuer.seen_path("/introspect").remove(0);
    assert_eq!(asked.header("authorization"), None);
    assert_eq!(
        asked.field("client_assertion_type").as_deref(),
        Some("urn:ietf:params:oauth:client-assertion-type:jwt-bearer")
    );
    let assertion = claims_of(&asked.field("client_assertion").unwrap());
    assert_eq!(
        (&assertion["iss"], &assertion["sub"], &assertion["aud"]),
        (&json!("tollgate"), &json!("tollgate"), &json!(name))
    );

    // Nobody can sign in its name.
    let stranger = Issuer::good();
    let mut forged = stranger.claims("alice", &gateway.endpoint(Some("up")));
    forged["iss"] = json!(name);
    let answer = gateway.client(Some("up")).token(&stranger.sign(&forged)).call("echo", &json!({}));
    assert_eq!(refused(&answer), (401, 40102, "token_invalid".into()));
    assert_eq!(issuer.seen().iter().filter(|seen| seen.path != "/introspect").count(), 0, "no keys were looked for");
}
