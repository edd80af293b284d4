//! `tollgate explain`.

use std::io::Write;

use bytes::Bytes;
use clap::Args;

use super::{Answer, ConfigFile, Failure, test::reported, tools};
use crate::{
    clock::{self, Timestamp},
    config::Config,
    identity::{self, Agent, Identity, User, api_key},
    policy::{
        Policies, explain,
        test::{binding, invented, sorted},
    },
    rpc::json::{Bounds, Document},
};

/// Say how a call would be decided, and by which policies.
///
/// Decides a call as the gateway would, and says which policies were looked at and what each of them said.
///
/// The caller is whoever the options say: no token is needed, and nothing is called.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    config: ConfigFile,
    #[command(flatten)]
    from: tools::From,
    /// The user's `sub`; without one, the agent calls in its own name.
    #[arg(long, value_name = "SUB")]
    user: Option<String>,
    /// The agent's client id.
    #[arg(long, value_name = "ID", default_value = "an-agent")]
    agent: String,
    /// Who vouches for the caller [default: as the method has it; of tokens, the first of `[[issuers]]`].
    #[arg(long, value_name = "URL")]
    issuer: Option<String>,
    /// The tenant.
    #[arg(long, value_name = "NAME")]
    tenant: Option<String>,
    /// A group of the caller; may be given more than once.
    #[arg(long = "group", value_name = "NAME")]
    groups: Vec<String>,
    /// A scope of the caller's token; may be given more than once.
    #[arg(long = "scope", value_name = "SCOPE")]
    scopes: Vec<String>,
    /// The strength of the login, `acr`.
    #[arg(long, value_name = "ACR")]
    acr: Option<String>,
    /// When the user logged in, `auth_time`, RFC 3339.
    #[arg(long, value_name = "TIME")]
    auth_time: Option<String>,
    /// What the token is bound to.
    #[arg(long, value_name = "WHAT", value_parser = ["none", "dpop", "certificate"])]
    binding: Option<String>,
    /// How the caller was proven.
    #[arg(long, value_name = "METHOD", default_value = identity::JWT, value_parser = identity::METHODS)]
    method: String,
    /// The tool, by its upstream and its own name.
    #[arg(long, value_name = "UPSTREAM/TOOL")]
    tool: String,
    /// The arguments of the call.
    #[arg(long, value_name = "JSON", default_value = "{}")]
    arguments: String,
    /// When, RFC 3339 [default: now].
    #[arg(long, value_name = "TIME")]
    at: Option<String>,
}

pub(super) fn act(arguments: &Arguments, out: &mut impl Write) -> Result<Answer, Failure> {
    let config = arguments.from.load(&arguments.config)?;
    let policies = Policies::load(&config.gateway.policies).map_err(reported)?;
    let known = arguments.from.known(&config)?;
    let Some(tool) = known.tools.iter().find(|tool| tool.action() == arguments.tool) else {
        return Err(Failure::Words(unknown(&arguments.tool, &known)));
    };
    let text = Bytes::from(arguments.arguments.clone().into_bytes());
    let document = Document::parse(text, &BOUNDS)
        .map_err(|why| Failure::Words(format!("`--arguments` is not JSON that the gateway would take: {why}")))?;
    if !document.root().is_object() {
        return Err(Failure::Words(
            "`--arguments` is not a JSON object, as the arguments of every call are".to_owned(),
        ));
    }
    let now = match &arguments.at {
        Some(at) => instant(at)?,
        None => clock::now(),
    };
    let mut caller = identity(arguments, issuer(arguments, &config)?);
    caller.authentication.auth_time = arguments.auth_time.as_deref().map(instant).transpose()?;
    let binding = binding(arguments.binding.as_deref());
    caller.authentication.binding = binding.ok_or_else(|| Failure::Words("`--binding` is none".to_owned()))?;
    let explanation = policies.explain(&caller, tool, Some(document.root()), now);
    explanation.render(out)?;
    Ok(if explanation.answer == explain::Answer::Allow { Answer::Yes } else { Answer::No })
}

/// Who vouches for a caller that is proven by the method.
fn issuer(arguments: &Arguments, config: &Config) -> Result<String, Failure> {
    let known = match arguments.method.as_str() {
        identity::API_KEY => vec![api_key::ISSUER],
        identity::CERTIFICATE => vec![identity::CERTIFICATES],
        _ => token_issuers(config).collect(),
    };
    let issuer = match &arguments.issuer {
        Some(given) => known.iter().find(|known| *known == given),
        None => known.first(),
    };
    issuer.map(|issuer| (*issuer).to_owned()).ok_or_else(|| {
        let method = &arguments.method;
        Failure::Words(match &arguments.issuer {
            Some(given) if !known.is_empty() => {
                format!("no issuer `{given}` by `{method}`; there are `{}`", known.join("`, `"))
            }
            Some(_) | None => format!("nobody vouches for a caller by `{method}`: say another `--method`"),
        })
    })
}

/// Whose tokens are taken.
pub(super) fn token_issuers(config: &Config) -> impl Iterator<Item = &str> {
    let own = config.facade.iter().map(|facade| facade.own.issuer.as_str());
    config.issuers.iter().map(|issuer| issuer.issuer.as_str()).chain(own)
}

fn unknown(tool: &str, known: &tools::Known) -> String {
    let mut message = format!("there is no tool `{tool}`; known are:");
    for tool in &known.tools {
        message.push_str(&format!("\n  {}", tool.action()));
    }
    for (upstream, why) in &known.unread {
        message.push_str(&format!("\nnot known are those of `{upstream}`: {why}"));
    }
    message
}

/// A point in time as a person writes it.
pub(super) fn instant(text: &str) -> Result<Timestamp, Failure> {
    let at = text.parse::<jiff::Timestamp>().ok().and_then(|at| u64::try_from(at.as_millisecond()).ok());
    let help = "write it as `2026-01-05T12:00:00Z`";
    at.map(Timestamp::from_unix_ms).ok_or_else(|| Failure::Words(format!("`{text}` is not a point in time; {help}")))
}

/// Whom the options describe.
fn identity(arguments: &Arguments, issuer: String) -> Identity {
    let method = identity::METHODS.into_iter().find(|known| *known == arguments.method).unwrap_or(identity::JWT);
    let mut caller = Identity {
        user: arguments.user.clone().map(|subject| User { issuer: issuer.clone(), subject }),
        agent: Agent { client_id: arguments.agent.clone(), actors: Vec::new() },
        tenant: arguments.tenant.clone(),
        groups: sorted(&arguments.groups),
        scopes: sorted(&arguments.scopes),
        ..invented(&format!("{arguments:?}"), issuer, method)
    };
    caller.authentication.acr.clone_from(&arguments.acr);
    caller
}

/// What a call may have at most.
const BOUNDS: Bounds = Bounds { depth_max: 64, values_max: 20_000, name_bytes_max: 256, number_chars_max: 64 };
