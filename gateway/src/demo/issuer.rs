//! Who vouches for callers in the demo?
//!
//! A small authorization server: metadata (RFC 8414), keys, client credentials (RFC 6749 §4.4), token exchange with
//! delegation and narrowing (RFC 8693), and a login that asks for no password. It is for this machine and this process:
//! never put it in front of anything.

use std::sync::Arc;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header::AUTHORIZATION};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, jwk::Jwk};
use serde_json::{Map, Value, json};
use url::form_urlencoded;

use super::{
    DemoError,
    loopback::{self, Body, Serve, Socket},
    token::{self, Claims},
};
use crate::{clock, secret::Secret};

/// The issuer and its only confidential client, the gateway.
pub(super) struct Issuer {
    pub(super) url: String,
    signing: EncodingKey,
    key: DecodingKey,
    jwk: Jwk,
    gateway_secret: Secret,
    /// What callers' tokens are made out to: the gateway's endpoints.
    doors: Vec<String>,
}

/// An error of RFC 6749 §5.2 on its way out.
struct Fault(StatusCode, &'static str, &'static str);

/// A person of the demo.
struct Person {
    name: &'static str,
    groups: &'static [&'static str],
    tenant: &'static str,
}

/// A sample server as the issuer knows it.
struct Target {
    audience: &'static str,
    /// Each scope of the server, and the scope of the person's own token that it needs: nobody gets more by exchange
    /// than they brought.
    scopes: &'static [(&'static str, &'static str)],
}

