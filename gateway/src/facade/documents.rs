//! What does a client say of itself under the URL that is its id?
//!
//! Client ID metadata documents (draft-ietf-oauth-client-id-metadata-document; RA-03): fetched from hosts that the
//! administrator trusts, believed for as long as their HTTP headers say within bounds, and not asked for again at once
//! where they are bad. It decides about no redirect.

use std::{fmt, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{
    HeaderMap, Request,
    header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE},
};
use quick_cache::sync::Cache;
use url::Url;

use super::{
    At,
    clients::{Client, Description},
    fetches::Fetches,
};
use crate::{
    clock::Timestamp,
    config,
    egress::{self, Bounds},
    refusal::Refusal,
};

/// The documents that were read.
pub(super) struct Documents {
    client: egress::Client,
    known: Cache<String, Arc<Known>>,
    fetches: Fetches,
}

/// What reading came to, and until when that is relied on.
struct Known {
    read: Result<Client, String>,
    until: Timestamp,
}

impl fmt::Debug for Documents {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Documents").field("known", &self.known.len()).finish_non_exhaustive()
    }
}

impl Documents {
    /// Documents lie where strangers say, so they are dialled by the rules of `[egress]`.
    pub(super) fn new(egress: &config::Egress) -> Result<Self, String> {
        let client = egress::Client::outside(egress).map_err(|error| format!("egress: {error}"))?;
        Ok(Self { client, known: Cache::new(DOCUMENTS_MAX), fetches: Fetches::new("client documents") })
    }

    /// The client whose id is this URL.
    pub(super) async fn client(&self, at: &At<'_>, id: &str) -> Result<Client, Refusal> {
        let (config, now) = (at.config, at.now);
        let invalid = |why: String| Refusal::ClientInvalid(why.into());
        let url = trusted(id, &config.client_domains).map_err(|why| invalid(format!("`{id}`: {why}")))?;
        if let Some(known) = self.fresh(id, now) {
            return known.read.clone().map_err(invalid);
        }
        let turn = self.fetches.turn(id);
        let _turn = turn.lock().await;
        if let Some(known) = self.fresh(id, now) {
            return known.read.clone().map_err(invalid);
        }
        let _room = self.fetches.room(at.peer.ip(), now)?;
        let (read, life) = match self.fetch(&url).await {
            Ok((text, life)) => (described(id, &text, &config.redirect_schemes, now), life),
            Err(why) => (Err(why), REFUSED_FOR),
        };
        let life = if read.is_ok() { life } else { REFUSED_FOR };
        let read = read.map_err(|why| format!("`{id}`: {why}"));
        self.known.insert(id.to_owned(), Arc::new(Known { read: read.clone(), until: now.plus(life) }));
        read.map_err(invalid)
    }

    fn fresh(&self, id: &str, now: Timestamp) -> Option<Arc<Known>> {
        self.known.get(id).filter(|known| now < known.until)
    }

    async fn fetch(&self, url: &Url) -> Result<(Bytes, Duration), String> {
        let request = Request::get(url.as_str()).header(ACCEPT, "application/json").body(Bytes::new());
        let request = request.map_err(|error| error.to_string())?;
        let response = self.client.fetch(request, BOUNDS).await.map_err(|error| error.to_string())?;
        if response.status() != http::StatusCode::OK {
            return Err(format!("answered {}", response.status().as_u16()));
        }
        if !is_json(response.headers()) {
            return Err("no JSON".to_owned());
        }
        let life = life(response.headers());
        Ok((response.into_body(), life))
    }
}

/// The URL of a document, if it can be one (draft §3) and its host may vouch for clients.
pub(super) fn trusted(id: &str, domains: &[String]) -> Result<Url, &'static str> {
    let url = Url::parse(id).map_err(|_not_a_url| "not a URL")?;
    // Only the normal form is an id: two spellings of one URL would be two clients.
    if url.as_str() != id || id.len() > ID_BYTES_MAX {
        return Err("not in its normal form");
    }
    if url.scheme() != "https" || url.fragment().is_some() || !url.username().is_empty() || url.password().is_some() {
        return Err("not https alone");
    }
    if url.path() == "/" {
        return Err("it has no path");
    }
    let host = url.host_str().unwrap_or_default();
    if domains.iter().any(|allowed| allowed == "*" || allowed == host) {
        Ok(url)
    } else {
        Err("no document is taken from this host")
    }
}

