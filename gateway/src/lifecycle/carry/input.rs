//! What if the upstream needs something from the client first?
//!
//! The four cells of spec §2.1 to §2.3. A legacy client is asked by requests on its stream, whatever the upstream speaks.
//! A modern client is asked by its answer: where the upstream is modern the call ends with that, where it is legacy the
//! call is held until the client's next request brings what was asked. Nothing is executed twice, and everything that
//! was asked and answered is recorded. It does not judge what may be asked; `inspect` does.

use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::{sync::oneshot, time::sleep_until};
use uuid::Uuid;

use super::{
    Carriage, Read,
    deliver::Interrupted,
    leg::{Ended, Held, Leg, instant_after},
};
use crate::{
    audit::{journal::Receipt, record},
    bridge::{Binding, Continuation, Conversation, Place, ROUNDS_MAX, To},
    clock,
    exchange::Grant,
    inspect::{
        Asked, Relay,
        asks::{ASKS_MAX, Ask, Kind, Unfit},
    },
    lifecycle::{
        connect,
        kept::Keeping,
        local::{certain, record_asked},
        retry::Given,
        revoke::{Over, Ward},
    },
    refusal::{Era, Refusal},
    rpc::{
        Capabilities, RequestId, outbound,
        outbound::Retry,
        reply::{Inbound, Notification, Response, ServerRequest},
        versions,
    },
    telemetry::metrics::metrics,
    upstream::Reply,
};

/// What the request that continues a held call brings.
#[derive(Debug)]
pub(in crate::lifecycle) struct Next {
    pub(in crate::lifecycle) leg: Leg,
    pub(in crate::lifecycle) receipt: Receipt,
    pub(in crate::lifecycle) grant: Grant,
    /// What its client can do.
    pub(in crate::lifecycle) capabilities: Capabilities,
    pub(in crate::lifecycle) answers: Vec<Given>,
}

/// The conversation with the upstream about one call.
pub(super) struct Line {
    pub(super) reply: Box<Reply>,
    pub(super) relay: Relay,
    /// Whether the upstream has said that it is at work: whatever comes then, something may have been executed.
    pub(super) begun: bool,
    /// When a modern client is told what has been asked so far.
    pub(super) collected: Option<Instant>,
    /// What the upstream asked and waits for.
    open: Vec<Open>,
    asked: u32,
    /// With a legacy client.
    conversation: Option<Conversation>,
    /// Of a held call.
    pub(super) place: Option<Place<Next>>,
    /// How the answer is kept, where it may be.
    pub(super) keeping: Option<Keeping>,
    /// The upstream's answer, where it came while nobody was there to take it.
    kept: Option<Bytes>,
}

/// One request of a legacy upstream.
struct Open {
    /// What the client calls it: the key of `inputRequests`, or the id of our request.
    key: String,
    /// What the upstream calls it.
    id: RequestId,
    ask: Ask,
    /// Whether the client knows of it.
    told: bool,
}

/// What came first.
pub(super) enum Heard {
    /// Something from the upstream, or its end.
    Message(Result<Option<Bytes>, Refusal>),
    /// A legacy client's answer to our request of this id.
    Answer(String, Response),
}

/// A page that a legacy client was sent to.
#[derive(Debug)]
pub(super) struct Visit {
    /// `elicitationId`.
    id: String,
    page: Vec<u8>,
}

impl Line {
    pub(super) fn new(reply: Box<Reply>, held: &Held) -> Self {
        Self {
            relay: Relay::new(&held.asker, reply.progress_token()),
            reply,
            begun: false,
            collected: None,
            open: Vec::new(),
            asked: 0,
            conversation: held.tracked.as_ref().map(|tracked| tracked.conversation()),
            place: None,
            keeping: None,
            kept: None,
        }
    }

