//! What a task shows to the supervisor while it runs.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use super::batch_run::{Batch, Origin};
use super::runtime::TaskInput;
use crate::group::{self, Groups};
use crate::queue::Queue;
use crate::storage::Partition;

/// Totals of running pipelines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Records processed since the start.
    pub records_in: u64,
    /// Timers handled since the start.
    pub timers: u64,
    /// Records written to outputs since the start.
    pub records_out: u64,
    /// Records that wait in the inputs now.
    pub lag_records: u64,
    /// Records that wait to be tried again now.
    pub parked_records: u64,
    /// Failures after which a record is tried again, since the start.
    pub retries: u64,
    /// Records given up on since the start.
    pub dead_letters: u64,
    /// Calls of the plugin since the start.
    pub calls: CallCounts,
}

/// What calls of a plugin have taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CallCounts {
    /// Calls, those that faulted included.
    pub calls: u64,
    /// Calls that faulted: trapped, ran past their deadline, returned bad output or an error.
    pub faults: u64,
    /// Records and timers that were handed over.
    pub records: u64,
    /// Time in the plugin, in ns.
    pub time_ns: u64,
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

/// As [`CallCounts`], to count in.
#[derive(Debug, Default)]
struct CallCounters {
    calls: AtomicU64,
    faults: AtomicU64,
    records: AtomicU64,
    time_ns: AtomicU64,
    by_time: [AtomicU64; CALL_BUCKETS_NS.len() + 1],
}

impl CallCounters {
    fn note(&self, records: u64, took: Duration, has_faulted: bool) {
        let time_ns = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.calls.fetch_add(1, Ordering::Relaxed);
        self.faults
            .fetch_add(u64::from(has_faulted), Ordering::Relaxed);
        self.records.fetch_add(records, Ordering::Relaxed);
        self.time_ns.fetch_add(time_ns, Ordering::Relaxed);
        let bucket = CALL_BUCKETS_NS.partition_point(|bound_ns| *bound_ns < time_ns);
        if let Some(bucket) = self.by_time.get(bucket) {
            bucket.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn counts(&self) -> CallCounts {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        CallCounts {
            calls: read(&self.calls),
            faults: read(&self.faults),
            records: read(&self.records),
            time_ns: read(&self.time_ns),
            by_time: std::array::from_fn(|bucket| self.by_time.get(bucket).map_or(0, read)),
        }
    }

    /// Counts what another one has counted.
    fn add(&self, counts: &CallCounts) {
        self.calls.fetch_add(counts.calls, Ordering::Relaxed);
        self.faults.fetch_add(counts.faults, Ordering::Relaxed);
        self.records.fetch_add(counts.records, Ordering::Relaxed);
        self.time_ns.fetch_add(counts.time_ns, Ordering::Relaxed);
        for (bucket, count) in self.by_time.iter().zip(counts.by_time) {
            bucket.fetch_add(count, Ordering::Relaxed);
        }
    }
}

impl CallCounts {
    /// Adds those of another task.
    pub fn add(&mut self, other: &Self) {
        self.calls += other.calls;
        self.faults += other.faults;
        self.records += other.records;
        self.time_ns += other.time_ns;
        for (sum, count) in self.by_time.iter_mut().zip(other.by_time) {
            *sum += count;
        }
    }
}

/// What a checkpoint adds to the totals.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counts {
    pub(super) records_in: u64,
    pub(super) timers: u64,
    pub(super) records_out: u64,
    pub(super) retries: u64,
    pub(super) dead_letters: u64,
}

/// Where one input of a task stands.
#[derive(Debug)]
pub(super) enum InputStatus {
    Topic {
        partition: Arc<Partition>,
        offset: AtomicU64,
        /// An offset, and when the first record from it on was made, in ms since the epoch.
        oldest: Mutex<Option<(u64, u64)>>,
    },
    Queue(Queue),
}

impl InputStatus {
    pub(super) fn new(input: TaskInput) -> Self {
        match input {
            TaskInput::Queue(queue) => Self::Queue(queue),
            TaskInput::Partition(partition) => Self::Topic {
                partition,
                offset: AtomicU64::new(0),
                oldest: Mutex::default(),
            },
        }
    }

    pub(super) fn set_offset(&self, processed_to: u64) {
        if let Self::Topic { offset, .. } = self {
            offset.store(processed_to, Ordering::Release);
        }
    }

    /// How far a partition is processed; `None` for a queue.
    pub(super) fn offset(&self) -> Option<u64> {
        match self {
            Self::Topic { offset, .. } => Some(offset.load(Ordering::Acquire)),
            Self::Queue(_) => None,
        }
    }

    /// The age of the oldest record of a partition that is not processed, in ms; 0 if there is none, and
    /// for a queue. Reads at most one batch, and none while the position is what it was.
    pub(super) fn lag_ms(&self, groups: &Groups, now_ms: u64) -> Result<u64, group::Error> {
        let Self::Topic {
            partition,
            offset,
            oldest,
        } = self
        else {
            return Ok(0);
        };
        let from = offset.load(Ordering::Acquire).max(partition.start_offset());
        if from >= partition.high_watermark() {
            return Ok(0);
        }
        let known = oldest.lock().filter(|(at, _)| *at == from);
        let oldest_ms = match known {
            Some((_, oldest_ms)) => oldest_ms,
            None => {
                let Some(read_ms) = groups.timestamp_at(partition, from)? else {
                    return Ok(0);
                };
                *oldest.lock() = Some((from, read_ms));
                read_ms
            }
        };
        Ok(now_ms.saturating_sub(oldest_ms))
    }

