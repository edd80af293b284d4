//! Who is dialled, and under which bounds?
//!
//! The only place that opens outbound connections: TLS by rustls with the trust that the caller names, pooled, with a
//! deadline and a size on everything. It follows no redirect, reads no proxy variable, and knows nothing of MCP. Whoever
//! asks says who named the address: the administrator ([`Client::new`]), or somebody outside ([`Client::outside`]).

mod addresses;
mod outside;
mod paced;
mod pool;
#[cfg(test)]
mod tests;
mod trust;

use std::{error::Error, fmt, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use http::{Request, Response, Uri};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::client::legacy::connect::HttpConnector;
use outside::{Outside, Reach, Resolver, UnderWay};
use pool::{Back, Pool};
pub use trust::Trust;

use crate::config;

/// A pool of connections under one trust. Cheap to clone; clones share the pool.
#[derive(Clone)]
pub struct Client {
    pool: Pool,
    reach: Reach,
}

/// What an exchange of one request and one whole answer may cost.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// From the first byte out to the last byte in.
    pub deadline: Duration,
    /// Bytes of the answer's body.
    pub bytes_max: usize,
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EgressError {
    /// No connection, or the peer did not begin with the request: nothing can have come of it.
    Unreachable(String),
    /// The peer is there and did nothing of the request (RFC 9113 §8.7): nothing can have come of it.
    Refused(String),
    /// The deadline passed; what came of the request is unknown.
    Timeout,
    /// The connection failed after the request began to go out; what came of it is unknown.
    Lost(String),
    /// The answer is larger than the bound, in bytes.
    TooLarge(usize),
    /// The address is one that this client does not dial.
    Forbidden(String),
}

impl fmt::Display for EgressError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable(why) => write!(formatter, "unreachable: {why}"),
            Self::Refused(why) => write!(formatter, "refused: {why}"),
            Self::Timeout => formatter.write_str("no answer in time"),
            Self::Lost(why) => write!(formatter, "answer lost: {why}"),
            Self::TooLarge(limit) => write!(formatter, "answer larger than {limit} bytes"),
            Self::Forbidden(why) => write!(formatter, "not dialled: {why}"),
        }
    }
}

impl Error for EgressError {}

impl fmt::Debug for Client {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Client").field("reach", &self.reach).finish_non_exhaustive()
    }
}

impl Client {
    /// A client that trusts what `trust` names, for addresses that the administrator wrote down: they may be private.
    ///
    /// # Errors
    /// [`EgressError::Forbidden`] where a certificate file cannot be read or holds no certificate.
    pub fn new(trust: &Trust) -> Result<Self, EgressError> {
        Self::within(trust, Reach::Configured { plain_http: trust.plain_http })
    }

    /// A client for addresses that somebody outside named: a client's metadata document, the keys or the authorization
    /// server that somebody else's metadata points to. Everything is refused that is not `https` at port 443 on the
    /// public internet, judged by the very addresses that are dialled; `[egress]` names the exceptions. Few requests at
    /// once go to one host, and what has failed is not asked again for a moment. A redirect is an answer like any other.
    ///
    /// Ask with [`Client::fetch`], which takes the bounds. What others sent does not belong in such a request.
    ///
    /// # Errors
    /// [`EgressError::Forbidden`] where a certificate file cannot be read or holds no certificate.
    pub fn outside(egress: &config::Egress) -> Result<Self, EgressError> {
        let trust = Trust { ca: egress.ca.clone(), ..Trust::default() };
        Self::within(&trust, Reach::Outside(Arc::new(Outside::new(egress))))
    }

    fn within(trust: &Trust, reach: Reach) -> Result<Self, EgressError> {
        let mut connector = HttpConnector::new_with_resolver(Resolver::new(reach.clone()));
        connector.enforce_http(false);
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
        let https = hyper_rustls::HttpsConnectorBuilder::new()
            .with_tls_config(trust::client_config(trust)?)
            .https_or_http()
            .enable_http1()
            .enable_http2()
            .wrap_connector(connector);
        Ok(Self { pool: Pool::new(https), reach })
    }

    /// Sends `request` and reads the whole answer.
    ///
    /// # Errors
    /// Every [`EgressError`].
    pub async fn fetch(&self, request: Request<Bytes>, bounds: Bounds) -> Result<Response<Bytes>, EgressError> {
        let under_way = self.begin(request.uri())?;
        let exchange = async {
            let (parts, mut body) = self.send(request).await?.into_parts();
            let body = body.whole(bounds.bytes_max).await?;
            Ok(Response::from_parts(parts, body))
        };
        let answered = tokio::time::timeout(bounds.deadline, exchange).await.unwrap_or(Err(EgressError::Timeout));
        if let (Some(under_way), Err(error)) = (under_way, &answered) {
            under_way.failed(error);
        }
        answered
    }

