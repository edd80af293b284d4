//! Which certificate do we show, and which do we ask for?
//!
//! Loads and checks the listener's files, and loads them again when they change; then, or when a revocation list has run out,
//! whoever showed a certificate that they do not vouch for any more is not spoken to any longer. A file that cannot be used never ends the gateway nor what works:
//! the last good ones stay, and the log says so. It accepts no connection.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use quick_cache::sync::Cache;
use rustls::{
    RootCertStore, ServerConfig,
    crypto::{CryptoProvider, aws_lc_rs},
    server::{WebPkiClientVerifier, danger::ClientCertVerifier},
};
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, UnixTime, pem::PemObject};
use tokio::sync::watch;

use crate::{
    clock::{self, Timestamp},
    config,
    identity::{Certificate, list_ends},
};

/// The listener's TLS, always the last good one.
#[derive(Debug)]
pub(super) struct Certificates {
    files: config::Tls,
    current: ArcSwap<Current>,
    renewals: watch::Sender<u64>,
    /// What clients showed of late, by thumbprint: what goes on under it may outlast their connections.
    shown: Cache<String, Arc<Chain>>,
    /// Those whose connections were cut since they were last disowned, known above or not.
    lost: Mutex<Vec<Arc<Certificate>>>,
}

/// What a client showed.
#[derive(Debug)]
struct Chain {
    certificate: Arc<Certificate>,
    der: Vec<CertificateDer<'static>>,
}

/// What one reading of the files came to.
#[derive(Debug)]
struct Current {
    config: Arc<ServerConfig>,
    /// Who judges what clients show; nobody where they are not asked.
    verifier: Option<Arc<dyn ClientCertVerifier>>,
    /// When the revocation lists are to be replaced.
    lists_end: Vec<Timestamp>,
}

/// What a client showed, for as long as its connection lasts.
#[derive(Debug)]
pub(super) struct Standing {
    chain: Arc<Chain>,
    certificates: Arc<Certificates>,
    renewals: watch::Receiver<u64>,
}

impl Standing {
    pub(super) fn certificate(&self) -> &Arc<Certificate> {
        &self.chain.certificate
    }

    /// Whether the files of now vouch for it.
    pub(super) fn holds(&self) -> bool {
        self.certificates.vouch_for(&self.chain, clock::now())
    }

    /// For how long it has been at its end.
    pub(super) fn ended_for(&self, now: Timestamp) -> Option<Duration> {
        let end = self.chain.certificate.expires_at;
        (end <= now).then(|| now.since(end))
    }

    /// Returns when the files do not vouch for it any more.
    pub(super) async fn lost(&mut self) {
        // The sender is in `certificates`.
        while self.renewals.changed().await.is_ok() && self.holds() {}
        self.certificates.lost.lock().push(Arc::clone(&self.chain.certificate));
    }
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
        let (shown, lost) = (Cache::new(SHOWN_MAX), Mutex::default());
        Ok(Arc::new(Self { files: files.clone(), current, renewals: watch::Sender::new(0), shown, lost }))
    }

    /// What a handshake that begins now goes by, and who tells when that has changed.
    pub(super) fn current(&self) -> (Arc<ServerConfig>, watch::Receiver<u64>) {
        // In this order: what is read in between is told.
        let renewals = self.renewals.subscribe();
        (Arc::clone(&self.current.load().config), renewals)
    }

    /// What a client showed in a handshake that has ended.
    pub(super) fn shown(
        self: &Arc<Self>,
        chain: &[CertificateDer<'static>],
        renewals: watch::Receiver<u64>,
    ) -> Option<Box<Standing>> {
        let certificate = Arc::new(Certificate::of(chain.first()?));
        let thumbprint = certificate.thumbprint.clone();
        let chain = Arc::new(Chain { certificate, der: chain.to_vec() });
        self.shown.insert(thumbprint, Arc::clone(&chain));
        Some(Box::new(Standing { chain, certificates: Arc::clone(self), renewals }))
    }

    fn vouch_for(&self, chain: &Chain, now: Timestamp) -> bool {
        let current = self.current.load();
        let (Some(verifier), Some((leaf, rest))) = (&current.verifier, chain.der.split_first()) else { return false };
        let now = UnixTime::since_unix_epoch(Duration::from_millis(now.unix_ms()));
        match verifier.verify_client_cert(leaf, rest, now) {
            Ok(_verified) => true,
            Err(fault) => {
                tracing::info!(thumbprint = chain.certificate.thumbprint, %fault, "certificate.withdrawn");
                false
            }
        }
    }

    /// Reads the files again whenever they changed. Looked at rather than watched: a mounted secret changes by a
    /// symbolic link two folders up, which file watchers miss, and a few `stat` calls every two seconds cost nothing.
    /// Whoever the files of now do not vouch for is disowned, connected or not.
    pub(super) async fn follow(self: Arc<Self>, disown: impl Fn(&Certificate) + Send + Sync) {
        let (mut seen, mut looked) = (self.marks(), clock::now());
        let mut tick = tokio::time::interval(LOOK_EVERY);
        loop {
            tick.tick().await;
            let (marks, now) = (self.marks(), clock::now());
            let has_changed = marks != seen;
            seen = marks;
            if has_changed && self.renew() || self.has_list_ended(looked, now) {
                self.judge(now, &disown).await;
            }
            let lost = std::mem::take(&mut *self.lost.lock());
            lost.iter().filter(|certificate| now < certificate.expires_at).for_each(|certificate| disown(certificate));
            looked = now;
        }
    }

    /// Whether there is something new.
    fn renew(&self) -> bool {
        match read(&self.files) {
            Ok(config) => {
                self.current.store(Arc::new(config));
                tracing::info!(certificate = %self.files.certificate.display(), "certificate.reloaded");
                true
            }
            // The pair may be half written; the other half changes the marks again.
            Err(fault) => {
                tracing::error!(%fault, "certificate.reload_failed");
                false
            }
        }
    }

    /// Whether a revocation list was good at `looked` and is not at `now`.
    fn has_list_ended(&self, looked: Timestamp, now: Timestamp) -> bool {
        self.current.load().lists_end.iter().any(|end| looked < *end && *end <= now)
    }

    /// Has every connection look for itself, and disowns what was shown and is not vouched for any more. What has come to
    /// its own end was not taken back.
    async fn judge(&self, now: Timestamp, disown: &(impl Fn(&Certificate) + Sync)) {
        self.renewals.send_modify(|count| *count = count.wrapping_add(1));
        for (thumbprint, chain) in self.shown.iter().collect::<Vec<_>>() {
            // There may be thousands, and others wait for this thread.
            tokio::task::yield_now().await;
            let has_ended = chain.certificate.expires_at <= now;
            if has_ended || !self.vouch_for(&chain, now) {
                let _gone = self.shown.remove(&thumbprint);
                if !has_ended {
                    disown(&chain.certificate);
                }
            }
        }
    }

    /// Modification time and length of each file; `None` where there is none.
    fn marks(&self) -> Vec<Option<(SystemTime, u64)>> {
        let mark = |path: &Path| {
            let metadata = std::fs::metadata(path).ok()?;
            Some((metadata.modified().ok()?, metadata.len()))
        };
        let config::Tls { certificate, key, client_ca, client_crls, client_optional: _ } = &self.files;
        [certificate, key].into_iter().chain(client_ca).chain(client_crls).map(|path| mark(path)).collect()
    }
}

