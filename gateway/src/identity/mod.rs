//! Who asks?
//!
//! A credential in, a [`Caller`] out. It does not know what is asked, nor whether it is allowed.

pub mod api_key;
pub mod assertion;
mod certificate;
mod claims;
pub(crate) mod discovery;
mod introspection;
mod keys;
mod keyset;
pub mod metadata;
mod proof;
pub mod revocation;
mod sender;
pub(crate) mod strict;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod token;

use std::{collections::HashSet, fmt, net::IpAddr, sync::Arc, time::Duration};

use api_key::{ApiKey, ApiKeys};
pub use certificate::{Certificate, ISSUER as CERTIFICATES, list_ends};
use http::{HeaderMap, HeaderValue, Method, header};
use introspection::{Introspection, Outcome};
pub use keys::IssuerStatus;
use keys::Keys;
use quick_cache::{Weighter, sync::Cache};
pub use sender::{Binding, Held, Senders};
use serde_json::{Map, Value};

use crate::{
    clock::Timestamp,
    config::{Egress, Endpoint, Issuer, Tolerance},
    digest::sha256,
    egress::{Client, Trust},
    refusal::{Refusal, TokenFault},
    secret::{Secret, Tripwire},
    state::Site,
    telemetry::{
        metrics,
        metrics::{Counter, Handle},
    },
};

/// What turns credentials into callers.
pub struct Authenticator {
    issuers: Vec<Arc<Keys>>,
    senders: Senders,
    introspections: Vec<Arc<Introspection>>,
    api_keys: Option<Arc<ApiKeys>>,
    verified: Cache<[u8; 32], Arc<Verified>, ByBytes>,
    hits: Handle<Counter, 1>,
    misses: Handle<Counter, 1>,
    /// Which reading of the configuration this is.
    reading: u64,
}

impl Authenticator {
    /// An authenticator for `issuers`, where they are accepted for `api_keys`, and for who shows what `senders` want; where
    /// the issuers' metadata may lead, `egress` says. It knows no keys before [`Authenticator::start`].
    ///
    /// # Errors
    /// Where an issuer's `ca`, or what the gateway proves itself with, cannot be used.
    pub fn new(
        issuers: &[Arc<Issuer>],
        egress: &Egress,
        api_keys: Option<ApiKeys>,
        senders: Senders,
    ) -> Result<Self, String> {
        let mut clients: Vec<(Trust, (Client, Client))> = Vec::new();
        let mut kept = Vec::with_capacity(issuers.len());
        let mut introspections = Vec::new();
        for issuer in issuers {
            let trust = Trust { ca: issuer.ca.clone(), ..Trust::default() };
            let both = match clients.iter().find(|(known, _)| *known == trust) {
                Some((_, both)) => both.clone(),
                None => {
                    let egress = Egress { ca: issuer.ca.clone().or_else(|| egress.ca.clone()), ..egress.clone() };
                    let both = Client::new(&trust).and_then(|client| Ok((client, Client::outside(&egress)?)));
                    let both = both.map_err(|error| error.to_string())?;
                    clients.push((trust, both.clone()));
                    both
                }
            };
            if let Some(settings) = &issuer.introspection {
                introspections.push(Introspection::new(issuer, settings, both.0.clone())?);
            }
            kept.push(Arc::new(Keys::new(Arc::clone(issuer), Some(both))));
        }
        let verified = Cache::with_weighter(VERIFIED_ESTIMATE, VERIFIED_BYTES_MAX, ByBytes);
        let looks = &metrics().token_cache;
        Ok(Self {
            issuers: kept,
            senders,
            introspections,
            api_keys: api_keys.map(Arc::new),
            verified,
            hits: looks.with(["hit"]),
            misses: looks.with(["miss"]),
            reading: 0,
        })
    }

    /// Which reading of the configuration this is: whoever is taken by it bears the number.
    #[must_use]
    pub const fn reading(&self) -> u64 {
        self.reading
    }

