//! Is it all still there, unchanged?
//!
//! Offline: reads a journal's folder and either proves every record of every lane or names the first that is not as it
//! was written. The chain's key proves records; the public key proves checkpoints, and checkpoints kept elsewhere prove
//! that no tail is missing. It changes nothing, and can run beside the gateway.

use std::{
    collections::BTreeMap,
    fmt, fs, io,
    path::{Path, PathBuf},
};

use serde_json::Value;
use uuid::Uuid;

use super::{
    chain::{Chain, Checkpoint, Header, Parts},
    keys::RootKey,
    lane::{EXPORT_FILE, EXPORT_FILES, event_and_id},
    segment::{self, Lines, Next},
};

/// What was proved.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Report {
    /// Lane by lane.
    pub lanes: Vec<LaneReport>,
}

impl Report {
    /// Records proved, over all lanes.
    #[must_use]
    pub fn records(&self) -> u64 {
        self.lanes.iter().fold(0, |sum, lane| sum.saturating_add(lane.records))
    }
}

/// What was proved of one lane.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LaneReport {
    /// The lane's folder.
    pub lane: String,
    /// The chain's name.
    pub chain: Option<Uuid>,
    /// Segments proved.
    pub segments: u64,
    /// Records proved, which is the number of the last.
    pub records: u64,
    /// Checkpoints whose signature and place were proved, in the chain and exported.
    pub checkpoints: u64,
    /// Times that the journal resumed after a crash or a failing disk.
    pub recoveries: u64,
    /// Intents without an outcome.
    pub open_calls: u64,
    /// Bytes at the very end that are no whole record: a crash that no start has mended yet, or a writer at work.
    pub torn_bytes: u64,
}

/// The first thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The lane's folder.
    pub lane: String,
    /// The file name of the segment.
    pub segment: String,
    /// Which line, from 1; 0 where no line is to blame.
    pub line: u64,
    /// Where the line begins, in bytes.
    pub offset: u64,
    /// The number that the record has, or should have.
    pub seq: Option<u64>,
    /// What is wrong with it.
    pub kind: FaultKind,
}

/// What is wrong with a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FaultKind {
    /// The record is not what was written.
    Changed,
    /// One or more records before this one are gone.
    Removed,
    /// The record stands in another place than it was written in.
    Reordered,
    /// The record stands here a second time.
    Duplicate,
    /// The journal ends before the record that a checkpoint names.
    Truncated,
    /// A checkpoint is not signed by the key given, or does not agree with the chain.
    BadCheckpoint,
    /// A whole segment is gone.
    MissingSegment,
    /// The segment was written under another key than the one given.
    OtherKey,
    /// The files cannot be read.
    Unreadable(String),
}

