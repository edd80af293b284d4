//! What does an audit record say?
//!
//! The events of the journal and their form: one JSON object a line, `schema` = [`SCHEMA`]. Inputs are borrowed and
//! written in one pass. This module does not know where lines go, and reads no clock.
//!
//! Every line begins with `schema`, `event`, `id`, `time` (RFC 3339, UTC, milliseconds) and `monotonic_ms` (since the
//! process began; it does not step when the wall clock does), and ends with `seq` and `mac`, which the journal adds.
//! A member that is not known is left out; `user`, `agent`, `tenant` and `authentication` are `null` where nobody was
//! proven, so that "nobody" cannot be mistaken for "not recorded".
//!
//! | event | when | members |
//! |---|---|---|
//! | `intent` | before a call is forwarded, or answered with what is kept | who, `target`, `grant`, `decision`, `ceilings`, `request` |
//! | `outcome` | after it, same `id` | `result` |
//! | `input_requested` | in the middle of a call the client is asked something, same `id` | `input` |
//! | `input_answered` | the answer, under the `id` of the request that brought it | who, `input` |
//! | `input_abandoned` | nobody answered in time, same `id` as the asking | `input` |
//! | `refusal` | instead of it | who, `target`, `decision`, `ceilings`, `request`, `refused` |
//! | `grant` | a credential was minted | who, `upstream`, `grant`, `call`, `request` |
//! | `connect` | a user connected an account at an upstream, or could not | `user`, `upstream`, `connect`, `request` |
//! | `list` | a list was answered | who, `request`, `list` |
//! | `client`, `consent`, `token` | a client registered, a person agreed, the gateway issued a token of its own | `user`, `authorization`, `peer` |
//! | `config`, `policy` | a change was applied or rejected | `change` |
//! | `revocation` | one is in force here, has ended what it could, or is lifted | `revocation` |
//! | `start`, `stop` | the process | `process` |
//! | `refusals_summary` | unauthenticated refusals, about once a second | `refusals` |
//! | `recovered` | after a crash or a failing disk | `recovered` |
//! | `segment`, `open_calls`, `checkpoint` | the journal's own | see [`super::chain`] |
//!
//! *who* is `user {issuer, subject}`, `agent {client_id, actors, unverified {name, version}}`, `tenant` and
//! `authentication {method, issuer, token_id, token_digest, acr, auth_time, binding {method, thumbprint}}`. `input` is `asks [{key, method, mode, digest}]`,
//! `answers [{key, method, action}]` or `reason`, with `upstream` and `call`, the `id` of the first intent of one call. What a client claims about itself stands only under
//! `unverified`. No token, secret, cookie or argument is ever a member.

use std::{net::SocketAddr, sync::Arc};

use uuid::Uuid;

use super::json::Json;
use crate::{clock::Timestamp, identity::Identity, policy::Finding, refusal::Era};

/// The name and version of the form of every line.
pub const SCHEMA: &str = "tollgate.audit/1";

/// When a record was made.
#[derive(Debug, Clone, Copy)]
pub struct Stamp {
    /// By the wall clock.
    pub now: Timestamp,
    /// Milliseconds since the journal was opened, by the clock that never steps.
    pub monotonic_ms: u64,
}

/// What a line is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// A call is about to be forwarded.
    Intent,
    /// A call that was forwarded has ended.
    Outcome,
    /// The client is asked something in the middle of a call.
    InputRequested,
    /// The client answered.
    InputAnswered,
    /// The client did not answer.
    InputAbandoned,
    /// A request was refused.
    Refusal,
    /// A credential was minted.
    Grant,
    /// A user connected an account at an upstream, or could not.
    Connect,
    /// A list was answered.
    List,
    /// A client registered itself.
    Client,
    /// A person agreed that a client acts for them.
    Consent,
    /// The gateway issued a token of its own.
    Token,
    /// Somebody began to listen.
    Listen,
    /// Somebody who listened does so no longer.
    ListenEnd,
    /// The configuration changed, or a change was rejected.
    Config,
    /// The policies changed, or a change was rejected.
    Policy,
    /// A revocation is in force, has ended what it could, or is lifted.
    Revocation,
    /// An API key is taken from now on, or no more.
    Key,
    /// The process began.
    Start,
    /// The process ends.
    Stop,
    /// Unauthenticated refusals, counted.
    RefusalsSummary,
    /// The journal resumed after a crash or a failing disk.
    Recovered,
    /// The first record of a segment.
    Segment,
    /// Calls whose outcome was not known when a segment began.
    OpenCalls,
    /// A signed statement of where the chain stands.
    Checkpoint,
}

impl Event {
    /// The word in the record.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Intent => "intent",
            Self::Outcome => "outcome",
            Self::InputRequested => "input_requested",
            Self::InputAnswered => "input_answered",
            Self::InputAbandoned => "input_abandoned",
            Self::Refusal => "refusal",
            Self::Grant => "grant",
            Self::Connect => "connect",
            Self::List => "list",
            Self::Client => "client",
            Self::Consent => "consent",
            Self::Token => "token",
            Self::Listen => "listen",
            Self::ListenEnd => "listen_end",
            Self::Config => "config",
            Self::Policy => "policy",
            Self::Revocation => "revocation",
            Self::Key => "key",
            Self::Start => "start",
            Self::Stop => "stop",
            Self::RefusalsSummary => "refusals_summary",
            Self::Recovered => "recovered",
            Self::Segment => "segment",
            Self::OpenCalls => "open_calls",
            Self::Checkpoint => "checkpoint",
        }
    }
}

