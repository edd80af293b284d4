//! What makes a change to the journal show?
//!
//! Every line ends in `,"seq":N,"mac":"…"}`, where `mac` = HMAC-SHA256(K, mac of the line before ‖ this line up to its
//! `mac` member). An unkeyed chain could be computed anew by whoever alters it. A segment's first record (`segment`)
//! names the one before it, its last MAC and its length; a `checkpoint` is an Ed25519 signature over where the chain
//! stands, so that a copy of it kept elsewhere proves a missing tail even against somebody who has K.
//! This module does not read or write files.

use aws_lc_rs::{
    hmac,
    signature::{ED25519, Ed25519KeyPair, UnparsedPublicKey},
};
use serde_json::Value;
use uuid::Uuid;

use super::{
    json::{self, Json},
    record::{Event, Record, SCHEMA, sealed::Fill},
};
use crate::digest::{hex, push_hex, unhex};

/// The MAC before the first record of a chain.
pub(super) const ORIGIN: [u8; 32] = [0; 32];

/// Where a chain stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Chain {
    /// The chain's name.
    pub(super) id: Uuid,
    /// The number of the last record; the first is 1.
    pub(super) seq: u64,
    /// The MAC of the last record.
    pub(super) head: [u8; 32],
}

impl Chain {
    /// A chain without records.
    pub(super) const fn new(id: Uuid) -> Self {
        Self { id, seq: 0, head: ORIGIN }
    }

    /// Appends `line`, which is an object without its end, to `out` as the chain's next record.
    pub(super) fn seal(&mut self, key: &hmac::Key, line: &[u8], out: &mut Vec<u8>) {
        let start = out.len();
        self.seq = self.seq.saturating_add(1);
        out.extend_from_slice(line);
        out.extend_from_slice(SEQ);
        json::digits(out, self.seq);
        self.head = mac(key, &self.head, out.get(start..).unwrap_or_default());
        out.extend_from_slice(MAC);
        push_hex(out, &self.head);
        out.extend_from_slice(END);
        out.push(b'\n');
    }
}

const SEQ: &[u8] = b",\"seq\":";
const MAC: &[u8] = b",\"mac\":\"";
const END: &[u8] = b"\"}";

/// The MAC of a record whose line is `body` up to its `mac` member, after a record with the MAC `previous`.
pub(super) fn mac(key: &hmac::Key, previous: &[u8; 32], body: &[u8]) -> [u8; 32] {
    let mut context = hmac::Context::with_key(key);
    context.update(previous);
    context.update(body);
    let mut mac = [0; 32];
    for (to, from) in mac.iter_mut().zip(context.sign().as_ref()) {
        *to = *from;
    }
    mac
}

/// A line taken apart.
#[derive(Debug, Clone, Copy)]
pub(super) struct Parts<'l> {
    /// The line up to its `mac` member.
    pub(super) body: &'l [u8],
    /// Its number.
    pub(super) seq: u64,
    /// Its MAC, not yet verified.
    pub(super) mac: [u8; 32],
}

impl<'l> Parts<'l> {
    /// Takes a line without its line feed apart; `None` where it does not end as a record does.
    pub(super) fn of(line: &'l [u8]) -> Option<Self> {
        let rest = line.strip_suffix(END)?;
        let (rest, digest) = rest.split_at_checked(rest.len().checked_sub(64)?)?;
        let body = rest.strip_suffix(MAC)?;
        let digits = body.iter().rev().take_while(|byte| byte.is_ascii_digit()).count();
        let (before, number) = body.split_at_checked(body.len().checked_sub(digits)?)?;
        before.strip_suffix(SEQ)?;
        Some(Self { body, seq: std::str::from_utf8(number).ok()?.parse().ok()?, mac: unhex(digest)? })
    }

    /// Whether this is the record that follows `previous` under `key`.
    pub(super) fn follows(&self, key: &hmac::Key, previous: &[u8; 32]) -> bool {
        aws_lc_rs::constant_time::verify_slices_are_equal(&mac(key, previous, self.body), &self.mac).is_ok()
    }
}

/// Why a segment was begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Opened {
    /// The process began.
    Start,
    /// The segment before it was full or old.
    Rotation,
    /// The segment before it could not be written to any more.
    Failure,
}

/// The end of the segment before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Previous {
    /// Its file name.
    pub(super) name: String,
    /// The number of its last record.
    pub(super) seq: u64,
    /// The MAC of its last record.
    pub(super) mac: [u8; 32],
    /// Its length; what stands after that was never acknowledged.
    pub(super) bytes: u64,
}

/// The first record of a segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Header {
    /// The chain's name.
    pub(super) chain: Uuid,
    /// The segment's number; the first is 1.
    pub(super) index: u64,
    /// Why it was begun.
    pub(super) opened: Opened,
    /// The name of the key that the chain is under.
    pub(super) key: String,
    /// The segment before; none before the first.
    pub(super) previous: Option<Previous>,
}

impl Record for Header {
    fn event(&self) -> Event {
        Event::Segment
    }
}

impl Fill for Header {
    fn fill(&self, json: &mut Json<'_>) {
        json.object("segment", |json| {
            json.shown("chain", format_args!("{}", self.chain));
            json.number("index", self.index);
            json.word(
                "opened",
                match self.opened {
                    Opened::Start => "start",
                    Opened::Rotation => "rotation",
                    Opened::Failure => "failure",
                },
            );
            json.word("key", &self.key);
            match &self.previous {
                None => json.null("previous"),
                Some(previous) => json.object("previous", |json| {
                    json.word("name", &previous.name);
                    json.number("seq", previous.seq);
                    json.word("mac", &hex(&previous.mac));
                    json.number("bytes", previous.bytes);
                }),
            }
        });
    }
}

