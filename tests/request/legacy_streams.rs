//! The stream that a legacy client opens with GET: what it is told without asking, and when that ends (RL-04, RL-05).

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use serde_json::json;

use super::{
    input,
    listen::{PATIENCE, Shifting},
    refused,
};
use crate::harness::{
    gateway::{Gateway, Setup},
    http::Connection,
    issuer::Issuer,
    mcp::Session,
    place,
    recorder::{Era, Recorder, Reply, Step},
};

fn opened(connection: &mut Connection) {
    let head = connection.head();
    assert_eq!((head.status, head.header("content-type")), (200, Some("text/event-stream")));
    assert_eq!(head.header("x-accel-buffering"), Some("no"));
}

/// A stream that begins where another broke, at the event `last`.
fn back(session: &Session, last: &str) -> Connection {
    let mut connection = session.client().connection();
    let mut headers = session.headers();
    headers.extend([("Accept", "text/event-stream"), ("Last-Event-ID", last)]);
    connection.send(&session.client().bytes("GET", &headers, b"")).unwrap();
    connection
}

/// Two steps of progress, and the answer after the second; each when the counter says so.
fn stepping(counter: &Arc<AtomicUsize>) -> Recorder {
    let counter = Arc::clone(counter);
    Recorder::scripted(Era::Modern, move |seen| {
        (seen.rpc_method() == "tools/call").then(|| {
            let token = &seen.json()["params"]["_meta"]["progressToken"];
            let progress = |step: u64| json!({ "jsonrpc": "2.0", "method": "notifications/progress", "params": { "progressToken": token, "progress": step } });
            let content = json!([{ "type": "text", "text": "done" }]);
            let last = json!({ "jsonrpc": "2.0", "id": seen.json()["id"], "result": { "resultType": "complete", "content": content } });
            let until = |number| Step::until(&counter, number);
            Reply::stream().event(&progress(1)).step(until(1)).event(&progress(2)).step(until(2)).event(&last)
        })
    })
}

fn endings(gateway: &Gateway, count: usize) -> Vec<String> {
    let ended = gateway.recorded("listen_end", count);
    ended.iter().map(|record| record["listened"]["reason"].as_str().unwrap().to_owned()).collect()
}

/// A client that lost its stream without our noticing comes back for it, also where it has all the room that it may.
#[test]
fn the_next_stream_of_a_session_takes_the_room_of_the_one_before() {
    let issuer = Issuer::good();
    let shifting = Shifting::new(Era::Modern);
    let setup = Setup::usual("get-again", &issuer).section("[limits]\nlisteners_max = 1");
    let gateway = setup.open_upstream("up", &shifting.recorder.url()).start();
    shifting.heard(1);
    let session = gateway.client_of(Some("up"), &issuer, "alice").initialize();
    let mut before = session.stream();
    opened(&mut before);
    for _ in 0..4 {
        let mut next = session.stream();
        opened(&mut next);
        assert_eq!(before.event(), None, "the newest has taken over");
        before = next;
    }
    let mut other = gateway.client_of(Some("up"), &issuer, "alice").initialize().stream();
    assert_eq!(other.head().status, 503);
    shifting.shift();
    assert_eq!(before.event().unwrap()["method"], "notifications/tools/list_changed");
}

#[test]
fn a_change_is_told_on_the_stream_of_a_session() {
    let issuer = Issuer::good();
    for era in [Era::Modern, Era::Legacy] {
        let shifting = Shifting::new(era);
        let gateway = Setup::usual("get-stream", &issuer).open_upstream("up", &shifting.recorder.url()).start();
        shifting.heard(1);
        let session = gateway.client_of(Some("up"), &issuer, "alice").initialize();
        assert_eq!(session.initialized["result"]["capabilities"]["tools"], json!({ "listChanged": true }));
        let mut stream = session.stream();
        opened(&mut stream);
        shifting.shift();
        assert_eq!(
            stream.event().unwrap(),
            json!({ "jsonrpc": "2.0", "method": "notifications/tools/list_changed", "params": {} }),
            "a legacy listener has no name"
        );
        assert!(session.client().tools().contains(&"tool-1".to_owned()), "who is told finds the new list");
    }
}

