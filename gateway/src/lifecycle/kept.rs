//! Was that answered a moment ago, to the same caller?
//!
//! What an upstream answered is kept for as long as it says itself (`ttlMs` of a resource), or as the administrator says
//! (`cache_s` of a tool), and answers again only a call that is the same in all that the upstream would see of it, under
//! the same token and the same policies (RI-05). A call comes here after every other stage, so what is kept is judged, counted, recorded and
//! inspected as if it had just arrived. What may serve other callers is the administrator's word, never the upstream's
//! alone (RI-06). It keeps no refusals, no errors, and nothing that a person was asked for.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use quick_cache::{Weighter, sync::Cache};

use super::lists::looked;
use crate::{
    catalog::{Definition, Kind},
    clock,
    config::UpstreamId,
    digest::Name,
    exchange::Grant,
    identity::Identity,
    inspect::{self, Admitted, Answer, Sent},
    policy::Verdict,
    refusal::Era,
    rpc::{
        Asker, Call, Capabilities, Method,
        canonical::canonical,
        json::{Kind as JsonKind, Value},
        meta::{self, LogLevel},
        reply::Response,
    },
    upstream::{Passage, Peer, Spoken},
};

/// What every upstream answered, each in a share of the room, so that none pushes out what another said.
#[derive(Debug)]
pub(super) struct Kept(HashMap<UpstreamId, Cache<[u8; 32], Arc<Entry>, ByBytes>>);

/// One answer.
#[derive(Debug)]
struct Entry {
    response: Response,
    /// The id under which the upstream knew the call.
    id: u64,
    spoken: Spoken,
    came: Instant,
    life: Duration,
}

impl Kept {
    /// Room for `bytes` in all.
    pub(super) fn new<'a>(bytes: usize, upstreams: impl ExactSizeIterator<Item = &'a UpstreamId>) -> Self {
        let share = bytes.checked_div(upstreams.len()).and_then(|share| u64::try_from(share).ok()).unwrap_or(0);
        Self(upstreams.map(|id| (id.clone(), Cache::with_weighter(ITEMS_EXPECTED, share, ByBytes))).collect())
    }
}

/// How the answer to one call is called among those that are kept.
#[derive(Debug)]
pub(super) struct Keeping {
    upstream: UpstreamId,
    method: Method,
    /// Among what only this caller gets again.
    own: [u8; 32],
    /// Among what others may get too, where the upstream is trusted so.
    shared: Option<[u8; 32]>,
    /// The rule's life of a tool's result; a resource has its own.
    rule: Option<Duration>,
    rule_shared: bool,
    asked: Instant,
}

impl Keeping {
    /// The names of the answer to what `passage` is about to ask of `peer` under `grant`, as policy `allowed` it; `None` where
    /// it is not to be kept.
    pub(super) fn of(peer: &Peer, passage: &Passage<'_>, grant: &Grant, allowed: &Allowed) -> Option<Self> {
        let (definition, call, settings) = (&passage.target.definition, passage.call, peer.settings());
        let may = match definition.kind {
            Kind::Tool => definition.cache.is_some(),
            Kind::Resource => settings.cache_reads && !definition.steps_up(),
            Kind::Prompt | Kind::Template | Kind::Subscription | Kind::Completion => false,
        };
        if !may || passage.retry.is_some() || passage.task.is_some() || call.params().is_some_and(is_retry) {
            return None;
        }
        let asked = Question { peer, definition, call, passage, policy_set: &allowed.policy_set };
        // Whoever is not trusted with a result for all shall not write into one: a `tracestate` is the caller's own word.
        let shared = settings.trust_public_cache && passage.tracestate.is_none();
        Some(Self {
            upstream: definition.upstream.clone(),
            method: call.method(),
            own: asked.name("own", |name| {
                name.add(passage.caller.principal);
                name.add(&passage.caller.authentication.token_digest);
                name.add(grant.generation().to_be_bytes());
            }),
            shared: shared
                .then(|| asked.name("shared", |name| add_alike(name, passage.caller, grant, &allowed.verdict))),
            rule: definition.cache,
            rule_shared: definition.cache_shared,
            asked: clock::instant(),
        })
    }

    /// The answer as `asker` gets it, where one is kept. `prefix` is the upstream's id where URIs carry it.
    pub(super) fn recall(&self, kept: &Kept, asker: &Asker, prefix: Option<&str>) -> Option<Answer> {
        let answer = self.find(kept).and_then(|(entry, age)| {
            let Entry { id, spoken, .. } = &*entry;
            let (method, version, declared) = (self.method, spoken.version, Capabilities::NONE);
            match inspect::admit(
                asker,
                &Sent { method, id: *id, version, declared, as_task: false, prefix, age },
                &entry.response,
            ) {
                Ok(Admitted::Answer(answer)) => Some(answer),
                Ok(Admitted::Input(_) | Admitted::Pages(..) | Admitted::Task(_)) | Err(_) => None,
            }
        });
        looked(if self.method == Method::ToolsCall { "tool" } else { "read" }, answer.is_some());
        answer
    }

    fn find(&self, kept: &Kept) -> Option<(Arc<Entry>, Duration)> {
        let cache = kept.0.get(&self.upstream)?;
        [Some(&self.own), self.shared.as_ref()].into_iter().flatten().find_map(|name| {
            let entry = cache.get(name)?;
            let age = self.asked.saturating_duration_since(entry.came);
            if age >= entry.life {
                cache.remove(name);
                return None;
            }
            Some((entry, age))
        })
    }

