//! What did the upstream say about one of its tools, and what did the administrator add?
//!
//! A tool's definition is a trust boundary: it is read strictly, within bounds, and one that cannot be understood is
//! left out rather than passed on. It does not know under which name clients see the tool, nor who may.

use std::{cmp::Ordering, fmt, time::Duration};

use aws_lc_rs::digest;
use bytes::Bytes;

use crate::{
    config::{self, Durability, ToolRule, UpstreamId},
    rpc::json::{self, Bounds, Document, Kind},
};

/// One tool of one upstream, with the rules of `upstreams.toml` that match it.
#[derive(Debug, Clone)]
pub struct ToolDefinition {
    /// Whose tool it is.
    pub upstream: UpstreamId,
    /// What the upstream calls it.
    pub name: String,
    /// The definition's JSON as the upstream gave it.
    pub raw: Bytes,
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

/// One argument that travels in a header as well (MCP 2026-07-28 basic/transports, "Custom Headers").
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mirror {
    /// What follows `Mcp-Param-`, as written.
    pub header: String,
    /// Names of properties, outermost first.
    pub path: Vec<String>,
    /// The type of the argument.
    pub kind: MirrorKind,
}

/// The types that a header can carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MirrorKind {
    /// `"type": "string"`.
    String,
    /// `"type": "integer"`.
    Integer,
    /// `"type": "boolean"`.
    Boolean,
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
    /// `x-mcp-header` breaks a rule (RC-05): the header's name, and which rule.
    HeaderMalformed(String, &'static str),
}

impl fmt::Display for DefinitionFault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotJson(why) => write!(formatter, "not valid JSON: {why}"),
            Self::MemberMalformed(member) => write!(formatter, "`{member}` is missing or malformed"),
            Self::MemberTooLarge(member) => write!(formatter, "`{member}` is too large"),
            Self::NameReserved => formatter.write_str("the name is that of an action group"),
            Self::TagMalformed(tag) => write!(formatter, "`{}` cannot be a tag", tag.escape_debug()),
            Self::HeaderMalformed(header, rule) => {
                write!(formatter, "`x-mcp-header` `{}`: {rule}", header.escape_debug())
            }
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
        let document = Document::parse(raw.clone(), &BOUNDS).map_err(DefinitionFault::NotJson)?;
        let root = document.root();
        let name = name(root)?;
        if format!("{}/{name}", upstream.id) == GROUP_OF_ALL {
            return Err(DefinitionFault::NameReserved);
        }
        texts(root)?;
        let input_schema = input_schema(root)?;
        let mut mirrors = Vec::new();
        find_mirrors(&input_schema, &mut Vec::new(), &mut mirrors)?;
        let rules = Rules::of(&upstream.tools, &name)?;
        let digest = hex(digest_of(root).as_ref());
        Ok(Self {
            key: key(&upstream.id, &name, &digest, &rules),
            upstream: upstream.id.clone(),
            name,
            raw,
            digest,
            input_schema,
            mirrors,
            tags: rules.tags,
            requires: rules.requires,
            mints: rules.mints,
            timeout: rules.timeout.unwrap_or(upstream.timeout),
            idempotent: rules.idempotent,
            durability: rules.durability,
        })
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

/// Collects the annotations that `properties` chains lead to, and refuses all others. The depth is that of [`BOUNDS`].
fn find_mirrors(
    schema: &serde_json::Value,
    path: &mut Vec<String>,
    found: &mut Vec<Mirror>,
) -> Result<(), DefinitionFault> {
    let Some(members) = schema.as_object() else { return Ok(()) };
    if let Some(header) = members.get(ANNOTATION) {
        let mirror = mirror(header, schema, path)?;
        if found.iter().any(|other| other.header.eq_ignore_ascii_case(&mirror.header)) {
            return Err(DefinitionFault::HeaderMalformed(mirror.header, "another property has the same header"));
        }
        found.push(mirror);
    }
    for (keyword, value) in members {
        match (keyword.as_str(), value.as_object()) {
            ("properties", Some(properties)) => {
                for (name, property) in properties {
                    path.push(name.clone());
                    find_mirrors(property, path, found)?;
                    path.pop();
                }
            }
            // Data, not schemas.
            ("default" | "const" | "enum" | "examples", _) => {}
            _ => refuse_mirrors(value, keyword)?,
        }
    }
    Ok(())
}

/// An annotation below `keyword` applies to some arguments and not to others, so no header could mirror it.
fn refuse_mirrors(value: &serde_json::Value, keyword: &str) -> Result<(), DefinitionFault> {
    let names_below =
        matches!(keyword, "properties" | "patternProperties" | "$defs" | "definitions" | "dependentSchemas");
    if let Some(members) = value.as_object() {
        for (member, below) in members {
            if !names_below && member == ANNOTATION {
                let header = below.as_str().unwrap_or_default().to_owned();
                return Err(DefinitionFault::HeaderMalformed(header, "not reachable by `properties` alone"));
            }
            if names_below || !matches!(member.as_str(), "default" | "const" | "enum" | "examples") {
                refuse_mirrors(below, if names_below { "" } else { member })?;
            }
        }
    }
    value.as_array().into_iter().flatten().try_for_each(|below| refuse_mirrors(below, ""))
}

fn mirror(header: &serde_json::Value, schema: &serde_json::Value, path: &[String]) -> Result<Mirror, DefinitionFault> {
    let header = header.as_str().unwrap_or_default().to_owned();
    let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    if header.is_empty() || header.len() > HEADER_BYTES_MAX || !header.bytes().all(token) {
        return Err(DefinitionFault::HeaderMalformed(header, "not a token (RFC 9110 §5.6.2)"));
    }
    if path.is_empty() {
        return Err(DefinitionFault::HeaderMalformed(header, "not on a property"));
    }
    let kind = match schema.get("type").and_then(serde_json::Value::as_str) {
        Some("string") => MirrorKind::String,
        Some("integer") => MirrorKind::Integer,
        Some("boolean") => MirrorKind::Boolean,
        _ => return Err(DefinitionFault::HeaderMalformed(header, "not an integer, a string or a boolean")),
    };
    Ok(Mirror { header, path: path.to_vec(), kind })
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
    let mut canonical = vec![b'{'];
    for member in PINNED {
        let Some(value) = root.get(member) else { continue };
        json::write_string(&mut canonical, member);
        canonical.push(b':');
        write_canonical(value, &mut canonical);
        canonical.push(b',');
    }
    canonical.push(b'}');
    digest::digest(&digest::SHA256, &canonical)
}

fn write_canonical(value: json::Value<'_>, out: &mut Vec<u8>) {
    match value.kind() {
        Kind::Object => {
            let mut members: Vec<_> = value.members().filter_map(|(name, value)| Some((name.text()?, value))).collect();
            members.sort_by(|(left, _), (right, _)| utf16_order(left, right));
            out.push(b'{');
            for (name, value) in members {
                json::write_string(out, &name);
                out.push(b':');
                write_canonical(value, out);
                out.push(b',');
            }
            out.push(b'}');
        }
        Kind::Array => {
            out.push(b'[');
            for element in value.elements() {
                write_canonical(element, out);
                out.push(b',');
            }
            out.push(b']');
        }
        Kind::String => json::write_string(out, &value.text().unwrap_or_default()),
        Kind::Null | Kind::Bool | Kind::Number => out.extend_from_slice(value.raw()),
    }
}

fn utf16_order(left: &str, right: &str) -> Ordering {
    left.encode_utf16().cmp(right.encode_utf16())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The members that the digest covers, in the order of RFC 8785.
const PINNED: [&str; 7] = ["_meta", "annotations", "description", "inputSchema", "name", "outputSchema", "title"];

/// The keyword that asks for a header.
const ANNOTATION: &str = "x-mcp-header";

/// A whole definition: two schemas, a description and some room.
const DEFINITION_BYTES_MAX: usize = 256 * 1024;
const SCHEMA_BYTES_MAX: usize = 64 * 1024;
const DESCRIPTION_BYTES_MAX: usize = 8 * 1024;
/// MCP recommends at most 128 characters.
const NAME_BYTES_MAX: usize = 128;
const HEADER_BYTES_MAX: usize = 128;

/// Depth 32 for a schema, one more for the definition around it.
const BOUNDS: Bounds = Bounds { depth_max: 33, values_max: 20_000, name_bytes_max: 256, number_chars_max: 64 };

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::{DefinitionFault, MirrorKind, ToolDefinition, matches};
    use crate::{
        config::Durability,
        policy::fixtures::{tool_rule, upstream},
    };

    fn read(definition: &str) -> Result<ToolDefinition, DefinitionFault> {
        ToolDefinition::read(&upstream("crm", vec![]), Bytes::from(definition.to_owned()))
    }

    fn with_schema(schema: &Value) -> Result<ToolDefinition, DefinitionFault> {
        read(&json!({ "name": "t", "inputSchema": schema }).to_string())
    }

    #[test]
    fn a_definition_that_cannot_be_stood_for_is_left_out() {
        let check = |definition: &str, expect: &str| {
            assert_eq!(read(definition).unwrap_err().to_string(), expect, "{definition}");
        };
        check("[]", "`name` is missing or malformed");
        check(r#"{"name":"","inputSchema":{"type":"object"}}"#, "`name` is missing or malformed");
        check(r#"{"name":"a\nb","inputSchema":{"type":"object"}}"#, "`name` is missing or malformed");
        check(
            r#"{"name":"t","name":"u","inputSchema":{"type":"object"}}"#,
            "not valid JSON: a member name is there twice",
        );
        check(r#"{"name":"t"}"#, "`inputSchema` is missing or malformed");
        check(r#"{"name":"t","inputSchema":{}}"#, "`inputSchema` is missing or malformed");
        check(
            r#"{"name":"t","inputSchema":{"type":"object"},"description":1}"#,
            "`description` is missing or malformed",
        );
        check(
            &json!({"name": "t", "inputSchema": {"type": "object"}, "description": "x".repeat(9000)}).to_string(),
            "`description` is too large",
        );
        check(
            &json!({"name": "t", "inputSchema": {"type": "object", "title": "x".repeat(70_000)}}).to_string(),
            "`inputSchema` is too large",
        );
        let reserved = Bytes::from_static(br#"{"name":"call","inputSchema":{"type":"object"}}"#);
        let tools = upstream("tools", vec![]);
        assert_eq!(ToolDefinition::read(&tools, reserved).unwrap_err(), DefinitionFault::NameReserved);
    }

    #[test]
    fn a_header_is_asked_for_by_the_rules_or_the_tool_is_left_out() {
        let header = |name: &str, kind: &str| json!({ "type": kind, "x-mcp-header": name });
        let tool = with_schema(&json!({ "type": "object", "properties": {
            "region": header("Region", "string"),
            "deep": { "type": "object", "properties": { "dry": header("Dry-Run", "boolean") } },
            "x-mcp-header": { "type": "array" },
            "example": { "default": { "x-mcp-header": "not a keyword here" } },
        } }))
        .unwrap();
        let found: Vec<_> = tool.mirrors.iter().map(|mirror| (mirror.header.as_str(), mirror.path.join("."))).collect();
        assert_eq!(found, [("Region", "region".to_owned()), ("Dry-Run", "deep.dry".to_owned())]);
        assert_eq!(tool.mirrors[1].kind, MirrorKind::Boolean);

        let check = |properties: Value, rule: &str| {
            let fault = with_schema(&json!({ "type": "object", "properties": properties })).unwrap_err();
            assert!(matches!(&fault, DefinitionFault::HeaderMalformed(_, got) if *got == rule), "{fault}");
        };
        for name in ["", "a b", "a\r\nb", "ä", "a:b"] {
            check(json!({ "x": header(name, "string") }), "not a token (RFC 9110 §5.6.2)");
        }
        check(json!({ "x": { "type": "string", "x-mcp-header": 5 } }), "not a token (RFC 9110 §5.6.2)");
        for kind in ["number", "array", "object", "null"] {
            check(json!({ "x": header("X", kind) }), "not an integer, a string or a boolean");
        }
        check(json!({ "x": { "x-mcp-header": "X" } }), "not an integer, a string or a boolean");
        check(
            json!({ "a": header("Same", "string"), "b": header("sAME", "string") }),
            "another property has the same header",
        );
        for keyword in ["items", "additionalProperties", "not", "if"] {
            check(json!({ "x": { keyword: header("X", "string") } }), "not reachable by `properties` alone");
        }
        check(json!({ "x": { "anyOf": [header("X", "string")] } }), "not reachable by `properties` alone");
        check(
            json!({ "x": { "patternProperties": { "a": header("X", "string") } } }),
            "not reachable by `properties` alone",
        );
        check(
            json!({ "x": { "items": { "properties": { "y": header("X", "string") } } } }),
            "not reachable by `properties` alone",
        );
        let root = with_schema(&json!({ "type": "object", "x-mcp-header": "X" })).unwrap_err();
        assert!(matches!(root, DefinitionFault::HeaderMalformed(_, "not on a property")));
    }

    #[test]
    fn the_digest_changes_with_what_is_decided_by_and_with_nothing_else() {
        let digest = |definition: &str| read(definition).unwrap().digest;
        let base = digest(r#"{"name":"t","description":"d","inputSchema":{"type":"object","title":"x"}}"#);
        let same = [
            r#"{ "inputSchema": {"title":"\u0078","type":"object"}, "description":"d", "name":"t" }"#,
            r#"{"name":"t","description":"d","inputSchema":{"type":"object","title":"x"},"icons":[]}"#,
        ];
        for definition in same {
            assert_eq!(digest(definition), base, "{definition}");
        }
        let other = [
            r#"{"name":"u","description":"d","inputSchema":{"type":"object","title":"x"}}"#,
            r#"{"name":"t","description":"D","inputSchema":{"type":"object","title":"x"}}"#,
            r#"{"name":"t","description":"d","inputSchema":{"type":"object","title":"y"}}"#,
            r#"{"name":"t","description":"d","inputSchema":{"type":"object","title":"x"},"annotations":{"readOnlyHint":true}}"#,
        ];
        for definition in other {
            assert_ne!(digest(definition), base, "{definition}");
        }
    }

    #[test]
    fn rules_add_up_and_durability_only_rises() {
        let rule = |pattern: &str, tags: &[&str], requires: &[&str], durability| {
            let mut rule = tool_rule(pattern, tags, requires);
            rule.durability = durability;
            rule
        };
        let rules = vec![
            rule("*", &["all"], &["base"], Some(Durability::Fsync)),
            rule("create_*", &["write", "all"], &["more", "base"], Some(Durability::Os)),
            rule("other", &["never"], &[], None),
        ];
        let definition = Bytes::from_static(br#"{"name":"create_order","inputSchema":{"type":"object"}}"#);
        let tool = ToolDefinition::read(&upstream("crm", rules), definition.clone()).unwrap();
        assert_eq!((tool.tags.join(" "), tool.requires.join(" ")), ("all write".to_owned(), "base more".to_owned()));
        assert_eq!(tool.durability, Some(Durability::Fsync));
        let plain = ToolDefinition::read(&upstream("crm", vec![]), definition.clone()).unwrap();
        assert_ne!(tool.key, plain.key);
        assert_eq!(tool.digest, plain.digest);
        let slash = upstream("crm", vec![rule("*", &["crm/other"], &[], None)]);
        assert!(matches!(ToolDefinition::read(&slash, definition), Err(DefinitionFault::TagMalformed(_))));
    }

    #[test]
    fn a_star_stands_for_any_run() {
        let check = |pattern: &str, name: &str, expect| assert_eq!(matches(pattern, name), expect, "{pattern} {name}");
        check("*", "", true);
        check("", "", true);
        check("", "a", false);
        check("create_*", "create_", true);
        check("create_*", "recreate_x", false);
        check("*_x", "a_x_x", true);
        check("a*b*c", "a-b-b-c", true);
        check("a*b*c", "acb", false);
        check("a*a", "a", false);
        check("Create", "create", false);
    }

    proptest! {
        #[test]
        fn matching_is_that_of_the_plain_definition(pattern in "[ab*]{0,6}", name in "[ab]{0,6}") {
            fn plain(pattern: &[u8], name: &[u8]) -> bool {
                match (pattern.split_first(), name.split_first()) {
                    (None, None) => true,
                    (Some((b'*', rest)), _) if plain(rest, name) => true,
                    (Some((b'*', _)), Some((_, after))) => plain(pattern, after),
                    (Some((want, rest)), Some((got, after))) => want == got && plain(rest, after),
                    (Some(_), None) | (None, Some(_)) => false,
                }
            }
            prop_assert_eq!(matches(&pattern, &name), plain(pattern.as_bytes(), name.as_bytes()));
        }
    }
}
