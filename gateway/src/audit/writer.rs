//! How do many records become durable with one sync?
//!
//! One thread owns a lane. It takes whatever has queued up, chains it, writes it once, syncs once if any of it asked
//! for that, and wakes everybody: a natural group commit, without a linger. When the disk fails, everybody is told at
//! once and the thread tries to begin a new segment, ever less often, until it can: a segment whose sync failed is never
//! written again, because the kernel may have dropped its pages. This module does not know who waits.

use std::{
    collections::HashSet,
    io,
    sync::{
        Arc,
        atomic::Ordering,
        mpsc::{Receiver, TryRecvError},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use tokio::sync::oneshot;
use uuid::Uuid;

use super::{
    bell::DOZE,
    chain::{Chain, Checkpoint, Header, OPEN_CALLS_MAX, OpenCalls, Opened, Previous},
    journal::{Shared, keyed, new_id},
    keys::Keys,
    lane::{Found, Lane},
    record::{self, Ending, Event, Outcome, Record, Recovered, Rfc3339, Stamp, Summary},
    segment::{Ahead, Segment},
};
use crate::{clock, config::Durability, telemetry::metrics};

/// A record on its way to the disk.
#[derive(Debug)]
pub(super) struct Entry {
    /// The line, without its end.
    pub(super) line: Vec<u8>,
    /// The id that joins intent and outcome.
    pub(super) id: Uuid,
    /// What it is about.
    pub(super) event: Event,
    /// When it counts as written.
    pub(super) durability: Durability,
    /// Who waits for it.
    pub(super) waiter: Option<oneshot::Sender<Written>>,
    /// What was answered, where the record is to have its digest and has none yet: a short text, kept no longer than the
    /// record is queued.
    pub(super) answer: Option<Bytes>,
}

/// What the writer says to whoever waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Written {
    /// The record is durable.
    Durable,
    /// It is not, and will not be.
    Failed,
}

/// What comes through the queue.
#[derive(Debug)]
pub(super) enum Message {
    /// Write this.
    Entry(Entry),
    /// End the journal, and say when that is done.
    Close(oneshot::Sender<Written>),
}

/// What a writer goes by.
#[derive(Debug, Clone)]
pub(super) struct Rules {
    /// When a checkpoint counts as written, and whether space is written ahead.
    pub(super) durability: Durability,
    /// A segment is closed at this size.
    pub(super) segment_bytes_max: u64,
    /// A segment is closed at this age.
    pub(super) segment_age_max: Duration,
    /// Records without a waiter that are kept in memory while the disk fails.
    pub(super) backlog_max: usize,
    /// When the journal was opened.
    pub(super) opened: Instant,
}

/// The owner of a lane.
#[derive(Debug)]
pub(super) struct Writer {
    lane: Lane,
    keys: Arc<Keys>,
    shared: Arc<Shared>,
    rules: Rules,
    chain: Chain,
    index: u64,
    state: State,
    /// Calls whose outcome is not written.
    open: HashSet<Uuid>,
    /// Where chain and segment stood when all before that was last known to be kept.
    settled: Settled,
    /// What was written since: the kernel may drop it where a sync fails, and then it is written again.
    unsettled: Vec<Entry>,
    /// Records that nobody waits for and that a failing disk has not taken yet.
    backlog: Vec<Entry>,
    /// The batch's bytes, kept to be used again.
    buffer: Vec<u8>,
    /// Records since the last checkpoint.
    unsigned: u64,
    signed_at: Instant,
    segment_began: Instant,
    /// Records of the segment that are not its own.
    segment_records: u64,
}

#[derive(Debug)]
enum State {
    Writing(Segment),
    Failing(Failure),
}

/// A disk that does not take records.
#[derive(Debug)]
struct Failure {
    /// The segment that was sealed by it, cut where it was last whole.
    sealed: Option<Segment>,
    previous: Option<Previous>,
    reason: String,
    retry_at: Instant,
    backoff: Duration,
    lost: u64,
}

/// Where chain and segment stood.
#[derive(Debug, Clone, Copy)]
struct Settled {
    chain: Chain,
    length: u64,
}

impl Writer {
    /// Takes up a recovered lane: begins a segment and writes down what recovery found.
    pub(super) fn begin(
        lane: Lane,
        found: Found,
        keys: Arc<Keys>,
        shared: Arc<Shared>,
        rules: Rules,
    ) -> io::Result<Self> {
        let now = clock::instant();
        let chain = found.chain.unwrap_or_else(|| Chain::new(new_id()));
        let mut writer = Self {
            lane,
            keys,
            shared,
            rules,
            chain,
            index: found.index,
            state: State::Failing(Failure {
                sealed: None,
                previous: None,
                reason: String::new(),
                retry_at: now,
                backoff: BACKOFF_MIN,
                lost: 0,
            }),
            // Until their outcomes are kept, the new segment says that they are open.
            open: found.open.iter().copied().collect(),
            settled: Settled { chain, length: 0 },
            unsettled: Vec::new(),
            backlog: Vec::new(),
            buffer: Vec::new(),
            unsigned: 0,
            signed_at: now,
            segment_began: now,
            segment_records: 0,
        };
        for call in &found.open {
            let mut outcome = Outcome::new(Ending::Unknown);
            outcome.reason = Some("the gateway ended before it was recorded");
            let entry = writer.entry(*call, &outcome);
            writer.backlog.push(entry);
        }
        let (bytes_dropped, digest) = found.torn.unzip();
        let recovered = (!found.clean).then(|| Recovered {
            cause: "crash",
            reason: None,
            segment: found.previous.as_ref().map(|previous| previous.name.as_str()),
            bytes_dropped: bytes_dropped.unwrap_or(0),
            digest: digest.as_deref(),
            open_calls: u64::try_from(found.open.len()).unwrap_or(u64::MAX),
            missing_to: found.missing_to,
            lost: 0,
        });
        writer.next_segment(Opened::Start, found.previous.clone(), recovered.as_ref())?;
        let Ok(()) = writer.commit(&mut Vec::new()) else {
            return Err(io::Error::other(writer.shared.reason()));
        };
        Ok(writer)
    }

    /// Writes until the queue is closed.
    pub(super) fn run(mut self, queue: &Receiver<Message>) {
        let mut batch = Vec::new();
        let mut tick = clock::instant();
        let mut wrote = false;
        self.shared.bell.belongs_here();
        loop {
            let until = match &self.state {
                State::Writing(_) => tick,
                State::Failing(failure) => tick.min(failure.retry_at),
            };
            let wait = until.saturating_duration_since(clock::instant());
            let wait = if wrote { wait.min(DOZE) } else { wait };
            self.shared.bell.doze(wrote);
            let close = self.gather(queue, wait, &mut batch);
            wrote = !batch.is_empty();
            // Whatever happened to the batch, those who wait for it have been told.
            self.turn(&mut batch);
            if clock::instant() >= tick {
                self.tick();
                tick = clock::instant().checked_add(TICK).unwrap_or(tick);
            }
            if let Some(done) = close {
                let written = self.last(queue, &mut batch);
                if let Some(done) = done {
                    // Nobody may be waiting any more; the journal is closed all the same.
                    done.send(written).ok();
                }
                return;
            }
        }
    }

    /// Writes what came in behind the order to end, and ends.
    fn last(mut self, queue: &Receiver<Message>, batch: &mut Vec<Entry>) -> Written {
        self.shared.close();
        if let State::Failing(failure) = &mut self.state {
            // There is no later time to try.
            failure.retry_at = clock::instant();
        }
        self.tick();
        loop {
            // Whoever counted themselves before is at it; from then on nobody is let in.
            let rest = self.shared.queued.load(Ordering::SeqCst) > 0;
            // Another order to end is told by the end.
            let _again = self.take(queue, batch);
            self.turn(batch);
            if !rest {
                return self.end();
            }
            std::thread::yield_now();
        }
    }

    /// Takes what is queued, or what is queued after at most `wait`. `Some` says that the journal ends.
    fn gather(
        &self,
        queue: &Receiver<Message>,
        wait: Duration,
        batch: &mut Vec<Entry>,
    ) -> Option<Option<oneshot::Sender<Written>>> {
        let close = self.take(queue, batch);
        if close.is_some() || !batch.is_empty() {
            return close;
        }
        self.shared.bell.sleep(wait);
        self.take(queue, batch)
    }

    /// Takes what is queued now. Nobody is ever waiting at the queue itself, so that queueing wakes nobody.
    fn take(&self, queue: &Receiver<Message>, batch: &mut Vec<Entry>) -> Option<Option<oneshot::Sender<Written>>> {
        while batch.len() < BATCH_MAX {
            match queue.try_recv() {
                Ok(Message::Entry(mut entry)) => {
                    if let Some(answer) = entry.answer.take() {
                        record::add_digest(&mut entry.line, &keyed(&self.keys.root.arguments, &answer));
                    }
                    batch.push(entry);
                }
                Ok(Message::Close(done)) => return Some(Some(done)),
                Err(TryRecvError::Empty) => return None,
                Err(TryRecvError::Disconnected) => return Some(None),
            }
            self.shared.queued.fetch_sub(1, Ordering::Relaxed);
        }
        None
    }

    /// Writes a batch, or tells everybody that it cannot be.
    fn turn(&mut self, batch: &mut Vec<Entry>) {
        if let State::Failing(failure) = &self.state
            && (clock::instant() < failure.retry_at || self.resume().is_err())
        {
            self.refuse(batch);
            return;
        }
        if batch.is_empty() && self.backlog.is_empty() {
            return;
        }
        let (began, records) = (clock::instant(), u64::try_from(batch.len()).unwrap_or(u64::MAX));
        metrics().audit_queue.set(i64::try_from(self.shared.queued.load(Ordering::Relaxed)).unwrap_or(i64::MAX));
        if self.commit(batch).is_ok() {
            self.shared.stalled.store(false, Ordering::Relaxed);
            metrics().audit_records.add(records);
            metrics().audit_commit.record(began.elapsed());
        } else {
            metrics().audit_failures.add(records);
        }
    }

    /// Writes `batch`, after the backlog. An error has been dealt with; it is returned to say that there was one.
    fn commit(&mut self, batch: &mut Vec<Entry>) -> Result<(), ()> {
        if !self.backlog.is_empty() {
            let late = std::mem::take(batch);
            batch.append(&mut self.backlog);
            batch.extend(late);
        }
        if self.due_for_rotation(batch) {
            self.rotate(batch)?;
        }
        let (sync, checkpoint) = self.chain_up(batch);
        let State::Writing(segment) = &mut self.state else { return Err(()) };
        let mut result = segment.append(&self.buffer);
        if result.is_ok() {
            acknowledge(batch, Durability::Os, &mut self.backlog, self.rules.opened);
            if sync {
                result = segment.sync();
            }
        }
        if let Err(error) = result {
            self.fail(&error, batch);
            return Err(());
        }
        acknowledge(batch, Durability::Fsync, &mut self.backlog, self.rules.opened);
        self.segment_records = self.segment_records.saturating_add(u64::try_from(batch.len()).unwrap_or(u64::MAX));
        self.unsettled.append(batch);
        // With `os` nobody waits for syncs, and what was handed over counts as kept.
        if sync || self.rules.durability == Durability::Os {
            self.settle();
        }
        if let Some(checkpoint) = checkpoint {
            self.export(&checkpoint);
        }
        Ok(())
    }

    /// Chains `batch` into the buffer. Records whose waiter has gone are left out: nothing was done on their strength.
    fn chain_up(&mut self, batch: &mut Vec<Entry>) -> (bool, Option<Checkpoint>) {
        let State::Writing(segment) = &self.state else { return (false, None) };
        let name = segment.name.clone();
        batch.retain(|entry| entry.waiter.as_ref().is_none_or(|waiter| !waiter.is_closed()));
        self.buffer.clear();
        let mut sync = false;
        for entry in batch.iter() {
            self.chain.seal(&self.keys.root.chain, &entry.line, &mut self.buffer);
            sync |= entry.durability == Durability::Fsync;
        }
        self.unsigned = self.unsigned.saturating_add(u64::try_from(batch.len()).unwrap_or(u64::MAX));
        let due =
            self.unsigned >= CHECKPOINT_RECORDS || (self.unsigned > 0 && self.signed_at.elapsed() >= CHECKPOINT_AGE);
        let checkpoint = due.then(|| self.sign(&name));
        sync |= due && self.rules.durability == Durability::Fsync;
        (sync, checkpoint)
    }

    /// Signs where the chain stands, and appends that to the buffer as a record.
    fn sign(&mut self, segment: &str) -> Checkpoint {
        let at = Rfc3339(clock::now()).to_string();
        let checkpoint = Checkpoint::sign(&self.chain, segment, at, &self.keys.signing);
        let line = record::line(new_id(), self.stamp(), &checkpoint);
        self.chain.seal(&self.keys.root.chain, &line, &mut self.buffer);
        self.unsigned = 0;
        self.signed_at = clock::instant();
        checkpoint
    }

    /// Gives a checkpoint that is itself written to those who keep it elsewhere.
    fn export(&self, checkpoint: &Checkpoint) {
        if let Err(error) = self.lane.export(checkpoint) {
            tracing::error!(%error, "audit checkpoint not exported to its file");
        }
        self.shared.checkpoints.send_replace(Some(Arc::new(checkpoint.clone())));
    }

    /// All that was written is kept.
    fn settle(&mut self) {
        let State::Writing(segment) = &self.state else { return };
        self.settled = Settled { chain: self.chain, length: segment.length };
        for entry in self.unsettled.drain(..) {
            if entry.event == Event::Intent {
                self.open.insert(entry.id);
            } else if entry.event == Event::Outcome {
                self.open.remove(&entry.id);
            }
        }
    }

    fn due_for_rotation(&self, batch: &[Entry]) -> bool {
        let State::Writing(segment) = &self.state else { return false };
        let coming = batch.iter().fold(0_u64, |sum, entry| {
            sum.saturating_add(u64::try_from(entry.line.len()).unwrap_or(u64::MAX)).saturating_add(LINE_END_BYTES)
        });
        let full = segment.length.saturating_add(coming) > self.rules.segment_bytes_max;
        let old = self.segment_began.elapsed() >= self.rules.segment_age_max;
        self.segment_records > 0 && (full || old)
    }

    /// Seals the segment under a checkpoint and begins the next. An error has been dealt with.
    fn rotate(&mut self, batch: &mut Vec<Entry>) -> Result<(), ()> {
        let next = self.seal().and_then(|previous| self.next_segment(Opened::Rotation, Some(previous), None));
        next.map_err(|error| self.fail(&error, batch))
    }

    /// Ends the segment under a checkpoint.
    fn seal(&mut self) -> io::Result<Previous> {
        let State::Writing(segment) = &self.state else { return Err(io::ErrorKind::NotConnected.into()) };
        let name = segment.name.clone();
        self.buffer.clear();
        let checkpoint = self.sign(&name);
        let State::Writing(segment) = &mut self.state else { return Err(io::ErrorKind::NotConnected.into()) };
        segment.append(&self.buffer)?;
        segment.seal()?;
        let bytes = segment.length;
        self.settle();
        self.export(&checkpoint);
        Ok(Previous { name, seq: self.chain.seq, mac: self.chain.head, bytes })
    }

    /// Begins a segment: its header, the calls that are open, and what was mended before it. Leaves nothing behind where that
    /// fails.
    fn next_segment(
        &mut self,
        opened: Opened,
        previous: Option<Previous>,
        recovered: Option<&Recovered<'_>>,
    ) -> io::Result<()> {
        let chain = self.chain;
        let ahead = match self.rules.durability {
            Durability::Fsync => Ahead::Zeros(AHEAD_BYTES.min(self.rules.segment_bytes_max)),
            Durability::Os => Ahead::Nothing,
        };
        let created = Segment::create(&self.lane.path, self.index, ahead);
        if created.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::AlreadyExists) {
            // Left behind by a try that failed: its number is spent.
            self.index = self.index.saturating_add(1);
        }
        let mut segment = created?;
        let key = self.keys.root.id.clone();
        let header = Header { chain: chain.id, index: self.index, opened, key, previous };
        let mut lines = vec![record::line(new_id(), self.stamp(), &header)];
        let open: Vec<Uuid> = self.open.iter().copied().collect();
        for calls in open.chunks(OPEN_CALLS_MAX) {
            lines.push(record::line(new_id(), self.stamp(), &OpenCalls(calls)));
        }
        lines.extend(recovered.map(|recovered| record::line(new_id(), self.stamp(), recovered)));
        self.buffer.clear();
        for line in &lines {
            self.chain.seal(&self.keys.root.chain, line, &mut self.buffer);
        }
        if let Err(error) = segment.append(&self.buffer).and_then(|()| segment.sync()) {
            self.chain = chain;
            if let Err(left) = segment.remove() {
                // The number is spent; the next try takes another.
                tracing::error!(error = %left, "audit segment left behind");
                self.index = self.index.saturating_add(1);
            }
            return Err(error);
        }
        self.index = self.index.saturating_add(1);
        self.state = State::Writing(segment);
        self.settle();
        self.segment_began = clock::instant();
        self.segment_records = 0;
        Ok(())
    }

    /// The disk did not take a batch: goes back to where all was kept, tells those who wait, keeps the rest.
    fn fail(&mut self, error: &io::Error, batch: &mut Vec<Entry>) {
        tracing::error!(%error, "audit journal cannot be written; calls are refused until it can");
        let Settled { chain, length } = self.settled;
        self.chain = chain;
        // A checkpoint may be among what was not written.
        self.unsigned = self.unsigned.max(1);
        let backoff = BACKOFF_MIN;
        let retry_at = clock::instant().checked_add(backoff).unwrap_or_else(clock::instant);
        let reason = error.to_string();
        self.shared.failing(&reason);
        let failure = Failure { sealed: None, previous: None, reason, retry_at, backoff, lost: 0 };
        if let State::Writing(mut segment) = std::mem::replace(&mut self.state, State::Failing(failure))
            && let State::Failing(failure) = &mut self.state
        {
            segment.length = length;
            failure.previous =
                Some(Previous { name: segment.name.clone(), seq: self.chain.seq, mac: self.chain.head, bytes: length });
            failure.sealed = Some(segment);
        }
        self.unsettled.append(batch);
        std::mem::swap(&mut self.unsettled, batch);
        // What came of these comes after them.
        let late = std::mem::take(&mut self.backlog);
        self.refuse(batch);
        self.backlog.extend(late);
    }

    /// Tells those who wait that their record is not durable, and keeps the rest for when it can be. Half of the room is for
    /// calls that were forwarded: what was refused meanwhile cannot take it.
    fn refuse(&mut self, batch: &mut Vec<Entry>) {
        let mut lost = 0_u64;
        for mut entry in batch.drain(..) {
            let forwarded = matches!(entry.event, Event::Intent | Event::Outcome);
            let room = if forwarded { self.rules.backlog_max } else { self.rules.backlog_max / 2 };
            if let Some(waiter) = entry.waiter.take() {
                // Whoever stopped waiting has not acted either.
                waiter.send(Written::Failed).ok();
            } else if self.backlog.len() < room {
                self.backlog.push(entry);
            } else {
                lost = lost.saturating_add(1);
            }
        }
        if let State::Failing(failure) = &mut self.state {
            failure.lost = failure.lost.saturating_add(lost);
        }
    }

    /// Tries to begin a new segment after a failure; less and less often.
    fn resume(&mut self) -> io::Result<()> {
        let State::Failing(failure) = &mut self.state else { return Ok(()) };
        let previous = failure.previous.clone();
        let sealed = failure.sealed.take();
        let (reason, lost) = (failure.reason.clone(), failure.lost);
        let recovered = Recovered {
            cause: "disk",
            reason: Some(&reason),
            segment: previous.as_ref().map(|previous| previous.name.as_str()),
            open_calls: u64::try_from(self.open.len()).unwrap_or(u64::MAX),
            lost,
            ..Recovered::default()
        };
        if let Err(error) = self.next_segment(Opened::Failure, previous.clone(), Some(&recovered)) {
            if let State::Failing(failure) = &mut self.state {
                failure.sealed = sealed;
                failure.backoff = failure.backoff.saturating_mul(2).min(BACKOFF_MAX);
                failure.retry_at = clock::instant().checked_add(failure.backoff).unwrap_or(failure.retry_at);
            }
            self.shared.failing(&error.to_string());
            return Err(error);
        }
        if let Some(Err(error)) = sealed.map(|segment| segment.seal()) {
            // The new segment's header says where the old one ends, so what is left behind there proves nothing.
            tracing::warn!(%error, "audit segment not cut to its last durable record");
        }
        // The proof that the disk takes records again is that it takes the backlog.
        if self.commit(&mut Vec::new()).is_err() {
            return Err(io::Error::other(self.shared.reason()));
        }
        self.shared.recovered();
        tracing::info!("audit journal can be written again");
        Ok(())
    }

    /// What is due about once a second.
    fn tick(&mut self) {
        let (sources, others) = self.shared.refusals.take();
        if !sources.is_empty() {
            let entry = self.entry(new_id(), &Summary { sources: &sources, others });
            self.turn(&mut vec![entry]);
        }
        if matches!(self.state, State::Writing(_)) {
            self.shared.stalled.store(false, Ordering::Relaxed);
        }
        let signing_due = self.unsigned > 0 && self.signed_at.elapsed() >= CHECKPOINT_AGE;
        if matches!(self.state, State::Writing(_)) && (signing_due || self.due_for_rotation(&[])) {
            // The error, if any, has been dealt with.
            self.commit(&mut Vec::new()).unwrap_or_default();
        }
    }

    /// Ends the lane under a checkpoint.
    fn end(mut self) -> Written {
        match self.seal() {
            Ok(_sealed) => Written::Durable,
            Err(error) => {
                tracing::error!(%error, "audit journal not sealed; the next start recovers it");
                Written::Failed
            }
        }
    }

    /// Ends a lane that was only taken up to be mended.
    pub(super) fn close(self) {
        self.end();
    }

    fn stamp(&self) -> Stamp {
        stamp(self.rules.opened)
    }

    fn entry<R: Record>(&self, id: Uuid, record: &R) -> Entry {
        entry(id, record, self.rules.opened)
    }
}

