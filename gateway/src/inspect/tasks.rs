//! What does an upstream say of a task?
//!
//! Tasks as the extension `io.modelcontextprotocol/tasks` has them: read once, and written under the gateway's own id, with
//! the result inspected that is within, whether that was asked for or told (spec §2.4, RS-37). It does not know for how long
//! anybody waits.

use std::{borrow::Cow, time::Duration};

use bytes::Bytes;

use super::{Answer, Asked, Outcome, Sent, asks::Ask, invalid, write_error, write_meta, write_meta_led, write_result};
use crate::{
    refusal::{Era, Refusal},
    rpc::{
        Asker, Capabilities, Method,
        json::{Document, Kind, Value},
        meta, outbound,
        reply::{Response, RpcError},
    },
};

/// How far a task is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Status {
    Working,
    InputRequired,
    Completed,
    Failed,
    Cancelled,
}

impl Status {
    const ALL: [(Self, &'static str); 5] = [
        (Self::Working, "working"),
        (Self::InputRequired, "input_required"),
        (Self::Completed, "completed"),
        (Self::Failed, "failed"),
        (Self::Cancelled, "cancelled"),
    ];

    fn of(word: Value<'_>) -> Option<Self> {
        Self::ALL.into_iter().find(|(_, text)| word.is(text)).map(|(status, _)| status)
    }

    fn as_str(self) -> &'static str {
        Self::ALL.into_iter().find(|(status, _)| *status == self).map_or("", |(_, text)| text)
    }
}

/// A task in an upstream's words.
struct Task<'a> {
    id: Cow<'a, str>,
    status: Status,
    ttl_ms: Option<u64>,
    poll_ms: Option<u64>,
    whole: Value<'a>,
}

impl<'a> Task<'a> {
    fn of(whole: Value<'a>) -> Result<Self, Refusal> {
        let id = id(whole)?;
        let Some(status) = whole.get("status").and_then(Status::of) else {
            return invalid("a task whose status is not one of the five");
        };
        let number = |name: &str| match whole.get(name).filter(|value| !value.is_null()) {
            None => Ok(None),
            Some(value) => match value.integer().and_then(|number| u64::try_from(number).ok()) {
                Some(number) => Ok(Some(number)),
                None => invalid("a task whose times are not whole numbers"),
            },
        };
        Ok(Self { id, status, ttl_ms: number("ttlMs")?, poll_ms: number("pollIntervalMs")?, whole })
    }

    /// The extension's members of a task, and everything else that the upstream wrote.
    fn write(&self, out: &mut Vec<u8>, shown: &str, life_ms: u64) {
        outbound::member_text(out, "taskId", shown);
        outbound::member_text(out, "status", self.status.as_str());
        outbound::member(out, "ttlMs", self.ttl_ms.map_or(life_ms, |ttl| ttl.min(life_ms)).to_string().as_bytes());
        if let Some(poll_ms) = self.poll_ms {
            outbound::member(out, "pollIntervalMs", poll_ms.to_string().as_bytes());
        }
        for (name, value) in self.whole.members() {
            if !name.text().is_some_and(|name| WRITTEN.contains(&name.as_ref())) {
                outbound::member_raw(out, name.raw(), value.raw());
            }
        }
    }

    fn working(&self) -> Working {
        let text = |name| self.whole.get(name).and_then(Value::text);
        let brief = |text: Cow<'_, str>| text.chars().take(MESSAGE_CHARS_MAX).collect();
        Working {
            again: self.poll_ms.map(Duration::from_millis),
            message: text("statusMessage").map(brief),
            updated: text("lastUpdatedAt").map(brief),
        }
    }
}

fn id(task: Value<'_>) -> Result<Cow<'_, str>, Refusal> {
    let Some(id) = task.get("taskId").and_then(Value::text) else { return invalid("a task without an id") };
    if id.is_empty() || id.len() > ID_BYTES_MAX {
        return invalid("a task whose id is empty or too long");
    }
    Ok(id)
}

/// How a task stands, in its upstream's words, as that tells it without being asked at that moment.
#[derive(Debug)]
pub struct State {
    document: Document,
    version: &'static str,
    id: String,
    ended: bool,
}

impl State {
    /// Reads a DetailedTask of a revision.
    ///
    /// # Errors
    /// [`Refusal::UpstreamInvalid`].
    pub fn read(document: Document, version: &'static str) -> Result<Self, Refusal> {
        let task = Task::of(document.root())?;
        let ended = matches!(task.status, Status::Completed | Status::Failed | Status::Cancelled);
        let id = task.id.into_owned();
        Ok(Self { document, version, id, ended })
    }

    /// The same, to be kept for a while.
    #[must_use]
    pub fn compact(mut self) -> Self {
        self.document = self.document.compact();
        self
    }

    /// What the upstream calls the task.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Whether it is the last that there is to tell.
    #[must_use]
    pub const fn has_ended(&self) -> bool {
        self.ended
    }

    /// The memory that it takes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.document.bytes()
    }
}

