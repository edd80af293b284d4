//! A tool that policy forbids, called by the upstream's own name for it, on every endpoint and in both eras (I5).

use serde_json::json;

use super::{ECHO_HEADERS, Ground, call_text, code};
use crate::harness::recorder::{Era, Recorder};

/// `boss` may erase, nobody else; everybody may echo what is short.
const POLICY: &str = r#"
@id("boss-erases")
permit (principal, action == Action::"up/erase", resource) when { principal.subject == "boss" };
@id("everybody-echoes")
permit (principal, action == Action::"up/echo", resource);
@id("no-secrets")
forbid (principal, action == Action::"up/echo", resource) when { context.input has message && context.input.message == "secret" };
"#;

#[test]
fn hidden_tool_cannot_be_called_by_any_name() {
    let recorder = Recorder::good(Era::Modern);
    let ground = Ground::before("denied-tool", recorder, |setup, _, up| {
        setup.policy("allow.cedar", POLICY).open_upstream("up", &up.url())
    });
    let all = |user: &str| ground.gateway.client_of(None, &ground.issuer, user);
    for (boss, name) in [(ground.client("boss"), "erase"), (all("boss"), "up__erase")] {
        assert!(boss.tools().contains(&name.to_owned()));
        assert_eq!(boss.call(name, &json!({ "id": "1" })).status(), 200);
    }
    assert_eq!(ground.calls(), 2);

    let mallory = ground.client("mallory");
    assert_eq!(mallory.tools(), ["echo"]);
    assert_eq!(all("mallory").tools(), ["up__echo"]);
    let unknown = mallory.call("no-such-tool", &json!({}));
    for (client, name) in
        [(&mallory, "erase"), (&mallory, "up__erase"), (&all("mallory"), "erase"), (&all("mallory"), "up__erase")]
    {
        let answer = ground.refused(name, &["tool_unknown"], || client.call(name, &json!({ "id": "1" })));
        assert_eq!(
            (answer.status(), answer.json()["error"].clone()),
            (unknown.status(), unknown.json()["error"].clone())
        );
        let legacy = client.initialize();
        ground.refused(name, &["tool_unknown"], || legacy.call(name, &json!({ "id": "1" })));
    }
    ground.refused("by a header", &["header_mismatch"], || {
        mallory.post(&ECHO_HEADERS, call_text("erase", "{}").as_bytes())
    });
    ground.refused("by an argument", &["denied"], || mallory.call("echo", &json!({ "message": "secret" })));
    let record = ground.recorded_refusal("denied");
    assert_eq!(record["decision"]["policies"], json!(["no-secrets"]));
    assert_eq!((&record["user"]["subject"], &record["target"]["name"]), (&json!("mallory"), &json!("echo")));
    ground.good_call();
}

#[test]
fn policy_that_cannot_be_evaluated_denies() {
    let policy = r#"
@id("allow")
permit (principal, action, resource);
@id("broken")
forbid (principal, action, resource) when { context.input.message == "hi" && context.input.message.like_this == 1 };
"#;
    let recorder = Recorder::good(Era::Modern);
    let ground = Ground::before("policy-fails", recorder, |setup, _, up| {
        setup.policy("allow.cedar", policy).open_upstream("up", &up.url())
    });
    let answer = ground.client("alice").call("echo", &json!({ "message": "hi" }));
    assert_eq!((answer.status(), code(&answer).as_str()), (403, "policy_failed"), "{}", answer.text());
    assert_eq!(ground.calls(), 0);
    ground.recorded_refusal("policy_failed");
    ground.good_call();
}
