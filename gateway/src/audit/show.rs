//! Who called what, and what came of it?
//!
//! Reads a journal's folder, joins each call's intent with its outcome, and writes those that match, one JSON object a
//! line. It proves nothing ([`super::verify`] does), and can run beside the gateway.

use std::{
    collections::HashMap,
    fmt,
    io::{self, Write},
    path::{Path, PathBuf},
};

use serde_json::{Map, Value};

use super::{
    chain::Header,
    record::{Ending, Event},
    segment::{self, Lines, Next},
    verify::lanes,
};
use crate::clock::Timestamp;

/// What to look for; everything that is given must hold. Texts are compared whole.
#[derive(Debug, Clone, Default)]
pub struct Query {
    /// `user.subject`.
    pub user: Option<String>,
    /// `agent.client_id`, or one of `agent.actors`.
    pub agent: Option<String>,
    /// The tool, by its original or its exposed name.
    pub tool: Option<String>,
    /// `target.upstream`.
    pub upstream: Option<String>,
    /// `tenant`.
    pub tenant: Option<String>,
    /// From this time on.
    pub from: Option<Timestamp>,
    /// Before this time.
    pub to: Option<Timestamp>,
    /// `result.ending`; `refused` for refusals, `open` for calls without an outcome.
    pub outcome: Option<String>,
    /// The audit id.
    pub id: Option<String>,
    /// The event: `intent` for calls, `refusal`, `grant`, `list`, …; calls and refusals where not given.
    pub event: Option<String>,
}

/// Writes every matching entry to `out`: the record, and under `outcome` the result of a call. Says how many there were.
///
/// # Errors
/// Where the journal cannot be read or `out` not be written.
pub fn show(folder: &Path, query: &Query, out: &mut impl Write) -> io::Result<u64> {
    let wrong = |why: &dyn fmt::Display| format!("`{}`: {why}", folder.display());
    let lanes = lanes(folder).map_err(|error| io::Error::new(error.kind(), wrong(&error)))?;
    if lanes.is_empty() {
        return Err(io::Error::new(io::ErrorKind::NotFound, wrong(&"no lanes: not a journal's folder")));
    }
    let mut shown = 0_u64;
    for lane in lanes {
        let mut join = Join { query, waiting: HashMap::new(), order: 0 };
        let segments = segment::list(&lane)?;
        let ends = ends(&segments)?;
        for (index, path) in segments {
            let (mut lines, end) = (Lines::open(&path)?, ends.get(&segment::name(index)));
            while let Next::Line(offset, line) = lines.next()? {
                if end.is_some_and(|end| offset >= *end) {
                    break;
                }
                let Ok(Value::Object(record)) = serde_json::from_slice(line) else { continue };
                if let Some(entry) = join.take(record) {
                    shown = shown.saturating_add(write(&entry, out)?);
                }
            }
        }
        for entry in join.rest() {
            shown = shown.saturating_add(write(&entry, out)?);
        }
    }
    Ok(shown)
}

/// Where segments end, as those after them say: what stands behind that was told to nobody, such as a call that was refused
/// because its record could not be synced.
fn ends(segments: &[(u64, PathBuf)]) -> io::Result<HashMap<String, u64>> {
    let mut ends = HashMap::new();
    for (_, path) in segments {
        let mut lines = Lines::open(path)?;
        let Next::Line(_, line) = lines.next()? else { continue };
        let header = serde_json::from_slice(line).ok().and_then(|line| Header::parse(&line));
        if let Some(previous) = header.and_then(|header| header.previous) {
            ends.insert(previous.name, previous.bytes);
        }
    }
    Ok(ends)
}

fn write(entry: &Map<String, Value>, out: &mut impl Write) -> io::Result<u64> {
    serde_json::to_writer(&mut *out, entry)?;
    out.write_all(b"\n")?;
    Ok(1)
}

/// Intents that wait for their outcome.
struct Join<'q> {
    query: &'q Query,
    waiting: HashMap<String, (u64, Map<String, Value>)>,
    order: u64,
}

impl Join<'_> {
    /// Takes the next record; gives an entry that is complete and matches.
    fn take(&mut self, mut record: Map<String, Value>) -> Option<Map<String, Value>> {
        let event = text(&record, "event")?.to_owned();
        let id = text(&record, "id")?.to_owned();
        match event.as_str() {
            "outcome" => {
                let (_, mut intent) = self.waiting.remove(&id)?;
                let result = record.remove("result")?;
                let ending = result.get("ending").and_then(Value::as_str).unwrap_or_default();
                let wanted = self.query.outcome.as_deref().is_none_or(|outcome| outcome == ending);
                intent.insert("outcome".to_owned(), result);
                wanted.then_some(intent)
            }
            "intent" => {
                if self.query.matches(&event, &record) {
                    self.order = self.order.saturating_add(1);
                    self.waiting.insert(id, (self.order, record));
                }
                None
            }
            _ => {
                let ending = if event == "refusal" { REFUSED } else { "" };
                let wanted = self.query.outcome.as_deref().is_none_or(|outcome| outcome == ending);
                (wanted && self.query.matches(&event, &record)).then_some(record)
            }
        }
    }

    /// Calls that never got an outcome, in the order of their intents.
    fn rest(self) -> Vec<Map<String, Value>> {
        let wanted = self.query.outcome.as_deref().is_none_or(|outcome| outcome == OPEN);
        let mut rest: Vec<_> = if wanted { self.waiting.into_values().collect() } else { Vec::new() };
        rest.sort_by_key(|(order, _)| *order);
        rest.into_iter().map(|(_, intent)| intent).collect()
    }
}

