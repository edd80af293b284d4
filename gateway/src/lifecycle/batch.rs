//! How does a batch of 2025-03-26 pass through?
//!
//! Each message as if it had come by itself, in the order of the batch, with a record and a judgement of its own. Who
//! asks was proven once, for the request that holds them all; a batch may outlast that proof, and the configuration.
//! It reads no message; `rpc` does.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderValue, header::ACCEPT};

use super::{Body, Estate, Gateway, Head, Response, respond, trail::Trail};
use crate::{
    clock::Timestamp,
    identity::{Caller, Identity},
    refusal::{Era, Refusal, TokenFault},
    rpc::batch::{self, Item},
};

impl Gateway {
    /// One after the other, so that a batch takes the room of one call, and what it writes first it reads afterwards.
    pub(super) async fn batch(
        &self,
        estate: &Arc<Estate>,
        head: &Head,
        caller: &Caller,
        body: Bytes,
    ) -> Result<Response, Refusal> {
        let items = batch::items(body, &estate.config.limits)?;
        // The answers go back as one array, which leaves no place for a stream and for progress.
        let mut head = head.clone();
        head.headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        let (mut answers, mut bytes) = (Vec::new(), 0_usize);
        for item in items {
            let room = bytes <= estate.config.limits.reply_bytes_max;
            let answer = match self.item(&head, caller, item, room).await {
                Body::Whole(answer) => answer,
                Body::Led(own, shared) => Bytes::from([own, shared].concat()),
                // A notification, or a call that was taken back.
                Body::Empty => continue,
                Body::Stream(_) => return Err(Refusal::Bug("a stream inside a batch")),
            };
            bytes = bytes.saturating_add(answer.len());
            answers.push(answer);
        }
        Ok(if answers.is_empty() { respond::accepted() } else { respond::array(&answers) })
    }

    async fn item(&self, head: &Head, caller: &Caller, item: Item, room: bool) -> Body {
        let estate = self.estate();
        let mut trail = Trail::new(head);
        trail.identity = Some(Arc::clone(caller.identity()));
        (trail.era, trail.request_id) = (Some(Era::Legacy), item.id);
        let may = if room { is_good(&estate, caller.identity(), trail.now) } else { Err(NO_ROOM) };
        let answered = match may {
            Ok(()) => Box::pin(self.message((&estate, head), caller.clone(), item.text, &mut trail)).await,
            Err(refusal) => Err(refusal),
        };
        answered.unwrap_or_else(|refusal| self.refused(&estate, &trail, &refusal)).body
    }
}

/// Whether the credential is still good that the whole batch came under.
fn is_good(estate: &Estate, identity: &Identity, now: Timestamp) -> Result<(), Refusal> {
    let leeway = estate.identity.leeway(identity).ok_or(Refusal::TokenInvalid(TokenFault::IssuerUnknown))?;
    estate.revocations.admit(identity).map_err(|revoked| revoked.refusal())?;
    if now < identity.authentication.expires_at.plus(leeway) {
        Ok(())
    } else {
        Err(Refusal::TokenInvalid(TokenFault::Expired))
    }
}

const NO_ROOM: Refusal = Refusal::Overloaded("answers of one batch");
