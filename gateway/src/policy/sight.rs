//! Which of many things does one caller get to see?
//!
//! The same answers as [`Policies::visible`], at the price of few: where nothing permits there is nothing to evaluate, and
//! where the same policies apply and none of them looks at what is asked for, one answer does for all. It keeps nothing
//! beyond one request.

use std::collections::HashMap;

use cedar_policy::Effect;

use super::{Policies, parse::Rule, reads::Reads, slice::Principal};
use crate::{catalog::Definition, clock::Timestamp, identity::Identity};

/// What one caller sees at one moment.
#[derive(Debug)]
pub struct Sight<'a> {
    policies: &'a Policies,
    caller: &'a Identity,
    now: Timestamp,
    principal: Principal,
    /// By the places of the enforced policies that can apply.
    known: HashMap<Vec<usize>, bool>,
    timed: bool,
}

impl<'a> Sight<'a> {
    pub(super) fn new(policies: &'a Policies, caller: &'a Identity, now: Timestamp) -> Self {
        let principal = policies.principal(caller);
        Self { policies, caller, now, principal, known: HashMap::new(), timed: false }
    }

    /// Whether the caller gets to see `definition`.
    pub fn sees(&mut self, definition: &Definition) -> bool {
        let mut places = self.policies.places(&self.principal, definition);
        let enforced = |place: &usize| self.policies.rules.get(*place).filter(|rule| !rule.shadow);
        places.retain(|place| enforced(place).is_some());
        let rules: Vec<&Rule> = places.iter().filter_map(enforced).collect();
        if !rules.iter().any(|rule| rule.effect == Effect::Permit) {
            return false;
        }
        let reads = rules.iter().map(|rule| rule.reads).fold(Reads::default(), Reads::and);
        self.timed |= reads.time;
        if reads.target || (reads.input && definition.given().is_some()) {
            return self.policies.visible(self.caller, definition, self.now);
        }
        if let Some(seen) = self.known.get(&places) {
            return *seen;
        }
        let seen = self.policies.visible(self.caller, definition, self.now);
        self.known.insert(places, seen);
        seen
    }

    /// Whether any answer so far may be another one at another time.
    #[must_use]
    pub const fn is_timed(&self) -> bool {
        self.timed
    }
}
