//! What does whoever asks for a token hold?
//!
//! A key that is proven at the token endpoint (DPoP, RFC 9449 §5), or the certificate of the connection, where the client
//! wants its tokens bound to that (RFC 8705 §3): what they are given is then good with it only. A token is bound to one of
//! them (RFC 7800 §3.1): to the certificate where one is wanted, whatever is proven besides. How a proof is judged `identity`
//! knows, and what is then to be shown at each request.

use serde::{Deserialize, Serialize};

use super::{At, clients::Asking};
use crate::{identity::Held, refusal::Refusal};

/// What a token is bound to; written down as its `cnf` is (RFC 7800 §3.1).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Bound {
    /// A key (RFC 9449 §6.1).
    #[serde(rename = "jkt")]
    Key(String),
    /// A certificate (RFC 8705 §3.1).
    #[serde(rename = "x5t#S256")]
    Certificate(String),
}

impl Bound {
    /// `token_type` of what is bound to it (RFC 9449 §5); of a certificate's, that of any (RFC 8705 §3).
    pub(super) const fn token_type(bound: Option<&Self>) -> &'static str {
        if let Some(Self::Key(_)) = bound { "DPoP" } else { "Bearer" }
    }

    /// Which, in the words of the journal.
    pub(super) fn named(&self) -> (&'static str, &str) {
        match self {
            Self::Key(thumbprint) => ("dpop", thumbprint),
            Self::Certificate(thumbprint) => ("certificate", thumbprint),
        }
    }
}

/// What `asking` holds, of which `held` was proven.
pub(super) fn of(at: &At<'_>, asking: &Asking<'_>, held: Option<&Held>) -> Result<Option<Bound>, Refusal> {
    // Where no token is taken that is not bound to a key, one that is bound to a certificate would be good for nothing.
    let key_alone = at.estate.config.gateway.dpop.as_ref().is_some_and(|dpop| dpop.required);
    if key_alone || !asking.wants_certificate() {
        return Ok(held.map(|held| Bound::Key(held.thumbprint.clone())));
    }
    let shown = at.certificate.filter(|certificate| at.now < certificate.expires_at);
    let shown = shown.ok_or(Refusal::ClientInvalid("no certificate to bind its tokens to".into()))?;
    Ok(Some(Bound::Certificate(shown.thumbprint.clone())))
}
