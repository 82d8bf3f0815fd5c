//! What a task reads: partitions of topics, and queues.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::block_in_place;
use tokio::time::Instant;

use super::TaskError;
use super::batch_run::{Leased, Origin};
use super::retry::{GroupId, message_group};
use super::runtime::{PipelineRuntime, TaskInput};
use super::status::TaskStatus;
use crate::log::{self, Cursor};
use crate::manifest::{BatchSpec, Start};
use crate::plugin::Columns;
use crate::queue::{LeaseRequest, LeasedMessage, Queue, Receipt};
use crate::storage::schema::group_offset::CommittedOffset;
use crate::storage::{self, Commit, Partition};

/// One input of a task.
pub(super) struct Input {
    /// Its index in the manifest's `from`.
    pub(super) index: u32,
    pub(super) source: Source,
}

/// Where an input's records lie.
pub(super) enum Source {
    /// A partition of a topic, and how far it is read.
    Topic(Cursor),
    /// A queue.
    Queue(Queue),
}

impl Input {
    /// The inputs of a task, at the offsets that its group has committed.
    pub(super) fn open_all(
        pipeline: &PipelineRuntime,
        task: u32,
        status: &TaskStatus,
    ) -> Result<Vec<Self>, TaskError> {
        let store = pipeline.log.store();
        let mut inputs = Vec::new();
        for (turn, (index, input)) in pipeline.task_inputs(task).into_iter().enumerate() {
            let source = match input {
                TaskInput::Queue(queue) => Source::Queue(queue),
                TaskInput::Partition(partition) => {
                    let offset = pipeline.start_offset(&partition)?;
                    if let Some(shown) = status.inputs.get(turn) {
                        shown.set_offset(offset);
                    }
                    Source::Topic(Cursor::new(store.clone(), partition, offset))
                }
            };
            inputs.push(Self { index, source });
        }
        Ok(inputs)
    }

    /// The partition that the plugin is told.
    pub(super) fn partition(&self) -> &Arc<Partition> {
        match &self.source {
            Source::Topic(cursor) => cursor.partition(),
            Source::Queue(queue) => queue.partition(),
        }
    }

    /// Whether there is something to read.
    pub(super) fn has_records(&self) -> Result<bool, TaskError> {
        match &self.source {
            Source::Topic(cursor) => Ok(!cursor.is_at_end()),
            Source::Queue(queue) => Ok(block_in_place(|| queue.has_ready())?),
        }
    }

    /// Waits until there is something to read, or may be.
    pub(super) fn wait(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        match &self.source {
            Source::Topic(cursor) => Box::pin(cursor.wait()),
            Source::Queue(queue) => Box::pin(queue.wait_until_ready()),
        }
    }

    /// Reads the next batch within `limits`. Waits `max-wait` for a batch that is not full, but for messages no longer
    /// than half of their lease. `turn` is the input's number among the task's.
    pub(super) async fn fill(
        &mut self,
        turn: usize,
        batch: &mut Columns,
        pipeline: &PipelineRuntime,
        limits: BatchSpec,
        stop: &mut watch::Receiver<bool>,
    ) -> Result<Origin, TaskError> {
        batch.start(self.index, self.partition().index());
        let index = self.index;
        match &mut self.source {
            Source::Topic(cursor) => {
                fill_from_topic(cursor, index, batch, pipeline, limits, stop).await?;
                let next_offset = cursor.offset();
                Ok(Origin::Input { turn, next_offset })
            }
            Source::Queue(queue) => {
                let leased = fill_from_queue(queue, index, batch, pipeline, limits, stop).await?;
                Ok(Origin::Queue(leased))
            }
        }
    }
}

/// Commits where the inputs start that have no position yet: `latest`, or a time, is meant once, and not again by each
/// run until records come.
pub(super) async fn commit_start(
    pipeline: &PipelineRuntime,
    inputs: &[Input],
) -> Result<(), TaskError> {
    if matches!(pipeline.spec.start, Start::Earliest) {
        return Ok(());
    }
    let (group, store) = (&pipeline.spec.group, pipeline.log.store());
    let mut commit = Commit::new();
    for input in inputs {
        let Source::Topic(cursor) = &input.source else {
            continue;
        };
        let partition = cursor.partition();
        if pipeline.groups.committed(group, partition)?.is_none() {
            let start = CommittedOffset {
                offset: cursor.offset(),
                committed_at_ms: store.clock().now_ms(),
            };
            let (topic_id, index) = (partition.topic_id(), partition.index());
            commit.commit_offset(group.as_str(), topic_id, index, start);
        }
    }
    if !commit.is_empty() {
        store.commit(commit).await?;
    }
    Ok(())
}

