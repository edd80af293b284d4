//! A journal that has no room: no call goes up without its record, and calls go on as soon as there is room again (I4).

use std::{
    env, fs,
    io::Write,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
};

use serde_json::{Value, json};

use super::{Ground, SOON, chain_verifies, code};
use crate::harness::{
    browser::Browser,
    gateway::{Setup, records},
    issuer::Issuer,
    place,
    process::Process,
    recorder::{Era, Recorder, Seen},
};

/// A small file system of the test's own, gone when dropped.
struct Disk(PathBuf);

impl Disk {
    /// Nothing where the test has run elsewhere instead, in a namespace in which this user may mount; or nowhere, because
    /// [`WITHOUT`] says so.
    fn mount(folder: PathBuf) -> Option<Self> {
        fs::create_dir_all(&folder).unwrap();
        let mut mount = Command::new("mount");
        let why = match mount.args(["-t", "tmpfs", "-o", "size=4m", "tmpfs"]).arg(&folder).output() {
            Ok(mount) if mount.status.success() => return Some(Self(folder)),
            Ok(mount) => String::from_utf8_lossy(&mount.stderr).into_owned(),
            Err(error) => error.to_string(),
        };
        if env::var_os(WITHOUT).is_some() {
            eprintln!("skipped: no tmpfs can be mounted: {why}");
            return None;
        }
        assert!(env::var_os(APART).is_none(), "no tmpfs can be mounted, in a namespace neither: {why}\n{HELP}");
        run_apart(&why);
        None
    }

    fn filler(&self) -> PathBuf {
        self.0.join("filler")
    }

