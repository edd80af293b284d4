//! How is it carried?
//!
//! A [`Receipt`], a [`Grant`] and a call in, a [`Reply`] out. It finds out which era an upstream speaks, keeps the
//! sessions that legacy upstreams want, and sends a call once: again only where it provably was not executed.
//! It does not judge what comes back; `inspect` does.

mod catalogue;
mod links;
mod resume;
mod routes;
mod session;
mod sse;
mod stdio;
mod subscription;
mod transport;
mod warden;
mod watch;

use std::{
    collections::BTreeMap,
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwapOption;
use bytes::Bytes;
pub use catalogue::Read;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use parking_lot::Mutex;
use session::{FAREWELLS_MAX, Farewell, Key, OWN, Session, Sessions};
use sse::Sse;
use stdio::Stdio;
pub use subscription::{Subject, Told, Wanted, Watch};
use tokio::{
    runtime::Handle,
    sync::{Notify, Semaphore},
};
pub use transport::Messages;
use transport::{Address, Answered, Outgoing, Reading, Transport, Undelivered};
use warden::Warden;
pub use warden::stand_by;
pub use watch::Heard;

use crate::{
    audit::journal::Receipt,
    catalog::{Definition, Target},
    clock,
    config::{self, Limits, Remote, Upstream, UpstreamId},
    egress::{Client, EgressError, Trust},
    exchange::Grant,
    identity::Identity,
    refusal::{Era, Refusal},
    rpc::{
        Call, Capabilities, Topics,
        headers::{self, PROTOCOL_VERSION},
        json::{Bounds, Value},
        meta::LogLevel,
        mirrors,
        outbound::{self, Retry},
        reply::{Inbound, Response, ServerRequest},
        versions,
    },
    secret::{Secret, Tripwire},
    tasks,
};

/// All upstreams of the estate.
#[derive(Debug)]
pub struct Upstreams {
    peers: BTreeMap<UpstreamId, Arc<Peer>>,
}

impl Upstreams {
    /// Prepares a client for every upstream; nothing is dialled yet.
    ///
    /// # Errors
    /// [`EgressError::Forbidden`] where a certificate file cannot be used.
    pub fn new(upstreams: &BTreeMap<UpstreamId, Arc<Upstream>>, limits: &Limits) -> Result<Self, EgressError> {
        let (mut clients, warden) = (Clients::default(), Arc::new(Warden::default()));
        let mut peers = BTreeMap::new();
        for (id, settings) in upstreams {
            let transport = match &settings.transport {
                config::Transport::Http(remote) => {
                    Transport::Http(clients.trusting(remote)?, Address::of(&remote.url)?)
                }
                config::Transport::Sse(remote) => {
                    Transport::Sse(Sse::new(id, &remote.url, clients.trusting(remote)?, limits)?)
                }
                config::Transport::Stdio(program) => Transport::Stdio(Stdio::new(id, program, limits, &warden)),
            };
            peers.insert(id.clone(), Arc::new(Peer::new(Arc::clone(settings), Arc::new(transport), limits)));
        }
        Ok(Self { peers })
    }

    /// One upstream.
    #[must_use]
    pub fn peer(&self, id: &UpstreamId) -> Option<&Arc<Peer>> {
        self.peers.get(id)
    }

    /// All of them.
    pub fn peers(&self) -> impl Iterator<Item = &Arc<Peer>> {
        self.peers.values()
    }

    /// Ends what `principals` have had with the upstreams: whoever comes back begins anew.
    pub fn forget(&self, principals: &HashSet<[u8; 32]>) {
        self.peers().for_each(|peer| peer.sessions.end_of(principals));
    }

    /// Ends the programs and the lasting streams, once no call is under way any more.
    pub async fn close(&self) {
        let close = |peer: &Arc<Peer>| {
            let peer = Arc::clone(peer);
            tasks::background(async move { peer.transport.close().await })
        };
        let closing: Vec<_> = self.peers().map(close).collect();
        let all = async {
            for closed in closing {
                drop(closed.await);
            }
        };
        drop(tokio::time::timeout(CLOSING_MAX, all).await);
    }
}

/// One client for each kind of trust: upstreams of one kind share its connections.
#[derive(Default)]
struct Clients(Vec<(Trust, Client)>);

impl Clients {
    fn trusting(&mut self, remote: &Remote) -> Result<Client, EgressError> {
        let trust = Trust {
            ca: remote.ca.clone(),
            client_certificate: remote.client_certificate.clone(),
            plain_http: remote.insecure_http,
        };
        if let Some((_, client)) = self.0.iter().find(|(other, _)| *other == trust) {
            return Ok(client.clone());
        }
        let client = Client::new(&trust)?;
        self.0.push((trust, client.clone()));
        Ok(client)
    }
}

/// What an upstream speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spoken {
    /// The era.
    pub era: Era,
    /// The newest revision that both sides know.
    pub version: &'static str,
}

