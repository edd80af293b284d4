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

pub use definition::{Definition, Kind};
use uuid::Uuid;

use crate::{
    clock::Timestamp,
    config::{Endpoint, Prefix, Upstream, UpstreamId},
    refusal::Refusal,
    rpc::{Call, Method, Reference, uris},
};

/// What one upstream offers, as last read.
#[derive(Debug, Clone, Default)]
pub struct Listing {
    /// Its tools, in its own order.
    pub tools: Vec<Arc<Definition>>,
    /// Its prompts.
    pub prompts: Vec<Arc<Definition>>,
    /// The resources that it lists; there may be more.
    pub resources: Vec<Arc<Definition>>,
    /// The templates of resources that it lists.
    pub templates: Vec<Arc<Definition>>,
    /// What it says that it serves; `None` where it was never read.
    pub offer: Option<Offer>,
    /// Why the listing is missing or out of date; `None` where it is fresh.
    pub degraded: Option<Refusal>,
    /// What of it is that.
    pub stale: Vec<Kind>,
}

/// What an upstream says of itself in `server/discover` or `initialize`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Offer {
    /// It serves tools.
    pub tools: bool,
    /// It serves prompts.
    pub prompts: bool,
    /// It serves resources.
    pub resources: bool,
    /// It tells when a resource changes.
    pub subscribe: bool,
    /// It completes arguments.
    pub completions: bool,
    /// It sends log messages.
    pub logging: bool,
    /// Its calls may become tasks, by the extension.
    pub tasks: bool,
    /// Its calls may become tasks as MCP 2025-11-25 has them.
    pub tasks_of_2025: bool,
    /// What it tells the model of itself.
    pub instructions: Option<String>,
}

impl Listing {
    /// What is listed of one kind.
    #[must_use]
    pub fn of(&self, kind: Kind) -> &[Arc<Definition>] {
        match kind {
            Kind::Tool => &self.tools,
            Kind::Prompt | Kind::Completion => &self.prompts,
            Kind::Resource | Kind::Subscription => &self.resources,
            Kind::Template => &self.templates,
        }
    }

    /// What is listed of one kind, to be changed.
    pub fn of_mut(&mut self, kind: Kind) -> &mut Vec<Arc<Definition>> {
        match kind {
            Kind::Tool => &mut self.tools,
            Kind::Prompt | Kind::Completion => &mut self.prompts,
            Kind::Resource | Kind::Subscription => &mut self.resources,
            Kind::Template => &mut self.templates,
        }
    }

    /// Whether what is listed of one kind is out of date.
    #[must_use]
    pub fn is_stale(&self, kind: Kind) -> bool {
        let listed = match kind {
            Kind::Completion => Kind::Prompt,
            Kind::Subscription => Kind::Resource,
            Kind::Tool | Kind::Prompt | Kind::Resource | Kind::Template => kind,
        };
        self.stale.contains(&listed)
    }

    /// Everything that is listed.
    pub fn all(&self) -> impl Iterator<Item = &Arc<Definition>> {
        Kind::LISTED.into_iter().flat_map(|kind| self.of(kind))
    }
}

/// Something under the name that clients see.
#[derive(Debug, Clone)]
pub struct Exposed {
    /// The name on this endpoint.
    pub name: Arc<str>,
    /// What it stands for.
    pub definition: Arc<Definition>,
}

/// What a call is aimed at: policy, ceilings, audit and forwarding use this, never the name that the client sent.
#[derive(Debug, Clone)]
pub struct Target {
    /// What it is.
    pub definition: Arc<Definition>,
    /// The name under which it was asked for.
    pub exposed: Arc<str>,
    /// What an argument is completed of: who may not see that gets no completion.
    pub of: Option<Arc<Definition>>,
    /// The task that a call of it became, where that is what is asked about.
    pub task: Option<Arc<Task>>,
}

/// A task that a call became.
#[derive(Debug, PartialEq, Eq)]
pub struct Task {
    /// What the upstream calls it.
    pub id: String,
    /// The intent of the call.
    pub call: Uuid,
    /// How long after its creation the client's id for it is good.
    pub life_ms: u64,
    /// Until when that is.
    pub until: Timestamp,
}

impl Target {
    fn new(definition: Arc<Definition>, exposed: Arc<str>) -> Self {
        Self { definition, exposed, of: None, task: None }
    }

