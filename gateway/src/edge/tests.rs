//! The edge over real sockets, with a double in the gateway's place: pingora's server, real TLS, raw clients.

use std::{
    collections::{BTreeMap, HashMap},
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    sync::Arc,
    thread::JoinHandle,
    time::Duration,
};

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::{HeaderMap, Method};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use parking_lot::Mutex;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject};
use tempfile::TempDir;
use tokio::sync::{mpsc, watch};

use super::{
    Failure, Page, Pages,
    connection::Bounds,
    http::Inside,
    server::{Assembly, Background, Order, own_folder},
};
use crate::{
    clock,
    config::{ArgumentRecord, Audit, Config, Durability, Endpoint, Gateway, Limits, State, Telemetry, Tls, Tolerance},
    lifecycle::{Body, Head, Response},
    refusal::{Era, Refusal},
    tasks::Tasks,
};

/// In the gateway's place: echoes bodies, streams what the test sends, remembers what was refused.
#[derive(Debug, Default, Clone)]
pub(super) struct Double(Arc<Memory>);

#[derive(Debug, Default)]
struct Memory {
    refusals: Mutex<Vec<Refusal>>,
    endpoints: Mutex<Vec<Endpoint>>,
    certificates: Mutex<Vec<Option<String>>>,
    stream: Mutex<Option<mpsc::Receiver<Bytes>>>,
}

impl Double {
    pub(super) async fn handle(
        &self,
        head: Head,
        body: impl Future<Output = Result<Bytes, Refusal>> + Send,
    ) -> Response {
        let bytes = match body.await {
            Ok(bytes) => bytes,
            Err(refusal) => return self.refuse(head, refusal),
        };
        self.0.endpoints.lock().push(head.endpoint);
        self.0.certificates.lock().push(head.certificate.map(|shown| shown.thumbprint.clone()));
        let taken = if head.method == Method::GET { self.0.stream.lock().take() } else { None };
        let body = taken.map_or(Body::Whole(bytes), Body::Stream);
        Response { status: 200, headers: HeaderMap::new(), body }
    }

    pub(super) fn refuse(&self, _head: Head, refusal: Refusal) -> Response {
        let outside = refusal.outside(Era::Modern);
        self.0.refusals.lock().push(refusal);
        let body = Body::Whole(Bytes::from_static(outside.code.as_bytes()));
        Response { status: outside.status, headers: HeaderMap::new(), body }
    }

    fn refused(&self) -> Vec<Refusal> {
        std::mem::take(&mut self.0.refusals.lock())
    }

    fn certificates(&self) -> Vec<Option<String>> {
        self.0.certificates.lock().clone()
    }

    fn streams(&self) -> mpsc::Sender<Bytes> {
        let (sender, receiver) = mpsc::channel(4);
        *self.0.stream.lock() = Some(receiver);
        sender
    }
}

/// No test waits for longer than this for what has to come, and none fails because a machine is slow.
const LONG: Duration = Duration::from_secs(20);

/// A configuration with small limits of size; those of time are far off, unless the test changes them.
pub(super) fn config(change: impl FnOnce(&mut Config)) -> Arc<Config> {
    let any: SocketAddr = "192.0.2.1:443".parse().unwrap();
    let mut config = Config {
        egress: crate::config::Egress::default(),
        gateway: Gateway {
            public_url: "https://mcp.example.com".parse().unwrap(),
            listen: any,
            admin_listen: any,
            policies: PathBuf::new(),
            tls: None,
            allowed_origins: vec!["https://claude.ai".to_owned()],
            allowed_hosts: Vec::new(),
            audiences: Vec::new(),
            tolerate: Tolerance::usual(),
            prefix: crate::config::Prefix::Always,
            drain: Duration::from_secs(10),
            workers: 1,
            dpop: None,
        },
        issuers: Vec::new(),
        logins: Vec::new(),
        certificates: Vec::new(),
        audit: Audit {
            directory: PathBuf::new(),
            arguments: ArgumentRecord::Nothing,
            durability: Durability::Os,
            segment_bytes_max: 0,
            segment_age_max: Duration::ZERO,
            queue_max: 0,
            wait_max: Duration::ZERO,
            key: None,
        },
        telemetry: Telemetry { otlp: None, sample_ratio: 0.0, service_name: String::new() },
        limits: Limits {
            body_bytes_max: 1024,
            header_bytes_max: 8 * 1024,
            header_read: Duration::from_secs(10),
            body_read: Duration::from_secs(10),
            handshake: Duration::from_secs(10),
            idle: Duration::from_secs(60),
            connections_max: 64,
            streams_max: 8,
            json_depth_max: 0,
            json_nodes_max: 0,
            reply_bytes_max: 0,
            event_bytes_max: 0,
            stream_max: Duration::ZERO,
            stream_bytes_max: 0,
            calls_max: 0,
            sessions_max: 0,
            session_idle: Duration::ZERO,
            list_cache_bytes: 1 << 20,
            result_cache_bytes: 1 << 20,
            children_max: 4,
            listeners_max: 0,
            holds_max: 0,
            hold_max: Duration::ZERO,
            proofs_max: 0,
            connect_per_min: 60,
        },
        state: State::default(),
        keys: crate::config::Keys::default(),
        facade: None,
        upstreams: BTreeMap::new(),
        digest: String::new(),
    };
    change(&mut config);
    Arc::new(config)
}

