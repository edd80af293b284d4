//! What does the configuration mean?
//!
//! The internal form: every value parsed, every default filled in, every reference resolved. It is never read from or
//! written to a file; [`super::written`] is the outside form. Public fields: any value that the checker lets through is fine.

use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use url::Url;

use super::{Dialect, Tolerance};
use crate::{refusal::Era, secret::Secret};

/// The whole of `upstreams.toml`, checked.
#[derive(Debug)]
pub struct Config {
    /// `[gateway]`.
    pub gateway: Gateway,
    /// `[[issuers]]`, in the order written.
    pub issuers: Vec<Arc<Issuer>>,
    /// `[[certificates]]`, in the order written.
    pub certificates: Vec<CertificateHolder>,
    /// `[audit]`.
    pub audit: Audit,
    /// `[telemetry]`.
    pub telemetry: Telemetry,
    /// `[limits]`.
    pub limits: Limits,
    /// `[state]`.
    pub state: State,
    /// `[[logins]]`, in the order written.
    pub logins: Vec<Arc<Login>>,
    /// `[keys]`.
    pub keys: Keys,
    /// `[egress]`.
    pub egress: Egress,
    /// `[facade]`; the gateway is no authorization server without it.
    pub facade: Option<Arc<Facade>>,
    /// `[upstreams.*]`, by id.
    pub upstreams: BTreeMap<UpstreamId, Arc<Upstream>>,
    /// SHA-256 of the file's bytes, in hex: the configuration's name in the audit.
    pub digest: String,
}

/// `[gateway]`: the door itself.
#[derive(Debug)]
pub struct Gateway {
    /// Scheme and authority under which clients know the gateway, no path; resource identifiers derive from it.
    pub public_url: Url,
    /// Where MCP is served.
    pub listen: SocketAddr,
    /// Where health, readiness and metrics are served.
    pub admin_listen: SocketAddr,
    /// The folder with the policy files.
    pub policies: PathBuf,
    /// Absent only where `listen` is a loopback address.
    pub tls: Option<Tls>,
    /// Origins of browser pages that may call (RS-02); exact strings.
    pub allowed_origins: Vec<String>,
    /// Further `Host` values besides that of `public_url`; loopback names are allowed where `listen` is loopback.
    pub allowed_hosts: Vec<String>,
    /// Further audiences that a caller's token may be made out to, besides the endpoint's own resource.
    pub audiences: Vec<String>,
    /// Habits of clients that are forgiven.
    pub tolerate: Vec<Tolerance>,
    /// Which names carry their upstream's id on the federated endpoint.
    pub prefix: Prefix,
    /// How long in-flight work may take after SIGTERM.
    pub drain: Duration,
    /// Worker threads; 0 means one a core.
    pub workers: usize,
    /// How tokens that are bound to a key are taken; where absent, none is.
    pub dpop: Option<Dpop>,
}

/// `gateway.dpop`: proofs of possession (RFC 9449).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dpop {
    /// Whether no token is taken that is not bound to a key.
    pub required: bool,
    /// Whether a proof has to bear a nonce of ours.
    pub nonce: bool,
    /// JWS algorithms of proofs; never `none`, never symmetric.
    pub algorithms: Vec<String>,
    /// How far from now a proof may have been made, either way.
    pub window: Duration,
}

/// The listener's certificate.
#[derive(Debug, Clone, PartialEq)]
pub struct Tls {
    /// PEM, leaf first.
    pub certificate: PathBuf,
    /// PEM, PKCS#8, SEC1 or PKCS#1.
    pub key: PathBuf,
    /// PEM: where given, clients must show a certificate of one of these authorities.
    pub client_ca: Option<PathBuf>,
    /// PEM: what these authorities have taken back (RFC 5280 §5). Where given, each has to have a list that is current.
    pub client_crls: Vec<PathBuf>,
    /// Whether who shows none is let in all the same.
    pub client_optional: bool,
}

