//! The command line as an operator meets it: what is printed where, and the exit code.

mod demo;

use std::{fs, path::Path, process::Command};

/// The repository's top level, where the shipped estate and policies are.
fn root() -> String {
    format!("{}/..", env!("CARGO_MANIFEST_DIR"))
}

/// Runs `tollgate` with `line` at the top level; exit code, standard output and standard error in one text.
fn run(line: &str) -> String {
    let arguments: Vec<&str> = line.split(' ').collect();
    let output = Command::new(env!("CARGO_BIN_EXE_tollgate"))
        .args(arguments)
        .current_dir(root())
        .env_clear()
        .env("TOLLGATE_CLIENT_SECRET", "s3cret")
        .env("NOTES_SECRET", "n0tes")
        .output()
        .unwrap();
    let (out, err) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    format!("exit {}\n--- out\n{out}--- err\n{err}", output.status.code().unwrap())
}

#[track_caller]
fn check(line: &str, begins: &str) -> String {
    let shown = run(line);
    assert!(shown.starts_with(begins), "{line}:\n{shown}");
    shown
}

#[test]
fn help_teaches() {
    insta::assert_snapshot!("help", run("--help"));
    for command in
        ["serve", "check", "test", "explain", "tools", "revoke", "revoke user", "audit verify", "audit show", "demo"]
    {
        let name = format!("help_{}", command.replace(' ', "_"));
        insta::assert_snapshot!(name, run(&format!("{command} --help")));
    }
}

#[test]
fn a_wrong_command_line_has_no_answer() {
    check("serv", "exit 2\n--- out\n--- err\n");
    check("explain", "exit 2\n--- out\n--- err\n");
    check("audit verify /no/such/folder", "exit 2\n--- out\n--- err\n");
}

#[test]
fn version_is_that_of_the_crate() {
    let shown = format!("exit 0\n--- out\ntollgate {}\n--- err\n", env!("CARGO_PKG_VERSION"));
    assert_eq!((run("version"), run("--version")), (shown.clone(), shown));
}

#[test]
fn shipped_estate_and_policies_are_right() {
    check("check --offline", "exit 0\n--- out\nnothing is wrong: 2 upstreams,");
    check("check --elsewhere", "exit 0\n--- out\nnothing is wrong: 2 upstreams,");
    check("check --tools tests/cli/tools.json", "exit 0\n--- out\nnothing is wrong: 2 upstreams,");
}

#[test]
fn shipped_policy_tests_hold() {
    let shown = check("test --tools tests/cli/tools.json", "exit 0\n");
    assert!(shown.contains(" hold, 0 do not\n"), "{shown}");
}

#[test]
fn a_call_is_explained() {
    let shown = check(
        "explain --tools tests/cli/tools.json --user bob --tenant acme --group support --scope crm:write \
         --tool crm/create_order --at 2026-01-05T12:00:00Z \
         --arguments {\"customer\":\"c-1\",\"amount\":10,\"currency\":\"EUR\"}",
        "exit 0\n",
    );
    assert!(shown.contains("decided by support-small-orders"), "{shown}");
    let shown = check(
        "explain --tools tests/cli/tools.json --user bob --tenant acme --group support --scope crm:write \
         --tool crm/create_order --at 2026-01-05T12:00:00Z \
         --arguments {\"customer\":\"c-1\",\"amount\":1001,\"currency\":\"EUR\"}",
        "exit 1\n--- out\ndeny: no policy permits this call (default deny)\n",
    );
    assert!(shown.contains("permit support-small-orders at baseline.cedar:17 does not apply"), "{shown}");
    let shown = check("explain --tools tests/cli/tools.json --user eve --tool crm/delete_customer", "exit 1\n");
    assert!(shown.contains("hidden"), "{shown}");
    let shown = check("explain --tools tests/cli/tools.json --tool crm/no_such_tool", "exit 2\n");
    assert!(shown.contains("  crm/create_order\n"), "known tools are told:\n{shown}");
}

#[test]
fn mistakes_in_estate_and_policies_are_told_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let estate = fs::read_to_string(format!("{}/upstreams.toml", root())).unwrap();
    let estate = estate.replace("timeout_ms = 30_000", "timeout = 30").replace("scopes         =", "scope          =");
    write(folder.path(), "upstreams.toml", &estate);
    fs::create_dir(folder.path().join("rules")).unwrap();
    let estate = estate.replace("policies   = \"policies\"", "policies   = \"rules\"");
    write(folder.path(), "upstreams.toml", &estate);
    write(folder.path(), "rules/a.cedar", "@id(\"a\")\npermit (principal, action, resource) whn { true };\n");
    write(folder.path(), "rules/ceilings.toml", "[[ceiling]]\nname = \"x\"\n");
    let shown = run(&format!("check --config {}/upstreams.toml", folder.path().display()));
    let shown = shown.replace(&folder.path().display().to_string(), "");
    insta::assert_snapshot!(shown);
}

fn write(folder: &Path, name: &str, text: &str) {
    fs::write(folder.join(name), text).unwrap();
}

#[test]
fn what_permits_nothing_and_counts_nothing_is_a_warning() {
    let folder = tempfile::tempdir().unwrap();
    let estate = fs::read_to_string(format!("{}/upstreams.toml", root())).unwrap();
    write(folder.path(), "upstreams.toml", &estate);
    fs::create_dir(folder.path().join("policies")).unwrap();
    write(
        folder.path(),
        "policies/ceilings.toml",
        "[[ceilings]]\nname = \"orders\"\nin_flight = 4\nmatch = { upstream = \"crn\" }\n\n\
         [[ceilings]]\nname = \"reports\"\nin_flight = 4\nmatch = { upstream = \"notes\", tool = \"reports\" }\n",
    );
    let shown = run(&format!("check --tools tests/cli/tools.json --config {}/upstreams.toml", folder.path().display()));
    insta::assert_snapshot!(shown.replace(&folder.path().display().to_string(), ""));
}

#[test]
fn a_wrong_estate_is_not_served() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "upstreams.toml", "[gateway]\nlisten = 5\n");
    let file = folder.path().join("upstreams.toml");
    let shown = check(&format!("serve --config {}", file.display()), "exit 1\n--- out\n--- err\n");
    assert!(shown.contains("expected text"), "{shown}");
}
