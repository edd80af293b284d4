//! What rides in `_meta`?
//!
//! The names that the protocol reserves there, and one walk that finds them. It does not decide what goes on: `outbound`
//! does.

use std::borrow::Cow;

use super::json::Value;

/// The protocol version of a modern request (RS-16).
pub const PROTOCOL_VERSION: &str = "io.modelcontextprotocol/protocolVersion";
/// What the client can do, in a modern request (RS-16).
pub const CLIENT_CAPABILITIES: &str = "io.modelcontextprotocol/clientCapabilities";
/// What the client calls itself.
pub const CLIENT_INFO: &str = "io.modelcontextprotocol/clientInfo";
/// The least severe log message that the client wants for this request (RS-34).
pub const LOG_LEVEL: &str = "io.modelcontextprotocol/logLevel";
/// Which `subscriptions/listen` a message belongs to: the client's id of it (RS-33).
pub const SUBSCRIPTION_ID: &str = "io.modelcontextprotocol/subscriptionId";
/// What the server calls itself, in a modern result (RS-18).
pub const SERVER_INFO: &str = "io.modelcontextprotocol/serverInfo";
/// The handle of progress notifications.
pub const PROGRESS_TOKEN: &str = "progressToken";
/// W3C trace context.
pub const TRACEPARENT: &str = "traceparent";
/// W3C trace state.
pub const TRACESTATE: &str = "tracestate";
/// W3C baggage: dropped at the door.
pub const BAGGAGE: &str = "baggage";
/// Upstreams whose part of a list is missing.
pub const DEGRADED: &str = "dev.tollgate/degraded";
/// Which task a message of MCP 2025-11-25 is about: an upstream's id, which stays here.
pub const RELATED_TASK: &str = "io.modelcontextprotocol/related-task";

/// Who failed, in a result that the gateway wrote.
pub const ERROR: &str = "dev.tollgate/error";

/// Names that the gateway writes itself, or drops; the client's values never travel up.
pub const OWNED: &[&str] =
    &[PROTOCOL_VERSION, CLIENT_CAPABILITIES, CLIENT_INFO, LOG_LEVEL, PROGRESS_TOKEN, TRACEPARENT, TRACESTATE, BAGGAGE];

/// The reserved members of one request's `_meta`: each as its value, or as the place where that stands.
#[derive(Debug, Clone, Copy)]
pub struct Meta<P> {
    /// `io.modelcontextprotocol/protocolVersion`.
    pub protocol_version: Option<P>,
    /// `io.modelcontextprotocol/clientCapabilities`.
    pub client_capabilities: Option<P>,
    /// `io.modelcontextprotocol/clientInfo`: claimed, never proven.
    pub client_info: Option<P>,
    /// `io.modelcontextprotocol/logLevel`.
    pub log_level: Option<P>,
    /// `progressToken`: a string or an integer.
    pub progress_token: Option<P>,
    /// `traceparent`, which need not be a string.
    pub traceparent: Option<P>,
    /// `tracestate`, which need not be a string.
    pub tracestate: Option<P>,
    all: Option<P>,
}

impl<P: Copy> Meta<P> {
    /// The same members, each put differently.
    #[must_use]
    pub fn map<Q>(&self, put: impl Fn(P) -> Q) -> Meta<Q> {
        Meta {
            protocol_version: self.protocol_version.map(&put),
            client_capabilities: self.client_capabilities.map(&put),
            client_info: self.client_info.map(&put),
            log_level: self.log_level.map(&put),
            progress_token: self.progress_token.map(&put),
            traceparent: self.traceparent.map(&put),
            tracestate: self.tracestate.map(&put),
            all: self.all.map(&put),
        }
    }
}

impl<'a> Meta<Value<'a>> {
    /// Finds the reserved members of `meta`.
    #[must_use]
    pub fn of(meta: Option<Value<'a>>) -> Self {
        let mut found = Self {
            protocol_version: None,
            client_capabilities: None,
            client_info: None,
            log_level: None,
            progress_token: None,
            traceparent: None,
            tracestate: None,
            all: meta,
        };
        for (name, value) in meta.into_iter().flat_map(Value::members) {
            let Some(name) = name.text() else { continue };
            match name.as_ref() {
                PROTOCOL_VERSION => found.protocol_version = Some(value),
                CLIENT_CAPABILITIES => found.client_capabilities = Some(value),
                CLIENT_INFO => found.client_info = Some(value),
                LOG_LEVEL => found.log_level = Some(value),
                PROGRESS_TOKEN => found.progress_token = Some(value),
                TRACEPARENT => found.traceparent = Some(value),
                TRACESTATE => found.tracestate = Some(value),
                _ => {}
            }
        }
        found
    }

    /// The client's claimed name.
    #[must_use]
    pub fn client_name(&self) -> Option<Cow<'a, str>> {
        self.client_info?.get("name")?.text()
    }

    /// The client's claimed version.
    #[must_use]
    pub fn client_version(&self) -> Option<Cow<'a, str>> {
        self.client_info?.get("version")?.text()
    }

    /// The members that are nobody's but the client's and the upstream's (RI-08).
    pub fn others(&self) -> impl Iterator<Item = (Value<'a>, Value<'a>)> + use<'a> {
        self.all.into_iter().flat_map(Value::members).filter(|(name, _)| !OWNED.iter().any(|owned| name.is(owned)))
    }
}

/// How severe a log message is (RFC 5424 §6.2.1, MCP server/utilities/logging).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogLevel {
    /// `debug`.
    Debug,
    /// `info`.
    Info,
    /// `notice`.
    Notice,
    /// `warning`.
    Warning,
    /// `error`.
    Error,
    /// `critical`.
    Critical,
    /// `alert`.
    Alert,
    /// `emergency`.
    Emergency,
}

impl LogLevel {
    /// The level that `text` names.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        LEVELS.iter().find(|(_, word)| *word == text).map(|(level, _)| *level)
    }

    /// The word on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        LEVELS.iter().find(|(level, _)| *level == self).map_or("", |(_, word)| word)
    }
}

const LEVELS: &[(LogLevel, &str)] = &[
    (LogLevel::Debug, "debug"),
    (LogLevel::Info, "info"),
    (LogLevel::Notice, "notice"),
    (LogLevel::Warning, "warning"),
    (LogLevel::Error, "error"),
    (LogLevel::Critical, "critical"),
    (LogLevel::Alert, "alert"),
    (LogLevel::Emergency, "emergency"),
];
