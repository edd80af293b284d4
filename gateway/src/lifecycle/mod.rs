//! How does a request pass through the gateway?
//!
//! The whole life of a request in one place: every line of [`Gateway::call`] is a stage, and every stage needs what the
//! stages above it proved. It does not know sockets; `edge` does.

mod batch;
mod carry;
mod connect;
mod estate;
mod fit;
pub mod form;
mod hub;
mod kept;
mod listen;
mod lists;
mod local;
pub mod page;
mod refresh;
mod respond;
mod retry;
mod revoke;
mod subscribe;
mod task;
mod trail;
mod vigil;
mod witness;

use std::{fmt, future::Future, net::SocketAddr, sync::Arc};

use arc_swap::ArcSwap;
use bytes::Bytes;
use carry::{Carriage, Ended, Held, Leg, Next};
pub use connect::Step;
pub use estate::{Estate, Rules, endpoints};
use http::{HeaderMap, Method};
use hub::Hub;
use retry::Retrying;
use revoke::Ward;
use tokio::sync::{Semaphore, mpsc};
use trail::Trail;
use vigil::Vigil;

use crate::{
    audit::journal::Journal,
    bridge::{Holds, Session, Sessions, Subscriptions},
    catalog::{Kind, Target},
    clock::{self, Timestamp},
    config::{Endpoint, Tolerance},
    identity::{Caller, Certificate, Shown},
    refusal::{Era, Refusal},
    rpc::{self, Call, Capabilities, Message, headers, mirrors, versions},
    state::{Rates, Sealer},
    tasks::{self, Tasks},
    telemetry::{Spans, metrics},
};

/// The head of a request that the edge let in: the path named `endpoint`, `Host` and `Origin` were acceptable.
#[derive(Clone)]
pub struct Head {
    /// What the path named.
    pub endpoint: Endpoint,
    /// Whether the path had a slash at its end: what leads to metadata has to have it too (RFC 9728 §3.3).
    pub slashed: bool,
    /// `POST`, `GET` or `DELETE`; the edge answers every other method itself.
    pub method: Method,
    /// The query string, if any.
    pub query: Option<Box<str>>,
    /// The headers as they came.
    pub headers: HeaderMap,
    /// Who is at the other end of the connection.
    pub peer: SocketAddr,
    /// The certificate that they showed in the handshake; never one that a header names.
    pub certificate: Option<Arc<Certificate>>,
}

impl fmt::Debug for Head {
    /// Without headers and query, in which credentials come.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { endpoint, method, peer, .. } = self;
        write!(formatter, "Head({method} {} from {peer})", endpoint.path())
    }
}

/// What goes back: the edge writes exactly this.
#[derive(Debug)]
pub struct Response {
    /// The HTTP status.
    pub status: u16,
    /// All headers beyond those of the framing.
    pub headers: HeaderMap,
    /// The body.
    pub body: Body,
}

/// The body of a [`Response`].
#[derive(Debug)]
pub enum Body {
    /// No body.
    Empty,
    /// All of it.
    Whole(Bytes),
    /// All of it in two: what is this answer's own, and after it what others have too.
    Led(Bytes, Bytes),
    /// Server-sent events, each chunk one or more whole events; the stream ends when the channel closes, and a dropped
    /// receiver says that the client is gone.
    Stream(mpsc::Receiver<Bytes>),
}

/// A request of which is known who sent it and what it says.
#[derive(Debug)]
struct Asking<'h> {
    estate: &'h Arc<Estate>,
    head: &'h Head,
    caller: Caller,
    call: Call,
    session: Option<Arc<Session>>,
}

impl Asking<'_> {
    /// What the client can do for the upstream behind `target`: what this request declares, or its session, less what
    /// the administrator withholds (spec §3.5). A legacy client that takes no stream, or has no session, cannot be asked
    /// anything. Tasks the
    /// gateway follows itself where the client cannot, so they are declared wherever the upstream has them.
    fn capabilities(&self, target: &Target) -> Result<Capabilities, Refusal> {
        let peer =
            self.estate.upstreams.peer(&target.definition.upstream).ok_or(Refusal::Bug("a tool of no upstream"))?;
        let declared = match &self.session {
            Some(_) if !respond::takes_streams(&self.head.headers) => Capabilities::NONE,
            Some(_) | None => self.declared(),
        };
        let within = declared.within(peer.settings().input);
        let catalogue = self.estate.catalogue.load();
        let offer = catalogue.listing(&target.definition.upstream).and_then(|listing| listing.offer.as_ref());
        let may_become_one = self.call.method() == rpc::Method::ToolsCall && offer.is_some_and(|offer| offer.tasks);
        Ok(if may_become_one || target.task.is_some() { within.and(Capabilities::TASKS) } else { within })
    }
}