impl Query {
    fn matches(&self, event: &str, record: &Map<String, Value>) -> bool {
        let wanted_event = match &self.event {
            Some(wanted) => wanted == event,
            None => matches!(event, "intent" | "refusal"),
        };
        let is = |wanted: &Option<String>, path: &[&str]| {
            wanted.as_deref().is_none_or(|wanted| at(record, path).and_then(Value::as_str) == Some(wanted))
        };
        wanted_event
            && is(&self.id, &["id"])
            && is(&self.user, &["user", "subject"])
            && is(&self.tenant, &["tenant"])
            && (is(&self.upstream, &["target", "upstream"]) || is(&self.upstream, &["upstream"]))
            && (is(&self.tool, &["target", "name"]) || is(&self.tool, &["target", "exposed"]))
            && (is(&self.agent, &["agent", "client_id"]) || self.acted(record))
            && self.in_time(record)
    }

    fn acted(&self, record: &Map<String, Value>) -> bool {
        let actors = at(record, &["agent", "actors"]).and_then(Value::as_array);
        actors.into_iter().flatten().any(|actor| actor.as_str() == self.agent.as_deref())
    }

    fn in_time(&self, record: &Map<String, Value>) -> bool {
        if self.from.is_none() && self.to.is_none() {
            return true;
        }
        let time = text(record, "time").and_then(|time| time.parse::<jiff::Timestamp>().ok());
        let Some(time) = time.and_then(|time| u64::try_from(time.as_millisecond()).ok()) else { return false };
        let time = Timestamp::from_unix_ms(time);
        self.from.is_none_or(|from| time >= from) && self.to.is_none_or(|to| time < to)
    }
}

fn text<'r>(record: &'r Map<String, Value>, member: &str) -> Option<&'r str> {
    record.get(member).and_then(Value::as_str)
}

fn at<'r>(record: &'r Map<String, Value>, path: &[&str]) -> Option<&'r Value> {
    let (first, rest) = path.split_first()?;
    rest.iter().try_fold(record.get(*first)?, |value, member| value.get(*member))
}

/// What [`Query::event`] may ask for: every event but `outcome`, which stands in its call.
pub const EVENTS: [&str; 24] = [
    Event::Intent.as_str(),
    Event::InputRequested.as_str(),
    Event::InputAnswered.as_str(),
    Event::InputAbandoned.as_str(),
    Event::Refusal.as_str(),
    Event::Grant.as_str(),
    Event::Connect.as_str(),
    Event::List.as_str(),
    Event::Client.as_str(),
    Event::Consent.as_str(),
    Event::Token.as_str(),
    Event::Listen.as_str(),
    Event::ListenEnd.as_str(),
    Event::Config.as_str(),
    Event::Policy.as_str(),
    Event::Revocation.as_str(),
    Event::Key.as_str(),
    Event::Start.as_str(),
    Event::Stop.as_str(),
    Event::RefusalsSummary.as_str(),
    Event::Recovered.as_str(),
    Event::Segment.as_str(),
    Event::OpenCalls.as_str(),
    Event::Checkpoint.as_str(),
];

/// What [`Query::outcome`] may ask for.
pub const OUTCOMES: [&str; 13] = [
    Ending::Ok.as_str(),
    Ending::ToolError.as_str(),
    Ending::InputRequired.as_str(),
    Ending::Task.as_str(),
    Ending::RpcError.as_str(),
    Ending::Failed.as_str(),
    Ending::Cancelled.as_str(),
    Ending::Revoked.as_str(),
    Ending::Expired.as_str(),
    Ending::NotForwarded.as_str(),
    Ending::Unknown.as_str(),
    REFUSED,
    OPEN,
];

/// How a refusal ended, and a call of which nobody knows how it did.
const REFUSED: &str = "refused";
const OPEN: &str = "open";

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::{EVENTS, OUTCOMES};

    #[test]
    fn every_word_of_the_journal_can_be_asked_for() {
        let words = include_str!("record.rs").lines().filter_map(|line| line.trim().strip_prefix("Self::"));
        let words: BTreeSet<&str> = words
            .filter_map(|line| line.split_once(" => \"").and_then(|(_, word)| word.strip_suffix("\",")))
            .filter(|word| *word != "outcome")
            .collect();
        assert_eq!(words.len() + 2, EVENTS.len() + OUTCOMES.len(), "{words:?}");
        assert!(words.iter().all(|word| EVENTS.contains(word) || OUTCOMES.contains(word)), "{words:?}");
    }
}
