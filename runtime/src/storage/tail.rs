//! The newest batches of a partition, in memory, so that readers at the end touch no RocksDB.

use std::collections::VecDeque;

use crate::model::RecordBatch;

/// The newest batches of one partition, oldest first, without a gap up to the high watermark.
#[derive(Debug, Default)]
pub(super) struct Tail {
    batches: VecDeque<RecordBatch>,
}

impl Tail {
    pub(super) fn push(&mut self, batch: RecordBatch) {
        self.batches.push_back(batch);
    }

    /// Drops the oldest batch.
    pub(super) fn evict_oldest(&mut self) {
        self.batches.pop_front();
        if self.batches.is_empty() {
            self.batches = VecDeque::new();
        }
    }

    /// Drops everything, so that later reads go to the store.
    pub(super) fn clear(&mut self) {
        self.batches = VecDeque::new();
    }

    /// Adds the batches from the one that holds `offset` on and before `end`, up to `max_bytes` but
    /// at least one, to `into`; `false` if the tail does not reach back to `offset`.
    ///
    /// `end` is the reader's high watermark: batches come here a moment before it moves.
    pub(super) fn read(
        &self,
        offset: u64,
        end: u64,
        max_bytes: usize,
        into: &mut Vec<RecordBatch>,
    ) -> bool {
        match self.batches.front() {
            Some(oldest) if oldest.base_offset() <= offset => {}
            _ => return false,
        }
        let from = self
            .batches
            .partition_point(|batch| batch.next_offset() <= offset);
        let mut bytes = 0;
        for batch in self.batches.range(from..) {
            let is_full = bytes > 0 && bytes + batch.len_bytes() > max_bytes;
            if is_full || batch.next_offset() > end {
                break;
            }
            bytes += batch.len_bytes();
            into.push(batch.clone());
        }
        true
    }
}
