//! May this client ask this person for a code?
//!
//! The authorization endpoint (OAuth 2.1 §4.1.1): judges the request, asks the person (RA-08), and only then sends the
//! browser to the provider (RA-09). Until client and redirect URI are known to belong together nothing is redirected.

use std::time::Duration;

use http::header::LOCATION;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{
    At, Facade,
    browser::Browser,
    clients::Client,
    keys::{unavailable, unusable},
    login::refusal,
    page, redirect,
};
use crate::{
    clock::Timestamp,
    config::{self, Config},
    digest::name_of,
    exchange::code::Sent,
    lifecycle::{Estate, Response, endpoints, form::Fields, page::see},
    random,
    refusal::{Era, Refusal},
    state::{Place, Value, understood},
};

/// A request that was judged: what a page asks about, and what a code will be bound to.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Wish {
    pub(super) client: Client,
    pub(super) redirect_uri: String,
    state: Option<String>,
    pub(super) challenge: String,
    pub(super) resource: String,
    pub(super) scopes: Vec<String>,
    /// The thumbprint of the key that the code will be bound to (RFC 9449 §10).
    pub(super) key: Option<String>,
    hint: Option<String>,
}

/// A wish on its way through a page or a login.
#[derive(Debug, Serialize, Deserialize)]
struct Ticket {
    wish: Wish,
    browser: String,
    until_ms: u64,
}

/// A login that goes on at the provider.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Pending {
    pub(super) wish: Wish,
    pub(super) browser: String,
    pub(super) sent: Sent,
    /// Whose consent of another day this goes on; nobody's where the page was answered just now.
    pub(super) remembered: Option<String>,
}

/// What a person agreed to, and with whom.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Consent {
    pub(super) provider: String,
    pub(super) person: String,
    pub(super) client: String,
    pub(super) redirect_uri: String,
    pub(super) resource: String,
    pub(super) scopes: Vec<String>,
    pub(super) given_ms: u64,
}

impl Wish {
    /// Where the browser goes with these parameters, and with `state` and `iss` (RFC 9207 §2).
    fn back(&self, issuer: &str, parameters: &[(&str, Option<&str>)]) -> Response {
        let own = [("state", self.state.as_deref()), ("iss", Some(issuer))];
        let all: Vec<(&str, Option<&str>)> = parameters.iter().chain(&own).copied().collect();
        match redirect::with(&self.redirect_uri, &all) {
            Some(url) => see(&url),
            None => page::wrong(&Refusal::Bug("a redirect URI that is none").outside(Era::Modern), None),
        }
    }

    /// With a code.
    pub(super) fn granted(&self, issuer: &str, code: &str) -> Response {
        self.back(issuer, &[("code", Some(code))])
    }

    /// With an error of RFC 6749 §4.1.2.1.
    pub(super) fn refused(&self, issuer: &str, refusal: &Refusal) -> Response {
        let message = refusal.outside(Era::Modern).message;
        self.back(issuer, &[("error", Some(refusal.oauth_error())), ("error_description", Some(&message))])
    }

    /// The same before a person has agreed to anything. Anybody can register a place on the web, and a link to this
    /// gateway must not lead there by itself (RFC 9700 §4.11.2): whoever reads the page decides.
    fn refused_unasked(&self, issuer: &str, refusal: &Refusal) -> Response {
        let back = self.refused(issuer, refusal);
        if !redirect::is_web(&self.redirect_uri) {
            return back;
        }
        let outside = refusal.outside(Era::Modern);
        let place = back.headers.get(LOCATION).and_then(|place| place.to_str().ok());
        let link = place.map(|place| (place, redirect::shown(&self.redirect_uri)));
        page::wrong(&outside, link)
    }

