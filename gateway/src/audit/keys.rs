//! What is the journal keyed by?
//!
//! One root key, from the configuration or made in the journal's folder, from which the chain's key and the key of the
//! argument digests derive; and a signing pair for checkpoints. A root key in the folder protects the journal from
//! whoever can write the folder but not read it (backups, shippers); give `audit.key` from elsewhere for more.
//! This module does not use the keys.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use aws_lc_rs::{
    encoding::AsDer as _,
    hmac,
    signature::{Ed25519KeyPair, KeyPair as _},
};
use base64::Engine as _;
use zeroize::Zeroizing;

use crate::{
    digest::{hex, unhex},
    secret::Secret,
    state::file,
};

/// Why keys cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum KeyFault {
    /// The file system said no.
    #[error("`{}`: {error}", path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// What it said.
        error: io::Error,
    },
    /// The root key is not 32 bytes.
    #[error("the audit key is not 32 bytes in hex or base64")]
    RootMalformed,
    /// The signing key is not an Ed25519 private key.
    #[error("`{}` is not an Ed25519 private key in PKCS#8", .0.display())]
    SigningMalformed(PathBuf),
    /// The public key is not an Ed25519 public key.
    #[error("not an Ed25519 public key in PEM or hex")]
    PublicMalformed,
    /// The machine gave no randomness.
    #[error("the machine gave no randomness for a key")]
    Randomness,
}

/// The key of the chain and that of the argument digests.
#[derive(Debug, Clone)]
pub struct RootKey {
    /// Keys the chain.
    pub(super) chain: hmac::Key,
    /// Keys the digests of arguments: apart, so that who may compare arguments cannot forge records.
    pub(super) arguments: hmac::Key,
    /// Names the root key without giving it away.
    pub(super) id: String,
}

impl RootKey {
    /// Reads 32 bytes in hex or base64.
    ///
    /// # Errors
    /// [`KeyFault::RootMalformed`] where that is not what `text` is.
    pub fn parse(text: &Secret) -> Result<Self, KeyFault> {
        let text = text.expose().trim();
        let from_hex = unhex::<32>(text.to_ascii_lowercase().as_bytes());
        let from_base64 = || {
            let bytes = Zeroizing::new(base64::engine::general_purpose::STANDARD.decode(text).ok()?);
            <[u8; 32]>::try_from(bytes.as_slice()).ok()
        };
        from_hex.or_else(from_base64).map(|root| Self::derive(&Zeroizing::new(root))).ok_or(KeyFault::RootMalformed)
    }

    /// Reads the root key that a journal made in its own folder.
    ///
    /// # Errors
    /// Where there is none, or it is not 32 bytes.
    pub fn of_folder(folder: &Path) -> Result<Self, KeyFault> {
        let path = folder.join(ROOT_FILE);
        let text = fs::read_to_string(&path).map_err(|error| KeyFault::Io { path, error })?;
        Self::parse(&Secret::new(text))
    }

    fn derive(root: &[u8; 32]) -> Self {
        let root = hmac::Key::new(hmac::HMAC_SHA256, root);
        let derived = |label: &str| hmac::sign(&root, label.as_bytes());
        Self {
            chain: hmac::Key::new(hmac::HMAC_SHA256, derived("tollgate.audit/1 chain").as_ref()),
            arguments: hmac::Key::new(hmac::HMAC_SHA256, derived("tollgate.audit/1 arguments").as_ref()),
            id: hex(derived("tollgate.audit/1 name").as_ref().get(..8).unwrap_or_default()),
        }
    }
}

/// Everything that a writer needs.
#[derive(Debug)]
pub(super) struct Keys {
    pub(super) root: RootKey,
    pub(super) signing: Ed25519KeyPair,
}

