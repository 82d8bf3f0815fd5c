//! The cleaner of compacted topics: the newest record of each key stays, earlier ones go, and
//! tombstones go after a delay.
//!
//! As Kafka's log cleaner: a first pass over what is not clean yet notes the newest offset of each
//! key, a second pass over everything rewrites batches without the records that are outdated.
//! Offsets stay as they are. Memory is bounded by cleaning as far as the table of keys reaches.
//!
//! A tombstone must be seen by readers who are behind, so it stays for `tombstone-delay` after the
//! cleaner first passed it. The time at which it may go is kept as in Kafka: in the header of its
//! batch, the delete horizon.

use std::sync::Arc;

use hashbrown::HashMap;

use super::{Error, Log, Topic};
use crate::model::{BatchBuilder, RecordBatch, RecordRef};
use crate::storage::{CleanMark, Commit, Partition, Scan};

/// Bytes of keys (and their table entries) that one run takes in.
const MAX_TABLE_BYTES: usize = 64 << 20;
/// What a key costs in the table besides its bytes.
const TABLE_ENTRY_BYTES: usize = 48;
/// Batches of this size are left as they are if nothing in them is outdated.
const LARGE_BATCH_BYTES: usize = 32 << 10;
/// Rewritten batches are closed at this size.
const BATCH_BYTES: usize = 60 << 10;
/// Greatest distance of offsets within a rewritten batch.
const MAX_OFFSET_SPAN: u64 = 1 << 30;

/// What a run of the cleaner did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CleanReport {
    /// Records that were outdated, and tombstones past their delay.
    pub records_removed: u64,
    /// Records that stay.
    pub records_kept: u64,
    /// Bytes of batches freed.
    pub freed_bytes: u64,
}

impl Log {
    /// Cleans the partitions of a compacted topic that have enough uncleaned data, or tombstones
    /// whose delay is over. Does nothing to other topics.
    pub async fn clean_if_dirty(&self, topic: &Topic) -> Result<CleanReport, Error> {
        let mut total = CleanReport::default();
        if !Self::is_compacted(topic) {
            return Ok(total);
        }
        let config = topic.config();
        for partition in topic.partitions() {
            let mark = partition.clean_mark();
            let size_bytes = partition.size_bytes();
            let dirty_bytes = size_bytes.saturating_sub(mark.bytes);
            let is_dirty = partition.high_watermark() > mark.offset
                && dirty_bytes as f64 >= config.min_cleanable_dirty_ratio * size_bytes as f64;
            let now_ms = self.store().clock().now_ms();
            let is_due = mark.tombstones_due_ms > 0 && mark.tombstones_due_ms <= now_ms;
            if is_dirty || is_due {
                total.add(self.clean_partition(topic, partition).await?);
            }
        }
        Ok(total)
    }

    /// Cleans all partitions of a compacted topic now.
    pub async fn clean(&self, topic: &Topic) -> Result<CleanReport, Error> {
        let mut total = CleanReport::default();
        if Self::is_compacted(topic) {
            for partition in topic.partitions() {
                total.add(self.clean_partition(topic, partition).await?);
            }
        }
        Ok(total)
    }

