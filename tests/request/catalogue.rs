//! Which tools there are, for whom, and what happens when the servers behind come and go.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use serde_json::{Value, json};

use super::{refused, text_of};
use crate::harness::{
    gateway::{ALLOW_ALL, Setup},
    http,
    issuer::Issuer,
    mcp::Client,
    place,
    recorder::{Era, Recorder, Reply, Seen, tools},
};

const PATIENCE: Duration = place::PATIENCE;

fn page(seen: &Seen, era: Era, tools: &Value, next: Option<String>) -> Reply {
    let mut result = json!({ "tools": tools });
    if era == Era::Modern {
        result["resultType"] = json!("complete");
        result["ttlMs"] = json!(60_000);
        result["cacheScope"] = json!("private");
    }
    if let Some(next) = next {
        result["nextCursor"] = json!(next);
    }
    Reply::result(seen, &result)
}

fn degraded(client: &Client) -> Value {
    client.modern("tools/list", &json!({})).json()["result"]["_meta"]["dev.tollgate/degraded"].clone()
}

/// An upstream with this many tools, in pages of 90.
fn long(era: Era, count: usize) -> Recorder {
    Recorder::scripted(era, move |seen| {
        let call = seen.json();
        if call["method"] != "tools/list" || (era == Era::Legacy && seen.header("mcp-session-id").is_none()) {
            return None;
        }
        let first: usize = call["params"]["cursor"].as_str().map_or(0, |cursor| cursor.parse().unwrap());
        let last = count.min(first + 90);
        let tools: Vec<Value> = (first..last)
            .map(|number| json!({ "name": format!("tool-{number:03}"), "inputSchema": { "type": "object" } }))
            .collect();
        Some(page(seen, era, &json!(tools), (last < count).then(|| last.to_string())))
    })
}

#[test]
fn long_lists_are_read_and_given_in_pages() {
    let issuer = Issuer::good();
    let (a, b) = (long(Era::Modern, 450), long(Era::Legacy, 450));
    let setup = Setup::usual("pages", &issuer).open_upstream("a", &a.url()).open_upstream("b", &b.url());
    let gateway = setup.start();
    let alice = gateway.client_of(None, &issuer, "alice").awaiting("a__tool-449").awaiting("b__tool-449");
    let first = alice.modern("tools/list", &json!({})).json()["result"].clone();
    let count = first["tools"].as_array().unwrap().len();
    assert!((1..900).contains(&count) && first["nextCursor"].is_string(), "{count} on the first page");
    let names = alice.tools();
    let of = |id: &'static str| (0..450).map(move |number| format!("{id}__tool-{number:03}"));
    assert_eq!(names, of("a").chain(of("b")).collect::<Vec<String>>());
    assert_eq!(alice.tools(), names, "the same order again");
    let session = alice.initialize();
    let legacy = session.request("tools/list", &json!({ "cursor": first["nextCursor"] })).json();
    assert_eq!(legacy["result"]["tools"][0]["name"], names[count]);
    let made_up = alice.modern("tools/list", &json!({ "cursor": "AAAA" }));
    assert_eq!(refused(&made_up), (200, -32602, "cursor_invalid".into()));
}

#[test]
fn what_is_too_much_of_a_list_is_told() {
    let issuer = Issuer::good();
    let recorder = long(Era::Modern, 600);
    let gateway = Setup::usual("too-long", &issuer).open_upstream("up", &recorder.url()).start();
    let alice = gateway.client_of(Some("up"), &issuer, "alice").awaiting("tool-499");
    assert_eq!(alice.tools().len(), 500);
    assert!(gateway.process.errors().contains("the list goes on after 500 tools"), "{}", gateway.process.errors());
}

