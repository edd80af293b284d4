//! Of what does somebody want to be told by an upstream, and who?
//!
//! One conversation with an upstream serves all listeners of one principal, so what they want is gathered here by
//! upstream and principal, subject by subject, and what the upstream tells is handed to those who asked. It asks no
//! upstream.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    mem,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tokio::{
    sync::{Notify, watch},
    time::timeout,
};
use uuid::Uuid;

use crate::{
    audit::{
        journal::{Journal, Receipt},
        record::{Ending, Outcome},
    },
    catalog::Task,
    config::UpstreamId,
    identity::Identity,
    inspect::tasks::State,
    refusal::{Era, Refusal},
    rpc::{Capabilities, uris},
    state::Taken,
    telemetry::metrics,
    upstream::{Subject, Told, Wanted},
};

/// Everything of which somebody wants to be told.
#[derive(Debug, Default)]
pub struct Subscriptions {
    groups: Mutex<HashMap<Key, Arc<Group>>>,
    numbers: AtomicU64,
}

/// Between whom a conversation is held.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    upstream: UpstreamId,
    principal: [u8; 32],
}

/// The subscriptions of one principal at one upstream: they share a conversation.
#[derive(Debug)]
pub struct Group {
    key: Key,
    /// In whose name the upstream is asked: of those who want something, whose credential lasts longest.
    identity: Mutex<Arc<Identity>>,
    subscribed: Mutex<BTreeMap<Subject, Subscribed>>,
    changed: Notify,
}

/// One subject, and who wants to be told of it.
#[derive(Debug)]
struct Subscribed {
    standing: watch::Sender<Standing>,
    mints: Vec<String>,
    by: Vec<Subscriber>,
}

#[derive(Debug)]
struct Subscriber {
    number: u64,
    identity: Arc<Identity>,
    sink: Arc<Sink>,
    prefix: Option<String>,
    declared: Capabilities,
    receipt: Arc<Receipt>,
}

/// Whether the upstream will tell.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Standing {
    Open,
    Honoured,
    Refused(Refusal),
}

/// One listener's wish to be told of one subject, granted. The upstream is asked for as long as somebody holds one.
#[derive(Debug)]
pub struct Subscription {
    group: Arc<Group>,
    wish: Wish,
    number: u64,
    standing: watch::Receiver<Standing>,
    refused: Option<Refusal>,
    /// What it takes of the calls at the same time, until it is made.
    slots: Taken,
    receipt: Arc<Receipt>,
    journal: Arc<Journal>,
    era: Era,
    began: Instant,
}

/// Of what somebody wants to be told.
#[derive(Debug)]
pub struct Wish {
    /// Who tells of it.
    pub upstream: UpstreamId,
    /// What they call it.
    pub subject: Subject,
    /// What the listener calls it.
    pub exposed: String,
    /// The task, where it is one.
    pub task: Option<Arc<Task>>,
    /// What the listener's client can be asked.
    pub declared: Capabilities,
    /// The scopes that the credential needs.
    pub mints: Vec<String>,
    /// The upstream's id, where it stands before the URIs that this listener knows.
    pub prefix: Option<String>,
    /// Where it is told.
    pub sink: Arc<Sink>,
}

impl Subscriptions {
    /// Adds a wish. Where it is the first of its principal at its upstream, somebody has to begin to ask: then there is a
    /// second value.
    pub fn subscribe(
        &self,
        wish: Wish,
        identity: &Arc<Identity>,
        mut receipt: Receipt,
        (journal, era, began): (&Arc<Journal>, Era, Instant),
    ) -> (Subscription, Option<Arc<Group>>) {
        let key = Key { upstream: wish.upstream.clone(), principal: identity.principal };
        let slots = receipt.hand_over();
        let receipt = Arc::new(receipt);
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        let mut groups = self.groups.lock();
        let known = groups.get(&key).cloned();
        let group = known.clone().unwrap_or_else(|| {
            Arc::new(Group {
                key: key.clone(),
                identity: Mutex::new(Arc::clone(identity)),
                subscribed: Mutex::new(BTreeMap::new()),
                changed: Notify::new(),
            })
        });
        let standing = group.add(&wish, identity, (number, Arc::clone(&receipt)));
        groups.entry(key).or_insert_with(|| Arc::clone(&group));
        drop(groups);
        group.renew(identity, |_| true);
        let begun = known.is_none().then(|| Arc::clone(&group));
        let journal = Arc::clone(journal);
        let subscription =
            Subscription { group, wish, number, standing, refused: None, slots, receipt, journal, era, began };
        (subscription, begun)
    }