/// One upstream, and what is known of it.
#[derive(Debug)]
pub struct Peer {
    settings: Arc<Upstream>,
    transport: Arc<Transport>,
    bounds: Bounds,
    reply_bytes_max: usize,
    event_bytes_max: usize,
    stream_bytes_max: usize,
    spoken: ArcSwapOption<Spoken>,
    /// Whether that was taken from silence.
    guessed: AtomicBool,
    /// Held by whoever finds out what it speaks.
    probing: tokio::sync::Mutex<()>,
    sessions: Sessions,
    farewells: Arc<Semaphore>,
    ids: AtomicU64,
    shaken: Notify,
    said: Mutex<Topics>,
    /// Counts the changes that it told of: part of every key of what is kept of its answers.
    changes: AtomicU64,
    /// Until when it vouches for what it listed.
    vouched: ArcSwapOption<Instant>,
    /// How many readings of what it offers have begun.
    begun: AtomicU64,
    /// The last of them that has ended.
    ended: tokio::sync::watch::Sender<u64>,
}

/// What `forward` carries: everything here was judged.
#[derive(Debug)]
pub struct Passage<'a> {
    /// Who asks.
    pub caller: &'a Identity,
    /// The call.
    pub call: &'a Call,
    /// What it is aimed at.
    pub target: &'a Target,
    /// `Mcp-Param-*` headers that no schema declares (RI-02).
    pub unrecognised: &'a [(HeaderName, HeaderValue)],
    /// The least severe log message that the client wants.
    pub log_level: Option<LogLevel>,
    /// What the client can do for this upstream.
    pub capabilities: Capabilities,
    /// What a retry brings.
    pub retry: Option<&'a Retry>,
    /// Where it is not the call that goes up, but a request about a task: its method, and the upstream's id of the task.
    pub task: Option<(&'static str, &'a str)>,
    /// Our own span, as `traceparent`.
    pub traceparent: Option<&'a str>,
    /// The caller's `tracestate`, unchanged.
    pub tracestate: Option<&'a str>,
}

/// What became of a forwarded call.
#[derive(Debug)]
pub enum Forwarded {
    /// The upstream answers.
    Answered(Box<Reply>),
    /// The upstream would not take the credential; nothing was executed, so the receipt still stands.
    Unauthorized(Receipt),
    /// The upstream wants other scopes of the credential than it has; nothing was executed, so the receipt still stands.
    Unscoped(Receipt, Scopes),
    /// The upstream could not be reached, so the receipt still stands.
    Unreachable(Receipt, Refusal),
}

/// What of a call has gone up, however that ends.
#[derive(Debug, Clone)]
pub struct Sent {
    /// The credential of its record.
    generation: u64,
    /// The one under which it was sent last, by its digest, where that is another.
    token_digest: Option<String>,
    /// Whether it has gone up, and nobody has said since that it was not executed.
    left: bool,
    /// Whether the upstream has said that it did not execute it, and it was not sent again since.
    declined: bool,
    again: u64,
}

impl Sent {
    /// Nothing of a call whose record names `grant`.
    #[must_use]
    pub fn under(grant: &Grant) -> Self {
        Self { generation: grant.generation(), token_digest: None, left: false, declined: false, again: 0 }
    }

    /// What went up was not executed. Nothing is said of what never did, as where a session turns out to be gone first.
    pub const fn is_declined(&mut self) {
        self.declined |= std::mem::replace(&mut self.left, false);
    }

    /// It is sent.
    fn leaves(&mut self, grant: &Grant) {
        self.left = true;
        self.again = self.again.saturating_add(u64::from(std::mem::take(&mut self.declined)));
        let other = (grant.generation() != self.generation).then(|| grant.token_digest()).flatten();
        self.token_digest = other.map(str::to_owned);
    }

