//! How is a token endpoint asked?
//!
//! Builds the requests that the gateway makes of an authorization server (RFC 8693 §2.1, RFC 7523 §2.1, RFC 6749 §4 and
//! §6), binds what it gets to a key (RFC 9449 §5), sends them under bounds. It does not judge the answer, nor keep it.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use bytes::Bytes;
use http::{
    Method, Request, Response,
    header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE},
};
use tokio::sync::Semaphore;
use url::{Url, form_urlencoded::Serializer};
use zeroize::Zeroizing;

use super::{
    ANSWER_BYTES_MAX, ENDPOINT_DEADLINE, REQUESTS_AT_ONCE_MAX, UNREACHABLE_FOR,
    answer::{self, Asked, Fault, Token, Wanted},
    discovery::Discovery,
    proof::{Keyring, ProofKey},
    resource::Resource,
};
use crate::{
    clock::{self, Timestamp},
    config::{
        self, TokenEndpoint, TokenRequest, Upstream,
        dialects::{ACCESS_TOKEN, GivenScopes, ID_JAG, JWT_BEARER, TOKEN_EXCHANGE},
    },
    digest::Name,
    egress::{Bounds, Client, EgressError, Trust},
    identity::discovery::is_of,
    prover::Prover,
    secret::Secret,
    telemetry::metrics::metrics,
};

/// One upstream's way to one token endpoint.
#[derive(Debug)]
pub(super) struct Endpoint {
    /// What is asked there.
    pub(super) request: TokenRequest,
    /// SHA-256 over all of `request` that tells one credential from another.
    pub(super) digest: [u8; 32],
    client: Client,
    prover: Prover,
    /// Where the server says what it can do; none where the configuration says where the endpoint is.
    discovery: Option<Discovery>,
    shared: Shared,
    /// A hanging endpoint holds so many connections and no more.
    places: Semaphore,
    /// Until then, in Unix milliseconds, nobody dials: the endpoint could not be reached a moment ago.
    closed_until: AtomicU64,
}

/// What all endpoints of one exchange share.
#[derive(Debug, Clone)]
pub(super) struct Shared {
    pub(super) keyring: Arc<Keyring>,
    /// Dials what a server's metadata name at another origin than its own, by the rules of `[egress]`.
    pub(super) outside: Client,
}

impl Shared {
    /// # Errors
    /// A text that says what of `[egress]` cannot be used.
    pub(super) fn new(keyring: Arc<Keyring>, egress: &config::Egress) -> Result<Self, String> {
        let outside = Client::outside(egress).map_err(|error| error.to_string())?;
        Ok(Self { keyring, outside })
    }
}

/// In whose name a token is asked for.
#[derive(Debug)]
pub(super) enum Order {
    /// RFC 8693, or what a provider has in its stead: the user's, with the gateway as the actor where there is an actor
    /// token.
    Exchange { subject: Secret, actor: Option<Secret> },
    /// RFC 6749 §4.4: the gateway's own, for the upstream.
    Own,
    /// RFC 6749 §4.4: the gateway's own, to say who acts.
    Actor,
    /// An identity assertion about the user, for another server; `kind` is that of the subject token.
    Assertion { subject: Secret, kind: &'static str },
    /// RFC 7523 §2.1: what that server gives for it.
    Redemption { assertion: Secret },
    /// RFC 6749 §4.1.3: what a user agreed to.
    Code(Code),
    /// The same, where all that is wanted is to know who that user is (OpenID Connect Core §3.1.3.1).
    Login(Code),
    /// RFC 6749 §6.
    Refresh { token: Secret },
}

/// An authorization code, and what goes with it.
#[derive(Debug)]
pub(super) struct Code {
    pub(super) code: Secret,
    /// RFC 7636 §4.5.
    pub(super) verifier: Secret,
    pub(super) redirect_uri: String,
}

impl Order {
    /// What the endpoint must not hand back as a token, nor repeat.
    fn secrets(&self) -> Vec<&Secret> {
        match self {
            Self::Exchange { subject, actor } => [Some(subject), actor.as_ref()].into_iter().flatten().collect(),
            Self::Own | Self::Actor => Vec::new(),
            Self::Assertion { subject, .. } => vec![subject],
            Self::Redemption { assertion } => vec![assertion],
            Self::Code(code) | Self::Login(code) => vec![&code.code, &code.verifier],
            Self::Refresh { token } => vec![token],
        }
    }

