//! A token endpoint that is away, slow, broken or hostile: the declared answer in bounded time, and nothing without a
//! credential of its own (I8).

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use serde_json::json;

use super::{Ground, SOON, code, quickly};
use crate::harness::{
    issuer::Issuer,
    place,
    recorder::{Era, Recorder, Reply, Seen, Step},
};

/// Something that no caller may read.
const INSIDE: &str = "inside-of-the-provider";

type Trouble = fn(&Seen) -> Reply;

/// Each with the code that a caller gets.
const TROUBLES: [(&str, &str, Trouble); 14] = [
    ("500", "grant_unavailable", |_| Reply::text(500, "text/plain", INSIDE)),
    ("503 with JSON", "grant_unavailable", |_| Reply::json(503, &json!({ "error": INSIDE }))),
    ("HTML", "grant_unavailable", |_| Reply::text(200, "text/html", format!("<h1>{INSIDE}</h1>"))),
    ("empty", "grant_unavailable", |_| Reply::status(200)),
    ("not a token", "grant_unavailable", |_| Reply::json(200, &json!({ "hello": INSIDE }))),
    ("half", "grant_unavailable", |_| Reply::text(200, "application/json", r#"{"access_token":"inside-of-the"#)),
    ("hangs", "grant_unavailable", |_| Reply::status(200).after(Duration::from_secs(60))),
    ("stops half-way", "grant_unavailable", |_| {
        let start = Step::Bytes("{".into());
        Reply::status(200)
            .header("content-type", "application/json")
            .step(start)
            .step(Step::Pause(Duration::from_secs(60)))
    }),
    ("without end", "grant_unavailable", |_| {
        Reply::status(200).header("content-type", "application/json").step(Step::Forever("          ".into()))
    }),
    ("breaks off", "grant_unavailable", |_| {
        let start = Step::Bytes("{".into());
        Reply::status(200).header("content-type", "application/json").step(start).step(Step::Cut)
    }),
    ("another kind of token", "grant_unavailable", |_| token("inside-of-the-provider", "mac")),
    ("two lines", "grant_unavailable", |_| token("a\r\nX-Evil: 1", "Bearer")),
    ("the caller's own token", "grant_unavailable", |seen| token(&seen.field("subject_token").unwrap(), "Bearer")),
    ("refuses", "grant_refused", |_| {
        Reply::json(400, &json!({ "error": "invalid_target", "error_description": INSIDE }))
    }),
];

fn token(token: &str, kind: &str) -> Reply {
    let issued = "urn:ietf:params:oauth:token-type:access_token";
    Reply::json(
        200,
        &json!({ "access_token": token, "token_type": kind, "issued_token_type": issued, "expires_in": 300 }),
    )
}

#[test]
fn trouble_at_the_token_endpoint_ends_the_call_in_bounded_time_and_passes() {
    let which = Arc::new(AtomicUsize::new(usize::MAX));
    let present = Arc::clone(&which);
    let issuer = Issuer::scripted(move |seen| {
        let (_, _, trouble) = TROUBLES.get(present.load(Ordering::SeqCst))?;
        (seen.path == "/token" && seen.field("subject_token").is_some()).then(|| trouble(seen))
    });
    let upstream = Recorder::good(Era::Modern);
    let ground = Ground::of("exchange-down", issuer, upstream, |setup, issuer, up| {
        setup.exchanged_upstream("up", &up.url(), &issuer.url(), "")
    });
    let asked = || ground.issuer.asked().iter().filter(|seen| seen.field("subject_token").is_some()).count();
    // Had its grant before the trouble began; a client has one token for a while.
    let early = ground.client("early");
    assert_eq!(early.call("echo", &json!({})).status(), 200);

    for (index, (what, expected, _)) in TROUBLES.iter().enumerate() {
        which.store(index, Ordering::SeqCst);
        let late = ground.client(&format!("late-{index}"));
        let began = Instant::now();
        let answer = ground.refused(what, &[expected], || late.call("echo", &json!({})));
        assert!(began.elapsed() < Duration::from_secs(20), "{what}: {:?}", began.elapsed());
        assert_eq!(answer.status(), if *expected == "grant_refused" { 403 } else { 502 }, "{what}");
        assert!(!answer.text().contains(INSIDE), "{what}: {}", answer.text());
        assert!(answer.header("www-authenticate").is_none(), "{what}");
        // Whoever has a grant does not notice, and needs nothing.
        let before = asked();
        assert_eq!(early.call("echo", &json!({})).status(), 200, "{what}");
        assert_eq!(asked(), before, "{what}: asked for what was there");
        assert_eq!(ground.recorded_refusal(expected)["target"]["upstream"], "up");

        which.store(usize::MAX, Ordering::SeqCst);
        place::wait_for(&format!("a grant after {what:?}"), SOON, || {
            (late.call("echo", &json!({})).status() == 200).then_some(())
        });
    }
    ground.good_call();
    super::chain_verifies(&ground.gateway);
}

#[test]
fn token_endpoint_that_is_not_there_is_said_at_once_and_hides_where_it_is() {
    let (upstream, closed) = (Recorder::good(Era::Modern), place::free_port());
    let ground = Ground::before("exchange-closed", upstream, |setup, issuer, up| {
        let client = "client = { id = \"gateway\", secret = { env = \"GATEWAY_SECRET\" } }";
        let endpoint = format!("token_endpoint = \"http://127.0.0.1:{closed}/token\"");
        let grant = format!(
            "grant = {{ strategy = \"exchange\", {endpoint}, {client}, resource = \"{}\", scopes = [] }}",
            up.url()
        );
        setup
            .environment("GATEWAY_SECRET", "gateway-secret")
            .upstream("up", &up.url(), &format!("{grant}\ndiscovery = {{ strategy = \"none\" }}"))
            .exchanged_upstream("well", &up.url(), &issuer.url(), "")
    });
    let answer = quickly(Duration::from_secs(4), || {
        ground.refused("closed", &["grant_unavailable"], || ground.client("alice").call("echo", &json!({})))
    });
    assert_eq!(answer.status(), 502);
    assert!(!answer.text().contains(&closed.to_string()), "{}", answer.text());
    let record = ground.recorded_refusal("grant_unavailable");
    assert!(record["refused"]["reason"].as_str().is_some_and(|why| !why.is_empty()), "{record}");
    // The upstream beside it, whose token endpoint is there, is as well as before.
    let well = ground.gateway.client_of(Some("well"), &ground.issuer, "alice");
    let answer = place::wait_for("the other upstream", SOON, || {
        let answer = well.call("echo", &json!({ "message": "still here" }));
        (code(&answer) != "catalogue_unavailable").then_some(answer)
    });
    assert_eq!((answer.status(), ground.calls()), (200, 1), "{}", answer.text());
}
