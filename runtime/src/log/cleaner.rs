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
//!
//! A run is several commits. Each leaves a log in which every key has its newest record, so a run
//! that comes to no end does no harm; the next one starts over.

use std::sync::Arc;

use hashbrown::HashMap;

use super::maintenance::blocking;
use super::{Error, Log, Topic};
use crate::model::{BatchBuilder, Compression, RecordBatch, RecordRef, Records, batch};
use crate::storage::{self, CleanMark, Commit, Partition, Scan, Store};

/// Bytes of keys (and their table entries) that one run takes in. Small in tests, to be reached.
const MAX_TABLE_BYTES: usize = if cfg!(test) { 2 << 10 } else { 64 << 20 };
/// What a key costs in the table besides its bytes.
const TABLE_ENTRY_BYTES: usize = 48;
/// Batches of this size (before compression) are left as they are if nothing in them is outdated.
const LARGE_BATCH_BYTES: usize = 32 << 10;
/// Rewritten batches are closed at this size (before compression).
const BATCH_BYTES: usize = 60 << 10;
/// Bytes of batches that are read at a time.
const STRETCH_BYTES: usize = if cfg!(test) { 2 << 10 } else { 4 << 20 };
/// Bytes of rewritten batches that are committed at a time, or up to a stretch more.
const COMMIT_BYTES: usize = if cfg!(test) { 8 << 10 } else { 4 << 20 };
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
        self.clean_where(topic, |partition| self.needs_cleaning(topic, partition))
            .await
    }

    /// Cleans all partitions of a compacted topic now. Does nothing to other topics.
    pub async fn clean(&self, topic: &Topic) -> Result<CleanReport, Error> {
        self.clean_where(topic, |_| true).await
    }

    async fn clean_where(
        &self,
        topic: &Topic,
        needs_cleaning: impl Fn(&Partition) -> bool,
    ) -> Result<CleanReport, Error> {
        if !Self::is_compacted(topic) {
            return Ok(CleanReport::default());
        }
        let work = async {
            let mut total = CleanReport::default();
            for partition in topic.partitions() {
                if needs_cleaning(partition) {
                    total.add(self.clean_partition(topic, partition).await?);
                }
            }
            Ok(total)
        };
        self.upkeep.run(self.store(), work).await
    }

    fn needs_cleaning(&self, topic: &Topic, partition: &Partition) -> bool {
        let mark = partition.clean_mark();
        let size_bytes = partition.size_bytes();
        let dirty_bytes = size_bytes.saturating_sub(mark.bytes);
        let dirty_ratio = topic.config().min_cleanable_dirty_ratio;
        let is_dirty = partition.high_watermark() > mark.offset
            && dirty_bytes as f64 >= dirty_ratio * size_bytes as f64;
        let now_ms = self.store().clock().now_ms();
        is_dirty || (mark.tombstones_due_ms > 0 && mark.tombstones_due_ms <= now_ms)
    }

    async fn clean_partition(
        &self,
        topic: &Topic,
        partition: &Arc<Partition>,
    ) -> Result<CleanReport, Error> {
        let config = topic.config();
        let (store, of) = (self.store().clone(), Arc::clone(partition));
        let (newest, end) = blocking(move || newest_offsets(&store, &of)).await??;
        let now_ms = self.store().clock().now_ms();
        let rules = Rules {
            newest,
            now_ms,
            horizon_ms: now_ms.saturating_add(config.tombstone_delay_ms),
        };
        let mut rewrite = Rewrite::new(
            Arc::clone(partition),
            rules,
            config.compression.map(|name| name.0),
        );
        while rewrite.next_offset < end {
            let store = self.store().clone();
            // Decompressing, comparing and compressing take long: not on a thread of the runtime.
            rewrite = blocking(move || rewrite.take_stretch(&store, end)).await??;
            if rewrite.commit.len_bytes() >= COMMIT_BYTES {
                rewrite.commit(self.store()).await?;
            }
        }
        rewrite.commit(self.store()).await?;
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
            blocking(move || store.compact_partition(&partition, 0..end)).await?;
        }
        Ok(rewrite.report)
    }
}

