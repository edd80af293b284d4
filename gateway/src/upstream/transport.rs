//! How does one message get to an upstream, and its answers back?
//!
//! The one of three ways that the configuration names: Streamable HTTP, which is here, HTTP+SSE, or a program's standard
//! input and output. Each takes a message and gives a status and a reader that yields one JSON-RPC message at a time, in
//! the terms of Streamable HTTP (MCP basic/transports), so that nobody else has to know which one it is. It does not know
//! what the messages mean.

use std::{time::Duration, vec};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Uri,
    header::{ACCEPT, CONTENT_TYPE, USER_AGENT, WWW_AUTHENTICATE},
};
use url::Url;

use super::{
    Peer, Sent, Way,
    resume::{Mark, Resume},
    routes::Routed,
    sse::Sse,
    stdio::Stdio,
};
use crate::{
    egress::{Body, Client, EgressError},
    exchange::Grant,
    refusal::Refusal,
    rpc::{
        batch,
        headers::{Field, PROTOCOL_VERSION, SESSION_ID},
        json::Bounds,
        sse::{Event, Splitter},
        versions,
    },
    secret::{Secret, Tripwire},
};

/// The way to one upstream.
#[derive(Debug)]
pub(super) enum Transport {
    /// Streamable HTTP.
    Http(Client, Address),
    /// HTTP+SSE of 2024-11-05.
    Sse(Sse),
    /// A program.
    Stdio(Stdio),
}

impl Transport {
    /// Sends `outgoing` under `grant`. The caller's credential is looked for in everything that is about to leave.
    pub(super) async fn post(
        &self,
        grant: &Grant,
        outgoing: Outgoing<'_>,
        bounds: Reading<'_>,
    ) -> Result<Answered, Undelivered> {
        match self {
            Self::Http(client, to) => post(client, to, grant, outgoing, bounds).await,
            Self::Sse(sse) => Box::pin(sse.post(grant, outgoing, bounds)).await,
            Self::Stdio(stdio) => Box::pin(stdio.post(grant, outgoing, bounds)).await,
        }
    }

    /// Opens the stream on which a legacy upstream says what no request asked for (RL-04).
    pub(super) async fn get(
        &self,
        grant: &Grant,
        outgoing: Outgoing<'_>,
        bounds: Reading<'_>,
    ) -> Result<Answered, Undelivered> {
        match self {
            Self::Http(client, to) => get(client, to, grant, outgoing, bounds).await,
            Self::Sse(sse) => Ok(sse.listen(outgoing.session)),
            Self::Stdio(stdio) => Ok(stdio.listen(outgoing.session)),
        }
    }

    /// Ends the session that `outgoing` names, which nobody needs any more.
    pub(super) async fn end(&self, grant: &Grant, outgoing: Outgoing<'_>) {
        match self {
            Self::Http(client, to) => delete(client, to, grant, outgoing).await,
            Self::Sse(sse) => sse.end(outgoing.session),
            Self::Stdio(stdio) => stdio.end(outgoing.session),
        }
    }

    /// Whether closing an answer's stream tells a modern upstream that its call was given up: only where each call has a
    /// stream of its own (RC-17).
    pub(super) const fn closes_streams(&self) -> bool {
        matches!(self, Self::Http(..))
    }

    /// Whether the upstream is a program.
    pub(super) const fn is_program(&self) -> bool {
        matches!(self, Self::Stdio(_))
    }

    /// What the upstream was given as a secret, besides what grants hold.
    pub(super) fn secrets(&self) -> &[Secret] {
        match self {
            Self::Http(..) | Self::Sse(_) => &[],
            Self::Stdio(stdio) => stdio.secrets(),
        }
    }

    /// Ends what lasts.
    pub(super) async fn close(&self) {
        match self {
            Self::Http(..) => {}
            Self::Sse(sse) => sse.close().await,
            Self::Stdio(stdio) => stdio.close().await,
        }
    }
}

/// Where an upstream is: read once, for it goes with every message.
#[derive(Debug)]
pub(super) struct Address {
    uri: Uri,
    url: Url,
    text: String,
}

