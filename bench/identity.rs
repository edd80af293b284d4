//! What does it cost to find out who asks, for each way to prove it?
//!
//! One Tollgate that takes whatever can be taken, and callers who each show a credential that it has never seen, and then
//! the same again. Their calls are alike in all else. It exchanges nothing: `exchange.rs` does.

use std::{sync::Arc, time::Duration};

use aws_lc_rs::digest;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, Header, jwk::ThumbprintHash};
use serde_json::{Value, json};
use tokio_rustls::TlsConnector;
use tollgate::{
    clock,
    config::{self, Environment},
    identity::api_key::{self, Order},
    state::Store,
};
use uuid::Uuid;

use crate::{
    CONNECTIONS, Sample,
    asking::{ALLOWED, TOKENS_KNOWN, TOKENS_NEW, asked},
    at, best,
    estate::{self, Callers, Estate, Grant},
    median, one,
    parties::{self, Connection, Party, Stage},
    peers::{self, Key},
};

/// How many.
#[derive(Clone, Copy)]
pub struct Settings {
    pub count: usize,
    pub rounds: usize,
}

/// How a caller proves who it is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Method {
    Es256,
    Rs256,
    /// By introspection.
    Opaque,
    ApiKey,
    /// A token bound to a key, and a proof for each call.
    Dpop,
    /// A token bound to the certificate of the connection.
    Bound,
    /// The certificate of the connection, and nothing else.
    Certificate,
    /// As the first, by a person of whom nothing is known, by policies and ceilings neither.
    Stranger,
}

/// Somebody with a credential.
struct Caller {
    party: Party,
    /// The key that their token is bound to, and that token.
    bound: Option<(Key, String)>,
}

/// What one method took in one round.
struct Turn {
    connection_us: f64,
    cold: Sample,
    cached: Sample,
}

/// Everybody who calls.
struct Crowd {
    stage: Stage,
    gateway: Party,
    /// For callers without a certificate.
    tls: TlsConnector,
    /// Of each person two: what is remembered of the person does not depend on the key.
    api_keys: Vec<[String; 2]>,
}

/// Prints one table.
pub async fn run(Settings { count, rounds }: Settings) {
    parties::need_files(count + 2 * CONNECTIONS);
    let mut crowd = Crowd::gathered(count * rounds + FIRST).await;
    let mut turns = Method::ALL.map(|_| Vec::new());
    for round in 0..=rounds {
        for (method, turns) in Method::ALL.into_iter().zip(&mut turns) {
            let turn = crowd.turn(method, if round == 0 { FIRST } else { count }).await;
            if round > 0 {
                turns.push(turn);
            }
        }
        eprintln!("round {round} of {rounds}{}", if round == 0 { ", which is not counted" } else { "" });
    }
    println!("{rounds} rounds of {count} credentials each, {CONNECTIONS} calls at once, {POLICIES} policies\n");
    println!(
        "| a caller shows | a connection, CPU µs | cold, CPU µs a call: median (best) | cached: median (best) | cold − cached | cold ÷ cached | cached ÷ first row |"
    );
    println!("|---|---|---|---|---|---|---|");
    let mut first_row = None;
    for (method, turns) in Method::ALL.into_iter().zip(turns) {
        let connection = at(&mut turns.iter().map(|turn| turn.connection_us).collect::<Vec<_>>(), 0.5);
        let [colds, cacheds]: [Vec<Sample>; 2] =
            [turns.iter().map(|turn| turn.cold).collect(), turns.iter().map(|turn| turn.cached).collect()];
        let (cold, cached) = (median(&colds).cpu_us, median(&cacheds).cpu_us);
        let first = *first_row.get_or_insert(cached);
        println!(
            "| {} | {connection:.0} | {cold:.1} ({:.1}) | {cached:.1} ({:.1}) | {:.1} | {:.2} | {:.2} |",
            method.name(),
            best(&colds),
            best(&cacheds),
            cold - cached,
            cold / cached,
            cached / first
        );
    }
}