/// Something that is written down. The records of this module are all there are.
pub trait Record: Fill {
    /// What the record is about.
    fn event(&self) -> Event;
}

pub(super) mod sealed {
    /// Writes the members of a record.
    pub trait Fill {
        /// Adds them to `json`, in the order of the schema.
        fn fill(&self, json: &mut super::Json<'_>);
    }
}
use sealed::Fill;

/// Several texts, however their owner keeps them.
#[derive(Debug, Clone, Copy)]
pub enum Words<'a> {
    /// Owned.
    Strings(&'a [String]),
    /// Shared.
    Shared(&'a [Arc<str>]),
    /// Borrowed.
    Borrowed(&'a [&'a str]),
}

impl Default for Words<'_> {
    fn default() -> Self {
        Self::Borrowed(&[])
    }
}

impl Words<'_> {
    fn is_empty(self) -> bool {
        match self {
            Self::Strings(words) => words.is_empty(),
            Self::Shared(words) => words.is_empty(),
            Self::Borrowed(words) => words.is_empty(),
        }
    }

    fn fill(self, key: &str, json: &mut Json<'_>) {
        match self {
            Self::Strings(words) => json.names(key, words.iter().map(String::as_str)),
            Self::Shared(words) => json.names(key, words.iter().map(AsRef::as_ref)),
            Self::Borrowed(words) => json.names(key, words.iter().copied()),
        }
    }

    fn fill_some(self, key: &str, json: &mut Json<'_>) {
        if !self.is_empty() {
            self.fill(key, json);
        }
    }
}

/// Who asked, as far as that was proven.
#[derive(Debug, Clone, Copy, Default)]
pub struct Who<'a> {
    /// What the credential proved; `None` before or without authentication.
    pub identity: Option<&'a Identity>,
    /// The name that the client gives itself (`clientInfo.name`): a claim.
    pub claimed_name: Option<&'a str>,
    /// The version that the client gives itself: a claim.
    pub claimed_version: Option<&'a str>,
}

impl Who<'_> {
    fn fill(&self, json: &mut Json<'_>) {
        let Some(identity) = self.identity else {
            json.null("user");
            self.fill_nobody(json);
            return;
        };
        match &identity.user {
            Some(user) => json.object("user", |json| {
                json.name("issuer", &user.issuer);
                json.name("subject", &user.subject);
            }),
            None => json.null("user"),
        }
        json.object("agent", |json| {
            json.name("client_id", &identity.agent.client_id);
            Words::Strings(&identity.agent.actors).fill("actors", json);
            self.fill_claims(json);
        });
        match &identity.tenant {
            Some(tenant) => json.name("tenant", tenant),
            None => json.null("tenant"),
        }
        let authentication = &identity.authentication;
        json.object("authentication", |json| {
            json.name("method", authentication.method);
            json.name("issuer", &authentication.issuer);
            json.name_if("token_id", authentication.token_id.as_deref());
            json.name("token_digest", &authentication.token_digest);
            json.name_if("acr", authentication.acr.as_deref());
            if let Some(time) = authentication.auth_time {
                json.number("auth_time", time.unix_seconds());
            }
            if let Some(thumbprint) = authentication.binding.thumbprint() {
                json.object("binding", |json| {
                    json.name("method", authentication.binding.as_str());
                    json.name("thumbprint", thumbprint);
                });
            }
        });
    }

    fn fill_nobody(&self, json: &mut Json<'_>) {
        if self.claimed_name.is_none() && self.claimed_version.is_none() {
            json.null("agent");
        } else {
            json.object("agent", |json| self.fill_claims(json));
        }
        json.null("tenant");
        json.null("authentication");
    }

    fn fill_claims(&self, json: &mut Json<'_>) {
        if self.claimed_name.is_some() || self.claimed_version.is_some() {
            json.object("unverified", |json| {
                json.name_if("name", self.claimed_name);
                json.name_if("version", self.claimed_version);
            });
        }
    }
}

/// What a call is aimed at.
#[derive(Debug, Clone, Copy)]
pub struct Target<'a> {
    /// The path of the MCP endpoint.
    pub endpoint: &'a str,
    /// The upstream's id.
    pub upstream: &'a str,
    /// `tool`, `resource`, `prompt`, …
    pub kind: &'a str,
    /// The upstream's own name for it.
    pub name: &'a str,
    /// The name that the caller used.
    pub exposed: &'a str,
    /// The digest of its definition as judged, in hex.
    pub definition: Option<&'a str>,
}

