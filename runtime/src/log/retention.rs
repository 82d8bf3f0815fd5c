//! Retention: old batches go by age and by size.

use super::maintenance::blocking;
use super::{Error, Log, Topic, TopicConfig};
use crate::storage::{self, Commit, Partition, Scan, Store};

impl Log {
    /// Deletes what the topic's retention no longer keeps; returns the bytes freed.
    ///
    /// Whole batches go, from the start of a partition: as long as `retention-bytes` remain, and
    /// while the newest record of its first batch is older than `retention`. Does nothing to
    /// compacted topics.
    pub async fn apply_retention(&self, topic: &Topic) -> Result<u64, Error> {
        if Self::is_compacted(topic) {
            return Ok(0);
        }
        self.upkeep
            .run(self.store(), self.trim_expired(topic))
            .await
    }

    async fn trim_expired(&self, topic: &Topic) -> Result<u64, Error> {
        let mut freed_bytes = 0;
        for partition in topic.partitions() {
            let (store, of, config) = (self.store().clone(), partition.clone(), topic.config());
            let expired = blocking(move || expired_prefix(&store, &of, &config)).await??;
            if let Some((start_offset, freed)) = expired {
                let mut commit = Commit::new();
                commit.trim_partition(partition, start_offset, freed);
                self.store().commit(commit).await?;
                freed_bytes += freed;
            }
        }
        if freed_bytes > 0 {
            // Once for all of them: it flushes what is in memory.
            let (store, topic_id) = (self.store().clone(), topic.id());
            blocking(move || store.compact_topic(topic_id)).await?;
        }
        Ok(freed_bytes)
    }
}

/// The new start offset of a partition and the bytes before it; `None` if all is kept.
fn expired_prefix(
    store: &Store,
    partition: &Partition,
    config: &TopicConfig,
) -> Result<Option<(u64, u64)>, storage::Error> {
    let size_bytes = partition.size_bytes();
    let excess_bytes = config
        .retention_bytes
        .map_or(0, |limit| size_bytes.saturating_sub(limit));
    let expired_before_ms = config
        .retention_ms
        .map(|age| store.clock().now_ms().saturating_sub(age));
    if excess_bytes == 0 && expired_before_ms.is_none() {
        return Ok(None);
    }
    let start = partition.start_offset();
    let (mut start_offset, mut freed_bytes) = (start, 0);
    store.scan_batches(partition, start, partition.high_watermark(), |batch| {
        let len_bytes = batch.len_bytes() as u64;
        let too_large = freed_bytes + len_bytes <= excess_bytes;
        let too_old = expired_before_ms.is_some_and(|limit| batch.max_timestamp_ms() < limit);
        if !too_large && !too_old {
            return Ok(Scan::Stop);
        }
        start_offset = batch.next_offset();
        freed_bytes += len_bytes;
        Ok(Scan::Continue)
    })?;
    Ok((start_offset > start).then_some((start_offset, freed_bytes)))
}
