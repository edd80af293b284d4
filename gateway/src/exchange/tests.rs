//! Against a token endpoint on loopback: what it is sent, and what comes of everything that it may answer.

use std::{
    net::SocketAddr,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
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

use super::{
    accounts::Account,
    answer::Token,
    connect::{Connected, Gain},
    *,
};
use crate::{
    config::{
        ClientAuthentication, OAuthClient, Remote, TokenEndpoint, TokenRequest, Transport,
        dialects::{ACCESS_TOKEN, DIALECTS, Dialect},
    },
    identity::{Agent, Authentication, Binding, Credential, User, revocation::Revocations},
    refusal::TokenFault,
    state::{Place, Value},
    tasks,
};

const NOW: Timestamp = Timestamp::from_unix_seconds(1_800_000_000);

/// A witness that lets everything pass.
const UNSEEN: Summons<'static> = &|| Ok(Witness::new(|_| Ok(())));

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
    /// A fresh token when it is released, or what it says by then.
    Holds,
    HangsUp,
}

struct Stage {
    address: SocketAddr,
    asked: Mutex<Vec<Asked>>,
    play: Mutex<Play>,
    count: AtomicUsize,
    release: Notify,
    /// Where its metadata say that tokens are to be had, if not here.
    elsewhere: Mutex<Option<SocketAddr>>,
    /// What an upstream at the same address says of itself, where it says anything (RFC 9728), before its path and at the root.
    resource: Mutex<[Option<(u16, String)>; 2]>,
    /// Whether they say that identity assertions are redeemed.
    redeems: AtomicBool,
    /// How many have asked what does not answer.
    hanging: AtomicUsize,
}

/// The status of what does not answer.
const HANGS: u16 = 0;

impl Stage {
    async fn set(play: Play) -> Arc<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stage = Arc::new(Self {
            address: listener.local_addr().unwrap(),
            asked: Mutex::default(),
            play: Mutex::new(play),
            count: AtomicUsize::new(0),
            release: Notify::new(),
            elsewhere: Mutex::default(),
            resource: Mutex::default(),
            redeems: AtomicBool::new(true),
            hanging: AtomicUsize::new(0),
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
        if parts.uri.path().starts_with("/.well-known/oauth-protected-resource") {
            let [own, root] = self.resource.lock().clone();
            let said = if parts.uri.path().ends_with("-resource") { root } else { own };
            let (status, text) = said.unwrap_or((404, String::new()));
            if status == HANGS {
                self.hanging.fetch_add(1, Ordering::SeqCst);
                self.release.notified().await;
                return Err("hung up");
            }
            return Ok(Response::builder().status(status).body(Full::new(text.into())).unwrap());
        }
        if parts.method == http::Method::GET {
            let at = format!("http://{}", self.address);
            let tokens = format!("http://{}", self.elsewhere.lock().unwrap_or(self.address));
            let redeems = self.redeems.load(Ordering::SeqCst);
            let profile = if redeems { "urn:ietf:params:oauth:grant-profile:id-jag" } else { "other" };
            let metadata = format!(
                r#"{{"issuer":"{at}","token_endpoint":"{tokens}/token","revocation_endpoint":"{tokens}/revoke","authorization_grant_profiles_supported":["{profile}"]}}"#
            );
            return Ok(Response::new(Full::new(metadata.into())));
        }
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
                match self.play.lock().clone() {
                    Play::Says(status, text) => (status, text),
                    Play::Tokens(_) | Play::Holds | Play::HangsUp => (200, token_answer(count, 300)),
                }
            }
            Play::HangsUp => return Err("hung up"),
        };
        let response = Response::builder().status(StatusCode::from_u16(status).unwrap());
        Ok(response.header("content-type", "application/json").body(Full::new(text.into())).unwrap())
    }

    fn count(&self) -> usize {
        self.count.load(Ordering::SeqCst)
    }

    /// How many of its answers were taken, and how many not, by the metric.
    fn counted(&self) -> [u64; 2] {
        let at = self.request().at.to_string();
        ["ok", "failed"].map(|outcome| metrics().mints.with([&at, outcome]).value())
    }

    fn last(&self) -> Asked {
        self.asked.lock().last().unwrap().clone()
    }

    fn plays(&self, play: Play) {
        *self.play.lock() = play;
    }

    fn request(&self) -> TokenRequest {
        TokenRequest {
            at: TokenEndpoint::Url(format!("http://{}/token", self.address).parse().unwrap()),
            dialect: &DIALECTS[0],
            subject_token_type: ACCESS_TOKEN.to_owned(),
            dpop: false,
            client: OAuthClient {
                id: "gate way:1".to_owned(),
                authentication: ClientAuthentication::SecretBasic(Secret::new("s&cret:+ü".to_owned())),
            },
            audience: Some("crm-api".to_owned()),
            resource: Some("https://crm.internal/mcp".to_owned()),
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
    let exchange =
        Exchange::new(&BTreeMap::from([(upstream.id.clone(), Arc::clone(&upstream))]), Revocations::default()).unwrap();
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
            token_digest: digest::short(token),
            login_id: None,
            acr: None,
            issued_at: Timestamp::from_unix_ms(0),
            auth_time: None,
            binding: Binding::Nothing,
            may_act: None,
            expires_at: NOW.plus(Duration::from_secs(3600)),
        },
        principal: digest::sha256(name.as_bytes()),
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
    let grant = exchange.mint((&caller("alice", "alices.own.token"), UNSEEN), &upstream, &scopes, NOW).await.unwrap();
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
        (grant.strategy(), grant.facts().audience.as_deref(), grant.facts().resource.as_deref()),
        ("exchange", Some("crm-api"), Some("https://crm.internal/mcp"))
    );
    assert_eq!(grant.scopes(), ["crm.read", "crm.write"]);
    assert_eq!(grant.token_digest().unwrap(), digest::short("minted-0"));
    assert_eq!(grant.expires_at(), Some(seconds(300)));
    assert!(!format!("{grant:?}").contains("minted-0"), "{grant:?}");
}

#[tokio::test]
async fn the_gateway_names_itself_as_the_actor() {
    let stage = Stage::set(Play::Tokens(300)).await;
    let (exchange, upstream) = exchange(config::Grant::Exchange(TokenRequest { actor: true, ..stage.request() }));
    let grant = exchange.mint((&caller("alice", "alice-token"), UNSEEN), &upstream, &[], NOW).await.unwrap();
    let first = stage.asked.lock()[0].clone();
    assert_eq!(first.form, [("grant_type".to_owned(), "client_credentials".to_owned())]);
    assert_eq!(stage.last().field("actor_token"), Some("minted-0"));
    assert_eq!(stage.last().field("actor_token_type"), Some("urn:ietf:params:oauth:token-type:access_token"));
    assert_eq!(bearer(&grant), "Bearer minted-1");
    exchange.mint((&caller("bob", "bob-token"), UNSEEN), &upstream, &[], NOW).await.unwrap();
    assert_eq!(stage.count(), 3, "the actor token is the same for all callers");
}

