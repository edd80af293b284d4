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
    rmcp_tasks,
};

/// What the gateway does not do, by the beginning of `scenario/check`: come back to an upstream's stream that broke.
const NOT_YET: [&str; 1] = ["server-sse-polling/"];

/// What the fixture cannot be asked in the older era: only the newer one has an error for a capability that the client
/// lacks, and with a legacy server behind it the gateway has nothing to pass on.
const NOT_IN_THE_OLDER_ERA: [&str; 2] = [
    "server-stateless/sep-2575-missing-capability-http-400",
    "server-stateless/sep-2575-server-rejects-undeclared-capability",
];

/// What the fixture's own code cannot do in the newer era, by the beginning of `scenario/check`: ask in the middle of a
/// call.
const NOT_IN_THE_NEWER_ERA: [&str; 3] = ["elicitation-", "tools-call-elicitation/", "tools-call-sampling/"];

/// The scenario answers what nobody asked: policy judged none of it, and it goes nowhere.
const NOT_UNASKED: &str = "input-required-result-ignore-extra-params/sep-2322-ignore-unexpected-params";

/// What a server has to refuse to a client that does not know of tasks, and the gateway does for that client: it follows
/// the task, and gives the result.
const BETTER_THAN_REFUSED: [&str; 2] = [
    "tasks-required-task-error/sep-2663-server-returns-missing-capability-data-shape",
    "tasks-required-task-error/sep-2663-server-returns-missing-capability-when-required",
];

/// The scenarios of the extension, which belong to no revision.
const OF_TASKS: [&str; 10] = [
    "tasks-lifecycle",
    "tasks-capability-negotiation",
    "tasks-wire-fields",
    "tasks-request-state-removal",
    "tasks-mrtr-input",
    "tasks-request-headers",
    "tasks-dispatch-and-envelope",
    "tasks-status-notifications",
    "tasks-required-task-error",
    "tasks-mrtr-composition",
];

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

/// What passes directly and not through.
fn lost<'a>(direct: &'a Found, through: &'a Found) -> BTreeMap<&'a str, &'a str> {
    // `INFO` is no judgement: whether an answer is a stream, for example, is the server's choice.
    direct
        .iter()
        .filter(|(_, status)| *status == "SUCCESS")
        .map(|(check, _)| (check.as_str(), through.get(check).map_or("was not made", String::as_str)))
        .filter(|(_, status)| !["SUCCESS", "INFO"].contains(status))
        .collect()
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
        let lost = lost(&direct, &through);
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

#[test]
fn nothing_of_the_tasks_extension_is_lost() {
    let setup = Setup::new("conformance-tasks");
    let folder = setup.folder().to_owned();
    let server = rmcp_tasks::start();
    let run = |leg: &str, url: &str, token: Option<&str>| {
        let folder = folder.join(leg);
        fs::create_dir(&folder).unwrap();
        for scenario in OF_TASKS {
            Suite::Newer.run(&folder, url, token, &["--scenario", scenario]);
        }
        found(&folder)
    };
    let issuer = Issuer::good();
    let server = format!("{}/mcp", server.origin());
    let setup = setup.issuer(&issuer.url()).policy("allow.cedar", ALLOW_ALL).open_upstream("modern", &server);
    let gateway = setup.start();
    gateway.client_of(Some("modern"), &issuer, "alice").awaiting("greet");
    let url = gateway.endpoint(Some("modern"));
    let direct = run("direct", &server, None);
    let through = run("through", &url, Some(&issuer.token("alice", &url)));
    eprintln!(
        "tasks: directly {} checks pass, through the gateway {}; {} and {} fail",
        count(&direct, "SUCCESS"),
        count(&through, "SUCCESS"),
        count(&direct, "FAILURE"),
        count(&through, "FAILURE"),
    );
    assert!(count(&direct, "SUCCESS") > 20, "{direct:#?}");
    let lost = lost(&direct, &through);
    assert!(lost.keys().eq(&BETTER_THAN_REFUSED), "passes directly and not through:\n{lost:#?}");
}