impl Target<'_> {
    fn fill(&self, json: &mut Json<'_>) {
        json.object("target", |json| {
            json.name("endpoint", self.endpoint);
            json.name("upstream", self.upstream);
            json.name("kind", self.kind);
            json.name("name", self.name);
            json.name("exposed", self.exposed);
            json.name_if("definition", self.definition);
        });
    }
}

/// The credential that a call goes out under; never the credential itself.
#[derive(Debug, Clone, Copy, Default)]
pub struct Grant<'a> {
    /// [`crate::exchange::Facts::strategy`].
    pub strategy: &'a str,
    /// Whom it is made out to.
    pub audience: Option<&'a str>,
    /// What it is good for.
    pub scopes: Words<'a>,
    /// Its `jti`.
    pub token_id: Option<&'a str>,
    /// The first bytes of its SHA-256, in hex.
    pub token_digest: Option<&'a str>,
    /// Whether it had been minted for an earlier call.
    pub cached: bool,
}

impl Grant<'_> {
    fn fill(&self, json: &mut Json<'_>) {
        json.object("grant", |json| {
            json.name("strategy", self.strategy);
            json.name_if("audience", self.audience);
            self.scopes.fill("scopes", json);
            json.name_if("token_id", self.token_id);
            json.name_if("token_digest", self.token_digest);
            json.truth("cached", self.cached);
        });
    }
}

/// What policy said.
#[derive(Debug, Clone, Copy)]
pub struct Decision<'a> {
    /// `allow` or `deny`.
    pub outcome: &'a str,
    /// The ids of the policies that decided.
    pub policies: Words<'a>,
    /// The digest of the policy set, in hex.
    pub policy_set: &'a str,
    /// Why, where the policy ids do not say it.
    pub reason: Option<&'a str>,
    /// What policies on trial (`@shadow`) had to say; the first sixteen are written.
    pub shadow: &'a [Finding],
}

impl Decision<'_> {
    fn fill(&self, json: &mut Json<'_>) {
        json.object("decision", |json| {
            json.name("outcome", self.outcome);
            self.policies.fill("policies", json);
            json.name("policy_set", self.policy_set);
            json.reason_if("reason", self.reason);
            let shadow = self.shadow.get(..SHADOW_MAX).unwrap_or(self.shadow);
            if !shadow.is_empty() {
                json.objects("shadow", shadow, |finding, json| {
                    json.name("policy", &finding.policy);
                    json.word("would", finding.outcome.as_str());
                    json.truth("changes", finding.changes);
                });
            }
        });
    }
}

/// The request, as far as it was read.
#[derive(Debug, Clone, Copy, Default)]
pub struct Request<'a> {
    /// The JSON-RPC id as it stood in the body: unique per caller at best, so it joins nothing.
    pub id: Option<&'a str>,
    /// The JSON-RPC method.
    pub method: Option<&'a str>,
    /// The revision family.
    pub era: Option<Era>,
    /// The protocol version.
    pub version: Option<&'a str>,
    /// The name of the legacy session, never its id.
    pub session: Option<&'a str>,
    /// [`super::journal::Journal::argument_digest`] of the arguments.
    pub arguments: Option<&'a str>,
    /// W3C trace id.
    pub trace_id: Option<&'a str>,
    /// W3C span id.
    pub span_id: Option<&'a str>,
    /// The other end of the connection.
    pub peer: Option<SocketAddr>,
}

impl Request<'_> {
    fn fill(&self, json: &mut Json<'_>) {
        json.object("request", |json| {
            json.name_if("id", self.id);
            json.name_if("method", self.method);
            json.name_if("era", self.era.map(Era::as_str));
            json.name_if("version", self.version);
            json.name_if("session", self.session);
            json.name_if("arguments", self.arguments);
            json.name_if("trace_id", self.trace_id);
            json.name_if("span_id", self.span_id);
            if let Some(peer) = self.peer {
                json.address("peer", peer);
            }
        });
    }
}

/// A call that is about to be forwarded.
#[derive(Debug, Clone, Copy)]
pub struct Intent<'a> {
    /// Who asked.
    pub who: Who<'a>,
    /// What for.
    pub target: Target<'a>,
    /// Under which credential it goes out.
    pub grant: Grant<'a>,
    /// What policy said.
    pub decision: Decision<'a>,
    /// The ceilings that counted it.
    pub ceilings: Words<'a>,
    /// The request.
    pub request: Request<'a>,
    /// The first intent of the call that this one continues.
    pub continues: Option<Uuid>,
}

impl Record for Intent<'_> {
    fn event(&self) -> Event {
        Event::Intent
    }
}

impl Fill for Intent<'_> {
    fn fill(&self, json: &mut Json<'_>) {
        self.who.fill(json);
        self.target.fill(json);
        self.grant.fill(json);
        self.decision.fill(json);
        self.ceilings.fill("ceilings", json);
        self.request.fill(json);
        fill_id("continues", self.continues, json);
    }
}

fn fill_id(key: &str, id: Option<Uuid>, json: &mut Json<'_>) {
    if let Some(id) = id {
        json.shown(key, format_args!("{}", id.hyphenated()));
    }
}

