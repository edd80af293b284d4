//! Which client is that?
//!
//! Three kinds are known: the machines of `[[facade.clients]]`, which prove who they are; those that registered themselves
//! (RFC 7591); and those whose id is the URL of their own description (`documents`). The last two get no secret, whatever
//! they ask for: they sign with keys that they name (RFC 7523), or are public, and PKCE binds a code to whoever asked for
//! it. It judges no redirect.

use std::{borrow::Cow, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::{HeaderMap, header::AUTHORIZATION};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{
    At, Facade,
    client_keys::{ClientKeys, Mark},
    keys::{unavailable, unusable},
    redirect,
};
use crate::{
    clock::Timestamp,
    config::{self, FacadeProof},
    digest,
    identity::assertion,
    lifecycle::form::Fields,
    random,
    refusal::Refusal,
    state::{Place, Plain, Value as Kept},
};

/// A client that people can log in with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Client {
    pub(super) id: String,
    /// What it calls itself, without what a page could take for markup: a claim.
    pub(super) name: String,
    pub(super) redirect_uris: Vec<String>,
    /// Whether it knows what to do with refresh tokens.
    pub(super) refreshes: bool,
    /// The keys that it signs with, where it proves who it is.
    pub(super) keys: Option<ClientKeys>,
    /// Whether its tokens are to be bound to its certificate (RFC 8705 §3.4).
    certificate: bool,
    /// Whether somebody logged in with it.
    pub(super) used: bool,
    /// When that was noted last, or else when it registered.
    pub(super) noted_ms: u64,
}

impl Client {
    /// Until when it is known without another use, where it registered itself.
    pub(super) fn until(&self) -> Timestamp {
        Timestamp::from_unix_ms(self.noted_ms).plus(if self.used { USED } else { UNUSED })
    }
}

/// What a client says of itself (RFC 7591 §2); what is not listed is not taken.
#[derive(Debug, Deserialize)]
pub(super) struct Description {
    pub(super) client_id: Option<String>,
    pub(super) client_name: Option<String>,
    pub(super) client_secret: Option<Value>,
    pub(super) token_endpoint_auth_method: Option<String>,
    jwks: Option<Value>,
    jwks_uri: Option<String>,
    tls_client_certificate_bound_access_tokens: Option<bool>,
    redirect_uris: Option<Vec<String>>,
    grant_types: Option<Vec<String>>,
    response_types: Option<Vec<String>>,
    application_type: Option<String>,
}

/// Who asks the token endpoint.
pub(super) enum Asking<'f> {
    /// A client that people log in with; where it names no keys, what it has (a code, a verifier, a refresh token) is all its
    /// proof.
    Personal(Client),
    /// A client of the configuration, proven.
    Machine(&'f config::FacadeClient),
}

impl Asking<'_> {
    pub(super) fn id(&self) -> &str {
        match self {
            Self::Personal(client) => &client.id,
            Self::Machine(client) => &client.id,
        }
    }

    /// Whether its tokens are to be bound to the certificate that it shows.
    pub(super) const fn wants_certificate(&self) -> bool {
        match self {
            Self::Personal(client) => client.certificate,
            Self::Machine(client) => matches!(client.proof, FacadeProof::Certificate(_)),
        }
    }
}

