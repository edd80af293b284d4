//! What clients do that the specification does not have, or that servers forget: each habit by its name, served or
//! refused (spec §7). One that deviates is forgiven where the configuration lists it, and counted.

use serde_json::{Value, json};

use crate::harness::{
    gateway::{Gateway, Setup},
    http::{Answer, fetch},
    issuer::Issuer,
    mcp::{Client, LEGACY, MODERN, modern_body},
    peer::{Dial, Sdk},
    recorder::{Era, Recorder},
};

/// One upstream behind a gateway that forgives as it is shipped, and behind one that forgives nothing.
struct Ground {
    issuer: Issuer,
    usual: Gateway,
    strict: Gateway,
}

impl Ground {
    fn new(habit: &str) -> Self {
        let issuer = Issuer::good();
        let (usual, strict) = (start(habit, &issuer, ""), start(&format!("{habit}-strict"), &issuer, "tolerate = []"));
        Self { issuer, usual, strict }
    }

    /// What both gateways say to the same client.
    fn both(&self, ask: impl Fn(&Gateway, &Client) -> Answer) -> (Answer, Answer) {
        let ask = |gateway: &Gateway| ask(gateway, &self.alice(gateway));
        (ask(&self.usual), ask(&self.strict))
    }

    fn alice(&self, gateway: &Gateway) -> Client {
        gateway.client_of(Some("up"), &self.issuer, "alice")
    }

    /// The habit was counted where it was forgiven, so often, and nowhere else.
    #[track_caller]
    fn counted(&self, habit: &str, times: f64) {
        assert_eq!(tolerated(&self.usual, habit), Some(times), "{habit}");
        assert_eq!(tolerated(&self.strict, ""), None, "{habit}");
    }
}

/// A gateway before a recorder, which lives as long as the test's process.
fn start(name: &str, issuer: &Issuer, lines: &str) -> Gateway {
    let upstream: &'static Recorder = Box::leak(Box::new(Recorder::good(Era::Modern)));
    let gateway = Setup::usual(name, issuer).gateway(lines).open_upstream("up", &upstream.url()).start();
    drop(gateway.client_of(Some("up"), issuer, "alice").awaiting("echo"));
    gateway
}

fn tolerated(gateway: &Gateway, habit: &str) -> Option<f64> {
    gateway.metric(&format!("tollgate_tolerated_total{{tollgate_habit=\"{habit}"))
}

/// Status and code of a refusal.
#[track_caller]
fn refused(answer: &Answer) -> (u16, String) {
    let json = answer.json();
    assert_eq!(json["jsonrpc"], "2.0", "{json}");
    assert!(json["error"]["code"].is_i64() && json["error"]["message"].is_string(), "{json}");
    (answer.status(), json["error"]["data"]["code"].as_str().unwrap_or_else(|| panic!("no code: {json}")).to_owned())
}

const LIST: [(&str, &str); 2] = [("MCP-Protocol-Version", MODERN), ("Mcp-Method", "tools/list")];

fn list() -> String {
    modern_body(&json!(1), "tools/list", &json!({})).to_string()
}

/// The bytes of a request without one of its headers.
fn without(bytes: &[u8], header: &str) -> Vec<u8> {
    let text = String::from_utf8(bytes.to_vec()).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    let kept: Vec<&str> = head.split("\r\n").filter(|line| !line.starts_with(&format!("{header}:"))).collect();
    assert!(kept.len() < head.split("\r\n").count(), "no {header}");
    format!("{}\r\n\r\n{body}", kept.join("\r\n")).into_bytes()
}

