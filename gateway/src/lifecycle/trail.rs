//! What is known of a request so far?
//!
//! Facts, gathered as the stages find them out, so that a refusal at any stage can be recorded with everything that was
//! known by then. It decides nothing.

use std::{net::SocketAddr, sync::Arc, time::Instant};

use super::Head;
use crate::{
    catalog::Target,
    clock::{self, Timestamp},
    config::Endpoint,
    identity::Identity,
    refusal::Era,
    rpc::{Asker, RequestId},
};

/// One request's facts.
#[derive(Debug)]
pub(super) struct Trail {
    /// When it began, by the wall clock: what every stage judges by.
    pub(super) now: Timestamp,
    /// When it began, by the clock that does not step.
    pub(super) began: Instant,
    /// Who is at the other end of the connection.
    pub(super) peer: SocketAddr,
    /// Where it came in.
    pub(super) endpoint: Endpoint,
    /// Who asks, once that is proven.
    pub(super) identity: Option<Arc<Identity>>,
    /// What is asked, once that is read.
    pub(super) request: Option<Asked>,
    /// What it is aimed at, once that is found.
    pub(super) target: Option<Target>,
}

/// What the envelope said.
#[derive(Debug, Clone)]
pub(super) struct Asked {
    /// The era of the client.
    pub(super) era: Era,
    /// The version it speaks.
    pub(super) version: &'static str,
    /// The JSON-RPC method, where it is one that is known.
    pub(super) method: &'static str,
    /// The JSON-RPC id, as the client wrote it.
    pub(super) id: Option<RequestId>,
    /// What the client says of itself.
    pub(super) asker: Asker,
}

impl Trail {
    pub(super) fn new(head: &Head) -> Self {
        Self {
            now: clock::now(),
            began: clock::instant(),
            peer: head.peer,
            endpoint: head.endpoint.clone(),
            identity: None,
            request: None,
            target: None,
        }
    }

    /// The era to answer in: that of the request, or the one whose errors every client understands.
    pub(super) fn era(&self) -> Era {
        self.request.as_ref().map_or(Era::Modern, |asked| asked.era)
    }
}