    /// Whether the upstream may have executed it.
    #[must_use]
    pub const fn has_left(&self) -> bool {
        self.left
    }

    /// Whether the upstream has seen it.
    #[must_use]
    pub const fn is_seen(&self) -> bool {
        self.declined || self.again > 0
    }

    /// How often it was sent.
    #[must_use]
    pub const fn attempts(&self) -> u64 {
        self.again.saturating_add(1)
    }

    /// The credential under which it was sent last, by its digest, where that is not the one of its record.
    #[must_use]
    pub fn token_digest(&self) -> Option<&str> {
        self.token_digest.as_deref()
    }
}

/// What an upstream says that a credential lacks.
#[derive(Debug)]
pub struct Scopes {
    /// The scopes that the upstream wants.
    pub wanted: Vec<String>,
    /// Those of the credential.
    pub held: Vec<String>,
}

/// An upstream's answer, still arriving.
#[derive(Debug)]
pub struct Reply {
    /// The messages, this call's response among them.
    pub messages: Messages,
    /// The JSON-RPC id under which the upstream knows the call.
    pub id: u64,
    /// What the upstream speaks.
    pub spoken: Spoken,
    /// The HTTP status of the answer.
    pub status: StatusCode,
    underway: Underway,
    /// Spent, and held until the call ends: with it goes the room in the ceilings. A call that waits for its client has
    /// given it back.
    receipt: Option<Receipt>,
}

impl Peer {
    fn new(settings: Arc<Upstream>, transport: Arc<Transport>, limits: &Limits) -> Self {
        let spoken = settings.era.map(|era| Arc::new(Spoken { era, version: newest(era) }));
        Self {
            settings,
            transport,
            bounds: Bounds::reply(limits),
            reply_bytes_max: limits.reply_bytes_max,
            event_bytes_max: limits.event_bytes_max,
            stream_bytes_max: limits.stream_bytes_max,
            spoken: ArcSwapOption::from(spoken),
            guessed: AtomicBool::new(false),
            probing: tokio::sync::Mutex::default(),
            sessions: Sessions::new(),
            farewells: Arc::new(Semaphore::new(FAREWELLS_MAX)),
            ids: AtomicU64::new(1),
            shaken: Notify::new(),
            said: Mutex::new(Topics::default()),
            changes: AtomicU64::new(0),
            vouched: ArcSwapOption::empty(),
            begun: AtomicU64::new(0),
            ended: tokio::sync::watch::Sender::new(0),
        }
    }

    /// The upstream's settings.
    #[must_use]
    pub fn settings(&self) -> &Arc<Upstream> {
        &self.settings
    }

    /// What it speaks, where that is known.
    #[must_use]
    pub fn spoken(&self) -> Option<Spoken> {
        self.spoken.load().as_deref().copied()
    }

    /// How often what it said before has become out of date: what was kept under another count is not used any more.
    #[must_use]
    pub fn changes(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }

    /// What it said before is out of date: it tells of a change, or may have told of one while nobody listened.
    fn outdate(&self) {
        self.changes.fetch_add(1, Ordering::AcqRel);
    }

    /// For how long after `now` it vouches for its lists, where it said so when they were read.
    #[must_use]
    pub fn vouches(&self, now: Instant) -> Option<Duration> {
        self.vouched.load().as_deref().map(|until| until.saturating_duration_since(now))
    }

