//! How is somebody told what they did not ask for at that moment?
//!
//! `subscriptions/listen` of modern clients, and the GET stream of legacy ones: a task each, which waits for news, looks
//! whether what its caller sees is another than before, and says so. It learns of changes from `hub`, and reads no
//! upstream.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use bytes::Bytes;
use tokio::{
    sync::watch,
    time::{sleep, sleep_until},
};
use uuid::Uuid;

use super::{
    Asking, Estate, Gateway, Head, Response,
    hub::{News, Seat, View},
    local, respond,
    revoke::Ward,
    subscribe::{dropped, may_be_told},
    trail::Trail,
};
use crate::{
    audit::{
        journal::Journal,
        record::{self, Who},
    },
    bridge::{Queue, Sink, Subscription, Turn},
    clock::{self, Timestamp},
    config::Endpoint,
    identity::{Caller, Identity, revocation::What},
    inspect::{
        self,
        tasks::{Known, State},
    },
    refusal::{Era, Refusal},
    rpc::{self, Asker, RequestId, Topic, Topics, answers, sse},
    telemetry::metrics::metrics,
    upstream::Subject,
};

/// Somebody who waits for changes, with everything that this takes until it ends.
struct Listener {
    estate: Arc<ArcSwap<Estate>>,
    news: watch::Receiver<Arc<News>>,
    journal: Arc<Journal>,
    identity: Arc<Identity>,
    endpoint: Endpoint,
    topics: Topics,
    ear: Ear,
    /// Where what is subscribed to waits to be told.
    sink: Arc<Sink>,
    seen: View,
    /// The policy set and the configuration that `seen` was judged by.
    judged_by: (Arc<str>, Arc<Estate>),
    until: Instant,
    record: Uuid,
    began: Instant,
    told: u64,
    _seat: Arc<Seat>,
    ward: Ward,
}

/// Where what is told goes.
enum Ear {
    /// A request, which gets an answer in the end, with what it subscribed to.
    Request(Asker, Vec<Subscription>),
    /// A stream of a session.
    Stream(Turn),
}

/// Why a listener ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    /// The client went away, or took nothing for too long.
    Gone,
    /// The credential, the life of a stream, or that of a task's id is over.
    Expired,
    /// What could be seen may be seen no longer, or its upstream tells of it no longer.
    Withdrawn,
    /// The caller is not welcome any more.
    Revoked,
    /// A newer stream has taken over, or the session is over.
    Over,
    /// The gateway ends.
    Drained,
    /// Nothing of what was asked for can be told of, or everything has been.
    Nothing,
}

impl End {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Gone => "gone",
            Self::Expired => "expired",
            Self::Withdrawn => "withdrawn",
            Self::Revoked => "revoked",
            Self::Over => "over",
            Self::Drained => "drained",
            Self::Nothing => "nothing",
        }
    }
}

impl Gateway {
    /// `subscriptions/listen` (RS-33): the acknowledgement first, then what changes, and an answer at the end.
    pub(super) async fn listen(&self, asking: &Asking<'_>, trail: &mut Trail) -> Result<Response, Refusal> {
        let Asking { head, caller, call, .. } = asking;
        let asker = local::asker(call)?;
        let filter = call.filter().ok_or(Refusal::NotARequest("a filter that was not read"))?;
        if !respond::takes_streams(&head.headers) {
            return Err(Refusal::NotAcceptable);
        }
        if !filter.tasks.is_empty() && !asking.knows_tasks() {
            return Err(Refusal::CapabilityMissing(rpc::Capabilities::TASKS.json()));
        }
        let topics = filter.topics.and(local::capabilities(asking.estate, caller, trail).topics());
        let seat = self.hub.seat(caller.identity().principal, None)?;
        let sink = Arc::default();
        let watched = self.watch_all(asking, trail, &filter, &sink).await;
        let acknowledged = acknowledged(&asker.id, topics, &watched);
        let ear = Ear::Request(asker, watched);
        let listener = self.listener((asking.estate, caller), trail, topics, (ear, sink, seat))?;
        let (events, to_body) = Queue::new();
        // It is new: there is room in it.
        events.offer(acknowledged);
        self.tasks.spawn(listener.run(events));
        Ok(respond::stream(to_body))
    }

