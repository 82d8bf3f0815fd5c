//! The toolchain that compiles Rust plugins to components.
//!
//! rustup's target `wasm32-wasip2` where it can be had; else Debian's rustc with the standard
//! library built from source. Debian's compiler is only ever named by its absolute path, so that
//! it never stands in for rustup's in a host build.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, anyhow, bail};

use super::packages;
use super::{State, Step};
use crate::context::Context;
use crate::process::{Cmd, on_path};

/// The target of every plugin.
pub const TARGET: &str = "wasm32-wasip2";

const DEBIAN_RUSTC: &str = "/usr/bin/rustc";
const DEBIAN_WASI_LIBC: &str = "/usr/lib/wasm32-wasi";
const DEBIAN_PACKAGES: &[&str] = &["rustc-web", "rust-web-src", "wasi-libc", "lld-19"];

/// rustup fetches 25 MB; a connection that needs longer than this is as good as none.
const RUSTUP_LIMIT: Duration = Duration::from_secs(300);
/// How long a failure of rustup is remembered before it is asked again.
const FAILURE_VALIDITY: Duration = Duration::from_secs(24 * 3600);

/// The set-up step.
pub struct GuestToolchain;

impl Step for GuestToolchain {
    fn name(&self) -> &'static str {
        "guest toolchain"
    }

    fn state(&self, context: &Context) -> Result<State> {
        match Toolchain::detect(context)? {
            Detected::Found(toolchain) => Ok(State::Ready(toolchain.description())),
            Detected::Absent(why) => {
                let command = if asks_rustup(context) {
                    format!("rustup target add {TARGET}")
                } else {
                    packages::install_command(DEBIAN_PACKAGES)
                };
                Ok(State::Missing { what: why, command })
            }
        }
    }

    fn bring(&self, context: &Context) -> Result<()> {
        if asks_rustup(context) {
            let mut add = Cmd::new("rustup");
            add.dir(&context.root).args(["target", "add", TARGET]);
            let Err(error) = add.run_within(RUSTUP_LIMIT) else {
                return Ok(());
            };
            println!("set-up: guest toolchain: {error:#}; taking Debian's instead");
            remember_failure(context, &error)?;
        }
        if choice()? == Some(Kind::Rustup) {
            bail!("MILLSTREAM_GUEST_TOOLCHAIN=rustup, and rustup cannot add {TARGET}");
        }
        packages::install(DEBIAN_PACKAGES)
    }
}

/// Is rustup to be asked for the target (again)?
fn asks_rustup(context: &Context) -> bool {
    let chosen = choice().ok().flatten();
    if chosen == Some(Kind::Debian) || !on_path("rustup") {
        return false;
    }
    // Without Debian's packages as the way out there is nothing to lose.
    chosen == Some(Kind::Rustup) || !on_path("apt-get") || !failed_lately(&failure_path(context))
}

fn failure_path(context: &Context) -> PathBuf {
    context.cache.join("rustup-target.failed")
}

fn failed_lately(path: &Path) -> bool {
    let modified = fs::metadata(path).and_then(|metadata| metadata.modified());
    modified
        .is_ok_and(|at| SystemTime::now().duration_since(at).unwrap_or_default() < FAILURE_VALIDITY)
}

fn remember_failure(context: &Context, error: &anyhow::Error) -> Result<()> {
    let path = failure_path(context);
    fs::create_dir_all(&context.cache)
        .with_context(|| format!("creating {}", context.cache.display()))?;
    fs::write(
        &path,
        format!("{error:#}\nRemembered for a day; remove this file to ask rustup again.\n"),
    )
    .with_context(|| format!("writing {}", path.display()))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Rustup,
    Debian,
}

/// `MILLSTREAM_GUEST_TOOLCHAIN`, for tests of the one where both are there.
fn choice() -> Result<Option<Kind>> {
    match env::var("MILLSTREAM_GUEST_TOOLCHAIN").as_deref() {
        Err(env::VarError::NotPresent) | Ok("") => Ok(None),
        Ok("rustup") => Ok(Some(Kind::Rustup)),
        Ok("debian") => Ok(Some(Kind::Debian)),
        other => bail!("MILLSTREAM_GUEST_TOOLCHAIN is {other:?}; expected `rustup` or `debian`"),
    }
}

/// A look at the machine.
pub enum Detected {
    /// A toolchain that can build plugins.
    Found(Toolchain),
    /// None, and what is missing.
    Absent(String),
}

/// A toolchain that can build plugins.
#[derive(Debug, Clone)]
pub struct Toolchain {
    kind: Kind,
    /// What `rustc -vV` says: part of the identity of everything it builds.
    version: String,
    /// Where rustup's `rust-lld` and `wasm-component-ld` are.
    linkers: PathBuf,
}

impl Toolchain {
    /// Looks for a toolchain, rustup's first.
    pub fn detect(context: &Context) -> Result<Detected> {
        let host = HostRustc::ask(context)?;
        let target_lib = host.sysroot.join("lib/rustlib").join(TARGET).join("lib");
        let chosen = choice()?;
        if chosen != Some(Kind::Debian) && has_std(&target_lib) {
            let version = host.version;
            return Ok(Detected::Found(Self {
                kind: Kind::Rustup,
                version,
                linkers: host.linkers,
            }));
        }
        if chosen == Some(Kind::Rustup) {
            return Ok(Detected::Absent(format!(
                "no target {TARGET} in {}",
                host.sysroot.display()
            )));
        }
        match debian_version(&host.linkers) {
            Ok(version) => Ok(Detected::Found(Self {
                kind: Kind::Debian,
                version,
                linkers: host.linkers,
            })),
            Err(why) => Ok(Detected::Absent(format!(
                "no target {TARGET} in the Rust toolchain, and {why}"
            ))),
        }
    }

