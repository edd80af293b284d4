//! What is one message from a client, once it is understood?
//!
//! A [`Call`] owns the bytes that it was read from and knows where everything stands in them. It is made by
//! [`super::parse`] only, so that whoever holds one knows that every check of the wire has passed.

use std::{borrow::Cow, collections::BTreeSet};

use bytes::Bytes;

use super::{
    canonical,
    json::{Document, Index, Kind, Value, write_string},
    meta::{LogLevel, Meta},
    reply::Response,
    topics::{Topic, Topics},
};
use crate::refusal::{Era, Refusal};

/// What one POST carries.
#[derive(Debug)]
pub enum Message {
    /// A request or a notification.
    Call(Call),
    /// A legacy client's answer to a request of ours; accepted with 202 (RL-05).
    Response(Response),
}

/// A message that was refused, with what its answer needs.
#[derive(Debug)]
pub struct Rejected {
    /// Why.
    pub refusal: Refusal,
    /// The id of the request, where it could be read (RS-20).
    pub id: Option<RequestId>,
    /// Which form the answer takes.
    pub era: Era,
}

/// A JSON-RPC id as the client spelled it: a string or an integer, with its exact type (RS-20).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RequestId(Bytes);

impl RequestId {
    /// The id that `value` is, if it may be one: never `null`, never a fraction.
    #[must_use]
    pub fn of(value: Value<'_>) -> Option<Self> {
        let raw = value.raw();
        let fits = match value.kind() {
            Kind::String => true,
            Kind::Number => raw.iter().all(|byte| byte.is_ascii_digit() || *byte == b'-'),
            Kind::Null | Kind::Bool | Kind::Array | Kind::Object => false,
        };
        (fits && raw.len() <= ID_BYTES_MAX).then(|| Self(value.raw_bytes()))
    }

    /// JSON text: with quotes for a string, without for an integer.
    #[must_use]
    pub fn raw(&self) -> &[u8] {
        &self.0
    }

    /// JSON text, for the journal and for spans.
    #[must_use]
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

/// What a message asks for, as far as this gateway serves it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Method {
    /// `server/discover`, modern.
    ServerDiscover,
    /// `initialize`, legacy.
    Initialize,
    /// `ping`, legacy.
    Ping,
    /// `tools/list`.
    ToolsList,
    /// `tools/call`.
    ToolsCall,
    /// `subscriptions/listen`, modern.
    SubscriptionsListen,
    /// `logging/setLevel`, legacy.
    LoggingSetLevel,
    /// `resources/subscribe`, legacy.
    ResourcesSubscribe,
    /// `resources/unsubscribe`, legacy.
    ResourcesUnsubscribe,
    /// `prompts/list`.
    PromptsList,
    /// `prompts/get`.
    PromptsGet,
    /// `resources/list`.
    ResourcesList,
    /// `resources/templates/list`.
    ResourceTemplatesList,
    /// `resources/read`.
    ResourcesRead,
    /// `completion/complete`.
    CompletionComplete,
    /// `tasks/get`, modern.
    TasksGet,
    /// `tasks/update`, modern.
    TasksUpdate,
    /// `tasks/cancel`, modern.
    TasksCancel,
    /// `notifications/initialized`.
    Initialized,
    /// `notifications/cancelled` that names a request.
    Cancelled,
    /// Any other notification: accepted and without effect.
    OtherNotification,
}

impl Method {
    /// The request that `text` names in `era`.
    #[must_use]
    pub(super) fn request(text: &str, era: Era) -> Option<Self> {
        match (text, era) {
            ("server/discover", Era::Modern) => Some(Self::ServerDiscover),
            ("initialize", Era::Legacy) => Some(Self::Initialize),
            ("ping", Era::Legacy) => Some(Self::Ping),
            ("tools/list", _) => Some(Self::ToolsList),
            ("tools/call", _) => Some(Self::ToolsCall),
            ("subscriptions/listen", Era::Modern) => Some(Self::SubscriptionsListen),
            ("logging/setLevel", Era::Legacy) => Some(Self::LoggingSetLevel),
            ("resources/subscribe", Era::Legacy) => Some(Self::ResourcesSubscribe),
            ("resources/unsubscribe", Era::Legacy) => Some(Self::ResourcesUnsubscribe),
            ("prompts/list", _) => Some(Self::PromptsList),
            ("prompts/get", _) => Some(Self::PromptsGet),
            ("resources/list", _) => Some(Self::ResourcesList),
            ("resources/templates/list", _) => Some(Self::ResourceTemplatesList),
            ("resources/read", _) => Some(Self::ResourcesRead),
            ("completion/complete", _) => Some(Self::CompletionComplete),
            ("tasks/get", Era::Modern) => Some(Self::TasksGet),
            ("tasks/update", Era::Modern) => Some(Self::TasksUpdate),
            ("tasks/cancel", Era::Modern) => Some(Self::TasksCancel),
            _ => None,
        }
    }

