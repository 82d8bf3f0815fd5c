//! The plainest queue on RocksDB, for `bench queue`: a put for each message, a delete for each
//! acknowledgement, and the place of the first message kept in memory.

use std::path::Path;

use rocksdb::{Options, WriteBatch, WriteOptions};

use super::Error;

/// Messages by number. Nothing is persisted of a lease.
pub struct PlainQueue {
    rocks: rocksdb::DB,
    sync: bool,
    first: u64,
    next: u64,
}

impl PlainQueue {
    /// Opens a queue in an empty folder; `sync` makes each write durable.
    ///
    /// # Errors
    /// [`Error::Engine`]
    pub fn open(path: &Path, sync: bool) -> Result<Self, Error> {
        let mut options = Options::default();
        options.create_if_missing(true);
        options.set_write_buffer_size(64 << 20);
        options.set_max_write_buffer_number(3);
        options.set_max_background_jobs(2);
        options.set_stats_dump_period_sec(0);
        options.set_compression_type(rocksdb::DBCompressionType::None);
        let rocks = rocksdb::DB::open(&options, path).map_err(Error::engine("open its files"))?;
        Ok(Self {
            rocks,
            sync,
            first: 0,
            next: 0,
        })
    }

    /// Puts messages.
    ///
    /// # Errors
    /// [`Error::Engine`]
    pub fn put(&mut self, value: &[u8], count: u64) -> Result<(), Error> {
        let mut batch = WriteBatch::default();
        for number in self.next..self.next + count {
            batch.put(number.to_be_bytes(), value);
        }
        self.next += count;
        self.write(batch)
    }

    /// Reads the first messages, and deletes them; returns how many there were.
    ///
    /// # Errors
    /// [`Error::Engine`]
    pub fn take(&mut self, count: u64) -> Result<u64, Error> {
        let mut iterator = self.rocks.raw_iterator();
        iterator.seek(self.first.to_be_bytes());
        let (mut batch, mut taken) = (WriteBatch::default(), 0);
        while let Some(key) = iterator.key().filter(|_| taken < count) {
            batch.delete(key);
            std::hint::black_box(iterator.value());
            taken += 1;
            iterator.next();
        }
        iterator.status().map_err(Error::engine("read messages"))?;
        drop(iterator);
        self.first += taken;
        self.write(batch)?;
        Ok(taken)
    }

    fn write(&self, batch: WriteBatch) -> Result<(), Error> {
        let mut options = WriteOptions::default();
        options.set_sync(self.sync);
        let written = self.rocks.write_opt(batch, &options);
        written.map_err(Error::engine("write messages"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_put_is_taken_once() {
        let folder = tempfile::tempdir().unwrap();
        let mut queue = PlainQueue::open(folder.path(), false).unwrap();
        queue.put(b"message", 10).unwrap();
        assert_eq!(queue.take(4).unwrap(), 4);
        assert_eq!(queue.take(10).unwrap(), 6);
        assert_eq!(queue.take(10).unwrap(), 0);
    }
}
