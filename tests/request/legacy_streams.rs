//! The stream that a legacy client opens with GET: what it is told without asking, and when that ends (RL-04, RL-05).

use serde_json::json;

use super::{
    listen::{PATIENCE, Shifting},
    refused,
};
use crate::harness::{
    gateway::{Gateway, Setup},
    http::Connection,
    issuer::Issuer,
    place,
    recorder::{Era, Recorder},
};

fn opened(connection: &mut Connection) {
    let head = connection.head();
    assert_eq!((head.status, head.header("content-type")), (200, Some("text/event-stream")));
    assert_eq!(head.header("x-accel-buffering"), Some("no"));
}

fn endings(gateway: &Gateway, count: usize) -> Vec<String> {
    let ended = gateway.recorded("listen_end", count);
    ended.iter().map(|record| record["listened"]["reason"].as_str().unwrap().to_owned()).collect()
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
        .section("[limits]\nsession_idle_ms = 1000")
        .open_upstream("up", &recorder.url())
        .start();
    let alice = gateway.client_of(Some("up"), &issuer, "alice").awaiting("echo");
    let (listening, silent) = (alice.initialize(), alice.initialize());
    let mut stream = listening.stream();
    opened(&mut stream);
    place::wait_for("the silent one is idle", PATIENCE, || {
        std::thread::sleep(std::time::Duration::from_millis(1_200));
        (silent.request("ping", &json!({})).status() == 404).then_some(())
    });
    assert_eq!(listening.request("ping", &json!({})).status(), 200);
}
