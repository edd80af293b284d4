//! Listeners beyond all measure, and an upstream that has more to say than anybody can hear (I9, spec §3.7).

use std::{
    net::TcpStream,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use super::{Ground, SOON};
use crate::harness::{
    http::Connection,
    place,
    recorder::{Era, Recorder, Reply, Step},
};

fn filter() -> Value {
    json!({ "toolsListChanged": true })
}

/// Listens for as long as the connection is held.
#[track_caller]
fn listening(ground: &Ground, user: &str) -> Connection {
    let mut connection = ground.client(user).listen(&json!(1), &filter());
    assert_eq!(connection.head().status, 200);
    assert_eq!(connection.event().unwrap()["method"], "notifications/subscriptions/acknowledged");
    connection
}

#[test]
fn listeners_of_one_caller_keep_out_nobody_else() {
    let ground = Ground::before("flood-listeners", Recorder::good(Era::Modern), |setup, _, up| {
        setup.section("[limits]\nlisteners_max = 16").open_upstream("up", &up.url())
    });
    let held: Vec<Connection> = (0..4).map(|_| listening(&ground, "mallory")).collect();
    for _ in 0..20 {
        let answer = ground
            .refused("one more", &["overloaded"], || ground.client("mallory").listen(&json!(1), &filter()).answer());
        assert_eq!(answer.status(), 503);
        assert!(answer.header("retry-after").is_some());
    }
    // A session's stream is one of them.
    let session = ground.client("mallory").initialize();
    ground.refused("the stream of a session", &["overloaded"], || session.stream().answer());
    let listener = ground.client("carol").initialize();
    let mut stream = listener.stream();
    assert_eq!(stream.head().status, 200);
    let others: Vec<Connection> = (0..3).map(|_| listening(&ground, "carol")).collect();
    let another = ground.client("carol").initialize();
    ground.refused("the stream of another", &["overloaded"], || another.stream().answer());
    // Its next stream takes the room of the one before, which its client may have lost.
    let mut next = listener.stream();
    assert_eq!(next.head().status, 200);
    assert_eq!(stream.event(), None);
    assert_eq!(ground.gateway.metric("tollgate_listeners"), Some(8.0), "it is one listener");
    drop((stream, next, others));
    drop(listening(&ground, "alice"));
    ground.recorded_refusal("overloaded");
    drop(held);
    place::wait_for("room again", SOON, || (ground.gateway.metric("tollgate_listeners") == Some(0.0)).then_some(()));
    drop(listening(&ground, "mallory"));
    ground.good_call();
}

/// A thousand who wait cost little, and all of them are told.
#[test]
fn a_thousand_listeners_are_told_and_cost_little() {
    let revision = Arc::new(AtomicUsize::new(0));
    let upstream = shifting(&revision, 1);
    let ground = Ground::before("thousand", upstream, |setup, _, up| {
        setup.section("[limits]\nlisteners_max = 4000\nconnections_max = 8000").open_upstream("up", &up.url())
    });
    let before = resident_kib(&ground);
    let mut held: Vec<Connection> = (0..1_000).map(|_| listening(&ground, "alice")).collect();
    let each = resident_kib(&ground).saturating_sub(before) / 1_000;
    assert!(each < 64, "{each} KiB for one that waits");
    assert_eq!(ground.gateway.metric("tollgate_listeners"), Some(1_000.0));
    revision.store(1, Ordering::Release);
    for connection in &mut held {
        assert_eq!(connection.event().unwrap()["method"], "notifications/tools/list_changed");
    }
    ground.good_call();
}

/// An upstream that says again and again that everything has changed is read, and passed on, only so often.
#[test]
fn an_upstream_that_cries_change_is_not_heard_more_often_than_it_helps() {
    let word = json!({ "jsonrpc": "2.0", "method": "notifications/tools/list_changed" });
    let bytes = format!("data: {word}\n\n").repeat(64);
    let upstream = Recorder::scripted(Era::Modern, move |seen| {
        let endless = Step::Forever(bytes.clone().into());
        (seen.rpc_method() == "subscriptions/listen").then(|| Reply::stream().step(endless))
    });
    let started = Instant::now();
    let ground = Ground::before("cry-change", upstream, |setup, _, up| setup.open_upstream("up", &up.url()));
    let began = Instant::now();
    let mut connection = listening(&ground, "alice");
    for _ in 0..8 {
        assert_eq!(connection.event().unwrap()["method"], "notifications/tools/list_changed");
    }
    assert!(began.elapsed() > Duration::from_secs(2), "eight times within {:?}", began.elapsed());
    let readings = ground.upstream.seen_method("tools/list").len();
    // The rest in between comes to some 400 ms.
    let most = 6 + started.elapsed().as_millis() / 350;
    assert!(readings as u128 <= most, "read {readings} times, not {most} at the most");
    ground.good_call();
}

/// A listener that takes nothing is not written to without end, and the others are told as before.
#[test]
fn a_listener_that_never_reads_holds_up_nobody() {
    let revision = Arc::new(AtomicUsize::new(0));
    let ground = Ground::before("deaf", shifting(&revision, 8), |setup, _, up| setup.open_upstream("up", &up.url()));
    let deaf: Vec<TcpStream> = (0..50)
        .map(|_| {
            use std::io::Write;
            let client = ground.client("mallory");
            let mut socket = TcpStream::connect(ground.gateway.address()).unwrap();
            let params = json!({ "notifications": filter() });
            socket.write_all(&client.modern_bytes(&json!(1), "subscriptions/listen", &params)).unwrap();
            socket
        })
        .collect();
    let mut alice = listening(&ground, "alice");
    let before = resident_kib(&ground);
    for next in 1..=3 {
        revision.store(next, Ordering::Release);
        assert_eq!(alice.event().unwrap()["method"], "notifications/tools/list_changed");
    }
    let grown = resident_kib(&ground).saturating_sub(before);
    assert!(grown < 8 << 10, "grew by {grown} KiB");
    drop(deaf);
    ground.good_call();
}

/// An upstream whose list of tools is another whenever `revision` goes up, at most `times`, and which says so.
fn shifting(revision: &Arc<AtomicUsize>, times: usize) -> Recorder {
    let revision = Arc::clone(revision);
    Recorder::scripted(Era::Modern, move |seen| match seen.rpc_method().as_str() {
        "tools/list" => {
            let mut tools = crate::harness::recorder::tools();
            tools[0]["description"] = json!(format!("revision {}", revision.load(Ordering::Acquire)));
            let result = json!({ "resultType": "complete", "tools": tools, "ttlMs": 600_000, "cacheScope": "private" });
            Some(Reply::result(seen, &result))
        }
        "subscriptions/listen" => {
            let word = json!({ "jsonrpc": "2.0", "method": "notifications/tools/list_changed" });
            let words = (1..=times)
                .fold(Reply::stream(), |stream, next| stream.step(Step::until(&revision, next)).event(&word));
            Some(words.step(Step::Pause(Duration::from_secs(120))))
        }
        _ => None,
    })
}

fn resident_kib(ground: &Ground) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", ground.gateway.process.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}
