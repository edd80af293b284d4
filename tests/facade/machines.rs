//! Machines that ask in their own name.

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use serde_json::json;

use super::{Ground, code_of};
use crate::harness::{http::form, issuer::claims_of};

const SECRET: &str = "robot secret: with odd/characters";

fn basic(id: &str, secret: &str) -> String {
    let half = |text: &str| form(&[("", text)]).trim_start_matches('=').to_owned();
    format!("Basic {}", BASE64.encode(format!("{}:{}", half(id), half(secret))))
}

#[test]
fn a_client_of_the_configuration_gets_a_token_in_its_own_name() {
    let ground = Ground::new("facade-machine");
    let resource = ground.resource();
    let asks = [("grant_type", "client_credentials"), ("resource", resource.as_str())];
    let by_header = ground.token_as(Some(&basic("robot", SECRET)), &asks);
    let mut in_body = asks.to_vec();
    in_body.extend([("client_id", "robot"), ("client_secret", SECRET), ("scope", "tools:read other")]);
    for answer in [by_header, ground.token(&in_body)] {
        assert_eq!(answer.status(), 200, "{}", answer.text());
        let given = answer.json();
        assert!(given["refresh_token"].is_null());
        let claims = claims_of(given["access_token"].as_str().unwrap());
        assert_eq!((&claims["sub"], &claims["client_id"]), (&json!("robot"), &json!("robot")));
        assert_eq!((&claims["scope"], &claims["tenant"]), (&json!("tools:read"), &json!("acme")));
        ground.serves(given["access_token"].as_str().unwrap());
    }
    let intent = ground.gateway.recorded("intent", 1).remove(0);
    assert!(intent["user"].is_null(), "a machine is no person: {intent}");
    assert_eq!(intent["agent"]["client_id"], "robot");
}

#[test]
fn who_does_not_prove_itself_gets_nothing() {
    let ground = Ground::new("facade-machine-refused");
    let resource = ground.resource();
    let asks = [("grant_type", "client_credentials"), ("resource", resource.as_str())];
    let registered = ground.registered(super::CALLBACK);
    for (basic, code, status) in [
        (basic("robot", "wrong"), "client_invalid", 401),
        (basic("robot", ""), "client_invalid", 401),
        (basic("nobody", SECRET), "client_invalid", 401),
        (basic(&registered, SECRET), "client_invalid", 401),
        ("Bearer x".to_owned(), "client_invalid", 401),
    ] {
        let answer = ground.token_as(Some(&basic), &asks);
        assert_eq!((answer.status(), code_of(&answer).as_str()), (status, code), "{basic}: {}", answer.text());
        assert_eq!(answer.json()["error"], "invalid_client");
        assert!(answer.header("www-authenticate").is_some_and(|challenge| challenge.starts_with("Basic")));
    }
    let id = ("client_id", registered.as_str());
    let secret = basic("robot", SECRET);
    for (basic, fields, code) in [
        (None, vec![asks[0], asks[1], id], "grant_type_forbidden"),
        (None, vec![asks[0], asks[1], ("client_id", "robot")], "client_invalid"),
        (Some(&secret), vec![("grant_type", "password"), asks[1]], "grant_type_unsupported"),
        (Some(&secret), vec![("grant_type", "authorization_code"), ("code", "x")], "grant_type_forbidden"),
        (Some(&secret), vec![asks[0], ("resource", "https://other.example/mcp")], "target_invalid"),
        (Some(&secret), vec![asks[0], asks[1], ("scope", "admin")], "scope_invalid"),
        (Some(&secret), vec![asks[0], asks[1], ("client_secret", SECRET)], "authorization_invalid"),
        (Some(&secret), vec![asks[0], asks[1], id], "authorization_invalid"),
        (Some(&secret), vec![asks[0], asks[0]], "authorization_invalid"),
        (Some(&secret), vec![asks[1]], "authorization_invalid"),
    ] {
        let answer = ground.token_as(basic.map(String::as_str), &fields);
        assert_eq!(code_of(&answer), code, "{fields:?}: {}", answer.text());
        assert!(!answer.text().contains(SECRET));
    }
    ground.recorded_refusal("client_invalid");
}
