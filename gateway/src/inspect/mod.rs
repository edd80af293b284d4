//! May it go back?
//!
//! What an upstream said in, an [`Answer`] out: correlated, well-formed, in the client's revision, with the client's own
//! id. It does not read streams, and it does not know policies.

pub mod asks;
mod content;
mod forms;
mod relay;
pub mod tasks;

use std::{borrow::Cow, time::Duration};

use bytes::Bytes;

pub use self::{
    asks::Asked,
    relay::{Dropped, Relay},
};
use crate::{
    refusal::{Era, Refusal, VERSION},
    rpc::{
        Asker, Capabilities, Method,
        json::{Value, write_string},
        meta, outbound,
        reply::{Response, RpcError},
        uris, versions,
    },
};

/// The proof that something may go back to the client: a whole JSON-RPC response. Made by this module only.
///
/// ```compile_fail
/// let forged = tollgate::inspect::Answer { body: bytes::Bytes::new(), outcome: tollgate::inspect::Outcome::Complete };
/// ```
#[derive(Debug)]
pub struct Answer {
    body: Bytes,
    outcome: Outcome,
}

/// What the journal and the metrics say of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// A result.
    Complete,
    /// A result with `isError`: the tool ran, and says that it failed.
    ToolError,
    /// A modern client is asked for something before there is a result.
    InputRequired,
    /// The call became a task, which the client follows.
    Task,
    /// A JSON-RPC error, with the upstream's own code.
    RpcError(i64),
}

impl Answer {
    /// A refusal as a result with `isError`: what a legacy client shows to the model, where the model could do something
    /// about it (spec §2.2). It is signed, so that nobody takes it for the tool's own word (RI-10).
    #[must_use]
    pub fn failed(asker: &Asker, refusal: &Refusal) -> Self {
        let outside = refusal.outside(asker.era);
        let mut out = br#"{"jsonrpc":"2.0""#.to_vec();
        outbound::member(&mut out, "id", asker.id.raw());
        out.extend_from_slice(br#","result":{"content":[{"type":"text","text":"#);
        write_string(&mut out, &outside.message);
        out.extend_from_slice(br#"}],"isError":true,"_meta":{"#);
        outbound::member(&mut out, meta::ERROR, b"{");
        outbound::member_text(&mut out, "code", outside.code);
        outbound::member_text(&mut out, "version", VERSION);
        out.extend_from_slice(b"}}}}");
        Self { body: Bytes::from(out), outcome: Outcome::ToolError }
    }

    /// The text that goes back.
    #[must_use]
    pub const fn body(&self) -> &Bytes {
        &self.body
    }

    /// The text that goes back, taken over.
    #[must_use]
    pub fn into_body(self) -> Bytes {
        self.body
    }

    /// How the call ended.
    #[must_use]
    pub const fn outcome(&self) -> Outcome {
        self.outcome
    }
}

/// What an upstream's answer comes to.
#[derive(Debug)]
pub enum Admitted {
    /// The client's answer.
    Answer(Answer),
    /// There is none before the client has been asked something.
    Input(Asked),
    /// The client's answer, an error that asks this of it.
    Pages(Asked, Answer),
    /// The call became a task: there is one when that has ended.
    Task(tasks::Created),
}

/// What was sent, and how its answer has to look.
#[derive(Debug, Clone, Copy)]
pub struct Sent<'a> {
    /// The method.
    pub method: Method,
    /// The id under which the upstream knows the request.
    pub id: u64,
    /// The revision that it was sent in.
    pub version: &'a str,
    /// What it said that the client can do.
    pub declared: Capabilities,
    /// Whether a legacy upstream was told to make a task of the call.
    pub as_task: bool,
    /// The upstream's id, where the URIs that the client sees carry it.
    pub prefix: Option<&'a str>,
    /// How long ago the answer came, where it was kept since: what it says of its age is stamped down by that (RS-27).
    pub age: Duration,
}

impl Sent<'_> {
    fn era(&self) -> Era {
        versions::era(self.version)
    }

    /// The task that a call became. Where nobody said that they would follow it, it is as invalid as any other type of
    /// result (RS-37).
    fn task<'v>(&self, result: Value<'v>) -> Option<Value<'v>> {
        match self.era() {
            _ if self.method != Method::ToolsCall => None,
            Era::Modern if !self.declared.has(Capabilities::TASKS) => None,
            Era::Modern => result.get("resultType").is_some_and(|kind| kind.is("task")).then_some(result),
            Era::Legacy => result.get("task").filter(|task| self.as_task && task.is_object()),
        }
    }

    /// RS-30: whether the upstream may ask for something before it answers.
    const fn may_ask(&self) -> bool {
        matches!(self.method, Method::ToolsCall | Method::PromptsGet | Method::ResourcesRead)
    }
}