    /// The GET stream of a legacy session (RL-04, RL-05): what `initialize` said that the client would be told of.
    pub(super) fn stream(
        &self,
        estate: &Arc<Estate>,
        head: &Head,
        caller: &Caller,
        trail: &mut Trail,
    ) -> Result<Response, Refusal> {
        // Without a session it is either no client of ours or one that only tries what there is (RS-22).
        if !respond::takes_streams(&head.headers) || rpc::headers::session_id(&head.headers)?.is_none() {
            return Err(Refusal::MethodNotAllowed("POST, DELETE"));
        }
        trail.era = Some(Era::Legacy);
        let session = self.session(head, caller, trail)?;
        trail.session = Some(Arc::clone(&session));
        let last = rpc::headers::last_event_id(&head.headers);
        if let Some((last, rest)) = last.and_then(|last| Some((last, session.resume(last)?))) {
            let policy_set = Arc::clone(estate.rules.load().policies.digest());
            self.record_listen(trail, Heard { resumed: Some(last), policy_set: &policy_set, ..Heard::default() })?;
            return Ok(respond::stream(rest));
        }
        let topics = local::capabilities(estate, caller, trail).topics();
        let seat = self.hub.seat(caller.identity().principal, Some(&session.id))?;
        // Only now: whoever is refused keeps the stream that they have.
        let mut turn = session.take_turn();
        let priming = turn.priming();
        self.subscriptions.renew(caller.identity(), |known| estate.revocations.admit(known).is_ok());
        let sink = Arc::clone(session.sink());
        let mut listener = self.listener((estate, caller), trail, topics, (Ear::Stream(turn), sink, seat))?;
        if last.is_some() {
            // What changed while the client was away, nobody told it.
            listener.seen = View::default();
            listener.news.mark_changed();
        }
        let (events, to_body) = Queue::new();
        // It is new: there is room in it.
        priming.into_iter().for_each(|event| events.offer(event));
        self.tasks.spawn(listener.run(events));
        Ok(respond::stream(to_body))
    }

    fn listener(
        &self,
        (estate, caller): (&Arc<Estate>, &Caller),
        trail: &Trail,
        topics: Topics,
        (ear, sink, seat): (Ear, Arc<Sink>, Arc<Seat>),
    ) -> Result<Listener, Refusal> {
        let identity = caller.identity();
        let ward = Ward::new(estate, &self.vigil, identity, trail.now);
        let mut news = self.hub.listen();
        let policy_set = Arc::clone(estate.rules.load().policies.digest());
        let words = Arc::clone(&news.borrow_and_update());
        let seen = View::of(estate, &words, (identity, &trail.endpoint), trail.now);
        let names: Vec<&str> = topics.iter().map(Topic::as_str).collect();
        let tasks = ear.watched().iter().filter(|one| one.wish().task.is_some()).count();
        let resources = ear.watched().len().saturating_sub(tasks);
        self.record_listen(trail, Heard { topics: &names, resources, tasks, policy_set: &policy_set, resumed: None })?;
        Ok(Listener {
            estate: Arc::clone(&self.estate),
            news,
            journal: Arc::clone(&self.journal),
            until: after(clock::instant(), estate.config.limits.stream_max).min(ward.until()),
            identity: Arc::clone(identity),
            endpoint: trail.endpoint.clone(),
            topics,
            ear,
            sink,
            seen,
            judged_by: (policy_set, Arc::clone(estate)),
            record: trail.id,
            began: trail.began,
            told: 0,
            _seat: seat,
            ward,
        })
    }

    /// Nobody is told anything without a record of it.
    fn record_listen(&self, trail: &Trail, heard: Heard<'_>) -> Result<(), Refusal> {
        let Heard { topics, resources, tasks, policy_set, resumed } = heard;
        let recorded = self.journal.healthy()
            && trail.with_request(None, |request| {
                let (who, endpoint) = (trail.who(), trail.endpoint.path());
                let [resources, tasks] = [resources, tasks].map(|count| u64::try_from(count).unwrap_or(u64::MAX));
                let endpoint = &*endpoint;
                let listen = record::Listen { who, endpoint, request, topics, resources, tasks, policy_set, resumed };
                self.journal.note(trail.id, &listen)
            });
        if !recorded {
            return Err(Refusal::AuditUnavailable("the listener could not be recorded".to_owned()));
        }
        trail.measure("", None);
        Ok(())
    }
}

