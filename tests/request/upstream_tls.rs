//! An upstream behind TLS of its own authority, which wants to see the gateway's certificate.

use serde_json::json;

use super::text_of;
use crate::harness::{
    certificates::Authority,
    gateway::Setup,
    issuer::Issuer,
    place,
    recorder::{Era, Recorder},
};

#[test]
fn an_upstream_is_reached_over_mutual_tls_with_http_2_and_http_1_1() {
    let (issuer, folder) = (Issuer::good(), place::scratch("upstream-tls"));
    let authority = Authority::new(&folder);
    let (server, client) = (authority.leaf("server", &["127.0.0.1"]), authority.leaf("client", &["tollgate"]));
    let (ca, certificate, key) = (authority.file(), client.certificate.display(), client.key.display());
    let trusted = format!(
        "grant = {{ strategy = \"none\" }}\nca = \"{}\"\n\
         client_certificate = {{ certificate = \"{certificate}\", key = \"{key}\" }}",
        ca.display()
    );
    let newer = Recorder::behind_tls(Era::Modern, authority.mutual_server(&server, &["h2", "http/1.1"]));
    let older = Recorder::behind_tls(Era::Legacy, authority.mutual_server(&server, &["http/1.1"]));
    let gateway = Setup::usual("upstream-tls", &issuer)
        .upstream("newer", &newer.url(), &trusted)
        .upstream("older", &older.url(), &trusted)
        .upstream("stranger", &newer.url(), "grant = { strategy = \"none\" }")
        .start();
    for (upstream, recorder, version) in [("newer", &newer, "HTTP/2.0"), ("older", &older, "HTTP/1.1")] {
        let client = gateway.client_of(Some(upstream), &issuer, "alice");
        let read = || client.modern("tools/list", &json!({})).json()["result"]["tools"].is_array().then_some(());
        place::wait_for("the tools of the upstream", place::PATIENCE, read);
        let answer = client.call("echo", &json!({ "message": "hi" }));
        assert_eq!(text_of(&answer), "echo {\"message\":\"hi\"}", "{upstream}");
        let calls = recorder.seen_method("tools/call");
        assert_eq!(format!("{:?}", calls[0].version), version);
    }
    // Without the authority the same server is not believed, and nothing reaches it.
    let refused = gateway.client_of(Some("stranger"), &issuer, "alice").call("echo", &json!({}));
    assert_eq!(refused.json()["error"]["data"]["code"], "catalogue_unavailable");
    assert_eq!(newer.seen_method("tools/call").len(), 1);
}
