//! Which resources does somebody want to be told of, and who?
//!
//! One conversation with an upstream serves all listeners of one principal, so what they want is gathered here by
//! upstream and principal, counted by URI, and what the upstream says is handed to those who asked. It asks no upstream.

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

use crate::{
    audit::{
        journal::{Journal, Receipt},
        record::{Ending, Outcome},
    },
    config::UpstreamId,
    identity::Identity,
    refusal::{Era, Refusal},
    rpc::uris,
    state::Taken,
    telemetry::metrics,
    upstream::Wanted,
};

/// Everything that is watched.
#[derive(Debug, Default)]
pub struct Subscriptions {
    watching: Mutex<HashMap<Key, Arc<Watching>>>,
    numbers: AtomicU64,
}

/// Between whom a conversation is held.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    upstream: UpstreamId,
    principal: [u8; 32],
}

/// What one principal wants to be told of by one upstream.
#[derive(Debug)]
pub struct Watching {
    key: Key,
    /// Whoever asked last: in whose name the upstream is asked.
    identity: Mutex<Arc<Identity>>,
    wants: Mutex<BTreeMap<String, Want>>,
    changed: Notify,
}

/// One resource, and who wants to be told of it.
#[derive(Debug)]
struct Want {
    standing: watch::Sender<Standing>,
    mints: Vec<String>,
    by: Vec<Interest>,
}

#[derive(Debug)]
struct Interest {
    number: u64,
    sink: Arc<Sink>,
    prefix: Option<String>,
    receipt: Arc<Receipt>,
}

/// Whether the upstream will tell.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Standing {
    Asked,
    Honoured,
    Refused(Refusal),
}

/// One listener's wish to be told of one resource. The upstream is asked for as long as somebody holds one.
#[derive(Debug)]
pub struct Subscription {
    watching: Arc<Watching>,
    uri: String,
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

/// What is subscribed to.
#[derive(Debug)]
pub struct Subject {
    /// Whose resource it is.
    pub upstream: UpstreamId,
    /// The upstream's own URI.
    pub uri: String,
    /// The scopes that the credential needs.
    pub mints: Vec<String>,
    /// The upstream's id, where it stands before the URIs that this listener knows.
    pub prefix: Option<String>,
    /// Where its changes go.
    pub sink: Arc<Sink>,
}

impl Subscriptions {
    /// Adds a wish. Where it is the first of its principal at its upstream, somebody has to begin to ask: then there is a
    /// second value.
    pub fn want(
        &self,
        subject: Subject,
        identity: &Arc<Identity>,
        mut receipt: Receipt,
        (journal, era, began): (&Arc<Journal>, Era, Instant),
    ) -> (Subscription, Option<Arc<Watching>>) {
        let key = Key { upstream: subject.upstream, principal: identity.principal };
        let slots = receipt.hand_over();
        let receipt = Arc::new(receipt);
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        let mut all = self.watching.lock();
        let known = all.get(&key).cloned();
        let watching = known.clone().unwrap_or_else(|| {
            Arc::new(Watching {
                key: key.clone(),
                identity: Mutex::new(Arc::clone(identity)),
                wants: Mutex::new(BTreeMap::new()),
                changed: Notify::new(),
            })
        });
        let interest = Interest { number, sink: subject.sink, prefix: subject.prefix, receipt: Arc::clone(&receipt) };
        let standing = watching.add(&subject.uri, subject.mints, interest);
        all.entry(key).or_insert_with(|| Arc::clone(&watching));
        drop(all);
        watching.renew(identity);
        let begun = known.is_none().then(|| Arc::clone(&watching));
        let subscription = Subscription {
            watching,
            uri: subject.uri,
            number,
            standing,
            refused: None,
            slots,
            receipt,
            journal: Arc::clone(journal),
            era,
            began,
        };
        (subscription, begun)
    }

    /// Those in whose names upstreams are asked, as far as `gone` names them.
    pub fn principals(&self, gone: impl Fn(&Identity) -> bool) -> Vec<[u8; 32]> {
        let all = self.watching.lock();
        all.values().filter(|watching| gone(&watching.identity())).map(|watching| watching.key.principal).collect()
    }

    /// The same caller has come with a newer credential.
    pub fn renew(&self, identity: &Arc<Identity>) {
        let all = self.watching.lock();
        for watching in all.values().filter(|watching| watching.key.principal == identity.principal) {
            watching.renew(identity);
        }
    }

    /// Whether nobody wants anything of `watching` any more; it is forgotten then, and whoever asked for it ends.
    pub fn is_over(&self, watching: &Watching) -> bool {
        let mut all = self.watching.lock();
        let over = watching.wants.lock().is_empty();
        if over {
            all.remove(&watching.key);
        }
        over
    }
}

impl Watching {
    /// The upstream.
    #[must_use]
    pub fn upstream(&self) -> &UpstreamId {
        &self.key.upstream
    }

    fn add(&self, uri: &str, mints: Vec<String>, interest: Interest) -> watch::Receiver<Standing> {
        let mut wants = self.wants.lock();
        let want = wants.entry(uri.to_owned()).or_insert_with(|| Want {
            standing: watch::Sender::new(Standing::Asked),
            mints,
            by: Vec::new(),
        });
        // What was refused before is asked once more.
        want.standing.send_if_modified(|standing| {
            let again = matches!(standing, Standing::Refused(_));
            if again {
                *standing = Standing::Asked;
            }
            again
        });
        want.by.push(interest);
        let standing = want.standing.subscribe();
        drop(wants);
        self.changed.notify_one();
        standing
    }

    fn renew(&self, identity: &Arc<Identity>) {
        let mut known = self.identity.lock();
        if known.authentication.expires_at < identity.authentication.expires_at {
            *known = Arc::clone(identity);
            self.changed.notify_one();
        }
    }

