//! What an operator sees of clients and consents, and takes away.

use std::process::Output;

use serde_json::{Value, json};

use super::{CALLBACK, Ground, code_of, page_of, revoked::ground};
use crate::harness::{
    gateway::tollgate,
    http::fetch,
    login::{Browser, Landing},
};

const WEB: &str = "https://app.example/callback";

impl Ground {
    fn operator(&self, words: &str) -> Output {
        let file = self.gateway.setup().folder().join("upstreams.toml");
        let words: Vec<&str> = words.split(' ').collect();
        tollgate(&words).arg("--config").arg(file).output().unwrap()
    }

    /// What the command prints, line by line.
    #[track_caller]
    fn told(&self, words: &str) -> Vec<Value> {
        let output = self.operator(words);
        assert!(output.status.success(), "{words}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

fn text<'a>(given: &'a Value, member: &str) -> &'a str {
    given[member].as_str().unwrap()
}

#[test]
fn a_client_that_is_removed_is_nobody_with_all_that_it_was_given() {
    let ground = ground("facade-clients-removed");
    let ((client, given), (stays, others)) = (ground.logged_in("alice"), ground.logged_in("alice"));
    ground.serves(text(&given, "access_token"));
    let unused = ground.registered(WEB);
    let clients = ground.told("clients list --json");
    let of = |id: &str| clients.iter().find(|client| client["id"] == id).unwrap();
    assert_eq!(clients.len(), 3, "{clients:?}");
    assert_eq!((&of(&client)["used"], &of(&client)["name"]), (&json!(true), &json!("Test client")));
    assert_eq!((&of(&unused)["used"], &of(&unused)["redirect_uris"]), (&json!(false), &json!([WEB])));
    let shown = ground.told(&format!("clients show {client} --json")).remove(0);
    assert_eq!(shown["consents"][0]["user"], "alice", "{shown}");
    assert_eq!(shown["consents"][0]["scopes"], json!(["tools:read"]));
    let plain = ground.operator("clients list");
    assert!(String::from_utf8_lossy(&plain.stdout).contains("Test client: last used"));

    ground.told(&format!("clients remove {client} --json"));
    ground.ends(text(&given, "access_token"));
    let refresh = ground.refresh(&client, text(&given, "refresh_token"));
    assert_eq!((refresh.status(), code_of(&refresh).as_str()), (401, "client_invalid"), "{}", refresh.text());
    let page = fetch("GET", &ground.page(&client, CALLBACK, &[]), &[], b"");
    assert_eq!(code_of(&page), "client_invalid");
    assert!(ground.told(&format!("consents list --client {client} --json")).is_empty());
    ground.serves(text(&others, "access_token"));
    assert_eq!(ground.refresh(&stays, text(&others, "refresh_token")).status(), 200, "another client stays");
    let revocations = ground.gateway.recorded("revocation", 2);
    let of = |one: &&Value| one["revocation"]["kind"] == "agent" && one["revocation"]["name"] == client.as_str();
    let begun = revocations.iter().find(of).unwrap();
    assert_eq!(begun["revocation"]["why"], "the client's registration is removed");
    assert!(begun["revocation"]["by"].is_string());
    for gone in [format!("clients remove {client}"), "clients show robot".to_owned(), "clients remove robot".to_owned()]
    {
        assert_eq!(ground.operator(&gone).status.code(), Some(1), "{gone}");
    }
}

#[test]
fn a_client_that_is_removed_does_not_come_back_through_an_open_login() {
    let ground = ground("facade-clients-open-login");
    let client = ground.registered(CALLBACK);
    let mut browser = Browser::default();
    let page = browser.go(&ground.page(&client, CALLBACK, &[("login_hint", "alice")]), CALLBACK);
    let Landing::Back(provider) = browser.press(&page, "allow", &ground.provider.url()) else {
        panic!("the provider was not asked")
    };
    ground.told(&format!("clients remove {client} --json"));
    let landing = browser.go(provider.as_str(), CALLBACK);
    assert_eq!(code_of(page_of(&landing)), "client_invalid");
    ground.recorded_refusal("client_invalid");
    assert!(ground.told("clients list --json").is_empty());
    assert!(ground.told("consents list --json").is_empty(), "nobody agreed for a client that is none");
    assert_eq!(ground.operator(&format!("clients remove {client}")).status.code(), Some(1), "nothing is left");
}

#[test]
fn a_consent_that_is_taken_back_ends_what_was_given_under_it() {
    let ground = ground("facade-consents-removed");
    let client = ground.registered(WEB);
    let mut browser = Browser::default();
    let page = |user: &str| ground.page(&client, WEB, &[("login_hint", user)]);
    browser.agree(&page("alice"), WEB);
    let spared = browser.go(&page("alice"), WEB);
    assert!(matches!(spared, Landing::Back(_)), "who agreed is not asked again: {spared:?}");
    let ((local, given), (_, bobs)) = (ground.logged_in("alice"), ground.logged_in("bob"));
    ground.serves(text(&given, "access_token"));
    assert_eq!(ground.told("consents list --json").len(), 3);
    let alices = ground.told("consents list --user alice --json");
    assert_eq!((alices.len(), &alices[0]["user"]), (2, &json!("alice")));

    let removed = ground.told(&format!("consents remove --user alice --client {client} --json")).remove(0);
    assert_eq!(removed["consents"], 1);
    page_of(&browser.go(&page("alice"), WEB));
    ground.serves(text(&given, "access_token"));
    ground.told(&format!("consents remove --user alice --client {local} --json"));
    ground.ends(text(&given, "access_token"));
    assert_eq!(code_of(&ground.refresh(&local, text(&given, "refresh_token"))), "code_invalid");
    ground.serves(text(&bobs, "access_token"));
    assert_eq!(ground.told("consents list --json").len(), 1);
    assert_eq!(ground.operator("consents remove --user alice").status.code(), Some(1), "there is none any more");
    assert_eq!(ground.operator("consents remove").status.code(), Some(2), "whose?");
    let without = Ground::new("facade-registry-unkept");
    assert_eq!(without.operator("clients list").status.code(), Some(2), "nothing is kept");
}
