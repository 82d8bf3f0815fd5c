//! Compaction schemes for the log, side by side on the same load; for `bench log --schemes`.
//!
//! The store itself uses [`Scheme::Blob`] (`store.rs`). The others are here so that the choice can
//! be measured again on another machine or with another version of RocksDB. Everything but the
//! scheme is as in the store.

use std::path::Path;

use rocksdb::{
    BlockBasedOptions, Cache, CompactOptions, DBCompactionStyle, DBCompressionType,
    FifoCompactOptions, Options, ReadOptions, WaitForCompactOptions, WriteBatch,
};

use super::schema::batch as batch_key;
use super::store::{BACKGROUND_THREADS, MEMTABLES, TEXT_OPTIONS};
use super::{DiskUsage, Error, WriteStatistics};

type Rocks = rocksdb::DBWithThreadMode<rocksdb::MultiThreaded>;

/// The topic whose batches are written.
const TOPIC_ID: u32 = 0;

/// How RocksDB keeps the log's batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// Batches in blob files, leveled compaction of their keys.
    Blob,
    /// Leveled compaction.
    Leveled,
    /// Universal compaction.
    Universal,
    /// First in, first out: no compaction, the oldest files go when the family is too large.
    Fifo,
}

impl Scheme {
    /// All schemes.
    pub const ALL: [Scheme; 4] = [
        Scheme::Blob,
        Scheme::Leveled,
        Scheme::Universal,
        Scheme::Fifo,
    ];

    /// The scheme's name.
    pub const fn name(self) -> &'static str {
        match self {
            Scheme::Blob => "blob files",
            Scheme::Leveled => "leveled",
            Scheme::Universal => "universal",
            Scheme::Fifo => "FIFO",
        }
    }

    /// Whether the space of a deleted partition can be had back: FIFO only drops whole files by age.
    pub const fn frees_ranges(self) -> bool {
        !matches!(self, Scheme::Fifo)
    }

    fn options(self, memtable_bytes: usize) -> Options {
        let mut table = BlockBasedOptions::default();
        table.set_block_cache(&Cache::new_lru_cache(64 << 20));
        table.set_cache_index_and_filter_blocks(true);
        let mut options = Options::default();
        options.create_if_missing(true);
        options.set_max_background_jobs(BACKGROUND_THREADS);
        options.set_bytes_per_sync(8 << 20);
        options.set_stats_dump_period_sec(0);
        options.enable_statistics();
        options.set_block_based_table_factory(&table);
        options.set_compression_type(DBCompressionType::None);
        options.set_write_buffer_size(memtable_bytes);
        options.set_max_write_buffer_number(MEMTABLES);
        match self {
            Scheme::Blob => {
                options.set_enable_blob_files(true);
                options.set_min_blob_size(4 << 10);
                options.set_blob_file_size(256 << 20);
                options.set_blob_compression_type(DBCompressionType::None);
                options.set_enable_blob_gc(false);
            }
            Scheme::Leveled => {}
            Scheme::Universal => options.set_compaction_style(DBCompactionStyle::Universal),
            Scheme::Fifo => {
                let mut fifo = FifoCompactOptions::default();
                fifo.set_max_table_files_size(1 << 40);
                options.set_compaction_style(DBCompactionStyle::Fifo);
                options.set_fifo_compaction_options(&fifo);
            }
        }
        options
    }
}

/// A batch to write, and where.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    /// The partition.
    pub partition: u32,
    /// The batch's base offset.
    pub base_offset: u64,
    /// The batch.
    pub bytes: &'a [u8],
}

/// A database that holds batches under one scheme.
pub struct SchemeLog {
    rocks: Rocks,
    options: Options,
}

impl SchemeLog {
    /// Opens, or creates, a database in a folder.
    ///
    /// # Errors
    /// [`Error::Engine`]
    pub fn open(path: &Path, scheme: Scheme, memtable_bytes: usize) -> Result<Self, Error> {
        let complete = scheme
            .options(memtable_bytes)
            .get_options_from_string(TEXT_OPTIONS);
        let options = complete.map_err(Error::engine("set options"))?;
        let rocks = Rocks::open(&options, path).map_err(Error::engine("open its files"))?;
        Ok(Self { rocks, options })
    }

