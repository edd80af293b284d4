//! An upstream says that its tools have changed, and clients see it long before the list would be read again.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use serde_json::{Value, json};

use crate::harness::{
    gateway::Setup,
    issuer::Issuer,
    place,
    recorder::{Era, Recorder, Reply, Seen, Step},
};

/// The list is read at the start and when the stream has begun; only a third reading, for which there is no other cause
/// than the word, shows the new tool.
const READINGS_WITHOUT_WORD: usize = 2;

fn scripted(era: Era) -> Recorder {
    let readings = Arc::new(AtomicUsize::new(0));
    let begun = Arc::clone(&readings);
    Recorder::scripted(era, move |seen| {
        if seen.rpc_method() == "tools/list" {
            let reading = readings.fetch_add(1, Ordering::SeqCst);
            let name = if reading < READINGS_WITHOUT_WORD { "before" } else { "after" };
            return Some(listed(seen, name));
        }
        let stream = match (seen.rpc_method().as_str(), seen.method.as_str(), era) {
            ("subscriptions/listen", ..) => Reply::stream().event(&acknowledged()),
            (_, "GET", Era::Legacy) => Reply::stream(),
            _ => return None,
        };
        let word = json!({ "jsonrpc": "2.0", "method": "notifications/tools/list_changed" });
        let (answered, silence) = (Step::Pause(Duration::from_millis(500)), Step::Pause(Duration::from_secs(60)));
        let read = Step::until(&begun, READINGS_WITHOUT_WORD);
        Some(stream.step(read).step(answered).event(&word).step(silence))
    })
}

fn acknowledged() -> Value {
    let params = json!({ "notifications": { "toolsListChanged": true } });
    json!({ "jsonrpc": "2.0", "method": "notifications/subscriptions/acknowledged", "params": params })
}

fn listed(seen: &Seen, name: &str) -> Reply {
    Reply::result(
        seen,
        &json!({
            "resultType": "complete", "ttlMs": 600_000, "cacheScope": "private",
            "tools": [{ "name": name, "inputSchema": { "type": "object" } }],
        }),
    )
}

#[test]
fn word_of_a_change_is_heard_in_both_eras() {
    let issuer = Issuer::good();
    let (modern, legacy) = (scripted(Era::Modern), scripted(Era::Legacy));
    let gateway = Setup::usual("list-changed", &issuer)
        .open_upstream("modern", &modern.url())
        .open_upstream("legacy", &legacy.url())
        .start();
    for upstream in ["modern", "legacy"] {
        let client = gateway.client_of(Some(upstream), &issuer, "alice");
        place::wait_for("the new tool", place::PATIENCE, || {
            let tools = client.tools();
            (tools == ["after"]).then_some(())
        });
    }
}

/// Behind what a legacy server asks on the stream of its session stands no call, and so no client: a ping is answered, and
/// anything else refused, so that it does not wait.
#[test]
fn what_is_asked_on_the_stream_of_no_call_is_answered_by_the_gateway() {
    let issuer = Issuer::good();
    let recorder = Recorder::scripted(Era::Legacy, |seen| {
        let asked = |id: &str, method: &str| json!({ "jsonrpc": "2.0", "id": id, "method": method });
        let stream = || Reply::stream().event(&asked("p", "ping")).event(&asked("r", "roots/list"));
        (seen.method == "GET").then(|| stream().step(Step::Pause(Duration::from_secs(60))))
    });
    let gateway = Setup::usual("asked-alone", &issuer).open_upstream("up", &recorder.url()).start();
    let answers = place::wait_for("both answers", place::PATIENCE, || {
        let answers: Vec<_> = recorder.seen().into_iter().filter(|seen| seen.json()["id"].is_string()).collect();
        (answers.len() == 2).then_some(answers)
    });
    assert_eq!(answers[0].json(), json!({ "jsonrpc": "2.0", "id": "p", "result": {} }));
    assert_eq!((&answers[1].json()["id"], &answers[1].json()["error"]["code"]), (&json!("r"), &json!(-32601)));
    assert!(answers.iter().all(|seen| seen.header("mcp-session-id").is_some()), "in its session");
    assert_eq!(gateway.client_of(Some("up"), &issuer, "alice").awaiting("echo").call("echo", &json!({})).status(), 200);
}

