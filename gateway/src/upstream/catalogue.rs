//! What does an upstream say of itself?
//!
//! Finds out the era (RC-10) and reads what is offered, with the gateway's own credential. It publishes nothing.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use bytes::Bytes;
use http::StatusCode;

use super::{
    Peer, Spoken, newest, result_of,
    session::{Key, OWN},
    status_refusal,
    transport::{Answered, Outgoing},
};
use crate::{
    catalog::{Definition, Kind, Listing, Offer},
    clock,
    exchange::Grant,
    refusal::{Era, Refusal},
    rpc::{
        Capabilities, TASKS_EXTENSION, Topics,
        json::{self, Value},
        outbound,
        reply::{Inbound, Response},
        versions,
    },
};

/// One reading of what an upstream offers.
#[derive(Debug, Default)]
pub struct Read {
    /// What can be served.
    pub listing: Listing,
    /// What cannot: name or list, and why (RC-05).
    pub withheld: Vec<(String, String)>,
    /// Lists about which nothing can be said, because they could not be read whole: what was known of them still holds.
    pub unread: Vec<(Kind, Refusal)>,
    /// How long the upstream vouches for this: the shortest of its lists.
    pub ttl: Option<Duration>,
}

impl Peer {
    /// What the upstream speaks; asked once, with `server/discover` only, and remembered. Whoever comes meanwhile waits for
    /// the answer; where there was none, the next one asks, under a credential of their own.
    pub(super) async fn detect(&self, grant: &Grant) -> Result<Spoken, Refusal> {
        if let Some(spoken) = self.spoken() {
            return Ok(spoken);
        }
        let _turn = self.probing.lock().await;
        if let Some(spoken) = self.spoken() {
            return Ok(spoken);
        }
        let spoken = Box::pin(self.probe(grant)).await?;
        self.spoken.store(Some(Arc::new(spoken)));
        Ok(spoken)
    }

    /// Forgets what the upstream speaks, where that was found out and not configured.
    pub fn doubt(&self) {
        if self.settings.era.is_none() {
            self.spoken.store(None);
        }
    }

    /// What is known of the upstream is to be found out anew, soon.
    pub fn shake(&self) {
        self.shaken.notify_one();
    }

    /// The lists of which the upstream has said, since this was last asked, that they have changed.
    #[must_use]
    pub fn said(&self) -> Topics {
        std::mem::take(&mut *self.said.lock())
    }

    /// Returns when somebody has shaken the trust in what is known.
    pub async fn shaken(&self) {
        self.shaken.notified().await;
    }

    /// What an error of the upstream says about what is believed of it: that it speaks another revision, or that a tool
    /// has another schema (RC-04).
    pub fn heed(&self, code: i64) {
        if code == VERSION_UNSUPPORTED {
            self.doubt();
        }
        if MODERN_ERRORS.contains(&code) {
            self.shake();
        }
    }

    /// Has everything that is known of the upstream found out anew, because it said `code`; returns when that is published,
    /// by a reading that began after this was asked.
    pub async fn read_anew(&self, code: i64) {
        let (mut ended, begun) = (self.ended.subscribe(), self.begun.load(Ordering::Acquire));
        self.heed(code);
        // The sender is here, so there is no other end to the waiting.
        drop(ended.wait_for(|ended| *ended > begun).await);
    }

    /// A reading of what the upstream offers begins; gives its number.
    pub fn begin_reading(&self) -> u64 {
        self.begun.fetch_add(1, Ordering::AcqRel).saturating_add(1)
    }

    /// That reading has ended, and what it found is published.
    pub fn end_reading(&self, number: u64) {
        self.ended.send_replace(number);
    }

