//! How does something leave the gateway and come back unchanged and unread?
//!
//! AES-256-GCM under a key that replicas may share: text out, bytes in, and nothing of the latter but what some replica
//! sealed. A random key serves where none is configured, so that nothing sealed outlives the process. The key before the
//! present one still opens, and seals for as long as somebody needs it, so that a rotation loses nothing. It does not
//! know what is sealed, nor for how long, nor who the others are.

use std::{
    fs, io,
    os::unix::fs::DirBuilderExt as _,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey},
    digest, rand,
};
use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use zeroize::Zeroizing;

use super::file;
use crate::{config, refusal::Refusal, secret::Secret};

/// Seals and opens. Cheap to clone; clones are the same.
#[derive(Debug, Clone)]
pub struct Sealer(Arc<Keys>);

#[derive(Debug)]
struct Keys {
    present: Key,
    before: Option<Key>,
    /// Whether the one before seals still.
    waits: AtomicBool,
}

#[derive(Debug)]
struct Key {
    id: Id,
    key: RandomizedNonceKey,
}

/// Tells a key from another, and nothing of the key.
pub(super) type Id = [u8; ID_BYTES];

/// The keys of somebody who opens what others seal, and the other way round.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Peer {
    /// What they open.
    pub(super) opens: Vec<Id>,
    /// What they seal with.
    pub(super) seals: Id,
}

impl Sealer {
    /// With the keys of `[state]`, the one that its folder has or gets now, or a random one.
    ///
    /// # Errors
    /// In words for the operator.
    pub fn new(keys: &config::State) -> Result<Self, String> {
        let present = match (&keys.sealing_key, &keys.directory) {
            (Some(secret), _) => Key::of(secret)?,
            (None, Some(folder)) => Key::of_folder(folder)?,
            (None, None) => Key::from_bytes(&*random()?)?,
        };
        let before = keys.sealing_key_before.as_ref().map(Key::of).transpose()?;
        Ok(Self(Arc::new(Keys { present, before, waits: AtomicBool::new(false) })))
    }

    /// The keys, as others have to know of them.
    pub(super) fn peer(&self) -> Peer {
        let opens = [Some(&self.0.present), self.0.before.as_ref()].into_iter().flatten().map(|key| key.id).collect();
        Peer { opens, seals: self.key().id }
    }

    /// Whether the key before the present one has to seal, for everybody to open what is sealed: `None` where nothing at hand
    /// would do.
    pub(super) fn has_to_wait(&self, others: &[Peer]) -> Option<bool> {
        let own = self.peer().opens;
        let is_open = others.iter().all(|other| own.contains(&other.seals));
        let is_known = |key: &Key| others.iter().all(|other| other.opens.contains(&key.id));
        let waits = !is_known(&self.0.present);
        (is_open && (!waits || self.0.before.as_ref().is_some_and(is_known))).then_some(waits)
    }

    /// Whether everybody opens what is sealed now, and the other way round.
    pub(super) fn suits(&self, others: &[Peer]) -> bool {
        let Peer { opens, seals } = self.peer();
        others.iter().all(|other| other.opens.contains(&seals) && opens.contains(&other.seals))
    }

    /// Seals from now on with the key before the present one, or no longer.
    pub(super) fn wait(&self, waits: bool) {
        self.0.waits.store(waits, Ordering::Release);
    }

    /// Whether the key before the present one seals.
    pub(super) fn waits(&self) -> bool {
        self.0.waits.load(Ordering::Acquire)
    }

    fn key(&self) -> &Key {
        self.0.before.as_ref().filter(|_| self.waits()).unwrap_or(&self.0.present)
    }