    /// The same, which also takes tokens that the gateway itself signed, with keys that [`Authenticator::give`] brings.
    #[must_use]
    pub fn with_own(mut self, own: Option<&Arc<Issuer>>) -> Self {
        self.issuers.extend(own.map(|own| Arc::new(Keys::new(Arc::clone(own), None))));
        self
    }

    /// Takes the keys of `issuer`, a JWK Set, from whoever holds them: the gateway asks itself nothing over HTTP.
    ///
    /// # Errors
    /// Where it has no usable key, in words for the operator.
    pub fn give(&self, issuer: &str, keys: &[u8], now: Timestamp) -> Result<(), &'static str> {
        self.of(issuer).ok_or("no such issuer")?.give(keys, now)
    }

    /// Whom a JWT of one of the issuers vouches for, that is no access token but of this `kind` (`typ`), and made out to
    /// `audience`. It came from a site, or from the issuer itself.
    ///
    /// # Errors
    /// [`Refusal::TokenInvalid`], [`Refusal::IdentityUnavailable`].
    pub async fn vouched(
        &self,
        (text, site): (&str, Option<Site>),
        kind: &str,
        audience: &str,
        now: Timestamp,
    ) -> Result<Vouched, Refusal> {
        let presented = token::open(text).map_err(Refusal::TokenInvalid)?;
        let named = presented.issuer().map_err(Refusal::TokenInvalid)?;
        let keys = self.of(named).ok_or(Refusal::TokenInvalid(TokenFault::IssuerUnknown))?;
        presented.check_as(kind, &keys.issuer, now).map_err(Refusal::TokenInvalid)?;
        let made_for = presented.audiences().map_err(Refusal::TokenInvalid)?;
        if !made_for.iter().any(|one| one == audience) {
            return Err(Refusal::TokenInvalid(TokenFault::AudienceMismatch));
        }
        let id = presented.key_id.as_deref();
        keys.with_key((id, presented.algorithm), site, now, |key| presented.verify(key.decoding()))
            .await?
            .map_err(Refusal::TokenInvalid)?;
        let expires_at = presented.expires_at().map_err(Refusal::TokenInvalid)?;
        claims::vouched(presented.claims, &keys.issuer, expires_at).map_err(Refusal::TokenInvalid)
    }

    /// The claims of a JWT of this `kind` that `issuer` signed, whoever it is made out to.
    ///
    /// # Errors
    /// [`Refusal::TokenInvalid`], [`Refusal::IdentityUnavailable`].
    pub async fn issued(
        &self,
        text: &str,
        (kind, issuer): (&str, &str),
        now: Timestamp,
    ) -> Result<Map<String, Value>, Refusal> {
        let presented = token::open(text).map_err(Refusal::TokenInvalid)?;
        if presented.issuer().map_err(Refusal::TokenInvalid)? != issuer {
            return Err(Refusal::TokenInvalid(TokenFault::IssuerMismatch));
        }
        let keys = self.of(issuer).ok_or(Refusal::TokenInvalid(TokenFault::IssuerUnknown))?;
        presented.check_as(kind, &keys.issuer, now).map_err(Refusal::TokenInvalid)?;
        let id = presented.key_id.as_deref();
        keys.with_key((id, presented.algorithm), None, now, |key| presented.verify(key.decoding()))
            .await?
            .map_err(Refusal::TokenInvalid)?;
        Ok(presented.claims)
    }

    fn of(&self, issuer: &str) -> Option<&Arc<Keys>> {
        self.issuers.iter().find(|keys| keys.issuer.issuer == issuer)
    }

    /// Takes over what `before` knows of the keys of issuers that both have: a change of the configuration is no reason to
    /// turn callers away until the keys have been read again.
    pub fn inherit(&mut self, before: &Self) {
        self.reading = before.reading.saturating_add(1);
        self.senders.inherit(&before.senders);
        for keys in &self.issuers {
            if let Some(known) = before.issuers.iter().find(|known| known.issuer == keys.issuer) {
                keys.inherit(known);
            }
        }
        if let (Some(api_keys), Some(known)) = (&self.api_keys, &before.api_keys) {
            api_keys.inherit(known);
        }
    }

    /// Begins to read the issuers' keys, on the runtime that this is called on, until the process ends.
    pub fn start(&self) {
        for keys in self.issuers.iter().filter(|keys| keys.issuer.signs()) {
            Arc::clone(keys).keep();
        }
        if let Some(api_keys) = &self.api_keys {
            Arc::clone(api_keys).keep();
        }
    }

    /// Who sent a request that shows this, to an endpoint that goes by `audiences` (RR-06).
    ///
    /// A token that was verified within the last minute is not verified again, unless its issuer's keys have changed; it is
    /// compared with `audiences` each time, for a token is remembered for all endpoints. What it is bound to has to be shown
    /// each time.
    ///
    /// # Errors
    /// [`Refusal::TokenMissing`], [`Refusal::TokenInQuery`], [`Refusal::AuthorizationMalformed`],
    /// [`Refusal::TokenInvalid`], [`Refusal::ProofInvalid`], [`Refusal::ProofNonceNeeded`],
    /// [`Refusal::IdentityUnavailable`], [`Refusal::Overloaded`].
    pub async fn authenticate(
        &self,
        shown: &Shown<'_>,
        audiences: &[Audience],
        now: Timestamp,
    ) -> Result<Caller, Refusal> {
        if shown.query.is_some_and(carries_token) {
            return Err(Refusal::TokenInQuery);
        }
        let Some((scheme, token)) = self.credential(shown.headers)? else {
            let certificate = shown.certificate.ok_or(Refusal::TokenMissing)?;
            let mut identity = self.senders.holder(certificate, now)?;
            identity.credential.reading = self.reading;
            return Ok(Caller { identity: Arc::new(identity) });
        };
        let digest = sha256(token.as_bytes());
        let verified = match self.remembered(&digest, now) {
            Some(verified) => {
                self.hits.increment();
                verified
            }
            None => {
                self.misses.increment();
                let site = Site::of(shown.peer);
                let verified = Box::pin(self.verify((token, digest), site, audiences, now)).await?;
                let verified = Arc::new(verified.by(self.reading));
                self.verified.insert(digest, Arc::clone(&verified));
                verified
            }
        };
        let audience = meant(&verified.audiences, audiences)?;
        if let Some(habit) = audience.forgiven {
            metrics().tolerated.with([habit.as_str()]).increment();
        }
        self.senders.check((scheme, token), shown, &verified.identity, now)?;
        Ok(Caller { identity: Arc::clone(&verified.identity) })
    }

    /// Forgets the tokens of everybody whom `gone` names, and says who that is.
    pub fn forget(&self, gone: impl Fn(&Identity) -> bool) -> HashSet<[u8; 32]> {
        let found: Vec<_> = self.verified.iter().filter(|(_digest, verified)| gone(&verified.identity)).collect();
        let forget = |(digest, verified): ([u8; 32], Arc<Verified>)| {
            let _gone = self.verified.remove(&digest);
            self.introspections.iter().for_each(|asked| asked.forget(&digest));
            verified.identity.principal
        };
        found.into_iter().map(forget).collect()
    }

    /// The API keys that were made or revoked since this was asked.
    #[must_use]
    pub fn changes_of_keys(&self) -> Vec<(&'static str, ApiKey)> {
        self.api_keys.as_ref().map(|keys| keys.changes()).unwrap_or_default()
    }

    /// How far the credential of `identity` is no longer what it was, where whoever vouches for it says so after all. No
    /// answer is no word against it.
    #[must_use]
    pub fn withdrawn(&self, identity: &Identity, now: Timestamp) -> Option<Withdrawn> {
        let Authentication { method, issuer, token_id, .. } = &identity.authentication;
        match *method {
            API_KEY => {
                let keys = self.api_keys.as_ref()?;
                keys.is_revoked(token_id.as_deref()?).then_some(Withdrawn::Wholly("the key is revoked"))
            }
            INTROSPECTION => {
                let asked = self.introspections.iter().find(|asked| asked.issuer.issuer == *issuer)?;
                let text = identity.credential.secret().expose();
                let said = asked.look(sha256(text.as_bytes()), text, now)?;
                match &said.outcome {
                    Outcome::Unknown(_) => None,
                    Outcome::Inactive => Some(Withdrawn::Wholly("its issuer calls it inactive")),
                    Outcome::Active(_) if said.leaves(identity, asked, now) => None,
                    Outcome::Active(_) => Some(Withdrawn::Partly("its issuer gives it other rights than before")),
                }
            }
            _ => None,
        }
    }

    /// The credential of the one `Authorization` header, where there is one (RFC 6750 §2.1, RFC 9449 §7.1). HTTP's rules for
    /// the scheme are RFC 9110 §11.4.
    fn credential<'h>(&self, headers: &'h HeaderMap) -> Result<Option<(Scheme, &'h str)>, Refusal> {
        let mut values = headers.get_all(header::AUTHORIZATION).iter();
        let Some(value) = values.next() else { return Ok(None) };
        if values.next().is_some() {
            return Err(Refusal::AuthorizationMalformed);
        }
        let (scheme, token) =
            value.to_str().ok().and_then(|value| value.split_once(' ')).ok_or(Refusal::AuthorizationMalformed)?;
        let token = token.trim_start_matches(' ');
        let scheme = match scheme {
            bearer if bearer.eq_ignore_ascii_case("bearer") => Scheme::Bearer,
            dpop if dpop.eq_ignore_ascii_case("dpop") && self.senders.takes_proofs() => Scheme::Dpop,
            _ => return Err(Refusal::AuthorizationMalformed),
        };
        if is_token68(token) { Ok(Some((scheme, token))) } else { Err(Refusal::AuthorizationMalformed) }
    }

    /// The nonce that goes back to whoever sent `headers`, where they have to bear one in their next proof.
    #[must_use]
    pub fn nonce(&self, headers: &HeaderMap, now: Timestamp) -> Option<HeaderValue> {
        self.senders.nonce(headers, now)
    }

    /// The key that whoever asks for a token with `headers`, by POST at the gateway's own `path`, proves to hold; none where
    /// they prove nothing, or no proofs are taken (RFC 9449 §5).
    ///
    /// # Errors
    /// [`Refusal::ProofInvalid`], [`Refusal::ProofNonceNeeded`].
    pub fn held(&self, headers: &HeaderMap, path: &str, now: Timestamp) -> Result<Option<Held>, Refusal> {
        self.senders.held(headers, path, now)
    }

    /// Notes that the proof of `held` was shown, once its `owner` is known to have what it came with.
    ///
    /// # Errors
    /// [`Refusal::ProofInvalid`] where it was shown before; [`Refusal::Overloaded`].
    pub fn note(&self, owner: [u8; 32], held: &Held, now: Timestamp) -> Result<(), Refusal> {
        self.senders.note(owner, held, now)
    }

    /// How long after its end the credential of `identity` is still taken; `None` where nobody vouches for it any more.
    #[must_use]
    pub fn leeway(&self, identity: &Identity) -> Option<Duration> {
        let Authentication { method, issuer, .. } = &identity.authentication;
        match *method {
            CERTIFICATE => return self.senders.names(identity).then_some(Duration::ZERO),
            API_KEY => return self.api_keys.is_some().then_some(Duration::ZERO),
            _ => {}
        }
        self.issuers.iter().find(|keys| keys.issuer.issuer == *issuer).map(|keys| keys.issuer.leeway)
    }

    /// Whether the tokens of at least one issuer can be checked, and of one besides the gateway itself: nobody logs in without
    /// another. One that is asked about each is not asked for this; where there is none, callers are known by what needs none.
    #[must_use]
    pub fn ready(&self, now: Timestamp) -> bool {
        let mut others = self.issuers.iter().filter(|keys| !keys.is_own()).peekable();
        others.peek().is_none() || others.any(|keys| keys.usable(now) || !keys.issuer.signs())
    }

    /// Each issuer, as an operator wants to see it.
    #[must_use]
    pub fn status(&self) -> Vec<IssuerStatus> {
        self.issuers.iter().map(|keys| keys.status()).collect()
    }

    fn remembered(&self, digest: &[u8; 32], now: Timestamp) -> Option<Arc<Verified>> {
        let verified = self.verified.get(digest)?;
        if now < verified.until && verified.basis.stands() {
            return Some(verified);
        }
        let _over = self.verified.remove_if(digest, |known| Arc::ptr_eq(known, &verified));
        None
    }

    async fn verify(
        &self,
        (text, digest): (&str, [u8; 32]),
        site: Site,
        audiences: &[Audience],
        now: Timestamp,
    ) -> Result<Verified, Refusal> {
        if api_key::is_one(text) {
            return self.verify_api_key(text, now).await;
        }
        if !token::is_signed(text) && text.len() <= token::TOKEN_BYTES_MAX {
            let asked = self.introspections.iter().find(|asked| asked.settings.opaque);
            let asked = asked.ok_or(Refusal::TokenInvalid(TokenFault::Malformed))?;
            return verify_opaque(asked, (text, digest), site, audiences, now).await;
        }
        let verified = self.verify_signed(text, site, audiences, now).await?;
        let issuer = verified.identity.authentication.issuer.as_str();
        match self.introspections.iter().find(|asked| asked.settings.jwt && asked.issuer.issuer == issuer) {
            Some(asked) => vouched(asked, (text, digest), site, verified, now).await,
            None => Ok(verified),
        }
    }

    /// A key of the gateway's own (spec §4.6).
    async fn verify_api_key(&self, text: &str, now: Timestamp) -> Result<Verified, Refusal> {
        let keys = self.api_keys.as_ref().ok_or(Refusal::TokenInvalid(TokenFault::Malformed))?;
        // Read before the keys are: a revocation in between then makes this verification stale, not immortal.
        let generation = keys.generation();
        let shown = keys.check(text, now).await?;
        Ok(Verified {
            until: shown.identity.authentication.expires_at.min(now.plus(VERIFIED_AGE_MAX)),
            identity: Arc::new(shown.identity),
            audiences: shown.audiences,
            basis: Basis::ApiKeys(Arc::clone(keys), generation),
        })
    }

    /// A JWT, by its issuer's keys (RFC 9068 §4).
    async fn verify_signed(
        &self,
        text: &str,
        site: Site,
        audiences: &[Audience],
        now: Timestamp,
    ) -> Result<Verified, Refusal> {
        let presented = token::open(text).map_err(Refusal::TokenInvalid)?;
        let named = presented.issuer().map_err(Refusal::TokenInvalid)?;
        let keys = self.of(named).ok_or(Refusal::TokenInvalid(TokenFault::IssuerUnknown))?;
        let issuer = keys.issuer.as_ref();
        presented.check(issuer, now).map_err(Refusal::TokenInvalid)?;
        let made_for = presented.audiences().map_err(Refusal::TokenInvalid)?;
        // Also before the signature: a token for somebody else must not cost one.
        meant(&made_for, audiences)?;
        // Read before the key is: a rotation in between then makes this verification stale, not immortal.
        let generation = keys.generation();
        let id = presented.key_id.as_deref();
        keys.with_key((id, presented.algorithm), Some(site), now, |key| presented.verify(key.decoding()))
            .await?
            .map_err(Refusal::TokenInvalid)?;
        let expires_at = presented.expires_at().map_err(Refusal::TokenInvalid)?;
        let asked = issuer.introspection.as_ref().is_some_and(|introspection| introspection.jwt);
        let method = if asked { INTROSPECTION } else { JWT };
        let identity =
            claims::identity(&presented.claims, issuer, expires_at, text, method).map_err(Refusal::TokenInvalid)?;
        Ok(Verified {
            identity: Arc::new(identity),
            audiences: made_for,
            until: expires_at.min(now.plus(VERIFIED_AGE_MAX)),
            basis: Basis::Keys(Arc::clone(keys), generation),
        })
    }
}

