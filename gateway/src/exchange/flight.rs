//! How does one credential come about?
//!
//! One question to a token endpoint, or two where what the first gives is an assertion for another server; and what is kept of
//! the answer. It does not know who waits for it; [`super::flights`] does.

use std::sync::Arc;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};

use super::{
    answer::Token,
    endpoint::{Endpoint, Order},
    flights::Flights,
    grant::{Facts, Minted, Witness},
    proof::ProofKey,
    unusable, usable_for,
};
use crate::{clock::Timestamp, identity::strict, refusal::Refusal, secret::Secret};

/// One credential on its way, with all that it needs to go on without whoever asked for it.
pub(super) struct Flight {
    flights: Arc<Flights>,
    witness: Witness,
    endpoint: Arc<Endpoint>,
    order: Order,
    scopes: Vec<String>,
    /// Where what `endpoint` gives is redeemed, where it is no access token.
    redeemed_at: Option<Arc<Endpoint>>,
}

impl Flight {
    pub(super) fn new(
        (flights, witness): (&Arc<Flights>, Witness),
        endpoint: &Arc<Endpoint>,
        order: Order,
        scopes: &[String],
    ) -> Self {
        let scopes = if matches!(order, Order::Actor) {
            // The actor token says who, not what for.
            Vec::new()
        } else {
            let mut all = [endpoint.request.scopes.as_slice(), scopes].concat();
            all.sort_unstable();
            all.dedup();
            all
        };
        Self { flights: Arc::clone(flights), witness, endpoint: Arc::clone(endpoint), order, scopes, redeemed_at: None }
    }

    /// What is given is an assertion, which `server` redeems.
    pub(super) fn redeemed_at(self, server: &Arc<Endpoint>) -> Self {
        Self { redeemed_at: Some(Arc::clone(server)), ..self }
    }

    pub(super) async fn fly(self, subject_ends: Option<Timestamp>, now: Timestamp) -> Result<Arc<Minted>, Refusal> {
        let asked = |fault| unusable(&self.endpoint, fault);
        let token = match &self.redeemed_at {
            None => self.endpoint.ask(&self.order, &self.scopes, now).await.map_err(asked)?,
            Some(server) => {
                let fits = server.takes_assertions(now).await;
                fits.map_err(|fault| unusable(server, fault))?;
                let assertion = self.endpoint.ask(&self.order, &self.scopes, now).await.map_err(asked)?;
                let scopes = assertion.scopes.clone();
                let facts = Facts { strategy: "assertion", scopes, ..Facts::of(&self.endpoint, &assertion.value) };
                self.witness.sees(&facts)?;
                meant_for(&assertion.value, &self.endpoint, server).map_err(|why| {
                    Refusal::GrantUnavailable(format!("{}: the assertion {why}", self.endpoint.request.at))
                })?;
                // Shown once, to the one server that it is for, and forgotten: what is kept is what comes of it.
                let order = Order::Redemption { assertion: assertion.value };
                let redeemed = server.ask(&order, &assertion.scopes, now).await;
                redeemed.map_err(|fault| unusable(server, fault))?
            }
        };
        // Before anything else may fail: no credential is minted without a trace.
        let facts = self.facts(&token);
        self.witness.sees(&facts)?;
        let by = self.redeemed_at.as_ref().unwrap_or(&self.endpoint);
        let prover = by.prover(&self.order_of_token(), now).await.map_err(|fault| unusable(by, fault))?;
        self.minted((token, facts), prover, subject_ends, now).map(Arc::new)
    }

    /// What the token that goes up was asked for by.
    fn order_of_token(&self) -> Order {
        if matches!(self.order, Order::Actor) { Order::Actor } else { Order::Own }
    }

    fn facts(&self, token: &Token) -> Facts {
        let strategy = match self.order {
            Order::Actor => {
                // It was asked for without either.
                let facts = Facts { audience: None, resource: None, ..Facts::of(&self.endpoint, &token.value) };
                return Facts { strategy: "actor", scopes: token.scopes.clone(), ..facts };
            }
            Order::Exchange { .. } => "exchange",
            Order::Assertion { .. } => "id_jag",
            Order::Own if self.endpoint.is_workload() => "workload_grant",
            Order::Own | Order::Redemption { .. } | Order::Code(_) | Order::Login(_) | Order::Refresh { .. } => {
                "client_credentials"
            }
        };
        Facts { strategy, scopes: token.scopes.clone(), ..Facts::of(&self.endpoint, &token.value) }
    }

    /// Life counts from before the request went out, so that a slow answer cannot lengthen it.
    fn minted(
        &self,
        (token, facts): (Token, Facts),
        prover: Option<Arc<ProofKey>>,
        subject_ends: Option<Timestamp>,
        now: Timestamp,
    ) -> Result<Minted, Refusal> {
        let own_end = now.plus(token.life);
        let ends = subject_ends.map_or(own_end, |subject| subject.min(own_end));
        let minted = Minted::of(&token.value, prover, facts, self.flights.generation())?;
        Ok(minted.until(ends, now.plus(usable_for(ends.since(now)))))
    }
}

/// An assertion is made out to one server, one client and one resource; another's is never shown to this one. It is not
/// verified here: the server does that.
fn meant_for(assertion: &Secret, provider: &Endpoint, server: &Endpoint) -> Result<(), &'static str> {
    let claims = assertion.expose().split('.').nth(1).and_then(|part| URL_SAFE_NO_PAD.decode(part).ok());
    let claims = claims.and_then(|text| strict::object(&text)).ok_or("is not a JWT")?;
    let text = |name: &str| claims.get(name).and_then(serde_json::Value::as_str);
    let audience = match claims.get("aud") {
        Some(serde_json::Value::Array(all)) if all.len() == 1 => all.first().and_then(serde_json::Value::as_str),
        _ => text("aud"),
    };
    if audience != provider.request.audience.as_deref() {
        return Err("is made out to another server");
    }
    if text("client_id") != Some(&server.request.client.id) {
        return Err("is made out to another client");
    }
    let named = match claims.get("resource") {
        None => return Ok(()),
        Some(serde_json::Value::Array(all)) if all.len() == 1 => all.first().and_then(serde_json::Value::as_str),
        Some(_) => text("resource"),
    };
    if named == provider.request.resource.as_deref() { Ok(()) } else { Err("is for another resource") }
}
