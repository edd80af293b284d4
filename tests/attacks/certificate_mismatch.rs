//! A machine's name, or a token that is bound to a certificate, over a connection that shows another (RFC 8705 §3).

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use serde_json::json;

use super::{Ground, chain_verifies};
use crate::harness::recorder::{Era, Recorder};

const MACHINE: &str = "[[certificates]]\nuri = \"spiffe://example.org/reader\"\nagent = \"reader\"\ntenant = \"acme\"\ngroups = [\"machines\"]";

#[test]
fn a_certificate_is_worth_what_the_handshake_says() {
    let ground = Ground::before("certificate-mismatch", Recorder::good(Era::Modern), |setup, _, up| {
        setup.mutual_tls().section(MACHINE).open_upstream("up", &up.url())
    });
    let gateway = &ground.gateway;
    let authority = gateway.setup().authority();
    let reader = authority.workload("reader", "spiffe://example.org/reader");
    let writer = authority.workload("writer", "spiffe://example.org/writer");
    let call = |client: &crate::harness::mcp::Client, headers: &[(&str, &str)]| {
        client.modern_showing("tools/call", &json!({ "name": "echo", "arguments": {} }), headers)
    };

    // The machine itself, without any token.
    let known = gateway.client_showing(Some("up"), &reader);
    assert_eq!(call(&known, &[]).status(), 200);
    let intent = gateway.recorded("intent", 1).pop().unwrap();
    assert_eq!((&intent["user"], &intent["agent"]["client_id"]), (&json!(null), &json!("reader")));
    assert_eq!((&intent["tenant"], &intent["authentication"]["method"]), (&json!("acme"), &json!("certificate")));
    let binding = json!({ "method": "certificate", "thumbprint": reader.thumbprint() });
    assert_eq!(intent["authentication"]["binding"], binding);

    // Nobody becomes it by a header, or by another certificate of the same authority.
    let pem = format!("Hash={};URI=spiffe://example.org/reader", reader.thumbprint());
    let der = BASE64.encode(reader.der());
    let headers =
        [("X-Forwarded-Client-Cert", pem.as_str()), ("Client-Cert", der.as_str()), ("X-SSL-Client-Verify", "SUCCESS")];
    for stranger in [gateway.client(Some("up")), gateway.client_showing(Some("up"), &writer)] {
        ground.refused("a header", &["token_missing"], || call(&stranger, &headers));
    }
    // A token of its own is not helped by a certificate that names somebody.
    ground.refused("a bad token", &["token_invalid"], || call(&known.clone().token("a.b.c"), &[]));

    let mut claims = ground.issuer.claims("alice", &gateway.endpoint(Some("up")));
    claims["cnf"] = json!({ "x5t#S256": writer.thumbprint() });
    let token = ground.issuer.sign(&claims);
    let holder = gateway.client_showing(Some("up"), &writer).token(&token);
    assert_eq!(call(&holder, &[]).status(), 200);
    for thief in [gateway.client(Some("up")), known.clone()] {
        ground.refused("another certificate", &["token_invalid"], || call(&thief.clone().token(&token), &headers));
    }
    claims["cnf"] = json!({ "x5t#S256": writer.thumbprint(), "jwk": {} });
    let token = ground.issuer.sign(&claims);
    let holder = gateway.client_showing(Some("up"), &writer).token(&token);
    ground.refused("bound to what nobody checks", &["token_invalid"], || call(&holder, &[]));
    for code in ["token_missing", "token_invalid"] {
        ground.recorded_refusal(code);
    }
    ground.good_call();
    chain_verifies(gateway);
}