/// A token that says nothing itself, by what its issuer says of it (RFC 7662).
async fn verify_opaque(
    asked: &Arc<Introspection>,
    (text, digest): (&str, [u8; 32]),
    site: Site,
    audiences: &[Audience],
    now: Timestamp,
) -> Result<Verified, Refusal> {
    let said = asked.ask((digest, text), site, now).await?;
    let (identity, made_for) =
        introspection::opaque(said.claims()?, asked, text, now).map_err(Refusal::TokenInvalid)?;
    meant(&made_for, audiences)?;
    Ok(Verified {
        until: identity.authentication.expires_at.min(said.until),
        identity: Arc::new(identity),
        audiences: made_for,
        basis: Basis::Said,
    })
}

/// A JWT that is genuine, where its issuer still stands by it: so that a revocation there is seen here. It is good for no
/// more than both say.
async fn vouched(
    asked: &Arc<Introspection>,
    (text, digest): (&str, [u8; 32]),
    site: Site,
    verified: Verified,
    now: Timestamp,
) -> Result<Verified, Refusal> {
    let said = asked.ask((digest, text), site, now).await?;
    let own =
        Arc::into_inner(verified.identity).ok_or(Refusal::Bug("somebody has an identity that is not proven yet"))?;
    let identity = introspection::narrowed(said.claims()?, asked, own, now).map_err(Refusal::TokenInvalid)?;
    let until = verified.until.min(said.until).min(identity.authentication.expires_at);
    Ok(Verified { identity: Arc::new(identity), until, ..verified })
}

