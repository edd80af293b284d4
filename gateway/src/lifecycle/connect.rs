//! How is a user asked to connect an account, and what do the pages look like that they do it on?
//!
//! A call that finds no account ends by naming a page: in an `input_required`, in error -32042, or in a refusal, as the
//! client can take it. The pages say what is about to happen and have one button each; every step is judged by
//! [`crate::exchange::connect`]. Nothing on a page comes from a provider. There are so many a minute for each address and
//! each user.

use std::{future, sync::Arc, time::Duration};

use bytes::Bytes;
use http::Method;

use super::{
    Asking, Gateway, Head, Response,
    form::Fields,
    local,
    page::{self, escaped, page, see},
    respond,
    retry::Retrying,
    trail::Trail,
};
use crate::{
    audit::{journal, record},
    bridge::{Binding, Continuation, To},
    catalog::Target,
    config::UpstreamId,
    exchange::{
        Exchange,
        code::Strayed,
        connect::{CALLBACK, Connected, Consent, LOGIN, LoggedIn},
    },
    identity::User,
    inspect::asks::{Ask, Asked, Kind},
    refusal::{Era, Page, Refusal},
    rpc::{Capabilities, answers::CONNECT},
    state::{Rate, Site},
    telemetry::metrics::metrics,
};

/// A page, by its path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// `/connect/{upstream}`: what a call named.
    Invitation(UpstreamId),
    /// `/connecting/login`: back from the login.
    Login,
    /// `/connecting/confirm`: the user's word.
    Confirm,
    /// `/connecting/callback/{upstream}`: back from the upstream's server.
    Callback(UpstreamId),
}

impl Step {
    /// The page of `path`, compared byte for byte.
    #[must_use]
    pub fn of(path: &str) -> Option<Self> {
        if let Some(id) = path.strip_prefix("/connect/") {
            return UpstreamId::parse(id).map(Self::Invitation);
        }
        match path.strip_prefix("/connecting/")? {
            LOGIN => Some(Self::Login),
            CONFIRM => Some(Self::Confirm),
            page => UpstreamId::parse(page.strip_prefix(CALLBACK)?).map(Self::Callback),
        }
    }

    /// The methods that it answers.
    #[must_use]
    pub const fn methods(&self) -> &'static str {
        match self {
            Self::Invitation(_) => "GET, POST",
            Self::Login | Self::Callback(_) => "GET",
            Self::Confirm => "POST",
        }
    }
}

/// The page as something to ask.
pub(super) fn ask(page: &Page) -> Result<Asked, Refusal> {
    Ok(Asked::by_requests(vec![(KEY.to_owned(), Ask::page(CONNECT, &page.url)?)]))
}

impl Gateway {
    /// Ends a request whose user has no account yet, in the form that its client can take: the call was not made, and is
    /// to be made again after the visit.
    pub(super) fn connect_first(
        &self,
        asking: &Asking<'_>,
        target: &Target,
        trail: &Trail,
        (retry, mut page): (Option<Retrying>, Page),
    ) -> Result<Response, Refusal> {
        let Asking { head, caller, call, session, .. } = asking;
        if let Some(User { issuer, subject }) = &caller.identity().user {
            let rate = Rate::per(MINUTE, asking.estate.config.limits.connect_per_min);
            self.pages.admit("connect.user", &[(&format!("{issuer} {subject}"), rate)], trail.now)?;
        }
        let version = session.as_ref().map_or(call.version(), |session| session.version);
        page.asked = asking.declared().in_version(version).has(Capabilities::URL);
        if retry.as_ref().is_some_and(|retry| retry.declines(KEY)) {
            return Err(Refusal::GrantRefused("the user would not connect an account".to_owned()));
        }
        if call.era() == Era::Legacy || !page.asked {
            return Err(Refusal::ConnectRequired(Box::new(page)));
        }
        let asked = ask(&page)?;
        let binding = Binding {
            principal: &caller.identity().principal,
            endpoint: &head.endpoint,
            upstream: target.definition.upstream.as_str(),
            request: &call.repeated(),
        };
        let (first, round) = retry.map_or((trail.id, 0), |retry| (retry.call, retry.round));
        let expected = vec![(KEY.to_owned(), Kind::Url.as_str().to_owned())];
        let continuation = Continuation { call: first, round: round.saturating_add(1), asked: expected, to: To::Again };
        let state = continuation.seal(&self.means.sealer, &binding, trail.now, STATE_LIFE)?;
        let upstream = &target.definition.upstream;
        let asks = asked.asks.iter().map(|(key, ask)| (key.as_str(), ask));
        local::record_asked(&self.journal, trail.id, (upstream, first), asks)?;
        metrics().input_rounds.with([upstream.as_str()]).increment();
        trail.measure("", None);
        Ok(respond::answer(asked.answer(&local::asker(call)?, &state, None)))
    }

