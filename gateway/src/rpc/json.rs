//! Which JSON text is this, exactly?
//!
//! One strict pass over the bytes: RFC 8259 grammar, UTF-8, no duplicate member names at any depth, every bound kept.
//! What comes out is a flat tape of spans over the original bytes, so that whatever goes on is the bytes that were
//! judged, never a re-serialised copy. It does not know JSON-RPC.
//!
//! Stricter than RFC 8259, each for a reason: duplicate names (RFC 8259 §4 leaves their meaning to the receiver, so
//! that policy and upstream could read two different calls), escapes of lone surrogates and numbers beyond IEEE 754
//! (I-JSON, RFC 7493 §2.1 and §2.2: receivers disagree about them), a byte order mark (RFC 8259 §8.1).

use std::borrow::Cow;

use bytes::Bytes;

use crate::config::Limits;

/// What one JSON text may be at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Nesting of arrays and objects.
    pub depth_max: usize,
    /// Values, member names not counted.
    pub values_max: usize,
    /// Bytes of a member name, as written.
    pub name_bytes_max: usize,
    /// Characters of a number.
    pub number_chars_max: usize,
}

impl Bounds {
    /// For what a client sends.
    #[must_use]
    pub const fn request(limits: &Limits) -> Self {
        Self {
            depth_max: limits.json_depth_max,
            values_max: limits.json_nodes_max,
            name_bytes_max: REQUEST_NAME_BYTES_MAX,
            number_chars_max: REQUEST_NUMBER_CHARS_MAX,
        }
    }

    /// For what an upstream answers: bounded by its bytes first, and by a number of values that those bytes can
    /// sensibly hold, because results are data and requests are not.
    #[must_use]
    pub fn reply(limits: &Limits) -> Self {
        Self {
            depth_max: limits.json_depth_max.saturating_add(REPLY_DEPTH_EXTRA),
            values_max: limits.json_nodes_max.max(limits.reply_bytes_max / REPLY_BYTES_PER_VALUE),
            name_bytes_max: REPLY_NAME_BYTES_MAX,
            number_chars_max: REPLY_NUMBER_CHARS_MAX,
        }
    }
}

/// What a value is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `null`.
    Null,
    /// `true` or `false`.
    Bool,
    /// A number.
    Number,
    /// A string.
    String,
    /// An array.
    Array,
    /// An object.
    Object,
}

/// One value or member name. While a container is open, `next` is the index of the container around it.
#[derive(Debug, Clone, Copy)]
struct Node {
    start: u32,
    end: u32,
    next: u32,
    kind: Kind,
    escaped: bool,
}

/// One JSON text that kept every rule, and where everything in it is.
#[derive(Debug, Clone)]
pub struct Document {
    text: Bytes,
    nodes: Vec<Node>,
}

impl Document {
    /// Reads `text` once, from its first byte to its last.
    ///
    /// # Errors
    /// The rule that is broken, in words for a person. None of them repeats input.
    pub fn parse(text: Bytes, bounds: &Bounds) -> Result<Self, &'static str> {
        if text.starts_with(b"\xEF\xBB\xBF") {
            return Err("a byte order mark");
        }
        if u32::try_from(text.len()).is_err() {
            return Err("more than 4 GiB");
        }
        std::str::from_utf8(&text).map_err(|_fault| "not UTF-8")?;
        let mut nodes = Vec::with_capacity((text.len() / BYTES_PER_NODE).saturating_add(8));
        Scanner { text: &text, at: 0, nodes: &mut nodes, values: 0, bounds }.run()?;
        Ok(Self { text, nodes })
    }

    /// The outermost value.
    #[must_use]
    pub fn root(&self) -> Value<'_> {
        Value { document: self, index: 0 }
    }

    /// The text as it came.
    #[must_use]
    pub fn text(&self) -> &Bytes {
        &self.text
    }

    /// The same with a copy of its own of the text, and no more room than it needs: whoever keeps it for long keeps
    /// nothing else alive.
    #[must_use]
    pub fn compact(mut self) -> Self {
        self.text = Bytes::copy_from_slice(&self.text);
        self.nodes.shrink_to_fit();
        self
    }

    /// The memory that it takes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.text.len().saturating_add(self.nodes.capacity().saturating_mul(size_of::<Node>()))
    }

    /// The value that [`Value::index`] named.
    #[must_use]
    pub fn at(&self, index: Index) -> Value<'_> {
        Value { document: self, index: index.0 }
    }
}

