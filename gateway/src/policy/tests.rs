//! Does the stage hold what it promises?
//!
//! Tables of decisions, properties over random policies and callers, and everything that ships in `policies/`.

use std::{sync::Arc, time::Duration};

use cedar_policy::{Authorizer, Decision, PolicyId, PolicySet};
use miette::Diagnostic;
use proptest::prelude::*;
use serde_json::json;

use super::{
    Denial, Draft, Finding, Permit, Policies, Shadow,
    check::Estate,
    explain::Answer,
    fixtures::{NOON, arguments, caller, demo, demo_upstreams, named, shipped, tool, tool_rule, upstream},
    load, parse,
};
use crate::{
    catalog::Definition,
    clock::Timestamp,
    config::{Problem, Source, TargetRule, UpstreamId},
    identity::{Binding, Identity},
    refusal::{Login, Refusal},
};

fn policies(text: &str) -> Policies {
    Policies::parse(vec![Source::new("test.cedar", text)]).unwrap()
}

fn faults(text: &str) -> Vec<String> {
    Policies::parse(vec![Source::new("test.cedar", text)]).unwrap_err().iter().map(shown).collect()
}

/// Message, help, and the text underlined.
fn shown(problem: &Problem) -> String {
    let underlined: Vec<String> = problem
        .labels()
        .unwrap()
        .map(|label| {
            let span = problem.source_code().unwrap().read_span(label.inner(), 0, 0).unwrap();
            let text = String::from_utf8_lossy(span.data()).into_owned();
            format!("{}:{}: {text}", span.name().unwrap_or_default(), span.line().saturating_add(1))
        })
        .collect();
    let help = problem.help().map(|help| help.to_string()).unwrap_or_default();
    format!("{problem} | {help} | {}", underlined.join(" & "))
}

fn decide(policies: &Policies, who: &Identity, tool: &Definition, input: serde_json::Value) -> Result<Permit, Denial> {
    policies.decide(who, tool, Some(arguments(input).root()), NOON)
}

fn refusal(result: Result<Permit, Denial>) -> Refusal {
    result.unwrap_err().refusal
}

#[test]
fn what_no_policy_permits_does_not_exist() {
    let tools = demo();
    let find = named(&tools, "crm/find_customer");
    let who = caller("alice", Some("acme"), &["staff"], &[]);
    let none = policies("");
    assert_eq!(
        refusal(decide(&none, &who, &find, json!({"query": "x"}))),
        Refusal::ToolUnknown("hidden: no policy permits it".to_owned())
    );
    assert!(!none.visible(&who, &find, NOON));
}

#[test]
fn a_forbid_outweighs_every_permit() {
    let tools = demo();
    let find = named(&tools, "crm/find_customer");
    let who = caller("alice", Some("acme"), &["staff"], &[]);
    let set = policies(
        "permit(principal, action, resource); @id(\"no\") forbid(principal in Tenant::\"acme\", action, resource);",
    );
    assert_eq!(
        refusal(decide(&set, &who, &find, json!({}))),
        Refusal::ToolUnknown("hidden: forbidden by no".to_owned())
    );
}

#[test]
fn a_forbid_that_fails_denies() {
    let tools = demo();
    let order = named(&tools, "crm/create_order");
    let who = caller("alice", None, &[], &["crm:write"]);
    let by_argument = policies(
        "permit(principal, action, resource); forbid(principal, action, resource) when { context.input.amount > 5 };",
    );
    let input = json!({"customer": "c", "currency": "EUR"});
    assert_eq!(
        refusal(decide(&by_argument, &who, &order, input)),
        Refusal::PolicyFailed("could not evaluate test.cedar:1: there is no attribute `amount`".to_owned())
    );
    let by_caller = policies(
        "permit(principal, action, resource); forbid(principal, action, resource) when { principal.tenant == \"x\" };",
    );
    assert_eq!(
        refusal(decide(&by_caller, &who, &order, json!({}))),
        Refusal::ToolUnknown("hidden: could not evaluate test.cedar:1: there is no attribute `tenant`".to_owned())
    );
    assert!(!by_caller.visible(&who, &order, NOON));
}

