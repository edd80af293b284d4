//! Is this caller still welcome?
//!
//! What an operator revoked while credentials last that were good when they were issued (spec §4). Kept in `state`, so
//! that it outlives the process and every gateway on one folder knows of it; here is the copy that is asked at every
//! request, at every look of a stream, and while a call is under way. It ends nothing itself: who holds something asks.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::Identity;
use crate::{
    clock::{self, Timestamp},
    config::UpstreamId,
    refusal::Refusal,
    state::{Place, Store, StoreFault, Value, understood},
};

/// Whom, or what, a revocation names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Whom {
    /// A person, by `sub`.
    User {
        /// `sub`.
        name: String,
        /// At which issuer; at any, where not said.
        issuer: Option<String>,
    },
    /// Software: the client, or one of those that act through it.
    Agent {
        /// The client's id.
        name: String,
        /// At which issuer.
        issuer: Option<String>,
    },
    /// A tenant.
    Tenant {
        /// Its name.
        name: String,
        /// At which issuer.
        issuer: Option<String>,
    },
    /// Everybody for whom an issuer vouches.
    Issuer {
        /// `iss`.
        name: String,
    },
    /// One token, by its `jti` or the digest that the journal has of it; or all that came of one login, by its `sid`.
    Token {
        /// One of these.
        name: String,
        /// By which issuer.
        issuer: Option<String>,
    },
    /// One session of a legacy client, by the name that the journal has of it.
    Session {
        /// That name.
        name: String,
    },
    /// What authorization servers gave for calls to upstreams.
    Grant {
        /// For this one; for all, where not said.
        upstream: Option<String>,
        /// In the name of this person.
        user: Option<String>,
        /// To this client.
        agent: Option<String>,
    },
}

impl Whom {
    /// The word for its kind.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::User { .. } => "user",
            Self::Agent { .. } => "agent",
            Self::Tenant { .. } => "tenant",
            Self::Issuer { .. } => "issuer",
            Self::Token { .. } => "token",
            Self::Session { .. } => "session",
            Self::Grant { .. } => "grant",
        }
    }

    /// The name of what it names, for people and records.
    #[must_use]
    pub fn name(&self) -> String {
        match self {
            Self::User { name, .. }
            | Self::Agent { name, .. }
            | Self::Tenant { name, .. }
            | Self::Issuer { name }
            | Self::Token { name, .. }
            | Self::Session { name } => name.clone(),
            Self::Grant { upstream, user, agent } => {
                let part = |word: &str, name: &Option<String>| name.as_ref().map(|name| format!("{word} {name}"));
                let parts = [part("upstream", upstream), part("user", user), part("agent", agent)];
                parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
            }
        }
    }

    /// The issuer, where only one is meant.
    #[must_use]
    pub fn issuer(&self) -> Option<&str> {
        match self {
            Self::User { issuer, .. }
            | Self::Agent { issuer, .. }
            | Self::Tenant { issuer, .. }
            | Self::Token { issuer, .. } => issuer.as_deref(),
            Self::Issuer { .. } | Self::Session { .. } | Self::Grant { .. } => None,
        }
    }
}

/// One revocation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revocation {
    /// Its name.
    pub id: Uuid,
    /// Whom it names.
    pub whom: Whom,
    /// Whether they are kept out altogether; else only what was issued until [`Self::at`] is good no more.
    pub blocks: bool,
    /// When, in milliseconds since 1970.
    at: u64,
    /// Until when, likewise.
    until: Option<u64>,
    /// Why, in the operator's words.
    pub why: Option<String>,
    /// Who did it: the account on the machine.
    pub by: Option<String>,
}

impl Revocation {
    /// A revocation of what `whom` was issued until `at`, in force until `until`.
    #[must_use]
    pub fn new(whom: Whom, at: Timestamp, until: Option<Timestamp>) -> Self {
        let until = until.map(Timestamp::unix_ms);
        Self { id: Uuid::now_v7(), whom, blocks: false, at: at.unix_ms(), until, why: None, by: None }
    }

    /// When it was made: what was issued later is another matter, unless it blocks.
    #[must_use]
    pub const fn at(&self) -> Timestamp {
        Timestamp::from_unix_ms(self.at)
    }

    /// When it ends by itself.
    #[must_use]
    pub fn until(&self) -> Option<Timestamp> {
        self.until.map(Timestamp::from_unix_ms)
    }

