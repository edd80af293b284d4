//! What does a call through the door cost, beside nginx, haproxy and a direct call, in one run? With `bridged`, what does
//! one between the eras, with `sessions`, somebody who is there and asks nothing, with `lists`, a list, with `identity`, to
//! find out who calls, with `exchange`, to call in their name, and with `builds`, the call of another build? `train` only does
//! some of all that.
//!
//! Starts one upstream (here, in this process), nginx and haproxy as plain TLS reverse proxies and Tollgate with
//! everything on, and gives each the same calls in turn. What counts is CPU time a request, read from the kernel for the
//! proxy's own processes; wall-clock figures are shown and are only as quiet as the machine. `README.md` has the method.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation,
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::exit,
    missing_docs,
    unreachable_pub,
    reason = "a bench may panic, read clocks and talk to the terminal"
)]

mod asking;
mod bridged;
mod builds;
mod certificates;
mod estate;
mod exchange;
mod identity;
mod lists;
mod parties;
mod peers;
mod sessions;
mod train;
mod wire;

use std::{
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};

use parties::{Connection, Parties, Party};

const HELP: &str = "\
What a call costs through Tollgate, nginx and haproxy. Run it as `bench/run`.

  --rounds N      rounds of the closed loop, each party once a round (5)
  --seconds N     length of a party's turn (3)
  --policies A,B  sizes of the policy set, one Tollgate each (10,100,1000)
  --streams N     event streams held at once (800)
  --only TEXT     only parties with TEXT in their name, besides nginx
  --profile S     run nothing but the first Tollgate under load, S seconds long, and print its process id

What a call costs whose client and upstream are of different eras, as `bench/run bridged`:

  --rounds N      rounds of the closed loop, each pair of eras once a round (5)
  --seconds N     length of a pair's turn (3)

What sessions and listeners hold of memory that ask nothing, as `bench/run sessions`:

  --count N       of each kind, at once (1000)
  --rounds N      of all kinds, each with a Tollgate of its own (3)

What a list of tools costs, as `bench/run lists`:

  --callers N     who each see another part of it (100)
  --upstreams N   that the tools are of (20)
  --tools N       in all (500)
  --rounds N      of five lists a caller (5)

What each way to prove who calls costs, the first time and again, as `bench/run identity`:

  --count N       credentials of each kind, in each round (100)
  --rounds N      of all kinds, one after the other (7)

What token exchange costs, and a grant that is kept, as `bench/run exchange`:

  --callers N     who each need a grant (1000)
  --rounds N      with it and without, each with a Tollgate of its own (5)

Whether a call costs more than with other builds, as `bench/run builds`:

  --with P,Q      programs of other builds, each the path of a `tollgate`
  --rounds N      each program once a round (40)
  --milliseconds N  length of a program's turn (300)

Some of all that, for a program that counts what it does (`deploy/build`), as `train`:

  --seconds N     length of each turn of calls (3)
  --count N       streams held at once, and credentials of each kind (50)
  --callers N     who each need a grant (300)

All of them ask the Tollgate that is built with them, or another:

  --program P     the path of a `tollgate`";

struct Settings {
    rounds: usize,
    seconds: u64,
    streams: usize,
    policies: Vec<usize>,
    only: Option<String>,
    profile: Option<u64>,
}

/// Which question is asked.
enum Question {
    Load(Settings),
    Bridged(bridged::Settings),
    Sessions(sessions::Settings),
    Lists(lists::Settings),
    Identity(identity::Settings),
    Exchange(exchange::Settings),
    Builds(builds::Settings),
    Train(train::Settings),
}

/// One party in one round.
#[derive(Clone, Copy, Default)]
struct Sample {
    cpu_us: f64,
    per_second: f64,
    p50_ms: f64,
    p99_ms: f64,
}

impl Sample {
    /// Of calls that took these ms each, `elapsed` together, and of the party this much CPU time.
    fn of(cpu_us: f64, elapsed: Duration, mut latencies: Vec<f64>) -> Self {
        let count = latencies.len() as f64;
        Self {
            cpu_us: cpu_us / count,
            per_second: count / elapsed.as_secs_f64(),
            p50_ms: at(&mut latencies, 0.5),
            p99_ms: at(&mut latencies, 0.99),
        }
    }
}

