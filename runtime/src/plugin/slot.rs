//! The right to compute that a call holds, given back while the call waits for something outside.
//!
//! The engine lets few calls run at a time, so that each gets its share of the cores. A call that waits
//! for a service takes no core, and there may be many of those; so the host steps outside around every
//! wait, and back in before the guest goes on. What it then waits for its turn is the host's doing and
//! does not count against the call's deadline.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

/// The right to compute that every call of an instance holds while its guest runs.
pub trait ComputeSlot: fmt::Debug + Send + Sync {
    /// Gives the right up, since the call waits. Returns whether it did; if not, the call keeps it
    /// through its wait.
    fn release(&self) -> bool;

    /// Takes the right again after a [`ComputeSlot::release`] that returned `true`. Blocks until there
    /// is room.
    fn acquire(&self);
}

/// The waits of an instance's current call.
#[derive(Debug, Default)]
pub(super) struct Outside {
    slot: Option<Arc<dyn ComputeSlot>>,
    /// How long the call has waited for its turn after waits outside.
    queued_ns: AtomicU64,
}

impl Outside {
    pub(super) fn new(slot: Option<Arc<dyn ComputeSlot>>) -> Self {
        Self {
            slot,
            queued_ns: AtomicU64::new(0),
        }
    }

    /// Starts a call.
    pub(super) fn start_call(&self) {
        self.queued_ns.store(0, Ordering::Relaxed);
    }

    /// How long the call has waited for its turn, which its deadline moves by.
    pub(super) fn queued(&self) -> Duration {
        Duration::from_nanos(self.queued_ns.load(Ordering::Relaxed))
    }

    /// Runs `wait` without the right to compute.
    pub(super) fn run<T>(&self, wait: impl FnOnce() -> T) -> T {
        let _back = match &self.slot {
            Some(slot) if slot.release() => Some(Back {
                slot,
                queued_ns: &self.queued_ns,
            }),
            _ => None,
        };
        wait()
    }
}

/// Takes the right again when it is dropped, also if the wait panics.
struct Back<'a> {
    slot: &'a Arc<dyn ComputeSlot>,
    queued_ns: &'a AtomicU64,
}

impl Drop for Back<'_> {
    fn drop(&mut self) {
        let since = Instant::now();
        self.slot.acquire();
        let queued_ns = u64::try_from(since.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.queued_ns.fetch_add(queued_ns, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicI64;

    use super::*;

    #[derive(Debug)]
    struct Counted {
        held: AtomicI64,
        is_released: bool,
    }

    impl ComputeSlot for Counted {
        fn release(&self) -> bool {
            if self.is_released {
                self.held.fetch_sub(1, Ordering::SeqCst);
            }
            self.is_released
        }

        fn acquire(&self) {
            self.held.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn held_during_and_after(is_released: bool) -> (i64, i64) {
        let slot = Arc::new(Counted {
            held: AtomicI64::new(1),
            is_released,
        });
        let outside = Outside::new(Some(slot.clone()));
        let during = outside.run(|| slot.held.load(Ordering::SeqCst));
        (during, slot.held.load(Ordering::SeqCst))
    }

    #[test]
    fn the_right_is_given_up_for_the_wait_and_taken_again() {
        assert_eq!(held_during_and_after(true), (0, 1));
        assert_eq!(held_during_and_after(false), (1, 1));
        assert_eq!(Outside::default().run(|| 7), 7);
    }

    #[test]
    fn a_panic_takes_it_again() {
        let slot = Arc::new(Counted {
            held: AtomicI64::new(1),
            is_released: true,
        });
        let outside = Outside::new(Some(slot.clone()));
        let wait = std::panic::AssertUnwindSafe(|| outside.run(|| panic!("in the wait")));
        assert!(std::panic::catch_unwind(wait).is_err());
        assert_eq!(slot.held.load(Ordering::SeqCst), 1);
    }
}
