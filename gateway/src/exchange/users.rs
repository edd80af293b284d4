//! What does an exchange do for users in person?
//!
//! Credentials of accounts that they connected, the steps by which they do, and forgetting; what of their logins names them to
//! an identity provider. It keeps nothing itself: [`super::accounts`], [`super::connect`] and [`super::login`] do.

use std::sync::Arc;

use super::{
    Exchange, ExchangeError, Strategy,
    accounts::{Account, Accounts, Granted, Lacking, facts},
    code::{Response, Strayed},
    connect::{Connected, Gain, LoggedIn, Onward, Visits},
    endpoint::{Endpoint, Order, Shared},
    grant::{Grant, Minted, Summons, Witness},
    login::Logins,
    unusable, usable_for,
};
use crate::{
    clock::Timestamp,
    config::{
        AssertionSubject, Login, UpstreamId,
        dialects::{ACCESS_TOKEN, ID_TOKEN, REFRESH_TOKEN},
    },
    identity::{Authenticator, Identity},
    refusal::Refusal,
    secret::Secret,
    state::Store,
    tasks,
};

/// What is kept of users: only where something is served that users may connect.
#[derive(Debug)]
pub(super) struct Personal {
    pub(super) store: Store,
    pub(super) origin: String,
    pub(super) accounts: Accounts,
    pub(super) visits: Visits,
}

impl Exchange {
    /// Forgets the accounts that a user, by `sub`, connected until then, or that anybody did, at one upstream or at all;
    /// and tells the servers that granted them (RFC 7009), as far as these can be reached. Says at which upstreams there
    /// was one.
    ///
    /// # Errors
    /// [`Refusal::GrantUnavailable`] where the state cannot be used.
    pub async fn forget(
        &self,
        (user, upstream): (Option<&str>, Option<&str>),
        until: Timestamp,
        now: Timestamp,
    ) -> Result<Vec<UpstreamId>, Refusal> {
        let Some(personal) = &self.personal else { return Ok(Vec::new()) };
        let forgotten = personal.accounts.forget((user, upstream), until, now).await;
        let forgotten = forgotten.map_err(|fault| Refusal::GrantUnavailable(fault.to_string()))?;
        let mut upstreams = Vec::with_capacity(forgotten.len());
        for gone in forgotten {
            self.flights.clear(&gone.slot);
            // Only to the server that gave it (RC-24).
            let server = self.server(&gone.upstream).filter(|server| server.request.at.to_string() == gone.server);
            if let Some(server) = server {
                drop(tasks::background(disowned(Arc::clone(server), gone.token, now)));
            }
            upstreams.push(gone.upstream);
        }
        Ok(upstreams)
    }

    /// Whether this page's address was given out, and not used yet.
    ///
    /// # Errors
    /// [`Strayed`].
    pub async fn invited(&self, ticket: &str, upstream: &UpstreamId, now: Timestamp) -> Result<(), Strayed> {
        self.visits()?.invited(ticket, upstream, now).await
    }

    /// A browser begins its way: the ticket is spent, and it goes to log in.
    ///
    /// # Errors
    /// [`Strayed`].
    pub async fn enter(&self, ticket: &str, upstream: &UpstreamId, now: Timestamp) -> Result<Onward, Strayed> {
        self.visits()?.enter(ticket, upstream, now).await
    }

    /// Which upstream the browser with this cookie connects.
    ///
    /// # Errors
    /// [`Strayed`].
    pub async fn visited(&self, cookie: &str, now: Timestamp) -> Result<UpstreamId, Strayed> {
        self.visits()?.upstream(cookie, now).await
    }

    /// The browser comes back from its login.
    ///
    /// # Errors
    /// [`Strayed`].
    pub async fn logged_in(
        &self,
        cookie: &str,
        response: Response,
        identity: &Authenticator,
        now: Timestamp,
    ) -> Result<LoggedIn, Strayed> {
        let visits = self.visits()?;
        let upstream = visits.upstream(cookie, now).await?;
        visits.logged_in(cookie, self.server(&upstream), (response, identity), now).await
    }

    /// The user agreed, on the page that holds `token`; gives where they go for it.
    ///
    /// # Errors
    /// [`Strayed`].
    pub async fn agreed(&self, cookie: &str, token: &str, now: Timestamp) -> Result<url::Url, Strayed> {
        let visits = self.visits()?;
        let upstream = visits.upstream(cookie, now).await?;
        let server = self.server(&upstream).ok_or(Strayed::Unknown)?;
        visits.agreed(cookie, (server, token), now).await
    }

