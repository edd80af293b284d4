//! How does a person log in at the identity provider?
//!
//! The gateway is a client there: authorization code with PKCE (RFC 7636), `state` and `nonce`, and the answer's `iss`
//! checked (RFC 9207). The ID token is verified by `identity`, with the issuer's keys. It knows nothing of the gateway's
//! own clients.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{
    Request,
    header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE},
};
use serde_json::{Map, Value};
use tokio::sync::Mutex;
use url::{Url, form_urlencoded::Serializer};
use zeroize::Zeroizing;

use super::{form::Fields, secrets};
use crate::{
    clock::{self, Timestamp},
    config::{self, OAuthClient},
    egress::{Bounds, Client, Trust},
    identity::{Authenticator, Vouched},
    prover::Prover,
    refusal::Refusal,
};

/// The way to the provider; one reading of its metadata at a time.
#[derive(Debug)]
pub(super) struct Provider {
    known: Mutex<Option<Known>>,
    /// Dials what its metadata name at another origin than its own, by the rules of `[egress]`.
    outside: Client,
}

#[derive(Debug)]
struct Known {
    issuer: String,
    client: OAuthClient,
    until: Timestamp,
    places: Result<Arc<Places>, String>,
}

/// Where the provider is asked what.
#[derive(Debug)]
pub(super) struct Places {
    authorization: Url,
    token: Url,
    /// Whether its answers say `iss` (RFC 9207 §3).
    says_issuer: bool,
    client: Client,
    prover: Prover,
}

/// A login that has begun: what the answer has to fit.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
pub(super) struct Begun {
    nonce: String,
    verifier: String,
    issuer: String,
}

/// A login that has succeeded.
pub(super) struct Done {
    pub(super) person: Vouched,
    pub(super) id_token: Zeroizing<String>,
    pub(super) refresh_token: Option<Zeroizing<String>>,
}

impl Provider {
    /// # Errors
    /// What of `[egress]` cannot be used.
    pub(super) fn new(egress: &config::Egress) -> Result<Self, String> {
        let outside = Client::outside(egress).map_err(|error| format!("egress: {error}"))?;
        Ok(Self { known: Mutex::new(None), outside })
    }

    /// What the provider says of itself, as it did a moment ago or now.
    pub(super) async fn places(
        &self,
        config: &config::Facade,
        identity: &Authenticator,
        now: Timestamp,
    ) -> Result<Arc<Places>, Refusal> {
        let issuer = config.provider.issuer.as_str();
        let mut known = self.known.lock().await;
        let same = |known: &&Known| known.issuer == issuer && known.client == config.client;
        let fresh = known.as_ref().filter(same).filter(|known| now < known.until);
        let places = match fresh {
            Some(known) => known.places.clone(),
            None => {
                let began = clock::instant();
                let read = identity.metadata(issuer).await;
                let read = read.and_then(|read| places(&read, config, &self.outside).map(Arc::new));
                // Of a provider that hangs, those who have waited for the failure are told of it.
                let after = now.plus(clock::instant().duration_since(began));
                let until = after.plus(if read.is_ok() { BELIEVED_FOR } else { NOT_ASKED_FOR });
                *known = Some(Known {
                    issuer: issuer.to_owned(),
                    client: config.client.clone(),
                    until,
                    places: read.clone(),
                });
                read
            }
        };
        places.map_err(Refusal::LoginUnavailable)
    }
}

impl Places {
    /// Begins a login: the page of the provider, and what its answer has to fit. `state` brings it back.
    pub(super) fn begin(
        &self,
        config: &config::Facade,
        state: &str,
        hint: Option<&str>,
    ) -> Result<(Url, Begun), Refusal> {
        let issuer = config.provider.issuer.clone();
        let begun = Begun { nonce: secrets::random()?, verifier: secrets::random()?, issuer };
        let mut page = self.authorization.clone();
        page.query_pairs_mut()
            .append_pair("response_type", "code")
            .append_pair("client_id", &config.client.id)
            .append_pair("redirect_uri", &callback(config))
            .append_pair("scope", &config.login_scopes.join(" "))
            .append_pair("state", state)
            .append_pair("nonce", &begun.nonce)
            .append_pair("code_challenge", &secrets::hashed(&begun.verifier))
            .append_pair("code_challenge_method", "S256")
            .extend_pairs(hint.map(|hint| ("login_hint", hint)));
        Ok((page, begun))
    }

    /// Ends a login with the provider's answer.
    pub(super) async fn finish(
        &self,
        config: &config::Facade,
        identity: &Authenticator,
        (begun, answer): (&Begun, &Fields),
        now: Timestamp,
    ) -> Result<Done, Refusal> {
        self.judge_issuer(config, begun, answer)?;
        if let Some(error) = answer.get("error") {
            return Err(failed(format!("the provider says `{}`", word(error))));
        }
        let code = answer.get("code").ok_or_else(|| failed("the provider gave no code".to_owned()))?;
        let given = self.redeem(config, (code, &begun.verifier), now).await?;
        let text = |member: &str| given.get(member).and_then(Value::as_str).map(|text| Zeroizing::new(text.to_owned()));
        let id_token = text("id_token").ok_or_else(|| failed("the provider gave no ID token".to_owned()))?;
        let person = identity.vouched(&id_token, "JWT", &config.client.id, now).await.map_err(|refusal| {
            if let Refusal::IdentityUnavailable(why) = refusal {
                return Refusal::LoginUnavailable(why);
            }
            failed(format!("the ID token: {}", refusal.inside()))
        })?;
        let says = |claim: &str| person.claims.get(claim).and_then(Value::as_str);
        if person.issuer != config.provider.issuer {
            return Err(failed("the ID token is another issuer's".to_owned()));
        }
        // OpenID Connect Core §3.1.3.7: the answer to this login, and for nobody else.
        if !says("nonce").is_some_and(|nonce| secrets::same(nonce, &begun.nonce)) {
            return Err(failed("the ID token has another nonce".to_owned()));
        }
        let alone = person.claims.get("aud").is_some_and(|aud| aud.as_array().is_none_or(|all| all.len() == 1));
        if says("azp").map_or(!alone, |party| party != config.client.id) {
            return Err(failed("the ID token is for another party".to_owned()));
        }
        Ok(Done { refresh_token: text("refresh_token"), id_token, person })
    }