#[tokio::test]
async fn the_client_proves_itself_by_post_or_by_key() {
    let stage = Stage::set(Play::Tokens(300)).await;
    let mut request = stage.request();
    request.client.authentication = ClientAuthentication::SecretPost(Secret::new("s&cret".to_owned()));
    let (by_post, upstream) = exchange(config::Grant::ClientCredentials(request.clone()));
    by_post.mint((&caller("alice", "a"), UNSEEN), &upstream, &[], NOW).await.unwrap();
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
    by_key.mint((&caller("alice", "a"), UNSEEN), &upstream, &[], NOW).await.unwrap();
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
    assert!(Endpoint::new(&request, &shared(Arc::default(), &config::Egress::default()).unwrap()).is_err());
    let ClientAuthentication::PrivateKeyJwt { key: broken, algorithm, .. } = &mut request.client.authentication else {
        panic!()
    };
    (*algorithm, *broken) = ("ES256".to_owned(), Secret::new("not a key".to_owned()));
    let error = Endpoint::new(&request, &shared(Arc::default(), &config::Egress::default()).unwrap()).unwrap_err();
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
        let first = exchange.mint((who, UNSEEN), &upstream, scopes, NOW).await.unwrap();
        let again = exchange.mint((who, UNSEEN), &upstream, scopes, seconds(269)).await.unwrap();
        assert_eq!(bearer(&first), bearer(&again));
        assert_eq!((first.generation(), first.fresh(), again.fresh()), (again.generation(), true, false));
        assert!(seen.insert(bearer(&first).to_owned()), "{} served two", bearer(&first));
    }
    assert_eq!(stage.count(), 5);
    exchange.mint((&alice, UNSEEN), &upstream, &[], seconds(270)).await.unwrap();
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
        let grant = exchange.mint((&who, UNSEEN), &upstream, &[], NOW).await.unwrap();
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
        let minted = exchange.mint((&who, UNSEEN), &upstream, &[], NOW).await;
        assert_eq!(matches!(minted, Err(Refusal::GrantRefused(_))), refused, "{acts} {named:?}");
        assert_eq!(stage.count() == before, refused, "nobody is asked in vain: {named:?}");
    }
    assert_eq!(stage.counted(), [u64::try_from(stage.count()).unwrap(), 0], "those for the actor, too");
}

#[tokio::test]
async fn who_came_without_a_token_has_none_to_exchange() {
    let stage = Stage::set(Play::Tokens(300)).await;
    let (exchange, upstream) = exchange(config::Grant::Exchange(stage.request()));
    let mut machine = caller("machine", "");
    machine.authentication.method = CERTIFICATE;
    assert_eq!(exchange.mint((&machine, UNSEEN), &upstream, &[], NOW).await.unwrap_err(), Refusal::GrantNeedsToken);
    assert_eq!(stage.count(), 0);
}

#[tokio::test]
async fn a_credential_outlives_neither_itself_nor_its_subject_nor_the_bound() {
    let stage = Stage::set(Play::Tokens(100_000)).await;
    let (exchange, upstream) = exchange(config::Grant::Exchange(stage.request()));
    let mut short = caller("alice", "short");
    short.authentication.expires_at = seconds(100);
    let grant = exchange.mint((&short, UNSEEN), &upstream, &[], NOW).await.unwrap();
    assert_eq!(grant.expires_at(), Some(seconds(100)));
    let table =
        [("alice", 69, 1), ("alice", 70, 2), ("bob", 299, 3), ("bob", 299, 3), ("carol", 0, 4), ("carol", 300, 5)];
    for (name, at, count) in table {
        let mut who = caller(name, name);
        if name == "alice" {
            who = caller("alice", "short");
            who.authentication.expires_at = seconds(100);
        }
        exchange.mint((&who, UNSEEN), &upstream, &[], seconds(at)).await.unwrap();
        assert_eq!(stage.count(), count, "{name} at {at}");
    }
    let gone = exchange.mint((&short, UNSEEN), &upstream, &[], seconds(100)).await.unwrap_err();
    assert_eq!(gone, Refusal::TokenInvalid(TokenFault::Expired));
    assert_eq!(stage.count(), 5, "an expired subject is not shown to anybody");
    assert_eq!(usable_for(Duration::from_secs(20)), Duration::from_secs(10));
}

#[tokio::test]
async fn many_calls_ask_once_and_a_waiter_that_leaves_takes_nothing_along() {
    let stage = Stage::set(Play::Holds).await;
    let (exchange, upstream) = exchange(config::Grant::Exchange(stage.request()));
    let seen = Arc::new(Mutex::new(Vec::new()));
    let mint = |name: &'static str| {
        let (exchange, upstream, seen) = (Arc::clone(&exchange), Arc::clone(&upstream), Arc::clone(&seen));
        let summons = move || {
            let seen = Arc::clone(&seen);
            Ok(Witness::new(move |facts| {
                seen.lock().push((name, facts.token_digest.clone().unwrap()));
                Ok(())
            }))
        };
        tasks::background(async move { exchange.mint((&caller(name, name), &summons), &upstream, &[], NOW).await })
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
    assert_eq!((stage.count(), fresh), (2, 0), "who had it minted has left");
    assert_eq!(stage.counted(), [2, 0], "the requests are counted, not who waits for them");
    let expected = [("bob", digest::short("minted-1")), ("alice", digest::short("minted-0"))];
    assert_eq!(*seen.lock(), expected);
}

