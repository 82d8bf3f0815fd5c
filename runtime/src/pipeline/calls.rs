//! Plugin calls that run at a time, of all pipelines together.
//!
//! More than there are cores, so that calls that take long do not keep the others waiting, and few enough
//! that each gets its share well within its deadline. A call that waits for a service does not count: it
//! takes a thread and no core. Threads are bounded, too: a tokio runtime without a free one for blocking work
//! stands still, so that calls leave some for everything else.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::plugin::ComputeSlot;

/// Threads for blocking work (`max_blocking_threads`) that the tokio runtime must have in which pipelines run.
pub const MAX_THREADS: usize = 8_192;

/// Threads that are left for what is no call that waits: files, calls that run, the runtime's own.
const OTHER_THREADS: usize = 1_024;

/// Calls that wait for services at a time without counting as running.
const MAX_WAITING: usize = MAX_THREADS - OTHER_THREADS;

/// The calls that run.
#[derive(Debug)]
pub(super) struct Calls {
    running: Arc<Semaphore>,
    waiting: AtomicUsize,
    runtime: Handle,
}

impl Calls {
    /// As many as the machine is good for. Needs to be called in a tokio runtime.
    pub(super) fn new() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self::with_limit((4 * cores).max(8))
    }

    fn with_limit(limit: usize) -> Self {
        Self {
            running: Arc::new(Semaphore::new(limit)),
            waiting: AtomicUsize::new(0),
            runtime: Handle::current(),
        }
    }

    /// Waits for a call's turn. The call runs until what is returned is dropped.
    pub(super) async fn start(&self) -> Option<OwnedSemaphorePermit> {
        // The semaphore is never closed.
        Arc::clone(&self.running).acquire_owned().await.ok()
    }
}

/// For calls that run, on a thread that may block (`block_in_place`).
impl ComputeSlot for Calls {
    fn release(&self) -> bool {
        if self.waiting.fetch_add(1, Ordering::Relaxed) >= MAX_WAITING {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            return false;
        }
        // The call keeps its permit, and somebody else gets one more.
        self.running.add_permits(1);
        true
    }

    fn acquire(&self) {
        if let Ok(permit) = self.runtime.block_on(self.running.acquire()) {
            permit.forget();
        }
        self.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use tokio::task::block_in_place;

    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_call_that_waits_makes_room_and_takes_it_again() {
        let calls = Arc::new(Calls::with_limit(1));
        let first = calls.start().await;
        assert_eq!(calls.running.available_permits(), 0);
        assert!(calls.release());
        // Another one runs while the first one waits, and the first one waits for its end.
        let second = calls.start().await;
        let back = tokio::task::spawn_blocking({
            let calls = Arc::clone(&calls);
            move || calls.acquire()
        });
        assert_eq!(calls.running.available_permits(), 0);
        drop(second);
        back.await.unwrap();
        assert_eq!(calls.running.available_permits(), 0);
        drop(first);
        assert_eq!(calls.running.available_permits(), 1);
        assert_eq!(calls.waiting.load(Ordering::Relaxed), 0);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn threads_that_wait_are_bounded() {
        let calls = Calls::with_limit(1);
        assert!((0..MAX_WAITING).all(|_| calls.release()));
        assert!(!calls.release());
        block_in_place(|| calls.acquire());
        assert!(calls.release());
    }
}
