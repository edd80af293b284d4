//! How does one message get to an upstream, and its answers back?
//!
//! Streamable HTTP as a client (MCP basic/transports/streamable-http): a request that is built here from nothing, and a
//! reader that yields one JSON-RPC message at a time. It does not know what the messages mean.

use std::{time::Duration, vec};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Uri,
    header::{ACCEPT, CONTENT_TYPE, USER_AGENT},
};
use url::Url;

use crate::{
    egress::{Body, Client, EgressError},
    exchange::Grant,
    refusal::Refusal,
    rpc::sse::{Event, Splitter},
    secret::Tripwire,
};

/// Where an upstream is: read once, for it goes with every message.
#[derive(Debug)]
pub(super) struct Address {
    uri: Uri,
    text: String,
}

impl Address {
    /// The address of an upstream as configured.
    pub(super) fn of(url: &Url) -> Result<Self, EgressError> {
        let uri = url.as_str().parse().map_err(|_unparsed| EgressError::Forbidden(format!("`{url}` is no address")))?;
        Ok(Self { uri, text: url.to_string() })
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
}

/// The head of an answer, and the way to the rest.
#[derive(Debug)]
pub(super) struct Answered {
    /// The HTTP status.
    pub(super) status: StatusCode,
    /// `Mcp-Session-Id`, where the upstream gave one.
    pub(super) session: Option<HeaderValue>,
    /// The messages.
    pub(super) messages: Messages,
}

/// Sends `outgoing` under `grant`. The caller's credential is looked for in everything that is about to leave.
pub(super) async fn post(
    client: &Client,
    to: &Address,
    grant: &Grant,
    outgoing: Outgoing<'_>,
    bounds: Reading<'_>,
) -> Result<Answered, Undelivered> {
    let request = build(to, grant, Method::POST, outgoing);
    if let Some(tripwire) = bounds.tripwire
        && tripwire.trips(&to.text, request.headers(), request.body())
    {
        return Err(Undelivered::NotSent(Refusal::CredentialLeak));
    }
    answered(client, request, bounds).await
}

/// Opens the stream on which a legacy upstream says what no request asked for (RL-04).
pub(super) async fn get(
    client: &Client,
    to: &Address,
    grant: &Grant,
    outgoing: Outgoing<'_>,
    bounds: Reading<'_>,
) -> Result<Answered, Undelivered> {
    let mut request = build(to, grant, Method::GET, outgoing);
    request.headers_mut().remove(CONTENT_TYPE);
    request.headers_mut().insert(ACCEPT, HeaderValue::from_static("text/event-stream"));
    answered(client, request, bounds).await
}

/// Ends a session of a legacy upstream (RL-04).
pub(super) async fn delete(
    client: &Client,
    to: &Address,
    grant: &Grant,
    outgoing: Outgoing<'_>,
) -> Result<Answered, Undelivered> {
    let mut request = build(to, grant, Method::DELETE, outgoing);
    request.headers_mut().remove(CONTENT_TYPE);
    let bounds = Reading { first_byte: DELETE_MAX, reply_bytes_max: 0, event_bytes_max: 0, tripwire: None };
    answered(client, request, bounds).await
}

async fn answered(client: &Client, request: Request<Bytes>, bounds: Reading<'_>) -> Result<Answered, Undelivered> {
    let response = client.open(request, bounds.first_byte).await.map_err(Undelivered::from)?;
    let (mut parts, body) = response.into_parts();
    let framing = framing(&parts.headers, bounds.event_bytes_max);
    Ok(Answered {
        status: parts.status,
        session: parts.headers.remove(&SESSION_ID),
        messages: Messages {
            body,
            framing,
            bytes_max: bounds.reply_bytes_max,
            event_bytes_max: bounds.event_bytes_max,
            bytes: 0,
        },
    })
}

/// Bounds on one answer, and the wire that a leaking credential trips.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reading<'a> {
    /// Until the head is there.
    pub(super) first_byte: Duration,
    /// Bytes of a whole answer.
    pub(super) reply_bytes_max: usize,
    /// Bytes of one event.
    pub(super) event_bytes_max: usize,
    /// The caller's credential, where there is a caller.
    pub(super) tripwire: Option<&'a Tripwire>,
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
            EgressError::Unreachable(_) | EgressError::Forbidden(_) => {
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

fn build(to: &Address, grant: &Grant, method: Method, outgoing: Outgoing<'_>) -> Request<Bytes> {
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
    authorize(headers, grant);
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

/// The messages of one answer, one at a time; what is not asked for is not read from the upstream.
#[derive(Debug)]
pub struct Messages {
    body: Body,
    framing: Framing,
    bytes_max: usize,
    event_bytes_max: usize,
    bytes: usize,
}

impl Messages {
    /// Whether the upstream answered with a stream of events.
    #[must_use]
    pub fn is_stream(&self) -> bool {
        matches!(self.framing, Framing::Events(..))
    }

    /// Bytes read so far.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The next message; `None` at the end.
    ///
    /// # Errors
    /// [`Refusal::UpstreamLost`], [`Refusal::UpstreamTooLarge`], [`Refusal::UpstreamInvalid`].
    pub async fn next(&mut self) -> Result<Option<Bytes>, Refusal> {
        match &mut self.framing {
            Framing::Ended => Ok(None),
            Framing::Json => {
                self.framing = Framing::Ended;
                let whole = self.body.whole(self.bytes_max).await.map_err(lost)?;
                self.bytes = whole.len();
                Ok((!whole.is_empty()).then_some(whole))
            }
            Framing::Other => {
                self.framing = Framing::Ended;
                Err(Refusal::UpstreamInvalid("an answer that is neither JSON nor an event stream".to_owned()))
            }
            Framing::Events(..) => self.next_event().await,
        }
    }

    async fn next_event(&mut self) -> Result<Option<Bytes>, Refusal> {
        loop {
            let Framing::Events(splitter, waiting) = &mut self.framing else { return Ok(None) };
            if let Some(event) = waiting.find(Event::is_message) {
                return Ok(Some(event.data));
            }
            let Some(chunk) = self.body.chunk().await else {
                self.framing = Framing::Ended;
                return Ok(None);
            };
            let chunk = chunk.map_err(lost)?;
            self.bytes = self.bytes.saturating_add(chunk.len());
            let mut events = Vec::new();
            splitter.push(&chunk, &mut events).map_err(|_size| Refusal::UpstreamTooLarge(self.event_bytes_max))?;
            *waiting = events.into_iter();
        }
    }

    /// Reads what is left of a small answer and throws it away, so that the connection can be used again; what does not
    /// end soon costs its connection.
    pub(super) async fn discard(mut self) {
        drop(tokio::time::timeout(DISCARD_MAX, self.body.whole(DISCARD_BYTES_MAX)).await);
    }
}

fn lost(error: EgressError) -> Refusal {
    Undelivered::from(error).into()
}

/// How the gateway names itself to upstreams.
const AGENT: &str = concat!("tollgate/", env!("CARGO_PKG_VERSION"));

/// An answer that nobody needs is read up to here; a larger one costs its connection.
const DISCARD_BYTES_MAX: usize = 16 * 1024;

/// And for so long.
const DISCARD_MAX: Duration = Duration::from_millis(500);

/// A server has so long to answer that a session is over.
const DELETE_MAX: Duration = Duration::from_secs(2);

/// `Mcp-Session-Id`.
pub(super) const SESSION_ID: HeaderName = HeaderName::from_static("mcp-session-id");
