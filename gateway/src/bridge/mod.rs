//! How is one era's conversation held for a peer of the other?
//!
//! Legacy clients speak in sessions; this keeps what a session has to remember: which of its calls are under way, what it
//! was asked, what it was told and may have lost, and which resources it watches. Legacy upstreams ask in the middle of a
//! call; this keeps the calls that wait for a modern client's retry, and what that client carries meanwhile. State exists
//! here only because a legacy peer forces it. A session is a handle, never a proof of who asks: every request is
//! authenticated, and a session answers only to the principal that began it (RR-09).

mod asks;
mod continuation;
mod holds;
mod queue;
mod replay;
mod subscriptions;
mod task;

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use asks::Asks;
pub use asks::Conversation;
use bytes::Bytes;
pub use continuation::{Binding, Continuation, ROUNDS_MAX, To};
pub use holds::{Claim, Holds, Place};
use parking_lot::Mutex;
pub use queue::Queue;
use quick_cache::sync::Cache;
use replay::{Replay, Room};
pub use subscriptions::{Group, Sink, Subscription, Subscriptions, Wish};
pub use task::{Owner, TaskId};
use tokio::sync::{Notify, mpsc, watch};

use crate::{
    clock::{self, Timestamp},
    config::{Endpoint, Limits},
    digest,
    identity::revocation::Holder,
    random,
    refusal::Refusal,
    rpc::{Capabilities, meta::LogLevel, reply::Response, sse},
    tasks,
    telemetry::metrics,
};

/// The sessions of legacy clients, bounded: the least used goes first, and its client begins again on the 404. No
/// principal holds more than a share of them, so that one who begins session after session ends only their own (I7).
#[derive(Debug)]
pub struct Sessions {
    open: Cache<String, Arc<Session>>,
    idle: Duration,
    given: Mutex<HashMap<[u8; 32], Given>>,
    share: usize,
    principals_max: usize,
    /// Bytes of events that all sessions keep.
    kept: Arc<AtomicUsize>,
}

/// What one principal was given.
#[derive(Debug, Default)]
struct Given {
    /// The ids of their sessions, oldest first; some may have ended since.
    ids: VecDeque<String>,
    /// Bytes of events that their sessions keep, which all have a hand on this.
    kept: Arc<AtomicUsize>,
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
    /// What names it in the journal, without being it.
    name: String,
    holder: Holder,
    principal: [u8; 32],
    endpoint: Endpoint,
    began_at: Timestamp,
    used_at: AtomicU64,
    calls: Mutex<HashMap<Box<[u8]>, Arc<Notify>>>,
    asks: Arc<Asks>,
    log_level: Mutex<Option<LogLevel>>,
    /// How many streams were opened for what no request asked for; [`ENDED`] when the session is over.
    streams: watch::Sender<u64>,
    replay: Replay,
    /// The resources that the client wants to be told of, by the URI that it knows.
    subscriptions: Mutex<HashMap<String, Subscription>>,
    sink: Arc<Sink>,
}

