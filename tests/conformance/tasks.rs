//! Does the suite find a difference between a server that has tasks and the same server behind the gateway?
//!
//! The scenarios of the extension `io.modelcontextprotocol/tasks`, which belong to no revision.

use std::fs;

use super::{Found, found, passed};
use crate::harness::{
    gateway::{ALLOW_ALL, Setup},
    issuer::Issuer,
    page::Table,
    peer::Suite,
    rmcp_tasks,
};

const TASKS: Table = Table { page: "tests/README.md", name: "conformance of tasks", rows: &["0.2.0-alpha.12, tasks"] };

const SCENARIOS: [&str; 10] = [
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

/// What a server has to refuse to a client that does not know of tasks, and the gateway does for that client: it follows
/// the task, and gives the result.
const BETTER_THAN_REFUSED: [&str; 2] = [
    "tasks-required-task-error/sep-2663-server-returns-missing-capability-data-shape",
    "tasks-required-task-error/sep-2663-server-returns-missing-capability-when-required",
];

#[test]
fn nothing_of_the_tasks_extension_is_lost() {
    let setup = Setup::new("conformance-tasks");
    let folder = setup.folder().to_owned();
    let server = rmcp_tasks::start();
    let run = |leg: &str, url: &str, token: Option<&str>| -> Found {
        let folder = folder.join(leg);
        fs::create_dir(&folder).unwrap();
        for scenario in SCENARIOS {
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
    let passes = |found: &Found, check: &str| found.get(check).is_some_and(|status| status == "SUCCESS");
    let lost: Vec<_> = direct.keys().filter(|check| passes(&direct, check) && !passes(&through, check)).collect();
    assert_eq!(lost, BETTER_THAN_REFUSED, "passes directly and not through:\n{through:#?}");
    TASKS.has("0.2.0-alpha.12, tasks", &[&direct, &through].map(|found| passed(found).to_string()));
    TASKS.has_nothing_else();
}
