//! What does the gateway show an upstream, and where did that come from?
//!
//! The proof that a credential was obtained for one upstream. It does not obtain one: [`super::Exchange`] does.

use std::{fmt, sync::Arc};

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use url::Url;

use super::{endpoint::DPOP_HEADER, proof::ProofKey};
use crate::{
    clock::{self, Timestamp},
    refusal::Refusal,
};

/// An upstream-scoped credential. Only [`super::Exchange`] makes one, and none is made from what a caller sent: that a
/// caller's token goes no further than the door is a matter of types.
///
/// What an audit record names of it is open to everybody:
///
/// ```
/// fn recorded(grant: &tollgate::exchange::Grant) -> &'static str {
///     grant.strategy()
/// }
/// ```
///
/// A caller's credential does not become one:
///
/// ```compile_fail
/// fn passthrough(identity: &tollgate::identity::Identity) -> tollgate::exchange::Grant {
///     identity.credential.secret().clone().into()
/// }
/// ```
///
/// Nor does a caller, and there is no such thing as a grant that nobody minted:
///
/// ```compile_fail
/// fn passthrough(caller: tollgate::identity::Caller) -> tollgate::exchange::Grant {
///     tollgate::exchange::Grant::from(caller)
/// }
/// ```
///
/// ```compile_fail
/// let grant = tollgate::exchange::Grant::default();
/// ```
///
/// One grant carries one call:
///
/// ```compile_fail
/// fn twice(grant: &tollgate::exchange::Grant) -> tollgate::exchange::Grant {
///     grant.clone()
/// }
/// ```
#[derive(Debug)]
pub struct Grant {
    minted: Arc<Minted>,
    key: GrantKey,
    fresh: bool,
}

/// Names a grant without being it: what [`super::Exchange::drop_grant`] takes after an upstream refused the credential.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct GrantKey {
    pub(super) slot: [u8; 32],
    pub(super) generation: u64,
}

/// A credential and the facts about it, shared by the calls that it serves.
#[derive(Debug)]
pub(super) struct Minted {
    /// The whole header; its value is marked sensitive and is wiped with the last copy.
    pub(super) header: Option<(HeaderName, HeaderValue)>,
    pub(super) facts: Facts,
    pub(super) generation: u64,
    /// When it ends; `None` where nobody said.
    pub(super) expires_at: Option<Timestamp>,
    /// How long it may be served from the cache.
    pub(super) usable_until: Timestamp,
    /// The key that it is bound to, where it is.
    pub(super) binding: Option<Binding>,
    /// How often the state had changed when it was read there; `None` where it does not come from the state.
    pub(super) state: Option<u64>,
    /// Whether it was minted, and not found there.
    pub(super) fresh: bool,
}

/// What makes a proof for a credential (RFC 9449 §4).
#[derive(Debug)]
pub(super) struct Binding {
    pub(super) prover: Arc<ProofKey>,
    /// The credential's digest, as proofs have it.
    pub(super) ath: String,
}

/// What is recorded of a credential.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// `exchange`, `client_credentials`, `workload_grant`, `id_jag`, `user_grant`, `static_secret` or `none`; of what never
    /// reaches an upstream `actor`, the token that names the gateway in an exchange, and `assertion`, an ID-JAG.
    pub strategy: &'static str,
    /// The `audience` that was asked for.
    pub audience: Option<String>,
    /// The `resource` that was asked for (RFC 8707 §2).
    pub resource: Option<String>,
    /// The scopes that the authorization server gave, sorted; where it did not say, those asked for (RFC 6749 §5.1).
    pub scopes: Vec<String>,
    /// The first 16 bytes of the credential's SHA-256, in hex: names it without being it.
    pub token_digest: Option<String>,
    /// The credential's own `jti` where it can be read; it is not verified, the upstream does that.
    pub token_id: Option<String>,
}