    async fn probe(&self, grant: &Grant) -> Result<Spoken, Refusal> {
        let (id, modern) = (self.next_id(), Spoken { era: Era::Modern, version: newest(Era::Modern) });
        let legacy = Spoken { era: Era::Legacy, version: newest(Era::Legacy) };
        let body = outbound::discover(&outbound::Outgoing::own(id, modern.version));
        let headers = self.headers(modern, "server/discover", None);
        let mut answered = self.exchange(grant, Outgoing::new(body, headers, None)).await?;
        if matches!(answered.status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
            return Err(Refusal::UpstreamUnauthorized);
        }
        let says_nothing = answered.status.is_server_error() || answered.status.is_redirection();
        if says_nothing || answered.status == StatusCode::TOO_MANY_REQUESTS {
            return Err(status_refusal(answered.status, "server/discover"));
        }
        let response = match self.first_response(&mut answered).await {
            Ok(Some(response)) => response,
            // RC-10: an empty or unrecognised body, under a status that says no.
            Ok(None) => return Ok(legacy),
            Err(Refusal::UpstreamInvalid(_)) if answered.status.is_client_error() => return Ok(legacy),
            // So is what takes a request that it does not know for a notification.
            Err(Refusal::UpstreamInvalid(_)) if answered.status == StatusCode::ACCEPTED => return Ok(legacy),
            // Some legacy programs end over what they do not know: no more of them for the asking.
            Err(Refusal::UpstreamLost(_)) if self.transport.is_program() => return Ok(legacy),
            // And some do not answer it; nor does a modern one that is slow to begin.
            Err(Refusal::UpstreamTimeout) if self.transport.is_program() => {
                self.guessed.store(true, Ordering::Release);
                return Ok(legacy);
            }
            Err(refusal) => return Err(refusal),
        };
        self.guessed.store(false, Ordering::Release);
        match response.outcome() {
            Ok(result) => match result.get("supportedVersions") {
                Some(versions) => common(versions),
                None => Ok(legacy),
            },
            Err(error) if MODERN_ERRORS.contains(&error.code) => {
                error.data().and_then(|data| data.get("supported")).map_or(Ok(modern), common)
            }
            Err(_) => Ok(legacy),
        }
    }

    /// The first response of an answer, whatever its id: a probe's refusal may have none. Nothing, where the answer ends
    /// without one; what breaks off, is late or cannot be read says nothing of the era.
    async fn first_response(&self, answered: &mut Answered) -> Result<Option<Response>, Refusal> {
        let was_to_come = answered.messages.is_stream();
        let read = async {
            while let Some(message) = answered.messages.next().await? {
                match Inbound::parse(message, &self.bounds) {
                    Ok(Inbound::Response(response)) => return Ok(Some(response)),
                    Ok(Inbound::Notification(_) | Inbound::Request(_)) => {}
                    Err(why) => return Err(Refusal::UpstreamInvalid(why.to_owned())),
                }
            }
            if was_to_come {
                return Err(Refusal::UpstreamLost("the answer ended without a response".to_owned()));
            }
            Ok(None)
        };
        tokio::time::timeout(self.settings.timeout.min(PROBE_MAX), read).await.unwrap_or(Err(Refusal::UpstreamTimeout))
    }

    /// What was taken from silence is asked once more; nobody waits for that, and where there is no answer it stands.
    async fn look_again(&self, grant: &Grant) {
        if self.settings.era.is_none() && self.spoken().is_some() && self.guessed.load(Ordering::Acquire) {
            let probed = Box::pin(self.probe(grant)).await;
            // Once: each time is another process.
            self.guessed.store(false, Ordering::Release);
            if let Ok(spoken) = probed {
                self.spoken.store(Some(Arc::new(spoken)));
            }
        }
    }

    /// Reads everything that the upstream lists.
    ///
    /// # Errors
    /// Every refusal that an upstream can cause, as far as its tools are concerned; another list that it will not give is
    /// told and left out, and one that could not be read is told apart.
    pub async fn read(&self, grant: &Arc<Grant>) -> Result<Read, Refusal> {
        let asked = clock::instant();
        self.look_again(grant).await;
        let spoken = self.detect(grant).await?;
        let offer = Box::pin(self.offered(grant, spoken)).await?;
        let mut read = Read::default();
        for kind in Kind::LISTED {
            let offered = match kind {
                Kind::Tool => offer.tools,
                Kind::Prompt | Kind::Completion => offer.prompts,
                Kind::Resource | Kind::Template | Kind::Subscription => offer.resources,
            };
            if !offered {
                continue;
            }
            match Box::pin(self.read_all(grant, (spoken, kind), &mut read)).await {
                Ok(()) => {}
                Err(refusal) if kind == Kind::Tool => return Err(refusal),
                Err(refusal) => {
                    // Some pages are not the list.
                    read.listing.of_mut(kind).clear();
                    // Servers of resources without templates are many, and say so in many ways.
                    if matches!(refusal, Refusal::UpstreamInvalid(_) | Refusal::UpstreamTooLarge(_)) {
                        read.withheld.push((kind.list().0.to_owned(), refusal.inside().into_owned()));
                    } else {
                        read.unread.push((kind, refusal));
                    }
                }
            }
        }
        read.listing.offer = Some(offer);
        self.vouched.store(read.ttl.and_then(|ttl| asked.checked_add(ttl)).map(Arc::new));
        Ok(read)
    }

