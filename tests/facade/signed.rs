//! Clients that sign who they are: `private_key_jwt` (RFC 7523).

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use serde_json::{Value, json};

use super::{CALLBACK, Ground, VERIFIER, code_of, parameter};
use crate::harness::{
    certificates::Authority,
    http::{Answer, fetch},
    issuer::{Issuer, Signature, now},
    login::Browser,
    prover::Prover,
    recorder::{Era, Recorder, Reply},
};

const KIND: (&str, &str) = ("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer");

/// A JWK Set with these keys, each by its number.
fn set(keys: &[&Prover]) -> Value {
    let named = keys.iter().enumerate().map(|(number, key)| {
        let mut jwk = key.jwk();
        jwk["kid"] = json!(number.to_string());
        jwk
    });
    json!({ "keys": named.collect::<Vec<_>>() })
}

fn claims(client: &str, audience: &str) -> Value {
    let (now, id) = (now(), uuid::Uuid::new_v4().to_string());
    json!({ "iss": client, "sub": client, "aud": audience, "iat": now, "exp": now + 60, "jti": id })
}

fn header(kid: &str) -> Value {
    json!({ "alg": "ES256", "typ": "JWT", "kid": kid })
}

/// A gateway with the client `signer`, whose public keys these lines name.
fn ground(name: &str, keys: impl FnOnce(&std::path::Path) -> String) -> Ground {
    let (provider, partner, upstream) = (Issuer::good(), Issuer::good(), Recorder::good(Era::Modern));
    let setup = super::setup(name, &provider, &partner, &upstream, "");
    let keys = keys(setup.folder());
    let client = format!("[[facade.clients]]\nid = \"signer\"\n{keys}\nscopes = [\"tools:read\"]");
    Ground { gateway: setup.section(&client).start(), provider, partner, upstream }
}

impl Ground {
    fn ask_signed(&self, assertion: &str, more: &[(&str, &str)]) -> Answer {
        let resource = self.resource();
        let mut fields = vec![KIND, ("client_assertion", assertion)];
        fields.extend(more);
        if more.is_empty() {
            fields.extend([("grant_type", "client_credentials"), ("resource", resource.as_str())]);
        }
        self.token(&fields)
    }
}

