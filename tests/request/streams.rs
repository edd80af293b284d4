//! Answers that take their time: events as they come, progress, cancellation, clients that do not read.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use super::text_of;
use crate::harness::{
    gateway::{Gateway, Setup},
    http::Connection,
    issuer::Issuer,
    mcp::{Client, Session},
    place,
    recorder::{Era, Recorder, Reply, Seen, Step},
};

const PATIENCE: Duration = place::PATIENCE;

fn progress(seen: &Seen, step: u64) -> Value {
    let token = &seen.json()["params"]["_meta"]["progressToken"];
    json!({ "jsonrpc": "2.0", "method": "notifications/progress", "params": { "progressToken": token, "progress": step, "total": 3 } })
}

fn result(seen: &Seen, era: Era) -> Value {
    let mut result = json!({ "content": [{ "type": "text", "text": "done" }] });
    if era == Era::Modern {
        result["resultType"] = json!("complete");
    }
    json!({ "jsonrpc": "2.0", "id": seen.json()["id"], "result": result })
}

/// Three steps with `pause` before each but the first, then the result.
fn stepping(era: Era, pause: Duration) -> Recorder {
    Recorder::scripted(era, move |seen| {
        (seen.rpc_method() == "tools/call").then(|| {
            let one = Reply::stream().event(&progress(seen, 1)).step(Step::Pause(pause));
            let two = one.event(&progress(seen, 2)).step(Step::Pause(pause)).event(&progress(seen, 3));
            two.step(Step::Pause(pause)).event(&result(seen, era))
        })
    })
}

/// One step, and then nothing for a long time.
fn hanging(era: Era) -> Recorder {
    Recorder::scripted(era, move |seen| {
        (seen.rpc_method() == "tools/call").then(|| {
            Reply::stream()
                .event(&progress(seen, 1))
                .step(Step::Pause(Duration::from_secs(60)))
                .event(&result(seen, era))
        })
    })
}

fn behind(name: &str, issuer: &Issuer, recorder: &Recorder) -> (Gateway, Client) {
    let gateway = Setup::usual(name, issuer).open_upstream("up", &recorder.url()).start();
    let client = gateway.client_of(Some("up"), issuer, "alice").awaiting("echo");
    (gateway, client)
}

/// Sends a call with this progress token, and gives the connection on which the answer comes.
fn begin(client: &Client, session: Option<&Session>, token: &Value) -> Connection {
    let params = json!({ "name": "echo", "arguments": {}, "_meta": { "progressToken": token } });
    let bytes = match session {
        None => client.modern_bytes(&json!("call"), "tools/call", &params),
        Some(session) => session.bytes(&json!("call"), "tools/call", &params),
    };
    let mut connection = client.connection();
    connection.send(&bytes).unwrap();
    connection
}

fn outcome(gateway: &Gateway) -> Value {
    gateway.recorded("outcome", 1).remove(0)
}

#[test]
fn events_pass_one_by_one_with_the_clients_own_token() {
    for up in [Era::Modern, Era::Legacy] {
        for token in [json!("mine"), json!(7)] {
            let (issuer, had) = (Issuer::good(), Arc::new(AtomicUsize::new(0)));
            let until = Arc::clone(&had);
            // Each event comes when the client has the one before: nothing may be held back and sent together.
            let recorder = Recorder::scripted(up, move |seen| {
                let next =
                    |reply: Reply, step| reply.event(&progress(seen, step as u64)).step(Step::until(&until, step));
                (seen.rpc_method() == "tools/call")
                    .then(|| (1..=3).fold(Reply::stream(), next).event(&result(seen, up)))
            });
            let (_gateway, client) = behind("events", &issuer, &recorder);
            let session = token.is_string().then(|| client.initialize());
            let mut connection = begin(&client, session.as_ref(), &token);
            let head = connection.head();
            assert_eq!((head.status, head.header("content-type")), (200, Some("text/event-stream")));
            assert_eq!(head.header("x-accel-buffering"), Some("no"));
            for step in 1..=3 {
                let event = connection.event().unwrap();
                had.store(step, Ordering::Release);
                assert_eq!(event["params"]["progress"], step, "{event}");
                assert_eq!(event["params"]["progressToken"], token, "{event}");
            }
            let last = connection.event().unwrap();
            assert_eq!((&last["id"], &last["result"]["content"][0]["text"]), (&json!("call"), &json!("done")));
            assert_eq!(connection.event(), None, "the response ends the stream");
            let up_token = recorder.seen_method("tools/call")[0].json()["params"]["_meta"]["progressToken"].clone();
            assert!(up_token.is_string() && up_token != token, "the gateway's own token goes up: {up_token}");
        }
    }
}

