//! In whose name?
//!
//! A caller and an upstream in, a [`Grant`] out: a credential made out to that upstream, by the strategy that the
//! configuration names. It never lets the caller's own credential through, and it does not send anything to an upstream.

mod accounts;
mod answer;
pub mod code;
pub mod connect;
mod discovery;
mod endpoint;
mod flight;
mod flights;
mod grant;
pub mod login;
mod proof;
mod renewal;
mod resource;
mod users;

use std::{
    collections::{BTreeMap, HashMap},
    error::Error,
    fmt,
    sync::Arc,
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use http::{HeaderName, HeaderValue, header::AUTHORIZATION};
use zeroize::Zeroizing;

use self::{
    answer::Fault,
    endpoint::{DPOP, Endpoint, Order, Shared},
    flight::Flight,
    flights::{Flights, Obtained, Slot},
    grant::{Binding, Minted},
    proof::{Keyring, ProofKey},
    users::Personal,
};
pub use self::{
    grant::{Facts, Grant, GrantKey, Summons, Witness},
    renewal::Renewed,
};
use crate::{
    clock::Timestamp,
    config::{self, AssertionSubject, Config, Login, Upstream, UpstreamId},
    digest::{self, Name},
    identity::{API_KEY, CERTIFICATE, Identity, revocation::Revocations},
    refusal::{Refusal, TokenFault},
    secret::Secret,
    state::Store,
    telemetry::metrics::{Counter, Handle, metrics},
};

/// Obtains credentials for upstreams, and keeps them for as long as they may be kept.
#[derive(Debug)]
pub struct Exchange {
    plans: HashMap<UpstreamId, Plan>,
    flights: Arc<Flights>,
    shared: Shared,
    personal: Option<Arc<Personal>>,
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
    /// An assertion of the identity provider, redeemed at the upstream's server.
    IdJag(Arc<Assertion>),
    /// RFC 6749 §4.1.
    User(Arc<Endpoint>),
    /// The same credential always: a secret, or none.
    Fixed(Arc<Minted>),
}

/// The two servers of an identity assertion.
#[derive(Debug)]
struct Assertion {
    provider: Arc<Endpoint>,
    /// The issuer whose endpoint that is.
    of: String,
    server: Arc<Endpoint>,
    subject: AssertionSubject,
    digest: [u8; 32],
}

/// The configuration of an upstream's grant cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExchangeError {
    /// Whose: an upstream's, or that of the logins.
    pub of: String,
    /// What is wrong; names files, never their content.
    pub why: String,
}

impl fmt::Display for ExchangeError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "grant of {}: {}", self.of, self.why)
    }
}

impl Error for ExchangeError {}

impl Exchange {
    /// Reads the certificates and keys that `upstreams` names. Nothing of users is kept: who asks for what needs that, as
    /// an account of their own, is refused.
    ///
    /// # Errors
    /// [`ExchangeError`] where one of them cannot be used.
    pub fn new(
        upstreams: &BTreeMap<UpstreamId, Arc<Upstream>>,
        revocations: Revocations,
    ) -> Result<Self, ExchangeError> {
        let shared = shared(Arc::default(), &config::Egress::default())?;
        Self::over((Flights::new(revocations), shared), None, upstreams)
    }

    /// The same for a gateway that serves `config`, and keeps in `store` what upstreams granted to users.
    ///
    /// # Errors
    /// [`ExchangeError`] where a certificate or key cannot be used.
    pub fn keeping(config: &Config, store: Store, revocations: Revocations) -> Result<Self, ExchangeError> {
        let shared = shared(Arc::new(Keyring::new(Some(store.clone()))), &config.egress)?;
        let origin = config.gateway.public_url.as_str().trim_end_matches('/').to_owned();
        let personal = Personal::new((origin, store), &config.logins, &shared)?;
        Self::over((Flights::new(revocations), shared), Some(Arc::new(personal)), &config.upstreams)
    }

