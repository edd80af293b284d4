//! In whose name a call goes up, by each strategy, and exactly what the upstream gets to see.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use aws_lc_rs::digest;
use base64::{
    Engine,
    engine::general_purpose::{STANDARD as BASE64, URL_SAFE_NO_PAD as BASE64URL},
};
use serde_json::{Value, json};

use super::{refused, text_of};
use crate::harness::{
    gateway::{Gateway, Setup},
    issuer::{Issuer, claims_of},
    mcp::{Client, modern_body},
    place,
    recorder::{Era, Recorder, Reply, Seen, Step, tools},
};

const EXCHANGE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";

fn bearer(seen: &Seen) -> &str {
    seen.header("authorization").and_then(|value| value.strip_prefix("Bearer ")).unwrap_or_default()
}

fn start(setup: Setup, issuer: &Issuer) -> (Gateway, Client) {
    let gateway = setup.start();
    let alice = gateway.client_of(Some("up"), issuer, "alice").awaiting("echo");
    (gateway, alice)
}

#[test]
fn an_exchange_asks_for_the_caller_and_is_kept_for_them_alone() {
    let issuer = Issuer::good();
    let recorder = Recorder::good(Era::Modern);
    let setup =
        Setup::usual("exchange", &issuer).exchanged_upstream("up", &recorder.url(), &issuer.url(), "\"up.read\"");
    let rules = "[[upstreams.up.tools]]\nmatch = \"erase\"\nmints = [\"up.erase\"]";
    let (gateway, alice) = start(setup.section(rules), &issuer);
    let asked =
        || issuer.asked().into_iter().filter(|seen| seen.field("subject_token").is_some()).collect::<Vec<Seen>>();

    assert_eq!(alice.call("echo", &json!({})).status(), 200);
    assert_eq!(alice.call("echo", &json!({})).status(), 200);
    let first = asked();
    assert_eq!(first.len(), 1, "once for two calls");
    assert_eq!(first[0].field("grant_type").as_deref(), Some(EXCHANGE));
    assert_eq!(first[0].field("resource"), Some(recorder.url()));
    assert_eq!(first[0].field("scope").as_deref(), Some("up.read"));
    assert_eq!(claims_of(&first[0].field("subject_token").unwrap())["sub"], "alice");
    assert_eq!(
        first[0].header("authorization"),
        Some(format!("Basic {}", BASE64.encode("gateway:gateway-secret")).as_str())
    );

    // More rights for one tool only, and nothing of alice's for bob.
    assert_eq!(alice.call("erase", &json!({})).status(), 200);
    assert_eq!(gateway.client_of(Some("up"), &issuer, "bob").call("echo", &json!({})).status(), 200);
    let scopes: Vec<Option<String>> = asked().iter().map(|seen| seen.field("scope")).collect();
    assert_eq!(scopes.len(), 3);
    let words: BTreeSet<&str> = scopes[1].as_deref().unwrap().split(' ').collect();
    assert_eq!(words, BTreeSet::from(["up.erase", "up.read"]));
    let shown: Vec<(String, String)> = recorder
        .seen_method("tools/call")
        .iter()
        .map(|seen| {
            let claims = claims_of(bearer(seen));
            assert_eq!((&claims["aud"], &claims["act"]), (&json!(recorder.url()), &json!({ "sub": "gateway" })));
            (claims["sub"].as_str().unwrap().to_owned(), claims["scope"].as_str().unwrap().to_owned())
        })
        .collect();
    assert_eq!((shown[0].0.as_str(), shown[3].0.as_str()), ("alice", "bob"));
    assert_eq!((shown[0].1.as_str(), shown[1].1.as_str()), ("up.read", "up.read"));
}

#[test]
fn client_credentials_are_the_gateways_own_for_everybody() {
    let issuer = Issuer::good();
    let recorder = Recorder::good(Era::Modern);
    let client =
        "client = { id = \"gateway\", secret = { env = \"GATEWAY_SECRET\" }, authentication = \"client_secret_post\" }";
    let grant = format!(
        "grant = {{ strategy = \"client_credentials\", token_endpoint = \"{}/token\", {client}, resource = \"{}\", scopes = [\"up.call\"] }}",
        issuer.url(),
        recorder.url()
    );
    let setup = Setup::usual("own", &issuer).environment("GATEWAY_SECRET", "gateway-secret").upstream(
        "up",
        &recorder.url(),
        &grant,
    );
    let (gateway, alice) = start(setup, &issuer);
    assert_eq!(alice.call("echo", &json!({})).status(), 200);
    assert_eq!(gateway.client_of(Some("up"), &issuer, "bob").call("echo", &json!({})).status(), 200);
    let asked = issuer.asked();
    assert_eq!(asked.len(), 1, "one credential for reading tools and for everybody's calls");
    assert_eq!(asked[0].field("grant_type").as_deref(), Some("client_credentials"));
    assert_eq!(
        (asked[0].field("client_id").as_deref(), asked[0].field("client_secret").as_deref()),
        (Some("gateway"), Some("gateway-secret"))
    );
    assert_eq!(asked[0].field("subject_token"), None);
    for seen in recorder.seen_method("tools/call") {
        assert_eq!(claims_of(bearer(&seen))["sub"], "gateway");
    }
}

