//! `tollgate demo`: the walk that the README promises, as a process.

use std::{fs, time::Duration};

use serde_json::Value;

use crate::harness::{gateway::tollgate, place, process::Process};

/// What a reader has to see, in this order: each step, its answer, and what the journal has of it.
const SEEN: [&str; 23] = [
    "── 1. an allowed call",
    "→ 200",
    "journal: intent   user=alice agent=demo-agent tool=crm__find_customer upstream=crm decision=allow grant=exchange",
    "policies=staff-read",
    "ending=ok status=200 took=",
    "the token that alice's agent sent",
    "aud ",
    "── 2. the same door, a server of MCP 2025-11-25",
    "tool=notes__read_note upstream=notes decision=allow",
    "── 3. a tool that alice may not use",
    "tool_unknown",
    "decision=deny refused=tool_unknown",
    "── 4. a step-up",
    "scope_insufficient",
    "WWW-Authenticate: Bearer",
    "crm:write",
    "ending=ok status=200 took=",
    "── 5. a denial by argument",
    "decision=deny refused=denied",
    "policies=sales-orders",
    "── 6. a ceiling",
    "ceiling_reached",
    "── one line of the journal",
];

#[test]
fn demo_shows_what_it_promises_and_leaves_a_journal_that_verifies() {
    let folder = place::scratch("demo");
    let kept = folder.join("kept");
    let mut command = tollgate(&["demo", "--once", "--keep"]);
    command.arg(&kept);
    let mut demo = Process::start("demo", &folder, command);
    let status = demo.wait(Duration::from_secs(60));
    let (out, err) = (demo.output(), demo.errors());
    assert!(status.success(), "{status}\n{out}\n{err}");
    let mut rest = out.as_str();
    for line in SEEN {
        let Some((_, after)) = rest.split_once(line) else { panic!("`{line}` is not where it belongs:\n{out}") };
        rest = after;
    }
    let verified = tollgate(&["audit", "verify"]).arg(kept.join("audit")).output().unwrap();
    let text = String::from_utf8_lossy(&verified.stdout).into_owned();
    assert!(verified.status.success(), "{text}\n{}", String::from_utf8_lossy(&verified.stderr));

    // The example that the help gives: what it takes out of a record is there.
    let help = tollgate(&["audit", "show", "--help"]).output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    let path = help.split("| jq -r ").nth(1).and_then(|rest| rest.split_whitespace().next()).unwrap();
    let refused = tollgate(&["audit", "show"]).arg(kept.join("audit")).args(["--outcome", "refused"]).output().unwrap();
    let codes: Vec<String> = String::from_utf8(refused.stdout)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .map(|record| record.pointer(&path.replace('.', "/")).unwrap().as_str().unwrap().to_owned())
        .collect();
    assert!(codes.iter().any(|code| code == "ceiling_reached"), "{path}: {codes:?}");

    // A folder that is there is somebody else's.
    let again = tollgate(&["demo", "--once", "--keep"]).arg(&kept).output().unwrap();
    assert_eq!(again.status.code(), Some(2));
    let told = String::from_utf8_lossy(&again.stderr).into_owned();
    assert!(told.contains(&format!("`{}` is there already; name a new folder", kept.display())), "{told}");
    assert!(fs::exists(kept.join("audit")).unwrap());
}
