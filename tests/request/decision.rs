//! What policy said of a call stands in its record, whichever way it went.

use serde_json::{Value, json};

use super::refused;
use crate::harness::{
    gateway::{Gateway, Setup},
    issuer::Issuer,
    place,
    recorder::{Era, Recorder, Reply},
};

/// Greetings only; on trial, nothing at all.
const POLICY: &str = r#"
@id("greetings")
permit (principal, action == Action::"up/echo", resource)
when { context.input has message && context.input.message == "hi" };
@id("trial")
@shadow
forbid (principal, action, resource);
"#;

#[track_caller]
fn record(gateway: &Gateway, what: &str, is: impl Fn(&Value) -> bool) -> Value {
    place::wait_for(what, place::PATIENCE, || gateway.journal().into_iter().rev().find(|record| is(record)))
}

#[test]
fn a_decision_is_recorded_whichever_way_it_went() {
    let issuer = Issuer::good();
    let recorder = Recorder::good(Era::Modern);
    let setup = Setup::new("decision").issuer(&issuer.url()).policy("greetings.cedar", POLICY);
    let gateway = setup.open_upstream("up", &recorder.url()).start();
    let client = gateway.client_of(Some("up"), &issuer, "alice").awaiting("echo");

    assert_eq!(client.call("echo", &json!({ "message": "hi" })).status(), 200);
    let decision = record(&gateway, "the intent", |record| record["event"] == "intent")["decision"].clone();
    assert_eq!((&decision["outcome"], &decision["policies"]), (&json!("allow"), &json!(["greetings"])));
    assert_eq!(decision["shadow"], json!([{ "policy": "trial", "would": "forbid", "changes": true }]));
    let set = decision["policy_set"].clone();

    let unchanged = json!([{ "policy": "trial", "would": "forbid", "changes": false }]);
    let by_default = "no policy permits this call (default deny)";
    for (tool, arguments, code, why) in [
        ("echo", json!({ "message": "something else" }), "denied", by_default),
        ("erase", json!({ "id": "1" }), "tool_unknown", "hidden: no policy permits it"),
        ("echo", json!({ "message": 5 }), "policy_failed", "the argument `message` is not a string"),
    ] {
        assert_ne!(client.call(tool, &arguments).json()["error"], Value::Null, "{code}");
        let record = record(&gateway, code, |record| record["refused"]["code"] == code);
        let decision = &record["decision"];
        assert_eq!((&decision["outcome"], &decision["policies"]), (&json!("deny"), &json!([])), "{record}");
        assert_eq!((&decision["policy_set"], &decision["reason"]), (&set, &json!(why)), "{record}");
        assert_eq!(record["refused"]["reason"], json!(why), "{record}");
        if code != "policy_failed" {
            assert_eq!(decision["shadow"], unchanged, "{record}");
        }
    }
    let counted =
        |outcome: &str| gateway.metric(&format!("tollgate_policy_decisions_total{{tollgate_outcome=\"{outcome}\"}}"));
    assert_eq!((counted("allow"), counted("deny")), (Some(1.0), Some(3.0)));
    let on_trial = |changes: &str| {
        let labels = "tollgate_policy_id=\"trial\",tollgate_outcome=\"forbid\"";
        gateway.metric(&format!("tollgate_policy_shadow_total{{{labels},tollgate_policy_changes=\"{changes}\"}}"))
    };
    assert_eq!((on_trial("true"), on_trial("false")), (Some(1.0), Some(2.0)));
}

/// The record says which policy could not be evaluated and why, and neither says what the caller wrote.
#[test]
fn a_policy_that_fails_is_named_in_the_record_and_nowhere_else() {
    let issuer = Issuer::good();
    let recorder = Recorder::scripted(Era::Modern, |seen| {
        (seen.rpc_method() == "tools/list").then(|| {
            let schema =
                json!({ "type": "object", "properties": { "count": { "type": "integer" } }, "required": ["count"] });
            let tools = json!([{ "name": "echo", "inputSchema": schema }]);
            Reply::result(
                seen,
                &json!({ "resultType": "complete", "tools": tools, "ttlMs": 60_000, "cacheScope": "private" }),
            )
        })
    });
    let policy = "@id(\"few\")\nforbid (principal, action == Action::\"up/echo\", resource)\nwhen { context.input.count * 2 > 100 };";
    let setup = Setup::usual("decision-failed", &issuer).policy("few.cedar", policy);
    let gateway = setup.open_upstream("up", &recorder.url()).start();
    let client = gateway.client_of(Some("up"), &issuer, "alice").awaiting("echo");
    assert_eq!(client.call("echo", &json!({ "count": 50 })).status(), 200);
    let answer = client.call("echo", &json!({ "count": i64::MAX }));
    assert_eq!(refused(&answer), (403, 40305, "policy_failed".into()));
    assert!(!answer.text().contains("few") && !answer.text().contains("overflow"), "{}", answer.text());
    let record = record(&gateway, "the refusal", |record| record["refused"]["code"] == "policy_failed");
    let why = "could not evaluate few: integer overflow";
    assert_eq!((&record["refused"]["reason"], &record["decision"]["reason"]), (&json!(why), &json!(why)), "{record}");
}

#[test]
fn a_call_refused_after_policy_shows_that_policy_allowed_it() {
    let issuer = Issuer::good();
    let recorder = Recorder::good(Era::Modern);
    let setup = Setup::usual("decision-then-ceiling", &issuer).open_upstream("up", &recorder.url());
    let ceiling = "[[ceilings]]\nname = \"one\"\nper = [\"user\"]\nrate = { count = 1, per = \"1h\", burst = 1 }\n";
    let gateway = setup.policy("ceilings.toml", ceiling).start();
    let client = gateway.client_of(Some("up"), &issuer, "alice").awaiting("echo");
    assert_eq!(client.call("echo", &json!({ "message": "hi" })).status(), 200);
    client.call("echo", &json!({ "message": "hi" }));
    let record = record(&gateway, "the refusal", |record| record["refused"]["code"] == "ceiling_reached");
    let decision = &record["decision"];
    assert_eq!((&decision["outcome"], &decision["policies"]), (&json!("allow"), &json!(["allow-all"])), "{record}");
}