    /// The same for a changed configuration: credentials that are still asked for in the same way are kept.
    ///
    /// # Errors
    /// [`ExchangeError`] where a certificate or key cannot be used; `self` goes on as it is.
    pub fn reconfigured(
        &self,
        upstreams: &BTreeMap<UpstreamId, Arc<Upstream>>,
        logins: &[Arc<Login>],
        egress: &config::Egress,
    ) -> Result<Self, ExchangeError> {
        let shared = shared(Arc::clone(&self.shared.keyring), egress)?;
        let again = |before: &Arc<Personal>| {
            Personal::new((before.origin.clone(), before.store.clone()), logins, &shared).map(Arc::new)
        };
        let personal = self.personal.as_ref().map(again).transpose()?;
        Self::over((Arc::clone(&self.flights), shared), personal, upstreams)
    }

    fn over(
        (flights, shared): (Arc<Flights>, Shared),
        personal: Option<Arc<Personal>>,
        upstreams: &BTreeMap<UpstreamId, Arc<Upstream>>,
    ) -> Result<Self, ExchangeError> {
        let mut plans = HashMap::with_capacity(upstreams.len());
        for (id, upstream) in upstreams {
            let plan = Plan::new(upstream, &flights, &shared);
            plans.insert(id.clone(), plan.map_err(|why| ExchangeError { of: format!("upstream `{id}`"), why })?);
        }
        let looks = &metrics().grant_cache;
        Ok(Self { plans, flights, shared, personal, hits: looks.with(["hit"]), misses: looks.with(["miss"]) })
    }

