//! What did a peer of the gateway really see, and what if it answers badly?
//!
//! An MCP server, or any HTTP server, that keeps every request and every byte, and whose answers a test can script: well
//! formed, malformed, slow, endless. Where the script has no answer, it is a well-behaved server of its era.

use std::{
    borrow::Cow,
    collections::VecDeque,
    future::Future,
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http_body_util::{BodyExt, combinators::BoxBody};
use hyper::{
    HeaderMap, Request, Response, Version,
    body::{Body as HttpBody, Frame, Incoming},
};
use parking_lot::Mutex;
use rustls::ServerConfig;
use serde_json::{Value, json};
use tokio::time::Sleep;

use super::{
    leaks,
    serve::{self, Body, Served},
};

/// Which revisions a recording MCP server speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Era {
    Modern,
    Legacy,
}

/// One request that arrived.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) query: String,
    pub(crate) version: Version,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    pub(crate) at: Instant,
}

impl Seen {
    /// The first header of this name.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// The body's JSON, null where it has none.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }

    /// The JSON-RPC method, empty where there is none.
    pub(crate) fn rpc_method(&self) -> String {
        self.json()["method"].as_str().unwrap_or_default().to_owned()
    }

    /// A parameter of the query.
    pub(crate) fn parameter(&self, name: &str) -> Option<String> {
        url::form_urlencoded::parse(self.query.as_bytes())
            .find(|(known, _)| known == name)
            .map(|(_, value)| value.into_owned())
    }

    /// What is posted besides a token in the field that is for it (RFC 8693 §2.1, RFC 7523 §2.1, RFC 7662 §2.1), and the
    /// tokens there.
    fn posted(&self) -> (Vec<u8>, Vec<u8>) {
        let pairs = || url::form_urlencoded::parse(&self.body);
        let is_for = |name: &str| ["subject_token", "assertion", "token"].contains(&name);
        let written = |(name, value): (Cow<'_, str>, Cow<'_, str>)| format!("{name}={value}\n").into_bytes();
        let besides = pairs().filter(|(name, _)| !is_for(name)).flat_map(written).collect();
        (besides, pairs().filter(|(name, _)| is_for(name)).flat_map(written).collect())
    }

    /// A field of a form body.
    pub(crate) fn field(&self, name: &str) -> Option<String> {
        url::form_urlencoded::parse(&self.body).find(|(known, _)| known == name).map(|(_, value)| value.into_owned())
    }
}

/// What goes back.
#[derive(Debug, Clone)]
pub(crate) struct Reply {
    status: u16,
    headers: Vec<(String, String)>,
    after: Duration,
    steps: VecDeque<Step>,
}

/// A piece of an answer's body.
#[derive(Debug, Clone)]
pub(crate) enum Step {
    /// These bytes.
    Bytes(Bytes),
    /// Nothing for this long.
    Pause(Duration),
    /// These bytes again and again, without end.
    Forever(Bytes),
    /// These bytes, once there are any.
    When(When),
    /// What this gives, again and again, as long as it gives any.
    Again(When),
    /// The connection breaks.
    Cut,
}

/// Bytes that come when something else has happened.
#[derive(Clone)]
pub(crate) struct When(Arc<dyn Fn() -> Option<Bytes> + Send + Sync>);

impl std::fmt::Debug for When {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("When")
    }
}

impl Step {
    /// The bytes that `ready` gives, once it gives any.
    pub(crate) fn later(ready: impl Fn() -> Option<Bytes> + Send + Sync + 'static) -> Self {
        Self::When(When(Arc::new(ready)))
    }

    /// What `next` gives, again and again, as long as it gives any.
    pub(crate) fn again(next: impl Fn() -> Option<Bytes> + Send + Sync + 'static) -> Self {
        Self::Again(When(Arc::new(next)))
    }

    /// Nothing, until this counter has reached this number.
    pub(crate) fn until(counter: &Arc<AtomicUsize>, number: usize) -> Self {
        let counter = Arc::clone(counter);
        Self::later(move || (counter.load(Ordering::Acquire) >= number).then(Bytes::new))
    }
}

impl Reply {
    /// A status without a body.
    pub(crate) fn status(status: u16) -> Self {
        Self { status, headers: Vec::new(), after: Duration::ZERO, steps: VecDeque::new() }
    }

    /// This text as it is.
    pub(crate) fn text(status: u16, content_type: &str, text: impl Into<Bytes>) -> Self {
        Self::status(status).header("content-type", content_type).step(Step::Bytes(text.into()))
    }

    /// A JSON body.
    pub(crate) fn json(status: u16, value: &Value) -> Self {
        Self::text(status, "application/json", value.to_string())
    }

