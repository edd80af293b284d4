//! How is one era's conversation held for a peer of the other?
//!
//! Legacy clients speak in sessions; this keeps what a session has to remember, which of its calls are under way and what
//! it was asked. Legacy upstreams ask in the middle of a call; this keeps the calls that wait for a modern client's retry,
//! and what that client carries meanwhile. State exists here only because a legacy peer forces it. A session is a handle, never a proof of who asks: every
//! request is authenticated, and a session answers only to the principal that began it (RR-09).

mod asks;
mod continuation;
mod holds;
mod task;

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use asks::Asks;
pub use asks::Conversation;
use aws_lc_rs::rand;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
pub use continuation::{Binding, Continuation, ROUNDS_MAX, To};
pub use holds::{Claim, Holds, Place};
use parking_lot::Mutex;
use quick_cache::sync::Cache;
pub use task::{Owner, TaskId};
use tokio::sync::Notify;

use crate::{
    clock::{self, Timestamp},
    config::{Endpoint, Limits},
    refusal::Refusal,
    rpc::{Capabilities, reply::Response},
    telemetry::metrics,
};

/// The sessions of legacy clients, bounded: the least used goes first, and its client begins again on the 404. No
/// principal holds more than a share of them, so that one who begins session after session ends only their own (I7).
#[derive(Debug)]
pub struct Sessions {
    open: Cache<String, Arc<Session>>,
    idle: Duration,
    /// The ids that each principal was given, oldest first; some may have ended since.
    given: Mutex<HashMap<[u8; 32], VecDeque<String>>>,
    share: usize,
    principals_max: usize,
}

/// One conversation with a legacy client.
#[derive(Debug)]
pub struct Session {
    /// `Mcp-Session-Id`: 256 random bits.
    pub id: String,
    /// The version agreed on at `initialize`.
    pub version: &'static str,
    /// Name and version that the client claims.
    pub client: (String, String),
    /// What the client can be asked.
    pub capabilities: Capabilities,
    principal: [u8; 32],
    endpoint: Endpoint,
    began_at: Timestamp,
    used_at: AtomicU64,
    calls: Mutex<HashMap<Box<[u8]>, Arc<Notify>>>,
    asks: Arc<Asks>,
}

/// What `initialize` fixed.
#[derive(Debug)]
pub struct Opening {
    /// `Identity::principal` of whoever began it.
    pub principal: [u8; 32],
    /// Where it was begun.
    pub endpoint: Endpoint,
    /// The version agreed on.
    pub version: &'static str,
    /// Name and version that the client claims.
    pub client: (String, String),
    /// What the client declares that it can be asked.
    pub capabilities: Capabilities,
}

impl Sessions {
    /// No sessions yet, at most `limits.sessions_max`.
    #[must_use]
    pub fn new(limits: &Limits) -> Self {
        Self::bounded(limits.sessions_max, limits.session_idle)
    }

    fn bounded(max: usize, idle: Duration) -> Self {
        Self {
            open: Cache::new(max),
            idle,
            given: Mutex::new(HashMap::new()),
            share: max.div_ceil(SHARES),
            principals_max: max,
        }
    }

    /// Begins a session.
    ///
    /// # Errors
    /// [`Refusal::Bug`] where the system gives no random bytes.
    pub fn begin(&self, opening: Opening, now: Timestamp) -> Result<Arc<Session>, Refusal> {
        let mut random = [0; 32];
        rand::fill(&mut random).map_err(|_unspecified| Refusal::Bug("no random bytes"))?;
        let id = URL_SAFE_NO_PAD.encode(random);
        let session = Arc::new(Session {
            id: id.clone(),
            version: opening.version,
            client: (brief(opening.client.0), brief(opening.client.1)),
            capabilities: opening.capabilities.in_version(opening.version),
            principal: opening.principal,
            endpoint: opening.endpoint,
            began_at: now,
            used_at: AtomicU64::new(now.unix_ms()),
            calls: Mutex::new(HashMap::new()),
            asks: Arc::default(),
        });
        self.open.insert(id, Arc::clone(&session));
        self.count();
        if let Some(oldest) = self.beyond_share(&session)
            && let Some(oldest) = self.open.get(&oldest)
        {
            self.end(&oldest);
        }
        Ok(session)
    }