/// Where a value stands in its document, without borrowing it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Index(u32);

/// One value of a [`Document`].
#[derive(Debug, Clone, Copy)]
pub struct Value<'a> {
    document: &'a Document,
    index: u32,
}

impl<'a> Value<'a> {
    fn node(self) -> Node {
        self.document.nodes.get(self.index as usize).copied().unwrap_or(NOTHING)
    }

    fn here(self, index: u32) -> Self {
        Self { document: self.document, index }
    }

    /// Where it stands.
    #[must_use]
    pub const fn index(self) -> Index {
        Index(self.index)
    }

    /// What it is.
    #[must_use]
    pub fn kind(self) -> Kind {
        self.node().kind
    }

    /// The bytes that spell it, quotes and brackets included.
    #[must_use]
    pub fn raw(self) -> &'a [u8] {
        let node = self.node();
        self.document.text.get(node.start as usize..node.end as usize).unwrap_or_default()
    }

    /// The text that spells it.
    #[must_use]
    pub fn raw_text(self) -> &'a str {
        std::str::from_utf8(self.raw()).unwrap_or_default()
    }

    /// The bytes that spell it, sharing the document's memory.
    #[must_use]
    pub fn raw_bytes(self) -> Bytes {
        self.document.text.slice_ref(self.raw())
    }

    /// This value as a document of its own, sharing the text.
    #[must_use]
    pub fn detached(self) -> Document {
        let node = self.node();
        let end = node.next.max(self.index.saturating_add(1));
        let nodes = self.document.nodes.get(self.index as usize..end as usize).unwrap_or_default();
        let moved = |node: &Node| Node {
            start: node.start.saturating_sub(self.node().start),
            end: node.end.saturating_sub(self.node().start),
            next: node.next.saturating_sub(self.index),
            ..*node
        };
        Document { text: self.raw_bytes(), nodes: nodes.iter().map(moved).collect() }
    }

    /// The members of an object, in the order written; nothing for any other kind.
    #[must_use]
    pub fn members(self) -> Members<'a> {
        let node = self.node();
        let first = self.index.saturating_add(1);
        let end = if node.kind == Kind::Object { node.next } else { first };
        Members { at: self.here(first), end }
    }

    /// The elements of an array, in order; nothing for any other kind.
    #[must_use]
    pub fn elements(self) -> Elements<'a> {
        let node = self.node();
        let first = self.index.saturating_add(1);
        let end = if node.kind == Kind::Array { node.next } else { first };
        Elements { at: self.here(first), end }
    }

    /// The member called `name` after unescaping; names are unique.
    #[must_use]
    pub fn get(self, name: &str) -> Option<Self> {
        self.members().find_map(|(key, value)| key.is(name).then_some(value))
    }

    /// Whether this is the string `text`.
    #[must_use]
    pub fn is(self, text: &str) -> bool {
        let node = self.node();
        if node.kind != Kind::String {
            return false;
        }
        if node.escaped {
            return self.text().is_some_and(|own| own == text);
        }
        // Most names that are looked at are not it, and most of those have another length.
        let spelled = node.end.saturating_sub(node.start) as usize;
        spelled == text.len().saturating_add(2) && self.inner() == text.as_bytes()
    }

    /// The text of a string, unescaped.
    #[must_use]
    pub fn text(self) -> Option<Cow<'a, str>> {
        let node = self.node();
        if node.kind != Kind::String {
            return None;
        }
        let inner = std::str::from_utf8(self.inner()).unwrap_or_default();
        Some(if node.escaped { Cow::Owned(unescape(inner)) } else { Cow::Borrowed(inner) })
    }

    /// A number written as an integer, within 64 bits.
    #[must_use]
    pub fn integer(self) -> Option<i64> {
        if self.kind() == Kind::Number { self.raw_text().parse().ok() } else { None }
    }

    /// A number, as IEEE 754 has it.
    #[must_use]
    pub fn number(self) -> Option<f64> {
        if self.kind() == Kind::Number { self.raw_text().parse().ok() } else { None }
    }

    /// A boolean.
    #[must_use]
    pub fn boolean(self) -> Option<bool> {
        if self.kind() == Kind::Bool { Some(self.raw().starts_with(b"t")) } else { None }
    }

    /// Whether it is an object.
    #[must_use]
    pub fn is_object(self) -> bool {
        self.kind() == Kind::Object
    }

    /// Whether it is `null`.
    #[must_use]
    pub fn is_null(self) -> bool {
        self.kind() == Kind::Null
    }

    /// What stands between a string's quotes.
    fn inner(self) -> &'a [u8] {
        let node = self.node();
        let (start, end) = (node.start.saturating_add(1), node.end.saturating_sub(1));
        self.document.text.get(start as usize..end as usize).unwrap_or_default()
    }
}

