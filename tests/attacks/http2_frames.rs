//! HTTP/2 spoken by hand, frame by frame: floods that no client library sends, and requests that HTTP/1.1 could not carry
//! (RFC 9113, RFC 7541; I2, I9).

use std::{
    net::TcpStream,
    sync::Arc,
    time::{Duration, Instant},
};

use rustls::{ClientConnection, StreamOwned, pki_types::ServerName};

use super::{ECHO_HEADERS, Ground, abuse::Gauge, call_text};
use crate::harness::{
    frames::{
        ACK, CONTINUATION, DATA, END_HEADERS, END_STREAM, ENHANCE_YOUR_CALM, GOAWAY, HEADERS, INITIAL_WINDOW_SIZE,
        PING, PREFACE, PUSH_PROMISE, REFUSED_STREAM, RST_STREAM, SETTINGS, WINDOW, WINDOW_UPDATE, Wire, block, frame,
        is_late, settings, swollen, word, word_frame,
    },
    recorder::{Era, Recorder},
};

/// `:status: 200`, as every encoder writes it (RFC 7541, appendix A).
const STATUS_200: u8 = 0x88;

/// How long an answer or an end may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// The settings of [`ground`].
const HEADER_BYTES_MAX: usize = 16_384;
const STREAMS_MAX: usize = 20;
const IDLE: Duration = Duration::from_secs(3);

/// How long an answer may wait for its client, by the gateway's own bound.
const STALL: Duration = Duration::from_secs(20);

fn ground(name: &str) -> Ground {
    Ground::before(name, Recorder::good(Era::Modern), |setup, _, up| {
        let limits = format!(
            "[limits]\nheader_bytes_max = {HEADER_BYTES_MAX}\nstreams_max = {STREAMS_MAX}\nidle_ms = {}",
            IDLE.as_millis()
        );
        setup.tls().section(&limits).open_upstream("up", &up.url())
    })
}

type Fields = Vec<(Vec<u8>, Vec<u8>)>;

/// The fields of a good call.
fn call(ground: &Ground) -> Fields {
    let endpoint = ground.gateway.endpoint(Some("up"));
    let authority = endpoint.strip_prefix("https://").and_then(|rest| rest.split('/').next()).unwrap().to_owned();
    let token = format!("Bearer {}", ground.issuer.token("alice", &endpoint));
    let mut fields: Fields = [
        (":method", "POST"),
        (":scheme", "https"),
        (":authority", &authority),
        (":path", "/mcp/up"),
        ("authorization", &token),
        ("content-type", "application/json"),
        ("accept", "application/json, text/event-stream"),
    ]
    .map(|(name, value)| (name.into(), value.into()))
    .into();
    fields.extend(ECHO_HEADERS.map(|(name, value)| (name.to_lowercase().into(), value.into())));
    fields
}

/// The same with another value of one field.
fn with(fields: &Fields, name: &str, value: &str) -> Fields {
    let changed = |(other, old): &(Vec<u8>, Vec<u8>)| {
        (other.clone(), if other == name.as_bytes() { value.into() } else { old.clone() })
    };
    fields.iter().map(changed).collect()
}

/// The same with one more field behind the others.
fn and(fields: &Fields, name: &str, value: &str) -> Fields {
    [fields.as_slice(), &[(name.into(), value.into())]].concat()
}

/// The same without a field.
fn without(fields: &Fields, name: &str) -> Fields {
    fields.iter().filter(|(other, _)| other != name.as_bytes()).cloned().collect()
}