/// The newest offset of each key.
type Newest = HashMap<Box<[u8]>, u64>;

/// The newest offset of each key in what is not clean yet, and how far the table reaches.
fn newest_offsets(store: &Store, partition: &Partition) -> Result<(Newest, u64), Error> {
    let mut newest = Newest::new();
    let mut table_bytes = 0;
    let high_watermark = partition.high_watermark();
    let mut end = partition.clean_mark().offset.max(partition.start_offset());
    let mut is_complete = true;
    let mut failure = None;
    store.scan_batches(partition, end, high_watermark, |batch| {
        if table_bytes >= MAX_TABLE_BYTES {
            is_complete = false;
            return Ok(Scan::Stop);
        }
        let noted = batch.records().and_then(|records| {
            for_each_record(&records, |record| {
                if let Some(key) = record.key {
                    if let Some(offset) = newest.get_mut(key) {
                        *offset = record.offset;
                    } else {
                        table_bytes += key.len() + TABLE_ENTRY_BYTES;
                        newest.insert(key.into(), record.offset);
                    }
                }
                Ok(())
            })
        });
        if let Err(error) = noted {
            failure = Some(error);
            return Ok(Scan::Stop);
        }
        end = batch.next_offset();
        Ok(Scan::Continue)
    })?;
    match failure {
        Some(error) => Err(error.into()),
        None if is_complete => Ok((newest, high_watermark)),
        None => Ok((newest, end)),
    }
}

/// The next batches to clean. From the store, always: the tail in memory has the batches as they
/// were appended.
fn read_stretch(
    store: &Store,
    partition: &Partition,
    from: u64,
    end: u64,
) -> Result<Vec<RecordBatch>, storage::Error> {
    let (mut batches, mut bytes) = (Vec::new(), 0);
    store.scan_batches(partition, from, end, |batch| {
        bytes += batch.len_bytes();
        batches.push(batch);
        Ok(if bytes < STRETCH_BYTES {
            Scan::Continue
        } else {
            Scan::Stop
        })
    })?;
    Ok(batches)
}

