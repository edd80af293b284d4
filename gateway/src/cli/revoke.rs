//! `tollgate revoke`.

use std::{io::Write, path::Path, time::Duration};

use clap::{Args, Subcommand};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{Answer, ConfigFile, Failure, explain, runtime};
use crate::{
    bridge,
    clock::{self, Timestamp},
    config::{self, Config, Environment, Profile, UpstreamId},
    identity::{
        self, api_key,
        revocation::{self, Revocation, Whom},
    },
    state::Store,
};

/// End what somebody has, now: tokens, streams, calls under way, sessions.
///
/// In force within a second at every gateway on the `[state] directory` of the configuration, and after its next start.
/// What has ended is in the journal, as `revocation`.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// A person: sign them out, or keep them out with `--block`.
    User(Named),
    /// Software, by its client id: sign it out everywhere, or keep it out with `--block`.
    Agent(Named),
    /// Everybody of a tenant.
    Tenant(Named),
    /// One token, by its `jti` or the `token_digest` that the journal has of it; all of one login, by their `sid`; all that
    /// are bound to one key or certificate, by its thumbprint.
    Token(One),
    /// One session of a client older than MCP 2026-07-28.
    Session {
        /// Its `Mcp-Session-Id`, or its name, `request.session` of its records in the journal.
        #[arg(value_name = "SESSION", allow_hyphen_values = true)]
        name: String,
        #[command(flatten)]
        about: About,
    },
    /// The credentials that the gateway was given for upstreams: the next call asks for new ones.
    Grant {
        /// For this upstream; for all, where not said.
        #[arg(long, value_name = "ID")]
        upstream: Option<String>,
        /// In the name of this person, by `sub`.
        #[arg(long, value_name = "SUB")]
        user: Option<String>,
        /// For this client.
        #[arg(long, value_name = "ID")]
        agent: Option<String>,
        #[command(flatten)]
        about: About,
    },
    /// What is revoked, oldest first.
    List {
        #[command(flatten)]
        config: ConfigFile,
        /// As JSON, one object a line.
        #[arg(long)]
        json: bool,
    },
    /// Take a revocation back, by its id. What it has ended stays ended.
    Lift {
        /// As `list` shows it.
        #[arg(value_name = "ID", value_parser = id)]
        id: Uuid,
        #[command(flatten)]
        config: ConfigFile,
        /// Print it as JSON.
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Args)]
struct One {
    /// Whom or what, as the journal has it.
    #[arg(value_name = "NAME", allow_hyphen_values = true)]
    name: String,
    /// Only of this issuer.
    #[arg(long, value_name = "URL")]
    issuer: Option<String>,
    #[command(flatten)]
    about: About,
}

#[derive(Debug, Args)]
struct Named {
    #[command(flatten)]
    one: One,
    /// Keep them out with newer tokens, too: until `--for` or `--until` is over, or it is lifted.
    #[arg(long)]
    block: bool,
}

#[derive(Debug, Args)]
struct About {
    #[command(flatten)]
    config: ConfigFile,
    /// How long it is in force, as in `8h` or `30d` [default: as long as any token may live; until lifted, where nobody can tell, or for a block]
    #[arg(long, value_name = "SPAN", conflicts_with = "until")]
    r#for: Option<String>,
    /// Until when it is in force, in RFC 3339.
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// Why; the journal keeps it.
    #[arg(long, value_name = "TEXT")]
    why: Option<String>,
    /// Print it as JSON.
    #[arg(long)]
    json: bool,
}

