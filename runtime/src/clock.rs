//! The only reader of time below `pipeline`: the system's clock, or one that tests set by hand.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// A source of wall-clock time. Cheap to clone; clones of a manual clock share its time.
#[derive(Clone, Debug, Default)]
pub struct Clock(Source);

#[derive(Clone, Debug, Default)]
enum Source {
    #[default]
    System,
    Manual(Arc<AtomicU64>),
}

impl Clock {
    /// The machine's clock.
    pub fn system() -> Self {
        Self(Source::System)
    }

    /// A clock that stands at `now_ms` (ms since the Unix epoch) until it is set.
    pub fn manual(now_ms: u64) -> Self {
        Self(Source::Manual(Arc::new(AtomicU64::new(now_ms))))
    }

    /// Now, in ms since the Unix epoch. A system clock before the epoch reads as 0.
    pub fn now_ms(&self) -> u64 {
        match &self.0 {
            Source::System => SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(0, |elapsed| {
                    u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX)
                }),
            Source::Manual(now) => now.load(Ordering::Relaxed),
        }
    }

    /// Moves a manual clock forward; does nothing to the system's.
    pub fn advance_ms(&self, by_ms: u64) {
        if let Source::Manual(now) = &self.0 {
            now.fetch_add(by_ms, Ordering::Relaxed);
        }
    }
}

/// Measures how long something takes; a manual clock does not change that.
#[derive(Clone, Copy, Debug)]
pub struct Stopwatch(Instant);

impl Stopwatch {
    /// Starts measuring.
    pub fn start() -> Self {
        Self(Instant::now())
    }

    /// How long it has been, in ns.
    pub fn elapsed_ns(&self) -> u64 {
        ns(self.0.elapsed().as_nanos())
    }

    /// How much later another one was started, in ns; 0 if it was started before.
    pub fn until_ns(&self, later: &Self) -> u64 {
        ns(later.0.saturating_duration_since(self.0).as_nanos())
    }
}

fn ns(ns: u128) -> u64 {
    u64::try_from(ns).unwrap_or(u64::MAX)
}

/// What the thread has computed so far, in ns. Time in which it waits does not count. Costs a system call: some 200 ns, and a multiple of that on some
/// virtual machines.
pub fn thread_cpu_ns() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    let whole_ns = u64::try_from(time.tv_sec)
        .unwrap_or(0)
        .saturating_mul(1_000_000_000);
    whole_ns.saturating_add(u64::try_from(time.tv_nsec).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clones_of_a_manual_clock_share_its_time() {
        let clock = Clock::manual(5);
        let other = clock.clone();
        clock.advance_ms(10);
        assert_eq!(other.now_ms(), 15);
    }

    #[test]
    fn a_thread_that_waits_computes_nothing() {
        let (watch, before_ns) = (Stopwatch::start(), thread_cpu_ns());
        std::thread::sleep(std::time::Duration::from_millis(30));
        let slept_ns = thread_cpu_ns() - before_ns;
        assert!(watch.elapsed_ns() >= 30_000_000);
        assert!(slept_ns < 15_000_000, "{slept_ns} ns");
        let mut sum = 0u64;
        while watch.elapsed_ns() < 60_000_000 {
            sum = std::hint::black_box(sum.wrapping_add(1));
        }
        assert!(thread_cpu_ns() > before_ns + slept_ns);
    }
}
