//! How much?
//!
//! A [`Permit`] in, an [`Admission`] out, or a refusal with the time to wait. Ceilings come from
//! `policies/ceilings.toml`; a call counts against every ceiling that matches it or, where one has no room, against
//! none. It does not decide whether a call may be made at all.

mod written;

use std::sync::Arc;

use miette::SourceSpan;

use crate::{
    catalog::{Definition, Kind, definition::matches},
    clock::Timestamp,
    config::{Problem, Source, UpstreamId},
    digest::Name,
    identity::Identity,
    policy::{Finding, Permit, check::Estate},
    refusal::Refusal,
    state::{Exhausted, Rate, Rates, Take, Taken, whole_ms},
};

/// All ceilings, and where they count.
#[derive(Debug)]
pub struct Ceilings {
    ceilings: Vec<Ceiling>,
    rates: Arc<Rates>,
}

/// One ceiling.
#[derive(Debug)]
struct Ceiling {
    name: Arc<str>,
    per: Vec<Per>,
    matching: Matching,
    /// Where `match` stands.
    place: Option<SourceSpan>,
    rate: Option<Rate>,
    in_flight: Option<u32>,
}

/// What a ceiling counts apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
enum Per {
    /// As its issuer names it: another's of the same name is another.
    Tenant,
    /// The user, or the agent where there is no user, as the principal in policies is.
    User,
    Agent,
    Tool,
    Upstream,
}

/// Which calls a ceiling is for; what is absent matches all.
#[derive(Debug, Default)]
struct Matching {
    upstream: Option<String>,
    tool: Option<String>,
    method: Option<String>,
    tag: Option<String>,
}

/// The proof that a permitted call is within every ceiling. Only [`Ceilings::admit`] makes one; it holds the call's
/// slots until it is dropped, so it has to live as long as the call.
///
/// ```compile_fail,E0599
/// fn twice(admission: tollgate::ceiling::Admission) -> [tollgate::ceiling::Admission; 2] {
///     [admission.clone(), admission]
/// }
/// ```
#[derive(Debug)]
pub struct Admission {
    permit: Permit,
    ceilings: Vec<Arc<str>>,
    taken: Taken,
}

impl Admission {
    /// Ids of the policies that permitted the call.
    #[must_use]
    pub fn policies(&self) -> &[Arc<str>] {
        self.permit.policies()
    }

    /// The digest of the set that they are of.
    #[must_use]
    pub fn policy_set(&self) -> &Arc<str> {
        self.permit.policy_set()
    }

    /// What `@shadow` policies had to say.
    #[must_use]
    pub fn shadow(&self) -> &[Finding] {
        self.permit.shadow()
    }

    /// Names of the ceilings that counted the call.
    #[must_use]
    pub fn ceilings(&self) -> &[Arc<str>] {
        &self.ceilings
    }

    /// Whether this is the admission of `caller` for `tool`.
    #[must_use]
    pub fn is_for(&self, caller: &Identity, tool: &Definition) -> bool {
        self.permit.is_for(caller, tool)
    }

    /// How many calls at once this one counts as: one for each ceiling on that.
    #[must_use]
    pub fn slots(&self) -> usize {
        self.taken.len()
    }

    /// Hands the slots over, for what is no call any more before its admission goes.
    pub fn hand_over(&mut self) -> Taken {
        std::mem::take(&mut self.taken)
    }
}

impl Ceilings {
    /// Counts one call of `tool` by `caller`.
    ///
    /// # Errors
    /// [`Refusal::CeilingReached`], with the ceiling that takes longest and the time to wait.
    pub fn admit(
        &self,
        permit: Permit,
        caller: &Identity,
        tool: &Definition,
        now: Timestamp,
    ) -> Result<Admission, Refusal> {
        if !permit.is_for(caller, tool) {
            return Err(Refusal::Bug("a permit for another call"));
        }
        let applying: Vec<&Ceiling> = self.ceilings.iter().filter(|ceiling| ceiling.matching.includes(tool)).collect();
        let takes: Vec<Take> = applying.iter().map(|ceiling| ceiling.take(caller, tool)).collect();
        match self.rates.take(&takes, now) {
            Ok(taken) => {
                let ceilings = applying.iter().map(|ceiling| Arc::clone(&ceiling.name)).collect();
                Ok(Admission { permit, ceilings, taken })
            }
            Err(Exhausted::Full) => Err(Refusal::Overloaded("as many callers are counted as can be")),
            Err(Exhausted::Counter { place, retry_after }) => Err(Refusal::CeilingReached {
                ceiling: applying.get(place).map(|ceiling| ceiling.name.to_string()).unwrap_or_default(),
                retry_after_ms: whole_ms(retry_after),
            }),
        }
    }

