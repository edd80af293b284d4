//! How does text become the written form, when parts of it are wrong?
//!
//! serde stops at its first error. Here the entry that it stopped at is noted, taken out of the document, and the rest
//! is read again, until nothing is left that cannot be read: every misspelt key and every wrong type is found in one
//! go, and the written form stays the only list of keys: that of `upstreams.toml`, or of another file of the operator. Secrets in the wrong place are masked before anything can
//! print them. What values mean is not looked at.

use std::{collections::BTreeSet, mem, ops::Range};

use serde::de::DeserializeOwned;
use toml::{
    Spanned,
    de::{DeArray, DeTable, DeValue, Deserializer},
};

use super::diagnose::{Problem, Source};

/// What could be read.
#[derive(Debug)]
pub(crate) struct Reading<F> {
    /// The entries that can be read.
    pub(crate) file: F,
    /// The text for underlines, secrets masked.
    pub(crate) source: Source,
    /// What is wrong with the others.
    pub(crate) problems: Vec<Problem>,
    /// Where each table begins from which a key was taken out, and that key: it is wrong, not missing.
    pub(crate) removed: BTreeSet<(usize, String)>,
}

/// Reads `text`, which the operator knows as `name`; without a file where it is not TOML.
pub(crate) fn read<F: DeserializeOwned + Default>(name: &str, text: &str) -> Result<Reading<F>, Vec<Problem>> {
    let (document, errors) = DeTable::parse_recoverable(text);
    let source = Source::new(name, masked(text, &document));
    if !errors.is_empty() {
        return Err(errors.iter().map(|error| syntax(&source, error)).collect());
    }
    let mut reading = Reading { file: F::default(), source, problems: Vec::new(), removed: BTreeSet::new() };
    let mut document = document;
    // Each round takes out an entry, so there are at most as many rounds as bytes; the bound is for the reader's patience.
    for _ in 0..ROUNDS_MAX {
        let error = match F::deserialize(Deserializer::from(document.clone())) {
            Ok(file) => {
                reading.file = file;
                return Ok(reading);
            }
            Err(error) => error,
        };
        let taken = error.span().and_then(|span| take_out(&mut document, &span));
        let is_key = matches!(taken, Some(Taken::Key { .. }));
        reading.problems.push(structure(&reading.source, &error, is_key));
        match taken {
            // A key that was probably meant is not missing either: one mistake, one problem.
            Some(Taken::Key { table }) => {
                let (written, known) = unknown(error.message());
                reading.removed.extend(meant(written, &known).map(|key| (table, key.to_owned())));
            }
            Some(Taken::Value { table, key }) => {
                reading.removed.insert((table, key));
            }
            Some(Taken::Element) => {}
            None => break,
        }
    }
    Err(reading.problems)
}

/// What was taken out of the document.
#[derive(Debug)]
enum Taken {
    /// An entry whose key is wrong.
    Key {
        /// Where its table begins.
        table: usize,
    },
    /// An entry whose value is wrong.
    Value {
        /// Where its table begins.
        table: usize,
        /// The key it had.
        key: String,
    },
    /// An element of a list.
    Element,
}

/// Takes the entry at exactly `span` out of `document`.
fn take_out(document: &mut Spanned<DeTable<'_>>, span: &Range<usize>) -> Option<Taken> {
    let start = document.span().start;
    if let Some(taken) = take_from_table(document.get_mut(), start, span) {
        return Some(taken);
    }
    let mut open: Vec<&mut Spanned<DeValue<'_>>> = document.get_mut().iter_mut().map(|(_, value)| value).collect();
    while let Some(value) = open.pop() {
        let start = value.span().start;
        match value.get_mut() {
            DeValue::Table(table) => {
                if let Some(taken) = take_from_table(table, start, span) {
                    return Some(taken);
                }
                open.extend(table.iter_mut().map(|(_, value)| value));
            }
            DeValue::Array(elements) => {
                if elements.iter().any(|element| element.span() == *span) {
                    let others =
                        mem::replace(elements, DeArray::new()).into_iter().filter(|element| element.span() != *span);
                    *elements = others.collect();
                    return Some(Taken::Element);
                }
                open.extend(elements.iter_mut());
            }
            DeValue::String(_)
            | DeValue::Integer(_)
            | DeValue::Float(_)
            | DeValue::Boolean(_)
            | DeValue::Datetime(_) => {}
        }
    }
    None
}

