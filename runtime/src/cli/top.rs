//! `millstream top`: the pipelines of a server, live.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::GlobalArgs;
use super::client::Client;
use super::exit::Ending;
use super::interrupt::Interrupt;
use super::open::Access;
use super::output::{Column, Format, Output, Table};
use super::quantity::{self, format_ms};
use crate::model::PipelineName;
use crate::server::PipelineView;

/// Clears a terminal, and goes to its first line.
const CLEAR: &[u8] = b"\x1b[H\x1b[2J\x1b[3J";

/// Arguments of `top`.
#[derive(Debug, clap::Args)]
pub(super) struct TopArgs {
    /// How often it is looked
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = quantity::duration)]
    interval: Duration,
    /// Stop after looking so often
    #[arg(long, value_name = "COUNT")]
    count: Option<u64>,
}

/// What was processed of each pipeline at the last look.
struct Last {
    at: Instant,
    records: BTreeMap<PipelineName, u64>,
}

/// Shows the pipelines until Ctrl-C.
pub(super) async fn run(
    args: TopArgs,
    global: &GlobalArgs,
    output: &mut Output,
) -> anyhow::Result<Ending> {
    let client = Client::connect(global, Access::Existing)?;
    let interrupt = Interrupt::listen("finishing the table")?;
    let mut last: Option<Last> = None;
    let mut looks = 0;
    loop {
        let pipelines: Vec<PipelineView> = client.get("/v1/pipelines", &()).await?;
        let now = Last::of(&pipelines);
        looks += 1;
        write(&pipelines, last.as_ref(), &now, output)?;
        output.flush()?;
        last = Some(now);
        if args.count.is_some_and(|count| looks >= count) {
            return Ok(Ending::Done);
        }
        tokio::select! {
            () = interrupt.requested() => return Ok(Ending::Done),
            () = tokio::time::sleep(args.interval) => {}
        }
    }
}

impl Last {
    fn of(pipelines: &[PipelineView]) -> Self {
        let running = pipelines.iter().filter_map(|pipeline| {
            let run = pipeline.running.as_ref()?;
            Some((pipeline.name.clone(), run.totals.records_in))
        });
        Self {
            at: Instant::now(),
            records: running.collect(),
        }
    }

    /// Records a second since an earlier look.
    fn rate(&self, earlier: &Self, name: &PipelineName) -> Option<u64> {
        let records = self.records.get(name)?;
        let before = earlier.records.get(name)?;
        let elapsed = self.at.duration_since(earlier.at);
        Some(super::progress::per_second(
            records.saturating_sub(*before),
            elapsed,
        ))
    }
}

fn write(
    pipelines: &[PipelineView],
    last: Option<&Last>,
    now: &Last,
    output: &mut Output,
) -> anyhow::Result<()> {
    if output.format() == Format::Json {
        let mut text = serde_json::to_vec(pipelines)?;
        text.push(b'\n');
        output.write(&text)?;
        return Ok(());
    }
    let mut table = Table::new(&[
        Column::Text("pipeline"),
        Column::Text("state"),
        Column::Number("records/s"),
        Column::Number("lag records"),
        Column::Text("lag"),
        Column::Number("retries"),
        Column::Number("waiting for retry"),
        Column::Number("dead letters"),
    ]);
    for pipeline in pipelines {
        let rate = last.and_then(|last| now.rate(last, &pipeline.name));
        let rate = rate.map_or_else(|| "-".to_owned(), |rate| rate.to_string());
        let Some(run) = &pipeline.running else {
            let none = || "-".to_owned();
            let lag = pipeline.lag_records.to_string();
            let name = pipeline.name.to_string();
            table.row([name, none(), none(), lag, none(), none(), none(), none()]);
            continue;
        };
        table.row([
            pipeline.name.to_string(),
            run.state.clone(),
            rate,
            pipeline.lag_records.to_string(),
            format_ms(run.lag_ms),
            run.totals.retries.to_string(),
            run.totals.parked_records.to_string(),
            run.totals.dead_letters.to_string(),
        ]);
    }
    if output.is_terminal() {
        output.write(CLEAR)?;
    }
    output.table_or(&table, "No pipeline has run here yet.")?;
    Ok(())
}
