//! What does an answer look like in HTTP?
//!
//! Puts status, headers and body together. It decides nothing: refusals have their form from `refusal`.

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{ACCEPT, ALLOW, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE},
};
use tokio::sync::mpsc;

use super::{Body, Response};
use crate::{
    inspect::Answer,
    refusal::{Detail, Era, Outside, Refusal},
    rpc::{
        Call, RequestId,
        answers::{self, Local},
    },
};

/// 202: a notification, or a legacy client's response (RS-05).
pub(super) fn accepted() -> Response {
    Response { status: 202, headers: HeaderMap::new(), body: Body::Empty }
}

/// 204: a session has ended (RL-04).
pub(super) fn done() -> Response {
    Response { status: 204, headers: HeaderMap::new(), body: Body::Empty }
}

/// What the gateway answers in its own name.
pub(super) fn json(local: Local) -> Response {
    let (mut own, shared) = local.into_parts();
    if shared.len() > COPIED_BYTES_MAX {
        return with_body(200, Body::Led(Bytes::from(own), shared));
    }
    own.extend_from_slice(&shared);
    whole(200, Bytes::from(own))
}

/// An inspected answer.
pub(super) fn answer(answer: Answer) -> Response {
    whole(200, answer.into_body())
}

/// The answers to a batch, in its order (RL-10).
pub(super) fn array(answers: &[Bytes]) -> Response {
    let mut body = vec![b'['];
    for (index, answer) in answers.iter().enumerate() {
        if index > 0 {
            body.push(b',');
        }
        body.extend_from_slice(answer);
    }
    body.push(b']');
    whole(200, Bytes::from(body))
}

/// A stream of events.
pub(super) fn stream(events: mpsc::Receiver<Bytes>) -> Response {
    let mut headers = HeaderMap::with_capacity(HEADERS);
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    Response { status: 200, headers, body: Body::Stream(events) }
}

/// `ping` (RL-09).
pub(super) fn pong(call: &Call) -> Result<Response, Refusal> {
    let id = call.id().ok_or(Refusal::NotARequest("a request without an id"))?;
    Ok(json(answers::pong(id)))
}

/// A refusal in its outside form. `challenge` is the value of `WWW-Authenticate`, where the refusal has one.
pub(super) fn refusal(id: Option<&RequestId>, era: Era, outside: &Outside, challenge: Option<&str>) -> Response {
    let mut response = whole(outside.status, error_body(id, era, outside));
    if let Some(challenge) = challenge {
        response = challenged(response, challenge);
    }
    if let Some(wait_ms) = outside.retry_after_ms.filter(|_| outside.status != 200) {
        response.headers.insert(RETRY_AFTER, HeaderValue::from(wait_ms.div_ceil(1000).max(1)));
    }
    if let Detail::Allow(methods) = outside.detail {
        response.headers.insert(ALLOW, HeaderValue::from_static(methods));
    }
    response
}

/// Adds what the client has to do first, as `WWW-Authenticate` says it.
pub(super) fn challenged(mut response: Response, challenge: &str) -> Response {
    if let Ok(value) = HeaderValue::from_str(challenge) {
        response.headers.insert(WWW_AUTHENTICATE, value);
    }
    response
}

/// The JSON-RPC error of a refusal.
pub(super) fn error_body(id: Option<&RequestId>, era: Era, outside: &Outside) -> Bytes {
    Bytes::from(answers::error(outside, era, id).into_bytes())
}

/// Adds the id of a session that has just begun.
pub(super) fn in_session(mut response: Response, id: &str) -> Response {
    if let Ok(value) = HeaderValue::from_str(id) {
        response.headers.insert(HeaderName::from_static("mcp-session-id"), value);
    }
    response
}

/// Whether the client takes a stream of events; one that does not say takes anything (RFC 9110 §12.5.1).
pub(super) fn takes_streams(headers: &HeaderMap) -> bool {
    let mut accepts = headers.get_all(ACCEPT).iter().map(HeaderValue::as_bytes).peekable();
    accepts.peek().is_none()
        || accepts.flat_map(|value| value.split(|byte| *byte == b',')).any(|range| {
            let range = range.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
            STREAM_RANGES.iter().any(|taken| range.eq_ignore_ascii_case(taken))
        })
}

fn whole(status: u16, body: Bytes) -> Response {
    with_body(status, Body::Whole(body))
}

fn with_body(status: u16, body: Body) -> Response {
    let mut headers = HeaderMap::with_capacity(HEADERS);
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Response { status, headers, body }
}

/// Media ranges that a stream of events falls under.
const STREAM_RANGES: [&[u8]; 3] = [b"text/event-stream", b"text/*", b"*/*"];

/// What is shared and no longer than a TLS record is copied behind what is not: it then goes out in one piece.
const COPIED_BYTES_MAX: usize = 16 * 1024;

/// Headers of an ordinary answer, those that the edge adds included.
const HEADERS: usize = 6;
