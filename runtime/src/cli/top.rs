//! `millstream top`: the pipelines of a server, live.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::GlobalArgs;
use super::client::Client;
use super::exit::Ending;
use super::interrupt::Interrupt;
use super::open::Access;
use super::output::{Column, Format, Output, Table};
use super::pipeline::state;
use super::progress::{note, per_second};
use super::quantity::{self, format_ms};
use super::screen::Screen;
use super::signatures::SignatureArgs;
use crate::deploy::Offline;
use crate::model::PipelineName;
use crate::server::PipelineView;

const PIPELINES: &str = "/v1/pipelines";
/// What is shown in the place of an empty table.
const NONE: &str = "No pipeline has run here yet.";

/// Arguments of `top`.
#[derive(Debug, clap::Args)]
pub(super) struct TopArgs {
    /// How often it is looked
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = quantity::duration)]
    interval: Duration,
    /// Stop after looking so often, and leave the last look on the terminal
    #[arg(long, value_name = "COUNT")]
    count: Option<u64>,
}

/// The pipelines at a moment.
struct Look {
    at: Instant,
    pipelines: Vec<PipelineView>,
    /// What was processed of those that run.
    records: BTreeMap<PipelineName, u64>,
}

/// Shows the pipelines until Ctrl-C; once where no server runs.
pub(super) async fn run(
    args: TopArgs,
    global: &GlobalArgs,
    output: &mut Output,
) -> anyhow::Result<Ending> {
    let signatures = SignatureArgs::default();
    let client =
        Client::connect_to_deployments(global, Access::Existing, &signatures, Offline::Looking)
            .await?;
    if !client.is_offline() {
        return follow(&args, &client, output).await;
    }
    // Whoever looked on would keep a server from starting, and see nothing move.
    let look = Look::take(&client).await?;
    match output.format() {
        Format::Json => output.write(&look.json()?)?,
        Format::Table => output.table_or(&look.table(None), NONE)?,
    }
    output.flush()?;
    note(
        "no server runs on the data directory, so nothing moves; `millstream serve` starts the pipelines",
    );
    Ok(Ending::Done)
}

/// Looks again and again.
async fn follow(args: &TopArgs, client: &Client, output: &mut Output) -> anyhow::Result<Ending> {
    let interrupt = Interrupt::listen("leaving the table")?;
    let mut screen = Screen::enter(output)?;
    let mut last: Option<Look> = None;
    let mut looks = 0;
    loop {
        let look = tokio::select! {
            () = interrupt.requested() => return Ok(Ending::Done),
            look = Look::take(client) => look?,
        };
        looks += 1;
        let is_last = args.count.is_some_and(|count| looks >= count);
        if is_last {
            screen.leave()?;
        }
        match screen.output().format() {
            Format::Json => {
                let output = screen.output();
                output.write(&look.json()?)?;
                output.flush()?;
            }
            Format::Table => screen.show(&look.table(last.as_ref()), NONE, "pipeline")?,
        }
        if is_last {
            return Ok(Ending::Done);
        }
        last = Some(look);
        tokio::select! {
            () = interrupt.requested() => return Ok(Ending::Done),
            () = tokio::time::sleep(args.interval) => {}
        }
    }
}

impl Look {
    async fn take(client: &Client) -> anyhow::Result<Self> {
        let pipelines: Vec<PipelineView> = client.get(PIPELINES, &()).await?;
        let running = pipelines.iter().filter_map(|pipeline| {
            let run = pipeline.running.as_ref()?;
            Some((pipeline.name.clone(), run.totals.records_in))
        });
        Ok(Self {
            at: Instant::now(),
            records: running.collect(),
            pipelines,
        })
    }

    /// Records a second since an earlier look.
    fn rate(&self, earlier: &Self, name: &PipelineName) -> Option<u64> {
        let records = self.records.get(name)?;
        let before = earlier.records.get(name)?;
        let elapsed = self.at.duration_since(earlier.at);
        Some(per_second(records.saturating_sub(*before), elapsed))
    }

    /// All of it, in one line.
    fn json(&self) -> anyhow::Result<Vec<u8>> {
        let mut text = serde_json::to_vec(&self.pipelines)?;
        text.push(b'\n');
        Ok(text)
    }

    fn table(&self, earlier: Option<&Self>) -> Table {
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
        let none = || "-".to_owned();
        for pipeline in &self.pipelines {
            let (name, state) = (pipeline.name.to_string(), state(pipeline).to_owned());
            let lag = pipeline.lag_records.to_string();
            let Some(run) = &pipeline.running else {
                table.row([name, state, none(), lag, none(), none(), none(), none()]);
                continue;
            };
            let rate = earlier.and_then(|earlier| self.rate(earlier, &pipeline.name));
            table.row([
                name,
                state,
                rate.map_or_else(none, |rate| rate.to_string()),
                lag,
                format_ms(run.lag_ms),
                run.totals.retries.to_string(),
                run.totals.parked_records.to_string(),
                run.totals.dead_letters.to_string(),
            ]);
        }
        table
    }
}
