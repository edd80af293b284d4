//! How does a party of the tests serve HTTP inside the test's own process?
//!
//! One listener on a free port, every byte that arrives kept, one function that answers. What it answers is not its matter.

use std::{
    convert::Infallible,
    fmt,
    future::Future,
    io,
    net::{SocketAddr, TcpStream},
    pin::Pin,
    sync::{Arc, LazyLock},
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body_util::{Full, combinators::BoxBody};
use hyper::{Request, Response, body::Incoming, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use parking_lot::Mutex;
use rustls::ServerConfig;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpListener,
    runtime::Runtime,
    sync::Notify,
    task::{JoinHandle, JoinSet},
};
use tokio_rustls::TlsAcceptor;

use super::{leaks, place};

/// What an answer is made of.
pub(crate) type Body = BoxBody<Bytes, io::Error>;

/// The runtime of everything that runs beside a test.
static RUNTIME: LazyLock<Runtime> =
    LazyLock::new(|| tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap());

/// A running listener; dropping it closes the listener and every connection.
pub(crate) struct Served {
    pub(crate) address: SocketAddr,
    scheme: &'static str,
    bytes: Arc<Mutex<Vec<u8>>>,
    /// Whether a caller's token may be in what comes.
    pub(crate) exchanges: bool,
    shut: Arc<Notify>,
    serve: Box<dyn Fn(std::net::TcpListener) -> JoinHandle<()> + Send + Sync>,
    task: Mutex<JoinHandle<()>>,
}

impl fmt::Debug for Served {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Served").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Served {
    /// Serves HTTP/1.1 on a free port of 127.0.0.1; over TLS also HTTP/2, whichever is agreed on, and the bytes kept are
    /// those in clear.
    pub(crate) fn start<A, F>(tls: Option<Arc<ServerConfig>>, answer: A) -> Self
    where
        A: Fn(Request<Incoming>) -> F + Send + Sync + 'static,
        F: Future<Output = Response<Body>> + Send + 'static,
    {
        // Not one of the kernel's own ports, which could be somebody else's when a server comes back.
        let listener = std::net::TcpListener::bind(("127.0.0.1", place::free_port())).unwrap();
        let address = listener.local_addr().unwrap();
        let scheme = if tls.is_some() { "https" } else { "http" };
        let bytes = Arc::new(Mutex::new(Vec::new()));
        let shut = Arc::new(Notify::new());
        let (kept, tls, answer) = (Arc::clone(&bytes), tls.map(TlsAcceptor::from), Arc::new(answer));
        let shutting = Arc::clone(&shut);
        let serve = move |listener: std::net::TcpListener| {
            listener.set_nonblocking(true).unwrap();
            let (kept, answer, shut) = (Arc::clone(&kept), Arc::clone(&answer), Arc::clone(&shutting));
            RUNTIME.spawn(accept((listener, tls.clone(), shut), kept, answer))
        };
        let task = Mutex::new(serve(listener));
        Self { address, scheme, bytes, exchanges: false, shut, task, serve: Box::new(serve) }
    }

    /// Closes the listener and every connection, and waits until nobody is there.
    pub(crate) fn leave(&self) {
        self.task.lock().abort();
        self.wait_until_closed();
    }

    /// Closes the listener alone.
    pub(crate) fn shut(&self) {
        self.shut.notify_one();
        self.wait_until_closed();
    }

    fn wait_until_closed(&self) {
        place::wait_for("a closed port", place::PATIENCE, || TcpStream::connect(self.address).err());
    }

    /// Listens again at the same address.
    pub(crate) fn come_back(&self) {
        let listener =
            place::wait_for("the port again", place::PATIENCE, || std::net::TcpListener::bind(self.address).ok());
        *self.task.lock() = (self.serve)(listener);
    }

    /// `http://127.0.0.1:PORT`, or `https`.
    pub(crate) fn origin(&self) -> String {
        format!("{}://{}", self.scheme, self.address)
    }

    /// Every byte that came in, over all connections.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.bytes.lock().clone()
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.task.lock().abort();
        if !std::thread::panicking() && !self.exchanges {
            let leaked = leaks::found_in(&self.bytes.lock());
            assert_eq!(leaked, None, "a part of a caller's credential came to {}", self.origin());
        }
    }
}

/// A body that is all there.
pub(crate) fn whole(bytes: impl Into<Bytes>) -> Body {
    let full = Full::new(bytes.into());
    BoxBody::new(http_body_util::BodyExt::map_err(full, |never: Infallible| match never {}))
}

async fn accept<A, F>(
    (listener, tls, shut): (std::net::TcpListener, Option<TlsAcceptor>, Arc<Notify>),
    bytes: Arc<Mutex<Vec<u8>>>,
    answer: Arc<A>,
) where
    A: Fn(Request<Incoming>) -> F + Send + Sync + 'static,
    F: Future<Output = Response<Body>> + Send + 'static,
{
    let listener = TcpListener::from_std(listener).unwrap();
    // Dropped with this task, and with it every connection.
    let mut connections = JoinSet::new();
    while let Some(Ok((stream, _))) = tokio::select! {
        accepted = listener.accept() => Some(accepted),
        () = shut.notified() => None,
    } {
        let answer = Arc::clone(&answer);
        let (bytes, tls) = (Arc::clone(&bytes), tls.clone());
        connections.spawn(async move {
            let service = service_fn(move |request| {
                let answer = answer(request);
                async move { Ok::<_, Infallible>(answer.await) }
            });
            let http1 = hyper::server::conn::http1::Builder::new().half_close(false).clone();
            let Some(tls) = tls else {
                drop(http1.serve_connection(TokioIo::new(Tap { stream, bytes }), service).await);
                return;
            };
            let Ok(stream) = tls.accept(stream).await else { return };
            let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
            let wire = TokioIo::new(Tap { stream, bytes });
            if http2 {
                let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                drop(builder.serve_connection(wire, service).await);
            } else {
                drop(http1.serve_connection(wire, service).await);
            }
        });
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

/// A connection whose incoming bytes are kept.
struct Tap<S> {
    stream: S,
    bytes: Arc<Mutex<Vec<u8>>>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Tap<S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = into.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(context, into);
        self.bytes.lock().extend(&into.filled()[before..]);
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Tap<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
