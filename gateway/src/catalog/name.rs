//! Under which name is a tool or prompt known on the federated endpoint?
//!
//! Names only; the way back is the catalogue's table, never this module.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};

use super::Kind;
use crate::{
    config::UpstreamId,
    digest::{hex, sha256},
};

/// `<upstream>__<name>`, within what model APIs take for a tool name: 64 characters of `[A-Za-z0-9_-]`.
/// A name that has to be changed for that ends in a digest of the original, so that two never become one.
pub(super) fn federated(upstream: &UpstreamId, name: &str) -> String {
    let plain = format!("{upstream}{SEPARATOR}{name}");
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if plain.len() <= NAME_BYTES_MAX && plain.chars().all(fits) {
        return plain;
    }
    let suffix = sha256(name.as_bytes()).first_chunk::<SUFFIX_BYTES>().map_or_else(String::new, |head| hex(head));
    let kept = NAME_BYTES_MAX.saturating_sub(suffix.len()).saturating_sub(1);
    let head: String = plain.chars().map(|c| if fits(c) { c } else { '_' }).take(kept).collect();
    format!("{head}_{suffix}")
}

/// A cursor names the last definition given out, and its list. It carries nothing that has to be kept from the client: what may be seen is
/// judged again on every page.
pub(super) fn to_cursor(kind: Kind, name: &str) -> String {
    URL_SAFE_NO_PAD.encode(format!("{CURSOR_VERSION}{}:{name}", kind.list().1))
}

/// The name in a cursor; `None` where the cursor is not one of ours.
pub(super) fn from_cursor(kind: Kind, cursor: &str) -> Option<String> {
    if cursor.len() > CURSOR_BYTES_MAX {
        return None;
    }
    let text = String::from_utf8(URL_SAFE_NO_PAD.decode(cursor).ok()?).ok()?;
    let name = text.strip_prefix(CURSOR_VERSION)?.strip_prefix(kind.list().1)?.strip_prefix(':')?;
    Some(name.to_owned())
}

/// The id in a name that carries its upstream's.
pub(super) fn upstream(exposed: &str) -> Option<&str> {
    exposed.split_once(SEPARATOR).map(|(upstream, _name)| upstream)
}

/// Between the upstream's id, which has no underscore, and the own name.
const SEPARATOR: &str = "__";

/// What the APIs of language models take.
const NAME_BYTES_MAX: usize = 64;

/// Bytes of the digest at the end of a changed name.
const SUFFIX_BYTES: usize = 4;

/// Leads every cursor's content.
const CURSOR_VERSION: &str = "1:";

/// A cursor of ours is smaller: it holds one name or URI.
const CURSOR_BYTES_MAX: usize = 16 * 1024;
