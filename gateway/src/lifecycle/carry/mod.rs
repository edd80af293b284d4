//! What happens to a call once it is recorded?
//!
//! A task of its own carries it: out under its grant, the messages of the answer inspected one by one on their way back,
//! and the outcome written down however it ends. A client that goes away does not take the outcome with it.

mod again;
mod deliver;
mod input;
mod leg;
mod task;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
pub(super) use deliver::Answered;
use deliver::Interrupted;
use http::{HeaderName, HeaderValue};
pub(super) use input::Next;
use leg::Outbound;
use leg::instant_after;
pub(super) use leg::{Ended, Held, Leg};
use task::Followed;
use uuid::Uuid;

use self::input::{Heard, Line};
use super::{
    Asking, Estate, Means,
    kept::{Allowed, Keeping},
    retry::Retrying,
};
use crate::{
    audit::journal::Receipt,
    catalog::Target,
    config::Endpoint,
    exchange::Grant,
    identity::revocation::What,
    inspect::{
        self, Admitted, Asked, Sent,
        tasks::{Created, Working},
    },
    refusal::{Era, Refusal},
    rpc::{
        Call, Capabilities, mirrors,
        outbound::Retry,
        reply::{Inbound, Response},
    },
    tasks::placed,
    telemetry::metrics::metrics,
    upstream::{self, Passage, Peer},
};

/// A call under way, for whichever request it is carried.
#[derive(Debug)]
pub(super) struct Carriage {
    means: Arc<Means>,
    estate: Arc<Estate>,
    peer: Arc<Peer>,
    call: Call,
    target: Target,
    /// Where the client speaks to.
    endpoint: Endpoint,
    /// Whether the URIs that the client sees carry the upstream's id.
    prefixed: bool,
    /// `Mcp-Param-*` headers that no schema declares: forwarded and otherwise ignored (RI-02).
    unrecognised: Vec<(HeaderName, HeaderValue)>,
    /// What let it through.
    allowed: Allowed,
    /// What the client can do for this upstream.
    capabilities: Capabilities,
    /// The first intent of the call, which all that continue it name.
    first: Uuid,
    /// How often the client was asked something.
    round: u32,
    /// Pages that a legacy client was sent to.
    visits: Vec<input::Visit>,
    /// Whether the client follows tasks itself.
    knows_tasks: bool,
    /// The task that the call became, where the gateway follows it.
    task: Option<Followed>,
    /// What goes up with it, where it is a retry.
    retry: Option<Retry>,
    /// Whether the upstream has turned it down for what the gateway believed of it.
    turned_down: bool,
}

/// What reading the upstream came to.
enum Turn {
    /// The request has ended.
    Ended(Ended),
    /// The upstream answered that it needs something from the client first.
    Input(Asked),
    /// The call became a task.
    Task(Created),
    /// The task that it became has not ended.
    Working(Working),
    /// The upstream turned it down with this error, before anything was executed; how the call ends if that is the last word.
    TurnedDown(i64, Ended),
}

impl Carriage {
    /// Puts together what the call needs on its way. `first` is the record of its first request.
    pub(super) fn load(
        asking: Asking<'_>,
        target: Target,
        means: &Arc<Means>,
        allowed: Allowed,
        (first, retry): (Uuid, Option<&Retrying>),
    ) -> Result<Self, Refusal> {
        let (capabilities, knows_tasks) = (asking.capabilities(&target)?, asking.knows_tasks());
        let Asking { estate, head, call, .. } = asking;
        let peer = estate.upstreams.peer(&target.definition.upstream).ok_or(Refusal::Bug("a tool of no upstream"))?;
        let resumed = retry.and_then(|retry| Some((retry.task()?, !retry.answers.is_empty())));
        let times = (target.definition.timeout, estate.config.limits.stream_max);
        let task = resumed.map(|(task, answers)| Followed::resumed(task, answers, times));
        let unrecognised = mirrors::unrecognised(&target.definition.mirrors, &head.headers);
        Ok(Self {
            means: Arc::clone(means),
            unrecognised: unrecognised.map(|(name, value)| (name.clone(), value.clone())).collect(),
            peer: Arc::clone(peer),
            prefixed: estate.catalogue.load().uri_prefix(&head.endpoint, &target.definition.upstream).is_some(),
            estate: Arc::clone(estate),
            endpoint: head.endpoint.clone(),
            call,
            target,
            allowed,
            capabilities,
            first: retry.map_or(first, |retry| retry.call),
            round: retry.map_or(0, |retry| retry.round),
            visits: Vec::new(),
            knows_tasks,
            task,
            retry: retry.and_then(Retrying::up),
            turned_down: false,
        })
    }