impl Address {
    /// The address of an upstream as configured.
    pub(super) fn of(url: &Url) -> Result<Self, EgressError> {
        let uri = url.as_str().parse().map_err(|_unparsed| EgressError::Forbidden(format!("`{url}` is no address")))?;
        Ok(Self { uri, url: url.clone(), text: url.to_string() })
    }
}

/// A message on its way up. Nothing in it was copied from the client's headers.
#[derive(Debug)]
pub(super) struct Outgoing<'a> {
    /// The JSON-RPC message.
    pub(super) body: Bytes,
    /// `Mcp-Session-Id`.
    pub(super) session: Option<&'a HeaderValue>,
    /// `MCP-Protocol-Version`, `Mcp-Method`, `Mcp-Name`, `Mcp-Param-*` and trace context, all computed from the judged body.
    pub(super) headers: HeaderMap,
    /// Where it is on record how often this goes up.
    pub(super) sent: Option<&'a mut Sent>,
}

/// The head of an answer, and the way to the rest.
#[derive(Debug)]
pub(super) struct Answered {
    /// The HTTP status.
    pub(super) status: StatusCode,
    /// `Mcp-Session-Id`, where the upstream gave one.
    pub(super) session: Option<HeaderValue>,
    /// The scopes that a 403 wants (RFC 6750 §3.1), where it was for want of them.
    pub(super) wants: Option<Vec<String>>,
    /// The messages.
    pub(super) messages: Messages,
}

impl Answered {
    /// The session is not there (any more): nothing was executed.
    pub(super) fn gone() -> Self {
        Self { status: StatusCode::NOT_FOUND, session: None, wants: None, messages: Messages::of(Source::Nothing) }
    }

    /// What comes back comes over a channel that others share; nothing does where nothing was asked.
    pub(super) fn routed(routed: Option<Routed>) -> Self {
        let status = if routed.is_some() { StatusCode::OK } else { StatusCode::ACCEPTED };
        let messages = Messages::of(routed.map_or(Source::Nothing, Source::Routed));
        Self { status, session: None, wants: None, messages }
    }
}

pub(super) async fn post(
    client: &Client,
    to: &Address,
    grant: &Grant,
    mut outgoing: Outgoing<'_>,
    bounds: Reading<'_>,
) -> Result<Answered, Undelivered> {
    let sent = outgoing.sent.take();
    let request = build(to, grant, Method::POST, outgoing)?;
    answered(client, to, (request, grant, sent), bounds).await
}

async fn get(
    client: &Client,
    to: &Address,
    grant: &Grant,
    outgoing: Outgoing<'_>,
    bounds: Reading<'_>,
) -> Result<Answered, Undelivered> {
    let mut request = build(to, grant, Method::GET, outgoing)?;
    request.headers_mut().remove(CONTENT_TYPE);
    request.headers_mut().insert(ACCEPT, HeaderValue::from_static("text/event-stream"));
    answered(client, to, (request, grant, None), bounds).await
}

/// Ends a session of a legacy upstream (RL-04). What it answers changes nothing.
async fn delete(client: &Client, to: &Address, grant: &Grant, outgoing: Outgoing<'_>) {
    let Ok(mut request) = build(to, grant, Method::DELETE, outgoing) else { return };
    request.headers_mut().remove(CONTENT_TYPE);
    drop(client.open(request, DELETE_MAX).await);
}

/// Opens a stream of events that lasts; the whole answer where it is none.
pub(super) async fn open_stream(
    client: &Client,
    to: &Address,
    grant: &Grant,
    outgoing: Outgoing<'_>,
    bounds: Reading<'_>,
) -> Result<Result<Body, Box<Answered>>, Undelivered> {
    let answered = get(client, to, grant, outgoing, bounds).await?;
    if answered.status.is_success() && !answered.messages.is_stream() {
        let why = "no event stream where the configuration says HTTP+SSE".to_owned();
        return Err(Undelivered::NotSent(Refusal::UpstreamInvalid(why)));
    }
    match answered.messages.source {
        Source::Body(reader) if answered.status.is_success() => Ok(Ok(reader.body)),
        source @ (Source::Body(_) | Source::Routed(_) | Source::Nothing) => {
            Ok(Err(Box::new(Answered { messages: Messages::of(source), ..answered })))
        }
    }
}

