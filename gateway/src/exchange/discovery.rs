//! What does an authorization server say that it can do?
//!
//! Its metadata (RFC 8414, OpenID Connect Discovery), read when they are first needed and kept. It takes no metadata that
//! are not the server's own, and asks for no token.

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use http::{Request, header::ACCEPT};
use serde_json::{Map, Value};
use tokio::sync::Mutex;
use url::Url;

use super::{answer::Fault, resource::Resource};
use crate::{
    clock::Timestamp,
    config::dialects::JWT_BEARER,
    egress::{Bounds, Client},
    identity::{discovery::places, strict},
};

/// One server's metadata.
#[derive(Debug)]
pub(super) struct Discovery {
    issuer: String,
    client: Client,
    /// The upstream that takes its tokens, which may say whose those are.
    upstream: Option<Resource>,
    known: ArcSwapOption<Known>,
    /// One asks; who waits finds the answer.
    asking: Mutex<Option<Failure>>,
}

#[derive(Debug)]
struct Known {
    metadata: Arc<Metadata>,
    read_at: Timestamp,
}

#[derive(Debug)]
struct Failure {
    why: String,
    until: Timestamp,
}

/// What is made use of.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Metadata {
    pub(super) issuer: String,
    pub(super) token_endpoint: Url,
    pub(super) authorization_endpoint: Option<Url>,
    pub(super) revocation_endpoint: Option<Url>,
    /// Whether PKCE with S256 is there (RFC 7636 §4.2).
    pub(super) s256: bool,
    /// Whether `iss` comes with each authorization response (RFC 9207 §3).
    pub(super) names_issuer: bool,
    /// Whether it redeems identity assertions.
    pub(super) id_jag: bool,
}

impl Discovery {
    pub(super) fn new(issuer: String, client: Client) -> Self {
        Self { issuer, client, upstream: None, known: ArcSwapOption::empty(), asking: Mutex::new(None) }
    }

    /// It is of use only where this upstream takes its tokens.
    pub(super) fn with_tokens_for(self, upstream: Option<Resource>) -> Self {
        Self { upstream, ..self }
    }

    /// The metadata; what was read stays good for a day while nothing newer can be had.
    pub(super) async fn metadata(&self, now: Timestamp) -> Result<Arc<Metadata>, Fault> {
        if let Some(metadata) = self.kept(now, FRESH_FOR) {
            return Ok(metadata);
        }
        let mut failure = self.asking.lock().await;
        if let Some(metadata) = self.kept(now, FRESH_FOR) {
            return Ok(metadata);
        }
        let why = match failure.take_if(|failure| now < failure.until) {
            Some(failure) => failure.why,
            None => match self.read().await {
                Ok(metadata) => {
                    let metadata = Arc::new(metadata);
                    let known = Known { metadata: Arc::clone(&metadata), read_at: now };
                    self.known.store(Some(Arc::new(known)));
                    return Ok(metadata);
                }
                Err(why) => why,
            },
        };
        *failure = Some(Failure { why: why.clone(), until: now.plus(FAILED_FOR) });
        self.kept(now, STALE_FOR).ok_or(Fault::Unusable(why))
    }

    fn kept(&self, now: Timestamp, within: Duration) -> Option<Arc<Metadata>> {
        let known = self.known.load();
        let known = known.as_ref()?;
        (now.since(known.read_at) < within).then(|| Arc::clone(&known.metadata))
    }

    async fn read(&self) -> Result<Metadata, String> {
        if let Some(upstream) = &self.upstream {
            upstream.takes_tokens_of(&self.issuer).await.inspect_err(|_contradiction| {
                // Nor is what was good before: the upstream has gone elsewhere since (SEP-2352).
                self.known.store(None);
            })?;
        }
        let mut why = Vec::new();
        for address in places(&self.issuer)? {
            match self.document(&address).await.and_then(|document| metadata(&self.issuer, &document)) {
                Ok(metadata) => return Ok(metadata),
                Err(error) => why.push(format!("`{address}`: {error}")),
            }
        }
        Err(why.join("; "))
    }

    async fn document(&self, address: &Url) -> Result<Bytes, String> {
        let request = Request::get(address.as_str()).header(ACCEPT, "application/json").body(Bytes::new());
        let request = request.map_err(|error| error.to_string())?;
        let response = self.client.fetch(request, METADATA).await.map_err(|error| error.to_string())?;
        if !response.status().is_success() {
            return Err(format!("answered {}", response.status().as_u16()));
        }
        Ok(response.into_body())
    }
}