impl fmt::Debug for Authenticator {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Authenticator").field("issuers", &self.issuers).finish_non_exhaustive()
    }
}

/// What a request shows of who sent it.
#[derive(Clone, Copy)]
pub struct Shown<'a> {
    /// All headers.
    pub headers: &'a HeaderMap,
    /// The query string, if any.
    pub query: Option<&'a str>,
    /// The HTTP method.
    pub method: &'a Method,
    /// Where the request was sent to.
    pub endpoint: &'a Endpoint,
    /// Whether that had a slash at its end.
    pub slashed: bool,
    /// Who is at the other end of the connection.
    pub peer: IpAddr,
    /// The client's certificate, as the handshake verified it.
    pub certificate: Option<&'a Certificate>,
}

impl fmt::Debug for Shown<'_> {
    /// Without headers and query, in which credentials come.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Shown({} {})", self.method, self.endpoint.path())
    }
}

/// What whoever vouches for a credential takes back of it, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Withdrawn {
    /// It is good no more.
    Wholly(&'static str),
    /// It is good, for something else than it was.
    Partly(&'static str),
}

/// A token that verified, and until when that may be relied on.
struct Verified {
    identity: Arc<Identity>,
    audiences: Vec<String>,
    until: Timestamp,
    basis: Basis,
}

impl Verified {
    /// Taken by this reading of the configuration.
    fn by(mut self, reading: u64) -> Self {
        // Nobody else has it yet.
        if let Some(identity) = Arc::get_mut(&mut self.identity) {
            identity.credential.reading = reading;
        }
        self
    }
}

/// What a verification rests on besides time.
enum Basis {
    /// An issuer's keys, at a generation.
    Keys(Arc<Keys>, u64),
    /// The gateway's own keys, at a generation.
    ApiKeys(Arc<ApiKeys>, u64),
    /// The issuer's word, which time alone takes back.
    Said,
}

impl Basis {
    fn stands(&self) -> bool {
        match self {
            Self::Keys(keys, generation) => keys.generation() == *generation,
            Self::ApiKeys(keys, generation) => keys.generation() == *generation,
            Self::Said => true,
        }
    }
}

/// Verified tokens are bounded by what they hold in memory.
#[derive(Clone)]
struct ByBytes;

impl Weighter<[u8; 32], Arc<Verified>> for ByBytes {
    fn weight(&self, _digest: &[u8; 32], verified: &Arc<Verified>) -> u64 {
        // The token itself, its claims again in their parsed form, and what betrays it; an opaque token is short, and what
        // its issuer says of it is not.
        let Identity { groups, scopes, agent, credential, .. } = verified.identity.as_ref();
        let words = groups.iter().chain(scopes).chain(&agent.actors).chain(&verified.audiences);
        let words = words.map(|word| word.len().saturating_add(size_of::<String>())).fold(0, usize::saturating_add);
        let token = credential.secret().expose().len().saturating_mul(3);
        u64::try_from(token.saturating_add(words)).unwrap_or(u64::MAX).saturating_add(VERIFIED_BYTES_EACH)
    }
}

/// A verification is repeated after so long at the latest, whatever the token's own life: from its `exp` on each time, for
/// as long as the issuer's leeway forgives that.
const VERIFIED_AGE_MAX: Duration = Duration::from_secs(60);
/// Bytes of verified tokens kept.
const VERIFIED_BYTES_MAX: u64 = 32 * 1024 * 1024;
/// What a verified token costs besides its words.
const VERIFIED_BYTES_EACH: u64 = 2 * 1024;
/// About how many tokens that is.
const VERIFIED_ESTIMATE: usize = 8 * 1024;

/// How a token is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scheme {
    /// RFC 6750.
    Bearer,
    /// RFC 9449.
    Dpop,
}

