//! Which trace does a request belong to?
//!
//! W3C Trace Context, level 1: `traceparent` and `tracestate` as text, from headers or `_meta`, and back.
//! Baggage is not read: it is untrusted at this door. It does not decide whether a trace is recorded.

use std::fmt;

use http::HeaderMap;

use crate::digest::{hex, push_hex, unhex};

/// Where a caller stands in its trace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parent {
    /// Never zero.
    pub trace_id: TraceId,
    /// Never zero.
    pub span_id: SpanId,
    /// Whether the caller records its side.
    pub sampled: bool,
    /// `tracestate`, checked and otherwise untouched.
    pub state: Option<String>,
}

/// Sixteen bytes; shows as 32 hex digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TraceId(pub u128);

/// Eight bytes; shows as 16 hex digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SpanId(pub u64);

impl Parent {
    /// Reads the two fields; `None` where `traceparent` is not valid. A bad `tracestate` is dropped alone
    /// (W3C Trace Context §3.3.1.5).
    #[must_use]
    pub fn parse(traceparent: &str, tracestate: Option<&str>) -> Option<Self> {
        let mut fields = traceparent.split('-');
        let [version] = unhex(fields.next()?.as_bytes())?;
        let trace_id = u128::from_be_bytes(unhex(fields.next()?.as_bytes())?);
        let span_id = u64::from_be_bytes(unhex(fields.next()?.as_bytes())?);
        let [flags] = unhex(fields.next()?.as_bytes())?;
        // Version 0 has these fields and no more; a later one may add some; 255 is forbidden (§3.2.2.1).
        let surplus = fields.next().is_some();
        if version == u8::MAX || (version == 0 && surplus) || trace_id == 0 || span_id == 0 {
            return None;
        }
        Some(Self {
            trace_id: TraceId(trace_id),
            span_id: SpanId(span_id),
            sampled: flags & 1 == 1,
            state: tracestate.filter(|state| is_state(state)).map(str::to_owned),
        })
    }

    /// The context that the headers carry, if any. Two `traceparent`s are none.
    #[must_use]
    pub fn from_headers(headers: &HeaderMap) -> Option<Self> {
        let mut parents = headers.get_all(TRACEPARENT).iter();
        let (Some(traceparent), None) = (parents.next(), parents.next()) else { return None };
        let mut states = headers.get_all(TRACESTATE).iter().filter_map(|state| state.to_str().ok());
        let state = states.next().map(|first| {
            states.fold(first.to_owned(), |mut all, next| {
                all.push(',');
                all.push_str(next);
                all
            })
        });
        Self::parse(traceparent.to_str().ok()?, state.as_deref())
    }
}

/// The text of `traceparent`.
#[must_use]
pub fn traceparent(trace_id: TraceId, span_id: SpanId, sampled: bool) -> String {
    let mut text = Vec::with_capacity(TRACEPARENT_BYTES);
    text.extend_from_slice(b"00-");
    push_hex(&mut text, &trace_id.0.to_be_bytes());
    text.push(b'-');
    push_hex(&mut text, &span_id.0.to_be_bytes());
    text.extend_from_slice(if sampled { b"-01" } else { b"-00" });
    String::from_utf8(text).unwrap_or_default()
}

/// Version, two ids and flags.
const TRACEPARENT_BYTES: usize = 55;
/// The header and the member of `_meta`.
pub const TRACEPARENT: &str = "traceparent";
/// The header and the member of `_meta`.
pub const TRACESTATE: &str = "tracestate";

impl TraceId {
    /// 32 hex digits.
    #[must_use]
    pub fn text(self) -> String {
        hex(&self.0.to_be_bytes())
    }
}

impl SpanId {
    /// 16 hex digits.
    #[must_use]
    pub fn text(self) -> String {
        hex(&self.0.to_be_bytes())
    }
}

impl fmt::Display for TraceId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.text())
    }
}

impl fmt::Display for SpanId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.text())
    }
}

