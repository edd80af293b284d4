//! Where does one event of a stream end?
//!
//! Server-sent events (WHATWG HTML §9.2) in both directions: cutting what an upstream streams into events, whatever the
//! chunks, and writing messages to a client. It does not know what an event says.

use bytes::Bytes;

/// One event from an upstream.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Event {
    /// `event`, where it is not the default `message`.
    pub kind: Option<String>,
    /// The lines of `data`, joined by newlines; empty for an event that only primes a stream.
    pub data: Bytes,
    /// `id`.
    pub id: Option<String>,
    /// `retry`, in milliseconds.
    pub retry_ms: Option<u64>,
}

impl Event {
    /// Whether this carries an MCP message: of the default kind, and not empty.
    #[must_use]
    pub fn is_message(&self) -> bool {
        self.kind.as_deref().is_none_or(|kind| kind == "message") && !self.data.is_empty()
    }
}

/// An event is larger than allowed; the stream cannot be used any further.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooLarge;

/// Cuts a stream into events. What is held is at most one event and one line, within the bound.
#[derive(Debug)]
pub struct Splitter {
    bytes_max: usize,
    line: Vec<u8>,
    data: Vec<u8>,
    has_data: bool,
    event: Event,
    at_start: bool,
    after_carriage_return: bool,
}

impl Splitter {
    /// For a stream whose events are at most `bytes_max` long.
    #[must_use]
    pub fn new(bytes_max: usize) -> Self {
        Self {
            bytes_max,
            line: Vec::new(),
            data: Vec::new(),
            has_data: false,
            event: Event::default(),
            at_start: true,
            after_carriage_return: false,
        }
    }

    /// Takes the next chunk, and appends the events that end in it to `events`.
    ///
    /// # Errors
    /// [`TooLarge`] as soon as one event passes the bound, whether it ends or not.
    pub fn push(&mut self, chunk: &[u8], events: &mut Vec<Event>) -> Result<(), TooLarge> {
        let mut rest = chunk;
        if self.after_carriage_return && !rest.is_empty() {
            rest = rest.strip_prefix(b"\n").unwrap_or(rest);
            self.after_carriage_return = false;
        }
        while let Some(end) = rest.iter().position(|byte| matches!(byte, b'\n' | b'\r')) {
            let (line, ending) = rest.split_at_checked(end).unwrap_or((rest, b""));
            let (newline, after) = ending.split_first().map_or((b'\n', ending), |(first, after)| (*first, after));
            if newline == b'\r' {
                self.after_carriage_return = after.is_empty();
                rest = after.strip_prefix(b"\n").unwrap_or(after);
            } else {
                rest = after;
            }
            self.hold(line)?;
            let whole = std::mem::take(&mut self.line);
            self.line_ended(&whole, events);
            self.line = whole;
            self.line.clear();
        }
        self.hold(rest)
    }

    fn hold(&mut self, part: &[u8]) -> Result<(), TooLarge> {
        let held = self.line.len().saturating_add(self.data.len()).saturating_add(part.len());
        if held > self.bytes_max {
            return Err(TooLarge);
        }
        self.line.extend_from_slice(part);
        Ok(())
    }

    fn line_ended(&mut self, line: &[u8], events: &mut Vec<Event>) {
        let line =
            if std::mem::take(&mut self.at_start) { line.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(line) } else { line };
        if line.is_empty() {
            self.dispatch(events);
            return;
        }
        let colon = line.iter().position(|byte| *byte == b':');
        let (field, value) = colon.and_then(|colon| line.split_at_checked(colon)).unwrap_or((line, b""));
        let value = value.strip_prefix(b":").unwrap_or(value);
        let value = value.strip_prefix(b" ").unwrap_or(value);
        let text = || std::str::from_utf8(value).ok();
        match field {
            b"data" => {
                if self.has_data {
                    self.data.push(b'\n');
                }
                self.has_data = true;
                self.data.extend_from_slice(value);
            }
            b"event" => self.event.kind = text().filter(|kind| !kind.is_empty()).map(str::to_owned),
            b"id" => self.event.id = text().filter(|id| !id.contains('\0')).map(str::to_owned),
            b"retry" => {
                let digits = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
                self.event.retry_ms = text().filter(|_| digits).and_then(|text| text.parse().ok());
            }
            // A comment, or a field that does not exist.
            _ => {}
        }
    }

    fn dispatch(&mut self, events: &mut Vec<Event>) {
        let mut event = std::mem::take(&mut self.event);
        let data = std::mem::take(&mut self.data);
        if std::mem::take(&mut self.has_data) || event.id.is_some() || event.retry_ms.is_some() {
            event.data = Bytes::from(data);
            events.push(event);
        }
    }
}