/// anthropics/claude-code#52871. The metadata is that of the URL that the client has (RFC 9728 §3.3).
#[test]
fn trailing_slash() {
    let ground = Ground::new("slash");
    let slashed = |gateway: &Gateway| format!("{}/", gateway.endpoint(Some("up")));
    let token = |gateway: &Gateway| ground.issuer.token("alice", &gateway.endpoint(Some("up")));
    let ask =
        |gateway: &Gateway| Client::new(&slashed(gateway)).token(&token(gateway)).modern("tools/list", &json!({}));
    assert_eq!(ask(&ground.usual).status(), 200);
    assert_eq!(refused(&ask(&ground.strict)), (404, "route_unknown".into()));

    let challenged = Client::new(&slashed(&ground.usual)).modern("tools/list", &json!({}));
    let path = "/.well-known/oauth-protected-resource/mcp/up/";
    let metadata = |gateway: &Gateway| fetch("GET", &format!("{}{path}", gateway.setup().origin()), &[], b"");
    assert!(challenged.header("www-authenticate").unwrap().contains(&format!("{path}\"")), "the same slash");
    assert_eq!(metadata(&ground.usual).json()["resource"], slashed(&ground.usual));
    assert_eq!(refused(&metadata(&ground.strict)), (404, "route_unknown".into()));
    ground.counted("trailing_slash", 3.0);

    for (sdk, era) in [(Sdk::TypeScript, MODERN), (Sdk::TypeScriptLegacy, "legacy"), (Sdk::Python, "auto")] {
        let dial =
            Dial { url: slashed(&ground.usual), token: Some(token(&ground.usual)), era, authority: None, input: false };
        let lines = sdk.run(ground.usual.setup().folder(), &dial, &json!([{ "call": "echo", "arguments": {} }]));
        assert_eq!(lines[1]["result"]["content"][0]["text"], "echo {}", "{sdk:?} {era}: {lines:?}");
    }
}

/// A look before logging in, to be told where that is done.
#[test]
fn head_probe() {
    let ground = Ground::new("head");
    let head = |gateway: &Gateway| {
        let client = gateway.client(Some("up"));
        let mut connection = client.connection();
        connection.send(&client.bytes("HEAD", &[], b"")).unwrap();
        connection.head()
    };
    let found = head(&ground.usual);
    assert_eq!(found.status, 401);
    assert!(found.header("www-authenticate").unwrap().contains("resource_metadata="));
    assert_eq!(head(&ground.strict).status, 405);
    ground.counted("head_probe", 1.0);
}

#[test]
fn missing_accept() {
    let ground = Ground::new("accept");
    let (usual, strict) = ground
        .both(|_, alice| alice.connection().exchange(&without(&alice.post_bytes(&LIST, list().as_bytes()), "Accept")));
    assert_eq!(usual.status(), 200, "{}", usual.text());
    assert_eq!(refused(&strict), (406, "not_acceptable".into()));
    ground.counted("missing_accept", 1.0);
}

/// An answer of which the client says that it does not take it is no answer; one of the two forms is enough.
#[test]
fn partial_accept() {
    let ground = Ground::new("half");
    let ask = |accept| {
        ground.both(move |_, alice| alice.post(&[&LIST[..], &[("Accept", accept)]].concat(), list().as_bytes()))
    };
    for accept in ["application/json", "text/event-stream"] {
        let (usual, strict) = ask(accept);
        assert_eq!(usual.status(), 200, "{accept}");
        assert_eq!(refused(&strict), (406, "not_acceptable".into()), "{accept}");
    }
    ground.counted("partial_accept", 2.0);
    let (usual, strict) = ask("*/*");
    assert_eq!((usual.status(), strict.status()), (200, 200), "by HTTP's rules that is both");
    let (usual, strict) = ask("text/html");
    assert_eq!((usual.status(), strict.status()), (406, 406), "and that is neither");
}

/// The resource with the slash that URL libraries add, as it comes back in tokens.
#[test]
fn audience_slash() {
    let ground = Ground::new("audience");
    let (usual, strict) = ground.both(|gateway, _| {
        let endpoint = gateway.endpoint(Some("up"));
        gateway
            .client(Some("up"))
            .token(&ground.issuer.token("alice", &format!("{endpoint}/")))
            .modern("tools/list", &json!({}))
    });
    assert_eq!(usual.status(), 200, "{}", usual.text());
    assert_eq!(refused(&strict), (401, "token_invalid".into()));
    ground.counted("audience_slash", 1.0);
}

