//! Does every credential get the answer that it should?

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use http::{HeaderMap, HeaderValue, Method, header};
use serde_json::{Value, json};

use super::{
    Audience, Authenticator, Caller, Shown,
    testing::{AUDIENCE, NOW, Server, Signer, b64, claims, ec, ed, issuer, rsa, senders},
    token,
};
use crate::{
    clock::{self, Timestamp},
    config::Endpoint,
    refusal::{Refusal, TokenFault},
};

const ISSUER: &str = "https://login.example";

fn bearer(token: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(header::AUTHORIZATION, HeaderValue::from_str(&format!("Bearer {token}")).unwrap());
    headers
}

fn audience(name: &str) -> Audience {
    Audience { name: name.to_owned(), forgiven: None }
}

fn shown<'a>(headers: &'a HeaderMap, query: Option<&'a str>) -> Shown<'a> {
    let (method, endpoint) = (&Method::POST, &Endpoint::Federated);
    Shown { headers, query, method, endpoint, slashed: false, certificate: None }
}

async fn ask(authenticator: &Authenticator, token: &str, now: Timestamp) -> Result<Caller, Refusal> {
    authenticator.authenticate(&shown(&bearer(token), None), &[audience(AUDIENCE)], now).await
}

async fn started(server: &Server) -> Authenticator {
    let authenticator = Authenticator::new(&[Arc::new(issuer(&server.url))], senders(None)).unwrap();
    authenticator.start();
    authenticator
}