    /// The notification that `text` names.
    #[must_use]
    pub(super) fn notification(text: &str) -> Self {
        match text {
            "notifications/initialized" => Self::Initialized,
            "notifications/cancelled" => Self::Cancelled,
            _ => Self::OtherNotification,
        }
    }

    /// The member of `params` that says what a request for an upstream is about.
    #[must_use]
    pub const fn naming(self) -> Option<&'static str> {
        match self {
            Self::ToolsCall | Self::PromptsGet => Some("name"),
            Self::ResourcesRead | Self::ResourcesSubscribe | Self::ResourcesUnsubscribe => Some("uri"),
            Self::CompletionComplete => Some("ref"),
            Self::TasksGet | Self::TasksUpdate | Self::TasksCancel => Some("taskId"),
            Self::ServerDiscover
            | Self::Initialize
            | Self::Ping
            | Self::ToolsList
            | Self::PromptsList
            | Self::ResourcesList
            | Self::ResourceTemplatesList
            | Self::SubscriptionsListen
            | Self::LoggingSetLevel
            | Self::Initialized
            | Self::Cancelled
            | Self::OtherNotification => None,
        }
    }

    /// The name on the wire; a notification without effect has only its kind, so that names stay few.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ServerDiscover => "server/discover",
            Self::Initialize => "initialize",
            Self::Ping => "ping",
            Self::ToolsList => "tools/list",
            Self::ToolsCall => "tools/call",
            Self::SubscriptionsListen => "subscriptions/listen",
            Self::LoggingSetLevel => "logging/setLevel",
            Self::ResourcesSubscribe => "resources/subscribe",
            Self::ResourcesUnsubscribe => "resources/unsubscribe",
            Self::PromptsList => "prompts/list",
            Self::PromptsGet => "prompts/get",
            Self::ResourcesList => "resources/list",
            Self::ResourceTemplatesList => "resources/templates/list",
            Self::ResourcesRead => "resources/read",
            Self::CompletionComplete => "completion/complete",
            Self::TasksGet => "tasks/get",
            Self::TasksUpdate => "tasks/update",
            Self::TasksCancel => "tasks/cancel",
            Self::Initialized => "notifications/initialized",
            Self::Cancelled => "notifications/cancelled",
            Self::OtherNotification => "notifications/_OTHER",
        }
    }
}

/// One request or notification that passed every check of the wire.
#[derive(Debug)]
pub struct Call {
    pub(super) document: Document,
    pub(super) era: Era,
    pub(super) version: &'static str,
    pub(super) version_assumed: bool,
    pub(super) id: Option<RequestId>,
    pub(super) method: Method,
    pub(super) params: Option<Index>,
    pub(super) meta: Meta<Index>,
}

impl Call {
    /// Which revision family the client speaks.
    #[must_use]
    pub const fn era(&self) -> Era {
        self.era
    }

