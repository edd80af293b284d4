//! More calls than anybody may make, and more than the gateway may hold (RFC 6585 §4, I9).

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use serde_json::json;

use super::{Ground, SOON};
use crate::harness::{
    http::Answer,
    place,
    recorder::{Era, Recorder},
};

const CEILINGS: &str = r#"
[[ceilings]]
name = "three-an-hour"
per = ["user"]
match = { upstream = "up", tool = "erase" }
rate = { count = 1, per = "1h", burst = 3 }
"#;

#[test]
fn flood_of_one_caller_ends_at_the_ceiling_and_is_nobody_elses() {
    let ground = Ground::before("flood-ceiling", Recorder::good(Era::Modern), |setup, _, up| {
        setup.policy("ceilings.toml", CEILINGS).open_upstream("up", &up.url())
    });
    let alice = ground.client("alice");
    let answers: Vec<Answer> = std::thread::scope(|scope| {
        let calls: Vec<_> = (0..20).map(|_| scope.spawn(|| alice.call("erase", &json!({ "id": "1" })))).collect();
        calls.into_iter().map(|call| call.join().unwrap()).collect()
    });
    let (good, over): (Vec<_>, Vec<_>) = answers.iter().partition(|answer| answer.status() == 200);
    assert_eq!((good.len(), ground.calls()), (3, 3), "{:?}", over.first().map(|answer| answer.text()));
    for answer in over {
        assert_eq!((answer.status(), super::code(answer).as_str()), (429, "ceiling_reached"));
        let wait: u64 = answer.header("retry-after").unwrap().parse().unwrap();
        assert!((1..=3_600).contains(&wait), "{wait}");
        assert!(!answer.text().contains("three-an-hour"), "{}", answer.text());
    }
    // A new token, another era and another endpoint are the same person.
    ground.refused("a new token", &["ceiling_reached"], || ground.client("alice").call("erase", &json!({ "id": "1" })));
    let session = ground.client("alice").initialize();
    ground.refused("another era", &["ceiling_reached"], || session.call("erase", &json!({ "id": "1" })));
    let all = ground.gateway.client_of(None, &ground.issuer, "alice");
    ground.refused("another endpoint", &["ceiling_reached"], || all.call("up__erase", &json!({ "id": "1" })));
    assert_eq!(ground.client("bob").call("erase", &json!({ "id": "1" })).status(), 200);
    assert_eq!(ground.recorded_refusal("ceiling_reached")["user"]["subject"], "alice");
    ground.good_call();
}

#[test]
fn gateway_that_holds_all_it_may_says_so_and_recovers() {
    let (held, release) = (Arc::new(AtomicBool::new(true)), Duration::from_millis(20));
    let holds = Arc::clone(&held);
    let upstream = Recorder::scripted(Era::Modern, move |seen| {
        while seen.rpc_method() == "tools/call" && holds.load(Ordering::SeqCst) {
            std::thread::sleep(release);
        }
        None
    });
    let ground = Ground::before("flood-overload", upstream, |setup, _, up| {
        setup.section("[limits]\ncalls_max = 4").open_upstream("up", &up.url())
    });
    let client = ground.client("alice");
    std::thread::scope(|scope| {
        let calls: Vec<_> = (0..4).map(|_| scope.spawn(|| client.call("echo", &json!({})).status())).collect();
        place::wait_for("four calls held", SOON, || (ground.calls() == 4).then_some(()));
        for _ in 0..5 {
            let answer = ground.refused("a fifth", &["overloaded"], || ground.client("bob").call("echo", &json!({})));
            assert_eq!(answer.status(), 503);
            assert!(answer.header("retry-after").is_some());
        }
        // What asks no upstream goes on.
        assert_eq!(client.tools().len(), 3);
        held.store(false, Ordering::SeqCst);
        for call in calls {
            assert_eq!(call.join().unwrap(), 200);
        }
    });
    ground.recorded_refusal("overloaded");
    ground.good_call();
}

/// Or the journal would be what a stranger fills the disk with.
#[test]
fn flood_of_strangers_is_counted_and_not_listed() {
    let ground = Ground::new("flood-strangers");
    let stranger = ground.gateway.client(Some("up"));
    let (began, before) = (Instant::now(), ground.gateway.journal().len());
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..100 {
                    assert_eq!(super::code(&stranger.call("echo", &json!({}))), "token_missing");
                }
            });
        }
    });
    place::wait_for("all of them counted", SOON, || {
        let journal = ground.gateway.journal();
        let sources = journal.iter().filter_map(|record| record["refusals"]["sources"].as_array()).flatten();
        let counted =
            sources.filter(|source| source["code"] == "token_missing").filter_map(|source| source["count"].as_u64());
        (counted.sum::<u64>() == 400).then_some(())
    });
    let records = ground.gateway.journal().len() - before;
    // Those that there are anyway come by the clock.
    let most = 60 + 2 * began.elapsed().as_secs() as usize;
    assert!(records < most, "{records} records of 400 strangers");
    assert_eq!(ground.calls(), 0);
    ground.good_call();
}

/// Sessions are bounded over all callers; one caller's many must not end another's one.
#[test]
fn sessions_of_one_caller_do_not_end_anothers() {
    let ground = Ground::before("flood-sessions", Recorder::good(Era::Modern), |setup, _, up| {
        setup.section("[limits]\nsessions_max = 16").open_upstream("up", &up.url())
    });
    let alice = ground.client("alice").initialize();
    assert_eq!(alice.call("echo", &json!({})).status(), 200);
    let mallory = ground.client("mallory");
    for _ in 0..200 {
        mallory.initialize();
    }
    assert_eq!(alice.call("echo", &json!({})).status(), 200, "alice lost her session");
    ground.good_call();
}
