//! How is a token endpoint asked?
//!
//! Builds the two requests that the gateway makes of an authorization server (RFC 8693 §2.1, RFC 6749 §4.4.2), and sends
//! them under bounds. It does not judge the answer, nor keep it.

use std::sync::atomic::{AtomicU64, Ordering};

use aws_lc_rs::digest::{SHA256, digest};
use bytes::Bytes;
use http::{
    Method, Request, Response,
    header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE},
};
use tokio::sync::Semaphore;
use url::form_urlencoded::Serializer;
use zeroize::Zeroizing;

use super::{
    ANSWER_BYTES_MAX, ENDPOINT_DEADLINE, REQUESTS_AT_ONCE_MAX, UNREACHABLE_FOR,
    answer::{self, ACCESS_TOKEN, Asked, Fault, Token},
};
use crate::{
    clock::{self, Timestamp},
    config::TokenRequest,
    egress::{Bounds, Client, EgressError, Trust},
    prover::Prover,
    secret::Secret,
};

/// One upstream's way to one token endpoint.
#[derive(Debug)]
pub(super) struct Endpoint {
    /// What is asked there.
    pub(super) request: TokenRequest,
    /// SHA-256 over all of `request` that tells one credential from another.
    pub(super) digest: [u8; 32],
    client: Client,
    prover: Prover,
    /// A hanging endpoint holds so many connections and no more.
    places: Semaphore,
    /// Until then, in Unix milliseconds, nobody dials: the endpoint could not be reached a moment ago.
    closed_until: AtomicU64,
}

/// In whose name a token is asked for.
#[derive(Debug)]
pub(super) enum Order {
    /// RFC 8693: the user's, with the gateway as the actor where there is an actor token.
    Exchange { subject: Secret, actor: Option<Secret> },
    /// RFC 6749 §4.4: the gateway's own, for the upstream.
    Own,
    /// RFC 6749 §4.4: the gateway's own, to say who acts.
    Actor,
}

impl Endpoint {
    /// # Errors
    /// A text that says what of `request` cannot be used.
    pub(super) fn new(request: &TokenRequest) -> Result<Self, String> {
        let trust = Trust { ca: request.ca.clone(), ..Trust::default() };
        let client = Client::new(&trust).map_err(|error| error.to_string())?;
        let mut request = request.clone();
        request.scopes.sort_unstable();
        request.scopes.dedup();
        Ok(Self {
            digest: digest_of(&request),
            prover: Prover::new(&request.client)?,
            request,
            client,
            places: Semaphore::new(REQUESTS_AT_ONCE_MAX),
            closed_until: AtomicU64::new(0),
        })
    }

    /// Asks for a token with `scopes`, sorted.
    pub(super) async fn ask(&self, order: &Order, scopes: &[String], now: Timestamp) -> Result<Token, Fault> {
        if now.unix_ms() < self.closed_until.load(Ordering::Relaxed) {
            return Err(Fault::Unusable("unreachable a moment ago".to_owned()));
        }
        let request = self.written(order, scopes, now)?;
        let place = tokio::time::timeout(ENDPOINT_DEADLINE, self.places.acquire()).await;
        let Ok(Ok(_place)) = place else {
            return Err(Fault::Unusable("too many requests under way to this endpoint".to_owned()));
        };
        let bounds = Bounds { deadline: ENDPOINT_DEADLINE, bytes_max: ANSWER_BYTES_MAX };
        let began = clock::instant();
        let answered = self.client.fetch(request, bounds).await;
        let after = now.plus(clock::instant().duration_since(began));
        let response = answered.map_err(|error| self.unanswered(&error, after))?;
        self.judged(&response, order, scopes)
    }

