//! What does somebody hold who is there and asks nothing?
//!
//! Many sessions of legacy clients and many listeners of modern ones, every one a caller's of its own, each kind before a
//! Tollgate that nobody asked anything yet. What counts is how its resident memory grows. It calls no tool.

use std::time::Duration;

use tollgate::refusal::Era;

use crate::{
    at, estate,
    parties::{self, Connection, Party, Stage},
};

/// How many.
#[derive(Clone, Copy)]
pub struct Settings {
    pub count: usize,
    pub rounds: usize,
}

/// In what way somebody is there.
#[derive(Clone, Copy)]
enum Way {
    /// Asked once, without a session, and went away.
    Asked,
    /// Has a session, and no connection.
    Session,
    /// Has a session, and the connection that it began on.
    Connected,
    /// Has a session, and its stream.
    Stream,
    /// `subscriptions/listen`.
    Listener,
}

/// Prints one table.
pub async fn run(Settings { count, rounds }: Settings) {
    parties::need_files(count + FIRST);
    let stage = Stage::new().await;
    let mut grown = Way::ALL.map(|_| (Vec::new(), Vec::new()));
    for _ in 0..rounds {
        for (way, (each, all)) in Way::ALL.iter().zip(&mut grown) {
            let (kib, mib) = held(&stage, *way, count).await;
            each.push(kib);
            all.push(mib);
        }
    }
    println!("{rounds} rounds, {POLICIES} policies\n");
    println!("| memory, {count} of each | KiB each: median (least, most) | all together and Tollgate, MiB |");
    println!("|---|---|---|");
    for (way, (each, all)) in Way::ALL.iter().zip(&mut grown) {
        let [median, least, most] = [0.5, 0.0, 1.0].map(|share| at(each, share));
        println!("| {} | {median:.1} ({least:.1}, {most:.1}) | {:.1} |", way.name(), at(all, 0.5));
    }
}

/// KiB that one of `count` adds, and MiB with all of them.
async fn held(stage: &Stage, way: Way, count: usize) -> (f64, f64) {
    let tollgate = stage.tollgate(way.name(), POLICIES, "os", Era::Modern);
    tollgate.ready().await;
    let (mut connections, mut before) = (Vec::new(), 0.0);
    for number in 0..FIRST + count {
        if number == FIRST {
            tokio::time::sleep(SETTLED).await;
            before = tollgate.rss_mib();
        }
        connections.extend(way.begin(&stage.asked_by_caller(&tollgate, number)).await);
    }
    tokio::time::sleep(SETTLED).await;
    let after = tollgate.rss_mib();
    let there = tollgate.gauges(["tollgate_connections", "tollgate_sessions", "tollgate_listeners"]).await;
    let mut expected = way.counted().map(|counted| if counted { FIRST + count } else { 0 });
    // The question comes by a connection, too.
    expected[0] += 1;
    assert_eq!(there, expected, "connections, sessions, listeners: {}", way.name());
    drop(connections);
    ((after - before) * 1_024.0 / count as f64, after)
}

impl Way {
    const ALL: [Self; 5] = [Self::Asked, Self::Session, Self::Connected, Self::Stream, Self::Listener];

    const fn name(self) -> &'static str {
        match self {
            Self::Asked => "a caller who asked once, gone",
            Self::Session => "an idle session, no connection",
            Self::Connected => "an idle session, its connection kept",
            Self::Stream => "an idle session, its GET stream open",
            Self::Listener => "a listener (`subscriptions/listen`)",
        }
    }

    /// Whether it has a connection, a session, a place among the listeners.
    const fn counted(self) -> [bool; 3] {
        match self {
            Self::Asked => [false, false, false],
            Self::Session => [false, true, false],
            Self::Connected => [true, true, false],
            Self::Stream => [true, true, true],
            Self::Listener => [true, false, true],
        }
    }

    /// What stays open, if anything does.
    async fn begin(self, caller: &Party) -> Option<Connection> {
        let mut connection = caller.connect().await;
        match self {
            Self::Asked => {
                connection.send(&caller.modern("server/discover", "")).await;
                let answer = connection.receive().await.expect("the connection closed");
                assert_eq!(answer.status(), 200, "{}", answer.text());
                None
            }
            Self::Session => {
                caller.begin(&mut connection).await;
                None
            }
            Self::Connected => {
                caller.begin(&mut connection).await;
                Some(connection)
            }
            Self::Stream => {
                let session = caller.begin(&mut connection).await;
                connection.send(&caller.session_stream(&session)).await;
                opened(connection, "id: ").await
            }
            Self::Listener => {
                connection.send(&caller.modern("subscriptions/listen", estate::LISTENED)).await;
                opened(connection, "notifications/subscriptions/acknowledged").await
            }
        }
    }
}

/// `connection`, once its stream has begun with an event that has `first` in it.
async fn opened(mut connection: Connection, first: &str) -> Option<Connection> {
    let answer = connection.receive_event().await.expect("the connection closed");
    assert!(answer.status() == 200 && answer.text().contains(first), "HTTP {}: {}", answer.status(), answer.text());
    Some(connection)
}

/// So many come before memory is looked at: the first bring what all share.
const FIRST: usize = 20;
/// What has ended by then is given back.
const SETTLED: Duration = Duration::from_secs(1);
const POLICIES: usize = 100;
