//! `tollgate test`.

use std::{io::Write, path::PathBuf};

use clap::Args;

use super::{Answer, ConfigFile, Failure, complain, tools};
use crate::{
    config::{Problem, Report},
    policy::{Policies, load},
};

/// Run the policy tests: `*.test.toml` in the policies' folder.
///
/// Each case says who calls which tool with which arguments, and how the call should be decided. Decisions are those
/// that the gateway makes.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    config: ConfigFile,
    #[command(flatten)]
    from: tools::From,
    /// The folder with the policies and their tests [default: that of the configuration].
    #[arg(long, value_name = "DIR")]
    policies: Option<PathBuf>,
}

pub(super) fn act(arguments: &Arguments, out: &mut impl Write) -> Result<Answer, Failure> {
    let config = arguments.from.load(&arguments.config)?;
    let folder = arguments.policies.as_ref().unwrap_or(&config.gateway.policies);
    let policies = Policies::load(folder).map_err(reported)?;
    let tests = load::sources(folder, ".test.toml").map_err(reported)?;
    if tests.is_empty() {
        let message = format!("no `*.test.toml` in `{}`; a policy without a test is a guess", folder.display());
        return Err(Failure::Words(message));
    }
    let known = arguments.from.known(&config)?;
    for (upstream, why) in &known.unread {
        writeln!(out, "note  the tools of `{upstream}` are not known: {why}")?;
    }
    let mut outcome = policies.test(&tests, &known.tools).map_err(reported)?;
    outcome.render(out)?;
    out.flush()?;
    let failed: Vec<Problem> = outcome.outcomes.iter_mut().filter_map(|outcome| outcome.problem.take()).collect();
    if failed.is_empty() {
        return Ok(Answer::Yes);
    }
    let mut report = Report::default();
    for problem in failed {
        report.push(problem);
    }
    complain(&report);
    Ok(Answer::No)
}

/// Problems of policies as a failure.
pub(super) fn reported(problems: Vec<Problem>) -> Failure {
    let mut report = Report::default();
    for problem in problems {
        report.push(problem);
    }
    Failure::Report(report)
}
