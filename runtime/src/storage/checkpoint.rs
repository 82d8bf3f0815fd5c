//! A consistent copy of the store, taken while commits go on.

use std::path::Path;

use rocksdb::checkpoint::Checkpoint;

use super::{Error, Store};

impl Store {
    /// Takes a checkpoint: makes the folder, and in it a store of its own that holds every commit
    /// acknowledged before the call, and each later one as a whole or not at all. Commits go on
    /// meanwhile. [`ReadOnlyStore::open_checkpoint`](super::ReadOnlyStore::open_checkpoint) reads it.
    ///
    /// On the file system of the data directory the files that no longer change are shared by hard
    /// links, so that it takes milliseconds and no space, until the store drops files that the
    /// checkpoint still needs; elsewhere they are copied. Nothing is left of one that fails, but for
    /// the folder with `.tmp` behind its name if the process is killed: the next attempt removes that.
    ///
    /// It blocks: call it where a thread may wait for the disk.
    ///
    /// # Errors
    /// [`Error::Io`] if the folder exists; [`Error::Engine`]; [`Error::Poisoned`].
    pub fn checkpoint(&self, folder: &Path) -> Result<(), Error> {
        self.check_poisoned()?;
        if folder.exists() {
            let exists = std::io::Error::from(std::io::ErrorKind::AlreadyExists);
            return Err(Error::io("take a checkpoint in", folder)(exists));
        }
        // Memtables are flushed first. Without that the checkpoint would hold the whole write-ahead
        // log instead, and whoever opens it for reading would have to hold that in memory.
        Checkpoint::new(self.rocks())
            .and_then(|checkpoint| checkpoint.create_checkpoint(folder))
            .map_err(Error::engine("take a checkpoint"))
    }
}
