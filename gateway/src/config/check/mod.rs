//! What does the written form mean, and what is wrong with it?
//!
//! Turns [`written`] into [`checked`] and collects every problem on the way; nothing that has one gets through.
//! Variables and files come from an [`Environment`], so that the judgement is a function of its arguments.
//! It contacts nobody: whether an issuer or an upstream answers is not a question of configuration.

mod client;
mod door;
mod egress;
mod estate;
mod facade;
mod grant;
mod inbound;
mod login;
mod sender;
mod transport;
mod values;

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::{Range, RangeInclusive},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use toml::Spanned;

use super::{
    checked::{self, Config, UpstreamId},
    diagnose::{Problem, Source},
    environment::Environment,
    read::Reading,
    written::{self, Key},
};

/// What a check looked at: where a reload has to look for changes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Files {
    /// The values that are in the checked configuration.
    pub(super) values: BTreeSet<PathBuf>,
    /// The files that are named in it and read by their users.
    pub(super) certificates: BTreeSet<PathBuf>,
}

/// Judges `reading`, whose relative paths start at `folder`; `digest` is the name of what was read.
pub(super) fn check(
    reading: Reading<written::File>,
    folder: &Path,
    environment: &Environment,
    digest: String,
) -> (Result<Config, Vec<Problem>>, Files) {
    let Reading { file, source, problems, removed } = reading;
    let mut checker =
        Checker { source, folder, environment, problems, removed, files: Files::default(), issuers: Vec::new() };
    let config = checker.file(&file, digest);
    let Checker { problems, files, .. } = checker;
    let result = match config {
        Some(config) if problems.is_empty() => Ok(config),
        _ => Err(problems),
    };
    (result, files)
}

/// What every part of the check needs, and the problems so far.
struct Checker<'a> {
    source: Source,
    folder: &'a Path,
    environment: &'a Environment,
    problems: Vec<Problem>,
    removed: BTreeSet<(usize, String)>,
    files: Files,
    /// The names of `[[issuers]]`.
    issuers: Vec<String>,
}

/// A table that is being checked: its name in messages, and its place.
#[derive(Clone)]
struct Place {
    name: String,
    span: Range<usize>,
}