    async fn clean_partition(
        &self,
        topic: &Topic,
        partition: &Arc<Partition>,
    ) -> Result<CleanReport, Error> {
        let config = topic.config();
        let mark = partition.clean_mark();
        let (newest, end) = self.newest_offsets(partition, mark.offset)?;
        let now_ms = self.store().clock().now_ms();
        let rules = Rules {
            newest,
            now_ms,
            horizon_ms: now_ms.saturating_add(config.tombstone_delay_ms),
        };
        let mut rewrite = Rewrite::new(partition, BatchBuilder::new(config.batch_compression()));
        let mut from = partition.start_offset();
        while from < end {
            // One commit for each stretch, so that commits and memory stay small.
            let batches = self.store().read(partition, from, 4 << 20)?;
            let batches: Vec<_> = batches
                .into_iter()
                .take_while(|batch| batch.base_offset() < end)
                .collect();
            let Some(last) = batches.last() else { break };
            from = last.next_offset();
            for batch in &batches {
                rewrite.take(batch, &rules)?;
            }
            rewrite.close()?;
            if let Some(commit) = rewrite.take_commit() {
                self.store().commit(commit).await?;
            }
        }
        let next_mark = CleanMark {
            offset: end,
            bytes: rewrite.kept_bytes,
            tombstones_due_ms: rewrite.tombstones_due_ms.unwrap_or(0),
        };
        let mut commit = Commit::new();
        commit.mark_cleaned(partition, next_mark);
        self.store().commit(commit).await?;
        if rewrite.report.freed_bytes > 0 {
            let (store, partition) = (self.store().clone(), Arc::clone(partition));
            let compact = move || store.compact_partition(&partition, end);
            tokio::task::spawn_blocking(compact)
                .await
                .map_err(|_| crate::storage::Error::Closed)?;
        }
        Ok(rewrite.report)
    }

    /// The newest offset of each key from `from` on, and how far the table reaches.
    fn newest_offsets(
        &self,
        partition: &Partition,
        from: u64,
    ) -> Result<(HashMap<Box<[u8]>, u64>, u64), Error> {
        let mut newest: HashMap<Box<[u8]>, u64> = HashMap::new();
        let mut table_bytes = 0;
        let high_watermark = partition.high_watermark();
        let mut end = from.max(partition.start_offset());
        let mut failure = None;
        self.store()
            .scan_batches(partition, end, high_watermark, |batch| {
                if table_bytes >= MAX_TABLE_BYTES {
                    return Ok(Scan::Stop);
                }
                let noted = for_each_record(&batch, |record| {
                    if let Some(key) = record.key {
                        if let Some(offset) = newest.get_mut(key) {
                            *offset = record.offset;
                        } else {
                            table_bytes += key.len() + TABLE_ENTRY_BYTES;
                            newest.insert(key.into(), record.offset);
                        }
                    }
                    Ok(())
                });
                if let Err(error) = noted {
                    failure = Some(error);
                    return Ok(Scan::Stop);
                }
                end = batch.next_offset();
                Ok(Scan::Continue)
            })?;
        match failure {
            Some(error) => Err(error),
            None if table_bytes < MAX_TABLE_BYTES => Ok((newest, high_watermark)),
            None => Ok((newest, end)),
        }
    }
}

fn for_each_record(
    batch: &RecordBatch,
    mut visit: impl FnMut(&RecordRef<'_>) -> Result<(), Error>,
) -> Result<(), Error> {
    for record in batch.records()?.iter() {
        visit(&record?)?;
    }
    Ok(())
}

impl CleanReport {
    fn add(&mut self, other: Self) {
        self.records_removed += other.records_removed;
        self.records_kept += other.records_kept;
        self.freed_bytes += other.freed_bytes;
    }
}

/// Which records stay.
struct Rules {
    newest: HashMap<Box<[u8]>, u64>,
    now_ms: u64,
    /// Tombstones that are passed for the first time may go then.
    horizon_ms: u64,
}

impl Rules {
    fn keeps(&self, batch: &RecordBatch, record: &RecordRef<'_>) -> bool {
        // A record without a key cannot be outdated.
        let Some(key) = record.key else { return true };
        if record.value.is_none()
            && batch
                .delete_horizon_ms()
                .is_some_and(|at| at <= self.now_ms)
        {
            return false;
        }
        self.newest
            .get(key)
            .is_none_or(|newest| record.offset >= *newest)
    }
}

/// Batches being rewritten.
struct Rewrite<'a> {
    partition: &'a Arc<Partition>,
    builder: BatchBuilder,
    /// The offset of the first record in the builder.
    base_offset: u64,
    commit: Commit,
    freed_bytes: i64,
    kept_bytes: u64,
    /// The delete horizon of the tombstones in the builder.
    horizon_ms: Option<u64>,
    /// The earliest delete horizon of all tombstones kept.
    tombstones_due_ms: Option<u64>,
    report: CleanReport,
}