/// By the policy and what it did, never by what the caller wrote.
#[test]
fn a_policy_that_fails_is_named_with_the_reason() {
    let tools = demo();
    let order = named(&tools, "crm/create_order");
    let who = caller("alice", None, &[], &["crm:write"]);
    let input = || json!({"customer": "c-42.x", "currency": "EUR", "amount": i64::MAX});
    for (condition, why) in [
        ("context.input.amount + 1 > 5", "integer overflow"),
        ("context.input.customer > 5", "type error: expected long, got string"),
        ("decimal(context.input.customer).lessThan(decimal(\"5.0\"))", "`decimal` takes no such value"),
    ] {
        let set = policies(&format!(
            "@id(\"all\") permit(principal, action, resource); @id(\"one\") forbid(principal, action, resource) when {{ {condition} }};"
        ));
        let denial = decide(&set, &who, &order, input()).unwrap_err();
        assert_eq!(denial.refusal, Refusal::PolicyFailed(format!("could not evaluate one: {why}")), "{condition}");
    }
    // A name that is computed of what the caller wrote is not repeated, whatever it looks like.
    for note in ["amount", "x does not have the attribute `amount`; other: integer overflow"] {
        let tagged = policies(
            "permit(principal, action, resource); forbid(principal, action, resource) when { principal.getTag(context.input.customer) == \"x\" };",
        );
        let denial =
            decide(&tagged, &who, &order, json!({"customer": note, "currency": "EUR", "amount": 1})).unwrap_err();
        let why = "could not evaluate test.cedar:1: an attribute or a tag is missing";
        assert_eq!(denial.refusal, Refusal::PolicyFailed(why.to_owned()));
    }
    let both = policies(
        "forbid(principal, action, resource) when { context.input.amount + 1 > 5 };
        permit(principal, action, resource) when { context.input.amount * 2 > 5 };
        permit(principal, action, resource);",
    );
    let why = "could not evaluate test.cedar:0: integer overflow; test.cedar:1: integer overflow";
    assert_eq!(refusal(decide(&both, &who, &order, input())), Refusal::PolicyFailed(why.to_owned()));
}

#[test]
fn an_argument_that_cannot_be_read_denies_where_a_policy_reads_arguments() {
    let tools = demo();
    let order = named(&tools, "crm/create_order");
    let who = caller("alice", None, &[], &["crm:write"]);
    let input = || json!({"customer": "c", "currency": "EUR", "amount": 10.5});
    let reading = policies("permit(principal, action, resource) when { context.input.customer == \"c\" };");
    assert_eq!(
        refusal(decide(&reading, &who, &order, input())),
        Refusal::PolicyFailed("the argument `amount` is not an integer of 64 bits".to_owned())
    );
    let blind = policies("permit(principal, action, resource);");
    assert!(decide(&blind, &who, &order, input()).is_ok());
    let shadow = policies(
        "permit(principal, action, resource); @id(\"s\") @shadow forbid(principal, action, resource) when { context.input.amount > 1 };",
    );
    let permit = decide(&shadow, &who, &order, input()).unwrap();
    assert_eq!(permit.shadow(), [Finding { policy: "s".into(), outcome: Shadow::Fails, changes: true }]);
}

#[test]
fn a_shadow_policy_is_reported_and_not_enforced() {
    let tools = demo();
    let find = named(&tools, "crm/find_customer");
    let who = caller("alice", Some("acme"), &["staff"], &[]);
    let set = policies(
        "permit(principal, action, resource); @id(\"trial\") @shadow forbid(principal, action, resource) when { context.time.hour == 12 };",
    );
    let permit = decide(&set, &who, &find, json!({})).unwrap();
    assert_eq!(permit.shadow(), [Finding { policy: "trial".into(), outcome: Shadow::Forbids, changes: true }]);
    let later = set.decide(&who, &find, None, Timestamp::from_unix_seconds(1_767_618_000)).unwrap();
    assert_eq!(later.shadow(), []);
    let grant = policies("@id(\"trial\") @shadow permit(principal, action, resource);");
    let denial = decide(&grant, &who, &find, json!({})).unwrap_err();
    assert_eq!(denial.verdict.shadow(), [Finding { policy: "trial".into(), outcome: Shadow::Permits, changes: true }]);
}

