//! Why was it decided so?
//!
//! The same decision as a call's, with every policy that was looked at and what it said. For people: what an
//! evaluation error says may quote arguments, so none of this goes into the journal.

use std::{
    io::{self, Write},
    sync::Arc,
};

use cedar_policy::Effect;

use super::{
    Finding, Policies,
    decide::{Applies, Slice},
    parse::Rule,
    vocabulary::{Inexpressible, id},
};
use crate::{catalog::Definition, clock::Timestamp, identity::Identity, rpc::json};

/// How a call would end at the policy stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// It is permitted.
    Allow,
    /// The caller sees the tool, but may not make this call.
    Deny,
    /// For the caller there is no such tool.
    Hidden,
    /// It would be permitted to a token with more scopes, or of a better login.
    StepUp,
}

impl Answer {
    /// The word, as in `*.test.toml`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
            Self::Hidden => "hidden",
            Self::StepUp => "step_up",
        }
    }
}

/// One decision, taken apart.
#[derive(Debug)]
pub struct Explanation {
    /// How the call would end.
    pub answer: Answer,
    /// The reason, as the journal would have it.
    pub why: String,
    /// Ids of the policies that decided; none where nothing permits.
    pub decided: Vec<Arc<str>>,
    /// All policies whose scope lets caller and tool through.
    pub considered: Vec<Considered>,
    /// How many policies were left out because of their scope.
    pub out_of_scope: usize,
    /// What `@shadow` policies had to say.
    pub shadow: Vec<Finding>,
    /// The digest of the policy set.
    pub policy_set: Arc<str>,
}

/// One policy that was looked at.
#[derive(Debug)]
pub struct Considered {
    /// Its id.
    pub policy: Arc<str>,
    /// The file that it stands in.
    pub file: String,
    /// The line that it starts in, from 1.
    pub line: usize,
    /// `permit` or `forbid`.
    pub effect: &'static str,
    /// Whether it is evaluated only for the report.
    pub shadow: bool,
    /// `applies`, `does not apply`, or why it could not be evaluated.
    pub said: String,
}

impl Policies {
    /// Decides as [`Policies::decide`] does, and says how it came to that.
    #[must_use]
    pub fn explain(
        &self,
        caller: &Identity,
        tool: &Definition,
        arguments: Option<json::Value<'_>>,
        now: Timestamp,
    ) -> Explanation {
        let mut explanation = Explanation {
            answer: Answer::Deny,
            why: String::new(),
            decided: Vec::new(),
            considered: Vec::new(),
            out_of_scope: self.len(),
            shadow: Vec::new(),
            policy_set: Arc::clone(self.digest()),
        };
        let slice = match self.slice(caller, tool) {
            Ok(slice) => slice,
            Err(Inexpressible(why)) => return Explanation { why, ..explanation },
        };
        explanation.out_of_scope = self.len().saturating_sub(slice.places.len());
        explanation.considered = self.considered(&slice, tool.given().or(arguments), now);
        match self.decide(caller, tool, arguments, now) {
            Ok(permit) => {
                explanation.answer = Answer::Allow;
                explanation.why = "permitted".to_owned();
                explanation.decided = permit.policies().to_vec();
                explanation.shadow = permit.shadow().to_vec();
            }
            Err(denial) => {
                explanation.why = denial.refusal.inside().into_owned();
                explanation.decided = denial.verdict.policies().to_vec();
                explanation.shadow = denial.verdict.shadow().to_vec();
                explanation.answer = match denial.refusal.code() {
                    "tool_unknown" | "prompt_unknown" | "resource_unknown" | "reference_unknown" => Answer::Hidden,
                    "scope_insufficient" | "authentication_insufficient" => Answer::StepUp,
                    _ => Answer::Deny,
                };
            }
        }
        explanation
    }

    fn considered(&self, slice: &Slice, arguments: Option<json::Value<'_>>, now: Timestamp) -> Vec<Considered> {
        let context = match self.context(slice, arguments, now) {
            Ok(Ok(context)) => Ok(context),
            Ok(Err(fault)) => Err(format!("the argument `{}` is not {}", fault.path.join("."), fault.expected)),
            Err(Inexpressible(why)) => Err(why),
        };
        let request = context.and_then(|context| slice.request(context).map_err(|Inexpressible(why)| why));
        let rules = slice.places.iter().filter_map(|place| self.rules.get(*place));
        rules
            .map(|rule| {
                let said = match &request {
                    Err(why) => format!("not evaluated: {why}"),
                    Ok(request) => match self.alone(&rule.policy, slice, request) {
                        Applies::Yes => "applies".to_owned(),
                        Applies::No => "does not apply".to_owned(),
                        Applies::Fails(why) => format!("fails: {why}"),
                    },
                };
                considered(rule, said)
            })
            .collect()
    }
}

impl Explanation {
    /// Writes the explanation for a person.
    ///
    /// # Errors
    /// `out` cannot be written to.
    pub fn render(&self, out: &mut impl Write) -> io::Result<()> {
        let answer = self.answer.as_str();
        // The journal's reason says that it is hidden, too.
        let why = self.why.strip_prefix("hidden: ").unwrap_or(&self.why);
        writeln!(out, "{answer}: {why}")?;
        match self.decided.as_slice() {
            [] => writeln!(out, "  decided by no policy")?,
            ids => writeln!(out, "  decided by {}", ids.join(", "))?,
        }
        for policy in &self.considered {
            let shadow = if policy.shadow { " (shadow)" } else { "" };
            let Considered { policy, file, line, effect, said, .. } = policy;
            writeln!(out, "  {effect}{shadow} {policy} at {file}:{line} {said}")?;
        }
        for finding in self.shadow.iter().filter(|finding| finding.changes) {
            let said = finding.outcome.as_str();
            writeln!(out, "  with {} enforced this would have ended otherwise ({said})", finding.policy)?;
        }
        writeln!(out, "  {} more out of scope; policy set {}", self.out_of_scope, self.policy_set)
    }
}

fn considered(rule: &Rule, said: String) -> Considered {
    let before = rule.span.and_then(|span| rule.source.text().get(..span.offset())).unwrap_or_default();
    Considered {
        policy: id(rule.policy.id()),
        file: rule.source.place().to_owned(),
        line: before.matches('\n').count().saturating_add(1),
        effect: match rule.effect {
            Effect::Permit => "permit",
            Effect::Forbid => "forbid",
        },
        shadow: rule.shadow,
        said,
    }
}
