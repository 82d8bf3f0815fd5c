//! A consistent copy of the store, taken while commits go on.

use std::path::Path;

use hashbrown::HashSet;
use rocksdb::checkpoint::Checkpoint;

use super::files::entries;
use super::{Error, Store, layout};

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

    /// Bytes on disk that only the checkpoints in the data directory still need: the store has dropped these files, or
    /// never had them.
    ///
    /// It looks at every file if there are checkpoints: call it where a thread may wait for the disk.
    ///
    /// # Errors
    /// [`Error::Io`]
    pub fn checkpoint_bytes(&self) -> Result<u64, Error> {
        let folder = self.path().join(layout::CHECKPOINTS);
        let checkpoints = entries(&folder)?;
        if checkpoints.is_empty() {
            return Ok(0);
        }
        let own = entries(&self.path().join(layout::STORE))?.into_iter();
        let mut known: HashSet<u64> = own.map(|file| file.inode).collect();
        let mut bytes = 0;
        for checkpoint in checkpoints {
            for file in entries(&folder.join(&checkpoint.name))? {
                if known.insert(file.inode) {
                    bytes += file.len_bytes;
                }
            }
        }
        Ok(bytes)
    }
}
