//! `subscriptions/listen`: what a modern client is told without asking, to the byte (RS-33, spec §3.7).

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use super::refused;
use crate::harness::{
    gateway::{ALLOW_ALL, Gateway, Setup},
    http::Connection,
    issuer::{Issuer, now},
    place,
    recorder::{Era, Recorder, Reply, Step},
};

pub(super) const PATIENCE: Duration = place::PATIENCE;

/// An upstream whose list of tools a test can change, and which says so at once.
pub(super) struct Shifting {
    pub(super) recorder: Recorder,
    revision: Arc<AtomicUsize>,
}

impl Shifting {
    pub(super) fn new(era: Era) -> Self {
        let revision = Arc::new(AtomicUsize::new(0));
        let shared = Arc::clone(&revision);
        let recorder = Recorder::scripted(era, move |seen| {
            let revision = shared.load(Ordering::Acquire);
            if seen.rpc_method() == "tools/list" {
                let name = format!("tool-{revision}");
                return Some(Reply::result(
                    seen,
                    &json!({
                        "resultType": "complete", "ttlMs": 600_000, "cacheScope": "private",
                        "tools": [{ "name": "echo", "inputSchema": { "type": "object" } }, { "name": name, "inputSchema": { "type": "object" } }],
                    }),
                ));
            }
            let listens = seen.rpc_method() == "subscriptions/listen" || (era == Era::Legacy && seen.method == "GET");
            let word = json!({ "jsonrpc": "2.0", "method": "notifications/tools/list_changed" });
            listens.then(|| {
                let acknowledged = json!({
                    "jsonrpc": "2.0", "method": "notifications/subscriptions/acknowledged",
                    "params": { "notifications": { "toolsListChanged": true } },
                });
                let begun = match era {
                    Era::Modern => Reply::stream().event(&acknowledged),
                    Era::Legacy => Reply::stream(),
                };
                let words = (revision + 1..revision + 9).fold(begun, |stream, next| {
                    // Three times over: a burst.
                    let until = stream.step(Step::until(&shared, next));
                    until.event(&word).event(&word).event(&word)
                });
                words.step(Step::Pause(Duration::from_secs(60)))
            })
        });
        Self { recorder, revision }
    }

    /// Another tool than before, and word of it.
    pub(super) fn shift(&self) {
        self.revision.fetch_add(1, Ordering::AcqRel);
    }

    /// Waits until the gateway listens, and has read the list that it reads then.
    pub(super) fn heard(&self, readings: usize) {
        place::wait_for("the gateway listens", PATIENCE, || {
            (self.recorder.seen_method("tools/list").len() > readings).then_some(())
        });
    }
}

fn behind(name: &str, issuer: &Issuer, shifting: &Shifting) -> Gateway {
    let gateway = Setup::usual(name, issuer).open_upstream("up", &shifting.recorder.url()).start();
    shifting.heard(1);
    gateway
}

pub(super) fn listening(connection: &mut Connection) -> Value {
    let head = connection.head();
    assert_eq!((head.status, head.header("content-type")), (200, Some("text/event-stream")));
    assert_eq!(head.header("x-accel-buffering"), Some("no"));
    connection.event().unwrap()
}

fn ends(gateway: &Gateway, reason: &str) -> Value {
    let ended = gateway.recorded("listen_end", 1).remove(0);
    assert_eq!(ended["listened"]["reason"], reason, "{ended}");
    ended
}

