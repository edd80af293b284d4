//! What was granted here and revoked since gives nothing any more, and takes with it what came of it.

use std::{process::Output, time::Duration};

use serde_json::{Value, json};

use super::{
    Ground,
    assertions::{claims, redeem, signed},
    code_of,
};
use crate::harness::{
    gateway::tollgate,
    http::Answer,
    issuer::{Issuer, claims_of, now},
    place,
    recorder::{Era, Recorder},
};

/// A second to be in force, and what a loaded machine needs.
const BOUND: Duration = Duration::from_secs(30);

/// With a folder, as `tollgate revoke` wants one.
pub(super) fn ground(name: &str) -> Ground {
    let (provider, partner, upstream) = (Issuer::good(), Issuer::good(), Recorder::good(Era::Modern));
    let setup = super::setup(name, &provider, &partner, &upstream, "");
    let folder = setup.folder().join("state");
    let gateway = setup.section(&format!("[state]\ndirectory = \"{}\"", folder.display())).start();
    Ground { provider, partner, upstream, gateway }
}

impl Ground {
    #[track_caller]
    pub(super) fn revoke(&self, arguments: &[&str]) -> String {
        let file = self.gateway.setup().folder().join("upstreams.toml");
        let output: Output = tollgate(&["revoke"]).args(arguments).arg("--config").arg(file).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    fn call(&self, token: &str) -> Answer {
        self.gateway.client(Some("up")).token(token).call("echo", &json!({}))
    }

    #[track_caller]
    pub(super) fn ends(&self, token: &str) {
        let answer = place::wait_for("the token's end", BOUND, || {
            let answer = self.call(token);
            // A call that was under way at that moment ends with it.
            let met = answer.status() == 200 || answer.json()["error"]["data"]["code"] == "outcome_unknown";
            (!met).then_some(answer)
        });
        assert_eq!(answer.json()["error"]["data"]["code"], "token_revoked", "{}", answer.text());
    }
}

fn text<'a>(given: &'a Value, member: &str) -> &'a str {
    given[member].as_str().unwrap()
}

#[track_caller]
fn is_revoked(answer: &Answer) {
    assert_eq!((answer.status(), code_of(answer).as_str()), (400, "grant_revoked"), "{}", answer.text());
    assert_eq!(answer.json()["error"], "invalid_grant");
}

#[test]
fn what_somebody_was_granted_before_gives_nothing_after() {
    let ground = ground("facade-revoked");
    let ((client, given), (others, bobs)) = (ground.logged_in("alice"), ground.logged_in("bob"));
    let code = ground.code(&client, "alice");
    ground.serves(text(&given, "access_token"));
    ground.revoke(&["user", "alice", "--why", "INC-7"]);
    ground.ends(text(&given, "access_token"));
    is_revoked(&ground.refresh(&client, text(&given, "refresh_token")));
    is_revoked(&ground.redeem(&client, &code));
    let again = ground.refresh(&client, text(&given, "refresh_token"));
    assert_eq!(code_of(&again), "code_invalid", "nothing leads there any more");
    let refusals = ground.gateway.recorded("refusal", 2);
    let of = |refusal: &&Value| refusal["refused"]["code"] == "grant_revoked";
    let reason = refusals.iter().find(of).unwrap()["refused"]["reason"].as_str().unwrap().to_owned();
    assert!(reason.contains("user `alice`: INC-7"), "{reason}");

    let bobs = ground.refresh(&others, text(&bobs, "refresh_token"));
    assert_eq!(bobs.status(), 200, "{}", bobs.text());
    ground.serves(text(&bobs.json(), "access_token"));
    // A token says in whole seconds when it was issued.
    std::thread::sleep(Duration::from_millis(1_000));
    let (client, anew) = ground.logged_in("alice");
    ground.serves(text(&anew, "access_token"));
    assert_eq!(ground.refresh(&client, text(&anew, "refresh_token")).status(), 200);
    ground.revoke(&["tenant", "acme"]);
    ground.ends(text(&anew, "access_token"));
    is_revoked(&ground.refresh(&others, text(&bobs.json(), "refresh_token")));
}