    /// The next message of either side. What is given up here is heard the next time.
    pub(super) async fn hear(&mut self) -> Heard {
        if let Some(kept) = self.kept.take() {
            return Heard::Message(Ok(Some(kept)));
        }
        let Some(conversation) = &mut self.conversation else {
            return Heard::Message(self.reply.messages.next().await);
        };
        tokio::select! {
            biased;
            (id, response) = conversation.answered() => Heard::Answer(id, response),
            message = self.reply.messages.next() => Heard::Message(message),
        }
    }

    /// Whether a legacy client has been asked something.
    pub(super) fn awaits_session(&self) -> bool {
        self.conversation.is_some() && !self.open.is_empty()
    }

    fn take(&mut self, key: &str) -> Option<Open> {
        let at = self.open.iter().position(|open| open.key == key)?;
        Some(self.open.swap_remove(at))
    }

    /// The upstream no longer wants to know: neither does the client have to.
    pub(super) async fn withdraw(
        &mut self,
        notification: &Notification,
        leg: &mut Leg,
        late: Instant,
    ) -> Result<bool, Ended> {
        let Some(key) = self.withdrawn(notification) else { return Ok(false) };
        if let Some(conversation) = &mut self.conversation {
            conversation.withdraw(&key);
            leg.event(late, Bytes::from(outbound::withdrawn(&key))).await?;
        }
        Ok(true)
    }

    fn withdrawn(&mut self, notification: &Notification) -> Option<String> {
        if notification.method() != "notifications/cancelled" {
            return None;
        }
        let id = RequestId::of(notification.params()?.get("requestId")?)?;
        let at = self.open.iter().position(|open| open.id == id)?;
        let open = self.open.swap_remove(at);
        if self.open.is_empty() {
            self.collected = None;
        }
        Some(open.key)
    }
}

impl Carriage {
    /// A request of the upstream in the middle of the call.
    pub(super) async fn asked(&self, leg: &mut Leg, line: &mut Line, request: &ServerRequest) -> Result<Read, Ended> {
        let Some(ask) = self.ask_of(line, request).await else { return Ok(Read::More) };
        let id = request.id().clone();
        let Some(conversation) = &mut line.conversation else {
            self.collect(line, id, ask);
            return Ok(Read::More);
        };
        let key = conversation.ask().map_err(Ended::refused)?;
        let message = Bytes::from(ask.request(&key, leg.held.asker.version));
        line.open.push(Open { key: key.clone(), id, ask, told: true });
        self.record_asked(leg.id(), line.open.last().map(|open| (open.key.as_str(), &open.ask)))
            .map_err(Ended::refused)?;
        metrics().input_rounds.with([self.target.definition.upstream.as_str()]).increment();
        leg.open();
        if !leg.event(self.deadline(), message).await? {
            self.abandon(leg, line, "the client went away").await;
        }
        Ok(Read::Life)
    }

    /// What is asked, where it may be; the upstream is told where not.
    async fn ask_of(&self, line: &Line, request: &ServerRequest) -> Option<Ask> {
        let reply = &line.reply;
        if reply.spoken.era == Era::Modern {
            // A modern server may ask nothing in the middle (RS-07).
            self.dropped("request_unasked");
            return None;
        }
        if request.method() == "ping" {
            reply.respond(outbound::pong(request.id())).await;
            return None;
        }
        let declared = self.capabilities.in_version(reply.spoken.version);
        match Ask::of(&request.method(), request.params(), declared, reply.spoken.version) {
            Ok(ask) if line.open.len() < ASKS_MAX => return Some(ask),
            Ok(ask) => reply.respond(refusal_of(&ask, request.id(), "too much is asked at once")).await,
            Err(Unfit::Malformed) => {
                self.dropped("malformed");
                reply.respond(outbound::invalid_params(request.id())).await;
            }
            Err(Unfit::Method | Unfit::Undeclared(_)) => {
                self.dropped("request_undeclared");
                reply.respond(outbound::method_not_found(request.id())).await;
            }
        }
        None
    }

