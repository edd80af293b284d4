//! Is this one message that may be looked at further?
//!
//! Checks 5 to 13 of the order that the conformance suite fixes: JSON, shape, era, `_meta`, version agreement, version
//! served, mirrored headers, method, params. The first that fails is the answer. It does not know the catalogue: headers
//! that mirror arguments are checked by [`super::mirrors`] once the tool is known.

use std::borrow::Cow;

use bytes::Bytes;
use http::HeaderMap;

use super::{
    call::{Call, Message, Method, Rejected, RequestId, TASK_ID_BYTES_MAX},
    headers::{self, Field},
    json::{Bounds, Document, Kind, Value},
    lookalike,
    meta::{self, LogLevel, Meta},
    reply::Inbound,
    topics::Topic,
    versions,
};
use crate::{
    config::Limits,
    refusal::{Era, Refusal},
};

/// Reads one POSTed body.
///
/// # Errors
/// The first check that fails, with the request's id where it could be read, and the era that the answer takes.
pub fn parse(headers: &HeaderMap, body: Bytes, limits: &Limits) -> Result<Message, Rejected> {
    let claims = Claims::of(headers);
    let document = Document::parse(body, &Bounds::request(limits)).map_err(|why| Rejected {
        refusal: Refusal::NotJson(why),
        id: None,
        era: claims.era(),
    })?;
    let root = document.root();
    let id = root.get("id").and_then(RequestId::of);
    let envelope = match Envelope::of(root) {
        Ok(envelope) => envelope,
        Err(refusal) => return Err(Rejected { refusal, id, era: claims.era() }),
    };
    let (method, params) = match envelope {
        Envelope::Response => {
            return match claims.era() {
                Era::Legacy => match Inbound::of(document) {
                    Ok(Inbound::Response(response)) => Ok(Message::Response(response)),
                    Ok(Inbound::Notification(_) | Inbound::Request(_)) | Err(_) => {
                        let refusal = Refusal::NotARequest("a response that is neither a result nor an error");
                        Err(Rejected { refusal, id, era: Era::Legacy })
                    }
                },
                Era::Modern => {
                    let refusal = Refusal::NotARequest("a response, which clients of this revision do not send");
                    Err(Rejected { refusal, id, era: Era::Modern })
                }
            };
        }
        Envelope::Call { method, params } => (method, params),
    };
    let meta_object = params.and_then(|params| params.get("_meta"));
    let asked = Asked {
        is_notification: root.get("id").is_none(),
        meta: Meta::of(meta_object.filter(|meta| meta.is_object())),
        method,
        params,
    };
    let era = asked.era(&claims);
    match asked.check(&claims, era) {
        Ok(checked) => {
            let (params, meta) = (params.map(Value::index), asked.meta.map(Value::index));
            let Checked { version, version_assumed, method } = checked;
            Ok(Message::Call(Call { document, era, version, version_assumed, id, method, params, meta }))
        }
        Err(refusal) => Err(Rejected { refusal, id, era }),
    }
}

/// What the headers say about the message.
struct Claims<'a> {
    version: Field<'a>,
    method: Field<'a>,
    name: Field<'a>,
}

impl<'a> Claims<'a> {
    fn of(headers: &'a HeaderMap) -> Self {
        Self {
            version: Field::of(headers, &headers::PROTOCOL_VERSION),
            method: Field::of(headers, &headers::METHOD),
            name: Field::of(headers, &headers::NAME),
        }
    }

    /// The era as far as the headers tell it (spec §1.0): every version that is not known to be legacy is modern, and
    /// where none is named, modern clients alone send `Mcp-Method`. Some legacy clients send it beside their version.
    fn era(&self) -> Era {
        match self.version {
            Field::Text(version) if versions::is_known_legacy(version) => Era::Legacy,
            Field::Text(_) | Field::Unreadable => Era::Modern,
            Field::Absent if self.method == Field::Absent => Era::Legacy,
            Field::Absent => Era::Modern,
        }
    }
}

/// The shape of a JSON-RPC 2.0 message.
enum Envelope<'a> {
    Response,
    Call { method: Value<'a>, params: Option<Value<'a>> },
}

