//! What stands behind the gateway in the demo?
//!
//! Two MCP servers, one of each era, that believe nothing but a token of the issuer made out to them. They know neither
//! the gateway nor each other.

pub(super) mod crm;
pub(super) mod notes;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header::WWW_AUTHENTICATE};
use jsonwebtoken::{DecodingKey, jwk::JwkSet};
use serde_json::{Map, Value, json};
use tokio::sync::OnceCell;

use super::{
    loopback::{self, Body},
    token::{self, Claims},
};
use crate::egress::{Bounds, Client};

/// Checks tokens against the issuer's published keys.
pub(super) struct Verifier {
    issuer: String,
    audience: &'static str,
    client: Client,
    key: OnceCell<DecodingKey>,
}

impl Verifier {
    pub(super) fn new(issuer: String, audience: &'static str, client: Client) -> Self {
        Self { issuer, audience, client, key: OnceCell::new() }
    }

    /// The claims of the request's token, or the answer that it gets without one (RFC 6750 §3).
    async fn admit(&self, headers: &HeaderMap) -> Result<Claims, Box<Response<Body>>> {
        let Some(token) = token::bearer(headers) else {
            return Err(Box::new(challenged(StatusCode::UNAUTHORIZED, "Bearer")));
        };
        let Ok(key) = self.key.get_or_try_init(|| self.published()).await else {
            return Err(Box::new(loopback::empty(StatusCode::SERVICE_UNAVAILABLE)));
        };
        let claims = token::verified(token, key, &self.issuer, &[self.audience]);
        claims.ok_or_else(|| Box::new(challenged(StatusCode::UNAUTHORIZED, "Bearer error=\"invalid_token\"")))
    }

    async fn published(&self) -> Result<DecodingKey, ()> {
        let request = Request::get(format!("{}/jwks", self.issuer)).body(Bytes::new()).map_err(|_never| ())?;
        let answer = self.client.fetch(request, KEYS).await.map_err(|_unreachable| ())?;
        let keys: JwkSet = serde_json::from_slice(answer.body()).map_err(|_not_keys| ())?;
        let key = keys.keys.first().ok_or(())?;
        DecodingKey::from_jwk(key).map_err(|_unusable| ())
    }
}

/// One JSON-RPC request, read.
struct Asked {
    /// Absent in a notification.
    id: Option<Value>,
    method: String,
    params: Map<String, Value>,
}

impl Asked {
    fn read(body: &[u8]) -> Result<Self, Box<Response<Body>>> {
        let Ok(message) = serde_json::from_slice::<Value>(body) else {
            return Err(Box::new(failed(StatusCode::BAD_REQUEST, &Value::Null, -32700, "not JSON")));
        };
        let method = message.get("method").and_then(Value::as_str);
        let params = match message.get("params") {
            None => Some(Map::new()),
            Some(params) => params.as_object().cloned(),
        };
        let id = message.get("id").cloned();
        let id_fits = id.as_ref().is_none_or(|id| id.is_string() || id.is_i64() || id.is_u64());
        match (method, params) {
            (Some(method), Some(params)) if id_fits && message.get("jsonrpc") == Some(&json!("2.0")) => {
                Ok(Self { id, method: method.to_owned(), params })
            }
            _ => Err(Box::new(failed(StatusCode::BAD_REQUEST, &Value::Null, -32600, "not a JSON-RPC 2.0 request"))),
        }
    }

    fn id(&self) -> &Value {
        self.id.as_ref().unwrap_or(&Value::Null)
    }

    /// The name and arguments of a `tools/call`.
    fn tool(&self) -> (&str, Map<String, Value>) {
        let name = self.params.get("name").and_then(Value::as_str).unwrap_or_default();
        (name, self.params.get("arguments").and_then(Value::as_object).cloned().unwrap_or_default())
    }
}

/// A JSON-RPC error with its HTTP status.
fn failed(status: StatusCode, id: &Value, code: i32, message: &str) -> Response<Body> {
    let mut answer = json!({ "jsonrpc": "2.0", "error": { "code": code, "message": message } });
    if let Some(members) = answer.as_object_mut().filter(|_| !id.is_null()) {
        members.insert("id".to_owned(), id.clone());
    }
    loopback::json(status, &answer)
}

fn answered(id: &Value, result: &Value) -> Response<Body> {
    loopback::json(StatusCode::OK, &json!({ "jsonrpc": "2.0", "id": id, "result": result }))
}

fn challenged(status: StatusCode, challenge: &str) -> Response<Body> {
    let mut response = loopback::empty(status);
    if let Ok(value) = HeaderValue::from_str(challenge) {
        response.headers_mut().insert(WWW_AUTHENTICATE, value);
    }
    response
}

/// RFC 6750 §3.1.
fn lacks(scope: &str) -> Response<Body> {
    challenged(StatusCode::FORBIDDEN, &format!("Bearer error=\"insufficient_scope\", scope=\"{scope}\""))
}

/// The result of a tool, as text and as data; an error of a tool is a result too (MCP server/tools, Error Handling).
fn result(outcome: Result<Value, String>) -> Value {
    match outcome {
        Ok(data) => json!({
            "content": [{ "type": "text", "text": data.to_string() }],
            "structuredContent": data,
            "isError": false,
        }),
        Err(why) => json!({ "content": [{ "type": "text", "text": why }], "isError": true }),
    }
}

/// A text argument of at most [`TEXT_BYTES_MAX`].
fn text<'a>(arguments: &'a Map<String, Value>, name: &str) -> Result<&'a str, String> {
    let found = arguments.get(name).and_then(Value::as_str).filter(|text| text.len() <= TEXT_BYTES_MAX);
    found.ok_or_else(|| format!("`{name}` must be a text of at most {TEXT_BYTES_MAX} bytes"))
}

/// Refuses arguments that the tool does not have: `additionalProperties` is false in every schema here.
fn only(arguments: &Map<String, Value>, known: &[&str]) -> Result<(), String> {
    match arguments.keys().find(|name| !known.contains(&name.as_str())) {
        None => Ok(()),
        Some(_) => Err(format!("arguments are {}", known.join(", "))),
    }
}

fn schema(properties: &Value, required: &[&str]) -> Value {
    json!({ "type": "object", "properties": properties, "required": required, "additionalProperties": false })
}

const KEYS: Bounds = Bounds { deadline: std::time::Duration::from_secs(3), bytes_max: 64 * 1024 };

const TEXT_BYTES_MAX: usize = 4_096;