fn is_token68(text: &str) -> bool {
    let bare = text.trim_end_matches('=');
    let fits = |b: u8| b.is_ascii_alphanumeric() | matches!(b, b'-' | b'.' | b'_' | b'~' | b'+' | b'/');
    // Without an early exit, so that the compiler looks at many bytes at once.
    !bare.is_empty() && bare.bytes().fold(true, |all, b| all & fits(b))
}

/// RFC 6750 §2.3's way, which leaves tokens in logs and histories (RR-07).
fn carries_token(query: &str) -> bool {
    url::form_urlencoded::parse(query.as_bytes()).any(|(name, _)| name.eq_ignore_ascii_case("access_token"))
}

/// The first of `audiences` that the token is made out to.
fn meant<'a>(made_for: &[String], audiences: &'a [Audience]) -> Result<&'a Audience, Refusal> {
    let found = audiences.iter().find(|audience| made_for.iter().any(|one| is_same_resource(one, &audience.name)));
    found.ok_or(Refusal::TokenInvalid(TokenFault::AudienceMismatch))
}

/// Equal, but for the case of scheme and host (RR-06, RFC 3986 §6.2.2.1).
fn is_same_resource(one: &str, other: &str) -> bool {
    if one == other {
        return true;
    }
    let (Some((scheme, rest)), Some((other_scheme, other_rest))) = (one.split_once("://"), other.split_once("://"))
    else {
        return false;
    };
    let authority = |rest: &str| rest.find('/').unwrap_or(rest.len());
    let (host, path) = rest.split_at_checked(authority(rest)).unwrap_or((rest, ""));
    let (other_host, other_path) = other_rest.split_at_checked(authority(other_rest)).unwrap_or((other_rest, ""));
    scheme.eq_ignore_ascii_case(other_scheme) && host.eq_ignore_ascii_case(other_host) && path == other_path
}

