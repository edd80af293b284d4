//! What did the upstream say about something that it offers, and what did the administrator add?
//!
//! A definition is a trust boundary: it is read strictly, within bounds, and one that cannot be understood is left out
//! rather than passed on. It does not know under which name clients see it, nor who may.

use std::{fmt, time::Duration};

use bytes::Bytes;

use crate::{
    clock::Timestamp,
    config::{self, Durability, TargetRule, UpstreamId},
    digest::{Name, hex, sha256},
    refusal::Login,
    rpc::{
        canonical, definition_json,
        json::{self, Bounds, Document},
        mirrors::{self, Mirror},
        outbound,
    },
};

/// What something that an upstream offers is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A tool.
    Tool,
    /// A prompt.
    Prompt,
    /// A resource, to be read.
    Resource,
    /// A template of resources' URIs.
    Template,
    /// A resource, to be told of its changes.
    Subscription,
    /// Values for an argument of a prompt or template.
    Completion,
}

impl Kind {
    /// The kinds that upstreams list.
    pub const LISTED: [Self; 4] = [Self::Tool, Self::Prompt, Self::Resource, Self::Template];

    /// The method that uses such a thing, which is its action or action group in policies.
    #[must_use]
    pub const fn method(self) -> &'static str {
        match self {
            Self::Tool => "tools/call",
            Self::Prompt => "prompts/get",
            Self::Resource | Self::Template => "resources/read",
            Self::Subscription => "resources/subscribe",
            Self::Completion => "completion/complete",
        }
    }

    /// The action group in policies, where each thing of this kind is an action of its own.
    #[must_use]
    pub fn group(self) -> Option<&'static str> {
        self.has_own_action().then(|| self.method())
    }

    /// The word for people and audit records.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tool => "tool",
            Self::Prompt => "prompt",
            Self::Resource | Self::Subscription => "resource",
            Self::Template => "resource template",
            Self::Completion => "completion",
        }
    }

    /// The method that lists such things, and the member of its result that holds them.
    #[must_use]
    pub const fn list(self) -> (&'static str, &'static str) {
        match self {
            Self::Tool => ("tools/list", "tools"),
            Self::Prompt | Self::Completion => ("prompts/list", "prompts"),
            Self::Resource | Self::Subscription => ("resources/list", "resources"),
            Self::Template => ("resources/templates/list", "resourceTemplates"),
        }
    }

    /// The member of a definition that names the thing.
    #[must_use]
    pub const fn member(self) -> &'static str {
        match self {
            Self::Tool | Self::Prompt | Self::Completion => "name",
            Self::Resource | Self::Subscription => "uri",
            Self::Template => "uriTemplate",
        }
    }

    /// Whether each thing of this kind is an action of its own in policies. Resources come and go, and need not be listed
    /// to be read, so policies tell them apart by `context.input.uri`.
    const fn has_own_action(self) -> bool {
        matches!(self, Self::Tool | Self::Prompt)
    }
}