impl Issuer {
    /// Makes a key and listens; tokens of people are made out to `doors` only.
    pub(super) async fn start(gateway_secret: Secret, doors: Vec<String>) -> Result<Arc<Self>, DemoError> {
        let socket = Socket::open().await.map_err(|error| DemoError::at("the issuer's port", error))?;
        let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)
            .map_err(|error| DemoError::at("the issuer's key", error))?;
        let pem = pair.serialize_pem();
        let unusable = |error| DemoError::at("the issuer's key", error);
        let signing = EncodingKey::from_ec_pem(pem.as_bytes()).map_err(unusable)?;
        let mut jwk = Jwk::from_encoding_key(&signing, Algorithm::ES256).map_err(unusable)?;
        jwk.common.key_id = Some(KEY_ID.to_owned());
        let key = DecodingKey::from_jwk(&jwk).map_err(unusable)?;
        let url = format!("http://{}", socket.address);
        let issuer = Arc::new(Self { url, signing, key, jwk, gateway_secret, doors });
        socket.answer_with(Arc::clone(&issuer));
        Ok(issuer)
    }

    fn metadata(&self) -> Value {
        json!({
            "issuer": self.url,
            "token_endpoint": format!("{}/token", self.url),
            "jwks_uri": format!("{}/jwks", self.url),
            "response_types_supported": [],
            "grant_types_supported": [CLIENT_CREDENTIALS, TOKEN_EXCHANGE],
            "token_endpoint_auth_methods_supported": ["client_secret_basic"],
            "scopes_supported": TARGETS.iter().flat_map(|target| target.scopes).map(|(_, own)| own).collect::<Vec<_>>(),
        })
    }

    /// A token for a person, without asking who is there: the part that makes this issuer a development one.
    fn login(&self, form: &[(String, String)]) -> Result<Value, Fault> {
        let name = field(form, "user").unwrap_or_default();
        let person = PEOPLE.iter().find(|person| person.name == name).ok_or(Fault(
            StatusCode::BAD_REQUEST,
            "invalid_request",
            "`user` is alice or bob",
        ))?;
        let scope = field(form, "scope").unwrap_or("crm:read notes:read");
        let known = |scope: &str| TARGETS.iter().flat_map(|target| target.scopes).any(|(_, own)| *own == scope);
        if !scope.split(' ').all(known) {
            return Err(Fault(StatusCode::BAD_REQUEST, "invalid_scope", "see `scopes_supported`"));
        }
        let resources: Vec<&str> =
            form.iter().filter(|(key, _)| key == "resource").map(|(_, value)| value.as_str()).collect();
        if resources.is_empty() || !resources.iter().all(|resource| self.doors.iter().any(|door| door == resource)) {
            return Err(Fault(StatusCode::BAD_REQUEST, "invalid_target", "`resource` is an endpoint of the gateway"));
        }
        let mut claims = Map::new();
        claims.insert("sub".to_owned(), person.name.into());
        claims.insert("aud".to_owned(), resources.into());
        claims.insert("client_id".to_owned(), AGENT.into());
        claims.insert("scope".to_owned(), scope.into());
        claims.insert("groups".to_owned(), json!(person.groups));
        claims.insert("tenant".to_owned(), person.tenant.into());
        self.issued(claims, clock::now().unix_seconds().saturating_add(PERSON_SECONDS), false)
    }

    fn token(&self, headers: &HeaderMap, form: &[(String, String)]) -> Result<Value, Fault> {
        if !self.is_gateway(headers) {
            return Err(Fault(StatusCode::UNAUTHORIZED, "invalid_client", "client_secret_basic of `tollgate`"));
        }
        // RFC 6749 §3.2: a parameter that comes twice is an error; `resource` and `audience` may (RFC 8693 §2.1), but
        // one token for several servers is what this demo is there to avoid.
        let twice = form
            .iter()
            .enumerate()
            .any(|(at, (key, _))| form.iter().skip(at.saturating_add(1)).any(|(other, _)| other == key));
        if twice {
            return Err(Fault(StatusCode::BAD_REQUEST, "invalid_request", "a parameter is there twice"));
        }
        match field(form, "grant_type") {
            Some(CLIENT_CREDENTIALS) => self.own(form),
            Some(TOKEN_EXCHANGE) => self.exchanged(form),
            _ => Err(Fault(StatusCode::BAD_REQUEST, "unsupported_grant_type", "see `grant_types_supported`")),
        }
    }

    /// RFC 6749 §4.4: the gateway in its own name; without an audience, a token that only says who it is.
    fn own(&self, form: &[(String, String)]) -> Result<Value, Fault> {
        let mut claims = Map::new();
        claims.insert("sub".to_owned(), GATEWAY.into());
        claims.insert("client_id".to_owned(), GATEWAY.into());
        match field(form, "audience") {
            None => claims.insert("aud".to_owned(), self.url.as_str().into()),
            Some(audience) => {
                let scopes = target(audience)?.narrowed(form, |_| true)?;
                claims.insert("scope".to_owned(), scopes.into());
                claims.insert("aud".to_owned(), audience.into())
            }
        };
        self.issued(claims, clock::now().unix_seconds().saturating_add(GRANT_SECONDS), false)
    }

    /// RFC 8693 §2: the person stays the subject, the gateway becomes the actor, the agent stays in the chain behind it.
    fn exchanged(&self, form: &[(String, String)]) -> Result<Value, Fault> {
        let invalid = |why| Fault(StatusCode::BAD_REQUEST, "invalid_request", why);
        let doors: Vec<&str> = self.doors.iter().map(String::as_str).collect();
        let subject = self.presented(form, ("subject_token", "subject_token_type"), &doors);
        let subject = subject.ok_or(invalid("the subject token is not valid here"))?;
        if field(form, "requested_token_type").is_some_and(|kind| kind != ACCESS_TOKEN) {
            return Err(invalid("only access tokens are issued"));
        }
        let target = target(field(form, "audience").unwrap_or_default())?;
        let scopes = target.narrowed(form, |own| token::holds(&subject, own))?;
        let agent = json!({ "sub": token::text(&subject, "client_id") });
        let act = if field(form, "actor_token").is_some() {
            let actor = self.presented(form, ("actor_token", "actor_token_type"), &[&self.url]);
            let actor = actor.ok_or(invalid("the actor token is not valid here"))?;
            json!({ "sub": token::text(&actor, "sub"), "act": agent })
        } else {
            agent
        };
        let subject_ends = subject.get("exp").and_then(Value::as_u64).unwrap_or_default();
        let ends = clock::now().unix_seconds().saturating_add(GRANT_SECONDS).min(subject_ends);
        let mut claims: Claims =
            subject.into_iter().filter(|(name, _)| ["sub", "tenant", "groups"].contains(&name.as_str())).collect();
        claims.insert("aud".to_owned(), target.audience.into());
        claims.insert("client_id".to_owned(), GATEWAY.into());
        claims.insert("scope".to_owned(), scopes.into());
        claims.insert("act".to_owned(), act);
        self.issued(claims, ends, true)
    }

    /// The claims of a token in the form, where it is one of ours for one of `audiences`.
    fn presented(&self, form: &[(String, String)], names: (&str, &str), audiences: &[&str]) -> Option<Claims> {
        if ![ACCESS_TOKEN, JWT].contains(&field(form, names.1)?) {
            return None;
        }
        token::verified(field(form, names.0)?, &self.key, &self.url, audiences)
    }

    fn issued(&self, mut claims: Claims, ends: u64, by_exchange: bool) -> Result<Value, Fault> {
        let now = clock::now().unix_seconds();
        claims.insert("iss".to_owned(), self.url.as_str().into());
        claims.insert("jti".to_owned(), uuid::Uuid::new_v4().to_string().into());
        claims.insert("iat".to_owned(), now.into());
        claims.insert("exp".to_owned(), ends.into());
        let mut header = Header::new(Algorithm::ES256);
        header.typ = Some(token::TYPE.to_owned());
        header.kid = Some(KEY_ID.to_owned());
        let signed = jsonwebtoken::encode(&header, &claims, &self.signing);
        let signed = signed
            .map_err(|_error| Fault(StatusCode::INTERNAL_SERVER_ERROR, "server_error", "the key does not sign"))?;
        let mut answer = json!({
            "access_token": signed,
            "token_type": "Bearer",
            "expires_in": ends.saturating_sub(now),
        });
        if let Some(members) = answer.as_object_mut() {
            members.extend(claims.get("scope").map(|scope| ("scope".to_owned(), scope.clone())));
            members.extend(by_exchange.then(|| ("issued_token_type".to_owned(), ACCESS_TOKEN.into())));
        }
        Ok(answer)
    }

    /// RFC 6749 §2.3.1: both halves are form-encoded inside the base64; neither has a character that this changes.
    fn is_gateway(&self, headers: &HeaderMap) -> bool {
        let given = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()?.strip_prefix("Basic "));
        let expected = STANDARD.encode(format!("{GATEWAY}:{}", self.gateway_secret.expose()));
        given.is_some_and(|given| {
            aws_lc_rs::constant_time::verify_slices_are_equal(given.as_bytes(), expected.as_bytes()).is_ok()
        })
    }
}