/// A message of the gateway's own to `to`, under the credential of a stream that is open.
pub(super) fn message_to(to: &Address, credential: Option<(HeaderName, HeaderValue)>, body: Bytes) -> Request<Bytes> {
    let outgoing = Outgoing { body, session: None, headers: HeaderMap::new(), sent: None };
    let mut request = framed(to, Method::POST, outgoing);
    request.headers_mut().extend(credential);
    request
}

/// A request with the credential that it goes up under, and where it is on record how often it does.
type Parcel<'a> = (Request<Bytes>, &'a Grant, Option<&'a mut Sent>);

async fn answered(
    client: &Client,
    to: &Address,
    (request, grant, sent): Parcel<'_>,
    bounds: Reading<'_>,
) -> Result<Answered, Undelivered> {
    if bounds.tripwire.is_some_and(|tripwire| tripwire.trips(&to.text, request.headers(), request.body())) {
        return Err(Undelivered::NotSent(Refusal::CredentialLeak));
    }
    let spoken = Field::of(request.headers(), &PROTOCOL_VERSION);
    let batches = matches!(spoken, Field::Text(version) if versions::has_batches(version))
        .then(|| Box::new(Batches { bounds: bounds.peer.bounds, waiting: Vec::new().into_iter() }));
    let response = if grant.is_bound() {
        Box::pin(proven(client, to, (request, grant, sent), bounds.first_byte)).await?
    } else {
        send(client, (request, grant, sent), bounds.first_byte).await?
    };
    let (mut parts, body) = response.into_parts();
    let framing = framing(&parts.headers, bounds.peer.event_bytes_max);
    Ok(Answered {
        status: parts.status,
        session: parts.headers.remove(&SESSION_ID),
        wants: (parts.status == StatusCode::FORBIDDEN).then(|| wanted(&parts.headers)).flatten(),
        messages: Messages::of(Source::Body(Box::new(Reader {
            body,
            framing,
            batches,
            mark: Mark::new(),
            bytes_max: bounds.peer.reply_bytes_max,
            event_bytes_max: bounds.peer.event_bytes_max,
        }))),
    })
}

/// Sends `request`, whose credential is bound to a key. Where the upstream wants a nonce in the proof it is sent once
/// more: a 401 says that nothing was executed (RFC 9449 §9).
async fn proven(
    client: &Client,
    to: &Address,
    (request, grant, mut sent): Parcel<'_>,
    first_byte: Duration,
) -> Result<http::Response<Body>, Undelivered> {
    let mut again = request.clone();
    let response = send(client, (request, grant, sent.as_deref_mut()), first_byte).await?;
    if !(grant.heed(&to.url, response.headers()) && response.status() == StatusCode::UNAUTHORIZED) {
        return Ok(response);
    }
    if let Some(sent) = &mut sent {
        sent.is_declined();
    }
    prove(&mut again, to, grant)?;
    let response = send(client, (again, grant, sent), first_byte).await?;
    grant.heed(&to.url, response.headers());
    Ok(response)
}

/// Sends `request`, and writes down that it went up: before it does, for whoever stops waiting does not know whether it
/// has.
async fn send(
    client: &Client,
    (request, grant, sent): Parcel<'_>,
    first_byte: Duration,
) -> Result<http::Response<Body>, Undelivered> {
    let counted = sent.map(|sent| {
        let before = sent.clone();
        sent.leaves(grant);
        (sent, before)
    });
    let opened = client.open(request, first_byte).await.map_err(Undelivered::from);
    if let (Err(Undelivered::NotSent(_)), Some((sent, before))) = (&opened, counted) {
        *sent = before;
    }
    opened
}

