//! The command line as an operator meets it: what is printed where, and the exit code.

mod demo;

use std::{fs, path::Path, process::Command};

/// The repository's top level, where the shipped estate and policies are.
fn root() -> String {
    format!("{}/..", env!("CARGO_MANIFEST_DIR"))
}

/// Runs `tollgate` with `line` at the top level; exit code, standard output and standard error in one text.
fn run(line: &str) -> String {
    run_with(line, &[("TOLLGATE_CLIENT_SECRET", "s3cret"), ("NOTES_SECRET", "n0tes")])
}

/// The same, with these variables and no others.
fn run_with(line: &str, variables: &[(&str, &str)]) -> String {
    let arguments: Vec<&str> = line.split(' ').collect();
    let output = Command::new(env!("CARGO_BIN_EXE_tollgate"))
        .args(arguments)
        .current_dir(root())
        .env_clear()
        .envs(variables.iter().copied())
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
    for command in [
        "serve",
        "check",
        "test",
        "explain",
        "tools",
        "keys",
        "keys new",
        "keys list",
        "keys revoke",
        "clients",
        "clients list",
        "clients remove",
        "consents",
        "consents remove",
        "revoke",
        "revoke user",
        "revoke grant",
        "revoke session",
        "revoke lift",
        "audit verify",
        "audit show",
        "demo",
    ] {
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
    assert!(shown.contains("permit support-small-orders at policies/baseline.cedar:17 does not apply"), "{shown}");
    let shown = check("explain --tools tests/cli/tools.json --user eve --tool crm/delete_customer", "exit 1\n");
    assert!(shown.contains("hidden: ") && !shown.contains("hidden: hidden"), "{shown}");
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

/// A file that cannot be read, or not understood, keeps nothing from being told of the others.
#[test]
fn what_is_wrong_in_one_policy_hides_nothing_of_the_others() {
    let folder = tempfile::tempdir().unwrap();
    let estate = fs::read_to_string(format!("{}/upstreams.toml", root())).unwrap();
    write(folder.path(), "upstreams.toml", &estate);
    fs::create_dir(folder.path().join("policies")).unwrap();
    write(folder.path(), "policies/a.cedar", "@id(\"a\")\npermit (principal, action, resource) whn { true };\n");
    let unknown = "@id(\"b\")\npermit (principal, action == Action::\"crm/creat_order\", resource);\n";
    write(folder.path(), "policies/b.cedar", unknown);
    for name in ["c.cedar", "d.cedar"] {
        fs::write(folder.path().join("policies").join(name), b"// \xFF\n").unwrap();
    }
    let shown = run(&format!("check --tools tests/cli/tools.json --config {}/upstreams.toml", folder.path().display()));
    assert!(shown.starts_with("exit 1\n--- out\n--- err\n"), "{shown}");
    for wrong in ["invalid policy condition: whn", "crm/creat_order", "/policies/c.cedar` cannot be read", "/d.cedar`"]
    {
        assert!(shown.contains(wrong), "`{wrong}` is not in\n{shown}");
    }
    assert!(shown.contains("\n4 problems"), "{shown}");
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

#[test]
fn a_revocation_names_an_issuer_that_is_known_and_lasts_as_long_as_it_is_needed() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    fs::create_dir_all(at.join("policies")).unwrap();
    fs::create_dir_all(at.join("state")).unwrap();
    write(at, "upstreams.toml", KEYS);
    let config = format!("--config {}", at.join("upstreams.toml").display());
    let unknown =
        check(&format!("revoke user alice --issuer https://login.example {config}"), "exit 2\n--- out\n--- err\n");
    let told = "no issuer `https://login.example`; there are `https://login.example.com`";
    assert!(unknown.contains(told), "{unknown}");
    let until = |arguments: &str| {
        let shown = run(&format!("revoke user alice --json {arguments} {config}"));
        let shown: serde_json::Value = serde_json::from_str(shown.lines().nth(2).unwrap()).unwrap();
        shown["until"].clone()
    };
    // Its tokens need not say when they were issued.
    assert!(until("--issuer https://login.example.com").is_null());
    assert!(until("--for 1h").is_string());
    write(at, "upstreams.toml", &KEYS.replace("[audit]", "profile = \"rfc9068\"\n[audit]"));
    assert!(until("--why INC-4711").is_string());
    assert!(until("--block").is_null());
}

/// An estate with a folder for keys, which are not accepted yet.
const KEYS: &str = r#"
[gateway]
public_url = "http://127.0.0.1:1"
listen = "127.0.0.1:1"
[[issuers]]
issuer = "https://login.example.com"
algorithms = ["ES256"]
[audit]
directory = "audit"
[state]
directory = "state"
[keys]
enabled = false
[upstreams.crm]
url = "https://crm.internal/mcp"
grant = { strategy = "exchange", token_endpoint = "https://login.example.com/token", audience = "crm", client = { id = "tollgate", secret = { env = "TOLLGATE_CLIENT_SECRET" } } }
"#;

#[test]
fn a_key_is_printed_once_listed_and_revoked() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    fs::create_dir(at.join("policies")).unwrap();
    write(at, "upstreams.toml", KEYS);
    let config = format!("--config {}", at.join("upstreams.toml").display());
    let made =
        check(&format!("keys new --user alice --group b --group a --upstream crm {config}"), "exit 0\n--- out\ntgk_");
    let key = made.lines().nth(2).unwrap();
    let id = key.split('_').nth(1).unwrap();
    assert!(
        made.contains(&format!("key {id}, good until ")) && made.contains("before `[keys] enabled = true`"),
        "{made}"
    );

    let listed = check(&format!("keys list {config}"), &format!("exit 0\n--- out\n{id}  valid    made "));
    assert!(listed.contains(", until "), "{listed}");
    assert!(listed.contains("  user alice  agent api-key  groups a,b  upstreams crm\n"), "{listed}");
    let as_json = run(&format!("keys list --json {config}"));
    let shown: serde_json::Value = serde_json::from_str(as_json.lines().nth(2).unwrap()).unwrap();
    assert_eq!(
        (&shown["id"], &shown["state"], &shown["revoked"]),
        (&id.into(), &"valid".into(), &serde_json::Value::Null)
    );
    assert!(shown.get("key").is_none() && !listed.contains(key) && !as_json.contains(key));

    check(&format!("keys new --user alice {config}"), "exit 0\n");
    let third = check(&format!("keys new --user alice {config}"), "exit 2\n--- out\n--- err\n");
    assert!(third.contains("two keys of this user and agent are valid already"), "{third}");
    // Whoever found a key has no id to give.
    check(&format!("keys revoke {key} {config}"), &format!("exit 0\n--- out\nkey {id} is revoked\n"));
    for _ in 0..2 {
        check(&format!("keys revoke {id} {config}"), &format!("exit 0\n--- out\nkey {id} is revoked already, since "));
    }
    let ended = check(&format!("revoke list {config}"), "exit 0\n");
    assert_eq!(ended.matches(id).count(), 1, "{ended}");
    check(&format!("keys new --user alice {config}"), "exit 0\n");
    check(&format!("keys new --agent robot {config}"), "exit 0\n");
    check(&format!("keys new --agent other {config}"), "exit 0\n");
    let listed = check(&format!("keys list --json {config}"), "exit 0\n");
    let of = |line: &str| serde_json::from_str::<serde_json::Value>(line).ok().map(|key| key["agent"].clone());
    let agents: Vec<serde_json::Value> = listed.lines().filter_map(of).collect();
    assert_eq!(agents, ["api-key", "api-key", "api-key", "robot", "other"]);
    let unknown = check(&format!("keys revoke nobody {config}"), "exit 2\n--- out\n--- err\n");
    assert!(unknown.contains("there is no key `nobody`"), "{unknown}");
    let mistyped = check(&format!("keys revoke {key}x {config}"), "exit 2\n--- out\n--- err\n");
    assert!(mistyped.contains(&format!("its id would be `{id}`")), "{mistyped}");
    assert!(!mistyped.contains(key.split('_').nth(2).unwrap()), "{mistyped}");
    let elsewhere = check(&format!("keys new --agent a --upstream crn {config}"), "exit 2\n--- out\n--- err\n");
    assert!(elsewhere.contains("no upstream `crn`; there are `crm`"), "{elsewhere}");
    let nobody =
        check(&format!("keys new {config}"), "exit 2\n--- out\n--- err\nerror: the following required arguments");
    assert!(nobody.contains("<--user <NAME>|--agent <NAME>>"), "{nobody}");

    write(at, "upstreams.toml", &KEYS.replace("enabled = false", "enabled = true"));
    let warned = check(&format!("check --offline {config}"), "exit 0\n");
    assert!(
        warned.contains("\nnothing is wrong: 1 upstream, 0 policies, not typed against tools; 2 warnings\n"),
        "{warned}"
    );
    assert!(warned.contains("callers with API keys cannot use `crm`"), "{warned}");
    write(at, "upstreams.toml", &KEYS.replace("directory = \"state\"", ""));
    let nowhere = check(&format!("keys list {config}"), "exit 2\n--- out\n--- err\n");
    assert!(nowhere.contains("there is no `state.directory`"), "{nowhere}");
}

#[test]
fn what_is_revoked_is_there_and_what_is_lifted_has_an_id() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    fs::create_dir_all(at.join("policies")).unwrap();
    fs::create_dir_all(at.join("state")).unwrap();
    write(
        at,
        "upstreams.toml",
        &KEYS.replace("[audit]", "profile = \"rfc9068\"\n[audit]").replace("= false", "= true"),
    );
    let config = format!("--config {}", at.join("upstreams.toml").display());
    let unknown = check(&format!("revoke grant --upstream crn {config}"), "exit 2\n--- out\n--- err\n");
    assert!(unknown.contains("no upstream `crn`; there are `crm`"), "{unknown}");
    check(&format!("revoke list {config}"), "exit 0\n--- out\nnothing is revoked\n");

    // Of an issuer whose tokens end no API key can be.
    let revoked = |more: &str| -> serde_json::Value {
        let shown = run(&format!("revoke user alice --json {more} {config}"));
        serde_json::from_str(shown.lines().nth(2).unwrap_or(&shown)).unwrap()
    };
    assert!(revoked("--why INC-1")["until"].is_null());
    let bounded = revoked("--issuer https://login.example.com");
    assert!(bounded["until"].is_string(), "{bounded}");

    let mistyped = check(&format!("revoke lift INC-1 {config}"), "exit 2\n--- out\n--- err\n");
    assert!(mistyped.contains("an id is as `") && mistyped.contains("tollgate revoke list"), "{mistyped}");
    let id = bounded["id"].as_str().unwrap();
    let lift = format!("revoke lift {id} --json {config}");
    check(&lift, &format!("exit 0\n--- out\n{{\"id\":\"{id}\",\"lifted\":true}}\n"));
    check(&lift, &format!("exit 1\n--- out\n{{\"id\":\"{id}\",\"lifted\":false}}\n"));
}