    fn judged(&self, response: &Response<Bytes>, order: &Order, scopes: &[String]) -> Result<Token, Fault> {
        let mut sent: Vec<&Secret> = Vec::with_capacity(3);
        if let Order::Exchange { subject, actor } = order {
            sent.push(subject);
            sent.extend(actor.as_ref());
        }
        sent.extend(self.prover.secret());
        answer::read(response, &Asked { scopes, sent: &sent })
    }

    fn unanswered(&self, error: &EgressError, now: Timestamp) -> Fault {
        if matches!(error, EgressError::Unreachable(_)) {
            self.closed_until.fetch_max(now.plus(UNREACHABLE_FOR).unix_ms(), Ordering::Relaxed);
        }
        Fault::Unusable(error.to_string())
    }

    fn written(&self, order: &Order, scopes: &[String], now: Timestamp) -> Result<Request<Bytes>, Fault> {
        let mut request = Request::builder()
            .method(Method::POST)
            .uri(self.request.token_endpoint.as_str())
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
            .header(ACCEPT, "application/json");
        if let Some(value) = self.prover.header().map_err(Fault::Unusable)? {
            request = request.header(AUTHORIZATION, value);
        }
        let form = self.form(order, scopes, now)?;
        // The body holds the caller's token: it is wiped when the request has gone.
        let body = Bytes::from_owner(Zeroizing::new(form.into_bytes()));
        request.body(body).map_err(|error| Fault::Unusable(error.to_string()))
    }

    fn form(&self, order: &Order, scopes: &[String], now: Timestamp) -> Result<String, Fault> {
        let mut form = Serializer::new(String::with_capacity(FORM_BYTES));
        match order {
            Order::Exchange { subject, actor } => {
                form.append_pair("grant_type", "urn:ietf:params:oauth:grant-type:token-exchange")
                    .append_pair("subject_token", subject.expose())
                    .append_pair("subject_token_type", ACCESS_TOKEN);
                if let Some(actor) = actor {
                    form.append_pair("actor_token", actor.expose()).append_pair("actor_token_type", ACCESS_TOKEN);
                }
                form.append_pair("requested_token_type", ACCESS_TOKEN);
            }
            Order::Own | Order::Actor => {
                form.append_pair("grant_type", "client_credentials");
            }
        }
        // An actor token names the gateway to the authorization server; it is not for the upstream.
        if !matches!(order, Order::Actor) {
            if let Some(resource) = &self.request.resource {
                form.append_pair("resource", resource.as_str());
            }
            if let Some(audience) = &self.request.audience {
                form.append_pair("audience", audience);
            }
        }
        if !scopes.is_empty() {
            form.append_pair("scope", &scopes.join(" "));
        }
        self.prover.fill(&mut form, now).map_err(Fault::Unusable)?;
        Ok(form.finish())
    }
}

/// Every part with its length before it, so that no two requests run into the same bytes.
fn digest_of(request: &TokenRequest) -> [u8; 32] {
    let mut text = Vec::with_capacity(512);
    let resource = request.resource.as_ref().map(url::Url::as_str);
    for part in [Some(request.token_endpoint.as_str()), Some(&request.client.id), request.audience.as_deref(), resource]
    {
        // Absent and empty are different answers to "for whom".
        text.push(u8::from(part.is_some()));
        append(&mut text, part.unwrap_or_default().as_bytes());
    }
    text.push(u8::from(request.actor));
    for scope in &request.scopes {
        append(&mut text, scope.as_bytes());
    }
    sha256(&text)
}

/// Length, then bytes.
pub(super) fn append(text: &mut Vec<u8>, part: &[u8]) {
    text.extend_from_slice(&u64::try_from(part.len()).unwrap_or(u64::MAX).to_le_bytes());
    text.extend_from_slice(part);
}

pub(super) fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    for (to, from) in out.iter_mut().zip(digest(&SHA256, bytes).as_ref()) {
        *to = *from;
    }
    out
}

/// Room for a form with a token of ordinary size: a form that grows leaves copies of itself behind.
const FORM_BYTES: usize = 8 * 1024;
