//! How is a server of 2024-11-05 spoken to over HTTP?
//!
//! HTTP+SSE (MCP 2024-11-05 basic/transports), deprecated: a GET whose stream names an endpoint and then carries every
//! answer, and POSTs to that endpoint. One stream is one session. The endpoint must be where the stream is: what a server
//! says of itself sends no credential anywhere else.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use tokio::time::timeout;
use url::Url;

use super::{
    links::{Ending, Link, Links, Seat},
    routes::{Place, Routes, Sharing},
    transport::{self, Address, Answered, Outgoing, Reading, Undelivered},
};
use crate::{
    config::{Limits, UpstreamId},
    egress::{Body, Client, EgressError},
    exchange::Grant,
    refusal::Refusal,
    rpc::{
        json::Bounds,
        outbound,
        sse::{Event, Splitter},
    },
    tasks,
};

/// One upstream on HTTP+SSE, and the streams from it.
#[derive(Debug)]
pub(super) struct Sse {
    upstream: UpstreamId,
    client: Client,
    url: Url,
    address: Address,
    links: Arc<Links<Arc<Address>>>,
    bounds: Bounds,
    idle: Duration,
}

impl Sse {
    pub(super) fn new(upstream: &UpstreamId, url: &Url, client: Client, limits: &Limits) -> Result<Self, EgressError> {
        Ok(Self {
            upstream: upstream.clone(),
            client,
            url: url.clone(),
            address: Address::of(url)?,
            links: Links::new(STREAMS_MAX),
            bounds: Bounds::reply(limits),
            idle: limits.session_idle,
        })
    }

    /// Sends one message to the endpoint of its session; what comes back comes over that session's stream. The first
    /// message of a session opens it.
    pub(super) async fn post(
        &self,
        grant: &Grant,
        outgoing: Outgoing<'_>,
        bounds: Reading<'_>,
    ) -> Result<Answered, Undelivered> {
        let asked = outbound::asked(&outgoing.body);
        let (link, place, session) = match (outgoing.session, asked) {
            (Some(name), _) => match self.links.find(name) {
                Some(link) => (link, asked.map(|(id, _)| Place::Call(id)), None),
                None => return Ok(Answered::gone()),
            },
            (None, Some((id, "initialize"))) => match self.open(grant, bounds).await? {
                Opened::Link(link) => {
                    let name = link.name();
                    (link, Some(Place::Beginning(id)), Some(name))
                }
                Opened::Refused(answered) => return Ok(*answered),
            },
            (None, _) => return Err(Undelivered::NotSent(Refusal::Bug("a message of no session on HTTP+SSE"))),
        };
        let routed = match place.map(|place| link.routes.expect(place)) {
            Some(None) => return Ok(Answered::gone()),
            Some(routed) => routed,
            None => None,
        };
        let outgoing = Outgoing { session: None, ..outgoing };
        let answered = transport::post(&self.client, &link.way, grant, outgoing, bounds).await?;
        link.routes.used();
        if answered.status == StatusCode::NOT_FOUND {
            self.links.forget(&link.name());
            link.end();
        }
        if !answered.status.is_success() {
            return Ok(answered);
        }
        answered.messages.discard().await;
        Ok(Answered { session, ..Answered::routed(routed) })
    }

    /// What the stream of a session says without being asked.
    pub(super) fn listen(&self, session: Option<&HeaderValue>) -> Answered {
        let link = session.and_then(|name| self.links.find(name));
        link.and_then(|link| link.routes.listen()).map_or_else(Answered::gone, |heard| Answered::routed(Some(heard)))
    }

    /// Closes the stream of a session.
    pub(super) fn end(&self, session: Option<&HeaderValue>) {
        self.links.end(session);
    }

    /// Closes all streams.
    pub(super) async fn close(&self) {
        self.links.close().await;
    }

    async fn open(&self, grant: &Grant, bounds: Reading<'_>) -> Result<Opened, Undelivered> {
        let unreachable = |why: String| Undelivered::NotSent(Refusal::UpstreamUnreachable(why));
        let seat = self.links.seat(bounds.owner, bounds.first_byte).await;
        let seat = seat.map_err(|max| unreachable(format!("all {max} streams that it may take are in use")))?;
        let outgoing = Outgoing::new(Vec::new(), HeaderMap::new(), None);
        let response = transport::open_stream(&self.client, &self.address, grant, outgoing, bounds).await?;
        let body = match response {
            Ok(body) => body,
            Err(answered) => return Ok(Opened::Refused(answered)),
        };
        let mut stream =
            Stream { body, splitter: Splitter::new(bounds.peer.event_bytes_max), events: Vec::new().into_iter() };
        let named = timeout(bounds.first_byte, stream.next()).await.unwrap_or(Err(Refusal::UpstreamTimeout));
        // Nothing was executed yet, whatever is wrong.
        let endpoint = named.and_then(|event| self.endpoint(event.as_ref())).map_err(Undelivered::NotSent)?;
        let routes = Routes::new(&self.upstream, self.bounds, Sharing::Session);
        let (link, ending) = self.links.open(&seat, Arc::clone(&routes), Arc::new(endpoint));
        let listener = Listener {
            stream,
            name: link.name(),
            links: Arc::downgrade(&self.links),
            routes,
            client: self.client.clone(),
            endpoint: Arc::clone(&link.way),
            credential: grant.header().map(|(name, value)| (name.clone(), value.clone())),
            idle: self.idle,
            _seat: seat,
        };
        tasks::background(listener.listen(ending));
        Ok(Opened::Link(link))
    }

