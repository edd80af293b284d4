//! How does a test speak MCP, to the byte?
//!
//! Requests of both eras, built or given whole. It checks no answer.

use std::{net::IpAddr, sync::Arc};

use rustls::ClientConfig;
use serde_json::{Value, json};
use url::{Position, Url};

use super::{
    http::{Answer, Connection, request},
    place,
};

/// Both forms that an answer can take.
pub(crate) const ACCEPT: &str = "application/json, text/event-stream";
/// The newest revision without sessions.
pub(crate) const MODERN: &str = "2026-07-28";
/// The newest revision with sessions.
pub(crate) const LEGACY: &str = "2025-11-25";

/// One client of one endpoint.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    endpoint: Url,
    token: Option<String>,
    tls: Option<Arc<ClientConfig>>,
    source: Option<IpAddr>,
}

/// A client that has initialized (revisions before 2026-07-28).
#[derive(Debug, Clone)]
pub(crate) struct Session {
    client: Client,
    id: Option<String>,
    pub(crate) initialized: Value,
}

impl Client {
    /// A client of this endpoint, without a token.
    pub(crate) fn new(endpoint: &str) -> Self {
        Self { endpoint: Url::parse(endpoint).unwrap(), token: None, tls: None, source: None }
    }

    /// With this bearer token.
    pub(crate) fn token(mut self, token: &str) -> Self {
        self.token = Some(token.to_owned());
        self
    }

    /// In the clear, from this address.
    pub(crate) fn at(self, source: IpAddr) -> Self {
        Self { source: Some(source), ..self }
    }

    /// By TLS that trusts as `config` says.
    pub(crate) fn tls(mut self, config: &Arc<ClientConfig>) -> Self {
        self.tls = Some(Arc::clone(config));
        self
    }

    /// A new connection to the endpoint.
    pub(crate) fn connection(&self) -> Connection {
        let address = self.endpoint.socket_addrs(|| None).unwrap()[0];
        match (&self.tls, self.source) {
            (None, Some(source)) => Connection::open_from(source, address),
            (None, None) => Connection::open(address),
            (Some(config), _) => Connection::open_tls(address, self.endpoint.host_str().unwrap(), config).unwrap(),
        }
    }

    /// The bytes of a POST to the endpoint with these headers besides those that every request has.
    pub(crate) fn post_bytes(&self, headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
        self.bytes("POST", headers, body)
    }

    /// The bytes of any request to the endpoint.
    pub(crate) fn bytes(&self, method: &str, headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
        let bearer = self.token.as_ref().map(|token| format!("Bearer {token}"));
        let mut all = vec![("Accept", ACCEPT)];
        all.extend(bearer.as_deref().map(|value| ("Authorization", value)));
        if !body.is_empty() {
            all.push(("Content-Type", "application/json"));
        }
        // What the test gives replaces what every request has.
        all.retain(|(name, _)| !headers.iter().any(|(given, _)| given.eq_ignore_ascii_case(name)));
        all.extend(headers);
        let host = &self.endpoint[Position::BeforeHost..Position::AfterPort];
        request(method, &self.endpoint[Position::BeforePath..Position::AfterQuery], host, &all, body)
    }

    /// A POST on a connection of its own.
    pub(crate) fn post(&self, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        self.connection().exchange(&self.post_bytes(headers, body))
    }

    /// The bytes of a modern request: metadata in the body, and the headers that mirror it.
    pub(crate) fn modern_bytes(&self, id: &Value, method: &str, params: &Value) -> Vec<u8> {
        let body = modern_body(id, method, params);
        let mut headers = vec![("MCP-Protocol-Version", MODERN), ("Mcp-Method", method)];
        let name = params["name"].as_str().or_else(|| params["uri"].as_str());
        headers.extend(name.map(|name| ("Mcp-Name", name)));
        self.post_bytes(&headers, body.to_string().as_bytes())
    }

    /// A modern request on a connection of its own.
    pub(crate) fn modern(&self, method: &str, params: &Value) -> Answer {
        self.connection().exchange(&self.modern_bytes(&json!(1), method, params))
    }

    /// The same with further headers.
    pub(crate) fn modern_showing(&self, method: &str, params: &Value, headers: &[(&str, &str)]) -> Answer {
        let body = modern_body(&json!(1), method, params);
        let mut all = vec![("MCP-Protocol-Version", MODERN), ("Mcp-Method", method)];
        all.extend(params["name"].as_str().map(|name| ("Mcp-Name", name)));
        all.extend(headers);
        self.post(&all, body.to_string().as_bytes())
    }

    /// A modern `tools/call`.
    pub(crate) fn call(&self, tool: &str, arguments: &Value) -> Answer {
        self.modern("tools/call", &json!({ "name": tool, "arguments": arguments }))
    }