#[test]
fn who_is_kept_out_gets_no_token_in_any_way() {
    let ground = ground("facade-blocked");
    let (client, given) = ground.logged_in("alice");
    let secret = "robot secret: with odd/characters";
    let fields = [("grant_type", "client_credentials"), ("client_id", "robot"), ("client_secret", secret)];
    let own = || ground.token(&fields);
    assert_eq!(own().status(), 200, "{}", own().text());
    ground.revoke(&["agent", &client, "--block"]);
    ground.revoke(&["agent", "robot", "--block"]);
    place::wait_for("the blocks", BOUND, || (own().status() != 200).then_some(()));
    is_revoked(&own());
    is_revoked(&ground.refresh(&client, text(&given, "refresh_token")));
    is_revoked(&ground.redeem(&client, &ground.code(&client, "alice")));
    let (other, given) = ground.logged_in("alice");
    assert_eq!(ground.refresh(&other, text(&given, "refresh_token")).status(), 200, "the client, not the person");
}

#[test]
fn a_code_or_refresh_token_that_comes_twice_takes_the_access_tokens_with_it() {
    let ground = Ground::new("facade-reuse-ends");
    let stays = ground.logged_in("alice").1;
    let client = ground.registered(super::CALLBACK);
    let code = ground.code(&client, "alice");
    let first = ground.redeem(&client, &code).json();
    let second = ground.refresh(&client, text(&first, "refresh_token")).json();
    let login = |given: &Value| claims_of(text(given, "access_token"))["sid"].as_str().unwrap().to_owned();
    assert_eq!(login(&first), login(&second));
    assert_ne!(login(&first), login(&stays));
    for given in [&first, &second] {
        ground.serves(text(given, "access_token"));
    }
    assert_eq!(code_of(&ground.redeem(&client, &code)), "code_reused");
    for given in [&first, &second] {
        ground.ends(text(given, "access_token"));
    }
    ground.serves(text(&stays, "access_token"));
    let (client, given) = ground.logged_in("bob");
    let next = ground.refresh(&client, text(&given, "refresh_token")).json();
    assert_eq!(code_of(&ground.refresh(&client, text(&given, "refresh_token"))), "code_reused");
    for given in [&given, &next] {
        ground.ends(text(given, "access_token"));
    }
    ground.serves(text(&stays, "access_token"));
    let revocations = ground.gateway.recorded("revocation", 2);
    assert_eq!(revocations[0]["revocation"]["kind"], "token");
}

#[test]
fn an_assertion_that_no_token_was_given_for_may_come_again_and_none_twice_that_one_was() {
    let ground = ground("facade-id-jag-failed");
    let assertion = || {
        let mut all = claims(&ground, &ground.partner);
        all["iat"] = json!(now() - 60);
        signed(&ground.partner, &all, "oauth-id-jag+jwt")
    };
    let name = format!("{} carol", ground.partner.url());
    let revocation: Value = serde_json::from_str(&ground.revoke(&["user", &name, "--json"])).unwrap();
    let refused = place::wait_for("the revocation", BOUND, || {
        let assertion = assertion();
        (redeem(&ground, &assertion).status() != 200).then_some(assertion)
    });
    is_revoked(&redeem(&ground, &refused));
    ground.revoke(&["lift", text(&revocation, "id")]);
    let answer = place::wait_for("the lifting", BOUND, || {
        let answer = redeem(&ground, &refused);
        (code_of(&answer) != "grant_revoked").then_some(answer)
    });
    assert_eq!(answer.status(), 200, "{}", answer.text());
    assert_eq!(code_of(&redeem(&ground, &refused)), "assertion_invalid", "once is enough");
}
