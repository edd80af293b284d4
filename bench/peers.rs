//! What stands around the proxies: an upstream, an issuer, a collector.
//!
//! The upstream is a server of both MCP 2026-07-28 and 2025-11-25 that answers from prepared bytes; the issuer signs callers' tokens and
//! exchanges them (RFC 8693); the collector swallows telemetry. They are as cheap as they can be, and all on this side.

use std::{net::SocketAddr, sync::Arc, time::SystemTime};

use jsonwebtoken::{Algorithm, EncodingKey, Header, jwk::Jwk};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};

use crate::wire::{Message, Wire};

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

/// The issuer, with one caller's token.
pub struct Issuer {
    pub url: String,
    key: EncodingKey,
}

impl Issuer {
    pub async fn start() -> Self {
        let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        let key = EncodingKey::from_ec_pem(pair.serialize_pem().as_bytes()).unwrap();
        let mut jwk = Jwk::from_encoding_key(&key, Algorithm::ES256).unwrap();
        jwk.common.key_id = Some(KEY_ID.to_owned());
        let keys = json!({ "keys": [jwk] }).to_string();
        let url = Arc::new(std::sync::OnceLock::<String>::new());
        let (own, signing) = (Arc::clone(&url), key.clone());
        let address = serve(move |request| {
            let url = own.get().unwrap();
            Reply::Json(match request.path() {
                "/jwks" => keys.clone(),
                "/token" => grant(url, &signing),
                _ => metadata(url),
            })
        })
        .await;
        let url = url.get_or_init(|| format!("http://{address}")).clone();
        Self { url, key }
    }

    /// The token of somebody with a handful of groups, for the resource `audience`; about 800 bytes.
    pub fn caller(&self, audience: &str) -> String {
        let groups = ["staff", "support", "emea", "oncall"].map(str::to_owned);
        self.token(audience, "5f0c1a52-6ad4-4b0e-9a53-0d6ad0c4f6b1", &groups)
    }

    /// The same of anybody.
    pub fn token(&self, audience: &str, subject: &str, groups: &[String]) -> String {
        let claims = json!({
            "iss": self.url, "aud": audience, "sub": subject, "client_id": "bench-agent",
            "scope": "bench:read bench:call", "tenant": "acme", "groups": groups,
            "jti": "2c9f2f2e-0b1e-4a68-8a3a-6a6f4d7a8f10", "iat": now(), "exp": now() + 3_600,
        });
        sign(&self.key, &claims)
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

/// RFC 8693 §2.2.1; the same for a token in the gateway's own name, where the type of the token is of no interest.
fn grant(url: &str, key: &EncodingKey) -> String {
    let claims = json!({
        "iss": url, "aud": "bench-api", "sub": "5f0c1a52-6ad4-4b0e-9a53-0d6ad0c4f6b1", "client_id": "tollgate",
        "scope": "bench.call", "act": { "sub": "bench-agent" }, "iat": now(), "exp": now() + 3_600,
    });
    json!({
        "access_token": sign(key, &claims), "token_type": "Bearer", "expires_in": 3_600, "scope": "bench.call",
        "issued_token_type": "urn:ietf:params:oauth:token-type:access_token",
    })
    .to_string()
}

fn sign(key: &EncodingKey, claims: &Value) -> String {
    let mut header = Header::new(Algorithm::ES256);
    header.typ = Some("at+jwt".to_owned());
    header.kid = Some(KEY_ID.to_owned());
    jsonwebtoken::encode(&header, claims, key).unwrap()
}

fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs()
}

/// A collector of OTLP/HTTP that looks at nothing.
pub async fn collector() -> SocketAddr {
    serve(|_request| Reply::Json("{}".to_owned())).await
}

const KEY_ID: &str = "bench-1";

/// An answer of the upstream, about; and what of it is not its text.
const RESULT_BYTES: usize = 560;
const RESULT_FRAME_BYTES: usize = 120;
