//! Does an upstream say when a resource changes, and how a task stands?
//!
//! One conversation for all that one principal wants to be told of: `subscriptions/listen` where the upstream speaks the
//! modern era, `resources/subscribe` and the GET stream of the principal's session where it speaks the legacy one. It does
//! not know who wants what.

use std::{borrow::Cow, collections::BTreeSet, sync::Arc, time::Duration};

use http::StatusCode;
use tokio::time::timeout;

use super::{
    Messages, Peer, Shown,
    session::{Key, Session},
    status_refusal,
    transport::{Answered, Outgoing},
};
use crate::{
    audit::journal::Receipt,
    exchange::Grant,
    identity::Identity,
    refusal::{Era, Refusal},
    rpc::{
        Capabilities,
        json::{Document, Value},
        outbound,
        reply::{Inbound, Notification},
    },
};

/// What an upstream can tell of, by its own name for it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Subject {
    /// A resource, by its URI.
    Resource(String),
    /// A task, by its id, and the tool of whose call it came.
    Task {
        /// What the upstream calls the task.
        id: String,
        /// What it calls the tool.
        tool: String,
    },
}

impl Subject {
    const fn uri(&self) -> Option<&String> {
        match self {
            Self::Resource(uri) => Some(uri),
            Self::Task { .. } => None,
        }
    }

    const fn task(&self) -> Option<&String> {
        match self {
            Self::Resource(_) => None,
            Self::Task { id, .. } => Some(id),
        }
    }
}

/// A subject that the upstream is to be asked about, with the proof that this was recorded.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// What it is to tell of.
    pub subject: Subject,
    /// What those can be asked who want that.
    pub declared: Capabilities,
    _receipt: Arc<Receipt>,
}

impl Wanted {
    /// What `receipt` is the receipt of.
    #[must_use]
    pub fn new(subject: Subject, declared: Capabilities, receipt: Arc<Receipt>) -> Self {
        Self { subject, declared, _receipt: receipt }
    }

    /// Whether the same is asked for, whoever wants it.
    #[must_use]
    pub fn asks_as(&self, other: &Self) -> bool {
        self.subject == other.subject && self.declared == other.declared
    }
}

/// What an upstream told.
#[derive(Debug)]
pub enum Told {
    /// The resource of this URI has changed.
    Updated(String),
    /// How a task stands: DetailedTask, in the revision that the upstream speaks.
    Task(Document, &'static str),
}

/// A conversation in which an upstream tells.
#[derive(Debug)]
pub struct Watch {
    messages: Messages,
    shown: Shown,
    version: &'static str,
    honoured: BTreeSet<Subject>,
    /// The session, where the upstream has one.
    session: Option<Arc<Session>>,
}

impl Watch {
    /// Whether the upstream tells of `subject`.
    #[must_use]
    pub fn honours(&self, subject: &Subject) -> bool {
        self.honoured.contains(subject)
    }
}

impl Peer {
    /// Begins to be told of `wanted`, in the name of `caller`.
    ///
    /// # Errors
    /// Every refusal that an upstream can cause; that it will not tell of some subject is no refusal.
    pub async fn watch(&self, grant: Arc<Grant>, caller: &Identity, wanted: &[Wanted]) -> Result<Watch, Refusal> {
        let spoken = self.detect(&grant).await?;
        match spoken.era {
            Era::Modern => self.watch_by_listening(grant, caller, wanted).await,
            Era::Legacy => self.watch_in_session(grant, caller, wanted).await,
        }
    }

    /// Has the upstream tell of `wanted`, no more and no less. What it said until then, and was not heard yet, comes back.
    ///
    /// # Errors
    /// As [`Peer::watch`]; `watch` goes on as it was.
    pub async fn rewatch(
        &self,
        watch: &mut Watch,
        grant: Arc<Grant>,
        caller: &Identity,
        wanted: &[Wanted],
    ) -> Result<Vec<Told>, Refusal> {
        if let Some(session) = &watch.session {
            let session = Arc::clone(session);
            let is_wanted = |subject: &&Subject| wanted.iter().any(|wanted| wanted.subject == **subject);
            let left: Vec<Subject> = watch.honoured.iter().filter(|known| !is_wanted(known)).cloned().collect();
            for subject in left {
                drop(self.ask(&grant, caller, (&session, "resources/unsubscribe"), &subject).await);
                watch.honoured.remove(&subject);
            }
            for wanted in wanted {
                if !watch.honours(&wanted.subject)
                    && self.ask(&grant, caller, (&session, "resources/subscribe"), &wanted.subject).await?
                {
                    watch.honoured.insert(wanted.subject.clone());
                }
            }
            watch.shown.renew(grant);
            return Ok(Vec::new());
        }
        // The new one first, so that nothing falls in between (spec §2.2); the old one is heard out.
        let next = self.watch_by_listening(grant, caller, wanted).await?;
        let mut before = std::mem::replace(watch, next);
        let mut heard = Vec::new();
        while heard.len() < HEARD_OUT_MAX
            && let Ok(Some(told)) = timeout(HEARING_OUT_MAX, self.told(&mut before)).await
        {
            heard.push(told);
        }
        Ok(heard)
    }