#[test]
fn a_listener_is_told_of_a_change_under_the_id_that_it_gave() {
    let issuer = Issuer::good();
    for era in [Era::Modern, Era::Legacy] {
        for (endpoint, id) in [(None, json!(7)), (Some("up"), json!("seven"))] {
            let shifting = Shifting::new(era);
            let gateway = behind("listen", &issuer, &shifting);
            let alice = gateway.client_of(endpoint, &issuer, "alice");
            let mut connection = alice.listen(&id, &json!({ "toolsListChanged": true }));
            let meta = json!({ "io.modelcontextprotocol/subscriptionId": id });
            assert_eq!(
                listening(&mut connection),
                json!({
                    "jsonrpc": "2.0", "method": "notifications/subscriptions/acknowledged",
                    "params": { "_meta": meta, "notifications": { "toolsListChanged": true } },
                })
            );
            let name = if endpoint.is_none() { "up__tool-1" } else { "tool-1" };
            shifting.shift();
            assert_eq!(
                connection.event().unwrap(),
                json!({ "jsonrpc": "2.0", "method": "notifications/tools/list_changed", "params": { "_meta": meta } })
            );
            assert!(alice.tools().contains(&name.to_owned()), "who is told finds the new list");
            shifting.shift();
            assert_eq!(connection.event().unwrap()["method"], "notifications/tools/list_changed", "a burst is one");
            drop(connection);
            let begun = gateway.recorded("listen", 1).remove(0);
            assert_eq!((&begun["user"]["subject"], &begun["listen"]["topics"]), (&json!("alice"), &json!(["tools"])));
            let ended = ends(&gateway, "gone");
            assert_eq!((&ended["id"], &ended["listened"]["told"]), (&begun["id"], &json!(2)));
        }
    }
}

/// An icon is nothing that anybody decides by, and is not pinned; clients show it all the same.
#[test]
fn a_change_of_what_is_only_shown_is_read_and_told() {
    let issuer = Issuer::good();
    let changed = Arc::new(AtomicUsize::new(0));
    let shared = Arc::clone(&changed);
    let recorder = Recorder::scripted(Era::Modern, move |seen| {
        let icon = format!("https://example.com/{}.png", shared.load(Ordering::Acquire));
        let tool = json!({ "name": "echo", "inputSchema": { "type": "object" }, "icons": [{ "src": icon }] });
        (seen.rpc_method() == "tools/list").then(|| {
            let result = json!({ "resultType": "complete", "ttlMs": 0, "cacheScope": "private", "tools": [tool] });
            Reply::result(seen, &result)
        })
    });
    let lines = "grant = { strategy = \"none\" }\nrefresh_s = 1";
    let gateway = Setup::usual("listen-icons", &issuer).upstream("up", &recorder.url(), lines).start();
    let alice = gateway.client_of(Some("up"), &issuer, "alice").awaiting("echo");
    let mut connection = alice.listen(&json!(1), &json!({ "toolsListChanged": true }));
    listening(&mut connection);
    changed.store(1, Ordering::Release);
    assert_eq!(connection.event().unwrap()["method"], "notifications/tools/list_changed");
    let tool = alice.modern("tools/list", &json!({})).json()["result"]["tools"][0].clone();
    assert_eq!(tool["icons"][0]["src"], "https://example.com/1.png", "{tool}");
}

#[test]
fn a_listener_that_asks_for_nothing_is_told_so_and_answered() {
    let issuer = Issuer::good();
    let shifting = Shifting::new(Era::Modern);
    let gateway = behind("listen-nothing", &issuer, &shifting);
    let alice = gateway.client_of(None, &issuer, "alice");
    for filter in [json!({}), json!({ "toolsListChanged": false }), json!({ "tasksChanged": true })] {
        let mut connection = alice.listen(&json!(1), &filter);
        assert_eq!(listening(&mut connection)["params"]["notifications"], json!({}), "{filter}");
        let last = connection.event().unwrap();
        assert_eq!((&last["id"], &last["result"]["resultType"]), (&json!(1), &json!("complete")));
        assert_eq!(last["result"]["_meta"]["io.modelcontextprotocol/subscriptionId"], 1, "{last}");
        assert_eq!(connection.event(), None);
    }
    ends(&gateway, "nothing");
    for filter in [json!(null), json!([]), json!({ "toolsListChanged": 1 }), json!({ "resourceSubscriptions": "x" })] {
        let answer = alice.listen(&json!(1), &filter).answer();
        assert_eq!(refused(&answer), (200, -32602, "params_invalid".into()), "{filter}");
    }
}

