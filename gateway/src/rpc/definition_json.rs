//! How does the definition of a tool, prompt or resource look to one client?
//!
//! The bytes that the upstream wrote, with another name and without what the client's revision does not have. It does
//! not know what there is, nor who may see it.

use super::{
    json::{Kind, Value},
    outbound::{member, member_raw, member_text},
    uris, versions,
};
use crate::refusal::Era;

/// Writes `definition` with its naming member as `exposed`, for a client of `version`; `prefix` is the upstream's id
/// where URIs carry it.
pub fn write(
    out: &mut Vec<u8>,
    definition: Value<'_>,
    (naming, exposed): (&str, &str),
    version: &str,
    prefix: Option<&str>,
) {
    out.push(b'{');
    member_text(out, naming, exposed);
    for (name, value) in definition.members() {
        let Some(text) = name.text() else { continue };
        if text == naming || !is_kept(&text, value, version) {
            continue;
        }
        if text == "_meta" {
            member(out, "_meta", b"");
            uris::write_meta(out, value, prefix);
        } else {
            member_raw(out, name.raw(), value.raw());
        }
    }
    out.push(b'}');
}

fn is_kept(name: &str, value: Value<'_>, version: &str) -> bool {
    match name {
        // It says how the tool takes part in the tasks of 2025-11-25, which the gateway follows itself.
        "execution" => false,
        "title" | "_meta" => versions::at_least(version, "2025-06-18"),
        "icons" => versions::at_least(version, "2025-11-25"),
        // RL-11: a legacy client validates results against it, and results that are not objects do not reach it.
        "outputSchema" => match versions::era(version) {
            Era::Modern => true,
            Era::Legacy => versions::at_least(version, "2025-06-18") && is_object_schema(value),
        },
        _ => true,
    }
}

fn is_object_schema(schema: Value<'_>) -> bool {
    schema.kind() == Kind::Object && schema.get("type").is_some_and(|kind| kind.is("object"))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::rpc::json::{Bounds, Document};

    const TOOL: &str = r#"{"name":"add","title":"Add","icons":[],"description":"a \u0062", "inputSchema":{"type":"object",  "x":1.10},
        "outputSchema":{"type":"object"},"execution":{"taskSupport":"required"},"annotations":{},"_meta":{"v/k":1},"vendor":[ 1 ]}"#;

    fn document(text: &str) -> Document {
        let bounds = Bounds { depth_max: 64, values_max: 10_000, name_bytes_max: 256, number_chars_max: 64 };
        Document::parse(Bytes::copy_from_slice(text.as_bytes()), &bounds).unwrap()
    }

    fn written(tool: &str, version: &str) -> String {
        let mut out = Vec::new();
        write(&mut out, document(tool).root(), ("name", "calc__add"), version, None);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_definition_keeps_its_bytes_and_loses_what_the_revision_lacks() {
        let common = r#""description":"a \u0062","inputSchema":{"type":"object",  "x":1.10}"#;
        let schema = r#""outputSchema":{"type":"object"}"#;
        let rest = r#""annotations":{},"_meta":{"v/k":1},"vendor":[ 1 ]"#;
        let newest = format!(r#"{{"name":"calc__add","title":"Add","icons":[],{common},{schema},{rest}}}"#);
        assert_eq!(written(TOOL, "2026-07-28"), newest);
        assert_eq!(written(TOOL, "2025-11-25"), newest);
        assert_eq!(written(TOOL, "2025-06-18"), newest.replace(r#""icons":[],"#, ""));
        let oldest = format!(r#"{{"name":"calc__add",{common},"annotations":{{}},"vendor":[ 1 ]}}"#);
        assert_eq!(written(TOOL, "2025-03-26"), oldest);
    }

    #[test]
    fn a_resource_is_known_by_its_uri() {
        let resource = r#"{"uri":"a:b","name":"n","title":"N","_meta":{"ui/resourceUri":"ui://v"}}"#;
        let mut out = Vec::new();
        write(&mut out, document(resource).root(), ("uri", "crm+a:b"), "2025-06-18", Some("crm"));
        let expect = r#"{"uri":"crm+a:b","name":"n","title":"N","_meta":{"ui/resourceUri":"ui://crm/v"}}"#;
        assert_eq!(String::from_utf8(out).unwrap(), expect);
    }

    #[test]
    fn rl_11_a_legacy_client_sees_no_output_schema_that_is_not_an_object() {
        let tool = r#"{"name":"a","inputSchema":{"type":"object"},"outputSchema":{"type":"array"}}"#;
        assert!(!written(tool, "2025-11-25").contains("outputSchema"));
        assert!(written(tool, "2026-07-28").contains("outputSchema"));
    }
}
