//! Does an upstream say the same of itself as the configuration does?
//!
//! Its protected resource metadata (RFC 9728), where it has any: which resource it is, and whose tokens it takes. Where that
//! is another, nothing is asked for in a user's name (RC-20, RC-24). No server is found by them: which one is asked stands
//! in the configuration, and an upstream without metadata is believed to fit it.

use std::time::Duration;

use bytes::Bytes;
use http::{Request, header::ACCEPT};
use serde_json::{Map, Value};
use url::Url;

use crate::{
    config::{Remote, Transport, Upstream},
    egress::{Bounds, Client, Trust},
    identity::strict,
};

/// An upstream, as the configuration has it.
#[derive(Debug)]
pub(super) struct Resource {
    /// What tokens for it are asked for (RFC 8707).
    name: String,
    places: [Url; 2],
    client: Client,
}

impl Resource {
    /// The upstream under this name; none where it is a program.
    ///
    /// # Errors
    /// A text that says what of its certificates cannot be used.
    pub(super) fn of(upstream: &Upstream, name: &str) -> Result<Option<Self>, String> {
        let remote = match &upstream.transport {
            Transport::Http(remote) | Transport::Sse(remote) => remote,
            Transport::Stdio(_) => return Ok(None),
        };
        let Remote { url, ca, client_certificate, insecure_http } = remote;
        let (ca, client_certificate) = (ca.clone(), client_certificate.clone());
        let trust = Trust { ca, client_certificate, plain_http: *insecure_http };
        let client = Client::new(&trust).map_err(|error| error.to_string())?;
        Ok(Some(Self { name: name.to_owned(), places: places(url), client }))
    }

    /// Whether it takes tokens of `issuer`, under its name.
    ///
    /// # Errors
    /// A text that says what it contradicts; never what it says.
    pub(super) async fn takes_tokens_of(&self, issuer: &str) -> Result<(), String> {
        for place in &self.places {
            if let Some(document) = self.document(place).await {
                return agrees(&document, &self.name, issuer).map_err(|why| format!("`{place}` {why}"));
            }
        }
        Ok(())
    }

    /// What stands there, where it is metadata.
    async fn document(&self, place: &Url) -> Option<Map<String, Value>> {
        let request = Request::get(place.as_str()).header(ACCEPT, "application/json").body(Bytes::new()).ok()?;
        let response = self.client.fetch(request, METADATA).await.ok()?;
        let document = response.status().is_success().then(|| strict::object(response.body())).flatten()?;
        document.get("resource").is_some_and(Value::is_string).then_some(document)
    }
}

/// RFC 9728 §3.1 puts the well-known part before the resource's path; a server of one resource may have it at the root.
fn places(url: &Url) -> [Url; 2] {
    [url.path(), ""].map(|path| {
        let mut place = url.clone();
        place.set_path(&format!("/.well-known/oauth-protected-resource{}", if path == "/" { "" } else { path }));
        place.set_query(None);
        place
    })
}

/// RFC 9728 §2 and §3.3. Which servers there are need not be said.
fn agrees(document: &Map<String, Value>, name: &str, issuer: &str) -> Result<(), String> {
    if !document.get("resource").and_then(Value::as_str).is_some_and(|named| same(named, name)) {
        return Err(format!("is of another resource than `{name}`"));
    }
    let servers = document.get("authorization_servers").and_then(Value::as_array).filter(|servers| !servers.is_empty());
    let named = |servers: &Vec<Value>| servers.iter().filter_map(Value::as_str).any(|server| same(server, issuer));
    if servers.is_none_or(named) { Ok(()) } else { Err(format!("does not name the authorization server `{issuer}`")) }
}

/// Both forms of a name that ends with its host are in use, and mean one thing.
fn same(left: &str, right: &str) -> bool {
    left.trim_end_matches('/') == right.trim_end_matches('/')
}

/// A few names.
const METADATA: Bounds = Bounds { deadline: Duration::from_secs(3), bytes_max: 64 * 1024 };

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_are_looked_for_before_the_path_and_at_the_root() {
        let texts = |url: &str| places(&url.parse().unwrap()).map(String::from);
        let root = "https://crm.internal:8443/.well-known/oauth-protected-resource";
        assert_eq!(texts("https://crm.internal:8443/a/mcp?x=1"), [format!("{root}/a/mcp"), root.to_owned()]);
        assert_eq!(texts("https://crm.internal:8443"), [root, root]);
    }

    #[test]
    fn another_resource_and_another_server_are_contradictions() {
        let judged = |document: &str| {
            let document = strict::object(document.as_bytes()).unwrap();
            agrees(&document, "https://crm.internal/mcp", "https://as.example")
        };
        for document in [
            r#"{"resource":"https://crm.internal/mcp"}"#,
            r#"{"resource":"https://crm.internal/mcp/","authorization_servers":[]}"#,
            r#"{"resource":"https://crm.internal/mcp","authorization_servers":["https://b.example","https://as.example/"]}"#,
        ] {
            assert_eq!(judged(document), Ok(()), "{document}");
        }
        for (document, why) in [
            (r#"{"resource":"https://evil.example/mcp","authorization_servers":["https://as.example"]}"#, "resource"),
            (r#"{"resource":"https://crm.internal/MCP"}"#, "resource"),
            (r#"{"resource":7}"#, "resource"),
            (r#"{"resource":"https://crm.internal/mcp","authorization_servers":["https://evil.example"]}"#, "server"),
            (r#"{"resource":"https://crm.internal/mcp","authorization_servers":[7]}"#, "server"),
        ] {
            let said = judged(document).unwrap_err();
            assert!(said.contains(why) && !said.contains("evil"), "{document}: {said}");
        }
    }
}
