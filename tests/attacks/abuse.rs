//! What can a hostile peer pour into a stream, and what does that cost the gateway?
//!
//! Floods that fit any stream of events, and the measure: the resident memory of the gateway's process while many times
//! its bound comes in, and good calls of another upstream meanwhile. Which streams there are is the tests' matter.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use bytes::Bytes;
use serde_json::{Value, json};

use super::Ground;
use crate::harness::{
    gateway::Gateway,
    http::Connection,
    recorder::{Era, Recorder, Reply, Seen, Step},
};

/// By so much the gateway's memory may grow under a flood, of however many streams: tenfold what it needs for one.
pub(super) const GROWTH_KIB_MAX: u64 = 24 << 10;

/// So much comes in at least: far more than every buffer on the way.
pub(super) const POURED_BYTES_MIN: u64 = 6 * (GROWTH_KIB_MAX << 10);

/// For so long a flood goes on at most.
const FLOOD_MAX: Duration = Duration::from_secs(120);

/// What comes without end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flood {
    /// Whole events that nobody asked for: answers to other requests, questions, words of every kind, comments.
    Babble,
    /// One event that goes on and on.
    Event,
    /// One line that goes on and on.
    Line,
    /// Fields that are not data, large ones.
    Fields,
}

impl Flood {
    pub(super) const ALL: [Self; 4] = [Self::Babble, Self::Event, Self::Line, Self::Fields];

    /// One turn of it, in text.
    fn turn(self) -> String {
        let pad = "x".repeat(4_000);
        let word = |method: &str, params: Value| json!({ "jsonrpc": "2.0", "method": method, "params": params });
        match self {
            Self::Event => format!("data: {pad}\n"),
            Self::Line => pad,
            Self::Fields => {
                format!("event: {pad}\nid: {pad}\n: {pad}\nretry: 99999999999999999999\nunknown: {pad}\n\n")
            }
            Self::Babble => [
                json!({ "jsonrpc": "2.0", "id": 424_242, "result": { "of": "the flood", "pad": pad } }),
                json!({ "jsonrpc": "2.0", "id": "1", "error": { "code": -32603, "message": pad } }),
                json!({ "jsonrpc": "2.0", "id": 7, "method": "sampling/createMessage", "params": { "pad": pad } }),
                word("notifications/progress", json!({ "progressToken": "another's", "progress": 1, "message": pad })),
                word("notifications/message", json!({ "level": "emergency", "data": pad })),
                word("notifications/cancelled", json!({ "requestId": 1, "reason": pad })),
                word("notifications/resources/updated", json!({ "uri": format!("file:///{pad}") })),
                word("notifications/of-the-flood", json!({ "pad": pad })),
            ]
            .iter()
            .map(|message| format!(": comment\n\nevent: message\nid: 1\ndata: {message}\n\ndata:\n\n"))
            .collect(),
        }
    }

    /// The flood as a stream of events that begins with `first`.
    pub(super) fn after(self, first: &str) -> Reply {
        let turn = self.turn();
        let piece = turn.repeat((64 << 10) / turn.len() + 1);
        Reply::stream().step(Step::Bytes(Bytes::copy_from_slice(first.as_bytes()))).step(Step::Forever(piece.into()))
    }
}

/// What a server answers that tells of changes of its resources; nothing where that is as with every server.
pub(super) fn resources(era: Era, seen: &Seen) -> Option<Reply> {
    let capabilities = json!({ "tools": {}, "resources": { "subscribe": true } });
    let method = seen.rpc_method();
    Some(match (method.as_str(), era) {
        ("initialize", _) => Reply::result(
            seen,
            &json!({ "protocolVersion": "2025-11-25", "capabilities": capabilities, "serverInfo": { "name": "u", "version": "1" } }),
        )
        .header("mcp-session-id", "session-of-the-recorder"),
        ("server/discover", Era::Modern) => Reply::discovered(seen, &capabilities),
        ("resources/list" | "resources/templates/list", _) => {
            let resource = json!({ "uri": WATCHED, "name": "watched" });
            let empty = json!([]);
            let is_list = method == "resources/list";
            let (member, all) = if is_list { ("resources", json!([resource])) } else { ("resourceTemplates", empty) };
            let mut result = json!({ "resultType": "complete", "ttlMs": 600_000, "cacheScope": "private" });
            result[member] = all;
            Reply::result(seen, &result)
        }
        ("resources/subscribe" | "resources/unsubscribe", Era::Legacy) => Reply::result(seen, &json!({})),
        _ => return None,
    })
}

