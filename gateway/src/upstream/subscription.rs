//! Does an upstream say when a resource changes?
//!
//! One conversation for all that one principal wants to be told of: `subscriptions/listen` with the URIs where the
//! upstream speaks the modern era, `resources/subscribe` and the GET stream of the principal's session where it speaks the
//! legacy one. It does not know who wants what.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

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
        json::Value,
        outbound,
        reply::{Inbound, Notification},
    },
};

/// A resource that the upstream is to be asked about, with the proof that this was recorded.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// The upstream's own URI.
    pub uri: String,
    _receipt: Arc<Receipt>,
}

impl Wanted {
    /// What `receipt` is the receipt of.
    #[must_use]
    pub fn new(uri: String, receipt: Arc<Receipt>) -> Self {
        Self { uri, _receipt: receipt }
    }
}

/// A conversation in which an upstream says what changes.
#[derive(Debug)]
pub struct Watch {
    messages: Messages,
    shown: Shown,
    honoured: BTreeSet<String>,
    /// The session, where the upstream has one.
    session: Option<Arc<Session>>,
}

impl Watch {
    /// Whether the upstream tells of `uri`.
    #[must_use]
    pub fn honours(&self, uri: &str) -> bool {
        self.honoured.contains(uri)
    }
}

impl Peer {
    /// Begins to be told of `wanted`, in the name of `caller`.
    ///
    /// # Errors
    /// Every refusal that an upstream can cause; that it will not tell of single resources is no refusal.
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
    ) -> Result<Vec<String>, Refusal> {
        if let Some(session) = &watch.session {
            let session = Arc::clone(session);
            let left: Vec<String> =
                watch.honoured.iter().filter(|uri| !wanted.iter().any(|wanted| wanted.uri == **uri)).cloned().collect();
            for uri in left {
                drop(self.ask(&grant, caller, (&session, "resources/unsubscribe"), &uri).await);
                watch.honoured.remove(&uri);
            }
            for wanted in wanted.iter().filter(|wanted| !watch.honoured.contains(&wanted.uri)).collect::<Vec<_>>() {
                if self.ask(&grant, caller, (&session, "resources/subscribe"), &wanted.uri).await? {
                    watch.honoured.insert(wanted.uri.clone());
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
            && let Ok(Some(uri)) = timeout(HEARING_OUT_MAX, self.told(&mut before)).await
        {
            heard.push(uri);
        }
        Ok(heard)
    }

    /// The next resource of which the upstream says that it has changed; nothing when it says nothing more.
    pub async fn told(&self, watch: &mut Watch) -> Option<String> {
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
                        return Some(uri.into_owned());
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
            for uri in &watch.honoured {
                drop(self.ask(&watch.shown.now, caller, (&session, "resources/unsubscribe"), uri).await);
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
        let uris: Vec<&str> = wanted.iter().map(|wanted| wanted.uri.as_str()).collect();
        let body = outbound::watch(&outbound::Outgoing::own(self.next_id(), spoken.version), &uris);
        let headers = self.headers(spoken, "subscriptions/listen", None);
        let mut answered = self.send_own(&grant, caller, Outgoing::new(body, headers, None)).await?;
        if !answered.status.is_success() {
            return Err(status_refusal(answered.status, "subscriptions/listen"));
        }
        let acknowledged = async {
            while let Some(message) = answered.messages.next().await? {
                match Inbound::parse(message, &self.bounds) {
                    Ok(Inbound::Notification(word)) if word.method() == ACKNOWLEDGED => {
                        return Ok(uris_of(&word, &uris));
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
        Ok(Watch { messages: answered.messages, shown: Shown::first(grant), honoured, session: None })
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
        let session = self.sessions.take(&key, Box::pin(self.begin(&grant, capabilities))).await?;
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
            if self.ask(&grant, caller, (&session, "resources/subscribe"), &wanted.uri).await? {
                honoured.insert(wanted.uri.clone());
            }
        }
        Ok(Watch { messages: answered.messages, shown: Shown::first(grant), honoured, session: Some(session) })
    }

    /// `resources/subscribe` or `resources/unsubscribe`: whether it was done.
    async fn ask(
        &self,
        grant: &Grant,
        caller: &Identity,
        (session, method): (&Session, &str),
        uri: &str,
    ) -> Result<bool, Refusal> {
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

/// The URIs of an acknowledgement; what was not asked for does not count (RC-15).
fn uris_of(word: &Notification, asked: &[&str]) -> BTreeSet<String> {
    let honoured = word.params().and_then(|params| params.get("notifications")?.get("resourceSubscriptions"));
    let uris = honoured.into_iter().flat_map(Value::elements).filter_map(Value::text);
    uris.filter(|uri| asked.contains(&uri.as_ref())).map(std::borrow::Cow::into_owned).collect()
}

pub(super) const ACKNOWLEDGED: &str = "notifications/subscriptions/acknowledged";
const UPDATED: &str = "notifications/resources/updated";

/// As long as a URI may be that a client asks for.
const URI_BYTES_MAX: usize = 8_192;

/// What is still under way in a conversation when the next one has begun: so much of it, and for so long after the last.
const HEARD_OUT_MAX: usize = 64;
const HEARING_OUT_MAX: Duration = Duration::from_millis(50);
