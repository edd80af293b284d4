//! An answer of a legacy upstream whose stream ends too early goes on where it was; the call is made once.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use parking_lot::Mutex;
use serde_json::{Value, json};

use super::{refused, text_of};
use crate::harness::{
    gateway::{Gateway, Setup},
    issuer::Issuer,
    mcp::Client,
    recorder::{Era, Recorder, Reply, Seen, Step},
};

/// What was asked with `Last-Event-ID`.
fn resumptions(upstream: &Recorder) -> Vec<Seen> {
    upstream.seen().into_iter().filter(|seen| seen.method == "GET" && seen.header("last-event-id").is_some()).collect()
}

fn place(seen: &Seen) -> &str {
    seen.header("last-event-id").unwrap_or_default()
}

/// A legacy server whose calls begin a stream with `first`; `further` answers each time it is asked for more, given the
/// response that the call waits for.
fn upstream(
    first: impl Fn() -> Reply + Send + Sync + 'static,
    further: impl Fn(&Seen, &Value) -> Reply + Send + Sync + 'static,
) -> Recorder {
    let asked = Arc::new(Mutex::new(Value::Null));
    Recorder::scripted(Era::Legacy, move |seen| match seen.method.as_str() {
        "POST" if seen.rpc_method() == "tools/call" => {
            *asked.lock() = seen.json()["id"].clone();
            Some(first())
        }
        "GET" if seen.header("last-event-id").is_some() => {
            let result = json!({ "content": [{ "type": "text", "text": "at last" }] });
            let response = json!({ "jsonrpc": "2.0", "id": *asked.lock(), "result": result });
            Some(further(seen, &response))
        }
        _ => None,
    })
}

fn primed(id: &str) -> Reply {
    Reply::stream().step(Step::Bytes(format!("id: {id}\nretry: 100\ndata:\n\n").into()))
}

fn setup(name: &str, upstream: &Recorder, timeout_ms: u64) -> (Issuer, Gateway) {
    let issuer = Issuer::good();
    let lines = "grant = { strategy = \"none\" }\n[[upstreams.up.tools]]\nmatch = \"echo\"";
    let lines = format!("{lines}\ntimeout_ms = {timeout_ms}");
    let gateway = Setup::usual(name, &issuer).upstream("up", &upstream.url(), &lines).start();
    (issuer, gateway)
}

fn client(gateway: &Gateway, issuer: &Issuer) -> Client {
    gateway.client_of(Some("up"), issuer, "alice").awaiting("echo")
}

#[test]
fn a_stream_that_ended_or_broke_is_taken_up_again() {
    let pause = Step::Pause(Duration::from_millis(50));
    for (name, how) in [("ended", vec![]), ("broke", vec![pause, Step::Cut])] {
        let first = move || how.iter().fold(primed("one"), |reply, step| reply.step(step.clone()));
        // A stream without a named event leaves the place where it was.
        let times = AtomicUsize::new(0);
        let further = move |seen: &Seen, response: &Value| match (times.fetch_add(1, Relaxed) % 3, place(seen)) {
            (0, "one") => primed("two"),
            (1, "two") => Reply::stream().step(Step::Bytes(": nothing yet\n\n".into())),
            (2, "two") => Reply::stream().event(response),
            _ => Reply::status(400),
        };
        let upstream = upstream(first, further);
        let (issuer, gateway) = setup(name, &upstream, 15_000);
        let alice = client(&gateway, &issuer);
        assert_eq!(text_of(&alice.call("echo", &json!({}))), "at last", "{name}");
        assert_eq!(text_of(&alice.initialize().call("echo", &json!({}))), "at last", "{name}");
        assert_eq!(upstream.seen_method("tools/call").len(), 2, "{name}: one each");
        let asked = resumptions(&upstream);
        assert_eq!(asked.len(), 6, "{name}");
        for asked in asked {
            assert_eq!(asked.header("mcp-session-id"), Some("session-of-the-recorder"));
            assert_eq!(asked.header("mcp-protocol-version"), Some("2025-11-25"));
            assert_eq!(asked.header("accept"), Some("text/event-stream"));
        }
        assert!(gateway.verify().status.success());
    }
}

#[test]
fn what_cannot_be_taken_up_again_is_lost() {
    let long = "x".repeat(1_025);
    for (name, id, asked) in [("refused", "one", 1), ("unspeakable", "h\u{e9}", 0), ("long", &long, 0)] {
        let id = id.to_owned();
        let upstream = upstream(move || primed(&id), |_, _| Reply::status(405));
        let (issuer, gateway) = setup(name, &upstream, 15_000);
        let answer = client(&gateway, &issuer).call("echo", &json!({}));
        let (status, code, own) = refused(&answer);
        assert_eq!((code, own.as_str()), (50203, "upstream_lost"), "{name}");
        // An answer that takes its time begins as a stream, with 200.
        assert!(matches!(status, 200 | 502), "{name}: {status}");
        assert_eq!(resumptions(&upstream).len(), asked, "{name}");
        assert_eq!(upstream.seen_method("tools/call").len(), 1, "{name}");
    }
}

/// It names a place, wants to be asked at once, and never says anything.
#[test]
fn a_server_that_only_ends_streams_is_asked_slowly_and_not_for_long() {
    let empty = || Reply::stream().step(Step::Bytes("id: one\nretry: 0\ndata:\n\n".into()));
    let upstream = upstream(empty, move |_, _| empty());
    let (issuer, gateway) = setup("restless", &upstream, 1_500);
    let alice = client(&gateway, &issuer);
    let answer = alice.call("echo", &json!({}));
    assert_eq!(answer.json()["error"]["data"]["code"], "upstream_timeout", "{}", answer.text());
    let asked = resumptions(&upstream).len();
    assert!((1..=15).contains(&asked), "a tenth of a second lies between: {asked}");
    assert_eq!(upstream.seen_method("tools/call").len(), 1);
    assert_eq!(alice.modern("tools/list", &json!({})).status(), 200);
}