    /// Answers one request of a browser. One that comes back with a code is answered to the end whether or not the browser
    /// waits: a code is good once, and what is given for it is kept, or given back. Rates bound how many come, and the
    /// deadlines of those who are asked how long each takes.
    pub async fn visit<B>(self: &Arc<Self>, head: Head, step: Step, body: B) -> Response
    where
        B: Future<Output = Result<Bytes, Refusal>>,
    {
        match step {
            Step::Invitation(_) | Step::Confirm => self.visited(head, step, body).await,
            Step::Login | Step::Callback(_) => {
                let (gateway, nothing) = (Arc::clone(self), future::ready(Ok(Bytes::new())));
                let answering = self.tasks.spawn(async move { gateway.visited(head, step, nothing).await });
                let broken = Refusal::Bug("a visit did not end");
                answering.await.unwrap_or_else(|_ended| page::wrong(TITLE, &broken.outside(Era::Modern), ""))
            }
        }
    }

    async fn visited<B>(&self, head: Head, step: Step, body: B) -> Response
    where
        B: Future<Output = Result<Bytes, Refusal>>,
    {
        let trail = Trail::new(&head);
        match self.stepped(&head, &step, body, &trail).await {
            Ok(response) => response,
            Err(refusal) => {
                let outside = refusal.outside(Era::Modern);
                trail.refused(&self.journal, &refusal, &outside);
                page::wrong(TITLE, &outside, "")
            }
        }
    }

    /// Of each address, and of all together, so many: every page asks the store, and some ask another server.
    fn admit_visitor(&self, limit: u32, trail: &Trail) -> Result<(), Refusal> {
        let all = Rate::per(MINUTE, limit.saturating_mul(EVERYBODY));
        let site = Site::of(trail.peer.ip()).to_string();
        self.pages.admit("connect", &[(&site, Rate::per(MINUTE, limit)), ("", all)], trail.now)
    }