    /// What waits: records of a partition, or messages of a queue.
    pub(super) fn lag(&self) -> u64 {
        match self {
            Self::Topic {
                partition, offset, ..
            } => {
                let offset = offset.load(Ordering::Acquire);
                partition.high_watermark().saturating_sub(offset)
            }
            Self::Queue(queue) => queue.waiting_count().unwrap_or(0),
        }
    }

    /// Whether there is nothing to process now; a message with a delay is not.
    fn is_done(&self) -> bool {
        match self {
            Self::Topic { .. } => self.lag() == 0,
            // The task meets the error itself.
            Self::Queue(queue) => !queue.has_ready().unwrap_or(false),
        }
    }
}

impl Counts {
    /// Adds what was processed of a batch. What was parked has been counted when it was.
    pub(super) fn add_input(&mut self, batch: &Batch, count: u64) {
        match batch.origin {
            Origin::Input { .. } | Origin::Offsets { .. } | Origin::Queue(_) => {
                self.records_in += count;
            }
            Origin::Timers => self.timers += count,
            Origin::Parked(_) => {}
        }
    }

    pub(super) fn add(&mut self, other: Counts) {
        self.records_in += other.records_in;
        self.timers += other.timers;
        self.records_out += other.records_out;
        self.retries += other.retries;
        self.dead_letters += other.dead_letters;
    }
}

/// One task's counters and flags.
#[derive(Debug)]
pub(super) struct TaskStatus {
    pub(super) inputs: Vec<InputStatus>,
    records_in: AtomicU64,
    timers: AtomicU64,
    records_out: AtomicU64,
    retries: AtomicU64,
    dead_letters: AtomicU64,
    calls: CallCounters,
    /// Records that wait to be tried again.
    pub(super) parked: AtomicU64,
    idle: AtomicBool,
    stopped: AtomicBool,
}

impl TaskStatus {
    pub(super) fn new(inputs: Vec<InputStatus>) -> Self {
        Self {
            inputs,
            records_in: AtomicU64::new(0),
            timers: AtomicU64::new(0),
            records_out: AtomicU64::new(0),
            retries: AtomicU64::new(0),
            dead_letters: AtomicU64::new(0),
            calls: CallCounters::default(),
            parked: AtomicU64::new(0),
            idle: AtomicBool::new(false),
            stopped: AtomicBool::new(false),
        }
    }

    /// For a task that takes the place of another one: it counts on.
    pub(super) fn after(earlier: &TaskStatus, inputs: Vec<InputStatus>) -> Self {
        let status = Self::new(inputs);
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        status.count(Counts {
            records_in: read(&earlier.records_in),
            timers: read(&earlier.timers),
            records_out: read(&earlier.records_out),
            retries: read(&earlier.retries),
            dead_letters: read(&earlier.dead_letters),
        });
        status.calls.add(&earlier.calls.counts());
        status
            .parked
            .store(read(&earlier.parked), Ordering::Relaxed);
        status
    }

    /// Counts a call of the plugin.
    pub(super) fn note_call(&self, records: u64, took: Duration, has_faulted: bool) {
        self.calls.note(records, took, has_faulted);
    }

    pub(super) fn count(&self, counts: Counts) {
        let add = |total: &AtomicU64, count| total.fetch_add(count, Ordering::Relaxed);
        add(&self.records_in, counts.records_in);
        add(&self.timers, counts.timers);
        add(&self.records_out, counts.records_out);
        add(&self.retries, counts.retries);
        add(&self.dead_letters, counts.dead_letters);
    }

    /// Says whether nothing is under way: no batch in hand, no checkpoint waiting.
    pub(super) fn set_idle(&self, idle: bool) {
        self.idle.store(idle, Ordering::Release);
    }

    pub(super) fn set_stopped(&self) {
        self.stopped.store(true, Ordering::Release);
    }

    pub(super) fn set_started(&self) {
        self.stopped.store(false, Ordering::Release);
    }

    /// Whether the task has ended, or has not been started.
    pub(super) fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }

    /// Whether nothing is under way.
    pub(super) fn is_idle(&self) -> bool {
        self.idle.load(Ordering::Acquire)
    }

    /// Whether the task has nothing to do, or has ended.
    pub(super) fn is_done(&self) -> bool {
        // Whether it is idle last: a task that takes what an input has is not idle before it takes it.
        self.stopped.load(Ordering::Acquire)
            || (self.inputs.iter().all(InputStatus::is_done)
                && self.parked.load(Ordering::Acquire) == 0
                && self.idle.load(Ordering::Acquire))
    }

    pub(super) fn add_to(&self, progress: &mut Progress) {
        progress.records_in += self.records_in.load(Ordering::Relaxed);
        progress.timers += self.timers.load(Ordering::Relaxed);
        progress.records_out += self.records_out.load(Ordering::Relaxed);
        progress.retries += self.retries.load(Ordering::Relaxed);
        progress.dead_letters += self.dead_letters.load(Ordering::Relaxed);
        progress.parked_records += self.parked.load(Ordering::Relaxed);
        progress.calls.add(&self.calls.counts());
        progress.lag_records += self.inputs.iter().map(InputStatus::lag).sum::<u64>();
    }
}
