//! Do the published clients log in where the gateway is the authorization server?
//!
//! Before a real provider that knows none of them: they find the gateway by its metadata, register or name their own
//! metadata document, and have a person agree and log in; then they call.

use std::time::Duration;

use serde_json::{Value, json};

use super::identity::{client_key, known};
use crate::harness::{
    browser,
    certificates::Authority,
    gateway::{ALLOW_ALL, Gateway, Setup},
    http::{Answer, fetch, form},
    issuer::claims_of,
    login::Browser,
    peer::{self, Dial, Peer, Sdk},
    place,
    prover::Prover,
    recorder::{Era, Recorder, Reply},
};

/// The clients with the era that each is made for.
const CLIENTS: [(Sdk, &str); 4] = [
    (Sdk::TypeScript, "2026-07-28"),
    (Sdk::TypeScriptLegacy, "legacy"),
    (Sdk::Python, "2026-07-28"),
    (Sdk::PythonLegacy, "legacy"),
];

fn started(setup: Setup, upstream: &Recorder, lines: &str) -> (Peer, Gateway) {
    let provider = peer::provider_before(setup.folder(), &format!("{}/callback", setup.origin()));
    before(provider, setup, upstream, lines)
}

fn before(provider: Peer, setup: Setup, upstream: &Recorder, lines: &str) -> (Peer, Gateway) {
    let issuer = provider.origin();
    let facade = format!(
        "[facade]\nprovider = \"{issuer}\"\nclient = {{ id = \"facade\", secret = {{ env = \"FACADE_SECRET\" }} }}\n\
         login_scopes = [\"openid\", \"profile\"]\n{lines}"
    );
    let rule = "grant = { strategy = \"none\" }\n[[upstreams.up.tools]]\nmatch = \"echo\"\nrequires = [\"tools:read\"]";
    let gateway = setup
        .issuer(&issuer)
        .policy("allow.cedar", ALLOW_ALL)
        .environment("FACADE_SECRET", "facade-secret")
        .upstream("up", &upstream.url(), rule)
        .section(&facade)
        .start();
    (provider, gateway)
}

/// Opens the page, agrees, and goes back to the client.
fn agree(page: &str, callback: &str) {
    let back = Browser::default().agree(&format!("{page}&login_hint=bob"), callback);
    fetch("GET", back.as_str(), &[], b"");
}

fn called(sdk: Sdk, lines: &[Value]) {
    assert!(lines[0]["connected"].is_object(), "{sdk:?}: {lines:?}");
    let text = lines[1]["result"]["content"][0]["text"].as_str();
    assert_eq!(text, Some("echo {\"message\":\"in\"}"), "{sdk:?}: {lines:?}");
}

#[test]
fn every_client_registers_itself_and_a_person_logs_in() {
    let upstream = Recorder::good(Era::Modern);
    let setup = Setup::new("facade-clients");
    let folder = setup.folder().to_owned();
    let (_provider, gateway) = started(setup, &upstream, "");
    let commands = json!([{ "call": "echo", "arguments": { "message": "in" } }]);
    for (sdk, era) in CLIENTS {
        let dial = Dial { url: gateway.endpoint(Some("up")), era, ..Dial::default() };
        let lines = sdk.run_logging_in(&folder, &dial, (&commands, None), agree);
        called(sdk, &lines);
    }
    let registered = gateway.recorded("client", CLIENTS.len());
    assert!(registered.iter().all(|record| record["authorization"]["name"] == "Peer"), "{registered:?}");
    let intents = gateway.recorded("intent", CLIENTS.len());
    for intent in &intents {
        assert_eq!(intent["user"], json!({ "issuer": gateway.setup().origin(), "subject": "bob" }));
        assert_eq!(intent["tenant"], "acme", "of the ID token: {intent}");
    }
}

#[test]
fn every_client_is_known_by_its_metadata_document() {
    let upstream = Recorder::good(Era::Modern);
    let setup = Setup::new("facade-client-documents");
    let folder = setup.folder().to_owned();
    let authority = Authority::new(&folder);
    let leaf = authority.leaf("documents", &["localhost"]);
    // A program may wait for its code at any port of this computer.
    let callback = "http://127.0.0.1/callback";
    let documents = Recorder::serving_tls(Authority::server(&leaf), move |seen| {
        let id = format!("https://{}{}", seen.header("host").unwrap_or_default(), seen.path);
        let document = json!({
            "client_id": id, "client_name": "Peer by document", "redirect_uris": [callback], "application_type": "native",
            "grant_types": ["authorization_code", "refresh_token"], "response_types": ["code"], "token_endpoint_auth_method": "none",
        });
        Reply::json(200, &document).header("cache-control", "max-age=3600")
    });
    let origin = documents.origin().replace("127.0.0.1", "localhost");
    let egress = format!("[egress]\norigins = [\"{origin}\"]\nca = \"{}\"", authority.file().display());
    let lines = "client_domains = [\"localhost\"]\nregistration = false";
    let (_provider, gateway) = started(setup.section(&egress), &upstream, lines);
    let commands = json!([{ "call": "echo", "arguments": { "message": "in" } }]);
    let id = format!("{origin}/client.json");
    for (sdk, era) in CLIENTS {
        let dial = Dial { url: gateway.endpoint(Some("up")), era, ..Dial::default() };
        let lines = sdk.run_logging_in(&folder, &dial, (&commands, Some(&id)), agree);
        called(sdk, &lines);
    }
    let intents = gateway.recorded("intent", CLIENTS.len());
    assert!(intents.iter().all(|intent| intent["agent"]["client_id"] == id), "{intents:?}");
    assert_eq!(documents.seen_path("/client.json").len(), 1, "kept for as long as it says");
}