/// Turns an upstream's answer into the client's.
///
/// # Errors
/// [`Refusal::UpstreamInvalid`], with the reason for the journal, [`Refusal::CapabilityMissing`] where the upstream
/// says that of a modern client's request (RS-17), and [`Refusal::InputUndeclared`] where it asks for what the client
/// cannot do.
pub fn admit(asker: &Asker, sent: &Sent<'_>, response: &Response) -> Result<Admitted, Refusal> {
    if !response.answers(sent.id) {
        return invalid("an answer with another id");
    }
    let upstream = sent.era();
    if let Some(task) = response.outcome().ok().and_then(|result| sent.task(result)) {
        return tasks::Created::of(task, upstream).map(Admitted::Task);
    }
    match response.outcome() {
        Ok(result)
            if upstream == Era::Modern
                && sent.may_ask()
                && result.get("resultType").is_some_and(|kind| kind.is("input_required")) =>
        {
            return Asked::by_result(result, sent).map(Admitted::Input);
        }
        // The client visits the pages and makes the call again: a modern one is asked to, a legacy one knows the error.
        Err(error)
            if error.code == URL_ELICITATION_REQUIRED
                && sent.may_ask()
                && (asker.era, upstream) == (Era::Modern, Era::Legacy) =>
        {
            return match Asked::by_error(error.data(), sent) {
                Err(Refusal::InputUndeclared(needed)) => Err(Refusal::CapabilityMissing(needed)),
                asked => asked.map(Admitted::Input),
            };
        }
        Err(error) if error.code == URL_ELICITATION_REQUIRED && knows_pages(asker.era, sent) => {
            let asked = Asked::by_error(error.data(), sent)?;
            return Ok(Admitted::Pages(asked, failure(asker, sent, error)));
        }
        // The one protocol error of the modern era that is about the client, and no more than that is taken of it.
        Err(error) if error.code == CAPABILITY_MISSING && upstream == Era::Modern => {
            let required = required_capabilities(error);
            return Err(match asker.era {
                Era::Modern => Refusal::CapabilityMissing(required),
                Era::Legacy => Refusal::InputUndeclared(required),
            });
        }
        Ok(_) | Err(_) => {}
    }
    let result = match response.outcome() {
        Ok(result) => result,
        Err(error) => return Ok(Admitted::Answer(failure(asker, sent, error))),
    };
    let mut out = begin(asker, response.text().len());
    outbound::member(&mut out, "result", b"");
    let outcome = write_result(&mut out, asker, sent, result)?;
    out.push(b'}');
    Ok(Admitted::Answer(Answer { body: Bytes::from(out), outcome }))
}

/// The answer that an upstream's error becomes.
fn failure(asker: &Asker, sent: &Sent<'_>, error: RpcError<'_>) -> Answer {
    let mut out = begin(asker, 0);
    outbound::member(&mut out, "error", b"");
    write_error(&mut out, asker, sent, error);
    out.push(b'}');
    Answer { body: Bytes::from(out), outcome: Outcome::RpcError(error.code) }
}

/// Whether both sides know of error -32042.
fn knows_pages(client: Era, sent: &Sent<'_>) -> bool {
    (client, sent.era()) == (Era::Legacy, Era::Legacy) && sent.may_ask() && sent.declared.has(Capabilities::URL)
}

