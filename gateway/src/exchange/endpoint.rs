//! How is a token endpoint asked?
//!
//! Builds the requests that the gateway makes of an authorization server (RFC 8693 §2.1, RFC 7523 §2.1, RFC 6749 §4 and
//! §6), proves who the gateway is (RFC 6749 §2.3, RFC 7523 §2.2, RFC 8705 §2) and binds what it gets to a key (RFC 9449
//! §5), sends them under bounds. It does not judge the answer, nor keep it.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use aws_lc_rs::digest::{SHA256, digest};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{
    HeaderValue, Method, Request, Response,
    header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE},
};
use jsonwebtoken::{Algorithm, AlgorithmFamily, EncodingKey, Header};
use serde::Serialize;
use tokio::sync::Semaphore;
use url::{
    Url,
    form_urlencoded::{Serializer, byte_serialize},
};
use zeroize::Zeroizing;

use super::{
    ANSWER_BYTES_MAX, ASSERTION_LIFE_SECONDS, ENDPOINT_DEADLINE, REQUESTS_AT_ONCE_MAX, UNREACHABLE_FOR,
    answer::{self, Asked, Fault, Token, Wanted, is_token},
    discovery::Discovery,
    proof::{Keyring, Prover},
};
use crate::{
    clock::{self, Timestamp},
    config::{
        ClientAuthentication, OAuthClient, TokenEndpoint, TokenRequest,
        dialects::{ACCESS_TOKEN, GivenScopes, ID_JAG, JWT_BEARER, TOKEN_EXCHANGE},
    },
    egress::{Bounds, Client, EgressError, Trust},
    secret::Secret,
};

/// One upstream's way to one token endpoint.
#[derive(Debug)]
pub(super) struct Endpoint {
    /// What is asked there.
    pub(super) request: TokenRequest,
    /// SHA-256 over all of `request` that tells one credential from another.
    pub(super) digest: [u8; 32],
    client: Client,
    signer: Option<Signer>,
    /// Where the server says what it can do; none where the configuration says where the endpoint is.
    discovery: Option<Discovery>,
    keyring: Arc<Keyring>,
    /// A hanging endpoint holds so many connections and no more.
    places: Semaphore,
    /// Until then, in Unix milliseconds, nobody dials: the endpoint could not be reached a moment ago.
    closed_until: AtomicU64,
}

/// The key of `private_key_jwt`, parsed.
struct Signer {
    key: EncodingKey,
    header: Header,
    audience: String,
}

impl std::fmt::Debug for Signer {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Signer").field("algorithm", &self.header.alg).finish_non_exhaustive()
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

/// The claims of a client assertion (RFC 7523 §3).
#[derive(Serialize)]
struct Assertion<'a> {
    iss: &'a str,
    sub: &'a str,
    aud: &'a str,
    jti: String,
    iat: u64,
    exp: u64,
}

