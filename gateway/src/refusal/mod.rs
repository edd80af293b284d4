//! In which ways do we say no, and what does each look like from outside?
//!
//! One enum of facts and one exhaustive mapping: stable code, HTTP status, JSON-RPC error per era, challenge,
//! outside text, audit reason. No other module knows a status code or a JSON-RPC error number.
//! It does not decide anything: the stages do.
//!
//! Outside text never names a host, a secret, or anything that the caller may not see; the inside text
//! ([`Refusal::inside`]) names everything and goes to the journal and the log only.

use std::{borrow::Cow, fmt};

use crate::random::NoRandomness;

/// The version stamp on every typed error that the gateway sends (`data.version`).
pub const VERSION: &str = "1";

/// The revision family a peer speaks: it decides how an error has to look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Era {
    /// MCP 2026-07-28 and later: stateless, metadata in every request.
    Modern,
    /// MCP 2025-11-25 and earlier: `initialize` and sessions.
    Legacy,
}

impl Era {
    /// The word used in configuration, logs and audit records.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Modern => "modern",
            Self::Legacy => "legacy",
        }
    }
}

/// What is wrong with a credential. The caller learns only that it is not valid; the journal learns which.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenFault {
    /// The `aud` claim does not name this endpoint's resource (RFC 9068 §4, MCP basic/authorization).
    AudienceMismatch,
    /// The header's `alg` is not on the issuer's allow-list, or not the key's own.
    AlgorithmNotAllowed,
    /// The token came with the scheme of those that are bound to a key, and is not (RFC 9449 §7.1).
    BindingAbsent,
    /// The gateway takes tokens only that are bound to a key, and this one is not.
    BindingRequired,
    /// The token is bound (`cnf`) to what nobody here can check (RFC 7800 §3.1).
    BindingUnknown,
    /// The token is bound to a certificate, and the connection has none (RFC 8705 §3).
    CertificateMissing,
    /// The token is bound to another certificate than the connection's.
    CertificateMismatch,
    /// A claim that must be there is absent, of the wrong type, empty or too long.
    ClaimMalformed(&'static str),
    /// The header has a member that must be understood and is not (`crit`, RFC 7515 §4.1.11), or is of the wrong type.
    HeaderMalformed(&'static str),
    /// `exp` has passed.
    Expired,
    /// `nbf` or `iat` lies in the future.
    NotYetValid,
    /// The `iss` claim names nobody in `[[issuers]]`.
    IssuerUnknown,
    /// No key of the issuer has this `kid`.
    KeyUnknown,
    /// The token is valid for longer than the gateway accepts.
    LifetimeTooLong,
    /// Not a compact JWS, or over the size limit.
    Malformed,
    /// The token is bound to a key and came without its proof (RFC 9449 §7.1).
    ProofMissing,
    /// The signature does not verify.
    SignatureInvalid,
    /// `typ` is not that of an access token (RFC 9068 §4).
    TypeMismatch,
    /// The provider says that the token is not active: unknown to it, expired or revoked (RFC 7662 §2.2).
    Inactive,
    /// The provider says that another issuer made the token.
    IssuerMismatch,
    /// No API key has this id, or the key of this id is another.
    ApiKeyUnknown,
    /// The API key was revoked.
    ApiKeyRevoked,
}

impl TokenFault {
    /// The word for the audit record.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::AudienceMismatch => "audience_mismatch",
            Self::AlgorithmNotAllowed => "algorithm_not_allowed",
            Self::BindingAbsent => "binding_absent",
            Self::BindingRequired => "binding_required",
            Self::BindingUnknown => "binding_unknown",
            Self::CertificateMissing => "certificate_missing",
            Self::CertificateMismatch => "certificate_mismatch",
            Self::ClaimMalformed(_) => "claim_malformed",
            Self::HeaderMalformed(_) => "header_malformed",
            Self::Expired => "expired",
            Self::NotYetValid => "not_yet_valid",
            Self::IssuerUnknown => "issuer_unknown",
            Self::KeyUnknown => "key_unknown",
            Self::LifetimeTooLong => "lifetime_too_long",
            Self::Malformed => "malformed",
            Self::ProofMissing => "proof_missing",
            Self::SignatureInvalid => "signature_invalid",
            Self::TypeMismatch => "type_mismatch",
            Self::Inactive => "inactive",
            Self::IssuerMismatch => "issuer_mismatch",
            Self::ApiKeyUnknown => "api_key_unknown",
            Self::ApiKeyRevoked => "api_key_revoked",
        }
    }
}

/// A page that a person has to visit before a call can be made. Its address is for that person alone, so that it stands
/// in answers and not in records.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Page {
    /// Where it is.
    pub url: String,
    /// Names the visit (`elicitationId`).
    pub id: String,
    /// Whether the client declared that it sends people to pages.
    pub asked: bool,
}

impl fmt::Debug for Page {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Page").field("id", &self.id).field("asked", &self.asked).finish_non_exhaustive()
    }
}

/// What is wrong with a proof that the sender holds a key (RFC 9449 §4.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProofFault {
    /// There is none.
    Missing,
    /// There is more than one.
    Repeated,
    /// Not a compact JWS, or a claim is absent or of the wrong type.
    Malformed,
    /// `typ` is not that of a proof.
    TypeMismatch,
    /// `alg` is not on the allow-list, or not the key's own.
    AlgorithmNotAllowed,
    /// `jwk` is no public key, or holds a private one.
    KeyMalformed,
    /// The signature does not verify.
    SignatureInvalid,
    /// `htm` is another method.
    MethodMismatch,
    /// `htu` is another URL.
    UrlMismatch,
    /// `ath` is another token's.
    TokenMismatch,
    /// The token is bound to another key.
    KeyMismatch,
    /// `iat` is too long ago, or too far ahead.
    TimeOutOfWindow,
    /// It was shown before.
    Replayed,
}

impl ProofFault {
    /// The word for the audit record.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Repeated => "repeated",
            Self::Malformed => "malformed",
            Self::TypeMismatch => "type_mismatch",
            Self::AlgorithmNotAllowed => "algorithm_not_allowed",
            Self::KeyMalformed => "key_malformed",
            Self::SignatureInvalid => "signature_invalid",
            Self::MethodMismatch => "method_mismatch",
            Self::UrlMismatch => "url_mismatch",
            Self::TokenMismatch => "token_mismatch",
            Self::KeyMismatch => "key_mismatch",
            Self::TimeOutOfWindow => "time_out_of_window",
            Self::Replayed => "replayed",
        }
    }
}

