//! What is wrong with the way in which credentials for an upstream are obtained?
//!
//! Each strategy takes its own keys and no others, and none of them hands on the caller's token.

use rustls_pki_types::{PrivateKeyDer, pem::PemObject as _};
use toml::Spanned;
use url::Url;

use super::{Checker, Place, values::is_name};
use crate::{
    config::{
        checked::{ClientAuthentication, Grant, OAuthClient, TokenRequest},
        read::nearest,
        written::{self, Authentication},
    },
    secret::Secret,
};

impl Checker<'_> {
    /// `key` is `grant` or `discovery`.
    pub(super) fn grant(&mut self, table: &Spanned<written::Grant>, key: &str) -> Option<Grant> {
        let written = table.get_ref();
        let place = Place { name: format!("`{key}`"), span: table.span() };
        let strategy = self.required(&written.strategy, &place, "strategy", "strategy = \"exchange\"")?;
        match strategy.get_ref().as_str() {
            "exchange" => {
                self.only_keys(written, strategy, &TOKEN_KEYS);
                self.exchange(written, &place).map(Grant::Exchange)
            }
            "client_credentials" => {
                self.only_keys(written, strategy, &TOKEN_KEYS);
                if let Some(actor) = written.actor.as_ref().filter(|actor| *actor.get_ref()) {
                    let help = "remove `actor`: the token is the gateway's own already";
                    self.problem("`actor` needs strategy `exchange`", actor.span(), "nobody to act for", help);
                }
                self.token_request(written, &place).map(Grant::ClientCredentials)
            }
            "static_secret" => {
                self.only_keys(written, strategy, &["header", "prefix", "value"]);
                self.static_secret(written, &place)
            }
            "none" => {
                self.only_keys(written, strategy, &[]);
                Some(Grant::Nothing)
            }
            "passthrough" | "passthru" | "pass_through" | "pass-through" | "forward" | "token_passthrough" => {
                self.problem(
                    format!("strategy `{strategy}` is never offered: a caller's token goes no further than the door"),
                    strategy.span(),
                    "hands the caller's token on",
                    "use `exchange` (RFC 8693): the upstream gets a token of its own that still names the user; \
                     MCP forbids passthrough (basic/authorization, security best practices)",
                );
                None
            }
            other => {
                let message = format!("unknown strategy `{}`", other.escape_debug());
                self.problem(message, strategy.span(), "no such strategy", nearest(other, &STRATEGIES));
                None
            }
        }
    }

    /// A key of another strategy is a misunderstanding, and in this table one with consequences.
    fn only_keys(&mut self, written: &written::Grant, strategy: &Spanned<String>, taken: &[&str]) {
        let spans = [
            ("token_endpoint", written.token_endpoint.as_ref().map(Spanned::span)),
            ("client", written.client.as_ref().map(Spanned::span)),
            ("audience", written.audience.as_ref().map(Spanned::span)),
            ("resource", written.resource.as_ref().map(Spanned::span)),
            ("scopes", written.scopes.as_ref().map(Spanned::span)),
            ("actor", written.actor.as_ref().map(Spanned::span)),
            ("ca", written.ca.as_ref().map(Spanned::span)),
            ("header", written.header.as_ref().map(Spanned::span)),
            ("prefix", written.prefix.as_ref().map(Spanned::span)),
            ("value", written.value.as_ref().map(Spanned::span)),
        ];
        for (key, span) in spans {
            if let Some(span) = span.filter(|_| !taken.contains(&key)) {
                let message = format!("`{key}` means nothing with strategy `{strategy}`");
                let help = if taken.is_empty() {
                    "remove it: this strategy takes no further keys".to_owned()
                } else {
                    format!("remove it, or change the strategy; this one takes `{}`", taken.join("`, `"))
                };
                self.problem(message, span, "has no effect", help);
            }
        }
    }

    /// The minted token must be for this upstream: a request that names no target asks for a token for everything.
    fn exchange(&mut self, written: &written::Grant, place: &Place) -> Option<TokenRequest> {
        let has_scopes = written.scopes.as_ref().is_some_and(|scopes| !scopes.get_ref().is_empty());
        if written.audience.is_none() && written.resource.is_none() && !has_scopes {
            self.problem(
                "the exchange names no target",
                place.span.clone(),
                "needs `audience`, `resource` or `scopes`",
                "add `audience = \"crm-api\"` (RFC 8693 §2.1) or `resource = \"https://crm.internal/mcp\"` (RFC 8707)",
            );
        }
        self.token_request(written, place)
    }

    fn token_request(&mut self, written: &written::Grant, place: &Place) -> Option<TokenRequest> {
        let example = "token_endpoint = \"https://login.example.com/token\"";
        let token_endpoint = self
            .required(&written.token_endpoint, place, "token_endpoint", example)
            .and_then(|url| self.safe_url(url, "`token_endpoint`"));
        let example = "client = { id = \"tollgate\", secret = { env = \"TOLLGATE_CLIENT_SECRET\" } }";
        let client = self.required(&written.client, place, "client", example);
        let client = client.and_then(|client| self.client(client, written.token_endpoint.as_ref()));
        let audience = match &written.audience {
            Some(audience) => self.word(audience, "an audience", is_name, "1 to 256 characters of text").map(Some),
            None => Some(None),
        };
        let resource = match &written.resource {
            Some(resource) => self.resource(resource).map(Some),
            None => Some(None),
        };
        let scopes = self.scopes(written.scopes.as_ref().map(|scopes| scopes.get_ref().as_slice()));
        let ca = self.authorities(&written.ca);
        Some(TokenRequest {
            token_endpoint: token_endpoint?,
            client: client?,
            audience: audience?,
            resource: resource?,
            scopes,
            actor: written.actor.as_ref().is_some_and(|actor| *actor.get_ref()),
            ca: ca?,
        })
    }

    /// RFC 8707 §2: an absolute URI without a fragment. It names a target and is not dialled, so any scheme will do.
    fn resource(&mut self, written: &Spanned<String>) -> Option<Url> {
        match Url::parse(written.get_ref()) {
            Ok(url) if url.fragment().is_none() && url.username().is_empty() && url.password().is_none() => Some(url),
            Ok(_) | Err(_) => {
                let help = "write an absolute URI without `#` and `user@`: `https://crm.internal/mcp` (RFC 8707 §2)";
                self.problem("`resource` is not a resource identifier", written.span(), "this text", help);
                None
            }
        }
    }

    /// `audience` is whom an assertion is for, where that is not written.
    pub(super) fn client(
        &mut self,
        table: &Spanned<written::Client>,
        audience: Option<&Spanned<String>>,
    ) -> Option<OAuthClient> {
        let written = table.get_ref();
        let place = Place { name: "`client`".to_owned(), span: table.span() };
        let id = self
            .required(&written.id, &place, "id", "id = \"tollgate\"")
            .and_then(|id| self.word(id, "a client id", is_name, "1 to 256 characters of text"));
        let authentication = match (&written.authentication, &written.key) {
            (Some(named), _) => *named.get_ref(),
            (None, Some(_)) => Authentication::PrivateKeyJwt,
            (None, None) => Authentication::ClientSecretBasic,
        };
        let authentication = match authentication {
            Authentication::ClientSecretBasic => {
                self.client_secret(written, &place).map(ClientAuthentication::SecretBasic)
            }
            Authentication::ClientSecretPost => {
                self.client_secret(written, &place).map(ClientAuthentication::SecretPost)
            }
            Authentication::PrivateKeyJwt => self.private_key_jwt(written, &place, audience),
        };
        Some(OAuthClient { id: id?, authentication: authentication? })
    }

    fn client_secret(&mut self, written: &written::Client, place: &Place) -> Option<Secret> {
        let of_keys = [
            ("key", written.key.as_ref().map(Spanned::span)),
            ("algorithm", written.algorithm.as_ref().map(Spanned::span)),
            ("key_id", written.key_id.as_ref().map(Spanned::span)),
            ("assertion_audience", written.assertion_audience.as_ref().map(Spanned::span)),
        ];
        for (key, span) in of_keys {
            if let Some(span) = span {
                let help = "remove it, or write `authentication = \"private_key_jwt\"` and a `key`";
                self.problem(format!("`{key}` means nothing with a client secret"), span, "has no effect", help);
            }
        }
        let example = "secret = { env = \"TOLLGATE_CLIENT_SECRET\" }";
        let secret = self.required(&written.secret, place, "secret", example)?;
        self.secret(secret, "the client secret")
    }

    fn private_key_jwt(
        &mut self,
        written: &written::Client,
        place: &Place,
        audience: Option<&Spanned<String>>,
    ) -> Option<ClientAuthentication> {
        if let Some(secret) = &written.secret {
            let help = "remove `secret`: the key proves who the gateway is";
            self.problem("`secret` means nothing with `private_key_jwt`", secret.span(), "has no effect", help);
        }
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
        let audience = match (&written.assertion_audience, audience) {
            (Some(audience), _) => self.word(audience, "an audience", is_name, "1 to 256 characters of text"),
            // RFC 7523 §3: the token endpoint's URL may be the audience; servers that want their issuer are told so.
            (None, audience) => audience.map(|audience| audience.get_ref().clone()),
        };
        Some(ClientAuthentication::PrivateKeyJwt {
            key: key?,
            algorithm: algorithm?,
            key_id: key_id?,
            audience: audience?,
        })
    }

    fn static_secret(&mut self, written: &written::Grant, place: &Place) -> Option<Grant> {
        let header = match &written.header {
            Some(header) => self.word(
                header,
                "a header for a credential",
                is_credential_header,
                "a header name in lower case that neither MCP nor HTTP itself uses: `authorization`, `x-api-key`",
            ),
            None => Some("authorization".to_owned()),
        };
        let prefix = match &written.prefix {
            Some(prefix) => self.word(prefix, "a prefix", is_header_text, "visible ASCII and spaces"),
            None => Some(String::new()),
        };
        let example = "value = { env = \"UPSTREAM_SECRET\" }";
        let reference = self.required(&written.value, place, "value", example)?;
        let value = self.secret(reference, "the static secret")?;
        if !is_header_text(value.expose()) || value.expose().trim() != value.expose() {
            let help = "it has to be one line of visible ASCII without blanks around it";
            self.problem("the static secret fits in no header", reference.span(), "what this points to", help);
            return None;
        }
        Some(Grant::StaticSecret { header: header?, value: Secret::new(format!("{}{}", prefix?, value.expose())) })
    }
}

