//! `millstream pipeline`: list, describe, pause, resume and delete pipelines.

use clap::Subcommand;

use super::GlobalArgs;
use super::client::Client;
use super::confirm::confirm;
use super::exit::Ending;
use super::group::lag_table;
use super::open::Access;
use super::output::{Column, Output, Table};
use super::quantity::format_time_ms;
use super::signatures::SignatureArgs;
use crate::deploy::Offline;
use crate::model::{PipelineName, Target};
use crate::server::{InputQueueView, PipelineView, PortView};

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
    /// End a pipeline's tasks at their next batch boundary, until it is resumed
    Pause {
        /// The pipeline
        name: PipelineName,
    },
    /// Start a pipeline that is paused or has failed, where it stands
    Resume {
        /// The pipeline
        name: PipelineName,
    },
    /// Stop a pipeline, and take it out of its manifest
    Delete {
        /// The pipeline
        name: PipelineName,
        /// Delete its state, timers, parked records and consumer group, too
        #[arg(long)]
        delete_data: bool,
        /// Do not ask
        #[arg(long, short)]
        yes: bool,
    },
}

/// Runs a verb.
pub(super) async fn run(
    command: PipelineCommand,
    global: &GlobalArgs,
    output: &mut Output,
) -> anyhow::Result<Ending> {
    let about = match command {
        PipelineCommand::List | PipelineCommand::Describe { .. } => Offline::Looking,
        _ => Offline::Changing,
    };
    let signatures = SignatureArgs::default();
    let client =
        Client::connect_to_deployments(global, Access::Existing, &signatures, about).await?;
    match command {
        PipelineCommand::List => {
            let all: Vec<PipelineView> = client.get("/v1/pipelines", &()).await?;
            list(output, &all)?;
        }
        PipelineCommand::Describe { name } => {
            let found: PipelineView = client.get(&format!("/v1/pipelines/{name}"), &()).await?;
            describe(output, &found)?;
        }
        PipelineCommand::Pause { name } => {
            let path = format!("/v1/pipelines/{name}/pause");
            let paused: PipelineView = client.post(&path, &()).await?;
            output.result(&paused, |output| {
                output.line(format_args!("paused pipeline `{name}`"))
            })?;
        }
        PipelineCommand::Resume { name } => {
            let path = format!("/v1/pipelines/{name}/resume");
            let resumed: PipelineView = client.post(&path, &()).await?;
            output.result(&resumed, |output| {
                output.line(format_args!("resumed pipeline `{name}`"))
            })?;
        }
        PipelineCommand::Delete {
            name,
            delete_data,
            yes,
        } => return delete(&client, output, &name, delete_data, yes).await,
    }
    Ok(Ending::Done)
}

async fn delete(
    client: &Client,
    output: &mut Output,
    name: &PipelineName,
    delete_data: bool,
    yes: bool,
) -> anyhow::Result<Ending> {
    let what = match delete_data {
        true => "with its state, timers, parked records and consumer group",
        false => "and keep its state and position",
    };
    if !yes && !confirm(&format!("delete pipeline `{name}` {what}?"))? {
        super::progress::note("nothing was deleted");
        return Ok(Ending::Failed);
    }
    let path = format!("/v1/pipelines/{name}?delete_data={delete_data}");
    client.remove(&path).await?;
    output.result(&serde_json::json!({ "name": name }), |output| {
        output.line(format_args!("deleted pipeline `{name}`"))
    })?;
    Ok(Ending::Done)
}

fn list(output: &mut Output, pipelines: &[PipelineView]) -> anyhow::Result<()> {
    output.result(&pipelines, |output| {
        let mut table = Table::new(&[
            Column::Text("pipeline"),
            Column::Text("from"),
            Column::Text("plugin"),
            Column::Text("to"),
            Column::Text("delivery"),
            Column::Text("state"),
            Column::Number("lag records"),
        ]);
        for pipeline in pipelines {
            table.row([
                pipeline.name.to_string(),
                names(&pipeline.inputs),
                pipeline.plugin.to_string(),
                ports(&pipeline.outputs).join(", "),
                pipeline.delivery.clone(),
                state(pipeline).to_owned(),
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
        if let Some(run) = &pipeline.running {
            fields.push(("manifest", run.manifest.clone()));
            fields.push(("state", run.state.clone()));
            if let Some(failure) = &run.failure {
                fields.push(("failure", failure.clone()));
            }
        } else if pipeline.desired_state.is_some() {
            fields.push(("state", state(pipeline).to_owned()));
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
        for InputQueueView { queue, messages } in &pipeline.queues {
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

/// How it runs on the server, or whether it is to where none runs; `-` if it was not applied.
pub(super) fn state(pipeline: &PipelineView) -> &str {
    match (&pipeline.running, pipeline.desired_state.as_deref()) {
        (Some(run), _) => &run.state,
        (None, Some("paused")) => "paused",
        (None, Some(_)) => "stopped",
        (None, None) => "-",
    }
}

fn names(targets: &[Target]) -> String {
    let targets: Vec<_> = targets.iter().map(ToString::to_string).collect();
    targets.join(", ")
}

fn ports(outputs: &[PortView]) -> Vec<String> {
    let port = |output: &PortView| format!("{} = {}", output.port, output.target);
    outputs.iter().map(port).collect()
}
