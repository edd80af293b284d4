//! What does a `requestState` of the gateway say?
//!
//! What a modern client carries from an `input_required` to its retry, sealed so that it can neither be read nor changed
//! (RS-31, spec §3.8): for whom, for which request, until when, which answers are expected, and where they go. It is
//! bound to the principal, to the endpoint, to the upstream, and to the request's method and parameters.

use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{clock::Timestamp, config::Endpoint, digest, refusal::Refusal, state::Sealer};

/// What goes on when the client comes back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Continuation {
    /// The first intent of the call.
    pub call: Uuid,
    /// Which round of asking this is, from 1.
    pub round: u32,
    /// The answers that are expected: the key, and `inspect::asks::Kind` as a word.
    pub asked: Vec<(String, String)>,
    /// Where they go.
    pub to: To,
}

/// Where answers go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum To {
    /// To a modern upstream, with its own state as JSON text, where it gave one.
    Upstream(Option<String>),
    /// To a call that is held here.
    Hold(Uuid),
    /// To a task that the gateway follows for the client: the upstream's id of it, and what was answered before. What is
    /// answered may still be asked for a while (ext-tasks, Task Update Requests).
    Task {
        /// The upstream's id.
        id: String,
        /// The keys.
        answered: Vec<String>,
    },
    /// Nowhere: the call is made again (error -32042 of a legacy upstream).
    Again,
}

/// Whose, and which request.
#[derive(Debug, Clone, Copy)]
pub struct Binding<'a> {
    /// `Identity::principal`.
    pub principal: &'a [u8; 32],
    /// The endpoint of the request.
    pub endpoint: &'a Endpoint,
    /// The upstream's id.
    pub upstream: &'a str,
    /// `Call::repeated`.
    pub request: &'a [u8],
}

#[derive(Serialize, Deserialize)]
struct Payload {
    principal: String,
    request: String,
    expires_ms: u64,
    continuation: Continuation,
}

impl Binding<'_> {
    fn principal(&self) -> String {
        URL_SAFE_NO_PAD.encode(self.principal)
    }

    fn request(&self) -> String {
        let named = [self.endpoint.path().as_bytes(), b"\n", self.upstream.as_bytes(), b"\n", self.request].concat();
        digest::base64(named)
    }
}

impl Continuation {
    /// Seals it for `binding`, to be used within `life`.
    ///
    /// # Errors
    /// [`Refusal::InputRoundsExceeded`] where the upstream asked often enough; [`Refusal::Bug`].
    pub fn seal(
        self,
        sealer: &Sealer,
        binding: &Binding<'_>,
        now: Timestamp,
        life: Duration,
    ) -> Result<String, Refusal> {
        if self.round > ROUNDS_MAX {
            return Err(Refusal::InputRoundsExceeded);
        }
        let payload = Payload {
            principal: binding.principal(),
            request: binding.request(),
            expires_ms: now.plus(life.min(LIFE_MAX)).unix_ms(),
            continuation: self,
        };
        let plain = serde_json::to_vec(&payload).map_err(|_impossible| Refusal::Bug("a state that is no JSON"))?;
        sealer.seal(PURPOSE, plain)
    }

    /// Opens a state that a client sent. Another principal's is the same as none.
    ///
    /// # Errors
    /// [`Refusal::RequestStateInvalid`], [`Refusal::RequestStateExpired`], [`Refusal::RequestStateMismatch`].
    pub fn open(sealer: &Sealer, text: &str, binding: &Binding<'_>, now: Timestamp) -> Result<Self, Refusal> {
        let plain = sealer.open(PURPOSE, text).ok_or(Refusal::RequestStateInvalid("not sealed by this gateway"))?;
        let payload: Payload =
            serde_json::from_slice(&plain).map_err(|_other| Refusal::RequestStateInvalid("of another version"))?;
        if payload.principal != binding.principal() {
            return Err(Refusal::RequestStateInvalid("of another principal"));
        }
        if now.unix_ms() >= payload.expires_ms {
            return Err(Refusal::RequestStateExpired);
        }
        if payload.request != binding.request() {
            return Err(Refusal::RequestStateMismatch);
        }
        Ok(payload.continuation)
    }
}

/// Names the form of the payload; another form gets another name.
const PURPOSE: &str = "tollgate requestState 1";

/// A person answers within this, or makes the call again.
const LIFE_MAX: Duration = Duration::from_secs(600);

/// How often one call may ask.
pub const ROUNDS_MAX: u32 = 16;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use uuid::Uuid;

    use super::{Binding, Continuation, To};
    use crate::{
        clock::Timestamp,
        config::{Endpoint, State, UpstreamId},
        refusal::Refusal,
        state::Sealer,
    };

    fn continuation() -> Continuation {
        let asked = vec![("name".to_owned(), "form".to_owned())];
        Continuation { call: Uuid::nil(), round: 1, asked, to: To::Upstream(Some(r#""a\u0062""#.to_owned())) }
    }

    const BINDING: Binding<'_> =
        Binding { principal: &[1; 32], endpoint: &Endpoint::Federated, upstream: "crm", request: b"tools/call" };

    #[test]
    fn a_state_is_good_for_its_principal_its_endpoint_its_request_and_its_time_only() {
        let (sealer, now) = (Sealer::new(&State::default()).unwrap(), Timestamp::from_unix_seconds(1_000));
        let text = continuation().seal(&sealer, &BINDING, now, Duration::from_secs(3_600)).unwrap();
        let open = |binding: Binding<'_>, seconds| {
            Continuation::open(&sealer, &text, &binding, now.plus(Duration::from_secs(seconds)))
        };
        assert_eq!(open(BINDING, 599).unwrap(), continuation());
        assert_eq!(open(BINDING, 600).unwrap_err(), Refusal::RequestStateExpired);
        let code = |opened: Result<_, Refusal>| opened.unwrap_err().code();
        assert_eq!(code(open(Binding { principal: &[2; 32], ..BINDING }, 1)), "request_state_invalid");
        assert_eq!(
            code(open(Binding { upstream: "cr", request: b"m\ntools/call", ..BINDING }, 1)),
            "request_state_mismatch"
        );
        let own = Endpoint::Upstream(UpstreamId::parse("crm").unwrap());
        assert_eq!(code(open(Binding { endpoint: &own, ..BINDING }, 1)), "request_state_mismatch");
        assert_eq!(code(open(Binding { upstream: "notes", ..BINDING }, 1)), "request_state_mismatch");
        assert_eq!(code(open(Binding { request: b"tools/list", ..BINDING }, 1)), "request_state_mismatch");
    }

    #[test]
    fn an_upstream_that_asks_without_end_is_stopped() {
        let sealer = Sealer::new(&State::default()).unwrap();
        let many = Continuation { round: super::ROUNDS_MAX + 1, ..continuation() };
        let sealed = many.seal(&sealer, &BINDING, Timestamp::from_unix_seconds(1_000), Duration::from_secs(60));
        assert_eq!(sealed.unwrap_err(), Refusal::InputRoundsExceeded);
    }
}
