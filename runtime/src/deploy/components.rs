//! The components that were uploaded: files in the data directory, named by their digests.
//!
//! A file appears whole, by renaming, and is on the disk before anything names it. One that nothing names is
//! left over from an upload that was cut off, and is removed at the next start.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use hashbrown::HashSet;

use super::Error;
use crate::plugin::Digest;
use crate::storage::layout;

const EXTENSION: &str = "wasm";

/// The folder of components.
#[derive(Debug)]
pub(super) struct Components {
    folder: PathBuf,
}

impl Components {
    /// Creates the folder if it is missing.
    pub(super) fn open(data_dir: &Path) -> Result<Self, Error> {
        let folder = data_dir.join(layout::PLUGINS);
        fs::create_dir_all(&folder).map_err(Error::io("create", &folder))?;
        sync_folder(data_dir)?;
        Ok(Self { folder })
    }

    /// Keeps a component. Returns when it is on the disk.
    pub(super) fn store(&self, digest: &Digest, wasm: &[u8]) -> Result<(), Error> {
        let path = self.path(digest);
        if fs::read(&path).is_ok_and(|stored| Digest::of(&stored) == *digest) {
            return Ok(());
        }
        let temporary = path.with_extension("tmp");
        let written = write_synced(&temporary, wasm).and_then(|()| fs::rename(&temporary, &path));
        written.map_err(|error| {
            // It may not be there.
            let _ = fs::remove_file(&temporary);
            Error::io("write", &path)(error)
        })?;
        fail::fail_point!("deploy::component-renamed");
        sync_folder(&self.folder)
    }

    /// Reads a component, and checks that it is what it was.
    pub(super) fn read(&self, digest: &Digest) -> Result<Bytes, Error> {
        let path = self.path(digest);
        let wasm = fs::read(&path).map_err(Error::io("read", &path))?;
        match Digest::of(&wasm) == *digest {
            true => Ok(wasm.into()),
            false => Err(Error::DamagedComponent { path }),
        }
    }

    /// Deletes a component; a missing one is no error.
    pub(super) fn delete(&self, digest: &Digest) {
        let path = self.path(digest);
        match fs::remove_file(&path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            // The next start tries again.
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "a component could not be deleted");
            }
        }
    }

    /// Deletes what nothing names.
    pub(super) fn delete_others(&self, named: &HashSet<Digest>) -> Result<(), Error> {
        let entries = fs::read_dir(&self.folder).map_err(Error::io("read", &self.folder))?;
        for entry in entries {
            let path = entry.map_err(Error::io("read", &self.folder))?.path();
            let digest = path
                .file_stem()
                .and_then(|stem| Digest::parse(stem.to_str()?));
            let is_named = digest.is_some_and(|digest| named.contains(&digest))
                && path.extension().is_some_and(|it| it == EXTENSION);
            if !is_named {
                tracing::info!(path = %path.display(), "deleting what an upload that was cut off has left");
                fs::remove_file(&path).map_err(Error::io("delete", &path))?;
            }
        }
        Ok(())
    }

    fn path(&self, digest: &Digest) -> PathBuf {
        self.folder.join(format!("{digest}.{EXTENSION}"))
    }
}

/// Whether the component is in this copy of a data directory.
pub(super) fn is_component_in(data_dir: &Path, digest: &Digest) -> bool {
    let folder = data_dir.join(layout::PLUGINS);
    folder.join(format!("{digest}.{EXTENSION}")).is_file()
}

fn write_synced(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .open(path)?;
    file.write_all(bytes)?;
    fail::fail_point!("deploy::component-write", |_| Err(
        io::ErrorKind::StorageFull.into()
    ));
    file.sync_all()
}

/// Makes the names in a folder durable.
fn sync_folder(folder: &Path) -> Result<(), Error> {
    let synced = File::open(folder).and_then(|folder| folder.sync_all());
    synced.map_err(Error::io("sync", folder))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn components_come_back_and_leftovers_go() {
        let data_dir = tempfile::tempdir().unwrap();
        let components = Components::open(data_dir.path()).unwrap();
        let [kept, other] = [b"kept".as_slice(), b"other"].map(|wasm| {
            components.store(&Digest::of(wasm), wasm).unwrap();
            Digest::of(wasm)
        });
        let leftover = components.path(&kept).with_extension("tmp");
        fs::write(&leftover, b"ke").unwrap();
        assert_eq!(components.read(&kept).unwrap(), b"kept".as_slice());
        components
            .delete_others(&HashSet::from([kept.clone()]))
            .unwrap();
        assert!(components.read(&kept).is_ok() && !leftover.exists());
        assert!(matches!(components.read(&other), Err(Error::Io { .. })));
    }

    #[test]
    fn a_component_that_has_changed_is_not_run() {
        let data_dir = tempfile::tempdir().unwrap();
        let components = Components::open(data_dir.path()).unwrap();
        let digest = Digest::of(b"component");
        components.store(&digest, b"component").unwrap();
        fs::write(components.path(&digest), b"changed").unwrap();
        let error = components.read(&digest).unwrap_err();
        assert!(matches!(error, Error::DamagedComponent { .. }), "{error}");
        // Uploading it again mends it.
        components.store(&digest, b"component").unwrap();
        assert!(components.read(&digest).is_ok());
    }
}
