//! How does the gateway prove that a token is its own?
//!
//! DPoP (RFC 9449): one key of the gateway's, one signed proof a request, and the nonces that servers want in them. A
//! token that is bound to the key is of no use to whoever else comes by it. It does not send anything.

use std::{collections::HashMap, fmt, sync::Arc};

use aws_lc_rs::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use http::{HeaderMap, HeaderValue, Method};
use parking_lot::Mutex;
use serde::Serialize;
use tokio::sync::OnceCell;
use url::Url;

use crate::{
    clock::Timestamp,
    digest,
    state::{Place, Store, Value},
};

/// Where the key is kept: tokens that outlive the process are bound to it.
#[derive(Debug, Default)]
pub(super) struct Keyring {
    store: Option<Store>,
    prover: OnceCell<Arc<ProofKey>>,
}

/// The key.
pub(super) struct ProofKey {
    key: EcdsaKeyPair,
    /// The first part of every proof: all of it is the same.
    header: String,
    /// The newest nonce of each server, by its origin (RFC 9449 §8.2).
    nonces: Mutex<HashMap<String, HeaderValue>>,
}

impl fmt::Debug for ProofKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("ProofKey").finish_non_exhaustive()
    }
}

/// The claims of a proof (RFC 9449 §4.2).
#[derive(Serialize)]
struct Claims<'a> {
    jti: String,
    htm: &'a str,
    htu: &'a str,
    iat: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    ath: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    nonce: Option<&'a str>,
}

impl Keyring {
    pub(super) fn new(store: Option<Store>) -> Self {
        Self { store, prover: OnceCell::new() }
    }

    /// The key, made where there is none.
    pub(super) async fn prover(&self, now: Timestamp) -> Result<Arc<ProofKey>, String> {
        self.prover.get_or_try_init(|| self.load(now)).await.cloned()
    }

    async fn load(&self, now: Timestamp) -> Result<Arc<ProofKey>, String> {
        let made = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new());
        let mut key = made.map_err(|_unspecified| "no key can be made".to_owned())?.as_ref().to_vec();
        if let Some(store) = &self.store {
            let value = Value { bytes: key.clone(), until: None };
            // Of two processes that begin at once, one makes the key of both.
            let first = store.claim(Place::ProofKey, NAME, value, now).await.map_err(|fault| fault.to_string())?;
            if !first {
                let kept = store.get(Place::ProofKey, NAME, now).await.map_err(|fault| fault.to_string())?;
                key = kept.ok_or("the key has gone")?;
            }
        }
        ProofKey::of(&key).map(Arc::new).ok_or_else(|| "the key that is kept is none".to_owned())
    }
}

impl ProofKey {
    fn of(pkcs8: &[u8]) -> Option<Self> {
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8).ok()?;
        // SEC 1 §2.3.3: 4, then the two coordinates.
        let (x, y) = key.public_key().as_ref().get(1..)?.split_at_checked(32)?;
        let (x, y) = (URL_SAFE_NO_PAD.encode(x), URL_SAFE_NO_PAD.encode(y));
        let header =
            format!(r#"{{"typ":"dpop+jwt","alg":"ES256","jwk":{{"kty":"EC","crv":"P-256","x":"{x}","y":"{y}"}}}}"#);
        Some(Self { key, header: URL_SAFE_NO_PAD.encode(header), nonces: Mutex::default() })
    }

    /// A proof for one request; `ath` is the digest of the token that goes with it.
    pub(super) fn prove(
        &self,
        method: &Method,
        url: &Url,
        ath: Option<&str>,
        now: Timestamp,
    ) -> Result<HeaderValue, &'static str> {
        let nonce = self.nonces.lock().get(&origin(url)).cloned();
        let mut htu = url.clone();
        htu.set_query(None);
        htu.set_fragment(None);
        let claims = Claims {
            jti: uuid::Uuid::new_v4().to_string(),
            htm: method.as_str(),
            htu: htu.as_str(),
            iat: now.unix_seconds(),
            ath,
            nonce: nonce.as_ref().and_then(|nonce| nonce.to_str().ok()),
        };
        let claims = serde_json::to_vec(&claims).map_err(|_impossible| "a proof that is no JSON")?;
        let signed = format!("{}.{}", self.header, URL_SAFE_NO_PAD.encode(claims));
        let signature = self.key.sign(&SystemRandom::new(), signed.as_bytes());
        let signature = signature.map_err(|_unspecified| "a proof cannot be signed")?;
        let proof = format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature));
        let mut value = HeaderValue::try_from(proof).map_err(|_invalid| "a proof that fits no header")?;
        value.set_sensitive(true);
        Ok(value)
    }

    /// Takes the nonce of an answer, for the next proof; says whether it is another than before.
    pub(super) fn heed(&self, url: &Url, headers: &HeaderMap) -> bool {
        let Some(nonce) = headers.get(DPOP_NONCE).filter(|nonce| nonce.len() <= NONCE_BYTES_MAX) else { return false };
        let mut nonces = self.nonces.lock();
        let origin = origin(url);
        if nonces.len() >= NONCES_MAX && !nonces.contains_key(&origin) {
            return false;
        }
        nonces.insert(origin, nonce.clone()).as_ref() != Some(nonce)
    }
}