impl Method {
    const ALL: [Self; 8] = [
        Self::Es256,
        Self::Rs256,
        Self::Opaque,
        Self::ApiKey,
        Self::Dpop,
        Self::Bound,
        Self::Certificate,
        Self::Stranger,
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::Es256 => "a JWT, ES256",
            Self::Rs256 => "a JWT, RS256 (2,048 bits)",
            Self::Opaque => "an opaque token, introspected",
            Self::ApiKey => "an API key",
            Self::Dpop => "a JWT bound to a key, and a new proof with each call (DPoP)",
            Self::Bound => "a JWT bound to the connection's certificate",
            Self::Certificate => "the connection's certificate alone",
            Self::Stranger => "a JWT, ES256, by a person never seen",
        }
    }
}

impl Crowd {
    /// A Tollgate that so many persons have API keys for.
    async fn gathered(persons: usize) -> Self {
        let stage = Stage::new().await;
        let estate = Estate { policies: POLICIES, callers: Callers::All, grant: Grant::Secret, ..stage.estate() };
        eprintln!("making {} API keys", 2 * persons);
        let api_keys = api_keys(&stage, &estate, persons).await;
        let gateway = stage.open("tollgate", &estate);
        gateway.ready().await;
        Self { tls: stage.authority.trusted_anew(None), gateway, stage, api_keys }
    }

    async fn turn(&mut self, method: Method, count: usize) -> Turn {
        let (known, callers) = self.callers(method, count);
        // What is found out about a person, as which policies matter, is not to be found out in the turn.
        for caller in known {
            one(&mut caller.party.connect().await, &caller.call()).await;
        }
        let ran = self.gateway.ran();
        let mut connections = Vec::new();
        for caller in &callers {
            connections.push(begun(&caller.party).await);
        }
        let connection_us = self.gateway.ran_us_since(&ran) / count as f64;
        let (connections, cold) = self.asked(method, (connections, &callers), 1).await;
        let (_, cached) = self.asked(method, (connections, &callers), AGAIN).await;
        // Nothing of theirs is still being closed in the next turn.
        tokio::time::sleep(SETTLED).await;
        Turn { connection_us, cold, cached }
    }

    /// All callers call, so many times; the first time nobody has seen what they show.
    async fn asked(
        &self,
        method: Method,
        (connections, callers): (Vec<Connection>, &[Caller]),
        times: usize,
    ) -> (Vec<Connection>, Sample) {
        let calls = callers.len() * times;
        let (new, known) = match (method, times) {
            (Method::Certificate, _) => (0, 0),
            (_, 1) => (calls, 0),
            _ => (0, calls),
        };
        let introspected = format!(
            r#"tollgate_identity_introspections_total{{tollgate_issuer="{}",tollgate_outcome="active"}}"#,
            self.stage.issuer.url
        );
        let introspections = if method == Method::Opaque { new } else { 0 };
        let grows =
            [(TOKENS_NEW, new), (TOKENS_KNOWN, known), (introspected.as_str(), introspections), (ALLOWED, calls)];
        let requests = callers.iter().map(|caller| (0..times).map(|_| caller.call()).collect());
        asked(&self.gateway, connections.into_iter().zip(requests).collect(), grows).await
    }

    /// Whom Tollgate is to know already, and those who call in a turn.
    fn callers(&mut self, method: Method, count: usize) -> (Vec<Caller>, Vec<Caller>) {
        match method {
            Method::ApiKey => {
                let keys = self.api_keys.split_off(self.api_keys.len() - count);
                keys.iter().map(|[known, new]| (self.bearer(known), self.bearer(new))).unzip()
            }
            Method::Stranger => (Vec::new(), (0..count).map(|_| self.caller(method)).collect()),
            Method::Es256 | Method::Rs256 | Method::Opaque | Method::Dpop | Method::Bound | Method::Certificate => {
                (vec![self.caller(method)], (0..count).map(|_| self.caller(method)).collect())
            }
        }
    }

