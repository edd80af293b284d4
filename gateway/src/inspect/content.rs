//! What may be in a result, and how does this client's revision have it?
//!
//! Content blocks, messages of prompts, contents of resources and completions: of the right shape, their URIs as clients
//! see them. It does not read results as a whole.

use super::invalid;
use crate::{
    refusal::Refusal,
    rpc::{
        definition_json,
        json::{Kind, Value, write_string},
        outbound, uris, versions,
    },
};

/// A `content`: blocks as they are, but for links to resources: a client of 2025-06-18 knows no icons in them, and one of
/// 2025-03-26 no links, which it gets as text (spec §2.7).
pub(super) fn blocks(
    out: &mut Vec<u8>,
    version: &str,
    content: Value<'_>,
    prefix: Option<&str>,
) -> Result<(), Refusal> {
    if content.kind() != Kind::Array {
        return invalid("a `content` that is not an array");
    }
    let untouched = prefix.is_none() && versions::at_least(version, "2025-11-25");
    if untouched {
        out.extend_from_slice(content.raw());
        return Ok(());
    }
    list(out, content, |out, it| {
        block(out, version, it, prefix);
        Ok(())
    })
}

/// The `messages` of a prompt.
pub(super) fn messages(
    out: &mut Vec<u8>,
    version: &str,
    messages: Value<'_>,
    prefix: Option<&str>,
) -> Result<(), Refusal> {
    if messages.kind() != Kind::Array {
        return invalid("`messages` that are not an array");
    }
    outbound::member(out, "messages", b"");
    list(out, messages, |out, message| {
        if !message.is_object() {
            return invalid("a message that is not an object");
        }
        out.push(b'{');
        for (name, value) in message.members() {
            if name.is("content") && value.is_object() {
                outbound::member(out, "content", b"");
                block(out, version, value, prefix);
            } else {
                outbound::member_raw(out, name.raw(), value.raw());
            }
        }
        out.push(b'}');
        Ok(())
    })
}

/// The `contents` of a resource.
pub(super) fn contents(out: &mut Vec<u8>, contents: Value<'_>, prefix: Option<&str>) -> Result<(), Refusal> {
    if contents.kind() != Kind::Array || contents.elements().any(|content| !content.is_object()) {
        return invalid("`contents` that are not an array of objects");
    }
    outbound::member(out, "contents", b"");
    if prefix.is_none() {
        out.extend_from_slice(contents.raw());
        return Ok(());
    }
    list(out, contents, |out, content| {
        uris::write_object(out, content, prefix);
        Ok(())
    })
}

/// A `completion`: at most a hundred values (RS-35).
pub(super) fn completion(out: &mut Vec<u8>, completion: Value<'_>) -> Result<(), Refusal> {
    let values = completion.get("values").filter(|values| values.kind() == Kind::Array);
    let Some(values) = values else { return invalid("a `completion` without `values`") };
    outbound::member(out, "completion", b"");
    if values.elements().nth(VALUES_MAX).is_none() {
        out.extend_from_slice(completion.raw());
        return Ok(());
    }
    out.push(b'{');
    for (name, value) in completion.members() {
        if name.is("values") {
            outbound::member(out, "values", b"[");
            for value in values.elements().take(VALUES_MAX) {
                comma(out);
                out.extend_from_slice(value.raw());
            }
            out.push(b']');
        } else if !name.is("hasMore") {
            outbound::member_raw(out, name.raw(), value.raw());
        }
    }
    outbound::member(out, "hasMore", b"true");
    out.push(b'}');
    Ok(())
}

fn block(out: &mut Vec<u8>, version: &str, block: Value<'_>, prefix: Option<&str>) {
    let is_link = block.get("type").is_some_and(|kind| kind.is("resource_link"));
    if !is_link || versions::at_least(version, "2025-11-25") {
        uris::write_block(out, block, prefix);
        return;
    }
    let uri = block.get("uri").and_then(Value::text).unwrap_or_default();
    let text = prefix.map_or_else(|| uri.clone().into_owned(), |id| uris::outward(id, &uri));
    if versions::at_least(version, "2025-06-18") {
        definition_json::write(out, block, ("uri", &text), version, prefix); // a link is a resource's definition
        return;
    }
    out.extend_from_slice(br#"{"type":"text","text":"#);
    write_string(out, &text);
    out.push(b'}');
}

fn list(
    out: &mut Vec<u8>,
    all: Value<'_>,
    mut write: impl FnMut(&mut Vec<u8>, Value<'_>) -> Result<(), Refusal>,
) -> Result<(), Refusal> {
    out.push(b'[');
    for element in all.elements() {
        comma(out);
        write(out, element)?;
    }
    out.push(b']');
    Ok(())
}

fn comma(out: &mut Vec<u8>) {
    if out.last() != Some(&b'[') {
        out.push(b',');
    }
}

/// MCP server/utilities/completion.
const VALUES_MAX: usize = 100;
