//! `tollgate check`.

use std::{fmt, io::Write, path::Path, sync::Arc};

use clap::Args;
use miette::{Diagnostic, Severity};

use super::{
    Answer, ConfigFile, Failure, complain,
    tools::{self, Known},
};
use crate::{
    ceiling::Ceilings,
    config::{self, Config, Environment, Problem, Report, Source, UpstreamId},
    policy::{Policies, check::Estate, load},
    state::Rates,
};

/// Say everything that is wrong in `upstreams.toml` and the policies.
///
/// Reads everything, changes nothing, and tells all that is wrong at once.
///
/// Policies are typed against the tools that the upstreams offer: a policy that names a tool or an argument that does
/// not exist is wrong.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    config: ConfigFile,
    #[command(flatten)]
    from: tools::From,
    /// Contact nobody: policies are then read but not typed, except with `--tools`.
    #[arg(long)]
    offline: bool,
    /// This machine is not the gateway's, as in CI: take secrets and certificates for granted, and contact nobody.
    #[arg(long)]
    elsewhere: bool,
}

/// Something that does not stand in the way, and in no file.
#[derive(Debug)]
struct Warning {
    message: String,
    help: &'static str,
}

pub(super) fn act(arguments: &Arguments, out: &mut impl Write) -> Result<Answer, Failure> {
    let path = &arguments.config.config;
    let environment = if arguments.elsewhere { Environment::Elsewhere } else { arguments.from.environment() };
    let mut report = Report::default();
    let config = match config::load(path, &environment) {
        Ok(config) => Some(config),
        Err(problems) => {
            report.append(problems);
            None
        }
    };
    let folder = match &config {
        Some(config) => config.gateway.policies.clone(),
        None => config::policies(path, &environment),
    };
    let read = read_folder(&folder, &mut report);
    let known = match &config {
        Some(config) => known(arguments, config, &mut report)?,
        None => None,
    };
    if let Some(config) = &config {
        out_of_keys_reach(config, &mut report);
        fit(config, &read, known.as_ref(), &mut report);
    }
    if let (Some(_), Some(policies)) = (&config, &read.policies) {
        let tests = load::sources(&folder, ".test.toml");
        let run = tests.and_then(|tests| policies.test(&tests, known.as_ref().map_or(&[], |known| &known.tools)));
        push(&mut report, run.err().into_iter().flatten());
    }
    if !report.is_empty() {
        complain(&report);
    }
    if report.count() > 0 {
        return Ok(Answer::No);
    }
    let (upstreams, policies) =
        (config.map_or(0, |config| config.upstreams.len()), read.policies.map_or(0, |policies| policies.len()));
    let against = known.map_or("not typed against tools".to_owned(), |known| format!("{} tools", known.tools.len()));
    writeln!(out, "nothing is wrong: {upstreams} upstreams, {policies} policies, {against}")?;
    Ok(Answer::Yes)
}

/// What is in the policies' folder, where nothing is wrong with it.
struct Folder {
    policies: Option<Policies>,
    ceilings: Option<(Source, Ceilings)>,
}

/// Reads the folder, and says all that is wrong in it.
fn read_folder(folder: &Path, report: &mut Report) -> Folder {
    let ceilings = load::source(folder, "ceilings.toml").and_then(|source| {
        let ceilings = Ceilings::parse(source.as_ref(), Arc::new(Rates::new(COUNTERS_MAX)))?;
        Ok(source.map(|source| (source, ceilings)))
    });
    let ceilings = ceilings.unwrap_or_else(|problems| {
        push(report, problems);
        None
    });
    let policies = match Policies::load(folder) {
        Ok(policies) => Some(policies),
        Err(problems) => {
            push(report, problems);
            None
        }
    };
    if policies.as_ref().is_some_and(Policies::is_empty) {
        let message = format!("no policy in `{}`: nothing is permitted", folder.display());
        report.push(Warning {
            message,
            help: "write who may do what in `*.cedar`; the shipped `policies` are an example",
        });
    }
    Folder { policies, ceilings }
}

/// An API key is no token of an identity provider, so nothing can be exchanged for it.
fn out_of_keys_reach(config: &Config, report: &mut Report) {
    let exchanged = |upstream: &config::Upstream| matches!(upstream.grant, config::Grant::Exchange(_));
    let upstreams = config.upstreams.iter().filter(|(_, upstream)| exchanged(upstream));
    let names: Vec<&str> = upstreams.map(|(id, _)| id.as_str()).collect();
    if config.keys.enabled && !names.is_empty() {
        let message =
            format!("callers with API keys cannot use `{}`: their grant exchanges a token", names.join("`, `"));
        let help = "leave them to callers of an issuer, or use `client_credentials` or `static_secret` there";
        report.push(Warning { message, help });
    }
}

fn push(report: &mut Report, problems: impl IntoIterator<Item = Problem>) {
    for problem in problems {
        report.push(problem);
    }
}

/// The tools, where somebody is to be asked for them; what is not known is a warning.
fn known(arguments: &Arguments, config: &Config, report: &mut Report) -> Result<Option<Known>, Failure> {
    if (arguments.offline || arguments.elsewhere) && arguments.from.file().is_none() {
        return Ok(None);
    }
    let known = arguments.from.known(config)?;
    for (upstream, why) in &known.unread {
        let help = "start it, or mend its `url` and `grant`; the gateway starts without it and keeps trying";
        report.push(Warning { message: format!("the tools of `{upstream}` are not known: {why}"), help });
    }
    for (upstream, tool, why) in &known.withheld {
        let help = "have the upstream's owner mend it; its other tools are served";
        report.push(Warning { message: format!("tool `{tool}` of `{upstream}` is not served: {why}"), help });
    }
    Ok(Some(known))
}

/// Whether the policies and the ceilings are about what is there. Policies are typed only against tools; where none are
/// known, a ceiling can still name an upstream or a tag that `upstreams.toml` does not have.
fn fit(config: &Config, folder: &Folder, known: Option<&Known>, report: &mut Report) {
    let unread: Vec<UpstreamId> = match known {
        Some(known) => known.unread.iter().map(|(id, _)| id.clone()).collect(),
        None => config.upstreams.keys().cloned().collect(),
    };
    let tools = known.map_or(&[][..], |known| &known.tools);
    let estate = Estate { upstreams: &config.upstreams, tools, unread: &unread };
    if let (Some(policies), Some(_)) = (&folder.policies, known) {
        push(report, policies.check(&estate));
    }
    if let Some((source, ceilings)) = &folder.ceilings {
        push(report, ceilings.check(source, &estate));
    }
}

impl fmt::Display for Warning {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.message)
    }
}

impl std::error::Error for Warning {}

impl Diagnostic for Warning {
    fn severity(&self) -> Option<Severity> {
        Some(Severity::Warning)
    }

    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        Some(Box::new(self.help))
    }
}

/// Nothing is counted here.
const COUNTERS_MAX: usize = 1;
