//! Which task is this request about?
//!
//! A client that knows of tasks asks for the state of one, answers what one asks, cancels one, or listens to one, by the id
//! that the gateway sealed for it. The id is opened and held against its caller and its endpoint; from then on the request
//! is one of the tool whose call became the task, and passes the same stages as that did (RS-37). It does not forward.

use super::{Asking, Gateway, local::certain, trail::Trail};
use crate::{
    audit::record,
    bridge::{Owner, TaskId},
    catalog::{Target, Task},
    inspect::asks::Kind,
    policy::{Denial, Permit, Policies},
    refusal::{Era, Refusal},
    rpc::{Capabilities, Method, json::Value},
};

impl Asking<'_> {
    /// Whether this request says that its client knows of tasks, as only modern ones can.
    pub(super) fn knows_tasks(&self) -> bool {
        let declared = self.call.meta().client_capabilities.filter(|_| self.call.era() == Era::Modern);
        declared.map(Capabilities::declared).unwrap_or_default().has(Capabilities::TASKS)
    }

    /// What the request is aimed at.
    pub(super) fn target(&self, gateway: &Gateway, trail: &Trail) -> Result<Target, Refusal> {
        let Some(text) = self.call.task() else {
            let (estate, endpoint) = (self.estate, &self.head.endpoint);
            return estate.catalogue.load().resolve(&estate.config.upstreams, endpoint, &self.call);
        };
        if !self.knows_tasks() {
            return Err(Refusal::CapabilityMissing(Capabilities::TASKS.json()));
        }
        self.following(gateway, &text, trail)
    }

    /// The tool whose call became the task of this id, for whoever follows that.
    pub(super) fn following(&self, gateway: &Gateway, text: &str, trail: &Trail) -> Result<Target, Refusal> {
        let endpoint = &self.head.endpoint;
        let owner = Owner { principal: &self.caller.identity().principal, endpoint };
        let (TaskId { upstream, tool, id, call, life_ms }, until) =
            TaskId::open(&gateway.means.sealer, text, &owner, trail.now)?;
        let catalogue = self.estate.catalogue.load();
        catalogue.following(endpoint, (&upstream, &tool), Task { id, call, life_ms, until })
    }

    /// What policy says: of the call, or of following the task that a call became.
    pub(super) fn decide(&self, policies: &Policies, target: &Target, trail: &Trail) -> Result<Permit, Denial> {
        let (identity, definition) = (self.caller.identity(), &target.definition);
        match target.task {
            Some(_) => policies.follow(identity, definition, trail.now),
            None => policies.decide(identity, definition, self.call.arguments(), trail.now),
        }
    }
}

impl Gateway {
    /// Records who answered what a task asks.
    pub(super) fn record_update(&self, asking: &Asking<'_>, target: &Target, trail: &Trail) -> Result<(), Refusal> {
        let Some(task) = target.task.as_ref().filter(|_| asking.call.method() == Method::TasksUpdate) else {
            return Ok(());
        };
        let given = asking.call.input_responses().into_iter().flat_map(Value::members);
        let given: Vec<_> = given.map(|(key, answer)| (key.text().unwrap_or_default(), answer)).collect();
        let mut answers = Vec::with_capacity(given.len());
        for (key, answer) in &given {
            let kind = Kind::answered_by(*answer);
            answers.push(record::Answered {
                key,
                method: kind.method(),
                action: kind.action(*answer).unwrap_or("invalid"),
            });
        }
        let upstream = target.definition.upstream.as_str();
        let record = record::InputAnswered { who: trail.who(), upstream, call: task.call, answers: &answers };
        certain(&self.means.journal, trail.id, &record, "what was answered could not be recorded")
    }
}
