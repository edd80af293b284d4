//! Did a credential of a caller turn up where it has no business?
//!
//! What callers show to a gateway is remembered where it is made: signed and opaque tokens, of the tests' issuers and of
//! real providers, API keys, proofs, certificates, and what the facade gives its clients and they prove themselves by. Every
//! recorder, also the one that takes in a gateway's traces, looks for all of it in all that came to it when its test ends:
//! headers, addresses, bodies, whatever the test is about; and every gateway's output, journal and state are searched then.
//! A provider may see a token in the field in which it is exchanged or asked about. What published servers are sent is not
//! seen.

use aho_corasick::AhoCorasick;
use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use parking_lot::Mutex;

use super::certificates::Leaf;

/// What nobody but the gateway may see.
static OWN: Mutex<Vec<Vec<u8>>> = Mutex::new(Vec::new());

/// What a provider may see besides.
static TOKENS: Mutex<Vec<Vec<u8>>> = Mutex::new(Vec::new());

/// Remembers an access token that a caller will present.
pub(crate) fn remember(token: &str) {
    TOKENS.lock().extend(parts(token));
}

/// Remembers a credential that is for the gateway alone: a key, a proof, a code, a secret.
pub(crate) fn remember_own(credential: &str) {
    OWN.lock().extend(parts(credential));
}

/// Remembers a certificate that a client shows, in the forms in which it could be handed on.
pub(crate) fn remember_certificate(leaf: &Leaf) {
    let der = leaf.der().to_vec();
    let text = BASE64.encode(&der);
    // In lines and percent-encoded, too.
    let pieces = text.split(['+', '/', '=']).flat_map(|piece| piece.as_bytes().chunks_exact(BYTES_MIN));
    OWN.lock().extend(pieces.map(<[u8]>::to_vec));
    OWN.lock().push(der);
}

/// A part of a caller's credential that stands in `bytes`, by itself or within something longer.
pub(crate) fn found_in(bytes: &[u8]) -> Option<String> {
    let known = [OWN.lock().clone(), TOKENS.lock().clone()].concat();
    find(&known, bytes)
}

/// The same, of what no provider may see either.
pub(crate) fn own_found_in(bytes: &[u8]) -> Option<String> {
    find(&OWN.lock().clone(), bytes)
}

fn find(known: &[Vec<u8>], bytes: &[u8]) -> Option<String> {
    let found = AhoCorasick::new(known).unwrap().find(bytes)?;
    Some(String::from_utf8_lossy(&known[found.pattern().as_usize()]).into_owned())
}

/// Payload and signature of what is signed, which are unlike those of any other; all of anything else.
fn parts(credential: &str) -> Vec<Vec<u8>> {
    let signed = credential.split('.').count() == 3;
    let (skipped, shortest) = if signed { (1, PART_BYTES_MIN) } else { (0, BYTES_MIN) };
    let parts = credential.split(|c| signed && c == '.').skip(skipped);
    parts.filter(|part| part.len() >= shortest).map(|part| part.as_bytes().to_vec()).collect()
}

/// Shorter parts of what is signed are no proof.
const PART_BYTES_MIN: usize = 43;

/// Shorter words are no credentials.
const BYTES_MIN: usize = 20;
