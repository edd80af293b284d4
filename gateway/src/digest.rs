//! Under which name is something known that is not said?
//!
//! SHA-256 of it, or of several fields that each say their length first, so that no two lists of fields have one name; and
//! the one hexadecimal, in which names, MACs and the ids of traces are written. It does not know what it names.

use aws_lc_rs::{
    constant_time::verify_slices_are_equal,
    digest::{SHA256, digest},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};

/// A name of several fields, in the making.
#[derive(Debug, Default)]
pub struct Name(Vec<u8>);

impl Name {
    /// Of what is named for `purpose`, and of no field yet.
    #[must_use]
    pub fn of(purpose: &str) -> Self {
        let mut name = Self(Vec::with_capacity(FIELDS_BYTES));
        name.add(purpose);
        name
    }

    /// One more field.
    pub fn add(&mut self, field: impl AsRef<[u8]>) {
        let field = field.as_ref();
        self.count(field.len());
        self.0.extend_from_slice(field);
    }

    /// One more, or none: which is not the same as an empty one.
    pub fn maybe(&mut self, field: Option<impl AsRef<[u8]>>) {
        self.all(field.into_iter());
    }

    /// As many as there are, which is said first.
    pub fn all(&mut self, fields: impl ExactSizeIterator<Item = impl AsRef<[u8]>>) {
        self.count(fields.len());
        fields.for_each(|field| self.add(field));
    }

    /// The name.
    #[must_use]
    pub fn finish(&self) -> [u8; 32] {
        sha256(&self.0)
    }

    fn count(&mut self, count: usize) {
        self.0.extend_from_slice(&u64::try_from(count).unwrap_or(u64::MAX).to_be_bytes());
    }
}

/// The name of a few fields.
#[must_use]
pub fn name_of(purpose: &str, fields: &[&str]) -> [u8; 32] {
    let mut name = Name::of(purpose);
    fields.iter().for_each(|field| name.add(field));
    name.finish()
}

/// SHA-256.
#[must_use]
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut name = [0; 32];
    name.copy_from_slice(digest(&SHA256, bytes).as_ref());
    name
}

/// The same in base64url: also PKCE's S256 (RFC 7636 §4.2), and thumbprints.
#[must_use]
pub fn base64(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(sha256(bytes.as_ref()))
}

/// Half of it, in hex: names a credential in a record without being it.
#[must_use]
pub fn short(text: &str) -> String {
    sha256(text.as_bytes()).first_chunk::<16>().map_or_else(String::new, |half| hex(half))
}

/// Bytes in hex, lower case.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    let mut text = Vec::with_capacity(bytes.len().saturating_mul(2));
    push_hex(&mut text, bytes);
    String::from_utf8(text).unwrap_or_default()
}

/// Appends bytes in hex, lower case.
pub fn push_hex(out: &mut Vec<u8>, bytes: &[u8]) {
    let start = out.len();
    out.resize(start.saturating_add(bytes.len().saturating_mul(2)), b'0');
    let (pairs, _none) = out.get_mut(start..).unwrap_or_default().as_chunks_mut();
    // Into room that is there already, and without a branch: every call has some hundred digits of it.
    for (pair, byte) in pairs.iter_mut().zip(bytes) {
        *pair = [digit(byte >> 4), digit(byte & 0xf)];
    }
}

/// Reads hex of exactly `N` bytes. Upper case is refused: one value has one spelling.
#[must_use]
pub fn unhex<const N: usize>(text: &[u8]) -> Option<[u8; N]> {
    if text.len() != N.checked_mul(2)? {
        return None;
    }
    let mut bytes = [0_u8; N];
    for (byte, [high, low]) in bytes.iter_mut().zip(text.as_chunks().0) {
        *byte = (value(*high)? << 4) | value(*low)?;
    }
    Some(bytes)
}

const fn digit(value: u8) -> u8 {
    if value < 10 { b'0'.wrapping_add(value) } else { b'a'.wrapping_sub(10).wrapping_add(value) }
}

const fn value(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit.wrapping_sub(b'0')),
        b'a'..=b'f' => Some(digit.wrapping_sub(b'a').wrapping_add(10)),
        _ => None,
    }
}

/// Whether two values are the same, in a time that does not say where they differ.
#[must_use]
pub fn same(one: &str, other: &str) -> bool {
    // Digests have one length, which the comparison may show.
    verify_slices_are_equal(&sha256(one.as_bytes()), &sha256(other.as_bytes())).is_ok()
}

/// Room for the fields that name a credential.
const FIELDS_BYTES: usize = 384;

#[cfg(test)]
mod tests {
    use super::{Name, base64, hex, name_of, push_hex, same, short, unhex};

    #[test]
    fn no_two_lists_have_one_name() {
        let mut names = vec![name_of("x", &["a", "bc"]), name_of("x", &["ab", "c"]), name_of("xa", &["bc"])];
        let lists: [&[&str]; 3] = [&["a", "bc"], &[], &["", ""]];
        names.extend(lists.map(|list| {
            let mut name = Name::of("x");
            name.all(list.iter());
            name.finish()
        }));
        names.extend([None, Some("")].map(|field| {
            let mut name = Name::of("y");
            name.maybe(field);
            name.finish()
        }));
        let all: std::collections::HashSet<_> = names.iter().collect();
        assert_eq!(all.len(), names.len());
    }

    #[test]
    fn hex_has_one_spelling() {
        let bytes: [u8; 256] = std::array::from_fn(|at| u8::try_from(at).unwrap());
        let text = hex(&bytes);
        assert_eq!(text, bytes.map(|byte| format!("{byte:02x}")).concat());
        assert_eq!(unhex(text.as_bytes()), Some(bytes));
        let mut out = b"mac:".to_vec();
        push_hex(&mut out, &[0x0a, 0xf9]);
        assert_eq!(out, b"mac:0af9");
        let others: [&[u8]; 6] = [b"", b"0a0", b"0a0b0", b"0A0b", b"0a0g", b"0a 0"];
        assert!(others.iter().all(|text| unhex::<2>(text).is_none()));
    }

    #[test]
    fn values_are_named_and_compared_by_digest() {
        // RFC 7636, appendix B.
        let (verifier, challenge) =
            ("dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk", "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM");
        assert_eq!(base64(verifier), challenge);
        // FIPS 180-4, the digest of "abc".
        assert_eq!(short("abc"), "ba7816bf8f01cfea414140de5dae2223");
        assert!(same("one", "one") && !same("one", "other") && !same("", "a"));
    }
}
