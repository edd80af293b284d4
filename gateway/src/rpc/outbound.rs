//! What is sent to an upstream?
//!
//! Requests are built here, never copied: our id, the original name, the bytes of `arguments` that policy judged, and a
//! `_meta` of which the gateway owns its part. It does not send, and it does not know credentials.

use bytes::Bytes;

use super::{
    call::{Call, RequestId},
    json::{Value, write_string},
    meta::{self, LogLevel},
    topics::Topic,
    versions,
};
use crate::refusal::Era;

/// What a request up needs besides what the client asked.
#[derive(Debug, Clone, Copy)]
pub struct Outgoing<'a> {
    /// Our id, unique among the requests in flight to this upstream (RC-07).
    pub id: u64,
    /// The revision that this upstream speaks, never the client's.
    pub version: &'a str,
    /// Our progress token, where progress is wanted.
    pub progress_token: Option<&'a str>,
    /// The trace context of our own span.
    pub traceparent: Option<&'a str>,
    /// The trace state that goes with it.
    pub tracestate: Option<&'a str>,
    /// ClientCapabilities to declare, as JSON text; `{}` for none.
    pub capabilities: &'a str,
    /// The client's own `clientInfo`, as JSON text that was judged, where this upstream may see it: display only, and a
    /// privacy surface (spec §3.5). The gateway's otherwise.
    pub client_info: Option<&'a [u8]>,
    /// The least severe log message wanted.
    pub log_level: Option<LogLevel>,
    /// What a retry brings, where this is one.
    pub retry: Option<&'a Retry>,
    /// For how long the task is wanted that the call shall become, in milliseconds (MCP 2025-11-25 utilities/tasks).
    pub task_ms: Option<u128>,
}

/// What a call brings when it is made again, because a modern upstream asked for input (RC-09).
#[derive(Debug, Clone, Default)]
pub struct Retry {
    /// The upstream's own state, as JSON text; left out where it gave none.
    pub state: Option<Bytes>,
    /// The answers, by the upstream's keys, as JSON text.
    pub responses: Vec<(String, Bytes)>,
}

impl<'a> Outgoing<'a> {
    /// A request in the gateway's own name that wants nothing but its answer.
    #[must_use]
    pub const fn own(id: u64, version: &'a str) -> Self {
        Self {
            id,
            version,
            progress_token: None,
            traceparent: None,
            tracestate: None,
            capabilities: "{}",
            client_info: None,
            log_level: None,
            retry: None,
            task_ms: None,
        }
    }

    fn era(&self) -> Era {
        versions::era(self.version)
    }
}

