//! The data directory itself: its lock and its format.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use super::{Error, layout};

/// The format that this version writes and reads. Format 1 had several column families; no release has written it.
pub const DATA_FORMAT: u32 = 2;
const FORMAT_PREFIX: &str = "millstream data format ";

/// A locked data directory. The lock goes with the value, and with the process.
#[derive(Debug)]
pub(super) struct Directory {
    path: PathBuf,
    lock: File,
}

impl Drop for Directory {
    /// Closing the file is not enough: a process that is just being started by this one has it, too,
    /// for a moment.
    fn drop(&mut self) {
        let _ = self.lock.unlock();
    }
}

impl Directory {
    /// Creates the directory if it is missing, locks it and checks its format.
    pub(super) fn open(path: &Path) -> Result<Self, Error> {
        create_private(path).map_err(Error::io("create the data directory", path))?;
        let foreign = is_foreign(path)?;
        if foreign {
            return Err(Error::NotADataDirectory {
                path: path.to_owned(),
            });
        }
        let lock = lock(path)?;
        check_format(path)?;
        Ok(Self {
            path: path.to_owned(),
            lock,
        })
    }

    /// As [`open`](Self::open), of a directory that holds data already; nothing is created.
    pub(super) fn open_existing(path: &Path) -> Result<Self, Error> {
        let format = path.join(layout::FORMAT);
        fs::metadata(&format).map_err(Error::io("read", &format))?;
        Self::open(path)
    }

    /// Where RocksDB's files lie.
    pub(super) fn store_path(&self) -> PathBuf {
        self.path.join(layout::STORE)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

/// Creates a folder, and those that it lies in, unless it is there. What it holds is its owner's to read: records, and who
/// has tokens.
fn create_private(path: &Path) -> io::Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    match DirBuilder::new().mode(0o700).create(path) {
        Err(_) if path.is_dir() => Ok(()),
        created => created,
    }
}

/// Whether the folder holds something, but nothing of ours.
fn is_foreign(path: &Path) -> Result<bool, Error> {
    let entries = fs::read_dir(path).map_err(Error::io("read the data directory", path))?;
    let ours = [
        layout::LOCK,
        layout::FORMAT,
        layout::STORE,
        layout::PLUGIN_CACHE,
    ];
    let known = ours.iter().any(|name| path.join(name).exists());
    // The root of a mounted file system is as good as empty.
    let mut entries = entries.filter(|entry| {
        !entry
            .as_ref()
            .is_ok_and(|entry| entry.file_name() == "lost+found")
    });
    Ok(!known && entries.next().is_some())
}

fn lock(path: &Path) -> Result<File, Error> {
    let file_path = path.join(layout::LOCK);
    let mut file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .open(&file_path)
        .map_err(Error::io("open", &file_path))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut pid = String::new();
            let _ = file.take(20).read_to_string(&mut pid);
            let holder = match pid.trim().parse::<u32>() {
                Ok(pid) => format!(" (pid {pid})"),
                Err(_) => String::new(),
            };
            return Err(Error::Locked {
                path: path.to_owned(),
                holder,
            });
        }
        Err(TryLockError::Error(error)) => return Err(Error::io("lock", &file_path)(error)),
    }
    let write_pid = file
        .set_len(0)
        .and_then(|()| file.seek(SeekFrom::Start(0)))
        .and_then(|_| file.write_all(std::process::id().to_string().as_bytes()));
    write_pid.map_err(Error::io("write", &file_path))?;
    Ok(file)
}

fn check_format(path: &Path) -> Result<(), Error> {
    let file_path = path.join(layout::FORMAT);
    let text = match fs::read_to_string(&file_path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            if path.join(layout::STORE).exists() {
                return Err(damaged_format(
                    "the FORMAT file is missing beside existing data",
                ));
            }
            return write_format(path, &file_path);
        }
        Err(error) => return Err(Error::io("read", &file_path)(error)),
    };
    let found = text
        .trim()
        .strip_prefix(FORMAT_PREFIX)
        .and_then(|number| number.parse::<u32>().ok())
        .ok_or_else(|| damaged_format("expected `millstream data format N`"))?;
    if found != DATA_FORMAT {
        return Err(Error::OtherFormat {
            path: path.to_owned(),
            found,
            supported: DATA_FORMAT,
        });
    }
    Ok(())
}

fn damaged_format(reason: &str) -> Error {
    Error::Damaged {
        what: "the file FORMAT".to_owned(),
        reason: reason.to_owned(),
    }
}

/// Written aside and renamed: a crash leaves no half-written file.
fn write_format(path: &Path, file_path: &Path) -> Result<(), Error> {
    let aside = path.join(layout::NEW_FORMAT);
    let write = || -> std::io::Result<()> {
        let mut file = File::create(&aside)?;
        file.write_all(format!("{FORMAT_PREFIX}{DATA_FORMAT}\n").as_bytes())?;
        file.sync_all()?;
        fs::rename(&aside, file_path)?;
        File::open(path)?.sync_all()
    };
    write().map_err(Error::io("write", file_path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_holder_is_told_who_has_it() {
        let folder = tempfile::tempdir().unwrap();
        let held = Directory::open(folder.path()).unwrap();
        let error = Directory::open(folder.path()).unwrap_err();
        assert!(
            error
                .to_string()
                .contains(&format!("pid {}", std::process::id())),
            "{error}"
        );
        drop(held);
        Directory::open(folder.path()).unwrap();
    }

    #[test]
    fn what_it_creates_is_its_owners_alone() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/data");
        drop(Directory::open(&path).unwrap());
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
        // One that is there stays as its owner has set it.
        fs::set_permissions(&path, fs::Permissions::from_mode(0o750)).unwrap();
        drop(Directory::open(&path).unwrap());
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o750);
    }

    #[test]
    fn another_format_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        drop(Directory::open(folder.path()).unwrap());
        for other in [1, 3] {
            let text = format!("{FORMAT_PREFIX}{other}\n");
            fs::write(folder.path().join("FORMAT"), text).unwrap();
            let error = Directory::open(folder.path()).unwrap_err();
            assert!(
                matches!(error, Error::OtherFormat { found, supported: 2, .. } if found == other),
                "{error}"
            );
        }
    }

    #[test]
    fn a_folder_of_something_else_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("thesis.txt"), "x").unwrap();
        let error = Directory::open(folder.path()).unwrap_err();
        assert!(matches!(error, Error::NotADataDirectory { .. }), "{error}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_garbled_format_file_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        drop(Directory::open(folder.path()).unwrap());
        fs::write(folder.path().join("FORMAT"), "hello").unwrap();
        assert!(matches!(
            Directory::open(folder.path()),
            Err(Error::Damaged { .. })
        ));
    }
}
