//! What does it take when many ask, each what is theirs?
//!
//! Requests that are given, on connections that are given, so many at once; what the Tollgate has to have counted by then
//! is checked. `load.rs` has the same call over and over for a time.

use std::{sync::Arc, time::Instant};

use crate::{
    CONNECTIONS, Sample, one,
    parties::{Connection, Party},
};

/// A connection, and what is asked on it, one after the other.
pub type Asker = (Connection, Vec<Arc<[u8]>>);

/// Has all `askers` ask, and gives their connections back. By how much each of the counters that `grows` names, with its
/// labels, has to have grown, stands beside it.
pub async fn asked<const N: usize>(
    party: &Party,
    askers: Vec<Asker>,
    grows: [(&str, usize); N],
) -> (Vec<Connection>, Sample) {
    let counters = grows.map(|(counter, _)| counter);
    let counted_before = party.counters(counters).await;
    let share = askers.len().div_ceil(CONNECTIONS);
    let (ran_before, began) = (party.ran(), Instant::now());
    let (mut left, mut workers) = (askers.into_iter().peekable(), Vec::new());
    while left.peek().is_some() {
        workers.push(tokio::spawn(in_turn(left.by_ref().take(share).collect())));
    }
    let (mut connections, mut latencies) = (Vec::new(), Vec::new());
    for worker in workers {
        let (own, took) = worker.await.unwrap();
        connections.extend(own);
        latencies.extend(took);
    }
    let sample = Sample::of(party.ran_us_since(&ran_before), began.elapsed(), latencies);
    let counted = party.counters(counters).await;
    for (((counter, more), before), after) in grows.into_iter().zip(counted_before).zip(counted) {
        assert_eq!(after - before, more, "{counter} of `{}`", party.name);
    }
    (connections, sample)
}

async fn in_turn(askers: Vec<Asker>) -> (Vec<Connection>, Vec<f64>) {
    let (mut connections, mut latencies) = (Vec::new(), Vec::new());
    for (mut connection, requests) in askers {
        for request in requests {
            latencies.push(one(&mut connection, &request).await);
        }
        connections.push(connection);
    }
    (connections, latencies)
}

/// Counters of Tollgate that tell what was remembered of credentials, and what was decided.
pub const TOKENS_KNOWN: &str = r#"tollgate_identity_cache_total{tollgate_outcome="hit"}"#;
pub const TOKENS_NEW: &str = r#"tollgate_identity_cache_total{tollgate_outcome="miss"}"#;
pub const ALLOWED: &str = r#"tollgate_policy_decisions_total{tollgate_outcome="allow"}"#;
