//! `millstream dead-letter redrive`.

use std::time::Duration;

use super::selection::Selection;
use crate::cli::GlobalArgs;
use crate::cli::client::Client;
use crate::cli::exit::Ending;
use crate::cli::interrupt::Interrupt;
use crate::cli::output::{self, Output};
use crate::cli::progress::{self, Progress, Unit};
use crate::server::{RedriveDestination, RedriveRequest, RedriveView, StrandedView, WhereTo};

/// How long to wait before asking how far it is.
const SHORTEST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_millis(250);
/// How often a line says how far it is, where no bar can be drawn.
const LINE_INTERVAL: Duration = Duration::from_secs(10);

/// Arguments of `redrive`.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct RedriveArgs {
    #[command(flatten)]
    selection: Selection,

    /// Send back at most this many: of each partition, those that were there first
    #[arg(long, value_name = "COUNT", default_value_t = u64::MAX, hide_default_value = true)]
    max: u64,

    /// Send back at most this many a second, such as `100` or `100/s` [default: no limit]
    #[arg(long, value_name = "COUNT", value_parser = rate)]
    rate: Option<u64>,

    /// Where letters of a pipeline go: to that pipeline only, or to the end of their topic's partition,
    /// for all that read it
    #[arg(long, value_enum, default_value_t)]
    to: WhereTo,

    /// Say what would be done, and change nothing
    #[arg(long)]
    dry_run: bool,
}

/// Reads a number a second.
fn rate(text: &str) -> Result<u64, String> {
    let number = text.strip_suffix("/s").unwrap_or(text);
    match number.parse() {
        Ok(0) | Err(_) => Err("expected a number a second, such as `100` or `100/s`".to_owned()),
        Ok(rate) => Ok(rate),
    }
}

/// Sends letters back.
pub(super) async fn run(
    args: &RedriveArgs,
    client: &Client,
    global: &GlobalArgs,
    output: &mut Output,
) -> anyhow::Result<Ending> {
    let selection = args.selection.request();
    let request = RedriveRequest {
        source: selection.source,
        filter: selection.filter,
        plugin_digest: selection.plugin_digest,
        since_ms: selection.since_ms,
        max: (args.max < u64::MAX).then_some(args.max),
        rate: args.rate,
        to: args.to,
        dry_run: args.dry_run,
    };
    let interrupt = Interrupt::listen("finishing the batch under way")?;
    let started: RedriveView = client.post("/v1/redrives", &request).await?;
    let report = follow(started, client, global, &interrupt).await?;
    output.result(&report, |output| write(&report, output))?;
    output.flush()?;
    for StrandedView { reason, letters } in &report.stranded {
        progress::note(&format!("{letters} dead letters stay: {reason}"));
    }
    if let Some(error) = &report.error {
        anyhow::bail!("{error}");
    }
    Ok(match (report.left > 0, report.stranded.is_empty()) {
        (true, _) => Ending::Interrupted,
        (false, true) => Ending::Done,
        (false, false) => Ending::Failed,
    })
}

/// Waits until a redrive has ended, and ends it when told to.
async fn follow(
    mut view: RedriveView,
    client: &Client,
    global: &GlobalArgs,
    interrupt: &Interrupt,
) -> anyhow::Result<RedriveView> {
    let total = view.left;
    let mut bar = Progress::start(global, Unit::Records, Some(total), Some(LINE_INTERVAL));
    let path = format!("/v1/redrives/{}", view.id);
    let (mut pause, mut is_cancelled) = (SHORTEST_PAUSE, false);
    while view.running {
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = interrupt.requested(), if !is_cancelled => {
                is_cancelled = true;
                let _: RedriveView = client.delete(&path).await?;
            }
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
        view = client.get(&path, &()).await?;
        if bar.is_due() {
            let text = format!("sent {} of {total} dead letters back", view.redriven);
            bar.show(total - view.left, Some(total), text);
        }
    }
    Ok(view)
}

fn write(report: &RedriveView, output: &mut Output) -> Result<(), output::Error> {
    let RedriveView {
        queue,
        redriven,
        held,
        ..
    } = report;
    match report.dry_run {
        true => output.line(format_args!(
            "would send {redriven} dead letters of queue `{queue}` back"
        ))?,
        false => output.line(format_args!(
            "sent {redriven} dead letters of queue `{queue}` back"
        ))?,
    }
    for RedriveDestination { to, letters } in &report.destinations {
        output.line(format_args!("  to {to}: {letters}"))?;
    }
    if *held > 0 {
        output.line(format_args!(
            "  {held} were leased by somebody else and stay"
        ))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates() {
        assert_eq!(rate("100"), Ok(100));
        assert_eq!(rate("100/s"), Ok(100));
        for bad in ["", "0", "-1", "100/m", "fast"] {
            assert!(rate(bad).is_err(), "{bad}");
        }
    }
}
