//! Against what is a request judged?
//!
//! Everything that comes from `upstreams.toml` and `policies/`, built whole and swapped at once: a request sees one
//! estate from its first stage to its last. It does not watch files.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use arc_swap::ArcSwap;
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::watch;

use super::{kept::Kept, lists::Lists};
use crate::{
    catalog::{Catalogue, Definition, Kind, Listing},
    ceiling::Ceilings,
    config::{Config, Endpoint, Tolerance, UpstreamId},
    exchange::Exchange,
    identity::{Audience, Authenticator, Senders, api_key::ApiKeys, metadata, revocation::Revocations},
    policy::Policies,
    refusal::Refusal,
    state::Store,
    telemetry::metrics,
    upstream::Upstreams,
};

/// One reading of the configuration, and what was made of it.
#[derive(Debug)]
pub struct Estate {
    /// `upstreams.toml`.
    pub config: Arc<Config>,
    /// Who asks.
    pub identity: Authenticator,
    /// What there is.
    pub catalogue: ArcSwap<Catalogue>,
    /// May they, and how much: one folder, one swap.
    pub rules: ArcSwap<Rules>,
    /// In whose name.
    pub exchange: Exchange,
    /// Where to.
    pub upstreams: Upstreams,
    /// Who is not welcome any more: the same for every estate.
    pub revocations: Revocations,
    /// What outlives the process: the same for every estate.
    pub store: Store,
    /// What lists showed, to whom.
    pub(super) lists: Lists,
    /// What upstreams answered, to whom.
    pub(super) kept: Kept,
    audiences: BTreeMap<Endpoint, Vec<Audience>>,
    unread: Mutex<BTreeSet<UpstreamId>>,
    in_force: watch::Sender<bool>,
}

/// What `policies/` says.
#[derive(Debug)]
pub struct Rules {
    /// `*.cedar`.
    pub policies: Policies,
    /// `ceilings.toml`.
    pub ceilings: Ceilings,
}

impl Estate {
    /// Builds everything; nothing is dialled.
    ///
    /// # Errors
    /// What is wrong, in words for the operator.
    pub fn build(config: Arc<Config>, rules: Rules, store: Store) -> Result<Self, String> {
        Self::over(config, rules, (store, Revocations::default()))
    }

    fn over(config: Arc<Config>, rules: Rules, (store, revocations): (Store, Revocations)) -> Result<Self, String> {
        let api_keys = config.keys.enabled.then(|| ApiKeys::new(&config, store.clone()));
        let identity =
            Authenticator::new(&config.issuers, &config.egress, api_keys, Senders::new(&config, store.sealer()));
        let identity = identity.map_err(|why| format!("issuers: {why}"))?;
        let identity = identity.with_own(config.facade.as_ref().map(|facade| &facade.own));
        let exchange = Exchange::keeping(&config, store.clone(), revocations.clone());
        let exchange = exchange.map_err(|error| format!("grants: {error}"))?;
        let upstreams =
            Upstreams::new(&config.upstreams, &config.limits).map_err(|error| format!("upstreams: {error}"))?;
        let unread = |id: &UpstreamId| {
            let degraded = Some(Refusal::CatalogueUnavailable("it was not read yet".to_owned()));
            (id.clone(), Listing { degraded, stale: Kind::LISTED.to_vec(), ..Listing::default() })
        };
        let catalogue = Catalogue::merge(0, config.gateway.prefix, config.upstreams.keys().map(unread).collect());
        let audiences = endpoints(&config)
            .map(|endpoint| {
                let accepted = audiences(&config, &endpoint);
                (endpoint, accepted)
            })
            .collect();
        Ok(Self {
            identity,
            catalogue: ArcSwap::from_pointee(catalogue),
            rules: ArcSwap::from_pointee(rules),
            exchange,
            upstreams,
            revocations,
            store,
            lists: Lists::new(config.limits.list_cache_bytes),
            kept: Kept::new(config.limits.result_cache_bytes, config.upstreams.keys()),
            audiences,
            unread: Mutex::new(config.upstreams.keys().cloned().collect()),
            in_force: watch::Sender::new(true),
            config,
        })
    }

