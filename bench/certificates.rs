//! Whom do the parties trust?
//!
//! An authority made for one run, the certificate that the proxies show, and those of clients. It connects nobody.

use std::{fs, path::Path, sync::Arc};

use aws_lc_rs::digest;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair};
use rustls::{
    ClientConfig, RootCertStore,
    client::Resumption,
    pki_types::{CertificateDer, PrivateKeyDer},
};
use tokio_rustls::TlsConnector;

use crate::estate::{self, private};

/// Who signs them.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// A client's certificate and its key.
pub struct Shown {
    certificate: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
}

impl Shown {
    /// `x5t#S256` (RFC 8705 §3.1).
    pub fn thumbprint(&self) -> String {
        URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, &self.certificate))
    }
}

impl Authority {
    /// A new one; its own certificate is in `folder`, and one for the proxies with its key.
    pub fn new(folder: &Path) -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        fs::write(folder.join("ca.crt"), issuer.pem()).unwrap();
        let key = KeyPair::generate().unwrap();
        let leaf = CertificateParams::new(vec!["127.0.0.1".to_owned(), "localhost".to_owned()]).unwrap();
        let leaf = leaf.signed_by(&key, &issuer).unwrap();
        fs::write(folder.join("tls.crt"), leaf.pem()).unwrap();
        fs::write(folder.join("tls.key"), key.serialize_pem()).unwrap();
        fs::write(folder.join("both.pem"), format!("{}{}", leaf.pem(), key.serialize_pem())).unwrap();
        private(&folder.join("tls.key"));
        Self { issuer }
    }

    /// A certificate of the machine that Tollgate is told of; no two are the same.
    pub fn machine(&self) -> Shown {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, estate::MACHINE);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Shown { certificate: certificate.der().clone(), key: PrivateKeyDer::try_from(key.serialize_der()).unwrap() }
    }

    /// Who trusts it, and goes on with the sessions of TLS that it had.
    pub fn trusted(&self) -> TlsConnector {
        connector(self.trusting().with_no_client_auth())
    }

    /// Who trusts it and begins anew with each connection; with a certificate, if it is given one.
    pub fn trusted_anew(&self, shown: Option<&Shown>) -> TlsConnector {
        let builder = self.trusting();
        let mut config = match shown {
            None => builder.with_no_client_auth(),
            Some(Shown { certificate, key }) => {
                builder.with_client_auth_cert(vec![certificate.clone()], key.clone_key()).unwrap()
            }
        };
        config.resumption = Resumption::disabled();
        connector(config)
    }

    fn trusting(&self) -> rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert> {
        let mut roots = RootCertStore::empty();
        roots.add(self.issuer.der().clone()).unwrap();
        ClientConfig::builder().with_root_certificates(roots)
    }
}

fn connector(mut config: ClientConfig) -> TlsConnector {
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    TlsConnector::from(Arc::new(config))
}
