//! Batches single records into appends, as Kafka's producer does.

use crate::model::{BatchBuilder, HeadersRef, partition_for_key};
use crate::storage::{Commit, PendingCommit};

use super::{Error, Log, Topic};

/// Bytes after which a partition's batch is closed. Batches of 32 to 64 KiB read and write fastest.
const BATCH_BYTES: usize = 60 << 10;
/// Records after which a partition's batch is closed.
const BATCH_RECORDS: u32 = 4096;
/// Bytes of closed batches that are sent in one commit.
const COMMIT_BYTES: usize = 1 << 20;
/// Commits on their way at a time.
const MAX_IN_FLIGHT: usize = 5;

/// What a producer has had acknowledged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Acknowledged {
    /// Records that are stored.
    pub records: u64,
    /// Commits that carried them.
    pub commits: u64,
}

/// Sends records to one topic in batches. Records of one key go to one partition, in order;
/// records without a key go to one partition for each batch, in turn.
pub struct Producer {
    log: Log,
    topic: Topic,
    builders: Vec<BatchBuilder>,
    batch_bytes: usize,
    unkeyed_partition: u32,
    commit: Commit,
    commit_records: u64,
    in_flight: std::collections::VecDeque<(PendingCommit, u64)>,
    acknowledged: Acknowledged,
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
            unkeyed_partition: 0,
            commit: Commit::new(),
            commit_records: 0,
            in_flight: std::collections::VecDeque::new(),
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
    /// A record beyond the limits (nothing of it is sent), or a failure of an earlier commit.
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
        builder.push(timestamp_ms, key, value, headers)?;
        self.commit_records += 1;
        if builder.size_bytes() >= self.batch_bytes || builder.len() >= BATCH_RECORDS {
            self.close(index)?;
            if index == self.unkeyed_partition {
                self.unkeyed_partition = (index + 1) % self.topic.partition_count();
            }
            if self.commit.len_bytes() >= COMMIT_BYTES {
                self.dispatch().await?;
            }
        }
        Ok(())
    }

    /// Sends what is waiting, and waits until everything is acknowledged.
    pub async fn flush(&mut self) -> Result<Acknowledged, Error> {
        self.dispatch().await?;
        while let Some(oldest) = self.in_flight.pop_front() {
            self.settle(oldest).await?;
        }
        Ok(self.acknowledged)
    }

    fn close(&mut self, index: u32) -> Result<(), Error> {
        let partition = self.topic.partition(index)?.clone();
        if let Some(builder) = self.builders.get_mut(index as usize)
            && let Some(batch) = builder.build()?
        {
            let limit = self.topic.config().max_batch_bytes;
            if batch.len_bytes() > limit {
                let (topic, bytes) = (self.topic.name().clone(), batch.len_bytes());
                return Err(Error::BatchTooLarge {
                    topic,
                    bytes,
                    limit,
                });
            }
            self.commit.append(partition, batch);
        }
        Ok(())
    }

    /// Sends all open batches as one commit.
    async fn dispatch(&mut self) -> Result<(), Error> {
        for index in 0..self.topic.partition_count() {
            self.close(index)?;
        }
        if self.commit.is_empty() {
            return Ok(());
        }
        let records = std::mem::take(&mut self.commit_records);
        let pending = self
            .log
            .store()
            .submit(std::mem::take(&mut self.commit))
            .await?;
        self.in_flight.push_back((pending, records));
        if self.in_flight.len() > MAX_IN_FLIGHT
            && let Some(oldest) = self.in_flight.pop_front()
        {
            self.settle(oldest).await?;
        }
        Ok(())
    }

    async fn settle(&mut self, (pending, records): (PendingCommit, u64)) -> Result<(), Error> {
        pending.wait().await?;
        self.acknowledged.records += records;
        self.acknowledged.commits += 1;
        Ok(())
    }
}
