//! `cargo xtask`: set-up, demo, tests, checks, plugin builds and benchmarks of Millstream.
//!
//! It must build in seconds on a fresh machine, so it depends on next to nothing and never on the
//! runtime, which it drives through the `millstream` command like everyone else.

// A command-line tool talks on standard output.
#![allow(clippy::print_stdout, clippy::print_stderr)]

mod bench;
mod cargo;
mod check;
mod context;
mod demo;
mod deploy_plugin;
mod deploy_test;
mod doctor;
mod environment;
mod fuzz;
mod guide_test;
mod plugin;
mod process;
mod schema_test;
mod server;
mod setup;
mod shared_target;
mod test;
mod tidy;

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Result, bail};

use context::Context;

const HELP: &str = "\
Usage: cargo xtask <verb>

  demo [--kill N]    run examples/flights on real data and check its result; SIGKILL it N times on the way
  test               set-up, check, and every test
  test FILTER        set-up, and those tests of the runtime and of xtask whose names have FILTER in them
  check              formatting, clippy and tidy
  tidy               the rules of the code base that no compiler checks
  fuzz [--seconds N] [TARGET]...
                     look for a crash in the decoders of bytes from outside, for 60 s each or N
  bench WHICH [ARGS] plugin, log, queue, pipeline, poison, service, deploy, server or http;
                     ARGS go to `millstream bench`

  build-plugin DIR   build the plugin project in DIR (also outside the repository) to a component
  deploy-plugin DIR [--name NAME] [ARGS]
                     build the plugin project in DIR and deploy it to the running server; ARGS go to
                     `millstream plugin upload`: --server URL, --canary PARTITIONS --for DURATION, ...
  build-plugins      build every plugin of the repository

  setup              bring everything that builds need, once per machine
  doctor             what is there, what is missing, and the command that brings it
  env                shell exports for calling cargo directly: eval \"$(cargo xtask env)\"

What is costly to build is kept in ~/.cache/millstream (MILLSTREAM_CACHE names another folder).
Every verb that builds does the set-up it needs itself.
";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match run(&args) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &[String]) -> Result<ExitCode> {
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let [verb, rest @ ..] = words.as_slice() else {
        print!("{HELP}");
        return Ok(ExitCode::FAILURE);
    };
    if matches!(*verb, "help" | "--help" | "-h") {
        print!("{HELP}");
        return Ok(ExitCode::SUCCESS);
    }
    let context = Context::from_env()?;
    match (*verb, rest) {
        ("demo", []) => demo::run(&context, 0)?,
        ("demo", ["--kill", count]) => {
            let Ok(count) = count.parse() else {
                bail!("`--kill {count}`: expected a number of kills, for example `--kill 5`");
            };
            demo::run(&context, count)?;
        }
        ("demo", _) => {
            bail!("`cargo xtask demo` takes `--kill COUNT` or nothing; see `cargo xtask help`")
        }
        ("test", []) => test::run(&context)?,
        ("test", [filter]) => test::some(&context, filter)?,
        ("fuzz", args) => fuzz::run(&context, args)?,
        ("check", []) => check::run(&context)?,
        ("tidy", []) => tidy::run(&context)?,
        ("bench", [which, args @ ..]) => bench::run(&context, which, args)?,
        ("build-plugin", [dir]) => {
            setup::ensure(&context, setup::GUEST)?;
            println!("{}", plugin::build(&context, Path::new(dir))?.display());
        }
        ("deploy-plugin", [dir, args @ ..]) => deploy_plugin::run(&context, dir, args)?,
        ("build-plugins", []) => {
            setup::ensure(&context, setup::GUEST)?;
            setup::ensure(&context, &[&setup::plugins::Plugins])?;
            println!("{}", setup::plugins::built_components(&context)?.display());
        }
        ("setup", []) => {
            setup::ensure(&context, setup::ALL)?;
            println!("set-up: everything is there");
        }
        ("doctor", []) => return doctor::run(&context),
        ("env", []) => environment::run(&context)?,
        ("bench" | "build-plugin" | "deploy-plugin", _) => {
            bail!("`cargo xtask {verb}` needs an argument; see `cargo xtask help`")
        }
        ("test", _) => {
            bail!("`cargo xtask test` takes one filter or nothing; see `cargo xtask help`")
        }
        ("check" | "tidy" | "build-plugins" | "setup" | "doctor" | "env", _) => {
            bail!("`cargo xtask {verb}` takes no argument; see `cargo xtask help`")
        }
        _ => bail!("there is no `cargo xtask {verb}`; see `cargo xtask help`"),
    }
    Ok(ExitCode::SUCCESS)
}
