//! A call is sent at most once (I6): again only where the upstream says that it executed nothing.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use serde_json::{Value, json};

use super::{
    input::{asking, call, capabilities, converse, form, holding, request},
    refused, text_of,
};
use crate::harness::{
    gateway::{Gateway, Setup},
    issuer::Issuer,
    mcp::Client,
    place,
    recorder::{Era, Recorder, Reply, Step},
};

/// An upstream that answers the first `times` calls with `reply`, and well after that.
fn failing(era: Era, times: usize, reply: Reply) -> Recorder {
    let left = Arc::new(Mutex::new(times));
    Recorder::scripted(era, move |seen| {
        if seen.rpc_method() != "tools/call" {
            return None;
        }
        let mut left = left.lock();
        *left = left.checked_sub(1)?;
        Some(reply.clone())
    })
}

fn behind(name: &str, issuer: &Issuer, recorder: &Recorder) -> (Gateway, Client) {
    let setup = Setup::usual(name, issuer).exchanged_upstream("up", &recorder.url(), &issuer.url(), "\"up.call\"");
    let gateway = setup.start();
    let client = gateway.client_of(Some("up"), issuer, "alice").awaiting("echo");
    (gateway, client)
}

#[test]
fn sent_at_most_once() {
    let issuer = Issuer::good();
    let rejected = |status: u16| Reply::json(status, &json!({ "error": "no" }));
    let cut = Reply::text(200, "application/json", "{\"jsonrpc\":").step(Step::Bytes("\"2.0\"".into())).step(Step::Cut);
    let stream_cut = Reply::stream()
        .event(&json!({ "jsonrpc": "2.0", "method": "notifications/message", "params": {} }))
        .step(Step::Cut);
    let stranger = Reply::json(200, &json!({ "jsonrpc": "2.0", "id": "another", "result": {} }));
    for era in [Era::Modern, Era::Legacy] {
        for (what, reply, status, code) in [
            ("a server error", rejected(500), 502, "upstream_invalid"),
            ("an overload", rejected(503), 502, "upstream_invalid"),
            ("a refusal", rejected(403), 502, "upstream_unauthorized"),
            ("a refusal as a page", Reply::text(403, "text/html", "no"), 502, "upstream_unauthorized"),
            ("an error as a page", Reply::text(500, "text/html", "no"), 502, "upstream_invalid"),
            ("a redirect", rejected(307).header("location", "http://127.0.0.1:1/"), 502, "upstream_invalid"),
            ("a cut answer", cut.clone(), 502, "upstream_lost"),
            ("a cut stream", stream_cut.clone(), 502, "upstream_lost"),
            ("another's answer", stranger.clone(), 502, "upstream_invalid"),
        ] {
            let recorder = failing(era, 1, reply);
            let (gateway, client) = behind("once", &issuer, &recorder);
            let answer = client.call("echo", &json!({}));
            let (seen_status, _, seen_code) = refused(&answer);
            // A stream that is open has said 200 already.
            let streams = answer.header("content-type") == Some("text/event-stream");
            assert_eq!(
                (if streams { status } else { seen_status }, seen_code.as_str()),
                (status, code),
                "{era:?} {what}"
            );
            assert_eq!(recorder.seen_method("tools/call").len(), 1, "{era:?} {what}");
            assert_eq!(text_of(&client.call("echo", &json!({}))), "echo {}", "{era:?} {what}: the next call is well");
            drop(gateway);
        }
    }
}