    /// Carries the call to its end.
    #[expect(clippy::manual_async_fn, reason = "an `async fn` has room for its arguments twice")]
    pub(super) fn carry(mut self, mut leg: Leg, sent: (Receipt, Grant)) -> impl Future<Output = ()> + Send {
        async move {
            // On the heap while it lasts: a stream may be read for an hour, and sending takes more room than reading.
            let mut next = placed(|| self.depart(&mut leg, sent)).await;
            while let Ok(mut line) = next {
                if let Some(turn) = self.read(&mut leg, &mut line).await {
                    next = placed(|| self.heed(&mut leg, line, turn)).await;
                    continue;
                }
                match Box::pin(self.hold(leg, &mut line)).await {
                    Some(joined) => (leg, next) = (joined, Ok(line)),
                    None => return,
                }
            }
            if let Err(ended) = next {
                leg.end(ended).await;
            }
        }
    }

    /// Sends the call, unless what it would bring is kept, and gives the line on which the upstream answers.
    async fn depart(&mut self, leg: &mut Leg, sent: (Receipt, Grant)) -> Result<Line, Ended> {
        let passage = self.passage(leg.outbound().1);
        let keeping = Keeping::of(&self.peer, &passage, &sent.1, &self.allowed);
        let kept = &self.estate.kept;
        if let Some(answer) = keeping.as_ref().and_then(|it| it.recall(kept, &leg.held.asker, self.prefix())) {
            return Err(Ended::kept(answer));
        }
        let place = self.place(leg).map_err(Ended::refused)?;
        leg.held.ward.admit(What::Call).map_err(Ended::unsent)?;
        leg.sets_out(&self.peer, &sent.1);
        let sent = self.set_out(leg, sent).await;
        let mut line = sent.map_err(|ended| self.page_first(leg, ended))?;
        line.keeping = keeping;
        line.place = place.filter(|_| line.reply.spoken.era == Era::Legacy);
        Ok(line)
    }

    /// Does what the upstream's word calls for: the line on which it goes on, or how the call ends.
    async fn heed(&mut self, leg: &mut Leg, line: Line, turn: Turn) -> Result<Line, Ended> {
        let unmade = self.is_unmade(&turn);
        let next = match turn {
            Turn::Ended(ended) if ended.is_refused() && self.bears(line.reply.status) => {
                Box::pin(self.poll_again(leg, line)).await
            }
            Turn::Ended(ended) => Err(ended),
            Turn::Input(asked) if leg.era() == Era::Modern => match self.offered(&line, &asked) {
                Some(offered) => Box::pin(self.answer(leg, line, (asked, offered))).await,
                None => Err(self.hand_over(leg, &line, &asked)),
            },
            Turn::Input(asked) => Box::pin(self.ask_and_go_on(leg, line, asked)).await,
            Turn::Task(created) if self.knows_tasks && line.reply.spoken.era == Era::Modern => {
                Err(self.hand_out(leg, &line.reply, &created))
            }
            Turn::Task(created) => Box::pin(self.follow(leg, line, created)).await,
            Turn::Working(working) => Box::pin(self.poll(leg, line, working)).await,
            Turn::TurnedDown(code, ended) => Box::pin(self.put_right(leg, line, (code, ended))).await,
        };
        let Err(ended) = next else { return next };
        if let Some(task) = self.task.take_if(|_| ended.is_answer()) {
            task.leave();
        }
        if !self.visits.is_empty() {
            Box::pin(self.visited(leg)).await;
        }
        Err(if unmade { ended.once_seen() } else { ended.once_sent() })
    }

    /// Sends the call, and gives the line on which the upstream answers.
    async fn set_out(&mut self, leg: &mut Leg, sent: (Receipt, Grant)) -> Result<Line, Ended> {
        let ((delivery, held), outbound, tally) = leg.outbound();
        let passage = self.passage(outbound);
        // What is asked of a task that the call became is not the call.
        let mut apart = self.task.is_some().then(|| upstream::Sent::under(&sent.1));
        let tally = apart.as_mut().unwrap_or(tally);
        let sending = placed(|| self.send(sent, (&outbound, &mut *tally), &passage));
        let sent = delivery.attend(held, self.deadline(), sending).await;
        match sent {
            Ok(Ok(reply)) => {
                match &mut self.task {
                    Some(task) => task.spoken(&reply),
                    None => leg.is_heard(&reply),
                }
                Ok(Line::new(reply, &leg.held))
            }
            Ok(Err(refusal)) => {
                let ended = Ended::refused(refusal);
                Err(if tally.is_seen() { ended.once_seen() } else { ended })
            }
            // Its session may only have been beginning, or a credential on its way.
            Err(interrupted) if self.task.is_none() => Err(interrupted.end_of(tally, Refusal::UpstreamTimeout)),
            Err(interrupted) => Err(interrupted.end(Refusal::UpstreamTimeout)),
        }
    }