/// What nobody could look at has no answer, neither yes nor no, and one cause is told once.
#[test]
fn what_cannot_be_read_has_no_answer() {
    let tools = "--tools tests/cli/tools.json";
    for line in ["check", "check --elsewhere", "test", "explain --tool crm/create_order", "tools"] {
        let shown = check(&format!("{line} --config /no/such/upstreams.toml"), "exit 2\n--- out\n--- err\n");
        assert!(
            shown.contains("`/no/such/upstreams.toml` cannot be read") && shown.ends_with("\n1 problem\n"),
            "{shown}"
        );
    }
    for (line, code, spared) in [
        ("test", 2, "`--tools FILE` does without"),
        ("explain --tool crm/create_order", 2, "`--tools FILE` does without"),
        ("check", 1, "`--elsewhere` takes them for granted"),
    ] {
        let shown = run_with(line, &[]);
        assert!(shown.starts_with(&format!("exit {code}\n--- out\n--- err\n")), "{shown}");
        assert!(shown.contains("no variable `TOLLGATE_CLIENT_SECRET`") && shown.contains(spared), "{shown}");
    }
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let config = format!("--config {}", at.join("upstreams.toml").display());
    write(at, "upstreams.toml", KEYS);
    let lost = check(&format!("check {tools} {config}"), "exit 1\n--- out\n--- err\n");
    assert!(lost.contains("set `policies` in `[gateway]`") && lost.ends_with("\n1 problem\n"), "{lost}");
    // Here the configuration's own check looks for the folder, and says so alone.
    let lost = check(&format!("check --offline {config}"), "exit 1\n--- out\n--- err\n");
    assert!(lost.contains("no folder `") && lost.ends_with("\n1 problem\n"), "{lost}");
    write(at, "upstreams.toml", "[gateway\n");
    let broken = check(&format!("check {tools} {config}"), "exit 1\n--- out\n--- err\n");
    assert!(!broken.contains("policies"), "{broken}");
    assert!(check(&format!("test {tools} {config}"), "exit 2\n").contains("this is not TOML"));
}