    /// How somebody hears of it.
    #[must_use]
    pub fn refusal(&self) -> Refusal {
        let why = self.why.as_deref().map(|why| format!(": {why}")).unwrap_or_default();
        let text = format!("revocation {} of {} `{}`{why}", self.id, self.whom.kind(), self.whom.name());
        if self.blocks { Refusal::Blocked(text) } else { Refusal::Revoked(text) }
    }

    /// Whether it ends what `named` had from `since` on. A token says in whole seconds when it was issued, so that one of
    /// the same second counts as older. An issuer's clock is taken at its word: to forgive its leeway here would turn away
    /// whoever logs in anew at once, and against a clock that runs ahead there is [`Self::blocks`].
    fn ends(&self, named: &Named<'_>, now: Timestamp) -> bool {
        let in_force = self.until.is_none_or(|until| now.unix_ms() < until);
        let of_issuer = self.whom.issuer().is_none_or(|issuer| issuer == named.issuer);
        let whatever = self.blocks || matches!(self.whom, Whom::Token { .. } | Whom::Issuer { .. });
        in_force && of_issuer && (whatever || named.since <= self.at())
    }
}

/// Keeps `revocation` where every gateway on the folder learns of it.
///
/// # Errors
/// What the store says.
pub async fn revoke(store: &Store, revocation: &Revocation, now: Timestamp) -> Result<(), StoreFault> {
    let bytes = serde_json::to_vec(revocation).map_err(|error| StoreFault::Unusable(error.to_string()))?;
    store.put(Place::Revocation, revocation.id.as_bytes(), Value { bytes, until: revocation.until() }, now).await
}

/// Takes the revocation `id` back; says whether there was one.
///
/// # Errors
/// What the store says.
pub async fn lift(store: &Store, id: Uuid) -> Result<bool, StoreFault> {
    store.remove(Place::Revocation, id.as_bytes()).await
}

/// All that is in force, oldest first. One that cannot be read is told of: it must not keep the others from being in force.
///
/// # Errors
/// What the store says.
pub async fn all(store: &Store, now: Timestamp) -> Result<Vec<Revocation>, StoreFault> {
    let kept = store.readable(Place::Revocation, now).await?;
    let read = |(_, bytes): &(Vec<u8>, Vec<u8>)| understood::<Revocation>("a revocation", bytes);
    let mut all: Vec<Revocation> = kept.iter().filter_map(read).collect();
    all.sort_by_key(|revocation| (revocation.at, revocation.id));
    Ok(all)
}

/// Whom something lasting is done for, without their credential.
#[derive(Debug, Clone, Default)]
pub struct Holder {
    issuer: String,
    user: Option<String>,
    agents: Vec<String>,
    tenant: Option<String>,
}

impl Holder {
    /// Somebody whom `issuer` knows by these names.
    #[must_use]
    pub fn new(issuer: &str, user: Option<&str>, agent: &str, tenant: Option<&str>) -> Self {
        Self {
            issuer: issuer.to_owned(),
            user: user.map(str::to_owned),
            agents: vec![agent.to_owned()],
            tenant: tenant.map(str::to_owned),
        }
    }

    /// That of `identity`.
    #[must_use]
    pub fn of(identity: &Identity) -> Self {
        Self {
            issuer: identity.authentication.issuer.clone(),
            user: identity.user.as_ref().map(|user| user.subject.clone()),
            agents: agents(identity).map(str::to_owned).collect(),
            tenant: identity.tenant.clone(),
        }
    }
}

fn agents(identity: &Identity) -> impl Iterator<Item = &str> {
    std::iter::once(identity.agent.client_id.as_str()).chain(identity.agent.actors.iter().map(String::as_str))
}

/// Under which names somebody may be revoked, and since when they have what they have.
struct Named<'a> {
    issuer: &'a str,
    user: Option<&'a str>,
    agents: Agents<'a>,
    tenant: Option<&'a str>,
    tokens: [Option<&'a str>; 3],
    since: Timestamp,
}