/// The members of an object: name and value.
#[derive(Debug, Clone)]
pub struct Members<'a> {
    at: Value<'a>,
    end: u32,
}

impl<'a> Iterator for Members<'a> {
    type Item = (Value<'a>, Value<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        if self.at.index >= self.end {
            return None;
        }
        let key = self.at;
        let value = key.here(key.index.saturating_add(1));
        self.at = key.here(value.node().next.max(value.index.saturating_add(1)));
        Some((key, value))
    }
}

/// The elements of an array.
#[derive(Debug, Clone)]
pub struct Elements<'a> {
    at: Value<'a>,
    end: u32,
}

impl<'a> Iterator for Elements<'a> {
    type Item = Value<'a>;

    fn next(&mut self) -> Option<Value<'a>> {
        if self.at.index >= self.end {
            return None;
        }
        let value = self.at;
        self.at = value.here(value.node().next.max(value.index.saturating_add(1)));
        Some(value)
    }
}

/// Writes `text` as a JSON string, quotes included (RFC 8259 §7), with the shortest escapes (RFC 8785 §3.2.2.2).
pub fn write_string(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    let plain = |byte: u8| (byte >= 0x20) & (byte != b'"') & (byte != b'\\');
    // Without an early exit, so that the compiler looks at many bytes at once: nearly every text is plain.
    if text.bytes().fold(true, |all, byte| all & plain(byte)) {
        out.extend_from_slice(text.as_bytes());
    } else {
        for byte in text.bytes() {
            if plain(byte) { out.push(byte) } else { write_escape(out, byte) }
        }
    }
    out.push(b'"');
}

fn write_escape(out: &mut Vec<u8>, byte: u8) {
    let short = match byte {
        0x08 => b'b',
        b'\t' => b't',
        b'\n' => b'n',
        0x0C => b'f',
        b'\r' => b'r',
        0..=0x1F => {
            let [high, low] = [byte >> 4, byte & 0xF].map(|half| HEX.get(usize::from(half)).copied().unwrap_or(b'0'));
            out.extend_from_slice(&[b'\\', b'u', b'0', b'0', high, low]);
            return;
        }
        itself => itself,
    };
    out.extend_from_slice(&[b'\\', short]);
}

struct Scanner<'a> {
    text: &'a [u8],
    at: usize,
    nodes: &'a mut Vec<Node>,
    values: usize,
    bounds: &'a Bounds,
}

