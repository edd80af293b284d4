//! Is it written down?
//!
//! The journal as the rest of the gateway sees it: [`Journal::commit`] gives a [`Receipt`] when the record of a call is
//! durable, and a refusal otherwise, within a bounded time. It does not decide what is recorded; `lifecycle` does.

use std::{
    collections::HashMap,
    fmt,
    future::Future,
    net::IpAddr,
    os::unix::fs::DirBuilderExt as _,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
        mpsc::{SyncSender, TrySendError, sync_channel},
    },
    time::{Duration, Instant},
};

use aws_lc_rs::hmac;
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{oneshot, watch};
use uuid::Uuid;

use super::{
    bell::{Bell, LastRing},
    chain::Checkpoint,
    keys::{KeyFault, Keys},
    lane::{Lane, LaneFault},
    record::{self, Counted, Ending, Event, Intent, Outcome, Record},
    writer::{Entry, Message, Rules, Writer, Written, stamp},
};
use crate::{
    ceiling::Admission,
    clock,
    config::{Audit, Durability},
    digest::hex,
    random,
    refusal::Refusal,
    state::{Site, Taken},
};

/// The proof that a call's record is durable. Only [`Journal::commit`] makes one, and whoever forwards takes it by value.
///
/// ```compile_fail,E0451
/// let receipt = tollgate::audit::journal::Receipt { id: uuid::Uuid::nil() };
/// ```
///
/// ```compile_fail,E0599
/// fn twice(receipt: tollgate::audit::journal::Receipt) -> tollgate::audit::journal::Receipt {
///     receipt.clone()
/// }
/// ```
#[derive(Debug)]
#[must_use = "a call that was recorded is forwarded, or its outcome says that it was not"]
pub struct Receipt {
    id: Uuid,
    /// What the ceilings gave is held until the call ends, because the receipt is.
    admission: Admission,
}

impl Receipt {
    /// The audit id, which the outcome carries too.
    #[must_use]
    pub const fn id(&self) -> Uuid {
        self.id
    }

    /// Hands the slots over that the call holds, where its receipt outlives it: a subscription is made, and stays.
    pub fn hand_over(&mut self) -> Taken {
        self.admission.hand_over()
    }
}

/// An intent on its way to the disk.
#[derive(Debug)]
#[must_use = "nothing may be forwarded before the record is durable"]
pub struct Committing<W> {
    id: Uuid,
    written: W,
}

impl<W: Future<Output = Result<(), Refusal>>> Committing<W> {
    /// Waits until the record is durable, and takes over the admission of the call that it is about.
    ///
    /// # Errors
    /// [`Refusal::AuditUnavailable`]; the admission is given back.
    pub async fn receipt(self, admission: Admission) -> Result<Receipt, Refusal> {
        self.written.await?;
        Ok(Receipt { id: self.id, admission })
    }
}

/// Why a journal cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenFault {
    /// The keys cannot be had.
    #[error(transparent)]
    Key(#[from] KeyFault),
    /// The chain cannot be taken up.
    #[error(transparent)]
    Lane(#[from] LaneFault),
    /// The folder cannot be used.
    #[error("`{}`: {error}", path.display())]
    Io {
        /// The folder.
        path: PathBuf,
        /// What the file system said.
        error: std::io::Error,
    },
}

/// The journal.
pub struct Journal {
    queue: SyncSender<Message>,
    shared: Arc<Shared>,
    arguments: hmac::Key,
    opened: Instant,
    queue_max: usize,
    wait_max: Duration,
    durability: Durability,
    /// Stands last, and so is dropped when the queue is closed: the writer wakes up and finds that out.
    _last_ring: LastRing,
}

impl fmt::Debug for Journal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Journal").field("healthy", &self.healthy()).finish_non_exhaustive()
    }
}

