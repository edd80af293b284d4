//! Members that a lenient parser takes for others: `Method` for `method`, `paramſ` for `params` (CVE-2026-27896, I2).

use super::{ECHO_HEADERS, Ground, call_text};

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
