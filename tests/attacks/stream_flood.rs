//! A server that pours events without end into every stream that the gateway reads of it (RS-07, I9).
//!
//! Not into calls alone: into the gateway's own questions, its readings of lists, and the streams on which it waits for
//! word of changes. Memory stays bounded, and the other upstream serves as before.

use bytes::Bytes;
use serde_json::json;

use super::{
    Ground,
    abuse::{Flood, Watching, acknowledgement, resources, withstands},
};
use crate::harness::recorder::{Era, Recorder, Reply, Seen, Step};

const BOTH: [Era; 2] = [Era::Modern, Era::Legacy];

/// Where the flood comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stream {
    /// In the answer to a call.
    Call,
    /// In the answer to the gateway's first question: `server/discover`, or `initialize`.
    Greeting,
    /// In the answer to `tools/list`.
    List,
    /// On the stream for what no request asked for: `subscriptions/listen`, or the GET stream of a session.
    Word,
    /// The same, for the resources that a client wants to be told of.
    Watch,
}

fn is(seen: &Seen, stream: Stream, era: Era) -> bool {
    let method = seen.rpc_method();
    match (stream, era) {
        (Stream::Call, _) => method == "tools/call",
        (Stream::Greeting, Era::Modern) => method == "server/discover",
        (Stream::Greeting, Era::Legacy) => method == "initialize",
        (Stream::List, _) => method == "tools/list",
        (Stream::Word | Stream::Watch, Era::Modern) => method == "subscriptions/listen",
        (Stream::Word | Stream::Watch, Era::Legacy) => seen.method == "GET" && seen.header("mcp-session-id").is_some(),
    }
}

/// Pours into the streams on which it was asked to tell of a resource, after the promise to do so.
fn hostile_about_resources(era: Era, flood: Flood) -> Recorder {
    Recorder::scripted(era, move |seen| {
        if is(seen, Stream::Watch, era) {
            return Some(flood.after(&acknowledgement(seen)));
        }
        resources(era, seen)
    })
}

fn hostile(stream: Stream, era: Era, flood: Flood) -> Recorder {
    Recorder::scripted(era, move |seen| is(seen, stream, era).then(|| flood.after("")))
}

/// One hostile upstream for each flood, beside the good one.
fn besieged(name: &str, hostile: &[Recorder], era: Era) -> Ground {
    Ground::before(name, Recorder::good(Era::Modern), |mut setup, _, up| {
        setup = setup.section("[limits]\nreply_bytes_max = 1048576").open_upstream("up", &up.url());
        let era = if era == Era::Modern { "modern" } else { "legacy" };
        for (number, recorder) in hostile.iter().enumerate() {
            let lines = format!("era = \"{era}\"\ntimeout_ms = 3000\ngrant = {{ strategy = \"none\" }}");
            setup = setup.upstream(&format!("hostile-{number}"), &recorder.url(), &lines);
        }
        setup
    })
}

fn withstood(stream: Stream, name: &str) {
    for era in BOTH {
        let hostile = Flood::ALL.map(|flood| hostile(stream, era, flood));
        let ground = besieged(name, &hostile, era);
        let hostile: Vec<&Recorder> = hostile.iter().collect();
        withstands(&ground, &format!("{stream:?} {era:?}"), &hostile, &[]);
    }
}

/// Eight clients call the hostile upstreams again and again, of either era.
fn calls_withstood(ground: &Ground, what: &str, hostile: &[Recorder]) {
    let call = |number: usize, legacy: bool| {
        let id = format!("hostile-{}", number % hostile.len());
        let client = ground.gateway.client_of(Some(&id), &ground.issuer, "mallory").awaiting("echo");
        move || {
            let nothing = json!({});
            let answer =
                if legacy { client.initialize().call("echo", &nothing) } else { client.call("echo", &nothing) };
            let found = super::code(&answer);
            assert!(["upstream_timeout", "upstream_too_large"].contains(&found.as_str()), "{found}");
        }
    };
    let calls: Vec<_> = (0..8).map(|number| call(number, number >= 4)).collect();
    let attackers: Vec<&(dyn Fn() + Sync)> = calls.iter().map(|call| call as _).collect();
    withstands(ground, what, &hostile.iter().collect::<Vec<_>>(), &attackers);
}

#[test]
fn calls_that_are_answered_with_a_flood_cost_nobody_else_anything() {
    for era in BOTH {
        let hostile = Flood::ALL.map(|flood| hostile(Stream::Call, era, flood));
        calls_withstood(&besieged("flood-call", &hostile, era), &format!("calls {era:?}"), &hostile);
    }
}

/// Clients of either era want to be told of a resource, and the upstream never stops telling of others.
#[test]
fn a_watched_resource_without_end_costs_nobody_else_anything() {
    for era in BOTH {
        let hostile = Flood::ALL.map(|flood| hostile_about_resources(era, flood));
        let ground = besieged("flood-watch", &hostile, era);
        let watching = Watching::of(&ground, hostile.len(), 8);
        withstands(&ground, &format!("watched {era:?}"), &hostile.iter().collect::<Vec<_>>(), &[]);
        drop(watching);
    }
}

/// The same where the answer is one JSON text; of that, so much is held for each call as the administrator allows.
#[test]
fn calls_that_are_answered_with_a_text_without_end_cost_nobody_else_anything() {
    for era in BOTH {
        let hostile = ["[", "          ", "{\"a\":"].map(|text| {
            let piece = Bytes::from(text.repeat(8_000));
            Recorder::scripted(era, move |seen| {
                let json = || Reply::status(200).header("content-type", "application/json");
                is(seen, Stream::Call, era).then(|| json().step(Step::Forever(piece.clone())))
            })
        });
        calls_withstood(&besieged("flood-text", &hostile, era), &format!("texts {era:?}"), &hostile);
    }
}

#[test]
fn a_greeting_without_end_costs_nobody_else_anything() {
    withstood(Stream::Greeting, "flood-greeting");
}

#[test]
fn a_list_without_end_costs_nobody_else_anything() {
    withstood(Stream::List, "flood-list");
}

#[test]
fn a_stream_of_words_without_end_costs_nobody_else_anything() {
    withstood(Stream::Word, "flood-word");
}