#[derive(Clone, Copy)]
enum Agents<'a> {
    Of(&'a Identity),
    Names(&'a [String]),
}

impl<'a> Named<'a> {
    fn of(identity: &'a Identity) -> Self {
        let authentication = &identity.authentication;
        Self {
            issuer: &authentication.issuer,
            user: identity.user.as_ref().map(|user| user.subject.as_str()),
            agents: Agents::Of(identity),
            tenant: identity.tenant.as_deref(),
            tokens: [
                Some(&authentication.token_digest),
                authentication.token_id.as_deref(),
                authentication.login_id.as_deref(),
            ],
            since: authentication.issued_at,
        }
    }

    fn holder(holder: &'a Holder, since: Timestamp) -> Self {
        Self {
            issuer: &holder.issuer,
            user: holder.user.as_deref(),
            agents: Agents::Names(&holder.agents),
            tenant: holder.tenant.as_deref(),
            tokens: [None, None, None],
            since,
        }
    }
}

/// What is revoked, by name.
#[derive(Debug, Default)]
struct Set {
    users: ByName,
    agents: ByName,
    tenants: ByName,
    issuers: ByName,
    tokens: ByName,
    sessions: ByName,
    grants: Vec<Arc<Revocation>>,
    none: bool,
}

type ByName = HashMap<String, Vec<Arc<Revocation>>>;

impl Set {
    fn of<'a>(all: impl Iterator<Item = &'a Arc<Revocation>>) -> Self {
        let mut set = Self { none: true, ..Self::default() };
        for revocation in all {
            set.none = false;
            let (by, name) = match &revocation.whom {
                Whom::User { name, .. } => (&mut set.users, name),
                Whom::Agent { name, .. } => (&mut set.agents, name),
                Whom::Tenant { name, .. } => (&mut set.tenants, name),
                Whom::Issuer { name } => (&mut set.issuers, name),
                Whom::Token { name, .. } => (&mut set.tokens, name),
                Whom::Session { name } => (&mut set.sessions, name),
                Whom::Grant { .. } => {
                    set.grants.push(Arc::clone(revocation));
                    continue;
                }
            };
            by.entry(name.clone()).or_default().push(Arc::clone(revocation));
        }
        set
    }

    /// What ends `named`; what blocks goes first, for it says more.
    fn find(&self, named: &Named<'_>, now: Timestamp) -> Option<Arc<Revocation>> {
        let mut found = Vec::new();
        let mut look = |by: &ByName, name: &str| {
            let ends = |one: &&Arc<Revocation>| one.ends(named, now);
            found.extend(by.get(name).into_iter().flatten().filter(ends).cloned());
        };
        look(&self.issuers, named.issuer);
        named.user.iter().for_each(|name| look(&self.users, name));
        match named.agents {
            Agents::Of(identity) => agents(identity).for_each(|name| look(&self.agents, name)),
            Agents::Names(names) => names.iter().for_each(|name| look(&self.agents, name)),
        }
        named.tenant.iter().for_each(|name| look(&self.tenants, name));
        named.tokens.iter().flatten().for_each(|name| look(&self.tokens, name));
        found.into_iter().max_by_key(|one| (one.blocks, one.at))
    }
}

/// What has ended because of one revocation, in this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Ended {
    /// Of listeners.
    pub streams: u64,
    /// Under way.
    pub calls: u64,
    /// That waited for their clients.
    pub holds: u64,
    /// Of legacy clients.
    pub sessions: u64,
}

/// Something that ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// A listener's stream.
    Stream,
    /// A call under way.
    Call,
    /// A held call.
    Hold,
    /// A legacy client's session.
    Session,
}

/// What changed between two readings.
#[derive(Debug, Default)]
pub struct Changes {
    /// In force from now on.
    pub begun: Vec<Arc<Revocation>>,
    /// Not in force any more.
    pub lifted: Vec<Arc<Revocation>>,
}

/// What is revoked, as this process knows it. Cheap to clone; clones are the same.
#[derive(Debug, Clone, Default)]
pub struct Revocations(Arc<Known>);

#[derive(Debug)]
struct Known {
    set: ArcSwap<Set>,
    lists: Mutex<Lists>,
    ended: Mutex<HashMap<Uuid, Ended>>,
    newest_grant: AtomicU64,
}

#[derive(Debug, Default)]
struct Lists {
    /// What the store has.
    kept: Vec<Arc<Revocation>>,
    /// What only this process knows.
    own: Vec<Arc<Revocation>>,
}

impl Default for Known {
    fn default() -> Self {
        Self {
            set: ArcSwap::from_pointee(Set { none: true, ..Set::default() }),
            lists: Mutex::default(),
            ended: Mutex::default(),
            newest_grant: AtomicU64::new(0),
        }
    }
}