impl Asking<'_> {
    /// Whether the arguments are those that the headers mirror (RS-15). Older clients mirror nothing, nor does who follows
    /// a task.
    fn mirrors(&self, target: &Target) -> Result<(), Refusal> {
        if self.call.era() == Era::Legacy || target.task.is_some() {
            return Ok(());
        }
        mirrors::check(&target.definition.mirrors, self.call.arguments(), &self.head.headers)
    }

    /// What this request's client declares, or its session.
    fn declared(&self) -> Capabilities {
        match &self.session {
            Some(session) => session.capabilities,
            None if self.call.era() == Era::Modern => {
                self.call.meta().client_capabilities.map(Capabilities::declared).unwrap_or_default()
            }
            None => Capabilities::NONE,
        }
    }
}

/// What calls need besides the estate, for as long as the process runs.
#[derive(Debug)]
struct Means {
    journal: Arc<Journal>,
    sealer: Sealer,
    holds: Arc<Holds<Next>>,
}

/// The assembled gateway.
#[derive(Debug)]
pub struct Gateway {
    estate: Arc<ArcSwap<Estate>>,
    hub: Hub,
    journal: Arc<Journal>,
    means: Arc<Means>,
    sessions: Sessions,
    subscriptions: Arc<Subscriptions>,
    vigil: Arc<Vigil>,
    spans: Spans,
    tasks: Tasks,
    room: Arc<Semaphore>,
    pages: Rates,
}

impl Gateway {
    /// A gateway over `estate`; it serves at once, and knows no tools until they have been read.
    ///
    /// # Errors
    /// Where there is no key to seal with, in words for the operator.
    pub fn new(estate: Estate, journal: Arc<Journal>, spans: Spans, tasks: Tasks) -> Result<Self, String> {
        let limits = &estate.config.limits;
        let sealer = estate.store.sealer();
        Ok(Self {
            means: Arc::new(Means { journal: Arc::clone(&journal), sealer, holds: Arc::new(Holds::new(limits)) }),
            sessions: Sessions::new(limits),
            subscriptions: Arc::default(),
            vigil: Arc::default(),
            room: Arc::new(Semaphore::new(limits.calls_max)),
            pages: Rates::new(VISITORS_MAX),
            hub: Hub::new(limits.listeners_max),
            estate: Arc::new(ArcSwap::from_pointee(estate)),
            journal,
            spans,
            tasks,
        })
    }

    /// What requests are judged against now.
    #[must_use]
    pub fn estate(&self) -> Arc<Estate> {
        self.estate.load_full()
    }

    /// Judges everything from now on against `estate`; requests under way keep theirs.
    pub fn succeed(self: &Arc<Self>, estate: Estate) {
        self.distrust(&self.estate.load(), &estate);
        self.estate.swap(Arc::new(estate)).retire();
        self.keep_catalogue();
        self.hub.changed();
    }

    /// Judges everything from now on by `rules`, with an estate that stays as it is.
    pub fn rule(&self, rules: Rules) {
        self.estate.load().rules.store(Arc::new(rules));
        self.hub.changed();
    }

    /// Ends the sessions that their clients have left without a word, now and again; it does not return.
    pub async fn sweep(&self) {
        loop {
            let wait = self.sessions.sweep(clock::now());
            tokio::time::sleep(wait).await;
        }
    }

    /// Ends what would not end by itself: nobody listens to a gateway that ends, or comes back to it.
    pub fn drain(&self) {
        self.hub.drain();
        self.means.holds.drain();
    }

    /// Ends what lasts beyond calls, once none is under way any more: programs behind the door, and streams.
    pub async fn close(&self) {
        self.estate().upstreams.close().await;
    }

    /// The journal.
    #[must_use]
    pub fn journal(&self) -> &Arc<Journal> {
        &self.journal
    }

