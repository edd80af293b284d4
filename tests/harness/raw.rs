//! What if a server breaks the rules of HTTP itself?
//!
//! A well-behaved modern MCP server whose every byte is written by hand, over HTTP/2 or HTTP/1.1, until a call names a
//! `mode` in its arguments: then a test's script has the connection. It judges nothing but that no credential comes to it.

use std::{
    collections::HashMap,
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::{Value, json};

use super::{
    frames::{
        ACK, DATA, END_HEADERS, END_STREAM, FRAME, HEADERS, PING, PREFACE, RST_STREAM, SETTINGS, WINDOW_UPDATE, Wire,
        block, frame, is_late, settings, word_frame,
    },
    leaks, place,
    recorder::result_of,
};

/// A running server.
pub(crate) struct Raw {
    address: SocketAddr,
    scheme: &'static str,
    shared: Arc<Shared>,
}

type Script = dyn Fn(&mut Turn<'_>) -> Then + Send + Sync;

struct Shared {
    over: AtomicBool,
    connections: AtomicUsize,
    /// Those that the other end has ended.
    left: AtomicUsize,
    calls: Mutex<Vec<Call>>,
    taken: Mutex<Vec<u8>>,
    greeting: Mutex<Vec<u8>>,
    script: Box<Script>,
}

/// A `tools/call` that has come whole.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    /// The number of its connection.
    pub(crate) connection: usize,
    pub(crate) message: Value,
}

/// What becomes of a connection after a script's turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Then {
    /// It goes on as if nothing had been.
    GoOn,
    /// It is closed.
    Close,
}

/// A call with a mode, and the way back.
pub(crate) struct Turn<'a> {
    pub(crate) wire: &'a mut Wire,
    /// The number of the connection.
    pub(crate) connection: usize,
    /// Over HTTP/2, the stream that it came on.
    pub(crate) stream: u32,
    pub(crate) message: Value,
    shared: &'a Shared,
}

impl Turn<'_> {
    /// What the call asks for.
    pub(crate) fn mode(&self) -> &str {
        self.message["params"]["arguments"]["mode"].as_str().unwrap_or_default()
    }

    /// The right answer.
    pub(crate) fn answer(&self) -> String {
        answer(&self.message)
    }

    /// A `HEADERS` frame on the call's stream.
    pub(crate) fn head(&self, flags: u8, fields: &[(&str, &str)]) -> Vec<u8> {
        frame(HEADERS, END_HEADERS | flags, self.stream, &block(fields))
    }

    /// The head of a good answer over HTTP/2.
    pub(crate) fn good_head(&self) -> Vec<u8> {
        self.head(0, &JSON)
    }

    /// A `DATA` frame on the call's stream.
    pub(crate) fn data(&self, flags: u8, bytes: impl AsRef<[u8]>) -> Vec<u8> {
        frame(DATA, flags, self.stream, bytes.as_ref())
    }

    /// A whole good answer over HTTP/2.
    pub(crate) fn good_frames(&self) -> Vec<u8> {
        [self.good_head(), self.data(END_STREAM, self.answer())].concat()
    }

    /// Says this, and goes on while it is taken.
    pub(crate) fn say(&mut self, bytes: impl AsRef<[u8]>) -> Then {
        if self.wire.send(bytes.as_ref()) { Then::GoOn } else { Then::Close }
    }

    /// Says this first, and then this again and again, as long as it is taken, and not for ever.
    pub(crate) fn pour(&mut self, first: impl AsRef<[u8]>, bytes: impl AsRef<[u8]>) -> Then {
        let bytes = bytes.as_ref();
        let (piece, began) = (bytes.repeat((32 << 10) / bytes.len() + 1), Instant::now());
        let mut goes_on = self.wire.send(first.as_ref());
        while goes_on && began.elapsed() < POURING_MAX && !self.is_over() {
            goes_on = self.wire.send(&piece);
        }
        // What is cut in the middle cannot be gone on with.
        if goes_on { Then::GoOn } else { Then::Close }
    }

    /// Says this first, and then this a little at a time, as long as it is taken, and not for ever.
    pub(crate) fn drip(&mut self, first: impl AsRef<[u8]>, bytes: impl AsRef<[u8]>) -> Then {
        let began = Instant::now();
        let mut goes_on = self.wire.send(first.as_ref());
        while goes_on && began.elapsed() < POURING_MAX && !self.is_over() {
            std::thread::sleep(Duration::from_millis(20));
            goes_on = self.wire.send(bytes.as_ref());
        }
        if goes_on { Then::GoOn } else { Then::Close }
    }

    /// Says nothing more until the other end has gone.
    pub(crate) fn wait(&mut self) -> Then {
        while self.shared.more(self.wire) {
            self.wire.buffer.clear();
        }
        Then::Close
    }

    /// The next connection hears this before it has said anything.
    pub(crate) fn greet_the_next_with(&self, bytes: impl Into<Vec<u8>>) {
        *self.shared.greeting.lock() = bytes.into();
    }

    fn is_over(&self) -> bool {
        self.shared.over.load(Ordering::Acquire)
    }
}

