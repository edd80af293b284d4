//! What does the gateway answer in its own name?
//!
//! The JSON text of errors, `initialize`, `server/discover`, lists and `ping`, for each era. It does not decide what is
//! answered, and it never holds anything that an upstream said besides definitions and instructions.

use std::borrow::Cow;

use super::{
    call::{Asker, RequestId},
    capabilities::TASKS_EXTENSION,
    json::write_string,
    meta,
    outbound::{IMPLEMENTATION, member, member_text},
    versions,
};
use crate::refusal::{Detail, Era, Outside, VERSION};

/// JSON text that this module wrote: a whole JSON-RPC response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Local(Vec<u8>);

impl Local {
    /// The text.
    #[must_use]
    pub fn into_bytes(self) -> Vec<u8> {
        self.0
    }
}

/// Who may keep an answer (RS-27).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CacheScope {
    /// The same for every caller.
    Public,
    /// For this caller only.
    Private,
}

impl CacheScope {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Public => "public",
            Self::Private => "private",
        }
    }
}

/// What is served to one caller: ServerCapabilities, member by member (RS-24).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Capabilities {
    /// `tools`.
    pub tools: bool,
    /// `prompts`.
    pub prompts: bool,
    /// `resources`.
    pub resources: bool,
    /// `completions`.
    pub completions: bool,
    /// `logging`.
    pub logging: bool,
    /// The extension `io.modelcontextprotocol/tasks`.
    pub tasks: bool,
}

impl Capabilities {
    fn write(self, out: &mut Vec<u8>) {
        member(out, "capabilities", b"{");
        let Self { tools, prompts, resources, completions, logging, tasks } = self;
        let words = [
            ("tools", tools),
            ("prompts", prompts),
            ("resources", resources),
            ("completions", completions),
            ("logging", logging),
        ];
        for (word, _) in words.iter().filter(|(_, served)| *served) {
            member(out, word, b"{}");
        }
        if tasks {
            member(out, "extensions", b"{");
            member(out, TASKS_EXTENSION, b"{}}");
        }
        out.push(b'}');
    }
}

/// What `initialize` and `server/discover` tell of the gateway.
#[derive(Debug, Clone, Copy)]
pub struct Served<'a> {
    /// What this caller can use.
    pub capabilities: Capabilities,
    /// For the model, where the administrator wants any.
    pub instructions: Option<&'a str>,
    /// Upstreams that are down now.
    pub degraded: &'a [Cow<'a, str>],
    /// How long the answer may be kept.
    pub ttl_ms: u64,
    /// By whom.
    pub cache_scope: CacheScope,
}

/// One page of a list.
#[derive(Debug, Clone, Copy)]
pub struct Page<'a> {
    /// The member of the result that holds the list: `tools`, `prompts`, `resources`, `resourceTemplates`.
    pub member: &'static str,
    /// Definitions as [`super::definition_json::write`] wrote them, for this client's version.
    pub definitions: &'a [Vec<u8>],
    /// Where the next page begins.
    pub next_cursor: Option<&'a str>,
    /// Upstreams whose part is missing.
    pub degraded: &'a [Cow<'a, str>],
    /// How long the answer may be kept.
    pub ttl_ms: u64,
    /// By whom.
    pub cache_scope: CacheScope,
}

