//! Whether somebody is still welcome, the provider says at each refresh.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use parking_lot::Mutex;
use serde_json::{Value, json};

use super::{
    CALLBACK, Ground, VERIFIER, back_of, code_of, parameter, setup,
    signed::{claims, header},
};
use crate::harness::{
    http::{Answer, begin},
    issuer::{Issuer, Pen, Signature, claims_of, now},
    login::Browser,
    place,
    prover::Prover,
    recorder::{Era, Recorder, Reply, Seen, Step},
};

/// What the provider answers to a refresh.
#[derive(Debug, Clone)]
enum Mood {
    /// Well, with this `sub` and these groups in its ID token, and another refresh token.
    Well(&'static str, Vec<&'static str>),
    /// Well, with an ID token for these, given to that one of them.
    Made(Vec<&'static str>, Option<&'static str>),
    /// Well, in half a second, with nothing but an access token.
    Slow,
    /// With this status, type and body.
    Bad(u16, &'static str, &'static str),
}

/// A gateway before a provider of changing moods.
fn ground(name: &str) -> (Ground, Arc<Mutex<Mood>>) {
    let mood = Arc::new(Mutex::new(Mood::Slow));
    let shared = Arc::clone(&mood);
    let provider = Issuer::signing(move |seen, pen| answer(&shared.lock().clone(), seen, pen));
    (Ground::with(name, provider, ""), mood)
}

fn answer(mood: &Mood, seen: &Seen, pen: &Mutex<Pen>) -> Option<Reply> {
    if seen.path != "/token" || seen.field("grant_type").as_deref() != Some("refresh_token") {
        return None;
    }
    let given = json!({ "access_token": "opaque", "token_type": "Bearer", "expires_in": 60 });
    Some(match mood {
        Mood::Slow => Reply::json(200, &given).after(Duration::from_millis(500)),
        Mood::Bad(status, kind, body) => Reply::text(*status, kind, *body),
        Mood::Well(..) | Mood::Made(..) => {
            let mut given = given;
            let issuer = format!("http://{}", seen.header("host").unwrap_or_default());
            let mut id_token = json!({
                "iss": issuer, "sub": "alice", "aud": "facade", "iat": now(), "exp": now() + 300, "tenant": "acme",
                "groups": [],
            });
            match mood {
                Mood::Well(subject, groups) => (id_token["sub"], id_token["groups"]) = (json!(subject), json!(groups)),
                Mood::Made(audience, party) => (id_token["aud"], id_token["azp"]) = (json!(audience), json!(party)),
                Mood::Slow | Mood::Bad(..) => {}
            }
            given["id_token"] = json!(pen.lock().id_token(&id_token, Signature::Own));
            given["refresh_token"] = json!(format!("after {}", seen.field("refresh_token").unwrap()).replace(' ', "-"));
            Reply::json(200, &given)
        }
    })
}

fn text<'a>(given: &'a Value, member: &str) -> &'a str {
    given[member].as_str().unwrap()
}

fn shown(ground: &Ground) -> Vec<String> {
    ground.provider.asked().iter().filter_map(|seen| seen.field("refresh_token")).collect()
}

#[track_caller]
fn unavailable(answer: &Answer) {
    assert_eq!((answer.status(), code_of(answer).as_str()), (503, "login_unavailable"), "{}", answer.text());
    assert_eq!(answer.json()["error"], "temporarily_unavailable");
    assert!(answer.header("retry-after").is_some());
}

