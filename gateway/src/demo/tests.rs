//! The issuer and the servers, called directly: what the demo shows of the gateway is only worth something if they
//! themselves believe nothing that they should not.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use serde_json::{Value, json};
use url::form_urlencoded::Serializer;

use super::{estate, issuer::Issuer};
use crate::{
    clock,
    config::{
        self, ClientAuthentication, OAuthClient, Remote, TokenEndpoint, TokenRequest, Transport, Upstream, UpstreamId,
        dialects::{ACCESS_TOKEN, DIALECTS},
    },
    egress::{Bounds, Client, Trust},
    exchange::{Exchange, Grant, Summons, Witness},
    identity::{Agent, Authentication, Binding, Credential, Identity, User, revocation::Revocations},
    refusal::Refusal,
    secret::Secret,
};

const DOOR: &str = "https://127.0.0.1:8443/mcp";
/// A witness that lets everything pass.
const UNSEEN: Summons<'static> = &|| Ok(Witness::new(|_| Ok(())));
const BOUNDS: Bounds = Bounds { deadline: Duration::from_secs(10), bytes_max: 64 * 1024 };

struct Ground {
    issuer: Arc<Issuer>,
    crm: SocketAddr,
    notes: SocketAddr,
    client: Client,
}

impl Ground {
    async fn prepare() -> Self {
        let issuer = Issuer::start(Secret::new("s3cret".to_owned()), vec![DOOR.to_owned()]).await.unwrap();
        let (crm, notes) = estate::servers(&issuer.url).await.unwrap();
        Self { issuer, crm, notes, client: Client::new(&Trust::default()).unwrap() }
    }

    async fn form(&self, path: &str, fields: &[(&str, &str)], secret: Option<&str>) -> (u16, Value) {
        let body = Serializer::new(String::new()).extend_pairs(fields).finish();
        let mut request = Request::post(format!("{}{path}", self.issuer.url));
        if let Some(secret) = secret {
            let pair = base64::engine::general_purpose::STANDARD.encode(format!("tollgate:{secret}"));
            request = request.header("authorization", format!("Basic {pair}"));
        }
        let response = self.client.fetch(request.body(Bytes::from(body)).unwrap(), BOUNDS).await.unwrap();
        (response.status().as_u16(), serde_json::from_slice(response.body()).unwrap())
    }

    async fn login(&self, user: &str, scope: &str) -> String {
        let (status, answer) = self.form("/login", &[("user", user), ("scope", scope), ("resource", DOOR)], None).await;
        assert_eq!(status, 200, "{answer}");
        answer["access_token"].as_str().unwrap().to_owned()
    }

    fn exchange(&self, audience: &str, scope: &str) -> (Exchange, Arc<Upstream>) {
        let request = TokenRequest {
            at: TokenEndpoint::Url(format!("{}/token", self.issuer.url).parse().unwrap()),
            dialect: &DIALECTS[0],
            subject_token_type: ACCESS_TOKEN.to_owned(),
            dpop: false,
            client: OAuthClient {
                id: "tollgate".to_owned(),
                authentication: ClientAuthentication::SecretBasic(Secret::new("s3cret".to_owned())),
            },
            audience: Some(audience.to_owned()),
            resource: Some(format!("http://{}/mcp", self.crm).parse().unwrap()),
            scopes: vec![scope.to_owned()],
            actor: true,
            ca: None,
        };
        let upstream = Arc::new(Upstream {
            id: UpstreamId::parse("any").unwrap(),
            transport: Transport::Http(Remote::at(format!("http://{}/mcp", self.crm).parse().unwrap())),
            era: None,
            timeout: Duration::from_secs(5),
            grant: config::Grant::Exchange(request),
            discovery: None,
            refresh: Duration::from_secs(60),
            input: config::Input::default(),
            instructions: false,
            cache_reads: true,
            trust_public_cache: false,
            tools: Vec::new(),
            prompts: Vec::new(),
            resources: Vec::new(),
        });
        (
            Exchange::new(&BTreeMap::from([(upstream.id.clone(), Arc::clone(&upstream))]), Revocations::default())
                .unwrap(),
            upstream,
        )
    }

    async fn post(&self, to: SocketAddr, headers: &HeaderMap, body: &Value) -> Response<Bytes> {
        let mut request = Request::post(format!("http://{to}/mcp"));
        request.headers_mut().unwrap().extend(headers.clone());
        self.client.fetch(request.body(Bytes::from(body.to_string())).unwrap(), BOUNDS).await.unwrap()
    }
}

