//! Who wakes the writer, and when?
//!
//! A wake-up costs more than a record, so there is one for many: callers ring when everybody who is at work on their
//! thread has queued what they have, and a record that nobody waits for rides with the next one or waits for a moment.
//! It holds no records.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering, fence},
    },
    thread::{self, Thread},
    time::Duration,
};

/// Between those who queue and the thread that writes.
#[derive(Debug, Default)]
pub(super) struct Bell {
    /// Somebody rang, and the writer has not looked since.
    rung: AtomicBool,
    /// The writer looks by itself soon.
    dozing: AtomicBool,
    writer: OnceLock<Thread>,
}

impl Bell {
    /// From now on it is the calling thread that is woken.
    pub(super) fn belongs_here(&self) {
        // There is one writer to a journal, so nobody was here before.
        self.writer.set(thread::current()).ok();
    }

    /// Wakes the writer for what was queued before this.
    pub(super) fn ring(&self) {
        if !self.rung.swap(true, Ordering::AcqRel)
            && let Some(writer) = self.writer.get()
        {
            writer.unpark();
        }
    }

    /// The same for a record that nobody waits for: the writer need not be woken if it looks soon anyway.
    pub(super) fn nudge(&self) {
        // With the fence in `doze`: either this sees that the writer sleeps, or the writer sees what was queued.
        fence(Ordering::SeqCst);
        if !self.dozing.load(Ordering::Relaxed) {
            self.ring();
        }
    }

    /// Says whether the writer will look by itself within [`DOZE`]. It looks at the queue after saying so.
    pub(super) fn doze(&self, dozing: bool) {
        self.dozing.store(dozing, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        self.rung.swap(false, Ordering::AcqRel);
    }

    /// Sleeps until rung, at most for `wait`, and sometimes for no reason shorter.
    pub(super) fn sleep(&self, wait: Duration) {
        thread::park_timeout(wait);
        self.rung.swap(false, Ordering::AcqRel);
    }
}

/// Rings when dropped: the last thing that a journal does.
#[derive(Debug)]
pub(super) struct LastRing(pub(super) Arc<super::journal::Shared>);

impl Drop for LastRing {
    fn drop(&mut self) {
        self.0.bell.ring();
    }
}

/// How long after a batch a record that nobody waits for may wait for company.
pub(super) const DOZE: Duration = Duration::from_millis(5);
