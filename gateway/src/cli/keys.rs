//! `tollgate keys`.

use std::{
    io::{self, Write},
    time::Duration,
};

use clap::{ArgGroup, Args, Subcommand};
use serde::Serialize;

use super::{
    Answer, ConfigFile, Failure,
    revoke::{known_upstream, operator},
    runtime,
};
use crate::{
    clock::{self, Timestamp},
    config::{self, Config, Environment},
    identity::{
        api_key::{self, ApiKey, Order},
        revocation::{self, Revocation, Whom},
    },
    state::Store,
};

/// Give out, list and revoke API keys.
///
/// A key is a credential for callers that no identity provider vouches for. The gateway keeps who holds it and what it
/// may do in `state.directory`, and takes it where `[keys] enabled = true`, in `Authorization: Bearer` alone. What is
/// done here counts in a running gateway within a second.
#[derive(Debug, Subcommand)]
#[command(after_help = AFTER_HELP)]
pub(super) enum Arguments {
    New(New),
    List(List),
    Revoke(Revoke),
}

/// Make a key, and print it: this once, for the gateway does not keep it.
///
/// To policies its holder is `User::"urn:tollgate:keys#USER"`, or `Agent::"urn:tollgate:keys#AGENT"` without a user. Two
/// keys of one user and agent may be valid at once: give the new one out, then revoke the old one.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("holder").args(["user", "agent"]).required(true).multiple(true))]
pub(super) struct New {
    #[command(flatten)]
    config: ConfigFile,
    /// The person who holds it; leave it out for software in its own name.
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// The software that holds it [default for a user: api-key].
    #[arg(long, value_name = "NAME")]
    agent: Option<String>,
    /// The customer or division.
    #[arg(long, value_name = "NAME")]
    tenant: Option<String>,
    /// A group, for policies; may be given more than once.
    #[arg(long = "group", value_name = "NAME")]
    groups: Vec<String>,
    /// A scope; may be given more than once.
    #[arg(long = "scope", value_name = "SCOPE")]
    scopes: Vec<String>,
    /// An upstream at whose endpoint, `/mcp/ID`, it is good; may be given more than once [default: all endpoints].
    #[arg(long = "upstream", value_name = "ID")]
    upstreams: Vec<String>,
    /// For how many days it is good.
    #[arg(long, value_name = "DAYS", default_value_t = 90, value_parser = clap::value_parser!(u64).range(1..=3_650))]
    days: u64,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// Print all keys, oldest first, without the keys themselves; those that ended are listed for thirty days more.
#[derive(Debug, Args)]
pub(super) struct List {
    #[command(flatten)]
    config: ConfigFile,
    /// Print one JSON object a line.
    #[arg(long)]
    json: bool,
}

/// Revoke a key, for good, and end what is open or under way with it.
#[derive(Debug, Args)]
pub(super) struct Revoke {
    /// Its id, as `keys list` and the audit's `authentication.token_id` have it; the key itself will do.
    #[arg(value_name = "ID", allow_hyphen_values = true)]
    id: String,
    #[command(flatten)]
    config: ConfigFile,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// A key as it is shown.
#[derive(Serialize)]
struct Shown<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<&'a str>,
    id: &'a str,
    state: &'a str,
    user: Option<&'a str>,
    agent: &'a str,
    tenant: Option<&'a str>,
    groups: &'a [String],
    scopes: &'a [String],
    upstreams: Option<&'a [String]>,
    created: String,
    expires: String,
    revoked: Option<String>,
}

pub(super) fn act(arguments: &Arguments, out: &mut impl Write) -> Result<Answer, Failure> {
    match arguments {
        Arguments::New(new) => make(new, out),
        Arguments::List(list) => show(list, out),
        Arguments::Revoke(revoke) => end(revoke, out),
    }
}

fn make(arguments: &New, out: &mut impl Write) -> Result<Answer, Failure> {
    let (config, store) = open(&arguments.config)?;
    arguments.upstreams.iter().try_for_each(|id| known_upstream(&config, id))?;
    let order = Order {
        user: arguments.user.clone(),
        agent: arguments.agent.clone().unwrap_or_else(|| AGENT.to_owned()),
        tenant: arguments.tenant.clone(),
        groups: arguments.groups.clone(),
        scopes: arguments.scopes.clone(),
        upstreams: (!arguments.upstreams.is_empty()).then(|| arguments.upstreams.clone()),
        life: Duration::from_secs(arguments.days.saturating_mul(86_400)),
    };
    let now = clock::now();
    let (text, key) = runtime()?.block_on(api_key::make(&store, order, now)).map_err(words)?;
    if arguments.json {
        writeln!(out, "{}", json(&Shown { key: Some(text.expose()), ..shown(&key, now) })?)?;
    } else {
        // The key alone, so that it can be taken from here; what is said about it goes elsewhere.
        writeln!(out, "{}", text.expose())?;
        let (id, expires) = (&key.id, time(key.expires_ms));
        writeln!(io::stderr().lock(), "key {id}, good until {expires}; it is not shown again")?;
    }
    if !config.keys.enabled {
        writeln!(io::stderr().lock(), "tollgate: no key is taken before `[keys] enabled = true`")?;
    }
    Ok(Answer::Yes)
}

fn show(arguments: &List, out: &mut impl Write) -> Result<Answer, Failure> {
    let (_, store) = open(&arguments.config)?;
    let now = clock::now();
    let mut keys = runtime()?.block_on(api_key::all(&store, now)).map_err(words)?;
    keys.sort_by(|one, other| (one.created_ms, &one.id).cmp(&(other.created_ms, &other.id)));
    for key in &keys {
        let shown = shown(key, now);
        if arguments.json {
            writeln!(out, "{}", json(&shown)?)?;
            continue;
        }
        write!(out, "{}  {:7}  made {}, until {}", shown.id, shown.state, shown.created, shown.expires)?;
        for (name, value) in [("user", shown.user), ("agent", Some(shown.agent)), ("tenant", shown.tenant)] {
            if let Some(value) = value {
                write!(out, "  {name} {value}")?;
            }
        }
        let lists =
            [("groups", shown.groups), ("scopes", shown.scopes), ("upstreams", shown.upstreams.unwrap_or_default())];
        for (name, list) in lists.iter().filter(|(_, list)| !list.is_empty()) {
            write!(out, "  {name} {}", list.join(","))?;
        }
        writeln!(out)?;
    }
    Ok(Answer::Yes)
}

fn end(arguments: &Revoke, out: &mut impl Write) -> Result<Answer, Failure> {
    let (_, store) = open(&arguments.config)?;
    // Whoever has found a key somewhere has no id to give.
    let id = api_key::id_given(&arguments.id).map_err(words)?;
    let now = clock::now();
    let runtime = runtime()?;
    let whom = Whom::Token { name: id.to_owned(), issuer: Some(api_key::ISSUER.to_owned()) };
    if let Some(key) = runtime.block_on(revoked_before(&store, id, &whom, now)).map_err(words)? {
        if arguments.json {
            writeln!(out, "{}", json(&shown(&key, now))?)?;
        } else {
            writeln!(out, "key {id} is revoked already, since {}", key.revoked_ms.map(time).unwrap_or_default())?;
        }
        return Ok(Answer::Yes);
    }
    let key = runtime.block_on(api_key::revoke(&store, id, now)).map_err(words)?;
    // The record turns new requests away; this ends what came before them.
    let mut ended = Revocation::new(whom, now, Some(Timestamp::from_unix_ms(key.expires_ms)));
    (ended.why, ended.by) = (Some("the API key is revoked".to_owned()), Some(operator()));
    runtime.block_on(revocation::revoke(&store, &ended, now)).map_err(words)?;
    if arguments.json {
        writeln!(out, "{}", json(&shown(&key, now))?)?;
    } else {
        writeln!(out, "key {} is revoked", key.id)?;
    }
    Ok(Answer::Yes)
}

/// The key, where it is revoked and what came before is ended: a command that was cut off in between is to be run again.
async fn revoked_before(
    store: &Store,
    id: &str,
    whom: &Whom,
    now: Timestamp,
) -> Result<Option<ApiKey>, api_key::ApiKeyFault> {
    let ended = revocation::all(store, now).await?.iter().any(|revocation| revocation.whom == *whom);
    let key = api_key::all(store, now).await?.into_iter().find(|key| key.id == id && key.revoked_ms.is_some());
    Ok(key.filter(|key| ended || key.expires_ms <= now.unix_ms()))
}

fn open(file: &ConfigFile) -> Result<(Config, Store), Failure> {
    let config = config::load(&file.config, &Environment::process()).map_err(Failure::Report)?;
    if config.state.directory.is_none() {
        let why = "there is no `state.directory` in the configuration: keys would end with this command";
        return Err(Failure::Words(why.to_owned()));
    }
    let store = Store::open(&config.state).map_err(Failure::Words)?;
    Ok((config, store))
}

fn shown(key: &ApiKey, now: Timestamp) -> Shown<'_> {
    Shown {
        key: None,
        id: &key.id,
        state: key.state(now),
        user: key.user.as_deref(),
        agent: &key.agent,
        tenant: key.tenant.as_deref(),
        groups: &key.groups,
        scopes: &key.scopes,
        upstreams: key.upstreams.as_deref(),
        created: time(key.created_ms),
        expires: time(key.expires_ms),
        revoked: key.revoked_ms.map(time),
    }
}

/// RFC 3339, to the second.
fn time(unix_ms: u64) -> String {
    let seconds = i64::try_from(unix_ms / 1000).unwrap_or(i64::MAX);
    jiff::Timestamp::from_second(seconds).map(|time| time.to_string()).unwrap_or_default()
}

fn json(shown: &Shown<'_>) -> Result<String, Failure> {
    serde_json::to_string(shown).map_err(|error| Failure::Words(error.to_string()))
}

fn words(fault: impl std::fmt::Display) -> Failure {
    Failure::Words(fault.to_string())
}

/// Whom a user's key acts through, where nobody says.
const AGENT: &str = "api-key";

const AFTER_HELP: &str = "\
Examples:
  tollgate keys new --user alice --group support --upstream crm
  KEY=$(tollgate keys new --agent nightly-report --tenant acme --scope crm:read --days 30)
  tollgate keys list --json | jq -r 'select(.state == \"valid\") | [.id, .user, .expires] | @tsv'
  tollgate keys revoke 4fQm2ZxK81rT";
