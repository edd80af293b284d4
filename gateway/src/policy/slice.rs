//! Which policies can apply to this caller and this tool at all?
//!
//! Cedar evaluates every policy of a set; a policy whose scope does not match is false without its conditions being
//! looked at, so leaving it out changes no decision (Cedar language, "policy scope"). The cost of a decision is then
//! that of the few that remain, however many there are. It does not evaluate anything.

use std::collections::{HashMap, HashSet};

use cedar_policy::{ActionConstraint, EntityTypeName, EntityUid, Policy, PrincipalConstraint, ResourceConstraint};

/// The policies that can apply to one tool, by what they ask of the principal. Numbers are places in the policy list.
#[derive(Debug, Default)]
pub(super) struct ToolSlice {
    any: Vec<usize>,
    of_type: HashMap<EntityTypeName, Vec<usize>>,
    under: HashMap<EntityUid, Vec<usize>>,
}

/// Who asks, in the terms of a policy's scope.
#[derive(Debug)]
pub(super) struct Principal {
    pub(super) uid: EntityUid,
    pub(super) memberships: HashSet<EntityUid>,
}

/// What is asked for, in the terms of a policy's scope.
#[derive(Debug)]
pub(super) struct Subject {
    pub(super) action: EntityUid,
    pub(super) groups: HashSet<EntityUid>,
    pub(super) resource: EntityUid,
}

impl ToolSlice {
    /// Those of `policies` whose scope lets `subject` through.
    pub(super) fn of<'a>(policies: impl Iterator<Item = &'a Policy>, subject: &Subject) -> Self {
        let mut slice = Self::default();
        for (place, policy) in policies.enumerate() {
            if !action_matches(&policy.action_constraint(), subject)
                || !resource_matches(&policy.resource_constraint(), &subject.resource)
            {
                continue;
            }
            match policy.principal_constraint() {
                PrincipalConstraint::Any => slice.any.push(place),
                PrincipalConstraint::Is(kind) => slice.of_type.entry(kind).or_default().push(place),
                PrincipalConstraint::In(uid) | PrincipalConstraint::Eq(uid) | PrincipalConstraint::IsIn(_, uid) => {
                    slice.under.entry(uid).or_default().push(place);
                }
            }
        }
        slice
    }

    /// The places of those that can apply to `principal`, in the order of the list. A few may be left that cannot:
    /// Cedar still checks every scope itself.
    pub(super) fn places(&self, principal: &Principal) -> Vec<usize> {
        let mut places = self.any.clone();
        places.extend(self.of_type.get(principal.uid.type_name()).into_iter().flatten());
        for uid in principal.memberships.iter().chain([&principal.uid]) {
            places.extend(self.under.get(uid).into_iter().flatten());
        }
        places.sort_unstable();
        places.dedup();
        places
    }
}

fn action_matches(constraint: &ActionConstraint, subject: &Subject) -> bool {
    match constraint {
        ActionConstraint::Any => true,
        ActionConstraint::Eq(uid) => *uid == subject.action,
        ActionConstraint::In(uids) => uids.iter().any(|uid| *uid == subject.action || subject.groups.contains(uid)),
    }
}

/// Upstreams are in nothing, so `in` is `==`.
fn resource_matches(constraint: &ResourceConstraint, resource: &EntityUid) -> bool {
    match constraint {
        ResourceConstraint::Any => true,
        ResourceConstraint::In(uid) | ResourceConstraint::Eq(uid) => uid == resource,
        ResourceConstraint::Is(kind) => kind == resource.type_name(),
        ResourceConstraint::IsIn(kind, uid) => kind == resource.type_name() && uid == resource,
    }
}