    /// What spans and metrics are told apart by: names are as few as the catalogue has, URIs have no end (MCP in
    /// OpenTelemetry).
    #[must_use]
    pub fn label(&self) -> Option<&str> {
        match self.definition.kind {
            Kind::Tool | Kind::Prompt => Some(&self.definition.name),
            Kind::Resource | Kind::Template | Kind::Subscription | Kind::Completion => None,
        }
    }
}

/// Everything that the gateway can offer, at one moment.
#[derive(Debug, Default)]
pub struct Catalogue {
    /// Counts up with every change: part of every key of what is derived from a catalogue.
    version: u64,
    prefix: Prefix,
    listings: BTreeMap<UpstreamId, Listing>,
    federated: Tables,
    single: HashMap<UpstreamId, Tables>,
}

/// One endpoint's names.
#[derive(Debug, Default)]
struct Tables {
    tools: Table,
    prompts: Table,
    resources: Table,
    templates: Table,
}

impl Tables {
    fn of(&self, kind: Kind) -> &Table {
        match kind {
            Kind::Tool => &self.tools,
            Kind::Prompt | Kind::Completion => &self.prompts,
            Kind::Resource | Kind::Subscription => &self.resources,
            Kind::Template => &self.templates,
        }
    }

    /// The names that `name` gives to what `listings` hold.
    fn new<'a>(listings: impl Iterator<Item = &'a Listing> + Clone, name: impl Fn(&Definition) -> String) -> Self {
        let table = |kind| {
            let all = listings.clone().flat_map(|listing| listing.of(kind));
            let exposed = |it: &Arc<Definition>| Exposed { name: Arc::from(name(it)), definition: Arc::clone(it) };
            Table::of(all.map(exposed).collect())
        };
        Self {
            tools: table(Kind::Tool),
            prompts: table(Kind::Prompt),
            resources: table(Kind::Resource),
            templates: table(Kind::Template),
        }
    }
}

/// The names of one kind on one endpoint, sorted, each with what it stands for.
#[derive(Debug, Default)]
struct Table {
    sorted: Vec<Exposed>,
    ambiguous: BTreeSet<Arc<str>>,
}

impl Table {
    /// Two things of one name are both withheld: whichever won, somebody would use what they did not mean.
    fn of(mut all: Vec<Exposed>) -> Self {
        all.sort_by(|a, b| a.name.cmp(&b.name));
        let neighbours = all.iter().zip(all.iter().skip(1));
        let ambiguous: BTreeSet<Arc<str>> =
            neighbours.filter(|(one, next)| one.name == next.name).map(|(one, _)| Arc::clone(&one.name)).collect();
        all.retain(|exposed| !ambiguous.contains(&exposed.name));
        Self { sorted: all, ambiguous }
    }

    fn find(&self, name: &str) -> Option<&Exposed> {
        let at = self.sorted.binary_search_by(|exposed| (*exposed.name).cmp(name)).ok()?;
        self.sorted.get(at)
    }
}

impl Catalogue {
    /// Merges `listings` under version `version`; `prefix` says which names carry their upstream's id.
    #[must_use]
    pub fn merge(version: u64, prefix: Prefix, listings: BTreeMap<UpstreamId, Listing>) -> Self {
        let mut seen: HashMap<(Kind, &str), usize> = HashMap::new();
        if prefix == Prefix::OnConflict {
            for it in listings.values().flat_map(Listing::all) {
                let count = seen.entry((it.kind, &it.name)).or_default();
                *count = count.saturating_add(1);
            }
        }
        let conflicts = |it: &Definition| seen.get(&(it.kind, it.name.as_str())).is_some_and(|count| *count > 1);
        let federated = Tables::new(listings.values(), |it| match (it.kind, prefix) {
            (_, Prefix::Never) => it.name.clone(),
            (Kind::Tool | Kind::Prompt, Prefix::OnConflict) if !conflicts(it) => it.name.clone(),
            (Kind::Tool | Kind::Prompt | Kind::Completion, _) => name::federated(&it.upstream, &it.name),
            (Kind::Resource | Kind::Template | Kind::Subscription, _) => uris::outward(it.upstream.as_str(), &it.name),
        });
        let own = |(id, listing): (&UpstreamId, &Listing)| {
            (id.clone(), Tables::new(std::iter::once(listing), |it| it.name.clone()))
        };
        let single = listings.iter().map(own).collect();
        Self { version, prefix, federated, single, listings }
    }

