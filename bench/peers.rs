//! What stands around the proxies: an upstream, an issuer, a collector.
//!
//! The upstream is a server of both MCP 2026-07-28 and 2025-11-25 that answers from prepared bytes; the issuer signs callers' tokens and
//! exchanges them (RFC 8693); the collector swallows telemetry. They are as cheap as they can be, and all on this side.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::SystemTime,
};

use jsonwebtoken::{Algorithm, EncodingKey, Header, jwk::Jwk};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use uuid::Uuid;

use crate::{
    estate,
    wire::{Message, Wire},
};

/// What goes back.
pub enum Reply {
    /// All of it, as JSON.
    Json(String),
    /// The same with 404: the method is not served.
    Absent(String),
    /// The same with 200, and a session of MCP 2025-11-25 begins.
    Begun(String),
    /// 202, with nothing more to say.
    Accepted,
    /// 405: the verb is not served.
    NotAllowed,
    /// The beginning of a stream that then says nothing more.
    Held(String),
}

/// Answers every request to a free port with `answer`, until the process ends.
pub async fn serve(answer: impl Fn(&Message<'_>) -> Reply + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let answer = Arc::new(answer);
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            stream.set_nodelay(true).unwrap();
            tokio::spawn(converse(stream, Arc::clone(&answer)));
        }
    });
    address
}

async fn converse(stream: TcpStream, answer: Arc<impl Fn(&Message<'_>) -> Reply>) {
    let mut wire = Wire::new(stream);
    while let Some(request) = wire.receive().await {
        match answer(&request) {
            Reply::Json(body) => wire.send(&whole("200 OK", &body)).await,
            Reply::Absent(body) => wire.send(&whole("404 Not Found", &body)).await,
            Reply::Begun(body) => wire.send(&whole("200 OK\r\nmcp-session-id: bench", &body)).await,
            Reply::Accepted => wire.send(&whole("202 Accepted", "")).await,
            Reply::NotAllowed => wire.send(&whole("405 Method Not Allowed\r\nallow: POST", "")).await,
            Reply::Held(event) => {
                wire.send(&stream_head(&event)).await;
                return wire.closed().await;
            }
        }
    }
}

fn whole(status: &str, body: &str) -> Vec<u8> {
    let head = format!("HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}", body.len());
    format!("{head}\r\n\r\n{body}").into_bytes()
}

/// `X-Accel-Buffering` is how a server asks nginx not to hold events back.
fn stream_head(event: &str) -> Vec<u8> {
    let head =
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nx-accel-buffering: no\r\ntransfer-encoding: chunked";
    format!("{head}\r\n\r\n{:x}\r\n{event}\r\n", event.len()).into_bytes()
}

/// The upstream's address. Method and name are taken from the headers: whoever asks has put the body's there (RS-13),
/// and whoever has not speaks the legacy era.
pub async fn upstream() -> SocketAddr {
    let text = "x".repeat(RESULT_BYTES - RESULT_FRAME_BYTES);
    let mut result = json!({ "content": [{ "type": "text", "text": text }], "isError": false });
    let legacy_result = result.to_string();
    result["resultType"] = json!("complete");
    let (result, tools, discovery) = (result.to_string(), tools().to_string(), discovery().to_string());
    serve(move |request| {
        let body = request.text();
        if request.header("mcp-method").is_none() {
            return legacy(body, &legacy_result, &tools);
        }
        let id = member(body, "\"id\":");
        let with = |result: &str| Reply::Json(format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{result}}}"#));
        match (request.header("mcp-method"), request.header("mcp-name")) {
            (Some("tools/call"), Some(name)) if name.ends_with("hold") => Reply::Held(progress(body)),
            (Some("tools/call"), _) => with(&result),
            (Some("tools/list"), _) => with(&tools),
            (Some("server/discover"), _) => with(&discovery),
            // It never says that its tools change (RS-12).
            (Some("subscriptions/listen"), _) => Reply::Absent(format!(
                r#"{{"jsonrpc":"2.0","id":{id},"error":{{"code":-32601,"message":"method not found"}}}}"#
            )),
            other => panic!("the upstream was asked for {other:?}: {body}"),
        }
    })
    .await
}