/// Software in its own name, known by its key (RFC 7523 §2.2).
#[test]
fn every_client_signs_who_it_is() {
    let upstream = Recorder::good(Era::Modern);
    let setup = Setup::new("facade-client-keys");
    let folder = setup.folder().to_owned();
    let (key, jwk) = client_key(&folder);
    let keys = folder.join("machine.jwks.json");
    std::fs::write(&keys, json!({ "keys": [jwk] }).to_string()).unwrap();
    let lines =
        format!("[[facade.clients]]\nid = \"machine\"\njwks = \"{}\"\nscopes = [\"tools:read\"]", keys.display());
    let (_provider, gateway) = started(setup, &upstream, &lines);
    let commands = json!([{ "call": "echo", "arguments": { "message": "in" } }]);
    for (sdk, era) in CLIENTS {
        let dial = Dial { url: gateway.endpoint(Some("up")), era, ..Dial::default() };
        let lines = sdk.run_signing(&folder, &dial, &commands, ("machine", &key, &gateway.setup().origin()));
        called(sdk, &lines);
    }
    for intent in gateway.recorded("intent", CLIENTS.len()) {
        assert_eq!((&intent["user"], &intent["agent"]["client_id"]), (&Value::Null, &json!("machine")), "{intent}");
    }
}

/// Behind the gateway's own tokens, too: whoever logged in through it connects an account of theirs at a server of another
/// domain, which the upstream itself judges, and all their clients call under it.
#[test]
fn a_person_who_logged_in_here_connects_an_account_elsewhere() {
    let setup = Setup::new("facade-accounts");
    let (folder, own) = (setup.folder().to_owned(), setup.origin());
    let home = peer::provider_before(&folder, &format!("{own}/callback {own}/connecting/login"));
    let away = peer::provider_with("away", &folder, &[format!("{own}/connecting/callback/up")], &[]);
    let (home_issuer, away_issuer) = (home.origin(), away.origin());
    let server = peer::typescript_guarded(&folder, &away_issuer);
    let target = format!("resource = \"{}\", scopes = [\"tools:read\"]", server.url());
    let client = |id: &str, secret: &str| format!("client = {{ id = \"{id}\", secret = {{ env = \"{secret}\" }} }}");
    let lines = format!(
        "grant = {{ strategy = \"user_grant\", issuer = \"{away_issuer}\", {}, {target} }}\n\
         discovery = {{ strategy = \"client_credentials\", token_endpoint = \"{away_issuer}/token\", {}, {target} }}",
        client("gateway-pages", "PAGES_SECRET"),
        client("gateway", "GATEWAY_SECRET")
    );
    let facade = client("facade", "FACADE_SECRET");
    let gateway = setup
        .issuer(&home_issuer)
        .policy("allow.cedar", ALLOW_ALL)
        .environment("PAGES_SECRET", "pages-secret")
        .environment("GATEWAY_SECRET", "gateway-secret")
        .environment("FACADE_SECRET", "facade-secret")
        .upstream("up", &server.url(), &lines)
        .section(&format!("[facade]\nprovider = \"{home_issuer}\"\n{facade}"))
        .start();
    let called = |sdk: Sdk, era: &'static str| {
        let dial = Dial { url: gateway.endpoint(Some("up")), era, ..Dial::default() };
        sdk.run_logging_in(&folder, &dial, (&json!([{ "call": "whoami" }]), None), agree)[1].clone()
    };
    let page = |sdk: Sdk| {
        let error = called(sdk, "legacy")["error"].clone();
        assert_eq!(error["code"], 40317, "{error}");
        error["data"]["elicitations"][0]["url"].as_str().unwrap().to_owned()
    };

    let mut browser = browser::Browser::of("alice");
    let first = browser.get(&page(Sdk::TypeScriptLegacy));
    let refused = browser.press(&first);
    assert_eq!(refused.answer.status(), 403, "alice is not bob: {}", refused.answer.text());

    let mut browser = browser::Browser::of("bob");
    let first = browser.get(&page(Sdk::PythonLegacy));
    let asked = browser.press(&first);
    assert!(asked.answer.text().contains("You are <b>bob</b>"), "{} {}", asked.at, asked.answer.text());
    browser.user = "carol".to_owned();
    let done = browser.press(&asked);
    assert!(done.answer.text().contains("<h1>Connected</h1>"), "{} {}", done.at, done.answer.text());

    for (sdk, era) in CLIENTS {
        let known = known(&called(sdk, era));
        assert_eq!((&known["sub"], &known["clientId"]), (&json!("carol"), &json!("gateway-pages")), "{sdk:?}: {known}");
        assert_eq!((&known["aud"], &known["scopes"]), (&json!(server.url()), &json!(["tools:read"])), "{sdk:?}");
    }
    let intents = gateway.recorded("intent", CLIENTS.len());
    for intent in &intents {
        assert_eq!(intent["user"], json!({ "issuer": own, "subject": "bob" }));
        assert_eq!(intent["grant"]["strategy"], "user_grant", "{intent}");
    }
}

