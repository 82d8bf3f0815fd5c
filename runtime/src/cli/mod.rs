//! The command line of the `millstream` binary, on an embedded data directory.
//!
//! One file per verb. What they share: [`open`] opens the data directory, [`output`] writes to
//! standard output as a table or JSON, [`progress`] draws on standard error, [`interrupt`] listens
//! for Ctrl-C and SIGTERM, [`exit`] turns what happened into an exit code.

mod apply;
mod backup;
mod check;
mod client;
mod completions;
mod confirm;
mod consume;
mod dead_letter;
mod exit;
mod group;
mod health;
mod input;
mod interrupt;
mod json_line;
mod listen_address;
mod logs;
mod open;
mod output;
mod pipeline;
mod plugin;
mod plugin_metrics;
mod produce;
mod progress;
mod quantity;
mod queue;
mod restore;
mod run;
mod screen;
mod serve;
mod signatures;
mod telemetry;
mod token;
mod top;
mod topic;
mod traces;
mod verify;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Parser, Subcommand};

use crate::storage::{Durability, open_files};
use exit::Ending;
use output::{Format, Output};
use telemetry::Failures;

/// The data directory, unless another one is named.
const DEFAULT_DATA_DIR: &str = "./millstream-data";

/// Stream processing in one binary: topics and queues, and pipelines of WebAssembly plugins.
#[derive(Debug, Parser)]
#[command(
    name = "millstream",
    version,
    after_help = exit::HELP,
    disable_help_subcommand = true,
    max_term_width = 100
)]
struct Cli {
    #[command(flatten)]
    global: GlobalArgs,
    #[command(subcommand)]
    command: Command,
}

/// Options of all verbs.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Global options")]
pub struct GlobalArgs {
    /// The data directory
    #[arg(
        long,
        global = true,
        value_name = "DIR",
        env = "MILLSTREAM_DATA_DIR",
        default_value = DEFAULT_DATA_DIR
    )]
    pub data_dir: PathBuf,

    /// The server to ask, such as http://127.0.0.1:8474 [default: the one that holds the data directory, if one
    /// does]
    #[arg(long, global = true, value_name = "URL", env = "MILLSTREAM_SERVER")]
    pub server: Option<String>,

    /// The token to show the server
    #[arg(
        long,
        global = true,
        value_name = "TOKEN",
        env = "MILLSTREAM_TOKEN",
        hide_env_values = true
    )]
    pub token: Option<String>,

    /// Certificates to trust, in PEM, instead of those of the system
    #[arg(long, global = true, value_name = "FILE", env = "MILLSTREAM_SERVER_CA")]
    pub server_ca: Option<PathBuf>,

    /// How results are written: tables for people (tab-separated lines in a pipe), or JSON
    ///
    /// JSON is one document per command, and one object a line for `consume`.
    #[arg(
        long,
        global = true,
        value_enum,
        value_name = "FORMAT",
        default_value_t
    )]
    pub output: Format,

    /// When a write counts as acknowledged: `sync` (on disk), `interval(MS)` or `os`
    ///
    /// Nothing acknowledged is lost when the process is killed, under any of them. `sync` also
    /// survives a power loss; `interval(MS)` may lose the last MS milliseconds in one, `os` what
    /// the operating system had not written yet.
    #[arg(
        long,
        global = true,
        value_name = "DURABILITY",
        env = "MILLSTREAM_DURABILITY",
        default_value_t
    )]
    pub durability: Durability,

    /// How log lines are written to standard error
    #[arg(
        long,
        global = true,
        value_enum,
        value_name = "FORMAT",
        env = "MILLSTREAM_LOG_FORMAT",
        default_value_t
    )]
    pub log_format: telemetry::LogFormat,

    /// Log more: -v information, -vv debugging, -vvv everything (RUST_LOG overrides it)
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,

    /// Log errors only, and show no progress
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub quiet: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the pipelines of a manifest
    Run(run::RunArgs),
    /// Serve the data directory over HTTP: topics, queues, groups, pipelines, plugins
    ///
    /// While another process holds the data directory it waits for it, 10 s at most.
    Serve(serve::ServeArgs),
    /// Make a server run a manifest: upload and deploy its plugins, create its topics and queues, start its pipelines
    ///
    /// Where no server runs on the data directory all that is written down there, and the next one starts the pipelines.
    Apply(apply::ApplyArgs),
    /// Check a manifest and its plugins, and show it with every default filled in
    ///
    /// Each plugin is compiled and opened with the `config` of its pipelines, as a run does before it takes records. No
    /// data directory is looked at or made.
    Check(check::CheckArgs),
    /// List, describe, create, alter, delete and compact topics
    #[command(subcommand)]
    Topic(topic::TopicCommand),
    /// List, describe, create, delete, purge queues, and peek into them
    #[command(subcommand)]
    Queue(queue::QueueCommand),
    /// List, show, replay, redrive, export and purge dead letters
    #[command(subcommand)]
    DeadLetter(dead_letter::DeadLetterCommand),
    /// List, describe, reset and delete consumer groups
    #[command(subcommand)]
    Group(group::GroupCommand),
    /// Write records to a topic or a queue, from JSON lines or plain lines
    Produce(produce::ProduceArgs),
    /// Read records of a topic, or take messages out of a queue
    Consume(consume::ConsumeArgs),
    /// List, describe, pause, resume and delete pipelines
    ///
    /// Where no server runs on the data directory the next one starts with what was changed.
    #[command(subcommand)]
    Pipeline(pipeline::PipelineCommand),
    /// Show the pipelines of a server, live: records/s, lag, retries, dead letters
    ///
    /// Until Ctrl-C, or --count. Where no server runs nothing moves: they are shown once.
    Top(top::TopArgs),
    /// Show what a pipeline's plugin has logged, and follow it where a server runs
    Logs(logs::LogsArgs),
    /// List, describe, upload, deploy, roll back and delete plugins
    ///
    /// Where no server runs on the data directory the next one starts with what was changed.
    #[command(subcommand)]
    Plugin(plugin::PluginCommand),
    /// List, create and revoke access tokens
    #[command(subcommand)]
    Token(token::TokenCommand),
    /// Copy the data directory into a new folder, as it is at one moment
    Backup(backup::BackupArgs),
    /// Make a data directory of a backup
    Restore(restore::RestoreArgs),
    /// Read everything that is stored, compare it with its checksums, and say what is wrong
    Verify(verify::VerifyArgs),
    /// Ask a server whether it is ready, for health checks
    Health(health::HealthArgs),
    /// Print the completion script of a shell
    Completions(completions::CompletionsArgs),
    /// Write the manual pages, one for each verb
    Man(completions::ManArgs),
    /// Measure what plugins, the log and pipelines cost, against the plain thing in their place
    #[command(subcommand)]
    Bench(crate::bench::BenchArgs),
}