    /// Whether what is given for it goes to the upstream; the rest says who somebody is.
    const fn is_for_upstream(&self) -> bool {
        !matches!(self, Self::Actor | Self::Assertion { .. } | Self::Login(_))
    }
}

impl Endpoint {
    /// # Errors
    /// A text that says what of `request` cannot be used.
    pub(super) fn new(request: &TokenRequest, shared: &Shared) -> Result<Self, String> {
        let prover = Prover::new(&request.client)?;
        let client_certificate = prover.certificate().cloned();
        let trust = Trust { ca: request.ca.clone(), client_certificate, ..Trust::default() };
        let client = Client::new(&trust).map_err(|error| error.to_string())?;
        let mut request = request.clone();
        request.scopes.sort_unstable();
        request.scopes.dedup();
        let discovery = match &request.at {
            TokenEndpoint::Of(issuer) => Some(Discovery::new(issuer.clone(), client.clone())),
            TokenEndpoint::Url(_) => None,
        };
        Ok(Self {
            digest: digest_of(&request),
            prover,
            request,
            client,
            discovery,
            shared: shared.clone(),
            places: Semaphore::new(REQUESTS_AT_ONCE_MAX),
            closed_until: AtomicU64::new(0),
        })
    }

    /// The same, of the server whose tokens `upstream` takes, under the name `resource`.
    ///
    /// # Errors
    /// A text that says what of the upstream's certificates cannot be used.
    pub(super) fn of(self, upstream: &Upstream, resource: Option<&str>) -> Result<Self, String> {
        let upstream = resource.map(|name| Resource::of(upstream, name)).transpose()?.flatten();
        let discovery = self.discovery.map(|discovery| discovery.with_tokens_for(upstream));
        Ok(Self { discovery, ..self })
    }

    /// Whether the gateway is no client there, but a workload.
    pub(super) const fn is_workload(&self) -> bool {
        self.prover.is_workload()
    }

    /// What the server says of itself.
    pub(super) fn discovery(&self) -> Result<&Discovery, Fault> {
        self.discovery.as_ref().ok_or_else(|| Fault::Unusable("no issuer is configured".to_owned()))
    }

    /// Whether the server says that it redeems identity assertions.
    pub(super) async fn takes_assertions(&self, now: Timestamp) -> Result<(), Fault> {
        let metadata = self.discovery()?.metadata(now).await?;
        let why = "it redeems no ID-JAGs: its metadata name neither the profile nor the type of grant";
        if metadata.id_jag { Ok(()) } else { Err(Fault::Refused(why.to_owned())) }
    }

    /// Asks for a token with `scopes`, sorted.
    pub(super) async fn ask(&self, order: &Order, scopes: &[String], now: Timestamp) -> Result<Token, Fault> {
        if now.unix_ms() < self.closed_until.load(Ordering::Relaxed) {
            return Err(Fault::Unusable("unreachable a moment ago".to_owned()));
        }
        let at = match (&self.request.at, &self.discovery) {
            (TokenEndpoint::Of(_), Some(discovery)) => discovery.metadata(now).await?.token_endpoint.clone(),
            (TokenEndpoint::Url(url), _) => url.clone(),
            (TokenEndpoint::Of(_), None) => return Err(Fault::Unusable("no issuer is configured".to_owned())),
        };
        let prover = self.prover(order, now).await?;
        let (asked, given) = self.once(&at, (order, prover.as_deref()), scopes, now).await?;
        match (asked, prover) {
            // RFC 9449 §8: the server wants its own nonce in the proof, and gave it. Once: it cannot want another now.
            (Err(fault), Some(prover)) if given && fault.wants_nonce() => {
                Ok(self.once(&at, (order, Some(&prover)), scopes, now).await?.0?)
            }
            (asked, _) => asked,
        }
    }

    /// The key that a token of this order is bound to, where it is.
    pub(super) async fn prover(&self, order: &Order, now: Timestamp) -> Result<Option<Arc<ProofKey>>, Fault> {
        if self.request.dpop && order.is_for_upstream() {
            return self.shared.keyring.prover(now).await.map(Some).map_err(Fault::Unusable);
        }
        Ok(None)
    }