impl Scanner<'_> {
    fn run(mut self) -> Result<(), &'static str> {
        let mut around = NO_PARENT;
        let mut depth = 0_usize;
        loop {
            self.skip_blank();
            if let Some(opened) = self.value(around)? {
                depth = depth.saturating_add(1);
                if depth > self.bounds.depth_max {
                    return Err("nested too deep");
                }
                around = opened;
                self.skip_blank();
                if self.peek() != Some(self.closer(around)) {
                    self.name_if_object(around)?;
                    continue;
                }
            }
            if !self.next_value_or_end(&mut around, &mut depth)? {
                return Ok(());
            }
        }
    }

    /// A value ended: closes every container that ends with it. False where the text ends with it too.
    fn next_value_or_end(&mut self, around: &mut u32, depth: &mut usize) -> Result<bool, &'static str> {
        loop {
            self.skip_blank();
            let byte = self.peek();
            if *around == NO_PARENT {
                return if byte.is_none() { Ok(false) } else { Err("something after the end of the value") };
            }
            if byte == Some(self.closer(*around)) {
                self.step();
                *around = self.close(*around)?;
                *depth = depth.saturating_sub(1);
            } else if byte == Some(b',') {
                self.step();
                self.skip_blank();
                self.name_if_object(*around)?;
                return Ok(true);
            } else {
                return Err("a comma or a closing bracket is missing");
            }
        }
    }

    /// Reads a scalar whole, or opens a container and says where it is.
    fn value(&mut self, around: u32) -> Result<Option<u32>, &'static str> {
        self.values = self.values.saturating_add(1);
        if self.values > self.bounds.values_max {
            return Err("too many values");
        }
        match self.peek() {
            Some(b'"') => {
                let _range = self.string()?;
                Ok(None)
            }
            Some(b'{') => Ok(Some(self.open(Kind::Object, around))),
            Some(b'[') => Ok(Some(self.open(Kind::Array, around))),
            Some(b'-' | b'0'..=b'9') => self.number().map(|()| None),
            Some(b't') => self.word(b"true", Kind::Bool).map(|()| None),
            Some(b'f') => self.word(b"false", Kind::Bool).map(|()| None),
            Some(b'n') => self.word(b"null", Kind::Null).map(|()| None),
            Some(_) => Err("a value is missing"),
            None => Err("it ends early"),
        }
    }

    fn open(&mut self, kind: Kind, around: u32) -> u32 {
        let index = narrow(self.nodes.len());
        let start = narrow(self.at);
        self.nodes.push(Node { start, end: start, next: around, kind, escaped: false });
        self.step();
        index
    }

    fn close(&mut self, index: u32) -> Result<u32, &'static str> {
        let (end, next) = (narrow(self.at), narrow(self.nodes.len()));
        let Some(node) = self.nodes.get_mut(index as usize) else { return Err("a container was lost") };
        let around = node.next;
        node.end = end;
        node.next = next;
        if node.kind == Kind::Object {
            self.refuse_duplicates(index, next)?;
        }
        Ok(around)
    }

    fn closer(&self, index: u32) -> u8 {
        match self.nodes.get(index as usize).map(|node| node.kind) {
            Some(Kind::Object) => b'}',
            _ => b']',
        }
    }

    fn name_if_object(&mut self, around: u32) -> Result<(), &'static str> {
        if self.nodes.get(around as usize).is_none_or(|node| node.kind != Kind::Object) {
            return Ok(());
        }
        if self.peek() != Some(b'"') {
            return Err("a member name is missing");
        }
        let bytes = self.string()?;
        if bytes > self.bounds.name_bytes_max {
            return Err("a member name is too long");
        }
        self.skip_blank();
        if self.peek() != Some(b':') {
            return Err("a colon is missing");
        }
        self.step();
        Ok(())
    }

    /// Pushes a string's node; the length of what stands between the quotes.
    fn string(&mut self) -> Result<usize, &'static str> {
        let start = self.at;
        let mut escaped = false;
        self.step();
        loop {
            self.skip_plain();
            match self.peek() {
                Some(b'"') => break,
                Some(b'\\') => {
                    escaped = true;
                    self.escape()?;
                }
                Some(0..=0x1F) => return Err("a control character in a string"),
                Some(_) => self.step(),
                None => return Err("a string does not end"),
            }
        }
        self.step();
        self.push(start, if escaped { Spelling::Escaped } else { Spelling::Plain(Kind::String) });
        Ok(self.at.saturating_sub(start).saturating_sub(2))
    }

    /// Eight bytes at a time over what needs no look: no quote, no backslash, no control character. Each of the three
    /// tests can be wrong only above the lowest byte that it finds, and only the lowest is used.
    fn skip_plain(&mut self) {
        while let Some(eight) = self.text.get(self.at..self.at.saturating_add(8)) {
            let word = eight.try_into().map_or(0, u64::from_le_bytes);
            let quote = word ^ (ONES.wrapping_mul(b'"' as u64));
            let backslash = word ^ (ONES.wrapping_mul(b'\\' as u64));
            let found = (quote.wrapping_sub(ONES) & !quote)
                | (backslash.wrapping_sub(ONES) & !backslash)
                | (word.wrapping_sub(ONES.wrapping_mul(0x20)) & !word);
            let found = found & HIGHS;
            if found != 0 {
                self.at = self.at.saturating_add((found.trailing_zeros() / 8) as usize);
                return;
            }
            self.at = self.at.saturating_add(8);
        }
    }

    fn escape(&mut self) -> Result<(), &'static str> {
        self.step();
        match self.peek() {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => {
                self.step();
                Ok(())
            }
            Some(b'u') => {
                self.step();
                match self.hex4()? {
                    0xDC00..=0xDFFF => Err("an escape of half a surrogate pair"),
                    0xD800..=0xDBFF => self.second_half(),
                    _ => Ok(()),
                }
            }
            _ => Err("an unknown escape"),
        }
    }

    fn second_half(&mut self) -> Result<(), &'static str> {
        if self.text.get(self.at..self.at.saturating_add(2)) != Some(b"\\u") {
            return Err("an escape of half a surrogate pair");
        }
        self.at = self.at.saturating_add(2);
        match self.hex4()? {
            0xDC00..=0xDFFF => Ok(()),
            _ => Err("an escape of half a surrogate pair"),
        }
    }

    fn hex4(&mut self) -> Result<u16, &'static str> {
        let digits = self.text.get(self.at..self.at.saturating_add(4)).and_then(hex4);
        self.at = self.at.saturating_add(4);
        digits.ok_or("an escape without four hexadecimal digits")
    }

    fn number(&mut self) -> Result<(), &'static str> {
        let start = self.at;
        let mut beyond_integer = false;
        if self.peek() == Some(b'-') {
            self.step();
        }
        match self.peek() {
            Some(b'0') => self.step(),
            Some(b'1'..=b'9') => self.digits(),
            _ => return Err("a number without digits"),
        }
        if self.peek() == Some(b'.') {
            self.step();
            self.some_digits()?;
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            beyond_integer = true;
            self.step();
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.step();
            }
            self.some_digits()?;
        }
        let chars = self.at.saturating_sub(start);
        if chars > self.bounds.number_chars_max {
            return Err("a number with too many digits");
        }
        // Without an exponent it takes more than 308 digits to leave the range.
        if (beyond_integer || chars > 300) && !self.finite(start) {
            return Err("a number beyond IEEE 754");
        }
        self.push(start, Spelling::Plain(Kind::Number));
        Ok(())
    }

    fn finite(&self, start: usize) -> bool {
        let spelled = self.text.get(start..self.at).unwrap_or_default();
        std::str::from_utf8(spelled).ok().and_then(|text| text.parse::<f64>().ok()).is_some_and(f64::is_finite)
    }

    fn digits(&mut self) {
        while matches!(self.peek(), Some(b'0'..=b'9')) {
            self.step();
        }
    }

    fn some_digits(&mut self) -> Result<(), &'static str> {
        let before = self.at;
        self.digits();
        if self.at == before { Err("a number without digits") } else { Ok(()) }
    }

    fn word(&mut self, word: &'static [u8], kind: Kind) -> Result<(), &'static str> {
        let start = self.at;
        let end = start.saturating_add(word.len());
        if self.text.get(start..end) != Some(word) {
            return Err("a value is missing");
        }
        self.at = end;
        self.push(start, Spelling::Plain(kind));
        Ok(())
    }

    fn push(&mut self, start: usize, spelling: Spelling) {
        let next = narrow(self.nodes.len()).saturating_add(1);
        let (kind, escaped) = match spelling {
            Spelling::Plain(kind) => (kind, false),
            Spelling::Escaped => (Kind::String, true),
        };
        self.nodes.push(Node { start: narrow(start), end: narrow(self.at), next, kind, escaped });
    }

    /// Compares the names of one object after unescaping. A bitmap of name fingerprints settles the common case in one
    /// walk; sorting settles the rest, so that no choice of names costs more than `n log n`.
    fn refuse_duplicates(&self, object: u32, end: u32) -> Result<(), &'static str> {
        let mut seen = [0_u64; 4];
        let mut suspect = false;
        let mut at = object.saturating_add(1);
        while at < end {
            let Some(name) = self.nodes.get(at as usize) else { return Ok(()) };
            let spelled = self.text.get(name.start as usize..name.end as usize).unwrap_or_default();
            let print = fingerprint(spelled);
            let bit = 1_u64 << (print & 63);
            if let Some(word) = seen.get_mut(usize::from(print >> 6)) {
                suspect |= *word & bit != 0;
                *word |= bit;
            }
            suspect |= name.escaped;
            at = self.after_value(at);
        }
        if suspect { self.compare_names(object, end) } else { Ok(()) }
    }

    fn compare_names(&self, object: u32, end: u32) -> Result<(), &'static str> {
        let mut names: Vec<Cow<'_, [u8]>> = Vec::new();
        let mut at = object.saturating_add(1);
        while at < end {
            let Some(name) = self.nodes.get(at as usize) else { return Ok(()) };
            let inner = self.text.get(name.start.saturating_add(1) as usize..name.end.saturating_sub(1) as usize);
            let inner = inner.unwrap_or_default();
            names.push(if name.escaped {
                Cow::Owned(unescape(std::str::from_utf8(inner).unwrap_or_default()).into_bytes())
            } else {
                Cow::Borrowed(inner)
            });
            at = self.after_value(at);
        }
        names.sort_unstable();
        let twice = names.iter().zip(names.iter().skip(1)).any(|(one, other)| one == other);
        if twice { Err("a member name is there twice") } else { Ok(()) }
    }

    /// The index of the name after the one at `name`.
    fn after_value(&self, name: u32) -> u32 {
        let value = name.saturating_add(1);
        let next = self.nodes.get(value as usize).map_or(u32::MAX, |node| node.next);
        next.max(value.saturating_add(1))
    }

    fn skip_blank(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.step();
        }
    }

    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    fn step(&mut self) {
        self.at = self.at.saturating_add(1);
    }
}

