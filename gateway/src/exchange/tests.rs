//! Against a token endpoint on loopback: what it is sent, and what comes of everything that it may answer.

use std::{
    net::SocketAddr,
    sync::atomic::{AtomicUsize, Ordering},
};

use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Notify,
};

use super::*;
use crate::{
    config::{ClientAuthentication, OAuthClient, Remote, TokenRequest, Transport},
    identity::{Agent, Authentication, Binding, Credential, User},
    refusal::TokenFault,
    tasks,
};

const NOW: Timestamp = Timestamp::from_unix_seconds(1_800_000_000);

/// What the endpoint was asked: the form in order, and the headers.
#[derive(Debug, Clone)]
struct Asked {
    form: Vec<(String, String)>,
    headers: http::HeaderMap,
}

impl Asked {
    fn field(&self, name: &str) -> Option<&str> {
        let mut values = self.form.iter().filter(|(key, _)| key == name).map(|(_, value)| value.as_str());
        let first = values.next();
        assert_eq!(values.next(), None, "`{name}` is sent twice");
        first
    }
}

/// What the endpoint does.
#[derive(Debug, Clone)]
enum Play {
    /// A fresh token for whatever is asked, living for so many seconds.
    Tokens(u64),
    Says(u16, String),
    Holds,
    HangsUp,
}

struct Stage {
    address: SocketAddr,
    asked: Mutex<Vec<Asked>>,
    play: Mutex<Play>,
    count: AtomicUsize,
    release: Notify,
}

impl Stage {
    async fn set(play: Play) -> Arc<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stage = Arc::new(Self {
            address: listener.local_addr().unwrap(),
            asked: Mutex::default(),
            play: Mutex::new(play),
            count: AtomicUsize::new(0),
            release: Notify::new(),
        });
        let shared = Arc::clone(&stage);
        tasks::background(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tasks::background(Arc::clone(&shared).converse(stream));
            }
        });
        stage
    }

    async fn converse(self: Arc<Self>, stream: TcpStream) {
        let service = service_fn(|request| self.answer(request));
        let connection = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
        // A test that hangs up on purpose ends a connection in an error.
        drop(connection.await);
    }

    async fn answer(&self, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, &'static str> {
        let (parts, mut body) = request.into_parts();
        let mut bytes = Vec::new();
        while let Some(Ok(frame)) = body.frame().await {
            bytes.extend_from_slice(frame.data_ref().unwrap());
        }
        assert_eq!(parts.headers["content-type"], "application/x-www-form-urlencoded");
        let form = url::form_urlencoded::parse(&bytes).into_owned().collect();
        self.asked.lock().push(Asked { form, headers: parts.headers });
        let count = self.count.fetch_add(1, Ordering::SeqCst);
        let play = self.play.lock().clone();
        let (status, text) = match play {
            Play::Tokens(life) => (200, token_answer(count, life)),
            Play::Says(status, text) => (status, text),
            Play::Holds => {
                self.release.notified().await;
                (200, token_answer(count, 300))
            }
            Play::HangsUp => return Err("hung up"),
        };
        let response = Response::builder().status(StatusCode::from_u16(status).unwrap());
        Ok(response.header("content-type", "application/json").body(Full::new(text.into())).unwrap())
    }

    fn count(&self) -> usize {
        self.count.load(Ordering::SeqCst)
    }

    fn last(&self) -> Asked {
        self.asked.lock().last().unwrap().clone()
    }

    fn plays(&self, play: Play) {
        *self.play.lock() = play;
    }

    fn request(&self) -> TokenRequest {
        TokenRequest {
            token_endpoint: format!("http://{}/token", self.address).parse().unwrap(),
            client: OAuthClient {
                id: "gate way:1".to_owned(),
                authentication: ClientAuthentication::SecretBasic(Secret::new("s&cret:+ü".to_owned())),
            },
            audience: Some("crm-api".to_owned()),
            resource: Some("https://crm.internal/mcp".parse().unwrap()),
            scopes: vec!["crm.read".to_owned()],
            actor: false,
            ca: None,
        }
    }
}

