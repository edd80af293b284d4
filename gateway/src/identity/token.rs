//! Is this token genuine, for now, and of the right kind?
//!
//! A compact JWS in, its claims out. jsonwebtoken verifies the signature and nothing else: its claim validation lets a
//! missing `aud`, any `typ` and any `crit` pass, so every other rule of RFC 7519, RFC 8725 and RFC 9068 §4 is here.
//! It does not fetch keys, does not compare audiences with an endpoint, and does not know what the claims mean.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, DecodingKey};
use serde_json::{Map, Value};

use super::strict;
use crate::{
    clock::Timestamp,
    config::{Issuer, Profile},
    refusal::TokenFault,
};

/// Larger tokens do not fit the header limits of what stands before the gateway either.
pub(super) const TOKEN_BYTES_MAX: usize = 8 * 1024;
/// A JOSE header holds a handful of short members.
const HEADER_BYTES_MAX: usize = 1024;
/// A key id is a name, not a document.
const KEY_ID_BYTES_MAX: usize = 128;
/// Names of people, software and tokens.
const NAME_BYTES_MAX: usize = 256;

/// A token that has the shape of one; nothing is verified yet.
#[derive(Debug)]
pub(super) struct Presented<'a> {
    signed: &'a str,
    signature: &'a str,
    /// The algorithm that the header claims; asymmetric, for no other is known here.
    pub(super) algorithm: Algorithm,
    /// `kid`.
    pub(super) key_id: Option<String>,
    kind: Kind,
    /// `jwk`: of a proof of possession its key, and otherwise nobody's business.
    pub(super) key: Option<Value>,
    /// The claims, to be believed only after [`Presented::verify`].
    pub(super) claims: Map<String, Value>,
}

/// What `typ` says that the token is, lower case, `application/` removed (RFC 7515 §4.1.9).
#[derive(Debug, PartialEq, Eq)]
struct Kind(String);

/// RFC 9068 §2.1.
const ACCESS_TOKEN: &str = "at+jwt";
/// What says nothing about the kind; also the meaning of an absent `typ`.
const PLAIN: &str = "jwt";

/// Whether `token` says itself that it is a JWS, well made or not: three parts, and a header that is a JSON object. All
/// else is opaque, an encrypted token among it, for it is its issuer's to read.
pub(super) fn is_signed(token: &str) -> bool {
    let mut parts = token.split('.');
    let (header, rest) = (parts.next().unwrap_or_default(), parts.count());
    rest == 2 && URL_SAFE_NO_PAD.decode(header).is_ok_and(|header| strict::object(&header).is_some())
}

/// Takes `token` apart (RFC 7515 §5.2, steps 1 to 6).
pub(super) fn open(token: &str) -> Result<Presented<'_>, TokenFault> {
    if token.len() > TOKEN_BYTES_MAX {
        return Err(TokenFault::Malformed);
    }
    let (signed, signature) = token.rsplit_once('.').ok_or(TokenFault::Malformed)?;
    let (header, claims) = signed.split_once('.').ok_or(TokenFault::Malformed)?;
    if claims.contains('.') || signature.is_empty() {
        return Err(TokenFault::Malformed);
    }
    let header = URL_SAFE_NO_PAD.decode(header).map_err(malformed)?;
    if header.len() > HEADER_BYTES_MAX {
        return Err(TokenFault::Malformed);
    }
    let mut header = strict::object(&header).ok_or(TokenFault::Malformed)?;
    let claims = URL_SAFE_NO_PAD.decode(claims).map_err(malformed)?;
    let claims = strict::object(&claims).ok_or(TokenFault::Malformed)?;

    // An extension that must be understood and is not (RFC 7515 §4.1.11); `b64` (RFC 7797) is one.
    // `jku`, `x5u` and `x5c` are not read, nor `jwk` of a token: keys come from the issuer's configuration alone.
    if header.contains_key("crit") {
        return Err(TokenFault::HeaderMalformed("crit"));
    }
    let algorithm = match header.get("alg") {
        Some(Value::String(name)) => algorithm(name).ok_or(TokenFault::AlgorithmNotAllowed)?,
        _ => return Err(TokenFault::HeaderMalformed("alg")),
    };
    let key_id = match header.get("kid") {
        None => None,
        Some(Value::String(id)) if (1..=KEY_ID_BYTES_MAX).contains(&id.len()) => Some(id.clone()),
        Some(_) => return Err(TokenFault::HeaderMalformed("kid")),
    };
    let kind = match header.get("typ") {
        None => Kind(PLAIN.to_owned()),
        Some(Value::String(kind)) => Kind::of(kind),
        Some(_) => return Err(TokenFault::HeaderMalformed("typ")),
    };
    Ok(Presented { signed, signature, algorithm, key_id, kind, key: header.remove("jwk"), claims })
}

