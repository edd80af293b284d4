//! Servers that break the rules of HTTP itself, frame by frame and byte by byte: no client library is asked to be careful
//! that a test could not see (RFC 9112, RFC 9113; I6, I8, I9).
//!
//! Each hostile server is a good one until a call names its trick. That call ends once, in time, and by its own answer or
//! none; the next call of the same server is answered, and so is one of another.

use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde_json::{Value, json};

use super::{Ground, SOON, abuse::Gauge, code};
use crate::harness::{
    certificates::Authority,
    frames::{
        ACK, CANCEL, CONTINUATION, DATA, END_HEADERS, END_STREAM, ENHANCE_YOUR_CALM, GOAWAY, HEADER_TABLE_SIZE,
        HEADERS, INITIAL_WINDOW_SIZE, INTERNAL_ERROR, MAX_CONCURRENT_STREAMS, MAX_FRAME_SIZE, MAX_HEADER_LIST_SIZE,
        NO_ERROR, PING, PRIORITY, PUSH_PROMISE, REFUSED_STREAM, RST_STREAM, SETTINGS, WINDOW_UPDATE, block, frame,
        settings, swollen, word_frame,
    },
    http::Answer,
    mcp::Client,
    place,
    raw::{JSON, Raw, Then, Turn, answer, whole},
    recorder::{Era, Recorder},
};

/// The tool that has this time and no more.
const HURRIED: &str = "add";
const TIMEOUT: Duration = Duration::from_secs(3);

/// By then a call has ended that nothing but its tool's time ends; what nothing but the usual time of a tool ends takes
/// longer.
const CUT_OFF: Duration = Duration::from_secs(28);

/// What stands in every text of a server that is for nobody.
const MARK: &str = "of the upstream";

/// What one server does with the call that asks for it, and how that may end: with the call's own answer (`ok`), or with
/// one of these codes.
struct Case {
    trick: &'static str,
    ends: &'static [&'static str],
    act: fn(&mut Turn<'_>) -> Then,
}

const fn case(trick: &'static str, ends: &'static [&'static str], act: fn(&mut Turn<'_>) -> Then) -> Case {
    Case { trick, ends, act }
}

const OK: &[&str] = &["ok"];
const UNMADE: &[&str] = &["upstream_unreachable"];
const LOST: &[&str] = &["upstream_lost"];
const LATE: &[&str] = &["upstream_timeout"];
const INVALID: &[&str] = &["upstream_invalid"];
/// Whether a flood is cut off or outlasts the call is a matter of speed.
const LATE_OR_LOST: &[&str] = &["upstream_timeout", "upstream_lost"];

fn goaway(last: u32, error: u32, said: &[u8]) -> Vec<u8> {
    frame(GOAWAY, 0, 0, &[&last.to_be_bytes(), error.to_be_bytes().as_slice(), said].concat())
}

/// The right answer in two.
fn halves(turn: &Turn<'_>) -> (String, String) {
    let text = turn.answer();
    let (first, second) = text.split_at(text.len() / 2);
    (first.to_owned(), second.to_owned())
}

/// A good answer over HTTP/2 with one more field in its head.
fn good_but(turn: &Turn<'_>, name: &str, value: &str) -> Vec<u8> {
    let fields = [JSON.as_slice(), &[(name, value)]].concat();
    [turn.head(0, &fields), turn.data(END_STREAM, turn.answer())].concat()
}

/// A good answer over HTTP/2, without its end.
fn open_answer(turn: &Turn<'_>) -> Vec<u8> {
    [turn.good_head(), turn.data(0, turn.answer())].concat()
}

/// Bytes of fields of a kilobyte each.
fn fields(count: usize) -> Vec<u8> {
    block(&vec![("x-any", "a".repeat(1_000)); count])
}

static STREAMS: [Case; 11] = [
    case("a refused stream", UNMADE, |turn| turn.say(word_frame(RST_STREAM, turn.stream, REFUSED_STREAM))),
    case("a stream reset for an error", LOST, |turn| turn.say(word_frame(RST_STREAM, turn.stream, INTERNAL_ERROR))),
    case("a cancelled stream", LOST, |turn| turn.say(word_frame(RST_STREAM, turn.stream, CANCEL))),
    case("a stream reset for nothing", LOST, |turn| turn.say(word_frame(RST_STREAM, turn.stream, NO_ERROR))),
    case("a stream reset for a reason that nobody knows", LOST, |turn| {
        turn.say(word_frame(RST_STREAM, turn.stream, 0xffff_ffff))
    }),
    // Whoever answered has begun with the call.
    case("a stream refused after its head", LOST, |turn| {
        turn.say([turn.good_head(), word_frame(RST_STREAM, turn.stream, REFUSED_STREAM)].concat())
    }),
    case("a stream reset after its head", LOST, |turn| {
        turn.say([turn.good_head(), word_frame(RST_STREAM, turn.stream, INTERNAL_ERROR)].concat())
    }),
    case("a stream cancelled amid its answer", LOST, |turn| {
        let half = turn.data(0, halves(turn).0);
        turn.say([turn.good_head(), half, word_frame(RST_STREAM, turn.stream, CANCEL)].concat())
    }),
    case("a reset of no stream", LOST, |turn| turn.say(word_frame(RST_STREAM, 0, CANCEL))),
    case("a reset of an idle stream", LOST, |turn| turn.say(word_frame(RST_STREAM, turn.stream + 1_000, CANCEL))),
    case("a connection that is cut amid a frame", LOST, |turn| {
        let data = turn.data(END_STREAM, turn.answer());
        turn.say([turn.good_head(), data[..data.len() / 2].to_vec()].concat());
        Then::Close
    }),
];