    /// The names that a modern `tools/list` shows, over all pages.
    pub(crate) fn tools(&self) -> Vec<String> {
        let mut names = Vec::new();
        let mut params = json!({});
        loop {
            let answer = self.modern("tools/list", &params);
            let result = answer.json()["result"].clone();
            let page = result["tools"].as_array().unwrap_or_else(|| panic!("no tools: {}", answer.text()));
            names.extend(page.iter().map(|tool| tool["name"].as_str().unwrap().to_owned()));
            let Some(cursor) = result["nextCursor"].as_str() else { return names };
            params = json!({ "cursor": cursor });
        }
    }

    /// Waits until a modern `tools/list` shows this tool: the gateway reads its upstreams after it is ready.
    pub(crate) fn awaiting(self, tool: &str) -> Self {
        place::wait_for(tool, place::DISK_PATIENCE, || {
            let listed = self.modern("tools/list", &json!({}));
            // Until then the list of a single upstream is refused.
            let there = match listed.status() {
                503 => false,
                _ => self.tools().iter().any(|name| name == tool),
            };
            there.then_some(())
        });
        self
    }

    /// Begins to listen as a modern client does; the acknowledgement is the first event on the connection.
    pub(crate) fn listen(&self, id: &Value, notifications: &Value) -> Connection {
        let mut connection = self.connection();
        let params = json!({ "notifications": notifications });
        connection.send(&self.modern_bytes(id, "subscriptions/listen", &params)).unwrap();
        connection
    }

    /// Initializes as a legacy client does.
    pub(crate) fn initialize(&self) -> Session {
        self.initialize_with(&json!({}))
    }

    /// The same, with these capabilities.
    pub(crate) fn initialize_with(&self, capabilities: &Value) -> Session {
        let params = json!({
            "protocolVersion": LEGACY, "capabilities": capabilities, "clientInfo": { "name": "tests", "version": "1" },
        });
        let body = json!({ "jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params });
        let answer = self.post(&[], body.to_string().as_bytes());
        let id = answer.header("mcp-session-id").map(str::to_owned);
        let session = Session { client: self.clone(), id, initialized: answer.json() };
        session.notify("notifications/initialized", &json!({}));
        session
    }
}

impl Session {
    /// The session id, where the server gives one.
    pub(crate) fn id(&self) -> Option<&str> {
        self.id.as_deref()
    }

    /// The client whose session it is.
    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    /// The headers of a request in this session.
    pub(crate) fn headers(&self) -> Vec<(&str, &str)> {
        let mut headers = vec![("MCP-Protocol-Version", LEGACY)];
        headers.extend(self.id.as_deref().map(|id| ("Mcp-Session-Id", id)));
        headers
    }

    /// The bytes of a request in this session.
    pub(crate) fn bytes(&self, id: &Value, method: &str, params: &Value) -> Vec<u8> {
        let body = json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params });
        self.client.post_bytes(&self.headers(), body.to_string().as_bytes())
    }

    /// A request in this session, on a connection of its own.
    pub(crate) fn request(&self, method: &str, params: &Value) -> Answer {
        self.client.connection().exchange(&self.bytes(&json!(1), method, params))
    }

    /// A `tools/call` in this session.
    pub(crate) fn call(&self, tool: &str, arguments: &Value) -> Answer {
        self.request("tools/call", &json!({ "name": tool, "arguments": arguments }))
    }

    /// A notification in this session.
    pub(crate) fn notify(&self, method: &str, params: &Value) -> Answer {
        let body = json!({ "jsonrpc": "2.0", "method": method, "params": params });
        self.client.post(&self.headers(), body.to_string().as_bytes())
    }

    /// Opens the stream for what no request asks for.
    pub(crate) fn stream(&self) -> Connection {
        let mut connection = self.client.connection();
        let mut headers = self.headers();
        headers.push(("Accept", "text/event-stream"));
        connection.send(&self.client.bytes("GET", &headers, b"")).unwrap();
        connection
    }

    /// Ends the session.
    pub(crate) fn delete(&self) -> Answer {
        self.client.connection().exchange(&self.client.bytes("DELETE", &self.headers(), b""))
    }
}

/// The body of a modern request, with the metadata that every one carries; `_meta` in `params` is kept.
pub(crate) fn modern_body(id: &Value, method: &str, params: &Value) -> Value {
    let mut params = params.clone();
    let meta = &mut params["_meta"];
    meta["io.modelcontextprotocol/protocolVersion"] = json!(MODERN);
    meta["io.modelcontextprotocol/clientInfo"] = json!({ "name": "tests", "version": "1" });
    if meta["io.modelcontextprotocol/clientCapabilities"].is_null() {
        meta["io.modelcontextprotocol/clientCapabilities"] = json!({});
    }
    json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params })
}
