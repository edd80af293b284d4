//! How does a test run the gateway as it is shipped?
//!
//! The real binary, with a configuration written for the test, on free ports, with a journal of its own. What is
//! configured is text, as an administrator writes it.

use std::{
    fmt::Write,
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::Arc,
};

use rustls::ClientConfig;
use serde_json::Value;

use super::{
    certificates::{Authority, Leaf},
    http,
    issuer::Issuer,
    leaks,
    mcp::Client,
    place,
    process::Process,
    recorder::{Recorder, Reply},
};

/// Allows every call of everybody; a test that is not about policy uses it.
pub(crate) const ALLOW_ALL: &str = "@id(\"allow-all\")\npermit (principal, action, resource);\n";

/// A gateway that has not started.
pub(crate) struct Setup {
    folder: PathBuf,
    port: u16,
    admin_port: u16,
    authority: Option<Authority>,
    asks_certificate: bool,
    asks_lists: bool,
    gateway: String,
    audit: String,
    rest: String,
    policies: Vec<(String, String)>,
    environment: Vec<(String, String)>,
    /// Takes in its traces, all of them.
    collector: Recorder,
}

impl Setup {
    /// A gateway in the clear on loopback, without upstreams, issuers and policies.
    pub(crate) fn new(name: &str) -> Self {
        Self {
            folder: place::scratch(name),
            port: place::free_port(),
            admin_port: place::free_port(),
            authority: None,
            asks_certificate: false,
            asks_lists: false,
            gateway: String::new(),
            audit: String::new(),
            rest: String::new(),
            policies: Vec::new(),
            environment: Vec::new(),
            collector: Recorder::serving(|_| Reply::status(200)),
        }
    }

    /// The usual: callers of `issuer`, and everything allowed.
    pub(crate) fn usual(name: &str, issuer: &Issuer) -> Self {
        Self::new(name).issuer(&issuer.url()).policy("allow.cedar", ALLOW_ALL)
    }

    /// TLS, by an authority of its own.
    pub(crate) fn tls(mut self) -> Self {
        self.authority = Some(Authority::new(&self.folder));
        self
    }

    /// TLS where clients may show a certificate of the same authority, and need not.
    pub(crate) fn mutual_tls(mut self) -> Self {
        self.asks_certificate = true;
        self.tls()
    }

    /// The same, where the authority's list says which of them it has taken back: none yet.
    pub(crate) fn mutual_tls_with_list(mut self) -> Self {
        self.asks_lists = true;
        let setup = self.mutual_tls();
        setup.authority().takes_back(&[], 2100);
        setup
    }

    /// The authority of its certificate.
    pub(crate) fn authority(&self) -> &Authority {
        self.authority.as_ref().unwrap()
    }

    /// Further lines of `[gateway]`.
    pub(crate) fn gateway(mut self, lines: &str) -> Self {
        self.gateway.push_str(&format!("{lines}\n"));
        self
    }

    /// Further lines of `[audit]`.
    pub(crate) fn audit(mut self, lines: &str) -> Self {
        self.audit.push_str(&format!("{lines}\n"));
        self
    }

    /// Any further sections.
    pub(crate) fn section(mut self, text: &str) -> Self {
        self.rest.push_str(&format!("\n{text}\n"));
        self
    }

    /// Somebody who vouches for callers.
    pub(crate) fn issuer(self, issuer: &str) -> Self {
        self.section(&format!(
            "[[issuers]]\nissuer = \"{issuer}\"\nalgorithms = [\"ES256\"]\nclaims = {{ tenant = \"tenant\", groups = \"groups\" }}"
        ))
    }

