//! A server that answers without end, without measure, or with what nobody asked for (RS-07, I9).

use std::time::{Duration, Instant};

use bytes::Bytes;
use serde_json::{Value, json};

use super::{Ground, SOON, code};
use crate::harness::{
    http::Answer,
    mcp::Client,
    place,
    recorder::{Era, Recorder, Reply, Seen, Step},
};

/// A tool's own time in these tests, where it is to run out.
const TIMEOUT: Duration = Duration::from_millis(1_500);
/// The life of a stream.
const STREAM: Duration = Duration::from_millis(4_000);
/// By then all of it has ended; what nothing but the usual time of a tool ends takes longer.
const CUT_OFF: Duration = Duration::from_secs(28);

fn result(seen: &Seen) -> Value {
    json!({ "jsonrpc": "2.0", "id": seen.json()["id"], "result": { "resultType": "complete", "content": [{ "type": "text", "text": "fine" }] } })
}

fn progress(token: &Value, progress: u64) -> Value {
    json!({ "jsonrpc": "2.0", "method": "notifications/progress", "params": { "progressToken": token, "progress": progress, "message": "of the upstream" } })
}

/// This text again and again, some of it at a time: what is bounded is to be there within [`STREAM`] on a busy machine, too.
fn forever(kind: &str, text: impl AsRef<str>) -> Reply {
    let text = text.as_ref();
    let bytes = Bytes::from(text.repeat(2_048 / text.len() + 1));
    Reply::status(200).header("content-type", kind).step(Step::Forever(bytes))
}

fn script(seen: &Seen) -> Option<Reply> {
    let call = seen.json();
    let token = &call["params"]["_meta"]["progressToken"];
    let event = |message: &Value| format!("data: {message}\n\n");
    Some(match call["params"]["arguments"]["mode"].as_str()? {
        "comments without end" => forever("text/event-stream", ": still here\n\n"),
        "a comment without end" => forever("text/event-stream", ": "),
        "an event without end" => forever("text/event-stream", "data: x\n"),
        "a line without end" => forever("text/event-stream", "data: xxxxxxxx"),
        "empty events without end" => forever("text/event-stream", "data:\n\n"),
        "progress without end" => forever("text/event-stream", event(&progress(token, 1))),
        "others' progress without end" => forever("text/event-stream", event(&progress(&json!("other"), 1))),
        "requests without end" => forever(
            "text/event-stream",
            event(&json!({ "jsonrpc": "2.0", "id": 1, "method": "sampling/createMessage", "params": {} })),
        ),
        "wrong answers without end" => {
            forever("text/event-stream", event(&json!({ "jsonrpc": "2.0", "id": 424_242, "result": {} })))
        }
        "JSON without end" => forever("application/json", "[1,"),
        "blanks without end" => forever("application/json", "          "),
        "a page without end" => forever("text/html", "<p>"),
        mode => return measureless(mode, seen).or_else(|| malformed(mode, seen)),
    })
}

/// Too much, too late or too little.
fn measureless(mode: &str, seen: &Seen) -> Option<Reply> {
    let call = seen.json();
    let (id, token, big) = (&call["id"], &call["params"]["_meta"]["progressToken"], "x".repeat(200_000));
    Some(match mode {
        "a giant event" => Reply::stream().step(Step::Bytes(format!("data: {big}\n\n").into())),
        "a giant JSON" => {
            let text = format!("{{\"jsonrpc\":\"2.0\",\"id\":{id},\"result\":{{\"x\":\"{big}\"}}}}");
            Reply::text(200, "application/json", text)
        }
        "progress for long" => (1..200).fold(Reply::stream(), |reply, turn| {
            reply.event(&progress(token, turn)).step(Step::Pause(Duration::from_millis(50)))
        }),
        "silence" => Reply::status(200).after(Duration::from_secs(60)),
        "half an answer" => Reply::status(200)
            .header("content-type", "application/json")
            .step(Step::Bytes("{\"jsonrpc\":".into()))
            .step(Step::Pause(Duration::from_secs(60))),
        "an open stream" => Reply::stream().event(&progress(token, 1)).step(Step::Pause(Duration::from_secs(60))),
        "a cut" => Reply::stream().event(&progress(token, 1)).step(Step::Cut),
        "an end" => Reply::stream().event(&progress(token, 1)),
        _ => return None,
    })
}

