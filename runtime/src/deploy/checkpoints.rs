//! Checkpoints of the store, one for each of the last deploys, to which a rollback can bring state back.

use std::fs;
use std::path::{Path, PathBuf};

use super::Error;
use crate::storage::{ReadOnlyStore, Store, layout};

/// Checkpoints that are kept: each holds on to the files that the store would drop otherwise.
const KEPT: usize = 3;

/// The folder of checkpoints.
#[derive(Debug)]
pub(super) struct Checkpoints {
    folder: PathBuf,
}

impl Checkpoints {
    pub(super) fn new(data_dir: &Path) -> Self {
        Self {
            folder: data_dir.join(layout::CHECKPOINTS),
        }
    }

    /// Takes the checkpoint of a deploy, and deletes the oldest ones but for those that are `needed`.
    pub(super) fn take(&self, store: &Store, id: u64, needed: &[u64]) -> Result<(), Error> {
        fs::create_dir_all(&self.folder).map_err(Error::io("create", &self.folder))?;
        // First, so that what they held on to is free.
        self.prune(KEPT - 1, needed)?;
        store.checkpoint(&self.path(id))?;
        Ok(())
    }

    /// Whether there is one of a deploy.
    pub(super) fn has(&self, id: u64) -> bool {
        self.path(id).is_dir()
    }

    pub(super) fn open(&self, id: u64) -> Result<ReadOnlyStore, Error> {
        // RocksDB makes the folder that it does not find.
        if !self.has(id) {
            let missing = std::io::Error::from(std::io::ErrorKind::NotFound);
            return Err(Error::io("read", &self.path(id))(missing));
        }
        Ok(ReadOnlyStore::open_checkpoint(&self.path(id))?)
    }

    /// Deletes all but the newest and the needed ones, and what was cut off.
    fn prune(&self, kept: usize, needed: &[u64]) -> Result<(), Error> {
        let mut ids = Vec::new();
        let entries = fs::read_dir(&self.folder).map_err(Error::io("read", &self.folder))?;
        for entry in entries {
            let path = entry.map_err(Error::io("read", &self.folder))?.path();
            let name = path.file_name().and_then(|name| name.to_str());
            match name.and_then(|name| name.parse::<u64>().ok()) {
                Some(id) if needed.contains(&id) => {}
                Some(id) => ids.push(id),
                None => fs::remove_dir_all(&path).map_err(Error::io("delete", &path))?,
            }
        }
        ids.sort_unstable();
        let surplus = ids.len().saturating_sub(kept);
        for id in ids.into_iter().take(surplus) {
            let path = self.path(id);
            fs::remove_dir_all(&path).map_err(Error::io("delete", &path))?;
        }
        Ok(())
    }

    fn path(&self, id: u64) -> PathBuf {
        self.folder.join(id.to_string())
    }
}
