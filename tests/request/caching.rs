//! What was answered is answered again, for as long as somebody vouches for it and to whom it was answered; and every
//! such answer is judged and recorded like the first.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use serde_json::{Value, json};

use super::text_of;
use crate::harness::{
    gateway::{Gateway, Setup},
    issuer::Issuer,
    mcp::Client,
    place,
    recorder::{Era, Recorder, Reply, Seen, Step},
};

const OPEN: &str = "grant = { strategy = \"none\" }";
const ECHO_KEPT: &str = "[[upstreams.up.tools]]\nmatch = \"echo\"\ncache_s = 600";

/// Switches of a server that numbers its answers.
#[derive(Default)]
struct Switches {
    answers: AtomicUsize,
    down: AtomicBool,
    /// Gives `isError`, errors, and results that are not whole.
    failing: AtomicBool,
    changed: AtomicBool,
}

/// A server of tools and resources; every answer has another number.
fn numbering(era: Era) -> (Recorder, Arc<Switches>) {
    let switches = Arc::new(Switches::default());
    let shared = Arc::clone(&switches);
    let recorder = Recorder::scripted(era, move |seen| answered(era, seen, &shared));
    (recorder, switches)
}

fn answered(era: Era, seen: &Seen, switches: &Switches) -> Option<Reply> {
    let call = seen.json();
    if era == Era::Legacy && call["method"] != "initialize" && seen.header("mcp-session-id").is_none() {
        return None;
    }
    if switches.down.load(Ordering::SeqCst) {
        return Some(Reply::status(503));
    }
    let number = || switches.answers.fetch_add(1, Ordering::SeqCst);
    let capabilities = json!({ "tools": {}, "resources": {} });
    let mut result = match call["method"].as_str()? {
        "initialize" => json!({
            "protocolVersion": "2025-11-25", "capabilities": capabilities, "serverInfo": { "name": "n", "version": "1" },
        }),
        "server/discover" => {
            json!({ "supportedVersions": ["2026-07-28"], "capabilities": capabilities, "ttlMs": 0, "cacheScope": "private" })
        }
        "resources/list" => {
            json!({ "resources": [{ "uri": "file:///a", "name": "a" }], "ttlMs": 600_000, "cacheScope": "private" })
        }
        "resources/templates/list" => json!({ "resourceTemplates": [], "ttlMs": 600_000, "cacheScope": "private" }),
        "resources/read" => {
            let uri = call["params"]["uri"].clone();
            let ttl_ms = if uri == "file:///stale" { 0 } else { 600_000 };
            json!({ "contents": [{ "uri": uri, "text": number().to_string() }], "ttlMs": ttl_ms, "cacheScope": "private" })
        }
        "tools/call" => {
            let text = json!([{ "type": "text", "text": number().to_string() }]);
            json!({ "content": text, "isError": switches.failing.load(Ordering::SeqCst) })
        }
        "subscriptions/listen" => return Some(told(switches)),
        _ => return None,
    };
    if era == Era::Modern {
        result["resultType"] = json!("complete");
    }
    let reply = Reply::result(seen, &result);
    Some(if call["method"] == "initialize" { reply.header("mcp-session-id", "session-of-the-recorder") } else { reply })
}

/// A stream that ends with word of a change, as soon as there is one.
fn told(switches: &Switches) -> Reply {
    let word =
        json!({ "jsonrpc": "2.0", "method": "notifications/resources/updated", "params": { "uri": "file:///a" } });
    if switches.changed.swap(false, Ordering::SeqCst) { Reply::events(&[word]) } else { Reply::status(404) }
}

fn started(name: &str, issuer: &Issuer, recorder: &Recorder, lines: &str) -> Gateway {
    let gateway = Setup::usual(name, issuer).upstream("up", &recorder.url(), &format!("{OPEN}\n{lines}")).start();
    drop(gateway.client_of(Some("up"), issuer, "settler").awaiting("echo"));
    gateway
}

fn read(client: &Client, uri: &str) -> Value {
    client.modern("resources/read", &json!({ "uri": uri })).json()["result"].clone()
}

fn text(read: &Value) -> &str {
    read["contents"][0]["text"].as_str().unwrap_or_else(|| panic!("no text: {read}"))
}

