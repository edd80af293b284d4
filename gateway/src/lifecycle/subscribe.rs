//! How does somebody come to be told of a single resource, or of a task?
//!
//! Each passes every stage that a call does, from who asks to the durable record; then one loop an upstream and principal
//! keeps the conversation in which the upstream tells of them, for as long as anybody wants that. What is told goes to the
//! listeners' sinks; `listen` takes it from there.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use tokio::{
    sync::watch,
    time::{sleep, sleep_until},
};

use super::{Asking, Estate, Gateway, Response, hub::News, local::arguments, respond, trail::Trail, witness::Cause};
use crate::{
    audit::journal::{self, Journal},
    bridge::{Group, Sink, Subscription, Subscriptions, Wish},
    catalog::{Definition, Kind, Target},
    clock::{self, Timestamp},
    config::UpstreamId,
    exchange::Grant,
    identity::Identity,
    random::jittered,
    refusal::Refusal,
    rpc::{Capabilities, Filter},
    tasks,
    telemetry::metrics::metrics,
    upstream::{Peer, Subject, Told, Wanted, Watch},
};

/// What somebody wants to be told of, by the name that they know.
#[derive(Debug, Clone, Copy)]
enum Sought<'a> {
    Resource(&'a str),
    Task(&'a str),
}

impl Gateway {
    /// `resources/subscribe` of a legacy client: told on the stream of its session (spec §2.2).
    pub(super) async fn subscribe(&self, asking: &Asking<'_>, trail: &mut Trail) -> Result<Response, Refusal> {
        let Asking { call, session, .. } = asking;
        let session = session.as_ref().ok_or(Refusal::SessionMissing)?;
        let (Some(uri), Some(id)) = (call.uri(), call.id()) else {
            return Err(Refusal::Bug("a subscription without its resource"));
        };
        if !session.is_subscribed(&uri)? {
            let sought = Sought::Resource(&uri);
            let mut subscription = Box::pin(self.watch(asking, trail, sought, session.sink())).await?;
            if let Err(refusal) = subscription.settled(SETTLED_MAX).await {
                // The intent is written, and the subscription's end is its outcome.
                trail.measure(refusal.code(), None);
                return Ok(respond::refusal(Some(id), call.era(), &refusal.outside(call.era()), None));
            }
            session.subscribe(uri.into_owned(), subscription);
        }
        trail.measure("", None);
        respond::pong(call)
    }

    /// `resources/unsubscribe`: what was not watched is not watched either way.
    pub(super) fn unsubscribe(asking: &Asking<'_>, trail: &Trail) -> Result<Response, Refusal> {
        if let (Some(session), Some(uri)) = (&asking.session, asking.call.uri()) {
            session.unsubscribe(&uri);
        }
        trail.measure("", None);
        respond::pong(&asking.call)
    }

    /// All that the caller may be told of, of what `filter` names, and that the upstreams tell of: the others are left out
    /// of the acknowledgement, and written down (RS-33, RS-37, spec §3.7).
    pub(super) async fn watch_all(
        &self,
        asking: &Asking<'_>,
        trail: &mut Trail,
        filter: &Filter,
        sink: &Arc<Sink>,
    ) -> Vec<Subscription> {
        let own = trail.id;
        let uris = filter.uris.iter().map(|uri| Sought::Resource(uri));
        let mut watched = Vec::new();
        for sought in uris.chain(filter.tasks.iter().map(|id| Sought::Task(id))) {
            trail.id = journal::new_id();
            match Box::pin(self.watch(asking, trail, sought, sink)).await {
                Ok(subscription) => watched.push(subscription),
                Err(refusal) => trail.note_refused(&self.journal, &refusal, &refusal.outside(asking.call.era())),
            }
            (trail.target, trail.verdict) = (None, None);
        }
        trail.id = own;
        let until = clock::instant().checked_add(ACKNOWLEDGED_MAX);
        let mut honoured = Vec::with_capacity(watched.len());
        for mut subscription in watched {
            let left = until.map_or(Duration::ZERO, |until| until.saturating_duration_since(clock::instant()));
            if subscription.settled(left).await.is_ok() {
                honoured.push(subscription);
            }
        }
        honoured
    }

    /// One subject, from who asks to the wish to be told of it.
    async fn watch(
        &self,
        asking: &Asking<'_>,
        trail: &mut Trail,
        sought: Sought<'_>,
        sink: &Arc<Sink>,
    ) -> Result<Subscription, Refusal> {
        let Asking { estate, caller, call, .. } = asking;
        let (identity, now, rules) = (caller.identity(), trail.now, estate.rules.load());
        trail.policy_set = Some(Arc::clone(rules.policies.digest()));
        let (Sought::Resource(exposed) | Sought::Task(exposed)) = sought;
        // It may go up in a conversation that was begun under another token of the same person.
        if identity.credential.tripwire().trips_on(exposed.as_bytes()) {
            metrics().tripwire.increment();
            return Err(Refusal::CredentialLeak);
        }

        let catalogue = estate.catalogue.load_full();
        let target = trail.aim(match sought {
            Sought::Resource(uri) => {
                catalogue.resource(&estate.config.upstreams, &trail.endpoint, Kind::Subscription, uri)?
            }
            Sought::Task(id) => asking.following(self, id, trail)?,
        });
        let (definition, task) = (&target.definition, target.task.clone());
        let judged = match &task {
            Some(_) => rules.policies.follow(identity, definition, now),
            None => rules.policies.decide(identity, definition, None, now),
        };
        let permit = trail.judge(judged, arguments(estate, call))?;
        let offer = catalogue.listing(&definition.upstream).and_then(|listing| listing.offer.as_ref());
        if !offer.is_some_and(|offer| if task.is_some() { offer.tasks } else { offer.subscribe }) {
            return Err(Refusal::MethodUnknown);
        }
        let admission = rules.ceilings.admit(permit, identity, definition, now)?;
        let peer = estate.upstreams.peer(&definition.upstream).ok_or(Refusal::Bug("a subject of no upstream"))?;
        let declared = if task.is_some() { asking.capabilities(&target)? } else { Capabilities::NONE };
        let summons = || trail.cause().witness(&self.journal, &definition.upstream);
        let grant = estate.exchange.mint((identity, &summons), peer.settings(), &definition.mints, now).await?;
        let continues = task.as_ref().map(|task| task.call);
        let receipt = self.record(estate, trail, (admission, &grant), (call, continues)).await?; // durable, or we stop here
        let wish = Wish {
            upstream: definition.upstream.clone(),
            subject: subject(&target),
            exposed: exposed.to_owned(),
            task,
            declared,
            mints: definition.mints.clone(),
            prefix: catalogue.uri_prefix(&trail.endpoint, &definition.upstream).map(str::to_owned),
            sink: Arc::clone(sink),
        };
        let records = (&self.journal, call.era(), trail.began);
        let (subscription, begun) = self.subscriptions.subscribe(wish, identity, receipt, records);
        if let Some(group) = begun {
            let keeper = Keeper {
                estate: Arc::clone(&self.estate),
                subscriptions: Arc::clone(&self.subscriptions),
                journal: Arc::clone(&self.journal),
                news: self.hub.listen(),
                group,
            };
            tasks::background(keeper.keep());
        }
        Ok(subscription)
    }
}

fn subject(target: &Target) -> Subject {
    let name = target.definition.name.clone();
    match &target.task {
        Some(task) => Subject::Task { id: task.id.clone(), tool: name },
        None => Subject::Resource(name),
    }
}

/// Whether `identity` may be told of `subject`, by the rules of now.
pub(super) fn may_be_told(
    estate: &Estate,
    identity: &Identity,
    (upstream, subject): (&UpstreamId, &Subject),
    now: Timestamp,
) -> Result<(), Refusal> {
    let rules = estate.rules.load();
    match subject {
        Subject::Resource(uri) => {
            let upstream = estate.config.upstreams.get(upstream).ok_or(Refusal::RouteUnknown)?;
            let definition = Definition::resource(upstream, Kind::Subscription, uri)
                .map_err(|_fault| Refusal::ResourceUnknown(format!("{uri}: cannot be judged")))?;
            rules.policies.decide(identity, &definition, None, now)?;
        }
        Subject::Task { tool, .. } => {
            let catalogue = estate.catalogue.load();
            let listed = catalogue.listing(upstream).into_iter().flat_map(|listing| &listing.tools);
            let definition = listed.into_iter().find(|definition| definition.name == *tool);
            let definition = definition.ok_or(Refusal::TaskUnknown("one of a tool that is not listed"))?;
            rules.policies.follow(identity, definition, now)?;
        }
    }
    Ok(())
}

/// What keeps one conversation with an upstream.
struct Keeper {
    estate: Arc<ArcSwap<Estate>>,
    subscriptions: Arc<Subscriptions>,
    journal: Arc<Journal>,
    /// Other rules may be in force.
    news: watch::Receiver<Arc<News>>,
    group: Arc<Group>,
}

/// How a conversation ended.
enum Ended {
    /// Nobody wants it, or nobody can ask for it any more.
    Unwanted,
    /// The upstream ended it.
    Broken,
}

impl Keeper {
    /// Keeps it for as long as anybody wants to hear of what is said in it.
    async fn keep(mut self) {
        let (mut failures, mut gap) = (0_u32, false);
        while !self.subscriptions.is_over(&self.group) {
            let (estate, began) = (self.estate.load_full(), clock::instant());
            let told = tokio::select! {
                // The next one may have the upstream elsewhere, or not at all.
                () = estate.retired() => Ok(Ended::Broken),
                told = Box::pin(self.attend(&estate, gap)) => told,
            };
            gap = true;
            failures = match told {
                Ok(Ended::Unwanted) => continue,
                Ok(Ended::Broken) if began.elapsed() >= LASTING => 0,
                Ok(Ended::Broken) => failures.saturating_add(1),
                Err(refusal) => {
                    let upstream = self.group.upstream();
                    tracing::debug!(%upstream, why = %refusal.inside(), "what is wanted is not told");
                    failures.saturating_add(1)
                }
            };
            let wait = AGAIN_FIRST.saturating_mul(2_u32.saturating_pow(failures.min(AGAIN_DOUBLINGS_MAX)));
            tokio::select! {
                () = sleep(jittered(wait)) => {}
                // Whoever has just come need not wait for those who have been refused.
                () = self.group.changed() => sleep(AGAIN_LEAST).await,
            }
        }
    }

    /// One conversation from its beginning to its end; after a gap every resource may have changed, and is said to have, and
    /// every task is asked about.
    async fn attend(&mut self, estate: &Estate, gap: bool) -> Result<Ended, Refusal> {
        let group = Arc::clone(&self.group);
        self.news.mark_unchanged();
        let now = clock::now();
        let identity = group.identity(|identity| {
            identity.authentication.expires_at > now && estate.revocations.admit(identity).is_ok()
        });
        let (mut wanted, mints) = judged(estate, &group, &identity);
        let left = identity.authentication.expires_at.since(clock::now());
        if left.is_zero() || wanted.is_empty() {
            // Until somebody comes with a newer credential, other rules let them, or nobody wants it.
            self.otherwise().await;
            return Ok(Ended::Unwanted);
        }
        let start = clock::instant();
        let expired: Instant = start.checked_add(left).unwrap_or(start);
        let peer = estate.upstreams.peer(group.upstream()).ok_or(Refusal::RouteUnknown)?;
        let mut watch = match self.open(estate, peer, (&identity, &mints), &wanted).await {
            Ok(watch) => watch,
            Err(refusal) => {
                group.fail(&wanted, &refusal);
                return Err(refusal);
            }
        };
        group.settle(&wanted, |subject| watch.honours(subject));
        for wanted in wanted.iter().filter(|wanted| gap && watch.honours(&wanted.subject)) {
            match peer.missed(&watch, &identity, wanted).await? {
                Some(told) => self.told(told),
                None => group.lose(&wanted.subject),
            }
        }
        loop {
            tokio::select! {
                told = peer.told(&mut watch) => match told {
                    Some(told) => {
                        self.told(told);
                        continue;
                    }
                    None => return Ok(Ended::Broken),
                },
                () = sleep_until(expired.into()) => break,
                () = self.otherwise() => {}
            }
            let (now_wanted, mints) = judged(estate, &group, &identity);
            if now_wanted.is_empty() {
                break;
            }
            if now_wanted.len() == wanted.len() && now_wanted.iter().zip(&wanted).all(|(now, then)| now.asks_as(then)) {
                group.settle(&now_wanted, |subject| watch.honours(subject));
                continue;
            }
            wanted = now_wanted;
            match self.change(estate, peer, (&identity, &mints), (&mut watch, &wanted)).await {
                Ok(heard) => {
                    // What was said last first: a task that has ended is not one that the upstream will not tell of.
                    heard.into_iter().for_each(|told| self.told(told));
                    group.settle(&wanted, |subject| watch.honours(subject));
                }
                Err(refusal) => group.fail(&wanted, &refusal),
            }
        }
        peer.unwatch(watch, &identity).await;
        Ok(Ended::Unwanted)
    }

    fn told(&self, told: Told) {
        if self.group.told(told).is_err() {
            dropped(self.group.upstream(), "malformed");
        }
    }

    /// Returns when something else may be wanted, or allowed, or in another name.
    async fn otherwise(&mut self) {
        tokio::select! {
            () = self.group.changed() => {}
            // The hub lives as long as the gateway.
            _changed = self.news.changed() => {}
        }
    }

    async fn open(
        &self,
        estate: &Estate,
        peer: &Peer,
        (identity, mints): (&Arc<Identity>, &[String]),
        wanted: &[Wanted],
    ) -> Result<Watch, Refusal> {
        let grant = self.mint(estate, peer, identity, mints).await?;
        let key = grant.key();
        let watch = Box::pin(peer.watch(grant, identity, wanted)).await;
        if matches!(watch, Err(Refusal::UpstreamUnauthorized)) {
            estate.exchange.drop_grant(&key);
        }
        watch
    }

    async fn change(
        &self,
        estate: &Estate,
        peer: &Peer,
        (identity, mints): (&Arc<Identity>, &[String]),
        (watch, wanted): (&mut Watch, &[Wanted]),
    ) -> Result<Vec<Told>, Refusal> {
        let grant = self.mint(estate, peer, identity, mints).await?;
        Box::pin(peer.rewatch(watch, grant, identity, wanted)).await
    }

    async fn mint(
        &self,
        estate: &Estate,
        peer: &Peer,
        identity: &Arc<Identity>,
        mints: &[String],
    ) -> Result<Arc<Grant>, Refusal> {
        let cause = || Cause { identity: Some(Arc::clone(identity)), ..Cause::default() };
        let summons = || cause().witness(&self.journal, &peer.settings().id);
        estate.exchange.mint((identity, &summons), peer.settings(), mints, clock::now()).await.map(Arc::new)
    }
}

/// What is wanted and may be asked for in this name, by the rules of now, and the scopes that this takes.
fn judged(estate: &Estate, group: &Group, identity: &Identity) -> (Vec<Wanted>, Vec<String>) {
    let now = clock::now();
    if estate.revocations.admit(identity).is_err() {
        return (Vec::new(), Vec::new()); // who wanted it ends by itself, or another asks for it
    }
    group.wanted(|subject| may_be_told(estate, identity, (group.upstream(), subject), now))
}

/// Counts what an upstream told in vain.
pub(super) fn dropped(upstream: &UpstreamId, reason: &str) {
    metrics().upstream_dropped.with([upstream.as_str(), reason]).increment();
    tracing::debug!(%upstream, reason, "dropped what an upstream told");
}

/// A modern client waits no longer for its acknowledgement (spec §3.7).
const ACKNOWLEDGED_MAX: Duration = Duration::from_secs(2);

/// A legacy client waits no longer to be told that it is subscribed.
const SETTLED_MAX: Duration = Duration::from_secs(10);

/// A conversation that the upstream ends sooner has failed.
const LASTING: Duration = Duration::from_secs(30);

/// After the end of a conversation, before the next; doubled with each failure.
const AGAIN_FIRST: Duration = Duration::from_millis(500);

/// Up to 32 seconds.
const AGAIN_DOUBLINGS_MAX: u32 = 6;

/// Whoever comes, an upstream is not asked more often.
const AGAIN_LEAST: Duration = Duration::from_millis(100);
