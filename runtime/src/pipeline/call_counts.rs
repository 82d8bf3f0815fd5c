//! What calls of a plugin have taken: counted once for each call, never for each record.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::processor::Processor;
use super::status::TaskStatus;
use crate::clock::{Stopwatch, thread_cpu_ns};
use crate::plugin::Fault;

/// What calls of a plugin have taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CallCounts {
    /// Calls, those that faulted included.
    pub calls: u64,
    /// Faults by kind, in the order of [`Fault::KINDS`].
    pub faults_by_kind: [u64; Fault::KINDS.len()],
    /// Records and timers that were handed over.
    pub records: u64,
    /// Time in the plugin, in ns.
    pub time_ns: u64,
    /// Time that the calls have computed, in ns: without that in which they waited, for services or for a core.
    pub cpu_ns: u64,
    /// Bytes that were copied into the plugin: keys, values, headers, and what says where each begins.
    pub input_bytes: u64,
    /// Bytes of the keys, values and headers that it returned.
    pub output_bytes: u64,
    /// Calls by the time that they took: element `i` those of at most [`CALL_BUCKETS_NS`]`[i]`, and of more
    /// than the element before; the last one those that took longer than all.
    pub by_time: [u64; CALL_BUCKETS_NS.len() + 1],
}

/// Bounds of the times of calls that are counted apart, in ns: from 10 µs to 10 s.
pub const CALL_BUCKETS_NS: [u64; 13] = [
    10_000,
    30_000,
    100_000,
    300_000,
    1_000_000,
    3_000_000,
    10_000_000,
    30_000_000,
    100_000_000,
    300_000_000,
    1_000_000_000,
    3_000_000_000,
    10_000_000_000,
];

impl CallCounts {
    /// Calls that faulted, and outputs that could not be stored.
    pub fn faults(&self) -> u64 {
        self.faults_by_kind.iter().sum()
    }

    /// Adds those of another task.
    pub fn add(&mut self, other: &Self) {
        self.calls += other.calls;
        self.records += other.records;
        self.time_ns += other.time_ns;
        self.cpu_ns += other.cpu_ns;
        self.input_bytes += other.input_bytes;
        self.output_bytes += other.output_bytes;
        add_each(&mut self.faults_by_kind, &other.faults_by_kind);
        add_each(&mut self.by_time, &other.by_time);
    }
}

fn add_each(sums: &mut [u64], others: &[u64]) {
    for (sum, count) in sums.iter_mut().zip(others) {
        *sum += count;
    }
}

/// As [`CallCounts`], to count in.
#[derive(Debug, Default)]
pub(super) struct CallCounters {
    calls: AtomicU64,
    faults_by_kind: [AtomicU64; Fault::KINDS.len()],
    records: AtomicU64,
    time_ns: AtomicU64,
    cpu_ns: AtomicU64,
    input_bytes: AtomicU64,
    output_bytes: AtomicU64,
    by_time: [AtomicU64; CALL_BUCKETS_NS.len() + 1],
}

impl CallCounters {
    /// Counts a call.
    pub(super) fn note(&self, call: &Call) {
        let add = |counter: &AtomicU64, count| counter.fetch_add(count, Ordering::Relaxed);
        add(&self.calls, 1);
        add(&self.records, call.records);
        add(&self.time_ns, call.time_ns);
        add(&self.cpu_ns, call.cpu_ns);
        add(&self.input_bytes, call.input_bytes);
        add(&self.output_bytes, call.output_bytes);
        let bucket = CALL_BUCKETS_NS.partition_point(|bound_ns| *bound_ns < call.time_ns);
        if let Some(bucket) = self.by_time.get(bucket) {
            add(bucket, 1);
        }
    }