/// What a client shows of who it is.
enum Proof<'f> {
    Nothing,
    Secret(Cow<'f, str>),
    Assertion(&'f str),
}

fn value_of(client: &Client, life: Duration, now: Timestamp) -> Result<Kept, Refusal> {
    let bytes = serde_json::to_vec(client).map_err(|_not_json| Refusal::Bug("a client that is no JSON"))?;
    Ok(Kept { bytes, until: Some(now.plus(life)) })
}

impl Description {
    pub(super) fn read(text: &[u8]) -> Result<Self, Refusal> {
        serde_json::from_slice(text).map_err(|_not_json| Refusal::ClientMetadataInvalid("it is not JSON of RFC 7591"))
    }

    /// The keys that it proves itself with; none where it does not.
    fn keys(&self) -> Result<Option<ClientKeys>, Refusal> {
        if self.token_endpoint_auth_method.as_deref() != Some(PRIVATE_KEY_JWT) {
            return Ok(None);
        }
        match (&self.jwks, &self.jwks_uri) {
            (Some(set), None) => ClientKeys::given(set.to_string()).map(Some).map_err(Refusal::ClientMetadataInvalid),
            (None, Some(address)) => Ok(Some(ClientKeys::At(address.clone()))),
            _ => Err(Refusal::ClientMetadataInvalid("`private_key_jwt` needs either `jwks` or `jwks_uri`")),
        }
    }

    /// The client that is described so, under `id`.
    pub(super) fn client(self, id: String, schemes: &[String], now: Timestamp) -> Result<Client, Refusal> {
        let invalid = |why| Err(Refusal::ClientMetadataInvalid(why));
        let redirect_uris = self.redirect_uris.clone().unwrap_or_default();
        if !(1..=REDIRECTS_MAX).contains(&redirect_uris.len()) {
            return Err(Refusal::RedirectUriInvalid("name between one and eight"));
        }
        for uri in &redirect_uris {
            redirect::registrable(uri, schemes).map_err(Refusal::RedirectUriInvalid)?;
        }
        // OpenID Connect Registration §2; where it is not said, the URIs say it themselves.
        match self.application_type.as_deref() {
            Some("web") if !redirect_uris.iter().all(|uri| redirect::is_web(uri)) => {
                return Err(Refusal::RedirectUriInvalid("an application of type `web` has https URIs of other hosts"));
            }
            None | Some("web" | "native") => {}
            Some(_) => return invalid("`application_type` is `web` or `native`"),
        }
        let (keys, certificate) = (self.keys()?, self.tls_client_certificate_bound_access_tokens == Some(true));
        let grants = self.grant_types.unwrap_or_else(|| vec!["authorization_code".to_owned()]);
        if !grants.iter().any(|grant| grant == "authorization_code") {
            return invalid("`grant_types` has to have `authorization_code`");
        }
        if self.response_types.is_some_and(|types| !types.iter().any(|one| one == "code")) {
            return invalid("`response_types` has to have `code`");
        }
        let refreshes = grants.iter().any(|grant| grant == "refresh_token");
        let name = printable(self.client_name.as_deref().unwrap_or_default());
        let noted_ms = now.unix_ms();
        Ok(Client { id, name, redirect_uris, refreshes, keys, certificate, used: false, noted_ms })
    }
}

impl Facade {
    /// The client that people log in with under this id.
    pub(super) async fn client(&self, at: &At<'_>, id: &str) -> Result<Client, Refusal> {
        if id.starts_with(REGISTERED) {
            return self.registration(id, at.now).await.map(|(client, _kept)| client);
        }
        if id.starts_with("https://") {
            return self.documents.client(at, id).await;
        }
        Err(Refusal::ClientInvalid("no such client".into()))
    }

    /// RFC 7591 §3: registers whoever asks, without a secret.
    pub(super) async fn register(
        &self,
        config: &config::Facade,
        body: &[u8],
        now: Timestamp,
    ) -> Result<(Client, Value), Refusal> {
        let described = Description::read(body)?;
        let application_type = described.application_type.clone();
        let id = format!("{REGISTERED}{}", random::unguessable()?);
        let client = described.client(id, &config.redirect_schemes, now)?;
        // Whoever asks is a stranger: no address is dialled because of that.
        if let Some(ClientKeys::At(_)) = client.keys {
            return Err(Refusal::ClientMetadataInvalid("give `jwks` in the place of `jwks_uri`"));
        }
        let value = value_of(&client, UNUSED, now)?;
        self.store.put(Place::Client, client.id.as_bytes(), value, now).await.map_err(unavailable)?;
        let mut grants = vec!["authorization_code"];
        grants.extend(client.refreshes.then_some("refresh_token"));
        let mut answer = json!({
            "client_id": client.id,
            "client_id_issued_at": now.unix_seconds(),
            "client_name": client.name,
            "redirect_uris": client.redirect_uris,
            "grant_types": grants,
            "response_types": ["code"],
            "token_endpoint_auth_method": if client.keys.is_some() { PRIVATE_KEY_JWT } else { "none" },
            "tls_client_certificate_bound_access_tokens": client.certificate,
        });
        if let Some(members) = answer.as_object_mut() {
            members.extend(application_type.map(|kind| ("application_type".to_owned(), kind.into())));
            members.extend(client.keys.as_ref().and_then(ClientKeys::set).map(|set| ("jwks".to_owned(), set)));
        }
        Ok((client, answer))
    }

    /// A registration that is used stays, and is written again once a day at most. One that was removed since it was read
    /// stays removed, and nothing is given to it.
    pub(super) async fn used(&self, id: &str, now: Timestamp) -> Result<(), Refusal> {
        if !id.starts_with(REGISTERED) {
            return Ok(());
        }
        let (client, kept) = self.registration(id, now).await?;
        if client.used && now.since(Timestamp::from_unix_ms(client.noted_ms)) < NOTED_AFTER {
            return Ok(());
        }
        let value = value_of(&Client { used: true, noted_ms: now.unix_ms(), ..client }, USED, now)?;
        let swapped = self.store.swap(Place::Client, id.as_bytes(), (&kept, Some(value)), now).await;
        // Noted by somebody else meanwhile, or removed.
        if swapped.map_err(unavailable)? { Ok(()) } else { self.registration(id, now).await.map(drop) }
    }

    /// A client that registered, as it is kept.
    async fn registration(&self, id: &str, now: Timestamp) -> Result<(Client, Plain), Refusal> {
        let kept = self.store.get(Place::Client, id.as_bytes(), now).await.map_err(unavailable)?;
        let kept = kept.ok_or(Refusal::ClientInvalid("no such registration, or it ended unused".into()))?;
        let client = serde_json::from_slice(&kept).map_err(|_not_json| unusable("a registration"))?;
        Ok((client, kept))
    }

    /// Who asks the token endpoint (RFC 6749 §2.3.1, RFC 7523 §2.2, RFC 8705 §2); and what is still to be marked, once all
    /// else is found good.
    pub(super) async fn asking<'f>(&self, at: &At<'f>, fields: &Fields) -> Result<(Asking<'f>, Option<Mark>), Refusal> {
        let (id, proof) = shown(at.headers, fields)?;
        let invalid = |why: &'static str| Err(Refusal::ClientInvalid(why.into()));
        let Some(client) = at.config.clients.iter().find(|client| client.id == *id) else {
            let client = self.client(at, &id).await?;
            let mark = match (&client.keys, proof) {
                (None, Proof::Nothing) => None,
                (Some(keys), Proof::Assertion(text)) => Some(self.asserted(at, (id.as_ref(), keys), text).await?),
                (Some(_), Proof::Nothing) => return invalid("its assertion is missing"),
                _ => return invalid("a proof of a client that has none of that kind"),
            };
            return Ok((Asking::Personal(client), mark));
        };
        let mark = match (&client.proof, proof) {
            (FacadeProof::Secret(secret), Proof::Secret(given)) if digest::same(&given, secret.expose()) => None,
            (FacadeProof::Secret(_), Proof::Secret(_)) => return invalid("the secret is wrong"),
            (FacadeProof::Keys(set), Proof::Assertion(text)) => {
                Some(self.asserted(at, (id.as_ref(), &ClientKeys::Set(set.clone())), text).await?)
            }
            (FacadeProof::KeysAt(url), Proof::Assertion(text)) => {
                Some(self.asserted(at, (id.as_ref(), &ClientKeys::At(url.as_str().to_owned())), text).await?)
            }
            (FacadeProof::Certificate(name), Proof::Nothing) => {
                let shown = at.certificate.filter(|certificate| at.now < certificate.expires_at);
                if !shown.is_some_and(|certificate| certificate.is_of(name)) {
                    return invalid("the connection has no certificate of this client");
                }
                None
            }
            (_, Proof::Nothing) => return invalid("its proof is missing"),
            _ => return invalid("it proves itself in another way"),
        };
        Ok((Asking::Machine(client), mark))
    }
}