    /// The same catalogue with one upstream's listing replaced.
    #[must_use]
    pub fn with(&self, upstream: UpstreamId, listing: Listing) -> Self {
        let mut listings = self.listings.clone();
        listings.insert(upstream, listing);
        Self::merge(self.version.saturating_add(1), self.prefix, listings)
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

    /// What `call` is aimed at on `endpoint`. Only the exact name will do: no case folding, no normalisation. A resource
    /// need not be listed: whose it is, its URI says on the federated endpoint.
    ///
    /// # Errors
    /// [`Refusal::ToolUnknown`], [`Refusal::PromptUnknown`], [`Refusal::ResourceUnknown`];
    /// [`Refusal::CatalogueUnavailable`] where the upstream was never read.
    pub fn resolve(
        &self,
        upstreams: &BTreeMap<UpstreamId, Arc<Upstream>>,
        endpoint: &Endpoint,
        call: &Call,
    ) -> Result<Target, Refusal> {
        if call.method() == Method::ResourcesRead {
            return self.resource(upstreams, endpoint, Kind::Resource, &call.uri().unwrap_or_default());
        }
        let Some((reference, argument)) = call.reference() else {
            let kind = if call.method() == Method::PromptsGet { Kind::Prompt } else { Kind::Tool };
            return self.listed(endpoint, kind, &call.name().unwrap_or_default());
        };
        let of = match reference {
            Reference::Prompt(name) => self.listed(endpoint, Kind::Prompt, &name)?,
            Reference::Resource(uri) => self
                .listed(endpoint, Kind::Template, &uri)
                .or_else(|_unlisted| self.resource(upstreams, endpoint, Kind::Template, &uri))?,
        };
        let upstream = upstreams.get(&of.definition.upstream).ok_or(Refusal::RouteUnknown)?;
        let definition = Definition::completion(upstream, &of.definition, &argument);
        let definition = definition.map_err(|fault| Refusal::ReferenceUnknown(fault.to_string()))?;
        Ok(Target { of: Some(of.definition), ..Target::new(Arc::new(definition), of.exposed) })
    }

    /// A thing of `kind` by the name that clients see.
    ///
    /// # Errors
    /// That there is none; [`Refusal::CatalogueUnavailable`] where the upstream was never read.
    pub fn listed(&self, endpoint: &Endpoint, kind: Kind, name: &str) -> Result<Target, Refusal> {
        match self.tables(endpoint)?.of(kind).find(name) {
            Some(exposed) => Ok(Target::new(Arc::clone(&exposed.definition), Arc::clone(&exposed.name))),
            None => Err(self.unread(endpoint, name).unwrap_or_else(|| unknown(kind, name))),
        }
    }

    /// Why nobody can tell whether there is something of this name: its upstream was never read.
    fn unread(&self, endpoint: &Endpoint, name: &str) -> Option<Refusal> {
        let Endpoint::Federated = endpoint else { return None };
        let upstream = UpstreamId::parse(name::upstream(name)?)?;
        let Listing { offer: None, degraded, .. } = self.listings.get(&upstream)? else { return None };
        degraded.clone()
    }

    /// The tool of `upstream`, by its own name, whose call became `task`.
    ///
    /// # Errors
    /// [`Refusal::ToolUnknown`] where `endpoint` does not show it; [`Refusal::CatalogueUnavailable`] where nobody can tell,
    /// because the upstream was never read.
    pub fn following(
        &self,
        endpoint: &Endpoint,
        (upstream, name): (&str, &str),
        task: Task,
    ) -> Result<Target, Refusal> {
        let is_it = |it: &&Exposed| it.definition.upstream.as_str() == upstream && it.definition.name == name;
        if let Some(exposed) = self.tables(endpoint)?.of(Kind::Tool).sorted.iter().find(is_it) {
            let target = Target::new(Arc::clone(&exposed.definition), Arc::clone(&exposed.name));
            return Ok(Target { task: Some(Arc::new(task)), ..target });
        }
        match UpstreamId::parse(upstream).and_then(|id| self.listings.get(&id)) {
            Some(Listing { offer: None, degraded, .. }) => {
                Err(degraded.clone().unwrap_or_else(|| Refusal::CatalogueUnavailable(String::new())))
            }
            _ => Err(unknown(Kind::Tool, name)),
        }
    }

    /// A resource by the URI that clients see; `kind` is what is wanted of it.
    ///
    /// # Errors
    /// [`Refusal::ResourceUnknown`]; [`Refusal::CatalogueUnavailable`] where the upstream was never read.
    pub fn resource(
        &self,
        upstreams: &BTreeMap<UpstreamId, Arc<Upstream>>,
        endpoint: &Endpoint,
        kind: Kind,
        uri: &str,
    ) -> Result<Target, Refusal> {
        if kind == Kind::Resource
            && let Ok(target) = self.listed(endpoint, kind, uri)
        {
            return Ok(target);
        }
        self.tables(endpoint)?;
        let (id, own) = self.owner(endpoint, uri).ok_or_else(|| unknown(kind, uri))?;
        let upstream = upstreams.get(&id).ok_or_else(|| unknown(kind, uri))?;
        if !self.listings.get(&id).is_some_and(|listing| listing.offer.as_ref().is_some_and(|offer| offer.resources)) {
            return Err(unknown(kind, uri));
        }
        let definition = Definition::resource(upstream, kind, &own);
        let definition = definition.map_err(|fault| Refusal::ResourceUnknown(fault.to_string()))?;
        Ok(Target::new(Arc::new(definition), Arc::from(uri)))
    }

    /// Whose a URI is, and the upstream's own form of it. A bare URI on the federated endpoint may have come out of a
    /// text, where nobody could rewrite it: it is taken where one upstream alone lists it (spec §3.3).
    fn owner(&self, endpoint: &Endpoint, uri: &str) -> Option<(UpstreamId, String)> {
        if let Endpoint::Upstream(id) = endpoint {
            return Some((id.clone(), uri.to_owned()));
        }
        if self.prefix != Prefix::Never
            && let Some((id, own)) = uris::inward(uri)
            && let Some(id) = UpstreamId::parse(id).filter(|id| self.listings.contains_key(id))
        {
            return Some((id, own));
        }
        let lists = |listing: &Listing| listing.resources.iter().any(|resource| resource.name == uri);
        let mut owners = self.listings.iter().filter(|(_, listing)| lists(listing));
        match (owners.next(), owners.next()) {
            (Some((id, _)), None) => Some((id.clone(), uri.to_owned())),
            (None, _) if self.prefix == Prefix::Never => self.only_server_of_resources(uri),
            _ => None,
        }
    }

    /// Where no URI says whose it is, an unlisted one can only be meant for the one upstream that serves resources.
    fn only_server_of_resources(&self, uri: &str) -> Option<(UpstreamId, String)> {
        let serves = |listing: &Listing| listing.offer.as_ref().is_some_and(|offer| offer.resources);
        let mut servers = self.listings.iter().filter(|(_, listing)| serves(listing));
        match (servers.next(), servers.next()) {
            (Some((id, _)), None) => Some((id.clone(), uri.to_owned())),
            _ => None,
        }
    }

    /// The upstream's id where what it says of URIs has to carry it to a client of `endpoint`.
    #[must_use]
    pub fn uri_prefix<'a>(&self, endpoint: &Endpoint, upstream: &'a UpstreamId) -> Option<&'a str> {
        match endpoint {
            Endpoint::Federated if self.prefix != Prefix::Never => Some(upstream.as_str()),
            Endpoint::Federated | Endpoint::Upstream(_) => None,
        }
    }

    /// Where the part of `endpoint`'s list of `kind` begins that comes after `cursor`.
    ///
    /// # Errors
    /// [`Refusal::CursorInvalid`]; [`Refusal::CatalogueUnavailable`] where the endpoint's one upstream was never read.
    pub fn after(&self, endpoint: &Endpoint, kind: Kind, cursor: Option<&str>) -> Result<usize, Refusal> {
        let table = self.tables(endpoint)?.of(kind);
        let Some(cursor) = cursor else { return Ok(0) };
        let last = name::from_cursor(kind, cursor).ok_or(Refusal::CursorInvalid)?;
        Ok(table.sorted.partition_point(|exposed| *exposed.name <= *last))
    }

    /// Which things of a list are on the page that begins at `start`: those that `visible` lets through, in the order of
    /// names.
    pub fn choose(
        &self,
        endpoint: &Endpoint,
        kind: Kind,
        start: usize,
        mut visible: impl FnMut(&Definition) -> bool,
    ) -> Chosen {
        let sorted = self.tables(endpoint).map_or(&[][..], |tables| &tables.of(kind).sorted);
        let chosen = sorted.iter().enumerate().skip(start).filter(|(_, exposed)| visible(&exposed.definition));
        let mut places: Vec<usize> = chosen.map(|(place, _)| place).take(PAGE_MAX.saturating_add(1)).collect();
        let more = places.len() > PAGE_MAX;
        places.truncate(PAGE_MAX);
        Chosen { places, more }
    }

    /// One page, as [`Catalogue::choose`] chose it from this very catalogue.
    #[must_use]
    pub fn page<'a>(&'a self, endpoint: &Endpoint, kind: Kind, chosen: &Chosen) -> Page<'a> {
        let sorted = self.tables(endpoint).map_or(&[][..], |tables| &tables.of(kind).sorted);
        let all: Vec<&Exposed> = chosen.places.iter().filter_map(|place| sorted.get(*place)).collect();
        let next = all.last().filter(|_| chosen.more).map(|last| name::to_cursor(kind, &last.name));
        Page { all, next }
    }

    /// The upstreams of `endpoint`, and what is known of them.
    pub fn behind<'a>(&'a self, endpoint: &'a Endpoint) -> impl Iterator<Item = (&'a UpstreamId, &'a Listing)> {
        self.listings.iter().filter(move |(id, _)| match endpoint {
            Endpoint::Federated => true,
            Endpoint::Upstream(only) => only == *id,
        })
    }

    /// Those of them whose listing is missing or out of date.
    pub fn degraded<'a>(&'a self, endpoint: &'a Endpoint) -> impl Iterator<Item = (&'a UpstreamId, &'a Listing)> {
        self.behind(endpoint).filter(|(_, listing)| listing.degraded.is_some())
    }

    /// Names that two things claim, which are therefore served by neither.
    #[must_use]
    pub fn ambiguous(&self) -> Vec<&str> {
        std::iter::once(&self.federated)
            .chain(self.single.values())
            .flat_map(|tables| Kind::LISTED.into_iter().flat_map(|kind| &tables.of(kind).ambiguous))
            .map(|name| &**name)
            .collect()
    }

    fn tables(&self, endpoint: &Endpoint) -> Result<&Tables, Refusal> {
        let Endpoint::Upstream(id) = endpoint else { return Ok(&self.federated) };
        let listing = self.listings.get(id).ok_or(Refusal::RouteUnknown)?;
        match (&listing.offer, &listing.degraded) {
            (None, Some(why)) => Err(why.clone()),
            _ => self.single.get(id).ok_or(Refusal::RouteUnknown),
        }
    }
}