    /// Sends one recorded call. The receipt is spent here; it comes back only where nothing was executed.
    ///
    /// # Errors
    /// Every refusal that an upstream can cause.
    pub async fn forward(
        self: &Arc<Self>,
        receipt: Receipt,
        grant: Grant,
        passage: &Passage<'_>,
        sent: &mut Sent,
    ) -> Result<Forwarded, Refusal> {
        let grant = Arc::new(grant);
        let (answered, mut underway) = match self.send(&grant, passage, sent).await {
            Ok(answered) => answered,
            // Said of what comes before a call: the era, or a session. The call itself was not sent.
            Err(Refusal::UpstreamUnauthorized) => return Ok(Forwarded::Unauthorized(receipt)),
            Err(refusal @ Refusal::UpstreamUnreachable(_)) => return Ok(Forwarded::Unreachable(receipt, refusal)),
            Err(refusal) => return Err(refusal),
        };
        if answered.status == StatusCode::UNAUTHORIZED {
            underway.open = false;
            sent.is_declined();
            answered.messages.discard().await;
            return Ok(Forwarded::Unauthorized(receipt));
        }
        if let Some(wanted) = answered.wants {
            underway.open = false;
            sent.is_declined();
            answered.messages.discard().await;
            return Ok(Forwarded::Unscoped(receipt, Scopes { wanted, held: grant.scopes().to_vec() }));
        }
        if answered.status.is_redirection() {
            underway.open = false;
            return Err(Refusal::UpstreamInvalid("a redirect, which is never followed".to_owned()));
        }
        let Way { id, spoken, .. } = underway.way;
        let (mut messages, status) = (answered.messages.within(self.stream_bytes_max), answered.status);
        if spoken.era == Era::Legacy && status.is_success() && messages.is_stream() {
            messages.resume_by(&underway.way);
        }
        Ok(Forwarded::Answered(Box::new(Reply { messages, id, spoken, status, underway, receipt: Some(receipt) })))
    }

    async fn send(
        self: &Arc<Self>,
        grant: &Arc<Grant>,
        passage: &Passage<'_>,
        sent: &mut Sent,
    ) -> Result<(Answered, Underway), Refusal> {
        let spoken = self.detect(grant).await?;
        if spoken.era == Era::Legacy {
            return self.send_in_session(grant, passage, sent).await;
        }
        let shown = Shown::first(Arc::clone(grant));
        let way = Way { peer: Arc::clone(self), shown, id: self.next_id(), spoken, session: None };
        Ok(self.post_call(way, passage, sent).await?)
    }

    /// A 404 proves that the session was gone and the call not executed: begun again and sent again, once (RL-13). Many
    /// servers say 400 instead, which proves nothing: the next call begins a session.
    async fn send_in_session(
        self: &Arc<Self>,
        grant: &Arc<Grant>,
        passage: &Passage<'_>,
        sent: &mut Sent,
    ) -> Result<(Answered, Underway), Refusal> {
        let key = Key {
            principal: passage.caller.principal,
            generation: grant.generation(),
            capabilities: passage.capabilities.in_version(versions::LEGACY_NEWEST),
        };
        let mut first = true;
        loop {
            let session = self
                .sessions
                .take(&key, Box::pin(self.begin(grant, passage.capabilities, Some(passage.caller))))
                .await?;
            if let Some(level) = passage.log_level.filter(|level| session.is_quieter_than(*level)) {
                Box::pin(self.set_level(grant, &session, level)).await;
            }
            let way = Way {
                peer: Arc::clone(self),
                shown: Shown::first(Arc::clone(grant)),
                id: self.next_id(),
                spoken: session.spoken(),
                session: Some(Arc::clone(&session)),
            };
            let (answered, mut underway) = self.post_call(way, passage, sent).await?;
            if session.may_be_gone(answered.status) {
                self.sessions.forget(&key, &session, answered.status);
            }
            if !(first && answered.status == StatusCode::NOT_FOUND && session.id.is_some()) {
                return Ok((answered, underway));
            }
            first = false;
            underway.open = false;
            sent.is_declined();
            answered.messages.discard().await;
        }
    }

