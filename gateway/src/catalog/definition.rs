//! What did the upstream say about one of its tools, and what did the administrator add?
//!
//! A tool's definition is a trust boundary: it is read strictly, within bounds, and one that cannot be understood is
//! left out rather than passed on. It does not know under which name clients see the tool, nor who may.

use std::{fmt, time::Duration};

use aws_lc_rs::digest;
use bytes::Bytes;

use crate::{
    config::{self, Durability, ToolRule, UpstreamId},
    rpc::{
        canonical,
        json::{self, Bounds, Document, Kind},
        mirrors::{self, Mirror},
        tool_json,
    },
};

/// One tool of one upstream, with the rules of `upstreams.toml` that match it.
#[derive(Debug, Clone)]
pub struct ToolDefinition {
    /// Whose tool it is.
    pub upstream: UpstreamId,
    /// What the upstream calls it.
    pub name: String,
    /// The definition's JSON as the upstream gave it, and where everything is in it.
    document: Document,
    /// SHA-256, in hex, of the canonical JSON of the members that somebody decides by (spec §3.9).
    pub digest: String,
    /// SHA-256 of all that a decision about this tool depends on besides caller, arguments and time: the upstream, the
    /// name, the digest, the tags and the scopes required. Names the tool in caches.
    pub key: [u8; 32],
    /// `inputSchema`.
    pub input_schema: serde_json::Value,
    /// Arguments that travel in headers too (`x-mcp-header`).
    pub mirrors: Vec<Mirror>,
    /// Action groups in Cedar; sorted, no duplicates.
    pub tags: Vec<String>,
    /// Scopes that the caller's token must hold; sorted, no duplicates.
    pub requires: Vec<String>,
    /// Scopes asked for at the exchange; sorted, no duplicates.
    pub mints: Vec<String>,
    /// How long a call may take.
    pub timeout: Duration,
    /// Whether the administrator vouches that calling twice is as calling once.
    pub idempotent: bool,
    /// At least this durability for the intent record.
    pub durability: Option<Durability>,
}

/// Why a definition is left out of the catalogue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DefinitionFault {
    /// Not JSON within its bounds.
    NotJson(&'static str),
    /// A member is missing or of the wrong type.
    MemberMalformed(&'static str),
    /// A member is larger than the gateway takes.
    MemberTooLarge(&'static str),
    /// `upstream/name` is the name of an action group.
    NameReserved,
    /// A tag in `upstreams.toml` that could be taken for a tool: it is empty or has a `/`.
    TagMalformed(String),
    /// `x-mcp-header` breaks a rule (RC-05): which.
    HeaderMalformed(&'static str),
}

impl fmt::Display for DefinitionFault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotJson(why) => write!(formatter, "not valid JSON: {why}"),
            Self::MemberMalformed(member) => write!(formatter, "`{member}` is missing or malformed"),
            Self::MemberTooLarge(member) => write!(formatter, "`{member}` is too large"),
            Self::NameReserved => formatter.write_str("the name is that of an action group"),
            Self::TagMalformed(tag) => write!(formatter, "`{}` cannot be a tag", tag.escape_debug()),
            Self::HeaderMalformed(rule) => formatter.write_str(rule),
        }
    }
}

impl std::error::Error for DefinitionFault {}

impl ToolDefinition {
    /// Reads one element of an upstream's `tools`, and applies the rules that match its name.
    ///
    /// # Errors
    /// The definition is not one that the gateway can stand for; the tool is left out (RC-05).
    pub fn read(upstream: &config::Upstream, raw: Bytes) -> Result<Self, DefinitionFault> {
        if raw.len() > DEFINITION_BYTES_MAX {
            return Err(DefinitionFault::MemberTooLarge("tool"));
        }
        let document = Document::parse(raw, &BOUNDS).map_err(DefinitionFault::NotJson)?;
        let root = document.root();
        let name = name(root)?;
        if format!("{}/{name}", upstream.id) == GROUP_OF_ALL {
            return Err(DefinitionFault::NameReserved);
        }
        texts(root)?;
        let input_schema = input_schema(root)?;
        let declared = root.get("inputSchema").map(mirrors::declared).transpose();
        let mirrors = declared.map_err(DefinitionFault::HeaderMalformed)?.unwrap_or_default();
        let rules = Rules::of(&upstream.tools, &name)?;
        let digest = hex(digest_of(root).as_ref());
        Ok(Self {
            key: key(&upstream.id, &name, &digest, &rules),
            upstream: upstream.id.clone(),
            name,
            digest,
            input_schema,
            mirrors,
            tags: rules.tags,
            requires: rules.requires,
            mints: rules.mints,
            timeout: rules.timeout.unwrap_or(upstream.timeout),
            idempotent: rules.idempotent,
            durability: rules.durability,
            document,
        })
    }

    /// The definition's JSON as the upstream gave it.
    #[must_use]
    pub fn raw(&self) -> &Bytes {
        self.document.text()
    }

    /// The definition as a list has it, under the name `exposed` and for a client of `version`.
    #[must_use]
    pub fn listed(&self, exposed: &str, version: &str) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.raw().len().saturating_add(exposed.len()));
        tool_json::write(&mut out, self.document.root(), exposed, version);
        out
    }

    /// The action's name in policies: upstream, `/`, original name. An upstream's id has no `/`, so this is one to one.
    #[must_use]
    pub fn action(&self) -> String {
        format!("{}/{}", self.upstream, self.name)
    }
}

/// The action group that every tool is in.
pub const GROUP_OF_ALL: &str = "tools/call";

/// All rules that match one tool, as one.
#[derive(Default)]
struct Rules {
    tags: Vec<String>,
    requires: Vec<String>,
    mints: Vec<String>,
    timeout: Option<Duration>,
    idempotent: bool,
    durability: Option<Durability>,
}

