//! Do the headers say what the body says?
//!
//! The standard headers of MCP 2026-07-28 basic/transports/streamable-http, how values are encoded in them, and how they
//! are compared. Decisions are made on the body alone; headers only have to agree (RI-03). It does not know schemas:
//! [`super::mirrors`] does.

use std::borrow::Cow;

use base64::{Engine, engine::general_purpose::STANDARD};
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::refusal::Refusal;

/// `MCP-Protocol-Version`.
pub const PROTOCOL_VERSION: HeaderName = HeaderName::from_static("mcp-protocol-version");
/// `Mcp-Method`.
pub const METHOD: HeaderName = HeaderName::from_static("mcp-method");
/// `Mcp-Name`.
pub const NAME: HeaderName = HeaderName::from_static("mcp-name");
/// `Mcp-Session-Id`, legacy.
pub const SESSION_ID: HeaderName = HeaderName::from_static("mcp-session-id");
/// The event after which a stream goes on.
pub const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
/// What the headers start with that mirror arguments.
pub const PARAM_PREFIX: &str = "mcp-param-";

/// One header of which there may be only one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Field<'a> {
    /// It is not there.
    Absent,
    /// Its value, without the blanks around.
    Text(&'a str),
    /// It is there twice, or is not visible ASCII: two readers could read two values.
    Unreadable,
}

impl<'a> Field<'a> {
    /// The header called `name`, in lower case.
    #[must_use]
    pub fn of(headers: &'a HeaderMap, name: &HeaderName) -> Self {
        let mut values = headers.get_all(name).iter();
        match (values.next(), values.next()) {
            (None, _) => Self::Absent,
            (Some(value), None) => Self::of_value(value),
            (Some(_), Some(_)) => Self::Unreadable,
        }
    }

    /// One header's value.
    #[must_use]
    pub fn of_value(value: &'a HeaderValue) -> Self {
        value.to_str().map_or(Self::Unreadable, |text| Self::Text(text.trim_matches([' ', '\t'])))
    }
}

/// The session id that a legacy client sends with any HTTP method.
///
/// # Errors
/// [`Refusal::SessionUnknown`] where it is there and cannot be one of ours (RL-03).
pub fn session_id(headers: &HeaderMap) -> Result<Option<&str>, Refusal> {
    match Field::of(headers, &SESSION_ID) {
        Field::Absent => Ok(None),
        Field::Text(id) => Ok(Some(id)),
        Field::Unreadable => Err(Refusal::SessionUnknown),
    }
}

/// Whether a request has a header that mirrors its body.
#[must_use]
pub fn mirrors_any(headers: &HeaderMap) -> bool {
    [METHOD, NAME].iter().any(|name| headers.contains_key(name))
}

/// The last event that a client got of a stream which it comes back to (RL-08); what cannot be read names none.
#[must_use]
pub fn last_event_id(headers: &HeaderMap) -> Option<&str> {
    match Field::of(headers, &LAST_EVENT_ID) {
        Field::Text(id) => Some(id),
        Field::Absent | Field::Unreadable => None,
    }
}

/// The member of `params` that `Mcp-Name` mirrors for `method` (RS-13).
#[must_use]
pub fn name_member(method: &str) -> Option<&'static str> {
    match method {
        "tools/call" | "prompts/get" => Some("name"),
        "resources/read" => Some("uri"),
        "tasks/get" | "tasks/update" | "tasks/cancel" => Some("taskId"),
        _ => None,
    }
}

/// Whether a header says what the body says: both absent, or equal after decoding; values are case-sensitive (RS-14).
#[must_use]
pub fn agrees(header: Field<'_>, body: Option<&str>) -> bool {
    match (header, body) {
        (Field::Absent, None) => true,
        (Field::Text(header), Some(body)) => decode(header).is_some_and(|text| text == body),
        (Field::Absent | Field::Text(_) | Field::Unreadable, _) => false,
    }
}

/// Undoes `=?base64?…?=`; anything else stands for itself. `None` for Base64 that is not, or not UTF-8 (RS-14).
#[must_use]
pub fn decode(value: &str) -> Option<Cow<'_, str>> {
    let Some(inner) = sentinel(value) else { return Some(Cow::Borrowed(value)) };
    let bytes = STANDARD.decode(inner).ok()?;
    String::from_utf8(bytes).ok().map(Cow::Owned)
}