fn prove(request: &mut Request<Bytes>, to: &Address, grant: &Grant) -> Result<(), Undelivered> {
    let proof = grant.proof(request.method(), &to.url);
    if let Some((name, value)) = proof.map_err(|why| Undelivered::NotSent(Refusal::Bug(why)))? {
        request.headers_mut().insert(name, value);
    }
    Ok(())
}

/// The scopes of a challenge for want of scopes (RFC 6750 §3, §3.1).
fn wanted(headers: &HeaderMap) -> Option<Vec<String>> {
    let mut challenges = headers.get_all(WWW_AUTHENTICATE).iter().filter_map(|value| value.to_str().ok());
    challenges.find_map(|challenge| {
        let scope = parameter(challenge, "scope").unwrap_or_default();
        let scopes = scope.split_ascii_whitespace().take(SCOPES_MAX).map(str::to_owned).collect();
        (parameter(challenge, "error")? == "insufficient_scope").then_some(scopes)
    })
}

/// A parameter of a challenge (RFC 9110 §11.2). What is escaped in it is no scope and no error that is known.
fn parameter<'a>(challenge: &'a str, name: &str) -> Option<&'a str> {
    let mut quoted = false;
    let mut parameters = challenge.split(|character| {
        quoted ^= character == '"';
        character == ',' && !quoted
    });
    parameters.find_map(|parameter| {
        let (before, value) = parameter.split_once('=')?;
        let known = before.split_ascii_whitespace().next_back()?; // the first comes after the scheme
        known.eq_ignore_ascii_case(name).then(|| value.trim().trim_matches('"'))
    })
}

/// Bounds on one answer, and the wire that a leaking credential trips.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reading<'a> {
    /// Until the head is there.
    pub(super) first_byte: Duration,
    /// Whose bounds on answers, events and messages these are.
    pub(super) peer: &'a Peer,
    /// The caller's credential, where there is a caller.
    pub(super) tripwire: Option<&'a Tripwire>,
    /// For whom a session begins, where one does: `Identity::principal`, or the gateway itself.
    pub(super) owner: [u8; 32],
}

/// Why a message brought no answer.
#[derive(Debug)]
pub(super) enum Undelivered {
    /// It provably did not reach the upstream's code.
    NotSent(Refusal),
    /// It may have.
    Unknown(Refusal),
}

impl From<EgressError> for Undelivered {
    fn from(error: EgressError) -> Self {
        match error {
            EgressError::Unreachable(_) | EgressError::Refused(_) | EgressError::Forbidden(_) => {
                Self::NotSent(Refusal::UpstreamUnreachable(error.to_string()))
            }
            EgressError::Timeout => Self::Unknown(Refusal::UpstreamTimeout),
            EgressError::Lost(_) => Self::Unknown(Refusal::UpstreamLost(error.to_string())),
            EgressError::TooLarge(limit) => Self::Unknown(Refusal::UpstreamTooLarge(limit)),
        }
    }
}

impl From<Undelivered> for Refusal {
    fn from(undelivered: Undelivered) -> Self {
        match undelivered {
            Undelivered::NotSent(refusal) | Undelivered::Unknown(refusal) => refusal,
        }
    }
}

fn build(to: &Address, grant: &Grant, method: Method, outgoing: Outgoing<'_>) -> Result<Request<Bytes>, Undelivered> {
    let mut request = framed(to, method, outgoing);
    authorize(request.headers_mut(), grant);
    prove(&mut request, to, grant)?;
    Ok(request)
}

fn framed(to: &Address, method: Method, outgoing: Outgoing<'_>) -> Request<Bytes> {
    let mut request = Request::new(outgoing.body);
    *request.method_mut() = method;
    *request.uri_mut() = to.uri.clone();
    let headers = request.headers_mut();
    *headers = outgoing.headers;
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(ACCEPT, HeaderValue::from_static("application/json, text/event-stream"));
    headers.insert(USER_AGENT, HeaderValue::from_static(AGENT));
    if let Some(session) = outgoing.session {
        headers.insert(SESSION_ID, session.clone());
    }
    request
}