/// Who the client says that it is, and what it shows of that: in one way at a time.
fn shown<'f>(headers: &HeaderMap, fields: &'f Fields) -> Result<(Cow<'f, str>, Proof<'f>), Refusal> {
    let (basic, secret, assertion) = (basic(headers)?, fields.get("client_secret"), fields.get("client_assertion"));
    let named = fields.get("client_id").map(Cow::Borrowed);
    let (id, proof) = match (basic, secret, assertion) {
        (Some((id, secret)), None, None) => (Some(Cow::Owned(id)), Proof::Secret(Cow::Owned(secret))),
        (None, Some(secret), None) => (named.clone(), Proof::Secret(Cow::Borrowed(secret))),
        (None, None, Some(text)) => {
            if fields.get("client_assertion_type") != Some(ASSERTION_TYPE) {
                return Err(Refusal::AuthorizationInvalid("`client_assertion_type` is not that of a JWT"));
            }
            // RFC 7521 §4.2: `client_id` may be left out beside it.
            let own = assertion::client_named(text).map(Cow::Owned);
            (Some(own.ok_or(Refusal::ClientInvalid("its assertion is none".into()))?), Proof::Assertion(text))
        }
        (None, None, None) => (named.clone(), Proof::Nothing),
        _ => return Err(Refusal::AuthorizationInvalid("one way to prove a client at a time")),
    };
    let id = id.ok_or(Refusal::AuthorizationInvalid("`client_id` is missing"))?;
    if named.is_some_and(|named| named != id) {
        return Err(Refusal::AuthorizationInvalid("two clients are named"));
    }
    Ok((id, proof))
}