    /// The result of this request.
    pub(crate) fn result(seen: &Seen, result: &Value) -> Self {
        Self::json(200, &json!({ "jsonrpc": "2.0", "id": seen.json()["id"], "result": result }))
    }

    /// What a modern server says of itself, which has these capabilities.
    pub(crate) fn discovered(seen: &Seen, capabilities: &Value) -> Self {
        Self::result(seen, &discovered(capabilities))
    }

    /// A JSON-RPC error in answer to this request.
    pub(crate) fn error(seen: &Seen, status: u16, code: i64, message: &str) -> Self {
        let error = json!({ "code": code, "message": message });
        Self::json(status, &json!({ "jsonrpc": "2.0", "id": seen.json()["id"], "error": error }))
    }

    /// An event stream with these messages, which then ends.
    pub(crate) fn events(messages: &[Value]) -> Self {
        messages.iter().fold(Self::stream(), |reply, message| reply.event(message))
    }

    /// An event stream, so far without events.
    pub(crate) fn stream() -> Self {
        Self::status(200).header("content-type", "text/event-stream")
    }

    /// One more event.
    pub(crate) fn event(self, message: &Value) -> Self {
        self.step(Step::Bytes(format!("event: message\ndata: {message}\n\n").into()))
    }

    /// One more header.
    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// One more piece of the body.
    pub(crate) fn step(mut self, step: Step) -> Self {
        self.steps.push_back(step);
        self
    }

    fn is_stream(&self) -> bool {
        self.headers.iter().any(|(_, value)| value == "text/event-stream")
    }

    /// The status line itself comes only after this long.
    pub(crate) fn after(mut self, wait: Duration) -> Self {
        self.after = wait;
        self
    }
}

/// A recording server.
#[derive(Debug)]
pub(crate) struct Recorder {
    served: Served,
    memory: Arc<Memory>,
}

#[derive(Debug, Default)]
struct Memory {
    seen: Mutex<Vec<Seen>>,
    abandoned: AtomicUsize,
    poured: AtomicU64,
}

impl Recorder {
    /// A well-behaved MCP server with the tools `echo`, `add` and `erase`.
    pub(crate) fn good(era: Era) -> Self {
        Self::scripted(era, |_| None)
    }

    /// A well-behaved MCP server that takes this long for each answer.
    pub(crate) fn slow(era: Era, wait: Duration) -> Self {
        Self::serving(move |seen| behaved(era, seen).after(wait))
    }

    /// An MCP server that answers as `script` says, and well where the script has no answer. The script runs while the
    /// request is held: what it looks up is the state of the world before the answer.
    pub(crate) fn scripted(era: Era, script: impl Fn(&Seen) -> Option<Reply> + Send + Sync + 'static) -> Self {
        Self::serving(move |seen| script(seen).unwrap_or_else(|| behaved(era, seen)))
    }