    /// Somebody who vouches for callers, and is asked about tokens by the client `gateway`; further keys of
    /// `introspection` are `more`.
    pub(crate) fn introspecting(self, issuer: &str, endpoint: &str, more: &str) -> Self {
        let client = "client = { id = \"gateway\", secret = { env = \"GATEWAY_SECRET\" } }";
        self.environment("GATEWAY_SECRET", "gateway-secret").section(&format!(
            "[[issuers]]\nissuer = \"{issuer}\"\nalgorithms = [\"ES256\"]\n\
             claims = {{ tenant = \"tenant\", groups = \"groups\" }}\n\
             introspection = {{ endpoint = \"{endpoint}\", {client}, {more} }}"
        ))
    }

    /// API keys, kept in a folder of the test.
    pub(crate) fn api_keys(self) -> Self {
        let folder = self.folder.join("state").display().to_string();
        self.section(&format!("[state]\ndirectory = \"{folder}\"\n\n[keys]\nenabled = true"))
    }

    /// An upstream with these further lines.
    pub(crate) fn upstream(self, id: &str, url: &str, lines: &str) -> Self {
        self.section(&format!("[upstreams.{id}]\nurl = \"{url}\"\n{lines}"))
    }

    /// An upstream that is a program, with these further lines.
    pub(crate) fn program(self, id: &str, command: &str, lines: &str) -> Self {
        self.section(&format!("[upstreams.{id}]\n{command}\n{lines}"))
    }

    /// An upstream without a credential of its own.
    pub(crate) fn open_upstream(self, id: &str, url: &str) -> Self {
        self.upstream(id, url, "grant = { strategy = \"none\" }")
    }

    /// An upstream whose credential is exchanged at `issuer` by the client `gateway`; `resource` is its URL.
    pub(crate) fn exchanged_upstream(self, id: &str, url: &str, issuer: &str, scopes: &str) -> Self {
        let client = "client = { id = \"gateway\", secret = { env = \"GATEWAY_SECRET\" } }";
        let endpoint = format!("token_endpoint = \"{issuer}/token\"");
        let grant = format!(
            "grant = {{ strategy = \"exchange\", {endpoint}, {client}, resource = \"{url}\", scopes = [{scopes}] }}"
        );
        self.environment("GATEWAY_SECRET", "gateway-secret").upstream(id, url, &grant)
    }

    /// A file of the policies' folder.
    pub(crate) fn policy(mut self, file: &str, text: &str) -> Self {
        self.policies.push((file.to_owned(), text.to_owned()));
        self
    }