    /// Those in whose names upstreams are asked, as far as `gone` names them.
    pub fn principals(&self, gone: impl Fn(&Identity) -> bool) -> Vec<[u8; 32]> {
        let all = self.groups.lock();
        all.values().filter(|group| gone(&group.identity.lock())).map(|group| group.key.principal).collect()
    }

    /// The same caller has come with another credential: it takes the place of one that does not last as long, or that is
    /// not good any more.
    pub fn renew(&self, identity: &Arc<Identity>, is_good: impl Fn(&Identity) -> bool) {
        let groups = self.groups.lock();
        for group in groups.values().filter(|group| group.key.principal == identity.principal) {
            group.renew(identity, &is_good);
        }
    }

    /// Whether nobody wants anything of `group` any more; it is forgotten then, and whoever asked for it ends.
    pub fn is_over(&self, group: &Group) -> bool {
        let mut groups = self.groups.lock();
        let over = group.subscribed.lock().is_empty();
        if over {
            groups.remove(&group.key);
        }
        over
    }
}

impl Group {
    /// The upstream.
    #[must_use]
    pub fn upstream(&self) -> &UpstreamId {
        &self.key.upstream
    }

    fn add(
        &self,
        wish: &Wish,
        identity: &Arc<Identity>,
        (number, receipt): (u64, Arc<Receipt>),
    ) -> watch::Receiver<Standing> {
        let mut all = self.subscribed.lock();
        let subscribed = all.entry(wish.subject.clone()).or_insert_with(|| Subscribed {
            standing: watch::Sender::new(Standing::Open),
            mints: wish.mints.clone(),
            by: Vec::new(),
        });
        // What was refused before is asked once more.
        subscribed.standing.send_if_modified(|standing| {
            let again = matches!(standing, Standing::Refused(_));
            if again {
                *standing = Standing::Open;
            }
            again
        });
        let (identity, sink, prefix) = (Arc::clone(identity), Arc::clone(&wish.sink), wish.prefix.clone());
        subscribed.by.push(Subscriber { number, identity, sink, prefix, declared: wish.declared, receipt });
        let standing = subscribed.standing.subscribe();
        drop(all);
        self.changed.notify_one();
        standing
    }

    fn renew(&self, identity: &Arc<Identity>, is_good: impl Fn(&Identity) -> bool) {
        let mut known = self.identity.lock();
        if known.authentication.expires_at < identity.authentication.expires_at || !is_good(&known) {
            *known = Arc::clone(identity);
            self.changed.notify_one();
        }
    }

    /// In whose name the upstream is asked. Where that credential is not good any more, it is that of another who wants
    /// something, if there is one.
    #[must_use]
    pub fn identity(&self, is_good: impl Fn(&Identity) -> bool) -> Arc<Identity> {
        let mut known = self.identity.lock();
        if !is_good(&known) {
            let subscribed = self.subscribed.lock();
            let others = subscribed.values().flat_map(|subscribed| &subscribed.by).map(|by| &by.identity);
            let good = others.filter(|other| is_good(other));
            if let Some(longest) = good.max_by_key(|other| other.authentication.expires_at) {
                *known = Arc::clone(longest);
            }
        }
        Arc::clone(&known)
    }