impl Journal {
    /// Takes up the journal where it stopped, mends what a crash left, and begins to write. Blocks on the disk.
    ///
    /// # Errors
    /// Where the folder, the keys or the chain cannot be used; the gateway must not serve then.
    pub fn open(config: &Audit) -> Result<Self, OpenFault> {
        let folder = &config.directory;
        let io = |error| OpenFault::Io { path: folder.clone(), error };
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(io)?;
        crate::secret::warn_of_writers(folder);
        let keys = Arc::new(Keys::open(folder, config.key.as_ref())?);
        let shared = Arc::new(Shared::default());
        let opened = clock::instant();
        let rules = Rules {
            durability: config.durability,
            segment_bytes_max: config.segment_bytes_max,
            segment_age_max: config.segment_age_max,
            backlog_max: config.queue_max.saturating_mul(2),
            opened,
        };
        let (lane, others) = Lane::claim(folder)?;
        for other in others {
            let found = other.recover(&keys.root)?;
            if !found.clean {
                Writer::begin(other, found, Arc::clone(&keys), Arc::clone(&shared), rules.clone()).map_err(io)?.close();
            }
        }
        let found = lane.recover(&keys.root)?;
        let writer = Writer::begin(lane, found, Arc::clone(&keys), Arc::clone(&shared), rules).map_err(io)?;
        // Twice the room: as much again for outcomes, which must not be lost because new calls fill the queue.
        let (queue, receiver) = sync_channel(config.queue_max.saturating_mul(2).max(2));
        std::thread::Builder::new().name("audit".to_owned()).spawn(move || writer.run(&receiver)).map_err(io)?;
        Ok(Self {
            _last_ring: LastRing(Arc::clone(&shared)),
            queue,
            shared,
            arguments: keys.root.arguments.clone(),
            opened,
            queue_max: config.queue_max,
            wait_max: config.wait_max,
            durability: config.durability,
        })
    }

    /// Writes down that a call is about to be forwarded. `durability` can only raise what the configuration asks for.
    ///
    /// What comes back gives the receipt, or [`Refusal::AuditUnavailable`] where the record is not durable within the
    /// configured time: nothing may be forwarded then. Where the caller goes away meanwhile, the journal itself records that nothing was.
    pub fn commit(
        &self,
        id: Uuid,
        intent: &Intent<'_>,
        durability: Durability,
    ) -> Committing<impl Future<Output = Result<(), Refusal>> + Send + use<'_>> {
        let waiting = self.send(id, intent, durability.max(self.durability));
        Committing { id, written: async move { waiting?.written().await } }
    }

    /// Writes something down and waits until it is durable: configuration, policy, start, stop.
    ///
    /// # Errors
    /// [`Refusal::AuditUnavailable`] where that did not come true within the configured time.
    pub fn write<R: Record>(&self, record: &R) -> impl Future<Output = Result<(), Refusal>> + Send + use<'_, R> {
        let waiting = self.send(new_id(), record, self.durability);
        async move { waiting?.written().await }
    }

    /// Writes something down without waiting: outcomes, refusals, mints, lists. Says whether the queue took it.
    #[must_use = "a record that was not taken is to be counted"]
    pub fn note<R: Record>(&self, id: Uuid, record: &R) -> bool {
        self.queue(id, record, None)
    }

    /// The same of how a call ended, with the keyed digest of what was answered: the writer makes that, so that no call waits
    /// for it; that of a large answer is made here, so that no intent waits for it at the writer.
    #[must_use = "a record that was not taken is to be counted"]
    pub fn note_answer(&self, id: Uuid, outcome: &Outcome<'_>, answer: Option<Bytes>) -> bool {
        self.queue(id, outcome, answer)
    }

    fn queue<R: Record>(&self, id: Uuid, record: &R, answer: Option<Bytes>) -> bool {
        let event = record.event();
        if event != Event::Outcome && self.shared.queued.load(Ordering::Relaxed) >= self.queue_max {
            return false;
        }
        let mut line = record::line(id, stamp(self.opened), record);
        let answer = match answer {
            Some(large) if large.len() > ANSWER_QUEUED_MAX => {
                record::add_digest(&mut line, &keyed(&self.arguments, &large));
                None
            }
            small => small,
        };
        let entry = Entry { line, id, event, durability: Durability::Os, waiter: None, answer };
        self.shared.queued.fetch_add(1, Ordering::SeqCst);
        let taken = !self.shared.is_closed() && self.queue.try_send(Message::Entry(entry)).is_ok();
        if taken {
            self.shared.bell.nudge();
        } else {
            self.shared.queued.fetch_sub(1, Ordering::Relaxed);
        }
        taken
    }

    /// Counts a refusal of somebody unknown; the journal gets a summary about once a second, so that a flood of
    /// requests does not become a flood of records.
    /// `fault` says what is wrong with a credential, where that is it: the caller does not learn that.
    pub fn count_refusal(&self, peer: IpAddr, code: &'static str, fault: Option<&'static str>) {
        self.shared.refusals.add((Site::of(peer).address(), code, fault));
    }

    /// The keyed digest of a call's arguments, in hex: proves what was asked without keeping it.
    /// `canonical` is [`crate::rpc::canonical::canonical`] of them.
    #[must_use]
    pub fn argument_digest(&self, canonical: &[u8]) -> String {
        keyed(&self.arguments, canonical)
    }

    /// Whether records are being taken: readiness.
    #[must_use]
    pub fn healthy(&self) -> bool {
        !self.shared.failing.load(Ordering::Relaxed) && !self.shared.stalled.load(Ordering::Relaxed)
    }

    /// The latest checkpoint, for whoever carries it off the machine.
    #[must_use]
    pub fn checkpoints(&self) -> watch::Receiver<Option<Arc<Checkpoint>>> {
        self.shared.checkpoints.subscribe()
    }

    /// Seals the journal. Records sent afterwards are refused. Says whether all of it is durable.
    pub async fn close(&self) -> bool {
        let (done, closed) = oneshot::channel();
        let asked = tokio::time::timeout(self.wait_max, async {
            let mut message = Message::Close(done);
            while let Err(TrySendError::Full(back)) = self.queue.try_send(message) {
                message = back;
                tokio::time::sleep(CLOSE_RETRY).await;
            }
            self.shared.bell.ring();
            closed.await
        });
        matches!(asked.await, Ok(Ok(Written::Durable)))
    }

    /// Queues a record that somebody waits for.
    fn send<R: Record>(&self, id: Uuid, record: &R, durability: Durability) -> Result<Waiting<'_>, Refusal> {
        if self.shared.failing.load(Ordering::Relaxed) {
            return Err(Refusal::AuditUnavailable(self.shared.reason()));
        }
        let event = record.event();
        if self.shared.queued.fetch_add(1, Ordering::SeqCst) >= self.queue_max {
            self.shared.queued.fetch_sub(1, Ordering::Relaxed);
            self.shared.stalled.store(true, Ordering::Relaxed);
            return Err(Refusal::AuditUnavailable("the journal's queue is full".to_owned()));
        }
        let (waiter, answer) = oneshot::channel();
        let line = record::line(id, stamp(self.opened), record);
        let message = Message::Entry(Entry { line, id, event, durability, waiter: Some(waiter), answer: None });
        let sent = if self.shared.is_closed() {
            Err(TrySendError::Disconnected(message))
        } else {
            self.queue.try_send(message)
        };
        if let Err(error) = sent {
            self.shared.queued.fetch_sub(1, Ordering::Relaxed);
            return Err(Refusal::AuditUnavailable(
                match error {
                    TrySendError::Full(_) => "the journal's queue is full",
                    TrySendError::Disconnected(_) => "the journal is closed",
                }
                .to_owned(),
            ));
        }
        Ok(Waiting { journal: self, id, event, answer })
    }
}

