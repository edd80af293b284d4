//! Is what goes on for somebody still vouched for?
//!
//! A token that an issuer is asked about (RFC 7662), or a key of the gateway's own, can be withdrawn while a stream, a call
//! or a held call goes on under it, and nobody shows it again meanwhile. So those credentials are known here for as long as
//! something goes on under them, and looked at now and again; whose is withdrawn is ended as by a revocation, in this
//! process; and what `tollgate keys` did is written down here. It asks nobody itself: `identity` does, and remembers what
//! it was told.

use std::{collections::HashMap, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::time::sleep;

use super::Gateway;
use crate::{
    audit::{journal, record},
    clock::{self, Timestamp},
    identity::{API_KEY, Authentication, INTROSPECTION, Identity, api_key::ApiKey, revocation::Whom},
    telemetry::metrics::metrics,
};

/// The credentials under which something goes on, by their digests.
#[derive(Debug, Default)]
pub(super) struct Vigil(Mutex<HashMap<String, Under>>);

#[derive(Debug)]
struct Under {
    identity: Arc<Identity>,
    count: usize,
}

/// Something goes on; dropping it says that it has ended.
#[derive(Debug)]
pub(super) struct Watched {
    vigil: Arc<Vigil>,
    identity: Arc<Identity>,
}

impl Vigil {
    /// Something begins under the credential of `identity`. What only time or an operator ends needs no looking.
    pub(super) fn over(self: &Arc<Self>, identity: &Arc<Identity>) -> Option<Watched> {
        if ![INTROSPECTION, API_KEY].contains(&identity.authentication.method) {
            return None;
        }
        let digest = identity.authentication.token_digest.clone();
        let mut all = self.0.lock();
        let under = all.entry(digest).or_insert_with(|| Under { identity: Arc::clone(identity), count: 0 });
        under.count = under.count.saturating_add(1);
        drop(all);
        Some(Watched { vigil: Arc::clone(self), identity: Arc::clone(identity) })
    }

    fn all(&self) -> Vec<Arc<Identity>> {
        self.0.lock().values().map(|under| Arc::clone(&under.identity)).collect()
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        let mut all = self.vigil.0.lock();
        let digest = &self.identity.authentication.token_digest;
        if let Some(under) = all.get_mut(digest) {
            under.count = under.count.saturating_sub(1);
            if under.count == 0 {
                all.remove(digest);
            }
        }
    }
}

impl Gateway {
    /// Ends what goes on under credentials that are withdrawn; it does not return.
    pub async fn keep_vigil(&self) {
        loop {
            sleep(LOOK_AFTER).await;
            let (estate, now) = (self.estate(), clock::now());
            for (state, key) in estate.identity.changes_of_keys() {
                self.note_key(state, &key);
            }
            for identity in self.vigil.all() {
                if estate.revocations.admit(&identity).is_err() {
                    continue; // it ends already
                }
                let Some(why) = estate.identity.withdrawn(&identity, now) else { continue };
                let Authentication { token_digest, issuer, expires_at, .. } = &identity.authentication;
                let whom = Whom::Token { name: token_digest.clone(), issuer: Some(issuer.clone()) };
                self.end_here(whom, Some(expires_at.plus(CLOCKS_DIFFER)), why);
            }
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

/// No issuer's leeway is longer.
const CLOCKS_DIFFER: Duration = Duration::from_secs(300);
