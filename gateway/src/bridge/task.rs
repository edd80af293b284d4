//! What does a task id of the gateway say?
//!
//! Which task of which upstream, of which call of which tool, for whom, at which endpoint, and until when: sealed, so that
//! it can neither be read nor guessed nor changed, and any replica can follow it. In base64url, because it travels in the
//! header `Mcp-Name` too (spec §2.4, §3.6, RS-37). It does not know whether its bearer may still use the tool.

use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{
    clock::Timestamp, config::Endpoint, digest::sha256, refusal::Refusal, rpc::TASK_ID_BYTES_MAX, state::Sealer,
};

/// A task of an upstream, and what became it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskId {
    /// The upstream's id.
    pub upstream: String,
    /// The upstream's name for the tool.
    pub tool: String,
    /// What the upstream calls the task.
    pub id: String,
    /// The intent of the call.
    pub call: Uuid,
    /// How long after its creation the id is good.
    pub life_ms: u64,
}

/// Whose task, and where it may be asked about.
#[derive(Debug, Clone, Copy)]
pub struct Owner<'a> {
    /// `Identity::principal`.
    pub principal: &'a [u8; 32],
    /// The endpoint of the call.
    pub endpoint: &'a Endpoint,
}

#[derive(Serialize, Deserialize)]
struct Payload {
    principal: String,
    endpoint: String,
    expires_ms: u64,
    task: TaskId,
}

impl Owner<'_> {
    /// Half of each digest is as good as all of it here, and headers are short.
    fn names(&self) -> (String, String) {
        let endpoint = sha256(self.endpoint.path().as_bytes());
        let short = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes.get(..DIGEST_BYTES).unwrap_or(bytes));
        (short(self.principal), short(&endpoint))
    }
}

impl TaskId {
    /// How long the gateway's id for a task is good that its upstream keeps for `ttl_ms`, or for ever.
    #[must_use]
    pub fn life_ms(ttl_ms: Option<u64>) -> u64 {
        let max = u64::try_from(LIFE_MAX.as_millis()).unwrap_or(u64::MAX);
        ttl_ms.unwrap_or(max).min(max)
    }

    /// The id for `owner`, from `now` on.
    ///
    /// # Errors
    /// [`Refusal::UpstreamInvalid`] where it does not fit into a header, [`Refusal::Bug`].
    pub fn seal(self, sealer: &Sealer, owner: &Owner<'_>, now: Timestamp) -> Result<String, Refusal> {
        let (principal, endpoint) = owner.names();
        let expires_ms = now.plus(Duration::from_millis(self.life_ms)).unix_ms();
        let payload = Payload { principal, endpoint, expires_ms, task: self };
        let plain = serde_json::to_vec(&payload).map_err(|_impossible| Refusal::Bug("a task id that is no JSON"))?;
        let text = sealer.seal(PURPOSE, plain)?;
        if text.len() > TASK_ID_BYTES_MAX {
            return Err(Refusal::UpstreamInvalid("a task whose id is too long to be carried".to_owned()));
        }
        Ok(text)
    }

    /// Opens an id that a client sent, and says until when it is good. Somebody else's is the same as none.
    ///
    /// # Errors
    /// [`Refusal::TaskUnknown`].
    pub fn open(sealer: &Sealer, text: &str, owner: &Owner<'_>, now: Timestamp) -> Result<(Self, Timestamp), Refusal> {
        let plain = sealer.open(PURPOSE, text).ok_or(Refusal::TaskUnknown("an id that this gateway did not seal"))?;
        let payload: Payload =
            serde_json::from_slice(&plain).map_err(|_other| Refusal::TaskUnknown("an id of another version"))?;
        let (principal, endpoint) = owner.names();
        if payload.principal != principal {
            return Err(Refusal::TaskUnknown("another principal's task"));
        }
        if payload.endpoint != endpoint {
            return Err(Refusal::TaskUnknown("a task of another endpoint"));
        }
        if now.unix_ms() >= payload.expires_ms {
            return Err(Refusal::TaskUnknown("an id that has expired"));
        }
        Ok((payload.task, Timestamp::from_unix_ms(payload.expires_ms)))
    }
}

/// Names the form of the payload; another form gets another name.
const PURPOSE: &str = "tollgate taskId 1";

/// Of each digest within an id.
const DIGEST_BYTES: usize = 16;

/// Longer than this nobody follows a task, whatever its upstream says.
const LIFE_MAX: Duration = Duration::from_secs(7 * 24 * 60 * 60);

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use uuid::Uuid;

    use super::{Owner, TaskId};
    use crate::{
        clock::Timestamp,
        config::{Endpoint, State, UpstreamId},
        refusal::Refusal,
        state::Sealer,
    };

    #[test]
    fn an_id_is_good_for_its_owner_its_endpoint_and_its_time_only() {
        let (sealer, now) = (Sealer::new(&State::default()).unwrap(), Timestamp::from_unix_seconds(1_000));
        let task = TaskId {
            upstream: "crm".to_owned(),
            tool: "export".to_owned(),
            id: "é 1".repeat(100),
            call: Uuid::nil(),
            life_ms: 60_000,
        };
        let own = Owner { principal: &[1; 32], endpoint: &Endpoint::Federated };
        let text = task.clone().seal(&sealer, &own, now).unwrap();
        assert!(text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte)), "header-safe: {text}");
        let open = |owner: Owner<'_>, text: &str, seconds| {
            TaskId::open(&sealer, text, &owner, now.plus(Duration::from_secs(seconds)))
        };
        assert_eq!(open(own, &text, 59).unwrap(), (task, now.plus(Duration::from_secs(60))));
        let crm = Endpoint::Upstream(UpstreamId::parse("crm").unwrap());
        for (owner, text, seconds) in [
            (own, text.as_str(), 60),
            (Owner { principal: &[2; 32], ..own }, &text, 1),
            (Owner { endpoint: &crm, ..own }, &text, 1),
            (own, "export-1", 1),
            (own, text.get(1..).unwrap(), 1),
        ] {
            let refusal = open(owner, text, seconds).unwrap_err();
            assert!(matches!(refusal, Refusal::TaskUnknown(_)), "{refusal:?}");
            assert_eq!(refusal.outside(crate::refusal::Era::Modern).message, "unknown task");
        }
    }

    #[test]
    fn nobody_follows_a_task_for_ever() {
        assert_eq!(TaskId::life_ms(Some(5)), 5);
        assert_eq!(TaskId::life_ms(None), 604_800_000);
        assert_eq!(TaskId::life_ms(Some(u64::MAX)), 604_800_000);
    }
}