enum Spelling {
    Plain(Kind),
    Escaped,
}

/// Eight bits that tell most names of one object apart.
fn fingerprint(spelled: &[u8]) -> u8 {
    let middle = spelled.get(spelled.len() / 2).copied().unwrap_or(0);
    let late = spelled.get(spelled.len().saturating_sub(2)).copied().unwrap_or(0);
    let early = spelled.get(1).copied().unwrap_or(0);
    let length = spelled.len().to_le_bytes().first().copied().unwrap_or(0);
    early
        .wrapping_mul(31)
        .wrapping_add(late.wrapping_mul(89))
        .wrapping_add(middle.wrapping_mul(151))
        .wrapping_add(length.wrapping_mul(17))
}

/// Undoes the escapes of a string that the scanner has accepted.
fn unescape(inner: &str) -> String {
    let mut out = String::with_capacity(inner.len());
    let mut rest = inner;
    while let Some((before, after)) = rest.split_once('\\') {
        out.push_str(before);
        let mut chars = after.chars();
        let Some(letter) = chars.next() else { break };
        rest = chars.as_str();
        match letter {
            'b' => out.push('\u{8}'),
            'f' => out.push('\u{C}'),
            'n' => out.push('\n'),
            'r' => out.push('\r'),
            't' => out.push('\t'),
            'u' => rest = unescape_unicode(&mut out, rest),
            other => out.push(other),
        }
    }
    out.push_str(rest);
    out
}