#[test]
fn a_static_secret_and_no_credential_at_all() {
    let issuer = Issuer::good();
    let recorder = Recorder::good(Era::Modern);
    let grant = "grant = { strategy = \"static_secret\", header = \"x-api-key\", value = { env = \"API_KEY\" } }";
    let setup = Setup::usual("static", &issuer).environment("API_KEY", "k3y").upstream("up", &recorder.url(), grant);
    let (gateway, alice) = start(setup, &issuer);
    assert_eq!(alice.call("echo", &json!({})).status(), 200);
    let seen = recorder.seen_method("tools/call").remove(0);
    assert_eq!((seen.header("x-api-key"), seen.header("authorization")), (Some("k3y"), None));
    assert!(!gateway.journal().iter().any(|record| record.to_string().contains("k3y")));
    assert!(!gateway.process.errors().contains("k3y"));

    let recorder = Recorder::good(Era::Legacy);
    let (_gateway, alice) = start(Setup::usual("none", &issuer).open_upstream("up", &recorder.url()), &issuer);
    assert_eq!(alice.call("echo", &json!({})).status(), 200);
    assert!(recorder.seen().iter().all(|seen| seen.header("authorization").is_none()));
}

/// The request is built, not copied: these headers, and no others, whatever the client sends (spec RI-01).
#[test]
fn an_upstream_sees_only_the_headers_that_the_gateway_makes() {
    let issuer = Issuer::good();
    let recorder = Recorder::scripted(Era::Modern, |seen| {
        (seen.rpc_method() == "tools/call").then(|| {
            let content = json!({ "resultType": "complete", "content": [{ "type": "text", "text": "done" }] });
            let reply = Reply::result(seen, &content).header("set-cookie", "a=b").header("www-authenticate", "Basic");
            reply
                .header("mcp-session-id", "upstreams")
                .header("x-powered-by", "secret sauce")
                .header("server", "inside.example")
        })
    });
    let setup =
        Setup::usual("headers", &issuer).exchanged_upstream("up", &recorder.url(), &issuer.url(), "\"up.call\"");
    let (_gateway, alice) = start(setup, &issuer);
    let body = modern_body(&json!(1), "tools/call", &json!({ "name": "echo", "arguments": {} })).to_string();
    let headers = [
        ("MCP-Protocol-Version", "2026-07-28"),
        ("Mcp-Method", "tools/call"),
        ("Mcp-Name", "echo"),
        ("Cookie", "session=1"),
        ("DPoP", "proof"),
        ("Proxy-Authorization", "Basic Zm9vOmJhcg=="),
        ("X-Forwarded-For", "10.0.0.1"),
        ("Forwarded", "for=10.0.0.1"),
        ("X-Api-Key", "mine"),
        ("User-Agent", "curl"),
        ("Te", "trailers"),
        ("Mcp-Session-Id", "mine"),
        ("Last-Event-ID", "7"),
        ("Accept-Language", "de"),
        ("X-Original-URL", "/admin"),
    ];
    let answer = alice.post(&headers, body.as_bytes());
    assert_eq!(text_of(&answer), "done");
    let seen = recorder.seen_method("tools/call").remove(0);
    let names: BTreeSet<&str> = seen.headers.keys().map(http::HeaderName::as_str).collect();
    let expected = [
        "accept",
        "authorization",
        "content-length",
        "content-type",
        "host",
        "mcp-method",
        "mcp-name",
        "mcp-protocol-version",
        "traceparent",
        "user-agent",
    ];
    assert_eq!(names, BTreeSet::from(expected));
    assert_eq!(seen.header("user-agent").map(|value| value.starts_with("tollgate/")), Some(true));
    let back: BTreeSet<&str> = answer.head.headers().iter().map(|(name, _)| name.as_str()).collect();
    for name in ["set-cookie", "www-authenticate", "mcp-session-id", "x-powered-by", "server"] {
        assert!(!back.contains(name), "`{name}` came down");
    }
}

