//! What can go wrong in the data directory.

use std::path::PathBuf;

use super::{Partition, WriteFailure, failure};
use crate::model::Target;

/// An error of the data directory.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// Another process holds the data directory.
    #[error(
        "the data directory {path} is in use by another process{holder}; stop it, or use another --data-dir"
    )]
    Locked {
        /// The data directory.
        path: PathBuf,
        /// ` (pid N)` if the holder left its process id, else empty.
        holder: String,
    },
    /// The directory was written by a version of Millstream with another format.
    #[error(
        "the data directory {path} has format {found}, this version of millstream reads format {supported}; use the version that wrote it"
    )]
    OtherFormat {
        /// The data directory.
        path: PathBuf,
        /// The format found.
        found: u32,
        /// The format that this version reads.
        supported: u32,
    },
    /// The directory holds files, but no Millstream data.
    #[error(
        "{path} is not a millstream data directory: it holds other files and no FORMAT file; use an empty or a new folder"
    )]
    NotADataDirectory {
        /// The folder.
        path: PathBuf,
    },
    /// A file of the directory could not be read or written.
    #[error("cannot {action} {path}: {reason}")]
    Io {
        /// What was attempted.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's message.
        reason: String,
    },
    /// RocksDB reported an error on a read.
    #[error("the store failed to {action}: {reason}")]
    Engine {
        /// What was attempted.
        action: &'static str,
        /// RocksDB's message.
        reason: String,
    },
    /// A write or a sync failed; nothing is written any more.
    #[error(
        "the store stopped accepting writes after a failed write: {reason}; nothing acknowledged is lost, and reading goes on; {advice}"
    )]
    Poisoned {
        /// The first failure.
        reason: String,
        /// What to do about it.
        advice: String,
    },
    /// Stored bytes are not what they should be.
    #[error("stored data is damaged: {what}: {reason}")]
    Damaged {
        /// Which entry.
        what: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A topic or queue of a read or of a commit has been deleted; nothing of the commit is stored.
    #[error("{}", deleted_text(target, *partition))]
    PartitionDeleted {
        /// The topic or queue.
        target: Target,
        /// The partition that was to be read or written to; 0 for a queue.
        partition: u32,
    },
    /// A commit is larger than the store takes in one piece.
    #[error("a commit of {bytes} bytes is larger than the limit of {limit} bytes")]
    CommitTooLarge {
        /// Its size.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// An offset that is before the start or after the end of a partition.
    #[error(
        "offset {offset} is out of range: the partition holds offsets {start} up to, not including, {end}"
    )]
    OffsetOutOfRange {
        /// The offset asked for.
        offset: u64,
        /// The first offset held.
        start: u64,
        /// The high watermark.
        end: u64,
    },
    /// The store is shutting down.
    #[error("the store is closed")]
    Closed,
}

impl From<WriteFailure> for Error {
    fn from(failure: WriteFailure) -> Self {
        Self::Poisoned {
            reason: failure.reason,
            advice: failure.advice,
        }
    }
}

impl Error {
    /// That a partition has been deleted.
    pub(crate) fn deleted(partition: &Partition) -> Self {
        Self::PartitionDeleted {
            target: partition.target().clone(),
            partition: partition.index(),
        }
    }

    pub(super) fn engine(action: &'static str) -> impl FnOnce(rocksdb::Error) -> Error {
        move |error| {
            let mut reason = error.into_string();
            reason.push_str(failure::hint(&reason));
            Error::Engine { action, reason }
        }
    }

    pub(super) fn io(
        action: &'static str,
        path: &std::path::Path,
    ) -> impl FnOnce(std::io::Error) -> Error {
        let path = path.to_owned();
        move |error| Error::Io {
            action,
            path,
            reason: error.to_string(),
        }
    }
}

fn deleted_text(target: &Target, partition: u32) -> String {
    match target {
        Target::Topic(name) => format!(
            "the topic `{name}` has been deleted, of which partition {partition} was to be read or written to"
        ),
        Target::Queue(name) => format!("the queue `{name}` has been deleted"),
    }
}
