//! Where do names come from that shall not meet, and values that nobody may guess?
//!
//! Random bytes for the ids that every call gets, drawn from the provider's generator many at a time: a draw costs the
//! same for ten bytes as for a thousand. What is drawn ahead lies in memory, so what nobody may guess, such as codes and
//! session ids, is drawn each for itself.

use std::{cell::RefCell, time::Duration};

use aws_lc_rs::rand;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};

thread_local! {
    static POOL: RefCell<Pool> = const { RefCell::new(Pool { bytes: [0; POOL_BYTES], used: POOL_BYTES }) };
}

struct Pool {
    bytes: [u8; POOL_BYTES],
    used: usize,
}

/// `N` random bytes that nobody else gets; `None` where there is no randomness.
#[must_use]
pub fn bytes<const N: usize>() -> Option<[u8; N]> {
    POOL.with_borrow_mut(Pool::take)
}

/// The machine gave no randomness.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the machine gave no randomness")]
pub struct NoRandomness;

/// 256 bits that nobody can guess, as 43 characters of base64url.
///
/// # Errors
/// [`NoRandomness`].
pub fn unguessable() -> Result<String, NoRandomness> {
    drawn::<32>().map(|bytes| URL_SAFE_NO_PAD.encode(bytes))
}

/// Whether `text` may be such a value, or a digest in the same form.
#[must_use]
pub fn is_unguessable(text: &str) -> bool {
    text.len() == 43 && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
}

/// `N` bytes that nobody can guess.
///
/// # Errors
/// [`NoRandomness`].
pub fn drawn<const N: usize>() -> Result<[u8; N], NoRandomness> {
    let mut bytes = [0; N];
    rand::fill(&mut bytes).map_err(|_unspecified| NoRandomness)?;
    Ok(bytes)
}

/// Between 90 and 110 per cent of `wait`, so that replicas do not ask in step (RC-12).
#[must_use]
pub fn jittered(wait: Duration) -> Duration {
    // Without randomness there is no jitter, which is not worth an error.
    let byte = drawn::<1>().map_or(128, |[byte]| byte);
    wait.mul_f64(0.9 + 0.2 * f64::from(byte) / 255.0)
}

impl Pool {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        if self.bytes.len().saturating_sub(self.used) < N {
            self.used = self.bytes.len();
            rand::fill(&mut self.bytes).ok()?;
            self.used = 0;
        }
        let taken = *self.bytes.get(self.used..)?.first_chunk()?;
        self.used = self.used.saturating_add(N);
        Some(taken)
    }
}

const POOL_BYTES: usize = 1024;

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    #[test]
    fn no_bytes_are_given_twice() {
        let drawn = || (0..1000).map(|_| super::bytes::<10>().unwrap()).collect::<Vec<_>>();
        let elsewhere = std::thread::spawn(drawn).join().unwrap();
        let all: HashSet<_> = drawn().into_iter().chain(elsewhere).collect();
        assert_eq!(all.len(), 2000);
        assert_eq!(super::bytes::<1025>(), None);
    }

    #[test]
    fn what_nobody_guesses_has_one_form() {
        let (one, other) = (super::unguessable().unwrap(), super::unguessable().unwrap());
        assert!(one != other && super::is_unguessable(&one));
        assert!(!super::is_unguessable("x") && !super::is_unguessable(&format!("{one}=")));
    }
}
