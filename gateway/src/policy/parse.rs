//! Which policies does this text hold?
//!
//! Cedar text in, rules out: parsed, named, annotations understood. An annotation that this gateway does not know is an
//! error, because a misspelt `@shadow` would enforce, and an ignored `@confirm` would wave through. It does not know
//! tools, so it does not check types.

use std::{
    collections::{BTreeMap, btree_map},
    sync::{Arc, OnceLock},
};

use cedar_policy::{Effect, Policy, PolicyFromJsonError, PolicyId, PolicySet};
use miette::{Diagnostic, SourceSpan};
use serde_json::Value;

use super::{
    reads::{Reads, reads, without_arguments},
    vocabulary::Inexpressible,
};
use crate::config::{Problem, Source};

/// One policy.
#[derive(Debug)]
pub(super) struct Rule {
    /// `@id`, or file and place in it.
    pub(super) id: Arc<str>,
    pub(super) policy: Policy,
    /// [`Rule::listing`], once somebody asked for it.
    listing: OnceLock<Policy>,
    pub(super) effect: Effect,
    /// `@shadow`: evaluated and reported, not enforced.
    pub(super) shadow: bool,
    pub(super) reads: Reads,
    pub(super) source: Source,
    pub(super) span: Option<SourceSpan>,
    /// Where in the file Cedar's own places in this policy are counted from.
    offset: usize,
}

impl Rule {
    /// The policy as far as it can be evaluated before the arguments are known. Made when a caller comes whom the policy
    /// can apply to: of a large set most apply to few.
    pub(super) fn listing(&self) -> Result<&Policy, Inexpressible> {
        if let Some(made) = self.listing.get() {
            return Ok(made);
        }
        let made = if self.reads.input {
            let json = self.policy.to_json().map_err(|fault| Inexpressible(fault.to_string()))?;
            listed(&self.id, &json).map_err(|fault| Inexpressible(fault.to_string()))?
        } else {
            self.policy.clone()
        };
        Ok(self.listing.get_or_init(|| made))
    }

    /// What Cedar says about this policy.
    pub(super) fn relayed(&self, said: &dyn Diagnostic) -> Problem {
        relayed(&self.source, self.offset, said, self.span)
    }
}

/// All policies of all files, in order of file and place, and what is wrong with the rest of them.
pub(super) fn rules(sources: &[Source]) -> (Vec<Rule>, Vec<Problem>) {
    let mut rules: Vec<Rule> = Vec::new();
    let mut problems = Vec::new();
    for source in sources {
        file(source, &mut rules, &mut problems);
    }
    problems.extend(repeated(&rules));
    problems.sort_by_cached_key(Problem::order);
    (rules, problems)
}

/// One policy after the other: what Cedar holds of a text while it reads it is some fifty times as large as the text.
fn file(source: &Source, rules: &mut Vec<Rule>, problems: &mut Vec<Problem>) {
    let mut place = 0_usize;
    for (offset, piece) in pieces(source.text()) {
        let set = match piece.parse::<PolicySet>() {
            Ok(set) => set,
            Err(faults) => {
                problems.extend(faults.iter().map(|fault| relayed(source, offset, fault, None)));
                continue;
            }
        };
        for template in set.templates() {
            let span = template.as_ref().loc().map(|location| moved(location.span, offset));
            problems.push(
                source
                    .problem("policy templates are not served")
                    .under(span)
                    .help("write the principal or resource in place of the slot"),
            );
        }
        for policy in set.policies() {
            match rule(source, (offset, place), policy) {
                Ok(rule) => rules.push(rule),
                Err(found) => problems.extend(found),
            }
        }
        place = place.saturating_add(1);
    }
}

/// The policies of `text`, each with its semicolon and what stands before it, and where they begin: Cedar has semicolons
/// nowhere else but in strings and comments. A piece that ends elsewhere is no policy, and then the file is refused.
fn pieces(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut begin = 0;
    std::iter::from_fn(move || {
        let rest = text.get(begin..).filter(|rest| !rest.is_empty())?;
        let piece = rest.get(..first_policy(rest)).unwrap_or(rest);
        let offset = begin;
        begin = begin.saturating_add(piece.len());
        Some((offset, piece))
    })
}

/// Where the first semicolon of the grammar ends.
fn first_policy(text: &str) -> usize {
    let mut bytes = text.bytes().enumerate().peekable();
    while let Some((at, byte)) = bytes.next() {
        match byte {
            b';' => return at.saturating_add(1),
            b'"' => {
                let mut escaped = false;
                bytes.by_ref().find(|(_, byte)| {
                    let ends = *byte == b'"' && !escaped;
                    escaped = *byte == b'\\' && !escaped;
                    ends
                });
            }
            b'/' if bytes.next_if(|(_, next)| *next == b'/').is_some() => {
                while bytes.next_if(|(_, byte)| !matches!(byte, b'\n' | b'\r')).is_some() {}
            }
            _ => {}
        }
    }
    text.len()
}

/// What Cedar says about a piece of `source` that begins at `offset`.
fn relayed(source: &Source, offset: usize, said: &dyn Diagnostic, fallback: Option<SourceSpan>) -> Problem {
    let problem = source.relayed(said, None).moved(offset);
    if problem.is_placed() { problem } else { problem.under(fallback) }
}

fn moved(span: SourceSpan, offset: usize) -> SourceSpan {
    (span.offset().saturating_add(offset), span.len()).into()
}

fn rule(source: &Source, (offset, place): (usize, usize), policy: &Policy) -> Result<Rule, Vec<Problem>> {
    let span = policy.as_ref().loc().map(|location| moved(location.span, offset));
    let mut problems = Vec::new();
    for (annotation, value) in policy.annotations() {
        problems
            .extend(misused(annotation, value).map(|(message, help)| source.problem(message).under(span).help(help)));
    }
    if !problems.is_empty() {
        return Err(problems);
    }
    let id = policy.annotation("id").map_or_else(|| format!("{}:{place}", source.name()), str::to_owned);
    // From here on nobody asks how a policy was written, only what it says: Cedar need not keep both. What is judged here
    // is what [`Rule::listing`] is made of later.
    let policy = Policy::from(policy.new_id(PolicyId::new(&id)).as_ref().clone());
    let json = policy.to_json().map_err(|fault| vec![source.relayed(&fault, span)])?;
    let reads = reads(&json);
    if reads.input {
        listed(&id, &json).map_err(|fault| vec![source.relayed(&*fault, span)])?;
    }
    Ok(Rule {
        id: Arc::from(id),
        listing: OnceLock::new(),
        effect: policy.effect(),
        shadow: policy.annotation("shadow").is_some(),
        reads,
        source: source.clone(),
        span,
        offset,
        policy,
    })
}

/// The policy `json` without what reads arguments.
fn listed(id: &str, json: &Value) -> Result<Policy, Box<PolicyFromJsonError>> {
    let policy = Policy::from_json(Some(PolicyId::new(id)), without_arguments(json)).map_err(Box::new)?;
    Ok(Policy::from(policy.as_ref().clone()))
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
