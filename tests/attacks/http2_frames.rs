//! HTTP/2 spoken by hand, frame by frame: floods that no client library sends, and requests that HTTP/1.1 could not carry
//! (RFC 9113, RFC 7541; I2, I9).

use std::{
    io::{ErrorKind, Read, Write},
    net::TcpStream,
    sync::Arc,
    time::{Duration, Instant},
};

use rustls::{ClientConnection, StreamOwned, pki_types::ServerName};

use super::{ECHO_HEADERS, Ground, abuse::Gauge, call_text};
use crate::harness::recorder::{Era, Recorder};

/// Kinds of frames (RFC 9113 §6).
const DATA: u8 = 0x0;
const HEADERS: u8 = 0x1;
const RST_STREAM: u8 = 0x3;
const SETTINGS: u8 = 0x4;
const PUSH_PROMISE: u8 = 0x5;
const PING: u8 = 0x6;
const GOAWAY: u8 = 0x7;
const WINDOW_UPDATE: u8 = 0x8;
const CONTINUATION: u8 = 0x9;

const ACK: u8 = 0x1;
const END_STREAM: u8 = 0x1;
const END_HEADERS: u8 = 0x4;

/// Errors (RFC 9113 §7).
const REFUSED_STREAM: u32 = 0x7;
const ENHANCE_YOUR_CALM: u32 = 0xb;

/// `:status: 200`, as every encoder writes it (RFC 7541, appendix A).
const STATUS_200: u8 = 0x88;

/// What a client may send on a stream before it is told that there is room for more (RFC 9113 §6.9.2).
const WINDOW: usize = 65_535;

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

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// An integer with a prefix of seven bits (RFC 7541 §5.1).
fn integer(value: usize) -> Vec<u8> {
    let Some(mut rest) = value.checked_sub(127) else { return vec![u8::try_from(value).unwrap()] };
    let mut out = vec![127];
    while rest >= 128 {
        out.push(u8::try_from(rest % 128).unwrap() | 0x80);
        rest /= 128;
    }
    out.push(u8::try_from(rest).unwrap());
    out
}

/// Fields without indexing and by their names (RFC 7541 §6.2.2).
fn block<N: AsRef<[u8]>, V: AsRef<[u8]>>(fields: &[(N, V)]) -> Vec<u8> {
    let field = |(name, value): &(N, V)| {
        let (name, value) = (name.as_ref(), value.as_ref());
        [&[0], integer(name.len()).as_slice(), name, &integer(value.len()), value].concat()
    };
    fields.iter().flat_map(field).collect()
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

struct Frame {
    kind: u8,
    stream: u32,
    payload: Vec<u8>,
}

/// A connection over TLS on which nothing is said but what the test says.
struct Wire {
    tls: StreamOwned<ClientConnection, TcpStream>,
    buffer: Vec<u8>,
}

impl Wire {
    /// After the preface and these settings.
    fn open(ground: &Ground, settings: &[u8]) -> Self {
        let socket = TcpStream::connect(ground.gateway.address()).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        socket.set_write_timeout(Some(Duration::from_secs(2))).unwrap();
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
        let mut wire = Self { tls, buffer: Vec::new() };
        let preface = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".as_slice(), &frame(SETTINGS, 0, 0, settings)].concat();
        assert!(wire.send(&preface));
        wire
    }

    /// Says whether all of it was taken.
    fn send(&mut self, bytes: &[u8]) -> bool {
        self.tls.write_all(bytes).and_then(|()| self.tls.flush()).is_ok()
    }

    /// The next frame; `Err` says that nothing came in time, `Ok(None)` that nothing will.
    fn next(&mut self, until: Instant) -> Result<Option<Frame>, ()> {
        loop {
            if let Some(head) = self.buffer.first_chunk::<9>() {
                let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
                let (kind, stream) = (head[3], u32::from_be_bytes([head[5], head[6], head[7], head[8]]));
                if self.buffer.len() >= 9 + length {
                    let payload = self.buffer.drain(..9 + length).skip(9).collect();
                    return Ok(Some(Frame { kind, stream, payload }));
                }
            }
            let mut piece = [0; 16 * 1024];
            match self.tls.read(&mut piece) {
                Ok(0) => return Ok(None),
                Ok(count) => self.buffer.extend(&piece[..count]),
                Err(error) if is_late(&error) => {
                    if Instant::now() > until {
                        return Err(());
                    }
                }
                Err(_) => return Ok(None),
            }
        }
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
                self.send(&pong(&frame));
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

fn word(bytes: &[u8]) -> u32 {
    u32::from_be_bytes(*bytes.first_chunk().unwrap())
}

fn is_late(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
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
    let window = |stream: u32, by: u32| frame(WINDOW_UPDATE, 0, stream, &by.to_be_bytes());
    let initial = |bytes: u32| frame(SETTINGS, 0, 0, &[&[0, 4], bytes.to_be_bytes().as_slice()].concat());
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
        ("an initial window beyond its bound", initial(0x8000_0000)),
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

/// Fields of which a few bytes stand for kilobytes (CVE-2026-49975): every one refers to a long one said once.
#[test]
fn fields_that_are_larger_than_they_look_are_refused() {
    let ground = ground("h2-indexed");
    good_frames(&ground);
    let before = ground.calls();
    let mut gauge = Gauge::new(&ground.gateway);
    let value = "a".repeat(3_900);
    let said_once = [&[0x40], integer(5).as_slice(), b"x-any", &integer(value.len()), value.as_bytes()].concat();
    let mut fields = block(&call(&ground));
    fields.extend(said_once);
    // The newest entry of the dynamic table, two thousand times: eight megabytes a stream.
    fields.extend([0xbe; 2_000]);
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
        ("settings", Vec::new(), frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0xff, 0xff])),
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

/// The answer to a ping.
fn pong(ping: &Frame) -> Vec<u8> {
    frame(PING, ACK, 0, &ping.payload)
}
