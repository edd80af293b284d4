//! Does the sender hold what the credential is bound to?
//!
//! A token may be bound to a key (DPoP, RFC 9449) or to a certificate (RFC 8705): then each request has to show that too,
//! whatever is remembered of the token. A certificate may also stand alone, for machines that the administrator named.
//! It verifies no token, and takes no proof apart; `proof` does.

use std::{sync::Arc, time::Duration};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use http::{HeaderMap, HeaderValue};
use serde_json::{Map, Value};
use url::Url;

use super::{
    Certificate, Identity, Scheme, Shown, certificate,
    proof::{self, Expected, Proof},
};
use crate::{
    clock::Timestamp,
    config::{CertificateHolder, Config, Dpop},
    digest::sha256,
    refusal::{ProofFault, Refusal, TokenFault},
    state::{Repeated, Replays, Sealer},
};

/// What a credential is bound to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Binding {
    /// Nothing: whoever has it can use it.
    Nothing,
    /// A key, by its thumbprint: `cnf.jkt` (RFC 9449 §6.1).
    Key(String),
    /// A certificate, by its thumbprint: `cnf.x5t#S256` (RFC 8705 §3.1).
    Certificate(String),
}

impl Binding {
    /// The word, in policies and in the journal.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Nothing => "none",
            Self::Key(_) => "dpop",
            Self::Certificate(_) => "certificate",
        }
    }

    /// Which key or certificate.
    #[must_use]
    pub fn thumbprint(&self) -> Option<&str> {
        match self {
            Self::Nothing => None,
            Self::Key(thumbprint) | Self::Certificate(thumbprint) => Some(thumbprint),
        }
    }

    /// What `cnf` of a token says (RFC 7800 §3.1). A confirmation that is not understood binds the token to something that
    /// nobody here can check, so the token is not taken.
    pub(super) fn of(claims: &Map<String, Value>) -> Result<Self, TokenFault> {
        let Some(confirmation) = claims.get("cnf") else { return Ok(Self::Nothing) };
        let mut members = confirmation.as_object().ok_or(TokenFault::ClaimMalformed("cnf"))?.iter();
        let (Some((name, Value::String(thumbprint))), None) = (members.next(), members.next()) else {
            return Err(TokenFault::BindingUnknown);
        };
        if !URL_SAFE_NO_PAD.decode(thumbprint).is_ok_and(|bytes| bytes.len() == 32) {
            return Err(TokenFault::ClaimMalformed("cnf"));
        }
        match name.as_str() {
            "jkt" => Ok(Self::Key(thumbprint.clone())),
            "x5t#S256" => Ok(Self::Certificate(thumbprint.clone())),
            _ => Err(TokenFault::BindingUnknown),
        }
    }
}

/// The key that whoever asks for a token holds. It counts as shown once [`Senders::note`] says so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// Its thumbprint: `cnf.jkt` of the token.
    pub thumbprint: String,
    /// `jti` of the proof.
    id: String,
}

/// What senders have to show, and what they have shown.
#[derive(Debug)]
pub struct Senders {
    pub(super) origin: Url,
    pub(super) dpop: Option<Dpop>,
    pub(super) proofs_max: usize,
    pub(super) holders: Vec<CertificateHolder>,
    pub(super) memory: Arc<Memory>,
}

/// What outlives a change of the configuration.
#[derive(Debug)]
pub(super) struct Memory {
    shown: Replays,
    sealer: Sealer,
}

impl Memory {
    pub(super) fn new(sealer: Sealer) -> Self {
        Self { shown: Replays::default(), sealer }
    }
}

impl Senders {
    /// As `config` has it; `sealer` seals their nonces.
    #[must_use]
    pub fn new(config: &Config, sealer: Sealer) -> Self {
        Self {
            origin: config.gateway.public_url.clone(),
            dpop: config.gateway.dpop.clone(),
            proofs_max: config.limits.proofs_max,
            holders: config.certificates.clone(),
            memory: Arc::new(Memory::new(sealer)),
        }
    }

    /// Goes on with what `before` remembers: a change of the configuration makes no replay good.
    pub(super) fn inherit(&mut self, before: &Self) {
        self.memory = Arc::clone(&before.memory);
    }

    /// Whether proofs of possession are taken.
    pub(super) const fn takes_proofs(&self) -> bool {
        self.dpop.is_some()
    }

    /// Whether the sender of `token`, which proved `identity`, holds what it is bound to.
    pub(super) fn check(
        &self,
        (scheme, token): (Scheme, &str),
        shown: &Shown<'_>,
        identity: &Identity,
        now: Timestamp,
    ) -> Result<(), Refusal> {
        let no = |fault| Err(Refusal::TokenInvalid(fault));
        match (scheme, &identity.authentication.binding) {
            (Scheme::Dpop, Binding::Key(thumbprint)) => {
                let path = format!("{}{}", shown.endpoint.path(), if shown.slashed { "/" } else { "" });
                let bound = Some((token, thumbprint.as_str()));
                let proof = self.proof(shown.headers, (shown.method.as_str(), &path), bound, now)?;
                self.first((identity.principal, thumbprint), &proof.id, now)
            }
            (Scheme::Dpop, Binding::Nothing | Binding::Certificate(_)) => no(TokenFault::BindingAbsent),
            // A bound token shown as a bearer token is a stolen one until proven otherwise (RFC 9449 §7.1).
            (Scheme::Bearer, Binding::Key(_)) => no(TokenFault::ProofMissing),
            (Scheme::Bearer, Binding::Nothing | Binding::Certificate(_))
                if self.dpop.as_ref().is_some_and(|dpop| dpop.required) =>
            {
                no(TokenFault::BindingRequired)
            }
            (Scheme::Bearer, Binding::Nothing) => Ok(()),
            (Scheme::Bearer, Binding::Certificate(thumbprint)) => match shown.certificate {
                None => no(TokenFault::CertificateMissing),
                Some(certificate) if certificate.thumbprint != *thumbprint => no(TokenFault::CertificateMismatch),
                Some(_) => Ok(()),
            },
        }
    }

