//! A folder that is put together under another name, and appears whole.

use std::fs::{self, DirBuilder, File, TryLockError};
use std::io::{ErrorKind, Read as _, Seek as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

use super::Error;
use super::files;

/// What is behind the folder's name until it is complete. No folder that is asked for may end so.
const SUFFIX: &str = ".millstream-partial";
/// Locked by the one who puts the folder together; it says which folder that is.
const LOCK_SUFFIX: &str = ".millstream-partial.lock";
/// Bytes of a lock file that are read.
const MAX_LOCK_BYTES: u64 = 64;

/// A folder that is being put together. Unless it is completed it is removed with this value; what a
/// killed process leaves is removed by the next one. What somebody else has put there stays.
pub(super) struct Staging {
    target: PathBuf,
    partial: PathBuf,
    /// The inode of the folder.
    made: u64,
    /// Dropped last: until then the place is taken.
    _lock: Lock,
}

impl Staging {
    /// Begins the folder `target`.
    ///
    /// # Errors
    /// [`Error::Reserved`], [`Error::InProgress`], [`Error::InTheWay`], [`Error::Io`]
    pub(super) fn begin(target: &Path) -> Result<Self, Error> {
        let partial = beside(target, SUFFIX)?;
        let lock_path = beside(target, LOCK_SUFFIX)?;
        let mut lock = Lock::take(target, &lock_path)?;
        if let Some(left) = lock.made {
            remove(&partial, left)?;
        }
        // One that was killed before it had noted which folder it made. Only an empty one goes, so that nothing is lost
        // if somebody else made it.
        let _ = fs::remove_dir(&partial);
        // Records, and who has tokens: its owner's to read.
        match DirBuilder::new().mode(0o700).create(&partial) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                return Err(Error::InTheWay { path: partial });
            }
            made => made.map_err(Error::io("create", &partial))?,
        }
        let noted = note(&mut lock, &partial);
        let made = noted.inspect_err(|_| {
            // Nothing says later whose it is.
            let _ = fs::remove_dir(&partial);
        })?;
        Ok(Self {
            target: target.to_owned(),
            partial,
            made,
            _lock: lock,
        })
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
}

impl Drop for Staging {
    fn drop(&mut self) {
        if let Err(error) = remove(&self.partial, self.made) {
            tracing::warn!(%error, "what is left of an unfinished folder could not be removed");
        }
    }
}

/// Writes down which folder is put together. Returns its inode.
fn note(lock: &mut Lock, partial: &Path) -> Result<u64, Error> {
    fail::fail_point!("backup::folder-made", |reason| Err(Error::Io {
        action: "write",
        path: lock.path.clone(),
        reason: reason.unwrap_or_default(),
    }));
    let made = fs::symlink_metadata(partial).map_err(Error::io("read", partial))?;
    lock.note(made.ino())?;
    Ok(made.ino())
}

/// A lock file, locked. It is removed with this value.
struct Lock {
    path: PathBuf,
    file: File,
    /// The inode of the folder that was put together under it last.
    made: Option<u64>,
}

impl Lock {
    /// Locks the file, which goes away with the one who has it locked.
    fn take(target: &Path, path: &Path) -> Result<Self, Error> {
        loop {
            let file = Self::open(path)?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    return Err(Error::InProgress {
                        path: target.to_owned(),
                    });
                }
                Err(TryLockError::Error(error)) => return Err(Error::io("lock", path)(error)),
            }
            if !is_still_there(&file, path) {
                continue;
            }
            let mut text = String::new();
            let read = (&file).take(MAX_LOCK_BYTES).read_to_string(&mut text);
            let made = match (read, text.trim()) {
                // Whoever made it was killed before there was a folder.
                (Ok(_), "") => None,
                (Ok(_), number) if number.parse::<u64>().is_ok() => number.parse().ok(),
                _ => {
                    return Err(Error::InTheWay {
                        path: path.to_owned(),
                    });
                }
            };
            return Ok(Self {
                path: path.to_owned(),
                file,
                made,
            });
        }
    }

    /// Opens or creates the file. What somebody else has put under its name is neither followed nor waited for.
    fn open(path: &Path) -> Result<File, Error> {
        let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let opened = File::options()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .custom_flags(flags.bits().cast_signed())
            .open(path);
        match opened {
            Ok(file) if file.metadata().is_ok_and(|found| found.is_file()) => Ok(file),
            // A link or a folder is there, which is not even opened; else something else is wrong.
            Err(error) if fs::symlink_metadata(path).map_or(true, |found| found.is_file()) => {
                Err(Error::io("create", path)(error))
            }
            _ => Err(Error::InTheWay {
                path: path.to_owned(),
            }),
        }
    }

    /// Writes down which folder is put together.
    fn note(&mut self, made: u64) -> Result<(), Error> {
        let mut write = || {
            self.file.set_len(0)?;
            self.file.rewind()?;
            write!(self.file, "{made}")?;
            self.file.sync_all()
        };
        write().map_err(Error::io("write", &self.path))
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Removed while it is locked: whoever opened it before finds that it is not there any more.
        let _ = fs::remove_file(&self.path);
        let _ = self.file.unlock();
    }
}

/// Removes the folder with this inode, if that is what the path leads to.
fn remove(path: &Path, made: u64) -> Result<(), Error> {
    match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() && found.ino() == made => {
            fs::remove_dir_all(path).map_err(Error::io("remove", path))
        }
        _ => Ok(()),
    }
}

/// Whether the path still leads to the open file.
fn is_still_there(file: &File, path: &Path) -> bool {
    match (file.metadata(), fs::symlink_metadata(path)) {
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
    let is_reserved = |suffix: &&str| name.as_encoded_bytes().ends_with(suffix.as_bytes());
    if let Some(suffix) = [SUFFIX, LOCK_SUFFIX].iter().find(|it| is_reserved(it)) {
        return Err(Error::Reserved {
            path: target.to_owned(),
            suffix,
        });
    }
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