    /// The browser comes back from an upstream's server, on the page of the upstream `page`.
    ///
    /// # Errors
    /// [`Strayed`].
    pub async fn granted(
        &self,
        cookie: &str,
        page: &UpstreamId,
        response: Response,
        now: Timestamp,
    ) -> Result<Connected, Strayed> {
        let visits = self.visits()?;
        let upstream = visits.upstream(cookie, now).await?;
        let server = self.server(&upstream).ok_or(Strayed::Unknown)?;
        visits.granted(cookie, (page, server), response, now).await
    }

    /// Keeps what a visit came to: it is written down. What cannot be kept is to be waived.
    ///
    /// # Errors
    /// [`Strayed::Unavailable`].
    pub async fn keep(&self, connected: &Connected, now: Timestamp) -> Result<(), Strayed> {
        let personal = self.personal.as_deref().ok_or(Strayed::Unknown)?;
        let kept = match &connected.gain {
            Gain::Login(done) => personal.visits.logins.keep(&connected.user, done, None, now).await,
            Gain::Account(account, token) => {
                let kept = personal.accounts.connect(account, token.clone(), now).await;
                self.flights.clear(&account.key());
                kept
            }
        };
        Ok(kept?)
    }

    /// Keeps nothing of what a visit came to. The server that granted it has been told (RFC 7009) when this returns, unless
    /// the user has another account there, or another login, or that cannot be found out: many servers would end the one
    /// with the other.
    pub async fn waive(&self, connected: Connected, now: Timestamp) {
        let Some(personal) = &self.personal else { return };
        match connected.gain {
            Gain::Login(done) => personal.visits.logins.disown(&connected.user, done, now).await,
            Gain::Account(account, token) => {
                let Some(server) = self.server(&account.upstream) else { return };
                if personal.accounts.lacks(&account, now).await {
                    let token = token.refresh_token.unwrap_or(token.value);
                    disowned(Arc::clone(server), token, now).await;
                }
            }
        }
    }

    /// Where people log in.
    ///
    /// # Errors
    /// [`Strayed::Unknown`] where nothing of users is kept.
    pub fn logins(&self) -> Result<&Logins, Strayed> {
        self.visits().map(|visits| &visits.logins)
    }

    fn visits(&self) -> Result<&Visits, Strayed> {
        self.personal.as_deref().map(|personal| &personal.visits).ok_or(Strayed::Unknown)
    }

    /// The server at which users connect accounts of an upstream.
    pub(super) fn server(&self, upstream: &UpstreamId) -> Option<&Arc<Endpoint>> {
        match self.plans.get(upstream).map(|plan| &plan.calls) {
            Some(Strategy::User(server)) => Some(server),
            Some(Strategy::Exchange(_) | Strategy::Own(_) | Strategy::IdJag(_) | Strategy::Fixed(_)) | None => None,
        }
    }

