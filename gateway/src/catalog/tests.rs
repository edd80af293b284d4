//! Names, both ways; and what a list shows.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use proptest::prelude::*;

use super::{Catalogue, Definition, Kind, Listing, Offer, Page, name};
use crate::{
    config::{Endpoint, Grant, Prefix, Remote, TargetRule, Transport, Upstream, UpstreamId},
    refusal::Refusal,
};

fn upstream(id: &str) -> Upstream {
    Upstream {
        id: UpstreamId::parse(id).unwrap(),
        transport: Transport::Http(Remote::at("https://up.example/mcp".parse().unwrap())),
        era: None,
        timeout: Duration::from_secs(1),
        grant: Grant::Nothing,
        discovery: None,
        refresh: Duration::from_secs(60),
        input: crate::config::Input::default(),
        instructions: false,
        cache_reads: true,
        trust_public_cache: false,
        tools: Vec::new(),
        prompts: Vec::new(),
        resources: Vec::new(),
    }
}

fn listing(upstream: &Upstream, names: &[&str]) -> Listing {
    let tool = |name: &&str| {
        let raw = serde_json::json!({ "name": name, "inputSchema": { "type": "object" } }).to_string();
        Arc::new(Definition::read(upstream, Kind::Tool, Bytes::from(raw)).unwrap())
    };
    Listing {
        tools: names.iter().map(tool).collect(),
        offer: Some(Offer { tools: true, ..Offer::default() }),
        ..Listing::default()
    }
}

fn catalogue(estate: &[(&str, &[&str])]) -> Catalogue {
    let listings: BTreeMap<_, _> = estate
        .iter()
        .map(|(id, names)| {
            let upstream = upstream(id);
            (upstream.id.clone(), listing(&upstream, names))
        })
        .collect();
    Catalogue::merge(1, Prefix::Always, listings)
}

#[test]
fn a_federated_name_leads_back_to_one_tool() {
    let catalogue = catalogue(&[("crm", &["find", "_status"]), ("crm-2", &["find"])]);
    let target = catalogue.listed(&Endpoint::Federated, Kind::Tool, "crm-2__find").unwrap();
    assert_eq!((target.definition.upstream.as_str(), target.definition.name.as_str()), ("crm-2", "find"));
    let target = catalogue.listed(&Endpoint::Federated, Kind::Tool, "crm___status").unwrap();
    assert_eq!((target.definition.upstream.as_str(), target.definition.name.as_str()), ("crm", "_status"));
}

