//! Two issuers that are both trusted: neither speaks for the other's users, whatever name it signs with, and people of one
//! name at both are two people (RFC 9207, RFC 8725 §3.8).

use serde_json::{Value, json};

use super::{Ground, chain_verifies};
use crate::harness::{
    issuer::{Issuer, Signature},
    recorder::{Era, Recorder},
};

#[test]
fn an_issuer_vouches_for_nobody_in_anothers_name() {
    let partner = Issuer::good();
    let policy = |issuer: &Issuer| {
        let own = issuer.url();
        format!(
            "@id(\"own\")\npermit (principal is User, action, resource) when {{ principal.issuer == \"{own}\" }};\n"
        )
    };
    let ground = Ground::before("issuer-mix-up", Recorder::good(Era::Modern), |setup, issuer, up| {
        setup.issuer(&partner.url()).policy("allow.cedar", &policy(issuer)).open_upstream("up", &up.url())
    });
    let own = ground.gateway.endpoint(Some("up"));
    let call = |token: &str| ground.gateway.client(Some("up")).token(token).call("echo", &json!({}));
    assert_eq!(call(&ground.issuer.token("alice", &own)).status(), 200);
    // The same name at the partner is another user, who may not.
    ground.refused("the partner's alice", &["tool_unknown"], || call(&partner.token("alice", &own)));

    let named = |issuer: Value| {
        let mut claims = partner.claims("alice", &own);
        claims["iss"] = issuer;
        claims
    };
    let (ours, theirs) = (ground.issuer.url(), partner.url());
    let kid = |id: &str| json!({ "alg": "ES256", "typ": "at+jwt", "kid": id });
    // Both call their key `key-1`.
    assert_eq!(ground.issuer.header(), partner.header());
    for (what, token) in [
        ("in our issuer's name", partner.sign(&named(json!(ours)))),
        ("in our issuer's name, by another spelling", partner.sign(&named(json!(format!("{ours}/"))))),
        ("in both names", partner.sign(&named(json!([ours, theirs])))),
        ("in one name that reads as both", partner.sign(&named(json!(format!("{ours} {theirs}"))))),
        ("in no name", partner.sign(&named(json!("")))),
        ("in upper case", partner.sign(&named(json!(ours.to_uppercase())))),
        ("ours in the partner's name", ground.issuer.sign(&named(json!(theirs)))),
        ("with a key that is named after us", {
            partner.forge(&kid(&format!("{ours}/jwks#key-1")), &named(json!(ours)), Signature::Own)
        }),
    ] {
        let answer = ground.refused(what, &["token_invalid"], || call(&token));
        assert_eq!(answer.status(), 401, "{what}");
    }
    let refused = ground.recorded_refusal("tool_unknown");
    assert_eq!(refused["user"], json!({ "issuer": theirs, "subject": "alice" }), "{refused}");
    ground.recorded_refusal("token_invalid");
    let intents = ground.gateway.recorded("intent", 1);
    assert!(intents.iter().all(|intent| intent["user"]["issuer"] == json!(ours)), "{intents:?}");
    ground.good_call();
    chain_verifies(&ground.gateway);
}

/// Metadata that name another issuer, or keys of another issuer under one's own name, give the other no say.
#[test]
fn metadata_of_one_issuer_say_nothing_of_another() {
    let victim = Issuer::good();
    let ours = victim.url();
    // It says that it is the victim, with keys of its own.
    let impostor = Issuer::scripted(move |seen| {
        let origin = format!("http://{}", seen.header("host").unwrap_or_default());
        let metadata = json!({ "issuer": ours, "jwks_uri": format!("{origin}/jwks"), "token_endpoint": format!("{origin}/token") });
        seen.path.starts_with("/.well-known/").then(|| crate::harness::recorder::Reply::json(200, &metadata))
    });
    let ground = Ground::of("issuer-metadata", victim, Recorder::good(Era::Modern), |setup, _, up| {
        setup.issuer(&impostor.url()).open_upstream("up", &up.url())
    });
    let own = ground.gateway.endpoint(Some("up"));
    let call = |token: &str| ground.gateway.client(Some("up")).token(token).call("echo", &json!({}));
    let mut claims = impostor.claims("alice", &own);
    ground.refused("its own", &["identity_unavailable"], || call(&impostor.sign(&claims)));
    claims["iss"] = json!(ground.issuer.url());
    ground.refused("the victim's", &["token_invalid"], || call(&impostor.sign(&claims)));
    assert!(impostor.recorder().seen_path("/jwks").is_empty(), "keys under another's name were read");
    ground.recorded_refusal("identity_unavailable");
    ground.recorded_refusal("token_invalid");
    ground.good_call();
}
