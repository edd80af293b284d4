//! A tool that wants a better login says which, and the same tool is there for who comes back with it (RFC 9470).

use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};

use super::{refused, text_of};
use crate::harness::{
    gateway::Setup,
    issuer::{Issuer, claims_of, now},
    recorder::{Era, Recorder, Reply},
};

const POLICY: &str = "@id(\"allow\")\npermit (principal, action, resource);\n\
    @id(\"bound\")\nforbid (principal, action == Action::\"up/erase\", resource) unless { context.authn.binding == \"none\" };\n";

#[test]
fn a_login_that_is_not_enough_is_asked_for_a_better_one() {
    let (issuer, recorder) = (Issuer::good(), Recorder::good(Era::Modern));
    let rule = "grant = { strategy = \"none\" }\n[[upstreams.up.tools]]\nmatch = \"echo\"\nacr = [\"phr\", \"mfa\"]\nauth_age_max_s = 300";
    let gateway = Setup::new("step-up")
        .issuer(&issuer.url())
        .policy("allow.cedar", POLICY)
        .upstream("up", &recorder.url(), rule)
        .start();
    let url = gateway.endpoint(Some("up"));
    let with = |login: Value| {
        let mut claims = issuer.claims("alice", &url);
        for (name, value) in login.as_object().unwrap() {
            claims[name] = value.clone();
        }
        gateway.client(Some("up")).token(&issuer.sign(&claims))
    };
    let weak = with(json!({})).awaiting("erase");
    assert!(weak.tools().contains(&"echo".to_owned()), "what a better login opens is shown");
    assert_eq!(weak.call("erase", &json!({})).status(), 200, "other tools ask for nothing");
    let sent = recorder.seen_method("tools/call").len();
    for login in
        [json!({}), json!({ "acr": "pwd", "auth_time": now() }), json!({ "acr": "mfa", "auth_time": now() - 400 })]
    {
        let answer = with(login.clone()).call("echo", &json!({}));
        assert_eq!(refused(&answer), (401, 40112, "authentication_insufficient".into()), "{login}");
        let challenge = answer.header("www-authenticate").unwrap();
        let expected = "Bearer error=\"insufficient_user_authentication\", resource_metadata=\"";
        assert!(challenge.starts_with(expected), "{challenge}");
        assert!(challenge.ends_with("\", acr_values=\"phr mfa\", max_age=\"300\""), "{challenge}");
        let data = &answer.json()["error"]["data"];
        assert_eq!((&data["acrValues"], &data["maxAgeSeconds"]), (&json!(["phr", "mfa"]), &json!(300)));
    }
    assert_eq!(recorder.seen_method("tools/call").len(), sent, "nothing went up");
    let refusal = gateway.recorded("refusal", 3).pop().unwrap();
    assert_eq!(refusal["refused"]["code"], "authentication_insufficient");
    assert_eq!((&refusal["decision"]["outcome"], &refusal["target"]["name"]), (&json!("allow"), &json!("echo")));
    assert_eq!(refusal["authentication"]["acr"], "mfa");

    let strong = with(json!({ "acr": "mfa", "auth_time": now() - 10 }));
    let answer = strong.call("echo", &json!({ "message": "x" }));
    assert_eq!(text_of(&answer), "echo {\"message\":\"x\"}");
    // Sessions are asked the same.
    let session = weak.initialize();
    assert_eq!(refused(&session.call("echo", &json!({}))).2, "authentication_insufficient");
}

/// The provider may want that, too, before it exchanges the user's token: then the client hears how, and comes again.
#[test]
fn a_login_that_is_not_enough_for_the_provider_is_asked_for_a_better_one() {
    let asked = AtomicUsize::new(0);
    let issuer = Issuer::scripted(move |seen| {
        let subject = claims_of(&seen.field("subject_token")?);
        let said = match subject["acr"].as_str() {
            Some("mfa") => return None,
            Some("once") if asked.fetch_add(1, Ordering::AcqRel) == 0 => return None,
            Some("pwd") => json!({ "error": "interaction_required", "error_description": "AADSTS50076",
                "claims": "{\"access_token\":{\"acrs\":{\"essential\":true,\"value\":\"c1\"}}}" }),
            _ => json!({ "error": "insufficient_user_authentication", "acr_values": "mfa \"x\"", "max_age": 300 }),
        };
        Some(Reply::json(400, &said))
    });
    // A credential that was good when it was minted, and is not any more.
    let recorder = Recorder::scripted(Era::Modern, |seen| {
        (seen.json()["params"]["arguments"]["message"] == "stale").then(|| Reply::status(401))
    });
    let gateway = Setup::usual("step-up-provider", &issuer)
        .exchanged_upstream("up", &recorder.url(), &issuer.url(), "\"up.call\"")
        .start();
    let with = |acr: Value| {
        let mut claims = issuer.claims("alice", &gateway.endpoint(Some("up")));
        claims["acr"] = acr;
        gateway.client(Some("up")).token(&issuer.sign(&claims))
    };
    let strong = with(json!("mfa")).awaiting("echo");
    let sent = recorder.seen_method("tools/call").len();
    let expected = "Bearer error=\"insufficient_user_authentication\", resource_metadata=\"";
    for (acr, more) in
        [(json!("low"), "\", acr_values=\"mfa\", max_age=\"300\""), (json!("pwd"), "\", acr_values=\"c1\"")]
    {
        let weak = with(acr);
        for answer in [weak.call("echo", &json!({})), weak.initialize().call("echo", &json!({}))] {
            assert_eq!(refused(&answer), (401, 40113, "grant_needs_login".into()));
            let challenge = answer.header("www-authenticate").unwrap();
            assert!(challenge.starts_with(expected) && challenge.ends_with(more), "{challenge}");
            assert!(!answer.text().contains("AADSTS"), "the provider's own text goes to the journal");
        }
    }
    assert_eq!(recorder.seen_method("tools/call").len(), sent, "nothing went up");
    let refusal = gateway.recorded("refusal", 4).pop().unwrap();
    let reason = refusal["refused"]["reason"].as_str().unwrap();
    assert!(reason.ends_with("/token: interaction_required: AADSTS50076"), "{reason}");
    assert_eq!(text_of(&strong.call("echo", &json!({}))), "echo {}");

    // Also where it turns out in the middle of a call.
    let answer = with(json!("once")).call("echo", &json!({ "message": "stale" }));
    assert_eq!(refused(&answer), (401, 40113, "grant_needs_login".into()));
    let challenge = answer.header("www-authenticate").expect("a challenge");
    assert!(challenge.starts_with(expected) && challenge.contains("acr_values="), "{challenge}");
}
