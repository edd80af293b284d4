//! What does a modern MCP server look like?
//!
//! `crm`, MCP 2026-07-28: stateless, every request complete in itself. Its answers carry the claims of the token that
//! they were asked under, so that the demo can show what arrives behind the gateway; no real server should do that.

use std::collections::BTreeSet;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use parking_lot::Mutex;
use serde_json::{Map, Value, json};

use super::{Asked, Verifier, answered, failed, lacks, only, result, schema, text};
use crate::demo::{
    loopback::{self, Body, Serve},
    token::{self, Claims},
};

/// The server and its customers.
pub(in crate::demo) struct Crm {
    verifier: Verifier,
    deleted: Mutex<BTreeSet<String>>,
    orders: Mutex<u64>,
}

impl Crm {
    pub(in crate::demo) fn new(verifier: Verifier) -> Self {
        Self { verifier, deleted: Mutex::default(), orders: Mutex::new(0) }
    }

    fn answer(&self, asked: &Asked, claims: &Claims) -> Response<Body> {
        match asked.method.as_str() {
            "server/discover" => answered(asked.id(), &discovered()),
            "tools/list" if !token::holds(claims, "crm.read") => lacks("crm.read"),
            "tools/list" => answered(asked.id(), &listed()),
            "tools/call" => self.call(asked, claims),
            _ => failed(StatusCode::NOT_FOUND, asked.id(), -32601, "method not found"),
        }
    }

    fn call(&self, asked: &Asked, claims: &Claims) -> Response<Body> {
        let (name, arguments) = asked.tool();
        let scope = match name {
            "find_customer" => "crm.read",
            "create_order" | "delete_customer" => "crm.write",
            _ => return failed(StatusCode::OK, asked.id(), -32602, "unknown tool"),
        };
        if !token::holds(claims, scope) {
            return lacks(scope);
        }
        let outcome = match name {
            "find_customer" => self.find(&arguments),
            "create_order" => self.order(&arguments),
            _ => self.delete(&arguments),
        };
        let shown = outcome.map(|mut data| {
            if let Some(members) = data.as_object_mut() {
                members.insert("received_token".to_owned(), Value::Object(claims.clone()));
            }
            data
        });
        let mut result = result(shown);
        if let Some(members) = result.as_object_mut() {
            members.insert("resultType".to_owned(), "complete".into());
        }
        answered(asked.id(), &result)
    }

    fn find(&self, arguments: &Map<String, Value>) -> Result<Value, String> {
        only(arguments, &["query"])?;
        let query = text(arguments, "query")?.to_lowercase();
        let deleted = self.deleted.lock();
        let found: Vec<Value> = CUSTOMERS
            .iter()
            .filter(|(id, name)| !deleted.contains(*id) && (name.to_lowercase().contains(&query) || *id == query))
            .map(|(id, name)| json!({ "id": id, "name": name }))
            .collect();
        Ok(json!({ "customers": found }))
    }

    fn order(&self, arguments: &Map<String, Value>) -> Result<Value, String> {
        only(arguments, &["customer", "amount", "currency"])?;
        let customer = self.known(text(arguments, "customer")?)?;
        let amount = arguments.get("amount").and_then(Value::as_i64).filter(|amount| *amount > 0);
        let amount = amount.ok_or("`amount` must be a positive integer")?;
        let currency = text(arguments, "currency")?;
        if currency.len() != 3 || !currency.bytes().all(|b| b.is_ascii_uppercase()) {
            return Err("`currency` must be a code of ISO 4217".to_owned());
        }
        let mut orders = self.orders.lock();
        *orders = orders.saturating_add(1);
        Ok(json!({ "order": format!("o-{orders}"), "customer": customer, "amount": amount, "currency": currency }))
    }

    fn delete(&self, arguments: &Map<String, Value>) -> Result<Value, String> {
        only(arguments, &["id"])?;
        let id = self.known(text(arguments, "id")?)?;
        self.deleted.lock().insert(id.to_owned());
        Ok(json!({ "deleted": id }))
    }

    fn known(&self, id: &str) -> Result<&'static str, String> {
        let known = CUSTOMERS.iter().map(|(known, _)| *known).find(|known| *known == id);
        known.filter(|id| !self.deleted.lock().contains(*id)).ok_or_else(|| "no such customer".to_owned())
    }
}

