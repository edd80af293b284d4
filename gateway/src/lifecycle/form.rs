//! What do a query or a form say?
//!
//! `application/x-www-form-urlencoded` as OAuth reads it (RFC 6749 §3.1, appendix B): each parameter once, without a
//! value as if it were not there. It does not know which parameters there are.

use std::fmt;

use crate::{exchange::code, refusal::Refusal, secret::Secret};

/// The parameters of one request.
#[derive(Default)]
pub struct Fields(Vec<(String, String)>);

impl fmt::Debug for Fields {
    /// Without the values, among which credentials are.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_list().entries(self.0.iter().map(|(name, _)| name)).finish()
    }
}

impl Fields {
    /// Reads a query or a body.
    ///
    /// # Errors
    /// [`Refusal::AuthorizationInvalid`] where a parameter is there twice, or there are too many.
    pub fn read(text: &[u8]) -> Result<Self, Refusal> {
        let mut fields: Vec<(String, String)> = Vec::new();
        for (name, value) in url::form_urlencoded::parse(text) {
            if fields.len() >= FIELDS_MAX {
                return Err(Refusal::AuthorizationInvalid("it has too many parameters"));
            }
            if fields.iter().any(|(known, _)| *known == name) {
                return Err(Refusal::AuthorizationInvalid("a parameter is there twice"));
            }
            fields.push((name.into_owned(), value.into_owned()));
        }
        Ok(Self(fields))
    }

    /// The value of a parameter, where there is one.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str()).filter(|it| !it.is_empty())
    }

    /// A parameter that has to be there.
    ///
    /// # Errors
    /// [`Refusal::AuthorizationInvalid`] where it is not.
    pub fn need(&self, name: &str, missing: &'static str) -> Result<&str, Refusal> {
        self.get(name).ok_or(Refusal::AuthorizationInvalid(missing))
    }

    /// The words of a list with spaces between them, each once.
    #[must_use]
    pub fn words(&self, name: &str) -> Vec<String> {
        let mut words: Vec<String> = Vec::new();
        for word in self.get(name).unwrap_or_default().split(' ').filter(|word| !word.is_empty()) {
            if !words.iter().any(|known| known == word) {
                words.push(word.to_owned());
            }
        }
        words
    }

    /// What another server says, in the query by which it sends a browser back.
    #[must_use]
    pub fn response(&self) -> code::Response {
        let short = |name: &str| self.get(name).filter(|value| value.len() <= RESPONSE_BYTES_MAX).map(str::to_owned);
        code::Response {
            code: short("code").map(Secret::new),
            state: short("state"),
            issuer: short("iss"),
            // For the journal.
            error: short("error").map(|error| error.chars().filter(char::is_ascii_graphic).take(64).collect()),
        }
    }
}

/// More than any request of OAuth has.
const FIELDS_MAX: usize = 32;
/// Bytes of each part of an authorization response: codes of some providers are long.
const RESPONSE_BYTES_MAX: usize = 4 * 1024;

#[cfg(test)]
mod tests {
    use super::Fields;
    use crate::refusal::Refusal;

    #[test]
    fn a_parameter_is_there_once_or_not() {
        let fields = Fields::read(b"a=1%202&empty=&scope=x+y++x").unwrap();
        assert_eq!((fields.get("a"), fields.get("empty"), fields.get("b")), (Some("1 2"), None, None));
        assert_eq!(fields.words("scope"), ["x", "y"]);
        for twice in ["a=1&a=1", "a=1&%61=2", "a=&a="] {
            assert!(matches!(Fields::read(twice.as_bytes()), Err(Refusal::AuthorizationInvalid(_))), "{twice}");
        }
        let many = (0..33).map(|n| format!("p{n}=1")).collect::<Vec<_>>().join("&");
        assert!(Fields::read(many.as_bytes()).is_err());
    }
}