/// A call that became a task.
#[derive(Debug)]
pub struct Created {
    document: Document,
    /// What the upstream calls it.
    pub id: String,
    /// How long the upstream keeps it; nothing where that has no end.
    pub ttl_ms: Option<u64>,
}

impl Created {
    /// Reads the task of a CreateTaskResult; of one of MCP 2025-11-25 the id says enough.
    pub(super) fn of(task: Value<'_>, era: Era) -> Result<Self, Refusal> {
        let ttl_ms = match era {
            Era::Modern => Task::of(task)?.ttl_ms,
            Era::Legacy => None,
        };
        Ok(Self { document: task.detached(), id: id(task)?.into_owned(), ttl_ms })
    }

    /// The answer for a client that follows the task itself, under the id `shown`.
    ///
    /// # Errors
    /// [`Refusal::UpstreamInvalid`].
    pub fn answer(&self, asker: &Asker, shown: &str, life_ms: u64) -> Result<Answer, Refusal> {
        let task = Task::of(self.document.root())?;
        let mut out = begin(asker);
        outbound::member_text(&mut out, "resultType", "task");
        task.write(&mut out, shown, life_ms);
        write_meta(&mut out, asker.era, task.whole.get("_meta"), None);
        Ok(end(out, Outcome::Task))
    }

    /// What the gateway knows of it, where it follows the task itself.
    ///
    /// # Errors
    /// [`Refusal::UpstreamInvalid`].
    pub fn working(&self) -> Result<Working, Refusal> {
        Task::of(self.document.root()).map(|task| task.working())
    }
}

/// What a client asked about.
#[derive(Debug, Clone, Copy)]
pub struct Known<'a> {
    /// What the upstream calls the task.
    pub id: &'a str,
    /// What the client calls it.
    pub shown: &'a str,
    /// How long the client's id is good.
    pub life_ms: u64,
}

/// How far a task is that the gateway follows itself.
#[derive(Debug)]
pub enum Progress {
    /// The upstream is at work.
    Working(Working),
    /// It needs something from the client first.
    Input(Asked),
    /// It is done, and that is the answer to the call.
    Answer(Answer),
}

/// An upstream that is at work on a task.
#[derive(Debug, Default)]
pub struct Working {
    /// After how long it wants to be asked again.
    pub again: Option<Duration>,
    /// What it says of that.
    pub message: Option<String>,
    /// When it last did something, in its own words.
    pub updated: Option<String>,
}

/// Turns an upstream's answer to a request about a task into the client's; and says what the task asks for, if anything.
///
/// # Errors
/// As [`super::admit`], and [`Refusal::TaskUnknown`].
pub fn follow(
    asker: &Asker,
    sent: &Sent<'_>,
    known: &Known<'_>,
    response: &Response,
) -> Result<(Answer, Vec<(String, Ask)>), Refusal> {
    if !response.answers(sent.id) {
        return invalid("an answer with another id");
    }
    let result = match response.outcome() {
        Ok(result) => result,
        // In the upstream's words it may be called by the upstream's name for it.
        Err(error) if error.code == super::INVALID_PARAMS && sent.method != Method::TasksUpdate => {
            return Err(Refusal::TaskUnknown("one that the upstream does not know any more"));
        }
        Err(error) => {
            let mut out = super::begin(asker, 0);
            outbound::member(&mut out, "error", b"");
            write_error(&mut out, asker, sent, error);
            out.push(b'}');
            return Ok((Answer { body: Bytes::from(out), outcome: Outcome::RpcError(error.code) }, Vec::new()));
        }
    };
    let mut out = begin(asker);
    outbound::member_text(&mut out, "resultType", "complete");
    let (mut outcome, mut asks) = (Outcome::Complete, Vec::new());
    // An update and a cancellation are acknowledged, and no more (ext-tasks).
    if sent.method == Method::TasksGet {
        (outcome, asks) = write_state(&mut out, asker, sent, known, result)?;
    }
    write_meta(&mut out, asker.era, result.get("_meta"), sent.prefix);
    Ok((end(out, outcome), asks))
}

/// Turns what an upstream tells of a task into `notifications/tasks` for a listener, `asker`; and says what the task asks
/// for, if anything. The client reads in it what `tasks/get` would have said (ext-tasks).
///
/// # Errors
/// As [`follow`].
pub fn told(
    asker: &Asker,
    (declared, prefix): (Capabilities, Option<&str>),
    known: &Known<'_>,
    state: &State,
) -> Result<(Bytes, Vec<(String, Ask)>), Refusal> {
    let (version, method) = (state.version, Method::TasksGet);
    let sent = Sent { method, id: 0, version, declared, as_task: false, prefix, age: Duration::ZERO };
    let task = state.document.root();
    let mut out = br#"{"jsonrpc":"2.0","method":"notifications/tasks","params":{"#.to_vec();
    let (_, asks) = write_state(&mut out, asker, &sent, known, task)?;
    let listener = (meta::SUBSCRIPTION_ID, asker.id.raw());
    write_meta_led(&mut out, Some(listener), task.get("_meta"), prefix);
    out.extend_from_slice(b"}}");
    Ok((Bytes::from(out), asks))
}

