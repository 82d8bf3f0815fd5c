//! RocksDB's C++, compiled once per machine.
//!
//! It takes about 25 minutes of CPU. Cargo would compile it once per profile, feature set, target
//! folder and clone; so it is compiled here, once per version of `librocksdb-sys`, and every other
//! build is told to link the result (`ROCKSDB_LIB_DIR`).
//!
//! On x86-64 it is compiled for processors with SSE 4.2 and PCLMULQDQ (all since 2010): without them
//! RocksDB computes its checksums, one for every byte written and read, by table, which took a third
//! of the time of a scan.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use super::{State, Step};
use crate::cargo::BuildMessages;
use crate::context::Context;
use crate::process::Cmd;

const PACKAGE: &str = "librocksdb-sys";
const LIBRARY: &str = "librocksdb.a";
/// Flags for the C++ compiler, and what they add to the name of the cache folder.
const FLAGS: Option<(&str, &str)> = if cfg!(target_arch = "x86_64") {
    Some(("-msse4.2 -mpclmul", "-sse4.2"))
} else {
    None
};

/// `librocksdb.a` in the cache folder.
pub struct RocksDb;

impl Step for RocksDb {
    fn name(&self) -> &'static str {
        "RocksDB library"
    }

    fn state(&self, context: &Context) -> Result<State> {
        if let Some(folder) = own_library_dir(context) {
            return Ok(State::Ready(format!(
                "yours, ROCKSDB_LIB_DIR={}",
                folder.display()
            )));
        }
        let library = library_dir(context)?.join(LIBRARY);
        if library.is_file() {
            return Ok(State::Ready(library.display().to_string()));
        }
        Ok(State::Missing {
            what: format!(
                "no {} (about 25 minutes of CPU, once per machine)",
                library.display()
            ),
            command: "cargo xtask setup".to_owned(),
        })
    }

    fn bring(&self, context: &Context) -> Result<()> {
        let mut build = Cmd::new(&context.cargo);
        build
            .dir(&context.root)
            .args(["build", "--release", "--package", PACKAGE])
            // Cargo's lock on this folder makes a second run wait for the first and then find it done.
            .env("CARGO_TARGET_DIR", context.cache.join("rocksdb-build"))
            .env_remove("ROCKSDB_LIB_DIR")
            .env_remove("ROCKSDB_STATIC");
        if let Some((flags, _)) = FLAGS {
            build.env("CXXFLAGS", flags);
        }
        let out_dir = BuildMessages::of(build)?
            .out_dir(PACKAGE)
            .context("cargo did not say where the build script of librocksdb-sys put its output")?;
        let built = out_dir.join(LIBRARY);
        if !built.is_file() {
            bail!("the build of {PACKAGE} left no {}", built.display());
        }
        put(&built, &library_dir(context)?)
    }
}

/// Copies so that a reader sees either no library or a whole one.
fn put(built: &Path, folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("creating {}", folder.display()))?;
    let partial = folder.join(format!("{LIBRARY}.{}", std::process::id()));
    fs::copy(built, &partial)
        .with_context(|| format!("copying {} to {}", built.display(), partial.display()))?;
    let target = folder.join(LIBRARY);
    fs::rename(&partial, &target).with_context(|| format!("renaming to {}", target.display()))
}

/// The folder that holds the library to link: the user's own, else the cache's for the version in
/// `Cargo.lock`.
pub fn library_dir(context: &Context) -> Result<PathBuf> {
    if let Some(folder) = own_library_dir(context) {
        return Ok(folder);
    }
    let path = context.root.join("Cargo.lock");
    let lock = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    let version = locked_version(&lock, PACKAGE)
        .with_context(|| format!("{} does not name {PACKAGE}", path.display()))?;
    let suffix = FLAGS.map_or("", |(_, suffix)| suffix);
    Ok(libraries(context).join(format!("{version}{suffix}")))
}

/// A `ROCKSDB_LIB_DIR` that the user has set. One that points into the cache comes from an earlier
/// `cargo xtask env` and may name an older version: it does not count.
pub fn own_library_dir(context: &Context) -> Option<PathBuf> {
    let folder = PathBuf::from(std::env::var_os("ROCKSDB_LIB_DIR")?);
    (!folder.starts_with(libraries(context))).then_some(folder)
}

fn libraries(context: &Context) -> PathBuf {
    context.cache.join("rocksdb")
}

/// The version of `package` in the text of a `Cargo.lock`.
fn locked_version<'a>(lock: &'a str, package: &str) -> Option<&'a str> {
    let name = format!("name = \"{package}\"");
    let mut lines = lock.lines().skip_while(|line| *line != name);
    lines.next()?;
    lines
        .next()?
        .strip_prefix("version = \"")?
        .strip_suffix('"')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_read_from_the_lock_file() {
        let lock = "[[package]]\nname = \"rocksdb\"\nversion = \"0.25.0\"\n\n[[package]]\nname = \"librocksdb-sys\"\nversion = \"0.19.0+11.8.1\"\n";
        assert_eq!(locked_version(lock, PACKAGE), Some("0.19.0+11.8.1"));
        assert_eq!(locked_version(lock, "librocksdb"), None);
    }

    #[test]
    fn the_library_is_put_whole() {
        let temp = tempfile::tempdir().unwrap();
        let built = temp.path().join("built.a");
        fs::write(&built, "objects").unwrap();
        let folder = temp.path().join("rocksdb/1.0");
        put(&built, &folder).unwrap();
        put(&built, &folder).unwrap();
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);
        assert_eq!(fs::read_to_string(folder.join(LIBRARY)).unwrap(), "objects");
    }
}