#[test]
fn a_message_goes_out_on_the_newest_stream_and_the_end_of_the_session_ends_it() {
    let issuer = Issuer::good();
    let shifting = Shifting::new(Era::Modern);
    let gateway = Setup::usual("newest-stream", &issuer).open_upstream("up", &shifting.recorder.url()).start();
    shifting.heard(1);
    let alice = gateway.client_of(Some("up"), &issuer, "alice");
    let (session, other) = (alice.initialize(), alice.initialize());
    let (mut older, mut others) = (session.stream(), other.stream());
    opened(&mut older);
    opened(&mut others);
    let mut newest = session.stream();
    opened(&mut newest);
    assert_eq!(older.event(), None, "it had nothing more to say");
    shifting.shift();
    for stream in [&mut newest, &mut others] {
        assert_eq!(stream.event().unwrap()["method"], "notifications/tools/list_changed");
    }
    assert_eq!(session.delete().status(), 204);
    assert_eq!(newest.event(), None);
    assert_eq!(endings(&gateway, 2), ["over", "over"]);
    assert_eq!(refused(&session.stream().answer()), (404, 40402, "session_unknown".into()));
    shifting.shift();
    assert_eq!(others.event().unwrap()["method"], "notifications/tools/list_changed", "the other lives on");
}

#[test]
fn a_stream_is_its_sessions_owners() {
    let issuer = Issuer::good();
    let recorder = Recorder::good(Era::Modern);
    let gateway = Setup::usual("stream-owner", &issuer).open_upstream("up", &recorder.url()).start();
    let alice = gateway.client_of(Some("up"), &issuer, "alice");
    let session = alice.initialize();
    let get = |client: &crate::harness::mcp::Client, headers: &[(&str, &str)]| {
        client.connection().exchange(&client.bytes("GET", headers, b""))
    };
    let bob = gateway.client_of(Some("up"), &issuer, "bob");
    assert_eq!(refused(&get(&bob, &session.headers())), (404, 40402, "session_unknown".into()));
    assert_eq!(refused(&get(&gateway.client(Some("up")), &session.headers())).2, "token_missing");
    assert_eq!(refused(&get(&alice, &[])), (405, 40501, "method_not_allowed".into()), "there is nothing to open");
    let mut headers = session.headers();
    headers.push(("Accept", "application/json"));
    assert_eq!(
        refused(&get(&alice, &headers)),
        (405, 40501, "method_not_allowed".into()),
        "nothing that it would take"
    );
}

/// A session in which nothing is asked for is idle, but not while its client listens.
#[test]
fn a_session_is_not_idle_while_its_stream_is_open() {
    let issuer = Issuer::good();
    let recorder = Recorder::good(Era::Modern);
    let gateway = Setup::usual("stream-idle", &issuer)
        .section("[limits]\nsession_idle_ms = 5_000")
        .open_upstream("up", &recorder.url())
        .start();
    let alice = gateway.client_of(Some("up"), &issuer, "alice").awaiting("echo");
    let (listening, silent) = (alice.initialize(), alice.initialize());
    let mut stream = listening.stream();
    opened(&mut stream);
    place::wait_for("the silent one is idle", PATIENCE, || {
        std::thread::sleep(std::time::Duration::from_secs(6));
        (silent.request("ping", &json!({})).status() == 404).then_some(())
    });
    assert_eq!(listening.request("ping", &json!({})).status(), 200);
}