static ENDS: [Case; 6] = [
    case("a farewell instead of an answer", LOST, |turn| turn.say(goaway(0, NO_ERROR, MARK.as_bytes()))),
    case("a farewell for an error", LOST, |turn| {
        turn.say(goaway(turn.stream, ENHANCE_YOUR_CALM, MARK.repeat(1_000).as_bytes()));
        Then::Close
    }),
    case("a farewell amid an answer that goes on", OK, |turn| {
        let (first, second) = halves(turn);
        let (first, second) = (turn.data(0, first), turn.data(END_STREAM, second));
        turn.say([turn.good_head(), first, goaway(turn.stream, NO_ERROR, b""), second].concat())
    }),
    case("a farewell amid an answer that does not go on", LOST, |turn| {
        let first = turn.data(0, halves(turn).0);
        turn.say([turn.good_head(), first, goaway(0, INTERNAL_ERROR, b"")].concat());
        Then::Close
    }),
    case("a farewell and then silence", LATE_OR_LOST, |turn| {
        turn.say(goaway(turn.stream, NO_ERROR, b""));
        turn.wait()
    }),
    case("a farewell that takes the last one back", LOST, |turn| {
        turn.say([goaway(turn.stream, NO_ERROR, b""), goaway(u32::MAX >> 1, NO_ERROR, b"")].concat())
    }),
];

static MESSAGES: [Case; 22] = [
    case("data without a head", LOST, |turn| turn.say(turn.data(END_STREAM, turn.answer()))),
    case("data of no stream", LOST, |turn| turn.say(frame(DATA, END_STREAM, 0, turn.answer().as_bytes()))),
    case("data of an idle stream", LOST, |turn| {
        turn.say(frame(DATA, END_STREAM, turn.stream + 1_000, turn.answer().as_bytes()))
    }),
    case("an answer on an idle stream", LOST, |turn| {
        let stream = turn.stream + 2;
        let head = frame(HEADERS, END_HEADERS, stream, &block(&JSON));
        turn.say([head, frame(DATA, END_STREAM, stream, turn.answer().as_bytes())].concat())
    }),
    case("an answer on a stream of the server's", LOST, |turn| {
        let head = frame(HEADERS, END_HEADERS, 2, &block(&JSON));
        turn.say([head, frame(DATA, END_STREAM, 2, turn.answer().as_bytes())].concat())
    }),
    case("a promise", LOST, |turn| {
        let fields = block(&[(":method", "GET"), (":scheme", "https"), (":authority", "127.0.0.1"), (":path", "/")]);
        let promise = [2_u32.to_be_bytes().as_slice(), &fields].concat();
        turn.say([frame(PUSH_PROMISE, END_HEADERS, turn.stream, &promise), turn.good_frames()].concat())
    }),
    case("a length that is too short", LOST, |turn| turn.say(good_but(turn, "content-length", "1"))),
    case("a length that is too long", LOST, |turn| turn.say(good_but(turn, "content-length", "9999"))),
    case("a length that is no number", LOST, |turn| turn.say(good_but(turn, "content-length", "many"))),
    case("two lengths", LOST, |turn| {
        let length = turn.answer().len().to_string();
        let fields = [JSON.as_slice(), &[("content-length", &length), ("content-length", "1")]].concat();
        turn.say([turn.head(0, &fields), turn.data(END_STREAM, turn.answer())].concat())
    }),
    case("no status", LOST, |turn| turn.say([turn.head(0, &JSON[1..]), turn.data(END_STREAM, turn.answer())].concat())),
    case("a status that is none", LOST, |turn| turn.say(turn.head(END_STREAM, &[(":status", "2000")]))),
    case("two statuses", LOST, |turn| turn.say(good_but(turn, ":status", "200"))),
    case("a field of requests", LOST, |turn| turn.say(good_but(turn, ":path", "/"))),
    case("a line break in a field", LOST, |turn| turn.say(good_but(turn, "x-any", "a\r\nx: b"))),
    case("an index of no entry", LOST, |turn| {
        turn.say(frame(HEADERS, END_HEADERS | END_STREAM, turn.stream, &[0xff, 0xff, 0x01]))
    }),
    case("a hint that ends the stream", LOST, |turn| turn.say(turn.head(END_STREAM, &[(":status", "103")]))),
    case("hints before the answer", OK, |turn| {
        turn.say([turn.head(0, &[(":status", "103"), ("link", "</a>")]).repeat(20), turn.good_frames()].concat())
    }),
    case("fields beyond the bound", LOST, |turn| {
        let (first, second) = (fields(14), fields(10));
        let head = [block(&JSON), first].concat();
        let frames = [frame(HEADERS, 0, turn.stream, &head), frame(CONTINUATION, END_HEADERS, turn.stream, &second)];
        turn.say([frames.concat(), turn.data(END_STREAM, turn.answer())].concat())
    }),
    case("fields far beyond the bound", LOST, |turn| {
        let more = frame(CONTINUATION, 0, turn.stream, &fields(14)).repeat(20);
        let last = frame(CONTINUATION, END_HEADERS, turn.stream, &[]);
        turn.say([frame(HEADERS, 0, turn.stream, &block(&JSON)), more, last].concat())
    }),
    case("fields that are larger than they look", LOST, |turn| {
        let fields = [block(&JSON), swollen(3_900, 8_000)].concat();
        turn.say([frame(HEADERS, END_HEADERS, turn.stream, &fields), turn.data(END_STREAM, turn.answer())].concat())
    }),
    case("a frame amid fields", LOST, |turn| {
        let head = frame(HEADERS, 0, turn.stream, &block(&JSON));
        turn.say([head, frame(PING, 0, 0, &[0; 8]), frame(CONTINUATION, END_HEADERS, turn.stream, &[])].concat())
    }),
];

