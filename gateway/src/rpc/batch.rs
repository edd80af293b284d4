//! Is this a batch, and of which messages?
//!
//! JSON-RPC batches, which MCP had in 2025-03-26 alone (RL-10): an array is taken apart here, and each message in it is
//! then read as if it had come by itself. It does not know whether the session is one of that revision.

use std::borrow::Cow;

use bytes::Bytes;
use http::HeaderMap;

use super::{
    call::RequestId,
    headers::{self, Field},
    json::{Bounds, Document, Kind, Value},
    versions,
};
use crate::{config::Limits, refusal::Refusal};

/// One message of a batch.
#[derive(Debug)]
pub struct Item {
    /// Its id, where it has one that can be read.
    pub id: Option<RequestId>,
    /// The message, as it stands in the batch.
    pub text: Bytes,
}

/// Whether a client posted a batch and no header says that it speaks another revision, or that it sends one message.
#[must_use]
pub fn is_batch(headers: &HeaderMap, body: &[u8]) -> bool {
    let version = match Field::of(headers, &headers::PROTOCOL_VERSION) {
        Field::Absent => true,
        Field::Text(version) => versions::has_batches(version),
        Field::Unreadable => false,
    };
    version && !headers::mirrors_any(headers) && body.trim_ascii_start().starts_with(b"[")
}

/// Takes a client's batch apart. What is wrong with the batch as a whole refuses the whole, so that nothing of it runs.
///
/// # Errors
/// [`Refusal::NotJson`], [`Refusal::NotARequest`].
pub fn items(body: Bytes, limits: &Limits) -> Result<Vec<Item>, Refusal> {
    let document = Document::parse(body, &Bounds::request(limits)).map_err(Refusal::NotJson)?;
    let messages: Vec<Value<'_>> = document.root().elements().collect();
    let refuse = |why| Err(Refusal::NotARequest(why));
    if messages.is_empty() {
        return refuse("an empty batch");
    }
    if messages.len() > ITEMS_MAX {
        return refuse("a batch of more than 20 messages");
    }
    if messages.iter().any(|message| !message.is_object()) {
        return refuse("a batch of something else than messages");
    }
    // 2025-03-26 basic/lifecycle: nothing may come before its answer, nor beside it.
    if messages.iter().any(|message| message.get("method").is_some_and(|method| method.is("initialize"))) {
        return refuse("`initialize` inside a batch");
    }
    let requests = messages.iter().filter(|message| message.get("method").is_some());
    let mut ids: Vec<(bool, Cow<'_, str>)> = Vec::with_capacity(messages.len());
    for id in requests.filter_map(|request| request.get("id")) {
        let id = (id.kind() == Kind::String, id.text().unwrap_or(Cow::Borrowed(id.raw_text())));
        if ids.contains(&id) {
            return refuse("two requests of one id in a batch");
        }
        ids.push(id);
    }
    Ok(messages
        .iter()
        .map(|message| Item { id: message.get("id").and_then(RequestId::of), text: message.raw_bytes() })
        .collect())
}

/// Takes an upstream's batch apart; anything else is the one message that it is, to be read further.
///
/// # Errors
/// What is wrong with it, for the journal.
pub fn messages(text: Bytes, bounds: &Bounds) -> Result<Vec<Bytes>, &'static str> {
    if !text.trim_ascii_start().starts_with(b"[") {
        return Ok(vec![text]);
    }
    let document = Document::parse(text, bounds)?;
    let messages: Vec<Bytes> = document.root().elements().map(Value::raw_bytes).collect();
    if messages.is_empty() { Err("an empty batch") } else { Ok(messages) }
}

/// Messages in one batch of a client (spec §2.2).
const ITEMS_MAX: usize = 20;

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;
    use crate::rpc::tests::limits;

    fn texts(body: &str) -> Result<Vec<String>, Refusal> {
        let items = items(Bytes::copy_from_slice(body.as_bytes()), &limits())?;
        Ok(items.into_iter().map(|item| String::from_utf8(item.text.to_vec()).unwrap()).collect())
    }

    #[test]
    fn a_batch_is_its_messages_as_they_were_written() {
        let (one, two) = (r#"{"id":1,"method":"a" }"#, r#"{ "method":"notifications/b"}"#);
        assert_eq!(texts(&format!(" [ {one} ,{two}]")).unwrap(), [one, two]);
        // An answer may have the id of a request: the two count apart.
        assert_eq!(texts(r#"[{"id":1,"method":"a"},{"id":1,"result":{}},{"id":"1","method":"a"}]"#).unwrap().len(), 3);
        let most = vec![r#"{"method":"n"}"#; ITEMS_MAX].join(",");
        assert_eq!(texts(&format!("[{most}]")).unwrap().len(), ITEMS_MAX);
    }

    #[test]
    fn what_is_wrong_with_the_whole_refuses_the_whole() {
        let many = vec![r#"{"method":"n"}"#; ITEMS_MAX + 1].join(",");
        for (body, why) in [
            ("[]", "an empty batch"),
            (&format!("[{many}]"), "a batch of more than 20 messages"),
            (r#"[[{"method":"a"}]]"#, "a batch of something else than messages"),
            (r#"[{"method":"a"},1]"#, "a batch of something else than messages"),
            (r#"[{"id":1,"method":"\u0069nitialize"}]"#, "`initialize` inside a batch"),
            (r#"[{"id":1,"method":"a"},{"id":1,"method":"b"}]"#, "two requests of one id in a batch"),
            (r#"[{"id":"a","method":"a"},{"id":"\u0061","method":"b"}]"#, "two requests of one id in a batch"),
        ] {
            assert_eq!(texts(body), Err(Refusal::NotARequest(why)), "{body}");
        }
        assert!(matches!(texts("[{}"), Err(Refusal::NotJson(_))));
    }

    #[test]
    fn an_array_is_a_batch_unless_a_header_says_otherwise() {
        let with = |headers: &[(&'static str, &'static str)]| {
            headers.iter().map(|(name, value)| ((*name).try_into().unwrap(), HeaderValue::from_static(value))).collect()
        };
        for (headers, body, expect) in [
            (with(&[]), "[{}]", true),
            (with(&[]), " \r\n\t[]", true),
            (with(&[("mcp-protocol-version", "2025-03-26")]), "[", true),
            (with(&[("mcp-protocol-version", "2025-06-18")]), "[]", false),
            (with(&[("mcp-protocol-version", "2026-07-28")]), "[]", false),
            (with(&[("mcp-method", "tools/call")]), "[]", false),
            (with(&[("mcp-name", "echo")]), "[]", false),
            (with(&[]), "{}", false),
            (with(&[]), "", false),
        ] {
            let headers: HeaderMap = headers;
            assert_eq!(is_batch(&headers, body.as_bytes()), expect, "{headers:?} {body}");
        }
    }

    #[test]
    fn an_upstreams_batch_is_taken_apart_and_a_message_is_itself() {
        let bounds = Bounds::reply(&limits());
        let split = |text: &str| messages(Bytes::copy_from_slice(text.as_bytes()), &bounds).map(|all| all.len());
        assert_eq!(split(r#"{"id":1,"result":{}}"#), Ok(1));
        assert_eq!(split(r#" [{"id":1,"result":{}},{"method":"n"}]"#), Ok(2));
        assert_eq!(split("[]"), Err("an empty batch"));
        assert!(split("[{").is_err());
        assert_eq!(split("not json"), Ok(1), "whoever reads it on says so");
    }
}
