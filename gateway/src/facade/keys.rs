//! With which keys does the gateway sign now?
//!
//! ES256 keys that every process of an estate finds in the store: a key is published a day before it signs, and for as
//! long after as its last token lives. It knows no claims.

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use aws_lc_rs::{
    digest,
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use serde_json::{Value, json};

use crate::{
    clock::Timestamp,
    refusal::Refusal,
    state::{self, Place, Store, StoreFault},
};

/// The keys that are known to this process.
#[derive(Debug)]
pub(super) struct Keys(ArcSwap<Ring>);

/// The keys of one look into the store, the first to sign first.
#[derive(Debug, Default)]
struct Ring {
    keys: Vec<Key>,
    published: Bytes,
}

struct Key {
    number: u64,
    id: String,
    pair: EcdsaKeyPair,
    signs_from: Timestamp,
}

impl std::fmt::Debug for Key {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Key").field("id", &self.id).finish_non_exhaustive()
    }
}

impl Keys {
    pub(super) fn new() -> Self {
        Self(ArcSwap::default())
    }

    /// Looks into the store, and makes the key that will be needed next.
    ///
    /// # Errors
    /// [`Refusal::StateUnavailable`]; what was known stays known.
    pub(super) async fn look(&self, store: &Store, now: Timestamp) -> Result<(), Refusal> {
        let mut ring = read(store, now).await?;
        // One that cannot be read is there, and its number taken.
        for taken in 0..TAKEN_MAX {
            let Some((number, signs_from)) = due(&ring, now) else { break };
            let number = number.saturating_add(taken);
            // Of two processes that find the same gap, one fills it.
            let value = made(signs_from)?;
            store.claim(Place::SigningKey, &number.to_be_bytes(), value, now).await.map_err(unavailable)?;
            ring = read(store, now).await?;
        }
        self.0.store(Arc::new(ring));
        Ok(())
    }

    /// The key set as it is published (RFC 7517 §5); empty before the first look.
    pub(super) fn published(&self) -> Bytes {
        self.0.load().published.clone()
    }

    /// A JWS of these claims (RFC 7515 §3.1), with this `typ`.
    pub(super) fn sign(&self, kind: &str, claims: &Value, now: Timestamp) -> Result<String, Refusal> {
        let ring = self.0.load();
        let key = ring.keys.iter().rev().find(|key| key.signs_from <= now);
        let key = key.ok_or_else(|| Refusal::StateUnavailable("no key to sign with".to_owned()))?;
        let header = json!({ "alg": "ES256", "typ": kind, "kid": key.id }).to_string();
        let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims.to_string()));
        let signature = key.pair.sign(&SystemRandom::new(), signed.as_bytes());
        let signature = signature.map_err(|_unspecified| Refusal::Bug("the key does not sign"))?;
        Ok(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }
}

/// Numbers that are tried for one key.
const TAKEN_MAX: u64 = 8;

/// The number of a key that is to be made now, and when it begins to sign: the very first at once, each other a while
/// before the one before it has signed for its time.
fn due(ring: &Ring, now: Timestamp) -> Option<(u64, Timestamp)> {
    let Some(last) = ring.keys.last() else { return Some((1, now)) };
    if ring.keys.iter().all(|key| now < key.signs_from) {
        return Some((last.number.saturating_add(1), now));
    }
    let ends = last.signs_from.plus(SIGNS_FOR);
    (now.plus(PUBLISHED_BEFORE) >= ends).then(|| (last.number.saturating_add(1), ends.max(now.plus(KNOWN_AFTER))))
}

async fn read(store: &Store, now: Timestamp) -> Result<Ring, Refusal> {
    let mut keys = Vec::new();
    for (name, value) in store.readable(Place::SigningKey, now).await.map_err(unavailable)? {
        // A name that is no number is not of this module's giving: it must not keep everybody from logging in.
        let Ok(number) = <[u8; 8]>::try_from(name.as_slice()) else { continue };
        keys.push(key(u64::from_be_bytes(number), &value).ok_or_else(|| unusable("a signing key"))?);
    }
    keys.sort_by_key(|key| key.number);
    let published: Vec<Value> = keys.iter().map(jwk).collect();
    Ok(Ring { published: Bytes::from(json!({ "keys": published }).to_string()), keys })
}

fn key(number: u64, value: &[u8]) -> Option<Key> {
    let (signs_from, document) = value.split_first_chunk()?;
    let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, document).ok()?;
    let name = digest::digest(&digest::SHA256, pair.public_key().as_ref());
    let id = URL_SAFE_NO_PAD.encode(name.as_ref().first_chunk::<12>()?);
    Some(Key { number, id, pair, signs_from: Timestamp::from_unix_ms(u64::from_be_bytes(*signs_from)) })
}