/// `[[certificates]]`: a machine that needs no token beside the certificate of its connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateHolder {
    /// By what it is known.
    pub name: CertificateName,
    /// Who that is.
    pub agent: String,
    /// Its tenant.
    pub tenant: Option<String>,
    /// Its groups; sorted, no duplicates.
    pub groups: Vec<String>,
    /// What it may ask for, as scopes of a token; sorted, no duplicates.
    pub scopes: Vec<String>,
}

/// What a certificate calls its holder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CertificateName {
    /// Its one URI, such as a SPIFFE id.
    Uri(String),
    /// One of its DNS names.
    Dns(String),
    /// The common name of its subject.
    CommonName(String),
}

/// `[[issuers]]`: somebody who may vouch for callers.
#[derive(Debug, PartialEq, Eq)]
pub struct Issuer {
    /// The exact `iss`.
    pub issuer: String,
    /// Where the keys are, if not to be discovered (RFC 8414, OIDC discovery).
    pub jwks_uri: Option<Url>,
    /// JWS algorithms, the names of RFC 7518 §3.1 and RFC 8037; never `none`, never symmetric.
    pub algorithms: Vec<String>,
    /// Which claims carry what.
    pub claims: Claims,
    /// `typ` values accepted: `at+jwt` always, `JWT` only where the issuer is configured so.
    pub types: Vec<String>,
    /// The longest `exp - iat` accepted.
    pub lifetime_max: Duration,
    /// Clock difference forgiven.
    pub leeway: Duration,
    /// PEM of authorities for the issuer's TLS, besides the system's.
    pub ca: Option<PathBuf>,
    /// What has to be in its tokens.
    pub profile: Profile,
    /// How it is asked about tokens, where it is.
    pub introspection: Option<Introspection>,
}

impl Issuer {
    /// Whether its word is taken as by `other`: how it is reached, and who the gateway is there, is left out.
    #[must_use]
    pub fn is_taken_as(&self, other: &Self) -> bool {
        let Self { issuer, jwks_uri, algorithms, claims, types, lifetime_max, leeway, ca: _, profile, introspection } =
            self;
        (issuer, jwks_uri, algorithms, claims) == (&other.issuer, &other.jwks_uri, &other.algorithms, &other.claims)
            && (types, lifetime_max, leeway) == (&other.types, &other.lifetime_max, &other.leeway)
            && *profile == other.profile
            && introspection.as_ref().map(Introspection::taken)
                == other.introspection.as_ref().map(Introspection::taken)
    }

    /// Whether it makes JWTs that are accepted.
    #[must_use]
    pub const fn signs(&self) -> bool {
        !self.algorithms.is_empty()
    }
}

/// What has to be in an issuer's JWTs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Profile {
    /// What no decision can be made without.
    #[default]
    Common,
    /// All that RFC 9068 §2 requires, and nothing by another name.
    Rfc9068,
}

/// `issuers.introspection`: how an issuer is asked about tokens (RFC 7662).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Introspection {
    /// The introspection endpoint.
    pub endpoint: Url,
    /// Who the gateway is there.
    pub client: OAuthClient,
    /// Whether tokens that are no JWT are this issuer's.
    pub opaque: bool,
    /// Whether its JWTs are asked about too, so that their revocation is seen.
    pub jwt: bool,
    /// Whether an answer without `sub` and `username` is about a client in its own name (RFC 6749 §4.4).
    pub machines: bool,
    /// How long an answer is believed.
    pub cache: Duration,
    /// Questions a second about unknown tokens that turn out not to be good.
    pub unknown_per_s: u32,
}

impl Introspection {
    /// What decides how an answer is taken.
    const fn taken(&self) -> (&Url, bool, bool, bool, Duration) {
        let Self { endpoint, client: _, opaque, jwt, machines, cache, unknown_per_s: _ } = self;
        (endpoint, *opaque, *jwt, *machines, *cache)
    }
}

/// `[keys]`: API keys.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Keys {
    /// Whether they are accepted.
    pub enabled: bool,
}