    /// The estate of a changed configuration. Credentials that are asked for as before are kept, and so is what the
    /// upstreams said, judged by the new rules: a change takes no tool away from anybody for the time of a reading.
    ///
    /// # Errors
    /// What is wrong, in words for the operator; `self` goes on as it is.
    pub fn succeeded(&self, config: Arc<Config>, rules: Rules) -> Result<Self, String> {
        let mut next = Self::over(Arc::clone(&config), rules, (self.store.clone(), self.revocations.clone()))?;
        let exchange = self.exchange.reconfigured(&config.upstreams, &config.logins, &config.egress);
        next.exchange = exchange.map_err(|error| error.to_string())?;
        next.identity.inherit(&self.identity);
        next.unread = Mutex::default();
        let known = self.catalogue.load();
        for (id, upstream) in &config.upstreams {
            let moved = self.config.upstreams.get(id).is_none_or(|before| before.transport != upstream.transport);
            let Some(listing) = known.listing(id).filter(|_| !moved) else { continue };
            let mut next_listing = Listing {
                offer: listing.offer.clone(),
                degraded: listing.degraded.clone(),
                stale: listing.stale.clone(),
                ..Listing::default()
            };
            for kind in Kind::LISTED {
                let again =
                    |it: &Arc<Definition>| Definition::read(upstream, kind, it.raw().clone()).ok().map(Arc::new);
                *next_listing.of_mut(kind) = listing.of(kind).iter().filter_map(again).collect();
            }
            next.publish(id, next_listing);
        }
        Ok(next)
    }

    /// The upstreams that were not asked yet what they offer. None after a change of the configuration: what was served
    /// before it goes on being served.
    #[must_use]
    pub fn unread(&self) -> Vec<UpstreamId> {
        self.unread.lock().iter().cloned().collect()
    }

    /// An upstream was asked, whatever it answered.
    pub(super) fn asked(&self, upstream: &UpstreamId) {
        self.unread.lock().remove(upstream);
    }

    /// Another estate is in force: nobody keeps this one up to date any longer.
    pub(super) fn retire(&self) {
        self.in_force.send_replace(false);
    }

    /// Returns when another estate is in force.
    pub(super) async fn retired(&self) {
        // The sender is here, so there is no other end to the waiting.
        drop(self.in_force.subscribe().wait_for(|in_force| !in_force).await);
    }

    /// The audiences that a token for `endpoint` may be made out to; `None` where there is no such endpoint.
    #[must_use]
    pub fn audiences(&self, endpoint: &Endpoint) -> Option<&[Audience]> {
        self.audiences.get(endpoint).map(Vec::as_slice)
    }

    /// Whether a deviation from the specification is forgiven; where it is, that is counted, so that operators can see
    /// who still needs it.
    #[must_use]
    pub fn forgives(&self, habit: Tolerance) -> bool {
        let forgiven = self.config.gateway.tolerate.contains(&habit);
        if forgiven {
            metrics().tolerated.with([habit.as_str()]).increment();
        }
        forgiven
    }

    /// The scopes that calls on `endpoint` may need: what a client should ask for (RFC 9728 `scopes_supported`).
    #[must_use]
    pub fn scopes(&self, endpoint: &Endpoint) -> Vec<String> {
        let wanted = |id: &UpstreamId| match endpoint {
            Endpoint::Federated => true,
            Endpoint::Upstream(only) => only == id,
        };
        let upstreams = self.config.upstreams.iter().filter(|(id, _)| wanted(id)).map(|(_, upstream)| upstream);
        let rules = upstreams.flat_map(|it| it.tools.iter().chain(&it.prompts).chain(&it.resources));
        let scopes: BTreeSet<&String> = rules.flat_map(|rule| &rule.requires).collect();
        scopes.into_iter().cloned().collect()
    }