#[test]
fn a_shadow_policy_that_reads_arguments_is_reported_where_nothing_permits() {
    let tools = demo();
    let order = named(&tools, "crm/create_order");
    let who = caller("alice", None, &[], &["crm:write"]);
    let input = |amount: serde_json::Value| json!({"customer": "c", "currency": "EUR", "amount": amount});
    let finding = |outcome, changes| Finding { policy: "s".into(), outcome, changes };
    let check = |text: &str, amount: serde_json::Value, expect: &[Finding]| {
        let denial = decide(&policies(text), &who, &order, input(amount)).unwrap_err();
        assert!(matches!(denial.refusal, Refusal::ToolUnknown(_)), "{text}");
        assert_eq!(denial.verdict.shadow(), expect, "{text}");
    };
    let grant = "@id(\"s\") @shadow permit(principal, action, resource) when { context.input.amount < 10 };";
    check(grant, json!(5), &[finding(Shadow::Permits, true)]);
    check(grant, json!(50), &[]);
    check(grant, json!("5"), &[finding(Shadow::Fails, false)]);
    let forbidden = format!("{grant} @id(\"no\") forbid(principal, action, resource);");
    check(&forbidden, json!(5), &[finding(Shadow::Permits, false)]);
    let denial = decide(&policies(&forbidden), &who, &order, input(json!(5))).unwrap_err();
    assert_eq!(denial.verdict.policies(), ["no".into()]);
    // The list of tools knows nothing of what an enforced policy says of the arguments; the report does.
    let bounded = format!("{grant} forbid(principal, action, resource) when {{ context.input.amount > 3 }};");
    check(&bounded, json!(5), &[finding(Shadow::Permits, false)]);
    check(&bounded, json!(2), &[finding(Shadow::Permits, true)]);
    check(&bounded, json!("5"), &[]);
    let blind = "@id(\"s\") @shadow permit(principal, action, resource);
        forbid(principal, action, resource) when { context.input.amount > 3 };";
    check(blind, json!(5), &[finding(Shadow::Permits, false)]);
    check(blind, json!(2), &[finding(Shadow::Permits, true)]);
    // Hidden for a policy that cannot be evaluated while the arguments are not known, whatever is permitted.
    let broken = "@id(\"s\") @shadow permit(principal, action, resource) when { context.input.amount < 10 };
        permit(principal, action, resource) when { context.input.amount > 100 && principal.tenant == \"x\" };";
    check(broken, json!(5), &[finding(Shadow::Permits, false)]);
}

/// Cedar writes some operators by others once a policy is read; what is left without the arguments is made of those.
#[test]
fn what_is_left_without_arguments_is_right_however_a_policy_is_written() {
    let tools = demo();
    let order = named(&tools, "crm/create_order");
    let who = caller("alice", Some("acme"), &["staff"], &["crm:write"]);
    for (condition, seen) in [
        ("when { context.input.amount > 5 }", true),
        ("unless { context.input.amount > 5 }", true),
        ("when { context.input.currency != \"EUR\" }", true),
        ("when { context has input.amount && context.input.amount >= 5 }", true),
        ("when { principal is User in Group::\"staff\" && context.input.amount > 5 }", true),
        ("when { principal is User in Group::\"board\" && context.input.amount > 5 }", false),
        ("unless { principal is User in Group::\"staff\" || context.input.amount > 5 }", false),
        ("unless { principal is User in Group::\"staff\" && context.input.amount > 5 }", true),
        ("when { principal has tenant && principal.tenant != \"acme\" && context.input.amount > 5 }", false),
    ] {
        let set = policies(&format!("permit(principal, action, resource) {condition};"));
        assert!(set.rules.iter().all(|rule| rule.reads.input && rule.listing().is_ok()), "{condition}");
        assert_eq!(set.visible(&who, &order, NOON), seen, "{condition}");
    }
}

/// Whoever follows a task shows no arguments: a policy about them has nothing to fail for.
#[test]
fn a_shadow_policy_that_reads_arguments_does_not_fail_where_there_are_none() {
    let tools = demo();
    let order = named(&tools, "crm/create_order");
    let who = caller("alice", None, &[], &["crm:write"]);
    let set = policies(
        "permit(principal, action, resource); @shadow forbid(principal, action, resource) when { context.input.amount > 1 };",
    );
    assert_eq!(set.follow(&who, &order, NOON).unwrap().shadow(), []);
}

#[test]
fn missing_scopes_are_all_named_and_hide_nothing() {
    let crm = upstream("crm", vec![tool_rule("*", &[], &["b", "a"]), tool_rule("get", &[], &["c"])]);
    let get = tool(&crm, "get", json!({}), &[]);
    let set = policies("permit(principal, action, resource);");
    let who = caller("alice", None, &[], &["a"]);
    assert!(set.visible(&who, &get, NOON));
    assert_eq!(
        refusal(decide(&set, &who, &get, json!({}))),
        Refusal::ScopeInsufficient(vec!["a".to_owned(), "b".to_owned(), "c".to_owned()])
    );
    assert!(decide(&set, &caller("alice", None, &[], &["a", "b", "c"]), &get, json!({})).is_ok());
}

/// RFC 9470: a login that is too weak or too old is told what would do, and hides nothing.
#[test]
fn a_login_that_is_not_enough_is_told_what_is() {
    let rule = |pattern: &str, acr: &[&str], age_max: Option<u64>| TargetRule {
        acr: acr.iter().map(|one| (*one).to_owned()).collect(),
        auth_age_max: age_max.map(Duration::from_secs),
        ..tool_rule(pattern, &[], &[])
    };
    let crm = upstream(
        "crm",
        vec![
            rule("*", &["mfa", "phr", "old"], Some(600)),
            rule("get", &["phr", "mfa"], Some(60)),
            rule("get", &[], Some(900)),
        ],
    );
    let get = tool(&crm, "get", json!({}), &[]);
    assert!(get.steps_up());
    let set = policies("permit(principal, action, resource);");
    let ago = |seconds: u64| Timestamp::from_unix_seconds(NOON.unix_seconds() - seconds);
    let login = Login { acr: vec!["mfa".to_owned(), "phr".to_owned()], age_max_s: Some(60) };
    for (acr, time, fits) in [
        (None, None, false),
        (Some("mfa"), None, false),
        (None, Some(ago(1)), false),
        (Some("pwd"), Some(ago(1)), false),
        (Some("old"), Some(ago(1)), false),
        (Some("mfa"), Some(ago(61)), false),
        (Some("mfa"), Some(ago(60)), true),
        (Some("phr"), Some(ago(0)), true),
    ] {
        let mut who = caller("alice", None, &[], &[]);
        (who.authentication.acr, who.authentication.auth_time) = (acr.map(str::to_owned), time);
        assert!(set.visible(&who, &get, NOON));
        assert_eq!(set.follow(&who, &get, NOON).is_ok(), fits, "{acr:?} {time:?}");
        let decided = decide(&set, &who, &get, json!({}));
        if fits {
            assert!(decided.is_ok(), "{acr:?} {time:?}");
        } else {
            assert_eq!(refusal(decided), Refusal::AuthenticationInsufficient(login.clone()), "{acr:?} {time:?}");
        }
    }
    let answer = set.explain(&caller("alice", None, &[], &[]), &get, None, NOON).answer;
    assert_eq!(answer, Answer::StepUp);
    assert!(set.decide(&caller("bob", None, &[], &[]), &tool(&crm, "other", json!({}), &[]), None, NOON).is_err());
}

#[test]
fn policies_read_how_the_caller_was_proven() {
    let tools = demo();
    let find = named(&tools, "crm/find_customer");
    let recent = policies(
        "permit(principal, action, resource) when { context.authn has auth_time && \
         context.time.now.durationSince(context.authn.auth_time) <= duration(\"10m\") };",
    );
    let bound = policies("permit(principal, action, resource) when { context.authn.binding == \"dpop\" };");
    let mut who = caller("alice", None, &[], &[]);
    assert!(decide(&recent, &who, &find, json!({})).is_err());
    assert!(decide(&bound, &who, &find, json!({})).is_err());
    who.authentication.auth_time = Some(Timestamp::from_unix_seconds(NOON.unix_seconds() - 600));
    who.authentication.binding = Binding::Key("thumbprint".to_owned());
    who.class = [7; 32];
    assert!(decide(&recent, &who, &find, json!({})).is_ok());
    assert!(decide(&bound, &who, &find, json!({})).is_ok());
}

#[test]
fn tags_group_tools_and_the_permit_names_what_it_is_for() {
    let tools = demo();
    let set = policies("@id(\"w\") permit(principal, action in Action::\"write\", resource == Upstream::\"notes\");");
    let who = caller("alice", None, &[], &[]);
    let (note, order) = (named(&tools, "notes/write_note"), named(&tools, "crm/create_order"));
    let permit = decide(&set, &who, &note, json!({})).unwrap();
    assert_eq!(permit.policies(), [Arc::from("w")]);
    assert_eq!(permit.policy_set(), set.digest());
    assert!(permit.is_for(&who, &note) && !permit.is_for(&who, &order));
    assert!(!permit.is_for(&caller("bob", None, &[], &[]), &note));
    assert!(!set.visible(&who, &order, NOON) && !set.visible(&who, &named(&tools, "notes/read_note"), NOON));
}

#[test]
fn a_tool_is_shown_where_some_arguments_could_be_allowed() {
    let tools = demo();
    let order = named(&tools, "crm/create_order");
    let support = "permit(principal, action, resource) when { principal.groups.contains(\"support\") && context.input.amount < 5 };";
    let set = policies(support);
    assert!(set.visible(&caller("a", None, &["support"], &[]), &order, NOON));
    assert!(!set.visible(&caller("a", None, &["staff"], &[]), &order, NOON));
    let forbidden =
        policies(&format!("{support} forbid(principal, action, resource) unless {{ context.input.amount > 1 }};"));
    assert!(forbidden.visible(&caller("a", None, &["support"], &[]), &order, NOON));
}

#[test]
fn the_agent_decides_as_the_user_does_and_issuers_do_not_mix() {
    let tools = demo();
    let find = named(&tools, "crm/find_customer");
    let set = policies(
        "permit(principal == Agent::\"https://issuer.example#desk\", action, resource); permit(principal == User::\"https://issuer.example#alice\", action, resource);",
    );
    let mut other = caller("alice", None, &[], &[]);
    assert!(set.visible(&caller("", None, &[], &[]), &find, NOON));
    assert!(set.visible(&other, &find, NOON));
    other.user.as_mut().unwrap().issuer = "https://other.example".to_owned();
    other.class = [7; 32];
    assert!(!set.visible(&other, &find, NOON));
}

#[test]
fn faults_in_policy_files_are_all_said_with_their_place() {
    insta::assert_snapshot!(
        faults(
            "@id(\"a\") permit(principal, action, resource);\n@id(\"a\") forbid(principal, action, resource);\n\
             @shadwo permit(principal, action, resource);\n@confirm(\"sure?\") permit(principal, action, resource);\n\
             permit(principal == ?principal, action, resource);\n@shadow(\"x\") permit(principal, action, resource);\n"
        )
        .join("\n")
    );
    insta::assert_snapshot!(faults("permit(principal, action resource);\n").join("\n"));
}

#[test]
fn a_policy_that_names_what_is_not_there_fails_its_check() {
    let (tools, upstreams) = (demo(), demo_upstreams());
    let estate = Estate { upstreams: &upstreams, tools: &tools, unread: &[] };
    let found = |text: &str| policies(text).check(&estate).iter().map(shown).collect::<Vec<_>>().join("\n");
    let all = [
        "permit(principal, action == Action::\"crm/create_ordr\", resource);",
        "permit(principal, action == Action::\"crm/create_order\", resource) when { context.input.amout < 5 };",
        "permit(principal, action == Action::\"crm/create_order\", resource) when { context.input.amount < \"5\" };",
        "permit(principal, action, resource == Upstream::\"crn\");",
        "permit(principal, action, resource) when { principal.tenant == \"acme\" };",
        "permit(principal, action, resource) when { principal.scope == \"acme\" };",
        "permit(principal, action == Action::\"crm/create_order\", resource) when { context.tool == 1 };",
    ];
    insta::assert_snapshot!(all.map(found).join("\n\n"));
    let notes: Vec<UpstreamId> = upstreams.keys().skip(1).cloned().collect();
    let unread = Estate { upstreams: &upstreams, tools: &tools[..3], unread: &notes };
    let problems = policies("permit(principal, action == Action::\"notes/gone\", resource);").check(&unread);
    assert!(problems.len() == 1 && problems.iter().all(|problem| !problem.is_error()), "{problems:?}");
}

/// Reading tells it, and nothing decides with such a set; typing has nothing to add.
#[test]
fn an_id_that_is_taken_is_told_once() {
    let (tools, upstreams) = (demo(), demo_upstreams());
    let estate = Estate { upstreams: &upstreams, tools: &tools, unread: &[] };
    let text = "@id(\"a\") permit(principal, action, resource); @id(\"a\") forbid(principal, action, resource);";
    let draft = Draft::of((vec![Source::new("test.cedar", text)], Vec::new()));
    assert_eq!(draft.problems().len(), 1);
    let typed: Vec<String> = draft.check(&estate).iter().map(shown).collect();
    assert_eq!(typed, Vec::<String>::new());
}

#[test]
fn a_tag_is_known_while_nobody_who_carries_it_can_be_read() {
    let (tools, upstreams) = (demo(), demo_upstreams());
    let ids: Vec<UpstreamId> = upstreams.keys().cloned().collect();
    let writes = policies("@id(\"w\") permit(principal, action in Action::\"write\", resource);");
    let said = |tools: &[Arc<Definition>], unread: &[UpstreamId]| {
        let problems = writes.check(&Estate { upstreams: &upstreams, tools, unread });
        assert!(problems.iter().all(|problem| !problem.is_error()), "{problems:?}");
        problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
    };
    assert_eq!(said(&tools, &[]), "");
    // The other upstream's tools carry it too, so there is something to check against.
    assert_eq!(said(&tools[..3], &ids[1..]), "");
    assert_eq!(said(&[], &ids), "`w` is not checked: the tools of `crm` could not be read");
    // Read, and no tool is what the rule is about: the tag is still no misspelling.
    assert!(said(&tools[3..4], &[]).contains("impossible"), "{}", said(&tools[3..4], &[]));
    let misspelt = policies("permit(principal, action in Action::\"wrote\", resource);");
    assert!(misspelt.check(&Estate { upstreams: &upstreams, tools: &[], unread: &ids }).iter().any(Problem::is_error));
}

#[test]
fn everything_that_ships_loads_fits_and_holds() {
    let (tools, upstreams) = (demo(), demo_upstreams());
    let estate = Estate { upstreams: &upstreams, tools: &tools, unread: &[] };
    let set = Policies::load(&shipped()).unwrap();
    let problems: Vec<String> = set.check(&estate).iter().map(shown).collect();
    assert_eq!(problems, Vec::<String>::new());
    let report = set.test(&load::sources(&shipped(), ".test.toml").unwrap(), &tools).unwrap();
    let wrong: Vec<String> = report.outcomes.iter().filter_map(|outcome| outcome.problem.as_ref()).map(shown).collect();
    assert_eq!(wrong, Vec::<String>::new());
    assert!(report.outcomes.len() >= 10);
    let committed = std::fs::read_to_string(shipped().join("schema.cedarschema")).unwrap_or_default();
    let generated = estate.schema().unwrap();
    assert!(committed == generated, "policies/schema.cedarschema is not what the catalogue gives:\n{generated}");
}

#[test]
fn a_test_case_that_does_not_hold_says_why() {
    let set = Policies::load(&shipped()).unwrap();
    let case = "[[tests]]\nname = \"wrong\"\nuser = \"a\"\ntenant = \"acme\"\ngroups = [\"support\"]\nscopes = [\"crm:write\"]\n\
                tool = \"crm/create_order\"\narguments = { customer = \"c\", amount = 2000, currency = \"EUR\" }\nexpect = \"allow\"\n";
    let report = set.test(&[Source::new("wrong.test.toml", case)], &demo()).unwrap();
    assert_eq!(report.failures(), 1);
    insta::assert_snapshot!(
        report
            .outcomes
            .iter()
            .filter_map(|outcome| outcome.problem.as_ref())
            .map(shown)
            .collect::<String>()
            .replace(&**set.digest(), "DIGEST")
            .replace(&shipped().display().to_string(), "policies")
    );
    let broken = set.test(&[Source::new("broken.test.toml", "[[tests]]\nname = 1\n")], &demo()).unwrap_err();
    assert_eq!(broken.len(), 1);
}

#[test]
fn an_explanation_counts_what_it_leaves_out() {
    let set = Policies::load(&shipped()).unwrap();
    let order = named(&demo(), "crm/create_order");
    let who = caller("bob", Some("acme"), &["support"], &["crm:write"]);
    let input = arguments(json!({"customer": "c", "amount": 5, "currency": "EUR"}));
    let explanation = set.explain(&who, &order, Some(input.root()), NOON);
    assert_eq!(explanation.answer, Answer::Allow);
    assert_eq!(explanation.considered.len() + explanation.out_of_scope, set.len());
    assert_eq!(explanation.decided, [Arc::from("support-small-orders")]);
}

/// Policies that cover every kind of scope and condition, over a small world in which they meet.
fn policy() -> impl Strategy<Value = String> {
    let principal = prop_oneof![
        Just("principal".to_owned()),
        Just("principal is User".to_owned()),
        Just("principal is Agent".to_owned()),
        "[ab]".prop_map(|group| format!("principal in Group::\"{group}\"")),
        "[ab]".prop_map(|group| format!("principal is User in Group::\"{group}\"")),
        "[xy]".prop_map(|tenant| format!("principal in Tenant::\"{tenant}\"")),
        Just("principal == User::\"https://issuer.example#u\"".to_owned()),
        Just("principal == Group::\"a\"".to_owned()),
    ];
    let action = prop_oneof![
        Just("action".to_owned()),
        Just("action in Action::\"tools/call\"".to_owned()),
        Just("action == Action::\"tools/call\"".to_owned()),
        "(write|read)".prop_map(|tag| format!("action in Action::\"{tag}\"")),
        "(crm|notes)/(t|u)".prop_map(|tool| format!("action == Action::\"{tool}\"")),
        "(crm|notes)/(t|u)".prop_map(|tool| format!("action in [Action::\"{tool}\", Action::\"write\"]")),
    ];
    let resource = prop_oneof![
        Just("resource".to_owned()),
        Just("resource is Upstream".to_owned()),
        "(crm|notes)".prop_map(|id| format!("resource == Upstream::\"{id}\"")),
        "(crm|notes)".prop_map(|id| format!("resource in Upstream::\"{id}\"")),
        "(crm|notes)".prop_map(|id| format!("resource is Upstream in Upstream::\"{id}\"")),
    ];
    let condition = prop_oneof![
        3 => Just(String::new()),
        3 => expression().prop_map(|body| format!("when {{ {body} }}")),
        1 => expression().prop_map(|body| format!("unless {{ {body} }}")),
        1 => (expression(), expression()).prop_map(|(left, right)| format!("when {{ {left} }} unless {{ {right} }}")),
    ];
    let effect = prop_oneof![2 => Just("permit"), 1 => Just("forbid")];
    (effect, principal, action, resource, condition)
        .prop_map(|(effect, who, what, on, when)| format!("{effect}({who}, {what}, {on}) {when};"))
}

fn expression() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        "[ab]".prop_map(|group| format!("principal.groups.contains(\"{group}\")")),
        "[xy]".prop_map(|tenant| format!("(principal has tenant && principal.tenant == \"{tenant}\")")),
        (0..4).prop_map(|limit| format!("(context.input has n && context.input.n > {limit})")),
        Just("context.input has n".to_owned()),
        Just("context.time.hour == 12".to_owned()),
        Just("context.agent.client_id == \"desk\"".to_owned()),
        "(write|read)".prop_map(|tag| format!("action in Action::\"{tag}\"")),
        "(crm|notes)".prop_map(|id| format!("resource == Upstream::\"{id}\"")),
        Just("true".to_owned()),
    ];
    leaf.prop_recursive(3, 12, 2, |inner| {
        let pair = (inner.clone(), inner.clone());
        prop_oneof![
            pair.clone().prop_map(|(left, right)| format!("({left} && {right})")),
            pair.prop_map(|(left, right)| format!("({left} || {right})")),
            inner.clone().prop_map(|one| format!("!({one})")),
            (inner.clone(), inner.clone(), inner)
                .prop_map(|(test, then, other)| format!("(if {test} then {then} else {other})")),
        ]
    })
}