/// How a call ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// With a result.
    Ok,
    /// With a result that says `isError`.
    ToolError,
    /// The client is asked something first; its next request goes on.
    InputRequired,
    /// The call became a task; requests about that go on.
    Task,
    /// With a JSON-RPC error of the upstream.
    RpcError,
    /// The gateway ended it: `code` says why.
    Failed,
    /// The caller took it back.
    Cancelled,
    /// The caller was revoked while it was under way; whether the upstream acted is not known.
    Revoked,
    /// The caller's credential ended while its stream was open; whether the upstream acted is not known.
    Expired,
    /// It was recorded, but never left the gateway.
    NotForwarded,
    /// The gateway ended before the call did; whether the upstream acted is not known.
    Unknown,
}

impl Ending {
    /// The word in the record.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::ToolError => "tool_error",
            Self::InputRequired => "input_required",
            Self::Task => "task",
            Self::RpcError => "rpc_error",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::Revoked => "revoked",
            Self::Expired => "expired",
            Self::NotForwarded => "not_forwarded",
            Self::Unknown => "unknown",
        }
    }
}

/// The end of a call that had an intent; it carries the intent's id.
#[derive(Debug, Clone, Copy)]
pub struct Outcome<'a> {
    /// How it ended.
    pub ending: Ending,
    /// The HTTP status given to the caller.
    pub status: Option<u16>,
    /// The JSON-RPC error code given to the caller.
    pub rpc_code: Option<i64>,
    /// The refusal's code, where the gateway ended it.
    pub code: Option<&'a str>,
    /// Why, for the auditor.
    pub reason: Option<&'a str>,
    /// Bytes of the answer.
    pub bytes: Option<u64>,
    /// From the request's arrival to its end.
    pub duration_us: Option<u64>,
    /// Whether it was answered with what an earlier call had brought, and so never reached the upstream.
    pub cached: bool,
    /// How often it was sent: more than once where the upstream said that it executed nothing.
    pub attempts: u64,
    /// The credential under which it was sent last, where that is not the one of the intent.
    pub token_digest: Option<&'a str>,
}

impl Outcome<'_> {
    /// An outcome of which nothing more is known.
    #[must_use]
    pub const fn new(ending: Ending) -> Self {
        Self {
            ending,
            status: None,
            rpc_code: None,
            code: None,
            reason: None,
            bytes: None,
            duration_us: None,
            cached: false,
            attempts: 1,
            token_digest: None,
        }
    }
}

impl Record for Outcome<'_> {
    fn event(&self) -> Event {
        Event::Outcome
    }
}

impl Fill for Outcome<'_> {
    fn fill(&self, json: &mut Json<'_>) {
        json.object("result", |json| {
            json.word("ending", self.ending.as_str());
            json.truth("is_error", !matches!(self.ending, Ending::Ok | Ending::InputRequired | Ending::Task));
            json.number_if("status", self.status.map(u64::from));
            json.signed_if("rpc_code", self.rpc_code);
            json.name_if("code", self.code);
            json.reason_if("reason", self.reason);
            json.number_if("bytes", self.bytes);
            json.number_if("duration_us", self.duration_us);
            if self.cached {
                json.truth("cached", true);
            }
            json.number_if("attempts", (self.attempts > 1).then_some(self.attempts));
            json.name_if("token_digest", self.token_digest);
        });
    }
}

/// One thing that a client is asked; never the text of it.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// Under which key, or which JSON-RPC id.
    pub key: &'a str,
    /// `elicitation/create`, `sampling/createMessage` or `roots/list`.
    pub method: &'a str,
    /// `form`, `url`, `sampling` or `roots`.
    pub mode: &'a str,
    /// The keyed digest of its parameters, in hex.
    pub digest: &'a str,
}

/// The client is asked something in the middle of a call; the id is the call's intent.
#[derive(Debug, Clone, Copy)]
pub struct InputRequested<'a> {
    /// Who asks.
    pub upstream: &'a str,
    /// The first intent of the call.
    pub call: Uuid,
    /// What.
    pub asks: &'a [Asked<'a>],
}

impl Record for InputRequested<'_> {
    fn event(&self) -> Event {
        Event::InputRequested
    }
}

impl Fill for InputRequested<'_> {
    fn fill(&self, json: &mut Json<'_>) {
        json.object("input", |json| {
            json.name("upstream", self.upstream);
            fill_id("call", Some(self.call), json);
            json.objects("asks", self.asks, |ask, json| {
                json.name("key", ask.key);
                json.word("method", ask.method);
                json.word("mode", ask.mode);
                json.name("digest", ask.digest);
            });
        });
    }
}

/// What became of one thing that was asked.
#[derive(Debug, Clone, Copy)]
pub struct Answered<'a> {
    /// Under which key, or which JSON-RPC id.
    pub key: &'a str,
    /// The method that it answers.
    pub method: &'a str,
    /// `accept`, `decline`, `cancel`, `answer`, `error`, `invalid` or `missing`.
    pub action: &'a str,
}

/// The client answered; the id is that of the request under which it did.
#[derive(Debug, Clone, Copy)]
pub struct InputAnswered<'a> {
    /// Who answered.
    pub who: Who<'a>,
    /// Whom.
    pub upstream: &'a str,
    /// The first intent of the call.
    pub call: Uuid,
    /// What.
    pub answers: &'a [Answered<'a>],
}

