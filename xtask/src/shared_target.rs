//! One cargo target folder for all clones of the repository on a machine, used safely.
//!
//! Cargo names the artifacts of a workspace's own packages relative to the workspace, and decides
//! by modification times whether they are fresh. Two clones that share a target folder therefore
//! get each other's binaries whenever their sources happen to be older than the last build. Only
//! the dependencies are worth sharing; so the folder notes which clone built in it last, and a
//! change of clone drops what cargo remembers of the clone's own packages.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

/// Our hold on a target folder; while it lives, no other clone builds there.
pub struct SharedTarget {
    // Held for its lock only, which ends with it.
    _lock: File,
}

impl SharedTarget {
    /// Claims `target` for the clone at `root`, whose own packages are `packages`. Several runs in
    /// one clone share the folder; a run in another clone waits for them.
    pub fn claim(target: &Path, root: &Path, packages: &[String]) -> Result<Self> {
        fs::create_dir_all(target).with_context(|| format!("creating {}", target.display()))?;
        let path = target.join(".millstream-lock");
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .read(true)
            .open(&path)
            .with_context(|| format!("opening {}", path.display()))?;
        let stamp = target.join(".millstream-clone");
        loop {
            lock.lock_shared()
                .with_context(|| format!("locking {}", path.display()))?;
            if is_stamped(&stamp, root)? {
                return Ok(Self { _lock: lock });
            }
            // Going from shared to exclusive is not atomic, hence the second look.
            lock.unlock()
                .with_context(|| format!("unlocking {}", path.display()))?;
            if lock.try_lock().is_err() {
                println!("waiting for another clone's build in {}", target.display());
                lock.lock()
                    .with_context(|| format!("locking {}", path.display()))?;
            }
            if !is_stamped(&stamp, root)? {
                forget(target, packages)?;
                fs::write(&stamp, root.as_os_str().as_encoded_bytes())
                    .with_context(|| format!("writing {}", stamp.display()))?;
            }
            lock.unlock()
                .with_context(|| format!("unlocking {}", path.display()))?;
        }
    }
}

fn is_stamped(stamp: &Path, root: &Path) -> Result<bool> {
    match fs::read(stamp) {
        Ok(bytes) => Ok(bytes == root.as_os_str().as_encoded_bytes()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error).with_context(|| format!("reading {}", stamp.display())),
    }
}

/// Removes the fingerprints of `packages`, so that cargo builds them (and nothing else) again.
fn forget(target: &Path, packages: &[String]) -> Result<()> {
    for folder in fingerprint_folders(target)? {
        for entry in
            fs::read_dir(&folder).with_context(|| format!("reading {}", folder.display()))?
        {
            let entry = entry?;
            let name = entry.file_name();
            if is_fingerprint_of(&name.to_string_lossy(), packages) {
                fs::remove_dir_all(entry.path())
                    .with_context(|| format!("removing {}", entry.path().display()))?;
            }
        }
    }
    Ok(())
}

/// `<target>/<profile>/.fingerprint` and `<target>/<triple>/<profile>/.fingerprint`.
fn fingerprint_folders(target: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut level = vec![target.to_owned()];
    for _ in 0..2 {
        let mut next = Vec::new();
        for folder in level {
            for entry in
                fs::read_dir(&folder).with_context(|| format!("reading {}", folder.display()))?
            {
                let entry = entry?;
                if !entry.file_type()?.is_dir() {
                    continue;
                }
                let fingerprints = entry.path().join(".fingerprint");
                if fingerprints.is_dir() {
                    found.push(fingerprints);
                } else {
                    next.push(entry.path());
                }
            }
        }
        level = next;
    }
    Ok(found)
}

/// Cargo names them `<package>-<16 hex digits>`.
fn is_fingerprint_of(name: &str, packages: &[String]) -> bool {
    name.rsplit_once('-')
        .is_some_and(|(package, _)| packages.iter().any(|own| own == package))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packages() -> Vec<String> {
        vec!["millstream".to_owned()]
    }

    #[test]
    fn another_clone_drops_the_own_packages_only() {
        let temp = tempfile::tempdir().unwrap();
        let target = temp.path();
        let prints = target.join("debug/.fingerprint");
        let guest_prints = target.join("wasm32-wasip2/release/.fingerprint");
        let own = prints.join("millstream-0123456789abcdef");
        let make = || {
            fs::create_dir_all(&own).unwrap();
            fs::create_dir_all(guest_prints.join("millstream-ffff")).unwrap();
            fs::create_dir_all(prints.join("millstream-extra-0123")).unwrap();
            fs::create_dir_all(prints.join("serde-0123")).unwrap();
        };
        make();
        drop(SharedTarget::claim(target, Path::new("/clone/a"), &packages()).unwrap());
        assert!(
            !own.exists(),
            "an unstamped folder may hold another clone's artifacts"
        );
        make();
        drop(SharedTarget::claim(target, Path::new("/clone/a"), &packages()).unwrap());
        assert!(own.exists());
        drop(SharedTarget::claim(target, Path::new("/clone/b"), &packages()).unwrap());
        assert!(!own.exists());
        assert!(!guest_prints.join("millstream-ffff").exists());
        assert!(prints.join("millstream-extra-0123").exists());
        assert!(prints.join("serde-0123").exists());
    }

    #[test]
    fn runs_of_one_clone_share_the_folder() {
        let temp = tempfile::tempdir().unwrap();
        let first = SharedTarget::claim(temp.path(), Path::new("/clone/a"), &packages()).unwrap();
        let second = SharedTarget::claim(temp.path(), Path::new("/clone/a"), &packages()).unwrap();
        drop((first, second));
    }
}