/// A header name (RFC 9110 §5.1) that carries nothing else.
fn is_credential_header(text: &str) -> bool {
    let is_token = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"!#$%&'*+-.^_`|~".contains(&b);
    (1..=64).contains(&text.len())
        && text.bytes().all(is_token)
        && !text.starts_with("mcp-")
        && !TAKEN_HEADERS.contains(&text)
}

/// What may stand in a header's value (RFC 9110 §5.5), without obsolete bytes and tabs.
fn is_header_text(text: &str) -> bool {
    text.len() <= 16_384 && text.bytes().all(|b| (0x20..0x7f).contains(&b))
}

const STRATEGIES: [&str; 4] = ["exchange", "client_credentials", "static_secret", "none"];

/// The keys of a strategy that asks a token endpoint.
const TOKEN_KEYS: [&str; 7] = ["token_endpoint", "client", "audience", "resource", "scopes", "actor", "ca"];

/// Headers that frame or route a request; a secret in one of them would change what is sent.
const TAKEN_HEADERS: [&str; 18] = [
    "accept",
    "accept-encoding",
    "baggage",
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "expect",
    "forwarded",
    "host",
    "keep-alive",
    "last-event-id",
    "te",
    "traceparent",
    "tracestate",
    "trailer",
    "transfer-encoding",
    "upgrade",
];
