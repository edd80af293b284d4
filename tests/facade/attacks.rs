//! What attackers try, and do not get.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use serde_json::{Value, json};
use url::Url;

use super::{CALLBACK, Ground, VERIFIER, back_of, code_of, page_of, parameter};
use crate::harness::{
    http::{Answer, fetch, form},
    issuer::{Issuer, Signature, now},
    login::{Browser, Landing, ticket},
    recorder::Reply,
};

#[test]
fn a_code_goes_to_the_clients_own_redirect_uri_only() {
    let ground = Ground::new("facade-redirect");
    let web = "https://app.example/callback";
    let client = ground.registered(web);
    for elsewhere in [
        "https://evil.example/callback",
        "https://app.example/callback/../evil",
        "https://app.example/callback?x=1",
        "https://app.example:8443/callback",
        "https://app.example.evil.example/callback",
        "https://user@app.example/callback",
        "https://app.example/callback#x",
        "http://app.example/callback",
        "http://127.0.0.1:3999/callback",
        "//app.example/callback",
        "https://app.example./callback",
        "https://APP.example/callback",
        "https://app.example:443/callback",
        "https://app.example/callback/",
        "https://app.example/%63allback",
        "https://app.example/x/%2e%2e/callback",
        "https://app.example\\@evil.example/callback",
        "https://app.example%2f@evil.example/callback",
        "https://evil.example/?u=https://app.example/callback",
        "https://app.example/callback\u{a0}",
        "https://app.example/callback\r\nLocation: https://evil.example/",
        "data:text/html,x",
        "javascript:alert(1)",
        "",
    ] {
        let page = ground.page(&client, web, &[("redirect_uri", elsewhere)]);
        let answer = fetch("GET", &page, &[], b"");
        assert_eq!(answer.header("location"), None, "{elsewhere}");
        assert_eq!(answer.status(), 400, "{elsewhere}: {}", answer.text());
        assert!(["redirect_uri_invalid", "authorization_invalid"].contains(&code_of(&answer).as_str()), "{elsewhere}");
    }
    let twice = format!("{}&redirect_uri=https://evil.example/", ground.page(&client, web, &[]));
    let answer = fetch("GET", &twice, &[], b"");
    assert_eq!((answer.header("location"), code_of(&answer).as_str()), (None, "authorization_invalid"));
    // A program on this computer may listen at any port, and nothing else of it may differ.
    let local = ground.registered("http://localhost:1/callback");
    for other in [
        "http://127.0.0.1:4000/callback",
        "http://localhost.evil.example:4000/callback",
        "https://localhost:4000/callback",
    ] {
        let answer = fetch("GET", &ground.page(&local, other, &[]), &[], b"");
        assert_eq!((answer.header("location"), code_of(&answer).as_str()), (None, "redirect_uri_invalid"), "{other}");
    }
    page_of(&Browser::default().go(&ground.page(&local, "http://localhost:4000/callback", &[]), CALLBACK));
    let other = fetch("GET", &ground.page(&local, "http://localhost:4000/other", &[]), &[], b"");
    assert_eq!(code_of(&other), "redirect_uri_invalid");
    for uri in ["https://app.example/*", "com.evil.app:/cb", "http://app.example/cb", "https://a@b.example/", "x"] {
        let answer = ground.register(&json!({ "redirect_uris": [uri] }));
        assert_eq!((answer.status(), code_of(&answer).as_str()), (400, "redirect_uri_invalid"), "{uri}");
        assert_eq!(answer.json()["error"], "invalid_redirect_uri");
    }
    assert!(ground.provider.recorder().seen_path("/auth").is_empty(), "nobody was sent to the provider");
    ground.recorded_refusal("redirect_uri_invalid");
}

