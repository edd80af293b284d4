//! What becomes of a server's or a provider's word about the gateway's credential (spec §2.6)?
//!
//! It is never taken for a word about the client's own token, in either era; but where a provider wants to see the user
//! again, their client is told.

use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};

use super::{Behind, Cells, Row, Server, answered, code, said};
use crate::harness::{
    gateway::Setup,
    issuer::Issuer,
    recorder::{Era, Recorder, Reply},
};

const IDS: [&str; 7] = ["once", "always", "scope", "expired", "target", "person", "away"];

/// At each path of one server another word, and of the provider about each path.
pub(super) fn hold() {
    let issuer = Issuer::scripted(|seen| {
        seen.field("subject_token")?;
        let (status, word) = match seen.field("resource")?.rsplit('/').next()? {
            "expired" => (400, "invalid_grant"),
            "target" => (400, "invalid_target"),
            "person" => (400, "insufficient_user_authentication"),
            "away" => (500, "server_error"),
            _ => return None,
        };
        Some(Reply::json(status, &json!({ "error": word })))
    });
    let refused = AtomicUsize::new(0);
    let recorder = Recorder::scripted(Era::Modern, move |seen| {
        let says = |status, challenge| Reply::status(status).header("www-authenticate", challenge);
        match (seen.rpc_method().as_str(), seen.path.as_str()) {
            ("tools/call", "/once") if refused.fetch_add(1, Ordering::AcqRel) == 0 => {
                Some(says(401, "Bearer error=\"invalid_token\""))
            }
            ("tools/call", "/always") => Some(says(401, "Bearer error=\"invalid_token\"")),
            ("tools/call", "/scope") => Some(says(403, "Bearer error=\"insufficient_scope\", scope=\"more\"")),
            _ => None,
        }
    });
    let setup = IDS.iter().fold(Setup::usual("eras-credentials", &issuer), |setup, id| {
        setup.exchanged_upstream(id, &format!("{}/{id}", recorder.origin()), &issuer.url(), "\"up.call\"")
    });
    let servers = vec![Server { id: "server", behind: Behind::Odd(recorder), lines: "", tool: "" }];
    let cells = Cells { gateway: setup.start(), issuer, servers };
    for id in IDS {
        drop(cells.client(id).awaiting("echo"));
    }
    super::hold("credentials", ROWS, &cells);
}

const BYTES: &str = "by bytes";

const ROWS: &[Row] = &[
    Row { feature: "server: 401, once", verdict: "emulate", peers: BYTES, see: |cells| calls(cells, "once", 2) },
    Row { feature: "server: 401, again", verdict: "refuse", peers: BYTES, see: |cells| calls(cells, "always", 2) },
    Row {
        feature: "server: 403 `insufficient_scope`",
        verdict: "refuse",
        peers: BYTES,
        see: |cells| calls(cells, "scope", 1),
    },
    Row {
        feature: "provider: `invalid_grant`",
        verdict: "refuse",
        peers: BYTES,
        see: |cells| calls(cells, "expired", 0),
    },
    Row {
        feature: "provider: `invalid_target`",
        verdict: "refuse",
        peers: BYTES,
        see: |cells| calls(cells, "target", 0),
    },
    Row {
        feature: "provider: `insufficient_user_authentication`",
        verdict: "refuse",
        peers: BYTES,
        see: |cells| challenged(cells, "person"),
    },
    Row { feature: "provider cannot be used", verdict: "refuse", peers: BYTES, see: |cells| calls(cells, "away", 0) },
];

/// What a modern client hears, and a legacy one as well; the server is called so often for the first.
fn calls(cells: &Cells, id: &str, times: usize) -> String {
    let path = format!("/{id}");
    let called = || {
        let all = cells.odd("server").seen_method("tools/call");
        all.into_iter().filter(|seen| seen.path == path).count()
    };
    let modern = cells.client(id).call("echo", &json!({}));
    assert_eq!(called(), times, "{id}");
    let legacy = cells.client(id).initialize().call("echo", &json!({}));
    assert_eq!((said(&modern.json()), 200), (said(&legacy.json()), legacy.status()), "{id}: the same, in band");
    for answer in [&modern, &legacy] {
        assert_eq!(answer.header("www-authenticate"), None, "{id}");
        let texts: Value = answer.json();
        assert!(!texts.to_string().contains("insufficient"), "{texts}");
    }
    let often = ["not called", "called once", "called twice"];
    format!("{}, {}", code(answered(&modern)), often[times])
}

/// What a client of either era hears whose user has to log in again, and that the server is not called.
fn challenged(cells: &Cells, id: &str) -> String {
    let path = format!("/{id}");
    let modern = cells.client(id).call("echo", &json!({}));
    let legacy = cells.client(id).initialize().call("echo", &json!({}));
    for answer in [&modern, &legacy] {
        let challenge = answer.header("www-authenticate").unwrap();
        assert!(challenge.contains("error=\"insufficient_user_authentication\""), "{challenge}");
    }
    assert_eq!((said(&modern.json()), 401), (said(&legacy.json()), legacy.status()), "{id}: the same");
    let called = cells.odd("server").seen_method("tools/call").into_iter().filter(|seen| seen.path == path).count();
    assert_eq!(called, 0, "{id}");
    format!("{}, not called", code(answered(&modern)))
}
