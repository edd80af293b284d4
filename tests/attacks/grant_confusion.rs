//! A credential that was minted for one, on a call of another: by a likeness of names, of issuers, of tenants, or because
//! both call at the same moment (I7).

use std::{sync::Arc, thread};

use serde_json::{Value, json};

use super::Ground;
use crate::harness::{
    issuer::{Issuer, claims_of},
    mcp::Client,
    recorder::{Era, Recorder, Reply, Seen},
};

/// What is minted says for which token.
fn named(seen: &Seen) -> Option<Reply> {
    let subject = claims_of(&seen.field("subject_token")?)["jti"].as_str()?.to_owned();
    let issued = "urn:ietf:params:oauth:token-type:access_token";
    let answer = json!({
        "access_token": format!("minted-for-{subject}"), "issued_token_type": issued, "token_type": "Bearer", "expires_in": 300,
    });
    Some(Reply::json(200, &answer))
}

#[test]
fn each_call_goes_up_under_the_credential_of_its_own_caller() {
    let other = Issuer::good();
    let recorder = Recorder::good(Era::Modern);
    let ground = Ground::of("grant-confusion", Issuer::scripted(named), recorder, |setup, issuer, up| {
        setup.issuer(&other.url()).exchanged_upstream("up", &up.url(), &issuer.url(), "")
    });
    let endpoint = ground.gateway.endpoint(Some("up"));
    // Alike but for one thing; the first two are alike but for the token.
    let likenesses = [
        json!({}),
        json!({}),
        json!({ "sub": "Alice" }),
        json!({ "tenant": "other" }),
        json!({ "tenant": null }),
        json!({ "client_id": "another-agent" }),
        json!({ "act": { "sub": "helper" } }),
        json!({ "scope": "tools:read" }),
        json!({ "groups": [] }),
        json!({ "acr": "gold" }),
    ];
    let mut callers: Vec<(String, Client)> = Vec::new();
    for issuer in [&ground.issuer, &other] {
        for likeness in &likenesses {
            let mut claims = issuer.claims("alice", &endpoint);
            for (name, value) in likeness.as_object().unwrap() {
                claims[name] = value.clone();
            }
            claims.as_object_mut().unwrap().retain(|_, value| !value.is_null());
            let id = claims["jti"].as_str().unwrap().to_owned();
            callers.push((id, ground.gateway.client(Some("up")).token(&issuer.sign(&claims))));
        }
    }
    let callers = Arc::new(callers);
    thread::scope(|scope| {
        for shift in 0..4 {
            let callers = Arc::clone(&callers);
            scope.spawn(move || {
                for turn in 0..callers.len() * 2 {
                    // Not the name of the credential, which is not let down.
                    let number = (turn * 7 + shift * 5) % callers.len();
                    let answer = callers[number].1.call("echo", &json!({ "message": number }));
                    assert_eq!(answer.status(), 200, "{}", answer.text());
                }
            });
        }
    });
    let sent = ground.upstream.seen_method("tools/call");
    assert_eq!(sent.len(), callers.len() * 8);
    for seen in &sent {
        let number = seen.json()["params"]["arguments"]["message"].as_u64().unwrap();
        let caller = &callers[number as usize].0;
        assert_eq!(seen.header("authorization"), Some(format!("Bearer minted-for-{caller}").as_str()));
    }
    // One for each, and no more.
    let exchanged = |seen: &Seen| seen.field("subject_token").map(|token| claims_of(&token)["jti"].clone());
    let mut subjects: Vec<Value> = ground.issuer.asked().iter().filter_map(exchanged).collect();
    subjects.sort_by_key(ToString::to_string);
    let all = subjects.len();
    subjects.dedup();
    assert_eq!((all, subjects.len()), (callers.len(), callers.len()));
    ground.good_call();
}