#[test]
fn what_a_client_asks_wrongly_it_hears_at_its_own_place() {
    let ground = Ground::new("facade-asked-wrongly");
    let client = ground.registered(CALLBACK);
    for (what, changes, error) in [
        ("no PKCE", vec![("code_challenge", ""), ("code_challenge_method", "")], "invalid_request"),
        ("no method, which means plain", vec![("code_challenge_method", "")], "invalid_request"),
        ("plain", vec![("code_challenge_method", "plain")], "invalid_request"),
        ("a short challenge", vec![("code_challenge", "abc")], "invalid_request"),
        ("a token at once", vec![("response_type", "token")], "unsupported_response_type"),
        ("somebody else's resource", vec![("resource", "https://other.example/mcp")], "invalid_target"),
        ("an unknown endpoint", vec![("resource", &format!("{}/mcp/nowhere", ground.origin()))], "invalid_target"),
        ("a request object", vec![("request_uri", "https://evil.example/r")], "invalid_request"),
    ] {
        let landing = Browser::default().go(&ground.page(&client, CALLBACK, &changes), CALLBACK);
        let back = back_of(&landing);
        assert_eq!(parameter(back, "error").as_deref(), Some(error), "{what}");
        assert_eq!(parameter(back, "state").as_deref(), Some("client-state"), "{what}");
        assert_eq!(parameter(back, "iss"), Some(ground.origin()), "{what}");
        assert_eq!(parameter(back, "code"), None, "{what}");
    }
    // A place on the web that anybody may have registered is linked to, and not gone to.
    let web = "https://app.example/callback";
    let registered = ground.registered(web);
    let landing = Browser::default().go(&ground.page(&registered, web, &[("code_challenge", "")]), web);
    let page = page_of(&landing);
    assert_eq!((page.status(), code_of(page).as_str()), (400, "authorization_invalid"));
    assert!(page.text().contains("href=\"https://app.example/callback?error=invalid_request&amp;"), "{}", page.text());
    let twice = format!("{}&client_id=other", ground.page(&client, CALLBACK, &[]));
    assert_eq!(code_of(&fetch("GET", &twice, &[], b"")), "authorization_invalid");
    let unknown = fetch("GET", &ground.page("dcr-unknown", CALLBACK, &[]), &[], b"");
    assert_eq!((unknown.status(), code_of(&unknown).as_str()), (401, "client_invalid"));
    let record = ground.gateway.recorded("refusal", 1).remove(0);
    assert_eq!(record["request"]["method"], "/authorize", "{record}");
    assert!(ground.provider.recorder().seen_path("/auth").is_empty(), "the provider saw none of it");
    ground.recorded_refusal("response_type_unsupported");
}

#[test]
fn nobody_agrees_for_somebody_else() {
    let ground = Ground::new("facade-csrf");
    let client = ground.registered(CALLBACK);
    let page = ground.page(&client, CALLBACK, &[]);
    let mut attacker = Browser::default();
    let landing = attacker.go(&page, CALLBACK);
    let stolen = ticket(page_of(&landing));
    let at = Url::parse(&ground.origin()).unwrap();
    let post = |cookies: &str, fields: &[(&str, &str)], origin: &str| -> Answer {
        let kind = ("Content-Type", "application/x-www-form-urlencoded");
        let mut headers = vec![kind, ("Cookie", cookies), ("Origin", origin)];
        headers.retain(|(_, value)| !value.is_empty());
        fetch("POST", &format!("{}/authorize", ground.origin()), &headers, form(fields).as_bytes())
    };
    let mut victim = Browser::default();
    victim.go(&page, CALLBACK);
    let (own, theirs) = (ground.origin(), victim.cookies(&at));
    let allow = ("decision", "allow");
    for (what, cookies, fields, code) in [
        (
            "the attacker's page in the victim's browser",
            theirs.as_str(),
            vec![("ticket", stolen.as_str()), allow],
            "consent_invalid",
        ),
        ("no cookie", "", vec![("ticket", stolen.as_str()), allow], "consent_invalid"),
        ("no ticket", theirs.as_str(), vec![allow], "consent_invalid"),
        ("a made up ticket", theirs.as_str(), vec![("ticket", "AAAA"), allow], "consent_invalid"),
        ("no decision", &attacker.cookies(&at), vec![("ticket", stolen.as_str())], "consent_invalid"),
    ] {
        let answer = post(cookies, &fields, &own);
        assert_eq!((answer.status(), code_of(&answer).as_str()), (403, code), "{what}");
    }
    let elsewhere = post(&attacker.cookies(&at), &[("ticket", &stolen), allow], "https://evil.example");
    assert_eq!(elsewhere.status(), 403, "a form of another page");
    assert!(ground.provider.recorder().seen_path("/auth").is_empty(), "nobody was sent to the provider");

    let denied = attacker.press(&landing, "deny", CALLBACK);
    assert_eq!(parameter(back_of(&denied), "error").as_deref(), Some("access_denied"));
    ground.recorded_refusal("consent_invalid");
    ground.recorded_refusal("consent_denied");
}