fn body() -> Vec<u8> {
    call_text("echo", r#"{"message":"by hand"}"#).into_bytes()
}

/// A call in two frames.
fn request(fields: &Fields, stream: u32) -> Vec<u8> {
    [frame(HEADERS, END_HEADERS, stream, &block(fields)), frame(DATA, END_STREAM, stream, &body())].concat()
}

/// What came of a request or of a whole connection.
#[derive(Debug, Clone, PartialEq, Eq)]
enum End {
    /// An answer that begins with this status, as its first byte has it.
    Answer(u8),
    /// The stream was reset.
    Reset(u32),
    /// The connection is over, by GOAWAY with an error, or without a word.
    Over(Option<u32>),
    /// Nothing in this time.
    Silence,
}

impl End {
    const fn is_success(&self) -> bool {
        matches!(self, Self::Answer(STATUS_200))
    }
}

impl Wire {
    /// To the gateway, over TLS, after the preface and these settings.
    fn open(ground: &Ground, settings: &[u8]) -> Self {
        let socket = TcpStream::connect(ground.gateway.address()).unwrap();
        Self::patient(&socket);
        let config = ground.gateway.setup().authority().client(&["h2"]);
        let name = ServerName::try_from("localhost").unwrap();
        let mut tls = StreamOwned::new(ClientConnection::new(Arc::clone(&config), name).unwrap(), socket);
        while tls.conn.is_handshaking() {
            match tls.conn.complete_io(&mut tls.sock) {
                Ok(_) => {}
                Err(error) => assert!(is_late(&error), "no handshake: {error}"),
            }
        }
        assert_eq!(tls.conn.alpn_protocol(), Some(b"h2".as_slice()));
        let mut wire = Self::new(tls);
        assert!(wire.send(&[PREFACE, &frame(SETTINGS, 0, 0, settings)].concat()));
        wire
    }

    /// What comes of the stream, or of the connection, whichever is first.
    fn end_of(&mut self, stream: u32) -> End {
        let until = Instant::now() + PATIENCE;
        loop {
            let frame = match self.next(until) {
                Ok(Some(frame)) => frame,
                Ok(None) => return End::Over(None),
                Err(()) => return End::Silence,
            };
            match frame.kind {
                HEADERS if frame.stream == stream => return End::Answer(frame.payload[0]),
                RST_STREAM if frame.stream == stream => return End::Reset(word(&frame.payload)),
                // One without an error only says that nothing new is taken.
                GOAWAY if word(&frame.payload[4..]) != 0 => return End::Over(Some(word(&frame.payload[4..]))),
                _ => {}
            }
        }
    }

    /// Says this, takes nothing, and says that it is there as often as it is asked, until the connection is over: what came
    /// on its stream, each frame by its kind and first byte.
    fn let_go(&mut self, bytes: &[u8], what: &str) -> Vec<(u8, u8)> {
        assert!(self.send(bytes), "{what}");
        let (until, mut seen) = (Instant::now() + 3 * PATIENCE, Vec::new());
        while let Some(frame) = self.next(until).unwrap_or_else(|()| panic!("{what}: still there")) {
            if frame.kind == PING {
                self.send(&frame.pong());
            } else if frame.stream > 0 {
                seen.push((frame.kind, frame.payload[0]));
            }
        }
        seen
    }

    /// How the connection ends, whatever comes before.
    fn end(&mut self) -> End {
        self.end_of(u32::MAX)
    }
}

/// The numbers of a client's streams.
fn streams() -> impl Iterator<Item = u32> {
    (1..).step_by(2)
}

/// What is written by hand here is understood: the call reaches the upstream.
#[track_caller]
fn good_frames(ground: &Ground) {
    let before = ground.calls();
    let mut wire = Wire::open(ground, &[]);
    assert!(wire.send(&request(&call(ground), 1)));
    assert!(wire.end_of(1).is_success());
    assert_eq!(ground.calls(), before + 1);
}

#[test]
fn requests_that_are_none_reach_nobody() {
    let ground = ground("h2-malformed");
    good_frames(&ground);
    let good = call(&ground);
    let first = |name: &str, value: &str| [vec![(name.into(), value.into())], good.clone()].concat();
    let short = body().len() - 1;
    let cases: Vec<(&str, Fields)> = vec![
        ("a name in capitals", and(&good, "X-Any", "a")),
        ("a name with a blank", and(&good, "x any", "a")),
        ("no name", and(&good, "", "a")),
        ("a line break in a value", and(&good, "x-any", "a\r\nmcp-name: other")),
        ("a lone line feed in a value", and(&good, "x-any", "a\nmcp-name: other")),
        ("a NUL in a value", and(&good, "x-any", "a\0")),
        ("a line break in the path", with(&good, ":path", "/mcp/up HTTP/1.1\r\nx: y")),
        ("a connection field", and(&good, "connection", "keep-alive")),
        ("a transfer coding", and(&good, "transfer-encoding", "chunked")),
        ("an upgrade", and(&good, "upgrade", "websocket")),
        ("another TE than trailers", and(&good, "te", "gzip")),
        ("no method", without(&good, ":method")),
        ("no scheme", without(&good, ":scheme")),
        ("no path", without(&good, ":path")),
        ("an empty path", with(&good, ":path", "")),
        ("a path without a slash", with(&good, ":path", "mcp/up")),
        ("two methods", first(":method", "GET")),
        ("two paths", first(":path", "/mcp")),
        ("two authorities", first(":authority", "elsewhere.example")),
        ("a pseudo-field that nobody knows", first(":any", "a")),
        ("a pseudo-field of answers", first(":status", "200")),
        ("a pseudo-field behind a field", [without(&good, ":path"), vec![(":path".into(), "/mcp/up".into())]].concat()),
        ("another host", and(&good, "host", "elsewhere.example")),
        ("another authority", with(&good, ":authority", "elsewhere.example")),
        ("an authority with a name in it", with(&good, ":authority", "me@localhost")),
        ("no authority", without(&good, ":authority")),
        ("a length that is too short", and(&good, "content-length", &short.to_string())),
        ("a length that is too long", and(&good, "content-length", "9999")),
        ("a length that is no number", and(&good, "content-length", "many")),
        ("two lengths", and(&and(&good, "content-length", &body().len().to_string()), "content-length", "1")),
        ("CONNECT", with(&good, ":method", "CONNECT")),
        ("an extended CONNECT", and(&with(&good, ":method", "CONNECT"), ":protocol", "websocket")),
        ("a token as a second field", and(&good, "authorization", "Bearer other")),
        ("a name of the tool as a second field", and(&good, "mcp-name", "other")),
    ];
    let before = ground.calls();
    for (what, fields) in cases {
        let mut wire = Wire::open(&ground, &[]);
        wire.send(&request(&fields, 1));
        let end = wire.end_of(1);
        assert!(!end.is_success() && end != End::Silence, "{what}: {end:?}");
        assert_eq!(ground.calls(), before, "{what}");
    }
    good_frames(&ground);
    ground.good_call();
}

#[test]
fn frames_that_break_the_rules_end_the_connection() {
    let ground = ground("h2-rules");
    good_frames(&ground);
    let before = ground.calls();
    let fields = block(&call(&ground));
    let open = frame(HEADERS, END_HEADERS, 5, &fields);
    let window = |stream: u32, by: u32| word_frame(WINDOW_UPDATE, stream, by);
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("a stream of the server's", request(&call(&ground), 2)),
        ("an older stream", [open, request(&call(&ground), 3)].concat()),
        ("data of no stream", frame(DATA, END_STREAM, 0, &body())),
        ("data of an idle stream", frame(DATA, END_STREAM, 7, &body())),
        ("a reset of an idle stream", frame(RST_STREAM, 0, 7, &[0; 4])),
        ("a promise", frame(PUSH_PROMISE, END_HEADERS, 5, &[0, 0, 0, 2])),
        ("a continuation of nothing", frame(CONTINUATION, END_HEADERS, 5, &fields)),
        ("a frame between fields", [frame(HEADERS, 0, 5, &fields), frame(PING, 0, 0, &[0; 8])].concat()),
        ("a frame that is too large", frame(DATA, 0, 5, &[b' '; 20_000])),
        ("settings that are cut", frame(SETTINGS, 0, 0, &[0; 5])),
        ("a ping that is cut", frame(PING, 0, 0, &[0; 7])),
        ("a window beyond its bound", [window(0, 0x7fff_ffff), window(0, 0x7fff_ffff)].concat()),
        ("a window that grows by nothing", window(0, 0)),
        ("an initial window beyond its bound", settings(&[(INITIAL_WINDOW_SIZE, 0x8000_0000)])),
        ("an index of no entry", frame(HEADERS, END_HEADERS, 5, &[0xff, 0xff, 0x01])),
        ("text that is not HTTP/2", b"POST /mcp/up HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec()),
    ];
    for (what, bytes) in cases {
        let mut wire = Wire::open(&ground, &[]);
        wire.send(&bytes);
        let end = wire.end();
        assert!(matches!(end, End::Over(Some(_))), "{what}: {end:?}");
        assert_eq!(ground.calls(), before, "{what}");
    }
    good_frames(&ground);
    ground.good_call();
}

/// CVE-2023-44487, and its mirror CVE-2025-8671, where it is the server that resets.
#[test]
fn streams_that_are_reset_again_and_again_end_the_connection() {
    let ground = ground("h2-resets");
    good_frames(&ground);
    let mut gauge = Gauge::new(&ground.gateway);
    let fields = block(&call(&ground));
    let longer = block(&and(&call(&ground), "content-length", "1"));
    let cancelled =
        |stream| [frame(HEADERS, END_HEADERS, stream, &fields), frame(RST_STREAM, 0, stream, &[0, 0, 0, 8])].concat();
    let made = |stream| [frame(HEADERS, END_HEADERS, stream, &longer), frame(DATA, 0, stream, b"  ")].concat();
    let floods: [(&str, Vec<u8>); 2] = [
        ("by the client", streams().take(2_000).flat_map(cancelled).collect()),
        ("by the server", streams().take(2_000).flat_map(made).collect()),
    ];
    for (what, flood) in floods {
        let before = ground.calls();
        let mut wire = Wire::open(&ground, &[]);
        wire.send(&flood);
        let end = wire.end();
        assert!(matches!(end, End::Over(Some(ENHANCE_YOUR_CALM) | None)), "{what}: {end:?}");
        // No body came, so that none was a call.
        assert_eq!(ground.calls(), before, "{what}");
        gauge.read(what);
        ground.good_call();
    }
    good_frames(&ground);
}

/// CVE-2024-27316 and its kin: fields without end, in frames that no stream counts yet.
#[test]
fn fields_without_end_end_the_connection() {
    let ground = ground("h2-continuation");
    good_frames(&ground);
    let mut gauge = Gauge::new(&ground.gateway);
    let large = block(&[("x-any", "a".repeat(15_000))]);
    let pieces: [(&str, Vec<u8>); 2] = [("large", large), ("empty", Vec::new())];
    for (what, piece) in pieces {
        let mut wire = Wire::open(&ground, &[]);
        wire.send(&frame(HEADERS, 0, 1, &block(&call(&ground))));
        let pieces = frame(CONTINUATION, 0, 1, &piece).repeat((1 << 20) / (piece.len() + 9));
        // Sixteen megabytes, or until it is told to stop.
        let taken = (0..16).take_while(|_| wire.send(&pieces)).count();
        let end = wire.end();
        assert!(matches!(end, End::Over(_)), "{what}: {end:?} after {taken} MiB");
        gauge.read(what);
        ground.good_call();
    }
    good_frames(&ground);
}

/// CVE-2026-49975.
#[test]
fn fields_that_are_larger_than_they_look_are_refused() {
    let ground = ground("h2-indexed");
    good_frames(&ground);
    let before = ground.calls();
    let mut gauge = Gauge::new(&ground.gateway);
    // Eight megabytes a stream.
    let fields = [block(&call(&ground)), swollen(3_900, 2_000)].concat();
    for round in 0..4 {
        let mut wire = Wire::open(&ground, &[]);
        let open: Vec<u8> =
            streams().take(STREAMS_MAX).flat_map(|at| frame(HEADERS, END_HEADERS, at, &fields)).collect();
        wire.send(&open);
        let end = wire.end_of(1);
        assert!(!end.is_success() && end != End::Silence, "{round}: {end:?}");
        gauge.read("indexed fields");
    }
    assert_eq!(ground.calls(), before);
    good_frames(&ground);
    ground.good_call();
}

/// CVE-2019-9512, 9515 and 9518, and what h2 mended in 0.4.16: frames that cost their sender next to nothing.
#[test]
fn frames_without_a_purpose_take_no_memory_and_nobodys_turn() {
    let ground = ground("h2-idle-frames");
    good_frames(&ground);
    let before = ground.calls();
    let opened = frame(HEADERS, END_HEADERS, 1, &block(&call(&ground)));
    let floods: [(&str, Vec<u8>, Vec<u8>); 4] = [
        ("pings", Vec::new(), frame(PING, 0, 0, &[7; 8])),
        ("settings", Vec::new(), settings(&[(INITIAL_WINDOW_SIZE, 65_535)])),
        ("empty data", opened, frame(DATA, 0, 1, &[])),
        ("acknowledgements", Vec::new(), frame(PING, ACK, 0, &[7; 8])),
    ];
    let mut gauge = Gauge::new(&ground.gateway);
    for (what, first, piece) in floods {
        let mut wire = Wire::open(&ground, &[]);
        wire.send(&first);
        let megabyte = piece.repeat((1 << 20) / piece.len());
        // Nothing is read: what they ask for piles up somewhere, or they are not taken any more.
        let (began, mut taken) = (Instant::now(), 0);
        while began.elapsed() < Duration::from_secs(3) && wire.send(&megabyte) {
            taken += 1;
            gauge.read(what);
        }
        ground.good_call();
        gauge.read(what);
        eprintln!("{what}: {taken} MiB, {}", gauge.said());
    }
    // Only the good calls came through.
    assert_eq!(ground.calls(), before + 4);
    good_frames(&ground);
}

#[test]
fn streams_beyond_their_number_are_refused_and_the_others_answered() {
    let ground = ground("h2-streams");
    let mut wire = Wire::open(&ground, &[]);
    let fields = block(&call(&ground));
    let numbers: Vec<u32> = streams().take(STREAMS_MAX + 1).collect();
    let open: Vec<u8> = numbers.iter().flat_map(|stream| frame(HEADERS, END_HEADERS, *stream, &fields)).collect();
    assert!(wire.send(&open));
    let one_too_many = *numbers.last().unwrap();
    assert_eq!(wire.end_of(one_too_many), End::Reset(REFUSED_STREAM));
    assert!(wire.send(&frame(DATA, END_STREAM, numbers[0], &body())));
    assert!(wire.end_of(numbers[0]).is_success());
    assert_eq!(ground.calls(), 1);
}

/// A client that still sends may take a stream that is reset for one without an answer (RFC 9113 §8.1).
#[test]
fn a_stranger_who_still_sends_is_answered_and_not_reset() {
    let ground = ground("h2-stranger-body");
    let stranger = block(&without(&call(&ground), "authorization"));
    let mut wire = Wire::open(&ground, &[]);
    assert!(wire.send(&frame(HEADERS, END_HEADERS, 1, &stranger)));
    let answer = wire.end_of(1);
    assert!(matches!(answer, End::Answer(_)) && !answer.is_success(), "{answer:?}");
    // More than a window, with time for a reset between its pieces.
    let pieces = 2 * WINDOW / 10_000;
    for number in 0..=pieces {
        let (flags, mark) = (if number == pieces { END_STREAM } else { 0 }, [u8::try_from(number).unwrap(); 8]);
        assert!(wire.send(&[frame(DATA, flags, 1, &[b' '; 10_000]), frame(PING, 0, 0, &mark)].concat()));
        loop {
            let frame = wire.next(Instant::now() + PATIENCE).unwrap().expect("the connection is over");
            assert!(frame.kind != RST_STREAM && frame.kind != GOAWAY, "{number}: {} {:?}", frame.kind, frame.payload);
            if frame.kind == PING && frame.payload == mark {
                break;
            }
        }
    }
    assert!(wire.send(&request(&call(&ground), 3)));
    assert!(wire.end_of(3).is_success());
    assert_eq!(ground.calls(), 1);
}

/// Who neither asks nor takes anything has no place for ever.
#[test]
fn a_client_that_goes_no_further_is_let_go() {
    let ground = ground("h2-standstill");
    good_frames(&ground);
    let begun = frame(HEADERS, 0, 1, &block(&call(&ground)));
    // A window of nothing: an answer's body cannot be sent.
    let no_window = [0, 4, 0, 0, 0, 0];
    let all: [(&str, &[u8], Vec<u8>, Duration); 3] = [
        ("says nothing", &[], Vec::new(), IDLE / 2),
        ("stops amid its fields", &[], begun, IDLE / 2),
        ("takes no answer", &no_window, request(&call(&ground), 1), STALL / 2),
    ];
    std::thread::scope(|scope| {
        for (what, settings, bytes, least) in all {
            let ground = &ground;
            scope.spawn(move || {
                let mut wire = Wire::open(ground, settings);
                let (began, seen) = (Instant::now(), wire.let_go(&bytes, what));
                // Not for what it said.
                assert!(began.elapsed() > least, "{what}: {:?}", began.elapsed());
                let answered: &[_] = if settings.is_empty() { &[] } else { &[(HEADERS, STATUS_200)] };
                assert_eq!(seen, answered, "{what}");
            });
        }
    });
    ground.good_call();
}
