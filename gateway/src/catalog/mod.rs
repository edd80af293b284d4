//! What is that?
//!
//! A name in, a [`Target`] out. The catalogue is what the upstreams said of themselves, merged into one table per
//! endpoint: names are looked up, never split. It does not fetch anything, and does not know who may use what.

pub mod definition;
mod name;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

pub use definition::ToolDefinition;

use crate::{
    config::{Endpoint, UpstreamId},
    refusal::Refusal,
};

/// What one upstream offers, as last read.
#[derive(Debug, Clone, Default)]
pub struct Listing {
    /// Its tools, in its own order.
    pub tools: Vec<Arc<ToolDefinition>>,
    /// Why the listing is missing or out of date; `None` where it is fresh.
    pub degraded: Option<String>,
}

/// A tool under the name that clients see.
#[derive(Debug, Clone)]
pub struct Exposed {
    /// The name on this endpoint.
    pub name: Arc<str>,
    /// What it stands for.
    pub tool: Arc<ToolDefinition>,
}

/// What a call is aimed at: policy, ceilings, audit and forwarding use this, never the name that the client sent.
#[derive(Debug, Clone)]
pub struct Target {
    /// The tool.
    pub tool: Arc<ToolDefinition>,
    /// The name under which it was called.
    pub exposed: Arc<str>,
}

/// Everything that the gateway can offer, at one moment.
#[derive(Debug, Default)]
pub struct Catalogue {
    /// Counts up with every change: part of every key of what is derived from a catalogue.
    version: u64,
    listings: BTreeMap<UpstreamId, Listing>,
    federated: Table,
    single: HashMap<UpstreamId, Table>,
}

/// One endpoint's names, sorted, each with what it stands for.
#[derive(Debug, Default)]
struct Table {
    sorted: Vec<Exposed>,
    ambiguous: BTreeSet<Arc<str>>,
}

impl Table {
    /// Two tools of one name are both withheld: whichever won, somebody would call what they did not mean.
    fn of(mut tools: Vec<Exposed>) -> Self {
        tools.sort_by(|a, b| a.name.cmp(&b.name));
        let neighbours = tools.iter().zip(tools.iter().skip(1));
        let ambiguous: BTreeSet<Arc<str>> =
            neighbours.filter(|(one, next)| one.name == next.name).map(|(one, _)| Arc::clone(&one.name)).collect();
        tools.retain(|tool| !ambiguous.contains(&tool.name));
        Self { sorted: tools, ambiguous }
    }

    fn find(&self, name: &str) -> Option<&Exposed> {
        let at = self.sorted.binary_search_by(|exposed| (*exposed.name).cmp(name)).ok()?;
        self.sorted.get(at)
    }
}

impl Catalogue {
    /// Merges `listings` under version `version`.
    #[must_use]
    pub fn merge(version: u64, listings: BTreeMap<UpstreamId, Listing>) -> Self {
        let federated = listings
            .iter()
            .flat_map(|(id, listing)| listing.tools.iter().map(move |tool| (id, tool)))
            .map(|(id, tool)| Exposed { name: Arc::from(name::federated(id, &tool.name)), tool: Arc::clone(tool) })
            .collect();
        let single = listings
            .iter()
            .map(|(id, listing)| {
                let own = |tool: &Arc<ToolDefinition>| Exposed { name: Arc::from(&*tool.name), tool: Arc::clone(tool) };
                (id.clone(), Table::of(listing.tools.iter().map(own).collect()))
            })
            .collect();
        Self { version, listings, federated: Table::of(federated), single }
    }

    /// The same catalogue with one upstream's listing replaced.
    #[must_use]
    pub fn with(&self, upstream: UpstreamId, listing: Listing) -> Self {
        let mut listings = self.listings.clone();
        listings.insert(upstream, listing);
        Self::merge(self.version.saturating_add(1), listings)
    }