fn unescape_unicode<'a>(out: &mut String, rest: &'a str) -> &'a str {
    let (first, mut rest) = rest.split_at_checked(4).unwrap_or((rest, ""));
    let first = hex4(first.as_bytes()).unwrap_or(0xFFFD);
    let mut units = [first, 0];
    let mut used = 1;
    if (0xD800..0xDC00).contains(&first)
        && let Some(second) = rest.strip_prefix("\\u")
        && let Some((digits, after)) = second.split_at_checked(4)
    {
        units = [first, hex4(digits.as_bytes()).unwrap_or(0xFFFD)];
        used = 2;
        rest = after;
    }
    out.extend(char::decode_utf16(units.into_iter().take(used)).map(|c| c.unwrap_or(char::REPLACEMENT_CHARACTER)));
    rest
}

fn hex4(digits: &[u8]) -> Option<u16> {
    let mut value = 0_u16;
    for digit in digits {
        let digit = match digit {
            b'0'..=b'9' => digit.wrapping_sub(b'0'),
            b'a'..=b'f' => digit.wrapping_sub(b'a').wrapping_add(10),
            b'A'..=b'F' => digit.wrapping_sub(b'A').wrapping_add(10),
            _ => return None,
        };
        value = (value << 4) | u16::from(digit);
    }
    (digits.len() == 4).then_some(value)
}

/// The length of a text is checked before anything is measured in it, so this never cuts.
fn narrow(position: usize) -> u32 {
    u32::try_from(position).unwrap_or(u32::MAX)
}

