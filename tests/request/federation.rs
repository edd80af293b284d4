//! Upstreams of both eras behind `/mcp`: what broke elsewhere when a second upstream came, and does not here.
//!
//! Named after the reports to another gateway. What published servers and clients make of a federation is in
//! `clients/federation.rs`.

use std::{
    net::TcpListener,
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use super::{refused, text_of};
use crate::harness::{
    gateway::{Gateway, Setup},
    http::Answer,
    issuer::Issuer,
    mcp::Client,
    place,
    recorder::{Era, Recorder, Reply, Seen, Step, tools},
    rmcp_server,
};

const BOTH: [Era; 2] = [Era::Modern, Era::Legacy];
const PATIENCE: Duration = place::PATIENCE;

/// One request of a client of either era.
fn ask(client: &Client, era: Era, method: &str, params: &Value) -> Answer {
    match era {
        Era::Modern => client.modern(method, params),
        Era::Legacy => client.initialize().request(method, params),
    }
}

fn called(client: &Client, era: Era, tool: &str, arguments: &Value) -> Answer {
    ask(client, era, "tools/call", &json!({ "name": tool, "arguments": arguments }))
}

fn listed(client: &Client, era: Era) -> Vec<String> {
    let result = ask(client, era, "tools/list", &json!({})).json()["result"].clone();
    let tools = result["tools"].as_array().unwrap_or_else(|| panic!("no tools: {result}"));
    tools.iter().map(|tool| tool["name"].as_str().unwrap().to_owned()).collect()
}

/// A recorder whose one tool has this name.
fn with_tool(
    era: Era,
    name: &'static str,
    script: impl Fn(&Seen) -> Option<Reply> + Send + Sync + 'static,
) -> Recorder {
    Recorder::scripted(era, move |seen| {
        script(seen).or_else(|| {
            let in_session = era == Era::Modern || seen.header("mcp-session-id").is_some();
            (seen.rpc_method() == "tools/list" && in_session).then(|| {
                let tools = [json!({ "name": name, "inputSchema": { "type": "object" } })];
                Reply::result(
                    seen,
                    &json!({ "resultType": "complete", "tools": tools, "ttlMs": 600_000, "cacheScope": "private" }),
                )
            })
        })
    })
}

/// A modern server as strict as those on the Python SDK: every request carries the envelope, whoever made it.
fn strict(name: &'static str) -> Recorder {
    with_tool(Era::Modern, name, |seen| {
        let call = seen.json();
        let whole = ["protocolVersion", "clientCapabilities"]
            .iter()
            .all(|key| !call["params"]["_meta"][format!("io.modelcontextprotocol/{key}")].is_null());
        (!whole && !call["id"].is_null()).then(|| Reply::error(seen, 400, -32602, "the envelope is not whole"))
    })
}

fn refused_by(recorder: &Recorder) -> Vec<Value> {
    let seen = recorder.seen().into_iter().map(|seen| seen.json()).filter(|call| !call["id"].is_null());
    seen.filter(|call| call["params"]["_meta"]["io.modelcontextprotocol/protocolVersion"] != "2026-07-28").collect()
}

/// The lists are read at the start, and not again while a test lasts.
const READ_ONCE: &str = "refresh_s = 3600\ngrant = { strategy = \"none\" }";

/// How often it was asked for something: whether it would tell of changes, the gateway asks when it comes to it.
fn asked(recorder: &Recorder) -> usize {
    let asks = |seen: &&Seen| seen.method == "POST" && seen.rpc_method() != "subscriptions/listen";
    recorder.seen().iter().filter(asks).count()
}

/// agentgateway #3357: with two targets, the gateway's own request that finds out who has a tool lacked `_meta`, and every
/// modern call failed with -32602.
#[test]
fn with_two_upstreams_every_request_to_a_modern_one_carries_the_whole_envelope() {
    let issuer = Issuer::good();
    for (prefix, add, find) in
        [("always", "one__add", "two__find"), ("on_conflict", "add", "find"), ("never", "add", "find")]
    {
        let (one, two) = (strict("add"), strict("find"));
        let old = with_tool(Era::Legacy, "erase", |_| None);
        let setup = Setup::usual("strict", &issuer).gateway(&format!("prefix = \"{prefix}\""));
        let setup = setup.upstream("one", &one.url(), READ_ONCE).upstream("two", &two.url(), READ_ONCE);
        let gateway = setup.upstream("old", &old.url(), READ_ONCE).start();
        let erase = if prefix == "always" { "old__erase" } else { "erase" };
        let alice = gateway.client_of(None, &issuer, "alice").awaiting(add).awaiting(find).awaiting(erase);
        for era in BOTH {
            for (tool, owner, other) in [(add, &one, &two), (find, &two, &one)] {
                let before = (asked(owner), asked(other), asked(&old));
                let answer = called(&alice, era, tool, &json!({ "a": 1 }));
                assert_eq!((answer.status(), text_of(&answer).contains("{\"a\":1}")), (200, true), "{prefix} {era:?}");
                // Who has it is known: nobody is asked, and the one that has it is called once.
                let after = (asked(owner), asked(other), asked(&old));
                assert_eq!(after, (before.0 + 1, before.1, before.2), "{prefix} {era:?} {tool}");
            }
        }
        for recorder in [&one, &two] {
            assert_eq!(refused_by(recorder), Vec::<Value>::new(), "{prefix}");
        }
    }
}

/// What a server without sessions for the asking says to whom speaks 2026-07-28, as in the report.
fn legacy_saying(name: &'static str, status: u16, message: &'static str) -> Recorder {
    with_tool(Era::Legacy, name, move |seen| {
        let modern = seen.rpc_method() == "server/discover";
        modern.then(|| {
            let error = json!({ "code": -32601, "message": message });
            match status {
                404 => Reply::text(404, "text/plain", "Invalid session ID"),
                _ => Reply::json(status, &json!({ "jsonrpc": "2.0", "id": null, "error": error })),
            }
        })
    })
}

/// agentgateway #3004: modern clients lost the tools of every legacy target, under a result that said `complete`.
#[test]
fn a_modern_client_sees_and_uses_legacy_upstreams_beside_modern_ones() {
    let issuer = Issuer::good();
    let legacy = [
        ("grafana", legacy_saying("search", 404, "")),
        ("clickhouse", legacy_saying("query", 400, "Missing session ID")),
        ("kubernetes", legacy_saying("pods", 400, "JSON RPC not handled: \"server/discover\" unsupported")),
    ];
    let (recorded, rust) = (Recorder::good(Era::Modern), rmcp_server::start());
    let mut setup = Setup::usual("nothing-lost", &issuer)
        .open_upstream("recorded", &recorded.url())
        .open_upstream("rust", &format!("{}/mcp", rust.origin()));
    for (id, recorder) in &legacy {
        setup = setup.open_upstream(id, &recorder.url());
    }
    let gateway = setup.start();
    let all = ["clickhouse__query", "grafana__search", "kubernetes__pods", "recorded__add", "rust__add"];
    let mut alice = gateway.client_of(None, &issuer, "alice");
    for tool in all {
        alice = alice.awaiting(tool);
    }
    let seen: Vec<Vec<String>> = BOTH.iter().map(|era| listed(&alice, *era)).collect();
    assert_eq!(seen[0], seen[1], "both eras see the same");
    assert!(all.iter().all(|tool| seen[0].contains(&(*tool).to_owned())), "{:?}", seen[0]);
    for era in BOTH {
        for tool in all {
            let said = text_of(&called(&alice, era, tool, &json!({ "a": 1, "b": 2 })));
            let expected = if tool == "rust__add" { "3" } else { "{\"a\":1,\"b\":2}" };
            assert!(said.ends_with(expected), "{era:?} {tool}: {said}");
        }
    }
    for method in ["server/discover", "tools/list"] {
        let result = alice.modern(method, &json!({})).json()["result"].clone();
        assert_eq!(result["resultType"], "complete", "{method}");
        assert!(result["_meta"]["dev.tollgate/degraded"].is_null(), "{method}: nothing is missing: {result}");
    }
}

/// Two upstreams that count what reaches them, one of them denied to bob; its credential is exchanged.
struct Fenced {
    issuer: Issuer,
    open: Recorder,
    denied: Recorder,
    gateway: Gateway,
}

impl Fenced {
    fn start(denied: Era) -> Self {
        let issuer = Issuer::good();
        let (open, denied) = (Recorder::good(Era::Modern), Recorder::good(denied));
        let rules = "@id(\"all\")\npermit (principal, action, resource);\n\
                     @id(\"not-bob\")\nforbid (principal, action, resource == Upstream::\"denied\") when { principal.subject == \"bob\" };\n";
        let gateway = Setup::new("fenced")
            .issuer(&issuer.url())
            .policy("rules.cedar", rules)
            .upstream("open", &open.url(), READ_ONCE)
            .exchanged_upstream("denied", &denied.url(), &issuer.url(), "\"tools:call\"")
            .section("refresh_s = 3600")
            .start();
        let alice = gateway.client_of(None, &issuer, "alice").awaiting("open__echo");
        // Whoever may use it finds it there.
        place::wait_for("the other upstream's tools", PATIENCE, || {
            alice.tools().contains(&"denied__echo".to_owned()).then_some(())
        });
        // What the gateway asks of its own accord comes before that of its callers.
        place::wait_for("whether they tell of changes", PATIENCE, || {
            let listens = |seen: &Seen| seen.method == "GET" || seen.rpc_method() == "subscriptions/listen";
            [&open, &denied].iter().all(|recorder| recorder.seen().iter().any(listens)).then_some(())
        });
        Self { issuer, open, denied, gateway }
    }
}

/// agentgateway #3586: what a client asked of all targets went to those, too, that policy denies it.
#[test]
fn nothing_is_asked_of_an_upstream_in_the_name_of_a_caller_who_may_not_use_it() {
    for era in BOTH {
        let Fenced { issuer, open, denied, gateway } = Fenced::start(era);
        let bob = gateway.client_of(None, &issuer, "bob");
        let before = (asked(&denied), issuer.asked().len());
        for client_era in BOTH {
            assert_eq!(listed(&bob, client_era), ["open__add", "open__echo", "open__erase"]);
            for method in ["prompts/list", "resources/list", "resources/templates/list"] {
                let list = ask(&bob, client_era, method, &json!({}));
                assert!(!list.text().contains("denied"), "{method}: {}", list.text());
            }
            assert!(text_of(&called(&bob, client_era, "open__echo", &json!({}))).starts_with("echo"));
            let answer = called(&bob, client_era, "denied__echo", &json!({}));
            assert_eq!(refused(&answer), (200, -32602, "tool_unknown".into()));
            let read = ask(&bob, client_era, "resources/read", &json!({ "uri": "denied+note:a" }));
            assert_eq!(refused(&read).2, "resource_unknown");
            let reference = json!({ "type": "ref/prompt", "name": "denied__greet" });
            let completion = json!({ "ref": reference, "argument": { "name": "a", "value": "" } });
            refused(&ask(&bob, client_era, "completion/complete", &completion));
        }
        let discovered = bob.modern("server/discover", &json!({}));
        assert!(!discovered.text().contains("denied"), "{}", discovered.text());
        assert_eq!((asked(&denied), issuer.asked().len()), before, "{:?}", denied.seen().last());
        assert_eq!(open.seen_method("tools/call").len(), 2);
        // The silence is no accident: a call of somebody who may makes it speak.
        let alice = gateway.client_of(None, &issuer, "alice");
        assert!(text_of(&called(&alice, Era::Modern, "denied__echo", &json!({}))).starts_with("echo"));
        assert!(asked(&denied) > before.0 && issuer.asked().len() > before.1);
    }
}

/// What `ask` gives, and that nobody waited for an upstream that is not there: ten seconds are what it would have.
#[track_caller]
fn at_once<T>(ask: impl FnOnce() -> T) -> T {
    let began = Instant::now();
    let given = ask();
    assert!(began.elapsed() < Duration::from_secs(10), "waited for what is not there: {:?}", began.elapsed());
    given
}

/// agentgateway #1266, #138: one target that could not be reached took the whole session with it.
#[test]
fn an_upstream_that_cannot_be_reached_takes_nothing_from_the_others() {
    let issuer = Issuer::good();
    let (modern, legacy) = (Recorder::good(Era::Modern), Recorder::good(Era::Legacy));
    let refusing = format!("http://127.0.0.1:{}/mcp", place::free_port());
    // Takes connections and never says a word.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = format!("http://{}/mcp", listener.local_addr().unwrap());
    let broken = Recorder::serving(|_| Reply::status(500));
    let nonsense = Recorder::serving(|_| Reply::text(200, "text/html", "<p>not here</p>"));
    let gateway = Setup::usual("unreachable", &issuer)
        .open_upstream("modern", &modern.url())
        .open_upstream("refusing", &refusing)
        .open_upstream("silent", &silent)
        .open_upstream("broken", &broken.url())
        .open_upstream("nonsense", &nonsense.url())
        .open_upstream("legacy", &legacy.url())
        .start();
    let alice = gateway.client_of(None, &issuer, "alice").awaiting("modern__echo").awaiting("legacy__echo");
    let missing = json!(["broken", "nonsense", "refusing", "silent"]);
    for era in BOTH {
        assert_eq!(at_once(|| listed(&alice, era)).len(), 6, "{era:?}");
        for tool in ["modern__echo", "legacy__echo"] {
            let answer = at_once(|| called(&alice, era, tool, &json!({})));
            assert_eq!(text_of(&answer), "echo {}", "{era:?} {tool}");
        }
        // Who asks is told what is missing, and why a call of it fails.
        let list = at_once(|| ask(&alice, era, "tools/list", &json!({}))).json();
        assert_eq!(list["result"]["_meta"]["dev.tollgate/degraded"], missing, "{era:?}");
        refused(&at_once(|| called(&alice, era, "refusing__echo", &json!({}))));
    }
    let begun = alice.initialize().initialized;
    assert_eq!(begun["result"]["_meta"]["dev.tollgate/degraded"], missing, "{begun}");
    assert!(gateway.verify().status.success());
}

/// What breaks off says nothing of the era: an upstream that speaks both is a modern one.
#[test]
fn an_upstream_whose_first_word_breaks_off_is_asked_again() {
    let issuer = Issuer::good();
    for nth_way in 0..3 {
        let asked = AtomicUsize::new(0);
        let recorder = Recorder::scripted(Era::Modern, move |seen| match seen.rpc_method().as_str() {
            "server/discover" if asked.fetch_add(1, Ordering::AcqRel) == 0 => Some(match nth_way {
                0 => Reply::status(200)
                    .header("content-type", "application/json")
                    .step(Step::Bytes("{\"jsonrpc\":".into()))
                    .step(Step::Cut),
                1 => Reply::text(200, "application/json", "{\"jsonrpc\":"),
                _ => Reply::stream(),
            }),
            "initialize" => {
                let server = json!({ "name": "recorder", "version": "1" });
                let result =
                    json!({ "protocolVersion": "2025-11-25", "capabilities": { "tools": {} }, "serverInfo": server });
                Some(Reply::result(seen, &result))
            }
            "tools/list" => Some(Reply::result(
                seen,
                &json!({ "resultType": "complete", "tools": tools(), "ttlMs": 60_000, "cacheScope": "private" }),
            )),
            _ => None,
        });
        let gateway = Setup::usual("broken-off", &issuer).open_upstream("up", &recorder.url()).start();
        let alice = gateway.client_of(Some("up"), &issuer, "alice").awaiting("echo");
        assert_eq!(text_of(&alice.call("echo", &json!({}))), "echo {}", "{nth_way}");
        assert!(recorder.seen_method("initialize").is_empty(), "{nth_way}: nobody said that it is a legacy one");
    }
}

/// agentgateway #1266: nor does one that goes away in the middle of a session, and it is used again when it is back.
#[test]
fn an_upstream_that_goes_away_in_a_session_is_missed_alone_and_found_again() {
    use std::sync::{Arc, atomic::AtomicBool};
    let issuer = Issuer::good();
    for era in BOTH {
        let away = Arc::new(AtomicBool::new(false));
        let switch = Arc::clone(&away);
        let coming = with_tool(era, "find", move |_| switch.load(Ordering::Acquire).then(|| Reply::status(502)));
        let staying = Recorder::good(Era::Legacy);
        let lines = "grant = { strategy = \"none\" }\nrefresh_s = 1";
        let gateway = Setup::usual("coming", &issuer)
            .upstream("coming", &coming.url(), lines)
            .open_upstream("staying", &staying.url())
            .start();
        let alice = gateway.client_of(None, &issuer, "alice").awaiting("coming__find").awaiting("staying__echo");
        let session = alice.initialize();
        let find = || session.call("coming__find", &json!({}));
        assert!(text_of(&find()).starts_with("find"));
        away.store(true, Ordering::Release);
        refused(&find());
        assert_eq!(text_of(&session.call("staying__echo", &json!({}))), "echo {}");
        assert_eq!(session.request("ping", &json!({})).status(), 200, "the session lives");
        away.store(false, Ordering::Release);
        place::wait_for("it is used again", PATIENCE, || find().json()["result"].is_object().then_some(()));
    }
}