/// The resource that everybody wants to be told of.
pub(super) const WATCHED: &str = "file:///watched";

/// The first event of a stream of `subscriptions/listen`; nothing for a GET stream.
pub(super) fn acknowledgement(seen: &Seen) -> String {
    if seen.rpc_method() != "subscriptions/listen" {
        return String::new();
    }
    let params = json!({ "notifications": seen.json()["params"]["notifications"] });
    let word = json!({ "jsonrpc": "2.0", "method": "notifications/subscriptions/acknowledged", "params": params });
    format!("data: {word}\n\n")
}

/// Clients of both eras that want to be told of [`WATCHED`], and of the streams on which they would be they read nothing.
pub(super) struct Watching(#[expect(dead_code, reason = "held open")] Vec<Connection>);

impl Watching {
    /// `each` at each of the upstreams `hostile-0` to `hostile-N`.
    pub(super) fn of(ground: &Ground, upstreams: usize, each: usize) -> Self {
        let client = |upstream: usize, number: usize| {
            let id = format!("hostile-{upstream}");
            let client = ground.gateway.client_of(Some(&id), &ground.issuer, &format!("watcher-{}", number / 8));
            let client = client.awaiting("echo");
            if number.is_multiple_of(2) {
                return client.listen(&json!(1), &json!({ "resourceSubscriptions": [WATCHED] }));
            }
            let session = client.initialize();
            let stream = session.stream();
            drop(session.request("resources/subscribe", &json!({ "uri": WATCHED })));
            stream
        };
        Self(
            (0..upstreams)
                .flat_map(|upstream| (0..each).map(move |number| (upstream, number)))
                .map(|(u, n)| client(u, n))
                .collect(),
        )
    }
}

/// The gateway's memory since this was taken.
pub(super) struct Gauge<'g> {
    gateway: &'g Gateway,
    before: u64,
    peak: u64,
}

impl<'g> Gauge<'g> {
    pub(super) fn new(gateway: &'g Gateway) -> Self {
        let before = resident_kib(gateway);
        Self { gateway, before, peak: before }
    }

    /// Reads it once more.
    #[track_caller]
    pub(super) fn read(&mut self, what: &str) {
        self.peak = self.peak.max(resident_kib(self.gateway));
        let grown = self.peak.saturating_sub(self.before);
        assert!(grown < GROWTH_KIB_MAX, "{what}: grew by {grown} KiB from {} KiB", self.before);
    }

    /// What was found.
    pub(super) fn said(&self) -> String {
        format!("{} KiB more memory than {} KiB", self.peak.saturating_sub(self.before), self.before)
    }
}

fn resident_kib(gateway: &Gateway) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", gateway.process.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

/// While `attackers` act again and again, each on a thread of its own, good calls of the upstream `up` succeed and memory
/// stays within its bound, until the hostile upstreams have poured out [`POURED_BYTES_MIN`] in all.
#[track_caller]
pub(super) fn withstands(ground: &Ground, what: &str, hostile: &[&Recorder], attackers: &[&(dyn Fn() + Sync)]) {
    ground.good_call();
    let poured = || hostile.iter().map(|recorder| recorder.poured()).sum::<u64>();
    let (mut gauge, before, began, over) =
        (Gauge::new(&ground.gateway), poured(), Instant::now(), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let _over = Over(&over);
        for attack in attackers {
            let over = &over;
            scope.spawn(move || {
                while !over.load(Ordering::Acquire) {
                    attack();
                }
            });
        }
        while poured() - before < POURED_BYTES_MIN {
            ground.good_call();
            gauge.read(what);
            assert!(began.elapsed() < FLOOD_MAX, "{what}: only {} bytes came", poured() - before);
        }
    });
    ground.good_call();
    gauge.read(what);
    eprintln!(
        "{what}: {} MiB poured, {} KiB more memory, {:?}",
        (poured() - before) >> 20,
        gauge.peak - gauge.before,
        began.elapsed()
    );
}

/// Ends the attack, also where the test fails.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}
