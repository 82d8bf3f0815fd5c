//! What waits for a pipeline: in each partition that it reads, and in each queue.
//!
//! It goes by the stored position alone, whether or not the pipeline runs. Tasks know theirs, too, but one that does not
//! run does not hear that its position was moved, and a pipeline whose plugin was refused has no tasks.

mod memory;

use hashbrown::HashMap;

pub(super) use self::memory::LagMemory;
use self::memory::{OldestRecord, Remembered, StartByTime};
use super::Error;
use crate::group::{self, Groups, Lag};
use crate::log::{self, Log, OffsetSpec};
use crate::manifest::Start;
use crate::model::{GroupName, PipelineName, QueueName, Target, TopicName};
use crate::queue::{self, Queue, Queues};
use crate::storage::{self, Partition};

/// What a pipeline reads, and from where on.
#[derive(PartialEq, Eq)]
pub(super) struct Reads<'a> {
    pub(super) group: &'a GroupName,
    pub(super) inputs: &'a [Target],
    pub(super) start: Start,
}

/// What waits in a queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueLag {
    /// The queue.
    pub queue: QueueName,
    /// Messages that it has.
    pub messages: u64,
    /// Age of the oldest one that can be leased now, in ms; 0 if there is none.
    pub lag_ms: u64,
}

/// What waits for a pipeline in its inputs. What has been deleted is left out; what cannot be read is left out, or, if it
/// is an age, 0.
#[derive(Debug, Default)]
pub(super) struct InputLags {
    pub(super) partitions: Vec<Lag>,
    pub(super) queues: Vec<QueueLag>,
}

/// Reads what waits for pipelines.
pub(super) struct LagReader<'a> {
    pub(super) log: &'a Log,
    pub(super) queues: &'a Queues,
    pub(super) groups: &'a Groups,
    pub(super) memory: &'a LagMemory,
}

impl LagReader<'_> {
    /// What waits for a pipeline. Reads the positions; and at most one batch of each partition, if the position has moved
    /// since the last look.
    pub(super) fn lags_of(&self, name: &PipelineName, reads: &Reads<'_>) -> InputLags {
        let before = self.memory.remembered(name);
        let mut look = Look {
            reader: self,
            reads,
            before: &before,
            found: Remembered::default(),
            lags: InputLags::default(),
        };
        for input in reads.inputs {
            match input {
                Target::Topic(topic) => look.add_topic(input, topic),
                Target::Queue(queue) => look.add_queue(input, queue),
            }
        }
        let Look { found, lags, .. } = look;
        // Whoever looks every second is not told of the same every second.
        for (input, error) in found.errors_beyond(&before) {
            tracing::warn!(pipeline = %name, %input, error, "what waits, or its age, cannot be read");
        }
        self.memory.remember(name, found);
        lags
    }
}

/// A look at what waits for a pipeline.
struct Look<'a> {
    reader: &'a LagReader<'a>,
    reads: &'a Reads<'a>,
    /// What the look before this one has found.
    before: &'a Remembered,
    found: Remembered,
    lags: InputLags,
}

