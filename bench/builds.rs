//! Does a call cost more with one build of Tollgate than with another?
//!
//! The same call through each, and through nginx, in turns so short that a machine which is faster at one time than at another
//! is so for all of them: what is compared is each turn with those next to it. Nothing is held, and no latency is told.

use std::time::Duration;

use crate::{
    at, closed_loop,
    parties::{Party, Stage},
};

/// How long, and with which programs beside the one that was built.
pub struct Settings {
    pub rounds: usize,
    pub milliseconds: u64,
    pub programs: Vec<String>,
}

/// Prints one table.
pub async fn run(Settings { rounds, milliseconds, programs }: Settings) {
    let stage = Stage::new().await;
    let mut parties = vec![stage.nginx(), stage.tollgate("this build", POLICIES, "os", tollgate::refusal::Era::Modern)];
    for program in programs {
        let estate = crate::estate::Estate { policies: POLICIES, ..stage.estate() };
        parties.push(stage.open_with(&program, &program, &estate));
    }
    for party in &parties {
        party.ready().await;
    }
    let mut turns: Vec<Vec<f64>> = vec![Vec::new(); parties.len()];
    for round in 0..rounds + ROUNDS_FIRST {
        for (party, turns) in parties.iter().zip(&mut turns) {
            let cost = turn(party, Duration::from_millis(milliseconds)).await;
            if round >= ROUNDS_FIRST {
                turns.push(cost);
            }
        }
    }
    println!("{rounds} rounds of {milliseconds} ms, {POLICIES} policies; medians\n");
    println!("{:<40}{:>11}{:>8}{:>9}{:>14}", "", "CPU µs/req", "best", "x nginx", "x this build");
    for (party, of) in parties.iter().zip(&turns) {
        let [nginx, this] = [0, 1].map(|other: usize| {
            let mut ratios: Vec<f64> = of.iter().zip(&turns[other]).map(|(own, other)| own / other).collect();
            at(&mut ratios, 0.5)
        });
        let best = of.iter().copied().fold(f64::INFINITY, f64::min);
        println!("{:<40}{:>11.1}{best:>8.1}{nginx:>9.2}{this:>14.3}", party.name, at(&mut of.clone(), 0.5));
    }
}

/// CPU time a call, in µs.
async fn turn(party: &Party, time: Duration) -> f64 {
    let clients = crate::clients(party).await;
    let before = party.ran();
    let calls = closed_loop(clients, time).await.len();
    party.ran_us_since(&before) / calls as f64
}

const POLICIES: usize = 100;
/// Rounds that are not counted.
const ROUNDS_FIRST: usize = 4;
