//! What a client gives back is good no more (RFC 7009).

use std::net::IpAddr;

use serde_json::Value;

use super::{CALLBACK, Ground, code_of, revoked::ground};
use crate::harness::{
    http::{fetch, fetch_from, form},
    issuer::claims_of,
};

fn text<'a>(given: &'a Value, member: &str) -> &'a str {
    given[member].as_str().unwrap()
}

impl Ground {
    #[track_caller]
    fn give_back(&self, client: &str, token: &str) {
        let answer = self.post("/revoke", &[], &[("client_id", client), ("token", token)]);
        assert_eq!((answer.status(), answer.text().as_str()), (200, ""));
    }
}

#[test]
fn a_refresh_token_takes_its_login_with_it_and_an_access_token_goes_alone() {
    let ground = Ground::new("facade-given-back");
    let metadata = fetch("GET", &format!("{}/.well-known/oauth-authorization-server", ground.origin()), &[], b"");
    assert_eq!(metadata.json()["revocation_endpoint"], format!("{}/revoke", ground.origin()));
    let ((client, given), (other, theirs)) = (ground.logged_in("alice"), ground.logged_in("alice"));
    let next = ground.refresh(&client, text(&given, "refresh_token")).json();
    for token in [&given, &next, &theirs] {
        ground.serves(text(token, "access_token"));
    }
    ground.give_back(&client, text(&given, "access_token"));
    ground.ends(text(&given, "access_token"));
    ground.serves(text(&next, "access_token"));
    ground.give_back(&client, text(&next, "refresh_token"));
    ground.ends(text(&next, "access_token"));
    let refresh = ground.refresh(&client, text(&next, "refresh_token"));
    assert_eq!((refresh.status(), code_of(&refresh).as_str()), (400, "code_invalid"), "{}", refresh.text());
    ground.serves(text(&theirs, "access_token"));
    assert_eq!(ground.refresh(&other, text(&theirs, "refresh_token")).status(), 200, "another login stays");

    let revocations = ground.gateway.recorded("revocation", 2);
    let begun = revocations.iter().find(|one| one["revocation"]["state"] == "in_force").unwrap();
    assert_eq!(begun["revocation"]["name"], claims_of(text(&given, "access_token"))["jti"]);
    assert_eq!(begun["revocation"]["by"], format!("client {client}"));
}

#[test]
fn what_comes_twice_is_one_revocation_and_many_are_their_own_trouble() {
    let ground = ground("facade-given-back-often");
    let (client, given) = ground.logged_in("alice");
    // Strangers, from many addresses.
    let fields = form(&[("client_id", "nobody"), ("token", "x")]);
    let headers = [("Content-Type", "application/x-www-form-urlencoded")];
    let address = format!("{}/revoke", ground.origin());
    let mut refused = (1..=12).flat_map(|site| [site; 50]).map(|site| {
        fetch_from(IpAddr::from([127, 0, 1, site]), "POST", &address, &headers, fields.as_bytes()).status()
    });
    assert!(refused.all(|status| status == 401));
    for _ in 0..3 {
        ground.give_back(&client, text(&given, "access_token"));
    }
    assert_eq!(ground.revoke(&["list", "--json"]).lines().count(), 1);

    let robot = [("client_id", "robot"), ("client_secret", "robot secret: with odd/characters")];
    let resource = ground.resource();
    let asks = [&robot[..], &[("grant_type", "client_credentials"), ("resource", &resource)]].concat();
    let give_back = || {
        let token = ground.token(&asks).json()["access_token"].as_str().unwrap().to_owned();
        ground.post("/revoke", &[], &[&robot[..], &[("token", &token)]].concat())
    };
    assert!((0..50).all(|_| give_back().status() == 200));
    let refused = (0..400).map(|_| give_back()).find(|answer| answer.status() != 200).unwrap();
    assert_eq!(code_of(&refused), "ceiling_reached", "{}", refused.text());
    ground.give_back(&client, text(&given, "refresh_token"));
}

#[test]
fn nobody_gives_back_what_is_another_s_and_what_is_none_is_gone() {
    let ground = Ground::new("facade-given-back-refused");
    let ((client, given), other) = (ground.logged_in("alice"), ground.registered(CALLBACK));
    for token in [text(&given, "refresh_token"), text(&given, "access_token")] {
        let answer = ground.post("/revoke", &[], &[("client_id", &other), ("token", token)]);
        assert_eq!((answer.status(), code_of(&answer).as_str()), (400, "code_invalid"), "{}", answer.text());
        let secret = ground.post("/revoke", &[], &[("client_id", "robot"), ("token", token)]);
        assert_eq!((secret.status(), code_of(&secret).as_str()), (401, "client_invalid"), "{}", secret.text());
    }
    let elsewhere = ground.provider.token("alice", &ground.resource());
    let unknown = format!("{}.{}", "a".repeat(43), "b".repeat(43));
    for token in ["nonsense", "a.b", &elsewhere, &unknown] {
        ground.give_back(&client, token);
    }
    let missing = ground.post("/revoke", &[], &[("client_id", &client)]);
    assert_eq!(code_of(&missing), "authorization_invalid");
    ground.serves(text(&given, "access_token"));
    assert_eq!(ground.refresh(&client, text(&given, "refresh_token")).status(), 200);
    assert_eq!(fetch("GET", &format!("{}/revoke", ground.origin()), &[], b"").status(), 405);
}
