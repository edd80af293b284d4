//! What is kept for one, in the hands of another: neither another principal, nor fewer rights, nor another policy, nor
//! another question is served from it, and nobody writes into what others are served (RI-05, RI-06, I7).

use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};

use super::{Ground, code};
use crate::harness::{
    gateway::ALLOW_ALL,
    issuer::{Issuer, claims_of},
    mcp::Client,
    recorder::{Era, Recorder, Reply, Seen, tools},
};

const TRUSTED: &str = "grant = { strategy = \"none\" }\ntrust_public_cache = true\n[[upstreams.up.tools]]\nmatch = \"add\"\ncache_s = 600\ncache = \"shared\"\n[[upstreams.up.tools]]\nmatch = \"erase\"\ncache_s = 600";
const UNTRUSTED: &str = "grant = { strategy = \"none\" }\n[[upstreams.up.tools]]\nmatch = \"erase\"\ncache_s = 600";

/// A server whose every answer is another, and tells what it was told of the client; it calls everything public.
fn gossip(era: Era) -> Recorder {
    let answers = AtomicUsize::new(0);
    Recorder::scripted(era, move |seen| {
        let (call, modern) = (seen.json(), era == Era::Modern);
        if !modern && call["method"] != "initialize" && seen.header("mcp-session-id").is_none() {
            return None;
        }
        let told = || format!("{} {}", answers.fetch_add(1, Ordering::SeqCst), gossiped(seen));
        let mut result = match call["method"].as_str()? {
            "server/discover" => {
                json!({ "supportedVersions": ["2026-07-28"], "capabilities": { "tools": {}, "resources": {} } })
            }
            "tools/list" => json!({ "tools": tools() }),
            "resources/list" => json!({ "resources": [] }),
            "resources/templates/list" => json!({ "resourceTemplates": [] }),
            "resources/read" => json!({ "contents": [{ "uri": call["params"]["uri"], "text": told() }] }),
            "tools/call" if call["params"]["name"] != "echo" => {
                json!({ "content": [{ "type": "text", "text": told() }] })
            }
            _ => return None,
        };
        if modern {
            result["resultType"] = json!("complete");
            result["ttlMs"] = json!(600_000);
            result["cacheScope"] = json!("public");
        }
        Some(Reply::result(seen, &result))
    })
}

/// What the client says of itself, and whatever else reached the server.
fn gossiped(seen: &Seen) -> String {
    let call = seen.json();
    let meta = &call["params"]["_meta"];
    let headers: Vec<&str> = ["tracestate", "mcp-param-extra"].iter().filter_map(|name| seen.header(name)).collect();
    format!("{} {} {headers:?}", meta["io.modelcontextprotocol/clientInfo"], meta["com.example/note"])
}

fn ground(name: &str, era: Era, lines: &str) -> Ground {
    Ground::before(name, gossip(era), |setup, _, up| setup.upstream("up", &up.url(), lines))
}

fn text(answer: &Value) -> String {
    let result = &answer["result"];
    let text = result["content"][0]["text"].as_str().or_else(|| result["contents"][0]["text"].as_str());
    text.unwrap_or_else(|| panic!("no text: {answer}")).to_owned()
}

fn called(client: &Client, tool: &str, arguments: Value) -> String {
    text(&client.call(tool, &arguments).json())
}

fn read(client: &Client, uri: &str) -> String {
    text(&client.modern("resources/read", &json!({ "uri": uri })).json())
}

#[test]
fn what_one_principal_was_answered_serves_no_other() {
    let ground = ground("cache-principals", Era::Modern, UNTRUSTED);
    let alice = ground.client("alice");
    let (result, resource) = (called(&alice, "erase", json!({})), read(&alice, "file:///a"));
    assert_eq!((called(&alice, "erase", json!({})), read(&alice, "file:///a")), (result.clone(), resource.clone()));
    let changes = [
        json!({ "sub": "bob" }),
        json!({ "client_id": "another-agent" }),
        json!({ "tenant": "other" }),
        json!({ "act": { "sub": "helper" } }),
        // The same person with fewer rights, or under nothing but another token (RI-05).
        json!({ "scope": "tools:read" }),
        json!({ "groups": [] }),
        json!({}),
    ];
    for change in changes {
        let mut claims = ground.issuer.claims("alice", &ground.gateway.endpoint(Some("up")));
        for (name, value) in change.as_object().unwrap() {
            claims[name] = value.clone();
        }
        let client = ground.gateway.client(Some("up")).token(&ground.issuer.sign(&claims));
        assert_ne!(called(&client, "erase", json!({})), result, "{change}");
        assert_ne!(read(&client, "file:///a"), resource, "{change}");
    }
    assert_eq!(called(&alice, "erase", json!({})), result, "alice's is still hers");
    ground.good_call();
}