impl<'a> Envelope<'a> {
    /// Nothing but the members that JSON-RPC has: a member that another parser may know is a second message in one.
    fn of(root: Value<'a>) -> Result<Self, Refusal> {
        let refuse = |why| Err(Refusal::NotARequest(why));
        if root.kind() == Kind::Array {
            return refuse("a batch, which this revision does not have");
        }
        if !root.is_object() {
            return refuse("not an object");
        }
        let (mut version, mut id, mut method, mut params, mut answer) = (None, None, None, None, 0_u8);
        for (name, value) in root.members() {
            match name.text().as_deref() {
                Some("jsonrpc") => version = Some(value),
                Some("id") => id = Some(value),
                Some("method") => method = Some(value),
                Some("params") => params = Some(value),
                Some("result" | "error") => answer = answer.saturating_add(1),
                _ => return refuse("an unknown member beside `jsonrpc`, `id`, `method` and `params`"),
            }
        }
        if !version.is_some_and(|version| version.is("2.0")) {
            return refuse("`jsonrpc` is not \"2.0\"");
        }
        if id.is_some_and(|id| RequestId::of(id).is_none()) {
            return refuse("`id` is not a string or an integer, or is too long");
        }
        let Some(method) = method else {
            let whole = answer == 1 && id.is_some() && params.is_none();
            return if whole { Ok(Self::Response) } else { refuse("`method` is missing") };
        };
        if answer != 0 {
            return refuse("a request and a response at once");
        }
        if method.kind() != Kind::String {
            return refuse("`method` is not a string");
        }
        // It would run, and nobody would hear of it.
        if id.is_none() && !method.text().is_some_and(|method| method.starts_with("notifications/")) {
            return refuse("a request without an `id`");
        }
        if params.is_some_and(|params| !params.is_object()) {
            return refuse("`params` is not an object");
        }
        if params.is_some_and(|params| has_imitation(params, PARAMS)) {
            return refuse("a member of `params` imitates another");
        }
        let meta = params.and_then(|params| params.get("_meta"));
        if meta.is_some_and(|meta| has_imitation(meta, meta::OWNED)) {
            return refuse("a member of `_meta` imitates another");
        }
        Ok(Self::Call { method, params })
    }
}

fn has_imitation(object: Value<'_>, exact: &[&str]) -> bool {
    object.members().any(|(name, _)| name.text().is_some_and(|name| lookalike::imitates_any(&name, exact)))
}

/// A well-formed request or notification, before its era is known.
struct Asked<'a> {
    is_notification: bool,
    method: Value<'a>,
    params: Option<Value<'a>>,
    meta: Meta<Value<'a>>,
}

/// What the checks leave.
struct Checked {
    version: &'static str,
    version_assumed: bool,
    method: Method,
}

