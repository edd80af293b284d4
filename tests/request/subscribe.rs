//! Changes of single resources: told to whom it was allowed, asked of the upstream in their own name, once for all that
//! they want, and no longer than anybody wants it (spec §2.1, §2.2, §3.7).

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use serde_json::{Value, json};

use super::{
    listen::{PATIENCE, listening},
    refused,
};
use crate::harness::{
    gateway::{ALLOW_ALL, Gateway, Setup},
    issuer::Issuer,
    place,
    recorder::{Era, Recorder, Reply, Seen, Step},
};

/// A server of resources that says when `file:///a` changes, and then what is below it, each time the counter goes up;
/// of `file:///mute`, and of what is not its own, it tells nothing.
pub(super) struct Watched {
    pub(super) recorder: Recorder,
    counter: Arc<AtomicUsize>,
}

impl Watched {
    pub(super) fn new(era: Era) -> Self {
        let counter = Arc::new(AtomicUsize::new(0));
        let shared = Arc::clone(&counter);
        Self { recorder: Recorder::scripted(era, move |seen| answer(era, seen, &shared)), counter }
    }

    pub(super) fn change(&self) {
        self.counter.fetch_add(1, Ordering::AcqRel);
    }

    /// The sets of URIs that were listened for, where the server is modern.
    pub(super) fn sets(&self) -> Vec<Value> {
        let uris = |seen: &Seen| seen.json()["params"]["notifications"]["resourceSubscriptions"].clone();
        let all = self.recorder.seen_method("subscriptions/listen");
        all.iter().map(uris).filter(Value::is_array).collect()
    }

    /// The URIs of these requests, where the server is legacy.
    fn asked(&self, method: &str) -> Vec<String> {
        let uri = |seen: &Seen| seen.json()["params"]["uri"].as_str().unwrap().to_owned();
        self.recorder.seen_method(method).iter().map(uri).collect()
    }
}

fn answer(era: Era, seen: &Seen, counter: &Arc<AtomicUsize>) -> Option<Reply> {
    let capabilities = json!({ "tools": {}, "resources": { "subscribe": true, "listChanged": true } });
    let now = counter.load(Ordering::Acquire);
    let word =
        |uri: &str| json!({ "jsonrpc": "2.0", "method": "notifications/resources/updated", "params": { "uri": uri } });
    let words = |stream: Reply| {
        let stream = (now + 1..now + 9).fold(stream, |stream, next| {
            let uri = if next % 2 == 1 { "file:///a" } else { "file:///a/part" };
            let stream = stream.step(Step::until(counter, next));
            // Of what nobody asked for, too.
            stream.event(&word(uri)).event(&word(uri)).event(&word("file:///ab")).event(&word("other:x"))
        });
        stream.step(Step::Pause(PATIENCE * 3))
    };
    let uris = &seen.json()["params"]["notifications"]["resourceSubscriptions"];
    match (seen.rpc_method().as_str(), era) {
        ("server/discover", Era::Modern) => Some(Reply::discovered(seen, &capabilities)),
        ("initialize", Era::Legacy) => {
            let result = json!({
                "protocolVersion": "2025-11-25", "capabilities": capabilities, "serverInfo": { "name": "recorder", "version": "1" },
            });
            Some(Reply::result(seen, &result).header("mcp-session-id", "session-of-the-recorder"))
        }
        ("resources/list", _) => Some(Reply::result(
            seen,
            &json!({
                "resultType": "complete", "ttlMs": 600_000, "cacheScope": "private",
                "resources": [{ "uri": "file:///a", "name": "a" }, { "uri": "file:///b", "name": "b" }],
            }),
        )),
        ("resources/templates/list", _) => Some(Reply::result(
            seen,
            &json!({
                "resultType": "complete", "ttlMs": 600_000, "cacheScope": "private", "resourceTemplates": [],
            }),
        )),
        ("subscriptions/listen", Era::Modern) if uris.is_array() => {
            let honoured: Vec<&Value> = uris.as_array().unwrap().iter().filter(|uri| tells_of(uri)).collect();
            let acknowledged = json!({
                "jsonrpc": "2.0", "method": "notifications/subscriptions/acknowledged",
                "params": { "notifications": { "resourceSubscriptions": honoured } },
            });
            Some(words(Reply::stream().event(&acknowledged)))
        }
        ("resources/subscribe", Era::Legacy) if !tells_of(&seen.json()["params"]["uri"]) => {
            Some(Reply::error(seen, 200, -32602, "not this one"))
        }
        ("resources/subscribe" | "resources/unsubscribe", Era::Legacy) => Some(Reply::result(seen, &json!({}))),
        _ if era == Era::Legacy && seen.method == "GET" => Some(words(Reply::stream())),
        _ => None,
    }
}