impl Header {
    /// Reads a header back from its line; `None` where it is not one.
    pub(super) fn parse(line: &Value) -> Option<Self> {
        let segment = line.get("segment")?;
        let previous = segment.get("previous")?;
        let previous = if previous.is_null() {
            None
        } else {
            Some(Previous {
                name: previous.get("name")?.as_str()?.to_owned(),
                seq: previous.get("seq")?.as_u64()?,
                mac: unhex(previous.get("mac")?.as_str()?.as_bytes())?,
                bytes: previous.get("bytes")?.as_u64()?,
            })
        };
        Some(Self {
            chain: segment.get("chain")?.as_str()?.parse().ok()?,
            index: segment.get("index")?.as_u64()?,
            opened: match segment.get("opened")?.as_str()? {
                "start" => Opened::Start,
                "rotation" => Opened::Rotation,
                "failure" => Opened::Failure,
                _ => return None,
            },
            key: segment.get("key")?.as_str()?.to_owned(),
            previous,
        })
    }

    /// The MAC that the first record of this segment follows.
    pub(super) fn origin(&self) -> [u8; 32] {
        self.previous.as_ref().map_or(ORIGIN, |previous| previous.mac)
    }

    /// The number that the first record of this segment follows.
    pub(super) fn origin_seq(&self) -> u64 {
        self.previous.as_ref().map_or(0, |previous| previous.seq)
    }
}

/// Calls whose outcome was not known when a segment began, at most [`OPEN_CALLS_MAX`] a record.
#[derive(Debug)]
pub(super) struct OpenCalls<'a>(pub(super) &'a [Uuid]);

/// Keeps the record within what a reader takes.
pub(super) const OPEN_CALLS_MAX: usize = 1000;

impl Record for OpenCalls<'_> {
    fn event(&self) -> Event {
        Event::OpenCalls
    }
}

impl Fill for OpenCalls<'_> {
    fn fill(&self, json: &mut Json<'_>) {
        json.objects("open_calls", self.0, |id, json| json.shown("id", format_args!("{id}")));
    }
}

/// A signed statement of where a chain stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// The chain's name.
    pub chain: Uuid,
    /// The segment that holds the last record.
    pub segment: String,
    /// The number of the last record, which is how many there are.
    pub seq: u64,
    /// The MAC of the last record.
    pub head: [u8; 32],
    /// When it was made, RFC 3339.
    pub at: String,
    /// The Ed25519 signature (RFC 8032).
    pub signature: [u8; 64],
}

impl Checkpoint {
    /// Signs where `chain` stands.
    pub(super) fn sign(chain: &Chain, segment: &str, at: String, pair: &Ed25519KeyPair) -> Self {
        let mut checkpoint = Self {
            chain: chain.id,
            segment: segment.to_owned(),
            seq: chain.seq,
            head: chain.head,
            at,
            signature: [0; 64],
        };
        let signature = pair.sign(checkpoint.message().as_bytes());
        for (to, from) in checkpoint.signature.iter_mut().zip(signature.as_ref()) {
            *to = *from;
        }
        checkpoint
    }

    /// Whether the holder of `public`'s private key signed this.
    #[must_use]
    pub fn signed_by(&self, public: &[u8; 32]) -> bool {
        UnparsedPublicKey::new(&ED25519, public).verify(self.message().as_bytes(), &self.signature).is_ok()
    }

    /// One line, without a line feed, for whoever keeps it where the gateway's machine cannot reach.
    #[must_use]
    pub fn export(&self) -> String {
        let mut out = Vec::new();
        let mut json = Json::begin(&mut out);
        json.word("schema", SCHEMA);
        json.word("event", Event::Checkpoint.as_str());
        self.fill(&mut json);
        out.push(b'}');
        String::from_utf8(out).unwrap_or_default()
    }

    /// Reads back an exported line or the record; `None` where it is not one.
    #[must_use]
    pub fn parse(line: &str) -> Option<Self> {
        Self::parse_value(&serde_json::from_str(line).ok()?)
    }

    pub(super) fn parse_value(line: &Value) -> Option<Self> {
        let inner = line.get("checkpoint")?;
        Some(Self {
            chain: inner.get("chain")?.as_str()?.parse().ok()?,
            segment: inner.get("segment")?.as_str()?.to_owned(),
            seq: inner.get("count")?.as_u64()?,
            head: unhex(inner.get("head")?.as_str()?.as_bytes())?,
            at: inner.get("at")?.as_str()?.to_owned(),
            signature: unhex(inner.get("signature")?.as_str()?.as_bytes())?,
        })
    }

    /// What is signed: every member, one a line, after a line that no other use of the key has.
    fn message(&self) -> String {
        let Self { chain, segment, seq, head, at, signature: _ } = self;
        format!("{SCHEMA} checkpoint\n{chain}\n{segment}\n{seq}\n{}\n{at}\n", hex(head))
    }
}

impl Record for Checkpoint {
    fn event(&self) -> Event {
        Event::Checkpoint
    }
}

impl Fill for Checkpoint {
    fn fill(&self, json: &mut Json<'_>) {
        json.object("checkpoint", |json| {
            json.shown("chain", format_args!("{}", self.chain));
            json.name("segment", &self.segment);
            json.number("count", self.seq);
            json.word("head", &hex(&self.head));
            json.name("at", &self.at);
            json.word("signature", &hex(&self.signature));
        });
    }
}
