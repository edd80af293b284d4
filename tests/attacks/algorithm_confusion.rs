//! A token that says itself how it wants to be verified (RFC 8725 §2.1, §3.1).

use aws_lc_rs::{
    encoding::AsDer,
    rand::SystemRandom,
    rsa::KeySize,
    signature::{KeyPair, RSA_PKCS1_SHA256, RsaKeyPair},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL};
use serde_json::{Value, json};

use super::Ground;
use crate::harness::{
    http::fetch,
    issuer::{Issuer, Signature},
    recorder::{Recorder, Reply},
};

fn with(mut header: Value, changes: &Value) -> Value {
    for (name, value) in changes.as_object().unwrap() {
        header[name] = value.clone();
    }
    header
}

#[test]
fn token_that_chooses_its_own_verification_is_refused() {
    // A server with the attacker's keys, which no token may make the gateway read.
    let lure = Recorder::serving(|_| Reply::json(200, &json!({ "keys": [] })));
    let ground = Ground::new("algorithm-confusion");
    let own = ground.gateway.endpoint(Some("up"));
    let claims = ground.issuer.claims("alice", &own);
    let header = |changes: Value| with(ground.issuer.header(), &changes);
    let call = |token: &str| ground.gateway.client(Some("up")).token(token).call("echo", &json!({}));
    assert_eq!(call(&ground.issuer.forge(&header(json!({})), &claims, Signature::Own)).status(), 200);

    let keys = format!("{}/jwks", lure.origin());
    let mallory = Issuer::good();
    let jwk = fetch("GET", &format!("{}/jwks", mallory.url()), &[], b"").json()["keys"][0].clone();
    let cases = [
        (json!({ "alg": "none" }), Signature::Absent),
        (json!({ "alg": "None" }), Signature::Absent),
        (json!({ "alg": "nOnE" }), Signature::Absent),
        (json!({}), Signature::Absent),
        (json!({ "alg": "none" }), Signature::Own),
        (json!({ "alg": "" }), Signature::Own),
        (json!({ "alg": "es256" }), Signature::Own),
        (json!({ "alg": "HS256" }), Signature::HmacOfPublicKey),
        (json!({ "alg": "HS256", "kid": null }), Signature::HmacOfPublicKey),
        (json!({}), Signature::HmacOfPublicKey),
        (json!({ "alg": "HS256" }), Signature::HmacOfNothing),
        (json!({ "alg": "HS256", "kid": "../../../../dev/null" }), Signature::HmacOfNothing),
        (json!({ "kid": "/dev/null" }), Signature::HmacOfNothing),
        (json!({ "alg": "RS256" }), Signature::Own),
        (json!({ "alg": "PS256" }), Signature::Own),
        (json!({ "alg": "ES384" }), Signature::Own),
        (json!({ "alg": "EdDSA" }), Signature::Own),
        (json!({ "alg": ["ES256"] }), Signature::Own),
        (json!({}), Signature::Stranger),
        (json!({ "jku": keys }), Signature::Stranger),
        (json!({ "x5u": keys }), Signature::Stranger),
        (json!({ "jku": keys, "kid": "unknown" }), Signature::Stranger),
        (json!({ "jwk": jwk }), Signature::Stranger),
        (json!({ "x5c": ["MIIB"] }), Signature::Stranger),
        (json!({ "kid": "../../../../dev/null" }), Signature::Stranger),
        (json!({ "kid": "' OR 1=1 --" }), Signature::Stranger),
        (json!({ "kid": keys }), Signature::Stranger),
        (json!({ "kid": "key-1\u{0}" }), Signature::Own),
        (json!({ "kid": "KEY-1" }), Signature::Own),
        (json!({ "kid": 1 }), Signature::Own),
        (json!({ "kid": "k".repeat(10_000) }), Signature::Own),
        (json!({ "crit": ["exp"] }), Signature::Own),
        (json!({ "b64": false, "crit": ["b64"] }), Signature::Own),
        (json!({ "typ": "JWT" }), Signature::Own),
        (json!({ "typ": "logout+jwt" }), Signature::Own),
        (json!({ "typ": "dpop+jwt" }), Signature::Own),
    ];
    for (changes, signature) in cases {
        let token = ground.issuer.forge(&header(changes.clone()), &claims, signature);
        // After the first, keys that nobody knows are not asked for again at once.
        let later = if changes.get("kid").is_some() { "identity_unavailable" } else { "token_invalid" };
        ground.refused(&format!("{changes} {signature:?}"), &["token_invalid", later], || call(&token));
    }
    // Another issuer's key under the good issuer's name, and mallory's own name.
    let others = [
        ("signed by mallory", mallory.forge(&header(json!({})), &claims, Signature::Own)),
        ("vouched for by mallory", mallory.token("alice", &own)),
        ("RSA with its key beside it", by_rsa(&header(json!({ "alg": "RS256" })), &claims)),
    ];
    for (what, token) in others {
        ground.refused(what, &["token_invalid"], || call(&token));
    }

    let good = ground.issuer.forge(&header(json!({})), &claims, Signature::Own);
    for token in [format!("{good}."), format!("{good}=="), good.replacen('.', "..", 1), good[1..].to_owned()] {
        ground.refused(&token, &["token_invalid", "authorization_malformed"], || call(&token));
    }
    assert!(lure.seen().is_empty(), "the gateway read keys where a token told it to: {:?}", lure.seen());
    ground.recorded_refusal("token_invalid");
    ground.good_call();
}

