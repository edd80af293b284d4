//! Who is still at work?
//!
//! Every task of the gateway is spawned here, so that a drain can wait for the calls that have begun.
//! It does not say what tasks do.

use std::{future::Future, pin::Pin, sync::Arc, time::Duration};

use tokio::{
    sync::Notify,
    task::{JoinError, JoinHandle},
};

/// The tasks that a drain waits for.
#[derive(Debug, Clone, Default)]
pub struct Tasks(Arc<Counter>);

#[derive(Debug, Default)]
struct Counter {
    running: std::sync::atomic::AtomicUsize,
    idle: Notify,
}

/// One running task; dropping it says that the task is over.
#[derive(Debug)]
struct Running(Arc<Counter>);

impl Drop for Running {
    fn drop(&mut self) {
        if self.0.running.fetch_sub(1, std::sync::atomic::Ordering::AcqRel) == 1 {
            self.0.idle.notify_waiters();
        }
    }
}

impl Tasks {
    /// Runs `work` on its own; a drain waits for it.
    pub fn spawn<F>(&self, work: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        // On the heap before it is wrapped: a large future would be copied at every layer.
        self.spawn_placed(Box::pin(work))
    }

    /// Runs `work`, which has its place already ([`placed`]), on its own; a drain waits for it.
    pub fn spawn_placed<F>(&self, work: Pin<Box<F>>) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.0.running.fetch_add(1, std::sync::atomic::Ordering::AcqRel);
        let running = Running(Arc::clone(&self.0));
        background(async move {
            let output = work.await;
            drop(running);
            output
        })
    }

    /// How many tasks have not ended.
    #[must_use]
    pub fn running(&self) -> usize {
        self.0.running.load(std::sync::atomic::Ordering::Acquire)
    }

    /// Waits until no task runs, at most `limit`; says whether that came true.
    pub async fn idle(&self, limit: Duration) -> bool {
        let all_done = async {
            loop {
                let notified = self.0.idle.notified();
                if self.running() == 0 {
                    return;
                }
                notified.await;
            }
        };
        tokio::time::timeout(limit, all_done).await.is_ok()
    }
}

/// The future that `make` gives, on the heap. `Box::pin` builds a future on the stack and copies all its room, most of which
/// holds nothing yet; here the place is there first, so that only what the future begins with is written to it.
#[inline(always)]
pub fn placed<F: Future>(make: impl FnOnce() -> F) -> Pin<Box<F>> {
    Box::into_pin(Box::write(Box::new_uninit(), make()))
}

/// Runs `work` until the process ends: watchers and refreshers, which no drain waits for.
#[expect(clippy::disallowed_methods, reason = "the one place that spawns")]
pub fn background<F>(work: F) -> JoinHandle<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    tokio::spawn(work)
}

/// Runs `work`, which may wait for a disk, where no other task waits for it.
///
/// # Errors
/// Where it panicked.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, JoinError> {
    tokio::task::spawn_blocking(work).await
}