    /// A credential for `upstream` in the name of `caller`, with what a tool's rules add in `scopes`.
    ///
    /// One that is in the cache is there without waiting; for one that has to be minted, `summons` brings a witness. Nothing
    /// is retried: a call that finds the endpoint down is refused, and so are those right after it.
    ///
    /// # Errors
    /// [`Refusal::GrantRefused`], [`Refusal::GrantNeedsToken`], [`Refusal::GrantNeedsLogin`], [`Refusal::GrantUnavailable`],
    /// [`Refusal::Overloaded`]; [`Refusal::Bug`] for an upstream that was not configured.
    pub async fn mint(
        &self,
        (caller, summons): (&Identity, Summons<'_>),
        upstream: &Upstream,
        scopes: &[String],
        now: Timestamp,
    ) -> Result<Grant, Refusal> {
        let strategy = match self.strategy(&upstream.id, |plan| &plan.calls)? {
            Strategy::Fixed(minted) => return Ok(Grant::of(Arc::clone(minted), FIXED, false)),
            Strategy::Own(endpoint) => return self.own(endpoint, (&upstream.id, summons), scopes, now).await,
            // There is nothing to exchange: a key is the gateway's own word, a certificate the administrator's.
            Strategy::Exchange(_) | Strategy::IdJag(_)
                if [API_KEY, CERTIFICATE].contains(&caller.authentication.method) =>
            {
                return Err(Refusal::GrantNeedsToken);
            }
            Strategy::User(endpoint) => {
                return Box::pin(self.account(endpoint, (caller, &upstream.id, summons), scopes, now)).await;
            }
            strategy @ (Strategy::Exchange(_) | Strategy::IdJag(_)) => strategy,
        };
        let digest = match strategy {
            Strategy::Exchange(endpoint) => &endpoint.digest,
            Strategy::IdJag(assertion) => &assertion.digest,
            Strategy::Own(_) | Strategy::User(_) | Strategy::Fixed(_) => return Err(Refusal::Bug("no subject")),
        };
        let epoch = self.flights.revocations.grant_epoch(Some(caller), &upstream.id);
        let slot = slot_of_caller(digest, caller, scopes, epoch);
        if let Some(minted) = self.flights.ready(&slot, now) {
            self.hits.increment();
            return Ok(Grant::of(minted, slot, false));
        }
        self.misses.increment();
        let witness = summons()?;
        // Off the hot path, and large: kept off the caller's future.
        let minted = match strategy {
            Strategy::Exchange(endpoint) => {
                Box::pin(self.exchanged(endpoint, (caller, witness), scopes, (slot, now))).await
            }
            Strategy::IdJag(assertion) => {
                Box::pin(self.asserted(assertion, (caller, &upstream.id, witness), scopes, (slot, now))).await
            }
            Strategy::Own(_) | Strategy::User(_) | Strategy::Fixed(_) => Err(Refusal::Bug("no subject")),
        };
        minted.map(|(minted, fresh)| Grant::of(minted, slot, fresh))
    }

    /// The gateway's own credential for `upstream`, to read its catalogue: nobody's call, so nobody's name.
    ///
    /// # Errors
    /// As [`Exchange::mint`].
    pub async fn service(&self, upstream: &Upstream, summons: Summons<'_>, now: Timestamp) -> Result<Grant, Refusal> {
        match self.strategy(&upstream.id, |plan| &plan.discovery)? {
            Strategy::Fixed(minted) => Ok(Grant::of(Arc::clone(minted), FIXED, false)),
            Strategy::Own(endpoint) | Strategy::Exchange(endpoint) => {
                self.own(endpoint, (&upstream.id, summons), &[], now).await
            }
            // The check of the configuration wants a `discovery` with these.
            Strategy::IdJag(_) | Strategy::User(_) => {
                Err(Refusal::GrantRefused("the catalogue is read without a user".to_owned()))
            }
        }
    }

    /// Says in the log which servers of `id_jag` upstreams do not say that they redeem identity assertions: it would else be
    /// found out by the first caller. It changes nothing; each is asked again when it is needed.
    pub async fn look_ahead(&self, now: Timestamp) {
        for (upstream, plan) in &self.plans {
            let Strategy::IdJag(assertion) = &plan.calls else { continue };
            if let Err(fault) = assertion.server.takes_assertions(now).await {
                let why = unusable(&assertion.server, fault);
                tracing::warn!(%upstream, why = %why.inside(), "no call can be made with `id_jag` as things stand");
            }
        }
    }

    /// Forgets a credential that its upstream refused (401), so that the next one is fresh (spec RC-26). A newer
    /// credential in its place stays.
    pub fn drop_grant(&self, key: &GrantKey) {
        // What the state holds of an account is this very credential: it has to be refreshed, not read again.
        if let Some((personal, digest)) = self.personal.as_ref().zip(self.flights.digest(key)) {
            personal.accounts.refuse(key.slot, &digest);
        }
        self.flights.forget(key);
    }

    /// An access token of the upstream's server, for an assertion that the caller's identity provider made out to it.
    async fn asserted(
        &self,
        assertion: &Arc<Assertion>,
        (caller, upstream, witness): (&Identity, &UpstreamId, Witness),
        scopes: &[String],
        (slot, now): (Slot, Timestamp),
    ) -> Result<Obtained, Refusal> {
        let ends = unexpired(caller, now)?;
        self.is_user_of(&assertion.of, caller)?;
        let (subject, kind) = self.subject(assertion.subject, (caller, upstream), now).await?;
        let order = Order::Assertion { subject, kind };
        let flight =
            Flight::new((&self.flights, witness), &assertion.provider, order, scopes).redeemed_at(&assertion.server);
        self.flights.obtain(slot, now, flight.fly(Some(ends), now)).await
    }

    fn strategy(&self, id: &UpstreamId, of: impl Fn(&Plan) -> &Strategy) -> Result<&Strategy, Refusal> {
        self.plans.get(id).map(of).ok_or(Refusal::Bug("a grant for an upstream that is not configured"))
    }

    async fn exchanged(
        &self,
        endpoint: &Arc<Endpoint>,
        (caller, witness): (&Identity, Witness),
        scopes: &[String],
        (slot, now): (Slot, Timestamp),
    ) -> Result<Obtained, Refusal> {
        let ends = unexpired(caller, now)?;
        may_act(endpoint, caller)?;
        let actor = if endpoint.request.actor { Some(self.actor(endpoint, &witness, now).await?) } else { None };
        let order = Order::Exchange { subject: caller.credential.secret().clone(), actor };
        let flight = Flight::new((&self.flights, witness), endpoint, order, scopes);
        self.flights.obtain(slot, now, flight.fly(Some(ends), now)).await
    }

    async fn own(
        &self,
        endpoint: &Arc<Endpoint>,
        (upstream, summons): (&UpstreamId, Summons<'_>),
        scopes: &[String],
        now: Timestamp,
    ) -> Result<Grant, Refusal> {
        let epoch = self.flights.revocations.grant_epoch(None, upstream);
        let slot = slot_of_gateway(endpoint, "own", scopes, epoch);
        if let Some(minted) = self.flights.ready(&slot, now) {
            return Ok(Grant::of(minted, slot, false));
        }
        let flight = Flight::new((&self.flights, summons()?), endpoint, Order::Own, scopes);
        let (minted, fresh) = Box::pin(self.flights.obtain(slot, now, flight.fly(None, now))).await?;
        Ok(Grant::of(minted, slot, fresh))
    }

    /// The token that names the gateway as the actor (RFC 8693 §2.1).
    async fn actor(&self, endpoint: &Arc<Endpoint>, witness: &Witness, now: Timestamp) -> Result<Secret, Refusal> {
        let slot = slot_of_gateway(endpoint, "actor", &[], 0);
        let minted = match self.flights.ready(&slot, now) {
            Some(minted) => minted,
            None => {
                let flight = Flight::new((&self.flights, witness.clone()), endpoint, Order::Actor, &[]);
                self.flights.obtain(slot, now, flight.fly(None, now)).await?.0
            }
        };
        let value = minted.header.as_ref().and_then(|(_, value)| value.to_str().ok()?.strip_prefix(BEARER));
        value.map(|token| Secret::new(token.to_owned())).ok_or(Refusal::Bug("an actor token without a token"))
    }
}

fn shared(keyring: Arc<Keyring>, egress: &config::Egress) -> Result<Shared, ExchangeError> {
    Shared::new(keyring, egress).map_err(|why| ExchangeError { of: "`[egress]`".to_owned(), why })
}

fn unexpired(caller: &Identity, now: Timestamp) -> Result<Timestamp, Refusal> {
    let ends = caller.authentication.expires_at;
    if ends <= now { Err(Refusal::TokenInvalid(TokenFault::Expired)) } else { Ok(ends) }
}

fn unusable(endpoint: &Endpoint, fault: Fault) -> Refusal {
    let named = |why: &str| format!("{}: {why}", endpoint.request.at);
    match fault {
        Fault::Refused(why) => Refusal::GrantRefused(named(&why)),
        Fault::NeedsLogin(login, why) => Refusal::GrantNeedsLogin(Box::new(login), named(&why)),
        Fault::Unusable(why) => Refusal::GrantUnavailable(named(&why)),
    }
}

impl Plan {
    fn new(upstream: &Upstream, flights: &Flights, shared: &Shared) -> Result<Self, String> {
        let strategy = |grant| Strategy::new(grant, upstream, flights, shared);
        let calls = strategy(&upstream.grant)?;
        let discovery = upstream.discovery.as_ref().map(strategy).transpose()?;
        Ok(Self { discovery: discovery.unwrap_or_else(|| calls.clone()), calls })
    }
}

impl Strategy {
    fn new(grant: &config::Grant, upstream: &Upstream, flights: &Flights, shared: &Shared) -> Result<Self, String> {
        Ok(match grant {
            config::Grant::Exchange(request) => Self::Exchange(Arc::new(Endpoint::new(request, shared)?)),
            config::Grant::ClientCredentials(request) => Self::Own(Arc::new(Endpoint::new(request, shared)?)),
            config::Grant::IdJag(steps) => {
                let config::IdJag { assertion, redemption, subject, provider: of } = steps.as_ref();
                let provider = Endpoint::new(assertion, shared)?;
                let server = Endpoint::new(redemption, shared)?.of(upstream, assertion.resource.as_deref())?;
                let mut name = Name::of("assertion");
                name.add(provider.digest);
                name.add(server.digest);
                name.add([*subject as u8]);
                name.add(of);
                let (provider, server, digest) = (Arc::new(provider), Arc::new(server), name.finish());
                Self::IdJag(Arc::new(Assertion { provider, of: of.clone(), server, subject: *subject, digest }))
            }
            config::Grant::UserGrant(request) => {
                let server = Endpoint::new(request, shared)?.of(upstream, request.resource.as_deref())?;
                Self::User(Arc::new(server))
            }
            config::Grant::StaticSecret { header, value } => {
                let name = HeaderName::try_from(header.as_str()).map_err(|error| error.to_string())?;
                let header = (name, sensitive(value.expose().to_owned()).ok_or("the secret fits no header")?);
                let digest = Some(digest::short(value.expose()));
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
            binding: None,
            state: None,
            fresh: true,
        }))
    }
}

impl Facts {
    /// What is known of a token that `endpoint` gave.
    fn of(endpoint: &Endpoint, token: &Secret) -> Self {
        let request = &endpoint.request;
        Self {
            strategy: "",
            audience: request.audience.clone(),
            resource: request.resource.clone(),
            scopes: Vec::new(),
            token_digest: Some(digest::short(token.expose())),
            token_id: token_id(token.expose()),
        }
    }
}

impl Minted {
    fn of(token: &Secret, prover: Option<Arc<ProofKey>>, facts: Facts, generation: u64) -> Result<Self, Refusal> {
        let scheme = if prover.is_some() { DPOP } else { BEARER.trim_end() };
        let value = sensitive(format!("{scheme} {}", token.expose()));
        Ok(Self {
            header: Some((AUTHORIZATION, value.ok_or(Refusal::Bug("a token that fits no header"))?)),
            facts,
            generation,
            expires_at: None,
            usable_until: Timestamp::from_unix_ms(0),
            binding: prover.map(|prover| Binding { prover, ath: proof::ath(token.expose()) }),
            state: None,
            fresh: true,
        })
    }

    fn until(self, expires_at: Timestamp, usable_until: Timestamp) -> Self {
        Self { expires_at: Some(expires_at), usable_until, ..self }
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

/// Who asks with which credential, authenticated and bound how, and for what: nothing of one caller, credential or scope
/// set serves another. The subject token's own digest is in it, so that a step-up or a rotation mints anew; `epoch` is
/// another after a revocation.
fn slot_of_caller(asked: &[u8; 32], caller: &Identity, scopes: &[String], epoch: u64) -> Slot {
    let authentication = &caller.authentication;
    let mut name = Name::of("subject");
    name.add(epoch.to_be_bytes());
    name.add(asked);
    name.add(caller.principal);
    name.add(&authentication.token_digest);
    name.add(&authentication.issuer);
    name.maybe(authentication.acr.as_deref());
    name.add(authentication.binding.as_str());
    name.maybe(authentication.binding.thumbprint());
    add_scopes(&mut name, scopes);
    name.finish()
}

/// The gateway's own credentials are of no caller, and therefore the same for all.
fn slot_of_gateway(endpoint: &Endpoint, purpose: &str, scopes: &[String], epoch: u64) -> Slot {
    let mut name = Name::of(purpose);
    name.add(epoch.to_be_bytes());
    name.add(endpoint.digest);
    add_scopes(&mut name, scopes);
    name.finish()
}

fn add_scopes(name: &mut Name, scopes: &[String]) {
    if let [scope] = scopes {
        return name.add(scope);
    }
    let mut sorted: Vec<&str> = scopes.iter().map(String::as_str).collect();
    sorted.sort_unstable();
    sorted.dedup();
    sorted.into_iter().for_each(|scope| name.add(scope));
}

/// A header value whose bytes are wiped when the last of its clones goes, and which does not print.
fn sensitive(text: String) -> Option<HeaderValue> {
    let bytes = Bytes::from_owner(Zeroizing::new(text.into_bytes()));
    let mut value = HeaderValue::from_maybe_shared(bytes).ok()?;
    value.set_sensitive(true);
    Some(value)
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
