//! What does the gateway answer in its own name?
//!
//! The JSON text of errors, `initialize`, `server/discover`, lists, `ping` and of what listeners are told, for each era. It
//! does not decide what is answered, and it never holds anything that an upstream said besides definitions and
//! instructions.

use std::borrow::Cow;

use bytes::Bytes;

use super::{
    call::{Asker, RequestId},
    capabilities::TASKS_EXTENSION,
    json::write_string,
    meta,
    outbound::{IMPLEMENTATION, member, member_text},
    topics::{Topic, Topics},
    versions,
};
use crate::refusal::{Detail, Era, Outside, VERSION};

/// JSON text that this module wrote: a whole JSON-RPC response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Local {
    own: Vec<u8>,
    shared: Bytes,
}

impl Local {
    /// The text.
    #[must_use]
    pub fn into_bytes(mut self) -> Vec<u8> {
        self.own.extend_from_slice(&self.shared);
        self.own
    }

    /// The text in two: what is written for this request, and what other answers have too, which is not copied.
    #[must_use]
    pub fn into_parts(self) -> (Vec<u8>, Bytes) {
        (self.own, self.shared)
    }
}

/// The result of a list and the end of its answer: the same for all who get to see the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shared(Bytes);

impl Shared {
    /// How much that is.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Never: an answer has an end.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
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
    /// `resources.subscribe`.
    pub subscribe: bool,
    /// `completions`.
    pub completions: bool,
    /// `logging`.
    pub logging: bool,
    /// The extension `io.modelcontextprotocol/tasks`.
    pub tasks: bool,
}

impl Capabilities {
    /// The lists of whose changes this caller can be told.
    #[must_use]
    pub fn topics(self) -> Topics {
        let topics = [(Topic::Tools, self.tools), (Topic::Prompts, self.prompts), (Topic::Resources, self.resources)];
        topics.into_iter().filter(|(_, served)| *served).map(|(topic, _)| topic).collect()
    }

