//! Reads messages by offset. Batches that are read again soon, since a lease took a part of them, are
//! kept: at most [`CACHE_BYTES`], those that were used last, and nothing of a batch that was read to its end.

use std::collections::BTreeMap;

use super::Error;
use super::message::Stored;
use super::shared::Queue;
use crate::model::{RecordBatch, RecordPosition, Records};
use crate::storage::{self, Partition, Store};

/// Bytes of batches kept; a larger one is kept alone.
const CACHE_BYTES: usize = 1 << 20;
/// Bytes read ahead while messages are read in order.
const READ_AHEAD_BYTES: usize = 256 << 10;

/// Messages that are read before their bytes are counted: the largest are 8 MiB each.
const READ_MESSAGES: usize = 32;

/// Batches of a queue by base offset.
#[derive(Debug, Default)]
pub(super) struct Reader {
    batches: BTreeMap<u64, Batch>,
    /// The base offsets of the batches by their last use: the lowest may be those that are read now, when messages of
    /// a low priority come after many of a higher one.
    by_use: BTreeMap<u64, u64>,
    next_use: u64,
    bytes: usize,
    /// Where the last read from the store ended.
    read_to: u64,
}

#[derive(Debug)]
struct Batch {
    records: Records,
    next_offset: u64,
    len_bytes: usize,
    last_use: u64,
    /// The first record that was not passed yet, and where it lies.
    resume_offset: u64,
    resume: RecordPosition,
}

impl Reader {
    /// Reads messages; the offsets can be in any order, ascending ones are fast.
    ///
    /// # Errors
    /// [`Error::Storage`] also if one of them is not stored.
    pub(super) fn read(
        &mut self,
        store: &Store,
        partition: &Partition,
        offsets: impl ExactSizeIterator<Item = u64>,
    ) -> Result<Vec<Stored>, Error> {
        let mut wanted: Vec<(u64, usize)> = offsets.zip(0..).collect();
        let is_sorted = wanted.is_sorted();
        if !is_sorted {
            wanted.sort_unstable();
        }
        let mut found = Vec::with_capacity(wanted.len());
        for (offset, at) in &wanted {
            found.push((*at, self.read_one(store, partition, *offset)?));
        }
        if !is_sorted {
            found.sort_unstable_by_key(|(at, _)| *at);
        }
        self.evict();
        Ok(found.into_iter().map(|(_, stored)| stored).collect())
    }

    /// Keeps nothing.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    fn read_one(
        &mut self,
        store: &Store,
        partition: &Partition,
        offset: u64,
    ) -> Result<Stored, Error> {
        let is_known = |batches: &BTreeMap<u64, Batch>| {
            let batch = batches.range(..=offset).next_back();
            batch.is_some_and(|(_, batch)| offset < batch.next_offset)
        };
        if !is_known(&self.batches) {
            self.fetch(store, partition, offset)?;
        }
        let missing = || storage::Error::Damaged {
            what: format!("message {offset} of queue id {}", partition.topic_id()),
            reason: "it is not stored".to_owned(),
        };
        let (base, batch) = self
            .batches
            .range_mut(..=offset)
            .next_back()
            .filter(|(_, batch)| offset < batch.next_offset)
            .ok_or_else(missing)?;
        if batch.last_use + 1 < self.next_use {
            self.by_use.remove(&batch.last_use);
            self.by_use.insert(self.next_use, *base);
            batch.last_use = self.next_use;
            self.next_use += 1;
        }
        let stored = batch.find(offset)?.ok_or_else(missing)?;
        if batch.resume_offset == batch.next_offset {
            let base = *base;
            self.remove(base);
        }
        Ok(stored)
    }

    fn fetch(&mut self, store: &Store, partition: &Partition, offset: u64) -> Result<(), Error> {
        let max_bytes = if offset == self.read_to {
            READ_AHEAD_BYTES
        } else {
            1
        };
        for batch in store.read(partition, offset, max_bytes)? {
            self.read_to = batch.next_offset();
            self.add(&batch)?;
        }
        Ok(())
    }

    fn add(&mut self, batch: &RecordBatch) -> Result<(), Error> {
        let base = batch.base_offset();
        self.remove(base);
        self.bytes += batch.len_bytes();
        let batch = Batch {
            records: batch.records()?,
            next_offset: batch.next_offset(),
            len_bytes: batch.len_bytes(),
            last_use: self.next_use,
            resume_offset: base,
            resume: RecordPosition::default(),
        };
        self.batches.insert(base, batch);
        self.by_use.insert(self.next_use, base);
        self.next_use += 1;
        Ok(())
    }

    fn remove(&mut self, base_offset: u64) {
        if let Some(batch) = self.batches.remove(&base_offset) {
            self.by_use.remove(&batch.last_use);
            self.bytes -= batch.len_bytes;
        }
    }

    fn evict(&mut self) {
        while self.bytes > CACHE_BYTES && self.batches.len() > 1 {
            let Some((_, base)) = self.by_use.first_key_value() else {
                return;
            };
            self.remove(*base);
        }
    }
}

impl Queue {
    /// Reads messages in the order of the offsets.
    pub(super) fn read(
        &self,
        offsets: impl ExactSizeIterator<Item = u64>,
    ) -> Result<Vec<Stored>, Error> {
        let mut reader = self.state.reader.lock();
        reader.read(&self.store, self.partition(), offsets)
    }

    /// Reads messages in the order of the offsets until they are too many bytes, but one in any case.
    pub(super) fn read_up_to(
        &self,
        offsets: &[u64],
        max_bytes: usize,
    ) -> Result<Vec<Stored>, Error> {
        let (mut kept, mut bytes) = (Vec::with_capacity(offsets.len()), 0_usize);
        for some in offsets.chunks(READ_MESSAGES) {
            for message in self.read(some.iter().copied())? {
                bytes = bytes.saturating_add(message.size_bytes);
                if bytes > max_bytes && !kept.is_empty() {
                    return Ok(kept);
                }
                kept.push(message);
            }
        }
        Ok(kept)
    }
}

impl Batch {
    /// The message with this offset; `None` if there is none.
    fn find(&mut self, offset: u64) -> Result<Option<Stored>, Error> {
        let from = if self.resume_offset <= offset {
            self.resume
        } else {
            RecordPosition::default()
        };
        let mut iterator = self.records.resume(from);
        loop {
            let position = iterator.position();
            let Some(record) = iterator.next().transpose()? else {
                return Ok(None);
            };
            if record.offset < offset {
                continue;
            }
            if record.offset > offset {
                return Ok(None);
            }
            let size_bytes = record.size_bytes();
            if offset >= self.resume_offset {
                self.resume_offset = offset + 1;
                self.resume = iterator.position();
            }
            return Ok(Some(Stored {
                records: self.records.clone(),
                position,
                size_bytes,
            }));
        }
    }
}