    async fn post_call(
        &self,
        way: Way,
        passage: &Passage<'_>,
        sent: &mut Sent,
    ) -> Result<(Answered, Underway), Undelivered> {
        let Way { id, spoken, .. } = way;
        let definition = &passage.target.definition;
        let meta = passage.call.meta();
        // There is no progress on tasks (ext-tasks, Task Status Notifications).
        let token = (meta.progress_token.is_some() && passage.task.is_none()).then(|| progress_token(id));
        let message = outbound::Outgoing {
            progress_token: token.as_deref(),
            traceparent: passage.traceparent,
            tracestate: passage.tracestate,
            capabilities: &passage.capabilities.in_version(spoken.version).json(),
            client_info: meta.client_info.map(Value::raw),
            log_level: passage.log_level,
            retry: passage.retry,
            task_ms: way.serves_tasks(definition).then_some(definition.timeout.as_millis()),
            ..outbound::Outgoing::own(id, spoken.version)
        };
        let (method, about) = passage.task.unwrap_or((passage.call.method().as_str(), &definition.name));
        let body = Bytes::from(match passage.task {
            Some(task) => outbound::task(&message, task, passage.call),
            None => outbound::call(&message, about, passage.call),
        });
        let mut headers = self.headers(spoken, method, headers::name_member(method).map(|_| about));
        if spoken.era == Era::Modern {
            headers.extend(passage.unrecognised.iter().cloned());
            if passage.task.is_none() {
                mirrors::mirror(&definition.mirrors, passage.call.arguments(), &mut headers);
            }
        }
        for (name, value) in [("traceparent", passage.traceparent), ("tracestate", passage.tracestate)] {
            if let Some(Ok(value)) = value.map(HeaderValue::from_str) {
                headers.insert(HeaderName::from_static(name), value);
            }
        }
        let mut underway = Underway { way, open: true };
        let outgoing = Outgoing { body, session: underway.way.session_id(), headers, sent: Some(sent) };
        let reading = self.reading(definition.timeout, Some(passage.caller.credential.tripwire()));
        let answered = self.transport.post(&underway.way.shown.now, outgoing, reading).await;
        if let Err(Undelivered::NotSent(_)) = answered {
            underway.open = false;
        }
        Ok((answered?, underway))
    }

    /// The headers of a message to a peer that speaks `spoken`; only a modern one reads the mirrored ones.
    fn headers(&self, spoken: Spoken, method: &str, name: Option<&str>) -> HeaderMap {
        let mut headers = HeaderMap::with_capacity(HEADERS);
        match spoken.era {
            Era::Modern => headers::mirror(&mut headers, spoken.version, method, name),
            Era::Legacy => {
                headers.insert(PROTOCOL_VERSION, HeaderValue::from_static(spoken.version));
            }
        }
        headers
    }

    /// A session at a legacy upstream: `initialize`, then `notifications/initialized`.
    async fn begin(
        &self,
        grant: &Arc<Grant>,
        capabilities: Capabilities,
        caller: Option<&Identity>,
    ) -> Result<Session, Refusal> {
        let id = self.next_id();
        let capabilities = capabilities.in_version(versions::LEGACY_NEWEST).json();
        let own = outbound::Outgoing::own(id, versions::LEGACY_NEWEST);
        let body = outbound::initialize(&outbound::Outgoing { capabilities: &capabilities, ..own });
        let owner = caller.map_or(OWN, |caller| caller.principal);
        let reading = Reading { owner, ..self.reading(self.settings.timeout, None) };
        let mut answered = self.transport.post(grant, Outgoing::new(body, HeaderMap::new(), None), reading).await?;
        if !answered.status.is_success() {
            return Err(status_refusal(answered.status, "initialize"));
        }
        let response = self.response(grant, &mut answered.messages, id).await?;
        let result = result_of(&response, "initialize")?;
        let version =
            result.get("protocolVersion").and_then(|version| versions::legacy_upstream(&version.text()?)).ok_or_else(
                || Refusal::UpstreamIncompatible("`initialize` agreed on no version that we know".to_owned()),
            )?;
        let session = Session {
            id: answered.session,
            version,
            offer: catalogue::offer(result),
            level: Mutex::new(None),
            gone: AtomicBool::new(false),
            farewell: Farewell {
                transport: Arc::clone(&self.transport),
                grant: Arc::clone(grant),
                turns: Arc::clone(&self.farewells),
            },
            begun: clock::instant(),
        };
        // A server that knows the caller's credential, wherever from, does not get it back as a name.
        if let (Some(caller), Some(id)) = (caller, &session.id)
            && caller.credential.tripwire().trips_on(id.as_bytes())
        {
            session.gone.store(true, Ordering::Relaxed);
            return Err(Refusal::CredentialLeak);
        }
        let headers = self.headers(Spoken { era: Era::Legacy, version }, "", None);
        let noted = self.exchange(grant, Outgoing::new(outbound::initialized(), headers, session.id.as_ref())).await?;
        noted.messages.discard().await;
        Ok(session)
    }

    /// Asks for log messages from `level` on, for all calls of the session. Where that fails there are fewer of them.
    async fn set_level(&self, grant: &Grant, session: &Session, level: LogLevel) {
        let body = outbound::set_level(&outbound::Outgoing::own(self.next_id(), session.version), level);
        self.say(grant, (session.spoken(), session.id.as_ref()), body).await;
    }