pub(super) fn act(arguments: &Arguments, out: &mut impl Write) -> Result<Answer, Failure> {
    let (whom, block, about) = match &arguments.what {
        What::User(Named { one, block }) => {
            let One { name, issuer, about } = one;
            (Whom::User { name: name.clone(), issuer: issuer.clone() }, *block, about)
        }
        What::Agent(Named { one, block }) => {
            let One { name, issuer, about } = one;
            (Whom::Agent { name: name.clone(), issuer: issuer.clone() }, *block, about)
        }
        What::Tenant(Named { one, block }) => {
            let One { name, issuer, about } = one;
            (Whom::Tenant { name: name.clone(), issuer: issuer.clone() }, *block, about)
        }
        What::Token(One { name, issuer, about }) => {
            (Whom::Token { name: name.clone(), issuer: issuer.clone() }, false, about)
        }
        What::Session { name, about } => (Whom::Session { name: session_name(name) }, false, about),
        What::Grant { upstream: None, user: None, agent: None, .. } => {
            return Err(Failure::Words("say whose grants: `--upstream`, `--user` or `--agent`".to_owned()));
        }
        What::Grant { upstream, user, agent, about } => {
            (Whom::Grant { upstream: upstream.clone(), user: user.clone(), agent: agent.clone() }, false, about)
        }
        What::List { config, json } => return list(&config.config, *json, out),
        What::Lift { id, config, json } => return lift(&config.config, *id, *json, out),
    };
    revoke(whom, block, about, out)
}

/// The name of a revocation.
fn id(text: &str) -> Result<Uuid, String> {
    let help = "an id is as `019b8c3e-5d2a-7c41-9a57-0d6f3b1e2c84`; `tollgate revoke list` shows those in force";
    text.parse().map_err(|_not_one| help.to_owned())
}

/// A session is named in the journal by its id's digest, and may be given by either.
fn session_name(given: &str) -> String {
    let is_name = given.len() == 32 && given.bytes().all(|byte| byte.is_ascii_hexdigit());
    if is_name { given.to_ascii_lowercase() } else { bridge::session_name(given) }
}

fn revoke(whom: Whom, block: bool, about: &About, out: &mut impl Write) -> Result<Answer, Failure> {
    let (config, store) = opened(&about.config.config)?;
    let known = issuers(&config);
    if let Some(unknown) = whom.issuer().filter(|issuer| !known.contains(issuer)) {
        return Err(Failure::Words(format!("no issuer `{unknown}`; there are `{}`", known.join("`, `"))));
    }
    if let Whom::Grant { upstream: Some(upstream), .. } = &whom {
        known_upstream(&config, upstream)?;
    }
    let now = clock::now();
    let until = match (&about.r#for, &about.until) {
        (Some(span), _) => Some(now.plus(span_of(span)?)),
        (None, Some(time)) => Some(explain::instant(time)?),
        (None, None) if block || outlives_tokens(&whom, &config) => None,
        (None, None) => tokens_live(&config).map(|live| now.plus(live)),
    };
    if until.is_some_and(|until| until <= now) {
        return Err(Failure::Words("it would be over already".to_owned()));
    }
    let mut revocation = Revocation::new(whom, now, until);
    (revocation.blocks, revocation.why, revocation.by) = (block, about.why.clone(), Some(operator()));
    let kept = runtime()?.block_on(revocation::revoke(&store, &revocation, now));
    kept.map_err(|fault| Failure::Words(fault.to_string()))?;
    if about.json {
        writeln!(out, "{}", shown(&revocation))?;
    } else {
        writeln!(out, "{}", told(&revocation))?;
        writeln!(out, "in force within a second; `tollgate revoke lift {}` takes it back", revocation.id)?;
    }
    Ok(Answer::Yes)
}

fn list(config: &Path, json: bool, out: &mut impl Write) -> Result<Answer, Failure> {
    let (_, store) = opened(config)?;
    let all = runtime()?.block_on(revocation::all(&store, clock::now()));
    let all = all.map_err(|fault| Failure::Words(fault.to_string()))?;
    for revocation in &all {
        if json {
            writeln!(out, "{}", shown(revocation))?;
        } else {
            writeln!(out, "{}  {}", revocation.id, told(revocation))?;
        }
    }
    if all.is_empty() && !json {
        writeln!(out, "nothing is revoked")?;
    }
    Ok(Answer::Yes)
}