impl Record for InputAnswered<'_> {
    fn event(&self) -> Event {
        Event::InputAnswered
    }
}

impl Fill for InputAnswered<'_> {
    fn fill(&self, json: &mut Json<'_>) {
        self.who.fill(json);
        json.object("input", |json| {
            json.name("upstream", self.upstream);
            fill_id("call", Some(self.call), json);
            json.objects("answers", self.answers, |answer, json| {
                json.name("key", answer.key);
                json.word("method", answer.method);
                json.word("action", answer.action);
            });
        });
    }
}

/// A user connected an account at an upstream, or could not: in a browser, so that there is no agent.
#[derive(Debug, Clone, Copy)]
pub struct Connect<'a> {
    /// Issuer and subject, where they logged in.
    pub user: Option<(&'a str, &'a str)>,
    /// The upstream's id.
    pub upstream: &'a str,
    /// `connected`, `logged_in`, or why not.
    pub outcome: &'a str,
    /// What the upstream granted.
    pub scopes: Words<'a>,
    /// The credential that its server gave with that.
    pub grant: Option<Grant<'a>>,
    /// What was said of it elsewhere.
    pub reason: Option<&'a str>,
    /// The request, as far as a page's is one.
    pub request: Request<'a>,
}

impl Record for Connect<'_> {
    fn event(&self) -> Event {
        Event::Connect
    }
}

impl Fill for Connect<'_> {
    fn fill(&self, json: &mut Json<'_>) {
        match self.user {
            Some((issuer, subject)) => json.object("user", |json| {
                json.name("issuer", issuer);
                json.name("subject", subject);
            }),
            None => json.null("user"),
        }
        json.name("upstream", self.upstream);
        json.object("connect", |json| {
            json.word("outcome", self.outcome);
            self.scopes.fill_some("scopes", json);
            json.reason_if("reason", self.reason);
        });
        if let Some(grant) = &self.grant {
            grant.fill(json);
        }
        self.request.fill(json);
    }
}

/// Nobody answered what was asked.
#[derive(Debug, Clone, Copy)]
pub struct InputAbandoned<'a> {
    /// Who asked.
    pub upstream: &'a str,
    /// The first intent of the call.
    pub call: Uuid,
    /// Why.
    pub reason: &'a str,
}

impl Record for InputAbandoned<'_> {
    fn event(&self) -> Event {
        Event::InputAbandoned
    }
}

impl Fill for InputAbandoned<'_> {
    fn fill(&self, json: &mut Json<'_>) {
        json.object("input", |json| {
            json.name("upstream", self.upstream);
            fill_id("call", Some(self.call), json);
            json.word("reason", self.reason);
        });
    }
}

/// A request that was refused before anything of it was forwarded.
#[derive(Debug, Clone, Copy)]
pub struct Refused<'a> {
    /// Who asked, if that is known.
    pub who: Who<'a>,
    /// What for, if that is known.
    pub target: Option<Target<'a>>,
    /// What policy said, if it was asked.
    pub decision: Option<Decision<'a>>,
    /// The ceiling that is reached.
    pub ceilings: Words<'a>,
    /// The request, as far as it was read.
    pub request: Request<'a>,
    /// The refusal's stable code.
    pub code: &'a str,
    /// The refusal's inside text.
    pub reason: &'a str,
    /// The HTTP status given.
    pub status: u16,
}

impl Record for Refused<'_> {
    fn event(&self) -> Event {
        Event::Refusal
    }
}

impl Fill for Refused<'_> {
    fn fill(&self, json: &mut Json<'_>) {
        self.who.fill(json);
        if let Some(target) = &self.target {
            target.fill(json);
        }
        if let Some(decision) = &self.decision {
            decision.fill(json);
        }
        self.ceilings.fill_some("ceilings", json);
        self.request.fill(json);
        json.object("refused", |json| {
            json.name("code", self.code);
            json.reason_if("reason", Some(self.reason));
            json.number("status", u64::from(self.status));
        });
    }
}

/// A credential that an authorization server gave.
#[derive(Debug, Clone, Copy)]
pub struct Mint<'a> {
    /// For whom.
    pub who: Who<'a>,
    /// For which upstream.
    pub upstream: &'a str,
    /// What was given.
    pub grant: Grant<'a>,
    /// The call that it was minted for, where there is one: it may serve others, and may go unused.
    pub call: Option<Uuid>,
    /// The request that asked for it.
    pub request: Request<'a>,
}

impl Record for Mint<'_> {
    fn event(&self) -> Event {
        Event::Grant
    }
}

impl Fill for Mint<'_> {
    fn fill(&self, json: &mut Json<'_>) {
        self.who.fill(json);
        json.name("upstream", self.upstream);
        self.grant.fill(json);
        fill_id("call", self.call, json);
        self.request.fill(json);
    }
}

