//! Files change while the gateway runs: all of a change is taken over, or nothing of it.

use std::{fs, time::Duration};

use serde_json::{Value, json};

use super::{refused, text_of};
use crate::harness::{
    gateway::{ALLOW_ALL, Gateway, Setup},
    issuer::Issuer,
    place,
    recorder::{Era, Recorder, Reply, Step},
};

const PATIENCE: Duration = Duration::from_secs(30);

fn change(gateway: &Gateway, event: &str, number: usize) -> Value {
    place::wait_for(&format!("change {number} of {event}"), PATIENCE, || {
        gateway.journal().into_iter().filter(|record| record["event"] == event).nth(number)
    })["change"]
        .clone()
}

#[test]
fn policies_change_between_two_calls_and_a_broken_one_changes_nothing() {
    let issuer = Issuer::good();
    let recorder = Recorder::good(Era::Modern);
    let gateway = Setup::usual("policies", &issuer).open_upstream("up", &recorder.url()).start();
    let file = gateway.setup().folder().join("policies/allow.cedar");
    let alice = gateway.client_of(Some("up"), &issuer, "alice").awaiting("erase");
    assert_eq!(alice.call("erase", &json!({})).status(), 200);

    let narrower = format!("{ALLOW_ALL}@id(\"keep\")\nforbid (principal, action == Action::\"up/erase\", resource);\n");
    place::replace(&file, &narrower);
    let applied = change(&gateway, "policy", 0);
    assert_eq!(applied["outcome"], "applied");
    assert_ne!(applied["digest"], applied["previous"]);
    assert_eq!(refused(&alice.call("erase", &json!({}))).2, "tool_unknown");
    assert_eq!(alice.tools(), ["add", "echo"]);

    place::replace(&file, "permit (principal, action, resource) when { nonsense };\n");
    let rejected = change(&gateway, "policy", 1);
    assert_eq!((&rejected["outcome"], &rejected["previous"]), (&json!("rejected"), &applied["digest"]));
    assert!(rejected["reason"].as_str().is_some_and(|reason| !reason.is_empty()), "{rejected}");
    assert_eq!(alice.tools(), ["add", "echo"], "the last good set stays");
    assert_eq!(gateway.readiness(), 200);

    // A rule taken away is a right taken away: nobody may do anything where nothing is permitted.
    place::replace(&file, "// nothing\n");
    assert_eq!(change(&gateway, "policy", 2)["outcome"], "applied");
    assert_eq!(alice.tools(), Vec::<String>::new());
    place::replace(&file, ALLOW_ALL);
    assert_eq!(change(&gateway, "policy", 3)["outcome"], "applied");
    assert_eq!(alice.call("erase", &json!({})).status(), 200);
    let sets: Vec<Value> = gateway
        .journal()
        .iter()
        .filter(|record| record["event"] == "intent")
        .map(|record| record["decision"]["policy_set"].clone())
        .collect();
    assert_eq!(sets[0], sets[1], "the same rules have the same name");
}

#[test]
fn upstreams_come_and_go_and_a_broken_file_changes_nothing() {
    let issuer = Issuer::good();
    let (one, two) = (Recorder::good(Era::Modern), Recorder::good(Era::Legacy));
    let gateway = Setup::usual("estate", &issuer).open_upstream("one", &one.url()).start();
    let file = gateway.setup().folder().join("upstreams.toml");
    let before = fs::read_to_string(&file).unwrap();
    let alice = gateway.client_of(None, &issuer, "alice").awaiting("one__echo");
    let session = alice.initialize();

    let more = format!("{before}\n[upstreams.two]\nurl = \"{}\"\ngrant = {{ strategy = \"none\" }}\n", two.url());
    place::replace(&file, &more);
    assert_eq!(change(&gateway, "config", 0)["outcome"], "applied");
    let alice = alice.awaiting("two__echo");
    assert_eq!(text_of(&alice.call("two__echo", &json!({}))), "echo {}");
    assert_eq!(text_of(&session.call("one__echo", &json!({}))), "echo {}", "sessions live on");
    let metadata = format!("{}/.well-known/oauth-protected-resource/mcp/two", gateway.setup().origin());
    let document = crate::harness::http::fetch("GET", &metadata, &[], b"");
    assert_eq!((document.status(), &document.json()["resource"]), (200, &json!(gateway.endpoint(Some("two")))));

    place::replace(&file, &more.replace("strategy = \"none\"", "strategy = \"nonsense\""));
    assert_eq!(change(&gateway, "config", 1)["outcome"], "rejected");
    assert_eq!(alice.tools().len(), 6, "the last good estate stays");
    place::replace(&file, "not toml at all [");
    assert_eq!(change(&gateway, "config", 2)["outcome"], "rejected");
    assert_eq!(text_of(&alice.call("two__echo", &json!({}))), "echo {}");

    place::replace(&file, &before);
    assert_eq!(change(&gateway, "config", 3)["outcome"], "applied");
    place::wait_for("the upstream is gone", PATIENCE, || (alice.tools().len() == 3).then_some(()));
    assert_eq!(refused(&alice.call("two__echo", &json!({}))).2, "tool_unknown");
    assert_eq!(text_of(&alice.call("one__echo", &json!({}))), "echo {}");
}

