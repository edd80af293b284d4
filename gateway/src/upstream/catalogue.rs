//! What does an upstream say of itself?
//!
//! Finds out the era (RC-10) and reads the tools, with the gateway's own credential. It publishes nothing.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::StatusCode;

use super::{
    Peer, Spoken, newest, result_of,
    session::Key,
    status_refusal,
    transport::{Answered, Outgoing},
};
use crate::{
    catalog::ToolDefinition,
    exchange::Grant,
    refusal::{Era, Refusal},
    rpc::{
        Topics,
        json::{Kind, Value},
        outbound,
        reply::{Inbound, Response},
        versions,
    },
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
        let spoken = Box::pin(self.probe(grant)).await?;
        self.spoken.store(Some(Arc::new(spoken)));
        Ok(spoken)
    }

    /// Forgets what the upstream speaks, where that was found out and not configured.
    pub fn doubt(&self) {
        if self.settings.era.is_none() {
            self.spoken.store(None);
        }
    }

    /// What is known of the upstream is to be found out anew, soon.
    pub fn shake(&self) {
        self.shaken.notify_one();
    }

    /// The lists of which the upstream has said, since this was last asked, that they have changed.
    #[must_use]
    pub fn said(&self) -> Topics {
        std::mem::take(&mut *self.said.lock())
    }

    /// Returns when somebody has shaken the trust in what is known.
    pub async fn shaken(&self) {
        self.shaken.notified().await;
    }

    /// What an error of the upstream says about what is believed of it: that it speaks another revision, or that a tool
    /// has another schema (RC-04).
    pub fn heed(&self, code: i64) {
        if code == VERSION_UNSUPPORTED {
            self.doubt();
        }
        if MODERN_ERRORS.contains(&code) {
            self.shake();
        }
    }

    async fn probe(&self, grant: &Grant) -> Result<Spoken, Refusal> {
        let (id, modern) = (self.next_id(), Spoken { era: Era::Modern, version: newest(Era::Modern) });
        let legacy = Spoken { era: Era::Legacy, version: newest(Era::Legacy) };
        let body = outbound::discover(&outbound::Outgoing::own(id, modern.version));
        let headers = self.headers(modern, "server/discover", None);
        let mut answered = self.exchange(grant, Outgoing::new(body, headers, None)).await?;
        if matches!(answered.status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
            return Err(Refusal::UpstreamUnauthorized);
        }
        let says_nothing = answered.status.is_server_error() || answered.status.is_redirection();
        if says_nothing || answered.status == StatusCode::TOO_MANY_REQUESTS {
            return Err(status_refusal(answered.status, "server/discover"));
        }
        let Some(response) = self.first_response(&mut answered).await else { return Ok(legacy) };
        match response.outcome() {
            Ok(result) => match result.get("supportedVersions") {
                Some(versions) => common(versions),
                None => Ok(legacy),
            },
            Err(error) if MODERN_ERRORS.contains(&error.code) => {
                error.data().and_then(|data| data.get("supported")).map_or(Ok(modern), common)
            }
            Err(_) => Ok(legacy),
        }
    }

    /// The first response of an answer, whatever its id: a probe's refusal may have none.
    async fn first_response(&self, answered: &mut Answered) -> Option<Response> {
        let read = async {
            while let Ok(Some(message)) = answered.messages.next().await {
                if let Ok(Inbound::Response(response)) = Inbound::parse(message, &self.bounds) {
                    return Some(response);
                }
            }
            None
        };
        tokio::time::timeout(self.settings.timeout, read).await.ok().flatten()
    }

    /// Reads all pages of the upstream's tools.
    ///
    /// # Errors
    /// Every refusal that an upstream can cause.
    pub async fn read(&self, grant: &Arc<Grant>) -> Result<Read, Refusal> {
        let spoken = self.detect(grant).await?;
        let mut read = Read { tools: Vec::new(), withheld: Vec::new(), ttl: None };
        let mut cursor: Option<String> = None;
        for _page in 0..PAGES_MAX {
            let response = Box::pin(self.page(grant, spoken, cursor.as_deref())).await?;
            let result = result_of(&response, "tools/list")?;
            let tools = result
                .get("tools")
                .filter(|tools| tools.kind() == Kind::Array)
                .ok_or_else(|| Refusal::UpstreamInvalid("`tools/list` without a list of tools".to_owned()))?;
            for tool in tools.elements() {
                self.admit(tool, &mut read);
            }
            let ttl_ms = result.get("ttlMs").and_then(Value::integer).and_then(|ttl| u64::try_from(ttl).ok());
            read.ttl = ttl_ms.map(Duration::from_millis);
            cursor = result.get("nextCursor").and_then(Value::text).map(std::borrow::Cow::into_owned);
            if cursor.is_none() {
                return Ok(read);
            }
            if read.tools.len() >= TOOLS_MAX {
                break;
            }
        }
        // What is left out is told, not lost in silence.
        let why = format!("the list goes on after {TOOLS_MAX} tools or {PAGES_MAX} pages");
        read.withheld.push(("*".to_owned(), why));
        Ok(read)
    }

    fn admit(&self, tool: Value<'_>, read: &mut Read) {
        let why = if read.tools.len() >= TOOLS_MAX {
            format!("more than {TOOLS_MAX} tools")
        } else {
            // A copy of its own: the page it came in does not stay for its sake.
            match ToolDefinition::read(&self.settings, Bytes::copy_from_slice(tool.raw())) {
                Ok(tool) => return read.tools.push(Arc::new(tool)),
                Err(fault) => fault.to_string(),
            }
        };
        if read.withheld.len() < TOOLS_MAX {
            let name = tool.get("name").and_then(Value::text).unwrap_or_default();
            read.withheld.push((name.chars().take(NAME_CHARS_SHOWN).collect(), why));
        }
    }

    async fn page(&self, grant: &Arc<Grant>, spoken: Spoken, cursor: Option<&str>) -> Result<Response, Refusal> {
        if spoken.era == Era::Modern {
            let id = self.next_id();
            let body = outbound::tools_list(&outbound::Outgoing::own(id, spoken.version), cursor);
            let headers = self.headers(spoken, "tools/list", None);
            let mut answered = self.exchange(grant, Outgoing::new(body, headers, None)).await?;
            return self.list_response(&mut answered, id).await;
        }
        let key = Key { principal: [0; 32], generation: grant.generation(), capabilities: super::CAPABILITIES_NONE };
        let mut first = true;
        loop {
            let session = self.sessions.take(&key, Box::pin(self.begin(grant))).await?;
            let (id, spoken) = (self.next_id(), Spoken { era: Era::Legacy, version: session.version });
            let body = outbound::tools_list(&outbound::Outgoing::own(id, session.version), cursor);
            let headers = self.headers(spoken, "tools/list", None);
            let mut answered = self.exchange(grant, Outgoing::new(body, headers, session.id.as_ref())).await?;
            if !(first && session.is_gone(answered.status)) {
                return self.list_response(&mut answered, id).await;
            }
            first = false;
            answered.messages.discard().await;
            self.sessions.forget(&key, &session);
        }
    }

    async fn list_response(&self, answered: &mut Answered, id: u64) -> Result<Response, Refusal> {
        if !answered.status.is_success() {
            return Err(status_refusal(answered.status, "tools/list"));
        }
        self.response(&mut answered.messages, id).await
    }
}

/// The newest revision that both sides speak, of a `supportedVersions` or `supported` list.
fn common(supported: Value<'_>) -> Result<Spoken, Refusal> {
    let theirs = |ours: &str| supported.elements().any(|version| version.is(ours));
    let found = |era, table: &'static [&'static str]| {
        table.iter().copied().find(|ours| theirs(ours)).map(|version| Spoken { era, version })
    };
    found(Era::Modern, versions::MODERN)
        .or_else(|| found(Era::Legacy, versions::LEGACY))
        .ok_or_else(|| Refusal::UpstreamInvalid("the upstream serves no revision that this gateway speaks".to_owned()))
}

/// Errors that only a modern server gives (RC-10).
const MODERN_ERRORS: &[i64] = &[-32020, -32021, VERSION_UNSUPPORTED];
const VERSION_UNSUPPORTED: i64 = -32022;

/// Pages of one list: an upstream whose cursors run in circles ends here.
const PAGES_MAX: usize = 100;

/// Characters of a name that is told for no other reason than that its tool is not served.
const NAME_CHARS_SHOWN: usize = 128;

/// Tools taken from one upstream, and names of others told.
const TOOLS_MAX: usize = 500;
