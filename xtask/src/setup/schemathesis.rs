//! Schemathesis, which tests the HTTP API against its OpenAPI document: a Python environment in the cache folder, with
//! the versions of `tests/schema/requirements.txt`.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use sha2::{Digest as _, Sha256};

use super::packages;
use super::{State, Step};
use crate::context::Context;
use crate::process::Cmd;

const REQUIREMENTS: &str = "tests/schema/requirements.txt";
const DEBIAN_PACKAGES: &[&str] = &["python3", "python3-venv"];

/// The set-up step.
pub struct Schemathesis;

impl Step for Schemathesis {
    fn name(&self) -> &'static str {
        "schemathesis"
    }

    fn state(&self, context: &Context) -> Result<State> {
        let program = program(context)?;
        // Python itself may have been replaced since, so that being there is not enough.
        if let Some(version) = Cmd::new(&program).arg("--version").probe() {
            let found = format!("{}, {}", version.trim(), program.display());
            return Ok(State::Ready(found));
        }
        Ok(State::Missing {
            what: format!("no {} that runs", program.display()),
            command: if can_make_environments() {
                "cargo xtask setup".to_owned()
            } else {
                packages::install_command(DEBIAN_PACKAGES)
            },
        })
    }

    fn bring(&self, context: &Context) -> Result<()> {
        if !can_make_environments() {
            packages::install(DEBIAN_PACKAGES)?;
        }
        let folder = folder(context)?;
        let mut make = Cmd::new("python3");
        make.args(["-m", "venv", "--clear"]).arg(&folder);
        make.run()?;
        let mut install = Cmd::new(folder.join("bin/pip"));
        install
            .args(["install", "--quiet", "--disable-pip-version-check"])
            .arg("--requirement")
            .arg(context.root.join(REQUIREMENTS));
        install.run().context(
            "cannot install schemathesis; it needs Python 3.10 or later, and PyPI or a mirror of it (PIP_INDEX_URL names one)",
        )
    }
}

/// Can Python make an environment with pip in it? Debian has that in a package of its own.
fn can_make_environments() -> bool {
    let mut python = Cmd::new("python3");
    python.args(["-c", "import ensurepip, venv"]);
    python.probe().is_some()
}

/// The `schemathesis` command.
pub fn program(context: &Context) -> Result<PathBuf> {
    Ok(folder(context)?.join("bin/schemathesis"))
}

/// The environment's folder: another one for other versions, so that clones do not take each other's.
fn folder(context: &Context) -> Result<PathBuf> {
    let path = context.root.join(REQUIREMENTS);
    let requirements = fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
    let hash: String = Sha256::digest(requirements)
        .iter()
        .take(8)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let name = format!("schemathesis-{hash}");
    Ok(context.cache.join("python").join(name))
}
