//! `cargo xtask check`: formatting, clippy and tidy, on every workspace of the repository.

use anyhow::{Result, bail};

use crate::context::Context;
use crate::plugin;
use crate::process::Cmd;
use crate::{setup, tidy};

type Check = fn(&Context) -> Result<()>;

/// Set-up for the host, then every check.
pub fn run(context: &Context) -> Result<()> {
    setup::ensure(context, setup::HOST)?;
    checks(context)
}

/// Every check; all of them run, so that one run shows all there is to mend.
pub fn checks(context: &Context) -> Result<()> {
    let parts: [(&str, Check); 3] = [
        ("formatting", formatting),
        ("tidy", tidy::run),
        ("clippy", clippy),
    ];
    let mut failed = Vec::new();
    for (name, check) in parts {
        heading(name);
        if let Err(error) = check(context) {
            println!("{error:#}");
            failed.push(name);
        }
    }
    if failed.is_empty() {
        Ok(())
    } else {
        bail!("check failed: {}", failed.join(", "))
    }
}

/// Prints where a long run is.
pub fn heading(name: &str) {
    println!("\n== {name} ==");
}

fn formatting(context: &Context) -> Result<()> {
    let mut manifests = context.guest_workspaces();
    manifests.insert(0, context.root.join("Cargo.toml"));
    manifests.push(context.fuzz_workspace());
    let mut unformatted = 0;
    for manifest in manifests {
        let mut fmt = Cmd::new(&context.cargo);
        fmt.dir(&context.root)
            .args(["fmt", "--all", "--check", "--manifest-path"])
            .arg(&manifest);
        if !fmt.status()?.success() {
            unformatted += 1;
            println!(
                "mend it: cargo fmt --all --manifest-path {}",
                context.relative(&manifest).display()
            );
        }
    }
    if unformatted == 0 {
        Ok(())
    } else {
        bail!("{unformatted} workspace(s) are not formatted")
    }
}

/// Lints every workspace, also behind one that fails.
fn clippy(context: &Context) -> Result<()> {
    let lints = ["--", "--deny", "warnings"];
    let mut failed = 0;
    {
        let _claim = context.claim_target()?;
        let mut clippy = context.host_cargo()?;
        clippy.args(["clippy", "--workspace", "--all-targets"]);
        clippy
            .args(["--features", "millstream/failpoints"])
            .args(lints);
        failed += u32::from(!clippy.status()?.success());
    }
    let _claim = plugin::claim_guest_target(context)?;
    let guests = context.guest_workspaces().into_iter();
    let guests = guests.map(|manifest| (manifest, &["--all-targets"][..]));
    // It includes modules of the runtime, whose tests need the runtime's crates.
    let fuzz = (context.fuzz_workspace(), &["--lib", "--bins"][..]);
    for (manifest, targets) in guests.chain([fuzz]) {
        let mut clippy = context.guest_native_cargo();
        clippy
            .args(["clippy", "--workspace", "--manifest-path"])
            .arg(&manifest);
        clippy.args(targets).args(lints);
        failed += u32::from(!clippy.status()?.success());
    }
    if failed == 0 {
        Ok(())
    } else {
        bail!("{failed} workspace(s) do not pass clippy")
    }
}
