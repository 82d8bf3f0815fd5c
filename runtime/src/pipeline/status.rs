//! What a task shows to the supervisor while it runs.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;

use super::batch_run::{Batch, Origin};
use super::call_counts::{Call, CallCounters, CallCounts};
use super::retry::NoRoom;
use super::runtime::TaskInput;
use crate::plugin::Fault;
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
    /// What they wait by: keys, partitions or records, as `retry.order` says.
    pub parked_groups: u64,
    /// Tasks that take no new records now, since too many keys wait to be tried again or the disk runs low.
    pub tasks_without_room: u64,
    /// Instances of the plugin that there are now; those of shadows do not count.
    pub instances: u64,
    /// What the linear memories of the instances take now.
    pub memory_bytes: u64,
    /// Failures after which a record is tried again, since the start.
    pub retries: u64,
    /// Records given up on since the start.
    pub dead_letters: u64,
    /// Calls of the plugin since the start.
    pub calls: CallCounts,
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

    /// What waits: records of a partition, or messages of a queue.
    pub(super) fn lag(&self) -> u64 {
        match self {
            Self::Topic {
                partition, offset, ..
            } => partition.count_from(offset.load(Ordering::Acquire)),
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
    parked: AtomicU64,
    /// Groups of records of which one waits to be tried again.
    parked_groups: AtomicU64,
    /// Why it takes no new records.
    no_room: Mutex<Option<NoRoom>>,
    /// The task's instances of the plugin.
    pub(super) instances: AtomicU64,
    /// What the linear memories of the task's instances take.
    pub(super) memory_bytes: AtomicU64,
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
            parked_groups: AtomicU64::new(0),
            no_room: Mutex::default(),
            instances: AtomicU64::new(0),
            memory_bytes: AtomicU64::new(0),
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
        status.set_parked(read(&earlier.parked), read(&earlier.parked_groups));
        status
    }

    /// Counts a call of the plugin.
    pub(super) fn note_call(&self, call: &Call) {
        self.calls.note(call);
    }

    /// Counts a fault of the plugin.
    pub(super) fn note_fault(&self, fault: &Fault) {
        self.calls.note_fault(fault);
    }

    /// Says how many records wait to be tried again, in how many groups.
    pub(super) fn set_parked(&self, records: u64, groups: u64) {
        self.parked_groups.store(groups, Ordering::Relaxed);
        self.parked.store(records, Ordering::Release);
    }

    /// Says why it takes no new records, if it takes none.
    pub(super) fn set_no_room(&self, no_room: Option<NoRoom>) {
        *self.no_room.lock() = no_room;
    }

    /// Why the task takes no new records, if it does not.
    pub(super) fn no_room(&self) -> Option<NoRoom> {
        *self.no_room.lock()
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

    /// What waits in the inputs, as far as the task knows: one that does not run does not hear that its position was moved.
    pub(super) fn lag_records(&self) -> u64 {
        self.inputs.iter().map(InputStatus::lag).sum()
    }

    /// Adds all but what waits in the inputs.
    pub(super) fn add_to(&self, progress: &mut Progress) {
        progress.records_in += self.records_in.load(Ordering::Relaxed);
        progress.timers += self.timers.load(Ordering::Relaxed);
        progress.records_out += self.records_out.load(Ordering::Relaxed);
        progress.retries += self.retries.load(Ordering::Relaxed);
        progress.dead_letters += self.dead_letters.load(Ordering::Relaxed);
        progress.parked_records += self.parked.load(Ordering::Relaxed);
        progress.parked_groups += self.parked_groups.load(Ordering::Relaxed);
        let is_stopped = self.stopped.load(Ordering::Acquire);
        progress.tasks_without_room += u64::from(!is_stopped && self.no_room().is_some());
        progress.instances += self.instances.load(Ordering::Relaxed);
        progress.memory_bytes += self.memory_bytes.load(Ordering::Relaxed);
        progress.calls.add(&self.calls.counts());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::Commit;
    use crate::storage::tests::support::{TestStore, record};

    #[test]
    fn what_retention_has_removed_waits_no_more() {
        let store = TestStore::new();
        let partition = store.partition(1, 0);
        for _ in 0..3 {
            store.append(&partition, &[record("k", None, 0)]);
        }
        let input = InputStatus::new(TaskInput::Partition(Arc::clone(&partition)));
        assert_eq!(input.lag(), 3);
        let mut commit = Commit::new();
        commit.trim_partition(&partition, 2, 0);
        store.commit(commit);
        assert_eq!(input.lag(), 1);
        input.set_offset(3);
        assert_eq!(input.lag(), 0);
    }
}