/// How long threads that are left, when a command has ended, may take.
const LEAVING: Duration = Duration::from_secs(1);

/// Runs the command that the process was started with.
pub fn main() -> ExitCode {
    match Cli::try_parse() {
        Ok(cli) => exit::report(start(cli)),
        Err(error) => exit::report_misuse(&error),
    }
}

fn start(cli: Cli) -> anyhow::Result<Ending> {
    let failures = match cli.command {
        Command::Run(_) => Failures::Printed,
        Command::Bench(_) => Failures::Meant,
        _ => Failures::Logged,
    };
    telemetry::init(&cli.global, failures)?;
    open_files::raise_limit();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        // A plugin that waits for the network holds a thread; they are made when needed.
        .max_blocking_threads(crate::pipeline::MAX_THREADS)
        .build()
        .context("cannot start the threads")?;
    let ending = runtime.block_on(dispatch(cli));
    // What is left waits for an answer that nobody reads any more.
    runtime.shutdown_timeout(LEAVING);
    ending
}

async fn dispatch(cli: Cli) -> anyhow::Result<Ending> {
    let Cli { global, command } = cli;
    let mut output = Output::new(global.output);
    let ending = match command {
        Command::Run(args) => run::run(args, &global, &mut output).await,
        Command::Serve(args) => serve::run(args, &global, &mut output).await,
        Command::Apply(args) => apply::run(&args, &global, &mut output).await,
        Command::Check(args) => check::run(&args, &mut output),
        Command::Topic(command) => topic::run(command, &global, &mut output).await,
        Command::Queue(command) => queue::run(command, &global, &mut output).await,
        Command::DeadLetter(command) => dead_letter::run(command, &global, &mut output).await,
        Command::Group(command) => group::run(command, &global, &mut output).await,
        Command::Produce(args) => produce::run(args, &global, &mut output).await,
        Command::Consume(args) => consume::run(args, &global, &mut output).await,
        Command::Pipeline(command) => pipeline::run(command, &global, &mut output).await,
        Command::Top(args) => top::run(args, &global, &mut output).await,
        Command::Logs(args) => logs::run(args, &global, &mut output).await,
        Command::Plugin(command) => plugin::run(command, &global, &mut output).await,
        Command::Token(command) => token::run(command, &global, &mut output).await,
        Command::Backup(args) => backup::run(&args, &global, &mut output).await,
        Command::Restore(args) => restore::run(&args, &global, &mut output),
        Command::Verify(args) => verify::run(args, &global, &mut output).await,
        Command::Health(args) => health::run(args, &global, &mut output).await,
        Command::Completions(args) => completions::completions(&args, &mut output),
        Command::Man(args) => completions::man(&args, &mut output),
        Command::Bench(args) => crate::bench::run(args, global.output == Format::Json)
            .await
            .map(|_| Ending::Done),
    }?;
    output.flush()?;
    Ok(ending)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_arguments_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn global_options_stand_anywhere() {
        let parse = |words: &[&str]| Cli::try_parse_from(words).unwrap();
        for words in [
            ["millstream", "--data-dir", "/d", "topic", "list"],
            ["millstream", "topic", "list", "--data-dir", "/d"],
        ] {
            assert_eq!(parse(&words).global.data_dir, PathBuf::from("/d"));
        }
        let cli = parse(&[
            "millstream",
            "topic",
            "list",
            "--durability",
            "interval(50)",
        ]);
        assert_eq!(cli.global.durability.to_string(), "interval(50)");
    }

    #[test]
    fn a_wrong_durability_says_what_is_expected() {
        let words = ["millstream", "topic", "list", "--durability", "fsync"];
        let error = Cli::try_parse_from(words).unwrap_err().to_string();
        assert!(
            error.contains("expected `sync`, `os` or `interval(MS)`"),
            "{error}"
        );
    }
}