/// One thing that one upstream offers, with the rules of `upstreams.toml` that match it.
#[derive(Debug, Clone)]
pub struct Definition {
    /// What it is.
    pub kind: Kind,
    /// Whose it is.
    pub upstream: UpstreamId,
    /// What the upstream calls it: the name of a tool or prompt, the URI of a resource, the template of a template.
    pub name: String,
    /// The definition's JSON as the upstream gave it, and where everything is in it.
    document: Document,
    /// SHA-256, in hex, of the canonical JSON of the members that somebody decides by (spec §3.9): of a tool not all.
    pub digest: String,
    /// SHA-256 of all of its canonical JSON: of what clients are shown.
    pub whole: [u8; 32],
    /// SHA-256 of all that a decision about this depends on besides caller, input and time: the upstream, the action, the
    /// tags and the scopes required, and of a tool or prompt also its digest. Names it in caches.
    pub key: [u8; 32],
    /// The JSON Schema of `context.input`: a tool's `inputSchema`.
    pub input_schema: serde_json::Value,
    /// The input itself, where it is known before anybody asks: a resource's URI.
    given: Option<Document>,
    /// Arguments that travel in headers too (`x-mcp-header`).
    pub mirrors: Vec<Mirror>,
    /// Action groups in Cedar; sorted, no duplicates.
    pub tags: Vec<String>,
    /// Scopes that the caller's token must hold; sorted, no duplicates.
    pub requires: Vec<String>,
    /// How the user has to have logged in.
    pub login: LoginRule,
    /// Scopes asked for at the exchange; sorted, no duplicates.
    pub mints: Vec<String>,
    /// How long a call may take.
    pub timeout: Duration,
    /// Whether the administrator vouches that calling twice is as calling once.
    pub idempotent: bool,
    /// At least this durability for the intent record.
    pub durability: Option<Durability>,
    /// For how long a tool's result may be answered again, where the administrator vouches for that.
    pub cache: Option<Duration>,
    /// Whether that may be to other callers too.
    pub cache_shared: bool,
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
    /// `upstream/name` is the name of an action group, or of an action that is not a tool's.
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

impl Definition {
    /// Reads one element of an upstream's list, and applies the rules that match its name.
    ///
    /// # Errors
    /// The definition is not one that the gateway can stand for; it is left out (RC-05).
    pub fn read(upstream: &config::Upstream, kind: Kind, raw: Bytes) -> Result<Self, DefinitionFault> {
        if raw.len() > DEFINITION_BYTES_MAX {
            return Err(DefinitionFault::MemberTooLarge(kind.as_str()));
        }
        let document = Document::parse(raw, &BOUNDS).map_err(DefinitionFault::NotJson)?;
        let root = document.root();
        let name = name(root, kind)?;
        texts(root)?;
        let input_schema = match kind {
            Kind::Tool => input_schema(root)?,
            Kind::Prompt => prompt_schema(root)?,
            Kind::Resource | Kind::Template | Kind::Subscription | Kind::Completion => kind_schema(kind),
        };
        let declared = root.get("inputSchema").filter(|_| kind == Kind::Tool).map(mirrors::declared).transpose();
        let mirrors = declared.map_err(DefinitionFault::HeaderMalformed)?.unwrap_or_default();
        let given = (kind == Kind::Resource).then(|| input(&[("uri", &name)])).transpose()?;
        Self::of(upstream, Parts { kind, name, document, input_schema, mirrors, given })
    }

    /// A resource by its URI, whether or not the upstream lists it: servers need not (MCP server/resources).
    ///
    /// # Errors
    /// [`DefinitionFault::TagMalformed`], and a URI beyond all bounds.
    pub fn resource(upstream: &config::Upstream, kind: Kind, uri: &str) -> Result<Self, DefinitionFault> {
        let given = input(&[("uri", uri)])?;
        let (document, input_schema) = (given.clone(), kind_schema(kind));
        let parts =
            Parts { kind, name: uri.to_owned(), document, input_schema, mirrors: Vec::new(), given: Some(given) };
        Self::of(upstream, parts)
    }

    /// Any resource of an upstream at all: what may be said before a URI is known; `kind` is what is wanted of it.
    ///
    /// # Errors
    /// [`DefinitionFault::TagMalformed`].
    pub fn any_resource(upstream: &config::Upstream, kind: Kind) -> Result<Self, DefinitionFault> {
        Ok(Self { given: None, ..Self::resource(upstream, kind, "")? })
    }

    /// The completion of `argument` of what `reference` is called; its rules are those of the thing itself.
    ///
    /// # Errors
    /// [`DefinitionFault::TagMalformed`], and a name beyond all bounds.
    pub fn completion(upstream: &config::Upstream, of: &Self, argument: &str) -> Result<Self, DefinitionFault> {
        let reference = if of.kind == Kind::Prompt { "ref/prompt" } else { "ref/resource" };
        let given = input(&[("ref", reference), ("name", &of.name), ("argument", argument)])?;
        let kind = Kind::Completion;
        let (document, input_schema) = (given.clone(), kind_schema(kind));
        let parts =
            Parts { kind, name: of.name.clone(), document, input_schema, mirrors: Vec::new(), given: Some(given) };
        let completion = Self::of(upstream, parts)?;
        let (tags, requires, login, mints) = (of.tags.clone(), of.requires.clone(), of.login.clone(), of.mints.clone());
        let key = key((&upstream.id, kind, ""), &tags, (&requires, &login));
        Ok(Self { key, tags, requires, login, mints, timeout: of.timeout, durability: of.durability, ..completion })
    }

