//! Which policies does this text hold?
//!
//! Cedar text in, rules out: parsed, named, annotations understood. An annotation that this gateway does not know is an
//! error, because a misspelt `@shadow` would enforce, and an ignored `@confirm` would wave through. It does not know
//! tools, so it does not check types.

use std::{
    collections::{BTreeMap, btree_map},
    sync::Arc,
};

use cedar_policy::{Effect, Policy, PolicyId, PolicySet};
use miette::SourceSpan;

use super::reads::{Reads, reads, without_arguments};
use crate::config::{Problem, Source};

/// One policy.
#[derive(Debug)]
pub(super) struct Rule {
    /// `@id`, or file and place in it.
    pub(super) id: Arc<str>,
    pub(super) policy: Policy,
    /// The policy as far as it can be evaluated before the arguments are known.
    pub(super) listing: Policy,
    pub(super) effect: Effect,
    /// `@shadow`: evaluated and reported, not enforced.
    pub(super) shadow: bool,
    pub(super) reads: Reads,
    pub(super) source: Source,
    pub(super) span: Option<SourceSpan>,
}

/// All policies of all files, in order of file and place.
pub(super) fn rules(sources: Vec<Source>) -> Result<Vec<Rule>, Vec<Problem>> {
    let mut rules: Vec<Rule> = Vec::new();
    let mut problems = Vec::new();
    for source in sources {
        match source.text().parse::<PolicySet>() {
            Ok(set) => file(&source, &set, &mut rules, &mut problems),
            Err(faults) => problems.extend(faults.iter().map(|fault| source.relayed(fault, None))),
        }
    }
    problems.extend(repeated(&rules));
    problems.sort_by_cached_key(Problem::order);
    if problems.is_empty() { Ok(rules) } else { Err(problems) }
}

fn file(source: &Source, set: &PolicySet, rules: &mut Vec<Rule>, problems: &mut Vec<Problem>) {
    for template in set.templates() {
        let span = template.as_ref().loc().map(|location| location.span);
        problems.push(
            source
                .problem("policy templates are not served")
                .under(span)
                .help("write the principal or resource in place of the slot"),
        );
    }
    // Cedar names the policies of a text `policy0`, `policy1`, … in the order written.
    let mut policies: Vec<(usize, &Policy)> = set
        .policies()
        .filter_map(|policy| Some((AsRef::<str>::as_ref(policy.id()).strip_prefix("policy")?.parse().ok()?, policy)))
        .collect();
    policies.sort_by_key(|(place, _)| *place);
    for (place, policy) in policies {
        match rule(source, place, policy) {
            Ok(rule) => rules.push(rule),
            Err(found) => problems.extend(found),
        }
    }
}

fn rule(source: &Source, place: usize, policy: &Policy) -> Result<Rule, Vec<Problem>> {
    let span = policy.as_ref().loc().map(|location| location.span);
    let mut problems = Vec::new();
    for (annotation, value) in policy.annotations() {
        problems
            .extend(misused(annotation, value).map(|(message, help)| source.problem(message).under(span).help(help)));
    }
    if !problems.is_empty() {
        return Err(problems);
    }
    let id = policy.annotation("id").map_or_else(|| format!("{}:{place}", source.name()), str::to_owned);
    let policy = policy.new_id(PolicyId::new(&id));
    let json = policy.to_json().map_err(|fault| vec![source.relayed(&fault, span)])?;
    let reads = reads(&json);
    let listing = if reads.input {
        Policy::from_json(Some(PolicyId::new(&id)), without_arguments(&json))
            .map_err(|fault| vec![source.relayed(&fault, span)])?
    } else {
        policy.clone()
    };
    Ok(Rule {
        id: Arc::from(id),
        listing,
        effect: policy.effect(),
        shadow: policy.annotation("shadow").is_some(),
        reads,
        source: source.clone(),
        span,
        policy,
    })
}

/// What is wrong with an annotation, and what to do.
fn misused(annotation: &str, value: &str) -> Option<(String, &'static str)> {
    match annotation {
        "id" if value.is_empty() || value.len() > ID_BYTES_MAX || value.chars().any(char::is_control) => Some((
            "`@id` is empty, too long or has control characters".to_owned(),
            "a short name, unique in the folder",
        )),
        "shadow" if !value.is_empty() => {
            Some(("`@shadow` takes no value".to_owned(), "write `@shadow` alone; say why in `@description(\"…\")`"))
        }
        "id" | "shadow" | "description" | "owner" => None,
        "confirm" => Some((
            "`@confirm` is not served in this version".to_owned(),
            "remove the policy or the annotation: without a person to confirm, nothing may be permitted on condition of it",
        )),
        _ => Some((
            format!("the annotation `@{annotation}` is not known"),
            "known annotations are `@id`, `@shadow`, `@description` and `@owner`",
        )),
    }
}

/// An id names one policy in the audit.
fn repeated(rules: &[Rule]) -> Vec<Problem> {
    let mut seen: BTreeMap<&str, &Rule> = BTreeMap::new();
    let mut problems = Vec::new();
    for rule in rules {
        match seen.entry(&rule.id) {
            btree_map::Entry::Vacant(entry) => {
                entry.insert(rule);
            }
            btree_map::Entry::Occupied(first) => {
                let message = format!(
                    "the policy id `{}` is taken by another policy in `{}`",
                    rule.id,
                    first.get().source.name()
                );
                problems.push(rule.source.problem(message).under(rule.span).help("give each policy its own `@id`"));
            }
        }
    }
    problems
}

/// An id stands in every audit record of its decisions.
const ID_BYTES_MAX: usize = 128;