/// What a token may be made out to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Audience {
    /// The resource (RFC 8707), or another name for it.
    pub name: String,
    /// The habit for which it is taken, where it is not the endpoint's own name.
    pub forgiven: Option<Tolerance>,
}

/// The proven identity behind one request. Only [`Authenticator::authenticate`] makes one.
#[derive(Debug, Clone)]
pub struct Caller {
    identity: Arc<Identity>,
}

impl Caller {
    /// Who that is.
    #[must_use]
    pub fn identity(&self) -> &Arc<Identity> {
        &self.identity
    }

    /// A caller out of thin air, for the tests of later stages.
    #[cfg(test)]
    pub(crate) fn of(identity: Identity) -> Self {
        Self { identity: Arc::new(identity) }
    }
}

/// What a credential proved.
#[derive(Debug)]
pub struct Identity {
    /// The person; `None` for a machine that acts in its own name.
    pub user: Option<User>,
    /// The software that acts.
    pub agent: Agent,
    /// The customer or division that both belong to.
    pub tenant: Option<String>,
    /// Groups of the user, or of the agent where there is no user; sorted, no duplicates.
    pub groups: Vec<String>,
    /// Scopes of the credential; sorted, no duplicates.
    pub scopes: Vec<String>,
    /// How all this was proven.
    pub authentication: Authentication,
    /// SHA-256 over issuer, user, agent, actors and tenant: *who*, whatever credential they hold today.
    pub principal: [u8; 32],
    /// SHA-256 over everything that policy can read of a caller: callers of one class get the same decisions.
    pub class: [u8; 32],
    /// The credential itself: for `exchange` and for the outbound tripwire, nobody else.
    pub credential: Credential,
}

