//! Where does a client get a token for this endpoint?
//!
//! Protected resource metadata (RFC 9728) and the `WWW-Authenticate` challenge that points to it. Everything derives
//! from configuration, never from the request's `Host`, and an upstream's own challenge has no way in here (RR-10).

use serde_json::json;
use url::Url;

use crate::{
    config::{Dpop, Endpoint},
    refusal::{Challenge, Login},
};

/// Where RFC 9728 §3 puts the metadata; an endpoint's path follows it.
pub const WELL_KNOWN: &str = "/.well-known/oauth-protected-resource";

/// A scope that says how long a client stays, not what it may do; it does not belong to a resource (RR-05).
const OFFLINE_ACCESS: &str = "offline_access";

/// The absolute URL of `endpoint`'s metadata (RR-02).
#[must_use]
pub fn url(public_url: &Url, endpoint: &Endpoint) -> String {
    format!("{}{WELL_KNOWN}{}", public_url.as_str().trim_end_matches('/'), endpoint.path())
}

/// The metadata document of the endpoint whose canonical URI is `resource` (RR-01).
#[must_use]
pub fn document(resource: &str, issuers: &[&str], scopes: &[&str], name: &str, offer: &Offer<'_>) -> String {
    let scopes: Vec<&str> = scopes.iter().copied().filter(|scope| *scope != OFFLINE_ACCESS).collect();
    let mut document = json!({
        "resource": resource,
        "authorization_servers": issuers,
        "bearer_methods_supported": ["header"],
        "resource_name": name,
    });
    // RFC 9728 §3.2: a member with nothing in it is left out.
    let further = [
        ("scopes_supported", (!scopes.is_empty()).then(|| json!(scopes))),
        ("dpop_signing_alg_values_supported", offer.dpop.map(|dpop| json!(dpop.algorithms))),
        ("dpop_bound_access_tokens_required", offer.dpop.map(|dpop| json!(dpop.required))),
        ("tls_client_certificate_bound_access_tokens", offer.certificates.then(|| json!(true))),
    ];
    if let Some(members) = document.as_object_mut() {
        members.extend(further.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))));
    }
    document.to_string()
}

/// How a credential may be shown, besides as a bearer token.
#[derive(Debug, Clone, Copy, Default)]
pub struct Offer<'a> {
    /// With a proof of possession.
    pub dpop: Option<&'a Dpop>,
    /// With the certificate of the connection.
    pub certificates: bool,
}