fn tells_of(uri: &Value) -> bool {
    uri.as_str().is_some_and(|uri| uri.starts_with("file:") && uri != "file:///mute")
}

fn behind(name: &str, issuer: &Issuer, watched: &Watched) -> Gateway {
    let gateway = Setup::usual(name, issuer).open_upstream("up", &watched.recorder.url()).start();
    gateway.client_of(Some("up"), issuer, "alice").awaiting("echo");
    gateway
}

pub(super) fn updated(event: &Value) -> &str {
    assert_eq!(event["method"], "notifications/resources/updated", "{event}");
    event["params"]["uri"].as_str().unwrap()
}

#[test]
fn a_modern_listener_is_told_of_the_resources_that_were_acknowledged() {
    let issuer = Issuer::good();
    for era in [Era::Modern, Era::Legacy] {
        for endpoint in [None, Some("up")] {
            let watched = Watched::new(era);
            let gateway = behind("watch-modern", &issuer, &watched);
            let alice = gateway.client_of(endpoint, &issuer, "alice");
            let exposed = |uri: &str| if endpoint.is_none() { format!("up+{uri}") } else { uri.to_owned() };
            let filter = json!({ "resourceSubscriptions": [
                exposed("file:///a"), exposed("file:///mute"), "nowhere+file:///a",
            ] });
            let mut connection = alice.listen(&json!("w"), &filter);
            let acknowledged = listening(&mut connection);
            assert_eq!(
                acknowledged["params"]["notifications"],
                json!({ "resourceSubscriptions": [exposed("file:///a")] }),
                "{era:?} {endpoint:?}"
            );
            watched.change();
            let told = connection.event().unwrap();
            assert_eq!(
                told,
                json!({
                    "jsonrpc": "2.0", "method": "notifications/resources/updated",
                    "params": { "_meta": { "io.modelcontextprotocol/subscriptionId": "w" }, "uri": exposed("file:///a") },
                })
            );
            watched.change();
            assert_eq!(
                updated(&connection.event().unwrap()),
                exposed("file:///a/part"),
                "a part of it, and a burst is one"
            );
            drop(connection);
            // One intent for each that was asked of the upstream, and its outcome when nobody wants it any more.
            let intents = gateway.recorded("intent", 1);
            let intent = intents.iter().find(|intent| intent["target"]["name"] == "file:///a").unwrap();
            assert_eq!(intent["user"]["subject"], "alice");
            place::wait_for("the outcome", PATIENCE, || {
                let journal = gateway.journal();
                journal.into_iter().find(|record| record["event"] == "outcome" && record["id"] == intent["id"])
            });
            let listened = gateway.recorded("listen", 1).remove(0);
            assert_eq!((&listened["listen"]["topics"], &listened["listen"]["resources"]), (&json!([]), &json!(1)));
            if era == Era::Legacy {
                place::wait_for("the upstream is told", PATIENCE, || {
                    watched.asked("resources/unsubscribe").contains(&"file:///a".to_owned()).then_some(())
                });
            }
        }
    }
}

