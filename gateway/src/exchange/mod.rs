//! In whose name?
//!
//! A caller and an upstream in, a [`Grant`] out: a credential made out to that upstream, by the strategy that the
//! configuration names. It never lets the caller's own credential through, and it does not send anything to an upstream.

mod answer;
mod endpoint;
mod flights;
mod grant;

use std::{
    collections::{BTreeMap, HashMap},
    error::Error,
    fmt,
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use http::{HeaderName, HeaderValue, header::AUTHORIZATION};
use zeroize::Zeroizing;

pub use self::grant::{Grant, GrantKey};
use self::{
    answer::{Fault, Token},
    endpoint::{Endpoint, Order, append, sha256},
    flights::{Flights, Slot},
    grant::{Facts, Minted},
};
use crate::{
    clock::Timestamp,
    config::{self, Upstream, UpstreamId},
    identity::{API_KEY, CERTIFICATE, Identity},
    refusal::Refusal,
    secret::Secret,
    telemetry::metrics::{Counter, Handle, metrics},
};

/// Obtains credentials for upstreams, and keeps them for as long as they may be kept.
#[derive(Debug)]
pub struct Exchange {
    plans: HashMap<UpstreamId, Plan>,
    flights: Arc<Flights>,
    hits: Handle<Counter, 1>,
    misses: Handle<Counter, 1>,
}

/// What the configuration of one upstream comes to.
#[derive(Debug)]
struct Plan {
    calls: Strategy,
    discovery: Strategy,
}

#[derive(Debug, Clone)]
enum Strategy {
    /// RFC 8693.
    Exchange(Arc<Endpoint>),
    /// RFC 6749 §4.4.
    Own(Arc<Endpoint>),
    /// The same credential always: a secret, or none.
    Fixed(Arc<Minted>),
}

/// The configuration of an upstream's grant cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExchangeError {
    /// The upstream.
    pub upstream: UpstreamId,
    /// What is wrong; names files, never their content.
    pub why: String,
}

impl fmt::Display for ExchangeError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "grant of upstream `{}`: {}", self.upstream, self.why)
    }
}

impl Error for ExchangeError {}

impl Exchange {
    /// Reads the certificates and keys that `upstreams` names.
    ///
    /// # Errors
    /// [`ExchangeError`] where one of them cannot be used.
    pub fn new(upstreams: &BTreeMap<UpstreamId, Arc<Upstream>>) -> Result<Self, ExchangeError> {
        Self::over(Flights::new(), upstreams)
    }

    /// The same for a changed configuration: credentials that are still asked for in the same way are kept.
    ///
    /// # Errors
    /// [`ExchangeError`] where a certificate or key cannot be used; `self` goes on as it is.
    pub fn reconfigured(&self, upstreams: &BTreeMap<UpstreamId, Arc<Upstream>>) -> Result<Self, ExchangeError> {
        Self::over(Arc::clone(&self.flights), upstreams)
    }

    fn over(flights: Arc<Flights>, upstreams: &BTreeMap<UpstreamId, Arc<Upstream>>) -> Result<Self, ExchangeError> {
        let mut plans = HashMap::with_capacity(upstreams.len());
        for (id, upstream) in upstreams {
            let plan = Plan::new(upstream, &flights).map_err(|why| ExchangeError { upstream: id.clone(), why })?;
            plans.insert(id.clone(), plan);
        }
        let looks = &metrics().grant_cache;
        Ok(Self { plans, flights, hits: looks.with(["hit"]), misses: looks.with(["miss"]) })
    }

    /// A credential for `upstream` in the name of `caller`, with what a tool's rules add in `scopes`.
    ///
    /// One that is in the cache is there without waiting. Nothing is retried: a call that finds the endpoint down is
    /// refused, and so are those right after it.
    ///
    /// # Errors
    /// [`Refusal::GrantRefused`], [`Refusal::GrantNeedsToken`], [`Refusal::GrantUnavailable`], [`Refusal::Overloaded`];
    /// [`Refusal::Bug`] for an upstream that was not configured.
    pub async fn mint(
        &self,
        caller: &Identity,
        upstream: &Upstream,
        scopes: &[String],
        now: Timestamp,
    ) -> Result<Grant, Refusal> {
        let endpoint = match self.strategy(&upstream.id, |plan| &plan.calls)? {
            Strategy::Fixed(minted) => return Ok(Grant::of(Arc::clone(minted), FIXED)),
            Strategy::Own(endpoint) => return self.own(endpoint, scopes, now).await,
            // There is nothing to exchange: a key is the gateway's own word, a certificate the administrator's.
            Strategy::Exchange(_) if [API_KEY, CERTIFICATE].contains(&caller.authentication.method) => {
                return Err(Refusal::GrantNeedsToken);
            }
            Strategy::Exchange(endpoint) => endpoint,
        };
        let slot = slot_of_caller(endpoint, caller, scopes);
        if let Some(minted) = self.flights.ready(&slot, now) {
            self.hits.increment();
            return Ok(Grant::of(minted, slot));
        }
        self.misses.increment();
        // Off the hot path, and large: kept off the caller's future.
        let minted = Box::pin(self.exchanged(endpoint, caller, scopes, (slot, now))).await;
        let outcome = if minted.is_ok() { "ok" } else { "failed" };
        metrics().mints.with([upstream.id.as_str(), outcome]).increment();
        Ok(Grant::of(minted?, slot))
    }

