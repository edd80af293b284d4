//! What does a client certificate say of its holder?
//!
//! A certificate that the TLS handshake verified in, its names, its end and its thumbprint out. It verifies nothing: only
//! the edge makes these, of what rustls let through, and never of a header.

use aws_lc_rs::digest;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use x509_parser::{certificate::X509Certificate, extensions::GeneralName, prelude::FromDer};

use crate::clock::Timestamp;

/// A client's certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    /// SHA-256 of its DER, in base64url: `x5t#S256` (RFC 8705 §3.1).
    pub thumbprint: String,
    /// The one URI among its subject alternative names, such as a SPIFFE id; none where there are several, for a holder of
    /// two names is neither (SPIFFE X509-SVID §2).
    pub uri: Option<String>,
    /// The DNS names among its subject alternative names.
    pub dns: Vec<String>,
    /// The one common name of its subject.
    pub common_name: Option<String>,
    /// `notAfter`: a connection may outlast its certificate, the holder's name does not.
    pub expires_at: Timestamp,
}

impl Certificate {
    /// Reads the DER of a certificate that was verified. One that cannot be read has a thumbprint, no name and no life.
    #[must_use]
    pub fn of(der: &[u8]) -> Self {
        let thumbprint = URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, der));
        let nameless = Self {
            thumbprint,
            uri: None,
            dns: Vec::new(),
            common_name: None,
            expires_at: Timestamp::from_unix_seconds(0),
        };
        let Ok((_, read)) = X509Certificate::from_der(der) else { return nameless };
        let seconds = u64::try_from(read.validity().not_after.timestamp()).unwrap_or(0);
        let alternatives = read.subject_alternative_name().ok().flatten();
        let names = alternatives.map(|extension| extension.value.general_names.as_slice()).unwrap_or_default();
        let uris = names.iter().filter_map(|name| if let GeneralName::URI(uri) = name { Some(*uri) } else { None });
        let dns = names.iter().filter_map(|name| if let GeneralName::DNSName(dns) = name { Some(*dns) } else { None });
        let common = read.subject().iter_common_name().map(|name| name.as_str().ok());
        Self {
            uri: only(uris).map(str::to_owned),
            dns: dns.map(str::to_owned).collect(),
            common_name: only(common).flatten().map(str::to_owned),
            expires_at: Timestamp::from_unix_seconds(seconds),
            ..nameless
        }
    }
}

/// The one item, where there is exactly one.
fn only<T>(mut items: impl Iterator<Item = T>) -> Option<T> {
    let first = items.next();
    if items.next().is_some() { None } else { first }
}
