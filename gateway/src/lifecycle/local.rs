//! What does the gateway answer in its own name?
//!
//! `initialize`, `server/discover`, lists, refusals, and the record that comes before a call is sent on. Nothing
//! here reaches an upstream.

use std::{borrow::Cow, time::Duration};

use bytes::Bytes;
use uuid::Uuid;

use super::{
    Asking, Estate, Gateway, Response,
    carry::Answered,
    respond,
    trail::{Trail, record_target},
};
use crate::{
    audit::{
        journal::{Journal, Receipt},
        record,
    },
    bridge::Opening,
    catalog::{Catalogue, Definition, Kind, Listing},
    ceiling::Admission,
    config::{ArgumentRecord, UpstreamId},
    exchange::{Facts, Grant},
    identity::{Caller, metadata, revocation::Holder},
    inspect::asks::Ask,
    refusal::{Challenge, Refusal},
    rpc::{
        self, Asker, Call,
        answers::{self, CacheScope, Capabilities, Served},
        canonical::canonical,
        json::{Bounds, Value},
    },
    telemetry::names,
};

impl Gateway {
    /// Writes the intent down. What comes back is the only key to `upstream::forward`.
    pub(super) async fn record(
        &self,
        estate: &Estate,
        trail: &Trail,
        (admission, grant): (Admission, &Grant),
        (call, continues): (&Call, Option<Uuid>),
    ) -> Result<Receipt, Refusal> {
        let target = trail.target.as_ref().ok_or(Refusal::Bug("a record of a call without a target"))?;
        let path = trail.endpoint.path();
        let arguments = self.argument_digest(estate, call);
        let durability = target.definition.durability.unwrap_or(estate.config.audit.durability);
        let commit = trail.with_request(arguments.as_deref(), |request| {
            let intent = record::Intent {
                who: trail.who(),
                target: record_target(target, &path),
                grant: record_grant(grant.facts(), !grant.fresh()),
                decision: record::Decision {
                    outcome: "allow",
                    policies: record::Words::Shared(admission.policies()),
                    policy_set: admission.policy_set(),
                    reason: None,
                    shadow: admission.shadow(),
                },
                ceilings: record::Words::Shared(admission.ceilings()),
                request,
                continues,
            };
            self.journal.commit(trail.id, &intent, durability)
        });
        commit.receipt(admission).await
    }

    fn argument_digest(&self, estate: &Estate, call: &Call) -> Option<String> {
        if estate.config.audit.arguments == ArgumentRecord::Nothing {
            return None;
        }
        let arguments = call.arguments().map_or_else(|| b"{}".to_vec(), canonical);
        Some(self.journal.argument_digest(&arguments))
    }

    /// `server/discover` (RS-23).
    pub(super) fn discover(&self, asking: &Asking<'_>, trail: &Trail) -> Result<Response, Refusal> {
        let Asking { estate, caller, call, .. } = asking;
        let asker = asker(call)?;
        let catalogue = estate.catalogue.load();
        let degraded = degraded(&catalogue, asking, trail);
        let instructions = instructions(&catalogue, asking, trail);
        let served = Served {
            capabilities: capabilities(estate, caller, trail),
            instructions: instructions.as_deref(),
            ttl_ms: ttl_ms(asking, &catalogue, trail, degraded.is_empty()),
            ..served(&degraded)
        };
        trail.measure("", None);
        Ok(respond::json(answers::discover(&asker, &served)))
    }

    /// `initialize`: begins a session (RL-01, RL-03).
    pub(super) fn initialize(&self, asking: &Asking<'_>, trail: &Trail) -> Result<Response, Refusal> {
        let Asking { estate, caller, call, .. } = asking;
        let asker = asker(call)?;
        let asked = call.initialize().ok_or(Refusal::ParamsInvalid(Cow::Borrowed("`initialize` is not whole")))?;
        let session = self.sessions.begin(
            Opening {
                principal: caller.identity().principal,
                holder: Holder::of(caller.identity()),
                endpoint: trail.endpoint.clone(),
                version: asker.version,
                client: (asked.client_name.into_owned(), asked.client_version.into_owned()),
                capabilities: rpc::Capabilities::declared(asked.capabilities),
            },
            trail.now,
        )?;
        let catalogue = estate.catalogue.load();
        let degraded = degraded(&catalogue, asking, trail);
        let instructions = instructions(&catalogue, asking, trail);
        let served = Served {
            capabilities: capabilities(estate, caller, trail),
            instructions: instructions.as_deref(),
            ..served(&degraded)
        };
        trail.measure("", None);
        Ok(respond::in_session(respond::json(answers::initialize(&asker, &served)), &session.id))
    }