#[test]
fn rc_05_what_may_not_be_listed() {
    let read = |raw: &str| Definition::read(&upstream("crm"), Kind::Tool, Bytes::copy_from_slice(raw.as_bytes()));
    assert!(read(r#"{"name":"a","inputSchema":{"type":"object"}}"#).is_ok());
    for bad in [
        r#"{"name":"","inputSchema":{"type":"object"}}"#,
        r#"{"inputSchema":{"type":"object"}}"#,
        r#"{"name":"a"}"#,
        r#"{"name":"a","inputSchema":{}}"#,
        r#"{"name":"a","inputSchema":{"type":"string"}}"#,
        r#"{"name":"a","inputSchema":{"type":"object","properties":{"p":{"type":"string","x-mcp-header":""}}}}"#,
    ] {
        assert!(read(bad).is_err(), "{bad}");
    }
}

#[test]
fn only_the_exact_name_will_do() {
    let catalogue = catalogue(&[("crm", &["find"])]);
    for tricky in ["find", "CRM__find", "crm__Find", "crm__find ", "crm__fınd", "crm__find\u{200b}", "crm/find", ""] {
        let refused = catalogue.listed(&Endpoint::Federated, Kind::Tool, tricky).unwrap_err();
        assert!(matches!(refused, Refusal::ToolUnknown(_)), "{tricky:?}");
    }
    let single = Endpoint::Upstream(UpstreamId::parse("crm").unwrap());
    assert!(catalogue.listed(&single, Kind::Tool, "find").is_ok());
    assert!(catalogue.listed(&single, Kind::Tool, "crm__find").is_err());
}

#[test]
fn a_name_that_models_cannot_take_is_changed_and_still_unique() {
    let id = UpstreamId::parse("files").unwrap();
    let long = "a".repeat(100);
    let names = [name::federated(&id, "read file"), name::federated(&id, "read/file"), name::federated(&id, &long)];
    for changed in &names {
        assert!(changed.len() <= 64 && changed.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-'));
    }
    assert_ne!(names[0], names[1]);
}

#[test]
fn two_tools_of_one_name_are_both_withheld() {
    let catalogue = catalogue(&[("crm", &["find", "find", "other"])]);
    assert!(catalogue.listed(&Endpoint::Federated, Kind::Tool, "crm__find").is_err());
    assert_eq!(page(&catalogue, None, |_| true).all.len(), 1);
    assert_eq!(catalogue.ambiguous(), ["crm__find", "find"]);
}

fn page<'a>(catalogue: &'a Catalogue, cursor: Option<&str>, visible: impl Fn(&Definition) -> bool) -> Page<'a> {
    let start = catalogue.after(&Endpoint::Federated, Kind::Tool, cursor).unwrap();
    let chosen = catalogue.choose(&Endpoint::Federated, Kind::Tool, start, visible);
    catalogue.page(&Endpoint::Federated, Kind::Tool, &chosen)
}

#[test]
fn pages_are_in_order_and_end() {
    let names: Vec<String> = (0..501).map(|number| format!("t{number:04}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let catalogue = catalogue(&[("a", &names[..250]), ("b", &names[250..])]);
    let first = page(&catalogue, None, |_| true);
    assert_eq!(first.all.len(), 500);
    let second = page(&catalogue, first.next.as_deref(), |_| true);
    assert_eq!(second.all.iter().map(|tool| &*tool.name).collect::<Vec<_>>(), ["b__t0500"]);
    assert_eq!(second.next, None);
    let hidden = page(&catalogue, None, |tool| tool.name == "t0007");
    assert_eq!((hidden.all.len(), hidden.next), (1, None));
}

#[test]
fn a_cursor_that_is_not_ours_is_refused() {
    let catalogue = catalogue(&[("crm", &["find"])]);
    for cursor in ["", "!!!", "bm90IG91cnM", &"A".repeat(1_000)] {
        let refused = catalogue.after(&Endpoint::Federated, Kind::Tool, Some(cursor)).unwrap_err();
        assert_eq!(refused, Refusal::CursorInvalid, "{cursor}");
    }
}

#[test]
fn what_changes_something_or_needs_a_step_up_is_not_kept() {
    let rule = |pattern: &str, cache: Option<u64>, requires: &[&str]| TargetRule {
        pattern: pattern.to_owned(),
        requires: requires.iter().map(|scope| (*scope).to_owned()).collect(),
        acr: Vec::new(),
        auth_age_max: None,
        mints: Vec::new(),
        tags: Vec::new(),
        timeout: None,
        idempotent: None,
        durability: None,
        cache: cache.map(Duration::from_secs),
        cache_shared: None,
    };
    let rules = [rule("*", Some(60), &[]), rule("find_fresh", Some(0), &[]), rule("*_secret", None, &["crm:secret"])];
    let strong = TargetRule { acr: vec!["mfa".to_owned()], ..rule("*_strong", None, &[]) };
    let recent = TargetRule { auth_age_max: Some(Duration::from_secs(60)), ..rule("*_recent", None, &[]) };
    let rules: Vec<TargetRule> = rules.into_iter().chain([strong, recent]).collect();
    let upstream = Upstream { tools: rules.clone(), prompts: rules, ..upstream("crm") };
    let kept = |kind, name: &str, annotations: &str| {
        let raw = format!(r#"{{"name":"{name}","inputSchema":{{"type":"object"}},"annotations":{annotations}}}"#);
        Definition::read(&upstream, kind, Bytes::from(raw)).unwrap().cache.map(|life| life.as_secs())
    };
    for (name, annotations, life) in [
        ("find", "{}", Some(60)),
        ("find", r#"{"readOnlyHint":true}"#, Some(60)),
        ("find", r#"{"readOnlyHint":false}"#, None),
        ("find_fresh", "{}", None),
        ("find_secret", "{}", None),
        ("find_strong", "{}", None),
        ("find_recent", "{}", None),
    ] {
        assert_eq!(kept(Kind::Tool, name, annotations), life, "{name} {annotations}");
    }
    assert_eq!(kept(Kind::Prompt, "find", "{}"), None);
}

#[test]
fn an_upstream_that_is_down_hides_nothing_of_the_others() {
    let before = catalogue(&[("crm", &["find"]), ("notes", &["read"])]);
    let down =
        Listing { degraded: Some(Refusal::CatalogueUnavailable("unreachable".to_owned())), ..Listing::default() };
    let catalogue = before.with(UpstreamId::parse("notes").unwrap(), down);
    assert!(catalogue.listed(&Endpoint::Federated, Kind::Tool, "crm__find").is_ok());
    assert_eq!(catalogue.degraded(&Endpoint::Federated).count(), 1);
    let single = Endpoint::Upstream(UpstreamId::parse("notes").unwrap());
    assert!(matches!(catalogue.listed(&single, Kind::Tool, "read").unwrap_err(), Refusal::CatalogueUnavailable(_)));
    let never_read = catalogue.listed(&Endpoint::Federated, Kind::Tool, "notes__read").unwrap_err();
    assert!(matches!(never_read, Refusal::CatalogueUnavailable(_)), "it may be there");
    assert!(matches!(catalogue.listed(&Endpoint::Federated, Kind::Tool, "crm__read"), Err(Refusal::ToolUnknown(_))));
}

proptest! {
    #[test]
    fn every_cursor_of_ours_leads_back(name in "\\PC{0,64}") {
        prop_assert_eq!(name::from_cursor(Kind::Tool, &name::to_cursor(Kind::Tool, &name)), Some(name));
    }

    #[test]
    fn different_names_stay_different(one in "\\PC{1,80}", other in "\\PC{1,80}") {
        let id = UpstreamId::parse("x").unwrap();
        prop_assume!(one != other);
        prop_assert_ne!(name::federated(&id, &one), name::federated(&id, &other));
    }
}

/// A call that was judged by one definition may go up by another, where only its headers differ.
#[test]
fn a_definition_is_judged_as_another_where_only_mirrors_differ() {
    let up = upstream("crm");
    let read = |members: serde_json::Value| {
        let mut tool = serde_json::json!({ "name": "find", "description": "Finds.", "inputSchema": {
            "type": "object",
            "properties": { "a": { "type": "string", "x-mcp-header": "A" }, "x-mcp-header": { "type": "string" } },
        } });
        tool.as_object_mut().unwrap().extend(members.as_object().unwrap().clone());
        Definition::read(&up, Kind::Tool, Bytes::from(tool.to_string())).unwrap()
    };
    let schema = |properties: serde_json::Value| {
        read(serde_json::json!({ "inputSchema": { "type": "object", "properties": properties } }))
    };
    let (text, own) = (serde_json::json!({ "type": "string" }), serde_json::json!({ "type": "string" }));
    let judged = read(serde_json::json!({}));
    assert!(read(serde_json::json!({ "icons": [] })).is_judged_as(&judged), "no one decides by icons");
    let unmirrored = schema(serde_json::json!({ "a": text, "x-mcp-header": own }));
    let elsewhere = schema(serde_json::json!({ "a": text, "x-mcp-header": { "type": "string", "x-mcp-header": "B" } }));
    for now in [&unmirrored, &elsewhere] {
        assert!(now.digest != judged.digest && now.is_judged_as(&judged) && judged.is_judged_as(now));
    }
    for other in [
        schema(serde_json::json!({ "a": text })),
        schema(serde_json::json!({ "a": { "type": "integer", "x-mcp-header": "A" }, "x-mcp-header": own })),
        read(serde_json::json!({ "description": "Erases." })),
        read(serde_json::json!({ "annotations": { "readOnlyHint": true } })),
        read(serde_json::json!({ "outputSchema": { "type": "object" } })),
        read(serde_json::json!({ "name": "erase" })),
    ] {
        assert!(!other.is_judged_as(&judged), "{:?}", other.raw());
    }
}