    /// A modern client is told soon: what is asked at the same time is asked at once (spec §2.3).
    fn collect(&self, line: &mut Line, id: RequestId, ask: Ask) {
        line.asked = line.asked.saturating_add(1);
        let key = format!("ask-{}", line.asked);
        line.open.push(Open { key, id, ask, told: false });
        line.collected.get_or_insert_with(|| instant_after(COLLECTING));
    }

    /// A legacy client's answer, to the legacy upstream that asked.
    pub(super) async fn pass_on(
        &self,
        leg: &mut Leg,
        line: &mut Line,
        (key, response): (&str, &Response),
    ) -> Result<Read, Ended> {
        let Some(Open { id, ask, .. }) = line.take(key) else { return Ok(Read::More) };
        let (action, message) = match response.outcome() {
            Ok(result) => match ask.kind.action(result) {
                Some(action) => (action, outbound::response(&id, Ok(result.raw()))),
                None => ("invalid", refusal_of(&ask, &id, "the client gave no answer of this kind")),
            },
            Err(error) => ("error", outbound::response(&id, Err(error.error.raw()))),
        };
        self.record_answered(leg, &[(key, ask.kind, action)]).map_err(Ended::refused)?;
        line.reply.pass_on(&leg.identity, message).await.map_err(Ended::refused)?;
        Ok(Read::Life)
    }

    /// Nobody answers any more: the upstream is told, in the way that each kind has, and may still come to a result.
    pub(super) async fn abandon(&self, leg: &Leg, line: &mut Line, reason: &str) {
        self.give_up(leg.id(), line, reason).await;
    }

    async fn give_up(&self, record: Uuid, line: &mut Line, reason: &str) {
        for open in line.open.drain(..) {
            if let Some(conversation) = &mut line.conversation {
                conversation.withdraw(&open.key);
            }
            line.reply.respond(refusal_of(&open.ask, &open.id, "nobody answered")).await;
        }
        line.collected = None;
        self.record_abandoned(record, reason);
    }

    /// Ends a modern client's request with what a modern upstream asks: all that goes on is in the client's hands.
    pub(super) fn hand_over(&self, leg: &Leg, line: &Line, asked: &Asked) -> Ended {
        let state = |state: &Bytes| String::from_utf8_lossy(state).into_owned();
        let to = match (&self.task, line.reply.spoken.era) {
            (Some(task), _) => task.to(),
            (None, Era::Modern) => To::Upstream(asked.state.as_ref().map(state)),
            (None, Era::Legacy) => To::Again,
        };
        let told = asked.asks.iter().map(|(key, ask)| (key.as_str(), ask));
        let told = self.seal(leg, asked, self.round, (to, STATE_LIFE)).and_then(|state| {
            self.record_asked(leg.id(), told)?;
            Ok(asked.answer(&leg.held.asker, &state, self.prefix()))
        });
        told.map_or_else(Ended::refused, Ended::answered)
    }

    /// A call that its user's account stands in the way of, in the midst of it: a modern client sends them to the page.
    pub(super) fn page_first(&self, leg: &Leg, ended: Ended) -> Ended {
        let Some(page) = ended.page() else { return ended };
        if leg.era() == Era::Legacy || !self.capabilities.has(Capabilities::URL) {
            return ended;
        }
        let told = connect::ask(page).and_then(|asked| {
            let state = self.seal(leg, &asked, self.round, (To::Again, STATE_LIFE))?;
            self.record_asked(leg.id(), asked.asks.iter().map(|(key, ask)| (key.as_str(), ask)))?;
            Ok(asked.answer(&leg.held.asker, &state, self.prefix()))
        });
        told.map_or_else(Ended::refused, Ended::answered)
    }