    /// Answers what a legacy upstream asks where no call stands behind it: a ping is our business (RL-09), and for
    /// anything else there is no client (spec §2.5). A modern one may not ask (RS-07), and waits for nothing.
    async fn answer(&self, grant: &Grant, session: Option<&Session>, request: &ServerRequest) {
        let Some(session) = session else { return };
        let body = match &*request.method() {
            "ping" => outbound::pong(request.id()),
            _ => outbound::method_not_found(request.id()),
        };
        self.say(grant, (session.spoken(), session.id.as_ref()), body).await;
    }

    /// Sends a message for whose answer nobody waits long.
    async fn say(&self, grant: &Grant, (spoken, session): (Spoken, Option<&HeaderValue>), message: Vec<u8>) {
        self.tell(grant, Outgoing::new(message, self.headers(spoken, "", None), session)).await;
    }

    async fn tell(&self, grant: &Grant, outgoing: Outgoing<'_>) {
        let said = async {
            if let Ok(answered) = self.exchange(grant, outgoing).await {
                answered.messages.discard().await;
            }
        };
        drop(tokio::time::timeout(SAYING_MAX, said).await);
    }

    /// Reads messages until the response to `id`; everything before it is not asked for here. What is listed is shown to
    /// everybody, so an answer that holds the credential of `grant` is none.
    async fn response(&self, grant: &Grant, messages: &mut Messages, id: u64) -> Result<Response, Refusal> {
        let read = async {
            while let Some(message) = messages.next().await? {
                if self.gives_away(grant, &message) {
                    return Err(Refusal::UpstreamInvalid("the answer holds the gateway's credential".to_owned()));
                }
                let message =
                    Inbound::parse(message, &self.bounds).map_err(|why| Refusal::UpstreamInvalid(why.to_owned()))?;
                if let Inbound::Response(response) = message
                    && response.answers(id)
                {
                    messages.release();
                    return Ok(response);
                }
            }
            messages.forsake();
            Err(Refusal::UpstreamLost("the answer ended without a response".to_owned()))
        };
        tokio::time::timeout(self.settings.timeout, read).await.unwrap_or(Err(Refusal::UpstreamTimeout))
    }

    async fn exchange(&self, grant: &Grant, outgoing: Outgoing<'_>) -> Result<Answered, Undelivered> {
        let reading = self.reading(self.settings.timeout, None);
        self.transport.post(grant, outgoing, reading).await
    }

    /// Whether `message` holds a secret: the credential of `grant`, or one that the transport was given.
    fn gives_away(&self, grant: &Grant, message: &[u8]) -> bool {
        // What is not UTF-8 is no message, and goes nowhere.
        let Ok(text) = std::str::from_utf8(message) else { return false };
        let header = grant.header().and_then(|(_, value)| value.to_str().ok()?.rsplit(' ').next());
        header.into_iter().chain(self.transport.secrets().iter().map(Secret::expose)).any(|secret| {
            let end = secret.get(secret.len().saturating_sub(SECRET_BYTES_SEARCHED)..).unwrap_or(secret);
            end.len() >= SECRET_BYTES_MIN && text.contains(end)
        })
    }

    fn reading<'a>(&'a self, first_byte: Duration, tripwire: Option<&'a Tripwire>) -> Reading<'a> {
        Reading { first_byte, peer: self, tripwire, owner: OWN }
    }

    fn next_id(&self) -> u64 {
        self.ids.fetch_add(1, Ordering::Relaxed)
    }
}

impl<'a> Outgoing<'a> {
    fn new(body: Vec<u8>, headers: HeaderMap, session: Option<&'a HeaderValue>) -> Self {
        Self { body: Bytes::from(body), session, headers, sent: None }
    }
}

/// The credentials of one conversation, which may outlive the first of them: the upstream can repeat each that it was shown.
#[derive(Debug, Clone)]
struct Shown {
    now: Arc<Grant>,
    /// No more than a held call has rounds, or are minted while one token of the caller lasts.
    before: Vec<Arc<Grant>>,
}

impl Shown {
    const fn first(grant: Arc<Grant>) -> Self {
        Self { now: grant, before: Vec::new() }
    }

