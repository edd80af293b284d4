//! What is wrong with `[facade]`?
//!
//! The gateway as an authorization server: it needs a provider that is known, a client there, and names that nobody else
//! has. It does not ask whether the provider answers.

use std::{sync::Arc, time::Duration};

use toml::Spanned;

use super::{Checker, Place, client::Proofs, values::is_name};
use crate::config::{
    checked::{Claims, Facade, FacadeClient, FacadeProof, Gateway, Issuer, Profile},
    written,
};

impl Checker<'_> {
    pub(super) fn facade(
        &mut self,
        table: &Spanned<written::Facade>,
        gateway: &Gateway,
        issuers: &[Arc<Issuer>],
    ) -> Option<Facade> {
        let written = table.get_ref();
        let place = Place { name: "`[facade]`".to_owned(), span: table.span() };
        let own = gateway.public_url.as_str().trim_end_matches('/').to_owned();
        if issuers.iter().any(|issuer| issuer.issuer.trim_end_matches('/') == own) {
            let help = "remove it: the gateway knows its own keys, and nobody else may sign in its name";
            self.problem("an issuer has the gateway's own name", place.span.clone(), "issues as `public_url`", help);
        }
        let provider = self
            .required(&written.provider, &place, "provider", "provider = \"https://login.example.com/realms/corp\"")
            .and_then(|name| self.among(name, issuers));
        let client = self
            .required(
                &written.client,
                &place,
                "client",
                "client = { id = \"tollgate\", secret = { env = \"SECRET\" } }",
            )
            .and_then(|client| {
                let audience = written.provider.as_ref().map(|provider| provider.get_ref().as_str());
                self.client(client, audience, Proofs::Confidential)
            });
        if let (Some(provider), Some(name)) = (&provider, &written.provider) {
            self.logs_in(provider, name.span());
        }
        let login_scopes = match &written.login_scopes {
            Some(scopes) => self.scopes(Some(scopes)),
            None => vec!["openid".to_owned()],
        };
        if !login_scopes.iter().any(|scope| scope == "openid") {
            let help = "add `\"openid\"`: without it there is no ID token, and nobody is known";
            self.problem("`login_scopes` lacks `openid`", place.span.clone(), "in here", help);
        }
        let domain = "a host name, or `*` for any";
        let client_domains = self.words(written.client_domains.as_deref(), "a domain", is_domain, domain);
        let scheme = "a scheme of RFC 3986 with a dot, such as `com.example.app`";
        let redirect_schemes =
            self.words(written.redirect_schemes.as_deref(), "a redirect scheme", is_private_scheme, scheme);
        let named = written.assertion_issuers.as_deref().unwrap_or_default();
        let assertion_issuers = named.iter().filter_map(|name| self.among(name, issuers));
        let assertion_issuers: Vec<String> = assertion_issuers.map(|issuer| issuer.issuer.clone()).collect();
        let token = self.seconds(&written.token_s, &(30..=TOKEN_SECONDS_MAX), 300);
        let login = self.seconds(&written.login_s, &(300..=7_776_000), 1_209_600);
        let login_unasked = self.seconds(&written.login_unasked_s, &(0..=7_776_000), 28_800);
        let certificates = gateway.tls.as_ref().is_some_and(|tls| tls.client_ca.is_some());
        let logins_per_day = self.number(&written.logins_per_day, &(1..=10_000), 100);
        let clients = self.facade_clients(written.clients.as_deref().unwrap_or_default(), certificates);
        Some(Facade {
            own: Arc::new(itself(own)),
            provider: provider?,
            client: client?,
            login_scopes,
            registration: written.registration.as_ref().is_none_or(|key| *key.get_ref()),
            client_domains,
            redirect_schemes,
            assertion_issuers,
            token,
            login,
            login_unasked,
            logins_per_day: u32::try_from(logins_per_day).unwrap_or(u32::MAX),
            clients,
        })
    }

    /// Keys, algorithms and claims of somebody who vouches stand in one place.
    fn among(&mut self, name: &Spanned<String>, issuers: &[Arc<Issuer>]) -> Option<Arc<Issuer>> {
        let found = issuers.iter().find(|issuer| issuer.issuer == *name.get_ref());
        if found.is_none() {
            let message = format!("`{}` is not one of `[[issuers]]`", name.get_ref().escape_debug());
            let help = "add an `[[issuers]]` table for it, with its `algorithms` and `claims`";
            self.problem(message, name.span(), "nobody whose keys are known", help);
        }
        found.cloned()
    }

    fn facade_clients(&mut self, written: &[Spanned<written::FacadeClient>], certificates: bool) -> Vec<FacadeClient> {
        let mut clients: Vec<FacadeClient> = Vec::new();
        for table in written {
            let place = Place { name: "`[[facade.clients]]`".to_owned(), span: table.span() };
            let table = table.get_ref();
            let id = self.required(&table.id, &place, "id", "id = \"nightly-report\"").and_then(|id| {
                self.word(id, "a client id", is_client_id, "1 to 64 of `A-Z a-z 0-9 . _ -`, not beginning with `dcr-`")
            });
            let proof = self.facade_proof(table, &place, certificates);
            let tenant = match &table.tenant {
                Some(tenant) => self.word(tenant, "a tenant", is_name, "1 to 256 characters of text").map(Some),
                None => Some(None),
            };
            let scopes = self.scopes(table.scopes.as_deref());
            let (Some(id), Some(proof), Some(tenant)) = (id, proof, tenant) else { continue };
            if clients.iter().any(|known| known.id == id) {
                let help = "give each client a name of its own";
                self.problem(format!("two clients are called `{id}`"), place.span, "the second", help);
                continue;
            }
            clients.push(FacadeClient { id, proof, scopes, tenant });
        }
        clients
    }

    /// One way there is, and no other: a proof that is not used is one that somebody thinks is.
    fn facade_proof(
        &mut self,
        table: &written::FacadeClient,
        place: &Place,
        certificates: bool,
    ) -> Option<FacadeProof> {
        match (&table.secret, &table.jwks, &table.jwks_uri, &table.certificate) {
            (Some(secret), None, None, None) => self.secret(secret, "the client secret").map(FacadeProof::Secret),
            (None, Some(file), None, None) => self.key_set(file).map(FacadeProof::Keys),
            (None, None, Some(url), None) => self.safe_url(url, "`jwks_uri`").map(FacadeProof::KeysAt),
            (None, None, None, Some(name)) => {
                if !certificates {
                    let help = "add `client_ca` to `gateway.tls`: whose certificates clients may show";
                    self.problem("no client is asked for a certificate", name.span(), "nobody can be this", help);
                }
                let written::HolderName { uri, dns, common_name } = name.get_ref();
                let place = Place { name: "`certificate`".to_owned(), span: name.span() };
                self.certificate_name([uri, dns, common_name], &place).map(|(name, _)| FacadeProof::Certificate(name))
            }
            (None, None, None, None) => {
                self.required(&table.secret, place, "secret", "secret = { env = \"NIGHTLY_SECRET\" }");
                None
            }
            _ => {
                let help = "keep one of `secret`, `jwks`, `jwks_uri` and `certificate`";
                self.problem("a client proves itself in one way", place.span.clone(), "has several", help);
                None
            }
        }
    }
}