    /// Writes batches at once, without a sync.
    ///
    /// # Errors
    /// [`Error::Engine`]
    pub fn append(&self, entries: &[Entry<'_>]) -> Result<(), Error> {
        let mut batch = WriteBatch::default();
        for entry in entries {
            let key = batch_key::key(TOPIC_ID, entry.partition, entry.base_offset);
            batch.put(key, entry.bytes);
        }
        self.rocks.write(batch).map_err(Error::engine("write"))
    }

    /// Flushes the memtable and waits until no compaction is due.
    ///
    /// # Errors
    /// [`Error::Engine`]
    pub fn settle(&self) -> Result<(), Error> {
        self.rocks.flush().map_err(Error::engine("flush"))?;
        self.rocks
            .wait_for_compact(&WaitForCompactOptions::default())
            .map_err(Error::engine("compact"))
    }

    /// Visits the batches of a partition in order.
    ///
    /// # Errors
    /// [`Error::Engine`]
    pub fn scan(&self, partition: u32, mut visit: impl FnMut(&[u8])) -> Result<(), Error> {
        let mut options = ReadOptions::default();
        options.set_iterate_upper_bound(batch_key::key(TOPIC_ID, partition, u64::MAX));
        options.set_readahead_size(2 << 20);
        options.fill_cache(false);
        let mut iterator = self.rocks.raw_iterator_opt(options);
        iterator.seek(batch_key::key(TOPIC_ID, partition, 0));
        while let Some(value) = iterator.value() {
            visit(value);
            iterator.next();
        }
        iterator.status().map_err(Error::engine("scan"))
    }

    /// Deletes the batches of a partition below an offset, and gives their space back.
    ///
    /// # Errors
    /// [`Error::Engine`]
    pub fn delete(&self, partition: u32, below_offset: u64) -> Result<(), Error> {
        let from = batch_key::key(TOPIC_ID, partition, 0);
        let to = batch_key::key(TOPIC_ID, partition, below_offset);
        let mut batch = WriteBatch::default();
        batch.delete_range(from, to);
        self.rocks
            .write(batch)
            .map_err(Error::engine("delete a range"))?;
        self.rocks
            .compact_range_opt(Some(from), Some(to), &CompactOptions::default());
        self.settle()
    }

    /// Bytes on disk.
    ///
    /// # Errors
    /// [`Error::Engine`]
    pub fn disk_usage(&self) -> Result<DiskUsage, Error> {
        let property = |name: &str| -> Result<u64, Error> {
            let value = self.rocks.property_int_value(name);
            Ok(value
                .map_err(Error::engine("read a property"))?
                .unwrap_or(0))
        };
        Ok(DiskUsage {
            table_bytes: property("rocksdb.total-sst-files-size")?,
            blob_bytes: property("rocksdb.total-blob-file-size")?,
        })
    }

    /// What has been written since the database was opened.
    pub fn write_statistics(&self) -> WriteStatistics {
        use rocksdb::statistics::Ticker;
        WriteStatistics {
            wal_bytes: self.options.get_ticker_count(Ticker::WalFileBytes),
            flush_bytes: self.options.get_ticker_count(Ticker::FlushWriteBytes),
            compaction_bytes: self.options.get_ticker_count(Ticker::CompactWriteBytes),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_scheme_keeps_what_was_written_and_deletes_what_it_can() {
        for scheme in Scheme::ALL {
            let folder = tempfile::tempdir().unwrap();
            let log = SchemeLog::open(folder.path(), scheme, 1 << 20).unwrap();
            let bytes = vec![7; 60_000];
            for base_offset in (0..100).map(|number| number * 512) {
                let entry = |partition| Entry {
                    partition,
                    base_offset,
                    bytes: &bytes,
                };
                log.append(&[entry(0), entry(1)]).unwrap();
            }
            log.settle().unwrap();
            let count = |partition| {
                let mut count = 0;
                log.scan(partition, |batch| count += usize::from(batch == bytes))
                    .unwrap();
                count
            };
            assert_eq!((count(0), count(1)), (100, 100), "{}", scheme.name());
            let written = log.write_statistics();
            assert!(written.wal_bytes >= 12_000_000, "{written:?}");
            let before = log.disk_usage().unwrap();
            log.delete(0, 50 * 512).unwrap();
            assert_eq!((count(0), count(1)), (50, 100), "{}", scheme.name());
            let after = log.disk_usage().unwrap();
            let total = |usage: DiskUsage| usage.table_bytes + usage.blob_bytes;
            assert_eq!(
                total(after) < total(before),
                scheme.frees_ranges(),
                "{}",
                scheme.name()
            );
        }
    }
}
