//! Which session of a legacy upstream may carry this call?
//!
//! Legacy servers keep state in sessions, so a session is never shared between principals, credentials, capability sets
//! or versions (spec §2.0 rule 4). It pools them, begins them once, and has them ended when nobody needs them any more;
//! it does not send calls.

use std::{
    collections::HashSet,
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use http::{HeaderValue, StatusCode};
use parking_lot::Mutex;
use quick_cache::sync::Cache;
use tokio::{runtime::Handle, sync::Semaphore};

use super::{
    PROTOCOL_VERSION, Spoken,
    transport::{Outgoing, Transport},
};
use crate::{
    catalog::Offer,
    exchange::Grant,
    refusal::{Era, Refusal},
    rpc::{Capabilities, meta::LogLevel},
    tasks,
    telemetry::metrics::metrics,
};

/// Who may use a session: one key, one session.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Key {
    /// `Identity::principal`, or [`OWN`].
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
    /// The most talkative level that was asked of it so far.
    pub(super) level: Mutex<Option<LogLevel>>,
    /// The upstream does not know it any more.
    pub(super) gone: AtomicBool,
    /// How to say that it is over.
    pub(super) farewell: Farewell,
    /// When it began.
    pub(super) begun: Instant,
}

impl Session {
    /// What the upstream speaks in it.
    pub(super) const fn spoken(&self) -> Spoken {
        Spoken { era: Era::Legacy, version: self.version }
    }

    /// Whether an answer with this status may say that the session is no longer there: 404 does (RL-04), and 400 is what
    /// many servers say of an id that they do not know.
    pub(super) fn may_be_gone(&self, status: StatusCode) -> bool {
        self.id.is_some() && matches!(status, StatusCode::NOT_FOUND | StatusCode::BAD_REQUEST)
    }

    /// Whether the upstream has to be asked for `level`: it logs, and was asked for nothing as talkative. Each call is
    /// filtered for itself, so the session is as talkative as any call wants it (spec §2.1).
    pub(super) fn is_quieter_than(&self, level: LogLevel) -> bool {
        let mut asked = self.level.lock();
        let quieter = self.offer.logging && asked.is_none_or(|asked| level < asked);
        if quieter {
            *asked = Some(level);
        }
        quieter
    }
}

impl Drop for Session {
    /// RL-13: a server keeps a session until it is told that nobody needs it.
    fn drop(&mut self) {
        let Some(id) = self.id.take() else { return };
        metrics().client_sessions.with([self.version]).record(self.begun.elapsed());
        if self.gone.load(Ordering::Relaxed) {
            return;
        }
        // Without a runtime the process is ending, and nothing can be said any more.
        if Handle::try_current().is_ok() {
            let (farewell, version) = (self.farewell.clone(), self.version);
            tasks::background(async move { farewell.say(id, version).await });
        }
    }
}

/// What it takes to end a session at its upstream.
#[derive(Debug, Clone)]
pub(super) struct Farewell {
    pub(super) transport: Arc<Transport>,
    pub(super) grant: Arc<Grant>,
    /// When a whole pool is over, not all of it speaks at once.
    pub(super) turns: Arc<Semaphore>,
}

impl Farewell {
    async fn say(self, session: HeaderValue, version: &'static str) {
        let said = async {
            let Ok(_turn) = self.turns.acquire().await else { return };
            let headers = [(PROTOCOL_VERSION, HeaderValue::from_static(version))].into_iter().collect();
            let outgoing = Outgoing::new(Vec::new(), headers, Some(&session));
            self.transport.end(&self.grant, outgoing).await;
        };
        // Nothing depends on it: a server that does not listen ends its sessions by itself.
        drop(tokio::time::timeout(FAREWELL_MAX, said).await);
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

    /// The session for `key`, begun by `begin` if there is none; callers of one key wait for one beginning. A caller's
    /// declarations and credentials make sessions without number: their oldest goes where they have too many.
    pub(super) async fn take<F>(&self, key: &Key, begin: F) -> Result<Arc<Session>, Refusal>
    where
        F: Future<Output = Result<Session, Refusal>>,
    {
        let mut is_new = false;
        let begin = async {
            is_new = true;
            begin.await.map(Arc::new)
        };
        let session = self.open.get_or_insert_async(key, begin).await?;
        if is_new && key.principal != OWN {
            let own = || self.open.iter().filter(|(other, _)| other.principal == key.principal);
            let oldest = own().min_by_key(|(_, session)| session.begun).filter(|_| own().count() > OF_ONE_MAX);
            if let Some((oldest, _)) = oldest {
                self.open.remove(&oldest);
            }
        }
        Ok(session)
    }

    /// Ends the sessions of `principals`: whoever comes back begins anew.
    pub(super) fn end_of(&self, principals: &HashSet<[u8; 32]>) {
        self.open.retain(|key, _session| !principals.contains(&key.principal));
    }

    /// Forgets `session`, unless another has taken its place already. Only 404 says for certain that the upstream does not
    /// know it any more; after any other `status` it is told that the session is over.
    pub(super) fn forget(&self, key: &Key, session: &Arc<Session>, status: StatusCode) {
        if status == StatusCode::NOT_FOUND {
            session.gone.store(true, Ordering::Relaxed);
        }
        let _gone = self.open.remove_if(key, |held| Arc::ptr_eq(held, session));
    }
}

/// Sessions kept to one upstream; the least used goes first, and is begun again when it is needed.
const SESSIONS_MAX: usize = 4_096;

/// Those of one caller: far more than the capabilities and credentials take that one client comes with.
const OF_ONE_MAX: usize = 32;

/// The gateway itself, among those who have sessions.
pub(super) const OWN: [u8; 32] = [0; 32];

/// Sessions of one upstream that are ended at once.
pub(super) const FAREWELLS_MAX: usize = 8;

/// For so long the gateway tries to end a session, its turn included.
const FAREWELL_MAX: Duration = Duration::from_secs(10);
