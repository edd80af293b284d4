//! A modern request, to the byte: what is checked, in which order, and what each answer looks like (spec §1.0).

use serde_json::{Value, json};

use super::{refused, text_of};
use crate::harness::{
    gateway::{ALLOW_ALL, Gateway, Setup},
    issuer::{Issuer, Signature},
    mcp::{ACCEPT, Client, MODERN, modern_body},
    recorder::{Era, Recorder, Reply, tools},
};

/// A tool whose argument `region` is mirrored in a header, beside the usual ones.
fn mirroring() -> Recorder {
    Recorder::scripted(Era::Modern, |seen| {
        if seen.rpc_method() != "tools/list" {
            return None;
        }
        let mut all = tools();
        let region = json!({ "type": "string", "x-mcp-header": "Region" });
        let count = json!({ "type": "integer", "x-mcp-header": "Count" });
        let schema = json!({ "type": "object", "properties": { "region": region, "count": count } });
        all.as_array_mut().unwrap().push(json!({ "name": "query", "inputSchema": schema }));
        let result = json!({ "tools": all, "resultType": "complete", "ttlMs": 60_000, "cacheScope": "private" });
        Some(Reply::result(seen, &result))
    })
}

fn gateway(name: &str, issuer: &Issuer, upstream: &Recorder) -> Gateway {
    let forbid = "@id(\"no-erasing\")\nforbid (principal, action == Action::\"up/erase\", resource)\n\
                  when { context.input has id && context.input.id == \"root\" };\n\
                  @id(\"not-there\")\nforbid (principal, action == Action::\"up/query\", resource)\n\
                  when { context.input has region && context.input.region == \"there\" };\n\
                  @id(\"not-bob\")\nforbid (principal is User, action == Action::\"up/query\", resource)\n\
                  when { principal.subject == \"bob\" };\n";
    let setup = Setup::new(name).issuer(&issuer.url()).policy("rules.cedar", &format!("{ALLOW_ALL}{forbid}"));
    setup.open_upstream("up", &upstream.url()).start()
}

/// Mirrored arguments are of the modern revision: an older client sends none, and the upstream gets them all the same.
#[test]
fn rs_15_an_older_client_mirrors_no_argument() {
    let issuer = Issuer::good();
    let recorder = mirroring();
    let gateway = gateway("older", &issuer, &recorder);
    let session = gateway.client_of(Some("up"), &issuer, "alice").awaiting("query").initialize();
    let answer = session.call("query", &json!({ "region": "eu", "count": 3 }));
    assert_eq!(answer.status(), 200, "{}", answer.text());
    let calls = recorder.seen_method("tools/call");
    let mirrored = |name| calls[0].header(name);
    assert_eq!((mirrored("mcp-param-region"), mirrored("mcp-param-count")), (Some("eu"), Some("3")));
}

/// Whatever else the first request of a client lacks, it hears where to log in, if there is anything to log in for.
#[test]
fn who_shows_no_credential_hears_that_first() {
    let issuer = Issuer::good();
    let recorder = mirroring();
    let gateway = gateway("first", &issuer, &recorder);
    let nobody = gateway.client(Some("up"));
    for answer in [
        nobody.post(&[("Content-Type", "text/plain")], b"{ not json"),
        nobody.post(&[("Accept", "text/html")], b"{ not json"),
        nobody.connection().exchange(&nobody.bytes("PUT", &[], b"")),
    ] {
        assert_eq!(refused(&answer), (401, 40101, "token_missing".into()));
        assert!(answer.header("www-authenticate").unwrap().contains("resource_metadata="));
    }
    let unserved = gateway.client(Some("down"));
    for answer in [
        unserved.post(&[("Content-Type", "text/plain")], b"{ not json"),
        unserved.connection().exchange(&unserved.bytes("PUT", &[], b"")),
    ] {
        assert_eq!(refused(&answer), (404, 40401, "route_unknown".into()));
    }
}

