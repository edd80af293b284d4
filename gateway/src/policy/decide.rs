//! Which policies decide this call, and how?
//!
//! The deciding code, and the caches that keep it off the hot path. It reads neither files nor a clock.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use cedar_policy::{
    AuthorizationError, Authorizer, Context, Decision, Effect, Entities, EntityUid, EvaluationError, Policy, PolicyId,
    PolicySet, Request,
};
use quick_cache::sync::Cache;

use super::{
    input::{self, Fields},
    parse::{self, Rule},
    reads::Reads,
    sight::Sight,
    slice::{Principal, Subject, ToolSlice},
    vocabulary::{Inexpressible, Own, Vocabulary, context_of, context_with, id},
};
use crate::{
    catalog::{Definition, Kind},
    clock::Timestamp,
    config::{Problem, Source},
    digest::{Name, hex},
    identity::Identity,
    refusal::Refusal,
    rpc::json,
};

/// One set of policies, ready to decide.
#[derive(Debug)]
pub struct Policies {
    pub(super) vocabulary: Vocabulary,
    pub(super) rules: Vec<Rule>,
    digest: Arc<str>,
    authorizer: Authorizer,
    /// By [`Definition::key`].
    tools: Cache<[u8; 32], Arc<ToolView>>,
    /// By [`Identity::class`] and [`Definition::key`]. A new set of policies starts with empty caches, so its digest
    /// need not be part of the key.
    slices: Cache<([u8; 32], [u8; 32]), Arc<Slice>>,
}

/// The proof that policy allowed one call. Only [`Policies::decide`] makes one, and it is spent once:
///
/// ```compile_fail,E0599
/// fn twice(permit: tollgate::policy::Permit) -> [tollgate::policy::Permit; 2] {
///     [permit.clone(), permit]
/// }
/// ```
///
/// ```compile_fail,E0451
/// fn forged(real: tollgate::policy::Permit) -> tollgate::policy::Permit {
///     tollgate::policy::Permit { policy_set: "mine".into(), ..real }
/// }
/// ```
#[derive(Debug)]
pub struct Permit {
    verdict: Arc<Verdict>,
    policy_set: Arc<str>,
    /// [`Definition::key`], [`Definition::given`] and [`Identity::principal`] of what was judged: a permit is good for
    /// nothing else.
    tool: [u8; 32],
    given: Option<Bytes>,
    principal: [u8; 32],
}

impl Permit {
    /// What the policies said.
    #[must_use]
    pub fn verdict(&self) -> &Arc<Verdict> {
        &self.verdict
    }

    /// Ids of the policies that decided.
    #[must_use]
    pub fn policies(&self) -> &[Arc<str>] {
        &self.verdict.policies
    }

    /// SHA-256 of the set that they are of, in hex.
    #[must_use]
    pub fn policy_set(&self) -> &Arc<str> {
        &self.policy_set
    }

    /// What `@shadow` policies had to say.
    #[must_use]
    pub fn shadow(&self) -> &[Finding] {
        &self.verdict.shadow
    }

    /// Whether this is the permit of `caller` for `tool`.
    #[must_use]
    pub fn is_for(&self, caller: &Identity, tool: &Definition) -> bool {
        let given = tool.given().map(|given| given.raw());
        self.principal == caller.principal && self.tool == tool.key && self.given.as_deref() == given
    }
}

/// Why a call is not allowed.
#[derive(Debug)]
pub struct Denial {
    /// What the caller gets to know.
    pub refusal: Refusal,
    /// What the policies said.
    pub verdict: Arc<Verdict>,
}

impl From<Denial> for Refusal {
    fn from(denial: Denial) -> Self {
        denial.refusal
    }
}

/// A `@shadow` policy that applied to a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Its id.
    pub policy: Arc<str>,
    /// What it would have done.
    pub outcome: Shadow,
    /// Whether the call would have ended otherwise with this policy enforced.
    pub changes: bool,
}

/// What a policy that is not enforced would have done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shadow {
    /// It would have permitted.
    Permits,
    /// It would have forbidden.
    Forbids,
    /// It could not be evaluated, which would have denied.
    Fails,
}

impl Shadow {
    /// The word for the audit record.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Permits => "permit",
            Self::Forbids => "forbid",
            Self::Fails => "fail",
        }
    }
}