    /// The toolchain, or an error that says what to do; for code that runs after set-up.
    pub fn require(context: &Context) -> Result<Self> {
        match Self::detect(context)? {
            Detected::Found(toolchain) => Ok(toolchain),
            Detected::Absent(why) => Err(anyhow!("{why}; run `cargo xtask setup`")),
        }
    }

    /// `cargo build --release` for the guest target; the caller adds what to build and where to.
    pub fn cargo_build(&self, context: &Context) -> Result<Cmd> {
        let mut cmd = Cmd::new(&context.cargo);
        cmd.args(["build", "--release", "--target", TARGET]);
        let mut flags = vec![
            "-Ctarget-feature=+simd128".to_owned(),
            // Two vectors a turn: loops over bytes pay half of the host's interruption checks.
            "-Cllvm-args=-force-vector-interleave=2".to_owned(),
        ];
        if self.kind == Kind::Debian {
            flags.push(format!("-Lnative={DEBIAN_WASI_LIBC}"));
            let path = env::var_os("PATH").unwrap_or_default();
            let folders = [self.linkers.clone()]
                .into_iter()
                .chain(env::split_paths(&path));
            cmd.arg("-Zbuild-std=std,panic_abort")
                .env("RUSTC", DEBIAN_RUSTC)
                // Lets a stable cargo and rustc take -Zbuild-std.
                .env("RUSTC_BOOTSTRAP", "1")
                .env(
                    "PATH",
                    env::join_paths(folders).context("putting the linkers on PATH")?,
                );
        }
        // The encoded form beats RUSTFLAGS and every config file, and takes paths with spaces.
        cmd.env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"));
        Ok(cmd)
    }

    /// For people.
    pub fn description(&self) -> String {
        let version = self.version.lines().next().unwrap_or_default();
        match self.kind {
            Kind::Rustup => format!("{version}, target {TARGET}"),
            Kind::Debian => format!("Debian's {version}, standard library from source"),
        }
    }

    /// Changes whenever the same sources may build to something else.
    pub fn identity(&self) -> String {
        format!("{:?} simd128 {}", self.kind, self.version)
    }
}

struct HostRustc {
    version: String,
    sysroot: PathBuf,
    linkers: PathBuf,
}

impl HostRustc {
    fn ask(context: &Context) -> Result<Self> {
        let ask = |args: &[&str]| {
            Cmd::new(&context.rustc)
                .dir(&context.root)
                .args(args)
                .output()
        };
        let version = ask(&["-vV"])?;
        let sysroot = PathBuf::from(ask(&["--print", "sysroot"])?.trim());
        let host = version
            .lines()
            .find_map(|line| line.strip_prefix("host: "))
            .context("`rustc -vV` does not name its host")?;
        let linkers = sysroot.join("lib/rustlib").join(host).join("bin");
        Ok(Self {
            sysroot,
            linkers,
            version,
        })
    }
}

fn has_std(target_lib: &Path) -> bool {
    fs::read_dir(target_lib).is_ok_and(|entries| {
        entries
            .flatten()
            .any(|entry| entry.file_name().to_string_lossy().starts_with("libstd-"))
    })
}

/// The version of Debian's rustc when everything that it needs is there, else what is missing.
fn debian_version(linkers: &Path) -> Result<String, String> {
    let ask = |args: &[&str]| Cmd::new(DEBIAN_RUSTC).args(args).probe();
    // Debian's package `rustup` puts a proxy in the same place; its sysroot is elsewhere.
    let sysroot = ask(&["--print", "sysroot"]).map(|out| PathBuf::from(out.trim()));
    let Some(sysroot) = sysroot.filter(|path| path == Path::new("/usr")) else {
        return Err(format!("{DEBIAN_RUSTC} is not Debian's"));
    };
    let needed = [
        sysroot.join("lib/rustlib/src/rust/library/std/Cargo.toml"),
        Path::new(DEBIAN_WASI_LIBC).join("libc.a"),
        linkers.join("rust-lld"),
        linkers.join("wasm-component-ld"),
    ];
    if let Some(path) = needed.iter().find(|path| !path.is_file()) {
        return Err(format!("no {}", path.display()));
    }
    ask(&["-vV"]).ok_or_else(|| format!("`{DEBIAN_RUSTC} -vV` failed"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_remembered_for_a_day() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("failed");
        assert!(!failed_lately(&path));
        fs::write(&path, "").unwrap();
        assert!(failed_lately(&path));
        let file = fs::File::options().write(true).open(&path).unwrap();
        file.set_modified(SystemTime::now() - FAILURE_VALIDITY - Duration::from_secs(1))
            .unwrap();
        assert!(!failed_lately(&path));
    }

    #[test]
    fn a_debian_build_names_its_compiler_by_path() {
        let context = Context::from_env().unwrap();
        let toolchain = Toolchain {
            kind: Kind::Debian,
            version: String::new(),
            linkers: PathBuf::from("/linkers"),
        };
        let command = toolchain.cargo_build(&context).unwrap().command();
        let env: Vec<_> = command
            .get_envs()
            .filter_map(|(name, value)| Some((name.to_str()?, value?.to_str()?)))
            .collect();
        assert!(env.contains(&("RUSTC", "/usr/bin/rustc")));
        assert!(
            env.iter()
                .any(|(name, value)| *name == "PATH" && value.starts_with("/linkers:"))
        );
        assert!(
            command
                .get_args()
                .any(|arg| arg == "-Zbuild-std=std,panic_abort")
        );
    }
}
