//! Does whoever sent this hold the key, here and now?
//!
//! A DPoP proof in (RFC 9449), what is left to be asked of it out: a proof is good for one method, one URL, one token, one
//! key and a short time, and each of these is compared here (§4.3). It remembers nothing: whether a proof was shown
//! before, and whether its nonce is ours, `sender` says.

use serde_json::{Map, Value};
use url::Url;

use super::{keyset, token};
use crate::{
    clock::Timestamp,
    config::Dpop,
    digest,
    refusal::{
        ProofFault::{self, *},
        TokenFault,
    },
};

/// What a proof has to be made out to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Expected<'a> {
    /// The HTTP method.
    pub(super) method: &'a str,
    /// Scheme, host and port under which clients know the gateway.
    pub(super) origin: &'a Url,
    /// The path.
    pub(super) path: &'a str,
    /// The token that it comes with, and the thumbprint of the key that this is bound to; neither is there yet where a token
    /// is asked for (RFC 9449 §5).
    pub(super) bound: Option<(&'a str, &'a str)>,
    /// What the administrator wants of proofs.
    pub(super) wanted: &'a Dpop,
}

/// A proof that fits; it may have been shown before.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Proof {
    /// `jti`.
    pub(super) id: String,
    /// `nonce`.
    pub(super) nonce: Option<String>,
    /// The thumbprint of the key that signed it.
    pub(super) thumbprint: String,
}

/// Judges a proof: what costs nothing first, the signature once everything else fits.
pub(super) fn check(text: &str, expected: &Expected<'_>, now: Timestamp) -> Result<Proof, ProofFault> {
    let presented = token::open(text)
        .map_err(|fault| if fault == TokenFault::AlgorithmNotAllowed { AlgorithmNotAllowed } else { Malformed })?;
    if !presented.is(PROOF_TYPE) {
        return Err(TypeMismatch);
    }
    if !expected.wanted.algorithms.iter().any(|name| token::algorithm(name) == Some(presented.algorithm)) {
        return Err(AlgorithmNotAllowed);
    }
    let claims = &presented.claims;
    check_request(claims, expected)?;
    let issued_at = claims.get("iat").and_then(Value::as_u64).ok_or(Malformed)?;
    if now.unix_seconds().abs_diff(issued_at) > expected.wanted.window.as_secs() {
        return Err(TimeOutOfWindow);
    }
    let id = text_of(claims, "jti")?.filter(|id| token::is_name(id)).ok_or(Malformed)?.to_owned();
    let nonce = text_of(claims, "nonce")?.map(str::to_owned);

    let jwk = presented.key.as_ref().and_then(Value::as_object).ok_or(KeyMalformed)?;
    // Who shows a private key has lost it (§4.3, check 7).
    if PRIVATE_MEMBERS.iter().any(|member| jwk.contains_key(*member)) {
        return Err(KeyMalformed);
    }
    let thumbprint = thumbprint(jwk).ok_or(KeyMalformed)?;
    if expected.bound.is_some_and(|(_, wanted)| thumbprint != wanted) {
        return Err(KeyMismatch);
    }
    let key = keyset::key(jwk, &expected.wanted.algorithms).ok_or(KeyMalformed)?;
    if !key.fits(presented.algorithm) {
        return Err(AlgorithmNotAllowed);
    }
    presented.verify(key.decoding()).map_err(|_fault| SignatureInvalid)?;
    Ok(Proof { id, nonce, thumbprint })
}

/// `htm`, `htu`, and `ath` where there is a token.
fn check_request(claims: &Map<String, Value>, expected: &Expected<'_>) -> Result<(), ProofFault> {
    if text_of(claims, "htm")? != Some(expected.method) {
        return Err(MethodMismatch);
    }
    if !text_of(claims, "htu")?.is_some_and(|url| is_same_place(url, expected.origin, expected.path)) {
        return Err(UrlMismatch);
    }
    let Some((token, _)) = expected.bound else { return Ok(()) };
    let digest = digest::base64(token);
    if text_of(claims, "ath")? != Some(digest.as_str()) {
        return Err(TokenMismatch);
    }
    Ok(())
}

/// Whether `text` is the URL of `path` at `origin`, query and fragment aside (§4.3, check 9), once both are normalised
/// (RFC 3986 §6.2.2, §6.2.3). The URL standard's parser does so but for percent-encoded letters.
fn is_same_place(text: &str, origin: &Url, path: &str) -> bool {
    let Ok(url) = Url::parse(text) else { return false };
    url.origin() == origin.origin()
        && url.username().is_empty()
        && url.password().is_none()
        && unreserved(url.path()).is_some_and(|found| found == path)
}

/// A path without percent-encoded characters; the gateway's own paths need none, so one that has another is not ours.
fn unreserved(path: &str) -> Option<String> {
    let mut parts = path.split('%');
    let mut out = parts.next()?.to_owned();
    for part in parts {
        let (digits, rest) = part.split_at_checked(2)?;
        let byte = u8::from_str_radix(digits, 16).ok()?;
        if !byte.is_ascii_alphanumeric() && !b"-._~".contains(&byte) {
            return None;
        }
        out.push(char::from(byte));
        out.push_str(rest);
    }
    Some(out)
}

/// The JWK thumbprint (RFC 7638 §3): SHA-256 over the members that make the key, in their order, in base64url.
pub(super) fn thumbprint(jwk: &Map<String, Value>) -> Option<String> {
    let members: &[&str] = match jwk.get("kty")?.as_str()? {
        "EC" => &["crv", "kty", "x", "y"],
        "OKP" => &["crv", "kty", "x"],
        "RSA" => &["e", "kty", "n"],
        _ => return None,
    };
    let members: Option<Vec<String>> = members
        .iter()
        .map(|name| jwk.get(*name).filter(|value| value.is_string()).map(|value| format!("\"{name}\":{value}")))
        .collect();
    let text = format!("{{{}}}", members?.join(","));
    Some(digest::base64(text))
}

fn text_of<'a>(claims: &'a Map<String, Value>, name: &str) -> Result<Option<&'a str>, ProofFault> {
    match claims.get(name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(Malformed),
    }
}

/// RFC 9449 §4.2.
const PROOF_TYPE: &str = "dpop+jwt";
/// What only the holder of a key may know (RFC 7518 §6).
const PRIVATE_MEMBERS: [&str; 8] = ["d", "p", "q", "dp", "dq", "qi", "oth", "k"];