/// A list that was answered.
#[derive(Debug, Clone, Copy)]
pub struct List<'a> {
    /// To whom.
    pub who: Who<'a>,
    /// The path of the MCP endpoint.
    pub endpoint: &'a str,
    /// The request; its method says what was listed.
    pub request: Request<'a>,
    /// Entries shown.
    pub shown: u64,
    /// Entries that policy withheld.
    pub withheld: u64,
    /// The digest of the policy set, in hex.
    pub policy_set: &'a str,
}

impl Record for List<'_> {
    fn event(&self) -> Event {
        Event::List
    }
}

impl Fill for List<'_> {
    fn fill(&self, json: &mut Json<'_>) {
        self.who.fill(json);
        self.request.fill(json);
        json.object("list", |json| {
            json.name("endpoint", self.endpoint);
            json.number("shown", self.shown);
            json.number("withheld", self.withheld);
            json.name("policy_set", self.policy_set);
        });
    }
}

/// Somebody begins to listen, and whoever listened has stopped: two records of one id.
#[derive(Debug, Clone, Copy)]
pub struct Listen<'a> {
    /// Who listens.
    pub who: Who<'a>,
    /// The path of the MCP endpoint.
    pub endpoint: &'a str,
    /// The request.
    pub request: Request<'a>,
    /// Of which lists they are told, by name.
    pub topics: &'a [&'a str],
    /// Of how many resources they are told; each has a record of its own.
    pub resources: u64,
    /// Of how many tasks they are told; each has a record of its own, too.
    pub tasks: u64,
    /// The digest of the policy set, in hex.
    pub policy_set: &'a str,
    /// The event after which the answer of a call goes on, where that is all that they are told: this has no end of its own.
    pub resumed: Option<&'a str>,
}

impl Record for Listen<'_> {
    fn event(&self) -> Event {
        Event::Listen
    }
}

impl Fill for Listen<'_> {
    fn fill(&self, json: &mut Json<'_>) {
        self.who.fill(json);
        self.request.fill(json);
        json.object("listen", |json| {
            json.name("endpoint", self.endpoint);
            json.names("topics", self.topics.iter().copied());
            json.number("resources", self.resources);
            json.number("tasks", self.tasks);
            json.name("policy_set", self.policy_set);
            json.name_if("resumed", self.resumed);
        });
    }
}

/// The end of a [`Listen`], under its id.
#[derive(Debug, Clone, Copy)]
pub struct ListenEnd<'a> {
    /// Who listened.
    pub who: Who<'a>,
    /// Why it ended.
    pub reason: &'static str,
    /// Notifications told.
    pub told: u64,
    /// For how long.
    pub duration_us: Option<u64>,
}

impl Record for ListenEnd<'_> {
    fn event(&self) -> Event {
        Event::ListenEnd
    }
}

impl Fill for ListenEnd<'_> {
    fn fill(&self, json: &mut Json<'_>) {
        self.who.fill(json);
        json.object("listened", |json| {
            json.word("reason", self.reason);
            json.number("told", self.told);
            json.number_if("duration_us", self.duration_us);
        });
    }
}

/// What was done at the gateway's own authorization server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Authorized {
    /// A client registered itself.
    Client,
    /// A person agreed.
    Consent,
    /// A token was issued.
    Token,
}

impl Authorized {
    /// The word in the record and in the metric.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        self.event().as_str()
    }

    const fn event(self) -> Event {
        match self {
            Self::Client => Event::Client,
            Self::Consent => Event::Consent,
            Self::Token => Event::Token,
        }
    }
}

/// Something that was done at the gateway's own authorization server (`[facade]`).
#[derive(Debug, Clone, Copy)]
pub struct Authorization<'a> {
    /// What.
    pub what: Authorized,
    /// The client.
    pub client: &'a str,
    /// What the client calls itself: a claim.
    pub name: Option<&'a str>,
    /// The person, by issuer and subject of the gateway's own tokens.
    pub user: Option<(&'a str, &'a str)>,
    /// The endpoint that it is about.
    pub resource: Option<&'a str>,
    /// What it is good for.
    pub scopes: Words<'a>,
    /// Where codes go.
    pub redirect_uri: Option<&'a str>,
    /// How the token was asked for.
    pub grant_type: Option<&'a str>,
    /// The token's `jti`.
    pub token_id: Option<&'a str>,
    /// What the token is bound to: how, and to which key or certificate.
    pub binding: Option<(&'a str, &'a str)>,
    /// The other end of the connection.
    pub peer: SocketAddr,
}

impl<'a> Authorization<'a> {
    /// An authorization of which nothing more is known.
    #[must_use]
    pub fn new(what: Authorized, client: &'a str, peer: SocketAddr) -> Self {
        Self {
            what,
            client,
            name: None,
            user: None,
            resource: None,
            scopes: Words::default(),
            redirect_uri: None,
            grant_type: None,
            token_id: None,
            binding: None,
            peer,
        }
    }
}

impl Record for Authorization<'_> {
    fn event(&self) -> Event {
        self.what.event()
    }
}