    async fn stepped<B>(&self, head: &Head, step: &Step, body: B, trail: &Trail) -> Result<Response, Refusal>
    where
        B: Future<Output = Result<Bytes, Refusal>>,
    {
        let estate = self.estate();
        self.admit_visitor(estate.config.limits.connect_per_min, trail)?;
        let (exchange, now) = (&estate.exchange, trail.now);
        let cookie = page::cookie(&head.headers, COOKIE).unwrap_or_default();
        let mut upstream = exchange.visited(cookie, now).await.ok();
        // What says a thing twice says nothing (RFC 6749 §3.1).
        let query = Fields::read(head.query.as_deref().unwrap_or_default().as_bytes()).unwrap_or_default();
        let outcome = match (step, &head.method) {
            (Step::Invitation(id), &Method::GET) => {
                let ticket = query.get(TICKET).unwrap_or_default();
                exchange.invited(ticket, id, now).await.map(|()| invitation(id, ticket))
            }
            (Step::Invitation(id), _) => {
                let form = Fields::read(&body.await?).unwrap_or_default();
                let ticket = form.get(TICKET).unwrap_or_default();
                upstream = exchange.invited(ticket, id, now).await.ok().map(|()| id.clone());
                exchange.enter(ticket, id, now).await.map(|onward| {
                    let mut response = see(&onward.to);
                    page::keep(&mut response.headers, COOKIE, onward.cookie.expose(), STATE_LIFE);
                    response
                })
            }
            (Step::Login, _) => match exchange.logged_in(cookie, query.response(), &estate.identity, now).await {
                Ok(LoggedIn::Asked(consent)) => Ok(confirmation(&consent)),
                Ok(LoggedIn::Done(connected)) => return self.keep(trail, exchange, connected, "logged_in").await,
                Err(strayed) => Err(strayed),
            },
            (Step::Confirm, _) => {
                let form = Fields::read(&body.await?).unwrap_or_default();
                exchange.agreed(cookie, form.get(TOKEN).unwrap_or_default(), now).await.map(|to| see(&to))
            }
            (Step::Callback(id), _) => match exchange.granted(cookie, id, query.response(), now).await {
                Ok(connected) => return self.keep(trail, exchange, connected, "connected").await,
                Err(strayed) => Err(strayed),
            },
        };
        outcome.map_err(|strayed| {
            if let Some(upstream) = &upstream {
                self.strayed(trail, (upstream, None), &strayed);
            }
            refusal(strayed)
        })
    }

    /// Keeps what a visit came to. It is written down first, for it may be used as soon as it is kept; what cannot be written
    /// down is not kept, and what is not kept is waived.
    async fn keep(
        &self,
        trail: &Trail,
        exchange: &Exchange,
        connected: Connected,
        outcome: &str,
    ) -> Result<Response, Refusal> {
        let kept = self.keep_recorded(trail, exchange, &connected, outcome).await;
        if kept.is_err() {
            exchange.waive(connected, trail.now).await;
        }
        kept.map(|()| page(200, "Connected", "<p>You can close this page, and go on where you came from.</p>"))
    }

    async fn keep_recorded(
        &self,
        trail: &Trail,
        exchange: &Exchange,
        connected: &Connected,
        outcome: &str,
    ) -> Result<(), Refusal> {
        let Connected { upstream, user, granted, .. } = connected;
        let record = record::Connect {
            user: Some((&user.issuer, &user.subject)),
            scopes: granted.as_ref().map_or_else(record::Words::default, |facts| record::Words::Strings(&facts.scopes)),
            grant: granted.as_ref().map(|facts| local::record_grant(facts, false)),
            ..of(trail, upstream, outcome)
        };
        self.journal.write(&record).await?;
        tracing::info!(id = %trail.id, %upstream, outcome, "connect");
        exchange.keep(connected, trail.now).await.map_err(|strayed| {
            // The record of before is not true: this one says of whom.
            self.strayed(trail, (upstream, Some(user)), &strayed);
            refusal(strayed)
        })
    }

    /// Of a visit that there is: an attempt to connect one user's account for another is worth a look.
    fn strayed(&self, trail: &Trail, (upstream, user): (&UpstreamId, Option<&User>), strayed: &Strayed) {
        if matches!(strayed, Strayed::Unknown | Strayed::Forged) {
            return; // counted as any refusal of strangers is: whoever has a cookie could write one without end
        }
        tracing::info!(id = %trail.id, %upstream, outcome = strayed.as_str(), "connect");
        let user = user.map(|user| (user.issuer.as_str(), user.subject.as_str()));
        let record = record::Connect { user, reason: strayed.inside(), ..of(trail, upstream, strayed.as_str()) };
        if !self.journal.note(journal::new_id(), &record) {
            metrics().audit_failures.increment();
        }
    }
}

fn of<'a>(trail: &Trail, upstream: &'a UpstreamId, outcome: &'a str) -> record::Connect<'a> {
    record::Connect {
        user: None,
        upstream: upstream.as_str(),
        outcome,
        scopes: record::Words::default(),
        grant: None,
        reason: None,
        request: record::Request { peer: Some(trail.peer), ..record::Request::default() },
    }
}

