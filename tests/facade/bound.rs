//! Tokens that are bound to what their client holds: a key that it proves, or the certificate of its connection.

use serde_json::{Value, json};

use super::{CALLBACK, Ground, VERIFIER, code_of, parameter};
use crate::harness::{
    certificates::Leaf,
    http::{Answer, fetch, fetch_tls, form},
    issuer::{Issuer, Signature, claims_of, now},
    login::Browser,
    mcp::Client,
    prover::Prover,
    recorder::{Era, Recorder},
};

const FORM: &str = "application/x-www-form-urlencoded";
const SECRET: (&str, &str) = ("client_secret", "robot secret: with odd/characters");

fn ground(name: &str, dpop: &str) -> Ground {
    let (provider, partner, upstream) = (Issuer::good(), Issuer::good(), Recorder::good(Era::Modern));
    let gateway = super::setup(name, &provider, &partner, &upstream, "").gateway(dpop).start();
    Ground { provider, partner, upstream, gateway }
}

impl Ground {
    fn token_url(&self) -> String {
        format!("{}/token", self.origin())
    }

    /// A good proof for the token endpoint.
    fn proof(&self, key: &Prover) -> String {
        key.proof("POST", &self.token_url(), None)
    }

    fn prove(&self, proof: &str, fields: &[(&str, &str)]) -> Answer {
        let headers = [("DPoP", proof)];
        self.post("/token", if proof.is_empty() { &[] } else { &headers }, fields)
    }

    /// A code that only the holder of this key can redeem.
    fn code_for(&self, client: &str, key: &Prover) -> String {
        let page = self.page(client, CALLBACK, &[("login_hint", "bob"), ("dpop_jkt", &key.thumbprint())]);
        parameter(&Browser::default().agree(&page, CALLBACK), "code").unwrap()
    }

    /// By TLS, on a connection with this certificate.
    fn post_showing(&self, leaf: Option<&Leaf>, path: &str, (kind, body): (&str, &str)) -> Answer {
        let tls = self.gateway.setup().authority().client_showing(&["http/1.1"], leaf);
        fetch_tls(&tls, "POST", &format!("{}{path}", self.origin()), &[("Content-Type", kind)], body.as_bytes())
    }

    fn call_proving(&self, key: &Prover, token: &str) -> Answer {
        let (endpoint, shown) = (self.resource(), format!("DPoP {token}"));
        let proof = key.proof("POST", &endpoint, Some(token));
        let params = json!({ "name": "echo", "arguments": {} });
        let headers = [("Authorization", shown.as_str()), ("DPoP", &proof)];
        self.gateway.client(Some("up")).modern_showing("tools/call", &params, &headers)
    }
}

fn redeeming<'a>(client: &'a str, code: &'a str) -> [(&'static str, &'a str); 4] {
    [("grant_type", "authorization_code"), ("client_id", client), ("code", code), ("code_verifier", VERIFIER)]
}

fn refreshing<'a>(client: &'a str, token: &'a str) -> [(&'static str, &'a str); 3] {
    [("grant_type", "refresh_token"), ("client_id", client), ("refresh_token", token)]
}

#[track_caller]
fn refused(answer: &Answer, code: &str, error: &str) {
    assert_eq!((answer.status(), code_of(answer).as_str()), (400, code), "{}", answer.text());
    assert_eq!(answer.json()["error"], error);
}

#[test]
fn a_token_is_its_holder_s_from_the_code_to_the_last_refresh() {
    let ground = ground("facade-dpop", "dpop = {}");
    let metadata = fetch("GET", &format!("{}/.well-known/oauth-authorization-server", ground.origin()), &[], b"");
    assert_eq!(metadata.json()["dpop_signing_alg_values_supported"][0], "ES256");
    let (client, key, thief) = (ground.registered(CALLBACK), Prover::new(), Prover::new());
    let code = ground.code_for(&client, &key);
    refused(&ground.prove("", &redeeming(&client, &code)), "code_invalid", "invalid_grant");
    refused(&ground.prove(&ground.proof(&thief), &redeeming(&client, &code)), "code_invalid", "invalid_grant");
    let proof = ground.proof(&key);
    let answer = ground.prove(&proof, &redeeming(&client, &code));
    assert_eq!(answer.status(), 200, "{}", answer.text());
    let given = answer.json();
    let (token, refresh) = (given["access_token"].as_str().unwrap(), given["refresh_token"].as_str().unwrap());
    assert_eq!((&given["token_type"], &claims_of(token)["cnf"]), (&json!("DPoP"), &json!({ "jkt": key.thumbprint() })));
    let record = ground.gateway.recorded("token", 1).remove(0);
    let binding = json!({ "method": "dpop", "thumbprint": key.thumbprint() });
    assert_eq!(record["authorization"]["binding"], binding);

    ground.serves(ground.logged_in("alice").1["access_token"].as_str().unwrap());
    let served = ground.call_proving(&key, token);
    assert_eq!(served.status(), 200, "{}", served.text());
    assert_eq!(ground.call_proving(&thief, token).status(), 401);
    assert_eq!(ground.gateway.client(Some("up")).token(token).call("echo", &json!({})).status(), 401, "as a bearer");

    // What a public client holds is all that proves who it is.
    let fields = refreshing(&client, refresh);
    refused(&ground.prove("", &fields), "code_invalid", "invalid_grant");
    refused(&ground.prove(&ground.proof(&thief), &fields), "code_invalid", "invalid_grant");
    refused(&ground.prove(&proof, &fields), "proof_invalid", "invalid_dpop_proof");
    let next = ground.prove(&ground.proof(&key), &fields);
    assert_eq!(next.status(), 200, "{}", next.text());
    let next = next.json();
    assert_eq!(claims_of(next["access_token"].as_str().unwrap())["cnf"], json!({ "jkt": key.thumbprint() }));
    assert_eq!(ground.call_proving(&key, next["access_token"].as_str().unwrap()).status(), 200);
    refused(
        &ground.prove("", &refreshing(&client, next["refresh_token"].as_str().unwrap())),
        "code_invalid",
        "invalid_grant",
    );
}