    /// What a modern client sent along before it was asked, where that is what the upstream asks: all of it, and nothing
    /// else of what came (RS-32). Only an upstream without a state of its own takes answers to no question of its own
    /// (MCP basic/patterns/mrtr); where it has one, the client is asked.
    pub(super) fn offered(&self, line: &Line, asked: &Asked) -> Option<Vec<(String, Kind, &'static str, Bytes)>> {
        let stateless = asked.state.is_none() && self.call.request_state().is_none();
        let first = self.round == 0 && self.task.is_none() && line.reply.spoken.era == Era::Modern;
        let responses = self.call.input_responses().filter(|_| stateless && first)?;
        let of = |(key, ask): &(String, Ask)| {
            let response = responses.get(key)?;
            Some((key.clone(), ask.kind, ask.kind.action(response)?, response.raw_bytes()))
        };
        asked.asks.iter().map(of).collect()
    }

    /// Answers the upstream with what the client sent along, by making the call again under the same record.
    pub(super) async fn answer(
        &mut self,
        leg: &mut Leg,
        line: Line,
        (asked, offered): (Asked, Vec<(String, Kind, &'static str, Bytes)>),
    ) -> Result<Line, Ended> {
        self.round = self.round.saturating_add(1);
        metrics().input_rounds.with([self.target.definition.upstream.as_str()]).increment();
        let told = asked.asks.iter().map(|(key, ask)| (key.as_str(), ask));
        let answers: Vec<_> = offered.iter().map(|(key, kind, action, _)| (key.as_str(), *kind, *action)).collect();
        let recorded = self.record_asked(leg.id(), told).and_then(|()| self.record_answered(leg, &answers));
        recorded.map_err(Ended::refused)?;
        let responses = offered.into_iter().map(|(key, _, _, response)| (key, response)).collect();
        self.again(leg, line.reply, Some(Retry { state: None, responses })).await
    }

    fn seal(&self, leg: &Leg, asked: &Asked, round: u32, (to, life): (To, Duration)) -> Result<String, Refusal> {
        let named = |(key, ask): &(String, Ask)| (key.clone(), ask.kind.as_str().to_owned());
        let asked = asked.asks.iter().map(named).collect();
        let binding = Binding {
            principal: &leg.identity.principal,
            endpoint: &self.endpoint,
            upstream: self.target.definition.upstream.as_str(),
            request: &self.call.repeated(),
        };
        metrics().input_rounds.with([self.target.definition.upstream.as_str()]).increment();
        let continuation = Continuation { call: self.first, round: round.saturating_add(1), asked, to };
        continuation.seal(&self.means.sealer, &binding, clock::now(), life)
    }

    /// Room for the call to be held, where it may come to that: taken before it is sent, because afterwards it could only
    /// be given up (spec §2.3). A client that can be asked nothing needs none.
    pub(super) fn place(&self, leg: &Leg) -> Result<Option<Place<Next>>, Refusal> {
        let may_be = leg.era() == Era::Modern
            && self.capabilities != Capabilities::NONE
            && self.peer.spoken().is_none_or(|spoken| spoken.era == Era::Legacy)
            && self.capabilities.in_version(versions::LEGACY_NEWEST) != Capabilities::NONE;
        may_be.then(|| self.means.holds.place(leg.identity.principal)).transpose()
    }

    /// Ends a modern client's request with what a legacy upstream asks, and holds the call until the next request brings
    /// the answers; gives that request. What goes wrong here ends the call.
    pub(super) async fn hold(&mut self, mut leg: Leg, line: &mut Line) -> Option<Leg> {
        loop {
            let told = self.tell(&leg, line);
            let (answer, mut arrives) = match told {
                Ok(told) => told,
                Err(refusal) => {
                    self.abandon(&leg, line, refusal.code()).await;
                    leg.end(Ended::refused(refusal).once_sent()).await;
                    return None;
                }
            };
            let (record, ward) = (leg.id(), leg.held.ward.clone());
            line.reply.rest();
            leg.end(answer).await;
            match self.wait(line, &mut arrives, &ward).await {
                Ok(next) => leg = self.resume(line, next).await?,
                Err(reason) => {
                    // A request that was just being let in finds that the call has ended.
                    arrives.close();
                    if let Ok(late) = arrives.try_recv() {
                        late.leg.end(Ended::refused(Refusal::ContinuationLost)).await;
                    }
                    line.place = None;
                    self.give_up(record, line, reason).await;
                    return None;
                }
            }
            if !line.open.iter().any(|open| open.told) {
                return Some(leg);
            }
        }
    }

    /// The answer that asks, and the door by which the next request comes in.
    fn tell(&mut self, leg: &Leg, line: &mut Line) -> Result<(Ended, oneshot::Receiver<Next>), Refusal> {
        let place = match line.place.take() {
            Some(place) => place,
            None => self.means.holds.place(leg.identity.principal)?,
        };
        let place = line.place.insert(place);
        line.collected = None;
        let asked = Asked::by_requests(line.open.iter().map(|open| (open.key.clone(), open.ask.clone())).collect());
        let to = (To::Hold(place.id()), self.estate.config.limits.hold_max);
        let state = self.seal(leg, &asked, self.round, to)?;
        self.round = self.round.saturating_add(1);
        self.record_asked(leg.id(), line.open.iter().map(|open| (open.key.as_str(), &open.ask)))?;
        for open in &mut line.open {
            open.told = true;
        }
        Ok((Ended::answered(asked.answer(&leg.held.asker, &state, self.prefix())), place.open(self.round)))
    }

    /// Waits for the next request; meanwhile the upstream is heard, and nothing of it is lost.
    async fn wait(
        &self,
        line: &mut Line,
        arrives: &mut oneshot::Receiver<Next>,
        ward: &Ward,
    ) -> Result<Next, &'static str> {
        let until = instant_after(self.estate.config.limits.hold_max);
        loop {
            let message = tokio::select! {
                biased;
                next = &mut *arrives => return next.map_err(|_closed| "the gateway ended"),
                message = line.reply.messages.next(), if line.kept.is_none() => message,
                over = ward.over() => return Err(match over {
                    Over::Revoked => "the caller was revoked",
                    Over::Expired => "the caller's credential has ended",
                }),
                () = sleep_until(until.into()) => return Err("nobody answered in time"),
            };
            let Ok(Some(message)) = message else { return Err("the upstream ended its answer") };
            self.overhear(line, message).await?;
        }
    }

    /// A message that came while nobody was there to take it.
    async fn overhear(&self, line: &mut Line, message: Bytes) -> Result<(), &'static str> {
        if line.reply.gives_away(&message) {
            return Err("the answer holds the gateway's credential");
        }
        match Inbound::parse(message.clone(), line.reply.bounds())? {
            Inbound::Response(response) if response.answers(line.reply.id) => {
                line.reply.is_answered(&response);
                line.kept = Some(message);
            }
            Inbound::Response(_) => self.dropped("id_unknown"),
            Inbound::Notification(notification) => {
                let _key = line.withdrawn(&notification);
            }
            Inbound::Request(request) => {
                if let Some(ask) = self.ask_of(line, &request).await {
                    self.collect(line, request.id().clone(), ask);
                }
            }
        }
        Ok(())
    }

