//! Where do the bytes of the journal lie?
//!
//! A segment is an append-only file of whole lines. Space is written ahead with zeros, so that a sync of records need
//! not also sync the file's new length, and so that a full disk is met before a record is; a reader takes a NUL for the
//! end, and a sealed segment has none. This module does not know what the lines say.

use std::{
    fs::{self, File},
    io::{self, BufRead, BufReader, Read as _},
    os::unix::fs::{FileExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

/// A segment that is being written.
#[derive(Debug)]
pub(super) struct Segment {
    /// Its file name.
    pub(super) name: String,
    /// Bytes of records in it.
    pub(super) length: u64,
    path: PathBuf,
    file: File,
    /// Bytes that the file has, records and zeros.
    reserved: u64,
    /// Whether zeros are written ahead: pays only where records are synced.
    ahead: Ahead,
}

/// Whether space is written ahead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ahead {
    /// So many bytes at a time.
    Zeros(u64),
    /// No: a file shipper can follow the segment while it grows.
    Nothing,
}

impl Segment {
    /// Makes the segment's file, and makes sure that the folder remembers it.
    pub(super) fn create(lane: &Path, index: u64, ahead: Ahead) -> io::Result<Self> {
        let name = name(index);
        let path = lane.join(&name);
        let file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
        if let Err(error) = sync_folder(lane) {
            // Where it stays, its number is taken.
            fs::remove_file(&path).ok();
            return Err(error);
        }
        Ok(Self { name, length: 0, path, file, reserved: 0, ahead })
    }

    /// Appends `bytes`. After an error the segment's content past `length` is not known.
    pub(super) fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let end = self.length.saturating_add(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
        if let (Ahead::Zeros(step), true) = (self.ahead, end > self.reserved) {
            let reserve = end.saturating_add(step);
            let mut at = end;
            while at < reserve {
                let step = usize::try_from(reserve.saturating_sub(at)).unwrap_or(ZEROS.len()).min(ZEROS.len());
                self.file.write_all_at(ZEROS.get(..step).unwrap_or_default(), at)?;
                at = at.saturating_add(u64::try_from(step).unwrap_or(u64::MAX));
            }
            self.reserved = reserve;
        }
        self.file.write_all_at(bytes, self.length)?;
        self.length = end;
        Ok(())
    }

    /// Makes everything appended durable.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    /// Ends the segment: no zeros, durable.
    pub(super) fn seal(&self) -> io::Result<()> {
        self.file.set_len(self.length)?;
        self.file.sync_all()
    }

    /// Takes the file away again.
    pub(super) fn remove(self) -> io::Result<()> {
        fs::remove_file(&self.path)
    }
}

static ZEROS: [u8; 65_536] = [0; 65_536];

/// The file name of the segment with this number.
pub(super) fn name(index: u64) -> String {
    format!("segment-{index:08}.jsonl")
}

/// The segments in a lane, by number.
pub(super) fn list(lane: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(lane)? {
        let path = entry?.path();
        let index = path
            .file_name()
            .and_then(|name| name.to_str())
            .and_then(|name| name.strip_prefix("segment-")?.strip_suffix(".jsonl")?.parse::<u64>().ok());
        if let Some(index) = index {
            found.push((index, path));
        }
    }
    found.sort();
    Ok(found)
}

/// Makes a folder's list of files durable.
pub(super) fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// Reads a segment line by line.
#[derive(Debug)]
pub(super) struct Lines {
    reader: BufReader<File>,
    line: Vec<u8>,
    offset: u64,
}

/// What stands at one place of a segment.
#[derive(Debug)]
pub(super) enum Next<'l> {
    /// A whole line, without its line feed, and where it begins.
    Line(u64, &'l [u8]),
    /// Bytes that are no whole line: so many from here to the end that are not NUL.
    Torn(u64),
    /// The end.
    End,
}

impl Lines {
    /// Reads from the beginning.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        Ok(Self { reader: BufReader::with_capacity(1 << 18, File::open(path)?), line: Vec::new(), offset: 0 })
    }

    /// The next line. Not to be called again after `Torn` or `End`.
    pub(super) fn next(&mut self) -> io::Result<Next<'_>> {
        self.line.clear();
        let read = (&mut self.reader).take(LINE_BYTES_MAX).read_until(b'\n', &mut self.line)?;
        let start = self.offset;
        self.offset = self.offset.saturating_add(u64::try_from(read).unwrap_or(u64::MAX));
        match self.line.strip_suffix(b"\n") {
            Some(line) if line.first() != Some(&0) => Ok(Next::Line(start, line)),
            Some(_) | None => {
                let mut last = position_of_content(&self.line).map(|at| start.saturating_add(at));
                let mut at = self.offset;
                loop {
                    let chunk = self.reader.fill_buf()?;
                    if chunk.is_empty() {
                        break;
                    }
                    last = position_of_content(chunk).map(|within| at.saturating_add(within)).or(last);
                    let step = chunk.len();
                    at = at.saturating_add(u64::try_from(step).unwrap_or(u64::MAX));
                    self.reader.consume(step);
                }
                Ok(last.map_or(Next::End, |last| Next::Torn(last.saturating_sub(start))))
            }
        }
    }
}

/// The position just past the last byte that is not NUL.
fn position_of_content(bytes: &[u8]) -> Option<u64> {
    let last = bytes.iter().rposition(|byte| *byte != 0)?;
    u64::try_from(last).ok()?.checked_add(1)
}

/// No record comes near this; what does is not a record.
const LINE_BYTES_MAX: u64 = 1 << 20;
