//! Who asks?
//!
//! A credential in, a [`Caller`] out. It does not know what is asked, nor whether it is allowed.

use std::sync::Arc;

use crate::{clock::Timestamp, secret::Secret};

/// The proven identity behind one request. Only [`Authenticator::authenticate`] makes one.
#[derive(Debug)]
pub struct Caller {
    identity: Arc<Identity>,
}

impl Caller {
    /// Who that is.
    #[must_use]
    pub fn identity(&self) -> &Arc<Identity> {
        &self.identity
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
    pub credential: Secret,
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

/// How an identity was proven.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authentication {
    /// `jwt` in this version.
    pub method: &'static str,
    /// `iss`.
    pub issuer: String,
    /// `jti`, where there is one.
    pub token_id: Option<String>,
    /// The first 16 bytes of the credential's SHA-256, in hex: names it without being it.
    pub token_digest: String,
    /// `acr`, where there is one.
    pub acr: Option<String>,
    /// When the credential ends.
    pub expires_at: Timestamp,
}
