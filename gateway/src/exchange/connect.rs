//! How does a user connect their account at an upstream?
//!
//! The way of one browser, from the page that a call named to a grant in the state. Each step is good once, and leads to
//! the next only:
//!
//! 1. the *ticket* in the page's address, bound to the caller whose call found no account (RS-38);
//! 2. a login at the issuer of the caller's tokens, or at the provider behind the gateway where that is the issuer; it has
//!    to name the same user: whoever is sent somebody else's page connects nothing (MCP client/elicitation, Phishing);
//! 3. the user's word that this is what they want, given on a page of the gateway's own;
//! 4. authorization code with PKCE at the upstream's server ([`super::code`]), which comes back on a page of that upstream
//!    alone (RFC 9700 §4.4.2.2).
//!
//! From the second step on a cookie binds the browser. What comes of it is kept once it is written down. It writes neither
//! pages nor records; `lifecycle` does.

use std::{sync::Arc, time::Duration};

use quick_cache::sync::Cache;
use serde::{Deserialize, Serialize};
use url::Url;

use super::{
    accounts::{self, Account},
    answer::Token,
    code::{Errand, Response, Sent, Strayed},
    endpoint::{Endpoint, Order},
    grant::Facts,
    login::{Done, Logins},
};
use crate::{
    clock::Timestamp,
    config::UpstreamId,
    digest::{self, Name, name_of},
    identity::{Authenticator, Identity, User},
    random,
    refusal::{Page, Refusal},
    secret::Secret,
    state::{Place, Plain, Store, StoreFault, Value},
};

/// Browsers on their way.
#[derive(Debug)]
pub(super) struct Visits {
    /// Scheme and authority of the gateway's pages, without a slash at the end.
    origin: String,
    store: Store,
    pub(super) logins: Logins,
    /// Tickets that nobody has used yet, by what they are for: a call that is made again is sent to the same page.
    tickets: Cache<[u8; 32], Secret>,
}

/// One visit, as it is kept.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Visit {
    upstream: String,
    issuer: String,
    subject: String,
    tenant: Option<String>,
    agent: String,
    scopes: Vec<String>,
    stage: Stage,
    until_ms: u64,
}

/// How far it has come, and what the next step has to bring.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
enum Stage {
    /// Somebody with the page's address.
    Ticket,
    /// An answer of the login.
    Login(Sent),
    /// The user's word.
    Consent { token: String },
    /// An answer of the upstream's server.
    Grant(Sent),
}

/// Where a browser goes next, and the cookie by which it is known there.
#[derive(Debug)]
pub struct Onward {
    /// Another server's page.
    pub to: Url,
    /// The value of the cookie.
    pub cookie: Secret,
}

/// What a user is asked.
#[derive(Debug)]
pub struct Consent {
    /// The upstream's id.
    pub upstream: UpstreamId,
    /// The upstream's authorization server.
    pub server: String,
    /// The agent whose call found no account.
    pub agent: String,
    /// Who logged in.
    pub user: User,
    /// What would be granted.
    pub scopes: Vec<String>,
    /// Proves that the answer comes from the page that asked.
    pub token: Secret,
}

/// What a login came to.
#[derive(Debug)]
pub enum LoggedIn {
    /// The user is asked.
    Asked(Consent),
    /// The login itself was what was missing.
    Done(Connected),
}

/// An account, or a login, that is there to be kept: once it is written down, and not before.
#[derive(Debug)]
pub struct Connected {
    /// The upstream's id.
    pub upstream: UpstreamId,
    /// Whose.
    pub user: User,
    /// What was granted; nothing, of a login.
    pub granted: Option<Box<Facts>>,
    pub(super) gain: Gain,
}

/// What there is to be kept.
#[derive(Debug)]
pub(super) enum Gain {
    Login(Done),
    Account(Account, Token),
}

impl Visits {
    pub(super) fn new(origin: String, store: Store, logins: Logins) -> Self {
        Self { origin, store, logins, tickets: Cache::new(TICKETS_MAX) }
    }