/// The last outcome of a call of `user`, once there are so many.
fn outcome(gateway: &Gateway, user: &str, count: usize) -> Value {
    place::wait_for("the outcomes", Duration::from_secs(10), || {
        let journal = gateway.journal();
        let intents: Vec<&Value> =
            journal.iter().filter(|it| it["event"] == "intent" && it["user"]["subject"] == user).collect();
        let id = &intents.get(count.checked_sub(1)?)?["id"];
        journal.iter().find(|it| it["event"] == "outcome" && it["id"] == *id).map(|it| it["result"].clone())
    })
}

#[test]
fn a_result_that_the_administrator_vouches_for_is_answered_again_and_recorded() {
    for era in [Era::Modern, Era::Legacy] {
        let issuer = Issuer::good();
        let (recorder, switches) = numbering(era);
        let gateway = started("cached-tool", &issuer, &recorder, ECHO_KEPT);
        let alice = gateway.client_of(Some("up"), &issuer, "alice");
        let first = text_of(&alice.call("echo", &json!({ "message": "a", "n": 1 })));
        assert!(outcome(&gateway, "alice", 1)["cached"].is_null());
        // Also with the arguments in another order and spelling, and while the upstream is down.
        switches.down.store(true, Ordering::SeqCst);
        assert_eq!(text_of(&alice.call("echo", &json!({ "n": 1, "message": "\u{61}" }))), first);
        let kept = outcome(&gateway, "alice", 2);
        assert_eq!((&kept["ending"], &kept["cached"], &kept["status"]), (&json!("ok"), &json!(true), &json!(200)));
        assert_eq!(alice.call("erase", &json!({})).status(), 502, "what nobody vouches for is not kept");
        switches.down.store(false, Ordering::SeqCst);
        assert_ne!(text_of(&alice.call("echo", &json!({ "message": "a", "n": 2 }))), first);
        assert_ne!(text_of(&alice.call("add", &json!({}))), text_of(&alice.call("add", &json!({}))));
        assert_eq!(
            gateway.metric("tollgate_answers_cache_total{tollgate_cache=\"tool\",tollgate_outcome=\"hit\"}"),
            Some(1.0)
        );
    }
}

#[test]
fn a_result_that_says_that_it_failed_is_not_kept() {
    let issuer = Issuer::good();
    let (recorder, switches) = numbering(Era::Modern);
    let gateway = started("cached-failure", &issuer, &recorder, ECHO_KEPT);
    let alice = gateway.client_of(Some("up"), &issuer, "alice");
    switches.failing.store(true, Ordering::SeqCst);
    let failed = text_of(&alice.call("echo", &json!({})));
    switches.failing.store(false, Ordering::SeqCst);
    let whole = text_of(&alice.call("echo", &json!({})));
    assert_ne!(failed, whole);
    assert_eq!(text_of(&alice.call("echo", &json!({}))), whole);
}

#[test]
fn a_resource_is_kept_for_as_long_as_its_upstream_says_and_stamped_with_what_is_left() {
    let issuer = Issuer::good();
    let (recorder, switches) = numbering(Era::Modern);
    let gateway = started("cached-read", &issuer, &recorder, "");
    let alice = gateway.client_of(Some("up"), &issuer, "alice");
    let first = read(&alice, "file:///a");
    assert_eq!((&first["ttlMs"], &first["cacheScope"]), (&json!(600_000), &json!("private")));
    switches.down.store(true, Ordering::SeqCst);
    let again = read(&alice, "file:///a");
    assert_eq!(text(&again), text(&first));
    let left = again["ttlMs"].as_u64().unwrap();
    assert!(left < 600_000 && left > 0, "{left} left");
    assert_eq!(again["cacheScope"], "private");
    switches.down.store(false, Ordering::SeqCst);

    assert_ne!(text(&read(&alice, "file:///b")), text(&first), "another resource");
    assert_ne!(text(&read(&alice, "file:///stale")), text(&read(&alice, "file:///stale")), "nobody vouches for it");
    // The same in another revision is another answer.
    let session = alice.initialize();
    let legacy = session.request("resources/read", &json!({ "uri": "file:///a" })).json()["result"].clone();
    assert!(legacy["ttlMs"].is_null() && text(&legacy) != text(&first), "{legacy}");
}

