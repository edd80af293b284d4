//! How is a server run that is a program?
//!
//! A child process of the gateway, one JSON-RPC message a line on its standard input and output (MCP
//! basic/transports/stdio): started without a shell, with the variables that the configuration names and no others, in a
//! process group of its own, and ended with everything that it started. A legacy server keeps its user's state, so each
//! session has a process of its own; a modern one keeps none, and one process serves everybody.

use std::{
    process::Stdio as Pipe,
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use parking_lot::Mutex;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncRead, AsyncWriteExt as _, BufReader},
    process::{Child, ChildStdin, Command},
    sync::mpsc,
    task::JoinHandle,
    time::timeout,
};

use super::{
    links::{Ending, Link, Links, Seat},
    routes::{Place, Routes, Sharing},
    session::OWN,
    transport::{Answered, Outgoing, Reading, Undelivered},
    warden::{Group, Warden},
};
use crate::{
    clock,
    config::{Limits, Program, UpstreamId},
    exchange::Grant,
    refusal::Refusal,
    rpc::{json::Bounds, outbound},
    secret::Secret,
    tasks,
};

/// One upstream that is a program, and its processes.
#[derive(Debug)]
pub(super) struct Stdio {
    upstream: UpstreamId,
    program: Program,
    links: Arc<Links<Lines>>,
    /// The process that serves a modern server's callers, by name.
    shared: tokio::sync::Mutex<Option<HeaderValue>>,
    falls: Arc<Mutex<Falls>>,
    warden: Arc<Warden>,
    bounds: Bounds,
    line_bytes_max: usize,
    idle: Duration,
}

/// The way to a process: lines for its standard input.
type Lines = mpsc::Sender<Bytes>;

impl Stdio {
    pub(super) fn new(upstream: &UpstreamId, program: &Program, limits: &Limits, warden: &Arc<Warden>) -> Self {
        Self {
            upstream: upstream.clone(),
            program: program.clone(),
            links: Links::new(limits.children_max),
            shared: tokio::sync::Mutex::new(None),
            falls: Arc::default(),
            warden: Arc::clone(warden),
            bounds: Bounds::reply(limits),
            line_bytes_max: limits.reply_bytes_max,
            idle: limits.session_idle,
        }
    }

    /// What the program was given and nobody else may see.
    pub(super) fn secrets(&self) -> &[Secret] {
        &self.program.secrets
    }

    /// Writes one message to the process of its session, and gives what comes back. The first message of a session starts
    /// its process.
    pub(super) async fn post(
        &self,
        grant: &Grant,
        outgoing: Outgoing<'_>,
        bounds: Reading<'_>,
    ) -> Result<Answered, Undelivered> {
        let line = one_line(&outgoing.body);
        if bounds.tripwire.is_some_and(|tripwire| tripwire.trips("", &HeaderMap::new(), &line)) {
            return Err(Undelivered::NotSent(Refusal::CredentialLeak));
        }
        let (asked, within) = (outbound::asked(&outgoing.body), bounds.first_byte);
        let sent = match (outgoing.session, asked) {
            (Some(name), _) => match self.links.find(name) {
                Some(link) => say(&link, line, asked.map(|(id, _)| Place::Call(id)), within).await?,
                None => None,
            },
            (None, Some((id, "initialize"))) => {
                let link = self.start(Sharing::Session, (bounds.owner, within)).await?;
                let sent = say(&link, line, Some(Place::Beginning(id)), within).await?;
                sent.map(|answered| Answered { session: Some(link.name()), ..answered })
            }
            (None, Some((id, _))) => {
                let link = self.shared(within).await?;
                match say(&link, line.clone(), Some(Place::Call(id)), within).await? {
                    Some(answered) => Some(answered),
                    // It ended in this moment; the next one has only just begun.
                    None => say(&*self.shared(within).await?, line, Some(Place::Call(id)), within).await?,
                }
            }
            (None, None) => match self.shared_now().await {
                Some(link) => say(&link, line, None, within).await?,
                None => None,
            },
        };
        // A process that is gone is a session that is gone: of this message it saw nothing.
        let Some(answered) = sent else { return Ok(Answered::gone()) };
        if let Some(sent) = outgoing.sent {
            sent.leaves(grant);
        }
        Ok(answered)
    }

