//! Callers with a key of the gateway's own: what it is good for, how long, and what it cannot buy.

use serde_json::{Value, json};

use super::{refused, text_of};
use crate::harness::{
    gateway::Setup,
    issuer::Issuer,
    place,
    recorder::{Era, Recorder},
};

const HOLDERS: &str = r#"
@id("support")
permit (principal in Group::"support", action == Action::"up/echo", resource)
when { context.authn.method == "api_key" && context.authn.issuer == "urn:tollgate:keys" };
@id("reports")
permit (principal == Agent::"urn:tollgate:keys#reports", action == Action::"up/add", resource);
"#;

#[test]
fn a_key_is_its_holder_to_policy_and_audit_until_it_is_revoked() {
    let (issuer, recorder) = (Issuer::good(), Recorder::good(Era::Modern));
    let setup = Setup::new("keys").issuer(&issuer.url()).policy("holders.cedar", HOLDERS).api_keys();
    let gateway = setup.open_upstream("up", &recorder.url()).start();
    let made: Value =
        serde_json::from_str(&gateway.keys("new --user alice --group support --tenant acme --json")).unwrap();
    let (key, id) = (made["key"].as_str().unwrap(), made["id"].as_str().unwrap());
    let alice = gateway.client(None).token(key);
    place::wait_for("the new key", place::PATIENCE, || {
        (alice.modern("tools/list", &json!({})).status() == 200).then_some(())
    });
    let alice = alice.awaiting("up__echo");
    assert_eq!(text_of(&alice.call("up__echo", &json!({}))), "echo {}");
    assert_eq!(refused(&alice.call("up__add", &json!({}))).2, "tool_unknown");

    let reports = gateway.key("--agent reports");
    let machine = gateway.client(None).token(&reports).awaiting("up__add");
    assert_eq!(machine.call("up__add", &json!({ "a": 1, "b": 2 })).status(), 200);
    assert_eq!(refused(&machine.call("up__echo", &json!({}))).2, "tool_unknown");

    let intents = gateway.recorded("intent", 2);
    assert_eq!(intents[0]["user"], json!({ "issuer": "urn:tollgate:keys", "subject": "alice" }));
    assert_eq!((&intents[0]["tenant"], &intents[0]["agent"]["client_id"]), (&json!("acme"), &json!("api-key")));
    let authentication = &intents[0]["authentication"];
    assert_eq!((&authentication["method"], &authentication["token_id"]), (&json!("api_key"), &json!(id)));
    assert_eq!((&intents[1]["user"], &intents[1]["agent"]["client_id"]), (&Value::Null, &json!("reports")));

    // Two for a rotation, and no third.
    let second = gateway.key("--user alice --group support --tenant acme");
    let listed = gateway.keys("list");
    assert_eq!(listed.lines().filter(|line| line.contains("valid") && line.contains("alice")).count(), 2, "{listed}");
    assert!(!listed.contains(key) && !listed.contains(&second), "{listed}");
    assert_eq!(gateway.client(None).token(&second).awaiting("up__echo").call("up__echo", &json!({})).status(), 200);
    assert_eq!(gateway.keys(&format!("revoke {id}")), format!("key {id} is revoked"));
    let answer = place::wait_for("the revocation", place::PATIENCE, || {
        let answer = alice.call("up__echo", &json!({}));
        (answer.status() != 200 && refused(&answer).2 == "token_invalid").then_some(answer)
    });
    assert_eq!(refused(&answer), (401, 40102, "token_invalid".into()));
    assert_eq!(gateway.client(None).token(&second).call("up__echo", &json!({})).status(), 200, "the other one stays");

    // Nothing of a key is anywhere but with its holder.
    let folder = gateway.setup().folder().join("state");
    for secret in [key, &second, &reports] {
        for file in std::fs::read_dir(&folder).unwrap() {
            let bytes = std::fs::read(file.unwrap().path()).unwrap();
            assert!(!bytes.windows(secret.len()).any(|window| window == secret.as_bytes()));
        }
        assert!(!gateway.journal().iter().any(|record| record.to_string().contains(secret)));
        assert!(!gateway.process.errors().contains(secret) && !recorder.saw_text(secret));
    }
    // And it is there after the next start.
    let mut gateway = gateway;
    gateway.stop();
    let gateway = gateway.again();
    assert_eq!(gateway.client(None).token(&second).awaiting("up__echo").call("up__echo", &json!({})).status(), 200);
    let answer = gateway.client(None).token(key).call("up__echo", &json!({}));
    assert_eq!(refused(&answer), (401, 40102, "token_invalid".into()));
}

