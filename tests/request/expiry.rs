//! What lasts ends with the credential that it began under, and what waits for one answer gets it.

use std::time::Duration;

use serde_json::{Value, json};

use super::{
    input::{call, capabilities},
    refused,
    revocation::{BOUND, Open, lasting, reasons},
    tasks, text_of,
};
use crate::harness::{
    gateway::{ALLOW_ALL, Gateway, Setup},
    issuer::{Issuer, now},
    place,
    recorder::{Era, Recorder, Reply, Step},
};

/// Seconds for which a token is taken after its end.
const LEEWAY: u64 = 1;

fn start(name: &str, issuer: &Issuer, recorder: &Recorder) -> Gateway {
    let issuers = format!("[[issuers]]\nissuer = \"{}\"\nalgorithms = [\"ES256\"]\nleeway_s = {LEEWAY}", issuer.url());
    let setup = Setup::new(name).section(&issuers).policy("allow.cedar", ALLOW_ALL);
    let gateway = setup.open_upstream("up", &recorder.url()).start();
    gateway.client_of(Some("up"), issuer, "warm").awaiting("echo");
    gateway
}

/// A token that ends so soon, and when.
fn short(gateway: &Gateway, issuer: &Issuer, seconds: u64) -> (String, u64) {
    let mut claims = issuer.claims("alice", &gateway.endpoint(Some("up")));
    let ends = now() + seconds;
    claims["exp"] = json!(ends);
    (issuer.sign(&claims), ends)
}

fn await_end(ends: u64) {
    place::wait_for("the end of the token", place::DISK_PATIENCE, || (now() >= ends).then_some(()));
}

/// How alice's calls ended, but for those that got what they asked for.
fn endings(gateway: &Gateway) -> Vec<Value> {
    place::wait_for("the outcome of each call", BOUND, || {
        let journal = gateway.journal();
        let of = |event: &str| -> Vec<Value> {
            let of_alice = |record: &&Value| record["event"] == event;
            journal.iter().filter(of_alice).cloned().collect()
        };
        let (intents, outcomes) = (of("intent"), of("outcome"));
        let outcome = |intent: &Value| outcomes.iter().find(|outcome| outcome["id"] == intent["id"]);
        let alices = intents.iter().filter(|intent| intent["user"]["subject"] == "alice");
        let found: Option<Vec<Value>> = alices.map(|intent| Some(outcome(intent)?["result"].clone())).collect();
        Some(found?.into_iter().filter(|result| result["ending"] != "ok").collect())
    })
}

#[test]
fn everything_that_a_caller_has_open_ends_with_their_token() {
    let (issuer, recorder) = (Issuer::good(), lasting());
    let gateway = start("expiry", &issuer, &recorder);
    let mut bob = Open::of(&gateway, &issuer.token("bob", &gateway.endpoint(Some("up"))));
    let (token, ends) = short(&gateway, &issuer, 18);
    let (mut open, abandoned) = (Open::of(&gateway, &token), recorder.abandoned());
    open.goes_on();
    await_end(ends);
    open.ends(&recorder, abandoned);
    assert!(now() >= ends + LEEWAY, "not before its time");
    assert_eq!(refused(&open.client.call("echo", &json!({}))), (401, 40102, "token_invalid".into()));
    assert_eq!(reasons(&gateway, "alice"), ["expired", "expired"]);
    let endings = endings(&gateway);
    let all: Vec<&Value> = endings.iter().map(|result| &result["ending"]).collect();
    assert_eq!(all, ["expired", "input_required"], "{endings:?}");
    assert_eq!(endings[0]["code"], "outcome_unknown");
    assert_eq!(endings[0]["reason"], "token_invalid: expired");
    let abandoned = gateway.recorded("input_abandoned", 1);
    assert_eq!(abandoned[0]["input"]["reason"], "the caller's credential has ended", "{abandoned:?}");
    // A newer token does not bring back what was held under the old one.
    let anew = gateway.client_of(Some("up"), &issuer, "alice");
    let mut retry = open.held.clone();
    let state = retry["result"]["requestState"].take();
    let again = json!({
        "name": "echo", "arguments": { "message": "hold" }, "requestState": state,
        "inputResponses": { "ask-1": { "action": "accept", "content": { "name": "x" } } },
    });
    assert_eq!(refused(&call(&anew, &capabilities(), again)).2, "continuation_lost");
    assert_eq!(text_of(&anew.call("echo", &json!({}))), "echo {}");
    bob.goes_on();
}