fn identity(name: &str, token: &str) -> Identity {
    Identity {
        user: Some(User { issuer: "i".to_owned(), subject: name.to_owned() }),
        agent: Agent { client_id: "demo-agent".to_owned(), actors: Vec::new() },
        tenant: None,
        groups: Vec::new(),
        scopes: Vec::new(),
        authentication: Authentication {
            method: "jwt",
            issuer: "i".to_owned(),
            token_id: None,
            token_digest: token.len().to_string(),
            login_id: None,
            acr: None,
            issued_at: clock::Timestamp::from_unix_ms(0),
            auth_time: None,
            binding: Binding::Nothing,
            may_act: None,
            expires_at: clock::now().plus(Duration::from_secs(3_000)),
        },
        principal: [7; 32],
        class: [7; 32],
        credential: Credential::new(token.to_owned()),
    }
}

fn claims(token: &str) -> Value {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(token.split('.').nth(1).unwrap()).unwrap()).unwrap()
}

fn carrying(grant: &Grant, more: &[(&'static str, &str)]) -> HeaderMap {
    let (name, value) = grant.header().unwrap();
    let mut headers = HeaderMap::from_iter([(name.clone(), value.clone())]);
    headers.extend(
        more.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap())),
    );
    headers
}

fn modern(method: &str, mut params: Value) -> Value {
    params["_meta"] = json!({
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientCapabilities": {},
    });
    json!({ "jsonrpc": "2.0", "id": 7, "method": method, "params": params })
}

fn parsed(response: &Response<Bytes>) -> Value {
    serde_json::from_slice(response.body()).unwrap()
}

#[tokio::test]
async fn the_exchanged_token_names_person_actor_and_agent_and_is_narrower() {
    let ground = Ground::prepare().await;
    let (exchange, upstream) = ground.exchange("crm-api", "crm.read");
    let token = ground.login("alice", "crm:read notes:read").await;
    let alice = identity("alice", &token);
    let grant = exchange.mint((&alice, UNSEEN), &upstream, &[], clock::now()).await.unwrap();
    let received = claims(grant.header().unwrap().1.to_str().unwrap());
    assert_eq!(
        (&received["sub"], &received["aud"], &received["scope"]),
        (&json!("alice"), &json!("crm-api"), &json!("crm.read"))
    );
    assert_eq!(received["act"], json!({ "sub": "tollgate", "act": { "sub": "demo-agent" } }));
    assert_eq!((&received["client_id"], &received["tenant"]), (&json!("tollgate"), &json!("acme")));
    assert_eq!(grant.facts().token_id.as_deref(), received["jti"].as_str());
    assert!(received["exp"].as_u64() <= claims(&token)["exp"].as_u64());
    let more = exchange.mint((&alice, UNSEEN), &upstream, &["crm.write".to_owned()], clock::now()).await.unwrap_err();
    assert!(matches!(&more, Refusal::GrantRefused(why) if why.contains("invalid_scope")), "{more:?}");
    let own = exchange.service(&upstream, UNSEEN, clock::now()).await.unwrap();
    assert_eq!(claims(own.header().unwrap().1.to_str().unwrap())["sub"], json!("tollgate"));
}

#[tokio::test]
async fn the_issuer_gives_nothing_for_what_it_did_not_make_or_the_gateway_did_not_ask() {
    let ground = Ground::prepare().await;
    let token = ground.login("alice", "crm:read").await;
    let kind = "urn:ietf:params:oauth:token-type:access_token";
    let grant = "urn:ietf:params:oauth:grant-type:token-exchange";
    let forged = token.replace('.', ".e30");
    let cases: [(&str, &str, &str, Option<&str>, &str); 6] = [
        (&token, "crm-api", "crm.read", Some("wrong"), "invalid_client"),
        (&token, "crm-api", "crm.read", None, "invalid_client"),
        (&forged, "crm-api", "crm.read", Some("s3cret"), "invalid_request"),
        (&token, "hr-api", "crm.read", Some("s3cret"), "invalid_target"),
        (&token, "notes-api", "notes.read", Some("s3cret"), "invalid_scope"),
        (&token, "crm-api", "", Some("s3cret"), "invalid_scope"),
    ];
    for (subject, audience, scope, secret, error) in cases {
        let form = [
            ("grant_type", grant),
            ("subject_token", subject),
            ("subject_token_type", kind),
            ("audience", audience),
            ("scope", scope),
        ];
        let (status, answer) = ground.form("/token", &form, secret).await;
        assert!((400..402).contains(&status) && answer["error"] == error, "{audience} {scope}: {answer}");
    }
    let twice = [("grant_type", grant), ("audience", "crm-api"), ("audience", "notes-api")];
    assert_eq!(ground.form("/token", &twice, Some("s3cret")).await.1["error"], "invalid_request");
    for login in
        [[("user", "eve"), ("resource", DOOR)], [("user", "alice"), ("resource", "https://elsewhere.example/")]]
    {
        assert_eq!(ground.form("/login", &login, None).await.0, 400);
    }
}

