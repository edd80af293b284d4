//! How does a record become one line that nobody can forge from within?
//!
//! A writer of JSON objects straight into bytes. Everything that a terminal, a pager or a line-based shipper might act
//! on is escaped: C0 and C1 controls, DEL, the line separators U+2028 and U+2029, and the controls of bidirectional
//! text (CVE-2021-42574). It does not know what a record holds.

use std::net::SocketAddr;

use crate::digest::push_hex;

/// Writes members into an object that is open at the end of `out`.
#[derive(Debug)]
pub struct Json<'o> {
    out: &'o mut Vec<u8>,
}

/// The longest text kept of an identifier or a name, in bytes.
pub(super) const NAME_BYTES_MAX: usize = 256;
/// The longest text kept of a reason, in bytes.
pub(super) const REASON_BYTES_MAX: usize = 1024;
/// The most elements kept of an array.
const ELEMENTS_MAX: usize = 32;

impl<'o> Json<'o> {
    /// Opens an object at the end of `out`.
    pub(super) fn begin(out: &'o mut Vec<u8>) -> Self {
        out.push(b'{');
        Self { out }
    }

    /// Goes on with an object that has members already, and is not closed.
    pub(super) const fn reopen(out: &'o mut Vec<u8>) -> Self {
        Self { out }
    }

    /// A text, cut at [`NAME_BYTES_MAX`].
    pub(super) fn name(&mut self, key: &str, text: &str) {
        self.key(key);
        string(self.out, text, NAME_BYTES_MAX);
    }

    /// A text, or nothing where there is none.
    pub(super) fn name_if(&mut self, key: &str, text: Option<&str>) {
        if let Some(text) = text {
            self.name(key, text);
        }
    }

    /// A longer text, cut at [`REASON_BYTES_MAX`], or nothing where there is none.
    pub(super) fn reason_if(&mut self, key: &str, text: Option<&str>) {
        if let Some(text) = text {
            self.key(key);
            string(self.out, text, REASON_BYTES_MAX);
        }
    }

    /// A text that is the gateway's own and needs no escaping: digests, ids, words.
    pub(super) fn word(&mut self, key: &str, word: &str) {
        self.key(key);
        self.out.push(b'"');
        self.out.extend_from_slice(word.as_bytes());
        self.out.push(b'"');
    }

    /// Anything that displays as plain ASCII without quotes, such as an address.
    pub(super) fn shown(&mut self, key: &str, value: std::fmt::Arguments<'_>) {
        self.key(key);
        self.out.push(b'"');
        // A write into a vector does not fail.
        std::io::Write::write_fmt(self.out, value).unwrap_or_default();
        self.out.push(b'"');
    }

    /// The other end of a connection. Every request has one: what it is in most, is written without the formatter.
    pub(super) fn address(&mut self, key: &str, address: SocketAddr) {
        let SocketAddr::V4(v4) = address else { return self.shown(key, format_args!("{address}")) };
        self.key(key);
        self.out.push(b'"');
        for (place, part) in v4.ip().octets().into_iter().enumerate() {
            if place > 0 {
                self.out.push(b'.');
            }
            digits(self.out, part.into());
        }
        self.out.push(b':');
        digits(self.out, v4.port().into());
        self.out.push(b'"');
    }

    /// A whole number.
    pub(super) fn number(&mut self, key: &str, number: u64) {
        self.key(key);
        digits(self.out, number);
    }

    /// A whole number, or nothing where there is none.
    pub(super) fn number_if(&mut self, key: &str, number: Option<u64>) {
        if let Some(number) = number {
            self.number(key, number);
        }
    }

    /// A whole number that may be negative, or nothing where there is none.
    pub(super) fn signed_if(&mut self, key: &str, number: Option<i64>) {
        if let Some(number) = number {
            self.key(key);
            if number < 0 {
                self.out.push(b'-');
            }
            digits(self.out, number.unsigned_abs());
        }
    }

    /// `true` or `false`.
    pub(super) fn truth(&mut self, key: &str, truth: bool) {
        self.key(key);
        self.out.extend_from_slice(if truth { b"true" } else { b"false" });
    }

    /// `null`.
    pub(super) fn null(&mut self, key: &str) {
        self.key(key);
        self.out.extend_from_slice(b"null");
    }