#[test]
fn a_client_that_asked_for_no_progress_gets_none() {
    let issuer = Issuer::good();
    let recorder = Recorder::scripted(Era::Modern, |seen| {
        (seen.rpc_method() == "tools/call").then(|| {
            let stray = |token: Value| json!({ "jsonrpc": "2.0", "method": "notifications/progress", "params": { "progressToken": token, "progress": 1 } });
            Reply::stream().event(&stray(json!("invented"))).event(&stray(json!(1))).event(&result(seen, Era::Modern))
        })
    });
    let (gateway, client) = behind("no-progress", &issuer, &recorder);
    let answer = client.call("echo", &json!({}));
    assert_eq!(text_of(&answer), "done");
    assert!(!answer.text().contains("notifications/progress"), "{}", answer.text());
    assert_eq!(gateway.metric("tollgate_upstream_dropped").unwrap_or_default(), 2.0);
}

#[test]
fn a_modern_client_that_leaves_ends_the_call_upstream() {
    for up in [Era::Modern, Era::Legacy] {
        let issuer = Issuer::good();
        let recorder = hanging(up);
        let (gateway, client) = behind("leaves", &issuer, &recorder);
        let mut connection = begin(&client, None, &json!("t"));
        connection.head();
        assert_eq!(connection.event().unwrap()["params"]["progress"], 1);
        drop(connection);
        place::wait_for("the upstream is abandoned", PATIENCE, || (recorder.abandoned() > 0).then_some(()));
        assert_eq!(outcome(&gateway)["result"]["ending"], "cancelled");
        let told = || recorder.seen_method("notifications/cancelled");
        match up {
            Era::Modern => assert!(told().is_empty(), "closing is how a modern server is told"),
            Era::Legacy => {
                let (named, id) = told_of(&recorder);
                assert_eq!(named, id);
                assert_eq!(told()[0].header("mcp-session-id"), Some("session-of-the-recorder"));
            }
        }
    }
}

#[test]
fn a_legacy_client_that_says_so_ends_the_call_upstream() {
    for up in [Era::Modern, Era::Legacy] {
        let issuer = Issuer::good();
        let recorder = hanging(up);
        let (gateway, client) = behind("says-so", &issuer, &recorder);
        let session = client.initialize();
        let mut connection = begin(&client, Some(&session), &json!("t"));
        connection.head();
        assert_eq!(connection.event().unwrap()["params"]["progress"], 1);
        assert_eq!(session.notify("notifications/cancelled", &json!({ "requestId": "another" })).status(), 202);
        assert_eq!(
            session.notify("notifications/cancelled", &json!({ "requestId": "call", "reason": "enough" })).status(),
            202
        );
        assert_eq!(connection.event(), None, "nothing more is said about the call");
        place::wait_for("the upstream is abandoned", PATIENCE, || (recorder.abandoned() > 0).then_some(()));
        assert_eq!(outcome(&gateway)["result"]["ending"], "cancelled");
        if up == Era::Legacy {
            told_of(&recorder);
        }
        assert_eq!(recorder.seen_method("notifications/cancelled").len(), usize::from(up == Era::Legacy));
    }
}

/// RL-07: a legacy client's disconnect is no cancellation; what came of the call is recorded all the same.
#[test]
fn a_legacy_client_that_leaves_does_not_end_the_call() {
    for up in [Era::Modern, Era::Legacy] {
        let issuer = Issuer::good();
        let recorder = stepping(up, Duration::from_millis(300));
        let (gateway, client) = behind("stays", &issuer, &recorder);
        let session = client.initialize();
        let mut connection = begin(&client, Some(&session), &json!("t"));
        connection.head();
        connection.event().unwrap();
        drop(connection);
        assert_eq!(outcome(&gateway)["result"]["ending"], "ok");
        assert_eq!(recorder.abandoned(), 0);
        assert!(recorder.seen_method("notifications/cancelled").is_empty());
    }
}

/// Answers to calls only after a minute, head and all; and to a word that needs no answer, never to the end.
fn mute(era: Era) -> Recorder {
    Recorder::scripted(era, move |seen| match seen.rpc_method().as_str() {
        "tools/call" => Some(Reply::json(200, &result(seen, era)).after(Duration::from_secs(60))),
        "notifications/initialized" | "notifications/cancelled" => {
            Some(Reply::stream().step(Step::Pause(Duration::from_secs(60))))
        }
        _ => None,
    })
}