/// No answer to the call.
fn malformed(mode: &str, seen: &Seen) -> Option<Reply> {
    let id = &seen.json()["id"].clone();
    let json = |text: String| Reply::text(200, "application/json", text);
    Some(match mode {
        "nothing" => Reply::status(200),
        "accepted" => Reply::status(202),
        "no content" => Reply::status(204),
        "a page" => Reply::text(200, "text/html", "<p>of the upstream</p>"),
        "a batch" => json(format!("[{}]", result(seen))),
        "two members" => json(result(seen).to_string().replace("\"result\"", "\"result\":{},\"result\"")),
        "result and error" => {
            json(result(seen).to_string().replace("\"result\"", "\"error\":{\"code\":1,\"message\":\"\"},\"result\""))
        }
        "neither" => json(format!("{{\"jsonrpc\":\"2.0\",\"id\":{id}}}")),
        "a request" => json(format!("{{\"jsonrpc\":\"2.0\",\"id\":{id},\"method\":\"roots/list\"}}")),
        "bad UTF-8" => {
            let mut text = result(seen).to_string().into_bytes();
            let at = text.windows(4).position(|window| window == b"fine")?;
            text[at] = 0xFF;
            Reply::text(200, "application/json", text)
        }
        "depth" => json(format!(
            "{{\"jsonrpc\":\"2.0\",\"id\":{id},\"result\":{}{}}}",
            "{\"a\":".repeat(400),
            "1".to_owned() + &"}".repeat(400)
        )),
        "input" => json(result(seen).to_string().replace("complete", "input_required")),
        "unsolicited" => {
            let other = |method: &str, params: Value| json!({ "jsonrpc": "2.0", "method": method, "params": params });
            let asks = |id: u64, method: &str| json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": { "of": "of the upstream" } });
            Reply::events(&[
                asks(1, "sampling/createMessage"),
                asks(2, "elicitation/create"),
                asks(3, "roots/list"),
                asks(4, "ping"),
                progress(&json!("p"), 1),
                progress(&json!("another"), 2),
                progress(&json!(1), 3),
                other("notifications/message", json!({ "level": "emergency", "data": "of the upstream" })),
                other("notifications/tools/list_changed", json!({})),
                other("notifications/resources/updated", json!({ "uri": "of the upstream" })),
                other("notifications/cancelled", json!({ "requestId": 1 })),
                other("notifications/of-the-upstream", json!({ "of": "of the upstream" })),
                json!({ "jsonrpc": "2.0", "id": 777, "result": { "of": "of the upstream" } }),
                result(seen),
            ])
        }
        _ => return None,
    })
}

fn ground(name: &str) -> Ground {
    Ground::before(name, Recorder::scripted(Era::Modern, script), |setup, _, up| {
        let stream = STREAM.as_millis();
        setup
            .section(&format!("[limits]\nreply_bytes_max = 65536\nevent_bytes_max = 16384\nstream_max_ms = {stream}"))
            .open_upstream("up", &up.url())
            .section(&format!("[[upstreams.up.tools]]\nmatch = \"{HURRIED}\"\ntimeout_ms = {}", TIMEOUT.as_millis()))
    })
}

/// The tool that has [`TIMEOUT`] and no more.
const HURRIED: &str = "add";

fn call(client: &Client, mode: &str) -> Answer {
    call_of(client, "echo", mode)
}

fn call_of(client: &Client, tool: &str, mode: &str) -> Answer {
    let params = json!({ "name": tool, "arguments": { "mode": mode }, "_meta": { "progressToken": "mine" } });
    client.modern("tools/call", &params)
}

