//! How does a browser bring a code from another server?
//!
//! Authorization code with PKCE (RFC 6749 §4.1, RFC 7636): the page to which a browser is sent, and whether what it comes
//! back with answers just that. The answer has to name its issuer where that says that it does (RFC 9207 §2.4, RC-23). It
//! neither redeems the code nor keeps what is under way.

use serde::{Deserialize, Serialize};
use url::Url;

use super::{
    answer::Fault,
    endpoint::{Code, Endpoint},
};
use crate::{
    clock::Timestamp,
    digest,
    random::{self, NoRandomness},
    secret::Secret,
    state::StoreFault,
};

/// A browser on its way, and what it has to come back with.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sent {
    server: String,
    redirect_uri: String,
    state: String,
    verifier: String,
    /// Of a login (OpenID Connect Core §3.1.2.1).
    nonce: Option<String>,
}

/// For what a browser is sent.
#[derive(Debug, Clone, Copy)]
pub(super) enum Errand<'a> {
    /// A grant of these scopes.
    Grant(&'a [String]),
    /// A login, of the person whom the hint names.
    Login(Option<&'a str>),
}

/// An authorization response (RFC 6749 §4.1.2, RFC 9207 §2).
#[derive(Debug, Default)]
pub struct Response {
    /// `code`.
    pub code: Option<Secret>,
    /// `state`.
    pub state: Option<String>,
    /// `iss`.
    pub issuer: Option<String>,
    /// `error`.
    pub error: Option<String>,
}

/// Why a browser does not go on. What a provider said goes to the journal, never to a page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Strayed {
    /// There is no such visit: used, ended, of another browser, or never begun.
    Unknown,
    /// The step does not belong to this visit: `state`, `nonce`, or the page's token, is another.
    Forged,
    /// The answer is not of the server that was asked, or does not say so.
    IssuerMismatch,
    /// Somebody else logged in than the caller.
    OtherUser,
    /// The user, or the server for them, said no.
    Declined(String),
    /// The server takes no code with PKCE, lacks something else that is needed, or says what cannot be believed.
    Unfit(String),
    /// A server cannot be used now, or the state cannot.
    Unavailable(String),
}

impl Strayed {
    /// The word for the record.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Unknown => "visit_unknown",
            Self::Forged => "state_mismatch",
            Self::IssuerMismatch => "issuer_mismatch",
            Self::OtherUser => "other_user",
            Self::Declined(_) => "declined",
            Self::Unfit(_) => "server_unfit",
            Self::Unavailable(_) => "unavailable",
        }
    }

    /// What a provider or the state said of it, for the journal.
    #[must_use]
    pub fn inside(&self) -> Option<&str> {
        match self {
            Self::Declined(why) | Self::Unfit(why) | Self::Unavailable(why) => Some(why),
            Self::Unknown | Self::Forged | Self::IssuerMismatch | Self::OtherUser => None,
        }
    }
}

impl From<StoreFault> for Strayed {
    fn from(fault: StoreFault) -> Self {
        Self::Unavailable(fault.to_string())
    }
}

impl From<NoRandomness> for Strayed {
    fn from(fault: NoRandomness) -> Self {
        Self::Unavailable(fault.to_string())
    }
}

impl From<Fault> for Strayed {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Refused(why) => Self::Declined(why),
            Fault::Unusable(why) => Self::Unavailable(why),
        }
    }
}

impl std::fmt::Debug for Sent {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Sent").field("server", &self.server).finish_non_exhaustive()
    }
}

impl Sent {
    /// Sends a browser to `server`: to which page of it, and what has to come of that.
    pub(super) async fn to(
        server: &Endpoint,
        errand: Errand<'_>,
        redirect_uri: String,
        now: Timestamp,
    ) -> Result<(Url, Self), Strayed> {
        let metadata = server.discovery()?.metadata(now).await?;
        let (scopes, hint, nonce) = match errand {
            Errand::Grant(scopes) => (scopes, None, None),
            Errand::Login(hint) => (server.request.scopes.as_slice(), hint, Some(random::unguessable()?)),
        };
        // RC-21. A provider that says nothing of it may do without where a nonce binds the code (RFC 9700 §2.1.1): those of
        // OpenID Connect Discovery need not name the methods.
        if !metadata.s256.unwrap_or(nonce.is_some()) {
            return Err(Strayed::Unfit(format!("{}: no PKCE with S256 (RC-21)", metadata.issuer)));
        }
        let lacking = || Strayed::Unfit(format!("{}: no `authorization_endpoint`", metadata.issuer));
        let mut to = metadata.authorization_endpoint.clone().ok_or_else(lacking)?;
        let (state, verifier) = (random::unguessable()?, random::unguessable()?);
        to.query_pairs_mut()
            .append_pair("response_type", "code")
            .append_pair("client_id", &server.request.client.id)
            .append_pair("redirect_uri", &redirect_uri)
            .append_pair("state", &state)
            .append_pair("code_challenge", &digest::base64(&verifier))
            .append_pair("code_challenge_method", "S256")
            .extend_pairs((!scopes.is_empty()).then(|| ("scope", scopes.join(" "))))
            .extend_pairs(server.request.resource.as_ref().map(|resource| ("resource", resource.as_str())))
            .extend_pairs(nonce.as_ref().map(|nonce| ("nonce", nonce)))
            .extend_pairs(hint.map(|hint| ("login_hint", hint)));
        Ok((to, Self { server: server.request.at.to_string(), redirect_uri, state, verifier, nonce }))
    }

    /// What brings the answer back to this.
    #[must_use]
    pub fn state(&self) -> &str {
        &self.state
    }

    /// Whether `response` answers this.
    pub(super) fn judge(&self, response: &Response) -> Result<(), Strayed> {
        let ours = response.state.as_deref().is_some_and(|given| digest::same(given, &self.state));
        if ours { Ok(()) } else { Err(Strayed::Forged) }
    }

    /// Whether a login brought the nonce that it was sent with.
    pub(super) fn judge_nonce(&self, nonce: Option<&str>) -> Result<(), Strayed> {
        let ours = nonce.zip(self.nonce.as_deref()).is_some_and(|(given, sent)| digest::same(given, sent));
        if ours { Ok(()) } else { Err(Strayed::Forged) }
    }

    /// The code in an answer of `server`, held against what was asked of it.
    pub(super) async fn code(self, server: &Endpoint, response: Response, now: Timestamp) -> Result<Code, Strayed> {
        self.judge(&response)?;
        // The configuration may name another server since.
        if server.request.at.to_string() != self.server {
            return Err(Strayed::IssuerMismatch);
        }
        let metadata = server.discovery()?.metadata(now).await?;
        // For errors too, and by simple comparison of strings.
        match &response.issuer {
            Some(issuer) if *issuer != metadata.issuer => return Err(Strayed::IssuerMismatch),
            None if metadata.names_issuer => return Err(Strayed::IssuerMismatch),
            Some(_) | None => {}
        }
        match (response.error, response.code) {
            (Some(error), _) => Err(Strayed::Declined(error)),
            (None, Some(code)) => {
                Ok(Code { code, verifier: Secret::new(self.verifier), redirect_uri: self.redirect_uri })
            }
            (None, None) => Err(Strayed::Declined("neither a code nor an error".to_owned())),
        }
    }
}
