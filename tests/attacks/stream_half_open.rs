//! A server whose connections stay open and say nothing more, or whose end is gone without a word (I8, I9).

use std::{
    io::{Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use parking_lot::Mutex;
use serde_json::json;

use super::{Ground, SOON, code};
use crate::harness::{
    place,
    recorder::{Era, Recorder},
};

/// A way to a server that can fall silent: what is under way on it then stays open, and nothing more passes, in either
/// direction. Half a connection may be closed, too.
struct Wire {
    port: u16,
    silent: Arc<AtomicBool>,
    held: Arc<Mutex<Vec<TcpStream>>>,
    accepted: Arc<AtomicUsize>,
}

impl Wire {
    fn to(server: &Recorder) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let wire = Self {
            port: listener.local_addr().unwrap().port(),
            silent: Arc::default(),
            held: Arc::default(),
            accepted: Arc::default(),
        };
        let origin = server.origin().strip_prefix("http://").unwrap().to_owned();
        let (silent, held, accepted) = (Arc::clone(&wire.silent), Arc::clone(&wire.held), Arc::clone(&wire.accepted));
        std::thread::spawn(move || {
            for near in listener.incoming().map_while(Result::ok) {
                accepted.fetch_add(1, Ordering::AcqRel);
                let far = TcpStream::connect(&origin).unwrap();
                held.lock().push(near.try_clone().unwrap());
                for (from, to) in [(near.try_clone(), far.try_clone()), (Ok(far), Ok(near))] {
                    let (from, to, silent) = (from.unwrap(), to.unwrap(), Arc::clone(&silent));
                    std::thread::spawn(move || pass(from, to, &silent));
                }
            }
        });
        wire
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}/mcp", self.port)
    }

    fn fall_silent(&self) {
        self.silent.store(true, Ordering::Release);
    }

    /// Says that nothing more comes, and goes on taking.
    fn close_half(&self) {
        self.fall_silent();
        for near in self.held.lock().iter() {
            drop(near.shutdown(Shutdown::Write));
        }
    }

    fn speak_again(&self) {
        self.silent.store(false, Ordering::Release);
    }
}

/// Copies until the wire falls silent; then everything is swallowed.
fn pass(mut from: TcpStream, mut to: TcpStream, silent: &AtomicBool) {
    let mut block = [0; 16 << 10];
    while let Ok(count @ 1..) = from.read(&mut block) {
        if silent.load(Ordering::Acquire) {
            // What was there is not there any more: this connection never speaks again.
            while let Ok(1..) = from.read(&mut block) {}
            return;
        }
        if to.write_all(&block[..count]).is_err() {
            break;
        }
    }
    drop(to.shutdown(Shutdown::Write));
}

/// A ground whose second upstream, `far`, is at the end of a wire.
fn ground(name: &str, era: Era) -> (Ground, Recorder, Wire) {
    let far = Recorder::good(era);
    let wire = Wire::to(&far);
    let ground = Ground::before(name, Recorder::good(Era::Modern), |setup, _, up| {
        let lines = "timeout_ms = 8000\ngrant = { strategy = \"none\" }";
        setup.open_upstream("up", &up.url()).upstream("far", &wire.url(), lines)
    });
    drop(ground.gateway.client_of(Some("far"), &ground.issuer, "alice").awaiting("echo"));
    (ground, far, wire)
}

#[test]
fn connections_that_fell_silent_end_their_calls_in_time_and_no_others() {
    std::thread::scope(|scope| {
        for era in [Era::Modern, Era::Legacy] {
            scope.spawn(move || silent_connections_end_their_calls(era));
        }
    });
}

fn silent_connections_end_their_calls(era: Era) {
    let (ground, far, wire) = ground("half-open", era);
    let client = ground.gateway.client_of(Some("far"), &ground.issuer, "alice");
    // Connections in the pool, all of which will be found dead.
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| assert_eq!(client.call("echo", &json!({})).status(), 200));
        }
    });
    wire.fall_silent();
    let (before, sent) = (far.seen_method("tools/call").len(), 16);
    std::thread::scope(|scope| {
        let calls: Vec<_> = (0..sent).map(|_| scope.spawn(|| client.call("echo", &json!({})))).collect();
        ground.good_call();
        assert!(calls.iter().any(|call| !call.is_finished()), "{era:?}: a good call waited for those that cannot end");
        (0..4).for_each(|_| ground.good_call());
        for call in calls {
            let answer = call.join().unwrap();
            let found = code(&answer);
            assert!(["upstream_timeout", "upstream_lost", "upstream_unreachable"].contains(&found.as_str()), "{found}");
        }
    });
    assert_eq!(far.seen_method("tools/call").len(), before, "nothing got through");
    // When it is back it is used again, on new connections: the dead ones are not kept.
    wire.speak_again();
    place::wait_for("the far upstream is used again", SOON, || {
        (client.call("echo", &json!({})).status() == 200).then_some(())
    });
    for _ in 0..20 {
        assert_eq!(client.call("echo", &json!({})).status(), 200, "{era:?}: a dead connection was kept");
    }
    ground.good_call();
}

#[test]
fn half_closed_connections_are_not_used_again() {
    for era in [Era::Modern, Era::Legacy] {
        let (ground, _far, wire) = ground("half-closed", era);
        let client = ground.gateway.client_of(Some("far"), &ground.issuer, "alice");
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| assert_eq!(client.call("echo", &json!({})).status(), 200));
            }
        });
        wire.close_half();
        wire.speak_again();
        place::wait_for("the far upstream is used again", SOON, || {
            (client.call("echo", &json!({})).status() == 200).then_some(())
        });
        for _ in 0..20 {
            assert_eq!(client.call("echo", &json!({})).status(), 200, "{era:?}");
        }
        ground.good_call();
        assert!(wire.accepted.load(Ordering::Acquire) > 1);
    }
}
