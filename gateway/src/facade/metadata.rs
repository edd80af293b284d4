//! What does a client have to know of this authorization server?
//!
//! The metadata of RFC 8414. Everything derives from the configuration.

use serde_json::{Value, json};

use crate::{config, identity::assertion, lifecycle::Estate};

/// The metadata document.
pub(super) fn document(estate: &Estate, config: &config::Facade) -> Value {
    let issuer = &config.own.issuer;
    let at = |path: &str| format!("{issuer}{path}");
    let mut grants = vec!["authorization_code", "refresh_token"];
    if !config.clients.is_empty() {
        grants.push("client_credentials");
    }
    let redeems = !config.assertion_issuers.is_empty();
    if redeems {
        grants.push("urn:ietf:params:oauth:grant-type:jwt-bearer");
    }
    let certificates = estate.config.gateway.tls.as_ref().is_some_and(|tls| tls.client_ca.is_some());
    let mut ways = vec!["none", "client_secret_basic", "client_secret_post", "private_key_jwt"];
    ways.extend(certificates.then_some("tls_client_auth"));
    let mut document = json!({
        "issuer": issuer,
        "authorization_endpoint": at("/authorize"),
        "token_endpoint": at("/token"),
        "jwks_uri": at("/jwks"),
        "response_types_supported": ["code"],
        "response_modes_supported": ["query"],
        "grant_types_supported": grants,
        "code_challenge_methods_supported": ["S256"],
        "token_endpoint_auth_methods_supported": ways,
        "token_endpoint_auth_signing_alg_values_supported": assertion::ALGORITHMS,
        "revocation_endpoint": at("/revoke"),
        "revocation_endpoint_auth_methods_supported": ways,
        "revocation_endpoint_auth_signing_alg_values_supported": assertion::ALGORITHMS,
        "tls_client_certificate_bound_access_tokens": certificates,
        "scopes_supported": estate.scopes(&config::Endpoint::Federated),
        "authorization_response_iss_parameter_supported": true,
        "client_id_metadata_document_supported": !config.client_domains.is_empty(),
    });
    if let Some(members) = document.as_object_mut() {
        if config.registration {
            members.insert("registration_endpoint".to_owned(), Value::String(at("/register")));
        }
        if let Some(dpop) = &estate.config.gateway.dpop {
            members.insert("dpop_signing_alg_values_supported".to_owned(), json!(dpop.algorithms));
        }
        if redeems {
            let profiles = json!(["urn:ietf:params:oauth:grant-profile:id-jag"]);
            members.insert("authorization_grant_profiles_supported".to_owned(), profiles);
        }
    }
    document
}