    /// Any HTTP server.
    pub(crate) fn serving(answer: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Self {
        Self::served(None, answer)
    }

    /// A well-behaved MCP server behind TLS.
    pub(crate) fn behind_tls(era: Era, tls: Arc<ServerConfig>) -> Self {
        Self::serving_tls(tls, move |seen| behaved(era, seen))
    }

    /// An MCP server behind TLS that answers as `script` says, and well where the script has no answer.
    pub(crate) fn scripted_tls(
        era: Era,
        tls: Arc<ServerConfig>,
        script: impl Fn(&Seen) -> Option<Reply> + Send + Sync + 'static,
    ) -> Self {
        Self::serving_tls(tls, move |seen| script(seen).unwrap_or_else(|| behaved(era, seen)))
    }

    /// Any HTTP server behind TLS.
    pub(crate) fn serving_tls(tls: Arc<ServerConfig>, answer: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Self {
        Self::served(Some(tls), answer)
    }

    fn served(tls: Option<Arc<ServerConfig>>, answer: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Self {
        let memory = Arc::new(Memory::default());
        let answer = Arc::new(answer);
        let shared = Arc::clone(&memory);
        let served = Served::start(tls, move |request| respond(request, Arc::clone(&shared), Arc::clone(&answer)));
        Self { served, memory }
    }

    /// Nobody is there any more: the port is closed, and every connection.
    pub(crate) fn leave(&self) {
        self.served.leave();
    }

    /// Nobody else is let in; what is connected stays.
    pub(crate) fn shut(&self) {
        self.served.shut();
    }

    /// It is there again.
    pub(crate) fn come_back(&self) {
        self.served.come_back();
    }

    /// A server that exchanges callers' tokens: it may see them in what is posted to it.
    pub(crate) fn exchanging(self) -> Self {
        let mut this = self;
        this.served.exchanges = true;
        this
    }

    /// `http://127.0.0.1:PORT`.
    pub(crate) fn origin(&self) -> String {
        self.served.origin()
    }

    /// The MCP endpoint.
    pub(crate) fn url(&self) -> String {
        format!("{}/mcp", self.origin())
    }

    /// Every request so far.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.memory.seen.lock().clone()
    }

    /// The requests with this JSON-RPC method.
    pub(crate) fn seen_method(&self, method: &str) -> Vec<Seen> {
        self.seen().into_iter().filter(|seen| seen.rpc_method() == method).collect()
    }

    /// The requests for this path.
    pub(crate) fn seen_path(&self, path: &str) -> Vec<Seen> {
        self.seen().into_iter().filter(|seen| seen.path == path).collect()
    }

    /// How many answers the client did not wait for.
    pub(crate) fn abandoned(&self) -> usize {
        self.memory.abandoned.load(Ordering::Acquire)
    }

    /// How many bytes of answers in pieces went out.
    pub(crate) fn poured(&self) -> u64 {
        self.memory.poured.load(Ordering::Acquire)
    }

    /// Every byte that came in.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.served.bytes()
    }

    /// Whether this text came in, anywhere.
    pub(crate) fn saw_text(&self, text: &str) -> bool {
        self.bytes().windows(text.len()).any(|window| window == text.as_bytes())
    }
}

impl Drop for Recorder {
    /// No byte of a caller's credential (I1), whatever the test was about.
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        let (mut taken_in, mut tokens) = (Vec::new(), Vec::new());
        for seen in self.memory.seen.lock().iter() {
            // HTTP/2 has headers in a form that cannot be searched.
            for value in seen.headers.values() {
                taken_in.extend([b"\n", value.as_bytes()].concat());
            }
            taken_in.extend(["\n", &seen.path, "\n", &seen.query, "\n"].concat().into_bytes());
            if self.served.exchanges {
                let (besides, for_it) = seen.posted();
                taken_in.extend(besides);
                tokens.extend(for_it);
            } else {
                taken_in.extend(&seen.body);
            }
        }
        let leaked = leaks::found_in(&taken_in).or_else(|| leaks::own_found_in(&tokens));
        assert_eq!(leaked, None, "a part of a caller's credential came to {}", self.origin());
    }
}

async fn respond<F>(request: Request<Incoming>, memory: Arc<Memory>, answer: Arc<F>) -> Response<Body>
where
    F: Fn(&Seen) -> Reply + Send + Sync + 'static,
{
    let mut open = Open { memory: Arc::clone(&memory), done: false };
    let (head, body) = request.into_parts();
    let Ok(body) = body.collect().await else { return Response::new(serve::whole("")) };
    let seen = Seen {
        method: head.method.to_string(),
        path: head.uri.path().to_owned(),
        query: head.uri.query().unwrap_or_default().to_owned(),
        version: head.version,
        headers: head.headers,
        body: body.to_bytes(),
        at: Instant::now(),
    };
    memory.seen.lock().push(seen.clone());
    let reply = tokio::task::spawn_blocking(move || answer(&seen)).await.unwrap_or_else(|_| Reply::status(500));
    tokio::time::sleep(reply.after).await;
    let mut response = Response::builder().status(reply.status);
    for (name, value) in &reply.headers {
        response = response.header(name, value);
    }
    // A body of one piece has a length; any other comes in chunks.
    let whole = match (reply.steps.front(), reply.steps.len()) {
        (None, _) => Some(Bytes::new()),
        (Some(Step::Bytes(all)), 1) if !reply.is_stream() => Some(all.clone()),
        _ => None,
    };
    if let Some(all) = whole {
        open.done = true;
        return response.body(serve::whole(all)).unwrap();
    }
    response.body(BoxBody::new(Steps { left: reply.steps, pause: None, open })).unwrap()
}

/// Says that an answer was abandoned, unless it was finished.
struct Open {
    memory: Arc<Memory>,
    done: bool,
}

impl Drop for Open {
    fn drop(&mut self) {
        if !self.done {
            self.memory.abandoned.fetch_add(1, Ordering::AcqRel);
        }
    }
}

/// A body in steps.
struct Steps {
    left: VecDeque<Step>,
    pause: Option<Pin<Box<Sleep>>>,
    open: Open,
}

impl HttpBody for Steps {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let polled = self.as_mut().next(context);
        if let Poll::Ready(Some(Ok(frame))) = &polled {
            let bytes = frame.data_ref().map_or(0, Bytes::len);
            self.open.memory.poured.fetch_add(bytes as u64, Ordering::AcqRel);
        }
        polled
    }
}