#[tokio::test]
async fn the_modern_server_takes_only_its_own_tokens_and_whole_requests() {
    let ground = Ground::prepare().await;
    let (exchange, upstream) = ground.exchange("crm-api", "crm.read");
    let token = ground.login("alice", "crm:read crm:write notes:read").await;
    let alice = identity("alice", &token);
    let grant = exchange.mint((&alice, UNSEEN), &upstream, &[], clock::now()).await.unwrap();
    let list = modern("tools/list", json!({}));
    let version = ("mcp-protocol-version", "2026-07-28");
    let with_method = |method| carrying(&grant, &[version, ("mcp-method", method)]);
    let listed = parsed(&ground.post(ground.crm, &with_method("tools/list"), &list).await);
    assert_eq!(listed["result"]["tools"].as_array().unwrap().len(), 3);

    let callers_own: HeaderMap =
        [("authorization".parse().unwrap(), format!("Bearer {token}").parse().unwrap())].into_iter().collect();
    for headers in [HeaderMap::new(), callers_own] {
        assert_eq!(ground.post(ground.crm, &headers, &list).await.status(), 401);
    }
    let plain = json!({ "jsonrpc": "2.0", "id": 7, "method": "tools/list" });
    let mut old = list.clone();
    old["params"]["_meta"]["io.modelcontextprotocol/protocolVersion"] = json!("2025-11-25");
    let old_headers = carrying(&grant, &[("mcp-protocol-version", "2025-11-25"), ("mcp-method", "tools/list")]);
    let cases = [
        (with_method("tools/list"), plain, 400, -32602),
        (with_method("tools/call"), list.clone(), 400, -32020),
        (carrying(&grant, &[("mcp-method", "tools/list")]), list.clone(), 400, -32020),
        (old_headers, old, 400, -32022),
        (with_method("initialize"), modern("initialize", json!({})), 404, -32601),
    ];
    for (headers, body, status, code) in cases {
        let response = ground.post(ground.crm, &headers, &body).await;
        assert_eq!((response.status().as_u16(), &parsed(&response)["error"]["code"]), (status, &json!(code)), "{body}");
    }

    let order = |amount: Value| {
        modern(
            "tools/call",
            json!({ "name": "create_order", "arguments": { "customer": "c-1", "amount": amount, "currency": "EUR" } }),
        )
    };
    let to_order =
        |grant: &Grant| carrying(grant, &[version, ("mcp-method", "tools/call"), ("mcp-name", "create_order")]);
    let lacking = ground.post(ground.crm, &to_order(&grant), &order(json!(5))).await;
    assert_eq!(
        (lacking.status().as_u16(), lacking.headers()["www-authenticate"].to_str().unwrap()),
        (403, "Bearer error=\"insufficient_scope\", scope=\"crm.write\"")
    );
    let write = exchange.mint((&alice, UNSEEN), &upstream, &["crm.write".to_owned()], clock::now()).await.unwrap();
    let done = parsed(&ground.post(ground.crm, &to_order(&write), &order(json!(5))).await);
    assert_eq!(done["result"]["structuredContent"]["order"], "o-1");
    assert_eq!(done["result"]["structuredContent"]["received_token"]["scope"], "crm.read crm.write");
    for amount in [json!(0), json!(1.5), json!("5")] {
        let refused = parsed(&ground.post(ground.crm, &to_order(&write), &order(amount)).await);
        assert_eq!(refused["result"]["isError"], true);
    }
}

