//! Batches single records into appends, as Kafka's producer does.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::model::{BatchBuilder, HeadersRef, partition_for_key};
use crate::storage::{Commit, PendingCommit};

use super::{Error, Log, Topic};

/// Bytes after which a partition's batch is closed. Batches of 32 to 64 KiB read and write fastest.
const BATCH_BYTES: usize = 60 << 10;
/// Records after which a partition's batch is closed.
const BATCH_RECORDS: u32 = 4096;
/// Bytes of closed batches that are sent in one commit.
const COMMIT_BYTES: usize = 1 << 20;
/// What the encoding of a record needs at most besides its key, value and headers.
const RECORD_OVERHEAD_BYTES: usize = 40;
/// Commits on their way at a time.
const MAX_IN_FLIGHT: usize = 5;

/// What a producer has had acknowledged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Acknowledged {
    /// This many records, the first that were sent, are stored. Later ones may be, too.
    pub records: u64,
    /// Commits that carried them.
    pub commits: u64,
}

/// Sends records to one topic in batches. Records of one key go to one partition, in order;
/// records without a key go to one partition for each batch, in turn. What has not been flushed
/// when a producer is dropped may be lost.
pub struct Producer {
    log: Log,
    topic: Topic,
    builders: Vec<BatchBuilder>,
    batch_bytes: usize,
    max_batch_bytes: usize,
    unkeyed_partition: u32,
    commit: Commit,
    /// Records in commits that are not on their way yet, or are followed by others of their flush.
    unreported_records: u64,
    in_flight: VecDeque<InFlight>,
    acknowledged: Acknowledged,
}

/// A commit on its way.
struct InFlight {
    pending: PendingCommit,
    /// Records that are acknowledged with it. None if more commits of the same flush follow: a
    /// flush has, of each partition, what has come since the one before it, so that only all of its
    /// commits together hold the next records in the order in which they were sent.
    records: u64,
}

impl Producer {
    /// A producer to a topic.
    pub fn new(log: Log, topic: Topic) -> Self {
        let config = topic.config();
        let compression = config.batch_compression();
        let builders = topic
            .partitions()
            .iter()
            .map(|_| BatchBuilder::new(compression))
            .collect();
        Self {
            log,
            topic,
            builders,
            batch_bytes: BATCH_BYTES.min(config.max_batch_bytes / 2),
            max_batch_bytes: config.max_batch_bytes,
            unkeyed_partition: 0,
            commit: Commit::new(),
            unreported_records: 0,
            in_flight: VecDeque::new(),
            acknowledged: Acknowledged::default(),
        }
    }

    /// What has been acknowledged so far.
    pub fn acknowledged(&self) -> Acknowledged {
        self.acknowledged
    }

    /// Adds a record. `partition` overrides the choice by key.
    ///
    /// Waits for an acknowledgement when too many commits are on their way.
    ///
    /// # Errors
    /// A record beyond the limits, which is not sent (those before it are): [`Error::BatchTooLarge`],
    /// [`Error::Batch`], [`Error::KeyRequired`], [`Error::UnknownPartition`]. Or the failure of a
    /// commit: [`Error::Storage`].
    pub async fn send(
        &mut self,
        partition: Option<u32>,
        timestamp_ms: u64,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: HeadersRef<'_>,
    ) -> Result<(), Error> {
        let index = match (partition, key) {
            (Some(partition), _) => self.topic.partition(partition)?.index(),
            (None, Some(key)) => partition_for_key(key, self.topic.partition_count()),
            (None, None) => self.unkeyed_partition,
        };
        if key.is_none() && Log::is_compacted(&self.topic) {
            return Err(Error::KeyRequired {
                topic: self.topic.name().clone(),
            });
        }
        let Some(builder) = self.builders.get_mut(index as usize) else {
            return Ok(());
        };
        let fields = [key, value, Some(headers.as_encoded())];
        let size_bytes = fields
            .iter()
            .flatten()
            .map(|field| field.len())
            .sum::<usize>();
        let room_bytes = self.max_batch_bytes.saturating_sub(builder.size_bytes());
        if !builder.is_empty() && size_bytes + RECORD_OVERHEAD_BYTES > room_bytes {
            // A record that is too large for the topic must be alone when that turns out.
            close(&self.topic, builder, index, &mut self.commit)?;
        }
        builder.push(timestamp_ms, key, value, headers)?;
        if builder.size_bytes() >= self.batch_bytes || builder.len() >= BATCH_RECORDS {
            close(&self.topic, builder, index, &mut self.commit)?;
            if index == self.unkeyed_partition {
                self.turn_unkeyed();
            }
        }
        if self.commit.len_bytes() >= COMMIT_BYTES {
            self.dispatch().await?;
        }
        Ok(())
    }

