//! Which requests of ours has a legacy client not answered yet?
//!
//! A server asks a legacy client by a JSON-RPC request on the stream of a call; the client answers by a POST of its own
//! in the same session (RL-05). This gives each request a name that nobody guesses and brings the answer to the call that
//! asked. It does not read answers.

use std::{collections::HashMap, future, sync::Arc};

use parking_lot::Mutex;
use tokio::sync::mpsc;

use crate::{random, refusal::Refusal, rpc::reply::Response};

/// Requests under way in one session, by their ids as JSON text.
#[derive(Debug, Default)]
pub(super) struct Asks(Mutex<HashMap<String, mpsc::Sender<Brought>>>);

type Brought = (String, Response);

impl Asks {
    /// Brings an answer to the call that asked; what nobody asked, or was answered before, is ignored.
    pub(super) fn answer(&self, response: Response) {
        let Some(id) = response.id().map(|id| id.text().trim_matches('"').to_owned()) else { return };
        let asked = self.0.lock().remove(&id);
        if let Some(call) = asked {
            // There is room for every answer that a call waits for.
            drop(call.try_send((id, response)));
        }
    }
}

/// One call's questions to a legacy client.
#[derive(Debug)]
pub struct Conversation {
    asks: Arc<Asks>,
    open: Vec<String>,
    brings: mpsc::Sender<Brought>,
    brought: mpsc::Receiver<Brought>,
}

impl Conversation {
    pub(super) fn new(asks: &Arc<Asks>) -> Self {
        let (brings, brought) = mpsc::channel(OPEN_MAX);
        Self { asks: Arc::clone(asks), open: Vec::new(), brings, brought }
    }

    /// A name for one more request, whose answer comes back here.
    ///
    /// # Errors
    /// [`Refusal::Overloaded`] where too many wait; [`Refusal::Bug`] where the machine gives no randomness.
    pub fn ask(&mut self) -> Result<String, Refusal> {
        if self.open.len() >= OPEN_MAX {
            return Err(Refusal::Overloaded("questions of one call"));
        }
        let id = format!("tollgate-{}", random::unguessable()?);
        self.asks.0.lock().insert(id.clone(), self.brings.clone());
        self.open.push(id.clone());
        Ok(id)
    }

    /// The next answer, and the name of what it answers; never, where nothing is asked.
    pub async fn answered(&mut self) -> (String, Response) {
        match self.brought.recv().await {
            Some((id, response)) => {
                self.open.retain(|open| *open != id);
                (id, response)
            }
            None => future::pending().await,
        }
    }

    /// No longer waits for the answer to this one.
    pub fn withdraw(&mut self, id: &str) {
        self.open.retain(|open| open != id);
        self.asks.0.lock().remove(id);
    }
}

impl Drop for Conversation {
    fn drop(&mut self) {
        let mut asks = self.asks.0.lock();
        for id in &self.open {
            asks.remove(id);
        }
    }
}

/// Requests that one call may have open with its client.
const OPEN_MAX: usize = 16;
