//! Looks at everything that a data directory or a backup holds, and says what is wrong with it.
//!
//! Each entry of the store is read, so that RocksDB compares the checksums of its blocks and blob
//! files; then each is decoded, and compared with what the others say. Nothing is changed.

mod catalog;
mod deployed;
mod partitions;
mod place;
mod problem;
mod queues;
mod tasks;
#[cfg(test)]
mod tests;
mod walk;

use std::path::Path;

use serde::Serialize;

use crate::backup;
use crate::storage::{self, ReadOnlyStore, layout};

pub use problem::{Problem, ProblemKind, Problems};

/// What was looked at, and what is wrong.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    /// What there is.
    pub counts: Counts,
    /// What is wrong with it.
    #[serde(flatten)]
    pub problems: Problems,
}

/// How much there is of each kind.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Files of the backup.
    pub backup_files: u64,
    /// Topics, without those that were deleted.
    pub topics: u64,
    /// Queues, without those that were deleted.
    pub queues: u64,
    /// Partitions that have been written to, of topics and queues.
    pub partitions: u64,
    /// Record batches.
    pub batches: u64,
    /// Records in them.
    pub records: u64,
    /// Bytes of the batches.
    pub batch_bytes: u64,
    /// Committed offsets of groups.
    pub group_offsets: u64,
    /// Chunks of queues.
    pub queue_chunks: u64,
    /// Entries of deduplication ids.
    pub deduplication_entries: u64,
    /// Pipelines.
    pub pipelines: u64,
    /// Keys of pipelines' state.
    pub state_entries: u64,
    /// Checkpoints whose changes are not folded into the state yet.
    pub changelog_entries: u64,
    /// Records that wait to be tried again.
    pub parked_records: u64,
    /// Timers that have not fired.
    pub timers: u64,
    /// Plugins that were uploaded.
    pub plugins: u64,
    /// Components of their versions.
    pub components: u64,
    /// Manifests that were applied.
    pub manifests: u64,
    /// Deploys that are remembered.
    pub deploys: u64,
    /// Tokens that give access.
    pub tokens: u64,
}

/// Looks at a data directory that no process has open.
///
/// # Errors
/// Those of [`ReadOnlyStore::open`] that say nothing about the data: it is in use, or there is none.
pub fn data_directory(data_dir: &Path) -> Result<Report, storage::Error> {
    let mut report = Report::default();
    let components = &data_dir.join(layout::PLUGINS);
    match ReadOnlyStore::open(data_dir) {
        Ok(store) => look_at(&store, Some(components), &mut report),
        Err(error @ (storage::Error::Engine { .. } | storage::Error::Damaged { .. })) => {
            let rest = ReadOnlyStore::open_before_damage(data_dir);
            look_at_rest(rest.ok(), components, &error, &mut report);
        }
        Err(error) => return Err(error),
    }
    Ok(report)
}

/// Looks at a backup: its files, and what is in them.
///
/// # Errors
/// The folder is no backup, or of a later version.
pub fn backup(folder: &Path) -> Result<Report, backup::Error> {
    let mut report = Report::default();
    let (list, differences) = backup::check(folder)?;
    report.counts.backup_files = list.files.len() as u64;
    for reason in differences {
        report.problems.add(Problem::new(ProblemKind::File, reason));
    }
    let files = folder.join(layout::STORE);
    let components = &folder.join(layout::PLUGINS);
    match ReadOnlyStore::open_checkpoint(&files) {
        Ok(store) => look_at(&store, Some(components), &mut report),
        Err(error) => {
            let rest = ReadOnlyStore::open_checkpoint_before_damage(&files);
            look_at_rest(rest.ok(), components, &error, &mut report);
        }
    }
    Ok(report)
}

/// Looks at a store that is open for reading, such as a checkpoint of one that is written to; not at components, which
/// lie beside it.
pub fn store(store: &ReadOnlyStore) -> Report {
    let mut report = Report::default();
    look_at(store, None, &mut report);
    report
}

fn look_at(store: &ReadOnlyStore, components: Option<&Path>, report: &mut Report) {
    let catalog = catalog::read(store, components, report);
    partitions::look_at(store, &catalog, report);
    queues::look_at(store, &catalog, report);
    tasks::look_at(store, &catalog, report);
}

/// Looks at what can be opened of a damaged store, if anything can.
fn look_at_rest(
    rest: Option<ReadOnlyStore>,
    components: &Path,
    error: &storage::Error,
    report: &mut Report,
) {
    let Some(store) = rest else {
        let problem = Problem::new(ProblemKind::Store, error.to_string());
        return report.problems.add(problem);
    };
    let reason = format!("the write-ahead log is damaged: {error}");
    let problem = Problem::new(ProblemKind::WriteAheadLog, reason);
    report.problems.add(problem);
    look_at(&store, Some(components), report);
}