    /// Whether what was agreed to covers it. A program on the person's computer cannot prove that it is the one that they
    /// agreed to, so its page comes each time (RFC 8252 §8.6).
    fn is_covered(&self, agreed: &Consent) -> bool {
        redirect::is_web(&self.redirect_uri)
            && agreed.redirect_uri == self.redirect_uri
            && agreed.resource == self.resource
            && self.scopes.iter().all(|scope| agreed.scopes.contains(scope))
    }

    /// What `person` agrees to by this.
    fn consent(&self, at: &At<'_>, person: &str) -> Consent {
        let Self { client, redirect_uri, resource, scopes, .. } = self.clone();
        let (provider, person) = (at.config.provider.issuer.clone(), person.to_owned());
        Consent { provider, person, client: client.id, redirect_uri, resource, scopes, given_ms: at.now.unix_ms() }
    }
}

impl Facade {
    /// `GET /authorize`.
    pub(super) async fn authorize(&self, at: &At<'_>, query: &[u8]) -> Result<Response, Refusal> {
        let fields = Fields::read(query)?;
        let id = fields.need("client_id", "`client_id` is missing")?;
        let asked = fields.need("redirect_uri", "`redirect_uri` is missing")?;
        let client = self.client_at(at, id, asked).await?;
        let mut wish = Wish {
            client,
            redirect_uri: asked.to_owned(),
            state: fields.get("state").map(str::to_owned),
            challenge: String::new(),
            resource: String::new(),
            scopes: Vec::new(),
            key: None,
            hint: fields.get("login_hint").filter(|hint| hint.len() <= HINT_BYTES_MAX).map(str::to_owned),
        };
        if let Err(refusal) = wish_of(at.estate, &fields, &mut wish) {
            self.note_refused(at, &wish.client.id, &refusal);
            return Ok(wish.refused_unasked(&at.config.own.issuer, &refusal));
        }
        let browser = Browser::of(at.headers)?;
        if let Some(person) = browser.last(at.headers, &self.sealer, at.now)
            && let Some(agreed) = self.consent(at, &person, &wish.client.id).await?
            && wish.is_covered(&agreed)
        {
            return self.begin(at, wish, &browser, Some(person)).await;
        }
        let until_ms = at.now.plus(LOGIN_MAX).unix_ms();
        let ticket = self.sealed(&Ticket { wish: wish.clone(), browser: browser.digest(), until_ms })?;
        let mut response = page::consent(&page::Question {
            client_id: &wish.client.id,
            client_name: &wish.client.name,
            redirect_uri: &wish.redirect_uri,
            resource: &wish.resource,
            scopes: &wish.scopes,
            ticket: &ticket,
        });
        browser.name(&mut response.headers);
        Ok(response)
    }

    /// The client of this id, which may be sent to this redirect URI.
    pub(super) async fn client_at(&self, at: &At<'_>, id: &str, redirect_uri: &str) -> Result<Client, Refusal> {
        let client = self.client(at, id).await?;
        if !client.redirect_uris.iter().any(|registered| redirect::fits(registered, redirect_uri)) {
            return Err(Refusal::RedirectUriInvalid("it is not one of the client's"));
        }
        Ok(client)
    }

    /// `POST /authorize`: the answer to the page.
    pub(super) async fn answered(&self, at: &At<'_>, body: &[u8]) -> Result<Response, Refusal> {
        let fields = Fields::read(body)?;
        let ticket: Option<Ticket> = fields.get("ticket").and_then(|text| self.opened(text));
        let ticket = ticket.ok_or(Refusal::ConsentInvalid("no ticket of this gateway"))?;
        if at.now.unix_ms() >= ticket.until_ms {
            return Err(Refusal::ConsentInvalid("the page has expired"));
        }
        let browser = Browser::known(at.headers).filter(|browser| browser.is(&ticket.browser));
        let browser = browser.ok_or(Refusal::ConsentInvalid("the page was shown in another browser"))?;
        match fields.get("decision") {
            Some("allow") => self.begin(at, ticket.wish, &browser, None).await,
            Some("deny") => {
                self.note_refused(at, &ticket.wish.client.id, &Refusal::ConsentDenied);
                Ok(ticket.wish.refused(&at.config.own.issuer, &Refusal::ConsentDenied))
            }
            _ => Err(Refusal::ConsentInvalid("no decision")),
        }
    }