    /// What the upstream says that it serves.
    async fn offered(&self, grant: &Arc<Grant>, spoken: Spoken) -> Result<Offer, Refusal> {
        if spoken.era == Era::Legacy {
            let key = Key { principal: OWN, generation: grant.generation(), capabilities: Capabilities::NONE };
            return Ok(self
                .sessions
                .take(&key, Box::pin(self.begin(grant, Capabilities::NONE, None)))
                .await?
                .offer
                .clone());
        }
        let id = self.next_id();
        let body = outbound::discover(&outbound::Outgoing::own(id, spoken.version));
        let headers = self.headers(spoken, "server/discover", None);
        let mut answered = self.exchange(grant, Outgoing::new(body, headers, None)).await?;
        if !answered.status.is_success() {
            return Err(status_refusal(answered.status, "server/discover"));
        }
        let response = self.response(grant, &mut answered.messages, id).await?;
        Ok(offer(result_of(&response, "server/discover")?))
    }

    /// Reads all pages of one list.
    async fn read_all(
        &self,
        grant: &Arc<Grant>,
        (spoken, kind): (Spoken, Kind),
        read: &mut Read,
    ) -> Result<(), Refusal> {
        let (method, member) = kind.list();
        let mut cursor: Option<String> = None;
        for _page in 0..PAGES_MAX {
            let response = Box::pin(self.page(grant, spoken, method, cursor.as_deref())).await?;
            let result = result_of(&response, method)?;
            let elements = result
                .get(member)
                .filter(|list| list.kind() == json::Kind::Array)
                .ok_or_else(|| Refusal::UpstreamInvalid(format!("`{method}` without a list of {member}")))?;
            for element in elements.elements() {
                self.admit(kind, element, read);
            }
            let ttl_ms = result.get("ttlMs").and_then(Value::integer).and_then(|ttl| u64::try_from(ttl).ok());
            let ttl = ttl_ms.map(Duration::from_millis);
            read.ttl = match (read.ttl, ttl) {
                (Some(one), Some(other)) => Some(one.min(other)),
                (one, other) => one.or(other),
            };
            cursor = result.get("nextCursor").and_then(Value::text).map(std::borrow::Cow::into_owned);
            if cursor.is_none() {
                return Ok(());
            }
            if read.listing.of(kind).len() >= listed_max(kind) {
                break;
            }
        }
        // What is left out is told, not lost in silence.
        let why = format!("the list goes on after {} {member} or {PAGES_MAX} pages", listed_max(kind));
        read.withheld.push(("*".to_owned(), why));
        Ok(())
    }

    fn admit(&self, kind: Kind, element: Value<'_>, read: &mut Read) {
        let max = listed_max(kind);
        let why = if read.listing.of(kind).len() >= max {
            format!("more than {max} {}", kind.list().1)
        } else {
            // A copy of its own: the page it came in does not stay for its sake.
            match Definition::read(&self.settings, kind, Bytes::copy_from_slice(element.raw())) {
                Ok(definition) => return read.listing.of_mut(kind).push(Arc::new(definition)),
                Err(fault) => fault.to_string(),
            }
        };
        if read.withheld.len() < WITHHELD_MAX {
            let name = element.get(kind.member()).and_then(Value::text).unwrap_or_default();
            read.withheld.push((name.chars().take(NAME_CHARS_SHOWN).collect(), why));
        }
    }

    async fn page(
        &self,
        grant: &Arc<Grant>,
        spoken: Spoken,
        method: &str,
        cursor: Option<&str>,
    ) -> Result<Response, Refusal> {
        if spoken.era == Era::Modern {
            let id = self.next_id();
            let body = outbound::list(&outbound::Outgoing::own(id, spoken.version), method, cursor);
            let headers = self.headers(spoken, method, None);
            let mut answered = self.exchange(grant, Outgoing::new(body, headers, None)).await?;
            return self.list_response(grant, &mut answered, (method, id)).await;
        }
        let key = Key { principal: OWN, generation: grant.generation(), capabilities: Capabilities::NONE };
        let mut first = true;
        loop {
            let session = self.sessions.take(&key, Box::pin(self.begin(grant, Capabilities::NONE, None))).await?;
            let (id, spoken) = (self.next_id(), session.spoken());
            let body = outbound::list(&outbound::Outgoing::own(id, session.version), method, cursor);
            let headers = self.headers(spoken, method, None);
            let mut answered = self.exchange(grant, Outgoing::new(body, headers, session.id.as_ref())).await?;
            if !(first && session.may_be_gone(answered.status)) {
                return self.list_response(grant, &mut answered, (method, id)).await;
            }
            first = false;
            self.sessions.forget(&key, &session, answered.status);
            answered.messages.discard().await;
        }
    }

