//! What is Tollgate told in the bench, and what is it asked?
//!
//! A configuration with everything on, policies by the number, ceilings that are counted and never reached, one call,
//! and what clients of either era say besides.

use std::{
    fs,
    net::SocketAddr,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use tollgate::refusal::Era;

/// What varies from one Tollgate to the next.
pub struct Estate {
    pub listen: SocketAddr,
    pub admin: SocketAddr,
    pub upstream: SocketAddr,
    /// The upstream's.
    pub era: Era,
    pub issuer: String,
    pub collector: Option<SocketAddr>,
    /// Where `tls.crt` and `tls.key` are.
    pub certificates: Option<PathBuf>,
    pub durability: &'static str,
    pub policies: usize,
    pub callers: Callers,
    pub grant: Grant,
}

/// Who is let in.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Callers {
    /// Whoever shows a JWT that the issuer signed by ES256.
    Tokens,
    /// Whoever can be let in at all: also by RS256, by introspection, with API keys, with what is bound to a key or a
    /// certificate, and with a certificate alone. Needs `certificates`.
    All,
}

/// How the credential for the upstream is had.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Grant {
    /// One for each caller, by token exchange.
    Exchange,
    /// One for all, as written.
    Secret,
}

impl Estate {
    /// Writes `upstreams.toml` and all that it names into `folder`.
    pub fn write(&self, folder: &Path) {
        fs::create_dir_all(folder.join("policies")).unwrap();
        fs::write(folder.join("client.secret"), "a-secret-of-the-bench").unwrap();
        private(&folder.join("client.secret"));
        fs::write(folder.join("policies/bench.cedar"), policies(self.policies)).unwrap();
        fs::write(folder.join("policies/ceilings.toml"), CEILINGS).unwrap();
        fs::write(folder.join("upstreams.toml"), self.configuration()).unwrap();
    }

    fn configuration(&self) -> String {
        let Self { listen, admin, upstream, durability, .. } = self;
        let era = match self.era {
            Era::Modern => "modern",
            Era::Legacy => "legacy",
        };
        let scheme = if self.certificates.is_some() { "https" } else { "http" };
        let telemetry = self
            .collector
            .map(|collector| format!("[telemetry]\notlp = \"http://{collector}\"\nsample_ratio = 0.01\n"));
        format!(
            r#"[gateway]
public_url = "{scheme}://{listen}"
listen = "{listen}"
admin_listen = "{admin}"
policies = "policies"
workers = 1
{door}

[[issuers]]
{issuer}

[audit]
directory = "audit"
durability = "{durability}"

{telemetry}
[upstreams.bench]
url = "http://{upstream}/mcp"
era = "{era}"
timeout_ms = 300000

[upstreams.bench.grant]
{grant}
"#,
            door = self.door(),
            issuer = self.issuer(),
            telemetry = telemetry.unwrap_or_default(),
            grant = self.grant()
        )
    }

    fn door(&self) -> String {
        let Some(folder) = self.certificates.as_ref().map(|folder| folder.display()) else { return String::new() };
        let own = format!("certificate = \"{folder}/tls.crt\", key = \"{folder}/tls.key\"");
        let clients = format!("client_ca = \"{folder}/ca.crt\", client_certificate = \"optional\"");
        match self.callers {
            Callers::Tokens => format!("tls = {{ {own} }}"),
            Callers::All => format!("tls = {{ {own}, {clients} }}\ndpop = {{}}"),
        }
    }

    fn issuer(&self) -> String {
        let issuer = &self.issuer;
        let own = format!("issuer = \"{issuer}\"\nclaims = {{ tenant = \"tenant\", groups = \"groups\" }}");
        match self.callers {
            Callers::Tokens => format!("{own}\nalgorithms = [\"ES256\"]"),
            Callers::All => {
                let asked = format!("introspection = {{ endpoint = \"{issuer}/introspect\", {CLIENT} }}");
                format!("{own}\nalgorithms = [\"ES256\", \"RS256\"]\n{asked}\n{WITHOUT_ISSUER}")
            }
        }
    }

    fn grant(&self) -> String {
        match self.grant {
            Grant::Exchange => format!("{EXCHANGE}\ntoken_endpoint = \"{}/token\"\n{CLIENT}", self.issuer),
            Grant::Secret => SECRET.to_owned(),
        }
    }
}

