//! What stands in `upstreams.toml`, letter by letter?
//!
//! The outside form: every key that may be written, with the place where it was. Every key is optional here, so that
//! one that is missing is a problem among others and not the end of reading. It gives nothing a meaning or a default;
//! [`super::checked`] does.

use std::{collections::BTreeMap, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor, value::MapAccessDeserializer},
};
use toml::Spanned;

/// A key that may be absent.
pub(crate) type Key<T> = Option<Spanned<T>>;

/// A list that may be absent.
pub(crate) type List = Option<Vec<Spanned<String>>>;

/// The whole file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub(crate) struct File {
    pub(crate) gateway: Key<Gateway>,
    pub(crate) issuers: Option<Vec<Spanned<Issuer>>>,
    pub(crate) certificates: Option<Vec<Spanned<CertificateHolder>>>,
    pub(crate) audit: Key<Audit>,
    pub(crate) telemetry: Key<Telemetry>,
    pub(crate) limits: Key<Limits>,
    pub(crate) state: Key<State>,
    pub(crate) logins: Option<Vec<Spanned<Login>>>,
    pub(crate) keys: Key<Keys>,
    pub(crate) egress: Key<Egress>,
    pub(crate) facade: Key<Facade>,
    pub(crate) upstreams: Option<BTreeMap<Spanned<String>, Spanned<Upstream>>>,
}

/// `[gateway]`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub(crate) struct Gateway {
    pub(crate) public_url: Key<String>,
    pub(crate) listen: Key<String>,
    pub(crate) admin_listen: Key<String>,
    pub(crate) policies: Key<String>,
    pub(crate) tls: Key<Tls>,
    pub(crate) allowed_origins: List,
    pub(crate) allowed_hosts: List,
    pub(crate) audiences: List,
    pub(crate) tolerate: List,
    pub(crate) prefix: Key<Prefix>,
    pub(crate) drain_ms: Key<u64>,
    pub(crate) workers: Key<u64>,
    pub(crate) dpop: Key<Dpop>,
}

/// `gateway.dpop`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub(crate) struct Dpop {
    pub(crate) required: Key<bool>,
    pub(crate) nonce: Key<bool>,
    pub(crate) algorithms: Key<Vec<Spanned<String>>>,
    pub(crate) window_s: Key<u64>,
}

/// `gateway.tls`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub(crate) struct Tls {
    pub(crate) certificate: Key<String>,
    pub(crate) key: Key<String>,
    pub(crate) client_ca: Key<String>,
    pub(crate) client_crls: List,
    pub(crate) client_certificate: Key<ClientAuthentication>,
}

/// `gateway.tls.client_certificate`.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ClientAuthentication {
    Required,
    Optional,
}

/// `[[certificates]]`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub(crate) struct CertificateHolder {
    pub(crate) uri: Key<String>,
    pub(crate) dns: Key<String>,
    pub(crate) common_name: Key<String>,
    pub(crate) agent: Key<String>,
    pub(crate) tenant: Key<String>,
    pub(crate) groups: List,
    pub(crate) scopes: List,
}

/// `[[issuers]]`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub(crate) struct Issuer {
    pub(crate) issuer: Key<String>,
    pub(crate) jwks_uri: Key<String>,
    pub(crate) algorithms: Key<Vec<Spanned<String>>>,
    pub(crate) claims: Key<Claims>,
    pub(crate) types: List,
    pub(crate) lifetime_max_s: Key<u64>,
    pub(crate) leeway_s: Key<u64>,
    pub(crate) ca: Key<String>,
    pub(crate) profile: Key<Profile>,
    pub(crate) introspection: Key<Introspection>,
}

/// `issuers.profile`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Profile {
    Common,
    Rfc9068,
}

/// `issuers.introspection`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub(crate) struct Introspection {
    pub(crate) endpoint: Key<String>,
    pub(crate) client: Key<Client>,
    pub(crate) tokens: List,
    pub(crate) machines: Key<bool>,
    pub(crate) cache_s: Key<u64>,
    pub(crate) unknown_per_s: Key<u64>,
}

/// `[keys]`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub(crate) struct Keys {
    pub(crate) enabled: Key<bool>,
}

/// `issuers.claims`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub(crate) struct Claims {
    pub(crate) tenant: Key<String>,
    pub(crate) groups: Key<String>,
    pub(crate) agent: Key<String>,
    pub(crate) scope: Key<String>,
}

/// `[audit]`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub(crate) struct Audit {
    pub(crate) directory: Key<String>,
    pub(crate) arguments: Key<ArgumentRecord>,
    pub(crate) durability: Key<Durability>,
    pub(crate) segment_bytes_max: Key<u64>,
    pub(crate) segment_age_max_s: Key<u64>,
    pub(crate) queue_max: Key<u64>,
    pub(crate) wait_max_ms: Key<u64>,
    pub(crate) key: Key<Reference>,
}

