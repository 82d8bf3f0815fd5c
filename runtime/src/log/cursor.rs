//! Reads one partition in order, record by record, stopping and going on anywhere.

use std::collections::VecDeque;
use std::sync::Arc;

use super::Error;
use crate::model::{RecordBatch, RecordPosition, RecordRef, Records};
use crate::storage::{Partition, Store};

/// Bytes fetched at a time.
const FETCH_BYTES: usize = 1 << 20;

/// A reader's place in a partition. Holds at most one fetch of batches in memory.
pub struct Cursor {
    store: Store,
    partition: Arc<Partition>,
    /// The offset of the next record.
    offset: u64,
    fetched: VecDeque<RecordBatch>,
    current: Option<Current>,
}

struct Current {
    records: Records,
    position: RecordPosition,
    next_offset: u64,
}

impl Cursor {
    /// A cursor before the record with this offset.
    pub fn new(store: Store, partition: Arc<Partition>, offset: u64) -> Self {
        Self {
            store,
            partition,
            offset,
            fetched: VecDeque::new(),
            current: None,
        }
    }

    /// The offset of the next record.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// The partition that it reads.
    pub fn partition(&self) -> &Arc<Partition> {
        &self.partition
    }

    /// Moves to another offset.
    pub fn seek(&mut self, offset: u64) {
        self.offset = offset;
        self.fetched.clear();
        self.current = None;
    }

    /// Whether there is nothing to read now. Not so in a deleted topic, where reading is an error.
    pub fn is_at_end(&self) -> bool {
        self.offset >= self.partition.high_watermark() && !self.partition.is_deleted()
    }

    /// Records between here and the high watermark.
    pub fn lag(&self) -> u64 {
        self.partition.high_watermark().saturating_sub(self.offset)
    }

    /// Waits until there is something to read, or the topic is deleted.
    pub async fn wait(&self) {
        self.partition.wait_beyond(self.offset).await;
    }

    /// Visits the next records: at most `max_records`, and no further one once `max_bytes` of keys,
    /// values and headers are reached. Returns how many were visited; 0 at the end.
    ///
    /// # Errors
    /// [`crate::storage::Error::OffsetOutOfRange`] if retention has overtaken the cursor;
    /// [`crate::storage::Error::PartitionDeleted`]; malformed stored batches. The cursor then stands
    /// after the last record that was visited.
    pub fn read(
        &mut self,
        max_records: usize,
        max_bytes: usize,
        mut visit: impl FnMut(&RecordRef<'_>),
    ) -> Result<usize, Error> {
        let (mut count, mut bytes) = (0, 0);
        while count < max_records && bytes < max_bytes {
            if self.current.is_none() && !self.advance()? {
                break;
            }
            let Some(current) = &mut self.current else {
                break;
            };
            let mut iterator = current.records.resume(current.position);
            while count < max_records && bytes < max_bytes {
                let Some(record) = iterator.next().transpose()? else {
                    self.offset = self.offset.max(current.next_offset);
                    self.current = None;
                    break;
                };
                current.position = iterator.position();
                if record.offset < self.offset {
                    continue;
                }
                bytes += record.size_bytes();
                count += 1;
                visit(&record);
                self.offset = record.offset + 1;
            }
        }
        self.skip_exhausted();
        Ok(count)
    }

    /// A batch read to its last record may end in offsets that compaction has emptied.
    fn skip_exhausted(&mut self) {
        if let Some(current) = &self.current
            && current.records.resume(current.position).next().is_none()
        {
            self.offset = self.offset.max(current.next_offset);
            self.current = None;
        }
    }

    /// Takes the next batch; `false` at the end.
    fn advance(&mut self) -> Result<bool, Error> {
        loop {
            let Some(batch) = self.fetched.pop_front() else {
                if self.is_at_end() {
                    return Ok(false);
                }
                // Taken before the read: what is appended after it must not be skipped.
                let end = self.partition.high_watermark();
                let fetched = self.store.read(&self.partition, self.offset, FETCH_BYTES)?;
                if fetched.is_empty() {
                    // Everything up to the high watermark has been compacted away.
                    self.offset = self.offset.max(end);
                    return Ok(false);
                }
                self.fetched = fetched.into();
                continue;
            };
            if batch.next_offset() <= self.offset {
                continue;
            }
            if batch.is_control() {
                self.offset = batch.next_offset();
                continue;
            }
            let records = batch.records()?;
            self.current = Some(Current {
                position: RecordPosition::default(),
                records,
                next_offset: batch.next_offset(),
            });
            return Ok(true);
        }
    }
}
