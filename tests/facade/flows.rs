//! What clients get and people see, where all goes well.

use serde_json::{Value, json};

use super::{CALLBACK, Ground, back_of, page_of, parameter};
use crate::harness::{
    gateway::Setup,
    http::fetch,
    issuer::{Issuer, claims_of},
    login::Browser,
    recorder::{Era, Recorder},
};

#[test]
fn without_a_facade_no_route_of_it_exists() {
    let (issuer, upstream) = (Issuer::good(), Recorder::good(Era::Modern));
    let gateway = Setup::usual("no-facade", &issuer).open_upstream("up", &upstream.url()).start();
    for (method, path) in [
        ("GET", "/.well-known/oauth-authorization-server"),
        ("GET", "/jwks"),
        ("POST", "/register"),
        ("GET", "/authorize"),
        ("GET", "/callback"),
        ("POST", "/token"),
    ] {
        let answer = fetch(method, &format!("{}{path}", gateway.setup().origin()), &[], b"");
        assert_eq!(answer.status(), 404, "{path}");
        assert_eq!(answer.json()["error"]["data"]["code"], "route_unknown", "{path}");
    }
}

#[test]
fn the_metadata_say_what_is_served() {
    let ground = Ground::new("facade-metadata");
    let origin = ground.origin();
    let resource = fetch("GET", &format!("{origin}/.well-known/oauth-protected-resource/mcp/up"), &[], b"").json();
    assert_eq!(resource["authorization_servers"], json!([origin]));
    let metadata = fetch("GET", &format!("{origin}/.well-known/oauth-authorization-server"), &[], b"");
    assert_eq!(metadata.header("cache-control"), Some("no-store"));
    let metadata = metadata.json();
    assert_eq!(metadata["issuer"], origin);
    assert_eq!(metadata["code_challenge_methods_supported"], json!(["S256"]));
    assert_eq!(metadata["authorization_response_iss_parameter_supported"], true);
    assert_eq!(metadata["client_id_metadata_document_supported"], false, "no domain is trusted");
    assert_eq!(
        metadata["authorization_grant_profiles_supported"],
        json!(["urn:ietf:params:oauth:grant-profile:id-jag"])
    );
    assert_eq!(metadata["scopes_supported"], json!(["tools:read"]));
    let keys = fetch("GET", metadata["jwks_uri"].as_str().unwrap(), &[], b"").json();
    assert_eq!((keys["keys"].as_array().unwrap().len(), keys["keys"][0]["alg"].as_str()), (1, Some("ES256")));
    assert!(keys["keys"][0]["d"].is_null(), "no private part");
}

#[test]
fn a_person_agrees_and_the_client_gets_a_token_of_the_gateway() {
    let ground = Ground::new("facade-login");
    let client = ground.registered(CALLBACK);
    let mut browser = Browser::default();
    let landing = browser.go(&ground.page(&client, CALLBACK, &[("login_hint", "bob")]), CALLBACK);
    let page = page_of(&landing);
    let text = page.text();
    for shown in ["Test client", "127.0.0.1", "tools:read", &ground.resource(), "program on your computer"] {
        assert!(text.contains(shown), "{shown}: {text}");
    }
    assert!(!text.contains("<script"));
    let policy = page.header("content-security-policy").unwrap();
    assert!(policy.contains("default-src 'none'") && policy.contains("frame-ancestors 'none'"), "{policy}");
    let cookie = page.header("set-cookie").unwrap();
    assert!(cookie.starts_with("__Host-") && cookie.contains("Secure") && cookie.contains("HttpOnly"), "{cookie}");
    assert!(cookie.contains("SameSite=Lax") && cookie.contains("Path=/;") && !cookie.contains("Domain"), "{cookie}");
    assert!(ground.provider.recorder().seen_path("/auth").is_empty(), "nobody was sent there before agreeing");

    let landing = browser.press(&landing, "allow", CALLBACK);
    let back = back_of(&landing);
    assert_eq!(parameter(back, "state").as_deref(), Some("client-state"));
    assert_eq!(parameter(back, "iss"), Some(ground.origin()));
    let answer = ground.redeem(&client, &parameter(back, "code").unwrap());
    assert_eq!((answer.status(), answer.header("cache-control")), (200, Some("no-store")), "{}", answer.text());
    let given = answer.json();
    assert_eq!((&given["token_type"], &given["scope"]), (&json!("Bearer"), &json!("tools:read")));

    let token = given["access_token"].as_str().unwrap();
    let claims = claims_of(token);
    for (claim, value) in [
        ("iss", json!(ground.origin())),
        ("sub", json!("bob")),
        ("aud", json!(ground.resource())),
        ("client_id", json!(client)),
        ("tenant", json!("acme")),
        ("groups", json!(["engineering"])),
        ("acr", json!("silver")),
    ] {
        assert_eq!(claims[claim], value, "{claim}");
    }
    assert!(claims["auth_time"].is_u64() && claims["jti"].is_string());
    ground.serves(token);
    let intent = ground.gateway.recorded("intent", 1).remove(0);
    assert_eq!(intent["user"], json!({ "issuer": ground.origin(), "subject": "bob" }));
    assert_eq!(intent["agent"]["client_id"], client);
    let other = ground.gateway.client(None).token(token).call("up__echo", &json!({}));
    assert_eq!(other.status(), 401, "a token for one endpoint is none for the other");

    for (event, member, value) in [
        ("client", "name", json!("Test client")),
        ("consent", "scopes", json!(["tools:read"])),
        ("token", "grant_type", json!("authorization_code")),
    ] {
        let record = ground.gateway.recorded(event, 1).remove(0);
        assert_eq!(record["authorization"]["client_id"], client, "{record}");
        assert_eq!(record["authorization"][member], value, "{record}");
    }
    assert!(
        ground.gateway.metric("tollgate_facade_total{tollgate_outcome=\"token\"").is_some_and(|count| count >= 1.0)
    );
    let seen: Vec<u8> = ground.upstream.seen().iter().flat_map(|seen| seen.body.to_vec()).collect();
    assert!(!String::from_utf8_lossy(&seen).contains(token));
}