/// A new key as it is kept: when it begins to sign (milliseconds, big endian), then PKCS#8.
fn made(signs_from: Timestamp) -> Result<state::Value, Refusal> {
    let random = SystemRandom::new();
    let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random)
        .map_err(|_unspecified| Refusal::Bug("no key can be made"))?;
    let bytes = [&signs_from.unix_ms().to_be_bytes(), document.as_ref()].concat();
    Ok(state::Value { bytes, until: Some(signs_from.plus(SIGNS_FOR).plus(KEPT_AFTER)) })
}

/// RFC 7518 §6.2.1: the point's coordinates, after the byte that says that both are there.
fn jwk(key: &Key) -> Value {
    let point = key.pair.public_key().as_ref();
    let part = |range: std::ops::Range<usize>| URL_SAFE_NO_PAD.encode(point.get(range).unwrap_or_default());
    json!({ "kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig", "kid": key.id, "x": part(1..33), "y": part(33..65) })
}

pub(super) fn unavailable(fault: StoreFault) -> Refusal {
    Refusal::StateUnavailable(fault.to_string())
}

pub(super) fn unusable(what: &str) -> Refusal {
    Refusal::StateUnavailable(format!("{what} cannot be read"))
}

/// How long a key signs.
const SIGNS_FOR: Duration = Duration::from_secs(30 * 24 * 3600);
/// How long before that it is published, so that everybody who keeps key sets has it by then.
const PUBLISHED_BEFORE: Duration = Duration::from_secs(24 * 3600);
/// How soon a key may sign that was not made in time: the other processes have looked by then.
const KNOWN_AFTER: Duration = Duration::from_secs(60);
/// How long it is published after it has signed for the last time: more than any token lives.
const KEPT_AFTER: Duration = Duration::from_secs(2 * 3600);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    fn ids(keys: &Keys) -> Vec<String> {
        let published: Value = serde_json::from_slice(&keys.published()).unwrap();
        published["keys"].as_array().unwrap().iter().map(|key| key["kid"].as_str().unwrap().to_owned()).collect()
    }

    fn signs_with(keys: &Keys, now: Timestamp) -> String {
        let token = keys.sign("at+jwt", &json!({}), now).unwrap();
        let header = URL_SAFE_NO_PAD.decode(token.split('.').next().unwrap()).unwrap();
        serde_json::from_slice::<Value>(&header).unwrap()["kid"].as_str().unwrap().to_owned()
    }

    #[tokio::test]
    async fn a_key_is_published_before_it_signs_and_after() {
        let store = Store::open(&config::State::default()).unwrap();
        let (one, other) = (Keys::new(), Keys::new());
        let start = Timestamp::from_unix_seconds(1_800_000_000);
        assert!(one.sign("at+jwt", &json!({}), start).is_err(), "nothing was looked for yet");
        one.look(&store, start).await.unwrap();
        other.look(&store, start).await.unwrap();
        let first = ids(&one);
        assert_eq!((first.len(), &first), (1, &ids(&other)), "one key for both");

        let before_end = start.plus(SIGNS_FOR);
        let a_day_before = start.plus(SIGNS_FOR.saturating_sub(PUBLISHED_BEFORE));
        other.look(&store, a_day_before).await.unwrap();
        let both = ids(&other);
        assert_eq!((both.len(), &both[0]), (2, &first[0]));
        assert_eq!(signs_with(&other, a_day_before), first[0], "published, and not signing yet");
        one.look(&store, before_end).await.unwrap();
        assert_eq!((ids(&one), signs_with(&one, before_end)), (both.clone(), both[1].clone()));

        let after_tokens = before_end.plus(KEPT_AFTER);
        one.look(&store, after_tokens).await.unwrap();
        assert_eq!(ids(&one), both[1..]);
    }

    #[tokio::test]
    async fn what_another_keeps_in_the_place_is_no_key_of_these() {
        let store = Store::open(&config::State::default()).unwrap();
        let start = Timestamp::from_unix_seconds(1_800_000_000);
        let other = state::Value { bytes: b"PKCS#8".to_vec(), until: None };
        assert!(store.claim(Place::SigningKey, b"dpop", other, start).await.unwrap());
        let keys = Keys::new();
        keys.look(&store, start).await.unwrap();
        assert_eq!(ids(&keys), [signs_with(&keys, start)]);
    }

    #[tokio::test]
    async fn an_estate_that_slept_does_not_sign_with_what_nobody_knows() {
        let store = Store::open(&config::State::default()).unwrap();
        let keys = Keys::new();
        let start = Timestamp::from_unix_seconds(1_800_000_000);
        keys.look(&store, start).await.unwrap();
        let late = start.plus(SIGNS_FOR).plus(Duration::from_secs(60));
        keys.look(&store, late).await.unwrap();
        let both = ids(&keys);
        assert_eq!(signs_with(&keys, late), both[0]);
        assert_eq!(signs_with(&keys, late.plus(KNOWN_AFTER)), both[1]);
    }
}
