//! How does an answer go on whose stream ended too early?
//!
//! A legacy server may end an answer's stream once it has given an event a name, and is asked for what came after it (MCP
//! 2025-11-25 transports, "Resumability and Redelivery"; RL-08). The call is not sent again, and how long its answer may
//! take is not judged here.

use std::time::Duration;

use http::HeaderValue;
use tokio::task::JoinHandle;

use super::{Messages, Way, transport::Outgoing};
use crate::{
    rpc::{headers::LAST_EVENT_ID, sse::Event},
    tasks,
};

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

/// The way back to an answer.
#[derive(Debug)]
pub(super) struct Resume {
    way: Way,
    asking: Option<Asking>,
}

/// A task of its own: whoever waits for it may turn to something else and come back, and the server is asked once.
#[derive(Debug)]
struct Asking(JoinHandle<Option<Messages>>);

impl Drop for Asking {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Resume {
    pub(super) const fn new(way: Way) -> Self {
        Self { way, asking: None }
    }

    /// From now on it is asked for as the call goes now; a question that is out already stays.
    pub(super) fn renew(&mut self, way: Way) {
        self.way = way;
    }

    /// What comes after `mark`, once the server wants to be asked; nothing where it cannot be had.
    pub(super) async fn after(&mut self, mark: &Mark) -> Option<Messages> {
        let last = mark.last.clone()?;
        let way = &self.way;
        let begin = || Asking(tasks::background(ask(way.clone(), last, mark.wait)));
        let asking = self.asking.get_or_insert_with(begin);
        let messages = (&mut asking.0).await.ok().flatten();
        self.asking = None;
        messages
    }
}

async fn ask(way: Way, last: HeaderValue, wait: Duration) -> Option<Messages> {
    tokio::time::sleep(wait).await;
    let mut headers = way.peer.headers(way.spoken, "", None);
    headers.insert(LAST_EVENT_ID, last);
    let outgoing = Outgoing::new(Vec::new(), headers, way.session_id());
    let reading = way.peer.reading(way.peer.settings.timeout, None);
    let answered = way.peer.transport.get(&way.shown.now, outgoing, reading).await.ok()?;
    (answered.status.is_success() && answered.messages.is_stream()).then_some(answered.messages)
}

/// A longer name of an event is not repeated in a header.
const EVENT_ID_BYTES_MAX: usize = 1_024;

/// A server that says nothing is asked after so long; no server is asked in a hurry, and none after a minute.
const RETRY: Duration = Duration::from_secs(1);
const RETRY_MIN: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(60);