fn anyone() -> impl Strategy<Value = Identity> {
    let user = prop_oneof![Just("u"), Just("v"), Just("")];
    let tenant = prop_oneof![Just(None), Just(Some("x")), Just(Some("y"))];
    let groups = prop_oneof![Just(vec![]), Just(vec!["a"]), Just(vec!["b"]), Just(vec!["a", "b"])];
    (user, tenant, groups).prop_map(|(user, tenant, groups)| caller(user, tenant, &groups, &[]))
}

#[test]
fn a_file_is_read_one_policy_at_a_time_and_says_the_same() {
    let text = concat!(
        "// a comment; with a semicolon, a \" and no end\n@id(\"one;\")\npermit (principal, action, resource) ",
        "when { context.tenant == \"a\\\"; // b\" };// permit (principal, action, resource);\r",
        "forbid (principal, action, resource) when { context.tenant like \"\\\\\" };\n\n",
        "permit (principal, action == Action::\"up/é;\", resource); // permit (principal, action, resource);\n",
    );
    let whole: PolicySet = text.parse().unwrap();
    let (rules, problems) = parse::rules(&[Source::new("any.cedar", text)]);
    assert!(problems.is_empty(), "{problems:?}");
    let ids: Vec<&str> = rules.iter().map(|rule| &*rule.id).collect();
    assert_eq!(ids, ["one;", "any.cedar:1", "any.cedar:2"]);
    assert_eq!(rules.len(), whole.policies().count());
    for (place, rule) in rules.iter().enumerate() {
        let other = whole.policy(&PolicyId::new(format!("policy{place}"))).unwrap();
        assert_eq!(rule.policy, other.new_id(rule.policy.id().clone()));
        assert_eq!(rule.span, other.as_ref().loc().map(|location| location.span));
    }
}

