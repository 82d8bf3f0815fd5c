//! `millstream dead-letter redrive`.

use std::time::{Duration, Instant};

use serde::Serialize;

use super::selection::Selection;
use crate::cli::GlobalArgs;
use crate::cli::exit::Ending;
use crate::cli::interrupt::Interrupt;
use crate::cli::open::DataDirectory;
use crate::cli::output::{self, Output};
use crate::cli::progress::{self, Progress, Unit};
use crate::model::QueueName;
use crate::pipeline::{Redrive, RedriveTo, Stranded};

/// Letters in one commit.
const BATCH_LETTERS: u64 = 500;
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
    to: ToArg,

    /// Say what would be done, and change nothing
    #[arg(long)]
    dry_run: bool,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
enum ToArg {
    /// The pipeline that gave up on them, if it is known here and still reads the topic; else the topic
    #[default]
    Pipeline,
    /// The topic
    Topic,
}

/// Reads a number a second.
fn rate(text: &str) -> Result<u64, String> {
    let number = text.strip_suffix("/s").unwrap_or(text);
    match number.parse() {
        Ok(0) | Err(_) => Err("expected a number a second, such as `100` or `100/s`".to_owned()),
        Ok(rate) => Ok(rate),
    }
}

#[derive(Debug, Serialize)]
struct Report<'a> {
    queue: &'a QueueName,
    dry_run: bool,
    /// Sent back; with `dry_run`, to be sent back.
    redriven: u64,
    destinations: Vec<Destination>,
    /// Leased or taken by somebody else meanwhile, so not sent.
    held: u64,
    stranded: Vec<StrandedView>,
}

#[derive(Debug, Serialize)]
struct Destination {
    to: String,
    letters: u64,
}

#[derive(Debug, Serialize)]
struct StrandedView {
    reason: String,
    letters: u64,
}

/// Sends letters back.
pub(super) async fn run(
    args: &RedriveArgs,
    data: &DataDirectory,
    global: &GlobalArgs,
    output: &mut Output,
) -> anyhow::Result<Ending> {
    let queue = args.selection.queue(data)?;
    let to = match args.to {
        ToArg::Pipeline => RedriveTo::Pipeline,
        ToArg::Topic => RedriveTo::Topic,
    };
    let filter = args.selection.filter(data);
    let mut redrive = Redrive::plan(&data.log, &data.queues, &queue, filter, to, args.max).await?;
    let destinations = redrive.destinations();
    let planned = redrive.left_count();
    let mut report = Report {
        queue: queue.name(),
        dry_run: args.dry_run,
        redriven: if args.dry_run { planned } else { 0 },
        destinations: destinations
            .into_iter()
            .map(|(to, letters)| Destination { to, letters })
            .collect(),
        held: 0,
        stranded: Vec::new(),
    };
    let mut is_interrupted = false;
    if !args.dry_run {
        let interrupt = Interrupt::listen("finishing the batch under way")?;
        is_interrupted = send(&mut redrive, args.rate, global, &interrupt, &mut report).await?;
    }
    let stranded = redrive.stranded();
    report.stranded = stranded.iter().map(StrandedView::of).collect();
    output.result(&report, |output| write(&report, output))?;
    output.flush()?;
    for Stranded { reason, count } in &stranded {
        progress::note(&format!("{count} dead letters stay: {reason}"));
    }
    Ok(match (is_interrupted, stranded.is_empty()) {
        (true, _) => Ending::Interrupted,
        (false, true) => Ending::Done,
        (false, false) => Ending::Failed,
    })
}

/// Sends everything that is planned, and returns whether it was told to stop before.
async fn send(
    redrive: &mut Redrive,
    rate: Option<u64>,
    global: &GlobalArgs,
    interrupt: &Interrupt,
    report: &mut Report<'_>,
) -> anyhow::Result<bool> {
    let total = redrive.left_count();
    let mut bar = Progress::start(global, Unit::Records, Some(total), Some(LINE_INTERVAL));
    let started = Instant::now();
    // A limited rate is kept in steps of a tenth of a second.
    let batch = rate.map_or(BATCH_LETTERS, |rate| (rate / 10).clamp(1, BATCH_LETTERS));
    loop {
        if interrupt.is_requested() {
            return Ok(redrive.left_count() > 0);
        }
        let Some(sent) = redrive.next_batch(usize::try_from(batch)?).await? else {
            return Ok(false);
        };
        report.redriven += sent.sent_count;
        report.held += sent.held_count;
        if bar.is_due() {
            let text = format!("sent {} of {total} dead letters back", report.redriven);
            bar.show(total - redrive.left_count(), Some(total), text);
        }
        if let Some(rate) = rate {
            let due = Duration::from_secs_f64(report.redriven as f64 / rate as f64);
            tokio::select! {
                () = tokio::time::sleep_until((started + due).into()) => {}
                () = interrupt.requested() => {}
            }
        }
    }
}

fn write(report: &Report<'_>, output: &mut Output) -> Result<(), output::Error> {
    let Report {
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
    for Destination { to, letters } in &report.destinations {
        output.line(format_args!("  to {to}: {letters}"))?;
    }
    if *held > 0 {
        output.line(format_args!(
            "  {held} were leased by somebody else and stay"
        ))?;
    }
    Ok(())
}

impl StrandedView {
    fn of(stranded: &Stranded) -> Self {
        Self {
            reason: stranded.reason.clone(),
            letters: stranded.count,
        }
    }
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
