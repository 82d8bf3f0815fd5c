//! `cargo xtask test`: set-up, every check, every test. What `.ci/run` runs.

use anyhow::{Context as _, Result, bail};

use crate::cargo::BuildMessages;
use crate::check::{self, heading};
use crate::context::Context;
use crate::process::Cmd;
use crate::{deploy_test, fuzz, guide_test, plugin, schema_test, setup};

/// Runs all of it, and stops at the first part that fails.
pub fn run(context: &Context) -> Result<()> {
    heading("set-up");
    setup::ensure(context, setup::ALL)?;
    println!("set-up: everything is there");
    check::checks(context)?;
    guest_tests(context)?;
    host_tests(context, None)?;
    fuzz(context)?;
    with_the_command(context)?;
    documentation(context)?;
    println!("\nAll checks and tests passed.");
    Ok(())
}

/// Set-up, and the tests of the runtime and of xtask that have `filter` in their names.
pub fn some(context: &Context, filter: &str) -> Result<()> {
    setup::ensure(context, setup::ALL)?;
    host_tests(context, Some(filter))
}

/// sdk/ and plugins/, compiled for the host: plugin logic needs no Wasm to be tested.
fn guest_tests(context: &Context) -> Result<()> {
    let _claim = plugin::claim_guest_target(context)?;
    for manifest in context.guest_workspaces() {
        heading(&format!(
            "native tests of {}",
            context.relative(&manifest).display()
        ));
        let mut test = context.guest_native_cargo();
        test.args(["test", "--workspace", "--manifest-path"])
            .arg(&manifest)
            .run()?;
    }
    Ok(())
}

fn host_tests(context: &Context, filter: Option<&str>) -> Result<()> {
    heading("tests of the runtime and of xtask");
    let _claim = context.claim_target()?;
    let components = setup::plugins::built_components(context)?;
    let mut test = context.host_cargo()?;
    test.args(["test", "--workspace", "--features", "millstream/failpoints"]);
    test.env("MILLSTREAM_TEST_PLUGINS", components);
    let Some(filter) = filter else {
        return test.run();
    };
    test.args(["--", filter]);
    let (text, status) = test.shown()?;
    test.expect_success(status)?;
    // To cargo that is a success, too.
    if have_none_run(&text) {
        bail!("no test of the runtime and of xtask has `{filter}` in its name");
    }
    Ok(())
}

/// Whether every test binary says that it has run nothing.
fn have_none_run(text: &str) -> bool {
    let mut results = text
        .lines()
        .filter(|line| line.starts_with("test result: "));
    results.all(|line| line.contains(" 0 passed;"))
}

/// The decoders of bytes from outside, fed with what nobody thought of.
fn fuzz(context: &Context) -> Result<()> {
    heading("fuzz targets");
    fuzz::among_tests(context)
}

/// The HTTP API against its OpenAPI document, the guide's first plugin, and a deploy, with the command that the tests before were
/// made for.
fn with_the_command(context: &Context) -> Result<()> {
    let _claim = context.claim_target()?;
    let mut build = context.host_cargo()?;
    // As for the tests: `cargo build` would leave out what only they depend on, and with it features of what the command
    // depends on, and so build it once more.
    build.args(["test", "--no-run", "--workspace"]);
    build.args(["--features", "millstream/failpoints"]);
    let millstream = BuildMessages::of(build)?
        .executable("millstream")
        .context("cargo did not say where it put the millstream binary")?;
    heading("HTTP API against its OpenAPI document");
    schema_test::run(context, &Cmd::new(&millstream))?;
    heading("first plugin of the plugin guide");
    guide_test::run(context, &millstream)?;
    heading("deploy-plugin");
    deploy_test::run(context, &Cmd::new(&millstream))
}

/// Broken links in documentation are errors. The runtime's is read by its contributors, private
/// items included, so public items may link to private ones.
fn documentation(context: &Context) -> Result<()> {
    heading("documentation");
    {
        let _claim = context.claim_target()?;
        let mut doc = context.host_cargo()?;
        doc.args([
            "doc",
            "--workspace",
            "--no-deps",
            "--document-private-items",
        ]);
        doc.args(["--features", "millstream/failpoints"])
            .env(
                "RUSTDOCFLAGS",
                "--deny warnings --allow rustdoc::private-intra-doc-links",
            )
            .run()?;
    }
    let _claim = plugin::claim_guest_target(context)?;
    let mut doc = context.guest_native_cargo();
    doc.args(["doc", "--workspace", "--no-deps", "--manifest-path"])
        .arg(context.root.join("sdk/Cargo.toml"));
    doc.env("RUSTDOCFLAGS", "--deny warnings").run()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_that_is_no_part_of_a_name_is_noticed() {
        let result = |passed: u32| {
            format!(
                "running {passed} tests\ntest result: ok. {passed} passed; 0 failed; 0 ignored\n\n"
            )
        };
        assert!(have_none_run(&[result(0), result(0)].concat()));
        assert!(!have_none_run(&[result(0), result(10), result(0)].concat()));
    }
}
