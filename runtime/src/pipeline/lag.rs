//! What waits for a pipeline: in each partition that it reads, and in each queue.
//!
//! It goes by the stored position alone, whether or not the pipeline runs. Tasks know theirs, too, but one that does not
//! run does not hear that its position was moved, and a pipeline whose plugin was refused has no tasks.

use hashbrown::HashMap;

use super::Error;
use crate::group::{Groups, Lag};
use crate::log::{self, Log, OffsetSpec};
use crate::manifest::Start;
use crate::model::{GroupName, QueueName, Target, TopicName};
use crate::queue::{self, Queues};
use crate::storage::Partition;

/// What a pipeline reads, and from where on.
pub(super) struct Reads<'a> {
    pub(super) group: &'a GroupName,
    pub(super) inputs: &'a [Target],
    pub(super) start: Start,
}

/// What waits in a queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct QueueLag {
    pub(super) queue: QueueName,
    /// Messages that it has.
    pub(super) messages: u64,
    /// Age of the oldest one that can be leased now, in ms; 0 if there is none.
    pub(super) lag_ms: u64,
}

/// What waits for a pipeline. What has been deleted is left out.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    pub(super) partitions: Vec<Lag>,
    pub(super) queues: Vec<QueueLag>,
    /// Inputs of which something cannot be read, which counts as nothing.
    pub(super) unreadable: Vec<(Target, Error)>,
}

impl Waiting {
    /// Reads at most one batch of each input's partition.
    pub(super) fn of(log: &Log, queues: &Queues, groups: &Groups, reads: &Reads<'_>) -> Self {
        let mut waiting = Self::default();
        for input in reads.inputs {
            let read = match input {
                Target::Topic(topic) => waiting.add_topic(log, groups, reads, topic),
                Target::Queue(queue) => waiting.add_queue(queues, queue),
            };
            if let Err(error) = read {
                waiting.unreadable.push((input.clone(), error));
            }
        }
        waiting
    }

    fn add_topic(
        &mut self,
        log: &Log,
        groups: &Groups,
        reads: &Reads<'_>,
        name: &TopicName,
    ) -> Result<(), Error> {
        let Ok(topic) = log.topic(name) else {
            return Ok(());
        };
        let mut result = Ok(());
        for partition in topic.partitions() {
            let offset = match groups.committed(reads.group, partition)? {
                Some(committed) => committed.offset,
                None => start_offset(log, partition, reads.start)?,
            };
            self.partitions
                .push(match groups.lag(name, partition, offset) {
                    Ok(lag) => lag,
                    // How many wait is known all the same.
                    Err(error) => {
                        result = Err(error.into());
                        Lag::without_age(name, partition, offset)
                    }
                });
        }
        result
    }

    fn add_queue(&mut self, queues: &Queues, name: &QueueName) -> Result<(), Error> {
        let Ok(queue) = queues.queue(name) else {
            return Ok(());
        };
        let messages = queue.waiting_count()?;
        let (oldest_ms, result) = match queue.oldest_ready_ms() {
            Ok(oldest_ms) => (oldest_ms, Ok(())),
            Err(queue::Error::Deleted { .. }) => return Ok(()),
            Err(error) => (None, Err(error.into())),
        };
        let now_ms = queues.store().clock().now_ms();
        self.queues.push(QueueLag {
            queue: name.clone(),
            messages,
            lag_ms: oldest_ms.map_or(0, |oldest_ms| now_ms.saturating_sub(oldest_ms)),
        });
        result
    }

    /// What waits for each task, by its number. A task reads the partitions of its number; the first one reads the queues.
    pub(super) fn by_task(&self) -> HashMap<u32, TaskLag> {
        let partitions = self.partitions.iter();
        let partitions = partitions.map(|it| (it.partition, it.lag_records, it.lag_ms));
        let queues = self.queues.iter().map(|it| (0, it.messages, it.lag_ms));
        let mut by_task: HashMap<u32, TaskLag> = HashMap::new();
        for (number, count, lag_ms) in partitions.chain(queues) {
            by_task.entry(number).or_default().add(count, lag_ms);
        }
        by_task
    }
}

/// What waits for a task, or for several.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct TaskLag {
    /// Records and messages.
    pub(super) count: u64,
    /// Age of the oldest one, in ms; 0 if there is none.
    pub(super) lag_ms: u64,
}

impl TaskLag {
    pub(super) fn add(&mut self, count: u64, lag_ms: u64) {
        self.count += count;
        self.lag_ms = self.lag_ms.max(lag_ms);
    }
}

/// Where a pipeline that has no position yet starts in a partition.
pub(crate) fn start_offset(
    log: &Log,
    partition: &Partition,
    start: Start,
) -> Result<u64, log::Error> {
    let spec = match start {
        Start::Earliest => OffsetSpec::Earliest,
        Start::Latest => OffsetSpec::Latest,
        Start::Time { timestamp_ms } => OffsetSpec::TimeMs(timestamp_ms),
    };
    log.resolve_offset(partition, spec)
}