static BEHIND: [Case; 7] = [
    case("many fields behind the answer", OK, |turn| {
        let behind = frame(HEADERS, END_HEADERS | END_STREAM, turn.stream, &fields(12));
        turn.say([open_answer(turn), behind].concat())
    }),
    case("fields beyond the bound behind the answer", &["ok", "upstream_lost"], |turn| {
        let (first, second) = (fields(14), fields(10));
        let frames =
            [frame(HEADERS, END_STREAM, turn.stream, &first), frame(CONTINUATION, END_HEADERS, turn.stream, &second)];
        turn.say([open_answer(turn), frames.concat()].concat())
    }),
    case("fields behind the answer that are larger than they look", LOST, |turn| {
        let behind = frame(HEADERS, END_HEADERS | END_STREAM, turn.stream, &swollen(3_900, 8_000));
        turn.say([open_answer(turn), behind].concat())
    }),
    case("a second head", LOST, |turn| turn.say([open_answer(turn), turn.good_head()].concat())),
    // What is behind the answer is read by nobody.
    case("a status behind the answer", &["ok", "upstream_lost"], |turn| {
        turn.say([open_answer(turn), turn.head(END_STREAM, &[(":status", "200")])].concat())
    }),
    case("a second answer on the stream", &["ok", "upstream_lost"], |turn| {
        turn.say([turn.good_frames(), turn.good_frames()].concat())
    }),
    case("data behind the end", &["ok", "upstream_lost"], |turn| {
        turn.say([turn.good_frames(), turn.data(END_STREAM, MARK)].concat())
    }),
];

static RULES: [Case; 13] = [
    case("smaller windows and frames amid an answer", OK, |turn| {
        let (first, second) = halves(turn);
        let (first, second) = (turn.data(0, first), turn.data(END_STREAM, second));
        let smaller = settings(&[(INITIAL_WINDOW_SIZE, 1), (MAX_FRAME_SIZE, 16_384), (HEADER_TABLE_SIZE, 0)]);
        let larger = settings(&[(INITIAL_WINDOW_SIZE, 65_535), (MAX_HEADER_LIST_SIZE, 65_535)]);
        turn.say([turn.good_head(), first, smaller, second, larger].concat())
    }),
    case("frames smaller than there are", LOST, |turn| turn.say(settings(&[(MAX_FRAME_SIZE, 1)]))),
    case("frames larger than there are", LOST, |turn| turn.say(settings(&[(MAX_FRAME_SIZE, u32::MAX)]))),
    case("a window beyond its bound", LOST, |turn| turn.say(settings(&[(INITIAL_WINDOW_SIZE, 0x8000_0000)]))),
    case("settings of which nobody knows", OK, |turn| {
        turn.say([settings(&[(0x7777, 7), (0xffff, u32::MAX)]), turn.good_frames()].concat())
    }),
    case("settings that are cut", LOST, |turn| turn.say(frame(SETTINGS, 0, 0, &[0; 5]))),
    case("settings of a stream", LOST, |turn| turn.say(frame(SETTINGS, 0, turn.stream, &[]))),
    case("a window that grows by nothing", LOST, |turn| turn.say(word_frame(WINDOW_UPDATE, 0, 0))),
    case("a window that grows too far", LOST, |turn| turn.say(word_frame(WINDOW_UPDATE, 0, 0x7fff_ffff).repeat(2))),
    case("a ping that is cut", LOST, |turn| turn.say(frame(PING, 0, 0, &[0; 7]))),
    case("a frame that is too large", LOST, |turn| turn.say([turn.good_head(), turn.data(0, [b' '; 20_000])].concat())),
    case("a continuation of nothing", LOST, |turn| turn.say(frame(CONTINUATION, END_HEADERS, turn.stream, &fields(1)))),
    case("HTTP/1.1 amid HTTP/2", LOST, |turn| {
        let text = whole(&turn.answer());
        turn.say(text)
    }),
];

