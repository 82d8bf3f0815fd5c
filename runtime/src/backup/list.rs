//! The file `BACKUP`: what a backup holds.

use std::fs;
use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::Error;
use super::files::Sum;
use crate::storage::DATA_FORMAT;

/// The file's name.
pub(super) const NAME: &str = "BACKUP";
/// The form of the file that this version writes, and the newest that it reads.
const VERSION: u32 = 1;

/// What a backup holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct FileList {
    /// The form of this list.
    pub backup_version: u32,
    /// The format of the data directory.
    pub data_format: u32,
    /// The version of Millstream that took the backup.
    pub millstream_version: String,
    /// When it was taken, in ms since the epoch.
    pub taken_at_ms: u64,
    /// Every file but this list, in the order of their paths.
    pub files: Vec<BackedUpFile>,
}

/// A file of a backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct BackedUpFile {
    /// Where it lies in the backup.
    pub path: String,
    /// Its size in bytes.
    pub size_bytes: u64,
    /// The CRC-32C of its bytes: eight hexadecimal digits.
    pub crc32c: String,
}

impl BackedUpFile {
    pub(super) fn new(path: &Path, sum: Sum) -> Result<Self, Error> {
        let name = path.to_str().ok_or_else(|| Error::Io {
            action: "back up",
            path: path.to_owned(),
            reason: "its name is not UTF-8; rename it".to_owned(),
        })?;
        Ok(Self {
            path: name.to_owned(),
            size_bytes: sum.size_bytes,
            crc32c: format!("{:08x}", sum.crc32c),
        })
    }

    /// What is different about a file that was read now.
    pub(super) fn difference(&self, sum: Sum) -> Option<String> {
        if sum.size_bytes != self.size_bytes {
            return Some(format!(
                "{} has {} bytes, and had {}",
                self.path, sum.size_bytes, self.size_bytes
            ));
        }
        let crc32c = format!("{:08x}", sum.crc32c);
        (crc32c != self.crc32c).then(|| {
            format!(
                "{} has the CRC-32C {crc32c}, and had {}",
                self.path, self.crc32c
            )
        })
    }
}

impl FileList {
    pub(super) fn new(taken_at_ms: u64, data_format: u32, files: Vec<BackedUpFile>) -> Self {
        Self {
            backup_version: VERSION,
            data_format,
            millstream_version: env!("CARGO_PKG_VERSION").to_owned(),
            taken_at_ms,
            files,
        }
    }

    /// Bytes of all files.
    pub fn size_bytes(&self) -> u64 {
        self.files.iter().map(|file| file.size_bytes).sum()
    }

    /// Reads the list of a backup.
    ///
    /// # Errors
    /// [`Error::NotABackup`], [`Error::OtherFormat`]
    pub fn read(backup: &Path) -> Result<Self, Error> {
        let not_a_backup = |reason: String| Error::NotABackup {
            path: backup.to_owned(),
            reason,
        };
        let text = fs::read_to_string(backup.join(NAME))
            .map_err(|error| not_a_backup(format!("its file {NAME} cannot be read: {error}")))?;
        let list: Self = serde_json::from_str(&text)
            .map_err(|error| not_a_backup(format!("its file {NAME} is damaged: {error}")))?;
        let other = |what, found, supported| Error::OtherFormat {
            path: backup.to_owned(),
            what,
            found,
            supported,
            taken_by: list.millstream_version.clone(),
        };
        if list.backup_version > VERSION {
            return Err(other("backup format", list.backup_version, VERSION));
        }
        if list.data_format != DATA_FORMAT {
            return Err(other("data format", list.data_format, DATA_FORMAT));
        }
        if let Some(file) = list.files.iter().find(|file| !is_below(&file.path)) {
            return Err(not_a_backup(format!(
                "its file {NAME} names `{}`, which is not in the folder",
                file.path
            )));
        }
        Ok(list)
    }

    /// Writes the list into a backup, and waits until it is on disk.
    pub(super) fn write(&self, backup: &Path) -> Result<(), Error> {
        let path = backup.join(NAME);
        let write = || -> std::io::Result<()> {
            let file = fs::File::create_new(&path)?;
            serde_json::to_writer_pretty(&file, self)?;
            file.sync_all()
        };
        write().map_err(Error::io("write", &path))
    }
}

/// Whether a path leads to something below the folder that it is relative to.
fn is_below(path: &str) -> bool {
    let path = PathBuf::from(path);
    let mut parts = path.components();
    path.file_name().is_some() && parts.all(|part| matches!(part, Component::Normal(_)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_that_lead_out_of_the_backup_are_refused() {
        for good in ["FORMAT", "store/000004.sst", "plugins/a/b"] {
            assert!(is_below(good), "{good}");
        }
        for bad in ["", "/etc/passwd", "../x", "store/../../x", "."] {
            assert!(!is_below(bad), "{bad}");
            let folder = tempfile::tempdir().unwrap();
            let file = BackedUpFile {
                path: bad.to_owned(),
                size_bytes: 0,
                crc32c: "00000000".to_owned(),
            };
            FileList::new(0, DATA_FORMAT, vec![file])
                .write(folder.path())
                .unwrap();
            let error = FileList::read(folder.path()).unwrap_err();
            assert!(matches!(error, Error::NotABackup { .. }), "{error}");
        }
    }

    #[test]
    fn a_list_of_another_version_is_refused() {
        let before = DATA_FORMAT - 1;
        for (backup_version, data_format) in [(2, DATA_FORMAT), (1, before), (1, 99)] {
            let folder = tempfile::tempdir().unwrap();
            let list = FileList {
                backup_version,
                millstream_version: "9.9.9".to_owned(),
                ..FileList::new(0, data_format, Vec::new())
            };
            list.write(folder.path()).unwrap();
            let error = FileList::read(folder.path()).unwrap_err().to_string();
            assert!(
                error.contains("use the version that took it (9.9.9)"),
                "{error}"
            );
        }
    }
}