impl Asked<'_> {
    /// Check 7. Modern metadata decides, not the method: a removed method with modern metadata is an unknown method, and
    /// `server/discover` without metadata is a malformed modern request (spec §1.0).
    fn era(&self, claims: &Claims<'_>) -> Era {
        if self.meta.protocol_version.is_some() || self.method.is("server/discover") {
            Era::Modern
        } else {
            claims.era()
        }
    }

    fn check(&self, claims: &Claims<'_>, era: Era) -> Result<Checked, Refusal> {
        let method_text = self.method.text().unwrap_or_default();
        let (version, version_assumed) = match era {
            Era::Modern => (self.modern(claims, &method_text)?, false),
            Era::Legacy => {
                self.legacy_mirrors(claims, &method_text)?;
                self.legacy_version(claims, &method_text)?
            }
        };
        let method = self.method(&method_text, era)?;
        let method = self.params_of(method)?;
        Ok(Checked { version, version_assumed, method })
    }

    /// Checks 8 to 11.
    fn modern(&self, claims: &Claims<'_>, method: &str) -> Result<&'static str, Refusal> {
        // 8: the metadata of every request (RS-16). The modern core has no client notification, so none has to carry it.
        let version = self.meta.protocol_version;
        let written = match version.and_then(Value::text) {
            Some(text) => Some(text),
            None if self.is_notification && version.is_none() => None,
            None => return Err(Refusal::MetaMissing(meta::PROTOCOL_VERSION)),
        };
        if !self.is_notification && !self.meta.client_capabilities.is_some_and(Value::is_object) {
            return Err(Refusal::MetaMissing(meta::CLIENT_CAPABILITIES));
        }
        // 9: header and body agree (RS-10).
        let mismatch = |header| Err(Refusal::HeaderMismatch(Cow::Borrowed(header)));
        let asked_for = match (claims.version, &written) {
            (Field::Text(header), Some(body)) if header == body => header,
            (Field::Text(header), None) => header,
            _ => return mismatch("MCP-Protocol-Version"),
        };
        // 10 (RS-11).
        let Some(version) = versions::modern(asked_for) else {
            return Err(Refusal::VersionUnsupported(asked_for.chars().take(VERSION_CHARS_MAX).collect()));
        };
        // 11: what an intermediary may have routed by is what runs (RS-13).
        let unmirrored = self.is_notification && claims.method == Field::Absent;
        if !unmirrored && claims.method != Field::Text(method) {
            return mismatch("Mcp-Method");
        }
        if let Some(member) = headers::name_member(method) {
            let body = self.params.and_then(|params| params.get(member)).and_then(Value::text);
            if !headers::agrees(claims.name, body.as_deref()) {
                return mismatch("Mcp-Name");
            }
        }
        Ok(version)
    }

    /// A legacy request need not mirror anything, but where it does, an intermediary may have routed by it.
    fn legacy_mirrors(&self, claims: &Claims<'_>, method: &str) -> Result<(), Refusal> {
        let mismatch = |header| Err(Refusal::HeaderMismatch(Cow::Borrowed(header)));
        if claims.method != Field::Absent && claims.method != Field::Text(method) {
            return mismatch("Mcp-Method");
        }
        let Some(member) = headers::name_member(method).filter(|_| claims.name != Field::Absent) else { return Ok(()) };
        let body = self.params.and_then(|params| params.get(member)).and_then(Value::text);
        if headers::agrees(claims.name, body.as_deref()) { Ok(()) } else { mismatch("Mcp-Name") }
    }

    /// The version of a legacy request (RL-01, RL-02), and whether it is only assumed.
    fn legacy_version(&self, claims: &Claims<'_>, method: &str) -> Result<(&'static str, bool), Refusal> {
        if method == "initialize" {
            let asked_for = self.params.and_then(|params| params.get("protocolVersion")).and_then(Value::text);
            let served = asked_for.and_then(|version| versions::legacy(&version));
            return Ok((served.unwrap_or(versions::LEGACY_NEWEST), false));
        }
        match claims.version {
            Field::Absent => Ok((versions::LEGACY_ASSUMED, true)),
            Field::Text(version) => match versions::legacy(version) {
                Some(version) => Ok((version, false)),
                None => Err(Refusal::VersionHeaderUnsupported(version.to_owned())),
            },
            Field::Unreadable => Err(Refusal::HeaderMismatch(Cow::Borrowed("MCP-Protocol-Version"))),
        }
    }

    /// Check 12 (RS-12).
    fn method(&self, text: &str, era: Era) -> Result<Method, Refusal> {
        if self.is_notification {
            return Ok(Method::notification(text));
        }
        Method::request(text, era).ok_or(Refusal::MethodUnknown)
    }

    /// Check 13, as far as the catalogue is not needed. A notification has no answer, so a malformed one has no effect.
    fn params_of(&self, method: Method) -> Result<Method, Refusal> {
        if !self.is_notification {
            self.common_params()?;
        }
        match method {
            Method::ToolsCall => self.tools_call_params()?,
            Method::PromptsGet => self.prompts_get_params()?,
            Method::ResourcesRead => {
                self.named("uri", URI_BYTES_MAX)?;
                self.retry_params()?;
            }
            Method::ResourcesSubscribe | Method::ResourcesUnsubscribe => self.named("uri", URI_BYTES_MAX)?,
            Method::CompletionComplete => self.completion_params()?,
            Method::TasksGet | Method::TasksCancel => self.named("taskId", TASK_ID_BYTES_MAX)?,
            Method::TasksUpdate => self.task_update_params()?,
            Method::ToolsList | Method::PromptsList | Method::ResourcesList | Method::ResourceTemplatesList => {
                if self.param("cursor").is_some_and(|cursor| cursor.kind() != Kind::String) {
                    return invalid("`cursor` is not a string");
                }
            }
            Method::Initialize => self.initialize_params()?,
            Method::SubscriptionsListen => self.listen_params()?,
            Method::LoggingSetLevel => {
                if self.param("level").and_then(Value::text).and_then(|word| LogLevel::parse(&word)).is_none() {
                    return invalid("`level` is not one of the eight levels");
                }
            }
            Method::Cancelled => {
                if self.param("requestId").and_then(RequestId::of).is_none() {
                    return Ok(Method::OtherNotification);
                }
            }
            Method::ServerDiscover | Method::Ping | Method::Initialized | Method::OtherNotification => {}
        }
        Ok(method)
    }

    fn param(&self, name: &str) -> Option<Value<'_>> {
        self.params?.get(name)
    }

    fn common_params(&self) -> Result<(), Refusal> {
        if self.param("_meta").is_some_and(|meta| !meta.is_object()) {
            return invalid("`_meta` is not an object");
        }
        if self.meta.progress_token.is_some_and(|token| RequestId::of(token).is_none()) {
            return invalid("`progressToken` is not a string or an integer, or is too long");
        }
        // RS-34.
        if let Some(level) = self.meta.log_level
            && level.text().and_then(|word| LogLevel::parse(&word)).is_none()
        {
            return invalid("`logLevel` is not one of the eight levels");
        }
        Ok(())
    }

    fn tools_call_params(&self) -> Result<(), Refusal> {
        self.named("name", NAME_BYTES_MAX)?;
        self.retry_params()?;
        let Some(arguments) = self.param("arguments") else { return Ok(()) };
        if !arguments.is_object() {
            return invalid("`arguments` is not an object");
        }
        if names_collide(arguments) {
            return invalid("two members of `arguments` differ in case only");
        }
        Ok(())
    }

    fn listen_params(&self) -> Result<(), Refusal> {
        let Some(asked) = self.param("notifications").filter(|asked| asked.is_object()) else {
            return invalid("`notifications` is missing or not an object");
        };
        let flag = |topic: Topic| asked.get(topic.member()).is_none_or(|wanted| wanted.kind() == Kind::Bool);
        if !Topic::ALL.into_iter().all(flag) {
            return invalid("a member of `notifications` is not true or false");
        }
        let (uris, tasks) = (asked.get("resourceSubscriptions"), asked.get("taskIds"));
        let texts = |list: Value<'_>, bytes_max: usize| {
            let fits = |text: Value<'_>| text.text().is_some_and(|text| !text.is_empty() && text.len() <= bytes_max);
            list.kind() == Kind::Array && list.elements().all(fits)
        };
        if !uris.is_none_or(|uris| texts(uris, URI_BYTES_MAX)) {
            return invalid("`resourceSubscriptions` is not a list of URIs, or one of them is too long");
        }
        if !tasks.is_none_or(|ids| texts(ids, TASK_ID_BYTES_MAX)) {
            return invalid("`taskIds` is not a list of ids, or one of them is too long");
        }
        if uris.into_iter().chain(tasks).flat_map(Value::elements).count() > SUBSCRIPTIONS_MAX {
            return invalid("`resourceSubscriptions` and `taskIds` are too long");
        }
        Ok(())
    }

    /// A prompt's arguments are strings (MCP server/prompts).
    fn prompts_get_params(&self) -> Result<(), Refusal> {
        self.named("name", NAME_BYTES_MAX)?;
        self.retry_params()?;
        let Some(arguments) = self.param("arguments") else { return Ok(()) };
        if !arguments.is_object() || arguments.members().any(|(_, value)| value.kind() != Kind::String) {
            return invalid("`arguments` is not an object of strings");
        }
        if names_collide(arguments) {
            return invalid("two members of `arguments` differ in case only");
        }
        Ok(())
    }

    /// The extension's `tasks/update`: answers to what the task asked, by its keys.
    fn task_update_params(&self) -> Result<(), Refusal> {
        self.named("taskId", TASK_ID_BYTES_MAX)?;
        let Some(responses) = self.param("inputResponses").filter(|responses| responses.is_object()) else {
            return invalid("`inputResponses` is missing or not an object");
        };
        if responses.members().any(|(_, response)| !response.is_object()) {
            return invalid("an entry of `inputResponses` is not an object");
        }
        if responses.members().count() > UPDATE_ANSWERS_MAX {
            return invalid("`inputResponses` has more entries than can be asked for");
        }
        Ok(())
    }

    /// RS-35.
    fn completion_params(&self) -> Result<(), Refusal> {
        let Some(reference) = self.param("ref").filter(|reference| reference.is_object()) else {
            return invalid("`ref` is missing or not an object");
        };
        let is = |kind: &str| reference.get("type").is_some_and(|word| word.is(kind));
        let (naming, bytes_max) = match (is("ref/prompt"), is("ref/resource")) {
            (true, _) => ("name", NAME_BYTES_MAX),
            (_, true) => ("uri", URI_BYTES_MAX),
            (false, false) => return invalid("`ref.type` is neither `ref/prompt` nor `ref/resource`"),
        };
        let named = reference.get(naming).and_then(Value::text);
        if !named.is_some_and(|name| !name.is_empty() && name.len() <= bytes_max) {
            return invalid("`ref` names no prompt or resource, or one whose name is too long");
        }
        let argument = self.param("argument");
        let said =
            |name| argument.and_then(|argument| argument.get(name)).is_some_and(|text| text.kind() == Kind::String);
        if !said("name") || !said("value") {
            return invalid("`argument` lacks `name` or `value`");
        }
        Ok(())
    }

    /// The member of `params` that says which thing is meant.
    fn named(&self, member: &'static str, bytes_max: usize) -> Result<(), Refusal> {
        match self.param(member).and_then(Value::text) {
            Some(name) if !name.is_empty() && name.len() <= bytes_max => Ok(()),
            Some(_) => Err(Refusal::ParamsInvalid(Cow::Owned(format!("`{member}` is empty or too long")))),
            None => Err(Refusal::ParamsInvalid(Cow::Owned(format!("`{member}` is missing or not a string")))),
        }
    }

    /// What a retry brings; whether it may is found out with what it is about (RS-31).
    fn retry_params(&self) -> Result<(), Refusal> {
        if self.param("requestState").is_some_and(|state| state.kind() != Kind::String) {
            return invalid("`requestState` is not a string");
        }
        if self.param("inputResponses").is_some_and(|responses| !responses.is_object()) {
            return invalid("`inputResponses` is not an object");
        }
        Ok(())
    }

    fn initialize_params(&self) -> Result<(), Refusal> {
        if self.param("protocolVersion").is_none_or(|version| version.kind() != Kind::String) {
            return invalid("`protocolVersion` is missing or not a string");
        }
        if !self.param("capabilities").is_some_and(Value::is_object) {
            return invalid("`capabilities` is missing or not an object");
        }
        let client = self.param("clientInfo");
        let said = |name| client.and_then(|client| client.get(name)).is_some_and(|text| text.kind() == Kind::String);
        if !said("name") || !said("version") {
            return invalid("`clientInfo` lacks `name` or `version`");
        }
        Ok(())
    }
}

