//! `millstream group`: list, describe, reset and delete consumer groups.

use clap::Subcommand;

use super::GlobalArgs;
use super::client::Client;
use super::confirm::confirm;
use super::exit::Ending;
use super::open::Access;
use super::output::{self, Column, Output, Table};
use super::progress::note;
use crate::log::OffsetSpec;
use crate::model::{GroupName, TopicName};
use crate::server::{
    DeletedGroup, GroupDescription, GroupSummary, LagView, ParkedView, ResetRequest, ResetView,
    offset_spec,
};

/// The verbs on consumer groups.
#[derive(Debug, Subcommand)]
pub(super) enum GroupCommand {
    /// List all groups
    List,
    /// Show a group's committed offset and lag in each partition
    Describe {
        /// The group
        name: GroupName,
    },
    /// Move a group's committed offsets in a topic
    ///
    /// A group that does not exist yet is created by this. The state of a pipeline stays as it is:
    /// records that are read again count again.
    Reset {
        /// The group
        name: GroupName,
        /// The topic
        #[arg(long)]
        topic: TopicName,
        /// Only this partition (may be repeated) [default: all partitions]
        #[arg(long, value_name = "PARTITION")]
        partition: Vec<u32>,
        /// Where to: `earliest`, `latest`, an offset, or a time such as 2013-01-01T00:00:00Z
        #[arg(long, value_name = "PLACE", value_parser = offset_spec::parse)]
        to: OffsetSpec,
        /// Show what would be done, and change nothing
        #[arg(long)]
        dry_run: bool,
    },
    /// Forget a group with all its committed offsets
    Delete {
        /// The group
        name: GroupName,
        /// Do not ask
        #[arg(long, short)]
        yes: bool,
    },
}

/// A table of positions.
pub(super) fn lag_table(lags: &[LagView]) -> Table {
    let mut table = Table::new(&[
        Column::Text("topic"),
        Column::Number("partition"),
        Column::Number("committed"),
        Column::Number("end"),
        Column::Number("lag records"),
        Column::Number("lag ms"),
    ]);
    for lag in lags {
        table.row([
            lag.topic.to_string(),
            lag.partition.to_string(),
            lag.committed_offset.to_string(),
            lag.high_watermark.to_string(),
            lag.lag_records.to_string(),
            lag.lag_ms.to_string(),
        ]);
    }
    table
}

/// Runs a verb.
pub(super) async fn run(
    command: GroupCommand,
    global: &GlobalArgs,
    output: &mut Output,
) -> anyhow::Result<Ending> {
    let client = Client::connect(global, Access::Existing)?;
    match command {
        GroupCommand::List => list(&client, output).await?,
        GroupCommand::Describe { name } => describe(&client, output, &name).await?,
        GroupCommand::Reset {
            name,
            topic,
            partition,
            to,
            dry_run,
        } => {
            let request = ResetRequest {
                topic,
                partitions: partition,
                to: offset_spec::describe(to),
                dry_run,
            };
            reset(&client, output, &name, &request).await?;
        }
        GroupCommand::Delete { name, yes } => return delete(&client, output, &name, yes).await,
    }
    Ok(Ending::Done)
}

async fn list(client: &Client, output: &mut Output) -> anyhow::Result<()> {
    let groups: Vec<GroupSummary> = client.get("/v1/groups", &()).await?;
    output.result(&groups, |output| {
        let mut table = Table::new(&[
            Column::Text("group"),
            Column::Text("topics"),
            Column::Number("partitions"),
            Column::Number("lag records"),
        ]);
        for group in &groups {
            let topics: Vec<_> = group.topics.iter().map(TopicName::as_str).collect();
            table.row([
                group.name.clone(),
                topics.join(","),
                group.partitions.to_string(),
                group.lag_records.to_string(),
            ]);
        }
        output.table_or(
            &table,
            "There are no consumer groups yet: none has committed an offset.",
        )
    })?;
    Ok(())
}

async fn describe(client: &Client, output: &mut Output, name: &GroupName) -> anyhow::Result<()> {
    let description: GroupDescription = client.get(&format!("/v1/groups/{name}"), &()).await?;
    output.result(&description, |output| {
        output.table(&lag_table(&description.positions))
    })?;
    Ok(())
}

async fn reset(
    client: &Client,
    output: &mut Output,
    name: &GroupName,
    request: &ResetRequest,
) -> anyhow::Result<()> {
    let path = format!("/v1/groups/{name}/reset");
    let reset: ResetView = client.post(&path, request).await?;
    for step in &reset.partitions {
        if let Some(wanted) = step.out_of_range {
            note(&format!(
                "warning: offset {wanted} is out of range: partition {} of topic `{}` starts at {} and ends at {}; taking {}",
                step.partition, step.topic, step.start_offset, step.end_offset, step.to_offset
            ));
        }
    }
    output.result(&reset, |output| write_reset(output, &reset, &request.to))?;
    output.flush()?;
    for ParkedView { pipeline, records } in &reset.parked {
        let what = match reset.dry_run {
            true => "would be tried again besides",
            false => "are tried again besides, when it runs",
        };
        note(&format!(
            "warning: pipeline `{pipeline}` has parked {records} record(s), which {what}"
        ));
    }
    Ok(())
}

fn write_reset(output: &mut Output, reset: &ResetView, to: &str) -> Result<(), output::Error> {
    let verb = if reset.dry_run { "would move" } else { "moved" };
    output.line(format_args!("{verb} group `{}` to {to}:", reset.name))?;
    let mut table = Table::new(&[
        Column::Text("topic"),
        Column::Number("partition"),
        Column::Number("from"),
        Column::Number("to"),
    ]);
    for step in &reset.partitions {
        table.row([
            step.topic.to_string(),
            step.partition.to_string(),
            step.from_offset
                .map_or_else(|| "none".to_owned(), |offset| offset.to_string()),
            step.to_offset.to_string(),
        ]);
    }
    output.table(&table)
}

async fn delete(
    client: &Client,
    output: &mut Output,
    name: &GroupName,
    yes: bool,
) -> anyhow::Result<Ending> {
    let path = format!("/v1/groups/{name}");
    let group: GroupDescription = client.get(&path, &()).await?;
    let partitions = group.positions.len();
    let question = format!("delete group `{name}` and its offsets in {partitions} partition(s)?");
    if !yes && !confirm(&question)? {
        note("nothing was deleted");
        return Ok(Ending::Failed);
    }
    let deleted: DeletedGroup = client.delete(&path).await?;
    output.result(&deleted, |output| {
        output.line(format_args!(
            "deleted group `{name}` with its offsets in {} partition(s)",
            deleted.partitions
        ))
    })?;
    Ok(Ending::Done)
}