    /// Seals `plain`, to be opened for the same `purpose` only.
    ///
    /// # Errors
    /// [`Refusal::Bug`] where the cipher will not.
    pub fn seal(&self, purpose: &str, plain: Vec<u8>) -> Result<String, Refusal> {
        let (plain, key) = (Zeroizing::new(plain), self.key());
        // With room for the tag: a buffer that grows leaves a copy of itself behind.
        let mut sealed = Vec::with_capacity(plain.len().saturating_add(AES_256_GCM.tag_len()));
        sealed.extend_from_slice(&plain);
        let nonce = key
            .key
            .seal_in_place_append_tag(Aad::from(purpose.as_bytes()), &mut sealed)
            .map_err(|_unspecified| Refusal::Bug("nothing can be sealed"))?;
        let whole = [key.id.as_slice(), nonce.as_ref().as_slice(), sealed.as_slice()].concat();
        Ok(URL_SAFE_NO_PAD.encode(whole))
    }

    /// Whether the key that seals now sealed it.
    #[must_use]
    pub fn is_present(&self, text: &str) -> bool {
        URL_SAFE_NO_PAD.decode(text).is_ok_and(|whole| whole.starts_with(&self.key().id))
    }

    /// Opens what was sealed for `purpose`; `None` for everything else.
    #[must_use]
    pub fn open(&self, purpose: &str, text: &str) -> Option<Zeroizing<Vec<u8>>> {
        let whole = URL_SAFE_NO_PAD.decode(text).ok()?;
        let (id, rest) = whole.split_first_chunk::<ID_BYTES>()?;
        let (nonce, sealed) = rest.split_first_chunk::<NONCE_LEN>()?;
        let key = [Some(&self.0.present), self.0.before.as_ref()].into_iter().flatten().find(|key| key.id == *id)?;
        let mut sealed = Zeroizing::new(sealed.to_vec());
        let plain = key.key.open_in_place(Nonce::from(nonce), Aad::from(purpose.as_bytes()), &mut sealed).ok()?.len();
        sealed.truncate(plain);
        Some(sealed)
    }
}

impl Key {
    fn of(secret: &Secret) -> Result<Self, String> {
        let bytes = key_bytes(secret.expose()).ok_or("a sealing key is not 32 bytes")?;
        Self::from_bytes(&bytes)
    }

    fn of_folder(folder: &Path) -> Result<Self, String> {
        let path = folder.join(KEY_FILE);
        let why = |error: io::Error| format!("`{}`: {error}", path.display());
        if !path.exists() {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(why)?;
            file::create(&path, STANDARD.encode(*random()?).as_bytes(), 0o600).map_err(why)?;
        }
        let text = Zeroizing::new(fs::read_to_string(&path).map_err(why)?);
        let bytes = key_bytes(text.trim()).ok_or_else(|| format!("`{}` is not 32 bytes", path.display()))?;
        Self::from_bytes(&bytes)
    }

    fn from_bytes(bytes: &[u8; KEY_BYTES]) -> Result<Self, String> {
        // The name tells the key from another, and nothing of the key itself.
        let mut named = digest::Context::new(&digest::SHA256);
        named.update(b"tollgate sealing key ");
        named.update(bytes);
        let id = named.finish().as_ref().first_chunk().copied().ok_or("a digest without bytes")?;
        let key = RandomizedNonceKey::new(&AES_256_GCM, bytes).map_err(|_unspecified| "the cipher takes no key")?;
        Ok(Self { id, key })
    }
}

fn random() -> Result<Zeroizing<[u8; KEY_BYTES]>, String> {
    let mut bytes = Zeroizing::new([0; KEY_BYTES]);
    rand::fill(bytes.as_mut_slice())
        .map_err(|_unspecified| "the machine gave no randomness for a sealing key".to_owned())?;
    Ok(bytes)
}

/// 32 bytes as 64 hex digits or in base64.
fn key_bytes(text: &str) -> Option<Zeroizing<[u8; KEY_BYTES]>> {
    let mut bytes = Zeroizing::new([0; KEY_BYTES]);
    if text.len() == 2 * KEY_BYTES && text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        for (byte, at) in bytes.iter_mut().zip((0..text.len()).step_by(2)) {
            *byte = u8::from_str_radix(text.get(at..at.saturating_add(2))?, 16).ok()?;
        }
        return Some(bytes);
    }
    let decoded = Zeroizing::new(STANDARD.decode(text).ok()?);
    *bytes = <[u8; KEY_BYTES]>::try_from(decoded.as_slice()).ok()?;
    Some(bytes)
}

