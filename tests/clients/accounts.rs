//! Real providers in two domains: an account at another's server, connected by the person whose agent asks, and an identity
//! assertion from the one that the other redeems.

use serde_json::{Value, json};

use crate::harness::{
    browser::Browser,
    gateway::{ALLOW_ALL, Setup},
    issuer::claims_of,
    login,
    mcp::Client,
    peer::{self, Peer},
    recorder::{Era, Recorder},
};

const SECRETS: [(&str, &str); 2] = [("GATEWAY_SECRET", "gateway-secret"), ("PAGES_SECRET", "pages-secret")];

fn client(id: &str, secret: &str) -> String {
    format!("{{ id = \"{id}\", secret = {{ env = \"{secret}\" }} }}")
}

fn callbacks(setup: &Setup) -> Vec<String> {
    ["login", "callback/up"].map(|page| format!("{}/connecting/{page}", setup.origin())).to_vec()
}

fn bearer(upstream: &Recorder) -> Value {
    let calls = upstream.seen_method("tools/call");
    let last = calls.last().and_then(|seen| seen.header("authorization")?.strip_prefix("Bearer ").map(claims_of));
    last.unwrap_or(Value::Null)
}

/// A gateway whose users are those of `home`, and log in there on its own pages.
fn granting(setup: Setup, home: &Peer, upstream: &Recorder, grant: &str) -> Setup {
    let pages = client("gateway-pages", "PAGES_SECRET");
    SECRETS
        .iter()
        .fold(setup, |setup, (name, value)| setup.environment(name, value))
        .issuer(&home.origin())
        .policy("allow.cedar", ALLOW_ALL)
        .section(&format!("[[logins]]\nissuer = \"{}\"\nclient = {pages}", home.origin()))
        .upstream("up", &upstream.url(), &format!("{grant}\ndiscovery = {{ strategy = \"none\" }}"))
}

/// The page that a call names.
#[track_caller]
fn page(client: &Client) -> String {
    let answer = client.call("echo", &json!({}));
    let url = &answer.json()["error"]["data"]["elicitations"][0]["url"];
    url.as_str().unwrap_or_else(|| panic!("no page: {}", answer.text())).to_owned()
}

#[test]
fn a_person_connects_an_account_at_a_real_server_of_another_domain() {
    let setup = Setup::new("accounts");
    let folder = setup.folder().to_owned();
    let home = peer::provider_with("home", &folder, &callbacks(&setup), &[]);
    let away = peer::provider_with("away", &folder, &callbacks(&setup), &[]);
    let upstream = Recorder::good(Era::Modern);
    let pages = client("gateway-pages", "PAGES_SECRET");
    let grant = format!(
        "grant = {{ strategy = \"user_grant\", issuer = \"{}\", client = {pages}, resource = \"{}\", scopes = [\"tools:call\"] }}",
        away.origin(),
        upstream.url()
    );
    let gateway = granting(setup, &home, &upstream, &grant).start();
    let endpoint = gateway.endpoint(Some("up"));
    let token = login::login(&home.origin(), "alice", &endpoint, "openid tools:call");
    let alice = gateway.client(Some("up")).token(&token).awaiting("echo");

    let mut browser = Browser::of("bob");
    let first = browser.get(&page(&alice));
    let refused = browser.press(&first);
    assert_eq!(refused.answer.status(), 403, "bob is not alice: {}", refused.answer.text());

    let mut browser = Browser::of("alice");
    let first = browser.get(&page(&alice));
    let asked = browser.press(&first);
    assert!(asked.answer.text().contains("You are <b>alice</b>"), "{} {}", asked.at, asked.answer.text());
    // At the other server the same person has another name.
    browser.user = "carol".to_owned();
    let done = browser.press(&asked);
    assert_eq!(done.answer.status(), 200, "{} {}", done.at, done.answer.text());
    assert_eq!(alice.call("echo", &json!({})).status(), 200);
    let shown = bearer(&upstream);
    assert_eq!((&shown["iss"], &shown["sub"]), (&json!(away.origin()), &json!("carol")), "{shown}");
    assert_eq!((&shown["aud"], &shown["scope"]), (&json!(upstream.url()), &json!("tools:call")));
    assert!(!upstream.saw_text(&token));
}

#[test]
fn an_assertion_of_one_domain_is_redeemed_in_the_other() {
    for subject in ["access_token", "id_token", "refresh_token"] {
        let setup = Setup::new(&format!("id-jag-{subject}"));
        let folder = setup.folder().to_owned();
        let home = peer::provider_with("home", &folder, &callbacks(&setup), &[]);
        let away = peer::provider_with("away", &folder, &callbacks(&setup), &[("TRUSTS", &home.origin())]);
        let upstream = Recorder::good(Era::Modern);
        let pages = client("gateway-pages", "PAGES_SECRET");
        let grant = format!(
            "grant = {{ strategy = \"id_jag\", subject = \"{subject}\", token_endpoint = \"{}/token\", client = {pages}, \
             issuer = \"{}\", issuer_client = {pages}, resource = \"{}\", scopes = [\"tools:read\"] }}",
            home.origin(),
            away.origin(),
            upstream.url()
        );
        let rules = "[[upstreams.up.tools]]\nmatch = \"erase\"\nmints = [\"tools:call\"]";
        let gateway = granting(setup, &home, &upstream, &grant).section(rules).start();
        let token =
            login::login(&home.origin(), "alice", &gateway.endpoint(Some("up")), "openid tools:read tools:call");
        let alice = gateway.client(Some("up")).token(&token).awaiting("echo");
        if subject != "access_token" {
            // A login at the gateway is what the provider makes assertions from.
            let mut browser = Browser::of("alice");
            let first = browser.get(&page(&alice));
            let done = browser.press(&first);
            assert!(done.answer.text().contains("<h1>Connected</h1>"), "{subject}: {}", done.answer.text());
        }
        for (tool, scope) in [("echo", "tools:read"), ("erase", "tools:read tools:call")] {
            let answer = alice.call(tool, &json!({}));
            assert_eq!(answer.status(), 200, "{subject} {tool}: {}", answer.text());
            let shown = bearer(&upstream);
            assert_eq!((&shown["iss"], &shown["sub"]), (&json!(away.origin()), &json!("alice")), "{subject}: {shown}");
            assert_eq!(shown["aud"], upstream.url());
            let mut given: Vec<&str> = shown["scope"].as_str().unwrap().split(' ').collect();
            given.sort_by_key(|scope| scope.ends_with("call"));
            assert_eq!(given.join(" "), scope, "{subject} {tool}");
        }
        // Redeemed once each: what came of it is kept, not the assertion.
        assert_eq!(alice.call("echo", &json!({})).status(), 200);
        assert!(!upstream.saw_text(&token));
        let grants = gateway.recorded("grant", 4);
        let strategies: Vec<&Value> = grants.iter().map(|record| &record["grant"]["strategy"]).collect();
        assert_eq!(strategies, ["assertion", "id_jag", "assertion", "id_jag"], "{subject}");
        assert!(grants.iter().all(|record| record["grant"]["audience"] == away.origin()), "{subject}: {grants:?}");
        assert!(
            !gateway.journal().iter().any(|record| record.to_string().contains("eyJ")),
            "a token is in the journal"
        );
    }
}
