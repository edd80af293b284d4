//! Which arguments does a tool mirror in headers, and do they agree?
//!
//! `x-mcp-header` of a tool's schema (MCP 2026-07-28 basic/transports/streamable-http, custom headers): found and judged
//! once when a definition is read, compared with every call, and recomputed for the upstream. It does not keep schemas.

use std::{borrow::Cow, collections::BTreeSet};

use http::{HeaderMap, HeaderName, HeaderValue};

use super::{
    headers::{self, Field},
    json::{Kind, Value},
};
use crate::refusal::Refusal;

/// One argument that is mirrored in a header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mirror {
    /// `mcp-param-…`, in lower case.
    pub header: HeaderName,
    /// Where the argument stands, from `arguments` on.
    pub path: Vec<String>,
    /// How values compare.
    pub kind: MirrorKind,
}

/// How the values of a mirrored argument compare.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MirrorKind {
    /// Letter by letter, after decoding.
    Text,
    /// As numbers: `42` and `42.0` are one.
    Integer,
    /// `true` or `false`.
    Boolean,
}

/// The mirrors that a tool's `inputSchema` declares.
///
/// # Errors
/// Why the tool must not be listed (RC-05).
pub fn declared(schema: Value<'_>) -> Result<Vec<Mirror>, &'static str> {
    let mut mirrors = Vec::new();
    let mut reached = 0_usize;
    let mut names = BTreeSet::new();
    // Only chains of `properties` reach an annotated parameter.
    let mut open = vec![(schema, Vec::new())];
    while let Some((schema, path)) = open.pop() {
        for (name, property) in schema.get("properties").into_iter().flat_map(Value::members) {
            let mut path: Vec<String> = path.clone();
            path.push(name.text().unwrap_or_default().into_owned());
            if path.len() > PATH_DEPTH_MAX {
                continue;
            }
            if let Some(annotation) = property.get(ANNOTATION) {
                reached = reached.saturating_add(1);
                let header = header_of(annotation)?;
                if !names.insert(header.as_str().to_owned()) {
                    return Err("two parameters with one `x-mcp-header`");
                }
                mirrors.push(Mirror { header, path: path.clone(), kind: kind_of(property)? });
            }
            open.push((property, path));
        }
    }
    if reached != annotations(schema) {
        return Err("an `x-mcp-header` that chains of `properties` do not reach");
    }
    // Without an order of its own the list would follow the walk.
    mirrors.sort_by(|one, other| one.header.as_str().cmp(other.header.as_str()));
    Ok(mirrors)
}

fn header_of(annotation: Value<'_>) -> Result<HeaderName, &'static str> {
    let name = annotation.text().ok_or("an `x-mcp-header` that is not a string")?;
    if name.is_empty() {
        return Err("an empty `x-mcp-header`");
    }
    let full = format!("{}{name}", headers::PARAM_PREFIX).to_ascii_lowercase();
    HeaderName::from_bytes(full.as_bytes()).map_err(|_fault| "an `x-mcp-header` that is not a token (RFC 9110 §5.6.2)")
}

fn kind_of(property: Value<'_>) -> Result<MirrorKind, &'static str> {
    match property.get("type").and_then(Value::text).as_deref() {
        Some("string") => Ok(MirrorKind::Text),
        Some("integer") => Ok(MirrorKind::Integer),
        Some("boolean") => Ok(MirrorKind::Boolean),
        _ => Err("an `x-mcp-header` on a parameter that is not a string, an integer or a boolean"),
    }
}

/// How many schemas anywhere below `schema` carry the annotation. A property that is *called* `x-mcp-header` stands in
/// `properties` and is a schema, hence an object or a boolean: its name is no annotation.
fn annotations(schema: Value<'_>) -> usize {
    let mut count = 0_usize;
    let mut open = vec![(schema, false)];
    while let Some((value, names_are_free)) = open.pop() {
        for (name, member) in value.members() {
            if !names_are_free && name.is(ANNOTATION) {
                count = count.saturating_add(1);
                continue;
            }
            // Data, not schemas.
            if !names_are_free && ["enum", "const", "default", "examples"].iter().any(|data| name.is(data)) {
                continue;
            }
            let free = !names_are_free && FREE_NAMES.iter().any(|keyword| name.is(keyword));
            open.push((member, free));
        }
        open.extend(value.elements().map(|element| (element, false)));
    }
    count
}

/// Compares the headers of a call with its arguments (RS-15).
///
/// # Errors
/// [`Refusal::HeaderMismatch`] with the header that is missing, superfluous, malformed or different.
pub fn check(mirrors: &[Mirror], arguments: Option<Value<'_>>, headers: &HeaderMap) -> Result<(), Refusal> {
    for mirror in mirrors {
        let field = Field::of(headers, &mirror.header);
        if !agrees(mirror.kind, field, mirror.argument(arguments)) {
            return Err(Refusal::HeaderMismatch(Cow::Owned(mirror.header.as_str().to_owned())));
        }
    }
    Ok(())
}

impl Mirror {
    /// The argument that it mirrors; `null` counts as absent.
    #[must_use]
    pub fn argument<'a>(&self, arguments: Option<Value<'a>>) -> Option<Value<'a>> {
        let found = self.path.iter().try_fold(arguments?, |value, name| value.get(name))?;
        (!found.is_null()).then_some(found)
    }
}

fn agrees(kind: MirrorKind, header: Field<'_>, argument: Option<Value<'_>>) -> bool {
    let (Field::Text(header), Some(argument)) = (header, argument) else {
        return header == Field::Absent && argument.is_none();
    };
    let Some(header) = headers::decode(header) else { return false };
    // An argument of another type than the schema's is compared as what it is: the tool will refuse it, not we.
    match (kind, argument.kind()) {
        (MirrorKind::Integer, Kind::Number) => same_number(&header, argument.raw_text()),
        (_, Kind::String) => argument.text().is_some_and(|text| text == header),
        (_, Kind::Number | Kind::Bool) => argument.raw_text() == header,
        (_, Kind::Null | Kind::Array | Kind::Object) => false,
    }
}

/// Whether two numbers are one: as integers where both are, else letter by letter.
fn same_number(header: &str, body: &str) -> bool {
    match (integer(header), integer(body)) {
        (Some(value), Some(other)) => value == other && !header.starts_with('+'),
        (None, None) => header == body,
        _ => false,
    }
}

/// The integer that a JSON number spells: `42`, `42.0`, `4.2e1` with at most 38 places.
fn integer(text: &str) -> Option<i128> {
    let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
    let exponent: i32 = exponent.parse().ok()?;
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let fraction = fraction.trim_end_matches('0');
    let places = exponent.checked_sub(i32::try_from(fraction.len()).ok()?)?;
    let digits: i128 = format!("{whole}{fraction}").parse().ok()?;
    if digits == 0 {
        return Some(0);
    }
    let power = 10_i128.checked_pow(places.unsigned_abs())?;
    if places >= 0 {
        digits.checked_mul(power)
    } else {
        (digits.checked_rem(power)? == 0).then_some(digits.checked_div(power)?)
    }
}

/// Adds the headers that mirror what goes up, computed from the arguments that go up (RC-03).
pub fn mirror(mirrors: &[Mirror], arguments: Option<Value<'_>>, headers: &mut HeaderMap) {
    for mirror in mirrors {
        let Some(argument) = mirror.argument(arguments) else { continue };
        let Some(text) = mirrored_text(argument) else { continue };
        if let Ok(value) = HeaderValue::from_str(&headers::encode(&text)) {
            headers.insert(mirror.header.clone(), value);
        }
    }
}

fn mirrored_text(argument: Value<'_>) -> Option<Cow<'_, str>> {
    match argument.kind() {
        Kind::String => argument.text(),
        Kind::Number => {
            let raw = argument.raw_text();
            Some(integer(raw).map_or(Cow::Borrowed(raw), |value| Cow::Owned(value.to_string())))
        }
        Kind::Bool => Some(Cow::Borrowed(argument.raw_text())),
        Kind::Null | Kind::Array | Kind::Object => None,
    }
}

/// The `Mcp-Param-*` headers that no mirror of the tool explains: they go up as they came and mean nothing here (RI-02).
/// One that is there twice or cannot be read is left out: nobody could say what it says.
pub fn unrecognised<'a>(
    mirrors: &'a [Mirror],
    headers: &'a HeaderMap,
) -> impl Iterator<Item = (&'a HeaderName, &'a HeaderValue)> {
    headers
        .keys()
        .filter(|name| name.as_str().starts_with(headers::PARAM_PREFIX))
        .filter(|name| mirrors.iter().all(|mirror| mirror.header != **name))
        .filter(|name| matches!(Field::of(headers, name), Field::Text(_)))
        .filter_map(|name| Some((name, headers.get(name)?)))
        .take(UNRECOGNISED_MAX)
}

/// The annotation of a schema (MCP 2026-07-28 server/tools).
pub const ANNOTATION: &str = "x-mcp-header";
/// Keywords of JSON Schema 2020-12 whose members have names of the author's choice.
const FREE_NAMES: &[&str] = &["properties", "patternProperties", "$defs", "definitions", "dependentSchemas"];
/// Arguments deeper than this are data.
const PATH_DEPTH_MAX: usize = 16;
/// More headers than any schema mirrors.
const UNRECOGNISED_MAX: usize = 32;

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::rpc::json::{Bounds, Document};

    fn document(text: &str) -> Document {
        let bounds = Bounds { depth_max: 64, values_max: 10_000, name_bytes_max: 256, number_chars_max: 64 };
        Document::parse(Bytes::copy_from_slice(text.as_bytes()), &bounds).unwrap()
    }

    fn property(property: &str) -> Result<Vec<Mirror>, &'static str> {
        declared(document(&format!(r#"{{"type":"object","properties":{{"a":{property}}}}}"#)).root())
    }

    #[test]
    fn rc_05_invalid_annotations_withdraw_the_tool() {
        assert_eq!(property(r#"{"type":"string","x-mcp-header":"Region"}"#).unwrap()[0].header, "mcp-param-region");
        assert_eq!(property(r#"{"type":"string"}"#).unwrap(), []);
        for bad in [
            r#"{"type":"string","x-mcp-header":""}"#,
            r#"{"type":"string","x-mcp-header":"a b"}"#,
            r#"{"type":"string","x-mcp-header":"a\r\nb"}"#,
            r#"{"type":"string","x-mcp-header":"é"}"#,
            r#"{"type":"string","x-mcp-header":7}"#,
            r#"{"type":"array","x-mcp-header":"A"}"#,
            r#"{"type":"number","x-mcp-header":"A"}"#,
            r#"{"x-mcp-header":"A"}"#,
            r#"{"type":"array","items":{"type":"string","x-mcp-header":"A"}}"#,
            r#"{"anyOf":[{"type":"string","x-mcp-header":"A"}]}"#,
            r#"{"type":"object","properties":{"b":{"type":"string","x-mcp-header":"A"},"c":{"type":"string","x-mcp-header":"a"}}}"#,
        ] {
            assert!(property(bad).is_err(), "{bad}");
        }
        let nested = property(r#"{"type":"object","properties":{"b":{"type":"integer","x-mcp-header":"B"}}}"#).unwrap();
        assert_eq!(nested[0].path, ["a", "b"]);
        assert_eq!(property(r#"{"type":"object","properties":{"x-mcp-header":{"type":"string"}}}"#).unwrap(), []);
        assert_eq!(property(r#"{"type":"object","default":{"x-mcp-header":"data"}}"#).unwrap(), []);
    }

    fn checked(kind: &str, argument: &str, header: Option<&str>) -> bool {
        let mirrors = property(&format!(r#"{{"type":"{kind}","x-mcp-header":"A"}}"#)).unwrap();
        let mut headers = HeaderMap::new();
        if let Some(header) = header {
            headers.insert("mcp-param-a", HeaderValue::from_str(header).unwrap());
        }
        let arguments = document(argument);
        check(&mirrors, Some(arguments.root()), &headers).is_ok()
    }

    #[test]
    fn rs_15_annotated_arguments_agree_with_their_headers() {
        let cases = [
            ("string", r#"{"a":"x"}"#, Some("x"), true),
            ("string", r#"{"a":"x"}"#, Some("X"), false),
            ("string", r#"{"a":"x"}"#, None, false),
            ("string", r#"{"a":null}"#, None, true),
            ("string", r#"{"a":null}"#, Some("null"), false),
            ("string", r"{}", None, true),
            ("string", r"{}", Some("x"), false),
            ("string", r#"{"a":"日本語"}"#, Some("=?base64?5pel5pys6Kqe?="), true),
            ("string", r#"{"a":"日本語"}"#, Some("=?base64?5pel5pys6Kqe"), false),
            ("integer", r#"{"a":42}"#, Some("42"), true),
            ("integer", r#"{"a":42}"#, Some("42.0"), true),
            ("integer", r#"{"a":42.0}"#, Some("42"), true),
            ("integer", r#"{"a":4.2e1}"#, Some("42"), true),
            ("integer", r#"{"a":42}"#, Some("43"), false),
            ("integer", r#"{"a":42}"#, Some("0x2a"), false),
            ("integer", r#"{"a":42}"#, Some("inf"), false),
            ("integer", r#"{"a":9007199254740993}"#, Some("9007199254740992"), false),
            ("integer", r#"{"a":42}"#, Some("+42"), false),
            ("integer", r#"{"a":1.5}"#, Some("1.5"), true),
            ("integer", r#"{"a":1.5}"#, Some("1.50"), false),
            (
                "integer",
                r#"{"a":10000000000000000000000000000000000000001}"#,
                Some("10000000000000000000000000000000000000002"),
                false,
            ),
            ("boolean", r#"{"a":true}"#, Some("true"), true),
            ("boolean", r#"{"a":true}"#, Some("True"), false),
        ];
        for (kind, argument, header, expect) in cases {
            assert_eq!(checked(kind, argument, header), expect, "{kind} {argument} {header:?}");
        }
    }

    #[test]
    fn rc_03_what_is_mirrored_up_agrees_with_what_is_sent_up() {
        let schema = document(
            r#"{"properties":{"s":{"type":"string","x-mcp-header":"S"},"n":{"type":"integer","x-mcp-header":"N"},
                "b":{"type":"boolean","x-mcp-header":"B"},"z":{"type":"string","x-mcp-header":"Z"}}}"#,
        );
        let mirrors = declared(schema.root()).unwrap();
        let arguments = document(r#"{"s":" é","n":42.0,"b":false,"z":null}"#);
        let mut headers = HeaderMap::new();
        mirror(&mirrors, Some(arguments.root()), &mut headers);
        assert_eq!(headers["mcp-param-s"], "=?base64?IMOp?=");
        assert_eq!(headers["mcp-param-n"], "42");
        assert_eq!(headers["mcp-param-b"], "false");
        assert!(!headers.contains_key("mcp-param-z"));
        assert_eq!(check(&mirrors, Some(arguments.root()), &headers), Ok(()));
    }

    #[test]
    fn ri_02_unrecognised_parameters_are_named_and_not_judged() {
        let mirrors = property(r#"{"type":"string","x-mcp-header":"A"}"#).unwrap();
        let mut headers = HeaderMap::new();
        headers.insert("mcp-param-a", HeaderValue::from_static("1"));
        headers.insert("mcp-param-b", HeaderValue::from_static("2"));
        headers.append("mcp-param-c", HeaderValue::from_static("3"));
        headers.append("mcp-param-c", HeaderValue::from_static("4"));
        headers.insert("cookie", HeaderValue::from_static("x"));
        let found: Vec<_> = unrecognised(&mirrors, &headers).map(|(name, _)| name.as_str()).collect();
        assert_eq!(found, ["mcp-param-b"]);
    }
}