/// What the token endpoint answers to these fields, with this proof.
fn token(gateway: &Gateway, key: &Prover, fields: &[(&str, &str)]) -> Answer {
    let url = format!("{}/token", gateway.setup().origin());
    let proof = key.proof("POST", &url, None);
    let headers = [("Content-Type", "application/x-www-form-urlencoded"), ("DPoP", proof.as_str())];
    fetch("POST", &url, &headers, form(fields).as_bytes())
}

#[test]
fn who_is_gone_at_the_provider_is_gone_here_at_the_next_refresh() {
    let upstream = Recorder::good(Era::Modern);
    let setup = Setup::new("facade-renewing").gateway("dpop = {}");
    let gone = setup.folder().join("gone");
    std::fs::create_dir(&gone).unwrap();
    let provider = peer::provider_renewing(setup.folder(), &format!("{}/callback", setup.origin()), &gone);
    let (_provider, gateway) = before(provider, setup, &upstream, "");
    let (origin, callback, key) = (gateway.setup().origin(), "http://127.0.0.1:3999/callback", Prover::new());
    let description = json!({ "redirect_uris": [callback], "grant_types": ["authorization_code", "refresh_token"] });
    let json_type = [("Content-Type", "application/json")];
    let registered =
        fetch("POST", &format!("{origin}/register"), &json_type, description.to_string().as_bytes()).json();
    let client = registered["client_id"].as_str().unwrap();
    let verifier = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
    let resource = gateway.endpoint(Some("up"));
    let asked = form(&[
        ("response_type", "code"),
        ("client_id", client),
        ("redirect_uri", callback),
        ("code_challenge", "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"),
        ("code_challenge_method", "S256"),
        ("resource", &resource),
        ("login_hint", "bob"),
    ]);
    let back = Browser::default().agree(&format!("{origin}/authorize?{asked}"), callback);
    let code = back.query_pairs().find(|(name, _)| name == "code").unwrap().1.into_owned();
    let redeeming = [
        ("grant_type", "authorization_code"),
        ("client_id", client),
        ("code", code.as_str()),
        ("code_verifier", verifier),
        ("redirect_uri", callback),
    ];
    let mut given = token(&gateway, &key, &redeeming).json();
    for turn in 0..2 {
        let claims = claims_of(given["access_token"].as_str().unwrap());
        assert_eq!((&claims["sub"], &claims["groups"]), (&json!("bob"), &json!(["support"])), "{turn}: {given}");
        assert_eq!(claims["cnf"], json!({ "jkt": key.thumbprint() }), "{turn}");
        let refresh = given["refresh_token"].as_str().unwrap().to_owned();
        given = token(&gateway, &key, &refreshing(client, &refresh)).json();
    }
    let bound = given["access_token"].as_str().unwrap().to_owned();
    let call = || {
        let (shown, proof) = (format!("DPoP {bound}"), key.proof("POST", &resource, Some(&bound)));
        let headers = [("Authorization", shown.as_str()), ("DPoP", &proof)];
        let params = json!({ "name": "echo", "arguments": {} });
        gateway.client(Some("up")).modern_showing("tools/call", &params, &headers)
    };
    place::wait_for("the catalogue", place::PATIENCE, || (call().status() == 200).then_some(()));

    std::fs::write(gone.join("bob"), "").unwrap();
    let refused = token(&gateway, &key, &refreshing(client, given["refresh_token"].as_str().unwrap()));
    assert_eq!((refused.status(), &refused.json()["error_code"]), (400, &json!("grant_revoked")), "{}", refused.text());
    place::wait_for("the token's end", Duration::from_secs(30), || (call().status() == 401).then_some(()));
}

fn refreshing<'a>(client: &'a str, token: &'a str) -> [(&'static str, &'a str); 3] {
    [("grant_type", "refresh_token"), ("client_id", client), ("refresh_token", token)]
}
