//! Compiled code on disk, so that a plugin is compiled once and not at every start.
//!
//! An entry is `<SHA-256 of the component>-<hash of wasmtime's version, settings and CPU>.cwasm`,
//! so that neither another component nor another compiler ever meets it. It ends in a CRC-32C of
//! the code, as wasmtime runs what it is given: an entry that is cut off or damaged is compiled
//! again. Entries appear whole, by renaming. The directory holds code that this process will run,
//! and it and its entries are used only if they are the user's own and nobody else can write to them.

use std::{
    fs,
    hash::{DefaultHasher, Hash, Hasher},
    io,
    path::{Path, PathBuf},
    time::SystemTime,
};

use wasmtime::{Engine, component::Component};

use super::digest::Digest;

/// Most entries that are kept; the least recently used go first.
const MAX_ENTRIES: usize = 100;
/// What an entry ends in: this and the CRC-32C of what is before it.
const TRAILER_MAGIC: [u8; 4] = *b"MSW1";
const TRAILER_BYTES: usize = 8;
const EXTENSION: &str = "cwasm";

/// A directory of compiled components.
#[derive(Debug)]
pub(super) struct CodeCache {
    dir: PathBuf,
    /// What has to match for compiled code to run in this process.
    compatibility: String,
    /// The user who runs this process.
    #[cfg(unix)]
    owner: u32,
}

impl CodeCache {
    /// Opens a cache in `dir`, which is created with access for its owner only.
    ///
    /// # Errors
    /// When the directory cannot be created, or others can write to it.
    pub(super) fn open(dir: &Path, engine: &Engine) -> io::Result<Self> {
        create_private_dir(dir)?;
        #[cfg(unix)]
        let owner = {
            let owner = effective_user(dir)?;
            check_private(&fs::metadata(dir)?, owner)?;
            owner
        };
        let mut hasher = DefaultHasher::new();
        engine.precompile_compatibility_hash().hash(&mut hasher);
        let compatibility = format!("{:016x}", hasher.finish());
        Ok(Self {
            dir: dir.to_owned(),
            compatibility,
            #[cfg(unix)]
            owner,
        })
    }

    /// The compiled component, if there is one that is whole.
    pub(super) fn load(&self, engine: &Engine, digest: &Digest) -> Option<Component> {
        let path = self.path(digest);
        let entry = match self.read(&path) {
            Ok(entry) => entry,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "compiled plugin is unreadable: compiling it again");
                return None;
            }
        };
        if !is_whole(&entry) {
            tracing::warn!(path = %path.display(), "compiled plugin is damaged: compiling it again");
            return None;
        }
        drop(entry);
        // SAFETY: the file was written by `store` of a process with the same compiler, which its
        // name and wasmtime's own header say, and is what was written, which the checksum says.
        // Only this user can write to the directory, and entries are never changed in place.
        let component = unsafe { Component::deserialize_file(engine, &path) };
        match component {
            Ok(component) => {
                // Only keeps the order of use; without it the entry goes a little earlier.
                let _ = fs::File::open(&path).and_then(|file| file.set_modified(SystemTime::now()));
                Some(component)
            }
            Err(error) => {
                tracing::warn!(path = %path.display(), error = %format!("{error:#}"), "compiled plugin is not usable: compiling it again");
                None
            }
        }
    }

    /// The bytes of an entry that nobody else can have written.
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        use io::Read as _;
        let mut file = fs::File::open(path)?;
        #[cfg(unix)]
        check_private(&file.metadata()?, self.owner)?;
        let mut entry = Vec::new();
        file.read_to_end(&mut entry)?;
        Ok(entry)
    }

    /// Keeps a compiled component, and drops the least recently used if there are too many.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(super) fn store(&self, digest: &Digest, component: &Component) -> io::Result<()> {
        let mut entry = component
            .serialize()
            .map_err(|error| io::Error::other(format!("{error:#}")))?;
        let checksum = crc32c::crc32c(&entry);
        entry.extend_from_slice(&TRAILER_MAGIC);
        entry.extend_from_slice(&checksum.to_le_bytes());
        let path = self.path(digest);
        // Another process may be storing the same component.
        let temporary = path.with_extension(format!("{}.tmp", std::process::id()));
        let written =
            write_private(&temporary, &entry).and_then(|()| fs::rename(&temporary, &path));
        if let Err(error) = written {
            // It may not be there; if it is, it will be written over.
            let _ = fs::remove_file(&temporary);
            return Err(error);
        }
        self.prune()
    }

    fn path(&self, digest: &Digest) -> PathBuf {
        self.dir
            .join(format!("{digest}-{}.{EXTENSION}", self.compatibility))
    }

    fn prune(&self) -> io::Result<()> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            let path = entry?.path();
            if path
                .extension()
                .is_some_and(|extension| extension == EXTENSION)
            {
                let used_at = fs::metadata(&path).and_then(|metadata| metadata.modified());
                entries.push((used_at.unwrap_or(SystemTime::UNIX_EPOCH), path));
            }
        }
        entries.sort();
        let surplus = entries.len().saturating_sub(MAX_ENTRIES);
        for (_, path) in entries.iter().take(surplus) {
            fs::remove_file(path)?;
        }
        Ok(())
    }
}

fn is_whole(entry: &[u8]) -> bool {
    let Some((code, trailer)) = entry.split_last_chunk::<TRAILER_BYTES>() else {
        return false;
    };
    let (magic, checksum) = trailer.split_at(TRAILER_MAGIC.len());
    magic == TRAILER_MAGIC && checksum == crc32c::crc32c(code).to_le_bytes()
}

#[cfg(unix)]
fn create_private_dir(dir: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
}

/// The user that this process acts as: the owner of a file that it makes.
#[cfg(unix)]
fn effective_user(dir: &Path) -> io::Result<u32> {
    use std::os::unix::fs::MetadataExt as _;
    let probe = dir.join(format!("owner.{}.tmp", std::process::id()));
    // What is there is of a process that was killed: its id may have come again.
    let _ = fs::remove_file(&probe);
    let file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(&probe)?;
    let owner = file.metadata().map(|metadata| metadata.uid());
    fs::remove_file(&probe)?;
    owner
}

/// Refuses a directory or file that is not the user's own, or that others can write to.
#[cfg(unix)]
fn check_private(metadata: &fs::Metadata, owner: u32) -> io::Result<()> {
    use std::os::unix::fs::MetadataExt as _;
    let denied = |reason: String| Err(io::Error::new(io::ErrorKind::PermissionDenied, reason));
    if metadata.uid() != owner {
        return denied(format!(
            "it belongs to user {}, not to user {owner} who runs this, and holds code to run",
            metadata.uid()
        ));
    }
    if metadata.mode() & 0o022 != 0 {
        let mode = if metadata.is_dir() { "700" } else { "600" };
        return denied(format!(
            "others can write to it, and it holds code to run: `chmod {mode}` it"
        ));
    }
    Ok(())
}

#[cfg(not(unix))]
fn create_private_dir(dir: &Path) -> io::Result<()> {
    fs::create_dir_all(dir)
}

fn write_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    use std::io::Write as _;
    let mut options = fs::OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)?.write_all(bytes)
}