#[test]
fn a_problem_far_down_in_a_file_is_shown_where_it_is() {
    let good = "permit (principal, action, resource);\n".repeat(3);
    for bad in ["permit (principal, action);", "permit (principal, action, resource) when { \"open };", "@x permit"] {
        let (rules, problems) = parse::rules(&[Source::new("any.cedar", format!("{good}{bad}\n"))]);
        assert_eq!((rules.len(), problems.is_empty()), (3, false), "{bad}");
        assert!(problems.iter().all(|problem| problem.order().1 >= good.len()), "{bad}: {problems:?}");
    }
}

proptest! {
    /// The slices, the caches and the first look without arguments change nothing: a call is allowed exactly where
    /// Cedar, given every policy, allows it without a fault.
    #[test]
    fn slicing_decides_as_the_full_set_does(
        texts in prop::collection::vec(policy(), 0..12),
        who in prop::collection::vec(anyone(), 1..4),
        n in prop::option::of(0..5_i64),
    ) {
        let rules = [tool_rule("t", &["write"], &[]), tool_rule("u", &["read"], &[])].to_vec();
        let number = || json!({ "n": { "type": "integer" } });
        let tools: Vec<_> = ["crm", "notes"]
            .into_iter()
            .flat_map(|id| ["t", "u"].map(|name| tool(&upstream(id, rules.clone()), name, number(), &[])))
            .collect();
        let set = policies(&texts.join("\n"));
        let whole = PolicySet::from_policies(set.rules.iter().map(|rule| rule.policy.clone())).unwrap();
        let input = arguments(n.map_or(json!({}), |n| json!({ "n": n })));
        // Twice, so that the second round is answered from the caches.
        for (who, tool) in who.iter().chain(&who).flat_map(|who| tools.iter().map(move |tool| (who, tool))) {
            let slice = set.slice(who, tool).unwrap();
            let full = super::vocabulary::context_with(
                &super::vocabulary::context_of(who).unwrap(),
                Some(super::input::read(&super::input::fields(&tool.input_schema), Some(input.root())).unwrap()),
                Some(NOON),
            ).unwrap();
            let entities = set.vocabulary.entities(who, tool).unwrap();
            let response = Authorizer::new().is_authorized(&slice.request(full).unwrap(), &whole, &entities);
            prop_assert_eq!(response.diagnostics().errors().count(), 0);
            let decision = set.decide(who, tool, Some(input.root()), NOON);
            prop_assert_eq!(response.decision() == Decision::Allow, decision.is_ok());
            if let Ok(permit) = &decision {
                let mut deciding: Vec<String> = response.diagnostics().reason().map(|id| id.to_string()).collect();
                deciding.sort_unstable();
                let own: Vec<String> = permit.policies().iter().map(|id| id.to_string()).collect();
                prop_assert_eq!(own, deciding);
                prop_assert!(set.visible(who, tool, NOON));
            }
            let hidden = matches!(&decision, Err(Denial { refusal: Refusal::ToolUnknown(_), .. }));
            prop_assert_eq!(hidden, !set.visible(who, tool, NOON));
        }
        for who in &who {
            let mut sight = set.sight(who, NOON);
            for tool in tools.iter().rev().chain(&tools) {
                prop_assert_eq!(sight.sees(tool), set.visible(who, tool, NOON));
            }
        }
    }

    #[test]
    fn no_policy_text_makes_the_reader_panic(text in ".{0,200}") {
        drop(Policies::parse(vec![Source::new("any.cedar", &text)]));
        drop(parse::rules(&[Source::new("any.cedar", format!("{text};"))]));
    }
}