    /// Gives a refusal its outside form, and records it.
    pub(super) fn refused(&self, estate: &Estate, trail: &Trail, refusal: &Refusal) -> Response {
        let era = trail.answer_era();
        let outside = match &trail.request_id {
            Some(_) => refusal.outside(era),
            None => refusal.outside_http(era),
        };
        trail.refused(&self.journal, refusal, &outside);
        if let Some(asked) = &trail.asked {
            asked.operation.note(names::REFUSAL, outside.code);
        }
        let challenge = outside.challenge.as_ref().map(|challenge| challenge_text(estate, trail, challenge));
        respond::refusal(trail.request_id.as_ref(), era, &outside, challenge.as_deref())
    }
}

/// What a call that was carried ended with, and the challenge that it may need.
pub(super) fn answered(Answered { response, challenge }: Answered, estate: &Estate, trail: &Trail) -> Response {
    match challenge {
        Some(challenge) => respond::challenged(response, &challenge_text(estate, trail, &challenge)),
        None => response,
    }
}

/// The arguments, for the record of a refusal; nothing, where the administrator wants none of them there.
pub(super) fn arguments(estate: &Estate, call: &Call) -> Option<(Bytes, Bounds)> {
    if estate.config.audit.arguments == ArgumentRecord::Nothing {
        return None;
    }
    let text = call.arguments().map_or(Bytes::from_static(b"{}"), Value::raw_bytes);
    Some((text, Bounds::request(&estate.config.limits)))
}

/// A credential as a record has it.
pub(super) fn record_grant(facts: &Facts, cached: bool) -> record::Grant<'_> {
    record::Grant {
        strategy: facts.strategy,
        audience: facts.audience.as_deref().or(facts.resource.as_deref()),
        scopes: record::Words::Strings(&facts.scopes),
        token_id: facts.token_id.as_deref(),
        token_digest: facts.token_digest.as_deref(),
        cached,
    }
}

/// Records what an upstream asks of the person at the client, of the call `call`: what is not recorded is not asked.
pub(super) fn record_asked<'a>(
    journal: &Journal,
    id: Uuid,
    (upstream, call): (&UpstreamId, Uuid),
    asks: impl IntoIterator<Item = (&'a str, &'a Ask)>,
) -> Result<(), Refusal> {
    let asks: Vec<_> =
        asks.into_iter().map(|(key, ask)| (key, ask.kind, journal.argument_digest(ask.text()))).collect();
    let mut asked = Vec::with_capacity(asks.len());
    for (key, kind, digest) in &asks {
        asked.push(record::Asked { key, method: kind.method(), mode: kind.as_str(), digest });
    }
    let record = record::InputRequested { upstream: upstream.as_str(), call, asks: &asked };
    certain(journal, id, &record, "what is asked could not be recorded")
}

/// Records what does not happen without a record. A journal that cannot be written takes records still, and may lose them.
pub(super) fn certain<R: record::Record>(journal: &Journal, id: Uuid, record: &R, why: &str) -> Result<(), Refusal> {
    if journal.healthy() && journal.note(id, record) {
        return Ok(());
    }
    Err(Refusal::AuditUnavailable(why.to_owned()))
}

fn challenge_text(estate: &Estate, trail: &Trail, challenge: &Challenge) -> String {
    let mut url = metadata::url(&estate.config.gateway.public_url, &trail.endpoint);
    if trail.slashed {
        url.push('/');
    }
    let scopes = estate.scopes(&trail.endpoint);
    let scopes: Vec<&str> = scopes.iter().map(String::as_str).collect();
    metadata::challenge(challenge, &url, &scopes, &estate.offer(), trail.proves)
}

/// Upstreams that this caller misses something of. One of which everything known is hidden from them is not named; of one
/// that was never read, nobody can tell yet.
fn degraded<'c>(catalogue: &'c Catalogue, asking: &Asking<'_>, trail: &'c Trail) -> Vec<Cow<'c, str>> {
    catalogue
        .degraded(&trail.endpoint)
        .filter(|(_, listing)| listing.offer.is_none() || sees_any(asking, trail, listing))
        .map(|(id, _)| Cow::Borrowed(id.as_str()))
        .collect()
}

/// Whether this caller may use anything that is listed.
fn sees_any(asking: &Asking<'_>, trail: &Trail, listing: &Listing) -> bool {
    let rules = asking.estate.rules.load();
    listing.all().any(|definition| rules.policies.visible(asking.caller.identity(), definition, trail.now))
}