    /// The revision that the answer is written in.
    #[must_use]
    pub const fn version(&self) -> &'static str {
        self.version
    }

    /// Whether the client did not say its version, so that its session knows better (RL-02).
    #[must_use]
    pub const fn version_assumed(&self) -> bool {
        self.version_assumed
    }

    /// The same call, with the version that its legacy session negotiated.
    #[must_use]
    pub fn in_version(mut self, version: &'static str) -> Self {
        self.version = version;
        self.version_assumed = false;
        self
    }

    /// The client's id; a notification has none.
    #[must_use]
    pub const fn id(&self) -> Option<&RequestId> {
        self.id.as_ref()
    }

    /// What is asked for.
    #[must_use]
    pub const fn method(&self) -> Method {
        self.method
    }

    /// The body as it came.
    #[must_use]
    pub fn body(&self) -> &Bytes {
        self.document.text()
    }

    /// `params`.
    #[must_use]
    pub fn params(&self) -> Option<Value<'_>> {
        self.params.map(|index| self.document.at(index))
    }

    fn param(&self, name: &str) -> Option<Value<'_>> {
        self.params()?.get(name)
    }

    /// `params.name` of `tools/call` and `prompts/get`.
    #[must_use]
    pub fn name(&self) -> Option<Cow<'_, str>> {
        self.param("name")?.text()
    }

    /// `params.uri` of `resources/read`.
    #[must_use]
    pub fn uri(&self) -> Option<Cow<'_, str>> {
        self.param("uri")?.text()
    }

    /// `params.taskId` of a request about a task: the id that the gateway gave out.
    #[must_use]
    pub fn task(&self) -> Option<Cow<'_, str>> {
        self.param("taskId").filter(|_| self.method.naming() == Some("taskId"))?.text()
    }

    /// What `completion/complete` is about, and the name of the argument.
    #[must_use]
    pub fn reference(&self) -> Option<(Reference<'_>, Cow<'_, str>)> {
        if self.method != Method::CompletionComplete {
            return None;
        }
        let (reference, argument) = (self.param("ref")?, self.param("argument")?.get("name")?.text()?);
        let kind = reference.get("type")?;
        if kind.is("ref/prompt") {
            return Some((Reference::Prompt(reference.get("name")?.text()?), argument));
        }
        kind.is("ref/resource").then_some(())?;
        Some((Reference::Resource(reference.get("uri")?.text()?), argument))
    }

    /// `params.arguments`, always an object.
    #[must_use]
    pub fn arguments(&self) -> Option<Value<'_>> {
        self.param("arguments")
    }

    /// The argument at `path`, member by member.
    pub fn argument<'p>(&self, path: impl IntoIterator<Item = &'p str>) -> Option<Value<'_>> {
        path.into_iter().try_fold(self.arguments()?, |value, name| value.get(name))
    }

    /// `params.cursor`; the empty string is a cursor too.
    #[must_use]
    pub fn cursor(&self) -> Option<Cow<'_, str>> {
        self.param("cursor")?.text()
    }

    /// `params.requestState`: what a retry echoes (RS-31).
    #[must_use]
    pub fn request_state(&self) -> Option<Value<'_>> {
        self.param("requestState")
    }

    /// `params.inputResponses`, always an object.
    #[must_use]
    pub fn input_responses(&self) -> Option<Value<'_>> {
        self.param("inputResponses")
    }

    /// What a retry has to repeat: the method, and every parameter but those of the retry itself and of the envelope, in
    /// canonical form (mrtr §Server Requirements 5, spec §3.8).
    #[must_use]
    pub fn repeated(&self) -> Vec<u8> {
        let mut out = self.method.as_str().as_bytes().to_vec();
        let members = self.params().into_iter().flat_map(Value::members);
        let mut sorted: Vec<_> = members
            .map(|(name, value)| (name.text().unwrap_or_default(), value))
            .filter(|(name, _)| !RETRY.contains(&name.as_ref()))
            .collect();
        sorted.sort_by(|(left, _), (right, _)| left.cmp(right));
        for (name, value) in sorted {
            out.push(b'\n');
            write_string(&mut out, &name);
            canonical::write(value, &mut out);
        }
        out
    }

    /// `params._meta`.
    #[must_use]
    pub fn meta(&self) -> Meta<Value<'_>> {
        self.meta.map(|place| self.document.at(place))
    }

    /// What `initialize` carries.
    #[must_use]
    pub fn initialize(&self) -> Option<Initialize<'_>> {
        if self.method != Method::Initialize {
            return None;
        }
        let client_info = self.param("clientInfo")?;
        Some(Initialize {
            requested_version: self.param("protocolVersion")?.text()?,
            capabilities: self.param("capabilities")?,
            client_name: client_info.get("name")?.text()?,
            client_version: client_info.get("version")?.text()?,
            client_info,
        })
    }

    /// What `notifications/cancelled` carries.
    #[must_use]
    pub fn cancelled(&self) -> Option<Cancelled<'_>> {
        if self.method != Method::Cancelled {
            return None;
        }
        let request_id = RequestId::of(self.param("requestId")?)?;
        Some(Cancelled { request_id, reason: self.param("reason").and_then(Value::text) })
    }

    /// What `subscriptions/listen` asks for; a member that no revision knows asks for nothing.
    #[must_use]
    pub fn filter(&self) -> Option<Filter> {
        if self.method != Method::SubscriptionsListen {
            return None;
        }
        let asked = self.param("notifications")?;
        let wanted = |topic: &Topic| asked.get(topic.member()).is_some_and(|wanted| wanted.raw() == b"true");
        let texts = |member: &str| {
            let all = asked.get(member).into_iter().flat_map(Value::elements);
            all.filter_map(Value::text).map(Cow::into_owned).collect()
        };
        Some(Filter {
            topics: Topic::ALL.into_iter().filter(wanted).collect(),
            uris: texts("resourceSubscriptions"),
            tasks: texts("taskIds"),
        })
    }

    /// What `logging/setLevel` carries.
    #[must_use]
    pub fn level(&self) -> Option<LogLevel> {
        if self.method != Method::LoggingSetLevel {
            return None;
        }
        LogLevel::parse(&self.param("level")?.text()?)
    }

    /// What whoever answers must know; nothing for a notification, which has no answer.
    #[must_use]
    pub fn asker(&self) -> Option<Asker> {
        let meta = self.meta();
        Some(Asker {
            id: self.id.clone()?,
            version: self.version,
            era: self.era,
            progress_token: meta.progress_token.map(Value::raw_bytes),
            log_level: meta.log_level.and_then(Value::text).and_then(|word| LogLevel::parse(&word)),
        })
    }
}

