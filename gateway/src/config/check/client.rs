//! What is wrong with the way in which the gateway proves itself to an authorization server?
//!
//! Each way takes its own keys and no others (RFC 6749 §2.3, RFC 7523 §2.2, RFC 8705 §2).

use std::ops::Range;

use rustls_pki_types::{PrivateKeyDer, pem::PemObject as _};
use toml::Spanned;

use super::{Checker, Place, values::is_name};
use crate::{
    config::{
        checked::{ClientAuthentication, ClientCertificate, OAuthClient},
        written::{self, Authentication},
    },
    secret::Secret,
};

/// Which proofs will do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Proofs {
    /// One there must be.
    Confidential,
    /// A public client will do, where a person is asked in person (RFC 6749 §2.1).
    Any,
}

impl Checker<'_> {
    /// `audience` is that of assertions, unless another is written.
    pub(super) fn client(
        &mut self,
        table: &Spanned<written::Client>,
        audience: Option<&str>,
        proofs: Proofs,
    ) -> Option<OAuthClient> {
        let written = table.get_ref();
        let place = Place { name: "`client`".to_owned(), span: table.span() };
        let id = self
            .required(&written.id, &place, "id", "id = \"tollgate\"")
            .and_then(|id| self.word(id, "a client id", is_name, "1 to 256 characters of text"));
        let authentication = match &written.authentication {
            Some(named) => *named.get_ref(),
            None if written.key.is_some() => Authentication::PrivateKeyJwt,
            None if written.assertion_file.is_some() => Authentication::WorkloadIdentity,
            None if written.client_certificate.is_some() => Authentication::TlsClientAuth,
            None => Authentication::ClientSecretBasic,
        };
        let proof = match authentication {
            Authentication::ClientSecretBasic => {
                self.client_secret(written, &place).map(ClientAuthentication::SecretBasic)
            }
            Authentication::ClientSecretPost => {
                self.client_secret(written, &place).map(ClientAuthentication::SecretPost)
            }
            Authentication::PrivateKeyJwt => self.private_key_jwt(written, &place, audience),
            Authentication::WorkloadIdentity => self.workload_identity(written, &place),
            Authentication::TlsClientAuth => self.tls_client_auth(written, &place),
            Authentication::None => self.public_client(written, &place, proofs),
        };
        Some(OAuthClient { id: id?, authentication: proof? })
    }

    fn client_secret(&mut self, written: &written::Client, place: &Place) -> Option<Secret> {
        let help = "remove it, or write `authentication = \"private_key_jwt\"` and a `key`";
        self.only_proof(written, &["secret"], "a client secret", help);
        let example = "secret = { env = \"TOLLGATE_CLIENT_SECRET\" }";
        let secret = self.required(&written.secret, place, "secret", example)?;
        self.secret(secret, "the client secret")
    }

    fn private_key_jwt(
        &mut self,
        written: &written::Client,
        place: &Place,
        audience: Option<&str>,
    ) -> Option<ClientAuthentication> {
        let taken = ["key", "algorithm", "key_id", "assertion_audience"];
        self.only_proof(written, &taken, "`private_key_jwt`", "remove it: the key proves who the gateway is");
        let key = self.required(&written.key, place, "key", "key = { file = \"client.key\" }").and_then(|reference| {
            let key = self.secret(reference, "the client key")?;
            if self.environment.is_here() && PrivateKeyDer::from_pem_slice(key.expose().as_bytes()).is_err() {
                let help = "give it in PEM: `openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256`";
                self.problem("the client key is no private key", reference.span(), "what this points to", help);
                return None;
            }
            Some(key)
        });
        let algorithm = match &written.algorithm {
            Some(algorithm) => self.algorithm(algorithm),
            None => Some("ES256".to_owned()),
        };
        let key_id = match &written.key_id {
            Some(id) => self.word(id, "a key id", is_name, "1 to 256 characters of text").map(Some),
            None => Some(None),
        };
        let audience = match &written.assertion_audience {
            Some(audience) => self.word(audience, "an audience", is_name, "1 to 256 characters of text"),
            None => audience.map(str::to_owned),
        };
        Some(ClientAuthentication::PrivateKeyJwt {
            key: key?,
            algorithm: algorithm?,
            key_id: key_id?,
            audience: audience?,
        })
    }

    /// The platform writes the file anew, so what stands in it now is of no interest; that it can be read is.
    fn workload_identity(&mut self, written: &written::Client, place: &Place) -> Option<ClientAuthentication> {
        let help = "remove it: the file holds the proof";
        self.only_proof(written, &["assertion_file"], "`workload_identity`", help);
        let example = "assertion_file = \"/var/run/secrets/tokens/idp\"";
        let file = self.required(&written.assertion_file, place, "assertion_file", example)?;
        self.readable(file, "the client assertion").map(ClientAuthentication::AssertionFile)
    }

    fn tls_client_auth(&mut self, written: &written::Client, place: &Place) -> Option<ClientAuthentication> {
        let help = "remove it: the certificate proves who the gateway is";
        self.only_proof(written, &["client_certificate"], "`tls_client_auth`", help);
        let example = "client_certificate = { certificate = \"client.crt\", key = \"client.key\" }";
        let table = self.required(&written.client_certificate, place, "client_certificate", example)?;
        let place = Place { name: "`client_certificate`".to_owned(), span: table.span() };
        let files = table.get_ref();
        let (certificate, key) = self.certificate_and_key(&files.certificate, &files.key, &place)?;
        Some(ClientAuthentication::Certificate(ClientCertificate { certificate, key }))
    }

    fn public_client(
        &mut self,
        written: &written::Client,
        place: &Place,
        proofs: Proofs,
    ) -> Option<ClientAuthentication> {
        self.only_proof(written, &[], "a public client", "remove it, or remove `authentication`");
        if proofs == Proofs::Confidential {
            let span = written.authentication.as_ref().map_or_else(|| place.span.clone(), Spanned::span);
            let help = "give the client a `secret`, a `key`, an `assertion_file` or a `client_certificate`";
            self.problem("the gateway has to prove who it is here", span, "proves nothing", help);
            return None;
        }
        Some(ClientAuthentication::Nothing)
    }

    /// A proof that is not used is one that somebody thinks is.
    fn only_proof(&mut self, written: &written::Client, taken: &[&str], with: &str, help: &str) {
        for (key, span) in proofs(written) {
            if let Some(span) = span.filter(|_| !taken.contains(&key)) {
                self.problem(format!("`{key}` means nothing with {with}"), span, "has no effect", help);
            }
        }
    }
}

fn proofs(written: &written::Client) -> [(&'static str, Option<Range<usize>>); 7] {
    [
        ("secret", written.secret.as_ref().map(Spanned::span)),
        ("key", written.key.as_ref().map(Spanned::span)),
        ("algorithm", written.algorithm.as_ref().map(Spanned::span)),
        ("key_id", written.key_id.as_ref().map(Spanned::span)),
        ("assertion_audience", written.assertion_audience.as_ref().map(Spanned::span)),
        ("assertion_file", written.assertion_file.as_ref().map(Spanned::span)),
        ("client_certificate", written.client_certificate.as_ref().map(Spanned::span)),
    ]
}