    /// In whose name the upstream is asked.
    #[must_use]
    pub fn identity(&self) -> Arc<Identity> {
        Arc::clone(&self.identity.lock())
    }

    /// What is wanted now, as far as `judge` lets it be asked for, and the scopes that this takes.
    pub fn wanted(&self, judge: impl Fn(&str) -> Result<(), Refusal>) -> (Vec<Wanted>, Vec<String>) {
        let wants = self.wants.lock();
        let (mut wanted, mut scopes) = (Vec::new(), BTreeSet::new());
        for (uri, want) in wants.iter() {
            let Some(by) = want.by.first() else { continue };
            match judge(uri) {
                Ok(()) => {
                    wanted.push(Wanted::new(uri.clone(), Arc::clone(&by.receipt)));
                    scopes.extend(want.mints.iter().cloned());
                }
                Err(refusal) => drop(want.standing.send_replace(Standing::Refused(refusal))),
            }
        }
        (wanted, scopes.into_iter().collect())
    }

    /// Returns when something else may be wanted, or in another name.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    /// The upstream said which of `asked` it will tell of; the others it will not.
    pub fn settle(&self, asked: &[Wanted], honoured: impl Fn(&str) -> bool) {
        for asked in asked {
            let refusal = || Refusal::ResourceUnknown(format!("{}: the upstream does not tell of it", asked.uri));
            let standing = if honoured(&asked.uri) { Standing::Honoured } else { Standing::Refused(refusal()) };
            self.stand(&asked.uri, standing);
        }
    }

    /// The upstream could not be asked: whoever still waits for its word need not wait any longer.
    pub fn fail(&self, asked: &[Wanted], refusal: &Refusal) {
        for asked in asked {
            let wants = self.wants.lock();
            if let Some(want) = wants.get(&asked.uri)
                && *want.standing.borrow() == Standing::Asked
            {
                want.standing.send_replace(Standing::Refused(refusal.clone()));
            }
        }
    }

    fn stand(&self, uri: &str, standing: Standing) {
        if let Some(want) = self.wants.lock().get(uri) {
            want.standing.send_replace(standing);
        }
    }

    /// The upstream says that `uri` has changed: a resource that somebody wants to be told of, or one below it
    /// (MCP server/resources, subscriptions).
    pub fn updated(&self, uri: &str) {
        for (wanted, want) in self.wants.lock().iter() {
            if uri == wanted || is_below(uri, wanted) {
                want.by.iter().for_each(|by| self.tell(by, uri, wanted));
            }
        }
    }

    /// Parts of a resource are without number: where there is no room for one more of them, the whole has changed.
    fn tell(&self, by: &Interest, uri: &str, wanted: &str) {
        let change = |uri: &str| {
            let exposed = by.prefix.as_deref().map_or_else(|| uri.to_owned(), |id| uris::outward(id, uri));
            (exposed, (self.key.upstream.clone(), uri.to_owned()))
        };
        if uri == wanted || !by.sink.push_part(change(uri)) {
            by.sink.push(change(wanted));
        }
    }
}

/// Whether `uri` names a part of what `whole` names.
fn is_below(uri: &str, whole: &str) -> bool {
    let below = uri.strip_prefix(whole);
    below.is_some_and(|rest| whole.ends_with('/') || rest.starts_with(['/', '#', '?']))
}

impl Subscription {
    /// Whose resource it is, and what they call it.
    #[must_use]
    pub fn subject(&self) -> (&UpstreamId, &str) {
        (self.watching.upstream(), &self.uri)
    }

    /// Waits until the upstream has said whether it will tell. Then this is no call under way any more, and holds up none.
    ///
    /// # Errors
    /// That it will not, or did not say so within `limit`.
    pub async fn settled(&mut self, limit: Duration) -> Result<(), Refusal> {
        let said = timeout(limit, self.standing.wait_for(|standing| *standing != Standing::Asked)).await;
        drop(mem::take(&mut self.slots));
        let standing = said.ok().and_then(Result::ok).map(|standing| standing.clone());
        let refusal = match standing {
            Some(Standing::Honoured) => return Ok(()),
            Some(Standing::Refused(refusal)) => refusal,
            Some(Standing::Asked) | None => Refusal::UpstreamTimeout,
        };
        self.refused = Some(refusal.clone());
        Err(refusal)
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let mut wants = self.watching.wants.lock();
        if let Some(want) = wants.get_mut(&self.uri) {
            want.by.retain(|by| by.number != self.number);
            if want.by.is_empty() {
                wants.remove(&self.uri);
            }
        }
        drop(wants);
        self.watching.changed.notify_one();
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

/// Where the changes of one listener's resources wait to be told: each once, however often it changes.
#[derive(Debug, Default)]
pub struct Sink {
    waiting: Mutex<Waiting>,
    filled: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    changes: BTreeMap<String, (UpstreamId, String)>,
    bytes: usize,
}

impl Sink {
    /// A resource that is watched has changed: as the listener knows it, and whose it is and what they call it. There are
    /// only so many of them.
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

    /// Returns when there is something to tell.
    pub async fn filled(&self) {
        while self.waiting.lock().changes.is_empty() {
            self.filled.notified().await;
        }
    }

    /// What there is to tell: the URI as the listener knows it, whose it is, and what they call it.
    #[must_use]
    pub fn take(&self) -> BTreeMap<String, (UpstreamId, String)> {
        mem::take(&mut *self.waiting.lock()).changes
    }
}

/// Bytes of the URIs of parts that wait for one listener.
const PARTS_BYTES_MAX: usize = 64 * 1024;

#[cfg(test)]
mod tests {
    use super::is_below;

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
