//! Does the official conformance suite find a difference between a server and the same server behind the gateway?
//!
//! Every scenario runs against the fixture server directly and through `/mcp/{upstream}`. What passes directly passes
//! through the gateway, but for what the lists below name. How many pass stands in `tests/README.md`.

mod authorization;
mod client;
mod grants;
mod tasks;

use std::{collections::BTreeMap, fs, path::Path};

use serde_json::Value;

use crate::harness::{
    gateway::{ALLOW_ALL, Setup},
    issuer::Issuer,
    page::Table,
    peer::{self, Suite},
};

/// How many checks pass, directly and through the gateway.
const SERVER: Table = Table {
    page: "tests/README.md",
    name: "conformance of servers",
    rows: &[
        "0.1.16",
        "0.2.0-alpha.12 at 2025-11-25",
        "0.2.0-alpha.12 at 2026-07-28",
        "0.2.0-alpha.12, what 2025-11-25 requires",
        "0.2.0-alpha.12, what 2026-07-28 requires",
    ],
};

/// What no server can do in the older era: only the newer one has an error for a capability that the client lacks, and
/// names for what is asked. With a legacy server behind it the gateway has nothing to pass on.
const NOT_IN_THE_OLDER_ERA: [&str; 5] = [
    "input-required-result-basic-elicitation/sep-2322-elicitation-complete",
    "input-required-result-basic-elicitation/sep-2322-elicitation-incomplete",
    "input-required-result-ignore-extra-params/sep-2322-ignore-unexpected-params",
    "server-stateless/sep-2575-missing-capability-http-400",
    "server-stateless/sep-2575-server-rejects-undeclared-capability",
];

/// What no server can do in the newer era: break its stream off in the middle of a call, to go on in another.
const NOT_IN_THE_NEWER_ERA: [&str; 3] = [
    "server-sse-polling/server-sse-disconnect-resume",
    "server-sse-polling/server-sse-priming-event",
    "server-sse-polling/server-sse-retry-field",
];

/// What the suite does not judge (`INFO`) of a server that does without what it may do: the gateway gives an answer that
/// comes at once as JSON, and it takes a stream up again that its upstream breaks off, so that the client's goes on.
const NOT_JUDGED: [&str; 2] =
    ["server-sse-multiple-streams/server-sse-streams-functional", "server-sse-polling/server-sse-disconnect-resume"];

/// Scenarios of extensions: the suite runs them beside what is required, the fixture does not have the extensions, and
/// they do not count here.
const EXTENSIONS: [&str; 2] = ["sep-2640-", "tasks-"];

/// What the suite appends to a folder's name.
const STAMP: &str = "-2026-11-21T11-45-46-679Z";

/// What a run found: by `scenario/check`, the status.
type Found = BTreeMap<String, String>;

fn found(folder: &Path) -> Found {
    let mut found = Found::new();
    for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let checks = checks_under(&entry.path());
        if checks.is_empty() {
            continue;
        }
        let name = entry.file_name().into_string().unwrap();
        let scenario = name[..name.len() - STAMP.len()].strip_prefix("server-").unwrap();
        judged(&checks, &format!("{scenario}/"), &mut found);
    }
    found
}

/// What all scenarios under this folder found, by check.
fn found_under(folder: &Path) -> Found {
    let mut found = Found::new();
    judged(&checks_under(folder), "", &mut found);
    found
}

/// The checks that lie under this folder, as they were made.
fn checks_under(folder: &Path) -> Vec<Value> {
    let mut checks = Vec::new();
    let entries = fs::read_dir(folder).into_iter().flatten();
    for entry in entries.map(|entry| entry.unwrap().path()) {
        if entry.is_dir() {
            checks.extend(checks_under(&entry));
        } else if entry.ends_with("checks.json") {
            checks.extend(serde_json::from_str::<Vec<Value>>(&fs::read_to_string(entry).unwrap()).unwrap());
        }
    }
    checks
}

/// Adds checks, under their names after `prefix`.
fn judged(checks: &[Value], prefix: &str, found: &mut Found) {
    for check in checks {
        let id = check["id"].as_str().unwrap().to_owned();
        let status = check["status"].as_str().unwrap().to_owned();
        let text = if status == "FAILURE" { format!("FAILURE {}", check["errorMessage"]) } else { status };
        // One check may be made several times: the worst counts.
        let known = found.entry(format!("{prefix}{id}")).or_insert_with(|| text.clone());
        if text.starts_with("FAILURE") {
            *known = text;
        }
    }
}