/// The halves of `Basic`, each form-encoded inside (RFC 6749 §2.3.1).
fn basic(headers: &HeaderMap) -> Result<Option<(String, String)>, Refusal> {
    let Some(value) = headers.get(AUTHORIZATION) else { return Ok(None) };
    let malformed = || Refusal::ClientInvalid("not `Basic` with two halves".into());
    let text = value.to_str().ok().and_then(|text| text.split_once(' '));
    let (scheme, encoded) = text.ok_or_else(malformed)?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return Err(malformed());
    }
    let decoded = STANDARD.decode(encoded.trim()).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    let decoded = decoded.ok_or_else(malformed)?;
    let (id, secret) = decoded.split_once(':').ok_or_else(malformed)?;
    let plain = |half: &str| {
        let pair = format!("x={half}");
        url::form_urlencoded::parse(pair.as_bytes()).next().map(|(_, value)| value.into_owned())
    };
    Ok(plain(id).zip(plain(secret)))
}

/// What a person may read of a name that a stranger chose: letters, digits and plain punctuation, so many.
fn printable(name: &str) -> String {
    let fits = |c: &char| c.is_alphanumeric() || " -_.,:()/+@!#".contains(*c);
    let name: String = name.chars().filter(fits).take(NAME_CHARS_MAX).collect();
    let name = name.split_whitespace().collect::<Vec<_>>().join(" ");
    if name.is_empty() { "a client without a name".to_owned() } else { name }
}