impl Presented<'_> {
    /// Whether `typ` says that it is of this kind.
    pub(super) fn is(&self, kind: &str) -> bool {
        self.kind.0 == kind
    }

    /// `iss`, by which the configured issuer is chosen.
    pub(super) fn issuer(&self) -> Result<&str, TokenFault> {
        text(&self.claims, "iss", "iss")?.ok_or(TokenFault::ClaimMalformed("iss"))
    }

    /// Everything that can be said before a key is looked up, cheapest first: what fails here costs no signature and
    /// no fetch.
    pub(super) fn check(&self, issuer: &Issuer, now: Timestamp) -> Result<(), TokenFault> {
        if !issuer.algorithms.iter().any(|name| algorithm(name) == Some(self.algorithm)) {
            return Err(TokenFault::AlgorithmNotAllowed);
        }
        self.check_kind(issuer)?;
        self.check_profile(issuer)?;
        self.check_common(issuer, now)
    }

    /// The same of a token that is of this kind (RFC 8725 §3.11), and no access token.
    pub(super) fn check_as(&self, kind: &str, issuer: &Issuer, now: Timestamp) -> Result<(), TokenFault> {
        if !issuer.algorithms.iter().any(|name| algorithm(name) == Some(self.algorithm)) {
            return Err(TokenFault::AlgorithmNotAllowed);
        }
        if Kind::of(kind) != self.kind {
            return Err(TokenFault::TypeMismatch);
        }
        self.check_common(issuer, now)
    }

    fn check_common(&self, issuer: &Issuer, now: Timestamp) -> Result<(), TokenFault> {
        self.check_times(issuer, now)?;
        name(&self.claims, "sub", "sub")?.ok_or(TokenFault::ClaimMalformed("sub"))?;
        self.audiences()?;
        Ok(())
    }

    /// The signature, under a key that is the issuer's and is meant for this algorithm.
    pub(super) fn verify(&self, key: &DecodingKey) -> Result<(), TokenFault> {
        match jsonwebtoken::crypto::verify(self.signature, self.signed.as_bytes(), key, self.algorithm) {
            Ok(true) => Ok(()),
            Ok(false) | Err(_) => Err(TokenFault::SignatureInvalid),
        }
    }

    /// `aud`.
    pub(super) fn audiences(&self) -> Result<Vec<String>, TokenFault> {
        audiences(&self.claims)
    }

    /// `exp`.
    pub(super) fn expires_at(&self) -> Result<Timestamp, TokenFault> {
        expires_at(&self.claims)
    }

    fn check_kind(&self, issuer: &Issuer) -> Result<(), TokenFault> {
        if self.kind.0 == ACCESS_TOKEN {
            return Ok(());
        }
        if !issuer.types.iter().any(|allowed| Kind::of(allowed) == self.kind) {
            return Err(TokenFault::TypeMismatch);
        }
        // A plain JWT of this issuer may as well be an ID token (OIDC Core §2), a logout token or another security
        // event (RFC 8417 §2.2): each has claims that an access token has not.
        let marked = ["nonce", "at_hash", "c_hash", "s_hash", "events"].iter().any(|m| self.claims.contains_key(*m));
        let says = |claim: &str, value: &str| self.claims.get(claim).and_then(Value::as_str) == Some(value);
        // Keycloak's and Cognito's own words for it.
        if marked || says("typ", "ID") || says("token_use", "id") {
            return Err(TokenFault::TypeMismatch);
        }
        Ok(())
    }

    fn check_times(&self, issuer: &Issuer, now: Timestamp) -> Result<(), TokenFault> {
        if self.kind.0 == ACCESS_TOKEN && !self.claims.contains_key("iat") {
            return Err(TokenFault::ClaimMalformed("iat")); // RFC 9068 §2.2
        }
        check_times(&self.claims, issuer, now)
    }

    /// What RFC 9068 §2.2 requires beyond what every token needs, where the issuer is held to it.
    fn check_profile(&self, issuer: &Issuer) -> Result<(), TokenFault> {
        match issuer.profile {
            Profile::Common => Ok(()),
            Profile::Rfc9068 if self.kind.0 != ACCESS_TOKEN => Err(TokenFault::TypeMismatch),
            Profile::Rfc9068 => {
                let required = |claim| name(&self.claims, claim, claim)?.ok_or(TokenFault::ClaimMalformed(claim));
                required("client_id").and(required("jti")).map(drop)
            }
        }
    }
}

/// `aud`: a string, or an array of strings (RFC 7519 §4.1.3); required (RFC 9068 §2.2).
pub(super) fn audiences(claims: &Map<String, Value>) -> Result<Vec<String>, TokenFault> {
    match claims.get("aud") {
        Some(Value::String(one)) if !one.is_empty() => Ok(vec![one.clone()]),
        Some(Value::Array(many)) if !many.is_empty() => strings(many, "aud"),
        _ => Err(TokenFault::ClaimMalformed("aud")),
    }
}

