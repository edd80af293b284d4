//! Is the person still welcome where they logged in?
//!
//! A login that left a refresh token of the provider is asked about there each time before it gives something here (OpenID
//! Connect Core §12): who is gone there gets nothing more, and what has changed of them is in the next token. One asks at a
//! time, and what the provider gives in exchange is kept whoever waits for it: a refresh token that comes twice is taken for
//! stolen there, too. Where the provider does not answer nothing is given, and nothing has ended. It issues nothing.

use std::{sync::Arc, time::Duration};

use super::{
    At, Facade,
    grants::{self, Ending, Found, Person, Renewal},
    keys::unavailable,
    login::refusal,
};
use crate::{
    clock::Timestamp, exchange::code::Strayed, identity::User, lifecycle::Estate, refusal::Refusal, secret::Secret,
};

impl Facade {
    /// The grant that was found, with what the provider says of its person now.
    pub(super) async fn renewed(&self, at: &At<'_>, found: Found) -> Result<Found, Refusal> {
        let Some(token) = found.grant.renewal.as_ref().map(Renewal::token) else { return Ok(found) };
        // Who asked may go away in the middle; what the provider answers is kept all the same.
        let asking = self.gateway.tasks().spawn(alone(self.gateway.estate(), found, token, at.now));
        asking.await.map_err(|_ended| Refusal::Bug("a renewal did not end"))?
    }
}

/// Asks where nobody else asks for the same grant.
async fn alone(estate: Arc<Estate>, found: Found, token: Secret, now: Timestamp) -> Result<Found, Refusal> {
    let (store, id) = (&estate.store, found.id.clone());
    let word = grants::alone(store, &id, ASKING_MAX, now).await?;
    let word = word.ok_or_else(|| Refusal::LoginUnavailable("its provider is asked already".to_owned()))?;
    let outcome = Box::pin(asked(&estate, found, token, now)).await;
    grants::released(store, &id, &word, now).await?;
    outcome
}

async fn asked(estate: &Estate, found: Found, token: Secret, now: Timestamp) -> Result<Found, Refusal> {
    let off = || Refusal::LoginUnavailable("there is no facade any more".to_owned());
    let (store, config) = (&estate.store, estate.config.facade.as_deref().ok_or_else(off)?);
    grants::is_unchanged(store, &found, now).await?;
    let id = found.id.clone();
    let renewed = match estate.exchange.renewed(&config.own.issuer, &token, now).await {
        Ok(renewed) => renewed,
        Err(Refusal::LoginFailed(why)) => return Err(ended(estate, &id, why, now).await?),
        Err(refusal) => return Err(refusal),
    };
    let mut found = found;
    if let Some(next) = &renewed.refresh_token {
        // At once: the one before it is good no more.
        found.grant.renewal = Some(Renewal::new(next));
        found = grants::replace(store, found, now).await?;
        // So that `exchange` asks with no other.
        let user = User { issuer: config.own.issuer.clone(), subject: found.grant.person.subject.clone() };
        let logins = estate.exchange.logins().map_err(refusal)?;
        logins.follow(&user, (&token, next), now.plus(config.login), now).await.map_err(unavailable)?;
    }
    let Some(id_token) = &renewed.id_token else { return Ok(found) };
    let logins = estate.exchange.logins().map_err(unusable)?;
    let person = logins.person(&config.own.issuer, id_token, &estate.identity, now).await.map_err(unusable)?;
    // OpenID Connect Core §12.2.
    if person.subject != found.grant.person.subject {
        return Err(ended(estate, &id, "the provider names another person now".to_owned(), now).await?);
    }
    found.grant.person = later(&found.grant.person, Person::from(&person));
    Ok(found)
}

/// The login has ended at the provider, and so it has here.
async fn ended(estate: &Estate, id: &str, why: String, now: Timestamp) -> Result<Refusal, Refusal> {
    let ending = Ending { why: "the provider does not vouch for its login any more", by: None };
    grants::withdraw(&estate.store, id, &ending, now).await.map_err(unavailable)?;
    Ok(Refusal::GrantRevoked(why))
}

/// What cannot be believed of an answer says nothing of the person.
fn unusable(strayed: Strayed) -> Refusal {
    Refusal::LoginUnavailable(strayed.inside().unwrap_or(strayed.as_str()).to_owned())
}

/// How and when somebody logged in is what it was, where it is not said again.
fn later(before: &Person, now: Person) -> Person {
    let (acr, auth_time) = (now.acr.clone().or_else(|| before.acr.clone()), now.auth_time.or(before.auth_time));
    Person { acr, auth_time, ..now }
}

/// Metadata in three places and a turn, each with a deadline of its own, take less.
const ASKING_MAX: Duration = Duration::from_secs(60);
