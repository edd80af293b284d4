//! Opaque tokens by the hundred, an issuer that is away, slow, broken or lying, and tokens shown to the wrong issuer:
//! the gateway is no weapon against an issuer, and where there is no answer nobody is let in or told that a token is bad.

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use super::{Ground, SOON, code, quickly, recorded_refusal};
use crate::harness::{
    gateway::{ALLOW_ALL, Setup},
    http::ELSEWHERE,
    issuer::{Issuer, Signature},
    place,
    recorder::{Era, Recorder, Reply, Step},
};

/// Something that no caller may read.
const INSIDE: &str = "inside-of-the-provider";

fn ground(name: &str, issuer: Issuer, more: &str) -> Ground {
    let upstream = Recorder::good(Era::Modern);
    let endpoint = format!("{}/introspect", issuer.url());
    let setup = Setup::new(name).introspecting(&issuer.url(), &endpoint, more).policy("allow.cedar", ALLOW_ALL);
    let gateway = setup.open_upstream("up", &upstream.url()).start();
    let ground = Ground { issuer, upstream, gateway };
    ground.settle();
    ground
}

impl Ground {
    fn opaque(&self, user: &str) -> String {
        self.issuer.opaque(&self.issuer.claims(user, &self.gateway.endpoint(Some("up"))))
    }

    fn show(&self, token: &str) -> crate::harness::http::Answer {
        self.gateway.client(Some("up")).token(token).call("echo", &json!({}))
    }
}

#[test]
fn flood_of_unknown_tokens_costs_the_issuer_little_and_good_callers_nothing() {
    // Each of the good caller's calls is asked about again, in the middle of the flood.
    let ground = ground("introspection-flood", Issuer::good(), "cache_s = 0");
    let good = ground.opaque("bob");
    assert_eq!(ground.show(&good).status(), 200);
    let began = Instant::now();
    std::thread::scope(|scope| {
        for worker in 0..4 {
            let ground = &ground;
            scope.spawn(move || {
                for turn in 0..150 {
                    let answer = ground.show(&format!("unknown-{worker}-{turn}"));
                    let told = (answer.status(), code(&answer));
                    let expected = [(401, "token_invalid".to_owned()), (503, "identity_unavailable".to_owned())];
                    assert!(expected.contains(&told), "{told:?}");
                    assert!(answer.status() == 401 || answer.header("retry-after").is_some());
                }
            });
        }
        for _ in 0..20 {
            assert_eq!(ground.show(&good).status(), 200);
        }
    });
    let asked = ground.issuer.introspected().iter().filter(|token| token.starts_with("unknown-")).count();
    let budget = 100.0 + 20.0 * (began.elapsed().as_secs_f64() + 1.0);
    assert!(asked > 0 && (asked as f64) < budget, "600 unknown tokens caused {asked} questions");
    // The same one again and again costs one question in ten seconds.
    let began = Instant::now();
    place::wait_for("room in the budget", SOON, || (ground.show("unknown-again").status() == 401).then_some(()));
    for _ in 0..30 {
        assert_eq!(ground.show("unknown-again").status(), 401);
    }
    let asked = ground.issuer.introspected().iter().filter(|token| *token == "unknown-again").count();
    let most = 1 + began.elapsed().as_secs() as usize / 10;
    assert!((1..=most).contains(&asked), "asked {asked} times, not {most} at the most");
    ground.recorded_refusal("identity_unavailable");
    ground.good_call();
}

#[test]
fn who_makes_tokens_up_leaves_room_for_callers_at_other_addresses() {
    let ground = ground("introspection-share", Issuer::good(), "unknown_per_s = 1");
    let began = Instant::now();
    let asked = || ground.issuer.introspected().iter().filter(|token| token.starts_with("unknown-")).count();
    // So many at once, and what time earns: one a second.
    let most = |at_once: f64| at_once + 1.0 + began.elapsed().as_secs_f64();
    let flood = |from: IpAddr, turn: usize| {
        let client = ground.gateway.client(Some("up")).token(&format!("unknown-{from}-{turn}")).at(from);
        let answer = client.call("echo", &json!({}));
        let told = (answer.status(), code(&answer));
        assert!([(401, "token_invalid".to_owned()), (503, "identity_unavailable".to_owned())].contains(&told));
        told.0
    };
    // Many at once, or on a slow machine time would earn an answer for each.
    let mut told: Vec<u16> = Vec::new();
    for round in 0..3 {
        std::thread::scope(|scope| {
            let (first, flood) = (round * 20, &flood);
            let calls: Vec<_> = (first..first + 20).map(|turn| scope.spawn(move || flood(ELSEWHERE, turn))).collect();
            told.extend(calls.into_iter().map(|call| call.join().unwrap()));
        });
    }
    assert!(told.contains(&401) && told.contains(&503), "{told:?}");
    assert!((asked() as f64) < most(5.0), "{}", asked());
    // Each with a token that nobody has asked about yet, at the first time, while the flood goes on.
    for (turn, user) in ["bob", "carol", "dave"].into_iter().enumerate() {
        flood(ELSEWHERE, 100 + turn);
        assert_eq!(ground.show(&ground.opaque(user)).status(), 200, "{user}");
    }
    // Many addresses do not get further than all may.
    for host in 3..20 {
        (0..5).for_each(|turn| {
            flood(Ipv4Addr::new(127, 0, 0, host).into(), turn);
        });
    }
    assert!((asked() as f64) < most(10.0), "{}", asked());
    ground.recorded_refusal("identity_unavailable");
}