    /// Counts a fault.
    pub(super) fn note_fault(&self, fault: &Fault) {
        let kind = fault.kind();
        let mut kinds = Fault::KINDS.iter().zip(&self.faults_by_kind);
        if let Some((_, count)) = kinds.find(|(known, _)| **known == kind) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(super) fn counts(&self) -> CallCounts {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        CallCounts {
            calls: read(&self.calls),
            faults_by_kind: read_each(&self.faults_by_kind),
            records: read(&self.records),
            time_ns: read(&self.time_ns),
            cpu_ns: read(&self.cpu_ns),
            input_bytes: read(&self.input_bytes),
            output_bytes: read(&self.output_bytes),
            by_time: read_each(&self.by_time),
        }
    }

    /// Counts what another one has counted.
    pub(super) fn add(&self, counts: &CallCounts) {
        let add = |counter: &AtomicU64, count| {
            counter.fetch_add(count, Ordering::Relaxed);
        };
        add(&self.calls, counts.calls);
        add(&self.records, counts.records);
        add(&self.time_ns, counts.time_ns);
        add(&self.cpu_ns, counts.cpu_ns);
        add(&self.input_bytes, counts.input_bytes);
        add(&self.output_bytes, counts.output_bytes);
        let by_kind = self.faults_by_kind.iter().zip(counts.faults_by_kind);
        let by_time = self.by_time.iter().zip(counts.by_time);
        by_kind
            .chain(by_time)
            .for_each(|(counter, count)| add(counter, count));
    }
}

fn read_each<const N: usize>(counters: &[AtomicU64; N]) -> [u64; N] {
    std::array::from_fn(|at| {
        let counter = counters.get(at);
        counter.map_or(0, |counter| counter.load(Ordering::Relaxed))
    })
}

/// What one call has taken.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Call {
    pub(super) records: u64,
    pub(super) input_bytes: u64,
    pub(super) output_bytes: u64,
    pub(super) time_ns: u64,
    pub(super) cpu_ns: u64,
}

/// Calls of at least this many ns are measured each.
const LONG_CALL_NS: u64 = 200_000;
/// Of calls that are shorter, one in so many is measured.
const SHORT_CALLS: u32 = 16;
/// The unit in which the computed part of a time is told.
const WHOLE: u64 = 1 << 10;

/// Measures an instance's calls, each on the thread that makes it.
///
/// What a thread has computed is known to the system only, and asking costs as much as a short call. So short calls,
/// which have no time to wait, are not all measured: those that are not have computed in the same part of their time
/// as the one before that was.
#[derive(Debug)]
pub(super) struct CallMeter {
    /// Calls that are not measured from now on.
    unmeasured: u32,
    /// The part of its time that the last call computed which was measured, in [`WHOLE`]ths.
    computed: u64,
}

/// A call that has begun.
#[derive(Debug)]
pub(super) struct BegunCall {
    watch: Stopwatch,
    cpu_ns: Option<u64>,
}

impl CallMeter {
    pub(super) fn new() -> Self {
        Self {
            unmeasured: 0,
            computed: WHOLE,
        }
    }

    pub(super) fn begin(&self) -> BegunCall {
        BegunCall {
            cpu_ns: (self.unmeasured == 0).then(thread_cpu_ns),
            watch: Stopwatch::start(),
        }
    }

    /// What the call took, with nothing said of its records and bytes.
    pub(super) fn end(&mut self, begun: &BegunCall) -> Call {
        let time_ns = begun.watch.elapsed_ns();
        let cpu_ns = match begun.cpu_ns {
            Some(before_ns) => {
                let cpu_ns = thread_cpu_ns().saturating_sub(before_ns).min(time_ns);
                self.computed = cpu_ns.saturating_mul(WHOLE) / time_ns.max(1);
                cpu_ns
            }
            // If it was a long one after all, it has waited: a short call computes no longer than that.
            None => time_ns.min(LONG_CALL_NS).saturating_mul(self.computed) / WHOLE,
        };
        self.unmeasured = match self.unmeasured {
            _ if time_ns >= LONG_CALL_NS => 0,
            0 => SHORT_CALLS - 1,
            left => left - 1,
        };
        Call {
            time_ns,
            cpu_ns,
            ..Call::default()
        }
    }
}

/// An instance of the plugin as one of those of its task, and what its linear memories take of what theirs take together.
#[derive(Debug)]
pub(super) struct InstanceUse {
    status: Arc<TaskStatus>,
    counted_bytes: u64,
}