#[test]
fn the_provider_s_answer_is_good_once_in_the_browser_that_went() {
    let ground = Ground::new("facade-callback");
    let client = ground.registered(CALLBACK);
    let callback = format!("{}/callback", ground.origin());
    let mut browser = Browser::default();
    let landing = browser.go(&ground.page(&client, CALLBACK, &[]), CALLBACK);
    let held = browser.press(&landing, "allow", &callback);
    let answer_url = back_of(&held).clone();
    let open = |url: &Url, cookies: &str| {
        let headers = [("Cookie", cookies)];
        fetch("GET", url.as_str(), if cookies.is_empty() { &[] } else { &headers }, b"")
    };
    let mine = browser.cookies(&answer_url);

    // A login that an attacker began, in another browser: nothing, and the state is used up.
    let mut victim = Browser::default();
    victim.go(&ground.page(&client, CALLBACK, &[]), CALLBACK);
    let injected = open(&answer_url, &victim.cookies(&answer_url));
    assert_eq!((injected.status(), code_of(&injected).as_str()), (403, "consent_invalid"));
    assert_eq!(injected.header("location"), None);
    assert_eq!(code_of(&open(&answer_url, &mine)), "consent_invalid", "used up");

    for made_up in ["?code=x", "?code=x&state=unknown", "?state=", ""] {
        let url = Url::parse(&format!("{callback}{made_up}")).unwrap();
        assert_eq!(code_of(&open(&url, &mine)), "consent_invalid", "{made_up}");
    }
    // And again as it should be: once.
    let landing = browser.go(&ground.page(&client, CALLBACK, &[]), CALLBACK);
    let held = browser.press(&landing, "allow", &callback);
    let (url, cookies) = (back_of(&held).clone(), browser.cookies(&answer_url));
    assert_eq!(open(&url, &cookies).status(), 303);
    assert_eq!(code_of(&open(&url, &cookies)), "consent_invalid");
}

/// A provider that answers as the flag's owner says, and well otherwise.
fn provider(answer: impl Fn(&str, &crate::harness::recorder::Seen) -> Option<Reply> + Send + Sync + 'static) -> Issuer {
    Issuer::scripted(move |seen| answer(&seen.path, seen))
}

#[test]
fn an_answer_of_another_provider_is_a_mix_up() {
    let back = |seen: &crate::harness::recorder::Seen, iss: &str| {
        let query: Vec<(String, String)> = url::form_urlencoded::parse(seen.query.as_bytes()).into_owned().collect();
        let of = |name: &str| query.iter().find(|(known, _)| known == name).unwrap().1.clone();
        let mut to = Url::parse(&of("redirect_uri")).unwrap();
        to.query_pairs_mut().extend_pairs([("code", "stolen"), ("state", of("state").as_str()), ("iss", iss)]);
        Reply::status(302).header("location", to.as_str())
    };
    let provider = provider(move |path, seen| (path == "/auth").then(|| back(seen, "https://evil.example")));
    let ground = Ground::with("facade-mix-up", provider, "");
    let client = ground.registered(CALLBACK);
    let landed = Browser::default().agree(&ground.page(&client, CALLBACK, &[]), CALLBACK);
    assert_eq!(parameter(&landed, "error").as_deref(), Some("access_denied"));
    assert!(ground.provider.asked().is_empty(), "the code of another provider is shown to nobody");
    ground.recorded_refusal("login_failed");
}

