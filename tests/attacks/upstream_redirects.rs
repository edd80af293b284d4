//! A server that sends the gateway, and the credential in its hand, somewhere else: never followed (RC-27).

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use serde_json::json;

use super::{Ground, SOON};
use crate::harness::{
    http,
    issuer::Issuer,
    place,
    recorder::{Era, Recorder, Reply},
};

const STATUSES: [u16; 6] = [300, 301, 302, 303, 307, 308];

#[test]
fn redirect_of_an_upstream_is_not_followed_and_not_passed_on() {
    let lure = Arc::new(Recorder::good(Era::Modern));
    // The lure records: a client that does follow would be seen.
    http::fetch("POST", &lure.url(), &[], b"{}");
    assert_eq!(lure.seen().len(), 1);
    let target = lure.url();
    let upstream = Recorder::scripted(Era::Modern, move |seen| {
        let status = seen.json()["params"]["arguments"]["status"].as_u64()?;
        Some(
            Reply::status(u16::try_from(status).unwrap())
                .header("location", &target)
                .header("refresh", &format!("0; url={target}")),
        )
    });
    let ground = Ground::before("redirects", upstream, |setup, issuer, up| {
        setup.exchanged_upstream("up", &up.url(), &issuer.url(), "")
    });
    let client = ground.client("alice");
    for (sent, status) in STATUSES.into_iter().enumerate() {
        let answer = client.call("echo", &json!({ "status": status }));
        assert_eq!(
            (answer.status(), super::code(&answer).as_str()),
            (502, "upstream_invalid"),
            "{status}: {}",
            answer.text()
        );
        assert!(answer.header("location").is_none() && answer.header("refresh").is_none());
        assert!(!answer.text().contains(&lure.origin()[7..]), "{}", answer.text());
        assert_eq!(ground.calls(), sent + 1, "{status}: sent again");
    }
    assert_eq!(lure.seen().len(), 1, "{:?}", lure.seen());
    place::wait_for("the outcome", SOON, || {
        ground.gateway.journal().into_iter().find(|record| record["result"]["code"] == "upstream_invalid")
    });
    ground.good_call();
}

#[test]
fn redirect_of_the_token_endpoint_does_not_carry_the_callers_token_away() {
    let lure = Recorder::serving(|_| Reply::json(200, &json!({})));
    let (away, target) = (Arc::new(AtomicBool::new(false)), lure.origin());
    let sends_away = Arc::clone(&away);
    let issuer = Issuer::scripted(move |seen| {
        let exchange = seen.path == "/token" && seen.field("subject_token").is_some();
        (exchange && sends_away.load(Ordering::SeqCst)).then(|| Reply::status(307).header("location", &target))
    });
    let upstream = Recorder::good(Era::Modern);
    let ground = Ground::of("redirects-token", issuer, upstream, |setup, issuer, up| {
        setup.exchanged_upstream("up", &up.url(), &issuer.url(), "")
    });
    away.store(true, Ordering::SeqCst);
    ground.refused("307", &["grant_unavailable"], || ground.client("alice").call("echo", &json!({})));
    assert!(lure.seen().is_empty(), "{:?}", lure.seen());
    away.store(false, Ordering::SeqCst);
    ground.good_call();
}

#[test]
fn redirect_of_the_keys_is_not_followed() {
    let mallory = Issuer::good();
    let target = format!("{}/jwks", mallory.url());
    let redirects = Arc::new(AtomicBool::new(true));
    let astray = Arc::clone(&redirects);
    let issuer = Issuer::scripted(move |seen| {
        let led = seen.path == "/jwks" && astray.load(Ordering::SeqCst);
        led.then(|| Reply::status(302).header("location", &target))
    });
    let upstream = Recorder::good(Era::Modern);
    let setup = crate::harness::gateway::Setup::usual("redirects-keys", &issuer).open_upstream("up", &upstream.url());
    let gateway = setup.launch();
    place::wait_for("an attempt to read keys", SOON, || {
        (!issuer.recorder().seen_path("/jwks").is_empty()).then_some(())
    });
    // Signed by whom the redirect points to, in the good issuer's name.
    let mut claims = mallory.claims("alice", &gateway.endpoint(Some("up")));
    claims["iss"] = json!(issuer.url());
    let client = gateway.client(Some("up")).token(&mallory.sign(&claims));
    let answer = client.call("echo", &json!({}));
    assert_eq!((answer.status(), super::code(&answer).as_str()), (503, "identity_unavailable"), "{}", answer.text());
    assert!(answer.header("retry-after").is_some());
    assert_eq!(gateway.readiness(), 503);
    assert!(mallory.recorder().seen().is_empty(), "{:?}", mallory.recorder().seen());
    assert!(upstream.seen_method("tools/call").is_empty());
    super::recorded_refusal(&gateway, "identity_unavailable");
    redirects.store(false, Ordering::SeqCst);
    place::wait_for("the keys", SOON, || (gateway.readiness() == 200).then_some(()));
    let answer = gateway.client_of(Some("up"), &issuer, "good").awaiting("echo").call("echo", &json!({}));
    assert_eq!(answer.status(), 200, "{}", answer.text());
}