#[test]
fn a_legacy_client_subscribes_and_is_told_on_its_stream() {
    let issuer = Issuer::good();
    for era in [Era::Modern, Era::Legacy] {
        let watched = Watched::new(era);
        let gateway = behind("watch-legacy", &issuer, &watched);
        let session = gateway.client_of(None, &issuer, "alice").initialize();
        let resources = &session.initialized["result"]["capabilities"]["resources"];
        assert_eq!(*resources, json!({ "subscribe": true, "listChanged": true }));
        let ask = |method: &str, uri: &str| session.request(method, &json!({ "uri": uri }));
        let done = ask("resources/subscribe", "up+file:///a");
        assert_eq!((done.status(), done.json()), (200, json!({ "jsonrpc": "2.0", "id": 1, "result": {} })));
        assert_eq!(ask("resources/subscribe", "up+file:///a").json()["result"], json!({}), "twice is once");
        let mute = ask("resources/subscribe", "up+file:///mute");
        assert_eq!((mute.status(), mute.json()["error"]["data"]["code"].as_str()), (200, Some("resource_unknown")));
        let mut stream = session.stream();
        assert_eq!(stream.head().status, 200);
        watched.change();
        assert_eq!(
            stream.event().unwrap(),
            json!({ "jsonrpc": "2.0", "method": "notifications/resources/updated", "params": { "uri": "up+file:///a" } })
        );
        assert_eq!(ask("resources/subscribe", "up+file:///b").status(), 200);
        watched.change();
        assert_eq!(updated(&stream.event().unwrap()), "up+file:///a/part");
        assert_eq!(ask("resources/unsubscribe", "up+file:///a").json()["result"], json!({}));
        match era {
            Era::Modern => place::wait_for("only the other", PATIENCE, || {
                (watched.sets().last() == Some(&json!(["file:///b"]))).then_some(())
            }),
            Era::Legacy => place::wait_for("it is unsubscribed", PATIENCE, || {
                (watched.asked("resources/unsubscribe").last() == Some(&"file:///a".to_owned())).then_some(())
            }),
        }
        assert_eq!(session.delete().status(), 204);
        assert_eq!(stream.event(), None, "the end of the session ends it");
        if era == Era::Legacy {
            place::wait_for("nothing is left", PATIENCE, || {
                watched.asked("resources/unsubscribe").contains(&"file:///b".to_owned()).then_some(())
            });
        }
    }
}

/// What a session waits for is told on the newest of its streams, also where it came when another was that.
#[test]
fn a_stream_that_is_over_takes_nothing_from_the_next() {
    let issuer = Issuer::good();
    let watched = Watched::new(Era::Modern);
    let gateway = behind("watch-newest", &issuer, &watched);
    let session = gateway.client_of(Some("up"), &issuer, "alice").initialize();
    session.request("resources/subscribe", &json!({ "uri": "file:///a" }));
    let mut before = session.stream();
    assert_eq!(before.head().status, 200);
    // A machine that is busy may be too slow for it a few times.
    let told_on_the_next = (0..4).any(|_| {
        watched.change();
        std::thread::sleep(Duration::from_millis(100));
        let mut next = session.stream();
        assert_eq!(next.head().status, 200);
        let late = before.event().is_some();
        if !late {
            updated(&next.event().unwrap());
        }
        before = next;
        !late
    });
    assert!(told_on_the_next);
}

/// Two listeners of one caller are one conversation with the upstream; it goes on until both have left.
#[test]
fn listeners_of_one_caller_share_and_those_of_two_do_not() {
    let issuer = Issuer::good();
    let watched = Watched::new(Era::Legacy);
    let gateway = behind("watch-shared", &issuer, &watched);
    let filter = json!({ "resourceSubscriptions": ["file:///a"] });
    let listen = |user: &str| {
        let mut connection = gateway.client_of(Some("up"), &issuer, user).listen(&json!(1), &filter);
        assert_eq!(listening(&mut connection)["params"]["notifications"], filter);
        connection
    };
    let (one, mut two) = (listen("alice"), listen("alice"));
    assert_eq!(watched.asked("resources/subscribe"), ["file:///a"], "asked once");
    let bob = listen("bob");
    assert_eq!(watched.asked("resources/subscribe").len(), 2, "in bob's own name");
    drop(one);
    gateway.recorded("listen_end", 1);
    watched.change();
    assert_eq!(updated(&two.event().unwrap()), "file:///a");
    assert!(watched.asked("resources/unsubscribe").is_empty(), "somebody still wants it");
    drop((two, bob));
    place::wait_for("both conversations end", PATIENCE, || {
        (watched.asked("resources/unsubscribe").len() == 2).then_some(())
    });
}

