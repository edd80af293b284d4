//! Several messages in the place of one, so that one is judged and another runs (I5). MCP had batches in 2025-03-26 only.

use super::{ECHO_HEADERS, Ground, call_text};

#[test]
fn several_messages_in_one_body_are_refused_and_none_runs() {
    let ground = Ground::new("batch-smuggling");
    let client = ground.client("alice");
    let (good, erase) = (call_text("echo", "{}"), call_text("erase", r#"{"id":"1"}"#));
    assert_eq!(client.post(&ECHO_HEADERS, good.as_bytes()).status(), 200);
    assert_eq!(ground.calls(), 1);

    let note = r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;
    let answer = r#"{"jsonrpc":"2.0","id":1,"result":{}}"#;
    let (parsed, shaped) = (["not_json"], ["not_a_request"]);
    let bodies: [(String, &[&str]); 16] = [
        (format!("[{good}]"), &shaped),
        (format!("[{good},{erase}]"), &shaped),
        (format!("[{note},{erase}]"), &shaped),
        ("[]".to_owned(), &shaped),
        (format!("[[{erase}]]"), &shaped),
        (format!("{good}{erase}"), &parsed),
        (format!("{good}\n{erase}"), &parsed),
        (format!("{good},{erase}"), &parsed),
        (format!("{good}\0{erase}"), &parsed),
        (format!("\u{feff}{good}"), &parsed),
        (format!("data: {good}\n\n"), &parsed),
        (good.replace(r#""params""#, r#""result":{},"params""#), &shaped),
        (good.replace(r#""params""#, r#""batch":[],"params""#), &shaped),
        (good.replace(r#""id":1,"#, ""), &shaped),
        (good.replace(r#""id":1"#, r#""id":null"#), &shaped),
        (answer.to_owned(), &shaped),
    ];
    for (body, codes) in &bodies {
        let answer = ground.refused(body, codes, || client.post(&ECHO_HEADERS, body.as_bytes()));
        assert_eq!(answer.status(), 400, "{body}");
    }

    // The header of the one revision that had batches does not make the session one of it.
    let session = client.initialize();
    let batch = r#"[{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"erase"}},{"jsonrpc":"2.0","id":2,"method":"tools/list"}]"#;
    let id = session.id().unwrap();
    let old = [("MCP-Protocol-Version", "2025-03-26"), ("Mcp-Session-Id", id)];
    ground.refused("a batch of 2025-03-26", &shaped, || client.post(&old, batch.as_bytes()));
    assert_eq!(ground.recorded_refusal("not_a_request")["user"]["subject"], "alice");
    ground.good_call();
}

#[test]
fn second_request_behind_a_length_that_lies_is_no_request() {
    let ground = Ground::new("batch-lengths");
    let client = ground.client("alice");
    let good = call_text("echo", "{}");
    assert_eq!(client.post(&ECHO_HEADERS, good.as_bytes()).status(), 200);
    let calls = ground.calls();
    // Both lengths: whoever reads the one sees one request, whoever reads the other sees two.
    let both = [ECHO_HEADERS.as_slice(), &[("Transfer-Encoding", "chunked")]].concat();
    let smuggled = String::from_utf8(client.post_bytes(&ECHO_HEADERS, call_text("erase", "{}").as_bytes())).unwrap();
    for coding in ["chunked", "identity", "chunked, chunked", "x, chunked"] {
        let mut headers = both.clone();
        headers.pop();
        headers.push(("Transfer-Encoding", coding));
        let bytes = client.post_bytes(&headers, format!("0\r\n\r\n{smuggled}").as_bytes());
        let mut connection = client.connection();
        connection.send(&bytes).unwrap();
        let status = connection.try_head().map_or(400, |head| head.status);
        assert!((400..500).contains(&status), "{coding}: {status}");
        assert_eq!(ground.calls(), calls, "{coding}");
    }
    ground.good_call();
}

#[test]
fn request_behind_another_on_one_connection_stands_for_itself() {
    let ground = Ground::new("batch-pipelined");
    let (alice, stranger) = (ground.client("alice"), ground.gateway.client(Some("up")));
    let good = alice.post_bytes(&ECHO_HEADERS, call_text("echo", r#"{"message":"one"}"#).as_bytes());
    let bare = stranger.post_bytes(&ECHO_HEADERS, call_text("echo", r#"{"message":"two"}"#).as_bytes());
    let mut connection = alice.connection();
    connection.send(&[good.clone(), bare, good].concat()).unwrap();
    let statuses = [connection.answer().status(), connection.answer().status(), connection.answer().status()];
    assert_eq!(statuses, [200, 401, 200]);
    assert_eq!(ground.calls(), 2);
    assert!(!ground.upstream.saw_text("two"));
    ground.good_call();
}