impl<'a> Rewrite<'a> {
    fn new(partition: &'a Arc<Partition>, builder: BatchBuilder) -> Self {
        Self {
            partition,
            builder,
            base_offset: 0,
            commit: Commit::new(),
            freed_bytes: 0,
            kept_bytes: 0,
            horizon_ms: None,
            tombstones_due_ms: None,
            report: CleanReport::default(),
        }
    }

    fn take(&mut self, batch: &RecordBatch, rules: &Rules) -> Result<(), Error> {
        let (mut kept, mut tombstones) = (0, 0);
        for_each_record(batch, |record| {
            if rules.keeps(batch, record) {
                kept += 1;
                tombstones += u64::from(record.key.is_some() && record.value.is_none());
            }
            Ok(())
        })?;
        self.report.records_kept += kept;
        self.report.records_removed += u64::from(batch.record_count()) - kept;
        let horizon_ms =
            (tombstones > 0).then(|| batch.delete_horizon_ms().unwrap_or(rules.horizon_ms));
        if let Some(horizon_ms) = horizon_ms {
            let due_ms = self.tombstones_due_ms.get_or_insert(horizon_ms);
            *due_ms = horizon_ms.min(*due_ms);
        }
        let is_final = horizon_ms.is_none() || batch.delete_horizon_ms().is_some();
        let is_complete = kept == u64::from(batch.record_count());
        if is_complete && is_final && batch.len_bytes() >= LARGE_BATCH_BYTES {
            self.kept_bytes += batch.len_bytes() as u64;
            return self.close();
        }
        self.commit
            .remove_batch(self.partition, batch.base_offset());
        self.freed_bytes += batch.len_bytes() as i64;
        for_each_record(batch, |record| match rules.keeps(batch, record) {
            true => self.push(record, horizon_ms),
            false => Ok(()),
        })
    }

    fn push(&mut self, record: &RecordRef<'_>, horizon_ms: Option<u64>) -> Result<(), Error> {
        let span = record.offset.saturating_sub(self.base_offset);
        let is_full = self.builder.size_bytes() >= BATCH_BYTES || span > MAX_OFFSET_SPAN;
        // A batch has one horizon, so records with another one start another batch.
        if !self.builder.is_empty() && (is_full || self.horizon_ms != horizon_ms) {
            self.close()?;
        }
        if self.builder.is_empty() {
            self.base_offset = record.offset;
            self.horizon_ms = horizon_ms;
            self.builder.set_delete_horizon_ms(horizon_ms);
        }
        let delta = (record.offset - self.base_offset) as u32;
        Ok(self.builder.push_at(
            delta,
            record.timestamp_ms,
            record.key,
            record.value,
            record.headers,
        )?)
    }

    /// Writes what the builder holds.
    fn close(&mut self) -> Result<(), Error> {
        if let Some(batch) = self.builder.build()? {
            self.freed_bytes -= batch.len_bytes() as i64;
            self.kept_bytes += batch.len_bytes() as u64;
            self.commit
                .replace_batch(self.partition, &batch.assign(self.base_offset));
        }
        Ok(())
    }

    /// The commit of what has been rewritten since the last one; `None` if nothing was.
    fn take_commit(&mut self) -> Option<Commit> {
        if self.commit.is_empty() {
            return None;
        }
        let freed_bytes = u64::try_from(std::mem::take(&mut self.freed_bytes)).unwrap_or(0);
        self.report.freed_bytes += freed_bytes;
        self.commit.shrink_partition(self.partition, freed_bytes);
        Some(std::mem::take(&mut self.commit))
    }
}
