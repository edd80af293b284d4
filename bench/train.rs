//! What does Tollgate do most, for a compiler to know?
//!
//! No figure comes of it: calls, streams, lists and logins of the other questions, each for a short time, so that a program
//! which counts what it does (`deploy/build`) has done all of it. Most of all it calls, as those do who use it.

use tollgate::refusal::Era;

use crate::{
    bridged, clients, closed_loop, exchange, held_streams, identity, lists,
    parties::{self, Stage},
};

/// How long, and by how many.
#[derive(Clone, Copy)]
pub struct Settings {
    pub seconds: u64,
    pub count: usize,
    pub callers: usize,
}

/// Says what it does.
pub async fn run(Settings { seconds, count, callers }: Settings) {
    parties::let_end();
    let time = std::time::Duration::from_secs(seconds);
    let stage = Stage::new().await;
    for durability in ["os", "fsync"] {
        let tollgate = stage.tollgate(durability, POLICIES, durability, Era::Modern);
        tollgate.ready().await;
        for party in [tollgate.clone(), tollgate.reading_arguments("a policy reads arguments")] {
            let calls = closed_loop(clients(&party).await, time).await.len();
            println!("{calls} calls: {}", party.name);
        }
        held_streams(&tollgate, count).await;
        println!("{count} streams");
    }
    drop(stage);
    bridged::run(bridged::Settings { rounds: 1, seconds }).await;
    lists::run(lists::Settings { callers: callers.min(CALLERS_OF_LISTS), upstreams: 20, tools: 500, rounds: 1 }).await;
    identity::run(identity::Settings { count, rounds: 1 }).await;
    exchange::run(exchange::Settings { callers, rounds: 1 }).await;
    parties::ended().await;
}

const POLICIES: usize = 100;
/// Who each have a list of their own: of so many upstreams there are no more.
const CALLERS_OF_LISTS: usize = 40;
