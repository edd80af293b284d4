//! Whose token is this, and for whom?
//!
//! Reads the development issuer's own tokens, for the issuer and for the sample servers. The gateway does not use it:
//! `identity` reads tokens there.

use http::{HeaderMap, header::AUTHORIZATION};
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde_json::{Map, Value};

/// The verified claims of a token.
pub(super) type Claims = Map<String, Value>;

/// Checks signature, type, issuer, audience and time (RFC 9068 §4).
pub(super) fn verified(token: &str, key: &DecodingKey, issuer: &str, audiences: &[&str]) -> Option<Claims> {
    let mut rules = Validation::new(Algorithm::ES256);
    rules.set_issuer(&[issuer]);
    rules.set_audience(audiences);
    rules.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
    rules.leeway = LEEWAY_SECONDS;
    let token = jsonwebtoken::decode::<Claims>(token, key, &rules).ok()?;
    (token.header.typ.as_deref() == Some(TYPE)).then_some(token.claims)
}

/// The token of an `Authorization: Bearer` header (RFC 6750 §2.1).
pub(super) fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token)
}

/// Whether the space-separated `scope` claim holds `scope`.
pub(super) fn holds(claims: &Claims, scope: &str) -> bool {
    text(claims, "scope").split(' ').any(|held| held == scope)
}

/// A claim that is text, or nothing.
pub(super) fn text<'a>(claims: &'a Claims, name: &str) -> &'a str {
    claims.get(name).and_then(Value::as_str).unwrap_or_default()
}

/// RFC 9068 §2.1.
pub(super) const TYPE: &str = "at+jwt";

const LEEWAY_SECONDS: u64 = 5;