impl Revocations {
    /// Whether `identity` may go on.
    ///
    /// # Errors
    /// What ends it.
    pub fn admit(&self, identity: &Identity) -> Result<(), Arc<Revocation>> {
        let set = self.0.set.load();
        if set.none {
            return Ok(());
        }
        set.find(&Named::of(identity), clock::now()).map_or(Ok(()), Err)
    }

    /// What ends the session called `name` that `holder` has had since `since`.
    #[must_use]
    pub fn of_session(&self, name: &str, holder: &Holder, since: Timestamp) -> Option<Arc<Revocation>> {
        let (set, now) = (self.0.set.load(), clock::now());
        let named = Named::holder(holder, since);
        let own = set.sessions.get(name).into_iter().flatten().find(|one| one.ends(&named, now)).cloned();
        own.or_else(|| set.find(&named, now))
    }

    /// What ends something that `holder` has had since `since`.
    #[must_use]
    pub fn of_holder(&self, holder: &Holder, since: Timestamp) -> Option<Arc<Revocation>> {
        self.0.set.load().find(&Named::holder(holder, since), clock::now())
    }

    /// Which generation of credentials a call of `caller` to `upstream` may use, or one of the gateway in its own name:
    /// another after each revocation of grants that concerns them.
    #[must_use]
    pub fn grant_epoch(&self, caller: Option<&Identity>, upstream: &UpstreamId) -> u64 {
        if self.0.newest_grant.load(Ordering::Acquire) == 0 {
            return 0;
        }
        let concerns = |one: &&Arc<Revocation>| {
            let Whom::Grant { upstream: named, user, agent } = &one.whom else { return false };
            let is_user = |name: &String| {
                caller.and_then(|caller| caller.user.as_ref()).is_some_and(|user| user.subject == *name)
            };
            let is_agent = |name: &String| caller.is_some_and(|caller| agents(caller).any(|agent| agent == name));
            named.as_ref().is_none_or(|named| named == upstream.as_str())
                && user.as_ref().is_none_or(is_user)
                && agent.as_ref().is_none_or(is_agent)
        };
        self.0.set.load().grants.iter().filter(concerns).map(|one| one.at).max().unwrap_or_default()
    }

    /// Knows from now on what the store has; gives what is new in it.
    pub fn replace(&self, kept: Vec<Revocation>) -> Changes {
        let mut lists = self.0.lists.lock();
        let before = std::mem::take(&mut lists.kept);
        lists.kept = kept.into_iter().map(Arc::new).collect();
        self.publish(&lists);
        let missing = |from: &[Arc<Revocation>], all: &[Arc<Revocation>]| {
            let known: std::collections::HashSet<Uuid> = from.iter().map(|one| one.id).collect();
            all.iter().filter(|one| !known.contains(&one.id)).cloned().collect::<Vec<_>>()
        };
        let changes = Changes { begun: missing(&before, &lists.kept), lifted: missing(&lists.kept, &before) };
        drop(lists);
        self.0.ended.lock().extend(changes.begun.iter().map(|one| (one.id, Ended::default())));
        changes
    }

    /// What was found out in this process and concerns nobody else: a token that its issuer calls inactive, an issuer
    /// that is not trusted any more. Whoever holds something of theirs finds out at the next look.
    pub fn end_here(&self, whom: Whom, until: Option<Timestamp>, why: &str) -> Arc<Revocation> {
        let now = clock::now();
        let revocation = Arc::new(Revocation { why: Some(why.to_owned()), ..Revocation::new(whom, now, until) });
        let mut lists = self.0.lists.lock();
        lists.own.retain(|one| one.until().is_none_or(|until| now < until));
        if lists.own.len() >= OWN_MAX {
            lists.own.remove(0);
        }
        lists.own.push(Arc::clone(&revocation));
        self.publish(&lists);
        drop(lists);
        self.0.ended.lock().insert(revocation.id, Ended::default());
        revocation
    }

    /// What goes on for `whom` as they were is over, and nothing else is: they are good for something else now. Whoever holds
    /// something of theirs has to be told of it.
    #[must_use]
    pub fn end_as_they_were(&self, whom: Whom, why: &str) -> Arc<Revocation> {
        let now = clock::now();
        let revocation = Arc::new(Revocation { why: Some(why.to_owned()), ..Revocation::new(whom, now, Some(now)) });
        self.0.ended.lock().insert(revocation.id, Ended::default());
        revocation
    }