    /// The page that connects an account of `caller` at `upstream`, for `scopes`.
    pub(super) async fn page(
        &self,
        caller: &Identity,
        upstream: &UpstreamId,
        scopes: Vec<String>,
        now: Timestamp,
    ) -> Result<Page, Refusal> {
        let user = caller.user.as_ref().ok_or_else(|| Refusal::GrantRefused("a machine has no account".to_owned()))?;
        if self.logins.provider_of(&user.issuer).is_none() {
            return Err(Refusal::GrantRefused(format!("no `[[logins]]` for users of `{}`", user.issuer)));
        }
        let mut purpose = Name::of("page");
        purpose.add(caller.principal);
        purpose.add(upstream.as_str());
        purpose.all(scopes.iter());
        let purpose = purpose.finish();
        let unkept = |fault: StoreFault| Refusal::GrantUnavailable(fault.to_string());
        if let Some(ticket) = self.tickets.get(&purpose) {
            let unused = self.store.get(Place::Pending, &ticket_key(ticket.expose()), now).await.map_err(unkept)?;
            if unused.is_some() {
                return Ok(self.address(upstream, &ticket));
            }
        }
        let ticket = Secret::new(random::unguessable()?);
        let visit = Visit {
            upstream: upstream.to_string(),
            issuer: user.issuer.clone(),
            subject: user.subject.clone(),
            tenant: caller.tenant.clone(),
            agent: caller.agent.client_id.clone(),
            scopes,
            stage: Stage::Ticket,
            until_ms: now.plus(VISIT_MAX).unix_ms(),
        };
        self.put(&ticket_key(ticket.expose()), &visit, now)
            .await
            .map_err(|strayed| Refusal::GrantUnavailable(strayed.inside().unwrap_or_default().to_owned()))?;
        self.tickets.insert(purpose, ticket.clone());
        Ok(self.address(upstream, &ticket))
    }

    fn address(&self, upstream: &UpstreamId, ticket: &Secret) -> Page {
        let url = format!("{}/connect/{upstream}?ticket={}", self.origin, ticket.expose());
        Page { url, id: digest::short(ticket.expose()), asked: false }
    }

    /// Whether this page's address was given out and not used yet.
    pub(super) async fn invited(&self, ticket: &str, upstream: &UpstreamId, now: Timestamp) -> Result<(), Strayed> {
        let bytes = self.store.get(Place::Pending, &ticket_key(ticket), now).await?;
        read(bytes).filter(|visit| visit.is_for(upstream)).map(drop).ok_or(Strayed::Unknown)
    }

    /// Begins: the ticket is spent, and this browser logs in.
    pub(super) async fn enter(&self, ticket: &str, upstream: &UpstreamId, now: Timestamp) -> Result<Onward, Strayed> {
        self.invited(ticket, upstream, now).await?;
        let taken = self.store.take(Place::Pending, &ticket_key(ticket), now).await?;
        let visit = read(taken).filter(|visit| visit.is_for(upstream)).ok_or(Strayed::Unknown)?;
        let (to, sent) = self.logins.begin(&visit.issuer, (self.redirect_uri(LOGIN), None), now).await?;
        let cookie = Secret::new(random::unguessable()?);
        self.put(&browser_key(cookie.expose()), &Visit { stage: Stage::Login(sent), ..visit }, now).await?;
        Ok(Onward { to, cookie })
    }

    /// The browser comes back from its login, which has to be that of the caller. Then the user is asked for their word on
    /// the account at `server`, where there is one to be had.
    pub(super) async fn logged_in(
        &self,
        cookie: &str,
        server: Option<&Arc<Endpoint>>,
        (response, identity): (Response, &Authenticator),
        now: Timestamp,
    ) -> Result<LoggedIn, Strayed> {
        let visit = self.at(cookie, now).await?;
        let Stage::Login(sent) = &visit.stage else { return Err(Strayed::Unknown) };
        sent.judge(&response)?;
        self.spend(cookie, &visit, now).await?;
        let done = self.logins.finish(&visit.issuer, (sent.clone(), response), identity, now).await?;
        if done.person.subject != visit.subject {
            let other = User { issuer: visit.issuer, subject: done.person.subject.clone() };
            self.logins.disown(&other, done, now).await;
            return Err(Strayed::OtherUser);
        }
        if let Some(server) = server {
            return self.ask(cookie, visit, &server.request.at.to_string(), now).await.map(LoggedIn::Asked);
        }
        let upstream = UpstreamId::parse(&visit.upstream).ok_or(Strayed::Unknown)?;
        let user = User { issuer: visit.issuer, subject: visit.subject };
        Ok(LoggedIn::Done(Connected { upstream, user, granted: None, gain: Gain::Login(done) }))
    }

    /// Asks the user of a visit for their word.
    async fn ask(&self, cookie: &str, visit: Visit, server: &str, now: Timestamp) -> Result<Consent, Strayed> {
        let token = Secret::new(random::unguessable()?);
        let stage = Stage::Consent { token: token.expose().to_owned() };
        let visit = Visit { stage, ..visit };
        self.put(&browser_key(cookie), &visit, now).await?;
        Ok(Consent {
            upstream: UpstreamId::parse(&visit.upstream).ok_or(Strayed::Unknown)?,
            server: server.to_owned(),
            agent: visit.agent,
            user: User { issuer: visit.issuer, subject: visit.subject },
            scopes: visit.scopes,
            token,
        })
    }