    /// What goes up for `leg`; its way back is not part of that.
    fn passage<'a>(&'a self, leg: Outbound<'a>) -> Passage<'a> {
        Passage {
            caller: leg.identity,
            call: &self.call,
            target: &self.target,
            unrecognised: &self.unrecognised,
            log_level: leg.log_level,
            capabilities: self.capabilities,
            retry: self.retry.as_ref(),
            task: self.about(),
            traceparent: leg.traceparent,
            tracestate: leg.tracestate,
        }
    }

    /// Reads the upstream's messages until this call's response, and lets through what may go back. Nothing, where the
    /// upstream asks something in the middle of the call, and the client can only be asked by an answer.
    async fn read(&self, leg: &mut Leg, line: &mut Line) -> Option<Turn> {
        let end_of_stream = instant_after(self.estate.config.limits.stream_max);
        let mut late = self.patience(line);
        let mut opens = line.reply.messages.is_stream().then(|| instant_after(STREAM_OPENS_AFTER));
        loop {
            let until = [opens, line.collected].into_iter().flatten().fold(late, Instant::min).min(end_of_stream);
            let heard = match leg.delivery.attend(&leg.held, until, line.hear()).await {
                Ok(heard) => heard,
                Err(Interrupted::Late) if line.collected.is_some_and(|at| at <= until) => return None,
                Err(Interrupted::Late) if opens.take().is_some_and(|opens| opens < late) => {
                    leg.open();
                    continue;
                }
                Err(Interrupted::Late) if line.awaits_session() && until == late => {
                    Box::pin(self.abandon(leg, line, "nobody answered in time")).await;
                    late = self.patience(line);
                    continue;
                }
                Err(interrupted) => return Some(Turn::Ended(interrupted.end(Refusal::UpstreamTimeout))),
            };
            let turn = match heard {
                Heard::Answer(id, response) => Box::pin(self.pass_on(leg, line, (&id, &response))).await,
                Heard::Message(Ok(Some(message))) => self.message(leg, line, message).await,
                Heard::Message(Ok(None)) => Err(Ended::lost(line.reply.status)),
                Heard::Message(Err(_)) if !line.reply.status.is_success() => Err(Ended::lost(line.reply.status)),
                Heard::Message(Err(refusal)) => Err(Ended::refused(refusal)),
            };
            match turn {
                Ok(Read::More) => {}
                Ok(Read::Life) => {
                    // A sign of life: the tool's own time begins anew, within the life of a stream.
                    late = self.patience(line);
                    opens = None;
                }
                Ok(Read::Turn(turn)) => return Some(turn),
                Err(ended) => return Some(Turn::Ended(ended)),
            }
        }
    }

    async fn message(&self, leg: &mut Leg, line: &mut Line, message: Bytes) -> Result<Read, Ended> {
        if line.reply.gives_away(&message) {
            let why = "the answer holds the gateway's credential".to_owned();
            return Err(Ended::refused(Refusal::UpstreamInvalid(why)));
        }
        match Inbound::parse(message, line.reply.bounds()) {
            Err(_) if !line.reply.status.is_success() => Err(Ended::lost(line.reply.status)),
            Err(why) => Err(Ended::refused(Refusal::UpstreamInvalid(why.to_owned()))),
            Ok(Inbound::Response(response)) => self.response(leg, line, response),
            Ok(Inbound::Notification(notification)) => {
                line.begun |= AT_WORK.contains(&notification.method().as_ref());
                match line.relay.admit(&notification) {
                    Ok(notification) => {
                        leg.open();
                        if !leg.event(self.deadline(), notification).await? && leg.era() == Era::Modern {
                            return Err(Ended::cancelled());
                        }
                        Ok(Read::Life)
                    }
                    Err(why) => {
                        self.peer.heed_word(&notification.method());
                        if !line.withdraw(&notification, leg, self.deadline()).await? {
                            self.dropped(why.as_str());
                        }
                        Ok(Read::More)
                    }
                }
            }
            Ok(Inbound::Request(request)) => {
                // What comes of it may be due to what was asked (RI-06).
                line.keeping = None;
                Box::pin(self.asked(leg, line, &request)).await
            }
        }
    }