    /// The call goes on for the request that came; nothing, where that ended it.
    async fn resume(&mut self, line: &mut Line, next: Next) -> Option<Leg> {
        let Next { mut leg, receipt, grant, capabilities, answers } = next;
        if let Some(place) = &mut line.place {
            place.continued(true);
        }
        leg.sets_out(&self.peer, &grant);
        line.reply.resume(receipt, grant);
        line.relay = Relay::new(&leg.held.asker, line.reply.progress_token());
        for Given { key, response, .. } in &answers {
            let Some(open) = line.take(key) else { continue };
            let message = outbound::response(&open.id, Ok(response));
            if let Err(refusal) = line.reply.pass_on(&leg.identity, message).await {
                self.abandon(&leg, line, refusal.code()).await;
                leg.end(Ended::refused(refusal).once_sent()).await;
                return None;
            }
        }
        self.narrow(line, capabilities).await;
        Some(leg)
    }

    /// A client is asked what its own request declares (RS-17), of what the upstream was told at first.
    async fn narrow(&mut self, line: &mut Line, capabilities: Capabilities) {
        self.capabilities = self.capabilities.common(capabilities);
        let version = line.reply.spoken.version;
        let declared = self.capabilities.in_version(version);
        for open in line.open.extract_if(.., |open| !open.ask.fits(declared, version)) {
            self.dropped("request_undeclared");
            line.reply.respond(outbound::method_not_found(&open.id)).await;
        }
        if line.open.is_empty() {
            line.collected = None;
        }
    }

