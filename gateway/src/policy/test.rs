//! Do the policies do what their administrator meant?
//!
//! `*.test.toml`: who, which tool, which arguments, and how the call should end. The cases go through the decision that
//! calls go through. It does not print more than it is asked to.

use std::{
    io::{self, Write},
    sync::Arc,
};

use bytes::Bytes;
use miette::SourceSpan;
use serde::Deserialize;
use toml::Spanned;

use super::{Policies, explain::Answer};
use crate::{
    catalog::Definition,
    clock::Timestamp,
    config::{Problem, Source},
    digest::sha256,
    identity::{self, Agent, Authentication, Binding, Credential, Identity, User, api_key},
    rpc::json::{Bounds, Document},
};

/// One `*.test.toml`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    tests: Vec<Spanned<Case>>,
}

/// One case.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    name: String,
    /// `sub`; absent for an agent in its own name.
    user: Option<String>,
    /// As the method has it, where not said.
    issuer: Option<String>,
    #[serde(default = "agent")]
    agent: String,
    actor: Option<String>,
    tenant: Option<String>,
    #[serde(default)]
    groups: Vec<String>,
    #[serde(default)]
    scopes: Vec<String>,
    acr: Option<String>,
    #[serde(default)]
    method: Method,
    /// RFC 3339; when the user logged in.
    auth_time: Option<String>,
    /// `dpop` or `certificate`, where the token is bound so.
    binding: Option<String>,
    /// RFC 3339; Monday 2026-01-05 at noon in UTC where absent.
    at: Option<String>,
    /// `upstream/tool`.
    tool: String,
    arguments: Option<toml::Table>,
    expect: Answer,
    /// The policy that has to be among those that decide.
    policy: Option<String>,
}

/// How the caller of a case was proven.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Method {
    #[default]
    Jwt,
    Introspection,
    ApiKey,
    Certificate,
}

impl Method {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Jwt => identity::JWT,
            Self::Introspection => identity::INTROSPECTION,
            Self::ApiKey => identity::API_KEY,
            Self::Certificate => identity::CERTIFICATE,
        }
    }

    /// Who vouches for all callers that are proven so, where the gateway itself does.
    const fn issuer(self) -> Option<&'static str> {
        match self {
            Self::Jwt | Self::Introspection => None,
            Self::ApiKey => Some(api_key::ISSUER),
            Self::Certificate => Some(identity::CERTIFICATES),
        }
    }
}

impl Case {
    /// Who vouches for the caller; `None` where it is not who the case says.
    fn issuer(&self) -> Option<&str> {
        match (self.method.issuer(), self.issuer.as_deref()) {
            (Some(own), given) => given.is_none_or(|given| given == own).then_some(own),
            (None, given) => Some(given.unwrap_or(ISSUER)),
        }
    }
}

/// How one case ended.
#[derive(Debug)]
pub struct Outcome {
    /// The file that it stands in.
    pub file: String,
    /// Its name.
    pub name: String,
    /// What is wrong; `None` for a case that holds.
    pub problem: Option<Problem>,
}

/// All outcomes.
#[derive(Debug)]
pub struct Report {
    /// In the order of files and cases.
    pub outcomes: Vec<Outcome>,
}

impl Policies {
    /// Runs the cases of `sources` against these policies and `tools`.
    ///
    /// # Errors
    /// What is wrong with the files themselves.
    pub fn test(&self, sources: &[Source], tools: &[Arc<Definition>]) -> Result<Report, Vec<Problem>> {
        let mut outcomes = Vec::new();
        let mut problems = Vec::new();
        for source in sources {
            match toml::from_str::<File>(source.text()) {
                Ok(file) => outcomes.extend(file.tests.iter().map(|case| self.case(source, case, tools))),
                Err(fault) => problems.push(source.toml(&fault)),
            }
        }
        if problems.is_empty() { Ok(Report { outcomes }) } else { Err(problems) }
    }

    fn case(&self, source: &Source, case: &Spanned<Case>, tools: &[Arc<Definition>]) -> Outcome {
        let wrong = self.wrong(case.get_ref(), tools);
        let span = SourceSpan::from(case.span());
        let problem = wrong.map(|(message, help)| source.problem(message).under(Some(span)).help(help));
        Outcome { file: source.place().to_owned(), name: case.get_ref().name.clone(), problem }
    }