/// With room for a member of about so many bytes.
fn begin(asker: &Asker, room: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(room.saturating_add(256));
    out.extend_from_slice(br#"{"jsonrpc":"2.0""#);
    outbound::member(&mut out, "id", asker.id.raw());
    out
}

/// A result: checked as far as the gateway's own acts depend on it, then copied member by member.
fn write_result(out: &mut Vec<u8>, asker: &Asker, sent: &Sent<'_>, result: Value<'_>) -> Result<Outcome, Refusal> {
    let mut outcome = Outcome::Complete;
    out.push(b'{');
    if asker.era == Era::Modern {
        // RS-18, RC-08. A legacy upstream does not know the member, whatever it wrote there.
        outbound::member_text(out, "resultType", "complete");
    }
    let mut last = Last::default();
    for (name, value) in result.members() {
        match (name.text().as_deref(), sent.method) {
            (Some("resultType"), _) => {
                if versions::era(sent.version) == Era::Modern && !value.is("complete") {
                    return invalid("a `resultType` that nothing was declared for");
                }
            }
            (Some("ttlMs"), _) => last.ttl_ms = value.integer(),
            (Some("cacheScope"), _) => {}
            (Some("isError"), Method::ToolsCall) => {
                match value.boolean() {
                    Some(true) => outcome = Outcome::ToolError,
                    Some(false) => {}
                    None => return invalid("an `isError` that is not a boolean"),
                }
                outbound::member_raw(out, name.raw(), value.raw());
            }
            (Some("content"), Method::ToolsCall) => {
                outbound::member(out, "content", b"");
                content::blocks(out, asker.version, value, sent.prefix)?;
            }
            (Some("structuredContent"), Method::ToolsCall) => {
                if has_structured_content(asker, value) {
                    outbound::member_raw(out, name.raw(), value.raw());
                }
            }
            (Some("messages"), Method::PromptsGet) => content::messages(out, asker.version, value, sent.prefix)?,
            (Some("contents"), Method::ResourcesRead) => {
                last.whole = true;
                content::contents(out, value, sent.prefix)?;
            }
            (Some("completion"), Method::CompletionComplete) => content::completion(out, value)?,
            (Some("_meta"), _) => {
                if !value.is_object() {
                    return invalid("a `_meta` that is not an object");
                }
                last.meta = Some(value);
            }
            _ => outbound::member_raw(out, name.raw(), value.raw()),
        }
    }
    if sent.method == Method::ResourcesRead {
        if !last.whole {
            return invalid("a result without `contents`");
        }
        if asker.era == Era::Modern {
            // RS-27. It was read under this caller's credential, so it is nobody else's (RI-06).
            let ttl_ms = last.ttl_ms.filter(|_| versions::era(sent.version) == Era::Modern).unwrap_or(0);
            let age_ms = i64::try_from(sent.age.as_millis()).unwrap_or(i64::MAX);
            let ttl_ms = ttl_ms.saturating_sub(age_ms).max(0);
            outbound::member(out, "ttlMs", ttl_ms.to_string().as_bytes());
            outbound::member_text(out, "cacheScope", "private");
        }
    }
    write_meta(out, asker.era, last.meta, sent.prefix);
    out.push(b'}');
    Ok(outcome)
}

/// What of a result is written last.
#[derive(Default)]
struct Last<'a> {
    /// Whether the member is there without which the result says nothing.
    whole: bool,
    ttl_ms: Option<i64>,
    meta: Option<Value<'a>>,
}

/// RL-11: before 2026-07-28 it is an object, and before 2025-06-18 there is none; the text beside it stays.
fn has_structured_content(asker: &Asker, value: Value<'_>) -> bool {
    asker.era == Era::Modern || (value.is_object() && versions::at_least(asker.version, "2025-06-18"))
}

/// The upstream's `_meta` with the gateway as the server: it is the one that the client speaks with (RS-18, spec §3.4).
fn write_meta(out: &mut Vec<u8>, era: Era, upstream: Option<Value<'_>>, prefix: Option<&str>) {
    let server = (era == Era::Modern).then_some((meta::SERVER_INFO, outbound::IMPLEMENTATION));
    write_meta_led(out, server, upstream, prefix);
}

/// The same with another member of the gateway's own, or none.
fn write_meta_led(out: &mut Vec<u8>, led: Option<(&str, &[u8])>, upstream: Option<Value<'_>>, prefix: Option<&str>) {
    let mut own = vec![b'{'];
    if let Some((name, value)) = led {
        outbound::member(&mut own, name, value);
    }
    for (name, value) in upstream.into_iter().flat_map(Value::members) {
        if GATEWAY_META.iter().any(|own| name.is(own)) {
            continue;
        }
        match prefix {
            Some(id) => uris::write_meta_member(&mut own, (name, value), id),
            None => outbound::member_raw(&mut own, name.raw(), value.raw()),
        }
    }
    own.push(b'}');
    if own.len() > 2 {
        outbound::member(out, "_meta", &own);
    }
}

/// Where an upstream's error goes (spec §2.0 rule 6, §2.1).
enum Passage {
    /// As it is: it is about this call.
    Through,
    /// Under another code: a resource that is not there is `-32002` for legacy clients and servers, and invalid params for
    /// modern ones (RC-11, spec §2.2).
    As(i64),
    /// Inside an error of the gateway: the code speaks of the gateway's own request, or has no agreed meaning, and would
    /// mislead the client about its own.
    Wrapped,
}

