//! Log lines on standard error.

use std::io::{self, IsTerminal as _, Write};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

use super::exit::Usage;
use super::{GlobalArgs, progress};

/// How log lines are written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// Readable lines.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// `run` prints the failures of pipelines itself, where people read; their log lines are for machines.
const FAILURES_ARE_PRINTED: &str = "millstream::pipeline::supervisor=off";

/// Starts logging. `RUST_LOG` comes before `-v` and `-q`. What goes wrong in a benchmark goes wrong on purpose,
/// and is not logged unless `-v` asks for it.
pub(super) fn init(args: &GlobalArgs, is_bench: bool) -> anyhow::Result<()> {
    let filter = match std::env::var("RUST_LOG") {
        Ok(directives) if !directives.is_empty() => {
            EnvFilter::try_new(&directives).map_err(|error| {
                Usage(format!("RUST_LOG=`{directives}` is no log filter: {error}; expected a level such as `info`, or `millstream=debug,warn`"))
            })?
        }
        _ => EnvFilter::try_new(directives(args, is_bench))?,
    };
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(io::stderr().is_terminal())
        .with_writer(AboveProgress);
    let started = match args.log_format {
        LogFormat::Text => builder.with_target(false).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    started.map_err(|error| anyhow::anyhow!("cannot start logging: {error}"))
}

fn directives(args: &GlobalArgs, is_bench: bool) -> String {
    let level = match (args.quiet, args.verbose) {
        (true, _) => "error",
        (false, 0) if is_bench => "error",
        (false, 0) => "warn",
        (false, 1) => "info",
        (false, 2) => "debug",
        (false, _) => "trace",
    };
    match args.log_format {
        LogFormat::Text => format!("warn,millstream={level},{FAILURES_ARE_PRINTED}"),
        LogFormat::Json => format!("warn,millstream={level}"),
    }
}

/// Standard error, with a progress bar out of the way while a line is written.
struct AboveProgress;

impl Write for AboveProgress {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        progress::suspended(|| io::stderr().write_all(bytes))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for AboveProgress {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        Self
    }
}
