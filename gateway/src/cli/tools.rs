//! `tollgate tools`, and where other commands have tools from: the upstreams themselves, or a file.

use std::{
    collections::BTreeMap,
    fs,
    io::Write,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use clap::Args;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{Answer, ConfigFile, Failure, runtime};
use crate::{
    catalog::{Definition, Kind},
    clock,
    config::{self, Config, Environment, Problem, Report, UpstreamId},
    exchange::{Exchange, Witness},
    identity::revocation::Revocations,
    refusal::Refusal,
    tasks,
    upstream::{Peer, Upstreams},
};

/// List the tools of the upstreams, in the form that `--tools` reads.
///
/// Asks every upstream, with the gateway's own credential.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    config: ConfigFile,
}

/// The tools and prompts of one upstream in a file: what its `tools/list` and `prompts/list` say.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Listed {
    #[serde(default)]
    tools: Vec<Box<RawValue>>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    prompts: Vec<Box<RawValue>>,
}

/// What is known of the estate's tools.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// The tools and prompts.
    pub(super) tools: Vec<Arc<Definition>>,
    /// Upstreams whose tools are not known, and why.
    pub(super) unread: Vec<(UpstreamId, String)>,
    /// Tools that cannot be served: upstream, name, why.
    pub(super) withheld: Vec<(UpstreamId, String, String)>,
}

/// Where tools are to be had from.
#[derive(Debug, Args)]
pub(super) struct From {
    /// Take the tools from this file, which `tollgate tools` wrote, instead of asking the upstreams; secrets and
    /// certificates are taken for granted then.
    #[arg(long, value_name = "FILE")]
    tools: Option<PathBuf>,
}

impl From {
    /// The environment that the configuration is to be judged in: without asking, no secret is needed.
    pub(super) const fn environment(&self) -> Environment {
        match self.tools {
            Some(_) => Environment::Elsewhere,
            None => Environment::Process,
        }
    }

    /// Reads the configuration, in that environment.
    pub(super) fn load(&self, file: &ConfigFile) -> Result<Config, Failure> {
        config::load(&file.config, &self.environment()).map_err(|mut report| {
            spare(&mut report, &file.config, "`--tools FILE` does without; `tollgate tools` writes the file");
            Failure::Report(report)
        })
    }

    /// The file, if one was named.
    pub(super) fn file(&self) -> Option<&Path> {
        self.tools.as_deref()
    }

    /// Reads the file, or asks.
    pub(super) fn known(&self, config: &Config) -> Result<Known, Failure> {
        match &self.tools {
            Some(file) => of_file(config, file),
            None => of_upstreams(config),
        }
    }
}

/// Adds `help` to what is wrong, where only what this machine lacks is: secrets, certificates, programs.
pub(super) fn spare(report: &mut Report, config: &Path, help: &str) {
    if config::load(config, &Environment::Elsewhere).is_ok_and(|config| config.gateway.policies.is_dir()) {
        let message = "nothing is wrong but what this machine lacks";
        report.push(Problem::nowhere(message).warning().help(help));
    }
}

pub(super) fn act(arguments: &Arguments, out: &mut impl Write) -> Result<Answer, Failure> {
    let config = config::load(&arguments.config.config, &Environment::process()).map_err(Failure::Report)?;
    let known = of_upstreams(&config)?;
    let mut listed: BTreeMap<&str, Listed> = BTreeMap::new();
    for tool in &known.tools {
        let text = String::from_utf8_lossy(tool.raw()).into_owned();
        let raw = RawValue::from_string(text).map_err(|error| Failure::Words(error.to_string()))?;
        let listed = listed.entry(tool.upstream.as_str()).or_default();
        if tool.kind == Kind::Prompt { listed.prompts.push(raw) } else { listed.tools.push(raw) }
    }
    let text = serde_json::to_string_pretty(&listed).map_err(|error| Failure::Words(error.to_string()))?;
    writeln!(out, "{text}")?;
    for (upstream, why) in &known.unread {
        writeln!(std::io::stderr().lock(), "tollgate: `{upstream}` is left out: {why}")?;
    }
    Ok(if known.unread.is_empty() { Answer::Yes } else { Answer::No })
}

fn of_file(config: &Config, file: &Path) -> Result<Known, Failure> {
    let wrong = |why: String| Failure::Words(format!("`{}`: {why}", file.display()));
    let text = fs::read_to_string(file).map_err(|error| wrong(error.to_string()))?;
    let listed: BTreeMap<String, Listed> = serde_json::from_str(&text).map_err(|error| wrong(error.to_string()))?;
    let mut known = Known::default();
    for (id, upstream) in &config.upstreams {
        let Some(listed) = listed.get(id.as_str()) else {
            known.unread.push((id.clone(), "it is not in the file".to_owned()));
            continue;
        };
        let (tools, prompts) = (listed.tools.iter(), listed.prompts.iter());
        for (kind, raw) in tools.map(|raw| (Kind::Tool, raw)).chain(prompts.map(|raw| (Kind::Prompt, raw))) {
            match Definition::read(upstream, kind, Bytes::copy_from_slice(raw.get().as_bytes())) {
                Ok(tool) => known.tools.push(Arc::new(tool)),
                Err(fault) => known.withheld.push((id.clone(), String::new(), fault.to_string())),
            }
        }
    }
    Ok(known)
}

fn of_upstreams(config: &Config) -> Result<Known, Failure> {
    let part = |error: &dyn std::fmt::Display| Failure::Words(error.to_string());
    let exchange = Arc::new(Exchange::new(&config.upstreams, Revocations::default()).map_err(|error| part(&error))?);
    let upstreams = Upstreams::new(&config.upstreams, &config.limits).map_err(|error| part(&error))?;
    runtime()?.block_on(async {
        let asked: Vec<_> = upstreams
            .peers()
            .map(|peer| {
                let id = peer.settings().id.clone();
                (id, tasks::background(ask(Arc::clone(peer), Arc::clone(&exchange))))
            })
            .collect();
        let mut known = Known::default();
        for (id, answer) in asked {
            match answer.await {
                Ok(Ok(read)) => {
                    known.tools.extend(read.listing.tools);
                    known.tools.extend(read.listing.prompts);
                    known.withheld.extend(read.withheld.into_iter().map(|(name, why)| (id.clone(), name, why)));
                    // Nothing here is about resources.
                    let prompts = read.unread.into_iter().find(|(kind, _)| *kind == Kind::Prompt);
                    known.unread.extend(prompts.map(|(_, refusal)| (id, said(&refusal))));
                }
                Ok(Err(why)) => known.unread.push((id, why)),
                Err(error) => known.unread.push((id, error.to_string())),
            }
        }
        Ok(known)
    })
}

async fn ask(peer: Arc<Peer>, exchange: Arc<Exchange>) -> Result<crate::upstream::Read, String> {
    let read = async {
        // There is no journal here: nothing is called.
        let unseen = || Ok(Witness::new(|_| Ok(())));
        let grant = exchange.service(peer.settings(), &unseen, clock::now()).await?;
        // Large; kept off the future that waits for it.
        Box::pin(peer.read(&Arc::new(grant))).await
    };
    match tokio::time::timeout(ASK_MAX, read).await {
        Ok(read) => read.map_err(|refusal| said(&refusal)),
        Err(_) => Err("it did not answer in time".to_owned()),
    }
}

fn said(refusal: &Refusal) -> String {
    format!("{}: {}", refusal.code(), refusal.inside())
}

/// A person waits.
const ASK_MAX: Duration = Duration::from_secs(10);