/// `exp`.
pub(super) fn expires_at(claims: &Map<String, Value>) -> Result<Timestamp, TokenFault> {
    seconds(claims, "exp")?.map(Timestamp::from_unix_seconds).ok_or(TokenFault::ClaimMalformed("exp"))
}

/// Whether `now` lies between `nbf` and `exp`, and these not too far apart.
pub(super) fn check_times(claims: &Map<String, Value>, issuer: &Issuer, now: Timestamp) -> Result<(), TokenFault> {
    let expires_at = expires_at(claims)?;
    let issued_at = seconds(claims, "iat")?;
    let not_before = seconds(claims, "nbf")?;
    if now >= expires_at.plus(issuer.leeway) {
        return Err(TokenFault::Expired);
    }
    let latest_start = now.plus(issuer.leeway).unix_seconds();
    if issued_at.max(not_before).is_some_and(|start| start > latest_start) {
        return Err(TokenFault::NotYetValid);
    }
    let issued_at = issued_at.map_or(now, Timestamp::from_unix_seconds);
    if expires_at.since(issued_at) > issuer.lifetime_max {
        return Err(TokenFault::LifetimeTooLong);
    }
    Ok(())
}

impl Kind {
    fn of(text: &str) -> Self {
        let text = text.to_ascii_lowercase();
        Self(text.strip_prefix("application/").map(str::to_owned).unwrap_or(text))
    }
}

/// The algorithms that exist for this gateway. None of them is symmetric, so a public key is never a MAC key, and
/// `none` is not a name (RFC 8725 §3.1, §3.2).
pub(super) fn algorithm(name: &str) -> Option<Algorithm> {
    match name {
        "RS256" => Some(Algorithm::RS256),
        "RS384" => Some(Algorithm::RS384),
        "RS512" => Some(Algorithm::RS512),
        "PS256" => Some(Algorithm::PS256),
        "PS384" => Some(Algorithm::PS384),
        "PS512" => Some(Algorithm::PS512),
        "ES256" => Some(Algorithm::ES256),
        "ES384" => Some(Algorithm::ES384),
        // RFC 9864 gives the one curve of EdDSA that is in use a name of its own.
        "EdDSA" | "Ed25519" => Some(Algorithm::EdDSA),
        _ => None,
    }
}

/// A string claim; `fault` is the word for the journal.
pub(super) fn text<'a>(
    claims: &'a Map<String, Value>,
    claim: &str,
    fault: &'static str,
) -> Result<Option<&'a str>, TokenFault> {
    match find(claims, claim) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(TokenFault::ClaimMalformed(fault)),
    }
}

/// A string claim that names somebody or something: short, not empty, printable.
pub(super) fn name<'a>(
    claims: &'a Map<String, Value>,
    claim: &str,
    fault: &'static str,
) -> Result<Option<&'a str>, TokenFault> {
    match text(claims, claim, fault)? {
        Some(text) if !is_name(text) => Err(TokenFault::ClaimMalformed(fault)),
        found => Ok(found),
    }
}

/// Short, not empty, printable.
pub(super) fn is_name(text: &str) -> bool {
    (1..=NAME_BYTES_MAX).contains(&text.len()) && !text.chars().any(char::is_control)
}

/// A claim by its name; a name that begins with `/` is a JSON pointer (RFC 6901) to a nested one.
pub(super) fn find<'a>(claims: &'a Map<String, Value>, claim: &str) -> Option<&'a Value> {
    let Some(path) = claim.strip_prefix('/') else { return claims.get(claim) };
    let (first, rest) = path.split_once('/').map_or((path, ""), |(first, rest)| (first, rest));
    let outer = claims.get(&first.replace("~1", "/").replace("~0", "~"))?;
    if rest.is_empty() { Some(outer) } else { outer.pointer(&format!("/{rest}")) }
}

/// An array of nothing but strings.
pub(super) fn strings(array: &[Value], fault: &'static str) -> Result<Vec<String>, TokenFault> {
    array.iter().map(|v| v.as_str().map(str::to_owned).ok_or(TokenFault::ClaimMalformed(fault))).collect()
}

/// `iat`; the beginning of time where an issuer does not say.
pub(super) fn issued_at(claims: &Map<String, Value>) -> Result<Timestamp, TokenFault> {
    Ok(Timestamp::from_unix_seconds(seconds(claims, "iat")?.unwrap_or_default()))
}

/// A NumericDate (RFC 7519 §2); whole seconds only, as every issuer sends them.
pub(super) fn seconds(claims: &Map<String, Value>, claim: &'static str) -> Result<Option<u64>, TokenFault> {
    match claims.get(claim) {
        None => Ok(None),
        Some(value) => value.as_u64().map(Some).ok_or(TokenFault::ClaimMalformed(claim)),
    }
}

fn malformed(_: base64::DecodeError) -> TokenFault {
    TokenFault::Malformed
}
