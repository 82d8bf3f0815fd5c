//! The data directory: the only module that names RocksDB.
//!
//! Reads go through [`Store`]; every change of anything is a [`Commit`] handed to the one commit
//! thread (`commit_thread.rs`), which coalesces what is waiting into one atomic write.

mod checkpoint;
mod commit;
mod commit_thread;
mod directory;
mod entries;
mod error;
mod failure;
mod files;
mod health;
pub mod layout;
pub mod open_files;
mod options;
mod outcome;
mod partition;
mod plain_queue;
mod queue_commit;
mod read_only;
mod reclaim;
pub mod schema;
pub mod schemes;
mod statistics;
mod store;
mod tail;
#[cfg(test)]
pub(crate) mod tests;

pub use commit::{Append, Commit, Committed, PendingCommit};
pub use directory::DATA_FORMAT;
pub use error::Error;
pub use failure::WriteFailure;
pub(crate) use failure::is_disk_full;
pub use health::{DEFAULT_MIN_FREE_DISK_BYTES, DiskSpace, Health};
pub use options::{Durability, StoreOptions};
pub use partition::{CleanMark, Partition};
pub use plain_queue::PlainQueue;
pub use read_only::ReadOnlyStore;
pub use statistics::{CommitStatistics, SyncStatistics};
pub(crate) use store::Step;
pub use store::{DiskUsage, Scan, Store, WriteStatistics};