/// vercel/ai#13988. Forgiven only where that is written: who else stands behind the origin, the gateway cannot know.
#[test]
fn origin_as_resource() {
    let ground = Ground::new("origin");
    let willing = start("origin-willing", &ground.issuer, "tolerate = [\"origin_audience\"]");
    let ask = |gateway: &Gateway, slash: &str| {
        let token = ground.issuer.token("alice", &format!("{}{slash}", gateway.setup().origin()));
        gateway.client(Some("up")).token(&token).modern("tools/list", &json!({}))
    };
    for slash in ["", "/"] {
        assert_eq!(refused(&ask(&ground.usual, slash)), (401, "token_invalid".into()));
        assert_eq!(refused(&ask(&ground.strict, slash)), (401, "token_invalid".into()));
        assert_eq!(ask(&willing, slash).status(), 200);
    }
    assert_eq!(tolerated(&willing, "origin_audience"), Some(2.0));
}

/// Scheme and host have no case (RFC 3986 §3.1, §3.2.2), which servers should know: nothing to forgive.
#[test]
fn uppercase_scheme_and_host_in_the_audience() {
    let ground = Ground::new("case");
    let (usual, strict) = ground.both(|gateway, _| {
        let audience = gateway.endpoint(Some("up")).replacen("http://", "HTTP://", 1);
        gateway.client(Some("up")).token(&ground.issuer.token("alice", &audience)).modern("tools/list", &json!({}))
    });
    assert_eq!((usual.status(), strict.status()), (200, 200));
}

/// The name of a scheme has no case (RFC 9110 §11.1).
#[test]
fn bearer_in_any_case() {
    let ground = Ground::new("bearer");
    for scheme in ["bearer", "BEARER", "Bearer "] {
        let (usual, strict) = ground.both(|gateway, _| {
            let token = ground.issuer.token("alice", &gateway.endpoint(Some("up")));
            let value = format!("{scheme} {token}");
            gateway.client(Some("up")).post(&[&LIST[..], &[("Authorization", &value)]].concat(), list().as_bytes())
        });
        assert_eq!((usual.status(), strict.status()), (200, 200), "{scheme:?}");
    }
}

