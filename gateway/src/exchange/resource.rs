//! Does an upstream say the same of itself as the configuration does?
//!
//! Its protected resource metadata (RFC 9728), where it has any: which resource it is, and whose tokens it takes. Where that
//! is another, nothing is asked for in a user's name (RC-20, RC-24). No server is found by them: which one is asked stands
//! in the configuration, and an upstream without metadata is believed to fit it. Metadata that cannot be read now say
//! nothing, neither for nor against: what was read last stands.

use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode, header::ACCEPT};
use parking_lot::Mutex;
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
    /// Its own place first.
    places: Vec<Url>,
    client: Client,
    /// What it last said against the configuration.
    contradiction: Mutex<Option<String>>,
}

/// What there is at a place.
enum Look {
    Found(Map<String, Value>),
    /// No metadata.
    Nothing,
    /// It may be otherwise a moment later.
    Unreadable,
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
        Ok(Some(Self { name: name.to_owned(), places: places(url), client, contradiction: Mutex::default() }))
    }

    /// Nothing speaks against that it takes tokens of `issuer`, under its name. Says whether that is settled: what could not
    /// be read may say otherwise, and is looked for again soon.
    ///
    /// # Errors
    /// A text that says what it contradicts; never what it says.
    pub(super) async fn takes_tokens_of(&self, issuer: &str) -> Result<bool, String> {
        let mut is_settled = true;
        for (nth, place) in self.places.iter().enumerate() {
            match self.look(place).await {
                // At the root another resource may speak of itself.
                Look::Found(document) if nth == 0 || is_of(&document, &self.name) => {
                    if let Err(why) = agrees(&document, &self.name, issuer) {
                        let why = format!("`{place}` {why}");
                        *self.contradiction.lock() = Some(why.clone());
                        return Err(why);
                    }
                    break;
                }
                Look::Found(_) | Look::Nothing => {}
                Look::Unreadable => is_settled = false,
            }
        }
        let mut contradiction = self.contradiction.lock();
        contradiction.take_if(|_| is_settled);
        contradiction.clone().map_or(Ok(is_settled), Err)
    }

    async fn look(&self, place: &Url) -> Look {
        let request = Request::get(place.as_str()).header(ACCEPT, "application/json").body(Bytes::new());
        let Ok(request) = request else { return Look::Nothing };
        let Ok(response) = self.client.fetch(request, METADATA).await else { return Look::Unreadable };
        match response.status() {
            status if status.is_success() => match strict::object(response.body()) {
                Some(document) if document.get("resource").is_some_and(Value::is_string) => Look::Found(document),
                Some(_) => Look::Nothing,
                None => Look::Unreadable,
            },
            StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS => Look::Unreadable,
            status if status.is_server_error() => Look::Unreadable,
            _ => Look::Nothing,
        }
    }
}

/// RFC 9728 §3.1 puts the well-known part before the resource's path; a server of one resource may have it at the root.
fn places(url: &Url) -> Vec<Url> {
    let place = |path: &str| {
        let mut place = url.clone();
        place.set_path(&format!("/.well-known/oauth-protected-resource{path}"));
        place.set_query(None);
        place
    };
    match url.path() {
        "/" => vec![place("")],
        path => vec![place(path), place("")],
    }
}

/// RFC 9728 §3.3.
fn is_of(document: &Map<String, Value>, name: &str) -> bool {
    document.get("resource").and_then(Value::as_str).is_some_and(|named| same(named, name))
}

/// RFC 9728 §2 and §3.3. Which servers there are need not be said.
fn agrees(document: &Map<String, Value>, name: &str, issuer: &str) -> Result<(), String> {
    if !is_of(document, name) {
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
        let texts = |url: &str| places(&url.parse().unwrap()).into_iter().map(String::from).collect::<Vec<_>>();
        let root = "https://crm.internal:8443/.well-known/oauth-protected-resource";
        assert_eq!(texts("https://crm.internal:8443/a/mcp?x=1"), [format!("{root}/a/mcp"), root.to_owned()]);
        assert_eq!(texts("https://crm.internal:8443"), [root]);
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
