//! Which protocol revisions are served, and what does each lack?
//!
//! The one table of versions; everything else asks it. It does not know messages.

use crate::refusal::Era;

/// Modern revisions served, newest first: what `server/discover` and error -32022 list (RS-11, RS-23).
pub const MODERN: &[&str] = &["2026-07-28"];

/// Legacy revisions served, newest first.
pub const LEGACY: &[&str] = &[LEGACY_NEWEST, "2025-06-18", LEGACY_ASSUMED];

/// Offered to a legacy client that asks for a version which is not served (RL-01).
pub const LEGACY_NEWEST: &str = "2025-11-25";

/// Assumed where a legacy request names no version (RL-02).
pub const LEGACY_ASSUMED: &str = "2025-03-26";

/// Legacy revisions that are known and not served; their header must not make a request look modern.
const LEGACY_UNSERVED: &[&str] = &[LEGACY_OLDEST, "2024-10-07"];

/// Spoken to upstreams only: programs and servers on HTTP+SSE that were never renewed agree on nothing newer.
const LEGACY_OLDEST: &str = "2024-11-05";

/// The served modern version that `text` names.
#[must_use]
pub fn modern(text: &str) -> Option<&'static str> {
    MODERN.iter().copied().find(|version| *version == text)
}

/// The served legacy version that `text` names.
#[must_use]
pub fn legacy(text: &str) -> Option<&'static str> {
    LEGACY.iter().copied().find(|version| *version == text)
}

/// The legacy version that `text` names, of those that an upstream may agree on.
#[must_use]
pub fn legacy_upstream(text: &str) -> Option<&'static str> {
    legacy(text).or_else(|| (text == LEGACY_OLDEST).then_some(LEGACY_OLDEST))
}

/// Any version of either era that is served.
#[must_use]
pub fn served(text: &str) -> Option<&'static str> {
    modern(text).or_else(|| legacy(text))
}

/// Whether `text` names a legacy revision, served or not: everything else in a version header is modern (spec §1.0).
#[must_use]
pub fn is_known_legacy(text: &str) -> bool {
    legacy(text).is_some() || LEGACY_UNSERVED.contains(&text)
}

/// The era of a version.
#[must_use]
pub fn era(version: &str) -> Era {
    if is_known_legacy(version) { Era::Legacy } else { Era::Modern }
}

/// Whether messages may come in batches (RL-10).
#[must_use]
pub fn has_batches(version: &str) -> bool {
    version == "2025-03-26"
}

/// Versions are dates, so their order as text is their order in time.
#[must_use]
pub fn at_least(version: &str, since: &str) -> bool {
    version >= since
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tables_are_newest_first_and_disjoint() {
        for table in [MODERN, LEGACY, LEGACY_UNSERVED] {
            assert!(table.is_sorted_by(|newer, older| newer > older));
        }
        for version in MODERN {
            assert_eq!(era(version), Era::Modern);
        }
        for version in LEGACY {
            assert_eq!(era(version), Era::Legacy);
        }
        assert_eq!(era("2024-11-05"), Era::Legacy);
        assert_eq!(era("2027-01-01"), Era::Modern);
        assert_eq!(served("2027-01-01"), None);
    }
}