/// Some clients of both eras send the newer headers with the older version (spec §7.9).
#[test]
fn stray_mcp_headers_on_legacy_requests() {
    let ground = Ground::new("stray");
    let (usual, strict) = ground.both(|_, alice| {
        let session = alice.initialize();
        let headers = [&session.headers()[..], &[("Mcp-Method", "tools/list")]].concat();
        alice.post(&headers, br#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#)
    });
    assert_eq!(usual.status(), 200, "{}", usual.text());
    assert_eq!(refused(&strict), (400, "header_mismatch".into()));
    ground.counted("stray_headers", 1.0);
}

/// envoyproxy/ai-gateway#1958: every request stands for itself, as its caller's and in the version that it names.
#[test]
fn missing_session_id() {
    let ground = Ground::new("sessionless");
    let (usual, strict) = ground.both(|_, alice| {
        assert!(alice.initialize().id().is_some());
        let call =
            json!({ "jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": { "name": "echo", "arguments": {} } });
        alice.post(&[("MCP-Protocol-Version", LEGACY)], call.to_string().as_bytes())
    });
    assert_eq!(usual.json()["result"]["content"][0]["text"], "echo {}");
    assert_eq!(refused(&strict), (400, "session_missing".into()));
    // The notification of `initialized` carried the session; only the call did not.
    ground.counted("missing_session", 1.0);
    // One that is not theirs is no missing one.
    let strange = ground.alice(&ground.usual).post(
        &[("MCP-Protocol-Version", LEGACY), ("Mcp-Session-Id", "nobodys")],
        br#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#,
    );
    assert_eq!(refused(&strange), (404, "session_unknown".into()));
    // What is kept for a session needs one.
    for (method, params) in
        [("resources/subscribe", json!({ "uri": "test://a" })), ("logging/setLevel", json!({ "level": "info" }))]
    {
        let lasting = json!({ "jsonrpc": "2.0", "id": 8, "method": method, "params": params });
        let answer =
            ground.alice(&ground.usual).post(&[("MCP-Protocol-Version", LEGACY)], lasting.to_string().as_bytes());
        assert_eq!(refused(&answer), (400, "session_missing".into()), "{method}");
    }
}

/// RL-02: the version of the session is meant, which is what the specification says.
#[test]
fn no_version_header() {
    let ground = Ground::new("version");
    let (usual, strict) = ground.both(|_, alice| {
        let session = alice.initialize();
        alice.post(&[("Mcp-Session-Id", session.id().unwrap())], br#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#)
    });
    assert_eq!((usual.status(), strict.status()), (200, 200));
    assert_eq!(tolerated(&ground.usual, ""), None);
}

/// CONF: a version of the future, in header and body alike.
#[test]
fn version_of_the_future() {
    let ground = Ground::new("v999");
    let mut body: Value = serde_json::from_str(&list()).unwrap();
    body["params"]["_meta"]["io.modelcontextprotocol/protocolVersion"] = json!("v999");
    let (usual, strict) =
        ground.both(|_, alice| alice.post(&[("MCP-Protocol-Version", "v999"), LIST[1]], body.to_string().as_bytes()));
    for answer in [usual, strict] {
        assert_eq!(refused(&answer), (400, "version_unsupported".into()));
        assert_eq!(answer.json()["error"]["code"], -32022);
        assert_eq!(answer.json()["error"]["data"]["supported"], json!([MODERN]));
    }
}

/// RS-22: a modern server does not look at it.
#[test]
fn session_id_on_modern_requests() {
    let ground = Ground::new("session-modern");
    let (usual, strict) =
        ground.both(|_, alice| alice.post(&[&LIST[..], &[("Mcp-Session-Id", "any")]].concat(), list().as_bytes()));
    assert_eq!((usual.status(), strict.status()), (200, 200));
    assert_eq!(usual.header("mcp-session-id"), None);
}

/// RFC 8259 §11 knows no charset, and adding one has no effect.
#[test]
fn content_type_with_charset() {
    let ground = Ground::new("charset");
    for kind in ["application/json; charset=utf-8", "application/json;charset=UTF-8", "Application/JSON"] {
        let (usual, strict) =
            ground.both(|_, alice| alice.post(&[&LIST[..], &[("Content-Type", kind)]].concat(), list().as_bytes()));
        assert_eq!((usual.status(), strict.status()), (200, 200), "{kind}");
    }
}

/// Java's client offers HTTP/2 in the clear on every connection; RFC 9110 §7.8 lets that be ignored.
#[test]
fn offer_of_http2_in_clear() {
    let ground = Ground::new("h2c");
    let offer = [("Connection", "Upgrade, HTTP2-Settings"), ("Upgrade", "h2c"), ("HTTP2-Settings", "AAEAAEAAAAIAAAAB")];
    let (usual, strict) = ground.both(|_, alice| alice.post(&[&LIST[..], &offer].concat(), list().as_bytes()));
    assert_eq!((usual.status(), strict.status()), (200, 200));
}

/// The older transport's probe: it must not look like an end of the session, nor like a stream.
#[test]
fn get_probe_before_login() {
    let ground = Ground::new("get");
    for gateway in [&ground.usual, &ground.strict] {
        let nobody = gateway.client(Some("up"));
        let answer = nobody.connection().exchange(&nobody.bytes("GET", &[("Accept", "text/event-stream")], b""));
        assert_eq!(refused(&answer), (401, "token_missing".into()));
        assert!(answer.header("www-authenticate").unwrap().contains("resource_metadata="));
    }
}

/// 2025-03-26 has no protected resource metadata: its clients look for the authorization server at the root of the host,
/// where there is none (spec §1.3a). They are told so in a form that ends the search, and not by a page.
#[test]
fn root_well_known_of_the_oldest_clients() {
    let ground = Ground::new("root");
    for gateway in [&ground.usual, &ground.strict] {
        for path in ["oauth-authorization-server", "openid-configuration"] {
            let answer = fetch("GET", &format!("{}/.well-known/{path}", gateway.setup().origin()), &[], b"");
            assert_eq!(refused(&answer), (404, "route_unknown".into()), "{path}");
        }
        let own = format!("{}/.well-known/oauth-protected-resource", gateway.setup().origin());
        assert_eq!(fetch("GET", &own, &[], b"").json()["resource"], gateway.endpoint(None));
    }
}

/// RA-11: the inspector in a browser asks first, and has to be able to read where to log in.
#[test]
fn browser_cors() {
    let issuer = Issuer::good();
    let gateway = start("cors", &issuer, "allowed_origins = [\"https://inspector.example\"]");
    let nobody = gateway.client(Some("up"));
    let page = ("Origin", "https://inspector.example");
    let asks = [
        page,
        ("Access-Control-Request-Method", "POST"),
        ("Access-Control-Request-Headers", "authorization, content-type, mcp-protocol-version, mcp-method"),
    ];
    let preflight = nobody.connection().exchange(&nobody.bytes("OPTIONS", &asks, b""));
    assert_eq!((preflight.status(), preflight.body.len()), (204, 0));
    assert_eq!(preflight.header("access-control-allow-origin"), Some(page.1));
    for name in ["authorization", "mcp-protocol-version", "mcp-method", "mcp-name", "mcp-session-id"] {
        assert!(preflight.header("access-control-allow-headers").unwrap().contains(name), "{name}");
    }
    let challenged = nobody.post(&[&LIST[..], &[page]].concat(), list().as_bytes());
    assert_eq!(refused(&challenged), (401, "token_missing".into()));
    assert_eq!(challenged.header("access-control-allow-origin"), Some(page.1));
    assert!(challenged.header("access-control-expose-headers").unwrap().contains("WWW-Authenticate"));
    // Without a page behind it, the question is answered as HTTP has it (RFC 9110 §9.3.7).
    let plain = nobody.connection().exchange(&nobody.bytes("OPTIONS", &[], b""));
    assert_eq!((plain.status(), plain.header("access-control-allow-origin")), (204, None));
    assert!(plain.header("allow").unwrap().contains("POST"));
}

/// Spec §7.7: a modern client that gets a 4xx without a JSON-RPC body takes the server for a legacy one, and remembers.
#[test]
fn fallback_on_a_4xx_without_a_body() {
    let ground = Ground::new("bodies");
    let alice = ground.alice(&ground.usual);
    let exchange = |bytes: Vec<u8>| alice.connection().exchange(&bytes);
    let post = |headers: &[(&str, &str)], body: &str| alice.post(&[&LIST[..], headers].concat(), body.as_bytes());
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    let large = "x".repeat(64 * 1024);
    let other = Client::new(&format!("{}/other", ground.usual.setup().origin()));
    for (status, code, answer) in [
        (400, "http_malformed", exchange(text(alice.post_bytes(&LIST, b"{}")).replace("Host:", "Host :").into_bytes())),
        (400, "http_malformed", exchange(b"NONSENSE\r\n\r\n".to_vec())),
        (400, "not_json", post(&[], "{")),
        (400, "not_a_request", post(&[], "[]")),
        (401, "token_missing", ground.usual.client(Some("up")).modern("tools/list", &json!({}))),
        (403, "origin_not_allowed", post(&[("Origin", "https://evil.example")], &list())),
        (404, "method_unknown", alice.modern("no/such", &json!({}))),
        (404, "route_unknown", other.modern("tools/list", &json!({}))),
        (405, "method_not_allowed", exchange(alice.bytes("PUT", &LIST, b"{}"))),
        (406, "not_acceptable", post(&[("Accept", "image/png")], &list())),
        (413, "body_too_large", post(&[], &" ".repeat(2 * 1024 * 1024))),
        (415, "content_type_unsupported", post(&[("Content-Type", "text/plain")], &list())),
        (431, "headers_too_large", post(&[("X-Large", &large)], &list())),
    ] {
        assert_eq!(refused(&answer), (status, code.into()), "{}", answer.text());
        assert_eq!(answer.header("content-type"), Some("application/json"), "{code}");
    }
    for code in ["http_malformed", "headers_too_large"] {
        let counted = ground.usual.metric(&format!("tollgate_refusals_total{{tollgate_refusal_code=\"{code}\"}}"));
        assert!(counted.is_some_and(|times| times >= 1.0), "{code} is counted: {counted:?}");
    }
}
