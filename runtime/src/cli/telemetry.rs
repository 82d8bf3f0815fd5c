//! Log lines on standard error.

use std::ffi::OsString;
use std::io::{self, IsTerminal as _, Write};
use std::sync::OnceLock;

use serde::Serialize;

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

/// What others log. Whoever asks for a certificate to be verified is told why it is not, and tells it himself.
const OTHERS: &str = "warn,rustls_platform_verifier=off";
/// Left out where failures of pipelines are printed.
const FAILURES_ARE_PRINTED: &str = "millstream::pipeline::supervisor=off";

/// What a command does about what goes wrong while it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Failures {
    /// They are logged.
    Logged,
    /// It prints those of pipelines itself, where people read: their log lines are for machines.
    Printed,
    /// They are meant, as those of a benchmark are, and not logged unless `-v` asks for it.
    Meant,
}

/// How lines on standard error are written, once it is known.
static FORMAT: OnceLock<LogFormat> = OnceLock::new();

/// Starts logging. `RUST_LOG` comes before `-v` and `-q`.
pub(super) fn init(args: &GlobalArgs, failures: Failures) -> anyhow::Result<()> {
    if FORMAT.set(args.log_format).is_ok() && args.log_format == LogFormat::Json {
        std::panic::set_hook(Box::new(log_panic));
    }
    let filter = match std::env::var("RUST_LOG") {
        Ok(directives) if !directives.is_empty() => {
            EnvFilter::try_new(&directives).map_err(|error| {
                Usage(format!("RUST_LOG=`{directives}` is no log filter: {error}; expected a level such as `info`, or `millstream=debug,warn`"))
            })?
        }
        _ => EnvFilter::try_new(directives(args, failures))?,
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

fn directives(args: &GlobalArgs, failures: Failures) -> String {
    let level = match (args.quiet, args.verbose) {
        (true, _) => "error",
        (false, 0) if failures == Failures::Meant => "error",
        (false, 0) => "warn",
        (false, 1) => "info",
        (false, 2) => "debug",
        (false, _) => "trace",
    };
    match (args.log_format, failures) {
        (LogFormat::Text, Failures::Printed | Failures::Meant) => {
            format!("{OTHERS},millstream={level},{FAILURES_ARE_PRINTED}")
        }
        _ => format!("{OTHERS},millstream={level}"),
    }
}

/// What a line is about that is written whatever the log filter says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub(super) enum Level {
    /// It is told.
    Info,
    /// It failed.
    Error,
}

/// A line as the log's JSON lines are.
#[derive(Serialize)]
struct Line<'a> {
    timestamp: String,
    level: Level,
    message: &'a str,
    target: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    location: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    backtrace: Option<String>,
}

impl<'a> Line<'a> {
    fn new(level: Level, message: &'a str) -> Self {
        Self {
            timestamp: jiff::Timestamp::now().to_string(),
            level,
            message,
            target: "millstream",
            location: None,
            backtrace: None,
        }
    }

    fn text(&self) -> Option<String> {
        serde_json::to_string(self).ok()
    }
}

/// The text as a JSON line if log lines are JSON, so that who collects them finds nothing else on
/// standard error; `None` if they are text.
pub(super) fn json_line(level: Level, message: &str) -> Option<String> {
    match FORMAT.get() {
        Some(LogFormat::Json) => Line::new(level, message).text(),
        _ => None,
    }
}

/// An error as a JSON line.
pub(super) fn error_line(message: &str) -> String {
    Line::new(Level::Error, message).text().unwrap_or_default()
}

/// Whether arguments that cannot be read as a whole ask for JSON lines, or else the environment does.
pub(super) fn is_json_asked_for(arguments: impl Iterator<Item = OsString>) -> bool {
    let mut format = None;
    let mut is_next = false;
    for argument in arguments.take_while(|argument| argument != "--") {
        let argument = argument.to_string_lossy();
        if is_next {
            format = Some(argument.clone().into_owned());
        } else if let Some(value) = argument.strip_prefix("--log-format=") {
            format = Some(value.to_owned());
        }
        is_next = argument == "--log-format";
    }
    let format = format.or_else(|| std::env::var("MILLSTREAM_LOG_FORMAT").ok());
    format.as_deref() == Some("json")
}

/// A panic as a JSON line; with a backtrace if `RUST_BACKTRACE` asks for it.
fn log_panic(panic: &std::panic::PanicHookInfo<'_>) {
    let message = format!("panic: {}", panic.payload_as_str().unwrap_or("of no text"));
    let backtrace = std::backtrace::Backtrace::capture();
    let mut line = Line::new(Level::Error, &message);
    line.location = panic.location().map(ToString::to_string);
    if backtrace.status() == std::backtrace::BacktraceStatus::Captured {
        line.backtrace = Some(backtrace.to_string());
    }
    if let Some(text) = line.text() {
        // Not above the progress bar: the thread that panics may hold its lock.
        let _ = writeln!(io::stderr(), "{text}");
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_asked_for_also_in_arguments_that_are_wrong() {
        let asked = |words: &[&str]| is_json_asked_for(words.iter().map(OsString::from));
        assert!(asked(&["topic", "lst", "--log-format", "json"]));
        assert!(asked(&["--log-format=json", "--what"]));
        for words in [
            &["topic", "--log-format", "text"][..],
            &["--log-format=json", "--log-format=text"],
            &["--", "--log-format", "json"],
            &["json"],
            &[],
        ] {
            assert!(!asked(words), "{words:?}");
        }
    }
}
