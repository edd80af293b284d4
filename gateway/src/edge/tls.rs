//! Which certificate do we show, and which do we ask for?
//!
//! Loads and checks the listener's files, and loads them again when they change. A file that cannot be used never ends
//! the gateway nor what works: the last good certificate stays, and the log says so. It accepts no connection.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwap;
use rustls::{
    RootCertStore, ServerConfig,
    crypto::{CryptoProvider, aws_lc_rs},
    server::{WebPkiClientVerifier, danger::ClientCertVerifier},
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};

use crate::config;

/// The listener's TLS, always the last good one.
#[derive(Debug)]
pub(super) struct Certificates {
    files: config::Tls,
    current: ArcSwap<ServerConfig>,
}

/// Why TLS cannot be served with these files.
#[derive(Debug, thiserror::Error)]
pub enum TlsFault {
    /// A PEM file cannot be read.
    #[error("cannot read `{}`: {why}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the reader says.
        why: String,
    },
    /// A PEM file holds nothing of the kind needed.
    #[error("`{}` holds no {what}", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
        /// The kind.
        what: &'static str,
    },
    /// Certificate, key and authorities are readable but do not make a listener.
    #[error("`{}` cannot be served: {why}", path.display())]
    Unusable {
        /// The file of the certificate.
        path: PathBuf,
        /// What rustls says.
        why: String,
    },
}

impl Certificates {
    /// Reads `files` for the first time.
    pub(super) fn load(files: &config::Tls) -> Result<Arc<Self>, TlsFault> {
        let current = ArcSwap::from_pointee(read(files)?);
        Ok(Arc::new(Self { files: files.clone(), current }))
    }

    /// What a handshake that begins now goes by.
    pub(super) fn current(&self) -> Arc<ServerConfig> {
        self.current.load_full()
    }

    /// Reads the files again whenever they changed. Looked at rather than watched: a mounted secret changes by a
    /// symbolic link two folders up, which file watchers miss, and three `stat` calls every two seconds cost nothing.
    pub(super) async fn follow(self: Arc<Self>) {
        let mut seen = self.marks();
        let mut tick = tokio::time::interval(LOOK_EVERY);
        loop {
            tick.tick().await;
            let now = self.marks();
            if now != seen {
                seen = now;
                self.renew();
            }
        }
    }

    fn renew(&self) {
        match read(&self.files) {
            Ok(config) => {
                self.current.store(Arc::new(config));
                tracing::info!(certificate = %self.files.certificate.display(), "certificate.reloaded");
            }
            // The pair may be half written; the other half changes the marks again.
            Err(fault) => tracing::error!(%fault, "certificate.reload_failed"),
        }
    }

    /// Modification time and length of each file; `None` where there is none.
    fn marks(&self) -> [Option<(SystemTime, u64)>; 3] {
        let mark = |path: &Path| {
            let metadata = std::fs::metadata(path).ok()?;
            Some((metadata.modified().ok()?, metadata.len()))
        };
        let client_ca = self.files.client_ca.as_deref().and_then(mark);
        [mark(&self.files.certificate), mark(&self.files.key), client_ca]
    }
}

/// Everything new, the session tickets' key included: who resumes a session must have met the verifier of today.
fn read(files: &config::Tls) -> Result<ServerConfig, TlsFault> {
    let unusable = |why: String| TlsFault::Unusable { path: files.certificate.clone(), why };
    let provider = Arc::new(aws_lc_rs::default_provider());
    let chain = certificates(&files.certificate)?;
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(|fault| unreadable(&files.key, &fault))?;
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .map_err(|fault| unusable(fault.to_string()))?;
    let builder = match &files.client_ca {
        Some(path) => builder.with_client_cert_verifier(verifier(path, files.client_optional, provider)?),
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_single_cert(chain, key).map_err(|fault| unusable(fault.to_string()))?;
    config.alpn_protocols = vec![H2.to_vec(), b"http/1.1".to_vec()];
    config.ticketer = aws_lc_rs::Ticketer::new().map_err(|fault| unusable(fault.to_string()))?;
    // One ticket is enough: a client resumes or does not. Early data stays off, it can be replayed (RFC 8446 §8).
    config.send_tls13_tickets = 1;
    Ok(config)
}

fn verifier(
    path: &Path,
    optional: bool,
    provider: Arc<CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, TlsFault> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        let added = roots.add(certificate);
        added.map_err(|fault| TlsFault::Unusable { path: path.to_owned(), why: fault.to_string() })?;
    }
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
    let builder = if optional { builder.allow_unauthenticated() } else { builder };
    builder.build().map_err(|fault| TlsFault::Unusable { path: path.to_owned(), why: fault.to_string() })
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsFault> {
    let found: Vec<_> =
        CertificateDer::pem_file_iter(path).and_then(Iterator::collect).map_err(|fault| unreadable(path, &fault))?;
    if found.is_empty() {
        return Err(TlsFault::Empty { path: path.to_owned(), what: "certificate" });
    }
    Ok(found)
}

fn unreadable(path: &Path, fault: &rustls_pki_types::pem::Error) -> TlsFault {
    TlsFault::Unreadable { path: path.to_owned(), why: fault.to_string() }
}

/// The protocol name of HTTP/2 over TLS (RFC 9113 §3.2).
pub(super) const H2: &[u8] = b"h2";
/// How long a changed certificate may stay unnoticed.
const LOOK_EVERY: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(folder: &Path, name: &str) -> config::Tls {
        let made = rcgen::generate_simple_self_signed(vec![name.to_owned()]).unwrap();
        let (certificate, key) = (folder.join("tls.crt"), folder.join("tls.key"));
        let files = config::Tls { certificate, key, client_ca: None, client_optional: false };
        std::fs::write(&files.certificate, made.cert.pem()).unwrap();
        std::fs::write(&files.key, made.signing_key.serialize_pem()).unwrap();
        files
    }

    #[test]
    fn bad_files_are_faults_and_the_last_good_pair_stays() {
        let folder = tempfile::tempdir().unwrap();
        let files = pair(folder.path(), "one");
        let certificates = Certificates::load(&files).unwrap();
        let first = certificates.current();

        let key = std::fs::read(&files.key).unwrap();
        pair(folder.path(), "two");
        std::fs::write(&files.key, key).unwrap();
        assert!(matches!(Certificates::load(&files), Err(TlsFault::Unusable { .. })), "a key of another certificate");
        certificates.renew();
        assert!(Arc::ptr_eq(&first, &certificates.current()));

        std::fs::write(&files.certificate, "not PEM").unwrap();
        assert!(matches!(Certificates::load(&files), Err(TlsFault::Empty { .. })));
        std::fs::remove_file(&files.certificate).unwrap();
        assert!(matches!(Certificates::load(&files), Err(TlsFault::Unreadable { .. })));

        pair(folder.path(), "three");
        certificates.renew();
        assert!(!Arc::ptr_eq(&first, &certificates.current()));
    }

    #[test]
    fn client_authorities_are_checked_too() {
        let folder = tempfile::tempdir().unwrap();
        let mut files = pair(folder.path(), "one");
        files.client_ca = Some(files.certificate.clone());
        assert!(Certificates::load(&files).is_ok());
        files.client_ca = Some(files.key.clone());
        assert!(matches!(Certificates::load(&files), Err(TlsFault::Empty { .. })));
    }
}
