//! `tollgate serve`.

use std::{
    hash::{DefaultHasher, Hash as _, Hasher as _},
    path::{Path, PathBuf},
};

use clap::Args;

use super::{Answer, ConfigFile, Failure, complain};
use crate::serve::{self, Options};

/// Run the gateway.
///
/// Serves until SIGTERM or SIGINT, then finishes what has begun; a second one ends at once.
///
/// Changes of the configuration, the policies and the certificates are taken over while it runs. What is wrong is
/// logged, and what was in force stays so.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    config: ConfigFile,
    /// Take the listening sockets over from the gateway that runs with the same run directory; send it SIGQUIT.
    #[arg(long)]
    upgrade: bool,
    /// A folder for the socket of an upgrade, for this gateway alone [default: one in the system's temporary folder].
    #[arg(long, value_name = "DIR", env = "RUNTIME_DIRECTORY")]
    run_directory: Option<PathBuf>,
    /// What to log on standard error: a level, or targets with levels as in `info,tollgate::upstream=debug`.
    #[arg(long, value_name = "FILTER", default_value = "info,pingora_core=warn", env = "TOLLGATE_LOG")]
    log: String,
}

pub(super) fn act(arguments: &Arguments) -> Result<Answer, Failure> {
    let Arguments { config, upgrade, run_directory, log } = arguments;
    let options = Options {
        config: config.config.clone(),
        upgrade: *upgrade,
        run_directory: run_directory.clone().unwrap_or_else(|| own_folder(&config.config)),
        log: log.clone(),
    };
    run(&options)
}

/// Runs a gateway to its end.
pub(super) fn run(options: &Options) -> Result<Answer, Failure> {
    match serve::serve(options) {
        Ok(()) => Ok(Answer::Yes),
        // What is wrong is the answer to whether it can be served.
        Err(serve::Failure::Config(report)) => {
            complain(&report);
            Ok(Answer::No)
        }
        Err(failure) => Err(Failure::Words(failure.to_string())),
    }
}

/// The same folder for the same configuration, so that an upgrade finds its predecessor, and another for another.
fn own_folder(config: &Path) -> PathBuf {
    let mut hasher = DefaultHasher::new();
    std::path::absolute(config).unwrap_or_else(|_| config.to_owned()).hash(&mut hasher);
    std::env::temp_dir().join(format!("tollgate-{:016x}", hasher.finish()))
}