/// The header value that mirrors `text` (RC-03): plain where every reader reads it so, Base64 in all other cases.
#[must_use]
pub fn encode(text: &str) -> Cow<'_, str> {
    let printable = text.bytes().all(|byte| (0x20..=0x7E).contains(&byte));
    let bare = !text.starts_with(' ') && !text.ends_with(' ');
    if printable && bare && sentinel(text).is_none() {
        Cow::Borrowed(text)
    } else {
        Cow::Owned(format!("=?base64?{}?=", STANDARD.encode(text)))
    }
}

fn sentinel(value: &str) -> Option<&str> {
    value.strip_prefix("=?base64?")?.strip_suffix("?=")
}

/// Adds the standard headers of a modern request that the gateway sends, computed from what it sends (RC-02).
/// `method` must be a token, `name` may be anything.
pub fn mirror(headers: &mut HeaderMap, version: &str, method: &str, name: Option<&str>) {
    let fields = [(PROTOCOL_VERSION, Some(Cow::Borrowed(version))), (METHOD, Some(Cow::Borrowed(method)))];
    for (field, value) in fields.into_iter().chain([(NAME, name.map(encode))]) {
        if let Some(Ok(value)) = value.map(|value| HeaderValue::from_str(&value)) {
            headers.insert(field, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The vectors of SEP-2243 (§ test vectors), with the code that the final revision gave them.
    #[test]
    fn rs_14_base64_values_are_decoded_before_they_are_compared() {
        let cases = [
            ("plain", Some("plain")),
            ("=?base64?SGVsbG8=?=", Some("Hello")),
            ("=?base64?SGVsbG8?=", None),
            ("=?base64?SGVs!!!bG8=?=", None),
            ("SGVsbG8=", Some("SGVsbG8=")),
            ("=?base64?SGVsbG8=", Some("=?base64?SGVsbG8=")),
            ("=?BASE64?SGVsbG8=?=", Some("=?BASE64?SGVsbG8=?=")),
            ("=?base64?5pel5pys6Kqe?=", Some("日本語")),
            ("=?base64?/w==?=", None),
            ("", Some("")),
        ];
        for (header, text) in cases {
            assert_eq!(decode(header).as_deref(), text, "{header}");
        }
    }

    #[test]
    fn rc_03_values_are_encoded_where_they_would_not_survive() {
        let cases = [
            ("us-west1", "us-west1"),
            ("two words", "two words"),
            ("", ""),
            (" padded ", "=?base64?IHBhZGRlZCA=?="),
            ("line1\nline2", "=?base64?bGluZTEKbGluZTI=?="),
            ("Hello, 世界", "=?base64?SGVsbG8sIOS4lueVjA==?="),
            ("=?base64?literal?=", "=?base64?PT9iYXNlNjQ/bGl0ZXJhbD89?="),
            ("tab\there", "=?base64?dGFiCWhlcmU=?="),
        ];
        for (text, header) in cases {
            assert_eq!(encode(text), header, "{text}");
        }
    }

    #[test]
    fn a_header_that_is_there_twice_is_not_readable() {
        let mut headers = HeaderMap::new();
        headers.append(NAME, HeaderValue::from_static("a"));
        assert_eq!(Field::of(&headers, &NAME), Field::Text("a"));
        headers.append(NAME, HeaderValue::from_static("a"));
        assert_eq!(Field::of(&headers, &NAME), Field::Unreadable);
    }

    #[test]
    fn rs_14_blanks_around_a_value_are_not_part_of_it() {
        let mut headers = HeaderMap::new();
        headers.insert(NAME, HeaderValue::from_static("\t echo \t"));
        assert!(agrees(Field::of(&headers, &NAME), Some("echo")));
        assert!(!agrees(Field::of(&headers, &NAME), Some("Echo")));
    }

    proptest::proptest! {
        #[test]
        fn what_is_encoded_is_decoded(text: String) {
            let header = encode(&text).into_owned();
            let value = HeaderValue::from_str(&header).unwrap();
            proptest::prop_assert!(agrees(Field::of_value(&value), Some(&text)));
        }
    }
}
