//! What did the operator type?
//!
//! The command line: its words, its help, its exit codes, and what is printed where. Answers go to standard output,
//! complaints to standard error. Each command is a file that asks the library and prints; none of them decides anything.

mod audit;
mod check;
mod clients;
mod consents;
mod demo;
mod explain;
mod keys;
mod revoke;
mod serve;
mod show;
mod test;
mod tools;

use std::{
    ffi::OsString,
    fmt,
    io::{self, IsTerminal as _, Write},
    path::PathBuf,
    process::ExitCode,
};

use clap::{Args, Parser, Subcommand};

use crate::{
    config::{Colour, Environment, Report},
    upstream,
};

/// A federated gateway for the Model Context Protocol: one authenticated, authorised, audited door in front of an
/// estate of MCP servers.
#[derive(Debug, Parser)]
#[command(name = "tollgate", version, after_help = AFTER_HELP, propagate_version = true)]
struct CommandLine {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Serve(serve::Arguments),
    Check(check::Arguments),
    Test(test::Arguments),
    Explain(explain::Arguments),
    Tools(tools::Arguments),
    Revoke(revoke::Arguments),
    #[command(subcommand)]
    Keys(keys::Arguments),
    #[command(subcommand)]
    Clients(clients::Arguments),
    #[command(subcommand)]
    Consents(consents::Arguments),
    /// Prove the journal, or ask it.
    #[command(subcommand)]
    Audit(Audit),
    Demo(demo::Arguments),
    /// What `serve` runs beside itself, so that no program outlives it.
    #[command(hide = true)]
    Warden,
    /// Print the version.
    Version,
}

#[derive(Debug, Subcommand)]
enum Audit {
    Verify(audit::Arguments),
    Show(show::Arguments),
}

/// Which configuration.
#[derive(Debug, Args)]
struct ConfigFile {
    /// The configuration.
    #[arg(long, value_name = "FILE", default_value = "upstreams.toml", env = "TOLLGATE_CONFIG")]
    config: PathBuf,
}

/// The answer to what was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    /// It is so.
    Yes,
    /// It is not so, and what was printed says why.
    No,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
enum Failure {
    /// The configuration or the policies are wrong.
    #[error("{0}")]
    Report(Report),
    /// Standard output or a file.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// Anything else, in words.
    #[error("{0}")]
    Words(String),
}

/// Does what `arguments` say; the first is the program's name.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let line = match CommandLine::try_parse_from(arguments) {
        Ok(line) => line,
        Err(error) => {
            // Help and version are errors for clap too; it knows which stream each belongs to. Where that stream is
            // closed, nobody is there to be told.
            error.print().ok();
            return if error.use_stderr() { ExitCode::from(UNANSWERED) } else { ExitCode::SUCCESS };
        }
    };
    let mut out = io::stdout();
    let answer = act(line.command, &mut out).and_then(|answer| {
        out.flush()?;
        Ok(answer)
    });
    match answer {
        Ok(Answer::Yes) => ExitCode::SUCCESS,
        Ok(Answer::No) => ExitCode::from(NO),
        // Whoever reads has read enough: `tollgate audit show … | head`.
        Err(Failure::Io(error)) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(Failure::Report(report)) => {
            complain(&report);
            ExitCode::from(UNANSWERED)
        }
        Err(failure) => {
            // A closed standard error leaves the exit code to speak.
            writeln!(io::stderr().lock(), "tollgate: {failure}").ok();
            ExitCode::from(UNANSWERED)
        }
    }
}

fn act(command: Command, out: &mut (impl Write + Send)) -> Result<Answer, Failure> {
    match command {
        Command::Serve(arguments) => serve::act(&arguments),
        Command::Check(arguments) => check::act(&arguments, out),
        Command::Test(arguments) => test::act(&arguments, out),
        Command::Explain(arguments) => explain::act(&arguments, out),
        Command::Tools(arguments) => tools::act(&arguments, out),
        Command::Revoke(arguments) => revoke::act(&arguments, out),
        Command::Keys(arguments) => keys::act(&arguments, out),
        Command::Clients(arguments) => clients::act(&arguments, out),
        Command::Consents(arguments) => consents::act(&arguments, out),
        Command::Audit(Audit::Verify(arguments)) => audit::act(&arguments, out),
        Command::Audit(Audit::Show(arguments)) => show::act(&arguments, out),
        Command::Demo(arguments) => demo::act(&arguments, out),
        Command::Warden => {
            upstream::stand_by(io::stdin().lock());
            Ok(Answer::Yes)
        }
        Command::Version => {
            writeln!(out, "tollgate {}", env!("CARGO_PKG_VERSION"))?;
            Ok(Answer::Yes)
        }
    }
}

/// Prints a report where complaints go, coloured for a person who did not ask otherwise (<https://no-color.org>).
fn complain(report: &Report) {
    let mut stderr = io::stderr().lock();
    let wanted = stderr.is_terminal() && Environment::process().variable("NO_COLOR").is_none();
    let colour = if wanted { Colour::Terminal } else { Colour::Plain };
    // As above: without a standard error there is nobody to tell.
    stderr.write_all(report.render(colour).as_bytes()).ok();
}

/// A number of things, in words.
fn counted<N: fmt::Display + PartialEq + From<u8>>(count: N, one: &str, many: &str) -> String {
    let what = if count == N::from(1) { one } else { many };
    format!("{count} {what}")
}

/// A runtime for one question.
fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    Ok(tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?)
}

/// The answer was no.
const NO: u8 = 1;

/// There is no answer.
const UNANSWERED: u8 = 2;

const AFTER_HELP: &str = "\
Examples:
  tollgate demo                                   see it work, nothing else needed
  tollgate check                                  before a change of upstreams.toml or policies/ goes live
  tollgate check --elsewhere                      the same in CI, where secrets and upstreams are out of reach
  tollgate serve --config /etc/tollgate/upstreams.toml
  tollgate explain --user alice --group support --tool crm/create_order --arguments '{\"amount\": 10}'
  tollgate revoke user alice --block --for 8h --why 'laptop lost'
  tollgate keys new --user alice --group support
  tollgate audit verify /var/lib/tollgate/audit

Exit codes:
  0  yes: served and ended well, nothing wrong, all tests hold, the call is allowed, the journal is proved
  1  no: something is wrong with what was looked at; what was printed says what
  2  no answer: the command line is wrong, or a file or address that is needed cannot be used";
