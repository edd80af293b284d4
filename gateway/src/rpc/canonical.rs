//! Which bytes stand for a value, whatever its spelling?
//!
//! Canonical JSON after RFC 8785: no white space, members sorted by the UTF-16 units of their names, the shortest
//! escapes. Numbers stay as they were written, which differs from RFC 8785 §3.2.2.3: no reformatting may hide a change,
//! and digests of these bytes are compared with each other only. It does not compute digests.

use std::borrow::Cow;

use super::json::{Kind, Value, write_string};

/// The canonical bytes of `value`. Recursion is bounded by the depth that `rpc` lets in.
#[must_use]
pub fn canonical(value: Value<'_>) -> Vec<u8> {
    let mut out = Vec::with_capacity(value.raw().len());
    write(value, &mut out);
    out
}

/// Appends the canonical bytes of `value`.
pub fn write<'a>(value: Value<'a>, out: &mut Vec<u8>) {
    match value.kind() {
        Kind::Null | Kind::Bool | Kind::Number => out.extend_from_slice(value.raw()),
        Kind::String => write_text(value, out),
        Kind::Array => {
            out.push(b'[');
            for (nth, element) in value.elements().enumerate() {
                if nth > 0 {
                    out.push(b',');
                }
                write(element, out);
            }
            out.push(b']');
        }
        Kind::Object => {
            let spelled = |(name, member): (Value<'a>, Value<'a>)| (name.text().unwrap_or_default(), name, member);
            let mut sorted: Vec<_> = value.members().map(spelled).collect();
            sorted.sort_by(|(left, ..), (right, ..)| left.encode_utf16().cmp(right.encode_utf16()));
            out.push(b'{');
            for (nth, (_, name, member)) in sorted.into_iter().enumerate() {
                if nth > 0 {
                    out.push(b',');
                }
                write_text(name, out);
                out.push(b':');
                write(member, out);
            }
            out.push(b'}');
        }
    }
}

/// A string without escapes needs none: `rpc` lets in no other spelling of it.
fn write_text(string: Value<'_>, out: &mut Vec<u8>) {
    match string.text() {
        Some(Cow::Owned(text)) => write_string(out, &text),
        Some(Cow::Borrowed(_)) | None => out.extend_from_slice(string.raw()),
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::canonical;
    use crate::rpc::json::{Bounds, Document};

    #[test]
    fn equal_arguments_have_equal_bytes_whatever_their_order_and_spacing() {
        let bounds = Bounds { depth_max: 8, values_max: 100, name_bytes_max: 100, number_chars_max: 100 };
        let check = |text: &str, expect: &str| {
            let document = Document::parse(Bytes::from(text.to_owned()), &bounds).unwrap();
            assert_eq!(String::from_utf8(canonical(document.root())).unwrap(), expect);
        };
        check(r#" {"b": [1, 2.50, -3], "a": {"d": null, "c": true}} "#, r#"{"a":{"c":true,"d":null},"b":[1,2.50,-3]}"#);
        check(r#""\u0041\u0007\n\"\\\u00fc""#, r#""A\u0007\n\"\\ü""#);
        check(r#"["", "a\tb\"", "\u001f"]"#, r#"["","a\tb\"","\u001f"]"#);
        // RFC 8785 §3.2.3: by UTF-16 units, so that U+1F600 (D83D …) comes before U+FB33.
        check("{\"\u{fb33}\":1,\"\u{1f600}\":2}", "{\"\u{1f600}\":2,\"\u{fb33}\":1}");
    }
}
