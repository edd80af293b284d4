//! Who came back from the provider, and may the client have its code?
//!
//! The callback: the state is used up, the browser has to be the one that went, the answer has to be the provider's, and
//! the consent has to be this person's. Then the grant is kept and the code given.

use std::time::Duration;

use serde_json::json;

use super::{
    At, Facade,
    authorize::{Pending, Wish},
    browser::Browser,
    form::Fields,
    grants::{self, Grant, Person, Renewal},
    keys::unavailable,
    provider::Done,
};
use crate::{
    audit::record::{Authorization, Authorized, Words},
    config,
    exchange::connect::login_key,
    identity::User,
    lifecycle::Response,
    refusal::Refusal,
    state::{Place, Rate, Value},
};

impl Facade {
    /// `GET /callback`.
    pub(super) async fn came_back(&self, at: &At<'_>, query: &[u8]) -> Result<Response, Refusal> {
        let fields = Fields::read(query)?;
        let state = fields.get("state").ok_or(Refusal::ConsentInvalid("an answer without `state`"))?;
        let pending = self.pending(state, at.now).await?;
        let browser = Browser::known(at.headers).filter(|browser| browser.is(&pending.browser));
        let browser = browser.ok_or(Refusal::ConsentInvalid("the login began in another browser"))?;
        match self.logged_in(at, &pending, &fields).await {
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

    async fn logged_in(&self, at: &At<'_>, pending: &Pending, answer: &Fields) -> Result<(String, String), Refusal> {
        let wish = &pending.wish;
        let places = self.provider.places(at.config, &at.estate.identity, at.now).await?;
        let done = places.finish(at.config, &at.estate.identity, (&pending.begun, answer), at.now).await?;
        let subject = done.person.subject.clone();
        let machine = subject == wish.client.id || at.config.clients.iter().any(|client| client.id == subject);
        // `sub` that is a client's says that there is no person (RFC 9068 §2.2).
        if machine || names_another(at.config, &subject) {
            return Err(Refusal::LoginFailed("the person has a name that stands for somebody else here".to_owned()));
        }
        // What a login leaves is kept for weeks: one person has a part of the room for it.
        let rate = Rate::per(DAY, at.config.logins_per_day);
        self.rates.admit("facade.login", &[(&subject, rate)], at.now)?;
        match &pending.remembered {
            // Consent is one person's: who comes back has to be who gave it.
            Some(person) if *person != subject => {
                return Err(Refusal::LoginFailed("another person than the one who had agreed".to_owned()));
            }
            Some(person) => self.still_agreed(at, wish, person).await?,
            None => self.agreed(at, wish, &subject).await?,
        }
        self.keep_login(at, &done).await?;
        self.used(&wish.client, at.now).await?;
        let life = life(at.config, &done);
        let grant = Grant {
            id: String::new(),
            client: wish.client.id.clone(),
            provider: at.config.provider.issuer.clone(),
            person: Person::from(&done.person),
            resource: wish.resource.clone(),
            scopes: wish.scopes.clone(),
            current: None,
            refreshed: wish.client.refreshes && !life.is_zero(),
            bound: None,
            renewal: done.refresh_token.as_ref().map(|token| Renewal::new(token)),
            began_ms: at.now.unix_ms(),
            ends_ms: at.now.plus(life).unix_ms(),
        };
        let bound = (wish.redirect_uri.as_str(), wish.challenge.as_str(), wish.key.as_deref());
        let code = grants::begin(&self.store, grant, bound, at.now).await?;
        Ok((code, subject))
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

    /// Keeps what the provider gave, for `exchange` to ask it for something in this person's name.
    async fn keep_login(&self, at: &At<'_>, done: &Done) -> Result<(), Refusal> {
        let refresh_token = done.refresh_token.as_ref().map(|token| token.as_str());
        let text = json!({ "id_token": done.id_token.as_str(), "refresh_token": refresh_token }).to_string();
        let user = User { issuer: at.config.own.issuer.clone(), subject: done.person.subject.clone() };
        let value = Value { bytes: text.into_bytes(), until: Some(at.now.plus(at.config.login)) };
        self.store.put(Place::Login, &login_key(&user), value, at.now).await.map_err(unavailable)
    }
}

/// How long refresh tokens lead to new ones: where the provider cannot be asked whether the person is still welcome, not
/// as long.
fn life(config: &config::Facade, done: &Done) -> Duration {
    if done.refresh_token.is_some() { config.login } else { config.login.min(config.login_unasked) }
}

/// Whether a subject reads as that of another issuer (see `assertion`).
pub(super) fn names_another(config: &config::Facade, subject: &str) -> bool {
    config.assertion_issuers.iter().any(|issuer| subject.strip_prefix(issuer).is_some_and(|rest| rest.starts_with(' ')))
}

const DAY: Duration = Duration::from_secs(24 * 3600);
