//! A port that leads to a topic.

use std::sync::Arc;

use super::OutputRecord;
use crate::log::{Cleanup, Topic};
use crate::model::{BatchBuilder, Compression, PortName, batch, limits, partition_for_key};
use crate::storage::Commit;

/// Builders that have grown beyond this are not kept for the next batch.
const MAX_KEPT_BUILDER_BYTES: usize = 256 << 10;
/// What a record takes in a batch besides its key, value and headers, at most.
const RECORD_OVERHEAD_BYTES: usize = 64;

/// Collects records by partition.
pub(super) struct TopicPort {
    name: PortName,
    topic: Topic,
    /// By partition; made when first needed, kept between batches with their buffers.
    builders: Vec<Option<BatchBuilder>>,
    compression: Compression,
    needs_key: bool,
    max_batch_bytes: usize,
}

impl TopicPort {
    pub(super) fn new(name: PortName, topic: Topic) -> Self {
        let config = topic.config();
        Self {
            builders: topic.partitions().iter().map(|_| None).collect(),
            compression: config.batch_compression(),
            needs_key: config.cleanup == Cleanup::Compact,
            max_batch_bytes: config.max_batch_bytes,
            name,
            topic,
        }
    }

    /// Adds a record; `unkeyed_turn` chooses the partition of those without a key.
    #[inline]
    pub(super) fn add(
        &mut self,
        record: &OutputRecord<'_>,
        unkeyed_turn: u32,
        commit: &mut Commit,
    ) -> Result<(), String> {
        let partitions = self.topic.partition_count();
        let partition = match record.key {
            Some(key) => partition_for_key(key, partitions),
            None if self.needs_key => {
                return Err(self.reason("a record without a key cannot go to a compacted topic"));
            }
            None => unkeyed_turn % partitions.max(1),
        };
        let Some(slot) = self.builders.get_mut(partition as usize) else {
            return Ok(());
        };
        let builder = slot.get_or_insert_with(|| BatchBuilder::new(self.compression));
        let size_bytes = builder.size_bytes() + record.size_bytes() + RECORD_OVERHEAD_BYTES;
        if !builder.is_empty() && size_bytes > self.max_batch_bytes {
            self.close(partition, commit)?;
        }
        let mut pushed = self.push(partition, record);
        if let Err(batch::Error::BatchFull) = pushed {
            self.close(partition, commit)?;
            pushed = self.push(partition, record);
        }
        pushed.map_err(|error| self.reason(&error.to_string()))
    }

    /// The largest batch that the topic takes.
    pub(super) fn max_batch_bytes(&self) -> usize {
        self.max_batch_bytes.min(limits::MAX_RECORD_BYTES)
    }

    /// Forgets what is still open.
    pub(super) fn discard(&mut self) {
        for builder in &mut self.builders {
            *builder = None;
        }
    }

    /// Adds what is still open to the commit.
    pub(super) fn finish(&mut self, commit: &mut Commit) -> Result<(), String> {
        (0..self.topic.partition_count()).try_for_each(|partition| self.close(partition, commit))
    }

    #[inline]
    fn push(&mut self, partition: u32, record: &OutputRecord<'_>) -> Result<(), batch::Error> {
        let Some(slot) = self.builders.get_mut(partition as usize) else {
            return Ok(());
        };
        let builder = slot.get_or_insert_with(|| BatchBuilder::new(self.compression));
        builder.push(
            record.timestamp_ms,
            record.key,
            record.value,
            record.headers,
        )
    }

    fn close(&mut self, partition: u32, commit: &mut Commit) -> Result<(), String> {
        let Some(slot) = self.builders.get_mut(partition as usize) else {
            return Ok(());
        };
        let Some(builder) = slot else { return Ok(()) };
        let is_large = builder.size_bytes() > MAX_KEPT_BUILDER_BYTES;
        let built = builder.build();
        if is_large {
            *slot = None;
        }
        let Some(batch) = built.map_err(|error| self.reason(&error.to_string()))? else {
            return Ok(());
        };
        if batch.len_bytes() > self.max_batch_bytes {
            let (len_bytes, limit) = (batch.len_bytes(), self.max_batch_bytes);
            return Err(self.reason(&format!(
                "a record makes a batch of {len_bytes} bytes, larger than the topic's max-batch-bytes of {limit}"
            )));
        }
        let partition = self
            .topic
            .partition(partition)
            .map_err(|error| error.to_string())?;
        commit.append(Arc::clone(partition), batch);
        Ok(())
    }

    pub(super) fn reason(&self, reason: &str) -> String {
        format!(
            "port `{}`, topic `{}`: {reason}",
            self.name,
            self.topic.name()
        )
    }
}