/// The digest of what was asked or answered, in hex.
pub(super) fn keyed(key: &hmac::Key, content: &[u8]) -> String {
    hex(hmac::sign(key, content).as_ref())
}

/// Bytes of an answer that the writer may digest, tens of microseconds each: one thread does it for all calls, and the
/// intents in the queue wait for it. A larger one takes its own call's thread, and no room in the queue.
const ANSWER_QUEUED_MAX: usize = 64 * 1024;

/// How often closing looks whether a full queue has room again.
const CLOSE_RETRY: Duration = Duration::from_millis(5);

/// A name for a call in the journal: UUID version 7 (RFC 9562 §5.7), so that ids sort by time.
#[must_use]
pub fn new_id() -> Uuid {
    let Some(random) = random::bytes() else { return Uuid::now_v7() };
    uuid::Builder::from_unix_timestamp_millis(clock::now().unix_ms(), &random).into_uuid()
}

/// A record that is on its way.
struct Waiting<'j> {
    journal: &'j Journal,
    id: Uuid,
    event: Event,
    answer: oneshot::Receiver<Written>,
}

impl Waiting<'_> {
    async fn written(mut self) -> Result<(), Refusal> {
        // Everybody else who is ready on this thread queues first; one of them then rings for all.
        tokio::task::yield_now().await;
        let answer = match self.answer.try_recv() {
            Ok(written) => Ok(Ok(written)),
            Err(oneshot::error::TryRecvError::Closed) => Ok(Err(())),
            Err(oneshot::error::TryRecvError::Empty) => {
                self.journal.shared.bell.ring();
                let answer = tokio::time::timeout(self.journal.wait_max, &mut self.answer).await;
                answer.map(|answer| answer.map_err(|_closed| ()))
            }
        };
        let why = match answer {
            Ok(Ok(Written::Durable)) => return Ok(()),
            Ok(Ok(Written::Failed)) => self.journal.shared.reason(),
            Ok(Err(())) => "the journal is closed".to_owned(),
            Err(_elapsed) => {
                self.journal.shared.stalled.store(true, Ordering::Relaxed);
                "the journal did not take the record in time".to_owned()
            }
        };
        Err(Refusal::AuditUnavailable(why))
    }
}

