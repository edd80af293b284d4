//! Under which URI is a resource known on the federated endpoint?
//!
//! `<id>+<uri>`, and `ui://<id>/<rest>` for what has to keep that scheme (MCP Apps): reversible without a table, because
//! an upstream's id is of `a-z 0-9 -` and `+` is legal in a scheme (RFC 3986 §3.1). It does not know which upstreams
//! there are.

use super::{
    json::Value,
    outbound::{member, member_raw, member_text},
};

/// `uri`, or the template of URIs, of the upstream `id` as clients see it.
#[must_use]
pub fn outward(id: &str, uri: &str) -> String {
    match uri.strip_prefix(UI) {
        Some(rest) => format!("{UI}{id}/{rest}"),
        None => format!("{id}+{uri}"),
    }
}

/// The upstream's id and its own URI in one that clients see; `None` where no id can be read in it.
#[must_use]
pub fn inward(uri: &str) -> Option<(&str, String)> {
    if let Some(rest) = uri.strip_prefix(UI) {
        let (id, rest) = rest.split_once('/')?;
        return Some((id, format!("{UI}{rest}")));
    }
    let (id, own) = uri.split_once('+')?;
    Some((id, own.to_owned()))
}

/// Copies the members of `object`, with the URI in its member `uri` as clients see it.
pub fn write_object(out: &mut Vec<u8>, object: Value<'_>, prefix: Option<&str>) {
    out.push(b'{');
    for (name, value) in object.members() {
        match (prefix, value.text()) {
            (Some(id), Some(uri)) if name.is("uri") => member_text(out, "uri", &outward(id, &uri)),
            _ if name.is("_meta") => {
                member(out, "_meta", b"");
                write_meta(out, value, prefix);
            }
            _ => member_raw(out, name.raw(), value.raw()),
        }
    }
    out.push(b'}');
}

/// Copies a content block (MCP server/tools, server/prompts): links to resources and embedded resources as clients
/// see them.
pub fn write_block(out: &mut Vec<u8>, block: Value<'_>, prefix: Option<&str>) {
    let is = |kind: &str| block.get("type").is_some_and(|word| word.is(kind));
    if prefix.is_none() || !block.is_object() {
        out.extend_from_slice(block.raw());
    } else if is("resource_link") {
        write_object(out, block, prefix);
    } else if is("resource") {
        out.push(b'{');
        for (name, value) in block.members() {
            if name.is("resource") && value.is_object() {
                member(out, "resource", b"");
                write_object(out, value, prefix);
            } else {
                member_raw(out, name.raw(), value.raw());
            }
        }
        out.push(b'}');
    } else {
        out.extend_from_slice(block.raw());
    }
}

/// Copies a `_meta`, with the URI of the user interface that it names as clients see it (MCP Apps: `ui.resourceUri`,
/// and the older `ui/resourceUri`).
pub fn write_meta(out: &mut Vec<u8>, meta: Value<'_>, prefix: Option<&str>) {
    let Some(id) = prefix.filter(|_| meta.is_object()) else {
        out.extend_from_slice(meta.raw());
        return;
    };
    out.push(b'{');
    for (name, value) in meta.members() {
        write_meta_member(out, (name, value), id);
    }
    out.push(b'}');
}

/// One member of a `_meta`, as [`write_meta`] has it.
pub fn write_meta_member(out: &mut Vec<u8>, (name, value): (Value<'_>, Value<'_>), id: &str) {
    match value.text() {
        Some(uri) if name.is("ui/resourceUri") => member_text(out, "ui/resourceUri", &outward(id, &uri)),
        None if name.is("ui") && value.is_object() => {
            member(out, "ui", b"{");
            for (name, value) in value.members() {
                match value.text() {
                    Some(uri) if name.is("resourceUri") => member_text(out, "resourceUri", &outward(id, &uri)),
                    _ => member_raw(out, name.raw(), value.raw()),
                }
            }
            out.push(b'}');
        }
        _ => member_raw(out, name.raw(), value.raw()),
    }
}

/// The scheme of user interfaces, which hosts look for (MCP Apps).
const UI: &str = "ui://";

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::rpc::json::{Bounds, Document};

    #[test]
    fn a_uri_comes_back_as_it_went_out() {
        for (own, outside) in [
            ("file:///a/b+c", "crm+file:///a/b+c"),
            ("memo:x", "crm+memo:x"),
            ("git+https://host/x", "crm+git+https://host/x"),
            ("ui://app/view.html", "ui://crm/app/view.html"),
            ("file:///{path}", "crm+file:///{path}"),
        ] {
            assert_eq!(outward("crm", own), outside);
            assert_eq!(inward(outside), Some(("crm", own.to_owned())));
        }
        assert_eq!(inward("file:///a"), None);
        assert_eq!(inward("ui://alone"), None);
    }

    #[test]
    fn uris_in_content_are_those_that_clients_see() {
        let check = |block: &str, expect: &str| {
            let bounds = Bounds { depth_max: 64, values_max: 10_000, name_bytes_max: 256, number_chars_max: 64 };
            let document = Document::parse(Bytes::copy_from_slice(block.as_bytes()), &bounds).unwrap();
            let mut out = Vec::new();
            write_block(&mut out, document.root(), Some("crm"));
            assert_eq!(String::from_utf8(out).unwrap(), expect);
            let mut out = Vec::new();
            write_block(&mut out, document.root(), None);
            assert_eq!(String::from_utf8(out).unwrap(), block);
        };
        check(r#"{"type":"text","uri":"a:b"}"#, r#"{"type":"text","uri":"a:b"}"#);
        check(
            r#"{"type":"resource_link","uri":"a:b","name":"n","icons":[{"src":"a:b"}]}"#,
            r#"{"type":"resource_link","uri":"crm+a:b","name":"n","icons":[{"src":"a:b"}]}"#,
        );
        check(
            r#"{"type":"resource","resource":{"uri":"ui://x/y","text":"t","_meta":{"ui":{"resourceUri":"ui://x/z","k":1}}}}"#,
            r#"{"type":"resource","resource":{"uri":"ui://crm/x/y","text":"t","_meta":{"ui":{"resourceUri":"ui://crm/x/z","k":1}}}}"#,
        );
    }
}