/// The names of claims.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claims {
    /// The tenant; a caller without it has none.
    pub tenant: Option<String>,
    /// Groups: an array of strings.
    pub groups: String,
    /// The agent; `client_id` (RFC 9068) with `azp` as the second choice where not configured.
    pub agent: Option<String>,
    /// Scopes: a space-separated string or an array of strings.
    pub scope: String,
}

/// `[audit]`: the journal.
#[derive(Debug, Clone, PartialEq)]
pub struct Audit {
    /// The folder of the segments.
    pub directory: PathBuf,
    /// How arguments are recorded.
    pub arguments: ArgumentRecord,
    /// When a record counts as written.
    pub durability: Durability,
    /// A segment is closed at this size.
    pub segment_bytes_max: u64,
    /// A segment is closed at this age.
    pub segment_age_max: Duration,
    /// Records that may wait for the disk; one more is refused.
    pub queue_max: usize,
    /// How long a call waits for its record before it is refused.
    pub wait_max: Duration,
    /// 32 bytes that key the chain and the argument digests; created in the folder where not given.
    pub key: Option<Secret>,
}

/// How the journal keeps a call's arguments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ArgumentRecord {
    /// A keyed digest: proves what was asked without keeping it.
    Digest,
    /// Nothing.
    Nothing,
}

/// When a record counts as written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Durability {
    /// The kernel has it: survives a killed process, not a power cut.
    Os,
    /// The disk has it (`fdatasync`).
    Fsync,
}

/// `[telemetry]`.
#[derive(Debug, Clone, PartialEq)]
pub struct Telemetry {
    /// The base URL of an OTLP/HTTP collector; no export where absent.
    pub otlp: Option<Url>,
    /// The share of traces recorded where the caller did not decide, 0 to 1.
    pub sample_ratio: f64,
    /// `service.name`.
    pub service_name: String,
}

/// `[limits]`: every bound on a request, in one place.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Bytes of a request body.
    pub body_bytes_max: usize,
    /// Bytes of the request line and headers.
    pub header_bytes_max: usize,
    /// Time for the request line and headers to arrive.
    pub header_read: Duration,
    /// Time for the body to arrive.
    pub body_read: Duration,
    /// Time for the TLS handshake.
    pub handshake: Duration,
    /// Time a connection may be idle.
    pub idle: Duration,
    /// Connections at once.
    pub connections_max: usize,
    /// HTTP/2 streams at once on one connection.
    pub streams_max: u32,
    /// Nesting of JSON.
    pub json_depth_max: usize,
    /// Values in one JSON text.
    pub json_nodes_max: usize,
    /// Bytes of one answer that is not a stream.
    pub reply_bytes_max: usize,
    /// Bytes of one event of a stream.
    pub event_bytes_max: usize,
    /// Time a stream may live.
    pub stream_max: Duration,
    /// Bytes of the stream in which one call is answered.
    pub stream_bytes_max: usize,
    /// Calls in flight at once, over all callers.
    pub calls_max: usize,
    /// Legacy sessions at once, over all callers.
    pub sessions_max: usize,
    /// Time a legacy session may be idle.
    pub session_idle: Duration,
    /// Bytes of lists that are kept to be answered again.
    pub list_cache_bytes: usize,
    /// Bytes of results that are kept to be answered again, in equal shares for the upstreams.
    pub result_cache_bytes: usize,
    /// Processes at once of one upstream that is a program.
    pub children_max: usize,
    /// Listeners at once, over all callers: streams on which the gateway says what nobody asked for.
    pub listeners_max: usize,
    /// Calls held at once for a modern client's answer to a legacy upstream, over all callers.
    pub holds_max: usize,
    /// Time that a client may take to answer what an upstream asks.
    pub hold_max: Duration,
    /// Proofs of possession that are remembered at once, over all callers.
    pub proofs_max: usize,
    /// Pages for connecting accounts in a minute: that one address opens, and that one user is sent to.
    pub connect_per_min: u32,
}

