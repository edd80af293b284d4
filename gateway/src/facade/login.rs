//! Who came back from the provider, and may the client have its code?
//!
//! The callback: the state is used up, the browser has to be the one that went, the answer has to be the provider's, and
//! the consent has to be this person's. Then the grant is kept and the code given.

use std::time::Duration;

use super::{
    At, Facade,
    authorize::{Pending, Wish},
    browser::Browser,
    grants::{self, Grant, Person, Renewal},
    keys::unavailable,
};
use crate::{
    audit::record::{Authorization, Authorized, Words},
    config,
    exchange::{
        code::{self, Strayed},
        login::{Done, Logins},
    },
    identity::User,
    lifecycle::{Response, form::Fields},
    refusal::Refusal,
    state::Rate,
};

impl Facade {
    /// `GET /callback`.
    pub(super) async fn came_back(&self, at: &At<'_>, query: &[u8]) -> Result<Response, Refusal> {
        let fields = Fields::read(query)?;
        let state = fields.get("state").ok_or(Refusal::ConsentInvalid("an answer without `state`"))?;
        let pending = self.pending(state, at.now).await?;
        let browser = Browser::known(at.headers).filter(|browser| browser.is(&pending.browser));
        let browser = browser.ok_or(Refusal::ConsentInvalid("the login began in another browser"))?;
        // It took the person minutes: nobody is sent to who was removed meanwhile, or gave this place up.
        self.client_at(at, &pending.wish.client.id, &pending.wish.redirect_uri).await?;
        match self.logged_in(at, &pending, fields.response()).await {
            Ok((code, person)) => {
                let mut response = pending.wish.granted(&at.config.own.issuer, &code);
                browser.note(&person, &self.sealer, &mut response.headers, at.now)?;
                Ok(response)
            }
            Err(refusal) => {
                self.note_refused(at, &pending.wish.client.id, &refusal);
                Ok(pending.wish.refused(&at.config.own.issuer, &refusal))
            }
        }
    }

    async fn logged_in(
        &self,
        at: &At<'_>,
        pending: &Pending,
        response: code::Response,
    ) -> Result<(String, String), Refusal> {
        let own = &at.config.own.issuer;
        let logins = at.estate.exchange.logins().map_err(refusal)?;
        let done = logins.finish(own, (pending.sent.clone(), response), &at.estate.identity, at.now).await;
        let done = done.map_err(refusal)?;
        let user = User { issuer: own.clone(), subject: done.person.subject.clone() };
        match self.granted(at, pending, (logins, &user, &done)).await {
            Ok(code) => Ok((code, user.subject)),
            Err(refusal) => {
                logins.disown(&user, done, at.now).await;
                Err(refusal)
            }
        }
    }

    /// The code for what a login is to lead to: all of it is kept, or the login comes to nothing.
    async fn granted(
        &self,
        at: &At<'_>,
        pending: &Pending,
        (logins, user, done): (&Logins, &User, &Done),
    ) -> Result<String, Refusal> {
        self.welcome(at, pending, &user.subject).await?;
        let (wish, life) = (&pending.wish, life(at.config, done));
        let grant = Grant {
            id: String::new(),
            client: wish.client.id.clone(),
            proven: wish.client.keys.is_some(),
            provider: at.config.provider.issuer.clone(),
            person: Person::from(&done.person),
            resource: wish.resource.clone(),
            scopes: wish.scopes.clone(),
            current: None,
            refreshed: wish.client.refreshes && !life.is_zero(),
            bound: None,
            renewal: done.refresh_token().map(Renewal::new),
            began_ms: at.now.unix_ms(),
            ends_ms: at.now.plus(life).unix_ms(),
        };
        let bound = (wish.redirect_uri.as_str(), wish.challenge.as_str(), wish.key.as_deref());
        let code = grants::begin(&self.store, grant, bound, at.now).await?;
        // For `exchange`, to ask the provider for something in this person's name. Last: what is kept is not disowned.
        let kept = logins.keep(user, done, Some(at.now.plus(at.config.login)), at.now).await;
        kept.map_err(unavailable)?;
        Ok(code)
    }

    /// Whether this person may have what they came for.
    async fn welcome(&self, at: &At<'_>, pending: &Pending, subject: &str) -> Result<(), Refusal> {
        let wish = &pending.wish;
        if is_another_s(at.config, &wish.client.id, subject) {
            return Err(Refusal::LoginFailed("the person has a name that stands for somebody else here".to_owned()));
        }
        // What a login leaves is kept for weeks: one person has a part of the room for it.
        let rate = Rate::per(DAY, at.config.logins_per_day);
        self.rates.admit("facade.login", &[(subject, rate)], at.now)?;
        match &pending.remembered {
            // Consent is one person's: who comes back has to be who gave it.
            Some(person) if person != subject => {
                return Err(Refusal::LoginFailed("another person than the one who had agreed".to_owned()));
            }
            Some(person) => self.still_agreed(at, wish, person).await?,
            None => self.agreed(at, wish, subject).await?,
        }
        self.used(&wish.client.id, at.now).await
    }

    async fn agreed(&self, at: &At<'_>, wish: &Wish, subject: &str) -> Result<(), Refusal> {
        let consent = Authorization {
            user: Some((&at.config.own.issuer, subject)),
            resource: Some(&wish.resource),
            scopes: Words::Strings(&wish.scopes),
            redirect_uri: Some(&wish.redirect_uri),
            ..Authorization::new(Authorized::Consent, &wish.client.id, at.peer)
        };
        self.record(&consent).await?;
        self.agree(at, subject, wish).await
    }
}

/// Why a login comes to nothing.
pub(super) fn refusal(strayed: Strayed) -> Refusal {
    if let Strayed::Unavailable(why) = strayed {
        return Refusal::LoginUnavailable(why);
    }
    Refusal::LoginFailed(strayed.inside().unwrap_or(strayed.as_str()).to_owned())
}

/// How long refresh tokens lead to new ones: where the provider cannot be asked whether the person is still welcome, not
/// as long.
fn life(config: &config::Facade, done: &Done) -> Duration {
    if done.refresh_token().is_some() { config.login } else { config.login.min(config.login_unasked) }
}

/// Whether a person of this name would be taken for somebody else here: for a client, `sub` that is a client's saying that
/// there is no person (RFC 9068 §2.2), or for somebody of another issuer.
pub(super) fn is_another_s(config: &config::Facade, client: &str, subject: &str) -> bool {
    let machine = subject == client || config.clients.iter().any(|client| client.id == subject);
    machine || names_another(config, subject)
}

/// Whether a subject reads as that of another issuer (see `assertion`).
pub(super) fn names_another(config: &config::Facade, subject: &str) -> bool {
    config.assertion_issuers.iter().any(|issuer| subject.strip_prefix(issuer).is_some_and(|rest| rest.starts_with(' ')))
}

const DAY: Duration = Duration::from_secs(24 * 3600);
