//! Which bytes stand for a call's arguments?
//!
//! Canonical JSON after RFC 8785: no white space, members sorted by the UTF-16 units of their names, the shortest
//! escapes. Numbers stay as `serde_json` read them, which differs from RFC 8785 §3.2.2.3 for numbers that are not
//! integers of 64 bits; the digest is compared with digests of this gateway only. It does not compute the digest.

use serde_json::Value;

use super::json;

/// The canonical bytes of `value`. Recursion is bounded by the depth that `rpc` lets in.
#[must_use]
pub fn canonical(value: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    write(value, &mut out);
    out
}

fn write(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Null => out.extend_from_slice(b"null"),
        Value::Bool(truth) => out.extend_from_slice(if *truth { b"true" } else { b"false" }),
        Value::Number(number) => out.extend_from_slice(number.to_string().as_bytes()),
        Value::String(text) => string(text, out),
        Value::Array(elements) => {
            out.push(b'[');
            for (nth, element) in elements.iter().enumerate() {
                if nth > 0 {
                    out.push(b',');
                }
                write(element, out);
            }
            out.push(b']');
        }
        Value::Object(members) => {
            let mut sorted: Vec<_> = members.iter().collect();
            sorted.sort_by(|(left, _), (right, _)| left.encode_utf16().cmp(right.encode_utf16()));
            out.push(b'{');
            for (nth, (name, member)) in sorted.into_iter().enumerate() {
                if nth > 0 {
                    out.push(b',');
                }
                string(name, out);
                out.push(b':');
                write(member, out);
            }
            out.push(b'}');
        }
    }
}

/// The escapes of RFC 8785 §3.2.2.2.
fn string(text: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    for character in text.chars() {
        match character {
            '"' => out.extend_from_slice(b"\\\""),
            '\\' => out.extend_from_slice(b"\\\\"),
            '\u{8}' => out.extend_from_slice(b"\\b"),
            '\t' => out.extend_from_slice(b"\\t"),
            '\n' => out.extend_from_slice(b"\\n"),
            '\u{c}' => out.extend_from_slice(b"\\f"),
            '\r' => out.extend_from_slice(b"\\r"),
            '\0'..='\u{1f}' => {
                out.extend_from_slice(b"\\u");
                json::hex(out, u32::from(character).to_be_bytes().split_at(2).1);
            }
            _ => out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::canonical;

    #[test]
    fn equal_arguments_have_equal_bytes_whatever_their_order_and_spacing() {
        let check = |text: &str, expect: &str| {
            assert_eq!(String::from_utf8(canonical(&serde_json::from_str(text).unwrap())).unwrap(), expect);
        };
        check(r#" {"b": [1, 2.5, -3], "a": {"d": null, "c": true}} "#, r#"{"a":{"c":true,"d":null},"b":[1,2.5,-3]}"#);
        check(r#""A\u0007\n\"\\""#, r#""A\u0007\n\"\\""#);
        // RFC 8785 §3.2.3: by UTF-16 units, so that U+1F600 (D83D …) comes before U+FB33.
        check("{\"\u{fb33}\":1,\"\u{1f600}\":2}", "{\"\u{1f600}\":2,\"\u{fb33}\":1}");
    }
}
