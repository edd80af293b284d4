//! Is what is known of the upstreams still true?
//!
//! One task an upstream reads its tools again and again: when what it vouched for runs out, soon after a failure, and at
//! once when something shook the trust. It serves nothing.

use std::{sync::Arc, time::Duration};

use tokio::sync::Notify;

use super::{Estate, Gateway, witness::Cause};
use crate::{
    audit::journal::Journal,
    catalog::{Kind, Listing},
    clock,
    config::UpstreamId,
    exchange::Grant,
    random::jittered,
    refusal::Refusal,
    rpc::Topics,
    tasks,
    telemetry::metrics::metrics,
    upstream::{Heard, Peer, Read},
};

impl Gateway {
    /// Keeps the catalogue of the estate in force up to date, for as long as it is in force.
    pub fn keep_catalogue(self: &Arc<Self>) {
        let estate = self.estate();
        estate.identity.start();
        let ahead = Arc::clone(&estate);
        tasks::background(async move { ahead.exchange.look_ahead(clock::now()).await });
        for peer in estate.upstreams.peers() {
            let (gateway, estate, peer) = (Arc::clone(self), Arc::clone(&estate), Arc::clone(peer));
            tasks::background(async move {
                // The era is found out by whoever reads first.
                let known = Notify::new();
                let both = async {
                    tokio::join!(keep((&estate, &gateway), &peer, &known), hear((&estate, &gateway), &peer, &known));
                };
                tokio::select! {
                    () = estate.retired() => {}
                    () = both => {}
                }
            });
        }
    }
}

/// Reads what one upstream offers, again and again.
async fn keep((estate, gateway): (&Estate, &Gateway), peer: &Peer, known: &Notify) {
    let id = peer.settings().id.clone();
    let (mut failures, mut rest) = (0_u32, REST_FIRST);
    let mut said = Topics::default();
    loop {
        said = said.or(peer.said());
        let reading = peer.begin_reading();
        let wait = match read((estate, &gateway.journal), peer, failures == 0).await {
            Ok(read) => {
                failures = if read.unread.is_empty() { 0 } else { failures.saturating_add(1) };
                known.notify_one();
                let wait = pause(read.ttl, peer.settings().refresh);
                // What is known first, then word of it: who is told finds the new list.
                if publish(estate, &id, read) || !said.is_empty() {
                    gateway.hub.said(&id, std::mem::take(&mut said));
                }
                if failures == 0 { wait } else { wait.min(after_failure(failures)) }
            }
            Err(refusal) => {
                failures = failures.saturating_add(1);
                degrade(estate, peer, &refusal);
                after_failure(failures)
            }
        };
        estate.asked(&id);
        peer.end_reading(reading);
        // Whichever comes first: its time, or word of a change; however much an upstream has to say, not without a rest,
        // and a longer one each time that it has more to say at once.
        let wait = jittered(wait);
        tokio::time::sleep(rest.min(wait)).await;
        let waiting = clock::instant();
        drop(tokio::time::timeout(wait.saturating_sub(rest), peer.shaken()).await);
        rest = if waiting.elapsed() < REST_MAX { rest.saturating_mul(2).min(REST_MAX) } else { REST_FIRST };
    }
}

/// Listens to one upstream for word that its tools have changed. Where it does not say such things, reading it at
/// intervals has to do; as often it is asked whether it does by now, for what says no may be a proxy, or an older release.
async fn hear((estate, gateway): (&Estate, &Gateway), peer: &Peer, known: &Notify) {
    known.notified().await;
    loop {
        let mut wait = LISTEN_AGAIN;
        if peer.spoken().is_some()
            && let Ok(grant) = own((estate, &gateway.journal), peer).await
            && let Heard::Nothing = peer.hear(&Arc::new(grant)).await
        {
            tracing::debug!(upstream = %peer.settings().id, "an upstream does not say when its tools change");
            wait = LISTEN_AGAIN.max(peer.settings().refresh);
        }
        tokio::time::sleep(jittered(wait)).await;
    }
}

/// The gateway's own credential.
async fn own((estate, journal): (&Estate, &Arc<Journal>), peer: &Peer) -> Result<Grant, Refusal> {
    let summons = || Cause::default().witness(journal, &peer.settings().id);
    estate.exchange.service(peer.settings(), &summons, clock::now()).await
}