    /// Keeps the upstream's answer, a whole and good result, for as long as it may be kept.
    pub(super) fn keep(&self, kept: &Kept, response: Response, id: u64, spoken: Spoken) {
        let Ok(result) = response.outcome() else { return };
        let Some((life, public)) = self.life(result, spoken) else { return };
        let name = match self.shared {
            // What was said in a session may be due to what its caller said in it before.
            Some(shared) if public && spoken.era == Era::Modern => shared,
            Some(_) | None => self.own,
        };
        let Some(cache) = kept.0.get(&self.upstream) else { return };
        // What has no room is not copied first.
        if u64::try_from(response.bytes()).is_ok_and(|bytes| bytes < cache.capacity()) {
            let entry = Entry { response: response.compact(), id, spoken, came: self.asked, life: life.min(LIFE_MAX) };
            cache.insert(name, Arc::new(entry));
        }
    }

    /// How long this result may be kept, and whether for others too.
    fn life(&self, result: Value<'_>, spoken: Spoken) -> Option<(Duration, bool)> {
        let modern = spoken.era == Era::Modern;
        let is = |member: &str, text: &str| result.get(member).is_some_and(|value| value.is(text));
        let complete = result.get("resultType").is_none() || is("resultType", "complete");
        let failed = result.get("isError").is_some_and(|failed| failed.boolean() != Some(false));
        if !complete || failed {
            return None;
        }
        if self.method == Method::ToolsCall {
            // What went back as it was, because its client may make sense of it, is not repeated.
            let whole = result.get("content").is_some_and(|content| content.kind() == JsonKind::Array);
            return self.rule.filter(|_| whole).map(|life| (life, self.rule_shared));
        }
        let ttl_ms = result.get("ttlMs").and_then(Value::integer).and_then(|ttl| u64::try_from(ttl).ok());
        let ttl_ms = ttl_ms.filter(|ttl_ms| modern && *ttl_ms > 0)?;
        Some((Duration::from_millis(ttl_ms), is("cacheScope", "public")))
    }
}

/// What policy said of a call that may go.
#[derive(Debug)]
pub(super) struct Allowed {
    /// By which policies.
    pub(super) policy_set: Arc<str>,
    /// And what they said.
    pub(super) verdict: Arc<Verdict>,
}

/// All that an upstream sees of a call, and what it is asked about.
struct Question<'a> {
    peer: &'a Peer,
    definition: &'a Definition,
    call: &'a Call,
    passage: &'a Passage<'a>,
    policy_set: &'a str,
}

impl Question<'_> {
    fn name(&self, whose: &str, add_scope: impl FnOnce(&mut Name)) -> [u8; 32] {
        let Self { peer, definition, call, passage, policy_set } = self;
        let mut name = Name::of(whose);
        add_scope(&mut name);
        name.add(policy_set);
        name.add(definition.upstream.as_str());
        name.add(peer.changes().to_be_bytes());
        name.add(call.method().as_str());
        name.add(&definition.name);
        name.add(definition.key);
        name.add(&definition.digest);
        name.add(call.version());
        name.add(passage.capabilities.json().as_bytes());
        name.add(passage.log_level.map_or("", LogLevel::as_str));
        let naming = call.method().naming().unwrap_or_default();
        for (member, value) in call.params().into_iter().flat_map(Value::members) {
            if !member.is(naming) && !member.is("_meta") {
                [b"param".as_slice(), member.raw(), &canonical(value)].iter().for_each(|field| name.add(field));
            }
        }
        for (member, value) in call.params().and_then(|params| params.get("_meta")).into_iter().flat_map(Value::members)
        {
            if !PASSING.iter().any(|passing| member.is(passing)) {
                [b"meta".as_slice(), member.raw(), &canonical(value)].iter().for_each(|field| name.add(field));
            }
        }
        for (header, value) in passage.unrecognised {
            [b"header".as_slice(), header.as_str().as_bytes(), value.as_bytes()]
                .iter()
                .for_each(|field| name.add(field));
        }
        name.finish()
    }
}

/// Who shares: those of one tenant whom the same policies let through, and whose credentials for the upstream are of one
/// class (RI-06).
fn add_alike(name: &mut Name, caller: &Identity, grant: &Grant, verdict: &Verdict) {
    name.maybe(caller.tenant.as_deref());
    name.all(verdict.policies().iter().map(|policy| policy.as_bytes()));
    name.add(grant.strategy());
    name.maybe(grant.facts().audience.as_deref());
    name.maybe(grant.facts().resource.as_deref());
    name.all(grant.scopes().iter());
}

/// Whether a call brings what its client was asked for.
fn is_retry(params: Value<'_>) -> bool {
    RETRY.iter().any(|member| params.get(member).is_some())
}

/// Of what is kept, the memory counts.
#[derive(Debug, Clone)]
struct ByBytes;

impl Weighter<[u8; 32], Arc<Entry>> for ByBytes {
    fn weight(&self, _name: &[u8; 32], entry: &Arc<Entry>) -> u64 {
        u64::try_from(entry.response.bytes().saturating_add(ENTRY_BYTES)).unwrap_or(u64::MAX)
    }
}

/// What an answer brings that is not the first: what the client was asked for (RI-06).
const RETRY: [&str; 2] = ["inputResponses", "requestState"];

/// Members of `_meta` that differ from call to call and mean nothing beyond it; those up are the gateway's own.
const PASSING: [&str; 4] = [meta::PROGRESS_TOKEN, meta::TRACEPARENT, meta::TRACESTATE, meta::BAGGAGE];

/// However long an upstream vouches for what it says.
const LIFE_MAX: Duration = Duration::from_secs(86_400);

/// What an entry takes besides what was said.
const ENTRY_BYTES: usize = 256;

/// The library makes no second piece for fewer than 32: in many, an answer that fits into the whole might fit into none.
const ITEMS_EXPECTED: usize = 31;
