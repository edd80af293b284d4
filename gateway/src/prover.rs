//! How does the gateway prove to an authorization server who it is?
//!
//! As an OAuth client: by a secret in a header or in the form (RFC 6749 §2.3.1), by an assertion that it signs or its
//! platform does (RFC 7523 §2.2), or by certificate (RFC 8705 §2). Whoever asks an authorization server for something proves it here. It sends nothing.

use std::path::Path;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::HeaderValue;
use jsonwebtoken::{Algorithm, AlgorithmFamily, EncodingKey, Header};
use serde::Serialize;
use url::form_urlencoded::{Serializer, byte_serialize};
use zeroize::Zeroizing;

use crate::{
    clock::Timestamp,
    config::{ClientAuthentication, ClientCertificate, OAuthClient},
    secret::Secret,
};

/// The gateway as one client of one authorization server.
#[derive(Debug)]
pub struct Prover {
    client: OAuthClient,
    signer: Option<Signer>,
}

/// The key of `private_key_jwt`, parsed.
struct Signer {
    key: EncodingKey,
    header: Header,
    audience: String,
}

impl std::fmt::Debug for Signer {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Signer").field("algorithm", &self.header.alg).finish_non_exhaustive()
    }
}

/// The claims of a client assertion (RFC 7523 §3).
#[derive(Serialize)]
struct Assertion<'a> {
    iss: &'a str,
    sub: &'a str,
    aud: &'a str,
    jti: String,
    iat: u64,
    exp: u64,
}

impl Prover {
    /// # Errors
    /// A text that says what of `client` cannot be used.
    pub fn new(client: &OAuthClient) -> Result<Self, String> {
        Ok(Self { signer: signer(client)?, client: client.clone() })
    }

    /// `Authorization` of a request, for `client_secret_basic`.
    ///
    /// # Errors
    /// Where the secret fits no header.
    pub fn header(&self) -> Result<Option<HeaderValue>, String> {
        let ClientAuthentication::SecretBasic(secret) = &self.client.authentication else { return Ok(None) };
        let value = basic(&self.client.id, secret);
        value.map(Some).map_err(|_invalid| "the client's secret fits no header".to_owned())
    }

    /// The JWT that says who the gateway is, where one does: of its own or its platform's making.
    ///
    /// # Errors
    /// Where it cannot be signed, or there is none.
    pub async fn assertion(&self, now: Timestamp) -> Result<Option<Zeroizing<String>>, String> {
        if let ClientAuthentication::AssertionFile(path) | ClientAuthentication::Workload(path) =
            &self.client.authentication
        {
            return written_in(path).await.map(Zeroizing::new).map(Some);
        }
        let Some(signer) = &self.signer else { return Ok(None) };
        let id = self.client.id.as_str();
        let iat = now.unix_seconds();
        let claims = Assertion {
            iss: id,
            sub: id,
            aud: &signer.audience,
            jti: uuid::Uuid::new_v4().to_string(),
            iat,
            exp: iat.saturating_add(ASSERTION_LIFE_SECONDS),
        };
        let assertion = jsonwebtoken::encode(&signer.header, &claims, &signer.key)
            .map_err(|error| format!("the client assertion cannot be signed: {error}"))?;
        Ok(Some(Zeroizing::new(assertion)))
    }

    /// What the form of a request needs besides, [`Prover::assertion`] among it.
    pub fn fill(&self, form: &mut Serializer<'_, String>, assertion: Option<&str>) {
        // Of a workload there is no client, and its assertion is the grant itself.
        if let ClientAuthentication::SecretBasic(_) | ClientAuthentication::Workload(_) = &self.client.authentication {
            return;
        }
        form.append_pair("client_id", &self.client.id);
        if let ClientAuthentication::SecretPost(secret) = &self.client.authentication {
            form.append_pair("client_secret", secret.expose());
        }
        if let Some(assertion) = assertion {
            form.append_pair("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer")
                .append_pair("client_assertion", assertion);
        }
    }

