//! Is what goes on for somebody still vouched for?
//!
//! A token that an issuer is asked about (RFC 7662), or a key of the gateway's own, can be withdrawn while a stream, a call
//! or a held call goes on under it, and nobody shows it again meanwhile. So those credentials are known here for as long as
//! something goes on under them, and looked at now and again; whose is withdrawn is ended as by a revocation, in this
//! process, and what goes on under one that is good for something else now ends likewise; and what `tollgate keys` did is
//! written down here. It asks nobody itself: `identity` does, and remembers what it was told.

use std::{
    collections::HashMap,
    sync::{Arc, OnceLock},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::time::sleep;

use super::Gateway;
use crate::{
    audit::{journal, record},
    clock::{self, Timestamp},
    identity::{
        API_KEY, Authentication, INTROSPECTION, Identity, Withdrawn,
        api_key::ApiKey,
        revocation::{Revocation, Whom},
    },
    telemetry::metrics::metrics,
};

/// The credentials under which something goes on.
#[derive(Debug, Default)]
pub(super) struct Vigil(Mutex<HashMap<Key, Under>>);

/// A credential, by its digest, and what it was good for when something began: its issuer may say otherwise later.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    token: String,
    class: [u8; 32],
    ends_ms: u64,
}

#[derive(Debug)]
struct Under {
    identity: Arc<Identity>,
    count: usize,
    word: Arc<Word>,
}

/// What ends all that goes on under a credential as it was.
type Word = OnceLock<Arc<Revocation>>;

/// Something goes on; dropping it says that it has ended.
#[derive(Debug)]
pub(super) struct Watched {
    vigil: Arc<Vigil>,
    key: Key,
    word: Arc<Word>,
}

impl Vigil {
    /// Something begins under the credential of `identity`. What only time or an operator ends needs no looking.
    pub(super) fn over(self: &Arc<Self>, identity: &Arc<Identity>) -> Option<Watched> {
        if ![INTROSPECTION, API_KEY].contains(&identity.authentication.method) {
            return None;
        }
        let key = Key {
            token: identity.authentication.token_digest.clone(),
            class: identity.class,
            ends_ms: identity.authentication.expires_at.unix_ms(),
        };
        let mut all = self.0.lock();
        let begun = || Under { identity: Arc::clone(identity), count: 0, word: Arc::default() };
        let under = all.entry(key.clone()).or_insert_with(begun);
        if under.word.get().is_some() {
            // What was so before has ended, or is about to; this begins now, with what the issuer says now.
            *under = begun();
        }
        under.count = under.count.saturating_add(1);
        let word = Arc::clone(&under.word);
        drop(all);
        Some(Watched { vigil: Arc::clone(self), key, word })
    }

    /// Those of which nothing was found out yet. Not all can be asked about in one turn: none is always the last.
    fn all(&self, turn: usize) -> Vec<(Arc<Identity>, Arc<Word>)> {
        let all = self.0.lock();
        let open = all.values().filter(|under| under.word.get().is_none());
        let mut open: Vec<_> = open.map(|under| (Arc::clone(&under.identity), Arc::clone(&under.word))).collect();
        let first = turn.checked_rem(open.len()).unwrap_or_default();
        open.rotate_left(first);
        open
    }
}

impl Watched {
    /// What ends this, where something does.
    pub(super) fn word(&self) -> Option<&Arc<Revocation>> {
        self.word.get()
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        let mut all = self.vigil.0.lock();
        if let Some(under) = all.get_mut(&self.key).filter(|under| Arc::ptr_eq(&under.word, &self.word)) {
            under.count = under.count.saturating_sub(1);
            if under.count == 0 {
                all.remove(&self.key);
            }
        }
    }
}

