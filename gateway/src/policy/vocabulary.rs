//! How are callers, tools and upstreams called in Cedar?
//!
//! The one place that turns this gateway's types into Cedar's: entities, their attributes and the context. The schema
//! that policies are checked against describes exactly this.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use cedar_policy::{Context, Entities, Entity, EntityId, EntityTypeName, EntityUid, RestrictedExpression};

use crate::{catalog::Definition, clock::Timestamp, identity::Identity};

/// The names of entity types, parsed once.
#[derive(Debug)]
pub(super) struct Vocabulary {
    user: EntityTypeName,
    agent: EntityTypeName,
    group: EntityTypeName,
    tenant: EntityTypeName,
    pub(super) upstream: EntityTypeName,
    pub(super) action: EntityTypeName,
}

/// Something in the way of asking Cedar: a fault of the gateway, never of the caller.
#[derive(Debug)]
pub(super) struct Inexpressible(pub(super) String);

impl Vocabulary {
    /// `None` cannot happen: all of these are identifiers.
    pub(super) fn new() -> Option<Self> {
        let name = |text: &str| text.parse::<EntityTypeName>().ok();
        Some(Self {
            user: name("User")?,
            agent: name("Agent")?,
            group: name("Group")?,
            tenant: name("Tenant")?,
            upstream: name("Upstream")?,
            action: name("Action")?,
        })
    }

    /// The user, or the agent where there is no user. An issuer has no fragment (RFC 8414 §2), so `#` separates.
    pub(super) fn principal(&self, caller: &Identity) -> EntityUid {
        match &caller.user {
            Some(user) => uid(&self.user, &format!("{}#{}", user.issuer, user.subject)),
            None => uid(&self.agent, &format!("{}#{}", caller.authentication.issuer, caller.agent.client_id)),
        }
    }

    /// What the principal is in.
    pub(super) fn memberships(&self, caller: &Identity) -> HashSet<EntityUid> {
        let groups = caller.groups.iter().map(|group| uid(&self.group, group));
        groups.chain(caller.tenant.iter().map(|tenant| uid(&self.tenant, tenant))).collect()
    }

    pub(super) fn action(&self, tool: &Definition) -> EntityUid {
        uid(&self.action, &tool.action())
    }

    /// What the action is in.
    pub(super) fn groups(&self, tool: &Definition) -> HashSet<EntityUid> {
        let tags = tool.tags.iter().map(|tag| uid(&self.action, tag));
        tags.chain(tool.kind.group().map(|group| uid(&self.action, group))).collect()
    }

    pub(super) fn resource(&self, tool: &Definition) -> EntityUid {
        uid(&self.upstream, tool.upstream.as_str())
    }

    /// The caller and the tool with all that policies can follow from them. Groups, tenants and upstreams have neither
    /// attributes nor parents, so their names are enough.
    pub(super) fn entities(&self, caller: &Identity, tool: &Definition) -> Result<Entities, Inexpressible> {
        let principal = Entity::new(self.principal(caller), attributes(caller), self.memberships(caller))
            .map_err(|fault| Inexpressible(fault.to_string()))?;
        let action = Entity::new_no_attrs(self.action(tool), self.groups(tool));
        Entities::from_entities([principal, action], None).map_err(|fault| Inexpressible(fault.to_string()))
    }
}

/// The part of a context that is the caller's: the same from call to call. Kept in parts, because merging two contexts
/// makes Cedar evaluate both again.
pub(super) type Own = Vec<(String, RestrictedExpression)>;