fn for_each_record(
    records: &Records,
    mut visit: impl FnMut(&RecordRef<'_>) -> Result<(), batch::Error>,
) -> Result<(), batch::Error> {
    for record in records {
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
    newest: Newest,
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
struct Rewrite {
    partition: Arc<Partition>,
    rules: Rules,
    /// What comes before it has been rewritten.
    next_offset: u64,
    /// The topic's compression; without one, records stay compressed as they are.
    compression: Option<Compression>,
    builder: BatchBuilder,
    builder_compression: Compression,
    /// The offset of the first record in the builder.
    base_offset: u64,
    /// The delete horizon of the tombstones in the builder.
    horizon_ms: Option<u64>,
    commit: Commit,
    /// By how much the partition grows with `commit`; negative if it shrinks.
    growth_bytes: i64,
    /// By how much the commits before it have made it shrink.
    shrunk_bytes: i64,
    kept_bytes: u64,
    /// The earliest delete horizon of all tombstones kept.
    tombstones_due_ms: Option<u64>,
    report: CleanReport,
}

impl Rewrite {
    fn new(partition: Arc<Partition>, rules: Rules, compression: Option<Compression>) -> Self {
        let builder_compression = compression.unwrap_or_default();
        Self {
            next_offset: partition.start_offset(),
            partition,
            rules,
            compression,
            builder: BatchBuilder::new(builder_compression),
            builder_compression,
            base_offset: 0,
            horizon_ms: None,
            commit: Commit::new(),
            growth_bytes: 0,
            shrunk_bytes: 0,
            kept_bytes: 0,
            tombstones_due_ms: None,
            report: CleanReport::default(),
        }
    }

    /// Rewrites the next stretch before `end`.
    fn take_stretch(mut self, store: &Store, end: u64) -> Result<Self, Error> {
        let stretch = read_stretch(store, &self.partition, self.next_offset, end)?;
        // Unless the rest is gone.
        self.next_offset = stretch.last().map_or(end, RecordBatch::next_offset);
        for batch in stretch {
            self.take(&batch)?;
        }
        Ok(self)
    }

    fn take(&mut self, batch: &RecordBatch) -> Result<(), Error> {
        let records = batch.records()?;
        let (mut kept, mut tombstones) = (0, 0);
        for_each_record(&records, |record| {
            if self.rules.keeps(batch, record) {
                kept += 1;
                tombstones += u64::from(record.key.is_some() && record.value.is_none());
            }
            Ok(())
        })?;
        self.report.records_kept += kept;
        self.report.records_removed += u64::from(batch.record_count()) - kept;
        let horizon_ms =
            (tombstones > 0).then(|| batch.delete_horizon_ms().unwrap_or(self.rules.horizon_ms));
        if let Some(horizon_ms) = horizon_ms {
            let due_ms = self.tombstones_due_ms.get_or_insert(horizon_ms);
            *due_ms = horizon_ms.min(*due_ms);
        }
        let is_final = horizon_ms.is_none() || batch.delete_horizon_ms().is_some();
        let is_complete = kept == u64::from(batch.record_count());
        if is_complete && is_final && records.size_bytes() >= LARGE_BATCH_BYTES {
            self.kept_bytes += batch.len_bytes() as u64;
            return Ok(self.close()?);
        }
        self.commit
            .remove_batch(&self.partition, batch.base_offset());
        self.growth_bytes -= batch.len_bytes() as i64;
        self.use_compression(self.compression.unwrap_or(batch.compression()))?;
        for_each_record(&records, |record| match self.rules.keeps(batch, record) {
            true => self.push(record, horizon_ms),
            false => Ok(()),
        })?;
        Ok(())
    }

    fn use_compression(&mut self, compression: Compression) -> Result<(), batch::Error> {
        if compression != self.builder_compression {
            self.close()?;
            self.builder = BatchBuilder::new(compression);
            self.builder_compression = compression;
        }
        Ok(())
    }

    fn push(
        &mut self,
        record: &RecordRef<'_>,
        horizon_ms: Option<u64>,
    ) -> Result<(), batch::Error> {
        let span = record.offset.saturating_sub(self.base_offset);
        let is_full = self.builder.size_bytes() >= BATCH_BYTES || span > MAX_OFFSET_SPAN;
        // A batch has one horizon, so tombstones with another one start another batch.
        let is_other = horizon_ms.is_some() && self.horizon_ms != horizon_ms;
        if !self.builder.is_empty() && (is_full || is_other) {
            self.close()?;
        }
        if self.builder.is_empty() {
            self.base_offset = record.offset;
            self.horizon_ms = horizon_ms;
            self.builder.set_delete_horizon_ms(horizon_ms);
        }
        let delta = (record.offset - self.base_offset) as u32;
        self.builder.push_at(
            delta,
            record.timestamp_ms,
            record.key,
            record.value,
            record.headers,
        )
    }

    /// Writes what the builder holds.
    fn close(&mut self) -> Result<(), batch::Error> {
        if let Some(batch) = self.builder.build()? {
            self.growth_bytes += batch.len_bytes() as i64;
            self.kept_bytes += batch.len_bytes() as u64;
            self.commit
                .replace_batch(&self.partition, &batch.assign(self.base_offset));
        }
        Ok(())
    }

    /// Commits what has been rewritten since the last commit.
    async fn commit(&mut self, store: &Store) -> Result<(), Error> {
        self.close()?;
        if self.commit.is_empty() {
            return Ok(());
        }
        let growth_bytes = std::mem::take(&mut self.growth_bytes);
        self.commit.resize_partition(&self.partition, growth_bytes);
        store.commit(std::mem::take(&mut self.commit)).await?;
        self.shrunk_bytes -= growth_bytes;
        self.report.freed_bytes = u64::try_from(self.shrunk_bytes).unwrap_or(0);
        Ok(())
    }
}
