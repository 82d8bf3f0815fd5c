//! Debian packages: what the C++ of RocksDB and its bindings need.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use super::{State, Step};
use crate::context::Context;
use crate::process::{Cmd, is_interactive, on_path};

/// A C and C++ compiler, and libclang for bindgen.
pub struct NativePackages;

impl Step for NativePackages {
    fn name(&self) -> &'static str {
        "native packages"
    }

    fn state(&self, _: &Context) -> Result<State> {
        let missing = missing_packages();
        if missing.is_empty() {
            let libclang = find_libclang()
                .map(|path| path.display().to_string())
                .unwrap_or_default();
            return Ok(State::Ready(format!("C++ compiler, {libclang}")));
        }
        let what = missing
            .iter()
            .map(|(what, _)| *what)
            .collect::<Vec<_>>()
            .join(", ");
        let packages: Vec<_> = missing.iter().map(|(_, package)| *package).collect();
        Ok(State::Missing {
            what,
            command: install_command(&packages),
        })
    }

    fn bring(&self, _: &Context) -> Result<()> {
        install(
            &missing_packages()
                .iter()
                .map(|(_, package)| *package)
                .collect::<Vec<_>>(),
        )
    }
}

/// What is missing, and the package that has it.
fn missing_packages() -> Vec<(&'static str, &'static str)> {
    let mut missing = Vec::new();
    if !compiler_works("CC", "cc") {
        missing.push(("no C compiler", "gcc"));
    }
    if !compiler_works("CXX", "c++") {
        missing.push(("no C++ compiler", "g++"));
    }
    if find_libclang().is_none() {
        missing.push((
            "no libclang (bindgen reads RocksDB's header with it)",
            "libclang-dev",
        ));
    }
    missing
}

fn compiler_works(variable: &str, default: &str) -> bool {
    let named = std::env::var(variable)
        .ok()
        .filter(|value| !value.trim().is_empty());
    // The variable may hold arguments, as in CXX="ccache c++".
    let line = named.unwrap_or_else(|| default.to_owned());
    let mut words = line.split_whitespace();
    let Some(program) = words.next() else {
        return false;
    };
    Cmd::new(program)
        .args(words)
        .arg("--version")
        .probe()
        .is_some()
}

/// Where bindgen (by way of clang-sys) looks for libclang, in the same order.
fn find_libclang() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("LIBCLANG_PATH").map(PathBuf::from) {
        return if path.is_dir() {
            libclang_in(&path)
        } else {
            path.is_file().then_some(path)
        };
    }
    let mut folders: Vec<PathBuf> = Vec::new();
    if let Some(folder) = Cmd::new("llvm-config").arg("--libdir").probe() {
        folders.push(PathBuf::from(folder.trim()));
    }
    for parent in ["/usr/lib", "/usr/local/lib"] {
        let parent = Path::new(parent);
        folders.push(parent.to_owned());
        for name in entry_names(parent) {
            if name.starts_with("llvm") {
                folders.push(parent.join(name).join("lib"));
            } else if name.contains("-linux-") {
                folders.push(parent.join(name));
            }
        }
    }
    folders.push(PathBuf::from("/usr/lib64"));
    folders.iter().find_map(|folder| libclang_in(folder))
}

fn libclang_in(folder: &Path) -> Option<PathBuf> {
    let name = entry_names(folder)
        .into_iter()
        .find(|name| is_libclang(name))?;
    Some(folder.join(name))
}

/// `libclang.so`, `libclang.so.1`, `libclang-14.so`, `libclang-14.so.1`; not `libclang-cpp.so`.
fn is_libclang(name: &str) -> bool {
    let Some(rest) = name.strip_prefix("libclang") else {
        return false;
    };
    let rest = rest.trim_start_matches(|c: char| c == '-' || c == '.' || c.is_ascii_digit());
    rest == "so"
        || rest
            .strip_prefix("so.")
            .is_some_and(|version| version.starts_with(|c: char| c.is_ascii_digit()))
}

fn entry_names(folder: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Vec::new();
    };
    let mut names: Vec<_> = entries
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

/// What one types to install `packages`.
pub fn install_command(packages: &[&str]) -> String {
    let sudo = if is_root() { "" } else { "sudo " };
    format!("{sudo}apt-get install {}", packages.join(" "))
}

/// Installs Debian packages, as root or through sudo. Where neither is possible the error says
/// what to type.
pub fn install(packages: &[&str]) -> Result<()> {
    let command = install_command(packages);
    if !on_path("apt-get") {
        bail!(
            "this is not a Debian system; install what Debian calls {} and run this again",
            packages.join(" ")
        );
    }
    let prefix: &[&str] = if is_root() {
        &[]
    } else if on_path("sudo")
        && (is_interactive() || Cmd::new("sudo").args(["-n", "true"]).probe().is_some())
    {
        &["sudo"]
    } else {
        bail!("this needs root; run `{command}` and then this again");
    };
    let apt = |args: &[&str]| {
        // env(1) and not a variable of the process: sudo would drop that one.
        let words = prefix
            .iter()
            .chain(&["env", "DEBIAN_FRONTEND=noninteractive", "apt-get"])
            .chain(args);
        let mut words = words.copied();
        let mut cmd = Cmd::new(words.next().unwrap_or("env"));
        cmd.args(words);
        cmd
    };
    apt(&["update", "--quiet"])
        .run()
        .context("reading the package lists")?;
    let mut install = apt(&["install", "--quiet", "--yes", "--no-install-recommends"]);
    install.args(packages);
    install.run()
}

fn is_root() -> bool {
    Cmd::new("id")
        .arg("-u")
        .probe()
        .is_some_and(|id| id.trim() == "0")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libclang_is_told_from_its_neighbours() {
        for name in [
            "libclang.so",
            "libclang.so.1",
            "libclang-14.so",
            "libclang-14.so.1",
            "libclang-14.so.14.0.6",
        ] {
            assert!(is_libclang(name), "{name}");
        }
        for name in [
            "libclang-cpp.so",
            "libclang-cpp.so.14",
            "libclangAST.a",
            "libclang.a",
            "libclang-14.sox",
            "clang",
        ] {
            assert!(!is_libclang(name), "{name}");
        }
    }

    #[test]
    fn the_command_names_every_package() {
        assert!(
            install_command(&["g++", "libclang-dev"]).ends_with("apt-get install g++ libclang-dev")
        );
    }
}