/// What the checks before the signature say of a token with one claim changed.
fn changed(claim: &str, value: Value) -> Option<TokenFault> {
    let mut all = claims(ISSUER, NOW);
    if value == json!("absent") {
        all.as_object_mut().unwrap().remove(claim);
    } else {
        all[claim] = value;
    }
    checked(r#"{"alg":"ES256","kid":"k","typ":"at+jwt"}"#, &all.to_string())
}

fn checked(header: &str, claims: &str) -> Option<TokenFault> {
    let text = format!("{}.{}.AAAA", b64(header), b64(claims));
    judged(&text, &issuer(ISSUER))
}

fn judged(text: &str, issuer: &crate::config::Issuer) -> Option<TokenFault> {
    let judge = || {
        let presented = token::open(text)?;
        presented.issuer()?;
        presented.check(issuer, NOW)?;
        super::claims::identity(&presented.claims, issuer, presented.expires_at()?, text).map(drop)
    };
    judge().err()
}

#[test]
fn claims_are_judged_as_the_profile_says() {
    use TokenFault::{BindingUnknown, ClaimMalformed, Expired, LifetimeTooLong, NotYetValid};
    let now = NOW.unix_seconds();
    for (claim, value, expect) in [
        ("iss", json!("absent"), Some(ClaimMalformed("iss"))),
        ("iss", json!([ISSUER]), Some(ClaimMalformed("iss"))),
        ("aud", json!("absent"), Some(ClaimMalformed("aud"))),
        ("aud", json!(null), Some(ClaimMalformed("aud"))),
        ("aud", json!([]), Some(ClaimMalformed("aud"))),
        ("aud", json!([AUDIENCE, 5]), Some(ClaimMalformed("aud"))),
        ("aud", json!({ "a": AUDIENCE }), Some(ClaimMalformed("aud"))),
        ("aud", json!(["x", AUDIENCE]), None),
        ("sub", json!("absent"), Some(ClaimMalformed("sub"))),
        ("sub", json!(""), Some(ClaimMalformed("sub"))),
        ("sub", json!("a\nb"), Some(ClaimMalformed("sub"))),
        ("sub", json!("x".repeat(257)), Some(ClaimMalformed("sub"))),
        ("exp", json!("absent"), Some(ClaimMalformed("exp"))),
        ("exp", json!(now + 600).to_string().into(), Some(ClaimMalformed("exp"))),
        ("exp", json!(1_900_000_000.5), Some(ClaimMalformed("exp"))),
        ("exp", json!(-1), Some(ClaimMalformed("exp"))),
        ("exp", json!(now - 4), None),
        ("exp", json!(now - 5), Some(Expired)),
        ("exp", json!(now + 24 * 3600 + 1), Some(LifetimeTooLong)),
        ("exp", json!(u64::MAX), Some(LifetimeTooLong)),
        ("iat", json!("absent"), Some(ClaimMalformed("iat"))),
        ("iat", json!("soon"), Some(ClaimMalformed("iat"))),
        ("iat", json!(now + 6), Some(NotYetValid)),
        ("nbf", json!(now + 5), None),
        ("nbf", json!(now + 6), Some(NotYetValid)),
        ("nbf", json!("now"), Some(ClaimMalformed("nbf"))),
        ("cnf", json!(null), Some(ClaimMalformed("cnf"))),
        ("cnf", json!({}), Some(BindingUnknown)),
        ("cnf", json!({ "jkt": "x" }), Some(ClaimMalformed("cnf"))),
        ("cnf", json!({ "jkt": 7 }), Some(BindingUnknown)),
        ("cnf", json!({ "jkt": b64([1; 32]) }), None),
        ("cnf", json!({ "x5t#S256": b64([1; 32]) }), None),
        ("cnf", json!({ "x5t#S256": b64([1; 32]), "jkt": b64([1; 32]) }), Some(BindingUnknown)),
        ("cnf", json!({ "kid": b64([1; 32]) }), Some(BindingUnknown)),
        ("auth_time", json!("now"), Some(ClaimMalformed("auth_time"))),
        ("auth_time", json!(now - 60), None),
        ("may_act", json!("gateway"), Some(ClaimMalformed("may_act"))),
        ("may_act", json!({ "client_id": "gateway" }), Some(ClaimMalformed("may_act"))),
        ("may_act", json!({ "sub": "gateway" }), None),
        ("client_id", json!("absent"), Some(ClaimMalformed("client_id"))),
        ("client_id", json!(7), Some(ClaimMalformed("client_id"))),
        ("scope", json!(["crm:read"]), Some(ClaimMalformed("scope"))),
        ("scope", json!("crm:read\tcrm:write"), Some(ClaimMalformed("scope"))),
        ("scope", json!("absent"), None),
        ("groups", json!("sales"), Some(ClaimMalformed("groups"))),
        ("groups", json!([1]), Some(ClaimMalformed("groups"))),
        ("tid", json!(1), Some(ClaimMalformed("tenant"))),
        ("jti", json!(1), Some(ClaimMalformed("jti"))),
        ("act", json!("agent"), Some(ClaimMalformed("act"))),
        ("act", json!({ "sub": "a b" }), Some(ClaimMalformed("act"))),
        (
            "act",
            (0..9).fold(json!({ "sub": "x" }), |act, _| json!({ "sub": "x", "act": act })),
            Some(ClaimMalformed("act")),
        ),
        ("act", json!({ "sub": "agent" }), None),
        ("sub", json!("alice"), None),
    ] {
        let shown = value.to_string();
        assert_eq!(changed(claim, value), expect, "{claim}: {shown}");
    }
}

#[test]
fn headers_are_judged_as_the_profile_says() {
    use TokenFault::{AlgorithmNotAllowed, HeaderMalformed, Malformed, TypeMismatch};
    for (header, expect) in [
        (r#"{"alg":"ES256","typ":"at+jwt"}"#, None),
        (r#"{"alg":"ES256","typ":"application/AT+JWT"}"#, None),
        (
            r#"{"alg":"ES256","typ":"at+jwt","jku":"https://evil.example/","x5u":"https://evil.example/","jwk":{}}"#,
            None,
        ),
        (r#"{"alg":"none","typ":"at+jwt"}"#, Some(AlgorithmNotAllowed)),
        (r#"{"alg":"HS256","typ":"at+jwt"}"#, Some(AlgorithmNotAllowed)),
        (r#"{"alg":"es256","typ":"at+jwt"}"#, Some(AlgorithmNotAllowed)),
        (r#"{"alg":"PS256","typ":"at+jwt"}"#, Some(AlgorithmNotAllowed)),
        (r#"{"alg":"ES384","typ":"at+jwt"}"#, Some(AlgorithmNotAllowed)),
        (r#"{"typ":"at+jwt"}"#, Some(HeaderMalformed("alg"))),
        (r#"{"alg":["ES256"],"typ":"at+jwt"}"#, Some(HeaderMalformed("alg"))),
        (r#"{"alg":"ES256","typ":"at+jwt","crit":["b64"],"b64":false}"#, Some(HeaderMalformed("crit"))),
        (r#"{"alg":"ES256","typ":"at+jwt","crit":[]}"#, Some(HeaderMalformed("crit"))),
        (r#"{"alg":"ES256","typ":"at+jwt","kid":7}"#, Some(HeaderMalformed("kid"))),
        (r#"{"alg":"ES256","typ":"at+jwt","kid":""}"#, Some(HeaderMalformed("kid"))),
        (r#"{"alg":"ES256","typ":7}"#, Some(HeaderMalformed("typ"))),
        (r#"{"alg":"ES256","typ":"JWT"}"#, Some(TypeMismatch)),
        (r#"{"alg":"ES256"}"#, Some(TypeMismatch)),
        (r#"{"alg":"ES256","typ":"logout+jwt"}"#, Some(TypeMismatch)),
        (r#"{"alg":"ES256","typ":"secevent+jwt"}"#, Some(TypeMismatch)),
        (r#"{"alg":"ES256","alg":"ES256","typ":"at+jwt"}"#, Some(Malformed)),
        ("[]", Some(Malformed)),
        ("", Some(Malformed)),
    ] {
        assert_eq!(checked(header, &claims(ISSUER, NOW).to_string()), expect, "{header}");
    }
    let long = format!(r#"{{"alg":"ES256","typ":"at+jwt","kid":"{}"}}"#, "k".repeat(129));
    assert_eq!(checked(&long, "{}"), Some(HeaderMalformed("kid")));
    let long = format!(r#"{{"alg":"ES256","typ":"at+jwt","x":"{}"}}"#, "k".repeat(1024));
    assert_eq!(checked(&long, "{}"), Some(Malformed));
}

#[test]
fn what_is_not_a_compact_jws_is_malformed() {
    let fine = ec("k").token(&claims(ISSUER, NOW));
    let (head, signature) = fine.rsplit_once('.').unwrap();
    let (header, payload) = head.split_once('.').unwrap();
    for text in [
        String::new(),
        "opaque".to_owned(),
        "a.b".to_owned(),
        format!("{head}."),
        format!("{fine}.x"),
        format!("{header}=.{payload}.{signature}"),
        format!("{header}..{signature}"),
        format!("{}.{payload}.{signature}", b64([0xff, 0xfe])),
        format!("{header}.{}.{signature}", b64(r#"{"iss":"a","iss":"b"}"#)),
        format!("{header}.{}.{signature}", b64(r#"{"iss":"a","x":{"y":1,"y":1}}"#)),
        format!("{header}.{}.{signature}", b64("x".repeat(8192))),
    ] {
        assert_eq!(token::open(&text).err(), Some(TokenFault::Malformed), "{text}");
    }
    assert!(token::open(&fine).is_ok());
}

#[test]
fn a_plain_jwt_is_taken_only_where_configured_and_never_an_id_token() {
    let mut switched = issuer(ISSUER);
    switched.types.push("JWT".to_owned());
    let with = |claim: &str, value: Value| {
        let mut all = claims(ISSUER, NOW);
        all[claim] = value;
        judged(&format!("{}.{}.AAAA", b64(r#"{"alg":"ES256"}"#), b64(all.to_string())), &switched)
    };
    assert_eq!(with("x", json!(1)), None);
    for (claim, value) in [
        ("nonce", json!("n")),
        ("at_hash", json!("h")),
        ("c_hash", json!("h")),
        ("events", json!({})),
        ("typ", json!("ID")),
        ("token_use", json!("id")),
    ] {
        assert_eq!(with(claim, value), Some(TokenFault::TypeMismatch), "{claim}");
    }
}

#[tokio::test]
async fn a_good_token_of_every_algorithm_makes_a_caller() {
    let (a, b, c) = (ec("a"), rsa("b"), ed("c"));
    let server = Server::start(vec![a.jwk(), b.jwk(), c.jwk()]).await;
    let authenticator = started(&server).await;
    let now = clock::now();
    for signer in [&a, &b, &c] {
        let caller = ask(&authenticator, &signer.token(&claims(&server.url, now)), now).await.unwrap();
        let identity = caller.identity();
        assert_eq!(identity.user.as_ref().unwrap().subject, "alice");
        assert_eq!(identity.agent.client_id, "claude");
        assert_eq!(identity.tenant.as_deref(), Some("acme"));
        assert_eq!(identity.groups, ["eng", "sales"]);
        assert_eq!(identity.scopes, ["crm:read", "crm:write"]);
        assert_eq!(identity.authentication.token_id.as_deref(), Some("t-1"));
        assert_eq!(identity.authentication.token_digest.len(), 32);
    }
    assert!(authenticator.ready(now));
    assert_eq!(authenticator.status().first().unwrap().keys, 3);
}

#[tokio::test]
async fn algorithms_cannot_be_confused() {
    let (a, b) = (ec("a"), rsa("b"));
    let server = Server::start(vec![a.jwk(), b.jwk()]).await;
    let authenticator = started(&server).await;
    let now = clock::now();
    let body = claims(&server.url, now).to_string();
    let header = |alg: &str, kid: &str| json!({ "alg": alg, "kid": kid, "typ": "at+jwt" }).to_string();
    // A MAC under the public key, as a verifier that takes `alg` from the token would compute it.
    let hmac = |alg: &str, signer: &Signer| {
        let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, &signer.public_bytes());
        let signed = format!("{}.{}", b64(header(alg, signer.id)), b64(&body));
        format!("{signed}.{}", b64(aws_lc_rs::hmac::sign(&key, signed.as_bytes())))
    };
    let unsigned = |alg: &str| format!("{}.{}.AA", b64(header(alg, "a")), b64(&body));
    let good = a.sign(&header("ES256", "a"), &body);
    let (signed, _) = good.rsplit_once('.').unwrap();
    for (what, token, expect) in [
        ("none", unsigned("none"), TokenFault::AlgorithmNotAllowed),
        ("None", unsigned("None"), TokenFault::AlgorithmNotAllowed),
        ("HS256 with the RSA public key", hmac("HS256", &b), TokenFault::AlgorithmNotAllowed),
        ("HS256 with the EC public key", hmac("HS256", &a), TokenFault::AlgorithmNotAllowed),
        ("MAC called RS256", hmac("RS256", &b), TokenFault::SignatureInvalid),
        ("EC key used as RSA", a.sign(&header("RS256", "a"), &body), TokenFault::AlgorithmNotAllowed),
        ("RSA key used as EC", b.sign(&header("ES256", "b"), &body), TokenFault::AlgorithmNotAllowed),
        ("the right name, another's key", ec("a").sign(&header("ES256", "a"), &body), TokenFault::SignatureInvalid),
        ("the other key's name", b.sign(&header("RS256", "a"), &body), TokenFault::AlgorithmNotAllowed),
        ("signature of zeros", format!("{signed}.{}", b64([0; 64])), TokenFault::SignatureInvalid),
        ("signature not base64", format!("{signed}.+++="), TokenFault::SignatureInvalid),
        ("kid traversal", a.sign(&header("ES256", "../../a"), &body), TokenFault::KeyUnknown),
    ] {
        let refusal = ask(&authenticator, &token, now).await.err();
        assert_eq!(refusal, Some(Refusal::TokenInvalid(expect)), "{what}");
    }
    assert!(ask(&authenticator, &good, now).await.is_ok());
}

#[tokio::test]
async fn the_authorization_header_is_one_bearer_token() {
    let a = ec("a");
    let server = Server::start(vec![a.jwk()]).await;
    let authenticator = started(&server).await;
    let now = clock::now();
    let good = a.token(&claims(&server.url, now));
    let header = |values: &[String]| {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(header::AUTHORIZATION, HeaderValue::from_str(value).unwrap());
        }
        headers
    };
    let malformed = Some(Refusal::AuthorizationMalformed);
    for (values, query, expect) in [
        (vec![], None, Some(Refusal::TokenMissing)),
        (vec![format!("bEARER  {good}")], Some("a=b"), None),
        (vec![format!("Bearer {good}"); 2], None, malformed.clone()),
        (vec![format!("Basic {good}")], None, malformed.clone()),
        (vec!["Bearer".to_owned()], None, malformed.clone()),
        (vec!["Bearer ".to_owned()], None, malformed.clone()),
        (vec![good.clone()], None, malformed.clone()),
        (vec![format!("Bearer {good}, Bearer {good}")], None, malformed.clone()),
        (vec![format!("Bearer {good} x")], None, malformed.clone()),
        (vec![format!("Bearer a=b")], None, malformed.clone()),
        (vec![format!("Bearer {good}")], Some("access_token=x"), Some(Refusal::TokenInQuery)),
        (vec![], Some("a=1&%61ccess_token="), Some(Refusal::TokenInQuery)),
    ] {
        let refusal =
            authenticator.authenticate(&shown(&header(&values), query), &[audience(AUDIENCE)], now).await.err();
        assert_eq!(refusal, expect, "{values:?} {query:?}");
    }
}

#[tokio::test]
async fn a_remembered_token_is_still_compared_with_the_endpoint() {
    let a = ec("a");
    let server = Server::start(vec![a.jwk()]).await;
    let authenticator = started(&server).await;
    let now = clock::now();
    let headers = bearer(&a.token(&claims(&server.url, now)));
    let mismatch = Some(Refusal::TokenInvalid(TokenFault::AudienceMismatch));
    for (audiences, expect) in [
        (vec!["https://gw.example/mcp/crm"], mismatch.clone()),
        (vec!["https://gw.example/mcp"], None),
        (vec!["https://gw.example/mcp/crm"], mismatch.clone()),
        (vec!["https://gw.example/mcp/"], mismatch.clone()),
        (vec!["HTTPS://GW.example/mcp"], None),
        (vec!["https://gw.example/MCP"], mismatch.clone()),
        (vec!["https://gw.example.evil/mcp"], mismatch.clone()),
        (vec!["https://gw.example/mcp//"], mismatch.clone()),
        (vec!["extra", "https://gw.example/mcp"], None),
        (vec![], mismatch.clone()),
    ] {
        let accepted: Vec<Audience> = audiences.iter().map(|name| audience(name)).collect();
        let refusal = authenticator.authenticate(&shown(&headers, None), &accepted, now).await.err();
        assert_eq!(refusal, expect, "{audiences:?}");
    }
}

#[tokio::test]
async fn a_remembered_token_ends_when_it_ends() {
    let a = ec("a");
    let server = Server::start(vec![a.jwk()]).await;
    let authenticator = started(&server).await;
    let now = clock::now();
    let token = a.token(&claims(&server.url, now));
    assert!(ask(&authenticator, &token, now).await.is_ok());
    assert!(ask(&authenticator, &token, now.plus(Duration::from_secs(599))).await.is_ok());
    let late = ask(&authenticator, &token, now.plus(Duration::from_secs(606))).await.err();
    assert_eq!(late, Some(Refusal::TokenInvalid(TokenFault::Expired)));
}

#[tokio::test]
async fn a_rotation_is_followed_and_a_vanished_key_ends_its_tokens() {
    let (old, new) = (ec("old"), ec("new"));
    let server = Server::start(vec![old.jwk()]).await;
    let authenticator = started(&server).await;
    let now = clock::now();
    let (first, second) = (old.token(&claims(&server.url, now)), new.token(&claims(&server.url, now)));
    assert!(ask(&authenticator, &first, now).await.is_ok());

    server.publish(Some(vec![new.jwk()]));
    assert!(ask(&authenticator, &second, now).await.is_ok());
    // Remembered a moment ago, and yet: its key is gone.
    let refusal = ask(&authenticator, &first, now).await.err();
    assert_eq!(refusal, Some(Refusal::TokenInvalid(TokenFault::KeyUnknown)));
}

#[tokio::test]
async fn a_flood_of_unknown_kids_causes_one_fetch() {
    let a = ec("a");
    let server = Server::start(vec![a.jwk()]).await;
    let authenticator = Arc::new(started(&server).await);
    let now = clock::now();
    let good = a.token(&claims(&server.url, now));
    assert!(ask(&authenticator, &good, now).await.is_ok());
    assert_eq!(server.key_fetches.load(Ordering::SeqCst), 1);

    let body = claims(&server.url, now).to_string();
    let flood: Vec<_> = (0..200)
        .map(|n| {
            let header = format!(r#"{{"alg":"ES256","typ":"at+jwt","kid":"k{n}"}}"#);
            let token = a.sign(&header, &body);
            let authenticator = Arc::clone(&authenticator);
            crate::tasks::background(async move { ask(&authenticator, &token, now).await.err() })
        })
        .collect();
    for refusal in flood {
        assert_eq!(refusal.await.unwrap(), Some(Refusal::TokenInvalid(TokenFault::KeyUnknown)));
    }
    assert_eq!(server.key_fetches.load(Ordering::SeqCst), 2);
    // After the floor there is budget for one more, and the issuer's new key is found by it.
    let fresh = ec("fresh");
    server.publish(Some(vec![a.jwk(), fresh.jwk()]));
    let later = now.plus(Duration::from_secs(11));
    assert!(ask(&authenticator, &fresh.token(&claims(&server.url, now)), later).await.is_ok());
    assert_eq!(server.key_fetches.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn keys_outlive_an_outage_but_not_for_ever() {
    let a = ec("a");
    let server = Server::start(vec![a.jwk()]).await;
    let authenticator = started(&server).await;
    let now = clock::now();
    let mut all = claims(&server.url, now);
    assert!(ask(&authenticator, &a.token(&all), now).await.is_ok());

    server.publish(None);
    let unknown = ask(&authenticator, &ec("b").token(&all), now).await.err();
    assert_eq!(unknown, Some(Refusal::TokenInvalid(TokenFault::KeyUnknown)));
    all["jti"] = json!("t-2");
    assert!(ask(&authenticator, &a.token(&all), now).await.is_ok());
    assert!(authenticator.status().first().unwrap().failure.is_some());

    let late = now.plus(Duration::from_secs(24 * 3600 + 60));
    let token = a.token(&claims(&server.url, late));
    assert!(matches!(ask(&authenticator, &token, late).await, Err(Refusal::IdentityUnavailable(_))));
    assert!(!authenticator.ready(late));
}

#[tokio::test]
async fn an_issuer_that_is_away_at_the_start_is_found_when_it_comes() {
    let a = ec("a");
    let server = Server::start(vec![]).await;
    server.publish(None);
    let authenticator = started(&server).await;
    let now = clock::now();
    let token = a.token(&claims(&server.url, now));
    assert!(matches!(ask(&authenticator, &token, now).await, Err(Refusal::IdentityUnavailable(_))));

    server.publish(Some(vec![a.jwk()]));
    let recovered = async {
        while ask(&authenticator, &token, clock::now()).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    assert!(tokio::time::timeout(Duration::from_secs(15), recovered).await.is_ok());
}

#[test]
fn a_machine_has_no_user_and_digests_tell_callers_apart() {
    let base = claims(ISSUER, NOW);
    let read = |change: &[(&str, Value)]| {
        let mut all = base.clone();
        for (claim, value) in change {
            all[*claim] = value.clone();
        }
        super::claims::identity(all.as_object().unwrap(), &issuer(ISSUER), NOW, "token").unwrap()
    };
    let alice = read(&[]);
    assert_eq!(Caller::of(read(&[("jti", json!("other"))])).identity().class, alice.class);
    assert_eq!(read(&[("scope", json!("crm:read"))]).principal, alice.principal);
    assert_ne!(read(&[("scope", json!("crm:read"))]).class, alice.class);
    assert_ne!(read(&[("groups", json!(["eng"]))]).class, alice.class);
    assert_ne!(read(&[("tid", json!("other"))]).principal, alice.principal);
    assert_ne!(read(&[("act", json!({ "sub": "bot" }))]).principal, alice.principal);

    assert_eq!(read(&[("sub", json!("claude"))]).user, None);
    assert_eq!(read(&[("idtyp", json!("app"))]).user, None);
    // A user name that a person chose makes nobody a machine.
    assert!(read(&[("preferred_username", json!("service-account-claude"))]).user.is_some());

    let chain = json!({ "sub": "inner", "iss": "https://other.example", "act": { "sub": "outer" } });
    assert_eq!(read(&[("act", chain)]).agent.actors, ["https://other.example inner", "outer"]);
}

#[test]
fn nested_claims_are_found_by_pointer() {
    let mut configured = issuer(ISSUER);
    configured.claims.groups = "/realm_access/roles".to_owned();
    configured.claims.scope = "scp".to_owned();
    configured.claims.agent = Some("azp".to_owned());
    let mut all = claims(ISSUER, NOW);
    all["realm_access"] = json!({ "roles": ["b", "a"] });
    all["scp"] = json!(["x", "y"]);
    all["azp"] = json!("app");
    let identity = super::claims::identity(all.as_object().unwrap(), &configured, NOW, "token").unwrap();
    assert_eq!(identity.groups, ["a", "b"]);
    assert_eq!(identity.scopes, ["x", "y"]);
    assert_eq!(identity.agent.client_id, "app");
}
