//! What gateways and commands share is sealed with a key that all of them have, whatever each of them calls the present one.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path, process::Output, time::Duration};

use serde_json::json;

use crate::harness::{
    gateway::{Gateway, Setup, tollgate},
    http,
    issuer::Issuer,
    place,
    recorder::{Era, Recorder},
};

const OLD: (&str, &str) = ("OLD_KEY", "1111111111111111111111111111111111111111111111111111111111111111");
const NEW: (&str, &str) = ("NEW_KEY", "2222222222222222222222222222222222222222222222222222222222222222");
const SOON: Duration = place::DISK_PATIENCE;

/// A gateway on `folder` with these lines of `[state]`, and all keys at hand.
fn setup(name: &str, (issuer, recorder): (&Issuer, &Recorder), folder: &Path, lines: &str) -> Setup {
    Setup::usual(name, issuer)
        .open_upstream("up", &recorder.url())
        .environment(OLD.0, OLD.1)
        .environment(NEW.0, NEW.1)
        .section(&format!("[state]\ndirectory = \"{}\"\n{lines}\n\n[keys]\nenabled = true", folder.display()))
}

fn keys(config: &Path, words: &[&str]) -> Output {
    tollgate(&["keys"]).args(words).arg("--config").arg(config).envs([OLD, NEW]).output().unwrap()
}

/// How many keys `tollgate keys list` finds with this configuration; `None` where it cannot.
fn found(config: &Path) -> Option<usize> {
    let output = keys(config, &["list"]);
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).lines().count())
}

#[track_caller]
fn serves(gateway: &Gateway, key: &str) {
    let client = gateway.client(Some("up")).token(key);
    place::wait_for("the key is known", SOON, || (client.call("echo", &json!({})).status() == 200).then_some(()));
}

#[test]
fn two_gateways_with_a_key_in_common_read_all_that_each_other_keeps_and_the_old_key_is_left_when_nobody_needs_it() {
    let peers = (&Issuer::good(), &Recorder::good(Era::Modern));
    let folder = place::scratch("sealing-folder");
    let before = "sealing_key = { env = \"OLD_KEY\" }";
    let between = "sealing_key = { env = \"NEW_KEY\" }\nsealing_key_before = { env = \"OLD_KEY\" }";
    let after = "sealing_key = { env = \"NEW_KEY\" }";
    let mut old = setup("sealing-old", peers, &folder, before).start();
    let first = old.key("--user alice");
    // An upgrade brings a new key, and the one that it replaces has never heard of it.
    let mut new = setup("sealing-new", peers, &folder, between).start();
    let second = new.key("--user bob");
    for gateway in [&old, &new] {
        serves(gateway, &first);
        serves(gateway, &second);
    }
    // Nor does a command that an operator gives with the new configuration leave the old gateway in the dark.
    new.keys(&format!("revoke {}", first.split('_').nth(1).unwrap()));
    for gateway in [&old, &new] {
        let client = gateway.client(Some("up")).token(&first);
        place::wait_for("the revocation", SOON, || (client.call("echo", &json!({})).status() == 401).then_some(()));
        assert_eq!(gateway.client(Some("up")).token(&second).call("echo", &json!({})).status(), 200);
    }

    // Whoever has the new key alone would write what the old gateway cannot read: not yet.
    let only_new = setup("sealing-only-new", peers, &folder, after).write();
    let told = keys(&only_new, &["new", "--user", "carol"]);
    assert!(!told.status.success());
    assert!(String::from_utf8_lossy(&told.stderr).contains("seals with another key"), "{told:?}");
    let mut early = setup("sealing-early", peers, &folder, after).launch();
    assert_eq!(early.process.wait(SOON).code(), Some(2));
    assert!(early.process.errors().contains("seals with another key"), "{}", early.process.errors());
    serves(&old, &second);

    // The last that has the old key alone is gone: all is sealed anew, and the old key opens nothing.
    old.stop();
    let listed = place::wait_for("the rotation ends", SOON, || found(&only_new));
    assert_eq!(listed, 2, "what is found is found whole");
    let only_old = setup("sealing-only-old", peers, &folder, before).write();
    assert_eq!(found(&only_old), None, "whoever has it alone comes too late");
    serves(&new, &second);
    let third = new.key("--user dave");
    new.stop();
    let last = setup("sealing-last", peers, &folder, after).start();
    serves(&last, &second);
    serves(&last, &third);
}

#[test]
fn a_gateway_that_others_have_forgotten_says_that_it_keeps_nothing_and_comes_back() {
    let peers = (&Issuer::good(), &Recorder::good(Era::Modern));
    let folder = place::scratch("sealing-forgotten");
    let gateway = setup("sealing-forgotten", peers, &folder, "sealing_key = { env = \"OLD_KEY\" }").start();
    let processes =
        |how: &str| rusqlite::Connection::open(folder.join("state.db")).unwrap().execute_batch(how).unwrap();
    // As it looks to a machine that slept: somebody has come meanwhile, with a key of their own.
    processes("DELETE FROM processes; INSERT INTO processes VALUES (x'01', zeroblob(4), zeroblob(4), 9999999999999)");
    place::wait_for("readiness", SOON, || (gateway.readiness() == 503).then_some(()));
    let said = http::fetch("GET", &format!("{}/readyz", gateway.admin()), &[], b"").json();
    assert_eq!(said["reasons"], json!({ "state": "a gateway on the folder of `[state]` seals with another key" }));
    assert!(gateway.process.errors().contains("could not open"), "{}", gateway.process.errors());
    processes("DELETE FROM processes WHERE id = x'01'");
    place::wait_for("readiness", SOON, || (gateway.readiness() == 200).then_some(()));
}

/// What is sealed or chained is safe from being read or changed in silence, and not from being put back as it was.
#[test]
fn folders_that_others_may_write_into_are_named_at_the_start() {
    let peers = (&Issuer::good(), &Recorder::good(Era::Modern));
    for (mode, named) in [(0o750, 0), (0o770, 2)] {
        let state = place::scratch("folders-state");
        let setup = setup("folders", peers, &state, "");
        let audit = setup.folder().join("audit");
        fs::create_dir(&audit).unwrap();
        for folder in [&state, &audit] {
            fs::set_permissions(folder, fs::Permissions::from_mode(mode)).unwrap();
        }
        let gateway = setup.start();
        let errors = gateway.process.errors();
        let lines: Vec<_> = errors.lines().filter(|line| line.contains("other accounts may write")).collect();
        assert_eq!(lines.len(), named, "{errors}");
        for folder in [&state, &audit] {
            let folder = format!("\"{}\"", folder.display());
            assert_eq!(lines.iter().filter(|line| line.contains(&folder)).count(), named / 2, "{errors}");
        }
    }
}