impl InstanceUse {
    pub(super) fn new(status: &Arc<TaskStatus>) -> Self {
        status.instances.fetch_add(1, Ordering::Relaxed);
        Self {
            status: Arc::clone(status),
            counted_bytes: 0,
        }
    }

    /// Counts what the instance takes now.
    pub(super) fn note(&mut self, processor: &Processor) {
        self.set(processor.memory_bytes());
    }

    fn set(&mut self, bytes: u64) {
        if bytes == self.counted_bytes {
            return;
        }
        let memory = &self.status.memory_bytes;
        memory.fetch_add(bytes, Ordering::Relaxed);
        memory.fetch_sub(self.counted_bytes, Ordering::Relaxed);
        self.counted_bytes = bytes;
    }
}

impl Drop for InstanceUse {
    fn drop(&mut self) {
        self.set(0);
        self.status.instances.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn calls_and_faults_add_up() {
        let counters = CallCounters::default();
        let call = Call {
            records: 3,
            input_bytes: 100,
            output_bytes: 50,
            time_ns: 10_001,
            cpu_ns: 9_000,
        };
        counters.note(&call);
        counters.note(&call);
        counters.note_fault(&Fault::Output {
            reason: String::new(),
        });
        let mut sum = counters.counts();
        sum.add(&counters.counts());
        assert_eq!((sum.calls, sum.records, sum.faults()), (4, 12, 2));
        assert_eq!((sum.input_bytes, sum.output_bytes), (400, 200));
        assert_eq!((sum.time_ns, sum.cpu_ns), (40_004, 36_000));
        assert_eq!(sum.by_time.get(..3), Some(&[0, 4, 0][..]));
        let by_kind = Fault::KINDS.iter().zip(sum.faults_by_kind);
        let counted: Vec<_> = by_kind.filter(|(_, count)| *count > 0).collect();
        assert_eq!(counted, [(&"output", 2)]);
    }

    #[test]
    fn a_call_that_waits_computes_little_and_one_that_does_not_all_the_time() {
        let mut meter = CallMeter::new();
        let wait = Duration::from_millis(20);
        let begun = meter.begin();
        std::thread::sleep(wait);
        let waited = meter.end(&begun);
        assert!(waited.time_ns >= 20_000_000 && waited.cpu_ns < waited.time_ns / 2);
        // Short calls, of which most are not measured.
        let (mut time_ns, mut cpu_ns) = (0, 0);
        let before_ns = thread_cpu_ns();
        for _ in 0..10_000 {
            let begun = meter.begin();
            std::hint::black_box((0..1_000u64).fold(0, |sum, n| sum ^ std::hint::black_box(n)));
            let call = meter.end(&begun);
            time_ns += call.time_ns;
            cpu_ns += call.cpu_ns;
        }
        let loop_ns = thread_cpu_ns() - before_ns;
        assert!(
            cpu_ns <= time_ns && cpu_ns > loop_ns / 20,
            "{cpu_ns} of {time_ns} ns, and {loop_ns} in all"
        );
    }

    #[test]
    fn a_long_call_is_measured_however_short_those_before_were() {
        let mut meter = CallMeter::new();
        // One that the system interrupts is not short.
        let is_short = |meter: &mut CallMeter| {
            meter.end(&meter.begin());
            meter.begin().cpu_ns.is_none()
        };
        assert!((0..1_000).any(|_| is_short(&mut meter)));
        let begun = meter.begin();
        std::thread::sleep(Duration::from_millis(1));
        meter.end(&begun);
        assert!(meter.begin().cpu_ns.is_some());
    }

    #[test]
    fn instances_that_are_gone_do_not_count_nor_does_their_memory() {
        let status = Arc::new(TaskStatus::new(Vec::new()));
        let read = || status.memory_bytes.load(Ordering::Relaxed);
        let instances = || status.instances.load(Ordering::Relaxed);
        let (mut one, mut other) = (InstanceUse::new(&status), InstanceUse::new(&status));
        one.set(100);
        other.set(30);
        one.set(70);
        assert_eq!((instances(), read()), (2, 100));
        drop(one);
        assert_eq!((instances(), read()), (1, 30));
        drop(other);
        assert_eq!((instances(), read()), (0, 0));
    }
}
