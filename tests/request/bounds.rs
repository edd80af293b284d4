//! Everything has a bound, and past it a declared answer.

use std::time::Duration;

use serde_json::json;

use super::{refused, text_of};
use crate::harness::{
    gateway::Setup,
    issuer::Issuer,
    place,
    recorder::{Era, Recorder, Reply, Step},
};

#[test]
fn more_calls_than_the_gateway_holds_are_told_to_come_back() {
    let issuer = Issuer::good();
    let recorder = Recorder::scripted(Era::Modern, |seen| {
        let slow = seen.json()["params"]["arguments"]["message"] == "slow";
        slow.then(|| Reply::stream().step(Step::Pause(Duration::from_secs(60))))
    });
    let setup = Setup::usual("room", &issuer).section("[limits]\ncalls_max = 1").open_upstream("up", &recorder.url());
    let gateway = setup.start();
    let alice = gateway.client_of(Some("up"), &issuer, "alice").awaiting("echo");
    let mut held = alice.connection();
    let slow = json!({ "name": "echo", "arguments": { "message": "slow" } });
    held.send(&alice.modern_bytes(&json!(1), "tools/call", &slow)).unwrap();
    place::wait_for("the first call is upstream", Duration::from_secs(10), || {
        (!recorder.seen_method("tools/call").is_empty()).then_some(())
    });
    let answer = gateway.client_of(Some("up"), &issuer, "bob").call("echo", &json!({}));
    assert_eq!(refused(&answer), (503, 50302, "overloaded".into()));
    assert!(answer.header("retry-after").is_some());
    assert_eq!(alice.tools().len(), 3, "what needs no room is answered");
    drop(held);
    place::wait_for("room again", Duration::from_secs(10), || {
        (alice.call("echo", &json!({})).status() == 200).then_some(())
    });
    // A call that found no room was not in flight.
    place::wait_for("nothing in flight", Duration::from_secs(10), || {
        (gateway.metric("tollgate_calls ") == Some(0.0)).then_some(())
    });
}

#[test]
fn a_ceiling_says_when_to_come_back_and_counts_each_user_apart() {
    let issuer = Issuer::good();
    let recorder = Recorder::good(Era::Modern);
    let ceilings = "[[ceilings]]\nname = \"a-few\"\nper = [\"user\"]\nrate = { count = 2, per = \"1h\", burst = 2 }\n";
    let setup = Setup::usual("ceiling", &issuer).policy("ceilings.toml", ceilings);
    let gateway = setup.open_upstream("up", &recorder.url()).start();
    let alice = gateway.client_of(Some("up"), &issuer, "alice").awaiting("echo");
    for _ in 0..2 {
        assert_eq!(alice.call("echo", &json!({})).status(), 200);
    }
    let answer = alice.call("echo", &json!({}));
    assert_eq!(refused(&answer), (429, 42901, "ceiling_reached".into()));
    let wait: u64 = answer.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=1_800).contains(&wait), "{wait}");
    assert_eq!(answer.json()["error"]["data"]["retryable"], true);
    assert_eq!(gateway.client_of(Some("up"), &issuer, "bob").call("echo", &json!({})).status(), 200);
    assert_eq!(recorder.seen_method("tools/call").len(), 3);
    let record = gateway.recorded("refusal", 1).pop().unwrap();
    assert_eq!((&record["refused"]["code"], &record["user"]["subject"]), (&json!("ceiling_reached"), &json!("alice")));
    assert_eq!(record["ceilings"], json!(["a-few"]));
}

#[test]
fn a_body_that_trickles_or_ends_early_is_not_waited_for() {
    let issuer = Issuer::good();
    let recorder = Recorder::good(Era::Modern);
    let setup = Setup::usual("slow-body", &issuer).section("[limits]\nbody_read_ms = 300");
    let gateway = setup.open_upstream("up", &recorder.url()).start();
    let alice = gateway.client_of(Some("up"), &issuer, "alice").awaiting("echo");
    let whole = alice.modern_bytes(&json!(1), "tools/call", &json!({ "name": "echo", "arguments": {} }));
    let mut connection = alice.connection();
    connection.send(&whole[..whole.len() - 1]).unwrap();
    assert_eq!(refused(&connection.answer()), (408, 40801, "body_too_slow".into()));
    assert_eq!(text_of(&alice.call("echo", &json!({}))), "echo {}");
    assert_eq!(recorder.seen_method("tools/call").len(), 1);
}

#[test]
fn an_answer_that_is_too_large_is_not_relayed() {
    let issuer = Issuer::good();
    let pad = "x".repeat(1 << 20);
    let recorder =
        Recorder::scripted(Era::Modern, move |seen| match seen.json()["params"]["arguments"]["message"].as_str()? {
            "json" => Some(Reply::result(
                seen,
                &json!({ "resultType": "complete", "content": [{ "type": "text", "text": pad }] }),
            )),
            "event" => Some(Reply::stream().step(Step::Forever(vec![b'x'; 8_192].into()))),
            _ => None,
        });
    let limits = "[limits]\nreply_bytes_max = 65_536\nevent_bytes_max = 65_536";
    let setup = Setup::usual("large", &issuer).section(limits).open_upstream("up", &recorder.url());
    let gateway = setup.start();
    let alice = gateway.client_of(Some("up"), &issuer, "alice").awaiting("echo");
    for form in ["json", "event"] {
        let answer = alice.call("echo", &json!({ "message": form }));
        assert_eq!(refused(&answer), (502, 50206, "upstream_too_large".into()), "{form}");
    }
    assert_eq!(text_of(&alice.call("echo", &json!({}))), "echo {}");
}
