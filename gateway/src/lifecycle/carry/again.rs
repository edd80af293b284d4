//! When is a call sent again?
//!
//! Where the upstream's own word is that it was not executed, under the same record: it does not take the credential, it
//! awaits the call once more with what was asked, or it turned the call down because the gateway believed something of it
//! that is no longer true (`-32020`, `-32022`; spec §2.0 rule 5, §2.2). The last once, after everything has been read anew,
//! and only if what goes up then is what was judged. It does not know how a call is sent.

use std::{sync::Arc, time::Duration};

use tokio::{select, time::sleep};

use super::{
    Carriage, Turn,
    deliver::Interrupted,
    input::Line,
    leg::{Ended, Leg, Outbound, instant_after},
    task::{Followed, POLL},
};
use crate::{
    audit::journal::Receipt,
    catalog::Kind,
    clock, config,
    exchange::Grant,
    refusal::Refusal,
    rpc::{outbound::Retry, reply::Response},
    upstream::{Forwarded, Passage, Reply, Scopes, Sent},
};

impl Carriage {
    /// Sends the call. A credential that the upstream refuses, or that lacks what it was to have, is minted anew, once: a 401,
    /// or a 403 for want of scopes, proves that nothing was executed (spec §2.6). What is only asked of a task is asked again
    /// of an upstream that is away.
    pub(super) async fn send(
        &self,
        (mut receipt, mut grant): (Receipt, Grant),
        (leg, sent): (&Outbound<'_>, &mut Sent),
        passage: &Passage<'_>,
    ) -> Result<Box<Reply>, Refusal> {
        let (mut refused, mut left) = (false, self.task.as_ref().map_or(0, Followed::may_fail));
        loop {
            let key = grant.key();
            let (back, refusal) = match self.peer.forward(receipt, grant, passage, sent).await? {
                Forwarded::Answered(reply) => return Ok(reply),
                Forwarded::Unauthorized(back) => {
                    self.estate.exchange.drop_grant(&key);
                    (back, Refusal::UpstreamUnauthorized)
                }
                Forwarded::Unscoped(back, scopes) => {
                    let wanted = format!("it wants `{}`", scopes.wanted.join(" "));
                    let refusal = Refusal::UpstreamScopeMissing(wanted);
                    if !self.may_be_had(&scopes) {
                        return Err(refusal);
                    }
                    self.estate.exchange.drop_grant(&key);
                    (back, refusal)
                }
                Forwarded::Unreachable(_, refusal) if left == 0 => return Err(refusal),
                Forwarded::Unreachable(back, _) => {
                    (left, receipt) = (left.saturating_sub(1), back);
                    sleep(POLL).await;
                    grant = self.mint(leg).await?;
                    continue;
                }
            };
            if refused {
                return Err(refusal);
            }
            (refused, receipt) = (true, back);
            grant = self.mint(leg).await?;
            if grant.key() == key {
                // The same credential always: it would be refused again.
                return Err(refusal);
            }
        }
    }

    /// Whether another exchange could bring the scopes that the upstream wants: the administrator lets the gateway ask for all
    /// of them, and the authorization server left some out the last time. Beyond that it does not ask (RC-26).
    fn may_be_had(&self, Scopes { wanted, held }: &Scopes) -> bool {
        let (config::Grant::Exchange(request) | config::Grant::ClientCredentials(request)) =
            &self.peer.settings().grant
        else {
            return false;
        };
        let asked = |scope: &String| request.scopes.contains(scope) || self.target.definition.mints.contains(scope);
        wanted.iter().all(asked) && !wanted.iter().all(|scope| held.contains(scope))
    }

    /// Another grant for the same call.
    async fn mint(&self, leg: &Outbound<'_>) -> Result<Grant, Refusal> {
        let (exchange, mints) = (&self.estate.exchange, &self.target.definition.mints);
        let summons = || leg.cause().witness(&self.means.journal, &self.target.definition.upstream);
        exchange.mint((leg.identity, &summons), self.peer.settings(), mints, clock::now()).await
    }

    /// Sends again what the upstream said itself that it awaits, or did not execute, under the same record.
    pub(super) async fn again(
        &mut self,
        leg: &mut Leg,
        reply: Box<Reply>,
        retry: Option<Retry>,
    ) -> Result<Line, Ended> {
        let receipt = reply.into_receipt().map_err(Ended::refused)?;
        let mut left = self.task.as_ref().map_or(0, Followed::may_fail);
        let grant = loop {
            match self.mint(&leg.outbound().1).await {
                Ok(grant) => break grant,
                Err(Refusal::GrantUnavailable(_)) if left > 0 => left = left.saturating_sub(1),
                Err(refusal) => return Err(Ended::refused(refusal)),
            }
            self.pause(leg, POLL).await?;
        };
        self.retry = retry;
        self.set_out(leg, (receipt, grant)).await
    }

    /// The code with which the upstream turned the call down, where that can be put right. Not twice: what was read anew
    /// is as true as it gets.
    pub(super) fn turned_down_with(&self, line: &Line, response: &Response) -> Option<i64> {
        let code = response.outcome().err()?.code;
        let Line { reply, begun, .. } = line;
        (!self.turned_down && response.answers(reply.id) && reply.is_turned_down(code, *begun)).then_some(code)
    }

    /// Whether nothing of the call was executed, if `turn` is the last that is heard of it.
    pub(super) fn is_unmade(&self, turn: &Turn) -> bool {
        matches!(turn, Turn::TurnedDown(..)) && self.task.is_none() && self.round == 0
    }

    /// Finds out what is true of the upstream, and sends the call again by that. Where nothing new can be had, what the
    /// upstream said is the answer.
    pub(super) async fn put_right(
        &mut self,
        leg: &mut Leg,
        line: Line,
        (code, ended): (i64, Ended),
    ) -> Result<Line, Ended> {
        self.turned_down = true;
        if self.task.is_none() {
            leg.sent.is_declined();
        }
        let late = self.deadline().min(instant_after(READING_MAX));
        let renewed = async {
            select! {
                () = self.peer.read_anew(code) => true,
                () = self.estate.retired() => false, // nobody reads for it any more
            }
        };
        match leg.delivery.attend(&leg.held, late, renewed).await {
            Ok(true) => {}
            Ok(false) | Err(Interrupted::Late) => return Err(ended),
            Err(interrupted) => return Err(interrupted.end_of(&leg.sent, Refusal::UpstreamTimeout)),
        }
        if !self.renew()? {
            return Err(ended);
        }
        let retry = self.retry.take();
        match &self.task {
            Some(_) => self.go_on(leg, line, retry).await,
            None => self.again(leg, line.reply, retry).await,
        }
    }

    /// Takes the definition as it was just read, where there is one; nothing is sent that was judged as something else (I2).
    fn renew(&mut self) -> Result<bool, Ended> {
        let (catalogue, judged) = (self.estate.catalogue.load(), &self.target.definition);
        let listing = catalogue.listing(&judged.upstream);
        let Some(listing) = listing.filter(|listing| !listing.is_stale(judged.kind)) else {
            return Ok(false);
        };
        if !matches!(judged.kind, Kind::Tool | Kind::Prompt) {
            return Ok(true); // judged by its URI, which need not be listed
        }
        let now = listing.of(judged.kind).iter().find(|definition| definition.name == judged.name);
        let Some(now) = now.filter(|now| now.is_judged_as(judged)) else {
            let digest = now.map_or("none", |now| &now.digest);
            let why = format!("judged as {}, and now it is {digest}", judged.digest);
            return Err(Ended::refused(Refusal::DefinitionChanged(why)));
        };
        self.unrecognised.retain(|(name, _)| now.mirrors.iter().all(|mirror| mirror.header != *name));
        self.target.definition = Arc::clone(now);
        Ok(true)
    }
}

/// So long a call waits at most until its upstream has been read anew.
const READING_MAX: Duration = Duration::from_secs(10);