/// `[state]`: what replicas share.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct State {
    /// Where what outlives the process is kept; in memory, and not outliving it, where not given.
    pub directory: Option<PathBuf>,
    /// 32 bytes that seal what clients carry between two requests, and what is kept; made in the folder, or random
    /// without one, where not given.
    pub sealing_key: Option<Secret>,
    /// The one before it, which still opens.
    pub sealing_key_before: Option<Secret>,
}

/// `[facade]`: the gateway as an authorization server in front of one identity provider.
#[derive(Debug)]
pub struct Facade {
    /// The gateway as its own authenticator sees it: issuer is the public URL.
    pub own: Arc<Issuer>,
    /// Where people log in: one of `[[issuers]]`.
    pub provider: Arc<Issuer>,
    /// Who the gateway is there.
    pub client: OAuthClient,
    /// What is asked for at the provider; `openid` among them.
    pub login_scopes: Vec<String>,
    /// Whether clients may register themselves (RFC 7591).
    pub registration: bool,
    /// From which hosts client ID metadata documents are taken; `*` is any.
    pub client_domains: Vec<String>,
    /// Schemes of redirect URIs besides `https` and loopback `http`.
    pub redirect_schemes: Vec<String>,
    /// Whose ID-JAGs are redeemed: names out of `[[issuers]]`.
    pub assertion_issuers: Vec<String>,
    /// The life of an access token.
    pub token: Duration,
    /// How long a login lasts: the life of what a refresh token may be exchanged for.
    pub login: Duration,
    /// The same where the provider cannot be asked again whether the person is still welcome.
    pub login_unasked: Duration,
    /// Logins of one person in a day.
    pub logins_per_day: u32,
    /// Clients that prove who they are.
    pub clients: Vec<FacadeClient>,
}

/// `[[facade.clients]]`: a machine that asks for tokens in its own name, or redeems ID-JAGs.
#[derive(Debug)]
pub struct FacadeClient {
    /// `client_id`.
    pub id: String,
    /// What it proves that with.
    pub proof: FacadeProof,
    /// The most that it gets, in its own name or for a person.
    pub scopes: Vec<String>,
    /// The tenant of its own tokens.
    pub tenant: Option<String>,
}

/// How a machine of `[[facade.clients]]` proves who it is.
#[derive(Debug)]
pub enum FacadeProof {
    /// `client_secret_basic`, `client_secret_post`.
    Secret(Secret),
    /// `private_key_jwt`, by one of these keys: a JWK Set.
    Keys(String),
    /// The same, by one of the keys that are there.
    KeysAt(Url),
    /// `tls_client_auth` (RFC 8705 §2.1): its tokens are bound to the certificate.
    Certificate(CertificateName),
}

/// A backend MCP server's id: `[a-z0-9-]{1,24}`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UpstreamId(Arc<str>);

impl UpstreamId {
    /// Checks the grammar.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let fits = (1..=24).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        fits.then(|| Self(Arc::from(text)))
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for UpstreamId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// `[upstreams.ID]`: one backend MCP server.
#[derive(Debug)]
pub struct Upstream {
    /// Its id.
    pub id: UpstreamId,
    /// How it is reached.
    pub transport: Transport,
    /// Which era it speaks, or that this is to be found out (RC-10).
    pub era: Option<Era>,
    /// A call's deadline where no tool rule says otherwise.
    pub timeout: Duration,
    /// How a credential for it is obtained.
    pub grant: Grant,
    /// How the gateway reads its catalogue, where not as `grant` suggests.
    pub discovery: Option<Grant>,
    /// How old its catalogue may become before it is read again, where the upstream gives no `ttlMs`.
    pub refresh: Duration,
    /// What it may ask of clients in the middle of a call.
    pub input: Input,
    /// Whether models are told what the upstream says of itself.
    pub instructions: bool,
    /// Whether resources that were read are kept for as long as the upstream says (`ttlMs`), for their reader.
    pub cache_reads: bool,
    /// Whether what the upstream calls public may serve other callers too (RI-06).
    pub trust_public_cache: bool,
    /// Rules for its tools, in the order written; all that match apply, later ones win.
    pub tools: Vec<TargetRule>,
    /// The same for its prompts.
    pub prompts: Vec<TargetRule>,
    /// The same for its resources, by URI.
    pub resources: Vec<TargetRule>,
}

/// How an upstream is reached; no client can see which of these it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Transport {
    /// Streamable HTTP.
    Http(Remote),
    /// HTTP+SSE of 2024-11-05, deprecated.
    Sse(Remote),
    /// stdio: a program that the gateway runs.
    Stdio(Program),
}