fn refusal(strayed: Strayed) -> Refusal {
    match strayed {
        Strayed::Unknown => Refusal::VisitUnknown,
        Strayed::Forged | Strayed::IssuerMismatch | Strayed::OtherUser => Refusal::VisitForbidden(strayed.as_str()),
        Strayed::Declined(why) | Strayed::Unfit(why) | Strayed::Unavailable(why) => Refusal::VisitFailed(why),
    }
}

/// A link is followed by more than people: only the button spends the ticket.
fn invitation(upstream: &UpstreamId, ticket: &str) -> Response {
    let (upstream, ticket) = (escaped(upstream.as_str()), escaped(ticket));
    page(
        200,
        &format!("Connect {upstream}"),
        &format!(
            "<p>An agent that works for you needs an account of yours at <b>{upstream}</b>. You log in first, so that nobody \
             else can connect your account.</p><p>If you did not expect this, close the page.</p>\
             <form method=\"post\"><input type=\"hidden\" name=\"{TICKET}\" value=\"{ticket}\">\
             <button>Log in</button></form>"
        ),
    )
}

fn confirmation(consent: &Consent) -> Response {
    let Consent { upstream, server, agent, user, scopes, token } = consent;
    let (upstream, server, agent) = (escaped(upstream.as_str()), escaped(server), escaped(agent));
    let (subject, issuer) = (escaped(&user.subject), escaped(&user.issuer));
    let scopes: String = scopes.iter().map(|scope| format!("<li>{}</li>", escaped(scope))).collect();
    let asked = if scopes.is_empty() { String::new() } else { format!("<p>What is asked for:</p><ul>{scopes}</ul>") };
    page(
        200,
        &format!("Connect {upstream}"),
        &format!(
            "<p>You are <b>{subject}</b> of {issuer}.</p><p>The agent <b>{agent}</b> wants to use your account at \
             <b>{upstream}</b>, and so may every agent of yours that policy allows it to. Next you are asked for it at \
             <b>{server}</b>.</p>{asked}\
             <form method=\"post\" action=\"/connecting/{CONFIRM}\"><input type=\"hidden\" name=\"{TOKEN}\" value=\"{}\">\
             <button>Connect</button></form><p>To refuse, close the page.</p>",
            escaped(token.expose())
        ),
    )
}

/// The key of the one thing that is asked.
const KEY: &str = "connect";

/// Of the page that says what went wrong.
const TITLE: &str = "Not connected";

const CONFIRM: &str = "confirm";
const TICKET: &str = "ticket";
const TOKEN: &str = "token";

/// The cookie by which a browser on its way is known.
const COOKIE: &str = "tollgate-connect";

/// A person logs in and agrees within this, or the call is made anew.
const STATE_LIFE: Duration = Duration::from_secs(600);

/// What `limits.connect_per_min` counts by.
const MINUTE: Duration = Duration::from_secs(60);

/// So many addresses may open as many pages as one may.
const EVERYBODY: u32 = 100;

#[cfg(test)]
mod tests {
    use super::Step;
    use crate::config::UpstreamId;

    #[test]
    fn a_page_has_one_path() {
        let crm = UpstreamId::parse("crm").unwrap();
        for (path, expected) in [
            ("/connect/crm", Some(Step::Invitation(crm.clone()))),
            ("/connect/login", Some(Step::Invitation(UpstreamId::parse("login").unwrap()))),
            ("/connecting/login", Some(Step::Login)),
            ("/connecting/confirm", Some(Step::Confirm)),
            ("/connecting/callback/crm", Some(Step::Callback(crm))),
            ("/connecting/callback", None),
            ("/connecting/callback/", None),
            ("/connecting/callback/crm/", None),
            ("/connect/", None),
            ("/connect/crm/", None),
            ("/connect/../x", None),
            ("/connecting/", None),
            ("/connecting/CALLBACK/crm", None),
        ] {
            assert_eq!(Step::of(path), expected, "{path}");
        }
    }
}
