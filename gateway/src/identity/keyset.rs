//! Which keys of this document may verify a token?
//!
//! A JWK Set (RFC 7517) in, usable public keys out. It does not fetch.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, DecodingKey};
use serde_json::{Map, Value};

use super::{strict, token};

/// No issuer needs more, and a token's `kid` is looked for among them.
pub(super) const KEYS_MAX: usize = 64;
/// RSA keys below 2048 bits are broken (RFC 7518 §3.3), those above 8192 make every verification an attack.
const MODULUS_BYTES: std::ops::RangeInclusive<usize> = 256..=1024;

/// One public key of an issuer.
pub(super) struct Key {
    id: Option<String>,
    fits: Fits,
    /// The key's own members: two keys are the same if these are.
    material: String,
    decoding: DecodingKey,
}

/// What a key's type, curve and `alg` leave open.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fits {
    One(Algorithm),
    AnyRsa,
}

impl Key {
    /// The key in the form that verifies.
    pub(super) const fn decoding(&self) -> &DecodingKey {
        &self.decoding
    }

    /// Whether it may verify signatures of this algorithm.
    pub(super) fn fits(&self, algorithm: Algorithm) -> bool {
        match self.fits {
            Fits::One(own) => own == algorithm,
            Fits::AnyRsa => is_rsa(algorithm),
        }
    }
}

impl std::fmt::Debug for Key {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Key").field("id", &self.id).finish_non_exhaustive()
    }
}

/// The keys of one issuer.
#[derive(Debug, Default)]
pub(super) struct KeySet(Vec<Key>);

/// What a look for a key came to.
#[derive(Debug)]
pub(super) enum Found<'a> {
    /// This one.
    Key(&'a Key),
    /// There is one of this name, but it is meant for another algorithm: the mark of a confusion attack.
    OtherAlgorithm,
    /// There is none.
    Nothing,
}

impl KeySet {
    /// Reads a JWK Set; says why where it has no usable key.
    pub(super) fn read(document: &[u8], allowed: &[String]) -> Result<Self, &'static str> {
        let document = strict::object(document).ok_or("the key set is not a JSON object, or has a member twice")?;
        let listed = document.get("keys").and_then(Value::as_array).ok_or("the key set has no `keys`")?;
        if listed.len() > KEYS_MAX {
            return Err("the key set has more than 64 keys");
        }
        let mut keys: Vec<Key> = Vec::new();
        for jwk in listed.iter().filter_map(Value::as_object) {
            // The first of two keys with one name stays.
            if let Some(key) = key(jwk, allowed)
                && !keys.iter().any(|known| known.id.is_some() && known.id == key.id)
            {
                keys.push(key);
            }
        }
        if keys.is_empty() { Err("the key set has no key that could verify a token") } else { Ok(Self(keys)) }
    }

    /// The key for a token's header. A token without `kid` is verified only where there is no choice to make.
    pub(super) fn find(&self, id: Option<&str>, algorithm: Algorithm) -> Found<'_> {
        let Some(id) = id else {
            let mut fitting = self.0.iter().filter(|key| key.fits(algorithm));
            return match (fitting.next(), fitting.next()) {
                (Some(key), None) => Found::Key(key),
                _ => Found::Nothing,
            };
        };
        match self.0.iter().find(|key| key.id.as_deref() == Some(id)) {
            Some(key) if key.fits(algorithm) => Found::Key(key),
            Some(_) => Found::OtherAlgorithm,
            None => Found::Nothing,
        }
    }

    /// Whether every key of `self` is in `newer` too, unchanged.
    pub(super) fn is_kept_by(&self, newer: &Self) -> bool {
        self.0.iter().all(|key| {
            newer.0.iter().any(|kept| kept.id == key.id && kept.material == key.material && kept.fits == key.fits)
        })
    }

    /// The names of keys of `self` that `newer` has no key of.
    pub(super) fn gone_from(&self, newer: &Self) -> impl Iterator<Item = &str> {
        let ids = self.0.iter().filter_map(|key| key.id.as_deref());
        ids.filter(|id| !newer.0.iter().any(|kept| kept.id.as_deref() == Some(id)))
    }

    /// How many keys there are.
    pub(super) const fn len(&self) -> usize {
        self.0.len()
    }
}

