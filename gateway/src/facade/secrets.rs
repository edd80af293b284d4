//! Where do values come from that nobody may guess, and under which names are they kept?
//!
//! Codes, refresh tokens, states and cookies are random; the store knows them by digest only, so that who reads its keys
//! has none of them. It does not know what they are good for.

use aws_lc_rs::{constant_time, digest, rand};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};

use crate::refusal::Refusal;

/// 256 random bits as 43 characters.
pub(super) fn random() -> Result<String, Refusal> {
    let mut bytes = [0; 32];
    rand::fill(&mut bytes).map_err(|_unspecified| Refusal::Bug("the machine gave no randomness"))?;
    Ok(URL_SAFE_NO_PAD.encode(bytes))
}

/// Whether this may be such a value.
pub(super) fn is_random(text: &str) -> bool {
    text.len() == 43 && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
}

/// SHA-256 in base64url: also PKCE's S256 (RFC 7636 §4.2).
pub(super) fn hashed(text: &str) -> String {
    URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, text.as_bytes()))
}

/// SHA-256 over parts that each say their length first (u64, big endian): no two lists of parts give the same bytes.
pub(super) fn name_of(parts: &[&str]) -> [u8; 32] {
    let mut context = digest::Context::new(&digest::SHA256);
    for part in parts {
        context.update(&u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
        context.update(part.as_bytes());
    }
    let mut name = [0; 32];
    for (to, from) in name.iter_mut().zip(context.finish().as_ref()) {
        *to = *from;
    }
    name
}

/// Whether two values are the same, in a time that does not say where they differ.
pub(super) fn same(one: &str, other: &str) -> bool {
    // Digests have one length, which the comparison may show.
    constant_time::verify_slices_are_equal(hashed(one).as_bytes(), hashed(other).as_bytes()).is_ok()
}

#[cfg(test)]
mod tests {
    use super::{hashed, is_random, name_of, random, same};

    #[test]
    fn values_are_long_and_named_by_digest() {
        let (one, other) = (random().unwrap(), random().unwrap());
        assert!(is_random(&one) && one != other && is_random(&hashed(&one)));
        assert!(!is_random("x") && !is_random(&format!("{one}=")));
        // RFC 7636, appendix B.
        assert_eq!(
            hashed("dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"),
            "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"
        );
        assert_ne!(name_of(&["a", "bc"]), name_of(&["ab", "c"]));
        assert!(same(&one, &one.clone()) && !same(&one, &other) && !same("", "a"));
    }
}