    /// What is wanted now, as far as `judge` lets it be asked for, and the scopes that this takes.
    pub fn wanted(&self, judge: impl Fn(&Subject) -> Result<(), Refusal>) -> (Vec<Wanted>, Vec<String>) {
        let all = self.subscribed.lock();
        let (mut wanted, mut scopes) = (Vec::new(), BTreeSet::new());
        for (subject, subscribed) in all.iter() {
            let Some(by) = subscribed.by.first() else { continue };
            match judge(subject) {
                Ok(()) => {
                    let declared = subscribed.by.iter().fold(Capabilities::NONE, |all, by| all.and(by.declared));
                    wanted.push(Wanted::new(subject.clone(), declared, Arc::clone(&by.receipt)));
                    scopes.extend(subscribed.mints.iter().cloned());
                }
                Err(refusal) => subscribed.stand(Standing::Refused(refusal)),
            }
        }
        (wanted, scopes.into_iter().collect())
    }

    /// Returns when something else may be wanted, or in another name.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    /// The upstream said of which of `asked` it will tell; of the others it will not.
    pub fn settle(&self, asked: &[Wanted], honoured: impl Fn(&Subject) -> bool) {
        for Wanted { subject, .. } in asked {
            if honoured(subject) {
                self.stand(subject, Standing::Honoured);
            } else {
                self.lose(subject);
            }
        }
    }

    /// The upstream does not tell of `subject`.
    pub fn lose(&self, subject: &Subject) {
        self.stand(
            subject,
            Standing::Refused(match subject {
                Subject::Resource(uri) => Refusal::ResourceUnknown(format!("{uri}: the upstream does not tell of it")),
                Subject::Task { .. } => Refusal::TaskUnknown("one of which the upstream does not tell"),
            }),
        );
    }

    /// The upstream could not be asked: whoever still waits for its word need not wait any longer.
    pub fn fail(&self, asked: &[Wanted], refusal: &Refusal) {
        for asked in asked {
            let all = self.subscribed.lock();
            if let Some(subscribed) = all.get(&asked.subject)
                && *subscribed.standing.borrow() == Standing::Open
            {
                subscribed.stand(Standing::Refused(refusal.clone()));
            }
        }
    }

    fn stand(&self, subject: &Subject, standing: Standing) {
        if let Some(subscribed) = self.subscribed.lock().get(subject) {
            subscribed.stand(standing);
        }
    }

    /// The upstream told something.
    ///
    /// # Errors
    /// [`Refusal::UpstreamInvalid`] where that is not how a task can stand.
    pub fn told(&self, told: Told) -> Result<(), Refusal> {
        match told {
            Told::Updated(uri) => self.updated(&uri),
            Told::Task(task, version) => self.stands(State::read(task, version)?),
        }
        Ok(())
    }

    /// A resource has changed that somebody wants to be told of, or one below it (MCP server/resources, subscriptions).
    fn updated(&self, uri: &str) {
        for (subject, subscribed) in self.subscribed.lock().iter() {
            if let Subject::Resource(whole) = subject
                && (uri == whole || is_below(uri, whole))
            {
                subscribed.by.iter().for_each(|by| self.tell(by, uri, whole));
            }
        }
    }

    /// Parts of a resource are without number: where there is no room for one more of them, the whole has changed.
    fn tell(&self, by: &Subscriber, uri: &str, whole: &str) {
        let change = |uri: &str| {
            let exposed = by.prefix.as_deref().map_or_else(|| uri.to_owned(), |id| uris::outward(id, uri));
            (exposed, (self.key.upstream.clone(), uri.to_owned()))
        };
        if uri == whole || !by.sink.push_part(change(uri)) {
            by.sink.push(change(whole));
        }
    }

