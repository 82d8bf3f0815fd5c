//! How a command ends: its exit code, and what it says on standard error.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use super::client::Unreachable;
use super::output;
use super::telemetry::{self, Level};
use crate::server::{Code, Problem};
use crate::{backup, manifest, pipeline, plugin, storage};

/// The part of `--help` on exit codes.
pub(super) const HELP: &str = "\
Exit codes:
  0    success
  1    failure: a pipeline stopped or its plugin does not fit it, a record was refused,
       a file could not be read, `verify` found damage, ...
  2    wrong usage or a bad manifest; `check`: also a plugin that does not fit its pipeline,
       or does not open with its `config`
  3    the data directory cannot be used: it does not exist, another process holds it,
       a later version wrote it, or it holds something else; or the server cannot be reached
  4    `dead-letter replay`: the plugin fails on the record
  130  stopped by Ctrl-C or SIGTERM before the work was done; what was acknowledged is kept
docs/exit-codes.md says more.";

/// How a command that reports its own failures has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// Everything was done.
    Done,
    /// Something failed, and has been reported.
    Failed,
    /// A record was run, and the plugin failed on it.
    RecordFailed,
    /// Ctrl-C or SIGTERM came before everything was done.
    Interrupted,
}

/// The command was used wrongly in a way that its arguments alone do not show.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Usage(pub(super) String);

/// The data directory does not exist, and the command would not create one.
#[derive(Debug, thiserror::Error)]
#[error("there is no millstream data directory at {}; {}", .path.display(), .way_out.text())]
pub(super) struct NoDataDirectory {
    pub(super) path: PathBuf,
    pub(super) way_out: WayOut,
}

/// What else a command that found no data directory can work on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WayOut {
    /// Another data directory, a new one, or a server.
    Any,
    /// Another data directory: the command reads one that is there, and asks no server.
    OtherDirectory,
}

impl WayOut {
    fn text(self) -> &'static str {
        match self {
            Self::Any => {
                "name another with --data-dir, or a server with --server URL; `millstream serve` and `millstream topic create NAME` make a new one"
            }
            Self::OtherDirectory => "name another with --data-dir",
        }
    }
}

/// Something is wrong with a manifest or its plugins, rendered for its author already.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct BadManifest(pub(super) String);

/// The exit code of an interrupted command: 128 + SIGINT.
pub(super) const INTERRUPTED: u8 = 130;

/// The exit code of wrong usage.
const MISUSED: u8 = 2;

/// The exit code of a replay in which the plugin fails.
const RECORD_FAILED: u8 = 4;

/// Says what went wrong, and returns the exit code.
pub(super) fn report(result: anyhow::Result<Ending>) -> ExitCode {
    let error = match result {
        Ok(Ending::Done) => return ExitCode::SUCCESS,
        Ok(Ending::Failed) => return ExitCode::FAILURE,
        Ok(Ending::RecordFailed) => return ExitCode::from(RECORD_FAILED),
        Ok(Ending::Interrupted) => return ExitCode::from(INTERRUPTED),
        Err(error) => error,
    };
    // Whoever reads the output (`head`, a pager) has had enough.
    if error.chain().any(is_closed_pipe) {
        return ExitCode::SUCCESS;
    }
    let text = match is_rendered(&error) {
        true => error.to_string(),
        false => sentence(&error),
    };
    let line =
        telemetry::json_line(Level::Error, &text).unwrap_or_else(|| match is_rendered(&error) {
            true => text,
            false => format!("error: {text}"),
        });
    // Nothing can be done about a standard error that is closed.
    let _ = writeln!(std::io::stderr().lock(), "{line}");
    ExitCode::from(code(&error))
}

/// Says what is wrong with the arguments, or shows the help that they ask for, and returns the exit code.
pub(super) fn report_misuse(error: &clap::Error) -> ExitCode {
    let code = ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(MISUSED));
    let arguments = std::env::args_os().skip(1);
    if error.use_stderr() && telemetry::is_json_asked_for(arguments) {
        let text = error.to_string();
        let text = text.strip_prefix("error: ").unwrap_or(&text).trim_end();
        // Nothing can be done about a standard error that is closed.
        let _ = writeln!(std::io::stderr().lock(), "{}", telemetry::error_line(text));
    } else {
        // Nor about either of them.
        let _ = error.print();
    }
    code
}

