//! How does a form look to a client of 2025-06-18?
//!
//! The schema that an upstream asks to be filled in: titles of choices stand where that revision has them, and values to
//! begin with only where it knows them (spec §2.3, §2.7). More than one choice at once it cannot say: that field stays as
//! it is, and is the client's to refuse. It does not judge forms.

use crate::rpc::{
    json::{Kind, Value},
    outbound,
};

/// Writes `schema` as the `requestedSchema` of parameters.
pub(super) fn older(out: &mut Vec<u8>, schema: Value<'_>) {
    outbound::member(out, "requestedSchema", b"{");
    for (name, value) in schema.members() {
        if !name.is("properties") {
            outbound::member_raw(out, name.raw(), value.raw());
            continue;
        }
        outbound::member(out, "properties", b"{");
        for (name, field) in value.members() {
            outbound::member_raw(out, name.raw(), b"");
            write_field(out, field);
        }
        out.push(b'}');
    }
    out.push(b'}');
}

fn write_field(out: &mut Vec<u8>, field: Value<'_>) {
    let has_default = field.get("type").is_some_and(|kind| kind.is("boolean"));
    out.push(b'{');
    for (name, value) in field.members() {
        match name.text().as_deref() {
            Some("oneOf") if value.kind() == Kind::Array => {
                write_choices(out, ("enum", "const"), value);
                write_choices(out, ("enumNames", "title"), value);
            }
            Some("default") if !has_default => {}
            _ => outbound::member_raw(out, name.raw(), value.raw()),
        }
    }
    out.push(b'}');
}

/// One member of each of the choices, as a list.
fn write_choices(out: &mut Vec<u8>, (list, of): (&str, &str), choices: Value<'_>) {
    outbound::member(out, list, b"[");
    let mut separator: &[u8] = b"";
    for choice in choices.elements().filter_map(|choice| choice.get(of).or_else(|| choice.get("const"))) {
        out.extend_from_slice(separator);
        out.extend_from_slice(choice.raw());
        separator = b",";
    }
    out.push(b']');
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::older;
    use crate::rpc::json::{Bounds, Document};

    fn written(schema: &str) -> String {
        let bounds = Bounds { depth_max: 16, values_max: 100, name_bytes_max: 100, number_chars_max: 100 };
        let schema = Document::parse(Bytes::copy_from_slice(schema.as_bytes()), &bounds).unwrap();
        let mut out = Vec::new();
        older(&mut out, schema.root());
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn choices_and_values_to_begin_with_are_as_the_older_revision_has_them() {
        let same = r#"{"type":"object","properties":{"a":{"type":"string","minLength":1},"b":{"type":"boolean","default":true}},"required":["a"]}"#;
        assert_eq!(written(same), format!(r#""requestedSchema":{same}"#));
        let newer = r#"{"properties":{"a":{"type":"string","oneOf":[{"const":"x","title":"X"},{"const":"y"}],"default":"x"},"n":{"type":"number","default":1}}}"#;
        let older =
            r#"{"properties":{"a":{"type":"string","enum":["x","y"],"enumNames":["X","y"]},"n":{"type":"number"}}}"#;
        assert_eq!(written(newer), format!(r#""requestedSchema":{older}"#));
        let many = r#"{"properties":{"m":{"type":"array","items":{"anyOf":[{"const":"x","title":"X"}]}}}}"#;
        assert_eq!(written(many), format!(r#""requestedSchema":{many}"#), "it has no such thing");
    }
}