/// Puts the grant's header in place, marked so that no HTTP layer prints or indexes it.
pub(super) fn authorize(headers: &mut HeaderMap, grant: &Grant) {
    if let Some((name, value)) = grant.header() {
        let mut value = value.clone();
        value.set_sensitive(true);
        headers.insert(name.clone(), value);
    }
}

/// How an answer's body holds its messages.
#[derive(Debug)]
enum Framing {
    /// The whole body is one message.
    Json,
    /// Each event is one message.
    Events(Splitter, vec::IntoIter<Event>),
    /// Neither: read only to be named in an error.
    Other,
    /// Nothing more comes.
    Ended,
}

fn framing(headers: &HeaderMap, event_bytes_max: usize) -> Framing {
    let kind = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = kind.split(';').next().unwrap_or_default().trim();
    if essence.eq_ignore_ascii_case("application/json") {
        Framing::Json
    } else if essence.eq_ignore_ascii_case("text/event-stream") {
        Framing::Events(Splitter::new(event_bytes_max), Vec::new().into_iter())
    } else {
        Framing::Other
    }
}

/// The messages of arrays, one at a time.
#[derive(Debug)]
struct Batches {
    bounds: Bounds,
    /// What is left of the last one.
    waiting: vec::IntoIter<Bytes>,
}

/// The messages of one answer, one at a time; what is not asked for is not read from the upstream.
#[derive(Debug)]
pub struct Messages {
    source: Source,
    /// Of its events so far, and at most. What lasts has no such bound: it is read for as long as somebody waits for word.
    bytes: usize,
    bytes_max: usize,
    resume: Option<Box<Resume>>,
}

/// Where messages come from.
#[derive(Debug)]
enum Source {
    /// The body of an HTTP answer.
    Body(Box<Reader>),
    /// A channel that others share.
    Routed(Routed),
    /// Nowhere.
    Nothing,
}

impl Messages {
    const fn of(source: Source) -> Self {
        Self { source, bytes: 0, bytes_max: usize::MAX, resume: None }
    }

    /// The answer to a call: one whose events never end is not read for as long as it comes.
    pub(super) fn within(self, bytes_max: usize) -> Self {
        Self { bytes_max, ..self }
    }

    /// Where the stream ends too early, it is taken up again.
    pub(super) fn resume_by(&mut self, way: &Way) {
        self.resume = Some(Box::new(Resume::new(way.clone())));
    }

    /// The call goes on under another credential.
    pub(super) fn renew(&mut self, way: &Way) {
        if let Some(resume) = &mut self.resume {
            resume.renew(way.clone());
        }
    }

    /// Whether there may be more than one.
    #[must_use]
    pub fn is_stream(&self) -> bool {
        match &self.source {
            Source::Body(reader) => matches!(reader.framing, Framing::Events(..)),
            Source::Routed(_) => true,
            Source::Nothing => false,
        }
    }

    /// The next message; `None` at the end.
    ///
    /// # Errors
    /// [`Refusal::UpstreamLost`], [`Refusal::UpstreamTooLarge`], [`Refusal::UpstreamInvalid`].
    pub async fn next(&mut self) -> Result<Option<Bytes>, Refusal> {
        loop {
            let next = self.read().await;
            if self.bytes > self.bytes_max {
                return Err(Refusal::UpstreamTooLarge(self.bytes_max));
            }
            if !matches!(next, Ok(None) | Err(Refusal::UpstreamLost(_))) || !self.resumed().await {
                return next;
            }
        }
    }

    async fn read(&mut self) -> Result<Option<Bytes>, Refusal> {
        match &mut self.source {
            Source::Nothing => Ok(None),
            Source::Body(reader) => reader.next(&mut self.bytes).await,
            Source::Routed(routed) => {
                let message = routed.next().await?;
                self.bytes = self.bytes.saturating_add(message.as_ref().map_or(0, Bytes::len));
                Ok(message)
            }
        }
    }

    /// Whether there is more after what seemed to be the end.
    async fn resumed(&mut self) -> bool {
        let (Some(resume), Source::Body(reader)) = (&mut self.resume, &self.source) else { return false };
        let Some(Self { source: Source::Body(mut next), .. }) = Box::pin(resume.after(&reader.mark)).await else {
            return false;
        };
        next.mark = reader.mark.clone();
        self.source = Source::Body(next);
        true
    }

