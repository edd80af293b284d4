//! Attacks, one file each: what is tried, that it fails, what the journal says of it, and that a good call still works.
//!
//! No attack is judged by the gateway's own word alone: a recorder behind it keeps every byte that it sends up, and each
//! test first shows that the recorder would have seen the attack succeed.

mod abuse;
mod algorithm_confusion;
mod answer_in_another_session;
mod api_keys;
mod audience_confusion;
mod audit_log_injection;
mod batch_smuggling;
mod cache_confusion;
mod call_flood;
mod certificate_mismatch;
mod deep_json;
mod denied_tool_by_upstream_name;
mod duplicate_members;
mod exchange_down;
mod forged_act;
mod grant_confusion;
mod header_body_mismatch;
mod hold_flood;
mod http2_frames;
mod introspection;
mod issuer_mix_up;
mod journal_disk_full;
mod kill_under_load;
mod listener_flood;
mod metadata_elsewhere;
mod look_alike_members;
mod name_tricks;
mod origin_and_host;
mod oversized_and_slow;
mod passthrough;
mod program_hostile;
mod program_injection;
mod proof_forged;
mod provider_faults;
mod query_token;
mod races;
mod replay_after_expiry;
mod request_state_forged;
mod sse_endpoint_elsewhere;
mod sse_link_flood;
mod stranger_session;
mod stream_flood;
mod stream_half_open;
mod stream_unread;
mod task_forged;
mod unknown_kid_flood;
mod upstream_answers_with_another_id;
mod upstream_asks_undeclared;
mod upstream_catalogue_hostile;
mod upstream_credential_leak;
mod upstream_hostile;
mod upstream_redirects;
mod upstream_wire;

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::{
    gateway::{Gateway, Setup},
    http::Answer,
    issuer::Issuer,
    mcp::{Client, MODERN},
    place,
    recorder::{Era, Recorder},
};

/// The metadata of every modern request, as JSON text.
const META: &str = r#"{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientInfo":{"name":"tests","version":"1"},"io.modelcontextprotocol/clientCapabilities":{}}"#;

/// The headers that mirror a modern call of `echo`.
const ECHO_HEADERS: [(&str, &str); 3] =
    [("MCP-Protocol-Version", MODERN), ("Mcp-Method", "tools/call"), ("Mcp-Name", "echo")];

/// How long a fact may take to come true, on a busy machine too.
const SOON: Duration = Duration::from_secs(60);

/// A gateway before a recording upstream called `up`.
struct Ground {
    issuer: Issuer,
    upstream: Recorder,
    gateway: Gateway,
}

impl Ground {
    /// A modern upstream without a credential of its own; everybody may call everything.
    fn new(name: &str) -> Self {
        Self::before(name, Recorder::good(Era::Modern), |setup, _, up| setup.open_upstream("up", &up.url()))
    }

    /// Any upstream, set up in any way.
    fn before(name: &str, upstream: Recorder, with: impl FnOnce(Setup, &Issuer, &Recorder) -> Setup) -> Self {
        Self::of(name, Issuer::good(), upstream, with)
    }

    /// Any issuer, too.
    fn of(
        name: &str,
        issuer: Issuer,
        upstream: Recorder,
        with: impl FnOnce(Setup, &Issuer, &Recorder) -> Setup,
    ) -> Self {
        let setup = with(Setup::usual(name, &issuer), &issuer, &upstream);
        let gateway = setup.start();
        let ground = Self { issuer, upstream, gateway };
        ground.settle();
        ground
    }

    /// Waits until the upstream's tools are known.
    fn settle(&self) {
        let client = self.client("settler");
        place::wait_for("the upstream's tools", SOON, || {
            let answer = client.modern("tools/list", &json!({}));
            let degraded = answer.text().contains("dev.tollgate/degraded");
            (answer.status() == 200 && !degraded).then_some(())
        });
    }

    /// A client of `/mcp/up` with a good token.
    fn client(&self, user: &str) -> Client {
        self.gateway.client_of(Some("up"), &self.issuer, user)
    }

