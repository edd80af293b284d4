//! Who takes part in the load run, and what do they cost?
//!
//! nginx and haproxy as plain TLS reverse proxies, Tollgate with everything on, each as its own process on a core of its
//! own; and the upstream itself, called directly. Figures are the kernel's, of the proxy's processes only.

use std::{
    fs,
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use rustls::{ClientConfig, RootCertStore, pki_types::ServerName};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;
use tollgate::refusal::Era;

use crate::{
    estate::{self, Estate, private},
    peers::{self, Issuer},
    wire::Wire,
};

/// Either kind of connection, towards either kind of party.
pub trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

/// A connection to a party.
pub type Connection = Wire<Box<dyn Stream>>;

/// Everybody in the run.
pub struct Parties {
    pub all: Vec<Party>,
    _stage: Stage,
}

/// One way to make the same call.
#[derive(Clone)]
pub struct Party {
    pub name: String,
    process: Option<Arc<Process>>,
    address: SocketAddr,
    /// Where its metrics are, where it has any.
    admin: Option<SocketAddr>,
    tls: Option<TlsConnector>,
    /// What its client speaks.
    client: Era,
    tool: &'static str,
    token: Arc<str>,
}

/// What the parties have in common.
pub struct Stage {
    folder: tempfile::TempDir,
    upstream: SocketAddr,
    collector: SocketAddr,
    issuer: Issuer,
    tls: TlsConnector,
}

impl Parties {
    /// Starts everybody; Tollgate once with each number of `policies`, the middle one also with `fsync`.
    pub async fn start(policies: &[usize]) -> Self {
        let stage = Stage::new().await;
        let mut all = vec![stage.direct(), stage.nginx(), stage.haproxy()];
        for (place, count) in policies.iter().enumerate() {
            let party = stage.tollgate(&format!("tollgate, {count} policies"), *count, "os", Era::Modern);
            let middle = place == policies.len() / 2;
            let arguments =
                middle.then(|| Party { name: "  a policy reads arguments".to_owned(), tool: "pay", ..party.clone() });
            all.push(party);
            all.extend(arguments);
            if middle {
                all.push(stage.tollgate("  durability = fsync", *count, "fsync", Era::Modern));
            }
        }
        for party in &all {
            party.ready().await;
        }
        Self { all, _stage: stage }
    }
}

impl Party {
    pub async fn connect(&self) -> Connection {
        let stream = TcpStream::connect(self.address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        match &self.tls {
            None => Wire::new(Box::new(stream)),
            Some(tls) => {
                let name = ServerName::try_from("127.0.0.1").unwrap();
                Wire::new(Box::new(tls.connect(name, stream).await.unwrap()))
            }
        }
    }

    /// A connection on which a client has begun as its era does, and the bytes of its call.
    pub async fn client(&self) -> (Connection, Arc<[u8]>) {
        let mut connection = self.connect().await;
        let body = estate::body(self.client, self.tool, TRACE);
        let call = match self.client {
            Era::Modern => self.call(self.tool, &body),
            Era::Legacy => {
                let session = self.begin(&mut connection).await;
                self.request("POST", &in_session(&session), &body)
            }
        };
        (connection, call)
    }

    /// The same party, asked by a client of this era.
    pub fn asked_by(&self, client: Era, name: &str) -> Self {
        Self { name: name.to_owned(), client, ..self.clone() }
    }

    /// Begins a legacy session; its id.
    pub async fn begin(&self, connection: &mut Connection) -> String {
        connection.send(&self.request("POST", &[], estate::INITIALIZE)).await;
        let answer = connection.receive().await.expect("the connection closed");
        let session = answer.header("mcp-session-id").map(str::to_owned);
        let session = session.unwrap_or_else(|| panic!("no session: HTTP {}: {}", answer.status(), answer.text()));
        connection.send(&self.request("POST", &in_session(&session), estate::INITIALIZED)).await;
        let answer = connection.receive().await.expect("the connection closed");
        assert_eq!(answer.status(), 202, "{}", answer.text());
        session
    }

    /// The bytes of a call that is answered with a stream which stays open.
    pub fn stream_call(&self) -> Arc<[u8]> {
        self.call("hold", &estate::body(Era::Modern, "hold", r#""progressToken":1"#))
    }

    /// The bytes of a request for the stream of a session.
    pub fn session_stream(&self, session: &str) -> Arc<[u8]> {
        self.request("GET", &in_session(session), "")
    }

    /// The bytes of a modern request that is about no tool.
    pub fn modern(&self, method: &str, params: &str) -> Arc<[u8]> {
        let own = [format!("mcp-protocol-version: {}", estate::MODERN), format!("mcp-method: {method}")];
        self.request("POST", &own, &estate::request(method, params))
    }

    fn call(&self, tool: &str, body: &str) -> Arc<[u8]> {
        let own = [
            format!("mcp-protocol-version: {}", estate::MODERN),
            "mcp-method: tools/call".to_owned(),
            format!("mcp-name: bench__{tool}"),
        ];
        self.request("POST", &own, body)
    }

    fn request(&self, verb: &str, own: &[String], body: &str) -> Arc<[u8]> {
        let mut head = vec![
            format!("{verb} /mcp HTTP/1.1"),
            format!("host: {}", self.address),
            "accept: application/json, text/event-stream".to_owned(),
            format!("authorization: Bearer {}", self.token),
        ];
        if !body.is_empty() {
            head.push("content-type: application/json".to_owned());
            head.push(format!("content-length: {}", body.len()));
        }
        head.extend_from_slice(own);
        Arc::from(format!("{}\r\n\r\n{body}", head.join("\r\n")).into_bytes())
    }

    /// CPU time that the party's processes have used, in µs; nothing for a call that no proxy is in.
    pub fn cpu_us(&self) -> f64 {
        self.process.as_ref().map_or(0.0, |process| process.cpu_us())
    }

    /// Memory that the party's largest process holds, in MiB: the worker, where there is a master beside it.
    pub fn rss_mib(&self) -> f64 {
        self.process.as_ref().map_or(0.0, |process| process.rss_mib())
    }

    /// Whether there is a process of its own to look at; a second party on the same one has nothing to add.
    pub fn has_memory(&self) -> bool {
        self.process.is_some() && self.tool == "echo"
    }

    pub fn process_id(&self) -> u32 {
        self.process.as_ref().unwrap().child.id()
    }

    /// What a Tollgate counts just now, under each of these names.
    pub async fn gauges<const N: usize>(&self, names: [&str; N]) -> [usize; N] {
        let metrics = metrics(self.admin.expect("a Tollgate")).await;
        let value = |name| metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok());
        names.map(|name| value(name).unwrap_or_else(|| panic!("no {name} in {metrics}")))
    }

    /// Waits until a call succeeds. A modern client's does not begin with a session, which would be one too many.
    pub async fn ready(&self) {
        let mut last = String::from("it does not listen");
        for _ in 0..150 {
            tokio::time::sleep(Duration::from_millis(100)).await;
            if TcpStream::connect(self.address).await.is_err() {
                continue;
            }
            let (mut connection, call) = self.asked_by(Era::Modern, &self.name).client().await;
            connection.send(&call).await;
            let Some(answer) = connection.receive().await else { continue };
            if answer.status() == 200 && answer.text().contains("\"result\"") {
                return;
            }
            last = format!("HTTP {}: {}", answer.status(), answer.text());
        }
        let log = self.process.as_ref().map(|process| process.output()).unwrap_or_default();
        panic!("{} does not answer: {last}\n{log}", self.name);
    }
}

impl Stage {
    pub async fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("load-").tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        Self {
            upstream: peers::upstream().await,
            collector: peers::collector().await,
            issuer: Issuer::start().await,
            tls: certificates(folder.path()),
            folder,
        }
    }

    /// The same party, asked by somebody who is nobody else.
    pub fn asked_by_caller(&self, party: &Party, number: usize) -> Party {
        let groups = ["staff", "support", "emea", "oncall"].map(str::to_owned);
        let token = self.issuer.token(&audience(party.address), &format!("caller-{number}"), &groups);
        Party { token: Arc::from(token), ..party.clone() }
    }

    fn direct(&self) -> Party {
        self.party("direct, no TLS", None, self.upstream, None)
    }

    fn party(&self, name: &str, process: Option<Process>, address: SocketAddr, tls: Option<TlsConnector>) -> Party {
        Party {
            name: name.to_owned(),
            process: process.map(Arc::new),
            address,
            admin: None,
            tls,
            client: Era::Modern,
            tool: "echo",
            token: Arc::from(self.issuer.caller(&audience(address))),
        }
    }

    fn nginx(&self) -> Party {
        let (address, folder) = (free_address(), self.folder.path().join("nginx"));
        fs::create_dir(&folder).unwrap();
        let (up, certificates) = (self.upstream, self.folder.path().display());
        let configuration = format!(
            "daemon off;
user root;
worker_processes 1;
pid nginx.pid;
error_log error.log;
events {{ worker_connections 4096; }}
http {{
  access_log off;
  client_body_temp_path body;
  proxy_temp_path proxy;
  fastcgi_temp_path fastcgi;
  uwsgi_temp_path uwsgi;
  scgi_temp_path scgi;
  keepalive_requests 1000000000;
  upstream up {{ server {up}; keepalive 256; keepalive_requests 1000000000; }}
  server {{
    listen {address} ssl;
    ssl_certificate {certificates}/tls.crt;
    ssl_certificate_key {certificates}/tls.key;
    ssl_protocols TLSv1.2 TLSv1.3;
    location / {{
      proxy_pass http://up;
      proxy_http_version 1.1;
      proxy_set_header Connection \"\";
      proxy_read_timeout 300s;
    }}
  }}
}}
"
        );
        fs::write(folder.join("nginx.conf"), configuration).unwrap();
        let process = Process::start(&folder, "nginx", &["-p", ".", "-c", "nginx.conf", "-e", "error.log"]);
        self.party("nginx", Some(process), address, Some(self.tls.clone()))
    }

    fn haproxy(&self) -> Party {
        let (address, folder) = (free_address(), self.folder.path().join("haproxy"));
        fs::create_dir(&folder).unwrap();
        let (up, certificates) = (self.upstream, self.folder.path().display());
        let configuration = format!(
            "global
  nbthread 1
  maxconn 4096
defaults
  mode http
  timeout connect 5s
  timeout client 300s
  timeout server 300s
  http-reuse always
frontend in
  bind {address} ssl crt {certificates}/both.pem alpn http/1.1
  default_backend up
backend up
  server up {up}
"
        );
        fs::write(folder.join("haproxy.cfg"), configuration).unwrap();
        let process = Process::start(&folder, "haproxy", &["-db", "-f", "haproxy.cfg"]);
        self.party("haproxy", Some(process), address, Some(self.tls.clone()))
    }

    /// Everything on.
    pub fn tollgate(&self, name: &str, policies: usize, durability: &'static str, era: Era) -> Party {
        let (address, admin) = (free_address(), free_address());
        let folder = self.folder.path().join(format!("tollgate-{}", address.port()));
        let estate = Estate {
            listen: address,
            admin,
            upstream: self.upstream,
            era,
            issuer: self.issuer.url.clone(),
            collector: Some(self.collector),
            certificates: Some(self.folder.path().to_owned()),
            durability,
            policies,
        };
        estate.write(&folder);
        let binary = env!("CARGO_BIN_EXE_tollgate");
        let process = Process::start(&folder, binary, &["serve", "--config", "upstreams.toml"]);
        Party { admin: Some(admin), ..self.party(name, Some(process), address, Some(self.tls.clone())) }
    }
}

/// Of whom a token for the Tollgate there has to speak.
fn audience(address: SocketAddr) -> String {
    format!("https://{address}/mcp")
}

fn in_session(id: &str) -> [String; 2] {
    [format!("mcp-protocol-version: {}", estate::LEGACY), format!("mcp-session-id: {id}")]
}

/// What a Tollgate counts, as text.
pub async fn metrics(admin: SocketAddr) -> String {
    let mut wire = Wire::new(TcpStream::connect(admin).await.unwrap());
    wire.send(format!("GET /metrics HTTP/1.1\r\nhost: {admin}\r\n\r\n").as_bytes()).await;
    wire.receive().await.expect("metrics").text().to_owned()
}

/// A proxy's process, ended when dropped.
pub struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// On core 1, where there is one: load and upstream have core 0 (see `load.rs`).
    pub fn start(folder: &Path, program: &str, arguments: &[&str]) -> Self {
        let log = folder.join("output.log");
        let output = fs::File::create(&log).unwrap();
        let mut command = Command::new("taskset");
        command.args(["-c", if cores() > 1 { "1" } else { "0" }, program]).args(arguments);
        command.current_dir(folder).stdin(Stdio::null());
        let child = command.stdout(output.try_clone().unwrap()).stderr(output).spawn();
        Self { child: child.expect("`taskset` is missing: apt-get install util-linux"), log }
    }

    /// The process and its children (nginx has a master and a worker).
    fn ids(&self) -> Vec<u32> {
        let id = self.child.id();
        let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap_or_default();
        std::iter::once(id).chain(children.split_whitespace().map(|child| child.parse().unwrap())).collect()
    }

    /// What it said.
    pub fn output(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    /// `utime` and `stime` of proc_pid_stat(5), in ticks of 10 ms.
    pub fn cpu_us(&self) -> f64 {
        let ticks = |id: u32| {
            let stat = fs::read_to_string(format!("/proc/{id}/stat")).unwrap();
            let after_name = stat.rsplit_once(')').unwrap().1;
            after_name.split_whitespace().skip(11).take(2).map(|ticks| ticks.parse::<f64>().unwrap()).sum::<f64>()
        };
        self.ids().into_iter().map(ticks).sum::<f64>() * 10_000.0
    }

    pub fn rss_mib(&self) -> f64 {
        let kib = |id: u32| {
            let rollup = fs::read_to_string(format!("/proc/{id}/smaps_rollup")).unwrap();
            let line = rollup.lines().find(|line| line.starts_with("Rss:")).unwrap();
            line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap()
        };
        self.ids().into_iter().map(kib).fold(0.0, f64::max) / 1_024.0
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let id = self.child.id().to_string();
        // nginx ends its worker on SIGTERM, and would leave it behind on SIGKILL.
        drop(Command::new("kill").args(["-TERM", &id]).status());
        for _ in 0..20 {
            if matches!(self.child.try_wait(), Ok(Some(_))) {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

pub fn cores() -> usize {
    fs::read_to_string("/proc/cpuinfo").unwrap().lines().filter(|line| line.starts_with("processor")).count()
}

/// Whether `program` is on the `PATH`.
pub fn installed(program: &str) -> bool {
    Command::new("sh").args(["-c", &format!("command -v {program}")]).stdout(Stdio::null()).status().unwrap().success()
}

pub fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// How many files a process may have open. What is started here is bound by the same.
pub fn files_max() -> usize {
    let limits = fs::read_to_string("/proc/self/limits").unwrap();
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files")).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap_or(usize::MAX)
}

/// An authority, a certificate by it in `folder`, and who trusts it.
pub fn certificates(folder: &Path) -> TlsConnector {
    let ca_key = rcgen::KeyPair::generate().unwrap();
    let mut ca = rcgen::CertificateParams::new(Vec::new()).unwrap();
    ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let root = ca.self_signed(&ca_key).unwrap();
    let authority = rcgen::Issuer::new(ca, ca_key);
    let key = rcgen::KeyPair::generate().unwrap();
    let leaf = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned(), "localhost".to_owned()]).unwrap();
    let leaf = leaf.signed_by(&key, &authority).unwrap();
    fs::write(folder.join("tls.crt"), leaf.pem()).unwrap();
    fs::write(folder.join("tls.key"), key.serialize_pem()).unwrap();
    fs::write(folder.join("both.pem"), format!("{}{}", leaf.pem(), key.serialize_pem())).unwrap();
    private(&folder.join("tls.key"));
    let mut roots = RootCertStore::empty();
    roots.add(root.der().clone()).unwrap();
    let mut config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    TlsConnector::from(Arc::new(config))
}

/// Of a caller that is not traced.
const TRACE: &str = r#""traceparent":"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00""#;
