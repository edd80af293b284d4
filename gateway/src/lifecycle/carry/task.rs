//! What if the call becomes a task?
//!
//! A client that knows of tasks gets a handle, under the gateway's own id, and asks about it itself. For any other the
//! gateway asks, under the receipt of the call, until there is a result, within the tool's deadline; what the task needs
//! from the client goes the way of all such questions. A task of MCP 2025-11-25 is always followed here, by the one request
//! that waits for its result (spec §2.1, §2.4). A task that is given up is cancelled.

use std::time::{Duration, Instant};

use http::StatusCode;

use super::{
    Carriage, Turn,
    deliver::Interrupted,
    input::Line,
    leg::{Ended, Leg, instant_after},
};
use crate::{
    bridge::{Owner, TaskId, To},
    catalog::Task,
    clock,
    inspect::{
        self, Sent,
        asks::Ask,
        tasks::{Created, Progress, Working},
    },
    refusal::{Era, Refusal},
    rpc::{Method, outbound::Retry, reply::Response},
    upstream::{Following, Reply},
};

/// A task that the gateway follows for its client.
#[derive(Debug)]
pub(super) struct Followed {
    /// What the upstream calls it.
    id: String,
    step: Step,
    /// The keys of everything that was answered: it may be asked for a while longer, and nobody answers twice.
    answered: Vec<String>,
    /// How often it could not be asked, one time after the other.
    failed: u32,
    /// When the upstream last did something, in its own words.
    updated: Option<String>,
    /// When the tool's time is over, and when that of all tools is.
    late: Instant,
    end: Instant,
    /// Cancels it where it is given up; there is nothing to say that by before the upstream was spoken to.
    upstream: Option<Following>,
}

/// What the upstream is asked of the task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// How far it is.
    Get,
    /// Nothing: it is told something.
    Update,
    /// Its result, in MCP 2025-11-25: the answer waits for it, and brings all that the task asks.
    Result,
}

impl Followed {
    /// A task that goes on with the answers that its client brings.
    pub(super) fn resumed((id, answered): (String, Vec<String>), answers: bool, times: (Duration, Duration)) -> Self {
        Self::new(id, if answers { Step::Update } else { Step::Get }, answered, times)
    }

    fn new(id: String, step: Step, answered: Vec<String>, (timeout, whole): (Duration, Duration)) -> Self {
        let (late, end) = (instant_after(timeout), instant_after(whole));
        Self { id, step, answered, failed: 0, updated: None, late, end, upstream: None }
    }

    /// A sign of life: the tool's own time begins anew, as with a stream.
    fn lives(&mut self, timeout: Duration) {
        self.late = instant_after(timeout).min(self.end);
    }

    /// When the upstream is no longer asked; that it is waited for is a matter of its stream.
    pub(super) fn late(&self) -> Option<Instant> {
        (self.step != Step::Result).then_some(self.late)
    }

    /// How often it need not be heard of, where it is only asked how far it is: that can be done again.
    pub(super) fn may_fail(&self) -> u32 {
        if self.step == Step::Get { POLLS_FAILED_MAX } else { 0 }
    }

    /// The request that goes up.
    pub(super) fn request(&self) -> (&'static str, &str) {
        let method = match self.step {
            Step::Get => Method::TasksGet.as_str(),
            Step::Update => Method::TasksUpdate.as_str(),
            Step::Result => "tasks/result",
        };
        (method, &self.id)
    }

    /// Where a modern client's answers go.
    pub(super) fn to(&self) -> To {
        To::Task { id: self.id.clone(), answered: self.answered.clone() }
    }

    /// It has ended, or waits for its client.
    pub(super) fn leave(mut self) {
        if let Some(upstream) = &mut self.upstream {
            upstream.is_over();
        }
    }

    /// The upstream was spoken to.
    pub(super) fn spoken(&mut self, reply: &Reply) {
        if let Some(mut before) = self.upstream.replace(reply.following(&self.id)) {
            before.is_over();
        }
    }
}

impl Carriage {
    /// The task that the call became, for a client that follows it itself; one that no client could follow is cancelled.
    pub(super) fn hand_out(&self, leg: &Leg, reply: &Reply, created: &Created) -> Ended {
        let mut following = reply.following(&created.id);
        let definition = &self.target.definition;
        let owner = Owner { principal: &leg.identity.principal, endpoint: &self.endpoint };
        let life_ms = TaskId::life_ms(created.ttl_ms);
        let (upstream, tool) = (definition.upstream.to_string(), definition.name.clone());
        let task = TaskId { upstream, tool, id: created.id.clone(), call: self.first, life_ms };
        let shown = task.seal(&self.means.sealer, &owner, clock::now());
        let answer = shown.and_then(|shown| created.answer(&leg.held.asker, &shown, life_ms));
        if answer.is_ok() {
            following.is_over();
        }
        answer.map_or_else(Ended::refused, Ended::answered)
    }

    /// Follows the task that the call became.
    pub(super) async fn follow(&mut self, leg: &mut Leg, line: Line, created: Created) -> Result<Line, Ended> {
        let mut followed = Followed::new(created.id.clone(), Step::Result, Vec::new(), self.times());
        followed.spoken(&line.reply);
        self.task = Some(followed);
        leg.held.lasts = true;
        match line.reply.spoken.era {
            Era::Modern => self.poll(leg, line, created.working().map_err(Ended::refused)?).await,
            Era::Legacy => self.go_on(leg, line, None).await,
        }
    }

