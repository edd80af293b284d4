//! What if the identity provider knows neither the clients nor how to register them?
//!
//! Then the gateway is an OAuth 2.1 authorization server in front of it (`[facade]`, spec §1.5): clients register here or
//! describe themselves, people agree here and log in there, and the tokens are the gateway's own. Off unless configured,
//! and then no route of it exists. It knows no sockets, and no MCP.
//!
//! ```text
//! mod        one request, one answer                 metadata page
//! authorize  the client asks, the person agrees      clients documents fetches redirect browser
//! login      the person comes back
//! token      what was granted becomes a token        grants assertion binding renewal client_keys keys
//! revoke     what was granted is given back          grants
//! registry   an operator looks, and takes away       clients authorize grants
//! ```

mod assertion;
mod authorize;
mod binding;
mod browser;
mod client_keys;
mod clients;
mod documents;
mod fetches;
mod grants;
mod keys;
mod login;
mod metadata;
mod page;
mod redirect;
pub mod registry;
mod renewal;
mod revoke;
mod token;

use std::{future, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method,
    header::{ALLOW, AUTHORIZATION, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE},
};
use serde_json::{Value, json};

use self::{client_keys::KeySets, documents::Documents, keys::Keys};
use crate::{
    audit::{
        journal,
        record::{self, Authorization, Authorized},
    },
    clock::{self, Timestamp},
    config,
    identity::Certificate,
    lifecycle::{Body, Estate, Gateway, Head, Response, form::Fields},
    refusal::{Detail, Era, Refusal},
    state::{Rate, Rates, Sealer, Site, Store},
    telemetry::metrics,
};

/// The gateway as an authorization server.
#[derive(Debug)]
pub struct Facade {
    gateway: Arc<Gateway>,
    store: Store,
    sealer: Sealer,
    keys: Keys,
    documents: Documents,
    /// Of the clients of the configuration, and of those that strangers describe: nobody takes the others' room.
    machine_keys: KeySets,
    client_keys: KeySets,
    rates: Rates,
}

/// A path of the facade.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route {
    /// RFC 8414.
    Metadata,
    /// RFC 7517.
    Keys,
    /// RFC 7591.
    Register,
    /// RFC 6749 §3.1.
    Authorize,
    /// Where the provider sends people back to.
    Callback,
    /// RFC 6749 §3.2.
    Token,
    /// RFC 7009.
    Revoke,
}

/// What every step of one request needs.
struct At<'r> {
    estate: &'r Estate,
    config: &'r config::Facade,
    headers: &'r HeaderMap,
    route: Route,
    peer: SocketAddr,
    /// Of the connection.
    certificate: Option<&'r Certificate>,
    now: Timestamp,
}

impl Route {
    /// The route of a path, compared byte for byte.
    #[must_use]
    pub fn of(path: &str) -> Option<Self> {
        let all =
            [Self::Metadata, Self::Keys, Self::Register, Self::Authorize, Self::Callback, Self::Token, Self::Revoke];
        all.into_iter().find(|route| route.path() == path)
    }

    /// What it answers, as `Allow` lists it.
    #[must_use]
    pub const fn methods(self) -> &'static str {
        match self {
            Self::Metadata | Self::Keys => "GET, HEAD, OPTIONS",
            Self::Register | Self::Token | Self::Revoke => "POST, OPTIONS",
            // Nobody asks these from a script.
            Self::Authorize => "GET, POST",
            Self::Callback => "GET",
        }
    }

    const fn path(self) -> &'static str {
        match self {
            Self::Metadata => "/.well-known/oauth-authorization-server",
            Self::Keys => "/jwks",
            Self::Register => "/register",
            Self::Authorize => "/authorize",
            Self::Callback => "/callback",
            Self::Token => "/token",
            Self::Revoke => "/revoke",
        }
    }

    /// Whether a person looks at the answer.
    #[must_use]
    pub const fn is_page(self) -> bool {
        matches!(self, Self::Authorize | Self::Callback)
    }

    /// How often one address may ask, and all of them together; each costs the store, or somebody else, something. In the
    /// time after which unused registrations and logins are forgotten, fewer come than the store has room for.
    const fn rates(self) -> Option<(Rate, Rate)> {
        const fn rate(interval_ms: u64, burst: u32) -> Rate {
            Rate { interval: Duration::from_millis(interval_ms), burst }
        }
        match self {
            Self::Metadata | Self::Keys => None,
            Self::Register => Some((rate(6_000, 20), rate(1_000, 200))),
            Self::Authorize | Self::Callback => Some((rate(250, 60), rate(10, 1_000))),
            // What comes of it is counted once it is known who asks.
            Self::Token | Self::Revoke => Some((rate(50, 200), rate(2, 2_000))),
        }
    }
}

