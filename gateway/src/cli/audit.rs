//! `tollgate audit verify`.

use std::{
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
};

use clap::Args;

use super::{Answer, Failure, counted};
use crate::{
    audit::{
        chain::Checkpoint,
        keys::{self, RootKey},
        verify::{Report, verify},
    },
    secret::Secret,
};

/// Prove that nothing in a journal was changed, removed, reordered or cut off, or name the first bad record.
///
/// Works offline, changes nothing, and may run beside the gateway.
///
/// Records are proved by the key of the chain. That no tail is missing is proved only by checkpoints that were kept
/// where whoever could cut the journal off could not reach: give them with `--checkpoint`.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The journal's folder.
    #[arg(value_name = "DIR")]
    directory: PathBuf,
    /// A file with the key of the chain, 32 bytes in hex or base64 [default: the key in the folder].
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    /// A file with the public key of the checkpoints, PEM or hex [default: the key in the folder].
    #[arg(long, value_name = "FILE")]
    public_key: Option<PathBuf>,
    /// A file with checkpoints that were kept elsewhere, one a line; may be given more than once.
    #[arg(long = "checkpoint", value_name = "FILE")]
    checkpoints: Vec<PathBuf>,
}

pub(super) fn act(arguments: &Arguments, out: &mut impl Write) -> Result<Answer, Failure> {
    let Arguments { directory, key, public_key, checkpoints } = arguments;
    let key = match key {
        Some(file) => RootKey::parse(&Secret::new(text(file)?)),
        None => RootKey::of_folder(directory),
    };
    let public = match public_key {
        Some(file) => keys::parse_public(&text(file)?),
        None => keys::public_of_folder(directory),
    };
    let (key, public) = (
        key.map_err(|fault| Failure::Words(fault.to_string()))?,
        public.map_err(|fault| Failure::Words(fault.to_string()))?,
    );
    let mut anchors = Vec::new();
    for file in checkpoints {
        anchors.extend(anchored(file)?);
    }
    match verify(directory, &key, &public, &anchors) {
        Ok(report) => {
            render(&report, anchors.len(), out)?;
            Ok(Answer::Yes)
        }
        Err(fault) => {
            writeln!(io::stderr().lock(), "{fault}\n  help: everything before it is proved; compare with a copy")?;
            Ok(Answer::No)
        }
    }
}

fn text(file: &Path) -> Result<String, Failure> {
    fs::read_to_string(file).map_err(|error| Failure::Words(format!("`{}`: {error}", file.display())))
}

fn anchored(file: &Path) -> Result<Vec<Checkpoint>, Failure> {
    let mut checkpoints = Vec::new();
    for (index, line) in text(file)?.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let Some(checkpoint) = Checkpoint::parse(line) else {
            let line = index.saturating_add(1);
            return Err(Failure::Words(format!("`{}` line {line} is not a checkpoint", file.display())));
        };
        checkpoints.push(checkpoint);
    }
    Ok(checkpoints)
}

fn render(report: &Report, anchors: usize, out: &mut impl Write) -> io::Result<()> {
    for lane in &report.lanes {
        let (name, records, segments, checkpoints) = (&lane.lane, lane.records, lane.segments, lane.checkpoints);
        writeln!(out, "{name}: records {records}, segments {segments}, checkpoints {checkpoints}")?;
        if lane.recoveries > 0 {
            let times = counted(lane.recoveries, "time", "times");
            writeln!(out, "  resumed {times} after a crash or a failing disk")?;
        }
        if lane.open_calls > 0 {
            writeln!(out, "  {} without an outcome", counted(lane.open_calls, "call", "calls"))?;
        }
        if lane.torn_bytes > 0 {
            let bytes = counted(lane.torn_bytes, "byte", "bytes");
            writeln!(out, "  no whole record yet at the end: {bytes}")?;
        }
    }
    writeln!(out, "proved: {}", counted(report.records(), "record", "records"))?;
    if anchors == 0 {
        writeln!(out, "not proved: that no tail is missing; give checkpoints kept elsewhere with --checkpoint")?;
    }
    Ok(())
}