#[tokio::test]
async fn the_legacy_server_keeps_sessions_apart_and_reports_progress() {
    let ground = Ground::prepare().await;
    let (exchange, upstream) = ground.exchange("notes-api", "notes.read");
    let ask = |method: &str, params: Value| json!({ "jsonrpc": "2.0", "id": "r1", "method": method, "params": params });
    let mut sessions = Vec::new();
    for (user, principal) in [("alice", 1), ("bob", 2)] {
        let token = ground.login(user, "notes:read").await;
        let mut who = identity(user, &token);
        who.principal = [principal; 32];
        let grant = exchange.mint((&who, UNSEEN), &upstream, &[], clock::now()).await.unwrap();
        let begun = ground
            .post(ground.notes, &carrying(&grant, &[]), &ask("initialize", json!({ "protocolVersion": "2025-11-25" })))
            .await;
        assert_eq!(parsed(&begun)["result"]["protocolVersion"], "2025-11-25");
        sessions.push((grant, begun.headers()["mcp-session-id"].to_str().unwrap().to_owned()));
    }
    let (alice, alices) = &sessions[0];
    let (bob, _) = &sessions[1];
    let list = ask("tools/list", json!({}));
    assert_eq!(ground.post(ground.notes, &carrying(alice, &[]), &list).await.status(), 400);
    assert_eq!(ground.post(ground.notes, &carrying(bob, &[("mcp-session-id", alices)]), &list).await.status(), 404);
    let hers = carrying(alice, &[("mcp-session-id", alices), ("mcp-protocol-version", "2025-11-25")]);
    assert_eq!(parsed(&ground.post(ground.notes, &hers, &list).await)["result"]["tools"].as_array().unwrap().len(), 3);
    let modern_probe = ground
        .post(
            ground.notes,
            &carrying(alice, &[("mcp-protocol-version", "2026-07-28")]),
            &modern("server/discover", json!({})),
        )
        .await;
    assert_eq!((modern_probe.status().as_u16(), &parsed(&modern_probe)["error"]["code"]), (400, &json!(-32600)));

    let slow = json!({ "name": "slow_report", "arguments": { "seconds": 1 }, "_meta": { "progressToken": "p" } });
    let report = ground.post(ground.notes, &hers, &ask("tools/call", slow)).await;
    assert_eq!(report.headers()["content-type"], "text/event-stream");
    let text = String::from_utf8(report.body().to_vec()).unwrap();
    let events: Vec<Value> = text
        .lines()
        .filter_map(|line| line.strip_prefix("data: "))
        .map(|data| serde_json::from_str(data).unwrap())
        .collect();
    let progress: Vec<u64> = events.iter().filter_map(|event| event["params"]["progress"].as_u64()).collect();
    assert_eq!(
        (progress, &events[2]["id"], &events[2]["result"]["isError"]),
        (vec![1, 2], &json!("r1"), &json!(false))
    );

    let write = json!({ "name": "write_note", "arguments": { "id": "n", "text": "t" } });
    assert_eq!(ground.post(ground.notes, &hers, &ask("tools/call", write)).await.status(), 403);
    let mut end = Request::delete(format!("http://{}/mcp", ground.notes));
    end.headers_mut().unwrap().extend(hers.clone());
    assert_eq!(ground.client.fetch(end.body(Bytes::new()).unwrap(), BOUNDS).await.unwrap().status(), 204);
    assert_eq!(ground.post(ground.notes, &hers, &list).await.status(), 404);
}

#[tokio::test]
async fn what_the_demo_writes_is_a_configuration_and_goes_with_it() {
    let built = estate::Estate::build(None).await.unwrap();
    let folder = built.config().parent().unwrap().to_owned();
    let config = match config::load(&built.config(), &config::Environment::process()) {
        Ok(config) => config,
        Err(report) => panic!("{}", report.messages().collect::<Vec<_>>().join("\n")),
    };
    let ids: Vec<&str> = config.upstreams.keys().map(UpstreamId::as_str).collect();
    assert_eq!(ids, ["crm", "notes"]);
    assert_eq!(config.issuers[0].issuer, built.issuer_url);
    assert!(config.gateway.tls.is_some() && folder.join("policies/baseline.cedar").is_file());
    let mut said = Vec::new();
    built.invite(&mut said).await.unwrap();
    let said = String::from_utf8(said).unwrap();
    assert!(said.contains(&format!("{}/mcp", built.public_url)) && said.contains("StreamableHTTPClientTransport"));
    drop(built);
    assert!(!folder.exists());
}
