//! What does this request continue?
//!
//! A modern client that was asked something makes its call again, with the gateway's sealed state and its answers. The
//! state is opened and held against the request and its caller (RS-31), and the answers are taken that were asked for; the
//! rest of the request's way is that of any other. It does not forward.

use std::sync::Arc;

use bytes::Bytes;

use super::{Asking, Gateway, carry::Next, local::certain, trail::Trail};
use crate::{
    audit::record,
    bridge::{Binding, Claim, Continuation, To},
    catalog::Target,
    inspect::asks::Kind,
    refusal::{Era, Refusal},
    rpc::{json::Value, outbound::Retry},
};
use uuid::Uuid;

/// What a retry brings, and where it goes.
#[derive(Debug)]
pub(super) struct Retrying {
    /// The first intent of the call.
    pub(super) call: Uuid,
    /// How often the client was asked.
    pub(super) round: u32,
    /// What it answers.
    pub(super) answers: Vec<Given>,
    missing: Vec<(String, Kind)>,
    to: To,
}

/// One answer.
#[derive(Debug)]
pub(super) struct Given {
    /// Under which key it was asked for.
    pub(super) key: String,
    /// The answer, as JSON text.
    pub(super) response: Bytes,
    kind: Kind,
    action: &'static str,
}

impl Gateway {
    /// What `asking` continues, where it continues anything.
    pub(super) fn retry(
        &self,
        asking: &Asking<'_>,
        target: &Target,
        trail: &Trail,
    ) -> Result<Option<Retrying>, Refusal> {
        let Asking { head, caller, call, .. } = asking;
        if target.task.is_some() {
            return Ok(None); // `tasks/update` brings answers without a state: the task's id says what they are for
        }
        let (state, responses) = (call.request_state(), call.input_responses());
        if call.era() == Era::Legacy && (state.is_some() || responses.is_some()) {
            return Err(Refusal::RequestStateInvalid("from a client whose revision has none"));
        }
        // Without a state nobody asked: a call of its own (spec §2.3), and such answers go nowhere unless it comes to asking
        // for them (RS-32).
        let Some(state) = state.and_then(Value::text) else { return Ok(None) };
        let binding = Binding {
            principal: &caller.identity().principal,
            endpoint: &head.endpoint,
            upstream: target.definition.upstream.as_str(),
            request: &call.repeated(),
        };
        let continuation = Continuation::open(&self.means.sealer, &state, &binding, trail.now)?;
        Retrying::of(continuation, responses).map(Some)
    }
}

impl Retrying {
    /// The answers that were asked for; others are ignored (RS-32).
    fn of(continuation: Continuation, responses: Option<Value<'_>>) -> Result<Self, Refusal> {
        let (mut answers, mut missing) = (Vec::new(), Vec::new());
        for (key, word) in continuation.asked {
            let kind = Kind::parse(&word).ok_or(Refusal::RequestStateInvalid("of another version"))?;
            let Some(response) = responses.and_then(|responses| responses.get(&key)) else {
                missing.push((key, kind));
                continue;
            };
            let why = "an entry of `inputResponses` is no answer to what was asked";
            let action = kind.action(response).ok_or(Refusal::ParamsInvalid(why.into()))?;
            answers.push(Given { key, response: response.raw_bytes(), kind, action });
        }
        let Continuation { call, round, to, .. } = continuation;
        Ok(Self { call, round, answers, missing, to })
    }

    /// The one chance to continue a call that is held, where this continues one.
    pub(super) fn claim(&self, gateway: &Gateway) -> Result<Option<Claim<Next>>, Refusal> {
        match self.to {
            To::Hold(id) => Arc::clone(&gateway.means.holds).claim(id, self.round).map(Some),
            To::Upstream(_) | To::Task { .. } | To::Again => Ok(None),
        }
    }

    /// Whether the person would not do what was asked under `key`.
    pub(super) fn declines(&self, key: &str) -> bool {
        self.answers.iter().any(|given| given.key == key && given.action != "accept")
    }

    /// What goes up with the call, where it is made again.
    pub(super) fn up(&self) -> Option<Retry> {
        let state = match &self.to {
            To::Upstream(state) => state.as_ref().map(|state| Bytes::copy_from_slice(state.as_bytes())),
            To::Task { .. } => None,
            To::Hold(_) | To::Again => return None,
        };
        let responses = self.answers.iter().map(|given| (given.key.clone(), given.response.clone())).collect();
        Some(Retry { state, responses })
    }

    /// The task that the answers are for, where the gateway follows one: the upstream's id, and all that was answered.
    pub(super) fn task(&self) -> Option<(String, Vec<String>)> {
        let To::Task { id, answered } = &self.to else { return None };
        let now = self.answers.iter().map(|given| given.key.clone());
        Some((id.clone(), answered.iter().cloned().chain(now).collect()))
    }

    /// Records who answered what.
    pub(super) fn record(&self, gateway: &Gateway, trail: &Trail, upstream: &str) -> Result<(), Refusal> {
        let given = self.answers.iter().map(|given| (&given.key, given.kind, given.action));
        let missing = self.missing.iter().map(|(key, kind)| (key, *kind, "missing"));
        let answers: Vec<_> = given
            .chain(missing)
            .map(|(key, kind, action)| record::Answered { key, method: kind.method(), action })
            .collect();
        let record = record::InputAnswered { who: trail.who(), upstream, call: self.call, answers: &answers };
        certain(&gateway.means.journal, trail.id, &record, "what was answered could not be recorded")
    }
}