/// `audit.arguments`.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ArgumentRecord {
    Digest,
    None,
}

/// `audit.durability`, and a tool rule's.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Durability {
    Fsync,
    Os,
}

/// `[telemetry]`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub(crate) struct Telemetry {
    pub(crate) otlp: Key<Reference>,
    pub(crate) sample_ratio: Key<f64>,
    pub(crate) service_name: Key<String>,
}

/// `[limits]`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub(crate) struct Limits {
    pub(crate) body_bytes_max: Key<u64>,
    pub(crate) header_bytes_max: Key<u64>,
    pub(crate) header_read_ms: Key<u64>,
    pub(crate) body_read_ms: Key<u64>,
    pub(crate) handshake_ms: Key<u64>,
    pub(crate) idle_ms: Key<u64>,
    pub(crate) connections_max: Key<u64>,
    pub(crate) streams_max: Key<u64>,
    pub(crate) json_depth_max: Key<u64>,
    pub(crate) json_nodes_max: Key<u64>,
    pub(crate) reply_bytes_max: Key<u64>,
    pub(crate) event_bytes_max: Key<u64>,
    pub(crate) stream_max_ms: Key<u64>,
    pub(crate) stream_bytes_max: Key<u64>,
    pub(crate) calls_max: Key<u64>,
    pub(crate) sessions_max: Key<u64>,
    pub(crate) session_idle_ms: Key<u64>,
    pub(crate) list_cache_bytes: Key<u64>,
    pub(crate) result_cache_bytes: Key<u64>,
    pub(crate) children_max: Key<u64>,
    pub(crate) listeners_max: Key<u64>,
    pub(crate) holds_max: Key<u64>,
    pub(crate) hold_max_ms: Key<u64>,
    pub(crate) proofs_max: Key<u64>,
    pub(crate) connect_per_min: Key<u64>,
}

/// `[state]`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub(crate) struct State {
    pub(crate) directory: Key<String>,
    pub(crate) sealing_key: Key<Reference>,
    pub(crate) sealing_key_before: Key<Reference>,
}

/// `[facade]`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub(crate) struct Facade {
    pub(crate) provider: Key<String>,
    pub(crate) client: Key<Client>,
    pub(crate) login_scopes: List,
    pub(crate) registration: Key<bool>,
    pub(crate) client_domains: List,
    pub(crate) redirect_schemes: List,
    pub(crate) assertion_issuers: List,
    pub(crate) token_s: Key<u64>,
    pub(crate) login_s: Key<u64>,
    pub(crate) login_unasked_s: Key<u64>,
    pub(crate) logins_per_day: Key<u64>,
    pub(crate) clients: Option<Vec<Spanned<FacadeClient>>>,
}

/// `[[facade.clients]]`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub(crate) struct FacadeClient {
    pub(crate) id: Key<String>,
    pub(crate) secret: Key<Reference>,
    pub(crate) jwks: Key<String>,
    pub(crate) jwks_uri: Key<String>,
    pub(crate) certificate: Key<HolderName>,
    pub(crate) scopes: List,
    pub(crate) tenant: Key<String>,
}

/// What the certificate of a client calls its holder.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub(crate) struct HolderName {
    pub(crate) uri: Key<String>,
    pub(crate) dns: Key<String>,
    pub(crate) common_name: Key<String>,
}

/// `[egress]`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub(crate) struct Egress {
    pub(crate) origins: List,
    pub(crate) nets: List,
    pub(crate) ca: Key<String>,
    pub(crate) requests_per_host_max: Key<u64>,
}

/// `[[logins]]`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub(crate) struct Login {
    pub(crate) issuer: Key<String>,
    pub(crate) client: Key<Client>,
    pub(crate) scopes: Key<Vec<Spanned<String>>>,
    pub(crate) ca: Key<String>,
}

/// `[upstreams.ID]`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub(crate) struct Upstream {
    pub(crate) url: Key<String>,
    pub(crate) transport: Key<Transport>,
    pub(crate) command: Key<Vec<Spanned<String>>>,
    pub(crate) environment: Key<BTreeMap<Spanned<String>, Spanned<Reference>>>,
    pub(crate) directory: Key<String>,
    pub(crate) insecure_http: Key<bool>,
    pub(crate) era: Key<Era>,
    pub(crate) timeout_ms: Key<u64>,
    pub(crate) grant: Key<Grant>,
    pub(crate) discovery: Key<Grant>,
    pub(crate) ca: Key<String>,
    pub(crate) client_certificate: Key<ClientCertificate>,
    pub(crate) refresh_s: Key<u64>,
    pub(crate) input: List,
    pub(crate) instructions: Key<bool>,
    pub(crate) cache_reads: Key<bool>,
    pub(crate) trust_public_cache: Key<bool>,
    pub(crate) tools: Option<Vec<Spanned<TargetRule>>>,
    pub(crate) prompts: Option<Vec<Spanned<TargetRule>>>,
    pub(crate) resources: Option<Vec<Spanned<TargetRule>>>,
}

