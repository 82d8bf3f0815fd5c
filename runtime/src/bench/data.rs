//! The data directory of a run.

use std::path::Path;

use tokio::task::block_in_place;

use crate::group::Groups;
use crate::log::Log;
use crate::queue::Queues;
use crate::storage::{Store, StoreOptions};

/// An open data directory: what pipelines need of one.
pub(super) struct Data {
    pub(super) log: Log,
    pub(super) queues: Queues,
    pub(super) groups: Groups,
}

impl Data {
    /// Opens the folder `data` in the folder of a run.
    pub(super) fn open(folder: &Path, options: StoreOptions) -> anyhow::Result<Self> {
        let store = block_in_place(|| Store::open(&folder.join("data"), options))?;
        let groups = Groups::new(store.clone());
        let queues = Queues::open(store.clone())?;
        let log = Log::open(store)?;
        Ok(Self {
            log,
            queues,
            groups,
        })
    }
}
