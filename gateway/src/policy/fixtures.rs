//! What do tests of decisions start from?
//!
//! The demo estate's tools and callers by name. Not part of the gateway.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use bytes::Bytes;
use serde_json::{Value, json};

use super::test::invented;
use crate::{
    catalog::{Definition, Kind},
    clock::Timestamp,
    config::{Grant, Remote, TargetRule, Transport, Upstream, UpstreamId},
    digest::sha256,
    identity::{self, Agent, Identity, User},
    rpc::json::{Bounds, Document},
};

/// Noon in UTC, a Monday.
pub(crate) const NOON: Timestamp = Timestamp::from_unix_seconds(1_767_614_400);

/// The folder that ships.
pub(crate) fn shipped() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../policies"))
}

pub(crate) fn upstream(id: &str, tools: Vec<TargetRule>) -> Upstream {
    Upstream {
        id: UpstreamId::parse(id).unwrap(),
        transport: Transport::Http(Remote::at("https://upstream.example/mcp".parse().unwrap())),
        era: None,
        timeout: Duration::from_secs(30),
        grant: Grant::Nothing,
        discovery: None,
        refresh: Duration::from_secs(60),
        input: crate::config::Input::default(),
        instructions: false,
        cache_reads: true,
        trust_public_cache: false,
        tools,
        prompts: Vec::new(),
        resources: Vec::new(),
    }
}

pub(crate) fn tool_rule(pattern: &str, tags: &[&str], requires: &[&str]) -> TargetRule {
    let owned = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect();
    TargetRule {
        pattern: pattern.to_owned(),
        requires: owned(requires),
        acr: Vec::new(),
        auth_age_max: None,
        mints: Vec::new(),
        tags: owned(tags),
        timeout: None,
        idempotent: None,
        durability: None,
        cache: None,
        cache_shared: None,
    }
}

pub(crate) fn tool(upstream: &Upstream, name: &str, properties: Value, required: &[&str]) -> Arc<Definition> {
    let schema = json!({ "type": "object", "properties": properties, "required": required });
    let raw = json!({ "name": name, "description": name, "inputSchema": schema }).to_string();
    Arc::new(Definition::read(upstream, Kind::Tool, Bytes::from(raw)).unwrap())
}

/// The estate's upstreams, by id.
pub(crate) fn demo_upstreams() -> BTreeMap<UpstreamId, Arc<Upstream>> {
    let write = |pattern: &str| tool_rule(pattern, &["write"], &["crm:write"]);
    let crm = upstream("crm", vec![write("create_*"), write("delete_*")]);
    let notes = upstream("notes", vec![tool_rule("write_*", &["write"], &[])]);
    [crm, notes].into_iter().map(|upstream| (upstream.id.clone(), Arc::new(upstream))).collect()
}

pub(crate) fn demo() -> Vec<Arc<Definition>> {
    let upstreams: Vec<Arc<Upstream>> = demo_upstreams().into_values().collect();
    let (crm, notes) = (&upstreams[0], &upstreams[1]);
    let text = || json!({ "type": "string" });
    let order = json!({ "customer": text(), "amount": { "type": "integer" }, "currency": text() });
    vec![
        tool(crm, "find_customer", json!({ "query": text() }), &["query"]),
        tool(crm, "create_order", order, &["customer", "amount", "currency"]),
        tool(crm, "delete_customer", json!({ "id": text() }), &["id"]),
        tool(notes, "read_note", json!({ "id": text() }), &["id"]),
        tool(notes, "write_note", json!({ "id": text(), "text": text() }), &["id", "text"]),
        tool(notes, "slow_report", json!({ "seconds": { "type": "integer" } }), &["seconds"]),
    ]
}

pub(crate) fn named(tools: &[Arc<Definition>], action: &str) -> Arc<Definition> {
    Arc::clone(tools.iter().find(|tool| tool.action() == action).unwrap())
}

/// A caller: a user, or an agent in its own name where `user` is empty.
pub(crate) fn caller(user: &str, tenant: Option<&str>, groups: &[&str], scopes: &[&str]) -> Identity {
    let issuer = "https://issuer.example".to_owned();
    let owned = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
    Identity {
        user: (!user.is_empty()).then(|| User { issuer: issuer.clone(), subject: user.to_owned() }),
        agent: Agent { client_id: "desk".to_owned(), actors: Vec::new() },
        tenant: tenant.map(str::to_owned),
        groups: owned(groups),
        scopes: owned(scopes),
        principal: sha256(format!("{user:?} {tenant:?}").as_bytes()),
        ..invented(&format!("{user:?} {tenant:?} {groups:?} {scopes:?}"), issuer, identity::JWT)
    }
}

pub(crate) fn arguments(value: Value) -> Document {
    let bounds = Bounds { depth_max: 64, values_max: 10_000, name_bytes_max: 256, number_chars_max: 64 };
    Document::parse(Bytes::from(value.to_string()), &bounds).unwrap()
}