/// Takes the entry whose key or value is at exactly `span` out of `table`, which begins at `start`.
fn take_from_table(table: &mut DeTable<'_>, start: usize, span: &Range<usize>) -> Option<Taken> {
    let (key, is_key) = table.iter().find_map(|(key, value)| {
        let is_key = key.span() == *span;
        (is_key || value.span() == *span).then(|| (key.clone(), is_key))
    })?;
    table.remove(&key);
    let key = key.into_inner().into_owned();
    Some(if is_key { Taken::Key { table: start } } else { Taken::Value { table: start, key } })
}

/// A problem with TOML itself.
fn syntax(source: &Source, error: &toml::de::Error) -> Problem {
    let message = error.message();
    let help = if message.starts_with("duplicate key") {
        "a key or table may stand only once; merge the two or remove one"
    } else {
        "this is not TOML; the rest of the file is checked once it is: https://toml.io/en/v1.1.0"
    };
    source.problem(message).at(error.span().unwrap_or_default(), "here").help(help)
}

/// A problem with a key or a type. serde's message is all that it tells; its words are taken apart here, and only here.
fn structure(source: &Source, error: &toml::de::Error, is_key: bool) -> Problem {
    let span = error.span().unwrap_or_default();
    let message = error.message();
    if message.starts_with("unknown field") || message.starts_with("unknown variant") {
        let (written, known) = unknown(message);
        let what = if is_key { "key" } else { "value" };
        return source
            .problem(format!("unknown {what} `{written}`"))
            .at(span, format!("no such {what} here"))
            .help(nearest(written, &known));
    }
    let Some((found, expected)) = message.split_once(", expected ") else {
        return source.problem(message).at(span, "here").help("see the comments of the file as it ships");
    };
    // Only the kind of what was found: the value itself may be a secret in the wrong place.
    let found = found.trim_start_matches("invalid type: ").trim_start_matches("invalid value: ");
    let found = found.split([' ', '`', '"']).next().unwrap_or_default();
    let (expected, help) = in_words(expected);
    source.problem(format!("expected {expected}")).at(span, format!("this is {}", kind(found))).help(help)
}

/// serde's words for a type, in those of the file; and how to write one.
fn in_words(expected: &str) -> (&str, &'static str) {
    match expected {
        "u64" => {
            ("a whole number, zero or more", "write it without quotes, sign or unit: the key's last word is its unit")
        }
        "u32" => ("a whole number, zero or more", "write it without quotes or sign"),
        "f64" => ("a number", "write it without quotes"),
        "a string" => ("text", "put it in double quotes"),
        "a boolean" => ("`true` or `false`", "write it without quotes"),
        "a sequence" => ("a list", "put it in brackets: `[\"first\", \"second\"]`"),
        "a map" | "a table" => ("a table", "write `{ key = value }`, or a `[header]` of its own with the keys below"),
        other if other.contains("env") => (other, "name where the value stands; secrets never stand in this file"),
        other => (other, "see the comments of the file as it ships"),
    }
}

/// serde's words for what it found.
fn kind(found: &str) -> &'static str {
    match found {
        "string" => "text",
        "integer" => "a number",
        "floating" => "a number with a fraction",
        "boolean" => "`true` or `false`",
        "map" => "a table",
        "sequence" => "a list",
        _ => "something else",
    }
}

/// The unknown word of serde's message, and the known ones.
fn unknown(message: &str) -> (&str, Vec<&str>) {
    let mut quoted = message.split('`').skip(1).step_by(2);
    (quoted.next().unwrap_or_default(), quoted.collect())
}

/// The known word that was probably meant, or all of them.
pub(super) fn nearest(written: &str, known: &[&str]) -> String {
    match meant(written, known) {
        Some(word) => format!("did you mean `{word}`?"),
        None if known.is_empty() => "remove it".to_owned(),
        None => format!("known here: {}", known.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ")),
    }
}

/// The known word that is near enough, if there is one: two letters of five may be wrong.
fn meant<'w>(written: &str, known: &[&'w str]) -> Option<&'w str> {
    let near = known.iter().map(|word| (distance(written, word), *word));
    let near = near.filter(|(distance, word)| distance.saturating_mul(5) <= word.len().saturating_mul(2));
    near.min().map(|(_, word)| word)
}