/// What is said without end while the call waits.
static FLOODS: [Case; 17] = [
    case("hints without end", LATE_OR_LOST, |turn| {
        turn.pour([], turn.head(0, &[(":status", "103"), ("link", &"a".repeat(200))]))
    }),
    case("small hints without end", LATE_OR_LOST, |turn| turn.pour([], turn.head(0, &[(":status", "103")]))),
    case("fields without end", LOST, |turn| {
        let head = frame(HEADERS, 0, turn.stream, &block(&JSON));
        turn.pour(head, frame(CONTINUATION, 0, turn.stream, &fields(15)))
    }),
    case("no fields without end", LOST, |turn| {
        let head = frame(HEADERS, 0, turn.stream, &block(&JSON));
        turn.pour(head, frame(CONTINUATION, 0, turn.stream, &[]))
    }),
    case("fields behind the answer without end", LOST, |turn| {
        let head = [open_answer(turn), frame(HEADERS, END_STREAM, turn.stream, &fields(1))].concat();
        turn.pour(head, frame(CONTINUATION, 0, turn.stream, &fields(15)))
    }),
    case("pings", LATE_OR_LOST, |turn| turn.pour([], frame(PING, 0, 0, &[7; 8]))),
    case("answers to no ping", LATE_OR_LOST, |turn| turn.pour([], frame(PING, ACK, 0, &[7; 8]))),
    case("settings", LATE_OR_LOST, |turn| turn.pour([], settings(&[(INITIAL_WINDOW_SIZE, 65_535)]))),
    case("acknowledgements", LATE_OR_LOST, |turn| turn.pour([], frame(SETTINGS, ACK, 0, &[]))),
    case("priorities", LATE_OR_LOST, |turn| turn.pour([], frame(PRIORITY, 0, turn.stream, &[0, 0, 0, 0, 1]))),
    case("frames of which nobody knows", LATE_OR_LOST, |turn| turn.pour([], frame(0x77, 0, 0, &[7; 100]))),
    case("room that nobody needs", LATE_OR_LOST, |turn| turn.pour([], word_frame(WINDOW_UPDATE, 0, 1))),
    case("no data without end", LATE_OR_LOST, |turn| turn.pour(turn.good_head(), turn.data(0, []))),
    case("blanks one in a frame", &["upstream_timeout", "upstream_lost", "upstream_too_large"], |turn| {
        turn.pour(turn.good_head(), turn.data(0, " "))
    }),
    // Eight bytes of padding around nothing.
    case("padding without end", LATE_OR_LOST, |turn| {
        turn.pour(turn.good_head(), frame(DATA, 0x8, turn.stream, &[8, 0, 0, 0, 0, 0, 0, 0, 0]))
    }),
    case("a byte at a time", LATE, |turn| turn.drip(turn.good_head(), turn.data(0, " "))),
    case("a hint at a time", LATE, |turn| turn.drip([], turn.head(0, &[(":status", "103")]))),
];

static TEXTS: [Case; 25] = [
    case("a hint before the answer", OK, |turn| {
        turn.say(format!("HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n{}", whole(&turn.answer())))
    }),
    case("another protocol from now on", &["upstream_invalid", "upstream_lost"], |turn| {
        turn.say("HTTP/1.1 101 Switching Protocols\r\nupgrade: any\r\nconnection: upgrade\r\n\r\n");
        turn.wait()
    }),
    case("a status without a reason", OK, |turn| turn.say(whole(&turn.answer()).replace("200 OK", "200"))),
    case("a status that is none", LOST, |turn| turn.say(whole(&turn.answer()).replace("200", "20"))),
    case("a version that is none", LOST, |turn| turn.say(whole(&turn.answer()).replace("HTTP/1.1", "HTTP/2.0"))),
    case("no HTTP", LOST, |turn| turn.say("SSH-2.0-OpenSSH_9.9\r\n")),
    case("more fields than there are", LOST, |turn| {
        turn.say(whole(&turn.answer()).replace("\r\n\r\n", &format!("\r\n{}\r\n", "x: y\r\n".repeat(200))))
    }),
    case("a field without a colon", LOST, |turn| turn.say(whole(&turn.answer()).replace("\r\n\r\n", "\r\nx\r\n\r\n"))),
    case("a field that goes on in the next line", LOST, |turn| {
        turn.say(whole(&turn.answer()).replace("\r\n\r\n", "\r\nx: y\r\n z\r\n\r\n"))
    }),
    case("a NUL in a field", LOST, |turn| turn.say(whole(&turn.answer()).replace("\r\n\r\n", "\r\nx: \0\r\n\r\n"))),
    case("two lengths", LOST, |turn| turn.say(chunked_or(turn, "content-length: 1\r\n"))),
    case("a length below nothing", LOST, |turn| turn.say(with_length("-1", turn))),
    case("a length beyond all numbers", LOST, |turn| turn.say(with_length("99999999999999999999999", turn))),
    case("a length with a sign", LOST, |turn| turn.say(with_length("+5", turn))),
    case("a length that is never reached", LATE, |turn| turn.say(with_length("9999", turn))),
    case("a length and then the end", LOST, |turn| {
        turn.say(with_length("9999", turn));
        Then::Close
    }),
    // RFC 9112 §6.3: the chunks count, or it is an error.
    case("a length and chunks", &["ok", "upstream_lost"], |turn| {
        let text = turn.answer();
        turn.say(
            chunks(&format!("{:x}\r\n{text}\r\n0\r\n\r\n", text.len()))
                .replace("\r\n\r\n", "\r\ncontent-length: 5\r\n\r\n"),
        )
    }),
    case("a coding that nobody knows", &["upstream_lost", "upstream_invalid", "upstream_timeout"], |turn| {
        let text = turn.answer();
        turn.say(chunks(&format!("{:x}\r\n{text}\r\n0\r\n\r\n", text.len())).replace("chunked", "chunked, any"));
        Then::Close
    }),
    case("a chunk beyond all numbers", LOST, |turn| turn.say(chunks("fffffffffffffffff\r\n{}"))),
    case("a chunk of nearly everything", &["upstream_lost", "upstream_timeout"], |turn| {
        turn.say(chunks("fffffffffffffff0\r\n{}"))
    }),
    case("a chunk below nothing", LOST, |turn| turn.say(chunks("-1\r\n{}"))),
    case("a chunk of no size", LOST, |turn| turn.say(chunks("\r\n{}"))),
    case("a chunk that is longer than it says", LOST, |turn| turn.say(chunks("2\r\n{} and more\r\n0\r\n\r\n"))),
    case("a chunk and then silence", LATE, |turn| turn.say(chunks("2\r\n{}"))),
    case("a chunk and then the end", LOST, |turn| {
        turn.say(chunks("2\r\n{}"));
        Then::Close
    }),
];