    /// What is said from now on is said under `grant`.
    fn renew(&mut self, grant: Arc<Grant>) {
        let before = std::mem::replace(&mut self.now, grant);
        if before.generation() != self.now.generation() {
            self.before.push(before);
        }
    }

    fn given_away(&self, peer: &Peer, message: &[u8]) -> bool {
        std::iter::once(&self.now).chain(&self.before).any(|grant| peer.gives_away(grant, message))
    }
}

/// How a call went, for what has to be said about it afterwards.
#[derive(Debug, Clone)]
struct Way {
    peer: Arc<Peer>,
    shown: Shown,
    id: u64,
    spoken: Spoken,
    session: Option<Arc<Session>>,
}

impl Way {
    /// Whether a call of `definition` has to become a task of MCP 2025-11-25: where the server does not offer tasks, what
    /// it says of its tools does not count.
    fn serves_tasks(&self, definition: &Definition) -> bool {
        definition.needs_task() && self.session.as_ref().is_some_and(|session| session.offer.tasks_of_2025)
    }

    fn session_id(&self) -> Option<&HeaderValue> {
        self.session.as_ref().and_then(|session| session.id.as_ref())
    }

    async fn say(&self, message: Vec<u8>) {
        self.peer.say(&self.shown.now, (self.spoken, self.session_id()), message).await;
    }
}

/// A call that the upstream works on. Given up before it was answered, it ends there too: a modern upstream sees its
/// stream closed, and a legacy one, to which that means nothing (RL-07), or one without a stream for each call (RC-17),
/// is told.
#[derive(Debug)]
struct Underway {
    way: Way,
    open: bool,
}

impl Drop for Underway {
    fn drop(&mut self) {
        // Without a runtime the process is ending, and nothing can be said any more.
        let sees_it = self.way.spoken.era == Era::Modern && self.way.peer.transport.closes_streams();
        if self.open && !sees_it && Handle::try_current().is_ok() {
            let way = self.way.clone();
            tasks::background(
                async move { way.say(outbound::cancelled(way.id, "nobody waits for it any more")).await },
            );
        }
    }
}

/// A task that the gateway follows for a client that cannot. Given up before it ended, it is cancelled, by the one way
/// that tasks have for that (spec §2.1).
#[derive(Debug)]
pub struct Following {
    way: Way,
    task: String,
    open: bool,
}

impl Following {
    /// It has ended, or somebody else follows it from now on.
    pub fn is_over(&mut self) {
        self.open = false;
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        if self.open && Handle::try_current().is_ok() {
            let (way, task) = (self.way.clone(), std::mem::take(&mut self.task));
            tasks::background(async move {
                let version = way.spoken.version;
                let capabilities = Capabilities::TASKS.in_version(version).json();
                let own = outbound::Outgoing::own(way.peer.next_id(), version);
                let cancel = outbound::own_task(
                    &outbound::Outgoing { capabilities: &capabilities, ..own },
                    "tasks/cancel",
                    &task,
                );
                let headers = way.peer.headers(way.spoken, "tasks/cancel", Some(&task));
                way.peer.tell(&way.shown.now, Outgoing::new(cancel, headers, way.session_id())).await;
            });
        }
    }
}

impl Reply {
    /// The upstream's task of this id, under the credential of this reply.
    #[must_use]
    pub fn following(&self, task: &str) -> Following {
        Following { way: self.underway.way.clone(), task: task.to_owned(), open: true }
    }

    /// Whether a call of `definition` was asked to become a task of MCP 2025-11-25.
    #[must_use]
    pub fn is_as_task(&self, definition: &Definition) -> bool {
        self.underway.way.serves_tasks(definition)
    }

    /// The progress token under which the upstream reports on this call.
    #[must_use]
    pub fn progress_token(&self) -> String {
        progress_token(self.id)
    }

    /// What one message may be at most.
    #[must_use]
    pub fn bounds(&self) -> &Bounds {
        &self.underway.way.peer.bounds
    }

    /// Whether `message` holds a credential that the call was carried under: an upstream that repeats what it was sent, in
    /// a page of debugging or an error, would hand it to the caller.
    #[must_use]
    pub fn gives_away(&self, message: &[u8]) -> bool {
        let way = &self.underway.way;
        way.shown.given_away(&way.peer, message)
    }