impl Endpoint {
    /// # Errors
    /// A text that says what of `request` cannot be used.
    pub(super) fn new(request: &TokenRequest, keyring: &Arc<Keyring>) -> Result<Self, String> {
        let client_certificate = match &request.client.authentication {
            ClientAuthentication::Certificate(files) => Some(files.clone()),
            ClientAuthentication::SecretBasic(_)
            | ClientAuthentication::SecretPost(_)
            | ClientAuthentication::PrivateKeyJwt { .. }
            | ClientAuthentication::AssertionFile(_)
            | ClientAuthentication::Nothing => None,
        };
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
            signer: signer(&request.client)?,
            request,
            client,
            discovery,
            keyring: Arc::clone(keyring),
            places: Semaphore::new(REQUESTS_AT_ONCE_MAX),
            closed_until: AtomicU64::new(0),
        })
    }

    /// What the server says of itself.
    pub(super) fn discovery(&self) -> Result<&Discovery, Fault> {
        self.discovery.as_ref().ok_or_else(|| Fault::Unusable("no issuer is configured".to_owned()))
    }

    /// Whether the server says that it redeems identity assertions.
    pub(super) async fn takes_assertions(&self, now: Timestamp) -> Result<(), Fault> {
        let metadata = self.discovery()?.metadata(now).await?;
        let why = "`authorization_grant_profiles_supported` does not name id-jag";
        if metadata.id_jag { Ok(()) } else { Err(Fault::Unusable(why.to_owned())) }
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
            (Err(Fault::Unusable(why)), Some(prover)) if given && why.ends_with(NONCE_WANTED) => {
                Ok(self.once(&at, (order, Some(&prover)), scopes, now).await?.0?)
            }
            (asked, _) => asked,
        }
    }

    /// The key that a token of this order is bound to, where it is.
    pub(super) async fn prover(&self, order: &Order, now: Timestamp) -> Result<Option<Arc<Prover>>, Fault> {
        if self.request.dpop && order.is_for_upstream() {
            return self.keyring.prover(now).await.map(Some).map_err(Fault::Unusable);
        }
        Ok(None)
    }

    /// One request, and whether the answer gave a nonce.
    async fn once(
        &self,
        at: &Url,
        (order, prover): (&Order, Option<&Prover>),
        scopes: &[String],
        now: Timestamp,
    ) -> Result<(Result<Token, Fault>, bool), Fault> {
        let assertion = self.assertion(now).await?;
        let form = self.form(order, scopes, assertion.as_deref().map(String::as_str));
        let request = self.written(at, form, prover, now)?;
        let place = tokio::time::timeout(ENDPOINT_DEADLINE, self.places.acquire()).await;
        let Ok(Ok(_place)) = place else {
            return Err(Fault::Unusable("too many requests under way to this endpoint".to_owned()));
        };
        let bounds = Bounds { deadline: ENDPOINT_DEADLINE, bytes_max: ANSWER_BYTES_MAX };
        let began = clock::instant();
        let answered = self.client.fetch(request, bounds).await;
        let after = now.plus(clock::instant().duration_since(began));
        let response = answered.map_err(|error| self.unanswered(&error, after))?;
        let given = prover.is_some_and(|prover| prover.heed(at, response.headers()));
        Ok((self.judged(&response, order, scopes), given))
    }

    fn judged(&self, response: &Response<Bytes>, order: &Order, scopes: &[String]) -> Result<Token, Fault> {
        let mut sent = order.secrets();
        if let ClientAuthentication::SecretBasic(secret) | ClientAuthentication::SecretPost(secret) =
            &self.request.client.authentication
        {
            sent.push(secret);
        }
        answer::read(response, &Asked { scopes, sent: &sent, wanted: self.wanted(order) })
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
        let assertion = self.assertion(now).await?;
        let form = {
            let mut form = Serializer::new(String::with_capacity(FORM_BYTES));
            form.append_pair("token", token.expose());
            self.authenticate(&mut form, assertion.as_deref().map(String::as_str));
            form.finish()
        };
        let request = self.written(at, form, None, now)?;
        let bounds = Bounds { deadline: ENDPOINT_DEADLINE, bytes_max: ANSWER_BYTES_MAX };
        let answered = self.client.fetch(request, bounds).await.map_err(|error| Fault::Unusable(error.to_string()))?;
        let status = answered.status();
        if status.is_success() { Ok(()) } else { Err(Fault::Unusable(format!("status {}", status.as_u16()))) }
    }

    fn written(
        &self,
        at: &Url,
        form: String,
        prover: Option<&Prover>,
        now: Timestamp,
    ) -> Result<Request<Bytes>, Fault> {
        let mut request = Request::builder()
            .method(Method::POST)
            .uri(at.as_str())
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
            .header(ACCEPT, "application/json");
        if let ClientAuthentication::SecretBasic(secret) = &self.request.client.authentication {
            let value = basic(&self.request.client.id, secret);
            let value = value.map_err(|_invalid| Fault::Unusable("the client's secret fits no header".to_owned()))?;
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
            Order::Own | Order::Actor => {
                form.append_pair("grant_type", "client_credentials");
            }
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
                form.append_pair("resource", resource.as_str());
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
        self.authenticate(&mut form, assertion);
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

    /// RFC 6749 §2.3.1 in the body, RFC 7523 §2.2, or no more than the name: RFC 8705 §2, RFC 6749 §3.2.1.
    fn authenticate(&self, form: &mut Serializer<'_, String>, assertion: Option<&str>) {
        let client = &self.request.client;
        if let ClientAuthentication::SecretBasic(_) = &client.authentication {
            return;
        }
        form.append_pair("client_id", &client.id);
        if let ClientAuthentication::SecretPost(secret) = &client.authentication {
            form.append_pair("client_secret", secret.expose());
        }
        if let Some(assertion) = assertion {
            form.append_pair("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer")
                .append_pair("client_assertion", assertion);
        }
    }

    /// The JWT that says who the gateway is, where one does: of its own or the platform's making.
    async fn assertion(&self, now: Timestamp) -> Result<Option<Zeroizing<String>>, Fault> {
        match &self.request.client.authentication {
            ClientAuthentication::AssertionFile(path) => assertion_in(path).await.map(Zeroizing::new).map(Some),
            ClientAuthentication::PrivateKeyJwt { .. } => self.signed(now).map(Zeroizing::new).map(Some),
            ClientAuthentication::SecretBasic(_)
            | ClientAuthentication::SecretPost(_)
            | ClientAuthentication::Certificate(_)
            | ClientAuthentication::Nothing => Ok(None),
        }
    }

    fn signed(&self, now: Timestamp) -> Result<String, Fault> {
        let signer = self.signer.as_ref().ok_or_else(|| Fault::Unusable("no key to sign with".to_owned()))?;
        let id = self.request.client.id.as_str();
        let iat = now.unix_seconds();
        let claims = Assertion {
            iss: id,
            sub: id,
            aud: &signer.audience,
            jti: uuid::Uuid::new_v4().to_string(),
            iat,
            exp: iat.saturating_add(ASSERTION_LIFE_SECONDS),
        };
        jsonwebtoken::encode(&signer.header, &claims, &signer.key)
            .map_err(|error| Fault::Unusable(format!("the client assertion cannot be signed: {error}")))
    }
}

/// What the platform says of this workload, as it stands there now.
async fn assertion_in(path: &Path) -> Result<String, Fault> {
    let unusable = |why: &str| Fault::Unusable(format!("the client assertion `{}` {why}", path.display()));
    let mut text =
        tokio::fs::read_to_string(path).await.map_err(|error| unusable(&format!("cannot be read: {error}")))?;
    text.truncate(text.trim_end().len());
    if !is_token(&text) || text.split('.').count() != 3 {
        return Err(unusable("is not a JWT"));
    }
    Ok(text)
}

/// RFC 6749 §2.3.1: both halves are form-encoded first, so that a colon in the id cannot move the border.
fn basic(id: &str, secret: &Secret) -> Result<HeaderValue, http::header::InvalidHeaderValue> {
    let mut pair = Zeroizing::new(String::new());
    pair.extend(byte_serialize(id.as_bytes()));
    pair.push(':');
    pair.extend(byte_serialize(secret.expose().as_bytes()));
    let mut value = HeaderValue::from_str(&format!("Basic {}", STANDARD.encode(pair.as_bytes())))?;
    value.set_sensitive(true);
    Ok(value)
}

fn signer(client: &OAuthClient) -> Result<Option<Signer>, String> {
    let ClientAuthentication::PrivateKeyJwt { key, algorithm, key_id, audience } = &client.authentication else {
        return Ok(None);
    };
    let algorithm: Algorithm =
        algorithm.parse().map_err(|_unknown| format!("`{algorithm}` is not an algorithm of RFC 7518 §3.1"))?;
    let pem = key.expose().as_bytes();
    let parsed = match algorithm.family() {
        AlgorithmFamily::Ec => EncodingKey::from_ec_pem(pem),
        AlgorithmFamily::Rsa => EncodingKey::from_rsa_pem(pem),
        AlgorithmFamily::Ed => EncodingKey::from_ed_pem(pem),
        AlgorithmFamily::Hmac => {
            return Err("`private_key_jwt` takes no shared secret (OpenID Connect Core §9)".to_owned());
        }
    };
    let key = parsed.map_err(|error| format!("the client's private key cannot be used: {error}"))?;
    let mut header = Header::new(algorithm);
    header.kid.clone_from(key_id);
    Ok(Some(Signer { key, header, audience: audience.clone() }))
}

/// Every part with its length before it, so that no two requests run into the same bytes.
fn digest_of(request: &TokenRequest) -> [u8; 32] {
    let mut text = Vec::with_capacity(512);
    let resource = request.resource.as_ref().map(Url::as_str);
    let at = request.at.to_string();
    let named = [Some(at.as_str()), Some(&request.client.id), request.audience.as_deref(), resource];
    let asked = [Some(request.dialect.name), Some(request.subject_token_type.as_str())];
    for part in named.into_iter().chain(asked) {
        // Absent and empty are different answers to "for whom".
        text.push(u8::from(part.is_some()));
        append(&mut text, part.unwrap_or_default().as_bytes());
    }
    text.extend_from_slice(&[u8::from(request.actor), u8::from(request.dpop)]);
    for scope in &request.scopes {
        append(&mut text, scope.as_bytes());
    }
    sha256(&text)
}

/// Length, then bytes.
pub(super) fn append(text: &mut Vec<u8>, part: &[u8]) {
    text.extend_from_slice(&u64::try_from(part.len()).unwrap_or(u64::MAX).to_le_bytes());
    text.extend_from_slice(part);
}

pub(super) fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    for (to, from) in out.iter_mut().zip(digest(&SHA256, bytes).as_ref()) {
        *to = *from;
    }
    out
}

/// RFC 9449 §7.1.
pub(super) const DPOP: &str = "DPoP";

/// RFC 9449 §4.1.
pub(super) const DPOP_HEADER: http::HeaderName = http::HeaderName::from_static("dpop");

/// RFC 9449 §8.
const NONCE_WANTED: &str = "use_dpop_nonce";

/// Room for a form with a token of ordinary size: a form that grows leaves copies of itself behind.
const FORM_BYTES: usize = 8 * 1024;
