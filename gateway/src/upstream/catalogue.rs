//! What does an upstream say of itself?
//!
//! Finds out the era (RC-10) and reads the tools, with the gateway's own credential. It publishes nothing.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::StatusCode;

use super::{
    Messages, Peer, Spoken, newest,
    session::Key,
    status_refusal,
    transport::{Answered, Outgoing},
};
use crate::{
    catalog::ToolDefinition,
    exchange::Grant,
    refusal::{Era, Refusal},
    rpc::{self, outbound, reply},
};

/// One reading of an upstream's tools.
#[derive(Debug)]
pub struct Read {
    /// The tools that can be served.
    pub tools: Vec<Arc<ToolDefinition>>,
    /// Tools that cannot: name or position, and why (RC-05).
    pub withheld: Vec<(String, String)>,
    /// How long the upstream vouches for this.
    pub ttl: Option<Duration>,
}

impl Peer {
    /// What the upstream speaks; asked once, with `server/discover` only, and remembered.
    pub(super) async fn detect(&self, grant: &Grant) -> Result<Spoken, Refusal> {
        if let Some(spoken) = self.spoken() {
            return Ok(spoken);
        }
        let spoken = self.probe(grant).await?;
        self.spoken.store(Some(Arc::new(spoken)));
        Ok(spoken)
    }

    /// Forgets what the upstream speaks, where that was found out and not configured.
    pub fn doubt(&self) {
        if self.settings.era.is_none() {
            self.spoken.store(None);
        }
    }

    async fn probe(&self, grant: &Grant) -> Result<Spoken, Refusal> {
        let id = self.next_id();
        let version = newest(Era::Modern);
        let (body, headers) = outbound::discover(id, version);
        let outgoing = Outgoing { body, version: Some(version), session: None, headers };
        let mut answered = self.exchange(grant, outgoing).await?;
        if matches!(answered.status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
            return Err(Refusal::UpstreamUnauthorized);
        }
        let legacy = Spoken { era: Era::Legacy, version: newest(Era::Legacy) };
        if answered.status.is_server_error() {
            return Err(status_refusal(answered.status, "server/discover"));
        }
        let Ok(Some(message)) = first(self, &mut answered).await else { return Ok(legacy) };
        Ok(match reply::modern_versions(&message) {
            Some(versions) => {
                let common = rpc::MODERN.iter().copied().find(|ours| versions.iter().any(|theirs| theirs == ours));
                Spoken { era: Era::Modern, version: common.ok_or_else(no_common_version)? }
            }
            None if reply::is_modern_error(&message) => Spoken { era: Era::Modern, version },
            None => legacy,
        })
    }

    /// Reads all pages of the upstream's tools.
    ///
    /// # Errors
    /// Every refusal that an upstream can cause.
    pub async fn read(&self, grant: &Grant) -> Result<Read, Refusal> {
        let spoken = self.detect(grant).await?;
        let mut read = Read { tools: Vec::new(), withheld: Vec::new(), ttl: None };
        let mut cursor: Option<String> = None;
        for _page in 0..PAGES_MAX {
            let message = self.page(grant, spoken, cursor.as_deref()).await?;
            let page = reply::tools(&message).map_err(|why| Refusal::UpstreamInvalid(format!("`tools/list`: {why}")))?;
            for raw in page.tools {
                self.admit(raw, &mut read);
            }
            read.ttl = page.ttl_ms.map(Duration::from_millis);
            cursor = page.next;
            if cursor.is_none() || read.tools.len() >= TOOLS_MAX {
                return Ok(read);
            }
        }
        Ok(read)
    }

    fn admit(&self, raw: Bytes, read: &mut Read) {
        if read.tools.len() >= TOOLS_MAX {
            return;
        }
        let name = reply::tool_name(&raw).unwrap_or_else(|| format!("#{}", read.tools.len()));
        match ToolDefinition::read(&self.settings, raw) {
            Ok(tool) => read.tools.push(Arc::new(tool)),
            Err(fault) => read.withheld.push((name, fault.to_string())),
        }
    }

    async fn page(&self, grant: &Grant, spoken: Spoken, cursor: Option<&str>) -> Result<Bytes, Refusal> {
        let id = self.next_id();
        match spoken.era {
            Era::Modern => {
                let (body, headers) = outbound::tools_list(id, cursor, spoken.era, spoken.version);
                let outgoing = Outgoing { body, version: Some(spoken.version), session: None, headers };
                let mut answered = self.exchange(grant, outgoing).await?;
                self.list_response(&mut answered, id).await
            }
            Era::Legacy => self.page_legacy(grant, id, cursor).await,
        }
    }

    async fn page_legacy(&self, grant: &Grant, id: u64, cursor: Option<&str>) -> Result<Bytes, Refusal> {
        let key = Key { principal: [0; 32], generation: grant.generation(), capabilities: super::CAPABILITIES_NONE };
        let mut attempts = 0_u8;
        loop {
            let session = self.sessions.take(&key, self.begin(grant)).await?;
            let (body, headers) = outbound::tools_list(id, cursor, Era::Legacy, session.version);
            let outgoing =
                Outgoing { body, version: Some(session.version), session: session.id.as_ref(), headers };
            let mut answered = self.exchange(grant, outgoing).await?;
            let gone = answered.status == StatusCode::NOT_FOUND && session.id.is_some();
            if !gone || attempts > 0 {
                return self.list_response(&mut answered, id).await;
            }
            answered.messages.discard().await;
            self.sessions.forget(&key, &session);
            attempts = attempts.saturating_add(1);
        }
    }

    async fn list_response(&self, answered: &mut Answered, id: u64) -> Result<Bytes, Refusal> {
        if !answered.status.is_success() {
            return Err(status_refusal(answered.status, "tools/list"));
        }
        self.response(&mut answered.messages, id).await
    }
}

/// The first message of an answer, whatever its id: a probe's refusal may have none.
async fn first(peer: &Peer, answered: &mut Answered) -> Result<Option<Bytes>, Refusal> {
    let messages: &mut Messages = &mut answered.messages;
    tokio::time::timeout(peer.settings.timeout, messages.next()).await.unwrap_or(Err(Refusal::UpstreamTimeout))
}

fn no_common_version() -> Refusal {
    Refusal::UpstreamInvalid("the upstream serves no revision that this gateway speaks".to_owned())
}

/// Pages of one list: an upstream whose cursors run in circles ends here.
const PAGES_MAX: usize = 100;

/// Tools taken from one upstream.
const TOOLS_MAX: usize = 500;
