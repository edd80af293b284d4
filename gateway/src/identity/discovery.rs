//! Where does an issuer keep its keys?
//!
//! Authorization server metadata (RFC 8414) and OpenID Connect discovery, then the key set itself, over `egress`.
//! An issuer is asked because the configuration names it, never because a token does.

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
/// What the configuration names, and the same origin as that, may be anywhere; another place that the metadata names has
/// to be public (`outside`).
pub(super) async fn keys((client, outside): (&Client, &Client), issuer: &Issuer) -> Result<KeySet, String> {
    let (address, by) = match &issuer.jwks_uri {
        Some(configured) => (configured.clone(), client),
        None => {
            let found = discover(client, issuer).await?;
            let own = issuer.issuer.parse::<Url>().is_ok_and(|own| own.origin() == found.origin());
            (found, if own { client } else { outside })
        }
    };
    let document = document(by, &address, KEY_SET).await?;
    KeySet::read(&document, &issuer.algorithms).map_err(|why| format!("`{address}`: {why}"))
}

/// `jwks_uri` of the first metadata document that is the issuer's own.
async fn discover(client: &Client, issuer: &Issuer) -> Result<Url, String> {
    first(client, issuer, jwks_uri).await
}

/// The first metadata document that is the issuer's own.
pub(super) async fn metadata(client: &Client, issuer: &Issuer) -> Result<Map<String, Value>, String> {
    first(client, issuer, own).await
}

/// What `judge` finds in the first document that it does not refuse.
async fn first<T>(
    client: &Client,
    issuer: &Issuer,
    judge: fn(&[u8], &Issuer) -> Result<T, &'static str>,
) -> Result<T, String> {
    let mut why = Vec::new();
    for address in places(&issuer.issuer)? {
        let found = document(client, &address, METADATA).await;
        match found.and_then(|document| judge(&document, issuer).map_err(|why| format!("`{address}`: {why}"))) {
            Ok(found) => return Ok(found),
            Err(error) => why.push(error),
        }
    }
    Err(why.join("; "))
}

/// RFC 8414 §3.1 puts the well-known part before the issuer's path, OIDC Discovery §4 behind it; both are in use, for
/// both documents.
pub(crate) fn places(issuer: &str) -> Result<Vec<Url>, String> {
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

fn own(document: &[u8], issuer: &Issuer) -> Result<Map<String, Value>, &'static str> {
    let document = strict::object(document).ok_or("not a JSON object, or a member twice")?;
    // RFC 8414 §3.3: anything else is somebody else's metadata.
    if document.get("issuer").and_then(Value::as_str) != Some(issuer.issuer.as_str()) {
        return Err("`issuer` is not the one asked for");
    }
    Ok(document)
}

fn jwks_uri(document: &[u8], issuer: &Issuer) -> Result<Url, &'static str> {
    let document = own(document, issuer)?;
    let address = document.get("jwks_uri").and_then(Value::as_str).ok_or("no `jwks_uri`")?;
    let address: Url = address.parse().map_err(|_not_a_url| "`jwks_uri` is not a URL")?;
    // `egress` takes plain HTTP to this machine; a remote issuer must not be able to send the gateway there.
    if address.scheme() != "https" && issuer.issuer.starts_with("https:") {
        return Err("`jwks_uri` is not https");
    }
    Ok(address)
}

async fn document(client: &Client, address: &Url, bounds: Bounds) -> Result<Bytes, String> {
    let request = Request::get(address.as_str())
        .header(header::ACCEPT, "application/json, application/jwk-set+json")
        .body(Bytes::new())
        .map_err(|error| format!("`{address}`: {error}"))?;
    let response = client.fetch(request, bounds).await.map_err(|error| format!("`{address}`: {error}"))?;
    if !response.status().is_success() {
        return Err(format!("`{address}`: answered {}", response.status().as_u16()));
    }
    Ok(response.into_body())
}

#[cfg(test)]
mod tests {
    use super::{jwks_uri, places};
    use crate::identity::testing;

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
    fn metadata_of_another_issuer_is_refused() {
        let issuer = testing::issuer("https://login.example");
        for (document, fine) in [
            (r#"{"issuer":"https://login.example","jwks_uri":"https://keys.example/jwks"}"#, true),
            (r#"{"issuer":"https://login.example/","jwks_uri":"https://keys.example/jwks"}"#, false),
            (r#"{"issuer":"https://evil.example","jwks_uri":"https://keys.example/jwks"}"#, false),
            (r#"{"issuer":"https://login.example","jwks_uri":"http://127.0.0.1/jwks"}"#, false),
            (r#"{"issuer":"https://login.example"}"#, false),
            (r#"{"issuer":"x","issuer":"https://login.example","jwks_uri":"https://k.example/"}"#, false),
        ] {
            assert_eq!(jwks_uri(document.as_bytes(), &issuer).is_ok(), fine, "{document}");
        }
    }
}