#[test]
fn a_proof_is_one_for_this_request() {
    let ground = ground("facade-dpop-forged", "dpop = {}");
    let key = Prover::new();
    let resource = ground.resource();
    let fields =
        [("grant_type", "client_credentials"), ("client_id", "robot"), SECRET, ("resource", resource.as_str())];
    let changed = |claim: &str, value: Value| {
        let mut claims = key.claims("POST", &ground.token_url(), None);
        claims[claim] = value;
        key.sign(&key.header(), &claims)
    };
    let claims = key.claims("POST", &ground.token_url(), None);
    let mut private = key.header();
    private["jwk"]["d"] = json!("AAAA");
    for (what, proof) in [
        ("another path", changed("htu", json!(format!("{}/authorize", ground.origin())))),
        ("another host", changed("htu", json!("https://other.example/token"))),
        ("another method", changed("htm", json!("GET"))),
        ("old", changed("iat", json!(now() - 3_600))),
        ("of the future", changed("iat", json!(now() + 3_600))),
        ("no id", changed("jti", json!(""))),
        ("another's signature", key.forge(&key.header(), &claims, Signature::Stranger)),
        ("no signature", key.forge(&key.header(), &claims, Signature::Absent)),
        ("a private key", key.sign(&private, &claims)),
        ("no proof", key.sign(&json!({ "typ": "JWT", "alg": "ES256", "jwk": key.jwk() }), &claims)),
        ("nonsense", "x".to_owned()),
    ] {
        let answer = ground.prove(&proof, &fields);
        assert_eq!((answer.status(), code_of(&answer).as_str()), (400, "proof_invalid"), "{what}: {}", answer.text());
        assert_eq!(answer.json()["error"], "invalid_dpop_proof", "{what}");
    }
    let two = [("DPoP", ground.proof(&key)), ("DPoP", ground.proof(&key))];
    let two: Vec<(&str, &str)> = two.iter().map(|(name, proof)| (*name, proof.as_str())).collect();
    refused(&ground.post("/token", &two, &fields), "proof_invalid", "invalid_dpop_proof");
    assert!(!ground.gateway.journal().iter().any(|record| record["event"] == "token"), "nothing was issued");
    ground.recorded_refusal("proof_invalid");

    let proof = ground.proof(&key);
    let answer = ground.prove(&proof, &fields);
    assert_eq!((answer.status(), &answer.json()["token_type"]), (200, &json!("DPoP")), "{}", answer.text());
    refused(&ground.prove(&proof, &fields), "proof_invalid", "invalid_dpop_proof");
    let free = ground.token(&fields);
    assert_eq!((free.status(), &free.json()["token_type"]), (200, &json!("Bearer")), "bearers are served beside");
    assert!(claims_of(free.json()["access_token"].as_str().unwrap())["cnf"].is_null());
}

#[test]
fn a_nonce_is_asked_for_and_a_binding_where_it_is_required() {
    let ground = ground("facade-dpop-nonce", "dpop = { nonce = true, required = true }");
    let key = Prover::new();
    let resource = ground.resource();
    let fields =
        [("grant_type", "client_credentials"), ("client_id", "robot"), SECRET, ("resource", resource.as_str())];
    refused(&ground.token(&fields), "proof_invalid", "invalid_dpop_proof");
    let asked = ground.prove(&ground.proof(&key), &fields);
    refused(&asked, "proof_nonce_needed", "use_dpop_nonce");
    let with = |nonce: &str| {
        let mut claims = key.claims("POST", &ground.token_url(), None);
        claims["nonce"] = json!(nonce);
        key.sign(&key.header(), &claims)
    };
    refused(&ground.prove(&with("made up"), &fields), "proof_nonce_needed", "use_dpop_nonce");
    let answer = ground.prove(&with(asked.header("dpop-nonce").unwrap()), &fields);
    assert_eq!((answer.status(), &answer.json()["token_type"]), (200, &json!("DPoP")), "{}", answer.text());
    assert!(answer.header("dpop-nonce").is_some(), "the next one comes with the answer");
}

