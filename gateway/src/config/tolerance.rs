//! Which habits of clients deviate from the specification, and are forgiven where the administrator lets them?
//!
//! The list of them, and no more: what the specification allows or asks a server to bear stands nowhere here, and where
//! each is forgiven its one place in the code says.

/// A habit that `gateway.tolerate` may list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tolerance {
    /// The endpoint's URL with a slash at its end.
    TrailingSlash,
    /// `HEAD` at an endpoint before logging in, to be led to the metadata.
    HeadProbe,
    /// A POST without `Accept` (MCP basic/transports: both forms of an answer have to be listed).
    MissingAccept,
    /// A POST whose `Accept` covers one of the two forms only.
    PartialAccept,
    /// A token made out to the resource with a slash at its end.
    AudienceSlash,
    /// A token made out to the origin, for a client that sends it as `resource` (RFC 8707).
    OriginAudience,
    /// `Mcp-Method` or `Mcp-Name` on a request of a revision that has no such headers.
    StrayHeaders,
    /// A request without the `Mcp-Session-Id` that its `initialize` was answered with (RL-03).
    MissingSession,
}

impl Tolerance {
    /// All of them, by name.
    pub const ALL: [(&'static str, Self); 8] = [
        ("trailing_slash", Self::TrailingSlash),
        ("head_probe", Self::HeadProbe),
        ("missing_accept", Self::MissingAccept),
        ("partial_accept", Self::PartialAccept),
        ("audience_slash", Self::AudienceSlash),
        ("origin_audience", Self::OriginAudience),
        ("stray_headers", Self::StrayHeaders),
        ("missing_session", Self::MissingSession),
    ];

    /// The word in the configuration and in the metric.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        Self::ALL.iter().find(|(_, habit)| *habit == self).map_or("", |(name, _)| name)
    }

    /// Those in force where nothing is written: all but the one that widens whose tokens are taken, for other resources
    /// may stand behind the same origin.
    #[must_use]
    pub fn usual() -> Vec<Self> {
        Self::ALL.iter().map(|(_, habit)| *habit).filter(|habit| *habit != Self::OriginAudience).collect()
    }
}
