//! How does a user connect their account at an upstream?
//!
//! The way of one browser, from the page that a call named to a grant in the state. Each step is good once, and leads to
//! the next only:
//!
//! 1. the *ticket* in the page's address, bound to the caller whose call found no account (RS-38);
//! 2. a login at the issuer of the caller's tokens, or at the provider behind the gateway where that is the issuer; it has
//!    to name the same user: whoever is sent somebody else's page connects nothing (MCP client/elicitation, Phishing);
//! 3. the user's word that this is what they want, given on a page of the gateway's own;
//! 4. authorization code with PKCE at the upstream's server (RFC 6749 §4.1, RFC 7636), whose answer has to name its issuer
//!    where it says that it does (RFC 9207 §2.4, RC-23), and comes back on a page of that upstream alone (RFC 9700
//!    §4.4.2.2).
//!
//! From the second step on a cookie binds the browser. It writes no page; `lifecycle` does.

use std::{collections::HashMap, sync::Arc, time::Duration};

use aws_lc_rs::{
    constant_time::verify_slices_are_equal,
    digest::{SHA256, digest},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use quick_cache::sync::Cache;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;
use url::Url;

use super::{
    accounts::{Account, Accounts},
    answer::{Fault, Token},
    endpoint::{Code, Endpoint, Order, Shared, append, sha256},
};
use crate::{
    clock::Timestamp,
    config::{Login, OAuthClient, TokenEndpoint, TokenRequest, UpstreamId, dialects},
    identity::{Identity, User, strict},
    refusal::{Page, Refusal},
    secret::Secret,
    state::{Place, Store, StoreFault, Value},
};

/// Browsers on their way.
#[derive(Debug)]
pub(super) struct Visits {
    /// Scheme and authority of the gateway's pages, without a slash at the end.
    origin: String,
    store: Store,
    logins: HashMap<String, Arc<Endpoint>>,
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
    Login { state: String, nonce: String, verifier: String },
    /// The user's word.
    Consent { token: String },
    /// An answer of the upstream's server.
    Grant { state: String, verifier: String },
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

/// An account that is connected.
#[derive(Debug)]
pub struct Connected {
    /// The upstream's id.
    pub upstream: UpstreamId,
    /// Whose.
    pub user: User,
    /// What was granted.
    pub scopes: Vec<String>,
}

/// An authorization response (RFC 6749 §4.1.2, RFC 9207 §2).
#[derive(Debug, Default)]
pub struct Response {
    /// `code`.
    pub code: Option<Secret>,
    /// `state`.
    pub state: Option<String>,
    /// `iss`.
    pub issuer: Option<String>,
    /// `error`.
    pub error: Option<String>,
}

/// Why a visit does not go on. What a provider said goes to the journal, never to a page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Strayed {
    /// There is no such visit: used, ended, of another browser, or never begun.
    Unknown,
    /// The step does not belong to this visit: `state`, or the page's token, is another.
    Forged,
    /// The answer is not of the server that was asked, or does not say so.
    IssuerMismatch,
    /// Somebody else logged in than the caller.
    OtherUser,
    /// The user, or the server for them, said no.
    Declined(String),
    /// The server takes no code with PKCE, or lacks something else that is needed.
    Unfit(String),
    /// A server cannot be used now, or the state cannot.
    Unavailable(String),
}

impl Strayed {
    /// The word for the record.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Unknown => "visit_unknown",
            Self::Forged => "state_mismatch",
            Self::IssuerMismatch => "issuer_mismatch",
            Self::OtherUser => "other_user",
            Self::Declined(_) => "declined",
            Self::Unfit(_) => "server_unfit",
            Self::Unavailable(_) => "unavailable",
        }
    }

    /// What a provider or the state said of it, for the journal.
    #[must_use]
    pub fn inside(&self) -> Option<&str> {
        match self {
            Self::Declined(why) | Self::Unfit(why) | Self::Unavailable(why) => Some(why),
            Self::Unknown | Self::Forged | Self::IssuerMismatch | Self::OtherUser => None,
        }
    }
}

impl From<StoreFault> for Strayed {
    fn from(fault: StoreFault) -> Self {
        Self::Unavailable(fault.to_string())
    }
}

impl From<Fault> for Strayed {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Refused(why) => Self::Declined(why),
            Fault::Unusable(why) => Self::Unavailable(why),
        }
    }
}

