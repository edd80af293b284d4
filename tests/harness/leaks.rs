//! Did a caller's credential turn up where it has no business?
//!
//! Every token that the tests' own issuers sign is remembered, and every recorder looks for all of them in all that it
//! took in when its test ends: headers, addresses, bodies, whatever the test is about. An issuer may see a token in the
//! body of a POST, for that is how one is exchanged. It does not see what published servers are sent.

use std::collections::HashSet;

use parking_lot::Mutex;

/// Payloads and signatures, which are unlike those of any other token.
static SIGNED: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Remembers a token that a caller will present.
pub(crate) fn remember(token: &str) {
    let parts = token.split('.').skip(1).filter(|part| part.len() >= PART_BYTES_MIN);
    SIGNED.lock().extend(parts.map(str::to_owned));
}

/// A part of a caller's token that stands in `bytes`, by itself or within something longer.
pub(crate) fn found_in(bytes: &[u8]) -> Option<String> {
    let signed = SIGNED.lock();
    let known: HashSet<&str> = signed.iter().map(String::as_str).collect();
    let in_token = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    let runs = bytes.split(|byte| !in_token(byte)).filter(|run| run.len() >= PART_BYTES_MIN);
    for run in runs.filter_map(|run| std::str::from_utf8(run).ok()) {
        if known.contains(run) {
            return Some(run.to_owned());
        }
        // What is longer than a signature may hold one; there is little of it.
        let within = (run.len() > SIGNATURE_BYTES).then(|| signed.iter().find(|part| run.contains(part.as_str())));
        if let Some(part) = within.flatten() {
            return Some(part.clone());
        }
    }
    None
}

/// Shorter parts are no proof.
const PART_BYTES_MIN: usize = 43;

/// Of ES256, in base64url.
const SIGNATURE_BYTES: usize = 86;