/// A token signed by a new RSA key that it brings along.
fn by_rsa(header: &Value, claims: &Value) -> String {
    let key = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
    let der = key.public_key().as_der().unwrap();
    let mut header = header.clone();
    header["jwk"] = json!({ "kty": "RSA", "kid": header["kid"], "der": BASE64URL.encode(der.as_ref()) });
    let signed = format!("{}.{}", BASE64URL.encode(header.to_string()), BASE64URL.encode(claims.to_string()));
    let mut signature = vec![0; key.public_modulus_len()];
    key.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), signed.as_bytes(), &mut signature).unwrap();
    format!("{signed}.{}", BASE64URL.encode(signature))
}

#[test]
fn claims_that_do_not_hold_are_refused_however_well_they_are_signed() {
    let ground = Ground::new("claims");
    let own = ground.gateway.endpoint(Some("up"));
    let call = |changes: &Value| {
        let mut claims = ground.issuer.claims("alice", &own);
        for (name, value) in changes.as_object().unwrap() {
            claims[name] = value.clone();
        }
        ground.gateway.client(Some("up")).token(&ground.issuer.sign(&claims)).call("echo", &json!({}))
    };
    assert_eq!(call(&json!({})).status(), 200);
    let now = crate::harness::issuer::now();
    let issuer = ground.issuer.url();
    for changes in [
        json!({ "exp": now - 60 }),
        json!({ "exp": null }),
        json!({ "exp": "9999999999" }),
        json!({ "exp": 1.5e300 }),
        json!({ "exp": now + 10_000_000 }),
        json!({ "nbf": now + 120 }),
        json!({ "nbf": "soon" }),
        json!({ "iat": now + 86_400 }),
        json!({ "iss": format!("{issuer}/") }),
        json!({ "iss": [issuer] }),
        json!({ "iss": null }),
        json!({ "iss": "https://evil.example" }),
        json!({ "sub": "" }),
        json!({ "sub": 7 }),
        json!({ "sub": "a".repeat(10_000) }),
        json!({ "cnf": { "jkt": "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I" } }),
        json!({ "scope": 7 }),
        json!({ "groups": "engineering" }),
    ] {
        let answer = call(&changes);
        assert_eq!(answer.status(), 401, "{changes}: {}", answer.text());
        assert_eq!(super::code(&answer), "token_invalid", "{changes}");
    }
    assert_eq!(ground.calls(), 1);
    ground.recorded_refusal("token_invalid");
    ground.good_call();
}