impl Steps {
    fn next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        loop {
            if let Some(pause) = &mut self.pause {
                if pause.as_mut().poll(context).is_pending() {
                    return Poll::Pending;
                }
                self.pause = None;
            }
            match self.left.pop_front() {
                None => {
                    self.open.done = true;
                    return Poll::Ready(None);
                }
                Some(Step::Bytes(bytes)) => return Poll::Ready(Some(Ok(Frame::data(bytes)))),
                Some(Step::Again(when)) => {
                    if let Some(bytes) = when.0() {
                        self.left.push_front(Step::Again(when));
                        return Poll::Ready(Some(Ok(Frame::data(bytes))));
                    }
                }
                Some(Step::When(when)) => match when.0() {
                    Some(bytes) if bytes.is_empty() => {}
                    Some(bytes) => return Poll::Ready(Some(Ok(Frame::data(bytes)))),
                    None => {
                        self.left.push_front(Step::When(when));
                        self.pause = Some(Box::pin(tokio::time::sleep(Duration::from_millis(5))));
                    }
                },
                Some(Step::Pause(span)) => self.pause = Some(Box::pin(tokio::time::sleep(span))),
                Some(Step::Forever(bytes)) => {
                    self.left.push_front(Step::Forever(bytes.clone()));
                    return Poll::Ready(Some(Ok(Frame::data(bytes))));
                }
                Some(Step::Cut) => return Poll::Ready(Some(Err(io::Error::other("cut")))),
            }
        }
    }
}

/// What a well-behaved server of this era answers.
fn behaved(era: Era, seen: &Seen) -> Reply {
    match (seen.method.as_str(), era) {
        ("POST", Era::Modern) => modern(seen),
        ("POST", Era::Legacy) => legacy(seen),
        ("DELETE", Era::Legacy) => Reply::status(200),
        _ => Reply::status(405),
    }
}

fn modern(seen: &Seen) -> Reply {
    let call = seen.json();
    if seen.header("mcp-protocol-version") != Some("2026-07-28") || seen.header("mcp-method") != call["method"].as_str()
    {
        return Reply::error(seen, 400, -32020, "headers do not agree with the body");
    }
    match result_of(&call) {
        Some(result) => Reply::result(seen, &result),
        None if call["id"].is_null() => Reply::status(202),
        None => Reply::error(seen, 404, -32601, "method not found"),
    }
}

/// What a well-behaved modern server gives back for this request, where it has such a method.
pub(crate) fn result_of(request: &Value) -> Option<Value> {
    let mut result = match request["method"].as_str()? {
        "server/discover" => discovered(&json!({ "tools": {} })),
        "tools/list" => json!({ "tools": tools(), "ttlMs": 60_000, "cacheScope": "private" }),
        "tools/call" => called(&request["params"]),
        _ => return None,
    };
    result["resultType"] = json!("complete");
    Some(result)
}

fn discovered(capabilities: &Value) -> Value {
    json!({
        "resultType": "complete", "supportedVersions": ["2026-07-28"], "capabilities": capabilities,
        "ttlMs": 60_000, "cacheScope": "private",
    })
}

fn legacy(seen: &Seen) -> Reply {
    let call = seen.json();
    let session = seen.header("mcp-session-id");
    match call["method"].as_str() {
        Some("initialize") => Reply::result(seen, &json!({
            "protocolVersion": "2025-11-25", "capabilities": { "tools": {} }, "serverInfo": { "name": "recorder", "version": "1" },
        }))
        .header("mcp-session-id", "session-of-the-recorder"),
        _ if session != Some("session-of-the-recorder") => {
            let error = json!({ "code": -32000, "message": "Bad Request: Server not initialized" });
            Reply::json(400, &json!({ "jsonrpc": "2.0", "id": null, "error": error }))
        },
        Some("ping") => Reply::result(seen, &json!({})),
        Some("tools/list") => Reply::result(seen, &json!({ "tools": tools() })),
        Some("tools/call") => Reply::result(seen, &called(&call["params"])),
        _ if call["id"].is_null() => Reply::status(202),
        _ => Reply::error(seen, 200, -32601, "method not found"),
    }
}

/// The definitions of the recorder's tools.
pub(crate) fn tools() -> Value {
    let tool = |name: &str, properties: Value| {
        let schema = json!({ "type": "object", "properties": properties });
        json!({ "name": name, "description": format!("The tool {name}."), "inputSchema": schema })
    };
    json!([
        tool("echo", json!({ "message": { "type": "string" } })),
        tool("add", json!({ "a": { "type": "number" }, "b": { "type": "number" } })),
        tool("erase", json!({ "id": { "type": "string" } })),
    ])
}

/// What a tool of the recorder gives back: which tool it was, and its arguments as text.
fn called(params: &Value) -> Value {
    json!({ "content": [{ "type": "text", "text": format!("{} {}", params["name"].as_str().unwrap_or("?"), params["arguments"]) }] })
}
