//! A store that is read and never changed: a checkpoint, or a data directory that nobody has open.

use std::path::Path;

use bytes::Bytes;
use rocksdb::{DBRecoveryMode, ReadOptions};

use super::directory::Directory;
use super::entries::{self, Rocks};
use super::schema::{KeyKind, Region, kind_prefix, prefix_end};
use super::store::rocks_options;
use super::{Error, Scan, StoreOptions};

/// Bytes of the block cache: what is read here is read once.
const CACHE_BYTES: usize = 8 << 20;
/// Bytes that a scan reads ahead.
const READAHEAD_BYTES: usize = 2 << 20;

/// A store that is open for reading only. Nothing on disk is changed by it.
pub struct ReadOnlyStore {
    rocks: Rocks,
    /// Held so that nobody changes the files meanwhile; a checkpoint needs none.
    _directory: Option<Directory>,
}

/// What to do with a write-ahead log that is damaged elsewhere than at its end.
#[derive(Clone, Copy)]
enum DamagedLog {
    Refuse,
    LeaveOutRest,
}

impl ReadOnlyStore {
    /// Opens the folder that [`Store::checkpoint`](super::Store::checkpoint) made. Several may have it
    /// open at a time.
    ///
    /// # Errors
    /// [`Error::Engine`] if it is none, or damaged.
    pub fn open_checkpoint(folder: &Path) -> Result<Self, Error> {
        Self::open_files(folder, None, DamagedLog::Refuse)
    }

    /// As [`open_checkpoint`](Self::open_checkpoint), but without what lies behind a damaged place of the
    /// write-ahead log.
    ///
    /// # Errors
    /// As `open_checkpoint`, but for damage of the write-ahead log.
    pub fn open_checkpoint_before_damage(folder: &Path) -> Result<Self, Error> {
        Self::open_files(folder, None, DamagedLog::LeaveOutRest)
    }

    /// Opens a data directory and locks it, as [`Store::open`](super::Store::open) does.
    ///
    /// # Errors
    /// As `Store::open`; [`Error::Io`] if there is none; [`Error::Engine`] also for damage of the
    /// write-ahead log, of which `Store::open` leaves out what lies behind it.
    pub fn open(data_dir: &Path) -> Result<Self, Error> {
        let directory = Directory::open_existing(data_dir)?;
        let files = directory.store_path();
        Self::open_files(&files, Some(directory), DamagedLog::Refuse)
    }

    /// As [`open`](Self::open), but without what lies behind a damaged place of the write-ahead log.
    ///
    /// # Errors
    /// As `Store::open`; [`Error::Io`] if there is none.
    pub fn open_before_damage(data_dir: &Path) -> Result<Self, Error> {
        let directory = Directory::open_existing(data_dir)?;
        let files = directory.store_path();
        Self::open_files(&files, Some(directory), DamagedLog::LeaveOutRest)
    }

    fn open_files(
        folder: &Path,
        directory: Option<Directory>,
        damaged_log: DamagedLog,
    ) -> Result<Self, Error> {
        let options = StoreOptions {
            block_cache_bytes: CACHE_BYTES,
            ..StoreOptions::default()
        };
        let mut db_options = rocks_options(&options)?;
        db_options.create_if_missing(false);
        db_options.set_wal_recovery_mode(match damaged_log {
            // The last record may be cut off: it was never acknowledged.
            DamagedLog::Refuse => DBRecoveryMode::TolerateCorruptedTailRecords,
            DamagedLog::LeaveOutRest => DBRecoveryMode::PointInTime,
        });
        let rocks = Rocks::open_for_read_only(&db_options, folder, false)
            .map_err(Error::engine("open its files"))?;
        Ok(Self {
            rocks,
            _directory: directory,
        })
    }

    /// The value of a key.
    ///
    /// # Errors
    /// [`Error::Engine`]
    pub fn get(&self, kind: KeyKind, key: &[u8]) -> Result<Option<Bytes>, Error> {
        entries::get(&self.rocks, kind, key)
    }

    /// Visits the entries of a kind with `from <= key`, and `key < to` if given, in order.
    ///
    /// # Errors
    /// [`Error::Engine`], and those of `visit`.
    pub fn scan(
        &self,
        kind: KeyKind,
        from: &[u8],
        to: Option<&[u8]>,
        visit: impl FnMut(&[u8], &[u8]) -> Result<Scan, Error>,
    ) -> Result<(), Error> {
        entries::scan(&self.rocks, kind, from, to, read_options(), visit)
    }

    /// Visits all entries of a kind, in order.
    ///
    /// # Errors
    /// [`Error::Engine`], and those of `visit`.
    pub fn scan_kind(
        &self,
        kind: KeyKind,
        visit: impl FnMut(&[u8], &[u8]) -> Result<Scan, Error>,
    ) -> Result<(), Error> {
        self.scan(kind, &kind_prefix(kind), None, visit)
    }

    /// Visits the entries of a region with `from <= key`, of whatever kind, in order. RocksDB compares
    /// the checksum of everything that it reads.
    ///
    /// # Errors
    /// [`Error::Engine`], and those of `visit`.
    pub fn scan_region(
        &self,
        region: Region,
        from: &[u8],
        visit: impl FnMut(&[u8], &[u8]) -> Result<Scan, Error>,
    ) -> Result<(), Error> {
        entries::scan_region(&self.rocks, region, from, read_options(), visit)
    }

    /// Visits the entries of a kind whose key starts with `prefix` (the kind's code included), in
    /// order.
    ///
    /// # Errors
    /// [`Error::Engine`], and those of `visit`.
    pub fn scan_prefix(
        &self,
        kind: KeyKind,
        prefix: &[u8],
        visit: impl FnMut(&[u8], &[u8]) -> Result<Scan, Error>,
    ) -> Result<(), Error> {
        self.scan(kind, prefix, prefix_end(prefix).as_deref(), visit)
    }
}

/// What is read here is read once, and in order.
fn read_options() -> ReadOptions {
    let mut options = ReadOptions::default();
    options.set_readahead_size(READAHEAD_BYTES);
    options.fill_cache(false);
    options
}
