//! How the store is: whether it takes writes, and how much room there is.

use std::path::Path;

use super::{Error, Store, WriteFailure};

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

impl Store {
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
