//! Who takes part in the load run, and what do they cost?
//!
//! nginx and haproxy as plain TLS reverse proxies, Tollgate with everything on, each as its own process on a core of its
//! own; and the upstream itself, called directly. Figures are the kernel's, of the proxy's processes only.

use std::{
    collections::HashMap,
    fs,
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, OnceLock},
    time::Duration,
};

use jsonwebtoken::Algorithm;
use parking_lot::Mutex;
use rustls::pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;
use tollgate::refusal::Era;

use crate::{
    certificates::Authority,
    estate::{self, Callers, Estate, Grant},
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
    /// The headers that say who asks.
    shown: Arc<[String]>,
}

/// What the parties have in common.
pub struct Stage {
    folder: tempfile::TempDir,
    upstream: SocketAddr,
    collector: SocketAddr,
    pub issuer: Issuer,
    pub authority: Authority,
    tls: TlsConnector,
}

/// What each thread of a process had run at some moment, in ns.
pub struct Ran(HashMap<String, f64>);

impl Parties {
    /// Starts everybody; Tollgate once with each number of `policies`, the middle one also with `fsync`.
    pub async fn start(policies: &[usize]) -> Self {
        let stage = Stage::new().await;
        let mut all = vec![stage.direct(), stage.nginx(), stage.haproxy()];
        for (place, count) in policies.iter().enumerate() {
            let party = stage.tollgate(&format!("tollgate, {count} policies"), *count, "os", Era::Modern);
            let middle = place == policies.len() / 2;
            let arguments = middle.then(|| party.reading_arguments("  a policy reads arguments"));
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
        let call = match self.client {
            Era::Modern => self.modern_call(),
            Era::Legacy => {
                let session = self.begin(&mut connection).await;
                self.request("POST", &in_session(&session), &estate::body(Era::Legacy, self.tool, TRACE))
            }
        };
        (connection, call)
    }

    /// The bytes of a modern client's call.
    pub fn modern_call(&self) -> Arc<[u8]> {
        self.call(self.tool, &estate::body(Era::Modern, self.tool, TRACE))
    }

    /// The bytes of a question that anybody may ask: where tokens for this party come from (RFC 9728).
    pub fn anybodys(&self) -> Arc<[u8]> {
        let head = format!("GET /.well-known/oauth-protected-resource/mcp HTTP/1.1\r\nhost: {}\r\n\r\n", self.address);
        Arc::from(head.into_bytes())
    }

    /// The same party, asked by whoever shows these headers.
    pub fn shown(&self, headers: Vec<String>) -> Self {
        Self { shown: Arc::from(headers), ..self.clone() }
    }

    /// The same party, reached in this way.
    pub fn through(&self, tls: TlsConnector) -> Self {
        Self { tls: Some(tls), ..self.clone() }
    }

    /// Of whom a token for it has to speak, and the URL that a proof is made for.
    pub fn resource(&self) -> String {
        audience(self.address)
    }

    /// The same party, asked by a client of this era.
    pub fn asked_by(&self, client: Era, name: &str) -> Self {
        Self { name: name.to_owned(), client, ..self.clone() }
    }

    /// The same party, asked for what a policy decides by the arguments.
    pub fn reading_arguments(&self, name: &str) -> Self {
        Self { name: name.to_owned(), tool: "pay", ..self.clone() }
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
        ];
        head.extend_from_slice(&self.shown);
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

    /// What its threads have run until now: finer than [`Party::cpu_us`], for turns that are too short for that.
    pub fn ran(&self) -> Ran {
        self.process.as_ref().expect("a process").ran()
    }

    /// CPU time since then, in µs.
    pub fn ran_us_since(&self, before: &Ran) -> f64 {
        let Ran(now) = self.ran();
        now.iter().map(|(thread, ran)| ran - before.0.get(thread).unwrap_or(&0.0)).sum::<f64>() / 1_000.0
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
        names.map(|name| value(&metrics, name).unwrap_or_else(|| panic!("no {name} in {metrics}")))
    }

    /// What a Tollgate has counted so far, under each of these names with its labels; what never happened has none.
    pub async fn counters<const N: usize>(&self, names: [&str; N]) -> [usize; N] {
        let metrics = metrics(self.admin.expect("a Tollgate")).await;
        names.map(|name| value(&metrics, name).unwrap_or(0))
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
        let authority = Authority::new(folder.path());
        Self {
            upstream: peers::upstream().await,
            collector: peers::collector().await,
            issuer: Issuer::start(&[Algorithm::ES256, Algorithm::RS256]).await,
            tls: authority.trusted(),
            authority,
            folder,
        }
    }

    /// Everything on; what one Tollgate is told otherwise than another, its caller says.
    pub fn estate(&self) -> Estate {
        Estate {
            listen: free_address(),
            admin: free_address(),
            upstream: self.upstream,
            era: Era::Modern,
            issuer: self.issuer.url.clone(),
            collector: Some(self.collector),
            certificates: Some(self.folder.path().to_owned()),
            durability: "os",
            policies: 100,
            callers: Callers::Tokens,
            grant: Grant::Exchange,
        }
    }

    /// The same party, asked by somebody who is nobody else.
    pub fn asked_by_caller(&self, party: &Party, number: usize) -> Party {
        let groups = estate::GROUPS.map(str::to_owned);
        let token = self.issuer.token(&party.resource(), &format!("caller-{number}"), &groups);
        party.shown(vec![bearer(&token)])
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
            shown: Arc::from([bearer(&self.issuer.caller(&audience(address)))]),
        }
    }