/// Levenshtein's distance, in bytes.
fn distance(one: &str, other: &str) -> usize {
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (line, a) in one.bytes().enumerate() {
        let mut diagonal = line;
        let mut left = line.saturating_add(1);
        for (cell, b) in row.iter_mut().skip(1).zip(other.bytes()) {
            let substituted = diagonal.saturating_add(usize::from(a != b));
            diagonal = *cell;
            left = substituted.min(left.saturating_add(1)).min(cell.saturating_add(1));
            *cell = left;
        }
        if let Some(first) = row.first_mut() {
            *first = line.saturating_add(1);
        }
    }
    row.last().copied().unwrap_or_default()
}

/// `text` with every string that is probably a secret in the wrong place starred out, each byte where it was.
fn masked(text: &str, document: &Spanned<DeTable<'_>>) -> String {
    let mut spans = Vec::new();
    let mut open: Vec<(&str, &str, &Spanned<DeValue<'_>>)> =
        document.get_ref().iter().map(|(key, value)| ("", key.get_ref().as_ref(), value)).collect();
    while let Some((table, key, value)) = open.pop() {
        match value.get_ref() {
            DeValue::String(_) if is_secret(table, key) => spans.push(value.span()),
            DeValue::String(_) => spans.extend(password(text, value.span())),
            DeValue::Table(entries) => {
                open.extend(entries.iter().map(|(inner, value)| (key, inner.get_ref().as_ref(), value)));
            }
            DeValue::Array(elements) => open.extend(elements.iter().map(|element| (table, key, element))),
            DeValue::Integer(_) | DeValue::Float(_) | DeValue::Boolean(_) | DeValue::Datetime(_) => {}
        }
    }
    let mut bytes = text.as_bytes().to_vec();
    for span in spans {
        for byte in bytes.get_mut(span).unwrap_or_default() {
            if !matches!(byte, b'"' | b'\'' | b'\n' | b'\r') {
                *byte = b'*';
            }
        }
    }
    String::from_utf8(bytes).unwrap_or_default()
}

/// Whether text under `key` of `table` would be a secret: those keys take references only, or do not exist.
fn is_secret(table: &str, key: &str) -> bool {
    let names_a_file = matches!(table, "tls" | "client_certificate");
    let names_a_place = matches!(key, "env" | "file");
    let key = key.to_ascii_lowercase();
    if table == "environment" {
        return names_secret(&key);
    }
    !names_a_file
        && (matches!(key.as_str(), "key" | "value" | "token" | "client")
            || (matches!(table, "secret" | "value" | "key") && !names_a_place)
            || SECRET_WORDS.iter().any(|part| key.contains(part)))
}

/// Whether a variable of this name is a secret by all that is usual.
pub(super) fn names_secret(variable: &str) -> bool {
    let name = variable.to_ascii_lowercase();
    SECRET_WORDS.iter().chain(&["token", "credential"]).any(|part| name.contains(part)) || name.ends_with("_key")
}

/// Where in `span` of `text` the userinfo of a URL stands, if there is one.
fn password(text: &str, span: Range<usize>) -> Option<Range<usize>> {
    let (scheme, rest) = text.get(span.clone())?.split_once("://")?;
    let start = span.start.saturating_add(scheme.len()).saturating_add("://".len());
    let authority = rest.split(['/', '?', '#']).next()?;
    Some(start..start.saturating_add(authority.rfind('@')?))
}

/// A key with one of these in it names a secret.
const SECRET_WORDS: [&str; 8] =
    ["secret", "password", "passphrase", "passwd", "apikey", "api_key", "private", "bearer"];

/// Problems of this kind that are shown at once.
const ROUNDS_MAX: usize = 200;

#[cfg(test)]
mod tests {
    use super::{distance, masked, nearest};

    #[test]
    fn words_are_as_far_apart_as_they_look() {
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("timeout", "timeout_ms"), 3);
        assert_eq!(nearest("pubic_url", &["public_url", "listen"]), "did you mean `public_url`?");
        assert_eq!(nearest("zebra", &["url"]), "known here: `url`");
    }

    #[test]
    fn a_secret_in_the_wrong_place_is_not_shown() {
        let text =
            "[a]\nclient = { id = \"me\", secret = \"hunter2\" }\nurl = \"https://u:p@w@h/\"\ntls = { key = \"k\" }\n";
        let (document, _) = toml::de::DeTable::parse_recoverable(text);
        let shown = masked(text, &document);
        assert_eq!(shown.len(), text.len());
        assert!(!shown.contains("hunter2") && shown.contains("\"https://*****@h/\""), "{shown}");
        assert!(shown.contains("\"me\"") && shown.contains("tls = { key = \"k\" }"), "{shown}");
    }
}