fn described(id: &str, document: &[u8], schemes: &[String], now: Timestamp) -> Result<Client, String> {
    let why = |refusal: Refusal| refusal.inside().into_owned();
    let described = Description::read(document).map_err(why)?;
    if described.client_id.as_deref() != Some(id) {
        return Err("its `client_id` is another".to_owned());
    }
    if described.client_name.as_deref().is_none_or(str::is_empty) {
        return Err("it has no `client_name`".to_owned());
    }
    // A secret that everybody can read is none (draft §4.1).
    if described.client_secret.is_some() {
        return Err("it has a `client_secret`".to_owned());
    }
    // Nor is a certificate, whose name nobody has put on record here.
    if described.token_endpoint_auth_method.as_deref().is_some_and(|way| !["none", "private_key_jwt"].contains(&way)) {
        return Err("the client proves itself neither by `none` nor by `private_key_jwt`".to_owned());
    }
    described.client(id.to_owned(), schemes, now).map_err(why)
}

fn is_json(headers: &HeaderMap) -> bool {
    let text = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    essence == "application/json" || (essence.starts_with("application/") && essence.ends_with("+json"))
}

/// How long an answer with these headers is fresh (RFC 9111 §5.2.2), within bounds: what must not be kept is kept for a
/// moment all the same, for one login asks several times.
fn life(headers: &HeaderMap) -> Duration {
    let said = headers.get_all(CACHE_CONTROL).iter().filter_map(|value| value.to_str().ok());
    let words: Vec<String> =
        said.flat_map(|text| text.split(',')).map(|word| word.trim().to_ascii_lowercase()).collect();
    if words.iter().any(|word| word == "no-store" || word == "no-cache") {
        return LIFE_MIN;
    }
    let age = words.iter().find_map(|word| word.strip_prefix("max-age=")?.trim_matches('"').parse().ok());
    age.map_or(LIFE_UNSAID, Duration::from_secs).clamp(LIFE_MIN, LIFE_MAX)
}

/// Documents of ordinary clients are below 4 KiB.
const BOUNDS: Bounds = Bounds { deadline: Duration::from_secs(3), bytes_max: 64 * 1024 };
/// Clients whose documents are kept.
const DOCUMENTS_MAX: usize = 1024;
/// Bytes of a URL that is an id: as many as any name in a token has.
const ID_BYTES_MAX: usize = 256;
/// How long a document is believed: at least, at most, and where it does not say.
const LIFE_MIN: Duration = Duration::from_secs(60);
const LIFE_MAX: Duration = Duration::from_secs(24 * 3600);
const LIFE_UNSAID: Duration = Duration::from_secs(600);
/// How long a document that cannot be had or used is not asked for again.
const REFUSED_FOR: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use serde_json::{Value, json};

    use super::*;

    const ID: &str = "https://app.example/client.json";

    #[test]
    fn an_id_is_a_url_of_a_trusted_host_in_its_one_spelling() {
        let only = ["app.example".to_owned()];
        assert!(trusted(ID, &only).is_ok() && trusted("https://other.example/c", &["*".to_owned()]).is_ok());
        for wrong in [
            "https://app.example",
            "https://app.example/",
            "https://app.example/a/../client.json",
            "https://APP.example/client.json",
            "https://app.example:443/client.json",
            "https://app.example/client.json#x",
            "https://user@app.example/client.json",
            "https://app.example.evil.example/client.json",
            "https://sub.app.example/client.json",
            "http://app.example/client.json",
            "https:app.example/client.json",
            "client",
        ] {
            assert!(trusted(wrong, &only).is_err(), "{wrong}");
        }
        assert!(trusted(ID, &[]).is_err(), "nobody is trusted unless named");
    }

    #[test]
    fn a_document_speaks_of_the_one_client_that_it_is() {
        let judge = |change: &dyn Fn(&mut Value)| {
            let mut text =
                json!({ "client_id": ID, "client_name": "App", "redirect_uris": ["https://app.example/cb"] });
            change(&mut text);
            described(ID, text.to_string().as_bytes(), &[], Timestamp::from_unix_ms(0))
        };
        assert_eq!(judge(&|_| {}).unwrap().id, ID);
        for (member, value) in [
            ("client_id", json!("https://app.example/client.json/")),
            ("client_id", json!(null)),
            ("client_name", json!("")),
            ("client_secret", json!("x")),
            ("token_endpoint_auth_method", json!("client_secret_post")),
            ("redirect_uris", json!(["http://app.example/cb"])),
        ] {
            assert!(judge(&|text| text[member] = value.clone()).is_err(), "{member}");
        }
        assert!(described(ID, b"<html>", &[], Timestamp::from_unix_ms(0)).is_err());
    }

    #[test]
    fn headers_say_how_long_within_bounds() {
        let of = |text: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(CACHE_CONTROL, HeaderValue::from_static(text));
            life(&headers)
        };
        assert_eq!(life(&HeaderMap::new()), LIFE_UNSAID);
        assert_eq!(of("public, max-age=3600"), Duration::from_secs(3600));
        for (text, life) in [("max-age=0", LIFE_MIN), ("no-store", LIFE_MIN), ("max-age=99999999999", LIFE_MAX)] {
            assert_eq!(of(text), life, "{text}");
        }
    }
}
