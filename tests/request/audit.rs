//! What is written down, and when: before the upstream hears of a call, and again when it has ended (I4, design §8).

use std::{sync::Arc, time::Instant};

use aws_lc_rs::hmac;
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::{refused, text_of};
use crate::harness::{
    gateway::{ALLOW_ALL, Gateway, Setup, records, tollgate},
    issuer::Issuer,
    mcp::Client,
    place,
    recorder::{Era, Recorder},
};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

fn of_event(gateway: &Gateway, event: &str) -> Vec<Value> {
    gateway.journal().into_iter().filter(|record| record["event"] == event).collect()
}

#[track_caller]
fn verified(gateway: &Gateway) {
    let output = gateway.verify();
    assert!(
        output.status.success(),
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn the_intent_is_on_disk_while_the_upstream_holds_the_call() {
    for era in [Era::Modern, Era::Legacy] {
        let issuer = Issuer::good();
        let setup = Setup::usual("intent", &issuer);
        let journal = setup.folder().join("audit");
        let then: Arc<Mutex<Vec<Value>>> = Arc::default();
        let kept = Arc::clone(&then);
        let recorder = Recorder::scripted(era, move |seen| {
            if seen.rpc_method() == "tools/call" {
                *kept.lock() = records(&journal);
            }
            None
        });
        let mut gateway = setup.exchanged_upstream("up", &recorder.url(), &issuer.url(), "\"up.call\"").start();
        let alice = gateway.client_of(None, &issuer, "alice").awaiting("up__echo");
        assert_eq!(text_of(&alice.call("up__echo", &json!({ "message": "hi" }))), "echo {\"message\":\"hi\"}");

        let then = then.lock().clone();
        let intent =
            then.iter().rfind(|record| record["event"] == "intent").expect("an intent before the call").clone();
        assert!(then.iter().all(|record| record["event"] != "outcome"), "no outcome yet");
        assert!(then.iter().any(|record| record["event"] == "grant"), "and what was minted for it");
        let outcome = gateway.recorded("outcome", 1).remove(0);
        assert_eq!(outcome["id"], intent["id"]);
        assert_eq!(outcome["result"]["ending"], "ok");
        assert_eq!(outcome["result"]["is_error"], false);
        assert!(outcome["result"]["duration_us"].as_u64() > Some(0) && outcome["result"]["bytes"].as_u64() > Some(0));
        gateway.stop();
        verified(&gateway);
    }
}

#[test]
fn a_record_says_who_what_by_which_policy_and_with_which_credential() {
    let issuer = Issuer::good();
    let recorder = Recorder::good(Era::Modern);
    let ceilings =
        "[[ceilings]]\nname = \"everybody\"\nper = [\"user\"]\nrate = { count = 100, per = \"1s\", burst = 100 }\n";
    let setup = Setup::usual("fields", &issuer).policy("ceilings.toml", ceilings);
    let gateway = setup.exchanged_upstream("up", &recorder.url(), &issuer.url(), "\"up.call\"").start();
    let token = {
        let mut claims = issuer.claims("alice", &gateway.endpoint(None));
        claims["act"] = json!({ "sub": "planner" });
        claims["acr"] = json!("mfa");
        claims["jti"] = json!("token-7");
        issuer.sign(&claims)
    };
    let alice = gateway.client(None).token(&token).awaiting("up__echo");
    let meta = json!({ "traceparent": format!("00-{TRACE}-00f067aa0ba902b7-01") });
    let params = json!({ "name": "up__echo", "arguments": { "message": "top secret" }, "_meta": meta });
    let answer = alice.connection().exchange(&alice.modern_bytes(&json!("mine"), "tools/call", &params));
    assert_eq!(answer.status(), 200);

    let intent = of_event(&gateway, "intent").remove(0);
    assert_eq!(intent["schema"], "tollgate.audit/1");
    assert_eq!(intent["user"], json!({ "issuer": issuer.url(), "subject": "alice" }));
    assert_eq!(intent["agent"]["client_id"], "agent");
    assert_eq!(intent["agent"]["actors"], json!(["planner"]));
    assert_eq!(intent["agent"]["unverified"], json!({ "name": "tests", "version": "1" }));
    assert_eq!(intent["tenant"], "acme");
    assert_eq!(intent["authentication"]["issuer"], issuer.url());
    assert_eq!(
        (&intent["authentication"]["token_id"], &intent["authentication"]["acr"]),
        (&json!("token-7"), &json!("mfa"))
    );
    let target = &intent["target"];
    assert_eq!(
        [&target["endpoint"], &target["upstream"], &target["kind"], &target["name"], &target["exposed"]],
        ["/mcp", "up", "tool", "echo", "up__echo"].map(|text| json!(text)).each_ref()
    );
    assert_eq!(target["definition"].as_str().map(str::len), Some(64));
    let grant = &intent["grant"];
    assert_eq!((&grant["strategy"], &grant["audience"]), (&json!("exchange"), &json!(recorder.url())));
    assert_eq!((&grant["scopes"], &grant["cached"]), (&json!(["up.call"]), &json!(false)));
    assert!(grant["token_id"].is_string() && grant["token_digest"].is_string());
    assert_eq!(
        (&intent["decision"]["outcome"], &intent["decision"]["policies"]),
        (&json!("allow"), &json!(["allow-all"]))
    );
    assert_eq!(intent["decision"]["policy_set"].as_str().map(str::len), Some(64));
    assert_eq!(intent["ceilings"], json!(["everybody"]));
    let request = &intent["request"];
    assert_eq!((&request["id"], &request["method"]), (&json!("\"mine\""), &json!("tools/call")));
    assert_eq!((&request["era"], &request["version"]), (&json!("modern"), &json!("2026-07-28")));
    assert_eq!(request["trace_id"], TRACE);
    assert!(request["peer"].as_str().unwrap().starts_with("127.0.0.1:"));

    // The same trace goes on upstream, under a span of ours.
    let seen = recorder.seen_method("tools/call").remove(0);
    let up = seen.json()["params"]["_meta"]["traceparent"].as_str().unwrap().to_owned();
    assert!(up.starts_with(&format!("00-{TRACE}-")) && !up.contains("00f067aa0ba902b7"), "{up}");
    assert_eq!(seen.header("traceparent"), Some(up.as_str()));

    let minted = gateway.recorded("grant", 1);
    let minted = minted.iter().find(|record| record["user"]["subject"] == "alice").unwrap();
    assert_eq!((&minted["upstream"], &minted["grant"]["token_digest"]), (&json!("up"), &grant["token_digest"]));
    let exchanged = seen.header("authorization").unwrap().trim_start_matches("Bearer ").to_owned();
    let text = gateway.journal().iter().map(Value::to_string).collect::<String>();
    for secret in [token.as_str(), &exchanged, "gateway-secret", "top secret"] {
        assert!(!text.contains(secret), "`{secret}` is in the journal");
    }
}

#[test]
fn arguments_are_known_by_a_digest_of_their_meaning() {
    let issuer = Issuer::good();
    let recorder = Recorder::good(Era::Modern);
    let gateway = Setup::usual("digest", &issuer).open_upstream("up", &recorder.url()).start();
    let alice = gateway.client_of(Some("up"), &issuer, "alice").awaiting("echo");
    let raw = |arguments: &str| {
        let body = alice.modern_bytes(&json!(1), "tools/call", &json!({ "name": "echo", "arguments": "HERE" }));
        let body = String::from_utf8(body).unwrap();
        let (head, body) = body.split_once("\r\n\r\n").unwrap();
        let body = body.replace("\"HERE\"", arguments);
        let head: Vec<&str> = head.split("\r\n").filter(|line| !line.starts_with("Content-Length")).collect();
        let request = format!("{}\r\nContent-Length: {}\r\n\r\n{body}", head.join("\r\n"), body.len());
        assert_eq!(alice.connection().exchange(request.as_bytes()).status(), 200);
        // What is judged is what is executed: the very bytes go up.
        assert!(String::from_utf8_lossy(&recorder.seen_method("tools/call").pop().unwrap().body).contains(arguments));
        of_event(&gateway, "intent").pop().unwrap()["request"]["arguments"].as_str().unwrap().to_owned()
    };
    let one = raw(r#"{"a":1,"b":[2,"x"]}"#);
    assert_eq!(raw(r#"{ "b" : [ 2, "\u0078" ], "a":1 }"#), one, "order and spelling do not count");
    assert_ne!(raw(r#"{"a":1,"b":[2,"y"]}"#), one);
    assert_ne!(raw(r#"{"a":1,"b":["x",2]}"#), one);

    let other = Setup::usual("digest-key", &issuer).audit("arguments = \"none\"").open_upstream("up", &recorder.url());
    let none = "@id(\"none\")\nforbid (principal, action == Action::\"up/erase\", resource);\n";
    let other = other.policy("none.cedar", none).start();
    let alice = other.client_of(Some("up"), &issuer, "alice").awaiting("echo");
    alice.call("echo", &json!({ "a": 1 }));
    alice.call("erase", &json!({ "id": "1" }));
    assert!(of_event(&other, "intent")[0]["request"]["arguments"].is_null());
    assert!(other.recorded("refusal", 1)[0]["request"]["arguments"].is_null());
}

/// The digest of `content` under the journal's key, as an auditor makes it.
fn keyed(gateway: &Gateway, content: &[u8]) -> String {
    let root = std::fs::read_to_string(gateway.journal_folder().join("chain.key")).unwrap();
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    let root: Vec<u8> = root.trim().as_bytes().chunks(2).map(byte).collect();
    let derived = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &root), b"tollgate.audit/1 arguments");
    let digest = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, derived.as_ref()), content);
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn what_was_asked_and_answered_can_be_proved() {
    let issuer = Issuer::good();
    let recorder = Recorder::good(Era::Modern);
    let gateway = Setup::usual("answered", &issuer).open_upstream("up", &recorder.url()).start();
    let alice = gateway.client_of(Some("up"), &issuer, "alice").awaiting("echo");
    for nth in 1..=2 {
        let arguments = json!({ "nth": nth });
        let answer = alice.call("echo", &arguments).text();
        let (intent, outcome) = (gateway.recorded("intent", nth).remove(nth - 1), gateway.recorded("outcome", nth));
        assert_eq!(intent["request"]["arguments"], keyed(&gateway, arguments.to_string().as_bytes()));
        assert_eq!(outcome[nth - 1]["result"]["digest"], keyed(&gateway, answer.as_bytes()), "{answer}");
        assert_eq!(outcome[nth - 1]["result"]["bytes"].as_u64(), u64::try_from(answer.len()).ok());
    }
    verified(&gateway);
}

#[test]
fn what_was_refused_is_recorded_with_what_was_known() {
    let issuer = Issuer::good();
    let recorder = Recorder::good(Era::Modern);
    let rules = format!(
        "{ALLOW_ALL}@id(\"no-erasing\")\nforbid (principal, action == Action::\"up/erase\", resource) when {{ context.input has id }};\n"
    );
    let setup = Setup::new("refusals").issuer(&issuer.url()).policy("rules.cedar", &rules);
    let mut gateway = setup.open_upstream("up", &recorder.url()).start();
    let alice = gateway.client_of(Some("up"), &issuer, "alice").awaiting("echo");
    assert_eq!(refused(&alice.call("erase", &json!({ "id": "1" }))).2, "denied");
    assert_eq!(refused(&alice.call("nowhere", &json!({}))).2, "tool_unknown");
    let find = |code: &str| {
        let recorded = |record: &Value| record["refused"]["code"] == code;
        place::wait_for(code, place::PATIENCE, || of_event(&gateway, "refusal").into_iter().find(recorded))
    };
    let denied = find("denied");
    assert_eq!((&denied["user"]["subject"], &denied["target"]["name"]), (&json!("alice"), &json!("erase")));
    assert_eq!(
        (&denied["decision"]["outcome"], &denied["decision"]["policies"]),
        (&json!("deny"), &json!(["no-erasing"]))
    );
    assert_eq!(denied["refused"]["status"], 403);
    assert_eq!(denied["request"]["arguments"], keyed(&gateway, br#"{"id":"1"}"#), "which argument was denied");
    let unknown = find("tool_unknown");
    assert_eq!(unknown["user"]["subject"], "alice");
    assert!(unknown["request"]["arguments"].is_null(), "nobody was asked about them");

    // Strangers are counted, not listed one by one.
    let nobody = gateway.client(Some("up"));
    let began = Instant::now();
    for _ in 0..50 {
        assert_eq!(nobody.call("echo", &json!({})).status(), 401);
    }
    gateway.stop();
    let summaries = of_event(&gateway, "refusals_summary");
    let most = (10 + 2 * began.elapsed().as_secs() as usize).min(50);
    assert!((1..most).contains(&summaries.len()), "{summaries:?}");
    assert!(summaries.iter().any(|record| record["refusals"].to_string().contains("token_missing")), "{summaries:?}");
    assert!(of_event(&gateway, "refusal").iter().all(|record| record["refused"]["code"] != "token_missing"));
    assert_eq!((of_event(&gateway, "start").len(), of_event(&gateway, "stop").len()), (1, 1));
    verified(&gateway);
}

#[test]
fn lists_are_recorded_with_what_was_withheld() {
    let issuer = Issuer::good();
    let recorder = Recorder::good(Era::Modern);
    let only_echo = "@id(\"echo\")\npermit (principal, action == Action::\"up/echo\", resource);\n";
    let setup = Setup::new("lists").issuer(&issuer.url()).policy("rules.cedar", only_echo);
    let gateway = setup.open_upstream("up", &recorder.url()).start();
    let alice = gateway.client_of(None, &issuer, "alice").awaiting("up__echo");
    assert_eq!(alice.tools(), ["up__echo"]);
    let list = place::wait_for("a list in the journal", place::PATIENCE, || {
        of_event(&gateway, "list").into_iter().find(|record| record["list"]["shown"] == 1)
    });
    assert_eq!((&list["user"]["subject"], &list["list"]["withheld"]), (&json!("alice"), &json!(2)));
}

#[test]
fn the_journal_is_proven_and_every_change_of_it_is_found() {
    let issuer = Issuer::good();
    let recorder = Recorder::good(Era::Modern);
    let mut gateway = Setup::usual("proof", &issuer).open_upstream("up", &recorder.url()).start();
    let alice = gateway.client_of(Some("up"), &issuer, "alice").awaiting("echo");
    for number in 0..20 {
        assert_eq!(alice.call("echo", &json!({ "message": number })).status(), 200);
    }
    gateway.stop();
    assert_eq!(gateway.process.ended().and_then(|status| status.code()), Some(0));
    verified(&gateway);
    assert_eq!((of_event(&gateway, "intent").len(), of_event(&gateway, "outcome").len()), (20, 20));

    let shown = tollgate(&["audit", "show"]).arg(gateway.journal_folder()).args(["--user", "alice"]).output().unwrap();
    assert!(shown.status.success(), "{}", String::from_utf8_lossy(&shown.stderr));
    assert!(String::from_utf8_lossy(&shown.stdout).contains("alice"));

    let segment = gateway.journal_folder().join("lane-0/segment-00000001.jsonl");
    let text = std::fs::read_to_string(&segment).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let at = lines.iter().position(|line| line.contains("\"event\":\"intent\"")).unwrap();
    let without = [&lines[..at], &lines[at + 1..]].concat().join("\n") + "\n";
    for (what, changed) in
        [("an altered record", text.replacen("\"alice\"", "\"mallory\"", 1)), ("a removed record", without)]
    {
        assert_ne!(changed, text);
        std::fs::write(&segment, changed).unwrap();
        assert!(!gateway.verify().status.success(), "{what} is found");
    }
    std::fs::write(&segment, text).unwrap();
    verified(&gateway);
}

#[test]
fn a_restart_continues_the_chain() {
    let issuer = Issuer::good();
    let recorder = Recorder::good(Era::Legacy);
    let mut gateway = Setup::usual("restart", &issuer).open_upstream("up", &recorder.url()).start();
    for _ in 0..2 {
        let alice: Client = gateway.client_of(Some("up"), &issuer, "alice").awaiting("echo");
        assert_eq!(alice.call("echo", &json!({})).status(), 200);
        gateway.stop();
        gateway = gateway.again();
    }
    gateway.process.kill();
    verified(&gateway);
    let gateway = gateway.again();
    assert_eq!(of_event(&gateway, "intent").len(), 2);
    assert_eq!(of_event(&gateway, "start").len(), 4);
    assert!(!of_event(&gateway, "recovered").is_empty(), "the kill is told");
    verified(&gateway);
}
