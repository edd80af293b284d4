//! Which session of a legacy upstream may carry this call?
//!
//! Legacy servers keep state in sessions, so a session is never shared between principals, credentials, capability sets
//! or versions (spec §2.0 rule 4). It pools them and begins them once; it does not send calls.

use std::{future::Future, sync::Arc};

use http::{HeaderValue, StatusCode};
use quick_cache::sync::Cache;

use crate::{catalog::Offer, refusal::Refusal, rpc::Capabilities};

/// Who may use a session: one key, one session.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Key {
    /// `Identity::principal`; all zero for the gateway itself.
    pub(super) principal: [u8; 32],
    /// The grant's generation: another credential, another session.
    pub(super) generation: u64,
    /// The client capabilities declared at `initialize`.
    pub(super) capabilities: Capabilities,
}

/// One session at an upstream.
#[derive(Debug)]
pub(super) struct Session {
    /// What the upstream calls it; stateless servers give no name.
    pub(super) id: Option<HeaderValue>,
    /// The version agreed on.
    pub(super) version: &'static str,
    /// What the upstream said of itself.
    pub(super) offer: Offer,
}

impl Session {
    /// Whether an answer with this status may say that the session is no longer there: 404 does (RL-04), and 400 is what
    /// many servers say of an id that they do not know.
    pub(super) fn is_gone(&self, status: StatusCode) -> bool {
        self.id.is_some() && matches!(status, StatusCode::NOT_FOUND | StatusCode::BAD_REQUEST)
    }
}

/// The sessions of one upstream.
#[derive(Debug)]
pub(super) struct Sessions {
    open: Cache<Key, Arc<Session>>,
}

impl Sessions {
    pub(super) fn new() -> Self {
        Self { open: Cache::new(SESSIONS_MAX) }
    }

    /// The session for `key`, begun by `begin` if there is none; callers of one key wait for one beginning.
    pub(super) async fn take<F>(&self, key: &Key, begin: F) -> Result<Arc<Session>, Refusal>
    where
        F: Future<Output = Result<Session, Refusal>>,
    {
        self.open.get_or_insert_async(key, async { begin.await.map(Arc::new) }).await
    }

    /// Forgets `session`, unless another has taken its place already.
    pub(super) fn forget(&self, key: &Key, session: &Arc<Session>) {
        let _gone = self.open.remove_if(key, |held| Arc::ptr_eq(held, session));
    }
}

/// Sessions kept to one upstream; the least used goes first, and is begun again when it is needed.
const SESSIONS_MAX: usize = 4_096;
