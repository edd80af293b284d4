//! An issuer, or whoever has its metadata in hand, that sends the gateway to places which only the gateway can reach.

use std::sync::Arc;

use parking_lot::Mutex;
use serde_json::json;

use crate::harness::{
    gateway::Setup,
    issuer::Issuer,
    place,
    recorder::{Era, Recorder, Reply},
};

/// An issuer whose metadata say that its keys are at this address.
fn with_keys_at(address: &Arc<Mutex<String>>) -> Issuer {
    let address = Arc::clone(address);
    Issuer::scripted(move |seen| {
        let issuer = format!("http://{}", seen.header("host").unwrap_or_default());
        seen.path.starts_with("/.well-known/").then(|| {
            Reply::json(
                200,
                &json!({ "issuer": issuer, "jwks_uri": *address.lock(), "token_endpoint": "https://t.invalid/" }),
            )
        })
    })
}

#[test]
fn metadata_that_lead_inside_lead_nowhere() {
    let (inside, up) = (Recorder::serving(|_| Reply::status(200)), Recorder::good(Era::Modern));
    let local = inside.origin().replace("http://127.0.0.1", "https://localhost");
    for lure in [
        &inside.origin(),
        &local,
        "https://127.0.0.1/keys",
        "https://[::ffff:127.0.0.1]/keys",
        "https://169.254.169.254/latest/meta-data/",
        "https://[fd00:ec2::254]/",
        "https://2130706433/",
    ] {
        let issuer = with_keys_at(&Arc::new(Mutex::new(lure.to_owned())));
        let good = Issuer::good();
        let gateway =
            Setup::usual("metadata-elsewhere", &issuer).issuer(&good.url()).open_upstream("up", &up.url()).start();
        let endpoint = gateway.endpoint(Some("up"));
        let refused = gateway.client_of(Some("up"), &issuer, "alice").call("echo", &json!({ "a": lure }));
        assert_eq!(refused.status(), 503, "{lure}: {}", refused.text());
        assert_eq!(super::code(&refused), "identity_unavailable", "{lure}");
        super::recorded_refusal(&gateway, "identity_unavailable");
        assert!(
            up.seen_method("tools/call").iter().all(|seen| seen.json()["params"]["arguments"] != json!({ "a": lure }))
        );
        assert!(!refused.text().contains("127.0.0.1") && !refused.text().contains("169.254"), "{}", refused.text());
        let why = place::wait_for("the reason in the log", super::SOON, || {
            let log = format!("{}{}", gateway.process.output(), gateway.process.errors());
            log.lines()
                .find(|line| line.contains("issuer keys not read") && line.contains("not dialled"))
                .map(str::to_owned)
        });
        assert!(why.contains("not dialled"), "{lure}: {why}");
        let fine = gateway.client(Some("up")).token(&good.token("alice", &endpoint));
        assert_eq!(fine.awaiting("echo").call("echo", &json!({})).status(), 200);
    }
    assert_eq!(inside.seen().len(), 0, "nobody was there");
}

#[test]
fn what_the_administrator_excepts_is_dialled() {
    let keys = Arc::new(Mutex::new(String::new()));
    let (issuer, up) = (with_keys_at(&keys), Recorder::good(Era::Modern));
    // The keys are where they always are, but their address is another spelling of that: another origin.
    let elsewhere = issuer.url().replace("127.0.0.1", "localhost");
    *keys.lock() = format!("{elsewhere}/jwks");
    let gateway = Setup::usual("metadata-excepted", &issuer)
        .section(&format!("[egress]\norigins = [\"{elsewhere}\"]"))
        .open_upstream("up", &up.url())
        .start();
    let alice = gateway.client_of(Some("up"), &issuer, "alice").awaiting("echo");
    assert_eq!(alice.call("echo", &json!({})).status(), 200);
}