    /// A variable of the gateway's environment.
    pub(crate) fn environment(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// What takes in its traces.
    pub(crate) fn collector(&self) -> &Recorder {
        &self.collector
    }

    /// Everything that belongs to the test.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The public URL.
    pub(crate) fn origin(&self) -> String {
        match self.authority {
            None => format!("http://127.0.0.1:{}", self.port),
            Some(_) => format!("https://localhost:{}", self.port),
        }
    }

    /// The URL of an endpoint, which is also the resource that tokens are made out to; `None` is the federated one.
    pub(crate) fn endpoint(&self, upstream: Option<&str>) -> String {
        upstream.map_or_else(|| format!("{}/mcp", self.origin()), |id| format!("{}/mcp/{id}", self.origin()))
    }

    /// Writes the configuration and gives its file.
    pub(crate) fn write(&self) -> PathBuf {
        let policies = self.folder.join("policies");
        fs::create_dir_all(&policies).unwrap();
        for (file, text) in &self.policies {
            fs::write(policies.join(file), text).unwrap();
        }
        let mut text = String::from("[gateway]\n");
        writeln!(text, "public_url = \"{}\"", self.origin()).unwrap();
        writeln!(text, "listen = \"127.0.0.1:{}\"", self.port).unwrap();
        writeln!(text, "admin_listen = \"127.0.0.1:{}\"", self.admin_port).unwrap();
        writeln!(text, "policies = \"{}\"", policies.display()).unwrap();
        if let Some(authority) = &self.authority {
            let leaf = authority.leaf("gateway", &["localhost", "127.0.0.1"]);
            let (certificate, key) = (leaf.certificate.display(), leaf.key.display());
            let clients = if self.asks_certificate {
                let lists = if self.asks_lists {
                    format!(", client_crls = [\"{}\"]", authority.list().display())
                } else {
                    String::new()
                };
                format!(", client_ca = \"{}\", client_certificate = \"optional\"{lists}", authority.file().display())
            } else {
                String::new()
            };
            writeln!(text, "tls = {{ certificate = \"{certificate}\", key = \"{key}\"{clients} }}").unwrap();
        }
        text.push_str(&self.gateway);
        writeln!(text, "\n[audit]").unwrap();
        if !self.audit.contains("directory") {
            writeln!(text, "directory = \"{}\"", self.folder.join("audit").display()).unwrap();
        }
        if !self.audit.contains("wait_max_ms") {
            // A disk that is busy with others is nothing that a test wants to see, unless it says so.
            text.push_str("wait_max_ms = 30000\n");
        }
        text.push_str(&self.audit);
        if !self.rest.contains("[telemetry]") {
            writeln!(text, "\n[telemetry]\notlp = \"{}\"\nsample_ratio = 1.0", self.collector.origin()).unwrap();
        }
        text.push_str(&self.rest);
        let file = self.folder.join("upstreams.toml");
        fs::write(&file, text).unwrap();
        file
    }

    /// Starts the gateway and waits until it is ready.
    pub(crate) fn start(self) -> Gateway {
        let gateway = self.launch();
        gateway.ready()
    }

    /// Starts the gateway and does not wait.
    pub(crate) fn launch(self) -> Gateway {
        self.write();
        let process = self.spawn("gateway", &[]);
        let tls = self.authority.as_ref().map(|authority| authority.client(&["http/1.1"]));
        let left = Left(self.folder.clone());
        Gateway { setup: self, process, tls, left }
    }

    fn spawn(&self, name: &str, more: &[&str]) -> Process {
        let mut command = tollgate(&["serve", "--config"]);
        // A gateway that a test kills keeps few spans back.
        command.env("OTEL_BSP_SCHEDULE_DELAY", "100");
        command.arg(self.folder.join("upstreams.toml")).args(more).envs(self.environment.iter().cloned());
        Process::start(name, &self.folder, command)
    }
}

/// A running gateway.
pub(crate) struct Gateway {
    setup: Setup,
    pub(crate) process: Process,
    tls: Option<Arc<ClientConfig>>,
    left: Left,
}

/// What a gateway leaves behind: its output, its journal and its state, in which nobody's credential may be read.
struct Left(PathBuf);

impl Drop for Left {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        let outputs = ["gateway.out", "gateway.err", "successor.out", "successor.err"];
        let mut files: Vec<PathBuf> = outputs.iter().map(|file| self.0.join(file)).collect();
        files.extend(["audit", "state"].iter().flat_map(|folder| all_in(&self.0.join(folder))));
        for file in files {
            let leaked = leaks::found_in(&fs::read(&file).unwrap_or_default());
            assert_eq!(leaked, None, "a part of a caller's credential is in {}", file.display());
        }
    }
}

/// Every file below `folder`.
fn all_in(folder: &Path) -> Vec<PathBuf> {
    let (folders, mut files): (Vec<PathBuf>, Vec<PathBuf>) =
        entries(folder).into_iter().partition(|entry| entry.is_dir());
    files.extend(folders.iter().flat_map(|folder| all_in(folder)));
    files
}

impl Gateway {
    fn ready(mut self) -> Self {
        let readiness = format!("{}/readyz", self.admin());
        let address: std::net::SocketAddr = ([127, 0, 0, 1], self.setup.admin_port).into();
        self.process.until(place::DISK_PATIENCE, |_| {
            std::net::TcpStream::connect(address).ok()?;
            (http::fetch("GET", &readiness, &[], b"").status() == 200).then_some(())
        });
        self
    }

    /// What it was set up with.
    pub(crate) fn setup(&self) -> &Setup {
        &self.setup
    }

