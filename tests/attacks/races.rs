//! The same thing, many times at the same moment: what is good once is good for one of them, and what is asked for is asked
//! for once for all.

use std::{collections::BTreeSet, thread};

use serde_json::json;

use super::{ECHO_HEADERS, Ground, call_text, chain_verifies, code};
use crate::harness::{
    prover::Prover,
    recorder::{Era, Recorder},
};

const AT_ONCE: usize = 12;

/// What comes of `ask`, asked by many at once.
fn at_once<T: Send>(ask: impl Fn() -> T + Sync) -> Vec<T> {
    thread::scope(|scope| {
        let asking: Vec<_> = (0..AT_ONCE).map(|_| scope.spawn(&ask)).collect();
        asking.into_iter().map(|one| one.join().unwrap()).collect()
    })
}

/// RFC 9449 §11.1.
#[test]
fn a_proof_that_comes_many_times_at_once_is_good_for_one() {
    let ground = Ground::before("race-proof", Recorder::good(Era::Modern), |setup, _, up| {
        setup.gateway("dpop = {}").open_upstream("up", &up.url())
    });
    let (url, key) = (ground.gateway.endpoint(Some("up")), Prover::new());
    let mut claims = ground.issuer.claims("alice", &url);
    claims["cnf"] = json!({ "jkt": key.thumbprint() });
    let token = ground.issuer.sign(&claims);
    let (shown, proof) = (format!("DPoP {token}"), key.proof("POST", &url, Some(&token)));
    let headers = [&[("Authorization", shown.as_str()), ("DPoP", &proof)], &ECHO_HEADERS[..]].concat();
    let client = ground.gateway.client(Some("up"));
    let answers = at_once(|| client.post(&headers, call_text("echo", "{}").as_bytes()));
    let refused = answers.iter().filter(|answer| code(answer) == "proof_invalid").count();
    assert_eq!((refused, ground.calls()), (AT_ONCE - 1, 1));
    ground.recorded_refusal("proof_invalid");
    ground.good_call();
    chain_verifies(&ground.gateway);
}

#[test]
fn calls_that_need_the_same_credential_at_once_ask_for_it_once() {
    let recorder = Recorder::good(Era::Modern);
    let ground = Ground::before("race-exchange", recorder, |setup, issuer, up| {
        setup.exchanged_upstream("up", &up.url(), &issuer.url(), "")
    });
    let exchanges = || ground.issuer.asked().iter().filter(|seen| seen.field("subject_token").is_some()).count();
    let (client, before) = (ground.client("alice"), exchanges());
    let answers = at_once(|| client.call("echo", &json!({})).status());
    assert_eq!((answers, exchanges() - before), (vec![200; AT_ONCE], 1));
    let sent = ground.upstream.seen_method("tools/call");
    let credentials: BTreeSet<_> = sent.iter().map(|seen| seen.header("authorization")).collect();
    assert_eq!((sent.len(), credentials.len()), (AT_ONCE, 1));
    ground.good_call();
}
