//! What is good once, many times at the same moment.

use std::thread;

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use serde_json::json;

use super::{CALLBACK, Ground, code_of};
use crate::harness::{
    http::Answer,
    issuer::{Signature, now},
};

/// The answers to `ask`, asked by many at once: those that gave something, and the codes of the others.
fn at_once(ask: impl Fn() -> Answer + Sync) -> (Vec<Answer>, Vec<String>) {
    let answers: Vec<Answer> = thread::scope(|scope| {
        let asking: Vec<_> = (0..10).map(|_| scope.spawn(&ask)).collect();
        asking.into_iter().map(|one| one.join().unwrap()).collect()
    });
    let (given, refused): (Vec<_>, Vec<_>) = answers.into_iter().partition(|answer| answer.status() == 200);
    (given, refused.iter().map(code_of).collect())
}

fn member<'a>(given: &'a serde_json::Value, name: &str) -> &'a str {
    given[name].as_str().unwrap()
}

/// RFC 7523 §3, item 7.
#[test]
fn an_assertion_redeemed_many_times_at_once_gives_one_token() {
    let ground = Ground::new("facade-race-assertion");
    let claims = json!({
        "iss": ground.partner.url(), "sub": "carol", "aud": ground.origin(), "client_id": "robot", "resource": ground.resource(),
        "scope": "tools:read", "jti": uuid::Uuid::new_v4().to_string(), "iat": now(), "exp": now() + 120,
    });
    let mut header = ground.partner.header();
    header["typ"] = json!("oauth-id-jag+jwt");
    let assertion = ground.partner.forge(&header, &claims, Signature::Own);
    let basic = format!("Basic {}", BASE64.encode("robot:robot+secret%3A+with+odd%2Fcharacters"));
    let kind = "urn:ietf:params:oauth:grant-type:jwt-bearer";
    let (given, refused) =
        at_once(|| ground.token_as(Some(&basic), &[("grant_type", kind), ("assertion", &assertion)]));
    assert_eq!((given.len(), refused), (1, vec!["assertion_invalid".to_owned(); 9]));
    ground.serves(member(&given[0].json(), "access_token"));
    ground.recorded_refusal("assertion_invalid");
    assert_eq!(ground.gateway.recorded("token", 1).len(), 1);
}

/// RFC 6749 §4.1.2, RFC 9700 §4.14.2: of two who hold one, one has stolen it.
#[test]
fn a_code_or_refresh_token_that_comes_many_times_at_once_gives_one_token_that_does_not_last() {
    let ground = Ground::new("facade-race-code");
    // Who comes while the provider is asked for another hears that it is, and has used nothing up.
    let once = |client: &str, ask: &(dyn Fn() -> Answer + Sync), codes: &[&str]| {
        let (given, refused) = at_once(ask);
        assert!(given.len() <= 1, "{given:?}");
        assert!(refused.iter().all(|code| codes.contains(&code.as_str())), "{refused:?}");
        let late = ask();
        assert!(GONE.contains(&code_of(&late).as_str()), "{late:?}");
        for given in given {
            let again = ground.refresh(client, member(&given.json(), "refresh_token"));
            assert_eq!((again.status(), code_of(&again).as_str()), (400, "code_invalid"));
        }
    };
    let client = ground.registered(CALLBACK);
    let code = ground.code(&client, "alice");
    once(&client, &|| ground.redeem(&client, &code), &GONE);
    let (client, first) = ground.logged_in("bob");
    let refresh = || ground.refresh(&client, member(&first, "refresh_token"));
    once(&client, &refresh, &[&GONE[..], &["login_unavailable"]].concat());
    ground.recorded_refusal("code_reused");
}

/// What is heard of a grant that was used already.
const GONE: [&str; 3] = ["code_reused", "code_invalid", "grant_revoked"];