    /// The gateway's own credential for `upstream`, to read its catalogue: nobody's call, so nobody's name.
    ///
    /// # Errors
    /// As [`Exchange::mint`].
    pub async fn service(&self, upstream: &Upstream, now: Timestamp) -> Result<Grant, Refusal> {
        match self.strategy(&upstream.id, |plan| &plan.discovery)? {
            Strategy::Fixed(minted) => Ok(Grant::of(Arc::clone(minted), FIXED)),
            Strategy::Own(endpoint) | Strategy::Exchange(endpoint) => self.own(endpoint, &[], now).await,
        }
    }

    /// Forgets a credential that its upstream refused (401), so that the next one is fresh (spec RC-26). A newer
    /// credential in its place stays.
    pub fn drop_grant(&self, key: &GrantKey) {
        self.flights.forget(key);
    }

    fn strategy(&self, id: &UpstreamId, of: impl Fn(&Plan) -> &Strategy) -> Result<&Strategy, Refusal> {
        self.plans.get(id).map(of).ok_or(Refusal::Bug("a grant for an upstream that is not configured"))
    }

    async fn exchanged(
        &self,
        endpoint: &Arc<Endpoint>,
        caller: &Identity,
        scopes: &[String],
        (slot, now): (Slot, Timestamp),
    ) -> Result<Arc<Minted>, Refusal> {
        let ends = caller.authentication.expires_at;
        if ends <= now {
            return Err(Refusal::TokenInvalid(crate::refusal::TokenFault::Expired));
        }
        may_act(endpoint, caller)?;
        let actor = if endpoint.request.actor { Some(self.actor(endpoint, now).await?) } else { None };
        let order = Order::Exchange { subject: caller.credential.secret().clone(), actor };
        let flight = Flight::new(&self.flights, endpoint, order, scopes);
        self.flights.obtain(slot, now, flight.fly(Some(ends), now)).await
    }

    async fn own(&self, endpoint: &Arc<Endpoint>, scopes: &[String], now: Timestamp) -> Result<Grant, Refusal> {
        let slot = slot_of_gateway(endpoint, b"own", scopes);
        if let Some(minted) = self.flights.ready(&slot, now) {
            return Ok(Grant::of(minted, slot));
        }
        let flight = Flight::new(&self.flights, endpoint, Order::Own, scopes);
        let minted = Box::pin(self.flights.obtain(slot, now, flight.fly(None, now))).await?;
        Ok(Grant::of(minted, slot))
    }

    /// The token that names the gateway as the actor (RFC 8693 §2.1).
    async fn actor(&self, endpoint: &Arc<Endpoint>, now: Timestamp) -> Result<Secret, Refusal> {
        let slot = slot_of_gateway(endpoint, b"actor", &[]);
        let minted = match self.flights.ready(&slot, now) {
            Some(minted) => minted,
            None => {
                let flight = Flight::new(&self.flights, endpoint, Order::Actor, &[]);
                self.flights.obtain(slot, now, flight.fly(None, now)).await?
            }
        };
        let value = minted.header.as_ref().and_then(|(_, value)| value.to_str().ok()?.strip_prefix(BEARER));
        value.map(|token| Secret::new(token.to_owned())).ok_or(Refusal::Bug("an actor token without a token"))
    }
}

impl Plan {
    fn new(upstream: &Upstream, flights: &Flights) -> Result<Self, String> {
        let calls = Strategy::new(&upstream.grant, flights)?;
        let discovery = upstream.discovery.as_ref().map(|grant| Strategy::new(grant, flights)).transpose()?;
        Ok(Self { discovery: discovery.unwrap_or_else(|| calls.clone()), calls })
    }
}

