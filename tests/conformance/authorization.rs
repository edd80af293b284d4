//! Does the gateway name an authorization server with which a client gets a token for it?
//!
//! The official suite judges the one that the gateway's metadata name (RFC 9728), and logs in there for the gateway's
//! endpoint as the resource; a person stands in for the browser. That is the provider, or the gateway itself.

use std::{fs, path::Path, time::Duration};

use serde_json::json;

use super::{found_under, passed};
use crate::harness::{
    gateway::{ALLOW_ALL, Setup},
    http, login,
    page::Table,
    peer::{self, Suite},
    place,
    recorder::{Era, Recorder},
};

const AUTHORIZATION: Table = Table {
    page: "tests/README.md",
    name: "conformance of authorization",
    rows: &["authorization-server-metadata-endpoint", "authorization-code-grant"],
};

const FACADE: Table = Table { name: "conformance of the facade", ..AUTHORIZATION };

#[test]
fn the_server_that_the_gateway_names_logs_in_for_its_endpoint() {
    let setup = Setup::new("authorization");
    let folder = setup.folder().to_owned();
    let provider = peer::provider(&folder);
    let upstream = Recorder::good(Era::Modern);
    let setup = setup.issuer(&provider.origin()).policy("allow.cedar", ALLOW_ALL);
    let gateway = setup.open_upstream("up", &upstream.url()).start();

    let challenge = gateway.client(None).modern("tools/list", &json!({}));
    let challenge = challenge.header("www-authenticate").unwrap();
    let metadata = challenge.split('"').find(|part| part.starts_with("http")).unwrap();
    let metadata = http::fetch("GET", metadata, &[], b"").json();
    assert_eq!(metadata["resource"], gateway.endpoint(None));
    let issuer = metadata["authorization_servers"][0].as_str().unwrap();

    let port = place::free_port().to_string();
    let callback = format!("http://127.0.0.1:{port}/callback");
    let asks = json!({ "redirect_uris": [&callback], "token_endpoint_auth_method": "none" }).to_string();
    let headers = [("Content-Type", "application/json")];
    let client = http::fetch("POST", &format!("{issuer}/reg"), &headers, asks.as_bytes()).json();
    let id = client["client_id"].as_str().unwrap_or_else(|| panic!("{client}"));
    let resource = gateway.endpoint(None);
    let arguments = ["--client-id", id, "--resource", &resource, "--port", &port];

    let mut suite = Suite::Newer.authorization(&folder, issuer, &arguments);
    let page = suite.until(Duration::from_secs(90), |suite| {
        let said = format!("{}{}", suite.output(), suite.errors());
        said.lines().find(|line| line.starts_with("http") && line.contains("code_challenge=")).map(str::to_owned)
    });
    // The suite asks for no scope, and this provider grants nothing then.
    let back = login::follow(&format!("{page}&scope=openid+tools:read"), &callback);
    http::fetch("GET", back.as_str(), &[], b"");
    suite.wait(Duration::from_secs(90));
    holds(&AUTHORIZATION, &folder);
}

#[test]
fn the_gateway_itself_logs_in_where_it_is_the_server() {
    let setup = Setup::new("authorization-facade");
    let folder = setup.folder().to_owned();
    let provider = peer::provider_before(&folder, &format!("{}/callback", setup.origin()));
    let upstream = Recorder::good(Era::Modern);
    let issuer = provider.origin();
    let client = "client = { id = \"facade\", secret = { env = \"FACADE_SECRET\" } }";
    let gateway = setup
        .issuer(&issuer)
        .policy("allow.cedar", ALLOW_ALL)
        .environment("FACADE_SECRET", "facade-secret")
        .open_upstream("up", &upstream.url())
        .section(&format!("[facade]\nprovider = \"{issuer}\"\n{client}"))
        .start();
    let own = gateway.setup().origin();
    let port = place::free_port().to_string();
    let callback = format!("http://127.0.0.1:{port}/callback");
    let asks = json!({ "redirect_uris": [&callback] }).to_string();
    let headers = [("Content-Type", "application/json")];
    let client = http::fetch("POST", &format!("{own}/register"), &headers, asks.as_bytes()).json();
    let id = client["client_id"].as_str().unwrap_or_else(|| panic!("{client}"));
    let resource = gateway.endpoint(None);
    let arguments = ["--client-id", id, "--resource", &resource, "--port", &port];
    let mut suite = Suite::Newer.authorization(&folder, &own, &arguments);
    let page = suite.until(Duration::from_secs(90), |suite| {
        let said = format!("{}{}", suite.output(), suite.errors());
        said.lines().find(|line| line.starts_with("http") && line.contains("code_challenge=")).map(str::to_owned)
    });
    let back = login::Browser::default().agree(&page, &callback);
    http::fetch("GET", back.as_str(), &[], b"");
    suite.wait(Duration::from_secs(90));
    holds(&FACADE, &folder);
}

/// What was found in this folder fails nowhere, and stands in the page.
fn holds(table: &Table, folder: &Path) {
    for row in table.rows {
        let scenario: Vec<_> = fs::read_dir(folder.join("found")).unwrap().map(|entry| entry.unwrap().path()).collect();
        let scenario = scenario.iter().find(|path| path.to_string_lossy().contains(row)).unwrap();
        let found = found_under(scenario);
        assert!(found.values().all(|status| !status.starts_with("FAILURE")), "{found:#?}");
        table.has(row, &[passed(&found).to_string()]);
    }
}

#[test]
fn the_page_has_no_other_row() {
    AUTHORIZATION.has_nothing_else();
    FACADE.has_nothing_else();
}
