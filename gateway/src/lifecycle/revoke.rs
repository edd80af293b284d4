//! What happens when somebody is not welcome any more?
//!
//! Follows what operators revoke, and has everything ended that is there because of those whom it names: their sessions,
//! tokens that were verified, what they have at upstreams; streams and calls look for themselves. It writes down what it
//! did. Who is named is decided in `identity`. What ends with its credential's own time is told here, too.

use std::{
    collections::HashSet,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::time::{sleep, timeout};

use super::{
    Estate, Gateway,
    vigil::{Vigil, Watched},
};
use crate::{
    audit::{
        journal::{self, Journal},
        record,
    },
    clock::{self, Timestamp},
    config::{CertificateHolder, Config, Issuer},
    identity::{
        CERTIFICATES, Certificate, Identity, api_key,
        revocation::{self, Changes, Ended, Revocation, Revocations, What, Whom},
    },
    refusal::Refusal,
    state::StoreFault,
    tasks,
    telemetry::metrics::metrics,
};

/// Somebody for whom something is under way.
#[derive(Debug, Clone)]
pub(super) struct Ward {
    revocations: Revocations,
    identity: Arc<Identity>,
    until: Instant,
    watched: Option<Arc<Watched>>,
}

/// Why a held call is held no longer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Over {
    /// The caller is not welcome any more.
    Revoked,
    /// Their credential has ended.
    Expired,
}

impl Ward {
    pub(super) fn new(estate: &Estate, vigil: &Arc<Vigil>, identity: &Arc<Identity>, now: Timestamp) -> Self {
        Self {
            revocations: estate.revocations.clone(),
            identity: Arc::clone(identity),
            until: last_moment(estate, identity, now),
            watched: vigil.over(identity).map(Arc::new),
        }
    }

    /// Of somebody whose credential lasts, for the tests of what they have under way.
    #[cfg(test)]
    pub(super) fn of(revocations: &Revocations, identity: Identity) -> Self {
        let (start, hour) = (clock::instant(), Duration::from_secs(3_600));
        let until = start.checked_add(hour).unwrap_or(start);
        Self { revocations: revocations.clone(), identity: Arc::new(identity), until, watched: None }
    }

    /// Whether what is theirs may go on; what may not has ended, and is counted.
    pub(super) fn admit(&self, what: What) -> Result<(), Refusal> {
        self.look().map_err(|revoked| {
            self.revocations.ended(&revoked, what);
            revoked.refusal()
        })
    }

    /// The same for who only wants to know.
    pub(super) fn look(&self) -> Result<(), Arc<Revocation>> {
        self.revocations.admit(&self.identity)?;
        let word = self.watched.as_ref().and_then(|watched| watched.word());
        word.map_or(Ok(()), |revoked| Err(Arc::clone(revoked)))
    }

    /// When their credential ends: what is one answer may come later, what lasts ends by then.
    pub(super) const fn until(&self) -> Instant {
        self.until
    }

    /// Returns when their held call has ended.
    pub(super) async fn over(&self) -> Over {
        loop {
            if self.admit(What::Hold).is_err() {
                return Over::Revoked;
            }
            if clock::instant() >= self.until {
                return Over::Expired;
            }
            sleep(LOOK_AFTER).await;
        }
    }
}

/// When the credential of `identity` is taken no longer. It is taken for as long after its end as a request with it would be.
fn last_moment(estate: &Estate, identity: &Identity, now: Timestamp) -> Instant {
    let leeway = estate.identity.leeway(identity).unwrap_or_default();
    let (start, left) = (clock::instant(), identity.authentication.expires_at.plus(leeway).since(now));
    start.checked_add(left).unwrap_or(start)
}

impl Gateway {
    /// Reads what is revoked: before anybody is served.
    ///
    /// # Errors
    /// What the store says.
    pub async fn read_revocations(&self) -> Result<(), StoreFault> {
        let Changes { begun, .. } = self.read().await?;
        for revocation in begun {
            write(&self.journal, &revocation).await;
            let _nothing_to_end = self.estate().revocations.counted(revocation.id);
        }
        Ok(())
    }

    async fn read(&self) -> Result<Changes, StoreFault> {
        let estate = self.estate();
        let kept = revocation::all(&estate.store, clock::now()).await?;
        Ok(estate.revocations.replace(kept))
    }