    /// The caller's own account at the upstream.
    pub(super) async fn account(
        &self,
        endpoint: &Arc<Endpoint>,
        (caller, upstream, summons): (&Identity, &UpstreamId, Summons<'_>),
        scopes: &[String],
        now: Timestamp,
    ) -> Result<Grant, Refusal> {
        let unkept = || Refusal::GrantRefused("nothing of users is kept here".to_owned());
        let personal = self.personal.as_ref().ok_or_else(unkept)?;
        let account = Account::of(caller, upstream, endpoint);
        let account = account.ok_or_else(|| Refusal::GrantRefused("a machine has no account".to_owned()))?;
        let slot = account.key();
        let changes = *personal.store.changed().borrow();
        let ready = self.flights.ready(&slot, now);
        let minted = match ready {
            Some(minted) if minted.state == Some(changes) => {
                self.hits.increment();
                Ok((false, minted))
            }
            // The state has changed since: the account may have been forgotten, here or by another process.
            Some(_) | None => {
                self.misses.increment();
                let server = (Arc::clone(endpoint), summons()?);
                self.flights.clear(&slot);
                let fetch = fetched((Arc::clone(personal), changes), account, server, now);
                let obtained = self.flights.obtain(slot, now, fetch).await;
                obtained.map(|(minted, own)| (own && minted.fresh, minted))
            }
        };
        let mut wanted = [endpoint.request.scopes.as_slice(), scopes].concat();
        match minted {
            Ok((fresh, minted)) if wanted.iter().all(|scope| minted.facts.scopes.contains(scope)) => {
                Ok(Grant::of(minted, slot, fresh))
            }
            // All that was granted and what is missing (RC-26).
            Ok((_, minted)) => {
                wanted.extend(minted.facts.scopes.iter().cloned());
                Err(Self::unconnected(personal, (caller, upstream), wanted, now).await)
            }
            Err(Refusal::ConnectRequired(_)) => Err(Self::unconnected(personal, (caller, upstream), wanted, now).await),
            Err(refusal) => Err(refusal),
        }
    }

    async fn unconnected(
        personal: &Personal,
        (caller, upstream): (&Identity, &UpstreamId),
        mut scopes: Vec<String>,
        now: Timestamp,
    ) -> Refusal {
        scopes.sort_unstable();
        scopes.dedup();
        match personal.visits.page(caller, upstream, scopes, now).await {
            Ok(page) => Refusal::ConnectRequired(Box::new(page)),
            Err(refusal) => refusal,
        }
    }

    /// Whether `provider` is where the caller's tokens come from, or where the gateway's own users log in: what names a user of
    /// one is shown to no other.
    pub(super) fn is_user_of(&self, provider: &str, caller: &Identity) -> Result<(), Refusal> {
        let issuer = caller.user.as_ref().map_or(&caller.authentication.issuer, |user| &user.issuer);
        let login = self.personal.as_ref().and_then(|personal| personal.visits.logins.provider_of(issuer));
        if login.as_ref().unwrap_or(issuer) == provider {
            return Ok(());
        }
        Err(Refusal::GrantRefused(format!("users of `{issuer}` are not those of `{provider}`")))
    }

    /// What names the caller to their identity provider.
    pub(super) async fn subject(
        &self,
        subject: AssertionSubject,
        (caller, upstream): (&Identity, &UpstreamId),
        now: Timestamp,
    ) -> Result<(Secret, &'static str), Refusal> {
        let kind = match subject {
            AssertionSubject::AccessToken => return Ok((caller.credential.secret().clone(), ACCESS_TOKEN)),
            AssertionSubject::IdToken => ID_TOKEN,
            AssertionSubject::RefreshToken => REFRESH_TOKEN,
        };
        let unkept = || Refusal::GrantRefused("no login of this caller is kept".to_owned());
        let (personal, user) = self.personal.as_ref().zip(caller.user.as_ref()).ok_or_else(unkept)?;
        let login = personal.visits.logins.of(user, now).await;
        let login = login.map_err(|fault| Refusal::GrantUnavailable(fault.to_string()))?;
        match if kind == ID_TOKEN { login.id_token } else { login.refresh_token } {
            Some(token) => Ok((token, kind)),
            None if personal.visits.logins.provider_of(&user.issuer).is_some() => {
                Err(Self::unconnected(personal, (caller, upstream), Vec::new(), now).await)
            }
            None => Err(unkept()),
        }
    }
}

/// Tells a server that what it gave is no longer needed.
pub(super) async fn disowned(server: Arc<Endpoint>, token: Secret, now: Timestamp) {
    if let Err(fault) = server.revoke(&token, now).await {
        tracing::warn!(server = %server.request.at, ?fault, "a token could not be revoked");
    }
}

/// The account's token as a credential: what the state holds is read, and refreshed before `witness` where that has to be.
async fn fetched(
    (personal, changes): (Arc<Personal>, u64),
    account: Account,
    (endpoint, witness): (Arc<Endpoint>, Witness),
    now: Timestamp,
) -> Result<Arc<Minted>, Refusal> {
    let granted = personal.accounts.granted(&account, (&endpoint, &witness), now).await;
    let granted = granted.map_err(|lacking| match lacking {
        // The page is named by whoever asked: it is for them.
        Lacking::Consent => Refusal::ConnectRequired(Box::default()),
        Lacking::Refused(refusal) => refusal,
    })?;
    let prover = endpoint.prover(&Order::Own, now).await.map_err(|fault| unusable(&endpoint, fault))?;
    let (generation, Granted { token, scopes, expires_at, fresh }) = (granted.generation(), granted);
    let minted = Minted::of(&token, prover, facts(&endpoint, &token, scopes), generation)?;
    let minted = minted.until(expires_at, now.plus(usable_for(expires_at.since(now))));
    Ok(Arc::new(Minted { state: Some(changes), fresh, ..minted }))
}

impl Personal {
    pub(super) fn new(
        (origin, store): (String, Store),
        logins: &[Arc<Login>],
        shared: &Shared,
    ) -> Result<Self, ExchangeError> {
        let logins = Logins::new(store.clone(), logins, shared);
        let logins = logins.map_err(|why| ExchangeError { of: "`[[logins]]`".to_owned(), why })?;
        let visits = Visits::new(origin.clone(), store.clone(), logins);
        Ok(Self { accounts: Accounts::new(store.clone()), store, origin, visits })
    }
}
