//! A folder that is put together under another name, and appears whole.

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};

use super::Error;
use super::files;

/// What is behind the folder's name until it is complete.
const SUFFIX: &str = ".partial";
/// Locked by the one who puts the folder together.
const LOCK_SUFFIX: &str = ".partial.lock";

/// A folder that is being put together. Unless it is completed it is removed with this value; what a
/// killed process leaves is removed by the next one.
pub(super) struct Staging {
    target: PathBuf,
    partial: PathBuf,
    lock_path: PathBuf,
    lock: File,
}

impl Staging {
    /// Begins the folder `target`.
    pub(super) fn begin(target: &Path) -> Result<Self, Error> {
        let partial = beside(target, SUFFIX)?;
        let lock_path = beside(target, LOCK_SUFFIX)?;
        let lock = lock(target, &lock_path)?;
        let staging = Self {
            target: target.to_owned(),
            partial,
            lock_path,
            lock,
        };
        staging.remove()?;
        fs::create_dir(&staging.partial).map_err(Error::io("create", &staging.partial))?;
        Ok(staging)
    }

    /// Where the folder is put together.
    pub(super) fn path(&self) -> &Path {
        &self.partial
    }

    /// Makes sure that all names in the folder are on disk, and gives it its name.
    pub(super) fn complete(self) -> Result<(), Error> {
        files::sync_folders(&self.partial)?;
        fs::rename(&self.partial, &self.target).map_err(|error| {
            let reason = match error.kind() {
                std::io::ErrorKind::ResourceBusy | std::io::ErrorKind::CrossesDevices => format!(
                    "{error}: a file system is mounted there, which cannot be replaced as a whole; name a folder in it"
                ),
                _ => error.to_string(),
            };
            Error::Io {
                action: "give its name to",
                path: self.target.clone(),
                reason,
            }
        })?;
        files::sync_file(&parent(&self.target))
    }

    fn remove(&self) -> Result<(), Error> {
        match fs::remove_dir_all(&self.partial) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::io("remove", &self.partial)(error))
            }
            _ => Ok(()),
        }
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if let Err(error) = self.remove() {
            tracing::warn!(%error, "what is left of an unfinished folder could not be removed");
        }
        // Removed while it is locked: whoever opened it before finds that it is not there any more.
        let _ = fs::remove_file(&self.lock_path);
        let _ = self.lock.unlock();
    }
}

/// Locks the file, which goes away with the one who has it locked.
fn lock(target: &Path, path: &Path) -> Result<File, Error> {
    loop {
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(path)
            .map_err(Error::io("create", path))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(Error::InProgress {
                    path: target.to_owned(),
                });
            }
            Err(TryLockError::Error(error)) => return Err(Error::io("lock", path)(error)),
        }
        if is_still_there(&file, path) {
            return Ok(file);
        }
    }
}

/// Whether the path still leads to the open file.
fn is_still_there(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    match (file.metadata(), fs::metadata(path)) {
        (Ok(open), Ok(named)) => (open.dev(), open.ino()) == (named.dev(), named.ino()),
        _ => false,
    }
}

fn beside(target: &Path, suffix: &str) -> Result<PathBuf, Error> {
    let Some(name) = target.file_name() else {
        return Err(Error::Io {
            action: "make",
            path: target.to_owned(),
            reason: "it has no name of its own; name a folder".to_owned(),
        });
    };
    let mut name = name.to_owned();
    name.push(suffix);
    Ok(target.with_file_name(name))
}

fn parent(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}