    /// Sends the browser to the provider, with a state that is good once.
    async fn begin(
        &self,
        at: &At<'_>,
        wish: Wish,
        browser: &Browser,
        remembered: Option<String>,
    ) -> Result<Response, Refusal> {
        let own = &at.config.own.issuer;
        let begun = async {
            at.estate.exchange.logins()?.begin(own, (format!("{own}/callback"), wish.hint.as_deref()), at.now).await
        };
        let (url, sent) = match begun.await {
            Ok(begun) => begun,
            Err(strayed) => {
                let refusal = refusal(strayed);
                self.note_refused(at, &wish.client.id, &refusal);
                return Ok(wish.refused(own, &refusal));
            }
        };
        let key = pending_key(sent.state());
        let pending = Pending { wish, browser: browser.digest(), sent, remembered };
        let bytes = serde_json::to_vec(&pending).map_err(|_not_json| Refusal::Bug("a login that is no JSON"))?;
        let value = Value { bytes, until: Some(at.now.plus(LOGIN_MAX)) };
        self.store.put(Place::Pending, &key, value, at.now).await.map_err(unavailable)?;
        let mut response = see(&url);
        browser.name(&mut response.headers);
        Ok(response)
    }

    /// The login that a state belongs to; nobody gets it again.
    pub(super) async fn pending(&self, state: &str, now: Timestamp) -> Result<Pending, Refusal> {
        let taken = self.store.take(Place::Pending, &pending_key(state), now).await.map_err(unavailable)?;
        let taken = taken.ok_or(Refusal::ConsentInvalid("a `state` that is unknown, used or too old"))?;
        serde_json::from_slice(&taken).map_err(|_not_json| unusable("a login"))
    }

    /// What a person agreed to for a client.
    async fn consent(&self, at: &At<'_>, person: &str, client: &str) -> Result<Option<Consent>, Refusal> {
        let key = consent_key(at, person, client);
        let kept = self.store.get(Place::Consent, &key, at.now).await.map_err(unavailable)?;
        // What cannot be read is of another version: the person is asked again.
        Ok(kept.and_then(|kept| understood("a consent", &kept)))
    }

    /// Whether the consent that a login began with is still there at its end.
    pub(super) async fn still_agreed(&self, at: &At<'_>, wish: &Wish, person: &str) -> Result<(), Refusal> {
        let agreed = self.consent(at, person, &wish.client.id).await?;
        if agreed.is_some_and(|agreed| wish.is_covered(&agreed)) { Ok(()) } else { Err(Refusal::ConsentDenied) }
    }

    /// Keeps what a person agreed to.
    pub(super) async fn agree(&self, at: &At<'_>, person: &str, wish: &Wish) -> Result<(), Refusal> {
        let bytes = serde_json::to_vec(&wish.consent(at, person))
            .map_err(|_not_json| Refusal::Bug("a consent that is no JSON"))?;
        let value = Value { bytes, until: Some(at.now.plus(CONSENT_LIFE)) };
        let key = consent_key(at, person, &wish.client.id);
        self.store.put(Place::Consent, &key, value, at.now).await.map_err(unavailable)
    }

    fn sealed<T: Serialize>(&self, value: &T) -> Result<String, Refusal> {
        let text = serde_json::to_vec(value).map_err(|_not_json| Refusal::Bug("a ticket that is no JSON"))?;
        self.sealer.seal(TICKET, text)
    }

    fn opened<T: DeserializeOwned>(&self, text: &str) -> Option<T> {
        serde_json::from_slice(&self.sealer.open(TICKET, text)?).ok()
    }
}

