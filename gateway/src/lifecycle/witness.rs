//! Who writes down that a credential was minted?
//!
//! For whom it is minted and because of which request, as far as there is one: kept apart from that request, for a minting
//! is recorded also where nobody waits for it any more. It mints nothing.

use std::{net::SocketAddr, sync::Arc};

use uuid::Uuid;

use super::local;
use crate::{
    audit::{
        journal::{self, Journal},
        record::{self, Who},
    },
    config::UpstreamId,
    exchange::{Facts, Witness},
    identity::Identity,
    refusal::{Era, Refusal},
    rpc::RequestId,
    telemetry::{
        context::{SpanId, TraceId},
        metrics::metrics,
    },
};

/// Because of what; nothing, where the gateway itself wants to know what there is.
#[derive(Debug, Default)]
pub(super) struct Cause {
    /// For whom.
    pub(super) identity: Option<Arc<Identity>>,
    /// Name and version that the client claims.
    pub(super) claimed: (Option<String>, Option<String>),
    /// The call, by its audit id.
    pub(super) call: Option<Uuid>,
    /// The JSON-RPC id.
    pub(super) request_id: Option<RequestId>,
    /// The JSON-RPC method.
    pub(super) method: Option<&'static str>,
    /// The client's era.
    pub(super) era: Option<Era>,
    /// The version that the client speaks.
    pub(super) version: Option<&'static str>,
    /// The name of the legacy session.
    pub(super) session: Option<String>,
    /// The span of the request.
    pub(super) trace: Option<(TraceId, SpanId)>,
    /// The other end of the connection.
    pub(super) peer: Option<SocketAddr>,
}

impl Cause {
    /// The witness of what is minted for `upstream`; none while it could not write.
    pub(super) fn witness(self, journal: &Arc<Journal>, upstream: &UpstreamId) -> Result<Witness, Refusal> {
        if !journal.healthy() {
            return Err(Refusal::AuditUnavailable("a credential would be minted without a record".to_owned()));
        }
        let (journal, upstream) = (Arc::clone(journal), upstream.clone());
        Ok(Witness::new(move |facts| self.record(&journal, &upstream, facts)))
    }

    fn record(&self, journal: &Journal, upstream: &UpstreamId, facts: &Facts) -> Result<(), Refusal> {
        let trace = self.trace.map(|(trace_id, span_id)| (trace_id.text(), span_id.text()));
        let mint = record::Mint {
            who: Who {
                identity: self.identity.as_deref(),
                claimed_name: self.claimed.0.as_deref(),
                claimed_version: self.claimed.1.as_deref(),
            },
            upstream: upstream.as_str(),
            grant: local::record_grant(facts, false),
            call: self.call,
            request: record::Request {
                id: self.request_id.as_ref().map(RequestId::text),
                method: self.method,
                era: self.era,
                version: self.version,
                session: self.session.as_deref(),
                arguments: None,
                trace_id: trace.as_ref().map(|(trace_id, _)| trace_id.as_str()),
                span_id: trace.as_ref().map(|(_, span_id)| span_id.as_str()),
                peer: self.peer,
            },
        };
        local::certain(journal, journal::new_id(), &mint, "a minted credential could not be recorded")
            .inspect_err(|_unwritten| metrics().audit_failures.increment())
    }
}