    fn response(&self, leg: &Leg, line: &mut Line, response: Response) -> Result<Read, Ended> {
        let turned_down = self.turned_down_with(line, &response);
        let read = self.judge(leg, line, response, turned_down);
        match (turned_down, read) {
            (Some(code), Err(ended)) => Ok(Read::Turn(Turn::TurnedDown(code, ended))),
            (_, read) => read,
        }
    }

    /// What the answer comes to.
    fn judge(&self, leg: &Leg, line: &mut Line, response: Response, turned_down: Option<i64>) -> Result<Read, Ended> {
        let reply = &mut line.reply;
        if !response.answers(reply.id) && reply.messages.is_stream() {
            self.dropped("id_unknown");
            return Ok(Read::More);
        }
        reply.is_answered(&response);
        if !reply.status.is_success() && (response.outcome().is_ok() || !response.answers(reply.id)) {
            return Err(Ended::lost(reply.status));
        }
        if reply.spoken.era == Era::Modern
            && turned_down.is_none()
            && let Err(error) = response.outcome()
        {
            self.peer.heed(error.code);
        }
        let version = reply.spoken.version;
        let sent = Sent {
            method: self.call.method(),
            id: reply.id,
            version,
            declared: self.capabilities.in_version(version),
            as_task: self.task.is_none() && reply.is_as_task(&self.target.definition),
            prefix: self.prefix(),
            age: Duration::ZERO,
        };
        if let Some(turn) = self.of_task(leg, &sent, &response) {
            return turn.map(Read::Turn);
        }
        match inspect::admit(&leg.held.asker, &sent, &response) {
            Ok(Admitted::Answer(answer)) => {
                if let Some(keeping) = &line.keeping {
                    keeping.keep(&self.estate.kept, response, reply.id, reply.spoken);
                }
                Err(Ended::answered(answer))
            }
            Ok(Admitted::Input(asked)) => Ok(Read::Turn(Turn::Input(asked))),
            Ok(Admitted::Pages(asked, answer)) => {
                let asks = asked.asks.iter().map(|(key, ask)| (key.as_str(), ask));
                Err(self.record_asked(leg.id(), asks).map_or_else(Ended::refused, |()| Ended::answered(answer)))
            }
            Ok(Admitted::Task(created)) => Ok(Read::Turn(Turn::Task(created))),
            Err(refusal) => Err(Ended::refused(refusal)),
        }
    }

    /// What is asked of a task, where it is not the call that goes up.
    fn about(&self) -> Option<(&'static str, &str)> {
        match (&self.task, &self.target.task) {
            (Some(followed), _) => Some(followed.request()),
            (None, Some(task)) => Some((self.call.method().as_str(), &task.id)),
            (None, None) => None,
        }
    }

    /// The upstream's id, where the URIs that the client sees carry it.
    fn prefix(&self) -> Option<&str> {
        self.prefixed.then(|| self.target.definition.upstream.as_str())
    }

    /// Counts a message that nobody asked for, or that fits nothing.
    fn dropped(&self, reason: &str) {
        metrics().upstream_dropped.with([self.target.definition.upstream.as_str(), reason]).increment();
        let (id, upstream) = (self.first, &self.target.definition.upstream);
        tracing::debug!(%id, %upstream, reason, "dropped a message of an upstream");
    }

    /// How long the upstream may be silent: a person needs longer than a tool.
    fn patience(&self, line: &Line) -> Instant {
        if line.awaits_session() {
            return instant_after(self.estate.config.limits.hold_max);
        }
        self.deadline()
    }

    fn deadline(&self) -> Instant {
        let followed = self.task.as_ref().and_then(Followed::late);
        followed.unwrap_or_else(|| instant_after(self.target.definition.timeout))
    }
}

/// What one message came to, where the request goes on.
enum Read {
    /// Nothing.
    More,
    /// The upstream is at work.
    Life,
    /// Something has to be done first.
    Turn(Turn),
}

/// What an upstream says of a call that it has begun.
const AT_WORK: [&str; 2] = ["notifications/progress", "notifications/message"];

/// An upstream's stream that has said nothing for so long is opened towards the client, so that it hears keep-alives; an
/// answer that comes sooner goes back as plain JSON.
const STREAM_OPENS_AFTER: Duration = Duration::from_millis(500);