#[test]
fn without_dpop_a_proof_is_nobody_s_business() {
    let ground = Ground::new("facade-no-dpop");
    let client = ground.registered(CALLBACK);
    let key = Prover::new();
    let code = ground.code_for(&client, &key);
    let answer = ground.prove(&ground.proof(&key), &redeeming(&client, &code));
    assert_eq!((answer.status(), &answer.json()["token_type"]), (200, &json!("Bearer")), "{}", answer.text());
    ground.serves(answer.json()["access_token"].as_str().unwrap());
}

/// With the machine `workload`, which its certificate says that it is.
fn certified(name: &str, dpop: &str) -> Ground {
    let (provider, partner, upstream) = (Issuer::good(), Issuer::good(), Recorder::good(Era::Modern));
    let client = "[[facade.clients]]\nid = \"workload\"\ncertificate = { uri = \"spiffe://example.org/robot\" }\n\
                  scopes = [\"tools:read\"]";
    let setup = super::setup(name, &provider, &partner, &upstream, "").mutual_tls().gateway(dpop).section(client);
    Ground { provider, partner, upstream, gateway: setup.start() }
}

impl Ground {
    fn ask_showing(&self, leaf: Option<&Leaf>, proof: Option<&str>, client: &[(&str, &str)]) -> Answer {
        let resource = self.resource();
        let mut fields = vec![("grant_type", "client_credentials"), ("resource", resource.as_str())];
        fields.extend(client);
        let tls = self.gateway.setup().authority().client_showing(&["http/1.1"], leaf);
        let mut headers = vec![("Content-Type", FORM)];
        headers.extend(proof.map(|proof| ("DPoP", proof)));
        fetch_tls(&tls, "POST", &format!("{}/token", self.origin()), &headers, form(&fields).as_bytes())
    }

    /// How the token is called that this client gets for a proof, and what it is bound to.
    #[track_caller]
    fn bound_to(&self, leaf: &Leaf, key: &Prover, client: &[(&str, &str)]) -> (Value, Value) {
        let answer = self.ask_showing(Some(leaf), Some(&self.proof(key)), client);
        assert_eq!(answer.status(), 200, "{}", answer.text());
        let given = answer.json();
        (given["token_type"].clone(), claims_of(given["access_token"].as_str().unwrap())["cnf"].clone())
    }
}

const WORKLOAD: (&str, &str) = ("client_id", "workload");

#[test]
fn a_machine_is_known_by_its_certificate_and_its_tokens_are_bound_to_it() {
    let ground = certified("facade-mtls", "");
    let authority = ground.gateway.setup().authority();
    let own = authority.workload("robot", "spiffe://example.org/robot");
    let other = authority.workload("other", "spiffe://example.org/other");
    let ask = |leaf: Option<&Leaf>, client: &[(&str, &str)]| ground.ask_showing(leaf, None, client);
    let answer = ask(Some(&own), &[WORKLOAD]);
    assert_eq!(answer.status(), 200, "{}", answer.text());
    let given = answer.json();
    let token = given["access_token"].as_str().unwrap();
    assert_eq!(
        (&given["token_type"], &claims_of(token)["cnf"]["x5t#S256"]),
        (&json!("Bearer"), &json!(own.thumbprint()))
    );
    for (leaf, fields) in [(None, vec![WORKLOAD]), (Some(&other), vec![WORKLOAD]), (Some(&own), vec![WORKLOAD, SECRET])]
    {
        let answer = ask(leaf, &fields);
        assert_eq!((answer.status(), code_of(&answer).as_str()), (401, "client_invalid"), "{}", answer.text());
    }
    let call = |client: &Client| client.call("echo", &json!({})).status();
    let holder = ground.gateway.client_showing(Some("up"), &own).token(token).awaiting("echo");
    assert_eq!(call(&holder), 200);
    for thief in [ground.gateway.client(Some("up")), ground.gateway.client_showing(Some("up"), &other)] {
        assert_eq!(call(&thief.token(token)), 401);
    }
    // Who is known by a secret shows a certificate to no effect.
    let answer = ask(Some(&own), &[("client_id", "robot"), SECRET]);
    assert!(claims_of(answer.json()["access_token"].as_str().unwrap())["cnf"].is_null(), "{}", answer.text());
}