#[test]
fn everybody_sees_what_they_may_call_and_nothing_else_exists() {
    let issuer = Issuer::good();
    let (one, two) = (Recorder::good(Era::Modern), Recorder::good(Era::Legacy));
    let rules = "@id(\"engineers\")\npermit (principal in Group::\"engineering\", action, resource);\n\
                 @id(\"support\")\npermit (principal in Group::\"support\", action == Action::\"one/echo\", resource);\n";
    let setup = Setup::new("filter").issuer(&issuer.url()).policy("rules.cedar", rules);
    let gateway = setup.open_upstream("one", &one.url()).open_upstream("two", &two.url()).start();
    let alice = gateway.client_of(None, &issuer, "alice").awaiting("one__echo").awaiting("two__echo");
    let all: BTreeSet<String> = alice.tools().into_iter().collect();
    assert_eq!(all.len(), 6);
    let bob = |upstream: Option<&str>| {
        let mut claims = issuer.claims("bob", &gateway.endpoint(upstream));
        claims["groups"] = json!(["support"]);
        gateway.client(upstream).token(&issuer.sign(&claims))
    };
    assert_eq!(bob(None).tools(), ["one__echo"]);
    assert_eq!(bob(Some("one")).tools(), ["echo"]);
    assert_eq!(bob(Some("two")).tools(), Vec::<String>::new());
    assert_eq!(text_of(&bob(None).call("one__echo", &json!({}))), "echo {}");
    // What one may not see is told apart from what is not there by nobody.
    let told = |tool: &str| bob(None).call(tool, &json!({})).text().replace(tool, "TOOL");
    assert_eq!(told("one__erase"), told("one__nowhere"));
    assert_eq!(told("two__echo"), told("nobody__echo"));
    assert_eq!(refused(&bob(None).call("two__echo", &json!({}))), (200, -32602, "tool_unknown".into()));
    assert!(two.seen_method("tools/call").is_empty());
}

#[test]
fn an_upstream_that_is_down_is_told_and_hides_nothing_of_the_others() {
    let issuer = Issuer::good();
    let up = Recorder::good(Era::Modern);
    let broken = Arc::new(AtomicBool::new(true));
    let switch = Arc::clone(&broken);
    let late = Recorder::scripted(Era::Modern, move |_| switch.load(Ordering::Acquire).then(|| Reply::status(500)));
    let refresh = "grant = { strategy = \"none\" }\nrefresh_s = 2";
    // Those outside may use nothing of it.
    let hidden = "@id(\"hidden\")\nforbid (principal, action, resource == Upstream::\"late\") \
                  when { principal in Group::\"outside\" };\n";
    let setup = Setup::usual("down", &issuer).policy("hidden.cedar", hidden);
    let setup = setup.open_upstream("up", &up.url()).upstream("late", &late.url(), refresh);
    let gateway = setup.start();
    let alice = gateway.client_of(None, &issuer, "alice").awaiting("up__echo");
    place::wait_for("the missing upstream is told", PATIENCE, || (degraded(&alice) == json!(["late"])).then_some(()));
    assert_eq!(alice.tools().len(), 3);
    assert_eq!(text_of(&alice.call("up__echo", &json!({}))), "echo {}");
    let told = alice.modern("server/discover", &json!({})).json()["result"]["_meta"]["dev.tollgate/degraded"].clone();
    assert_eq!(told, json!(["late"]));
    let session = alice.initialize();
    assert_eq!(
        session.request("tools/list", &json!({})).json()["result"]["_meta"]["dev.tollgate/degraded"],
        json!(["late"])
    );
    let alone = gateway.client_of(Some("late"), &issuer, "alice").modern("tools/list", &json!({}));
    assert_eq!(refused(&alone), (503, 50304, "catalogue_unavailable".into()));
    assert!(alone.header("retry-after").is_some());
    assert_eq!(gateway.metric("tollgate_upstream_up{tollgate_upstream_id=\"late\"}"), Some(0.0));

    broken.store(false, Ordering::Release);
    let alice = alice.awaiting("late__echo");
    assert_eq!(degraded(&alice), Value::Null);
    assert_eq!(text_of(&alice.call("late__echo", &json!({}))), "echo {}");
    assert_eq!(gateway.metric("tollgate_upstream_up{tollgate_upstream_id=\"late\"}"), Some(1.0));

    // What was read once stays listed while its server is away, and that it is away is told.
    broken.store(true, Ordering::Release);
    place::wait_for("it is away again", PATIENCE, || (degraded(&alice) == json!(["late"])).then_some(()));
    assert_eq!(alice.tools().len(), 6);

    // Who may see nothing of it is not told that it exists.
    let mut claims = issuer.claims("mallory", &gateway.endpoint(None));
    claims["groups"] = json!(["outside"]);
    let mallory = gateway.client(None).token(&issuer.sign(&claims));
    assert_eq!(mallory.tools().len(), 3);
    assert_eq!(degraded(&mallory), Value::Null);
}