    /// The key that whoever sent `headers` by POST to the gateway's own `path` holds, to be given a token that is bound to
    /// it (RFC 9449 §5); none where they prove nothing, or no proofs are taken.
    pub(super) fn held(&self, headers: &HeaderMap, path: &str, now: Timestamp) -> Result<Option<Held>, Refusal> {
        match &self.dpop {
            Some(dpop) if dpop.required || headers.contains_key(PROOF) => {
                let Proof { thumbprint, id, .. } = self.proof(headers, ("POST", path), None, now)?;
                Ok(Some(Held { thumbprint, id }))
            }
            Some(_) | None => Ok(None),
        }
    }

    /// Notes that the proof of `held` was shown by `owner`, who has what it came with.
    pub(super) fn note(&self, owner: [u8; 32], held: &Held, now: Timestamp) -> Result<(), Refusal> {
        self.first((owner, &held.thumbprint), &held.id, now)
    }

    /// The proof among `headers`, where it fits.
    fn proof(
        &self,
        headers: &HeaderMap,
        (method, path): (&str, &str),
        bound: Option<(&str, &str)>,
        now: Timestamp,
    ) -> Result<Proof, Refusal> {
        let wanted = self.dpop.as_ref().ok_or(Refusal::AuthorizationMalformed)?;
        let invalid = Refusal::ProofInvalid;
        let mut values = headers.get_all(PROOF).iter();
        let value = values.next().ok_or(invalid(ProofFault::Missing))?;
        if values.next().is_some() {
            return Err(invalid(ProofFault::Repeated));
        }
        let text = value.to_str().map_err(|_not_ascii| invalid(ProofFault::Malformed))?;
        let expected = Expected { method, origin: &self.origin, path, bound, wanted };
        let proof = proof::check(text, &expected, now).map_err(invalid)?;
        if wanted.nonce && !proof.nonce.as_ref().is_some_and(|nonce| self.is_fresh(nonce, now)) {
            return Err(Refusal::ProofNonceNeeded);
        }
        Ok(proof)
    }

    /// Last, so that nothing is remembered of what was not the holder's own. Keys are free to whoever wants more of them,
    /// so that the room is shared among those who hold them.
    fn first(&self, (owner, thumbprint): ([u8; 32], &str), id: &str, now: Timestamp) -> Result<(), Refusal> {
        let window = self.dpop.as_ref().map(|dpop| dpop.window).unwrap_or_default();
        let what = sha256(format!("{thumbprint} {id}").as_bytes());
        // A proof may lie one window ahead, and is good for another; times of proofs are whole seconds.
        let until = now.plus(window.saturating_mul(2)).plus(Duration::from_secs(1));
        let claimed = self.memory.shown.claim((owner, what), (now, until), self.proofs_max);
        claimed.map_err(|repeated| match repeated {
            Repeated::Known => Refusal::ProofInvalid(ProofFault::Replayed),
            Repeated::Full => Refusal::Overloaded("proofs remembered"),
        })
    }

    /// A nonce for whoever sent `headers`, where they prove something and nonces are wanted (RFC 9449 §8.2). It is the time,
    /// sealed: nothing has to be remembered of it, and every replica with the same key knows it.
    pub(super) fn nonce(&self, headers: &HeaderMap, now: Timestamp) -> Option<HeaderValue> {
        self.dpop.as_ref().filter(|dpop| dpop.nonce)?;
        headers.get(PROOF)?;
        let sealed = self.memory.sealer.seal(NONCE, now.unix_ms().to_be_bytes().to_vec()).ok()?;
        HeaderValue::try_from(sealed).ok()
    }

    fn is_fresh(&self, nonce: &str, now: Timestamp) -> bool {
        let opened = self.memory.sealer.open(NONCE, nonce);
        let made = opened.and_then(|bytes| <[u8; 8]>::try_from(bytes.as_slice()).ok()).map(u64::from_be_bytes);
        made.is_some_and(|made| now.since(Timestamp::from_unix_ms(made)) <= NONCE_AGE_MAX)
    }

    /// Whoever the administrator says that the holder of this certificate is.
    pub(super) fn holder(&self, certificate: &Certificate, now: Timestamp) -> Result<Identity, Refusal> {
        let holder = self.holders.iter().find(|holder| certificate.is_of(&holder.name)).ok_or(Refusal::TokenMissing)?;
        if now >= certificate.expires_at {
            return Err(Refusal::TokenInvalid(TokenFault::Expired));
        }
        Ok(certificate::identity(certificate, holder))
    }

    /// Whether the administrator still names this holder.
    pub(super) fn names(&self, identity: &Identity) -> bool {
        self.holders.iter().any(|holder| holder.agent == identity.agent.client_id && holder.tenant == identity.tenant)
    }
}

/// RFC 9449 §4.1.
const PROOF: &str = "dpop";
/// What nonces are sealed for.
const NONCE: &str = "dpop nonce";
/// How long a client may go on with one nonce.
const NONCE_AGE_MAX: Duration = Duration::from_secs(300);