    /// What is wrong, and what helps.
    fn wrong(&self, case: &Case, tools: &[Arc<Definition>]) -> Option<(String, String)> {
        let Some(tool) = tools.iter().find(|tool| tool.action() == case.tool) else {
            return Some((format!("there is no tool `{}`", case.tool), "write `upstream/tool`".to_owned()));
        };
        let document = match arguments(case) {
            Ok(document) => document,
            Err(why) => return Some((format!("the arguments cannot be JSON: {why}"), "see TOML's types".to_owned())),
        };
        let (Some(now), Some(auth_time)) = (instant(case.at.as_ref()), instant(case.auth_time.as_ref())) else {
            let help = "write it as `2026-01-05T12:00:00Z`";
            return Some(("`at` or `auth_time` is not a point in time".to_owned(), help.to_owned()));
        };
        let Some(binding) = binding(case.binding.as_deref()) else {
            return Some(("a token is bound to no such thing".to_owned(), "write `dpop` or `certificate`".to_owned()));
        };
        let Some(issuer) = case.issuer() else {
            let help = "leave `issuer` out, or write another `method`";
            return Some((format!("`{}` has an issuer of its own", case.method.as_str()), help.to_owned()));
        };
        let mut caller = identity(case, issuer);
        (caller.authentication.auth_time, caller.authentication.binding) = (auth_time, binding);
        let now = now.unwrap_or(Timestamp::from_unix_ms(NOON_MS));
        let explanation = self.explain(&caller, tool, Some(document.root()), now);
        let mut help = Vec::new();
        // Writing to memory does not fail; were it to, the message would be shorter.
        let rendered = explanation.render(&mut help).is_ok();
        let help = if rendered { String::from_utf8(help).unwrap_or_default() } else { String::new() };
        let help = help.trim_end().to_owned();
        if explanation.answer != case.expect {
            let (expect, got) = (case.expect.as_str(), explanation.answer.as_str());
            return Some((format!("expected `{expect}`, got `{got}`"), help));
        }
        let policy = case.policy.as_ref()?;
        if explanation.decided.iter().any(|id| **id == **policy) {
            return None;
        }
        Some((format!("`{policy}` is not among the policies that decided"), help))
    }
}

impl Report {
    /// How many cases did not hold.
    #[must_use]
    pub fn failures(&self) -> usize {
        self.outcomes.iter().filter(|outcome| outcome.problem.is_some()).count()
    }

    /// Writes one line a case and a sum; problems are for the caller to print.
    ///
    /// # Errors
    /// `out` cannot be written to.
    pub fn render(&self, out: &mut impl Write) -> io::Result<()> {
        for Outcome { file, name, problem } in &self.outcomes {
            match problem {
                None => writeln!(out, "ok    {file}: {name}")?,
                Some(problem) => writeln!(out, "FAIL  {file}: {name}: {problem}")?,
            }
        }
        let failed = self.failures();
        writeln!(out, "{} hold, {failed} do not", self.outcomes.len().saturating_sub(failed))
    }
}

fn arguments(case: &Case) -> Result<Document, String> {
    let text = match &case.arguments {
        Some(arguments) => serde_json::to_vec(arguments).map_err(|fault| fault.to_string())?,
        None => b"{}".to_vec(),
    };
    Document::parse(Bytes::from(text), &BOUNDS).map_err(str::to_owned)
}

/// The caller of a case.
fn identity(case: &Case, issuer: &str) -> Identity {
    let user = case.user.as_ref();
    let mut caller = Identity {
        user: user.map(|subject| User { issuer: issuer.to_owned(), subject: subject.clone() }),
        agent: Agent { client_id: case.agent.clone(), actors: case.actor.iter().cloned().collect() },
        tenant: case.tenant.clone(),
        groups: sorted(&case.groups),
        scopes: sorted(&case.scopes),
        ..invented(&format!("{case:?}"), issuer.to_owned(), case.method.as_str())
    };
    caller.authentication.acr.clone_from(&case.acr);
    caller
}

/// A caller by assertion. It reaches the policies only: there is no credential that anything could be minted with. `who` tells
/// callers apart, as the digests of a real one do.
#[must_use]
pub fn invented(who: &str, issuer: String, method: &'static str) -> Identity {
    let class = sha256(who.as_bytes());
    Identity {
        user: None,
        agent: Agent { client_id: String::new(), actors: Vec::new() },
        tenant: None,
        groups: Vec::new(),
        scopes: Vec::new(),
        authentication: Authentication {
            method,
            issuer,
            token_id: None,
            token_digest: String::new(),
            login_id: None,
            acr: None,
            issued_at: Timestamp::from_unix_ms(0),
            auth_time: None,
            binding: Binding::Nothing,
            may_act: None,
            expires_at: Timestamp::from_unix_ms(u64::MAX),
        },
        principal: class,
        class,
        credential: Credential::new(String::new()),
    }
}

/// Each of them once, in the order that an identity has them in.
#[must_use]
pub fn sorted(list: &[String]) -> Vec<String> {
    let mut list = list.to_vec();
    list.sort_unstable();
    list.dedup();
    list
}

/// A point in time, where one is written; `None` where what is written is none.
fn instant(text: Option<&String>) -> Option<Option<Timestamp>> {
    let Some(text) = text else { return Some(None) };
    let at = text.parse::<jiff::Timestamp>().ok()?.as_millisecond();
    u64::try_from(at).ok().map(Timestamp::from_unix_ms).map(Some)
}

/// What a credential is bound to, by its word; which key or certificate, policies do not read.
#[must_use]
pub fn binding(word: Option<&str>) -> Option<Binding> {
    let bindings = [Binding::Nothing, Binding::Key(String::new()), Binding::Certificate(String::new())];
    let word = word.unwrap_or(Binding::Nothing.as_str());
    bindings.into_iter().find(|binding| binding.as_str() == word)
}

fn agent() -> String {
    "test-agent".to_owned()
}

/// Of a token whose case does not say.
const ISSUER: &str = "https://issuer.example";

/// A case is a file of the administrator's own.
const BOUNDS: Bounds = Bounds { depth_max: 64, values_max: 20_000, name_bytes_max: 256, number_chars_max: 64 };

/// Monday 2026-01-05T12:00:00Z.
const NOON_MS: u64 = 1_767_614_400_000;