/// Whatever `first` is, a credential that is not taken for the tools is dropped; one that is not taken for another list only
/// the first time in a row, for it may be good for the tools alone.
async fn read((estate, journal): (&Estate, &Arc<Journal>), peer: &Peer, first: bool) -> Result<Read, Refusal> {
    let grant = Arc::new(own((estate, journal), peer).await?);
    let key = grant.key();
    let read = peer.read(&grant).await;
    let unauthorized = match &read {
        Ok(read) => first && read.unread.iter().any(|(_, refusal)| matches!(refusal, Refusal::UpstreamUnauthorized)),
        Err(refusal) => matches!(refusal, Refusal::UpstreamUnauthorized),
    };
    if unauthorized {
        estate.exchange.drop_grant(&key);
    }
    read
}

/// Says whether that changed anything that a client can see.
fn publish(estate: &Estate, id: &UpstreamId, read: Read) -> bool {
    metrics().upstream_up.with([id.as_str()]).set(1);
    let Read { mut listing, withheld, unread, .. } = read;
    for (kind, refusal) in unread {
        // As where nothing could be read: what was read before stays in use.
        let before = estate.catalogue.load();
        *listing.of_mut(kind) = before.listing(id).map(|known| known.of(kind).to_vec()).unwrap_or_default();
        listing.stale.push(kind);
        let why = format!("`{}`: {}: {}", kind.list().0, refusal.code(), refusal.inside());
        listing.degraded = Some(Refusal::CatalogueUnavailable(why));
    }
    let degraded = listing.degraded.as_ref().map(|refusal| refusal.inside().into_owned());
    let (tools, prompts, resources) = (listing.tools.len(), listing.prompts.len(), listing.resources.len());
    if !estate.publish(id, listing) {
        return false;
    }
    tracing::info!(upstream = %id, tools, prompts, resources, "read what an upstream offers");
    if let Some(why) = degraded {
        tracing::warn!(upstream = %id, why, "a list of an upstream cannot be read");
    }
    for (name, why) in withheld {
        tracing::warn!(upstream = %id, name, why, "something is not served");
    }
    for name in estate.catalogue.load().ambiguous() {
        tracing::warn!(name, "two things claim one name; neither is served");
    }
    true
}

/// What was read before stays in use: the calls themselves will find out whether the upstream is there.
fn degrade(estate: &Estate, peer: &Peer, refusal: &Refusal) {
    let id = &peer.settings().id;
    peer.doubt();
    metrics().upstream_up.with([id.as_str()]).set(0);
    let known = estate.catalogue.load().listing(id).cloned().unwrap_or_default();
    let why = format!("{}: {}", refusal.code(), refusal.inside());
    let lasting = matches!(refusal, Refusal::UpstreamIncompatible(_));
    let degraded = if lasting { refusal.clone() } else { Refusal::CatalogueUnavailable(why.clone()) };
    if estate.publish(id, Listing { degraded: Some(degraded), stale: Kind::LISTED.to_vec(), ..known }) {
        tracing::warn!(upstream = %id, why, "an upstream cannot be read");
    }
}

fn after_failure(failures: u32) -> Duration {
    RETRY_FIRST.saturating_mul(2_u32.saturating_pow(failures.min(RETRY_DOUBLINGS_MAX)))
}

/// As long as the upstream vouches for its list, within what the administrator allows; their word has no lower bound.
fn pause(ttl: Option<Duration>, refresh: Duration) -> Duration {
    ttl.map_or(refresh, |ttl| ttl.max(REFRESH_MIN).min(refresh))
}

/// Between the end of one listening and the next.
const LISTEN_AGAIN: Duration = Duration::from_secs(3);

/// Between two readings, whatever an upstream says: doubled where word of a change waits already, up to the other.
const REST_FIRST: Duration = Duration::from_millis(100);
const REST_MAX: Duration = Duration::from_millis(400);

/// However short-lived an upstream says its list is.
const REFRESH_MIN: Duration = Duration::from_secs(2);

/// After the first failure; doubled with each further one.
const RETRY_FIRST: Duration = Duration::from_millis(500);

/// Up to 32 seconds between tries.
const RETRY_DOUBLINGS_MAX: u32 = 6;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::pause;

    #[test]
    fn a_list_is_read_again_when_its_time_is_over() {
        let seconds = Duration::from_secs;
        for (ttl, refresh, expect) in [
            (None, 300, 300),
            (Some(60), 300, 60),
            (Some(900), 300, 300),
            (Some(0), 300, 2),
            (Some(0), 1, 1),
            (None, 1, 1),
        ] {
            assert_eq!(pause(ttl.map(seconds), seconds(refresh)), seconds(expect), "{ttl:?} within {refresh}");
        }
    }
}
