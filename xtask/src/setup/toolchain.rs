//! The host's Rust toolchain with rustfmt and clippy.

use anyhow::{Result, bail};

use super::{State, Step};
use crate::context::Context;
use crate::process::{Cmd, on_path};

/// rustc, cargo, rustfmt and clippy of the version in `rust-toolchain.toml`.
pub struct RustToolchain;

impl Step for RustToolchain {
    fn name(&self) -> &'static str {
        "Rust toolchain"
    }

    fn state(&self, context: &Context) -> Result<State> {
        let missing: Vec<_> = [("fmt", "rustfmt"), ("clippy", "clippy")]
            .into_iter()
            .filter(|(verb, _)| {
                Cmd::new(&context.cargo)
                    .dir(&context.root)
                    .args([verb, "--version"])
                    .probe()
                    .is_none()
            })
            .map(|(_, component)| component)
            .collect();
        if !missing.is_empty() {
            let command = format!("rustup component add {}", missing.join(" "));
            return Ok(State::Missing {
                what: format!("no {}", missing.join(", no ")),
                command,
            });
        }
        let version = Cmd::new(&context.rustc)
            .dir(&context.root)
            .arg("--version")
            .output()?;
        Ok(State::Ready(format!("{}, rustfmt, clippy", version.trim())))
    }

    fn bring(&self, context: &Context) -> Result<()> {
        if !on_path("rustup") {
            bail!(
                "there is no rustup to add rustfmt and clippy with; install them beside {}",
                context.cargo.display()
            );
        }
        Cmd::new("rustup")
            .dir(&context.root)
            .args(["component", "add", "rustfmt", "clippy"])
            .run()
    }
}
