//! Does every credential get the answer that it should?

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use http::{HeaderMap, HeaderValue, Method, header};
use serde_json::{Value, json};

use super::{
    Audience, Authenticator, Binding, Caller, Certificate, Shown,
    testing::{AUDIENCE, NOW, Server, Signer, b64, claims, ec, ed, issuer, rsa, senders},
    token,
};
use crate::{
    clock::{self, Timestamp},
    config::{CertificateHolder, CertificateName, Dpop, Egress, Endpoint},
    refusal::{ProofFault, Refusal, TokenFault},
    state::Site,
};

const ISSUER: &str = "https://login.example";

/// Where requests come from.
const PEER: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

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
    Shown { headers, query, method, endpoint, slashed: false, peer: PEER, certificate: None }
}

async fn ask_from(peer: &str, authenticator: &Authenticator, token: &str, now: Timestamp) -> Result<Caller, Refusal> {
    let headers = bearer(token);
    let shown = Shown { peer: peer.parse().unwrap(), ..shown(&headers, None) };
    authenticator.authenticate(&shown, &[audience(AUDIENCE)], now).await
}

async fn ask(authenticator: &Authenticator, token: &str, now: Timestamp) -> Result<Caller, Refusal> {
    authenticator.authenticate(&shown(&bearer(token), None), &[audience(AUDIENCE)], now).await
}