/// What somebody is going to be told of, for a record.
#[derive(Default)]
struct Heard<'a> {
    topics: &'a [&'a str],
    resources: usize,
    tasks: usize,
    policy_set: &'a str,
    resumed: Option<&'a str>,
}

impl Listener {
    async fn run(mut self, events: Queue) {
        let end = self.attend(&events).await;
        let end = self.after_all(end);
        if let Ear::Request(asker, _) = &self.ear
            && end != End::Gone
        {
            events.send(sse::message(&answers::listened(&asker.id))).await;
        }
        let who = Who { identity: Some(&self.identity), ..Who::default() };
        let duration_us = u64::try_from(self.began.elapsed().as_micros()).ok();
        let ended = record::ListenEnd { who, reason: end.as_str(), told: self.told, duration_us };
        if !self.journal.note(self.record, &ended) {
            metrics().audit_failures.increment();
        }
    }

    /// Why it really ended, where that was a revocation: this ends sessions, too.
    fn after_all(&self, end: End) -> End {
        let revoked = end != End::Gone && self.ward.admit(What::Stream).is_err();
        if revoked { End::Revoked } else { end }
    }

    async fn attend(&mut self, events: &Queue) -> End {
        loop {
            if self.topics.is_empty() && self.ear.watched().is_empty() {
                return End::Nothing;
            }
            let until = self.until();
            tokio::select! {
                biased;
                end = ended(events, until, &mut self.ear) => return end,
                // The hub lives as long as the gateway. What is new is looked at when it is told.
                _changed = self.news.changed() => self.news.mark_changed(),
                () = self.sink.filled() => {}
            }
            if !self.news.borrow().draining {
                // What comes in a burst is told once; and what a session waits for, on the newest of its streams.
                tokio::select! {
                    biased;
                    end = ended(events, until, &mut self.ear) => return end,
                    () = sleep(COALESCE) => {}
                }
            }
            if let Some(end) = self.tell(events).await {
                return end;
            }
        }
    }

    /// Until when somebody may listen, to everything that they listen to.
    fn until(&self) -> Instant {
        let now = (clock::instant(), clock::now());
        let tasks = self.ear.watched().iter().filter_map(|one| one.wish().task.as_ref());
        tasks.map(|task| after(now.0, task.until.since(now.1))).fold(self.until, Instant::min)
    }

    /// Tells what there is to tell, by the rules of now; says whether that was the end.
    async fn tell(&mut self, events: &Queue) -> Option<End> {
        let changed = self.news.has_changed().unwrap_or(true);
        let news = Arc::clone(&self.news.borrow_and_update());
        if news.draining {
            return Some(End::Drained);
        }
        let (estate, now) = (self.estate.load_full(), clock::now());
        if !self.is_admitted(&estate) || self.ward.look().is_err() {
            return Some(End::Withdrawn);
        }
        let mut messages = Vec::new();
        let seen = if changed { View::of(&estate, &news, (&self.identity, &self.endpoint), now) } else { self.seen };
        for topic in seen.differs(&self.seen).and(self.topics).iter() {
            messages.push(self.ear.event(|listener| answers::changed(topic, listener)));
        }
        let waiting = self.sink.take();
        for (uri, (upstream, own)) in waiting.changes {
            if may_be_told(&estate, &self.identity, (&upstream, &Subject::Resource(own)), now).is_ok() {
                messages.push(self.ear.event(|listener| answers::updated(&uri, listener)));
            }
        }
        for (number, state) in waiting.states {
            messages.extend(self.state(&estate, (number, &state), now));
            if state.has_ended() {
                self.ear.is_told(number);
            }
        }
        for message in messages {
            // Whoever does not read holds up nobody else: the news wait for them, and are one when they come.
            tokio::select! {
                biased;
                sent = events.send(message) => if !sent { return Some(End::Gone) },
                () = over(&mut self.ear) => return Some(End::Over),
            }
            self.told = self.told.saturating_add(1);
        }
        let withdrawn = changed && self.is_withdrawn(estate, &seen, now);
        self.seen = seen;
        (withdrawn || (waiting.broken && matches!(self.ear, Ear::Request(..)))).then_some(End::Withdrawn)
    }