/// A stream that broke may have had something to say: after that everything that is watched is said to have changed.
#[test]
fn a_gap_is_told_as_a_change() {
    let issuer = Issuer::good();
    let opened = Arc::new(AtomicUsize::new(0));
    let shared = Arc::clone(&opened);
    let counter = Arc::new(AtomicUsize::new(0));
    let recorder = Recorder::scripted(Era::Modern, move |seen| {
        let uris = seen.json()["params"]["notifications"]["resourceSubscriptions"].clone();
        if uris.is_array() && shared.fetch_add(1, Ordering::AcqRel) == 0 {
            let acknowledged = json!({
                "jsonrpc": "2.0", "method": "notifications/subscriptions/acknowledged",
                "params": { "notifications": { "resourceSubscriptions": uris } },
            });
            let told = Reply::stream().event(&acknowledged);
            return Some(told.step(Step::Pause(Duration::from_millis(200))).step(Step::Cut));
        }
        answer(Era::Modern, seen, &counter)
    });
    let gateway = Setup::usual("watch-gap", &issuer).open_upstream("up", &recorder.url()).start();
    let alice = gateway.client_of(Some("up"), &issuer, "alice").awaiting("echo");
    let mut connection = alice.listen(&json!(1), &json!({ "resourceSubscriptions": ["file:///b"] }));
    listening(&mut connection);
    assert_eq!(updated(&connection.event().unwrap()), "file:///b");
    assert!(opened.load(Ordering::Acquire) >= 2);
}

#[test]
fn nobody_watches_what_policy_does_not_let_them_watch() {
    let issuer = Issuer::good();
    let watched = Watched::new(Era::Modern);
    let policy = "@id(\"all-but-watching\")\npermit (principal, action, resource)\nunless { action == Action::\"resources/subscribe\" && context.input.uri == \"file:///b\" };\n";
    let gateway = Setup::new("watch-policy")
        .issuer(&issuer.url())
        .policy("allow.cedar", policy)
        .open_upstream("up", &watched.recorder.url())
        .start();
    let alice = gateway.client_of(Some("up"), &issuer, "alice").awaiting("echo");
    let mut connection = alice.listen(&json!(1), &json!({ "resourceSubscriptions": ["file:///a", "file:///b"] }));
    let acknowledged = listening(&mut connection);
    assert_eq!(acknowledged["params"]["notifications"], json!({ "resourceSubscriptions": ["file:///a"] }));
    assert_eq!(watched.sets(), [json!(["file:///a"])], "the upstream never heard of the other");
    place::wait_for("the record of the refusal", PATIENCE, || {
        let is_it = |record: &Value| {
            (&record["refused"]["code"], &record["target"]["name"]) == (&json!("resource_unknown"), &json!("file:///b"))
        };
        gateway.recorded("refusal", 1).iter().any(is_it).then_some(())
    });
    let session = alice.initialize();
    let denied = session.request("resources/subscribe", &json!({ "uri": "file:///b" }));
    assert_eq!(refused(&denied).2, "resource_unknown");

    // What is taken away ends the listening, so that its client asks again and hears the truth.
    gateway.rule("allow.cedar", &policy.replace("file:///b", "file:///a"));
    assert_eq!(connection.event().unwrap()["result"]["resultType"], "complete");
    assert_eq!(gateway.recorded("listen_end", 1)[0]["listened"]["reason"], "withdrawn");
}

