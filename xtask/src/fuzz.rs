//! `cargo xtask fuzz`: builds the targets of `fuzz/` and lets each look for a crash for a while.
//!
//! `cargo fuzz` needs a nightly toolchain, for the address sanitizer. The modules under test have no `unsafe`, so
//! coverage alone finds what there is to find, and that the stable compiler offers through LLVM's own pass.

use std::ffi::OsStr;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, bail};

use crate::cargo::{self, BuildMessages};
use crate::context::Context;
use crate::process::Cmd;
use crate::shared_target::SharedTarget;

/// Seconds that a target looks, unless told otherwise.
const DEFAULT_SECONDS: u32 = 60;
/// Seconds that a target looks among the tests.
const SECONDS_AMONG_TESTS: u32 = 5;
/// What `cargo fuzz` sets, less the sanitizer: coverage by edge, and what is compared with what.
const COVERAGE: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-trace-compares -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
    -Cllvm-args=-sanitizer-coverage-pc-table -Cdebug-assertions -Coverflow-checks --cfg fuzzing";

/// `[--seconds N] [TARGET]...`
pub fn run(context: &Context, args: &[&str]) -> Result<()> {
    let (seconds, named) = match args {
        ["--seconds", seconds, named @ ..] => match seconds.parse() {
            Ok(seconds) if seconds > 0 => (seconds, named),
            _ => bail!("`--seconds {seconds}`: expected a number from 1 on"),
        },
        named => (DEFAULT_SECONDS, named),
    };
    let targets = build(context)?;
    for name in named {
        if !targets.iter().any(|(target, _)| target == name) {
            let names: Vec<_> = targets.iter().map(|(target, _)| target.as_str()).collect();
            bail!(
                "there is no fuzz target `{name}`; there are {}",
                names.join(", ")
            );
        }
    }
    for (target, command) in &targets {
        if named.is_empty() || named.contains(&target.as_str()) {
            look_for_a_crash(context, target, command, seconds)?;
        }
    }
    Ok(())
}

/// Every target, for so long that one which no longer works is noticed.
pub fn among_tests(context: &Context) -> Result<()> {
    run(context, &["--seconds", &SECONDS_AMONG_TESTS.to_string()])
}

/// Builds all targets; returns them by name.
fn build(context: &Context) -> Result<Vec<(String, Cmd)>> {
    let manifest = context.fuzz_workspace();
    let folder = context.cache.join("fuzz-target");
    let packages = cargo::packages(context, &manifest)?;
    let own: Vec<_> = packages.into_iter().map(|package| package.name).collect();
    let _claim = SharedTarget::claim(&folder, &context.root, &own)?;
    let mut build = Cmd::new(&context.cargo);
    build
        .dir(&context.root)
        .env("RUSTFLAGS", COVERAGE)
        .args(["build", "--release", "--bins", "--manifest-path"])
        .arg(&manifest)
        .arg("--target-dir")
        .arg(&folder)
        // Named, so that build scripts and macros are built without the flags.
        .args(["--target", &host_triple(context)?]);
    let messages = BuildMessages::of(build)?;
    let sources = context.root.join("fuzz/fuzz_targets");
    let mut targets = Vec::new();
    for entry in fs::read_dir(&sources).with_context(|| format!("reading {}", sources.display()))? {
        let path = entry?.path();
        let Some(name) = path.file_stem().and_then(OsStr::to_str) else {
            continue;
        };
        let binary = messages.executable(name).with_context(|| {
            format!(
                "fuzz/Cargo.toml has no [[bin]] for {}",
                context.relative(&path).display()
            )
        })?;
        targets.push((name.to_owned(), Cmd::new(binary)));
    }
    targets.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(targets)
}

fn host_triple(context: &Context) -> Result<String> {
    let mut version = Cmd::new("rustc");
    version.dir(&context.root).arg("-vV");
    let text = version.output()?;
    let line = text.lines().find_map(|line| line.strip_prefix("host: "));
    line.map(str::to_owned)
        .context("`rustc -vV` does not say for which host it is")
}

/// Runs a target from what it found before and from its seeds on.
fn look_for_a_crash(context: &Context, target: &str, command: &Cmd, seconds: u32) -> Result<()> {
    let corpus = context.cache.join("fuzz-corpus").join(target);
    let artifacts = context.root.join("fuzz/artifacts").join(target);
    for folder in [&corpus, &artifacts] {
        fs::create_dir_all(folder).with_context(|| format!("creating {}", folder.display()))?;
    }
    println!("fuzz target {target}, for {seconds} s");
    let mut fuzz = command.clone();
    fuzz.arg(format!("-max_total_time={seconds}"))
        .args(["-verbosity=0", "-print_final_stats=1"])
        .arg(format!("-artifact_prefix={}/", artifacts.display()))
        .arg(&corpus);
    let seeds = context.root.join("fuzz/seeds").join(target);
    if Path::is_dir(&seeds) {
        fuzz.arg(seeds);
    }
    fuzz.run().with_context(|| {
        format!(
            "fuzz target `{target}` has found a crash; what it was fed is in {}",
            artifacts.display()
        )
    })
}