    /// What the process of a session says without being asked.
    pub(super) fn listen(&self, session: Option<&HeaderValue>) -> Answered {
        let link = session.and_then(|name| self.links.find(name));
        link.and_then(|link| link.routes.listen()).map_or_else(Answered::gone, |heard| Answered::routed(Some(heard)))
    }

    /// Ends the process of a session.
    pub(super) fn end(&self, session: Option<&HeaderValue>) {
        self.links.end(session);
    }

    /// Ends all processes, in the order that MCP asks for.
    pub(super) async fn close(&self) {
        self.links.close().await;
    }

    async fn shared_now(&self) -> Option<Arc<Link<Lines>>> {
        let shared = self.shared.lock().await;
        shared.as_ref().and_then(|name| self.links.find(name))
    }

    async fn shared(&self, within: Duration) -> Result<Arc<Link<Lines>>, Undelivered> {
        let mut shared = self.shared.lock().await;
        if let Some(link) = shared.as_ref().and_then(|name| self.links.find(name)) {
            return Ok(link);
        }
        let link = self.start(Sharing::Everybody, (OWN, within)).await?;
        *shared = Some(link.name());
        Ok(link)
    }

    async fn start(
        &self,
        sharing: Sharing,
        (owner, within): ([u8; 32], Duration),
    ) -> Result<Arc<Link<Lines>>, Undelivered> {
        let unreachable = |why: String| Undelivered::NotSent(Refusal::UpstreamUnreachable(why));
        self.falls.lock().may_start(clock::instant()).map_err(unreachable)?;
        let seat = self.links.seat(owner, within).await;
        let seat = seat.map_err(|max| unreachable(format!("all {max} processes that it may take are at work")))?;
        let mut command = Command::new(&self.program.file);
        command.args(&self.program.arguments).env_clear().current_dir(&self.program.directory);
        command.envs(self.program.environment.iter().map(|(name, value)| (name, value.expose())));
        command.stdin(Pipe::piped()).stdout(Pipe::piped()).stderr(Pipe::piped());
        command.process_group(0).kill_on_drop(true);
        let mut child = command.spawn().map_err(|error| {
            self.falls.lock().fell(clock::instant());
            unreachable(format!("`{}` does not start: {error}", self.program.file.display()))
        })?;
        let pipes = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let ((Some(stdin), Some(stdout), Some(stderr)), Some(leader)) = (pipes, child.id()) else {
            return Err(unreachable("the process has ended already".to_owned()));
        };
        tracing::info!(upstream = %self.upstream, process = leader, "started a program");
        let (way, lines) = mpsc::channel(LINES_WAITING_MAX);
        let routes = Routes::new(&self.upstream, self.bounds, sharing);
        let (link, ending) = self.links.open(&seat, Arc::clone(&routes), way.clone());
        let reader = Reader { routes: Arc::clone(&routes), back: way, bytes_max: self.line_bytes_max };
        let keeper = Keeper {
            upstream: self.upstream.clone(),
            leader,
            group: Group::led_by(leader),
            child,
            name: link.name(),
            links: Arc::downgrade(&self.links),
            routes,
            falls: Arc::clone(&self.falls),
            warden: Arc::clone(&self.warden),
            idle: self.idle,
            started: clock::instant(),
            _seat: seat,
        };
        let ears = Ears {
            writer: tasks::background(write(stdin, lines, ending.clone())),
            reader: tasks::background(reader.read(BufReader::new(stdout))),
            listener: tasks::background(overhear(self.upstream.clone(), BufReader::new(stderr))),
        };
        tasks::background(keeper.keep(ears, ending));
        Ok(link)
    }
}

/// Hands a line to a process; `None` where that has ended, and saw nothing of it.
async fn say(
    link: &Link<Lines>,
    line: Bytes,
    place: Option<Place>,
    within: Duration,
) -> Result<Option<Answered>, Undelivered> {
    let routed = match place.map(|place| link.routes.expect(place)) {
        Some(None) => return Ok(None),
        Some(routed) => routed,
        None => None,
    };
    match timeout(within, link.way.send(line)).await {
        Ok(Ok(())) => {
            link.routes.used();
            Ok(Some(Answered::routed(routed)))
        }
        Ok(Err(_closed)) => Ok(None),
        // It never got as far as the pipe.
        Err(_late) => Err(Undelivered::NotSent(Refusal::UpstreamUnreachable("the program does not read".to_owned()))),
    }
}

