//! A person logs in at a real provider, an agent calls, and the server behind sees a credential made out to it alone.

use std::{fs, os::unix::fs::PermissionsExt, path::Path};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL};
use serde_json::{Value, json};

use crate::harness::{
    certificates::{Authority, Leaf},
    gateway::{ALLOW_ALL, Gateway, Setup},
    issuer::claims_of,
    login,
    mcp::Client,
    peer::{self, Dial, Sdk},
    place,
    recorder::{Era, Recorder},
};

/// What the guarded server knows of its caller.
pub(super) fn known(answer: &Value) -> Value {
    let text = answer["result"]["content"][0]["text"].as_str().unwrap_or_else(|| panic!("no text: {answer}"));
    serde_json::from_str::<Value>(text).unwrap()["auth"].clone()
}

#[test]
fn a_person_who_logs_in_is_known_upstream_by_an_exchanged_credential() {
    let setup = Setup::new("login");
    let folder = setup.folder().to_owned();
    let provider = peer::provider(&folder);
    let issuer = provider.origin();
    let server = peer::typescript_guarded(&folder, &issuer);
    let gateway = setup
        .issuer(&issuer)
        .policy("allow.cedar", ALLOW_ALL)
        .exchanged_upstream("reader", &server.url(), &issuer, "\"tools:read\"")
        .exchanged_upstream("writer", &server.url(), &issuer, "\"tools:read\"")
        .section("[[upstreams.writer.tools]]\nmatch = \"whoami\"\nmints = [\"tools:call\"]")
        .start();

    let token = login::login(&issuer, "alice", &gateway.endpoint(None), "openid tools:read tools:call");
    assert_eq!(claims_of(&token)["aud"], gateway.endpoint(None));
    let refused = Client::new(&server.url()).token(&token).call("whoami", &json!({}));
    assert_eq!(refused.status(), 401, "the caller's token is worth nothing at the server");

    let alice = gateway.client(None).token(&token).awaiting("reader__whoami").awaiting("writer__whoami");
    for (tool, scopes) in
        [("reader__whoami", json!(["tools:read"])), ("writer__whoami", json!(["tools:call", "tools:read"]))]
    {
        let known = known(&alice.call(tool, &json!({})).json());
        assert_eq!((&known["sub"], &known["clientId"]), (&json!("alice"), &json!("gateway")), "{known}");
        assert_eq!(known["act"], json!({ "sub": "gateway" }));
        assert_eq!(known["aud"], server.url());
        let mut given: Vec<&str> =
            known["scopes"].as_array().unwrap().iter().map(|scope| scope.as_str().unwrap()).collect();
        given.sort_unstable();
        assert_eq!(json!(given), scopes, "{tool}");
    }
    // The same through a published client.
    let dial = Dial { url: gateway.endpoint(None), token: Some(token), era: "auto", authority: None, input: false };
    let lines = Sdk::TypeScript.run(&folder, &dial, &json!([{ "call": "reader__whoami" }]));
    assert_eq!(known(&lines[1])["sub"], "alice");

    // One person's credential is not another's, and a token for one endpoint is none for the other.
    let bobs = login::login(&issuer, "bob", &gateway.endpoint(None), "openid tools:read tools:call");
    assert_eq!(known(&gateway.client(None).token(&bobs).call("reader__whoami", &json!({})).json())["sub"], "bob");
    assert_eq!(gateway.client(Some("reader")).token(&bobs).call("whoami", &json!({})).status(), 401);

    let intents: Vec<Value> = gateway.journal().into_iter().filter(|record| record["event"] == "intent").collect();
    assert_eq!(intents[0]["user"], json!({ "issuer": issuer, "subject": "alice" }));
    assert_eq!(intents[0]["agent"]["client_id"], "webapp");
    assert_eq!(intents[0]["tenant"], "acme");
    assert_eq!(
        (&intents[0]["grant"]["strategy"], &intents[0]["grant"]["audience"]),
        (&json!("exchange"), &json!(server.url()))
    );
}