/// Writes down that a credential was minted, before anybody gets it, and whether or not somebody still waits for it. A
/// credential whose witness fails is nobody's.
#[derive(Clone)]
pub struct Witness(Arc<Sees>);

type Sees = dyn Fn(&Facts) -> Result<(), Refusal> + Send + Sync;

/// Brings a witness where a credential has to be minted; nothing is asked for where there can be none.
pub type Summons<'a> = &'a (dyn Fn() -> Result<Witness, Refusal> + Sync);

impl Witness {
    /// The witness that does this.
    #[must_use]
    pub fn new(sees: impl Fn(&Facts) -> Result<(), Refusal> + Send + Sync + 'static) -> Self {
        Self(Arc::new(sees))
    }

    pub(super) fn sees(&self, facts: &Facts) -> Result<(), Refusal> {
        (self.0)(facts)
    }
}

impl fmt::Debug for Witness {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Witness")
    }
}

impl Grant {
    /// `fresh` on the grant of whoever had it minted.
    pub(super) fn of(minted: Arc<Minted>, slot: [u8; 32], fresh: bool) -> Self {
        let key = GrantKey { slot, generation: minted.generation };
        Self { minted, key, fresh }
    }

    /// The header that carries the credential, for `upstream` alone; `None` where the upstream wants none. The value is
    /// marked sensitive: it does not print, and HTTP/2 never indexes it (RFC 7541 §7.1.3).
    #[must_use]
    pub fn header(&self) -> Option<(&HeaderName, &HeaderValue)> {
        self.minted.header.as_ref().map(|(name, value)| (name, value))
    }

    /// Whether the credential is bound to a key of the gateway's.
    #[must_use]
    pub fn is_bound(&self) -> bool {
        self.minted.binding.is_some()
    }

    /// The proof that has to go with the credential in a request of `method` to `url`, where the credential is bound to a
    /// key of the gateway's: good for that request alone (RFC 9449 §7.1).
    ///
    /// # Errors
    /// Where it cannot be made.
    pub fn proof(&self, method: &Method, url: &Url) -> Result<Option<(HeaderName, HeaderValue)>, &'static str> {
        let Some(Binding { prover, ath }) = &self.minted.binding else { return Ok(None) };
        let proof = prover.prove(method, url, Some(ath), clock::now())?;
        Ok(Some((DPOP_HEADER, proof)))
    }

    /// Takes from an answer of `url` the nonce that it wants in proofs; says whether the next proof is another for it
    /// (RFC 9449 §8.2, §9).
    pub fn heed(&self, url: &Url, answer: &HeaderMap) -> bool {
        self.minted.binding.as_ref().is_some_and(|binding| binding.prover.heed(url, answer))
    }

    /// What is recorded of the credential.
    #[must_use]
    pub fn facts(&self) -> &Facts {
        &self.minted.facts
    }

    /// [`Facts::strategy`].
    #[must_use]
    pub fn strategy(&self) -> &'static str {
        self.minted.facts.strategy
    }

    /// [`Facts::scopes`].
    #[must_use]
    pub fn scopes(&self) -> &[String] {
        &self.minted.facts.scopes
    }

    /// [`Facts::token_digest`].
    #[must_use]
    pub fn token_digest(&self) -> Option<&str> {
        self.minted.facts.token_digest.as_deref()
    }

    /// When the credential ends; `None` where it does not.
    #[must_use]
    pub fn expires_at(&self) -> Option<Timestamp> {
        self.minted.expires_at
    }

    /// Counts the credentials of this process: two grants of one generation carry the same bytes.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.minted.generation
    }

    /// Whether the credential was minted for this grant, and not found.
    #[must_use]
    pub fn fresh(&self) -> bool {
        self.fresh
    }

    /// Names this grant for [`super::Exchange::drop_grant`], after the grant itself has gone with the call.
    #[must_use]
    pub fn key(&self) -> GrantKey {
        self.key
    }
}
