//! How is a single value judged?
//!
//! URLs, paths, files, secrets, certificates, words of a grammar. It knows nothing of the tables they stand in.

use std::{ops::Range, path::PathBuf, time::Duration};

use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, pem::PemObject as _};
use toml::Spanned;
use url::{Host, Url};
use zeroize::Zeroizing;

use super::{Checker, Place};
use crate::{
    config::{
        environment::Readers,
        written::{Elsewhere, Inline, Key, Reference},
    },
    secret::Secret,
};

/// Which URLs are good enough.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Plain {
    /// `http` to this machine only.
    Loopback,
    /// `http` anywhere: the administrator said so for this one.
    Anywhere,
}

impl Checker<'_> {
    /// A URL that the gateway dials or is known by: absolute, without userinfo and fragment, encrypted off the machine.
    pub(super) fn url(&mut self, written: &Spanned<String>, what: &str, plain: Plain) -> Option<Url> {
        let (text, span) = (written.get_ref(), written.span());
        let url = match Url::parse(text) {
            Ok(url) => url,
            Err(error) => {
                // The text may hold a password; only the parser's reason is repeated.
                self.problem(format!("{what} is not a URL: {error}"), span, "this text", "write `https://host/path`");
                return None;
            }
        };
        let problems = self.problems.len();
        if !url.username().is_empty() || url.password().is_some() {
            let help = "remove `user:password@`; credentials are given by `grant`";
            self.problem(format!("{what} holds a credential"), span.clone(), "before the `@`", help);
        }
        if url.fragment().is_some() {
            self.problem(
                format!("{what} has a fragment"),
                span.clone(),
                "from the `#` on",
                "remove `#` and what follows",
            );
        }
        match url.scheme() {
            "https" => {}
            "http" if plain == Plain::Anywhere || is_loopback(&url) => {}
            "http" => self.problem(
                format!("{what} is not encrypted"),
                span,
                "plain `http` to another machine",
                "write `https://`; tokens and data would be readable on the way",
            ),
            scheme => self.problem(format!("{what} has scheme `{scheme}`"), span, "not HTTP", "write `https://`"),
        }
        (self.problems.len() == problems).then_some(url)
    }

    /// A token endpoint, an issuer, a key set: `http` to this machine only.
    pub(super) fn safe_url(&mut self, written: &Spanned<String>, what: &str) -> Option<Url> {
        self.url(written, what, Plain::Loopback)
    }

    /// A path as written, from the folder of the configuration file.
    pub(super) fn path(&mut self, written: &Spanned<String>) -> Option<PathBuf> {
        if written.get_ref().is_empty() {
            self.problem("a path is empty", written.span(), "no path", "name a file or folder");
            return None;
        }
        Some(self.folder.join(written.get_ref()))
    }

    /// The content of a file that is named in the configuration.
    fn content(&mut self, written: &Spanned<String>, what: &str) -> Option<(PathBuf, Zeroizing<Vec<u8>>, Readers)> {
        let path = self.path(written)?;
        match self.environment.file(&path) {
            Ok(content) => Some((path, content.bytes, content.readers)),
            Err(error) => {
                let message = format!("{what} `{}` cannot be read: {error}", path.display());
                let help = "check the path (relative ones start at this file's folder) and who may read it";
                self.problem(message, written.span(), "this file", help);
                None
            }
        }
    }

    /// A file whose content is for its users to read, whenever they need it.
    pub(super) fn readable(&mut self, written: &Spanned<String>, what: &str) -> Option<PathBuf> {
        if !self.environment.is_here() {
            return self.path(written);
        }
        let (path, _, readers) = self.content(written, what)?;
        self.kept_close(readers, &path.display().to_string(), written.span());
        Some(path)
    }

    /// A file with the public keys of somebody: a JWK Set (RFC 7517 §5).
    pub(super) fn key_set(&mut self, written: &Spanned<String>) -> Option<String> {
        if !self.environment.is_here() {
            return Some(String::new());
        }
        let (path, bytes, _) = self.content(written, "key set")?;
        self.files.values.insert(path.clone());
        let read = serde_json::from_slice::<serde_json::Value>(&bytes).ok();
        let keys = read.as_ref().and_then(|read| read.get("keys")).and_then(serde_json::Value::as_array);
        if keys.is_none_or(Vec::is_empty) {
            let message = format!("key set `{}` has no keys", path.display());
            self.problem(message, written.span(), "this file", "give a JWK Set: `{ \"keys\": [...] }`");
            return None;
        }
        String::from_utf8(bytes.to_vec()).ok()
    }

    /// A file with at least one certificate.
    pub(super) fn certificates(&mut self, written: &Spanned<String>, what: &str) -> Option<PathBuf> {
        if !self.environment.is_here() {
            return self.path(written);
        }
        let (path, bytes, _) = self.content(written, what)?;
        self.files.certificates.insert(path.clone());
        let found = CertificateDer::pem_slice_iter(&bytes).next();
        if !matches!(found, Some(Ok(_))) {
            let message = format!("{what} `{}` holds no certificate", path.display());
            let help = "give a PEM file with `-----BEGIN CERTIFICATE-----`";
            self.problem(message, written.span(), "this file", help);
            return None;
        }
        Some(path)
    }

    /// A file with at least one list of revoked certificates; the listener reads it again when it changes.
    pub(super) fn revocation_list(&mut self, written: &Spanned<String>) -> Option<PathBuf> {
        if !self.environment.is_here() {
            return self.path(written);
        }
        let (path, bytes, _) = self.content(written, "revocation list")?;
        if !matches!(CertificateRevocationListDer::pem_slice_iter(&bytes).next(), Some(Ok(_))) {
            let message = format!("revocation list `{}` holds none", path.display());
            let help = "give a PEM file with `-----BEGIN X509 CRL-----`; `openssl crl -inform der` makes one of DER";
            self.problem(message, written.span(), "this file", help);
            return None;
        }
        Some(path)
    }

    /// The authorities of a key that may be absent; an inner `None` is absence.
    pub(super) fn authorities(&mut self, written: &Key<String>) -> Option<Option<PathBuf>> {
        match written {
            None => Some(None),
            Some(written) => self.certificates(written, "authority file").map(Some),
        }
    }

    /// A certificate and the private key that belongs to it.
    pub(super) fn certificate_and_key(
        &mut self,
        certificate: &Key<String>,
        key: &Key<String>,
        place: &Place,
    ) -> Option<(PathBuf, PathBuf)> {
        let certificate = self.required(certificate, place, "certificate", "certificate = \"tls.crt\"");
        let key = self.required(key, place, "key", "key = \"tls.key\"");
        let certificate_path = certificate.and_then(|certificate| self.certificates(certificate, "certificate file"));
        let key = key?;
        if !self.environment.is_here() {
            return Some((certificate_path?, self.path(key)?));
        }
        let (key_path, bytes, readers) = self.content(key, "key file")?;
        self.files.certificates.insert(key_path.clone());
        self.kept_close(readers, &key_path.display().to_string(), key.span());
        let Ok(private) = PrivateKeyDer::from_pem_slice(&bytes) else {
            let message = format!("key file `{}` holds no private key", key_path.display());
            self.problem(message, key.span(), "this file", "give a PEM file with PKCS#8, SEC1 or PKCS#1");
            return None;
        };
        let certificate_path = certificate_path?;
        let (_, chain, _) = self.content(certificate?, "certificate file")?;
        let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(&chain).flatten().collect();
        if belong_together(chain, private).is_err() {
            let message = format!("key file `{}` does not fit the certificate", key_path.display());
            self.problem(message, key.span(), "this file", "give the key that the first certificate was made for");
            return None;
        }
        Some((certificate_path, key_path))
    }

    /// A secret's file is for the gateway's eyes.
    fn kept_close(&mut self, readers: Readers, path: &str, span: Range<usize>) {
        if readers == Readers::Everybody {
            self.problem(
                format!("`{path}` is readable by everybody on this machine"),
                span,
                "holds a secret",
                format!("`chmod o-rwx {path}`; in Kubernetes, `defaultMode: 0440` on the volume"),
            );
        }
    }

    /// A value that stands elsewhere, and is a secret.
    pub(super) fn secret(&mut self, written: &Spanned<Reference>, what: &str) -> Option<Secret> {
        match written.get_ref() {
            Reference::Inline(_) => {
                self.problem(
                    format!("{what} stands in this file"),
                    written.span(),
                    "masked here",
                    "write `{ env = \"NAME\" }` or `{ file = \"path\" }`, and replace this secret: it has been seen",
                );
                None
            }
            Reference::Elsewhere(elsewhere) => self.elsewhere(elsewhere, written.span(), what),
        }
    }

    /// A value that may stand here or elsewhere.
    pub(super) fn text(&mut self, written: &Spanned<Reference>, what: &str) -> Option<Spanned<String>> {
        match written.get_ref() {
            Reference::Inline(Inline(text)) => Some(Spanned::new(written.span(), text.clone())),
            Reference::Elsewhere(elsewhere) => self
                .elsewhere(elsewhere, written.span(), what)
                .map(|secret| Spanned::new(written.span(), secret.expose().to_owned())),
        }
    }

    fn elsewhere(&mut self, elsewhere: &Elsewhere, span: Range<usize>, what: &str) -> Option<Secret> {
        let value = match (&elsewhere.env, &elsewhere.file) {
            (Some(_), None) | (None, Some(_)) if !self.environment.is_here() => Secret::new(GRANTED.to_owned()),
            (Some(name), None) => self.variable(name, what)?,
            (None, Some(written)) => {
                let (path, bytes, readers) = self.content(written, "secret file")?;
                self.kept_close(readers, &path.display().to_string(), written.span());
                self.files.values.insert(path);
                let Ok(text) = std::str::from_utf8(&bytes) else {
                    self.problem(format!("{what} is not text"), written.span(), "this file", "write it as UTF-8");
                    return None;
                };
                Secret::new(text.trim_end_matches(['\r', '\n']).to_owned())
            }
            (Some(_), Some(_)) | (None, None) => {
                let help = "write either `{ env = \"NAME\" }` or `{ file = \"path\" }`";
                self.problem(format!("{what} stands in no one place"), span, "needs one of `env` and `file`", help);
                return None;
            }
        };
        if value.expose().is_empty() {
            self.problem(format!("{what} is empty"), span, "names nothing", "put the value where this points");
            return None;
        }
        Some(value)
    }

    fn variable(&mut self, name: &Spanned<String>, what: &str) -> Option<Secret> {
        let Some(value) = self.environment.variable(name.get_ref()) else {
            let message = format!("{what} is not set: no variable `{}`", name.get_ref());
            let help = format!("set `{}` in the environment of the gateway", name.get_ref());
            self.problem(message, name.span(), "this variable", help);
            return None;
        };
        Some(value)
    }

    /// Text of a grammar; `grammar` says it in words.
    pub(super) fn word(
        &mut self,
        written: &Spanned<String>,
        what: &str,
        fits: fn(&str) -> bool,
        grammar: &str,
    ) -> Option<String> {
        if fits(written.get_ref()) {
            return Some(written.get_ref().clone());
        }
        let message = format!("`{}` is not {what}", written.get_ref().escape_debug());
        self.problem(message, written.span(), "this text", format!("{what} is {grammar}"));
        None
    }

    /// Scopes, each once.
    pub(super) fn scopes(&mut self, written: Option<&[Spanned<String>]>) -> Vec<String> {
        self.words(written, "a scope", is_scope, "1 to 256 visible ASCII characters without `\"` and `\\`")
    }

    /// A list of words of one grammar, each once.
    pub(super) fn words(
        &mut self,
        written: Option<&[Spanned<String>]>,
        what: &str,
        fits: fn(&str) -> bool,
        grammar: &str,
    ) -> Vec<String> {
        let mut words: Vec<String> = Vec::new();
        for word in written.unwrap_or_default() {
            let Some(text) = self.word(word, what, fits, grammar) else { continue };
            if words.contains(&text) {
                self.problem(format!("`{text}` stands twice in the list"), word.span(), "again", "remove one");
                continue;
            }
            words.push(text);
        }
        words
    }

    /// A deadline: more than nothing, less than a day.
    pub(super) fn deadline(&mut self, written: &Key<u64>, default_ms: u64) -> Duration {
        self.millis(written, &(1..=DAY_MS), default_ms)
    }
}

/// Whether the private key is the one of the first certificate.
fn belong_together(chain: Vec<CertificateDer<'static>>, key: PrivateKeyDer<'static>) -> Result<(), rustls::Error> {
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let key = provider.key_provider.load_private_key(key)?;
    rustls::sign::CertifiedKey::new(chain, key).keys_match()
}

/// Whether `url` leads to this machine.
pub(super) fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        None => false,
    }
}

/// RFC 6749 §3.3 `scope-token`, bounded.
fn is_scope(text: &str) -> bool {
    (1..=256).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic() && b != b'"' && b != b'\\')
}

/// Text that a person reads as a name: no spaces around, no control characters.
pub(super) fn is_name(text: &str) -> bool {
    (1..=256).contains(&text.len()) && text.trim() == text && !text.chars().any(char::is_control)
}

/// In the place of a value that is taken for granted. A URL, because some values have to be one.
const GRANTED: &str = "https://elsewhere.invalid";

/// The longest deadline, in milliseconds.
pub(super) const DAY_MS: u64 = 86_400_000;
