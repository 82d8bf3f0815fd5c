//! Opens the data directory for a command.

use std::path::Path;

use super::GlobalArgs;
use super::exit::{NoDataDirectory, WayOut};
use crate::group::Groups;
use crate::log::Log;
use crate::model::Target;
use crate::queue::Queues;
use crate::storage::{Store, StoreOptions};

/// Whether a command may create the data directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    /// It must exist: a mistyped path is an error, and leaves no empty directory behind.
    Existing,
    /// It is created if it is missing.
    Create,
}

/// An open data directory; it is closed and unlocked when this is dropped.
pub(super) struct DataDirectory {
    /// Its topics.
    pub(super) log: Log,
    /// Its queues.
    pub(super) queues: Queues,
    /// Its consumer groups.
    pub(super) groups: Groups,
}

impl DataDirectory {
    /// Opens the data directory that the command was given.
    pub(super) fn open(global: &GlobalArgs, access: Access) -> anyhow::Result<Self> {
        Self::open_with(global, access, false)
    }

    /// As [`open`](Self::open); with `statistics` the store counts what it writes, for metrics.
    pub(super) fn open_with(
        global: &GlobalArgs,
        access: Access,
        statistics: bool,
    ) -> anyhow::Result<Self> {
        let path = &global.data_dir;
        if access == Access::Existing && is_missing(path) {
            return Err(NoDataDirectory {
                path: path.clone(),
                way_out: WayOut::Any,
            }
            .into());
        }
        let options = StoreOptions {
            durability: global.durability,
            statistics,
            ..StoreOptions::default()
        };
        let store = Store::open(path, options)?;
        let groups = Groups::new(store.clone());
        let queues = Queues::open(store.clone())?;
        let log = Log::open(store)?;
        Ok(Self {
            log,
            queues,
            groups,
        })
    }

    /// Whether there is such a topic or queue.
    pub(super) fn has(&self, target: &Target) -> bool {
        match target {
            Target::Topic(name) => self.log.topic(name).is_ok(),
            Target::Queue(name) => self.queues.queue(name).is_ok(),
        }
    }
}

/// Whether there is nothing: no folder, or an empty one. A folder of something else is not missing,
/// and the store says so.
pub(super) fn is_missing(path: &Path) -> bool {
    std::fs::read_dir(path).map_or(true, |mut entries| entries.next().is_none())
}