#[test]
fn a_refresh_token_gives_another_and_ends_with_that() {
    let ground = Ground::new("facade-refresh");
    let (client, given) = ground.logged_in("alice");
    let first = given["refresh_token"].as_str().unwrap();
    let answer = ground.refresh(&client, first);
    assert_eq!(answer.status(), 200, "{}", answer.text());
    let second = answer.json();
    assert_ne!(second["refresh_token"], first);
    assert_eq!(claims_of(second["access_token"].as_str().unwrap())["sub"], "alice");
    ground.serves(second["access_token"].as_str().unwrap());
}

#[test]
fn who_agreed_for_a_client_on_the_web_is_not_asked_again_and_nobody_else_is_spared() {
    let ground = Ground::new("facade-remembered");
    let web = "https://app.example/callback";
    let client = ground.registered(web);
    let mut browser = Browser::default();
    let page = |user: &str| ground.page(&client, web, &[("login_hint", user)]);
    let first = browser.agree(&page("alice"), web);
    assert!(parameter(&first, "code").is_some());
    let again = browser.go(&page("alice"), web);
    assert!(parameter(back_of(&again), "code").is_some(), "no page in between");

    // Bob at Alice's browser has agreed to nothing.
    let bob = browser.go(&page("bob"), web);
    assert_eq!(parameter(back_of(&bob), "error").as_deref(), Some("access_denied"));
    assert!(parameter(back_of(&bob), "code").is_none());
    // A new browser knows nobody.
    page_of(&Browser::default().go(&page("alice"), web));
    // More than was agreed to is asked again.
    let other = ground.page(&client, web, &[("resource", &ground.gateway.endpoint(None))]);
    page_of(&browser.go(&other, web));
    assert_eq!(ground.gateway.recorded("consent", 1).len(), 1);
}

#[test]
fn clients_of_2025_03_26_find_it_at_the_host_without_a_resource() {
    let ground = Ground::new("facade-legacy");
    let client = ground.registered(CALLBACK);
    let page = ground.page(&client, CALLBACK, &[("resource", "")]);
    let back = Browser::default().agree(&page, CALLBACK);
    let given = ground.redeem(&client, &parameter(&back, "code").unwrap()).json();
    assert_eq!(claims_of(given["access_token"].as_str().unwrap())["aud"], ground.gateway.endpoint(None));
}

#[test]
fn what_was_granted_outlives_the_process() {
    let (provider, partner, upstream) = (Issuer::good(), Issuer::good(), Recorder::good(Era::Modern));
    let setup = super::setup("facade-restart", &provider, &partner, &upstream, "");
    let folder = setup.folder().join("state");
    let gateway = setup.section(&format!("[state]\ndirectory = \"{}\"", folder.display())).start();
    let mut ground = Ground { provider, partner, upstream, gateway };
    let (client, given) = ground.logged_in("alice");
    let keys = |ground: &Ground| -> Value { fetch("GET", &format!("{}/jwks", ground.origin()), &[], b"").json() };
    let before = keys(&ground);
    ground.gateway.stop();
    ground = Ground { gateway: ground.gateway.again(), ..ground };
    assert_eq!(keys(&ground), before);
    ground.serves(given["access_token"].as_str().unwrap());
    let answer = ground.refresh(&client, given["refresh_token"].as_str().unwrap());
    assert_eq!(answer.status(), 200, "{}", answer.text());
    let kept = std::fs::read(folder.join("state.db")).unwrap();
    let token = given["refresh_token"].as_str().unwrap();
    assert!(!kept.windows(token.len()).any(|bytes| bytes == token.as_bytes()), "tokens are kept by digest");
}

#[test]
fn a_page_of_an_allowed_origin_may_register_and_ask_for_tokens() {
    let provider = Issuer::good();
    let (partner, upstream) = (Issuer::good(), Recorder::good(Era::Modern));
    let setup = super::setup("facade-cors", &provider, &partner, &upstream, "");
    let gateway = setup.gateway("allowed_origins = [\"https://inspector.example\"]").start();
    for path in ["/register", "/token", "/.well-known/oauth-authorization-server"] {
        let url = format!("{}{path}", gateway.setup().origin());
        let origin = ("Origin", "https://inspector.example");
        let asks = [origin, ("Access-Control-Request-Method", "POST")];
        let answer = fetch("OPTIONS", &url, &asks, b"");
        assert_eq!(answer.status(), 204, "{path}");
        assert_eq!(answer.header("access-control-allow-origin"), Some("https://inspector.example"), "{path}");
        let stranger = fetch("OPTIONS", &url, &[("Origin", "https://evil.example"), asks[1]], b"");
        assert_eq!(stranger.status(), 403, "{path}");
    }
}
