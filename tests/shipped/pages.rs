//! The pages that people copy from.

use std::{fs, process::Output};

use serde_json::Value;

use super::{blocks, text};
use crate::harness::{gateway::tollgate, place};

/// Each command of the README, and as what it is run here: on the shipped estate, where neither secrets nor servers are.
const COMMANDS: [(&str, &str); 10] = [
    ("cargo run --release -- demo", "demo --once --keep KEPT"),
    ("tests/run", ""),
    ("tollgate check", "check --elsewhere"),
    ("tollgate test", "test --tools tests/cli/tools.json"),
    ("tollgate explain --help", "explain --help"),
    ("tollgate serve", "serve --help"),
    ("tollgate revoke user alice --block", "revoke user --help"),
    ("tollgate keys --help", "keys --help"),
    ("tollgate audit verify DIR", "audit verify KEPT/audit"),
    ("tollgate audit show DIR --user alice --outcome refused", "audit show KEPT/audit --user alice --outcome refused"),
];

fn run(line: &str) -> Output {
    let arguments: Vec<&str> = line.split(' ').collect();
    tollgate(&arguments).current_dir(place::root()).output().unwrap()
}

#[track_caller]
fn check(line: &str) -> String {
    let output = run(line);
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{line}:\n{out}\n{err}");
    out.into_owned()
}

#[test]
fn commands_of_the_readme_run() {
    let kept = place::scratch("readme").join("kept");
    let readme = text("README.md");
    let written: Vec<String> = blocks(&readme, "sh")
        .iter()
        .flat_map(|block| block.lines())
        .map(|line| line.split(" #").next().unwrap().trim().to_owned())
        .collect();
    assert_eq!(written, COMMANDS.map(|(written, _)| written), "a command of the README is not run by this test");
    for (written, run) in COMMANDS.iter().filter(|(_, run)| !run.is_empty()) {
        let out = check(&run.replace("KEPT", &kept.display().to_string()));
        assert!(!out.is_empty(), "{written}");
    }
    assert!(place::root().join("tests/run").exists());
}

/// What the bench's page runs, its script knows and its help explains; and the page has all of it.
#[test]
fn runs_of_the_bench_page_are_known() {
    let (page, script, help) = (text("bench/README.md"), text("bench/run"), text("bench/load.rs"));
    let written = page.lines().filter_map(|line| line.strip_prefix("    bench/run ")?.split_whitespace().next());
    let mut written: Vec<&str> = written.filter(|word| word.chars().all(char::is_alphabetic)).collect();
    let cases = script.lines().filter_map(|line| line.strip_prefix("  ")?.split_once(')').map(|(words, _)| words));
    let mut known: Vec<&str> = cases.flat_map(|words| words.split('|')).map(str::trim).collect();
    written.sort_unstable();
    known.sort_unstable();
    assert_eq!(written, known, "the page, and the script");
    // The other program has a help of its own.
    let unexplained =
        written.iter().filter(|word| **word != "overhead" && !help.contains(&format!("`bench/run {word}`")));
    assert_eq!(unexplained.collect::<Vec<_>>(), Vec::<&&str>::new());
}

/// Policy, ceiling and case of the policies' page, put together, are a folder that holds.
#[test]
fn examples_of_the_policies_page_hold() {
    let page = text("policies/README.md");
    let folder = place::scratch("policies-page");
    let policies = folder.join("policies");
    fs::create_dir(&policies).unwrap();
    fs::write(policies.join("page.cedar"), blocks(&page, "cedar").join("\n")).unwrap();
    let toml = blocks(&page, "toml");
    let [ceilings, cases] = toml.as_slice() else { panic!("{toml:?}") };
    fs::write(policies.join("ceilings.toml"), ceilings).unwrap();
    fs::write(policies.join("page.test.toml"), cases).unwrap();
    fs::write(folder.join("upstreams.toml"), text("upstreams.toml")).unwrap();
    let config = folder.join("upstreams.toml").display().to_string();
    let output = run(&format!("check --tools tests/cli/tools.json --config {config}"));
    let err = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && err.is_empty(), "{err}");
    let out = check(&format!("test --tools tests/cli/tools.json --config {config}"));
    assert!(out.contains("1 hold, 0 do not"), "{out}");
}

/// A SIEM's engineer maps what the page lists, and nothing else.
#[test]
fn the_siem_page_knows_every_member_of_every_record() {
    let page = text("deploy/siem/README.md");
    let snapshot = "gateway/src/audit/snapshots/tollgate__audit__tests__every_event_has_the_form_that_is_promised.snap";
    let records: Vec<Value> =
        text(snapshot).lines().filter_map(|line| serde_json::from_str(line).ok()).filter(Value::is_object).collect();
    assert!(records.len() > 10);
    let mut missing = Vec::new();
    for record in &records {
        for (name, value) in record.as_object().unwrap() {
            let inner = value.as_object().into_iter().flatten().map(|(inner, _)| inner.as_str());
            let named = |member: &&str| ["`", "[", ".", "{"].iter().any(|end| page.contains(&format!("{member}{end}")));
            missing.extend([name.as_str()].into_iter().chain(inner).filter(|member| !named(member)).map(str::to_owned));
        }
    }
    assert!(missing.is_empty(), "{missing:?}");
}

/// The operations page names keys; each is one of `upstreams.toml`.
#[test]
fn keys_of_the_operations_page_exist() {
    let (page, estate) = (text("deploy/README.md"), text("upstreams.toml"));
    let (_, rest) = page.split_once("Some keys are read at start only").unwrap();
    let (part, _) = rest.split_once("\n## ").unwrap();
    let keys = part.split('`').skip(1).step_by(2).filter_map(|word| word.rsplit('.').next());
    let missing: Vec<&str> = keys.filter(|key| *key != "*" && !estate.contains(&format!("# {key} "))).collect();
    assert!(missing.is_empty(), "{missing:?}");
}