fn passage(code: i64, era: Era, sent: &Sent<'_>) -> Passage {
    match (code, era) {
        (INVALID_PARAMS, Era::Legacy)
            if sent.method == Method::ResourcesRead && versions::era(sent.version) == Era::Modern =>
        {
            Passage::As(RESOURCE_NOT_FOUND)
        }
        (INVALID_PARAMS | INTERNAL_ERROR, _) => Passage::Through,
        (RESOURCE_NOT_FOUND, Era::Legacy) => Passage::Through,
        (RESOURCE_NOT_FOUND, Era::Modern) => Passage::As(INVALID_PARAMS),
        (URL_ELICITATION_REQUIRED, era) if knows_pages(era, sent) => Passage::Through,
        // What JSON-RPC 2.0 §5.1 reserves. Outside of it an application speaks for itself.
        (-32768..=-32000, _) => Passage::Wrapped,
        _ => Passage::Through,
    }
}

fn write_error(out: &mut Vec<u8>, asker: &Asker, sent: &Sent<'_>, error: RpcError<'_>) {
    let message = error.message();
    out.push(b'{');
    let code = match passage(error.code, asker.era, sent) {
        Passage::Through => error.code,
        Passage::As(code) => code,
        Passage::Wrapped => {
            outbound::member(out, "code", INTERNAL_ERROR.to_string().as_bytes());
            outbound::member_text(out, "message", "the server behind this answered with a protocol error");
            out.extend_from_slice(br#","data":{"source":"gateway","code":"upstream_error","version":"#);
            write_string(out, VERSION);
            out.extend_from_slice(br#","retryable":false,"upstream":{"#);
            outbound::member(out, "code", error.code.to_string().as_bytes());
            outbound::member_text(out, "message", &message);
            out.extend_from_slice(b"}}}");
            return;
        }
    };
    outbound::member(out, "code", code.to_string().as_bytes());
    outbound::member_text(out, "message", &message);
    if let Some(data) = error.data().filter(|data| !claims_gateway(*data)) {
        outbound::member(out, "data", b"");
        if sent.method == Method::ResourcesRead && data.is_object() {
            // The resource that is not there, under the URI that the client asked for (MCP server/resources, errors).
            uris::write_object(out, data, sent.prefix);
        } else {
            out.extend_from_slice(data.raw());
        }
    }
    out.push(b'}');
}

/// The ClientCapabilities object that the upstream asks for, where it is one of sensible size.
fn required_capabilities(error: RpcError<'_>) -> Cow<'static, str> {
    let required = error.data().and_then(|data| data.get("requiredCapabilities"));
    let required = required.filter(|value| value.is_object() && value.raw().len() <= CAPABILITIES_BYTES_MAX);
    required.map_or(Cow::Borrowed("{}"), |value| Cow::Owned(String::from_utf8_lossy(value.raw()).into_owned()))
}

/// RI-10 from the other side: an upstream that signs an error as the gateway.
fn claims_gateway(data: Value<'_>) -> bool {
    data.get("source").is_some_and(|source| source.is("gateway"))
}

fn invalid<T>(why: &'static str) -> Result<T, Refusal> {
    Err(Refusal::UpstreamInvalid(why.to_owned()))
}

/// Members of `_meta` that an upstream says nothing by: they are about whom the client speaks with, and how.
const GATEWAY_META: [&str; 4] = [meta::SERVER_INFO, meta::DEGRADED, meta::RELATED_TASK, meta::SUBSCRIPTION_ID];

/// JSON-RPC 2.0 §5.1, as far as an upstream's code decides its passage.
const INVALID_PARAMS: i64 = -32602;
const INTERNAL_ERROR: i64 = -32603;
/// MissingRequiredClientCapability (MCP 2026-07-28 basic), from a modern upstream.
const CAPABILITY_MISSING: i64 = -32021;
/// URLElicitationRequired (MCP 2025-11-25 client/elicitation), from a legacy upstream.
const URL_ELICITATION_REQUIRED: i64 = -32042;
/// Far beyond what the protocol's capabilities take.
const CAPABILITIES_BYTES_MAX: usize = 1024;
/// MCP up to 2025-11-25, server/resources.
const RESOURCE_NOT_FOUND: i64 = -32002;

#[cfg(test)]
mod tests;