impl Serve for Issuer {
    async fn serve(&self, request: Request<Bytes>) -> Response<Body> {
        let form: Vec<(String, String)> = form_urlencoded::parse(request.body()).into_owned().collect();
        let answer = match (request.method(), request.uri().path()) {
            (&Method::GET, "/.well-known/oauth-authorization-server") => Ok(self.metadata()),
            (&Method::GET, "/jwks") => Ok(json!({ "keys": [self.jwk] })),
            (&Method::POST, "/token") => self.token(request.headers(), &form),
            (&Method::POST, "/login") => self.login(&form),
            _ => return loopback::empty(StatusCode::NOT_FOUND),
        };
        let mut response = match answer {
            Ok(value) => loopback::json(StatusCode::OK, &value),
            Err(Fault(status, error, description)) => {
                loopback::json(status, &json!({ "error": error, "error_description": description }))
            }
        };
        // RFC 6749 §5.1: nobody in between may keep a token.
        response.headers_mut().insert("cache-control", HeaderValue::from_static("no-store"));
        response
    }
}

impl Target {
    /// The scopes asked for, where the server has them and `held` says of the person's own scope that it was brought.
    fn narrowed(&self, form: &[(String, String)], held: impl Fn(&str) -> bool) -> Result<String, Fault> {
        let asked = field(form, "scope").unwrap_or_default();
        let given = |scope: &str| self.scopes.iter().any(|(name, own)| *name == scope && held(own));
        if asked.is_empty() || !asked.split(' ').all(given) {
            return Err(Fault(
                StatusCode::BAD_REQUEST,
                "invalid_scope",
                "not a scope of this server, or not the caller's",
            ));
        }
        Ok(asked.to_owned())
    }
}

fn target(audience: &str) -> Result<&'static Target, Fault> {
    let unknown = Fault(StatusCode::BAD_REQUEST, "invalid_target", "no server of this name");
    TARGETS.iter().find(|target| target.audience == audience).ok_or(unknown)
}

fn field<'a>(form: &'a [(String, String)], name: &str) -> Option<&'a str> {
    form.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
}

/// The gateway's name at the issuer.
pub(super) const GATEWAY: &str = "tollgate";

/// The software through which the people of the demo act.
const AGENT: &str = "demo-agent";

const PEOPLE: [Person; 2] = [
    Person { name: "alice", groups: &["staff", "support"], tenant: "acme" },
    Person { name: "bob", groups: &["sales", "staff"], tenant: "acme" },
];

const TARGETS: [Target; 2] = [
    Target { audience: "crm-api", scopes: &[("crm.read", "crm:read"), ("crm.write", "crm:write")] },
    Target { audience: "notes-api", scopes: &[("notes.read", "notes:read"), ("notes.write", "notes:write")] },
];

const CLIENT_CREDENTIALS: &str = "client_credentials";
const TOKEN_EXCHANGE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";
const ACCESS_TOKEN: &str = "urn:ietf:params:oauth:token-type:access_token";
const JWT: &str = "urn:ietf:params:oauth:token-type:jwt";
const KEY_ID: &str = "demo-1";

/// The life of a person's token, and of one for a sample server.
const PERSON_SECONDS: u64 = 3_600;
const GRANT_SECONDS: u64 = 300;
