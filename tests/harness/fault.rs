//! How can a provider be no help?
//!
//! Each way in which an identity provider, or whoever else is asked for something, can fail: a provider of the tests is well
//! until it is broken, and is well again. What is to come of it is the tests' matter.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use super::{
    issuer::Issuer,
    recorder::{Recorder, Reply, Seen, Step},
};
use serde_json::json;

/// Something that no caller may read.
pub(crate) const INSIDE: &str = "inside-of-the-provider";

/// One way to fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The port is closed.
    Away,
    /// It says nothing.
    Hangs,
    /// It begins to answer, and says no more.
    Stops,
    /// It begins to answer, and the connection breaks.
    BreaksOff,
    Status500,
    /// An error that looks like an answer.
    Status503,
    Html,
    Empty,
    Malformed,
    /// More than anybody needs, with its length before it.
    Huge,
    /// More and more.
    Endless,
    /// It sends the gateway to another place, with what it was asked.
    Elsewhere,
    /// It answers well, and it is somebody else's answer.
    Lies,
}

impl Fault {
    pub(crate) const ALL: [Self; 13] = [
        Self::Away,
        Self::Hangs,
        Self::Stops,
        Self::BreaksOff,
        Self::Status500,
        Self::Status503,
        Self::Html,
        Self::Empty,
        Self::Malformed,
        Self::Huge,
        Self::Endless,
        Self::Elsewhere,
        Self::Lies,
    ];

    /// What it answers; `Away` does not.
    pub(crate) fn reply(self, elsewhere: &str, lie: impl FnOnce() -> Reply) -> Reply {
        const LONG: Duration = Duration::from_secs(60);
        let begun = || Reply::status(200).header("content-type", "application/json").step(Step::Bytes("{".into()));
        match self {
            // Nobody is there to say it.
            Self::Away => Reply::status(500),
            Self::Hangs => Reply::status(200).after(LONG),
            Self::Stops => begun().step(Step::Pause(LONG)),
            Self::BreaksOff => begun().step(Step::Cut),
            Self::Status500 => Reply::text(500, "text/plain", INSIDE),
            Self::Status503 => Reply::json(503, &json!({ "active": true, "keys": [], "error": INSIDE })),
            Self::Html => Reply::text(200, "text/html", format!("<h1>{INSIDE}</h1>")),
            Self::Empty => Reply::status(200),
            Self::Malformed => Reply::text(200, "application/json", format!("{{\"{INSIDE}\":")),
            Self::Huge => Reply::json(200, &json!({ "padding": "x".repeat(600_000) })),
            Self::Endless => begun().step(Step::Forever("          ".into())),
            Self::Elsewhere => Reply::status(307).header("location", elsewhere),
            Self::Lies => lie(),
        }
    }
}

/// A provider that can be broken at one place.
#[derive(Debug)]
pub(crate) struct Troubled {
    pub(crate) issuer: Issuer,
    pub(crate) fault: Fault,
    at: fn(&Seen) -> bool,
    broken: Arc<AtomicBool>,
}

/// What a provider does otherwise than [`Issuer`], while it is well.
pub(crate) type Well = fn(&Seen) -> Option<Reply>;

impl Troubled {
    /// A provider for each fault: well as `well` says, to be broken for the requests `at` one place, where it can `lie`.
    pub(crate) fn each(well: Well, at: fn(&Seen) -> bool, lie: fn(&Seen) -> Reply, elsewhere: &Recorder) -> Vec<Self> {
        let elsewhere = elsewhere.origin();
        let one = |fault: Fault| {
            let broken = Arc::new(AtomicBool::new(false));
            let (now, elsewhere) = (Arc::clone(&broken), elsewhere.clone());
            let issuer = Issuer::scripted(move |seen| {
                if fault != Fault::Away && at(seen) && now.load(Ordering::Acquire) {
                    return Some(fault.reply(&elsewhere, || lie(seen)));
                }
                well(seen)
            });
            Self { issuer, fault, at, broken }
        };
        Fault::ALL.map(one).into()
    }

    pub(crate) fn breaks(&self) {
        self.broken.store(true, Ordering::Release);
        if self.fault == Fault::Away {
            self.issuer.recorder().leave();
        }
    }

    pub(crate) fn heals(&self) {
        self.broken.store(false, Ordering::Release);
        if self.fault == Fault::Away {
            self.issuer.recorder().come_back();
        }
    }

    /// How often it was asked at that place.
    pub(crate) fn asked(&self) -> usize {
        self.issuer.recorder().seen().iter().filter(|seen| (self.at)(seen)).count()
    }
}
