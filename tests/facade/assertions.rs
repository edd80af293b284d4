//! ID-JAGs: people for whom another issuer vouches.

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use serde_json::{Value, json};

use super::{Ground, code_of};
use crate::harness::{
    http::Answer,
    issuer::{Issuer, Signature, claims_of, now},
    recorder::{Era, Recorder},
};

const BEARER: &str = "urn:ietf:params:oauth:grant-type:jwt-bearer";
const SECRET: &str = "robot+secret%3A+with+odd%2Fcharacters";

/// The claims of a good ID-JAG of `issuer` for the client `robot`.
pub(super) fn claims(ground: &Ground, issuer: &Issuer) -> Value {
    let now = now();
    json!({
        "iss": issuer.url(), "sub": "carol", "aud": ground.origin(), "client_id": "robot", "resource": ground.resource(),
        "scope": "tools:read", "jti": uuid::Uuid::new_v4().to_string(), "iat": now, "exp": now + 120,
        "tenant": "acme", "groups": ["sales"], "acr": "gold",
    })
}

pub(super) fn signed(issuer: &Issuer, claims: &Value, kind: &str) -> String {
    let mut header = issuer.header();
    header["typ"] = json!(kind);
    issuer.forge(&header, claims, Signature::Own)
}

pub(super) fn redeem(ground: &Ground, assertion: &str) -> Answer {
    let basic = format!("Basic {}", BASE64.encode(format!("robot:{SECRET}")));
    ground.token_as(Some(&basic), &[("grant_type", BEARER), ("assertion", assertion)])
}

#[test]
fn a_person_of_another_domain_calls_with_an_assertion_of_it() {
    let ground = Ground::new("facade-id-jag");
    let assertion = signed(&ground.partner, &claims(&ground, &ground.partner), "oauth-id-jag+jwt");
    let answer = redeem(&ground, &assertion);
    assert_eq!(answer.status(), 200, "{}", answer.text());
    let given = answer.json();
    assert!(given["refresh_token"].is_null(), "no login is kept for it");
    let token = given["access_token"].as_str().unwrap();
    let found = claims_of(token);
    // Whoever is `carol` at the provider is somebody else.
    assert_eq!(found["sub"], format!("{} carol", ground.partner.url()));
    assert_eq!((&found["aud"], &found["scope"]), (&json!(ground.resource()), &json!("tools:read")));
    // Nor does the partner say who is in this gateway's groups and tenants.
    assert_eq!((&found["groups"], &found["tenant"], &found["acr"]), (&json!([]), &Value::Null, &Value::Null));
    ground.serves(token);
    let record = ground.gateway.recorded("token", 1).remove(0);
    assert_eq!(record["authorization"]["grant_type"], "id_jag");
    assert!(!ground.gateway.journal().iter().any(|record| record.to_string().contains(&assertion)));
}

