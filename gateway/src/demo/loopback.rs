//! How do the demo's own servers listen?
//!
//! HTTP/1.1 on a free port of this machine, whole bounded requests in, whole answers or event streams out. It knows no
//! protocol above HTTP, and has nothing to do with the gateway's edge.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, header::CONTENT_TYPE};
use http_body_util::BodyExt;
use hyper::{
    body::{Frame, Incoming},
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::Value;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, mpsc},
};

use crate::tasks;

/// A server: one whole request in, one answer out.
pub(super) trait Serve: Send + Sync + 'static {
    /// Answers one request.
    fn serve(&self, request: Request<Bytes>) -> impl Future<Output = Response<Body>> + Send;
}

/// The body of an answer.
#[derive(Debug)]
pub(super) enum Body {
    Whole(Option<Bytes>),
    /// Server-sent events; a dropped receiver says that the client is gone.
    Events(mpsc::Receiver<Bytes>),
}

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        match &mut *self {
            Self::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Events(events) => events.poll_recv(context).map(|next| next.map(|bytes| Ok(Frame::data(bytes)))),
        }
    }
}

/// A socket on a free port, not yet answering: whoever listens may have to be told its own address first.
#[derive(Debug)]
pub(super) struct Socket {
    listener: TcpListener,
    pub(super) address: SocketAddr,
}

impl Socket {
    pub(super) async fn open() -> io::Result<Self> {
        let listener = TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        Ok(Self { listener, address })
    }

    /// Answers with `server` until the process ends.
    pub(super) fn answer_with<S: Serve>(self, server: Arc<S>) {
        let seats = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        tasks::background(async move {
            loop {
                let Ok(seat) = Arc::clone(&seats).acquire_owned().await else { return };
                let Ok((stream, _)) = self.listener.accept().await else {
                    // Out of file descriptors, most likely: asking again at once would only burn the processor.
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                };
                let server = Arc::clone(&server);
                tasks::background(async move {
                    converse(server, stream).await;
                    drop(seat);
                });
            }
        });
    }
}

async fn converse<S: Serve>(server: Arc<S>, stream: TcpStream) {
    let service = service_fn(|request| {
        let server = Arc::clone(&server);
        async move {
            let answer = match whole(request).await {
                Ok(request) => server.serve(request).await,
                Err(status) => empty(status),
            };
            Ok::<_, std::convert::Infallible>(answer)
        }
    });
    let mut http = hyper::server::conn::http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(READ_TIMEOUT);
    // A peer that leaves in the middle is no event for a sample server.
    drop(http.serve_connection(TokioIo::new(stream), service).await);
}

async fn whole(request: Request<Incoming>) -> Result<Request<Bytes>, StatusCode> {
    let (parts, mut body) = request.into_parts();
    let read = async {
        let mut bytes = Vec::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|_incomplete| StatusCode::BAD_REQUEST)?;
            let Some(data) = frame.data_ref() else { continue };
            if bytes.len().saturating_add(data.len()) > BODY_BYTES_MAX {
                return Err(StatusCode::PAYLOAD_TOO_LARGE);
            }
            bytes.extend_from_slice(data);
        }
        Ok(bytes)
    };
    let bytes = tokio::time::timeout(READ_TIMEOUT, read).await.map_err(|_elapsed| StatusCode::REQUEST_TIMEOUT)??;
    Ok(Request::from_parts(parts, Bytes::from(bytes)))
}

/// An answer without a body.
pub(super) fn empty(status: StatusCode) -> Response<Body> {
    with_body(status, None, Body::Whole(None))
}

/// An answer of one JSON value.
pub(super) fn json(status: StatusCode, value: &Value) -> Response<Body> {
    with_body(status, Some("application/json"), Body::Whole(Some(Bytes::from(value.to_string()))))
}

/// An answer that goes on: the sender is where its events come from.
pub(super) fn events(stream: mpsc::Receiver<Bytes>) -> Response<Body> {
    let mut response = with_body(StatusCode::OK, Some("text/event-stream"), Body::Events(stream));
    response.headers_mut().insert("cache-control", HeaderValue::from_static("no-store"));
    response
}

fn with_body(status: StatusCode, kind: Option<&'static str>, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    if let Some(kind) = kind {
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    }
    response
}

/// Bytes of a request.
const BODY_BYTES_MAX: usize = 1024 * 1024;

/// Time for a request to arrive.
const READ_TIMEOUT: Duration = Duration::from_secs(10);

/// Connections at once.
const CONNECTIONS_MAX: usize = 256;

/// The wait after an accept that failed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
