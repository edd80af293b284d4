//! Requests without measure or end: big bodies, big headers, and those that come a byte at a time (I9).

use std::{
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use serde_json::json;

use super::{ECHO_HEADERS, Ground, call_text, code};
use crate::harness::{
    http::Connection,
    place,
    recorder::{Era, Recorder},
};

/// With limits of size, and what `times` says of time.
fn ground(name: &str, times: &str) -> Ground {
    Ground::before(name, Recorder::good(Era::Modern), |setup, _, up| {
        let sizes = "body_bytes_max = 65536\nheader_bytes_max = 16384";
        setup.section(&format!("[limits]\n{sizes}\n{times}")).open_upstream("up", &up.url())
    })
}

/// What waits to the end of the test.
const HELD: &str = "header_read_ms = 300000\nbody_read_ms = 300000\nidle_ms = 300000";

/// Good calls take less, also on a busy machine; those that wait for what is held take more.
const SERVED: Duration = Duration::from_secs(55);

fn address(ground: &Ground) -> SocketAddr {
    url::Url::parse(&ground.gateway.endpoint(Some("up"))).unwrap().socket_addrs(|| None).unwrap()[0]
}

/// What is to be ended has ended by then.
const ENDED: Duration = Duration::from_secs(60);

/// Everything that comes back until the other end closes.
fn rest(mut stream: TcpStream) -> String {
    stream.set_read_timeout(Some(ENDED)).unwrap();
    let mut bytes = Vec::new();
    drop(stream.read_to_end(&mut bytes));
    String::from_utf8_lossy(&bytes).into_owned()
}

#[test]
fn body_beyond_its_bound_is_refused_however_it_comes() {
    let ground = ground("oversized-body", "");
    let client = ground.client("alice");
    let text = |size: usize| call_text("echo", &format!(r#"{{"message":"{}"}}"#, "x".repeat(size)));
    assert_eq!(client.post(&ECHO_HEADERS, text(60_000).as_bytes()).status(), 200);

    let big = ground.refused("said", &["body_too_large"], || client.post(&ECHO_HEADERS, text(70_000).as_bytes()));
    assert_eq!((big.status(), &big.json()["error"]["data"]["limit"]), (413, &json!(65_536)));
    // Ten gigabytes are announced, and refused before they come.
    let head = client.post_bytes(&ECHO_HEADERS, b"x");
    let head = String::from_utf8(head).unwrap().replace("Content-Length: 1\r\n", "Content-Length: 10000000000\r\n");
    ground.refused("announced", &["body_too_large"], || {
        client.connection().exchange(head.trim_end_matches('x').as_bytes())
    });
    // Nothing is announced.
    let head = head.replace("Content-Length: 10000000000", "Transfer-Encoding: chunked");
    ground.refused("in chunks", &["body_too_large"], || {
        let mut connection = client.connection();
        connection.send(head.trim_end_matches('x').as_bytes()).unwrap();
        let chunk = [b"4000\r\n".as_slice(), &[b' '; 0x4000], b"\r\n"].concat();
        for _ in 0..6 {
            drop(connection.send(&chunk));
        }
        connection.answer()
    });
    for length in ["-1", "+5", "0x10", "5, 5", "5, 6", "99999999999999999999999", "five", ""] {
        let odd = head.replace("Transfer-Encoding: chunked", &format!("Content-Length: {length}"));
        let mut connection = client.connection();
        connection.send(odd.as_bytes()).unwrap();
        let status = connection.try_head().map_or(400, |head| head.status);
        assert!((400..500).contains(&status), "{length:?}: {status}");
    }
    assert_eq!(ground.calls(), 1);
    ground.recorded_refusal("body_too_large");
    ground.good_call();
}

#[test]
fn head_beyond_its_bound_is_refused() {
    let ground = ground("oversized-head", "");
    let client = ground.client("alice");
    let body = call_text("echo", "{}");
    let with = |headers: &[(&str, &str)]| {
        let mut connection = client.connection();
        drop(connection.send(&client.post_bytes(&[&ECHO_HEADERS[..], headers].concat(), body.as_bytes())));
        connection.try_head().map_or(400, |head| head.status)
    };
    assert_eq!(with(&[("X-Fill", &"x".repeat(4_000))]), 200);
    for (what, headers) in [
        ("one long header", vec![("X-Fill".to_owned(), "x".repeat(40_000))]),
        ("a long name", vec![("X".repeat(40_000), "x".to_owned())]),
        ("two thousand headers", (0..2_000).map(|number| (format!("X-{number}"), "x".to_owned())).collect()),
    ] {
        let headers: Vec<_> = headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let status = with(&headers);
        assert!((400..500).contains(&status), "{what}: {status}");
    }
    let mut connection = client.connection();
    drop(connection.send(format!("GET /mcp/up?{} HTTP/1.1\r\nHost: x\r\n\r\n", "x".repeat(20_000)).as_bytes()));
    assert!((400..500).contains(&connection.try_head().map_or(400, |head| head.status)));
    assert_eq!(ground.calls(), 1);
    ground.good_call();
}

/// Forty of each kind: nothing, half a head, half a body.
fn slow_requests(ground: &Ground) -> [Vec<TcpStream>; 3] {
    let head = String::from_utf8(ground.client("alice").post_bytes(&ECHO_HEADERS, b"x")).unwrap();
    let whole = head.trim_end_matches('x').replace("Content-Length: 1\r\n", "Content-Length: 100\r\n");
    let body = format!("{whole}{{\"jsonrpc\"");
    ["", "POST /mcp/up HTTP/1.1\r\nHost: a\r\nX-Slow: ", &body].map(|text| {
        let send = |_| {
            let mut stream = TcpStream::connect(address(ground)).unwrap();
            stream.write_all(text.as_bytes()).unwrap();
            stream
        };
        (0..40).map(send).collect()
    })
}

#[test]
fn request_that_never_ends_holds_up_nobody() {
    let ground = ground("held", HELD);
    let (began, held) = (Instant::now(), slow_requests(&ground));
    (0..5).for_each(|_| ground.good_call());
    assert!(began.elapsed() < SERVED, "{:?}", began.elapsed());
    drop(held);
    ground.good_call();
}

#[test]
fn request_that_never_ends_is_ended() {
    let ground = ground("slow", "header_read_ms = 1500\nbody_read_ms = 1500\nidle_ms = 3000");
    let began = Instant::now();
    let [silent, heads, bodies] = slow_requests(&ground);
    for stream in bodies {
        let text = rest(stream);
        assert!(text.starts_with("HTTP/1.1 408") && text.contains("\"body_too_slow\""), "{text}");
    }
    for stream in heads.into_iter().chain(silent) {
        let text = rest(stream);
        assert!(text.is_empty() || text.starts_with("HTTP/1.1 4"), "{text}");
    }
    assert!(began.elapsed() < ENDED, "{:?}", began.elapsed());

    // A byte now and then is no better: the whole head has one deadline.
    let mut drip = TcpStream::connect(address(&ground)).unwrap();
    drop(drip.write_all(b"POST /mcp/up HTTP/1.1\r\nHost: a\r\nX-Slow: "));
    place::wait_for("the end of a dripping head", ENDED, || {
        std::thread::sleep(Duration::from_millis(100));
        drip.write_all(b"x").is_err().then_some(())
    });
    ground.recorded_refusal("body_too_slow");
    ground.good_call();
}

#[test]
fn body_that_ends_early_is_no_request() {
    let ground = ground("cut-short", "");
    let client = ground.client("alice");
    let body = call_text("echo", "{}");
    let whole = String::from_utf8(client.post_bytes(&ECHO_HEADERS, body.as_bytes())).unwrap();
    assert_eq!(client.connection().exchange(whole.as_bytes()).status(), 200);
    let length = format!("Content-Length: {}", body.len());
    for longer in [1, 1_000] {
        let cut = whole.replace(&length, &format!("Content-Length: {}", body.len() + longer));
        assert_ne!(cut, whole);
        let mut stream = TcpStream::connect(address(&ground)).unwrap();
        stream.write_all(cut.as_bytes()).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let text = rest(stream);
        assert!(text.is_empty() || text.contains("\"body_incomplete\"") || text.starts_with("HTTP/1.1 400"), "{text}");
    }
    let chunked = whole.replace(&length, "Transfer-Encoding: chunked");
    let (head, _) = chunked.split_once("\r\n\r\n").unwrap();
    for bad in [
        format!("{:x}\r\n{body}", body.len()),
        format!("{:x}\r\n{body}\r\n", body.len()),
        format!("{:x}\r\n{body}\r\nzz\r\n", body.len()),
        format!("{:x}\r\n{body}\r\n0", body.len() + 5),
        format!("-1\r\n{body}\r\n0\r\n\r\n"),
        format!("fffffffffffffffff\r\n{body}"),
    ] {
        let mut stream = TcpStream::connect(address(&ground)).unwrap();
        stream.write_all(format!("{head}\r\n\r\n{bad}").as_bytes()).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let text = rest(stream);
        assert!(!text.starts_with("HTTP/1.1 2"), "{bad:?}: {text}");
    }
    assert_eq!(ground.calls(), 1, "a request that did not end reached the upstream");
    ground.recorded_refusal("body_incomplete");
    let mut connection = Connection::open(address(&ground));
    connection.send(&client.post_bytes(&ECHO_HEADERS, body.as_bytes())).unwrap();
    assert_eq!(connection.answer().status(), 200);
    assert_eq!(code(&client.call("no-such-tool", &json!({}))), "tool_unknown");
    ground.good_call();
}

/// Nobody's body is waited for: who asks comes first.
#[test]
fn stranger_is_refused_before_the_body_has_come() {
    let ground = ground("stranger-body", HELD);
    let bad = ground.gateway.client(Some("up")).token("not.a.token");
    for (client, expected) in [(ground.gateway.client(Some("up")), "token_missing"), (bad, "token_invalid")] {
        let head = String::from_utf8(client.post_bytes(&ECHO_HEADERS, b"x")).unwrap();
        let head = head.trim_end_matches('x').replace("Content-Length: 1\r\n", "Content-Length: 50000\r\n");
        let mut connection = client.connection();
        let began = Instant::now();
        connection.send(head.as_bytes()).unwrap();
        let answer = connection.answer();
        assert_eq!((answer.status(), code(&answer).as_str()), (401, expected));
        assert!(began.elapsed() < SERVED, "{:?}", began.elapsed());
        // What still comes is read away: a connection that is reset loses the answer under whoever has not read it yet.
        (0..50).for_each(|_| connection.send(&[b' '; 1_000]).unwrap());
        assert_eq!(code(&connection.exchange(&client.post_bytes(&ECHO_HEADERS, b"{}"))), expected);
    }
    ground.good_call();
}

/// A gateway before which there is a handshake before there is a request.
fn handshakes(name: &str, ms: u64) -> Ground {
    Ground::before(name, Recorder::good(Era::Modern), |setup, _, up| {
        setup.tls().section(&format!("[limits]\nhandshake_ms = {ms}")).open_upstream("up", &up.url())
    })
}

fn begun(ground: &Ground, start: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(("127.0.0.1", address(ground).port())).unwrap();
    stream.write_all(start).unwrap();
    stream
}

/// Nothing; half a ClientHello; the beginning of a record without end.
fn slow_handshakes(ground: &Ground) -> Vec<TcpStream> {
    let starts: [&[u8]; 3] = [b"", &[0x16, 3, 1, 2, 0, 1, 0, 1], &[0x16, 3, 3, 0x40, 0]];
    (0..60).map(|number| begun(ground, starts[number % 3])).collect()
}

#[test]
fn handshake_that_never_ends_holds_up_nobody() {
    let ground = handshakes("held-handshake", 60_000);
    let (began, held) = (Instant::now(), slow_handshakes(&ground));
    (0..5).for_each(|_| ground.good_call());
    assert!(began.elapsed() < SERVED, "{:?}", began.elapsed());
    drop(held);
    ground.good_call();
}

#[test]
fn handshake_that_never_ends_is_ended() {
    // Good callers have no more time.
    let ground = handshakes("slow-handshake", 5_000);
    let began = Instant::now();
    slow_handshakes(&ground).into_iter().for_each(|stream| drop(rest(stream)));
    assert!(began.elapsed() < ENDED, "{:?}", began.elapsed());
    for garbage in [b"POST /mcp/up HTTP/1.1\r\nHost: a\r\n\r\n".as_slice(), &[0xFF; 64], &[0x16, 3, 1, 0, 0]] {
        assert!(!rest(begun(&ground, garbage)).contains("HTTP/1.1 2"));
    }
    ground.good_call();
}