    /// Takes back what [`Self::end_here`] said of `whom`.
    pub fn go_on_here(&self, whom: &Whom) {
        let mut lists = self.0.lists.lock();
        lists.own.retain(|one| one.whom != *whom);
        self.publish(&lists);
    }

    fn publish(&self, lists: &Lists) {
        let all = || lists.kept.iter().chain(&lists.own);
        let grants = all().filter(|one| matches!(one.whom, Whom::Grant { .. }));
        let newest = grants.map(|one| one.at).max().unwrap_or_default();
        self.0.set.store(Arc::new(Set::of(all())));
        self.0.newest_grant.store(newest, Ordering::Release);
    }

    /// Something has ended because of `revocation`.
    pub fn ended(&self, revocation: &Revocation, what: What) {
        if let Some(ended) = self.0.ended.lock().get_mut(&revocation.id) {
            let count = match what {
                What::Stream => &mut ended.streams,
                What::Call => &mut ended.calls,
                What::Hold => &mut ended.holds,
                What::Session => &mut ended.sessions,
            };
            *count = count.saturating_add(1);
        }
    }

    /// What has ended because of the revocation `id` so far; it is counted no further.
    #[must_use]
    pub fn counted(&self, id: Uuid) -> Ended {
        self.0.ended.lock().remove(&id).unwrap_or_default()
    }
}