    /// One request, and whether the answer gave a nonce.
    async fn once(
        &self,
        at: &Url,
        (order, prover): (&Order, Option<&ProofKey>),
        scopes: &[String],
        now: Timestamp,
    ) -> Result<(Result<Token, Fault>, bool), Fault> {
        let assertion = self.prover.assertion(now).await.map_err(Fault::Unusable)?;
        let form = self.form(order, scopes, assertion.as_deref().map(String::as_str));
        let request = self.written(at, form, prover, now)?;
        let place = tokio::time::timeout(ENDPOINT_DEADLINE, self.places.acquire()).await;
        let Ok(Ok(_place)) = place else {
            return Err(Fault::Unusable("too many requests under way to this endpoint".to_owned()));
        };
        let bounds = Bounds { deadline: ENDPOINT_DEADLINE, bytes_max: ANSWER_BYTES_MAX };
        let began = clock::instant();
        let answered = self.reaching(at).fetch(request, bounds).await;
        let after = now.plus(clock::instant().duration_since(began));
        let (asked, given) = match answered {
            Ok(response) => {
                let given = prover.is_some_and(|prover| prover.heed(at, response.headers()));
                (self.judged(&response, order, scopes), given)
            }
            Err(error) => (Err(self.unanswered(&error, after)), false),
        };
        let outcome = if asked.is_ok() { "ok" } else { "failed" };
        metrics().mints.with([&self.request.at.to_string(), outcome]).increment();
        Ok((asked, given))
    }

    /// What the configuration names, and the same origin as that, may be anywhere; another place that the metadata name has to
    /// be public.
    fn reaching(&self, at: &Url) -> &Client {
        match &self.request.at {
            TokenEndpoint::Of(issuer) if !is_of(issuer, at) => &self.shared.outside,
            TokenEndpoint::Of(_) | TokenEndpoint::Url(_) => &self.client,
        }
    }

    fn judged(&self, response: &Response<Bytes>, order: &Order, scopes: &[String]) -> Result<Token, Fault> {
        let mut sent = order.secrets();
        sent.extend(self.prover.secret());
        match answer::read(response, &Asked { scopes, sent: &sent, wanted: self.wanted(order) }) {
            // The gateway's own name has nobody who could log in.
            Err(Fault::NeedsLogin(_, why)) if matches!(order, Order::Own | Order::Actor) => Err(Fault::Refused(why)),
            read => read,
        }
    }

    fn wanted(&self, order: &Order) -> Wanted {
        let token_type = if self.request.dpop { DPOP } else { Wanted::BEARER.token_type };
        match order {
            Order::Exchange { .. } => {
                let dialect = self.request.dialect;
                Wanted { token_type, issued: dialect.issued, scopes: dialect.scopes }
            }
            Order::Assertion { .. } => Wanted::ID_JAG,
            Order::Actor => Wanted::BEARER,
            // What comes of a login is for no upstream.
            Order::Login(_) => Wanted { scopes: GivenScopes::Configured, ..Wanted::BEARER },
            Order::Own | Order::Redemption { .. } | Order::Code(_) | Order::Refresh { .. } => {
                Wanted { token_type, ..Wanted::BEARER }
            }
        }
    }

    fn unanswered(&self, error: &EgressError, now: Timestamp) -> Fault {
        if matches!(error, EgressError::Unreachable(_)) {
            self.closed_until.fetch_max(now.plus(UNREACHABLE_FOR).unix_ms(), Ordering::Relaxed);
        }
        Fault::Unusable(error.to_string())
    }

    /// Tells the server that a token is no longer needed (RFC 7009 §2.1). What it answers changes nothing.
    pub(super) async fn revoke(&self, token: &Secret, now: Timestamp) -> Result<(), Fault> {
        let metadata = self.discovery()?.metadata(now).await?;
        let Some(at) = &metadata.revocation_endpoint else { return Ok(()) };
        let assertion = self.prover.assertion(now).await.map_err(Fault::Unusable)?;
        let form = {
            let mut form = Serializer::new(String::with_capacity(FORM_BYTES));
            form.append_pair("token", token.expose());
            self.prover.fill(&mut form, assertion.as_deref().map(String::as_str));
            form.finish()
        };
        let request = self.written(at, form, None, now)?;
        let bounds = Bounds { deadline: ENDPOINT_DEADLINE, bytes_max: ANSWER_BYTES_MAX };
        let answered =
            self.reaching(at).fetch(request, bounds).await.map_err(|error| Fault::Unusable(error.to_string()))?;
        let status = answered.status();
        if status.is_success() { Ok(()) } else { Err(Fault::Unusable(format!("status {}", status.as_u16()))) }
    }