    /// Which catalogue this is.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.version
    }

    /// What an upstream offers; `None` where nothing is known of it yet.
    #[must_use]
    pub fn listing(&self, upstream: &UpstreamId) -> Option<&Listing> {
        self.listings.get(upstream)
    }

    /// All listings, by upstream.
    #[must_use]
    pub fn listings(&self) -> &BTreeMap<UpstreamId, Listing> {
        &self.listings
    }

    /// What `name` stands for on `endpoint`. Only the exact name will do: no case folding, no normalisation.
    ///
    /// # Errors
    /// [`Refusal::ToolUnknown`]; [`Refusal::CatalogueUnavailable`] where the upstream's tools were never read.
    pub fn resolve(&self, endpoint: &Endpoint, name: &str) -> Result<Target, Refusal> {
        let table = self.table(endpoint)?;
        let Some(exposed) = table.find(name) else {
            return Err(Refusal::ToolUnknown(name.chars().take(NAME_RECORDED_MAX).collect()));
        };
        Ok(Target { tool: Arc::clone(&exposed.tool), exposed: Arc::clone(&exposed.name) })
    }

    /// One page of the tools of `endpoint` that `visible` lets through, in the order of their names, after `cursor`.
    ///
    /// # Errors
    /// [`Refusal::CursorInvalid`]; [`Refusal::CatalogueUnavailable`] where the endpoint's one upstream was never read.
    pub fn page<'a>(
        &'a self,
        endpoint: &Endpoint,
        cursor: Option<&str>,
        visible: impl Fn(&ToolDefinition) -> bool,
    ) -> Result<Page<'a>, Refusal> {
        let table = self.table(endpoint)?;
        let start = match cursor {
            None => 0,
            Some(cursor) => {
                let last = name::from_cursor(cursor).ok_or(Refusal::CursorInvalid)?;
                table.sorted.partition_point(|tool| *tool.name <= *last)
            }
        };
        let mut tools: Vec<&Exposed> = table
            .sorted
            .iter()
            .skip(start)
            .filter(|exposed| visible(&exposed.tool))
            .take(PAGE_TOOLS_MAX.saturating_add(1))
            .collect();
        let more = tools.len() > PAGE_TOOLS_MAX;
        tools.truncate(PAGE_TOOLS_MAX);
        let next = tools.last().filter(|_| more).map(|last| name::to_cursor(&last.name));
        Ok(Page { tools, next })
    }

    /// Upstreams of `endpoint` whose listing is missing or out of date, and what is known of them.
    pub fn degraded<'a>(&'a self, endpoint: &'a Endpoint) -> impl Iterator<Item = (&'a UpstreamId, &'a Listing)> {
        self.listings.iter().filter(move |(id, listing)| {
            listing.degraded.is_some()
                && match endpoint {
                    Endpoint::Federated => true,
                    Endpoint::Upstream(only) => only == *id,
                }
        })
    }

    /// Names that two tools claim, which are therefore served by neither.
    #[must_use]
    pub fn ambiguous(&self) -> Vec<&str> {
        self.federated
            .ambiguous
            .iter()
            .chain(self.single.values().flat_map(|table| table.ambiguous.iter()))
            .map(|name| &**name)
            .collect()
    }

    fn table(&self, endpoint: &Endpoint) -> Result<&Table, Refusal> {
        match endpoint {
            Endpoint::Federated => Ok(&self.federated),
            Endpoint::Upstream(id) => match self.listings.get(id) {
                Some(listing) if listing.tools.is_empty() => match &listing.degraded {
                    Some(why) => Err(Refusal::CatalogueUnavailable(why.clone())),
                    None => self.single.get(id).ok_or(Refusal::RouteUnknown),
                },
                Some(_) => self.single.get(id).ok_or(Refusal::RouteUnknown),
                None => Err(Refusal::RouteUnknown),
            },
        }
    }
}

/// Part of a list.
#[derive(Debug)]
pub struct Page<'a> {
    /// The tools, sorted by name.
    pub tools: Vec<&'a Exposed>,
    /// What to ask for next; absent at the end.
    pub next: Option<String>,
}

/// Tools on one page: enough that clients which do not page see an ordinary estate whole.
const PAGE_TOOLS_MAX: usize = 500;

/// Characters of an unknown name that the journal keeps.
const NAME_RECORDED_MAX: usize = 128;

#[cfg(test)]
mod tests;