    /// An array of texts. Past the bound one last element says how many there were.
    pub(super) fn names<'a>(&mut self, key: &str, names: impl ExactSizeIterator<Item = &'a str>) {
        let all = names.len();
        self.key(key);
        self.out.push(b'[');
        for (nth, name) in names.take(ELEMENTS_MAX).enumerate() {
            if nth > 0 {
                self.out.push(b',');
            }
            string(self.out, name, NAME_BYTES_MAX);
        }
        if all > ELEMENTS_MAX {
            self.out.extend_from_slice(",\"… of ".as_bytes());
            digits(self.out, u64::try_from(all).unwrap_or(u64::MAX));
            self.out.push(b'"');
        }
        self.out.push(b']');
    }

    /// An object inside this one.
    pub(super) fn object(&mut self, key: &str, fill: impl FnOnce(&mut Json<'_>)) {
        self.key(key);
        let mut inner = Json::begin(self.out);
        fill(&mut inner);
        self.out.push(b'}');
    }

    /// An array of objects; the caller bounds how many.
    pub(super) fn objects<T>(&mut self, key: &str, items: &[T], fill: impl Fn(&T, &mut Json<'_>)) {
        self.key(key);
        self.out.push(b'[');
        for (nth, item) in items.iter().enumerate() {
            if nth > 0 {
                self.out.push(b',');
            }
            let mut inner = Json::begin(self.out);
            fill(item, &mut inner);
            self.out.push(b'}');
        }
        self.out.push(b']');
    }

    /// The comma, if one is due, and the member's name, which is always the gateway's own.
    fn key(&mut self, key: &str) {
        if self.out.last() != Some(&b'{') {
            self.out.push(b',');
        }
        self.out.push(b'"');
        self.out.extend_from_slice(key.as_bytes());
        self.out.extend_from_slice(b"\":");
    }
}

/// A decimal number.
pub(super) fn digits(out: &mut Vec<u8>, mut number: u64) {
    let mut buffer = [0_u8; 20];
    let mut used = 0_usize;
    for slot in buffer.iter_mut().rev() {
        let [digit, ..] = (number % 10).to_le_bytes();
        *slot = b'0'.wrapping_add(digit);
        used = used.saturating_add(1);
        number /= 10;
        if number == 0 {
            break;
        }
    }
    let start = buffer.len().saturating_sub(used);
    out.extend_from_slice(buffer.get(start..).unwrap_or_default());
}

/// A quoted, escaped text of at most `bytes_max` bytes of the original; what is cut off is counted at its end.
pub(super) fn string(out: &mut Vec<u8>, text: &str, bytes_max: usize) {
    let kept = if text.len() <= bytes_max {
        text
    } else {
        text.get(..text.floor_char_boundary(bytes_max)).unwrap_or_default()
    };
    out.push(b'"');
    // Without an early exit, so that the compiler looks at many bytes at once: nearly every text is plain.
    if kept.bytes().fold(true, |all, byte| all & plain(byte)) {
        out.extend_from_slice(kept.as_bytes());
    } else {
        for character in kept.chars() {
            escape(out, character);
        }
    }
    let cut = text.len().saturating_sub(kept.len());
    if cut > 0 {
        out.extend_from_slice("…+".as_bytes());
        digits(out, u64::try_from(cut).unwrap_or(u64::MAX));
    }
    out.push(b'"');
}

/// Whether a byte stands for itself in JSON and in a terminal.
const fn plain(byte: u8) -> bool {
    (byte >= 0x20) & (byte <= 0x7e) & (byte != b'"') & (byte != b'\\')
}

fn escape(out: &mut Vec<u8>, character: char) {
    match character {
        '"' => out.extend_from_slice(b"\\\""),
        '\\' => out.extend_from_slice(b"\\\\"),
        '\n' => out.extend_from_slice(b"\\n"),
        '\r' => out.extend_from_slice(b"\\r"),
        '\t' => out.extend_from_slice(b"\\t"),
        _ if active(character) => {
            for unit in character.encode_utf16(&mut [0; 2]) {
                out.extend_from_slice(b"\\u");
                push_hex(out, &unit.to_be_bytes());
            }
        }
        _ => out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes()),
    }
}

/// Characters that act on the display instead of showing: controls, separators, marks and embeddings of bidirectional
/// text, the byte order mark, and the invisible tag characters.
const fn active(character: char) -> bool {
    matches!(character,
        '\0'..='\u{1f}' | '\u{7f}'..='\u{9f}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}