#[test]
fn an_id_token_that_is_not_the_answer_to_this_login_logs_nobody_in() {
    let forger = Arc::new(Issuer::good());
    let pen = Arc::clone(&forger);
    let bad = Arc::new(parking_lot::Mutex::new(Value::Null));
    let change = Arc::clone(&bad);
    let own = Arc::new(parking_lot::Mutex::new(None::<String>));
    let name = Arc::clone(&own);
    // The keys are the forger's, so that the claims alone decide.
    let provider = provider(move |path, seen| match path {
        "/jwks" => {
            let keys = fetch("GET", &format!("{}/jwks", pen.url()), &[], b"").json();
            Some(Reply::json(200, &keys))
        }
        "/token" => {
            let code = seen.field("code")?;
            use base64::Engine as _;
            let asked = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(code).ok()?;
            let asked: Value = serde_json::from_slice(&asked).ok()?;
            let now = now();
            let mut claims = json!({
                "iss": name.lock().clone()?, "sub": "alice", "aud": "facade", "nonce": asked["nonce"], "iat": now, "exp": now + 300,
            });
            for (claim, value) in change.lock().as_object().into_iter().flatten() {
                claims[claim] = value.clone();
            }
            let mut header = pen.header();
            header["typ"] = claims.as_object_mut().unwrap().remove("typ").unwrap_or(json!("JWT"));
            let token = pen.forge(&header, &claims, Signature::Own);
            Some(Reply::json(200, &json!({ "id_token": token, "token_type": "Bearer", "access_token": "x" })))
        }
        _ => None,
    });
    *own.lock() = Some(provider.url());
    let ground = Ground::with("facade-id-token", provider, "");
    let client = ground.registered(CALLBACK);
    let login = |changed: Value| {
        *bad.lock() = changed;
        Browser::default().agree(&ground.page(&client, CALLBACK, &[]), CALLBACK)
    };
    assert!(parameter(&login(json!({})), "code").is_some(), "the ground is good");
    for changed in [
        json!({ "nonce": "another" }),
        json!({ "nonce": null }),
        json!({ "aud": "another" }),
        json!({ "aud": ["facade", "another"] }),
        json!({ "azp": "another" }),
        json!({ "iss": ground.partner.url() }),
        json!({ "iss": "https://evil.example" }),
        json!({ "exp": now() - 60 }),
        json!({ "typ": "at+jwt" }),
        json!({ "sub": "robot" }),
        json!({ "sub": format!("{} carol", ground.partner.url()) }),
        json!({ "sub": "" }),
    ] {
        let back = login(changed.clone());
        assert_eq!(parameter(&back, "error").as_deref(), Some("access_denied"), "{changed}");
        assert_eq!(parameter(&back, "code"), None, "{changed}");
    }
}

#[test]
fn a_provider_that_is_down_is_said_and_not_asked_in_a_storm() {
    let down = Arc::new(AtomicBool::new(false));
    let is_down = Arc::clone(&down);
    let provider = provider(move |path, _| {
        (path.starts_with("/.well-known/") && is_down.load(Ordering::Acquire)).then(|| Reply::status(500))
    });
    let ground = Ground::with("facade-down", provider, "");
    down.store(true, Ordering::Release);
    let client = ground.registered(CALLBACK);
    let metadata = || ground.provider.recorder().seen().iter().filter(|seen| seen.path.contains("well-known")).count();
    let (before, began) = (metadata(), Instant::now());
    for _ in 0..5 {
        let back = Browser::default().agree(&ground.page(&client, CALLBACK, &[]), CALLBACK);
        assert_eq!(parameter(&back, "error").as_deref(), Some("temporarily_unavailable"));
    }
    // At two places, and at each again after two seconds.
    let most = 2 * (2 + began.elapsed().as_secs() as usize / 2);
    assert!(metadata() - before <= most, "asked {} times", metadata() - before);
    ground.recorded_refusal("login_unavailable");
}

