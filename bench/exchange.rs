//! What does it cost to ask in a caller's name, and to keep what was given for it?
//!
//! Many callers, each a person of their own, before two Tollgates that differ in how they have the upstream's credential:
//! a grant for each caller by token exchange, and one secret for all. What the second takes, the first takes too; the
//! difference is the exchange's. The issuer is the bench's own.

use std::{sync::Arc, time::Duration};

use crate::{
    CONNECTIONS, Sample,
    asking::{ALLOWED, Asker, TOKENS_KNOWN, TOKENS_NEW, asked},
    at, best,
    estate::{Estate, Grant},
    median,
    parties::{self, Connection, Stage},
};

/// How many.
#[derive(Clone, Copy)]
pub struct Settings {
    pub callers: usize,
    pub rounds: usize,
}

/// What the callers of one Tollgate took.
struct Taken {
    first: Sample,
    again: Sample,
    kib: f64,
}

/// Prints two tables.
pub async fn run(Settings { callers, rounds }: Settings) {
    parties::need_files(3 * CONNECTIONS);
    let stage = Stage::new().await;
    let mut taken = GRANTS.map(|_| Vec::new());
    for round in 1..=rounds {
        for (grant, taken) in GRANTS.into_iter().zip(&mut taken) {
            taken.push(of_all(&stage, grant, callers).await);
        }
        eprintln!("round {round} of {rounds}");
    }
    println!("{rounds} rounds, {CONNECTIONS} calls at once, {POLICIES} policies\n");
    println!(
        "| {callers} callers | CPU µs a call: median (best) | calls/s | p50 ms | p99 ms | KiB a caller: median (least, most) |"
    );
    println!("|---|---|---|---|---|---|");
    for (grant, taken) in GRANTS.into_iter().zip(&taken) {
        let kib = spread(taken.iter().map(|taken| taken.kib));
        row(&format!("first, {}", name(grant)), taken.iter().map(|taken| taken.first), &kib);
    }
    for (grant, taken) in GRANTS.into_iter().zip(&taken) {
        row(&format!("again, {}", name(grant)), taken.iter().map(|taken| taken.again), "");
    }
    let [exchanged, plain] = &taken;
    let both = || exchanged.iter().zip(plain);
    println!("\n| an exchange, and the grant that it gives | median (least, most) |");
    println!("|---|---|");
    println!("| exchanges a second, whole calls | {} |", spread(exchanged.iter().map(|taken| taken.first.per_second)));
    println!("| CPU µs an exchange | {} |", spread(both().map(|(one, other)| one.first.cpu_us - other.first.cpu_us)));
    println!(
        "| CPU µs a call, grant kept | {} |",
        spread(both().map(|(one, other)| one.again.cpu_us - other.again.cpu_us))
    );
    println!("| KiB a grant | {} |", spread(both().map(|(one, other)| one.kib - other.kib)));
    println!("\n{callers} exchanges for {callers} callers in each round, by Tollgate's count and by the issuer's");
}

/// Every caller calls once, and then again.
async fn of_all(stage: &Stage, grant: Grant, callers: usize) -> Taken {
    let gateway = stage.open(name(grant), &Estate { policies: POLICIES, grant, ..stage.estate() });
    gateway.ready().await;
    let of = |number| stage.asked_by_caller(&gateway, number).modern_call();
    let requests: Vec<Arc<[u8]>> = (0..callers).map(of).collect();
    let mut connections = Vec::new();
    for _ in 0..CONNECTIONS {
        connections.push(gateway.connect().await);
    }
    // Others come first, as many at once, so that what all share is there: connections to the issuer, too.
    let others: Vec<Arc<[u8]>> = (callers..callers + CONNECTIONS).map(of).collect();
    let (connections, _) = asked(&gateway, dealt(connections, &others), []).await;
    tokio::time::sleep(SETTLED).await;

    let exchanges = if matches!(grant, Grant::Exchange) { callers } else { 0 };
    let (before, asked_for) = (gateway.rss_mib(), stage.issuer.exchanges());
    let endpoint = format!("{}/token", stage.issuer.url);
    let minted =
        format!(r#"tollgate_exchange_mints_total{{tollgate_token_endpoint="{endpoint}",tollgate_outcome="ok"}}"#);
    let grows = [
        (TOKENS_NEW, callers),
        (TOKENS_KNOWN, 0),
        (GRANTS_NEW, exchanges),
        (GRANTS_KEPT, 0),
        (&minted, exchanges),
        (ALLOWED, callers),
    ];
    let (connections, first) = asked(&gateway, dealt(connections, &requests), grows).await;
    assert_eq!(stage.issuer.exchanges() - asked_for, exchanges, "exchanges, as the issuer counts");
    tokio::time::sleep(SETTLED).await;
    let kib = (gateway.rss_mib() - before) * 1_024.0 / callers as f64;

    let calls = callers * AGAIN;
    let grows = [
        (TOKENS_NEW, 0),
        (TOKENS_KNOWN, calls),
        (GRANTS_NEW, 0),
        (GRANTS_KEPT, exchanges * AGAIN),
        (&minted, 0),
        (ALLOWED, calls),
    ];
    let (_, again) = asked(&gateway, dealt(connections, &vec![requests; AGAIN].concat()), grows).await;
    Taken { first, again, kib }
}

/// Each connection gets its share of the requests.
fn dealt(connections: Vec<Connection>, requests: &[Arc<[u8]>]) -> Vec<Asker> {
    let mut askers: Vec<Asker> = connections.into_iter().map(|connection| (connection, Vec::new())).collect();
    let places = askers.len();
    for (number, request) in requests.iter().enumerate() {
        askers[number % places].1.push(Arc::clone(request));
    }
    askers
}

fn row(what: &str, samples: impl Iterator<Item = Sample>, kib: &str) {
    let samples: Vec<Sample> = samples.collect();
    let Sample { cpu_us, per_second, p50_ms, p99_ms } = median(&samples);
    let best = best(&samples);
    println!("| {what} | {cpu_us:.1} ({best:.1}) | {per_second:.0} | {p50_ms:.2} | {p99_ms:.2} | {kib} |");
}

/// The median, and between what it lies.
fn spread(values: impl Iterator<Item = f64>) -> String {
    let mut values: Vec<f64> = values.collect();
    let [median, least, most] = [0.5, 0.0, 1.0].map(|share| at(&mut values, share));
    format!("{median:.1} ({least:.1}, {most:.1})")
}

const fn name(grant: Grant) -> &'static str {
    match grant {
        Grant::Exchange => "`exchange`",
        Grant::Secret => "`static_secret`",
    }
}

const GRANTS: [Grant; 2] = [Grant::Exchange, Grant::Secret];

/// Counters of Tollgate: looks for a grant.
const GRANTS_KEPT: &str = r#"tollgate_exchange_cache_total{tollgate_outcome="hit"}"#;
const GRANTS_NEW: &str = r#"tollgate_exchange_cache_total{tollgate_outcome="miss"}"#;

/// How often each caller calls once there is a grant.
const AGAIN: usize = 5;
/// What has ended by then is given back.
const SETTLED: Duration = Duration::from_secs(1);
const POLICIES: usize = 100;
