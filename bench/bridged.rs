//! What does a call cost whose client and upstream are of different eras?
//!
//! The same call by clients of both eras to upstreams of both, in turn, through Tollgates with everything on that differ
//! in their upstream's era alone. It says nothing of how nginx would do: the load run does.

use tollgate::refusal::Era;

use crate::{RATE, Sample, best, in_turns, median, open_in_turns, parties::Stage};

/// How long.
#[derive(Clone, Copy)]
pub struct Settings {
    pub rounds: usize,
    pub seconds: u64,
}

/// Prints one table.
pub async fn run(Settings { rounds, seconds }: Settings) {
    let stage = Stage::new().await;
    let mut parties = Vec::new();
    for upstream in ERAS {
        let tollgate = stage.tollgate("tollgate", POLICIES, "os", upstream);
        tollgate.ready().await;
        parties
            .extend(ERAS.map(|client| tollgate.asked_by(client, &format!("{client:?} → {upstream:?}").to_lowercase())));
    }
    let samples = in_turns(&parties, rounds, seconds).await;
    let medians: Vec<Sample> = samples.iter().map(|of| median(of)).collect();
    let open: Vec<Sample> = open_in_turns(&parties, rounds, seconds).await.iter().map(|of| median(of)).collect();
    println!("{rounds} rounds of {seconds} s, {POLICIES} policies\n");
    println!(
        "| client → upstream | CPU µs/req: median (best) | × unbridged, same client | × unbridged, same upstream | requests/s | p99 ms | p50 ms at {RATE}/s | p99 ms at {RATE}/s |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    for (place, party) in parties.iter().enumerate() {
        let (upstream, client) = (place / ERAS.len(), place % ERAS.len());
        // Where both are of one era, nothing is bridged.
        let [same_client, same_upstream] =
            [client, upstream].map(|era| medians[place].cpu_us / medians[era * ERAS.len() + era].cpu_us);
        let Sample { p50_ms: p50, p99_ms: p99, .. } = open[place];
        let Sample { cpu_us, per_second, p99_ms, .. } = medians[place];
        let (name, best) = (&party.name, best(&samples[place]));
        println!(
            "| {name} | {cpu_us:.1} ({best:.1}) | {same_client:.2} | {same_upstream:.2} | {per_second:.0} | {p99_ms:.2} | {p50:.2} | {p99:.2} |"
        );
    }
}

const ERAS: [Era; 2] = [Era::Modern, Era::Legacy];
const POLICIES: usize = 100;
