//! Taking a backup of an open store.

use std::io::ErrorKind;
use std::path::Path;

use super::Error;
use super::files;
use super::list::{BackedUpFile, FileList};
use super::staging::Staging;
use crate::storage::{DATA_FORMAT, ReadOnlyStore, Store, layout};

/// Takes a backup into `folder`, which must not exist. Commits go on meanwhile: everything that was
/// acknowledged before the call is in it, and each later commit as a whole or not at all.
///
/// `check` looks at what was copied, the store and the folder with all of it, before the files are read: what it refuses
/// is no backup, and nothing is left. Later commits are not in it any more then.
///
/// On the file system of the data directory the store's files are shared by hard links, and read once
/// for their checksums; elsewhere they are copied. It blocks: call it where a thread may wait for the
/// disk.
///
/// # Errors
/// [`Error::Exists`], [`Error::Inside`], [`Error::Reserved`], [`Error::InProgress`], [`Error::InTheWay`], [`Error::Io`],
/// [`Error::Store`]; that of `check`.
pub fn create<E: From<Error>>(
    store: &Store,
    folder: &Path,
    check: impl FnOnce(&ReadOnlyStore, &Path) -> Result<(), E>,
) -> Result<FileList, E> {
    if folder.symlink_metadata().is_ok() {
        return Err(E::from(Error::Exists {
            path: folder.to_owned(),
        }));
    }
    refuse_inside(store.path(), folder)?;
    let staging = Staging::begin(folder)?;
    let taken_at_ms = store.clock().now_ms();
    // Before it and after it: what it refers to may be deleted while it is taken.
    copy_others(store.path(), staging.path())?;
    let checkpoint = staging.path().join(layout::STORE);
    fail::fail_point!("backup::before-checkpoint");
    store.checkpoint(&checkpoint).map_err(Error::from)?;
    fail::fail_point!("backup::after-checkpoint");
    copy_others(store.path(), staging.path())?;
    let copied = ReadOnlyStore::open_checkpoint(&checkpoint).map_err(Error::from)?;
    check(&copied, staging.path())?;
    drop(copied);
    Ok(list_and_complete(staging, taken_at_ms)?)
}

/// Makes sure that all files are on disk, lists them, and gives the backup its name.
fn list_and_complete(staging: Staging, taken_at_ms: u64) -> Result<FileList, Error> {
    let mut listed = Vec::new();
    for path in files::walk(staging.path(), |_| false)? {
        let whole = staging.path().join(&path);
        // RocksDB has synced what it copied. What it linked may be older than the last sync.
        files::sync_file(&whole)?;
        listed.push(BackedUpFile::new(&path, files::sum(&whole)?)?);
        fail::fail_point!("backup::file");
    }
    let list = FileList::new(taken_at_ms, DATA_FORMAT, listed);
    list.write(staging.path())?;
    staging.complete()?;
    Ok(list)
}

/// A backup in the data directory would be in the next backup.
fn refuse_inside(data_dir: &Path, folder: &Path) -> Result<(), Error> {
    let parent = match folder.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let whole = |path: &Path| path.canonicalize().map_err(Error::io("find", path));
    if whole(parent)?.starts_with(whole(data_dir)?) {
        return Err(Error::Inside {
            path: folder.to_owned(),
        });
    }
    Ok(())
}

/// Copies what lies beside the store. What the names do not say to leave out is taken: a file that
/// nobody thought of here is better kept than lost.
fn copy_others(data_dir: &Path, to: &Path) -> Result<(), Error> {
    let others = files::walk(data_dir, |name| {
        name == layout::STORE || layout::is_transient(name)
    })?;
    for path in others {
        let target = to.join(&path);
        if let Some(folder) = target.parent() {
            std::fs::create_dir_all(folder).map_err(Error::io("create", folder))?;
        }
        // Of the first time; a component never changes.
        let is_component = path.starts_with(layout::PLUGINS) && target.exists();
        if is_component {
            continue;
        }
        match std::fs::remove_file(&target) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(Error::io("replace", &target)(error));
            }
            _ => {}
        }
        match files::copy(&data_dir.join(&path), &target) {
            Ok(_) => {}
            // It was deleted in the meantime.
            Err(_) if !data_dir.join(&path).exists() => {
                let _ = std::fs::remove_file(&target);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