impl Visits {
    /// # Errors
    /// A text that says what of a login cannot be used.
    pub(super) fn new(origin: String, store: Store, logins: &[Arc<Login>], shared: &Shared) -> Result<Self, String> {
        let mut endpoints = HashMap::with_capacity(logins.len());
        for login in logins {
            let endpoint = Endpoint::new(&request_of(login), shared)?;
            endpoints.insert(login.issuer.clone(), Arc::new(endpoint));
        }
        Ok(Self { origin, store, logins: endpoints, tickets: Cache::new(TICKETS_MAX) })
    }

    /// Whether users of this issuer can log in.
    pub(super) fn can_log_in(&self, issuer: &str) -> bool {
        self.logins.contains_key(issuer)
    }

    /// The way to where users of this issuer log in.
    pub(super) fn login_of(&self, issuer: &str) -> Option<&Arc<Endpoint>> {
        self.logins.get(issuer)
    }

    /// Where users of this issuer log in.
    pub(super) fn provider_of(&self, issuer: &str) -> Option<String> {
        self.logins.get(issuer).map(|login| login.request.at.to_string())
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
        if !self.can_log_in(&user.issuer) {
            return Err(Refusal::GrantRefused(format!("no `[[logins]]` for users of `{}`", user.issuer)));
        }
        let mut text = b"page ".to_vec();
        text.extend_from_slice(&caller.principal);
        append(&mut text, upstream.as_str().as_bytes());
        scopes.iter().for_each(|scope| append(&mut text, scope.as_bytes()));
        let purpose = sha256(&text);
        let unkept = |fault: StoreFault| Refusal::GrantUnavailable(fault.to_string());
        if let Some(ticket) = self.tickets.get(&purpose) {
            let unused = self.store.get(Place::Pending, &ticket_key(ticket.expose()), now).await.map_err(unkept)?;
            if unused.is_some() {
                return Ok(self.address(upstream, &ticket));
            }
        }
        let ticket = unguessable().map_err(|_strayed| Refusal::Bug("no randomness"))?;
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
        let id = sha256(ticket.expose().as_bytes()).iter().take(16).map(|byte| format!("{byte:02x}")).collect();
        Page { url: format!("{}/connect/{upstream}?ticket={}", self.origin, ticket.expose()), id, asked: false }
    }

    /// Whether this page's address was given out and not used yet.
    pub(super) async fn invited(&self, ticket: &str, upstream: &UpstreamId, now: Timestamp) -> Result<(), Strayed> {
        let bytes = self.store.get(Place::Pending, &ticket_key(ticket), now).await?;
        read(bytes)?.filter(|visit| visit.is_for(upstream)).map(drop).ok_or(Strayed::Unknown)
    }

    /// Begins: the ticket is spent, and this browser logs in.
    pub(super) async fn enter(&self, ticket: &str, upstream: &UpstreamId, now: Timestamp) -> Result<Onward, Strayed> {
        self.invited(ticket, upstream, now).await?;
        let taken = self.store.take(Place::Pending, &ticket_key(ticket), now).await?;
        let visit = read(taken)?.filter(|visit| visit.is_for(upstream)).ok_or(Strayed::Unknown)?;
        let login = self.logins.get(&visit.issuer).ok_or(Strayed::Unknown)?;
        let (state, nonce, verifier) = (unguessable()?, unguessable()?, unguessable()?);
        let redirect = self.redirect_uri(LOGIN);
        let more = [("nonce", nonce.expose())];
        let to = authorization((login, &login.request.scopes), &redirect, (&state, &verifier), &more, now).await?;
        let cookie = unguessable()?;
        let of = |secret: &Secret| secret.expose().to_owned();
        let stage = Stage::Login { state: of(&state), nonce: of(&nonce), verifier: of(&verifier) };
        self.put(&browser_key(cookie.expose()), &Visit { stage, ..visit }, now).await?;
        Ok(Onward { to, cookie })
    }

    /// The browser comes back from its login, which has to be that of the caller. Gives whose tokens came with it.
    async fn logged_in(&self, cookie: &str, response: Response, now: Timestamp) -> Result<(Visit, Token), Strayed> {
        let visit = self.at(cookie, now).await?;
        let Stage::Login { state, nonce, verifier } = visit.stage.clone() else { return Err(Strayed::Unknown) };
        let login = self.logins.get(&visit.issuer).ok_or(Strayed::Unknown)?;
        let code = self.answered((cookie, &visit), (&state, login), response, now).await?;
        let redirect_uri = self.redirect_uri(LOGIN);
        let order = Order::Login(Code { code, verifier: Secret::new(verifier), redirect_uri });
        let token = login.ask(&order, &login.request.scopes, now).await?;
        let id_token =
            token.id_token.as_ref().ok_or_else(|| Strayed::Unfit("a login without an ID token".to_owned()))?;
        let issuer = login.request.at.to_string();
        let subject = subject_of(id_token, (&issuer, &login.request.client.id), &nonce, now)?;
        if subject != visit.subject {
            return Err(Strayed::OtherUser);
        }
        Ok((visit, token))
    }

