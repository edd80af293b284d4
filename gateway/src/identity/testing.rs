//! What do the tests of this stage need?
//!
//! Keys that sign anything, honest or not, and an issuer on loopback that counts what it is asked.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use aws_lc_rs::{
    encoding::AsDer,
    rand::SystemRandom,
    rsa,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256, RsaKeyPair},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};

use super::sender::{Memory, Senders};
use crate::{
    clock::Timestamp,
    config::{Claims, Dpop, Issuer, Profile, State},
    state::Sealer,
    tasks,
};

/// The time of every test that does not need the real one.
pub(super) const NOW: Timestamp = Timestamp::from_unix_seconds(1_800_000_000);
pub(super) const AUDIENCE: &str = "https://gw.example/mcp";

pub(super) struct Signer {
    pub(super) id: &'static str,
    pair: Pair,
}

enum Pair {
    Ec(EcdsaKeyPair),
    Ed(Ed25519KeyPair),
    Rsa(RsaKeyPair),
}

pub(super) fn ec(id: &'static str) -> Signer {
    Signer { id, pair: Pair::Ec(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap()) }
}

pub(super) fn ed(id: &'static str) -> Signer {
    Signer { id, pair: Pair::Ed(Ed25519KeyPair::generate().unwrap()) }
}

pub(super) fn rsa(id: &'static str) -> Signer {
    Signer { id, pair: Pair::Rsa(RsaKeyPair::generate(rsa::KeySize::Rsa2048).unwrap()) }
}

pub(super) fn b64(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

impl Signer {
    pub(super) fn algorithm(&self) -> &'static str {
        match &self.pair {
            Pair::Ec(_) => "ES256",
            Pair::Ed(_) => "EdDSA",
            Pair::Rsa(_) => "RS256",
        }
    }

    pub(super) fn public_bytes(&self) -> Vec<u8> {
        match &self.pair {
            Pair::Ec(pair) => pair.public_key().as_ref().to_vec(),
            Pair::Ed(pair) => pair.public_key().as_ref().to_vec(),
            Pair::Rsa(pair) => pair.public_key().as_der().unwrap().as_ref().to_vec(),
        }
    }

    pub(super) fn jwk(&self) -> Value {
        match &self.pair {
            Pair::Ec(pair) => {
                let point = pair.public_key().as_ref();
                json!({ "kty": "EC", "crv": "P-256", "kid": self.id, "use": "sig", "alg": "ES256",
                        "x": b64(&point[1..33]), "y": b64(&point[33..]) })
            }
            Pair::Ed(pair) => {
                json!({ "kty": "OKP", "crv": "Ed25519", "kid": self.id, "x": b64(pair.public_key()) })
            }
            Pair::Rsa(pair) => {
                let key = pair.public_key();
                json!({ "kty": "RSA", "kid": self.id, "alg": "RS256",
                        "n": b64(key.modulus().big_endian_without_leading_zero()),
                        "e": b64(key.exponent().big_endian_without_leading_zero()) })
            }
        }
    }

    pub(super) fn sign(&self, header: &str, claims: &str) -> String {
        let signed = format!("{}.{}", b64(header), b64(claims));
        let random = SystemRandom::new();
        let signature = match &self.pair {
            Pair::Ec(pair) => pair.sign(&random, signed.as_bytes()).unwrap().as_ref().to_vec(),
            Pair::Ed(pair) => pair.sign(signed.as_bytes()).as_ref().to_vec(),
            Pair::Rsa(pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &random, signed.as_bytes(), &mut signature).unwrap();
                signature
            }
        };
        format!("{signed}.{}", b64(signature))
    }

    /// A proof that this key is held, with these claims (RFC 9449 §4.2).
    pub(super) fn proof(&self, claims: &Value) -> String {
        let header = json!({ "alg": self.algorithm(), "typ": "dpop+jwt", "jwk": self.jwk() });
        self.sign(&header.to_string(), &claims.to_string())
    }

    /// A token as an honest issuer makes it.
    pub(super) fn token(&self, claims: &Value) -> String {
        let header = json!({ "alg": self.algorithm(), "kid": self.id, "typ": "at+jwt" });
        self.sign(&header.to_string(), &claims.to_string())
    }
}

/// Senders to `https://gw.example` who may show proofs where `dpop` says how.
pub(super) fn senders(dpop: Option<Dpop>) -> Senders {
    Senders {
        origin: "https://gw.example".parse().unwrap(),
        dpop,
        proofs_max: 64,
        holders: Vec::new(),
        memory: Arc::new(Memory::new(Sealer::new(&State::default()).unwrap())),
    }
}

pub(super) fn issuer(name: &str) -> Issuer {
    Issuer {
        issuer: name.to_owned(),
        jwks_uri: None,
        algorithms: ["ES256", "RS256", "EdDSA"].map(str::to_owned).to_vec(),
        claims: Claims {
            tenant: Some("tid".to_owned()),
            groups: "groups".to_owned(),
            agent: None,
            scope: "scope".to_owned(),
        },
        types: vec!["at+jwt".to_owned()],
        lifetime_max: Duration::from_secs(24 * 3600),
        leeway: Duration::from_secs(5),
        ca: None,
        profile: Profile::Common,
        introspection: None,
    }
}

/// Good claims at `now`.
pub(super) fn claims(issuer: &str, now: Timestamp) -> Value {
    json!({
        "iss": issuer, "sub": "alice", "aud": AUDIENCE, "client_id": "claude", "jti": "t-1",
        "iat": now.unix_seconds(), "exp": now.plus(Duration::from_secs(600)).unix_seconds(),
        "scope": "crm:read crm:write", "groups": ["sales", "eng", "sales"], "tid": "acme",
    })
}

/// An issuer on loopback.
pub(super) struct Server {
    pub(super) url: String,
    keys: Mutex<Option<Vec<Value>>>,
    pub(super) key_fetches: AtomicU64,
}

impl Server {
    pub(super) async fn start(keys: Vec<Value>) -> Arc<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = Arc::new(Self {
            url: format!("http://{}", listener.local_addr().unwrap()),
            keys: Mutex::new(Some(keys)),
            key_fetches: AtomicU64::new(0),
        });
        let answering = Arc::clone(&server);
        drop(tasks::background(async move {
            while let Ok((stream, _)) = listener.accept().await {
                drop(tasks::background(Arc::clone(&answering).serve(stream)));
            }
        }));
        server
    }

    async fn serve(self: Arc<Self>, stream: TcpStream) {
        let service = service_fn(|request| {
            let response = self.answer(&request);
            async move { Ok::<_, Infallible>(response) }
        });
        drop(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await);
    }

    /// What the issuer publishes from now on; `None` makes it fail.
    pub(super) fn publish(&self, keys: Option<Vec<Value>>) {
        *self.keys.lock() = keys;
    }

    fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        let keys = self.keys.lock().clone();
        let body = match (request.uri().path(), keys) {
            ("/.well-known/openid-configuration", Some(_)) => {
                json!({ "issuer": self.url, "jwks_uri": format!("{}/jwks", self.url) })
            }
            ("/jwks", keys) => {
                self.key_fetches.fetch_add(1, Ordering::SeqCst);
                match keys {
                    Some(keys) => json!({ "keys": keys }),
                    None => return status(500),
                }
            }
            (_, Some(_)) => return status(404),
            (_, None) => return status(500),
        };
        Response::new(Full::new(Bytes::from(body.to_string())))
    }
}

fn status(status: u16) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from_static(b"<html>")));
    *response.status_mut() = http::StatusCode::from_u16(status).unwrap();
    response
}