/// Half of a list is not the list, and one that could not be read is not empty.
#[test]
fn a_list_that_cannot_be_read_is_as_it_was_and_told() {
    const WHOLE: usize = 0;
    const BROKEN: usize = 1;
    const REFUSED: usize = 2;
    const LACKING: usize = 3;
    let issuer = Issuer::good();
    let state = Arc::new(AtomicUsize::new(BROKEN));
    let now = Arc::clone(&state);
    let recorder = Recorder::scripted(Era::Modern, move |seen| {
        let complete = |mut result: Value| {
            result["resultType"] = json!("complete");
            result["cacheScope"] = json!("private");
            result["ttlMs"] = json!(60_000);
            Some(Reply::result(seen, &result))
        };
        let second = seen.json()["params"]["cursor"] == "2";
        match (seen.rpc_method().as_str(), second, now.load(Ordering::Acquire)) {
            ("server/discover", ..) => Some(Reply::discovered(seen, &json!({ "tools": {}, "prompts": {} }))),
            ("prompts/list", true, BROKEN) => Some(Reply::status(503)),
            ("prompts/list", true, LACKING) => Some(Reply::status(501)),
            ("prompts/list", true, REFUSED) => Some(Reply::error(seen, 200, -32603, "no")),
            ("prompts/list", false, _) => complete(json!({ "prompts": [{ "name": "one" }], "nextCursor": "2" })),
            ("prompts/list", true, _) => complete(json!({ "prompts": [{ "name": "two" }] })),
            _ => None,
        }
    });
    let lines = "grant = { strategy = \"none\" }\nrefresh_s = 1";
    let gateway = Setup::usual("half-a-list", &issuer).upstream("up", &recorder.url(), lines).start();
    // What never could be read holds nothing else back.
    let alice = gateway.client_of(Some("up"), &issuer, "alice").awaiting("echo");
    let prompts = || {
        let result = alice.modern("prompts/list", &json!({})).json()["result"].clone();
        let names: Vec<String> =
            result["prompts"].as_array()?.iter().map(|prompt| prompt["name"].as_str().unwrap().to_owned()).collect();
        Some((names, result["_meta"]["dev.tollgate/degraded"].clone()))
    };
    let (none, all) = (Vec::new(), vec!["one".to_owned(), "two".to_owned()]);
    assert_eq!(prompts(), Some((none.clone(), json!(["up"]))));
    for (state_now, expect) in [
        (WHOLE, (all.clone(), Value::Null)),
        (BROKEN, (all.clone(), json!(["up"]))),
        (REFUSED, (none.clone(), Value::Null)),
        (WHOLE, (all.clone(), Value::Null)),
        (LACKING, (none, Value::Null)),
        (WHOLE, (all, Value::Null)),
    ] {
        state.store(state_now, Ordering::Release);
        place::wait_for("the list", PATIENCE, || (prompts()? == expect).then_some(()));
    }
    assert_eq!(text_of(&alice.call("echo", &json!({}))), "echo {}");
}