async fn started(server: &Server) -> Authenticator {
    let authenticator =
        Authenticator::new(&[Arc::new(issuer(&server.url))], &Egress::default(), None, senders(None)).unwrap();
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
        super::claims::identity(&presented.claims, issuer, presented.expires_at()?, text, super::JWT).map(drop)
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
    let words = u64::try_from(token.len() * 3 + AUDIENCE.len()).unwrap();
    assert!(authenticator.verified.weight() > 2_048 + words, "what is held besides the token counts");
    assert!(ask(&authenticator, &token, now.plus(Duration::from_secs(599))).await.is_ok());
    assert_eq!(authenticator.verified.len(), 1);
    let late = ask(&authenticator, &token, now.plus(Duration::from_secs(606))).await.err();
    assert_eq!(late, Some(Refusal::TokenInvalid(TokenFault::Expired)));
    assert_eq!(authenticator.verified.len(), 0, "it takes no room any more");
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
async fn who_makes_keys_up_does_not_hide_a_rotation_from_others() {
    let (a, fresh) = (ec("a"), ec("fresh"));
    let server = Server::start(vec![a.jwk()]).await;
    let authenticator = started(&server).await;
    let now = clock::now();
    let at = |ms| now.plus(Duration::from_millis(ms));
    let all = claims(&server.url, now);
    let fetched = || server.key_fetches.load(Ordering::SeqCst);
    let unknown = |answer: Result<Caller, Refusal>| answer.err() == Some(Refusal::TokenInvalid(TokenFault::KeyUnknown));
    // What was not asked for is no word against a token: it may be the good one.
    let unasked = |answer: Result<Caller, Refusal>| matches!(answer, Err(Refusal::IdentityUnavailable(_)));
    let (made_up, rotated) = (ec("made-up").token(&all), fresh.token(&all));
    let [stranger, neighbour, caller] = ["2001:db8::1", "2001:db8::2", "192.0.2.1"];
    assert!(ask(&authenticator, &a.token(&all), now).await.is_ok());
    // The key that will be has a name that can be guessed.
    assert!(unknown(ask_from(stranger, &authenticator, &ec("fresh").token(&all), now).await));
    assert_eq!(fetched(), 2);
    server.publish(Some(vec![fresh.jwk()]));
    for ms in [0, 1_000, 3_000, 9_000] {
        assert!(unasked(ask_from(stranger, &authenticator, &made_up, at(ms)).await), "{ms}");
        assert!(unasked(ask_from(neighbour, &authenticator, &made_up, at(ms)).await), "{ms}");
        assert!(unknown(ask_from(stranger, &authenticator, &ec("fresh").token(&all), at(ms)).await), "{ms}");
    }
    assert_eq!(fetched(), 2, "of one site");
    assert!(unasked(ask_from(caller, &authenticator, &rotated, at(1_000)).await), "of all together");
    assert!(ask_from(caller, &authenticator, &rotated, at(2_500)).await.is_ok(), "named before by somebody else");
    assert_eq!(fetched(), 3);
}

#[tokio::test]
async fn who_makes_assertions_up_has_a_share_like_any_other() {
    let (a, fresh) = (ec("a"), ec("fresh"));
    let server = Server::start(vec![a.jwk()]).await;
    let authenticator = started(&server).await;
    let now = clock::now();
    let all = claims(&server.url, now);
    let site = |peer: &str| Some(Site::of(peer.parse().unwrap()));
    let vouched = |token: String, site, ms| {
        let (authenticator, now) = (&authenticator, now.plus(Duration::from_millis(ms)));
        async move { authenticator.vouched((token.as_str(), site), "at+jwt", AUDIENCE, now).await.err() }
    };
    assert_eq!(vouched(a.token(&all), site("192.0.2.1"), 0).await, None);
    let (made_up, other, rotated) = (ec("made-up").token(&all), ec("other").token(&all), fresh.token(&all));
    let unknown = Some(Refusal::TokenInvalid(TokenFault::KeyUnknown));
    assert_eq!(vouched(made_up, site("192.0.2.1"), 0).await, unknown);
    server.publish(Some(vec![a.jwk(), fresh.jwk()]));
    // Two seconds on there is a reading again, and not for the same address.
    assert!(matches!(vouched(other, site("192.0.2.1"), 2_500).await, Some(Refusal::IdentityUnavailable(_))));
    assert_eq!(server.key_fetches.load(Ordering::SeqCst), 2);
    assert_eq!(vouched(rotated, site("192.0.2.2"), 2_500).await, None);
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
    // Whether the issuer has a new key nobody can say now.
    let unknown = ask(&authenticator, &ec("b").token(&all), now).await;
    assert!(matches!(unknown, Err(Refusal::IdentityUnavailable(_))));
    all["jti"] = json!("t-2");
    assert!(ask(&authenticator, &a.token(&all), now).await.is_ok());
    assert!(authenticator.status().first().unwrap().failure.is_some());

    let late = now.plus(Duration::from_secs(24 * 3600 + 60));
    let token = a.token(&claims(&server.url, late));
    assert!(matches!(ask(&authenticator, &token, late).await, Err(Refusal::IdentityUnavailable(_))));
    assert!(!authenticator.ready(late));
}

/// The gateway's own keys, where it is an authorization server, say nothing of whether anybody can log in.
#[tokio::test]
async fn own_keys_do_not_make_it_ready() {
    let a = ec("a");
    let server = Server::start(vec![a.jwk()]).await;
    server.publish(None);
    let own = Arc::new(issuer("https://gw.example"));
    let keys = json!({ "keys": [ec("own").jwk()] }).to_string();
    let now = clock::now();
    let with = |others: &[Arc<crate::config::Issuer>]| {
        let authenticator = Authenticator::new(others, &Egress::default(), None, senders(None)).unwrap();
        let authenticator = authenticator.with_own(Some(&own));
        authenticator.give(&own.issuer, keys.as_bytes(), now).unwrap();
        authenticator
    };
    assert!(with(&[]).ready(now), "nobody else vouches");
    let authenticator = with(&[Arc::new(issuer(&server.url))]);
    assert!(!authenticator.ready(now));
    server.publish(Some(vec![a.jwk()]));
    authenticator.start();
    assert!(ask(&authenticator, &a.token(&claims(&server.url, now)), now).await.is_ok());
    assert!(authenticator.ready(now));
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
        super::claims::identity(all.as_object().unwrap(), &issuer(ISSUER), NOW, "token", super::JWT).unwrap()
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
    let identity = super::claims::identity(all.as_object().unwrap(), &configured, NOW, "token", super::JWT).unwrap();
    assert_eq!(identity.groups, ["a", "b"]);
    assert_eq!(identity.scopes, ["x", "y"]);
    assert_eq!(identity.agent.client_id, "app");
}

/// Proofs as most would want them.
fn wanted() -> Dpop {
    let algorithms = ["ES256", "EdDSA", "RS256"].map(str::to_owned).to_vec();
    Dpop { required: false, nonce: false, algorithms, window: Duration::from_secs(60) }
}

/// A key, a token that is bound to it, and who takes both.
struct Bound {
    key: Signer,
    token: String,
    authenticator: Authenticator,
    now: Timestamp,
    signer: Signer,
    server: Arc<Server>,
}

impl Bound {
    async fn new(dpop: Option<Dpop>) -> Self {
        let (signer, key) = (ec("a"), ec("mine"));
        let server = Server::start(vec![signer.jwk()]).await;
        let authenticator =
            Authenticator::new(&[Arc::new(issuer(&server.url))], &Egress::default(), None, senders(dpop)).unwrap();
        authenticator.start();
        let mut bound = Self { key, token: String::new(), authenticator, now: clock::now(), signer, server };
        bound.bind(ec("mine"), "alice");
        bound
    }

    /// Goes on with a token of `user` that is bound to `key`.
    fn bind(&mut self, key: Signer, user: &str) {
        let mut all = claims(&self.server.url, self.now);
        all["sub"] = json!(user);
        all["cnf"] = json!({ "jkt": super::proof::thumbprint(key.jwk().as_object().unwrap()) });
        (self.token, self.key) = (self.signer.token(&all), key);
    }

    fn claims(&self, id: &str) -> Value {
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, self.token.as_bytes());
        json!({
            "htm": "POST", "htu": "https://gw.example/mcp", "iat": self.now.unix_seconds(), "jti": id, "ath": b64(digest),
        })
    }

    async fn show(&self, scheme: &str, proofs: &[String]) -> Option<Refusal> {
        let mut headers = HeaderMap::new();
        headers.insert(header::AUTHORIZATION, format!("{scheme} {}", self.token).parse().unwrap());
        for proof in proofs {
            headers.append("dpop", proof.parse().unwrap());
        }
        self.authenticator.authenticate(&shown(&headers, None), &[audience(AUDIENCE)], self.now).await.err()
    }
}

