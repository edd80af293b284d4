//! Clients that sign who they are: `private_key_jwt` (RFC 7523).

use std::{
    net::IpAddr,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Instant,
};

use serde_json::{Value, json};

use super::{CALLBACK, Ground, VERIFIER, code_of, parameter};
use crate::harness::{
    certificates::Authority,
    http::{Answer, fetch, fetch_from, form},
    issuer::{Issuer, Signature, now},
    login::Browser,
    place,
    prover::Prover,
    recorder::{Era, Recorder, Reply, Step},
};

const WEB: &str = "https://app.example/callback";
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

pub(super) fn claims(client: &str, audience: &str) -> Value {
    let (now, id) = (now(), uuid::Uuid::new_v4().to_string());
    json!({ "iss": client, "sub": client, "aud": audience, "iat": now, "exp": now + 60, "jti": id })
}

pub(super) fn header(kid: &str) -> Value {
    json!({ "alg": "ES256", "typ": "JWT", "kid": kid })
}

/// A gateway with the client `signer`, whose public keys these lines name.
fn ground(name: &str, keys: impl FnOnce(&Path) -> String) -> Ground {
    let (provider, partner, upstream) = (Issuer::good(), Issuer::good(), Recorder::good(Era::Modern));
    let setup = super::setup(name, &provider, &partner, &upstream, "");
    let keys = keys(setup.folder());
    let client = format!("[[facade.clients]]\nid = \"signer\"\n{keys}\nscopes = [\"tools:read\"]");
    Ground { gateway: setup.section(&client).start(), provider, partner, upstream }
}

impl Ground {
    /// Registers a client that signs with this key, and gives its id.
    pub(super) fn signing_client(&self, key: &Prover) -> String {
        let description = json!({
            "client_name": "Signs", "redirect_uris": [CALLBACK], "grant_types": ["authorization_code", "refresh_token"],
            "token_endpoint_auth_method": "private_key_jwt", "jwks": set(&[key]),
        });
        let answer = self.register(&description);
        assert_eq!(answer.status(), 201, "{}", answer.text());
        answer.json()["client_id"].as_str().unwrap().to_owned()
    }

