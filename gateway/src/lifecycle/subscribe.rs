//! How does somebody come to be told of a single resource?
//!
//! Each resource passes every stage that a call does, from who asks to the durable record; then one task an upstream and
//! principal keeps the conversation in which the upstream tells of them, for as long as anybody wants that. What is told
//! goes to the listeners' sinks; `listen` takes it from there.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use tokio::{
    sync::watch,
    time::{sleep, sleep_until},
};

use super::{
    Asking, Estate, Gateway, Response, hub::News, local::record_mint, refresh::jittered, respond, trail::Trail,
};
use crate::{
    audit::{
        journal::{self, Journal},
        record::{self, Who},
    },
    bridge::{Sink, Subject, Subscription, Subscriptions, Watching},
    catalog::{Definition, Kind},
    clock::{self, Timestamp},
    config::UpstreamId,
    exchange::Grant,
    identity::Identity,
    refusal::Refusal,
    tasks,
    telemetry::metrics::metrics,
    upstream::{Peer, Wanted, Watch},
};

impl Gateway {
    /// `resources/subscribe` of a legacy client: told on the stream of its session (spec §2.2).
    pub(super) async fn subscribe(&self, asking: &Asking<'_>, trail: &mut Trail) -> Result<Response, Refusal> {
        let Asking { call, session, .. } = asking;
        let session = session.as_ref().ok_or(Refusal::SessionMissing)?;
        let (Some(uri), Some(id)) = (call.uri(), call.id()) else {
            return Err(Refusal::Bug("a subscription without its resource"));
        };
        if !session.is_subscribed(&uri)? {
            let mut subscription = Box::pin(self.watch(asking, trail, &uri, session.sink())).await?;
            if let Err(refusal) = subscription.settled(SETTLED_MAX).await {
                // The intent is written, and the subscription's end is its outcome.
                trail.measure(refusal.code(), None);
                return Ok(respond::refusal(Some(id), call.era(), &refusal, None));
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

    /// All of `uris` that the caller may be told of, and that their upstreams tell of: the others are left out of the
    /// acknowledgement, and written down (RS-33, spec §3.7).
    pub(super) async fn watch_all(
        &self,
        asking: &Asking<'_>,
        trail: &mut Trail,
        uris: BTreeSet<String>,
        sink: &Arc<Sink>,
    ) -> Vec<(String, Subscription)> {
        let own = trail.id;
        let mut watched = Vec::with_capacity(uris.len());
        for uri in uris {
            trail.id = journal::new_id();
            match Box::pin(self.watch(asking, trail, &uri, sink)).await {
                Ok(subscription) => watched.push((uri, subscription)),
                Err(refusal) => trail.note_refused(&self.journal, &refusal, &refusal.outside(asking.call.era())),
            }
        }
        (trail.id, trail.target, trail.verdict) = (own, None, None);
        let until = clock::instant().checked_add(ACKNOWLEDGED_MAX);
        let mut honoured = Vec::with_capacity(watched.len());
        for (uri, mut subscription) in watched {
            let left = until.map_or(Duration::ZERO, |until| until.saturating_duration_since(clock::instant()));
            if subscription.settled(left).await.is_ok() {
                honoured.push((uri, subscription));
            }
        }
        honoured
    }

    /// One resource, from who asks to the wish to be told of it.
    async fn watch(
        &self,
        asking: &Asking<'_>,
        trail: &mut Trail,
        uri: &str,
        sink: &Arc<Sink>,
    ) -> Result<Subscription, Refusal> {
        let Asking { estate, caller, call, .. } = asking;
        let (identity, now, rules) = (caller.identity(), trail.now, estate.rules.load());
        trail.policy_set = Some(Arc::clone(rules.policies.digest()));
        // It may go up in a conversation that was begun under another token of the same person.
        if identity.credential.tripwire().trips_on(uri.as_bytes()) {
            metrics().tripwire.increment();
            return Err(Refusal::CredentialLeak);
        }

        let catalogue = estate.catalogue.load_full();
        let found = catalogue.resource(&estate.config.upstreams, &trail.endpoint, Kind::Subscription, uri)?;
        let definition = trail.aim(found).definition;
        let permit = trail.judge(rules.policies.decide(identity, &definition, None, now))?;
        let offer = catalogue.listing(&definition.upstream).and_then(|listing| listing.offer.as_ref());
        if !offer.is_some_and(|offer| offer.subscribe) {
            return Err(Refusal::MethodUnknown);
        }
        let admission = rules.ceilings.admit(permit, identity, &definition, now)?;
        let peer = estate.upstreams.peer(&definition.upstream).ok_or(Refusal::Bug("a resource of no upstream"))?;
        let grant = estate.exchange.mint(identity, peer.settings(), &definition.mints, now).await?;
        let receipt = self.record(estate, trail, (admission, &grant), (call, None)).await?; // durable, or we stop here
        let subject = Subject {
            upstream: definition.upstream.clone(),
            uri: definition.name.clone(),
            mints: definition.mints.clone(),
            prefix: catalogue.uri_prefix(&trail.endpoint, &definition.upstream).map(str::to_owned),
            sink: Arc::clone(sink),
        };
        let records = (&self.journal, call.era(), trail.began);
        let (subscription, begun) = self.subscriptions.want(subject, identity, receipt, records);
        if let Some(watching) = begun {
            let keeper = Keeper {
                estate: Arc::clone(&self.estate),
                subscriptions: Arc::clone(&self.subscriptions),
                journal: Arc::clone(&self.journal),
                news: self.hub.listen(),
                watching,
            };
            tasks::background(keeper.keep());
        }
        Ok(subscription)
    }
}

/// Whether `identity` may be told of a resource, by the rules of now.
pub(super) fn may_watch(
    estate: &Estate,
    identity: &Identity,
    (upstream, uri): (&UpstreamId, &str),
    now: Timestamp,
) -> Result<(), Refusal> {
    let upstream = estate.config.upstreams.get(upstream).ok_or(Refusal::RouteUnknown)?;
    let definition = Definition::resource(upstream, Kind::Subscription, uri)
        .map_err(|_fault| Refusal::ResourceUnknown(format!("{uri}: cannot be judged")))?;
    estate.rules.load().policies.decide(identity, &definition, None, now)?;
    Ok(())
}

/// What keeps one conversation with an upstream.
struct Keeper {
    estate: Arc<ArcSwap<Estate>>,
    subscriptions: Arc<Subscriptions>,
    journal: Arc<Journal>,
    /// Other rules may be in force.
    news: watch::Receiver<Arc<News>>,
    watching: Arc<Watching>,
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
        while !self.subscriptions.is_over(&self.watching) {
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
                    let upstream = self.watching.upstream();
                    tracing::debug!(%upstream, why = %refusal.inside(), "resources cannot be watched");
                    failures.saturating_add(1)
                }
            };
            let wait = AGAIN_FIRST.saturating_mul(2_u32.saturating_pow(failures.min(AGAIN_DOUBLINGS_MAX)));
            tokio::select! {
                () = sleep(jittered(wait)) => {}
                // Whoever has just come need not wait for those who have been refused.
                () = self.watching.changed() => sleep(AGAIN_LEAST).await,
            }
        }
    }

