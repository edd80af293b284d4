//! What is wrong with the way in which credentials for an upstream are obtained?
//!
//! Each strategy takes its own keys and no others, and none of them hands on the caller's token.

use toml::Spanned;
use url::Url;

use super::{Checker, Place, client::Proofs, values::is_name};
use crate::{
    config::{
        checked::{AssertionSubject, ClientAuthentication, Grant, IdJag, OAuthClient, TokenEndpoint, TokenRequest},
        dialects::{ACCESS_TOKEN, DIALECTS, Dialect, JWT},
        read::nearest,
        written,
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
                self.only_keys(written, strategy, &EXCHANGE_KEYS);
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
            "workload_grant" => {
                self.only_keys(written, strategy, &WORKLOAD_KEYS);
                self.workload_grant(written, &place).map(Grant::ClientCredentials)
            }
            "id_jag" => {
                self.only_keys(written, strategy, &ID_JAG_KEYS);
                self.id_jag(written, &place).map(|steps| Grant::IdJag(Box::new(steps)))
            }
            "user_grant" => {
                self.only_keys(written, strategy, &USER_GRANT_KEYS);
                self.user_grant(written, &place).map(Grant::UserGrant)
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
            ("dialect", written.dialect.as_ref().map(Spanned::span)),
            ("subject_token_type", written.subject_token_type.as_ref().map(Spanned::span)),
            ("subject", written.subject.as_ref().map(Spanned::span)),
            ("issuer", written.issuer.as_ref().map(Spanned::span)),
            ("issuer_client", written.issuer_client.as_ref().map(Spanned::span)),
            ("assertion_file", written.assertion_file.as_ref().map(Spanned::span)),
            ("provider", written.provider.as_ref().map(Spanned::span)),
            ("dpop", written.dpop.as_ref().map(Spanned::span)),
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
        let dialect = self.dialect(written);
        let has_scopes = written.scopes.as_ref().is_some_and(|scopes| !scopes.get_ref().is_empty());
        let said = [
            ("audience", written.audience.is_some()),
            ("resource", written.resource.is_some()),
            ("scopes", has_scopes),
        ];
        let takes = |key| dialect.is_some_and(|dialect| dialect.targets.contains(&key));
        let help = match (takes("audience"), takes("resource")) {
            (true, true) => {
                "add `audience = \"crm-api\"` (RFC 8693 §2.1) or `resource = \"https://crm.internal/mcp\"` (RFC 8707)"
            }
            (true, false) => "add `audience = \"crm-api\"`, under the name that the provider has for the upstream",
            _ => "add `scopes = [\"api://crm/.default\"]`: the target stands before the last slash",
        };
        if let Some(dialect) = dialect
            && !said.iter().any(|(key, said)| *said && dialect.targets.contains(key))
        {
            self.problem(
                "the exchange names no target",
                place.span.clone(),
                &format!("needs {}", listed(dialect.targets)),
                help,
            );
        }
        let kind = match &written.subject_token_type {
            Some(kind) => self.subject_token_type(kind),
            None => Some(ACCESS_TOKEN.to_owned()),
        };
        let request = self.token_request(written, place)?;
        Some(TokenRequest { dialect: dialect?, subject_token_type: kind?, ..request })
    }

    /// What means nothing to a provider would be sent in vain, and be missed.
    fn dialect(&mut self, written: &written::Grant) -> Option<&'static Dialect> {
        let [standard, ..] = &DIALECTS;
        let dialect = match &written.dialect {
            None => standard,
            Some(name) => match Dialect::named(name.get_ref()) {
                Some(dialect) => dialect,
                None => {
                    let message = format!("unknown dialect `{}`", name.get_ref().escape_debug());
                    let help = nearest(name.get_ref(), &DIALECTS.each_ref().map(|dialect| dialect.name));
                    self.problem(message, name.span(), "no such dialect", help);
                    return None;
                }
            },
        };
        let spans = [
            ("audience", written.audience.as_ref().map(Spanned::span)),
            ("resource", written.resource.as_ref().map(Spanned::span)),
            ("actor", written.actor.as_ref().map(Spanned::span)),
            ("subject_token_type", written.subject_token_type.as_ref().map(Spanned::span)),
        ];
        for (key, span) in spans {
            if let Some(span) = span.filter(|_| !dialect.keys.contains(&key)) {
                let message = format!("`{key}` means nothing in dialect `{}`", dialect.name);
                let help = format!("remove it; a target is named there by {}", listed(dialect.targets));
                self.problem(message, span, "has no effect", help);
            }
        }
        Some(dialect)
    }

    /// A word for a type of RFC 8693 §3, or the URI of one.
    fn subject_token_type(&mut self, written: &Spanned<String>) -> Option<String> {
        match written.get_ref().as_str() {
            "access_token" => Some(ACCESS_TOKEN.to_owned()),
            "jwt" => Some(JWT.to_owned()),
            uri if uri.len() <= 256 && Url::parse(uri).is_ok() => Some(uri.to_owned()),
            other => {
                let message = format!("`{}` is not a token type", other.escape_debug());
                let help = "write `access_token`, `jwt` or the URI of a type (RFC 8693 §3)";
                self.problem(message, written.span(), "this text", help);
                None
            }
        }
    }

    fn token_request(&mut self, written: &written::Grant, place: &Place) -> Option<TokenRequest> {
        let client = |this: &mut Self| {
            let example = "client = { id = \"tollgate\", secret = { env = \"TOLLGATE_CLIENT_SECRET\" } }";
            let client = this.required(&written.client, place, "client", example)?;
            // RFC 7523 §3: the token endpoint's URL may be the audience; servers that want their issuer are told so.
            let endpoint = written.token_endpoint.as_ref().map(|endpoint| endpoint.get_ref().as_str());
            this.client(client, endpoint, Proofs::Confidential)
        };
        self.token_request_of(client, written, place)
    }

    /// What the platform says of the gateway is the grant: no client is known there, and none is named.
    fn workload_grant(&mut self, written: &written::Grant, place: &Place) -> Option<TokenRequest> {
        let workload = |this: &mut Self| {
            let example = "assertion_file = \"/var/run/secrets/tokens/crm\"";
            let file = this.required(&written.assertion_file, place, "assertion_file", example)?;
            let file = this.readable(file, "the assertion")?;
            // The name is never sent: it keeps the credentials of two workloads apart.
            let authentication = ClientAuthentication::Workload(file.clone());
            Some(OAuthClient { id: file.display().to_string(), authentication })
        };
        self.token_request_of(workload, written, place)
    }

    fn token_request_of(
        &mut self,
        client: impl FnOnce(&mut Self) -> Option<OAuthClient>,
        written: &written::Grant,
        place: &Place,
    ) -> Option<TokenRequest> {
        let example = "token_endpoint = \"https://login.example.com/token\"";
        let token_endpoint = self
            .required(&written.token_endpoint, place, "token_endpoint", example)
            .and_then(|url| self.safe_url(url, "`token_endpoint`"));
        let client = client(self);
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
        let [standard, ..] = &DIALECTS;
        Some(TokenRequest {
            at: TokenEndpoint::Url(token_endpoint?),
            client: client?,
            dialect: standard,
            subject_token_type: ACCESS_TOKEN.to_owned(),
            audience: audience?,
            resource: resource?,
            scopes,
            actor: written.actor.as_ref().is_some_and(|actor| *actor.get_ref()),
            dpop: written.dpop.as_ref().is_some_and(|dpop| *dpop.get_ref()),
            ca: ca?,
        })
    }

    /// Two servers are asked, each as a client of its own; the second is found by its issuer.
    fn id_jag(&mut self, written: &written::Grant, place: &Place) -> Option<IdJag> {
        let subject = match &written.subject {
            None => Some(AssertionSubject::AccessToken),
            Some(subject) => match subject.get_ref().as_str() {
                "access_token" => Some(AssertionSubject::AccessToken),
                "id_token" => Some(AssertionSubject::IdToken),
                "refresh_token" => Some(AssertionSubject::RefreshToken),
                other => {
                    let message = format!("unknown subject `{}`", other.escape_debug());
                    let help = nearest(other, &["access_token", "id_token", "refresh_token"]);
                    self.problem(message, subject.span(), "no such token of a user", help);
                    None
                }
            },
        };
        let (issuer, resource) = self.server_of_upstream(written, place);
        let example = "issuer_client = { id = \"tollgate\", secret = { env = \"TOLLGATE_CRM_SECRET\" } }";
        let client = self.required(&written.issuer_client, place, "issuer_client", example);
        let client = client.and_then(|client| self.client(client, issuer.as_deref(), Proofs::Confidential));
        let provider = self.provider(written, place);
        let request = self.token_request(written, place);
        let (issuer, resource, request) = (issuer?, resource?, request?);
        let redemption = TokenRequest {
            at: TokenEndpoint::Of(issuer.clone()),
            client: client?,
            audience: None,
            resource: None,
            ..request.clone()
        };
        // The assertion itself is shown once, and bound to nothing: only what comes of it is.
        let assertion = TokenRequest { audience: Some(issuer), resource: Some(resource), dpop: false, ..request };
        Some(IdJag { assertion, redemption, subject: subject?, provider: provider? })
    }

    /// Whose `token_endpoint` it is: users of another issuer are not named there.
    fn provider(&mut self, written: &written::Grant, place: &Place) -> Option<String> {
        match (&written.provider, self.issuers.as_slice()) {
            (Some(name), known) if !known.contains(name.get_ref()) => {
                let message = format!("`{}` is not one of `[[issuers]]`", name.get_ref().escape_debug());
                self.problem(
                    message,
                    name.span(),
                    "none of whose users call",
                    "write the `issuer` of one, to the letter",
                );
                None
            }
            (Some(name), _) => Some(name.get_ref().clone()),
            (None, [] | [_]) => Some(self.issuers.first().cloned().unwrap_or_default()),
            (None, _) => {
                let help = "add `provider`, the one of `[[issuers]]` that `token_endpoint` belongs to: tokens of a user of \
                            another are not shown there";
                self.problem("it is not said whose users this names", place.span.clone(), "needs `provider`", help);
                None
            }
        }
    }

    fn user_grant(&mut self, written: &written::Grant, place: &Place) -> Option<TokenRequest> {
        let (issuer, resource) = self.server_of_upstream(written, place);
        let example = "client = { id = \"tollgate\", secret = { env = \"TOLLGATE_CRM_SECRET\" } }";
        let client = self.required(&written.client, place, "client", example);
        let client = client.and_then(|client| self.client(client, issuer.as_deref(), Proofs::Any));
        let scopes = self.scopes(written.scopes.as_ref().map(|scopes| scopes.get_ref().as_slice()));
        let ca = self.authorities(&written.ca);
        let [standard, ..] = &DIALECTS;
        Some(TokenRequest {
            at: TokenEndpoint::Of(issuer?),
            client: client?,
            dialect: standard,
            subject_token_type: ACCESS_TOKEN.to_owned(),
            audience: None,
            resource: Some(resource?),
            scopes,
            actor: false,
            dpop: written.dpop.as_ref().is_some_and(|dpop| *dpop.get_ref()),
            ca: ca?,
        })
    }

    /// The upstream's own authorization server, and what its tokens are for: it is told each time (RC-22).
    fn server_of_upstream(&mut self, written: &written::Grant, place: &Place) -> (Option<String>, Option<String>) {
        let example = "issuer = \"https://auth.crm.example.com\"";
        let issuer = self.required(&written.issuer, place, "issuer", example);
        let issuer = issuer.and_then(|issuer| self.issuer_name(issuer));
        let example = "resource = \"https://crm.internal/mcp\"";
        let resource = self.required(&written.resource, place, "resource", example);
        (issuer, resource.and_then(|resource| self.resource(resource)))
    }

    /// RFC 8707 §2: an absolute URI without a fragment. It names a target and is not dialled, so any scheme will do; and it
    /// stays as it is written, because a slash more names another one.
    fn resource(&mut self, written: &Spanned<String>) -> Option<String> {
        let text = written.get_ref();
        // The parser of URLs would forgive blanks around it.
        match Url::parse(text).ok().filter(|_| text.trim() == text) {
            Some(url) if url.fragment().is_none() && url.username().is_empty() && url.password().is_none() => {
                Some(text.clone())
            }
            Some(_) | None => {
                let help = "write an absolute URI without `#` and `user@`: `https://crm.internal/mcp` (RFC 8707 §2)";
                self.problem("`resource` is not a resource identifier", written.span(), "this text", help);
                None
            }
        }
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

/// Keys by name, for a sentence.
fn listed(keys: &[&str]) -> String {
    let quoted: Vec<String> = keys.iter().map(|key| format!("`{key}`")).collect();
    match quoted.split_last() {
        Some((last, [])) => last.clone(),
        Some((last, others)) => format!("{} or {last}", others.join(", ")),
        None => String::new(),
    }
}

const STRATEGIES: [&str; 7] =
    ["exchange", "client_credentials", "workload_grant", "id_jag", "user_grant", "static_secret", "none"];

/// The keys of a strategy that asks a token endpoint.
const TOKEN_KEYS: [&str; 8] = ["token_endpoint", "client", "audience", "resource", "scopes", "actor", "dpop", "ca"];

/// And of `exchange`.
const EXCHANGE_KEYS: [&str; 10] = [
    "token_endpoint",
    "client",
    "dialect",
    "subject_token_type",
    "audience",
    "resource",
    "scopes",
    "actor",
    "dpop",
    "ca",
];

/// And of `workload_grant`.
const WORKLOAD_KEYS: [&str; 7] = ["token_endpoint", "assertion_file", "audience", "resource", "scopes", "dpop", "ca"];

/// And of `id_jag`.
const ID_JAG_KEYS: [&str; 10] =
    ["token_endpoint", "client", "subject", "issuer", "issuer_client", "provider", "resource", "scopes", "dpop", "ca"];

/// And of `user_grant`.
const USER_GRANT_KEYS: [&str; 6] = ["issuer", "client", "resource", "scopes", "dpop", "ca"];

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
