//! What can a policy name?
//!
//! The Cedar schema of an estate: one action a tool or prompt with its arguments' types, so that a policy that names a
//! tool, an argument or an upstream that is not there fails its check. It describes what `vocabulary` and `input` build.

use cedar_policy::{Schema, SchemaFragment};
use serde_json::{Map, Value, json};

use super::{
    check::Estate,
    input::{self, named},
};
use crate::{
    catalog::{Kind, definition::kind_schema},
    config::Problem,
};

/// The schema, and its text in Cedar's own notation.
pub(super) fn schema(estate: &Estate<'_>) -> Result<(Schema, String), Problem> {
    let mut actions = Map::new();
    for group in [Kind::Tool, Kind::Prompt] {
        actions.insert(group.method().to_owned(), json!({}));
    }
    // From the configuration, not from the tools: a tag is known while no upstream that has it can be read.
    for tag in estate.upstreams.keys().flat_map(|id| estate.tags(id)) {
        actions.insert(tag.to_owned(), json!({}));
    }
    // Resources are not actions of their own, so whatever tag a resource may have, the action may be in.
    let tags: Vec<&str> = estate.upstreams.keys().flat_map(|id| estate.resource_tags(id)).collect();
    for kind in [Kind::Resource, Kind::Subscription, Kind::Completion] {
        actions.insert(kind.method().to_owned(), action(&kind_schema(kind), tags.iter().copied()));
    }
    for tool in estate.tools {
        let groups = tool.tags.iter().map(String::as_str).chain(tool.kind.group());
        actions.insert(tool.action(), action(&tool.input_schema, groups));
    }
    let namespace = json!({ "": { "commonTypes": common(), "entityTypes": entities(estate), "actions": actions } });
    let fault = |why: String| Problem::nowhere(format!("no schema can be made of the catalogue: {why}"));
    let fragment = SchemaFragment::from_json_value(namespace).map_err(|why| fault(why.to_string()))?;
    let text = fragment.to_cedarschema().map_err(|why| fault(why.to_string()))?;
    let schema = Schema::from_schema_fragments([fragment]).map_err(|why| fault(why.to_string()))?;
    Ok((schema, format!("{HEAD}{}\n", text.trim_end())))
}

fn entities(estate: &Estate<'_>) -> Value {
    let upstreams: Vec<&str> = estate.upstreams.keys().map(|id| id.as_str()).collect();
    // Cedar has no enumeration of nothing.
    let upstream = if upstreams.is_empty() { json!({}) } else { json!({ "enum": upstreams }) };
    json!({
        "Group": {},
        "Tenant": {},
        "User": { "memberOfTypes": ["Group", "Tenant"], "shape": principal(true) },
        "Agent": { "memberOfTypes": ["Group", "Tenant"], "shape": principal(false) },
        "Upstream": upstream,
    })
}

fn principal(user: bool) -> Value {
    let strings = json!({ "type": "Set", "element": named("String") });
    let mut attributes = json!({
        "issuer": named("String"),
        "agent": named("String"),
        "tenant": optional("String"),
        "groups": strings,
        "scopes": strings,
    });
    if let (true, Some(attributes)) = (user, attributes.as_object_mut()) {
        attributes.insert("subject".to_owned(), named("String"));
    }
    json!({ "type": "Record", "attributes": attributes })
}

fn common() -> Value {
    json!({
        "CallingAgent": { "type": "Record", "attributes": {
            "client_id": named("String"),
            "actor": optional("String"),
        } },
        "Authentication": { "type": "Record", "attributes": {
            "method": named("String"),
            "issuer": named("String"),
            "binding": named("String"),
            "acr": optional("String"),
            "auth_time": optional("datetime"),
        } },
        "Time": { "type": "Record", "attributes": {
            "now": named("datetime"),
            "unix_seconds": named("Long"),
            "hour": named("Long"),
            "weekday": named("Long"),
        } },
    })
}

fn action<'a>(input_schema: &Value, groups: impl Iterator<Item = &'a str>) -> Value {
    let groups: Vec<Value> = groups.map(|id| json!({ "id": id })).collect();
    let context = json!({ "type": "Record", "attributes": {
        "input": input::schema(&input::fields(input_schema)),
        "agent": named("CallingAgent"),
        "authn": named("Authentication"),
        "time": named("Time"),
        "tenant": optional("String"),
    } });
    json!({
        "memberOf": groups,
        "appliesTo": { "principalTypes": ["User", "Agent"], "resourceTypes": ["Upstream"], "context": context },
    })
}

fn optional(name: &str) -> Value {
    json!({ "type": "EntityOrCommon", "name": name, "required": false })
}

const HEAD: &str =
    "// Generated from the catalogue: what policies can name. `tollgate check` compares against the live one.\n\n";
