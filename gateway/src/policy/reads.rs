//! What does a policy read of a call, and what is left of it when the arguments are not known yet?
//!
//! Works on Cedar's JSON form of a policy. Sound by construction: what is not recognised counts as read. It does not
//! evaluate anything.

use serde_json::{Map, Value, json};

/// Which parts of the context a policy may read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Reads {
    /// `context.input`.
    pub(super) input: bool,
    /// `context.time`.
    pub(super) time: bool,
    /// `context.agent`, `context.authn`, `context.tenant`: the same for all calls of a caller.
    pub(super) caller: bool,
    /// `action` or `resource`, in a condition and not in the scope alone.
    pub(super) target: bool,
}

impl Reads {
    const WHOLE: Self = Self { input: true, time: true, caller: true, target: false };

    /// Everything that either reads.
    pub(super) const fn and(self, other: Self) -> Self {
        Self {
            input: self.input || other.input,
            time: self.time || other.time,
            caller: self.caller || other.caller,
            target: self.target || other.target,
        }
    }
}

/// What a policy, or a part of one, may read.
pub(super) fn reads(expression: &Value) -> Reads {
    match expression {
        Value::Object(members) => {
            if let Some(attribute) = attribute_of_context(members) {
                return match attribute {
                    "input" => Reads { input: true, ..Reads::default() },
                    "time" => Reads { time: true, ..Reads::default() },
                    "agent" | "authn" | "tenant" => Reads { caller: true, ..Reads::default() },
                    _ => Reads::WHOLE,
                };
            }
            match members.get("Var").and_then(Value::as_str) {
                Some("context") => return Reads::WHOLE,
                Some("action" | "resource") => return Reads { target: true, ..Reads::default() },
                Some(_) | None => {}
            }
            members.values().map(reads).fold(Reads::default(), Reads::and)
        }
        Value::Array(elements) => elements.iter().map(reads).fold(Reads::default(), Reads::and),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => Reads::default(),
    }
}

/// `X` of `context.X` or `context has X`.
fn attribute_of_context(members: &Map<String, Value>) -> Option<&str> {
    let (operator, operand) = members.iter().next().filter(|_only| members.len() == 1)?;
    let context = operand.get("left")?.get("Var")?.as_str()? == "context";
    if !context || !matches!(operator.as_str(), "." | "has") {
        return None;
    }
    // `context has input.amount` has a list of names.
    let attribute = operand.get("attr")?;
    attribute.as_array().and_then(|names| names.first()).unwrap_or(attribute).as_str()
}

/// The policy with every part that reads the arguments replaced by what favours the effect most (a permit) or least
/// (a forbid): a permit that could apply with some arguments applies, a forbid applies only if it would with any.
/// So what it decides about a tool holds before a call is made.
pub(super) fn without_arguments(policy: &Value) -> Value {
    let mut policy = policy.clone();
    let upper = policy.get("effect").is_none_or(|effect| effect == "permit");
    for condition in policy.get_mut("conditions").and_then(Value::as_array_mut).into_iter().flatten() {
        let negated = condition.get("kind").is_some_and(|kind| kind == "unless");
        if let Some(body) = condition.get_mut("body") {
            *body = bound(body, upper != negated);
        }
    }
    policy
}

/// An expression that is true wherever `expression` can be (`upper`), or nowhere where it can be false (not `upper`),
/// whatever the arguments. Only the operators that keep or turn the order of truth are looked into.
fn bound(expression: &Value, upper: bool) -> Value {
    if !reads(expression).input {
        return expression.clone();
    }
    let operation = expression.as_object().and_then(|members| members.iter().next());
    if let Some((operator, operand)) = operation {
        let part = |name: &str, upper| operand.get(name).map(|part| bound(part, upper));
        match operator.as_str() {
            "&&" | "||" => {
                if let (Some(left), Some(right)) = (part("left", upper), part("right", upper)) {
                    return json!({ operator: { "left": left, "right": right } });
                }
            }
            "!" => {
                if let Some(inner) = part("arg", !upper) {
                    return json!({ "!": { "arg": inner } });
                }
            }
            "if-then-else" => {
                let fixed = operand.get("if").filter(|test| !reads(test).input);
                if let (Some(test), Some(then), Some(otherwise)) = (fixed, part("then", upper), part("else", upper)) {
                    return json!({ "if-then-else": { "if": test, "then": then, "else": otherwise } });
                }
            }
            _ => {}
        }
    }
    json!({ "Value": upper })
}

