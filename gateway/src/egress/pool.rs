//! Which connection carries a request?
//!
//! One that lies idle to the same origin, or a new one: HTTP/2 where the peer chose it by ALPN, shared by all; HTTP/1.1
//! else, which comes back when its answer has been read. A request that an idle connection did not begin to send, because
//! the peer had closed it, goes out over another. One that is shared and gives no sign of life is left to those who wait on
//! it. It does not judge addresses.

use std::{
    collections::HashMap,
    error::Error as _,
    fmt,
    future::poll_fn,
    hash::{Hash, Hasher},
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{
    HeaderValue, Request, Response, Uri,
    header::HOST,
    uri::{Authority, PathAndQuery, Scheme},
};
use http_body_util::Full;
use hyper::{
    body::{Body as _, Incoming},
    client::conn::{TrySendError, http1, http2},
};
use hyper_rustls::{HttpsConnector, MaybeHttpsStream};
use hyper_util::{
    client::legacy::connect::{Connection, HttpConnector},
    rt::{TokioExecutor, TokioIo, TokioTimer},
};
use parking_lot::Mutex;
use tokio::{
    net::TcpStream,
    task::{AbortHandle, JoinHandle},
};
use tower_service::Service;

use super::{
    Body, EgressError, HTTP1_BUFFER_BYTES_MAX, HTTP2_ANSWER_BYTES_MAX, HTTP2_BYTES_MAX, HTTP2_PING, HTTP2_PONG_MAX,
    IDLE_CONNECTIONS_MAX, IDLE_TIMEOUT, chain,
    outside::{self, Resolver},
    paced::Paced,
};
use crate::{clock, tasks};

/// How connections are made.
pub(super) type Connector = HttpsConnector<HttpConnector<Resolver>>;

/// Connections by origin. Clones share them.
#[derive(Clone)]
pub(super) struct Pool(Arc<Shared>);

struct Shared {
    connector: Connector,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    peers: HashMap<Origin, Peer>,
    /// Looks after those that nobody uses. It ends with the runtime that it was begun on.
    sweeper: Option<JoinHandle<()>>,
}

/// To where a connection goes.
#[derive(Clone)]
struct Origin {
    tls: bool,
    authority: Authority,
}

/// By the letter: who is spelled in two ways has connections of two kinds, and each request is spared a look at every
/// letter's case.
impl Hash for Origin {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.tls, self.authority.as_str()).hash(state);
    }
}

impl PartialEq for Origin {
    fn eq(&self, other: &Self) -> bool {
        (self.tls, self.authority.as_str()) == (other.tls, other.authority.as_str())
    }
}

impl Eq for Origin {}

/// The connections to one origin.
struct Peer {
    /// The `Host` that it is asked as (RFC 9112 §3.2).
    host: HeaderValue,
    idle: Vec<(http1::SendRequest<Full<Bytes>>, Instant)>,
    /// The one for all requests, and when it got the last.
    shared: Option<(Common, Instant)>,
}

/// A connection that can take a request.
enum Sender {
    One(http1::SendRequest<Full<Bytes>>, HeaderValue),
    Shared(Common),
}

/// A connection that all requests to its peer share.
#[derive(Clone)]
struct Common {
    sender: http2::SendRequest<Full<Bytes>>,
    life: Arc<Life>,
}

struct Life {
    /// How many requests the peer has said something to.
    heard: AtomicU64,
    /// What takes requests in until there is room for them.
    intake: AbortHandle,
}

impl Pool {
    pub(super) fn new(connector: Connector) -> Self {
        Self(Arc::new(Shared { connector, kept: Mutex::default() }))
    }

    /// Sends `request`, and gives the answer as soon as its head is there.
    pub(super) async fn send(&self, mut request: Request<Full<Bytes>>) -> Result<Response<Body>, EgressError> {
        let uri = request.uri().clone();
        let origin = Origin::of(&uri)?;
        loop {
            let idle = self.0.idle(&origin);
            let fresh = idle.is_none();
            let mut sender = match idle {
                Some(sender) => sender,
                // On the heap: it is rare, and takes most of the room.
                None => Box::pin(self.connect(&origin, &uri)).await?,
            };
            let sent = {
                let waiting = Waiting::on(&sender, &self.0, &origin);
                let sent = sender.send(request, &uri).await;
                waiting.into_iter().for_each(Waiting::end);
                sent
            };
            let mut error = match sent {
                Ok(answer) => return Ok(answer.map(|incoming| self.body(incoming, origin, sender))),
                Err(error) => error,
            };
            match error.take_message() {
                Some(unsent) if !fresh => request = unsent,
                Some(_unsent) => return Err(EgressError::Unreachable(chain(error.error()))),
                None if was_refused(error.error()) => return Err(EgressError::Refused(chain(error.error()))),
                None => return Err(EgressError::Lost(chain(error.error()))),
            }
        }
    }

