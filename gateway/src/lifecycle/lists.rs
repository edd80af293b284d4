//! Which list does this caller get?
//!
//! What they may see, by the function that judges calls, and the page that shows it. Both are kept: who sees what by the
//! class of callers, and the page by what is on it, so that callers who see the same are shown the same bytes. Neither is
//! used for another catalogue, another set of policies, or another class. It reaches no upstream.

use std::{borrow::Cow, sync::Arc};

use aws_lc_rs::digest;
use quick_cache::{Weighter, sync::Cache};

use super::{Asking, Estate, Gateway, Response, Rules, local, respond, trail::Trail};
use crate::{
    audit::record,
    catalog::{Catalogue, Chosen, Kind},
    config::{Endpoint, UpstreamId},
    policy::Sight,
    refusal::Refusal,
    rpc::{
        Asker,
        answers::{self, CacheScope, Page, Shared},
    },
    telemetry::metrics::metrics,
};

impl Gateway {
    /// A list: what this caller may see on this endpoint.
    pub(super) fn list(&self, asking: &Asking<'_>, kind: Kind, trail: &Trail) -> Result<Response, Refusal> {
        let Asking { estate, call, .. } = asking;
        let asker = local::asker(call)?;
        let (rules, catalogue) = (estate.rules.load(), estate.catalogue.load());
        let start = catalogue.after(&trail.endpoint, kind, call.cursor().as_deref())?;
        let view = view(asking, (&rules, &catalogue), (kind, start), trail);
        let recorded = self.journal.healthy()
            && trail.with_request(None, |request| {
                self.journal.note(
                    trail.id,
                    &record::List {
                        who: trail.who(),
                        endpoint: &trail.endpoint.path(),
                        request,
                        shown: u64::try_from(view.chosen.places.len()).unwrap_or(u64::MAX),
                        withheld: view.withheld,
                        policy_set: rules.policies.digest(),
                    },
                )
            });
        if !recorded {
            return Err(Refusal::AuditUnavailable("the list could not be recorded".to_owned()));
        }
        let page = page(estate, &catalogue, (&trail.endpoint, kind, &asker), &view);
        let ttl_ms = local::ttl_ms(asking, &catalogue, trail, view.degraded.is_empty());
        trail.measure("", None);
        Ok(respond::json(answers::list(&asker, &page, ttl_ms, CacheScope::Private)))
    }
}

/// What lists showed before, as long as there is room.
#[derive(Debug)]
pub(super) struct Lists {
    views: Cache<ViewKey, Arc<View>, ByBytes>,
    pages: Cache<PageKey, Shared, ByBytes>,
}

impl Lists {
    /// Room for `bytes`.
    pub(super) fn new(bytes: usize) -> Self {
        let views = bytes / VIEWS_SHARE;
        Self { views: cache(views), pages: cache(bytes.saturating_sub(views)) }
    }
}

/// Everything that decides what a caller sees.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct ViewKey {
    /// [`crate::identity::Identity::class`]: callers of one class get the same decisions.
    class: [u8; 32],
    policies: Arc<str>,
    catalogue: u64,
    endpoint: Endpoint,
    kind: Kind,
    start: usize,
}

/// What a caller sees of a list.
#[derive(Debug)]
struct View {
    chosen: Chosen,
    withheld: u64,
    /// Upstreams of which they miss something.
    degraded: Vec<UpstreamId>,
    /// SHA-256 of what makes the page.
    digest: [u8; 32],
}

/// Everything that decides how a page looks.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct PageKey {
    view: [u8; 32],
    catalogue: u64,
    endpoint: Endpoint,
    kind: Kind,
    version: &'static str,
}

/// What the caller sees; kept, unless the time of day has a say in it.
fn view(
    asking: &Asking<'_>,
    (rules, catalogue): (&Rules, &Catalogue),
    (kind, start): (Kind, usize),
    trail: &Trail,
) -> Arc<View> {
    let identity = asking.caller.identity();
    let key = ViewKey {
        class: identity.class,
        policies: Arc::clone(rules.policies.digest()),
        catalogue: catalogue.version(),
        endpoint: trail.endpoint.clone(),
        kind,
        start,
    };
    let kept = asking.estate.lists.views.get(&key);
    looked("view", kept.is_some());
    if let Some(view) = kept {
        return view;
    }
    let mut sight = rules.policies.sight(identity, trail.now);
    let view = Arc::new(View::of(catalogue, (&trail.endpoint, kind, start), &mut sight));
    if !sight.is_timed() {
        asking.estate.lists.views.insert(key, Arc::clone(&view));
    }
    view
}