/// Some servers that say nothing answer with 200, as a program has to: that is no stream that has begun and ended, after
/// which everything would be read again, over and over.
#[test]
fn a_server_that_will_not_listen_is_read_no_more_for_that() {
    let issuer = Issuer::good();
    let answering = |answer: fn(&Seen) -> Reply| {
        Recorder::scripted(Era::Modern, move |seen| match seen.rpc_method().as_str() {
            "tools/list" => Some(listed(seen, "echo")),
            "subscriptions/listen" => Some(answer(seen)),
            _ => None,
        })
    };
    fn event(seen: &Seen, code: i64) -> Reply {
        let error = json!({ "code": code, "message": "no" });
        Reply::events(&[json!({ "jsonrpc": "2.0", "id": seen.json()["id"], "error": error })])
    }
    let by_event = answering(|seen| event(seen, -32601));
    let by_body = answering(|seen| Reply::error(seen, 200, -32601, "no"));
    let empty = answering(|seen| {
        let nothing = json!({ "notifications": {} });
        let acknowledged =
            json!({ "jsonrpc": "2.0", "method": "notifications/subscriptions/acknowledged", "params": nothing });
        let done = json!({ "jsonrpc": "2.0", "id": seen.json()["id"], "result": { "resultType": "complete" } });
        Reply::events(&[acknowledged, done])
    });
    // It may listen some other time.
    let broken = answering(|seen| event(seen, -32603));
    let all = [&by_event, &by_body, &empty, &broken];
    let mut setup = Setup::usual("listens-not", &issuer);
    for (id, recorder) in ["event", "body", "empty", "broken"].into_iter().zip(all) {
        setup = setup.open_upstream(id, &recorder.url());
    }
    let _gateway = setup.start();
    let listened = |recorder: &Recorder| recorder.seen_method("subscriptions/listen").len();
    place::wait_for("the broken one asked again", place::PATIENCE, || (listened(&broken) >= 3).then_some(()));
    assert_eq!([&by_event, &by_body, &empty].map(listened), [1; 3]);
    assert_eq!(all.map(|recorder| recorder.seen_method("tools/list").len()), [1; 4]);
}

/// A proxy may say 404 while the server behind it is away, and the next release of a server may serve what this one does
/// not.
#[test]
fn a_server_that_would_not_listen_is_asked_again_as_often_as_it_is_read() {
    let issuer = Issuer::good();
    for era in [Era::Modern, Era::Legacy] {
        let asked = Arc::new(AtomicUsize::new(0));
        let turns = Arc::clone(&asked);
        let recorder = Recorder::scripted(era, move |seen| {
            let listens = seen.rpc_method() == "subscriptions/listen" || (era == Era::Legacy && seen.method == "GET");
            let first = listens && turns.fetch_add(1, Ordering::SeqCst) == 0;
            let absent = if era == Era::Modern { 404 } else { 405 };
            let silence = Step::Pause(Duration::from_secs(60));
            let stream = || match era {
                Era::Modern => Reply::stream().event(&acknowledged()).step(silence),
                Era::Legacy => Reply::stream().step(silence),
            };
            listens.then(|| if first { Reply::status(absent) } else { stream() })
        });
        let lines = "grant = { strategy = \"none\" }\nrefresh_s = 2";
        let _gateway = Setup::usual("listens-later", &issuer).upstream("up", &recorder.url(), lines).start();
        place::wait_for("it is asked again", place::PATIENCE, || (asked.load(Ordering::SeqCst) >= 2).then_some(()));
    }
}