fn token_answer(count: usize, life: u64) -> String {
    format!(r#"{{"access_token":"minted-{count}","token_type":"Bearer","expires_in":{life}}}"#)
}

fn upstream(grant: config::Grant, discovery: Option<config::Grant>) -> Upstream {
    Upstream {
        id: UpstreamId::parse("crm").unwrap(),
        transport: Transport::Http(Remote::at("https://crm.internal/mcp".parse().unwrap())),
        era: None,
        timeout: Duration::from_secs(1),
        grant,
        discovery,
        refresh: Duration::from_secs(60),
        input: config::Input::default(),
        instructions: false,
        cache_reads: true,
        trust_public_cache: false,
        tools: Vec::new(),
        prompts: Vec::new(),
        resources: Vec::new(),
    }
}

fn exchange(grant: config::Grant) -> (Arc<Exchange>, Arc<Upstream>) {
    let upstream = Arc::new(upstream(grant, None));
    let exchange = Exchange::new(&BTreeMap::from([(upstream.id.clone(), Arc::clone(&upstream))])).unwrap();
    (Arc::new(exchange), upstream)
}

fn caller(name: &str, token: &str) -> Identity {
    Identity {
        user: Some(User { issuer: "https://login.example".to_owned(), subject: name.to_owned() }),
        agent: Agent { client_id: "agent".to_owned(), actors: Vec::new() },
        tenant: None,
        groups: Vec::new(),
        scopes: Vec::new(),
        authentication: Authentication {
            method: "jwt",
            issuer: "https://login.example".to_owned(),
            token_id: None,
            token_digest: token_digest(token),
            acr: None,
            auth_time: None,
            binding: Binding::Nothing,
            may_act: None,
            expires_at: NOW.plus(Duration::from_secs(3600)),
        },
        principal: sha256(name.as_bytes()),
        class: [0; 32],
        credential: Credential::new(token.to_owned()),
    }
}

fn bearer(grant: &Grant) -> &str {
    grant.header().unwrap().1.to_str().unwrap()
}

fn seconds(count: u64) -> Timestamp {
    NOW.plus(Duration::from_secs(count))
}

#[tokio::test]
async fn an_exchange_is_written_as_rfc_8693_has_it() {
    let stage = Stage::set(Play::Tokens(300)).await;
    let (exchange, upstream) = exchange(config::Grant::Exchange(stage.request()));
    let scopes = ["crm.write".to_owned(), "crm.read".to_owned()];
    let grant = exchange.mint(&caller("alice", "alices.own.token"), &upstream, &scopes, NOW).await.unwrap();
    let asked = stage.last();
    let expected = [
        ("grant_type", "urn:ietf:params:oauth:grant-type:token-exchange"),
        ("subject_token", "alices.own.token"),
        ("subject_token_type", "urn:ietf:params:oauth:token-type:access_token"),
        ("requested_token_type", "urn:ietf:params:oauth:token-type:access_token"),
        ("resource", "https://crm.internal/mcp"),
        ("audience", "crm-api"),
        ("scope", "crm.read crm.write"),
    ];
    let form: Vec<(&str, &str)> = asked.form.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
    assert_eq!(form, expected);
    // RFC 6749 §2.3.1: `gate way:1` and `s&cret:+ü`, form-encoded, then base64.
    let basic = base64::engine::general_purpose::STANDARD.encode("gate+way%3A1:s%26cret%3A%2B%C3%BC");
    assert_eq!(asked.headers["authorization"], format!("Basic {basic}"));
    assert_eq!(bearer(&grant), "Bearer minted-0");
    assert_eq!(
        (grant.strategy(), grant.audience(), grant.resource()),
        ("exchange", Some("crm-api"), Some("https://crm.internal/mcp"))
    );
    assert_eq!(grant.scopes(), ["crm.read", "crm.write"]);
    assert_eq!(grant.token_digest().unwrap(), token_digest("minted-0"));
    assert_eq!(grant.expires_at(), Some(seconds(300)));
    assert!(!format!("{grant:?}").contains("minted-0"), "{grant:?}");
}

#[tokio::test]
async fn the_gateway_names_itself_as_the_actor() {
    let stage = Stage::set(Play::Tokens(300)).await;
    let (exchange, upstream) = exchange(config::Grant::Exchange(TokenRequest { actor: true, ..stage.request() }));
    let grant = exchange.mint(&caller("alice", "alice-token"), &upstream, &[], NOW).await.unwrap();
    let first = stage.asked.lock()[0].clone();
    assert_eq!(first.form, [("grant_type".to_owned(), "client_credentials".to_owned())]);
    assert_eq!(stage.last().field("actor_token"), Some("minted-0"));
    assert_eq!(stage.last().field("actor_token_type"), Some("urn:ietf:params:oauth:token-type:access_token"));
    assert_eq!(bearer(&grant), "Bearer minted-1");
    exchange.mint(&caller("bob", "bob-token"), &upstream, &[], NOW).await.unwrap();
    assert_eq!(stage.count(), 3, "the actor token is the same for all callers");
}

#[tokio::test]
async fn the_client_proves_itself_by_post_or_by_key() {
    let stage = Stage::set(Play::Tokens(300)).await;
    let mut request = stage.request();
    request.client.authentication = ClientAuthentication::SecretPost(Secret::new("s&cret".to_owned()));
    let (by_post, upstream) = exchange(config::Grant::ClientCredentials(request.clone()));
    by_post.mint(&caller("alice", "a"), &upstream, &[], NOW).await.unwrap();
    assert_eq!(stage.last().field("client_secret"), Some("s&cret"));
    assert!(!stage.last().headers.contains_key("authorization"));

    let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    request.client.authentication = ClientAuthentication::PrivateKeyJwt {
        key: Secret::new(pair.serialize_pem()),
        algorithm: "ES256".to_owned(),
        key_id: Some("k1".to_owned()),
        audience: "https://login.example".to_owned(),
    };
    let (by_key, upstream) = exchange(config::Grant::ClientCredentials(request.clone()));
    by_key.mint(&caller("alice", "a"), &upstream, &[], NOW).await.unwrap();
    let asked = stage.last();
    assert_eq!(asked.field("client_assertion_type"), Some("urn:ietf:params:oauth:client-assertion-type:jwt-bearer"));
    let assertion = asked.field("client_assertion").unwrap();
    let key = jsonwebtoken::DecodingKey::from_ec_pem(pair.public_key_pem().as_bytes()).unwrap();
    let mut rules = jsonwebtoken::Validation::new(jsonwebtoken::Algorithm::ES256);
    rules.set_audience(&["https://login.example"]);
    rules.validate_exp = false;
    let token = jsonwebtoken::decode::<serde_json::Value>(assertion, &key, &rules).unwrap();
    assert_eq!(token.header.kid.as_deref(), Some("k1"));
    assert_eq!((&token.claims["iss"], &token.claims["sub"]), (&"gate way:1".into(), &"gate way:1".into()));
    assert_eq!(token.claims["exp"].as_u64().unwrap(), NOW.unix_seconds() + 60);
    assert!(token.claims["jti"].as_str().unwrap().len() >= 32);

    let ClientAuthentication::PrivateKeyJwt { algorithm, .. } = &mut request.client.authentication else { panic!() };
    *algorithm = "HS256".to_owned();
    assert!(Endpoint::new(&request).is_err());
    let ClientAuthentication::PrivateKeyJwt { key: broken, algorithm, .. } = &mut request.client.authentication else {
        panic!()
    };
    (*algorithm, *broken) = ("ES256".to_owned(), Secret::new("not a key".to_owned()));
    let error = Endpoint::new(&request).unwrap_err();
    assert!(error.contains("private key") && !error.contains("not a key"), "{error}");
}

#[tokio::test]
async fn a_credential_serves_its_caller_token_and_scopes_and_nobody_else() {
    let stage = Stage::set(Play::Tokens(300)).await;
    let (exchange, upstream) = exchange(config::Grant::Exchange(stage.request()));
    let (alice, bob) = (caller("alice", "alice-1"), caller("bob", "bob-1"));
    let write = ["crm.write".to_owned()];
    let mut stepped_up = caller("alice", "alice-1");
    stepped_up.authentication.acr = Some("mfa".to_owned());
    let mut seen = std::collections::BTreeSet::new();
    let table: [(&Identity, &[String]); 5] =
        [(&alice, &[]), (&bob, &[]), (&alice, &write), (&caller("alice", "alice-2"), &[]), (&stepped_up, &[])];
    for (who, scopes) in table {
        let first = exchange.mint(who, &upstream, scopes, NOW).await.unwrap();
        let again = exchange.mint(who, &upstream, scopes, seconds(269)).await.unwrap();
        assert_eq!(bearer(&first), bearer(&again));
        assert_eq!((first.generation(), first.fresh(), again.fresh()), (again.generation(), true, false));
        assert!(seen.insert(bearer(&first).to_owned()), "{} served two", bearer(&first));
    }
    assert_eq!(stage.count(), 5);
    exchange.mint(&alice, &upstream, &[], seconds(270)).await.unwrap();
    assert_eq!(stage.count(), 6, "the last thirty seconds are not used");
}

#[tokio::test]
async fn a_credential_for_one_binding_is_none_for_another() {
    let stage = Stage::set(Play::Tokens(300)).await;
    let (exchange, upstream) = exchange(config::Grant::Exchange(stage.request()));
    let bindings = [
        Binding::Nothing,
        Binding::Key("one".to_owned()),
        Binding::Key("other".to_owned()),
        Binding::Certificate("one".to_owned()),
    ];
    let mut seen = std::collections::BTreeSet::new();
    for binding in bindings {
        let mut who = caller("alice", "alice-1");
        who.authentication.binding = binding;
        let grant = exchange.mint(&who, &upstream, &[], NOW).await.unwrap();
        assert!(seen.insert(bearer(&grant).to_owned()), "{:?}", who.authentication.binding);
    }
    assert_eq!(stage.count(), 4);
}

/// RFC 8693 §4.4.
#[tokio::test]
async fn the_gateway_becomes_the_actor_only_where_the_token_lets_it() {
    let stage = Stage::set(Play::Tokens(300)).await;
    for (acts, named, refused) in [
        (true, None, false),
        (true, Some("tollgate"), false),
        (true, Some("https://other.example tollgate"), true),
        (true, Some("another"), true),
        (false, Some("another"), false),
    ] {
        let mut request = stage.request();
        (request.actor, request.client.id) = (acts, "tollgate".to_owned());
        let (exchange, upstream) = exchange(config::Grant::Exchange(request));
        let mut who = caller("alice", "alice-1");
        who.authentication.may_act = named.map(str::to_owned);
        let before = stage.count();
        let minted = exchange.mint(&who, &upstream, &[], NOW).await;
        assert_eq!(matches!(minted, Err(Refusal::GrantRefused(_))), refused, "{acts} {named:?}");
        assert_eq!(stage.count() == before, refused, "nobody is asked in vain: {named:?}");
    }
}

#[tokio::test]
async fn who_came_without_a_token_has_none_to_exchange() {
    let stage = Stage::set(Play::Tokens(300)).await;
    let (exchange, upstream) = exchange(config::Grant::Exchange(stage.request()));
    let mut machine = caller("machine", "");
    machine.authentication.method = CERTIFICATE;
    assert_eq!(exchange.mint(&machine, &upstream, &[], NOW).await.unwrap_err(), Refusal::GrantNeedsToken);
    assert_eq!(stage.count(), 0);
}

#[tokio::test]
async fn a_credential_outlives_neither_itself_nor_its_subject_nor_the_bound() {
    let stage = Stage::set(Play::Tokens(100_000)).await;
    let (exchange, upstream) = exchange(config::Grant::Exchange(stage.request()));
    let mut short = caller("alice", "short");
    short.authentication.expires_at = seconds(100);
    let grant = exchange.mint(&short, &upstream, &[], NOW).await.unwrap();
    assert_eq!(grant.expires_at(), Some(seconds(100)));
    let table =
        [("alice", 69, 1), ("alice", 70, 2), ("bob", 299, 3), ("bob", 299, 3), ("carol", 0, 4), ("carol", 300, 5)];
    for (name, at, count) in table {
        let mut who = caller(name, name);
        if name == "alice" {
            who = caller("alice", "short");
            who.authentication.expires_at = seconds(100);
        }
        exchange.mint(&who, &upstream, &[], seconds(at)).await.unwrap();
        assert_eq!(stage.count(), count, "{name} at {at}");
    }
    let gone = exchange.mint(&short, &upstream, &[], seconds(100)).await.unwrap_err();
    assert_eq!(gone, Refusal::TokenInvalid(TokenFault::Expired));
    assert_eq!(stage.count(), 5, "an expired subject is not shown to anybody");
    assert_eq!(usable_for(Duration::from_secs(20)), Duration::from_secs(10));
}

#[tokio::test]
async fn many_calls_ask_once_and_a_waiter_that_leaves_takes_nothing_along() {
    let stage = Stage::set(Play::Holds).await;
    let (exchange, upstream) = exchange(config::Grant::Exchange(stage.request()));
    let mint = |name: &'static str| {
        let (exchange, upstream) = (Arc::clone(&exchange), Arc::clone(&upstream));
        tasks::background(async move { exchange.mint(&caller(name, name), &upstream, &[], NOW).await })
    };
    let first = mint("alice");
    while stage.count() == 0 {
        tokio::task::yield_now().await;
    }
    let others: Vec<_> = (0..20).map(|_| mint("alice")).collect();
    tokio::task::yield_now().await;
    first.abort();
    // Another caller's flight is not behind this one.
    stage.plays(Play::Tokens(300));
    assert_eq!(bearer(&mint("bob").await.unwrap().unwrap()), "Bearer minted-1");
    stage.release.notify_waiters();
    let mut fresh = 0;
    for other in others {
        let grant = other.await.unwrap().unwrap();
        assert_eq!(bearer(&grant), "Bearer minted-0");
        fresh += usize::from(grant.fresh());
    }
    assert_eq!((stage.count(), fresh), (2, 1));
}

