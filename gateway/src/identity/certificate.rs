//! What does a client certificate say of its holder?
//!
//! A certificate that the TLS handshake verified in, its names, its end and its thumbprint out. It verifies nothing: only
//! the edge makes these, of what rustls let through, and never of a header.

use x509_parser::{
    certificate::X509Certificate, extensions::GeneralName, prelude::FromDer, revocation_list::CertificateRevocationList,
};

use super::{Agent, Authentication, Binding, CERTIFICATE, Credential, Identity, claims};
use crate::{
    clock::Timestamp,
    config::{CertificateHolder, CertificateName},
    digest,
};

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
    /// `notBefore`.
    pub begins_at: Timestamp,
    /// `notAfter`: a connection may outlast its certificate, the holder's name does not.
    pub expires_at: Timestamp,
}

impl Certificate {
    /// Reads the DER of a certificate that was verified. One that cannot be read has a thumbprint, no name and no life.
    #[must_use]
    pub fn of(der: &[u8]) -> Self {
        let thumbprint = digest::base64(der);
        let nameless = Self {
            thumbprint,
            uri: None,
            dns: Vec::new(),
            common_name: None,
            begins_at: Timestamp::from_unix_seconds(0),
            expires_at: Timestamp::from_unix_seconds(0),
        };
        let Ok((_, read)) = X509Certificate::from_der(der) else { return nameless };
        let seconds = |time: i64| Timestamp::from_unix_seconds(u64::try_from(time).unwrap_or(0));
        let alternatives = read.subject_alternative_name().ok().flatten();
        let names = alternatives.map(|extension| extension.value.general_names.as_slice()).unwrap_or_default();
        let uris = names.iter().filter_map(|name| if let GeneralName::URI(uri) = name { Some(*uri) } else { None });
        let dns = names.iter().filter_map(|name| if let GeneralName::DNSName(dns) = name { Some(*dns) } else { None });
        let common = read.subject().iter_common_name().map(|name| name.as_str().ok());
        Self {
            uri: only(uris).map(str::to_owned),
            dns: dns.map(str::to_owned).collect(),
            common_name: only(common).flatten().map(str::to_owned),
            begins_at: seconds(read.validity().not_before.timestamp()),
            expires_at: seconds(read.validity().not_after.timestamp()),
            ..nameless
        }
    }
}

impl Certificate {
    /// Whether it says that its holder is called so.
    #[must_use]
    pub fn is_of(&self, name: &CertificateName) -> bool {
        match name {
            CertificateName::Uri(uri) => self.uri.as_ref() == Some(uri),
            CertificateName::Dns(dns) => self.dns.iter().any(|own| own.eq_ignore_ascii_case(dns)),
            CertificateName::CommonName(name) => self.common_name.as_ref() == Some(name),
        }
    }
}

/// When the revocation list `der` is to be replaced: it says nothing any more from then on.
#[must_use]
pub fn list_ends(der: &[u8]) -> Option<Timestamp> {
    let (_, list) = CertificateRevocationList::from_der(der).ok()?;
    let ends = list.next_update()?.timestamp();
    Some(Timestamp::from_unix_seconds(u64::try_from(ends).unwrap_or(0)))
}

/// A machine that needs no token: it is whoever the administrator says that `holder` is. There is no credential that could be
/// exchanged, and none that could leak.
pub(super) fn identity(certificate: &Certificate, holder: &CertificateHolder) -> Identity {
    claims::told_apart(Identity {
        user: None,
        agent: Agent { client_id: holder.agent.clone(), actors: Vec::new() },
        tenant: holder.tenant.clone(),
        groups: holder.groups.clone(),
        scopes: holder.scopes.clone(),
        authentication: Authentication {
            method: CERTIFICATE,
            issuer: ISSUER.to_owned(),
            token_id: None,
            token_digest: digest::short(&certificate.thumbprint),
            login_id: None,
            acr: None,
            issued_at: certificate.begins_at,
            auth_time: None,
            binding: Binding::Certificate(certificate.thumbprint.clone()),
            may_act: None,
            expires_at: certificate.expires_at,
        },
        principal: [0; 32],
        class: [0; 32],
        credential: Credential::new(String::new()),
    })
}

/// Who vouches for these: the administrator, in `[[certificates]]`. No issuer of tokens has such a name.
pub const ISSUER: &str = "urn:tollgate:certificates";

/// The one item, where there is exactly one.
fn only<T>(mut items: impl Iterator<Item = T>) -> Option<T> {
    let first = items.next();
    if items.next().is_some() { None } else { first }
}