fn lift(config: &Path, id: Uuid, json: bool, out: &mut impl Write) -> Result<Answer, Failure> {
    let (_, store) = opened(config)?;
    let lifted =
        runtime()?.block_on(revocation::lift(&store, id)).map_err(|fault| Failure::Words(fault.to_string()))?;
    if json {
        writeln!(out, "{}", json!({ "id": id, "lifted": lifted }))?;
    } else if lifted {
        writeln!(out, "lifted")?;
    } else {
        writeln!(out, "no revocation has this id: `tollgate revoke list` shows all that are in force")?;
    }
    Ok(if lifted { Answer::Yes } else { Answer::No })
}

/// The state of a gateway. Whoever revokes in a hurry need not have all of its secrets: where they are not at hand, the
/// folder's own key will do.
pub(super) fn opened(path: &Path) -> Result<(Config, Store), Failure> {
    let config = config::load(path, &Environment::process()).or_else(|report| {
        let without = config::load(path, &Environment::Elsewhere);
        without.ok().filter(|config| config.state.sealing_key.is_none()).ok_or(report)
    });
    let config = config.map_err(Failure::Report)?;
    let Some(folder) = &config.state.directory else {
        let help = "without it nothing outlives the gateway, and nobody else can tell it anything";
        return Err(Failure::Words(format!("`{}` has no `[state] directory`: {help}", path.display())));
    };
    if !folder.is_dir() {
        return Err(Failure::Words(format!("`{}` is not there: the gateway has never run on it", folder.display())));
    }
    let store = Store::open(&config.state).map_err(Failure::Words)?;
    Ok((config, store))
}

/// Whether there is an upstream with this id.
pub(super) fn known_upstream(config: &Config, id: &str) -> Result<(), Failure> {
    if UpstreamId::parse(id).is_some_and(|id| config.upstreams.contains_key(&id)) {
        return Ok(());
    }
    let known: Vec<&str> = config.upstreams.keys().map(UpstreamId::as_str).collect();
    Err(Failure::Words(format!("no upstream `{id}`; there are `{}`", known.join("`, `"))))
}

/// Whether somebody may be meant who has no token: an API key lives longer than any, and a certificate may.
fn outlives_tokens(whom: &Whom, config: &Config) -> bool {
    let may_be_of = |issuer: &str| whom.issuer().is_none_or(|only| only == issuer);
    config.keys.enabled && may_be_of(api_key::ISSUER)
        || !config.certificates.is_empty() && may_be_of(identity::CERTIFICATES)
}

/// Everybody who vouches for callers.
fn issuers(config: &Config) -> Vec<&str> {
    let keys = config.keys.enabled.then_some(api_key::ISSUER);
    let certificates = (!config.certificates.is_empty()).then_some(identity::CERTIFICATES);
    explain::token_issuers(config).chain(keys).chain(certificates).collect()
}

/// How long a token lives that was issued a moment ago, or a login that gives new ones here; `None` where an issuer need
/// not say when that was: such a token may be good again at any time, when what is left of its life is short enough.
fn tokens_live(config: &Config) -> Option<Duration> {
    let may_lack_time = |issuer: &config::Issuer| {
        let opaque = issuer.introspection.as_ref().is_some_and(|introspection| introspection.opaque);
        opaque || issuer.signs() && issuer.profile != Profile::Rfc9068
    };
    if config.issuers.iter().any(|issuer| may_lack_time(issuer)) {
        return None;
    }
    let lives = config.issuers.iter().map(|issuer| issuer.lifetime_max.saturating_add(issuer.leeway));
    let logins = config
        .facade
        .iter()
        .map(|facade| facade.login.saturating_add(facade.own.lifetime_max).saturating_add(facade.own.leeway));
    Some(lives.chain(logins).max().unwrap_or(DAY))
}

pub(super) fn operator() -> String {
    let environment = Environment::process();
    let name = environment.variable("SUDO_USER").or_else(|| environment.variable("USER"));
    let uid = rustix::process::getuid().as_raw();
    name.map_or_else(|| format!("uid {uid}"), |name| format!("{} (uid {uid})", name.expose()))
}