/// Policies as far as they can be read, and what is wrong with the rest. They decide nothing: a `forbid` that is not
/// among them would be missed.
#[derive(Debug)]
pub struct Draft {
    pub(super) rules: Vec<Rule>,
    problems: Vec<Problem>,
    digest: String,
}

impl Draft {
    pub(super) fn of((sources, mut problems): (Vec<Source>, Vec<Problem>)) -> Self {
        let (rules, wrong) = parse::rules(&sources);
        problems.extend(wrong);
        Self { rules, problems, digest: digest_of(&sources) }
    }

    /// What is wrong with what is missing.
    #[must_use]
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// Whether there is nothing to be read, and nothing wrong: no policy at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty() && self.problems.is_empty()
    }
}

impl Policies {
    /// Reads policies from text.
    ///
    /// # Errors
    /// Everything wrong in them, at once.
    pub fn parse(sources: Vec<Source>) -> Result<Self, Vec<Problem>> {
        Self::of(Draft::of((sources, Vec::new())))
    }

    /// Makes of a draft what decides.
    ///
    /// # Errors
    /// Everything wrong in it, at once.
    pub fn of(draft: Draft) -> Result<Self, Vec<Problem>> {
        let Draft { rules, problems, digest } = draft;
        if !problems.is_empty() {
            return Err(problems);
        }
        let Some(vocabulary) = Vocabulary::new() else {
            return Err(vec![Problem::nowhere("the names of Cedar's entity types are not identifiers")]);
        };
        Ok(Self {
            vocabulary,
            rules,
            digest: Arc::from(digest),
            authorizer: Authorizer::new(),
            tools: Cache::new(TOOLS_MAX),
            slices: Cache::new(SLICES_MAX),
        })
    }

    /// SHA-256 of all policy files, in hex: the set's name in the audit.
    #[must_use]
    pub fn digest(&self) -> &Arc<str> {
        &self.digest
    }

