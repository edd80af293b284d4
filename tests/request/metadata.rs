//! How does a client learn where to get a token, and which? RFC 9728, RFC 6750 (RR-01 to RR-07).

use serde_json::json;

use super::refused;
use crate::harness::{
    gateway::{Gateway, Setup},
    http::fetch,
    issuer::Issuer,
    mcp::Client,
    recorder::{Era, Recorder},
};

const RULES: &str = "grant = { strategy = \"none\" }\n\
    [[upstreams.up.tools]]\nmatch = \"erase\"\nrequires = [\"up:write\", \"up:erase\"]\ntags = [\"write\"]\n\
    [[upstreams.up.tools]]\nmatch = \"*\"\nrequires = [\"tools:call\"]\n";

fn gateway(name: &str, issuer: &Issuer, upstream: &Recorder) -> Gateway {
    Setup::usual(name, issuer).upstream("up", &upstream.url(), RULES).start()
}

#[test]
fn the_challenge_leads_to_metadata_which_leads_to_the_issuer() {
    let issuer = Issuer::good();
    let recorder = Recorder::good(Era::Modern);
    let gateway = gateway("metadata", &issuer, &recorder);
    let origin = gateway.setup().origin();
    let well_known = format!("{origin}/.well-known/oauth-protected-resource");
    for (endpoint, path) in [(None, "/mcp"), (Some("up"), "/mcp/up")] {
        let client = gateway.client(endpoint);
        let answer = client.call("echo", &json!({}));
        assert_eq!(refused(&answer), (401, 40101, "token_missing".into()));
        let challenge = answer.header("www-authenticate").unwrap();
        let expected =
            format!("Bearer resource_metadata=\"{well_known}{path}\", scope=\"tools:call up:erase up:write\"");
        assert_eq!(challenge, expected);

        let document = fetch("GET", &format!("{well_known}{path}"), &[], b"");
        assert_eq!((document.status(), document.header("content-type")), (200, Some("application/json")));
        let document = document.json();
        assert_eq!(document["resource"], gateway.endpoint(endpoint));
        assert_eq!(document["authorization_servers"], json!([issuer.url()]));
        assert_eq!(document["bearer_methods_supported"], json!(["header"]));
        assert_eq!(document["scopes_supported"], json!(["tools:call", "up:erase", "up:write"]));

        let probe = client.connection().exchange(&client.bytes("GET", &[], b""));
        assert_eq!((probe.status(), probe.header("www-authenticate")), (401, Some(expected.as_str())));
    }
    assert_eq!(fetch("GET", &well_known, &[], b"").json()["resource"], gateway.endpoint(None), "the root's place");
    let nobody = fetch("GET", &format!("{well_known}/mcp/nobody"), &[], b"");
    assert_eq!(refused(&nobody), (404, 40401, "route_unknown".into()));
    assert!(recorder.seen_method("tools/call").is_empty());
}

#[test]
fn a_bad_token_is_told_so_and_no_more() {
    let issuer = Issuer::good();
    let recorder = Recorder::good(Era::Modern);
    let gateway = gateway("bad-token", &issuer, &recorder);
    let endpoint = gateway.endpoint(Some("up"));
    let mut expired = issuer.claims("alice", &endpoint);
    expired["exp"] = json!(1_000);
    let elsewhere = issuer.claims("alice", "https://elsewhere.example/mcp");
    for claims in [expired, elsewhere] {
        let answer = gateway.client(Some("up")).token(&issuer.sign(&claims)).call("echo", &json!({}));
        assert_eq!(refused(&answer), (401, 40102, "token_invalid".into()));
        let challenge = answer.header("www-authenticate").unwrap();
        assert!(challenge.starts_with("Bearer error=\"invalid_token\", resource_metadata=\""), "{challenge}");
        assert!(!answer.text().contains("audience") && !answer.text().contains("exp"), "{}", answer.text());
    }
}

#[test]
fn too_little_scope_names_all_that_the_call_needs() {
    let issuer = Issuer::good();
    let recorder = Recorder::good(Era::Modern);
    let gateway = gateway("scope", &issuer, &recorder);
    let alice = gateway.client_of(Some("up"), &issuer, "alice").awaiting("echo");
    let answer = alice.call("erase", &json!({ "id": "1" }));
    assert_eq!(refused(&answer), (403, 40303, "scope_insufficient".into()));
    let challenge = answer.header("www-authenticate").unwrap();
    let metadata = format!("{}/.well-known/oauth-protected-resource/mcp/up", gateway.setup().origin());
    let scope = "tools:call up:erase up:write";
    assert_eq!(
        challenge,
        format!("Bearer error=\"insufficient_scope\", resource_metadata=\"{metadata}\", scope=\"{scope}\"")
    );
    assert_eq!(answer.json()["error"]["data"]["requiredScopes"], json!(["tools:call", "up:erase", "up:write"]));
    assert!(recorder.seen_method("tools/call").is_empty());

    let mut claims = issuer.claims("alice", &gateway.endpoint(Some("up")));
    claims["scope"] = json!(scope);
    let stepped = gateway.client(Some("up")).token(&issuer.sign(&claims)).call("erase", &json!({ "id": "1" }));
    assert_eq!(stepped.status(), 200, "{}", stepped.text());
}

#[test]
fn a_token_in_the_query_is_refused_even_a_good_one() {
    let issuer = Issuer::good();
    let recorder = Recorder::good(Era::Modern);
    let gateway = gateway("query", &issuer, &recorder);
    let token = issuer.token("alice", &gateway.endpoint(Some("up")));
    let url = format!("{}?access_token={token}", gateway.endpoint(Some("up")));
    for client in [Client::new(&url), Client::new(&url).token(&token)] {
        let answer = client.call("echo", &json!({}));
        assert_eq!(refused(&answer), (400, 40001, "token_in_query".into()));
        assert!(answer.header("www-authenticate").unwrap().contains("error=\"invalid_request\""));
    }
    let doubled =
        gateway.client(Some("up")).post(&[("Authorization", "Bearer a"), ("Authorization", "Bearer b")], b"{}");
    assert_eq!(refused(&doubled), (400, 40002, "authorization_malformed".into()));
    assert!(recorder.seen_method("tools/call").is_empty());
}

/// The resource is what the configuration says, whatever `Host` a client sends.
#[test]
fn the_other_endpoint_is_another_resource() {
    let issuer = Issuer::good();
    let recorder = Recorder::good(Era::Modern);
    let other = Recorder::good(Era::Modern);
    let setup = Setup::usual("resources", &issuer).open_upstream("up", &recorder.url());
    let gateway = setup.open_upstream("other", &other.url()).start();
    let for_up = issuer.token("alice", &gateway.endpoint(Some("up")));
    for endpoint in [None, Some("other")] {
        let answer = gateway.client(endpoint).token(&for_up).modern("tools/list", &json!({}));
        assert_eq!(refused(&answer), (401, 40102, "token_invalid".into()), "{endpoint:?}");
    }
    assert_eq!(gateway.client(Some("up")).token(&for_up).modern("tools/list", &json!({})).status(), 200);
}