/// Everything new, the session tickets' key included: who resumes a session must have met the verifier of today.
fn read(files: &config::Tls) -> Result<Current, TlsFault> {
    let unusable = |why: String| TlsFault::Unusable { path: files.certificate.clone(), why };
    let provider = Arc::new(aws_lc_rs::default_provider());
    let chain = certificates(&files.certificate)?;
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(|fault| unreadable(&files.key, &fault))?;
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .map_err(|fault| unusable(fault.to_string()))?;
    let mut lists_end = Vec::new();
    let verifier =
        files.client_ca.as_ref().map(|path| verifier(path, files, (provider, &mut lists_end))).transpose()?;
    let builder = match &verifier {
        Some(verifier) => builder.with_client_cert_verifier(Arc::clone(verifier)),
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_single_cert(chain, key).map_err(|fault| unusable(fault.to_string()))?;
    config.alpn_protocols = vec![H2.to_vec(), b"http/1.1".to_vec()];
    config.ticketer = aws_lc_rs::Ticketer::new().map_err(|fault| unusable(fault.to_string()))?;
    // One ticket is enough: a client resumes or does not. Early data stays off, it can be replayed (RFC 8446 §8).
    config.send_tls13_tickets = 1;
    Ok(Current { config: Arc::new(config), verifier, lists_end })
}

fn verifier(
    path: &Path,
    files: &config::Tls,
    (provider, lists_end): (Arc<CryptoProvider>, &mut Vec<Timestamp>),
) -> Result<Arc<dyn ClientCertVerifier>, TlsFault> {
    let unusable = |path: &Path, why: String| TlsFault::Unusable { path: path.to_owned(), why };
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        let added = roots.add(certificate);
        added.map_err(|fault| unusable(path, fault.to_string()))?;
    }
    // A list that is missing for an authority, or was to be replaced by now, says nothing: whom it is about is not let in.
    // Without any list nothing is asked of one.
    let mut builder =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).enforce_revocation_expiration();
    for path in &files.client_crls {
        let found = CertificateRevocationListDer::pem_file_iter(path).and_then(Iterator::collect);
        let found: Vec<_> = found.map_err(|fault| unreadable(path, &fault))?;
        if found.is_empty() {
            return Err(TlsFault::Empty { path: path.clone(), what: "revocation list" });
        }
        lists_end.extend(found.iter().filter_map(|list| list_ends(list)));
        builder = builder.with_crls(found);
    }
    let builder = if files.client_optional { builder.allow_unauthenticated() } else { builder };
    builder
        .build()
        .map_err(|fault| unusable(files.client_crls.first().map_or(path, |crl| crl.as_path()), fault.to_string()))
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
/// Certificates of clients that are known without a connection.
const SHOWN_MAX: usize = 4 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(folder: &Path, name: &str) -> config::Tls {
        let made = rcgen::generate_simple_self_signed(vec![name.to_owned()]).unwrap();
        let (certificate, key) = (folder.join("tls.crt"), folder.join("tls.key"));
        let files = config::Tls { certificate, key, client_ca: None, client_crls: Vec::new(), client_optional: false };
        std::fs::write(&files.certificate, made.cert.pem()).unwrap();
        std::fs::write(&files.key, made.signing_key.serialize_pem()).unwrap();
        files
    }

    #[test]
    fn bad_files_are_faults_and_the_last_good_pair_stays() {
        let folder = tempfile::tempdir().unwrap();
        let files = pair(folder.path(), "one");
        let certificates = Certificates::load(&files).unwrap();
        let (first, _renewals) = certificates.current();

        let key = std::fs::read(&files.key).unwrap();
        pair(folder.path(), "two");
        std::fs::write(&files.key, key).unwrap();
        assert!(matches!(Certificates::load(&files), Err(TlsFault::Unusable { .. })), "a key of another certificate");
        assert!(!certificates.renew() && Arc::ptr_eq(&first, &certificates.current().0));

        std::fs::write(&files.certificate, "not PEM").unwrap();
        assert!(matches!(Certificates::load(&files), Err(TlsFault::Empty { .. })));
        std::fs::remove_file(&files.certificate).unwrap();
        assert!(matches!(Certificates::load(&files), Err(TlsFault::Unreadable { .. })));

        pair(folder.path(), "three");
        assert!(certificates.renew() && !Arc::ptr_eq(&first, &certificates.current().0));
    }

    #[tokio::test]
    async fn whoever_is_not_vouched_for_any_more_is_disowned_connected_or_not() {
        use rcgen::{
            BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer,
            ExtendedKeyUsagePurpose, IsCa, KeyIdMethod, KeyPair, KeyUsagePurpose, SerialNumber, date_time_ymd,
        };
        let folder = tempfile::tempdir().unwrap();
        let mut files = pair(folder.path(), "one");
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let leaf = |year| {
            let mut params = CertificateParams::default();
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
            params.not_after = date_time_ymd(year, 1, 1);
            params.signed_by(&KeyPair::generate().unwrap(), &authority).unwrap().der().clone()
        };
        let list = CertificateRevocationListParams {
            this_update: date_time_ymd(2020, 1, 1),
            next_update: date_time_ymd(2090, 1, 1),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: Vec::new(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        files.client_ca = Some(folder.path().join("ca.crt"));
        files.client_crls = vec![folder.path().join("ca.crl")];
        std::fs::write(folder.path().join("ca.crt"), authority.pem()).unwrap();
        std::fs::write(folder.path().join("ca.crl"), list.signed_by(&authority).unwrap().pem().unwrap()).unwrap();
        let certificates = Certificates::load(&files).unwrap();

        let (lasts, ends) = (leaf(2095), leaf(2089));
        let renewals = || certificates.current().1;
        let connected = certificates.shown(std::slice::from_ref(&lasts), renewals()).unwrap();
        let over = certificates.shown(&[ends], renewals()).unwrap();
        let gone = Mutex::new(Vec::new());
        let disown = |certificate: &Certificate| gone.lock().push(certificate.thumbprint.clone());
        let thumbprint = connected.certificate().thumbprint.clone();
        let year =
            |year| Timestamp::from_unix_ms(u64::try_from(date_time_ymd(year, 1, 1).unix_timestamp()).unwrap() * 1_000);

        let [before, end] = [2088, 2090].map(year);
        certificates.judge(before, &disown).await;
        assert!(gone.lock().is_empty() && connected.renewals.has_changed().unwrap(), "asked, and vouched for");
        assert!(over.ended_for(before).is_none() && over.ended_for(year(2089)) == Some(Duration::ZERO));
        drop((connected, over));
        assert!(certificates.has_list_ended(before, end) && !certificates.has_list_ended(end, year(2091)));
        certificates.judge(end, &disown).await;
        assert_eq!(*gone.lock(), [thumbprint], "not what has come to its own end");
        certificates.judge(end, &disown).await;
        assert_eq!(gone.lock().len(), 1, "once");
    }

    #[test]
    fn client_authorities_are_checked_too() {
        let folder = tempfile::tempdir().unwrap();
        let mut files = pair(folder.path(), "one");
        files.client_ca = Some(files.certificate.clone());
        assert!(Certificates::load(&files).is_ok());
        files.client_ca = Some(files.key.clone());
        assert!(matches!(Certificates::load(&files), Err(TlsFault::Empty { .. })));
        files.client_ca = Some(files.certificate.clone());
        files.client_crls = vec![files.certificate.clone()];
        assert!(matches!(Certificates::load(&files), Err(TlsFault::Empty { what: "revocation list", .. })));
        let mangled = "-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n";
        std::fs::write(folder.path().join("ca.crl"), mangled).unwrap();
        files.client_crls = vec![folder.path().join("ca.crl")];
        assert!(matches!(Certificates::load(&files), Err(TlsFault::Unusable { .. })));
    }
}