impl Fill for Authorization<'_> {
    fn fill(&self, json: &mut Json<'_>) {
        match self.user {
            Some((issuer, subject)) => json.object("user", |json| {
                json.name("issuer", issuer);
                json.name("subject", subject);
            }),
            None => json.null("user"),
        }
        json.object("authorization", |json| {
            json.name("client_id", self.client);
            json.name_if("name", self.name);
            json.name_if("resource", self.resource);
            self.scopes.fill_some("scopes", json);
            json.name_if("redirect_uri", self.redirect_uri);
            json.name_if("grant_type", self.grant_type);
            json.name_if("token_id", self.token_id);
            if let Some((method, thumbprint)) = self.binding {
                json.object("binding", |json| {
                    json.name("method", method);
                    json.name("thumbprint", thumbprint);
                });
            }
        });
        json.address("peer", self.peer);
    }
}

/// What a [`Change`] is a change of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subject {
    /// `upstreams.toml`.
    Config,
    /// The policy folder.
    Policy,
}

impl Subject {
    /// The word for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Config => "config",
            Self::Policy => "policy",
        }
    }
}

/// A change of configuration or policy.
#[derive(Debug, Clone, Copy)]
pub struct Change<'a> {
    /// What changed.
    pub subject: Subject,
    /// The digest of what was found, in hex.
    pub digest: &'a str,
    /// The digest of what was in force before, in hex.
    pub previous: Option<&'a str>,
    /// Why it was rejected; `None` where it was applied.
    pub rejected: Option<&'a str>,
}

impl Record for Change<'_> {
    fn event(&self) -> Event {
        match self.subject {
            Subject::Config => Event::Config,
            Subject::Policy => Event::Policy,
        }
    }
}

impl Fill for Change<'_> {
    fn fill(&self, json: &mut Json<'_>) {
        json.object("change", |json| {
            json.word("outcome", if self.rejected.is_none() { "applied" } else { "rejected" });
            json.name("digest", self.digest);
            json.name_if("previous", self.previous);
            json.reason_if("reason", self.rejected);
        });
    }
}

/// What a gateway does about a revocation.
#[derive(Debug, Clone, Copy)]
pub struct Revoked<'a> {
    /// `in_force`, `enforced` or `lifted`.
    pub state: &'static str,
    /// The revocation's id.
    pub id: Uuid,
    /// `user`, `agent`, `tenant`, `issuer`, `token`, `session` or `grant`.
    pub kind: &'a str,
    /// Whom or what it names.
    pub name: &'a str,
    /// Of which issuer.
    pub issuer: Option<&'a str>,
    /// Whether it keeps them out altogether.
    pub blocks: bool,
    /// When it was made.
    pub at: Timestamp,
    /// When it ends by itself.
    pub until: Option<Timestamp>,
    /// Who made it.
    pub by: Option<&'a str>,
    /// Why.
    pub why: Option<&'a str>,
    /// Streams, calls, held calls and sessions that have ended because of it.
    pub ended: Option<[u64; 4]>,
}

impl Record for Revoked<'_> {
    fn event(&self) -> Event {
        Event::Revocation
    }
}

impl Fill for Revoked<'_> {
    fn fill(&self, json: &mut Json<'_>) {
        json.object("revocation", |json| {
            json.word("state", self.state);
            fill_id("id", Some(self.id), json);
            json.word("kind", self.kind);
            json.name("name", self.name);
            json.name_if("issuer", self.issuer);
            json.truth("blocks", self.blocks);
            json.shown("at", format_args!("{}", Rfc3339(self.at)));
            if let Some(until) = self.until {
                json.shown("until", format_args!("{}", Rfc3339(until)));
            }
            json.name_if("by", self.by);
            json.reason_if("why", self.why);
            if let Some([streams, calls, holds, sessions]) = self.ended {
                json.object("ended", |json| {
                    json.number("streams", streams);
                    json.number("calls", calls);
                    json.number("holds", holds);
                    json.number("sessions", sessions);
                });
            }
        });
    }
}

/// What a gateway has learnt of an API key.
#[derive(Debug, Clone, Copy)]
pub struct Key<'a> {
    /// `made` or `revoked`.
    pub state: &'static str,
    /// The key's id.
    pub id: &'a str,
    /// Whose it is, where it is a person's.
    pub user: Option<&'a str>,
    /// The software that holds it.
    pub agent: &'a str,
    /// The tenant.
    pub tenant: Option<&'a str>,
    /// Its scopes.
    pub scopes: Words<'a>,
    /// When it ends.
    pub until: Timestamp,
}

impl Record for Key<'_> {
    fn event(&self) -> Event {
        Event::Key
    }
}

impl Fill for Key<'_> {
    fn fill(&self, json: &mut Json<'_>) {
        json.object("key", |json| {
            json.word("state", self.state);
            json.name("id", self.id);
            json.name_if("user", self.user);
            json.name("agent", self.agent);
            json.name_if("tenant", self.tenant);
            self.scopes.fill_some("scopes", json);
            json.shown("until", format_args!("{}", Rfc3339(self.until)));
        });
    }
}

/// The process began.
#[derive(Debug, Clone, Copy)]
pub struct Start<'a> {
    /// The gateway's version.
    pub version: &'a str,
    /// The digest of the configuration, in hex.
    pub config: &'a str,
    /// The digest of the policy set, in hex.
    pub policy_set: &'a str,
}