#[test]
fn a_code_is_good_once_for_its_client_and_verifier() {
    let ground = Ground::new("facade-code");
    let (client, other) = (ground.registered(CALLBACK), ground.registered(CALLBACK));
    let code = ground.code(&client, "alice");
    let kind = ("grant_type", "authorization_code");
    let fields = |id: &'static str, verifier: &'static str, uri: &'static str| {
        let client = if id == "own" { client.clone() } else { other.clone() };
        (client, verifier, uri)
    };
    for (client, verifier, uri) in [
        fields("other", VERIFIER, CALLBACK),
        fields("own", "xBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk", CALLBACK),
        fields("own", VERIFIER, "http://127.0.0.1:4000/callback"),
    ] {
        let asks =
            [kind, ("client_id", client.as_str()), ("code", &code), ("code_verifier", verifier), ("redirect_uri", uri)];
        let answer = ground.token(&asks);
        assert_eq!((answer.status(), code_of(&answer).as_str()), (400, "code_invalid"), "{verifier} {uri}");
        assert_eq!(answer.json()["error"], "invalid_grant");
    }
    let downgraded = ground.token(&[kind, ("client_id", client.as_str()), ("code", &code)]);
    assert_eq!(code_of(&downgraded), "authorization_invalid", "a verifier is needed");

    let given = ground.redeem(&client, &code).json();
    let replayed = ground.redeem(&client, &code);
    assert_eq!((replayed.status(), code_of(&replayed).as_str()), (400, "code_reused"));
    let refresh = ground.refresh(&client, given["refresh_token"].as_str().unwrap());
    assert_eq!(code_of(&refresh), "code_invalid", "what came of the code has ended");
    let record = ground.gateway.recorded("refusal", 1).remove(0);
    assert_eq!(record["refused"]["code"], "code_reused");
}

#[test]
fn a_refresh_token_that_comes_twice_ends_the_login() {
    let ground = Ground::new("facade-refresh-reuse");
    let (client, given) = ground.logged_in("alice");
    let other = ground.registered(CALLBACK);
    let first = given["refresh_token"].as_str().unwrap();
    assert_eq!(code_of(&ground.refresh(&other, first)), "code_invalid", "another client's");
    assert_eq!(code_of(&ground.refresh(&client, "made-up")), "code_invalid");
    let fields = [("grant_type", "refresh_token"), ("client_id", client.as_str()), ("refresh_token", first)];
    let mut wider = fields.to_vec();
    wider.push(("scope", "tools:read admin"));
    assert_eq!(code_of(&ground.token(&wider)), "scope_invalid");
    let mut elsewhere = fields.to_vec();
    let federated = ground.gateway.endpoint(None);
    elsewhere.push(("resource", &federated));
    assert_eq!(code_of(&ground.token(&elsewhere)), "target_invalid");

    let second = ground.refresh(&client, first).json();
    assert_eq!(code_of(&ground.refresh(&client, first)), "code_reused");
    let rightful = ground.refresh(&client, second["refresh_token"].as_str().unwrap());
    assert_eq!(code_of(&rightful), "code_invalid", "nobody knows who of the two is the thief");
    ground.recorded_refusal("code_reused");
}

#[test]
fn a_flood_of_registrations_is_turned_away() {
    let ground = Ground::new("facade-flood");
    let began = Instant::now();
    let answers: Vec<Answer> =
        (0..40).map(|_| ground.register(&json!({ "redirect_uris": ["https://app.example/cb"] }))).collect();
    let taken = answers.iter().filter(|answer| answer.status() == 201).count();
    // There is room for another every six seconds.
    let most = 25 + began.elapsed().as_secs() as usize / 6;
    assert!((1..=most).contains(&taken), "{taken} of 40");
    let refused = answers.iter().find(|answer| answer.status() != 201).unwrap();
    assert_eq!((refused.status(), code_of(refused).as_str()), (429, "ceiling_reached"));
    assert!(refused.header("retry-after").is_some());
    let big = json!({ "redirect_uris": ["https://app.example/cb"], "client_name": "x".repeat(70_000) });
    assert!([429, 413].contains(&ground.register(&big).status()));
    ground.recorded_refusal("ceiling_reached");
}

