//! A token where it would be logged: in the query string (RR-07), in a form body, or in the wrong header.

use serde_json::json;

use super::{Ground, code};
use crate::harness::{http, mcp::Client, mcp::MODERN, mcp::modern_body};

#[test]
fn token_in_the_query_string_is_refused_also_beside_a_good_header() {
    let ground = Ground::new("query-token");
    let endpoint = ground.gateway.endpoint(Some("up"));
    let token = ground.issuer.token("alice", &endpoint);
    assert_eq!(Client::new(&endpoint).token(&token).call("echo", &json!({})).status(), 200);
    for parameter in ["access_token", "ACCESS_TOKEN", "access%5Ftoken", "a=b&access_token"] {
        let url = format!("{endpoint}?{parameter}={token}");
        for client in [Client::new(&url), Client::new(&url).token(&token)] {
            let answer = ground.refused(parameter, &["token_in_query"], || client.call("echo", &json!({})));
            assert_eq!(answer.status(), 400);
            assert!(!answer.text().contains(&token));
        }
    }
    // By any other name it is no token, and nobody is let in by it.
    for parameter in ["token", "bearer_token", "authorization", "access_token%00", "access_token[]"] {
        let client = Client::new(&format!("{endpoint}?{parameter}={token}"));
        ground.refused(parameter, &["token_missing"], || client.call("echo", &json!({})));
    }
    assert_eq!(ground.calls(), 1);
    assert!(!ground.upstream.saw_text(&token));
    ground.recorded_refusal("token_in_query");
    let journal = ground.gateway.journal().iter().map(ToString::to_string).collect::<String>();
    assert!(!journal.contains(&token), "the journal holds a token");
    assert!(!ground.gateway.process.output().contains(&token) && !ground.gateway.process.errors().contains(&token));
    ground.good_call();
}

#[test]
fn authorization_that_is_not_one_bearer_token_is_refused() {
    let ground = Ground::new("authorization");
    let endpoint = ground.gateway.endpoint(Some("up"));
    let (token, other) = (ground.issuer.token("alice", &endpoint), ground.issuer.token("bob", &endpoint));
    let body = modern_body(&json!(1), "tools/call", &json!({ "name": "echo", "arguments": {} })).to_string();
    let client = Client::new(&endpoint);
    let send = |authorization: &[&str]| {
        let mut headers = vec![("MCP-Protocol-Version", MODERN), ("Mcp-Method", "tools/call"), ("Mcp-Name", "echo")];
        headers.extend(authorization.iter().map(|value| ("Authorization", *value)));
        client.post(&headers, body.as_bytes())
    };
    let bearer = |token: &str| format!("Bearer {token}");
    assert_eq!(send(&[&bearer(&token)]).status(), 200);

    let malformed = ["authorization_malformed", "token_invalid"];
    for values in [
        vec![bearer(&token), bearer(&other)],
        vec![bearer(&token), bearer(&token)],
        vec![format!("{}, {}", bearer(&token), bearer(&other))],
        vec![format!("Bearer {token} {other}")],
        vec![format!("Basic {token}")],
        vec![format!("DPoP {token}")],
        vec![token.clone()],
        vec!["Bearer".to_owned()],
        vec!["Bearer ".to_owned()],
        vec![format!("Bearer \"{token}\"")],
    ] {
        let values: Vec<&str> = values.iter().map(String::as_str).collect();
        let answer = ground.refused(&format!("{values:?}"), &malformed, || send(&values));
        assert!(matches!(answer.status(), 400 | 401), "{values:?}");
    }
    let missing = ground.refused("nothing", &["token_missing"], || send(&[]));
    assert_eq!(missing.status(), 401);
    let challenge = missing.header("www-authenticate").unwrap_or_default();
    assert!(challenge.starts_with("Bearer ") && challenge.contains("resource_metadata="), "{challenge}");
    assert!(!challenge.contains("error="), "{challenge}");
    ground.recorded_refusal("token_missing");
    // A form is no way either.
    let form = http::form(&[("access_token", &token)]);
    let kind = [("Content-Type", "application/x-www-form-urlencoded")];
    assert_eq!(code(&client.post(&kind, form.as_bytes())), "token_missing");
    ground.good_call();
}