#[test]
fn answer_without_measure_or_end_is_cut_off() {
    let ground = ground("hostile-endless");
    let client = ground.client("alice");
    let timeout: &[&str] = &["upstream_timeout"];
    let large: &[&str] = &["upstream_too_large"];
    let either: &[&str] = &["upstream_timeout", "upstream_too_large"];
    let cases: [(&str, &[&str]); 17] = [
        ("comments without end", either),
        ("a comment without end", either),
        ("an event without end", large),
        ("a line without end", large),
        ("empty events without end", either),
        ("progress without end", either),
        ("others' progress without end", either),
        ("requests without end", either),
        ("wrong answers without end", either),
        ("JSON without end", large),
        ("blanks without end", large),
        ("a giant event", large),
        ("a giant JSON", large),
        ("silence", timeout),
        ("half an answer", timeout),
        ("an open stream", timeout),
        ("progress for long", timeout),
    ];
    for (sent, (mode, codes)) in cases.into_iter().enumerate() {
        let began = Instant::now();
        let answer = call_of(&client, if codes.contains(&"upstream_timeout") { HURRIED } else { "echo" }, mode);
        let found = code(&answer);
        let text: String = answer.text().chars().take(300).collect();
        assert!(codes.contains(&found.as_str()), "{mode}: {found:?} {text}");
        assert!(began.elapsed() < CUT_OFF, "{mode}: {:?}", began.elapsed());
        // Whether it acted is not known, so it is asked once (I6).
        assert_eq!(ground.calls(), sent + 1, "{mode}");
    }
    let abandoned = cases.len() - 2;
    place::wait_for("the answers given up", SOON, || (ground.upstream.abandoned() >= abandoned - 3).then_some(()));
    ground.good_call();
}

/// Each event renews the time that the tool has, and none is too large: what all of them come to is bounded, too.
#[test]
fn an_answer_of_events_without_number_is_cut_off() {
    for era in [Era::Modern, Era::Legacy] {
        let ground = Ground::before("hostile-numberless", Recorder::scripted(era, script), |setup, _, up| {
            setup.section("[limits]\nstream_bytes_max = 1000000").open_upstream("up", &up.url())
        });
        let answer = call(&ground.client("alice"), "progress without end");
        assert_eq!(code(&answer), "upstream_too_large", "{era:?}: {:?}", answer.status());
        let outcome = ground.gateway.recorded("outcome", 1).remove(0);
        assert_eq!(outcome["result"]["code"], "upstream_too_large", "{outcome}");
        place::wait_for("the answer given up", SOON, || (ground.upstream.abandoned() >= 1).then_some(()));
        ground.good_call();
    }
}

#[test]
fn answer_that_is_none_is_refused() {
    let ground = ground("hostile-malformed");
    let client = ground.client("alice");
    for (mode, codes) in [
        ("a cut", ["upstream_lost"; 2]),
        ("an end", ["upstream_lost"; 2]),
        ("nothing", ["upstream_lost", "upstream_invalid"]),
        ("accepted", ["upstream_lost", "upstream_invalid"]),
        ("no content", ["upstream_lost", "upstream_invalid"]),
        ("a page", ["upstream_invalid"; 2]),
        ("a page without end", ["upstream_invalid"; 2]),
        ("a batch", ["upstream_invalid"; 2]),
        ("two members", ["upstream_invalid"; 2]),
        ("result and error", ["upstream_invalid"; 2]),
        ("neither", ["upstream_invalid"; 2]),
        ("bad UTF-8", ["upstream_invalid"; 2]),
        ("depth", ["upstream_invalid"; 2]),
        ("input", ["upstream_invalid"; 2]),
        ("a request", ["upstream_lost", "upstream_invalid"]),
    ] {
        let answer = call(&client, mode);
        let found = code(&answer);
        assert!(codes.contains(&found.as_str()), "{mode}: {found:?} {}", answer.text());
    }
    ground.good_call();
}