/// A server somewhere else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remote {
    /// Its MCP endpoint.
    pub url: Url,
    /// PEM of authorities for its TLS, besides the system's.
    pub ca: Option<PathBuf>,
    /// PEM of the certificate and key that the gateway shows it.
    pub client_certificate: Option<ClientCertificate>,
    /// Whether plain HTTP may go to it although it is another machine: only where the administrator said so.
    pub insecure_http: bool,
}

impl Remote {
    /// A server at `url`, trusted as the system trusts.
    #[must_use]
    pub const fn at(url: Url) -> Self {
        Self { url, ca: None, client_certificate: None, insecure_http: false }
    }
}

/// A server that is a program on this machine. It is started as it stands here, without a shell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    /// Its file.
    pub file: PathBuf,
    /// Its arguments, each as the program gets it.
    pub arguments: Vec<String>,
    /// All variables that it sees, by name.
    pub environment: BTreeMap<String, Secret>,
    /// Which of these came by reference: secrets, of which nothing may come back.
    pub secrets: Vec<Secret>,
    /// The folder that it starts in.
    pub directory: PathBuf,
}

/// `gateway.prefix`: which names carry their upstream's id on the federated endpoint (spec §3.2).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Prefix {
    /// All of them.
    #[default]
    Always,
    /// Those that two upstreams claim; URIs all the same.
    OnConflict,
    /// None: what two upstreams claim is served by neither.
    Never,
}

/// `upstreams.ID.input`: which of the features that a client provides an upstream may learn of, and use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Input {
    /// `elicitation/create`.
    pub elicitation: bool,
    /// `sampling/createMessage`.
    pub sampling: bool,
    /// `roots/list`.
    pub roots: bool,
}

impl Default for Input {
    fn default() -> Self {
        Self { elicitation: true, sampling: true, roots: true }
    }
}

/// A certificate that the gateway shows.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ClientCertificate {
    /// PEM, leaf first.
    pub certificate: PathBuf,
    /// PEM.
    pub key: PathBuf,
}

/// `[[upstreams.ID.tools]]`, and the same for prompts and resources.
#[derive(Debug, Clone)]
pub struct TargetRule {
    /// An original name or URI, with `*` for any run of characters.
    pub pattern: String,
    /// Scopes that the caller's token must hold.
    pub requires: Vec<String>,
    /// Strengths of the user's login of which it must have one; any where empty.
    pub acr: Vec<String>,
    /// How long ago the user's login may be.
    pub auth_age_max: Option<Duration>,
    /// Scopes asked for at the exchange, for these only.
    pub mints: Vec<String>,
    /// Action groups in Cedar.
    pub tags: Vec<String>,
    /// A deadline of its own.
    pub timeout: Option<Duration>,
    /// Whether the administrator vouches that calling twice is as calling once.
    pub idempotent: Option<bool>,
    /// At least this durability for the intent record.
    pub durability: Option<Durability>,
    /// For how long a result may be answered again; zero takes back what an earlier rule says.
    pub cache: Option<Duration>,
    /// Whether that may be to other callers too.
    pub cache_shared: Option<bool>,
}

/// `[egress]`: which addresses may be dialled because somebody outside named them, besides the public internet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Egress {
    /// Scheme, host and port that may be dialled wherever they are.
    pub origins: Vec<Url>,
    /// Addresses that names may lead to.
    pub nets: Vec<Net>,
    /// PEM of authorities for the TLS of what is dialled so, besides the system's.
    pub ca: Option<PathBuf>,
    /// Requests at once to one host that somebody outside named.
    pub requests_per_host_max: usize,
}