#[tokio::test]
async fn a_proof_is_good_for_its_request_its_token_and_its_time() {
    use ProofFault::{Malformed, MethodMismatch, TimeOutOfWindow, TokenMismatch, UrlMismatch};
    let bound = Bound::new(Some(wanted())).await;
    let now = bound.now.unix_seconds();
    let cases = [
        ("htm", json!("POST"), None),
        ("htm", json!("GET"), Some(MethodMismatch)),
        ("htm", json!("post"), Some(MethodMismatch)),
        ("htm", json!(null), Some(Malformed)),
        ("htu", json!("HTTPS://GW.example:443/mcp?x=1#y"), None),
        ("htu", json!("https://gw.example/%6Dcp"), None),
        ("htu", json!("https://gw.example/./x/../mcp"), None),
        ("htu", json!("https://gw.example/mcp/"), Some(UrlMismatch)),
        ("htu", json!("https://gw.example/mcp/crm"), Some(UrlMismatch)),
        ("htu", json!("https://gw.example/MCP"), Some(UrlMismatch)),
        ("htu", json!("https://gw.example/mcp%2F"), Some(UrlMismatch)),
        ("htu", json!("https://gw.example:8443/mcp"), Some(UrlMismatch)),
        ("htu", json!("http://gw.example/mcp"), Some(UrlMismatch)),
        ("htu", json!("https://gw.example.evil/mcp"), Some(UrlMismatch)),
        ("htu", json!("https://me@gw.example/mcp"), Some(UrlMismatch)),
        ("htu", json!("/mcp"), Some(UrlMismatch)),
        ("htu", json!(7), Some(Malformed)),
        ("ath", json!(b64([0; 32])), Some(TokenMismatch)),
        ("ath", json!("absent"), Some(TokenMismatch)),
        ("iat", json!(now - 60), None),
        ("iat", json!(now - 62), Some(TimeOutOfWindow)),
        ("iat", json!(now + 60), None),
        ("iat", json!(now + 62), Some(TimeOutOfWindow)),
        ("iat", json!("absent"), Some(Malformed)),
        ("iat", json!(-1), Some(Malformed)),
        ("jti", json!("absent"), Some(Malformed)),
        ("jti", json!(""), Some(Malformed)),
        ("jti", json!("x".repeat(257)), Some(Malformed)),
        ("nonce", json!(1), Some(Malformed)),
    ];
    for (number, (claim, value, expect)) in cases.into_iter().enumerate() {
        let mut all = bound.claims(&format!("id-{number}"));
        let shown = format!("{claim}: {value}");
        if value == json!("absent") {
            all.as_object_mut().unwrap().remove(claim);
        } else {
            all[claim] = value;
        }
        let refusal = bound.show("DPoP", &[bound.key.proof(&all)]).await;
        assert_eq!(refusal, expect.map(Refusal::ProofInvalid), "{shown}");
    }
}