#[test]
fn a_refused_credential_is_minted_once_more_and_the_call_sent_once_more() {
    for era in [Era::Modern, Era::Legacy] {
        let issuer = Issuer::good();
        let unauthorized = Reply::status(401).header("www-authenticate", "Bearer error=\"invalid_token\"");
        let recorder = failing(era, 1, unauthorized.clone());
        let (_gateway, client) = behind("again", &issuer, &recorder);
        let minted = exchanges(&issuer);
        assert_eq!(text_of(&client.call("echo", &json!({}))), "echo {}");
        let calls = recorder.seen_method("tools/call");
        assert_eq!(calls.len(), 2, "{era:?}");
        assert_ne!(calls[0].header("authorization"), calls[1].header("authorization"), "{era:?}: another credential");
        assert_eq!(exchanges(&issuer) - minted, 2, "{era:?}");

        let recorder = failing(era, 2, unauthorized);
        let (gateway, client) = behind("never", &issuer, &recorder);
        let minted = exchanges(&issuer);
        let (answer, status) = match era {
            Era::Modern => (client.call("echo", &json!({})), 502),
            Era::Legacy => (client.initialize().call("echo", &json!({})), 200),
        };
        let (as_status, _, code) = refused(&answer);
        assert_eq!((as_status, code.as_str()), (status, "upstream_unauthorized"), "{era:?}");
        assert_eq!(answer.header("www-authenticate"), None, "an upstream's challenge is not the caller's");
        assert_eq!(recorder.seen_method("tools/call").len(), 2, "{era:?}: and no third time");
        assert_eq!(exchanges(&issuer) - minted, 2, "{era:?}");
        let ends = |event: &str| gateway.recorded(event, 1).len();
        assert_eq!((ends("outcome"), ends("intent")), (1, 1), "one call, however often sent");
        let mut minted = gateway.recorded("grant", 3);
        minted.retain(|record| record["grant"]["strategy"] == "exchange");
        assert_eq!(minted.len(), 2, "{era:?}: what went out the second time is on record too");
        let (intent, outcome) = (&gateway.recorded("intent", 1)[0], &gateway.recorded("outcome", 1)[0]);
        for record in &minted {
            assert_eq!((&record["call"], &record["user"]["subject"]), (&intent["id"], &json!("alice")), "{era:?}");
            for member in ["id", "method", "trace_id", "span_id", "session", "peer"] {
                assert_eq!(record["request"][member], intent["request"][member], "{era:?} {member}");
            }
            assert_eq!(record["request"]["session"].is_string(), era == Era::Legacy);
            assert!(record["request"]["peer"].is_string());
        }
        let [refused, last] = [0, 1].map(|nth: usize| &minted[nth]["grant"]["token_digest"]);
        assert_ne!(refused, last, "{era:?}");
        assert_eq!((&intent["grant"]["token_digest"], &outcome["result"]["token_digest"]), (refused, last), "{era:?}");
        assert_eq!(outcome["result"]["attempts"], 2, "{era:?}");
    }
}

/// RC-26: the administrator lets the gateway ask for these scopes, and the provider left them out at first.
#[test]
fn scopes_that_a_credential_was_to_have_are_asked_for_once_more() {
    for (what, wanted, given, called, status) in [
        ("given the second time", "up.call", ["up.read", "up.call"], 2, 200),
        ("never given", "up.call", ["up.read", "up.read"], 2, 502),
        ("not to be asked for", "up.call up.admin", ["up.read", "up.call"], 1, 502),
        ("had already", "up.call", ["up.call", "up.call"], 1, 502),
    ] {
        let minted = Mutex::new(0_usize);
        let issuer = Issuer::scripted(move |seen| {
            seen.field("subject_token")?;
            let mut minted = minted.lock();
            *minted += 1;
            let token = json!({ "access_token": format!("token-{minted}"), "token_type": "Bearer", "expires_in": 300,
                "scope": given[(*minted - 1).min(1)], "issued_token_type": "urn:ietf:params:oauth:token-type:access_token" });
            Some(Reply::json(200, &token))
        });
        let challenge = format!("Bearer realm=\"a, b\", error=\"insufficient_scope\", scope=\"{wanted}\"");
        let recorder = Recorder::scripted(Era::Modern, move |seen| {
            let wide = seen.header("authorization") == Some("Bearer token-2") && given[1] == wanted;
            let refuse = seen.rpc_method() == "tools/call" && !wide;
            refuse.then(|| Reply::status(403).header("www-authenticate", &challenge))
        });
        let asked = "\"up.call\", \"up.read\"";
        let setup = Setup::usual("scopes", &issuer).exchanged_upstream("up", &recorder.url(), &issuer.url(), asked);
        let gateway = setup.start();
        let client = gateway.client_of(Some("up"), &issuer, "alice").awaiting("echo");
        let answer = client.call("echo", &json!({}));
        assert_eq!((answer.status(), recorder.seen_method("tools/call").len()), (status, called), "{what}");
        assert_eq!(answer.header("www-authenticate"), None, "an upstream's challenge is not the caller's");
        if status != 200 {
            assert_eq!(refused(&answer), (502, 50212, "upstream_scope_missing".into()), "{what}");
            assert!(!answer.text().contains("up."), "{what}: and its scopes are not the caller's business");
            let result = gateway.recorded("outcome", 1)[0]["result"].clone();
            assert_eq!(result["reason"], format!("it wants `{wanted}`"), "{what}: they are the auditor's");
        }
    }
}