    /// The work that a drain waits for.
    #[must_use]
    pub fn tasks(&self) -> &Tasks {
        &self.tasks
    }

    /// Answers one request. `body` reads the request's body within its bounds, and is polled only when the caller is known.
    pub async fn handle<B>(&self, head: Head, body: B) -> Response
    where
        B: Future<Output = Result<Bytes, Refusal>>,
    {
        let estate = self.estate.load_full();
        // On the heap: every stage has a hand on it, and the future of a request is large as it is.
        let mut trail = Box::new(Trail::new(&head));
        let mut response = match self.answer(&estate, &head, body, &mut trail).await {
            Ok(response) => response,
            Err(refusal) => self.refused(&estate, &trail, &refusal),
        };
        if let Some(nonce) = estate.identity.nonce(&head.headers, clock::now()) {
            response.headers.insert("dpop-nonce", nonce);
        }
        response
    }

    /// Answers a request that the edge refused, in the form and with the audit record that every refusal gets.
    pub fn refuse(&self, head: &Head, refusal: &Refusal) -> Response {
        self.refused(&self.estate.load(), &Trail::new(head), refusal)
    }

    async fn answer<B>(
        &self,
        estate: &Arc<Estate>,
        head: &Head,
        body: B,
        trail: &mut Trail,
    ) -> Result<Response, Refusal>
    where
        B: Future<Output = Result<Bytes, Refusal>>,
    {
        // The metadata say the same to everybody.
        let audiences = estate.audiences(&head.endpoint).ok_or(Refusal::RouteUnknown)?;
        let caller = estate.identity.authenticate(&shown(head), audiences, trail.now).await?;
        trail.identity = Some(Arc::clone(caller.identity()));
        estate.revocations.admit(caller.identity()).map_err(|revoked| revoked.refusal())?;
        match head.method {
            Method::DELETE => return self.end_session(head, &caller, trail),
            Method::GET => return self.stream(estate, head, &caller, trail),
            _ => {}
        }
        let body = body.await?;
        // Whoever takes their time with the body may have been revoked meanwhile.
        estate.revocations.admit(caller.identity()).map_err(|revoked| revoked.refusal())?;
        if rpc::batch::is_batch(&head.headers, &body) {
            trail.era = Some(Era::Legacy);
            if versions::has_batches(self.session(head, &caller, trail)?.version) {
                return self.batch(estate, head, &caller, body).await;
            }
        }
        self.message((estate, head), caller, body, trail).await
    }

    /// One message, from its bytes on.
    async fn message(
        &self,
        (estate, head): (&Arc<Estate>, &Head),
        caller: Caller,
        body: Bytes,
        trail: &mut Trail,
    ) -> Result<Response, Refusal> {
        let message =
            rpc::parse(&head.headers, body, &estate.config.limits).map_err(|rejected| trail.reject(rejected))?;
        let call = match message {
            Message::Call(call) => call,
            Message::Response(response) => {
                trail.era = Some(Era::Legacy);
                let session = self.session(head, &caller, trail)?;
                // It goes up for a call that may have come under another token of the same person.
                let tripwire = caller.identity().credential.tripwire();
                if tripwire.trips("", &HeaderMap::new(), response.text()) {
                    metrics().tripwire.increment();
                    return Err(Refusal::CredentialLeak);
                }
                session.answer(response);
                return Ok(respond::accepted());
            }
        };
        trail.era = Some(call.era());
        trail.request_id = call.id().cloned();
        if call.era() == Era::Legacy && headers::mirrors_any(&head.headers) && !estate.forgives(Tolerance::StrayHeaders)
        {
            return Err(Refusal::HeaderMismatch("Mcp-Method, Mcp-Name".into()));
        }
        // A modern request has no session, and `initialize` begins one (RL-03).
        let session = match call.era() {
            Era::Legacy if call.method() == rpc::Method::Initialize => None,
            Era::Legacy if lacks_session(head)? && estate.forgives(Tolerance::MissingSession) => None,
            Era::Legacy => Some(self.session(head, &caller, trail)?),
            Era::Modern => None,
        };
        trail.session.clone_from(&session);
        let call = match &session {
            Some(session) if call.version_assumed() => call.in_version(session.version),
            Some(_) | None => call,
        };
        trail.ask(&call, head, &self.spans, session.as_ref().map(|session| &session.client));
        self.dispatch(Asking { estate, head, caller, call, session }, trail).await
    }

