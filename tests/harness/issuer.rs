//! Who vouches for callers where a real provider would not help?
//!
//! An issuer inside the test: discovery, keys and a token endpoint that records what it is asked and answers as RFC 8693
//! has it, and a pen that signs anything, also what no provider would. `peer::provider` is the real one.

use std::{
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use aws_lc_rs::{
    hmac,
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL};
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::{
    leaks,
    recorder::{Recorder, Reply, Seen},
};

/// How a token is signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Signature {
    /// By the issuer's present key.
    Own,
    /// By a key that nobody published.
    Stranger,
    /// By HMAC with the public key as the secret.
    HmacOfPublicKey,
    /// Not at all: the last part is empty.
    Absent,
}

/// An issuer inside the test.
#[derive(Debug)]
pub(crate) struct Issuer {
    recorder: Recorder,
    pen: Arc<Mutex<Pen>>,
}

#[derive(Debug)]
pub(crate) struct Pen {
    key: EcdsaKeyPair,
    number: usize,
    revoked: Vec<String>,
}

impl Pen {
    pub(super) fn new(number: usize) -> Self {
        let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new()).unwrap();
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, document.as_ref()).unwrap();
        Self { key, number, revoked: Vec::new() }
    }

    fn kid(&self) -> String {
        format!("key-{}", self.number)
    }

    /// An ID token with these claims.
    pub(crate) fn id_token(&self, claims: &Value, signature: Signature) -> String {
        self.sign(&json!({ "alg": "ES256", "kid": self.kid() }), claims, signature)
    }

    /// RFC 7518 §6.2.1: the point's coordinates, after the byte that says that both are there.
    pub(super) fn jwk(&self) -> Value {
        let point = self.key.public_key().as_ref();
        let (x, y) = (BASE64URL.encode(&point[1..33]), BASE64URL.encode(&point[33..65]));
        json!({ "kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig", "kid": self.kid(), "x": x, "y": y })
    }

    pub(super) fn sign(&self, header: &Value, claims: &Value, signature: Signature) -> String {
        let signed = format!("{}.{}", BASE64URL.encode(header.to_string()), BASE64URL.encode(claims.to_string()));
        let by = |key: &EcdsaKeyPair| key.sign(&SystemRandom::new(), signed.as_bytes()).unwrap().as_ref().to_vec();
        let bytes = match signature {
            Signature::Own => by(&self.key),
            Signature::Stranger => by(&Pen::new(0).key),
            Signature::HmacOfPublicKey => {
                let secret = hmac::Key::new(hmac::HMAC_SHA256, self.key.public_key().as_ref());
                hmac::sign(&secret, signed.as_bytes()).as_ref().to_vec()
            }
            Signature::Absent => Vec::new(),
        };
        format!("{signed}.{}", BASE64URL.encode(bytes))
    }
}

impl Issuer {
    /// An issuer that answers well.
    pub(crate) fn good() -> Self {
        Self::scripted(|_| None)
    }

    /// An issuer that answers as `script` says, and well where the script has no answer.
    pub(crate) fn scripted(script: impl Fn(&Seen) -> Option<Reply> + Send + Sync + 'static) -> Self {
        Self::signing(move |seen, _| script(seen))
    }

    /// The same, with its pen at hand.
    pub(crate) fn signing(script: impl Fn(&Seen, &Mutex<Pen>) -> Option<Reply> + Send + Sync + 'static) -> Self {
        let pen = Arc::new(Mutex::new(Pen::new(1)));
        let shared = Arc::clone(&pen);
        let recorder =
            Recorder::serving(move |seen| script(seen, &shared).unwrap_or_else(|| behaved(seen, &shared.lock())));
        Self { recorder: recorder.exchanging(), pen }
    }

    /// The same with a script that may have claims signed, as those of an ID token.
    pub(crate) fn signing(
        script: impl Fn(&Seen, &dyn Fn(&Value) -> String) -> Option<Reply> + Send + Sync + 'static,
    ) -> Self {
        let pen = Arc::new(Mutex::new(Pen::new(1)));
        let shared = Arc::clone(&pen);
        let recorder = Recorder::serving(move |seen| {
            let pen = shared.lock();
            let sign = |claims: &Value| pen.sign(&json!({ "alg": "ES256", "kid": pen.kid() }), claims, Signature::Own);
            script(seen, &sign).unwrap_or_else(|| behaved(seen, &pen))
        });
        Self { recorder: recorder.exchanging(), pen }
    }

