//! How the store is: whether it takes writes, and how much room there is.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use super::{Error, Store, WriteFailure};
use crate::clock::Stopwatch;

/// Free bytes on the disk of the data directory below which it runs low, if nothing else is said.
pub const DEFAULT_MIN_FREE_DISK_BYTES: u64 = 256 << 20;
/// How often the system is asked at most how much room there is.
const ASK_EVERY: Duration = Duration::from_secs(1);

/// How an open store is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// The failed write after which it takes no others; `None` if it takes writes.
    pub failure: Option<WriteFailure>,
    /// Flushes and compactions that have failed since it was opened. RocksDB tries again by itself, or
    /// the next write fails.
    pub background_error_count: u64,
    /// Room on the file system of the data directory; `None` if it cannot be told.
    pub disk: Option<DiskSpace>,
}

/// Room on a file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskSpace {
    /// Bytes that this process may still write.
    pub free_bytes: u64,
    /// Bytes of the file system.
    pub total_bytes: u64,
}

impl DiskSpace {
    /// The room on the file system that a path lies on.
    ///
    /// # Errors
    /// [`Error::Io`]
    pub fn of(path: &Path) -> Result<Self, Error> {
        let found = rustix::fs::statvfs(path).map_err(|error| {
            Error::io("ask for the room of the file system of", path)(error.into())
        })?;
        Ok(Self {
            free_bytes: found.f_bavail.saturating_mul(found.f_frsize),
            total_bytes: found.f_blocks.saturating_mul(found.f_frsize),
        })
    }
}

/// Whether the disk runs low, for those who ask all the time.
pub(super) struct FreeDisk {
    min_free_bytes: AtomicU64,
    is_low: AtomicBool,
    /// When the system is asked again, in ns since `opened`.
    ask_at_ns: AtomicU64,
    opened: Stopwatch,
}

impl Default for FreeDisk {
    fn default() -> Self {
        Self {
            min_free_bytes: AtomicU64::new(DEFAULT_MIN_FREE_DISK_BYTES),
            is_low: AtomicBool::new(false),
            ask_at_ns: AtomicU64::new(0),
            opened: Stopwatch::start(),
        }
    }
}

impl FreeDisk {
    fn keep(&self, bytes: u64) {
        self.min_free_bytes.store(bytes, Ordering::Relaxed);
        self.ask_at_ns.store(0, Ordering::Relaxed);
    }

    fn is_low(&self, path: &Path) -> bool {
        let now_ns = self.opened.elapsed_ns();
        if now_ns >= self.ask_at_ns.load(Ordering::Relaxed) {
            let ask_at_ns = now_ns + ASK_EVERY.as_nanos() as u64;
            self.ask_at_ns.store(ask_at_ns, Ordering::Relaxed);
            let is_low = self.ask(path);
            self.is_low.store(is_low, Ordering::Relaxed);
        }
        self.is_low.load(Ordering::Relaxed)
    }

    fn ask(&self, path: &Path) -> bool {
        // Tests need not fill a disk.
        fail::fail_point!("disk::is-low", |_| true);
        let min_free_bytes = self.min_free_bytes.load(Ordering::Relaxed);
        // A little more than that before it counts as having room again: not one turn after the other.
        let enough_bytes = match self.is_low.load(Ordering::Relaxed) {
            true => min_free_bytes.saturating_add(min_free_bytes / 8),
            false => min_free_bytes,
        };
        let space = DiskSpace::of(path);
        space.is_ok_and(|space| space.free_bytes < enough_bytes)
    }
}

impl Store {
    /// Says below how many free bytes its disk runs low; [`DEFAULT_MIN_FREE_DISK_BYTES`] without.
    pub fn keep_free_disk(&self, bytes: u64) {
        self.free_disk().keep(bytes);
    }

    /// Whether its disk runs low, as of a second ago at most; no, if that cannot be told. For every batch to ask.
    pub fn is_disk_low(&self) -> bool {
        self.free_disk().is_low(self.path())
    }

    /// How the store is now. Cheap: no file is read.
    pub fn health(&self) -> Health {
        let errors = self.rocks().property_int_value("rocksdb.background-errors");
        Health {
            failure: self.write_failure().cloned(),
            background_error_count: errors.ok().flatten().unwrap_or(0),
            disk: DiskSpace::of(self.path()).ok(),
        }
    }
}