    fn caller(&self, method: Method) -> Caller {
        let Stage { issuer, authority, .. } = &self.stage;
        let signed = |claims: &Value| issuer.sign(Algorithm::ES256, claims);
        match method {
            Method::Es256 => self.bearer(&signed(&self.claims(peers::SOMEBODY))),
            Method::Rs256 => self.bearer(&issuer.sign(Algorithm::RS256, &self.claims(peers::SOMEBODY))),
            Method::Stranger => self.bearer(&signed(&self.claims(&Uuid::new_v4().to_string()))),
            Method::Opaque => self.bearer(&issuer.opaque(self.claims(peers::SOMEBODY))),
            Method::Dpop => {
                let key = Key::new(Algorithm::ES256);
                let token = signed(&self.bound("jkt", &key.jwk.thumbprint(ThumbprintHash::SHA256).unwrap()));
                Caller { bound: Some((key, token)), ..self.bearer("") }
            }
            Method::Bound => {
                let shown = authority.machine();
                let token = signed(&self.bound("x5t#S256", &shown.thumbprint()));
                let Caller { party, .. } = self.bearer(&token);
                Caller { party: party.through(authority.trusted_anew(Some(&shown))), bound: None }
            }
            Method::Certificate => {
                let tls = authority.trusted_anew(Some(&authority.machine()));
                Caller { party: self.gateway.shown(Vec::new()).through(tls), bound: None }
            }
            Method::ApiKey => panic!("keys are made before the start"),
        }
    }

    fn bearer(&self, token: &str) -> Caller {
        let party = self.gateway.shown(vec![parties::bearer(token)]);
        Caller { party: party.through(self.tls.clone()), bound: None }
    }

    fn claims(&self, subject: &str) -> Value {
        self.stage.issuer.claims(&self.gateway.resource(), subject, &estate::GROUPS.map(str::to_owned))
    }

    /// Of a token that is bound to something (RFC 7800 §3.1).
    fn bound(&self, to: &str, thumbprint: &str) -> Value {
        let mut claims = self.claims(peers::SOMEBODY);
        claims["cnf"] = json!({ to: thumbprint });
        claims
    }
}

impl Caller {
    /// The bytes of the next call.
    fn call(&self) -> Arc<[u8]> {
        let Some((key, token)) = &self.bound else { return self.party.modern_call() };
        let proof = proof(key, &self.party.resource(), token);
        self.party.shown(vec![format!("authorization: DPoP {token}"), format!("dpop: {proof}")]).modern_call()
    }
}

/// RFC 9449 §4.2.
fn proof(key: &Key, url: &str, token: &str) -> String {
    let mut header = Header::new(key.algorithm);
    header.typ = Some("dpop+jwt".to_owned());
    header.jwk = Some(key.jwk.clone());
    let ath = URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, token.as_bytes()));
    let id = Uuid::new_v4().to_string();
    key.signed(&header, &json!({ "htm": "POST", "htu": url, "iat": peers::now(), "jti": id, "ath": ath }))
}

/// A connection on which nobody in particular has asked something: what is the connection's own is over.
async fn begun(party: &Party) -> Connection {
    let mut connection = party.connect().await;
    connection.send(&party.anybodys()).await;
    let answer = connection.receive().await.expect("the connection closed");
    assert_eq!(answer.status(), 200, "{}", answer.text());
    connection
}

/// Two for each of so many persons, in the state of a Tollgate that has not begun.
async fn api_keys(stage: &Stage, estate: &Estate, persons: usize) -> Vec<[String; 2]> {
    let folder = stage.configured(estate.listen);
    estate.write(&folder);
    let config = config::load(&folder.join("upstreams.toml"), &Environment::process()).unwrap();
    let store = Store::open(&config.state).unwrap();
    let mut made = Vec::with_capacity(persons);
    for person in 0..persons {
        made.push([api_key(&store, person).await, api_key(&store, person).await]);
    }
    made
}

async fn api_key(store: &Store, person: usize) -> String {
    let order = Order {
        user: Some(format!("person-{person}")),
        agent: "bench-agent".to_owned(),
        tenant: Some("acme".to_owned()),
        groups: estate::GROUPS.map(str::to_owned).to_vec(),
        scopes: vec!["bench:read".to_owned(), "bench:call".to_owned()],
        upstreams: None,
        life: Duration::from_secs(86_400),
    };
    let (text, _) = api_key::make(store, order, clock::now()).await.unwrap();
    text.expose().to_owned()
}

/// How often each credential is shown once it is known.
const AGAIN: usize = 5;
/// Credentials of the round that is not counted.
const FIRST: usize = 20;
const SETTLED: Duration = Duration::from_millis(200);
const POLICIES: usize = 100;