    /// What may have been missed of `wanted` while nobody listened: a resource may have changed, and a task is asked about,
    /// which the upstream may not know any more.
    ///
    /// # Errors
    /// Every refusal that an upstream can cause.
    pub async fn missed(&self, watch: &Watch, caller: &Identity, wanted: &Wanted) -> Result<Option<Told>, Refusal> {
        let Subject::Task { id: task, .. } = &wanted.subject else {
            return Ok(wanted.subject.uri().cloned().map(Told::Updated));
        };
        let (grant, spoken) = (&watch.shown.now, self.detect(&watch.shown.now).await?);
        let (id, capabilities) = (self.next_id(), wanted.declared.json());
        let own = outbound::Outgoing { capabilities: &capabilities, ..outbound::Outgoing::own(id, spoken.version) };
        let headers = self.headers(spoken, "tasks/get", Some(task));
        let body = outbound::own_task(&own, "tasks/get", task);
        let mut answered = self.send_own(grant, caller, Outgoing::new(body, headers, None)).await?;
        match answered.status {
            StatusCode::BAD_REQUEST | StatusCode::NOT_FOUND => return Ok(None),
            status if !status.is_success() => return Err(status_refusal(status, "tasks/get")),
            _ => {}
        }
        let response = self.response(grant, &mut answered.messages, id).await?;
        Ok(response.outcome().ok().map(|task| Told::Task(task.detached(), spoken.version)))
    }

    /// The next that the upstream tells; nothing when it says nothing more.
    pub async fn told(&self, watch: &mut Watch) -> Option<Told> {
        loop {
            let message = watch.messages.next().await.ok()??;
            if watch.shown.given_away(self, &message) {
                return None;
            }
            match Inbound::parse(message, &self.bounds) {
                Ok(Inbound::Notification(word)) if word.method() == UPDATED => {
                    let uri = word.params().and_then(|params| params.get("uri")).and_then(Value::text);
                    self.outdate();
                    if let Some(uri) = uri.filter(|uri| uri.len() <= URI_BYTES_MAX) {
                        return Some(Told::Updated(uri.into_owned()));
                    }
                }
                Ok(Inbound::Notification(word)) if word.method() == TASK => {
                    if let Some(task) = word.params() {
                        return Some(Told::Task(task.detached(), watch.version));
                    }
                }
                Ok(Inbound::Notification(_)) => {}
                Ok(Inbound::Request(request)) => {
                    self.answer(&watch.shown.now, watch.session.as_deref(), &request).await;
                }
                Ok(Inbound::Response(_)) | Err(_) => return None,
            }
        }
    }

    /// Ends it. A legacy upstream would go on for as long as the session lives, so it is told.
    pub async fn unwatch(&self, mut watch: Watch, caller: &Identity) {
        if let Some(session) = watch.session.take() {
            for subject in &watch.honoured {
                drop(self.ask(&watch.shown.now, caller, (&session, "resources/unsubscribe"), subject).await);
            }
        }
    }

    async fn watch_by_listening(
        &self,
        grant: Arc<Grant>,
        caller: &Identity,
        wanted: &[Wanted],
    ) -> Result<Watch, Refusal> {
        let spoken = self.detect(&grant).await?;
        let uris: Vec<&str> = wanted.iter().filter_map(|wanted| wanted.subject.uri()).map(String::as_str).collect();
        let tasks: Vec<&str> = wanted.iter().filter_map(|wanted| wanted.subject.task()).map(String::as_str).collect();
        let declared = wanted.iter().fold(Capabilities::NONE, |all, wanted| all.and(wanted.declared)).json();
        let own = outbound::Outgoing::own(self.next_id(), spoken.version);
        let body = outbound::watch(&outbound::Outgoing { capabilities: &declared, ..own }, &uris, &tasks);
        let headers = self.headers(spoken, "subscriptions/listen", None);
        let mut answered = self.send_own(&grant, caller, Outgoing::new(body, headers, None)).await?;
        if !answered.status.is_success() {
            return Err(status_refusal(answered.status, "subscriptions/listen"));
        }
        let acknowledged = async {
            while let Some(message) = answered.messages.next().await? {
                match Inbound::parse(message, &self.bounds) {
                    Ok(Inbound::Notification(word)) if word.method() == ACKNOWLEDGED => {
                        return Ok(honoured(&word, wanted));
                    }
                    Ok(Inbound::Notification(_) | Inbound::Request(_)) => {}
                    // It will not listen at all, or that is all that it had to say.
                    Ok(Inbound::Response(_)) => return Ok(BTreeSet::new()),
                    Err(why) => return Err(Refusal::UpstreamInvalid(why.to_owned())),
                }
            }
            Err(Refusal::UpstreamLost("a stream that ended before it was acknowledged".to_owned()))
        };
        let honoured = timeout(self.settings.timeout, acknowledged).await.unwrap_or(Err(Refusal::UpstreamTimeout))?;
        let version = spoken.version;
        Ok(Watch { messages: answered.messages, shown: Shown::first(grant), version, honoured, session: None })
    }