    fn written(
        &self,
        at: &Url,
        form: String,
        prover: Option<&ProofKey>,
        now: Timestamp,
    ) -> Result<Request<Bytes>, Fault> {
        let mut request = Request::builder()
            .method(Method::POST)
            .uri(at.as_str())
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
            .header(ACCEPT, "application/json");
        if let Some(value) = self.prover.header().map_err(Fault::Unusable)? {
            request = request.header(AUTHORIZATION, value);
        }
        if let Some(prover) = prover {
            let proof = prover.prove(&Method::POST, at, None, now).map_err(|why| Fault::Unusable(why.to_owned()))?;
            request = request.header(DPOP_HEADER, proof);
        }
        // The body holds the caller's token: it is wiped when the request has gone.
        let body = Bytes::from_owner(Zeroizing::new(form.into_bytes()));
        request.body(body).map_err(|error| Fault::Unusable(error.to_string()))
    }

    fn form(&self, order: &Order, scopes: &[String], assertion: Option<&str>) -> String {
        let mut form = Serializer::new(String::with_capacity(FORM_BYTES));
        match order {
            Order::Exchange { subject, actor } => self.exchange(&mut form, subject, actor.as_ref()),
            Order::Own | Order::Actor => match assertion.filter(|_| self.prover.is_workload()) {
                Some(assertion) => {
                    form.append_pair("grant_type", JWT_BEARER).append_pair("assertion", assertion);
                }
                None => {
                    form.append_pair("grant_type", "client_credentials");
                }
            },
            Order::Assertion { subject, kind } => {
                form.append_pair("grant_type", TOKEN_EXCHANGE)
                    .append_pair("requested_token_type", ID_JAG)
                    .append_pair("subject_token", subject.expose())
                    .append_pair("subject_token_type", kind);
            }
            Order::Redemption { assertion } => {
                form.append_pair("grant_type", JWT_BEARER).append_pair("assertion", assertion.expose());
            }
            Order::Code(code) | Order::Login(code) => {
                form.append_pair("grant_type", "authorization_code")
                    .append_pair("code", code.code.expose())
                    .append_pair("redirect_uri", &code.redirect_uri)
                    .append_pair("code_verifier", code.verifier.expose());
            }
            Order::Refresh { token } => {
                form.append_pair("grant_type", "refresh_token").append_pair("refresh_token", token.expose());
            }
        }
        // An actor token names the gateway to the authorization server, a login a person; neither is for the upstream.
        if !matches!(order, Order::Actor | Order::Login(_)) {
            if let Some(resource) = &self.request.resource {
                form.append_pair("resource", resource);
            }
            if let Some(audience) = &self.request.audience {
                form.append_pair("audience", audience);
            }
        }
        // A code has its scopes; so has a refresh token (RFC 6749 §6).
        let scoped = !matches!(order, Order::Code(_) | Order::Login(_) | Order::Refresh { .. });
        if scoped && !scopes.is_empty() {
            form.append_pair("scope", &scopes.join(" "));
        }
        self.prover.fill(&mut form, assertion);
        form.finish()
    }

    /// In the provider's own words.
    fn exchange(&self, form: &mut Serializer<'_, String>, subject: &Secret, actor: Option<&Secret>) {
        let dialect = self.request.dialect;
        form.append_pair("grant_type", dialect.grant_type).append_pair(dialect.subject, subject.expose());
        if let Some(name) = dialect.subject_type {
            form.append_pair(name, &self.request.subject_token_type);
        }
        if let Some(actor) = actor {
            form.append_pair("actor_token", actor.expose()).append_pair("actor_token_type", ACCESS_TOKEN);
        }
        if let Some(requested) = dialect.requested_type {
            form.append_pair("requested_token_type", requested);
        }
        for (name, value) in dialect.fixed {
            form.append_pair(name, value);
        }
    }
}

fn digest_of(request: &TokenRequest) -> [u8; 32] {
    let mut name = Name::of(&request.at.to_string());
    name.add(&request.client.id);
    name.add(request.dialect.name);
    name.add(&request.subject_token_type);
    name.maybe(request.audience.as_deref());
    name.maybe(request.resource.as_deref());
    name.add([u8::from(request.actor), u8::from(request.dpop)]);
    name.all(request.scopes.iter());
    name.finish()
}

/// RFC 9449 §7.1.
pub(super) const DPOP: &str = "DPoP";

/// RFC 9449 §4.1.
pub(super) const DPOP_HEADER: http::HeaderName = http::HeaderName::from_static("dpop");

/// Room for a form with a token of ordinary size: a form that grows leaves copies of itself behind.
const FORM_BYTES: usize = 8 * 1024;
