//! Everything has a bound, and past it a declared answer.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use serde_json::{Value, json};

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
    place::wait_for("the first call is upstream", place::PATIENCE, || {
        (!recorder.seen_method("tools/call").is_empty()).then_some(())
    });
    let answer = gateway.client_of(Some("up"), &issuer, "bob").call("echo", &json!({}));
    assert_eq!(refused(&answer), (503, 50302, "overloaded".into()));
    assert!(answer.header("retry-after").is_some());
    assert_eq!(alice.tools().len(), 3, "what needs no room is answered");
    drop(held);
    place::wait_for("room again", place::PATIENCE, || (alice.call("echo", &json!({})).status() == 200).then_some(()));
    // A call that found no room was not in flight.
    place::wait_for("nothing in flight", place::PATIENCE, || {
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

/// A call holds its place among those at once for as long as it runs, and no longer, however it ends.
#[test]
fn a_call_holds_its_slot_until_it_ends() {
    let issuer = Issuer::good();
    let answers = Arc::new(AtomicUsize::new(0));
    let first = Arc::clone(&answers);
    let recorder = Recorder::scripted(Era::Modern, move |seen| {
        let params = seen.json()["params"].clone();
        let result = json!({ "content": [], "resultType": "complete" });
        let result = json!({ "jsonrpc": "2.0", "id": seen.json()["id"], "result": result });
        match (params["name"].as_str()?, params["arguments"]["message"].as_str()) {
            ("echo", Some("slow")) => Some(Reply::stream().step(Step::until(&first, 1)).event(&result)),
            ("echo", Some("hangs")) | ("add", _) => Some(Reply::stream().step(Step::Pause(Duration::from_secs(60)))),
            _ => None,
        }
    });
    let tools = "grant = { strategy = \"none\" }\n[[upstreams.up.tools]]\nmatch = \"add\"\ntimeout_ms = 10_000";
    let gateway = Setup::usual("slot", &issuer)
        .policy("ceilings.toml", "[[ceilings]]\nname = \"one\"\nin_flight = 1\n")
        .upstream("up", &recorder.url(), tools)
        .start();
    let alice = gateway.client_of(Some("up"), &issuer, "alice").awaiting("echo");
    let session = alice.initialize();
    let upstream = |arguments: &Value| {
        let arrived =
            || recorder.seen_method("tools/call").last().map(|seen| seen.json()["params"]["arguments"].clone());
        place::wait_for("the call is upstream", place::PATIENCE, || {
            (arrived().as_ref() == Some(arguments)).then_some(())
        });
        let second = alice.call("echo", &json!({}));
        assert_eq!(refused(&second), (429, 42901, "ceiling_reached".into()), "{arguments}");
        assert!(second.header("retry-after").is_some(), "{arguments}");
    };
    let begun = |name: &str, arguments: Value| {
        let mut connection = alice.connection();
        let params = json!({ "name": name, "arguments": arguments });
        connection.send(&alice.modern_bytes(&json!(7), "tools/call", &params)).unwrap();
        upstream(&arguments);
        connection
    };
    let is_free = |after: &str| {
        place::wait_for(&format!("room after {after}"), place::PATIENCE, || {
            (alice.call("echo", &json!({})).status() == 200).then_some(())
        });
    };

    let mut slow = begun("echo", json!({ "message": "slow" }));
    answers.store(1, Ordering::Release);
    assert_eq!(slow.answer().status(), 200);
    is_free("an answer");
    drop(begun("echo", json!({ "message": "hangs" })));
    is_free("a client that went away");
    let mut cancelled = alice.connection();
    let hangs = json!({ "name": "echo", "arguments": { "message": "hangs" } });
    cancelled.send(&session.bytes(&json!(8), "tools/call", &hangs)).unwrap();
    upstream(&hangs["arguments"]);
    assert_eq!(session.notify("notifications/cancelled", &json!({ "requestId": 8 })).status(), 202);
    is_free("a call that was taken back");
    let mut late = begun("add", json!({ "a": 1 }));
    let late = late.answer();
    let error = late.messages().pop().unwrap()["error"]["data"]["code"].clone();
    assert_eq!(error, "upstream_timeout", "{}", late.text());
    is_free("a deadline");

    let refusals = gateway.recorded("refusal", 4);
    assert!(refusals.iter().all(|record| record["refused"]["code"] == "ceiling_reached"), "{refusals:?}");
    assert!(refusals.iter().all(|record| record["ceilings"] == json!(["one"])), "{refusals:?}");
}

/// Two tools of one upstream that takes longer for each than it may: one has a deadline of its own.
#[test]
fn a_deadline_is_that_of_the_tool() {
    let issuer = Issuer::good();
    let recorder = Recorder::scripted(Era::Modern, |seen| {
        let result = json!({ "content": [{ "type": "text", "text": "late" }], "resultType": "complete" });
        let takes = if seen.json()["params"]["name"] == "add" { 6 } else { 60 };
        (seen.rpc_method() == "tools/call").then(|| Reply::result(seen, &result).after(Duration::from_secs(takes)))
    });
    let tools = "timeout_ms = 4_000\ngrant = { strategy = \"none\" }\n\
                 [[upstreams.up.tools]]\nmatch = \"add\"\ntimeout_ms = 50_000";
    let gateway = Setup::usual("deadlines", &issuer).upstream("up", &recorder.url(), tools).start();
    let alice = gateway.client_of(Some("up"), &issuer, "alice").awaiting("echo");
    std::thread::scope(|scope| {
        let patient = scope.spawn(|| alice.call("add", &json!({})));
        assert_eq!(refused(&alice.call("echo", &json!({}))).2, "upstream_timeout");
        assert_eq!(text_of(&patient.join().unwrap()), "late");
    });
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
