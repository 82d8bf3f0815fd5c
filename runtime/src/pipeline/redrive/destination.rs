//! The places that letters go back to.

use std::fmt;
use std::sync::Arc;

use super::plan::Planned;
use crate::log::Topic;
use crate::manifest::RetryOrder;
use crate::model::{BatchBuilder, HeadersBuf, PipelineName, RecordRef, batch};
use crate::pipeline::Error;
use crate::pipeline::retry::{NoRoom, Parked, group, message_group};
use crate::queue::{MessageBatch, Queue, letter};
use crate::storage::schema::parked::ParkedRecord;
use crate::storage::{Commit, Partition, Store};

/// Bytes after which a batch of a topic is closed.
const BATCH_BYTES: usize = 60 << 10;

/// A place that letters go back to.
#[derive(Clone, Debug)]
pub(super) enum Destination {
    /// The task of a pipeline, among the records that it is to try again.
    Task {
        name: PipelineName,
        id: u32,
        order: RetryOrder,
        /// Its number is that of the task.
        partition: Arc<Partition>,
    },
    /// The task of a pipeline whose timers they were, among those that it is to try again.
    Timers {
        name: PipelineName,
        id: u32,
        order: RetryOrder,
        task: u32,
    },
    /// The end of a partition.
    Partition {
        topic: Topic,
        partition: Arc<Partition>,
    },
    /// A queue.
    Queue(Queue),
}

/// What tells destinations apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Place {
    /// Pipeline and task.
    Task(u32, u32),
    /// Pipeline and task.
    Timers(u32, u32),
    /// Topic and partition.
    Partition(u32, u32),
    /// Queue.
    Queue(u32),
}

impl Destination {
    pub(super) fn place(&self) -> Place {
        match self {
            Self::Task { id, partition, .. } => Place::Task(*id, partition.index()),
            Self::Timers { id, task, .. } => Place::Timers(*id, *task),
            Self::Partition { topic, partition } => Place::Partition(topic.id(), partition.index()),
            Self::Queue(queue) => Place::Queue(queue.id()),
        }
    }

    /// The pipeline, if it is one.
    pub(super) fn pipeline(&self) -> Option<&PipelineName> {
        match self {
            Self::Task { name, .. } | Self::Timers { name, .. } => Some(name),
            Self::Partition { .. } | Self::Queue(_) => None,
        }
    }

    /// Gets ready to send letters there.
    pub(super) fn open(&self, store: &Store) -> Result<Outgoing, Error> {
        Ok(match self {
            Self::Task {
                id,
                order,
                partition,
                ..
            } => Outgoing::Task {
                parked: Parked::open(store.clone(), *id, partition.index())?,
                order: *order,
                partition: Some(Arc::clone(partition)),
            },
            Self::Timers {
                id, order, task, ..
            } => Outgoing::Task {
                parked: Parked::open(store.clone(), *id, *task)?,
                order: *order,
                partition: None,
            },
            Self::Partition { topic, partition } => {
                let config = topic.config();
                Outgoing::Partition {
                    builder: BatchBuilder::new(config.batch_compression()),
                    batch_bytes: BATCH_BYTES.min(config.max_batch_bytes / 2),
                    partition: Arc::clone(partition),
                }
            }
            Self::Queue(queue) => Outgoing::Queue(queue.batch()),
        })
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Task { name, .. } | Self::Timers { name, .. } => write!(f, "pipeline:{name}"),
            Self::Partition { topic, .. } => write!(f, "topic:{}", topic.name()),
            Self::Queue(queue) => write!(f, "queue:{}", queue.name()),
        }
    }
}

/// Letters on their way to one place.
pub(super) enum Outgoing {
    Task {
        parked: Parked,
        order: RetryOrder,
        /// That of the records; timers have none.
        partition: Option<Arc<Partition>>,
    },
    Partition {
        builder: BatchBuilder,
        batch_bytes: usize,
        partition: Arc<Partition>,
    },
    Queue(MessageBatch),
}

impl Outgoing {
    /// Adds a letter to a commit, or to what [`finish`](Self::finish) adds to it.
    pub(super) fn push(
        &mut self,
        planned: &Planned,
        source: &Queue,
        record: &RecordRef<'_>,
        commit: &mut Commit,
    ) -> Result<(), Error> {
        let mut headers = HeadersBuf::new();
        letter::redriven(record.headers, source.name(), planned.letter, &mut headers)?;
        let record = RecordRef {
            headers: headers.as_headers(),
            ..*record
        };
        match self {
            Self::Task { parked, order, .. } => {
                let fresh = fresh(planned, &record)?;
                let (input, offset) = (planned.input, planned.offset);
                let group = if planned.is_message {
                    message_group(*order, input, offset, record.key, record.headers)
                } else {
                    group(*order, input, offset, record.key)
                };
                parked.park(group, &fresh, commit);
            }
            Self::Partition {
                builder,
                batch_bytes,
                partition,
            } => {
                let is_full = builder.size_bytes() + record.size_bytes() > *batch_bytes;
                if is_full {
                    append(builder, partition, commit)?;
                }
                let RecordRef {
                    timestamp_ms,
                    key,
                    value,
                    headers,
                    ..
                } = record;
                builder.push(timestamp_ms, key, value, headers)?;
            }
            Self::Queue(batch) => {
                batch.push_redriven(
                    record.timestamp_ms,
                    record.key,
                    record.value,
                    record.headers,
                )?;
            }
        }
        Ok(())
    }

    /// Why nothing more can go there for now; `None` if it can.
    pub(super) fn no_room(&self) -> Option<String> {
        match self {
            Self::Task { parked, .. } if parked.no_room() == Some(NoRoom::Groups) => Some(format!(
                "records of {} keys wait to be tried again in the pipeline that they come from, and no more are taken; redrive them when some are done",
                parked.group_count()
            )),
            Self::Task { .. } | Self::Partition { .. } | Self::Queue(_) => None,
        }
    }

    /// Lets a full queue give up on messages until the batch that it had no room for has some.
    pub(super) async fn make_room(&self) -> Result<(), Error> {
        match self {
            Self::Queue(batch) => Ok(batch.make_room().await?),
            Self::Task { .. } | Self::Partition { .. } => Ok(()),
        }
    }

    /// Completes a commit.
    pub(super) fn finish(&mut self, commit: &mut Commit) -> Result<(), Error> {
        match self {
            // Records of a topic that is deleted are of no use to a pipeline.
            Self::Task {
                partition, parked, ..
            } => {
                parked.complete(commit);
                if let Some(partition) = partition {
                    commit.require_partition(partition);
                }
            }
            Self::Partition {
                builder, partition, ..
            } => append(builder, partition, commit)?,
            Self::Queue(batch) => {
                batch.add_to(commit)?;
            }
        }
        Ok(())
    }
}

fn append(
    builder: &mut BatchBuilder,
    partition: &Arc<Partition>,
    commit: &mut Commit,
) -> Result<(), Error> {
    if let Some(batch) = builder.build()? {
        commit.append(Arc::clone(partition), batch);
    }
    Ok(())
}

/// A record as if it had not failed yet, due at once, where it was.
fn fresh(planned: &Planned, record: &RecordRef<'_>) -> Result<ParkedRecord, batch::Error> {
    let batch = BatchBuilder::single(
        record.timestamp_ms,
        record.key,
        record.value,
        record.headers,
    )?;
    let record = batch.assign(planned.offset);
    Ok(ParkedRecord::new(planned.input, record))
}