/// The good answer under another length.
fn with_length(length: &str, turn: &Turn<'_>) -> String {
    let text = turn.answer();
    whole(&text).replace(&format!("content-length: {}", text.len()), &format!("content-length: {length}"))
}

/// The good answer under one more field.
fn chunked_or(turn: &Turn<'_>, field: &str) -> String {
    whole(&turn.answer()).replace("\r\n\r\n", &format!("\r\n{field}\r\n"))
}

/// The head of an answer in chunks, and these.
fn chunks(text: &str) -> String {
    format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n{text}")
}

static TEXT_FLOODS: [Case; 12] = [
    case("continue, without end", LATE_OR_LOST, |turn| turn.pour([], "HTTP/1.1 100 Continue\r\n\r\n")),
    case("hints without end", LATE_OR_LOST, |turn| {
        turn.pour([], format!("HTTP/1.1 103 Early Hints\r\nlink: <{}>\r\n\r\n", "a".repeat(200)))
    }),
    case("a hint at a time", LATE, |turn| turn.drip([], "HTTP/1.1 103 Early Hints\r\n\r\n")),
    case("a hint without end", LOST, |turn| turn.pour("HTTP/1.1 103 Early Hints\r\n", "link: </a>\r\n")),
    case("a status line without end", LOST, |turn| turn.pour("HTTP/1.1 200 ", "O")),
    case("empty lines without end", LATE_OR_LOST, |turn| turn.pour([], "\r\n")),
    case("fields without end", LOST, |turn| turn.pour("HTTP/1.1 200 OK\r\n", "x: y\r\n")),
    case("a field without end", LOST, |turn| turn.pour("HTTP/1.1 200 OK\r\nx: ", "y")),
    case("a head at a time", LATE, |turn| turn.drip("HTTP/1.1 200 OK\r\n", "x")),
    case("the size of a chunk without end", LATE_OR_LOST, |turn| turn.pour(chunks(""), "0")),
    case("a word on a chunk without end", LOST, |turn| turn.pour(chunks("2;"), "a")),
    case("fields behind the answer without end", LOST, |turn| {
        let text = turn.answer();
        turn.pour(chunks(&format!("{:x}\r\n{text}\r\n0\r\n", text.len())), "x: y\r\n")
    }),
];

/// How a server of these tests speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Spoken {
    Http2,
    Http1,
    Http1OverTls,
}