/// RL-07 and RL-08: a client that lost its stream comes back to it, and gets everything once: what came in between, what
/// still comes, and the answer.
#[test]
fn a_broken_stream_goes_on_where_it_broke() {
    let issuer = Issuer::good();
    let counter = Arc::new(AtomicUsize::new(0));
    let recorder = stepping(&counter);
    let gateway = Setup::usual("resume", &issuer).open_upstream("up", &recorder.url()).start();
    let session = gateway.client_of(Some("up"), &issuer, "alice").awaiting("echo").initialize();
    let params = json!({ "name": "echo", "arguments": {}, "_meta": { "progressToken": "t" } });
    let mut first = session.client().connection();
    first.send(&session.bytes(&json!("call"), "tools/call", &params)).unwrap();
    assert_eq!(first.head().status, 200);
    let text = first.text_until("\"progress\":1}}\n\n");
    assert!(text.starts_with("id: 1-0\nretry: 1000\ndata:\n\nid: 1-1\nevent: message\ndata: "), "{text:?}");
    drop(first);
    counter.store(1, Ordering::Release);
    let mut second = back(&session, "1-1");
    opened(&mut second);
    assert_eq!(second.event().unwrap()["params"]["progress"], 2);
    counter.store(2, Ordering::Release);
    let last = second.event().unwrap();
    assert_eq!((&last["id"], &last["result"]["content"][0]["text"]), (&json!("call"), &json!("done")));
    assert_eq!(second.event(), None, "the answer ends it");
    // Whoever comes back after the end gets the answer too.
    assert_eq!(back(&session, "1-2").answer().json()["result"]["content"][0]["text"], "done");
    assert_eq!(gateway.recorded("outcome", 1)[0]["result"]["ending"], "ok");
    let resumed = gateway.recorded("listen", 2);
    let places: Vec<&str> = resumed.iter().map(|record| record["listen"]["resumed"].as_str().unwrap()).collect();
    assert_eq!((places, &resumed[0]["user"]["subject"]), (vec!["1-1", "1-2"], &json!("alice")));
    assert_eq!(recorder.seen_method("tools/call").len(), 1, "sent once, however often somebody came back");

    // It is this session's and nobody else's; an id that nobody knows begins a stream for what changes.
    let other = gateway.client_of(Some("up"), &issuer, "bob").initialize();
    for (session, last) in [(&other, "1-0"), (&session, "77-1"), (&session, "nonsense")] {
        let mut stream = back(session, last);
        opened(&mut stream);
        assert_eq!(stream.event().unwrap()["method"], "notifications/tools/list_changed", "{last}");
    }
}

/// What a client is asked on a stream that breaks, it finds where it comes back; and its answer counts, whichever stream it
/// was asked on.
#[test]
fn a_client_that_comes_back_answers_what_it_was_asked() {
    let issuer = Issuer::good();
    for (recorder, calls) in
        [(input::asking(), 2), (input::holding(vec![input::request(json!(7), "elicitation/create", input::form())]), 1)]
    {
        let gateway = input::start("resume-asked", &issuer, &recorder);
        let session = gateway.client_of(Some("up"), &issuer, "alice").initialize_with(&input::capabilities());
        let mut first = session.client().connection();
        first.send(&session.bytes(&json!("call"), "tools/call", &json!({ "name": "echo" }))).unwrap();
        assert_eq!(first.head().status, 200);
        first.text_until("id: 1-0\nretry: 1000\ndata:\n\n");
        drop(first);
        let mut second = back(&session, "1-0");
        opened(&mut second);
        let asked = second.event().unwrap();
        assert_eq!((&asked["method"], &asked["params"]), (&json!("elicitation/create"), &input::form()));
        let result = json!({ "action": "accept", "content": { "name": "Ada" } });
        let answer = json!({ "jsonrpc": "2.0", "id": asked["id"], "result": result });
        assert_eq!(session.client().post(&session.headers(), answer.to_string().as_bytes()).status(), 202);
        let done = second.event().unwrap();
        assert_eq!(done["id"], "call");
        assert!(input::text(&done).contains("Ada"), "{done}");
        assert_eq!(recorder.seen_method("tools/call").len(), calls);
        assert_eq!(gateway.recorded("input_answered", 1)[0]["input"]["answers"][0]["action"], "accept");
    }
}

/// An event without a message is for clients that know it; to the older ones it would be a message that is no JSON.
#[test]
fn an_older_client_gets_no_event_without_a_message() {
    let issuer = Issuer::good();
    let counter = Arc::new(AtomicUsize::new(2));
    let recorder = stepping(&counter);
    let gateway = Setup::usual("unprimed", &issuer).open_upstream("up", &recorder.url()).start();
    let alice = gateway.client_of(Some("up"), &issuer, "alice").awaiting("echo");
    let begin = json!({
        "jsonrpc": "2.0", "id": 0, "method": "initialize",
        "params": { "protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": { "name": "tests", "version": "1" } },
    });
    let begun = alice.post(&[], begin.to_string().as_bytes());
    let call = json!({
        "jsonrpc": "2.0", "id": 1, "method": "tools/call",
        "params": { "name": "echo", "arguments": {}, "_meta": { "progressToken": "t" } },
    });
    let headers = [("Mcp-Session-Id", begun.header("mcp-session-id").unwrap()), ("MCP-Protocol-Version", "2025-06-18")];
    let answer = alice.post(&headers, call.to_string().as_bytes());
    assert!(answer.text().starts_with("id: 1-1\nevent: message\ndata: {"), "{}", answer.text());
}
