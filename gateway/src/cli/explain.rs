//! `tollgate explain`.

use std::io::Write;

use bytes::Bytes;
use clap::Args;

use super::{Answer, ConfigFile, Failure, test::reported, tools};
use crate::{
    clock::{self, Timestamp},
    config,
    identity::{self, Agent, Identity, User},
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
    /// Who vouches for the caller [default: the first of `[[issuers]]`].
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
    let config = config::load(&arguments.config.config, &arguments.from.environment()).map_err(Failure::Report)?;
    let policies = Policies::load(&config.gateway.policies).map_err(reported)?;
    let known = arguments.from.known(&config)?;
    let Some(tool) = known.tools.iter().find(|tool| tool.action() == arguments.tool) else {
        return Err(Failure::Words(unknown(&arguments.tool, &known)));
    };
    let text = Bytes::from(arguments.arguments.clone().into_bytes());
    let document = Document::parse(text, &BOUNDS)
        .map_err(|why| Failure::Words(format!("`--arguments` is not JSON that the gateway would take: {why}")))?;
    let now = match &arguments.at {
        Some(at) => instant(at)?,
        None => clock::now(),
    };
    let issuer = config.issuers.first().map(|issuer| issuer.issuer.clone()).unwrap_or_default();
    let mut caller = identity(arguments, issuer);
    caller.authentication.auth_time = arguments.auth_time.as_deref().map(instant).transpose()?;
    let binding = binding(arguments.binding.as_deref());
    caller.authentication.binding = binding.ok_or_else(|| Failure::Words("`--binding` is none".to_owned()))?;
    let explanation = policies.explain(&caller, tool, Some(document.root()), now);
    explanation.render(out)?;
    Ok(if explanation.answer == explain::Answer::Allow { Answer::Yes } else { Answer::No })
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
    let issuer = arguments.issuer.clone().unwrap_or(issuer);
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
