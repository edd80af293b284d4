//! One name twice in one object: policy would judge the one value, and the tool would run with the other (I2, RFC 7493
//! §2.3).

use super::{ECHO_HEADERS, Ground, META, call_text};

#[test]
fn member_that_is_there_twice_is_refused_wherever_it_stands() {
    let ground = Ground::new("duplicate-members");
    let client = ground.client("alice");
    let good = client.post(&ECHO_HEADERS, call_text("echo", r#"{"message":"hi"}"#).as_bytes());
    assert_eq!((good.status(), ground.calls()), (200, 1), "{}", good.text());

    let whole = call_text("echo", r#"{"message":"hi"}"#);
    let bodies = [
        whole.replace(r#""name":"echo""#, r#""name":"echo","name":"erase""#),
        whole.replace(r#""name":"echo""#, r#""name":"erase","name":"echo""#),
        whole.replace(r#""name":"echo""#, r#""name":"echo","n\u0061me":"erase""#),
        whole.replace(r#""method":"tools/call""#, r#""method":"tools/list","method":"tools/call""#),
        whole.replace(r#""id":1"#, r#""id":1,"id":2"#),
        whole.replace(r#""jsonrpc":"2.0""#, r#""jsonrpc":"2.0","jsonrpc":"2.0""#),
        whole
            .replace(r#""arguments":{"message":"hi"}"#, r#""arguments":{"message":"hi"},"arguments":{"message":"ho"}"#),
        format!("{},\"params\":{{\"name\":\"erase\",\"_meta\":{META}}}}}", whole.strip_suffix('}').unwrap()),
        whole.replace(META, &META.replacen('{', r#"{"progressToken":1,"progressToken":2,"#, 1)),
        call_text("echo", r#"{"message":"hi","message":"ho"}"#),
        call_text("echo", r#"{"message":"hi","mess\u0061ge":"ho"}"#),
        call_text("echo", r#"{"message":"hi","\ud83d\ude00":1,"😀":2}"#),
        call_text("echo", r#"{"a":[{"b":{"c":1,"d":2,"c":3}}]}"#),
        call_text("echo", r#"{"":1,"":2}"#),
    ];
    for body in &bodies {
        assert_ne!(*body, whole, "the attack was not put in");
        let answer = ground.refused(body, &["not_json"], || client.post(&ECHO_HEADERS, body.as_bytes()));
        assert_eq!((answer.status(), answer.json()["error"]["code"].as_i64()), (400, Some(-32700)), "{body}");
    }
    assert_eq!(ground.recorded_refusal("not_json")["user"]["subject"], "alice");

    let session = client.initialize();
    let legacy = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"echo","name":"erase"}}"#;
    ground.refused("legacy", &["not_json"], || client.post(&session.headers(), legacy.as_bytes()));
    ground.good_call();
}