/// Judges what is asked for, once it is known who hears of it.
fn wish_of(estate: &Estate, fields: &Fields, wish: &mut Wish) -> Result<(), Refusal> {
    if wish.state.as_ref().is_some_and(|state| state.len() > STATE_BYTES_MAX) {
        wish.state = None;
        return Err(Refusal::AuthorizationInvalid("`state` is too long"));
    }
    if fields.need("response_type", "`response_type` is missing")? != "code" {
        return Err(Refusal::ResponseTypeUnsupported);
    }
    if fields.get("request").is_some() || fields.get("request_uri").is_some() {
        return Err(Refusal::AuthorizationInvalid("request objects are not served"));
    }
    // RFC 7636 §4.3: without a method it would be `plain`.
    if fields.get("code_challenge_method") != Some("S256") {
        return Err(Refusal::AuthorizationInvalid("PKCE with `code_challenge_method=S256` is needed"));
    }
    let challenge = fields.need("code_challenge", "`code_challenge` is missing")?;
    if !random::is_unguessable(challenge) {
        return Err(Refusal::AuthorizationInvalid("`code_challenge` is not that of S256"));
    }
    challenge.clone_into(&mut wish.challenge);
    // Who takes no proofs does not know the parameter.
    if let (Some(key), Some(_)) = (fields.get("dpop_jkt"), &estate.config.gateway.dpop) {
        if !random::is_unguessable(key) {
            return Err(Refusal::AuthorizationInvalid("`dpop_jkt` is no thumbprint"));
        }
        wish.key = Some(key.to_owned());
    }
    wish.resource = resource(&estate.config, fields.get("resource"))?;
    wish.scopes = scopes(estate, &wish.resource, fields)?;
    Ok(())
}

/// The endpoint that is asked for, by its canonical name (RFC 8707 §2). Clients of MCP 2025-03-26 do not know the
/// parameter; they mean the endpoint that serves everything.
pub(super) fn resource(config: &Config, asked: Option<&str>) -> Result<String, Refusal> {
    let Some(asked) = asked else { return Ok(config.resource(&config::Endpoint::Federated)) };
    let asked = asked.strip_suffix('/').unwrap_or(asked);
    let mut known = endpoints(config).map(|endpoint| config.resource(&endpoint));
    known.find(|name| name == asked).ok_or(Refusal::TargetInvalid)
}

/// The scopes that can be had of those asked for; all where none is (RFC 6749 §3.3).
pub(super) fn scopes(estate: &Estate, resource: &str, fields: &Fields) -> Result<Vec<String>, Refusal> {
    let endpoint = endpoints(&estate.config).find(|endpoint| estate.config.resource(endpoint) == resource);
    let offered = estate.scopes(&endpoint.ok_or(Refusal::TargetInvalid)?);
    let asked = fields.words("scope");
    let given: Vec<String> =
        if asked.is_empty() { offered } else { offered.into_iter().filter(|scope| asked.contains(scope)).collect() };
    Ok(given)
}

fn pending_key(state: &str) -> [u8; 32] {
    name_of("facade state", &[state])
}

/// A person has a name at their provider only.
fn consent_key(at: &At<'_>, person: &str, client: &str) -> [u8; 32] {
    name_of("facade", &[&at.config.provider.issuer, person, client])
}

/// What the answer to the page is sealed for.
const TICKET: &str = "facade ticket";
/// From the page to the end of the login (RA-09: ten minutes at most).
const LOGIN_MAX: Duration = Duration::from_secs(600);
/// How long a person is not asked again.
pub(super) const CONSENT_LIFE: Duration = Duration::from_secs(90 * 24 * 3600);
/// Bytes of a `state`, which is the client's own.
const STATE_BYTES_MAX: usize = 2_048;
/// Bytes of a `login_hint`, which is handed to the provider.
const HINT_BYTES_MAX: usize = 256;
