//! A page in the user's own browser that calls the gateway, by its name or by one that it rebinds (RS-02).

use serde_json::json;

use super::Ground;
use crate::harness::{http, mcp::MODERN, mcp::modern_body};

fn setup(name: &str) -> Ground {
    use crate::harness::recorder::{Era, Recorder};
    Ground::before(name, Recorder::good(Era::Modern), |setup, _, up| {
        setup.gateway("allowed_origins = [\"https://claude.ai\"]").open_upstream("up", &up.url())
    })
}

#[test]
fn page_of_another_origin_may_not_call() {
    let ground = setup("origin");
    let client = ground.client("alice");
    let body = modern_body(&json!(1), "tools/call", &json!({ "name": "echo", "arguments": {} })).to_string();
    let send = |origin: &[&str]| {
        let mut headers = vec![("MCP-Protocol-Version", MODERN), ("Mcp-Method", "tools/call"), ("Mcp-Name", "echo")];
        headers.extend(origin.iter().map(|origin| ("Origin", *origin)));
        client.post(&headers, body.as_bytes())
    };
    let good = send(&["https://claude.ai"]);
    assert_eq!((good.status(), good.header("access-control-allow-origin")), (200, Some("https://claude.ai")));
    for origins in [
        vec!["https://evil.example"],
        vec!["https://claude.ai.evil.example"],
        vec!["http://claude.ai"],
        vec!["https://claude.ai:8443"],
        vec!["https://claude.ai/"],
        vec!["https://evil.example/https://claude.ai"],
        vec!["null"],
        vec![""],
        vec!["http://localhost.evil.example"],
        vec!["https://claude.ai", "https://evil.example"],
    ] {
        let answer = ground.refused(&format!("{origins:?}"), &["origin_not_allowed"], || send(&origins));
        assert_eq!(answer.status(), 403);
        assert_eq!(answer.header("access-control-allow-origin"), None, "{origins:?}");
    }
    ground.recorded_refusal("origin_not_allowed");
    ground.good_call();
}

#[test]
fn name_that_is_rebound_to_the_gateway_is_not_its_name() {
    let ground = setup("host");
    let endpoint = url::Url::parse(&ground.gateway.endpoint(Some("up"))).unwrap();
    let token = format!("Bearer {}", ground.issuer.token("alice", endpoint.as_str()));
    let body = modern_body(&json!(1), "tools/call", &json!({ "name": "echo", "arguments": {} })).to_string();
    let headers = [
        ("Authorization", token.as_str()),
        ("Content-Type", "application/json"),
        ("MCP-Protocol-Version", MODERN),
        ("Mcp-Method", "tools/call"),
        ("Mcp-Name", "echo"),
    ];
    let address = endpoint.socket_addrs(|| None).unwrap()[0];
    let own = address.to_string();
    let send = |path: &str, host: &str, more: &[(&str, &str)]| {
        let all = [&headers[..], more].concat();
        http::Connection::open(address).exchange(&http::request("POST", path, host, &all, body.as_bytes()))
    };
    assert_eq!(send("/mcp/up", &own, &[]).status(), 200);
    assert_eq!(ground.calls(), 1);
    let port = address.port();
    for host in [
        "evil.example".to_owned(),
        format!("evil.example:{port}"),
        format!("127.0.0.1.evil.example:{port}"),
        format!("localhost.evil.example:{port}"),
        format!("evil.example@127.0.0.1:{port}"),
        format!("127.0.0.1:{port}/evil"),
        format!("127.0.0.1:{port}, evil.example"),
        "169.254.169.254".to_owned(),
        String::new(),
    ] {
        let answer = ground.refused(&format!("{host:?}"), &["host_not_allowed"], || send("/mcp/up", &host, &[]));
        assert_eq!(answer.status(), 403, "{host}");
    }
    ground.refused("two hosts", &["host_not_allowed", "http_malformed"], || {
        send("/mcp/up", &own, &[("Host", "evil.example")])
    });
    ground.refused("another authority in the target", &["host_not_allowed"], || {
        send("http://evil.example/mcp/up", &own, &[])
    });
    // What the gateway says of itself comes from its configuration, never from the request.
    let liar =
        [("X-Forwarded-Host", "evil.example"), ("X-Forwarded-Proto", "gopher"), ("Forwarded", "host=evil.example")];
    let stranger = http::Connection::open(address).exchange(&http::request(
        "POST",
        "/mcp/up",
        &own,
        &[&liar[..], &headers[1..]].concat(),
        body.as_bytes(),
    ));
    assert_eq!(stranger.status(), 401);
    let challenge = stranger.header("www-authenticate").unwrap();
    assert!(challenge.contains(&own) && !challenge.contains("evil"), "{challenge}");
    ground.recorded_refusal("host_not_allowed");
    ground.good_call();
}

#[test]
fn path_method_and_media_type_are_what_they_are_exactly() {
    let ground = setup("route");
    let client = ground.client("alice");
    let body = modern_body(&json!(1), "tools/call", &json!({ "name": "echo", "arguments": {} })).to_string();
    let url = url::Url::parse(&ground.gateway.endpoint(Some("up"))).unwrap();
    let address = url.socket_addrs(|| None).unwrap()[0];
    let token = format!("Bearer {}", ground.issuer.token("alice", url.as_str()));
    let send = |method: &str, path: &str, more: &[(&str, &str)]| {
        let mut headers = vec![
            ("Authorization", token.as_str()),
            ("MCP-Protocol-Version", MODERN),
            ("Mcp-Method", "tools/call"),
            ("Mcp-Name", "echo"),
            ("Content-Type", "application/json"),
        ];
        headers.retain(|(name, _)| !more.iter().any(|(given, _)| given == name));
        headers.extend(more);
        let host = address.to_string();
        http::Connection::open(address).exchange(&http::request(method, path, &host, &headers, body.as_bytes()))
    };
    assert_eq!(send("POST", "/mcp/up", &[]).status(), 200);
    for path in [
        "/",
        "/MCP/up",
        "/mcp/UP",
        "/mcp//up",
        "/mcp/../mcp/up",
        "/mcp/%75p",
        "/mcp/up/x",
        "/mcp/up%2f",
        "/mcp/up;a",
        "/metrics",
        "/healthz",
    ] {
        ground.refused(path, &["route_unknown"], || send("POST", path, &[]));
    }
    for method in ["PUT", "PATCH", "TRACE", "post", "PURGE"] {
        ground.refused(method, &["method_not_allowed"], || send(method, "/mcp/up", &[]));
    }
    for kind in ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "application/jsonp", ""] {
        ground.refused(kind, &["content_type_unsupported"], || send("POST", "/mcp/up", &[("Content-Type", kind)]));
    }
    ground.refused("Accept", &["not_acceptable"], || send("POST", "/mcp/up", &[("Accept", "text/html")]));
    ground.refused("Upgrade", &["http_malformed"], || {
        send("POST", "/mcp/up", &[("Upgrade", "websocket"), ("Connection", "upgrade")])
    });
    ground.refused("another upstream", &["tool_unknown", "token_invalid", "route_unknown"], || {
        send("POST", "/mcp/down", &[])
    });
    drop(client);
    ground.good_call();
}