#[test]
fn a_credential_that_is_always_the_same_is_not_shown_twice() {
    for era in [Era::Modern, Era::Legacy] {
        let issuer = Issuer::good();
        let recorder = failing(era, 1, Reply::status(401));
        let gateway = Setup::usual("fixed", &issuer).open_upstream("up", &recorder.url()).start();
        let client = gateway.client_of(Some("up"), &issuer, "alice").awaiting("echo");
        assert_eq!(refused(&client.call("echo", &json!({}))), (502, 50204, "upstream_unauthorized".into()), "{era:?}");
        assert_eq!(recorder.seen_method("tools/call").len(), 1, "{era:?}");
    }
}

/// The credential is refused before there is a session, and so before the call is sent.
#[test]
fn a_credential_that_begins_no_session_is_minted_once_more() {
    let issuer = Issuer::good();
    let armed = Arc::new(Mutex::new(false));
    let refusing = Arc::clone(&armed);
    let recorder = Recorder::scripted(Era::Legacy, move |seen| {
        let refuse = seen.rpc_method() == "initialize" && std::mem::take(&mut *refusing.lock());
        refuse.then(|| Reply::status(401))
    });
    let (_gateway, client) = behind("session", &issuer, &recorder);
    *armed.lock() = true;
    let minted = exchanges(&issuer);
    assert_eq!(text_of(&client.call("echo", &json!({}))), "echo {}");
    assert_eq!(exchanges(&issuer) - minted, 2);
    assert_eq!(recorder.seen_method("tools/call").len(), 1);
}

#[test]
fn an_upstream_that_takes_too_long_is_not_asked_again() {
    let issuer = Issuer::good();
    let recorder = Recorder::scripted(Era::Modern, |seen| {
        (seen.rpc_method() == "tools/call").then(|| Reply::json(200, &json!({})).after(Duration::from_secs(60)))
    });
    let lines = "grant = { strategy = \"none\" }\n[[upstreams.up.tools]]\nmatch = \"echo\"\ntimeout_ms = 2_000";
    let gateway = Setup::usual("slow", &issuer).upstream("up", &recorder.url(), lines).start();
    let client = gateway.client_of(Some("up"), &issuer, "alice").awaiting("echo");
    assert_eq!(refused(&client.call("echo", &json!({}))), (504, 50401, "upstream_timeout".into()));
    assert_eq!(recorder.seen_method("tools/call").len(), 1);
}

#[test]
fn an_upstream_that_is_not_there_was_not_called() {
    let issuer = Issuer::good();
    let recorder = Recorder::good(Era::Modern);
    let gateway = Setup::usual("gone", &issuer).open_upstream("up", &recorder.url()).start();
    let client = gateway.client_of(Some("up"), &issuer, "alice").awaiting("echo");
    drop(recorder);
    // The first call may still meet a kept connection in the moment of its end, and then nobody knows.
    place::wait_for("the upstream is known to be away", place::PATIENCE, || {
        let answer = refused(&client.call("echo", &json!({})));
        let unknown = (502, 50203, "upstream_lost".to_owned());
        assert!(answer == unknown || answer == (502, 50202, "upstream_unreachable".to_owned()), "{answer:?}");
        (answer != unknown).then_some(())
    });
    let last = place::wait_for("its record", place::PATIENCE, || {
        let calls = gateway.recorded("intent", 1).len();
        gateway.recorded("outcome", calls).pop()
    });
    assert_eq!(last["result"]["ending"], "not_forwarded");
}