#[test]
fn a_machine_signs_who_it_is_for_this_server_and_once() {
    let (key, stranger) = (Prover::new(), Prover::new());
    let ground = ground("facade-signed", |folder| {
        std::fs::write(folder.join("signer.jwks.json"), set(&[&key]).to_string()).unwrap();
        format!("jwks = \"{}\"", folder.join("signer.jwks.json").display())
    });
    let metadata = fetch("GET", &format!("{}/.well-known/oauth-authorization-server", ground.origin()), &[], b"");
    let ways = metadata.json()["token_endpoint_auth_methods_supported"].clone();
    assert!(ways.as_array().unwrap().contains(&json!("private_key_jwt")), "{ways}");
    let good = |audience: &str| key.sign(&header("0"), &claims("signer", audience));
    for audience in ["", "/", "/token"].map(|path| format!("{}{path}", ground.origin())) {
        let assertion = good(&audience);
        let answer = ground.ask_signed(&assertion, &[]);
        assert_eq!(answer.status(), 200, "{}", answer.text());
        ground.serves(answer.json()["access_token"].as_str().unwrap());
        let again = ground.ask_signed(&assertion, &[]);
        assert_eq!((again.status(), code_of(&again).as_str()), (401, "client_invalid"), "{}", again.text());
    }
    let changed = |claim: &str, value: Value| {
        let mut claims = claims("signer", &ground.origin());
        claims[claim] = value;
        key.sign(&header("0"), &claims)
    };
    let own = claims("signer", &ground.origin());
    for (what, assertion) in [
        ("another server's", changed("aud", json!("https://other.example"))),
        ("two servers'", changed("aud", json!([ground.origin(), "https://other.example"]))),
        ("of an endpoint of MCP", changed("aud", json!(ground.resource()))),
        ("old", changed("exp", json!(now() - 60))),
        ("too long", changed("exp", json!(now() + 86_400))),
        ("without end", changed("exp", Value::Null)),
        ("of the future", changed("nbf", json!(now() + 300))),
        ("without an id", changed("jti", Value::Null)),
        ("another issuer's", changed("iss", json!("robot"))),
        ("another client's", changed("sub", json!("robot"))),
        ("another key's", stranger.sign(&header("0"), &own)),
        ("an unknown key's", key.sign(&header("1"), &own)),
        ("unsigned", key.forge(&json!({ "alg": "none" }), &own, Signature::Absent)),
        ("by a shared secret", key.forge(&json!({ "alg": "HS256", "kid": "0" }), &own, Signature::HmacOfPublicKey)),
        ("an access token", key.sign(&json!({ "alg": "ES256", "typ": "at+jwt", "kid": "0" }), &own)),
        ("a key of its own", key.sign(&json!({ "alg": "ES256", "kid": "9", "jwk": stranger.jwk() }), &own)),
    ] {
        let answer = ground.ask_signed(&assertion, &[]);
        assert_eq!((answer.status(), code_of(&answer).as_str()), (401, "client_invalid"), "{what}: {}", answer.text());
        assert_eq!(answer.json()["error"], "invalid_client", "{what}");
    }
    let asks = [("grant_type", "client_credentials"), ("client_id", "signer")];
    for (what, more, code) in [
        ("nothing", vec![], "client_invalid"),
        ("a secret", vec![("client_secret", "x")], "client_invalid"),
        ("another type", vec![("client_assertion", "x"), ("client_assertion_type", "x")], "authorization_invalid"),
        ("two ways", vec![("client_assertion", "x"), KIND, ("client_secret", "x")], "authorization_invalid"),
    ] {
        let answer = ground.token(&[asks.as_slice(), &more].concat());
        assert_eq!(code_of(&answer), code, "{what}: {}", answer.text());
    }
    let other = ground.ask_signed(&good(&ground.origin()), &[asks[0], ("client_id", "robot")]);
    assert_eq!(code_of(&other), "authorization_invalid", "two clients are named");
    ground.recorded_refusal("client_invalid");
}

#[test]
fn a_registered_client_that_signs_gets_nothing_without() {
    let ground = Ground::new("facade-signed-registered");
    let key = Prover::new();
    let described = |keys: (&str, Value)| {
        let (name, value) = keys;
        let mut text = json!({
            "client_name": "Signs", "redirect_uris": [CALLBACK], "grant_types": ["authorization_code", "refresh_token"],
            "token_endpoint_auth_method": "private_key_jwt",
        });
        text[name] = value;
        ground.register(&text)
    };
    for bad in [
        ("client_name", json!("keyless")),
        ("jwks", json!({ "keys": [] })),
        ("jwks", json!({ "keys": [{ "kty": "oct", "k": "c2VjcmV0" }] })),
        ("jwks_uri", json!("https://app.example/jwks")),
    ] {
        let answer = described(bad.clone());
        assert_eq!((answer.status(), code_of(&answer).as_str()), (400, "client_metadata_invalid"), "{bad:?}");
    }
    let registered = described(("jwks", set(&[&key]))).json();
    assert_eq!(registered["token_endpoint_auth_method"], "private_key_jwt", "{registered}");
    let client = registered["client_id"].as_str().unwrap();
    let code = ground.code(client, "bob");
    let redeeming = [("grant_type", "authorization_code"), ("code", code.as_str()), ("code_verifier", VERIFIER)];
    let public = ground.token(&[redeeming.as_slice(), &[("client_id", client)]].concat());
    assert_eq!((public.status(), code_of(&public).as_str()), (401, "client_invalid"), "{}", public.text());
    let sign = || key.sign(&header("0"), &claims(client, &ground.origin()));
    let first = sign();
    let answer = ground.ask_signed(&first, &redeeming);
    assert_eq!(answer.status(), 200, "{}", answer.text());
    let given = answer.json();
    ground.serves(given["access_token"].as_str().unwrap());
    let refresh = given["refresh_token"].as_str().unwrap();
    assert_eq!(code_of(&ground.refresh(client, refresh)), "client_invalid");
    let fields = [("grant_type", "refresh_token"), ("refresh_token", refresh)];
    assert_eq!(code_of(&ground.ask_signed(&first, &fields)), "client_invalid", "shown before");
    let again = ground.ask_signed(&sign(), &fields);
    assert_eq!(again.status(), 200, "{}", again.text());
    let machine = ground.ask_signed(&sign(), &[("grant_type", "client_credentials")]);
    assert_eq!(code_of(&machine), "grant_type_forbidden");
}

