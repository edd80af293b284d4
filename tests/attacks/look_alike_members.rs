//! Members that a lenient parser takes for others: `Method` for `method`, `paramſ` for `params` (CVE-2026-27896, I2).

use super::{ECHO_HEADERS, Ground, call_text};
use crate::harness::recorder::{Era, Recorder};

#[test]
fn member_that_imitates_another_is_refused() {
    let ground = Ground::new("look-alike-members");
    let client = ground.client("alice");
    let whole = call_text("echo", r#"{"message":"hi"}"#);
    let good = client.post(&ECHO_HEADERS, whole.as_bytes());
    assert_eq!((good.status(), ground.calls()), (200, 1), "{}", good.text());

    let beside = |member: &str| whole.replace(r#""jsonrpc":"2.0""#, &format!(r#""jsonrpc":"2.0",{member}"#));
    let within = |member: &str| whole.replace(r#""name":"echo""#, &format!(r#""name":"echo",{member}"#));
    let meta = |member: &str| whole.replace(r#""_meta":{"#, &format!(r#""_meta":{{{member},"#));
    let bodies = [
        beside(r#""Method":"tools/list""#),
        beside(r#""METHOD":"tools/list""#),
        beside(r#""paramſ":{"name":"erase"}"#),
        beside(r#""Params":{"name":"erase"}"#),
        beside(r#""ID":2"#),
        beside(r#""method ":"x""#),
        beside(r#""m\u0435thod":"x""#),
        beside("\"method\u{200b}\":\"x\""),
        within(r#""Name":"erase""#),
        within(r#""NAME":"erase""#),
        within(r#""Arguments":{"message":"ho"}"#),
        within(r#""argumentſ":{"message":"ho"}"#),
        within(r#""_META":{}"#),
        meta(r#""io.modelcontextprotocol/ProtocolVersion":"2025-11-25""#),
        meta(r#""ProgressToken":1"#),
    ];
    for body in &bodies {
        assert_ne!(*body, whole, "the attack was not put in");
        let answer = ground.refused(body, &["not_a_request"], || client.post(&ECHO_HEADERS, body.as_bytes()));
        assert_eq!(answer.status(), 400, "{body}");
    }
    // Policy reads one of two arguments that differ in case only, and a lenient tool the other.
    for arguments in
        [r#"{"message":"hi","Message":"ho"}"#, r#"{"K":1,"\u212a":2}"#, r#"{"message":"hi","meſſage":"ho"}"#]
    {
        let body = call_text("echo", arguments);
        ground.refused(arguments, &["params_invalid"], || client.post(&ECHO_HEADERS, body.as_bytes()));
    }
    assert_eq!(ground.recorded_refusal("not_a_request")["user"]["subject"], "alice");
    ground.good_call();
}

/// What is not there for policy may be there for a lenient tool.
#[test]
fn argument_that_imitates_one_that_policy_reads_is_refused() {
    let limit = "@id(\"limit\")\nforbid (principal, action == Action::\"up/add\", resource)\n\
                 when { context.input has a && context.input.a.greaterThan(decimal(\"1000.0\")) };\n";
    let ground = Ground::before("look-alike-arguments", Recorder::good(Era::Modern), |setup, _, up| {
        setup.policy("limit.cedar", limit).open_upstream("up", &up.url())
    });
    let client = ground.client("alice");
    let headers = [ECHO_HEADERS[0], ECHO_HEADERS[1], ("Mcp-Name", "add")];
    let post = |arguments: &str| client.post(&headers, call_text("add", arguments).as_bytes());
    assert_eq!((post(r#"{"a":5,"note":"x"}"#).status(), ground.calls()), (200, 1));
    ground.refused("plain", &["denied"], || post(r#"{"a":5000}"#));
    for arguments in [r#"{"A":5000}"#, r#"{"a":5,"b":1,"\uff21":5000}"#, "{\"a\u{200b}\":5000}"] {
        ground.refused(arguments, &["policy_failed", "params_invalid"], || post(arguments));
    }
    assert_eq!(ground.recorded_refusal("policy_failed")["user"]["subject"], "alice");
    // Where no policy reads arguments, nothing is judged by them, and deeper down names may be data.
    let body = call_text("echo", r#"{"labels":{"App":"x","app":"y"}}"#);
    assert_eq!(client.post(&ECHO_HEADERS, body.as_bytes()).status(), 200);
    let body = call_text("echo", r#"{"MESSAGE":"hi"}"#);
    assert_eq!(client.post(&ECHO_HEADERS, body.as_bytes()).status(), 200);
    ground.good_call();
}
