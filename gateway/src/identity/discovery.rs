//! What does an authorization server say of itself?
//!
//! Its metadata (RFC 8414, OpenID Connect Discovery), which have to be its own, and the key set that they name, over
//! `egress`. A server is asked because the configuration names it, never because a token does. It keeps nothing.

use std::time::Duration;

use bytes::Bytes;
use http::{Request, header};
use serde_json::{Map, Value};
use url::Url;

use super::{keyset::KeySet, strict};
use crate::{
    config::Issuer,
    egress::{Bounds, Client},
};

/// Metadata of the largest providers is below 20 KiB.
const METADATA: Bounds = Bounds { deadline: Duration::from_secs(3), bytes_max: 64 * 1024 };
/// Sixty-four keys with certificates.
const KEY_SET: Bounds = Bounds { deadline: Duration::from_secs(3), bytes_max: 256 * 1024 };

/// The keys of `issuer`, or why they cannot be had, for the log.
///
/// What the configuration names, and the same origin as that, may be anywhere; another place that the metadata name has to
/// be public (`outside`).
pub(super) async fn keys((client, outside): (&Client, &Client), issuer: &Issuer) -> Result<KeySet, String> {
    let (address, by) = match &issuer.jwks_uri {
        Some(configured) => (configured.clone(), client),
        None => {
            let read = |own: &Own<'_>| own.endpoint("jwks_uri")?.ok_or_else(|| "no `jwks_uri`".to_owned());
            let found = metadata(client, &issuer.issuer, read).await?;
            let by = if is_of(&issuer.issuer, &found) { client } else { outside };
            (found, by)
        }
    };
    let read = document(by, &address, KEY_SET).await;
    let read = read.and_then(|document| KeySet::read(&document, &issuer.algorithms).map_err(str::to_owned));
    read.map_err(|why| format!("`{address}`: {why}"))
}

/// Whether `place` is of the origin of `issuer`.
pub(crate) fn is_of(issuer: &str, place: &Url) -> bool {
    issuer.parse::<Url>().is_ok_and(|own| own.origin() == place.origin())
}

/// What `read` finds in the first metadata document of `issuer` that it can make use of.
pub(crate) async fn metadata<T>(
    client: &Client,
    issuer: &str,
    read: impl Fn(&Own<'_>) -> Result<T, String>,
) -> Result<T, String> {
    let mut why = Vec::new();
    for address in places(issuer)? {
        let found = document(client, &address, METADATA).await;
        let found = found.and_then(|document| Own::of(issuer, &document).and_then(|own| read(&own)));
        match found {
            Ok(found) => return Ok(found),
            Err(error) => why.push(format!("`{address}`: {error}")),
        }
    }
    Err(why.join("; "))
}

/// Metadata that are the server's own.
pub(crate) struct Own<'a> {
    issuer: &'a str,
    members: Map<String, Value>,
}

impl<'a> Own<'a> {
    pub(crate) fn of(issuer: &'a str, document: &[u8]) -> Result<Self, String> {
        let members = strict::object(document).ok_or("not a JSON object, or a member twice")?;
        // RFC 8414 §3.3: anything else is somebody else's metadata.
        if members.get("issuer").and_then(Value::as_str) != Some(issuer) {
            return Err("`issuer` is not the one asked for".to_owned());
        }
        Ok(Self { issuer, members })
    }

    /// Whose they are.
    pub(crate) const fn issuer(&self) -> &str {
        self.issuer
    }

    /// Where one of its endpoints is. `egress` takes plain HTTP to this machine; a remote server must not be able to send
    /// the gateway there.
    pub(crate) fn endpoint(&self, name: &str) -> Result<Option<Url>, String> {
        let Some(value) = self.members.get(name) else { return Ok(None) };
        let url =
            value.as_str().and_then(|text| Url::parse(text).ok()).ok_or_else(|| format!("`{name}` is not a URL"))?;
        let plain = url.scheme() != "https" && (self.issuer.starts_with("https:") || url.scheme() != "http");
        if plain || url.fragment().is_some() {
            return Err(format!("`{name}` is not https, or has a fragment"));
        }
        Ok(Some(url))
    }

