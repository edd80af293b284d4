//! What does a call through the door cost, beside nginx, haproxy and a direct call, in one run?
//!
//! Starts one upstream (here, in this process), nginx and haproxy as plain TLS reverse proxies and Tollgate with
//! everything on, and gives each the same calls in turn. What counts is CPU time a request, read from the kernel for the
//! proxy's own processes; wall-clock figures are shown and are only as quiet as the machine.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::print_stderr,
    missing_docs,
    unreachable_pub,
    reason = "a bench may panic, read clocks and talk to the terminal"
)]

mod parties;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{Request, header};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::SendRequest;
use parties::{Party, Parties};

/// Calls under way at once in the closed loop.
const CONNECTIONS: usize = 64;
/// Calls a second in the open loop.
const RATE: u64 = 500;
/// Streams held open at once.
const STREAMS: usize = 200;

struct Settings {
    rounds: usize,
    seconds: u64,
}

/// One party in one round.
#[derive(Clone, Copy, Default)]
struct Sample {
    cpu_us: f64,
    per_second: f64,
    p50_ms: f64,
    p99_ms: f64,
}

fn main() {
    rustls::crypto::aws_lc_rs::default_provider().install_default().unwrap();
    let argument = |name: &str, otherwise: u64| {
        std::env::args()
            .skip_while(|argument| argument != name)
            .nth(1)
            .and_then(|value| value.parse().ok())
            .unwrap_or(otherwise)
    };
    let settings = Settings { rounds: argument("--rounds", 5) as usize, seconds: argument("--seconds", 3) };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    runtime.block_on(run(&settings));
}

async fn run(settings: &Settings) {
    let parties = Parties::start().await;
    println!("closed loop: {CONNECTIONS} connections over TLS, {} rounds of {} s each, median", settings.rounds, settings.seconds);
    println!("{:<22}{:>12}{:>10}{:>12}{:>9}{:>9}{:>11}", "", "CPU µs/req", "x nginx", "requests/s", "p50 ms", "p99 ms", "RSS MiB");
    let idle: Vec<f64> = parties.all.iter().map(Party::rss_mib).collect();
    let mut samples = vec![Vec::new(); parties.all.len()];
    for round in 0..=settings.rounds {
        for (at, party) in parties.all.iter().enumerate() {
            let seconds = if round == 0 { 1 } else { settings.seconds };
            let sample = closed_loop(party, Duration::from_secs(seconds)).await;
            if round > 0 {
                samples[at].push(sample);
            }
        }
    }
    let medians: Vec<Sample> = samples.iter().map(|of| median(of)).collect();
    let nginx = parties.all.iter().position(|party| party.name == "nginx").map_or(0.0, |at| medians[at].cpu_us);
    for (party, sample) in parties.all.iter().zip(&medians) {
        println!(
            "{:<22}{:>12.1}{:>10.2}{:>12.0}{:>9.2}{:>9.2}{:>11.1}",
            party.name, sample.cpu_us, sample.cpu_us / nginx, sample.per_second, sample.p50_ms, sample.p99_ms, party.rss_mib()
        );
    }
    println!("\nopen loop: {RATE} requests/s over TLS for {} s", settings.seconds * 2);
    println!("{:<22}{:>9}{:>9}{:>9}", "", "p50 ms", "p99 ms", "max ms");
    for party in &parties.all {
        let mut latencies = open_loop(party, Duration::from_secs(settings.seconds * 2)).await;
        println!("{:<22}{:>9.2}{:>9.2}{:>9.2}", party.name, at(&mut latencies, 0.5), at(&mut latencies, 0.99), at(&mut latencies, 1.0));
    }
    println!("\nheld streams: {STREAMS} event streams over TLS");
    println!("{:<22}{:>14}{:>16}", "", "idle RSS MiB", "KiB a stream");
    for (party, idle) in parties.all.iter().zip(idle) {
        let each = held_streams(party).await;
        println!("{:<22}{:>14.1}{:>16.1}", party.name, idle, each);
    }
}