    /// The user agreed.
    pub(super) async fn agreed(
        &self,
        cookie: &str,
        (server, token): (&Arc<Endpoint>, &str),
        now: Timestamp,
    ) -> Result<Url, Strayed> {
        let visit = self.at(cookie, now).await?;
        let Stage::Consent { token: expected } = &visit.stage else { return Err(Strayed::Unknown) };
        if !digest::same(token, expected) {
            return Err(Strayed::Forged);
        }
        let redirect_uri = self.redirect_uri(&format!("{CALLBACK}{}", visit.upstream));
        let (to, sent) = Sent::to(server, Errand::Grant(&visit.scopes), redirect_uri, now).await?;
        self.spend(cookie, &visit, now).await?;
        self.put(&browser_key(cookie), &Visit { stage: Stage::Grant(sent), ..visit }, now).await?;
        Ok(to)
    }

    /// The browser comes back from the upstream's server, on the page of the upstream `page`.
    pub(super) async fn granted(
        &self,
        cookie: &str,
        (page, server): (&UpstreamId, &Arc<Endpoint>),
        response: Response,
        now: Timestamp,
    ) -> Result<Connected, Strayed> {
        let visit = self.at(cookie, now).await?;
        let Stage::Grant(sent) = &visit.stage else { return Err(Strayed::Unknown) };
        sent.judge(&response)?;
        self.spend(cookie, &visit, now).await?;
        if page.as_str() != visit.upstream {
            return Err(Strayed::IssuerMismatch);
        }
        let account = visit.account(server)?;
        let order = Order::Code(sent.clone().code(server, response, now).await?);
        let token = server.ask(&order, &visit.scopes, now).await?;
        let (upstream, user) = (account.upstream.clone(), account.user.clone());
        let granted = Some(Box::new(accounts::facts(server, &token.value, token.scopes.clone())));
        Ok(Connected { upstream, user, granted, gain: Gain::Account(account, token) })
    }

    /// Which upstream the browser connects.
    pub(super) async fn upstream(&self, cookie: &str, now: Timestamp) -> Result<UpstreamId, Strayed> {
        UpstreamId::parse(&self.at(cookie, now).await?.upstream).ok_or(Strayed::Unknown)
    }

    /// Of those who come with what belongs to a step the first has done it.
    async fn spend(&self, cookie: &str, visit: &Visit, now: Timestamp) -> Result<(), Strayed> {
        let spent = read(self.store.take(Place::Pending, &browser_key(cookie), now).await?);
        if spent.is_some_and(|spent| spent.stage == visit.stage) { Ok(()) } else { Err(Strayed::Unknown) }
    }

    async fn at(&self, cookie: &str, now: Timestamp) -> Result<Visit, Strayed> {
        read(self.store.get(Place::Pending, &browser_key(cookie), now).await?).ok_or(Strayed::Unknown)
    }

    async fn put(&self, key: &[u8; 32], visit: &Visit, now: Timestamp) -> Result<(), Strayed> {
        let bytes = serde_json::to_vec(visit).map_err(|error| Strayed::Unavailable(error.to_string()))?;
        let until = Some(Timestamp::from_unix_ms(visit.until_ms));
        Ok(self.store.put(Place::Pending, key, Value { bytes, until }, now).await?)
    }

    fn redirect_uri(&self, page: &str) -> String {
        format!("{}/connecting/{page}", self.origin)
    }
}

impl Visit {
    fn is_for(&self, upstream: &UpstreamId) -> bool {
        self.stage == Stage::Ticket && self.upstream == upstream.as_str()
    }

    fn account(&self, server: &Endpoint) -> Result<Account, Strayed> {
        Ok(Account {
            user: User { issuer: self.issuer.clone(), subject: self.subject.clone() },
            tenant: self.tenant.clone(),
            upstream: UpstreamId::parse(&self.upstream).ok_or(Strayed::Unknown)?,
            server: server.request.at.to_string(),
        })
    }
}

/// What cannot be read is of another version, or something else: there is no such visit.
fn read(bytes: Option<Plain>) -> Option<Visit> {
    bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok())
}

/// What is kept is not what opens it.
fn ticket_key(ticket: &str) -> [u8; 32] {
    name_of("ticket", &[ticket])
}

fn browser_key(cookie: &str) -> [u8; 32] {
    name_of("browser", &[cookie])
}

/// The pages to which other servers send a browser back, below `/connecting/`.
pub const LOGIN: &str = "login";
/// The same, of an upstream's server, before the upstream's id: each has a page of its own, so that the code of one server is
/// never taken for that of another, though neither says from whom it is (RFC 9700 §4.4.2.2).
pub const CALLBACK: &str = "callback/";

/// How long a visit may take, from the call that asked for it.
const VISIT_MAX: Duration = Duration::from_secs(600);

/// Tickets that are given out again.
const TICKETS_MAX: usize = 4_096;