    async fn dispatch(&self, asking: Asking<'_>, trail: &mut Trail) -> Result<Response, Refusal> {
        match asking.call.method() {
            rpc::Method::ToolsCall
            | rpc::Method::PromptsGet
            | rpc::Method::ResourcesRead
            | rpc::Method::CompletionComplete
            | rpc::Method::TasksGet
            | rpc::Method::TasksUpdate
            | rpc::Method::TasksCancel => tasks::placed(|| self.call(asking, trail)).await,
            rpc::Method::ToolsList => self.list(&asking, Kind::Tool, trail),
            rpc::Method::PromptsList => self.list(&asking, Kind::Prompt, trail),
            rpc::Method::ResourcesList => self.list(&asking, Kind::Resource, trail),
            rpc::Method::ResourceTemplatesList => self.list(&asking, Kind::Template, trail),
            rpc::Method::ServerDiscover => self.discover(&asking, trail),
            rpc::Method::Initialize => self.initialize(&asking, trail),
            rpc::Method::Ping => respond::pong(&asking.call),
            rpc::Method::SubscriptionsListen => Box::pin(self.listen(&asking, trail)).await,
            rpc::Method::ResourcesSubscribe => Box::pin(self.subscribe(&asking, trail)).await,
            rpc::Method::ResourcesUnsubscribe => Self::unsubscribe(&asking, trail),
            rpc::Method::LoggingSetLevel => Self::set_log_level(&asking, trail),
            rpc::Method::Cancelled => {
                if let (Some(session), Some(cancelled)) = (asking.session, asking.call.cancelled()) {
                    session.cancel(cancelled.request_id.raw());
                }
                Ok(respond::accepted())
            }
            rpc::Method::Initialized | rpc::Method::OtherNotification => Ok(respond::accepted()),
        }
    }

    /// One request that an upstream answers, from who asks to the answer's way back.
    async fn call(&self, asking: Asking<'_>, trail: &mut Trail) -> Result<Response, Refusal> {
        let (estate, Asking { caller, call, .. }) = (asking.estate, &asking);
        let (identity, now, rules) = (caller.identity(), trail.now, estate.rules.load());
        trail.policy_set = Some(Arc::clone(rules.policies.digest()));

        let target = trail.aim(asking.target(self, trail)?);
        if target.of.as_ref().is_some_and(|of| !rules.policies.visible(identity, of, now)) {
            return Err(Refusal::ReferenceUnknown("hidden: what it is of".to_owned()));
        }
        let mirrored = asking.mirrors(&target);
        if mirrored.is_err() && rules.policies.visible(identity, &target.definition, now) {
            mirrored.clone()?; // before anything is said of the arguments (spec §1.0), and of what is seen only
        }
        let retry = self.retry(&asking, &target, trail)?;
        let permit = trail.judge(asking.decide(&rules.policies, &target, trail), local::arguments(estate, call))?;
        mirrored?;
        let admission = rules.ceilings.admit(permit, identity, &target.definition, now)?;
        let peer = estate.upstreams.peer(&target.definition.upstream).ok_or(Refusal::Bug("a tool of no upstream"))?;
        let held = self.hold(&asking, now)?;
        let claim = retry.as_ref().map(|retry| retry.claim(self)).transpose()?.flatten();
        if let Some(retry) = &retry {
            retry.record(self, trail, target.definition.upstream.as_str())?;
        }
        self.record_update(&asking, &target, trail)?;
        // Last of what may fail before the record, which names it; what is minted has its witness before it is used.
        let summons = || trail.cause().witness(&self.journal, &target.definition.upstream);
        let minted = estate.exchange.mint((identity, &summons), peer.settings(), &target.definition.mints, now).await;
        let grant = match minted {
            Err(Refusal::ConnectRequired(page)) => return self.connect_first(&asking, &target, trail, (retry, *page)),
            minted => minted?,
        };
        let continues = retry.as_ref().map(|retry| retry.call).or(target.task.as_ref().map(|task| task.call));
        let receipt = self.record(estate, trail, (admission, &grant), (call, continues)).await?; // durable, or we stop here
        let allowed = trail.allowed().ok_or(Refusal::Bug("a call that was not judged"))?;
        // From here on the work belongs to its record, not to the client's connection.
        let (leg, answered) = Leg::new(&asking, (target.clone(), held), trail, (&self.journal, receipt.id(), &grant))?;
        match (claim, retry) {
            (Some(claim), Some(Retrying { answers, .. })) => {
                let capabilities = asking.capabilities(&target)?;
                if let Err(next) = claim.enter(Next { leg, receipt, grant, capabilities, answers }) {
                    self.tasks.spawn(next.leg.end(Ended::refused(Refusal::ContinuationLost)));
                }
            }
            (_, retry) => {
                let first = (receipt.id(), retry.as_ref());
                let carriage = Carriage::load(asking, target, &self.means, allowed, first)?;
                self.tasks.spawn_placed(tasks::placed(|| carriage.carry(leg, (receipt, grant))));
            }
        }
        let answered = answered.await.map_err(|_gone| Refusal::Bug("a call ended without an answer"))?;
        Ok(local::answered(answered, estate, trail))
    }