/// It may be good for the tools alone.
#[test]
fn a_credential_that_is_not_taken_for_one_list_is_not_minted_at_each_reading() {
    let issuer = Issuer::good();
    let recorder = Recorder::scripted(Era::Modern, |seen| match seen.rpc_method().as_str() {
        "server/discover" => Some(Reply::discovered(seen, &json!({ "tools": {}, "prompts": {} }))),
        "prompts/list" => Some(Reply::status(401)),
        _ => None,
    });
    let setup = Setup::usual("one-list", &issuer);
    let _gateway = setup.exchanged_upstream("up", &recorder.url(), &issuer.url(), "\"up.call\"").start();
    place::wait_for("readings", PATIENCE, || (recorder.seen_method("prompts/list").len() > 2).then_some(()));
    assert_eq!(issuer.asked().len(), 2, "one that may have been revoked, and one more");
}

/// Traffic comes when every upstream was asked what it offers, and does not wait for one that never answers.
#[test]
fn readiness_waits_for_the_first_reading_and_not_for_ever() {
    let issuer = Issuer::good();
    let good = Recorder::good(Era::Modern);
    let silent = Recorder::slow(Era::Modern, Duration::from_secs(600));
    let launched = || {
        let setup = Setup::usual("first-reading", &issuer).open_upstream("up", &good.url());
        let asked = silent.seen().len();
        let gateway = setup.open_upstream("silent", &silent.url()).launch();
        let page = format!("{}/readyz", gateway.admin());
        let waits = place::wait_for("it is asked whether it is ready", PATIENCE, || {
            let answer = (silent.seen().len() > asked).then(|| http::fetch("GET", &page, &[], b""))?;
            let says_why = answer.json()["reasons"]["catalogue"] == "upstreams not read yet: silent";
            (says_why || answer.status() == 200).then(|| says_why.then_some(answer.status()))
        });
        waits.map(|status| (gateway, status))
    };
    // It waits for five seconds, in which a machine that is busy with others may not come to ask.
    let (gateway, status) = (0..5).find_map(|_| launched()).expect("not ready, and why");
    assert_eq!(status, 503);
    place::wait_for("ready all the same", PATIENCE, || (gateway.readiness() == 200).then_some(()));
    let client = gateway.client(None).token(&issuer.token("alice", &gateway.endpoint(None)));
    assert_eq!(client.call("up_echo", &json!({ "text": "hi" })).status(), 200);
}

#[test]
fn a_lost_legacy_session_is_begun_again_and_the_call_sent_once() {
    let issuer = Issuer::good();
    let losing = Arc::new(AtomicUsize::new(0));
    let left = Arc::clone(&losing);
    let recorder = Recorder::scripted(Era::Legacy, move |seen| {
        let lost = seen.rpc_method() == "tools/call"
            && left.fetch_update(Ordering::AcqRel, Ordering::Acquire, |left| left.checked_sub(1)).is_ok();
        lost.then(|| Reply::error(seen, 404, -32001, "Session not found"))
    });
    let gateway = Setup::usual("lost", &issuer).open_upstream("up", &recorder.url()).start();
    let alice = gateway.client_of(Some("up"), &issuer, "alice").awaiting("echo");
    assert_eq!(text_of(&alice.call("echo", &json!({}))), "echo {}");
    let begun = recorder.seen_method("initialize").len();

    losing.store(1, Ordering::Release);
    assert_eq!(text_of(&alice.call("add", &json!({ "a": 1 }))), "add {\"a\":1}");
    assert_eq!(recorder.seen_method("initialize").len(), begun + 1);
    let outcomes = gateway.recorded("outcome", 2);
    let attempts = |nth: usize| outcomes[nth]["result"]["attempts"].as_u64();
    assert_eq!((attempts(0), attempts(1), outcomes.len()), (None, Some(2), 2), "{outcomes:?}");
    let sent = recorder.seen_method("tools/call");
    assert_eq!(sent.iter().filter(|seen| seen.json()["params"]["name"] == "add").count(), 2, "once lost, once taken");

    losing.store(2, Ordering::Release);
    let answer = alice.call("erase", &json!({}));
    assert_ne!(answer.status(), 404, "a lost session of ours is not one of the client's");
    assert!(answer.json()["error"].is_object(), "{}", answer.text());
    let sent = recorder.seen_method("tools/call");
    assert_eq!(sent.iter().filter(|seen| seen.json()["params"]["name"] == "erase").count(), 2, "and no third time");
    losing.store(0, Ordering::Release);
    assert_eq!(text_of(&alice.call("echo", &json!({}))), "echo {}");
}

