//! Files of a backup: walking a folder, reading with a checksum, copying.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use super::Error;

/// Bytes that are read at a time.
const BUFFER_BYTES: usize = 1 << 20;

/// Size and checksum of what was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sum {
    pub(super) size_bytes: u64,
    pub(super) crc32c: u32,
}

/// Reads a file to its end.
pub(super) fn sum(path: &Path) -> Result<Sum, Error> {
    let file = File::open(path).map_err(Error::io("read", path))?;
    pump(file, &mut io::sink()).map_err(Error::io("read", path))
}

/// Copies a file to a new one, and waits until that is on disk. Its permissions are copied, too.
pub(super) fn copy(from: &Path, to: &Path) -> Result<Sum, Error> {
    let source = File::open(from).map_err(Error::io("read", from))?;
    let permissions = source.metadata().map_err(Error::io("read", from))?;
    let write = || -> io::Result<Sum> {
        let mut target = File::create_new(to)?;
        let sum = pump(source, &mut target)?;
        target.set_permissions(permissions.permissions())?;
        target.sync_all()?;
        Ok(sum)
    };
    write().map_err(Error::io("copy to", to))
}

fn pump(mut from: impl Read, to: &mut impl Write) -> io::Result<Sum> {
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut sum = Sum {
        size_bytes: 0,
        crc32c: 0,
    };
    loop {
        let read = match from.read(&mut buffer) {
            Ok(0) => return Ok(sum),
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        let bytes = &buffer[..read];
        sum.size_bytes += read as u64;
        sum.crc32c = crc32c::crc32c_append(sum.crc32c, bytes);
        to.write_all(bytes)?;
    }
}

/// All files below a folder, as paths relative to it, in order. `skip` is asked about each entry of
/// the folder itself, by name.
pub(super) fn walk(folder: &Path, skip: impl Fn(&str) -> bool) -> Result<Vec<PathBuf>, Error> {
    let mut files = Vec::new();
    let mut folders = vec![PathBuf::new()];
    while let Some(relative) = folders.pop() {
        let path = folder.join(&relative);
        for entry in fs::read_dir(&path).map_err(Error::io("read", &path))? {
            let entry = entry.map_err(Error::io("read", &path))?;
            let name = entry.file_name();
            if relative.as_os_str().is_empty() && name.to_str().is_some_and(&skip) {
                continue;
            }
            let kind = entry
                .file_type()
                .map_err(Error::io("read", &entry.path()))?;
            if kind.is_dir() {
                folders.push(relative.join(name));
            } else if kind.is_file() {
                files.push(relative.join(name));
            } else {
                // Sockets and links: Millstream makes none that hold data.
                tracing::warn!(path = %entry.path().display(), "no regular file: it is left out");
            }
        }
    }
    files.sort();
    Ok(files)
}

/// Makes sure that a file's bytes and size are on disk.
pub(super) fn sync_file(path: &Path) -> Result<(), Error> {
    let file = File::open(path).map_err(Error::io("read", path))?;
    file.sync_all().map_err(Error::io("sync", path))
}

/// Makes sure that the names in a folder, and in all below it, are on disk.
pub(super) fn sync_folders(folder: &Path) -> Result<(), Error> {
    for entry in fs::read_dir(folder).map_err(Error::io("read", folder))? {
        let entry = entry.map_err(Error::io("read", folder))?;
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            sync_folders(&entry.path())?;
        }
    }
    sync_file(folder)
}
