//! `millstream bench`: what Millstream costs, measured against the plain thing in its place.
//!
//! Every comparison runs both of its sides in the same process and in turns, over several rounds,
//! and reports the median of each side. Nothing is asserted about time: a bound that is not met is
//! printed as such, and the exit code stays 0.
//!
//! - `plugin`: the boundary of a plugin against a native closure.
//! - `log`: append and read against raw segment files; with `--schemes`, RocksDB's compaction
//!   schemes against one another.
//! - `queue`: enqueue, lease and acknowledge with few and many messages waiting, and after many have
//!   passed through; against a plain put and delete in RocksDB.
//! - `pipeline`: topic → plugin → topic against the same pipeline with a native function.
//! - `poison`: the same with records that fail, against none that do; and what a key that fails all the time
//!   does to the others.
//! - `service`: a pipeline that calls a slow service, with many instances against one.
//! - `deploy`: the latency of records while another version of a plugin is deployed again and again, against that
//!   without.
//! - `server`: how long `serve` takes to start with a lot of data, and what it takes of the machine while it has
//!   nothing to do.
//! - `http`: producing and consuming over HTTP, against a server that does nothing with what it is sent.

mod data;
mod deploy;
mod environment;
mod http;
mod latency;
mod log;
mod paced;
mod pipeline;
mod plugin;
mod poison;
mod process;
mod queue;
mod report;
mod rounds;
mod scratch;
mod serve;
mod server;
mod service;
mod stored;
mod synthetic;

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

/// What is measured.
#[derive(Debug, Clone, clap::Subcommand)]
pub enum BenchArgs {
    /// Measure what crossing into a plugin costs, against a native closure
    Plugin(plugin::Args),
    /// Measure append and read of the log, against raw segment files
    Log(log::Args),
    /// Measure enqueue, lease and acknowledge of a queue, against a plain put and delete
    Queue(queue::Args),
    /// Measure a pipeline from topic to topic, against one with a native function
    Pipeline(pipeline::Args),
    /// Measure what records that fail cost those that do not
    Poison(poison::Args),
    /// Measure a consumer that calls a slow service, with many instances against one
    Service(service::Args),
    /// Measure what deploys under load do to the latency of records
    Deploy(deploy::Args),
    /// Measure how long `serve` takes to start, and what it takes of the machine while idle
    Server(server::Args),
    /// Measure producing and consuming over HTTP, against a server that keeps nothing
    Http(http::Args),
}

/// What every benchmark takes.
#[derive(Debug, Clone, clap::Args)]
struct CommonArgs {
    /// Write every figure to this file as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// Runs a benchmark and prints its tables to standard output, or its JSON if `as_json`. Needs a
/// multi-threaded tokio runtime.
///
/// # Errors
/// What kept it from running. Figures that miss a bound are no error.
pub async fn run(args: BenchArgs, as_json: bool) -> anyhow::Result<ExitCode> {
    let (report, common) = match args {
        BenchArgs::Plugin(args) => {
            let report = tokio::task::block_in_place(|| plugin::run(&args))?;
            (report, args.common)
        }
        BenchArgs::Log(args) => (log::run(&args).await?, args.common),
        BenchArgs::Queue(args) => (queue::run(&args).await?, args.common),
        BenchArgs::Pipeline(args) => (pipeline::run(&args).await?, args.common),
        BenchArgs::Poison(args) => (poison::run(&args).await?, args.common),
        BenchArgs::Service(args) => (service::run(&args).await?, args.common),
        BenchArgs::Deploy(args) => (deploy::run(&args).await?, args.common),
        BenchArgs::Server(args) => (server::run(&args).await?, args.common),
        BenchArgs::Http(args) => (http::run(&args).await?, args.common),
    };
    report.publish(common.json.as_deref(), as_json)?;
    Ok(ExitCode::SUCCESS)
}

/// Says on standard error what is being done, since a benchmark takes its time.
fn announce(what: &str) {
    // Whoever does not read it misses nothing.
    let _ = writeln!(std::io::stderr(), "{what}");
}

/// Refuses a build whose figures would mean nothing.
fn warn_of_debug_build() {
    if cfg!(debug_assertions) {
        announce("warning: this is not a release build; its figures mean nothing");
    }
}