impl FaultKind {
    /// The word for a program.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Changed => "changed",
            Self::Removed => "removed",
            Self::Reordered => "reordered",
            Self::Duplicate => "duplicate",
            Self::Truncated => "truncated",
            Self::BadCheckpoint => "bad_checkpoint",
            Self::MissingSegment => "missing_segment",
            Self::OtherKey => "other_key",
            Self::Unreadable(_) => "unreadable",
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { lane, segment, line, offset, seq, kind } = self;
        write!(formatter, "{}: {lane}/{segment}", kind.as_str())?;
        if *line > 0 {
            write!(formatter, " line {line} (byte {offset})")?;
        }
        if let Some(seq) = seq {
            write!(formatter, ", record {seq}")?;
        }
        if let FaultKind::Unreadable(why) = kind {
            write!(formatter, ": {why}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Fault {}

/// Proves the journal in `folder`. `anchors` are checkpoints that were kept elsewhere; those beside the segments are
/// always held against them too.
///
/// # Errors
/// The first fault, lane by lane, from the oldest segment to the newest.
pub fn verify(folder: &Path, key: &RootKey, public: &[u8; 32], anchors: &[Checkpoint]) -> Result<Report, Fault> {
    let unreadable = |error: io::Error| Fault {
        lane: String::new(),
        segment: String::new(),
        line: 0,
        offset: 0,
        seq: None,
        kind: FaultKind::Unreadable(format!("{}: {error}", folder.display())),
    };
    let mut report = Report::default();
    for path in lanes(folder).map_err(unreadable)? {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        report.lanes.push(Walk::new(name, path, key, public).run(anchors)?);
    }
    if report.lanes.is_empty() {
        return Err(unreadable(io::Error::new(io::ErrorKind::NotFound, "no lanes: not a journal's folder")));
    }
    // A lane has a chain of its own; a copy of one is another's past.
    for (nth, lane) in report.lanes.iter().enumerate() {
        if lane.chain.is_some() && report.lanes.iter().take(nth).any(|before| before.chain == lane.chain) {
            let (lane, segment) = (lane.lane.clone(), segment::name(1));
            return Err(Fault { lane, segment, line: 0, offset: 0, seq: None, kind: FaultKind::Duplicate });
        }
    }
    // A checkpoint of a chain that no lane holds: the whole of it is gone.
    match anchors.iter().find(|anchor| !report.lanes.iter().any(|lane| lane.chain == Some(anchor.chain))) {
        Some(anchor) => Err(Fault {
            lane: String::new(),
            segment: anchor.segment.clone(),
            line: 0,
            offset: 0,
            seq: Some(anchor.seq),
            kind: FaultKind::MissingSegment,
        }),
        None => Ok(report),
    }
}

/// The lanes of a journal, in order.
pub(super) fn lanes(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut lanes = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let named = entry.file_name().to_str().is_some_and(|name| name.starts_with("lane-"));
        if named && entry.file_type()?.is_dir() {
            lanes.push(entry.path());
        }
    }
    lanes.sort();
    Ok(lanes)
}

/// A walk over one lane.
struct Walk<'k> {
    path: PathBuf,
    key: &'k RootKey,
    public: &'k [u8; 32],
    report: LaneReport,
    chain: Option<Chain>,
    /// Checkpoints still to be met, by the number they speak of.
    anchors: BTreeMap<u64, Vec<Checkpoint>>,
    open: std::collections::HashSet<Uuid>,
    segment: String,
    line: u64,
}

impl<'k> Walk<'k> {
    fn new(lane: String, path: PathBuf, key: &'k RootKey, public: &'k [u8; 32]) -> Self {
        let report = LaneReport {
            lane,
            chain: None,
            segments: 0,
            records: 0,
            checkpoints: 0,
            recoveries: 0,
            open_calls: 0,
            torn_bytes: 0,
        };
        Self {
            path,
            key,
            public,
            report,
            chain: None,
            anchors: BTreeMap::new(),
            open: std::collections::HashSet::new(),
            segment: String::new(),
            line: 0,
        }
    }

    fn run(mut self, anchors: &[Checkpoint]) -> Result<LaneReport, Fault> {
        // Before the segments: a running writer exports a checkpoint only when its records are written.
        let exported = self.exported()?;
        let segments = segment::list(&self.path).map_err(|error| self.unreadable(&error))?;
        let headers: Vec<Option<Header>> = segments.iter().map(|(_, path)| header(path)).collect();
        self.report.chain = headers.iter().flatten().next().map(|header| header.chain);
        let mut astray = None;
        // Those beside the segments speak of this lane; those kept elsewhere may speak of another.
        let all = exported.into_iter().map(|anchor| (anchor, true));
        for (anchor, own) in all.chain(anchors.iter().map(|anchor| (anchor.clone(), false))) {
            if !anchor.signed_by(self.public) {
                self.segment = EXPORT_FILE.to_owned();
                return Err(self.fault(0, Some(anchor.seq), FaultKind::BadCheckpoint));
            }
            if Some(anchor.chain) == self.report.chain {
                self.anchors.entry(anchor.seq).or_default().push(anchor);
            } else if own {
                astray = Some(anchor);
            }
        }
        for (nth, (index, path)) in segments.iter().enumerate() {
            self.segment = segment::name(*index);
            self.line = 0;
            let expected = u64::try_from(nth).unwrap_or(u64::MAX).saturating_add(1);
            if *index != expected && !self.number_was_skipped(headers.get(nth), nth) {
                self.segment = segment::name(expected);
                return Err(self.fault(0, None, FaultKind::MissingSegment));
            }
            let next = headers.get(nth.saturating_add(1));
            let follower = headers.iter().skip(nth).skip(1).flatten().next();
            if follower.is_some_and(|next| self.passes_over(*index, next)) {
                continue;
            }
            // What a later header, itself under the chain, says about where this segment ends.
            let previous = next.and_then(Option::as_ref).and_then(|header| header.previous.as_ref());
            let end = previous.filter(|previous| previous.name == self.segment).map(|previous| previous.bytes);
            self.segment(path, end, next.is_none())?;
            self.report.segments = self.report.segments.saturating_add(1);
        }
        if let Some((seq, _)) = self.anchors.first_key_value() {
            return Err(self.fault(0, Some(*seq), FaultKind::Truncated));
        }
        if let Some(anchor) = astray {
            (self.segment, self.line) = (anchor.segment, 0);
            return Err(self.fault(0, Some(anchor.seq), FaultKind::MissingSegment));
        }
        self.report.open_calls = u64::try_from(self.open.len()).unwrap_or(u64::MAX);
        Ok(self.report)
    }