#[cfg(test)]
mod tests {
    use cedar_policy::{Policy, PolicyId};

    use super::{Reads, reads, without_arguments};

    fn json(text: &str) -> serde_json::Value {
        Policy::parse(None, text).unwrap().to_json().unwrap()
    }

    #[test]
    fn what_a_policy_reads_is_seen_through_every_operator() {
        let check = |condition: &str, input, time, caller| {
            let policy = json(&format!("permit(principal, action, resource) when {{ {condition} }};"));
            assert_eq!(reads(&policy), Reads { input, time, caller, target: false }, "{condition}: {policy}");
        };
        check("principal.tenant == \"a\"", false, false, false);
        check("context.agent.client_id == \"a\" && context has tenant", false, false, true);
        check("context.authn has acr", false, false, true);
        check("context.input.amount > 5", true, false, false);
        check("context has input", true, false, false);
        check("context[\"input\"][\"amount\"] == 1", true, false, false);
        check("context has input.amount", true, false, false);
        check("context.time.hour > 5", false, true, false);
        check("{\"a\": context} == {\"a\": context}", true, true, true);
        check("{\".\": context} has a", true, true, true);
        check("context == context", true, true, true);
        check("context.other", true, true, true);
        check("[context.input.a].contains(1)", true, false, false);
        check("(if principal.tenant == \"a\" then context else context).agent == 1", true, true, true);
        check("ip(context.input.a).isLoopback()", true, false, false);
        check("context.input.a like \"x*\"", true, false, false);
        check("context.input.e is User in Group::\"a\"", true, false, false);
    }

    #[test]
    fn a_scope_is_no_reading_of_the_target_and_a_condition_is() {
        for (policy, target) in [
            ("permit(principal, action == Action::\"a\", resource == Upstream::\"u\");", false),
            ("permit(principal, action, resource) when { principal.tenant == \"a\" };", false),
            ("permit(principal, action, resource) when { resource == Upstream::\"u\" };", true),
            ("forbid(principal, action, resource) unless { action in Action::\"read\" };", true),
            ("forbid(principal, action, resource) when { principal.a && [resource].contains(principal) };", true),
        ] {
            assert_eq!(reads(&json(policy)).target, target, "{policy}");
        }
    }

    #[test]
    fn what_is_left_without_arguments() {
        let check = |policy: &str, expect: &str| {
            let left = Policy::from_json(Some(PolicyId::new("p")), without_arguments(&json(policy))).unwrap();
            let expect = Policy::parse(Some(PolicyId::new("p")), expect).unwrap();
            assert_eq!(left.to_json().unwrap(), expect.to_json().unwrap(), "{policy}");
        };
        check(
            "permit(principal, action, resource) when { principal.a && context.input.x > 1 };",
            "permit(principal, action, resource) when { principal.a && true };",
        );
        check(
            "permit(principal, action, resource) unless { principal.a || context.input.x > 1 };",
            "permit(principal, action, resource) unless { principal.a || false };",
        );
        check(
            "forbid(principal, action, resource) when { principal.a || !(context.input.x > 1) };",
            "forbid(principal, action, resource) when { principal.a || !true };",
        );
        check(
            "forbid(principal, action, resource) unless { context.input.x };",
            "forbid(principal, action, resource) unless { true };",
        );
        check(
            "permit(principal, action, resource) when { if principal.a then context.input.x else principal.b };",
            "permit(principal, action, resource) when { if principal.a then true else principal.b };",
        );
        check(
            "permit(principal, action, resource) when { if context.input.x then principal.a else principal.b };",
            "permit(principal, action, resource) when { true };",
        );
    }
}