#[tokio::test]
async fn a_proof_is_signed_by_the_key_that_the_token_is_bound_to() {
    use ProofFault::{
        AlgorithmNotAllowed, KeyMalformed, KeyMismatch, Malformed, Missing, Repeated, SignatureInvalid, TypeMismatch,
    };
    let bound = Bound::new(Some(wanted())).await;
    let (key, all) = (&bound.key, bound.claims("id").to_string());
    let header = |member: &str, value: Value| {
        let mut header = json!({ "alg": "ES256", "typ": "dpop+jwt", "jwk": key.jwk() });
        header[member] = value;
        header.to_string()
    };
    let with = |member: &str, value: Value| key.sign(&header(member, value), &all);
    let private = |member: &str| {
        let mut jwk = key.jwk();
        jwk[member] = json!("AAAA");
        with("jwk", jwk)
    };
    let own = header("alg", json!("ES256"));
    let (good, other) = (key.sign(&own, &all), ec("other"));
    let (signed, _) = good.rsplit_once('.').unwrap();
    // A MAC under the public key, as a verifier that takes `alg` from the proof would compute it.
    let mac = |alg: &str| {
        let secret = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, &key.public_bytes());
        let signed = format!("{}.{}", b64(header("alg", json!(alg))), b64(&all));
        format!("{signed}.{}", b64(aws_lc_rs::hmac::sign(&secret, signed.as_bytes())))
    };
    for (what, proofs, fault) in [
        ("no proof", vec![], Missing),
        ("two", vec![good.clone(), good.clone()], Repeated),
        ("two in one", vec![format!("{good}, {good}")], Malformed),
        ("a token", vec![with("typ", json!("at+jwt"))], TypeMismatch),
        ("none", vec![with("alg", json!("none"))], AlgorithmNotAllowed),
        ("HS256 with the public key", vec![mac("HS256")], AlgorithmNotAllowed),
        ("another algorithm of the list", vec![with("alg", json!("EdDSA"))], AlgorithmNotAllowed),
        ("one off the list", vec![with("alg", json!("ES384"))], AlgorithmNotAllowed),
        ("no key", vec![with("jwk", json!(null))], KeyMalformed),
        ("a symmetric key", vec![with("jwk", json!({ "kty": "oct", "k": "AAAA" }))], KeyMalformed),
        ("a private key", vec![private("d")], KeyMalformed),
        ("a private member of another type", vec![private("p")], KeyMalformed),
        ("another's key", vec![other.proof(&bound.claims("id"))], KeyMismatch),
        ("another's signature", vec![other.sign(&own, &all)], SignatureInvalid),
        ("a signature of zeros", vec![format!("{signed}.{}", b64([0; 64]))], SignatureInvalid),
        ("an extension", vec![with("crit", json!(["exp"]))], Malformed),
        ("no JWS", vec!["x".to_owned()], Malformed),
    ] {
        assert_eq!(bound.show("DPoP", &proofs).await, Some(Refusal::ProofInvalid(fault)), "{what}");
    }
    assert_eq!(bound.show("dpop", &[good]).await, None);
}

