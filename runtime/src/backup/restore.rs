//! Checking a backup, and making a data directory of it.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::Error;
use super::files;
use super::list::{self, FileList};
use super::staging::Staging;
use crate::storage::ReadOnlyStore;

/// Compares every file of a backup with its checksum. Returns one sentence for each difference.
///
/// # Errors
/// [`Error::NotABackup`], [`Error::OtherFormat`]; a file that cannot be read is a difference, not an error.
pub fn check(backup: &Path) -> Result<(FileList, Vec<String>), Error> {
    let list = FileList::read(backup)?;
    let mut problems = Vec::new();
    for file in &list.files {
        match files::sum(&backup.join(&file.path)) {
            Ok(sum) => problems.extend(file.difference(sum)),
            Err(error) => problems.push(error.to_string()),
        }
    }
    let known: BTreeSet<PathBuf> = list
        .files
        .iter()
        .map(|file| file.path.as_str().into())
        .collect();
    for path in files::walk(backup, |name| name == list::NAME)? {
        if !known.contains(&path) {
            problems.push(format!(
                "{} is not in the file {}",
                path.display(),
                list::NAME
            ));
        }
    }
    Ok((list, problems))
}

/// Makes a data directory of a backup. Every checksum is compared before anything is written, and
/// again while it is copied; the directory appears whole, or not at all. The backup stays as it is.
///
/// It blocks: call it where a thread may wait for the disk.
///
/// # Errors
/// [`Error::NotEmpty`] if `data_dir` holds anything; [`Error::Link`], [`Error::InsideBackup`], [`Error::Damaged`], [`Error::NotABackup`],
/// [`Error::OtherFormat`], [`Error::Reserved`], [`Error::InProgress`], [`Error::InTheWay`], [`Error::Io`], [`Error::Store`]
pub fn restore(backup: &Path, data_dir: &Path) -> Result<FileList, Error> {
    refuse_existing(data_dir)?;
    let (list, problems) = check(backup)?;
    refuse_inside(backup, data_dir)?;
    let damaged = |problems| Error::Damaged {
        path: backup.to_owned(),
        problems,
    };
    if !problems.is_empty() {
        return Err(damaged(problems));
    }
    if let Some(parent) = data_dir.parent() {
        fs::create_dir_all(parent).map_err(Error::io("create", parent))?;
    }
    let staging = Staging::begin(data_dir)?;
    for file in &list.files {
        let target = staging.path().join(&file.path);
        if let Some(folder) = target.parent() {
            fs::create_dir_all(folder).map_err(Error::io("create", folder))?;
        }
        let sum = files::copy(&backup.join(&file.path), &target)?;
        if let Some(problem) = file.difference(sum) {
            return Err(damaged(vec![problem]));
        }
        fail::fail_point!("restore::file");
    }
    // That it opens is seen before it has its name.
    drop(ReadOnlyStore::open(staging.path())?);
    fail::fail_point!("restore::before-rename");
    staging.complete()?;
    Ok(list)
}

/// A data directory in a backup would be in the way of restoring it again.
fn refuse_inside(backup: &Path, data_dir: &Path) -> Result<(), Error> {
    let whole = |path: &Path| std::path::absolute(path).map_err(Error::io("find", path));
    let data_dir = whole(data_dir)?;
    // Of the folders in which it will be, the last that there is.
    let there = data_dir.ancestors().find_map(|it| it.canonicalize().ok());
    let backup = backup.canonicalize().map_err(Error::io("find", backup))?;
    match there.is_some_and(|there| there.starts_with(&backup)) {
        true => Err(Error::InsideBackup { path: data_dir }),
        false => Ok(()),
    }
}

/// Nothing is restored over anything: an empty folder is taken, as it may have been made for that.
fn refuse_existing(data_dir: &Path) -> Result<(), Error> {
    // A folder gets the name, and a link has no room for it.
    if data_dir.is_symlink() {
        return Err(Error::Link {
            path: data_dir.to_owned(),
        });
    }
    let mut entries = match fs::read_dir(data_dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(Error::io("read", data_dir)(error)),
    };
    match entries.next() {
        None => Ok(()),
        Some(_) => Err(Error::NotEmpty {
            path: data_dir.to_owned(),
        }),
    }
}