    /// How many policies there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rules.len()
    }

    /// Whether there are none, so that everything is denied.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Whether `caller` may use `tool`, or whatever else is defined there, with `arguments` at `now`. Where the input is
    /// known before anybody asks, `arguments` play no part.
    ///
    /// # Errors
    /// [`Refusal::ToolUnknown`] and its like where the caller may not see it, [`Refusal::Denied`] where they may, but not
    /// use it with these arguments, [`Refusal::PolicyFailed`] where that could not be decided,
    /// [`Refusal::ScopeInsufficient`] where only scopes are missing, and [`Refusal::AuthenticationInsufficient`] where only
    /// a better login is.
    pub fn decide(
        &self,
        caller: &Identity,
        tool: &Definition,
        arguments: Option<json::Value<'_>>,
        now: Timestamp,
    ) -> Result<Permit, Denial> {
        let slice = self.slice(caller, tool).map_err(|fault| failed(&fault))?;
        let listing = self.listing(&slice, now).map_err(|fault| failed(&fault))?;
        let input = tool.given().or(arguments);
        if let Some(why) = listing.hides() {
            let reported = slice.reads().input && !slice.shadow.is_empty();
            let verdict = if reported { self.reported(&slice, &listing, (input, now)) } else { listing };
            return Err(verdict.denial(hidden(tool.kind, why)));
        }
        let verdict = if slice.reads().input { self.full(&slice, input, now) } else { Ok(listing) };
        let verdict = verdict.map_err(|fault| failed(&fault))?;
        match &verdict.outcome {
            Outcome::Allowed => {}
            // What is asked for is the whole input, so what may not be used may not be seen either.
            Outcome::Denied | Outcome::Failed(_) if tool.given().is_some() => {
                return Err(verdict.denial(hidden(tool.kind, verdict.hides().unwrap_or_default())));
            }
            Outcome::Denied => {
                let policies = verdict.policies.iter().map(|id| id.to_string()).collect();
                return Err(verdict.denial(Refusal::Denied(policies)));
            }
            Outcome::Failed(why) => return Err(verdict.denial(Refusal::PolicyFailed(why.clone()))),
        }
        self.permit(caller, tool, verdict, now)
    }

    fn permit(
        &self,
        caller: &Identity,
        tool: &Definition,
        verdict: Arc<Verdict>,
        now: Timestamp,
    ) -> Result<Permit, Denial> {
        if tool.requires.iter().any(|scope| caller.scopes.binary_search(scope).is_err()) {
            return Err(verdict.denial(Refusal::ScopeInsufficient(tool.requires.clone())));
        }
        let authentication = &caller.authentication;
        if let Some(login) = tool.login.unmet(authentication.acr.as_deref(), authentication.auth_time, now) {
            return Err(verdict.denial(Refusal::AuthenticationInsufficient(login)));
        }
        let given = tool.given().map(|given| given.raw_bytes());
        Ok(Permit { verdict, policy_set: Arc::clone(&self.digest), tool: tool.key, given, principal: caller.principal })
    }

    /// Whether `caller` may follow a task that a call of `tool` became: whether they may still see the tool, and hold its
    /// scopes. The arguments were judged when the call was made, and are not there any more.
    ///
    /// # Errors
    /// [`Refusal::ToolUnknown`] where the caller may no longer see it, [`Refusal::PolicyFailed`],
    /// [`Refusal::ScopeInsufficient`], [`Refusal::AuthenticationInsufficient`].
    pub fn follow(&self, caller: &Identity, tool: &Definition, now: Timestamp) -> Result<Permit, Denial> {
        let slice = self.slice(caller, tool).map_err(|fault| failed(&fault))?;
        let verdict = self.listing(&slice, now).map_err(|fault| failed(&fault))?;
        if let Some(why) = verdict.hides() {
            return Err(verdict.denial(hidden(tool.kind, why)));
        }
        self.permit(caller, tool, verdict, now)
    }

    /// Whether `caller` gets to see `tool`: the first half of [`Policies::decide`], so that what is hidden cannot be called;
    /// and the second too, where the input is known.
    /// Missing scopes and a login that is not enough do not hide a tool, because the caller can do something about them.
    #[must_use]
    pub fn visible(&self, caller: &Identity, tool: &Definition, now: Timestamp) -> bool {
        let verdict = self.slice(caller, tool).and_then(|slice| {
            let listing = self.listing(&slice, now)?;
            match tool.given() {
                Some(input) if listing.hides().is_none() && slice.reads().input => self.full(&slice, Some(input), now),
                Some(_) | None => Ok(listing),
            }
        });
        verdict.is_ok_and(|verdict| verdict.hides().is_none())
    }

    /// What `caller` gets to see at `now`, for many questions: each is answered as [`Policies::visible`] answers it.
    #[must_use]
    pub fn sight<'a>(&'a self, caller: &'a Identity, now: Timestamp) -> Sight<'a> {
        Sight::new(self, caller, now)
    }

    pub(super) fn slice(&self, caller: &Identity, tool: &Definition) -> Result<Arc<Slice>, Inexpressible> {
        let key = (caller.class, tool.key);
        if let Some(slice) = self.slices.get(&key) {
            return Ok(slice);
        }
        let slice = Arc::new(self.cut(caller, tool)?);
        self.slices.insert(key, Arc::clone(&slice));
        Ok(slice)
    }

    fn cut(&self, caller: &Identity, tool: &Definition) -> Result<Slice, Inexpressible> {
        let (view, principal) = (self.view(tool), self.principal(caller));
        let mut slice = Slice {
            entities: self.vocabulary.entities(caller, tool)?,
            principal: principal.uid.clone(),
            base: Own::new(),
            enforced: PolicySet::new(),
            listing: PolicySet::new(),
            shadow: Vec::new(),
            shadow_listing: Vec::new(),
            enforced_reads: Reads::default(),
            shadow_reads: Reads::default(),
            places: view.slice.places(&principal),
            listed: OnceLock::new(),
            view,
        };
        for rule in slice.places.iter().filter_map(|place| self.rules.get(*place)) {
            if rule.shadow {
                slice.shadow.push(rule.policy.clone());
                slice.shadow_listing.push(rule.listing()?.clone());
                slice.shadow_reads = slice.shadow_reads.and(rule.reads);
                continue;
            }
            slice.enforced_reads = slice.enforced_reads.and(rule.reads);
            for (set, policy) in [(&mut slice.enforced, &rule.policy), (&mut slice.listing, rule.listing()?)] {
                set.add(policy.clone()).map_err(|fault| Inexpressible(fault.to_string()))?;
            }
        }
        if slice.reads().caller {
            slice.base = context_of(caller)?;
        }
        Ok(slice)
    }

    pub(super) fn principal(&self, caller: &Identity) -> Principal {
        Principal { uid: self.vocabulary.principal(caller), memberships: self.vocabulary.memberships(caller) }
    }

    /// The places of the policies that can apply.
    pub(super) fn places(&self, principal: &Principal, tool: &Definition) -> Vec<usize> {
        self.view(tool).slice.places(principal)
    }

    fn view(&self, tool: &Definition) -> Arc<ToolView> {
        if let Some(view) = self.tools.get(&tool.key) {
            return view;
        }
        let subject = Subject {
            action: self.vocabulary.action(tool),
            groups: self.vocabulary.groups(tool),
            resource: self.vocabulary.resource(tool),
        };
        let view = Arc::new(ToolView {
            slice: ToolSlice::of(self.rules.iter().map(|rule| &rule.policy), &subject),
            action: subject.action,
            resource: subject.resource,
            fields: input::fields(&tool.input_schema),
        });
        self.tools.insert(tool.key, Arc::clone(&view));
        view
    }

    /// What can be said before the arguments are known; all there is to say where no policy reads them.
    pub(super) fn listing(&self, slice: &Slice, now: Timestamp) -> Result<Arc<Verdict>, Inexpressible> {
        if slice.reads().time {
            let context = context_with(&slice.base, None, Some(now))?;
            return self.judge(slice, (&slice.listing, &slice.shadow_listing), context).map(Arc::new);
        }
        if let Some(verdict) = slice.listed.get() {
            return Ok(Arc::clone(verdict));
        }
        let context = context_with(&slice.base, None, None)?;
        let verdict = Arc::new(self.judge(slice, (&slice.listing, &slice.shadow_listing), context)?);
        Ok(Arc::clone(slice.listed.get_or_init(|| verdict)))
    }

    fn full(
        &self,
        slice: &Slice,
        arguments: Option<json::Value<'_>>,
        now: Timestamp,
    ) -> Result<Arc<Verdict>, Inexpressible> {
        let context = match self.context(slice, arguments, now)? {
            Ok(context) => context,
            // Nobody enforced reads them: shadow policies then fail, and are reported so.
            Err(_fault) if !slice.enforced_reads.input => context_with(&slice.base, None, Some(now))?,
            Err(fault) => {
                let name = fault.path.join(".");
                let why = format!("the argument `{}` is not {}", name.escape_debug(), fault.expected);
                return Ok(Arc::new(Verdict::failed(why)));
            }
        };
        self.judge(slice, (&slice.enforced, &slice.shadow), context).map(Arc::new)
    }

    /// What `listing` says of a call that it keeps from the caller, with what shadow policies have to say of just this call:
    /// what they change depends on those enforced that read its arguments, too.
    fn reported(
        &self,
        slice: &Slice,
        listing: &Arc<Verdict>,
        (input, now): (Option<json::Value<'_>>, Timestamp),
    ) -> Arc<Verdict> {
        // No more can be said of what is hidden than that: another refusal would tell that it is there.
        let Ok(full) = self.full(slice, input, now) else { return Arc::clone(listing) };
        let mut shadow = full.shadow.clone();
        if let Outcome::Failed(_) = listing.outcome {
            // Which hides it whatever is enforced besides.
            shadow.iter_mut().for_each(|finding| finding.changes = false);
        }
        Arc::new(Verdict { shadow, ..Verdict::clone(listing) })
    }

    /// The whole context of a call.
    pub(super) fn context(
        &self,
        slice: &Slice,
        arguments: Option<json::Value<'_>>,
        now: Timestamp,
    ) -> Result<Result<Context, input::Fault>, Inexpressible> {
        match input::read(&slice.view.fields, arguments) {
            Ok(input) => context_with(&slice.base, Some(input), slice.reads().time.then_some(now)).map(Ok),
            Err(fault) => Ok(Err(fault)),
        }
    }

    fn judge(
        &self,
        slice: &Slice,
        (policies, shadow): (&PolicySet, &[Policy]),
        context: Context,
    ) -> Result<Verdict, Inexpressible> {
        let request = slice.request(context)?;
        let response = self.authorizer.is_authorized(&request, policies, &slice.entities);
        let mut decided: Vec<Arc<str>> = response.diagnostics().reason().map(id).collect();
        decided.sort_unstable();
        let mut failed: Vec<String> = response
            .diagnostics()
            .errors()
            .map(|AuthorizationError::PolicyEvaluationError(fault)| {
                format!("{}: {}", fault.policy_id(), why_not(fault.inner()))
            })
            .collect();
        failed.sort_unstable();
        if !failed.is_empty() {
            decided.clear();
        }
        let outcome = match (failed.is_empty(), response.decision()) {
            (false, _) => Outcome::Failed(format!("could not evaluate {}", failed.join("; "))),
            (true, Decision::Allow) => Outcome::Allowed,
            (true, Decision::Deny) => Outcome::Denied,
        };
        let mut verdict = Verdict { outcome, policies: decided, shadow: Vec::new() };
        for policy in shadow {
            verdict.shadow.extend(self.finding(policy, slice, &request, &verdict));
        }
        verdict.shadow.sort_by_key(|finding| !finding.changes);
        Ok(verdict)
    }

    fn finding(&self, policy: &Policy, slice: &Slice, request: &Request, verdict: &Verdict) -> Option<Finding> {
        let outcome = match self.alone(policy, slice, request) {
            Applies::No => return None,
            Applies::Fails(_) => Shadow::Fails,
            Applies::Yes => match policy.effect() {
                Effect::Permit => Shadow::Permits,
                Effect::Forbid => Shadow::Forbids,
            },
        };
        let changes = match outcome {
            // A denial with deciding policies is a forbid, which no permit outweighs.
            Shadow::Permits => verdict.outcome == Outcome::Denied && verdict.policies.is_empty(),
            Shadow::Forbids | Shadow::Fails => verdict.outcome == Outcome::Allowed,
        };
        Some(Finding { policy: id(policy.id()), outcome, changes })
    }

    /// Whether one policy applies, whatever the others say.
    pub(super) fn alone(&self, policy: &Policy, slice: &Slice, request: &Request) -> Applies {
        let Ok(set) = PolicySet::from_policies([policy.clone()]) else {
            return Applies::Fails("not a policy that can stand alone".to_owned());
        };
        let response = self.authorizer.is_authorized(request, &set, &slice.entities);
        if let Some(fault) = response.diagnostics().errors().next() {
            return Applies::Fails(fault.to_string());
        }
        let applies = response.diagnostics().reason().any(|id: &PolicyId| id == policy.id());
        if applies { Applies::Yes } else { Applies::No }
    }
}