async fn closed_loop(party: &Party, time: Duration) -> Sample {
    let mut connections = Vec::new();
    for _ in 0..CONNECTIONS {
        connections.push(party.connect().await);
    }
    let (cpu_before, began) = (party.cpu_us(), Instant::now());
    let until = began + time;
    let workers: Vec<_> = connections
        .into_iter()
        .map(|mut connection| {
            let request = party.call();
            tokio::spawn(async move {
                let mut latencies = Vec::with_capacity(8_192);
                while Instant::now() < until {
                    latencies.push(one(&mut connection, &request).await);
                }
                latencies
            })
        })
        .collect();
    let mut latencies = Vec::new();
    for worker in workers {
        latencies.extend(worker.await.unwrap());
    }
    let elapsed = began.elapsed();
    let count = latencies.len() as f64;
    Sample {
        cpu_us: (party.cpu_us() - cpu_before) / count,
        per_second: count / elapsed.as_secs_f64(),
        p50_ms: at(&mut latencies, 0.5),
        p99_ms: at(&mut latencies, 0.99),
    }
}

/// Calls begin when they are due, whether or not earlier ones have ended; latency counts from when they were due.
async fn open_loop(party: &Party, time: Duration) -> Vec<f64> {
    let (free, mut idle) = tokio::sync::mpsc::channel(CONNECTIONS);
    for _ in 0..CONNECTIONS {
        free.send(party.connect().await).await.unwrap();
    }
    let request = party.call();
    let total = RATE * time.as_secs();
    let began = Instant::now();
    let mut calls = Vec::new();
    for number in 0..total {
        let due = began + Duration::from_micros(number * 1_000_000 / RATE);
        tokio::time::sleep_until(due.into()).await;
        let mut connection: SendRequest<Full<Bytes>> = idle.recv().await.unwrap();
        let (request, free) = (Arc::clone(&request), free.clone());
        calls.push(tokio::spawn(async move {
            let sent = Instant::now();
            one(&mut connection, &request).await;
            let latency = sent.elapsed().as_secs_f64() * 1_000.0;
            free.send(connection).await.unwrap();
            latency
        }));
    }
    let mut latencies = Vec::new();
    for call in calls {
        latencies.push(call.await.unwrap());
    }
    latencies
}

async fn held_streams(party: &Party) -> f64 {
    let before = party.rss_mib();
    let mut held = Vec::new();
    for _ in 0..STREAMS {
        let mut connection = party.connect().await;
        let mut response = connection.send_request(request(&party.stream_call())).await.unwrap();
        let first = response.body_mut().frame().await;
        assert!(first.is_some(), "{}: the stream ended at once with {}", party.name, response.status());
        held.push((connection, response));
    }
    let each = (party.rss_mib() - before) * 1_024.0 / STREAMS as f64;
    drop(held);
    tokio::time::sleep(Duration::from_millis(300)).await;
    each
}

/// One call, checked; its latency in milliseconds.
async fn one(connection: &mut SendRequest<Full<Bytes>>, call: &parties::Call) -> f64 {
    let began = Instant::now();
    let response = connection.send_request(request(call)).await.unwrap();
    let status = response.status();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    assert!(status.is_success(), "HTTP {status}: {}", String::from_utf8_lossy(&body));
    began.elapsed().as_secs_f64() * 1_000.0
}

fn request(call: &parties::Call) -> Request<Full<Bytes>> {
    let mut request = Request::post(&call.path)
        .header(header::HOST, &call.host)
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::ACCEPT, "application/json, text/event-stream")
        .header("mcp-protocol-version", "2026-07-28")
        .header("mcp-method", "tools/call")
        .header("mcp-name", &call.tool);
    if let Some(token) = &call.token {
        request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
    }
    request.body(Full::new(call.body.clone())).unwrap()
}

fn median(samples: &[Sample]) -> Sample {
    let of = |what: fn(&Sample) -> f64| {
        let mut values: Vec<f64> = samples.iter().map(what).collect();
        at(&mut values, 0.5)
    };
    Sample {
        cpu_us: of(|sample| sample.cpu_us),
        per_second: of(|sample| sample.per_second),
        p50_ms: of(|sample| sample.p50_ms),
        p99_ms: of(|sample| sample.p99_ms),
    }
}

fn at(values: &mut [f64], share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let last = values.len().saturating_sub(1);
    values.get((last as f64 * share).round() as usize).copied().unwrap_or(0.0)
}