/// A key that may verify signatures of an algorithm on the allow-list; symmetric ones are never that.
pub(super) fn key(jwk: &Map<String, Value>, allowed: &[String]) -> Option<Key> {
    let text = |member: &str| jwk.get(member).and_then(Value::as_str);
    let id = match jwk.get("kid") {
        None => None,
        Some(id) => Some(id.as_str()?.to_owned()),
    };
    if jwk.get("use").is_some_and(|purpose| purpose.as_str() != Some("sig")) {
        return None;
    }
    let verifies = |operations: &Value| operations.as_array().is_some_and(|all| all.iter().any(|one| one == "verify"));
    if jwk.get("key_ops").is_some_and(|operations| !verifies(operations)) {
        return None;
    }
    let own = match jwk.get("alg") {
        None => None,
        Some(name) => Some(token::algorithm(name.as_str()?)?),
    };
    let (natural, decoding, material) = match text("kty")? {
        "RSA" => {
            let (modulus, exponent) = (text("n")?, text("e")?);
            let bytes = URL_SAFE_NO_PAD.decode(modulus).ok()?;
            let bytes = bytes.iter().skip_while(|byte| **byte == 0).count();
            if !MODULUS_BYTES.contains(&bytes) {
                return None;
            }
            let decoding = DecodingKey::from_rsa_components(modulus, exponent).ok()?;
            (Fits::AnyRsa, decoding, format!("RSA {modulus} {exponent}"))
        }
        "EC" => {
            let (curve, x, y) = (text("crv")?, text("x")?, text("y")?);
            let (algorithm, bytes) = match curve {
                "P-256" => (Algorithm::ES256, 32),
                "P-384" => (Algorithm::ES384, 48),
                _ => return None,
            };
            if [x, y].iter().any(|part| URL_SAFE_NO_PAD.decode(part).ok().is_none_or(|part| part.len() != bytes)) {
                return None;
            }
            (Fits::One(algorithm), DecodingKey::from_ec_components(x, y).ok()?, format!("{curve} {x} {y}"))
        }
        "OKP" if text("crv")? == "Ed25519" => {
            let x = text("x")?;
            if URL_SAFE_NO_PAD.decode(x).ok()?.len() != 32 {
                return None;
            }
            (Fits::One(Algorithm::EdDSA), DecodingKey::from_ed_components(x).ok()?, format!("Ed25519 {x}"))
        }
        _ => return None,
    };
    let fits = match (natural, own) {
        (natural, None) => natural,
        (Fits::AnyRsa, Some(own)) if is_rsa(own) => Fits::One(own),
        (Fits::One(natural), Some(own)) if natural == own => Fits::One(own),
        (Fits::AnyRsa | Fits::One(_), Some(_)) => return None,
    };
    let key = Key { id, fits, material, decoding };
    allowed.iter().filter_map(|name| token::algorithm(name)).any(|algorithm| key.fits(algorithm)).then_some(key)
}

fn is_rsa(algorithm: Algorithm) -> bool {
    [Algorithm::RS256, Algorithm::RS384, Algorithm::RS512, Algorithm::PS256, Algorithm::PS384, Algorithm::PS512]
        .contains(&algorithm)
}

#[cfg(test)]
mod tests {
    use jsonwebtoken::Algorithm;
    use serde_json::{Value, json};

    use super::{Found, KeySet};
    use crate::identity::testing::{Signer, ec, ed, rsa};

    fn read(keys: &[Value]) -> Result<KeySet, &'static str> {
        let allowed = ["ES256", "RS256", "EdDSA"].map(str::to_owned);
        KeySet::read(json!({ "keys": keys }).to_string().as_bytes(), &allowed)
    }

    fn with(signer: &Signer, member: &str, value: Value) -> Value {
        let mut jwk = signer.jwk();
        jwk[member] = value;
        jwk
    }

    #[test]
    fn only_keys_that_may_verify_are_kept() {
        let ec = ec("k");
        for unusable in [
            with(&ec, "use", json!("enc")),
            with(&ec, "key_ops", json!(["sign"])),
            with(&ec, "alg", json!("ES384")),
            with(&ec, "alg", json!("HS256")),
            with(&ec, "crv", json!("P-384")),
            with(&ec, "crv", json!("secp256k1")),
            with(&ec, "x", json!("AAAA")),
            with(&ec, "kid", json!(7)),
            json!({ "kty": "oct", "kid": "k", "k": "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0" }),
            with(&rsa("k"), "n", json!("AQAB")),
            with(&rsa("k"), "alg", json!("RS512")),
            with(&rsa("k"), "alg", json!("RSA-OAEP")),
            with(&ed("k"), "crv", json!("X25519")),
        ] {
            assert!(read(std::slice::from_ref(&unusable)).is_err(), "{unusable}");
        }
        assert_eq!(read(&[ec.jwk(), rsa("r").jwk(), ed("e").jwk()]).map(|set| set.len()), Ok(3));
        assert!(read(&vec![ec.jwk(); 65]).is_err());
        assert!(KeySet::read(br#"{"keys":[],"keys":[]}"#, &[]).is_err());
    }

    #[test]
    fn a_token_without_kid_is_taken_only_where_there_is_no_choice() {
        let one = read(&[ec("a").jwk(), rsa("r").jwk()]).unwrap();
        assert!(matches!(one.find(None, Algorithm::ES256), Found::Key(_)));
        let two = read(&[ec("a").jwk(), ec("b").jwk()]).unwrap();
        assert!(matches!(two.find(None, Algorithm::ES256), Found::Nothing));
    }

    #[test]
    fn a_key_of_the_right_name_for_another_algorithm_is_not_found() {
        let set = read(&[ec("a").jwk(), ec("a").jwk()]).unwrap();
        assert_eq!(set.len(), 1);
        assert!(matches!(set.find(Some("a"), Algorithm::RS256), Found::OtherAlgorithm));
        assert!(matches!(set.find(Some("A"), Algorithm::ES256), Found::Nothing));
    }

    #[test]
    fn a_key_that_vanished_or_changed_is_noticed() {
        let (a, b) = (ec("a"), ec("b"));
        let old = read(&[a.jwk()]).unwrap();
        assert!(old.is_kept_by(&read(&[b.jwk(), a.jwk()]).unwrap()));
        assert!(!old.is_kept_by(&read(&[b.jwk()]).unwrap()));
        assert!(!old.is_kept_by(&read(&[ec("a").jwk()]).unwrap()));
    }
}