#[test]
fn a_key_for_one_upstream_is_none_for_another() {
    let (issuer, recorder) = (Issuer::good(), Recorder::good(Era::Modern));
    let setup = Setup::usual("keys-upstream", &issuer).api_keys();
    let gateway = setup.open_upstream("up", &recorder.url()).open_upstream("other", &recorder.url()).start();
    let key = gateway.key("--agent reports --upstream up");
    assert_eq!(gateway.client(Some("up")).token(&key).awaiting("echo").call("echo", &json!({})).status(), 200);
    for elsewhere in [Some("other"), None] {
        let answer = gateway.client(elsewhere).token(&key).call("echo", &json!({}));
        assert_eq!(refused(&answer), (401, 40102, "token_invalid".into()), "{elsewhere:?}");
    }
}

/// Each strategy but the one that needs a token of an identity provider.
#[test]
fn a_key_buys_no_exchange() {
    let (issuer, recorder) = (Issuer::good(), Recorder::good(Era::Modern));
    let url = recorder.url();
    let client = "client = { id = \"gateway\", secret = { env = \"GATEWAY_SECRET\" } }";
    let own = format!(
        "grant = {{ strategy = \"client_credentials\", token_endpoint = \"{}/token\", {client}, scopes = [] }}",
        issuer.url()
    );
    let fixed = "grant = { strategy = \"static_secret\", header = \"x-key\", value = { env = \"GATEWAY_SECRET\" } }";
    let setup =
        Setup::usual("keys-exchange", &issuer).api_keys().open_upstream("none", &url).upstream("own", &url, &own);
    let setup = setup.upstream("fixed", &url, fixed).exchanged_upstream("exchanged", &url, &issuer.url(), "");
    let gateway = setup.start();
    let key = gateway.key("--user alice");
    for upstream in ["none", "own", "fixed"] {
        let client = gateway.client(Some(upstream)).token(&key).awaiting("echo");
        assert_eq!(client.call("echo", &json!({})).status(), 200, "{upstream}");
    }
    let client = gateway.client(Some("exchanged")).token(&key).awaiting("echo");
    let before = recorder.seen_method("tools/call").len();
    assert_eq!(refused(&client.call("echo", &json!({}))), (403, 40310, "grant_needs_token".into()));
    assert_eq!(recorder.seen_method("tools/call").len(), before);
    assert!(!issuer.recorder().saw_text(&key));
    let record = gateway.recorded("refusal", 1).pop().unwrap();
    assert_eq!(
        (&record["refused"]["code"], &record["target"]["upstream"]),
        (&json!("grant_needs_token"), &json!("exchanged"))
    );
}

/// Where nobody else vouches for callers, nobody else is waited for.
#[test]
fn keys_need_no_issuer() {
    let recorder = Recorder::good(Era::Modern);
    let setup = Setup::new("keys-alone").policy("holders.cedar", HOLDERS).api_keys();
    let gateway = setup.open_upstream("up", &recorder.url()).start();
    let key = gateway.key("--user alice --group support --tenant acme");
    let alice = gateway.client(None).token(&key).awaiting("up__echo");
    assert_eq!(text_of(&alice.call("up__echo", &json!({}))), "echo {}");
    let metadata = format!("{}/.well-known/oauth-protected-resource/mcp", gateway.setup().origin());
    let document = crate::harness::http::fetch("GET", &metadata, &[], b"");
    assert_eq!(document.json()["resource"], gateway.endpoint(None));
    // What is wrong with a credential is for the operator alone.
    let stranger = gateway.client(None).token("tg_unknown_key").modern("tools/list", &json!({}));
    assert_eq!(refused(&stranger), (401, 40102, "token_invalid".into()));
    let expected = json!("malformed");
    place::wait_for("the fault in the journal", place::PATIENCE, || {
        let summaries = gateway.journal();
        let mut sources = summaries.iter().filter_map(|record| record["refusals"]["sources"].as_array()).flatten();
        sources.any(|source| source["fault"] == expected).then_some(())
    });
    assert_eq!(gateway.metric("tollgate_identity_faults_total{tollgate_identity_fault=\"malformed\"}"), Some(1.0));
    let nowhere = gateway.client(Some("nowhere")).token(&key).modern("tools/list", &json!({}));
    assert_eq!(refused(&nowhere).2, "route_unknown");
}
