//! A folder for the data of one run, on a real disk, removed in the end.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context as _, bail};

use super::environment::file_system_of;

/// A folder that goes with the value.
#[derive(Debug)]
pub(super) struct Scratch(PathBuf);

impl Scratch {
    /// Makes a new folder in `parent`.
    pub(super) fn create(parent: &Path) -> anyhow::Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = parent.join(format!("millstream-bench-{}-{number}", std::process::id()));
        fs::create_dir_all(&path).with_context(|| format!("cannot create {}", path.display()))?;
        Ok(Self(path))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            tracing::warn!(path = %self.0.display(), %error, "the benchmark's data is left behind");
        }
    }
}

/// The folder in which data is put: the one asked for, else the system's for temporary files, else
/// the current one. Memory pretending to be a disk is refused, or passed over.
///
/// # Errors
/// When the folder asked for is in memory, or no other can be found.
pub(super) fn parent(asked_for: Option<&Path>) -> anyhow::Result<PathBuf> {
    if let Some(path) = asked_for {
        fs::create_dir_all(path).with_context(|| format!("cannot create {}", path.display()))?;
        if is_in_memory(path) {
            bail!(
                "{} lies in memory; choose a folder on a disk",
                path.display()
            );
        }
        return Ok(path.to_owned());
    }
    let candidates = [std::env::temp_dir(), std::env::current_dir()?];
    let on_disk = candidates.into_iter().find(|path| !is_in_memory(path));
    on_disk
        .context("neither the folder for temporary files nor this one lies on a disk; give --dir")
}

fn is_in_memory(path: &Path) -> bool {
    matches!(file_system_of(path).as_deref(), Some("tmpfs" | "ramfs"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_folder_goes_with_the_value() {
        let parent = tempfile::tempdir().unwrap();
        let scratch = Scratch::create(parent.path()).unwrap();
        let other = Scratch::create(parent.path()).unwrap();
        assert_ne!(scratch.path(), other.path());
        fs::write(scratch.path().join("file"), "x").unwrap();
        let path = scratch.path().to_owned();
        drop(scratch);
        assert!(!path.exists());
    }

    #[test]
    fn memory_is_refused() {
        if Path::new("/dev/shm").is_dir() && is_in_memory(Path::new("/dev/shm")) {
            assert!(parent(Some(Path::new("/dev/shm"))).is_err());
        }
    }
}