/// Who Tollgate is at its issuer.
const CLIENT: &str = r#"client = { id = "tollgate", secret = { file = "client.secret" } }"#;

const EXCHANGE: &str = r#"strategy = "exchange"
audience = "bench-api"
scopes = ["bench.call"]"#;

const SECRET: &str = r#"strategy = "static_secret"
prefix = "Bearer "
value = { file = "client.secret" }"#;

/// Callers that no issuer vouches for.
const WITHOUT_ISSUER: &str = r#"
[[certificates]]
common_name = "bench-machine"
tenant = "acme"
groups = ["staff", "support", "emea", "oncall"]

[keys]
enabled = true

[state]
directory = "state"
"#;

/// What the certificates of clients call their holder.
pub const MACHINE: &str = "bench-machine";

/// What all callers are in.
pub const GROUPS: [&str; 4] = ["staff", "support", "emea", "oncall"];

/// Secrets are for their owner alone; Tollgate insists on it.
pub fn private(path: &Path) {
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

/// 664 bytes, about, of which the arguments are most; a legacy client's are the same without what modern ones say of
/// themselves.
pub fn body(client: Era, tool: &str, meta: &str) -> String {
    let text = "y".repeat(BODY_BYTES - BODY_FRAME_BYTES);
    let arguments =
        format!(r#"{{"text":"{text}","amount":250,"currency":"EUR","dry_run":false,"labels":["one","two"]}}"#);
    let own = match client {
        Era::Modern => format!("{MODERN_META},"),
        Era::Legacy => String::new(),
    };
    format!(
        r#"{{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{{"name":"bench__{tool}","arguments":{arguments},"_meta":{{{own}{meta}}}}}}}"#
    )
}

/// A modern request of one of the methods that are about nothing in particular; `params` are followed by a comma.
pub fn request(method: &str, params: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":7,"method":"{method}","params":{{{params}"_meta":{{{MODERN_META}}}}}}}"#)
}

/// The most that a modern client can want to be told of.
pub const LISTENED: &str =
    r#""notifications":{"toolsListChanged":true,"promptsListChanged":true,"resourcesListChanged":true},"#;

/// How a legacy client begins.
pub const INITIALIZE: &str = r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"bench","version":"1"}}}"#;
pub const INITIALIZED: &str = r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;

const MODERN_META: &str = r#""io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{},"io.modelcontextprotocol/clientInfo":{"name":"bench","version":"1"}"#;

pub const MODERN: &str = "2026-07-28";
pub const LEGACY: &str = "2025-11-25";

/// `count` policies, of which four can apply to the bench's caller: others name other groups, tools or upstreams, as an
/// estate's do. One that decides on `pay` reads arguments, so that it is evaluated at every call.
pub fn policies(count: usize) -> String {
    let mut text = String::from(OWN);
    for number in OWN_COUNT..count.max(OWN_COUNT) {
        let (group, tool) = (number % 97, number % 13);
        text.push_str(&format!(
            "
@id(\"team-{number}\")
permit (principal in Group::\"team-{number}-{group}\", action == Action::\"system-{group}/tool-{tool}\", resource)
when {{ context.input has amount && context.input.amount <= {number} && context.time.hour >= 6 }};
"
        ));
    }
    text
}

/// How many policies [`policies`] makes at least.
pub const OWN_COUNT: usize = 4;

const OWN: &str = r#"@id("other-tenants-stay-out")
forbid (principal, action, resource) unless { principal in Tenant::"acme" };

@id("staff-calls")
permit (principal in Group::"staff", action in [Action::"bench/echo", Action::"bench/hold"], resource == Upstream::"bench");

@id("support-calls")
permit (principal in Group::"support", action == Action::"bench/echo", resource == Upstream::"bench");

@id("support-pays-a-little")
permit (principal in Group::"support", action == Action::"bench/pay", resource == Upstream::"bench")
when { context.input.amount <= 1000 && context.input.currency == "EUR" };
"#;

/// One ceiling on rate and one on concurrency.
pub const CEILINGS: &str = r#"[[ceilings]]
name = "calls-per-person"
per = ["user", "agent"]
rate = { count = 1000000, per = "1s", burst = 1000000 }

[[ceilings]]
name = "at-once"
per = ["tenant"]
in_flight = 4096
"#;

const BODY_BYTES: usize = 664;
const BODY_FRAME_BYTES: usize = 476;