/// The upstream has what was asked, and did not do it: that it stayed here would not be true.
#[test]
fn a_call_that_the_upstream_has_seen_did_not_stay_here() {
    for era in [Era::Modern, Era::Legacy] {
        let away = Arc::new(AtomicBool::new(false));
        let gone = Arc::clone(&away);
        let asked = AtomicUsize::new(0);
        let issuer = Issuer::scripted(move |seen| {
            seen.field("subject_token")?;
            let number = asked.fetch_add(1, Ordering::AcqRel);
            let token = json!({ "access_token": format!("token-{number}"), "token_type": "Bearer", "expires_in": 300,
                "issued_token_type": "urn:ietf:params:oauth:token-type:access_token" });
            let gone = Arc::clone(&gone);
            let held = Step::later(move || (number == 0 || gone.load(Ordering::Acquire)).then(|| "\n".into()));
            Some(Reply::json(200, &token).step(held))
        });
        let recorder = failing(era, 1, Reply::status(401));
        let (gateway, client) = behind("seen", &issuer, &recorder);
        let answer = std::thread::scope(|scope| {
            let call = scope.spawn(|| client.call("echo", &json!({})));
            place::wait_for("another credential is asked for", place::PATIENCE, || {
                (exchanges(&issuer) == 2).then_some(())
            });
            recorder.leave();
            away.store(true, Ordering::Release);
            call.join().unwrap()
        });
        assert_eq!(refused(&answer), (502, 50202, "upstream_unreachable".into()), "{era:?}");
        assert_eq!(recorder.seen_method("tools/call").len(), 1, "{era:?}");
        let (intent, outcome) = (&gateway.recorded("intent", 1)[0], &gateway.recorded("outcome", 1)[0]);
        let result = &outcome["result"];
        assert_eq!((&result["ending"], &result["code"]), (&json!("failed"), &json!("upstream_unreachable")), "{era:?}");
        // Sent once, under the credential of its intent; the other one is on record as minted and was shown to nobody.
        assert_eq!((&result["attempts"], &result["token_digest"]), (&Value::Null, &Value::Null), "{era:?}");
        let mut minted = gateway.recorded("grant", 3);
        minted.retain(|record| record["call"] == intent["id"]);
        let minted: Vec<&Value> = minted.iter().map(|record| &record["grant"]["token_digest"]).collect();
        assert_eq!((minted.len(), minted[0]), (2, &intent["grant"]["token_digest"]), "{era:?}");
        assert_ne!(minted[0], minted[1], "{era:?}");
        assert!(!recorder.saw_text("token-1"), "{era:?}");
    }
}

/// Each credential that the issuer gave is in the journal, also of a call's second round; and none is asked for where the
/// call is refused.
#[test]
fn every_minted_credential_is_on_record() {
    let issuer = Issuer::scripted(|seen| {
        let token = format!("minted-{}", uuid::Uuid::new_v4());
        let life = json!({ "access_token": token, "token_type": "Bearer", "expires_in": 1,
            "issued_token_type": "urn:ietf:params:oauth:token-type:access_token" });
        seen.field("subject_token").map(|_| Reply::json(200, &life))
    });
    let recorder = asking();
    let (gateway, client) = behind("minted", &issuer, &recorder);
    let session = client.initialize_with(&capabilities());
    let answer = |_: &Value| {
        std::thread::sleep(Duration::from_millis(1_100)); // no credential is used beyond its time
        Some(json!({ "result": { "action": "accept", "content": { "name": "Ada" } } }))
    };
    let (_asked, done) = converse(&session, &json!({ "name": "echo" }), answer);
    assert_eq!(done["result"]["content"][0]["text"], "hello Ada");
    assert_eq!(exchanges(&issuer), 2);
    assert_eq!(minted(&gateway, &issuer), 3, "and the one that the catalogue is read with");

    let upstream = holding(vec![request(json!(7), "elicitation/create", form())]);
    let (gateway, client) = behind("unminted", &issuer, &upstream);
    let asked = call(&client, &capabilities(), json!({})).json();
    let key = asked["result"]["inputRequests"].as_object().unwrap().keys().next().unwrap().clone();
    let answers = json!({ key.as_str(): { "action": "decline" } });
    let retry = json!({ "inputResponses": answers, "requestState": asked["result"]["requestState"] });
    assert_eq!(call(&client, &capabilities(), retry.clone()).json()["result"]["resultType"], "complete");
    std::thread::sleep(Duration::from_millis(1_100));
    let minted = exchanges(&issuer);
    assert_eq!(refused(&call(&client, &capabilities(), retry)).2, "request_state_used");
    assert_eq!(exchanges(&issuer), minted);
    drop(gateway);
}

/// How many credentials the token endpoint gave, each of which has a record of its own.
fn minted(gateway: &Gateway, issuer: &Issuer) -> usize {
    let given = issuer.asked().len();
    let recorded = gateway.recorded("grant", given);
    let digests: BTreeSet<&str> =
        recorded.iter().map(|record| record["grant"]["token_digest"].as_str().unwrap()).collect();
    assert_eq!((recorded.len(), digests.len(), issuer.asked().len()), (given, given, given), "{recorded:#?}");
    given
}