impl fmt::Debug for TraceId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

impl fmt::Debug for SpanId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

/// §3.3.1 within its bounds: what leaves here goes into headers of upstreams.
fn is_state(text: &str) -> bool {
    let member = |member: &str| {
        let member = member.trim_matches([' ', '\t']);
        member.is_empty()
            || member.split_once('=').is_some_and(|(key, value)| is_state_key(key) && is_state_value(value))
    };
    (1..=STATE_BYTES_MAX).contains(&text.len())
        && text.split(',').count() <= STATE_MEMBERS_MAX
        && text.split(',').all(member)
}

fn is_state_key(key: &str) -> bool {
    let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'_' | b'-' | b'*' | b'/' | b'@');
    (1..=256).contains(&key.len()) && key.bytes().all(fits)
}

fn is_state_value(value: &str) -> bool {
    (1..=256).contains(&value.len()) && value.bytes().all(|b| (0x20..=0x7e).contains(&b) && b != b'=')
}

/// What §3.3.1.5 asks implementations to carry, and what this one carries.
const STATE_BYTES_MAX: usize = 512;
/// §3.3.1.1.
const STATE_MEMBERS_MAX: usize = 32;

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderValue};

    use super::{Parent, SpanId, TraceId, traceparent};

    const FINE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn what_is_written_is_read() {
        let parent = Parent::parse(FINE, Some("a=1, b@c=2")).unwrap();
        assert_eq!(traceparent(parent.trace_id, parent.span_id, parent.sampled), FINE);
        assert_eq!(parent.state.as_deref(), Some("a=1, b@c=2"));
        assert_eq!(traceparent(TraceId(1), SpanId(2), false).len(), 55);
    }

    #[test]
    fn what_the_grammar_forbids_is_no_parent() {
        for (text, fine) in [
            (FINE.to_owned(), true),
            (FINE.replace("-01", "-00"), true),
            (FINE.replace("-01", "-ff"), true),
            (format!("{}-what-comes-later", FINE.replacen("00", "cc", 1)), true),
            (format!("{FINE}-x"), false),
            (format!("{FINE}-"), false),
            (FINE.replacen("00", "ff", 1), false),
            (FINE.to_uppercase(), false),
            (FINE.replace("b7ad6b7169203331", "0000000000000000"), false),
            (FINE.replace("0af7651916cd43dd8448eb211c80319c", &"0".repeat(32)), false),
            (FINE.replace("0af", "+af"), false),
            (FINE.chars().take(54).collect(), false),
            (String::new(), false),
            ("00-é".to_owned(), false),
        ] {
            assert_eq!(Parent::parse(&text, None).is_some(), fine, "{text}");
        }
    }

    #[test]
    fn a_bad_state_is_dropped_alone() {
        for (state, fine) in [
            ("a=1", true),
            ("a=1,,b=2", true),
            ("", false),
            ("a", false),
            ("A=1", false),
            ("a=1\r\nx: y", false),
            ("a=b=c", false),
        ] {
            assert_eq!(Parent::parse(FINE, Some(state)).unwrap().state.is_some(), fine, "{state}");
        }
        assert!(Parent::parse(FINE, Some(&"a=1,".repeat(33))).unwrap().state.is_none());
        assert!(Parent::parse(FINE, Some(&format!("a={}", "x".repeat(600)))).unwrap().state.is_none());
    }

    #[test]
    fn headers_are_joined_or_refused() {
        let mut headers = HeaderMap::new();
        assert_eq!(Parent::from_headers(&headers), None);
        headers.append("traceparent", HeaderValue::from_static(FINE));
        headers.append("tracestate", HeaderValue::from_static("a=1"));
        headers.append("tracestate", HeaderValue::from_static("b=2"));
        assert_eq!(Parent::from_headers(&headers).unwrap().state.as_deref(), Some("a=1,b=2"));
        headers.append("traceparent", HeaderValue::from_static(FINE));
        assert_eq!(Parent::from_headers(&headers), None);
    }
}