    /// Leaves no byte.
    fn fill(&self) {
        let mut file = fs::File::create(self.filler()).unwrap();
        for size in [65_536, 4_096, 1] {
            while file.write_all(&vec![1; size]).is_ok() {}
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        drop(Command::new("umount").arg("-l").arg(&self.0).output());
    }
}

/// Runs the test of this thread again, and alone, as root of a user namespace with mounts of its own.
fn run_apart(why: &str) {
    let test = std::thread::current().name().expect("the test's name").to_owned();
    let mut apart = Command::new("unshare");
    apart.args(["--user", "--map-root-user", "--mount"]).arg(env::current_exe().unwrap());
    let ran = apart.args(["--exact", &test, "--nocapture"]).env(APART, "yes").output();
    let (good, said) = match ran {
        Ok(ran) => {
            let said = [ran.stdout, ran.stderr].concat();
            let said = String::from_utf8_lossy(&said).into_owned();
            (ran.status.success() && said.contains("1 passed"), said)
        }
        Err(error) => (false, error.to_string()),
    };
    assert!(good, "no tmpfs can be mounted: {why}\nand in a namespace of its own `{test}` fails:\n{said}\n{HELP}");
}

/// Set by whoever knows that this machine can do neither.
const WITHOUT: &str = "TOLLGATE_TESTS_WITHOUT_TMPFS";
/// Set by [`run_apart`].
const APART: &str = "TOLLGATE_TESTS_APART";
const HELP: &str =
    "help: run as root, or allow user namespaces, or set TOLLGATE_TESTS_WITHOUT_TMPFS=yes to leave these out";

/// The trace that a call belongs to: what its record and its request have in common.
fn trace_of(seen: &Seen) -> String {
    seen.header("traceparent").and_then(|parent| parent.split('-').nth(1)).expect("a trace").to_owned()
}

/// The traces of all calls that were recorded as about to be forwarded.
fn intents(records: &[Value]) -> Vec<&str> {
    let intents = records.iter().filter(|record| record["event"] == "intent");
    intents.map(|record| record["request"]["trace_id"].as_str().unwrap()).collect()
}

#[test]
fn full_disk_stops_every_call_and_room_lets_them_go_on() {
    for durability in ["os", "fsync"] {
        let (issuer, upstream) = (Issuer::good(), Recorder::good(Era::Modern));
        let setup = Setup::usual("disk-full", &issuer).open_upstream("up", &upstream.url());
        let setup = setup.audit(&format!("durability = \"{durability}\"\nwait_max_ms = 8000"));
        let Some(disk) = Disk::mount(setup.folder().join("audit")) else { return };
        let ground = Ground { gateway: setup.start(), issuer, upstream };
        ground.settle();
        ground.good_call();

        disk.fill();
        let client = ground.client("alice");
        let call = || client.call("echo", &json!({ "message": "hi" }));
        // What was set aside beforehand is used up first.
        let refused = (0..4_000).map(|_| call()).find(|answer| answer.status() != 200).expect("a full disk");
        assert_eq!((refused.status(), code(&refused).as_str()), (503, "audit_unavailable"), "{}", refused.text());
        place::wait_for("not ready", SOON, || (ground.gateway.readiness() == 503).then_some(()));
        let before = ground.upstream.seen().len();
        for _ in 0..30 {
            let answer = ground.refused("no room", &["audit_unavailable"], call);
            assert!(answer.header("retry-after").is_some());
            assert!(!answer.text().contains("audit/") && !answer.text().contains("ENOSPC"), "{}", answer.text());
        }
        let session_less =
            ground.refused("another caller", &["audit_unavailable"], || ground.client("bob").call("echo", &json!({})));
        assert_eq!(session_less.status(), 503);
        assert!(ground.upstream.seen()[before..].iter().all(|seen| seen.rpc_method() != "tools/call"));

        fs::remove_file(disk.filler()).unwrap();
        place::wait_for("ready again", SOON, || (ground.gateway.readiness() == 200).then_some(()));
        ground.good_call();
        let Ground { mut gateway, upstream, .. } = ground;
        gateway.stop();
        let records = gateway.journal();
        let intents = intents(&records);
        let calls = upstream.seen_method("tools/call");
        assert!(calls.len() >= 2);
        for seen in &calls {
            assert!(intents.contains(&trace_of(seen).as_str()), "{durability}: a call without a record");
        }
        assert!(records.iter().any(|record| record["event"] == "recovered"), "{durability}: the gap is not told");
        chain_verifies(&gateway);
        drop(disk);
    }
}

/// Nor is a call answered with what is kept of an earlier one.
#[test]
fn full_disk_stops_what_is_kept_too() {
    let (issuer, upstream) = (Issuer::good(), Recorder::good(Era::Modern));
    let kept = "grant = { strategy = \"none\" }\n[[upstreams.up.tools]]\nmatch = \"add\"\ncache_s = 600";
    let setup = Setup::usual("disk-kept", &issuer).upstream("up", &upstream.url(), kept);
    let setup = setup.audit("durability = \"os\"\nwait_max_ms = 8000");
    let Some(disk) = Disk::mount(setup.folder().join("audit")) else { return };
    let ground = Ground { gateway: setup.start(), issuer, upstream };
    ground.settle();
    let client = ground.client("alice");
    let call = || client.call("add", &json!({}));
    assert_eq!((call().status(), call().status(), ground.calls()), (200, 200, 1));
    disk.fill();
    let refused = (0..4_000).map(|_| call()).find(|answer| answer.status() != 200).expect("a full disk");
    assert_eq!((refused.status(), code(&refused).as_str()), (503, "audit_unavailable"), "{}", refused.text());
    for _ in 0..30 {
        ground.refused("no room", &["audit_unavailable"], call);
    }
    fs::remove_file(disk.filler()).unwrap();
    place::wait_for("ready again", SOON, || (ground.gateway.readiness() == 200).then_some(()));
    assert_eq!(call().status(), 200);
    ground.good_call();
    let Ground { mut gateway, upstream, .. } = ground;
    gateway.stop();
    let recorded = gateway.journal();
    let intents = recorded.iter().filter(|record| record["event"] == "intent" && record["target"]["name"] == "add");
    assert!(intents.count() > upstream.seen_method("tools/call").len(), "answers that no record tells of");
    drop(disk);
}

/// Nor is an account kept that no record tells of.
#[test]
fn full_disk_connects_no_account() {
    let (issuer, server, upstream) = (Issuer::good(), Issuer::good(), Recorder::good(Era::Modern));
    let client = "client = { id = \"gateway\", secret = { env = \"GATEWAY_SECRET\" } }";
    let account = format!(
        "grant = {{ strategy = \"user_grant\", issuer = \"{}\", {client}, resource = \"{}\" }}\ndiscovery = {{ strategy = \"none\" }}",
        server.url(),
        upstream.url()
    );
    let setup = Setup::usual("disk-connect", &issuer)
        .environment("GATEWAY_SECRET", "gateway-secret")
        .section(&format!("[[logins]]\nissuer = \"{}\"\n{client}", issuer.url()))
        .open_upstream("up", &upstream.url())
        .upstream("crm", &upstream.url(), &account);
    let setup = setup.audit("durability = \"os\"\nwait_max_ms = 8000");
    let Some(disk) = Disk::mount(setup.folder().join("audit")) else { return };
    let ground = Ground { gateway: setup.start(), issuer, upstream };
    ground.settle();
    let alice = ground.gateway.client_of(Some("crm"), &ground.issuer, "alice").awaiting("echo");
    let page = || {
        let answer = alice.call("echo", &json!({}));
        let url = answer.json()["error"]["data"]["elicitations"][0]["url"].clone();
        url.as_str().unwrap_or_else(|| panic!("no page: {}", answer.text())).to_owned()
    };
    let asked = |browser: &mut Browser| {
        let first = browser.get(&page());
        browser.press(&first)
    };
    let mut browser = Browser::of("alice");
    let consent = asked(&mut browser);

    disk.fill();
    let client = ground.client("alice");
    let call = || client.call("echo", &json!({}));
    (0..4_000).map(|_| call()).find(|answer| answer.status() != 200).expect("a full disk");
    let refused = browser.press(&consent);
    assert_eq!((refused.at.path(), refused.answer.status()), ("/connecting/callback/crm", 503));
    assert!(refused.answer.text().contains("<code>audit_unavailable</code>"), "{}", refused.answer.text());
    assert_eq!(server.asked().len(), 1, "there was an account to be had");

    fs::remove_file(disk.filler()).unwrap();
    place::wait_for("ready again", SOON, || (ground.gateway.readiness() == 200).then_some(()));
    let consent = asked(&mut browser);
    let done = browser.press(&consent);
    assert!(done.answer.text().contains("<h1>Connected</h1>"), "{}", done.answer.text());
    assert_eq!(alice.call("echo", &json!({})).status(), 200);
    let connected = ground.gateway.recorded("connect", 1);
    assert_eq!(connected.len(), 1, "{connected:?}");
    drop(disk);
}

/// A gateway that ends while there is no room starts again when there is, and not before.
#[test]
fn full_disk_stops_a_start_and_nothing_of_before_is_lost() {
    let (issuer, upstream) = (Issuer::good(), Recorder::good(Era::Modern));
    let setup = Setup::usual("disk-start", &issuer).open_upstream("up", &upstream.url());
    let setup = setup.audit("durability = \"os\"\nwait_max_ms = 8000");
    let Some(disk) = Disk::mount(setup.folder().join("audit")) else { return };
    let mut ground = Ground { gateway: setup.start(), issuer, upstream };
    ground.settle();
    ground.good_call();
    disk.fill();
    let client = ground.client("alice");
    place::wait_for("a full disk", SOON, || {
        (code(&client.call("echo", &json!({}))) == "audit_unavailable").then_some(())
    });
    ground.gateway.process.kill();
    let file = ground.gateway.setup().folder().join("upstreams.toml");
    let mut command = crate::harness::gateway::tollgate(&["serve", "--config"]);
    command.arg(file);
    let mut without_room = Process::start("without-room", ground.gateway.setup().folder(), command);
    let ended = without_room.wait(SOON);
    assert!(!ended.success(), "it serves without a journal");
    assert!(without_room.errors().contains("journal"), "{}", without_room.errors());

    fs::remove_file(disk.filler()).unwrap();
    let Ground { issuer, upstream, gateway } = ground;
    let mut ground = Ground { issuer, upstream, gateway: gateway.again() };
    ground.settle();
    ground.good_call();
    ground.gateway.stop();
    let records = ground.gateway.journal();
    for seen in ground.upstream.seen_method("tools/call") {
        assert!(intents(&records).contains(&trace_of(&seen).as_str()), "a call without a record");
    }
    chain_verifies(&ground.gateway);
    drop(disk);
}

/// The record is looked for while the upstream still holds the request.
#[test]
fn record_is_on_the_disk_before_the_upstream_has_the_call() {
    let folder: Arc<OnceLock<PathBuf>> = Arc::default();
    let (found, missing) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (look_in, counts) = (Arc::clone(&folder), (Arc::clone(&found), Arc::clone(&missing)));
    let upstream = Recorder::scripted(Era::Modern, move |seen| {
        if seen.rpc_method() == "tools/call" {
            let records = records(look_in.get().map_or(Path::new("/nowhere"), PathBuf::as_path));
            let recorded = intents(&records).contains(&trace_of(seen).as_str());
            if recorded { &counts.0 } else { &counts.1 }.fetch_add(1, Ordering::SeqCst);
        }
        None
    });
    let ground = Ground::before("disk-first", upstream, |setup, _, up| {
        folder.set(setup.folder().join("audit")).unwrap();
        setup.open_upstream("up", &up.url())
    });
    std::thread::scope(|scope| {
        for worker in 0..4 {
            let ground = &ground;
            scope.spawn(move || {
                let client = ground.client(&format!("user-{worker}"));
                for _ in 0..15 {
                    assert_eq!(client.call("echo", &json!({})).status(), 200);
                }
            });
        }
    });
    assert_eq!((found.load(Ordering::SeqCst), missing.load(Ordering::SeqCst)), (60, 0));
    ground.good_call();
    let Ground { mut gateway, .. } = ground;
    gateway.stop();
    chain_verifies(&gateway);
}
