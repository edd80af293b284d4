//! An agent that says for whom it acts, in a token that does not say so (RFC 8693 §4.1).

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL};
use serde_json::{Value, json};

use super::{Ground, chain_verifies};
use crate::harness::{
    issuer::claims_of,
    recorder::{Era, Recorder},
};

/// Only what the outermost party may.
const POLICY: &str = "@id(\"good\")\npermit (principal, action, resource) when { principal is User && principal.subject == \"good\" || principal.subject == \"settler\" };\n\
    @id(\"outer\")\npermit (principal, action, resource) when { context.agent has actor && context.agent.actor == \"outer\" };\n";

fn chain(names: &[&str]) -> Value {
    let mut act = Value::Null;
    for name in names.iter().rev() {
        act = if act.is_null() { json!({ "sub": name }) } else { json!({ "sub": name, "act": act }) };
    }
    act
}

#[test]
fn the_chain_of_actors_is_the_issuers_word_and_only_its_outermost_decides() {
    let ground = Ground::before("forged-act", Recorder::good(Era::Modern), |setup, _, up| {
        setup.policy("allow.cedar", POLICY).open_upstream("up", &up.url())
    });
    let own = ground.gateway.endpoint(Some("up"));
    let token = |act: Value| {
        let mut claims = ground.issuer.claims("alice", &own);
        if !act.is_null() {
            claims["act"] = act;
        }
        ground.issuer.sign(&claims)
    };
    let call = |token: &str| ground.gateway.client(Some("up")).token(token).call("echo", &json!({}));
    let names = ["outer", "b", "c", "d", "e", "f", "g", "h"];
    assert_eq!(call(&token(chain(&names))).status(), 200);
    let intent = ground.gateway.recorded("intent", 1).pop().unwrap();
    assert_eq!(intent["agent"]["actors"], json!(names), "the whole chain");

    // The same name further in, where it is history and decides nothing.
    ground.refused("inner", &["tool_unknown"], || call(&token(chain(&["other", "outer"]))));
    ground.refused("nobody acts", &["tool_unknown"], || call(&token(Value::Null)));
    let deep = [&names[..], &["i"]].concat();
    for (what, act) in [
        ("too deep", chain(&deep)),
        ("no object", json!("outer")),
        ("a list", json!([{ "sub": "outer" }])),
        ("no name", json!({ "client_id": "outer" })),
        ("two names in one", json!({ "sub": "https://issuer.example outer" })),
        ("nothing", json!({})),
    ] {
        ground.refused(what, &["token_invalid"], || call(&token(act)));
    }
    // An honest token with a chain that was put in on the way.
    let honest = token(Value::Null);
    let parts: Vec<&str> = honest.split('.').collect();
    let mut claims = claims_of(&honest);
    claims["act"] = chain(&["outer"]);
    let forged = format!("{}.{}.{}", parts[0], BASE64URL.encode(claims.to_string()), parts[2]);
    ground.refused("put in", &["token_invalid"], || call(&forged));
    for code in ["token_invalid", "tool_unknown"] {
        ground.recorded_refusal(code);
    }
    ground.good_call();
    chain_verifies(&ground.gateway);
}
