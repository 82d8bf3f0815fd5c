//! The watchdog's clock: a thread that advances the engine's epoch while guests run.
//!
//! Compiled guest code compares the epoch with its deadline at every loop head and function entry
//! and traps once it has passed. Advancing the epoch is one atomic increment; while no guest has
//! run for a second the thread sleeps and costs nothing.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle, Thread},
    time::Duration,
};

use wasmtime::Engine;

/// How long an epoch is: deadlines are kept to about this.
pub(super) const TICK: Duration = Duration::from_millis(10);
/// Ticks without a running guest after which the thread sleeps.
const IDLE_TICKS: u32 = 100;

/// Advances the epoch of an engine.
pub(super) struct Ticker {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    waker: Thread,
}

#[derive(Default)]
struct Shared {
    /// Calls that are running.
    running: AtomicUsize,
    /// Whether the thread waits to be woken. Together with `running` a store-then-load on either
    /// side, both sequentially consistent: either the caller sees that it has to wake the thread,
    /// or the thread sees the caller.
    is_sleeping: AtomicBool,
    is_stopping: AtomicBool,
}

impl Ticker {
    /// Starts the thread.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub(super) fn start(engine: &Engine) -> std::io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let (engine, in_thread) = (engine.clone(), Arc::clone(&shared));
        let thread = thread::Builder::new()
            .name("plugin-epoch".to_owned())
            .spawn(move || in_thread.run(&engine))?;
        let waker = thread.thread().clone();
        Ok(Self {
            shared,
            thread: Some(thread),
            waker,
        })
    }

    /// Has the epoch advance until what is returned is dropped.
    pub(super) fn run(&self) -> Running<'_> {
        self.shared.running.fetch_add(1, Ordering::SeqCst);
        if self.shared.is_sleeping.load(Ordering::SeqCst) {
            self.waker.unpark();
        }
        Running(&self.shared)
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.shared.is_stopping.store(true, Ordering::SeqCst);
        self.waker.unpark();
        if let Some(thread) = self.thread.take() {
            // The thread does not panic; if it did, there is nothing to do about it here.
            let _ = thread.join();
        }
    }
}

/// A call is running.
pub(super) struct Running<'a>(&'a Shared);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Shared {
    fn run(&self, engine: &Engine) {
        let mut idle_ticks = 0;
        while !self.is_stopping.load(Ordering::SeqCst) {
            thread::sleep(TICK);
            engine.increment_epoch();
            idle_ticks = if self.is_idle() { idle_ticks + 1 } else { 0 };
            if idle_ticks == IDLE_TICKS {
                self.is_sleeping.store(true, Ordering::SeqCst);
                while self.is_idle() && !self.is_stopping.load(Ordering::SeqCst) {
                    thread::park();
                }
                self.is_sleeping.store(false, Ordering::SeqCst);
                idle_ticks = 0;
            }
        }
    }

    fn is_idle(&self) -> bool {
        self.running.load(Ordering::SeqCst) == 0
    }
}

/// How many ticks a deadline is. One is added, since the current one has partly passed: a call is
/// never stopped early.
pub(super) fn ticks(deadline: Duration) -> u64 {
    let ticks = deadline
        .as_nanos()
        .div_ceil(TICK.as_nanos())
        .saturating_add(1);
    // wasmtime adds this to the current epoch.
    u64::try_from(ticks).unwrap_or(u64::MAX).min(u64::MAX / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deadlines_are_rounded_up() {
        assert_eq!(ticks(Duration::ZERO), 1);
        assert_eq!(ticks(Duration::from_millis(1)), 2);
        assert_eq!(ticks(Duration::from_millis(10)), 2);
        assert_eq!(ticks(Duration::from_secs(2)), 201);
        assert_eq!(ticks(Duration::MAX), u64::MAX / 2);
    }

    #[test]
    fn the_thread_stops() {
        let ticker = Ticker::start(&Engine::default()).unwrap();
        drop(ticker.run());
        drop(ticker);
    }
}