#[test]
fn what_nobody_asked_for_is_dropped_and_counted_in_both_eras() {
    let ground = ground("hostile-unsolicited");
    let client = ground.client("alice");
    let dropped = || {
        let page = crate::harness::http::fetch("GET", &format!("{}/metrics", ground.gateway.admin()), &[], b"").text();
        let lines = page.lines().filter(|line| line.starts_with("tollgate_upstream_dropped") && line.contains("up"));
        lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum::<f64>()
    };
    let before = dropped();
    let modern = call(&client, "unsolicited");
    let session = client.initialize();
    let params =
        json!({ "name": "echo", "arguments": { "mode": "unsolicited" }, "_meta": { "progressToken": "mine" } });
    let legacy = session.request("tools/call", &params);
    for answer in [modern, legacy] {
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.json()["result"]["content"][0]["text"], "fine", "{}", answer.text());
        assert!(!answer.text().contains("of the upstream") && !answer.text().contains("sampling"), "{}", answer.text());
        if answer.header("content-type").is_some_and(|kind| kind.starts_with("text/event-stream")) {
            assert_eq!(answer.messages().len(), 1, "{}", answer.text());
        }
    }
    assert!(dropped() - before >= 26.0, "{} messages counted", dropped() - before);
    // None of its questions was answered: it was told nothing but the calls.
    let told = ground.upstream.seen().into_iter().filter(|seen| seen.json().get("result").is_some());
    assert_eq!(told.count(), 0);
    ground.good_call();
}

/// A legacy server may ask, so it is told no; it learns nothing else and has nothing passed on.
#[test]
fn legacy_server_that_asks_the_client_is_told_that_nobody_does_that() {
    let upstream = Recorder::scripted(Era::Legacy, |seen| {
        let unsolicited = seen.json()["params"]["arguments"]["mode"] == "unsolicited";
        unsolicited.then(|| script(seen)).flatten()
    });
    let ground = Ground::before("hostile-legacy", upstream, |setup, _, up| setup.open_upstream("up", &up.url()));
    for user in ["alice", "bob"] {
        let answer = call(&ground.client(user), "unsolicited");
        assert_eq!(answer.json()["result"]["content"][0]["text"], "fine", "{}", answer.text());
        assert!(!answer.text().contains("of the upstream"), "{}", answer.text());
    }
    let told = ground.upstream.seen().into_iter().map(|seen| seen.json());
    let told: Vec<Value> = told.filter(|told| told.is_object() && told["method"].is_null()).collect();
    let refusals = told.iter().filter(|told| told["error"]["code"] == -32601).count();
    let pongs = told.iter().filter(|told| told["result"] == json!({}) && told["id"] == 4).count();
    assert_eq!((refusals, pongs, told.len()), (6, 2, 8), "{told:?}");
    ground.good_call();
}

/// One that hangs holds up its own calls and nobody else's.
#[test]
fn upstream_that_hangs_does_not_slow_the_others() {
    let slow = Recorder::scripted(Era::Modern, script);
    let ground = Ground::before("hostile-neighbour", Recorder::good(Era::Modern), |setup, _, up| {
        setup.open_upstream("up", &up.url()).upstream(
            "slow",
            &slow.url(),
            "timeout_ms = 8000\ngrant = { strategy = \"none\" }",
        )
    });
    let client = ground.gateway.client_of(Some("slow"), &ground.issuer, "alice");
    place::wait_for("the slow upstream's tools", SOON, || {
        (client.call("echo", &json!({})).status() == 200).then_some(())
    });
    std::thread::scope(|scope| {
        let hanging: Vec<_> = (0..20).map(|_| scope.spawn(|| code(&call(&client, "silence")))).collect();
        place::wait_for("twenty calls that hang", SOON, || (slow.seen_method("tools/call").len() >= 21).then_some(()));
        ground.good_call();
        assert!(hanging.iter().any(|call| !call.is_finished()), "a good call waited for those that hang");
        (0..9).for_each(|_| ground.good_call());
        for call in hanging {
            assert_eq!(call.join().unwrap(), "upstream_timeout");
        }
    });
}
