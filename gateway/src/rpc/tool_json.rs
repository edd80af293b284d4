//! How does one tool's definition look to one client?
//!
//! The bytes that the upstream wrote, with another name and without what the client's revision does not have. It does
//! not know which tools there are, nor who may see them.

use super::{
    json::{Kind, Value},
    outbound::{member_raw, member_text},
    versions,
};
use crate::refusal::Era;

/// Writes `tool` under the name `exposed`, for a client of `version`.
pub fn write(out: &mut Vec<u8>, tool: Value<'_>, exposed: &str, version: &str) {
    out.push(b'{');
    member_text(out, "name", exposed);
    for (name, value) in tool.members() {
        let Some(text) = name.text() else { continue };
        if text != "name" && is_kept(&text, value, version) {
            member_raw(out, name.raw(), value.raw());
        }
    }
    out.push(b'}');
}

fn is_kept(name: &str, value: Value<'_>, version: &str) -> bool {
    match name {
        // It says how the tool takes part in the tasks of 2025-11-25, which the gateway serves to nobody.
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
        write(&mut out, document(tool).root(), "calc__add", version);
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
    fn rl_11_a_legacy_client_sees_no_output_schema_that_is_not_an_object() {
        let tool = r#"{"name":"a","inputSchema":{"type":"object"},"outputSchema":{"type":"array"}}"#;
        assert!(!written(tool, "2025-11-25").contains("outputSchema"));
        assert!(written(tool, "2026-07-28").contains("outputSchema"));
    }
}