    /// One conversation from its beginning to its end; after a gap everything may have changed, and is said to have.
    async fn attend(&mut self, estate: &Estate, gap: bool) -> Result<Ended, Refusal> {
        let watching = Arc::clone(&self.watching);
        let identity = watching.identity();
        self.news.mark_unchanged();
        let (mut wanted, mints) = judged(estate, &watching, &identity);
        let left = identity.authentication.expires_at.since(clock::now());
        if left.is_zero() || wanted.is_empty() {
            // Until somebody comes with a newer credential, other rules let them, or nobody wants it.
            self.otherwise().await;
            return Ok(Ended::Unwanted);
        }
        let start = clock::instant();
        let expired: Instant = start.checked_add(left).unwrap_or(start);
        let peer = estate.upstreams.peer(watching.upstream()).ok_or(Refusal::RouteUnknown)?;
        let mut watch = match self.open(estate, peer, (&identity, &mints), &wanted).await {
            Ok(watch) => watch,
            Err(refusal) => {
                watching.fail(&wanted, &refusal);
                return Err(refusal);
            }
        };
        watching.settle(&wanted, |uri| watch.honours(uri));
        for wanted in wanted.iter().filter(|_| gap) {
            watching.updated(&wanted.uri);
        }
        loop {
            tokio::select! {
                told = peer.told(&mut watch) => match told {
                    Some(uri) => {
                        watching.updated(&uri);
                        continue;
                    }
                    None => return Ok(Ended::Broken),
                },
                () = sleep_until(expired.into()) => break,
                () = self.otherwise() => {}
            }
            let (now_wanted, mints) = judged(estate, &watching, &identity);
            if now_wanted.is_empty() {
                break;
            }
            if now_wanted.iter().map(|wanted| &wanted.uri).eq(wanted.iter().map(|wanted| &wanted.uri)) {
                watching.settle(&now_wanted, |uri| watch.honours(uri));
                continue;
            }
            wanted = now_wanted;
            match self.change(estate, peer, (&identity, &mints), (&mut watch, &wanted)).await {
                Ok(heard) => {
                    watching.settle(&wanted, |uri| watch.honours(uri));
                    heard.iter().for_each(|uri| watching.updated(uri));
                }
                Err(refusal) => watching.fail(&wanted, &refusal),
            }
        }
        peer.unwatch(watch, &identity).await;
        Ok(Ended::Unwanted)
    }

    /// Returns when something else may be wanted, or allowed, or in another name.
    async fn otherwise(&mut self) {
        tokio::select! {
            () = self.watching.changed() => {}
            // The hub lives as long as the gateway.
            _changed = self.news.changed() => {}
        }
    }

    async fn open(
        &self,
        estate: &Estate,
        peer: &Peer,
        (identity, mints): (&Identity, &[String]),
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
        (identity, mints): (&Identity, &[String]),
        (watch, wanted): (&mut Watch, &[Wanted]),
    ) -> Result<Vec<String>, Refusal> {
        let grant = self.mint(estate, peer, identity, mints).await?;
        Box::pin(peer.rewatch(watch, grant, identity, wanted)).await
    }

    async fn mint(
        &self,
        estate: &Estate,
        peer: &Peer,
        identity: &Identity,
        mints: &[String],
    ) -> Result<Arc<Grant>, Refusal> {
        let grant = estate.exchange.mint(identity, peer.settings(), mints, clock::now()).await?;
        let (who, request) = (Who { identity: Some(identity), ..Who::default() }, record::Request::default());
        record_mint(&self.journal, &grant, peer.settings().id.as_str(), (who, request));
        Ok(Arc::new(grant))
    }
}

/// What is wanted and may be asked for in this name, by the rules of now, and the scopes that this takes.
fn judged(estate: &Estate, watching: &Watching, identity: &Identity) -> (Vec<Wanted>, Vec<String>) {
    let now = clock::now();
    if estate.revocations.admit(identity).is_err() {
        return (Vec::new(), Vec::new()); // who wanted it ends by itself
    }
    watching.wanted(|uri| may_watch(estate, identity, (watching.upstream(), uri), now))
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