/// Every rung is wrong in its own way and in all the ways of the rungs below it; the answer is its own.
#[test]
fn the_first_failing_check_is_the_answer() {
    let issuer = Issuer::good();
    let recorder = mirroring();
    let gateway = gateway("order", &issuer, &recorder);
    let endpoint = gateway.endpoint(Some("up"));
    let nobody = gateway.client(Some("up"));
    let alice = gateway.client_of(Some("up"), &issuer, "alice").awaiting("query");
    let expired = {
        let mut claims = issuer.claims("alice", &endpoint);
        claims["exp"] = json!(1_000);
        gateway.client(Some("up")).token(&issuer.sign(&claims))
    };
    let before = recorder.seen_method("tools/call").len();

    let (host, origin) = (("Host", "evil.example"), ("Origin", "https://evil.example"));
    let text = ("Content-Type", "text/plain");
    let garbage: &[u8] = b"{ not json";
    let answer = nobody.post(&[host, origin, text], garbage);
    assert_eq!(refused(&answer), (403, 40301, "host_not_allowed".into()));
    let answer = nobody.post(&[origin, text], garbage);
    assert_eq!(refused(&answer), (403, 40302, "origin_not_allowed".into()));
    let answer = nobody.post(&[], garbage);
    assert_eq!(refused(&answer), (401, 40101, "token_missing".into()));
    let answer = expired.post(&[], garbage);
    assert_eq!(refused(&answer), (401, 40102, "token_invalid".into()));
    let put = alice.connection().exchange(&alice.bytes("PUT", &[], garbage));
    assert_eq!(refused(&put), (405, 40501, "method_not_allowed".into()));
    assert_eq!(put.header("allow"), Some("POST, GET, DELETE, OPTIONS"));
    let elsewhere = Client::new(&format!("{}/elsewhere", gateway.setup().origin()));
    assert_eq!(refused(&elsewhere.post(&[], garbage)), (404, 40401, "route_unknown".into()));

    let old = ("MCP-Protocol-Version", "2999-01-01");
    assert_eq!(refused(&alice.post(&[old], garbage)), (400, -32700, "not_json".into()));
    assert_eq!(refused(&alice.post(&[old], b"[]")), (400, -32600, "not_a_request".into()));
    let version = "io.modelcontextprotocol/protocolVersion";
    let capabilities = "io.modelcontextprotocol/clientCapabilities";
    let post = |headers: &[(&str, &str)], meta: Value, method: &str, params: Value| {
        let mut params = params;
        params["_meta"] = meta;
        let body = json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params });
        alice.post(headers, body.to_string().as_bytes())
    };
    let answer = post(&[old], json!({ version: "2998-01-01" }), "no/such", json!({}));
    assert_eq!(refused(&answer), (400, -32602, "meta_missing".into()));
    let answer = post(&[old], json!({ version: "2998-01-01", capabilities: {} }), "no/such", json!({}));
    assert_eq!(refused(&answer), (400, -32020, "header_mismatch".into()));
    let answer = post(&[old], json!({ version: "2999-01-01", capabilities: {} }), "no/such", json!({}));
    assert_eq!(refused(&answer), (400, -32022, "version_unsupported".into()));
    let data = &answer.json()["error"]["data"];
    assert_eq!(data["requested"], "2999-01-01");
    assert!(data["supported"].as_array().unwrap().contains(&json!(MODERN)), "{data}");
    let good = json!({ version: MODERN, capabilities: {} });
    let now = ("MCP-Protocol-Version", MODERN);
    let answer = post(&[now], good.clone(), "no/such", json!({}));
    assert_eq!(refused(&answer), (400, -32020, "header_mismatch".into()));
    let answer = post(&[now, ("Mcp-Method", "no/such")], good.clone(), "no/such", json!({}));
    assert_eq!(refused(&answer), (404, -32601, "method_unknown".into()));
    let call = ("Mcp-Method", "tools/call");
    let answer = post(&[now, call], good.clone(), "tools/call", json!({ "name": "nowhere" }));
    assert_eq!(refused(&answer), (400, -32020, "header_mismatch".into()));
    let answer = post(&[now, call, ("Mcp-Name", "nowhere")], good.clone(), "tools/call", json!({ "name": "nowhere" }));
    assert_eq!(refused(&answer), (200, -32602, "tool_unknown".into()));
    let answer = post(
        &[now, call, ("Mcp-Name", "erase")],
        good,
        "tools/call",
        json!({ "name": "erase", "arguments": { "id": "root" } }),
    );
    assert_eq!(refused(&answer), (403, 40304, "denied".into()));

    assert_eq!(recorder.seen_method("tools/call").len(), before, "nothing of it was forwarded");
    assert_eq!(text_of(&alice.call("erase", &json!({ "id": "7" }))), "erase {\"id\":\"7\"}");
}

/// What was removed from the protocol is an unknown method when it comes with modern metadata (spec §1.0).
#[test]
fn removed_methods_are_unknown_to_modern_requests() {
    let issuer = Issuer::good();
    let recorder = Recorder::good(Era::Modern);
    let gateway = gateway("removed", &issuer, &recorder);
    let alice = gateway.client_of(None, &issuer, "alice");
    for method in ["initialize", "ping", "logging/setLevel", "resources/subscribe", "tasks/list", "Tools/list", ""] {
        let answer = alice.modern(method, &json!({}));
        assert_eq!(refused(&answer), (404, -32601, "method_unknown".into()), "{method}");
        assert_eq!(answer.json()["id"], 1);
    }
}

