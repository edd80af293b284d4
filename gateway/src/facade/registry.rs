//! Who registered, and who agreed to what?
//!
//! For operators: what is kept of clients and of consents, to be looked at and taken away with all that came of it. Every
//! gateway on the folder follows. It asks nobody.

use std::time::Duration;

use serde::de::DeserializeOwned;

use super::{
    authorize::{CONSENT_LIFE, Consent},
    clients::{Client, REGISTERED},
    grants::{self, Ending, Grant},
};
use crate::{
    clock::Timestamp,
    identity::revocation::{self, Revocation, Whom},
    state::{Place, Store, StoreFault, understood},
};

/// A client that registered itself (RFC 7591).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registered {
    /// `client_id`.
    pub id: String,
    /// What it calls itself: a claim.
    pub name: String,
    /// Where codes may go.
    pub redirect_uris: Vec<String>,
    /// Whether it proves who it is, by keys.
    pub signs: bool,
    /// Whether somebody logged in with it.
    pub used: bool,
    /// When that was noted last, or else when it registered.
    pub noted: Timestamp,
    /// When it is forgotten.
    pub until: Timestamp,
}

/// What a person agreed to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Agreed {
    /// The person, by `sub`.
    pub user: String,
    /// At which provider.
    pub provider: String,
    /// With which client.
    pub client: String,
    /// Where codes may go.
    pub redirect_uri: String,
    /// For which endpoint.
    pub resource: String,
    /// What for.
    pub scopes: Vec<String>,
    /// Since when.
    pub given: Timestamp,
    /// When the person is asked again in any case.
    pub until: Timestamp,
}

/// Whose consents are meant: of one person, with one client, or both.
#[derive(Debug, Clone, Copy, Default)]
pub struct Whose<'a> {
    /// `sub`.
    pub user: Option<&'a str>,
    /// `client_id`.
    pub client: Option<&'a str>,
}

impl Whose<'_> {
    fn are(&self, user: &str, client: &str) -> bool {
        self.user.is_none_or(|wanted| wanted == user) && self.client.is_none_or(|wanted| wanted == client)
    }
}

/// Who takes something away, for the journal.
#[derive(Debug, Clone, Copy)]
pub struct Taking<'a> {
    /// Why.
    pub why: &'a str,
    /// The account on the machine.
    pub by: &'a str,
}

/// The clients that registered, in the order of their ids.
///
/// # Errors
/// What the store says.
pub async fn registered(store: &Store, now: Timestamp) -> Result<Vec<Registered>, StoreFault> {
    let all = read::<Client>(store, (Place::Client, "a registration"), now).await?;
    let shown = |(_, client): (Vec<u8>, Client)| Registered {
        signs: client.keys.is_some(),
        used: client.used,
        noted: Timestamp::from_unix_ms(client.noted_ms),
        until: client.until(),
        id: client.id,
        name: client.name,
        redirect_uris: client.redirect_uris,
    };
    Ok(all.into_iter().map(shown).collect())
}

/// Forgets the client `id`, what people agreed to with it, and ends everything that it was given by `issuer`; says whether
/// it was registered.
///
/// # Errors
/// What the store says.
pub async fn forget(
    store: &Store,
    (id, issuer): (&str, &str),
    (taking, tokens_live): (Taking<'_>, Duration),
    now: Timestamp,
) -> Result<bool, StoreFault> {
    // One that cannot be read is there, too.
    let known = id.starts_with(REGISTERED) && !matches!(store.get(Place::Client, id.as_bytes(), now).await, Ok(None));
    if known {
        // First, so that nothing goes on where the rest fails; whoever comes again finds what is left to be done.
        let whom = Whom::Agent { name: id.to_owned(), issuer: Some(issuer.to_owned()) };
        let mut revocation = Revocation::new(whom, now, Some(now.plus(tokens_live)));
        (revocation.why, revocation.by) = (Some(taking.why.to_owned()), Some(taking.by.to_owned()));
        revocation::revoke(store, &revocation, now).await?;
        store.remove(Place::Client, id.as_bytes()).await?;
    }
    let left = if id.starts_with(REGISTERED) {
        withdraw(store, Whose { client: Some(id), ..Whose::default() }, taking, now).await?
    } else {
        (0, 0)
    };
    Ok(known || left != (0, 0))
}

/// What people agreed to.
///
/// # Errors
/// What the store says.
pub async fn agreed(store: &Store, whose: Whose<'_>, now: Timestamp) -> Result<Vec<Agreed>, StoreFault> {
    let all = read::<Consent>(store, (Place::Consent, "a consent"), now).await?;
    let meant = all.into_iter().map(|(_, consent)| consent).filter(|one| whose.are(&one.person, &one.client));
    let given = |consent: &Consent| Timestamp::from_unix_ms(consent.given_ms);
    let shown = |consent: Consent| Agreed {
        given: given(&consent),
        until: given(&consent).plus(CONSENT_LIFE),
        user: consent.person,
        provider: consent.provider,
        client: consent.client,
        redirect_uri: consent.redirect_uri,
        resource: consent.resource,
        scopes: consent.scopes,
    };
    let mut agreed: Vec<Agreed> = meant.map(shown).collect();
    agreed.sort_by(|one, other| (&one.user, &one.client).cmp(&(&other.user, &other.client)));
    Ok(agreed)
}

/// Takes consents back, and ends the logins under them with all that came of these; says how many consents that were, and
/// how many logins.
///
/// # Errors
/// What the store says.
pub async fn withdraw(
    store: &Store,
    whose: Whose<'_>,
    taking: Taking<'_>,
    now: Timestamp,
) -> Result<(usize, usize), StoreFault> {
    let (mut consents, mut logins) = (0_usize, 0_usize);
    for (key, consent) in read::<Consent>(store, (Place::Consent, "a consent"), now).await? {
        if whose.are(&consent.person, &consent.client) && store.remove(Place::Consent, &key).await? {
            consents = consents.saturating_add(1);
        }
    }
    let ending = Ending { why: taking.why, by: Some(taking.by) };
    for (_, bytes) in store.readable(Place::Token, now).await? {
        // Much else lies there, too: codes, locks, marks of what was shown.
        let Ok(kept) = serde_json::from_slice::<Grant>(&bytes) else { continue };
        if whose.are(&kept.person.subject, &kept.client) {
            grants::withdraw(store, &kept.id, &ending, now).await?;
            logins = logins.saturating_add(1);
        }
    }
    Ok((consents, logins))
}

async fn read<T: DeserializeOwned>(
    store: &Store,
    (place, what): (Place, &'static str),
    now: Timestamp,
) -> Result<Vec<(Vec<u8>, T)>, StoreFault> {
    let kept = store.readable(place, now).await?;
    Ok(kept.into_iter().filter_map(|(key, bytes)| Some((key, understood(what, &bytes)?))).collect())
}