impl Keys {
    /// Takes the configured root key, or the folder's own; makes in the folder what is not there yet.
    pub(super) fn open(folder: &Path, configured: Option<&Secret>) -> Result<Self, KeyFault> {
        let root = match configured {
            Some(text) => RootKey::parse(text)?,
            None => {
                if !folder.join(ROOT_FILE).exists() {
                    let mut bytes = Zeroizing::new([0_u8; 32]);
                    aws_lc_rs::rand::fill(bytes.as_mut_slice()).map_err(|_unspecified| KeyFault::Randomness)?;
                    create(&folder.join(ROOT_FILE), hex(bytes.as_slice()).as_bytes(), 0o600)?;
                }
                RootKey::of_folder(folder)?
            }
        };
        Ok(Self { root, signing: signing(folder)? })
    }
}

fn signing(folder: &Path) -> Result<Ed25519KeyPair, KeyFault> {
    let path = folder.join(SIGNING_FILE);
    if !path.exists() {
        let pair = Ed25519KeyPair::generate().map_err(|_unspecified| KeyFault::Randomness)?;
        let document = pair.to_pkcs8().map_err(|_unspecified| KeyFault::Randomness)?;
        create(&path, document.as_ref(), 0o600)?;
    }
    let bytes = Zeroizing::new(fs::read(&path).map_err(|error| KeyFault::Io { path: path.clone(), error })?);
    let pair = Ed25519KeyPair::from_pkcs8(&bytes).map_err(|_rejected| KeyFault::SigningMalformed(path))?;
    if !folder.join(PUBLIC_FILE).exists() {
        let der = pair.public_key().as_der().map_err(|_unspecified| KeyFault::PublicMalformed)?;
        let body = base64::engine::general_purpose::STANDARD.encode(der.as_ref());
        let pem = format!("{PEM_BEGIN}\n{body}\n{PEM_END}\n");
        create(&folder.join(PUBLIC_FILE), pem.as_bytes(), 0o644)?;
    }
    Ok(pair)
}

/// Reads the public key of checkpoints: PEM (`SubjectPublicKeyInfo`, RFC 8410) or 32 bytes in hex.
///
/// # Errors
/// [`KeyFault::PublicMalformed`] where that is not what `text` is.
pub fn parse_public(text: &str) -> Result<[u8; 32], KeyFault> {
    let text = text.trim();
    let Some(body) = text.strip_prefix(PEM_BEGIN) else {
        return unhex(text.as_bytes()).ok_or(KeyFault::PublicMalformed);
    };
    let body: String =
        body.trim_end_matches(PEM_END).chars().filter(|character| !character.is_ascii_whitespace()).collect();
    let der = base64::engine::general_purpose::STANDARD.decode(body).ok();
    der.as_deref()
        .and_then(|der| der.strip_prefix(SPKI_ED25519))
        .and_then(|key| <[u8; 32]>::try_from(key).ok())
        .ok_or(KeyFault::PublicMalformed)
}

/// Reads the public key that a journal left in its own folder.
///
/// # Errors
/// Where there is none, or it is not one.
pub fn public_of_folder(folder: &Path) -> Result<[u8; 32], KeyFault> {
    let path = folder.join(PUBLIC_FILE);
    let text = fs::read_to_string(&path).map_err(|error| KeyFault::Io { path, error })?;
    parse_public(&text)
}

fn create(path: &Path, bytes: &[u8], mode: u32) -> Result<(), KeyFault> {
    file::create(path, bytes, mode).map_err(|error| KeyFault::Io { path: path.to_owned(), error })
}

const ROOT_FILE: &str = "chain.key";
const SIGNING_FILE: &str = "checkpoint.p8";
const PUBLIC_FILE: &str = "checkpoint.pub";
const PEM_BEGIN: &str = "-----BEGIN PUBLIC KEY-----";
const PEM_END: &str = "-----END PUBLIC KEY-----";
/// The DER of `SubjectPublicKeyInfo` with the algorithm `id-Ed25519`, up to the key (RFC 8410 §4).
const SPKI_ED25519: &[u8] = &[0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