    /// A task stands thus. Of one that has ended the upstream is asked no more.
    fn stands(&self, state: State) {
        let mut all = self.subscribed.lock();
        let is_it = |subject: &&Subject| matches!(subject, Subject::Task { id, .. } if id == state.id());
        let Some(subject) = all.keys().find(is_it).cloned() else { return };
        let (has_ended, state) = (state.has_ended(), Arc::new(state.compact()));
        for by in all.get(&subject).into_iter().flat_map(|subscribed| &subscribed.by) {
            by.sink.push_state(by.number, Arc::clone(&state));
        }
        if has_ended {
            all.remove(&subject);
            drop(all);
            self.changed.notify_one();
        }
    }
}

impl Subscribed {
    /// Where the upstream's word is taken back, the listeners' acknowledgements are not true any more.
    fn stand(&self, standing: Standing) {
        let is_refused = matches!(standing, Standing::Refused(_));
        if self.standing.send_replace(standing) == Standing::Honoured && is_refused {
            self.by.iter().for_each(|by| by.sink.break_off());
        }
    }
}

/// Whether `uri` names a part of what `whole` names.
fn is_below(uri: &str, whole: &str) -> bool {
    let below = uri.strip_prefix(whole);
    below.is_some_and(|rest| whole.ends_with('/') || rest.starts_with(['/', '#', '?']))
}

impl Subscription {
    /// What it is a subscription to.
    #[must_use]
    pub const fn wish(&self) -> &Wish {
        &self.wish
    }

    /// Under which its tasks' states wait in the sink.
    #[must_use]
    pub const fn number(&self) -> u64 {
        self.number
    }

    /// The intent that it has in the journal.
    #[must_use]
    pub fn record(&self) -> Uuid {
        self.receipt.id()
    }

    /// Waits until the upstream has said whether it will tell. Then this is no call under way any more, and holds up none.
    ///
    /// # Errors
    /// That it will not, or did not say so within `limit`.
    pub async fn settled(&mut self, limit: Duration) -> Result<(), Refusal> {
        let said = timeout(limit, self.standing.wait_for(|standing| *standing != Standing::Open)).await;
        drop(mem::take(&mut self.slots));
        let standing = said.ok().and_then(Result::ok).map(|standing| standing.clone());
        let refusal = match standing {
            Some(Standing::Honoured) => return Ok(()),
            Some(Standing::Refused(refusal)) => refusal,
            Some(Standing::Open) | None => Refusal::UpstreamTimeout,
        };
        self.refused = Some(refusal.clone());
        Err(refusal)
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let mut all = self.group.subscribed.lock();
        if let Some(subscribed) = all.get_mut(&self.wish.subject) {
            subscribed.by.retain(|by| by.number != self.number);
            if subscribed.by.is_empty() {
                all.remove(&self.wish.subject);
            }
        }
        drop(all);
        self.group.changed.notify_one();
        let mut outcome = Outcome::new(if self.refused.is_some() { Ending::Failed } else { Ending::Ok });
        outcome.duration_us = u64::try_from(self.began.elapsed().as_micros()).ok();
        if let Some(refusal) = &self.refused {
            let outside = refusal.outside(self.era);
            outcome.rpc_code = Some(i64::from(outside.rpc));
            outcome.code = Some(outside.code);
        }
        if !self.journal.note(self.receipt.id(), &outcome) {
            metrics().audit_failures.increment();
        }
    }
}

/// Where what one listener subscribed to waits to be told: each resource once, however often it changes, and of each task
/// the latest state.
#[derive(Debug, Default)]
pub struct Sink {
    waiting: Mutex<Waiting>,
    filled: Notify,
}

/// What there is to tell.
#[derive(Debug, Default)]
pub struct Waiting {
    /// Resources that have changed: as the listener knows them, and whose they are and what they call them.
    pub changes: BTreeMap<String, (UpstreamId, String)>,
    /// How tasks stand, by the numbers of the subscriptions.
    pub states: BTreeMap<u64, Arc<State>>,
    /// Not all of what was acknowledged can be told of any more.
    pub broken: bool,
    bytes: usize,
}

