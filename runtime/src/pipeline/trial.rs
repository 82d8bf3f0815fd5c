//! A version of a plugin that some tasks try out while the others run the old one.
//!
//! What the trial would give up on is not lost to the dead letters: it is held among the parked records, and
//! the version that comes after the trial tries it again, from its first attempt on. A task that fails while
//! it tries a version out stops alone, and goes on with the old one.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use super::TaskError;

/// A trial, of all tasks that take part in it.
#[derive(Debug)]
pub(super) struct Trial {
    /// When the records that it holds are tried again if nobody ends it, in ms since the epoch.
    pub(super) held_until_ms: u64,
    held: AtomicU64,
    failure: Mutex<Option<Arc<TaskError>>>,
}

impl Trial {
    pub(super) fn new(held_until_ms: u64) -> Arc<Self> {
        Arc::new(Self {
            held_until_ms,
            held: AtomicU64::new(0),
            failure: Mutex::default(),
        })
    }

    /// A record is held.
    pub(super) fn note_held(&self) {
        self.held.fetch_add(1, Ordering::Relaxed);
    }

    /// Records held so far.
    pub(super) fn held(&self) -> u64 {
        self.held.load(Ordering::Relaxed)
    }

    /// A task has stopped.
    pub(super) fn fail(&self, error: TaskError) {
        self.failure.lock().get_or_insert(Arc::new(error));
    }

    /// Why the first task has stopped that did.
    pub(super) fn failure(&self) -> Option<Arc<TaskError>> {
        self.failure.lock().clone()
    }
}