/// Many servers say 400 of a session that they do not know: that proves nothing about the call, so it is not sent again,
/// but the next one begins a session of its own, and so does the reading of the tools.
#[test]
fn a_session_lost_with_another_status_is_not_used_for_ever() {
    let issuer = Issuer::good();
    let life = Arc::new(AtomicUsize::new(0));
    let now = Arc::clone(&life);
    let recorder = Recorder::scripted(Era::Legacy, move |seen| {
        let id = format!("life-{}", now.load(Ordering::Acquire));
        match seen.rpc_method().as_str() {
            "initialize" => {
                let result = json!({ "protocolVersion": "2025-11-25", "capabilities": { "tools": {} }, "serverInfo": { "name": "r", "version": "1" } });
                Some(Reply::result(seen, &result).header("mcp-session-id", &id))
            }
            _ if seen.header("mcp-session-id") != Some(&id) => {
                let error = json!({ "code": -32000, "message": "Bad Request: No valid session ID provided" });
                Some(Reply::json(400, &json!({ "jsonrpc": "2.0", "id": null, "error": error })))
            }
            "tools/list" => Some(page(seen, Era::Legacy, &tools(), None)),
            "tools/call" => Some(Reply::result(seen, &json!({ "content": [{ "type": "text", "text": id }] }))),
            _ => Some(Reply::status(if seen.method == "GET" { 405 } else { 202 })),
        }
    });
    let lines = "era = \"legacy\"\ngrant = { strategy = \"none\" }\nrefresh_s = 1";
    let gateway = Setup::usual("restarted", &issuer).upstream("up", &recorder.url(), lines).start();
    let alice = gateway.client_of(Some("up"), &issuer, "alice").awaiting("echo");
    assert_eq!(text_of(&alice.call("echo", &json!({}))), "life-0");
    life.store(1, Ordering::Release);
    assert_eq!(refused(&alice.call("echo", &json!({}))).2, "upstream_error");
    assert_eq!(text_of(&alice.call("echo", &json!({}))), "life-1");
    let read =
        |id: &str| recorder.seen_method("tools/list").iter().any(|seen| seen.header("mcp-session-id") == Some(id));
    place::wait_for("the tools are read again", PATIENCE, || read("life-1").then_some(()));
}

/// I7: a legacy server may keep a person's state in a session, so no two people share one.
#[test]
fn nobody_shares_a_legacy_session() {
    let issuer = Issuer::good();
    let number = Arc::new(AtomicUsize::new(0));
    let recorder = Recorder::scripted(Era::Legacy, move |seen| match seen.rpc_method().as_str() {
        "initialize" => {
            let result = json!({ "protocolVersion": "2025-11-25", "capabilities": { "tools": {} }, "serverInfo": { "name": "r", "version": "1" } });
            let id = format!("session-{}", number.fetch_add(1, Ordering::AcqRel));
            Some(Reply::result(seen, &result).header("mcp-session-id", &id))
        }
        "tools/call" => {
            let id = seen.header("mcp-session-id").unwrap_or_default().to_owned();
            Some(Reply::result(seen, &json!({ "content": [{ "type": "text", "text": id }] })))
        }
        "tools/list" => Some(page(seen, Era::Legacy, &tools(), None)),
        _ => Some(Reply::status(202)),
    });
    let gateway = Setup::usual("pool", &issuer).open_upstream("up", &recorder.url()).start();
    let client = |user: &str| gateway.client_of(Some("up"), &issuer, user);
    client("alice").awaiting("echo");
    let session = |user: &str| text_of(&client(user).call("echo", &json!({})));
    let (alices, bobs) = (session("alice"), session("bob"));
    assert_ne!(alices, bobs);
    assert_eq!((session("alice"), session("bob")), (alices, bobs), "and everybody keeps theirs");
}

