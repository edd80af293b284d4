//! Clients that never read, and servers that have endlessly much to tell them (I9).

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use bytes::Bytes;
use serde_json::json;

use super::{
    Ground, SOON,
    abuse::{GROWTH_KIB_MAX, Gauge, WATCHED, Watching, acknowledgement, resources},
};
use crate::harness::{
    certificates::Authority,
    http::Connection,
    place,
    recorder::{Era, Recorder, Reply, Seen, Step},
};

const BOTH: [Era; 2] = [Era::Modern, Era::Legacy];

/// So many calls at once. An event of theirs is held some eight times on its way, in every buffer that it fills.
const CLIENTS: u64 = 12;
/// So many who watch one resource.
const WATCHERS: usize = 24;
/// By then whoever reads nothing may be sent away, and where nobody listens any more nothing comes.
const SENT_AWAY: Duration = Duration::from_secs(18);
/// Of one event.
const EVENT_BYTES: usize = 192 << 10;

fn ground(name: &str, hostile: &Recorder, era: Era) -> Ground {
    let era = if era == Era::Modern { "modern" } else { "legacy" };
    let lines = format!("era = \"{era}\"\ngrant = {{ strategy = \"none\" }}");
    Ground::before(name, Recorder::good(Era::Modern), |setup, _, up| {
        let setup = setup.section("[limits]\nevent_bytes_max = 262144");
        setup.open_upstream("up", &up.url()).upstream("hostile-0", &hostile.url(), &lines)
    })
}

/// Progress in large events, each further than the last, without end.
fn endless(seen: &Seen) -> Option<Reply> {
    let token = seen.json()["params"]["_meta"]["progressToken"].clone();
    if seen.rpc_method() != "tools/call" || token.is_null() {
        return None;
    }
    let before = format!(
        r#"data: {{"jsonrpc":"2.0","method":"notifications/progress","params":{{"progressToken":{token},"progress":"#
    );
    Some(Reply::stream().step(counting(before, ",\"message\":\"", EVENT_BYTES, "\"}}\n\n")))
}

/// An event again and again: `before`, a number that goes up, `between`, so many bytes and `after`. Made in pieces, and
/// without an effort that others in the test's own process would feel.
fn counting(before: String, between: &'static str, bytes: usize, after: &'static str) -> Step {
    let (turns, pad) = (AtomicU64::new(0), Bytes::from("x".repeat(bytes)));
    Step::again(move || {
        let turn = turns.fetch_add(1, Ordering::AcqRel);
        Some(match turn % 3 {
            0 => Bytes::from(format!("{before}{turn}{between}")),
            1 => pad.clone(),
            _ => Bytes::from_static(after.as_bytes()),
        })
    })
}

/// Waits until nothing more is taken from `hostile`, while good calls go on and memory stays within its bound.
#[track_caller]
fn withstood(ground: &Ground, what: &str, gauge: &mut Gauge<'_>, hostile: &Recorder) {
    let mut still = (hostile.poured(), 0);
    place::wait_for(what, SOON, || {
        ground.good_call();
        gauge.read(what);
        let poured = hostile.poured();
        still = if poured == still.0 { (poured, still.1 + 1) } else { (poured, 0) };
        (still.1 > 10).then_some(())
    });
    eprintln!("{what}: {}", gauge.said());
}

#[test]
fn calls_whose_answers_nobody_reads_hold_little() {
    for era in BOTH {
        let hostile = Recorder::scripted(era, endless);
        let ground = ground("unread-calls", &hostile, era);
        let client = ground.gateway.client_of(Some("hostile-0"), &ground.issuer, "mallory").awaiting("echo");
        let session = client.initialize();
        let mut gauge = Gauge::new(&ground.gateway);
        let deaf: Vec<Connection> = (0..CLIENTS)
            .map(|number| {
                let params = json!({ "name": "echo", "arguments": {}, "_meta": { "progressToken": number } });
                let mut connection = client.connection();
                let bytes = match number % 2 {
                    0 => client.modern_bytes(&json!(number), "tools/call", &params),
                    _ => session.bytes(&json!(number), "tools/call", &params),
                };
                connection.send(&bytes).unwrap();
                connection
            })
            .collect();
        place::wait_for("all calls", SOON, || {
            (hostile.seen_method("tools/call").len() as u64 == CLIENTS).then_some(())
        });
        withstood(&ground, &format!("unread calls {era:?}"), &mut gauge, &hostile);
        // What nobody reads is not read from the upstream either: kernel buffers aside, a few events for each.
        assert!(hostile.poured() >> 10 < 4 * GROWTH_KIB_MAX * 8, "{} KiB were taken", hostile.poured() >> 10);
        drop(deaf);
        ground.good_call();
    }
}