/// The refusal of what is not there; the journal keeps as much of the name as is of use.
fn unknown(kind: Kind, name: &str) -> Refusal {
    let name = name.chars().take(NAME_RECORDED_MAX).collect();
    match kind {
        Kind::Tool => Refusal::ToolUnknown(name),
        Kind::Prompt => Refusal::PromptUnknown(name),
        Kind::Resource | Kind::Template | Kind::Subscription => Refusal::ResourceUnknown(name),
        Kind::Completion => Refusal::ReferenceUnknown(name),
    }
}

/// What is on a page, by the places in one catalogue's list.
#[derive(Debug, PartialEq, Eq)]
pub struct Chosen {
    /// The places, in order.
    pub places: Vec<usize>,
    /// Whether there is more after them.
    pub more: bool,
}

/// Part of a list.
#[derive(Debug)]
pub struct Page<'a> {
    /// What is on it, sorted by name.
    pub all: Vec<&'a Exposed>,
    /// What to ask for next; absent at the end.
    pub next: Option<String>,
}

/// Definitions on one page: enough that clients which do not page see an ordinary estate whole.
const PAGE_MAX: usize = 500;

/// Characters of an unknown name that the journal keeps.
const NAME_RECORDED_MAX: usize = 128;

#[cfg(test)]
mod tests;