#[test]
fn a_provider_that_says_no_is_not_one_that_is_away() {
    for (status, expected) in [(400, (403, 40306, "grant_refused")), (500, (502, 50201, "grant_unavailable"))] {
        let issuer = Issuer::scripted(move |seen| {
            let text = json!({ "error": "invalid_grant", "error_description": "inside.example says no" });
            seen.field("subject_token").map(|_| Reply::json(status, &text))
        });
        let recorder = Recorder::good(Era::Modern);
        let setup =
            Setup::usual("provider", &issuer).exchanged_upstream("up", &recorder.url(), &issuer.url(), "\"up.call\"");
        let (gateway, alice) = start(setup, &issuer);
        let answer = alice.call("echo", &json!({}));
        assert_eq!(refused(&answer), (expected.0, expected.1, expected.2.into()));
        assert!(!answer.text().contains("inside.example"), "{}", answer.text());
        assert!(recorder.seen_method("tools/call").is_empty());
        let recorded = |record: &Value| record["event"] == "refusal" && record["refused"]["code"] == expected.2;
        place::wait_for(expected.2, place::PATIENCE, || gateway.journal().iter().any(recorded).then_some(()));
    }
}

/// Least privilege: what a tool that reads goes out with is worth nothing for one that writes, whoever has it.
#[test]
fn a_reading_tools_grant_cannot_write() {
    let issuer = Issuer::good();
    let recorder = Recorder::scripted(Era::Modern, |seen| {
        let held = claims_of(bearer(seen))["scope"].as_str().unwrap_or_default().to_owned();
        let writes = seen.json()["params"]["name"] == "erase";
        (writes && !held.split(' ').any(|scope| scope == "up.erase")).then(|| Reply::status(403))
    });
    let setup = Setup::usual("least", &issuer).exchanged_upstream("up", &recorder.url(), &issuer.url(), "\"up.read\"");
    let (_gateway, alice) =
        start(setup.section("[[upstreams.up.tools]]\nmatch = \"erase\"\nmints = [\"up.erase\"]"), &issuer);
    assert_eq!(alice.call("echo", &json!({})).status(), 200);
    let reads = bearer(&recorder.seen_method("tools/call")[0]).to_owned();
    assert_eq!(alice.call("erase", &json!({})).status(), 200);
    let there = Client::new(&recorder.url()).token(&reads);
    assert_eq!(there.call("echo", &json!({})).status(), 200);
    assert_eq!(there.call("erase", &json!({})).status(), 403, "the upstream itself says no");
    // Where the rule is missing, so is the right.
    let other =
        Setup::usual("least-unruled", &issuer).exchanged_upstream("up", &recorder.url(), &issuer.url(), "\"up.read\"");
    let (_gateway, alice) = start(other, &issuer);
    assert_eq!(refused(&alice.call("erase", &json!({}))), (502, 50204, "upstream_unauthorized".into()));
}

/// RFC 9449: every request has a proof of its own, and one more try where a server wants its nonce in it.
#[test]
fn a_bound_token_goes_out_with_a_proof_for_each_request() {
    let wants = |nonce: &str| {
        Reply::json(400, &json!({ "error": "use_dpop_nonce", "error_description": "it wants: a nonce, please" }))
            .header("dpop-nonce", nonce)
    };
    let issuer = Issuer::scripted(move |seen| {
        (seen.path == "/token").then_some(())?;
        let Some(proof) = seen.header("dpop") else {
            return Some(Reply::json(400, &json!({ "error": "invalid_dpop_proof" })));
        };
        let claims = proven(proof);
        if claims["nonce"] != "of-the-server" {
            return Some(wants("of-the-server"));
        }
        let scope = seen.field("scope").unwrap_or_default();
        Some(Reply::json(
            200,
            &json!({ "access_token": "bound-token", "token_type": "DPoP", "expires_in": 300, "scope": scope }),
        ))
    });
    let recorder = Recorder::scripted(Era::Modern, |seen| {
        let (Some("DPoP bound-token"), Some(proof)) = (seen.header("authorization"), seen.header("dpop")) else {
            return Some(Reply::status(401));
        };
        let claims = proven(proof);
        let ath = BASE64URL.encode(digest::digest(&digest::SHA256, b"bound-token"));
        let htu = format!("http://{}/mcp", seen.header("host").unwrap());
        assert_eq!((&claims["ath"], &claims["htu"], &claims["htm"]), (&json!(ath), &json!(htu), &json!(seen.method)));
        (claims["nonce"] != "of-the-upstream").then(|| {
            let challenge = "DPoP error=\"use_dpop_nonce\"";
            Reply::status(401).header("dpop-nonce", "of-the-upstream").header("www-authenticate", challenge)
        })
    });
    let (gateway, alice) = start(proving("dpop", &issuer, &recorder), &issuer);
    for _ in 0..3 {
        assert_eq!(alice.call("echo", &json!({})).status(), 200);
    }
    let calls = recorder.seen_method("tools/call");
    assert_eq!(calls.len(), 3, "the nonce was known from reading the tools");
    let ids: BTreeSet<String> =
        recorder.seen().iter().map(|seen| proven(seen.header("dpop").unwrap())["jti"].to_string()).collect();
    assert_eq!(ids.len(), recorder.seen().len(), "a proof is used once");
    // For the catalogue and for alice; each asked twice at most, for the nonce.
    assert_eq!(issuer.asked().len(), 3);
    assert!(!gateway.journal().iter().any(|record| record.to_string().contains("bound-token")));
}