    /// A warning for each ceiling that counts no call in front of `estate`; `source` is what they were read from. Of an
    /// upstream that could not be read, nothing is said.
    #[must_use]
    pub fn check(&self, source: &Source, estate: &Estate<'_>) -> Vec<Problem> {
        let wrong = |ceiling: &Ceiling| {
            let why = ceiling.matching.misses(estate)?;
            let message = format!("the ceiling `{}` counts no call: {why}", ceiling.name);
            let help = "ids, tools and tags are those of `upstreams.toml` and of the upstreams' own lists";
            Some(source.problem(message).under(ceiling.place).help(help).warning())
        };
        self.ceilings.iter().filter_map(wrong).collect()
    }

    /// Names of all ceilings, in the order written.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.ceilings.iter().map(|ceiling| &*ceiling.name)
    }
}

impl Matching {
    /// Why no call can match, as far as that is known.
    fn misses(&self, estate: &Estate<'_>) -> Option<String> {
        let within = |id: &&UpstreamId| self.upstream.as_ref().is_none_or(|only| only == id.as_str());
        let upstreams: Vec<&UpstreamId> = estate.upstreams.keys().filter(within).collect();
        if let (Some(only), []) = (&self.upstream, upstreams.as_slice()) {
            return Some(format!("there is no upstream `{only}`"));
        }
        if let Some(tag) = &self.tag
            && !upstreams.iter().any(|id| estate.tags(id).any(|known| known == tag))
        {
            return Some(format!("no tool has the tag `{tag}`"));
        }
        let unsure = estate.unread.iter().any(|id| within(&id));
        let fits = unsure || estate.tools.iter().any(|tool| self.includes(tool));
        // Resources are not known by name, so all that can be said of them is whether a rule gives them the tag.
        let of_resources = |tag: &String| {
            let rules = upstreams.iter().filter_map(|id| estate.upstreams.get(*id)).flat_map(|it| &it.resources);
            rules.into_iter().any(|rule| rule.tags.contains(tag))
        };
        let resources = self.tool.is_none() && self.tag.as_ref().map_or(self.method.is_some(), of_resources);
        (!fits && !resources).then(|| "no tool fits its `match`".to_owned())
    }

    fn includes(&self, tool: &Definition) -> bool {
        self.upstream.as_ref().is_none_or(|id| id == tool.upstream.as_str())
            && self.tool.as_ref().is_none_or(|pattern| tool.kind == Kind::Tool && matches(pattern, &tool.name))
            && self.method.as_ref().is_none_or(|method| method == tool.kind.method())
            && self.tag.as_ref().is_none_or(|tag| tool.tags.contains(tag))
    }
}

impl Ceiling {
    fn take(&self, caller: &Identity, tool: &Definition) -> Take {
        Take { key: self.key(caller, tool), rate: self.rate, in_flight: self.in_flight }
    }

    fn key(&self, caller: &Identity, tool: &Definition) -> [u8; 32] {
        let mut name = Name::of(&self.name);
        let mut add = |parts: &[&str]| parts.iter().for_each(|part| name.add(part));
        let issuer = caller.authentication.issuer.as_str();
        for per in &self.per {
            match per {
                Per::Tenant => match &caller.tenant {
                    Some(tenant) => add(&["tenant", issuer, tenant]),
                    None => add(&["no tenant", issuer]),
                },
                Per::User => match &caller.user {
                    Some(user) => add(&["user", &user.issuer, &user.subject]),
                    None => add(&["no user", issuer, &caller.agent.client_id]),
                },
                Per::Agent => add(&["agent", issuer, &caller.agent.client_id]),
                // Resources are counted together: there is no end of them.
                Per::Tool => add(&["tool", tool.upstream.as_str(), &tool.action()]),
                Per::Upstream => add(&["upstream", tool.upstream.as_str()]),
            }
        }
        name.finish()
    }
}

