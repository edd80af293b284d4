//! `tollgate check`.

use std::{io::Write, path::Path, sync::Arc};

use clap::Args;

use super::{
    Answer, ConfigFile, Failure, complain, counted,
    tools::{self, Known},
};
use crate::{
    ceiling::Ceilings,
    config::{self, Config, Environment, Problem, Report, Source, Transport, Upstream, UpstreamId},
    policy::{Draft, Policies, check::Estate, load},
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

pub(super) fn act(arguments: &Arguments, out: &mut impl Write) -> Result<Answer, Failure> {
    let path = &arguments.config.config;
    let environment = if arguments.elsewhere { Environment::Elsewhere } else { arguments.from.environment() };
    let mut report = Report::default();
    let config = match config::load(path, &environment) {
        Ok(config) => Some(config),
        // Nothing was looked at, so there is no answer.
        Err(problems) if environment.file(path).is_err() => return Err(Failure::Report(problems)),
        Err(mut problems) => {
            let help =
                "`--elsewhere` takes them for granted, and so does `--tools FILE`, which `tollgate tools` writes";
            tools::spare(&mut problems, path, help);
            report.append(problems);
            None
        }
    };
    let folder = match &config {
        Some(config) => Some(config.gateway.policies.clone()),
        // That there is no such folder is told already, where it was looked for.
        None => config::policies(path, &environment)
            .filter(|folder| !environment.is_here() || environment.is_folder(folder)),
    };
    let read = folder.as_deref().map(|folder| read_folder(folder, &mut report)).unwrap_or_default();
    let known = match &config {
        Some(config) => known(arguments, config, &mut report)?,
        None => None,
    };
    if let Some(config) = &config {
        out_of_keys_reach(config, &mut report);
        fit(config, &read, known.as_ref(), &mut report);
    } else if read.draft.is_some() {
        let message = "the policies are neither typed nor tested: that takes a configuration with nothing wrong in it";
        report.push(Problem::nowhere(message).warning().help("mend it, and check again"));
    }
    // What was wrong with them is told already.
    let policies = read.draft.and_then(|draft| Policies::of(draft).ok());
    if let (Some(config), Some(policies)) = (&config, &policies) {
        let tests = load::sources(&config.gateway.policies, ".test.toml");
        let run = tests.and_then(|tests| policies.test(&tests, known.as_ref().map_or(&[], |known| &known.tools)));
        push(&mut report, run.err().into_iter().flatten());
    }
    if !report.is_empty() {
        complain(&report);
    }
    if report.count() > 0 {
        return Ok(Answer::No);
    }
    let upstreams = counted(config.map_or(0, |config| config.upstreams.len()), "upstream", "upstreams");
    let policies = counted(policies.map_or(0, |policies| policies.len()), "policy", "policies");
    let against =
        known.map_or("not typed against tools".to_owned(), |known| counted(known.tools.len(), "tool", "tools"));
    let warned = match report.warnings() {
        0 => String::new(),
        warnings => format!("; {}", counted(warnings, "warning", "warnings")),
    };
    writeln!(out, "nothing is wrong: {upstreams}, {policies}, {against}{warned}")?;
    Ok(Answer::Yes)
}

/// What is in the policies' folder: the policies that can be read, and the ceilings where nothing is wrong with them.
#[derive(Default)]
struct Folder {
    draft: Option<Draft>,
    ceilings: Option<(Source, Ceilings)>,
}

/// Reads the folder, and says all that is wrong in it.
fn read_folder(folder: &Path, report: &mut Report) -> Folder {
    let source = load::source(folder, "ceilings.toml");
    // Of a folder that cannot be read everything else would be told, too.
    if !folder.is_dir() {
        push(report, source.err().into_iter().flatten());
        return Folder::default();
    }
    let ceilings = source.and_then(|source| {
        let ceilings = Ceilings::parse(source.as_ref(), Arc::new(Rates::new(COUNTERS_MAX)))?;
        Ok(source.map(|source| (source, ceilings)))
    });
    let ceilings = ceilings.unwrap_or_else(|problems| {
        push(report, problems);
        None
    });
    let draft = Draft::load(folder);
    push(report, draft.problems().iter().cloned());
    if draft.is_empty() {
        let message = format!("no policy in `{}`: nothing is permitted", folder.display());
        let help = "write who may do what in `*.cedar`; the shipped `policies` are an example";
        report.push(Problem::nowhere(message).warning().help(help));
    }
    Folder { draft: Some(draft), ceilings }
}

/// An API key is no token of an identity provider, so nothing can be exchanged for it.
fn out_of_keys_reach(config: &Config, report: &mut Report) {
    let exchanged = |upstream: &Upstream| matches!(upstream.grant, config::Grant::Exchange(_));
    let upstreams = config.upstreams.iter().filter(|(_, upstream)| exchanged(upstream));
    let names: Vec<&str> = upstreams.map(|(id, _)| id.as_str()).collect();
    if config.keys.enabled && !names.is_empty() {
        let message =
            format!("callers with API keys cannot use `{}`: their grant exchanges a token", names.join("`, `"));
        let help = "leave them to callers of an issuer, or use `client_credentials` or `static_secret` there";
        report.push(Problem::nowhere(message).warning().help(help));
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
        let message = format!("the tools of `{upstream}` are not known: {why}");
        let help = unread(arguments.from.file(), config.upstreams.get(upstream));
        report.push(Problem::nowhere(message).warning().help(help));
    }
    for (upstream, tool, why) in &known.withheld {
        let help = "have the upstream's owner mend it; its other tools are served";
        let message = format!("tool `{tool}` of `{upstream}` is not served: {why}");
        report.push(Problem::nowhere(message).warning().help(help));
    }
    Ok(Some(known))
}

/// What helps where the tools of an upstream are not known.
fn unread(file: Option<&Path>, upstream: Option<&Arc<Upstream>>) -> String {
    if let Some(file) = file {
        return format!("`{}` lacks it: write it anew with `tollgate tools`", file.display());
    }
    let mend = match upstream.map(|upstream| &upstream.transport) {
        Some(Transport::Stdio(_)) => "mend its `command`, or what that needs to start",
        Some(Transport::Http(_) | Transport::Sse(_)) | None => "start it, or mend its `url` and `grant`",
    };
    format!("{mend}; the gateway starts without it and keeps trying")
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
    if let (Some(draft), Some(_)) = (&folder.draft, known) {
        push(report, draft.check(&estate));
    }
    if let Some((source, ceilings)) = &folder.ceilings {
        push(report, ceilings.check(source, &estate));
    }
}

/// Nothing is counted here.
const COUNTERS_MAX: usize = 1;

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, path::Path, sync::Arc};

    use super::{counted, unread};
    use crate::{
        config::{Program, Transport},
        policy::fixtures,
    };

    #[test]
    fn what_helps_is_about_what_is_there() {
        let mut upstream = fixtures::upstream("crm", Vec::new());
        let program = Program {
            file: "/usr/bin/server".into(),
            arguments: Vec::new(),
            environment: BTreeMap::new(),
            secrets: Vec::new(),
            directory: "/".into(),
        };
        upstream.transport = Transport::Stdio(program);
        let program = Arc::new(upstream);
        let help = unread(None, Some(&program));
        assert!(help.contains("`command`") && !help.contains("`url`") && !help.contains("`grant`"), "{help}");
        let server = Arc::new(fixtures::upstream("notes", Vec::new()));
        assert!(unread(None, Some(&server)).contains("mend its `url` and `grant`"));
        let help = unread(Some(Path::new("tools.json")), Some(&program));
        assert!(help.starts_with("`tools.json` lacks it"), "{help}");
    }

    #[test]
    fn one_is_told_of_as_one() {
        assert_eq!(counted(1_usize, "policy", "policies"), "1 policy");
        assert_eq!(
            (counted(0_u64, "time", "times"), counted(2_u64, "time", "times")),
            ("0 times".into(), "2 times".into())
        );
    }
}
