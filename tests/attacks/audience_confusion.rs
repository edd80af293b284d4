//! A token that is good, but for somebody else: another endpoint, another server, an upstream (RFC 9068 §4, RR-06).

use serde_json::{Value, json};

use super::Ground;
use crate::harness::{
    issuer::claims_of,
    recorder::{Era, Recorder},
};

#[test]
fn token_for_somebody_else_is_refused() {
    let recorder = Recorder::good(Era::Modern);
    let ground = Ground::before("audience-confusion", recorder, |setup, issuer, up| {
        setup.exchanged_upstream("up", &up.url(), &issuer.url(), "")
    });
    let own = ground.gateway.endpoint(Some("up"));
    let call = |audience: &Value| {
        let mut claims = ground.issuer.claims("alice", "");
        claims["aud"] = audience.clone();
        ground.gateway.client(Some("up")).token(&ground.issuer.sign(&claims)).call("echo", &json!({}))
    };
    assert_eq!(call(&json!(own)).status(), 200);
    assert_eq!(call(&json!(["https://other.example", own])).status(), 200);

    let origin = ground.gateway.setup().origin();
    let port = url::Url::parse(&origin).unwrap().port().unwrap();
    let up = ground.upstream.url();
    for audience in [
        json!(up),
        json!(ground.issuer.url()),
        json!("gateway"),
        json!(format!("{origin}/mcp/other")),
        json!(format!("{own}x")),
        json!(format!("{own}/x")),
        json!(own.to_uppercase()),
        json!(format!("{own}?a=b")),
        json!(format!("{own} {up}")),
        json!(format!("http://127.0.0.1:{port}")),
        json!(format!("http://localhost:{port}/mcp/up")),
        json!("*"),
        json!(""),
        json!([]),
        json!([up]),
        json!([[own]]),
        json!([own, 5]),
        json!({ "aud": own }),
        json!(null),
        json!(5),
    ] {
        let answer = ground.refused(&audience.to_string(), &["token_invalid"], || call(&audience));
        assert_eq!(answer.status(), 401, "{audience}");
        assert!(answer.header("www-authenticate").unwrap().contains("error=\"invalid_token\""));
    }
    let mut without = ground.issuer.claims("alice", &own);
    without.as_object_mut().unwrap().remove("aud");
    let client = ground.gateway.client(Some("up")).token(&ground.issuer.sign(&without));
    ground.refused("no audience", &["token_invalid"], || client.call("echo", &json!({})));

    // The credential that the gateway minted for the upstream comes from the same issuer, and is not for the gateway.
    let seen = ground.upstream.seen_method("tools/call");
    let minted = seen[0].header("authorization").unwrap().strip_prefix("Bearer ").unwrap().to_owned();
    assert_eq!(claims_of(&minted)["aud"], json!(up));
    let back = ground.gateway.client(Some("up")).token(&minted);
    ground.refused("the upstream's own credential", &["token_invalid"], || back.call("echo", &json!({})));
    ground.recorded_refusal("token_invalid");
    ground.good_call();
}

#[test]
fn token_is_good_for_its_endpoint_and_no_other_also_once_it_was_verified() {
    let ground = Ground::new("audience-endpoints");
    let (own, all) = (ground.gateway.endpoint(Some("up")), ground.gateway.endpoint(None));
    let (for_one, for_all) = (ground.issuer.token("alice", &own), ground.issuer.token("alice", &all));
    for _ in 0..2 {
        assert_eq!(ground.gateway.client(Some("up")).token(&for_one).call("echo", &json!({})).status(), 200);
        assert_eq!(ground.gateway.client(None).token(&for_all).call("up__echo", &json!({})).status(), 200);
        ground.refused("one's on all", &["token_invalid"], || {
            ground.gateway.client(None).token(&for_one).call("up__echo", &json!({}))
        });
    }
    ground.good_call();
}
