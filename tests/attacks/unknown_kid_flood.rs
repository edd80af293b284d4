//! Tokens with keys that nobody has heard of, by the hundred: the gateway must not become the weapon that brings the
//! issuer down, and a key that really is new must still be found.

use std::time::Instant;

use serde_json::json;

use super::{Ground, SOON, code};
use crate::harness::{issuer::Signature, place};

#[test]
fn flood_of_unknown_keys_costs_the_issuer_next_to_nothing() {
    let ground = Ground::new("unknown-kid");
    let fetches = || ground.issuer.recorder().seen_path("/jwks").len();
    let endpoint = ground.gateway.endpoint(Some("up"));
    let (began, before) = (Instant::now(), fetches());
    assert!(before > 0, "the recorder sees no fetch of keys");
    std::thread::scope(|scope| {
        for worker in 0..4 {
            let (ground, endpoint) = (&ground, &endpoint);
            scope.spawn(move || {
                for turn in 0..75 {
                    let mut header = ground.issuer.header();
                    header["kid"] = json!(format!("unknown-{worker}-{turn}"));
                    let claims = ground.issuer.claims("alice", endpoint);
                    let token = ground.issuer.forge(&header, &claims, Signature::Stranger);
                    let answer = ground.gateway.client(Some("up")).token(&token).call("echo", &json!({}));
                    let said = (answer.status(), code(&answer));
                    let asked = said == (401, "token_invalid".to_owned());
                    assert!(asked || said == (503, "identity_unavailable".to_owned()), "{said:?}");
                }
            });
        }
        // Whoever has a good token does not notice.
        for _ in 0..10 {
            assert_eq!(ground.client("bob").call("echo", &json!({})).status(), 200);
        }
    });
    // One in ten seconds, or a little less.
    let most = 2 + began.elapsed().as_secs() as usize / 9;
    assert!(fetches() - before <= most, "300 unknown keys caused {} fetches", fetches() - before);
    assert_eq!(ground.calls(), 10, "only the good ones reached the upstream");
    ground.recorded_refusal("token_invalid");

    ground.issuer.rotate();
    let client = ground.client("carol");
    place::wait_for("the issuer's new key", SOON, || (client.call("echo", &json!({})).status() == 200).then_some(()));
    ground.good_call();
}
