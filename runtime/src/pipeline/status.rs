//! What a task shows to the supervisor while it runs.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::batch_run::{Batch, Origin};
use super::runtime::TaskInput;
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
            },
        }
    }

    pub(super) fn set_offset(&self, processed_to: u64) {
        if let Self::Topic { offset, .. } = self {
            offset.store(processed_to, Ordering::Release);
        }
    }

    fn lag(&self) -> u64 {
        match self {
            Self::Topic { partition, offset } => {
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
            parked: AtomicU64::new(0),
            idle: AtomicBool::new(false),
            stopped: AtomicBool::new(false),
        }
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
        progress.lag_records += self.inputs.iter().map(InputStatus::lag).sum::<u64>();
    }
}