fn main() {
    rustls::crypto::aws_lc_rs::default_provider().install_default().unwrap();
    let question = question();
    let proxies: &[&str] = match question {
        Question::Load(_) => &["nginx", "haproxy"],
        Question::Builds(_) => &["nginx"],
        Question::Bridged(_)
        | Question::Sessions(_)
        | Question::Lists(_)
        | Question::Identity(_)
        | Question::Exchange(_)
        | Question::Train(_) => &[],
    };
    for program in proxies.iter().chain(&["taskset"]) {
        if !parties::installed(program) {
            eprintln!("`{program}` is missing: apt-get install -y nginx-light haproxy util-linux, or run `bench/run`");
            std::process::exit(1);
        }
    }
    if parties::cores() > 1 {
        // Load and upstream on core 0; the proxies are started on core 1.
        let own = std::process::id().to_string();
        Command::new("taskset").args(["-acp", "0", &own]).output().unwrap();
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    match question {
        Question::Load(settings) => runtime.block_on(run(&settings)),
        Question::Bridged(settings) => runtime.block_on(bridged::run(settings)),
        Question::Sessions(settings) => runtime.block_on(sessions::run(settings)),
        Question::Lists(settings) => runtime.block_on(lists::run(settings)),
        Question::Identity(settings) => runtime.block_on(identity::run(settings)),
        Question::Exchange(settings) => runtime.block_on(exchange::run(settings)),
        Question::Builds(settings) => runtime.block_on(builds::run(settings)),
        Question::Train(settings) => runtime.block_on(train::run(settings)),
    }
}

fn question() -> Question {
    let arguments: Vec<String> = std::env::args().collect();
    if arguments.iter().any(|argument| argument == "--help") {
        println!("{HELP}");
        std::process::exit(0);
    }
    let text = |name: &str| arguments.iter().skip_while(|argument| *argument != name).nth(1).cloned();
    let number = |name: &str, otherwise: u64| {
        text(name).map_or(otherwise, |value| value.parse().unwrap_or_else(|_| panic!("{name} {value}: not a number")))
    };
    let rounds = |otherwise| number("--rounds", otherwise).clamp(1, 100) as usize;
    let seconds = number("--seconds", 3).clamp(1, 60);
    if let Some(program) = text("--program").and_then(|path| programs(&path).pop()) {
        parties::PROGRAM.set(program).unwrap();
    }
    match arguments.get(1).map(String::as_str) {
        Some("bridged") => Question::Bridged(bridged::Settings { rounds: rounds(5), seconds }),
        Some("sessions") => {
            let count = number("--count", 1_000).clamp(1, 5_000) as usize;
            Question::Sessions(sessions::Settings { count, rounds: rounds(3) })
        }
        Some("lists") => {
            let upstreams = number("--upstreams", 20).clamp(2, 100) as usize;
            Question::Lists(lists::Settings {
                upstreams,
                // As many as have pairs of teams of their own.
                callers: number("--callers", 100).clamp(1, (upstreams * (upstreams - 1) / 2) as u64) as usize,
                tools: number("--tools", 500).clamp(upstreams as u64, 500) as usize,
                rounds: rounds(5),
            })
        }
        Some("identity") => {
            let count = number("--count", 100).clamp(1, 300) as usize;
            Question::Identity(identity::Settings { count, rounds: rounds(7).min(10) })
        }
        Some("exchange") => {
            let callers = number("--callers", 1_000).clamp(1, 5_000) as usize;
            Question::Exchange(exchange::Settings { callers, rounds: rounds(5) })
        }
        Some("builds") => Question::Builds(builds::Settings {
            rounds: rounds(40),
            milliseconds: number("--milliseconds", 300).clamp(50, 5_000),
            programs: programs(&text("--with").expect("--with: the other programs")),
        }),
        Some("train") => Question::Train(train::Settings {
            seconds,
            count: number("--count", 50).clamp(1, 300) as usize,
            callers: number("--callers", 300).clamp(1, 5_000) as usize,
        }),
        _ => {
            let policies = text("--policies").unwrap_or_else(|| "10,100,1000".to_owned());
            Question::Load(Settings {
                rounds: rounds(5),
                seconds,
                streams: number("--streams", 800).clamp(1, 900) as usize,
                policies: policies.split(',').map(|count| count.parse().expect("--policies A,B,C")).collect(),
                only: text("--only"),
                profile: text("--profile").map(|_| number("--profile", 10)),
            })
        }
    }
}

/// Each is started in a folder of its own. Paths are the top level's, where `bench/run` is called, and not the crate's.
fn programs(paths: &str) -> Vec<String> {
    let top = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
    let whole =
        |path| std::path::Path::new(top).join(path).canonicalize().unwrap_or_else(|error| panic!("{path}: {error}"));
    paths.split(',').map(|path| whole(path).display().to_string()).collect()
}

async fn run(settings: &Settings) {
    let mut parties = Parties::start(&settings.policies).await;
    if let Some(only) = &settings.only {
        parties.all.retain(|party| party.name == "nginx" || party.name.contains(only));
    }
    if let Some(seconds) = settings.profile {
        return profile(&parties, Duration::from_secs(seconds)).await;
    }
    memory(&parties, settings.streams).await;
    cost(&parties, settings).await;
    latency(&parties, settings).await;
}

/// Idle, and a stream. Before any load, so that no memory freed earlier is there to be used again.
async fn memory(parties: &Parties, streams: usize) {
    // What Tollgate puts off at its start is done then: it is nobody's stream.
    tokio::time::sleep(AFTER_START).await;
    println!("\nheld: {streams} event streams, each on a TLS connection of its own");
    println!("{:<28}{:>14}{:>16}", "", "idle RSS MiB", "KiB a stream");
    for party in parties.all.iter().filter(|party| party.has_memory()) {
        let idle = party.rss_mib();
        // Code that is used for the first time is no stream's; a call in a hundred is traced.
        let (mut connection, call) = party.client().await;
        for _ in 0..CALLS_FIRST {
            one(&mut connection, &call).await;
        }
        let each = held_streams(party, streams).await;
        println!("{:<28}{idle:>14.1}{each:>16.1}", party.name);
    }
}

async fn cost(parties: &Parties, settings: &Settings) {
    let Settings { rounds, seconds, .. } = settings;
    println!("\nclosed loop: {CONNECTIONS} connections, {rounds} rounds of {seconds} s each, interleaved; medians");
    println!(
        "{:<28}{:>11}{:>8}{:>9}{:>12}{:>9}{:>9}{:>9}",
        "", "CPU µs/req", "best", "x nginx", "requests/s", "p50 ms", "p99 ms", "RSS MiB"
    );
    let samples = in_turns(&parties.all, *rounds, *seconds).await;
    let medians: Vec<Sample> = samples.iter().map(|of| median(of)).collect();
    let nginx = parties.all.iter().position(|party| party.name == "nginx").map_or(f64::NAN, |at| medians[at].cpu_us);
    for ((party, sample), samples) in parties.all.iter().zip(&medians).zip(&samples) {
        let best = best(samples);
        println!(
            "{:<28}{:>11.1}{:>8.1}{:>9.2}{:>12.0}{:>9.2}{:>9.2}{:>9.1}",
            party.name,
            sample.cpu_us,
            best,
            sample.cpu_us / nginx,
            sample.per_second,
            sample.p50_ms,
            sample.p99_ms,
            party.rss_mib()
        );
    }
}

async fn latency(parties: &Parties, settings: &Settings) {
    let Settings { rounds, seconds, .. } = settings;
    println!("\nopen loop: {RATE} requests/s, {rounds} rounds of {seconds} s each, interleaved; medians");
    println!("{:<28}{:>9}{:>9}{:>13}{:>12}", "", "p50 ms", "p99 ms", "best p99", "CPU µs/req");
    let samples = open_in_turns(&parties.all, *rounds, *seconds).await;
    for (party, samples) in parties.all.iter().zip(&samples) {
        let Sample { p50_ms, p99_ms, cpu_us, .. } = median(samples);
        let best = samples.iter().map(|sample| sample.p99_ms).fold(f64::INFINITY, f64::min);
        println!("{:<28}{p50_ms:>9.2}{p99_ms:>9.2}{best:>13.2}{cpu_us:>12.1}", party.name);
    }
}

/// Load for a profiler to look at.
async fn profile(parties: &Parties, time: Duration) {
    let party = parties.all.iter().find(|party| party.name.starts_with("tollgate")).expect("a Tollgate in --policies");
    println!("process {}", party.process_id());
    let sample = turn(party, time).await;
    println!("{:.1} CPU µs/req, {:.0} requests/s", sample.cpu_us, sample.per_second);
}

/// What each party takes in the closed loop, in round after round; the first is not counted.
async fn in_turns(parties: &[Party], rounds: usize, seconds: u64) -> Vec<Vec<Sample>> {
    let mut samples = vec![Vec::new(); parties.len()];
    for round in 0..=rounds {
        for (party, samples) in parties.iter().zip(&mut samples) {
            let seconds = if round == 0 { 1 } else { seconds };
            let sample = turn(party, Duration::from_secs(seconds)).await;
            if round > 0 {
                samples.push(sample);
            }
        }
    }
    samples
}

/// What each party takes in the open loop, in round after round.
async fn open_in_turns(parties: &[Party], rounds: usize, seconds: u64) -> Vec<Vec<Sample>> {
    let mut samples = vec![Vec::new(); parties.len()];
    for _ in 0..rounds {
        for (party, samples) in parties.iter().zip(&mut samples) {
            samples.push(open_loop(party, Duration::from_secs(seconds)).await);
        }
    }
    samples
}

async fn turn(party: &Party, time: Duration) -> Sample {
    let clients = clients(party).await;
    let (cpu_before, began) = (party.cpu_us(), Instant::now());
    let latencies = closed_loop(clients, time).await;
    Sample::of(party.cpu_us() - cpu_before, began.elapsed(), latencies)
}

/// As many as have a call under way at once.
async fn clients(party: &Party) -> Vec<(Connection, Arc<[u8]>)> {
    let mut clients = Vec::with_capacity(CONNECTIONS);
    for _ in 0..CONNECTIONS {
        clients.push(party.client().await);
    }
    clients
}

/// Each calls again as soon as it is answered; all latencies, in ms.
async fn closed_loop(clients: Vec<(Connection, Arc<[u8]>)>, time: Duration) -> Vec<f64> {
    let until = Instant::now() + time;
    let workers: Vec<_> = clients
        .into_iter()
        .map(|(mut connection, request)| {
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
    latencies
}

/// Calls begin when they are due, whether or not earlier ones have ended; time spent waiting for a free connection counts.
async fn open_loop(party: &Party, time: Duration) -> Sample {
    let (free, idle) = tokio::sync::mpsc::channel(CONNECTIONS);
    for _ in 0..CONNECTIONS {
        let (mut connection, request) = party.client().await;
        one(&mut connection, &request).await;
        free.send((connection, request)).await.unwrap();
    }
    let idle = Arc::new(tokio::sync::Mutex::new(idle));
    let total = RATE * time.as_secs();
    let (cpu_before, began) = (party.cpu_us(), Instant::now());
    let mut calls = Vec::new();
    for number in 0..total {
        let due = began + Duration::from_micros(number * 1_000_000 / RATE);
        // The timer wakes within a millisecond of that; what it is late by is the bench's own.
        tokio::time::sleep_until(due.into()).await;
        let (woken, free, idle) = (Instant::now(), free.clone(), Arc::clone(&idle));
        calls.push(tokio::spawn(async move {
            let (mut connection, request) = idle.lock().await.recv().await.unwrap();
            one(&mut connection, &request).await;
            let latency = woken.elapsed().as_secs_f64() * 1_000.0;
            free.send((connection, request)).await.unwrap();
            latency
        }));
    }
    let mut latencies = Vec::new();
    for call in calls {
        latencies.push(call.await.unwrap());
    }
    Sample::of(party.cpu_us() - cpu_before, began.elapsed(), latencies)
}

async fn held_streams(party: &Party, streams: usize) -> f64 {
    let request = party.stream_call();
    let mut held = Vec::new();
    let mut before = 0.0;
    // The first few bring what every stream shares, some of it a moment later.
    for number in 0..streams + STREAMS_FIRST {
        if number == STREAMS_FIRST {
            tokio::time::sleep(SETTLED).await;
            before = party.rss_mib();
        }
        let mut connection = party.connect().await;
        connection.send(&request).await;
        let answer = connection.receive_event().await.unwrap_or_else(|| panic!("{}: no stream", party.name));
        assert!(answer.text().contains("notifications/progress"), "{}: {}", party.name, answer.text());
        held.push(connection);
    }
    let each = (party.rss_mib() - before) * 1_024.0 / streams as f64;
    drop(held);
    tokio::time::sleep(SETTLED).await;
    each
}

/// One call, checked; its latency in milliseconds.
async fn one(connection: &mut Connection, request: &[u8]) -> f64 {
    let began = Instant::now();
    connection.send(request).await;
    let answer = connection.receive().await.expect("the connection closed");
    let (status, fits) = (answer.status(), answer.body.len() > 500);
    assert!(status == 200 && fits, "HTTP {status}: {}", answer.text());
    began.elapsed().as_secs_f64() * 1_000.0
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

fn best(samples: &[Sample]) -> f64 {
    samples.iter().map(|sample| sample.cpu_us).fold(f64::INFINITY, f64::min)
}

fn at(values: &mut [f64], share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let last = values.len().saturating_sub(1);
    values.get((last as f64 * share).round() as usize).copied().unwrap_or(f64::NAN)
}

/// Calls under way at once in the closed loop.
const CONNECTIONS: usize = 64;
/// Calls a second in the open loop.
const RATE: u64 = 500;
/// Policies are typed against the tools that are there once the start is over.
const AFTER_START: Duration = Duration::from_secs(5);
/// Calls, one after the other, before streams are opened.
const CALLS_FIRST: usize = 500;
/// Streams opened before memory is looked at.
const STREAMS_FIRST: usize = 20;
/// Until what somebody began to do is done.
const SETTLED: Duration = Duration::from_millis(500);