/// Of what other rules take away, the upstream is not asked any more either, though the session goes on wanting it; and it
/// is again where they give it back.
#[test]
fn what_policy_takes_away_is_asked_of_no_upstream() {
    let issuer = Issuer::good();
    for era in [Era::Modern, Era::Legacy] {
        let watched = Watched::new(era);
        let gateway = behind("watch-withdrawn", &issuer, &watched);
        let session = gateway.client_of(Some("up"), &issuer, "alice").initialize();
        for uri in ["file:///a", "file:///b"] {
            assert_eq!(session.request("resources/subscribe", &json!({ "uri": uri })).json()["result"], json!({}));
        }
        let asked = |expect: &[&str]| match era {
            Era::Modern => watched.sets().last() == Some(&json!(expect)),
            Era::Legacy => {
                let count = |method: &str| watched.asked(method).iter().filter(|uri| *uri == "file:///b").count();
                (count("resources/subscribe") > count("resources/unsubscribe")) == expect.contains(&"file:///b")
            }
        };
        let less = "@id(\"less\")\nforbid (principal, action, resource) when { action == Action::\"resources/subscribe\" && context.input.uri == \"file:///b\" };\n";
        for (policy, expect) in
            [(format!("{ALLOW_ALL}{less}"), &["file:///a"][..]), (ALLOW_ALL.to_owned(), &["file:///a", "file:///b"])]
        {
            gateway.rule("allow.cedar", &policy);
            place::wait_for("the upstream is asked for what may be asked", PATIENCE, || asked(expect).then_some(()));
        }
        gateway.rule("allow.cedar", "// nothing\n");
        if era == Era::Legacy {
            place::wait_for("for nothing", PATIENCE, || {
                (watched.asked("resources/unsubscribe").len() == 3).then_some(())
            });
        }
    }
}

/// An upstream that takes back its word at once is asked again more and more slowly.
#[test]
fn a_conversation_that_does_not_last_is_taken_up_more_slowly() {
    let issuer = Issuer::good();
    let opened = Arc::new(AtomicUsize::new(0));
    let (shared, counter) = (Arc::clone(&opened), Arc::new(AtomicUsize::new(0)));
    let recorder = Recorder::scripted(Era::Modern, move |seen| {
        let uris = seen.json()["params"]["notifications"]["resourceSubscriptions"].clone();
        if !uris.is_array() {
            return answer(Era::Modern, seen, &counter);
        }
        shared.fetch_add(1, Ordering::AcqRel);
        let params = json!({ "notifications": { "resourceSubscriptions": uris } });
        let method = "notifications/subscriptions/acknowledged";
        Some(Reply::stream().event(&json!({ "jsonrpc": "2.0", "method": method, "params": params })))
    });
    let gateway = Setup::usual("watch-brief", &issuer).open_upstream("up", &recorder.url()).start();
    let alice = gateway.client_of(Some("up"), &issuer, "alice").awaiting("echo");
    let began = Instant::now();
    let mut connection = alice.listen(&json!(1), &json!({ "resourceSubscriptions": ["file:///b"] }));
    listening(&mut connection);
    place::wait_for("it is asked again", PATIENCE, || (opened.load(Ordering::Acquire) >= 4).then_some(()));
    assert!(began.elapsed() > Duration::from_secs(4), "four times within {:?}", began.elapsed());
}

