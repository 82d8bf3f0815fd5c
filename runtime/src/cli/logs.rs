//! `millstream logs`: what a pipeline's plugin logs on the server, or has logged where none runs.

use serde::Serialize;

use super::GlobalArgs;
use super::client::Client;
use super::exit::Ending;
use super::interrupt::Interrupt;
use super::open::Access;
use super::output::{Format, Output};
use super::progress::note;
use super::quantity::format_time_ms;
use crate::model::PipelineName;
use crate::server::LogLineView;

/// How long one wait for a line lasts, in ms.
const WAIT_MS: u64 = 20_000;

/// Arguments of `logs`.
#[derive(Debug, clap::Args)]
pub(super) struct LogsArgs {
    /// The pipeline
    pipeline: PipelineName,
    /// Show the lines that there are, and end
    #[arg(long)]
    no_follow: bool,
}

#[derive(Serialize)]
struct LogsQuery {
    after: u64,
    wait_ms: u64,
}

/// Writes the lines that are kept, and those that come, until Ctrl-C.
pub(super) async fn run(
    args: LogsArgs,
    global: &GlobalArgs,
    output: &mut Output,
) -> anyhow::Result<Ending> {
    let client = Client::connect(global, Access::Existing)?;
    let interrupt = Interrupt::listen("writing what has come")?;
    let path = format!("/v1/pipelines/{}/logs", args.pipeline);
    let mut query = LogsQuery {
        after: 0,
        wait_ms: 0,
    };
    loop {
        let lines: Vec<LogLineView> = tokio::select! {
            () = interrupt.requested() => return Ok(match args.no_follow {
                true => Ending::Interrupted,
                // Ctrl-C is how following ends.
                false => Ending::Done,
            }),
            lines = client.get(&path, &query) => lines?,
        };
        for line in &lines {
            query.after = line.number;
            write(line, output)?;
        }
        output.flush()?;
        if args.no_follow {
            return Ok(Ending::Done);
        }
        if client.is_offline() {
            note(
                "no server runs on the data directory, so no more lines come; `millstream serve` starts the pipelines",
            );
            return Ok(Ending::Done);
        }
        query.wait_ms = WAIT_MS;
    }
}

fn write(line: &LogLineView, output: &mut Output) -> anyhow::Result<()> {
    if output.format() == Format::Json {
        let mut text = serde_json::to_vec(line)?;
        text.push(b'\n');
        output.write(&text)?;
        return Ok(());
    }
    let mut message = String::new();
    super::consume::push_readable(Some(line.message.as_bytes()), &mut message);
    output.line(format_args!(
        "{} {:5} [{}] {message}",
        format_time_ms(line.time_ms),
        line.level,
        line.partition
    ))?;
    Ok(())
}