/// What a server of MCP 2025-11-25 answers. It has no streams for what nobody asked, and never forgets its session.
fn legacy(body: &str, result: &str, tools: &str) -> Reply {
    if body.is_empty() {
        return Reply::NotAllowed;
    }
    let method = member(body, "\"method\":").trim_matches('"');
    if method.starts_with("notifications/") {
        return Reply::Accepted;
    }
    let id = member(body, "\"id\":");
    let with = |result: &str| format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{result}}}"#);
    match method {
        "initialize" => Reply::Begun(with(
            r#"{"protocolVersion":"2025-11-25","capabilities":{"tools":{}},"serverInfo":{"name":"bench","version":"1"}}"#,
        )),
        "tools/call" => Reply::Json(with(result)),
        "tools/list" => Reply::Json(with(tools)),
        other => panic!("the upstream was asked for {other}: {body}"),
    }
}

/// The JSON text of a scalar after `name`, in JSON that has no blanks and where `name` comes but once.
pub fn member<'a>(body: &'a str, name: &str) -> &'a str {
    let from = body.find(name).unwrap_or_else(|| panic!("no {name} in {body}")) + name.len();
    let rest = &body[from..];
    &rest[..rest.find([',', '}']).unwrap()]
}

fn progress(body: &str) -> String {
    let token = member(body, "\"progressToken\":");
    let params = format!(r#"{{"progressToken":{token},"progress":1}}"#);
    format!(
        "event: message\ndata: {{\"jsonrpc\":\"2.0\",\"method\":\"notifications/progress\",\"params\":{params}}}\n\n"
    )
}

pub fn tools() -> Value {
    json!({
        "resultType": "complete", "ttlMs": 3_600_000, "cacheScope": "public",
        "tools": [tool("echo"), tool("pay"), tool("hold")],
    })
}

pub fn tool(name: &str) -> Value {
    let schema = json!({
        "type": "object",
        "properties": {
            "text": { "type": "string" },
            "amount": { "type": "integer" },
            "currency": { "type": "string" },
            "dry_run": { "type": "boolean" },
            "labels": { "type": "array", "items": { "type": "string" } },
        },
        "required": ["text"],
    });
    json!({ "name": name, "description": "A tool of the bench.", "inputSchema": schema })
}

pub fn discovery() -> Value {
    json!({
        "resultType": "complete", "ttlMs": 3_600_000, "cacheScope": "public",
        "supportedVersions": ["2026-07-28"], "capabilities": { "tools": {} },
        "_meta": { "io.modelcontextprotocol/serverInfo": { "name": "bench", "version": "1" } },
    })
}

/// The issuer, which vouches for whomever it is told to.
pub struct Issuer {
    pub url: String,
    keys: Vec<Key>,
    book: Arc<Book>,
}

/// What the issuer signs with.
#[derive(Clone)]
pub struct Key {
    pub algorithm: Algorithm,
    encoding: EncodingKey,
    /// Its public half.
    pub jwk: Jwk,
}

/// What the issuer remembers.
#[derive(Default)]
struct Book {
    /// What it says of each opaque token.
    said: Mutex<HashMap<String, String>>,
    exchanges: AtomicUsize,
}

impl Issuer {
    /// One that signs by the first of `algorithms` what nobody wants otherwise.
    pub async fn start(algorithms: &[Algorithm]) -> Self {
        let keys: Vec<Key> = algorithms.iter().map(|algorithm| Key::new(*algorithm)).collect();
        let published: Vec<Value> = keys.iter().map(Key::published).collect();
        let published = json!({ "keys": published }).to_string();
        let (url, book) = (Arc::new(OnceLock::<String>::new()), Arc::new(Book::default()));
        let (own, first, remembered) = (Arc::clone(&url), keys[0].clone(), Arc::clone(&book));
        let address = serve(move |request| {
            let url = own.get().unwrap();
            Reply::Json(match request.path() {
                "/jwks" => published.clone(),
                "/token" => remembered.grant(url, &first, request.text()),
                "/introspect" => remembered.said(request.text()),
                _ => metadata(url),
            })
        })
        .await;
        let url = url.get_or_init(|| format!("http://{address}")).clone();
        Self { url, keys, book }
    }

    /// The token of somebody with a handful of groups, for the resource `audience`; about 800 bytes.
    pub fn caller(&self, audience: &str) -> String {
        self.token(audience, SOMEBODY, &estate::GROUPS.map(str::to_owned))
    }

    /// The same of anybody.
    pub fn token(&self, audience: &str, subject: &str, groups: &[String]) -> String {
        self.keys[0].sign(&self.claims(audience, subject, groups))
    }

    /// What such a token says; no two are the same.
    pub fn claims(&self, audience: &str, subject: &str, groups: &[String]) -> Value {
        json!({
            "iss": self.url, "aud": audience, "sub": subject, "client_id": "bench-agent",
            "scope": "bench:read bench:call", "tenant": "acme", "groups": groups,
            "jti": Uuid::new_v4().to_string(), "iat": now(), "exp": now() + 3_600,
        })
    }

    /// A token that says `claims`, signed by the key of `algorithm`.
    pub fn sign(&self, algorithm: Algorithm, claims: &Value) -> String {
        let key = self.keys.iter().find(|key| key.algorithm == algorithm);
        key.unwrap_or_else(|| panic!("an issuer without {algorithm:?}")).sign(claims)
    }

    /// A token that says nothing itself, and is introspected.
    pub fn opaque(&self, mut claims: Value) -> String {
        let token = format!("opaque-{}", Uuid::new_v4());
        claims["active"] = json!(true);
        self.book.said.lock().insert(token.clone(), claims.to_string());
        token
    }

    /// How many tokens were exchanged so far.
    pub fn exchanges(&self) -> usize {
        self.book.exchanges.load(Ordering::Relaxed)
    }
}

impl Key {
    /// A new one, of either algorithm that is measured.
    pub fn new(algorithm: Algorithm) -> Self {
        let rsa = algorithm == Algorithm::RS256;
        let kind = if rsa { &rcgen::PKCS_RSA_SHA256 } else { &rcgen::PKCS_ECDSA_P256_SHA256 };
        let pem = rcgen::KeyPair::generate_for(kind).unwrap().serialize_pem();
        let read = if rsa { EncodingKey::from_rsa_pem } else { EncodingKey::from_ec_pem };
        let encoding = read(pem.as_bytes()).unwrap();
        let jwk = Jwk::from_encoding_key(&encoding, algorithm).unwrap();
        Self { algorithm, encoding, jwk }
    }

    fn id(&self) -> String {
        format!("bench-{:?}", self.algorithm)
    }

    fn published(&self) -> Value {
        let mut jwk = self.jwk.clone();
        jwk.common.key_id = Some(self.id());
        json!(jwk)
    }

    /// An access token (RFC 9068 §2.1).
    fn sign(&self, claims: &Value) -> String {
        let mut header = Header::new(self.algorithm);
        header.typ = Some("at+jwt".to_owned());
        header.kid = Some(self.id());
        self.signed(&header, claims)
    }

    /// Anything.
    pub fn signed(&self, header: &Header, claims: &Value) -> String {
        jsonwebtoken::encode(header, claims, &self.encoding).unwrap()
    }
}

impl Book {
    /// RFC 8693 §2.2.1; the same for a token in the gateway's own name, where the type of the token is of no interest.
    fn grant(&self, url: &str, key: &Key, form: &str) -> String {
        if form.contains("grant-type%3Atoken-exchange") {
            self.exchanges.fetch_add(1, Ordering::Relaxed);
        }
        let claims = json!({
            "iss": url, "aud": "bench-api", "sub": SOMEBODY, "client_id": "tollgate",
            "scope": "bench.call", "act": { "sub": "bench-agent" }, "iat": now(), "exp": now() + 3_600,
        });
        json!({
            "access_token": key.sign(&claims), "token_type": "Bearer", "expires_in": 3_600, "scope": "bench.call",
            "issued_token_type": "urn:ietf:params:oauth:token-type:access_token",
        })
        .to_string()
    }

    /// RFC 7662 §2.2.
    fn said(&self, form: &str) -> String {
        let token = form.split('&').find_map(|pair| pair.strip_prefix("token=")).unwrap();
        self.said.lock().get(token).cloned().unwrap_or_else(|| r#"{"active":false}"#.to_owned())
    }
}

fn metadata(url: &str) -> String {
    json!({
        "issuer": url, "jwks_uri": format!("{url}/jwks"), "token_endpoint": format!("{url}/token"),
        "response_types_supported": ["code"], "subject_types_supported": ["public"],
        "grant_types_supported": ["client_credentials", "urn:ietf:params:oauth:grant-type:token-exchange"],
    })
    .to_string()
}

pub fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs()
}

/// A collector of OTLP/HTTP that looks at nothing.
pub async fn collector() -> SocketAddr {
    serve(|_request| Reply::Json("{}".to_owned())).await
}

/// A person.
pub const SOMEBODY: &str = "5f0c1a52-6ad4-4b0e-9a53-0d6ad0c4f6b1";

/// An answer of the upstream, about; and what of it is not its text.
const RESULT_BYTES: usize = 560;
const RESULT_FRAME_BYTES: usize = 120;