/// A DetailedTask, under the client's id for it.
fn write_state(
    out: &mut Vec<u8>,
    asker: &Asker,
    sent: &Sent<'_>,
    known: &Known<'_>,
    state: Value<'_>,
) -> Result<(Outcome, Vec<(String, Ask)>), Refusal> {
    let task = Task::of(state)?;
    if task.id != known.id {
        return invalid("another task than was asked about");
    }
    task.write(out, known.shown, known.life_ms);
    let whole = Sent { method: Method::ToolsCall, ..*sent };
    match task.status {
        Status::Working | Status::Cancelled => Ok((Outcome::Complete, Vec::new())),
        Status::InputRequired => {
            let asked = Asked::by_result(state, &whole)?;
            asked.write_requests(out, asker.version);
            Ok((Outcome::Complete, asked.asks))
        }
        Status::Completed => {
            let inner = inner(state, "result")?;
            outbound::member(out, "result", b"");
            Ok((write_result(out, asker, &whole, inner)?, Vec::new()))
        }
        Status::Failed => {
            let error = failure(state)?;
            outbound::member(out, "error", b"");
            write_error(out, asker, &whole, error);
            Ok((Outcome::RpcError(error.code), Vec::new()))
        }
    }
}

/// Reads an upstream's answer to a request of the gateway's own about the task `id`, as the answer to the call that became
/// the task, where it is one.
///
/// # Errors
/// As [`super::admit`], and [`Refusal::UpstreamLost`] where there will be no answer.
pub fn polled(asker: &Asker, sent: &Sent<'_>, id: &str, response: &Response) -> Result<Progress, Refusal> {
    if !response.answers(sent.id) {
        return invalid("an answer with another id");
    }
    let result = match response.outcome() {
        Ok(result) => result,
        Err(error) => return Err(Refusal::UpstreamLost(format!("the task: error {}", error.code))),
    };
    if sent.method != Method::TasksGet {
        return Ok(Progress::Working(Working { again: Some(Duration::ZERO), ..Working::default() }));
    }
    let task = Task::of(result)?;
    if task.id != id {
        return invalid("another task than was asked about");
    }
    let whole = Sent { method: Method::ToolsCall, ..*sent };
    let mut out = super::begin(asker, 0);
    let outcome = match task.status {
        Status::Working => return Ok(Progress::Working(task.working())),
        Status::InputRequired => return Asked::by_result(result, &whole).map(Progress::Input),
        Status::Cancelled => return Err(Refusal::UpstreamLost("the upstream cancelled the task".to_owned())),
        Status::Completed => {
            let inner = inner(result, "result")?;
            outbound::member(&mut out, "result", b"");
            write_result(&mut out, asker, &whole, inner)?
        }
        Status::Failed => {
            let error = failure(result)?;
            outbound::member(&mut out, "error", b"");
            write_error(&mut out, asker, &whole, error);
            Outcome::RpcError(error.code)
        }
    };
    out.push(b'}');
    Ok(Progress::Answer(Answer { body: Bytes::from(out), outcome }))
}

fn inner<'a>(task: Value<'a>, name: &str) -> Result<Value<'a>, Refusal> {
    match task.get(name).filter(|value| value.is_object()) {
        Some(value) => Ok(value),
        None => invalid("a task that has ended without a `result` or an `error`"),
    }
}

fn failure(task: Value<'_>) -> Result<RpcError<'_>, Refusal> {
    let error = inner(task, "error")?;
    match (error.get("code").and_then(Value::integer), error.get("message").map(Value::kind)) {
        (Some(code), Some(Kind::String)) => Ok(RpcError { code, error }),
        _ => invalid("a task that failed with something else than a JSON-RPC error"),
    }
}

fn begin(asker: &Asker) -> Vec<u8> {
    let mut out = super::begin(asker, 0);
    outbound::member(&mut out, "result", b"{");
    out
}

fn end(mut out: Vec<u8>, outcome: Outcome) -> Answer {
    out.extend_from_slice(b"}}");
    Answer { body: Bytes::from(out), outcome }
}

/// Members of a task that are written in the gateway's own words, or after it.
const WRITTEN: &[&str] = &[
    "taskId",
    "status",
    "ttlMs",
    "pollIntervalMs",
    "result",
    "error",
    "inputRequests",
    "resultType",
    "requestState",
    "_meta",
];

/// An upstream's id travels within ours, which travels in a header.
const ID_BYTES_MAX: usize = 512;

/// Of what an upstream says of its progress.
const MESSAGE_CHARS_MAX: usize = 512;