    /// Sends `request` and gives the answer as soon as its head is there; its body is read by whoever asked.
    ///
    /// # Errors
    /// Every [`EgressError`] but [`EgressError::TooLarge`].
    pub async fn open(&self, request: Request<Bytes>, first_byte: Duration) -> Result<Response<Body>, EgressError> {
        tokio::time::timeout(first_byte, self.send(request)).await.unwrap_or(Err(EgressError::Timeout))
    }

    async fn send(&self, request: Request<Bytes>) -> Result<Response<Body>, EgressError> {
        self.admit(request.uri())?;
        self.pool.send(request.map(Full::new)).await
    }

    /// Room for a request, where that is bounded here.
    fn begin(&self, uri: &Uri) -> Result<Option<UnderWay>, EgressError> {
        match &self.reach {
            Reach::Configured { .. } => Ok(None),
            Reach::Outside(outside) => outside.begin(uri).map(Some),
        }
    }

    /// Credentials travel in clear to this machine only.
    fn admit(&self, uri: &Uri) -> Result<(), EgressError> {
        let plain_http = match &self.reach {
            Reach::Configured { plain_http } => *plain_http,
            Reach::Outside(outside) => return outside.admit(uri),
        };
        let host = uri.host().ok_or_else(|| EgressError::Forbidden("no host in the address".to_owned()))?;
        // HTTP/2 would send it along as a part of the host's name (RFC 9113 §8.3.1).
        if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
            return Err(EgressError::Forbidden("a credential in the address".to_owned()));
        }
        match uri.scheme_str() {
            Some("https") => Ok(()),
            Some("http") if plain_http || is_loopback(host) => Ok(()),
            _ => Err(EgressError::Forbidden(format!("`{host}` over anything but https"))),
        }
    }
}

/// An answer's body, read chunk by chunk: what is not read is not taken from the peer.
#[derive(Debug)]
pub struct Body {
    incoming: Incoming,
    /// The connection that it comes over, where no other answer may come meanwhile.
    back: Option<Back>,
}

impl Body {
    /// The next bytes; `None` at the end.
    ///
    /// # Errors
    /// [`EgressError::Lost`] where the answer ends early.
    pub async fn chunk(&mut self) -> Option<Result<Bytes, EgressError>> {
        loop {
            match self.incoming.frame().await? {
                Ok(frame) => match frame.into_data() {
                    Ok(data) if data.is_empty() => {}
                    Ok(data) => return Some(Ok(data)),
                    Err(_trailers) => {}
                },
                Err(error) => return Some(Err(EgressError::Lost(chain(&error)))),
            }
        }
    }

    /// Lets the connection serve again, once the answer has been read to its end; dropping this does, too.
    pub fn release(&mut self) {
        self.back = None;
    }

    /// Has the connection serve nobody any more: what it brought was no answer, and the next may be this one's.
    pub fn forsake(&mut self) {
        if let Some(back) = &mut self.back {
            back.forsake();
        }
    }

    /// All of the rest, at most `bytes_max`.
    ///
    /// # Errors
    /// [`EgressError::TooLarge`], [`EgressError::Lost`].
    pub async fn whole(&mut self, bytes_max: usize) -> Result<Bytes, EgressError> {
        let Some(first) = self.chunk().await else { return Ok(Bytes::new()) };
        let first = first?;
        if first.len() > bytes_max {
            return Err(EgressError::TooLarge(bytes_max));
        }
        let Some(second) = self.chunk().await else { return Ok(first) };
        let mut all = BytesMut::from(first);
        let mut next = Some(second);
        while let Some(chunk) = next {
            let chunk = chunk?;
            if all.len().saturating_add(chunk.len()) > bytes_max {
                return Err(EgressError::TooLarge(bytes_max));
            }
            all.extend_from_slice(&chunk);
            next = self.chunk().await;
        }
        Ok(all.freeze())
    }
}

/// Whether `host` is this machine, by name or address.
#[must_use]
pub fn is_loopback(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    bare == "localhost" || bare.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// An error with its causes, in one line.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        cause = inner.source();
    }
    text
}

/// Time for TCP to connect.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// A pooled connection is closed after so long without a request.
const IDLE_TIMEOUT: Duration = Duration::from_secs(55);

/// How often a peer of HTTP/2 is asked whether it is still there while it owes an answer, and how long it has for that:
/// one connection carries all calls, and all of them would wait in vain on one that has silently gone.
const HTTP2_PING: Duration = Duration::from_secs(10);
const HTTP2_PONG_MAX: Duration = Duration::from_secs(5);

/// What a peer of HTTP/2 may send of one answer that nobody reads, and of all on a connection: were they the same, one answer
/// would hold up all others. What is read goes on at the first for each time there and back.
const HTTP2_ANSWER_BYTES_MAX: u32 = 256 * 1024;
const HTTP2_BYTES_MAX: u32 = 16 * 1024 * 1024;

/// Idle connections kept to one host.
const IDLE_CONNECTIONS_MAX: usize = 128;

/// Bytes that hyper buffers of one answer before somebody reads them: also the bound on an answer's headers.
const HTTP1_BUFFER_BYTES_MAX: usize = 64 * 1024;