/// For so long a script pours: longer than the time of the call that it is for.
const POURING_MAX: Duration = Duration::from_secs(5);

/// The fields of a good answer over HTTP/2.
pub(crate) const JSON: [(&str, &str); 2] = [(":status", "200"), ("content-type", "application/json")];

/// The right answer to a request, in one frame at most.
pub(crate) fn answer(message: &Value) -> String {
    let id = &message["id"];
    let error = |code: i32, why: &str| json!({ "jsonrpc": "2.0", "id": id, "error": { "code": code, "message": why } });
    let answer = match result_of(message) {
        Some(result) => json!({ "jsonrpc": "2.0", "id": id, "result": result }),
        None => error(-32601, "method not found"),
    };
    let text = answer.to_string();
    if text.len() <= FRAME { text } else { error(-32000, "too long for one frame").to_string() }
}

/// A whole answer over HTTP/1.1.
pub(crate) fn whole(text: &str) -> String {
    format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{text}", text.len())
}

impl Raw {
    /// HTTP/2 over TLS.
    pub(crate) fn http2(
        tls: Arc<ServerConfig>,
        script: impl Fn(&mut Turn<'_>) -> Then + Send + Sync + 'static,
    ) -> Self {
        Self::start(Some(tls), script, frames)
    }

    /// HTTP/1.1, over TLS where there is a certificate.
    pub(crate) fn http1(
        tls: Option<Arc<ServerConfig>>,
        script: impl Fn(&mut Turn<'_>) -> Then + Send + Sync + 'static,
    ) -> Self {
        Self::start(tls, script, texts)
    }

    fn start(
        tls: Option<Arc<ServerConfig>>,
        script: impl Fn(&mut Turn<'_>) -> Then + Send + Sync + 'static,
        speak: fn(&mut Wire, usize, &Shared),
    ) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", place::free_port())).unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            over: AtomicBool::new(false),
            connections: AtomicUsize::new(0),
            left: AtomicUsize::new(0),
            calls: Mutex::default(),
            taken: Mutex::default(),
            greeting: Mutex::default(),
            script: Box::new(script),
        });
        let (scheme, serving) = (if tls.is_some() { "https" } else { "http" }, Arc::clone(&shared));
        std::thread::spawn(move || {
            for socket in listener.incoming().map_while(Result::ok) {
                if serving.over.load(Ordering::Acquire) {
                    return;
                }
                let (shared, tls) = (Arc::clone(&serving), tls.clone());
                std::thread::spawn(move || shared.serve(socket, tls, speak));
            }
        });
        Self { address, scheme, shared }
    }

    /// The MCP endpoint.
    pub(crate) fn url(&self) -> String {
        format!("{}://{}/mcp", self.scheme, self.address)
    }

    /// Every `tools/call` so far.
    pub(crate) fn calls(&self) -> Vec<Call> {
        self.shared.calls.lock().clone()
    }

    /// How many connections there were.
    pub(crate) fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::Acquire)
    }

    /// How many of them there are.
    pub(crate) fn open(&self) -> usize {
        self.connections() - self.shared.left.load(Ordering::Acquire)
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::Release);
        // Nobody but who is let in sees that it is over.
        drop(TcpStream::connect(self.address));
        if !std::thread::panicking() {
            let leaked = leaks::found_in(&self.shared.taken.lock());
            assert_eq!(leaked, None, "a part of a caller's credential came to {}", self.url());
        }
    }
}

fn accepted(socket: TcpStream, tls: Option<Arc<ServerConfig>>) -> Option<Wire> {
    Wire::patient(&socket);
    let Some(config) = tls else { return Some(Wire::new(socket)) };
    let mut tls = StreamOwned::new(ServerConnection::new(config).unwrap(), socket);
    let until = Instant::now() + place::PATIENCE;
    while tls.conn.is_handshaking() {
        match tls.conn.complete_io(&mut tls.sock) {
            Ok(_) => {}
            Err(error) if is_late(&error) && Instant::now() < until => {}
            Err(_) => return None,
        }
    }
    Some(Wire::new(tls))
}

impl Shared {
    fn serve(&self, socket: TcpStream, tls: Option<Arc<ServerConfig>>, speak: fn(&mut Wire, usize, &Self)) {
        let number = self.connections.fetch_add(1, Ordering::AcqRel);
        if let Some(mut wire) = accepted(socket, tls) {
            speak(&mut wire, number, self);
        }
        self.left.fetch_add(1, Ordering::AcqRel);
    }