/// A record of the journal itself.
fn entry<R: Record>(id: Uuid, record: &R, opened: Instant) -> Entry {
    let line = record::line(id, stamp(opened), record);
    Entry { line, id, event: record.event(), durability: Durability::Os, waiter: None, answer: None }
}

/// Now, by both clocks.
pub(super) fn stamp(opened: Instant) -> Stamp {
    let elapsed = clock::instant().saturating_duration_since(opened);
    Stamp { now: clock::now(), monotonic_ms: u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX) }
}

/// Wakes those who asked for at most `durability`. Where nobody waits any more the call was not forwarded, and the
/// journal says so itself.
fn acknowledge(batch: &mut [Entry], durability: Durability, backlog: &mut Vec<Entry>, opened: Instant) {
    for entry in batch.iter_mut().filter(|entry| entry.durability <= durability) {
        let Some(waiter) = entry.waiter.take() else { continue };
        if waiter.send(Written::Durable).is_err() && entry.event == Event::Intent {
            backlog.push(self::entry(entry.id, &Outcome::new(Ending::NotForwarded), opened));
        }
    }
}

/// How often the writer looks up when nothing comes.
const TICK: Duration = Duration::from_millis(1000);
/// A checkpoint at least so often, when there are records.
const CHECKPOINT_AGE: Duration = Duration::from_millis(1000);
/// A checkpoint after so many records.
const CHECKPOINT_RECORDS: u64 = 1000;
/// Bounds the time that the first of a batch waits for the last.
const BATCH_MAX: usize = 4096;
/// Zeros written ahead at a time: a thousand records, so that the dearer sync is one in a thousand records.
const AHEAD_BYTES: u64 = 1 << 20;
/// `,"seq":…,"mac":"…"}` and a line feed, rounded up.
const LINE_END_BYTES: u64 = 104;
const BACKOFF_MIN: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::{
        keys::{RootKey, public_of_folder},
        record::Stop,
        verify::verify,
    };

    fn writer(folder: &std::path::Path, durability: Durability) -> Writer {
        let keys = Arc::new(Keys::open(folder, None).unwrap());
        let (lane, _others) = Lane::claim(folder).unwrap();
        let found = lane.recover(&keys.root).unwrap();
        let rules = Rules {
            durability,
            segment_bytes_max: 1 << 20,
            segment_age_max: Duration::from_secs(3600),
            backlog_max: 64,
            opened: clock::instant(),
        };
        Writer::begin(lane, found, keys, Arc::default(), rules).unwrap()
    }

    fn write(writer: &mut Writer, reason: &str) {
        let entry = writer.entry(new_id(), &Stop { reason });
        writer.commit(&mut vec![entry]).unwrap();
    }

    /// The reasons that were written, in order, once all of it is proved.
    fn reasons(folder: &std::path::Path) -> Vec<String> {
        verify(folder, &RootKey::of_folder(folder).unwrap(), &public_of_folder(folder).unwrap(), &[]).unwrap();
        let mut reasons = Vec::new();
        for (_, path) in crate::audit::segment::list(&folder.join("lane-0")).unwrap() {
            let text = std::fs::read_to_string(path).unwrap();
            for line in text.trim_end_matches('\0').lines() {
                let Ok(record) = serde_json::from_str::<serde_json::Value>(line) else { continue };
                reasons.extend(record["process"]["reason"].as_str().map(str::to_owned));
            }
        }
        reasons
    }

    #[test]
    fn what_was_not_synced_is_written_again_after_a_failed_sync() {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = writer(folder.path(), Durability::Fsync);
        let (kept, segment) =
            (writer.settled.length, folder.path().join("lane-0").join(crate::audit::segment::name(1)));
        write(&mut writer, "one");
        write(&mut writer, "two");
        let late = writer.entry(new_id(), &Stop { reason: "three" });
        writer.fail(&io::Error::other("no sync"), &mut vec![late]);
        // The kernel drops what it could not write.
        let mut bytes = std::fs::read(&segment).unwrap();
        bytes.get_mut(usize::try_from(kept).unwrap()..).unwrap().fill(0);
        std::fs::write(segment, bytes).unwrap();
        writer.resume().unwrap();
        assert_eq!(writer.end(), Written::Durable);
        assert_eq!(reasons(folder.path()), ["one", "two", "three"]);
    }

    #[test]
    fn a_segment_that_never_began_and_could_not_be_removed_is_passed_over() {
        for whole in [true, false] {
            let folder = tempfile::tempdir().unwrap();
            let mut writer = writer(folder.path(), Durability::Os);
            write(&mut writer, "one");
            let (previous, chain) = (writer.seal().unwrap(), writer.chain);
            for number in [2, 3] {
                writer.next_segment(Opened::Rotation, Some(previous.clone()), None).unwrap();
                if !whole {
                    let left = folder.path().join("lane-0").join(crate::audit::segment::name(number));
                    std::fs::write(left, "{\"schema\":").unwrap();
                }
                writer.chain = chain;
            }
            // A file where the next one is to be.
            std::fs::write(folder.path().join("lane-0").join(crate::audit::segment::name(4)), "").unwrap();
            writer.next_segment(Opened::Failure, Some(previous.clone()), None).unwrap_err();
            writer.next_segment(Opened::Failure, Some(previous), None).unwrap();
            write(&mut writer, "two");
            assert_eq!(writer.end(), Written::Durable);
            assert_eq!(reasons(folder.path()).last().map(String::as_str), Some("two"), "whole: {whole}");
        }
    }
}