#[test]
fn credentials_that_carry_no_call_or_everybodys_are_on_record() {
    let issuer = Issuer::scripted(|_| {
        let token = format!("minted-{}", uuid::Uuid::new_v4());
        Some(Reply::json(200, &json!({ "access_token": token, "token_type": "Bearer", "expires_in": 3_600 })))
    });
    let keys = Issuer::good();
    let (shared, acted) = (Recorder::good(Era::Modern), Recorder::good(Era::Modern));
    let of = |strategy: &str, url: &str, more: &str| {
        format!(
            "grant = {{ strategy = \"{strategy}\", token_endpoint = \"{}/token\", resource = \"{url}\"{more}, \
             client = {{ id = \"gateway\", secret = {{ env = \"GATEWAY_SECRET\" }} }} }}",
            issuer.url()
        )
    };
    let setup = Setup::usual("on-record", &keys)
        .environment("GATEWAY_SECRET", "gateway-secret")
        .upstream("own", &shared.url(), &of("client_credentials", &shared.url(), ""))
        .upstream("acted", &acted.url(), &of("exchange", &acted.url(), ", actor = true"));
    let gateway = setup.start();
    for upstream in ["own", "acted"] {
        gateway.client_of(Some(upstream), &keys, "alice").awaiting("echo").call("echo", &json!({}));
    }
    assert_eq!(minted(&gateway, &issuer), 4);
    let recorded = gateway.recorded("grant", 4);
    let of = |upstream: &str, strategy: &str| {
        let is = |record: &&Value| record["upstream"] == upstream && record["grant"]["strategy"] == strategy;
        recorded.iter().find(is).unwrap_or_else(|| panic!("{upstream} {strategy}: {recorded:#?}"))
    };
    for read in [of("own", "client_credentials"), of("acted", "client_credentials")] {
        assert!(read["user"].is_null() && read["agent"].is_null() && read["call"].is_null(), "{read:#}");
    }
    let intents = gateway.recorded("intent", 2);
    let call = |upstream: &str| intents.iter().find(|record| record["target"]["upstream"] == upstream).unwrap();
    for carried in [of("acted", "actor"), of("acted", "exchange")] {
        assert_eq!(carried["user"]["subject"], "alice");
        assert_eq!(carried["call"], call("acted")["id"]);
        assert_eq!(carried["request"]["trace_id"], call("acted")["request"]["trace_id"]);
    }
    let (everybodys, alices) = (&of("own", "client_credentials")["grant"], &of("acted", "exchange")["grant"]);
    for (upstream, grant, cached) in [("own", everybodys, true), ("acted", alices, false)] {
        assert_eq!(call(upstream)["grant"]["token_digest"], grant["token_digest"]);
        assert_eq!((&call(upstream)["grant"]["cached"], &grant["cached"]), (&json!(cached), &json!(false)));
    }
}

/// The upstream said that it awaits the call once more, and has seen it by then.
#[test]
fn what_fails_after_the_call_was_sent_is_not_to_be_tried_again() {
    let away = Arc::new(Mutex::new(false));
    let (issuers, upstreams) = (Arc::clone(&away), Arc::clone(&away));
    let issuer = Issuer::scripted(move |seen| {
        (seen.field("subject_token").is_some() && *issuers.lock()).then(|| Reply::status(503))
    });
    let recorder = Recorder::scripted(Era::Modern, move |seen| match seen.rpc_method().as_str() {
        "tools/call" if seen.json()["params"]["inputResponses"].is_null() => {
            let asks = json!({ "who": { "method": "elicitation/create", "params": form() } });
            Some(Reply::result(seen, &json!({ "resultType": "input_required", "inputRequests": asks })))
        }
        "tools/call" => {
            *upstreams.lock() = true;
            Some(Reply::status(401))
        }
        _ => None,
    });
    let (gateway, client) = behind("sent", &issuer, &recorder);
    let session = client.initialize_with(&capabilities());
    let answer = |_: &Value| Some(json!({ "result": { "action": "decline" } }));
    let (_asked, ended) = converse(&session, &json!({ "name": "echo" }), answer);
    assert_eq!(ended["error"]["code"], 50210, "{ended}");
    assert_eq!(ended["error"]["data"]["code"], "outcome_unknown");
    assert_eq!(ended["error"]["data"]["retryable"], false);
    assert_eq!(gateway.recorded("outcome", 1)[0]["result"]["ending"], "failed");
}

fn exchanges(issuer: &Issuer) -> usize {
    issuer.asked().iter().filter(|seen| seen.field("subject_token").is_some()).count()
}