    pub fn nginx(&self) -> Party {
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
        self.open(name, &Estate { policies, durability, era, ..self.estate() })
    }

    /// A Tollgate before `estate`.
    pub fn open(&self, name: &str, estate: &Estate) -> Party {
        self.open_with(program(), name, estate)
    }

    /// The Tollgate of this program before `estate`.
    pub fn open_with(&self, program: &str, name: &str, estate: &Estate) -> Party {
        let folder = self.configured(estate.listen);
        estate.write(&folder);
        let process = Process::start(&folder, program, &["serve", "--config", "upstreams.toml"]);
        let party = self.party(name, Some(process), estate.listen, Some(self.tls.clone()));
        Party { admin: Some(estate.admin), ..party }
    }

    /// Where the `upstreams.toml` of the Tollgate at `address` is.
    pub fn configured(&self, address: SocketAddr) -> PathBuf {
        self.folder.path().join(format!("tollgate-{}", address.port()))
    }
}

/// Of whom a token for the Tollgate there has to speak.
fn audience(address: SocketAddr) -> String {
    format!("https://{address}/mcp")
}

/// How a token is shown (RFC 6750 §2.1).
pub fn bearer(token: &str) -> String {
    format!("authorization: Bearer {token}")
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

fn value(metrics: &str, name: &str) -> Option<usize> {
    metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
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

    /// The first of `schedstat`, for each thread that there is (proc(5)).
    fn ran(&self) -> Ran {
        let tasks = self.ids().into_iter().flat_map(|id| fs::read_dir(format!("/proc/{id}/task")).unwrap());
        let ran = tasks.filter_map(|task| {
            let path = task.ok()?.path();
            // A thread may end meanwhile.
            let text = fs::read_to_string(path.join("schedstat")).ok()?;
            Some((path.file_name()?.to_string_lossy().into_owned(), text.split(' ').next()?.parse().ok()?))
        });
        Ran(ran.collect())
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
        if let Some(ending) = ENDING.lock().as_mut() {
            return ending.push(self.child.id());
        }
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

/// The Tollgate that is asked: `--program`, or that of the bench's own profile.
pub fn program() -> &'static str {
    PROGRAM.get().map_or(env!("CARGO_BIN_EXE_tollgate"), String::as_str)
}

/// Set once, before anything starts.
pub static PROGRAM: OnceLock<String> = OnceLock::new();

/// From here on, who is told to end does so in its own time: a program that counts writes that down last, and its peers are
/// here, who cannot answer it while somebody waits for it.
pub fn let_end() {
    *ENDING.lock() = Some(Vec::new());
}

/// Waits until all of them have ended.
pub async fn ended() {
    let ending = ENDING.lock().take().unwrap_or_default();
    let lives = |id: &u32| {
        let stat = fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
        stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.starts_with(" Z"))
    };
    for _ in 0..600 {
        if !ending.iter().any(lives) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("told to end and still there after a minute: {ending:?}");
}

/// Processes that were told to end, where nobody waits for each.
static ENDING: Mutex<Option<Vec<u32>>> = Mutex::new(None);

pub fn cores() -> usize {
    fs::read_to_string("/proc/cpuinfo").unwrap().lines().filter(|line| line.starts_with("processor")).count()
}

/// Whether `program` is on the `PATH`.
pub fn installed(program: &str) -> bool {
    Command::new("sh").args(["-c", &format!("command -v {program}")]).stdout(Stdio::null()).status().unwrap().success()
}

/// An address that nobody listens at, and that was not given before: the kernel may offer one twice.
pub fn free_address() -> SocketAddr {
    static GIVEN: Mutex<Vec<SocketAddr>> = Mutex::new(Vec::new());
    let mut given = GIVEN.lock();
    let mut offers = std::iter::repeat_with(|| TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap());
    let address = offers.find(|offer| !given.contains(offer)).unwrap();
    given.push(address);
    address
}

/// Ends the run where a process may not have so many connections, in and out. What is started here is bound by the same.
pub fn need_files(connections: usize) {
    let limits = fs::read_to_string("/proc/self/limits").unwrap();
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files")).unwrap();
    let max = line.split_whitespace().next().unwrap().parse().unwrap_or(usize::MAX);
    let files = connections + FILES_BESIDES;
    if max < files {
        eprintln!(
            "{connections} connections take {files} open files, and a process may have {max}: `ulimit -n {files}`, or fewer"
        );
        std::process::exit(1);
    }
}

/// Files of the gateway and of this process that are no client's.
const FILES_BESIDES: usize = 100;
/// Of a caller that is not traced.
const TRACE: &str = r#""traceparent":"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00""#;