/// What witnesses saw: strategy and digest.
type Seen = Arc<Mutex<Vec<(&'static str, Option<String>)>>>;

/// A witness that notes what it sees, and takes it or does not.
fn noting(seen: &Seen, takes: bool) -> Witness {
    let seen = Arc::clone(seen);
    Witness::new(move |facts| {
        seen.lock().push((facts.strategy, facts.token_digest.clone()));
        takes.then_some(()).ok_or_else(|| Refusal::AuditUnavailable("full".to_owned()))
    })
}

#[tokio::test]
async fn nothing_is_minted_unseen() {
    let stage = Stage::set(Play::Tokens(300)).await;
    let request = TokenRequest { actor: true, ..stage.request() };
    let own = config::Grant::ClientCredentials(stage.request());
    let (by_exchange, upstream) = exchange(config::Grant::Exchange(request));
    let (in_own_name, itself) = exchange(own);
    let alice = caller("alice", "alice");
    let nobody = || Err(Refusal::AuditUnavailable("no disk".to_owned()));
    for (exchange, upstream) in [(&by_exchange, &upstream), (&in_own_name, &itself)] {
        let refusal = exchange.mint((&alice, &nobody), upstream, &[], NOW).await.unwrap_err();
        assert_eq!(refusal.code(), "audit_unavailable");
        assert_eq!(exchange.service(upstream, &nobody, NOW).await.unwrap_err().code(), "audit_unavailable");
    }
    assert_eq!(stage.count(), 0, "who can write nothing down asks for nothing");

    let seen = Seen::default();
    let summons = |takes: bool| {
        let seen = Arc::clone(&seen);
        move || Ok(noting(&seen, takes))
    };
    let refusal = in_own_name.mint((&alice, &summons(false)), &itself, &[], NOW).await.unwrap_err();
    assert_eq!(refusal.code(), "audit_unavailable", "what is not on record is nobody's");
    for at in [2, 3] {
        in_own_name.service(&itself, &summons(true), seconds(at)).await.unwrap();
        in_own_name.mint((&alice, &summons(true)), &itself, &[], seconds(at)).await.unwrap();
        by_exchange.service(&upstream, &summons(true), seconds(at)).await.unwrap();
        by_exchange.mint((&alice, &summons(true)), &upstream, &[], seconds(at)).await.unwrap();
    }
    let digest = |number| Some(digest::short(&format!("minted-{number}")));
    let expected = [
        ("client_credentials", digest(0)),
        ("client_credentials", digest(1)),
        ("client_credentials", digest(2)),
        ("actor", digest(3)),
        ("exchange", digest(4)),
    ];
    assert_eq!(*seen.lock(), expected);
    assert_eq!(stage.count(), 5);
}

#[tokio::test]
async fn failures_are_remembered_briefly_and_for_their_own_caller_only() {
    let refused = r#"{"error":"invalid_target","error_description":"not for you"}"#.to_owned();
    let stage = Stage::set(Play::Says(400, refused)).await;
    let (exchange, upstream) = exchange(config::Grant::Exchange(stage.request()));
    let alice = caller("alice", "alice");
    for _ in 0..3 {
        let refusal = exchange.mint((&alice, UNSEEN), &upstream, &[], NOW).await.unwrap_err();
        let Refusal::GrantRefused(why) = &refusal else { panic!("{refusal:?}") };
        assert!(why.ends_with("/token: invalid_target: not for you"), "{why}");
    }
    assert_eq!(stage.count(), 1);
    stage.plays(Play::Says(503, "down".to_owned()));
    for _ in 0..3 {
        let refusal = exchange.mint((&caller("bob", "bob"), UNSEEN), &upstream, &[], NOW).await.unwrap_err();
        assert!(matches!(refusal, Refusal::GrantUnavailable(_)), "{refusal:?}");
    }
    assert_eq!(stage.count(), 2);
    assert_eq!(stage.counted(), [0, 2], "what is remembered is no request");
    stage.plays(Play::Tokens(300));
    exchange.mint((&caller("carol", "carol"), UNSEEN), &upstream, &[], NOW).await.unwrap();
    exchange.mint((&caller("bob", "bob"), UNSEEN), &upstream, &[], seconds(4)).await.unwrap();
    assert!(exchange.mint((&alice, UNSEEN), &upstream, &[], seconds(4)).await.is_err());
    exchange.mint((&alice, UNSEEN), &upstream, &[], seconds(10)).await.unwrap();
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
        let refusal = exchange.mint((&caller("alice", "alice"), UNSEEN), &upstream, &[], NOW).await.unwrap_err();
        assert!(matches!(refusal, Refusal::GrantUnavailable(_)), "{play:?}: {refusal:?}");
    }
    let nowhere = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut request = Stage::set(Play::Holds).await.request();
    request.at = TokenEndpoint::Url(format!("http://{}/token", nowhere.local_addr().unwrap()).parse().unwrap());
    drop(nowhere);
    let (exchange, upstream) = exchange(config::Grant::Exchange(request));
    for (name, why) in [("alice", "unreachable: "), ("bob", "unreachable a moment ago")] {
        let refusal = exchange.mint((&caller(name, name), UNSEEN), &upstream, &[], NOW).await.unwrap_err();
        assert!(matches!(&refusal, Refusal::GrantUnavailable(text) if text.contains(why)), "{refusal:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_hangs_costs_a_bounded_time() {
    let stage = Stage::set(Play::Holds).await;
    let (exchange, upstream) = exchange(config::Grant::Exchange(stage.request()));
    let began = tokio::time::Instant::now();
    let refusal = exchange.mint((&caller("alice", "alice"), UNSEEN), &upstream, &[], NOW).await.unwrap_err();
    assert!(matches!(refusal, Refusal::GrantUnavailable(_)));
    assert!(began.elapsed() <= ENDPOINT_DEADLINE + Duration::from_secs(1), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_dropped_grant_is_minted_anew_and_a_newer_one_stays() {
    let stage = Stage::set(Play::Tokens(300)).await;
    let (exchange, upstream) = exchange(config::Grant::Exchange(stage.request()));
    let alice = caller("alice", "alice");
    let first = exchange.mint((&alice, UNSEEN), &upstream, &[], NOW).await.unwrap();
    exchange.drop_grant(&first.key());
    let second = exchange.mint((&alice, UNSEEN), &upstream, &[], NOW).await.unwrap();
    assert!(second.generation() > first.generation() && second.fresh());
    exchange.drop_grant(&first.key());
    assert_eq!(exchange.mint((&alice, UNSEEN), &upstream, &[], NOW).await.unwrap().generation(), second.generation());
    let renewed = exchange
        .reconfigured(&BTreeMap::from([(upstream.id.clone(), Arc::clone(&upstream))]), &[], &config::Egress::default())
        .unwrap();
    assert_eq!(renewed.mint((&alice, UNSEEN), &upstream, &[], NOW).await.unwrap().generation(), second.generation());
    assert_eq!(stage.count(), 2);
}

#[tokio::test]
async fn the_catalogue_is_read_in_the_gateways_own_name() {
    let stage = Stage::set(Play::Tokens(300)).await;
    let (derived, upstream) = exchange(config::Grant::Exchange(stage.request()));
    let grant = derived.service(&upstream, UNSEEN, NOW).await.unwrap();
    assert_eq!(grant.strategy(), "client_credentials");
    let asked = stage.last();
    assert_eq!((asked.field("grant_type"), asked.field("audience")), (Some("client_credentials"), Some("crm-api")));
    assert_eq!((asked.field("scope"), asked.field("subject_token")), (Some("crm.read"), None));
    let fixed = config::Grant::StaticSecret { header: "x-api-key".to_owned(), value: Secret::new("k-1".to_owned()) };
    let named = Arc::new(tests::upstream(config::Grant::Exchange(stage.request()), Some(fixed)));
    let named_too =
        Exchange::new(&BTreeMap::from([(named.id.clone(), Arc::clone(&named))]), Revocations::default()).unwrap();
    assert_eq!(named_too.service(&named, UNSEEN, NOW).await.unwrap().strategy(), "static_secret");
    assert_eq!(
        named_too.mint((&caller("alice", "alice"), UNSEEN), &named, &[], NOW).await.unwrap().strategy(),
        "exchange"
    );
}

#[tokio::test]
async fn a_secret_or_nothing_is_given_without_asking_anybody() {
    let secret = config::Grant::StaticSecret { header: "x-api-key".to_owned(), value: Secret::new("k-1".to_owned()) };
    let (keyed, upstream) = exchange(secret);
    let grant = keyed.mint((&caller("alice", "alice"), UNSEEN), &upstream, &[], NOW).await.unwrap();
    let (name, value) = grant.header().unwrap();
    assert_eq!((name.as_str(), value.to_str().unwrap(), value.is_sensitive()), ("x-api-key", "k-1", true));
    assert_eq!((grant.fresh(), grant.expires_at()), (false, None));
    let (bare, upstream) = exchange(config::Grant::Nothing);
    let grant = bare.mint((&caller("alice", "alice"), UNSEEN), &upstream, &[], NOW).await.unwrap();
    assert!(grant.header().is_none() && grant.token_digest().is_none());
    assert_eq!(grant.strategy(), "none");
    let broken = config::Grant::StaticSecret { header: "x".to_owned(), value: Secret::new("a\r\nb: c".to_owned()) };
    let upstream = Arc::new(tests::upstream(broken, None));
    let error = Exchange::new(&BTreeMap::from([(upstream.id.clone(), upstream)]), Revocations::default()).unwrap_err();
    assert_eq!(error.to_string(), "grant of upstream `crm`: the secret fits no header");
}

#[tokio::test]
async fn each_provider_is_asked_in_its_own_words() {
    let stage = Stage::set(Play::Tokens(300)).await;
    let names = |dialect: &'static Dialect| {
        let mut request = TokenRequest { dialect, ..stage.request() };
        request.audience.take_if(|_| !dialect.keys.contains(&"audience"));
        request.resource.take_if(|_| !dialect.keys.contains(&"resource"));
        let (exchange, upstream) = exchange(config::Grant::Exchange(request));
        let stage = &stage;
        async move {
            exchange.mint((&caller("alice", "alices.own.token"), UNSEEN), &upstream, &[], NOW).await.unwrap();
            stage.last().form.into_iter().map(|(name, _)| name).collect::<Vec<_>>().join(" ")
        }
    };
    let exchange = "grant_type subject_token subject_token_type";
    for (name, expected) in [
        ("rfc8693", format!("{exchange} requested_token_type resource audience scope")),
        ("entra_obo", "grant_type assertion requested_token_use scope".to_owned()),
        ("keycloak", format!("{exchange} requested_token_type audience scope")),
        ("okta", format!("{exchange} audience scope")),
        ("auth0", format!("{exchange} requested_token_type audience scope")),
        ("zitadel", format!("{exchange} requested_token_type audience scope")),
    ] {
        assert_eq!(names(Dialect::named(name).unwrap()).await, expected, "{name}");
    }
    names(Dialect::named("entra_obo").unwrap()).await;
    let asked = stage.last();
    assert_eq!(asked.field("grant_type"), Some("urn:ietf:params:oauth:grant-type:jwt-bearer"));
    assert_eq!(
        (asked.field("assertion"), asked.field("requested_token_use")),
        (Some("alices.own.token"), Some("on_behalf_of"))
    );
    assert_eq!(DIALECTS.len(), 6, "a dialect that is not in the table above");
}

#[tokio::test]
async fn what_a_provider_adds_to_the_scopes_is_refused_unless_it_always_does() {
    let wide = r#"{"access_token":"x","token_type":"Bearer","expires_in":60,"scope":"crm.read profile"}"#;
    let stage = Stage::set(Play::Says(200, wide.to_owned())).await;
    for (name, fine) in [("rfc8693", false), ("okta", false), ("keycloak", true), ("entra_obo", true)] {
        let dialect = Dialect::named(name).unwrap();
        let (exchange, upstream) = exchange(config::Grant::Exchange(TokenRequest { dialect, ..stage.request() }));
        let minted = exchange.mint((&caller("alice", "a"), UNSEEN), &upstream, &[], NOW).await;
        assert_eq!(minted.is_ok(), fine, "{name}");
        if let Ok(grant) = minted {
            assert_eq!(grant.scopes(), ["crm.read", "profile"], "what was given is recorded");
        }
    }
}

const HERE: &str = "https://crm.internal/mcp";

/// An upstream at `/mcp` of `server`, for whose tokens `provider` gives assertions.
fn redeeming(provider: &Stage, server: &Stage) -> (Exchange, Arc<Upstream>) {
    let issuer = format!("http://{}", server.address);
    let claims = format!(r#"{{"aud":"{issuer}","client_id":"gate way:1","resource":"{HERE}"}}"#);
    provider.plays(Play::Says(200, assertion(&claims)));
    let redemption =
        TokenRequest { at: TokenEndpoint::Of(issuer.clone()), audience: None, resource: None, ..server.request() };
    let grant = config::Grant::IdJag(Box::new(config::IdJag {
        assertion: TokenRequest { audience: Some(issuer.clone()), ..provider.request() },
        redemption,
        subject: AssertionSubject::AccessToken,
        provider: "https://login.example".to_owned(),
    }));
    let remote = Remote::at(format!("{issuer}/mcp").parse().unwrap());
    let upstream = Arc::new(Upstream { transport: Transport::Http(remote), ..upstream(grant, None) });
    let upstreams = BTreeMap::from([(upstream.id.clone(), Arc::clone(&upstream))]);
    (Exchange::new(&upstreams, Revocations::default()).unwrap(), upstream)
}

fn long_lived() -> Identity {
    let mut alice = caller("alice", "a");
    alice.authentication.expires_at = seconds(36_000);
    alice
}

/// Only who asks waits for an upstream that does not say whose tokens it takes; all others go by what is known.
#[tokio::test]
async fn an_upstream_that_hangs_holds_up_one_call_and_no_more() {
    let (provider, server) = (Stage::set(Play::Tokens(1)).await, Stage::set(Play::Tokens(60)).await);
    let (exchange, upstream) = redeeming(&provider, &server);
    let exchange = Arc::new(exchange);
    let mint = |name: &'static str, at: u64| {
        let (exchange, upstream) = (Arc::clone(&exchange), Arc::clone(&upstream));
        let who = Identity { principal: digest::sha256(name.as_bytes()), ..long_lived() };
        tasks::background(async move { exchange.mint((&who, UNSEEN), &upstream, &[], seconds(at)).await })
    };
    // What says nothing yet is asked again within a minute.
    *server.resource.lock() = [Some((503, String::new())), None];
    mint("alice", 0).await.unwrap().unwrap();
    *server.resource.lock() = [Some((HANGS, String::new())), None];
    let first = mint("alice", 70);
    while server.hanging.load(Ordering::SeqCst) == 0 {
        tokio::task::yield_now().await;
    }
    mint("bob", 70).await.unwrap().unwrap();
    assert!(!first.is_finished());
    server.release.notify_waiters();
    first.await.unwrap().unwrap();
}

/// What cannot be read says nothing, and what it may say is soon looked for again.
#[tokio::test]
async fn an_upstream_that_says_nothing_legible_is_what_it_last_said_it_was() {
    let (provider, server) = (Stage::set(Play::Tokens(1)).await, Stage::set(Play::Tokens(60)).await);
    let (exchange, upstream) = redeeming(&provider, &server);
    let issuer = format!("http://{}", server.address);
    let says = |resource: &str, named: &str| {
        Some((200, format!(r#"{{"resource":"{resource}","authorization_servers":["{named}"]}}"#)))
    };
    let (good, bad) = (says(HERE, &issuer), says(HERE, "https://other.example"));
    let (broken, garbled, absent) = (Some((503, String::new())), Some((200, "<h1>".to_owned())), None);
    let of_another = says("https://crm.internal", "https://other.example");
    for (at, place, root, is_asked_for) in [
        (0, &broken, &absent, true), // the configuration says that it fits
        (70, &bad, &absent, false),
        (80, &broken, &absent, false),
        (90, &garbled, &good, false), // it may say still at its own place what it said there
        (170, &absent, &garbled, false),
        (180, &absent, &of_another, true),
        (3_800, &absent, &bad, false),
        (3_810, &good, &bad, true),
        (7_500, &broken, &broken, true),
        (7_570, &of_another, &good, false),
        (7_580, &absent, &absent, true),
    ] {
        *server.resource.lock() = [place.clone(), root.clone()];
        let asked = provider.count();
        let minted = exchange.mint((&long_lived(), UNSEEN), &upstream, &[], seconds(at)).await;
        assert_eq!(minted.is_ok(), is_asked_for, "{at}: {:?}", minted.err());
        assert_eq!(provider.count() > asked, is_asked_for, "{at}");
    }
}

/// RC-20, RC-24: also where it did not say so at first.
#[tokio::test]
async fn an_upstream_that_names_another_server_is_asked_for_in_nobodys_name() {
    let (provider, server) = (Stage::set(Play::Tokens(1)).await, Stage::set(Play::Tokens(60)).await);
    let (issuer, here) = (format!("http://{}", server.address), HERE);
    let (exchange, upstream) = redeeming(&provider, &server);
    let alice = async |at: u64| exchange.mint((&long_lived(), UNSEEN), &upstream, &[], seconds(at)).await;
    let says = |resource: &str, named: &str| {
        let said = format!(r#"{{"resource":"{resource}","authorization_servers":["{named}"]}}"#);
        *server.resource.lock() = [Some((200, said)), None];
    };
    for (at, resource, named, why) in [
        (0, here, issuer.as_str(), None),
        (4_000, here, "https://other.example", Some("does not name the authorization server")),
        (4_010, "https://other.example/mcp", issuer.as_str(), Some("of another resource")),
        (4_020, here, issuer.as_str(), None),
    ] {
        says(resource, named);
        let asked = (provider.count(), server.count());
        let minted = alice(at).await;
        match (minted, why) {
            (Ok(grant), None) => assert_eq!(grant.strategy(), "id_jag"),
            (Err(Refusal::GrantUnavailable(text)), Some(why)) => {
                assert!(text.contains(why) && !text.contains("other.example"), "{text}");
                assert_eq!((provider.count(), server.count()), asked, "nothing is asked for");
            }
            (minted, _) => panic!("{at}: {minted:?}"),
        }
    }
}

/// No client is named, and what the platform wrote is the grant.
#[tokio::test]
async fn a_workload_has_its_platforms_word_for_a_grant() {
    let stage = Stage::set(Play::Tokens(300)).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    std::fs::write(&file, "aaa.bbb.ccc\n").unwrap();
    let authentication = ClientAuthentication::Workload(file);
    let client = OAuthClient { id: "the file".to_owned(), authentication };
    let (exchange, upstream) =
        exchange(config::Grant::ClientCredentials(TokenRequest { client, audience: None, ..stage.request() }));
    let grant = exchange.mint((&caller("alice", "a"), UNSEEN), &upstream, &[], NOW).await.unwrap();
    assert_eq!((grant.strategy(), bearer(&grant)), ("workload_grant", "Bearer minted-0"));
    let asked = stage.last();
    let expected = [
        ("grant_type", "urn:ietf:params:oauth:grant-type:jwt-bearer"),
        ("assertion", "aaa.bbb.ccc"),
        ("resource", "https://crm.internal/mcp"),
        ("scope", "crm.read"),
    ];
    assert_eq!(asked.form, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
    assert!(!asked.headers.contains_key("authorization"));
}

#[tokio::test]
async fn the_platforms_assertion_is_read_anew_each_time() {
    let stage = Stage::set(Play::Tokens(1)).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    std::fs::write(&file, "aaa.bbb.ccc\n").unwrap();
    let mut request = stage.request();
    request.client.authentication = ClientAuthentication::AssertionFile(file.clone());
    let (exchange, upstream) = exchange(config::Grant::ClientCredentials(request));
    let alice = caller("alice", "a");
    exchange.mint((&alice, UNSEEN), &upstream, &[], NOW).await.unwrap();
    let asked = stage.last();
    assert_eq!((asked.field("client_assertion"), asked.field("client_id")), (Some("aaa.bbb.ccc"), Some("gate way:1")));
    assert_eq!(asked.field("client_assertion_type"), Some("urn:ietf:params:oauth:client-assertion-type:jwt-bearer"));
    std::fs::write(&file, "ddd.eee.fff").unwrap();
    exchange.mint((&alice, UNSEEN), &upstream, &[], seconds(60)).await.unwrap();
    assert_eq!(stage.last().field("client_assertion"), Some("ddd.eee.fff"));
    for (text, at) in [("", 120), ("not a token", 180), ("one.two", 240)] {
        std::fs::write(&file, text).unwrap();
        let refusal = exchange.mint((&alice, UNSEEN), &upstream, &[], seconds(at)).await.unwrap_err();
        assert!(matches!(&refusal, Refusal::GrantUnavailable(why) if why.contains("not a JWT")), "{refusal:?}");
    }
    std::fs::remove_file(&file).unwrap();
    assert!(exchange.mint((&alice, UNSEEN), &upstream, &[], seconds(300)).await.is_err());
    assert_eq!(stage.count(), 2, "nothing is sent without the proof");
}

/// An assertion as a provider would make it, unsigned.
fn assertion(claims: &str) -> String {
    let part = |text: &str| URL_SAFE_NO_PAD.encode(text);
    let token = format!("{}.{}.c2ln", part(r#"{"typ":"oauth-id-jag+jwt"}"#), part(claims));
    let kind = config::dialects::ID_JAG;
    format!(
        r#"{{"access_token":"{token}","token_type":"N_A","issued_token_type":"{kind}","expires_in":300,"scope":"crm.read"}}"#
    )
}

#[tokio::test]
async fn an_assertion_is_redeemed_where_it_is_meant_for_and_nowhere_else() {
    let (provider, server) = (Stage::set(Play::Holds).await, Stage::set(Play::Tokens(300)).await);
    let issuer = format!("http://{}", server.address);
    let request = TokenRequest { audience: Some(issuer.clone()), ..provider.request() };
    let at = TokenEndpoint::Of(issuer.clone());
    let redemption = TokenRequest { at, audience: None, resource: None, ..server.request() };
    let subject = AssertionSubject::AccessToken;
    let (exchange, upstream) = exchange(config::Grant::IdJag(Box::new(config::IdJag {
        assertion: request,
        redemption,
        subject,
        provider: "https://login.example".to_owned(),
    })));
    let claims = |aud: &str, client: &str, resource: &str| {
        assertion(&format!(r#"{{"aud":{aud},"client_id":"{client}","resource":"{resource}"}}"#))
    };
    let (good, here) = (format!("\"{issuer}\""), "https://crm.internal/mcp");
    for (number, (answer, why)) in [
        (claims("\"https://other.example\"", "gate way:1", here), "another server"),
        (claims(&format!("[{good},\"https://other.example\"]"), "gate way:1", here), "another server"),
        (claims(&good, "other", here), "another client"),
        (claims(&good, "gate way:1", "https://other.internal/mcp"), "another resource"),
        (assertion("[]"), "not a JWT"),
        (r#"{"access_token":"a.b.c","token_type":"Bearer","expires_in":300}"#.to_owned(), "`token_type`"),
    ]
    .into_iter()
    .enumerate()
    {
        provider.plays(Play::Says(200, answer));
        let name = format!("alice-{number}");
        let refusal = exchange.mint((&caller(&name, &name), UNSEEN), &upstream, &[], NOW).await.unwrap_err();
        assert!(matches!(&refusal, Refusal::GrantUnavailable(text) if text.contains(why)), "{why}: {refusal:?}");
    }
    assert_eq!(server.count(), 0, "nothing was shown to the server");

    provider.plays(Play::Says(200, claims(&good, "gate way:1", here)));
    let before = provider.count();
    let write = ["crm.write".to_owned()];
    let alice = caller("alice", "alices.own.token");
    let grant = exchange.mint((&alice, UNSEEN), &upstream, &write, NOW).await.unwrap();
    assert_eq!(
        (grant.strategy(), grant.facts().audience.as_deref(), bearer(&grant)),
        ("id_jag", Some(issuer.as_str()), "Bearer minted-0")
    );
    let asked = provider.last();
    for (name, value) in [
        ("requested_token_type", config::dialects::ID_JAG),
        ("subject_token", "alices.own.token"),
        ("audience", issuer.as_str()),
        ("resource", here),
        ("scope", "crm.read crm.write"),
    ] {
        assert_eq!(asked.field(name), Some(value), "{name}");
    }
    let asked = server.last();
    assert_eq!(asked.field("grant_type"), Some("urn:ietf:params:oauth:grant-type:jwt-bearer"));
    assert_eq!(
        (asked.field("scope"), asked.field("subject_token")),
        (Some("crm.read"), None),
        "what the assertion holds"
    );
    exchange.mint((&alice, UNSEEN), &upstream, &write, seconds(100)).await.unwrap();
    assert_eq!((provider.count() - before, server.count()), (1, 1), "both steps are one grant");

    // Of another issuer's user the provider gets no token.
    let user = User { issuer: "https://other.example".to_owned(), subject: "alice".to_owned() };
    let stranger = Identity { user: Some(user), ..caller("stranger", "of.another.issuer") };
    let refusal = exchange.mint((&stranger, UNSEEN), &upstream, &write, NOW).await.unwrap_err();
    assert!(matches!(&refusal, Refusal::GrantRefused(why) if why.contains("other.example")), "{refusal:?}");
    assert_eq!((provider.count() - before, server.count()), (1, 1));
}

fn named(id: &str, grant: &config::Grant) -> Upstream {
    Upstream { id: UpstreamId::parse(id).unwrap(), ..upstream(grant.clone(), None) }
}

/// Upstreams of one server at which users connect accounts, and the first of them.
fn keeping(stage: &Stage) -> (Arc<Exchange>, Arc<Upstream>, Store) {
    let store = Store::open(&config::State::default()).unwrap();
    let at = TokenEndpoint::Of(format!("http://{}", stage.address));
    let grant = config::Grant::UserGrant(TokenRequest { at, audience: None, ..stage.request() });
    let [crm, wiki, notes] = ["crm", "wiki", "notes"].map(|id| Arc::new(named(id, &grant)));
    let shared = shared(Arc::new(Keyring::new(Some(store.clone()))), &config::Egress::default()).unwrap();
    let personal = Personal::new(("https://mcp.example.com".to_owned(), store.clone()), &[], &shared).unwrap();
    let upstreams = [&crm, &wiki, &notes].map(|upstream| (upstream.id.clone(), Arc::clone(upstream))).into();
    let exchange =
        Exchange::over((Flights::new(Revocations::default()), shared), Some(Arc::new(personal)), &upstreams).unwrap();
    (Arc::new(exchange), crm, store)
}

async fn connect(exchange: &Exchange, upstream: &Upstream, who: &Identity, life: u64) {
    exchange.keep(&connected(exchange, upstream, who, life), NOW).await.unwrap();
}

/// What a visit came to.
fn connected(exchange: &Exchange, upstream: &Upstream, who: &Identity, life: u64) -> Connected {
    let endpoint = exchange.server(&upstream.id).unwrap();
    let account = Account::of(who, &upstream.id, endpoint).unwrap();
    let name = &who.user.as_ref().unwrap().subject;
    let token = Token {
        value: Secret::new(format!("account-{name}")),
        scopes: vec!["crm.read".to_owned()],
        life: Duration::from_secs(life),
        refresh_token: Some(Secret::new(format!("refresh-{name}"))),
        id_token: None,
    };
    let (upstream, user) = (upstream.id.clone(), account.user.clone());
    Connected { upstream, user, granted: None, gain: Gain::Account(account, token) }
}

#[tokio::test]
async fn an_account_is_its_users_and_is_refreshed_once_and_forgotten_at_a_word() {
    let stage = Stage::set(Play::Tokens(300)).await;
    let (exchange, upstream, store) = keeping(&stage);
    let (alice, bob) = (caller("alice", "a"), caller("bob", "b"));
    let mint = |who: &'static str, at: u64| {
        let (exchange, upstream) = (Arc::clone(&exchange), Arc::clone(&upstream));
        tasks::background(async move { exchange.mint((&caller(who, who), UNSEEN), &upstream, &[], seconds(at)).await })
    };
    connect(&exchange, &upstream, &alice, 300).await;
    let unconnected = exchange.mint((&bob, UNSEEN), &upstream, &[], NOW).await.unwrap_err();
    assert!(matches!(&unconnected, Refusal::GrantRefused(why) if why.contains("[[logins]]")), "{unconnected:?}");
    connect(&exchange, &upstream, &bob, 300).await;
    for (who, expected) in [(&alice, "Bearer account-alice"), (&bob, "Bearer account-bob")] {
        assert_eq!(bearer(&exchange.mint((who, UNSEEN), &upstream, &[], NOW).await.unwrap()), expected);
    }
    let mut elsewhere = caller("alice", "a");
    elsewhere.tenant = Some("globex".to_owned());
    assert!(exchange.mint((&elsewhere, UNSEEN), &upstream, &[], NOW).await.is_err(), "another tenant's alice");
    let machine = Identity { user: None, ..caller("robot", "r") };
    assert!(exchange.mint((&machine, UNSEEN), &upstream, &[], NOW).await.is_err(), "a machine has no account");
    assert_eq!(stage.count(), 0);

    // Another process that shares the state refreshes too: of both, one does.
    let late: Vec<_> = (0..8).map(|_| mint("alice", 280)).collect();
    for grant in late {
        assert_eq!(bearer(&grant.await.unwrap().unwrap()), "Bearer minted-0");
    }
    assert_eq!(stage.count(), 1);
    let asked = stage.last();
    assert_eq!(
        (asked.field("grant_type"), asked.field("refresh_token")),
        (Some("refresh_token"), Some("refresh-alice"))
    );
    assert_eq!((asked.field("resource"), asked.field("scope")), (Some("https://crm.internal/mcp"), None));

    // Without a new refresh token the old one stays (RFC 6749 §6); with a 401 it is used at once.
    let grant = mint("alice", 281).await.unwrap().unwrap();
    exchange.drop_grant(&grant.key());
    assert_eq!(bearer(&mint("alice", 281).await.unwrap().unwrap()), "Bearer minted-1");
    assert_eq!(stage.last().field("refresh_token"), Some("refresh-alice"));

    let whose = (Some("alice"), Some(upstream.id.as_str()));
    assert_eq!(exchange.forget(whose, NOW, seconds(282)).await.unwrap(), [], "was connected, or refreshed, later");
    assert_eq!(exchange.forget((Some("eve"), None), seconds(282), seconds(282)).await.unwrap(), []);
    let gone = exchange.forget(whose, seconds(282), seconds(282)).await.unwrap();
    assert_eq!(gone, std::slice::from_ref(&upstream.id));
    assert!(mint("alice", 282).await.unwrap().is_err());
    assert_eq!(bearer(&mint("bob", 100).await.unwrap().unwrap()), "Bearer account-bob");
    while stage.last().field("token").is_none() {
        tokio::task::yield_now().await;
    }
    assert_eq!(stage.last().field("token"), Some("refresh-alice"), "RFC 7009");
    // What another process forgets is forgotten here at the next call.
    for (key, _) in store.all(Place::UserGrant, NOW).await.unwrap() {
        store.remove(Place::UserGrant, &key).await.unwrap();
    }
    assert!(mint("bob", 101).await.unwrap().is_err());
}

/// Whoever writes a server's metadata cannot send the gateway, with its client's secret, to an address inside.
#[tokio::test]
async fn another_origin_than_the_servers_own_has_to_be_public() {
    let (stage, inside) = (Stage::set(Play::Tokens(300)).await, Stage::set(Play::Tokens(300)).await);
    *stage.elsewhere.lock() = Some(inside.address);
    let request = TokenRequest { at: TokenEndpoint::Of(format!("http://{}", stage.address)), ..stage.request() };
    let order = Order::Refresh { token: Secret::new("refresh-alice".to_owned()) };
    let origins = vec![format!("http://{}", inside.address).parse().unwrap()];
    for (egress, reached) in
        [(config::Egress::default(), 0), (config::Egress { origins, ..config::Egress::default() }, 1)]
    {
        let endpoint = Endpoint::new(&request, &shared(Arc::default(), &egress).unwrap()).unwrap();
        assert_eq!(endpoint.ask(&order, &[], NOW).await.is_ok(), reached == 1);
        assert_eq!((stage.count(), inside.count()), (0, reached));
    }
    let endpoint = Endpoint::new(&request, &shared(Arc::default(), &config::Egress::default()).unwrap()).unwrap();
    assert!(endpoint.revoke(&Secret::new("refresh-alice".to_owned()), NOW).await.is_err());
    assert_eq!(inside.count(), 1);
}

/// Users of the gateway's own tokens log in at the provider behind it.
#[test]
fn users_of_the_gateways_own_tokens_are_those_of_its_provider() {
    let login = |issuer: &str, provider: &str| {
        let client = OAuthClient { id: "pages".to_owned(), authentication: ClientAuthentication::Nothing };
        let (issuer, provider) = (issuer.to_owned(), provider.to_owned());
        Arc::new(Login { issuer, provider, client, scopes: Vec::new(), ca: None })
    };
    let store = Store::open(&config::State::default()).unwrap();
    let shared = shared(Arc::default(), &config::Egress::default()).unwrap();
    let logins = [login("https://mcp.example.com", "https://login.example")];
    let personal = Personal::new(("https://mcp.example.com".to_owned(), store), &logins, &shared).unwrap();
    let provider_of = |issuer| personal.visits.logins.provider_of(issuer);
    assert_eq!(provider_of("https://mcp.example.com").as_deref(), Some("https://login.example"));
    assert_eq!(provider_of("https://login.example"), None);
    let flights = Flights::new(Revocations::default());
    let exchange = Exchange::over((flights, shared), Some(Arc::new(personal)), &BTreeMap::new()).unwrap();
    let user = |issuer: &str| User { issuer: issuer.to_owned(), subject: "alice".to_owned() };
    let of = |issuer: &str| Identity { user: Some(user(issuer)), ..caller("alice", "a") };
    assert!(exchange.is_user_of("https://login.example", &of("https://mcp.example.com")).is_ok());
    assert!(exchange.is_user_of("https://login.example", &of("https://login.example")).is_ok());
    assert!(exchange.is_user_of("https://other.example", &of("https://mcp.example.com")).is_err());
}

#[tokio::test]
async fn a_refresh_that_ends_late_undoes_nothing() {
    let stage = Stage::set(Play::Holds).await;
    let (exchange, upstream, store) = keeping(&stage);
    let alice = caller("alice", "a");
    let refreshing = |at: u64| {
        let (exchange, upstream) = (Arc::clone(&exchange), Arc::clone(&upstream));
        tasks::background(
            async move { exchange.mint((&caller("alice", "a"), UNSEEN), &upstream, &[], seconds(at)).await },
        )
    };
    let under_way = async |count: usize| {
        while stage.count() < count {
            tokio::task::yield_now().await;
        }
    };
    connect(&exchange, &upstream, &alice, 300).await;
    let late = refreshing(280);
    under_way(1).await;
    // Connected anew meanwhile: that the old refresh token is no longer good says nothing of the new one.
    connect(&exchange, &upstream, &alice, 900).await;
    stage.plays(Play::Says(400, r#"{"error":"invalid_grant"}"#.to_owned()));
    stage.release.notify_one();
    assert_eq!(bearer(&late.await.unwrap().unwrap()), "Bearer account-alice");

    // Forgotten meanwhile: what the server gives is put nowhere, and given back.
    stage.plays(Play::Holds);
    let late = refreshing(880);
    under_way(2).await;
    let gone = exchange.forget((Some("alice"), None), seconds(881), seconds(881)).await.unwrap();
    assert_eq!(gone, std::slice::from_ref(&upstream.id));
    let rotated = r#"{"access_token":"late","token_type":"Bearer","expires_in":300,"refresh_token":"late-refresh"}"#;
    stage.plays(Play::Says(200, rotated.to_owned()));
    stage.release.notify_waiters();
    assert!(late.await.unwrap().is_err());
    assert!(store.all(Place::UserGrant, seconds(882)).await.unwrap().is_empty());
    let revoked = stage.asked.lock().iter().any(|asked| asked.field("token") == Some("late-refresh"));
    assert!(revoked, "RFC 7009");
}

#[tokio::test]
async fn a_refresh_whose_end_cannot_be_kept_gives_its_token_and_ends_when_it_can() {
    let stage = Stage::set(Play::Tokens(300)).await;
    let (exchange, upstream, store) = keeping(&stage);
    let alice = caller("alice", "a");
    connect(&exchange, &upstream, &alice, 300).await;
    store.damage("CREATE TRIGGER stuck BEFORE DELETE ON kept BEGIN SELECT RAISE(ABORT, 'stuck'); END");
    assert_eq!(
        bearer(&exchange.mint((&alice, UNSEEN), &upstream, &[], seconds(280)).await.unwrap()),
        "Bearer minted-0"
    );
    let kept = async || store.all(Place::UserGrant, seconds(280)).await.unwrap().len();
    assert_eq!(kept().await, 2, "the account, and its refresh");
    store.damage("DROP TRIGGER stuck");
    let ended = async {
        while kept().await > 1 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), ended).await.unwrap();
    assert_eq!(
        bearer(&exchange.mint((&alice, UNSEEN), &upstream, &[], seconds(560)).await.unwrap()),
        "Bearer minted-1"
    );
}

#[tokio::test]
async fn of_an_account_that_cannot_be_kept_nothing_is_left_at_its_server() {
    let stage = Stage::set(Play::Tokens(300)).await;
    let (exchange, upstream, store) = keeping(&stage);
    let [alice, bob, carol] = ["alice", "bob", "carol"].map(|name| caller(name, name));
    let [wiki, notes] = ["wiki", "notes"].map(|id| named(id, &upstream.grant));
    connect(&exchange, &upstream, &alice, 300).await;
    connect(&exchange, &wiki, &alice, 300).await;
    connect(&exchange, &upstream, &carol, 300).await;
    store.damage("CREATE TRIGGER full BEFORE INSERT ON kept BEGIN SELECT RAISE(ABORT, 'no room'); END");
    for (who, upstream) in [(&alice, &notes), (&alice, &wiki), (&carol, &upstream), (&bob, &notes)] {
        let connected = connected(&exchange, upstream, who, 300);
        assert!(exchange.keep(&connected, NOW).await.is_err());
        exchange.waive(connected, NOW).await;
    }
    let revoked = || -> Vec<_> {
        stage.asked.lock().iter().filter_map(|asked| asked.field("token").map(str::to_owned)).collect()
    };
    assert_eq!(revoked(), ["refresh-bob"], "the others' other accounts might end with it");
    // An account of hers at another server does not end with it.
    let all = store.all(Place::UserGrant, NOW).await.unwrap();
    let (key, bytes) = all.into_iter().find(|(_, bytes)| String::from_utf8_lossy(bytes).contains("carol")).unwrap();
    let here = format!("http://{}", stage.address);
    let elsewhere = String::from_utf8_lossy(&bytes).replace(&here, "https://elsewhere.example");
    store.damage("DROP TRIGGER full");
    let value = Value { bytes: elsewhere.into_bytes(), until: None };
    store.put(Place::UserGrant, &key, value, NOW).await.unwrap();
    exchange.waive(connected(&exchange, &notes, &carol, 300), NOW).await;
    assert_eq!(revoked(), ["refresh-bob", "refresh-carol"]);
}

/// What is read from the state was written down when it was minted, in whichever process.
#[tokio::test]
async fn an_account_is_refreshed_before_a_witness_and_read_without_one() {
    let stage = Stage::set(Play::Tokens(300)).await;
    let (exchange, upstream, store) = keeping(&stage);
    let (alice, seen) = (caller("alice", "a"), Seen::default());
    let mint = async |takes: bool, at: u64| {
        let summons = || Ok(noting(&seen, takes));
        let grant = exchange.mint((&alice, &summons), &upstream, &[], seconds(at)).await;
        grant.map(|grant| (bearer(&grant).to_owned(), grant.fresh()))
    };
    let found = |token: &str, fresh| Ok((format!("Bearer {token}"), fresh));
    connect(&exchange, &upstream, &alice, 300).await;
    for at in [1, 2] {
        assert_eq!(mint(true, at).await, found("account-alice", false));
        store.put(Place::Login, b"k", Value { bytes: vec![], until: None }, NOW).await.unwrap(); // something changes
    }
    assert!(seen.lock().is_empty());

    // Its refresh token may be spent: what it led to is kept, and nothing is sent that is not on record.
    let refusal = mint(false, 280).await.unwrap_err();
    assert_eq!(refusal.code(), "audit_unavailable");
    assert_eq!(mint(true, 281).await, found("minted-1", true));
    for at in [282, 282 + 299] {
        store.put(Place::Login, b"k", Value { bytes: vec![], until: None }, NOW).await.unwrap();
        assert_eq!(mint(true, at).await.map(|(_, fresh)| fresh), Ok(at > 300));
    }
    store.damage(
        "CREATE TRIGGER full BEFORE INSERT ON kept WHEN NEW.place = 'user_grant' AND length(NEW.key) = 32 \
         BEGIN SELECT RAISE(ABORT, 'no room'); END",
    );
    let refusal = mint(true, 282 + 299 + 299).await.unwrap_err();
    assert!(matches!(refusal, Refusal::GrantUnavailable(_)), "{refusal:?}");
    let expected = [0, 1, 2, 3].map(|number| ("user_grant", Some(digest::short(&format!("minted-{number}")))));
    assert_eq!(*seen.lock(), expected);
}

#[tokio::test]
async fn an_account_without_the_scopes_of_a_tool_is_no_account_for_it() {
    let stage = Stage::set(Play::Tokens(300)).await;
    let (exchange, upstream, _store) = keeping(&stage);
    let alice = caller("alice", "a");
    connect(&exchange, &upstream, &alice, 300).await;
    assert!(exchange.mint((&alice, UNSEEN), &upstream, &[], NOW).await.is_ok());
    let refusal = exchange.mint((&alice, UNSEEN), &upstream, &["crm.write".to_owned()], NOW).await.unwrap_err();
    assert!(matches!(refusal, Refusal::GrantRefused(_)), "{refusal:?}");
    stage.plays(Play::Says(400, r#"{"error":"invalid_grant"}"#.to_owned()));
    assert!(exchange.mint((&alice, UNSEEN), &upstream, &[], seconds(280)).await.is_err());
    stage.plays(Play::Tokens(300));
    assert!(
        exchange.mint((&alice, UNSEEN), &upstream, &[], seconds(10)).await.is_err(),
        "what the server disowns is forgotten"
    );
}

#[tokio::test]
async fn a_server_that_redeems_no_assertions_is_said_to_be_one() {
    let (provider, server) = (Stage::set(Play::Tokens(300)).await, Stage::set(Play::Tokens(300)).await);
    server.redeems.store(false, Ordering::SeqCst);
    let at = TokenEndpoint::Of(format!("http://{}", server.address));
    let (exchange, upstream) = exchange(config::Grant::IdJag(Box::new(config::IdJag {
        assertion: provider.request(),
        redemption: TokenRequest { at, audience: None, resource: None, ..server.request() },
        subject: AssertionSubject::AccessToken,
        provider: "https://login.example".to_owned(),
    })));
    exchange.look_ahead(NOW).await;
    let refusal = exchange.mint((&caller("alice", "alice"), UNSEEN), &upstream, &[], NOW).await.unwrap_err();
    let Refusal::GrantRefused(why) = &refusal else { panic!("{refusal:?}") };
    assert!(why.contains("redeems no ID-JAGs"), "{why}");
    assert_eq!(provider.count(), 0, "no assertion is asked for that nobody takes");
}

#[tokio::test]
async fn where_the_person_has_to_log_in_again_who_can_do_so_is_told() {
    let wants = r#"{"error":"interaction_required","acr_values":"mfa"}"#.to_owned();
    let stage = Stage::set(Play::Says(400, wants)).await;
    let (exchanging, upstream) = exchange(config::Grant::Exchange(stage.request()));
    for _ in 0..2 {
        let refusal = exchanging.mint((&caller("alice", "alice"), UNSEEN), &upstream, &[], NOW).await.unwrap_err();
        let Refusal::GrantNeedsLogin(login, why) = &refusal else { panic!("{refusal:?}") };
        assert_eq!((login.acr.as_slice(), login.age_max_s), (["mfa".to_owned()].as_slice(), None));
        assert!(why.ends_with("/token: interaction_required"), "{why}");
    }
    assert_eq!(stage.count(), 1, "it is remembered as any refusal");
    // The gateway in its own name has nobody who could.
    let (own, upstream) = exchange(config::Grant::ClientCredentials(stage.request()));
    let refusal = own.mint((&caller("alice", "alice"), UNSEEN), &upstream, &[], NOW).await.unwrap_err();
    assert!(matches!(refusal, Refusal::GrantRefused(_)), "{refusal:?}");
    // An account is connected anew, on its own server's page: nothing of it is left.
    let (personal, upstream, store) = keeping(&stage);
    connect(&personal, &upstream, &caller("alice", "alice"), 300).await;
    assert!(personal.mint((&caller("alice", "alice"), UNSEEN), &upstream, &[], seconds(280)).await.is_err());
    let kept = store.all(Place::UserGrant, seconds(280)).await.unwrap();
    assert!(kept.is_empty(), "{}", kept.len());
}

#[tokio::test]
async fn what_is_sent_and_kept_for_a_token_does_not_print() {
    let secret = || Secret::new("hunter2".to_owned());
    let code = || endpoint::Code { code: secret(), verifier: secret(), redirect_uri: String::new() };
    let orders = [
        Order::Exchange { subject: secret(), actor: Some(secret()) },
        Order::Assertion { subject: secret(), kind: "" },
        Order::Redemption { assertion: secret() },
        Order::Code(code()),
        Order::Login(code()),
        Order::Refresh { token: secret() },
    ];
    assert!(!format!("{orders:?}").contains("hunter2"));
    for authentication in [
        ClientAuthentication::SecretBasic(secret()),
        ClientAuthentication::SecretPost(secret()),
        ClientAuthentication::PrivateKeyJwt {
            key: secret(),
            algorithm: "ES256".to_owned(),
            key_id: None,
            audience: String::new(),
        },
    ] {
        let client = OAuthClient { id: "c".to_owned(), authentication };
        assert!(!format!("{client:?}").contains("hunter2"));
        if let Ok(prover) = crate::prover::Prover::new(&client) {
            assert!(!format!("{prover:?} {:?}", prover.header()).contains("hunter2"));
        }
    }
    let header = sensitive("Bearer hunter2".to_owned()).unwrap();
    assert!(!format!("{header:?}").contains("hunter2"));
    let prover = Keyring::new(None).prover(NOW).await.unwrap();
    assert!(!format!("{prover:?}").contains("nonces"));
}