/// A refusal as a JSON-RPC error. Without an id, JSON-RPC 2.0 §5 has `null`, and the modern revision leaves it out (RS-20).
#[must_use]
pub fn error(outside: &Outside, era: Era, id: Option<&RequestId>) -> Local {
    let mut out = br#"{"jsonrpc":"2.0""#.to_vec();
    match (id, era) {
        (Some(id), _) => member(&mut out, "id", id.raw()),
        (None, Era::Legacy) => member(&mut out, "id", b"null"),
        (None, Era::Modern) => {}
    }
    out.extend_from_slice(br#","error":{"#);
    member(&mut out, "code", outside.rpc.to_string().as_bytes());
    member_text(&mut out, "message", &outside.message);
    out.extend_from_slice(br#","data":{"#);
    // RI-10: nobody may take this for the upstream's own word.
    member_text(&mut out, "source", "gateway");
    member_text(&mut out, "code", outside.code);
    member_text(&mut out, "version", VERSION);
    member(&mut out, "retryable", if outside.retryable { b"true" } else { b"false" });
    if let Some(after_ms) = outside.retry_after_ms {
        member(&mut out, "retryAfterMs", after_ms.to_string().as_bytes());
    }
    write_detail(&mut out, &outside.detail);
    out.extend_from_slice(b"}}}");
    Local(out)
}

fn write_detail(out: &mut Vec<u8>, detail: &Detail) {
    match detail {
        Detail::Nothing => {}
        Detail::Version { requested } => {
            member(out, "supported", &texts(versions::MODERN));
            member_text(out, "requested", requested);
        }
        Detail::Capabilities(capabilities) => member(out, "requiredCapabilities", capabilities.as_bytes()),
        Detail::Scopes(scopes) => member(out, "requiredScopes", &texts(scopes)),
        Detail::Limit(bytes) => member(out, "limit", bytes.to_string().as_bytes()),
        Detail::Allow(methods) => member_text(out, "allow", methods),
    }
}

/// The answer to `initialize` (RL-01): capabilities are those that are served, no more (RS-24).
#[must_use]
pub fn initialize(asker: &Asker, served: &Served<'_>) -> Local {
    let mut out = begin(&asker.id);
    member_text(&mut out, "protocolVersion", asker.version);
    served.capabilities.write(&mut out);
    member(&mut out, "serverInfo", IMPLEMENTATION);
    if let Some(instructions) = served.instructions {
        member_text(&mut out, "instructions", instructions);
    }
    write_meta(&mut out, Era::Legacy, served.degraded);
    end(out)
}

/// The answer to `server/discover` (RS-23, RS-27).
#[must_use]
pub fn discover(asker: &Asker, served: &Served<'_>) -> Local {
    let mut out = begin(&asker.id);
    member_text(&mut out, "resultType", "complete");
    member(&mut out, "supportedVersions", &texts(versions::MODERN));
    served.capabilities.write(&mut out);
    if let Some(instructions) = served.instructions {
        member_text(&mut out, "instructions", instructions);
    }
    write_caching(&mut out, served.ttl_ms, served.cache_scope);
    write_meta(&mut out, Era::Modern, served.degraded);
    end(out)
}

/// The answer to a list (RS-25, RS-27); the definitions are copied as they are.
#[must_use]
pub fn list(asker: &Asker, page: &Page<'_>) -> Local {
    let room: usize = page.definitions.iter().map(|definition| definition.len().saturating_add(1)).sum();
    let mut out = begin(&asker.id);
    out.reserve(room.saturating_add(512));
    if asker.era == Era::Modern {
        member_text(&mut out, "resultType", "complete");
    }
    member(&mut out, page.member, b"[");
    for (index, definition) in page.definitions.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        out.extend_from_slice(definition);
    }
    out.push(b']');
    if let Some(cursor) = page.next_cursor {
        member_text(&mut out, "nextCursor", cursor);
    }
    if asker.era == Era::Modern {
        write_caching(&mut out, page.ttl_ms, page.cache_scope);
    }
    write_meta(&mut out, asker.era, page.degraded);
    end(out)
}

/// The answer to `ping` (RL-09).
#[must_use]
pub fn pong(id: &RequestId) -> Local {
    end(begin(id))
}

fn begin(id: &RequestId) -> Vec<u8> {
    let mut out = Vec::with_capacity(512);
    out.extend_from_slice(br#"{"jsonrpc":"2.0""#);
    member(&mut out, "id", id.raw());
    member(&mut out, "result", b"{");
    out
}

fn end(mut out: Vec<u8>) -> Local {
    out.extend_from_slice(b"}}");
    Local(out)
}

fn write_caching(out: &mut Vec<u8>, ttl_ms: u64, scope: CacheScope) {
    member(out, "ttlMs", ttl_ms.to_string().as_bytes());
    member_text(out, "cacheScope", scope.as_str());
}

/// Who answers (RS-18, modern), and what is missing from the answer (no silent loss, in either era).
fn write_meta(out: &mut Vec<u8>, era: Era, degraded: &[Cow<'_, str>]) {
    let mut own = vec![b'{'];
    if era == Era::Modern {
        member(&mut own, meta::SERVER_INFO, IMPLEMENTATION);
    }
    if !degraded.is_empty() {
        member(&mut own, meta::DEGRADED, &texts(degraded));
    }
    own.push(b'}');
    if own.len() > 2 {
        member(out, "_meta", &own);
    }
}

fn texts(all: &[impl AsRef<str>]) -> Vec<u8> {
    let mut out = vec![b'['];
    for (index, text) in all.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        write_string(&mut out, text.as_ref());
    }
    out.push(b']');
    out
}