impl Facade {
    /// The facade of a gateway, whether one is configured now or will be.
    ///
    /// # Errors
    /// What cannot be made, in words for the operator.
    pub fn new(gateway: Arc<Gateway>) -> Result<Self, String> {
        let estate = gateway.estate();
        Ok(Self {
            store: estate.store.clone(),
            sealer: estate.store.sealer(),
            keys: Keys::new(),
            documents: Documents::new(&estate.config.egress)?,
            machine_keys: KeySets::new(&estate.config.egress)?,
            client_keys: KeySets::new(&estate.config.egress)?,
            rates: Rates::new(PEERS_MAX),
            gateway,
        })
    }

    /// Whether there is a facade now.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.gateway.estate().config.facade.is_some()
    }

    /// Keeps the keys that the gateway signs with, and gives them to its own authenticator; it does not return.
    pub async fn keep(&self) {
        let mut changed = self.store.changed();
        loop {
            let estate = self.gateway.estate();
            if let Some(config) = &estate.config.facade
                && let Err(refusal) = self.look(&estate, config, clock::now()).await
            {
                tracing::error!(why = %refusal.inside(), "the facade's keys");
            }
            // A write of anybody may be a key of another process; a change of the configuration comes without one.
            drop(tokio::time::timeout(LOOK_AFTER, changed.changed()).await);
            tokio::time::sleep(REST).await;
        }
    }

    async fn look(&self, estate: &Estate, config: &config::Facade, now: Timestamp) -> Result<(), Refusal> {
        self.keys.look(&self.store, now).await?;
        let given = estate.identity.give(&config.own.issuer, &self.keys.published(), now);
        given.map_err(|why| Refusal::StateUnavailable(why.to_owned()))
    }

    /// Answers one request; `body` is polled only where one belongs. Who comes back from the provider is answered to the end
    /// whether or not their browser waits: a code is good once, and what is given for it is kept, or given back. Rates bound
    /// how many come, and the deadlines of those who are asked how long each takes.
    pub async fn answer<B>(self: &Arc<Self>, route: Route, head: &Head, body: B) -> Response
    where
        B: Future<Output = Result<Bytes, Refusal>>,
    {
        if route != Route::Callback {
            return self.answered_now(route, head, body).await;
        }
        let (facade, head, nothing) = (Arc::clone(self), head.clone(), future::ready(Ok(Bytes::new())));
        let work = async move { facade.answered_now(route, &head, nothing).await };
        let broken = Refusal::Bug("a login did not end");
        self.gateway.tasks().spawn(work).await.unwrap_or_else(|_| page::wrong(&broken.outside(Era::Modern), None))
    }

    async fn answered_now<B>(&self, route: Route, head: &Head, body: B) -> Response
    where
        B: Future<Output = Result<Bytes, Refusal>>,
    {
        let estate = self.gateway.estate();
        let Some(config) = estate.config.facade.as_deref() else {
            return self.gateway.refuse(head, &Refusal::RouteUnknown);
        };
        let (headers, certificate) = (&head.headers, head.certificate.as_deref());
        let at = At { estate: &estate, config, headers, route, peer: head.peer, certificate, now: clock::now() };
        let mut response = match self.asked(&at, head, body).await {
            Ok(response) => response,
            Err(refusal) => self.refused(&at, &refusal),
        };
        // RFC 9449 §8.
        if route == Route::Token
            && let Some(nonce) = estate.identity.nonce(headers, clock::now())
        {
            response.headers.insert(DPOP_NONCE, nonce);
        }
        response
    }

    async fn asked<B>(&self, at: &At<'_>, head: &Head, body: B) -> Result<Response, Refusal>
    where
        B: Future<Output = Result<Bytes, Refusal>>,
    {
        let query = head.query.as_deref().unwrap_or_default().as_bytes();
        self.admit(at)?;
        match (at.route, &head.method) {
            (Route::Metadata, _) => Ok(json_of(200, &metadata::document(at.estate, at.config))),
            (Route::Keys, _) => {
                self.known(at).await?;
                Ok(with_json(200, self.keys.published()))
            }
            (Route::Register, _) if !at.config.registration => Err(Refusal::RouteUnknown),
            (Route::Register, _) => {
                typed(at.headers, "application/json")?;
                let (client, answer) = self.register(at.config, &bounded(body).await?, at.now).await?;
                let redirect_uri = client.redirect_uris.first().map(String::as_str);
                let record = Authorization::new(Authorized::Client, &client.id, at.peer);
                self.record(&Authorization { name: Some(&client.name), redirect_uri, ..record }).await?;
                Ok(json_of(201, &answer))
            }
            (Route::Authorize, &Method::POST) => {
                typed(at.headers, FORM)?;
                self.answered(at, &bounded(body).await?).await
            }
            (Route::Authorize, _) => self.authorize(at, query).await,
            (Route::Callback, _) => self.came_back(at, query).await,
            (Route::Token, _) => {
                typed(at.headers, FORM)?;
                self.known(at).await?;
                let fields = Fields::read(&bounded(body).await?)?;
                Box::pin(self.token(at, &fields)).await.map(|answer| json_of(200, &answer))
            }
            (Route::Revoke, _) => {
                typed(at.headers, FORM)?;
                self.known(at).await?;
                let fields = Fields::read(&bounded(body).await?)?;
                Box::pin(self.revoked(at, &fields)).await
            }
        }
    }

    /// A first request may come before the first look.
    async fn known(&self, at: &At<'_>) -> Result<(), Refusal> {
        if self.keys.published().is_empty() { self.look(at.estate, at.config, at.now).await } else { Ok(()) }
    }

    fn admit(&self, at: &At<'_>) -> Result<(), Refusal> {
        let Some((one, all)) = at.route.rates() else { return Ok(()) };
        let ceiling = format!("facade{}", at.route.path().replace('/', "."));
        self.rates.admit(&ceiling, &[(&Site::of(at.peer.ip()).to_string(), one), ("", all)], at.now)
    }

    /// Writes down what was done, before anybody hears that it was.
    async fn record(&self, record: &Authorization<'_>) -> Result<(), Refusal> {
        metrics().authorizations.with([record.what.as_str()]).increment();
        self.gateway.journal().write(record).await
    }

    /// A refusal in the form that OAuth has for it (RFC 6749 §5.2), or as a page.
    fn refused(&self, at: &At<'_>, refusal: &Refusal) -> Response {
        self.note_refused(at, "", refusal);
        let outside = refusal.outside(Era::Modern);
        let mut response = if at.route.is_page() {
            page::wrong(&outside, None)
        } else {
            let error = refusal.oauth_error();
            let body = json!({ "error": error, "error_description": outside.message, "error_code": outside.code });
            json_of(refusal.oauth_status(), &body)
        };
        if let Some(wait_ms) = outside.retry_after_ms {
            response.headers.insert(RETRY_AFTER, HeaderValue::from(wait_ms.div_ceil(1000).max(1)));
        }
        if let Detail::Allow(methods) = outside.detail {
            response.headers.insert(ALLOW, HeaderValue::from_static(methods));
        }
        // RFC 6749 §5.2: with the scheme that the client tried.
        if outside.status == 401 && at.headers.contains_key(AUTHORIZATION) {
            response.headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Basic realm=\"tollgate\""));
        }
        response
    }

    /// Writes a refusal down: one record each where a client is named or something was tried that no honest one does,
    /// counted otherwise, and where there are many: a flood of strangers must not fill the disk.
    fn note_refused(&self, at: &At<'_>, client: &str, refusal: &Refusal) {
        let outside = refusal.outside(Era::Modern);
        metrics().refused(outside.code, refusal.fault());
        let journal = self.gateway.journal();
        let telling = !client.is_empty()
            || matches!(refusal, Refusal::CodeReused | Refusal::GrantRevoked(_) | Refusal::AssertionInvalid(_));
        if !telling || self.rates.admit("facade.records", &[("", RECORDS)], at.now).is_err() {
            journal.count_refusal(at.peer.ip(), outside.code, refusal.fault());
            return;
        }
        let record = record::Refused {
            who: record::Who::default(),
            target: None,
            decision: None,
            ceilings: record::Words::default(),
            request: record::Request {
                method: Some(at.route.path()),
                peer: Some(at.peer),
                ..record::Request::default()
            },
            code: outside.code,
            reason: &refusal.inside(),
            status: refusal.oauth_status(),
        };
        if !journal.note(journal::new_id(), &record) {
            metrics().audit_failures.increment();
        }
    }
}