impl Look<'_> {
    fn add_topic(&mut self, input: &Target, name: &TopicName) {
        let Ok(topic) = self.reader.log.topic(name) else {
            return;
        };
        for partition in topic.partitions() {
            let offset = match self.position_in(partition) {
                Ok(offset) => offset,
                Err(error) => {
                    self.note(input, &error);
                    continue;
                }
            };
            let mut lag = Lag::without_age(name, partition, offset);
            match self.oldest_ms(partition, &lag) {
                Ok(oldest_ms) => lag.lag_ms = self.age_ms(oldest_ms),
                // How many wait is known all the same.
                Err(error) => self.note(input, &error),
            }
            self.lags.partitions.push(lag);
        }
    }

    fn add_queue(&mut self, input: &Target, name: &QueueName) {
        let Ok(queue) = self.reader.queues.queue(name) else {
            return;
        };
        if let Err(error) = self.add_messages(input, &queue) {
            self.note(input, &error.into());
        }
    }

    fn add_messages(&mut self, input: &Target, queue: &Queue) -> Result<(), queue::Error> {
        let messages = queue.waiting_count()?;
        let oldest_ms = match queue.oldest_ready_ms() {
            Err(queue::Error::Deleted { .. }) => return Ok(()),
            Err(error) => {
                self.note(input, &error.into());
                None
            }
            Ok(oldest_ms) => oldest_ms,
        };
        let lag_ms = self.age_ms(oldest_ms);
        self.lags.queues.push(QueueLag {
            queue: queue.name().clone(),
            messages,
            lag_ms,
        });
        Ok(())
    }

    /// Where the pipeline goes on in a partition, or would start.
    fn position_in(&mut self, partition: &Partition) -> Result<u64, Error> {
        let Reads { group, start, .. } = *self.reads;
        if let Some(committed) = self.reader.groups.committed(group, partition)? {
            return Ok(committed.offset);
        }
        match start {
            Start::Time { timestamp_ms } => self.start_by_time(partition, timestamp_ms),
            Start::Earliest | Start::Latest => Ok(start_offset(self.reader.log, partition, start)?),
        }
    }

    fn start_by_time(&mut self, partition: &Partition, timestamp_ms: u64) -> Result<u64, Error> {
        let (end, cleaned) = (partition.high_watermark(), partition.clean_mark());
        let is_so_still = |it: &StartByTime| {
            it.timestamp_ms == timestamp_ms
                && it.cleaned == cleaned
                && it.offset >= partition.start_offset()
        };
        let start = match self.before.start_in(partition).filter(is_so_still) {
            Some(start) => start,
            None => {
                let start = Start::Time { timestamp_ms };
                let offset = start_offset(self.reader.log, partition, start)?;
                if offset >= end {
                    // There is no such record yet: it moves with the end.
                    return Ok(offset);
                }
                StartByTime {
                    timestamp_ms,
                    cleaned,
                    offset,
                }
            }
        };
        self.found.set_start(partition, start);
        Ok(start.offset)
    }

    /// The timestamp of the oldest record that waits in a partition.
    fn oldest_ms(&mut self, partition: &Partition, lag: &Lag) -> Result<Option<u64>, Error> {
        let Some(offset) = lag.oldest_offset() else {
            return Ok(None);
        };
        // Taken first: what the cleaner does meanwhile is seen at the next look.
        let cleaned = partition.clean_mark();
        let is_so_still = |it: &OldestRecord| it.offset == offset && it.cleaned == cleaned;
        let oldest = match self.before.oldest_in(partition).filter(is_so_still) {
            Some(oldest) => oldest,
            None => {
                let read = self.reader.groups.timestamp_at(partition, offset)?;
                let Some(timestamp_ms) = read else {
                    return Ok(None);
                };
                OldestRecord {
                    offset,
                    cleaned,
                    timestamp_ms,
                }
            }
        };
        self.found.set_oldest(partition, oldest);
        Ok(Some(oldest.timestamp_ms))
    }

    fn age_ms(&self, oldest_ms: Option<u64>) -> u64 {
        let now_ms = self.reader.log.store().clock().now_ms();
        oldest_ms.map_or(0, |oldest_ms| now_ms.saturating_sub(oldest_ms))
    }

    /// Notes what cannot be read of an input, unless it is not there any more.
    fn note(&mut self, input: &Target, error: &Error) {
        if !has_gone(error) {
            self.found.add_error(input, error.to_string());
        }
    }
}

/// Whether what was to be read was deleted after it had been found, by retention or with its topic or queue.
fn has_gone(error: &Error) -> bool {
    let error = match error {
        Error::Queue(queue::Error::Deleted { .. }) => return true,
        Error::Storage(error)
        | Error::Log(log::Error::Storage(error))
        | Error::Group(group::Error::Storage(error))
        | Error::Queue(queue::Error::Storage(error)) => error,
        _ => return false,
    };
    matches!(
        error,
        storage::Error::PartitionDeleted { .. } | storage::Error::OffsetOutOfRange { .. }
    )
}

/// What waits for each task, by its number. A task reads the partitions of its number; the first one reads the queues.
pub(super) fn lag_by_task(partitions: &[Lag], queues: &[QueueLag]) -> HashMap<u32, TaskLag> {
    let partitions = partitions.iter();
    let partitions = partitions.map(|it| (it.partition, it.lag_records, it.lag_ms));
    let queues = queues.iter().map(|it| (0, it.messages, it.lag_ms));
    let mut by_task: HashMap<u32, TaskLag> = HashMap::new();
    for (number, count, lag_ms) in partitions.chain(queues) {
        by_task.entry(number).or_default().add(count, lag_ms);
    }
    by_task
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Fails when a race with retention or with who deletes a topic is told of as damage is.
    #[test]
    fn what_was_deleted_in_between_is_no_failure() {
        let deleted = |target: &str| storage::Error::PartitionDeleted {
            target: target.parse().unwrap(),
            partition: 1,
        };
        let out_of_range = || storage::Error::OffsetOutOfRange {
            offset: 1,
            start: 2,
            end: 3,
        };
        assert!(has_gone(&log::Error::Storage(out_of_range()).into()));
        assert!(has_gone(&group::Error::Storage(out_of_range()).into()));
        assert!(has_gone(&group::Error::Storage(deleted("topic:t")).into()));
        assert!(has_gone(&queue::Error::from(deleted("queue:q")).into()));
        assert!(has_gone(&queue::Error::from(out_of_range()).into()));
        let damaged = storage::Error::Damaged {
            what: "a batch".to_owned(),
            reason: "malformed".to_owned(),
        };
        assert!(!has_gone(&group::Error::Storage(damaged).into()));
    }
}