    /// A number may be skipped where a failing disk left an unusable file behind; then the header still names the
    /// segment that the walk came from.
    fn number_was_skipped(&self, header: Option<&Option<Header>>, nth: usize) -> bool {
        let previous = header.and_then(Option::as_ref).map(|header| header.previous.as_ref());
        match (previous, self.chain) {
            (Some(Some(previous)), Some(chain)) => previous.seq == chain.seq && previous.mac == chain.head,
            (Some(None), None) => nth == 0,
            _ => false,
        }
    }

    /// A failing disk may also leave the file of a segment that never began: the next header, under the chain itself, follows
    /// what was before it.
    fn passes_over(&self, index: u64, next: &Header) -> bool {
        let Some(previous) = &next.previous else { return false };
        let before = self.chain.is_some_and(|chain| previous.seq == chain.seq && previous.mac == chain.head);
        before && previous.name != self.segment && next.index > index
    }

    fn segment(&mut self, path: &Path, end: Option<u64>, last: bool) -> Result<(), Fault> {
        let mut lines = Lines::open(path).map_err(|error| self.unreadable(&error))?;
        let mut length = 0_u64;
        loop {
            let next = lines.next().map_err(|error| self.unreadable(&error))?;
            if end == Some(length) {
                // Whatever follows was never acknowledged: the next segment's header says that this is the end.
                return Ok(());
            }
            self.line = self.line.saturating_add(1);
            match next {
                Next::Line(offset, line) => {
                    self.record(path, offset, line)?;
                    let bytes = u64::try_from(line.len()).unwrap_or(u64::MAX).saturating_add(1);
                    length = offset.saturating_add(bytes);
                }
                Next::Torn(bytes) if last => {
                    self.report.torn_bytes = bytes;
                    return Ok(());
                }
                Next::Torn(_) => {
                    let seq = self.chain.map(|chain| chain.seq.saturating_add(1));
                    return Err(self.fault(length, seq, FaultKind::Changed));
                }
                // Where the next header names another segment, it is the next segment that does not follow.
                Next::End if end.is_none() => return Ok(()),
                Next::End => {
                    // Shorter than the next segment's header says.
                    let seq = self.chain.map(|chain| chain.seq.saturating_add(1));
                    return Err(self.fault(length, seq, FaultKind::Removed));
                }
            }
        }
    }

    fn record(&mut self, path: &Path, offset: u64, line: &[u8]) -> Result<(), Fault> {
        let before = self.chain.unwrap_or_else(|| Chain::new(self.report.chain.unwrap_or_default()));
        let expected = before.seq.saturating_add(1);
        let parts = Parts::of(line).filter(|parts| parts.seq == expected);
        let Some(parts) = parts.filter(|parts| parts.follows(&self.key.chain, &before.head)) else {
            return Err(self.blame(path, offset, line, expected));
        };
        let chain = Chain { id: before.id, seq: parts.seq, head: parts.mac };
        self.chain = Some(chain);
        self.report.records = chain.seq;
        self.hold_against_anchors(offset, &chain)?;
        let Some((event, id)) = event_and_id(line) else { return Ok(()) };
        match event {
            "intent" => {
                self.open.insert(id);
            }
            "outcome" => {
                self.open.remove(&id);
            }
            "recovered" => self.report.recoveries = self.report.recoveries.saturating_add(1),
            "checkpoint" => self.checkpoint(offset, line, &before)?,
            _ => {}
        }
        Ok(())
    }