/// A credential as it was presented, and the wire that it trips on its way out: set once for all calls under it.
#[derive(Debug)]
pub struct Credential {
    secret: Secret,
    tripwire: Tripwire,
    /// By which reading of the configuration it was taken.
    reading: u64,
}

impl Credential {
    /// The credential `text`.
    #[must_use]
    pub fn new(text: String) -> Self {
        let secret = Secret::new(text);
        Self { tripwire: Tripwire::new(&secret), secret, reading: 0 }
    }

    /// What was presented.
    #[must_use]
    pub const fn secret(&self) -> &Secret {
        &self.secret
    }

    /// What it looks like wherever it turns up.
    #[must_use]
    pub const fn tripwire(&self) -> &Tripwire {
        &self.tripwire
    }
}

/// A person, as an issuer names them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// `iss`.
    pub issuer: String,
    /// `sub`.
    pub subject: String,
}

/// The software that acts: the OAuth client, or the outermost `act` (RFC 8693 §4.1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Agent {
    /// `client_id`, or what the issuer's `claims.agent` names.
    pub client_id: String,
    /// The `act` chain, outermost first; only the first is for decisions.
    pub actors: Vec<String>,
}

/// For whom an issuer vouches by a token that is no access token: the person of an ID token or of an ID-JAG.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vouched {
    /// `iss`.
    pub issuer: String,
    /// `sub`.
    pub subject: String,
    /// The tenant, by the claim that the issuer's configuration names.
    pub tenant: Option<String>,
    /// Groups, by the claim that the issuer's configuration names.
    pub groups: Vec<String>,
    /// `acr`, where there is one.
    pub acr: Option<String>,
    /// `auth_time`, where there is one.
    pub auth_time: Option<u64>,
    /// `exp`.
    pub expires_at: Timestamp,
    /// All claims, for what belongs to one kind of token only.
    pub claims: Map<String, Value>,
}