/// [`Own`] of `caller`.
pub(super) fn context_of(caller: &Identity) -> Result<Own, Inexpressible> {
    let mut agent = vec![("client_id".to_owned(), text(&caller.agent.client_id))];
    agent.extend(caller.agent.actors.first().map(|actor| ("actor".to_owned(), text(actor))));
    let mut authn = vec![
        ("method".to_owned(), text(caller.authentication.method)),
        ("issuer".to_owned(), text(&caller.authentication.issuer)),
        ("binding".to_owned(), text(caller.authentication.binding.as_str())),
    ];
    authn.extend(caller.authentication.acr.as_ref().map(|acr| ("acr".to_owned(), text(acr))));
    if let Some(time) = caller.authentication.auth_time {
        authn.push(("auth_time".to_owned(), datetime(time)?));
    }
    let mut pairs = vec![("agent".to_owned(), record(agent)?), ("authn".to_owned(), record(authn)?)];
    pairs.extend(caller.tenant.as_ref().map(|tenant| ("tenant".to_owned(), text(tenant))));
    Ok(pairs)
}

/// `base` with what is new in this call.
pub(super) fn context_with(
    base: &Own,
    input: Option<RestrictedExpression>,
    time: Option<Timestamp>,
) -> Result<Context, Inexpressible> {
    let mut pairs = base.clone();
    pairs.extend(input.map(|input| ("input".to_owned(), input)));
    if let Some(now) = time {
        pairs.push(("time".to_owned(), time_record(now)?));
    }
    Context::from_pairs(pairs).map_err(|fault| Inexpressible(fault.to_string()))
}

/// `context.time`, in UTC. 1970-01-01 was a Thursday, ISO 8601's day 4.
fn time_record(now: Timestamp) -> Result<RestrictedExpression, Inexpressible> {
    let seconds = i64::try_from(now.unix_seconds()).unwrap_or(i64::MAX);
    let days = seconds.div_euclid(SECONDS_A_DAY);
    let long = RestrictedExpression::new_long;
    record(vec![
        ("now".to_owned(), datetime(now)?),
        ("unix_seconds".to_owned(), long(seconds)),
        ("hour".to_owned(), long(seconds.rem_euclid(SECONDS_A_DAY).div_euclid(3600))),
        ("weekday".to_owned(), long(days.saturating_add(3).rem_euclid(7).saturating_add(1))),
    ])
}

fn datetime(time: Timestamp) -> Result<RestrictedExpression, Inexpressible> {
    let millis = i64::try_from(time.unix_ms()).unwrap_or(i64::MAX);
    let stamp = jiff::Timestamp::from_millisecond(millis).map_err(|fault| Inexpressible(fault.to_string()))?;
    Ok(RestrictedExpression::new_datetime(format!("{stamp:.3}")))
}

fn attributes(caller: &Identity) -> HashMap<String, RestrictedExpression> {
    let issuer = caller.user.as_ref().map_or(&caller.authentication.issuer, |user| &user.issuer);
    let mut attributes = HashMap::from([
        ("issuer".to_owned(), text(issuer)),
        ("agent".to_owned(), text(&caller.agent.client_id)),
        ("groups".to_owned(), texts(&caller.groups)),
        ("scopes".to_owned(), texts(&caller.scopes)),
    ]);
    if let Some(user) = &caller.user {
        attributes.insert("subject".to_owned(), text(&user.subject));
    }
    if let Some(tenant) = &caller.tenant {
        attributes.insert("tenant".to_owned(), text(tenant));
    }
    attributes
}

pub(super) fn uid(kind: &EntityTypeName, id: &str) -> EntityUid {
    EntityUid::from_type_name_and_id(kind.clone(), EntityId::new(id))
}

/// The id of a policy, shared by every decision that names it.
pub(super) fn id(policy: &cedar_policy::PolicyId) -> Arc<str> {
    Arc::from(AsRef::<str>::as_ref(policy))
}

fn text(text: &str) -> RestrictedExpression {
    RestrictedExpression::new_string(text.to_owned())
}

fn texts(list: &[String]) -> RestrictedExpression {
    RestrictedExpression::new_set(list.iter().map(|item| text(item)))
}

fn record(pairs: Vec<(String, RestrictedExpression)>) -> Result<RestrictedExpression, Inexpressible> {
    RestrictedExpression::new_record(pairs).map_err(|fault| Inexpressible(fault.to_string()))
}

const SECONDS_A_DAY: i64 = 86_400;