/// RFC 9449 §9: each time that the call went up is on record, and none that did not get there.
#[test]
fn a_call_that_is_sent_again_for_a_nonce_is_counted_as_often_as_it_is_sent() {
    for stays in [true, false] {
        let issuer = Issuer::scripted(|seen| {
            let token = json!({ "access_token": "bound-token", "token_type": "DPoP", "expires_in": 300 });
            (seen.path == "/token").then(|| Reply::json(200, &token))
        });
        let ready = Arc::new(AtomicBool::new(stays));
        let known = Arc::clone(&ready);
        // Each request has a connection of its own, so that without the port there is none for the second.
        let recorder = Recorder::scripted(Era::Modern, move |seen| {
            let reply = match seen.rpc_method().as_str() {
                "server/discover" => Reply::discovered(seen, &json!({ "tools": {} })),
                "tools/list" => Reply::result(
                    seen,
                    &json!({ "resultType": "complete", "tools": tools(), "ttlMs": 60_000, "cacheScope": "private" }),
                ),
                "tools/call" if proven(seen.header("dpop")?)["nonce"] != "of-the-upstream" => {
                    place::wait_for("the port's end", place::PATIENCE, || known.load(Ordering::Acquire).then_some(()));
                    Reply::status(401).header("dpop-nonce", "of-the-upstream").step(Step::later(|| None))
                }
                _ => return None,
            };
            Some(reply.header("connection", "close"))
        });
        let (gateway, alice) = start(proving("dpop-counted", &issuer, &recorder), &issuer);
        let answer = std::thread::scope(|scope| {
            let call = scope.spawn(|| alice.call("echo", &json!({})));
            place::wait_for("the call", place::PATIENCE, || {
                (!recorder.seen_method("tools/call").is_empty()).then_some(())
            });
            if !stays {
                recorder.shut();
                ready.store(true, Ordering::Release);
            }
            call.join().unwrap()
        });
        let result = gateway.recorded("outcome", 1)[0]["result"].clone();
        let sent = recorder.seen_method("tools/call").len();
        let told = (&result["ending"], &result["attempts"], &result["token_digest"]);
        if stays {
            assert_eq!((text_of(&answer).as_str(), sent), ("echo {}", 2));
            assert_eq!(told, (&json!("ok"), &json!(2), &Value::Null), "{result}");
        } else {
            assert_eq!((refused(&answer), sent), ((502, 50202, "upstream_unreachable".into()), 1));
            assert_eq!(told, (&json!("failed"), &Value::Null, &Value::Null), "{result}");
        }
    }
}

/// The upstream `up`, whose credentials are bound to a key.
fn proving(name: &str, issuer: &Issuer, recorder: &Recorder) -> Setup {
    let client = "client = { id = \"gateway\", secret = { env = \"GATEWAY_SECRET\" } }";
    let (endpoint, resource) = (format!("{}/token", issuer.url()), recorder.url());
    let grant = format!(
        "grant = {{ strategy = \"exchange\", token_endpoint = \"{endpoint}\", {client}, resource = \"{resource}\", dpop = true }}"
    );
    Setup::usual(name, issuer).environment("GATEWAY_SECRET", "gateway-secret").upstream("up", &resource, &grant)
}

/// The claims of a proof, verified by the key that it names.
fn proven(proof: &str) -> Value {
    let header = jsonwebtoken::decode_header(proof).unwrap();
    assert_eq!(header.typ.as_deref(), Some("dpop+jwt"));
    let key = jsonwebtoken::DecodingKey::from_jwk(&header.jwk.unwrap()).unwrap();
    let mut rules = jsonwebtoken::Validation::new(jsonwebtoken::Algorithm::ES256);
    rules.required_spec_claims.clear();
    rules.validate_exp = false;
    jsonwebtoken::decode::<Value>(proof, &key, &rules).unwrap().claims
}