#[test]
fn a_description_with_markup_is_shown_as_text() {
    let ground = Ground::new("facade-markup");
    let name = "<img src=x onerror=alert(1)>Bank\u{202e}\u{0}";
    let answer =
        ground.register(&json!({ "redirect_uris": [CALLBACK], "client_name": name, "logo_uri": "javascript:x" }));
    let client = answer.json()["client_id"].as_str().unwrap().to_owned();
    assert!(answer.json()["logo_uri"].is_null());
    let landing = Browser::default().go(&ground.page(&client, CALLBACK, &[]), CALLBACK);
    let text = page_of(&landing).text();
    assert!(!text.contains("<img") && text.contains("Bank") && !text.contains('\u{202e}'), "{text}");
    let bad = ground.register(&json!({ "redirect_uris": [CALLBACK], "response_types": ["token"] }));
    assert_eq!(
        (code_of(&bad).as_str(), &bad.json()["error"]),
        ("client_metadata_invalid", &json!("invalid_client_metadata"))
    );
    assert!(matches!(landing, Landing::Page { .. }));
}

#[test]
fn a_token_of_the_gateway_s_name_by_another_key_is_none() {
    let ground = Ground::new("facade-forged");
    let (_, given) = ground.logged_in("alice");
    let token = given["access_token"].as_str().unwrap();
    ground.serves(token);
    let claims = crate::harness::issuer::claims_of(token);
    let header = ground.provider.header();
    let forged = ground.provider.forge(&header, &claims, Signature::Own);
    assert_eq!(ground.gateway.client(Some("up")).token(&forged).call("echo", &json!({})).status(), 401);
    let unsigned = ground.provider.forge(&json!({ "alg": "none", "typ": "at+jwt" }), &claims, Signature::Absent);
    assert_eq!(ground.gateway.client(Some("up")).token(&unsigned).call("echo", &json!({})).status(), 401);
    ground.serves(token);
}

#[test]
fn a_store_that_cannot_be_used_is_said_and_nothing_is_issued() {
    let (provider, partner, upstream) = (
        Issuer::good(),
        Issuer::good(),
        crate::harness::recorder::Recorder::good(crate::harness::recorder::Era::Modern),
    );
    let setup = super::setup("facade-store", &provider, &partner, &upstream, "");
    let folder = setup.folder().join("state");
    let gateway = setup.section(&format!("[state]\ndirectory = \"{}\"", folder.display())).start();
    let ground = Ground { provider, partner, upstream, gateway };
    let (client, given) = ground.logged_in("alice");
    let damage = |how: &str| rusqlite::Connection::open(folder.join("state.db")).unwrap().execute_batch(how).unwrap();
    damage("ALTER TABLE kept RENAME TO gone");
    let refresh = ground.refresh(&client, given["refresh_token"].as_str().unwrap());
    for answer in [refresh, ground.register(&json!({ "redirect_uris": [CALLBACK] }))] {
        assert_eq!((answer.status(), code_of(&answer).as_str()), (503, "state_unavailable"), "{}", answer.text());
        assert_eq!(answer.json()["error"], "temporarily_unavailable");
        assert!(!answer.text().contains("kept"), "{}", answer.text());
    }
    // What was issued goes on: keys and tokens are in memory.
    ground.serves(given["access_token"].as_str().unwrap());
    damage("ALTER TABLE gone RENAME TO kept");
    assert_eq!(ground.refresh(&client, given["refresh_token"].as_str().unwrap()).status(), 200);
}

#[test]
fn a_key_that_proves_a_token_is_no_key_that_signs_one() {
    let (provider, partner, upstream) = (
        Issuer::good(),
        Issuer::good(),
        crate::harness::recorder::Recorder::good(crate::harness::recorder::Era::Modern),
    );
    let client = "client = { id = \"gateway\", secret = { env = \"FACADE_SECRET\" } }";
    let grant = format!(
        "grant = {{ strategy = \"client_credentials\", token_endpoint = \"{}/token\", {client}, dpop = true }}",
        provider.url()
    );
    let setup = super::setup("facade-proof-key", &provider, &partner, &upstream, "");
    let folder = setup.folder().join("state");
    let setup = setup.upstream("bound", &upstream.url(), &grant);
    let gateway = setup.section(&format!("[state]\ndirectory = \"{}\"", folder.display())).start();
    let mut ground = Ground { provider, partner, upstream, gateway };
    let kept = |place: &str| -> i64 {
        let state = rusqlite::Connection::open(folder.join("state.db")).unwrap();
        state.query_row("SELECT count(*) FROM kept WHERE place = ?1", [place], |row| row.get(0)).unwrap()
    };
    crate::harness::place::wait_for("the proof key", crate::harness::place::DISK_PATIENCE, || {
        (kept("proof_key") == 1).then_some(())
    });
    for start in 0..2 {
        let (_, given) = ground.logged_in("alice");
        ground.serves(given["access_token"].as_str().unwrap());
        let keys = fetch("GET", &format!("{}/jwks", ground.origin()), &[], b"").json();
        assert_eq!(keys["keys"].as_array().map(Vec::len), Some(1), "start {start}: {keys}");
        ground.gateway.stop();
        ground = Ground { gateway: ground.gateway.again(), ..ground };
    }
}