/// What the gateway's own authenticator takes of the gateway's own tokens.
fn itself(issuer: String) -> Issuer {
    Issuer {
        issuer,
        jwks_uri: None,
        algorithms: vec!["ES256".to_owned()],
        claims: Claims {
            tenant: Some("tenant".to_owned()),
            groups: "groups".to_owned(),
            agent: None,
            scope: "scope".to_owned(),
        },
        types: vec!["at+jwt".to_owned()],
        // Not `token_s`: another life of tokens is no reason to forget the keys.
        lifetime_max: Duration::from_secs(TOKEN_SECONDS_MAX),
        leeway: Duration::from_secs(10),
        ca: None,
        profile: Profile::Rfc9068,
        introspection: None,
    }
}

/// The longest life of the gateway's own tokens.
const TOKEN_SECONDS_MAX: u64 = 3_600;

/// A host by its name, in lower case, or any.
fn is_domain(text: &str) -> bool {
    let is_host = |text: &str| {
        url::Host::parse(text).is_ok_and(|host| matches!(host, url::Host::Domain(_) | url::Host::Ipv4(_)))
            && !text.bytes().any(|byte| byte.is_ascii_uppercase() || byte == b'*')
    };
    text == "*" || is_host(text)
}

/// RFC 8252 §7.1: a private-use scheme has a dot, so that none of the web's own is one.
fn is_private_scheme(text: &str) -> bool {
    text.contains('.')
        && text.starts_with(|c: char| c.is_ascii_lowercase())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-' | b'+'))
}

/// Nothing that a URL or a registered client's id could be.
fn is_client_id(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && !text.starts_with("dcr-")
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
}
