//! How does HTTP look when it is written by hand?
//!
//! Frames, and fields in their plainest form (RFC 9113, RFC 7541), and a wire of TCP or TLS on which nothing is said but
//! what a test says. It keeps no rule of HTTP.

use std::{
    io::{ErrorKind, Read, Write},
    net::TcpStream,
    time::{Duration, Instant},
};

/// Kinds of frames (RFC 9113 §6).
pub(crate) const DATA: u8 = 0x0;
pub(crate) const HEADERS: u8 = 0x1;
pub(crate) const PRIORITY: u8 = 0x2;
pub(crate) const RST_STREAM: u8 = 0x3;
pub(crate) const SETTINGS: u8 = 0x4;
pub(crate) const PUSH_PROMISE: u8 = 0x5;
pub(crate) const PING: u8 = 0x6;
pub(crate) const GOAWAY: u8 = 0x7;
pub(crate) const WINDOW_UPDATE: u8 = 0x8;
pub(crate) const CONTINUATION: u8 = 0x9;

pub(crate) const ACK: u8 = 0x1;
pub(crate) const END_STREAM: u8 = 0x1;
pub(crate) const END_HEADERS: u8 = 0x4;

/// Settings (RFC 9113 §6.5.2).
pub(crate) const HEADER_TABLE_SIZE: u16 = 0x1;
pub(crate) const MAX_CONCURRENT_STREAMS: u16 = 0x3;
pub(crate) const INITIAL_WINDOW_SIZE: u16 = 0x4;
pub(crate) const MAX_FRAME_SIZE: u16 = 0x5;
pub(crate) const MAX_HEADER_LIST_SIZE: u16 = 0x6;

/// Errors (RFC 9113 §7).
pub(crate) const NO_ERROR: u32 = 0x0;
pub(crate) const INTERNAL_ERROR: u32 = 0x2;
pub(crate) const REFUSED_STREAM: u32 = 0x7;
pub(crate) const CANCEL: u32 = 0x8;
pub(crate) const ENHANCE_YOUR_CALM: u32 = 0xb;

/// What a client of HTTP/2 says first (RFC 9113 §3.4).
pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What may be sent on a stream before the peer says that there is room for more (RFC 9113 §6.9.2).
pub(crate) const WINDOW: usize = 65_535;

/// What a frame holds at most, unless the peer says that it takes more (RFC 9113 §6.5.2).
pub(crate) const FRAME: usize = 16_384;

/// One frame.
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A frame whose payload is one number: a reset, a window update.
pub(crate) fn word_frame(kind: u8, stream: u32, word: u32) -> Vec<u8> {
    frame(kind, 0, stream, &word.to_be_bytes())
}

/// A frame of settings.
pub(crate) fn settings(all: &[(u16, u32)]) -> Vec<u8> {
    let payload = all.iter().flat_map(|(name, value)| [&name.to_be_bytes()[..], &value.to_be_bytes()].concat());
    frame(SETTINGS, 0, 0, &payload.collect::<Vec<u8>>())
}

/// An integer with a prefix of seven bits (RFC 7541 §5.1).
pub(crate) fn integer(value: usize) -> Vec<u8> {
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
pub(crate) fn block<N: AsRef<[u8]>, V: AsRef<[u8]>>(fields: &[(N, V)]) -> Vec<u8> {
    let field = |(name, value): &(N, V)| {
        let (name, value) = (name.as_ref(), value.as_ref());
        [&[0], integer(name.len()).as_slice(), name, &integer(value.len()), value].concat()
    };
    fields.iter().flat_map(field).collect()
}

/// Fields of which a few bytes stand for kilobytes (CVE-2026-49975): one that is said once, and is then the newest entry of
/// the dynamic table, `times` over.
pub(crate) fn swollen(value_bytes: usize, times: usize) -> Vec<u8> {
    let value = "a".repeat(value_bytes);
    let said_once = [&[0x40], integer(5).as_slice(), b"x-any", &integer(value.len()), value.as_bytes()].concat();
    [said_once, vec![0xbe; times]].concat()
}

/// A frame that has come.
#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

impl Frame {
    /// Whether the flag is set.
    pub(crate) fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// The answer to a ping.
    pub(crate) fn pong(&self) -> Vec<u8> {
        frame(PING, ACK, 0, &self.payload)
    }
}

/// The number at the beginning of a payload.
pub(crate) fn word(bytes: &[u8]) -> u32 {
    u32::from_be_bytes(*bytes.first_chunk().unwrap())
}

trait Both: Read + Write + Send {}
impl<T: Read + Write + Send> Both for T {}

/// A connection on which nothing is said but what the test says.
pub(crate) struct Wire {
    stream: Box<dyn Both>,
    /// What has come and was not taken yet.
    pub(crate) buffer: Vec<u8>,
}

impl Wire {
    /// Whoever sets up a connection gives it its patience first.
    pub(crate) fn patient(socket: &TcpStream) {
        socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        socket.set_write_timeout(Some(Duration::from_secs(2))).unwrap();
        socket.set_nodelay(true).unwrap();
    }

    pub(crate) fn new(stream: impl Read + Write + Send + 'static) -> Self {
        Self { stream: Box::new(stream), buffer: Vec::new() }
    }

    /// Says whether all of it was taken.
    pub(crate) fn send(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).and_then(|()| self.stream.flush()).is_ok()
    }

    /// Takes what comes; `Err` says that nothing came in time, `Ok(false)` that nothing will.
    pub(crate) fn fill(&mut self, until: Instant) -> Result<bool, ()> {
        let mut piece = [0; 16 * 1024];
        loop {
            match self.stream.read(&mut piece) {
                Ok(0) => return Ok(false),
                Ok(count) => {
                    self.buffer.extend(&piece[..count]);
                    return Ok(true);
                }
                Err(error) if is_late(&error) && Instant::now() > until => return Err(()),
                Err(error) if is_late(&error) => {}
                Err(_) => return Ok(false),
            }
        }
    }

    /// The next frame; `Err` says that nothing came in time, `Ok(None)` that nothing will.
    pub(crate) fn next(&mut self, until: Instant) -> Result<Option<Frame>, ()> {
        loop {
            if let Some(head) = self.buffer.first_chunk::<9>() {
                let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
                let (kind, flags) = (head[3], head[4]);
                let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
                if self.buffer.len() >= 9 + length {
                    let payload = self.buffer.drain(..9 + length).skip(9).collect();
                    return Ok(Some(Frame { kind, flags, stream, payload }));
                }
            }
            if !self.fill(until)? {
                return Ok(None);
            }
        }
    }
}

/// Whether there was only nothing to read yet, or no room to write.
pub(crate) fn is_late(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}
