//! What does a client have to know of this authorization server?
//!
//! The metadata of RFC 8414. Everything derives from the configuration.

use serde_json::{Value, json};

use crate::{config, lifecycle::Estate};

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
    let mut document = json!({
        "issuer": issuer,
        "authorization_endpoint": at("/authorize"),
        "token_endpoint": at("/token"),
        "jwks_uri": at("/jwks"),
        "response_types_supported": ["code"],
        "response_modes_supported": ["query"],
        "grant_types_supported": grants,
        "code_challenge_methods_supported": ["S256"],
        "token_endpoint_auth_methods_supported": ["none", "client_secret_basic", "client_secret_post"],
        "scopes_supported": estate.scopes(&config::Endpoint::Federated),
        "authorization_response_iss_parameter_supported": true,
        "client_id_metadata_document_supported": !config.client_domains.is_empty(),
    });
    if let Some(members) = document.as_object_mut() {
        if config.registration {
            members.insert("registration_endpoint".to_owned(), Value::String(at("/register")));
        }
        if redeems {
            let profiles = json!(["urn:ietf:params:oauth:grant-profile:id-jag"]);
            members.insert("authorization_grant_profiles_supported".to_owned(), profiles);
        }
    }
    document
}