/// Whether a policy applies to a request.
#[derive(Debug)]
pub(super) enum Applies {
    Yes,
    No,
    Fails(String),
}

/// What is known of a tool whoever asks.
#[derive(Debug)]
struct ToolView {
    slice: ToolSlice,
    action: EntityUid,
    resource: EntityUid,
    fields: Fields,
}

/// What is known of a class of callers and a tool.
#[derive(Debug)]
pub(super) struct Slice {
    view: Arc<ToolView>,
    principal: EntityUid,
    entities: Entities,
    /// The caller's part of the context, where a policy reads it.
    base: Own,
    /// Places in [`Policies::rules`].
    pub(super) places: Vec<usize>,
    enforced: PolicySet,
    listing: PolicySet,
    shadow: Vec<Policy>,
    /// The same as far as they can be evaluated before the arguments are known.
    shadow_listing: Vec<Policy>,
    enforced_reads: Reads,
    shadow_reads: Reads,
    /// What [`Policies::listing`] says, where time does not matter.
    listed: OnceLock<Arc<Verdict>>,
}

impl Slice {
    /// What any policy of the slice reads.
    pub(super) const fn reads(&self) -> Reads {
        self.enforced_reads.and(self.shadow_reads)
    }

    pub(super) fn request(&self, context: Context) -> Result<Request, Inexpressible> {
        let (action, resource) = (self.view.action.clone(), self.view.resource.clone());
        Request::new(self.principal.clone(), action, resource, context, None)
            .map_err(|fault| Inexpressible(fault.to_string()))
    }
}