    fn of(upstream: &config::Upstream, parts: Parts) -> Result<Self, DefinitionFault> {
        let Parts { kind, name, document, input_schema, mirrors, given } = parts;
        let action = action(&upstream.id, kind, &name);
        if kind == Kind::Tool && ACTIONS.contains(&action.as_str()) {
            return Err(DefinitionFault::NameReserved);
        }
        let rules = match kind {
            Kind::Tool => Rules::of(&upstream.tools, &name)?,
            Kind::Prompt => Rules::of(&upstream.prompts, &name)?,
            Kind::Resource | Kind::Template | Kind::Subscription => Rules::of(&upstream.resources, &name)?,
            Kind::Completion => Rules::default(),
        };
        // RI-06: what needs a step-up is not kept. Neither is what the upstream itself says to change something, however
        // wide the administrator's pattern is.
        let says_it_writes = document.root().get("annotations").and_then(|hints| hints.get("readOnlyHint"));
        let says_it_writes = says_it_writes.is_some_and(|hint| hint.boolean() == Some(false));
        let may_keep = kind == Kind::Tool && rules.requires.is_empty() && rules.login.is_empty() && !says_it_writes;
        let whole = sha256(&canonical::canonical(document.root()));
        let digest = hex(&if kind == Kind::Tool { pinned(document.root()) } else { whole });
        let of_own = if kind.has_own_action() { digest.as_str() } else { "" };
        Ok(Self {
            key: key((&upstream.id, kind, &format!("{action} {of_own}")), &rules.tags, (&rules.requires, &rules.login)),
            kind,
            upstream: upstream.id.clone(),
            name,
            digest,
            whole,
            input_schema,
            given,
            mirrors,
            tags: rules.tags,
            requires: rules.requires,
            login: rules.login,
            mints: rules.mints,
            timeout: rules.timeout.unwrap_or(upstream.timeout),
            idempotent: rules.idempotent,
            durability: rules.durability,
            cache: rules.cache.filter(|life| may_keep && !life.is_zero()),
            cache_shared: rules.cache_shared,
            document,
        })
    }

    /// What policies read as `context.input`, where that is known before anybody asks.
    #[must_use]
    pub fn given(&self) -> Option<json::Value<'_>> {
        self.given.as_ref().map(Document::root)
    }

    /// Whether a server of 2025-11-25 serves this tool as a task only.
    #[must_use]
    pub fn needs_task(&self) -> bool {
        let execution = self.document.root().get("execution").filter(|_| self.kind == Kind::Tool);
        execution.and_then(|execution| execution.get("taskSupport")).is_some_and(|support| support.is("required"))
    }

    /// Whether a caller may have to come back with another token before they may use it.
    #[must_use]
    pub fn steps_up(&self) -> bool {
        !self.requires.is_empty() || !self.login.is_empty()
    }

    /// Whether somebody who judged a call by `self` judged it by `other` too: only which arguments are mirrored in headers
    /// may differ, which nobody decides by.
    #[must_use]
    pub fn is_judged_as(&self, other: &Self) -> bool {
        let facts = |it: &Self| {
            (it.kind, it.upstream.clone(), it.name.clone(), it.tags.clone(), it.requires.clone(), it.login.clone())
        };
        let says = |it: &Self, member| it.document.root().get(member).map(canonical::canonical);
        let others = || PINNED.into_iter().filter(|member| *member != "inputSchema");
        self.key == other.key
            || (self.kind == Kind::Tool && facts(self) == facts(other))
                && others().all(|member| says(self, member) == says(other, member))
                && self.unmirrored() == other.unmirrored()
    }

    /// The input's schema without word of headers.
    fn unmirrored(&self) -> serde_json::Value {
        let mut schema = self.input_schema.clone();
        for mirror in &self.mirrors {
            let property = mirror.path.iter().try_fold(&mut schema, |at, name| at.get_mut("properties")?.get_mut(name));
            property.and_then(serde_json::Value::as_object_mut).and_then(|it| it.remove(mirrors::ANNOTATION));
        }
        schema
    }

    /// The definition's JSON as the upstream gave it.
    #[must_use]
    pub fn raw(&self) -> &Bytes {
        self.document.text()
    }

    /// The definition as a list has it, under the name `exposed` and for a client of `version`; `prefix` is the upstream's
    /// id where URIs carry it.
    #[must_use]
    pub fn listed(&self, exposed: &str, version: &str, prefix: Option<&str>) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.raw().len().saturating_add(exposed.len()));
        definition_json::write(&mut out, self.document.root(), (self.kind.member(), exposed), version, prefix);
        out
    }

    /// The action's name in policies. An upstream's id has neither `/` nor `:`, so this is one to one for what has an
    /// action of its own: `upstream/tool` and `prompt:upstream/prompt`; all else is named by its method.
    #[must_use]
    pub fn action(&self) -> String {
        action(&self.upstream, self.kind, &self.name)
    }
}