    /// Asks the user of a visit for their word.
    async fn ask(&self, cookie: &str, visit: Visit, server: &str, now: Timestamp) -> Result<Consent, Strayed> {
        let token = unguessable()?;
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

    /// The answer of `server`, held against what was asked of it. Whoever has the right `state` has spent the step.
    async fn answered(
        &self,
        (cookie, visit): (&str, &Visit),
        (state, server): (&str, &Endpoint),
        response: Response,
        now: Timestamp,
    ) -> Result<Secret, Strayed> {
        if !response.state.as_deref().is_some_and(|given| same(given, state)) {
            return Err(Strayed::Forged);
        }
        let spent = read(self.store.take(Place::Pending, &browser_key(cookie), now).await?)?;
        if spent.as_ref().map(|spent| &spent.stage) != Some(&visit.stage) {
            return Err(Strayed::Unknown);
        }
        let metadata = server.discovery()?.metadata(now).await?;
        // RFC 9207 §2.4, and for errors too: by simple comparison of strings.
        match &response.issuer {
            Some(issuer) if *issuer != metadata.issuer => return Err(Strayed::IssuerMismatch),
            None if metadata.names_issuer => return Err(Strayed::IssuerMismatch),
            Some(_) | None => {}
        }
        match (response.error, response.code) {
            (Some(error), _) => Err(Strayed::Declined(error)),
            (None, Some(code)) => Ok(code),
            (None, None) => Err(Strayed::Declined("neither a code nor an error".to_owned())),
        }
    }

    async fn at(&self, cookie: &str, now: Timestamp) -> Result<Visit, Strayed> {
        read(self.store.get(Place::Pending, &browser_key(cookie), now).await?)?.ok_or(Strayed::Unknown)
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

/// What the visits of one exchange need besides each other.
#[derive(Debug, Clone, Copy)]
pub(super) struct Connecting<'a> {
    pub(super) visits: &'a Visits,
    pub(super) accounts: &'a Accounts,
}

/// The server at which an account is connected; none where a login is all that is missing.
pub(super) type Server<'a> = Option<&'a Arc<Endpoint>>;

impl Connecting<'_> {
    /// Which upstream the browser connects.
    pub(super) async fn upstream(&self, cookie: &str, now: Timestamp) -> Result<UpstreamId, Strayed> {
        UpstreamId::parse(&self.visits.at(cookie, now).await?.upstream).ok_or(Strayed::Unknown)
    }

    pub(super) async fn logged_in(
        &self,
        cookie: &str,
        server: Server<'_>,
        response: Response,
        now: Timestamp,
    ) -> Result<LoggedIn, Strayed> {
        let (visit, token) = self.visits.logged_in(cookie, response, now).await?;
        if let Some(server) = server {
            let consent = self.visits.ask(cookie, visit, &server.request.at.to_string(), now).await?;
            return Ok(LoggedIn::Asked(consent));
        }
        let user = User { issuer: visit.issuer, subject: visit.subject };
        keep_login(&self.visits.store, &user, &token, now).await?;
        let upstream = UpstreamId::parse(&visit.upstream).ok_or(Strayed::Unknown)?;
        Ok(LoggedIn::Done(Connected { upstream, user, scopes: Vec::new() }))
    }

    /// The user agreed.
    pub(super) async fn agreed(
        &self,
        cookie: &str,
        (server, token): (&Arc<Endpoint>, &str),
        now: Timestamp,
    ) -> Result<Url, Strayed> {
        let visit = self.visits.at(cookie, now).await?;
        let Stage::Consent { token: expected } = &visit.stage else { return Err(Strayed::Unknown) };
        if !same(token, expected) {
            return Err(Strayed::Forged);
        }
        let (state, verifier) = (unguessable()?, unguessable()?);
        let redirect = self.visits.redirect_uri(&format!("{CALLBACK}{}", visit.upstream));
        let to = authorization((server, &visit.scopes), &redirect, (&state, &verifier), &[], now).await?;
        let spent = read(self.visits.store.take(Place::Pending, &browser_key(cookie), now).await?)?;
        if spent.as_ref().map(|spent| &spent.stage) != Some(&visit.stage) {
            return Err(Strayed::Unknown);
        }
        let stage = Stage::Grant { state: state.expose().to_owned(), verifier: verifier.expose().to_owned() };
        self.visits.put(&browser_key(cookie), &Visit { stage, ..visit }, now).await?;
        Ok(to)
    }

    /// The browser comes back from the upstream's server, on the page of the upstream `page`.
    pub(super) async fn granted(
        &self,
        cookie: &str,
        (page, server): (&UpstreamId, &Arc<Endpoint>),
        response: Response,
        now: Timestamp,
    ) -> Result<(Connected, Account), Strayed> {
        let visit = self.visits.at(cookie, now).await?;
        let Stage::Grant { state, verifier } = visit.stage.clone() else { return Err(Strayed::Unknown) };
        let code = self.visits.answered((cookie, &visit), (&state, server), response, now).await?;
        if page.as_str() != visit.upstream {
            return Err(Strayed::IssuerMismatch);
        }
        let redirect_uri = self.visits.redirect_uri(&format!("{CALLBACK}{}", visit.upstream));
        let order = Order::Code(Code { code, verifier: Secret::new(verifier), redirect_uri });
        let token = server.ask(&order, &visit.scopes, now).await?;
        let account = visit.account(server)?;
        let (user, scopes) = (account.user.clone(), token.scopes.clone());
        self.accounts.connect(&account, token, now).await?;
        Ok((Connected { upstream: account.upstream.clone(), user, scopes }, account))
    }
}

/// What a login at the gateway left, for whoever has to name this user to their identity provider later.
#[derive(Debug, Default)]
pub(super) struct Kept {
    pub(super) id_token: Option<Secret>,
    pub(super) refresh_token: Option<Secret>,
}

/// The key of a user's login in [`Place::Login`]: SHA-256 over issuer and subject, each after its length in eight bytes,
/// least first. What is kept there is `{"id_token": …, "refresh_token": …}`, each of which may be `null`.
#[must_use]
pub fn login_key(user: &User) -> [u8; 32] {
    let mut text = Vec::new();
    append(&mut text, user.issuer.as_bytes());
    append(&mut text, user.subject.as_bytes());
    sha256(&text)
}

async fn keep_login(store: &Store, user: &User, token: &Token, now: Timestamp) -> Result<(), StoreFault> {
    let of = |secret: &Option<Secret>| secret.as_ref().map(|secret| secret.expose().to_owned());
    let kept = serde_json::json!({ "id_token": of(&token.id_token), "refresh_token": of(&token.refresh_token) });
    let until = match &token.refresh_token {
        Some(_) => None,
        None => token.id_token.as_ref().and_then(expires_at),
    };
    store.put(Place::Login, &login_key(user), Value { bytes: kept.to_string().into_bytes(), until }, now).await
}

/// What is kept of the login of `user`; an ID token that has ended is none.
pub(super) async fn login_of(store: &Store, user: &User, now: Timestamp) -> Result<Kept, StoreFault> {
    let Some(bytes) = store.get(Place::Login, &login_key(user), now).await? else { return Ok(Kept::default()) };
    let kept: Json = serde_json::from_slice(&bytes).unwrap_or_default();
    let of = |name: &str| kept.get(name).and_then(Json::as_str).map(|text| Secret::new(text.to_owned()));
    let current = |token: &Secret| expires_at(token).is_some_and(|ends| now < ends);
    Ok(Kept { id_token: of("id_token").filter(current), refresh_token: of("refresh_token") })
}

fn expires_at(token: &Secret) -> Option<Timestamp> {
    claims(token)?.get("exp").and_then(Json::as_u64).map(Timestamp::from_unix_seconds)
}

/// The page of another server to which a browser is sent (RFC 6749 §4.1.1, RFC 7636 §4.3).
async fn authorization(
    (server, scopes): (&Endpoint, &[String]),
    redirect_uri: &str,
    (state, verifier): (&Secret, &Secret),
    more: &[(&str, &str)],
    now: Timestamp,
) -> Result<Url, Strayed> {
    let metadata = server.discovery()?.metadata(now).await?;
    if !metadata.s256 {
        return Err(Strayed::Unfit(format!("{}: no PKCE with S256 (RC-21)", metadata.issuer)));
    }
    let lacking = || Strayed::Unfit(format!("{}: no `authorization_endpoint`", metadata.issuer));
    let mut to = metadata.authorization_endpoint.clone().ok_or_else(lacking)?;
    let challenge = URL_SAFE_NO_PAD.encode(digest(&SHA256, verifier.expose().as_bytes()));
    let mut query = to.query_pairs_mut();
    query
        .append_pair("response_type", "code")
        .append_pair("client_id", &server.request.client.id)
        .append_pair("redirect_uri", redirect_uri)
        .append_pair("state", state.expose())
        .append_pair("code_challenge", &challenge)
        .append_pair("code_challenge_method", "S256");
    if !scopes.is_empty() {
        query.append_pair("scope", &scopes.join(" "));
    }
    if let Some(resource) = &server.request.resource {
        query.append_pair("resource", resource.as_str());
    }
    for (name, value) in more {
        query.append_pair(name, value);
    }
    drop(query);
    Ok(to)
}

/// Who logged in. The token came from the issuer itself, over TLS, in answer to a code that only the gateway could use,
/// so that its signature says nothing more (OpenID Connect Core §3.1.3.7, item 6).
fn subject_of(token: &Secret, (issuer, client): (&str, &str), nonce: &str, now: Timestamp) -> Result<String, Strayed> {
    let unfit = |why: &str| Strayed::Unfit(format!("the ID token of `{issuer}`: {why}"));
    let claims = claims(token).ok_or_else(|| unfit("not a JWT"))?;
    let text = |name: &str| claims.get(name).and_then(Json::as_str);
    if text("iss") != Some(issuer) {
        return Err(Strayed::IssuerMismatch);
    }
    let audience = match claims.get("aud") {
        Some(Json::String(only)) => only == client,
        // With others there, it has to say whom it was given to.
        Some(Json::Array(all)) => {
            let named = all.iter().any(|name| name.as_str() == Some(client));
            named && (all.len() == 1 || text("azp") == Some(client))
        }
        _ => false,
    };
    if !audience {
        return Err(unfit("made out to somebody else"));
    }
    let ends = claims.get("exp").and_then(Json::as_u64).map(Timestamp::from_unix_seconds);
    if ends.is_none_or(|ends| ends <= now) {
        return Err(unfit("it has ended"));
    }
    if !text("nonce").is_some_and(|given| same(given, nonce)) {
        return Err(Strayed::Forged);
    }
    text("sub").map(str::to_owned).ok_or_else(|| unfit("no `sub`"))
}

fn claims(token: &Secret) -> Option<serde_json::Map<String, Json>> {
    strict::object(&URL_SAFE_NO_PAD.decode(token.expose().split('.').nth(1)?).ok()?)
}

fn request_of(login: &Login) -> TokenRequest {
    let mut scopes = vec!["openid".to_owned()];
    scopes.extend(login.scopes.iter().cloned());
    let [standard, ..] = &dialects::DIALECTS;
    TokenRequest {
        at: TokenEndpoint::Of(login.provider.clone()),
        client: OAuthClient { id: login.client.id.clone(), authentication: login.client.authentication.clone() },
        dialect: standard,
        subject_token_type: dialects::ACCESS_TOKEN.to_owned(),
        audience: None,
        resource: None,
        scopes,
        actor: false,
        dpop: false,
        ca: login.ca.clone(),
    }
}

fn read(bytes: Option<Vec<u8>>) -> Result<Option<Visit>, Strayed> {
    // What cannot be read is of another version, or something else: there is no such visit.
    Ok(bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok()))
}

/// 256 bits that nobody can guess, straight from the generator.
pub(super) fn unguessable() -> Result<Secret, Strayed> {
    let mut bytes = [0; 32];
    let drawn = aws_lc_rs::rand::fill(&mut bytes);
    drawn.map_err(|_unspecified| Strayed::Unavailable("no randomness".to_owned()))?;
    Ok(Secret::new(URL_SAFE_NO_PAD.encode(bytes)))
}

fn same(left: &str, right: &str) -> bool {
    verify_slices_are_equal(left.as_bytes(), right.as_bytes()).is_ok()
}

/// What is kept is not what opens it.
fn ticket_key(ticket: &str) -> [u8; 32] {
    sha256(format!("ticket {ticket}").as_bytes())
}

fn browser_key(cookie: &str) -> [u8; 32] {
    sha256(format!("browser {cookie}").as_bytes())
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