#[test]
fn a_tool_with_an_illegal_header_is_withheld_and_the_others_served() {
    let issuer = Issuer::good();
    let recorder = Recorder::scripted(Era::Modern, |seen| {
        if seen.rpc_method() != "tools/list" {
            return None;
        }
        let tool = |name: &str, annotation: Value| {
            let property = json!({ "type": "string", "x-mcp-header": annotation });
            json!({ "name": name, "inputSchema": { "type": "object", "properties": { "a": property } } })
        };
        let all = json!([
            tool("good", json!("Good")), tool("blank", json!("bad name")), tool("empty", json!("")), tool("split", json!("a\r\nb")),
            { "name": "odd", "inputSchema": { "type": "object", "properties": { "a": { "type": "object", "x-mcp-header": "A" } } } },
            { "name": "array", "inputSchema": { "type": "array" } },
            { "name": "echo", "inputSchema": { "type": "object" } },
        ]);
        Some(page(seen, Era::Modern, &all, None))
    });
    let gateway = Setup::usual("withheld", &issuer).open_upstream("up", &recorder.url()).start();
    let alice = gateway.client_of(Some("up"), &issuer, "alice").awaiting("echo");
    assert_eq!(alice.tools(), ["echo", "good"]);
    for tool in ["blank", "empty", "split", "odd", "array"] {
        assert_eq!(refused(&alice.call(tool, &json!({}))).2, "tool_unknown", "{tool}");
    }
    assert!(gateway.process.errors().contains("\"name\":\"blank\""), "the administrator is told");
    assert!(recorder.seen_method("tools/call").is_empty());
}

/// Two upstreams may have one tool, and one may have a name that looks like the other's: names are looked up, not split.
#[test]
fn names_of_two_upstreams_never_meet() {
    let issuer = Issuer::good();
    let named = |names: &'static [&'static str]| {
        Recorder::scripted(Era::Modern, move |seen| {
            (seen.rpc_method() == "tools/list").then(|| {
                let tools: Vec<Value> =
                    names.iter().map(|name| json!({ "name": name, "inputSchema": { "type": "object" } })).collect();
                page(seen, Era::Modern, &json!(tools), None)
            })
        })
    };
    let (a, b) = (named(&["x", "b__x", "echo"]), named(&["x", "echo"]));
    let setup = Setup::new("names").issuer(&issuer.url()).policy("allow.cedar", ALLOW_ALL);
    let gateway = setup.open_upstream("a", &a.url()).open_upstream("b", &b.url()).start();
    let alice = gateway.client_of(None, &issuer, "alice").awaiting("a__echo").awaiting("b__echo");
    for (name, there, original) in [("a__x", &a, "x"), ("b__x", &b, "x"), ("a__b__x", &a, "b__x")] {
        let before = (a.seen_method("tools/call").len(), b.seen_method("tools/call").len());
        assert_eq!(alice.call(name, &json!({})).status(), 200, "{name}");
        let last = there.seen_method("tools/call").pop().unwrap();
        assert_eq!(last.json()["params"]["name"], original);
        let after = (a.seen_method("tools/call").len(), b.seen_method("tools/call").len());
        assert_eq!(after.0 + after.1, before.0 + before.1 + 1);
    }
}