/// How a user has to have logged in: what all rules ask together, since none takes away what another demands.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LoginRule {
    /// Lists of strengths, of each of which the login must have one.
    pub acr: Vec<Vec<String>>,
    /// How long ago it may be.
    pub age_max: Option<Duration>,
}

impl LoginRule {
    /// Whether any login will do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.acr.is_empty() && self.age_max.is_none()
    }

    /// What a login has to be, where one of this strength and time is not enough.
    #[must_use]
    pub fn unmet(&self, acr: Option<&str>, time: Option<Timestamp>, now: Timestamp) -> Option<Login> {
        let strong = self.acr.iter().all(|any| acr.is_some_and(|acr| any.iter().any(|one| one == acr)));
        let recent = self.age_max.is_none_or(|age_max| time.is_some_and(|time| now.since(time) <= age_max));
        if strong && recent {
            return None;
        }
        let in_all = |one: &&String| self.acr.iter().all(|any| any.contains(one));
        let acr = self.acr.first().into_iter().flatten().filter(in_all).cloned().collect();
        Some(Login { acr, age_max_s: self.age_max.map(|age| u32::try_from(age.as_secs()).unwrap_or(u32::MAX)) })
    }
}

/// What a definition is made of, before rules are applied.
struct Parts {
    kind: Kind,
    name: String,
    document: Document,
    input_schema: serde_json::Value,
    mirrors: Vec<Mirror>,
    given: Option<Document>,
}

fn action(upstream: &UpstreamId, kind: Kind, name: &str) -> String {
    match kind {
        Kind::Tool => format!("{upstream}/{name}"),
        Kind::Prompt => format!("prompt:{upstream}/{name}"),
        Kind::Resource | Kind::Template | Kind::Subscription | Kind::Completion => kind.method().to_owned(),
    }
}

/// The actions and action groups that are there whatever upstreams offer.
pub const ACTIONS: [&str; 5] =
    ["tools/call", "prompts/get", "resources/read", "resources/subscribe", "completion/complete"];

/// A small JSON object of strings, as a document.
fn input(members: &[(&str, &str)]) -> Result<Document, DefinitionFault> {
    let mut out = vec![b'{'];
    for (name, text) in members {
        outbound::member_text(&mut out, name, text);
    }
    out.push(b'}');
    Document::parse(Bytes::from(out), &BOUNDS).map_err(DefinitionFault::NotJson)
}

/// The schema of `context.input` of what has no action of its own.
#[must_use]
pub fn kind_schema(kind: Kind) -> serde_json::Value {
    let members: &[&str] = match kind {
        Kind::Tool | Kind::Prompt => &[],
        Kind::Resource | Kind::Template | Kind::Subscription => &["uri"],
        Kind::Completion => &["ref", "name", "argument"],
    };
    strings(members.iter().copied(), members)
}

/// The schema of an object of strings.
fn strings<'a>(names: impl Iterator<Item = &'a str>, required: &[&str]) -> serde_json::Value {
    let properties: serde_json::Map<_, _> =
        names.map(|name| (name.to_owned(), serde_json::json!({ "type": "string" }))).collect();
    serde_json::json!({ "type": "object", "properties": properties, "required": required })
}

/// A prompt's arguments are strings (MCP server/prompts).
fn prompt_schema(root: json::Value<'_>) -> Result<serde_json::Value, DefinitionFault> {
    let fault = DefinitionFault::MemberMalformed("arguments");
    let Some(arguments) = root.get("arguments") else { return Ok(strings(std::iter::empty(), &[])) };
    if arguments.kind() != json::Kind::Array {
        return Err(fault);
    }
    let mut names = Vec::new();
    for argument in arguments.elements() {
        let Some(name) = argument.get("name").and_then(json::Value::text) else { return Err(fault) };
        let required = argument.get("required").and_then(json::Value::boolean).unwrap_or(false);
        names.push((name.into_owned(), required));
    }
    let required: Vec<&str> = names.iter().filter(|(_, required)| *required).map(|(name, _)| name.as_str()).collect();
    Ok(strings(names.iter().map(|(name, _)| name.as_str()), &required))
}