    /// How a task stands, for this listener, where that may be told: what it asks is recorded, as where the client asks
    /// about it. What may not be told here the client hears when it asks.
    fn state(&self, estate: &Estate, (number, state): (u64, &State), now: Timestamp) -> Option<Bytes> {
        let Ear::Request(asker, watched) = &self.ear else { return None };
        let subscription = watched.iter().find(|one| one.number() == number)?;
        let wish = subscription.wish();
        let task = wish.task.as_ref()?;
        let known = Known { id: &task.id, shown: &wish.exposed, life_ms: task.life_ms };
        let told = may_be_told(estate, &self.identity, (&wish.upstream, &wish.subject), now).and_then(|()| {
            let told = inspect::tasks::told(asker, (wish.declared, wish.prefix.as_deref()), &known, state);
            let (message, asks) = told?;
            if !asks.is_empty() {
                let asks = asks.iter().map(|(key, ask)| (key.as_str(), ask));
                local::record_asked(&self.journal, subscription.record(), (&wish.upstream, task.call), asks)?;
            }
            Ok(message)
        });
        match told {
            Ok(message) => Some(sse::message(&message)),
            Err(refusal) => {
                dropped(&wish.upstream, refusal.code());
                None
            }
        }
    }

    /// Whether a request with this credential would still be let in at this endpoint, as far as the configuration says.
    fn is_admitted(&self, estate: &Estate) -> bool {
        estate.audiences(&self.endpoint).is_some() && estate.identity.leeway(&self.identity).is_some()
    }

    /// Whether other rules than before leave nothing to be seen, or take away what is subscribed to. A list that is
    /// empty because its upstream emptied it is only a list that has changed.
    fn is_withdrawn(&mut self, estate: Arc<Estate>, seen: &View, now: Timestamp) -> bool {
        let policy_set = Arc::clone(estate.rules.load().policies.digest());
        let same = policy_set == self.judged_by.0 && Arc::ptr_eq(&estate, &self.judged_by.1);
        let may = |one: &Subscription| {
            let wish = one.wish();
            may_be_told(&estate, &self.identity, (&wish.upstream, &wish.subject), now).is_ok()
        };
        let taken = !same && !self.ear.watched().iter().all(may);
        self.judged_by = (policy_set, estate);
        taken || (!same && self.seen.any && !seen.any)
    }
}

impl Ear {
    fn event(&mut self, message: impl FnOnce(Option<&RequestId>) -> Vec<u8>) -> Bytes {
        match self {
            Self::Request(asker, _) => sse::message(&message(Some(&asker.id))),
            Self::Stream(turn) => sse::with_id(&turn.next_id(), &sse::message(&message(None))),
        }
    }

    /// What this listener subscribed to by itself; what a session did is the session's.
    fn watched(&self) -> &[Subscription] {
        match self {
            Self::Request(_, watched) => watched,
            Self::Stream(_) => &[],
        }
    }

    /// There is nothing more to tell of this.
    fn is_told(&mut self, number: u64) {
        if let Self::Request(_, watched) = self {
            watched.retain(|one| one.number() != number);
        }
    }
}

/// Returns when there is nobody left to be told.
async fn ended(events: &Queue, until: Instant, ear: &mut Ear) -> End {
    tokio::select! {
        () = events.closed() => End::Gone,
        () = sleep_until(until.into()) => End::Expired,
        () = over(ear) => End::Over,
    }
}

/// Returns when a stream's turn is over; a request's never is.
async fn over(ear: &mut Ear) {
    match ear {
        Ear::Request(..) => std::future::pending().await,
        Ear::Stream(turn) => turn.over().await,
    }
}

fn after(start: Instant, span: Duration) -> Instant {
    start.checked_add(span).unwrap_or(start)
}

fn acknowledged(listener: &RequestId, topics: Topics, watched: &[Subscription]) -> Bytes {
    let (tasks, uris): (Vec<_>, Vec<_>) = watched.iter().map(Subscription::wish).partition(|wish| wish.task.is_some());
    let [uris, tasks] = [uris, tasks].map(|all| all.into_iter().map(|wish| wish.exposed.as_str()).collect::<Vec<_>>());
    sse::message(&answers::acknowledged(listener, topics, (&uris, &tasks)))
}

/// Changes within so long are told as one (spec §3.7).
const COALESCE: Duration = Duration::from_millis(300);