impl Spoken {
    fn serve(self, authority: &Authority, script: impl Fn(&mut Turn<'_>) -> Then + Send + Sync + 'static) -> Raw {
        let leaf = || authority.leaf("server", &["127.0.0.1"]);
        match self {
            Self::Http2 => Raw::http2(Authority::server_of(&leaf(), &["h2"]), script),
            Self::Http1 => Raw::http1(None, script),
            Self::Http1OverTls => Raw::http1(Some(Authority::server_of(&leaf(), &["http/1.1"])), script),
        }
    }
}

/// A gateway before these servers, called `wire-0` and so on, and before a good one called `up`.
fn before(name: &str, authority: &Authority, servers: &[&Raw]) -> Ground {
    Ground::before(name, Recorder::good(Era::Modern), |setup, _, up| {
        let ca = format!("ca = \"{}\"\n", authority.file().display());
        servers.iter().enumerate().fold(setup.open_upstream("up", &up.url()), |setup, (number, server)| {
            let ca = if server.url().starts_with("https") { &ca } else { "" };
            let hurried = format!(
                "[[upstreams.wire-{number}.tools]]\nmatch = \"{HURRIED}\"\ntimeout_ms = {}",
                TIMEOUT.as_millis()
            );
            setup.upstream(
                &format!("wire-{number}"),
                &server.url(),
                &format!("grant = {{ strategy = \"none\" }}\n{ca}{hurried}"),
            )
        })
    })
}

fn client(ground: &Ground, upstream: &str, user: &str) -> Client {
    ground.gateway.client_of(Some(upstream), &ground.issuer, user)
}

/// How a call of `tool` with these arguments ended: `ok` is its own answer.
#[track_caller]
fn ended(answer: &Answer, tool: &str, arguments: &Value) -> String {
    assert!(!answer.text().contains(MARK), "{arguments}: {}", answer.text());
    let code = code(answer);
    if !code.is_empty() {
        return code;
    }
    let text = &answer.json()["result"]["content"][0]["text"];
    assert_eq!(*text, format!("{tool} {arguments}"), "not its own answer: {}", answer.text());
    "ok".to_owned()
}

/// A call that nobody disturbs is answered.
#[track_caller]
fn good(client: &Client, what: &str) {
    let arguments = json!({ "message": what });
    let answer = client.call("echo", &arguments);
    assert_eq!(ended(&answer, "echo", &arguments), "ok", "{what}: {}", answer.text());
}

/// The journal says that the one call of this user was made, and how it ended.
#[track_caller]
fn recorded(ground: &Ground, user: &str, end: &str) {
    let outcome = place::wait_for(&format!("intent and outcome of {user}"), SOON, || {
        let journal = ground.gateway.journal();
        let is_intent = |record: &&Value| record["event"] == "intent" && record["user"]["subject"] == user;
        let intent = journal.iter().find(is_intent)?;
        journal.iter().find(|record| record["event"] == "outcome" && record["id"] == intent["id"]).cloned()
    });
    let said = &outcome["result"];
    assert!(if end == "ok" { said["ending"] == "ok" } else { said["code"] == end }, "{user}: {end}, not {outcome}");
}

/// Each of `cases` before one gateway, all at once.
#[track_caller]
fn withstood(name: &str, cases: Vec<(Spoken, &'static Case)>) {
    let authority = Authority::new(&place::scratch(name));
    let servers: Vec<Raw> = cases.iter().map(|(spoken, case)| spoken.serve(&authority, case.act)).collect();
    let ground = before(name, &authority, &servers.iter().collect::<Vec<_>>());
    // What is written by hand here is understood.
    for number in 0..servers.len() {
        let upstream = format!("wire-{number}");
        good(&client(&ground, &upstream, "settler").awaiting("echo"), "before all");
    }
    let mut gauge = Gauge::new(&ground.gateway);
    std::thread::scope(|scope| {
        let trying = cases.iter().zip(&servers).enumerate().map(|(number, ((_, case), server))| {
            let ground = &ground;
            scope.spawn(move || tried(ground, (&format!("wire-{number}"), server), case))
        });
        let trying: Vec<_> = trying.collect();
        while trying.iter().any(|trying| !trying.is_finished()) {
            gauge.read(name);
            std::thread::sleep(Duration::from_millis(20));
        }
    });
    gauge.read(name);
    ground.good_call();
    eprintln!("{name}: {}", gauge.said());
}

fn tried(ground: &Ground, (upstream, server): (&str, &Raw), case: &Case) {
    let what = format!("{upstream}, {}", case.trick);
    let (arguments, began) = (json!({ "mode": case.trick }), Instant::now());
    let answer = client(ground, upstream, upstream).call(HURRIED, &arguments);
    let (end, took) = (ended(&answer, HURRIED, &arguments), began.elapsed());
    eprintln!("{what}: {end} after {took:?}");
    assert!(case.ends.contains(&end.as_str()), "{what}: {end}: {}", answer.text());
    assert!(took < CUT_OFF, "{what}: {took:?}");
    // Whether it acted is not known, so it is asked once.
    let asked = server.calls().iter().filter(|call| call.message["params"]["arguments"] == arguments).count();
    assert_eq!(asked, 1, "{what}");
    let (next, arguments) = (client(ground, upstream, "good"), json!({ "message": "next" }));
    let after = ended(&next.call("echo", &arguments), "echo", &arguments);
    // Where the flood has outlasted its call, it may break its connection under the next one.
    let outlasted = end == "upstream_timeout" && case.ends.contains(&"upstream_lost");
    assert!(after == "ok" || (outlasted && after == "upstream_lost"), "{what}: then {after}");
    good(&next, &what);
    good(&client(ground, "up", "good"), &what);
    recorded(ground, upstream, &end);
}

fn all(spoken: Spoken, tables: &[&'static [Case]]) -> Vec<(Spoken, &'static Case)> {
    tables.iter().flat_map(|table| table.iter()).map(|case| (spoken, case)).collect()
}

#[test]
fn http_2_that_breaks_the_rules_ends_its_own_call() {
    withstood("wire-h2", all(Spoken::Http2, &[&STREAMS, &ENDS, &MESSAGES, &BEHIND, &RULES]));
}

#[test]
fn http_2_without_end_ends_its_own_call() {
    withstood("wire-h2-floods", all(Spoken::Http2, &[&FLOODS]));
}

#[test]
fn http_1_1_that_breaks_the_rules_ends_its_own_call() {
    withstood("wire-h1", all(Spoken::Http1, &[&TEXTS]));
}

#[test]
fn http_1_1_without_end_ends_its_own_call() {
    let mut cases = all(Spoken::Http1, &[&TEXT_FLOODS]);
    cases.extend(all(Spoken::Http1OverTls, &[&TEXT_FLOODS[..4]]));
    withstood("wire-h1-floods", cases);
}

/// An answer to the request after this one, which nobody has made yet.
fn stolen(turn: &Turn<'_>) -> String {
    let result = json!({ "resultType": "complete", "content": [{ "type": "text", "text": MARK }] });
    json!({ "jsonrpc": "2.0", "id": turn.message["id"].as_u64().unwrap() + 1, "result": result }).to_string()
}

/// Two answers to one request: the second is the answer to the next one, if anybody takes it (RFC 9112 §11.1).
#[test]
fn a_second_answer_is_nobodys() {
    static TRICKS: [Case; 4] = [
        case("with the first", OK, |turn| {
            let both = whole(&turn.answer()) + &whole(&stolen(turn));
            turn.say(both)
        }),
        case("after the first", OK, |turn| {
            let (first, second) = (whole(&turn.answer()), whole(&stolen(turn)));
            turn.say(first);
            std::thread::sleep(Duration::from_millis(300));
            turn.say(second);
            turn.wait()
        }),
        case("behind the last chunk", OK, |turn| {
            let (first, second) = (turn.answer(), whole(&stolen(turn)));
            turn.say(chunks(&format!("{:x}\r\n{first}\r\n0\r\n\r\n{second}", first.len())))
        }),
        case("not an answer at all", OK, |turn| {
            let first = whole(&turn.answer());
            turn.say(first + MARK)
        }),
    ];
    let (authority, protocols) =
        (Authority::new(&place::scratch("wire-second")), [Spoken::Http1, Spoken::Http1OverTls]);
    let tricks = || protocols.into_iter().flat_map(|spoken| TRICKS.iter().map(move |trick| (spoken, trick)));
    let servers: Vec<Raw> = tricks().map(|(spoken, case)| spoken.serve(&authority, case.act)).collect();
    let ground = before("wire-second", &authority, &servers.iter().collect::<Vec<_>>());
    for (number, ((spoken, Case { trick, .. }), server)) in tricks().zip(&servers).enumerate() {
        let client = client(&ground, &format!("wire-{number}"), "alice").awaiting("echo");
        let what = format!("{spoken:?}, {trick}");
        good(&client, "before");
        let arguments = json!({ "mode": trick });
        let answer = client.call("echo", &arguments);
        assert_eq!(ended(&answer, "echo", &arguments), "ok", "{what}: {}", answer.text());
        let first = server.calls().pop().unwrap();
        place::wait_for("the end of the connection", SOON, || (server.open() < server.connections()).then_some(()));
        good(&client, &what);
        let next = server.calls().pop().unwrap();
        // It would have been taken for the answer.
        assert_eq!(next.message["id"], first.message["id"].as_u64().unwrap() + 1, "{what}");
        assert_ne!(next.connection, first.connection, "{what}");
    }
    ground.good_call();
}

/// An answer that was there before the request: to one that was answered already.
#[test]
fn an_answer_before_its_request_is_nobodys() {
    let script = |turn: &mut Turn<'_>| {
        let last = json!({ "jsonrpc": "2.0", "id": turn.message["id"], "result": {
            "resultType": "complete", "content": [{ "type": "text", "text": MARK }],
        } });
        turn.greet_the_next_with(whole(&last.to_string()));
        let text = whole(&turn.answer()).replace("\r\n\r\n", "\r\nconnection: close\r\n\r\n");
        turn.say(text);
        Then::Close
    };
    let authority = Authority::new(&place::scratch("wire-early"));
    let servers: Vec<Raw> = [Spoken::Http1, Spoken::Http1OverTls].map(|spoken| spoken.serve(&authority, script)).into();
    let ground = before("wire-early", &authority, &servers.iter().collect::<Vec<_>>());
    for number in 0..servers.len() {
        let client = client(&ground, &format!("wire-{number}"), "alice").awaiting("echo");
        for round in 0..5 {
            let arguments = json!({ "mode": "early", "round": round });
            let answer = client.call("echo", &arguments);
            assert_eq!(ended(&answer, "echo", &arguments), "ok", "{}", answer.text());
            let arguments = json!({ "message": "greeted" });
            let end = ended(&client.call("echo", &arguments), "echo", &arguments);
            assert!(["upstream_unreachable", "upstream_lost", "upstream_invalid"].contains(&end.as_str()), "{end}");
            good(&client, "after it");
        }
    }
    ground.good_call();
}

/// Whoever gave an answer to another request may have the right one still to give, and everybody's after it.
#[test]
fn a_connection_that_brought_no_answer_of_its_own_is_not_used_again() {
    let script = |turn: &mut Turn<'_>| {
        let wrong = json!({ "jsonrpc": "2.0", "id": 424_242, "result": {
            "resultType": "complete", "content": [{ "type": "text", "text": MARK }],
        } });
        turn.say(whole(&wrong.to_string()));
        std::thread::sleep(Duration::from_millis(300));
        let right = whole(&turn.answer());
        turn.say(right);
        turn.wait()
    };
    let authority = Authority::new(&place::scratch("wire-wrong"));
    let server = Spoken::Http1.serve(&authority, script);
    let ground = before("wire-wrong", &authority, &[&server]);
    let client = client(&ground, "wire-0", "alice").awaiting("echo");
    good(&client, "before");
    let arguments = json!({ "mode": "wrong" });
    let before = server.calls().pop().unwrap();
    assert_eq!(ended(&client.call("echo", &arguments), "echo", &arguments), "upstream_invalid");
    good(&client, "after it");
    let [.., wrong, next] = &server.calls()[..] else { panic!("too few calls") };
    assert_eq!(wrong.connection, before.connection);
    assert_ne!(next.connection, wrong.connection);
    ground.good_call();
}

/// Two calls on one connection, each of which gets the other's answer, or its own.
#[test]
fn answers_on_each_others_streams_are_nobodys() {
    let first: Mutex<Option<(u32, Value)>> = Mutex::new(None);
    let script = move |turn: &mut Turn<'_>| {
        let Some((stream, message)) = first.lock().take() else {
            *first.lock() = Some((turn.stream, turn.message.clone()));
            return Then::GoOn;
        };
        let frames = |stream: u32, message: &Value| {
            let head = frame(HEADERS, END_HEADERS, stream, &block(&JSON));
            [head, frame(DATA, END_STREAM, stream, answer(message).as_bytes())].concat()
        };
        let crossed = turn.mode() == "crossed";
        let (to_first, to_second) = if crossed { (&turn.message, &message) } else { (&message, &turn.message) };
        turn.say([frames(stream, to_first), frames(turn.stream, to_second)].concat())
    };
    let authority = Authority::new(&place::scratch("wire-crossed"));
    let server = Spoken::Http2.serve(&authority, script);
    let ground = before("wire-crossed", &authority, &[&server]);
    good(&client(&ground, "wire-0", "settler").awaiting("echo"), "before");
    for (mode, ends) in [("straight", OK), ("crossed", INVALID)] {
        std::thread::scope(|scope| {
            for user in ["alice", "bob"] {
                let (client, arguments) = (client(&ground, "wire-0", user), json!({ "mode": mode, "of": user }));
                scope.spawn(move || {
                    let end = ended(&client.call("echo", &arguments), "echo", &arguments);
                    assert!(ends.contains(&end.as_str()), "{mode}: {end}");
                });
            }
        });
    }
    good(&client(&ground, "wire-0", "settler"), "after it");
    assert_eq!(server.connections(), 1, "both on one");
}

