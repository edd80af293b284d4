//! Did this client sign that, to say who it is?
//!
//! A client assertion (RFC 7523 §3) and the client's keys in, what is left to be asked of it out. It fetches nothing, and
//! remembers nothing: whether an assertion was shown before its caller says.

use serde_json::Value;

use super::{
    keyset::{Found, KeySet},
    token,
};
use crate::{
    clock::Timestamp,
    refusal::TokenFault::{self, *},
};

/// The public keys of one client.
#[derive(Debug)]
pub struct ClientKeys(KeySet);

/// An assertion that is the client's; it may have been shown before.
#[derive(Debug, PartialEq, Eq)]
pub struct Asserted {
    /// `jti`.
    pub id: String,
    /// Until when it has to be known.
    pub until: Timestamp,
}

impl ClientKeys {
    /// Reads a JWK Set (RFC 7517 §5).
    ///
    /// # Errors
    /// Why it has no usable key.
    pub fn read(document: &[u8]) -> Result<Self, &'static str> {
        KeySet::read(document, &ALGORITHMS.map(str::to_owned)).map(Self)
    }

    /// Judges an assertion that `client` made out to one of `audiences`; [`TokenFault::KeyUnknown`] where none of these keys
    /// signed it.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check(
        &self,
        text: &str,
        (client, audiences): (&str, &[String]),
        now: Timestamp,
    ) -> Result<Asserted, TokenFault> {
        let presented = token::open(text)?;
        if !TYPES.iter().any(|kind| presented.is(kind)) {
            return Err(TypeMismatch);
        }
        let claims = &presented.claims;
        for claim in ["iss", "sub"] {
            if token::name(claims, claim, claim)? != Some(client) {
                return Err(IssuerMismatch);
            }
        }
        // For this server alone: what is made out to two is good at the other, too.
        match presented.audiences()?.as_slice() {
            [one] if audiences.contains(one) => {}
            _ => return Err(AudienceMismatch),
        }
        let expires_at = presented.expires_at()?;
        let begins_at = token::seconds(claims, "nbf")?.max(token::seconds(claims, "iat")?);
        if now >= expires_at.plus(LEEWAY) {
            return Err(Expired);
        }
        if begins_at.is_some_and(|begins| begins > now.plus(LEEWAY).unix_seconds()) {
            return Err(NotYetValid);
        }
        if expires_at > now.plus(LIFE_MAX).plus(LEEWAY) {
            return Err(LifetimeTooLong);
        }
        let id = token::name(claims, "jti", "jti")?.ok_or(ClaimMalformed("jti"))?.to_owned();
        match self.0.find(presented.key_id.as_deref(), presented.algorithm) {
            Found::Key(key) => presented.verify(key.decoding())?,
            Found::OtherAlgorithm => return Err(AlgorithmNotAllowed),
            Found::Nothing => return Err(KeyUnknown),
        }
        Ok(Asserted { id, until: expires_at.plus(LEEWAY) })
    }
}

/// Who an assertion says that its client is: to look for their keys, and for nothing else.
#[must_use]
pub fn client_named(text: &str) -> Option<String> {
    let claims = token::open(text).ok()?.claims;
    claims.get("sub").and_then(Value::as_str).filter(|name| token::is_name(name)).map(str::to_owned)
}

/// What assertions may be signed with.
pub const ALGORITHMS: [&str; 6] = ["ES256", "ES384", "EdDSA", "Ed25519", "PS256", "RS256"];

/// `typ`, where it is said: RFC 7523 has none, its successor this.
const TYPES: [&str; 2] = ["jwt", "client-authentication+jwt"];

/// Between the clocks of a client and of the gateway.
const LEEWAY: std::time::Duration = std::time::Duration::from_secs(30);

/// How long an assertion may be good: some libraries make them out for an hour.
const LIFE_MAX: std::time::Duration = std::time::Duration::from_secs(3_600);

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::identity::testing::ec;

    const NOW: Timestamp = Timestamp::from_unix_seconds(1_800_000_000);

    #[test]
    fn an_assertion_is_its_client_s_own_for_this_server_and_for_now() {
        let (signer, other) = (ec("k"), ec("k"));
        let keys = ClientKeys::read(json!({ "keys": [signer.jwk()] }).to_string().as_bytes()).unwrap();
        let audiences = ["https://gw.example".to_owned(), "https://gw.example/token".to_owned()];
        let seconds = NOW.unix_seconds();
        let claims = json!({
            "iss": "robot", "sub": "robot", "aud": "https://gw.example", "jti": "1", "iat": seconds, "exp": seconds + 60,
        });
        let judge = |change: &dyn Fn(&mut Value)| {
            let mut claims = claims.clone();
            change(&mut claims);
            let header = json!({ "alg": "ES256", "typ": "JWT", "kid": "k" });
            keys.check(&signer.sign(&header.to_string(), &claims.to_string()), ("robot", &audiences), NOW)
        };
        let good = judge(&|_| {}).unwrap();
        assert_eq!((good.id.as_str(), good.until), ("1", Timestamp::from_unix_seconds(seconds + 90)));
        assert!(judge(&|all| all["aud"] = json!(["https://gw.example/token"])).is_ok());
        let changes: [(&str, Value, TokenFault); 12] = [
            ("iss", json!("other"), IssuerMismatch),
            ("sub", json!("other"), IssuerMismatch),
            ("sub", Value::Null, ClaimMalformed("sub")),
            ("aud", json!("https://other.example"), AudienceMismatch),
            ("aud", json!(["https://gw.example", "https://other.example"]), AudienceMismatch),
            ("aud", Value::Null, ClaimMalformed("aud")),
            ("exp", json!(seconds - 31), Expired),
            ("exp", json!(seconds + 86_400), LifetimeTooLong),
            ("exp", json!("soon"), ClaimMalformed("exp")),
            ("iat", json!(seconds + 300), NotYetValid),
            ("nbf", json!(seconds + 300), NotYetValid),
            ("jti", json!(""), ClaimMalformed("jti")),
        ];
        for (claim, value, fault) in changes {
            assert_eq!(judge(&|all| all[claim] = value.clone()), Err(fault), "{claim}");
        }
        let signed = |header: Value| {
            keys.check(&other.sign(&header.to_string(), &claims.to_string()), ("robot", &audiences), NOW)
        };
        assert_eq!(signed(json!({ "alg": "ES256", "kid": "k" })), Err(SignatureInvalid));
        assert_eq!(signed(json!({ "alg": "ES256", "kid": "l" })), Err(KeyUnknown));
        assert_eq!(signed(json!({ "alg": "ES256", "typ": "at+jwt", "kid": "k" })), Err(TypeMismatch));
        assert_eq!(signed(json!({ "alg": "RS256", "kid": "k" })), Err(AlgorithmNotAllowed));
        let text = signer.sign(&json!({ "alg": "ES256" }).to_string(), &claims.to_string());
        assert_eq!(client_named(&text).as_deref(), Some("robot"));
        assert_eq!(client_named("x.y.z"), None);
    }
}