#[tokio::test]
async fn failures_are_remembered_briefly_and_for_their_own_caller_only() {
    let refused = r#"{"error":"invalid_target","error_description":"not for you"}"#.to_owned();
    let stage = Stage::set(Play::Says(400, refused)).await;
    let (exchange, upstream) = exchange(config::Grant::Exchange(stage.request()));
    let alice = caller("alice", "alice");
    for _ in 0..3 {
        let refusal = exchange.mint(&alice, &upstream, &[], NOW).await.unwrap_err();
        let Refusal::GrantRefused(why) = &refusal else { panic!("{refusal:?}") };
        assert!(why.ends_with("/token: invalid_target: not for you"), "{why}");
    }
    assert_eq!(stage.count(), 1);
    stage.plays(Play::Says(503, "down".to_owned()));
    for _ in 0..3 {
        let refusal = exchange.mint(&caller("bob", "bob"), &upstream, &[], NOW).await.unwrap_err();
        assert!(matches!(refusal, Refusal::GrantUnavailable(_)), "{refusal:?}");
    }
    assert_eq!(stage.count(), 2);
    stage.plays(Play::Tokens(300));
    exchange.mint(&caller("carol", "carol"), &upstream, &[], NOW).await.unwrap();
    exchange.mint(&caller("bob", "bob"), &upstream, &[], seconds(4)).await.unwrap();
    assert!(exchange.mint(&alice, &upstream, &[], seconds(4)).await.is_err());
    exchange.mint(&alice, &upstream, &[], seconds(10)).await.unwrap();
}

