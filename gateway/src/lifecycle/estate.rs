//! Against what is a request judged?
//!
//! Everything that comes from `upstreams.toml` and `policies/`, built whole and swapped at once: a request sees one
//! estate from its first stage to its last. It does not watch files.

use std::{collections::BTreeMap, sync::Arc};

use arc_swap::ArcSwap;

use crate::{
    catalog::{Catalogue, Listing},
    ceiling::Ceilings,
    config::{Config, Endpoint, UpstreamId},
    exchange::Exchange,
    identity::Authenticator,
    policy::Policies,
    upstream::Upstreams,
};

/// One reading of the configuration, and what was made of it.
#[derive(Debug)]
pub struct Estate {
    /// `upstreams.toml`.
    pub config: Config,
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
    audiences: BTreeMap<Endpoint, Vec<String>>,
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
    pub fn build(config: Config, rules: Rules) -> Result<Self, String> {
        let identity = Authenticator::new(&config.issuers).map_err(|error| format!("issuers: {error}"))?;
        let exchange = Exchange::new(&config.upstreams).map_err(|error| format!("grants: {error}"))?;
        let upstreams =
            Upstreams::new(&config.upstreams, &config.limits).map_err(|error| format!("upstreams: {error}"))?;
        let unread = |id: &UpstreamId| {
            (id.clone(), Listing { tools: Vec::new(), degraded: Some("its tools were not read yet".to_owned()) })
        };
        let catalogue = Catalogue::merge(0, config.upstreams.keys().map(unread).collect());
        let audiences = endpoints(&config)
            .map(|endpoint| {
                let mut accepted = vec![config.resource(&endpoint)];
                accepted.extend(config.gateway.audiences.iter().cloned());
                (endpoint, accepted)
            })
            .collect();
        Ok(Self {
            identity,
            catalogue: ArcSwap::from_pointee(catalogue),
            rules: ArcSwap::from_pointee(rules),
            exchange,
            upstreams,
            audiences,
            config,
        })
    }

    /// The audiences that a token for `endpoint` may be made out to; none where there is no such endpoint.
    #[must_use]
    pub fn audiences(&self, endpoint: &Endpoint) -> &[String] {
        self.audiences.get(endpoint).map_or(&[], Vec::as_slice)
    }

    /// Publishes what an upstream said of itself; says whether that changed anything that a client can see.
    pub fn publish(&self, upstream: &UpstreamId, listing: Listing) -> bool {
        let before = self.catalogue.load();
        let digests = |listing: &Listing| listing.tools.iter().map(|tool| tool.digest.clone()).collect::<Vec<_>>();
        let same = before.listing(upstream).is_some_and(|known| {
            known.degraded.is_some() == listing.degraded.is_some() && digests(known) == digests(&listing)
        });
        if same {
            return false;
        }
        self.catalogue.rcu(|current| Arc::new(current.with(upstream.clone(), listing.clone())));
        true
    }
}

/// Every endpoint of an estate: the federated one, and one an upstream.
pub fn endpoints(config: &Config) -> impl Iterator<Item = Endpoint> {
    std::iter::once(Endpoint::Federated).chain(config.upstreams.keys().cloned().map(Endpoint::Upstream))
}
