//! `tollgate demo`.

use std::{io::Write, path::PathBuf, thread};

use clap::Args;

use super::{Answer, Failure, runtime, serve};
use crate::{demo::Estate, serve::Options};

/// Start an estate of your own on this machine and walk through what the gateway does with calls.
///
/// Needs nothing: an issuer, two MCP servers and the gateway run on loopback, everything in a temporary folder that goes at the end.
///
/// After the walk the gateway goes on serving, with what to paste into a real client, until SIGINT or SIGTERM.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// End after the walk.
    #[arg(long)]
    once: bool,
    /// Put everything into this new folder, the journal included, and leave it there.
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
}

pub(super) fn act(arguments: &Arguments, out: &mut (impl Write + Send)) -> Result<Answer, Failure> {
    let runtime = runtime()?;
    let words = |error: crate::demo::DemoError| Failure::Words(error.to_string());
    let estate = runtime.block_on(Estate::build(arguments.keep.as_deref())).map_err(words)?;
    let config = estate.config();
    let run_directory = config.with_file_name("run");
    let options = Options { config, upgrade: false, run_directory, log: "error".to_owned() };
    // The gateway has threads and signals of its own, as when it is served; this one only waits for its end.
    let gateway = thread::spawn(move || serve::run(&options));
    let walked = runtime.block_on(estate.walk(out));
    if gateway.is_finished() {
        return ended(gateway);
    }
    walked.map_err(words)?;
    if arguments.once {
        return Ok(Answer::Yes);
    }
    runtime.block_on(estate.invite(out)).map_err(words)?;
    out.flush()?;
    ended(gateway)
}

fn ended(gateway: thread::JoinHandle<Result<Answer, Failure>>) -> Result<Answer, Failure> {
    gateway.join().map_err(|_panic| Failure::Words("the gateway ended unexpectedly".to_owned()))?
}