/// RL-13: a server keeps a session until it is told that nobody needs it any more.
#[test]
fn sessions_of_an_upstream_that_is_taken_away_are_ended_there() {
    let issuer = Issuer::good();
    let recorder = Recorder::good(Era::Legacy);
    let stays = Recorder::good(Era::Modern);
    let setup = Setup::usual("farewell", &issuer).open_upstream("stays", &stays.url());
    let gateway = setup.open_upstream("up", &recorder.url()).start();
    let alice = gateway.client_of(Some("up"), &issuer, "alice").awaiting("echo");
    assert_eq!(alice.call("echo", &json!({})).status(), 200);
    let ended = || recorder.seen().into_iter().filter(|seen| seen.method == "DELETE").collect::<Vec<_>>();
    assert!(ended().is_empty());
    gateway.reconfigure(|text| text.split_once("[upstreams.up]").unwrap().0.to_owned());
    let ended = place::wait_for("both sessions are ended", PATIENCE, || Some(ended()).filter(|ended| ended.len() == 2));
    for delete in ended {
        assert_eq!(delete.header("mcp-session-id"), Some("session-of-the-recorder"));
        assert_eq!(delete.header("mcp-protocol-version"), Some("2025-11-25"));
        assert!(delete.body.is_empty() && delete.header("content-type").is_none());
    }
}

/// 400 may say that a session is gone, and may not: the next call begins another, and the server is told that nobody needs
/// the one before.
#[test]
fn a_session_that_may_be_gone_is_ended_all_the_same() {
    let issuer = Issuer::good();
    let recorder = Recorder::scripted(Era::Legacy, |seen| {
        let odd = seen.json()["params"]["arguments"]["message"] == "odd";
        odd.then(|| Reply::error(seen, 400, -32602, "not this message"))
    });
    let gateway = Setup::usual("session-400", &issuer).open_upstream("up", &recorder.url()).start();
    let client = gateway.client_of(Some("up"), &issuer, "alice").awaiting("echo");
    client.call("echo", &json!({ "message": "odd" }));
    place::wait_for("its end", place::PATIENCE, || recorder.seen().into_iter().find(|seen| seen.method == "DELETE"));
    assert!(gateway.metric("mcp_client_session_duration_seconds_count").is_some_and(|ended| ended >= 1.0));
    assert_eq!(client.call("echo", &json!({})).status(), 200);
}

#[test]
fn many_first_calls_ask_once_what_an_upstream_speaks() {
    const CALLS: usize = 12;
    let issuer = Issuer::good();
    let failing = Arc::new(AtomicBool::new(false));
    let switch = Arc::clone(&failing);
    let recorder = Recorder::scripted(Era::Modern, move |seen| match seen.rpc_method().as_str() {
        // A list that cannot be read casts doubt on what the upstream speaks.
        "tools/list" if switch.load(Ordering::Acquire) => Some(Reply::status(500)),
        "tools/list" => Some(Reply::result(
            seen,
            &json!({
                "resultType": "complete", "ttlMs": 0, "cacheScope": "private", "tools": tools(),
            }),
        )),
        "server/discover" => Some(
            Reply::result(
                seen,
                &json!({
                    "resultType": "complete", "supportedVersions": ["2026-07-28"], "capabilities": { "tools": {} },
                    "ttlMs": 0, "cacheScope": "private",
                }),
            )
            .after(Duration::from_millis(if switch.load(Ordering::Acquire) { 700 } else { 0 })),
        ),
        _ => None,
    });
    let gateway = Setup::usual("probe-once", &issuer).open_upstream("up", &recorder.url()).start();
    let alice = gateway.client_of(Some("up"), &issuer, "alice").awaiting("echo");
    failing.store(true, Ordering::Release);
    let federated = gateway.client_of(None, &issuer, "alice");
    place::wait_for("doubt", PATIENCE, || (degraded(&federated) == json!(["up"])).then_some(()));
    let asked = || recorder.seen_method("server/discover").len();
    let before = asked();
    thread::scope(|scope| {
        let calls: Vec<_> = (0..CALLS).map(|_| scope.spawn(|| alice.call("echo", &json!({})).status())).collect();
        assert!(calls.into_iter().all(|call| call.join().unwrap() == 200));
    });
    // Whoever reads the list asks, too, and doubts again.
    assert!(asked() - before <= CALLS / 2, "{} times", asked() - before);
}
