//! The files of the store, as they lie on the disk.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use super::{Error, Store, layout};

/// What the names of the write-ahead log's files end with.
const WAL_EXTENSION: &str = "log";

impl Store {
    /// Bytes of the write-ahead log's files. RocksDB tells how much it has written to them, and not how much is there.
    ///
    /// It looks at every file of the store: call it where a thread may wait for the disk.
    ///
    /// # Errors
    /// [`Error::Io`]
    pub fn wal_file_bytes(&self) -> Result<u64, Error> {
        let files = entries(&self.path().join(layout::STORE))?.into_iter();
        let is_wal = |name: &Path| name.extension().is_some_and(|it| it == WAL_EXTENSION);
        let of_wal = files.filter(|file| is_wal(file.name.as_ref()));
        Ok(of_wal.map(|file| file.len_bytes).sum())
    }
}

/// What lies in a folder.
pub(super) struct Entry {
    pub(super) name: std::ffi::OsString,
    pub(super) inode: u64,
    pub(super) len_bytes: u64,
}

/// What lies in a folder; nothing if it is not there. What is deleted meanwhile is left out.
pub(super) fn entries(folder: &Path) -> Result<Vec<Entry>, Error> {
    let listed = match fs::read_dir(folder) {
        Ok(listed) => listed,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Error::io("read", folder)(error)),
    };
    let mut entries = Vec::new();
    for entry in listed {
        let entry = entry.map_err(Error::io("read", folder))?;
        match entry.metadata() {
            Ok(metadata) => entries.push(Entry {
                name: entry.file_name(),
                inode: metadata.ino(),
                len_bytes: metadata.len(),
            }),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(Error::io("read", &entry.path())(error)),
        }
    }
    Ok(entries)
}
