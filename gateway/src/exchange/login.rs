//! How does a person log in?
//!
//! With OpenID Connect at the provider of those whom an issuer knows, where the gateway is a client. The ID token is
//! verified with the provider's keys, and has to be the answer to this login, made out to the gateway alone (OpenID Connect
//! Core §3.1.3.7). What a login leaves is kept for whoever has to name this person to the provider later. It knows neither
//! pages nor clients of the gateway's own.

use std::{collections::HashMap, sync::Arc};

use serde::{Deserialize, Serialize};
use serde_json::Value as Json;
use url::Url;

use super::{
    accounts::{expose_some, secret_some},
    code::{Errand, Response, Sent, Strayed},
    endpoint::{Endpoint, Order, Shared},
    users::disowned,
};
use crate::{
    clock::Timestamp,
    config::{Login, OAuthClient, TokenEndpoint, TokenRequest, dialects},
    digest::name_of,
    identity::{Authenticator, User, Vouched},
    refusal::Refusal,
    secret::Secret,
    state::{Place, Store, StoreFault, Value},
};

/// Where people log in, by the issuer of their tokens.
#[derive(Debug)]
pub struct Logins {
    store: Store,
    providers: HashMap<String, Arc<Endpoint>>,
}

/// A login that has succeeded.
#[derive(Debug)]
pub struct Done {
    /// Who that is.
    pub person: Vouched,
    id_token: Secret,
    refresh_token: Option<Secret>,
}

/// What a login left, as it is kept.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Kept {
    #[serde(serialize_with = "expose_some", deserialize_with = "secret_some")]
    pub(super) id_token: Option<Secret>,
    id_token_until_ms: u64,
    #[serde(serialize_with = "expose_some", deserialize_with = "secret_some")]
    pub(super) refresh_token: Option<Secret>,
    /// Until when what was granted for this login or one before it may be renewed, by a refresh token of its own: so long
    /// none of this person is to be ended ([`Logins::disown`]).
    #[serde(default)]
    renewed_until_ms: u64,
}

impl Done {
    /// What the provider can be asked again with.
    #[must_use]
    pub const fn refresh_token(&self) -> Option<&Secret> {
        self.refresh_token.as_ref()
    }
}

impl Logins {
    /// # Errors
    /// A text that says what of a login cannot be used.
    pub(super) fn new(store: Store, logins: &[Arc<Login>], shared: &Shared) -> Result<Self, String> {
        let mut providers = HashMap::with_capacity(logins.len());
        for login in logins {
            providers.insert(login.issuer.clone(), Arc::new(Endpoint::new(&request_of(login), shared)?));
        }
        Ok(Self { store, providers })
    }

    /// Where users of this issuer log in, if they can.
    pub(super) fn provider_of(&self, issuer: &str) -> Option<String> {
        self.providers.get(issuer).map(|provider| provider.request.at.to_string())
    }

    /// Begins a login of a user of `issuer`, the one whom `hint` names: the page of their provider, which sends the browser
    /// back to `redirect_uri`.
    ///
    /// # Errors
    /// [`Strayed`].
    pub async fn begin(
        &self,
        issuer: &str,
        (redirect_uri, hint): (String, Option<&str>),
        now: Timestamp,
    ) -> Result<(Url, Sent), Strayed> {
        Sent::to(self.provider(issuer)?, Errand::Login(hint), redirect_uri, now).await
    }

    /// Ends it with the provider's answer.
    ///
    /// # Errors
    /// [`Strayed`].
    pub async fn finish(
        &self,
        issuer: &str,
        (sent, response): (Sent, Response),
        identity: &Authenticator,
        now: Timestamp,
    ) -> Result<Done, Strayed> {
        let provider = self.provider(issuer)?;
        let order = Order::Login(sent.clone().code(provider, response, now).await?);
        let token = provider.ask(&order, &provider.request.scopes, now).await?;
        let id_token = token.id_token.ok_or_else(|| unfit(provider, "there is none"))?;
        let person = person(provider, &id_token, identity, now).await?;
        sent.judge_nonce(person.claims.get("nonce").and_then(Json::as_str))?;
        Ok(Done { person, id_token, refresh_token: token.refresh_token })
    }

    /// Whom an ID token names that came of a login of a user of `issuer` before.
    ///
    /// # Errors
    /// [`Strayed`].
    pub async fn person(
        &self,
        issuer: &str,
        id_token: &Secret,
        identity: &Authenticator,
        now: Timestamp,
    ) -> Result<Vouched, Strayed> {
        person(self.provider(issuer)?, id_token, identity, now).await
    }