#[test]
fn mirrored_headers_agree_with_the_body_or_nothing_is_forwarded() {
    let issuer = Issuer::good();
    let recorder = mirroring();
    let gateway = gateway("mirrors", &issuer, &recorder);
    let alice = gateway.client_of(None, &issuer, "alice").awaiting("up__query");
    let call_by = |who: &Client, arguments: Value, headers: &[(&str, &str)]| {
        let body = modern_body(&json!(1), "tools/call", &json!({ "name": "up__query", "arguments": arguments }));
        let usual = [("MCP-Protocol-Version", MODERN), ("Mcp-Method", "tools/call"), ("Mcp-Name", "up__query")];
        who.post(&[&usual, headers].concat(), body.to_string().as_bytes())
    };
    let call = |arguments: Value, headers: &[(&str, &str)]| call_by(&alice, arguments, headers);
    let bad: [(Value, &[(&str, &str)]); 6] = [
        (json!({ "region": "eu" }), &[]),
        (json!({ "region": "eu" }), &[("Mcp-Param-Region", "us")]),
        (json!({ "region": "eu" }), &[("Mcp-Param-Region", "EU")]),
        (json!({}), &[("Mcp-Param-Region", "eu")]),
        (json!({ "region": "eu" }), &[("Mcp-Param-Region", "=?base64?!!?=")]),
        (json!({ "region": "eu" }), &[("Mcp-Param-Region", "eu"), ("Mcp-Param-Region", "us")]),
    ];
    for (arguments, headers) in bad {
        let answer = call(arguments.clone(), headers);
        assert_eq!(refused(&answer), (400, -32020, "header_mismatch".into()), "{arguments} {headers:?}");
    }
    // Step 11 comes before step 15: what policy says of the arguments is heard by who sends the same twice; and of what is
    // hidden nothing is heard.
    let there = json!({ "region": "there" });
    assert_eq!(refused(&call(there.clone(), &[("Mcp-Param-Region", "eu")])).2, "header_mismatch");
    assert_eq!(refused(&call(there.clone(), &[("Mcp-Param-Region", "there")])).2, "denied");
    let bob = gateway.client_of(None, &issuer, "bob");
    assert_eq!(refused(&call_by(&bob, there, &[("Mcp-Param-Region", "eu")])).2, "tool_unknown");
    assert!(recorder.seen_method("tools/call").is_empty());

    let good: [(Value, &[(&str, &str)]); 4] = [
        (json!({ "region": "eu" }), &[("mcp-param-region", "eu")]),
        (json!({ "region": "eu" }), &[("Mcp-Param-Region", "=?base64?ZXU=?=")]),
        (json!({ "region": null }), &[]),
        (json!({ "count": 42 }), &[("Mcp-Param-Count", "42.0")]),
    ];
    for (arguments, headers) in &good {
        assert_eq!(text_of(&call(arguments.clone(), headers)), format!("query {arguments}"));
    }
    // What the upstream gets is computed from the body, under the tool's own name.
    let seen = recorder.seen_method("tools/call");
    assert_eq!(seen[0].header("mcp-name"), Some("query"));
    assert_eq!(seen[0].header("mcp-param-region"), Some("eu"));
    assert_eq!(seen[2].header("mcp-param-region"), None);
    assert_eq!(seen[3].header("mcp-param-count"), Some("42"));
}

#[test]
fn a_name_beyond_ascii_travels_in_base64() {
    let issuer = Issuer::good();
    let recorder = Recorder::good(Era::Modern);
    let gateway = gateway("sentinel", &issuer, &recorder);
    let alice = gateway.client_of(Some("up"), &issuer, "alice").awaiting("echo");
    let body = modern_body(&json!(1), "tools/call", &json!({ "name": "echo", "arguments": {} })).to_string();
    let usual = [("MCP-Protocol-Version", MODERN), ("Mcp-Method", "tools/call")];
    for (name, good) in [
        ("=?base64?ZWNobw==?=", true),
        ("=?BASE64?ZWNobw==?=", false),
        ("=?base64?ZWNob?=", false),
        (" echo ", true),
        ("Echo", false),
    ] {
        let answer = alice.post(&[&usual[..], &[("Mcp-Name", name)]].concat(), body.as_bytes());
        if good {
            assert_eq!(text_of(&answer), "echo {}", "{name}");
        } else {
            assert_eq!(refused(&answer), (400, -32020, "header_mismatch".into()), "{name}");
        }
    }
}