    /// How many calls reached the upstream.
    fn calls(&self) -> usize {
        self.upstream.seen_method("tools/call").len()
    }

    /// I9: whatever was tried before, a good call succeeds, reaches the upstream once, and is in the journal with its
    /// outcome.
    fn good_call(&self) {
        let before = self.calls();
        let answer = self.client("good").call("echo", &json!({ "message": "still here" }));
        assert_eq!(answer.status(), 200, "{}", answer.text());
        let text = answer.json()["result"]["content"][0]["text"].clone();
        assert_eq!(text, "echo {\"message\":\"still here\"}", "{}", answer.text());
        assert_eq!(self.calls(), before + 1);
        place::wait_for("outcome of the good call", SOON, || {
            let journal = self.gateway.journal();
            let intent = journal
                .iter()
                .rev()
                .find(|record| record["event"] == "intent" && record["user"]["subject"] == "good")?;
            journal
                .iter()
                .any(|record| {
                    record["event"] == "outcome" && record["id"] == intent["id"] && record["result"]["ending"] == "ok"
                })
                .then_some(())
        });
    }

    /// Sends `attack`, which must be refused with one of these codes and never reach the upstream.
    #[track_caller]
    fn refused(&self, what: &str, codes: &[&str], attack: impl FnOnce() -> Answer) -> Answer {
        let before = self.upstream.seen().len();
        let answer = attack();
        let found = code(&answer);
        assert!(
            codes.contains(&found.as_str()),
            "{what}: {found:?}, not {codes:?}: {} {}",
            answer.status(),
            answer.text()
        );
        // The gateway reads the upstream's tools now and then on its own account.
        let seen = self.upstream.seen().split_off(before);
        let reached: Vec<_> = seen.iter().filter(|seen| seen.rpc_method() == "tools/call").collect();
        assert!(reached.is_empty(), "{what}: reached the upstream: {reached:?}");
        answer
    }

    /// Waits until the journal says that a request was refused with this code: in a record of its own for a caller who
    /// is known, in a summary for a stranger.
    #[track_caller]
    fn recorded_refusal(&self, code: &str) -> Value {
        recorded_refusal(&self.gateway, code)
    }
}

/// Acts, and again up to twice if that took `limit` or longer: a machine may be slow for once, and what makes everybody wait
/// does so each time, when nobody remembers the time before.
#[track_caller]
fn quickly<T>(limit: Duration, mut act: impl FnMut() -> T) -> T {
    let mut took = Vec::new();
    while took.len() < 3 {
        let began = Instant::now();
        let done = act();
        if began.elapsed() < limit {
            return done;
        }
        took.push(began.elapsed());
        std::thread::sleep(Duration::from_secs(2));
    }
    panic!("not once in {limit:?}: {took:?}");
}

#[track_caller]
fn recorded_refusal(gateway: &Gateway, code: &str) -> Value {
    place::wait_for(&format!("a record of `{code}`"), SOON, || {
        gateway.journal().into_iter().rev().find(|record| {
            let sources = record["refusals"]["sources"].as_array().cloned().unwrap_or_default();
            record["refused"]["code"] == code || sources.iter().any(|source| source["code"] == code)
        })
    })
}

/// The chain of the journal is whole.
#[track_caller]
fn chain_verifies(gateway: &Gateway) {
    let output = gateway.verify();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{out}\n{err}");
}

/// The stable code of a refusal; empty where the answer is none.
fn code(answer: &Answer) -> String {
    let json: Value = if answer.header("content-type").is_some_and(|kind| kind.starts_with("text/event-stream")) {
        answer.json()
    } else {
        serde_json::from_slice(&answer.body).unwrap_or_default()
    };
    json["error"]["data"]["code"].as_str().unwrap_or_default().to_owned()
}

/// A modern call of `tool`, as JSON text; `arguments` is JSON text.
fn call_text(tool: &str, arguments: &str) -> String {
    format!(
        r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"{tool}","arguments":{arguments},"_meta":{META}}}}}"#
    )
}
