//! Could another parser take this name for that one?
//!
//! Some decoders match member names without regard to case, and fold further than ASCII while they do (Go's
//! `encoding/json` takes `METHOD` and `paramſ`). A name that such a decoder would take for one of ours, and we would
//! not, makes two calls of one text. It does not judge names that only look alike to a person.

use std::borrow::Cow;

/// Whether `name` is none of `exact` (ASCII all), and a lenient decoder could take it for one of them.
pub(super) fn imitates_any(name: &str, exact: &[&str]) -> bool {
    if exact.contains(&name) {
        return false;
    }
    let folded = fold(name);
    exact.iter().any(|exact| folded.eq_ignore_ascii_case(exact))
}

/// One spelling for all that lenient decoders confuse: case, the folds of Unicode into ASCII, full-width forms,
/// characters without a width, blanks around.
#[must_use]
pub fn fold(name: &str) -> Cow<'_, str> {
    if name.bytes().all(|byte| byte.is_ascii_graphic() && !byte.is_ascii_uppercase()) {
        return Cow::Borrowed(name);
    }
    let visible = name.chars().filter(|c| !is_invisible(*c)).map(narrow);
    // By way of the upper case, where letters meet that have several forms of the lower: `ſ` and `s`, `ς` and `σ`. Before
    // that the lower, where `ẞ` and `ß` meet, of which only one has another upper case.
    let upper = visible.flat_map(char::to_lowercase).flat_map(char::to_uppercase);
    Cow::Owned(upper.flat_map(char::to_lowercase).collect())
}

fn is_invisible(c: char) -> bool {
    c.is_whitespace()
        || c.is_control()
        || matches!(c, '\u{AD}' | '\u{34F}' | '\u{180E}' | '\u{200B}'..='\u{200F}' | '\u{202A}'..='\u{202E}')
        || matches!(c, '\u{2060}'..='\u{206F}' | '\u{FE00}'..='\u{FE0F}' | '\u{FEFF}' | '\u{E0000}'..='\u{E0FFF}')
}

fn narrow(c: char) -> char {
    match c {
        // Full-width forms stand in the order of ASCII, U+FF01 for `!`.
        '\u{FF01}'..='\u{FF5E}' => u32::from(c).checked_sub(0xFEE0).and_then(char::from_u32).unwrap_or(c),
        _ => c,
    }
}

#[cfg(test)]
mod tests {
    use super::{fold, imitates_any};

    #[test]
    fn both_cases_of_a_character_fold_alike() {
        let cased = |c: &char| !c.to_lowercase().eq([*c]) || !c.to_uppercase().eq([*c]);
        for c in (char::MIN..=char::MAX).filter(cased) {
            let cases = [c.to_string(), c.to_lowercase().collect(), c.to_uppercase().collect()];
            let [it, lower, upper] = cases.map(|text| fold(&text).into_owned());
            assert_eq!([&lower, &upper], [&it; 2], "{c}");
        }
    }

    #[test]
    fn what_a_lenient_decoder_confuses() {
        let cases = [
            ("Method", "method"),
            ("METHOD", "method"),
            ("paramſ", "params"),
            ("to\u{212A}en", "token"),
            ("ｎame", "name"),
            ("na\u{200b}me", "name"),
            ("name ", "name"),
            ("ARGUMENTS", "arguments"),
            ("_META", "_meta"),
        ];
        for (one, other) in [("ΣΊΣΥΦΟς", "σίσυφοσ"), ("maß", "maẞ"), ("maß", "MASS"), ("ϴ", "θ")] {
            assert_eq!(fold(one), fold(other));
        }
        for (name, exact) in cases {
            assert!(imitates_any(name, &[exact]), "{name}");
        }
        for (name, exact) in [("name", "name"), ("names", "name"), ("nаme", "name"), ("meta", "_meta")] {
            assert!(!imitates_any(name, &[exact]), "{name}");
        }
    }
}