    /// Follows what is revoked; it does not return.
    pub async fn follow_revocations(&self) {
        let mut changed = self.estate().store.changed();
        // Also what was revoked while nobody was there.
        for revocation in revocation::all(&self.estate().store, clock::now()).await.unwrap_or_default() {
            forget_accounts(&self.estate(), &revocation).await;
        }
        loop {
            // An error says that the store is gone, and it is read again all the same.
            drop(timeout(READ_AFTER, changed.changed()).await);
            // The store is written for other things too: many writes are one reading.
            sleep(GATHERED).await;
            changed.borrow_and_update();
            match self.read().await {
                Ok(changes) => self.enforce(changes),
                Err(fault) => {
                    // What was known stays in force.
                    tracing::error!(why = %fault, "what is revoked cannot be read");
                    sleep(READ_AFTER).await;
                }
            }
        }
    }

    /// Ends everything of callers whose issuer `next` does not know any more, and what goes on for those of whom it says
    /// something else than `before`: they may come again, and are judged by that.
    pub(super) fn distrust(&self, before: &Estate, next: &Estate) {
        let knows = |estate: &Estate, name: &str| estate.config.issuers.iter().any(|known| known.issuer == name);
        for known in &next.config.issuers {
            next.revocations.go_on_here(&Whom::Issuer { name: known.issuer.clone() });
        }
        for gone in before.config.issuers.iter().filter(|known| !knows(next, &known.issuer)) {
            let whom = Whom::Issuer { name: gone.issuer.clone() };
            self.end_in(next, (whom, None), "the configuration names this issuer no more");
        }
        for whom in described_otherwise(&before.config, &next.config) {
            let why = "the configuration describes them otherwise than before, or no more";
            self.ended_in(next, next.revocations.end_taken_before(next.identity.reading(), whom, why));
        }
    }

    /// The listener's files vouch for `certificate` no more. Its connections end by themselves, and there are no new ones:
    /// what is left is what goes on without them, under it or under what is bound to it.
    pub fn disown(&self, certificate: &Certificate) {
        let whom = Whom::Token { name: certificate.thumbprint.clone(), issuer: None };
        if !self.estate().revocations.has_ended_here(&whom) {
            let until = clock::now().plus(DISOWNED_FOR);
            self.end_here(whom, Some(until), "its authority has taken the certificate back, or is none any more");
        }
    }

    /// What somebody has found out about `whom` ends here, and in this process alone; the store keeps what is for all.
    pub fn end_here(&self, whom: Whom, until: Option<Timestamp>, why: &str) {
        self.end_in(&self.estate(), (whom, until), why);
    }

    fn end_in(&self, estate: &Estate, (whom, until): (Whom, Option<Timestamp>), why: &str) {
        self.ended_in(estate, estate.revocations.end_here(whom, until, why));
    }

    fn ended_in(&self, estate: &Estate, revocation: Arc<Revocation>) {
        self.sweep_out(estate);
        self.report(&revocation, "in_force", None);
        self.count_later(estate, revocation);
    }

    /// Writes down what comes of `revocation`.
    pub(super) fn count_later(&self, estate: &Estate, revocation: Arc<Revocation>) {
        tasks::background(count(estate.revocations.clone(), Arc::clone(&self.journal), revocation));
    }

    fn enforce(&self, Changes { begun, lifted }: Changes) {
        if !begun.is_empty() {
            self.sweep_out(&self.estate());
        }
        // On their own: a journal that is slow must not keep the next revocation waiting.
        for revocation in begun {
            let (estate, journal) = (self.estate(), Arc::clone(&self.journal));
            tasks::background(async move {
                forget_accounts(&estate, &revocation).await;
                write(&journal, &revocation).await;
                count(estate.revocations.clone(), journal, revocation).await;
            });
        }
        for revocation in lifted {
            self.report(&revocation, "lifted", None);
        }
    }

    /// Ends what does not look for itself, and has the others look.
    fn sweep_out(&self, estate: &Estate) {
        let revocations = &estate.revocations;
        let gone = |identity: &Identity| revocations.admit(identity).is_err();
        let mut principals: HashSet<[u8; 32]> = estate.identity.forget(gone);
        principals.extend(self.subscriptions.principals(gone));
        for (revocation, principal) in
            self.sessions.revoke(|name, holder, since| revocations.of_session(name, holder, since))
        {
            revocations.ended(&revocation, What::Session);
            principals.insert(principal);
        }
        estate.upstreams.forget(&principals);
        self.hub.changed();
    }

    fn report(&self, revocation: &Revocation, state: &'static str, ended: Option<[u64; 4]>) {
        let (name, issuer) = (revocation.whom.name(), revocation.whom.issuer());
        if !self.journal.note(journal::new_id(), &record_of(revocation, (&name, issuer), state, ended)) {
            metrics().audit_failures.increment();
        }
    }
}