/// A number and its unit.
fn span_of(text: &str) -> Result<Duration, Failure> {
    let wrong = || Failure::Words(format!("`{text}` is not a span of time; write it as `30m`, `8h` or `7d`"));
    let (count, second) = match text.chars().last() {
        Some('s') => (text.strip_suffix('s'), 1),
        Some('m') => (text.strip_suffix('m'), 60),
        Some('h') => (text.strip_suffix('h'), 3_600),
        Some('d') => (text.strip_suffix('d'), 86_400_u64),
        Some(_) | None => (None, 0),
    };
    let count: u64 = count.and_then(|count| count.parse().ok()).ok_or_else(wrong)?;
    Ok(Duration::from_secs(count.saturating_mul(second)))
}

fn told(revocation: &Revocation) -> String {
    let what = match (&revocation.whom, revocation.blocks) {
        (_, true) => "kept out".to_owned(),
        (Whom::Token { .. } | Whom::Session { .. }, false) => "ended".to_owned(),
        (_, false) => format!("what was issued until {} is revoked", written(revocation.at())),
    };
    let mut text = format!("{} {}: {what}", revocation.whom.kind(), revocation.whom.name());
    let more = [
        revocation.whom.issuer().map(|issuer| format!(" (of {issuer})")),
        revocation.until().map(|until| format!(", until {}", written(until))),
        revocation.why.as_ref().map(|why| format!(", because: {why}")),
        revocation.by.as_ref().map(|by| format!(", by {by}")),
    ];
    more.into_iter().flatten().for_each(|more| text.push_str(&more));
    plain(&text)
}

/// Text of others, without what a terminal would act on.
pub(super) fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

fn shown(revocation: &Revocation) -> Value {
    json!({
        "id": revocation.id, "kind": revocation.whom.kind(), "name": revocation.whom.name(),
        "issuer": revocation.whom.issuer(), "blocks": revocation.blocks, "at": written(revocation.at()),
        "until": revocation.until().map(written), "why": revocation.why, "by": revocation.by,
    })
}

pub(super) fn written(time: Timestamp) -> String {
    let time = i64::try_from(time.unix_ms()).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    time.map_or_else(|| "the end of time".to_owned(), |time| format!("{time:.0}"))
}

/// What tokens live that nobody bounds.
const DAY: Duration = Duration::from_secs(86_400);

const AFTER_HELP: &str = "\
Signing out and keeping out:
  Without `--block`, what was issued until now is good no more, and whoever logs in anew is welcome. A client that holds a
  refresh token of an identity provider logs in by itself: end its session there, too, or use `--block`. Refresh tokens of
  the gateway's own `[facade]` end with what was issued.
  With `--block`, nothing of theirs is taken, until the block is over or lifted.

Examples:
  tollgate revoke user alice --block --for 8h --why 'INC-4711: laptop lost'
  tollgate revoke agent claude-desktop --issuer https://login.example.com/realms/corp
  tollgate revoke token 9f86d081884c7d659a2feaa0c55ad015
  tollgate revoke grant --upstream crm --user alice
  tollgate revoke list --json | jq -r 'select(.blocks).name'";

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{session_name, span_of};

    #[test]
    fn a_span_is_a_number_and_its_unit() {
        for (text, seconds) in [("90s", 90), ("30m", 1_800), ("8h", 28_800), ("7d", 604_800)] {
            assert_eq!(span_of(text).unwrap(), Duration::from_secs(seconds), "{text}");
        }
        for text in ["", "8", "h", "-1h", "1w", "8 h", "é"] {
            assert!(span_of(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_session_is_given_by_its_id_or_by_its_name() {
        let name = session_name("W2-an-id-of-a-session");
        assert_eq!(session_name(&name), name);
        assert_ne!(session_name("another"), name);
    }
}