impl Strategy {
    fn new(grant: &config::Grant, flights: &Flights) -> Result<Self, String> {
        Ok(match grant {
            config::Grant::Exchange(request) => Self::Exchange(Arc::new(Endpoint::new(request)?)),
            config::Grant::ClientCredentials(request) => Self::Own(Arc::new(Endpoint::new(request)?)),
            config::Grant::StaticSecret { header, value } => {
                let name = HeaderName::try_from(header.as_str()).map_err(|error| error.to_string())?;
                let header = (name, sensitive(value.expose().to_owned()).ok_or("the secret fits no header")?);
                let digest = Some(token_digest(value.expose()));
                let facts = Facts { strategy: "static_secret", token_digest: digest, ..Facts::default() };
                Self::fixed(Some(header), facts, flights)
            }
            config::Grant::Nothing => Self::fixed(None, Facts { strategy: "none", ..Facts::default() }, flights),
        })
    }

    fn fixed(header: Option<(HeaderName, HeaderValue)>, facts: Facts, flights: &Flights) -> Self {
        Self::Fixed(Arc::new(Minted {
            header,
            facts,
            generation: flights.generation(),
            expires_at: None,
            usable_until: Timestamp::from_unix_ms(u64::MAX),
            announced: AtomicBool::new(true), // it was configured, not minted
        }))
    }
}

/// One request to a token endpoint, with all that it needs to go on without whoever asked for it.
struct Flight {
    flights: Arc<Flights>,
    endpoint: Arc<Endpoint>,
    order: Order,
    scopes: Vec<String>,
}

impl Flight {
    fn new(flights: &Arc<Flights>, endpoint: &Arc<Endpoint>, order: Order, scopes: &[String]) -> Self {
        let scopes = match order {
            // The actor token says who, not what for.
            Order::Actor => Vec::new(),
            Order::Own | Order::Exchange { .. } => {
                let mut all = [endpoint.request.scopes.as_slice(), scopes].concat();
                all.sort_unstable();
                all.dedup();
                all
            }
        };
        Self { flights: Arc::clone(flights), endpoint: Arc::clone(endpoint), order, scopes }
    }

    async fn fly(self, subject_ends: Option<Timestamp>, now: Timestamp) -> Result<Arc<Minted>, Refusal> {
        let asked = self.endpoint.ask(&self.order, &self.scopes, now).await;
        let token = asked.map_err(|fault| match fault {
            Fault::Refused(why) => Refusal::GrantRefused(self.named(&why)),
            Fault::Unusable(why) => Refusal::GrantUnavailable(self.named(&why)),
        })?;
        self.minted(token, subject_ends, now).map(Arc::new)
    }

    fn named(&self, why: &str) -> String {
        format!("{}: {why}", self.endpoint.request.token_endpoint)
    }

    /// Life counts from before the request went out, so that a slow answer cannot lengthen it.
    fn minted(&self, token: Token, subject_ends: Option<Timestamp>, now: Timestamp) -> Result<Minted, Refusal> {
        let own_end = now.plus(token.life);
        let ends = subject_ends.map_or(own_end, |subject| subject.min(own_end));
        let request = &self.endpoint.request;
        let strategy = if matches!(self.order, Order::Exchange { .. }) { "exchange" } else { "client_credentials" };
        let value = sensitive(format!("{BEARER}{}", token.value.expose()));
        Ok(Minted {
            facts: Facts {
                strategy,
                audience: request.audience.clone(),
                resource: request.resource.as_ref().map(ToString::to_string),
                scopes: token.scopes,
                token_digest: Some(token_digest(token.value.expose())),
                token_id: token_id(token.value.expose()),
            },
            header: Some((AUTHORIZATION, value.ok_or(Refusal::Bug("a token that fits no header"))?)),
            generation: self.flights.generation(),
            expires_at: Some(ends),
            usable_until: now.plus(usable_for(ends.since(now))),
            announced: AtomicBool::new(false),
        })
    }
}

/// A credential leaves the cache before it ends, by the time that a call may take; one that lives shorter than that is
/// kept for half its life, so that a provider of short tokens is not asked at every call.
fn usable_for(life: Duration) -> Duration {
    let margin = MARGIN.min(life.checked_div(2).unwrap_or_default());
    life.saturating_sub(margin).min(CACHED_FOR_MAX)
}

/// Where the token says who may act under it, that has to be the gateway before it names itself as the actor
/// (RFC 8693 §4.4): the token endpoint may check that, and may not.
fn may_act(endpoint: &Endpoint, caller: &Identity) -> Result<(), Refusal> {
    let (client, named) = (&endpoint.request.client.id, caller.authentication.may_act.as_ref());
    if !endpoint.request.actor || named.is_none_or(|named| named == client) {
        return Ok(());
    }
    Err(Refusal::GrantRefused(format!("`may_act` of the caller's token does not name `{client}`")))
}