#[test]
fn what_is_kept_is_not_answered_against_policy() {
    let ground = ground("cache-policy", Era::Modern, TRUSTED);
    let alice = ground.client("alice");
    for tool in ["add", "erase"] {
        let kept = called(&alice, tool, json!({}));
        assert_eq!(called(&alice, tool, json!({})), kept);
    }
    let kept = read(&alice, "file:///a");
    assert_eq!(read(&ground.client("bob"), "file:///a"), kept, "public, and trusted to be");
    assert_eq!(alice.tools(), ["add", "echo", "erase"]);

    let closed = "@id(\"closed\")\nforbid (principal, action, resource) when { principal.subject == \"alice\" };\n";
    ground.gateway.rule("closed.cedar", closed);
    for tool in ["add", "erase"] {
        assert_eq!(code(&alice.call(tool, &json!({}))), "tool_unknown", "{tool}");
    }
    assert_eq!(code(&alice.modern("resources/read", &json!({ "uri": "file:///a" }))), "resource_unknown");
    assert_eq!(alice.tools(), Vec::<String>::new());
    assert_eq!(ground.client("bob").tools(), ["add", "echo", "erase"]);
    assert!(ALLOW_ALL.contains("permit"), "and others may still");
    ground.good_call();
}

/// What is shared is shared within one tenant, among those whom the same policies let through and whose credentials for the
/// upstream are good for the same.
#[test]
fn what_is_shared_is_shared_among_equals_only() {
    let narrowed = |seen: &Seen| {
        let narrow = claims_of(&seen.field("subject_token")?)["sub"] == "narrow";
        let form = json!({
            "access_token": format!("token-of-{narrow}"), "issued_token_type": "urn:ietf:params:oauth:token-type:access_token",
            "token_type": "Bearer", "expires_in": 300, "scope": if narrow { "crm.read" } else { "crm.read crm.write" },
        });
        (seen.path == "/token").then(|| Reply::json(200, &form))
    };
    let guests = "@id(\"guests\")\npermit (principal in Group::\"guests\", action, resource);\n";
    let ground = Ground::of("cache-equals", Issuer::scripted(narrowed), gossip(Era::Modern), |setup, issuer, up| {
        let endpoint = format!("token_endpoint = \"{}/token\"", issuer.url());
        let client = "client = { id = \"gateway\", secret = { env = \"GATEWAY_SECRET\" } }";
        let grant = format!(
            "grant = {{ strategy = \"exchange\", {endpoint}, {client}, audience = \"up\", scopes = [\"crm.read\", \"crm.write\"] }}"
        );
        let discovery = "discovery = { strategy = \"none\" }";
        let lines = TRUSTED.replace("grant = { strategy = \"none\" }", &format!("{grant}\n{discovery}"));
        setup.environment("GATEWAY_SECRET", "s").policy("guests.cedar", guests).upstream("up", &up.url(), &lines)
    });
    let caller = |user: &str, change: Value| {
        let mut claims = ground.issuer.claims(user, &ground.gateway.endpoint(Some("up")));
        for (name, value) in change.as_object().unwrap() {
            claims[name] = value.clone();
        }
        claims.as_object_mut().unwrap().retain(|_, value| !value.is_null());
        ground.gateway.client(Some("up")).token(&ground.issuer.sign(&claims))
    };
    let answers = |client: &Client| (called(client, "add", json!({})), read(client, "file:///a"));
    let one = answers(&caller("alice", json!({})));
    assert_eq!(
        answers(&caller("bob", json!({ "client_id": "another-agent", "scope": "tools:read" }))),
        one,
        "an equal"
    );
    for (user, change) in [
        ("bob", json!({ "tenant": "other" })),
        ("bob", json!({ "tenant": null })),
        ("bob", json!({ "groups": ["guests"] })),
        ("narrow", json!({})),
    ] {
        let other = answers(&caller(user, change.clone()));
        assert!(other.0 != one.0 && other.1 != one.1, "{user} {change}");
    }
    ground.good_call();
}