/// `gateway.prefix`.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Prefix {
    Always,
    OnConflict,
    Never,
}

/// `upstreams.ID.transport`.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Transport {
    Http,
    Sse,
}

/// `upstreams.ID.era`.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Era {
    Auto,
    Modern,
    Legacy,
}

/// `upstreams.ID.client_certificate`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub(crate) struct ClientCertificate {
    pub(crate) certificate: Key<String>,
    pub(crate) key: Key<String>,
}

/// `[[upstreams.ID.tools]]`, and the same for prompts and resources.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub(crate) struct TargetRule {
    pub(crate) r#match: Key<String>,
    pub(crate) requires: List,
    pub(crate) acr: List,
    pub(crate) auth_age_max_s: Key<u64>,
    pub(crate) mints: Key<Vec<Spanned<String>>>,
    pub(crate) tags: List,
    pub(crate) timeout_ms: Key<u64>,
    pub(crate) idempotent: Key<bool>,
    pub(crate) durability: Key<Durability>,
    pub(crate) cache_s: Key<u64>,
    pub(crate) cache: Key<Sharing>,
}

/// `cache` of a tool rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Sharing {
    Private,
    Shared,
}

/// `upstreams.ID.grant` and `upstreams.ID.discovery`: the keys of all strategies.
/// One flat table, because serde's tagged enums lose the places of what they hold.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub(crate) struct Grant {
    pub(crate) strategy: Key<String>,
    pub(crate) token_endpoint: Key<String>,
    pub(crate) client: Key<Client>,
    pub(crate) audience: Key<String>,
    pub(crate) resource: Key<String>,
    pub(crate) scopes: Key<Vec<Spanned<String>>>,
    pub(crate) actor: Key<bool>,
    pub(crate) dialect: Key<String>,
    pub(crate) subject_token_type: Key<String>,
    pub(crate) subject: Key<String>,
    pub(crate) issuer: Key<String>,
    pub(crate) issuer_client: Key<Client>,
    pub(crate) assertion_file: Key<String>,
    pub(crate) provider: Key<String>,
    pub(crate) dpop: Key<bool>,
    pub(crate) ca: Key<String>,
    pub(crate) header: Key<String>,
    pub(crate) prefix: Key<String>,
    pub(crate) value: Key<Reference>,
}

/// `grant.client`, and `issuers.introspection.client`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub(crate) struct Client {
    pub(crate) id: Key<String>,
    pub(crate) authentication: Key<Authentication>,
    pub(crate) secret: Key<Reference>,
    pub(crate) key: Key<Reference>,
    pub(crate) algorithm: Key<String>,
    pub(crate) key_id: Key<String>,
    pub(crate) assertion_audience: Key<String>,
    pub(crate) assertion_file: Key<String>,
    pub(crate) client_certificate: Key<ClientCertificate>,
}

/// `grant.client.authentication`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Authentication {
    ClientSecretBasic,
    ClientSecretPost,
    PrivateKeyJwt,
    WorkloadIdentity,
    TlsClientAuth,
    None,
}

/// A value that stands elsewhere.
#[derive(Debug)]
pub(crate) enum Reference {
    /// It stands here after all. Kept for values that are no secrets; of a secret nobody may look at it.
    Inline(Inline),
    /// `{ env = "NAME" }` or `{ file = "path" }`.
    Elsewhere(Elsewhere),
}

/// Text that may be a secret in the wrong place.
pub(crate) struct Inline(pub(crate) String);

impl fmt::Debug for Inline {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("[inline]")
    }
}

/// Where a value stands.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, expecting = "`{ env = \"NAME\" }` or `{ file = \"path\" }`")]
pub(crate) struct Elsewhere {
    pub(crate) env: Key<String>,
    pub(crate) file: Key<String>,
}

impl<'de> Deserialize<'de> for Reference {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = Reference;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("`{ env = \"NAME\" }` or `{ file = \"path\" }`")
            }

            fn visit_str<E>(self, text: &str) -> Result<Reference, E> {
                Ok(Reference::Inline(Inline(text.to_owned())))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Reference, A::Error> {
                Elsewhere::deserialize(MapAccessDeserializer::new(map)).map(Reference::Elsewhere)
            }
        }
        deserializer.deserialize_any(Either)
    }
}