/// What the policies say of one call.
#[derive(Debug, Clone)]
pub struct Verdict {
    pub(super) outcome: Outcome,
    /// Ids of those that decided, sorted.
    pub(super) policies: Vec<Arc<str>>,
    pub(super) shadow: Vec<Finding>,
}

impl Verdict {
    /// The word for the audit record: `allow`, also where scopes or a better login are missing, or `deny`, also where nothing could be
    /// decided.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self.outcome {
            Outcome::Allowed => "allow",
            Outcome::Denied | Outcome::Failed(_) => "deny",
        }
    }

    /// Ids of the policies that decided, sorted; none where nothing permits, and where nothing could be decided.
    #[must_use]
    pub fn policies(&self) -> &[Arc<str>] {
        &self.policies
    }

    /// What `@shadow` policies had to say; those that would change the decision first.
    #[must_use]
    pub fn shadow(&self) -> &[Finding] {
        &self.shadow
    }

    /// Why this keeps something from the caller, for the journal; `None` where it is allowed.
    fn hides(&self) -> Option<String> {
        match &self.outcome {
            Outcome::Allowed => None,
            Outcome::Denied if self.policies.is_empty() => Some("hidden: no policy permits it".to_owned()),
            Outcome::Denied => Some(format!("hidden: forbidden by {}", self.policies.join(" "))),
            Outcome::Failed(why) => Some(format!("hidden: {why}")),
        }
    }

    fn failed(why: String) -> Self {
        Self { outcome: Outcome::Failed(why), ..Self::default() }
    }

    fn denial(self: &Arc<Self>, refusal: Refusal) -> Denial {
        Denial { refusal, verdict: Arc::clone(self) }
    }
}