    /// The protected resource metadata of every endpoint, by path (RFC 9728, RR-01, RR-02).
    #[must_use]
    pub fn metadata(&self) -> HashMap<String, Bytes> {
        let offer = self.offer();
        // Behind the facade nobody asks the provider, which knows none of these clients.
        let issuers: Vec<&str> = match &self.config.facade {
            Some(facade) => vec![facade.own.issuer.as_str()],
            None => self.config.issuers.iter().map(|issuer| issuer.issuer.as_str()).collect(),
        };
        let mut documents = HashMap::new();
        for endpoint in endpoints(&self.config) {
            let scopes = self.scopes(&endpoint);
            let scopes: Vec<&str> = scopes.iter().map(String::as_str).collect();
            // The resource has to be the very URL that the client has (RFC 9728 §3.3), so both forms have a document.
            for slash in ["", "/"] {
                let resource = format!("{}{slash}", self.config.resource(&endpoint));
                let document = Bytes::from(metadata::document(&resource, &issuers, &scopes, "Tollgate", &offer));
                if endpoint == Endpoint::Federated {
                    documents.insert(format!("{}{slash}", metadata::WELL_KNOWN), document.clone());
                }
                documents.insert(format!("{}{}{slash}", metadata::WELL_KNOWN, endpoint.path()), document);
            }
        }
        documents
    }

    /// How credentials may be shown here.
    pub(super) fn offer(&self) -> metadata::Offer<'_> {
        let gateway = &self.config.gateway;
        let certificates = gateway.tls.as_ref().is_some_and(|tls| tls.client_ca.is_some());
        metadata::Offer { dpop: gateway.dpop.as_ref(), certificates }
    }

    /// Publishes what an upstream said of itself; says whether that changed anything that a client can see.
    pub fn publish(&self, upstream: &UpstreamId, listing: Listing) -> bool {
        let before = self.catalogue.load();
        let same = before.listing(upstream).is_some_and(|known| {
            let whole = |it: &Arc<Definition>| (it.kind, it.whole);
            known.degraded == listing.degraded
                && known.stale == listing.stale
                && known.offer == listing.offer
                && known.all().map(whole).eq(listing.all().map(whole))
        });
        if same {
            return false;
        }
        self.catalogue.rcu(|current| Arc::new(current.with(upstream.clone(), listing.clone())));
        true
    }
}

/// What a token for `endpoint` may be made out to: first what the specification says, then what is forgiven.
fn audiences(config: &Config, endpoint: &Endpoint) -> Vec<Audience> {
    let mut names = vec![config.resource(endpoint)];
    names.extend(config.gateway.audiences.iter().cloned());
    let mut accepted: Vec<Audience> = names.iter().cloned().map(|name| Audience { name, forgiven: None }).collect();
    for habit in &config.gateway.tolerate {
        let forms: Vec<String> = match habit {
            Tolerance::AudienceSlash => names
                .iter()
                .map(|name| name.strip_suffix('/').map_or_else(|| format!("{name}/"), str::to_owned))
                .collect(),
            Tolerance::OriginAudience => {
                let origin = config.gateway.public_url.as_str().trim_end_matches('/');
                vec![origin.to_owned(), format!("{origin}/")]
            }
            Tolerance::TrailingSlash
            | Tolerance::HeadProbe
            | Tolerance::MissingAccept
            | Tolerance::PartialAccept
            | Tolerance::StrayHeaders
            | Tolerance::MissingSession => continue,
        };
        accepted.extend(forms.into_iter().map(|name| Audience { name, forgiven: Some(*habit) }));
    }
    accepted
}

/// Every endpoint of an estate: the federated one, and one an upstream.
pub fn endpoints(config: &Config) -> impl Iterator<Item = Endpoint> {
    std::iter::once(Endpoint::Federated).chain(config.upstreams.keys().cloned().map(Endpoint::Upstream))
}