/// A caller has the issuer that the gateway would give them, whoever is first in the configuration.
#[test]
fn keys_and_certificates_have_issuers_of_their_own() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    fs::create_dir(at.join("policies")).unwrap();
    write(at, "upstreams.toml", &KEYS.replace("enabled = false", "enabled = true"));
    write(
        at,
        "policies/main.cedar",
        "@id(\"key\")\npermit (principal == User::\"urn:tollgate:keys#alice\", action, resource);\n\
         @id(\"machine\")\npermit (principal == Agent::\"urn:tollgate:certificates#robot\", action, resource);\n",
    );
    let case = |name: &str, more: &str, expect: &str| {
        format!("[[tests]]\nname = \"{name}\"\ntool = \"crm/create_order\"\nexpect = \"{expect}\"\n{more}\n")
    };
    let cases = case("key", "user = \"alice\"\nmethod = \"api_key\"\npolicy = \"key\"", "allow")
        + &case("machine", "agent = \"robot\"\nmethod = \"certificate\"\npolicy = \"machine\"", "allow")
        + &case("token", "user = \"alice\"", "hidden");
    write(at, "policies/main.test.toml", &cases);
    let config = format!("--tools tests/cli/tools.json --config {}", at.join("upstreams.toml").display());
    check(&format!("test {config}"), "exit 0\n");
    let cases = case("key", "user = \"alice\"\nmethod = \"api_key\"\nissuer = \"https://login.example.com\"", "hidden");
    write(at, "policies/main.test.toml", &cases);
    let wrong = check(&format!("test {config}"), "exit 1\n");
    assert!(wrong.contains("`api_key` has an issuer of its own"), "{wrong}");

    let explain = format!("explain --tool crm/create_order {config}");
    let main = at.join("policies/main.cedar").display().to_string();
    let by_key = check(&format!("{explain} --user alice --method api_key"), "exit 0\n");
    assert!(by_key.contains(&format!("permit key at {main}:1 applies")), "{by_key}");
    check(&format!("{explain} --agent robot --method certificate"), "exit 0\n");
    check(&format!("{explain} --user alice"), "exit 1\n--- out\nhidden: no policy permits it\n");
    check(&format!("{explain} --user alice --issuer https://login.example.com"), "exit 1\n");
    let unknown = check(&format!("{explain} --user alice --issuer https://x"), "exit 2\n--- out\n--- err\n");
    assert!(unknown.contains("no issuer `https://x` by `jwt`; there are `https://login.example.com`"), "{unknown}");
    check(&format!("{explain} --method api_key --issuer https://login.example.com"), "exit 2\n");
    let list = check(&format!("{explain} --user alice --method api_key --arguments [1]"), "exit 2\n--- out\n--- err\n");
    assert!(list.contains("`--arguments` is not a JSON object"), "{list}");

    write(at, "tools.json", "{}");
    let lacking = run(&format!(
        "check --tools {} --config {}",
        at.join("tools.json").display(),
        at.join("upstreams.toml").display()
    ));
    assert!(lacking.contains("tools.json` lacks it: write it anew with `tollgate tools`"), "{lacking}");
    assert!(!lacking.contains("start it, or mend"), "{lacking}");
}

#[test]
fn what_the_journal_cannot_be_asked_is_refused() {
    let gone = check("audit show /no/such/journal", "exit 2\n--- out\n--- err\n");
    assert!(gone.contains("`/no/such/journal`: "), "{gone}");
    let other = check("audit show policies", "exit 2\n--- out\n--- err\n");
    assert!(other.contains("`policies`: no lanes: not a journal's folder"), "{other}");
    for (line, known) in
        [("--outcome bogus", "tool_error"), ("--event bogus", "revocation"), ("--since tomorrow", "or as how long ago")]
    {
        let shown = check(&format!("audit show policies {line}"), "exit 2\n--- out\n--- err\n");
        assert!(shown.contains(known), "{shown}");
    }
}