    async fn connect(&self, origin: &Origin, uri: &Uri) -> Result<Sender, EgressError> {
        let mut connector = self.0.connector.clone();
        let ready = poll_fn(|context| connector.poll_ready(context)).await;
        let stream = match ready {
            Ok(()) => connector.call(uri.clone()).await,
            Err(error) => Err(error),
        };
        let stream = stream
            .map_err(|error| outside::refused(&*error).unwrap_or_else(|| EgressError::Unreachable(chain(&*error))))?;
        let sender = begin(stream, origin).await.map_err(|error| EgressError::Unreachable(chain(&error)))?;
        let mut kept = self.0.kept.lock();
        if kept.sweeper.as_ref().is_none_or(JoinHandle::is_finished) {
            kept.sweeper = Some(tasks::background(Shared::sweep(Arc::downgrade(&self.0))));
        }
        Ok(kept.keep(origin, sender))
    }

    /// The body of an answer; when it is dropped the connection is free again.
    fn body(&self, incoming: Incoming, origin: Origin, sender: Sender) -> Body {
        let back = match sender {
            Sender::One(sender, _host) => Some(Back { pool: Arc::clone(&self.0), origin, sender: Some(sender) }),
            Sender::Shared(_) => None,
        };
        Body { back: back.filter(|_| !incoming.is_end_stream()), incoming }
    }
}

/// Whether the peer says that it did nothing of the request (RFC 9113 §8.7).
fn was_refused(error: &hyper::Error) -> bool {
    let cause = error.source().and_then(|cause| cause.downcast_ref::<h2::Error>());
    cause.is_some_and(|cause| {
        cause.is_remote() && cause.is_reset() && cause.reason() == Some(h2::Reason::REFUSED_STREAM)
    })
}

/// Begins to speak on `stream`.
async fn begin(stream: MaybeHttpsStream<TokioIo<TcpStream>>, origin: &Origin) -> Result<Sender, hyper::Error> {
    if stream.connected().is_negotiated_h2() {
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder.timer(TokioTimer::new());
        builder.initial_stream_window_size(HTTP2_ANSWER_BYTES_MAX).initial_connection_window_size(HTTP2_BYTES_MAX);
        builder.keep_alive_interval(HTTP2_PING).keep_alive_timeout(HTTP2_PONG_MAX);
        let (sender, connection) = builder.handshake(Paced::new(stream)).await?;
        let intake = tasks::background(connection).abort_handle();
        return Ok(Sender::Shared(Common { sender, life: Arc::new(Life { heard: AtomicU64::new(0), intake }) }));
    }
    let (sender, connection) = http1::Builder::new().max_buf_size(HTTP1_BUFFER_BYTES_MAX).handshake(stream).await?;
    drop(tasks::background(connection));
    Ok(Sender::One(sender, origin.host()))
}

impl Sender {
    async fn send(
        &mut self,
        mut request: Request<Full<Bytes>>,
        uri: &Uri,
    ) -> Result<Response<Incoming>, TrySendError<Request<Full<Bytes>>>> {
        match self {
            Self::One(sender, host) => {
                let path = uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
                *request.uri_mut() = Uri::from(path);
                request.headers_mut().insert(HOST, host.clone());
                sender.try_send_request(request).await
            }
            Self::Shared(common) => {
                *request.uri_mut() = uri.clone();
                request.headers_mut().remove(HOST);
                common.sender.try_send_request(request).await
            }
        }
    }
}

