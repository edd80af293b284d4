//! What is Tollgate told in the bench?
//!
//! Policies by the number, and ceilings that are counted and never reached.

/// `count` policies, of which four can apply to the bench's caller: others name other groups, tools or upstreams, as an
/// estate's do. One that decides on `pay` reads arguments, so that it is evaluated at every call.
pub fn policies(count: usize) -> String {
    let mut text = String::from(OWN);
    for number in OWN_COUNT..count.max(OWN_COUNT) {
        let (group, tool) = (number % 97, number % 13);
        text.push_str(&format!(
            "
@id(\"team-{number}\")
permit (principal in Group::\"team-{number}-{group}\", action == Action::\"system-{group}/tool-{tool}\", resource)
when {{ context.input has amount && context.input.amount <= {number} && context.time.hour >= 6 }};
"
        ));
    }
    text
}

/// How many policies [`policies`] makes at least.
pub const OWN_COUNT: usize = 4;

const OWN: &str = r#"@id("other-tenants-stay-out")
forbid (principal, action, resource) unless { principal in Tenant::"acme" };

@id("staff-calls")
permit (principal in Group::"staff", action in [Action::"bench/echo", Action::"bench/hold"], resource == Upstream::"bench");

@id("support-calls")
permit (principal in Group::"support", action == Action::"bench/echo", resource == Upstream::"bench");

@id("support-pays-a-little")
permit (principal in Group::"support", action == Action::"bench/pay", resource == Upstream::"bench")
when { context.input.amount <= 1000 && context.input.currency == "EUR" };
"#;

/// One ceiling on rate and one on concurrency.
pub const CEILINGS: &str = r#"[[ceilings]]
name = "calls-per-person"
per = ["user", "agent"]
rate = { count = 1000000, per = "1s", burst = 1000000 }

[[ceilings]]
name = "at-once"
per = ["tenant"]
in_flight = 4096
"#;