    /// Whether an error of this code says that the upstream turned the call down before anything of it was executed,
    /// because the gateway believes something else of it than it does itself (MCP basic/transports/streamable-http, server
    /// validation; basic/versioning). HTTP has a status for that, which an error in the middle of a call does not get; where
    /// there is none, the call must not have `begun`.
    #[must_use]
    pub fn is_turned_down(&self, code: i64, begun: bool) -> bool {
        let before_all = !self.status.is_success() || !(begun || self.underway.way.peer.transport.closes_streams());
        self.spoken.era == Era::Modern && before_all && catalogue::is_misunderstanding(code)
    }

    /// Sends a message of the gateway's own to the upstream: an answer to a request that it made of us.
    pub async fn respond(&self, message: Vec<u8>) {
        self.underway.way.say(message).await;
    }

    /// Sends a client's answer to a request that the upstream made. What `caller` was known by is looked for in it.
    ///
    /// # Errors
    /// [`Refusal::CredentialLeak`].
    pub async fn pass_on(&self, caller: &Identity, message: Vec<u8>) -> Result<(), Refusal> {
        if caller.credential.tripwire().trips("", &HeaderMap::new(), &message) {
            return Err(Refusal::CredentialLeak);
        }
        self.underway.way.say(message).await;
        Ok(())
    }

    /// Gives the room in the ceilings back while the call waits for its client.
    pub fn rest(&mut self) {
        self.receipt = None;
    }

    /// The call goes on for another request of the same principal, recorded and counted anew, under the credential that
    /// was minted for that one.
    pub fn resume(&mut self, receipt: Receipt, grant: Grant) {
        self.receipt = Some(receipt);
        self.underway.way.shown.renew(Arc::new(grant));
        self.messages.renew(&self.underway.way);
    }

    /// The receipt again, from a modern upstream's own word that it awaits the call once more (`input_required`), or did
    /// not make it: one record stands for all of it.
    ///
    /// # Errors
    /// [`Refusal::Bug`] for a call that waits.
    pub fn into_receipt(self) -> Result<Receipt, Refusal> {
        self.receipt.ok_or(Refusal::Bug("a call without its receipt"))
    }

    /// The last word on the call is there, its own response or one that is not: nothing is left to be given up.
    pub fn is_answered(&mut self, response: &Response) {
        self.underway.open = false;
        if response.answers(self.id) {
            self.messages.release();
        } else {
            self.messages.forsake();
        }
    }
}

fn status_refusal(status: StatusCode, what: &str) -> Refusal {
    if status == StatusCode::UNAUTHORIZED || status == StatusCode::FORBIDDEN {
        return Refusal::UpstreamUnauthorized;
    }
    Refusal::UpstreamInvalid(format!("HTTP {} to `{what}`", status.as_u16()))
}

/// The result of a response to a request of the gateway's own.
fn result_of<'a>(response: &'a Response, method: &str) -> Result<Value<'a>, Refusal> {
    response.outcome().map_err(|error| Refusal::UpstreamInvalid(format!("error {} to `{method}`", error.code)))
}

/// The newest revision of an era that the gateway speaks.
fn newest(era: Era) -> &'static str {
    match era {
        Era::Modern => versions::MODERN.first().copied().unwrap_or_default(),
        Era::Legacy => versions::LEGACY_NEWEST,
    }
}

/// The request that a progress token of ours belongs to.
fn progress_of(token: &str) -> Option<u64> {
    token.strip_prefix(PROGRESS_TOKEN)?.parse().ok()
}

/// Progress tokens are unique among the calls at one upstream, because its request ids are (spec §3.6).
fn progress_token(id: u64) -> String {
    format!("{PROGRESS_TOKEN}{id}")
}

const PROGRESS_TOKEN: &str = "tollgate-";

/// Programs and streams have so long to end when the gateway does: what MCP gives a program, and a little more.
const CLOSING_MAX: Duration = Duration::from_secs(6);

/// Room for the headers of an ordinary call.
const HEADERS: usize = 12;

/// For so long the gateway tries to say something that no answer depends on.
const SAYING_MAX: Duration = Duration::from_secs(2);

/// The end of a credential is the random part of it, and short enough for the standard library's vectorised search.
const SECRET_BYTES_SEARCHED: usize = 32;

/// What is shorter may well stand in an innocent text.
const SECRET_BYTES_MIN: usize = 16;