fn is_closed_pipe(cause: &(dyn std::error::Error + 'static)) -> bool {
    let io = cause.downcast_ref::<std::io::Error>();
    matches!(cause.downcast_ref(), Some(output::Error::Closed))
        || io.is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}

/// Problems of a manifest are printed as they are: place first.
fn is_rendered(error: &anyhow::Error) -> bool {
    error.is::<BadManifest>()
        || error.is::<manifest::Error>()
        || matches!(error.downcast_ref(), Some(pipeline::Error::Manifest(_)))
}

/// The error and its causes, in one line; a cause that repeats what was said is left out.
fn sentence(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain() {
        let cause = cause.to_string();
        if text.ends_with(&cause) {
            continue;
        }
        if !text.is_empty() {
            text.push_str(": ");
        }
        text.push_str(&cause);
    }
    text
}

fn code(error: &anyhow::Error) -> u8 {
    let is_misuse = |cause: &(dyn std::error::Error + 'static)| {
        cause.is::<Usage>()
            || cause.is::<BadManifest>()
            || cause.is::<manifest::Error>()
            || cause.is::<plugin::Error>()
            || matches!(
                cause.downcast_ref::<Problem>().map(|problem| problem.code),
                Some(Code::InvalidRequest | Code::InvalidSetting | Code::InvalidManifest)
            )
            || matches!(
                cause.downcast_ref(),
                Some(
                    backup::Error::Exists { .. }
                        | backup::Error::Inside { .. }
                        | backup::Error::InsideBackup { .. }
                        | backup::Error::Link { .. }
                        | backup::Error::Reserved { .. }
                        | backup::Error::NotABackup { .. }
                        | backup::Error::OtherFormat { .. }
                )
            )
            || matches!(
                cause.downcast_ref(),
                Some(pipeline::Error::Manifest(_) | pipeline::Error::TooManyInstances { .. })
            )
    };
    let is_unusable_directory = |cause: &(dyn std::error::Error + 'static)| {
        cause.is::<NoDataDirectory>()
            || cause.is::<Unreachable>()
            || matches!(cause.downcast_ref(), Some(backup::Error::NotEmpty { .. }))
            || matches!(
                cause.downcast_ref(),
                Some(
                    storage::Error::Locked { .. }
                        | storage::Error::OtherFormat { .. }
                        | storage::Error::NotADataDirectory { .. }
                )
            )
    };
    if error.chain().any(is_misuse) {
        MISUSED
    } else if error.chain().any(is_unusable_directory) {
        3
    } else {
        1
    }
}

#[cfg(test)]
mod tests {
    use anyhow::Context as _;

    use super::*;

    #[test]
    fn codes_are_those_of_the_help() {
        let locked = storage::Error::Locked {
            path: "/d".into(),
            holder: String::new(),
        };
        let unknown = pipeline::Error::UnknownPipeline {
            name: "p".parse().unwrap(),
            hint: String::new(),
        };
        let instances = pipeline::Error::TooManyInstances {
            needed: 9_000,
            limit: 8_192,
        };
        let nowhere = NoDataDirectory {
            path: "/d".into(),
            way_out: WayOut::Any,
        };
        for (error, expected) in [
            (anyhow::anyhow!("x"), 1),
            (unknown.into(), 1),
            (Usage("x".to_owned()).into(), 2),
            (instances.into(), 2),
            (locked.into(), 3),
            (nowhere.into(), 3),
        ] {
            assert_eq!(code(&error), expected, "{error}");
            assert_eq!(code(&error.context("while testing")), expected);
        }
    }

    #[test]
    fn a_sentence_says_nothing_twice() {
        let error = Err::<(), _>(std::io::Error::other("no space"))
            .context("cannot write F: no space")
            .context("outer")
            .unwrap_err();
        assert_eq!(sentence(&error), "outer: cannot write F: no space");
    }
}