/// What this caller can use: the union over the upstreams of which they see something (RS-24, spec §3.4).
pub(super) fn capabilities(estate: &Estate, caller: &Caller, trail: &Trail) -> Capabilities {
    let (rules, catalogue) = (estate.rules.load(), estate.catalogue.load());
    let visible = |definition: &Definition| rules.policies.visible(caller.identity(), definition, trail.now);
    // Whether some resource might be read, or watched, listed or not.
    let may = |id: &UpstreamId, kind: Kind| {
        let any = estate.config.upstreams.get(id).and_then(|upstream| Definition::any_resource(upstream, kind).ok());
        any.is_some_and(|any| visible(&any))
    };
    // A list that may yet come is served as an empty one: clients that found no tools would not ask again.
    let mut served = Capabilities { tools: true, ..Capabilities::default() };
    for (id, listing) in catalogue.behind(&trail.endpoint) {
        let Some(offer) = &listing.offer else { continue };
        let prompts = offer.prompts && listing.prompts.iter().any(|prompt| visible(prompt));
        let resources = offer.resources && may(id, Kind::Template);
        let any = prompts || resources || listing.tools.iter().any(|tool| visible(tool));
        served.prompts |= prompts;
        served.resources |= resources;
        // Those of legacy servers are followed here, and no client sees them.
        served.tasks |= offer.tasks && listing.tools.iter().any(|tool| visible(tool));
        served.subscribe |= resources && offer.subscribe && may(id, Kind::Subscription);
        served.completions |= offer.completions && (prompts || resources);
        served.logging |= offer.logging && any;
    }
    served
}

/// What the upstreams tell the model of themselves, where the administrator lets them: each bounded, and labelled with
/// whose word it is (spec §3.4).
fn instructions(catalogue: &Catalogue, asking: &Asking<'_>, trail: &Trail) -> Option<String> {
    let told = |(id, listing): (&UpstreamId, &Listing)| {
        asking.estate.config.upstreams.get(id).filter(|upstream| upstream.instructions)?;
        let text = listing.offer.as_ref()?.instructions.as_deref().filter(|_| sees_any(asking, trail, listing))?;
        let text = text.get(..text.floor_char_boundary(INSTRUCTIONS_BYTES_MAX)).unwrap_or_default();
        Some(format!("[{id}]\n{text}"))
    };
    let told: Vec<String> = catalogue.behind(&trail.endpoint).filter_map(told).collect();
    (!told.is_empty()).then(|| told.join("\n\n"))
}

fn served<'a>(degraded: &'a [Cow<'a, str>]) -> Served<'a> {
    Served {
        capabilities: Capabilities::default(),
        instructions: None,
        degraded,
        ttl_ms: 0, // `initialize` has none
        cache_scope: CacheScope::Private,
    }
}

/// How long a client may keep what is merged from the upstreams behind its endpoint: no longer than each of them still
/// vouches for its part (spec §3.4). One that vouches for nothing, as in the legacy era, is read at the administrator's
/// intervals.
pub(super) fn ttl_ms(asking: &Asking<'_>, catalogue: &Catalogue, trail: &Trail, whole: bool) -> u64 {
    let upstreams = &asking.estate.upstreams;
    let peers = catalogue.behind(&trail.endpoint).filter_map(|(id, _)| upstreams.peer(id));
    let vouched = peers.filter_map(|peer| peer.vouches(trail.began));
    let own = Duration::from_millis(if whole { LIST_TTL_MS } else { LIST_TTL_DEGRADED_MS });
    u64::try_from(vouched.fold(own, Duration::min).as_millis()).unwrap_or(0)
}

pub(super) fn asker(call: &Call) -> Result<Asker, Refusal> {
    call.asker().ok_or(Refusal::NotARequest("a request without an id"))
}

/// Of one upstream's instructions.
const INSTRUCTIONS_BYTES_MAX: usize = 1_024;

/// How long a client may keep a list: a policy change reaches it within this.
const LIST_TTL_MS: u64 = 30_000;

/// The same for a list from which an upstream is missing.
const LIST_TTL_DEGRADED_MS: u64 = 2_000;

#[cfg(test)]
mod tests {
    use std::{fs, time::Duration};

    use super::{Ask, Uuid, record_asked};
    use crate::{
        audit::journal::Journal,
        config::{ArgumentRecord, Audit, Durability, UpstreamId},
    };

    #[test]
    fn what_is_not_recorded_is_not_asked() {
        let folder = tempfile::tempdir().unwrap();
        let journal = Journal::open(&Audit {
            directory: folder.path().to_path_buf(),
            arguments: ArgumentRecord::Digest,
            durability: Durability::Os,
            segment_bytes_max: 1,
            segment_age_max: Duration::from_secs(3_600),
            queue_max: 1_024,
            wait_max: Duration::from_secs(5),
            key: None,
        })
        .unwrap();
        let (up, ask) = (UpstreamId::parse("up").unwrap(), Ask::page("visit", "https://up.example/").unwrap());
        let asked = || record_asked(&journal, Uuid::nil(), (&up, Uuid::nil()), [("a", &ask)]);
        asked().unwrap();
        // The next segment cannot be made.
        fs::rename(folder.path().join("lane-0"), folder.path().join("gone")).unwrap();
        for _ in 0..2_000 {
            if !journal.healthy() {
                break;
            }
            drop(asked());
            std::thread::sleep(Duration::from_millis(5));
        }
        assert_eq!(asked().unwrap_err().code(), "audit_unavailable");
    }
}
