//! What does the admin listener answer?
//!
//! `GET` and `HEAD` on a few pages that somebody else writes. It does not know what they say.

use std::{fmt, net::SocketAddr, sync::Arc};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Method,
    header::{ALLOW, CONTENT_TYPE},
};
use hyper::{Request, Response, body::Incoming};

use super::{
    activity::Busy,
    body::Reply,
    connection::{Answer, Peer},
    http::written,
};
use crate::{
    lifecycle::{self, Body},
    refusal::Refusal,
};

/// One page.
#[derive(Debug)]
pub struct Page {
    /// The HTTP status.
    pub status: u16,
    /// The media type.
    pub content_type: &'static str,
    /// What it says.
    pub body: Bytes,
}

/// From a path to its page.
#[derive(Clone)]
#[expect(clippy::type_complexity, reason = "one function, and its name is the struct's")]
pub struct Pages(Arc<dyn Fn(&str) -> Option<Page> + Send + Sync>);

impl Pages {
    /// Pages as `find` writes them.
    pub fn new(find: impl Fn(&str) -> Option<Page> + Send + Sync + 'static) -> Self {
        Self(Arc::new(find))
    }

    /// The page at `path`.
    #[must_use]
    pub fn page(&self, path: &str) -> Option<Page> {
        (self.0)(path)
    }
}

impl fmt::Debug for Pages {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Pages")
    }
}

impl Answer for Pages {
    async fn answer(self: Arc<Self>, request: Request<Incoming>, _peer: Peer, busy: Busy) -> Response<Reply> {
        let readable = matches!(*request.method(), Method::GET | Method::HEAD);
        let mut headers = HeaderMap::with_capacity(4);
        let page = if readable { self.page(request.uri().path()) } else { None };
        let (status, body) = match page {
            Some(page) => {
                headers.insert(CONTENT_TYPE, HeaderValue::from_static(page.content_type));
                (page.status, Body::Whole(page.body))
            }
            None if readable => (404, Body::Empty),
            None => {
                headers.insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
                (405, Body::Empty)
            }
        };
        let response = lifecycle::Response { status, headers, body };
        written(response, *request.method() != Method::HEAD, busy)
    }

    fn refuse(&self, _refusal: Refusal, _peer: SocketAddr) -> Option<lifecycle::Response> {
        None
    }
}