impl Record for Start<'_> {
    fn event(&self) -> Event {
        Event::Start
    }
}

impl Fill for Start<'_> {
    fn fill(&self, json: &mut Json<'_>) {
        json.object("process", |json| {
            json.name("version", self.version);
            json.name("config", self.config);
            json.name("policy_set", self.policy_set);
        });
    }
}

/// The process ends.
#[derive(Debug, Clone, Copy)]
pub struct Stop<'a> {
    /// Why.
    pub reason: &'a str,
}

impl Record for Stop<'_> {
    fn event(&self) -> Event {
        Event::Stop
    }
}

impl Fill for Stop<'_> {
    fn fill(&self, json: &mut Json<'_>) {
        json.object("process", |json| json.reason_if("reason", Some(self.reason)));
    }
}

/// Unauthenticated refusals of one source, with one code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Counted {
    pub(super) peer: std::net::IpAddr,
    pub(super) code: &'static str,
    pub(super) fault: Option<&'static str>,
    pub(super) count: u64,
}

/// Unauthenticated refusals since the last summary.
#[derive(Debug)]
pub(super) struct Summary<'a> {
    /// The sources that were refused most.
    pub(super) sources: &'a [Counted],
    /// How many refusals the other sources had together.
    pub(super) others: u64,
}

impl Record for Summary<'_> {
    fn event(&self) -> Event {
        Event::RefusalsSummary
    }
}

impl Fill for Summary<'_> {
    fn fill(&self, json: &mut Json<'_>) {
        json.object("refusals", |json| {
            json.objects("sources", self.sources, |source, json| {
                json.shown("peer", format_args!("{}", source.peer));
                json.name("code", source.code);
                if let Some(fault) = source.fault {
                    json.name("fault", fault);
                }
                json.number("count", source.count);
            });
            json.number("others", self.others);
        });
    }
}

/// The journal resumed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Recovered<'a> {
    /// `crash` or `disk`.
    pub(super) cause: &'a str,
    /// What the disk said.
    pub(super) reason: Option<&'a str>,
    /// The segment that was sealed.
    pub(super) segment: Option<&'a str>,
    /// Bytes past its last whole record, set aside.
    pub(super) bytes_dropped: u64,
    /// SHA-256 of those bytes, in hex.
    pub(super) digest: Option<&'a str>,
    /// Calls whose outcome is not known.
    pub(super) open_calls: u64,
    /// Where the last checkpoint speaks of records that are not there: its sequence number.
    pub(super) missing_to: Option<u64>,
    /// Records that could not be kept while the disk failed.
    pub(super) lost: u64,
}

impl Record for Recovered<'_> {
    fn event(&self) -> Event {
        Event::Recovered
    }
}

impl Fill for Recovered<'_> {
    fn fill(&self, json: &mut Json<'_>) {
        json.object("recovered", |json| {
            json.word("cause", self.cause);
            json.reason_if("reason", self.reason);
            json.name_if("segment", self.segment);
            json.number("bytes_dropped", self.bytes_dropped);
            json.name_if("digest", self.digest);
            json.number("open_calls", self.open_calls);
            json.number_if("missing_to", self.missing_to);
            json.number("lost", self.lost);
        });
    }
}

/// A line of `record`, without its end: the journal adds `seq`, `mac` and the closing brace.
pub(super) fn line<R: Record>(id: Uuid, stamp: Stamp, record: &R) -> Vec<u8> {
    let mut out = Vec::with_capacity(LINE_BYTES_TYPICAL);
    let event = record.event();
    let mut json = Json::begin(&mut out);
    json.word("schema", SCHEMA);
    json.word("event", event.as_str());
    json.word("id", id.hyphenated().encode_lower(&mut Uuid::encode_buffer()));
    json.shown("time", format_args!("{}", Rfc3339(stamp.now)));
    json.number("monotonic_ms", stamp.monotonic_ms);
    record.fill(&mut json);
    out
}

/// Adds to the line of an [`Outcome`] the digest of what was answered, as the last member of its `result`.
pub(super) fn add_digest(line: &mut Vec<u8>, digest: &str) {
    if line.pop_if(|last| *last == b'}').is_some() {
        Json::reopen(line).word("digest", digest);
        line.push(b'}');
    }
}

/// Findings of policies on trial in one record; those that would change the decision stand first.
const SHADOW_MAX: usize = 16;

/// Enough for an ordinary intent with `seq` and `mac`, so that it is written without growing.
const LINE_BYTES_TYPICAL: usize = 1536;

/// A time in UTC with milliseconds, such as `2026-07-28T12:00:00.000Z`.
#[derive(Debug)]
pub(super) struct Rfc3339(pub(super) Timestamp);

impl std::fmt::Display for Rfc3339 {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let time = i64::try_from(self.0.unix_ms()).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
        match time {
            Some(time) => write!(formatter, "{time:.3}"),
            // Past the year 9999: the number is still the truth.
            None => write!(formatter, "@{}", self.0.unix_ms()),
        }
    }
}
