//! A tool that wants a better login says which, and the same tool is there for who comes back with it (RFC 9470).

use serde_json::{Value, json};

use super::{refused, text_of};
use crate::harness::{
    gateway::Setup,
    issuer::{Issuer, now},
    recorder::{Era, Recorder},
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