/// A client's request to an upstream: the bytes of `arguments` that came, every member of `params` that is not the
/// gateway's (RI-08), and what it is about by the name that the upstream knows.
#[must_use]
pub fn call(outgoing: &Outgoing<'_>, original: &str, call: &Call) -> Vec<u8> {
    let method = call.method();
    let mut out = begin(Some(outgoing.id), method.as_str(), call.body().len());
    out.extend_from_slice(br#","params":{"#);
    let naming = method.naming().unwrap_or_default();
    for (name, value) in call.params().into_iter().flat_map(|params| params.members()) {
        if name.is(naming) {
            if naming == "ref" {
                write_reference(&mut out, original, value);
            } else {
                member_text(&mut out, naming, original);
            }
            continue;
        }
        // `task` asks for a task of MCP 2025-11-25, which the gateway does not offer; the others are its own.
        if !["_meta", "task", "requestState", "inputResponses"].iter().any(|own| name.is(own)) {
            member_raw(&mut out, name.raw(), value.raw());
        }
    }
    if let Some(retry) = outgoing.retry {
        write_retry(&mut out, retry);
    }
    if let Some(task_ms) = outgoing.task_ms {
        member(&mut out, "task", format!(r#"{{"ttl":{task_ms}}}"#).as_bytes());
    }
    write_meta(&mut out, outgoing, Some(call));
    out.extend_from_slice(b"}}");
    out
}

fn write_retry(out: &mut Vec<u8>, retry: &Retry) {
    if !retry.responses.is_empty() {
        member(out, "inputResponses", b"{");
        for (key, response) in &retry.responses {
            member(out, key, response);
        }
        out.push(b'}');
    }
    if let Some(state) = &retry.state {
        member(out, "requestState", state);
    }
}

/// A request about a task that an upstream calls `id`: the client's own, with everything in it that is not the gateway's,
/// or one that the gateway makes while it follows a task for a client that cannot.
#[must_use]
pub fn task(outgoing: &Outgoing<'_>, (method, id): (&str, &str), call: &Call) -> Vec<u8> {
    let mut out = begin(Some(outgoing.id), method, 0);
    out.extend_from_slice(br#","params":{"#);
    member_text(&mut out, "taskId", id);
    let own = call.task().is_some() && call.method().as_str() == method;
    for (name, value) in call.params().filter(|_| own).into_iter().flat_map(Value::members) {
        if !["taskId", "_meta", "task", "requestState"].iter().any(|own| name.is(own)) {
            member_raw(&mut out, name.raw(), value.raw());
        }
    }
    if let Some(retry) = outgoing.retry {
        write_retry(&mut out, retry);
    }
    write_meta(&mut out, outgoing, Some(call));
    out.extend_from_slice(b"}}");
    out
}

/// A request about a task in the gateway's own name: `tasks/cancel` of one that nobody waits for, or `tasks/get` where it
/// may have been missed how one stands.
#[must_use]
pub fn own_task(outgoing: &Outgoing<'_>, method: &str, id: &str) -> Vec<u8> {
    let mut out = begin(Some(outgoing.id), method, 0);
    out.extend_from_slice(br#","params":{"#);
    member_text(&mut out, "taskId", id);
    write_meta(&mut out, outgoing, None);
    out.extend_from_slice(b"}}");
    out
}

fn write_reference(out: &mut Vec<u8>, original: &str, reference: Value<'_>) {
    member(out, "ref", b"{");
    for (name, value) in reference.members() {
        match name.text().as_deref() {
            Some(naming @ ("name" | "uri")) => member_text(out, naming, original),
            _ => member_raw(out, name.raw(), value.raw()),
        }
    }
    out.push(b'}');
}

/// One page of a list.
#[must_use]
pub fn list(outgoing: &Outgoing<'_>, method: &str, cursor: Option<&str>) -> Vec<u8> {
    let mut out = begin(Some(outgoing.id), method, 0);
    out.extend_from_slice(br#","params":{"#);
    if let Some(cursor) = cursor {
        member_text(&mut out, "cursor", cursor);
    }
    write_meta(&mut out, outgoing, None);
    out.extend_from_slice(b"}}");
    out
}

/// `server/discover`: how a modern upstream is recognised (RC-10).
#[must_use]
pub fn discover(outgoing: &Outgoing<'_>) -> Vec<u8> {
    let mut out = begin(Some(outgoing.id), "server/discover", 0);
    out.extend_from_slice(br#","params":{"#);
    write_meta(&mut out, outgoing, None);
    out.extend_from_slice(b"}}");
    out
}

/// `subscriptions/listen` for changes of every list, in the gateway's own name (RC-15).
#[must_use]
pub fn listen(outgoing: &Outgoing<'_>) -> Vec<u8> {
    let mut out = begin(Some(outgoing.id), "subscriptions/listen", 0);
    out.extend_from_slice(br#","params":{"notifications":{"#);
    for topic in Topic::ALL {
        member(&mut out, topic.member(), b"true");
    }
    out.push(b'}');
    write_meta(&mut out, outgoing, None);
    out.extend_from_slice(b"}}");
    out
}

/// `subscriptions/listen` for changes of these resources (RC-15), and for the states of these tasks (ext-tasks).
#[must_use]
pub fn watch(outgoing: &Outgoing<'_>, uris: &[&str], tasks: &[&str]) -> Vec<u8> {
    let mut out = begin(Some(outgoing.id), "subscriptions/listen", 0);
    out.extend_from_slice(br#","params":{"notifications":{"#);
    for (name, wanted) in [("resourceSubscriptions", uris), ("taskIds", tasks)] {
        if wanted.is_empty() {
            continue;
        }
        member(&mut out, name, b"[");
        for (index, text) in wanted.iter().enumerate() {
            if index > 0 {
                out.push(b',');
            }
            write_string(&mut out, text);
        }
        out.push(b']');
    }
    out.push(b'}');
    write_meta(&mut out, outgoing, None);
    out.extend_from_slice(b"}}");
    out
}

/// A request about one resource: `resources/subscribe` or `resources/unsubscribe` of a legacy session.
#[must_use]
pub fn about(outgoing: &Outgoing<'_>, method: &str, uri: &str) -> Vec<u8> {
    let mut out = begin(Some(outgoing.id), method, 0);
    out.extend_from_slice(br#","params":{"#);
    member_text(&mut out, "uri", uri);
    out.extend_from_slice(b"}}");
    out
}

/// `logging/setLevel` of a legacy session.
#[must_use]
pub fn set_level(outgoing: &Outgoing<'_>, level: LogLevel) -> Vec<u8> {
    let mut out = begin(Some(outgoing.id), "logging/setLevel", 0);
    out.extend_from_slice(br#","params":{"#);
    member_text(&mut out, "level", level.as_str());
    out.extend_from_slice(b"}}");
    out
}

/// `initialize` of a legacy session (spec §2.1).
#[must_use]
pub fn initialize(outgoing: &Outgoing<'_>) -> Vec<u8> {
    let mut out = begin(Some(outgoing.id), "initialize", 0);
    out.extend_from_slice(br#","params":{"#);
    member_text(&mut out, "protocolVersion", outgoing.version);
    member_raw(&mut out, br#""capabilities""#, outgoing.capabilities.as_bytes());
    member_raw(&mut out, br#""clientInfo""#, client_info(outgoing));
    out.extend_from_slice(b"}}");
    out
}

/// `notifications/initialized`.
#[must_use]
pub fn initialized() -> Vec<u8> {
    let mut out = begin(None, "notifications/initialized", 0);
    out.push(b'}');
    out
}

/// `notifications/cancelled` for our request `id` (RL-07).
#[must_use]
pub fn cancelled(id: u64, reason: &str) -> Vec<u8> {
    let mut out = begin(None, "notifications/cancelled", 0);
    out.extend_from_slice(br#","params":{"requestId":"#);
    out.extend_from_slice(id.to_string().as_bytes());
    member_text(&mut out, "reason", reason);
    out.extend_from_slice(b"}}");
    out
}

/// The answer to an upstream's `ping` (RL-09).
#[must_use]
pub fn pong(id: &RequestId) -> Vec<u8> {
    let mut out = respond(id);
    out.extend_from_slice(br#","result":{}}"#);
    out
}

/// The answer to any other request of an upstream: no capability was declared that would allow it.
#[must_use]
pub fn method_not_found(id: &RequestId) -> Vec<u8> {
    failure(id, -32601, "method not found")
}

/// A client's answer to a request of an upstream, passed on: its result or its error, as JSON text.
#[must_use]
pub fn response(id: &RequestId, outcome: Result<&[u8], &[u8]>) -> Vec<u8> {
    let mut out = respond(id);
    match outcome {
        Ok(result) => member(&mut out, "result", result),
        Err(error) => member(&mut out, "error", error),
    }
    out.push(b'}');
    out
}

/// The answer to a request of an upstream whose parameters are not those of its method.
#[must_use]
pub fn invalid_params(id: &RequestId) -> Vec<u8> {
    failure(id, -32602, "invalid params")
}

/// An error of the gateway's own in answer to a request of an upstream.
#[must_use]
pub fn failure(id: &RequestId, code: i64, message: &str) -> Vec<u8> {
    let mut out = respond(id);
    member(&mut out, "error", b"{");
    member(&mut out, "code", code.to_string().as_bytes());
    member_text(&mut out, "message", message);
    out.extend_from_slice(b"}}");
    out
}

/// `notifications/elicitation/complete` for a legacy client.
#[must_use]
pub fn elicitation_complete(elicitation_id: &str) -> Vec<u8> {
    let mut out = begin(None, "notifications/elicitation/complete", 0);
    out.extend_from_slice(br#","params":{"#);
    member_text(&mut out, "elicitationId", elicitation_id);
    out.extend_from_slice(b"}}");
    out
}

/// `notifications/cancelled` for a request of ours to a legacy client, which its upstream no longer wants answered.
#[must_use]
pub fn withdrawn(id: &str) -> Vec<u8> {
    let mut out = begin(None, "notifications/cancelled", 0);
    out.extend_from_slice(br#","params":{"#);
    member_text(&mut out, "requestId", id);
    out.extend_from_slice(b"}}");
    out
}

/// `Implementation` of the gateway, as JSON text: `clientInfo` up, `serverInfo` down.
pub const IMPLEMENTATION: &[u8] =
    concat!("{\"name\":\"", env!("CARGO_PKG_NAME"), "\",\"version\":\"", env!("CARGO_PKG_VERSION"), "\"}").as_bytes();

fn client_info<'a>(outgoing: &Outgoing<'a>) -> &'a [u8] {
    outgoing.client_info.unwrap_or(IMPLEMENTATION)
}

/// The id and the method of a request that was built here; `None` for what wants no answer. On a channel that many
/// messages share it says what an answer will belong to.
#[must_use]
pub fn asked(message: &[u8]) -> Option<(u64, &str)> {
    let text = std::str::from_utf8(message).ok()?;
    let (id, rest) = text.strip_prefix(REQUEST)?.split_once(',')?;
    let (method, _) = rest.strip_prefix(METHOD)?.split_once('"')?;
    Some((id.parse().ok()?, method))
}

fn begin(id: Option<u64>, method: &str, room: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(room.saturating_add(512));
    out.extend_from_slice(br#"{"jsonrpc":"2.0""#);
    if let Some(id) = id {
        member_raw(&mut out, br#""id""#, id.to_string().as_bytes());
    }
    member_text(&mut out, "method", method);
    out
}

fn respond(id: &RequestId) -> Vec<u8> {
    let mut out = br#"{"jsonrpc":"2.0""#.to_vec();
    member_raw(&mut out, br#""id""#, id.raw());
    out
}

/// `_meta` (RC-06): the client's and the upstream's own members go on; those that the gateway owns are replaced, or
/// dropped where the upstream's revision does not have them. Baggage never goes on.
fn write_meta(out: &mut Vec<u8>, outgoing: &Outgoing<'_>, call: Option<&Call>) {
    let start = out.len();
    member(out, "_meta", b"{");
    let open = out.len();
    if outgoing.era() == Era::Modern {
        member_text(out, meta::PROTOCOL_VERSION, outgoing.version);
        member(out, meta::CLIENT_CAPABILITIES, outgoing.capabilities.as_bytes());
        member(out, meta::CLIENT_INFO, client_info(outgoing));
        if let Some(level) = outgoing.log_level {
            member_text(out, meta::LOG_LEVEL, level.as_str());
        }
    }
    let texts = [
        (meta::PROGRESS_TOKEN, outgoing.progress_token),
        (meta::TRACEPARENT, outgoing.traceparent),
        (meta::TRACESTATE, outgoing.tracestate),
    ];
    for (name, text) in texts {
        if let Some(text) = text {
            member_text(out, name, text);
        }
    }
    for (name, value) in call.into_iter().flat_map(|call| call.meta().others()) {
        member_raw(out, name.raw(), value.raw());
    }
    if out.len() == open {
        out.truncate(start);
    } else {
        out.push(b'}');
    }
}

/// Appends a member, with a comma where one stands before it. `value` is JSON text.
pub(crate) fn member(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    comma(out);
    write_string(out, name);
    out.push(b':');
    out.extend_from_slice(value);
}

/// Appends a member whose name is JSON text already.
pub(crate) fn member_raw(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    comma(out);
    out.extend_from_slice(name);
    out.push(b':');
    out.extend_from_slice(value);
}

/// Appends a member that is a string.
pub(crate) fn member_text(out: &mut Vec<u8>, name: &str, text: &str) {
    comma(out);
    write_string(out, name);
    out.push(b':');
    write_string(out, text);
}

fn comma(out: &mut Vec<u8>) {
    if !matches!(out.last(), None | Some(b'{' | b'[' | b':' | b',')) {
        out.push(b',');
    }
}

/// How a request begins.
const REQUEST: &str = r#"{"jsonrpc":"2.0","id":"#;
const METHOD: &str = r#""method":""#;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_says_what_its_answer_will_belong_to() {
        let own = Outgoing::own(7, versions::LEGACY_NEWEST);
        assert_eq!(asked(&initialize(&own)), Some((7, "initialize")));
        assert_eq!(asked(&discover(&own)), Some((7, "server/discover")));
        assert_eq!(asked(&list(&own, "tools/list", Some("{\"jsonrpc\""))), Some((7, "tools/list")));
        for silent in [initialized(), cancelled(7, "no"), br#"{"jsonrpc":"2.0","id":7,"result":{}}"#.to_vec()] {
            assert_eq!(asked(&silent), None);
        }
    }
}