#[test]
fn what_is_not_kept_gives_nothing_and_uses_nothing_up() {
    let (provider, partner, upstream) = (
        Issuer::good(),
        Issuer::good(),
        crate::harness::recorder::Recorder::good(crate::harness::recorder::Era::Modern),
    );
    let setup = super::setup("facade-consent-store", &provider, &partner, &upstream, "");
    let folder = setup.folder().join("state");
    let gateway = setup.section(&format!("[state]\ndirectory = \"{}\"", folder.display())).start();
    let ground = Ground { provider, partner, upstream, gateway };
    let damage = |how: &str| rusqlite::Connection::open(folder.join("state.db")).unwrap().execute_batch(how).unwrap();
    damage(
        "CREATE TRIGGER full BEFORE INSERT ON kept WHEN NEW.place = 'consent' BEGIN SELECT RAISE(ABORT, 'no room'); END",
    );
    let client = ground.registered(CALLBACK);
    let back = Browser::default().agree(&ground.page(&client, CALLBACK, &[]), CALLBACK);
    assert_eq!(parameter(&back, "error").as_deref(), Some("temporarily_unavailable"), "{back}");
    assert_eq!(ground.gateway.recorded("consent", 1).len(), 1);
    damage("DROP TRIGGER full");
    assert!(!ground.code(&client, "alice").is_empty());

    // Nor is a code or a refresh token used up by an answer that the client did not get.
    let (code, full) = (ground.code(&client, "alice"), "BEFORE INSERT ON kept WHEN NEW.place = 'token'");
    let unkept = |ask: &dyn Fn() -> Answer| {
        damage(&format!("CREATE TRIGGER full {full} BEGIN SELECT RAISE(ABORT, 'no room'); END"));
        let answer = ask();
        assert_eq!((answer.status(), code_of(&answer).as_str()), (503, "state_unavailable"), "{}", answer.text());
        damage("DROP TRIGGER full");
        let answer = ask();
        assert_eq!(answer.status(), 200, "{}", answer.text());
        answer.json()
    };
    let given = unkept(&|| ground.redeem(&client, &code));
    unkept(&|| ground.refresh(&client, given["refresh_token"].as_str().unwrap()));
}

#[test]
fn one_person_does_not_fill_the_room_that_logins_are_kept_in() {
    let ground = Ground::with("facade-logins", Issuer::good(), "logins_per_day = 2");
    let client = ground.registered(CALLBACK);
    let login = |user: &str| {
        let page = ground.page(&client, CALLBACK, &[("login_hint", user)]);
        let back = Browser::default().agree(&page, CALLBACK);
        (parameter(&back, "code").is_some(), parameter(&back, "error"))
    };
    for _ in 0..2 {
        assert_eq!(login("alice"), (true, None));
    }
    assert_eq!(login("alice"), (false, Some("temporarily_unavailable".to_owned())));
    assert_eq!(login("bob"), (true, None), "another person");
    let record = ground.gateway.recorded("refusal", 1).pop().unwrap();
    assert_eq!(record["refused"]["code"], "ceiling_reached", "{record}");
    let issued = ground.gateway.recorded("consent", 3);
    assert_eq!(issued.len(), 3, "nobody agreed to what was not begun");
}
