//! What was answered is answered again, for as long as somebody vouches for it and to whom it was answered; and every
//! such answer is judged and recorded like the first.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use serde_json::{Value, json};

use super::{refused, text_of};
use crate::harness::{
    gateway::{ALLOW_ALL, Gateway, Setup},
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
    /// Members that the result of a tool has too; those that are `null` it has not.
    odd: Mutex<Value>,
    /// Gives an error.
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
            let ttl_ms = match uri.as_str() {
                Some("file:///stale") => 0,
                Some("file:///brief") => 5_000,
                _ => 600_000,
            };
            json!({ "contents": [{ "uri": uri, "text": number().to_string() }], "ttlMs": ttl_ms, "cacheScope": "private" })
        }
        "tools/call" if switches.failing.load(Ordering::SeqCst) => {
            return Some(Reply::error(seen, 200, -32603, &number().to_string()));
        }
        "tools/call" => json!({ "content": [{ "type": "text", "text": number().to_string() }] }),
        "subscriptions/listen" => return Some(told(switches)),
        _ => return None,
    };
    if era == Era::Modern {
        result["resultType"] = json!("complete");
    }
    if call["method"] == "tools/call"
        && let Some(odd) = switches.odd.lock().as_object()
    {
        for (member, value) in odd {
            result[member] = value.clone();
        }
        result.as_object_mut().unwrap().retain(|_, value| !value.is_null());
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
    place::wait_for("the outcomes", place::PATIENCE, || {
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

/// Failures, errors, and what is no whole result; each tried with arguments of its own.
#[test]
fn what_is_no_whole_and_good_result_is_not_kept() {
    for era in [Era::Modern, Era::Legacy] {
        let issuer = Issuer::good();
        let (recorder, switches) = numbering(era);
        let gateway = started("cached-odd", &issuer, &recorder, ECHO_KEPT);
        let alice = gateway.client_of(Some("up"), &issuer, "alice");
        let asked = json!({ "method": "elicitation/create", "params": { "message": "who?" } });
        let odd = [
            ("isError", json!({ "isError": true })),
            ("isError that is no boolean", json!({ "isError": "false" })),
            (
                "input_required",
                json!({ "resultType": "input_required", "inputRequests": { "a": asked }, "content": null }),
            ),
            ("input_required with content", json!({ "resultType": "input_required" })),
            ("a type of tomorrow", json!({ "resultType": "task" })),
            ("no content", json!({ "content": null, "structuredContent": { "a": 1 } })),
            ("content that is none", json!({ "content": "text" })),
            ("an error", Value::Null),
        ];
        for (what, odd) in odd {
            switches.failing.store(odd.is_null(), Ordering::SeqCst);
            *switches.odd.lock() = odd;
            let before = recorder.seen_method("tools/call").len();
            drop(alice.call("echo", &json!({ "message": what })));
            *switches.odd.lock() = Value::Null;
            switches.failing.store(false, Ordering::SeqCst);
            let whole = text_of(&alice.call("echo", &json!({ "message": what })));
            assert_eq!(recorder.seen_method("tools/call").len(), before + 2, "{era:?} {what}");
            assert_eq!(text_of(&alice.call("echo", &json!({ "message": what }))), whole, "{era:?} {what}");
        }
    }
}

#[test]
fn what_is_kept_ends_with_its_time_and_with_the_estate_that_kept_it() {
    let issuer = Issuer::good();
    let (recorder, _switches) = numbering(Era::Modern);
    let brief = "[[upstreams.up.tools]]\nmatch = \"*\"\ncache_s = 600\n[[upstreams.up.tools]]\nmatch = \"add\"\ncache_s = 5\n[[upstreams.up.tools]]\nmatch = \"erase\"\ncache_s = 0";
    let gateway = started("cached-time", &issuer, &recorder, brief);
    let alice = gateway.client_of(Some("up"), &issuer, "alice");
    let add = || text_of(&alice.call("add", &json!({})));
    let brief = || text(&read(&alice, "file:///brief")).to_owned();
    let kept = text_of(&alice.call("echo", &json!({})));
    // Twice the same, then another: both sides of the end, however slow the machine is.
    let twice = |ask: &dyn Fn() -> String| {
        place::wait_for("the same answer twice", place::PATIENCE, || {
            let one = ask();
            (ask() == one).then_some(one)
        })
    };
    for ask in [&add as &dyn Fn() -> String, &brief] {
        let one = twice(ask);
        place::wait_for("the end of its time", place::PATIENCE, || (ask() != one).then_some(()));
    }
    assert_ne!(text_of(&alice.call("erase", &json!({}))), text_of(&alice.call("erase", &json!({}))), "the later rule");
    assert_eq!(text_of(&alice.call("echo", &json!({}))), kept, "whose time is not over");

    gateway.reconfigure(|text| text.replace(OPEN, &format!("{OPEN}\ntimeout_ms = 9000")));
    assert_ne!(text_of(&alice.call("echo", &json!({}))), kept, "another estate");
}

/// A call that is answered with what is kept passes every stage: ceilings count it, and policy reads its arguments.
#[test]
fn what_is_kept_is_counted_and_judged_like_any_call() {
    let issuer = Issuer::good();
    let (recorder, _switches) = numbering(Era::Modern);
    let ceilings = "[[ceilings]]\nname = \"a-few\"\nper = [\"user\"]\nrate = { count = 3, per = \"1h\", burst = 3 }\n";
    let secret = "@id(\"no-secrets\")\nforbid (principal, action == Action::\"up/echo\", resource)\nwhen { principal.subject == \"bob\" && context.input has message && context.input.message == \"secret\" };\n";
    let shared = format!("{OPEN}\ntrust_public_cache = true\n{ECHO_KEPT}\ncache = \"shared\"");
    let setup = Setup::usual("cached-judged", &issuer).policy("ceilings.toml", ceilings).policy("secret.cedar", secret);
    let gateway = setup.upstream("up", &recorder.url(), &shared).start();
    drop(gateway.client_of(Some("up"), &issuer, "settler").awaiting("echo"));
    let (alice, bob) = (gateway.client_of(Some("up"), &issuer, "alice"), gateway.client_of(Some("up"), &issuer, "bob"));
    let ask = |client: &Client, message: &str| client.call("echo", &json!({ "message": message }));
    let (secret, open) = (text_of(&ask(&alice, "secret")), text_of(&ask(&alice, "open")));
    assert_eq!(text_of(&ask(&alice, "secret")), secret);
    assert_eq!(refused(&ask(&alice, "secret")), (429, 42901, "ceiling_reached".into()));
    assert_eq!(text_of(&ask(&bob, "open")), open, "shared");
    assert_eq!(refused(&ask(&bob, "secret")).2, "denied");
    assert_eq!(recorder.seen_method("tools/call").len(), 2);
    assert_eq!(outcome(&gateway, "bob", 1)["cached"], true);
    let record = gateway.recorded("refusal", 2).pop().unwrap();
    assert_eq!((&record["refused"]["code"], &record["user"]["subject"]), (&json!("denied"), &json!("bob")));

    // Under other policies nothing of before is used, whoever may ask.
    let others = format!("{ALLOW_ALL}@id(\"other\")\npermit (principal is Agent, action, resource);\n");
    gateway.rule("allow.cedar", &others);
    assert_ne!(text_of(&ask(&bob, "open")), open);
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
        place::wait_for("the gateway to listen", place::PATIENCE, || {
            (recorder.seen_method("subscriptions/listen").len() >= count).then_some(())
        });
    };
    again(1);
    let first = place::wait_for("an answer that is kept", place::PATIENCE, || {
        let (one, other) = (read(&alice, "file:///a"), read(&alice, "file:///a"));
        (text(&one) == text(&other)).then(|| text(&one).to_owned())
    });
    switches.changed.store(true, Ordering::SeqCst);
    again(2);
    place::wait_for("another answer", place::PATIENCE, || (text(&read(&alice, "file:///a")) != first).then_some(()));
}

/// Some servers say so on the stream of a call; what came on that very stream is out of date with it.
#[test]
fn word_of_a_change_on_the_stream_of_a_call_ends_what_was_kept() {
    for word in ["notifications/resources/updated", "notifications/prompts/list_changed"] {
        let issuer = Issuer::good();
        let answers = AtomicUsize::new(0);
        let recorder = Recorder::scripted(Era::Modern, move |seen| {
            let call = seen.json();
            let name = call["params"]["name"].as_str().filter(|_| call["method"] == "tools/call")?;
            let text = answers.fetch_add(1, Ordering::SeqCst).to_string();
            let result = json!({ "resultType": "complete", "content": [{ "type": "text", "text": text }] });
            let response = json!({ "jsonrpc": "2.0", "id": call["id"], "result": result });
            let word = json!({ "jsonrpc": "2.0", "method": word, "params": { "uri": "file:///a" } });
            Some(if name == "erase" { Reply::events(&[word, response]) } else { Reply::events(&[response]) })
        });
        let kept = "[[upstreams.up.tools]]\nmatch = \"*\"\ncache_s = 600";
        let gateway = started("cached-word", &issuer, &recorder, kept);
        let alice = gateway.client_of(Some("up"), &issuer, "alice");
        let ask = |tool: &str| text_of(&alice.call(tool, &json!({})));
        let before = ask("echo");
        assert_eq!(ask("echo"), before);
        let erased = ask("erase");
        assert_ne!(ask("echo"), before, "{word}");
        assert_ne!(ask("erase"), erased, "{word}");
    }
}

/// What takes more than its upstream's share is not kept, and pushes nothing out; nor does what another upstream says.
#[test]
fn what_is_kept_is_bounded() {
    let issuer = Issuer::good();
    let (recorder, switches) = numbering(Era::Modern);
    let (other, _) = numbering(Era::Modern);
    let setup = Setup::usual("cached-bounds", &issuer).section("[limits]\nresult_cache_bytes = 65536");
    let kept = |id: &str| format!("{OPEN}\n[[upstreams.{id}.tools]]\nmatch = \"*\"\ncache_s = 600");
    let setup = setup.upstream("up", &recorder.url(), &kept("up")).upstream("other", &other.url(), &kept("other"));
    let gateway = setup.start();
    for upstream in ["up", "other"] {
        drop(gateway.client_of(Some(upstream), &issuer, "settler").awaiting("echo"));
    }
    let alice = |upstream| gateway.client_of(Some(upstream), &issuer, "alice");
    let (up, other) = (alice("up"), alice("other"));
    let ask = |client: &Client, n: usize| text_of(&client.call("echo", &json!({ "n": n })));
    let (small, neighbour) = (ask(&up, 0), ask(&other, 0));
    *switches.odd.lock() = json!({ "filler": "x".repeat(40_000) });
    assert_ne!(ask(&up, 1), ask(&up, 1), "more than there is room for");
    assert_eq!(ask(&up, 0), small, "which is kept still");
    *switches.odd.lock() = json!({ "filler": "x".repeat(4_000) });
    for n in 0..40 {
        ask(&up, 100 + n);
    }
    let before = recorder.seen_method("tools/call").len();
    for n in 0..40 {
        ask(&up, 100 + n);
    }
    let again = recorder.seen_method("tools/call").len() - before;
    assert!(again >= 32, "{again} of 40 answers of 4 KB were asked for again, and 32 KiB is the room");
    assert_eq!(ask(&other, 0), neighbour, "another upstream's share");
}

#[test]
fn reads_are_not_kept_where_the_administrator_says_so() {
    let issuer = Issuer::good();
    let (recorder, _switches) = numbering(Era::Modern);
    let gateway = started("cached-off", &issuer, &recorder, "cache_reads = false");
    let alice = gateway.client_of(Some("up"), &issuer, "alice");
    assert_ne!(text(&read(&alice, "file:///a")), text(&read(&alice, "file:///a")));
}

/// No longer than the upstream vouches for its own, and less from moment to moment.
#[test]
fn lists_are_stamped_with_what_is_left_of_their_upstreams_word() {
    let issuer = Issuer::good();
    let vouching = |ttl_ms: u64| {
        Recorder::scripted(Era::Modern, move |seen| {
            let tools = json!([{ "name": "one", "inputSchema": { "type": "object" } }]);
            let result = json!({ "resultType": "complete", "ttlMs": ttl_ms, "cacheScope": "public", "tools": tools });
            (seen.rpc_method() == "tools/list").then(|| Reply::result(seen, &result))
        })
    };
    let (short, long, legacy) = (vouching(20_000), vouching(600_000), Recorder::good(Era::Legacy));
    let mut setup = Setup::usual("list-stamps", &issuer);
    for (id, recorder) in [("short", &short), ("long", &long), ("legacy", &legacy)] {
        setup = setup.open_upstream(id, &recorder.url());
    }
    let gateway = setup.start();
    drop(
        gateway
            .client_of(None, &issuer, "settler")
            .awaiting("short__one")
            .awaiting("long__one")
            .awaiting("legacy__echo"),
    );
    let stamp = |upstream, method| {
        let result = gateway.client_of(upstream, &issuer, "alice").modern(method, &json!({})).json()["result"].clone();
        assert_eq!(result["cacheScope"], "private", "{result}");
        result["ttlMs"].as_u64().unwrap_or_else(|| panic!("no stamp: {result}"))
    };
    for method in ["tools/list", "server/discover"] {
        // The list may be read again in between: from then on there is less again.
        place::wait_for("less to be left", place::PATIENCE, || {
            let two = [stamp(None, method), stamp(None, method)];
            assert!(two.iter().all(|stamp| *stamp <= 20_000), "{method}: {two:?}");
            (two[1] < two[0]).then_some(())
        });
        assert_eq!((stamp(Some("long"), method), stamp(Some("legacy"), method)), (30_000, 30_000), "{method}");
    }
}

/// The same bytes for callers who see the same, a record for each, and a change of the catalogue at once.
#[test]
fn lists_are_written_once_for_all_who_see_the_same() {
    let issuer = Issuer::good();
    let more = Arc::new(AtomicUsize::new(0));
    let shared = Arc::clone(&more);
    let recorder = Recorder::scripted(Era::Modern, move |seen| {
        if seen.rpc_method() == "subscriptions/listen" {
            let silence = Step::Pause(Duration::from_secs(60));
            let word = json!({ "jsonrpc": "2.0", "method": "notifications/tools/list_changed" });
            return Some(Reply::stream().step(Step::until(&shared, 1)).event(&word).step(silence));
        }
        if seen.rpc_method() != "tools/list" {
            return None;
        }
        let names: Vec<&str> = if shared.load(Ordering::SeqCst) > 0 { vec!["one", "two"] } else { vec!["one"] };
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
    place::wait_for("bob's record", place::PATIENCE, || {
        let of_bob = |list: &Value| list["user"]["subject"] == "bob" && list["list"]["shown"] == 1;
        gateway.recorded("list", 3).into_iter().find(of_bob)
    });
    more.store(1, Ordering::SeqCst);
    place::wait_for("the new tool", place::PATIENCE, || (bob.tools() == ["up__one", "up__two"]).then_some(()));
    assert_eq!(alice.tools(), ["up__one", "up__two"]);
}