/// One message as one event. Between the tokens of JSON a newline is a blank, and inside them there is none
/// (RFC 8259 §2 and §7), so blanks in their place keep every value as it is.
#[must_use]
pub fn message(json: &[u8]) -> Bytes {
    let mut out = Vec::with_capacity(json.len().saturating_add(EVENT_START.len()).saturating_add(2));
    out.extend_from_slice(EVENT_START);
    out.extend(json.iter().map(|byte| if matches!(byte, b'\n' | b'\r') { b' ' } else { *byte }));
    out.extend_from_slice(b"\n\n");
    Bytes::from(out)
}

/// The same event under an id, by which a client can come back to it (WHATWG HTML §9.2.4).
#[must_use]
pub fn with_id(id: &str, event: &[u8]) -> Bytes {
    Bytes::from([b"id: ", id.as_bytes(), b"\n", event].concat())
}

/// An event without a message, which only says where a stream begins and how long to wait before coming back to it.
#[must_use]
pub fn priming(id: &str) -> Bytes {
    Bytes::from(format!("id: {id}\nretry: {RETRY_MS}\ndata:\n\n"))
}

/// Long enough that clients that have lost their streams do not come back in one rush.
const RETRY_MS: u32 = 1_000;

const EVENT_START: &[u8] = b"event: message\ndata: ";

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn split(chunks: &[&[u8]]) -> Result<Vec<Event>, TooLarge> {
        let mut splitter = Splitter::new(64);
        let mut events = Vec::new();
        for chunk in chunks {
            splitter.push(chunk, &mut events)?;
        }
        Ok(events)
    }

    fn data(chunks: &[&[u8]]) -> Vec<String> {
        split(chunks).unwrap().iter().map(|event| String::from_utf8(event.data.to_vec()).unwrap()).collect()
    }

    #[test]
    fn lines_end_in_three_ways() {
        for newline in ["\n", "\r", "\r\n"] {
            let text = "data: a\n\ndata:b\ndata: c\n\n: comment\n\nevent: message\ndata: {}\n\n".replace('\n', newline);
            assert_eq!(data(&[text.as_bytes()]), ["a", "b\nc", "{}"], "{newline:?}");
        }
    }

    #[test]
    fn fields_that_are_not_data() {
        let events =
            split(&[b"\xEF\xBB\xBFid: 7\nretry: 300\ndata:\n\nevent: ping\ndata: x\n\nretry: 3x\n\nevent: y\n\n"])
                .unwrap();
        assert_eq!(events.len(), 2);
        assert_eq!((events[0].id.as_deref(), events[0].retry_ms), (Some("7"), Some(300)));
        assert!(!events[0].is_message());
        assert_eq!(events[1].kind.as_deref(), Some("ping"));
        assert!(!events[1].is_message());
    }

    #[test]
    fn an_event_that_never_ends_is_cut_off() {
        assert_eq!(split(&[b"data: ", &[b'x'; 60]]), Err(TooLarge));
        assert_eq!(
            split(&[b"data: 0123456789012345678901234567890\n", b"data: 0123456789012345678901234567890\n"]),
            Err(TooLarge)
        );
        let many: Vec<&[u8]> = vec![b"data: 0123456789\n\n"; 100];
        assert_eq!(data(&many).len(), 100);
        assert_eq!(split(&[&[b':'; 65]]), Err(TooLarge));
    }

    #[test]
    fn a_pretty_message_becomes_one_line() {
        assert_eq!(message(b"{\r\n \"a\": 1\n}"), "event: message\ndata: {   \"a\": 1 }\n\n");
    }

    proptest! {
        #[test]
        fn chunks_do_not_matter(cuts in prop::collection::vec(0_usize..90, 0..6)) {
            let text = b"id: 1\r\ndata: one\r\n\r\n: c\rdata: two\rdata: three\r\rdata: four\n\ndata: five\r\n\r\n";
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(text.len())).collect();
            cuts.sort_unstable();
            let mut chunks = Vec::new();
            let mut from = 0;
            for cut in cuts {
                chunks.push(&text[from..cut]);
                from = cut;
            }
            chunks.push(&text[from..]);
            prop_assert_eq!(split(&chunks), split(&[text]));
            prop_assert_eq!(data(&chunks), ["one", "two\nthree", "four", "five"]);
        }

        #[test]
        fn what_is_written_is_read(lines in prop::collection::vec("[ -~]{1,20}", 1..4)) {
            let json = serde_json::to_string_pretty(&lines).unwrap();
            let mut splitter = Splitter::new(1024);
            let mut events = Vec::new();
            splitter.push(&message(json.as_bytes()), &mut events).unwrap();
            prop_assert_eq!(events.len(), 1);
            prop_assert_eq!(serde_json::from_slice::<Vec<String>>(&events[0].data).unwrap(), lines);
        }
    }
}