#[test]
fn discover_says_what_is_served_and_every_result_its_type() {
    let issuer = Issuer::good();
    let recorder = Recorder::good(Era::Modern);
    let gateway = gateway("discover", &issuer, &recorder);
    let alice = gateway.client_of(None, &issuer, "alice").awaiting("up__echo");
    let asked = recorder.seen_method("server/discover").len();
    let result = alice.modern("server/discover", &json!({})).json()["result"].clone();
    assert_eq!(result["resultType"], "complete");
    assert!(result["supportedVersions"].as_array().unwrap().contains(&json!(MODERN)), "{result}");
    assert!(result["capabilities"]["tools"].is_object(), "{result}");
    assert!(result["ttlMs"].as_u64().is_some() && result["cacheScope"] == "private", "{result}");
    assert_eq!(result["_meta"]["io.modelcontextprotocol/serverInfo"]["name"], "tollgate");
    let list = alice.modern("tools/list", &json!({})).json()["result"].clone();
    assert_eq!((&list["resultType"], &list["cacheScope"]), (&json!("complete"), &json!("private")));
    let call = alice.call("up__echo", &json!({})).json()["result"].clone();
    assert_eq!(call["resultType"], "complete");
    assert_eq!(recorder.seen_method("server/discover").len(), asked, "the client's is answered by the gateway");
}

#[test]
fn ids_come_back_as_they_were_sent() {
    let issuer = Issuer::good();
    let recorder = Recorder::good(Era::Modern);
    let gateway = gateway("ids", &issuer, &recorder);
    let alice = gateway.client_of(Some("up"), &issuer, "alice").awaiting("echo");
    for id in [json!(0), json!(-7), json!("7"), json!("ü \"quoted\" \\ \u{1F600}"), json!(9_007_199_254_740_993_u64)] {
        for (method, params) in
            [("tools/call", json!({ "name": "echo" })), ("tools/list", json!({})), ("no/such", json!({}))]
        {
            let answer = alice.connection().exchange(&alice.modern_bytes(&id, method, &params));
            assert_eq!(answer.json()["id"], id, "{method}");
        }
    }
    let upstream: Vec<Value> =
        recorder.seen_method("tools/call").iter().map(|seen| seen.json()["id"].clone()).collect();
    assert!(upstream.iter().all(Value::is_u64), "the gateway's own ids go up: {upstream:?}");
}

#[test]
fn http_is_what_clients_expect() {
    let issuer = Issuer::good();
    let recorder = Recorder::good(Era::Modern);
    let gateway = gateway("http", &issuer, &recorder);
    let alice = gateway.client_of(None, &issuer, "alice").awaiting("up__echo");
    let get = alice.connection().exchange(&alice.bytes("GET", &[], b""));
    assert_eq!(refused(&get), (405, 40501, "method_not_allowed".into()));
    assert!(get.header("allow").unwrap().contains("POST"));
    let body = modern_body(&json!(1), "tools/list", &json!({})).to_string();
    let usual = [("MCP-Protocol-Version", MODERN), ("Mcp-Method", "tools/list")];
    let with = |headers: &[(&'static str, &'static str)]| alice.post(&[&usual[..], headers].concat(), body.as_bytes());
    assert_eq!(refused(&with(&[("Content-Type", "text/plain")])), (415, 41501, "content_type_unsupported".into()));
    assert_eq!(refused(&with(&[("Accept", "text/html")])), (406, 40601, "not_acceptable".into()));
    for accept in [ACCEPT, "*/*", "application/json", "text/event-stream, application/json;q=0.5"] {
        assert_eq!(with(&[("Accept", accept)]).status(), 200, "{accept}");
    }
    let answer = with(&[]);
    assert_eq!(answer.header("content-type"), Some("application/json"));
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    assert_eq!(answer.header("mcp-session-id"), None);
    let announced = String::from_utf8(alice.post_bytes(&[("Content-Type", "application/json")], b"")).unwrap();
    let announced = announced.replace("Content-Length: 0", "Content-Length: 99999999");
    let big = alice.connection().exchange(announced.as_bytes());
    assert_eq!(refused(&big), (413, 41301, "body_too_large".into()));
    let forged = gateway.client(None).token(&issuer.forge(
        &issuer.header(),
        &issuer.claims("eve", &gateway.endpoint(None)),
        Signature::Stranger,
    ));
    assert_eq!(refused(&forged.call("up__echo", &json!({}))), (401, 40102, "token_invalid".into()));
}

#[test]
fn params_of_the_wrong_shape_are_refused() {
    let issuer = Issuer::good();
    let recorder = Recorder::good(Era::Modern);
    let gateway = gateway("params", &issuer, &recorder);
    let alice = gateway.client_of(Some("up"), &issuer, "alice").awaiting("echo");
    let answer = alice.call("echo", &json!("text"));
    assert_eq!(refused(&answer), (200, -32602, "params_invalid".into()));
    let answer = alice.modern("tools/list", &json!({ "cursor": "made up" }));
    assert_eq!(refused(&answer), (200, -32602, "cursor_invalid".into()));
    // A response is nothing that a modern client sends (RS-04).
    let posted = alice.post(&[("MCP-Protocol-Version", MODERN)], b"{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{}}");
    assert_eq!(refused(&posted), (400, -32600, "not_a_request".into()));
    assert!(recorder.seen_method("tools/call").is_empty());
}