impl Serve for Crm {
    async fn serve(&self, request: Request<Bytes>) -> Response<Body> {
        if request.headers().contains_key("origin") {
            return loopback::empty(StatusCode::FORBIDDEN);
        }
        if request.uri().path() != "/mcp" {
            return loopback::empty(StatusCode::NOT_FOUND);
        }
        let claims = match self.verifier.admit(request.headers()).await {
            Ok(claims) => claims,
            Err(refused) => return *refused,
        };
        if request.method() != Method::POST {
            return loopback::empty(StatusCode::METHOD_NOT_ALLOWED);
        }
        match Asked::read(request.body()) {
            Err(refused) => *refused,
            Ok(asked) => match agreed(request.headers(), &asked) {
                Err(refused) => *refused,
                Ok(()) => self.answer(&asked, &claims),
            },
        }
    }
}

/// What every modern request brings (MCP 2026-07-28 basic, `_meta`; basic/transports, Standard Request Headers), in the
/// order in which it is missed.
fn agreed(headers: &HeaderMap, asked: &Asked) -> Result<(), Box<Response<Body>>> {
    let bad = |code, why: &str| Err(Box::new(failed(StatusCode::BAD_REQUEST, asked.id(), code, why)));
    if asked.id.is_none() {
        return bad(-32600, "this server takes no notifications");
    }
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().trim();
    let meta = asked.params.get("_meta");
    let member = |key: &str| meta.and_then(|meta| meta.get(format!("io.modelcontextprotocol/{key}")));
    let Some(version) = member("protocolVersion").and_then(Value::as_str) else {
        return bad(-32602, "`_meta` lacks `io.modelcontextprotocol/protocolVersion`");
    };
    if !member("clientCapabilities").is_some_and(Value::is_object) {
        return bad(-32602, "`_meta` lacks `io.modelcontextprotocol/clientCapabilities`");
    }
    if header("mcp-protocol-version") != version {
        return bad(-32020, "`MCP-Protocol-Version` does not agree with the body");
    }
    if version != VERSION {
        let data = json!({ "supported": [VERSION], "requested": version });
        let error = json!({ "code": -32022, "message": "unsupported protocol version", "data": data });
        let answer = json!({ "jsonrpc": "2.0", "id": asked.id(), "error": error });
        return Err(Box::new(loopback::json(StatusCode::BAD_REQUEST, &answer)));
    }
    if header("mcp-method") != asked.method {
        return bad(-32020, "`Mcp-Method` does not agree with the body");
    }
    if asked.method == "tools/call" && header("mcp-name") != asked.tool().0 {
        return bad(-32020, "`Mcp-Name` does not agree with the body");
    }
    Ok(())
}

fn discovered() -> Value {
    json!({
        "resultType": "complete",
        "supportedVersions": [VERSION],
        "capabilities": { "tools": {} },
        "instructions": "Customers and their orders. Amounts are whole units of the currency.",
        "ttlMs": 60_000,
        "cacheScope": "public",
        "_meta": { "io.modelcontextprotocol/serverInfo": { "name": "crm", "version": "1.0.0" } },
    })
}

fn listed() -> Value {
    let words = |description: &str| json!({ "type": "string", "description": description });
    json!({
        "resultType": "complete",
        "tools": [
            {
                "name": "find_customer",
                "description": "Finds customers by a part of their name, or by id.",
                "inputSchema": schema(&json!({ "query": words("a part of the name, or an id") }), &["query"]),
                "annotations": { "readOnlyHint": true },
            },
            {
                "name": "create_order",
                "description": "Places an order for a customer.",
                "inputSchema": schema(
                    &json!({
                        "customer": words("the customer's id"),
                        "amount": { "type": "integer", "description": "whole units of the currency" },
                        "currency": words("a code of ISO 4217"),
                    }),
                    &["customer", "amount", "currency"],
                ),
                "annotations": { "readOnlyHint": false, "destructiveHint": false },
            },
            {
                "name": "delete_customer",
                "description": "Deletes a customer for good.",
                "inputSchema": schema(&json!({ "id": words("the customer's id") }), &["id"]),
                "annotations": { "readOnlyHint": false, "destructiveHint": true },
            },
        ],
        "ttlMs": 60_000,
        "cacheScope": "public",
    })
}

const VERSION: &str = "2026-07-28";

const CUSTOMERS: [(&str, &str); 3] = [("c-1", "Ada Freight"), ("c-2", "Brook & Sons"), ("c-3", "Cedar Mills")];