/// The value of `WWW-Authenticate`: RFC 6750 §3 with `resource_metadata` of RFC 9728 §5.1 (RR-02, RR-03), and where proofs
/// of possession are taken RFC 9449 §7.1.
///
/// `scopes` are those that a client should ask for where the challenge itself names none. Who `proves` something is answered
/// in that scheme; to anybody else the bearer's stands first, the only one that most clients read.
#[must_use]
pub fn challenge(
    challenge: &Challenge,
    metadata_url: &str,
    scopes: &[&str],
    offer: &Offer<'_>,
    proves: bool,
) -> String {
    let parameters = parameters(challenge, metadata_url, scopes).join(", ");
    let Some(dpop) = offer.dpop else { return format!("Bearer {parameters}") };
    let algorithms = format!(r#"algs="{}""#, dpop.algorithms.join(" "));
    if proves || dpop.required {
        return format!("DPoP {parameters}, {algorithms}");
    }
    format!("Bearer {parameters}, DPoP {algorithms}")
}

fn parameters(challenge: &Challenge, metadata_url: &str, scopes: &[&str]) -> Vec<String> {
    let (error, needed): (Option<&str>, Vec<&str>) = match challenge {
        Challenge::Missing => (None, scopes.to_vec()),
        Challenge::InvalidToken => (Some("invalid_token"), scopes.to_vec()),
        Challenge::InvalidRequest => (Some("invalid_request"), Vec::new()), // a 400: another token would not help
        Challenge::InvalidProof => (Some("invalid_dpop_proof"), scopes.to_vec()),
        Challenge::NonceNeeded => (Some("use_dpop_nonce"), scopes.to_vec()),
        Challenge::InsufficientAuthentication(_) => (Some("insufficient_user_authentication"), scopes.to_vec()),
        Challenge::InsufficientScope(needed) => {
            (Some("insufficient_scope"), needed.iter().map(String::as_str).collect())
        }
    };
    let needed: Vec<&str> = needed.into_iter().filter(|scope| is_scope(scope) && *scope != OFFLINE_ACCESS).collect();
    let mut parameters = Vec::with_capacity(4);
    if let Some(error) = error {
        parameters.push(format!(r#"error="{error}""#));
    }
    parameters.push(format!(r#"resource_metadata="{}""#, quoted(metadata_url)));
    if !needed.is_empty() {
        parameters.push(format!(r#"scope="{}""#, needed.join(" ")));
    }
    if let Challenge::InsufficientAuthentication(Login { acr, age_max_s }) = challenge {
        let acr = (!acr.is_empty()).then(|| format!(r#"acr_values="{}""#, quoted(&acr.join(" "))));
        let age = age_max_s.map(|age_max_s| format!(r#"max_age="{age_max_s}""#));
        parameters.extend(acr.into_iter().chain(age));
    }
    parameters
}

/// `scope-token` of RFC 6749 §3.3: needs no escaping inside quotes.
pub(super) fn is_scope(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| matches!(b, 0x21 | 0x23..=0x5b | 0x5d..=0x7e))
}

/// The inside of a quoted-string (RFC 9110 §5.6.4): nothing in it can end the string or the header.
fn quoted(text: &str) -> String {
    text.chars()
        .filter(|c| c.is_ascii_graphic() || *c == ' ')
        .flat_map(|c| if matches!(c, '"' | '\\') { vec!['\\', c] } else { vec![c] })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{Offer, challenge, document, url};
    use std::time::Duration;

    use crate::{
        config::{Dpop, Endpoint, UpstreamId},
        refusal::{Challenge, Login},
    };

    const METADATA: &str = "https://gw.example/.well-known/oauth-protected-resource/mcp";

    #[test]
    fn the_challenge_has_the_wire_form_of_the_specification() {
        let insufficient = Challenge::InsufficientScope(vec!["crm:read".into(), "crm:write".into()]);
        for (given, expect) in [
            (Challenge::Missing, format!(r#"Bearer resource_metadata="{METADATA}", scope="mcp:tools""#)),
            (
                Challenge::InvalidToken,
                format!(r#"Bearer error="invalid_token", resource_metadata="{METADATA}", scope="mcp:tools""#),
            ),
            (Challenge::InvalidRequest, format!(r#"Bearer error="invalid_request", resource_metadata="{METADATA}""#)),
            (
                insufficient,
                format!(
                    r#"Bearer error="insufficient_scope", resource_metadata="{METADATA}", scope="crm:read crm:write""#
                ),
            ),
        ] {
            let offer = Offer::default();
            assert_eq!(challenge(&given, METADATA, &["mcp:tools", "offline_access"], &offer, false), expect);
        }
    }

    /// RFC 9449 §7.1, RFC 9470 §3.
    #[test]
    fn who_proves_something_is_answered_in_its_scheme() {
        let dpop = |required| Dpop {
            required,
            nonce: false,
            algorithms: vec!["ES256".to_owned(), "EdDSA".to_owned()],
            window: Duration::from_secs(60),
        };
        let login = Login { acr: vec!["phr".to_owned(), "m\"fa".to_owned()], age_max_s: Some(300) };
        let at = format!(r#"resource_metadata="{METADATA}", scope="mcp:tools""#);
        for (given, required, proves, expect) in [
            (Challenge::Missing, false, false, format!(r#"Bearer {at}, DPoP algs="ES256 EdDSA""#)),
            (Challenge::Missing, true, false, format!(r#"DPoP {at}, algs="ES256 EdDSA""#)),
            (
                Challenge::InvalidProof,
                false,
                true,
                format!(r#"DPoP error="invalid_dpop_proof", {at}, algs="ES256 EdDSA""#),
            ),
            (Challenge::NonceNeeded, false, true, format!(r#"DPoP error="use_dpop_nonce", {at}, algs="ES256 EdDSA""#)),
            (
                Challenge::InsufficientAuthentication(login),
                false,
                true,
                format!(
                    r#"DPoP error="insufficient_user_authentication", {at}, acr_values="phr m\"fa", max_age="300", algs="ES256 EdDSA""#
                ),
            ),
        ] {
            let dpop = dpop(required);
            let offer = Offer { dpop: Some(&dpop), certificates: false };
            assert_eq!(challenge(&given, METADATA, &["mcp:tools"], &offer, proves), expect);
        }
        let dpop = dpop(true);
        let offer = Offer { dpop: Some(&dpop), certificates: true };
        let read: serde_json::Value =
            serde_json::from_str(&document("https://gw.example/mcp", &["https://i"], &[], "T", &offer)).unwrap();
        assert_eq!(read["dpop_signing_alg_values_supported"], serde_json::json!(["ES256", "EdDSA"]));
        assert_eq!(read["dpop_bound_access_tokens_required"], true);
        assert_eq!(read["tls_client_certificate_bound_access_tokens"], true);
    }

    #[test]
    fn nothing_breaks_out_of_the_quotes() {
        let odd = Challenge::InsufficientScope(vec!["a\" , x=\"".into(), "a\r\nSet-Cookie: x".into(), "fine".into()]);
        let text = challenge(&odd, "https://gw.example/\"\r\n\\", &[], &Offer::default(), false);
        assert_eq!(
            text,
            r#"Bearer error="insufficient_scope", resource_metadata="https://gw.example/\"\\", scope="fine""#
        );
    }

    #[test]
    fn the_document_names_what_rfc_9728_wants() {
        let text = document(
            "https://gw.example/mcp",
            &["https://login.example"],
            &["crm:read", "offline_access"],
            "Tollgate",
            &Offer::default(),
        );
        let read: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(
            read,
            serde_json::json!({
                "resource": "https://gw.example/mcp",
                "authorization_servers": ["https://login.example"],
                "bearer_methods_supported": ["header"],
                "scopes_supported": ["crm:read"],
                "resource_name": "Tollgate",
            })
        );
        assert!(
            !document("https://gw.example/mcp", &["https://i"], &[], "T", &Offer::default())
                .contains("scopes_supported")
        );
    }

    #[test]
    fn the_path_of_the_endpoint_is_inserted() {
        let public = "https://gw.example".parse().unwrap();
        let crm = Endpoint::Upstream(UpstreamId::parse("crm").unwrap());
        assert_eq!(url(&public, &crm), "https://gw.example/.well-known/oauth-protected-resource/mcp/crm");
        assert_eq!(url(&public, &Endpoint::Federated), METADATA);
    }
}