const NO_PARENT: u32 = u32::MAX;
const NOTHING: Node = Node { start: 0, end: 0, next: 0, kind: Kind::Null, escaped: false };
const ONES: u64 = 0x0101_0101_0101_0101;
const HIGHS: u64 = 0x8080_8080_8080_8080;
const HEX: &[u8; 16] = b"0123456789abcdef";
/// A guess that makes the tape grow seldom; envelopes have a value or name every twelve bytes or so.
const BYTES_PER_NODE: usize = 12;
/// Names in requests are parameters, not data.
const REQUEST_NAME_BYTES_MAX: usize = 256;
/// The longest literal that a double needs is 24 characters; more is padding or an attack on big-number code.
const REQUEST_NUMBER_CHARS_MAX: usize = 64;
/// A result nests the data of a request inside an envelope and content blocks.
const REPLY_DEPTH_EXTRA: usize = 8;
/// Names in results may be data: paths, URLs.
const REPLY_NAME_BYTES_MAX: usize = 4096;
/// Servers in languages with big integers print them whole.
const REPLY_NUMBER_CHARS_MAX: usize = 1024;
/// A tape entry takes 16 bytes, so a reply's tape is at most about twice the reply.
const REPLY_BYTES_PER_VALUE: usize = 16;

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, path::Path};

    use proptest::prelude::*;

    use super::*;

    const BOUNDS: Bounds = Bounds { depth_max: 64, values_max: 20_000, name_bytes_max: 256, number_chars_max: 64 };

    fn parse(text: impl AsRef<[u8]>) -> Result<Document, &'static str> {
        Document::parse(Bytes::copy_from_slice(text.as_ref()), &BOUNDS)
    }

    fn check(text: &str, expect: Result<(), &str>) {
        assert_eq!(parse(text).map(|_| ()), expect, "{text}");
    }

    #[test]
    fn what_is_stricter_than_the_grammar() {
        check(r#"{"a":1,"a":2}"#, Err("a member name is there twice"));
        check(r#"{"a":1,"\u0061":2}"#, Err("a member name is there twice"));
        check(r#"{"x":[{"b":{},"b":null}]}"#, Err("a member name is there twice"));
        check(r#"{"a":{"a":1},"b":{"a":1}}"#, Ok(()));
        check("\u{feff}{}", Err("a byte order mark"));
        check(r#""\ud800""#, Err("an escape of half a surrogate pair"));
        check(r#""\udc00""#, Err("an escape of half a surrogate pair"));
        check(r#""\ud800\u0041""#, Err("an escape of half a surrogate pair"));
        check(r#""\ud83d\ude00""#, Ok(()));
        check("1e308", Ok(()));
        check("1e309", Err("a number beyond IEEE 754"));
        check(&"9".repeat(64), Ok(()));
        check(&"9".repeat(65), Err("a number with too many digits"));
        check(&format!("{}{}", "[".repeat(64), "]".repeat(64)), Ok(()));
        check(&format!("{}{}", "[".repeat(65), "]".repeat(65)), Err("nested too deep"));
        check(&format!("[{}1]", "1,".repeat(20_000)), Err("too many values"));
        check(&format!(r#"{{"{}":1}}"#, "k".repeat(257)), Err("a member name is too long"));
    }

    #[test]
    fn many_duplicates_are_found_whatever_their_fingerprints() {
        for size in [2_usize, 17, 400, 5_000] {
            let mut text: Vec<String> = (0..size).map(|n| format!("\"key{n}\":0")).collect();
            check(&format!("{{{}}}", text.join(",")), Ok(()));
            text.push(format!("\"key{}\":1", size / 2));
            check(&format!("{{{}}}", text.join(",")), Err("a member name is there twice"));
        }
    }

    #[test]
    fn values_are_found_by_their_unescaped_names() {
        let document = parse(r#" {"a\u0062" : [1, "x\ny\ud83d\ude00", {"z": null}], "n": -7, "t": true} "#).unwrap();
        let root = document.root();
        assert_eq!(root.get("ab").unwrap().raw_text(), r#"[1, "x\ny\ud83d\ude00", {"z": null}]"#);
        let elements: Vec<_> = root.get("ab").unwrap().elements().collect();
        assert_eq!(elements.len(), 3);
        assert_eq!(elements[1].text().unwrap(), "x\ny😀");
        assert!(elements[2].get("z").unwrap().is_null());
        assert_eq!(root.get("n").unwrap().integer(), Some(-7));
        assert_eq!(root.get("t").unwrap().boolean(), Some(true));
        assert!(root.get("z").is_none());
        assert_eq!(root.members().count(), 3);
    }

    /// <https://github.com/nst/JSONTestSuite>: `y_` must be taken, `n_` must not, `i_` is ours to decide and recorded.
    #[test]
    fn the_json_test_suite() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/corpora/json");
        // The suite spells one number with more than 64 characters.
        let roomy = Bounds { number_chars_max: 128, ..BOUNDS };
        let mut decided = BTreeMap::new();
        let mut counted = (0, 0);
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            let Some(name) = name.strip_suffix(".json") else { continue };
            let verdict = Document::parse(std::fs::read(&path).unwrap().into(), &roomy).map(|_| ());
            match name.split_at(2).0 {
                // I-JSON (RFC 7493 §2.3) forbids what RFC 8259 only warns of.
                "y_" if name.starts_with("y_object_duplicated_key") => {
                    assert_eq!(verdict, Err("a member name is there twice"), "{name}");
                    counted.0 += 1;
                }
                "y_" => {
                    assert_eq!(verdict, Ok(()), "{name}");
                    counted.0 += 1;
                }
                "n_" => {
                    assert!(verdict.is_err(), "{name} was accepted");
                    counted.1 += 1;
                }
                _ => {
                    decided.insert(name.to_owned(), verdict.err().unwrap_or("accepted"));
                }
            }
        }
        assert_eq!(counted, (95, 188));
        insta::assert_debug_snapshot!(decided);
    }

    /// What serde_json takes and we do not, because a rule at the top of this file says so.
    fn stricter(text: &str) -> bool {
        matches!(
            parse(text).err(),
            Some("a member name is there twice" | "a number with too many digits" | "a byte order mark")
        )
    }

    proptest! {
        #[test]
        fn accepts_what_serde_accepts(text in r#"[\[\]{}:,"\\ \ta-eu0-9.+-]{0,24}"#) {
            let theirs = serde_json::from_str::<serde_json::Value>(&text).is_ok();
            prop_assert_eq!(parse(&text).is_ok() || stricter(&text), theirs);
        }

        #[test]
        fn accepts_and_reads_what_serde_writes(value in json(), pretty: bool) {
            let text = if pretty { serde_json::to_string_pretty(&value) } else { serde_json::to_string(&value) }.unwrap();
            let document = parse(&text).unwrap();
            prop_assert_eq!(rebuild(document.root()), value);
        }

        #[test]
        fn one_broken_byte_is_judged_as_serde_judges_it(value in json(), at: prop::sample::Index, byte: u8) {
            let mut text = serde_json::to_vec(&value).unwrap();
            let at = at.index(text.len());
            text[at] = byte;
            let theirs = serde_json::from_slice::<serde_json::Value>(&text).is_ok();
            let ours = parse(&text).is_ok() || std::str::from_utf8(&text).is_ok_and(stricter);
            prop_assert_eq!(ours, theirs);
        }

        #[test]
        fn strings_survive_writing_and_reading(text: String) {
            let mut out = Vec::new();
            write_string(&mut out, &text);
            let document = parse(&out).unwrap();
            prop_assert_eq!(document.root().text().unwrap(), text);
        }
    }

    fn json() -> impl Strategy<Value = serde_json::Value> {
        let leaf = prop_oneof![
            Just(serde_json::Value::Null),
            any::<bool>().prop_map(Into::into),
            any::<i64>().prop_map(Into::into),
            any::<String>().prop_map(Into::into),
        ];
        leaf.prop_recursive(5, 48, 6, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Into::into),
                prop::collection::btree_map("\\PC{0,6}", inner, 0..6)
                    .prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
            ]
        })
    }

    fn rebuild(value: Value<'_>) -> serde_json::Value {
        match value.kind() {
            Kind::Null => serde_json::Value::Null,
            Kind::Bool => value.boolean().unwrap().into(),
            Kind::Number => value.integer().unwrap().into(),
            Kind::String => value.text().unwrap().into_owned().into(),
            Kind::Array => value.elements().map(rebuild).collect::<Vec<_>>().into(),
            Kind::Object => serde_json::Value::Object(
                value.members().map(|(name, value)| (name.text().unwrap().into_owned(), rebuild(value))).collect(),
            ),
        }
    }
}