    pub(super) fn ask_signed(&self, assertion: &str, more: &[(&str, &str)]) -> Answer {
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

/// A gateway that takes what lies at `localhost`, which `answer` gives for an origin and a path; with these sections besides.
fn by_document(
    name: &str,
    sections: impl FnOnce(&str, &Path) -> String,
    answer: impl Fn(&str, &str) -> Reply + Send + Sync + 'static,
) -> (Ground, Recorder, String) {
    let (provider, partner, upstream) = (Issuer::good(), Issuer::good(), Recorder::good(Era::Modern));
    let setup = super::setup(name, &provider, &partner, &upstream, "client_domains = [\"localhost\"]");
    let authority = Authority::new(setup.folder());
    let leaf = authority.leaf("documents", &["localhost"]);
    let documents = Recorder::serving_tls(Authority::server(&leaf), move |seen| {
        answer(&format!("https://{}", seen.header("host").unwrap_or_default()), &seen.path)
    });
    let origin = documents.origin().replace("127.0.0.1", "localhost");
    let ca = authority.file();
    let egress = format!("[egress]\norigins = [\"{origin}\"]\nrequests_per_host_max = 16\nca = \"{}\"", ca.display());
    let sections = sections(&origin, setup.folder());
    let gateway = setup.section(&egress).section(&sections).start();
    (Ground { provider, partner, upstream, gateway }, documents, origin)
}

/// The document at this path, of a client whose keys lie there.
fn document(origin: &str, path: &str, keys: &str) -> Reply {
    let document = json!({
        "client_id": format!("{origin}{path}"), "client_name": "Signs", "redirect_uris": [WEB],
        "grant_types": ["authorization_code", "refresh_token"],
        "token_endpoint_auth_method": "private_key_jwt", "jwks_uri": keys,
    });
    Reply::json(200, &document)
}

#[test]
fn keys_that_a_document_names_are_asked_for_where_it_may_name_them() {
    let key = Arc::new(Prover::new());
    let asked = Arc::new(AtomicUsize::new(0));
    let (shared, counter) = (Arc::clone(&key), Arc::clone(&asked));
    let none = |_: &str, _: &Path| String::new();
    let (ground, _documents, origin) = by_document("facade-signed-document", none, move |origin, path| match path {
        "/jwks" => {
            counter.fetch_add(1, Ordering::AcqRel);
            Reply::json(200, &set(&[&shared]))
        }
        "/elsewhere" => document(origin, path, "https://127.0.0.1/jwks"),
        _ => document(origin, path, &format!("{origin}/jwks")),
    });
    let redeem = |path: &str, kid: &str, key: &Prover| {
        let client = format!("{origin}{path}");
        let back = Browser::default().agree(&ground.page(&client, WEB, &[("login_hint", "bob")]), WEB);
        let code = parameter(&back, "code").unwrap();
        let assertion = key.sign(&header(kid), &claims(&client, &ground.origin()));
        let fields = [("grant_type", "authorization_code"), ("code", &code), ("code_verifier", VERIFIER)];
        ground.ask_signed(&assertion, &fields)
    };
    let began = Instant::now();
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
    // They are read again for one every ten seconds at most.
    let (most, asked) = (2 + began.elapsed().as_secs() as usize / 10, asked.load(Ordering::Acquire));
    assert!(asked <= most, "unknown keys make no flood: {asked}");
    let elsewhere = redeem("/elsewhere", "0", &key);
    assert_eq!((elsewhere.status(), code_of(&elsewhere).as_str()), (401, "client_invalid"), "{}", elsewhere.text());
    ground.recorded_refusal("client_invalid");
}

#[test]
fn strangers_keys_take_neither_each_other_s_places_nor_those_of_machines() {
    let key = Arc::new(Prover::new());
    let released = Arc::new(AtomicUsize::new(0));
    let (shared, until) = (Arc::clone(&key), Arc::clone(&released));
    let machine = |origin: &str, _: &Path| {
        format!("[[facade.clients]]\nid = \"signer\"\njwks_uri = \"{origin}/machine\"\nscopes = [\"tools:read\"]")
    };
    let (ground, documents, origin) = by_document("facade-signed-places", machine, move |origin, path| match path {
        "/machine" => Reply::json(200, &set(&[&shared])),
        _ if path.starts_with("/hangs") => {
            Reply::status(200).header("content-type", "application/json").step(Step::until(&until, 1))
        }
        _ => document(origin, path, &format!("{origin}/hangs{path}")),
    });
    let sign = |client: &str| key.sign(&header("0"), &claims(client, &ground.origin()));
    let ask = |site: u8, number: usize| {
        let assertion = sign(&format!("{origin}/{site}/{number}"));
        let fields = [KIND, ("client_assertion", &assertion), ("grant_type", "refresh_token"), ("refresh_token", "x")];
        let headers = [("Content-Type", "application/x-www-form-urlencoded")];
        let source = IpAddr::from([127, 0, 0, site]);
        fetch_from(source, "POST", &format!("{}/token", ground.origin()), &headers, form(&fields).as_bytes())
    };
    let hanging = || documents.seen().iter().filter(|seen| seen.path.starts_with("/hangs")).count();
    let hang = |number: usize| place::wait_for("the fetches", place::PATIENCE, || (hanging() >= number).then_some(()));
    // What hangs is given up after three seconds: where the machine is too busy for the fifth to come in that time, the
    // scene is played again.
    let scene = |turn: usize| {
        std::thread::scope(|scope| {
            let (before, first) = (hanging(), 5 * turn);
            let four = |site: u8| (first..first + 4).map(|number| scope.spawn(move || ask(site, number))).collect();
            let mut all: Vec<_> = four(11);
            hang(before + 4);
            let fifth = ask(11, first + 4);
            let turned_away = (fifth.status(), code_of(&fifth).as_str()) == (503, "overloaded");
            if turned_away {
                all.extend((12..15).flat_map(|site| -> Vec<_> { four(site) }));
                hang(before + 16);
                let answer = ground.ask_signed(&sign("signer"), &[]);
                assert_eq!(answer.status(), 200, "a machine of the configuration: {}", answer.text());
                released.store(1, Ordering::Release);
            }
            for one in all {
                assert_eq!(code_of(&one.join().unwrap()), "client_invalid", "no keys");
            }
            turned_away
        })
    };
    assert!((0..5).any(scene), "keys were fetched for a fifth client of one address");
    ground.recorded_refusal("overloaded");
}

#[test]
fn a_client_that_proves_itself_keeps_what_its_tokens_are_bound_to() {
    let (provider, partner, upstream) = (Issuer::good(), Issuer::good(), Recorder::good(Era::Modern));
    let setup = super::setup("facade-signed-bound", &provider, &partner, &upstream, "").gateway("dpop = {}");
    let ground = Ground { gateway: setup.start(), provider, partner, upstream };
    let (signer, one, other) = (Prover::new(), Prover::new(), Prover::new());
    let client = ground.signing_client(&signer);
    let code = ground.code(&client, "bob");
    let ask = |key: Option<&Prover>, fields: &[(&str, &str)]| {
        let assertion = signer.sign(&header("0"), &claims(&client, &ground.origin()));
        let proof = key.map(|key| key.proof("POST", &format!("{}/token", ground.origin()), None));
        let headers: Vec<(&str, &str)> = proof.as_deref().map(|proof| ("DPoP", proof)).into_iter().collect();
        let shown = [KIND, ("client_assertion", &assertion)];
        ground.post("/token", &headers, &[shown.as_slice(), fields].concat())
    };
    let redeeming = [("grant_type", "authorization_code"), ("code", code.as_str()), ("code_verifier", VERIFIER)];
    let given = ask(Some(&one), &redeeming).json();
    assert_eq!(given["token_type"], "DPoP", "{given}");
    let refreshing = [("grant_type", "refresh_token"), ("refresh_token", given["refresh_token"].as_str().unwrap())];
    let without = ask(None, &refreshing);
    assert_eq!((without.status(), code_of(&without).as_str()), (400, "code_invalid"), "{}", without.text());
    // RFC 9449 §5: who it is its own key says, so that the other one may change.
    let next = ask(Some(&other), &refreshing);
    assert_eq!((next.status(), &next.json()["token_type"]), (200, &json!("DPoP")), "{}", next.text());
}

#[test]
fn a_client_that_proved_itself_does_not_go_on_as_one_that_need_not() {
    let key = Arc::new(Prover::new());
    let public = Arc::new(AtomicBool::new(false));
    let (shared, is_public) = (Arc::clone(&key), Arc::clone(&public));
    let state = |_: &str, folder: &Path| format!("[state]\ndirectory = \"{}\"", folder.join("state").display());
    let (ground, _documents, origin) = by_document("facade-signed-no-more", state, move |origin, path| match path {
        "/jwks" => Reply::json(200, &set(&[&shared])),
        _ if is_public.load(Ordering::Acquire) => {
            let document = json!({
                "client_id": format!("{origin}{path}"), "client_name": "Signs no more", "redirect_uris": [WEB],
                "grant_types": ["authorization_code", "refresh_token"],
            });
            Reply::json(200, &document)
        }
        _ => document(origin, path, &format!("{origin}/jwks")),
    });
    let client = format!("{origin}/client");
    let code = |ground: &Ground| {
        let back = Browser::default().agree(&ground.page(&client, WEB, &[("login_hint", "bob")]), WEB);
        parameter(&back, "code").unwrap()
    };
    let redeem = |ground: &Ground, code: &str, shown: &[(&str, &str)]| {
        let fields = [("grant_type", "authorization_code"), ("code", code), ("code_verifier", VERIFIER)];
        ground.token(&[fields.as_slice(), shown].concat())
    };
    let assertion = key.sign(&header("0"), &claims(&client, &ground.origin()));
    let given = redeem(&ground, &code(&ground), &[KIND, ("client_assertion", &assertion)]).json();
    let (token, late) = (given["refresh_token"].as_str().unwrap(), code(&ground));
    public.store(true, Ordering::Release);
    let ground = Ground { gateway: ground.gateway.again(), ..ground };
    let named = [("client_id", client.as_str())];
    for answer in [ground.refresh(&client, token), redeem(&ground, &late, &named)] {
        assert_eq!((answer.status(), code_of(&answer).as_str()), (400, "code_invalid"), "{}", answer.text());
    }
    assert_eq!(redeem(&ground, &code(&ground), &named).status(), 200, "a login since then is another");
}