/// The key that a folder of state made for itself.
const KEY_FILE: &str = "sealing.key";

/// AES-256.
const KEY_BYTES: usize = 32;

/// Enough to tell two keys apart.
const ID_BYTES: usize = 4;

#[cfg(test)]
mod tests {
    use super::Sealer;
    use crate::{config::State, secret::Secret};

    fn sealer(present: &str, before: Option<&str>) -> Sealer {
        let secret = |text: &str| Secret::new(text.to_owned());
        Sealer::new(&State {
            sealing_key: Some(secret(present)),
            sealing_key_before: before.map(secret),
            ..State::default()
        })
        .unwrap()
    }

    #[test]
    fn what_was_sealed_opens_for_its_purpose_and_unchanged_only() {
        let sealer = Sealer::new(&State::default()).unwrap();
        let text = sealer.seal("a", b"the state".to_vec()).unwrap();
        assert_ne!(text, sealer.seal("a", b"the state".to_vec()).unwrap(), "never the same twice");
        assert_eq!(sealer.open("a", &text).unwrap().as_slice(), b"the state");
        assert_eq!(sealer.open("b", &text), None);
        for at in 0..text.len() {
            let mut forged = text.clone().into_bytes();
            forged[at] = if forged[at] == b'A' { b'B' } else { b'A' };
            let forged = String::from_utf8(forged).unwrap();
            let opened = sealer.open("a", &forged);
            assert_ne!(opened.as_deref().map(Vec::as_slice), Some(b"the state".as_slice()), "byte {at}");
        }
        assert_eq!(sealer.open("a", ""), None);
        assert_eq!(Sealer::new(&State::default()).unwrap().open("a", &text), None, "another process");
    }

    #[test]
    fn the_key_before_still_opens_and_no_older_one() {
        let (one, two, three) = ("11".repeat(32), "22".repeat(32), "33".repeat(32));
        let text = sealer(&one, None).seal("a", b"x".to_vec()).unwrap();
        assert!(sealer(&one, None).open("a", &text).is_some(), "another replica");
        assert!(sealer(&two, Some(&one)).open("a", &text).is_some());
        assert!(sealer(&three, Some(&two)).open("a", &text).is_none());
    }

    #[test]
    fn what_is_sealed_everybody_opens_who_is_there() {
        let keys = ["11".repeat(32), "22".repeat(32), "33".repeat(32)];
        let of = |present: usize, before: Option<usize>| sealer(&keys[present], before.map(|key| keys[key].as_str()));
        let (old, both, new) = (of(0, None), of(1, Some(0)), of(1, None));
        let peers = |others: &[&Sealer]| others.iter().map(|other| other.peer()).collect::<Vec<_>>();
        assert_eq!(both.has_to_wait(&[]), Some(false), "alone");
        assert_eq!(both.has_to_wait(&peers(&[&old])), Some(true));
        both.wait(true);
        assert!(old.open("a", &both.seal("a", b"x".to_vec()).unwrap()).is_some());
        assert_eq!(old.has_to_wait(&peers(&[&both])), Some(false));
        assert_eq!(new.has_to_wait(&peers(&[&both])), None, "what is sealed now it does not open");
        both.wait(false);
        assert_eq!(new.has_to_wait(&peers(&[&both])), Some(false));
        assert_eq!(old.has_to_wait(&peers(&[&both])), None, "whoever comes with the old key comes too late");
        assert_eq!(both.has_to_wait(&peers(&[&of(2, Some(0))])), None, "strangers");
    }

    #[test]
    fn keys_do_not_print() {
        let shown = format!("{:?}", sealer(&"ab".repeat(32), Some(&"cd".repeat(32))));
        assert!(!shown.contains("abab") && !shown.contains("cdcd") && !shown.contains("171, 171"), "{shown}");
    }
}