    /// Whether a list has this word; nothing where there is no list.
    pub(crate) fn lists(&self, name: &str, word: &str) -> Option<bool> {
        let list = self.members.get(name)?.as_array();
        Some(list.is_some_and(|words| words.iter().any(|known| known.as_str() == Some(word))))
    }

    /// Whether it says that something is so.
    pub(crate) fn says(&self, name: &str) -> bool {
        self.members.get(name) == Some(&Value::Bool(true))
    }
}

/// RFC 8414 §3.1 puts the well-known part before the issuer's path, OIDC Discovery §4 behind it; both are in use, for
/// both documents.
fn places(issuer: &str) -> Result<Vec<Url>, String> {
    let base: Url = issuer.parse().map_err(|error| format!("`{issuer}` is not a URL: {error}"))?;
    let path = base.path().trim_end_matches('/');
    let mut places = vec![
        format!("/.well-known/oauth-authorization-server{path}"),
        format!("{path}/.well-known/openid-configuration"),
    ];
    if !path.is_empty() {
        places.push(format!("/.well-known/openid-configuration{path}"));
    }
    let at = |path: String| {
        let mut url = base.clone();
        url.set_path(&path);
        url.set_query(None);
        url
    };
    Ok(places.into_iter().map(at).collect())
}

async fn document(client: &Client, address: &Url, bounds: Bounds) -> Result<Bytes, String> {
    let request = Request::get(address.as_str())
        .header(header::ACCEPT, "application/json, application/jwk-set+json")
        .body(Bytes::new())
        .map_err(|error| error.to_string())?;
    let response = client.fetch(request, bounds).await.map_err(|error| error.to_string())?;
    if !response.status().is_success() {
        return Err(format!("answered {}", response.status().as_u16()));
    }
    Ok(response.into_body())
}

#[cfg(test)]
mod tests {
    use super::{Own, places};

    #[test]
    fn both_conventions_are_tried_with_and_without_a_path() {
        let texts = |issuer: &str| places(issuer).unwrap().iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(
            texts("https://login.example/realms/corp"),
            [
                "https://login.example/.well-known/oauth-authorization-server/realms/corp",
                "https://login.example/realms/corp/.well-known/openid-configuration",
                "https://login.example/.well-known/openid-configuration/realms/corp",
            ]
        );
        assert_eq!(
            texts("https://login.example/"),
            [
                "https://login.example/.well-known/oauth-authorization-server",
                "https://login.example/.well-known/openid-configuration",
            ]
        );
        assert!(places("not a url").is_err());
    }

    #[test]
    fn metadata_are_the_servers_own_and_lead_nowhere_else() {
        for (document, fine) in [
            (r#"{"issuer":"https://login.example","jwks_uri":"https://keys.example/jwks"}"#, true),
            (r#"{"issuer":"https://login.example/","jwks_uri":"https://keys.example/jwks"}"#, false),
            (r#"{"issuer":"https://evil.example","jwks_uri":"https://keys.example/jwks"}"#, false),
            (r#"{"issuer":"https://login.example","jwks_uri":"http://127.0.0.1/jwks"}"#, false),
            (r#"{"issuer":"https://login.example","jwks_uri":"javascript:alert(1)"}"#, false),
            (r#"{"issuer":"https://login.example","jwks_uri":"https://keys.example/jwks#x"}"#, false),
            (r#"{"issuer":"https://login.example","jwks_uri":7}"#, false),
            (r#"{"issuer":"https://login.example"}"#, false),
            (r#"{"issuer":"x","issuer":"https://login.example","jwks_uri":"https://k.example/"}"#, false),
            ("[]", false),
        ] {
            let found = Own::of("https://login.example", document.as_bytes()).and_then(|own| own.endpoint("jwks_uri"));
            assert_eq!(found.is_ok_and(|found| found.is_some()), fine, "{document}");
        }
        let local =
            Own::of("http://127.0.0.1:1", br#"{"issuer":"http://127.0.0.1:1","jwks_uri":"http://127.0.0.1:1/"}"#);
        assert!(local.unwrap().endpoint("jwks_uri").unwrap().is_some());
    }
}