impl Shared {
    /// A connection to `origin` that waits for a request.
    fn idle(&self, origin: &Origin) -> Option<Sender> {
        let mut kept = self.kept.lock();
        let peer = kept.peers.get_mut(origin)?;
        if let Some((common, used)) = peer.shared.as_mut().filter(|(common, _)| !common.sender.is_closed()) {
            *used = clock::instant();
            return Some(Sender::Shared(common.clone()));
        }
        // The last that came back first: the others may be let go. One whose answer was left unread is not ready, for a
        // moment or for good.
        let at = peer.idle.iter().rposition(|(sender, _)| sender.is_ready())?;
        let (sender, _since) = peer.idle.remove(at);
        Some(Sender::One(sender, peer.host.clone()))
    }

    /// Gives nobody this connection any more. What waits for room on it goes another way; what is under way stays.
    fn leave(&self, origin: &Origin, life: &Arc<Life>) {
        if let Some(peer) = self.kept.lock().peers.get_mut(origin) {
            peer.shared.take_if(|(common, _)| Arc::ptr_eq(&common.life, life));
        }
        life.intake.abort();
    }

    /// Lets go of what nobody has used for long, now and again, as long as there is the pool.
    async fn sweep(pool: Weak<Self>) {
        loop {
            tokio::time::sleep(SWEEP_EVERY).await;
            let Some(pool) = pool.upgrade() else { return };
            pool.kept.lock().let_go(clock::instant());
        }
    }
}

impl Kept {
    /// Keeps a new connection that all share, in the place of an older one: that may be about to end.
    fn keep(&mut self, origin: &Origin, sender: Sender) -> Sender {
        let peer = self.peer(origin);
        if let Sender::Shared(common) = &sender {
            peer.shared = Some((common.clone(), clock::instant()));
        }
        sender
    }

    fn peer(&mut self, origin: &Origin) -> &mut Peer {
        self.peers.entry(origin.clone()).or_insert_with(|| Peer { host: origin.host(), idle: Vec::new(), shared: None })
    }

    fn let_go(&mut self, now: Instant) {
        let is_old = |since: &Instant| now.saturating_duration_since(*since) >= IDLE_TIMEOUT;
        self.peers.retain(|_, peer| {
            peer.idle.retain(|(sender, since)| !sender.is_closed() && !is_old(since));
            peer.shared.take_if(|(common, used)| common.sender.is_closed() || is_old(used));
            !peer.idle.is_empty() || peer.shared.is_some()
        });
    }
}

/// A request on a shared connection to which the peer has said nothing yet. Where it is given up, and nothing was said to
/// any other meanwhile, the connection is left: a peer may have no stream or no room for anybody any more, answer every ping,
/// and so have every request wait in vain.
struct Waiting<'a> {
    pool: &'a Shared,
    origin: &'a Origin,
    life: Arc<Life>,
    heard: u64,
    since: Instant,
}

impl<'a> Waiting<'a> {
    fn on(sender: &Sender, pool: &'a Shared, origin: &'a Origin) -> Option<Self> {
        let Sender::Shared(Common { life, .. }) = sender else { return None };
        let heard = life.heard.load(Ordering::Acquire);
        Some(Self { pool, origin, life: Arc::clone(life), heard, since: clock::instant() })
    }

    /// The peer has said something to it.
    fn end(self) {
        self.life.heard.fetch_add(1, Ordering::AcqRel);
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let waited = clock::instant().saturating_duration_since(self.since);
        if waited >= SILENCE_MIN && self.life.heard.load(Ordering::Acquire) == self.heard {
            self.pool.leave(self.origin, &self.life);
        }
    }
}

impl Origin {
    fn of(uri: &Uri) -> Result<Self, EgressError> {
        let authority = uri.authority().cloned();
        let authority = authority.ok_or_else(|| EgressError::Forbidden("no host in the address".to_owned()))?;
        Ok(Self { tls: uri.scheme() == Some(&Scheme::HTTPS), authority })
    }

    /// Without the port where it is the scheme's own (RFC 9110 §7.2).
    fn host(&self) -> HeaderValue {
        let own = if self.tls { 443 } else { 80 };
        let host = match self.authority.port_u16() {
            Some(port) if port != own => HeaderValue::from_str(&format!("{}:{port}", self.authority.host())),
            Some(_) | None => HeaderValue::from_str(self.authority.host()),
        };
        // What an authority is made of, a header value may be.
        host.unwrap_or_else(|_never| HeaderValue::from_static(""))
    }
}