    /// The first event names the endpoint, which must be of one origin with the stream (RFC 6454 §5).
    fn endpoint(&self, event: Option<&Event>) -> Result<Address, Refusal> {
        let invalid = |why: &str| Refusal::UpstreamInvalid(why.to_owned());
        let event = event.filter(|event| event.kind.as_deref() == Some("endpoint"));
        let event = event.ok_or_else(|| invalid("an event stream that does not begin with `endpoint`"))?;
        let text = std::str::from_utf8(&event.data).map_err(|_bytes| invalid("an endpoint that is not text"))?;
        let url = self.url.join(text.trim()).map_err(|_unparsed| invalid("an endpoint that is not a URL"))?;
        let is_bare = url.username().is_empty() && url.password().is_none() && url.fragment().is_none();
        if url.origin() != self.url.origin() || !is_bare {
            return Err(invalid("an endpoint of another origin"));
        }
        Address::of(&url).map_err(|error| invalid(&error.to_string()))
    }
}

/// What became of a stream.
enum Opened {
    Link(Arc<Link<Arc<Address>>>),
    Refused(Box<Answered>),
}

/// Events, one at a time.
struct Stream {
    body: Body,
    splitter: Splitter,
    events: std::vec::IntoIter<Event>,
}

impl Stream {
    async fn next(&mut self) -> Result<Option<Event>, Refusal> {
        loop {
            if let Some(event) = self.events.next() {
                return Ok(Some(event));
            }
            let Some(chunk) = self.body.chunk().await else { return Ok(None) };
            let mut events = Vec::new();
            let chunk = chunk.map_err(|error| Refusal::from(Undelivered::from(error)))?;
            let pushed = self.splitter.push(&chunk, &mut events);
            pushed.map_err(|_size| Refusal::UpstreamInvalid("an event over the bound".to_owned()))?;
            self.events = events.into_iter();
        }
    }
}

/// Has one stream from its `endpoint` to its end.
struct Listener {
    stream: Stream,
    name: HeaderValue,
    links: Weak<Links<Arc<Address>>>,
    routes: Arc<Routes>,
    client: Client,
    endpoint: Arc<Address>,
    credential: Option<(HeaderName, HeaderValue)>,
    idle: Duration,
    _seat: Seat,
}

impl Listener {
    async fn listen(mut self, mut ending: Ending) {
        let routes = Arc::clone(&self.routes);
        let why = tokio::select! {
            () = ending.come() => lost("the stream was closed"),
            () = routes.unused(self.idle) => lost("the stream was closed"),
            why = self.read() => why,
        };
        if let Some(links) = self.links.upgrade() {
            links.forget(&self.name);
        }
        self.routes.end(&why);
    }

    async fn read(&mut self) -> Refusal {
        loop {
            let event = match self.stream.next().await {
                Ok(Some(event)) => event,
                Ok(None) => return lost("the event stream ended"),
                Err(why) => return why,
            };
            if !event.is_message() {
                continue;
            }
            match self.routes.deliver(event.data) {
                Ok(None) => {}
                Ok(Some(back)) => self.say(back).await,
                Err(_) => self.routes.dropped("event_not_json_rpc"),
            }
        }
    }

    /// Says something at once; whether it arrives is the server's concern.
    async fn say(&self, message: Vec<u8>) {
        let request = transport::message_to(&self.endpoint, self.credential.clone(), Bytes::from(message));
        drop(self.client.open(request, SAYING_MAX).await);
    }
}

fn lost(why: &str) -> Refusal {
    Refusal::UpstreamLost(why.to_owned())
}

/// Streams from one upstream at once.
const STREAMS_MAX: usize = 1_024;

/// For so long an answer to the server's own request is tried to be delivered; nothing else of the stream is read meanwhile.
const SAYING_MAX: Duration = Duration::from_secs(2);
