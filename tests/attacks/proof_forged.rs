//! A stolen token with a proof that is not its holder's, or not for this request (RFC 9449 §11).

use serde_json::{Value, json};

use super::{ECHO_HEADERS, Ground, call_text, chain_verifies};
use crate::harness::{
    http::Answer,
    issuer::Signature,
    mcp::Client,
    prover::Prover,
    recorder::{Era, Recorder},
};

fn show(client: &Client, credentials: &[(&str, &str)]) -> Answer {
    let headers = [credentials, &ECHO_HEADERS].concat();
    client.post(&headers, call_text("echo", r#"{"message":"x"}"#).as_bytes())
}

/// Proofs that are not the holder's, or not for this request.
fn forgeries(
    key: &Prover,
    (url, issuer): (&str, &str),
    (token, other): (&str, &str),
    good: &str,
) -> Vec<(&'static str, String)> {
    let thief = Prover::new();
    let (header, claims) = (key.header(), || key.claims("POST", url, Some(token)));
    let with = |name: &str, value: Value| {
        let mut claims = claims();
        claims[name] = value;
        key.sign(&header, &claims)
    };
    let headed = |name: &str, value: Value, signature: Signature| {
        let mut header = key.header();
        header[name] = value;
        key.forge(&header, &claims(), signature)
    };
    let mut private = key.jwk();
    private["d"] = json!("AAAA");
    let now = crate::harness::issuer::now();
    let origin = url.strip_suffix("/mcp/up").unwrap();
    vec![
        ("replayed", good.to_owned()),
        ("of another key", thief.proof("POST", url, Some(token))),
        ("of another key, under the holder's", thief.sign(&header, &claims())),
        ("for another token", key.proof("POST", url, Some(other))),
        ("for no token", key.proof("POST", url, None)),
        ("for another method", key.proof("GET", url, Some(token))),
        ("for another endpoint", key.proof("POST", &format!("{origin}/mcp"), Some(token))),
        ("for another host", key.proof("POST", "http://evil.example/mcp/up", Some(token))),
        ("for the provider", key.proof("POST", &format!("{issuer}/token"), None)),
        ("stale", with("iat", json!(now - 600))),
        ("of the future", with("iat", json!(now + 600))),
        ("unsigned", headed("alg", json!("none"), Signature::Absent)),
        ("by a MAC", headed("alg", json!("HS256"), Signature::HmacOfPublicKey)),
        ("with a private key", headed("jwk", private, Signature::Own)),
        ("of another type", headed("typ", json!("JWT"), Signature::Own)),
        ("the token itself", token.to_owned()),
    ]
}

#[test]
fn a_bound_token_serves_nobody_but_its_key() {
    let ground = Ground::before("proof-forged", Recorder::good(Era::Modern), |setup, _, up| {
        setup.gateway("dpop = {}").open_upstream("up", &up.url())
    });
    let (url, key) = (ground.gateway.endpoint(Some("up")), Prover::new());
    let bound = |user: &str| {
        let mut claims = ground.issuer.claims(user, &url);
        claims["cnf"] = json!({ "jkt": key.thumbprint() });
        ground.issuer.sign(&claims)
    };
    let (token, other) = (bound("alice"), bound("alice"));
    let shown = format!("DPoP {token}");
    let client = ground.gateway.client(Some("up"));
    let good = key.proof("POST", &url, Some(&token));
    assert_eq!(show(&client, &[("Authorization", &shown), ("DPoP", &good)]).status(), 200, "the holder");

    let proofs = forgeries(&key, (&url, &ground.issuer.url()), (&token, &other), &good);
    for (what, proof) in &proofs {
        let attack = || show(&client, &[("Authorization", &shown), ("DPoP", proof)]);
        let answer = ground.refused(what, &["proof_invalid"], attack);
        let challenge = answer.header("www-authenticate").unwrap();
        assert!(challenge.starts_with("DPoP error=\"invalid_dpop_proof\""), "{what}: {challenge}");
    }
    let fresh = || key.proof("POST", &url, Some(&token));
    let (one, two, bearer) = (fresh(), fresh(), format!("Bearer {token}"));
    let free = format!("DPoP {}", ground.issuer.token("alice", &url));
    for (what, code, credentials) in [
        ("two proofs", "proof_invalid", vec![("Authorization", shown.as_str()), ("DPoP", &one), ("DPoP", &two)]),
        ("no proof", "proof_invalid", vec![("Authorization", shown.as_str())]),
        ("as a bearer token", "token_invalid", vec![("Authorization", bearer.as_str())]),
        ("as a bearer token, with a proof", "token_invalid", vec![("Authorization", bearer.as_str()), ("DPoP", &one)]),
        ("a free token as a bound one", "token_invalid", vec![("Authorization", free.as_str()), ("DPoP", &one)]),
        ("a proof alone", "token_missing", vec![("DPoP", one.as_str())]),
    ] {
        ground.refused(what, &[code], || show(&client, &credentials));
    }
    ground.recorded_refusal("proof_invalid");
    // Neither token nor proof went up with the call that was let through.
    let sent: Vec<_> = ground.upstream.seen_method("tools/call");
    assert!(sent.iter().all(|seen| seen.header("dpop").is_none() && seen.header("authorization").is_none()));
    ground.good_call();
    chain_verifies(&ground.gateway);
}

#[test]
fn where_proofs_are_required_no_bearer_is_served() {
    let ground = Ground::before("proof-required", Recorder::good(Era::Modern), |setup, _, up| {
        setup.open_upstream("up", &up.url())
    });
    ground.gateway.reconfigure(|text| text.replace("[gateway]\n", "[gateway]\ndpop = { required = true }\n"));
    let url = ground.gateway.endpoint(Some("up"));
    let answer = ground.refused("a bearer", &["token_invalid"], || ground.client("alice").call("echo", &json!({})));
    let challenge = answer.header("www-authenticate").unwrap();
    assert!(challenge.starts_with("DPoP error=\"invalid_token\"") && !challenge.contains("Bearer"), "{challenge}");
    let document =
        crate::harness::http::fetch("GET", &url.replace("/mcp", "/.well-known/oauth-protected-resource/mcp"), &[], b"");
    let document = document.json();
    assert_eq!(document["dpop_bound_access_tokens_required"], true);
    assert_eq!(document["dpop_signing_alg_values_supported"], json!(["ES256", "ES384", "EdDSA", "PS256", "RS256"]));
    let key = Prover::new();
    let mut claims = ground.issuer.claims("alice", &url);
    claims["cnf"] = json!({ "jkt": key.thumbprint() });
    let token = ground.issuer.sign(&claims);
    let (shown, proof) = (format!("DPoP {token}"), key.proof("POST", &url, Some(&token)));
    let client = ground.gateway.client(Some("up"));
    assert_eq!(show(&client, &[("Authorization", &shown), ("DPoP", &proof)]).status(), 200);
}