fn invalid<T>(why: &'static str) -> Result<T, Refusal> {
    Err(Refusal::ParamsInvalid(Cow::Borrowed(why)))
}

/// Whether a decoder without regard to case would take two arguments for one: policy would judge one of them, and the
/// tool would run with the other. Deeper down `policy` looks, by the schema: there the names may be data.
fn names_collide(arguments: Value<'_>) -> bool {
    let plain = |name: &str| name.bytes().all(|byte| byte.is_ascii_graphic() && !byte.is_ascii_uppercase());
    if arguments.members().all(|(name, _)| name.text().is_some_and(|name| plain(&name))) {
        return false;
    }
    let mut folded: Vec<String> =
        arguments.members().filter_map(|(name, _)| Some(lookalike::fold(&name.text()?).into_owned())).collect();
    folded.sort_unstable();
    folded.iter().zip(folded.iter().skip(1)).any(|(one, other)| one == other)
}

/// Resources and tasks of which one listener may be told.
const SUBSCRIPTIONS_MAX: usize = 64;
/// Members of `params` that mean something to some revision.
const PARAMS: &[&str] = &[
    "name",
    "arguments",
    "_meta",
    "cursor",
    "uri",
    "ref",
    "argument",
    "context",
    "taskId",
    "task",
    "requestState",
    "inputResponses",
    "protocolVersion",
    "capabilities",
    "clientInfo",
    "requestId",
    "reason",
    "notifications",
    "level",
];
/// As much of an unknown version as goes back in the error.
const VERSION_CHARS_MAX: usize = 64;
/// MCP server/tools advises 128 characters; exposed names carry a prefix on top.
const NAME_BYTES_MAX: usize = 256;
/// More no upstream may ask at once (`inspect::asks::ASKS_MAX`).
const UPDATE_ANSWERS_MAX: usize = 16;
/// What upstreams may list, with room for the prefix.
const URI_BYTES_MAX: usize = 8_192;
