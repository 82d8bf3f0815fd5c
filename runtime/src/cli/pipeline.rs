//! `millstream pipeline`: list and describe the pipelines that have run on the data directory.

use clap::Subcommand;
use serde::Serialize;

use super::GlobalArgs;
use super::exit::Ending;
use super::group::lag_table;
use super::open::{Access, DataDirectory};
use super::output::{Column, Output, Table};
use super::quantity::format_time_ms;
use crate::model::{GroupName, PipelineName, PluginName, PortName, QueueName, Target};
use crate::pipeline::{self, PipelineDescription};
use crate::server::LagView;

/// The verbs on pipelines.
#[derive(Debug, Subcommand)]
pub(super) enum PipelineCommand {
    /// List all pipelines
    List,
    /// Show a pipeline's wiring, its plugin, and its position and lag in each partition
    Describe {
        /// The pipeline
        name: PipelineName,
    },
}

#[derive(Debug, Serialize)]
struct PortView {
    port: PortName,
    target: Target,
}

/// A pipeline as it is shown.
#[derive(Debug, Serialize)]
struct PipelineView {
    name: PipelineName,
    group: GroupName,
    plugin: PluginName,
    plugin_digest: String,
    delivery: String,
    dead_letter: Option<QueueName>,
    inputs: Vec<Target>,
    outputs: Vec<PortView>,
    lag_records: u64,
    positions: Vec<LagView>,
    queues: Vec<QueueView>,
    /// Timers that have not fired.
    timers: u64,
    /// When the first of them is due, in ms since the epoch.
    next_timer_ms: Option<u64>,
}

/// A queue that a pipeline reads.
#[derive(Debug, Serialize)]
struct QueueView {
    queue: QueueName,
    messages: u64,
}

impl From<PipelineDescription> for PipelineView {
    fn from(description: PipelineDescription) -> Self {
        let outputs = description.ports.into_iter();
        let lags = description.positions.iter().map(|lag| lag.lag_records);
        let waiting = description.queues.iter().map(|(_, messages)| *messages);
        let queues = description.queues.iter().cloned();
        let queues = queues.map(|(queue, messages)| QueueView { queue, messages });
        Self {
            name: description.name,
            group: description.group,
            plugin: description.plugin,
            plugin_digest: description.plugin_digest,
            delivery: description.delivery,
            dead_letter: description.dead_letter,
            inputs: description.inputs,
            outputs: outputs
                .map(|(port, target)| PortView { port, target })
                .collect(),
            lag_records: lags.chain(waiting).sum(),
            queues: queues.collect(),
            timers: description.timers.count,
            next_timer_ms: description.timers.next_due_ms,
            positions: description
                .positions
                .into_iter()
                .map(LagView::from)
                .collect(),
        }
    }
}

/// Runs a verb.
pub(super) fn run(
    command: &PipelineCommand,
    global: &GlobalArgs,
    output: &mut Output,
) -> anyhow::Result<Ending> {
    let data = DataDirectory::open(global, Access::Existing)?;
    match command {
        PipelineCommand::List => {
            let all = pipeline::list(&data.log, &data.queues, &data.groups)?;
            list(output, all.into_iter().map(PipelineView::from).collect())?;
        }
        PipelineCommand::Describe { name } => {
            let found = pipeline::describe(&data.log, &data.queues, &data.groups, name)?;
            describe(output, &found.into())?;
        }
    }
    Ok(Ending::Done)
}

fn list(output: &mut Output, pipelines: Vec<PipelineView>) -> anyhow::Result<()> {
    output.result(&pipelines, |output| {
        let mut table = Table::new(&[
            Column::Text("pipeline"),
            Column::Text("from"),
            Column::Text("plugin"),
            Column::Text("to"),
            Column::Text("delivery"),
            Column::Number("lag records"),
        ]);
        for pipeline in &pipelines {
            table.row([
                pipeline.name.to_string(),
                names(&pipeline.inputs),
                pipeline.plugin.to_string(),
                ports(&pipeline.outputs).join(", "),
                pipeline.delivery.clone(),
                pipeline.lag_records.to_string(),
            ]);
        }
        output.table_or(&table, "No pipeline has run on this data directory yet.")
    })?;
    Ok(())
}

fn describe(output: &mut Output, pipeline: &PipelineView) -> anyhow::Result<()> {
    output.result(pipeline, |output| {
        let mut fields = vec![("pipeline", pipeline.name.to_string())];
        // A producer reads nothing, and so has no group.
        if !pipeline.inputs.is_empty() {
            fields.push(("from", names(&pipeline.inputs)));
            fields.push(("group", pipeline.group.to_string()));
        }
        fields.push(("plugin", pipeline.plugin.to_string()));
        fields.push(("plugin digest", pipeline.plugin_digest.clone()));
        fields.extend(
            ports(&pipeline.outputs)
                .into_iter()
                .map(|port| ("to", port)),
        );
        fields.push(("delivery", pipeline.delivery.clone()));
        if let Some(queue) = &pipeline.dead_letter {
            fields.push(("dead-letter", format!("queue:{queue}")));
        }
        for QueueView { queue, messages } in &pipeline.queues {
            fields.push(("messages", format!("{messages} in queue:{queue}")));
        }
        if let Some(next_ms) = pipeline.next_timer_ms {
            let (count, next) = (pipeline.timers, format_time_ms(next_ms));
            fields.push(("timers", format!("{count} pending, the next at {next}")));
        }
        output.fields(&fields)?;
        if pipeline.positions.is_empty() {
            return Ok(());
        }
        output.line("")?;
        output.table(&lag_table(&pipeline.positions))
    })?;
    Ok(())
}

fn names(targets: &[Target]) -> String {
    let targets: Vec<_> = targets.iter().map(ToString::to_string).collect();
    targets.join(", ")
}

fn ports(outputs: &[PortView]) -> Vec<String> {
    let port = |output: &PortView| format!("{} = {}", output.port, output.target);
    outputs.iter().map(port).collect()
}
