//! SIGTERM: what has begun is finished, nothing new begins, the journal is closed last. SIGQUIT: the same, and a successor
//! goes on.

use std::{
    collections::BTreeSet,
    net::TcpStream,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use super::input::{call, capabilities, form, holding, request};
use crate::harness::{
    gateway::{Gateway, Setup},
    issuer::Issuer,
    mcp::Client,
    place,
    recorder::{Era, Recorder, Reply, Step},
};

const PATIENCE: Duration = place::PATIENCE;

fn result(seen: &crate::harness::recorder::Seen) -> Value {
    let content = json!([{ "type": "text", "text": "done" }]);
    json!({ "jsonrpc": "2.0", "id": seen.json()["id"], "result": { "resultType": "complete", "content": content } })
}

/// Waits for its end, and says when that was.
#[track_caller]
fn ends_well(gateway: &mut Gateway) -> Instant {
    let status = gateway.process.wait(place::DISK_PATIENCE);
    let ended = Instant::now();
    assert_eq!(status.code(), Some(0), "{}", gateway.process.errors());
    let output = gateway.verify();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(gateway.journal().iter().filter(|record| record["event"] == "stop").count(), 1);
    ended
}

fn endings(gateway: &Gateway) -> Vec<Value> {
    let journal = gateway.journal();
    journal
        .iter()
        .filter(|record| record["event"] == "outcome")
        .map(|record| record["result"]["ending"].clone())
        .collect()
}

#[test]
fn calls_and_streams_under_way_are_finished() {
    let issuer = Issuer::good();
    let drains = Arc::new(AtomicUsize::new(0));
    let until = Arc::clone(&drains);
    let recorder = Recorder::scripted(Era::Modern, move |seen| {
        let call = seen.json();
        match call["params"]["name"].as_str()? {
            "echo" => {
                place::wait_for("the drain", PATIENCE, || (until.load(Ordering::Acquire) > 0).then_some(()));
                Some(Reply::json(200, &result(seen)).after(Duration::from_millis(500)))
            }
            "add" => {
                let token = &call["params"]["_meta"]["progressToken"];
                let progress = |step: u64| json!({ "jsonrpc": "2.0", "method": "notifications/progress", "params": { "progressToken": token, "progress": step } });
                let begun = Reply::stream().event(&progress(1)).step(Step::until(&until, 1));
                let pause = Step::Pause(Duration::from_millis(200));
                let reply = (2..=4).fold(begun, |reply, step| reply.event(&progress(step)).step(pause.clone()));
                Some(reply.event(&result(seen)))
            }
            _ => None,
        }
    });
    let mut gateway = Setup::usual("drain", &issuer).open_upstream("up", &recorder.url()).start();
    let alice = gateway.client_of(Some("up"), &issuer, "alice").awaiting("echo");
    let mut call = alice.connection();
    call.send(&alice.modern_bytes(&json!(1), "tools/call", &json!({ "name": "echo", "arguments": {} }))).unwrap();
    let mut stream = alice.connection();
    let params = json!({ "name": "add", "arguments": {}, "_meta": { "progressToken": "t" } });
    stream.send(&alice.modern_bytes(&json!(2), "tools/call", &params)).unwrap();
    stream.head();
    assert_eq!(stream.event().unwrap()["params"]["progress"], 1);
    place::wait_for("both calls are upstream", PATIENCE, || {
        (recorder.seen_method("tools/call").len() == 2).then_some(())
    });

    gateway.process.terminate();
    place::wait_for("it is not ready any more", PATIENCE, || (gateway.readiness() == 503).then_some(()));
    drains.store(1, Ordering::Release);
    for step in 2..=4 {
        assert_eq!(stream.event().unwrap()["params"]["progress"], step);
    }
    assert_eq!(stream.event().unwrap()["result"]["content"][0]["text"], "done");
    assert_eq!(stream.event(), None);
    let answer = call.answer();
    assert_eq!((answer.status(), &answer.json()["result"]["content"][0]["text"]), (200, &json!("done")));
    ends_well(&mut gateway);
    assert_eq!(endings(&gateway), ["ok", "ok"]);
    assert!(
        TcpStream::connect(("127.0.0.1", url::Url::parse(&gateway.endpoint(None)).unwrap().port().unwrap())).is_err()
    );
}

#[test]
fn a_held_call_does_not_hold_up_the_drain_and_is_given_up() {
    let issuer = Issuer::good();
    let recorder = holding(vec![request(json!(7), "elicitation/create", form())]);
    let setup = Setup::usual("drain-held", &issuer).gateway("drain_ms = 60_000");
    let mut gateway = setup.open_upstream("up", &recorder.url()).start();
    let alice = gateway.client_of(Some("up"), &issuer, "alice").awaiting("echo");
    let asked = call(&alice, &capabilities(), json!({})).json();
    assert_eq!(asked["result"]["resultType"], "input_required", "{asked}");
    gateway.process.terminate();
    ends_well(&mut gateway);
    let reason = |record: &Value| record["input"]["reason"].clone();
    assert_eq!(gateway.recorded("input_abandoned", 1).iter().map(reason).collect::<Vec<_>>(), ["the gateway ended"]);
    let declined = recorder.seen().iter().any(|seen| seen.json()["result"]["action"] == "cancel");
    assert!(declined, "the upstream is told");
}

#[test]
fn an_idle_gateway_ends_at_once() {
    let issuer = Issuer::good();
    let recorder = Recorder::good(Era::Modern);
    let setup = Setup::usual("idle", &issuer).gateway("drain_ms = 60_000");
    let mut gateway = setup.open_upstream("up", &recorder.url()).start();
    let alice = gateway.client_of(Some("up"), &issuer, "alice").awaiting("echo");
    // A connection that is kept open, and on which nothing is asked, holds nothing up.
    let mut kept = alice.connection();
    kept.exchange(&alice.modern_bytes(&json!(1), "tools/list", &json!({})));
    let began = Instant::now();
    gateway.process.terminate();
    let took = ends_well(&mut gateway) - began;
    assert!(took < Duration::from_secs(25), "{took:?}");
    assert!(kept.closes_within(PATIENCE));
}

#[test]
fn a_call_that_takes_longer_than_the_drain_does_not_hold_it_up() {
    let issuer = Issuer::good();
    let recorder = Recorder::scripted(Era::Modern, |seen| {
        (seen.rpc_method() == "tools/call").then(|| Reply::json(200, &result(seen)).after(Duration::from_secs(60)))
    });
    let setup = Setup::usual("bounded", &issuer).gateway("drain_ms = 1000").open_upstream("up", &recorder.url());
    let mut gateway = setup.start();
    let alice = gateway.client_of(Some("up"), &issuer, "alice").awaiting("echo");
    let mut call = alice.connection();
    call.send(&alice.modern_bytes(&json!(1), "tools/call", &json!({ "name": "echo", "arguments": {} }))).unwrap();
    place::wait_for("the call is upstream", PATIENCE, || {
        (!recorder.seen_method("tools/call").is_empty()).then_some(())
    });
    let began = Instant::now();
    gateway.process.terminate();
    let took = ends_well(&mut gateway) - began;
    assert!(took < Duration::from_secs(25), "{took:?}");
    // Whether the server acted is not known, and the journal says so.
    let intents = gateway.journal().iter().filter(|record| record["event"] == "intent").count();
    assert_eq!(intents, 1);
    assert_eq!(endings(&gateway), ["unknown"]);
}

/// A habit from servers that read their files again at it.
#[test]
fn a_hangup_ends_nothing() {
    let (issuer, recorder) = (Issuer::good(), Recorder::good(Era::Modern));
    let mut gateway = Setup::usual("hangup", &issuer).open_upstream("up", &recorder.url()).start();
    let alice = gateway.client_of(Some("up"), &issuer, "alice").awaiting("echo");
    gateway.process.signal("HUP");
    place::wait_for("it is told", PATIENCE, || gateway.process.errors().contains("SIGHUP").then_some(()));
    assert_eq!(alice.call("echo", &json!({})).status(), 200);
    gateway.process.terminate();
    ends_well(&mut gateway);
}

/// A server whose tool `add` streams until `end` says otherwise, and which takes its time to say what there is once it is
/// `slow`.
fn lasting(slow: &Arc<AtomicBool>, end: &Arc<AtomicUsize>) -> Recorder {
    let (slow, end) = (Arc::clone(slow), Arc::clone(end));
    Recorder::scripted(Era::Modern, move |seen| {
        let call = seen.json();
        match seen.rpc_method().as_str() {
            "server/discover" if slow.load(Ordering::Acquire) => {
                Some(Reply::discovered(seen, &json!({ "tools": {} })).after(Duration::from_millis(700)))
            }
            "tools/call" if call["params"]["name"] == "add" => {
                let params = json!({ "progressToken": call["params"]["_meta"]["progressToken"], "progress": 1 });
                let progress = json!({ "jsonrpc": "2.0", "method": "notifications/progress", "params": params });
                Some(Reply::stream().event(&progress).step(Step::until(&end, 1)).event(&result(seen)))
            }
            _ => None,
        }
    })
}

/// Calls without a pause until `over`, each with a name of its own, on connections of its own or on one that is kept;
/// says what it called. A kept connection that is closed before an answer begins is opened again, as clients do; a new one
/// only where so much time had gone by unread that it was taken for an idle one.
fn call_on(alice: &Client, kept: bool, over: &AtomicBool, moved: &AtomicUsize) -> BTreeSet<String> {
    let mut connection = alice.connection();
    let mut called = BTreeSet::new();
    while !over.load(Ordering::Acquire) {
        let name = format!("{}-{}", if kept { "kept" } else { "new" }, called.len());
        let params = json!({ "name": "echo", "arguments": { "message": name } });
        let bytes = alice.modern_bytes(&json!(called.len()), "tools/call", &params);
        let answer = if kept {
            connection.try_exchange(&bytes).unwrap_or_else(|_closed| {
                moved.fetch_add(1, Ordering::AcqRel);
                connection = alice.connection();
                connection.exchange(&bytes)
            })
        } else {
            let began = Instant::now();
            alice.connection().try_exchange(&bytes).unwrap_or_else(|closed| {
                assert!(began.elapsed() >= UNREAD_MAX, "{name}: {closed} after {:?}", began.elapsed());
                alice.connection().exchange(&bytes)
            })
        };
        assert_eq!(answer.status(), 200, "{name}: {}", answer.text());
        called.insert(name);
    }
    called
}

/// A connection on which nothing comes for half a second is closed by a gateway that drains, and not before.
const UNREAD_MAX: Duration = Duration::from_millis(450);

/// `deploy/README.md`: start the new one with `--upgrade`, then SIGQUIT to the old one.
#[test]
fn an_upgrade_closes_no_door_and_loses_no_call() {
    let issuer = Issuer::good();
    let (slow, end, over) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)), AtomicBool::new(false));
    let (moved, recorder) = (AtomicUsize::new(0), lasting(&slow, &end));
    let mut gateway = Setup::usual("upgrade", &issuer).open_upstream("up", &recorder.url()).start();
    let alice = gateway.client_of(Some("up"), &issuer, "alice").awaiting("echo");
    let mut stream = alice.connection();
    let params = json!({ "name": "add", "arguments": {}, "_meta": { "progressToken": "t" } });
    stream.send(&alice.modern_bytes(&json!("stream"), "tools/call", &params)).unwrap();
    stream.head();
    assert_eq!(stream.event().unwrap()["params"]["progress"], 1);

    let called = std::thread::scope(|scope| {
        let [kept, new] = [true, false].map(|kept| {
            let (alice, over, moved) = (&alice, &over, &moved);
            scope.spawn(move || call_on(alice, kept, over, moved))
        });
        let _ends = Ends(&over);
        slow.store(true, Ordering::Release);
        let successor = gateway.successor();
        let mut old = std::mem::replace(&mut gateway.process, successor);
        place::wait_for("the successor has the sockets", place::DISK_PATIENCE, || {
            old.signal("QUIT");
            old.errors().contains("upgrade.begun").then_some(())
        });
        place::wait_for("the old one lets go of who it serves", PATIENCE, || {
            (moved.load(Ordering::Acquire) > 0).then_some(())
        });
        assert!(old.ended().is_none(), "a stream is open");
        end.store(1, Ordering::Release);
        assert_eq!(stream.event().unwrap()["result"]["content"][0]["text"], "done");
        assert_eq!(stream.event(), None);
        assert_eq!(old.wait(place::DISK_PATIENCE).code(), Some(0), "{}", old.errors());
        place::wait_for("the successor is ready", place::DISK_PATIENCE, || (gateway.readiness() == 200).then_some(()));
        assert_eq!(alice.call("echo", &json!({ "message": "last" })).status(), 200);
        over.store(true, Ordering::Release);
        let mut called = kept.join().unwrap();
        called.append(&mut new.join().unwrap());
        called
    });
    gateway.process.terminate();
    assert_eq!(gateway.process.wait(place::DISK_PATIENCE).code(), Some(0), "{}", gateway.process.errors());

    let seen = recorder.seen_method("tools/call");
    let names = seen.iter().filter_map(|seen| Some(seen.json()["params"]["arguments"]["message"].as_str()?.to_owned()));
    let names: Vec<String> = names.filter(|name| name != "last").collect();
    assert_eq!(names.len(), called.len(), "each call went up once");
    assert_eq!(names.into_iter().collect::<BTreeSet<_>>(), called);
    let output = gateway.verify();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let journal = gateway.journal();
    let count = |event: &str| journal.iter().filter(|record| record["event"] == event).count();
    assert_eq!((count("start"), count("stop")), (2, 2));
    assert_eq!((count("intent"), count("outcome")), (seen.len(), seen.len()));
    assert!(endings(&gateway).iter().all(|ending| ending == "ok"));
}

/// Ends the callers also where the test fails.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}