    /// Notes whose `session` is; the id of the oldest that its principal has where that is one too many.
    fn beyond_share(&self, session: &Session) -> Option<String> {
        let mut given = self.given.lock();
        let lives = |id: &String| self.open.contains_key(id);
        if given.len() >= self.principals_max && !given.contains_key(&session.principal) {
            given.retain(|_principal, ids| ids.iter().any(lives));
        }
        let ids = given.entry(session.principal).or_default();
        ids.push_back(session.id.clone());
        if ids.len() > self.share {
            ids.retain(lives);
        }
        if ids.len() > self.share { ids.pop_front() } else { None }
    }

    /// The session called `id`, if it is this principal's and on this endpoint.
    ///
    /// # Errors
    /// [`Refusal::SessionUnknown`], the same for a stranger's session as for none.
    pub fn find(
        &self,
        id: &str,
        principal: &[u8; 32],
        endpoint: &Endpoint,
        now: Timestamp,
    ) -> Result<Arc<Session>, Refusal> {
        let session = self.open.get(id).ok_or(Refusal::SessionUnknown)?;
        if session.principal != *principal || session.endpoint != *endpoint {
            return Err(Refusal::SessionUnknown);
        }
        let used_at = Timestamp::from_unix_ms(session.used_at.swap(now.unix_ms(), Ordering::Relaxed));
        if now.since(used_at) > self.idle {
            let _gone = self.open.remove(id);
            return Err(Refusal::SessionUnknown);
        }
        Ok(session)
    }

    /// Ends a session and cancels what it has under way (RL-04).
    pub fn end(&self, session: &Session) {
        let _gone = self.open.remove(&session.id);
        self.count();
        let lived = clock::now().since(session.began_at);
        metrics().server_sessions.with([session.version]).record(lived);
        for call in session.calls.lock().values() {
            call.notify_one();
        }
    }

    fn count(&self) {
        metrics().sessions.set(i64::try_from(self.open.len()).unwrap_or(i64::MAX));
    }
}

impl Session {
    /// Marks a call as under way; it can be cancelled by its JSON-RPC id until the guard is dropped.
    ///
    /// # Errors
    /// [`Refusal::NotARequest`] where the session has a call of this id under way already; [`Refusal::Overloaded`].
    pub fn track(self: &Arc<Self>, request_id: &[u8]) -> Result<Tracked, Refusal> {
        let mut calls = self.calls.lock();
        if calls.len() >= CALLS_MAX {
            return Err(Refusal::Overloaded("calls under way in one session"));
        }
        if calls.contains_key(request_id) {
            return Err(Refusal::NotARequest("the id of a request that is under way"));
        }
        let cancelled = Arc::new(Notify::new());
        calls.insert(Box::from(request_id), Arc::clone(&cancelled));
        Ok(Tracked { session: Arc::clone(self), request_id: Box::from(request_id), cancelled })
    }

    /// Brings the client's answer to the call that asked for it; what nobody asked is ignored.
    pub fn answer(&self, response: Response) {
        self.asks.answer(response);
    }

    /// Cancels a call by its id; an id that is not under way is ignored (spec §2.2).
    pub fn cancel(&self, request_id: &[u8]) {
        if let Some(call) = self.calls.lock().get(request_id) {
            call.notify_one();
        }
    }
}

/// A call under way in a session.
#[derive(Debug)]
pub struct Tracked {
    session: Arc<Session>,
    request_id: Box<[u8]>,
    cancelled: Arc<Notify>,
}

impl Tracked {
    /// A way to ask the client something on behalf of this call.
    #[must_use]
    pub fn conversation(&self) -> Conversation {
        Conversation::new(&self.session.asks)
    }