#[test]
fn a_legacy_client_hears_the_end_on_the_stream_of_its_call_whether_it_waits_or_is_waited_for() {
    let modern = || {
        Recorder::scripted(Era::Modern, |seen| {
            let streams =
                seen.rpc_method() == "tools/call" && seen.json()["params"]["arguments"]["message"] == "stream";
            streams.then(|| Reply::stream().step(Step::Pause(Duration::from_secs(120))))
        })
    };
    let ends = |what: &str, recorder: Recorder, message: &str| {
        let issuer = Issuer::good();
        let gateway = start(&format!("expiry-legacy-{what}"), &issuer, &recorder);
        let (token, ends) = short(&gateway, &issuer, 12);
        let session = gateway.client(Some("up")).token(&token).initialize_with(&capabilities());
        let (mut under_way, abandoned) = (session.client().connection(), recorder.abandoned());
        let params = json!({ "name": "echo", "arguments": { "message": message } });
        under_way.send(&session.bytes(&json!(8), "tools/call", &params)).unwrap();
        assert_eq!(under_way.head().status, 200, "{what}");
        if message == "hold" {
            assert_eq!(under_way.event().unwrap()["method"], "elicitation/create");
        }
        await_end(ends);
        let end = under_way.event().unwrap();
        assert_eq!((&end["id"], &end["error"]["data"]["code"]), (&json!(8), &json!("outcome_unknown")), "{end}");
        assert_eq!(under_way.event(), None, "{what}");
        place::wait_for("the upstream is left", BOUND, || (recorder.abandoned() > abandoned).then_some(()));
        let endings = endings(&gateway);
        assert_eq!((endings.len(), &endings[0]["ending"]), (1, &json!("expired")), "{what}: {endings:?}");
    };
    std::thread::scope(|scope| {
        for (what, recorder, message) in
            [("modern", modern(), "stream"), ("legacy", lasting(), "stream"), ("asked", lasting(), "hold")]
        {
            scope.spawn(move || ends(what, recorder, message));
        }
    });
}

#[test]
fn a_call_that_waits_for_its_one_answer_gets_it() {
    let gets_it = |era: Era, name: &str| {
        let issuer = Issuer::good();
        let recorder = Recorder::scripted(era, |seen| {
            let content = json!({ "content": [{ "type": "text", "text": "late" }], "resultType": "complete" });
            let late = || Reply::result(seen, &content).after(Duration::from_secs(15));
            (seen.rpc_method() == "tools/call").then(late)
        });
        let gateway = start(&format!("expiry-answer-{name}"), &issuer, &recorder);
        let (token, ends) = short(&gateway, &issuer, 12);
        let answer = gateway.client(Some("up")).token(&token).call("echo", &json!({}));
        assert!(now() > ends + LEEWAY, "it came after the end");
        assert_eq!(text_of(&answer), "late", "{name}");
        assert_eq!(endings(&gateway), [Value::Null; 0], "{name}");
    };
    std::thread::scope(|scope| {
        for (era, name) in [(Era::Modern, "modern"), (Era::Legacy, "legacy")] {
            scope.spawn(move || gets_it(era, name));
        }
    });
}

#[test]
fn a_task_that_is_followed_is_given_up_with_the_token_also_where_no_stream_was_open() {
    let (issuer, recorder) = (Issuer::good(), tasks::lasting(60_000));
    let gateway = start("expiry-task", &issuer, &recorder);
    let (token, ends) = short(&gateway, &issuer, 12);
    let alice = gateway.client(Some("up")).token(&token);
    let params = json!({ "name": "echo", "arguments": {} });
    let answer = alice.modern_showing("tools/call", &params, &[("Accept", "application/json")]);
    assert!(now() >= ends + LEEWAY);
    assert_eq!(answer.header("content-type"), Some("application/json"));
    assert_eq!(answer.json()["error"]["data"]["code"], "outcome_unknown", "{}", answer.text());
    assert_eq!(endings(&gateway)[0]["ending"], "expired");
    place::wait_for("the task is cancelled", BOUND, || {
        (!recorder.seen_method("tasks/cancel").is_empty()).then_some(())
    });
}