    /// Takes what comes; false where nothing will.
    fn more(&self, wire: &mut Wire) -> bool {
        loop {
            match wire.fill(Instant::now()) {
                Ok(more) => return more,
                Err(()) if self.over.load(Ordering::Acquire) => return false,
                Err(()) => {}
            }
        }
    }

    /// A script's turn, where the request is one that asks for it.
    fn turn(&self, wire: &mut Wire, (connection, stream): (usize, u32), message: &Value) -> Option<Then> {
        if message["method"] == "tools/call" {
            self.calls.lock().push(Call { connection, message: message.clone() });
        }
        message["params"]["arguments"]["mode"].as_str()?;
        let mut turn = Turn { wire, connection, stream, message: message.clone(), shared: self };
        Some((self.script)(&mut turn))
    }

    fn greet(&self, wire: &mut Wire) -> bool {
        let greeting = std::mem::take(&mut *self.greeting.lock());
        wire.send(&greeting)
    }
}

/// HTTP/2.
fn frames(wire: &mut Wire, number: usize, shared: &Shared) {
    while wire.buffer.len() < PREFACE.len() {
        if !shared.more(wire) {
            return;
        }
    }
    assert_eq!(wire.buffer.drain(..PREFACE.len()).collect::<Vec<u8>>(), PREFACE);
    let mut bodies: HashMap<u32, Vec<u8>> = HashMap::new();
    let mut goes_on = wire.send(&settings(&[])) && shared.greet(wire);
    while goes_on {
        let frame = match wire.next(Instant::now()) {
            Ok(Some(frame)) => frame,
            Ok(None) => return,
            Err(()) if shared.over.load(Ordering::Acquire) => return,
            Err(()) => continue,
        };
        goes_on = match frame.kind {
            SETTINGS if !frame.has(ACK) => wire.send(&self::frame(SETTINGS, ACK, 0, &[])),
            PING if !frame.has(ACK) => wire.send(&frame.pong()),
            HEADERS if frame.has(END_STREAM) => {
                wire.send(&self::frame(HEADERS, END_HEADERS | END_STREAM, frame.stream, &block(&[(":status", "405")])))
            }
            RST_STREAM => {
                bodies.remove(&frame.stream);
                true
            }
            DATA => {
                let body = bodies.entry(frame.stream).or_default();
                body.extend(&frame.payload);
                shared.taken.lock().extend(&frame.payload);
                let whole = frame.has(END_STREAM).then(|| std::mem::take(body));
                let taken = u32::try_from(frame.payload.len()).unwrap();
                let streams = if whole.is_some() { &[0][..] } else { &[0, frame.stream] };
                let room = |stream: &u32| word_frame(WINDOW_UPDATE, *stream, taken);
                (taken == 0 || wire.send(&streams.iter().flat_map(room).collect::<Vec<u8>>()))
                    && whole.is_none_or(|whole| {
                        let message = serde_json::from_slice(&whole).unwrap();
                        answered(wire, (number, frame.stream), &message, shared)
                    })
            }
            _ => true,
        };
    }
}

/// Whether the connection goes on.
fn answered(wire: &mut Wire, (number, stream): (usize, u32), message: &Value, shared: &Shared) -> bool {
    if let Some(then) = shared.turn(wire, (number, stream), message) {
        return then == Then::GoOn;
    }
    let head = frame(HEADERS, END_HEADERS, stream, &block(&JSON));
    wire.send(&[head, frame(DATA, END_STREAM, stream, answer(message).as_bytes())].concat())
}

/// HTTP/1.1.
fn texts(wire: &mut Wire, number: usize, shared: &Shared) {
    let mut goes_on = shared.greet(wire);
    while goes_on {
        let Some(message) = request(wire, shared) else { return };
        goes_on = match shared.turn(wire, (number, 0), &message) {
            Some(then) => then == Then::GoOn,
            None if message.is_null() => wire.send(b"HTTP/1.1 405 Method Not Allowed\r\ncontent-length: 0\r\n\r\n"),
            None => wire.send(whole(&answer(&message)).as_bytes()),
        };
    }
}

/// The next request's message, null where it has none.
fn request(wire: &mut Wire, shared: &Shared) -> Option<Value> {
    let end = loop {
        if let Some(at) = wire.buffer.windows(4).position(|window| window == b"\r\n\r\n") {
            break at + 4;
        }
        if !shared.more(wire) {
            return None;
        }
    };
    let head = String::from_utf8_lossy(&wire.buffer[..end]).to_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok()).unwrap_or(0);
    while wire.buffer.len() < end + length {
        if !shared.more(wire) {
            return None;
        }
    }
    let request: Vec<u8> = wire.buffer.drain(..end + length).collect();
    shared.taken.lock().extend(&request);
    Some(serde_json::from_slice(&request[end..]).unwrap_or_default())
}
