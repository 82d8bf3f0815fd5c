//! Reads from the disk instead of from memory.

use std::fs;
use std::path::Path;

use anyhow::Context as _;

/// Writes the files below a folder to the disk, and makes the system forget all that it has cached.
///
/// # Errors
/// When that is not permitted; it takes root.
pub(super) fn drop_all(folder: &Path) -> anyhow::Result<()> {
    sync_folder(folder)?;
    fs::write("/proc/sys/vm/drop_caches", "1\n").context(
        "cannot drop the page cache (/proc/sys/vm/drop_caches), which takes root; leave out --cold",
    )
}

/// What is not on the disk yet cannot be forgotten.
fn sync_folder(folder: &Path) -> anyhow::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            sync_folder(&path)?;
        } else {
            fs::File::open(&path)?.sync_all()?;
        }
    }
    Ok(())
}
