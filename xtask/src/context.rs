//! Where things are: the repository, the cache folder, the host toolchain.
//!
//! Everything that is costly to make lives in one cache folder per machine, so that neither a
//! second profile, a second test binary nor a second clone makes it again.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use crate::cargo::{self, BuildMessages};
use crate::process::Cmd;
use crate::setup::rocksdb;
use crate::shared_target::SharedTarget;

/// The places and tools of one `cargo xtask` run.
pub struct Context {
    /// The repository's root folder.
    pub root: PathBuf,
    /// The cache folder: `$MILLSTREAM_CACHE`, else `$XDG_CACHE_HOME/millstream`, else
    /// `~/.cache/millstream`.
    pub cache: PathBuf,
    /// The host's cargo, an absolute path when cargo itself started us (it always does).
    pub cargo: PathBuf,
    /// The host's rustc: rustup's, never a distribution's that happens to be first on `PATH`.
    pub rustc: PathBuf,
}

impl Context {
    /// Reads the surroundings from the environment; touches nothing.
    pub fn from_env() -> Result<Self> {
        // `cargo run` sets CARGO_MANIFEST_DIR. The compile-time value is the fallback for a binary
        // that is started by hand; it would be wrong in a second clone that shares a target folder.
        let manifest_dir = env::var_os("CARGO_MANIFEST_DIR")
            .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
        let root = manifest_dir
            .parent()
            .with_context(|| format!("{} has no parent folder", manifest_dir.display()))?
            .to_owned();
        if !root.join("wit/plugin.wit").is_file() {
            bail!(
                "{} is not Millstream's repository (no wit/plugin.wit); run `cargo xtask` inside a clone",
                root.display()
            );
        }
        let cargo = env::var_os("CARGO").map_or_else(|| PathBuf::from("cargo"), PathBuf::from);
        let rustc = beside(&cargo, "rustc").unwrap_or_else(|| PathBuf::from("rustc"));
        Ok(Self {
            root,
            cache: cache_folder()?,
            cargo,
            rustc,
        })
    }

    /// Cargo's target folder for the host's builds: an already set `CARGO_TARGET_DIR`, else the
    /// cache's.
    pub fn target_dir(&self) -> PathBuf {
        env::var_os("CARGO_TARGET_DIR")
            .map_or_else(|| self.cache.join("target"), |dir| self.root.join(dir))
    }

    /// Cargo's target folder for the guests and for the native tests of sdk/ and plugins/.
    pub fn guest_target_dir(&self) -> PathBuf {
        self.cache.join("guest-target")
    }

    /// The `Cargo.toml` of every guest-side workspace of the repository.
    pub fn guest_workspaces(&self) -> Vec<PathBuf> {
        ["sdk/Cargo.toml", "plugins/Cargo.toml"]
            .iter()
            .map(|path| self.root.join(path))
            .collect()
    }

    /// The `Cargo.toml` of the fuzz targets' workspace.
    pub fn fuzz_workspace(&self) -> PathBuf {
        self.root.join("fuzz/Cargo.toml")
    }

    /// A cargo command on the host toolchain, with the folders and RocksDB of this machine.
    pub fn host_cargo(&self) -> Result<Cmd> {
        let mut cmd = Cmd::new(&self.cargo);
        cmd.dir(&self.root);
        for (name, value) in self.host_env()? {
            cmd.env(name, value);
        }
        Ok(cmd)
    }

    /// A cargo command on the host toolchain for the guests' workspaces, which are native too:
    /// plugin logic is linted and tested without Wasm.
    pub fn guest_native_cargo(&self) -> Cmd {
        let mut cmd = Cmd::new(&self.cargo);
        cmd.dir(&self.root)
            .env("CARGO_TARGET_DIR", self.guest_target_dir());
        cmd
    }

    /// Claims the host's target folder for this clone.
    pub fn claim_target(&self) -> Result<SharedTarget> {
        let packages = cargo::packages(self, &self.root.join("Cargo.toml"))?;
        let names: Vec<_> = packages.into_iter().map(|package| package.name).collect();
        SharedTarget::claim(&self.target_dir(), &self.root, &names)
    }

    /// Builds the `millstream` command (release) and returns a call of it without arguments.
    pub fn millstream(&self) -> Result<Cmd> {
        let _claim = self.claim_target()?;
        let mut build = self.host_cargo()?;
        build.args([
            "build",
            "--release",
            "--package",
            "millstream",
            "--bin",
            "millstream",
        ]);
        let binary = BuildMessages::of(build)?
            .executable("millstream")
            .context("cargo did not say where it put the millstream binary")?;
        Ok(Cmd::new(binary))
    }

    /// The variables that every host build needs, also printed by `cargo xtask env`.
    pub fn host_env(&self) -> Result<Vec<(&'static str, OsString)>> {
        let mut variables = vec![("CARGO_TARGET_DIR", self.target_dir().into_os_string())];
        // A user who links a RocksDB of their own has said how, and cargo inherits it.
        if rocksdb::own_library_dir(self).is_none() {
            variables.push((
                "ROCKSDB_LIB_DIR",
                rocksdb::library_dir(self)?.into_os_string(),
            ));
            variables.push(("ROCKSDB_STATIC", OsString::from("1")));
        }
        Ok(variables)
    }

    /// The repository's path of `path`, for messages; other paths stay as they are.
    pub fn relative<'a>(&self, path: &'a Path) -> &'a Path {
        path.strip_prefix(&self.root).unwrap_or(path)
    }
}

fn cache_folder() -> Result<PathBuf> {
    let named = |name: &str| {
        env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    let folder = if let Some(folder) = named("MILLSTREAM_CACHE") {
        folder
    } else if let Some(folder) = named("XDG_CACHE_HOME") {
        folder.join("millstream")
    } else if let Some(home) = named("HOME") {
        home.join(".cache/millstream")
    } else {
        bail!("neither MILLSTREAM_CACHE nor HOME is set: there is no place for the cache folder");
    };
    std::path::absolute(&folder).with_context(|| format!("resolving {}", folder.display()))
}

/// `tool` in the folder of `program`, if it is there.
fn beside(program: &Path, tool: &str) -> Option<PathBuf> {
    let path = program.parent()?.join(tool);
    path.is_file().then_some(path)
}