impl Drop for Waiting<'_> {
    /// A record may become durable at the moment in which nobody wants it any more. Then the call was not forwarded,
    /// and every intent has an outcome: where the writer could still tell, it says so, and otherwise this does.
    fn drop(&mut self) {
        self.answer.close();
        let unseen = matches!(self.answer.try_recv(), Ok(Written::Durable));
        if unseen && self.event == Event::Intent {
            // Where even the room for outcomes is full, the next start finds the call open.
            let _taken: bool = self.journal.note(self.id, &Outcome::new(Ending::NotForwarded));
        }
    }
}

/// What requests and the writer share.
#[derive(Debug)]
pub(super) struct Shared {
    /// Messages in the queue.
    pub(super) queued: AtomicUsize,
    /// What wakes the writer.
    pub(super) bell: Bell,
    /// The disk does not take records.
    failing: AtomicBool,
    /// Records were refused since the writer last got through.
    pub(super) stalled: AtomicBool,
    /// No more records are taken.
    closed: AtomicBool,
    /// What the disk said.
    reason: Mutex<String>,
    /// Refusals of somebody unknown.
    pub(super) refusals: Refusals,
    /// The latest checkpoint.
    pub(super) checkpoints: watch::Sender<Option<Arc<Checkpoint>>>,
}

impl Default for Shared {
    fn default() -> Self {
        Self {
            queued: AtomicUsize::new(0),
            bell: Bell::default(),
            failing: AtomicBool::new(false),
            stalled: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            reason: Mutex::default(),
            refusals: Refusals::default(),
            checkpoints: watch::Sender::new(None),
        }
    }
}

impl Shared {
    /// What the disk said last.
    pub(super) fn reason(&self) -> String {
        self.reason.lock().clone()
    }

    /// From now on records are refused at once.
    pub(super) fn failing(&self, reason: &str) {
        reason.clone_into(&mut self.reason.lock());
        self.failing.store(true, Ordering::Relaxed);
    }

    /// From now on nothing is queued but by those who have counted themselves among `queued` already.
    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
    }

    /// To be asked by whoever is counted: who is not closed out here is waited for.
    fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }

    /// From now on records are taken again.
    pub(super) fn recovered(&self) {
        self.failing.store(false, Ordering::Relaxed);
        self.stalled.store(false, Ordering::Relaxed);
    }
}

/// Refusals of somebody unknown, by source and code.
#[derive(Debug, Default)]
pub(super) struct Refusals(Mutex<Table>);

/// From where, the code, and what is wrong with the credential.
type Source = (IpAddr, &'static str, Option<&'static str>);

#[derive(Debug, Default)]
struct Table {
    counts: HashMap<Source, u64>,
    others: u64,
}

/// Sources counted one by one in a second; the others are counted together.
const SOURCES_MAX: usize = 1024;
/// Sources named in a summary.
const SOURCES_NAMED_MAX: usize = 64;

impl Refusals {
    fn add(&self, source: Source) {
        let mut table = self.0.lock();
        if table.counts.len() >= SOURCES_MAX && !table.counts.contains_key(&source) {
            table.others = table.others.saturating_add(1);
        } else {
            let count = table.counts.entry(source).or_default();
            *count = count.saturating_add(1);
        }
    }

    /// Takes what was counted: the most frequent first, and how many refusals the rest had.
    pub(super) fn take(&self) -> (Vec<Counted>, u64) {
        let table = {
            let mut table = self.0.lock();
            if table.counts.is_empty() {
                return (Vec::new(), 0);
            }
            std::mem::take(&mut *table)
        };
        let mut sources: Vec<Counted> =
            table.counts.into_iter().map(|((peer, code, fault), count)| Counted { peer, code, fault, count }).collect();
        sources.sort_by_key(|source| (std::cmp::Reverse(source.count), source.peer, source.code, source.fault));
        let rest = sources.split_off(sources.len().min(SOURCES_NAMED_MAX));
        let others = rest.iter().fold(table.others, |sum, source| sum.saturating_add(source.count));
        (sources, others)
    }
}