    fn write(self, out: &mut Vec<u8>) {
        member(out, "capabilities", b"{");
        let Self { tools, prompts, resources, subscribe, completions, logging, tasks } = self;
        // The gateway reads every list again and again, so it can always tell of a change.
        let (changing, watched) = (br#"{"listChanged":true}"#, br#"{"subscribe":true,"listChanged":true}"#);
        let words: [(&str, bool, &[u8]); 6] = [
            ("tools", tools, changing),
            ("prompts", prompts, changing),
            ("resources", resources && !subscribe, changing),
            ("resources", resources && subscribe, watched),
            ("completions", completions, b"{}"),
            ("logging", logging, b"{}"),
        ];
        for (word, _, what) in words.iter().filter(|(_, served, _)| *served) {
            member(out, word, what);
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
    Local { own: out, shared: Bytes::new() }
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
        Detail::Login(login) => {
            if !login.acr.is_empty() {
                member(out, "acrValues", &texts(&login.acr));
            }
            if let Some(age_max_s) = login.age_max_s {
                member(out, "maxAgeSeconds", age_max_s.to_string().as_bytes());
            }
        }
        Detail::Limit(bytes) => member(out, "limit", bytes.to_string().as_bytes()),
        Detail::Allow(methods) => member_text(out, "allow", methods),
        Detail::Page(page) => {
            member(out, "elicitations", b"[{");
            member_text(out, "mode", "url");
            member_text(out, "elicitationId", &page.id);
            member_text(out, "url", &page.url);
            member_text(out, "message", CONNECT);
            out.extend_from_slice(b"}]");
        }
    }
}

/// The answer to `initialize` (RL-01): capabilities are those that are served, no more (RS-24).
#[must_use]
pub fn initialize(asker: &Asker, served: &Served<'_>) -> Local {
    let mut out = begin(&asker.id);
    member_text(&mut out, "protocolVersion", asker.version);
    // The extension is one of modern requests.
    Capabilities { tasks: false, ..served.capabilities }.write(&mut out);
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

/// What a list shows (RS-25) and the end of its answer, for whoever asks for it; the definitions are copied as they are.
#[must_use]
pub fn page(era: Era, page: &Page<'_>) -> Shared {
    let room: usize = page.definitions.iter().map(|definition| definition.len().saturating_add(1)).sum();
    let mut out = Vec::with_capacity(room.saturating_add(512));
    // In the modern era `list` has begun the result.
    out.push(if era == Era::Modern { b',' } else { b'{' });
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
    write_meta(&mut out, era, page.degraded);
    out.extend_from_slice(b"}}");
    out.shrink_to_fit();
    Shared(Bytes::from(out))
}

/// The answer to a list: `page`, which may be kept for `ttl_ms` by whom `scope` says (RS-27). That runs out while others
/// are shown the same page, so it stands before it.
#[must_use]
pub fn list(asker: &Asker, page: &Shared, ttl_ms: u64, scope: CacheScope) -> Local {
    let mut own = br#"{"jsonrpc":"2.0""#.to_vec();
    member(&mut own, "id", asker.id.raw());
    member(&mut own, "result", b"");
    if asker.era == Era::Modern {
        own.push(b'{');
        member_text(&mut own, "resultType", "complete");
        write_caching(&mut own, ttl_ms, scope);
    }
    Local { own, shared: page.0.clone() }
}

/// The answer to `ping` (RL-09), and to whatever else has nothing to say but that it was done.
#[must_use]
pub fn pong(id: &RequestId) -> Local {
    end(begin(id))
}

/// The first message to a listener: of what it will be told (RS-33).
#[must_use]
pub fn acknowledged(listener: &RequestId, honoured: Topics, (uris, tasks): (&[&str], &[&str])) -> Vec<u8> {
    let mut out = notice("notifications/subscriptions/acknowledged", Some(listener));
    member(&mut out, "notifications", b"{");
    for topic in honoured.iter() {
        member(&mut out, topic.member(), b"true");
    }
    for (name, told) in [("resourceSubscriptions", uris), ("taskIds", tasks)] {
        if !told.is_empty() {
            member(&mut out, name, &texts(told));
        }
    }
    out.extend_from_slice(b"}}}");
    out
}

/// Word that a list has changed. A modern listener is named by its request's id; a legacy one has no name.
#[must_use]
pub fn changed(topic: Topic, listener: Option<&RequestId>) -> Vec<u8> {
    let mut out = notice(topic.notification(), listener);
    out.extend_from_slice(b"}}");
    out
}

/// Word that a resource has changed.
#[must_use]
pub fn updated(uri: &str, listener: Option<&RequestId>) -> Vec<u8> {
    let mut out = notice("notifications/resources/updated", listener);
    member_text(&mut out, "uri", uri);
    out.extend_from_slice(b"}}");
    out
}

/// The answer to `subscriptions/listen`, which ends it gracefully (RS-33).
#[must_use]
pub fn listened(listener: &RequestId) -> Vec<u8> {
    let mut out = begin(listener);
    member_text(&mut out, "resultType", "complete");
    let mut own = vec![b'{'];
    member(&mut own, meta::SUBSCRIPTION_ID, listener.raw());
    member(&mut own, meta::SERVER_INFO, IMPLEMENTATION);
    own.push(b'}');
    member(&mut out, "_meta", &own);
    end(out).into_bytes()
}

/// A notification up to the members of its `params`.
fn notice(method: &str, listener: Option<&RequestId>) -> Vec<u8> {
    let mut out = Vec::with_capacity(256);
    out.extend_from_slice(br#"{"jsonrpc":"2.0""#);
    member_text(&mut out, "method", method);
    member(&mut out, "params", b"{");
    if let Some(id) = listener {
        let mut own = vec![b'{'];
        member(&mut own, meta::SUBSCRIPTION_ID, id.raw());
        own.push(b'}');
        member(&mut out, "_meta", &own);
    }
    out
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
    Local { own: out, shared: Bytes::new() }
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

/// What a person is told of the page that connects an account.
pub const CONNECT: &str = "The server behind this tool needs an account of yours: connect it on this page";

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