/// A message as one line. Between the tokens of JSON a newline is a blank, and inside them there is none (RFC 8259 §2, §7):
/// without this, a client that writes its arguments over several lines would begin a message of its own.
fn one_line(message: &[u8]) -> Bytes {
    let mut line: Vec<u8> =
        message.iter().map(|byte| if matches!(byte, b'\n' | b'\r') { b' ' } else { *byte }).collect();
    line.push(b'\n');
    Bytes::from(line)
}

/// How often the program ended by itself, one time after another, and until when it is left alone for that.
#[derive(Debug, Default)]
struct Falls {
    count: u32,
    rests_until: Option<Instant>,
}

impl Falls {
    /// A crash loop costs its callers an error at once, and the machine next to nothing.
    fn may_start(&self, now: Instant) -> Result<(), String> {
        match self.rests_until {
            Some(until) if until > now => {
                let rest = until.saturating_duration_since(now).as_millis();
                Err(format!("the program ended {} times in a row; it is started again in {rest} ms", self.count))
            }
            Some(_) | None => Ok(()),
        }
    }

    /// The first fall may be chance: it is started again at once, and after the next ones later and later.
    fn fell(&mut self, now: Instant) {
        self.count = self.count.saturating_add(1);
        let doublings = self.count.saturating_sub(2).min(REST_DOUBLINGS_MAX);
        let rest = REST_FIRST.saturating_mul(2_u32.saturating_pow(doublings));
        self.rests_until = now.checked_add(rest).filter(|_| self.count > 1);
    }

    fn stood(&mut self) {
        *self = Self::default();
    }
}

/// What goes on at a process's pipes.
struct Ears {
    writer: JoinHandle<()>,
    reader: JoinHandle<Refusal>,
    listener: JoinHandle<()>,
}

impl Drop for Ears {
    fn drop(&mut self) {
        self.writer.abort();
        self.reader.abort();
        self.listener.abort();
    }
}

/// Has one process from its start to its end.
struct Keeper {
    upstream: UpstreamId,
    leader: u32,
    /// Before the child: where both are dropped, everybody ends and not the leader alone.
    group: Group,
    child: Child,
    name: HeaderValue,
    links: Weak<Links<Lines>>,
    routes: Arc<Routes>,
    falls: Arc<Mutex<Falls>>,
    warden: Arc<Warden>,
    idle: Duration,
    started: Instant,
    _seat: Seat,
}

impl Keeper {
    async fn keep(mut self, mut ears: Ears, mut ending: Ending) {
        self.warden.watch(self.leader).await;
        let why = tokio::select! {
            // In this order: whoever was told to end has not ended by itself, however soon it did.
            biased;
            () = ending.come() => None,
            () = self.routes.unused(self.idle) => None,
            why = &mut ears.reader => Some(why.unwrap_or_else(|_| lost("its output cannot be read"))),
            status = self.child.wait() => Some(match status {
                Ok(status) => lost(&format!("the process ended: {status}")),
                Err(error) => lost(&format!("the process is lost: {error}")),
            }),
        };
        if let Some(why) = &why {
            self.last_words(&mut ears.reader).await;
            self.fell(why);
        }
        let links = self.links.upgrade();
        if let Some(links) = &links {
            links.forget(&self.name);
        }
        self.routes.end(&why.unwrap_or_else(|| lost("the process was ended")));
        drop(links);
        // Closed with the writer: the first of the three steps in which MCP ends a server.
        ears.writer.abort();
        self.terminate().await;
        drop(ears);
        self.warden.release(self.leader).await;
        tracing::info!(upstream = %self.upstream, process = self.leader, "a program has ended");
    }

    /// A call that a process ends over is its caller's trouble and begins another one; a process that ends without a call
    /// is the program's, and everybody's.
    fn fell(&self, why: &Refusal) {
        let why = why.inside();
        tracing::warn!(upstream = %self.upstream, process = self.leader, %why, "a program ended by itself");
        let mut falls = self.falls.lock();
        if self.started.elapsed() > STEADY_AFTER {
            falls.stood();
        }
        if !self.routes.is_calling() || !self.routes.has_answered() {
            falls.fell(clock::instant());
        }
    }

    /// What an ended process has written before its end is still read; what it has started would keep the pipe open.
    async fn last_words(&mut self, reader: &mut JoinHandle<Refusal>) {
        if timeout(LAST_WORDS_MAX, self.child.wait()).await.is_ok() {
            self.group.kill();
            if !reader.is_finished() {
                drop(timeout(LAST_WORDS_MAX, reader).await);
            }
        }
    }