/// Those whose answers nobody reads on one connection of HTTP/2, which carries all calls to its server.
const DEAF: u64 = 4;
/// In so long a call is answered that shares it; whoever reads nothing is sent away after twenty seconds.
const SOON_ENOUGH: Duration = Duration::from_secs(10);

#[test]
fn calls_whose_answers_nobody_reads_hold_up_no_others_on_their_connection() {
    let authority = Authority::new(&place::scratch("unread-shared"));
    let tls = Authority::server_of(&authority.leaf("server", &["127.0.0.1"]), &["h2"]);
    let hostile = Recorder::scripted_tls(Era::Modern, tls, endless);
    let lines = format!("grant = {{ strategy = \"none\" }}\nca = \"{}\"", authority.file().display());
    let ground = Ground::before("unread-shared", Recorder::good(Era::Modern), |setup, _, up| {
        let setup = setup.section("[limits]\nevent_bytes_max = 262144");
        setup.open_upstream("up", &up.url()).upstream("hostile-0", &hostile.url(), &lines)
    });
    let client = ground.gateway.client_of(Some("hostile-0"), &ground.issuer, "mallory").awaiting("echo");
    let deaf: Vec<Connection> = (0..DEAF)
        .map(|number| {
            let params = json!({ "name": "echo", "arguments": {}, "_meta": { "progressToken": number } });
            let mut connection = client.connection();
            connection.send(&client.modern_bytes(&json!(number), "tools/call", &params)).unwrap();
            connection
        })
        .collect();
    let began = Instant::now();
    let mut still = (0, Instant::now());
    place::wait_for("a standstill", SOON, || {
        if hostile.poured() != still.0 || still.0 == 0 {
            still = (hostile.poured(), Instant::now());
        }
        (still.1.elapsed() > Duration::from_secs(1)).then_some(())
    });
    let stood = began.elapsed();
    let other = ground.gateway.client_of(Some("hostile-0"), &ground.issuer, "bob");
    let (since, answer) = (Instant::now(), other.call("echo", &json!({ "message": "among them" })));
    assert_eq!(answer.status(), 200, "{}", answer.text());
    assert!(since.elapsed() < SOON_ENOUGH, "{:?} after {stood:?}", since.elapsed());
    drop(deaf);
    ground.good_call();
}

/// Each change of a part of what is watched is told under its own URI: parts are without number, and URIs long.
#[test]
fn changes_that_nobody_reads_hold_little() {
    for era in BOTH {
        let hostile = Recorder::scripted(era, move |seen| {
            let listens = seen.rpc_method() == "subscriptions/listen" || (era == Era::Legacy && seen.method == "GET");
            if !listens {
                return resources(era, seen);
            }
            let before = format!(
                r#"data: {{"jsonrpc":"2.0","method":"notifications/resources/updated","params":{{"uri":"{WATCHED}/"#
            );
            let words = counting(before, "/", 8_000, "\"}}\n\n");
            Some(Reply::stream().step(Step::Bytes(acknowledgement(seen).into())).step(words))
        });
        let ground = ground("unread-changes", &hostile, era);
        let mut gauge = Gauge::new(&ground.gateway);
        let (mut since, mut watching) = (Instant::now(), Some(Watching::of(&ground, 1, WATCHERS)));
        let before = hostile.poured();
        place::wait_for("a flood of changes", 2 * SOON, || {
            // Who takes nothing for long is sent away.
            if since.elapsed() > SENT_AWAY {
                drop(watching.take());
                (since, watching) = (Instant::now(), Some(Watching::of(&ground, 1, WATCHERS)));
            }
            ground.good_call();
            gauge.read("unread changes");
            (hostile.poured() - before > 6 * (GROWTH_KIB_MAX << 10)).then_some(())
        });
        eprintln!("unread changes {era:?}: {}", gauge.said());
        drop(watching);
        ground.good_call();
    }
}