/// A caller whose token holds too little gets no more by the exchange.
#[test]
fn an_exchange_that_the_provider_refuses_is_a_refusal() {
    let setup = Setup::new("refused");
    let folder = setup.folder().to_owned();
    let provider = peer::provider(&folder);
    let issuer = provider.origin();
    let server = peer::typescript_guarded(&folder, &issuer);
    let setup = setup.issuer(&issuer).policy("allow.cedar", ALLOW_ALL);
    let gateway = setup.exchanged_upstream("up", &server.url(), &issuer, "\"tools:read\", \"admin\"").start();
    let token = login::login(&issuer, "alice", &gateway.endpoint(Some("up")), "openid tools:read");
    let answer = gateway.client(Some("up")).token(&token).awaiting("whoami").call("whoami", &json!({}));
    assert_eq!((answer.status(), &answer.json()["error"]["data"]["code"]), (403, &json!("grant_refused")));
    assert!(!answer.text().contains("scope exceeds"), "the provider's own words stay inside: {}", answer.text());
}

#[test]
fn the_gateway_proves_itself_by_a_key() {
    let setup = Setup::new("private-key");
    let folder = setup.folder().to_owned();
    let (file, jwk) = client_key(&folder);
    let provider = peer::provider_knowing(&folder, &jwk);
    let issuer = provider.origin();
    let server = peer::typescript_guarded(&folder, &issuer);
    let client = format!(
        "client = {{ id = \"gateway-key\", authentication = \"private_key_jwt\", algorithm = \"ES256\", key_id = \"k1\", \
         assertion_audience = \"{issuer}\", key = {{ file = \"{file}\" }} }}"
    );
    let grant = format!(
        "grant = {{ strategy = \"exchange\", token_endpoint = \"{issuer}/token\", {client}, resource = \"{}\", scopes = [\"tools:read\"] }}",
        server.url()
    );
    let setup = setup.issuer(&issuer).policy("allow.cedar", ALLOW_ALL);
    let gateway = setup.upstream("up", &server.url(), &grant).start();
    let token = login::login(&issuer, "alice", &gateway.endpoint(Some("up")), "openid tools:read");
    let answer = gateway.client(Some("up")).token(&token).awaiting("whoami").call("whoami", &json!({}));
    let known = known(&answer.json());
    assert_eq!((&known["sub"], &known["clientId"]), (&json!("alice"), &json!("gateway-key")));
    assert_eq!(known["act"], json!({ "sub": "gateway-key" }));
}

/// RFC 8705: the certificate of the connection proves who the gateway is, and what it gets is good with that only.
#[test]
fn the_gateway_proves_itself_by_a_certificate_and_its_tokens_are_bound_to_it() {
    let setup = Setup::new("tls-client");
    let folder = setup.folder().to_owned();
    let authority = Authority::new(&folder);
    let (provider, by_tls) = peer::provider_by_certificates(&folder, &authority);
    let issuer = provider.origin();
    let server = authority.leaf("server", &["127.0.0.1"]);
    let upstream = Recorder::behind_tls(Era::Modern, authority.mutual_server(&server, &["http/1.1"]));
    let own = authority.workload("own", "spiffe://tests/gateway");
    let other = authority.workload("other", "spiffe://tests/other");
    let ca = format!("ca = \"{}\"", authority.file().display());
    let shown = |leaf: &Leaf| {
        let (certificate, key) = (leaf.certificate.display(), leaf.key.display());
        format!("client_certificate = {{ certificate = \"{certificate}\", key = \"{key}\" }}")
    };
    let lines = |proof: &str| {
        let client = format!("client = {{ id = \"gateway-tls\", {proof} }}");
        let grant = format!(
            "grant = {{ strategy = \"exchange\", token_endpoint = \"{by_tls}/token\", {client}, resource = \"{}\", \
             scopes = [\"tools:read\"], {ca} }}",
            upstream.url()
        );
        format!("{ca}\n{}\n{grant}\ndiscovery = {{ strategy = \"none\" }}", shown(&own))
    };
    let by_certificate = |leaf: &Leaf| format!("authentication = \"tls_client_auth\", {}", shown(leaf));
    let gateway = setup
        .issuer(&issuer)
        .policy("allow.cedar", ALLOW_ALL)
        .environment("GATEWAY_SECRET", "gateway-secret")
        .upstream("up", &upstream.url(), &lines(&by_certificate(&own)))
        .upstream("other", &upstream.url(), &lines(&by_certificate(&other)))
        .upstream("secret", &upstream.url(), &lines("secret = { env = \"GATEWAY_SECRET\" }"))
        .start();
    let called = |id: &str| {
        let token = login::login(&issuer, "alice", &gateway.endpoint(Some(id)), "openid tools:read");
        gateway.client(Some(id)).token(&token).awaiting("echo").call("echo", &json!({}))
    };
    assert_eq!(called("up").status(), 200);
    let calls = upstream.seen_method("tools/call");
    let known = claims_of(calls[0].header("authorization").unwrap().strip_prefix("Bearer ").unwrap());
    assert_eq!((&known["sub"], &known["client_id"]), (&json!("alice"), &json!("gateway-tls")), "{known}");
    assert_eq!((&known["aud"], &known["act"]), (&json!(upstream.url()), &json!({ "sub": "gateway-tls" })));
    assert_eq!(known["cnf"], json!({ "x5t#S256": own.thumbprint() }), "the certificate that the upstream sees, too");

    for id in ["other", "secret"] {
        let refused = called(id);
        assert_eq!(
            (refused.status(), &refused.json()["error"]["data"]["code"]),
            (502, &json!("grant_unavailable")),
            "{id}"
        );
    }
    assert_eq!(upstream.seen_method("tools/call").len(), 1);
}

