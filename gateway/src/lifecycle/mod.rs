//! How does a request pass through the gateway?
//!
//! The whole life of a request in one place: every line is a stage, and every stage needs what the stages above it
//! proved. It does not know sockets; `edge` does.

use std::{future::Future, net::SocketAddr};

use bytes::Bytes;
use http::{HeaderMap, Method};
use tokio::sync::mpsc;

use crate::{config::Endpoint, refusal::Refusal};

/// The head of a request that the edge let in: the path named `endpoint`, `Host` and `Origin` were acceptable.
#[derive(Debug)]
pub struct Head {
    /// What the path named.
    pub endpoint: Endpoint,
    /// `POST`, `GET` or `DELETE`; the edge answers every other method itself.
    pub method: Method,
    /// The query string, if any.
    pub query: Option<String>,
    /// The headers as they came.
    pub headers: HeaderMap,
    /// Who is at the other end of the connection.
    pub peer: SocketAddr,
}

/// What goes back: the edge writes exactly this.
#[derive(Debug)]
pub struct Response {
    /// The HTTP status.
    pub status: u16,
    /// All headers beyond those of the framing.
    pub headers: HeaderMap,
    /// The body.
    pub body: Body,
}

/// The body of a [`Response`].
#[derive(Debug)]
pub enum Body {
    /// No body.
    Empty,
    /// All of it.
    Whole(Bytes),
    /// Server-sent events, each chunk one or more whole events; the stream ends when the channel closes, and a dropped
    /// receiver says that the client is gone.
    Stream(mpsc::Receiver<Bytes>),
}

/// The assembled gateway.
#[derive(Debug)]
pub struct Gateway {}

impl Gateway {
    /// Answers one request. `body` reads the request's body within its bounds, and is polled only when the caller is known.
    pub async fn handle<B>(&self, head: Head, body: B) -> Response
    where
        B: Future<Output = Result<Bytes, Refusal>>,
    {
        let _ = (head, body.await);
        Response { status: 503, headers: HeaderMap::new(), body: Body::Empty }
    }

    /// Answers a request that the edge refused, in the form and with the audit record that every refusal gets.
    pub async fn refuse(&self, head: Head, refusal: Refusal) -> Response {
        let _ = (head, refusal);
        Response { status: 503, headers: HeaderMap::new(), body: Body::Empty }
    }
}
