//! What goes through a queue.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::ensure;

use crate::bench::latency::LatencyRecorder;
use crate::model::HeadersRef;
use crate::queue::{LeaseRequest, LeasedMessage, Queue, QueueConfig, Queues};
use crate::storage::{Durability, Store, StoreOptions};

/// Messages that are enqueued together before it is measured.
const PRELOAD_MESSAGES: u64 = 10_000;

/// Batches that each worker takes in a turn.
const TURN_BATCHES: usize = 25;

/// A data directory with a queue.
pub(super) struct Subject {
    pub(super) queue: Queue,
    queues: Queues,
}

impl Subject {
    pub(super) async fn open(path: &Path, durability: Durability) -> anyhow::Result<Self> {
        let options = StoreOptions {
            durability,
            ..StoreOptions::default()
        };
        let store = tokio::task::block_in_place(|| Store::open(path, options))?;
        let queues = Queues::open(store)?;
        let name = "bench".parse()?;
        let queue = queues.ensure_queue(&name, QueueConfig::default()).await?;
        Ok(Self { queue, queues })
    }

    /// Bytes of the store's files.
    pub(super) fn disk_usage(&self) -> anyhow::Result<u64> {
        let usage = self.queues.store().disk_usage()?;
        Ok(usage.table_bytes + usage.blob_bytes)
    }

    /// Closes the data directory.
    pub(super) fn close(self) {
        tokio::task::block_in_place(|| drop(self));
    }

    /// Enqueues messages that wait meanwhile.
    pub(super) async fn preload(&self, count: u64, value: &[u8]) -> anyhow::Result<()> {
        let mut left = count;
        while left > 0 {
            let now = left.min(PRELOAD_MESSAGES);
            enqueue(&self.queue, now as usize, value).await?;
            left -= now;
        }
        self.queue.message_count().await?;
        self.queues.store().flush()?;
        Ok(())
    }

    /// Lets `messages` through, with several workers; how long it took.
    pub(super) async fn through(
        &self,
        messages: u64,
        batch: usize,
        workers: usize,
        value: &[u8],
    ) -> anyhow::Result<Duration> {
        let turns = (messages / batch as u64 / workers as u64).max(1);
        let begin = Instant::now();
        let tasks: Vec<_> = (0..workers)
            .map(|_| tokio::spawn(work(self.queue.clone(), turns, batch, value.to_vec())))
            .collect();
        for task in tasks {
            task.await??;
        }
        Ok(begin.elapsed())
    }
}

/// What leasing and acknowledging costs.
pub(super) struct Taking {
    /// Time for each batch, while several workers take them.
    pub(super) cost: LatencyRecorder,
    /// From asking for a lease to the acknowledgement's answer.
    pub(super) latency: LatencyRecorder,
}

/// Measures several subjects in turns, so that what disturbs the machine disturbs all of them: enqueues
/// some batches, and lets several workers take them.
///
/// Several, since one alone would measure how fast the machine wakes idle threads, which differs from one
/// data directory to another by a factor of three on virtual machines.
pub(super) async fn taking(
    subjects: &[&Subject],
    turns: u64,
    batch: usize,
    workers: usize,
    value: &[u8],
) -> anyhow::Result<Vec<Taking>> {
    let mut measured = Vec::new();
    for _ in subjects {
        measured.push(Taking {
            cost: LatencyRecorder::new()?,
            latency: LatencyRecorder::new()?,
        });
    }
    for _ in 0..turns {
        for (subject, taking) in subjects.iter().zip(&mut measured) {
            let batches = workers * TURN_BATCHES;
            enqueue(&subject.queue, batch * batches, value).await?;
            subject.queue.message_count().await?;
            let begin = Instant::now();
            let tasks: Vec<_> = (0..workers)
                .map(|_| tokio::spawn(take_some(subject.queue.clone(), batch)))
                .collect();
            for task in tasks {
                taking.latency.add(&task.await??)?;
            }
            taking.cost.record(begin.elapsed() / batches as u32);
        }
    }
    Ok(measured)
}

async fn take_some(queue: Queue, batch: usize) -> anyhow::Result<LatencyRecorder> {
    let mut latency = LatencyRecorder::new()?;
    for _ in 0..TURN_BATCHES {
        let begin = Instant::now();
        take(&queue, batch).await?;
        latency.record(begin.elapsed());
    }
    Ok(latency)
}

async fn work(queue: Queue, turns: u64, batch: usize, value: Vec<u8>) -> anyhow::Result<()> {
    for _ in 0..turns {
        enqueue(&queue, batch, &value).await?;
        take(&queue, batch).await?;
    }
    Ok(())
}

async fn enqueue(queue: &Queue, count: usize, value: &[u8]) -> anyhow::Result<()> {
    let mut batch = queue.batch();
    for _ in 0..count {
        batch.push(1, None, Some(value), HeadersRef::EMPTY)?;
    }
    batch.enqueue().await?;
    Ok(())
}

/// Leases and acknowledges, and reads every message in between.
async fn take(queue: &Queue, count: usize) -> anyhow::Result<()> {
    let request = LeaseRequest {
        max_messages: count,
        max_bytes: usize::MAX,
        ..LeaseRequest::default()
    };
    let messages = queue.lease(&request).await?;
    ensure!(
        messages.len() == count,
        "{} of {count} messages were leased",
        messages.len()
    );
    for message in &messages {
        std::hint::black_box(message.record()?);
    }
    let receipts: Vec<_> = messages.iter().map(LeasedMessage::receipt).collect();
    let settled = queue.acknowledge(&receipts).await?;
    ensure!(settled.stale.is_empty(), "a receipt is stale");
    Ok(())
}