#[tokio::test]
async fn a_proof_is_shown_once() {
    let mut bound = Bound::new(Some(wanted())).await;
    let replayed = Some(Refusal::ProofInvalid(ProofFault::Replayed));
    let proof = bound.key.proof(&bound.claims("one"));
    assert_eq!(bound.show("DPoP", std::slice::from_ref(&proof)).await, None);
    assert_eq!(bound.show("DPoP", std::slice::from_ref(&proof)).await, replayed);
    // What is remembered outlives a change of the configuration, and a second signature is no second proof.
    let mut next = Authenticator::new(&[], &Egress::default(), None, senders(Some(wanted()))).unwrap();
    next.inherit(&bound.authenticator);
    bound.authenticator.inherit(&next);
    assert_eq!(bound.show("DPoP", &[bound.key.proof(&bound.claims("one"))]).await, replayed);
    for number in 0..15 {
        assert_eq!(bound.show("DPoP", &[bound.key.proof(&bound.claims(&number.to_string()))]).await, None);
    }
    // A quarter of the room is one caller's, however many keys they make; another caller has their own.
    for key in ["mine", "another"] {
        bound.bind(ec(key), "alice");
        let full = bound.show("DPoP", &[bound.key.proof(&bound.claims("more"))]).await;
        assert_eq!(full, Some(Refusal::Overloaded("proofs remembered")));
    }
    bound.bind(ec("theirs"), "bob");
    assert_eq!(bound.show("DPoP", &[bound.key.proof(&bound.claims("more"))]).await, None);
    bound.bind(ec("mine"), "alice");
    // A proof from the end of its second is good for almost one more than twice the window.
    bound.now = bound.now.plus(Duration::from_secs(120));
    let full = bound.show("DPoP", &[bound.key.proof(&bound.claims("more"))]).await;
    assert_eq!(full, Some(Refusal::Overloaded("proofs remembered")));
    bound.now = bound.now.plus(Duration::from_secs(1));
    assert_eq!(bound.show("DPoP", &[bound.key.proof(&bound.claims("more"))]).await, None);
}

#[tokio::test]
async fn where_nonces_are_wanted_a_proof_bears_one_of_ours() {
    let mut bound = Bound::new(Some(Dpop { nonce: true, ..wanted() })).await;
    let needed = Some(Refusal::ProofNonceNeeded);
    let proving = HeaderMap::from_iter([("dpop".parse().unwrap(), HeaderValue::from_static("x"))]);
    let nonce = bound.authenticator.nonce(&proving, bound.now).unwrap();
    assert_eq!(bound.authenticator.nonce(&HeaderMap::new(), bound.now), None, "who proves nothing needs none");
    let with = |bound: &Bound, id: &str, nonce: &str| {
        let mut all = bound.claims(id);
        all["nonce"] = json!(nonce);
        bound.key.proof(&all)
    };
    assert_eq!(bound.show("DPoP", &[bound.key.proof(&bound.claims("a"))]).await, needed);
    assert_eq!(bound.show("DPoP", &[with(&bound, "b", "made-up")]).await, needed);
    let other = Bound::new(Some(Dpop { nonce: true, ..wanted() })).await;
    let others = other.authenticator.nonce(&proving, bound.now).unwrap();
    assert_eq!(bound.show("DPoP", &[with(&bound, "c", others.to_str().unwrap())]).await, needed);
    assert_eq!(bound.show("DPoP", &[with(&bound, "d", nonce.to_str().unwrap())]).await, None);
    bound.now = bound.now.plus(Duration::from_secs(301));
    assert_eq!(bound.show("DPoP", &[with(&bound, "e", nonce.to_str().unwrap())]).await, needed);
}

