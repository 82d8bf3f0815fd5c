//! What can go wrong with a backup.

use std::path::{Path, PathBuf};

use crate::storage;

/// An error of a backup or a restore.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store could not be copied, or what was restored is none.
    #[error(transparent)]
    Store(#[from] storage::Error),
    /// A file or folder could not be read or written.
    #[error("cannot {action} {path}: {reason}")]
    Io {
        /// What was attempted.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's message.
        reason: String,
    },
    /// There is something where the backup is to be.
    #[error(
        "{path} exists already, and a backup is not put over anything; name a folder that does not exist"
    )]
    Exists {
        /// The folder.
        path: PathBuf,
    },
    /// There is something where the data directory is to be.
    #[error(
        "{path} is not empty, and nothing is restored over existing data; name another --data-dir, or move it out of the way"
    )]
    NotEmpty {
        /// The data directory.
        path: PathBuf,
    },
    /// A backup would lie in the directory that it is taken of.
    #[error("{path} is in the data directory itself; name a folder outside of it")]
    Inside {
        /// The folder.
        path: PathBuf,
    },
    /// The data directory would lie in the backup that it is made of.
    #[error("{path} is in the backup itself, which stays as it is; name another --data-dir")]
    InsideBackup {
        /// The data directory.
        path: PathBuf,
    },
    /// The data directory is named by a symbolic link.
    #[error("{path} is a symbolic link; name the folder that it leads to, or remove it")]
    Link {
        /// The link.
        path: PathBuf,
    },
    /// Another process writes to the same place.
    #[error("another process is writing to {path}; wait for it to end, or use another folder")]
    InProgress {
        /// The folder.
        path: PathBuf,
    },
    /// Somebody's own file or folder has the name under which the folder is put together.
    #[error(
        "{path} is there, and millstream cannot tell that it was left by a backup or a restore; look what it is, and move it away or delete it"
    )]
    InTheWay {
        /// The file or folder.
        path: PathBuf,
    },
    /// The name is one under which folders are put together.
    #[error(
        "{path} ends in `{suffix}`, as what is being put together does; give the folder another name"
    )]
    Reserved {
        /// The folder.
        path: PathBuf,
        /// The end of its name.
        suffix: &'static str,
    },
    /// The folder holds no backup.
    #[error(
        "{path} is no backup of millstream: {reason}; name a folder that `millstream backup` made"
    )]
    NotABackup {
        /// The folder.
        path: PathBuf,
        /// What is missing or wrong.
        reason: String,
    },
    /// A version took the backup that writes another format.
    #[error(
        "the backup {path} has {what} {found}, this version of millstream reads {supported}; use the version that took it ({taken_by})"
    )]
    OtherFormat {
        /// The backup.
        path: PathBuf,
        /// Which format.
        what: &'static str,
        /// The format found.
        found: u32,
        /// The one that this version reads.
        supported: u32,
        /// The version of millstream that took it.
        taken_by: String,
    },
    /// Files of the backup are not what they were.
    #[error(
        "the backup {path} is damaged, and nothing was restored: {}; use another copy of it, or an older backup",
        .problems.join("; ")
    )]
    Damaged {
        /// The backup.
        path: PathBuf,
        /// One sentence for each file.
        problems: Vec<String>,
    },
}

impl Error {
    /// Whether there was no room for it.
    pub fn is_disk_full(&self) -> bool {
        match self {
            Self::Io { reason, .. }
            | Self::Store(
                storage::Error::Io { reason, .. } | storage::Error::Engine { reason, .. },
            ) => storage::is_disk_full(reason),
            _ => false,
        }
    }

    pub(super) fn io(
        action: &'static str,
        path: &Path,
    ) -> impl FnOnce(std::io::Error) -> Error + use<> {
        let path = path.to_owned();
        move |error| Error::Io {
            action,
            path,
            reason: error.to_string(),
        }
    }
}