    /// Keeps what a login of `user` left, until `ends` at the latest; that there was one, as long as any before it.
    ///
    /// # Errors
    /// [`StoreFault`].
    pub async fn keep(
        &self,
        user: &User,
        done: &Done,
        ends: Option<Timestamp>,
        now: Timestamp,
    ) -> Result<(), StoreFault> {
        let (expires_at, refresh_token) = (done.person.expires_at, done.refresh_token.clone());
        let before = self.of(user, now).await?.renewed_until_ms;
        let renewed = ends.filter(|_| refresh_token.is_some()).map_or(0, |ends| ends.unix_ms());
        let renewed_until_ms = renewed.max(before);
        let ends =
            if refresh_token.is_some() { ends } else { Some(ends.map_or(expires_at, |ends| ends.min(expires_at))) };
        let until = ends.map(|ends| ends.max(Timestamp::from_unix_ms(renewed_until_ms)));
        let id_token = Some(done.id_token.clone());
        let kept = Kept { id_token, id_token_until_ms: expires_at.unix_ms(), refresh_token, renewed_until_ms };
        let bytes = serde_json::to_vec(&kept).map_err(|error| StoreFault::Unusable(error.to_string()))?;
        self.store.put(Place::Login, &login_key(user), Value { bytes, until }, now).await
    }

    /// Tells the provider that a login of `user` came to nothing (RFC 7009), unless another of theirs is kept: many providers
    /// would end the one with the other. When this returns, the provider has been told.
    pub async fn disown(&self, user: &User, done: Done, now: Timestamp) {
        let Some((token, provider)) = done.refresh_token.zip(self.providers.get(&user.issuer)) else { return };
        if let Ok(None) = self.store.get(Place::Login, &login_key(user), now).await {
            disowned(Arc::clone(provider), token, now).await;
        }
    }

    /// What is kept of a login of `user`; an ID token that has ended is none.
    pub(super) async fn of(&self, user: &User, now: Timestamp) -> Result<Kept, StoreFault> {
        let bytes = self.store.get(Place::Login, &login_key(user), now).await?;
        let kept: Option<Kept> = bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        let mut kept = kept.unwrap_or_default();
        kept.id_token.take_if(|_| kept.id_token_until_ms <= now.unix_ms());
        Ok(kept)
    }

    /// Keeps `next` of a login of `user` that left `before`, until `ends`: a login since then is another.
    ///
    /// # Errors
    /// [`StoreFault`].
    pub async fn follow(
        &self,
        user: &User,
        (before, next): (&Secret, &Secret),
        ends: Timestamp,
        now: Timestamp,
    ) -> Result<(), StoreFault> {
        let key = login_key(user);
        let Some(bytes) = self.store.get(Place::Login, &key, now).await? else { return Ok(()) };
        let Ok(kept) = serde_json::from_slice::<Kept>(&bytes) else { return Ok(()) };
        if kept.refresh_token.as_ref() != Some(before) {
            return Ok(());
        }
        let kept = Kept { refresh_token: Some(next.clone()), ..kept };
        let after = serde_json::to_vec(&kept).map_err(|error| StoreFault::Unusable(error.to_string()))?;
        let until = ends.max(Timestamp::from_unix_ms(kept.renewed_until_ms));
        let after = Value { bytes: after, until: Some(until) };
        self.store.swap(Place::Login, &key, (&bytes, Some(after)), now).await.map(drop)
    }

    pub(super) fn provider(&self, issuer: &str) -> Result<&Endpoint, Strayed> {
        self.providers.get(issuer).map(Arc::as_ref).ok_or(Strayed::Unknown)
    }
}

/// Whom an ID token of `provider` names, where it is good and made out to the gateway (OpenID Connect Core §3.1.3.7).
async fn person(
    provider: &Endpoint,
    id_token: &Secret,
    identity: &Authenticator,
    now: Timestamp,
) -> Result<Vouched, Strayed> {
    let client = &provider.request.client.id;
    let person = identity.vouched((id_token.expose(), None), "JWT", client, now).await;
    let person = person.map_err(|refusal| {
        if let Refusal::IdentityUnavailable(why) = refusal {
            return Strayed::Unavailable(why);
        }
        unfit(provider, &refusal.inside())
    })?;
    if person.issuer != provider.request.at.to_string() {
        return Err(Strayed::IssuerMismatch);
    }
    if person.expires_at <= now {
        return Err(unfit(provider, "it has ended"));
    }
    // With others there, it has to say whom it was given to.
    let party = person.claims.get("azp").and_then(Json::as_str);
    let alone = person.claims.get("aud").is_some_and(|aud| aud.as_array().is_none_or(|all| all.len() == 1));
    if party.map_or(!alone, |party| party != client) {
        return Err(unfit(provider, "made out to somebody else"));
    }
    Ok(person)
}

fn unfit(provider: &Endpoint, why: &str) -> Strayed {
    Strayed::Unfit(format!("the ID token of `{}`: {why}", provider.request.at))
}

fn login_key(user: &User) -> [u8; 32] {
    name_of("login", &[&user.issuer, &user.subject])
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