/// The body, which is short wherever there is one.
async fn bounded(body: impl Future<Output = Result<Bytes, Refusal>>) -> Result<Bytes, Refusal> {
    let body = body.await?;
    if body.len() > BODY_BYTES_MAX { Err(Refusal::BodyTooLarge(BODY_BYTES_MAX)) } else { Ok(body) }
}

fn typed(headers: &HeaderMap, kind: &'static str) -> Result<(), Refusal> {
    let text = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = text.split(';').next().unwrap_or_default().trim();
    if essence.eq_ignore_ascii_case(kind) {
        Ok(())
    } else {
        Err(Refusal::AuthorizationInvalid("its content type is not the one of this endpoint"))
    }
}

fn json_of(status: u16, value: &Value) -> Response {
    with_json(status, Bytes::from(value.to_string()))
}

fn with_json(status: u16, body: Bytes) -> Response {
    let mut headers = HeaderMap::with_capacity(4);
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    // HTTP/1.0's word, which RFC 6749 §5.1 still wants beside the other.
    headers.insert("pragma", HeaderValue::from_static("no-cache"));
    Response { status, headers, body: Body::Whole(body) }
}

/// RFC 9449 §8.1.
const DPOP_NONCE: HeaderName = HeaderName::from_static("dpop-nonce");
const FORM: &str = "application/x-www-form-urlencoded";
/// Bytes of a form or a registration.
const BODY_BYTES_MAX: usize = 64 * 1024;
/// Refusals of strangers that get a record of their own.
const RECORDS: Rate = Rate { interval: Duration::from_millis(100), burst: 100 };
/// Addresses that are counted apart.
const PEERS_MAX: usize = 20_000;
/// How often the keys are looked at where nothing was written.
const LOOK_AFTER: Duration = Duration::from_secs(5);
/// And at most so often.
const REST: Duration = Duration::from_millis(250);