    /// Asks again how far the task is, not before the upstream wants to be asked.
    pub(super) async fn poll(&mut self, leg: &mut Leg, mut line: Line, working: Working) -> Result<Line, Ended> {
        leg.held.lasts = true;
        leg.open();
        let timeout = self.target.definition.timeout;
        if let Some(task) = &mut self.task {
            (task.step, task.failed) = (Step::Get, 0);
            if working.updated.is_some() && task.updated != working.updated {
                task.updated = working.updated;
                task.lives(timeout);
            }
        }
        if let Some(progress) = line.relay.report(working.message.as_deref()) {
            leg.event(self.deadline(), progress).await?;
        }
        self.pause(leg, working.again.unwrap_or(POLL).clamp(POLL_MIN, POLL_MAX)).await?;
        self.go_on(leg, line, None).await
    }

    /// Whether an answer of this status is taken for a moment's weakness of the upstream: the task goes on there.
    pub(super) fn bears(&mut self, status: StatusCode) -> bool {
        let Some(task) = &mut self.task else { return false };
        task.failed = task.failed.saturating_add(1);
        (status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS) && task.failed <= task.may_fail()
    }

    /// Asks once more what was not answered.
    pub(super) async fn poll_again(&mut self, leg: &mut Leg, line: Line) -> Result<Line, Ended> {
        self.pause(leg, POLL).await?;
        self.go_on(leg, line, None).await
    }

    /// Brings a legacy client's answers to the task.
    pub(super) async fn update(
        &mut self,
        leg: &mut Leg,
        line: Line,
        responses: Vec<(String, bytes::Bytes)>,
    ) -> Result<Line, Ended> {
        if let Some(task) = &mut self.task {
            task.step = Step::Update;
            task.answered.extend(responses.iter().map(|(key, _)| key.clone()));
            task.lives(self.target.definition.timeout); // a person's time is not the tool's
        }
        self.go_on(leg, line, Some(Retry { state: None, responses })).await
    }

    /// How long a tool may be silent, and how long it may take.
    fn times(&self) -> (Duration, Duration) {
        (self.target.definition.timeout, self.estate.config.limits.stream_max)
    }

    pub(super) async fn go_on(&mut self, leg: &mut Leg, line: Line, retry: Option<Retry>) -> Result<Line, Ended> {
        let Line { reply, relay, .. } = line;
        let mut again = self.again(leg, reply, retry).await?;
        // What MCP 2025-11-25 reports on, it reports under the token of the call.
        again.relay = relay;
        Ok(again)
    }

    /// What the upstream's answer to a request about a task comes to, where that is what was sent.
    pub(super) fn of_task(&self, leg: &Leg, sent: &Sent<'_>, response: &Response) -> Option<Result<Turn, Ended>> {
        let asker = &leg.held.asker;
        if let Some(task) = &self.target.task {
            return Some(self.told_of_task(leg, task, sent, response).map_err(Ended::refused));
        }
        let task = self.task.as_ref()?;
        let method = match task.step {
            Step::Get => Method::TasksGet,
            Step::Update => Method::TasksUpdate,
            Step::Result => return None, // the answer to the call
        };
        let sent = Sent { method, ..*sent };
        Some(match inspect::tasks::polled(asker, &sent, &task.id, response) {
            Ok(Progress::Working(working)) => Ok(Turn::Working(working)),
            Ok(Progress::Answer(answer)) => Err(Ended::answered(answer)),
            Ok(Progress::Input(asked)) => {
                let anew = asked.without(&task.answered);
                Ok(if anew.asks.is_empty() { Turn::Working(Working::default()) } else { Turn::Input(anew) })
            }
            Err(refusal) => Err(Ended::refused(refusal)),
        })
    }

    /// The answer for a client that asks about its task itself.
    fn told_of_task(&self, leg: &Leg, task: &Task, sent: &Sent<'_>, response: &Response) -> Result<Turn, Refusal> {
        let shown = self.call.task().unwrap_or_default();
        let known = inspect::tasks::Known { id: &task.id, shown: &shown, life_ms: task.life_ms };
        let (answer, asks) = inspect::tasks::follow(&leg.held.asker, sent, &known, response)?;
        if !asks.is_empty() {
            self.record_asked(leg.id(), asks.iter().map(|(key, ask): &(String, Ask)| (key.as_str(), ask)))?;
        }
        Ok(Turn::Ended(Ended::answered(answer)))
    }

    /// Lets time pass.
    pub(super) async fn pause(&self, leg: &mut Leg, span: Duration) -> Result<(), Ended> {
        let until = instant_after(span).min(self.deadline());
        match leg.delivery.attend(&leg.held, until, std::future::pending::<()>()).await {
            Ok(()) | Err(Interrupted::Late) => Ok(()),
            Err(interrupted) => Err(interrupted.end(Refusal::UpstreamTimeout)),
        }
    }
}

/// How long a task is left alone whose upstream does not say.
pub(super) const POLL: Duration = Duration::from_secs(1);

/// So often an upstream may fail to say how far a task is, before it is given up.
const POLLS_FAILED_MAX: u32 = 3;

/// More often no upstream is asked, whatever it says.
const POLL_MIN: Duration = Duration::from_millis(200);

/// Longer no client waits for a result that is there.
const POLL_MAX: Duration = Duration::from_secs(15);