    /// It was the answer, and has been read: its connection may serve again.
    pub(super) fn release(&mut self) {
        if let Source::Body(reader) = &mut self.source
            && matches!(reader.framing, Framing::Ended)
        {
            reader.body.release();
        }
    }

    /// It was not the answer: whose the next is on that connection nobody knows.
    pub(super) fn forsake(&mut self) {
        if let Source::Body(reader) = &mut self.source {
            reader.body.forsake();
        }
    }

    /// Reads what is left of a small answer and throws it away, so that the connection can be used again; what does not
    /// end soon costs its connection.
    pub(super) async fn discard(self) {
        if let Source::Body(mut reader) = self.source {
            drop(tokio::time::timeout(DISCARD_MAX, reader.body.whole(DISCARD_BYTES_MAX)).await);
        }
    }
}

/// Reads the body of an HTTP answer.
#[derive(Debug)]
struct Reader {
    body: Body,
    framing: Framing,
    /// Only in the one revision that has them (RL-10).
    batches: Option<Box<Batches>>,
    mark: Mark,
    bytes_max: usize,
    event_bytes_max: usize,
}

impl Reader {
    async fn next(&mut self, bytes: &mut usize) -> Result<Option<Bytes>, Refusal> {
        if let Some(message) = self.batches.as_mut().and_then(|batches| batches.waiting.next()) {
            return Ok(Some(message));
        }
        let text = self.read(bytes).await?;
        let (Some(batches), Some(text)) = (&mut self.batches, &text) else { return Ok(text) };
        let messages = batch::messages(text.clone(), &batches.bounds);
        batches.waiting = messages.map_err(|why| Refusal::UpstreamInvalid(why.to_owned()))?.into_iter();
        Ok(batches.waiting.next())
    }

    async fn read(&mut self, bytes: &mut usize) -> Result<Option<Bytes>, Refusal> {
        match &mut self.framing {
            Framing::Ended => Ok(None),
            Framing::Json => {
                self.framing = Framing::Ended;
                let whole = self.body.whole(self.bytes_max).await.map_err(lost)?;
                Ok((!whole.is_empty()).then_some(whole))
            }
            Framing::Other => {
                self.framing = Framing::Ended;
                Err(Refusal::UpstreamInvalid("an answer that is neither JSON nor an event stream".to_owned()))
            }
            Framing::Events(..) => self.next_event(bytes).await,
        }
    }

    async fn next_event(&mut self, bytes: &mut usize) -> Result<Option<Bytes>, Refusal> {
        loop {
            let Framing::Events(splitter, waiting) = &mut self.framing else { return Ok(None) };
            for event in waiting.by_ref() {
                self.mark.pass(&event);
                if event.is_message() {
                    return Ok(Some(event.data));
                }
            }
            let Some(chunk) = self.body.chunk().await else {
                self.framing = Framing::Ended;
                self.body.release();
                return Ok(None);
            };
            let chunk = chunk.map_err(lost)?;
            *bytes = bytes.saturating_add(chunk.len());
            let mut events = Vec::new();
            splitter.push(&chunk, &mut events).map_err(|_size| Refusal::UpstreamTooLarge(self.event_bytes_max))?;
            *waiting = events.into_iter();
        }
    }
}

fn lost(error: EgressError) -> Refusal {
    Undelivered::from(error).into()
}

/// How the gateway names itself to upstreams.
const AGENT: &str = concat!("tollgate/", env!("CARGO_PKG_VERSION"));

/// An answer that nobody needs is read up to here; a larger one costs its connection.
const DISCARD_BYTES_MAX: usize = 16 * 1024;

/// Scopes of one challenge that are read.
const SCOPES_MAX: usize = 32;

/// And for so long.
const DISCARD_MAX: Duration = Duration::from_millis(500);

/// A server has so long to answer that a session is over.
const DELETE_MAX: Duration = Duration::from_secs(2);