#[tokio::test]
async fn an_endpoint_that_answers_nonsense_or_nothing_is_unavailable() {
    let plays = [
        Play::HangsUp,
        Play::Says(200, "<html>".to_owned()),
        Play::Says(200, "x".repeat(70_000)),
        Play::Says(302, "{}".to_owned()),
        Play::Says(401, r#"{"error":"invalid_client"}"#.to_owned()),
        Play::Says(200, r#"{"access_token":"alice","token_type":"Bearer"}"#.to_owned()),
        Play::Says(200, r#"{"access_token":"x","token_type":"Bearer","scope":"crm.read admin"}"#.to_owned()),
    ];
    for play in plays {
        let stage = Stage::set(play.clone()).await;
        let (exchange, upstream) = exchange(config::Grant::Exchange(stage.request()));
        let refusal = exchange.mint(&caller("alice", "alice"), &upstream, &[], NOW).await.unwrap_err();
        assert!(matches!(refusal, Refusal::GrantUnavailable(_)), "{play:?}: {refusal:?}");
    }
    let nowhere = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut request = Stage::set(Play::Holds).await.request();
    request.token_endpoint.set_port(Some(nowhere.local_addr().unwrap().port())).unwrap();
    drop(nowhere);
    let (exchange, upstream) = exchange(config::Grant::Exchange(request));
    for (name, why) in [("alice", "unreachable: "), ("bob", "unreachable a moment ago")] {
        let refusal = exchange.mint(&caller(name, name), &upstream, &[], NOW).await.unwrap_err();
        assert!(matches!(&refusal, Refusal::GrantUnavailable(text) if text.contains(why)), "{refusal:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_hangs_costs_a_bounded_time() {
    let stage = Stage::set(Play::Holds).await;
    let (exchange, upstream) = exchange(config::Grant::Exchange(stage.request()));
    let began = tokio::time::Instant::now();
    let refusal = exchange.mint(&caller("alice", "alice"), &upstream, &[], NOW).await.unwrap_err();
    assert!(matches!(refusal, Refusal::GrantUnavailable(_)));
    assert!(began.elapsed() <= ENDPOINT_DEADLINE + Duration::from_secs(1), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_dropped_grant_is_minted_anew_and_a_newer_one_stays() {
    let stage = Stage::set(Play::Tokens(300)).await;
    let (exchange, upstream) = exchange(config::Grant::Exchange(stage.request()));
    let alice = caller("alice", "alice");
    let first = exchange.mint(&alice, &upstream, &[], NOW).await.unwrap();
    exchange.drop_grant(&first.key());
    let second = exchange.mint(&alice, &upstream, &[], NOW).await.unwrap();
    assert!(second.generation() > first.generation() && second.fresh());
    exchange.drop_grant(&first.key());
    assert_eq!(exchange.mint(&alice, &upstream, &[], NOW).await.unwrap().generation(), second.generation());
    let renewed = exchange.reconfigured(&BTreeMap::from([(upstream.id.clone(), Arc::clone(&upstream))])).unwrap();
    assert_eq!(renewed.mint(&alice, &upstream, &[], NOW).await.unwrap().generation(), second.generation());
    assert_eq!(stage.count(), 2);
}

#[tokio::test]
async fn the_catalogue_is_read_in_the_gateways_own_name() {
    let stage = Stage::set(Play::Tokens(300)).await;
    let (derived, upstream) = exchange(config::Grant::Exchange(stage.request()));
    let grant = derived.service(&upstream, NOW).await.unwrap();
    assert_eq!(grant.strategy(), "client_credentials");
    let asked = stage.last();
    assert_eq!((asked.field("grant_type"), asked.field("audience")), (Some("client_credentials"), Some("crm-api")));
    assert_eq!((asked.field("scope"), asked.field("subject_token")), (Some("crm.read"), None));
    let fixed = config::Grant::StaticSecret { header: "x-api-key".to_owned(), value: Secret::new("k-1".to_owned()) };
    let named = Arc::new(tests::upstream(config::Grant::Exchange(stage.request()), Some(fixed)));
    let named_too = Exchange::new(&BTreeMap::from([(named.id.clone(), Arc::clone(&named))])).unwrap();
    assert_eq!(named_too.service(&named, NOW).await.unwrap().strategy(), "static_secret");
    assert_eq!(named_too.mint(&caller("alice", "alice"), &named, &[], NOW).await.unwrap().strategy(), "exchange");
}

#[tokio::test]
async fn a_secret_or_nothing_is_given_without_asking_anybody() {
    let secret = config::Grant::StaticSecret { header: "x-api-key".to_owned(), value: Secret::new("k-1".to_owned()) };
    let (keyed, upstream) = exchange(secret);
    let grant = keyed.mint(&caller("alice", "alice"), &upstream, &[], NOW).await.unwrap();
    let (name, value) = grant.header().unwrap();
    assert_eq!((name.as_str(), value.to_str().unwrap(), value.is_sensitive()), ("x-api-key", "k-1", true));
    assert_eq!((grant.fresh(), grant.expires_at()), (false, None));
    let (bare, upstream) = exchange(config::Grant::Nothing);
    let grant = bare.mint(&caller("alice", "alice"), &upstream, &[], NOW).await.unwrap();
    assert!(grant.header().is_none() && grant.token_digest().is_none());
    assert_eq!(grant.strategy(), "none");
    let broken = config::Grant::StaticSecret { header: "x".to_owned(), value: Secret::new("a\r\nb: c".to_owned()) };
    let upstream = Arc::new(tests::upstream(broken, None));
    let error = Exchange::new(&BTreeMap::from([(upstream.id.clone(), upstream)])).unwrap_err();
    assert_eq!(error.to_string(), "grant of upstream `crm`: the secret fits no header");
}
