//! Where do names come from that shall not meet?
//!
//! Random bytes for the ids that every call gets, drawn from the provider's generator many at a time: a draw costs the
//! same for ten bytes as for a thousand. Not for what nobody may guess, such as keys and session ids: what is drawn
//! ahead lies in memory.

use std::cell::RefCell;

use aws_lc_rs::rand;

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
}