/// Who asks with which credential, authenticated and bound how, and for what: nothing of one caller, credential or scope set
/// serves another. The subject token's own digest is in it, so that a step-up or a rotation mints anew.
fn slot_of_caller(endpoint: &Endpoint, caller: &Identity, scopes: &[String]) -> Slot {
    let authentication = &caller.authentication;
    let acr = authentication.acr.as_deref();
    let mut text = Vec::with_capacity(SLOT_BYTES);
    text.extend_from_slice(b"subject ");
    text.extend_from_slice(&endpoint.digest);
    text.extend_from_slice(&caller.principal);
    append(&mut text, authentication.token_digest.as_bytes());
    append(&mut text, authentication.issuer.as_bytes());
    text.push(u8::from(acr.is_some()));
    append(&mut text, acr.unwrap_or_default().as_bytes());
    append(&mut text, authentication.binding.as_str().as_bytes());
    append(&mut text, authentication.binding.thumbprint().unwrap_or_default().as_bytes());
    append_scopes(&mut text, scopes);
    sha256(&text)
}

/// The gateway's own credentials are of no caller, and therefore the same for all.
fn slot_of_gateway(endpoint: &Endpoint, purpose: &[u8], scopes: &[String]) -> Slot {
    let mut text = Vec::with_capacity(SLOT_BYTES);
    text.extend_from_slice(b"gateway ");
    text.extend_from_slice(&endpoint.digest);
    append(&mut text, purpose);
    append_scopes(&mut text, scopes);
    sha256(&text)
}

fn append_scopes(text: &mut Vec<u8>, scopes: &[String]) {
    if let [scope] = scopes {
        return append(text, scope.as_bytes());
    }
    let mut sorted: Vec<&str> = scopes.iter().map(String::as_str).collect();
    sorted.sort_unstable();
    sorted.dedup();
    for scope in sorted {
        append(text, scope.as_bytes());
    }
}

/// A header value whose bytes are wiped when the last of its clones goes, and which does not print.
fn sensitive(text: String) -> Option<HeaderValue> {
    let bytes = Bytes::from_owner(Zeroizing::new(text.into_bytes()));
    let mut value = HeaderValue::from_maybe_shared(bytes).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// The first 16 bytes of SHA-256, in hex, as for a caller's credential.
fn token_digest(token: &str) -> String {
    sha256(token.as_bytes()).iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

/// `jti` of what looks like a JWS: for the record, unverified, so that it is bounded and printable and no more.
fn token_id(token: &str) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct Claims {
        jti: String,
    }
    let payload = URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?).ok()?;
    let Claims { jti } = serde_json::from_slice(&payload).ok()?;
    (jti.len() <= TOKEN_ID_BYTES_MAX && jti.bytes().all(|b| b.is_ascii_graphic())).then_some(jti)
}

/// RFC 6750 §2.1.
const BEARER: &str = "Bearer ";

/// The slot of credentials that are never in the cache.
const FIXED: Slot = [0; 32];

/// Room for a key's parts: two digests, the token's, an issuer's URL and a few scopes.
const SLOT_BYTES: usize = 384;

/// Bytes of a `jti` in a record.
const TOKEN_ID_BYTES_MAX: usize = 128;

/// From the first byte out to the last byte in at a token endpoint.
const ENDPOINT_DEADLINE: Duration = Duration::from_secs(5);

/// How long a call waits for a credential: its own turn and the request.
const WAIT_MAX: Duration = Duration::from_secs(10);

/// Bytes of a token endpoint's answer.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// Requests at once to one upstream's token endpoint.
const REQUESTS_AT_ONCE_MAX: usize = 64;

/// Credentials being fetched at once, over all callers and upstreams.
const FLIGHTS_MAX: usize = 4_096;

/// A credential is not served from the cache in its last seconds: a call takes time, and clocks differ.
const MARGIN: Duration = Duration::from_secs(30);

/// The longest that a credential is served from the cache: the floor under every revocation.
const CACHED_FOR_MAX: Duration = Duration::from_secs(300);

/// How long a refusal stands for the same key: long enough to stop a storm, short enough for a person who was just
/// given a right.
const REFUSED_FOR: Duration = Duration::from_secs(5);

/// How long an endpoint's failure stands for the same key.
const UNAVAILABLE_FOR: Duration = Duration::from_millis(1_500);

/// How long an endpoint that could not be reached is not dialled, for anybody.
const UNREACHABLE_FOR: Duration = Duration::from_secs(1);

/// Bytes of credentials in the cache.
const GRANT_BYTES_MAX: u64 = 32 * 1024 * 1024;

/// What the cache is laid out for; it grows up to its bound in bytes.
const GRANTS_EXPECTED: usize = 1_024;

/// Failures remembered.
const FAILURES_MAX: usize = 4_096;

#[cfg(test)]
mod tests;