/// A credential for a conversation is written down like that for a call, whoever it is that mints it.
#[test]
fn a_credential_that_is_minted_to_watch_is_written_down() {
    let issuer = Issuer::good();
    let opened = Arc::new(AtomicUsize::new(0));
    let (shared, counter) = (Arc::clone(&opened), Arc::new(AtomicUsize::new(0)));
    let recorder = Recorder::scripted(Era::Modern, move |seen| {
        let uris = seen.json()["params"]["notifications"]["resourceSubscriptions"].clone();
        let params = json!({ "notifications": { "resourceSubscriptions": uris } });
        let method = "notifications/subscriptions/acknowledged";
        match uris.is_array().then(|| shared.fetch_add(1, Ordering::AcqRel)) {
            Some(0) => Some(Reply::stream().event(&json!({ "jsonrpc": "2.0", "method": method, "params": params }))),
            Some(1) => Some(Reply::status(401)),
            Some(_) | None => answer(Era::Modern, seen, &counter),
        }
    });
    let setup = Setup::usual("watch-minted", &issuer);
    let gateway = setup.exchanged_upstream("up", &recorder.url(), &issuer.url(), "\"up.call\"").start();
    let alice = gateway.client_of(Some("up"), &issuer, "alice").awaiting("echo");
    let session = alice.initialize();
    assert_eq!(session.request("resources/subscribe", &json!({ "uri": "file:///a" })).json()["result"], json!({}));
    let minted = gateway.recorded("grant", 3);
    let mut exchanged = minted.iter().filter(|record| record["grant"]["strategy"] == "exchange");
    let (first, second) = (exchanged.next().unwrap(), exchanged.next().unwrap());
    assert_ne!(first["grant"]["token_digest"], second["grant"]["token_digest"], "{minted:?}");
    assert!([first, second].iter().all(|record| record["user"]["subject"] == "alice"), "{minted:?}");
}

/// A client that goes away without a word leaves nothing behind: not at the upstream, and no call without its outcome.
#[test]
fn what_a_client_watched_that_is_gone_is_watched_no_longer() {
    let issuer = Issuer::good();
    let watched = Watched::new(Era::Legacy);
    let setup = Setup::usual("watch-left", &issuer).section("[limits]\nsession_idle_ms = 5_000");
    let gateway = setup.open_upstream("up", &watched.recorder.url()).start();
    let alice = gateway.client_of(Some("up"), &issuer, "alice").awaiting("echo");
    let session = alice.initialize();
    assert_eq!(session.request("resources/subscribe", &json!({ "uri": "file:///a" })).json()["result"], json!({}));
    place::wait_for("the upstream is told", PATIENCE, || {
        (watched.asked("resources/unsubscribe") == ["file:///a"]).then_some(())
    });
    assert_eq!(gateway.recorded("outcome", 1)[0]["result"]["ending"], "ok");
}

/// A subscription lasts; a call is under way only until it is made.
#[test]
fn what_is_watched_is_no_call_in_flight() {
    let issuer = Issuer::good();
    let ceiling = "[[ceilings]]\nname = \"few\"\nper = [\"user\"]\nin_flight = 2\n";
    let watched = Watched::new(Era::Modern);
    let setup = Setup::usual("watch-in-flight", &issuer).policy("ceilings.toml", ceiling);
    let gateway = setup.open_upstream("up", &watched.recorder.url()).start();
    let alice = gateway.client_of(Some("up"), &issuer, "alice").awaiting("echo");
    let session = alice.initialize();
    for uri in ["file:///a", "file:///b", "file:///c", "file:///mute", "file:///d"] {
        let answer = session.request("resources/subscribe", &json!({ "uri": uri }));
        assert_eq!(answer.json().get("result").is_some(), uri != "file:///mute", "{uri}: {}", answer.text());
    }
    let filter = json!({ "resourceSubscriptions": ["file:///a", "file:///b"] });
    let listened: Vec<_> = (0..3)
        .map(|_| {
            let mut connection = alice.listen(&json!(1), &filter);
            assert_eq!(listening(&mut connection)["params"]["notifications"], filter);
            connection
        })
        .collect();
    assert_eq!(alice.call("echo", &json!({})).status(), 200);
    drop(listened);
}