    async fn list_response(
        &self,
        grant: &Grant,
        answered: &mut Answered,
        (method, id): (&str, u64),
    ) -> Result<Response, Refusal> {
        let status = answered.status;
        let passes = status.is_server_error() && status != StatusCode::NOT_IMPLEMENTED;
        if passes || status == StatusCode::TOO_MANY_REQUESTS {
            return Err(Refusal::CatalogueUnavailable(format!("HTTP {} to `{method}`", status.as_u16())));
        }
        // A credential that is good for the tools alone is good.
        if status == StatusCode::FORBIDDEN && method != Kind::Tool.list().0 {
            return Err(Refusal::UpstreamInvalid(format!("HTTP {} to `{method}`", status.as_u16())));
        }
        if !status.is_success() {
            return Err(status_refusal(status, method));
        }
        self.response(grant, &mut answered.messages, id).await
    }
}

/// What a result of `server/discover` or `initialize` says that is served.
pub(super) fn offer(result: Value<'_>) -> Offer {
    let capabilities = result.get("capabilities");
    let has = |name: &str| capabilities.and_then(|all| all.get(name)).is_some_and(Value::is_object);
    let resources = capabilities.and_then(|all| all.get("resources"));
    let text = result.get("instructions").and_then(Value::text);
    let offers = |path: &[&str]| {
        path.iter().try_fold(capabilities?, |value, name| value.get(name)).filter(|value| value.is_object())
    };
    Offer {
        tools: has("tools"),
        prompts: has("prompts"),
        resources: has("resources"),
        subscribe: resources.and_then(|resources| resources.get("subscribe")).and_then(Value::boolean).unwrap_or(false),
        completions: has("completions"),
        logging: has("logging"),
        tasks: offers(&["extensions", TASKS_EXTENSION]).is_some(),
        tasks_of_2025: offers(&["tasks", "requests", "tools", "call"]).is_some(),
        instructions: text.map(|text| text.chars().take(INSTRUCTIONS_CHARS_KEPT).collect()),
    }
}

/// How many definitions of one kind are taken from one upstream.
const fn listed_max(kind: Kind) -> usize {
    match kind {
        Kind::Tool | Kind::Prompt | Kind::Completion => 500,
        Kind::Resource | Kind::Template | Kind::Subscription => 5_000,
    }
}

/// The newest revision that both sides speak, of a `supportedVersions` or `supported` list.
fn common(supported: Value<'_>) -> Result<Spoken, Refusal> {
    let theirs = |ours: &str| supported.elements().any(|version| version.is(ours));
    let found = |era, table: &'static [&'static str]| {
        table.iter().copied().find(|ours| theirs(ours)).map(|version| Spoken { era, version })
    };
    found(Era::Modern, versions::MODERN).or_else(|| found(Era::Legacy, versions::LEGACY)).ok_or_else(|| {
        Refusal::UpstreamIncompatible("the upstream serves no revision that this gateway speaks".to_owned())
    })
}

/// Whether an error says that what is known of a modern upstream is not true: its schemas, or its revision.
pub(super) const fn is_misunderstanding(code: i64) -> bool {
    matches!(code, HEADER_MISMATCH | VERSION_UNSUPPORTED)
}

/// Errors that only a modern server gives (RC-10).
const MODERN_ERRORS: &[i64] = &[HEADER_MISMATCH, -32021, VERSION_UNSUPPORTED];
const HEADER_MISMATCH: i64 = -32020;
const VERSION_UNSUPPORTED: i64 = -32022;

/// For so long an upstream may think about which era it speaks.
const PROBE_MAX: Duration = Duration::from_secs(10);

/// Pages of one list: an upstream whose cursors run in circles ends here.
const PAGES_MAX: usize = 100;

/// As much of an upstream's instructions as anybody could be told.
const INSTRUCTIONS_CHARS_KEPT: usize = 4_096;

/// Characters of a name that is told for no other reason than that its tool is not served.
const NAME_CHARS_SHOWN: usize = 128;

/// Names of what is not served that are told.
const WITHHELD_MAX: usize = 500;