impl View {
    fn of(catalogue: &Catalogue, (endpoint, kind, start): (&Endpoint, Kind, usize), sight: &mut Sight<'_>) -> Self {
        let mut withheld = 0_u64;
        let chosen = catalogue.choose(endpoint, kind, start, |definition| {
            let seen = sight.sees(definition);
            withheld = withheld.saturating_add(u64::from(!seen));
            seen
        });
        // As `server/discover` names them: those that are down, and not hidden whole.
        let missed = catalogue
            .degraded(endpoint)
            .filter(|(_, listing)| listing.offer.is_none() || listing.all().any(|definition| sight.sees(definition)));
        let degraded: Vec<UpstreamId> = missed.map(|(id, _)| id.clone()).collect();
        let mut context = digest::Context::new(&digest::SHA256);
        context.update(&[u8::from(chosen.more)]);
        context.update(&chosen.places.len().to_be_bytes());
        chosen.places.iter().for_each(|place| context.update(&place.to_be_bytes()));
        for id in &degraded {
            context.update(id.as_str().as_bytes());
            context.update(b" "); // no id holds one
        }
        let mut digest = [0; 32];
        digest.copy_from_slice(context.finish().as_ref());
        Self { chosen, withheld, degraded, digest }
    }
}

/// The page that shows `view`.
fn page(
    estate: &Estate,
    catalogue: &Catalogue,
    (endpoint, kind, asker): (&Endpoint, Kind, &Asker),
    view: &View,
) -> Shared {
    let key = PageKey {
        view: view.digest,
        catalogue: catalogue.version(),
        endpoint: endpoint.clone(),
        kind,
        version: asker.version,
    };
    let kept = estate.lists.pages.get(&key);
    looked("page", kept.is_some());
    let outcome = if kept.is_some() { "hit" } else { "miss" };
    let shared = kept.unwrap_or_else(|| {
        let shared = written(catalogue, (endpoint, kind, asker), view);
        estate.lists.pages.insert(key, shared.clone());
        shared
    });
    metrics().list_bytes.with([outcome]).add(u64::try_from(shared.len()).unwrap_or(u64::MAX));
    shared
}

fn written(catalogue: &Catalogue, (endpoint, kind, asker): (&Endpoint, Kind, &Asker), view: &View) -> Shared {
    let page = catalogue.page(endpoint, kind, &view.chosen);
    let definitions: Vec<Vec<u8>> = page
        .all
        .iter()
        .map(|exposed| {
            let prefix = catalogue.uri_prefix(endpoint, &exposed.definition.upstream);
            exposed.definition.listed(&exposed.name, asker.version, prefix)
        })
        .collect();
    let degraded: Vec<Cow<'_, str>> = view.degraded.iter().map(|id| Cow::Borrowed(id.as_str())).collect();
    let page = Page {
        member: kind.list().1,
        definitions: &definitions,
        next_cursor: page.next.as_deref(),
        degraded: &degraded,
    };
    answers::page(asker.era, &page)
}

/// Counts one look for something kept.
pub(super) fn looked(what: &str, found: bool) {
    metrics().answer_cache.with([what, if found { "hit" } else { "miss" }]).increment();
}

/// Of what is kept, the memory counts.
#[derive(Debug, Clone)]
struct ByBytes;

impl Weighter<ViewKey, Arc<View>> for ByBytes {
    fn weight(&self, _key: &ViewKey, view: &Arc<View>) -> u64 {
        let words = view.chosen.places.len().saturating_add(view.degraded.len().saturating_mul(2));
        let bytes = words.saturating_mul(size_of::<usize>()).saturating_add(ENTRY_BYTES);
        u64::try_from(bytes).unwrap_or(u64::MAX)
    }
}

impl Weighter<PageKey, Shared> for ByBytes {
    fn weight(&self, _key: &PageKey, page: &Shared) -> u64 {
        u64::try_from(page.len().saturating_add(ENTRY_BYTES)).unwrap_or(u64::MAX)
    }
}

/// With so few expected, the cache is of one piece: in many, a page that fits into the whole might fit into none of them.
fn cache<K: Eq + std::hash::Hash, V: Clone>(bytes: usize) -> Cache<K, V, ByBytes>
where
    ByBytes: Weighter<K, V>,
{
    Cache::with_weighter(ITEMS_EXPECTED, u64::try_from(bytes).unwrap_or(u64::MAX), ByBytes)
}

/// What an entry takes besides what is in it: key, places in the cache, reference counts.
const ENTRY_BYTES: usize = 256;

/// The library makes no second piece for fewer than 32.
const ITEMS_EXPECTED: usize = 31;

/// Who sees what takes an eighth of the room: much less than the pages, which callers share.
const VIEWS_SHARE: usize = 8;
