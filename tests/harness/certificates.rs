//! Whom do the tests trust?
//!
//! A certificate authority made for one test, and leaves of it as PEM files. Nothing is kept between tests.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use aws_lc_rs::digest;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SanType, SerialNumber,
    date_time_ymd,
};
use rustls::{ClientConfig, RootCertStore, ServerConfig, server::WebPkiClientVerifier};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};

/// A certificate authority.
pub(crate) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    folder: PathBuf,
}

/// The files of a certificate: PEM, leaf first.
#[derive(Debug, Clone)]
pub(crate) struct Leaf {
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
    serial: u64,
}

impl Leaf {
    /// The certificate itself.
    pub(crate) fn der(&self) -> CertificateDer<'static> {
        CertificateDer::from_pem_file(&self.certificate).unwrap()
    }

    /// `x5t#S256` (RFC 8705 §3.1).
    pub(crate) fn thumbprint(&self) -> String {
        BASE64URL.encode(digest::digest(&digest::SHA256, &self.der()))
    }
}

impl Authority {
    /// Makes an authority whose files lie in `folder`.
    pub(crate) fn new(folder: &Path) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "tests");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        fs::write(folder.join("authority.pem"), issuer.pem()).unwrap();
        Self { issuer, folder: folder.to_owned() }
    }

    /// The authority's own certificate, as a PEM file.
    pub(crate) fn file(&self) -> PathBuf {
        self.folder.join("authority.pem")
    }

    /// The list of what it has taken back, as a PEM file.
    pub(crate) fn list(&self) -> PathBuf {
        self.folder.join("authority.crl")
    }

    /// Takes these back and no others: writes its list, which is to be replaced before `year`.
    pub(crate) fn takes_back(&self, leaves: &[&Leaf], year: i32) {
        let revoked = |leaf: &&Leaf| RevokedCertParams {
            serial_number: SerialNumber::from(leaf.serial),
            revocation_time: date_time_ymd(2020, 1, 1),
            reason_code: None,
            invalidity_date: None,
        };
        let list = CertificateRevocationListParams {
            this_update: date_time_ymd(2020, 1, 1),
            next_update: date_time_ymd(year, 1, 1),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: leaves.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        // In one step, as an administrator's tools do.
        let draft = self.folder.join("authority.crl.new");
        fs::write(&draft, list.signed_by(&self.issuer).unwrap().pem().unwrap()).unwrap();
        fs::rename(draft, self.list()).unwrap();
    }

    /// Makes a certificate for these names (host names or addresses), for both ends of a connection.
    pub(crate) fn leaf(&self, name: &str, hosts: &[&str]) -> Leaf {
        let hosts: Vec<String> = hosts.iter().map(ToString::to_string).collect();
        self.signed(name, CertificateParams::new(hosts).unwrap())
    }

    /// Makes a certificate for a client that goes by this URI.
    pub(crate) fn workload(&self, name: &str, uri: &str) -> Leaf {
        let mut params = CertificateParams::default();
        params.subject_alt_names.push(SanType::URI(uri.try_into().unwrap()));
        self.signed(name, params)
    }

    fn signed(&self, name: &str, mut params: CertificateParams) -> Leaf {
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let serial = uuid::Uuid::new_v4().as_u64_pair().0 >> 1;
        params.serial_number = Some(SerialNumber::from(serial));
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let file = |kind: &str| self.folder.join(format!("{name}.{kind}"));
        let leaf = Leaf { certificate: file("pem"), key: file("key"), serial };
        fs::write(&leaf.certificate, certificate.pem()).unwrap();
        fs::write(&leaf.key, key.serialize_pem()).unwrap();
        // The gateway takes no key that everybody may read.
        fs::set_permissions(&leaf.key, fs::Permissions::from_mode(0o600)).unwrap();
        leaf
    }

    /// TLS of a server with this certificate that talks only to who shows one of this authority.
    pub(crate) fn mutual_server(&self, leaf: &Leaf, protocols: &[&str]) -> Arc<ServerConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(self.issuer.der().clone()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider)).build();
        let chain: Result<_, _> = CertificateDer::pem_file_iter(&leaf.certificate).unwrap().collect();
        let key = PrivateKeyDer::from_pem_file(&leaf.key).unwrap();
        let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let mut config =
            builder.with_client_cert_verifier(verifier.unwrap()).with_single_cert(chain.unwrap(), key).unwrap();
        config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        Arc::new(config)
    }

    /// TLS of a server with this certificate that talks to everybody.
    pub(crate) fn server(leaf: &Leaf) -> Arc<ServerConfig> {
        Self::server_of(leaf, &[])
    }

    /// The same, of one that speaks these protocols.
    pub(crate) fn server_of(leaf: &Leaf, protocols: &[&str]) -> Arc<ServerConfig> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let chain: Result<_, _> = CertificateDer::pem_file_iter(&leaf.certificate).unwrap().collect();
        let key = PrivateKeyDer::from_pem_file(&leaf.key).unwrap();
        let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let mut config = builder.with_no_client_auth().with_single_cert(chain.unwrap(), key).unwrap();
        config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        Arc::new(config)
    }

    /// TLS of a client that trusts this authority only and offers these protocols.
    pub(crate) fn client(&self, protocols: &[&str]) -> Arc<ClientConfig> {
        self.client_showing(protocols, None)
    }

    /// The same, of one that shows a certificate.
    pub(crate) fn client_showing(&self, protocols: &[&str], leaf: Option<&Leaf>) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(self.issuer.der().clone()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let builder = builder.with_root_certificates(roots);
        let mut config = match leaf {
            None => builder.with_no_client_auth(),
            Some(leaf) => {
                let key = PrivateKeyDer::from_pem_file(&leaf.key).unwrap();
                builder.with_client_auth_cert(vec![leaf.der()], key).unwrap()
            }
        };
        config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        Arc::new(config)
    }
}