#[tokio::test]
async fn a_credential_is_shown_as_it_is_bound() {
    use TokenFault::{BindingAbsent, BindingRequired, CertificateMismatch, CertificateMissing, ProofMissing};
    let signer = ec("a");
    let server = Server::start(vec![signer.jwk()]).await;
    let now = clock::now();
    let (mine, other) = (certificate(now, "mine"), certificate(now, "other"));
    let token = |confirmation: Value| {
        let mut all = claims(&server.url, now);
        if !confirmation.is_null() {
            all["cnf"] = confirmation;
        }
        signer.token(&all)
    };
    let (free, to_key) = (token(json!(null)), token(json!({ "jkt": b64([1; 32]) })));
    let to_certificate = token(json!({ "x5t#S256": mine.thumbprint }));
    let required = Dpop { required: true, ..wanted() };
    let invalid = |fault| Some(Refusal::TokenInvalid(fault));
    for (what, dpop, scheme, token, certificate, expect) in [
        ("free", None, "Bearer", &free, None, None),
        ("free, beside a certificate", None, "Bearer", &free, Some(&mine), None),
        ("proofs are not taken", None, "DPoP", &free, None, Some(Refusal::AuthorizationMalformed)),
        ("to a key, where proofs are not taken", None, "Bearer", &to_key, None, invalid(ProofMissing)),
        ("to a key", Some(wanted()), "Bearer", &to_key, Some(&mine), invalid(ProofMissing)),
        ("free, as if bound", Some(wanted()), "DPoP", &free, None, invalid(BindingAbsent)),
        (
            "to a certificate, as if to a key",
            Some(wanted()),
            "DPoP",
            &to_certificate,
            Some(&mine),
            invalid(BindingAbsent),
        ),
        ("free, where none is taken", Some(required.clone()), "Bearer", &free, None, invalid(BindingRequired)),
        ("to a certificate", None, "Bearer", &to_certificate, Some(&mine), None),
        ("to a certificate, without it", None, "Bearer", &to_certificate, None, invalid(CertificateMissing)),
        ("to another certificate", None, "Bearer", &to_certificate, Some(&other), invalid(CertificateMismatch)),
    ] {
        let authenticator =
            Authenticator::new(&[Arc::new(issuer(&server.url))], &Egress::default(), None, senders(dpop)).unwrap();
        authenticator.start();
        let headers = HeaderMap::from_iter([(header::AUTHORIZATION, format!("{scheme} {token}").parse().unwrap())]);
        let shown = Shown { certificate, ..shown(&headers, None) };
        // The second time the token is remembered, and what it is bound to is looked at all the same.
        for _ in 0..2 {
            let refusal = authenticator.authenticate(&shown, &[audience(AUDIENCE)], now).await.err();
            assert_eq!(refusal, expect, "{what}");
        }
    }
}

#[tokio::test]
async fn a_machine_is_known_by_its_certificate_where_the_administrator_names_it() {
    let now = clock::now();
    let (mine, other) = (certificate(now, "mine"), certificate(now, "other"));
    let late = Certificate { expires_at: now, ..mine.clone() };
    let mut machines = senders(None);
    machines.holders.push(CertificateHolder {
        name: CertificateName::Uri("spiffe://example.org/mine".to_owned()),
        agent: "reader".to_owned(),
        tenant: Some("acme".to_owned()),
        groups: vec!["machines".to_owned()],
        scopes: vec!["crm:read".to_owned()],
    });
    let authenticator = Authenticator::new(&[], &Egress::default(), None, machines).unwrap();
    let none = HeaderMap::new();
    for (certificate, expect) in [
        (None, Some(Refusal::TokenMissing)),
        (Some(&other), Some(Refusal::TokenMissing)),
        (Some(&late), Some(Refusal::TokenInvalid(TokenFault::Expired))),
        (Some(&mine), None),
    ] {
        let shown = Shown { certificate, ..shown(&none, None) };
        let caller = authenticator.authenticate(&shown, &[audience(AUDIENCE)], now).await;
        assert_eq!(caller.as_ref().err(), expect.as_ref());
        let Ok(caller) = caller else { continue };
        let identity = caller.identity();
        assert_eq!((identity.user.as_ref(), identity.agent.client_id.as_str()), (None, "reader"));
        assert_eq!(
            (identity.tenant.as_deref(), identity.scopes.as_slice()),
            (Some("acme"), &["crm:read".to_owned()][..])
        );
        assert_eq!(identity.authentication.binding, Binding::Certificate(mine.thumbprint.clone()));
        assert_eq!(identity.authentication.method, "certificate");
        assert_eq!(authenticator.leeway(identity), Some(Duration::ZERO));
        assert_eq!(
            Authenticator::new(&[], &Egress::default(), None, senders(None)).unwrap().leeway(identity),
            None,
            "no longer named"
        );
    }
}

fn certificate(now: Timestamp, name: &str) -> Certificate {
    Certificate {
        thumbprint: b64(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, name.as_bytes())),
        uri: Some(format!("spiffe://example.org/{name}")),
        dns: Vec::new(),
        common_name: None,
        begins_at: Timestamp::from_unix_seconds(0),
        expires_at: now.plus(Duration::from_secs(60)),
    }
}

#[test]
fn a_thumbprint_is_that_of_the_standard() {
    // RFC 7638 §3.1.
    let jwk = json!({
        "kty": "RSA", "alg": "RS256", "kid": "2011-04-29", "e": "AQAB",
        "n": "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw",
    });
    let thumbprint = super::proof::thumbprint(jwk.as_object().unwrap());
    assert_eq!(thumbprint.as_deref(), Some("NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"));
}

