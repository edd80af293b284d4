//! What did the upstream say?
//!
//! One message from an upstream, read as strictly as a client's: its kind, and where everything stands in it. It does
//! not decide what goes back; `inspect` does.

use std::borrow::Cow;

use bytes::Bytes;

use super::{
    call::RequestId,
    json::{Bounds, Document, Index, Kind, Value},
};

/// One message from an upstream.
#[derive(Debug)]
pub enum Inbound {
    /// An answer.
    Response(Response),
    /// A notification.
    Notification(Notification),
    /// A request to the client: a legacy server may send one.
    Request(ServerRequest),
}

impl Inbound {
    /// Reads one message.
    ///
    /// # Errors
    /// What is wrong with it, for the journal; it holds nothing of the message.
    pub fn parse(text: Bytes, bounds: &Bounds) -> Result<Self, &'static str> {
        Self::of(Document::parse(text, bounds)?)
    }

    /// What kind of message a text is that was read already.
    ///
    /// # Errors
    /// As [`Self::parse`].
    pub fn of(document: Document) -> Result<Self, &'static str> {
        let root = document.root();
        if !root.is_object() {
            return Err("a message that is not one JSON-RPC object");
        }
        if !root.get("jsonrpc").is_some_and(|version| version.is("2.0")) {
            return Err("`jsonrpc` is not \"2.0\"");
        }
        let (id, method) = (root.get("id"), root.get("method"));
        let (result, error) = (root.get("result"), root.get("error"));
        match (method, result, error) {
            (Some(method), None, None) => {
                if method.kind() != Kind::String {
                    return Err("`method` is not a string");
                }
                let Some(id) = id else { return Ok(Self::Notification(Notification { document })) };
                let id = RequestId::of(id).ok_or("a request whose `id` is not a string or an integer")?;
                Ok(Self::Request(ServerRequest { document, id }))
            }
            (None, Some(result), None) => {
                let id = id.and_then(RequestId::of).ok_or("a result whose `id` is not a string or an integer")?;
                if !result.is_object() {
                    return Err("`result` is not an object");
                }
                let body = Body::Result(result.index());
                Ok(Self::Response(Response { document, id: Some(id), body }))
            }
            (None, None, Some(error)) => {
                // JSON-RPC 2.0 §5: `null` where the id could not be read; MCP leaves it out.
                let id = match id.filter(|id| !id.is_null()) {
                    Some(id) => Some(RequestId::of(id).ok_or("an error whose `id` is not a string or an integer")?),
                    None => None,
                };
                let code = error.get("code").and_then(Value::integer).ok_or("an error without an integer `code`")?;
                if error.get("message").is_none_or(|message| message.kind() != Kind::String) {
                    return Err("an error without a `message`");
                }
                let body = Body::Error { error: error.index(), code };
                Ok(Self::Response(Response { document, id, body }))
            }
            _ => Err("neither a request, nor a result, nor an error"),
        }
    }
}

/// An answer.
#[derive(Debug)]
pub struct Response {
    document: Document,
    id: Option<RequestId>,
    body: Body,
}

#[derive(Debug, Clone, Copy)]
enum Body {
    Result(Index),
    Error { error: Index, code: i64 },
}

/// A JSON-RPC error object.
#[derive(Debug, Clone, Copy)]
pub struct RpcError<'a> {
    /// `code`.
    pub code: i64,
    /// The whole error object.
    pub error: Value<'a>,
}

impl<'a> RpcError<'a> {
    /// `message`.
    #[must_use]
    pub fn message(self) -> Cow<'a, str> {
        self.error.get("message").and_then(Value::text).unwrap_or_default()
    }

    /// `data`.
    #[must_use]
    pub fn data(self) -> Option<Value<'a>> {
        self.error.get("data")
    }
}

impl Response {
    /// Whether this answers our request `id`, and no other. An error may lack its id: a server that could not read ours
    /// cannot repeat it, and the stream that it came on says which request it is for.
    #[must_use]
    pub fn answers(&self, id: u64) -> bool {
        match (&self.id, self.body) {
            (Some(own), _) => own.raw() == id.to_string().as_bytes(),
            (None, Body::Error { .. }) => true,
            (None, Body::Result(_)) => false,
        }
    }

    /// The id that it answers to.
    #[must_use]
    pub const fn id(&self) -> Option<&RequestId> {
        self.id.as_ref()
    }

