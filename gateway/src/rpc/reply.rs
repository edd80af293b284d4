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
        let document = Document::parse(text, bounds)?;
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
}

/// Whether `message` is the answer to our request `id`.
#[must_use]
pub fn answers(message: &Bytes, id: u64) -> bool {
    read(message).is_some_and(|response| response.answers(id))
}

/// The version that an `initialize` was answered with.
#[must_use]
pub fn initialized_version(message: &Bytes) -> Option<String> {
    let response = read(message)?;
    Some(response.outcome().ok()?.get("protocolVersion")?.text()?.into_owned())
}

/// `supportedVersions` of a `server/discover` that was answered with a result, or with the modern error that lists them
/// (RS-11): either proves a modern upstream (RC-10).
#[must_use]
pub fn modern_versions(message: &Bytes) -> Option<Vec<String>> {
    let response = read(message)?;
    let listed = match response.outcome() {
        Ok(result) => result.get("supportedVersions")?,
        Err(error) if error.code == UNSUPPORTED_VERSION => error.data()?.get("supported")?,
        Err(_) => return None,
    };
    Some(listed.elements().filter_map(Value::text).map(Cow::into_owned).collect())
}

/// Whether `message` is an error that only a modern server makes (RC-10).
#[must_use]
pub fn is_modern_error(message: &Bytes) -> bool {
    read(message).is_some_and(|response| {
        matches!(response.outcome(), Err(error) if (UNSUPPORTED_VERSION..=HEADER_MISMATCH).contains(&error.code))
    })
}

/// One page of an upstream's `tools/list`.
#[derive(Debug)]
pub struct ToolsPage {
    /// The definitions, as they were written.
    pub tools: Vec<Bytes>,
    /// Where the next page begins; the empty string is a cursor too.
    pub next: Option<String>,
    /// How long the upstream vouches for it; negative counts as zero (RC-12).
    pub ttl_ms: Option<u64>,
}

/// Reads the answer to a `tools/list`.
///
/// # Errors
/// What is wrong with it, for the journal.
pub fn tools(message: &Bytes) -> Result<ToolsPage, &'static str> {
    let Inbound::Response(response) = Inbound::parse(message.clone(), &Bounds::REPLY)? else {
        return Err("not an answer");
    };
    let result = response.outcome().map_err(|_error| "an error")?;
    let listed = result.get("tools").filter(|tools| tools.kind() == Kind::Array).ok_or("no `tools`")?;
    let next = match result.get("nextCursor").filter(|cursor| !cursor.is_null()) {
        Some(cursor) => Some(cursor.text().ok_or("a `nextCursor` that is not a string")?.into_owned()),
        None => None,
    };
    let ttl_ms = result.get("ttlMs").and_then(Value::integer).map(|ttl| u64::try_from(ttl).unwrap_or(0));
    Ok(ToolsPage { tools: listed.elements().map(Value::raw_bytes).collect(), next, ttl_ms })
}

/// The name in a tool's definition, for a log.
#[must_use]
pub fn tool_name(definition: &Bytes) -> Option<String> {
    let document = Document::parse(definition.clone(), &Bounds::REPLY).ok()?;
    Some(document.root().get("name")?.text()?.into_owned())
}

fn read(message: &Bytes) -> Option<Response> {
    match Inbound::parse(message.clone(), &Bounds::REPLY).ok()? {
        Inbound::Response(response) => Some(response),
        Inbound::Notification(_) | Inbound::Request(_) => None,
    }
}

/// The errors of MCP 2026-07-28 basic/index, from which an upstream's era can be told.
const UNSUPPORTED_VERSION: i64 = -32022;
const HEADER_MISMATCH: i64 = -32020;

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

    #[test]
    fn rc_10_an_upstream_tells_its_era() {
        let bytes = |text: &'static str| Bytes::from_static(text.as_bytes());
        let result =
            bytes(r#"{"jsonrpc":"2.0","id":1,"result":{"resultType":"complete","supportedVersions":["2026-07-28"]}}"#);
        assert_eq!(modern_versions(&result).unwrap(), ["2026-07-28"]);
        let error = bytes(
            r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32022,"message":"m","data":{"supported":["2027-01-01"]}}}"#,
        );
        assert_eq!(modern_versions(&error).unwrap(), ["2027-01-01"]);
        assert!(is_modern_error(&error));
        let header = bytes(r#"{"jsonrpc":"2.0","error":{"code":-32020,"message":"m"}}"#);
        assert!(is_modern_error(&header) && modern_versions(&header).is_none());
        for legacy in [
            r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32601,"message":"m"}}"#,
            r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32000,"message":"no session"}}"#,
            "not found",
        ] {
            assert!(!is_modern_error(&bytes(legacy)) && modern_versions(&bytes(legacy)).is_none(), "{legacy}");
        }
    }

    #[test]
    fn rc_12_a_page_of_tools_is_read() {
        let page = tools(&Bytes::from_static(
            br#"{"jsonrpc":"2.0","id":1,"result":{"tools":[{"name":"a"}, {"name":"b"}],"nextCursor":"","ttlMs":-5}}"#,
        ))
        .unwrap();
        assert_eq!(page.tools, [br#"{"name":"a"}"#.as_slice(), br#"{"name":"b"}"#.as_slice()]);
        assert_eq!((page.next.as_deref(), page.ttl_ms), (Some(""), Some(0)));
        assert_eq!(tool_name(&page.tools[1]).as_deref(), Some("b"));
        for bad in [
            r#"{"jsonrpc":"2.0","id":1,"result":{}}"#,
            r#"{"jsonrpc":"2.0","id":1,"result":{"tools":{}}}"#,
            r#"{"jsonrpc":"2.0","id":1,"result":{"tools":[],"nextCursor":7}}"#,
            r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32601,"message":"m"}}"#,
            r#"{"jsonrpc":"2.0","method":"m"}"#,
        ] {
            assert!(tools(&Bytes::copy_from_slice(bad.as_bytes())).is_err(), "{bad}");
        }
    }

    #[test]
    fn rl_01_the_version_agreed_on_is_read() {
        let text = br#"{"jsonrpc":"2.0","id":1,"result":{"protocolVersion":"2025-06-18"}}"#;
        assert_eq!(initialized_version(&Bytes::from_static(text)).as_deref(), Some("2025-06-18"));
    }
}
