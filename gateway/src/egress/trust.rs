//! Whom does an outbound connection believe, and as whom does it show itself?
//!
//! Builds rustls client configurations from certificate files. It does not dial.

use std::{path::PathBuf, sync::Arc};

use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};

use super::EgressError;
use crate::config::ClientCertificate;

/// The trust of one [`super::Client`]: the system's authorities, and what is named here.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Trust {
    /// PEM of further authorities.
    pub ca: Option<PathBuf>,
    /// What the client shows where the server asks for a certificate.
    pub client_certificate: Option<ClientCertificate>,
    /// Whether plain HTTP may go to other machines too: only where the administrator said so.
    pub plain_http: bool,
}

/// The rustls configuration for `trust`; ALPN is the connector's.
pub(super) fn client_config(trust: &Trust) -> Result<ClientConfig, EgressError> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if let Some(path) = &trust.ca {
        for certificate in certificates(path)? {
            roots.add(certificate).map_err(|error| unusable(path, &error))?;
        }
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| EgressError::Forbidden(error.to_string()))?
        .with_root_certificates(roots);
    match &trust.client_certificate {
        None => Ok(builder.with_no_client_auth()),
        Some(files) => {
            let chain = certificates(&files.certificate)?;
            let key = PrivateKeyDer::from_pem_file(&files.key).map_err(|error| unusable(&files.key, &error))?;
            builder.with_client_auth_cert(chain, key).map_err(|error| unusable(&files.certificate, &error))
        }
    }
}

fn certificates(path: &PathBuf) -> Result<Vec<CertificateDer<'static>>, EgressError> {
    let found: Vec<_> = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<_, _>>)
        .map_err(|error| unusable(path, &error))?;
    if found.is_empty() {
        return Err(EgressError::Forbidden(format!("no certificate in `{}`", path.display())));
    }
    Ok(found)
}

fn unusable(path: &std::path::Path, error: &dyn std::fmt::Display) -> EgressError {
    EgressError::Forbidden(format!("`{}`: {error}", path.display()))
}
