//! A program that floods, babbles, asks and tells: its callers get an answer, others notice nothing, and its secrets stay.

use serde_json::{Value, json};

use super::SOON;
use crate::harness::{
    gateway::{Gateway, Setup},
    issuer::Issuer,
    mcp::Client,
    place,
    program::Program,
    recorder::Era,
};

fn behind(name: &str, issuer: &Issuer, era: Era, mood: &'static str) -> (Gateway, Program, Client) {
    let setup = Setup::usual(name, issuer).environment("PROGRAM_KEY", "k-0f4c9e77ab5541e09d3e6c1b2a7f8d60");
    let program = Program::new(&setup, "up", era, mood);
    let lines = "timeout_ms = 8_000\nenvironment = { API_KEY = { env = \"PROGRAM_KEY\" } }";
    let limits = "[limits]\nreply_bytes_max = 65_536";
    let gateway = setup.section(limits).program("up", &program.command(&[]), lines).start();
    let client = gateway.client_of(Some("up"), issuer, "alice").awaiting("pid");
    (gateway, program, client)
}

fn code(client: &Client, tool: &str) -> Value {
    let answer = client.call(tool, &json!({}));
    let code = answer.json()["error"]["data"]["code"].clone();
    assert!(!answer.text().contains("0f4c9e77"), "{}", answer.text());
    if code.is_null() { json!(answer.text()) } else { code }
}

#[test]
fn noise_on_both_outputs_holds_nothing_up() {
    let issuer = Issuer::good();
    for era in [Era::Modern, Era::Legacy] {
        let (gateway, _, client) = behind("program-noise", &issuer, era, "noisy");
        assert_eq!(client.call("pid", &json!({})).status(), 200, "{era:?}");
        let dropped =
            r#"tollgate_upstream_dropped_total{tollgate_upstream_id="up",tollgate_reason="line_not_json_rpc"}"#;
        place::wait_for("the count of garbage", SOON, || gateway.metric(dropped).filter(|count| *count >= 4.0));
    }
}

#[test]
fn endless_lines_and_garbage_end_the_process_and_not_the_gateway() {
    let issuer = Issuer::good();
    for era in [Era::Modern, Era::Legacy] {
        let (gateway, program, client) = behind("program-flood", &issuer, era, "good");
        assert_eq!(code(&client, "endless"), "upstream_too_large", "{era:?}");
        assert_eq!(code(&client, "garbage"), "upstream_invalid", "{era:?}");
        assert_eq!(client.call("pid", &json!({})).status(), 200, "{era:?}");
        place::wait_for("the end of the flood", SOON, || (program.running().len() <= 3).then_some(()));
        assert!(gateway.verify().status.success());
    }
}

/// One process serves everybody: an answer that is too large is lost to its caller, and to nobody else.
#[test]
fn a_line_that_is_too_long_costs_its_caller_the_answer_and_nobody_the_process() {
    let issuer = Issuer::good();
    for era in [Era::Modern, Era::Legacy] {
        let (gateway, _, client) = behind("program-large", &issuer, era, "good");
        let process = |client: &Client| client.call("pid", &json!({})).json()["result"]["content"][0]["text"].clone();
        let before = process(&client);
        assert_eq!(code(&client, "large"), "upstream_too_large", "{era:?}");
        assert_eq!(process(&client), before, "{era:?}");
        let bob = gateway.client_of(Some("up"), &issuer, "bob");
        assert_eq!(process(&bob) == before, era == Era::Modern);
    }
}

#[test]
fn what_a_program_asks_undeclared_is_refused_and_reaches_no_client() {
    let issuer = Issuer::good();
    let (_gateway, program, client) = behind("program-asks", &issuer, Era::Legacy, "good");
    let answer = client.call("ask", &json!({}));
    assert!(answer.status() == 200 && !answer.text().contains("sampling"), "{}", answer.text());
    let refused = r#"{"jsonrpc":"2.0","id":"asked","error":{"code":-32601,"#;
    assert!(program.seen().iter().any(|line| line.starts_with(refused)), "{:?}", program.seen());
}

#[test]
fn an_answer_to_nobody_reaches_nobody() {
    let issuer = Issuer::good();
    for era in [Era::Modern, Era::Legacy] {
        let (_gateway, _, client) = behind("program-stranger", &issuer, era, "good");
        let answer = client.call("stranger", &json!({}));
        assert_eq!(answer.json()["result"]["content"][0]["text"], "mine", "{era:?}: {}", answer.text());
    }
}

#[test]
fn a_programs_own_secret_does_not_come_back() {
    let issuer = Issuer::good();
    let (gateway, _, client) = behind("program-secret", &issuer, Era::Modern, "good");
    assert_eq!(code(&client, "secret"), "upstream_invalid");
    assert_eq!(client.call("pid", &json!({})).status(), 200);
    let journal: String = gateway.journal().iter().map(Value::to_string).collect();
    assert!(!journal.contains("0f4c9e77"));
}