fn told_of(recorder: &Recorder) -> (Value, Value) {
    let told = place::wait_for("the upstream is told", PATIENCE, || {
        recorder.seen_method("notifications/cancelled").into_iter().next()
    });
    let id = recorder.seen_method("tools/call")[0].json()["id"].clone();
    (told.json()["params"]["requestId"].clone(), id)
}

#[test]
fn a_legacy_upstream_that_has_said_nothing_yet_is_told_too() {
    for by_word in [false, true] {
        let issuer = Issuer::good();
        let recorder = mute(Era::Legacy);
        let (gateway, client) = behind("mute", &issuer, &recorder);
        let session = by_word.then(|| client.initialize());
        let mut connection = begin(&client, session.as_ref(), &json!("t"));
        place::wait_for("the call is upstream", PATIENCE, || recorder.seen_method("tools/call").pop());
        if let Some(session) = &session {
            assert_eq!(session.notify("notifications/cancelled", &json!({ "requestId": "call" })).status(), 202);
            assert_eq!(connection.head().status, 202, "nothing is said about the call");
        }
        drop(connection);
        let (told, sent) = told_of(&recorder);
        assert_eq!(told, sent);
        let ended = outcome(&gateway);
        assert_eq!(ended["result"]["ending"], "cancelled");
        let refusals = gateway.journal().into_iter().filter(|record| record["event"] == "refusal");
        assert!(refusals.into_iter().all(|record| record["id"] != ended["id"]), "it was not refused as well");
    }
}

/// What the gateway says in its own name holds up nobody, however long the other side takes over it.
#[test]
fn a_call_that_is_late_ends_in_time_and_the_upstream_is_told() {
    let issuer = Issuer::good();
    let recorder = mute(Era::Legacy);
    let lines = "grant = { strategy = \"none\" }\ntimeout_ms = 2000";
    let gateway = Setup::usual("late", &issuer).upstream("up", &recorder.url(), lines).start();
    let client = gateway.client_of(Some("up"), &issuer, "alice").awaiting("echo");
    let began = Instant::now();
    let answer = client.call("echo", &json!({}));
    assert_eq!(answer.status(), 504, "{}", answer.text());
    assert!(began.elapsed() < Duration::from_secs(18), "{:?}", began.elapsed());
    let (told, sent) = told_of(&recorder);
    assert_eq!(told, sent);
}

/// What nobody reads is not read from the upstream either: memory stays bounded, and others are served.
#[test]
fn a_client_that_does_not_read_holds_up_only_itself() {
    let issuer = Issuer::good();
    let pad = "x".repeat(16 << 10);
    let recorder = Recorder::scripted(Era::Modern, move |seen| {
        let arguments = &seen.json()["params"]["arguments"];
        (arguments["message"] == "flood").then(|| {
            let token = &seen.json()["params"]["_meta"]["progressToken"];
            let mut reply = Reply::stream();
            // 4,000 events of 16 KiB: far more than every buffer on the way.
            for step in 1..=4_000 {
                let params = json!({ "progressToken": token, "progress": step, "message": pad });
                reply = reply.event(&json!({ "jsonrpc": "2.0", "method": "notifications/progress", "params": params }));
            }
            reply.event(&result(seen, Era::Modern))
        })
    });
    let (gateway, client) = behind("slow-reader", &issuer, &recorder);
    let before = resident_kib(&gateway);
    let params = json!({ "name": "echo", "arguments": { "message": "flood" }, "_meta": { "progressToken": "t" } });
    let mut connection = client.connection();
    connection.send(&client.modern_bytes(&json!(1), "tools/call", &params)).unwrap();
    connection.head();
    let mut steps = vec![connection.event().unwrap()["params"]["progress"].as_u64().unwrap()];
    // Who does not read at all is cut off after 20 seconds: the others are served before.
    let began = Instant::now();
    for turn in 0..20 {
        if turn > 0 && began.elapsed() > Duration::from_secs(8) {
            break;
        }
        assert_eq!(text_of(&client.call("echo", &json!({ "message": "hi" }))), "echo {\"message\":\"hi\"}");
    }
    let grown = resident_kib(&gateway).saturating_sub(before);
    assert!(grown < 24 << 10, "grew by {grown} KiB while nobody read");
    let last = loop {
        let event = connection.event().unwrap();
        match event["params"]["progress"].as_u64() {
            Some(step) => steps.push(step),
            None => break event,
        }
    };
    assert_eq!(last["result"]["content"][0]["text"], "done");
    assert!(steps.iter().copied().eq(1..=4_000), "every event, in order, once");
}

fn resident_kib(gateway: &Gateway) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", gateway.process.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}
