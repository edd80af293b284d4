//! The unit and the image, as far as they can be held against the program without installing them.

use std::{fs, process::Command};

use super::text;
use crate::harness::{gateway::tollgate, place};

/// Every option of a command line is one that the command knows.
#[track_caller]
fn accepted(line: &[&str]) {
    let (command, options) = line.split_first().unwrap();
    let output = tollgate(&[command, "--help"]).output().unwrap();
    assert!(output.status.success(), "`tollgate {command}` is not a command");
    let help = String::from_utf8(output.stdout).unwrap();
    for option in options.iter().filter(|word| word.starts_with("--")) {
        assert!(help.split([' ', '\n']).any(|word| word == *option), "`tollgate {command}` has no `{option}`:\n{help}");
    }
}

#[test]
fn the_unit_starts_the_program_as_it_is() {
    let unit = text("deploy/systemd/tollgate.service");
    let lines: Vec<&str> = unit.lines().filter_map(|line| line.strip_prefix("ExecStart")).collect();
    assert_eq!(lines.len(), 2);
    for line in lines {
        let words: Vec<&str> = line.split_once('=').unwrap().1.split(' ').collect();
        assert_eq!(words[0], "/usr/local/bin/tollgate");
        accepted(&words[1..]);
    }
    for line in ["DynamicUser=yes", "StateDirectory=tollgate", "RuntimeDirectory=tollgate", "NoNewPrivileges=yes"] {
        assert!(unit.lines().any(|found| found == line), "{line}");
    }
    // systemd judges the rest, where it is installed; it wants the program to be there.
    let here = place::scratch("unit").join("tollgate.service");
    fs::write(&here, unit.replace("/usr/local/bin/tollgate", env!("CARGO_BIN_EXE_tollgate"))).unwrap();
    let verify = Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(&here).output();
    if let Ok(output) = verify {
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success() && !said.contains("tollgate.service"), "{said}");
    }
}

#[test]
fn the_image_is_made_of_what_is_there_and_does_not_run_as_root() {
    let image = text("deploy/container/Dockerfile");
    let steps: Vec<&str> = image.lines().filter(|line| line.starts_with(|c: char| c.is_ascii_uppercase())).collect();
    let of = |what: &str| steps.iter().filter_map(|step| step.strip_prefix(what)).collect::<Vec<_>>();
    let copies = of("COPY ");
    assert!(copies.len() > 2);
    for copy in copies {
        let words: Vec<&str> = copy.split(' ').collect();
        let (_into, sources) = words.split_last().unwrap();
        if let Some(built) = sources.iter().find(|word| word.starts_with("/src/")) {
            assert_eq!(*built, "/src/target/shipped/tollgate");
            continue;
        }
        for source in sources {
            assert!(place::root().join(source).exists(), "`COPY {source}`: it is not there");
        }
    }
    assert_eq!(of("RUN deploy/"), ["build"]);
    let user: u32 = of("USER ")[0].split(':').next().unwrap().parse().unwrap();
    assert!(user > 0);
    let user_at = steps.iter().position(|step| step.starts_with("USER ")).unwrap();
    assert!(steps.iter().rposition(|step| step.starts_with("FROM ")).unwrap() < user_at);
    let list = |json: &str| serde_json::from_str::<Vec<String>>(json).unwrap();
    assert_eq!(list(of("ENTRYPOINT ")[0]), ["/usr/local/bin/tollgate"]);
    let command = list(of("CMD ")[0]);
    accepted(&command.iter().map(String::as_str).collect::<Vec<_>>());
    // What the rest of the source includes at build time has to be copied too.
    let toolchain = format!("FROM rust:{}-", rust_version());
    assert!(steps.iter().any(|step| step.starts_with(&toolchain)), "{toolchain}");
}

/// It takes half an hour, and is run where figures are measured; the run under load in it is one of `tests/run`.
#[test]
fn the_build_that_is_shipped_knows_its_words() {
    let script = text("deploy/build");
    for known in ["--profile dist", "--bench load -- train", "-C profile-generate=", "-C profile-use="] {
        assert!(script.contains(known), "{known}");
    }
    assert!(text("Cargo.toml").contains("[profile.dist]"));
    assert!(text("tests/run").contains("train"));
    let unknown = Command::new(place::root().join("deploy/build")).arg("again").output().unwrap();
    let said = String::from_utf8_lossy(&unknown.stderr).into_owned();
    assert!(!unknown.status.success() && said.contains("help: deploy/build [anew]"), "{said}");
}

fn rust_version() -> String {
    let manifest: toml::Table = text("Cargo.toml").parse().unwrap();
    manifest["workspace"]["package"]["rust-version"].as_str().unwrap().to_owned()
}

#[test]
fn what_may_be_built_in_is_written_down() {
    let rules: toml::Table = text(".deny.toml").parse().unwrap();
    for section in ["bans", "licenses", "sources"] {
        assert!(rules.contains_key(section), "{section}");
    }
    let lock: toml::Table = text("Cargo.lock").parse().unwrap();
    let names: Vec<&str> =
        lock["package"].as_array().unwrap().iter().map(|package| package["name"].as_str().unwrap()).collect();
    for banned in rules["bans"]["deny"].as_array().unwrap() {
        let name = banned["crate"].as_str().unwrap();
        assert!(!names.contains(&name), "`{name}` is banned and locked");
    }
    let sources = lock["package"].as_array().unwrap().iter().filter_map(|package| package.get("source"));
    for source in sources {
        assert_eq!(source.as_str(), Some("registry+https://github.com/rust-lang/crates.io-index"));
    }
}