/// Revocations that only this process knows; the oldest goes first, whose tokens are nearest to their end.
const OWN_MAX: usize = 4_096;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        config,
        identity::{Agent, Authentication, Binding, Credential, User},
    };

    fn identity(user: &str, issued_at: Timestamp) -> Identity {
        Identity {
            user: Some(User { issuer: "https://login".to_owned(), subject: user.to_owned() }),
            agent: Agent { client_id: "desk".to_owned(), actors: vec!["worker".to_owned()] },
            tenant: Some("acme".to_owned()),
            groups: Vec::new(),
            scopes: Vec::new(),
            authentication: Authentication {
                method: "jwt",
                issuer: "https://login".to_owned(),
                token_id: Some(format!("jti-{user}")),
                token_digest: format!("digest-{user}"),
                login_id: Some(format!("login-{user}")),
                acr: None,
                issued_at,
                auth_time: None,
                binding: Binding::Nothing,
                may_act: None,
                expires_at: Timestamp::from_unix_ms(u64::MAX),
            },
            principal: [0; 32],
            class: [0; 32],
            credential: Credential::new("t".to_owned()),
        }
    }

    fn named(name: &str) -> String {
        name.to_owned()
    }

    fn user(name: &str) -> Whom {
        Whom::User { name: named(name), issuer: None }
    }

    fn with(revocation: Revocation) -> Revocations {
        let revocations = Revocations::default();
        revocations.replace(vec![revocation]);
        revocations
    }

    fn code(revocations: &Revocations, identity: &Identity) -> Option<&'static str> {
        revocations.admit(identity).err().map(|found| found.refusal().code())
    }

    #[test]
    fn what_was_issued_before_is_refused_and_what_comes_after_is_good_again() {
        let at = Timestamp::from_unix_ms(1_000_500);
        let issued = |ms| identity("alice", Timestamp::from_unix_ms(ms));
        let signed_out = with(Revocation::new(user("alice"), at, None));
        assert_eq!(code(&signed_out, &issued(999_000)), Some("token_revoked"));
        assert_eq!(code(&signed_out, &issued(1_000_000)), Some("token_revoked"), "the same second");
        assert_eq!(code(&signed_out, &issued(1_001_000)), None);
        assert_eq!(code(&signed_out, &identity("bob", at)), None);
        let blocked = with(Revocation { blocks: true, ..Revocation::new(user("alice"), at, None) });
        assert_eq!(code(&blocked, &issued(1_001_000)), Some("caller_blocked"));
    }

    #[test]
    fn each_kind_finds_whom_it_names_and_nobody_else() {
        let (now, of) = (clock::now(), |issuer: &str| Some(named(issuer)));
        let alice = identity("alice", now);
        let agent = |name: &str, issuer| Whom::Agent { name: named(name), issuer };
        let token = |name: &str| Whom::Token { name: named(name), issuer: None };
        for (whom, hit) in [
            (Whom::User { name: named("alice"), issuer: of("https://login") }, true),
            (Whom::User { name: named("alice"), issuer: of("https://other") }, false),
            (agent("desk", None), true),
            (agent("worker", None), true),
            (agent("desk", of("https://other")), false),
            (agent("alice", None), false),
            (Whom::Tenant { name: named("acme"), issuer: None }, true),
            (Whom::Tenant { name: named("other"), issuer: None }, false),
            (token("jti-alice"), true),
            (token("digest-alice"), true),
            (token("login-alice"), true),
            (token("jti-bob"), false),
            (token("login-bob"), false),
            (Whom::Issuer { name: named("https://login") }, true),
            (Whom::Issuer { name: named("https://log") }, false),
            (Whom::Session { name: named("alice") }, false),
            (Whom::Grant { upstream: None, user: of("alice"), agent: None }, false),
        ] {
            let revocations = with(Revocation::new(whom.clone(), now, None));
            assert_eq!(revocations.admit(&alice).is_err(), hit, "{whom:?}");
        }
    }

    #[test]
    fn what_has_ended_or_was_lifted_is_in_force_no_more() {
        let now = clock::now();
        let alice = identity("alice", now);
        let over = with(Revocation::new(user("alice"), now, Some(now)));
        assert!(over.admit(&alice).is_ok());
        let revocations = with(Revocation::new(user("alice"), now, Some(now.plus(Duration::from_secs(60)))));
        assert!(revocations.admit(&alice).is_err());
        let changes = revocations.replace(Vec::new());
        assert_eq!((changes.begun.len(), changes.lifted.len()), (0, 1));
        assert!(revocations.admit(&alice).is_ok());
        let token = Whom::Token { name: named("digest-alice"), issuer: None };
        revocations.end_here(token.clone(), None, "inactive");
        revocations.replace(Vec::new());
        assert!(revocations.admit(&alice).is_err(), "what only this process knows stays");
        revocations.go_on_here(&token);
        assert!(revocations.admit(&alice).is_ok());
    }

    #[test]
    fn grants_have_another_generation_for_whom_it_concerns() {
        let (now, up) = (clock::now(), UpstreamId::parse("crm").unwrap());
        let (alice, bob, other) = (identity("alice", now), identity("bob", now), UpstreamId::parse("wiki").unwrap());
        let grant = Whom::Grant { upstream: Some(named("crm")), user: Some(named("alice")), agent: None };
        let revocations = with(Revocation::new(grant, now, None));
        assert_eq!(revocations.grant_epoch(Some(&alice), &up), now.unix_ms());
        for (caller, upstream) in [(Some(&bob), &up), (Some(&alice), &other), (None, &up)] {
            assert_eq!(revocations.grant_epoch(caller, upstream), 0);
        }
        let everybodys = with(Revocation::new(Whom::Grant { upstream: None, user: None, agent: None }, now, None));
        assert_eq!(everybodys.grant_epoch(None, &up), now.unix_ms());
    }

    #[tokio::test]
    async fn what_is_kept_comes_back_as_it_was() {
        let (store, now) = (Store::open(&config::State::default()).unwrap(), clock::now());
        let one =
            Revocation { blocks: true, why: Some(named("lost laptop")), ..Revocation::new(user("alice"), now, None) };
        let until = Some(now.plus(Duration::from_secs(60)));
        let grant = Whom::Grant { upstream: Some(named("crm")), user: None, agent: None };
        let two = Revocation::new(grant, now.plus(Duration::from_secs(1)), until);
        for revocation in [&two, &one] {
            revoke(&store, revocation, now).await.unwrap();
        }
        let broken = Value { bytes: b"{}".to_vec(), until: None };
        store.put(Place::Revocation, b"broken", broken, now).await.unwrap();
        assert_eq!(all(&store, now).await.unwrap(), [one.clone(), two], "and one bad record keeps none of them");
        assert_eq!(all(&store, now.plus(Duration::from_secs(61))).await.unwrap(), std::slice::from_ref(&one));
        assert!(lift(&store, one.id).await.unwrap() && !lift(&store, one.id).await.unwrap());
    }

    #[test]
    fn what_ends_is_counted_once_for_its_revocation() {
        let revocations = with(Revocation::new(user("alice"), clock::now(), None));
        let found = revocations.admit(&identity("alice", Timestamp::from_unix_ms(0))).unwrap_err();
        for what in [What::Call, What::Call, What::Hold, What::Session, What::Stream] {
            revocations.ended(&found, what);
        }
        let counted = revocations.counted(found.id);
        assert_eq!(counted, Ended { streams: 1, calls: 2, holds: 1, sessions: 1 });
        assert_eq!(revocations.counted(found.id), Ended::default());
    }
}