    /// Its `iss`.
    pub(crate) fn url(&self) -> String {
        self.recorder.origin()
    }

    /// What it was asked.
    pub(crate) fn recorder(&self) -> &Recorder {
        &self.recorder
    }

    /// What its token endpoint was asked.
    pub(crate) fn asked(&self) -> Vec<Seen> {
        self.recorder.seen_path("/token")
    }

    /// Signs with a new key from now on, and publishes that key only.
    pub(crate) fn rotate(&self) {
        let mut pen = self.pen.lock();
        *pen = Pen { revoked: std::mem::take(&mut pen.revoked), ..Pen::new(pen.number + 1) };
    }

    /// What its introspection endpoint was asked about.
    pub(crate) fn introspected(&self) -> Vec<String> {
        self.recorder.seen_path("/introspect").iter().filter_map(|seen| seen.field("token")).collect()
    }

    /// Says of this token from now on that it is not active.
    pub(crate) fn revoke(&self, token: &str) {
        self.pen.lock().revoked.push(token.to_owned());
    }

    /// A token that only this issuer can read, with these claims.
    pub(crate) fn opaque(&self, claims: &Value) -> String {
        format!("{OPAQUE}{}", BASE64URL.encode(claims.to_string()))
    }

    /// The claims of a good access token (RFC 9068 §2.2) for this user and audience; change them before signing.
    pub(crate) fn claims(&self, user: &str, audience: &str) -> Value {
        let now = now();
        json!({
            "iss": self.url(), "sub": user, "aud": audience, "client_id": "agent", "scope": "tools:read tools:call",
            "iat": now, "exp": now + 300, "jti": uuid::Uuid::new_v4().to_string(), "tenant": "acme", "groups": ["engineering"],
        })
    }

    /// The header of a good access token (RFC 9068 §2.1).
    pub(crate) fn header(&self) -> Value {
        json!({ "alg": "ES256", "typ": "at+jwt", "kid": self.pen.lock().kid() })
    }

    /// A good access token.
    pub(crate) fn token(&self, user: &str, audience: &str) -> String {
        self.sign(&self.claims(user, audience))
    }

    /// These claims, well signed.
    pub(crate) fn sign(&self, claims: &Value) -> String {
        self.forge(&self.header(), claims, Signature::Own)
    }

    /// Any header, any claims, signed in any way.
    pub(crate) fn forge(&self, header: &Value, claims: &Value, signature: Signature) -> String {
        let token = self.pen.lock().sign(header, claims, signature);
        leaks::remember(&token);
        token
    }
}

/// The claims of a token, unverified.
pub(crate) fn claims_of(token: &str) -> Value {
    let part = token.split('.').nth(1).unwrap_or_default();
    BASE64URL.decode(part).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or(Value::Null)
}

/// Seconds since 1970 (RFC 7519 §2).
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

fn behaved(seen: &Seen, pen: &Pen) -> Reply {
    let issuer = format!("http://{}", seen.header("host").unwrap_or_default());
    match seen.path.as_str() {
        "/.well-known/openid-configuration" | "/.well-known/oauth-authorization-server" => {
            let at = |path: &str| format!("{issuer}{path}");
            let methods = ["client_secret_basic", "client_secret_post", "private_key_jwt"];
            Reply::json(
                200,
                &json!({
                    "issuer": issuer, "jwks_uri": at("/jwks"), "token_endpoint": at("/token"), "authorization_endpoint": at("/auth"),
                    "response_types_supported": ["code"], "code_challenge_methods_supported": ["S256"],
                    "token_endpoint_auth_methods_supported": methods,
                }),
            )
        }
        "/jwks" => Reply::json(200, &json!({ "keys": [pen.jwk()] })),
        "/auth" => sent_back(&issuer, seen),
        "/token" if seen.field("grant_type").as_deref() == Some("authorization_code") => logged_in(&issuer, seen, pen),
        "/token" => exchanged(&issuer, seen, pen),
        "/introspect" => Reply::json(200, &introspection(&seen.field("token").unwrap_or_default(), pen)),
        _ => Reply::status(404),
    }
}