/// RFC 7591 §2.
const PRIVATE_KEY_JWT: &str = "private_key_jwt";
/// RFC 7523 §2.2.
const ASSERTION_TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
/// How ids of registered clients begin; none of the configuration does.
pub(super) const REGISTERED: &str = "dcr-";
/// Redirect URIs of one client.
const REDIRECTS_MAX: usize = 8;
/// Characters of a name.
const NAME_CHARS_MAX: usize = 64;
/// A registration that nobody logs in with is forgotten after so long.
const UNUSED: Duration = Duration::from_secs(24 * 3600);
/// One that somebody logged in with, after so long without another use.
const USED: Duration = Duration::from_secs(90 * 24 * 3600);
/// How often its use is noted.
const NOTED_AFTER: Duration = Duration::from_secs(24 * 3600);

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use serde_json::json;

    use super::*;

    fn described(change: impl FnOnce(&mut Value)) -> Result<Client, Refusal> {
        let mut text = json!({ "redirect_uris": ["https://app.example/cb"], "client_name": "App" });
        change(&mut text);
        let now = Timestamp::from_unix_ms(0);
        Description::read(text.to_string().as_bytes())?.client("id".to_owned(), &[], now)
    }

    #[test]
    fn a_description_is_taken_or_refused() {
        assert!(!described(|_| {}).unwrap().refreshes);
        let both = json!(["authorization_code", "refresh_token", "urn:other"]);
        assert!(described(|text| text["grant_types"] = both).unwrap().refreshes);
        for (member, value, refused) in [
            ("redirect_uris", json!([]), "redirect_uri_invalid"),
            ("redirect_uris", json!(["http://app.example/cb"]), "redirect_uri_invalid"),
            ("redirect_uris", json!(vec!["https://app.example/cb"; 9]), "redirect_uri_invalid"),
            ("redirect_uris", json!("https://app.example/cb"), "client_metadata_invalid"),
            ("redirect_uris", json!([7]), "client_metadata_invalid"),
            ("grant_types", json!(["client_credentials"]), "client_metadata_invalid"),
            ("grant_types", json!(["implicit"]), "client_metadata_invalid"),
            ("response_types", json!(["token"]), "client_metadata_invalid"),
            ("application_type", json!("service"), "client_metadata_invalid"),
        ] {
            assert_eq!(described(|text| text[member] = value).unwrap_err().code(), refused, "{member}");
        }
        let local = json!(["http://localhost:1/cb"]);
        let web = described(|text| {
            text["application_type"] = json!("web");
            text["redirect_uris"] = local.clone();
        });
        assert_eq!(web.unwrap_err().code(), "redirect_uri_invalid");
        assert!(
            described(|text| {
                text["application_type"] = json!("native");
                text["redirect_uris"] = local;
            })
            .is_ok()
        );
        assert!(Description::read(br#"{"redirect_uris":[],"redirect_uris":["https://a.example/"]}"#).is_err());
    }

    #[test]
    fn a_name_is_text() {
        for (name, shown) in [
            ("Claude Code (desktop)", "Claude Code (desktop)"),
            ("<script>alert(1)</script>", "scriptalert(1)/script"),
            ("a\u{202e}b\u{0}c\nd", "abcd"),
            ("  ", "a client without a name"),
            ("&amp;\"'`", "amp"),
        ] {
            assert_eq!(printable(name), shown);
        }
        assert_eq!(printable(&"x".repeat(500)).len(), 64);
    }

    #[test]
    fn basic_has_two_halves() {
        let of = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(AUTHORIZATION, HeaderValue::from_str(text).unwrap());
            basic(&headers)
        };
        let fine = of(&format!("basic {}", STANDARD.encode("a%3Ab:c+d")));
        assert_eq!(fine.unwrap(), Some(("a:b".to_owned(), "c d".to_owned())));
        for wrong in ["Bearer x", "Basic", "Basic ???", &format!("Basic {}", STANDARD.encode("alone"))] {
            assert!(matches!(of(wrong), Err(Refusal::ClientInvalid(_))), "{wrong}");
        }
    }
}