impl Rules {
    /// Lists add up, because a later rule must not take away a scope that an earlier one demands; single values are
    /// those of the last rule that has one, except durability, which only ever rises.
    fn of(rules: &[ToolRule], name: &str) -> Result<Self, DefinitionFault> {
        let mut all = Self::default();
        for rule in rules.iter().filter(|rule| matches(&rule.pattern, name)) {
            all.tags.extend_from_slice(&rule.tags);
            all.requires.extend_from_slice(&rule.requires);
            all.mints.extend_from_slice(&rule.mints);
            all.timeout = rule.timeout.or(all.timeout);
            all.idempotent = rule.idempotent.unwrap_or(all.idempotent);
            all.durability = all.durability.max(rule.durability);
        }
        for list in [&mut all.tags, &mut all.requires, &mut all.mints] {
            list.sort_unstable();
            list.dedup();
        }
        match all.tags.iter().find(|tag| tag.is_empty() || tag.contains('/')) {
            Some(tag) => Err(DefinitionFault::TagMalformed(tag.clone())),
            None => Ok(all),
        }
    }
}

/// Whether `name` is `pattern`, where `*` stands for any run of characters.
#[must_use]
pub fn matches(pattern: &str, name: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = parts.next().and_then(|head| name.strip_prefix(head)) else { return false };
    let mut parts = parts.peekable();
    if parts.peek().is_none() {
        return rest.is_empty();
    }
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return rest.ends_with(part);
        }
        match rest.split_once(part) {
            Some((_, after)) => rest = after,
            None => return false,
        }
    }
    true
}

fn name(root: json::Value<'_>) -> Result<String, DefinitionFault> {
    let fault = DefinitionFault::MemberMalformed("name");
    let Some(name) = root.get("name").and_then(json::Value::text) else { return Err(fault) };
    if name.is_empty() || name.chars().any(char::is_control) {
        return Err(fault);
    }
    if name.len() > NAME_BYTES_MAX {
        return Err(DefinitionFault::MemberTooLarge("name"));
    }
    Ok(name.into_owned())
}

/// The members that clients show to people and models: of the right type, and not of any size.
fn texts(root: json::Value<'_>) -> Result<(), DefinitionFault> {
    for member in ["title", "description"] {
        let Some(value) = root.get(member) else { continue };
        if value.kind() != Kind::String {
            return Err(DefinitionFault::MemberMalformed(member));
        }
        if value.raw().len() > DESCRIPTION_BYTES_MAX {
            return Err(DefinitionFault::MemberTooLarge(member));
        }
    }
    for member in ["outputSchema", "annotations", "_meta"] {
        if root.get(member).is_some_and(|value| !value.is_object()) {
            return Err(DefinitionFault::MemberMalformed(member));
        }
        if root.get(member).is_some_and(|value| value.raw().len() > SCHEMA_BYTES_MAX) {
            return Err(DefinitionFault::MemberTooLarge(member));
        }
    }
    Ok(())
}

/// MCP wants an object schema with `"type": "object"` at its root.
fn input_schema(root: json::Value<'_>) -> Result<serde_json::Value, DefinitionFault> {
    let fault = DefinitionFault::MemberMalformed("inputSchema");
    let Some(schema) = root.get("inputSchema").filter(|schema| schema.is_object()) else { return Err(fault) };
    if !schema.get("type").is_some_and(|kind| kind.is("object")) {
        return Err(fault);
    }
    if schema.raw().len() > SCHEMA_BYTES_MAX {
        return Err(DefinitionFault::MemberTooLarge("inputSchema"));
    }
    serde_json::from_slice(schema.raw()).map_err(|_fault| fault)
}

fn key(upstream: &UpstreamId, name: &str, digest: &str, rules: &Rules) -> [u8; 32] {
    let mut context = digest::Context::new(&digest::SHA256);
    let mut add = |text: &str| {
        context.update(&text.len().to_be_bytes());
        context.update(text.as_bytes());
    };
    add(upstream.as_str());
    add(name);
    add(digest);
    for list in [&rules.tags, &rules.requires] {
        add(&list.len().to_string());
        list.iter().for_each(|text| add(text));
    }
    let mut key = [0; 32];
    key.copy_from_slice(context.finish().as_ref());
    key
}

/// SHA-256 over the members that people and models decide by, in canonical form: members sorted as RFC 8785 §3.2.3
/// has it and no white space; numbers stay as written, so that no reformatting can hide a change.
fn digest_of(root: json::Value<'_>) -> digest::Digest {
    let mut out = vec![b'{'];
    for member in PINNED {
        let Some(value) = root.get(member) else { continue };
        json::write_string(&mut out, member);
        out.push(b':');
        canonical::write(value, &mut out);
        out.push(b',');
    }
    out.push(b'}');
    digest::digest(&digest::SHA256, &out)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The members that the digest covers, in the order of RFC 8785.
const PINNED: [&str; 7] = ["_meta", "annotations", "description", "inputSchema", "name", "outputSchema", "title"];

/// A whole definition: two schemas, a description and some room.
const DEFINITION_BYTES_MAX: usize = 256 * 1024;
const SCHEMA_BYTES_MAX: usize = 64 * 1024;
const DESCRIPTION_BYTES_MAX: usize = 8 * 1024;
/// MCP recommends at most 128 characters.
const NAME_BYTES_MAX: usize = 128;

/// Depth 32 for a schema, one more for the definition around it.
const BOUNDS: Bounds = Bounds { depth_max: 33, values_max: 20_000, name_bytes_max: 256, number_chars_max: 64 };