#[test]
fn keys_that_a_document_names_are_asked_for_where_it_may_name_them() {
    let web = "https://app.example/callback";
    let key = Arc::new(Prover::new());
    let asked = Arc::new(AtomicUsize::new(0));
    let (shared, counter) = (Arc::clone(&key), Arc::clone(&asked));
    let (provider, partner, upstream) = (Issuer::good(), Issuer::good(), Recorder::good(Era::Modern));
    let setup =
        super::setup("facade-signed-document", &provider, &partner, &upstream, "client_domains = [\"localhost\"]");
    let authority = Authority::new(setup.folder());
    let leaf = authority.leaf("documents", &["localhost"]);
    let documents = Recorder::serving_tls(Authority::server(&leaf), move |seen| {
        let origin = format!("https://{}", seen.header("host").unwrap_or_default());
        if seen.path == "/jwks" {
            counter.fetch_add(1, Ordering::AcqRel);
            return Reply::json(200, &set(&[&shared]));
        }
        let elsewhere = if seen.path == "/elsewhere" { "https://127.0.0.1" } else { &origin };
        Reply::json(
            200,
            &json!({
                "client_id": format!("{origin}{}", seen.path), "client_name": "Signs", "redirect_uris": [web],
                "token_endpoint_auth_method": "private_key_jwt", "jwks_uri": format!("{elsewhere}/jwks"),
            }),
        )
    });
    let origin = documents.origin().replace("127.0.0.1", "localhost");
    let egress = format!("[egress]\norigins = [\"{origin}\"]\nca = \"{}\"", authority.file().display());
    let ground = Ground { gateway: setup.section(&egress).start(), provider, partner, upstream };
    let redeem = |path: &str, kid: &str, key: &Prover| {
        let client = format!("{origin}{path}");
        let back = Browser::default().agree(&ground.page(&client, web, &[("login_hint", "bob")]), web);
        let code = parameter(&back, "code").unwrap();
        let assertion = key.sign(&header(kid), &claims(&client, &ground.origin()));
        let fields = [("grant_type", "authorization_code"), ("code", &code), ("code_verifier", VERIFIER)];
        ground.ask_signed(&assertion, &fields)
    };
    for _ in 0..2 {
        let answer = redeem("/client", "0", &key);
        assert_eq!(answer.status(), 200, "{}", answer.text());
        ground.serves(answer.json()["access_token"].as_str().unwrap());
    }
    assert_eq!(asked.load(Ordering::Acquire), 1, "kept for a while");
    let stranger = Prover::new();
    for _ in 0..5 {
        let answer = redeem("/client", "7", &stranger);
        assert_eq!(code_of(&answer), "client_invalid", "{}", answer.text());
    }
    assert!(asked.load(Ordering::Acquire) <= 2, "unknown keys make no flood: {}", asked.load(Ordering::Acquire));
    let elsewhere = redeem("/elsewhere", "0", &key);
    assert_eq!((elsewhere.status(), code_of(&elsewhere).as_str()), (401, "client_invalid"), "{}", elsewhere.text());
    ground.recorded_refusal("client_invalid");
}