    /// RFC 9207 §2.4: an answer of another server is a mix-up.
    fn judge_issuer(&self, config: &config::Facade, begun: &Begun, answer: &Fields) -> Result<(), Refusal> {
        if begun.issuer != config.provider.issuer {
            return Err(failed("another provider is in force since this login began".to_owned()));
        }
        match answer.get("iss") {
            Some(issuer) if issuer == begun.issuer => Ok(()),
            Some(issuer) => Err(failed(format!("the answer is from `{}`", word(issuer)))),
            None if self.says_issuer => Err(failed("the answer does not say from whom it is".to_owned())),
            None => Ok(()),
        }
    }

    /// RFC 6749 §4.1.3.
    async fn redeem(
        &self,
        config: &config::Facade,
        (code, verifier): (&str, &str),
        now: Timestamp,
    ) -> Result<Map<String, Value>, Refusal> {
        let request = self.request(config, (code, verifier), now).await?;
        let answer = self.client.fetch(request, BOUNDS).await;
        let answer = answer.map_err(|error| Refusal::LoginUnavailable(error.to_string()))?;
        match answer.status().as_u16() {
            // What is no answer is no word about the person.
            200 => serde_json::from_slice(answer.body())
                .map_err(|_not_json| Refusal::LoginUnavailable("no JSON from the provider".to_owned())),
            status @ 400..=499 => Err(failed(format!("the token endpoint answered {status}"))),
            status => Err(Refusal::LoginUnavailable(format!("the token endpoint answered {status}"))),
        }
    }

    async fn request(
        &self,
        config: &config::Facade,
        (code, verifier): (&str, &str),
        now: Timestamp,
    ) -> Result<Request<Bytes>, Refusal> {
        let assertion = self.prover.assertion(now).await.map_err(failed)?;
        let mut form = Serializer::new(String::new());
        form.append_pair("grant_type", "authorization_code")
            .append_pair("code", code)
            .append_pair("redirect_uri", &callback(config))
            .append_pair("code_verifier", verifier);
        let mut request = Request::post(self.token.as_str())
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
            .header(ACCEPT, "application/json");
        if let Some(value) = self.prover.header().map_err(failed)? {
            request = request.header(AUTHORIZATION, value);
        }
        self.prover.fill(&mut form, assertion.as_deref().map(String::as_str));
        let body = Bytes::from_owner(Zeroizing::new(form.finish().into_bytes()));
        request.body(body).map_err(|error| failed(error.to_string()))
    }
}

fn places(read: &Map<String, Value>, config: &config::Facade, outside: &Client) -> Result<Places, String> {
    let place = |member: &'static str| {
        let url: Url = read.get(member).and_then(Value::as_str).and_then(|text| text.parse().ok()).ok_or(member)?;
        // A remote provider must not be able to send a secret in clear to this machine.
        let safe = url.scheme() == "https" || config.provider.issuer.starts_with("http:");
        if safe { Ok(url) } else { Err(member) }
    };
    let prover = Prover::new(&config.client)?;
    let client_certificate = prover.certificate().cloned();
    let trust = Trust { ca: config.provider.ca.clone(), client_certificate, ..Trust::default() };
    let client = Client::new(&trust).map_err(|error| error.to_string())?;
    let unusable = |member: &'static str| format!("metadata of the provider: no usable `{member}`");
    let token = place("token_endpoint").map_err(unusable)?;
    let own = config.provider.issuer.parse::<Url>().is_ok_and(|own| own.origin() == token.origin());
    Ok(Places {
        authorization: place("authorization_endpoint").map_err(unusable)?,
        token,
        says_issuer: read.get("authorization_response_iss_parameter_supported") == Some(&Value::Bool(true)),
        client: if own { client } else { outside.clone() },
        prover,
    })
}

/// Where the provider sends people back to.
fn callback(config: &config::Facade) -> String {
    format!("{}/callback", config.own.issuer)
}

fn failed(why: String) -> Refusal {
    Refusal::LoginFailed(why)
}

/// A stranger's word, for the journal.
fn word(text: &str) -> String {
    text.chars().filter(|c| c.is_ascii_graphic()).take(64).collect()
}

/// An answer of the provider is a few tokens.
const BOUNDS: Bounds = Bounds { deadline: Duration::from_secs(5), bytes_max: 256 * 1024 };
/// How long its metadata are believed.
const BELIEVED_FOR: Duration = Duration::from_secs(300);
/// How long it is not asked again after it did not answer.
const NOT_ASKED_FOR: Duration = Duration::from_secs(5);