    async fn watch_in_session(
        &self,
        grant: Arc<Grant>,
        caller: &Identity,
        wanted: &[Wanted],
    ) -> Result<Watch, Refusal> {
        // A session in which nothing is asked of a client: here nobody would answer.
        let capabilities = Capabilities::NONE;
        let key = Key { principal: caller.principal, generation: grant.generation(), capabilities };
        let session = self.sessions.take(&key, Box::pin(self.begin(&grant, capabilities, Some(caller)))).await?;
        let headers = self.headers(session.spoken(), "", None);
        let outgoing = Outgoing::new(Vec::new(), headers, session.id.as_ref());
        let reading = self.reading(self.settings.timeout, Some(caller.credential.tripwire()));
        let answered = self.transport.get(&grant, outgoing, reading).await?;
        if session.may_be_gone(answered.status) {
            self.sessions.forget(&key, &session, answered.status);
        }
        if !answered.status.is_success() || !answered.messages.is_stream() {
            return Err(status_refusal(answered.status, "the stream of a session"));
        }
        let mut honoured = BTreeSet::new();
        for wanted in wanted {
            if self.ask(&grant, caller, (&session, "resources/subscribe"), &wanted.subject).await? {
                honoured.insert(wanted.subject.clone());
            }
        }
        let (messages, version) = (answered.messages, session.version);
        Ok(Watch { messages, shown: Shown::first(grant), version, honoured, session: Some(session) })
    }

    /// `resources/subscribe` or `resources/unsubscribe`: whether it was done. Of tasks nobody tells in a session (spec §2.4).
    async fn ask(
        &self,
        grant: &Grant,
        caller: &Identity,
        (session, method): (&Session, &str),
        subject: &Subject,
    ) -> Result<bool, Refusal> {
        let Some(uri) = subject.uri() else { return Ok(false) };
        let id = self.next_id();
        let body = outbound::about(&outbound::Outgoing::own(id, session.version), method, uri);
        let headers = self.headers(session.spoken(), "", None);
        let mut answered = self.send_own(grant, caller, Outgoing::new(body, headers, session.id.as_ref())).await?;
        if answered.status == StatusCode::UNAUTHORIZED || answered.status == StatusCode::NOT_FOUND {
            return Err(status_refusal(answered.status, method));
        }
        Ok(self.response(grant, &mut answered.messages, id).await?.outcome().is_ok())
    }

    /// A message of the gateway's own, in the name of `caller`, whose credential must not be in it.
    async fn send_own(&self, grant: &Grant, caller: &Identity, outgoing: Outgoing<'_>) -> Result<Answered, Refusal> {
        let reading = self.reading(self.settings.timeout, Some(caller.credential.tripwire()));
        Ok(self.transport.post(grant, outgoing, reading).await?)
    }
}

/// What an acknowledgement grants of what is wanted; what was not asked for does not count (RC-15).
fn honoured(word: &Notification, wanted: &[Wanted]) -> BTreeSet<Subject> {
    let granted = word.params().and_then(|params| params.get("notifications"));
    let texts = |member: &str| -> BTreeSet<Cow<'_, str>> {
        let all = granted.and_then(|granted| granted.get(member)).into_iter().flat_map(Value::elements);
        all.filter_map(Value::text).collect()
    };
    let (uris, tasks) = (texts("resourceSubscriptions"), texts("taskIds"));
    let is_granted = |subject: &&Subject| match subject {
        Subject::Resource(uri) => uris.contains(uri.as_str()),
        Subject::Task { id, .. } => tasks.contains(id.as_str()),
    };
    wanted.iter().map(|wanted| &wanted.subject).filter(is_granted).cloned().collect()
}

pub(super) const ACKNOWLEDGED: &str = "notifications/subscriptions/acknowledged";
const UPDATED: &str = "notifications/resources/updated";
const TASK: &str = "notifications/tasks";

/// As long as a URI may be that a client asks for.
const URI_BYTES_MAX: usize = 8_192;

/// What is still under way in a conversation when the next one has begun: so much of it, and for so long after the last.
const HEARD_OUT_MAX: usize = 64;
const HEARING_OUT_MAX: Duration = Duration::from_millis(50);