#[test]
fn an_assertion_is_good_once_for_one_client_here() {
    let ground = Ground::new("facade-id-jag-refused");
    let kind = "oauth-id-jag+jwt";
    let changed = |change: &dyn Fn(&mut Value)| {
        let mut all = claims(&ground, &ground.partner);
        change(&mut all);
        signed(&ground.partner, &all, kind)
    };
    let good = changed(&|_| {});
    assert_eq!(redeem(&ground, &good).status(), 200);
    let stranger = Issuer::good();
    let bad: [(&str, String, &str); 20] = [
        ("a second time", good.clone(), "assertion_invalid"),
        ("another server's", changed(&|all| all["aud"] = json!("https://other.example")), "assertion_invalid"),
        (
            "two servers'",
            changed(&|all| all["aud"] = json!([all["aud"], "https://other.example"])),
            "assertion_invalid",
        ),
        ("another client's", changed(&|all| all["client_id"] = json!("other")), "assertion_invalid"),
        ("no client's", changed(&|all| all["client_id"] = json!(null)), "assertion_invalid"),
        ("expired", changed(&|all| all["exp"] = json!(now() - 60)), "assertion_invalid"),
        ("of tomorrow", changed(&|all| all["iat"] = json!(now() + 3600)), "assertion_invalid"),
        ("without a name", changed(&|all| all["jti"] = json!(null)), "assertion_invalid"),
        ("with a list of scopes", changed(&|all| all["scope"] = json!(["tools:read"])), "assertion_invalid"),
        ("with scopes that are null", changed(&|all| all["scope"] = json!(null)), "assertion_invalid"),
        ("without a resource", changed(&|all| all["resource"] = json!(null)), "assertion_invalid"),
        ("another resource's", changed(&|all| all["resource"] = json!("https://other.example/mcp")), "target_invalid"),
        ("bound to a key", changed(&|all| all["cnf"] = json!({ "jkt": "x" })), "assertion_invalid"),
        ("with an actor", changed(&|all| all["act"] = json!({ "sub": "x" })), "assertion_invalid"),
        ("an access token", signed(&ground.partner, &claims(&ground, &ground.partner), "at+jwt"), "assertion_invalid"),
        ("an ID token", signed(&ground.partner, &claims(&ground, &ground.partner), "JWT"), "assertion_invalid"),
        ("the provider's", signed(&ground.provider, &claims(&ground, &ground.provider), kind), "assertion_invalid"),
        ("a stranger's", signed(&stranger, &claims(&ground, &stranger), kind), "assertion_invalid"),
        (
            "a forgery",
            ground.partner.forge(
                &json!({ "alg": "ES256", "typ": kind, "kid": "key-1" }),
                &claims(&ground, &ground.partner),
                Signature::Stranger,
            ),
            "assertion_invalid",
        ),
        (
            "unsigned",
            ground.partner.forge(
                &json!({ "alg": "none", "typ": kind }),
                &claims(&ground, &ground.partner),
                Signature::Absent,
            ),
            "assertion_invalid",
        ),
    ];
    for (what, assertion, code) in bad {
        let answer = redeem(&ground, &assertion);
        assert_eq!(code_of(&answer), code, "{what}: {}", answer.text());
        let error = if code == "target_invalid" { "invalid_target" } else { "invalid_grant" };
        assert_eq!(answer.json()["error"], error, "{what}");
    }
    let public = ground.registered(super::CALLBACK);
    let fields = [("grant_type", BEARER), ("assertion", good.as_str()), ("client_id", public.as_str())];
    assert_eq!(code_of(&ground.token(&fields)), "grant_type_forbidden");
    let taken = ground.gateway.client(Some("up")).token(&changed(&|_| {})).call("echo", &json!({}));
    assert_eq!(taken.status(), 401, "an assertion is no access token");
    ground.recorded_refusal("assertion_invalid");
}

#[test]
fn an_assertion_gives_no_more_than_it_names() {
    let ground = Ground::new("facade-id-jag-narrow");
    let mut all = claims(&ground, &ground.partner);
    all["scope"] = json!("other:scope");
    let given = redeem(&ground, &signed(&ground.partner, &all, "oauth-id-jag+jwt")).json();
    assert_eq!(given["scope"], "");
    let call = ground.gateway.client(Some("up")).token(given["access_token"].as_str().unwrap());
    let answer = call.awaiting("echo").call("echo", &json!({}));
    assert_eq!(answer.status(), 403, "{}", answer.text());
}

#[test]
fn an_assertion_gives_no_more_than_its_client_may_have_and_nothing_unnamed() {
    let (provider, partner, upstream) = (Issuer::good(), Issuer::good(), Recorder::good(Era::Modern));
    let setup = super::setup("facade-id-jag-capped", &provider, &partner, &upstream, "")
        .section("[[facade.clients]]\nid = \"idle\"\nsecret = { env = \"ROBOT_SECRET\" }");
    let ground = Ground { gateway: setup.start(), provider, partner, upstream };
    let secret = ("client_secret", "robot secret: with odd/characters");
    let scope = |client: &str, change: &dyn Fn(&mut Value)| {
        let mut all = claims(&ground, &ground.partner);
        all["client_id"] = json!(client);
        change(&mut all);
        let assertion = signed(&ground.partner, &all, "oauth-id-jag+jwt");
        let answer = ground.token(&[("grant_type", BEARER), ("assertion", &assertion), ("client_id", client), secret]);
        assert_eq!(answer.status(), 200, "{}", answer.text());
        claims_of(answer.json()["access_token"].as_str().unwrap())["scope"].clone()
    };
    assert_eq!(scope("robot", &|_| {}), "tools:read");
    assert_eq!(scope("idle", &|_| {}), "", "the configuration gives it none");
    let without = |all: &mut Value| drop(all.as_object_mut().unwrap().remove("scope"));
    assert_eq!(scope("robot", &without), "");
}