/// One connection carries all calls to a server: where nothing passes on it any more, though it is open and every ping is
/// answered, one call finds that out and the next ones go another way. What waited there is not kept.
#[test]
fn a_connection_that_takes_no_calls_any_more_is_left() {
    static TRICKS: [Case; 3] = [
        case("no stream", OK, |turn| turn.say([turn.good_frames(), settings(&[(MAX_CONCURRENT_STREAMS, 0)])].concat())),
        case("no room", OK, |turn| turn.say([turn.good_frames(), settings(&[(INITIAL_WINDOW_SIZE, 0)])].concat())),
        case("no answers", OK, |turn| {
            let frames = turn.good_frames();
            turn.say(frames);
            while let Ok(Some(frame)) = turn.wire.next(Instant::now() + SOON) {
                if frame.kind == PING && !frame.has(ACK) {
                    turn.say(frame.pong());
                }
            }
            Then::Close
        }),
    ];
    let authority = Authority::new(&place::scratch("wire-spent"));
    let servers: Vec<Raw> = TRICKS.iter().map(|case| Spoken::Http2.serve(&authority, case.act)).collect();
    let ground = before("wire-spent", &authority, &servers.iter().collect::<Vec<_>>());
    std::thread::scope(|scope| {
        for (number, Case { trick, .. }) in TRICKS.iter().enumerate() {
            let ground = &ground;
            scope.spawn(move || left(ground, &format!("wire-{number}"), trick));
        }
    });
    // Nothing that still waited there keeps it open.
    for server in &servers {
        place::wait_for("the end of what was left", SOON, || (server.open() <= 1).then_some(()));
    }
    ground.good_call();
}

/// Calls that wait at once, and how large each is: more than fits into one frame.
const WAITING: usize = 12;
const WAITING_BYTES: usize = 60_000;

fn left(ground: &Ground, upstream: &str, trick: &str) {
    let client = client(ground, upstream, "alice").awaiting("echo");
    for round in 0..2 {
        let what = format!("{trick}, {round}");
        good(&client, &what);
        let arguments = json!({ "mode": trick });
        assert_eq!(ended(&client.call("echo", &arguments), "echo", &arguments), "ok", "{what}");
        let large = json!({ "message": "x".repeat(WAITING_BYTES) });
        let ends: Vec<String> = std::thread::scope(|scope| {
            let waiting: Vec<_> = (0..WAITING).map(|_| scope.spawn(|| code(&client.call(HURRIED, &large)))).collect();
            waiting.into_iter().map(|waiting| waiting.join().unwrap()).collect()
        });
        // It was so: one waited in vain.
        assert!(ends.iter().any(|end| end == "upstream_timeout"), "{what}: {ends:?}");
        good(&client, &what);
    }
}