/// A connection on which an answer is being read; when this is dropped, it lies idle again.
pub(super) struct Back {
    pool: Arc<Shared>,
    origin: Origin,
    sender: Option<http1::SendRequest<Full<Bytes>>>,
}

impl Back {
    /// It is closed instead.
    pub(super) fn forsake(&mut self) {
        self.sender = None;
    }
}

impl Drop for Back {
    fn drop(&mut self) {
        let Some(sender) = self.sender.take().filter(|sender| !sender.is_closed()) else { return };
        let mut kept = self.pool.kept.lock();
        let idle = &mut kept.peer(&self.origin).idle;
        if idle.len() >= IDLE_CONNECTIONS_MAX {
            idle.retain(|(sender, _since)| !sender.is_closed());
        }
        if idle.len() < IDLE_CONNECTIONS_MAX {
            idle.push((sender, clock::instant()));
        }
    }
}

impl fmt::Debug for Back {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Back").finish_non_exhaustive()
    }
}

/// A shorter silence says nothing of a connection: whoever gave up was in a hurry, or went away.
const SILENCE_MIN: Duration = Duration::from_secs(1);

/// How often connections are looked through that nobody uses.
const SWEEP_EVERY: Duration = Duration::from_secs(11);

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
        sync::mpsc,
    };

    use super::*;
    use crate::egress::{Client, Trust};

    /// A server of HTTP/1.1 that answers so many requests over each connection, all alike, and tells of each: the number of
    /// its connection, and its head.
    struct Server {
        address: String,
        heard: mpsc::Receiver<(usize, String)>,
    }

    impl Server {
        async fn answering(each: usize, answer: &'static str) -> Self {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap().to_string();
            let (tell, heard) = mpsc::channel(64);
            tasks::background(listen(listener, (each, answer), tell));
            Self { address, heard }
        }

        async fn heard(&mut self) -> (usize, String) {
            self.heard.recv().await.unwrap()
        }
    }

    async fn listen(listener: TcpListener, answers: (usize, &'static str), tell: mpsc::Sender<(usize, String)>) {
        for connection in 1.. {
            let Ok((stream, _)) = listener.accept().await else { return };
            tasks::background(serve(stream, answers, (connection, tell.clone())));
        }
    }

    async fn serve(
        mut stream: TcpStream,
        (each, answer): (usize, &str),
        (connection, tell): (usize, mpsc::Sender<(usize, String)>),
    ) {
        let mut head = [0; 1_024];
        for _ in 0..each {
            let Ok(read @ 1..) = stream.read(&mut head).await else { return };
            let said = String::from_utf8_lossy(&head[..read]).into_owned();
            tell.send((connection, said)).await.unwrap();
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    }

    fn get(address: &str) -> Request<Bytes> {
        Request::get(format!("http://{address}/path?q=1")).body(Bytes::new()).unwrap()
    }

    async fn ask(client: &Client, address: &str) -> Result<Bytes, EgressError> {
        client.open(get(address), Duration::from_secs(5)).await?.into_body().whole(1_000).await
    }

    const ANSWER: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

    #[tokio::test]
    async fn a_connection_serves_again_once_its_answer_is_read() {
        let mut server = Server::answering(usize::MAX, ANSWER).await;
        let client = Client::new(&Trust::default()).unwrap();
        for _ in 0..3 {
            assert_eq!(ask(&client, &server.address).await.unwrap(), "ok");
            let (connection, head) = server.heard().await;
            assert_eq!(connection, 1);
            assert!(head.starts_with("GET /path?q=1 HTTP/1.1\r\n"), "{head}");
            assert!(head.contains(&format!("host: {}\r\n", server.address)), "{head}");
        }
    }

    #[tokio::test]
    async fn a_connection_is_not_used_while_its_answer_is_read_or_after_it_was_left() {
        let mut server = Server::answering(usize::MAX, "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nok").await;
        let client = Client::new(&Trust::default()).unwrap();
        let reading = client.open(get(&server.address), Duration::from_secs(5)).await.unwrap();
        let second = client.open(get(&server.address), Duration::from_secs(5)).await.unwrap();
        drop(reading);
        let third = client.open(get(&server.address), Duration::from_secs(5)).await.unwrap();
        assert_eq!((server.heard().await.0, server.heard().await.0, server.heard().await.0), (1, 2, 3));
        drop((second, third));
    }

    #[tokio::test]
    async fn what_a_peer_closed_meanwhile_costs_no_request() {
        let mut server = Server::answering(2, ANSWER).await;
        let client = Client::new(&Trust::default()).unwrap();
        for expected in [1, 1, 2, 2, 3] {
            assert_eq!(ask(&client, &server.address).await.unwrap(), "ok");
            assert_eq!(server.heard().await.0, expected);
            // The peer's end is on its way.
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn a_peer_that_ends_without_an_answer_may_have_done_it_and_is_not_asked_again() {
        let mut server = Server::answering(1, "").await;
        let client = Client::new(&Trust::default()).unwrap();
        assert!(matches!(ask(&client, &server.address).await, Err(EgressError::Lost(_))));
        server.heard().await;
        assert!(server.heard.try_recv().is_err(), "asked once");
        let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().to_string();
        assert!(matches!(ask(&client, &nobody).await, Err(EgressError::Unreachable(_))));
    }

    #[tokio::test]
    async fn what_nobody_uses_is_let_go() {
        let mut server = Server::answering(usize::MAX, ANSWER).await;
        let client = Client::new(&Trust::default()).unwrap();
        let idle = |later: Duration| {
            let mut kept = client.pool.0.kept.lock();
            kept.let_go(clock::instant() + later);
            kept.peers.values().map(|peer| peer.idle.len()).sum::<usize>()
        };
        assert_eq!(ask(&client, &server.address).await.unwrap(), "ok");
        assert_eq!((idle(Duration::ZERO), idle(IDLE_TIMEOUT)), (1, 0));
        assert_eq!(ask(&client, &server.address).await.unwrap(), "ok");
        assert_eq!((server.heard().await.0, server.heard().await.0), (1, 2));
    }

    #[test]
    fn what_nobody_uses_is_let_go_on_the_runtime_that_is_there() {
        let client = Client::new(&Trust::default()).unwrap();
        for _ in 0..2 {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let server = Server::answering(usize::MAX, ANSWER).await;
                assert_eq!(ask(&client, &server.address).await.unwrap(), "ok");
                let kept = client.pool.0.kept.lock();
                assert!(!kept.sweeper.as_ref().unwrap().is_finished());
            });
        }
    }

    /// A server of HTTP/2: where it is, who trusts it, and what it listens with.
    async fn secured() -> (tempfile::TempDir, Trust, String, (TcpListener, tokio_rustls::TlsAcceptor)) {
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let trust = Trust { ca: Some(folder.path().join("ca.crt")), ..Trust::default() };
        std::fs::write(folder.path().join("ca.crt"), made.cert.pem()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let key = rustls_pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let builder = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let builder = builder.unwrap().with_no_client_auth();
        let mut config = builder.with_single_cert(vec![made.cert.der().clone()], key).unwrap();
        config.alpn_protocols = vec![b"h2".to_vec()];
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("https://localhost:{}/", listener.local_addr().unwrap().port());
        (folder, trust, address, (listener, Arc::new(config).into()))
    }

    /// A server of HTTP/2 that resets the first stream for `reason`, and answers the others.
    async fn resetting(reason: h2::Reason) -> (tempfile::TempDir, Trust, String) {
        let (folder, trust, address, (listener, acceptor)) = secured().await;
        tasks::background(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let mut connection = h2::server::handshake(acceptor.accept(stream).await.unwrap()).await.unwrap();
            let (_request, mut first) = connection.accept().await.unwrap().unwrap();
            first.send_reset(reason);
            while let Some(Ok((_request, mut next))) = connection.accept().await {
                next.send_response(Response::new(()), true).unwrap();
            }
        });
        (folder, trust, address)
    }

    /// Answers the first request of each connection, and none that comes after it.
    async fn answer_once(listener: TcpListener, acceptor: tokio_rustls::TlsAcceptor, connections: Arc<AtomicU64>) {
        while let Ok((stream, _)) = listener.accept().await {
            connections.fetch_add(1, Ordering::AcqRel);
            let acceptor = acceptor.clone();
            tasks::background(async move {
                let mut connection = h2::server::handshake(acceptor.accept(stream).await.unwrap()).await.unwrap();
                let (_request, mut first) = connection.accept().await.unwrap().unwrap();
                first.send_response(Response::new(()), true).unwrap();
                let mut held = Vec::new();
                while let Some(Ok(next)) = connection.accept().await {
                    held.push(next);
                }
            });
        }
    }

    #[tokio::test]
    async fn a_shared_connection_is_left_after_a_silence_and_not_before() {
        let (_folder, trust, address, (listener, acceptor)) = secured().await;
        let connections = Arc::new(AtomicU64::new(0));
        tasks::background(answer_once(listener, acceptor, Arc::clone(&connections)));
        let client = Client::new(&trust).unwrap();
        let ask = |patience| client.open(Request::get(&address).body(Bytes::new()).unwrap(), patience);
        let (ample, short, long) = (Duration::from_secs(30), SILENCE_MIN.div_f32(5.0), SILENCE_MIN.mul_f32(1.2));
        for connection in 1..=2 {
            assert!(ask(ample).await.unwrap().status().is_success());
            for patience in [short, short, long] {
                assert_eq!(ask(patience).await.unwrap_err(), EgressError::Timeout);
                assert_eq!(connections.load(Ordering::Acquire), connection, "{patience:?}");
            }
        }
    }

    /// Answers the first request at once, the second late, and none that comes after it.
    async fn answer_late(listener: TcpListener, acceptor: tokio_rustls::TlsAcceptor, late: Duration) {
        let (stream, _) = listener.accept().await.unwrap();
        let mut connection = h2::server::handshake(acceptor.accept(stream).await.unwrap()).await.unwrap();
        let (_request, mut first) = connection.accept().await.unwrap().unwrap();
        first.send_response(Response::new(()), true).unwrap();
        let (_request, mut second) = connection.accept().await.unwrap().unwrap();
        tasks::background(async move {
            tokio::time::sleep(late).await;
            second.send_response(Response::new(()), true).unwrap();
        });
        let mut held = Vec::new();
        while let Some(Ok(next)) = connection.accept().await {
            held.push(next);
        }
    }

    #[tokio::test]
    async fn what_is_under_way_on_a_connection_that_is_left_is_answered_all_the_same() {
        let (_folder, trust, address, (listener, acceptor)) = secured().await;
        tasks::background(answer_late(listener, acceptor, SILENCE_MIN.mul_f32(3.0)));
        let client = Client::new(&trust).unwrap();
        let ask = |patience| client.open(Request::get(&address).body(Bytes::new()).unwrap(), patience);
        let ample = Duration::from_secs(30);
        assert!(ask(ample).await.unwrap().status().is_success());
        let (slow, given_up) = tokio::join!(ask(ample), ask(SILENCE_MIN.mul_f32(1.2)));
        assert_eq!(given_up.unwrap_err(), EgressError::Timeout);
        assert!(slow.unwrap().status().is_success());
    }

    #[tokio::test]
    async fn what_a_peer_says_it_did_not_begin_is_not_lost() {
        for (reason, is_lost) in [(h2::Reason::REFUSED_STREAM, false), (h2::Reason::INTERNAL_ERROR, true)] {
            let (_folder, trust, address) = resetting(reason).await;
            let client = Client::new(&trust).unwrap();
            let ask = || client.open(Request::get(&address).body(Bytes::new()).unwrap(), Duration::from_secs(5));
            let refused = ask().await.unwrap_err();
            assert_eq!(matches!(refused, EgressError::Lost(_)), is_lost, "{refused:?}");
            assert_eq!(matches!(refused, EgressError::Refused(_)), !is_lost, "{refused:?}");
            assert!(ask().await.unwrap().status().is_success(), "the connection goes on");
        }
    }

    #[test]
    fn a_host_is_named_without_the_schemes_own_port() {
        let host = |uri: &str| Origin::of(&uri.parse().unwrap()).unwrap().host().to_str().unwrap().to_owned();
        assert_eq!(host("https://example.com:443/"), "example.com");
        assert_eq!(host("https://example.com:8443/"), "example.com:8443");
        assert_eq!(host("http://[::1]:80/"), "[::1]");
        assert!(Origin::of(&"/path".parse().unwrap()).is_err());
    }
}