#[test]
fn a_certificate_says_who_holds_it() {
    let read = |names: &[rcgen::SanType], common: &[&str]| {
        let mut params = rcgen::CertificateParams::default();
        params.subject_alt_names = names.to_vec();
        params.distinguished_name = rcgen::DistinguishedName::new();
        for name in common {
            params.distinguished_name.push(rcgen::DnType::CommonName, *name);
        }
        params.not_after = rcgen::date_time_ymd(2040, 1, 1);
        let made = params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap();
        Certificate::of(made.der())
    };
    let (uri, dns) = (
        |text: &str| rcgen::SanType::URI(text.try_into().unwrap()),
        |text: &str| rcgen::SanType::DnsName(text.try_into().unwrap()),
    );
    let one = read(&[uri("spiffe://example.org/a"), dns("a.example"), dns("b.example")], &["agent"]);
    assert_eq!(one.uri.as_deref(), Some("spiffe://example.org/a"));
    assert_eq!(one.dns, ["a.example", "b.example"]);
    assert_eq!(one.common_name.as_deref(), Some("agent"));
    assert_eq!(one.expires_at.unix_seconds(), 2_208_988_800);
    let name = |text: &str| CertificateName::Dns(text.to_owned());
    assert!(
        one.is_of(&name("B.example")) && !one.is_of(&name("example")) && !one.is_of(&name("spiffe://example.org/a"))
    );
    let two = read(&[uri("spiffe://example.org/a"), uri("spiffe://example.org/b")], &[]);
    assert_eq!((two.uri, two.common_name), (None, None), "of two names none counts");
    let broken = Certificate::of(b"no certificate");
    assert_eq!((broken.uri, broken.expires_at.unix_ms()), (None, 0));
}

#[test]
fn the_profile_of_rfc_9068_takes_nothing_by_another_name() {
    let strict = crate::config::Issuer {
        profile: crate::config::Profile::Rfc9068,
        types: vec!["at+jwt".to_owned(), "JWT".to_owned()],
        ..issuer(ISSUER)
    };
    let text = |header: &str, change: &dyn Fn(&mut Value)| {
        let mut all = claims(ISSUER, NOW);
        change(&mut all);
        format!("{}.{}.AAAA", b64(header), b64(all.to_string()))
    };
    let remove = |claim: &'static str| move |all: &mut Value| drop(all.as_object_mut().unwrap().remove(claim));
    let (access, plain) = (r#"{"alg":"ES256","typ":"at+jwt"}"#, r#"{"alg":"ES256","typ":"JWT"}"#);
    assert_eq!(judged(&text(access, &|_| ()), &strict), None);
    assert_eq!(judged(&text(plain, &|_| ()), &strict), Some(TokenFault::TypeMismatch));
    for claim in ["iss", "exp", "aud", "sub", "client_id", "iat", "jti"] {
        let fault = judged(&text(access, &remove(claim)), &strict);
        assert_eq!(fault, Some(TokenFault::ClaimMalformed(claim)), "{claim}");
    }
    let renamed = |all: &mut Value| {
        all["azp"] = all["client_id"].take();
        remove("client_id")(all);
    };
    assert_eq!(judged(&text(access, &renamed), &strict), Some(TokenFault::ClaimMalformed("client_id")));
    assert_eq!(judged(&text(access, &renamed), &issuer(ISSUER)), None, "OIDC's older word, where it is not forbidden");
    assert_eq!(judged(&text(access, &remove("jti")), &issuer(ISSUER)), None);
}

#[test]
fn what_is_no_signed_token_is_opaque() {
    let header = b64(r#"{"alg":"none"}"#);
    for signed in [format!("{header}.x.y"), format!("{header}..")] {
        assert!(token::is_signed(&signed), "{signed}");
    }
    let opaque = ["a", "a.b", "a.b.c", &format!("{header}.b"), &format!("{header}.b.c.d.e"), &b64("[1]")];
    for opaque in opaque {
        assert!(!token::is_signed(opaque), "{opaque}");
    }
}

#[test]
fn a_credential_does_not_print() {
    let shown = format!("{:?}", super::Credential::new(format!("{0}.{0}.{0}", "hunter2".repeat(8))));
    assert!(!shown.contains("hunter2"), "{shown}");
}