    /// Sends what is waiting, and waits until everything is acknowledged.
    pub async fn flush(&mut self) -> Result<Acknowledged, Error> {
        let dispatched = self.dispatch().await;
        // Even if no more can be sent: what is on its way may be stored.
        while let Some(oldest) = self.in_flight.pop_front() {
            self.settle(oldest).await?;
        }
        dispatched?;
        Ok(self.acknowledged)
    }

    fn turn_unkeyed(&mut self) {
        self.unkeyed_partition = (self.unkeyed_partition + 1) % self.topic.partition_count();
    }

    /// Sends all open batches: as one commit, unless there are so many that it would be too large.
    /// The last one tells of them all.
    async fn dispatch(&mut self) -> Result<(), Error> {
        let unkeyed = self.builders.get(self.unkeyed_partition as usize);
        if unkeyed.is_some_and(|builder| !builder.is_empty()) {
            self.turn_unkeyed();
        }
        for index in 0..self.topic.partition_count() {
            if let Some(builder) = self.builders.get_mut(index as usize) {
                close(&self.topic, builder, index, &mut self.commit)?;
            }
            let is_last = index + 1 == self.topic.partition_count();
            if self.commit.len_bytes() >= COMMIT_BYTES && !is_last {
                self.submit(IsLast::No).await?;
            }
        }
        self.submit(IsLast::Yes).await
    }

    /// Sends the closed batches.
    async fn submit(&mut self, is_last: IsLast) -> Result<(), Error> {
        // Without batches, too, if records of the flush are still to be reported.
        if self.commit.is_empty() && self.unreported_records == 0 {
            return Ok(());
        }
        self.unreported_records += self.commit.record_count();
        let pending = self
            .log
            .store()
            .submit(std::mem::take(&mut self.commit))
            .await?;
        let records = match is_last {
            IsLast::Yes => std::mem::take(&mut self.unreported_records),
            IsLast::No => 0,
        };
        self.in_flight.push_back(InFlight { pending, records });
        if self.in_flight.len() > MAX_IN_FLIGHT
            && let Some(oldest) = self.in_flight.pop_front()
        {
            self.settle(oldest).await?;
        }
        Ok(())
    }

    async fn settle(&mut self, in_flight: InFlight) -> Result<(), Error> {
        in_flight.pending.wait().await?;
        self.acknowledged.records += in_flight.records;
        self.acknowledged.commits += 1;
        Ok(())
    }
}

/// Whether a commit is the last of a flush.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum IsLast {
    Yes,
    No,
}

/// Moves what a builder holds to a commit.
fn close(
    topic: &Topic,
    builder: &mut BatchBuilder,
    index: u32,
    commit: &mut Commit,
) -> Result<(), Error> {
    let Some(batch) = builder.build()? else {
        return Ok(());
    };
    let limit = topic.config().max_batch_bytes;
    if batch.len_bytes() > limit {
        return Err(Error::BatchTooLarge {
            topic: topic.name().clone(),
            bytes: batch.len_bytes(),
            limit,
        });
    }
    commit.append(Arc::clone(topic.partition(index)?), batch);
    Ok(())
}
