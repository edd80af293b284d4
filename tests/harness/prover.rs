//! How does a client prove that it holds a key?
//!
//! DPoP proofs (RFC 9449), honest or not. It sends nothing.

use aws_lc_rs::digest;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL};
use serde_json::{Value, json};

use super::{
    issuer::{Pen, Signature, now},
    leaks,
};

/// A key of a client.
#[derive(Debug)]
pub(crate) struct Prover {
    pen: Pen,
}

impl Prover {
    /// A new key.
    pub(crate) fn new() -> Self {
        Self { pen: Pen::new(1) }
    }

    /// Its public half.
    pub(crate) fn jwk(&self) -> Value {
        let jwk = self.pen.jwk();
        json!({ "kty": jwk["kty"], "crv": jwk["crv"], "x": jwk["x"], "y": jwk["y"] })
    }

    /// Its thumbprint (RFC 7638 §3).
    pub(crate) fn thumbprint(&self) -> String {
        let jwk = self.jwk();
        let text = format!(r#"{{"crv":{},"kty":{},"x":{},"y":{}}}"#, jwk["crv"], jwk["kty"], jwk["x"], jwk["y"]);
        BASE64URL.encode(digest::digest(&digest::SHA256, text.as_bytes()))
    }

    /// The header of a good proof; change it before signing.
    pub(crate) fn header(&self) -> Value {
        json!({ "typ": "dpop+jwt", "alg": "ES256", "jwk": self.jwk() })
    }

    /// The claims of a good proof for one request, with the token that it carries.
    pub(crate) fn claims(&self, method: &str, url: &str, token: Option<&str>) -> Value {
        let id = uuid::Uuid::new_v4().to_string();
        let mut claims = json!({ "htm": method, "htu": url, "iat": now(), "jti": id });
        if let Some(token) = token {
            claims["ath"] = json!(BASE64URL.encode(digest::digest(&digest::SHA256, token.as_bytes())));
        }
        claims
    }

    /// A proof with any header and any claims.
    pub(crate) fn sign(&self, header: &Value, claims: &Value) -> String {
        self.forge(header, claims, Signature::Own)
    }

    /// The same, signed in any way.
    pub(crate) fn forge(&self, header: &Value, claims: &Value, signature: Signature) -> String {
        let proof = self.pen.sign(header, claims, signature);
        leaks::remember_own(&proof);
        proof
    }

    /// A good proof.
    pub(crate) fn proof(&self, method: &str, url: &str, token: Option<&str>) -> String {
        self.sign(&self.header(), &self.claims(method, url, token))
    }
}