#[test]
fn the_gateway_calls_in_its_own_name_for_people_and_machines() {
    let setup = Setup::new("own-name");
    let folder = setup.folder().to_owned();
    let provider = peer::provider(&folder);
    let issuer = provider.origin();
    let server = peer::typescript_guarded(&folder, &issuer);
    let grant = format!(
        "grant = {{ strategy = \"client_credentials\", token_endpoint = \"{issuer}/token\", resource = \"{}\", \
         client = {{ id = \"gateway\", secret = {{ env = \"GATEWAY_SECRET\" }} }}, scopes = [\"tools:read\"] }}",
        server.url()
    );
    let gateway = setup
        .issuer(&issuer)
        .policy("allow.cedar", ALLOW_ALL)
        .environment("GATEWAY_SECRET", "gateway-secret")
        .upstream("up", &server.url(), &grant)
        .start();
    let endpoint = gateway.endpoint(Some("up"));
    for token in [login::login(&issuer, "alice", &endpoint, SCOPE), machine(&issuer, &endpoint)] {
        let answer = gateway.client(Some("up")).token(&token).awaiting("whoami").call("whoami", &json!({}));
        let known = known(&answer.json());
        assert_eq!((&known["sub"], &known["clientId"]), (&json!("gateway"), &json!("gateway")), "{known}");
        assert_eq!((&known["aud"], &known["scopes"]), (&json!(server.url()), &json!(["tools:read"])));
        assert_eq!(known["act"], Value::Null, "nobody is acted for");
    }
    let grants = gateway.recorded("intent", 2);
    assert!(grants.iter().all(|intent| intent["grant"]["strategy"] == "client_credentials"), "{grants:?}");
}

/// Who may do what with a user, and what without one.
const APART: &str = r#"
@id("people")
permit (principal is User, action == Action::"up/echo", resource);
@id("machines")
permit (principal is Agent, action == Action::"up/add", resource);
"#;

/// A machine's token by client credentials (RFC 6749 §4.4) has no user, and everything says so.
#[test]
fn a_machine_is_the_agent_to_policy_and_audit_and_there_is_no_user() {
    let setup = Setup::new("machine");
    let provider = peer::provider(setup.folder());
    let (issuer, recorder) = (provider.origin(), Recorder::good(Era::Modern));
    let gateway = setup.issuer(&issuer).policy("apart.cedar", APART).open_upstream("up", &recorder.url()).start();
    let endpoint = gateway.endpoint(Some("up"));
    judged_apart(&gateway, &issuer, &machine(&issuer, &endpoint), &login::login(&issuer, "alice", &endpoint, SCOPE));
    let intents: Vec<Value> = gateway.recorded("intent", 2);
    assert!(intents.iter().all(|intent| intent["authentication"]["method"] == "jwt"), "{intents:?}");
}