/// What `initialize` fixed.
#[derive(Debug)]
pub struct Opening {
    /// `Identity::principal` of whoever began it.
    pub principal: [u8; 32],
    /// Who that is.
    pub holder: Holder,
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
            kept: Arc::default(),
        }
    }

    /// Begins a session.
    ///
    /// # Errors
    /// [`Refusal::Bug`] where the machine gives no randomness.
    pub fn begin(&self, opening: Opening, now: Timestamp) -> Result<Arc<Session>, Refusal> {
        let id = random::unguessable()?;
        let session = Arc::new(Session {
            name: session_name(&id),
            holder: opening.holder,
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
            log_level: Mutex::new(None),
            streams: watch::Sender::new(0),
            replay: Replay::new(self.room(opening.principal)),
            subscriptions: Mutex::new(HashMap::new()),
            sink: Arc::default(),
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

    /// Where the events of one more session of `principal` are counted.
    fn room(&self, principal: [u8; 32]) -> Room {
        let mut given = self.given.lock();
        if given.len() >= self.principals_max && !given.contains_key(&principal) {
            given.retain(|_principal, given| Arc::strong_count(&given.kept) > 1);
        }
        Room::new(Arc::clone(&given.entry(principal).or_default().kept), Arc::clone(&self.kept))
    }

    /// Notes whose `session` is; the id of the oldest that its principal has where that is one too many.
    fn beyond_share(&self, session: &Session) -> Option<String> {
        let mut given = self.given.lock();
        let lives = |id: &String| self.open.contains_key(id);
        let ids = &mut given.entry(session.principal).or_default().ids;
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
        if session.is_idle(now, self.idle) {
            self.end(&session);
            return Err(Refusal::SessionUnknown);
        }
        session.is_used(now);
        Ok(session)
    }

    /// Ends the sessions that their clients have left without a word, with what is held for them, and forgets what nobody
    /// will come back for. Says how long that is good for.
    pub fn sweep(&self, now: Timestamp) -> Duration {
        for (_id, session) in self.open.iter() {
            if session.is_idle(now, self.idle) {
                self.end(&session);
            } else {
                session.replay.forget(now);
            }
        }
        self.given.lock().retain(|_principal, given| Arc::strong_count(&given.kept) > 1);
        self.idle.min(SWEPT_EVERY)
    }

    /// Ends each session that `revoked` finds a reason for, by its name, by whom it is for, and by when it was begun;
    /// gives the reasons, and whose they were.
    pub fn revoke<R>(&self, revoked: impl Fn(&str, &Holder, Timestamp) -> Option<R>) -> Vec<(R, [u8; 32])> {
        let why = |session: &Session| revoked(&session.name, &session.holder, session.began_at);
        let found: Vec<_> = self.open.iter().filter_map(|(_id, it)| why(&it).map(|why| (why, it))).collect();
        let end = |(why, session): (R, Arc<Session>)| {
            self.end(&session);
            (why, session.principal)
        };
        found.into_iter().map(end).collect()
    }

    /// Ends a session, its stream, and what it has under way (RL-04).
    pub fn end(&self, session: &Session) {
        let _gone = self.open.remove(&session.id);
        self.count();
        let lived = clock::now().since(session.began_at);
        metrics().server_sessions.with([session.version]).record(lived);
        session.streams.send_replace(ENDED);
        session.subscriptions.lock().clear();
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

    /// What names it in the journal.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Brings the client's answer to the call that asked for it; what nobody asked is ignored.
    pub fn answer(&self, response: Response) {
        self.asks.answer(response);
    }

    /// The least severe log message that the client wants from now on.
    pub fn set_log_level(&self, level: LogLevel) {
        *self.log_level.lock() = Some(level);
    }

    /// The least severe log message that the client wants, where it said so.
    #[must_use]
    pub fn log_level(&self) -> Option<LogLevel> {
        *self.log_level.lock()
    }

    /// Where the changes of the session's resources wait to be told.
    #[must_use]
    pub fn sink(&self) -> &Arc<Sink> {
        &self.sink
    }

    /// Whether the client has asked to be told of `uri` already.
    ///
    /// # Errors
    /// [`Refusal::Overloaded`] where it has not, and there is no room for another.
    pub fn is_subscribed(&self, uri: &str) -> Result<bool, Refusal> {
        let subscriptions = self.subscriptions.lock();
        match subscriptions.contains_key(uri) {
            false if subscriptions.len() >= SUBSCRIPTIONS_MAX => {
                Err(Refusal::Overloaded("resources watched in one session"))
            }
            known => Ok(known),
        }
    }

    /// The client is told of `uri` until it does not want to be any more, or the session is over.
    pub fn subscribe(&self, uri: String, subscription: Subscription) {
        // Where the session has ended in between, nobody would ever take it away.
        if *self.streams.borrow() != ENDED {
            self.subscriptions.lock().insert(uri, subscription);
        }
    }

    /// The client does not want to be told of `uri` any more; whether it was, nobody need know.
    pub fn unsubscribe(&self, uri: &str) {
        let gone = self.subscriptions.lock().remove(uri);
        drop(gone);
    }

    /// The turn of a stream that has just been opened for what no request asked for. A message goes out on one stream
    /// (RL-05), the newest: its turn ends those before it.
    #[must_use]
    pub fn take_turn(self: &Arc<Self>) -> Turn {
        let mut turn = ENDED;
        self.streams.send_if_modified(|streams| {
            if *streams != ENDED {
                *streams = streams.saturating_add(1);
                turn = *streams;
            }
            turn != ENDED
        });
        let stream = self.replay.stream();
        let priming = self.priming(stream);
        Turn { turn, streams: self.streams.subscribe(), session: Arc::downgrade(self), stream, events: 0, priming }
    }

    /// The events of an answer under ids, kept so that a client which loses the stream can come back to it (RL-08).
    #[must_use]
    pub fn carry(self: &Arc<Self>, from: mpsc::Receiver<Bytes>) -> mpsc::Receiver<Bytes> {
        let (to, to_body) = Queue::new();
        let stream = self.replay.open();
        // It is new: there is room in it.
        self.priming(stream).into_iter().for_each(|event| to.offer(event));
        let session = Arc::clone(self);
        tasks::background(async move { session.replay.carry(stream, from, to).await });
        to_body
    }

    /// What followed the event called `last`, and what still comes of its stream; nothing where that is not known any
    /// more.
    #[must_use]
    pub fn resume(&self, last: &str) -> Option<mpsc::Receiver<Bytes>> {
        self.replay.resume(last)
    }

    /// The first event of a stream, where this client's version has it: older clients take it for a message.
    #[must_use]
    fn priming(&self, stream: u64) -> Option<Bytes> {
        (self.version >= PRIMING_SINCE).then(|| sse::priming(&replay::id(stream, 0)))
    }

    /// Whoever listens is there, also where they ask for nothing; and so is who waits for an answer, or owes one.
    fn is_idle(&self, now: Timestamp, idle: Duration) -> bool {
        let used_at = Timestamp::from_unix_ms(self.used_at.load(Ordering::Relaxed));
        now.since(used_at) > idle && self.streams.receiver_count() == 0 && self.calls.lock().is_empty()
    }

    fn is_used(&self, now: Timestamp) {
        self.used_at.store(now.unix_ms(), Ordering::Relaxed);
    }

    /// Cancels a call by its id; an id that is not under way is ignored (spec §2.2).
    pub fn cancel(&self, request_id: &[u8]) {
        if let Some(call) = self.calls.lock().get(request_id) {
            call.notify_one();
        }
    }
}

/// What one stream of a session has until a newer one is opened, or the session is over. It does not keep the session.
#[derive(Debug)]
pub struct Turn {
    turn: u64,
    streams: watch::Receiver<u64>,
    session: Weak<Session>,
    stream: u64,
    events: u64,
    priming: Option<Bytes>,
}

impl Turn {
    /// What the stream begins with.
    pub fn priming(&mut self) -> Option<Bytes> {
        self.priming.take()
    }

    /// The id of the stream's next event. What is told here is not kept: a client that comes back is told that everything
    /// may have changed.
    pub fn next_id(&mut self) -> String {
        self.events = self.events.saturating_add(1);
        replay::id(self.stream, self.events)
    }

    /// Returns when the turn is over.
    pub async fn over(&mut self) {
        let turn = self.turn;
        // An error says that the session is gone, which ends the turn as well.
        drop(self.streams.wait_for(|streams| *streams != turn || turn == ENDED).await);
    }
}

impl Drop for Turn {
    /// A stream that was open until now was a use of the session.
    fn drop(&mut self) {
        if let Some(session) = self.session.upgrade() {
            session.is_used(clock::now());
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

    /// The session that the call belongs to.
    #[must_use]
    pub fn session(&self) -> &Arc<Session> {
        &self.session
    }
}

impl Drop for Tracked {
    fn drop(&mut self) {
        self.session.is_used(clock::now());
        self.session.calls.lock().remove(&self.request_id);
    }
}

/// Names a session without being it.
pub fn session_name(id: &str) -> String {
    digest::short(id)
}

/// A claim is kept for as long as the session, so not at any length.
fn brief(mut claim: String) -> String {
    claim.truncate(claim.floor_char_boundary(CLAIM_BYTES_MAX));
    claim.shrink_to_fit();
    claim
}

/// No stream has this number: the session is over.
const ENDED: u64 = u64::MAX;

/// The first version whose clients know an event without a message (RL-08).
const PRIMING_SINCE: &str = "2025-11-25";

/// Resources that one session may watch.
const SUBSCRIPTIONS_MAX: usize = 64;

/// As much of a claim as the journal writes down.
const CLAIM_BYTES_MAX: usize = 256;

/// However long a session may be idle.
const SWEPT_EVERY: Duration = Duration::from_secs(60);

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
            holder: Default::default(),
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
        let waiting = sessions.begin(opening(), now).unwrap();
        let _call = waiting.track(b"7").unwrap();
        assert!(sessions.find(&waiting.id, &[1; 32], &Endpoint::Federated, later).is_ok(), "a call is under way");
        assert_eq!(
            sessions.find(&session.id, &[1; 32], &Endpoint::Federated, later).unwrap_err(),
            Refusal::SessionUnknown
        );
    }

    #[test]
    fn a_session_that_nobody_comes_back_to_ends_by_itself() {
        let (sessions, now) = (sessions(), Timestamp::from_unix_seconds(1_000));
        let left = std::sync::Arc::downgrade(&sessions.begin(opening(), now).unwrap());
        let (listening, waiting) = (sessions.begin(opening(), now).unwrap(), sessions.begin(opening(), now).unwrap());
        let held = (listening.take_turn(), waiting.track(b"7").unwrap());
        sessions.sweep(now.plus(Duration::from_secs(60)));
        assert!(left.upgrade().is_some());
        let later = now.plus(Duration::from_secs(61));
        sessions.sweep(later);
        assert!(left.upgrade().is_none(), "nothing is held for it any more");
        for session in [&listening, &waiting] {
            assert!(sessions.find(&session.id, &[1; 32], &Endpoint::Federated, later).is_ok());
        }
        for session in [&listening, &waiting] {
            sessions.end(session);
        }
        drop((held, listening, waiting));
        sessions.sweep(later);
        assert!(sessions.given.lock().is_empty(), "nor for its principal");
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