impl Default for Egress {
    fn default() -> Self {
        Self { origins: Vec::new(), nets: Vec::new(), ca: None, requests_per_host_max: REQUESTS_PER_HOST }
    }
}

/// Enough for metadata, which is kept once it is there.
pub(super) const REQUESTS_PER_HOST: usize = 4;

/// Addresses that begin alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Net {
    /// The first of them.
    pub first: IpAddr,
    /// How many bits they have in common.
    pub bits: u32,
}

impl Net {
    /// Reads `10.20.0.0/16`; nothing where that is no network, or its address has bits behind the common ones.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (first, bits) = text.split_once('/')?;
        let net = Self { first: first.parse().ok()?, bits: bits.parse().ok()? };
        let host_bits = match net.first {
            IpAddr::V4(address) => {
                let width = 32_u32.checked_sub(net.bits)?;
                u128::from(u32::from(address)) & low_bits(width)
            }
            IpAddr::V6(address) => u128::from(address) & low_bits(128_u32.checked_sub(net.bits)?),
        };
        (host_bits == 0).then_some(net)
    }

    /// Whether `address` is one of them; an address of IPv4 in the clothes of IPv6 is the former.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.first, address.to_canonical()) {
            (IpAddr::V4(first), IpAddr::V4(address)) => {
                let width = 32_u32.saturating_sub(self.bits);
                u128::from(u32::from(first) ^ u32::from(address)) & !low_bits(width) == 0
            }
            (IpAddr::V6(first), IpAddr::V6(address)) => {
                let width = 128_u32.saturating_sub(self.bits);
                (u128::from(first) ^ u128::from(address)) & !low_bits(width) == 0
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
        }
    }
}

/// The last `count` bits set.
const fn low_bits(count: u32) -> u128 {
    match u128::MAX.checked_shl(count) {
        Some(high) => !high,
        None => u128::MAX,
    }
}

/// How a credential for an upstream is obtained (design: a named strategy, never passthrough).
#[derive(Debug, Clone)]
pub enum Grant {
    /// RFC 8693 token exchange: the caller's token in, an upstream-scoped one out.
    Exchange(TokenRequest),
    /// RFC 6749 §4.4: the gateway in its own name.
    ClientCredentials(TokenRequest),
    /// An identity assertion from the caller's identity provider, redeemed at the upstream's authorization server
    /// (enterprise-managed authorization).
    IdJag(Box<IdJag>),
    /// RFC 6749 §4.1: the user's own account at the upstream, which they connect once.
    UserGrant(TokenRequest),
    /// A secret that the upstream gave out.
    StaticSecret {
        /// The header that carries it, in lower case.
        header: String,
        /// The whole header value, `Bearer ` included where the upstream wants that.
        value: Secret,
    },
    /// No credential at all.
    Nothing,
}

/// What is asked of a token endpoint.
#[derive(Debug, Clone)]
pub struct TokenRequest {
    /// Where it is.
    pub at: TokenEndpoint,
    /// Who the gateway is there.
    pub client: OAuthClient,
    /// In which words an exchange is asked for.
    pub dialect: &'static Dialect,
    /// What kind of token the caller's is (RFC 8693 §3).
    pub subject_token_type: String,
    /// `audience` (RFC 8693 §2.1).
    pub audience: Option<String>,
    /// `resource` (RFC 8707 §2), as it is written: who compares it compares letters.
    pub resource: Option<String>,
    /// Scopes of every grant for this upstream; tool rules add to them.
    pub scopes: Vec<String>,
    /// Whether the gateway names itself as the actor (`actor_token`, RFC 8693 §2.1), by a client-credentials token.
    pub actor: bool,
    /// Whether tokens are bound to a key of the gateway's (RFC 9449).
    pub dpop: bool,
    /// PEM of authorities for the token endpoint's TLS, besides the system's.
    pub ca: Option<PathBuf>,
}

