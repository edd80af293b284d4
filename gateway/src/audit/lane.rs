//! Where did the journal stop?
//!
//! A journal's folder holds lanes, each one chain with one writer at a time. A lone process always writes `lane-0`;
//! during a zero-downtime upgrade the new process begins `lane-1` while the old one drains, because two writers of one
//! chain would break it. Claiming a lane recovers it: a torn tail is set aside, and calls without an outcome are found.
//! This module does not write records.

use std::{
    collections::HashSet,
    fs::{self, File, TryLockError},
    io::{self, Read as _, Seek as _, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use aws_lc_rs::hmac;
use serde_json::Value;
use uuid::Uuid;

use super::{
    chain::{Chain, Checkpoint, Header, Parts, Previous},
    keys::RootKey,
    segment::{self, Lines, Next},
};
use crate::digest::{hex, sha256};

/// A lane that this process alone writes.
#[derive(Debug)]
pub(super) struct Lane {
    /// Its folder.
    pub(super) path: PathBuf,
    /// Locked as long as it is open.
    _lock: File,
}

/// Where a lane stands after recovery.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// The chain; `None` in a new lane.
    pub(super) chain: Option<Chain>,
    /// The segment to go on after.
    pub(super) previous: Option<Previous>,
    /// The number for the next segment.
    pub(super) index: u64,
    /// Calls without an outcome.
    pub(super) open: Vec<Uuid>,
    /// Whether the last run ended with `stop`, and nothing had to be mended.
    pub(super) clean: bool,
    /// Bytes set aside, and their SHA-256.
    pub(super) torn: Option<(u64, String)>,
    /// Where the last exported checkpoint speaks of records that are not there.
    pub(super) missing_to: Option<u64>,
}

/// Why a lane cannot be taken up.
#[derive(Debug, thiserror::Error)]
pub enum LaneFault {
    /// The file system said no.
    #[error("`{}`: {error}", path.display())]
    Io {
        /// Which file or folder.
        path: PathBuf,
        /// What it said.
        error: io::Error,
    },
    /// The chain is under another key; going on would make it unverifiable.
    #[error("`{}` was written under another audit key (`{found}`, not `{expected}`)", path.display())]
    KeyChanged {
        /// The segment.
        path: PathBuf,
        /// The name of its key.
        found: String,
        /// The name of the key given.
        expected: String,
    },
    /// Every lane is being written.
    #[error("all {LANES_MAX} lanes of `{}` are being written by other processes", .0.display())]
    AllTaken(PathBuf),
}

/// Two during an upgrade; the rest is for upgrades that overlap.
const LANES_MAX: u32 = 8;

impl Lane {
    /// Claims the lanes that nobody writes and that exist, and at least one; the first is for use, the others may need
    /// an end to be written.
    pub(super) fn claim(folder: &Path) -> Result<(Self, Vec<Self>), LaneFault> {
        let mut claimed = None;
        let mut others = Vec::new();
        for number in 0..LANES_MAX {
            let path = folder.join(format!("lane-{number}"));
            if !path.exists() && claimed.is_some() {
                continue;
            }
            let lane = Self::lock(&path).map_err(|error| LaneFault::Io { path, error })?;
            match (lane, &claimed) {
                (Some(lane), None) => claimed = Some(lane),
                (Some(lane), Some(_)) => others.push(lane),
                (None, _) => {}
            }
        }
        // A lane that was just made is to be found after a power cut, with what will be in it.
        segment::sync_folder(folder).map_err(|error| LaneFault::Io { path: folder.to_owned(), error })?;
        claimed.map(|lane| (lane, others)).ok_or_else(|| LaneFault::AllTaken(folder.to_owned()))
    }

    fn lock(path: &Path) -> io::Result<Option<Self>> {
        fs::create_dir_all(path)?;
        let file = fs::OpenOptions::new().write(true).create(true).truncate(false).open(path.join("lock"))?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Self { path: path.to_owned(), _lock: file })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    /// Finds where the lane stopped, and sets aside what is not a whole record.
    pub(super) fn recover(&self, key: &RootKey) -> Result<Found, LaneFault> {
        let at = |path: &Path| {
            let path = path.to_owned();
            move |error| LaneFault::Io { path, error }
        };
        let mut found = Found { index: 1, clean: true, ..Found::default() };
        let export = self.path.join(EXPORT_FILE);
        mend_export(&export).map_err(at(&export))?;
        let mut segments = segment::list(&self.path).map_err(at(&self.path))?;
        while let Some((index, path)) = segments.pop() {
            let mut scan = Scan::read(&path, key, None)?;
            if scan.torn > 0 {
                found.torn = Some(set_aside(&path, scan.length).map_err(at(&path))?);
                found.clean = false;
            }
            let Some(chain) = scan.chain else {
                // Not even the header is whole: the process died making it.
                fs::remove_file(&path).map_err(at(&path))?;
                found.clean = false;
                found.index = index;
                continue;
            };
            trim(&path, scan.length).map_err(at(&path))?;
            let name = segment::name(index);
            found.previous = Some(Previous { name, seq: chain.seq, mac: chain.head, bytes: scan.length });
            found.chain = Some(chain);
            found.index = index.saturating_add(1);
            // Where not even its beginning may be whole, which says what is open, the segment before it says that.
            while let (true, Some(previous)) = (scan.only_begun, scan.previous.take()) {
                let before = Scan::read(&self.path.join(&previous.name), key, Some(previous.bytes))?;
                scan.open.extend(before.open);
                (scan.only_begun, scan.previous) = (before.only_begun, before.previous);
            }
            found.clean &= scan.stopped && scan.open.is_empty();
            found.open = scan.open.into_iter().collect();
            found.open.sort();
            break;
        }
        found.missing_to = self.missing_to(found.chain.as_ref());
        found.clean &= found.missing_to.is_none();
        segment::sync_folder(&self.path).map_err(at(&self.path))?;
        Ok(found)
    }

    /// The number that the last exported checkpoint gives, where the chain ends before it, or is another.
    fn missing_to(&self, chain: Option<&Chain>) -> Option<u64> {
        let last = EXPORT_FILES.iter().rev().find_map(|name| {
            let text = fs::read_to_string(self.path.join(name)).ok()?;
            text.lines().rev().find_map(Checkpoint::parse)
        })?;
        let is_there = chain.is_some_and(|chain| last.chain == chain.id && last.seq <= chain.seq);
        (!is_there).then_some(last.seq)
    }

    /// Appends a checkpoint to those that lie beside the segments.
    pub(super) fn export(&self, checkpoint: &Checkpoint) -> io::Result<()> {
        let [full, path] = EXPORT_FILES.map(|name| self.path.join(name));
        let open = || fs::OpenOptions::new().append(true).create(true).mode(0o640).open(&path);
        let mut file = open()?;
        let mut length = file.metadata()?.len();
        if length >= EXPORT_BYTES_MAX {
            fs::rename(&path, full)?;
            (file, length) = (open()?, 0);
        }
        // Half a line would spoil the next one.
        let line = format!("{}\n", checkpoint.export());
        file.write_all(line.as_bytes()).or_else(|error| file.set_len(length).and(Err(error)))
    }
}

/// Checkpoints, for a shipper to carry off the machine.
pub(super) const EXPORT_FILE: &str = "checkpoints.jsonl";
/// The older ones first, as log rotation names them.
pub(super) const EXPORT_FILES: [&str; 2] = ["checkpoints.jsonl.1", EXPORT_FILE];
/// Some hours of them: which are elsewhere by then, and all of which the chain has, too.
pub(super) const EXPORT_BYTES_MAX: u64 = 4 << 20;

/// What a segment holds up to its first record that does not verify.
#[derive(Debug, Default)]
struct Scan {
    chain: Option<Chain>,
    length: u64,
    torn: u64,
    open: HashSet<Uuid>,
    stopped: bool,
    /// Whether there is nothing in it but what a segment begins with.
    only_begun: bool,
    previous: Option<Previous>,
}

impl Scan {
    /// Reads as far as `end`, where that is known.
    fn read(path: &Path, key: &RootKey, end: Option<u64>) -> Result<Self, LaneFault> {
        let io = |error| LaneFault::Io { path: path.to_owned(), error };
        let mut scan = Self { only_begun: true, ..Self::default() };
        let mut lines = Lines::open(path).map_err(io)?;
        loop {
            if end == Some(scan.length) {
                return Ok(scan);
            }
            match lines.next().map_err(io)? {
                Next::Line(offset, line) => {
                    let taken = match scan.chain {
                        None => scan.begin(path, line, key)?,
                        Some(chain) => scan.take(chain, line, &key.chain),
                    };
                    let end = offset.saturating_add(u64::try_from(line.len()).unwrap_or(u64::MAX)).saturating_add(1);
                    if !taken {
                        scan.torn = end.saturating_sub(offset);
                        return Ok(scan);
                    }
                    scan.length = end;
                }
                Next::Torn(bytes) => {
                    scan.torn = bytes;
                    return Ok(scan);
                }
                Next::End => return Ok(scan),
            }
        }
    }

    /// Takes the header.
    fn begin(&mut self, path: &Path, line: &[u8], key: &RootKey) -> Result<bool, LaneFault> {
        let parsed = serde_json::from_slice::<Value>(line).ok();
        let Some(header) = parsed.as_ref().and_then(Header::parse) else { return Ok(false) };
        if header.key != key.id {
            let expected = key.id.clone();
            return Err(LaneFault::KeyChanged { path: path.to_owned(), found: header.key, expected });
        }
        let chain = Chain { id: header.chain, seq: header.origin_seq(), head: header.origin() };
        self.previous = header.previous;
        Ok(self.take(chain, line, &key.chain))
    }

    /// Takes a record, if it follows.
    fn take(&mut self, chain: Chain, line: &[u8], key: &hmac::Key) -> bool {
        let Some(parts) = Parts::of(line) else { return false };
        if Some(parts.seq) != chain.seq.checked_add(1) || !parts.follows(key, &chain.head) {
            return false;
        }
        self.chain = Some(Chain { id: chain.id, seq: parts.seq, head: parts.mac });
        let Some((event, id)) = event_and_id(line) else { return true };
        match event {
            "intent" => {
                self.open.insert(id);
            }
            "outcome" => {
                self.open.remove(&id);
            }
            "open_calls" => self.open.extend(open_calls(line)),
            _ => {}
        }
        self.only_begun &= matches!(event, "segment" | "open_calls" | "recovered");
        if event != "checkpoint" {
            self.stopped = event == "stop";
        }
        true
    }
}

/// Event and id of a record, by their fixed places at the head of the line.
pub(super) fn event_and_id(line: &[u8]) -> Option<(&str, Uuid)> {
    let text = std::str::from_utf8(line).ok()?;
    let rest = text.split_once(",\"event\":\"")?.1;
    let (event, rest) = rest.split_once("\",\"id\":\"")?;
    Some((event, rest.get(..36)?.parse().ok()?))
}

/// The ids of an `open_calls` record.
fn open_calls(line: &[u8]) -> Vec<Uuid> {
    let parsed = serde_json::from_slice::<Value>(line).unwrap_or_default();
    let calls = parsed.get("open_calls").and_then(Value::as_array);
    calls.into_iter().flatten().filter_map(|call| call.get("id")?.as_str()?.parse().ok()).collect()
}

/// Keeps what stands past `length` in a file of its own, as evidence; says how much that is and its SHA-256.
fn set_aside(path: &Path, length: u64) -> io::Result<(u64, String)> {
    let mut tail = Vec::new();
    let mut file = File::open(path)?;
    file.seek(io::SeekFrom::Start(length))?;
    file.read_to_end(&mut tail)?;
    let end = tail.iter().rposition(|byte| *byte != 0).map_or(0, |last| last.saturating_add(1));
    tail.truncate(end);
    let mut nth = 0_u32;
    let kept = loop {
        let kept = path.with_extension(format!("torn-{nth}"));
        if !kept.exists() {
            break kept;
        }
        nth = nth.saturating_add(1);
    };
    fs::write(&kept, &tail)?;
    File::open(&kept)?.sync_all()?;
    let digest = hex(&sha256(&tail));
    Ok((u64::try_from(end).unwrap_or(u64::MAX), digest))
}

/// Cuts off a last line without its end, so that the next checkpoint begins a line of its own.
fn mend_export(path: &Path) -> io::Result<()> {
    match fs::read(path) {
        Ok(bytes) => {
            let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |last| last.saturating_add(1));
            if whole < bytes.len() {
                trim(path, u64::try_from(whole).unwrap_or(u64::MAX))?;
            }
            Ok(())
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

fn trim(path: &Path, length: u64) -> io::Result<()> {
    let file = fs::OpenOptions::new().write(true).open(path)?;
    file.set_len(length)?;
    file.sync_all()
}