/// A change is no reason to turn callers away, even where the issuer cannot be asked for its keys at the moment.
#[test]
fn keys_that_are_known_survive_a_change_and_what_was_in_force_is_no_longer_kept_up() {
    let issuer = Issuer::good();
    let recorder = Recorder::scripted(Era::Modern, |seen| {
        let listens = seen.rpc_method() == "subscriptions/listen";
        listens.then(|| Reply::stream().step(Step::Pause(Duration::from_secs(60))))
    });
    let gateway = Setup::usual("keys", &issuer).open_upstream("up", &recorder.url()).start();
    let alice = gateway.client_of(Some("up"), &issuer, "alice").awaiting("echo");
    place::wait_for("it listens", PATIENCE, || recorder.seen_method("subscriptions/listen").pop());
    drop(issuer);
    let file = gateway.setup().folder().join("upstreams.toml");
    let before = fs::read_to_string(&file).unwrap();
    place::replace(&file, &before.replace("strategy = \"none\" }", "strategy = \"none\" }\ntimeout_ms = 9000"));
    assert_eq!(change(&gateway, "config", 0)["outcome"], "applied");
    assert_eq!(text_of(&alice.call("echo", &json!({}))), "echo {}");
    place::wait_for("the old estate listens no more", PATIENCE, || (recorder.abandoned() > 0).then_some(()));
}

#[test]
fn operators_are_told_what_is_not_in_force_and_what_does_not_fit() {
    let issuer = Issuer::good();
    let recorder = Recorder::good(Era::Modern);
    let gateway = Setup::usual("told", &issuer).open_upstream("up", &recorder.url()).start();
    let told = |words: &str| {
        place::wait_for(words, PATIENCE, || {
            gateway.process.errors().lines().find(|line| line.contains(words)).map(str::to_owned)
        })
    };
    let folder = gateway.setup().folder();
    let (file, policies) = (folder.join("upstreams.toml"), folder.join("policies/allow.cedar"));
    gateway.client_of(Some("up"), &issuer, "alice").awaiting("echo");
    assert_eq!(gateway.metric("tollgate_policy_problems"), Some(0.0));

    // It decides nothing, because nothing has this name.
    let misspelt = format!("{ALLOW_ALL}@id(\"typo\")\nforbid (principal, action == Action::\"up/ecoh\", resource);\n");
    place::replace(&policies, &misspelt);
    place::wait_for("the policy is counted", PATIENCE, || {
        (gateway.metric("tollgate_policy_problems") == Some(1.0)).then_some(())
    });
    let line = told("a policy does not fit");
    assert!(line.contains("allow.cedar:") && line.contains("up/ecoh"), "{line}");

    place::replace(&policies, "permit (principal, action, resource) when { nonsense };\n");
    let line = told("a change is not taken over");
    assert!(line.contains("allow.cedar:1:"), "{line}");
    assert_eq!(gateway.metric("tollgate_changes_rejected{tollgate_change_subject=\"policy\"}"), Some(1.0));
    place::replace(&policies, ALLOW_ALL);
    place::wait_for("the policies are in force", PATIENCE, || {
        let rejected = gateway.metric("tollgate_changes_rejected{tollgate_change_subject=\"policy\"}");
        (rejected == Some(0.0) && gateway.metric("tollgate_policy_problems") == Some(0.0)).then_some(())
    });

    let before = fs::read_to_string(&file).unwrap();
    place::replace(&file, &before.replacen("[gateway]\n", "[gateway]\ndrain_ms = 7000\n", 1));
    let line = told("not in force before a restart");
    assert!(line.contains("gateway.drain_ms"), "{line}");
    assert!(told("serving").contains(&gateway.setup().origin().replace("http://", "")));
}

#[test]
fn what_was_rejected_is_taken_over_with_what_mends_it() {
    let issuer = Issuer::good();
    let (one, two) = (Recorder::good(Era::Modern), Recorder::good(Era::Modern));
    let gateway = Setup::usual("owed", &issuer).open_upstream("one", &one.url()).start();
    let folder = gateway.setup().folder();
    let (file, policies) = (folder.join("upstreams.toml"), folder.join("policies/allow.cedar"));
    let alice = gateway.client_of(None, &issuer, "alice").awaiting("one__echo");
    let before = fs::read_to_string(&file).unwrap();
    place::replace(&policies, "permit (principal, action, resource) when { nonsense };\n");
    place::replace(
        &file,
        &format!("{before}\n[upstreams.two]\nurl = \"{}\"\ngrant = {{ strategy = \"none\" }}\n", two.url()),
    );
    assert_eq!(change(&gateway, "config", 0)["outcome"], "rejected");
    assert_eq!(alice.tools().len(), 3);
    place::replace(&policies, ALLOW_ALL);
    assert_eq!(change(&gateway, "config", 1)["outcome"], "applied", "nothing of it is left out");
    assert_eq!(text_of(&alice.awaiting("two__echo").call("two__echo", &json!({}))), "echo {}");
    let rejected =
        |subject: &str| gateway.metric(&format!("tollgate_changes_rejected{{tollgate_change_subject=\"{subject}\"}}"));
    assert_eq!(rejected("config"), Some(0.0));
    assert_eq!(rejected("policy"), Some(0.0));
}