impl Gateway {
    /// Ends what goes on under credentials that are withdrawn; it does not return.
    pub async fn keep_vigil(&self) {
        let mut turn = 0_usize;
        loop {
            sleep(LOOK_AFTER).await;
            let (estate, now) = (self.estate(), clock::now());
            for (state, key) in estate.identity.changes_of_keys() {
                self.note_key(state, &key);
            }
            for (identity, word) in self.vigil.all(turn) {
                if estate.revocations.admit(&identity).is_err() {
                    continue; // it ends already
                }
                let Some(withdrawn) = estate.identity.withdrawn(&identity, now) else { continue };
                let Authentication { token_digest, issuer, expires_at, .. } = &identity.authentication;
                let whom = Whom::Token { name: token_digest.clone(), issuer: Some(issuer.clone()) };
                match withdrawn {
                    Withdrawn::Wholly(why) => self.end_here(whom, Some(expires_at.plus(CLOCKS_DIFFER)), why),
                    Withdrawn::Partly(why) => {
                        let revocation = estate.revocations.end_as_they_were(whom, why);
                        // Only this loop says something.
                        drop(word.set(Arc::clone(&revocation)));
                        self.hub.changed();
                        self.count_later(&estate, revocation);
                    }
                }
            }
            turn = turn.wrapping_add(TURN);
        }
    }

    fn note_key(&self, state: &'static str, key: &ApiKey) {
        let record = record::Key {
            state,
            id: &key.id,
            user: key.user.as_deref(),
            agent: &key.agent,
            tenant: key.tenant.as_deref(),
            scopes: record::Words::Strings(&key.scopes),
            until: Timestamp::from_unix_ms(key.expires_ms),
        };
        if !self.journal.note(journal::new_id(), &record) {
            metrics().audit_failures.increment();
        }
    }
}

/// How soon after its issuer's word somebody's streams end.
const LOOK_AFTER: Duration = Duration::from_millis(500);

/// By how many the turn goes on; about as many are asked about in one.
const TURN: usize = 61;

/// No issuer's leeway is longer.
const CLOCKS_DIFFER: Duration = Duration::from_secs(300);

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::policy::fixtures::caller;

    #[test]
    fn everybody_is_among_the_first_in_turn_for_as_long_as_something_goes_on() {
        let vigil = Arc::new(Vigil::default());
        let mut open = Vec::new();
        for number in 0..200 {
            let mut identity = caller("alice", None, &[], &[]);
            identity.authentication.method = API_KEY;
            identity.authentication.token_digest = format!("{number}");
            let identity = Arc::new(identity);
            open.extend([vigil.over(&identity), vigil.over(&identity)]);
        }
        assert!(vigil.over(&Arc::new(caller("bob", None, &[], &[]))).is_none(), "a JWT ends by itself");
        let names = |turn: usize| vigil.all(turn).into_iter().map(|(who, _)| who.authentication.token_digest.clone());
        assert_eq!(names(7).count(), 200, "each once");
        let first: HashSet<String> = (0..4).flat_map(|turn| names(turn * TURN).take(TURN)).collect();
        assert_eq!(first.len(), 200);
        open.truncate(1);
        assert_eq!(names(TURN).collect::<Vec<_>>(), ["0"]);
        open.clear();
        assert_eq!(names(TURN).count(), 0);
    }

    #[test]
    fn what_begins_after_the_word_does_not_end_by_it() {
        let mut identity = caller("alice", None, &[], &[]);
        identity.authentication.method = INTROSPECTION;
        let (identity, vigil) = (Arc::new(identity), Arc::<Vigil>::default());
        let before = vigil.over(&identity).unwrap();
        let together = vigil.over(&identity).unwrap();
        let whom = Whom::Token { name: "t".to_owned(), issuer: None };
        before.word.set(Arc::new(Revocation::new(whom, clock::now(), None))).unwrap();
        assert!(before.word().is_some() && together.word().is_some());
        let after = vigil.over(&identity).unwrap();
        assert!(after.word().is_none(), "it began with the rights that the token has again");
        drop((before, together));
        assert_eq!(vigil.all(0).len(), 1, "and it is looked at, whatever ended");
        drop(after);
        assert!(vigil.0.lock().is_empty());
    }
}