/// An upstream that does not offer it is not asked.
#[test]
fn an_upstream_without_subscriptions_is_not_asked() {
    let issuer = Issuer::good();
    for era in [Era::Modern, Era::Legacy] {
        let recorder = Recorder::scripted(era, move |seen| {
            let capabilities = json!({ "tools": {}, "resources": {} });
            match seen.rpc_method().as_str() {
                "server/discover" if era == Era::Modern => Some(Reply::discovered(seen, &capabilities)),
                "initialize" => Some(Reply::result(seen, &json!({
                    "protocolVersion": "2025-11-25", "capabilities": capabilities, "serverInfo": { "name": "recorder", "version": "1" },
                })).header("mcp-session-id", "session-of-the-recorder")),
                _ => None,
            }
        });
        let gateway = Setup::usual("watch-none", &issuer).open_upstream("up", &recorder.url()).start();
        let alice = gateway.client_of(Some("up"), &issuer, "alice").awaiting("echo");
        let session = alice.initialize();
        assert_eq!(session.initialized["result"]["capabilities"]["resources"], json!({ "listChanged": true }));
        let answer = session.request("resources/subscribe", &json!({ "uri": "file:///a" }));
        assert_eq!(refused(&answer), (200, -32601, "method_unknown".into()));
        let mut connection = alice.listen(&json!(1), &json!({ "resourceSubscriptions": ["file:///a"] }));
        assert_eq!(listening(&mut connection)["params"]["notifications"], json!({}));
        assert_eq!(connection.event().unwrap()["result"]["resultType"], "complete");
        assert!(recorder.seen_method("resources/subscribe").is_empty());
    }
}

/// A conversation may go on under an older token of the same person, which says nothing of the newer one.
#[test]
fn a_uri_that_holds_the_callers_credential_is_not_watched() {
    let issuer = Issuer::good();
    for era in [Era::Modern, Era::Legacy] {
        let watched = Watched::new(era);
        let gateway = behind("watch-leak", &issuer, &watched);
        let endpoint = gateway.endpoint(Some("up"));
        let session = gateway.client_of(Some("up"), &issuer, "alice").initialize();
        let done = session.request("resources/subscribe", &json!({ "uri": "file:///a" }));
        assert_eq!(done.status(), 200, "{}", done.text());
        let mut claims = issuer.claims("alice", &endpoint);
        claims["exp"] = json!(claims["exp"].as_u64().unwrap() - 60);
        let token = issuer.sign(&claims);
        let params = json!({ "uri": format!("file:///{token}") });
        let body = json!({ "jsonrpc": "2.0", "id": 2, "method": "resources/subscribe", "params": params }).to_string();
        let answer = gateway.client(Some("up")).token(&token).post(&session.headers(), body.as_bytes());
        assert_eq!(refused(&answer).2, "credential_leak", "{era:?}");
        assert!(!watched.recorder.saw_text(&token), "{era:?}");
    }
}

/// A server that knows a caller's token, wherever from, does not get it back as the name of its session.
#[test]
fn a_session_whose_name_is_the_callers_credential_is_not_listened_to() {
    let issuer = Issuer::good();
    let known = Arc::new(Mutex::new(None::<String>));
    let (shared, counter) = (Arc::clone(&known), Arc::new(AtomicUsize::new(0)));
    let recorder = Recorder::scripted(Era::Legacy, move |seen| {
        match (seen.rpc_method().as_str(), seen.method.as_str()) {
            ("initialize", _) if shared.lock().is_some() => {
                let capabilities = json!({ "tools": {}, "resources": { "subscribe": true } });
                let result = json!({
                    "protocolVersion": "2025-11-25", "capabilities": capabilities, "serverInfo": { "name": "recorder", "version": "1" },
                });
                Some(Reply::result(seen, &result).header("mcp-session-id", shared.lock().as_deref().unwrap()))
            }
            ("notifications/initialized", _) => Some(Reply::status(202)),
            _ => answer(Era::Legacy, seen, &counter),
        }
    });
    let gateway = Setup::usual("watch-session", &issuer).open_upstream("up", &recorder.url()).start();
    let endpoint = gateway.endpoint(Some("up"));
    gateway.client_of(Some("up"), &issuer, "bob").awaiting("echo");
    let token = issuer.token("alice", &endpoint);
    *known.lock() = Some(token.clone());
    let session = gateway.client(Some("up")).token(&token).initialize();
    let done = session.request("resources/subscribe", &json!({ "uri": "file:///a" }));
    assert_eq!(refused(&done).2, "credential_leak");
    let listened = |seen: &Seen| seen.method == "GET" && seen.header("mcp-session-id") == Some(&*token);
    assert!(!recorder.seen().iter().any(listened));
}