/// By a signature of the issuer.
pub const JWT: &str = "jwt";

/// By the issuer's word (RFC 7662), with or without a signature besides.
pub const INTROSPECTION: &str = "introspection";

/// By a key that the gateway gave out itself.
pub const API_KEY: &str = "api_key";

/// By the certificate of the connection, without a token.
pub const CERTIFICATE: &str = "certificate";

/// Every way in which an identity is proven.
pub const METHODS: [&str; 4] = [JWT, INTROSPECTION, API_KEY, CERTIFICATE];

/// How an identity was proven.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authentication {
    /// [`JWT`], [`INTROSPECTION`], [`API_KEY`] or [`CERTIFICATE`].
    pub method: &'static str,
    /// `iss`.
    pub issuer: String,
    /// `jti`, where there is one.
    pub token_id: Option<String>,
    /// The first 16 bytes of the credential's SHA-256, in hex: names it without being it.
    pub token_digest: String,
    /// `sid`, where there is one: the login that the token came of, with others.
    pub login_id: Option<String>,
    /// `acr`, where there is one.
    pub acr: Option<String>,
    /// When the credential was issued; where nobody said, at the beginning of time.
    pub issued_at: Timestamp,
    /// `auth_time`, where there is one: when the user logged in.
    pub auth_time: Option<Timestamp>,
    /// What the credential is bound to, and the sender showed to hold.
    pub binding: Binding,
    /// `may_act`, where there is one: the only party that may become an actor of this credential (RFC 8693 §4.4).
    pub may_act: Option<String>,
    /// When the credential ends.
    pub expires_at: Timestamp,
}