/// Of whom `after` says something else than `before`, or nothing any more; issuers that are gone are told apart before.
fn described_otherwise(before: &Config, after: &Config) -> Vec<Whom> {
    let issuers = |config: &Config| {
        let own = config.facade.iter().map(|facade| Arc::clone(&facade.own));
        config.issuers.iter().cloned().chain(own).collect::<Vec<_>>()
    };
    let now = issuers(after);
    let is_same = |known: &Issuer| now.iter().any(|issuer| issuer.is_taken_as(known));
    let is_gone = |known: &Issuer| {
        let of_others = before.issuers.iter().any(|issuer| issuer.issuer == known.issuer);
        of_others && !now.iter().any(|issuer| issuer.issuer == known.issuer)
    };
    let mut changed: Vec<Whom> = issuers(before)
        .iter()
        .filter(|known| !is_same(known) && !is_gone(known))
        .map(|known| Whom::Issuer { name: known.issuer.clone() })
        .collect();
    if before.keys != after.keys {
        changed.push(Whom::Issuer { name: api_key::ISSUER.to_owned() });
    }
    // The first entry that names a certificate says who it is: one that is new before another may take from it.
    let mut above: Vec<&CertificateHolder> = Vec::new();
    for holder in &before.certificates {
        let place = after.certificates.iter().position(|known| known == holder);
        let others = after.certificates.iter().take(place.unwrap_or_default());
        if place.is_none() || others.clone().any(|other| !above.iter().any(|known| known.name == other.name)) {
            changed.push(Whom::Agent { name: holder.agent.clone(), issuer: Some(CERTIFICATES.to_owned()) });
        }
        above.push(holder);
    }
    changed
}

/// What users connected goes with the grants of upstreams. An account is its user's, whichever client uses it: what is
/// revoked of one client leaves it as it is.
async fn forget_accounts(estate: &Estate, revocation: &Revocation) {
    let Whom::Grant { upstream, user, agent: None } = &revocation.whom else { return };
    let whose = (user.as_deref(), upstream.as_deref());
    match estate.exchange.forget(whose, revocation.at(), clock::now()).await {
        Ok(upstreams) if upstreams.is_empty() => {}
        Ok(upstreams) => tracing::info!(id = %revocation.id, ?upstreams, "accounts of users are forgotten"),
        Err(refusal) => tracing::error!(why = %refusal.inside(), "accounts of users could not be forgotten"),
    }
}

/// Writes down that `revocation` is in force.
async fn write(journal: &Journal, revocation: &Revocation) {
    let (name, issuer) = (revocation.whom.name(), revocation.whom.issuer());
    let record = record_of(revocation, (&name, issuer), "in_force", None);
    if let Err(refusal) = journal.write(&record).await {
        tracing::error!(why = %refusal.inside(), "a revocation could not be recorded");
    }
}

/// Writes down what came of `revocation`, once everybody has looked.
async fn count(revocations: Revocations, journal: Arc<Journal>, revocation: Arc<Revocation>) {
    sleep(COUNTED_AFTER).await;
    let Ended { streams, calls, holds, sessions } = revocations.counted(revocation.id);
    let (name, issuer) = (revocation.whom.name(), revocation.whom.issuer());
    let ended = Some([streams, calls, holds, sessions]);
    if !journal.note(journal::new_id(), &record_of(&revocation, (&name, issuer), "enforced", ended)) {
        metrics().audit_failures.increment();
    }
}

fn record_of<'a>(
    revocation: &'a Revocation,
    (name, issuer): (&'a str, Option<&'a str>),
    state: &'static str,
    ended: Option<[u64; 4]>,
) -> record::Revoked<'a> {
    record::Revoked {
        state,
        id: revocation.id,
        kind: revocation.whom.kind(),
        name,
        issuer,
        blocks: revocation.blocks,
        at: revocation.at(),
        until: revocation.until(),
        by: revocation.by.as_deref(),
        why: revocation.why.as_deref(),
        ended,
    }
}

/// How soon a held call ends.
const LOOK_AFTER: Duration = Duration::from_millis(250);

/// However quiet the store is, it is read again after this; and after this only, where it cannot be.
const READ_AFTER: Duration = Duration::from_secs(5);

/// Two readings are apart by this much at least.
const GATHERED: Duration = Duration::from_millis(100);

/// How long what is left of a certificate is looked for.
const DISOWNED_FOR: Duration = Duration::from_secs(5);

/// By then whoever holds something has looked.
const COUNTED_AFTER: Duration = Duration::from_millis(1_500);