#[test]
fn word_of_a_change_ends_what_was_kept() {
    let issuer = Issuer::good();
    let (recorder, switches) = numbering(Era::Modern);
    switches.changed.store(true, Ordering::SeqCst);
    let gateway = started("cached-change", &issuer, &recorder, "");
    let alice = gateway.client_of(Some("up"), &issuer, "alice");
    // The first stream ends with a word, and the gateway listens again until it hears that there is nothing.
    let again = |count: usize| {
        place::wait_for("the gateway to listen", Duration::from_secs(30), || {
            (recorder.seen_method("subscriptions/listen").len() >= count).then_some(())
        });
    };
    again(1);
    let first = place::wait_for("an answer that is kept", Duration::from_secs(10), || {
        let (one, other) = (read(&alice, "file:///a"), read(&alice, "file:///a"));
        (text(&one) == text(&other)).then(|| text(&one).to_owned())
    });
    switches.changed.store(true, Ordering::SeqCst);
    again(2);
    place::wait_for("another answer", Duration::from_secs(10), || {
        (text(&read(&alice, "file:///a")) != first).then_some(())
    });
}

#[test]
fn reads_are_not_kept_where_the_administrator_says_so() {
    let issuer = Issuer::good();
    let (recorder, _switches) = numbering(Era::Modern);
    let gateway = started("cached-off", &issuer, &recorder, "cache_reads = false");
    let alice = gateway.client_of(Some("up"), &issuer, "alice");
    assert_ne!(text(&read(&alice, "file:///a")), text(&read(&alice, "file:///a")));
}

/// The same bytes for callers who see the same, a record for each, and a change of the catalogue at once.
#[test]
fn lists_are_written_once_for_all_who_see_the_same() {
    let issuer = Issuer::good();
    let more = Arc::new(AtomicBool::new(false));
    let shared = Arc::clone(&more);
    let recorder = Recorder::scripted(Era::Modern, move |seen| {
        if seen.rpc_method() == "subscriptions/listen" {
            let silence = Step::Pause(Duration::from_secs(60));
            let word = json!({ "jsonrpc": "2.0", "method": "notifications/tools/list_changed" });
            let wait = Step::Pause(Duration::from_millis(1_500));
            return Some(Reply::stream().step(wait).event(&word).step(silence));
        }
        if seen.rpc_method() != "tools/list" {
            return None;
        }
        let names: Vec<&str> = if shared.load(Ordering::SeqCst) { vec!["one", "two"] } else { vec!["one"] };
        let tools: Vec<Value> =
            names.iter().map(|name| json!({ "name": name, "inputSchema": { "type": "object" } })).collect();
        let result = json!({ "resultType": "complete", "ttlMs": 600_000, "cacheScope": "private", "tools": tools });
        Some(Reply::result(seen, &result))
    });
    let gateway = Setup::usual("lists-kept", &issuer).open_upstream("up", &recorder.url()).start();
    let hits = || gateway.metric("tollgate_answers_cache_total{tollgate_cache=\"page\",tollgate_outcome=\"hit\"}");
    let (alice, bob) =
        (gateway.client_of(None, &issuer, "alice").awaiting("up__one"), gateway.client_of(None, &issuer, "bob"));
    let before = hits().unwrap_or_default();
    for (client, id) in [(&alice, json!(7)), (&bob, json!("x")), (&alice, json!(8))] {
        let answer = client.connection().exchange(&client.modern_bytes(&id, "tools/list", &json!({}))).json();
        assert_eq!(answer["id"], id);
        assert_eq!(answer["result"]["cacheScope"], "private");
    }
    assert!(hits().unwrap_or_default() >= before + 2.0, "one page for all");
    let lists = gateway.recorded("list", 3);
    assert!(lists.iter().any(|list| list["user"]["subject"] == "bob" && list["list"]["shown"] == 1), "{lists:?}");
    more.store(true, Ordering::SeqCst);
    place::wait_for("the new tool", Duration::from_secs(20), || (bob.tools() == ["up__one", "up__two"]).then_some(()));
    assert_eq!(alice.tools(), ["up__one", "up__two"]);
}