#[test]
fn who_is_gone_at_the_provider_gets_nothing_more_and_loses_what_they_have() {
    let (ground, mood) = ground("facade-gone");
    *mood.lock() = Mood::Well("alice", vec!["sales"]);
    let (client, given) = ground.logged_in("alice");
    assert_eq!(claims_of(text(&given, "access_token"))["groups"], json!(["engineering"]));
    let second = ground.refresh(&client, text(&given, "refresh_token")).json();
    let claims = claims_of(text(&second, "access_token"));
    assert_eq!((&claims["groups"], &claims["acr"]), (&json!(["sales"]), &json!("silver")), "what has changed is known");
    assert!(claims["auth_time"].is_u64());
    let third = ground.refresh(&client, text(&second, "refresh_token")).json();
    assert_eq!(shown(&ground), ["kept", "after-kept"], "the provider's own tokens rotate, too");
    ground.serves(text(&third, "access_token"));

    *mood.lock() = Mood::Bad(400, "application/json", r#"{"error":"invalid_grant","error_description":"disabled"}"#);
    let refused = ground.refresh(&client, text(&third, "refresh_token"));
    assert_eq!((refused.status(), code_of(&refused).as_str()), (400, "grant_revoked"), "{}", refused.text());
    assert_eq!(refused.json()["error"], "invalid_grant");
    assert!(!refused.text().contains("disabled"), "what the provider says is for the journal: {}", refused.text());
    ground.ends(text(&third, "access_token"));
    *mood.lock() = Mood::Well("alice", vec!["sales"]);
    assert_eq!(code_of(&ground.refresh(&client, text(&third, "refresh_token"))), "code_invalid");
    let refusals = ground.gateway.recorded("refusal", 1);
    let of = |refusal: &&Value| refusal["refused"]["code"] == "grant_revoked";
    let why = refusals.iter().find(of).map(|refusal| refusal["refused"]["reason"].clone());
    assert_eq!(why, Some(json!("invalid_grant: disabled")), "{refusals:?}");
    let revocation = ground.gateway.recorded("revocation", 1).remove(0);
    assert_eq!(revocation["revocation"]["why"], "the provider does not vouch for its login any more");
}

#[test]
fn while_the_provider_cannot_be_asked_nothing_is_given_and_nothing_ends() {
    let (ground, mood) = ground("facade-unasked");
    let (client, given) = ground.logged_in("alice");
    let token = text(&given, "refresh_token");
    let html = "text/html";
    for bad in [
        Mood::Bad(500, "application/json", "{}"),
        Mood::Bad(200, html, "<html>"),
        Mood::Bad(200, "application/json", "{\"access_token\":7}"),
        Mood::Bad(401, "application/json", r#"{"error":"invalid_client"}"#),
        Mood::Bad(400, "application/json", r#"{"error":"unauthorized_client"}"#),
        Mood::Bad(429, "application/json", "{}"),
    ] {
        *mood.lock() = bad;
        unavailable(&ground.refresh(&client, token));
    }
    ground.serves(text(&given, "access_token"));
    ground.recorded_refusal("login_unavailable");
    *mood.lock() = Mood::Well("alice", vec!["engineering"]);
    let answer = ground.refresh(&client, token);
    assert_eq!(answer.status(), 200, "{}", answer.text());
    assert!(shown(&ground).iter().all(|shown| shown == "kept"), "none was used up");
}

#[test]
fn an_assertion_that_came_to_nothing_may_come_again_and_so_many_in_a_minute() {
    let (ground, mood) = ground("facade-unasked-signed");
    let key = Prover::new();
    let client = ground.signing_client(&key);
    let code = ground.code(&client, "alice");
    let redeeming = [("grant_type", "authorization_code"), ("code", code.as_str()), ("code_verifier", VERIFIER)];
    let sign = || key.sign(&header("0"), &claims(&client, &ground.origin()));
    let mut given = ground.ask_signed(&sign(), &redeeming).json();
    *mood.lock() = Mood::Bad(500, "application/json", "{}");
    let assertion = sign();
    let refresh = |assertion: &str, given: &Value| {
        ground
            .ask_signed(assertion, &[("grant_type", "refresh_token"), ("refresh_token", text(given, "refresh_token"))])
    };
    unavailable(&refresh(&assertion, &given));
    *mood.lock() = Mood::Well("alice", vec!["engineering"]);
    let answer = refresh(&assertion, &given);
    assert_eq!(answer.status(), 200, "{}", answer.text());
    given = answer.json();
    assert_eq!(code_of(&refresh(&assertion, &given)), "client_invalid", "shown before");

    let (mut turns, mut answer) = (0, answer);
    while answer.status() == 200 && turns < 600 {
        given = answer.json();
        answer = refresh(&sign(), &given);
        turns += 1;
    }
    assert_eq!(code_of(&answer), "ceiling_reached", "{turns}: {}", answer.text());
    assert!(turns > 50, "{turns}");
    let (other, given) = ground.logged_in("alice");
    assert_eq!(ground.refresh(&other, text(&given, "refresh_token")).status(), 200, "another client of hers");
}

#[test]
fn the_login_stays_the_same_person_s() {
    let (ground, mood) = ground("facade-other-person");
    *mood.lock() = Mood::Well("mallory", vec!["admins"]);
    let (client, given) = ground.logged_in("alice");
    let refused = ground.refresh(&client, text(&given, "refresh_token"));
    assert_eq!((refused.status(), code_of(&refused).as_str()), (400, "grant_revoked"), "{}", refused.text());
    ground.ends(text(&given, "access_token"));
}

#[test]
fn an_id_token_that_was_given_to_somebody_else_says_nothing_of_the_login() {
    let (ground, mood) = ground("facade-other-party");
    let (client, given) = ground.logged_in("alice");
    let token = text(&given, "refresh_token");
    for (audience, party) in [
        (vec!["facade"], Some("another")),
        (vec!["facade", "another"], Some("another")),
        (vec!["facade", "another"], None),
        (vec!["another"], None),
    ] {
        *mood.lock() = Mood::Made(audience, party);
        unavailable(&ground.refresh(&client, token));
    }
    *mood.lock() = Mood::Made(vec!["facade", "another"], Some("facade"));
    let answer = ground.refresh(&client, token);
    assert_eq!(answer.status(), 200, "{}", answer.text());
}

#[test]
fn who_has_a_machine_s_name_by_now_goes_on_no_more() {
    let ground = Ground::new("facade-name-taken");
    let (client, given) = ground.logged_in("alice");
    let machine = "[[facade.clients]]\nid = \"alice\"\nsecret = { env = \"ROBOT_SECRET\" }\nscopes = []";
    ground.gateway.reconfigure(|text| format!("{text}\n{machine}\n"));
    let fields = [("grant_type", "client_credentials"), ("client_id", "alice"), ("resource", &ground.resource())];
    let secret = ("client_secret", "robot secret: with odd/characters");
    assert_eq!(ground.token(&[fields.as_slice(), &[secret]].concat()).status(), 200);
    let refused = ground.refresh(&client, text(&given, "refresh_token"));
    assert_eq!((refused.status(), code_of(&refused).as_str()), (400, "code_invalid"), "{}", refused.text());
}

/// A provider that takes back what it gave.
fn forgiving() -> Issuer {
    Issuer::scripted(taking_back)
}

fn taking_back(seen: &Seen) -> Option<Reply> {
    let issuer = format!("http://{}", seen.header("host").unwrap_or_default());
    let at = |path: &str| format!("{issuer}{path}");
    if seen.path == "/revoke" {
        return Some(Reply::status(200));
    }
    let metadata = json!({
        "issuer": issuer, "jwks_uri": at("/jwks"), "token_endpoint": at("/token"), "authorization_endpoint": at("/auth"),
        "revocation_endpoint": at("/revoke"), "response_types_supported": ["code"],
        "code_challenge_methods_supported": ["S256"],
        "token_endpoint_auth_methods_supported": ["client_secret_basic"],
    });
    seen.path.starts_with("/.well-known/").then(|| Reply::json(200, &metadata))
}

/// What a provider gives for the code of a login: an ID token for so many seconds, and this refresh token.
fn login(seen: &Seen, pen: &Mutex<Pen>, (life_s, refresh_token): (u64, Option<&str>)) -> Option<Reply> {
    let login = seen.path == "/token" && seen.field("grant_type").as_deref() == Some("authorization_code");
    let code = login.then(|| seen.field("code").unwrap_or_default())?;
    let asked = claims_of(&format!("x.{code}.x"));
    let claims = json!({
        "iss": format!("http://{}", seen.header("host").unwrap_or_default()), "sub": asked["login_hint"], "aud": "facade",
        "nonce": asked["nonce"], "iat": now(), "exp": now() + life_s,
    });
    let id_token = pen.lock().id_token(&claims, Signature::Own);
    let mut given = json!({ "access_token": "opaque", "token_type": "Bearer", "id_token": id_token });
    if let Some(token) = refresh_token {
        given["refresh_token"] = json!(token);
    }
    Some(Reply::json(200, &given))
}

#[test]
fn of_a_login_that_comes_to_nothing_nothing_is_left_at_the_provider() {
    let ground = Ground::with("facade-disowned", forgiving(), "logins_per_day = 1");
    let (client, given) = ground.logged_in("alice");
    let login = |user: &str| {
        let page = ground.page(&client, CALLBACK, &[("login_hint", user)]);
        parameter(&Browser::default().agree(&page, CALLBACK), "error")
    };
    assert_eq!(login("alice").as_deref(), Some("temporarily_unavailable"), "one a day");
    assert_eq!(login("robot").as_deref(), Some("access_denied"), "a machine's name");
    let revoked = || ground.provider.recorder().seen_path("/revoke");
    let asked = place::wait_for("the revocation", place::PATIENCE, || revoked().pop());
    assert_eq!(asked.field("token").as_deref(), Some("kept"));
    assert_eq!(revoked().len(), 1, "who is logged in otherwise stays so");
    assert!(given["refresh_token"].is_string());
}

#[test]
fn of_a_login_that_cannot_be_kept_nothing_is_left_at_the_provider() {
    let (provider, partner, upstream) = (forgiving(), Issuer::good(), Recorder::good(Era::Modern));
    let setup = setup("facade-unkept", &provider, &partner, &upstream, "");
    let folder = setup.folder().join("state");
    let gateway = setup.section(&format!("[state]\ndirectory = \"{}\"", folder.display())).start();
    let ground = Ground { provider, partner, upstream, gateway };
    let client = ground.registered(CALLBACK);
    let damage = |how: &str| rusqlite::Connection::open(folder.join("state.db")).unwrap().execute_batch(how).unwrap();
    let unkept = |who: &str, place: &str| {
        let page = ground.page(&client, CALLBACK, &[("login_hint", who)]);
        damage(&format!(
            "CREATE TRIGGER full BEFORE INSERT ON kept WHEN NEW.place = '{place}' \
             BEGIN SELECT RAISE(ABORT, 'no room'); END"
        ));
        let back = Browser::default().agree(&page, CALLBACK);
        assert_eq!(parameter(&back, "error").as_deref(), Some("temporarily_unavailable"), "{back}");
        damage("DROP TRIGGER full");
    };
    let revoked = || ground.provider.recorder().seen_path("/revoke").len();
    for (count, place) in ["login", "token"].into_iter().enumerate() {
        unkept("alice", place);
        place::wait_for("the revocation", place::PATIENCE, || (revoked() > count).then_some(()));
    }
    let (_, given) = ground.logged_in("alice");
    unkept("alice", "login");
    // What comes to nothing after that is told, and would be after what must not be.
    unkept("bob", "login");
    place::wait_for("the revocation", place::PATIENCE, || (revoked() > 2).then_some(()));
    assert_eq!(revoked(), 3, "who is logged in otherwise stays so");
    ground.serves(text(&given, "access_token"));
}

/// The login of a person whose browser has gone before the provider answers.
#[test]
fn of_a_login_that_comes_to_nothing_nothing_is_left_though_the_page_was_closed() {
    let gone = Arc::<AtomicUsize>::default();
    let held = Arc::clone(&gone);
    let provider = Issuer::signing(move |seen, pen| {
        taking_back(seen).or_else(|| Some(login(seen, pen, (300, Some("kept")))?.step(Step::until(&held, 1))))
    });
    let ground = Ground::with("facade-closed", provider, "");
    let client = ground.registered(CALLBACK);
    let (mut browser, back) = (Browser::default(), format!("{}/callback", ground.origin()));
    let page = browser.go(&ground.page(&client, CALLBACK, &[("login_hint", "robot")]), CALLBACK);
    let landing = browser.press(&page, "allow", &back);
    let at = back_of(&landing);
    let connection = begin("GET", at.as_str(), &[("Cookie", &browser.cookies(at))], b"");
    let asked = || (!ground.provider.asked().is_empty()).then_some(());
    place::wait_for("the code", place::PATIENCE, asked);
    drop(connection);
    ground.gateway.deserted();
    gone.store(1, Ordering::Release);
    let revoked = || ground.provider.recorder().seen_path("/revoke").pop();
    let revoked = place::wait_for("the revocation", place::PATIENCE, revoked);
    assert_eq!(revoked.field("token").as_deref(), Some("kept"));
    ground.recorded_refusal("login_failed");
}

/// Not every login leaves a refresh token of the provider; those of before stay good.
#[test]
fn a_login_that_comes_to_nothing_ends_none_of_before() {
    let logins = AtomicUsize::default();
    let provider = Issuer::signing(move |seen, pen| {
        taking_back(seen).or_else(|| {
            let usual = login(seen, pen, (300, Some("kept")))?;
            let second = logins.fetch_add(1, Ordering::AcqRel) == 1;
            if second { login(seen, pen, (8, None)) } else { Some(usual) }
        })
    });
    let ground = Ground::with("facade-others-stay", provider, "logins_per_day = 2");
    let (client, given) = ground.logged_in("alice");
    ground.logged_in("alice");
    let over = now() + 8;
    place::wait_for("the end of the second", place::PATIENCE, || (now() > over).then_some(()));
    let page = ground.page(&client, CALLBACK, &[("login_hint", "alice")]);
    let back = Browser::default().agree(&page, CALLBACK);
    assert_eq!(parameter(&back, "error").as_deref(), Some("temporarily_unavailable"), "{back}");
    assert!(ground.provider.recorder().seen_path("/revoke").is_empty(), "the first might end with it");
    assert_eq!(ground.refresh(&client, text(&given, "refresh_token")).status(), 200);
}

#[test]
fn of_two_that_come_with_one_refresh_token_one_asks_the_provider() {
    let (ground, _mood) = ground("facade-renewal-race");
    let (client, given) = ground.logged_in("alice");
    let token = text(&given, "refresh_token");
    let codes: Vec<(u16, String)> = thread::scope(|scope| {
        let askers: Vec<_> = (0..4).map(|_| scope.spawn(|| ground.refresh(&client, token))).collect();
        askers
            .into_iter()
            .map(|asker| asker.join().unwrap())
            .map(|answer| (answer.status(), code_of(&answer)))
            .collect()
    });
    assert_eq!(codes.iter().filter(|(status, _)| *status == 200).count(), 1, "{codes:?}");
    let others = |code: &str| ["login_unavailable", "code_reused", "code_invalid"].contains(&code);
    assert!(codes.iter().all(|(status, code)| *status == 200 || others(code)), "{codes:?}");
    assert_eq!(shown(&ground), ["kept"]);
}

#[test]
fn a_login_that_nobody_can_be_asked_about_has_a_bound_of_its_own() {
    let provider = Issuer::signing(|seen, pen| login(seen, pen, (300, None)));
    let ground = Ground::with("facade-unasked-bound", provider, "login_unasked_s = 0");
    let (_, given) = ground.logged_in("alice");
    assert_eq!(given["refresh_token"], Value::Null, "none where it would be good for nothing: {given}");
    ground.serves(text(&given, "access_token"));
}