/// Waits until one of the inputs has something to read, or may have; for ever without inputs.
pub(super) async fn any_readable(inputs: &[Input]) {
    let mut waits: Vec<_> = inputs.iter().map(Input::wait).collect();
    std::future::poll_fn(|context| {
        let is_ready = waits
            .iter_mut()
            .any(|wait| wait.as_mut().poll(context).is_ready());
        if is_ready {
            std::task::Poll::Ready(())
        } else {
            std::task::Poll::Pending
        }
    })
    .await;
}

async fn fill_from_topic(
    cursor: &mut Cursor,
    index: u32,
    batch: &mut Columns,
    pipeline: &PipelineRuntime,
    limits: BatchSpec,
    stop: &mut watch::Receiver<bool>,
) -> Result<(), TaskError> {
    let mut bytes = 0;
    let deadline = Instant::now() + limits.max_wait;
    loop {
        let max_records = (limits.max_records as usize).saturating_sub(batch.len());
        let max_bytes = limits.max_bytes.saturating_sub(bytes);
        let read = block_in_place(|| {
            cursor.read(max_records, max_bytes, |record| {
                bytes += record.size_bytes();
                batch.push(record);
            })
        });
        match read {
            Ok(_) => {}
            Err(log::Error::Storage(storage::Error::OffsetOutOfRange {
                offset, start, ..
            })) if offset < start => {
                let (name, input) = (&pipeline.spec.name, &pipeline.spec.inputs[index as usize]);
                let lost = start - offset;
                tracing::warn!(pipeline = %name, %input, offset, start, lost, "retention has deleted records before they were read; going on at the first that is left");
                cursor.seek(start);
                continue;
            }
            Err(error) => return Err(error.into()),
        }
        let is_full = batch.len() >= limits.max_records as usize || bytes >= limits.max_bytes;
        if is_full || batch.is_empty() || limits.max_wait.is_zero() {
            return Ok(());
        }
        tokio::select! {
            () = tokio::time::sleep_until(deadline) => return Ok(()),
            () = cursor.wait() => {}
            _ = stop.changed() => return Ok(()),
        }
    }
}

async fn fill_from_queue(
    queue: &Queue,
    index: u32,
    batch: &mut Columns,
    pipeline: &PipelineRuntime,
    limits: BatchSpec,
    stop: &mut watch::Receiver<bool>,
) -> Result<Leased, TaskError> {
    let mut bytes = 0;
    let mut wait_until = Instant::now() + limits.max_wait;
    let mut leased = Leased {
        queue: queue.clone(),
        receipts: Vec::new(),
        groups: Vec::new(),
        until_ms: u64::MAX,
    };
    loop {
        let request = LeaseRequest {
            max_messages: (limits.max_records as usize).saturating_sub(batch.len()),
            max_bytes: limits.max_bytes.saturating_sub(bytes),
            visibility_timeout_ms: None,
            wait: Duration::ZERO,
        };
        let messages = queue.lease(&request).await?;
        if let Some(until_ms) = messages.iter().map(LeasedMessage::deadline_ms).min() {
            // A lease that ends while the batch waits is a delivery for nothing, and the next message may be the same
            // one. The other half is for what comes before the call, which extends leases by as long as it may take.
            let now_ms = pipeline.log.store().clock().now_ms();
            let half = Duration::from_millis(until_ms.saturating_sub(now_ms) / 2);
            wait_until = wait_until.min(Instant::now() + half);
        }
        for message in messages {
            let (receipt, group) = push(&message, index, batch, &mut bytes, pipeline)?;
            leased.receipts.push(receipt);
            leased.groups.push(group);
            leased.until_ms = leased.until_ms.min(message.deadline_ms());
        }
        let is_full = batch.len() >= limits.max_records as usize || bytes >= limits.max_bytes;
        if is_full || batch.is_empty() || Instant::now() >= wait_until {
            return Ok(leased);
        }
        tokio::select! {
            () = tokio::time::sleep_until(wait_until) => return Ok(leased),
            () = queue.wait_until_ready() => {}
            _ = stop.changed() => return Ok(leased),
        }
    }
}

fn push(
    message: &LeasedMessage,
    index: u32,
    batch: &mut Columns,
    bytes: &mut usize,
    pipeline: &PipelineRuntime,
) -> Result<(Receipt, GroupId), TaskError> {
    let record = message.record().map_err(log::Error::from)?;
    *bytes += record.size_bytes();
    batch.push_delivery(&record, message.delivery_count());
    let order = pipeline.spec.retry.order;
    let group = message_group(order, index, message.offset(), record.key, record.headers);
    Ok((message.receipt(), group))
}