/// A gateway's edge that runs.
struct Running {
    listen: SocketAddr,
    admin: SocketAddr,
    double: Double,
    orders: mpsc::Sender<Order>,
    thread: Option<JoinHandle<Result<(), Failure>>>,
    folder: Arc<TempDir>,
}

impl Running {
    fn start(change: impl FnOnce(&mut Config)) -> Self {
        let folder = Arc::new(tempfile::tempdir().unwrap());
        let [listen, admin] = free_addresses();
        Self::begin(folder, listen, admin, false, change)
    }

    /// With a certificate of the demo kind.
    fn start_tls(change: impl FnOnce(&mut Config)) -> Self {
        let folder = Arc::new(tempfile::tempdir().unwrap());
        let [listen, admin] = free_addresses();
        let files = certificate(&folder);
        Self::begin(folder, listen, admin, false, |config| {
            config.gateway.tls = Some(files);
            change(config);
        })
    }

    fn begin(
        folder: Arc<TempDir>,
        listen: SocketAddr,
        admin: SocketAddr,
        upgrade: bool,
        change: impl FnOnce(&mut Config),
    ) -> Self {
        drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
        let config = config(|config| {
            config.gateway.listen = listen;
            config.gateway.admin_listen = admin;
            change(config);
        });
        let double = Double::default();
        let (orders, receiver) = mpsc::channel(4);
        let (draining, drains) = watch::channel(false);
        let mut bounds = Bounds::of(&config.limits);
        bounds.stall = Duration::from_millis(400);
        let documents =
            HashMap::from([("/.well-known/oauth-protected-resource/mcp".to_owned(), Bytes::from("{\"a\":1}"))]);
        let assembly = Assembly {
            config,
            inside: Inside::Double(double.clone()),
            metadata: Arc::new(ArcSwap::from_pointee(documents)),
            pages: Pages::new(move |path| {
                let body = Bytes::from(drains.borrow().to_string());
                (path == "/draining").then_some(Page { status: 200, content_type: "text/plain", body })
            }),
            tasks: Tasks::default(),
            draining,
            background: Background(Mutex::new(Vec::new())),
            run_directory: folder.path().join("run"),
            upgrade,
            bounds,
        };
        let thread = Some(std::thread::spawn(move || assembly.run(receiver, None)));
        let mut running = Self { listen, admin, double, orders, thread, folder };
        if !upgrade {
            running.wait_until_open();
        }
        running
    }

