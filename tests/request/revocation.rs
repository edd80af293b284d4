//! `tollgate revoke`, and what issuers and keys take back: in force at once, for what is under way, too, and for nobody
//! else.

use std::{
    collections::HashMap,
    path::Path,
    process::Output,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use serde_json::{Value, json};

use super::{
    input::{call, capabilities, form},
    listen::listening,
    refused,
    subscribe::{Watched, updated},
    text_of,
};
use crate::harness::{
    gateway::{ALLOW_ALL, Gateway, Setup, tollgate},
    http::Connection,
    issuer::{Issuer, now},
    mcp::{Client, Session},
    place,
    recorder::{Era, Recorder, Reply, Seen, Step},
};

/// Longer nothing may take that a revocation ends: a second to be in force, and what a loaded machine needs. An upstream
/// of these tests goes on four times as long.
pub(super) const BOUND: Duration = Duration::from_secs(30);

/// A legacy server whose tool streams without end, or asks and waits, as its argument says.
pub(super) fn lasting() -> Recorder {
    Recorder::scripted(Era::Legacy, |seen| {
        let message = seen.json();
        let wanted = &message["params"]["arguments"]["message"];
        if seen.rpc_method() != "tools/call" || !(wanted == "stream" || wanted == "hold") {
            return None;
        }
        let ask = json!({ "jsonrpc": "2.0", "id": "q", "method": "elicitation/create", "params": form() });
        let reply = if wanted == "hold" { Reply::stream().event(&ask) } else { Reply::stream() };
        Some(reply.step(Step::Pause(Duration::from_secs(120))))
    })
}

fn with_state(name: &str, issuer: &Issuer, recorder: &Recorder) -> Setup {
    let setup = Setup::usual(name, issuer).open_upstream("up", &recorder.url());
    let state = setup.folder().join("state");
    setup.section(&format!("[state]\ndirectory = \"{}\"", state.display()))
}

fn start(name: &str, issuer: &Issuer, recorder: &Recorder) -> Gateway {
    let gateway = with_state(name, issuer, recorder).start();
    gateway.client_of(Some("up"), issuer, "warm").awaiting("echo");
    gateway
}

fn revoke(config: &Path, arguments: &[&str]) -> Output {
    tollgate(&["revoke"]).args(arguments).arg("--config").arg(config).output().unwrap()
}

/// `tollgate revoke …`, which has to succeed, as JSON.
#[track_caller]
fn revoked(gateway: &Gateway, arguments: &[&str]) -> Value {
    let file = gateway.setup().folder().join("upstreams.toml");
    let output = revoke(&file, &[arguments, &["--json"]].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// A token with these claims over the usual ones.
fn token(gateway: &Gateway, issuer: &Issuer, user: &str, more: &Value) -> String {
    let mut claims = issuer.claims(user, &gateway.endpoint(Some("up")));
    for (name, value) in more.as_object().unwrap() {
        claims[name] = value.clone();
    }
    issuer.sign(&claims)
}

/// Everything that one caller may have open.
pub(super) struct Open {
    pub(super) client: Client,
    session: Session,
    listener: Connection,
    stream: Connection,
    call: Connection,
    pub(super) held: Value,
}

impl Open {
    pub(super) fn of(gateway: &Gateway, token: &str) -> Self {
        Self::by(gateway.client(Some("up")).token(token))
    }

    fn by(client: Client) -> Self {
        let mut listener = client.listen(&json!(7), &json!({ "toolsListChanged": true }));
        assert_eq!(listener.head().status, 200);
        assert_eq!(listener.event().unwrap()["method"], "notifications/subscriptions/acknowledged");
        let session = client.initialize();
        let mut stream = session.stream();
        assert_eq!(stream.head().status, 200);
        let mut under_way = client.connection();
        let params = json!({ "name": "echo", "arguments": { "message": "stream" } });
        under_way.send(&client.modern_bytes(&json!(8), "tools/call", &params)).unwrap();
        assert_eq!(under_way.head().status, 200);
        let hold = json!({ "name": "echo", "arguments": { "message": "hold" } });
        let held = call(&client, &capabilities(), hold).json();
        assert_eq!(held["result"]["resultType"], "input_required", "{held}");
        Self { client, session, listener, stream, call: under_way, held }
    }

    /// All of it ends, and soon.
    pub(super) fn ends(&mut self, recorder: &Recorder, abandoned: usize) {
        let began = Instant::now();
        assert_eq!(self.listener.event().unwrap()["id"], 7, "a listener gets its answer");
        assert_eq!(self.listener.event(), None);
        assert_eq!(self.stream.event(), None);
        let end = self.call.event().unwrap();
        assert_eq!((&end["id"], &end["error"]["data"]["code"]), (&json!(8), &json!("outcome_unknown")), "{end}");
        assert_eq!(self.call.event(), None);
        // The call that streamed and the one that was held.
        place::wait_for("both calls end at the upstream", BOUND, || {
            (recorder.abandoned() >= abandoned + 2).then_some(())
        });
        assert!(began.elapsed() < BOUND, "{:?}", began.elapsed());
    }

    /// None of it has ended, and it goes on.
    pub(super) fn goes_on(&mut self) {
        for connection in [&mut self.listener, &mut self.stream, &mut self.call] {
            assert!(!connection.closes_within(Duration::from_millis(300)));
        }
        assert_eq!(text_of(&self.session.call("echo", &json!({}))), "echo {}");
        assert_eq!(text_of(&self.client.call("echo", &json!({}))), "echo {}");
    }
}

/// What a record says has ended is all that one caller had open, or less: it is counted at a fixed moment, when a machine
/// that is busy with others may not have come to everything. That all of it ends, [`Open::ends`] shows.
#[track_caller]
fn counted(record: &Value, sessions: u64) {
    let kinds = [("streams", 2), ("calls", 1), ("holds", 1), ("sessions", sessions)];
    let ended = record["ended"].as_object().unwrap_or_else(|| panic!("nothing is counted: {record}"));
    assert_eq!(ended.len(), kinds.len(), "{record}");
    let counts = kinds.map(|(kind, most)| (ended[kind].as_u64().unwrap(), most));
    assert!(counts.iter().all(|(count, most)| count <= most), "{record}");
    assert!(counts.iter().any(|(count, _)| *count > 0), "{record}");
}

/// The revocation's records, in order.
fn records(gateway: &Gateway, revocation: &Value, count: usize) -> Vec<Value> {
    let of = |record: &Value| record["revocation"]["id"] == revocation["id"];
    place::wait_for("the revocation is recorded", BOUND, || {
        let found: Vec<Value> = gateway.recorded("revocation", 0).into_iter().filter(of).collect();
        (found.len() >= count).then(|| found.iter().map(|record| record["revocation"].clone()).collect())
    })
}

pub(super) fn reasons(gateway: &Gateway, user: &str) -> Vec<String> {
    let of = |record: &&Value| record["user"]["subject"] == user;
    let ended = gateway.recorded("listen_end", 0);
    ended.iter().filter(of).map(|record| record["listened"]["reason"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn whom_it_names_has_nothing_left_and_nobody_else_notices() {
    let (issuer, recorder) = (Issuer::good(), lasting());
    let gateway = start("revoke", &issuer, &recorder);
    let other = json!({ "client_id": "other", "tenant": "other", "jti": "other" });
    let bob_token = token(&gateway, &issuer, "bob", &other);
    let mut bob = Open::of(&gateway, &bob_token);
    let digest = |token: &str| {
        let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, token.as_bytes());
        hash.as_ref()[..16].iter().map(|byte| format!("{byte:02x}")).collect::<String>()
    };
    let mut whole = false;
    for (turn, kind) in ["user", "agent", "actor", "tenant", "token", "digest"].into_iter().enumerate() {
        let (user, client, tenant, jti) =
            (format!("u{turn}"), format!("c{turn}"), format!("t{turn}"), format!("jti-{turn}"));
        let mut more = json!({ "client_id": client, "tenant": tenant, "jti": jti });
        if kind == "actor" {
            more["act"] = json!({ "sub": "robot" });
        }
        let held_token = token(&gateway, &issuer, &user, &more);
        let (mut open, abandoned) = (Open::of(&gateway, &held_token), recorder.abandoned());
        let named = match kind {
            "user" => ["user", &user].map(str::to_owned),
            "agent" => ["agent", &client].map(str::to_owned),
            "actor" => ["agent", "robot"].map(str::to_owned),
            "tenant" => ["tenant", &tenant].map(str::to_owned),
            "token" => ["token", &jti].map(str::to_owned),
            _ => ["token".to_owned(), digest(&held_token)],
        };
        let revocation = revoked(&gateway, &[&named[0], &named[1], "--why", "INC-1"]);
        open.ends(&recorder, abandoned);
        let refusal = open.client.call("echo", &json!({}));
        assert_eq!(refused(&refusal), (401, 40103, "token_revoked".into()), "{kind}");
        let challenge = refusal.header("www-authenticate").unwrap();
        assert!(challenge.contains("error=\"invalid_token\""), "{challenge}");
        let record = records(&gateway, &revocation, 2).pop().unwrap();
        assert_eq!((&record["state"], &record["why"]), (&json!("enforced"), &json!("INC-1")), "{record}");
        // A token is not a session: that belongs to the caller, who may come back with another token.
        let sessions = u64::from(!named[0].starts_with("token"));
        counted(&record, sessions);
        whole |= record["ended"] == json!({ "streams": 2, "calls": 1, "holds": 1, "sessions": sessions });
        assert_eq!(reasons(&gateway, &user), ["revoked", "revoked"]);
        // Whoever has a newer token is welcome; for a token, that is another one.
        std::thread::sleep(Duration::from_millis(1_000));
        more["jti"] = json!(format!("newer-{turn}"));
        let anew = gateway.client(Some("up")).token(&token(&gateway, &issuer, &user, &more));
        assert_eq!(text_of(&anew.call("echo", &json!({}))), "echo {}", "{kind}");
        let session = anew.initialize();
        assert!(session.id().is_some());
        let mut retry = open.held.clone();
        let state = retry["result"]["requestState"].take();
        let again = json!({
            "name": "echo", "arguments": { "message": "hold" }, "requestState": state,
            "inputResponses": { "ask-1": { "action": "accept", "content": { "name": "x" } } },
        });
        let lost = call(&anew, &capabilities(), again);
        assert_eq!(refused(&lost).2, "continuation_lost", "{kind}");
        bob.goes_on();
    }
    assert!(whole, "not once of six times was everything counted");
    assert_eq!(reasons(&gateway, "bob"), [""; 0]);
    let outcomes = gateway.recorded("outcome", 6);
    let ended = outcomes.iter().filter(|record| record["result"]["ending"] == "revoked").count();
    assert_eq!(ended, 6, "each call that was under way says why it ended");
    assert!(gateway.verify().status.success());
}

#[test]
fn an_api_key_that_is_revoked_takes_with_it_what_is_open_and_no_other_key() {
    let (issuer, recorder) = (Issuer::good(), lasting());
    let gateway = with_state("revoke-key", &issuer, &recorder).section("[keys]\nenabled = true").start();
    gateway.client_of(Some("up"), &issuer, "warm").awaiting("echo");
    let mut stays = Open::of(&gateway, &gateway.key("--user alice --upstream up"));
    let key = gateway.key("--user alice --upstream up");
    let (mut goes, abandoned) = (Open::of(&gateway, &key), recorder.abandoned());
    gateway.keys(&format!("revoke {key}"));
    goes.ends(&recorder, abandoned);
    stays.goes_on();
    let record = place::wait_for("what it ended is recorded", BOUND, || {
        let found = gateway.recorded("revocation", 1).into_iter().map(|record| record["revocation"].clone());
        found.rev().find(|record| record["state"] == "enforced")
    });
    let id = key.split('_').nth(1).unwrap();
    assert_eq!(
        (&record["kind"], &record["name"], &record["issuer"]),
        (&json!("token"), &json!(id), &json!("urn:tollgate:keys"))
    );
    counted(&record, 0);
    assert!(record["by"].is_string() && !record.to_string().contains(&key), "{record}");
}

#[test]
fn whoever_is_revoked_in_the_middle_of_a_request_is_not_served() {
    let (issuer, recorder) = (Issuer::good(), Recorder::good(Era::Modern));
    let setup = with_state("revoke-middle", &issuer, &recorder).section("[limits]\nbody_read_ms = 120_000");
    let gateway = setup.start();
    let alice = gateway.client_of(Some("up"), &issuer, "alice").awaiting("echo");
    let before = recorder.seen_method("tools/call").len();
    let request = alice.modern_bytes(&json!(1), "tools/call", &json!({ "name": "echo", "arguments": {} }));
    let (begun, rest) = request.split_at(request.len() - 1);
    let mut slow = alice.connection();
    slow.send(begun).unwrap();
    // A request that came later and was served: the slow one has been looked at by then.
    assert_eq!(text_of(&alice.call("echo", &json!({}))), "echo {}");
    let revocation = revoked(&gateway, &["user", "alice"]);
    records(&gateway, &revocation, 1);
    slow.send(rest).unwrap();
    assert_eq!(slow.head().status, 401);
    assert_eq!(recorder.seen_method("tools/call").len(), before + 1);
}

/// Only of a call that was sent nobody knows what came of it.
#[test]
fn a_call_that_has_not_left_by_then_was_not_made() {
    let (issuer, silent) = (Issuer::good(), Arc::new(AtomicBool::new(false)));
    let holds = Arc::clone(&silent);
    let recorder = Recorder::scripted(Era::Legacy, move |seen| {
        let begins = seen.rpc_method() == "initialize" && holds.load(Ordering::Acquire);
        begins.then(|| Reply::stream().step(Step::Pause(Duration::from_secs(120))))
    });
    let gateway = start("revoke-unsent", &issuer, &recorder);
    let (begun, alice) = (recorder.seen_method("initialize").len(), gateway.client_of(Some("up"), &issuer, "alice"));
    silent.store(true, Ordering::Release);
    let mut call = alice.connection();
    let params = json!({ "name": "echo", "arguments": {} });
    call.send(&alice.modern_bytes(&json!(1), "tools/call", &params)).unwrap();
    let asked = || recorder.seen_method("initialize").len() > begun;
    place::wait_for("her session at the upstream begins", BOUND, || asked().then_some(()));
    revoked(&gateway, &["user", "alice"]);
    assert_eq!(refused(&call.answer()), (401, 40103, "token_revoked".into()));
    assert!(recorder.seen_method("tools/call").is_empty());
    let outcome = gateway.recorded("outcome", 1).pop().unwrap();
    assert_eq!(outcome["result"]["ending"], "not_forwarded", "{outcome}");
}

#[test]
fn who_is_kept_out_stays_out_until_the_block_is_lifted_through_every_start_and_at_every_gateway() {
    let (issuer, recorder) = (Issuer::good(), Recorder::good(Era::Modern));
    let gateway = start("revoke-block", &issuer, &recorder);
    // The second gateway stands on the state of the first.
    let shared = gateway.setup().folder().join("state").display().to_string();
    let second = Setup::usual("revoke-block-other", &issuer)
        .open_upstream("up", &recorder.url())
        .section(&format!("[state]\ndirectory = \"{shared}\""))
        .start();
    let admitted =
        |gateway: &Gateway, user: &str| gateway.client_of(Some("up"), &issuer, user).call("echo", &json!({}));
    for gateway in [&gateway, &second] {
        gateway.client_of(Some("up"), &issuer, "alice").awaiting("echo");
    }
    let block = revoked(&gateway, &["user", "alice", "--block", "--for", "1h", "--why", "lost laptop"]);
    for gateway in [&gateway, &second] {
        place::wait_for("the block is in force", BOUND, || (admitted(gateway, "alice").status() == 403).then_some(()));
        let refusal = admitted(gateway, "alice");
        assert_eq!(refused(&refusal), (403, 40307, "caller_blocked".into()));
        assert_eq!(refusal.header("www-authenticate"), None, "another token would not help");
        assert_eq!(text_of(&admitted(gateway, "bob")), "echo {}");
        let records = records(gateway, &block, 1);
        assert_eq!((&records[0]["state"], &records[0]["blocks"]), (&json!("in_force"), &json!(true)));
        let recorded = gateway.recorded("refusal", 1).pop().unwrap();
        assert_eq!(
            (&recorded["user"]["subject"], &recorded["refused"]["code"]),
            (&json!("alice"), &json!("caller_blocked"))
        );
        assert!(recorded["refused"]["reason"].as_str().unwrap().contains("lost laptop"));
    }
    let mut gateway = gateway;
    gateway.stop();
    let gateway = gateway.again();
    assert_eq!(admitted(&gateway, "alice").status(), 403, "from the first request on");
    let file = gateway.setup().folder().join("upstreams.toml");
    let listed = revoke(&file, &["list", "--json"]);
    assert_eq!(serde_json::from_slice::<Value>(&listed.stdout).unwrap(), block);
    let shown = String::from_utf8(revoke(&file, &["list"]).stdout).unwrap();
    assert!(shown.contains("user alice: kept out, until ") && shown.contains("because: lost laptop"), "{shown}");
    let id = block["id"].as_str().unwrap();
    assert!(revoke(&file, &["lift", id]).status.success());
    assert_eq!(revoke(&file, &["lift", id]).status.code(), Some(1), "lifted already");
    for gateway in [&gateway, &second] {
        place::wait_for("the block is lifted", BOUND, || (admitted(gateway, "alice").status() == 200).then_some(()));
    }
    assert_eq!(records(&gateway, &block, 3).pop().unwrap()["state"], "lifted");
}

#[test]
fn a_session_ends_by_its_name_and_the_caller_may_begin_another() {
    let (issuer, recorder) = (Issuer::good(), lasting());
    let gateway = start("revoke-session", &issuer, &recorder);
    let alice = gateway.client_of(Some("up"), &issuer, "alice");
    let (session, other) = (alice.initialize(), alice.initialize());
    let mut stream = session.stream();
    assert_eq!(stream.head().status, 200);
    assert_eq!(text_of(&session.call("echo", &json!({}))), "echo {}");
    let called = gateway.recorded("intent", 1).pop().unwrap();
    let name = called["request"]["session"].as_str().unwrap();
    assert!(!session.id().unwrap().contains(name) && name.len() == 32, "a name that opens nothing");
    let revocation = revoked(&gateway, &["session", name]);
    assert_eq!(stream.event(), None);
    assert_eq!(refused(&session.call("echo", &json!({}))), (404, 40402, "session_unknown".into()));
    assert_eq!(text_of(&other.call("echo", &json!({}))), "echo {}");
    assert_eq!(records(&gateway, &revocation, 2).pop().unwrap()["ended"]["sessions"], 1);
    revoked(&gateway, &["session", other.id().unwrap()]);
    place::wait_for("the other has ended", BOUND, || (other.call("echo", &json!({})).status() == 404).then_some(()));
    assert_eq!(text_of(&alice.initialize().call("echo", &json!({}))), "echo {}");
}

#[test]
fn a_grant_is_minted_anew_for_whom_it_concerns() {
    let (issuer, recorder) = (Issuer::good(), Recorder::good(Era::Modern));
    let setup =
        Setup::usual("revoke-grant", &issuer).exchanged_upstream("up", &recorder.url(), &issuer.url(), "\"echo\"");
    let state = setup.folder().join("state");
    let gateway = setup
        .section("[upstreams.up.discovery]\nstrategy = \"none\"")
        .section(&format!("[state]\ndirectory = \"{}\"", state.display()))
        .start();
    let (alice, bob) = (gateway.client_of(Some("up"), &issuer, "alice"), gateway.client_of(Some("up"), &issuer, "bob"));
    let alice = alice.awaiting("echo");
    let shown = |client: &Client| {
        assert_eq!(text_of(&client.call("echo", &json!({}))), "echo {}");
        let calls: Vec<Seen> = recorder.seen_method("tools/call");
        calls.last().unwrap().header("authorization").unwrap().to_owned()
    };
    let (first, bobs) = (shown(&alice), shown(&bob));
    assert_eq!(shown(&alice), first);
    // The client's secret is not at hand in the operator's shell, and is not needed.
    revoked(&gateway, &["grant", "--upstream", "up", "--user", "alice"]);
    place::wait_for("another credential", BOUND, || (shown(&alice) != first).then_some(()));
    assert_eq!(shown(&bob), bobs);
    let file = gateway.setup().folder().join("upstreams.toml");
    let whose = revoke(&file, &["grant"]);
    assert_eq!(whose.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&whose.stderr).contains("say whose grants"));
}

#[test]
fn an_issuer_that_is_taken_out_takes_its_callers_with_it() {
    let (issuer, gone, recorder) = (Issuer::good(), Issuer::good(), lasting());
    let gateway = with_state("revoke-issuer", &issuer, &recorder).issuer(&gone.url()).start();
    gateway.client_of(Some("up"), &issuer, "warm").awaiting("echo");
    let mut stays = Open::of(&gateway, &issuer.token("bob", &gateway.endpoint(Some("up"))));
    let mut goes = Open::of(&gateway, &gone.token("alice", &gateway.endpoint(Some("up"))));
    let abandoned = recorder.abandoned();
    let table = format!("[[issuers]]\nissuer = \"{}\"", gone.url());
    let mut text = String::new();
    gateway.reconfigure(|before| {
        before.clone_into(&mut text);
        before.split_once(&table).unwrap().0.to_owned()
    });
    goes.ends(&recorder, abandoned);
    assert_eq!(goes.client.call("echo", &json!({})).status(), 401);
    stays.goes_on();
    let records = gateway.recorded("revocation", 2);
    assert_eq!(
        (&records[0]["revocation"]["kind"], &records[0]["revocation"]["name"]),
        (&json!("issuer"), &json!(gone.url()))
    );
    gateway.reconfigure(|_| text);
    let back = gateway.client_of(Some("up"), &gone, "alice");
    place::wait_for("trusted again", place::PATIENCE, || (back.call("echo", &json!({})).status() == 200).then_some(()));
}

/// Two machines: what each is called, and what it is.
const MACHINES: &str = "[[certificates]]\nuri = \"spiffe://example.org/reader\"\nagent = \"reader\"\ngroups = [\"readers\"]\n\n\
    [[certificates]]\nuri = \"spiffe://example.org/writer\"\nagent = \"writer\"\n";

/// Who is described otherwise is judged anew, and what was open under the former description ends; who is described as
/// before notices nothing.
#[test]
fn what_the_configuration_says_otherwise_ends_what_goes_on_by_what_it_said_before() {
    let (issuer, other, recorder) = (Issuer::good(), Issuer::good(), lasting());
    let setup = Setup::usual("revoke-described", &issuer).api_keys().issuer(&other.url()).mutual_tls();
    let gateway = setup.section(MACHINES).open_upstream("up", &recorder.url()).start();
    gateway.client_of(Some("up"), &issuer, "warm").awaiting("echo");
    let machine = |name: &str| gateway.setup().authority().workload(name, &format!("spiffe://example.org/{name}"));
    let machines = ["reader", "writer"].map(|name| gateway.client_showing(Some("up"), &machine(name)));
    let [mut reader, mut writer] = machines.map(Open::by);
    let token = |issuer: &Issuer, user: &str| issuer.token(user, &gateway.endpoint(Some("up")));
    let mut bob = Open::of(&gateway, &token(&issuer, "bob"));
    let mut alice = Open::of(&gateway, &token(&other, "alice"));
    let mut carol = Open::of(&gateway, &gateway.key("--user carol"));
    let change = |changes: &[(&str, &str)]| {
        gateway.reconfigure(|text| {
            changes.iter().fold(text.to_owned(), |text, (from, to)| {
                assert!(text.contains(from), "{text}");
                text.replacen(from, to, 1)
            })
        });
    };
    let enforced = |number: usize| {
        let record = gateway.recorded("revocation", 2 * number).pop().unwrap()["revocation"].clone();
        counted(&record, 0);
        (record["kind"].as_str().unwrap().to_owned(), record["name"].as_str().unwrap().to_owned())
    };

    // A machine is added, and one changes: it may come again.
    let abandoned = recorder.abandoned();
    let third = "agent = \"writer\"\n\n[[certificates]]\ndns = \"third\"\n";
    change(&[("[\"readers\"]", "[\"others\"]"), ("agent = \"writer\"\n", third)]);
    reader.ends(&recorder, abandoned);
    assert_eq!(enforced(1), ("agent".into(), "reader".into()));
    assert_eq!(text_of(&reader.session.call("echo", &json!({}))), "echo {}");
    // One is gone.
    let abandoned = recorder.abandoned();
    change(&[("[[certificates]]\nuri = \"spiffe://example.org/writer\"\nagent = \"writer\"\n", "")]);
    writer.ends(&recorder, abandoned);
    assert_eq!(enforced(2), ("agent".into(), "writer".into()));
    assert_eq!(refused(&writer.client.call("echo", &json!({}))).2, "token_missing");
    // An issuer's claims mean something else.
    let abandoned = recorder.abandoned();
    let claims = |groups: &str| {
        let issuer = format!("issuer = \"{}\"\nalgorithms = [\"ES256\"]\n", other.url());
        format!("{issuer}claims = {{ tenant = \"tenant\", groups = \"{groups}\" }}")
    };
    change(&[(&claims("groups"), &claims("roles"))]);
    alice.ends(&recorder, abandoned);
    assert_eq!(enforced(3), ("issuer".into(), other.url()));
    assert_eq!(text_of(&alice.client.call("echo", &json!({}))), "echo {}", "the same token, judged anew");
    // Keys are taken no more.
    let abandoned = recorder.abandoned();
    change(&[("enabled = true", "enabled = false")]);
    carol.ends(&recorder, abandoned);
    assert_eq!(enforced(4), ("issuer".into(), "urn:tollgate:keys".into()));
    assert_eq!(carol.client.call("echo", &json!({})).status(), 401);
    bob.goes_on();
    change(&[("enabled = false", "enabled = true")]);
    place::wait_for("taken again", place::PATIENCE, || {
        (carol.client.call("echo", &json!({})).status() == 200).then_some(())
    });
}

/// A list of the authority's is read again when it changes (RFC 5280 §5): connections of who is on it are cut, nothing goes
/// on under them, and no new ones are there; a list that ran out lets nobody in.
#[test]
fn a_certificate_that_its_authority_takes_back_is_good_no_more() {
    let (issuer, recorder) = (Issuer::good(), lasting());
    let setup = with_state("revoke-certificate", &issuer, &recorder).mutual_tls_with_list();
    let gateway = setup.section(MACHINES).start();
    gateway.client_of(Some("up"), &issuer, "warm").awaiting("echo");
    let authority = gateway.setup().authority();
    let machine = |name: &str| authority.workload(name, &format!("spiffe://example.org/{name}"));
    let (reader, writer) = (machine("reader"), machine("writer"));
    let showing = |leaf| gateway.client_showing(Some("up"), leaf);
    let mut goes = Open::by(showing(&reader));
    let mut stays = Open::by(showing(&writer));
    // A person whose token is bound to the same certificate.
    let bound = token(&gateway, &issuer, "alice", &json!({ "cnf": { "x5t#S256": reader.thumbprint() } }));
    let mut persons = Open::by(showing(&reader).token(&bound));
    let abandoned = recorder.abandoned();
    authority.takes_back(&[&reader], 2100);
    for connection in [&mut goes.listener, &mut goes.stream, &mut goes.call, &mut persons.listener, &mut persons.call] {
        assert!(connection.closes_within(BOUND));
    }
    place::wait_for("calls under way and held ones end", BOUND, || {
        (recorder.abandoned() >= abandoned + 4).then_some(())
    });
    let record = &gateway.recorded("revocation", 1)[0]["revocation"];
    assert_eq!((&record["kind"], &record["name"]), (&json!("token"), &json!(reader.thumbprint())), "{record}");
    // No handshake ends well with it, whatever it would ask.
    let accepted = |leaf| {
        let tls = authority.client_showing(&["http/1.1"], Some(leaf));
        Connection::open_tls(gateway.address(), "localhost", &tls).is_ok_and(|mut connection| {
            let body = showing(leaf).modern_bytes(&json!(1), "tools/list", &json!({}));
            connection.send(&body).is_ok() && connection.try_head().is_ok_and(|head| head.status == 200)
        })
    };
    assert!(!accepted(&reader) && accepted(&writer));
    stays.goes_on();
    assert_eq!(gateway.client_of(Some("up"), &issuer, "alice").call("echo", &json!({})).status(), 200);

    // What was taken back by mistake comes again; what nobody keeps up says nothing of anybody.
    authority.takes_back(&[], 2100);
    place::wait_for("given back", place::PATIENCE, || accepted(&reader).then_some(()));
    authority.takes_back(&[], 2021);
    place::wait_for("the list ran out", BOUND, || (!accepted(&writer)).then_some(()));
    assert!(stays.listener.closes_within(BOUND));
    assert_eq!(gateway.client_of(Some("up"), &issuer, "alice").call("echo", &json!({})).status(), 200);
}

#[test]
fn without_a_folder_nothing_can_be_revoked_and_that_is_said() {
    let issuer = Issuer::good();
    let file = Setup::usual("revoke-nowhere", &issuer).open_upstream("up", "https://up.invalid/mcp").write();
    let output = revoke(&file, &["user", "alice"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("has no `[state] directory`"));
}

#[test]
fn what_goes_on_ends_when_the_issuer_takes_its_word_back() {
    let (issuer, recorder) = (Issuer::good(), lasting());
    let (asked, tokens) = (format!("{}/introspect", issuer.url()), "tokens = [\"opaque\", \"jwt\"], cache_s = 1");
    let setup = Setup::new("revoke-introspected").introspecting(&issuer.url(), &asked, tokens);
    let gateway = setup.policy("allow.cedar", ALLOW_ALL).open_upstream("up", &recorder.url()).start();
    gateway.client_of(Some("up"), &issuer, "warm").awaiting("echo");
    let claims = |user: &str| issuer.claims(user, &gateway.endpoint(Some("up")));
    let mut bob = Open::of(&gateway, &issuer.opaque(&claims("bob")));
    for (turn, token) in [issuer.opaque(&claims("alice")), issuer.sign(&claims("carol"))].iter().enumerate() {
        let (mut open, abandoned) = (Open::of(&gateway, token), recorder.abandoned());
        issuer.revoke(token);
        // Nobody shows the token meanwhile.
        open.ends(&recorder, abandoned);
        assert_eq!(refused(&open.client.call("echo", &json!({}))), (401, 40102, "token_invalid".into()));
        let all = gateway.recorded("revocation", 2 * (turn + 1));
        let record = &all.last().unwrap()["revocation"];
        assert_eq!((&record["kind"], &record["state"]), (&json!("token"), &json!("enforced")), "{record}");
        counted(record, 0);
        assert_eq!(record["why"], "its issuer calls it inactive");
    }
    bob.goes_on();
}

/// One conversation with an upstream serves all that listen in one name; the token that it is held under may end first.
#[test]
fn who_listens_under_another_token_hears_on_when_the_one_in_use_is_revoked() {
    let (issuer, watched) = (Issuer::good(), Watched::new(Era::Modern));
    let gateway = start("revoke-listened", &issuer, &watched.recorder);
    let filter = json!({ "resourceSubscriptions": ["file:///a"] });
    let listen = |name: &str, life: u64| {
        let token = token(&gateway, &issuer, "alice", &json!({ "jti": name, "exp": now() + life }));
        let mut connection = gateway.client(Some("up")).token(&token).listen(&json!(1), &filter);
        assert_eq!(listening(&mut connection)["params"]["notifications"], filter);
        connection
    };
    let (mut ends, mut stays) = (listen("longer", 600), listen("shorter", 300));
    let before = watched.sets().len();
    revoked(&gateway, &["token", "longer"]);
    assert_eq!(ends.event().unwrap()["id"], 1);
    place::wait_for("the upstream is asked in the other's name", BOUND, || {
        (watched.sets().len() > before).then_some(())
    });
    assert_eq!(updated(&stays.event().unwrap()), "file:///a", "what was not heard meanwhile is told as a change");
    watched.change();
    assert_eq!(updated(&stays.event().unwrap()), "file:///a");
}

/// Fewer scopes, or an earlier end, said of an opaque token and of a JWT.
#[test]
fn what_goes_on_under_a_token_as_it_was_ends_when_its_issuer_narrows_it_and_the_token_goes_on_narrower() {
    let said: Arc<Mutex<HashMap<String, Value>>> = Arc::default();
    let answers = Arc::clone(&said);
    let issuer = Issuer::scripted(move |seen| {
        let answer = answers.lock().get(&seen.field("token")?).cloned();
        answer.map(|answer| Reply::json(200, &answer))
    });
    let recorder = lasting();
    let (asked, tokens) = (format!("{}/introspect", issuer.url()), "tokens = [\"opaque\", \"jwt\"], cache_s = 1");
    let setup = Setup::new("revoke-narrowed").introspecting(&issuer.url(), &asked, tokens);
    let needs = "grant = { strategy = \"none\" }\n[[upstreams.up.tools]]\nmatch = \"add\"\nrequires = [\"tools:call\"]";
    let setup = setup.policy("allow.cedar", ALLOW_ALL).upstream("up", &recorder.url(), needs);
    let gateway = setup.start();
    gateway.client_of(Some("up"), &issuer, "warm").awaiting("echo");
    let claims = |user: &str| issuer.claims(user, &gateway.endpoint(Some("up")));
    let mut bob = Open::of(&gateway, &issuer.opaque(&claims("bob")));
    let narrowed = |claims: &Value, claim: &str, value: Value| {
        let mut narrower = claims.clone();
        (narrower["active"], narrower[claim]) = (json!(true), value);
        narrower
    };
    let (alice, carol, dave, erin) = (claims("alice"), claims("carol"), claims("dave"), claims("erin"));
    let soon = json!(now() + 120);
    for (turn, (token, narrower, fewer)) in [
        (issuer.opaque(&alice), narrowed(&alice, "scope", json!("tools:read")), true),
        (issuer.sign(&carol), narrowed(&carol, "scope", json!("tools:read")), true),
        (issuer.opaque(&dave), narrowed(&dave, "exp", soon.clone()), false),
        (issuer.sign(&erin), narrowed(&erin, "exp", soon.clone()), false),
    ]
    .into_iter()
    .enumerate()
    {
        let (mut open, abandoned) = (Open::of(&gateway, &token), recorder.abandoned());
        assert_eq!(open.client.call("add", &json!({})).status(), 200, "{turn}");
        said.lock().insert(token, narrower);
        // Nobody shows the token meanwhile.
        open.ends(&recorder, abandoned);
        assert_eq!(text_of(&open.client.call("echo", &json!({}))), "echo {}", "{turn}");
        let add = open.client.call("add", &json!({}));
        if fewer {
            assert_eq!(refused(&add), (403, 40303, "scope_insufficient".into()), "{turn}");
        } else {
            assert_eq!(add.status(), 200, "{turn}");
        }
        // What begins now begins under what is left, and goes on.
        let mut listener = open.client.listen(&json!(9), &json!({ "toolsListChanged": true }));
        assert_eq!(listener.head().status, 200);
        assert_eq!(listener.event().unwrap()["method"], "notifications/subscriptions/acknowledged");
        let all = gateway.recorded("revocation", turn + 1);
        let record = &all[turn]["revocation"];
        assert_eq!((&record["kind"], &record["state"]), (&json!("token"), &json!("enforced")), "{record}");
        counted(record, 0);
        assert_eq!(record["why"], "its issuer gives it other rights than before");
        assert!(!listener.closes_within(Duration::from_millis(1_500)), "{turn}");
    }
    assert_eq!(reasons(&gateway, "alice")[..2], ["revoked", "revoked"]);
    assert_eq!(gateway.recorded("revocation", 4).len(), 4, "each token was narrowed once");
    bob.goes_on();
}

#[test]
fn what_goes_on_under_a_key_ends_with_the_key() {
    let (issuer, recorder) = (Issuer::good(), lasting());
    let gateway = Setup::usual("revoke-key", &issuer).api_keys().open_upstream("up", &recorder.url()).start();
    let (bobs, key) = (gateway.key("--user bob"), gateway.key("--user alice"));
    for key in [&bobs, &key] {
        gateway.client(Some("up")).token(key).awaiting("echo");
    }
    let (mut bob, mut open) = (Open::of(&gateway, &bobs), Open::of(&gateway, &key));
    let abandoned = recorder.abandoned();
    gateway.keys(&format!("revoke {}", key.split('_').nth(1).unwrap()));
    open.ends(&recorder, abandoned);
    assert_eq!(refused(&open.client.call("echo", &json!({}))), (401, 40102, "token_invalid".into()));
    bob.goes_on();
    let record = &gateway.recorded("revocation", 2)[1]["revocation"];
    assert_eq!((&record["state"], &record["why"]), (&json!("enforced"), &json!("the API key is revoked")), "{record}");
    let known: Vec<Value> = gateway.recorded("key", 3).iter().map(|record| record["key"].clone()).collect();
    let states: Vec<_> =
        known.iter().map(|key| (key["state"].as_str().unwrap(), key["user"].as_str().unwrap())).collect();
    assert_eq!(states, [("made", "bob"), ("made", "alice"), ("revoked", "alice")]);
    assert_eq!(known[2]["id"], key.split('_').nth(1).unwrap());
}
