//! Retention: old batches go by age and by size.

use std::sync::Arc;

use super::{Error, Log, Topic};
use crate::storage::{Commit, Partition, Scan};

impl Log {
    /// Deletes what the topic's retention no longer keeps; returns the bytes freed.
    ///
    /// Whole batches go, from the start of a partition: while the partition is larger than
    /// `retention-bytes`, and while the newest record of its first batch is older than `retention`.
    pub async fn apply_retention(&self, topic: &Topic) -> Result<u64, Error> {
        let mut freed_bytes = 0;
        for partition in topic.partitions() {
            if let Some((start_offset, freed)) = self.expired_prefix(topic, partition)? {
                let mut commit = Commit::new();
                commit.trim_partition(partition, start_offset, freed);
                self.store().commit(commit).await?;
                let (store, partition) = (self.store().clone(), Arc::clone(partition));
                let compact = move || store.compact_partition(&partition, start_offset);
                tokio::task::spawn_blocking(compact)
                    .await
                    .map_err(|_| crate::storage::Error::Closed)?;
                freed_bytes += freed;
            }
        }
        Ok(freed_bytes)
    }

    /// The new start offset of a partition and the bytes before it; `None` if all is kept.
    fn expired_prefix(
        &self,
        topic: &Topic,
        partition: &Partition,
    ) -> Result<Option<(u64, u64)>, Error> {
        let config = topic.config();
        if Self::is_compacted(topic) {
            return Ok(None);
        }
        let size_bytes = partition.size_bytes();
        let excess_bytes = config
            .retention_bytes
            .map_or(0, |limit| size_bytes.saturating_sub(limit));
        let expired_before_ms = config
            .retention_ms
            .map(|age| self.store().clock().now_ms().saturating_sub(age));
        if excess_bytes == 0 && expired_before_ms.is_none() {
            return Ok(None);
        }
        let start = partition.start_offset();
        let (mut start_offset, mut freed_bytes) = (start, 0);
        self.store()
            .scan_batches(partition, start, partition.high_watermark(), |batch| {
                let len_bytes = batch.len_bytes() as u64;
                let too_large = freed_bytes + len_bytes <= excess_bytes;
                let too_old =
                    expired_before_ms.is_some_and(|limit| batch.max_timestamp_ms() < limit);
                if !too_large && !too_old {
                    return Ok(Scan::Stop);
                }
                start_offset = batch.next_offset();
                freed_bytes += len_bytes;
                Ok(Scan::Continue)
            })?;
        Ok((start_offset > start).then_some((start_offset, freed_bytes)))
    }
}