/// `ath` of a token (RFC 9449 §4.2).
pub(super) fn ath(token: &str) -> String {
    digest::base64(token)
}

fn origin(url: &Url) -> String {
    url.origin().ascii_serialization()
}

/// The key's name in the store.
const NAME: &[u8] = b"dpop";

/// RFC 9449 §8.
const DPOP_NONCE: &str = "dpop-nonce";

/// Servers that are known; only those that are configured are asked anything.
const NONCES_MAX: usize = 1_024;

/// Bytes of a nonce.
const NONCE_BYTES_MAX: usize = 512;

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read(proof: &HeaderValue) -> (Value, Value) {
        let text = proof.to_str().unwrap();
        let header = jsonwebtoken::decode_header(text).unwrap();
        let jwk: jsonwebtoken::jwk::Jwk = header.jwk.clone().unwrap();
        let key = jsonwebtoken::DecodingKey::from_jwk(&jwk).unwrap();
        let mut rules = jsonwebtoken::Validation::new(jsonwebtoken::Algorithm::ES256);
        rules.required_spec_claims.clear();
        rules.validate_exp = false;
        let claims = jsonwebtoken::decode::<Value>(text, &key, &rules).unwrap().claims;
        (serde_json::to_value(header).unwrap(), claims)
    }

    #[tokio::test]
    async fn a_proof_is_for_one_request_and_one_token_by_a_key_that_stays() {
        let now = Timestamp::from_unix_seconds(1_800_000_000);
        let store = Store::open(&crate::config::State::default()).unwrap();
        let prover = Keyring::new(Some(store.clone())).prover(now).await.unwrap();
        let url: Url = "https://crm.internal:8443/mcp?x=1".parse().unwrap();
        let first = prover.prove(&Method::POST, &url, Some(&ath("token")), now).unwrap();
        let (header, claims) = read(&first);
        assert_eq!((&header["typ"], &header["jwk"]["crv"]), (&json!("dpop+jwt"), &json!("P-256")));
        assert!(header["jwk"].get("d").is_none() && first.is_sensitive());
        assert_eq!((&claims["htm"], &claims["htu"]), (&json!("POST"), &json!("https://crm.internal:8443/mcp")));
        assert_eq!((&claims["iat"], claims["ath"].as_str()), (&json!(1_800_000_000), Some(ath("token").as_str())));
        assert!(claims.get("nonce").is_none());

        let mut headers = HeaderMap::new();
        assert!(!prover.heed(&url, &headers));
        headers.insert(DPOP_NONCE, HeaderValue::from_static("n-1"));
        assert!(prover.heed(&url, &headers) && !prover.heed(&url, &headers));
        let (_, second) = read(&prover.prove(&Method::GET, &url, None, now).unwrap());
        assert_eq!((&second["nonce"], &second["htm"]), (&json!("n-1"), &json!("GET")));
        assert_ne!(second["jti"], claims["jti"]);
        let elsewhere: Url = "https://other.internal/mcp".parse().unwrap();
        let (_, third) = read(&prover.prove(&Method::GET, &elsewhere, None, now).unwrap());
        assert!(third.get("nonce").is_none(), "a nonce is its server's");

        let after = Keyring::new(Some(store)).prover(now).await.unwrap();
        let (again, _) = read(&after.prove(&Method::POST, &url, None, now).unwrap());
        assert_eq!(again["jwk"], header["jwk"]);
    }
}