impl Checker<'_> {
    fn file(&mut self, file: &written::File, digest: String) -> Option<Config> {
        let top = Place { name: "this file".to_owned(), span: 0..0 };
        let gateway =
            self.table(&file.gateway, &top, "gateway").and_then(|(gateway, place)| self.gateway(gateway, &place));
        let audit = self.table(&file.audit, &top, "audit").and_then(|(audit, place)| self.audit(audit, &place));
        let telemetry = match &file.telemetry {
            Some(telemetry) => self.telemetry(telemetry.get_ref()),
            None => self.telemetry(&written::Telemetry::default()),
        };
        let limits = match &file.limits {
            Some(limits) => self.limits(limits.get_ref()),
            None => self.limits(&written::Limits::default()),
        };
        let state = match &file.state {
            Some(state) => self.state(state.get_ref()),
            None => Some(checked::State::default()),
        };
        let egress = match &file.egress {
            Some(egress) => self.egress(egress.get_ref()),
            None => Some(checked::Egress::default()),
        };
        let issuers = self.issuers(file.issuers.as_deref().unwrap_or_default());
        self.anybody(file, &issuers);
        self.issuers = issuers.iter().map(|issuer| issuer.issuer.clone()).collect();
        let mut logins = self.logins(file.logins.as_deref().unwrap_or_default(), &issuers);
        let certificates = self.holders(file.certificates.as_deref().unwrap_or_default(), gateway.as_ref());
        let upstreams = self.upstreams(file.upstreams.as_ref().unwrap_or(&BTreeMap::new()));
        let (gateway, audit, telemetry, limits, state) = (gateway?, audit?, telemetry?, limits?, state?);
        self.audiences_apart(file, &gateway, &upstreams);
        self.connectable(file, &upstreams, &logins);
        let keys = self.keys(&file.keys, &state);
        let facade = match &file.facade {
            Some(written) => Some(Arc::new(self.facade(written, &gateway, &issuers)?)),
            None => None,
        };
        logins.extend(facade.as_deref().map(|facade| Arc::new(login::own(facade))));
        Some(Config {
            gateway,
            issuers,
            certificates,
            audit,
            telemetry,
            limits,
            state,
            logins,
            keys,
            egress: egress?,
            facade,
            upstreams,
            digest,
        })
    }

    /// A token for the gateway must be of no use at an upstream, nor one for an upstream here (audience confusion):
    /// so no name may stand for both.
    fn audiences_apart(
        &mut self,
        file: &written::File,
        gateway: &checked::Gateway,
        upstreams: &BTreeMap<UpstreamId, Arc<checked::Upstream>>,
    ) {
        let root = gateway.public_url.as_str().trim_end_matches('/').to_owned();
        let mut own: BTreeSet<String> = gateway.audiences.iter().cloned().collect();
        own.extend([root.clone(), format!("{root}/"), format!("{root}/mcp")]);
        own.extend(upstreams.keys().map(|id| format!("{root}/mcp/{id}")));
        own.extend(own.clone().into_iter().map(|name| format!("{name}/")));
        for (id, upstream) in file.upstreams.iter().flatten() {
            let grant = upstream.get_ref().grant.as_ref().map(Spanned::get_ref);
            let named = grant.into_iter().flat_map(|grant| [&grant.audience, &grant.resource]).flatten();
            for name in named.filter(|name| own.contains(name.get_ref())) {
                self.problem(
                    format!("`{}` is an audience of the gateway itself, and of upstream `{id}`", name.get_ref()),
                    name.span(),
                    "the gateway accepts this name from callers",
                    "give the upstream an audience of its own, so that a token for one is worthless at the other",
                );
            }
            let Some(url) = &upstream.get_ref().url else { continue };
            let leads_back = url.get_ref().strip_prefix(root.as_str()).is_some_and(|path| path.starts_with("/mcp"));
            if leads_back {
                self.problem(
                    format!("upstream `{id}` is the gateway itself"),
                    url.span(),
                    "begins like `public_url`",
                    "name the address of the MCP server behind the gateway",
                );
            }
        }
    }

    /// Notes a problem at one place.
    fn problem(&mut self, message: impl Into<String>, span: Range<usize>, label: &str, help: impl Into<String>) {
        let problem = self.source.problem(message).at(span, label).help(help);
        self.problems.push(problem);
    }

    /// The value of a key that must be there, and its place. `example` is how the whole entry may look.
    fn required<'w, T>(&mut self, key: &'w Key<T>, place: &Place, name: &str, example: &str) -> Option<&'w Spanned<T>> {
        if key.is_none() && !self.removed.contains(&(place.span.start, name.to_owned())) {
            self.problem(
                format!("missing key `{name}` in {}", place.name),
                place.span.clone(),
                "belongs in here",
                format!("add `{example}`"),
            );
        }
        key.as_ref()
    }

    /// A table that must be there, and its place.
    fn table<'w, T>(&mut self, key: &'w Key<T>, parent: &Place, name: &str) -> Option<(&'w T, Place)> {
        let Some(table) = key else {
            if !self.removed.contains(&(parent.span.start, name.to_owned())) {
                self.problem(
                    format!("missing table `[{name}]` in {}", parent.name),
                    parent.span.clone(),
                    "belongs in here",
                    format!("add `[{name}]`; the shipped `upstreams.toml` shows its keys"),
                );
            }
            return None;
        };
        Some((table.get_ref(), Place { name: format!("`[{name}]`"), span: table.span() }))
    }

    /// A number within bounds; `default` where it is not written.
    fn number(&mut self, key: &Key<u64>, bounds: &RangeInclusive<u64>, default: u64) -> u64 {
        let Some(written) = key else { return default };
        let value = *written.get_ref();
        if !bounds.contains(&value) {
            let (least, most) = (bounds.start(), bounds.end());
            let message = format!("`{value}` is out of bounds");
            let help = format!("write a number from {least} to {most}; the default is {default}");
            self.problem(message, written.span(), "this number", help);
        }
        value
    }

    /// A count of things or bytes within bounds.
    fn count(&mut self, key: &Key<u64>, bounds: &RangeInclusive<u64>, default: u64) -> usize {
        usize::try_from(self.number(key, bounds, default)).unwrap_or(usize::MAX)
    }

    /// A time in milliseconds within bounds.
    fn millis(&mut self, key: &Key<u64>, bounds: &RangeInclusive<u64>, default: u64) -> Duration {
        Duration::from_millis(self.number(key, bounds, default))
    }

    /// A time in seconds within bounds.
    fn seconds(&mut self, key: &Key<u64>, bounds: &RangeInclusive<u64>, default: u64) -> Duration {
        Duration::from_secs(self.number(key, bounds, default))
    }
}
