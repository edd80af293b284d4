//! Do the policies fit the estate?
//!
//! Types every policy against the schema of the catalogue, and says everything that is wrong at once. It decides
//! nothing about a call.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use cedar_policy::{Policy, PolicyId, PolicySet, ValidationMode, Validator};

use super::{Draft, Policies, parse::Rule, schema};
use crate::{
    catalog::Definition,
    config::{Problem, Upstream, UpstreamId},
};

/// What the gateway stands in front of.
#[derive(Debug, Clone, Copy)]
pub struct Estate<'a> {
    /// All upstreams of `upstreams.toml`: their ids and their tags are known whether or not they could be read.
    pub upstreams: &'a BTreeMap<UpstreamId, Arc<Upstream>>,
    /// All tools and prompts of those that could be read.
    pub tools: &'a [Arc<Definition>],
    /// Those that could not be read, so that nothing can be said about policies that name their tools.
    pub unread: &'a [UpstreamId],
}

impl Estate<'_> {
    /// Every tag that `upstreams.toml` gives to something of `upstream`, whether or not there is such a thing.
    pub fn tags(&self, upstream: &UpstreamId) -> impl Iterator<Item = &str> {
        let upstream = self.upstreams.get(upstream).into_iter();
        let rules = upstream.flat_map(|it| it.tools.iter().chain(&it.prompts).chain(&it.resources));
        rules.flat_map(|rule| &rule.tags).map(String::as_str)
    }

    /// Those of them that it gives to resources and to what can be completed.
    pub(super) fn resource_tags(&self, upstream: &UpstreamId) -> impl Iterator<Item = &str> {
        let upstream = self.upstreams.get(upstream).into_iter();
        let rules = upstream.flat_map(|it| it.resources.iter().chain(&it.prompts));
        rules.flat_map(|rule| &rule.tags).map(String::as_str)
    }

    /// The Cedar schema, as `schema.cedarschema` has it.
    ///
    /// # Errors
    /// The catalogue has something that Cedar cannot name.
    pub fn schema(&self) -> Result<String, Problem> {
        schema::schema(self).map(|(_, text)| text)
    }
}

impl Policies {
    /// Everything that is wrong with these policies in front of `estate`, warnings included.
    #[must_use]
    pub fn check(&self, estate: &Estate<'_>) -> Vec<Problem> {
        check(&self.rules, estate)
    }
}

impl Draft {
    /// The same of those that could be read.
    #[must_use]
    pub fn check(&self, estate: &Estate<'_>) -> Vec<Problem> {
        check(&self.rules, estate)
    }
}

fn check(rules: &[Rule], estate: &Estate<'_>) -> Vec<Problem> {
    let schema = match schema::schema(estate) {
        Ok((schema, _)) => schema,
        Err(problem) => return vec![problem],
    };
    let (mut problems, validator) = (Vec::new(), Validator::new(schema));
    // Each policy is judged by itself; copies of some at a time are all that is needed.
    for rules in rules.chunks(JUDGED_TOGETHER) {
        typed(rules, estate, &validator, &mut problems);
    }
    problems.sort_by_cached_key(Problem::order);
    problems
}

fn typed(rules: &[Rule], estate: &Estate<'_>, validator: &Validator, problems: &mut Vec<Problem>) {
    let mut set = PolicySet::new();
    for rule in rules {
        if let Some(upstream) = unread(&rule.policy, estate) {
            let message = format!("`{}` is not checked: the tools of `{upstream}` could not be read", rule.id);
            problems.push(rule.source.problem(message).under(rule.span).warning());
        } else {
            // The one fault that there can be is an id that another policy has, and that is told where ids are read.
            let _repeated = set.add(rule.policy.clone());
        }
    }
    let named = |id: &PolicyId| rules.iter().find(|rule| rule.policy.id() == id);
    let result = validator.validate(&set, ValidationMode::Strict);
    for fault in result.validation_errors() {
        problems.extend(named(fault.policy_id()).map(|rule| rule.relayed(fault)));
    }
    let failed: BTreeSet<&str> =
        result.validation_errors().map(|fault| AsRef::<str>::as_ref(fault.policy_id())).collect();
    // A policy that is wrong is also impossible, redundant and so on; that helps nobody.
    for fault in result.validation_warnings().filter(|fault| !failed.contains(fault.policy_id().as_ref() as &str)) {
        let problem = named(fault.policy_id()).map(|rule| rule.relayed(fault));
        problems.extend(problem.map(Problem::warning));
    }
}

/// Policies that are judged at once.
const JUDGED_TOGETHER: usize = 16;

/// An upstream that could not be read and that `policy` names a tool of, or a tag that no other upstream's tools carry.
fn unread<'a>(policy: &Policy, estate: &Estate<'a>) -> Option<&'a UpstreamId> {
    let literals = policy.entity_literals();
    let actions = literals.iter().filter(|uid| uid.type_name().basename() == "Action");
    let names: Vec<&str> = actions.map(|uid| uid.id().unescaped()).collect();
    let carried = |tag: &str| estate.tools.iter().any(|tool| tool.tags.iter().any(|known| known == tag));
    estate.unread.iter().find(|upstream| {
        names.iter().any(|name| {
            let own = name.strip_prefix("prompt:").unwrap_or(name);
            let tool = own.strip_prefix(upstream.as_str()).is_some_and(|rest| rest.starts_with('/'));
            tool || (estate.tags(upstream).any(|tag| tag == *name) && !carried(name))
        })
    })
}