/// All rules that match one tool, as one.
#[derive(Default)]
struct Rules {
    tags: Vec<String>,
    requires: Vec<String>,
    login: LoginRule,
    mints: Vec<String>,
    timeout: Option<Duration>,
    idempotent: bool,
    durability: Option<Durability>,
    cache: Option<Duration>,
    cache_shared: bool,
}

impl Rules {
    /// Lists add up, because a later rule must not take away a scope or a login that an earlier one demands; single values
    /// are those of the last rule that has one, except durability and a login's age, which only ever get stricter.
    fn of(rules: &[TargetRule], name: &str) -> Result<Self, DefinitionFault> {
        let mut all = Self::default();
        for rule in rules.iter().filter(|rule| matches(&rule.pattern, name)) {
            all.tags.extend_from_slice(&rule.tags);
            all.requires.extend_from_slice(&rule.requires);
            all.mints.extend_from_slice(&rule.mints);
            if !rule.acr.is_empty() {
                all.login.acr.push(rule.acr.clone());
            }
            all.login.age_max = all.login.age_max.into_iter().chain(rule.auth_age_max).min();
            all.timeout = rule.timeout.or(all.timeout);
            all.idempotent = rule.idempotent.unwrap_or(all.idempotent);
            all.durability = all.durability.max(rule.durability);
            all.cache = rule.cache.or(all.cache);
            all.cache_shared = rule.cache_shared.unwrap_or(all.cache_shared);
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

fn name(root: json::Value<'_>, kind: Kind) -> Result<String, DefinitionFault> {
    let fault = DefinitionFault::MemberMalformed(kind.member());
    let Some(name) = root.get(kind.member()).and_then(json::Value::text) else { return Err(fault) };
    if name.is_empty() || name.chars().any(char::is_control) {
        return Err(fault);
    }
    let bytes_max = if kind.has_own_action() { NAME_BYTES_MAX } else { URI_BYTES_MAX };
    if name.len() > bytes_max {
        return Err(DefinitionFault::MemberTooLarge(kind.member()));
    }
    Ok(name.into_owned())
}

/// The members that clients show to people and models: of the right type, and not of any size.
fn texts(root: json::Value<'_>) -> Result<(), DefinitionFault> {
    for member in ["title", "description"] {
        let Some(value) = root.get(member) else { continue };
        if value.kind() != json::Kind::String {
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

fn key(
    (upstream, kind, what): (&UpstreamId, Kind, &str),
    tags: &[String],
    (requires, login): (&[String], &LoginRule),
) -> [u8; 32] {
    let mut name = Name::of(upstream.as_str());
    name.add(kind.method());
    name.add(what);
    for list in [tags, requires].into_iter().chain(login.acr.iter().map(Vec::as_slice)) {
        name.all(list.iter());
    }
    name.maybe(login.age_max.map(|age_max| age_max.as_millis().to_be_bytes()));
    name.finish()
}

/// SHA-256 over the members of a tool that people and models decide by, in canonical form: members sorted as RFC 8785
/// §3.2.3 has it and no white space; numbers stay as written, so that no reformatting can hide a change.
fn pinned(root: json::Value<'_>) -> [u8; 32] {
    let mut out = vec![b'{'];
    for member in PINNED {
        let Some(value) = root.get(member) else { continue };
        json::write_string(&mut out, member);
        out.push(b':');
        canonical::write(value, &mut out);
        out.push(b',');
    }
    out.push(b'}');
    sha256(&out)
}

/// The members that the digest covers, in the order of RFC 8785.
const PINNED: [&str; 7] = ["_meta", "annotations", "description", "inputSchema", "name", "outputSchema", "title"];

/// A whole definition: two schemas, a description and some room.
const DEFINITION_BYTES_MAX: usize = 256 * 1024;
const SCHEMA_BYTES_MAX: usize = 64 * 1024;
const DESCRIPTION_BYTES_MAX: usize = 8 * 1024;
/// MCP recommends at most 128 characters.
const NAME_BYTES_MAX: usize = 128;
/// As long as what people and programs pass around (RFC 9110 §4.1 recommends to take 8,000).
const URI_BYTES_MAX: usize = 8_000;

/// Depth 32 for a schema, one more for the definition around it.
const BOUNDS: Bounds = Bounds { depth_max: 33, values_max: 20_000, name_bytes_max: 256, number_chars_max: 64 };