fn passed(found: &Found) -> usize {
    found.values().filter(|status| *status == "SUCCESS").count()
}

/// Runs these scenarios directly and through, and holds the `row` of the page against what passed.
fn through_is_as_good_as_direct(row: &str, suite: Suite, arguments: &[&str]) {
    let setup = Setup::new(&row.replace([' ', ','], "-"));
    let folder = setup.folder().to_owned();
    let server = peer::fixture(&folder);
    let run = |leg: &str, url: &str, token: Option<&str>| {
        let folder = folder.join(leg);
        fs::create_dir(&folder).unwrap();
        suite.run(&folder, url, token, arguments);
        let mut found = found(&folder);
        found.retain(|check, _| !EXTENSIONS.iter().any(|begins| check.starts_with(begins)));
        found
    };
    let direct = run("direct", &server.url(), None);
    let issuer = Issuer::good();
    let setup = setup.issuer(&issuer.url()).policy("allow.cedar", ALLOW_ALL);
    let legacy = "era = \"legacy\"\ngrant = { strategy = \"none\" }";
    let setup = setup.open_upstream("modern", &server.url()).upstream("legacy", &server.url(), legacy);
    let gateway = setup.start();
    let through = ["modern", "legacy"].map(|id| {
        gateway.client_of(Some(id), &issuer, "alice").awaiting("test_simple_text");
        let url = gateway.endpoint(Some(id));
        let through = run(id, &url, Some(&issuer.token("alice", &url)));
        only_what_is_known_is_lost(&format!("{row}, {id} upstream"), id, &direct, &through);
        through
    });
    SERVER.has(row, &[&direct, &through[0], &through[1]].map(|found| passed(found).to_string()));
}

fn only_what_is_known_is_lost(name: &str, id: &str, direct: &Found, through: &Found) {
    let failed: Vec<_> = direct.iter().filter(|(_, status)| status.starts_with("FAILURE")).collect();
    assert!(failed.is_empty() && !direct.is_empty(), "{name}: fails directly:\n{failed:#?}");
    let lost: BTreeMap<&str, &str> = direct
        .iter()
        .filter(|(_, status)| *status == "SUCCESS")
        .map(|(check, _)| (check.as_str(), through.get(check).map_or("was not made", String::as_str)))
        .filter(|(_, status)| *status != "SUCCESS")
        .collect();
    let known = |check: &str| {
        let older = id == "legacy" && NOT_IN_THE_OLDER_ERA.contains(&check);
        older || id == "modern" && NOT_IN_THE_NEWER_ERA.contains(&check)
    };
    let known = |check: &str, status: &str| known(check) || status == "INFO" && NOT_JUDGED.contains(&check);
    let unexpected: BTreeMap<_, _> = lost.iter().filter(|(check, status)| !known(check, status)).collect();
    assert!(unexpected.is_empty(), "{name}: passes directly and not through:\n{unexpected:#?}");
}

#[test]
fn nothing_of_the_older_suite_is_lost() {
    through_is_as_good_as_direct("0.1.16", Suite::Older, &["--suite", "all"]);
}

#[test]
fn nothing_of_the_newer_suite_is_lost_at_2025_11_25() {
    let arguments = ["--suite", "all", "--spec-version", "2025-11-25"];
    through_is_as_good_as_direct("0.2.0-alpha.12 at 2025-11-25", Suite::Newer, &arguments);
}

#[test]
fn nothing_of_the_newer_suite_is_lost_at_2026_07_28() {
    let arguments = ["--suite", "all", "--spec-version", "2026-07-28"];
    through_is_as_good_as_direct("0.2.0-alpha.12 at 2026-07-28", Suite::Newer, &arguments);
}

#[test]
fn nothing_that_2025_11_25_requires_is_lost() {
    let arguments = ["--requirements", "2025-11-25"];
    through_is_as_good_as_direct("0.2.0-alpha.12, what 2025-11-25 requires", Suite::Newer, &arguments);
}

#[test]
fn nothing_that_2026_07_28_requires_is_lost() {
    let arguments = ["--requirements", "2026-07-28"];
    through_is_as_good_as_direct("0.2.0-alpha.12, what 2026-07-28 requires", Suite::Newer, &arguments);
}

#[test]
fn the_page_has_no_other_row() {
    SERVER.has_nothing_else();
}