/// A caller writes into what is shared only by asking just what others ask: whatever else of theirs an upstream could
/// repeat makes another question of it.
#[test]
fn a_caller_cannot_poison_what_others_are_served() {
    let ground = ground("cache-poison", Era::Modern, TRUSTED);
    let mallory = ground.client("mallory");
    let version = "io.modelcontextprotocol/protocolVersion";
    let capabilities = "io.modelcontextprotocol/clientCapabilities";
    let own = json!({ version: "2026-07-28", capabilities: {}, "io.modelcontextprotocol/clientInfo": { "name": "tests", "version": "1" } });
    let asks =
        |client: &Client, method: &str, about: (&str, &str), extra: (&str, Value), header: Option<(&str, &str)>| {
            let mut params = json!({ about.0: about.1, "_meta": own.clone() });
            if method == "tools/call" {
                params["arguments"] = json!({});
            }
            match extra.0 {
                "" => {}
                // Goes up only with a `traceparent` (W3C Trace Context §3.3).
                "tracestate" => {
                    params["_meta"]["traceparent"] = json!("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
                    params["_meta"]["tracestate"] = extra.1;
                }
                member if member.contains('/') => params["_meta"][member] = extra.1,
                member => params[member] = extra.1,
            }
            let body = json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params }).to_string();
            let mut headers =
                vec![("MCP-Protocol-Version", "2026-07-28"), ("Mcp-Method", method), ("Mcp-Name", about.1)];
            headers.extend(header);
            text(&client.post(&headers, body.as_bytes()).json())
        };
    for (method, about) in [("tools/call", ("name", "add")), ("resources/read", ("uri", "file:///a"))] {
        let evil = "evil-words";
        for (extra, header) in [
            (("io.modelcontextprotocol/clientInfo", json!({ "name": evil, "version": "1" })), None),
            (("com.example/note", json!(evil)), None),
            (("unknown", json!(evil)), None),
            (("tracestate", json!(format!("v={evil}"))), None),
            (("", Value::Null), Some(("Mcp-Param-Extra", evil))),
        ] {
            let poisoned = asks(&mallory, method, about, extra.clone(), header);
            let served = asks(&ground.client("alice"), method, about, ("", Value::Null), None);
            assert_ne!(served, poisoned, "{method} {extra:?}");
            assert!(!served.contains(evil), "{method} {extra:?}: {served}");
        }
        // What nobody twisted is shared, and goes down as private all the same.
        let one = asks(&ground.client("alice"), method, about, ("", Value::Null), None);
        assert_eq!(asks(&ground.client("bob"), method, about, ("", Value::Null), None), one);
    }
    let stamped = ground.client("bob").modern("resources/read", &json!({ "uri": "file:///a" })).json();
    assert_eq!(stamped["result"]["cacheScope"], "private");
    // `erase` is kept, and not for others.
    assert_ne!(called(&mallory, "erase", json!({})), called(&ground.client("alice"), "erase", json!({})));
    ground.good_call();
}

/// The word `public` of an upstream that nobody trusts so, and what was said in a session of somebody's.
#[test]
fn what_is_public_by_the_upstreams_word_alone_or_said_in_a_session_is_not_shared() {
    let untrusted = ground("cache-untrusted", Era::Modern, UNTRUSTED);
    let (alice, bob) = (untrusted.client("alice"), untrusted.client("bob"));
    assert_ne!(read(&alice, "file:///a"), read(&bob, "file:///a"));
    untrusted.good_call();

    let legacy = ground("cache-session", Era::Legacy, TRUSTED);
    let (alice, mallory) = (legacy.client("alice"), legacy.client("mallory"));
    let poisoned = called(&mallory, "add", json!({}));
    assert_eq!(called(&mallory, "add", json!({})), poisoned);
    assert_ne!(called(&alice, "add", json!({})), poisoned);
    legacy.good_call();
}

#[test]
fn questions_that_look_alike_are_not_the_same() {
    let ground = ground("cache-collisions", Era::Modern, TRUSTED);
    let alice = ground.client("alice");
    let ask = |arguments: &str| {
        let body = super::call_text("erase", arguments);
        let headers = [("MCP-Protocol-Version", "2026-07-28"), ("Mcp-Method", "tools/call"), ("Mcp-Name", "erase")];
        text(&alice.post(&headers, body.as_bytes()).json())
    };
    let different = [
        "{}",
        r#"{"id":"1"}"#,
        r#"{"id":1}"#,
        r#"{"id":1.0}"#,
        r#"{"id":true}"#,
        r#"{"id":null}"#,
        r#"{"id":["1"]}"#,
        r#"{"id":{"1":""}}"#,
        r#"{"id":"1","b":""}"#,
        r#"{"id":"1\",\"b\":\""}"#,
        r#"{"ID":"1"}"#,
        r#"{"id":"1 "}"#,
        r#"{"id":"\u00e9"}"#,
        r#"{"id":"e\u0301"}"#,
    ];
    let mut answers: Vec<String> = different.iter().map(|arguments| ask(arguments)).collect();
    assert_eq!(ask(r#"{ "b" : "", "\u0069d" : "1" }"#), answers[8], "another spelling of the same");
    answers.sort();
    answers.dedup();
    assert_eq!(answers.len(), different.len(), "two questions, one answer");
    for (one, other) in
        [("file:///a?x=1&y=2", "file:///a?y=2&x=1"), ("file:///a", "file:///A"), ("file:///a", "file:///%61")]
    {
        assert_ne!(read(&alice, one), read(&alice, other), "{one} and {other}");
    }
    ground.good_call();
}
