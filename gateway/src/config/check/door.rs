//! What is wrong with the gateway's own tables: `[gateway]`, `[[issuers]]`, `[audit]`, `[telemetry]`, `[limits]`,
//! `[state]`?
//!
//! It does not look at upstreams.

use std::{net::SocketAddr, sync::Arc};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use toml::Spanned;
use url::{Origin, Url};

use super::{
    Checker, Place,
    values::{DAY_MS, is_name},
};
use crate::{
    config::{
        Tolerance,
        checked::{ArgumentRecord, Audit, Claims, Durability, Gateway, Issuer, Limits, Prefix, State, Telemetry, Tls},
        read::nearest,
        written::{self, Key},
    },
    secret::Secret,
};

impl Checker<'_> {
    pub(super) fn gateway(&mut self, written: &written::Gateway, place: &Place) -> Option<Gateway> {
        let public_url = self
            .required(&written.public_url, place, "public_url", "public_url = \"https://mcp.example.com\"")
            .and_then(|url| self.public_url(url));
        let listen = self.required(&written.listen, place, "listen", "listen = \"0.0.0.0:8443\"");
        let listen_address = listen.and_then(|listen| self.address(listen));
        let admin = match &written.admin_listen {
            Some(admin) => self.address(admin),
            None => Some(ADMIN_LISTEN),
        };
        if let (Some(one), Some(other)) = (listen_address, admin)
            && one.port() == other.port()
            && one.port() != 0
        {
            let span = written.admin_listen.as_ref().or(listen).map(Spanned::span).unwrap_or_default();
            let help = "give the admin listener a port of its own; metrics must not be on the public one";
            self.problem(format!("`listen` and `admin_listen` share port {}", one.port()), span, "same port", help);
        }
        let tls = written.tls.as_ref().map(|tls| self.tls(tls));
        if let (Some(listen), Some(address), None) = (listen, listen_address, &tls)
            && !address.ip().is_loopback()
        {
            self.problem(
                "the gateway would speak without TLS to other machines",
                listen.span(),
                "not a loopback address",
                "add `tls = { certificate = \"tls.crt\", key = \"tls.key\" }`, or listen on `127.0.0.1`",
            );
        }
        if let (Some(url), Some(_), Some(at)) = (&public_url, &tls, &written.public_url)
            && url.scheme() == "http"
        {
            self.problem("`public_url` says `http`, and `tls` is on", at.span(), "this scheme", "write `https://`");
        }
        let policies = self.policies(&written.policies);
        let allowed_origins = self.origins(written.allowed_origins.as_deref().unwrap_or_default());
        let allowed_hosts = self.words(written.allowed_hosts.as_deref(), "a host", is_host, "`name` or `name:port`");
        let audiences = self.words(written.audiences.as_deref(), "an audience", is_name, "1 to 256 characters of text");
        let tolerate = self.tolerances(written.tolerate.as_deref());
        let dpop = written.dpop.as_ref().map(|dpop| self.dpop(dpop.get_ref()));
        let drain = self.millis(&written.drain_ms, &(0..=3_600_000), 30_000);
        let workers = self.count(&written.workers, &(0..=1024), 0);
        Some(Gateway {
            public_url: public_url?,
            listen: listen_address?,
            admin_listen: admin?,
            policies: policies?,
            tls: match tls {
                Some(tls) => Some(tls?),
                None => None,
            },
            allowed_origins,
            allowed_hosts,
            audiences,
            tolerate,
            prefix: match written.prefix.as_ref().map(Spanned::get_ref) {
                None | Some(written::Prefix::Always) => Prefix::Always,
                Some(written::Prefix::OnConflict) => Prefix::OnConflict,
                Some(written::Prefix::Never) => Prefix::Never,
            },
            drain,
            workers,
            dpop,
        })
    }

    /// Scheme and authority: everything else derives from them, so nothing else may stand there.
    fn public_url(&mut self, written: &Spanned<String>) -> Option<Url> {
        let url = self.safe_url(written, "`public_url`")?;
        if url.path() != "/" || url.query().is_some() {
            let help = format!("write `{}`; the gateway serves `/mcp` below it", url.origin().ascii_serialization());
            self.problem("`public_url` has a path or query", written.span(), "more than `https://host`", help);
            return None;
        }
        Some(url)
    }

    fn address(&mut self, written: &Spanned<String>) -> Option<SocketAddr> {
        let address = written.get_ref().parse().ok();
        if address.is_none() {
            let message = format!("`{}` is not an address to listen on", written.get_ref().escape_debug());
            let help = "write IP address and port: `127.0.0.1:8443`, `0.0.0.0:8443`, `[::]:8443`";
            self.problem(message, written.span(), "this text", help);
        }
        address
    }

    fn tls(&mut self, written: &Spanned<written::Tls>) -> Option<Tls> {
        let place = Place { name: "`tls`".to_owned(), span: written.span() };
        let written = written.get_ref();
        let pair = self.certificate_and_key(&written.certificate, &written.key, &place);
        let client_ca = self.authorities(&written.client_ca);
        if let (Some(at), None) = (&written.client_certificate, &written.client_ca) {
            let help = "add `client_ca`, the authorities whose certificates clients may show";
            self.problem("`client_certificate` needs `client_ca`", at.span(), "no client is asked for one", help);
        }
        let client_crls = self.revocation_lists(written);
        let asked = written.client_certificate.as_ref().map(Spanned::get_ref);
        let client_optional = matches!(asked, Some(written::ClientAuthentication::Optional));
        let (certificate, key) = pair?;
        Some(Tls { certificate, key, client_ca: client_ca?, client_crls: client_crls?, client_optional })
    }

    fn revocation_lists(&mut self, written: &written::Tls) -> Option<Vec<std::path::PathBuf>> {
        let listed = written.client_crls.as_deref().unwrap_or_default();
        if let (Some(first), None) = (listed.first(), &written.client_ca) {
            let help = "add `client_ca`, the authorities whose lists these are";
            self.problem("`client_crls` needs `client_ca`", first.span(), "no client is asked for one", help);
        }
        // All of them, so that each mistake is told.
        listed.iter().map(|path| self.revocation_list(path)).collect::<Vec<_>>().into_iter().collect()
    }

    fn policies(&mut self, written: &Key<String>) -> Option<std::path::PathBuf> {
        let path = match written {
            Some(written) => self.path(written)?,
            None => self.folder.join("policies"),
        };
        if self.environment.is_here() && !self.environment.is_folder(&path) {
            let (span, label) = match written {
                Some(written) => (written.span(), "this folder"),
                None => (0..0, "`gateway.policies` is not written, so it is `policies`"),
            };
            let help = "name the folder with the `*.cedar` files; without policies every call is denied";
            self.problem(format!("no folder `{}`", path.display()), span, label, help);
            return None;
        }
        Some(path)
    }

    /// Exact origins (RS-02): a browser sends them in one spelling, so any other would never match.
    fn origins(&mut self, written: &[Spanned<String>]) -> Vec<String> {
        let mut origins = Vec::new();
        for origin in written {
            let text = origin.get_ref();
            let spelling = Url::parse(text).ok().map(|url| url.origin()).filter(Origin::is_tuple);
            let Some(spelling) = spelling.map(|origin| origin.ascii_serialization()) else {
                let message = format!("`{}` is not an origin", text.escape_debug());
                let help = "write `https://host` or `https://host:port`; there is no wildcard";
                self.problem(message, origin.span(), "this text", help);
                continue;
            };
            if spelling != *text {
                let help = format!("write `{spelling}`, as browsers do");
                self.problem(format!("`{text}` would match no browser"), origin.span(), "not how it is sent", help);
                continue;
            }
            if origins.contains(&spelling) {
                self.problem(format!("`{text}` stands twice in the list"), origin.span(), "again", "remove one");
                continue;
            }
            origins.push(spelling);
        }
        origins
    }

    /// Somebody has to vouch for callers: an issuer, the gateway by its keys, or an authority by certificates.
    pub(super) fn anybody(&mut self, file: &written::File, issuers: &[Arc<Issuer>]) {
        let keys = file
            .keys
            .as_ref()
            .is_some_and(|keys| keys.get_ref().enabled.as_ref().is_some_and(|enabled| *enabled.get_ref()));
        let certificates = file.certificates.as_ref().is_some_and(|written| !written.is_empty());
        let judged = file.issuers.as_ref().is_some_and(|written| !written.is_empty());
        let removed = self.removed.contains(&(0, "issuers".to_owned()));
        if issuers.is_empty() && !(judged || removed || keys || certificates) {
            let help = "add `[[issuers]]` with `issuer` and `algorithms`, `[keys]` or `[[certificates]]`: without one every caller \
                        is refused";
            self.problem("no issuer", 0..0, "nobody may vouch for callers", help);
        }
    }

    pub(super) fn issuers(&mut self, written: &[Spanned<written::Issuer>]) -> Vec<Arc<Issuer>> {
        let mut issuers: Vec<Arc<Issuer>> = Vec::new();
        let mut seen: Vec<&Spanned<String>> = Vec::new();
        for table in written {
            if let Some(name) = &table.get_ref().issuer {
                if let Some(first) = seen.iter().find(|first| first.get_ref() == name.get_ref()) {
                    let problem = self
                        .source
                        .problem(format!("issuer `{name}` stands twice"))
                        .at(first.span(), "first here")
                        .at(name.span(), "again here")
                        .help("merge the two tables: a token must have one set of rules");
                    self.problems.push(problem);
                }
                seen.push(name);
            }
            let place = Place { name: "`[[issuers]]`".to_owned(), span: table.span() };
            issuers.extend(self.issuer(table.get_ref(), &place).map(Arc::new));
        }
        self.opaque_tokens_of_one(written);
        issuers
    }

    fn issuer(&mut self, written: &written::Issuer, place: &Place) -> Option<Issuer> {
        let name =
            self.required(&written.issuer, place, "issuer", "issuer = \"https://login.example.com/realms/corp\"");
        let name = name.and_then(|name| self.issuer_name(name));
        let jwks_uri = match &written.jwks_uri {
            Some(uri) => self.safe_url(uri, "`jwks_uri`").map(Some),
            None => Some(None),
        };
        let introspection = match &written.introspection {
            Some(introspection) => self.introspection(introspection, written).map(Some),
            None => Some(None),
        };
        let algorithms = match &written.algorithms {
            // Whoever gives out nothing but opaque tokens signs none.
            None if written.introspection.is_some() => Some(Vec::new()),
            algorithms => self
                .required(algorithms, place, "algorithms", "algorithms = [\"ES256\"]")
                .map(|algorithms| self.algorithms(algorithms)),
        };
        let profile = self.profile(written);
        let claims = match &written.claims {
            Some(claims) => self.claims(claims.get_ref()),
            None => self.claims(&written::Claims::default()),
        };
        let types = match written.types.as_deref() {
            Some(types) => self.words(Some(types), "a token type", is_token_type, "`at+jwt` or `JWT`"),
            None => vec!["at+jwt".to_owned()],
        };
        let lifetime_max = self.seconds(&written.lifetime_max_s, &(60..=604_800), 86_400);
        // RFC 7519 §4.1.4: "no more than a few minutes"; half a minute is what synchronised clocks need.
        let leeway = self.seconds(&written.leeway_s, &(0..=30), 10);
        let ca = self.authorities(&written.ca);
        Some(Issuer {
            issuer: name?,
            jwks_uri: jwks_uri?,
            algorithms: algorithms?,
            claims: claims?,
            types,
            lifetime_max,
            leeway,
            ca: ca?,
            profile,
            introspection: introspection?,
        })
    }

    /// RFC 8414 §2: https, no query, no fragment. Kept letter by letter, since `iss` is compared so.
    pub(super) fn issuer_name(&mut self, written: &Spanned<String>) -> Option<String> {
        let url = self.safe_url(written, "`issuer`")?;
        if url.query().is_some() {
            let help = "write the exact `iss` of its tokens (RFC 8414 §2)";
            self.problem("`issuer` has a query", written.span(), "from the `?` on", help);
            return None;
        }
        Some(written.get_ref().clone())
    }

    pub(super) fn algorithms(&mut self, written: &Spanned<Vec<Spanned<String>>>) -> Vec<String> {
        if written.get_ref().is_empty() {
            self.problem("`algorithms` is empty", written.span(), "every token would be refused", ALGORITHM_HELP);
        }
        let mut algorithms = Vec::new();
        for algorithm in written.get_ref() {
            algorithms.extend(self.algorithm(algorithm));
        }
        algorithms
    }

    /// A signature algorithm with a public key (RFC 7518 §3.1, RFC 8037).
    pub(super) fn algorithm(&mut self, written: &Spanned<String>) -> Option<String> {
        let name = written.get_ref().as_str();
        if ALGORITHMS.contains(&name) {
            return Some(name.to_owned());
        }
        let lower = name.to_ascii_lowercase();
        let help = if lower == "none" {
            "an unsigned token proves nothing (RFC 8725 §3.2); name what the issuer signs with".to_owned()
        } else if lower.starts_with("hs") {
            "with a shared secret whoever verifies can also issue; have the issuer sign with ES256 or RS256".to_owned()
        } else {
            nearest(name, &ALGORITHMS)
        };
        let message = format!("algorithm `{}` is not accepted", name.escape_debug());
        self.problem(message, written.span(), "not on the list", help);
        None
    }

    fn claims(&mut self, written: &written::Claims) -> Option<Claims> {
        let mut name = |key: &Key<String>| match key {
            Some(key) => self.word(key, "a claim's name", is_name, "1 to 256 characters of text").map(Some),
            None => Some(None),
        };
        let (tenant, groups, agent, scope) =
            (name(&written.tenant), name(&written.groups), name(&written.agent), name(&written.scope));
        Some(Claims {
            tenant: tenant?,
            groups: groups?.unwrap_or_else(|| "groups".to_owned()),
            agent: agent?,
            scope: scope?.unwrap_or_else(|| "scope".to_owned()),
        })
    }

    /// The habits that are forgiven, each once; none at all is the specification to the letter.
    fn tolerances(&mut self, written: Option<&[Spanned<String>]>) -> Vec<Tolerance> {
        let Some(written) = written else { return Tolerance::usual() };
        let mut forgiven = Vec::new();
        for word in written {
            let name = word.get_ref().as_str();
            match Tolerance::ALL.iter().find(|(known, _)| *known == name) {
                None => {
                    let message = format!("no habit of clients is called `{}`", name.escape_debug());
                    let help = nearest(name, &Tolerance::ALL.map(|(known, _)| known));
                    self.problem(message, word.span(), "not on the list", help);
                }
                Some((_, habit)) if forgiven.contains(habit) => {
                    self.problem(format!("`{name}` stands twice in the list"), word.span(), "again", "remove one");
                }
                Some((_, habit)) => forgiven.push(*habit),
            }
        }
        forgiven
    }

    pub(super) fn audit(&mut self, written: &written::Audit, place: &Place) -> Option<Audit> {
        let directory = self
            .required(&written.directory, place, "directory", "directory = \"/var/lib/tollgate/audit\"")
            .and_then(|directory| self.path(directory));
        let key = match &written.key {
            Some(key) => self.key(key, "the audit key").map(Some),
            None => Some(None),
        };
        let segment_bytes_max = self.number(&written.segment_bytes_max, &(65_536..=4_294_967_296), 67_108_864);
        let segment_age_max = self.seconds(&written.segment_age_max_s, &(10..=2_592_000), 86_400);
        let queue_max = self.count(&written.queue_max, &(1..=1_000_000), 8_192);
        let wait_max = self.millis(&written.wait_max_ms, &(1..=60_000), 2_000);
        Some(Audit {
            directory: directory?,
            arguments: match written.arguments.as_ref().map(Spanned::get_ref) {
                None | Some(written::ArgumentRecord::Digest) => ArgumentRecord::Digest,
                Some(written::ArgumentRecord::None) => ArgumentRecord::Nothing,
            },
            durability: written.durability.as_ref().map_or(Durability::Fsync, |key| durability(*key.get_ref())),
            segment_bytes_max,
            segment_age_max,
            queue_max,
            wait_max,
            key: key?,
        })
    }

    /// A secret of 32 bytes.
    fn key(&mut self, written: &Spanned<written::Reference>, what: &str) -> Option<Secret> {
        let secret = self.secret(written, what)?;
        let text = secret.expose();
        let is_hex = text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit());
        let is_base64 = STANDARD.decode(text).is_ok_and(|bytes| bytes.len() == 32);
        if self.environment.is_here() && !is_hex && !is_base64 {
            let help = "give 32 bytes as 64 hex digits or in base64: `openssl rand -hex 32`";
            self.problem(format!("{what} is not 32 bytes"), written.span(), "what this points to", help);
            return None;
        }
        Some(secret)
    }

    pub(super) fn telemetry(&mut self, written: &written::Telemetry) -> Option<Telemetry> {
        let otlp = match &written.otlp {
            // Inside a cluster collectors commonly speak plain HTTP; what is sent holds no credentials.
            Some(otlp) => self
                .text(otlp, "the OTLP endpoint")
                .and_then(|text| self.url(&text, "the OTLP endpoint", super::values::Plain::Anywhere))
                .map(Some),
            None => Some(None),
        };
        let sample_ratio = match &written.sample_ratio {
            Some(ratio) if !(0.0..=1.0).contains(ratio.get_ref()) => {
                let help = "write a share from 0.0 (nothing) to 1.0 (everything)";
                self.problem(format!("`{ratio}` is not a share"), ratio.span(), "this number", help);
                None
            }
            Some(ratio) => Some(*ratio.get_ref()),
            None => Some(SAMPLE_RATIO),
        };
        let service_name = match &written.service_name {
            Some(name) => self.word(name, "a service name", is_name, "1 to 256 characters of text"),
            None => Some("tollgate".to_owned()),
        };
        Some(Telemetry { otlp: otlp?, sample_ratio: sample_ratio?, service_name: service_name? })
    }

    /// The defaults hold slow and oversized requests off: small enough that one caller cannot hold much.
    pub(super) fn limits(&mut self, written: &written::Limits) -> Option<Limits> {
        Some(Limits {
            body_bytes_max: self.count(&written.body_bytes_max, &(1_024..=67_108_864), 1_048_576),
            header_bytes_max: self.count(&written.header_bytes_max, &(8_192..=1_048_576), 32_768),
            header_read: self.millis(&written.header_read_ms, &(100..=300_000), 8_000),
            body_read: self.millis(&written.body_read_ms, &(100..=600_000), 15_000),
            handshake: self.millis(&written.handshake_ms, &(100..=60_000), 5_000),
            idle: self.millis(&written.idle_ms, &(1_000..=3_600_000), 75_000),
            connections_max: self.count(&written.connections_max, &(1..=1_000_000), 10_000),
            streams_max: u32::try_from(self.number(&written.streams_max, &(1..=1_000), 100)).unwrap_or(u32::MAX),
            json_depth_max: self.count(&written.json_depth_max, &(8..=128), 64),
            json_nodes_max: self.count(&written.json_nodes_max, &(64..=10_000_000), 20_000),
            reply_bytes_max: self.count(&written.reply_bytes_max, &(1_024..=268_435_456), 8_388_608),
            event_bytes_max: self.count(&written.event_bytes_max, &(1_024..=67_108_864), 1_048_576),
            stream_max: self.millis(&written.stream_max_ms, &(1_000..=DAY_MS), 3_600_000),
            stream_bytes_max: self.count(&written.stream_bytes_max, &(1_024..=1_099_511_627_776), 268_435_456),
            calls_max: self.count(&written.calls_max, &(1..=1_000_000), 4_096),
            sessions_max: self.count(&written.sessions_max, &(1..=1_000_000), 10_000),
            session_idle: self.millis(&written.session_idle_ms, &(1_000..=DAY_MS), 1_800_000),
            list_cache_bytes: self.count(&written.list_cache_bytes, &(0..=4_294_967_296), 16_777_216),
            result_cache_bytes: self.count(&written.result_cache_bytes, &(0..=4_294_967_296), 33_554_432),
            // Two at least: callers leave one to the gateway itself.
            children_max: self.count(&written.children_max, &(2..=1_024), 16),
            listeners_max: self.count(&written.listeners_max, &(1..=1_000_000), 10_000),
            holds_max: self.count(&written.holds_max, &(1..=1_000_000), 1_024),
            hold_max: self.millis(&written.hold_max_ms, &(1_000..=3_600_000), 300_000),
            proofs_max: self.count(&written.proofs_max, &(16..=10_000_000), 100_000),
            connect_per_min: u32::try_from(self.number(&written.connect_per_min, &(1..=10_000), 60))
                .unwrap_or(u32::MAX),
        })
    }

    pub(super) fn state(&mut self, written: &written::State) -> Option<State> {
        let directory = match &written.directory {
            Some(directory) => self.path(directory).map(Some),
            None => Some(None),
        };
        let sealing_key = match &written.sealing_key {
            Some(key) => self.key(key, "the sealing key").map(Some),
            None => Some(None),
        };
        let sealing_key_before = match &written.sealing_key_before {
            Some(key) => self.key(key, "the sealing key before").map(Some),
            None => Some(None),
        };
        Some(State { directory: directory?, sealing_key: sealing_key?, sealing_key_before: sealing_key_before? })
    }
}

/// The meaning of a written durability.
pub(super) const fn durability(written: written::Durability) -> Durability {
    match written {
        written::Durability::Fsync => Durability::Fsync,
        written::Durability::Os => Durability::Os,
    }
}

/// A `Host` value: an authority without userinfo.
fn is_host(text: &str) -> bool {
    let url = Url::parse(&format!("http://{text}/"));
    !text.contains(['*', '@', '/', '?', '#']) && url.is_ok_and(|url| url.path() == "/" && url.has_host())
}

fn is_token_type(text: &str) -> bool {
    matches!(text, "at+jwt" | "JWT")
}

/// Where health and metrics are served unless written otherwise.
const ADMIN_LISTEN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 9443);

/// A tenth of the traces: enough to see trends; the journal has every call.
const SAMPLE_RATIO: f64 = 0.1;

/// RFC 7518 §3.1 and RFC 8037 without `none`, without the symmetric ones; ES512 is left out since the verifier has no P-521.
const ALGORITHMS: [&str; 9] = ["ES256", "ES384", "EdDSA", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512"];

const ALGORITHM_HELP: &str = "name what the issuer signs with: `algorithms = [\"ES256\"]`";