    /// Asks a legacy client what a modern upstream needs, and makes the call again with the answers: the upstream said
    /// itself that it awaits that.
    pub(super) async fn ask_and_go_on(&mut self, leg: &mut Leg, mut line: Line, asked: Asked) -> Result<Line, Ended> {
        self.round = self.round.saturating_add(1);
        if self.round > ROUNDS_MAX {
            return Err(Ended::refused(Refusal::InputRoundsExceeded));
        }
        if self.task.is_some() {
            let responses = self.interview(leg, line.conversation.take(), asked.asks).await?;
            return self.update(leg, line, responses).await;
        }
        let mut responses = Vec::new();
        let mut anew = Vec::new();
        for (key, ask) in asked.asks {
            // Sent to the page once, a person is not sent there again while the upstream waits for the visit to end.
            if self.visits.iter().any(|visit| visit.page == ask.text()) {
                responses.push((key, Bytes::from_static(br#"{"action":"accept"}"#)));
            } else {
                anew.push((key, ask));
            }
        }
        if anew.is_empty() {
            // Longer from round to round: the upstream is asked again and does not know yet.
            self.pause(leg, AGAIN_AFTER.saturating_mul(1 << self.round.min(5))).await?;
        } else {
            responses.extend(self.interview(leg, line.conversation, anew).await?);
        }
        self.again(leg, line.reply, Some(Retry { state: asked.state, responses })).await
    }

    /// Asks a legacy client everything at once, and waits for all answers.
    async fn interview(
        &mut self,
        leg: &mut Leg,
        conversation: Option<Conversation>,
        asks: Vec<(String, Ask)>,
    ) -> Result<Vec<(String, Bytes)>, Ended> {
        let mut conversation =
            conversation.ok_or_else(|| Ended::refused(Refusal::Bug("a legacy call of no session")))?;
        let mut open = Vec::new();
        for (key, ask) in asks {
            open.push((conversation.ask().map_err(Ended::refused)?, key, ask));
        }
        let told = open.iter().map(|(id, _, ask)| (id.as_str(), ask));
        self.record_asked(leg.id(), told).map_err(Ended::refused)?;
        metrics().input_rounds.with([self.target.definition.upstream.as_str()]).increment();
        leg.open();
        let late = instant_after(self.estate.config.limits.hold_max);
        for (id, _, ask) in &open {
            leg.event(late, Bytes::from(ask.request(id, leg.held.asker.version))).await?;
        }
        let mut responses = Vec::new();
        while !open.is_empty() {
            let (id, response) = match leg.delivery.attend(&leg.held, late, conversation.answered()).await {
                Ok(answered) => answered,
                Err(interrupted) => {
                    if matches!(interrupted, Interrupted::Late) {
                        self.record_abandoned(leg.id(), "nobody answered in time");
                    }
                    return Err(interrupted.end(Refusal::InputTimeout));
                }
            };
            let Some(at) = open.iter().position(|(asked, ..)| *asked == id) else { continue };
            let (id, key, ask) = open.swap_remove(at);
            let (action, result) = judged(&ask, &response);
            self.record_answered(leg, &[(&id, ask.kind, action)]).map_err(Ended::refused)?;
            if ask.kind == Kind::Url && action == "accept" {
                self.visits.push(Visit { id, page: ask.text().to_vec() });
            }
            responses.push((key, result.map_err(Ended::refused)?));
        }
        Ok(responses)
    }

    /// The pages that a legacy client was sent to have served their purpose (MCP 2025-11-25 client/elicitation).
    pub(super) async fn visited(&mut self, leg: &mut Leg) {
        let late = self.deadline();
        for visit in self.visits.drain(..) {
            if leg.event(late, Bytes::from(outbound::elicitation_complete(&visit.id))).await.is_err() {
                return; // how the call ended stands
            }
        }
    }

    pub(super) fn record_asked<'a>(
        &self,
        record: Uuid,
        asks: impl IntoIterator<Item = (&'a str, &'a Ask)>,
    ) -> Result<(), Refusal> {
        record_asked(&self.means.journal, record, (&self.target.definition.upstream, self.first), asks)
    }

    fn record_answered(&self, leg: &Leg, answers: &[(&str, Kind, &str)]) -> Result<(), Refusal> {
        let mut answered = Vec::with_capacity(answers.len());
        for (key, kind, action) in answers {
            answered.push(record::Answered { key, method: kind.method(), action });
        }
        let (who, upstream) = (leg.who(), self.target.definition.upstream.as_str());
        let record = record::InputAnswered { who, upstream, call: self.first, answers: &answered };
        certain(&self.means.journal, leg.id(), &record, "what was answered could not be recorded")
    }

    fn record_abandoned(&self, record: Uuid, reason: &str) {
        let upstream = self.target.definition.upstream.as_str();
        let abandoned = record::InputAbandoned { upstream, call: self.first, reason };
        if !self.means.journal.note(record, &abandoned) {
            metrics().audit_failures.increment();
        }
    }
}

/// What a legacy client's answer means to a modern upstream, and the word for the record. An elicitation that failed is
/// one that the person left; the others have no form for that (spec §2.2).
fn judged(ask: &Ask, response: &Response) -> (&'static str, Result<Bytes, Refusal>) {
    let (word, why) = match response.outcome() {
        Ok(result) => match ask.kind.action(result) {
            Some(action) => return (action, Ok(result.raw_bytes())),
            None => ("invalid", "no answer of this kind".to_owned()),
        },
        Err(error) => ("error", format!("error {}", error.code)),
    };
    match ask.kind {
        Kind::Form | Kind::Url => (word, Ok(Bytes::from_static(CANCEL))),
        Kind::Sampling | Kind::Roots => (word, Err(Refusal::InputRefused(format!("{}: {why}", ask.kind.method())))),
    }
}

/// That nobody answers, in the way that each kind has: an elicitation is cancelled, sampling is refused as by a person
/// (MCP client/sampling §Error Handling), roots cannot be had.
fn refusal_of(ask: &Ask, id: &RequestId, why: &str) -> Vec<u8> {
    let code = match ask.kind {
        Kind::Form | Kind::Url => return outbound::response(id, Ok(CANCEL)),
        Kind::Sampling => -1,
        Kind::Roots => -32603,
    };
    outbound::failure(id, code, why)
}

const CANCEL: &[u8] = br#"{"action":"cancel"}"#;

/// What an upstream asks within so short a time is asked at once.
const COLLECTING: Duration = Duration::from_millis(30);

/// A call is made again after this, doubled from round to round, where the upstream asks for patience only.
const AGAIN_AFTER: Duration = Duration::from_millis(100);

/// A modern client may come back within this to a modern upstream.
const STATE_LIFE: Duration = Duration::from_secs(600);