/// RFC 7662 §2.2: the claims of a token that was made here and is good.
fn introspection(token: &str, pen: &Pen) -> Value {
    let mut claims = match token.strip_prefix(OPAQUE) {
        Some(opaque) => BASE64URL.decode(opaque).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()),
        None => Some(claims_of(token)),
    }
    .unwrap_or_default();
    let good = claims["exp"].as_u64().is_some_and(|end| end > now()) && !pen.revoked.iter().any(|one| one == token);
    if !good {
        return json!({ "active": false });
    }
    claims["active"] = json!(true);
    claims
}

/// How its opaque tokens begin.
const OPAQUE: &str = "opaque-";

/// A login without a page: whoever `login_hint` names, or alice. The code says what the token endpoint has to know.
fn sent_back(issuer: &str, seen: &Seen) -> Reply {
    let asked: serde_json::Map<String, Value> = url::form_urlencoded::parse(seen.query.as_bytes())
        .map(|(name, value)| (name.into_owned(), value.into()))
        .collect();
    let text = |name: &str| asked.get(name).and_then(Value::as_str).unwrap_or_default();
    let code = BASE64URL.encode(Value::Object(asked.clone()).to_string());
    let mut back = url::Url::parse(text("redirect_uri")).unwrap();
    back.query_pairs_mut().extend_pairs([("code", code.as_str()), ("state", text("state")), ("iss", issuer)]);
    Reply::status(302).header("location", back.as_str())
}

/// OpenID Connect Core §3.1.3.3, where the verifier fits (RFC 7636 §4.6).
fn logged_in(issuer: &str, seen: &Seen, pen: &Pen) -> Reply {
    let code = BASE64URL.decode(seen.field("code").unwrap_or_default()).unwrap_or_default();
    let asked: Value = serde_json::from_slice(&code).unwrap_or_default();
    let verifier = seen.field("code_verifier").unwrap_or_default();
    let hashed = BASE64URL.encode(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, verifier.as_bytes()));
    if asked["code_challenge"] != hashed || asked["redirect_uri"] != seen.field("redirect_uri").unwrap_or_default() {
        return Reply::json(400, &json!({ "error": "invalid_grant" }));
    }
    let now = now();
    let claims = json!({
        "iss": issuer, "sub": asked["login_hint"].as_str().unwrap_or("alice"), "aud": asked["client_id"],
        "nonce": asked["nonce"], "iat": now, "exp": now + 300, "auth_time": now, "acr": "silver",
        "tenant": "acme", "groups": ["engineering"],
    });
    let id_token = pen.id_token(&claims, Signature::Own);
    Reply::json(
        200,
        &json!({ "access_token": "opaque", "token_type": "Bearer", "id_token": id_token, "refresh_token": "kept" }),
    )
}

/// RFC 8693 §2.2.1, and RFC 6749 §4.4.3 where there is no subject.
fn exchanged(issuer: &str, seen: &Seen, pen: &Pen) -> Reply {
    let subject = seen.field("subject_token").map(|token| claims_of(&token));
    let user = subject.as_ref().map_or_else(|| json!("gateway"), |claims| claims["sub"].clone());
    let audience = seen.field("resource").or_else(|| seen.field("audience")).unwrap_or_default();
    let now = now();
    let mut claims = json!({
        "iss": issuer, "sub": user, "aud": audience, "client_id": "gateway", "scope": seen.field("scope").unwrap_or_default(),
        "iat": now, "exp": now + 300, "jti": uuid::Uuid::new_v4().to_string(),
    });
    if subject.is_some() {
        claims["act"] = json!({ "sub": "gateway" });
    }
    let header = json!({ "alg": "ES256", "typ": "at+jwt", "kid": pen.kid() });
    let token = pen.sign(&header, &claims, Signature::Own);
    Reply::json(
        200,
        &json!({
            "access_token": token, "issued_token_type": "urn:ietf:params:oauth:token-type:access_token",
            "token_type": "Bearer", "expires_in": 300, "scope": claims["scope"],
        }),
    )
    .header("cache-control", "no-store")
}