fn metadata(issuer: &str, document: &[u8]) -> Result<Metadata, String> {
    let document = strict::object(document).ok_or("not a JSON object, or a member twice")?;
    // RFC 8414 §3.3: anything else is somebody else's metadata.
    if document.get("issuer").and_then(Value::as_str) != Some(issuer) {
        return Err("`issuer` is not the one asked for".to_owned());
    }
    let encrypted = issuer.starts_with("https:");
    let lists = |name: &str, word: &str| {
        let list = document.get(name).and_then(Value::as_array);
        list.is_some_and(|words| words.iter().any(|known| known.as_str() == Some(word)))
    };
    // A server of before there were profiles names the type of grant alone.
    let profiles = "authorization_grant_profiles_supported";
    let id_jag = match document.get(profiles) {
        Some(_) => lists(profiles, "urn:ietf:params:oauth:grant-profile:id-jag"),
        None => lists("grant_types_supported", JWT_BEARER),
    };
    Ok(Metadata {
        issuer: issuer.to_owned(),
        token_endpoint: endpoint(&document, "token_endpoint", encrypted)?.ok_or("no `token_endpoint`")?,
        authorization_endpoint: endpoint(&document, "authorization_endpoint", encrypted)?,
        revocation_endpoint: endpoint(&document, "revocation_endpoint", encrypted)?,
        s256: lists("code_challenge_methods_supported", "S256"),
        names_issuer: document.get("authorization_response_iss_parameter_supported") == Some(&Value::Bool(true)),
        id_jag,
    })
}

/// `egress` takes plain HTTP to this machine; a remote server must not be able to send the gateway there.
fn endpoint(document: &Map<String, Value>, name: &str, encrypted: bool) -> Result<Option<Url>, String> {
    let Some(value) = document.get(name) else { return Ok(None) };
    let url = value.as_str().and_then(|text| Url::parse(text).ok()).ok_or(format!("`{name}` is not a URL"))?;
    let plain = url.scheme() != "https" && (encrypted || url.scheme() != "http");
    if plain || url.fragment().is_some() {
        return Err(format!("`{name}` is not https, or has a fragment"));
    }
    Ok(Some(url))
}

/// Metadata of the largest providers are below 20 KiB.
const METADATA: Bounds = Bounds { deadline: Duration::from_secs(3), bytes_max: 64 * 1024 };

/// How long metadata are not read again.
const FRESH_FOR: Duration = Duration::from_secs(3_600);

/// How long they are better than none.
const STALE_FOR: Duration = Duration::from_secs(86_400);

/// How long a server is not asked again that could not be read.
const FAILED_FOR: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use super::metadata;

    #[test]
    fn metadata_are_the_servers_own_and_lead_nowhere_else() {
        let read = |more: &str| {
            metadata("https://as.example", format!(r#"{{"issuer":"https://as.example"{more}}}"#).as_bytes())
        };
        let whole = read(
            r#","token_endpoint":"https://as.example/token","authorization_endpoint":"https://as.example/auth",
            "code_challenge_methods_supported":["plain","S256"],"authorization_response_iss_parameter_supported":true,
            "authorization_grant_profiles_supported":["urn:ietf:params:oauth:grant-profile:id-jag"]"#,
        )
        .unwrap();
        assert!(whole.s256 && whole.names_issuer && whole.id_jag && whole.revocation_endpoint.is_none());
        let bare = read(r#","token_endpoint":"https://as.example/token","code_challenge_methods_supported":["plain"]"#);
        let bare = bare.unwrap();
        assert!(!bare.s256 && !bare.names_issuer && !bare.id_jag && bare.authorization_endpoint.is_none());
        let grant = r#""grant_types_supported":["urn:ietf:params:oauth:grant-type:jwt-bearer"]"#;
        for (profiles, id_jag) in [("", true), (r#","authorization_grant_profiles_supported":["other"]"#, false)] {
            let more = format!(r#","token_endpoint":"https://as.example/token",{grant}{profiles}"#);
            assert_eq!(read(&more).unwrap().id_jag, id_jag, "{more}");
        }
        for more in [
            "",
            r#","token_endpoint":"http://as.example/token""#,
            r#","token_endpoint":"javascript:alert(1)""#,
            r#","token_endpoint":"https://as.example/token#x""#,
            r#","token_endpoint":7"#,
            r#","token_endpoint":"https://as.example/token","authorization_endpoint":"http://127.0.0.1/auth""#,
            r#","issuer":"https://as.example","token_endpoint":"https://as.example/token""#,
        ] {
            assert!(read(more).is_err(), "{more}");
        }
        assert!(metadata("https://as.example/", br#"{"issuer":"https://as.example"}"#).is_err());
    }
}
