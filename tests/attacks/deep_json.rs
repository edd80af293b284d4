//! JSON that costs more than it is long: depth, breadth, long names, long numbers (I9).

use super::{ECHO_HEADERS, Ground, call_text};

#[test]
fn json_beyond_its_bounds_is_refused_and_hurts_nobody() {
    let ground = Ground::new("deep-json");
    let client = ground.client("alice");
    // Two levels are the message's own, one the arguments'.
    let nested = |depth: usize| call_text("echo", &format!(r#"{{"a":{}{}}}"#, "[".repeat(depth), "]".repeat(depth)));
    let good = client.post(&ECHO_HEADERS, nested(50).as_bytes());
    assert_eq!((good.status(), ground.calls()), (200, 1), "{}", good.text());

    let numbers = |count: usize| format!("[{}]", vec!["1"; count].join(","));
    let arguments = |value: &str| call_text("echo", &format!(r#"{{"a":{value}}}"#));
    let bodies = [
        ("65 levels", nested(65)),
        ("100,000 levels", nested(100_000)),
        ("objects", arguments(&format!("{}1{}", r#"{"a":"#.repeat(5_000), "}".repeat(5_000)))),
        ("never closed", "[".repeat(500_000)),
        ("never closed objects", r#"{"a":"#.repeat(100_000)),
        ("30,000 values", arguments(&numbers(30_000))),
        ("a long name", call_text("echo", &format!(r#"{{"{}":1}}"#, "a".repeat(10_000)))),
        ("a long number", arguments(&"9".repeat(100_000))),
        ("a long exponent", arguments(&format!("1e{}", "9".repeat(1_000)))),
        ("bad UTF-16", arguments(r#""\ud800""#)),
        ("a control character", arguments("\"\u{1}\"")),
        ("infinity", arguments("Infinity")),
        ("a comment", arguments("1/**/")),
        ("a comma too many", arguments("[1,]")),
        ("half", call_text("echo", "{}")[..40].to_owned()),
        ("nothing", " ".to_owned()),
    ];
    for (what, body) in &bodies {
        let answer = ground.refused(what, &["not_json"], || client.post(&ECHO_HEADERS, body.as_bytes()));
        assert_eq!(answer.status(), 400, "{what}");
    }
    let mut latin = call_text("echo", r#"{"message":"x"}"#).into_bytes();
    let at = latin.windows(3).position(|window| window == b"\"x\"").unwrap() + 1;
    for bad in [0xFF, 0xC0, 0x80] {
        latin[at] = bad;
        ground.refused("bad UTF-8", &["not_json"], || client.post(&ECHO_HEADERS, &latin));
    }
    assert_eq!(ground.recorded_refusal("not_json")["user"]["subject"], "alice");
    ground.good_call();
}

#[test]
fn numbers_and_escapes_reach_the_tool_as_they_were_written() {
    let ground = Ground::new("original-bytes");
    let client = ground.client("alice");
    let arguments = r#"{ "a" : 1.10, "b":18446744073709551616 ,"c":-0, "d":"\u0065\/é", "e":1E2 }"#;
    assert_eq!(client.post(&ECHO_HEADERS, call_text("echo", arguments).as_bytes()).status(), 200);
    assert!(ground.upstream.saw_text(arguments), "{}", String::from_utf8_lossy(&ground.upstream.bytes()));
    ground.good_call();
}