    fn wait_until_open(&mut self) {
        let begin = clock::instant();
        while TcpStream::connect(self.listen).is_err() || TcpStream::connect(self.admin).is_err() {
            assert!(begin.elapsed() < LONG, "does not listen");
            if self.thread.as_ref().is_some_and(JoinHandle::is_finished) {
                panic!("ended: {:?}", self.thread.take().unwrap().join());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.listen).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        stream
    }

    /// Sends `text` on a connection of its own and reads to the end.
    fn send(&self, text: &str) -> String {
        let mut stream = self.connect();
        stream.write_all(text.as_bytes()).unwrap();
        to_end(&mut stream)
    }

    fn order(&self, order: Order) {
        self.orders.blocking_send(order).unwrap();
    }

    fn end(mut self) -> Result<(), Failure> {
        self.thread.take().unwrap().join().unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(thread) = self.thread.take() {
            for _ in 0..2 {
                self.orders.try_send(Order::Drain).ok();
            }
            drop(thread.join());
        }
    }
}

fn free_addresses() -> [SocketAddr; 2] {
    let held = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    held.map(|listener| listener.local_addr().unwrap())
}

/// Whatever comes until the connection ends, in whatever way.
fn to_end(stream: &mut impl Read) -> String {
    let mut bytes = Vec::new();
    let mut piece = [0; 4096];
    while let Ok(read @ 1..) = stream.read(&mut piece) {
        bytes.extend_from_slice(&piece[..read]);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn read_until(stream: &mut impl Read, end: &str) -> String {
    let mut bytes = Vec::new();
    let mut one = [0];
    while !bytes.ends_with(end.as_bytes()) {
        assert_eq!(stream.read(&mut one).unwrap(), 1, "ended early: {}", String::from_utf8_lossy(&bytes));
        bytes.push(one[0]);
    }
    String::from_utf8(bytes).unwrap()
}

fn certificate(folder: &TempDir) -> Tls {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let (certificate, key) = (folder.path().join("tls.crt"), folder.path().join("tls.key"));
    let files = Tls { certificate, key, client_ca: None, client_crls: Vec::new(), client_optional: false };
    std::fs::write(&files.key, made.signing_key.serialize_pem()).unwrap();
    std::fs::write(&files.certificate, made.cert.pem()).unwrap();
    files
}

/// A client that trusts the certificate in `folder` and shows it if `shows`.
fn client(folder: &TempDir, protocol: &[u8], shows: bool) -> Arc<rustls::ClientConfig> {
    let certificate = CertificateDer::from_pem_file(folder.path().join("tls.crt")).unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(certificate.clone()).unwrap();
    let builder = rustls::ClientConfig::builder().with_root_certificates(roots);
    let mut client = if shows {
        let key = PrivateKeyDer::from_pem_file(folder.path().join("tls.key")).unwrap();
        builder.with_client_auth_cert(vec![certificate], key).unwrap()
    } else {
        builder.with_no_client_auth()
    };
    client.alpn_protocols = vec![protocol.to_vec()];
    Arc::new(client)
}

type TlsStream = rustls::StreamOwned<rustls::ClientConnection, TcpStream>;

fn tls(running: &Running, client: Arc<rustls::ClientConfig>) -> TlsStream {
    let name = ServerName::try_from("localhost").unwrap();
    rustls::StreamOwned::new(rustls::ClientConnection::new(client, name).unwrap(), running.connect())
}

const POST: &str = "POST /mcp HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nConnection: close\r\n";

fn post(headers: &str, body: &str) -> String {
    format!("{POST}{headers}Content-Length: {}\r\n\r\n{body}", body.len())
}

#[test]
fn a_call_goes_in_and_its_answer_comes_out() {
    let running = Running::start(|_| {});
    let answer = running.send(&post("", "{}"));
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("\r\n\r\n{}"), "{answer}");
    for header in ["cache-control: no-store", "x-content-type-options: nosniff", "content-length: 2"] {
        assert!(answer.contains(header), "{header} in {answer}");
    }
    let slash = running.send(&post("", "{}").replace("/mcp", "/mcp/"));
    assert!(slash.starts_with("HTTP/1.1 200"), "{slash}");
    let chunked = format!("{POST}Transfer-Encoding: chunked\r\n\r\n1\r\n{{\r\n1\r\n}}\r\n0\r\n\r\n");
    assert!(running.send(&chunked).ends_with("{}"));
    let upstream = running.send(&post("", "{}").replace("/mcp", "/mcp/crm/"));
    assert!(upstream.starts_with("HTTP/1.1 200"), "{upstream}");
    let endpoints = running.double.0.endpoints.lock().iter().map(Endpoint::path).collect::<Vec<_>>();
    assert_eq!(endpoints, ["/mcp", "/mcp", "/mcp", "/mcp/crm"]);
}

#[test]
fn heads_that_are_not_for_us_are_refused_in_words() {
    let running = Running::start(|_| {});
    let get = |target: &str, headers: &str| format!("GET {target} HTTP/1.1\r\nConnection: close\r\n{headers}\r\n");
    for (request, status, refusal) in [
        (get("/mcp", "Host: evil.example\r\n"), 403, Refusal::HostNotAllowed),
        (get("/mcp", "Host: localhost\r\nOrigin: https://evil.example\r\n"), 403, Refusal::OriginNotAllowed),
        (get("/mcp", ""), 403, Refusal::HostNotAllowed),
        (get("http://localhost/mcp", "Host: evil.example\r\n"), 403, Refusal::HostNotAllowed),
        (get("/mcp/../admin", "Host: localhost\r\n"), 404, Refusal::RouteUnknown),
        (
            get("/mcp", "Host: localhost\r\nAuthorization: Bearer x\r\n").replace("GET", "PATCH"),
            405,
            Refusal::MethodNotAllowed("POST, GET, DELETE, OPTIONS"),
        ),
        (
            get("/mcp", "Host: localhost\r\nUpgrade: websocket\r\n"),
            400,
            Refusal::HttpMalformed("no protocol to upgrade to"),
        ),
        (
            "CONNECT localhost:1 HTTP/1.1\r\nHost: localhost:1\r\nConnection: close\r\n\r\n".into(),
            400,
            Refusal::HttpMalformed("`CONNECT` is for proxies"),
        ),
        (
            get("/mcp", "Host: localhost\r\n").replace("1.1", "1.0"),
            400,
            Refusal::HttpMalformed("send HTTP/1.1 or HTTP/2"),
        ),
        (get("/mcp", "Host: localhost\r\n").replace("GET", "HEAD"), 401, Refusal::TokenMissing),
        (post("", &"x".repeat(1025)), 413, Refusal::BodyTooLarge(1024)),
        (
            format!("{POST}Transfer-Encoding: chunked\r\n\r\n401\r\n{}\r\n0\r\n\r\n", "x".repeat(1025)),
            413,
            Refusal::BodyTooLarge(1024),
        ),
        (
            format!("{POST}Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"),
            400,
            Refusal::HttpMalformed("`chunked` is the one transfer coding"),
        ),
    ] {
        let answer = running.send(&request);
        let start = answer.split(' ').nth(1).map(str::to_owned);
        assert_eq!((start, running.double.refused()), (Some(status.to_string()), vec![refusal]), "{request} {answer}");
    }
}

#[test]
fn a_body_that_does_not_come_is_refused_in_words() {
    let running = Running::start(|config| config.limits.body_read = Duration::from_millis(300));
    let answer = running.send(&format!("{POST}Content-Length: 9\r\n\r\nslow"));
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    assert_eq!(running.double.refused(), [Refusal::BodyTooSlow]);
}

#[test]
fn what_the_codec_refuses_ends_the_connection() {
    let running = Running::start(|_| {});
    let big = post(&format!("X: {}\r\n", "x".repeat(9 * 1024)), "{}");
    let many = post(&"X: x\r\n".repeat(101), "{}");
    for (request, status) in [
        (big, "431"),
        (many, "431"),
        (post("Content-Length: 3\r\n", "{}"), "400"),
        (post("Content-Length: +2\r\n", "{}"), "400"),
        (post("Host : localhost\r\n", "{}"), "400"),
        (post(" folded: x\r\n", "{}"), "400"),
        (format!("{POST}Transfer-Encoding: chunked, x\r\n\r\n"), "400"),
        ("GET /mcp HTTP/9.9\r\n\r\n".to_owned(), "400"),
        ("\u{16}\u{3}\u{1}".repeat(9), "400"),
    ] {
        let answer = running.send(&request);
        let found = answer.split(' ').nth(1).unwrap_or_default().to_owned();
        assert_eq!(found, status, "{request}");
        // The codec's own word has become a refusal, which is told, counted and recorded like any other.
        let refusals = running.double.refused();
        let code = refusals.first().map(Refusal::code).unwrap_or_default();
        assert_eq!(code, if status == "431" { "headers_too_large" } else { "http_malformed" }, "{request}");
        assert!(refusals.len() == 1 && answer.ends_with(&format!("\r\n\r\n{code}")), "{request} {answer}");
        assert!(running.double.0.endpoints.lock().is_empty(), "{request}");
    }
}

/// RFC 9112 §6.3: chunked wins and the connection ends, so that what another reader takes for a second request is not one.
#[test]
fn two_lengths_never_make_two_requests() {
    let running = Running::start(|_| {});
    let smuggled = "GET /mcp HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let head = POST.replace("Connection: close\r\n", "");
    for lengths in
        ["Content-Length: 60\r\nTransfer-Encoding: chunked", "Transfer-Encoding: chunked\r\nContent-Length: 60"]
    {
        let answer = running.send(&format!("{head}{lengths}\r\n\r\n0\r\n\r\n{smuggled}"));
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{answer}");
    }
}

#[test]
fn browsers_get_what_they_ask_before_they_call() {
    let running = Running::start(|_| {});
    let preflight = "OPTIONS /mcp HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nOrigin: https://claude.ai\r\n\
                     Access-Control-Request-Method: POST\r\nAccess-Control-Request-Headers: mcp-param-x\r\n\r\n";
    let answer = running.send(preflight);
    for expected in [
        "HTTP/1.1 204 ",
        "access-control-allow-origin: https://claude.ai\r\n",
        "access-control-allow-methods: POST, GET, DELETE",
        "last-event-id, mcp-param-x\r\n",
        "vary: origin\r\n",
    ] {
        assert!(answer.contains(expected), "{expected} in {answer}");
    }
    let call = running.send(&post("Origin: https://claude.ai\r\n", "{}"));
    assert!(call.contains("access-control-expose-headers: WWW-Authenticate, DPoP-Nonce, Mcp-Session-Id"), "{call}");
    let refused = running.send(&post("Origin: https://evil.example\r\n", "{}"));
    assert!(!refused.contains("access-control"), "{refused}");
    let plain = running.send("OPTIONS /mcp HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    assert!(plain.starts_with("HTTP/1.1 204") && plain.contains("allow: POST, GET, DELETE, OPTIONS"), "{plain}");
}

#[test]
fn a_head_gets_the_headers_of_a_document_and_the_connection_goes_on() {
    let running = Running::start(|_| {});
    let path = "/.well-known/oauth-protected-resource/mcp HTTP/1.1\r\nHost: localhost\r\n";
    let mut stream = running.connect();
    stream.write_all(format!("HEAD {path}\r\nGET {path}Connection: close\r\n\r\n").as_bytes()).unwrap();
    let answers = to_end(&mut stream);
    assert_eq!(answers.matches("content-length: 7\r\n").count(), 2, "{answers}");
    assert_eq!(answers.matches("{\"a\":1}").count(), 1, "{answers}");
    assert!(answers.contains("content-type: application/json"), "{answers}");
}

#[test]
fn a_head_that_trickles_is_cut_and_an_idle_connection_is_kept_for_longer() {
    let running = Running::start(|config| config.limits.header_read = Duration::from_millis(500));
    let begin = clock::instant();
    let mut slow = running.connect();
    slow.write_all(b"POST /mcp HTTP/1.1\r\nHost:").unwrap();
    to_end(&mut slow);
    to_end(&mut running.connect());
    assert!(begin.elapsed() < LONG, "{:?}", begin.elapsed());

    let mut idle = running.connect();
    let request = post("", "{}").replace("Connection: close\r\n", "");
    idle.write_all(request.as_bytes()).unwrap();
    read_until(&mut idle, "{}");
    std::thread::sleep(Duration::from_millis(800));
    idle.write_all(request.as_bytes()).unwrap();
    read_until(&mut idle, "{}");
    let begin = clock::instant();
    idle.write_all(b"POST").unwrap();
    to_end(&mut idle);
    assert!(begin.elapsed() < LONG, "the second head is timed too: {:?}", begin.elapsed());
}

#[test]
fn an_idle_connection_ends_at_its_time() {
    let running = Running::start(|config| config.limits.idle = Duration::from_millis(1200));
    let mut idle = running.connect();
    // It is idle from the answer on, which the gateway knows before the test does.
    let begin = clock::instant();
    idle.write_all(post("", "{}").replace("Connection: close\r\n", "").as_bytes()).unwrap();
    read_until(&mut idle, "{}");
    assert_eq!(to_end(&mut idle), "");
    let span = begin.elapsed();
    assert!(Duration::from_secs(1) < span && span < LONG, "{span:?}");
}

#[test]
fn connections_beyond_the_limit_are_closed() {
    let running = Running::start(|config| config.limits.connections_max = 4);
    // One peer gets half of the seats.
    let mut held = [running.connect(), running.connect()];
    for stream in &mut held {
        stream.write_all(post("", "{}").replace("close", "keep-alive").as_bytes()).unwrap();
        read_until(stream, "{}");
    }
    assert_eq!(running.send(&post("", "{}")), "");
    drop(held);
    let begin = clock::instant();
    while running.send(&post("", "{}")).is_empty() {
        assert!(begin.elapsed() < LONG);
    }
}

#[test]
fn a_client_that_leaves_and_one_that_takes_nothing_are_both_noticed() {
    let running = Running::start(|_| {});
    let get = "GET /mcp HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n";

    let events = running.double.streams();
    let mut client = running.connect();
    client.write_all(get.as_bytes()).unwrap();
    events.blocking_send(Bytes::from_static(b"data: 1\n\n")).unwrap();
    let head = read_until(&mut client, "data: 1\n\n");
    assert!(head.contains("content-type: text/event-stream") && head.contains("x-accel-buffering: no"), "{head}");
    drop(client);
    wait_until_closed(&events);

    let events = running.double.streams();
    let mut deaf = running.connect();
    deaf.write_all(get.as_bytes()).unwrap();
    let event = Bytes::from(vec![b'x'; 64 * 1024]);
    let mut sent = 0;
    while events.blocking_send(event.clone()).is_ok() {
        sent += 1;
        assert!(sent < 1000, "no backpressure");
    }
}

fn wait_until_closed(events: &mpsc::Sender<Bytes>) {
    let begin = clock::instant();
    while !events.is_closed() {
        assert!(begin.elapsed() < LONG, "the stream is still open");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_drain_finishes_what_has_begun_and_ends_early() {
    let running = Running::start(|config| config.gateway.drain = Duration::from_secs(600));
    let events = running.double.streams();
    let mut client = running.connect();
    client.write_all(b"GET /mcp HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    events.blocking_send(Bytes::from_static(b"data: 1\n\n")).unwrap();
    read_until(&mut client, "data: 1\n\n");
    let mut idle = running.connect();
    idle.write_all(post("", "{}").replace("close", "keep-alive").as_bytes()).unwrap();
    read_until(&mut idle, "{}");

    let begin = clock::instant();
    running.order(Order::Drain);
    assert_eq!(to_end(&mut idle), "", "an idle connection ends at once");
    while TcpStream::connect(running.listen).is_ok() {
        assert!(begin.elapsed() < LONG, "still listens");
    }
    let mut admin = TcpStream::connect(running.admin).unwrap();
    admin.write_all(b"GET /draining HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    assert!(to_end(&mut admin).ends_with("true"), "the admin listener shows it");

    events.blocking_send(Bytes::from_static(b"data: 2\n\n")).unwrap();
    read_until(&mut client, "data: 2\n\n");
    drop(events);
    assert!(to_end(&mut client).ends_with("0\r\n\r\n"), "the stream ended properly");
    running.end().unwrap();
    assert!(begin.elapsed() < LONG, "{:?}", begin.elapsed());
}

#[test]
fn a_drain_is_bounded_and_a_second_order_ends_it() {
    for (limit, orders) in [(Duration::from_millis(500), 1), (Duration::from_secs(600), 2)] {
        let running = Running::start(|config| config.gateway.drain = limit);
        let events = running.double.streams();
        let mut client = running.connect();
        client.write_all(b"GET /mcp HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
        events.blocking_send(Bytes::from_static(b"data: 1\n\n")).unwrap();
        read_until(&mut client, "data: 1\n\n");
        let begin = clock::instant();
        for _ in 0..orders {
            running.order(Order::Drain);
        }
        running.end().unwrap();
        assert!(begin.elapsed() < LONG, "{:?}", begin.elapsed());
    }
}

#[test]
fn a_run_directory_that_others_can_write_to_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let (fresh, open) = (folder.path().join("a/b"), folder.path().join("open"));
    assert!(own_folder(&fresh).is_ok());
    assert!(own_folder(&fresh).is_ok(), "the successor's too");
    std::fs::create_dir(&open).unwrap();
    std::fs::set_permissions(&open, std::fs::Permissions::from_mode(0o777)).unwrap();
    assert!(matches!(own_folder(&open), Err(Failure::RunDirectory { .. })));
}

#[test]
fn an_address_that_is_taken_is_said_at_once() {
    let running = Running::start(|_| {});
    let [_, admin] = free_addresses();
    let taken = Assembly {
        config: config(|config| {
            config.gateway.listen = running.listen;
            config.gateway.admin_listen = admin;
        }),
        inside: Inside::Double(Double::default()),
        metadata: Arc::default(),
        pages: Pages::new(|_| None),
        tasks: Tasks::default(),
        draining: watch::channel(false).0,
        background: Background(Mutex::new(Vec::new())),
        run_directory: PathBuf::new(),
        upgrade: false,
        bounds: Bounds::of(&config(|_| {}).limits),
    };
    assert!(matches!(taken.run(mpsc::channel(1).1, None), Err(Failure::Listen { .. })));
}

#[test]
fn tls_speaks_both_protocols_by_alpn() {
    let running = Running::start_tls(|_| {});
    let mut stream = tls(&running, client(&running.folder, b"http/1.1", false));
    stream.write_all(post("", "{}").as_bytes()).unwrap();
    assert!(to_end(&mut stream).ends_with("\r\n\r\n{}"));
    assert_eq!(stream.conn.protocol_version(), Some(rustls::ProtocolVersion::TLSv1_3));

    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(h2_calls(&running));
}

async fn h2_calls(running: &Running) {
    let connector = pingora_core::tls::TlsConnector::from(client(&running.folder, b"h2", false));
    let tcp = tokio::net::TcpStream::connect(running.listen).await.unwrap();
    let stream = connector.connect(ServerName::try_from("localhost").unwrap(), tcp).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    let connection = crate::tasks::background(connection);
    let request = |authority: &str, method: &str| {
        http::Request::builder()
            .method(method)
            .uri(format!("https://{authority}/mcp"))
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from("{}")))
            .unwrap()
    };
    let response = sender.send_request(request("localhost", "POST")).await.unwrap();
    assert_eq!(response.status(), 200);
    #[expect(clippy::disallowed_methods, reason = "a body of the test's own")]
    let body = response.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(body, "{}");
    let refused = sender.send_request(request("evil.example", "POST")).await.unwrap();
    assert_eq!((refused.status().as_u16(), running.double.refused()), (403, vec![Refusal::HostNotAllowed]));
    let head = sender.send_request(request("localhost", "HEAD")).await.unwrap();
    assert_eq!(head.status(), 401);
    running.double.refused();

    // A drain ends the connection, with an answer to what has begun.
    let events = running.double.streams();
    let mut stream = sender.send_request(request("localhost", "GET")).await.unwrap().into_body();
    events.send(Bytes::from_static(b"data: 1\n\n")).await.unwrap();
    assert_eq!(stream.frame().await.unwrap().unwrap().into_data().unwrap(), "data: 1\n\n");
    running.orders.send(Order::Drain).await.unwrap();
    events.send(Bytes::from_static(b"data: 2\n\n")).await.unwrap();
    assert_eq!(stream.frame().await.unwrap().unwrap().into_data().unwrap(), "data: 2\n\n");
    drop(events);
    // The end of an HTTP/2 stream may travel as an empty piece.
    let last = stream.frame().await.map(|frame| frame.unwrap().into_data().unwrap());
    assert!(last.is_none_or(|last| last.is_empty()));
    connection.await.unwrap().unwrap();
}

#[test]
fn a_handshake_that_does_not_come_is_not_waited_for() {
    let running = Running::start_tls(|config| config.limits.handshake = Duration::from_millis(300));
    for begun in [&b""[..], b"\x16\x03\x01\x02\x00\x01"] {
        let begin = clock::instant();
        let mut stream = running.connect();
        stream.write_all(begun).unwrap();
        assert_eq!(to_end(&mut stream), "");
        assert!(begin.elapsed() < LONG, "{:?}", begin.elapsed());
    }
}

#[test]
fn clients_show_a_certificate_where_one_is_asked_for() {
    let running = Running::start_tls(|config| {
        let files = config.gateway.tls.as_mut().unwrap();
        files.client_ca = Some(files.certificate.clone());
    });
    let call = |shows: bool| {
        let mut stream = tls(&running, client(&running.folder, b"http/1.1", shows));
        stream.write_all(post("", "{}").as_bytes()).map(|()| to_end(&mut stream)).unwrap_or_default()
    };
    assert_eq!(call(false), "");
    assert!(call(true).ends_with("{}"));
    let shown = running.double.certificates();
    let thumbprint = shown.first().and_then(|shown| shown.as_deref()).unwrap();
    assert_eq!((shown.len(), thumbprint.len()), (1, 43), "{shown:?}");
}

#[test]
fn who_shows_no_certificate_is_let_in_where_none_has_to_be() {
    let running = Running::start_tls(|config| {
        let files = config.gateway.tls.as_mut().unwrap();
        (files.client_ca, files.client_optional) = (Some(files.certificate.clone()), true);
    });
    for shows in [false, true] {
        let mut stream = tls(&running, client(&running.folder, b"http/1.1", shows));
        // A header names nobody.
        stream.write_all(post("X-Client-Cert: MIIB\r\nX-Forwarded-Client-Cert: Hash=00\r\n", "{}").as_bytes()).unwrap();
        assert!(to_end(&mut stream).ends_with("{}"), "{shows}");
        assert_eq!(running.double.certificates().pop().unwrap().is_some(), shows);
    }
}

#[test]
fn a_new_certificate_is_shown_without_a_restart_and_a_bad_one_never() {
    let running = Running::start_tls(|_| {});
    let first = client(&running.folder, b"http/1.1", false);
    let call = |client: &Arc<rustls::ClientConfig>| {
        let mut stream = tls(&running, Arc::clone(client));
        stream.write_all(post("", "{}").as_bytes()).is_ok_and(|()| to_end(&mut stream).ends_with("{}"))
    };
    assert!(call(&first));
    std::fs::write(running.folder.path().join("tls.crt"), "broken").unwrap();
    std::thread::sleep(Duration::from_millis(2500));
    assert!(call(&first), "the last good one stays");
    certificate(&running.folder);
    let second = client(&running.folder, b"http/1.1", false);
    let begin = clock::instant();
    while !call(&second) {
        assert!(begin.elapsed() < LONG, "the new one is not shown");
        std::thread::sleep(Duration::from_millis(50));
    }
    let stranger = client(&running.folder, b"http/1.1", false);
    assert!(call(&stranger));
}

/// pingora's zero-downtime upgrade: the sockets go to a second server while a client calls without a pause.
#[test]
fn a_successor_takes_the_sockets_and_no_call_is_lost() {
    use std::os::unix::fs::PermissionsExt;
    let old = Running::start(|_| {});
    // Nobody waits for the sockets: an order to hand them over is an error in the log, not an outage.
    old.order(Order::HandOver);
    assert!(old.send(&post("", "{}")).ends_with("{}"));
    // Nor does a socket count in a folder to which others can write.
    let run = old.folder.path().join("run");
    let stranger = std::os::unix::net::UnixListener::bind(run.join("upgrade.sock")).unwrap();
    std::fs::set_permissions(&run, std::fs::Permissions::from_mode(0o777)).unwrap();
    old.order(Order::HandOver);
    std::thread::sleep(Duration::from_millis(500));
    stranger.set_nonblocking(true).unwrap();
    assert!(stranger.accept().is_err(), "nobody gets the sockets whom we do not know");
    assert!(old.send(&post("", "{}")).ends_with("{}"));
    std::fs::set_permissions(&run, std::fs::Permissions::from_mode(0o700)).unwrap();
    std::fs::remove_file(run.join("upgrade.sock")).unwrap();

    let new = Running::begin(Arc::clone(&old.folder), old.listen, old.admin, true, |_| {});
    let begin = clock::instant();
    let socket = old.folder.path().join("run/upgrade.sock");
    while !socket.exists() {
        assert!(begin.elapsed() < LONG, "the successor does not wait");
        std::thread::sleep(Duration::from_millis(10));
    }
    old.order(Order::HandOver);
    let mut calls = 0;
    while !old.thread.as_ref().unwrap().is_finished() {
        assert!(begin.elapsed() < 3 * LONG, "the old one does not end");
        assert!(old.send(&post("", "{}")).ends_with("{}"));
        calls += 1;
    }
    old.end().unwrap();
    assert!(calls > 10, "{calls}");
    assert!(new.send(&post("", "{}")).ends_with("{}"));
    assert!(!new.double.0.endpoints.lock().is_empty(), "the successor answers");
}
