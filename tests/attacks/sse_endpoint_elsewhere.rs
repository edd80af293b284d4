//! A server on HTTP+SSE says that messages, and with them the gateway's credential, are to go somewhere else.

use std::time::Duration;

use super::SOON;
use crate::harness::{
    gateway::{Gateway, Setup},
    issuer::Issuer,
    place,
    recorder::{Recorder, Reply, Step},
};

const SECRET: &str = "s-0f4c9e77ab5541e09d3e6c1b2a7f8d60";

/// A server whose stream begins like this.
fn beginning(with: &str) -> Recorder {
    let begins = with.to_owned();
    Recorder::serving(move |seen| {
        if seen.method == "GET" {
            let event = Step::Bytes(begins.clone().into());
            return Reply::stream().step(event).step(Step::Pause(Duration::from_secs(60)));
        }
        Reply::status(202)
    })
}

fn behind(name: &str, server: &Recorder) -> Gateway {
    let grant = "grant = { strategy = \"static_secret\", prefix = \"Bearer \", value = { env = \"UP_SECRET\" } }";
    let lines = format!("transport = \"sse\"\ntimeout_ms = 2_000\n{grant}");
    Setup::usual(name, &Issuer::good())
        .environment("UP_SECRET", SECRET)
        .upstream("up", &format!("{}/sse", server.origin()), &lines)
        .start()
}

#[test]
fn an_endpoint_of_another_origin_gets_nothing() {
    let elsewhere = Recorder::serving(|_| Reply::status(202));
    let port = elsewhere.origin().rsplit(':').next().unwrap().to_owned();
    for endpoint in [
        format!("{}/message", elsewhere.origin()),
        format!("//127.0.0.1:{port}/message"),
        format!("\\\\127.0.0.1:{port}/message"),
        format!("http://user:pass@127.0.0.1:{port}/message"),
        "file:///etc/passwd".to_owned(),
        "https://127.0.0.1/message".to_owned(),
    ] {
        let server = beginning(&format!("event: endpoint\ndata: {endpoint}\n\n"));
        let mut gateway = behind("sse-elsewhere", &server);
        place::wait_for("two tries", SOON, || (server.seen().len() >= 2).then_some(()));
        gateway.stop();
        assert!(server.seen().iter().all(|seen| seen.method == "GET"), "{endpoint}");
        assert!(elsewhere.seen().is_empty() && !elsewhere.saw_text(SECRET), "{endpoint}");
    }
}

#[test]
fn a_stream_that_names_no_endpoint_gets_no_message() {
    for begins in ["data: {}\n\n", "event: message\ndata: /message\n\n", "event: endpoint\ndata: http://[\n\n"] {
        let server = beginning(begins);
        let mut gateway = behind("sse-nameless", &server);
        place::wait_for("two tries", SOON, || (server.seen().len() >= 2).then_some(()));
        gateway.stop();
        assert!(server.seen().iter().all(|seen| seen.method == "GET"), "{begins}");
    }
}

#[test]
fn an_endpoint_of_the_same_origin_gets_the_message_and_the_credential() {
    let server = beginning("event: endpoint\ndata: /message?sessionId=7\n\n");
    let _gateway = behind("sse-here", &server);
    let posted = place::wait_for("the first message", SOON, || server.seen_method("initialize").pop());
    assert!(server.saw_text("POST /message?sessionId=7 HTTP/1.1"), "{}", posted.path);
    assert_eq!(posted.header("authorization"), Some(format!("Bearer {SECRET}").as_str()));
    assert!(server.seen().iter().any(|seen| {
        seen.method == "GET" && seen.header("authorization") == Some(format!("Bearer {SECRET}").as_str())
    }));
}

#[test]
fn a_redirect_is_not_followed() {
    let elsewhere = Recorder::serving(|_| Reply::status(202));
    let location = format!("{}/sse", elsewhere.origin());
    let server = Recorder::serving(move |_| Reply::status(307).header("location", &location));
    let mut gateway = behind("sse-redirect", &server);
    place::wait_for("two tries", SOON, || (server.seen().len() >= 2).then_some(()));
    gateway.stop();
    assert!(elsewhere.seen().is_empty());
}