    /// Whether the gateway is no client, but a workload that its platform vouches for (RFC 7523 §2.1).
    #[must_use]
    pub const fn is_workload(&self) -> bool {
        matches!(self.client.authentication, ClientAuthentication::Workload(_))
    }

    /// What is shown in the TLS handshake, where that is the proof.
    #[must_use]
    pub const fn certificate(&self) -> Option<&ClientCertificate> {
        if let ClientAuthentication::Certificate(files) = &self.client.authentication { Some(files) } else { None }
    }

    /// The secret that goes out with each request, where there is one: no answer may repeat it.
    #[must_use]
    pub const fn secret(&self) -> Option<&Secret> {
        match &self.client.authentication {
            ClientAuthentication::SecretBasic(secret) | ClientAuthentication::SecretPost(secret) => Some(secret),
            ClientAuthentication::PrivateKeyJwt { .. }
            | ClientAuthentication::AssertionFile(_)
            | ClientAuthentication::Workload(_)
            | ClientAuthentication::Certificate(_)
            | ClientAuthentication::Nothing => None,
        }
    }
}

/// What the platform says of this workload, as it stands there now.
async fn written_in(path: &Path) -> Result<String, String> {
    let unusable = |why: &str| format!("the client assertion `{}` {why}", path.display());
    let mut text =
        tokio::fs::read_to_string(path).await.map_err(|error| unusable(&format!("cannot be read: {error}")))?;
    text.truncate(text.trim_end().len());
    let fits = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    if text.len() > ASSERTION_BYTES_MAX || text.split('.').count() != 3 || !text.bytes().all(fits) {
        return Err(unusable("is not a JWT"));
    }
    Ok(text)
}

/// RFC 6749 §2.3.1: both halves are form-encoded first, so that a colon in the id cannot move the border.
fn basic(id: &str, secret: &Secret) -> Result<HeaderValue, http::header::InvalidHeaderValue> {
    let mut pair = Zeroizing::new(String::new());
    pair.extend(byte_serialize(id.as_bytes()));
    pair.push(':');
    pair.extend(byte_serialize(secret.expose().as_bytes()));
    let pair = Zeroizing::new(STANDARD.encode(pair.as_bytes()));
    let text = Zeroizing::new(["Basic ", &pair].concat().into_bytes());
    let mut value = HeaderValue::from_maybe_shared(Bytes::from_owner(text))?;
    value.set_sensitive(true);
    Ok(value)
}

fn signer(client: &OAuthClient) -> Result<Option<Signer>, String> {
    let ClientAuthentication::PrivateKeyJwt { key, algorithm, key_id, audience } = &client.authentication else {
        return Ok(None);
    };
    let algorithm: Algorithm =
        algorithm.parse().map_err(|_unknown| format!("`{algorithm}` is not an algorithm of RFC 7518 §3.1"))?;
    let pem = key.expose().as_bytes();
    let parsed = match algorithm.family() {
        AlgorithmFamily::Ec => EncodingKey::from_ec_pem(pem),
        AlgorithmFamily::Rsa => EncodingKey::from_rsa_pem(pem),
        AlgorithmFamily::Ed => EncodingKey::from_ed_pem(pem),
        AlgorithmFamily::Hmac => {
            return Err("`private_key_jwt` takes no shared secret (OpenID Connect Core §9)".to_owned());
        }
    };
    let key = parsed.map_err(|error| format!("the client's private key cannot be used: {error}"))?;
    let mut header = Header::new(algorithm);
    header.kid.clone_from(key_id);
    Ok(Some(Signer { key, header, audience: audience.clone() }))
}

/// The life of a client assertion (RFC 7523 §3): long enough for clocks that differ, short enough to be useless later.
const ASSERTION_LIFE_SECONDS: u64 = 60;

/// Bytes of the platform's.
const ASSERTION_BYTES_MAX: usize = 16_384;