    /// The URL of an endpoint; `None` is the federated one.
    pub(crate) fn endpoint(&self, upstream: Option<&str>) -> String {
        self.setup.endpoint(upstream)
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> std::net::SocketAddr {
        ([127, 0, 0, 1], self.setup.port).into()
    }

    /// `http://127.0.0.1:PORT` of the admin listener.
    pub(crate) fn admin(&self) -> String {
        format!("http://127.0.0.1:{}", self.setup.admin_port)
    }

    /// The status of `/readyz`.
    pub(crate) fn readiness(&self) -> u16 {
        http::fetch("GET", &format!("{}/readyz", self.admin()), &[], b"").status()
    }

    /// The value of the first metric line that begins so.
    pub(crate) fn metric(&self, begins: &str) -> Option<f64> {
        let text = http::fetch("GET", &format!("{}/metrics", self.admin()), &[], b"").text();
        let line = text.lines().find(|line| line.starts_with(begins))?;
        line.rsplit(' ').next()?.parse().ok()
    }

    /// Waits until nobody is connected any more.
    pub(crate) fn deserted(&self) {
        place::wait_for("the end of all connections", place::PATIENCE, || {
            // Who asks is connected, too.
            (self.metric("tollgate_connections ") == Some(1.0)).then_some(())
        });
    }

    /// A client of an endpoint, without a token.
    pub(crate) fn client(&self, upstream: Option<&str>) -> Client {
        let client = Client::new(&self.endpoint(upstream));
        self.tls.as_ref().map_or(client.clone(), |tls| client.tls(tls))
    }

    /// A client of an endpoint that shows this certificate.
    pub(crate) fn client_showing(&self, upstream: Option<&str>, leaf: &Leaf) -> Client {
        leaks::remember_certificate(leaf);
        Client::new(&self.endpoint(upstream)).tls(&self.setup.authority().client_showing(&["http/1.1"], Some(leaf)))
    }

    /// A client of an endpoint, with a good token of `issuer` for `user`.
    pub(crate) fn client_of(&self, upstream: Option<&str>, issuer: &Issuer, user: &str) -> Client {
        self.client(upstream).token(&issuer.token(user, &self.endpoint(upstream)))
    }

    /// TLS as its clients have it.
    pub(crate) fn tls(&self) -> Option<&Arc<ClientConfig>> {
        self.tls.as_ref()
    }

    /// The authority behind its certificate, as a PEM file.
    pub(crate) fn authority(&self) -> Option<PathBuf> {
        self.setup.authority.as_ref().map(Authority::file)
    }

    /// The folder of its journal.
    pub(crate) fn journal_folder(&self) -> PathBuf {
        self.setup.folder.join("audit")
    }

    /// The records of its journal, in order.
    pub(crate) fn journal(&self) -> Vec<Value> {
        records(&self.journal_folder())
    }

    /// Waits until this many records of this event are in the journal, and gives all of them: what does not hold a call
    /// up is written when the answer may already be there.
    pub(crate) fn recorded(&self, event: &str, count: usize) -> Vec<Value> {
        place::wait_for(&format!("{count} records of `{event}`"), place::DISK_PATIENCE, || {
            let found: Vec<Value> = self.journal().into_iter().filter(|record| record["event"] == event).collect();
            (found.len() >= count).then_some(found)
        })
    }

    /// Changes its configuration, and waits until that is in force.
    pub(crate) fn reconfigure(&self, change: impl FnOnce(&str) -> String) {
        let file = self.setup.folder.join("upstreams.toml");
        let before = fs::read_to_string(&file).unwrap();
        let after = change(&before);
        assert_ne!(before, after, "nothing would change");
        self.change("config", &file, &after);
    }

    /// Writes this into a file of its policies, and waits until that is in force.
    pub(crate) fn rule(&self, file: &str, text: &str) {
        self.change("policy", &self.setup.folder.join("policies").join(file), text);
    }

    fn change(&self, event: &str, file: &Path, text: &str) {
        let before = self.recorded(event, 0).len();
        place::replace(file, text);
        let change = place::wait_for(&format!("the change of {}", file.display()), place::DISK_PATIENCE, || {
            self.recorded(event, 0).into_iter().nth(before)
        });
        assert_eq!(change["change"]["outcome"], "applied", "{change}");
    }

    /// `tollgate keys` with these words, on its configuration: what it printed. It has to succeed.
    pub(crate) fn keys(&self, words: &str) -> String {
        let mut command = tollgate(&["keys"]);
        command.args(words.split(' ')).arg("--config").arg(self.setup.folder.join("upstreams.toml"));
        let output = command.envs(self.setup.environment.iter().cloned()).output().unwrap();
        assert!(output.status.success(), "{words}: {}", String::from_utf8_lossy(&output.stderr));
        let printed = String::from_utf8(output.stdout).unwrap().trim_end().to_owned();
        if words.starts_with("new") {
            leaks::remember_own(&printed);
            leaks::remember_own(printed.split('_').nth(2).unwrap_or_default());
        }
        printed
    }

    /// A new key, made with these words of `tollgate keys new`, once the gateway takes it.
    pub(crate) fn key(&self, words: &str) -> String {
        let key = self.keys(&format!("new {words}"));
        let endpoint = words.split_once("--upstream ").map(|(_, id)| id);
        let client = self.client(endpoint).token(&key);
        place::wait_for("the new key", place::DISK_PATIENCE, || {
            (client.modern("tools/list", &serde_json::json!({})).status() != 401).then_some(())
        });
        key
    }

    /// `tollgate audit verify` over its journal.
    pub(crate) fn verify(&self) -> Output {
        tollgate(&["audit", "verify"]).arg(self.journal_folder()).output().unwrap()
    }

    /// Ends it as an administrator does, and waits.
    pub(crate) fn stop(&mut self) {
        self.process.terminate();
        self.process.wait(place::DISK_PATIENCE);
    }

    /// Starts it again on the same ports, folder and journal, once it has ended.
    pub(crate) fn again(self) -> Self {
        let Self { setup, process, tls, left } = self;
        drop(process);
        let process = setup.spawn("gateway", &[]);
        Self { setup, process, tls, left }.ready()
    }

    /// Starts one that waits for this one's sockets, of the same configuration, and does not wait for it.
    pub(crate) fn successor(&self) -> Process {
        self.setup.spawn("successor", &["--upgrade"])
    }
}

/// The records of a journal folder, lane by lane, in order; a torn last line is left out.
pub(crate) fn records(folder: &Path) -> Vec<Value> {
    let text: Vec<String> = segments(folder).iter().map(|file| lossy(file)).collect();
    text.iter().flat_map(|text| text.lines()).filter_map(|line| serde_json::from_str(line).ok()).collect()
}

/// The segments of a journal folder, lane by lane, in order.
pub(crate) fn segments(folder: &Path) -> Vec<PathBuf> {
    let begins =
        |path: &PathBuf, with: &str| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(with));
    let mut lanes = entries(folder);
    lanes.retain(|lane| begins(lane, "lane-"));
    let mut files: Vec<PathBuf> = lanes.iter().flat_map(|lane| entries(lane)).collect();
    files.retain(|file| begins(file, "segment-"));
    files
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).map(|entries| entries.map(|entry| entry.unwrap().path()).collect());
    let mut entries: Vec<PathBuf> = entries.unwrap_or_default();
    entries.sort();
    entries
}

fn lossy(file: &Path) -> String {
    String::from_utf8_lossy(&fs::read(file).unwrap_or_default()).into_owned()
}

/// The shipped binary with these arguments.
pub(crate) fn tollgate(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tollgate"));
    command.args(arguments).env_remove("OTEL_EXPORTER_OTLP_ENDPOINT");
    command
}