type Trouble = fn() -> Reply;

const TROUBLES: [(&str, Trouble); 14] = [
    ("500", || Reply::text(500, "text/plain", INSIDE)),
    ("503 with JSON", || Reply::json(503, &json!({ "active": true, "error": INSIDE }))),
    ("the gateway's own credential is refused", || Reply::json(401, &json!({ "error": "invalid_client" }))),
    ("HTML", || Reply::text(200, "text/html", format!("<h1>{INSIDE}</h1>"))),
    ("empty", || Reply::status(200)),
    ("elsewhere", || Reply::status(302).header("location", "http://127.0.0.1:1/")),
    ("hangs", || Reply::status(200).after(Duration::from_secs(60))),
    ("without end", || {
        Reply::status(200).header("content-type", "application/json").step(Step::Forever("          ".into()))
    }),
    ("breaks off", || {
        let start = Step::Bytes("{\"active\":".into());
        Reply::status(200).header("content-type", "application/json").step(start).step(Step::Cut)
    }),
    ("huge", || Reply::json(200, &json!({ "active": false, "padding": "x".repeat(80_000) }))),
    ("yes as text", || Reply::json(200, &json!({ "active": "true" }))),
    ("yes as a number", || Reply::json(200, &json!({ "active": 1 }))),
    ("yes and no", || Reply::text(200, "application/json", r#"{"active":false,"active":true}"#)),
    ("a list", || Reply::json(200, &json!([{ "active": true }]))),
];

#[test]
fn trouble_at_the_issuer_is_no_word_about_a_token_and_passes() {
    let which = Arc::new(AtomicUsize::new(usize::MAX));
    let present = Arc::clone(&which);
    let issuer = Issuer::scripted(move |seen| {
        let (_, trouble) = TROUBLES.get(present.load(Ordering::SeqCst))?;
        (seen.path == "/introspect").then(trouble)
    });
    let ground = ground("introspection-trouble", issuer, "tokens = [\"opaque\", \"jwt\"], cache_s = 30");
    let mut kept = 0;
    for (index, (what, _)) in TROUBLES.iter().enumerate() {
        // Was asked about before the trouble began.
        let (early, since) = (ground.opaque(&format!("early-{index}")), Instant::now());
        assert_eq!(ground.show(&early).status(), 200, "{what}");
        which.store(index, Ordering::SeqCst);
        let late = ground.opaque(&format!("late-{index}"));
        let signed = ground.issuer.token(&format!("signed-{index}"), &ground.gateway.endpoint(Some("up")));
        for token in [&late, &signed] {
            let began = Instant::now();
            let answer = ground.refused(what, &["identity_unavailable"], || ground.show(token));
            assert!(began.elapsed() < Duration::from_secs(20), "{what}: {:?}", began.elapsed());
            assert_eq!(answer.status(), 503, "{what}");
            assert!(answer.header("www-authenticate").is_none() && answer.header("retry-after").is_some(), "{what}");
            assert!(!answer.text().contains(INSIDE), "{what}: {}", answer.text());
        }
        // Good for half a minute, of which a hanging issuer takes a third.
        if since.elapsed() < Duration::from_secs(25) {
            assert_eq!(ground.show(&early).status(), 200, "{what}");
            kept += 1;
        }
        which.store(usize::MAX, Ordering::SeqCst);
        for token in [&late, &signed] {
            place::wait_for(&format!("an answer after {what:?}"), SOON, || {
                (ground.show(token).status() == 200).then_some(())
            });
        }
    }
    assert!(kept > 0, "nothing was kept");
    ground.recorded_refusal("identity_unavailable");
    ground.good_call();
    super::chain_verifies(&ground.gateway);
}

#[test]
fn an_issuer_that_is_not_there_is_said_at_once_and_hides_where_it_is() {
    let (issuer, upstream, closed) = (Issuer::good(), Recorder::good(Era::Modern), place::free_port());
    let endpoint = format!("http://127.0.0.1:{closed}/introspect");
    let setup = Setup::new("introspection-closed").introspecting(&issuer.url(), &endpoint, "cache_s = 5");
    let gateway = setup.policy("allow.cedar", ALLOW_ALL).open_upstream("up", &upstream.url()).start();
    let ground = Ground { issuer, upstream, gateway };
    ground.settle();
    let answer = quickly(Duration::from_secs(4), || {
        ground.refused("closed", &["identity_unavailable"], || ground.show(&ground.opaque("alice")))
    });
    assert!(!answer.text().contains(&closed.to_string()), "{}", answer.text());
    ground.recorded_refusal("identity_unavailable");
    ground.good_call();
}

/// What an issuer says of a token that is active, and is none for here.
#[test]
fn an_active_token_that_is_for_somebody_or_something_else_is_refused() {
    let ground = ground("introspection-lies", Issuer::good(), "cache_s = 30");
    let endpoint = ground.gateway.endpoint(Some("up"));
    let good = |user: &str| ground.issuer.claims(user, &endpoint);
    let with = |claim: &str, value: Value| {
        let mut claims = good("alice");
        claims[claim] = value;
        claims
    };
    let without = |claim: &str| {
        let mut claims = good("alice");
        claims.as_object_mut().unwrap().remove(claim);
        claims
    };
    let lies = [
        ("another issuer", with("iss", json!("https://evil.example"))),
        ("another audience", with("aud", json!("https://api.example"))),
        ("no audience", without("aud")),
        ("no end", with("exp", json!("never"))),
        ("too long", with("exp", json!(u64::from(u32::MAX)))),
        ("not yet", with("nbf", json!(u64::from(u32::MAX)))),
        ("nobody", without("sub")),
        ("somebody without a name", {
            let mut claims = without("sub");
            claims["username"] = json!("alice");
            claims
        }),
        ("no client", without("client_id")),
        ("bound to a key", with("cnf", json!({ "jkt": "x" }))),
        ("for DPoP", with("token_type", json!("DPoP"))),
        ("a refresh token", with("token_type", json!("refresh_token"))),
        ("scopes as a list", with("scope", json!(["tools:call"]))),
    ];
    for (what, claims) in lies {
        let token = ground.issuer.opaque(&claims);
        let answer = ground.refused(what, &["token_invalid"], || ground.show(&token));
        assert_eq!(answer.status(), 401, "{what}");
    }
    recorded_refusal(&ground.gateway, "token_invalid");
    ground.good_call();
}

/// One issuer never sees what another one made, nor what is no token of any.
#[test]
fn no_issuer_is_shown_a_token_of_another() {
    let (asked, signs, upstream) = (Issuer::good(), Issuer::good(), Recorder::good(Era::Modern));
    let endpoint = format!("{}/introspect", asked.url());
    let setup =
        Setup::new("introspection-issuers").introspecting(&asked.url(), &endpoint, "tokens = [\"opaque\", \"jwt\"]");
    let setup = setup.issuer(&signs.url()).policy("allow.cedar", ALLOW_ALL).open_upstream("up", &upstream.url());
    let gateway = setup.start();
    let ground = Ground { issuer: signs, upstream, gateway };
    ground.settle();
    let endpoint = ground.gateway.endpoint(Some("up"));
    assert_eq!(ground.show(&ground.issuer.token("alice", &endpoint)).status(), 200);
    let claims = ground.issuer.claims("alice", &endpoint);
    let mut as_other = claims.clone();
    as_other["iss"] = json!(asked.url());
    let mut unknown = claims.clone();
    unknown["iss"] = json!("https://evil.example");
    let none = json!({ "alg": "none", "typ": "at+jwt" });
    let tokens = [
        ("a broken signature", ground.issuer.forge(&ground.issuer.header(), &claims, Signature::Stranger)),
        ("in the other's name", ground.issuer.sign(&as_other)),
        ("of nobody known", ground.issuer.sign(&unknown)),
        ("unsigned", ground.issuer.forge(&none, &as_other, Signature::Absent)),
        ("a key that is none", "tgk_0123456789ab_x".to_owned()),
    ];
    for (what, token) in &tokens {
        ground.refused(what, &["token_invalid"], || ground.show(token));
    }
    assert!(asked.introspected().is_empty(), "{:?}", asked.introspected());
    // The opaque one is the asked issuer's to know, and it does not.
    ground.refused("opaque, of nobody", &["token_invalid"], || ground.show("of-nobody"));
    assert_eq!(asked.introspected(), ["of-nobody"]);
    ground.good_call();
}