impl Sink {
    /// A resource that was subscribed to has changed. There are only so many of them.
    fn push(&self, (exposed, own): (String, (UpstreamId, String))) {
        self.waiting.lock().changes.insert(exposed, own);
        self.filled.notify_one();
    }

    /// A part of one has changed, if there is room to say so.
    fn push_part(&self, (exposed, own): (String, (UpstreamId, String))) -> bool {
        let mut waiting = self.waiting.lock();
        if !waiting.changes.contains_key(&exposed) {
            let bytes = waiting.bytes.saturating_add(exposed.len()).saturating_add(own.1.len());
            if bytes > PARTS_BYTES_MAX {
                return false;
            }
            waiting.bytes = bytes;
            waiting.changes.insert(exposed, own);
        }
        drop(waiting);
        self.filled.notify_one();
        true
    }

    /// A task stands thus; how it stood before need not be told any more. One state always has room.
    fn push_state(&self, number: u64, state: Arc<State>) {
        let mut waiting = self.waiting.lock();
        waiting.states.insert(number, state);
        let bytes: usize = waiting.states.values().map(|state| state.bytes()).sum();
        if waiting.states.len() > 1 && bytes > STATES_BYTES_MAX {
            waiting.states.remove(&number);
            waiting.broken = true;
        }
        drop(waiting);
        self.filled.notify_one();
    }

    fn break_off(&self) {
        self.waiting.lock().broken = true;
        self.filled.notify_one();
    }

    /// Returns when there is something to tell.
    pub async fn filled(&self) {
        while self.waiting.lock().is_empty() {
            self.filled.notified().await;
        }
    }

    /// What there is to tell, which is told then.
    #[must_use]
    pub fn take(&self) -> Waiting {
        mem::take(&mut *self.waiting.lock())
    }
}

impl Waiting {
    fn is_empty(&self) -> bool {
        self.changes.is_empty() && self.states.is_empty() && !self.broken
    }
}

/// Bytes of the URIs of parts that wait for one listener.
const PARTS_BYTES_MAX: usize = 64 * 1024;

/// Bytes of the states of tasks that wait for one listener, where it is more than one.
const STATES_BYTES_MAX: usize = 4 * 1024 * 1024;

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;

    use super::{Sink, State, is_below};
    use crate::rpc::json::{Bounds, Document};

    #[test]
    fn the_latest_state_of_a_task_waits_and_not_without_end() {
        let bounds = Bounds { depth_max: 8, values_max: 100, name_bytes_max: 100, number_chars_max: 100 };
        let state = |mib: usize| {
            let words = "x".repeat(mib * 1024 * 1024);
            let text = format!(r#"{{"taskId":"t","status":"working","statusMessage":"{words}"}}"#);
            let document = Document::parse(Bytes::from(text), &bounds).unwrap();
            Arc::new(State::read(document, "2026-07-28").unwrap().compact())
        };
        let sink = Sink::default();
        for _ in 0..3 {
            sink.push_state(1, state(5));
        }
        let waiting = sink.take();
        assert_eq!((waiting.states.len(), waiting.broken), (1, false), "one always has room, and it is the latest");
        for number in 0..4 {
            sink.push_state(number, state(1));
        }
        let waiting = sink.take();
        assert_eq!((waiting.states.len(), waiting.broken), (3, true), "whoever listens has to come back, and ask");
        assert!(sink.take().states.is_empty());
    }

    #[test]
    fn a_part_of_a_resource_is_below_it() {
        for (uri, whole, expect) in [
            ("file:///a/b", "file:///a", true),
            ("file:///a/b", "file:///a/", true),
            ("file:///a#x", "file:///a", true),
            ("file:///ab", "file:///a", false),
            ("file:///a", "file:///a", false),
            ("file:///", "file:///a", false),
        ] {
            assert_eq!(is_below(uri, whole), expect, "{uri} below {whole}");
        }
    }
}