/// An admission to nothing in particular, for the tests of later stages.
#[cfg(test)]
pub(crate) fn admission() -> Admission {
    use crate::{
        config::Source,
        policy::{Policies, fixtures},
    };
    let all = vec![Source::new("all.cedar", "permit(principal, action, resource);")];
    let (who, tools) = (fixtures::caller("alice", None, &[], &[]), fixtures::demo());
    let tool = fixtures::named(&tools, "notes/read_note");
    let permit = Policies::parse(all).unwrap().decide(&who, &tool, None, fixtures::NOON).unwrap();
    Ceilings::parse(None, Arc::new(Rates::new(1))).unwrap().admit(permit, &who, &tool, fixtures::NOON).unwrap()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use miette::Diagnostic;
    use proptest::prelude::*;
    use serde_json::json;

    use super::{Admission, Ceilings};
    use crate::{
        catalog::Definition,
        clock::Timestamp,
        config::Source,
        identity::Identity,
        policy::{
            Policies,
            check::Estate,
            fixtures::{NOON, caller, demo, demo_upstreams, named, shipped, tool, upstream},
            load,
        },
        refusal::Refusal,
        state::Rates,
    };

    fn ceilings(text: &str) -> Ceilings {
        Ceilings::parse(Some(&Source::new("ceilings.toml", text)), Arc::new(Rates::new(10_000))).unwrap()
    }

    fn admit(ceilings: &Ceilings, who: &Identity, tool: &Definition, now: Timestamp) -> Result<Admission, Refusal> {
        let all = Policies::parse(vec![Source::new("all.cedar", "permit(principal, action, resource);")]).unwrap();
        let permit = all.decide(who, tool, None, NOON).unwrap();
        ceilings.admit(permit, who, tool, now)
    }

    fn reached(ceiling: &str, retry_after_ms: u64) -> Refusal {
        Refusal::CeilingReached { ceiling: ceiling.to_owned(), retry_after_ms }
    }

    #[test]
    fn a_ceiling_counts_apart_what_per_names() {
        let set = ceilings(
            "[[ceilings]]\nname = \"n\"\nper = [\"user\", \"tool\"]\nrate = { count = 60, per = \"1m\", burst = 1 }\n",
        );
        let crm = upstream("crm", vec![]);
        let (read, write) = (tool(&crm, "read", json!({}), &[]), tool(&crm, "write", json!({}), &[]));
        let (alice, bob) = (caller("alice", None, &[], &[]), caller("bob", None, &[], &[]));
        assert_eq!(admit(&set, &alice, &read, NOON).unwrap().ceilings(), [Arc::from("n")]);
        assert_eq!(admit(&set, &alice, &read, NOON).unwrap_err(), reached("n", 1000));
        assert!(admit(&set, &alice, &write, NOON).is_ok());
        assert!(admit(&set, &bob, &read, NOON).is_ok());
        assert!(admit(&set, &caller("", None, &[], &[]), &read, NOON).is_ok());
    }

    #[test]
    fn a_call_in_flight_holds_its_slot_until_its_admission_goes() {
        let set = ceilings(
            "[[ceilings]]\nname = \"n\"\nin_flight = 1\nmatch = { upstream = \"notes\", tool = \"slow_*\" }\n",
        );
        let tools = demo();
        let (slow, read) = (named(&tools, "notes/slow_report"), named(&tools, "notes/read_note"));
        let who = caller("alice", Some("acme"), &[], &["crm:write"]);
        let held = admit(&set, &who, &slow, NOON).unwrap();
        assert_eq!(held.slots(), 1);
        assert_eq!(admit(&set, &who, &slow, NOON).unwrap_err(), reached("n", 1000));
        assert!(admit(&set, &who, &read, NOON).unwrap().ceilings().is_empty());
        drop(held);
        let mut held = admit(&set, &who, &slow, NOON).unwrap();
        let slots = held.hand_over();
        assert_eq!((held.slots(), admit(&set, &who, &slow, NOON).unwrap_err()), (0, reached("n", 1000)));
        drop(slots);
        assert!(admit(&set, &who, &slow, NOON).is_ok(), "whoever has the slots gives them back");
    }

    /// Nobody drains the ceilings of others by a name that their own issuer gives them.
    #[test]
    fn a_tenant_of_another_issuer_is_another() {
        let set = ceilings(
            "[[ceilings]]\nname = \"n\"\nper = [\"tenant\"]\nrate = { count = 60, per = \"1m\", burst = 1 }\n",
        );
        let read = named(&demo(), "notes/read_note");
        for tenant in [Some("acme"), None] {
            let here = caller("alice", tenant, &[], &[]);
            let mut there = caller("bob", tenant, &[], &[]);
            there.authentication.issuer = "https://elsewhere.example".to_owned();
            assert!(admit(&set, &here, &read, NOON).is_ok());
            assert_eq!(admit(&set, &caller("bob", tenant, &[], &[]), &read, NOON).unwrap_err(), reached("n", 1000));
            assert!(admit(&set, &there, &read, NOON).is_ok(), "{tenant:?}");
        }
    }

    #[test]
    fn a_permit_admits_only_its_own_call() {
        let set = ceilings("");
        let tools = demo();
        let all = Policies::parse(vec![Source::new("all.cedar", "permit(principal, action, resource);")]).unwrap();
        let alice = caller("alice", None, &[], &[]);
        let permit = all.decide(&alice, &named(&tools, "notes/read_note"), None, NOON).unwrap();
        let other = named(&tools, "notes/write_note");
        assert_eq!(set.admit(permit, &alice, &other, NOON).unwrap_err(), Refusal::Bug("a permit for another call"));
    }

    #[test]
    fn faults_are_all_said_with_their_place() {
        let check = |text: &str| {
            let source = Source::new("ceilings.toml", text);
            let problems = Ceilings::parse(Some(&source), Arc::new(Rates::new(1))).unwrap_err();
            let shown = |problem: &crate::config::Problem| {
                let label = problem.labels().unwrap().next().map(|label| label.offset()..label.offset() + label.len());
                let help = problem.help().map(|help| help.to_string()).unwrap_or_default();
                format!("{problem} | {help} | {}", label.and_then(|span| text.get(span)).unwrap_or_default())
            };
            problems.iter().map(shown).collect::<Vec<_>>().join("\n")
        };
        let wrong = "[[ceilings]]\nname = \"a\"\n\n[[ceilings]]\nname = \"a\"\nin_flight = 0\n\n[[ceilings]]\nname = \"\"\n\
                     rate = { count = 0, per = \"1w\", burst = 0 }\nmatch = { upstream = \"CRM\" }\n";
        insta::assert_snapshot!(check(wrong));
        insta::assert_snapshot!(check("[[ceilings]]\nname = \"a\"\nper = [\"usr\"]\nin_flight = 1\n"));
        insta::assert_snapshot!(check("[[ceilings]]\nname = \"a\"\nrates = 1\n"));
        insta::assert_snapshot!(check(
            "[[ceiling]]\nname = \"a\"\n\n[[ceilings]]\nnme = \"b\"\nper = \"user\"\nin_flight = \"4\"\n\n[[ceilings]]\n\
             rate = { cuont = 1, per = 60 }\nmatch = { upstrem = \"crm\" }\n"
        ));
        insta::assert_snapshot!(check("[[ceilings]\nname = \"a\"\nname = \"b\"\n"));
    }

    #[test]
    fn a_ceiling_that_counts_no_call_is_told() {
        let text = "[[ceilings]]\nname = \"all\"\nin_flight = 1\n\n\
                    [[ceilings]]\nname = \"fits\"\nin_flight = 1\nmatch = { upstream = \"crm\", tool = \"create_*\", tag = \"write\" }\n\n\
                    [[ceilings]]\nname = \"crn\"\nin_flight = 1\nmatch = { upstream = \"crn\" }\n\n\
                    [[ceilings]]\nname = \"tag\"\nin_flight = 1\nmatch = { tag = \"wrote\" }\n\n\
                    [[ceilings]]\nname = \"tool\"\nin_flight = 1\nmatch = { upstream = \"notes\", tool = \"create_*\" }\n";
        let (source, set) = (Source::new("ceilings.toml", text), ceilings(text));
        let (tools, upstreams) = (demo(), demo_upstreams());
        let ids: Vec<_> = upstreams.keys().cloned().collect();
        let said = |tools: &[Arc<Definition>], unread: &[_]| {
            let problems = set.check(&source, &Estate { upstreams: &upstreams, tools, unread });
            assert!(problems.iter().all(|problem| !problem.is_error()));
            problems.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        let certain = [
            "the ceiling `crn` counts no call: there is no upstream `crn`",
            "the ceiling `tag` counts no call: no tool has the tag `wrote`",
        ];
        assert_eq!(said(&[], &ids), certain);
        let all = [certain[0], certain[1], "the ceiling `tool` counts no call: no tool fits its `match`"];
        assert_eq!(said(&tools, &[]), all);
    }

    #[test]
    fn the_ceilings_that_ship_load_and_match_something() {
        let source = load::source(&shipped(), "ceilings.toml").unwrap().unwrap();
        let set = Ceilings::parse(Some(&source), Arc::new(Rates::new(10_000))).unwrap();
        for ceiling in &set.ceilings {
            assert!(demo().iter().any(|tool| ceiling.matching.includes(tool)), "{}", ceiling.name);
        }
        assert_eq!(set.names().count(), 4);
    }

    proptest! {
        /// Parts that run into each other would let one caller use up another's ceiling.
        #[test]
        fn different_callers_have_different_keys(a in "[ab]{0,3}", b in "[ab]{0,3}", c in "[ab]{0,3}", d in "[ab]{0,3}") {
            let set = ceilings("[[ceilings]]\nname = \"n\"\nper = [\"user\", \"tenant\", \"agent\"]\nin_flight = 1\n");
            let find = named(&demo(), "crm/find_customer");
            let who = |user: &str, tenant: &str| {
                let mut who = caller(user, Some(tenant), &[], &[]);
                who.agent.client_id = tenant.to_owned();
                who
            };
            let key = |user: &str, tenant: &str| set.ceilings[0].key(&who(user, tenant), &find);
            prop_assert_eq!(key(&a, &b) == key(&c, &d), (&a, &b) == (&c, &d));
        }
    }
}