#[test]
fn what_is_to_be_bound_to_a_certificate_is_not_bound_to_a_key_that_anybody_can_make() {
    let machine = |ground: &Ground| ground.gateway.setup().authority().workload("robot", "spiffe://example.org/robot");
    let (ground, key) = (certified("facade-mtls-dpop", "dpop = {}"), Prover::new());
    let (own, jkt) = (machine(&ground), json!({ "jkt": key.thumbprint() }));
    let x5t = json!({ "x5t#S256": own.thumbprint() });
    assert_eq!(ground.bound_to(&own, &key, &[WORKLOAD]), (json!("Bearer"), x5t));
    assert_eq!(ground.bound_to(&own, &key, &[("client_id", "robot"), SECRET]), (json!("DPoP"), jkt.clone()));
    // Where nothing else is taken, it is all that a token can be bound to.
    let ground = certified("facade-mtls-dpop-required", "dpop = { required = true }");
    assert_eq!(ground.bound_to(&machine(&ground), &key, &[WORKLOAD]), (json!("DPoP"), jkt));
}

#[test]
fn a_client_that_registers_so_has_its_tokens_bound_to_the_certificate_that_it_shows() {
    let (provider, partner, upstream) = (Issuer::good(), Issuer::good(), Recorder::good(Era::Modern));
    let setup = super::setup("facade-mtls-registered", &provider, &partner, &upstream, "").mutual_tls();
    let ground = Ground { provider, partner, upstream, gateway: setup.start() };
    let authority = ground.gateway.setup().authority();
    let own = authority.workload("app", "spiffe://example.org/app");
    let other = authority.workload("other", "spiffe://example.org/other");
    let register = |bound: Value| {
        let description = json!({
            "client_name": "Bound", "redirect_uris": [CALLBACK], "grant_types": ["authorization_code", "refresh_token"],
            "token_endpoint_auth_method": "none", "tls_client_certificate_bound_access_tokens": bound,
        });
        ground.post_showing(None, "/register", ("application/json", &description.to_string()))
    };
    assert_eq!(code_of(&register(json!("yes"))), "client_metadata_invalid");
    let token =
        |leaf: Option<&Leaf>, fields: &[(&str, &str)]| ground.post_showing(leaf, "/token", (FORM, &form(fields)));
    let code_of_person = |client: &str| {
        let tls = authority.client_showing(&["http/1.1"], None);
        let page = ground.page(client, CALLBACK, &[("login_hint", "bob")]);
        let back = Browser::with_tls(&tls).agree(&page, CALLBACK);
        parameter(&back, "code").unwrap_or_else(|| panic!("no code: {back}"))
    };
    let bound_to = |answer: &Answer| {
        assert_eq!(answer.status(), 200, "{}", answer.text());
        claims_of(answer.json()["access_token"].as_str().unwrap())["cnf"]["x5t#S256"].clone()
    };

    let registered = register(json!(true)).json();
    assert_eq!(registered["tls_client_certificate_bound_access_tokens"], true, "{registered}");
    let client = registered["client_id"].as_str().unwrap();
    let code = code_of_person(client);
    let without = token(None, &redeeming(client, &code));
    assert_eq!((without.status(), code_of(&without).as_str()), (401, "client_invalid"), "{}", without.text());
    let answer = token(Some(&own), &redeeming(client, &code));
    assert_eq!(bound_to(&answer), own.thumbprint());
    let record = ground.gateway.recorded("token", 1).remove(0);
    let binding = json!({ "method": "certificate", "thumbprint": own.thumbprint() });
    assert_eq!(record["authorization"]["binding"], binding);
    let given = answer.json();
    let (access, refresh) = (given["access_token"].as_str().unwrap(), given["refresh_token"].as_str().unwrap());
    let holder = ground.gateway.client_showing(Some("up"), &own).token(access).awaiting("echo");
    assert_eq!(holder.call("echo", &json!({})).status(), 200);
    for thief in [ground.gateway.client(Some("up")), ground.gateway.client_showing(Some("up"), &other)] {
        assert_eq!(thief.token(access).call("echo", &json!({})).status(), 401);
    }
    // Nobody else shows what the refresh token of a client without a secret is bound to (RFC 8705 §7.1).
    refused(&token(Some(&other), &refreshing(client, refresh)), "code_invalid", "invalid_grant");
    assert_eq!(code_of(&token(None, &refreshing(client, refresh))), "client_invalid");
    assert_eq!(bound_to(&token(Some(&own), &refreshing(client, refresh))), own.thumbprint());

    let free = register(json!(false)).json();
    let client = free["client_id"].as_str().unwrap();
    let answer = token(Some(&own), &redeeming(client, &code_of_person(client)));
    assert_eq!(bound_to(&answer), Value::Null, "who does not want that shows a certificate to no effect");
}
