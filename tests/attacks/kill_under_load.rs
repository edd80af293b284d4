//! SIGKILL at any moment, with calls under way: every call that the upstream saw was recorded before, nothing that was
//! recorded is lost, and the chain goes on (I4).

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{self, Read, Write},
    net::TcpStream,
    time::Duration,
};

use serde_json::{Value, json};

use super::{Ground, chain_verifies};
use crate::harness::{
    gateway::{Setup, segments},
    issuer::Issuer,
    place,
    recorder::{Era, Recorder},
};

const CLIENTS: usize = 8;
const CALLS: usize = 200;
const KILLS: usize = 4;

/// Whoever gives up earlier is no load any more.
const PATIENCE: Duration = Duration::from_secs(60);

/// One call on a connection of its own; an error where the gateway is no more.
fn attempt(address: std::net::SocketAddr, bytes: &[u8]) -> io::Result<bool> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(bytes)?;
    let mut start = [0; 12];
    stream.read_exact(&mut start)?;
    Ok(start.ends_with(b"200"))
}

/// Between a twentieth and an eighth of a round's calls: a slow disk comes that far, too.
fn moment() -> usize {
    CLIENTS * CALLS / 20 + usize::from(uuid::Uuid::new_v4().as_bytes()[0]) * CLIENTS * CALLS * 3 / (256 * 40)
}

/// Runs clients until the gateway is killed under them.
fn load_and_kill(ground: &mut Ground) {
    let url = url::Url::parse(&ground.gateway.endpoint(Some("up"))).unwrap();
    let address = url.socket_addrs(|| None).unwrap()[0];
    let (base, after) = (ground.calls(), moment());
    let clients: Vec<_> = (0..CLIENTS).map(|number| ground.client(&format!("user-{number}"))).collect();
    let Ground { upstream, gateway, .. } = ground;
    std::thread::scope(|scope| {
        for client in &clients {
            scope.spawn(move || {
                let params = json!({ "name": "echo", "arguments": { "message": "hi" } });
                let bytes = client.modern_bytes(&json!(1), "tools/call", &params);
                for _ in 0..CALLS {
                    match attempt(address, &bytes) {
                        Ok(good) => assert!(good, "a call was refused under load"),
                        Err(_) => return,
                    }
                }
            });
        }
        place::wait_for("load", Duration::from_secs(150), || {
            (upstream.seen_method("tools/call").len() >= base + after).then_some(())
        });
        gateway.process.kill();
    });
}

/// Each intent's trace, and how it ended; once more than that is a fault.
fn endings(records: &[Value]) -> BTreeMap<String, Vec<String>> {
    let mut endings: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for record in records.iter().filter(|record| record["event"] == "intent") {
        assert!(endings.insert(record["id"].as_str().unwrap().to_owned(), Vec::new()).is_none(), "one id twice");
    }
    for record in records.iter().filter(|record| record["event"] == "outcome") {
        let of = endings.get_mut(record["id"].as_str().unwrap()).expect("an outcome without an intent");
        of.push(record["result"]["ending"].as_str().unwrap().to_owned());
    }
    endings
}

fn every_call_is_recorded(ground: &Ground) {
    let records = ground.gateway.journal();
    let intents = records.iter().filter(|record| record["event"] == "intent");
    let traces: BTreeSet<&str> = intents.map(|record| record["request"]["trace_id"].as_str().unwrap()).collect();
    for seen in ground.upstream.seen_method("tools/call") {
        let trace = seen.header("traceparent").and_then(|parent| parent.split('-').nth(1)).unwrap();
        assert!(traces.contains(trace), "the upstream saw a call that is not in the journal: {trace}");
    }
}

fn killed_under_load(durability: &str, audit: &str) {
    let issuer = Issuer::good();
    // Slow enough that calls are under way at any moment.
    let upstream = Recorder::slow(Era::Modern, Duration::from_millis(5));
    let setup = Setup::usual(&format!("kill-{durability}"), &issuer).open_upstream("up", &upstream.url());
    let setup = setup.audit(&format!("durability = \"{durability}\"\n{audit}"));
    let mut ground = Ground { gateway: setup.start(), issuer, upstream };
    for round in 0..KILLS {
        ground.settle();
        load_and_kill(&mut ground);
        every_call_is_recorded(&ground);
        if round == 1 && durability == "os" {
            // The write itself was cut: half a record stands at the end.
            let last = segments(&ground.gateway.journal_folder()).pop().unwrap();
            let mut file = fs::OpenOptions::new().append(true).open(last).unwrap();
            file.write_all(br#"{"schema":"tollgate.audit/1","event":"int"#).unwrap();
        }
        let Ground { issuer, upstream, gateway } = ground;
        ground = Ground { issuer, upstream, gateway: gateway.again() };
        let records = ground.gateway.journal();
        let recovered: Vec<_> = records.iter().filter(|record| record["event"] == "recovered").collect();
        assert_eq!(recovered.len(), round + 1, "one recovery for each kill");
        if round == 1 && durability == "os" {
            let dropped = recovered.last().unwrap()["recovered"]["bytes_dropped"].as_u64().unwrap();
            assert!(dropped > 0, "the torn tail was not told: {}", recovered.last().unwrap());
        }
    }
    ground.settle();
    ground.good_call();
    ground.gateway.stop();
    every_call_is_recorded(&ground);
    let endings = endings(&ground.gateway.journal());
    for (id, of) in &endings {
        assert_eq!(of.len(), 1, "intent {id} ended {of:?}");
    }
    let unknown = endings.values().flatten().filter(|ending| *ending == "unknown").count();
    assert!((1..=KILLS * CLIENTS * 2).contains(&unknown), "{unknown} calls of unknown outcome");
    assert!(endings.values().flatten().filter(|ending| *ending == "ok").count() > KILLS * 50);
    chain_verifies(&ground.gateway);
}

#[test]
fn killed_gateway_has_recorded_what_it_sent_with_fsync() {
    killed_under_load("fsync", "");
}

#[test]
fn killed_gateway_has_recorded_what_it_sent_with_the_kernels_word() {
    killed_under_load("os", "");
}

/// Segments so small that a kill falls into a change of segments as often as not.
#[test]
fn killed_gateway_has_recorded_what_it_sent_across_many_segments() {
    killed_under_load("fsync", "segment_bytes_max = 65536");
}