    /// The result, or the error.
    ///
    /// # Errors
    /// The JSON-RPC error that the upstream answered with.
    pub fn outcome(&self) -> Result<Value<'_>, RpcError<'_>> {
        match self.body {
            Body::Result(index) => Ok(self.document.at(index)),
            Body::Error { error, code } => Err(RpcError { code, error: self.document.at(error) }),
        }
    }

    /// The same, to be kept for long.
    #[must_use]
    pub fn compact(mut self) -> Self {
        self.document = self.document.compact();
        self
    }

    /// The memory that it takes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.document.bytes()
    }

    /// The message as it came.
    #[must_use]
    pub fn text(&self) -> &Bytes {
        self.document.text()
    }
}

/// A notification.
#[derive(Debug)]
pub struct Notification {
    document: Document,
}

impl Notification {
    /// `method`.
    #[must_use]
    pub fn method(&self) -> Cow<'_, str> {
        self.document.root().get("method").and_then(Value::text).unwrap_or_default()
    }

    /// `params`, where it is an object.
    #[must_use]
    pub fn params(&self) -> Option<Value<'_>> {
        self.document.root().get("params").filter(|params| params.is_object())
    }
}

/// A request from an upstream.
#[derive(Debug)]
pub struct ServerRequest {
    document: Document,
    id: RequestId,
}

impl ServerRequest {
    /// Its id, for the answer.
    #[must_use]
    pub const fn id(&self) -> &RequestId {
        &self.id
    }

    /// `method`.
    #[must_use]
    pub fn method(&self) -> Cow<'_, str> {
        self.document.root().get("method").and_then(Value::text).unwrap_or_default()
    }

    /// `params`.
    #[must_use]
    pub fn params(&self) -> Option<Value<'_>> {
        self.document.root().get("params")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Inbound, &'static str> {
        let bounds = Bounds { depth_max: 64, values_max: 10_000, name_bytes_max: 256, number_chars_max: 64 };
        Inbound::parse(Bytes::copy_from_slice(text.as_bytes()), &bounds)
    }

    fn answers(text: &str, id: u64) -> bool {
        let Ok(Inbound::Response(response)) = parse(text) else { panic!("{text}") };
        response.answers(id)
    }

    #[test]
    fn an_answer_with_another_id_answers_nothing() {
        assert!(answers(r#"{"jsonrpc":"2.0","id":7,"result":{}}"#, 7));
        assert!(!answers(r#"{"jsonrpc":"2.0","id":8,"result":{}}"#, 7));
        assert!(!answers(r#"{"jsonrpc":"2.0","id":"7","result":{}}"#, 7));
        assert!(!answers(r#"{"jsonrpc":"2.0","id":-7,"result":{}}"#, 7));
        assert!(answers(r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":"m"}}"#, 7));
        assert!(answers(r#"{"jsonrpc":"2.0","error":{"code":-32700,"message":"m"}}"#, 7));
    }

    #[test]
    fn what_is_not_one_message_is_refused() {
        for text in [
            r#"[{"jsonrpc":"2.0","id":7,"result":{}}]"#,
            r#"{"id":7,"result":{}}"#,
            r#"{"jsonrpc":"2.0","id":7,"result":{},"error":{"code":1,"message":""}}"#,
            r#"{"jsonrpc":"2.0","id":7,"result":{},"method":"x"}"#,
            r#"{"jsonrpc":"2.0","id":7,"result":[]}"#,
            r#"{"jsonrpc":"2.0","id":7,"result":{},"result":{}}"#,
            r#"{"jsonrpc":"2.0","result":{}}"#,
            r#"{"jsonrpc":"2.0","id":null,"result":{}}"#,
            r#"{"jsonrpc":"2.0","id":7}"#,
            r#"{"jsonrpc":"2.0","id":7,"error":{"code":"1","message":""}}"#,
            r#"{"jsonrpc":"2.0","id":7,"error":{"code":1}}"#,
            r#"{"jsonrpc":"2.0","id":1.5,"method":"ping"}"#,
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn requests_and_notifications_are_told_apart() {
        assert!(matches!(parse(r#"{"jsonrpc":"2.0","id":"a","method":"ping"}"#), Ok(Inbound::Request(_))));
        let Ok(Inbound::Notification(notification)) = parse(r#"{"jsonrpc":"2.0","method":"notifications/x"}"#) else {
            panic!("not a notification");
        };
        assert_eq!(notification.method(), "notifications/x");
    }
}
