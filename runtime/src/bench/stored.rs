//! What every benchmark takes that stores data.

use std::path::PathBuf;

use super::scratch;
use crate::storage::{Durability, StoreOptions};

/// How often and where to, and how durably.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct StoredArgs {
    /// Durability
    #[arg(long, value_name = "D", default_value_t = Durability::Os)]
    pub(super) durability: Durability,
    /// Rounds
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) rounds: u32,
    /// Folder for the data, on a disk; default: the system's for temporary files
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

impl StoredArgs {
    /// The folder for the data of all runs.
    ///
    /// # Errors
    /// It lies in memory, or there is none.
    pub(super) fn parent(&self) -> anyhow::Result<PathBuf> {
        scratch::parent(self.dir.as_deref())
    }

    /// How the stores are opened.
    pub(super) fn options(&self) -> StoreOptions {
        StoreOptions {
            durability: self.durability,
            ..StoreOptions::default()
        }
    }
}
