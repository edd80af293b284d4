//! What is said to a request whose head could not be read?
//!
//! hyper answers such a head itself: a bare status, after which it closes. No client of MCP can make sense of that
//! (spec §7.7), and nobody would hear of it. Here that answer, on its way to the socket, becomes the refusal that it
//! stands for. It reads no request, and of answers only the first bytes of a write.

use std::fmt;

use bytes::{Buf, Bytes};
use http::StatusCode;

use crate::{
    lifecycle::{Body, Response},
    refusal::Refusal,
};

/// The bytes that go out in the place of hyper's own answer.
pub(super) struct Unread {
    refuse: Box<dyn Fn(Refusal) -> Option<Response> + Send + Sync>,
    header_bytes_max: usize,
    left: Bytes,
}

impl fmt::Debug for Unread {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Unread").field("left", &self.left.len()).finish_non_exhaustive()
    }
}

impl Unread {
    pub(super) fn new(
        header_bytes_max: usize,
        refuse: impl Fn(Refusal) -> Option<Response> + Send + Sync + 'static,
    ) -> Self {
        Self { refuse: Box::new(refuse), header_bytes_max, left: Bytes::new() }
    }

    /// Takes `bytes` for itself where they are hyper's own answer.
    ///
    /// Every answer of ours has [`OURS`] in its head, and no body of ours can begin so: bodies are JSON and events, in
    /// which no carriage return stands. So what begins and ends like this is a head of hyper's.
    pub(super) fn takes(&mut self, bytes: &[u8]) -> bool {
        if !bytes.starts_with(b"HTTP/1.1 4") {
            return false;
        }
        let Some(head) = std::str::from_utf8(bytes).ok().and_then(|head| head.strip_suffix("\r\n\r\n")) else {
            return false;
        };
        if head.contains(OURS) || !head.contains(EMPTY) {
            return false;
        }
        let refusal = match head.get(9..12) {
            Some("431") => Refusal::HeadersTooLarge(self.header_bytes_max),
            _ => Refusal::HttpMalformed("its head cannot be read"),
        };
        let Some(response) = (self.refuse)(refusal) else { return false };
        self.left = text(head, &response);
        true
    }

    /// What has still to go out.
    pub(super) fn left(&self) -> &[u8] {
        &self.left
    }

    pub(super) fn sent(&mut self, bytes: usize) {
        self.left.advance(bytes.min(self.left.len()));
    }
}

/// `response` with what `head` says of the connection and of the time.
fn text(head: &str, response: &Response) -> Bytes {
    let reason = StatusCode::from_u16(response.status).ok().and_then(|status| status.canonical_reason());
    let mut out = format!("HTTP/1.1 {} {}", response.status, reason.unwrap_or_default()).into_bytes();
    for line in head.split("\r\n").skip(1).filter(|line| *line != EMPTY.trim_ascii()) {
        out.extend_from_slice(b"\r\n");
        out.extend_from_slice(line.as_bytes());
    }
    for (name, value) in &response.headers {
        out.extend_from_slice(b"\r\n");
        out.extend_from_slice(name.as_str().as_bytes());
        out.extend_from_slice(b": ");
        out.extend_from_slice(value.as_bytes());
    }
    let body: &[u8] = if let Body::Whole(body) = &response.body { body } else { b"" };
    out.extend_from_slice(format!("\r\ncontent-length: {}\r\n\r\n", body.len()).as_bytes());
    out.extend_from_slice(body);
    Bytes::from(out)
}

/// What `http::finish` puts into the head of every answer.
const OURS: &str = "\r\nx-content-type-options: nosniff";
const EMPTY: &str = "\r\ncontent-length: 0";

#[cfg(test)]
mod tests {
    use http::HeaderMap;

    use super::*;

    const HYPERS: &str = "HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-length: 0\r\ndate: Sat, 21 Nov 2026 14:00:00 GMT\r\n\r\n";

    fn unread() -> Unread {
        Unread::new(7, |refusal| {
            let outside = refusal.outside(crate::refusal::Era::Modern);
            let headers = HeaderMap::from_iter([(http::header::CONTENT_TYPE, "application/json".parse().unwrap())]);
            let body = Body::Whole(Bytes::from_static(outside.code.as_bytes()));
            Some(Response { status: outside.status, headers, body })
        })
    }

    #[test]
    fn hypers_own_answer_becomes_a_refusal() {
        let mut unread = unread();
        assert!(unread.takes(HYPERS.as_bytes()));
        let expect = "HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ndate: Sat, 21 Nov 2026 14:00:00 GMT\r\ncontent-type: application/json\r\ncontent-length: 17\r\n\r\nheaders_too_large";
        assert_eq!(std::str::from_utf8(unread.left()).unwrap(), expect);
        unread.sent(expect.len() - 1);
        assert_eq!(unread.left(), b"e");
        unread.sent(9);
        assert!(unread.left().is_empty());
        assert!(unread.takes(HYPERS.replace("431", "400").as_bytes()));
        assert!(
            unread.left().starts_with(b"HTTP/1.1 400 Bad Request\r\n") && unread.left().ends_with(b"http_malformed")
        );
    }

    #[test]
    fn nothing_of_ours_is_taken_for_it() {
        for ours in [
            HYPERS.replace("connection: close", "x-content-type-options: nosniff"),
            HYPERS.replace("content-length: 0", "content-length: 1"),
            HYPERS.replace("HTTP/1.1 4", "HTTP/1.1 2"),
            format!("{HYPERS}x"),
            format!("x{HYPERS}"),
            "HTTP/1.1 100 Continue\r\n\r\n".to_owned(),
            "{}".to_owned(),
        ] {
            assert!(!unread().takes(ours.as_bytes()), "{ours}");
        }
    }
}