    /// Its input is closed; then it is asked, then it is told.
    async fn terminate(&mut self) {
        if timeout(ENDS_AFTER_CLOSE, self.child.wait()).await.is_err() {
            self.group.terminate();
            drop(timeout(ENDS_AFTER_TERMINATE, self.child.wait()).await);
        }
        self.group.kill();
        drop(self.child.wait().await);
    }
}

async fn write(mut stdin: ChildStdin, mut lines: mpsc::Receiver<Bytes>, mut ending: Ending) {
    let writing = async {
        while let Some(line) = lines.recv().await {
            if stdin.write_all(&line).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = ending.come() => {}
        () = writing => {}
    }
}

/// Reads what a process says.
struct Reader {
    routes: Arc<Routes>,
    back: Lines,
    bytes_max: usize,
}

impl Reader {
    /// Reads to the end, and says why it is one.
    async fn read(self, mut stdout: BufReader<impl AsyncRead + Unpin>) -> Refusal {
        let mut line = Vec::new();
        let mut garbage = 0_u32;
        loop {
            match next_line(&mut stdout, &mut line, self.bytes_max).await {
                Line::Whole if line.trim_ascii().is_empty() => {}
                Line::Whole => match self.routes.deliver(Bytes::copy_from_slice(&line)) {
                    Ok(back) => {
                        garbage = 0;
                        // A process that does not read gets no answers either.
                        back.map(|back| self.back.try_send(one_line(&back)).ok());
                    }
                    Err(_) => {
                        garbage = garbage.saturating_add(1);
                        self.routes.dropped("line_not_json_rpc");
                        if garbage > GARBAGE_LINES_MAX {
                            return Refusal::UpstreamInvalid("its standard output is not MCP".to_owned());
                        }
                    }
                },
                // One answer that is too large is its caller's trouble; the process may be everybody's.
                Line::TooLong => self.routes.too_large(answered_by(&line), self.bytes_max),
                Line::Endless => return Refusal::UpstreamTooLarge(self.bytes_max),
                Line::End => return lost("the process closed its standard output"),
            }
        }
    }
}

/// Reads what a process complains of, for the operator alone: it may hold anything.
async fn overhear(upstream: UpstreamId, mut stderr: BufReader<impl AsyncRead + Unpin>) {
    let mut line = Vec::new();
    loop {
        let more = next_line(&mut stderr, &mut line, COMPLAINT_BYTES_MAX).await;
        if !line.is_empty() {
            let text = String::from_utf8_lossy(&line);
            tracing::debug!(%upstream, stderr = %text.trim_end().escape_debug(), "a program says");
        }
        match more {
            Line::Whole | Line::TooLong | Line::Endless => {}
            Line::End => return,
        }
    }
}

enum Line {
    Whole,
    /// Over the bound, and read to its end: no more than its two edges were kept.
    TooLong,
    /// So far over the bound that nobody waits for its end.
    Endless,
    End,
}

/// The next line without its end, in `line`.
async fn next_line(from: &mut BufReader<impl AsyncRead + Unpin>, line: &mut Vec<u8>, bytes_max: usize) -> Line {
    line.clear();
    let mut length = 0_usize;
    loop {
        let Ok(held) = from.fill_buf().await else { return Line::End };
        if held.is_empty() {
            return Line::End; // a line that was not ended is no message
        }
        let end = held.iter().position(|byte| *byte == b'\n');
        let part = held.get(..end.unwrap_or(held.len())).unwrap_or_default();
        line.extend_from_slice(part);
        length = length.saturating_add(part.len());
        let read = part.len().saturating_add(usize::from(end.is_some()));
        from.consume(read);
        let fits = length <= bytes_max;
        if !fits && line.len() > EDGE_BYTES.saturating_mul(2) {
            line.drain(EDGE_BYTES..line.len().saturating_sub(EDGE_BYTES));
        }
        match (fits, end) {
            (true, Some(_)) => return Line::Whole,
            (false, Some(_)) => return Line::TooLong,
            (false, None) if length > bytes_max.saturating_mul(ENDLESS) => return Line::Endless,
            (_, None) => {}
        }
    }
}

/// The request that a message answers of which only the two edges are there. Some servers write the id before the result and
/// some after it; what stands last before the end of the whole, or before its first large member, is a member of the whole.
fn answered_by(edges: &[u8]) -> Option<u64> {
    let text: String = edges.iter().filter(|byte| !byte.is_ascii_whitespace()).map(|byte| char::from(*byte)).collect();
    let members = text.strip_prefix('{')?;
    let is_answer = |text: &str| text.starts_with("\"result\":") || text.starts_with("\"error\":");
    let (version, id) = ("\"jsonrpc\":\"2.0\"", "\"id\":");
    let first = members.strip_prefix(version).and_then(|rest| rest.strip_prefix(',')).unwrap_or(members);
    if let Some((number, rest)) = first.strip_prefix(id).and_then(|rest| rest.split_once(',')) {
        return number.parse().ok().filter(|_| is_answer(rest));
    }
    let last = members.strip_suffix('}').filter(|_| is_answer(first))?;
    let last = last.strip_suffix(version).and_then(|rest| rest.strip_suffix(',')).unwrap_or(last);
    last.rsplit_once(id)?.1.parse().ok()
}

fn lost(why: &str) -> Refusal {
    Refusal::UpstreamLost(why.to_owned())
}

/// Lines that may wait for a process that reads slowly.
const LINES_WAITING_MAX: usize = 64;

/// Of a line over the bound so much is kept at either end.
const EDGE_BYTES: usize = 64;

/// A line that is so many times over the bound has no end.
const ENDLESS: usize = 8;

/// Lines in a row that are no message: a banner is forgiven, a program that speaks something else is not.
const GARBAGE_LINES_MAX: u32 = 200;

/// Of one line of standard error.
const COMPLAINT_BYTES_MAX: usize = 4_096;

/// After its input was closed, a process has so long before it is asked to end; and then so long before it is killed.
const ENDS_AFTER_CLOSE: Duration = Duration::from_secs(2);
const ENDS_AFTER_TERMINATE: Duration = Duration::from_secs(2);

/// For what an ended process has left in its pipe.
const LAST_WORDS_MAX: Duration = Duration::from_millis(500);

/// A process that ran for so long was not part of a crash loop.
const STEADY_AFTER: Duration = Duration::from_secs(10);

/// After the second fall in a row; doubled with each further one, up to 32 seconds.
const REST_FIRST: Duration = Duration::from_millis(500);
const REST_DOUBLINGS_MAX: u32 = 6;

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_line_over_the_bound_costs_itself_and_no_other() {
        let long = "x".repeat(300);
        let text = format!("one\n{long}\ntwo\n{}", "y".repeat(900));
        let mut from = BufReader::with_capacity(16, text.as_bytes());
        let mut line = Vec::new();
        assert!(matches!(next_line(&mut from, &mut line, 100).await, Line::Whole) && line == b"one");
        assert!(matches!(next_line(&mut from, &mut line, 100).await, Line::TooLong) && line == [b'x'; 128]);
        assert!(matches!(next_line(&mut from, &mut line, 100).await, Line::Whole) && line == b"two");
        assert!(matches!(next_line(&mut from, &mut line, 100).await, Line::Endless));
    }

    #[test]
    fn an_answer_is_known_by_its_edges_and_nothing_else_is_an_answer() {
        for (edges, id) in [
            (r#"{"jsonrpc":"2.0","id":7,"result":{"content":[{"text":"id"#, Some(7)),
            (r#"{ "id": 7, "error": {"message":""#, Some(7)),
            (r#"{"result":{"content":[ x"}]},"jsonrpc":"2.0","id":7}"#, Some(7)),
            (r#"{"jsonrpc":"2.0","result":{"content":[ x"}]},"id":7}"#, Some(7)),
            (r#"{"jsonrpc":"2.0","id":7,"method":"sampling/createMessage","params":{"#, None),
            (r#"{"method":"sampling/createMessage","params":{ },"jsonrpc":"2.0","id":7}"#, None),
            (r#"{"jsonrpc":"2.0","method":"notifications/message","params":{"data":{"id":7}"#, None),
            (r#"{"result":{"content":[{"id":7}]}}"#, None),
            (r#"{"result":{"content":"\"id\":7"}}"#, None),
            (r#"{"jsonrpc":"2.0","id":"7","result":{"#, None),
            ("xxxxxxxx", None),
        ] {
            assert_eq!(answered_by(edges.as_bytes()), id, "{edges}");
        }
    }
}