    /// Returns when the client cancels the call.
    pub async fn cancelled(&self) {
        self.cancelled.notified().await;
    }
}

impl Drop for Tracked {
    fn drop(&mut self) {
        self.session.calls.lock().remove(&self.request_id);
    }
}

/// A claim is kept for as long as the session, so not at any length.
fn brief(mut claim: String) -> String {
    claim.truncate(claim.floor_char_boundary(CLAIM_BYTES_MAX));
    claim.shrink_to_fit();
    claim
}

/// As much of a claim as the journal writes down.
const CLAIM_BYTES_MAX: usize = 256;

/// Calls that one session may have under way.
const CALLS_MAX: usize = 256;

/// One principal may have one of so many shares of all sessions.
const SHARES: usize = 4;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Opening, Sessions};
    use crate::{clock::Timestamp, config::Endpoint, refusal::Refusal};

    fn opening() -> Opening {
        Opening {
            principal: [1; 32],
            endpoint: Endpoint::Federated,
            version: "2025-11-25",
            client: Default::default(),
            capabilities: Default::default(),
        }
    }

    fn sessions() -> Sessions {
        Sessions::bounded(16, Duration::from_secs(60))
    }

    #[test]
    fn the_oldest_of_a_principals_sessions_goes_when_it_has_its_share() {
        let (sessions, now) = (sessions(), Timestamp::from_unix_seconds(1_000));
        let lives = |session: &super::Session| sessions.find(&session.id, &[1; 32], &Endpoint::Federated, now).is_ok();
        let own: Vec<_> = (0..4).map(|_| sessions.begin(opening(), now).unwrap()).collect();
        sessions.end(&own[2]);
        let fifth = sessions.begin(opening(), now).unwrap();
        assert!(lives(&own[0]) && lives(&fifth), "one that has ended takes no room");
        let sixth = sessions.begin(opening(), now).unwrap();
        assert!(!lives(&own[0]) && lives(&own[1]) && lives(&sixth));
    }

    #[test]
    fn a_session_answers_only_to_the_principal_that_began_it() {
        let (sessions, now) = (sessions(), Timestamp::from_unix_seconds(1_000));
        let session = sessions.begin(opening(), now).unwrap();
        assert!(sessions.find(&session.id, &[1; 32], &Endpoint::Federated, now).is_ok());
        let stranger = sessions.find(&session.id, &[2; 32], &Endpoint::Federated, now);
        assert_eq!(stranger.unwrap_err(), Refusal::SessionUnknown);
    }

    #[test]
    fn a_session_keeps_no_more_of_a_claim_than_is_written_down() {
        let client = ("é".repeat(1 << 20), "1".to_owned());
        let session = sessions().begin(Opening { client, ..opening() }, Timestamp::from_unix_seconds(1_000)).unwrap();
        assert_eq!((session.client.0.len(), session.client.1.as_str()), (256, "1"));
        assert!(session.client.0.capacity() <= 256);
    }

    #[test]
    fn an_idle_session_has_ended() {
        let (sessions, now) = (sessions(), Timestamp::from_unix_seconds(1_000));
        let session = sessions.begin(opening(), now).unwrap();
        let later = now.plus(Duration::from_secs(61));
        assert_eq!(
            sessions.find(&session.id, &[1; 32], &Endpoint::Federated, later).unwrap_err(),
            Refusal::SessionUnknown
        );
    }

    #[tokio::test]
    async fn a_call_is_cancelled_by_its_id_and_forgotten_when_it_ends() {
        let (sessions, now) = (sessions(), Timestamp::from_unix_seconds(1_000));
        let session = sessions.begin(opening(), now).unwrap();
        let tracked = session.track(b"7").unwrap();
        assert!(session.track(b"7").is_err(), "an id under way is not taken twice");
        session.cancel(b"8");
        session.cancel(b"7");
        tracked.cancelled().await;
        drop(tracked);
        assert!(session.track(b"7").is_ok());
    }
}
