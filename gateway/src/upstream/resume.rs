//! How does an answer go on whose stream ended too early?
//!
//! A legacy server may end an answer's stream once it has given an event a name, and is asked for what came after it (MCP
//! 2025-11-25 transports, "Resumability and Redelivery"; RL-08). The call is not sent again, and how long its answer may
//! take is not judged here.

use std::time::{Duration, Instant};

use http::{HeaderName, HeaderValue};
use tokio::time::sleep_until;

use super::{Messages, Way, transport::Outgoing};
use crate::{clock, rpc::sse::Event};

/// How far a stream was read, and when its server wants to be asked for more.
#[derive(Debug, Clone)]
pub(super) struct Mark {
    last: Option<HeaderValue>,
    wait: Duration,
}

impl Mark {
    /// Nothing was read.
    pub(super) const fn new() -> Self {
        Self { last: None, wait: RETRY }
    }

    /// Takes note of an event, whether it carries a message or not.
    pub(super) fn pass(&mut self, event: &Event) {
        if let Some(id) = &event.id {
            let fits = !id.is_empty() && id.len() <= EVENT_ID_BYTES_MAX;
            self.last = HeaderValue::from_str(id).ok().filter(|_| fits);
        }
        if let Some(retry_ms) = event.retry_ms {
            self.wait = Duration::from_millis(retry_ms).clamp(RETRY_MIN, RETRY_MAX);
        }
    }
}

/// The way back to an answer. What is given up while it waits goes on where it was the next time.
#[derive(Debug)]
pub(super) struct Resume {
    way: Way,
    due: Option<Instant>,
}

impl Resume {
    pub(super) const fn new(way: Way) -> Self {
        Self { way, due: None }
    }

    /// What comes after `mark`, once the server wants to be asked; nothing where it cannot be had.
    pub(super) async fn after(&mut self, mark: &Mark) -> Option<Messages> {
        let last = mark.last.clone()?;
        let now = clock::instant();
        let due = *self.due.get_or_insert(now.checked_add(mark.wait).unwrap_or(now));
        sleep_until(due.into()).await;
        let peer = &self.way.peer;
        let mut headers = peer.headers(self.way.spoken, "", None);
        headers.insert(LAST_EVENT_ID, last);
        let outgoing = Outgoing::new(Vec::new(), headers, self.way.session_id());
        let reading = peer.reading(peer.settings.timeout, None);
        let answered = peer.transport.get(&self.way.grant, outgoing, reading).await.ok()?;
        self.due = None;
        (answered.status.is_success() && answered.messages.is_stream()).then_some(answered.messages)
    }
}

/// `Last-Event-ID` (WHATWG HTML §9.2.4).
const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// A longer name of an event is not repeated in a header.
const EVENT_ID_BYTES_MAX: usize = 1_024;

/// A server that says nothing is asked after so long; no server is asked in a hurry, and none after a minute.
const RETRY: Duration = Duration::from_secs(1);
const RETRY_MIN: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(60);
