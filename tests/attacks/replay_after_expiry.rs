//! A token that was good a moment ago, used again when its time is over: also where the gateway remembers it as verified,
//! and also where it still has a grant that was minted for it (RR-06).

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use serde_json::json;

use super::{Ground, SOON, code};
use crate::harness::{
    gateway::Setup,
    issuer::{Issuer, now},
    mcp::LEGACY,
    place,
    recorder::{Era, Recorder},
};

/// The life of a token, of which a busy machine has enough for the calls that are to be good.
const LIFE_S: u64 = 12;

/// By then such a token has ended.
const ENDED: Duration = Duration::from_secs(40);

#[test]
fn token_ends_at_its_time_however_well_it_is_known() {
    let (issuer, upstream) = (Issuer::good(), Recorder::good(Era::Modern));
    let setup = Setup::new("replay").policy("allow.cedar", crate::harness::gateway::ALLOW_ALL).section(&format!(
        "[[issuers]]\nissuer = \"{}\"\nalgorithms = [\"ES256\"]\nleeway_s = 0\nclaims = {{ tenant = \"tenant\", groups = \"groups\" }}",
        issuer.url()
    ));
    let setup = setup.exchanged_upstream("up", &upstream.url(), &issuer.url(), "");
    let ground = Ground { gateway: setup.start(), issuer, upstream };
    ground.settle();

    let mut claims = ground.issuer.claims("alice", &ground.gateway.endpoint(Some("up")));
    let ends = now() + LIFE_S;
    claims["exp"] = json!(ends);
    let client = ground.gateway.client(Some("up")).token(&ground.issuer.sign(&claims));
    let session = client.initialize();
    assert_eq!(client.call("echo", &json!({})).status(), 200);
    assert_eq!(session.call("echo", &json!({})).status(), 200);
    // Known and verified now; it is good until it ends, and not a moment longer.
    let answer = place::wait_for("the token's end", ENDED, || {
        let asked_at = now();
        let answer = client.call("echo", &json!({}));
        if answer.status() == 200 {
            assert!(asked_at <= ends, "accepted {} s after its end", asked_at - ends);
            return None;
        }
        Some(answer)
    });
    assert_eq!((answer.status(), code(&answer).as_str()), (401, "token_invalid"));
    assert!(now() >= ends);
    assert!(answer.header("www-authenticate").unwrap().contains("error=\"invalid_token\""));
    let exchanges = || ground.issuer.asked().iter().filter(|seen| seen.field("subject_token").is_some()).count();
    let (began, exchanged) = (Instant::now(), exchanges());
    assert!(exchanged > 0);
    for _ in 0..20 {
        ground.refused("again", &["token_invalid"], || client.call("echo", &json!({})));
        ground.refused("in its session", &["token_invalid"], || session.call("echo", &json!({})));
    }
    let id = session.id().unwrap();
    let delete = client.connection().exchange(&client.bytes(
        "DELETE",
        &[("Mcp-Session-Id", id), ("MCP-Protocol-Version", LEGACY)],
        b"",
    ));
    assert_eq!(delete.status(), 401);
    assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
    ground.recorded_refusal("token_invalid");
    assert_eq!(exchanges(), exchanged, "a token that has ended was exchanged");
    ground.good_call();
}

/// A key may be withdrawn because somebody stole it: what it signed ends with it, also where it was verified before.
#[test]
fn token_of_a_withdrawn_key_is_refused_although_it_was_verified() {
    let ground = Ground::new("withdrawn-key");
    let old = ground.client("alice");
    let session = old.initialize();
    assert_eq!((old.call("echo", &json!({})).status(), session.call("echo", &json!({})).status()), (200, 200));
    ground.issuer.rotate();
    // A token of the new key makes the gateway read the keys again.
    let new = ground.client("bob");
    place::wait_for("the new key", SOON, || (new.call("echo", &json!({})).status() == 200).then_some(()));
    ground.refused("a verified token of the old key", &["token_invalid"], || old.call("echo", &json!({})));
    ground.refused("its session", &["token_invalid"], || session.call("echo", &json!({})));
    ground.recorded_refusal("token_invalid");
    ground.good_call();
}

/// A batch is sent in time, and its second call comes up when the token has ended.
#[test]
fn token_ends_in_the_middle_of_a_batch() {
    let ends = Arc::new(AtomicU64::new(u64::MAX));
    let until = Arc::clone(&ends);
    let upstream = Recorder::scripted(Era::Modern, move |seen| {
        if seen.rpc_method() == "tools/call" {
            place::wait_for("the token's end", ENDED, || {
                let ends = until.load(Ordering::Acquire);
                (ends == u64::MAX || now() > ends).then_some(())
            });
        }
        None
    });
    let issuer = Issuer::good();
    let setup = Setup::new("replay-batch").policy("allow.cedar", crate::harness::gateway::ALLOW_ALL).section(&format!(
        "[[issuers]]\nissuer = \"{}\"\nalgorithms = [\"ES256\"]\nleeway_s = 0\nclaims = {{ tenant = \"tenant\", groups = \"groups\" }}",
        issuer.url()
    ));
    let ground = Ground { gateway: setup.open_upstream("up", &upstream.url()).start(), issuer, upstream };
    ground.settle();
    let mut claims = ground.issuer.claims("alice", &ground.gateway.endpoint(Some("up")));
    let ended = now() + LIFE_S;
    claims["exp"] = json!(ended);
    let client = ground.gateway.client(Some("up")).token(&ground.issuer.sign(&claims));
    let params =
        json!({ "protocolVersion": "2025-03-26", "capabilities": {}, "clientInfo": { "name": "t", "version": "1" } });
    let opening = json!({ "jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params });
    let opened = client.post(&[], opening.to_string().as_bytes());
    ends.store(ended, Ordering::Release);
    let call = |id| json!({ "jsonrpc": "2.0", "id": id, "method": "tools/call", "params": { "name": "echo", "arguments": {} } });
    let batch = json!([call(1), call(2)]).to_string();
    let answers = client.post(&[("Mcp-Session-Id", opened.header("mcp-session-id").unwrap())], batch.as_bytes()).json();
    assert_eq!(answers[0]["result"]["content"][0]["text"], "echo {}", "{answers}");
    assert_eq!(answers[1]["error"]["data"]["code"], "token_invalid", "{answers}");
    assert_eq!(ground.calls(), 1);
    ends.store(u64::MAX, Ordering::Release);
    ground.good_call();
}