/// An empty verdict denies.
impl Default for Verdict {
    fn default() -> Self {
        Self { outcome: Outcome::Denied, policies: Vec::new(), shadow: Vec::new() }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    Allowed,
    Denied,
    /// Which could not be evaluated, or why nothing could.
    Failed(String),
}

/// The same answer as for what is not there.
fn hidden(kind: Kind, why: String) -> Refusal {
    match kind {
        Kind::Tool => Refusal::ToolUnknown(why),
        Kind::Prompt => Refusal::PromptUnknown(why),
        Kind::Resource | Kind::Template | Kind::Subscription => Refusal::ResourceUnknown(why),
        Kind::Completion => Refusal::ReferenceUnknown(why),
    }
}

/// The caller or the tool could not be put to Cedar, so nothing was decided.
fn failed(fault: &Inexpressible) -> Denial {
    Arc::new(Verdict::failed(fault.0.clone())).denial(Refusal::PolicyFailed(fault.0.clone()))
}

/// Why a policy could not be evaluated, in words of the policy: the error's own text may quote arguments and say who asks,
/// which have no place in a reason.
fn why_not(fault: &EvaluationError) -> String {
    match fault {
        EvaluationError::RecordAttrDoesNotExist(_) | EvaluationError::EntityAttrDoesNotExist(_) => {
            // Before the name stands nothing for a record, and who asks for an entity; where it is a tag, the name may have
            // been computed of what the caller wrote. Where that could be taken for the error's own words nothing is told.
            let text = fault.to_string();
            let mut parts = text.split(" does not have the ");
            let name = parts.nth(1).and_then(|what| what.strip_prefix("attribute ")).filter(|_| parts.next().is_none());
            name.map_or_else(
                || "an attribute or a tag is missing".to_owned(),
                |name| format!("there is no attribute {name}"),
            )
        }
        EvaluationError::TypeError(fault) => fault.to_string(),
        EvaluationError::IntegerOverflow(_) => "integer overflow".to_owned(),
        EvaluationError::FailedExtensionFunctionExecution(fault) => {
            format!("`{}` takes no such value", fault.extension_name())
        }
        EvaluationError::EntityDoesNotExist(_)
        | EvaluationError::FailedExtensionFunctionLookup(_)
        | EvaluationError::WrongNumArguments(_)
        | EvaluationError::UnlinkedSlot(_)
        | EvaluationError::NonValue(_)
        | EvaluationError::RecursionLimit(_) => "it cannot be evaluated".to_owned(),
    }
}

fn digest_of(sources: &[Source]) -> String {
    let mut name = Name::default();
    sources.iter().flat_map(|source| [source.name(), source.text()]).for_each(|text| name.add(text));
    hex(&name.finish())
}

/// Tools with their place in the policies: more than a catalogue of ten full upstreams.
const TOOLS_MAX: usize = 8_192;

/// Pairs of caller class and tool with their policies and entities, a few KiB each.
const SLICES_MAX: usize = 4_096;
