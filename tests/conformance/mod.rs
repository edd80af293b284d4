//! Does the official conformance suite find a difference between a server and the same server behind the gateway?
//!
//! Every scenario runs against the fixture server directly and through `/mcp/{upstream}`. What passes directly passes
//! through the gateway, but for what the lists below name. When something of [`NOT_YET`] begins to pass, it has to be
//! shortened.

use std::{collections::BTreeMap, fs, path::Path};

use serde_json::Value;

use crate::harness::{
    gateway::{ALLOW_ALL, Setup},
    issuer::Issuer,
    peer::{self, Suite},
};

/// What the gateway does not do, by the beginning of `scenario/check`: come back to an upstream's stream that broke.
const NOT_YET: [&str; 1] = ["server-sse-polling/"];

/// What the fixture cannot do in the older era. Only the newer one has an error for a capability that the client lacks,
/// capabilities in a request, and names for what is asked: with a legacy server behind it the gateway has nothing to pass
/// on. And of a change the fixture says a word in the newer era only.
const NOT_IN_THE_OLDER_ERA: [&str; 7] = [
    "input-required-result-basic-elicitation/sep-2322-elicitation-complete",
    "input-required-result-basic-elicitation/sep-2322-elicitation-incomplete",
    "input-required-result-capability-check/sep-2322-respect-client-capabilities",
    "server-stateless/sep-2575-missing-capability-http-400",
    "server-stateless/sep-2575-server-rejects-undeclared-capability",
    "server-stateless/sep-2575-server-sends-prompts-list-changed-on-subscription",
    "server-stateless/sep-2575-server-sends-tools-list-changed-on-subscription",
];

/// What the fixture's own code cannot do in the newer era, by the beginning of `scenario/check`: ask in the middle of a
/// call.
const NOT_IN_THE_NEWER_ERA: [&str; 3] = ["elicitation-", "tools-call-elicitation/", "tools-call-sampling/"];

/// The scenario answers what nobody asked: policy judged none of it, and it goes nowhere.
const NOT_UNASKED: &str = "input-required-result-ignore-extra-params/sep-2322-ignore-unexpected-params";

/// What the suite appends to a folder's name.
const STAMP: &str = "-2026-11-21T11-45-46-679Z";

/// What a run found: by `scenario/check`, the status.
type Found = BTreeMap<String, String>;

fn found(folder: &Path) -> Found {
    let mut found = Found::new();
    for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let Ok(text) = fs::read_to_string(entry.path().join("checks.json")) else { continue };
        let name = entry.file_name().into_string().unwrap();
        let scenario = name[..name.len() - STAMP.len()].strip_prefix("server-").unwrap();
        let checks: Vec<Value> = serde_json::from_str(&text).unwrap();
        for check in checks {
            let id = check["id"].as_str().unwrap().to_owned();
            let status = check["status"].as_str().unwrap().to_owned();
            let text = if status == "FAILURE" { format!("FAILURE {}", check["errorMessage"]) } else { status };
            // One check may be made several times: the worst counts.
            let known = found.entry(format!("{scenario}/{id}")).or_insert_with(|| text.clone());
            if text.starts_with("FAILURE") {
                *known = text;
            }
        }
    }
    found
}

fn count(found: &Found, status: &str) -> usize {
    found.values().filter(|known| known.starts_with(status)).count()
}

fn through_is_as_good_as_direct(name: &str, suite: Suite, arguments: &[&str]) {
    let setup = Setup::new(name);
    let folder = setup.folder().to_owned();
    let server = peer::fixture(&folder);
    let run = |leg: &str, url: &str, token: Option<&str>| {
        let folder = folder.join(leg);
        fs::create_dir(&folder).unwrap();
        suite.run(&folder, url, token, arguments);
        found(&folder)
    };
    let direct = run("direct", &server.url(), None);
    assert!(count(&direct, "SUCCESS") > 0, "{name}: the suite did not run");
    let issuer = Issuer::good();
    let setup = setup.issuer(&issuer.url()).policy("allow.cedar", ALLOW_ALL);
    let legacy = "era = \"legacy\"\ngrant = { strategy = \"none\" }";
    let setup = setup.open_upstream("modern", &server.url()).upstream("legacy", &server.url(), legacy);
    let gateway = setup.start();
    for id in ["modern", "legacy"] {
        gateway.client_of(Some(id), &issuer, "alice").awaiting("test_simple_text");
        let url = gateway.endpoint(Some(id));
        let through = run(id, &url, Some(&issuer.token("alice", &url)));
        eprintln!(
            "{name}, {id} upstream: directly {} checks pass, through the gateway {}; {} and {} fail",
            count(&direct, "SUCCESS"),
            count(&through, "SUCCESS"),
            count(&direct, "FAILURE"),
            count(&through, "FAILURE"),
        );
        // `INFO` is no judgement: whether an answer is a stream, for example, is the server's choice.
        let lost: BTreeMap<&str, &str> = direct
            .iter()
            .filter(|(_, status)| *status == "SUCCESS")
            .map(|(check, _)| (check.as_str(), through.get(check).map_or("was not made", String::as_str)))
            .filter(|(_, status)| !["SUCCESS", "INFO"].contains(status))
            .collect();
        let known = |check: &str| {
            let older = id == "legacy" && NOT_IN_THE_OLDER_ERA.contains(&check);
            let newer = id == "modern" && NOT_IN_THE_NEWER_ERA.iter().any(|begins| check.starts_with(begins));
            older || newer || check == NOT_UNASKED || NOT_YET.iter().any(|begins| check.starts_with(begins))
        };
        let unexpected: BTreeMap<_, _> = lost.iter().filter(|(check, _)| !known(check)).collect();
        assert!(unexpected.is_empty(), "{name}, {id} upstream: passes directly and not through:\n{unexpected:#?}");
        for begins in NOT_YET {
            let made = direct.iter().any(|(check, status)| status == "SUCCESS" && check.starts_with(begins));
            let still = lost.keys().any(|check| check.starts_with(begins));
            assert!(still || !made, "{name}, {id} upstream: `{begins}` passes now; take it from the list");
        }
    }
}

#[test]
fn nothing_of_the_older_suite_is_lost() {
    through_is_as_good_as_direct("older", Suite::Older, &[]);
}

#[test]
fn nothing_of_the_newer_suite_is_lost_at_2025_11_25() {
    through_is_as_good_as_direct("newer-2025-11-25", Suite::Newer, &["--spec-version", "2025-11-25"]);
}

#[test]
fn nothing_of_the_newer_suite_is_lost_at_2026_07_28() {
    through_is_as_good_as_direct("newer-2026-07-28", Suite::Newer, &["--spec-version", "2026-07-28"]);
}
