//! In which words does each provider want to be asked for another token in the caller's name?
//!
//! RFC 8693 as it stands, and how providers deviate from it: rows of data, so that another provider is another row. It
//! asks nobody, and knows no provider but by its row.

/// How a token endpoint is asked for a token in the caller's name, and what it may answer.
#[derive(Debug, PartialEq, Eq)]
pub struct Dialect {
    /// The word in `upstreams.toml`.
    pub name: &'static str,
    /// `grant_type`.
    pub grant_type: &'static str,
    /// The parameter that carries the caller's token.
    pub subject: &'static str,
    /// The parameter that says what kind of token that is, where there is one.
    pub subject_type: Option<&'static str>,
    /// The value of `requested_token_type`, where that is sent.
    pub requested_type: Option<&'static str>,
    /// Parameters that are always the same.
    pub fixed: &'static [(&'static str, &'static str)],
    /// Which keys of `grant` mean something to this provider, besides `scopes`.
    pub keys: &'static [&'static str],
    /// Keys of which at least one says for whom the token is.
    pub targets: &'static [&'static str],
    /// What `issued_token_type` may say, where it says anything.
    pub issued: &'static [&'static str],
    /// What becomes of an answer with more scopes than were asked for.
    pub scopes: GivenScopes,
}

/// Whether a provider keeps to the scopes that it was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GivenScopes {
    /// It does (RFC 6749 §5.1): an answer with more is refused, for nobody decided to hold that much.
    Within,
    /// It adds what its administrator gave the client, whatever was asked for: that is recorded.
    Configured,
}

impl Dialect {
    /// The dialect of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<&'static Self> {
        DIALECTS.iter().find(|dialect| dialect.name == name)
    }
}

/// The first is the default.
pub static DIALECTS: [Dialect; 6] = [
    Dialect {
        name: "rfc8693",
        grant_type: TOKEN_EXCHANGE,
        subject: "subject_token",
        subject_type: Some("subject_token_type"),
        requested_type: Some(ACCESS_TOKEN),
        fixed: &[],
        keys: &["audience", "resource", "actor", "subject_token_type"],
        targets: &["audience", "resource", "scopes"],
        issued: &[ACCESS_TOKEN, JWT],
        scopes: GivenScopes::Within,
    },
    // On behalf of: the caller's token is the assertion of RFC 7523, the target is in the scopes, and a token holds all
    // that was consented to for that target.
    Dialect {
        name: "entra_obo",
        grant_type: JWT_BEARER,
        subject: "assertion",
        subject_type: None,
        requested_type: None,
        fixed: &[("requested_token_use", "on_behalf_of")],
        keys: &[],
        targets: &["scopes"],
        issued: &[ACCESS_TOKEN],
        scopes: GivenScopes::Configured,
    },
    // Standard token exchange (version 2): `audience` is the id of another client, and a client's default scopes are in
    // every token of it.
    Dialect {
        name: "keycloak",
        grant_type: TOKEN_EXCHANGE,
        subject: "subject_token",
        subject_type: Some("subject_token_type"),
        requested_type: Some(ACCESS_TOKEN),
        fixed: &[],
        keys: &["audience"],
        targets: &["audience", "scopes"],
        issued: &[ACCESS_TOKEN],
        scopes: GivenScopes::Configured,
    },
    // `audience` is that of a custom authorization server.
    Dialect {
        name: "okta",
        grant_type: TOKEN_EXCHANGE,
        subject: "subject_token",
        subject_type: Some("subject_token_type"),
        requested_type: None,
        fixed: &[],
        keys: &["audience"],
        targets: &["audience"],
        issued: &[ACCESS_TOKEN],
        scopes: GivenScopes::Within,
    },
    // On behalf of, or a custom exchange by a `subject_token_type` of its own; `audience` is the identifier of an API.
    Dialect {
        name: "auth0",
        grant_type: TOKEN_EXCHANGE,
        subject: "subject_token",
        subject_type: Some("subject_token_type"),
        requested_type: Some(ACCESS_TOKEN),
        fixed: &[],
        keys: &["audience", "subject_token_type"],
        targets: &["audience"],
        issued: &[ACCESS_TOKEN],
        scopes: GivenScopes::Within,
    },
    // An access token that is asked for as such is opaque there.
    Dialect {
        name: "zitadel",
        grant_type: TOKEN_EXCHANGE,
        subject: "subject_token",
        subject_type: Some("subject_token_type"),
        requested_type: Some(JWT),
        fixed: &[],
        keys: &["audience", "actor", "subject_token_type"],
        targets: &["audience", "scopes"],
        issued: &[ACCESS_TOKEN, JWT],
        scopes: GivenScopes::Within,
    },
];

/// RFC 8693 §2.1.
pub const TOKEN_EXCHANGE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";

/// RFC 7523 §2.1.
pub const JWT_BEARER: &str = "urn:ietf:params:oauth:grant-type:jwt-bearer";

/// RFC 8693 §3.
pub const ACCESS_TOKEN: &str = "urn:ietf:params:oauth:token-type:access_token";

/// RFC 8693 §3.
pub const REFRESH_TOKEN: &str = "urn:ietf:params:oauth:token-type:refresh_token";

/// RFC 8693 §3.
pub const ID_TOKEN: &str = "urn:ietf:params:oauth:token-type:id_token";

/// RFC 8693 §3.
pub const JWT: &str = "urn:ietf:params:oauth:token-type:jwt";

/// An identity assertion for another authorization server (Identity Assertion JWT Authorization Grant).
pub const ID_JAG: &str = "urn:ietf:params:oauth:token-type:id-jag";