/// The same with tokens that only the provider can read (RFC 7662), and with its word that one holds no longer (RFC 7009).
#[test]
fn opaque_tokens_of_a_real_provider_hold_until_it_revokes_them() {
    let setup = Setup::new("opaque-provider");
    let provider = peer::provider_opaque(setup.folder());
    let (issuer, recorder) = (provider.origin(), Recorder::good(Era::Modern));
    let (at, more) = (format!("{issuer}/token/introspection"), "machines = true, cache_s = 1");
    let setup = setup.introspecting(&issuer, &at, more).policy("apart.cedar", APART);
    let gateway = setup.open_upstream("up", &recorder.url()).start();
    let endpoint = gateway.endpoint(Some("up"));
    let token = login::login(&issuer, "alice", &endpoint, SCOPE);
    assert!(!token.contains('.'), "{token}");
    judged_apart(&gateway, &issuer, &machine(&issuer, &endpoint), &token);
    let intents: Vec<Value> = gateway.recorded("intent", 2);
    assert!(intents.iter().all(|intent| intent["authentication"]["method"] == "introspection"), "{intents:?}");
    assert_eq!(intents[1]["tenant"], "acme");

    let alice = gateway.client(Some("up")).token(&token);
    let fields = [("token", token.as_str()), ("token_type_hint", "access_token")];
    let revoked = login::post(&format!("{issuer}/token/revocation"), "webapp", "webapp-secret", &fields);
    assert_eq!(revoked.status(), 200, "{}", revoked.text());
    let answer = place::wait_for("the revocation", place::PATIENCE, || {
        let answer = alice.call("echo", &json!({}));
        (answer.status() != 200).then_some(answer)
    });
    assert_eq!((answer.status(), &answer.json()["error"]["data"]["code"]), (401, &json!("token_invalid")));
    assert!(!recorder.saw_text(&token));
}

const SCOPE: &str = "openid tools:read tools:call";

/// The token of the client `agent` in its own name.
fn machine(issuer: &str, resource: &str) -> String {
    let fields = [("grant_type", "client_credentials"), ("resource", resource), ("scope", "tools:read")];
    login::token(issuer, "agent", "agent-secret", &fields)["access_token"].as_str().unwrap().to_owned()
}

/// The machine does what machines may, the person what people may, and the journal tells them apart.
fn judged_apart(gateway: &Gateway, issuer: &str, machine: &str, person: &str) {
    for (token, may, may_not) in [(machine, "add", "echo"), (person, "echo", "add")] {
        let client = gateway.client(Some("up")).token(token).awaiting(may);
        assert_eq!(client.call(may, &json!({ "a": 1, "b": 2 })).status(), 200, "{may}");
        assert_eq!(client.call(may_not, &json!({})).json()["error"]["data"]["code"], "tool_unknown", "{may_not}");
    }
    let intents = gateway.recorded("intent", 2);
    assert_eq!((&intents[0]["user"], &intents[0]["agent"]["client_id"]), (&Value::Null, &json!("agent")));
    assert_eq!(intents[0]["decision"]["policies"], json!(["machines"]));
    assert_eq!(intents[1]["user"], json!({ "issuer": issuer, "subject": "alice" }));
    assert_eq!(
        (&intents[1]["agent"]["client_id"], &intents[1]["decision"]["policies"]),
        (&json!("webapp"), &json!(["people"]))
    );
}

/// A P-256 key: the file of the private half, and the public half as a JWK.
pub(super) fn client_key(folder: &Path) -> (String, Value) {
    let key = rcgen::KeyPair::generate().unwrap();
    let file = folder.join("client.key");
    fs::write(&file, key.serialize_pem()).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    let point = key.public_key_raw();
    let (x, y) = (BASE64URL.encode(&point[1..33]), BASE64URL.encode(&point[33..65]));
    let jwk = json!({ "kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig", "kid": "k1", "x": x, "y": y });
    (file.display().to_string(), jwk)
}