/// What is hidden from a caller changes without their hearing of it; that there is such an upstream is not theirs to know.
#[test]
fn a_change_of_what_is_hidden_is_not_told() {
    let issuer = Issuer::good();
    let (hidden, seen) = (Shifting::new(Era::Modern), Shifting::new(Era::Modern));
    let gateway = Setup::new("listen-hidden")
        .issuer(&issuer.url())
        .policy("some.cedar", "@id(\"seen\")\npermit (principal, action, resource == Upstream::\"seen\");\n")
        .open_upstream("hidden", &hidden.recorder.url())
        .open_upstream("seen", &seen.recorder.url())
        .start();
    hidden.heard(1);
    seen.heard(1);
    let alice = gateway.client_of(None, &issuer, "alice");
    let mut connection = alice.listen(&json!(1), &json!({ "toolsListChanged": true }));
    listening(&mut connection);
    hidden.shift();
    hidden.heard(2);
    // Nothing came of that: the first that comes is of the other, and there is only one.
    std::thread::sleep(Duration::from_secs(1));
    seen.shift();
    assert_eq!(connection.event().unwrap()["method"], "notifications/tools/list_changed");
    drop(connection);
    assert_eq!(ends(&gateway, "gone")["listened"]["told"], 1);
}

#[test]
fn a_listener_ends_when_its_token_does() {
    let issuer = Issuer::good();
    let shifting = Shifting::new(Era::Modern);
    let gateway = Setup::new("listen-expiry")
        .section(&format!("[[issuers]]\nissuer = \"{}\"\nalgorithms = [\"ES256\"]\nleeway_s = 1", issuer.url()))
        .policy("allow.cedar", ALLOW_ALL)
        .open_upstream("up", &shifting.recorder.url())
        .start();
    let url = gateway.endpoint(None);
    let mut claims = issuer.claims("alice", &url);
    let end = claims["iat"].as_u64().unwrap() + 10;
    claims["exp"] = json!(end);
    let token = issuer.sign(&claims);
    let mut connection = gateway.client(None).token(&token).listen(&json!("x"), &json!({ "toolsListChanged": true }));
    listening(&mut connection);
    let last = connection.event().unwrap();
    assert_eq!((&last["id"], &last["result"]["resultType"]), (&json!("x"), &json!("complete")), "{last}");
    assert_eq!(connection.event(), None);
    assert!(now() >= end, "not before its time");
    ends(&gateway, "expired");
}

#[test]
fn a_listener_ends_when_policy_leaves_it_nothing_to_see() {
    let issuer = Issuer::good();
    let shifting = Shifting::new(Era::Modern);
    let gateway = behind("listen-policy", &issuer, &shifting);
    let mut connection =
        gateway.client_of(None, &issuer, "alice").listen(&json!(1), &json!({ "toolsListChanged": true }));
    listening(&mut connection);
    let narrower = "forbid (principal, action == Action::\"up/echo\", resource);\n";
    gateway.rule("allow.cedar", &format!("{ALLOW_ALL}@id(\"keep\")\n{narrower}"));
    let told = connection.event().unwrap();
    assert_eq!(told["method"], "notifications/tools/list_changed", "another list by other rules: {told}");
    gateway.rule("allow.cedar", "// nothing\n");
    assert_eq!(connection.event().unwrap()["method"], "notifications/tools/list_changed");
    assert_eq!(connection.event().unwrap()["result"]["resultType"], "complete");
    assert_eq!(connection.event(), None);
    ends(&gateway, "withdrawn");
}

#[test]
fn listeners_do_not_hold_up_the_end_of_the_gateway() {
    let issuer = Issuer::good();
    let shifting = Shifting::new(Era::Modern);
    let setup = Setup::usual("listen-drain", &issuer).gateway("drain_ms = 60_000");
    let mut gateway = setup.open_upstream("up", &shifting.recorder.url()).start();
    shifting.heard(1);
    let alice = gateway.client_of(None, &issuer, "alice");
    let mut connection = alice.listen(&json!(1), &json!({ "toolsListChanged": true }));
    listening(&mut connection);
    let began = Instant::now();
    gateway.process.terminate();
    assert_eq!(connection.event().unwrap()["result"]["resultType"], "complete");
    assert_eq!(connection.event(), None);
    drop(connection);
    assert_eq!(gateway.process.wait(PATIENCE).code(), Some(0), "{}", gateway.process.errors());
    assert!(began.elapsed() < Duration::from_secs(25), "{:?}", began.elapsed());
    ends(&gateway, "drained");
    assert!(gateway.verify().status.success());
}