    /// A checkpoint in the chain speaks of the record before it.
    fn checkpoint(&mut self, offset: u64, line: &[u8], before: &Chain) -> Result<(), Fault> {
        let checkpoint = serde_json::from_slice::<Value>(line).ok().as_ref().and_then(Checkpoint::parse_value);
        let holds = checkpoint.is_some_and(|checkpoint| {
            checkpoint.chain == before.id
                && checkpoint.seq == before.seq
                && checkpoint.head == before.head
                && checkpoint.signed_by(self.public)
        });
        if !holds {
            return Err(self.fault(offset, Some(before.seq.saturating_add(1)), FaultKind::BadCheckpoint));
        }
        self.report.checkpoints = self.report.checkpoints.saturating_add(1);
        Ok(())
    }

    fn hold_against_anchors(&mut self, offset: u64, chain: &Chain) -> Result<(), Fault> {
        for anchor in self.anchors.remove(&chain.seq).unwrap_or_default() {
            if anchor.head != chain.head {
                return Err(self.fault(offset, Some(chain.seq), FaultKind::BadCheckpoint));
            }
            self.report.checkpoints = self.report.checkpoints.saturating_add(1);
        }
        Ok(())
    }

    /// Says what happened to a record that does not follow.
    fn blame(&self, path: &Path, offset: u64, line: &[u8], expected: u64) -> Fault {
        let header = serde_json::from_slice::<Value>(line).ok().as_ref().and_then(Header::parse);
        if header.is_some_and(|header| header.key != self.key.id) {
            return self.fault(offset, Some(expected), FaultKind::OtherKey);
        }
        match Parts::of(line).map(|parts| parts.seq) {
            Some(seq) if seq > expected && comes_later(path, expected) => {
                self.fault(offset, Some(seq), FaultKind::Reordered)
            }
            Some(seq) if seq > expected => self.fault(offset, Some(expected), FaultKind::Removed),
            Some(seq) if seq < expected => self.fault(offset, Some(seq), FaultKind::Duplicate),
            Some(_) | None => self.fault(offset, Some(expected), FaultKind::Changed),
        }
    }

    fn exported(&self) -> Result<Vec<Checkpoint>, Fault> {
        let mut checkpoints = Vec::new();
        for name in EXPORT_FILES {
            let text = match fs::read_to_string(self.path.join(name)) {
                Ok(text) => text,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(self.unreadable(&error)),
            };
            // A last line without its end is one that the writer was at when it died.
            let whole = text.rfind('\n').and_then(|end| text.get(..end)).unwrap_or_default();
            for (nth, line) in whole.lines().enumerate() {
                let Some(checkpoint) = Checkpoint::parse(line) else {
                    let mut fault = self.fault(0, None, FaultKind::BadCheckpoint);
                    name.clone_into(&mut fault.segment);
                    fault.line = u64::try_from(nth).unwrap_or(u64::MAX).saturating_add(1);
                    return Err(fault);
                };
                checkpoints.push(checkpoint);
            }
        }
        Ok(checkpoints)
    }

    fn fault(&self, offset: u64, seq: Option<u64>, kind: FaultKind) -> Fault {
        let (lane, segment) = (self.report.lane.clone(), self.segment.clone());
        Fault { lane, segment, line: self.line, offset, seq, kind }
    }

    fn unreadable(&self, error: &io::Error) -> Fault {
        self.fault(0, None, FaultKind::Unreadable(error.to_string()))
    }
}

/// The header of a segment, not yet proved.
fn header(path: &Path) -> Option<Header> {
    let mut lines = Lines::open(path).ok()?;
    match lines.next().ok()? {
        Next::Line(_, line) => Header::parse(&serde_json::from_slice(line).ok()?),
        Next::Torn(_) | Next::End => None,
    }
}

/// Whether a record with this number stands anywhere in the segment.
fn comes_later(path: &Path, seq: u64) -> bool {
    let Ok(mut lines) = Lines::open(path) else { return false };
    while let Ok(Next::Line(_, line)) = lines.next() {
        if Parts::of(line).is_some_and(|parts| parts.seq == seq) {
            return true;
        }
    }
    false
}