/// Where a token endpoint is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenEndpoint {
    /// Here.
    Url(Url),
    /// Where the metadata of this issuer say (RFC 8414); its exact `issuer`.
    Of(String),
}

impl fmt::Display for TokenEndpoint {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Url(url) => write!(formatter, "{url}"),
            Self::Of(issuer) => formatter.write_str(issuer),
        }
    }
}

/// The two steps of an identity assertion grant.
#[derive(Debug, Clone)]
pub struct IdJag {
    /// What the identity provider is asked: an assertion for the upstream's authorization server.
    pub assertion: TokenRequest,
    /// What that server is asked: an access token for the assertion.
    pub redemption: TokenRequest,
    /// What shows the identity provider who the user is.
    pub subject: AssertionSubject,
    /// The identity provider: one of `[[issuers]]`, whose users alone are named to it.
    pub provider: String,
}

/// By which token a user is named to their identity provider.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AssertionSubject {
    /// The caller's own.
    AccessToken,
    /// The ID token of their login at the gateway.
    IdToken,
    /// The refresh token of that login.
    RefreshToken,
}

/// `[[logins]]`: an issuer at which the gateway can have a person log in.
#[derive(Debug)]
pub struct Login {
    /// Whose users log in: its exact `issuer`, as in `[[issuers]]`, or the gateway's own.
    pub issuer: String,
    /// Where they do: there, or at the provider of `[facade]`.
    pub provider: String,
    /// Who the gateway is there.
    pub client: OAuthClient,
    /// Scopes besides `openid`.
    pub scopes: Vec<String>,
    /// PEM of authorities for its TLS, besides the system's.
    pub ca: Option<PathBuf>,
}

/// The gateway as an OAuth client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OAuthClient {
    /// `client_id`.
    pub id: String,
    /// How it proves that.
    pub authentication: ClientAuthentication,
}

/// RFC 6749 §2.3, RFC 7523 §2.2.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientAuthentication {
    /// `client_secret_basic`.
    SecretBasic(Secret),
    /// `client_secret_post`.
    SecretPost(Secret),
    /// `private_key_jwt`.
    PrivateKeyJwt {
        /// PEM of the private key.
        key: Secret,
        /// `ES256`, `RS256`, `EdDSA`, …
        algorithm: String,
        /// `kid` in the assertion's header.
        key_id: Option<String>,
        /// `aud` of the assertion: the issuer or the token endpoint, as the server wants it.
        audience: String,
    },
    /// A client assertion that the platform wrote (RFC 7523 §2.2), as a Kubernetes service account's projected token: read
    /// from this file whenever it is needed, because the platform renews it.
    AssertionFile(PathBuf),
    /// The same file, and no client: what it says of the workload is the grant itself (RFC 7523 §2.1).
    Workload(PathBuf),
    /// `tls_client_auth`, and `self_signed_tls_client_auth` (RFC 8705 §2).
    Certificate(ClientCertificate),
    /// A public client: no proof.
    Nothing,
}

/// An MCP endpoint that the gateway serves.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Endpoint {
    /// `/mcp`: everything, federated, names prefixed.
    Federated,
    /// `/mcp/{upstream}`: one upstream, names untouched.
    Upstream(UpstreamId),
}

impl Endpoint {
    /// The path of this endpoint, without a trailing slash.
    #[must_use]
    pub fn path(&self) -> String {
        match self {
            Self::Federated => "/mcp".to_owned(),
            Self::Upstream(id) => format!("/mcp/{id}"),
        }
    }
}

impl Config {
    /// The canonical URI of `endpoint`: what tokens are made out to (RFC 8707, RFC 9728).
    #[must_use]
    pub fn resource(&self, endpoint: &Endpoint) -> String {
        format!("{}{}", self.gateway.public_url.as_str().trim_end_matches('/'), endpoint.path())
    }
}