/// Every way that the gateway says no. Variants state the fact; [`Refusal::outside`] gives it its form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    // ── the edge ──
    /// The request is HTTP that two readers could understand in two ways, or that this gateway does not speak.
    HttpMalformed(&'static str),
    /// The `Host` header (or `:authority`) is not a name of this gateway.
    HostNotAllowed,
    /// The `Origin` header names a page that may not call this gateway (RS-02).
    OriginNotAllowed,
    /// No endpoint has this path.
    RouteUnknown,
    /// The endpoint does not answer this HTTP method; the field lists those it does.
    MethodNotAllowed(&'static str),
    /// The request's content type is not `application/json`.
    ContentTypeUnsupported,
    /// The client accepts neither of the two forms an answer can take.
    NotAcceptable,
    /// The request line and the headers are larger than the limit, in bytes.
    HeadersTooLarge(usize),
    /// The body is larger than the limit, in bytes.
    BodyTooLarge(usize),
    /// The body did not arrive within the time allowed.
    BodyTooSlow,
    /// The body could not be read to its end.
    BodyIncomplete,
    /// The gateway has as much work as it may hold.
    Overloaded(&'static str),

    // ── identity ──
    /// No credential came with the request.
    TokenMissing,
    /// A credential came in the query string, where it must not be (RR-07).
    TokenInQuery,
    /// The `Authorization` header is there more than once, or is not a scheme that is taken and one token.
    AuthorizationMalformed,
    /// The credential is not valid; why is for the journal.
    TokenInvalid(TokenFault),
    /// The sender does not prove to hold the key that the credential is bound to; why is for the journal.
    ProofInvalid(ProofFault),
    /// The proof bears no nonce of ours, or an old one (RFC 9449 §9).
    ProofNonceNeeded,
    /// The user's login is too weak or too long ago for this call (RFC 9470).
    AuthenticationInsufficient(Login),
    /// The caller's token lacks scopes; all that this call needs are listed (RR-03).
    ScopeInsufficient(Vec<String>),
    /// The credential is good, and was revoked; why is for the journal. A newer one may be taken.
    Revoked(String),
    /// The caller is kept out, with whatever credential; why is for the journal.
    Blocked(String),
    /// The issuer's keys cannot be had now, so nobody can be told from anybody.
    IdentityUnavailable(String),

    // ── rpc ──
    /// The body is not JSON as RFC 8259 and I-JSON (RFC 7493) have it.
    NotJson(&'static str),
    /// The body is JSON, but not one JSON-RPC request or notification of the right shape.
    NotARequest(&'static str),
    /// The method is not served.
    MethodUnknown,
    /// A member of `params` is missing or of the wrong type.
    ParamsInvalid(Cow<'static, str>),
    /// A header does not agree with the body, or is missing (RS-10, RS-13, RS-14, RS-15).
    HeaderMismatch(Cow<'static, str>),
    /// A member of `_meta` that every modern request carries is missing (RS-16).
    MetaMissing(&'static str),
    /// The protocol version asked for is not served (RS-11).
    VersionUnsupported(String),
    /// A legacy request names an unsupported version in its header (RL-02).
    VersionHeaderUnsupported(String),
    /// A legacy request needs a session id and has none (RL-03).
    SessionMissing,
    /// The session id is not one of ours, has ended, or belongs to somebody else (RL-04).
    SessionUnknown,
    /// The client did not declare a capability that the answer needs; the field is the ClientCapabilities object (RS-17).
    CapabilityMissing(Cow<'static, str>),

    // ── catalog ──
    /// There is no such tool for this caller; it may not exist, or may not be theirs to see.
    ToolUnknown(String),
    /// There is no such prompt for this caller.
    PromptUnknown(String),
    /// There is no such resource for this caller.
    ResourceUnknown(String),
    /// There is nothing of this name for this caller whose arguments could be completed.
    ReferenceUnknown(String),
    /// There is no such task for this caller: the id is forged, has expired, or was given to somebody else or for another
    /// endpoint; which is for the journal.
    TaskUnknown(&'static str),
    /// The cursor is not one that the gateway gave out for this list.
    CursorInvalid,
    /// The upstream's definition of this tool has not been read yet, or cannot be.
    CatalogueUnavailable(String),
    /// The upstream turned the call down, and what it is aimed at is no longer what was judged; how, is for the journal.
    DefinitionChanged(String),

    // ── policy, ceiling ──
    /// Policy forbids this call; no scope would help. The policies that decided are for the journal.
    Denied(Vec<String>),
    /// A policy could not be evaluated, which denies.
    PolicyFailed(String),
    /// A ceiling is reached; try again after so many milliseconds.
    CeilingReached {
        /// Which ceiling, as named in `ceilings.toml`.
        ceiling: String,
        /// When the call may be tried again.
        retry_after_ms: u64,
    },

    // ── exchange ──
    /// The authorization server would not give a credential for this upstream.
    GrantRefused(String),
    /// This upstream's credential comes of a token of an identity provider, and the caller has none: an API key.
    GrantNeedsToken,
    /// The authorization server wants the user to log in again before it gives a credential; how, and for the journal why.
    GrantNeedsLogin(Box<Login>, String),
    /// The authorization server cannot be reached, or answers nonsense.
    GrantUnavailable(String),
    /// The user has to connect their account at the upstream first, on a page of the gateway's.
    ConnectRequired(Box<Page>),

    // ── the pages on which a user connects an account ──
    /// There is no such visit: it was used, has ended, belongs to another browser, or never began.
    VisitUnknown,
    /// The step is not one of this visit, or not of this user; which is for the journal.
    VisitForbidden(&'static str),
    /// A server that the visit needs said no, or cannot be used.
    VisitFailed(String),

    // ── input: what an upstream asks of the client in the middle of a call ──
    /// The `requestState` is not one that the gateway gave this caller; why is for the journal (RS-31).
    RequestStateInvalid(&'static str),
    /// The `requestState` was not used in time.
    RequestStateExpired,
    /// The retry is not the request that the `requestState` was given for.
    RequestStateMismatch,
    /// The `requestState` was used already: its call goes on, or has ended.
    RequestStateUsed,
    /// The call that waited for this retry is no longer held; whether it acted is unknown, and it is not made again.
    ContinuationLost,
    /// The upstream asks for what this client cannot be asked; the field is the ClientCapabilities object.
    InputUndeclared(Cow<'static, str>),
    /// The client would not answer what the upstream asks, in a way that no upstream can be told (spec §2.2).
    InputRefused(String),
    /// The client did not answer in time what the upstream asks.
    InputTimeout,
    /// The upstream asked again and again.
    InputRoundsExceeded,

    // ── facade: the gateway as an authorization server (RFC 6749, RFC 7591, RFC 9207) ──
    /// The OAuth client is not known, or did not prove who it is; which is for the journal.
    ClientInvalid(Cow<'static, str>),
    /// A client's description of itself is not one that is taken (RFC 7591 §3.2.2).
    ClientMetadataInvalid(&'static str),
    /// The redirect URI is none that may be registered, or not the client's.
    RedirectUriInvalid(&'static str),
    /// A parameter of an OAuth request is missing, there twice, or not as OAuth 2.1 has it.
    AuthorizationInvalid(&'static str),
    /// The authorization endpoint gives nothing but codes.
    ResponseTypeUnsupported,
    /// The `resource` is none of the gateway's endpoints (RFC 8707 §2).
    TargetInvalid,
    /// None of the scopes asked for can be had.
    ScopeInvalid,
    /// The consent was not given on the page that asked for it, in the browser that it was shown in (RA-08).
    ConsentInvalid(&'static str),
    /// The person said no.
    ConsentDenied,
    /// The identity provider did not log the person in, or its answer proves nobody; why is for the journal.
    LoginFailed(String),
    /// The identity provider cannot be asked now.
    LoginUnavailable(String),
    /// The token endpoint does not know this grant type.
    GrantTypeUnsupported,
    /// This client may not use this grant type.
    GrantTypeForbidden,
    /// The code or refresh token is not valid for this client; which is for the journal.
    CodeInvalid(&'static str),
    /// A code or refresh token came a second time: all that was issued by it has ended.
    CodeReused,
    /// What was granted was revoked since, or whom it would be for is kept out; why is for the journal.
    GrantRevoked(String),
    /// The assertion is not one that is redeemed here (ID-JAG); why is for the journal.
    AssertionInvalid(String),
    /// What outlives the process cannot be read or written.
    StateUnavailable(String),

    // ── audit ──
    /// The record could not be made durable, so nothing is forwarded.
    AuditUnavailable(String),

    // ── upstream, inspect ──
    /// The upstream could not be reached before anything of the call was sent.
    UpstreamUnreachable(String),
    /// The upstream did not answer in time; whether it acted is unknown.
    UpstreamTimeout,
    /// The upstream's answer ended early; whether it acted is unknown.
    UpstreamLost(String),
    /// The call was sent, and cannot be followed to its end; why is for the journal, whether it acted is unknown.
    OutcomeUnknown(String),
    /// The upstream would not take the gateway's credential, twice.
    UpstreamUnauthorized,
    /// The upstream answered something that is not MCP, or not an answer to this call.
    UpstreamInvalid(String),
    /// The upstream wants scopes for this call that the gateway's credential does not have; they are for the journal.
    UpstreamScopeMissing(String),
    /// The upstream and the gateway have no revision of MCP in common.
    UpstreamIncompatible(String),
    /// The upstream's answer is larger than the limit, in bytes.
    UpstreamTooLarge(usize),
    /// The caller's own credential was about to leave the gateway: a bug, stopped by the tripwire.
    CredentialLeak,
    /// Something that cannot happen did; it ends this request only.
    Bug(&'static str),
}

/// How a user has to have logged in (RFC 9470 §3).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Login {
    /// Strengths of which one has to be the login's, `acr_values`; any where empty.
    pub acr: Vec<String>,
    /// How many seconds ago at most, `max_age`.
    pub age_max_s: Option<u32>,
}

/// What a refusal looks like from outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outside {
    /// Stable and versioned: what a program acts on (`data.code`).
    pub code: &'static str,
    /// The HTTP status.
    pub status: u16,
    /// The JSON-RPC error code.
    pub rpc: i32,
    /// The text for a person.
    pub message: Cow<'static, str>,
    /// True where the same call may succeed later, unchanged.
    pub retryable: bool,
    /// `Retry-After`, in milliseconds; the header rounds up to seconds (RFC 9110 §10.2.3).
    pub retry_after_ms: Option<u64>,
    /// What goes into `WWW-Authenticate`, if anything.
    pub challenge: Option<Challenge>,
    /// Members of the JSON-RPC error's `data` that the specification asks for.
    pub detail: Detail,
}

/// A challenge (RFC 6750 §3, RFC 9449 §7.1, RFC 9728 §5.1); `identity::metadata` adds `resource_metadata`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Challenge {
    /// No credential came: no error code (RFC 6750 §3.1).
    Missing,
    /// `error="invalid_token"`.
    InvalidToken,
    /// `error="invalid_request"`.
    InvalidRequest,
    /// `error="invalid_dpop_proof"`.
    InvalidProof,
    /// `error="use_dpop_nonce"`.
    NonceNeeded,
    /// `error="insufficient_user_authentication"`, with what the login has to be.
    InsufficientAuthentication(Login),
    /// `error="insufficient_scope"`, with all scopes that the call needs.
    InsufficientScope(Vec<String>),
}

/// Members of `data` beyond the gateway's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Detail {
    /// None.
    Nothing,
    /// `supported` and `requested` (RS-11).
    Version {
        /// What the client asked for.
        requested: String,
    },
    /// `requiredCapabilities` (RS-17), as JSON text.
    Capabilities(Cow<'static, str>),
    /// `requiredScopes`.
    Scopes(Vec<String>),
    /// `acrValues` and `maxAgeSeconds`.
    Login(Login),
    /// `limit`, in bytes.
    Limit(usize),
    /// `allow`: the HTTP methods that the route answers.
    Allow(&'static str),
    /// `elicitations`: a page to visit, and then to make the call again (MCP 2025-11-25 client/elicitation).
    Page(Page),
}

/// Which answers a form: the table below, one row a variant.
struct Row(&'static str, u16, i32, bool);

impl From<NoRandomness> for Refusal {
    fn from(_: NoRandomness) -> Self {
        Self::Bug("the machine gave no randomness")
    }
}

impl Refusal {
    /// The stable code, as in `data.code`, the audit record and the metrics.
    #[must_use]
    pub fn code(&self) -> &'static str {
        self.row().0
    }

    /// The whole outside form, in answer to a JSON-RPC request of a client of `era`.
    #[must_use]
    pub fn outside(&self, era: Era) -> Outside {
        let outside = self.outside_http(era);
        Outside { status: self.status_for(era, outside.status), ..outside }
    }

    /// The same in answer to anything else: a notification, a stream that is asked for, or what could not be read.
    #[must_use]
    pub fn outside_http(&self, era: Era) -> Outside {
        let Row(code, status, rpc, retryable) = self.row();
        Outside {
            code,
            status,
            rpc: self.rpc_for(era, rpc),
            message: self.message(),
            retryable,
            retry_after_ms: self.retry_after_ms(),
            challenge: self.challenge(),
            detail: self.detail(),
        }
    }

    /// The word of RFC 6749 §4.1.2.1 and §5.2, RFC 7591 §3.2.2 or RFC 8707 §2 for an OAuth client.
    #[must_use]
    pub fn oauth_error(&self) -> &'static str {
        match self.code() {
            "client_invalid" => "invalid_client",
            "client_metadata_invalid" => "invalid_client_metadata",
            "redirect_uri_invalid" => "invalid_redirect_uri",
            "response_type_unsupported" => "unsupported_response_type",
            "target_invalid" => "invalid_target",
            "scope_invalid" => "invalid_scope",
            "consent_invalid" | "consent_denied" | "login_failed" => "access_denied",
            "grant_type_unsupported" => "unsupported_grant_type",
            "grant_type_forbidden" => "unauthorized_client",
            "code_invalid" | "code_reused" | "grant_revoked" | "assertion_invalid" => "invalid_grant",
            "proof_invalid" => "invalid_dpop_proof",
            "proof_nonce_needed" => "use_dpop_nonce",
            _ => match self.row() {
                Row(_, 429 | 503, ..) => "temporarily_unavailable",
                Row(_, 500.., ..) => "server_error",
                Row(..) => "invalid_request",
            },
        }
    }

    /// The status for an OAuth client: 401 is for one that does not prove who it is (RFC 6749 §5.2, RFC 9449 §8).
    #[must_use]
    pub fn oauth_status(&self) -> u16 {
        match self.row() {
            Row("client_invalid", status, ..) => status,
            Row(_, 401, ..) => 400,
            Row(_, status, ..) => status,
        }
    }

    /// The same of a call that was sent already, and may have acted: nobody is told that it was not made, to make it
    /// again, or to fetch another token for it.
    #[must_use]
    pub fn once_sent(self) -> Self {
        let Row(code, _, _, retryable) = self.row();
        let before = matches!(
            self,
            Self::TokenInvalid(_)
                | Self::Revoked(_)
                | Self::Blocked(_)
                | Self::AuthenticationInsufficient(_)
                | Self::ScopeInsufficient(_)
                | Self::GrantRefused(_)
                | Self::GrantNeedsToken
                | Self::GrantNeedsLogin(..)
                | Self::ConnectRequired(_)
        );
        if retryable || before { Self::OutcomeUnknown(format!("{code}: {}", self.inside())) } else { self }
    }

    /// What is wrong with the credential, where that is it, in one word.
    #[must_use]
    pub const fn fault(&self) -> Option<&'static str> {
        if let Self::TokenInvalid(fault) = self { Some(fault.as_str()) } else { None }
    }

    /// Why, for the journal and the log: may name hosts and policies, never a secret.
    #[must_use]
    pub fn inside(&self) -> Cow<'_, str> {
        if let Some(why) = self.recorded() {
            return Cow::Borrowed(why);
        }
        if let Self::TokenInvalid(fault) = self {
            return match fault {
                TokenFault::ClaimMalformed(which) => Cow::Owned(format!("claim_malformed: {which}")),
                TokenFault::HeaderMalformed(which) => Cow::Owned(format!("header_malformed: {which}")),
                TokenFault::AudienceMismatch
                | TokenFault::AlgorithmNotAllowed
                | TokenFault::BindingAbsent
                | TokenFault::BindingRequired
                | TokenFault::BindingUnknown
                | TokenFault::CertificateMissing
                | TokenFault::CertificateMismatch
                | TokenFault::Expired
                | TokenFault::NotYetValid
                | TokenFault::IssuerUnknown
                | TokenFault::KeyUnknown
                | TokenFault::LifetimeTooLong
                | TokenFault::Malformed
                | TokenFault::ProofMissing
                | TokenFault::SignatureInvalid
                | TokenFault::TypeMismatch
                | TokenFault::Inactive
                | TokenFault::IssuerMismatch
                | TokenFault::ApiKeyUnknown
                | TokenFault::ApiKeyRevoked => Cow::Borrowed(fault.as_str()),
            };
        }
        if let Self::ProofInvalid(fault) = self {
            return Cow::Borrowed(fault.as_str());
        }
        if let Self::Denied(policies) = self {
            return match policies.as_slice() {
                [] => Cow::Borrowed("no policy permits this call (default deny)"),
                all => Cow::Owned(format!("forbidden by {}", all.join(" "))),
            };
        }
        self.message()
    }

    /// The text that a stage left for the journal.
    fn recorded(&self) -> Option<&str> {
        if let Self::ConnectRequired(_) = self {
            return Some("the user has not connected an account");
        }
        if let Self::IdentityUnavailable(why)
        | Self::Revoked(why)
        | Self::Blocked(why)
        | Self::CatalogueUnavailable(why)
        | Self::DefinitionChanged(why)
        | Self::PolicyFailed(why)
        | Self::GrantRefused(why)
        | Self::GrantNeedsLogin(_, why)
        | Self::GrantUnavailable(why)
        | Self::VisitFailed(why)
        | Self::AuditUnavailable(why)
        | Self::UpstreamUnreachable(why)
        | Self::UpstreamLost(why)
        | Self::OutcomeUnknown(why)
        | Self::UpstreamInvalid(why)
        | Self::UpstreamScopeMissing(why)
        | Self::UpstreamIncompatible(why)
        | Self::InputRefused(why)
        | Self::ToolUnknown(why)
        | Self::PromptUnknown(why)
        | Self::ResourceUnknown(why)
        | Self::ReferenceUnknown(why)
        | Self::LoginFailed(why)
        | Self::LoginUnavailable(why)
        | Self::GrantRevoked(why)
        | Self::AssertionInvalid(why)
        | Self::StateUnavailable(why) = self
        {
            return Some(why);
        }
        if let Self::ClientInvalid(why) = self {
            return Some(why);
        }
        if let Self::Bug(what)
        | Self::Overloaded(what)
        | Self::RequestStateInvalid(what)
        | Self::TaskUnknown(what)
        | Self::ConsentInvalid(what)
        | Self::CodeInvalid(what)
        | Self::VisitForbidden(what) = self
        {
            Some(what)
        } else {
            None
        }
    }

    /// code, HTTP status, JSON-RPC code, retryable.
    #[expect(clippy::too_many_lines, reason = "a table: one row a variant")]
    fn row(&self) -> Row {
        match self {
            Self::HttpMalformed(_) => Row("http_malformed", 400, 40003, false),
            Self::HostNotAllowed => Row("host_not_allowed", 403, 40301, false),
            Self::OriginNotAllowed => Row("origin_not_allowed", 403, 40302, false),
            Self::RouteUnknown => Row("route_unknown", 404, 40401, false),
            Self::MethodNotAllowed(_) => Row("method_not_allowed", 405, 40501, false),
            Self::ContentTypeUnsupported => Row("content_type_unsupported", 415, 41501, false),
            Self::NotAcceptable => Row("not_acceptable", 406, 40601, false),
            Self::HeadersTooLarge(_) => Row("headers_too_large", 431, 43101, false),
            Self::BodyTooLarge(_) => Row("body_too_large", 413, 41301, false),
            Self::BodyTooSlow => Row("body_too_slow", 408, 40801, true),
            Self::BodyIncomplete => Row("body_incomplete", 400, -32700, true),
            Self::Overloaded(_) => Row("overloaded", 503, 50302, true),
            Self::TokenMissing => Row("token_missing", 401, 40101, false),
            Self::TokenInQuery => Row("token_in_query", 400, 40001, false),
            Self::AuthorizationMalformed => Row("authorization_malformed", 400, 40002, false),
            Self::TokenInvalid(_) => Row("token_invalid", 401, 40102, false),
            Self::Revoked(_) => Row("token_revoked", 401, 40103, false),
            Self::Blocked(_) => Row("caller_blocked", 403, 40307, false),
            Self::ProofInvalid(_) => Row("proof_invalid", 401, 40110, false),
            Self::ProofNonceNeeded => Row("proof_nonce_needed", 401, 40111, false),
            Self::AuthenticationInsufficient(_) => Row("authentication_insufficient", 401, 40112, false),
            Self::ScopeInsufficient(_) => Row("scope_insufficient", 403, 40303, false),
            Self::IdentityUnavailable(_) => Row("identity_unavailable", 503, 50303, true),
            Self::NotJson(_) => Row("not_json", 400, -32700, false),
            Self::NotARequest(_) => Row("not_a_request", 400, -32600, false),
            Self::MethodUnknown => Row("method_unknown", 404, -32601, false),
            Self::ParamsInvalid(_) => Row("params_invalid", 200, -32602, false),
            Self::HeaderMismatch(_) => Row("header_mismatch", 400, -32020, false),
            Self::MetaMissing(_) => Row("meta_missing", 400, -32602, false),
            Self::VersionUnsupported(_) => Row("version_unsupported", 400, -32022, false),
            Self::VersionHeaderUnsupported(_) => Row("version_header_unsupported", 400, -32600, false),
            Self::SessionMissing => Row("session_missing", 400, -32600, false),
            Self::SessionUnknown => Row("session_unknown", 404, 40402, false),
            Self::CapabilityMissing(_) => Row("capability_missing", 400, -32021, false),
            Self::ToolUnknown(_) => Row("tool_unknown", 200, -32602, false),
            Self::PromptUnknown(_) => Row("prompt_unknown", 200, -32602, false),
            Self::ResourceUnknown(_) => Row("resource_unknown", 200, -32602, false),
            Self::ReferenceUnknown(_) => Row("reference_unknown", 200, -32602, false),
            Self::TaskUnknown(_) => Row("task_unknown", 200, -32602, false),
            Self::CursorInvalid => Row("cursor_invalid", 200, -32602, false),
            Self::CatalogueUnavailable(_) => Row("catalogue_unavailable", 503, 50304, true),
            Self::DefinitionChanged(_) => Row("definition_changed", 409, 40901, true),
            Self::Denied(_) => Row("denied", 403, 40304, false),
            Self::PolicyFailed(_) => Row("policy_failed", 403, 40305, false),
            Self::CeilingReached { .. } => Row("ceiling_reached", 429, 42901, true),
            Self::GrantRefused(_) => Row("grant_refused", 403, 40306, false),
            Self::GrantNeedsToken => Row("grant_needs_token", 403, 40310, false),
            Self::GrantNeedsLogin(..) => Row("grant_needs_login", 401, 40113, false),
            Self::GrantUnavailable(_) => Row("grant_unavailable", 502, 50201, true),
            Self::ConnectRequired(_) => Row("connect_required", 403, 40317, false),
            Self::VisitUnknown => Row("visit_unknown", 404, 40403, false),
            Self::VisitForbidden(_) => Row("visit_forbidden", 403, 40318, false),
            Self::VisitFailed(_) => Row("visit_failed", 502, 50213, false),
            Self::RequestStateInvalid(_) => Row("request_state_invalid", 200, -32602, false),
            Self::RequestStateExpired => Row("request_state_expired", 200, -32602, false),
            Self::RequestStateMismatch => Row("request_state_mismatch", 200, -32602, false),
            Self::RequestStateUsed => Row("request_state_used", 200, -32602, false),
            Self::ContinuationLost => Row("continuation_lost", 200, -32603, false),
            Self::InputUndeclared(_) => Row("input_undeclared", 502, 50207, false),
            Self::InputRefused(_) => Row("input_refused", 502, 50208, false),
            Self::InputTimeout => Row("input_timeout", 504, 50402, false),
            Self::InputRoundsExceeded => Row("input_rounds_exceeded", 502, 50209, false),
            Self::ClientInvalid(_) => Row("client_invalid", 401, 40151, false),
            Self::ClientMetadataInvalid(_) => Row("client_metadata_invalid", 400, 40051, false),
            Self::RedirectUriInvalid(_) => Row("redirect_uri_invalid", 400, 40052, false),
            Self::AuthorizationInvalid(_) => Row("authorization_invalid", 400, 40053, false),
            Self::ResponseTypeUnsupported => Row("response_type_unsupported", 400, 40054, false),
            Self::TargetInvalid => Row("target_invalid", 400, 40055, false),
            Self::ScopeInvalid => Row("scope_invalid", 400, 40056, false),
            Self::ConsentInvalid(_) => Row("consent_invalid", 403, 40351, false),
            Self::ConsentDenied => Row("consent_denied", 403, 40352, false),
            Self::LoginFailed(_) => Row("login_failed", 403, 40353, false),
            Self::LoginUnavailable(_) => Row("login_unavailable", 503, 50351, true),
            Self::GrantTypeUnsupported => Row("grant_type_unsupported", 400, 40057, false),
            Self::GrantTypeForbidden => Row("grant_type_forbidden", 400, 40058, false),
            Self::CodeInvalid(_) => Row("code_invalid", 400, 40059, false),
            Self::CodeReused => Row("code_reused", 400, 40060, false),
            Self::AssertionInvalid(_) => Row("assertion_invalid", 400, 40061, false),
            Self::GrantRevoked(_) => Row("grant_revoked", 400, 40062, false),
            Self::StateUnavailable(_) => Row("state_unavailable", 503, 50352, true),
            Self::AuditUnavailable(_) => Row("audit_unavailable", 503, 50305, true),
            Self::UpstreamUnreachable(_) => Row("upstream_unreachable", 502, 50202, true),
            Self::UpstreamTimeout => Row("upstream_timeout", 504, 50401, false),
            Self::UpstreamLost(_) => Row("upstream_lost", 502, 50203, false),
            Self::OutcomeUnknown(_) => Row("outcome_unknown", 502, 50210, false),
            Self::UpstreamUnauthorized => Row("upstream_unauthorized", 502, 50204, false),
            Self::UpstreamInvalid(_) => Row("upstream_invalid", 502, 50205, false),
            Self::UpstreamTooLarge(_) => Row("upstream_too_large", 502, 50206, false),
            Self::UpstreamIncompatible(_) => Row("upstream_incompatible", 502, 50211, false),
            Self::UpstreamScopeMissing(_) => Row("upstream_scope_missing", 502, 50212, false),
            Self::CredentialLeak => Row("credential_leak", 500, 50001, false),
            Self::Bug(_) => Row("bug", 500, -32603, false),
        }
    }

    /// A legacy client hears of its request in a JSON-RPC error with HTTP 200. Published ones take any other status for the
    /// end of the session (PyPI mcp 1), or do not read its body (npm sdk 1), and neither waits for 429 or 503 and tries
    /// again. It hears by the status what HTTP itself, the transport and authorization have one for: 401, a challenge to
    /// step up, and 404 for a lost session only, because it re-initialises then (RL-06).
    fn status_for(&self, era: Era, status: u16) -> u16 {
        let of_the_message = matches!(self, Self::MethodUnknown | Self::MetaMissing(_));
        let of_the_call = matches!(status, 403 | 409 | 429 | 500..) && self.challenge().is_none();
        if era == Era::Legacy && (of_the_message || of_the_call) { 200 } else { status }
    }

    /// The codes that the 2026-07-28 revision defined never go to a legacy client (spec §1.7).
    fn rpc_for(&self, era: Era, rpc: i32) -> i32 {
        match era {
            Era::Legacy if (-32022..=-32020).contains(&rpc) => -32600,
            // MCP up to 2025-11-25, server/resources (RC-11).
            Era::Legacy if matches!(self, Self::ResourceUnknown(_)) => -32002,
            // MCP 2025-11-25, client/elicitation (URL Elicitation Required Error).
            Era::Legacy if matches!(self, Self::ConnectRequired(page) if page.asked) => -32042,
            Era::Legacy | Era::Modern => rpc,
        }
    }

    #[expect(clippy::too_many_lines, reason = "a table: one text a variant")]
    fn message(&self) -> Cow<'static, str> {
        Cow::Borrowed(match self {
            Self::HttpMalformed(why) => {
                return Cow::Owned(format!("not an HTTP request that this gateway takes: {why}"));
            }
            Self::HostNotAllowed => "the `Host` of this request is not served here",
            Self::OriginNotAllowed => "this `Origin` may not call this endpoint",
            Self::RouteUnknown => "there is no MCP endpoint at this path",
            Self::MethodNotAllowed(_) => "this endpoint does not answer that HTTP method",
            Self::ContentTypeUnsupported => "send the request as `application/json`",
            Self::NotAcceptable => "accept `application/json` and `text/event-stream`",
            Self::HeadersTooLarge(_) => "the headers are larger than this gateway takes",
            Self::BodyTooLarge(_) => "the request body is larger than this gateway takes",
            Self::BodyTooSlow => "the request body did not arrive in time",
            Self::BodyIncomplete => "the request body ended early",
            Self::Overloaded(_) => "this gateway has as much work as it takes; try again later",
            Self::TokenMissing => "an access token is needed: see `resource_metadata` in the challenge",
            Self::TokenInQuery => "access tokens are taken in the `Authorization` header only",
            Self::AuthorizationMalformed => "send one `Authorization: Bearer` header with one token",
            Self::TokenInvalid(_) => "the access token is not valid here",
            Self::Revoked(_) => "the access token was revoked: log in again",
            Self::Blocked(_) => "this caller may not use this gateway",
            Self::ProofInvalid(_) => "the request does not prove that its sender holds the key of the access token",
            Self::ProofNonceNeeded => "prove it again with the nonce of the `DPoP-Nonce` header",
            Self::AuthenticationInsufficient(_) | Self::GrantNeedsLogin(..) => {
                "the user has to log in again, as the challenge says, before this call can be made"
            }
            Self::ScopeInsufficient(scopes) => {
                return Cow::Owned(format!("the access token lacks a scope; this call needs `{}`", scopes.join(" ")));
            }
            Self::IdentityUnavailable(_) => "access tokens cannot be checked now; try again",
            Self::NotJson(why) => return Cow::Owned(format!("the body is not valid JSON: {why}")),
            Self::NotARequest(why) => {
                return Cow::Owned(format!("not one JSON-RPC 2.0 request or notification: {why}"));
            }
            Self::MethodUnknown => "method not found",
            Self::ParamsInvalid(why) => return Cow::Owned(format!("invalid params: {why}")),
            Self::HeaderMismatch(what) => {
                return Cow::Owned(format!(
                    "the header `{what}` is missing, malformed or does not agree with the body"
                ));
            }
            Self::MetaMissing(key) => {
                return Cow::Owned(format!("`_meta` lacks `{key}` or has it with the wrong type"));
            }
            Self::VersionUnsupported(_) => "this protocol version is not served",
            Self::VersionHeaderUnsupported(_) => "the version in `MCP-Protocol-Version` is not served",
            Self::SessionMissing => "an `Mcp-Session-Id` is needed: send `initialize` first",
            Self::SessionUnknown => "this session has ended: send `initialize` again",
            Self::CapabilityMissing(_) => "the client did not declare a capability that this request needs",
            Self::ToolUnknown(_) => "unknown tool",
            Self::PromptUnknown(_) => "unknown prompt",
            Self::ResourceUnknown(_) => "resource not found",
            Self::ReferenceUnknown(_) => "unknown prompt or resource template",
            Self::TaskUnknown(_) => "unknown task",
            Self::CursorInvalid => "invalid cursor",
            Self::CatalogueUnavailable(_) => "the tools of this server cannot be read now; try again",
            Self::DefinitionChanged(_) => {
                "this has changed since it was listed; the call was not made: list again, and call by that"
            }
            Self::Denied(_) | Self::PolicyFailed(_) => "policy does not allow this call",
            Self::CeilingReached { .. } => "a rate ceiling is reached; try again later",
            Self::GrantRefused(_) => "no credential could be obtained for this call's server",
            Self::ConnectRequired(page) => {
                return Cow::Owned(format!(
                    "your account at the server behind this tool is not connected: visit {} and make the call again",
                    page.url
                ));
            }
            Self::GrantNeedsToken => {
                "this call's server needs a caller with a token of an identity provider; an API key is none"
            }
            Self::GrantUnavailable(_) => "the authorization server for this call cannot be used now; try again",
            Self::VisitUnknown => "this page was used already, or is too old: have your agent make its call again",
            Self::VisitForbidden(_) => "this page was made for somebody else: nothing was connected",
            Self::VisitFailed(_) => "the account was not connected: have your agent make its call again",
            Self::RequestStateInvalid(_) => "invalid `requestState`",
            Self::RequestStateExpired => "this `requestState` has expired: make the call again without it",
            Self::RequestStateMismatch => "this `requestState` belongs to another request",
            Self::RequestStateUsed => "this `requestState` was used already",
            Self::ContinuationLost => "the call that waited for these answers was lost; the outcome is unknown",
            Self::InputUndeclared(needed) => {
                return Cow::Owned(format!(
                    "the server behind this tool asks what this client cannot be asked: {needed}"
                ));
            }
            Self::InputRefused(_) | Self::InputTimeout => {
                "the client did not provide what the server behind this tool asked"
            }
            Self::InputRoundsExceeded => "the server behind this tool asked for more again and again",
            Self::ClientInvalid(_) => "the client is not known here, or did not prove who it is",
            Self::ClientMetadataInvalid(why) => {
                return Cow::Owned(format!("the client's metadata are not accepted: {why}"));
            }
            Self::RedirectUriInvalid(why) => return Cow::Owned(format!("the redirect URI is not accepted: {why}")),
            Self::AuthorizationInvalid(why) => return Cow::Owned(format!("the request is not accepted: {why}")),
            Self::ResponseTypeUnsupported => "the one response type is `code`",
            Self::TargetInvalid => "`resource` is the URL of an MCP endpoint of this gateway",
            Self::ScopeInvalid => "none of the scopes asked for can be had here",
            Self::ConsentInvalid(_) => "this page has expired or belongs to another browser: begin again",
            Self::ConsentDenied => "access was not granted",
            Self::LoginFailed(_) => "the login did not succeed",
            Self::LoginUnavailable(_) => "nobody can be logged in now; try again",
            Self::GrantTypeUnsupported => "this grant type is not served",
            Self::GrantTypeForbidden => "this client may not use this grant type",
            Self::CodeInvalid(_) => "the code or refresh token is not valid",
            Self::CodeReused => "the code or refresh token was used already: all that came of it has ended",
            Self::GrantRevoked(_) => "what was granted was revoked: log in again",
            Self::AssertionInvalid(_) => "the assertion is not valid here",
            Self::StateUnavailable(_) => "the gateway's state cannot be used now; try again",
            Self::AuditUnavailable(_) => "the call could not be recorded, so it was not made; try again",
            Self::UpstreamUnreachable(_) => "the server behind this tool cannot be reached; the call was not made",
            Self::UpstreamTimeout => "the server behind this tool did not answer in time; the outcome is unknown",
            Self::UpstreamLost(_) => "the answer of the server behind this tool was lost; the outcome is unknown",
            Self::OutcomeUnknown(_) => "the call was made, and its answer cannot be had; the outcome is unknown",
            Self::UpstreamUnauthorized => "the server behind this tool does not accept the gateway's credential",
            Self::UpstreamInvalid(_) => "the server behind this tool gave an answer that is not valid MCP",
            Self::UpstreamScopeMissing(_) => {
                "the server behind this tool does not allow this call to the credential that the gateway has for it"
            }
            Self::UpstreamIncompatible(_) => "this server speaks no version of MCP that the gateway speaks",
            Self::UpstreamTooLarge(_) => "the answer of the server behind this tool is larger than this gateway takes",
            Self::CredentialLeak => "the call was stopped to protect a credential",
            Self::Bug(_) => "internal error",
        })
    }

    fn retry_after_ms(&self) -> Option<u64> {
        if let Self::CeilingReached { retry_after_ms, .. } = self {
            return Some(*retry_after_ms);
        }
        let Row(_, status, _, retryable) = self.row();
        (retryable && status == 503).then_some(RETRY_AFTER_UNAVAILABLE_MS)
    }

    fn challenge(&self) -> Option<Challenge> {
        if let Self::ScopeInsufficient(scopes) = self {
            return Some(Challenge::InsufficientScope(scopes.clone()));
        }
        if let Some(login) = self.login() {
            return Some(Challenge::InsufficientAuthentication(login.clone()));
        }
        match self.code() {
            "proof_invalid" => Some(Challenge::InvalidProof),
            "proof_nonce_needed" => Some(Challenge::NonceNeeded),
            "token_missing" => Some(Challenge::Missing),
            "token_invalid" | "token_revoked" => Some(Challenge::InvalidToken),
            "token_in_query" | "authorization_malformed" => Some(Challenge::InvalidRequest),
            _ => None,
        }
    }

    /// How the user has to log in before this call.
    fn login(&self) -> Option<&Login> {
        if let Self::AuthenticationInsufficient(login) = self {
            return Some(login);
        }
        if let Self::GrantNeedsLogin(login, _) = self { Some(login) } else { None }
    }

    fn detail(&self) -> Detail {
        if let Self::VersionUnsupported(requested) = self {
            return Detail::Version { requested: requested.clone() };
        }
        if let Self::CapabilityMissing(capabilities) = self {
            return Detail::Capabilities(capabilities.clone());
        }
        if let Self::ScopeInsufficient(scopes) = self {
            return Detail::Scopes(scopes.clone());
        }
        if let Some(login) = self.login() {
            return Detail::Login(login.clone());
        }
        if let Self::HeadersTooLarge(limit) | Self::BodyTooLarge(limit) = self {
            return Detail::Limit(*limit);
        }
        if let Self::MethodNotAllowed(allow) = self {
            return Detail::Allow(allow);
        }
        if let Self::ConnectRequired(page) = self {
            return Detail::Page(Page::clone(page));
        }
        Detail::Nothing
    }
}

/// What `Retry-After` says where a dependency is down: long enough not to make it worse.
const RETRY_AFTER_UNAVAILABLE_MS: u64 = 1_000;

#[cfg(test)]
mod tests {
    use super::{Era, Login, Page, Refusal, TokenFault};

    #[test]
    fn nobody_is_told_to_make_a_call_again_that_was_sent() {
        for refusal in [
            Refusal::AuditUnavailable("the disk is full".into()),
            Refusal::GrantRefused("no".into()),
            Refusal::GrantUnavailable("down".into()),
            Refusal::GrantNeedsLogin(Box::new(Login { acr: Vec::new(), age_max_s: None }), "mfa".into()),
            Refusal::Overloaded("held calls"),
            Refusal::TokenInvalid(TokenFault::Expired),
            Refusal::Revoked("lost laptop".into()),
            Refusal::Blocked("lost laptop".into()),
            Refusal::UpstreamUnreachable("refused".into()),
        ] {
            let (before, reason) = (refusal.code(), refusal.inside().into_owned());
            let after = refusal.once_sent();
            let outside = after.outside(Era::Modern);
            assert_eq!((outside.code, outside.retryable, outside.challenge), ("outcome_unknown", false, None));
            assert_eq!(after.inside(), format!("{before}: {reason}"));
        }
        for refusal in [Refusal::InputTimeout, Refusal::UpstreamTimeout, Refusal::CredentialLeak] {
            assert_eq!(refusal.clone().once_sent(), refusal);
        }
    }

    /// Of a legacy client's request, HTTP says what is HTTP's, the transport's and authorization's to say; the rest is in
    /// band. To anything but a request, and to modern clients, it says everything.
    #[test]
    fn a_legacy_request_is_refused_in_band_but_for_what_clients_act_on_by_the_status() {
        for (refusal, request, http) in [
            (Refusal::Denied(Vec::new()), 200, 403),
            (Refusal::GrantRefused(String::new()), 200, 403),
            (Refusal::DefinitionChanged(String::new()), 200, 409),
            (Refusal::CeilingReached { ceiling: "c".into(), retry_after_ms: 5 }, 200, 429),
            (Refusal::Bug("b"), 200, 500),
            (Refusal::UpstreamLost(String::new()), 200, 502),
            (Refusal::InputRoundsExceeded, 200, 502),
            (Refusal::Overloaded("calls in flight"), 200, 503),
            (Refusal::CatalogueUnavailable(String::new()), 200, 503),
            (Refusal::UpstreamTimeout, 200, 504),
            (Refusal::MethodUnknown, 200, 404),
            (Refusal::MetaMissing("m"), 200, 400),
            (Refusal::ToolUnknown(String::new()), 200, 200),
            (Refusal::TokenInvalid(TokenFault::Expired), 401, 401),
            (Refusal::ScopeInsufficient(vec!["s".into()]), 403, 403),
            (Refusal::SessionUnknown, 404, 404),
            (Refusal::SessionMissing, 400, 400),
            (Refusal::VersionHeaderUnsupported("v".into()), 400, 400),
            (Refusal::NotARequest("n"), 400, 400),
            (Refusal::NotAcceptable, 406, 406),
            (Refusal::BodyTooLarge(1), 413, 413),
        ] {
            let statuses = (refusal.outside(Era::Legacy).status, refusal.outside_http(Era::Legacy).status);
            assert_eq!(statuses, (request, http), "{refusal:?}");
            assert_eq!(refusal.outside(Era::Modern).status, http, "{refusal:?}");
        }
    }

    #[test]
    fn the_address_of_a_page_does_not_print() {
        let page = Page { url: "https://gw.example/connect/crm?ticket=hunter2".into(), id: "1".into(), asked: true };
        assert!(!format!("{:?}", Refusal::ConnectRequired(Box::new(page))).contains("hunter2"));
    }

    #[test]
    fn a_denial_has_a_reason_where_no_policy_is_its_own() {
        assert_eq!(Refusal::Denied(vec!["a".into(), "b".into()]).inside(), "forbidden by a b");
        assert_eq!(Refusal::Denied(Vec::new()).inside(), "no policy permits this call (default deny)");
    }
}