/// What a listener wants to hear of (RS-33).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    /// The lists of whose changes it wants to be told.
    pub topics: Topics,
    /// The resources of whose changes it wants to be told.
    pub uris: BTreeSet<String>,
    /// The tasks of whose states it wants to be told, by the ids that the gateway gave out.
    pub tasks: BTreeSet<String>,
}

/// `params.ref` of `completion/complete` (RS-35).
#[derive(Debug)]
pub enum Reference<'a> {
    /// `ref/prompt`, by name.
    Prompt(Cow<'a, str>),
    /// `ref/resource`, by URI or template.
    Resource(Cow<'a, str>),
}

/// `params` of `initialize`.
#[derive(Debug)]
pub struct Initialize<'a> {
    /// The version that the client would like; [`Call::version`] is the one it gets (RL-01).
    pub requested_version: Cow<'a, str>,
    /// ClientCapabilities.
    pub capabilities: Value<'a>,
    /// Implementation: claimed, never proven.
    pub client_info: Value<'a>,
    /// `clientInfo.name`.
    pub client_name: Cow<'a, str>,
    /// `clientInfo.version`.
    pub client_version: Cow<'a, str>,
}

/// `params` of `notifications/cancelled`.
#[derive(Debug)]
pub struct Cancelled<'a> {
    /// Which of the client's requests.
    pub request_id: RequestId,
    /// Why, in the client's words.
    pub reason: Option<Cow<'a, str>>,
}

/// To whom an answer goes, and in what form: what is left of a call when it has been sent on.
#[derive(Debug, Clone)]
pub struct Asker {
    /// The client's id.
    pub id: RequestId,
    /// The client's revision.
    pub version: &'static str,
    /// The client's era.
    pub era: Era,
    /// The client's progress token, raw, where it wants progress.
    pub progress_token: Option<Bytes>,
    /// The least severe log message it wants, where it wants any.
    pub log_level: Option<LogLevel>,
}

/// Members of `params` that differ from one retry to the next.
const RETRY: &[&str] = &["inputResponses", "requestState", "_meta"];

/// A task's id travels in a header: the gateway's own, with an upstream's within.
pub const TASK_ID_BYTES_MAX: usize = 2_048;

/// Ids go into the journal and into spans.
const ID_BYTES_MAX: usize = 256;