    /// Room for one more call in flight, and in its session a place from which it can be cancelled.
    fn hold(&self, Asking { estate, caller, call, session, .. }: &Asking<'_>, now: Timestamp) -> Result<Held, Refusal> {
        let room =
            Arc::clone(&self.room).try_acquire_owned().map_err(|_full| Refusal::Overloaded("calls in flight"))?;
        let mut asker = call.asker().ok_or(Refusal::NotARequest("a call without an id"))?;
        let session = session.as_ref();
        let ward = Ward::new(estate, &self.vigil, caller.identity(), now);
        asker.log_level = session.map_or(asker.log_level, |session| session.log_level());
        let tracked = session.map(|session| session.track(asker.id.raw())).transpose()?;
        metrics().calls.increment();
        Ok(Held { asker, tracked, ward, lasts: false, _room: room })
    }

    /// `logging/setLevel` of a legacy client: the level of the calls of its session, where anything is logged (RS-24).
    fn set_log_level(asking: &Asking<'_>, trail: &Trail) -> Result<Response, Refusal> {
        let Asking { estate, caller, call, session, .. } = asking;
        let session = session.as_ref().ok_or(Refusal::SessionMissing)?;
        let level = call.level().ok_or(Refusal::Bug("a call without its level"))?;
        if !local::capabilities(estate, caller, trail).logging {
            return Err(Refusal::MethodUnknown);
        }
        session.set_log_level(level);
        trail.measure("", None);
        respond::pong(call)
    }

    /// The session that a legacy client names.
    fn session(&self, head: &Head, caller: &Caller, trail: &Trail) -> Result<Arc<Session>, Refusal> {
        let id = headers::session_id(&head.headers)?.ok_or(Refusal::SessionMissing)?;
        self.sessions.find(id, &caller.identity().principal, &head.endpoint, trail.now)
    }

    fn end_session(&self, head: &Head, caller: &Caller, trail: &mut Trail) -> Result<Response, Refusal> {
        trail.era = Some(Era::Legacy);
        let session = self.session(head, caller, trail)?;
        self.sessions.end(&session);
        Ok(respond::done())
    }
}

/// What says who sent the request.
fn shown(head: &Head) -> Shown<'_> {
    Shown {
        headers: &head.headers,
        query: head.query.as_deref(),
        method: &head.method,
        endpoint: &head.endpoint,
        slashed: head.slashed,
        peer: head.peer.ip(),
        certificate: head.certificate.as_deref(),
    }
}

fn lacks_session(head: &Head) -> Result<bool, Refusal> {
    Ok(headers::session_id(&head.headers)?.is_none())
}

/// Addresses and users whose pages are counted.
const VISITORS_MAX: usize = 20_000;

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderValue, Method, header::AUTHORIZATION};

    use super::Head;
    use crate::config::Endpoint;

    #[test]
    fn a_head_does_not_print_credentials() {
        let headers = HeaderMap::from_iter([(AUTHORIZATION, HeaderValue::from_static("Bearer hunter2"))]);
        let peer = "192.0.2.1:9".parse().unwrap();
        let query = Some("access_token=hunter2".into());
        let endpoint = Endpoint::Federated;
        let head = Head { endpoint, slashed: false, method: Method::POST, query, headers, peer, certificate: None };
        assert_eq!(format!("{head:?}"), "Head(POST /mcp from 192.0.2.1:9)");
    }
}
