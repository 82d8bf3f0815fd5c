//! `millstream group`: list, describe, reset and delete consumer groups.

use std::collections::BTreeMap;

use clap::Subcommand;
use serde::Serialize;

use super::GlobalArgs;
use super::exit::Ending;
use super::offset_spec;
use super::open::{Access, DataDirectory, partitions_of, resolve_offset};
use super::output::{self, Column, Output, Table};
use crate::group::{GroupPosition, Lag};
use crate::log::{OffsetSpec, Topic};
use crate::model::{GroupName, TopicName};

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
    },
}

/// Where a group stands in a partition, as it is shown.
#[derive(Debug, Serialize)]
pub(super) struct LagView {
    topic: TopicName,
    partition: u32,
    committed_offset: u64,
    high_watermark: u64,
    lag_records: u64,
    lag_ms: u64,
}

impl From<Lag> for LagView {
    fn from(lag: Lag) -> Self {
        Self {
            topic: lag.topic,
            partition: lag.partition,
            committed_offset: lag.committed_offset,
            high_watermark: lag.high_watermark,
            lag_records: lag.lag_records,
            lag_ms: lag.lag_ms,
        }
    }
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
    let data = DataDirectory::open(global, Access::Existing)?;
    match command {
        GroupCommand::List => list(&data, output)?,
        GroupCommand::Describe { name } => describe(&data, output, &name)?,
        GroupCommand::Reset {
            name,
            topic,
            partition,
            to,
            dry_run,
        } => {
            let topic = data.log.topic(&topic)?;
            reset(&data, output, &name, &topic, &partition, to, dry_run).await?;
        }
        GroupCommand::Delete { name } => delete(&data, output, &name).await?,
    }
    Ok(Ending::Done)
}

/// The lag of each position. Topics that have been deleted since are left out.
fn lags(data: &DataDirectory, positions: &[GroupPosition]) -> anyhow::Result<Vec<LagView>> {
    let topics: BTreeMap<u32, Topic> = data
        .log
        .topics()
        .into_iter()
        .map(|topic| (topic.id(), topic))
        .collect();
    let mut lags = Vec::new();
    for position in positions {
        let Some(topic) = topics.get(&position.topic_id) else {
            continue;
        };
        let partition = topic.partition(position.partition)?;
        let lag = data
            .groups
            .lag(topic.name(), partition, position.committed.offset)?;
        lags.push(LagView::from(lag));
    }
    lags.sort_by(|a, b| (&a.topic, a.partition).cmp(&(&b.topic, b.partition)));
    Ok(lags)
}

#[derive(Debug, Serialize)]
struct Summary {
    name: String,
    topics: Vec<TopicName>,
    partitions: usize,
    lag_records: u64,
}

fn list(data: &DataDirectory, output: &mut Output) -> anyhow::Result<()> {
    let mut groups = Vec::new();
    for (name, positions) in data.groups.list()? {
        let lags = lags(data, &positions)?;
        let mut topics: Vec<_> = lags.iter().map(|lag| lag.topic.clone()).collect();
        topics.dedup();
        groups.push(Summary {
            name,
            topics,
            partitions: lags.len(),
            lag_records: lags.iter().map(|lag| lag.lag_records).sum(),
        });
    }
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

#[derive(Debug, Serialize)]
struct Description {
    name: GroupName,
    positions: Vec<LagView>,
}

fn describe(data: &DataDirectory, output: &mut Output, name: &GroupName) -> anyhow::Result<()> {
    let positions = data.groups.positions(name)?;
    let description = Description {
        name: name.clone(),
        positions: lags(data, &positions)?,
    };
    output.result(&description, |output| {
        output.table(&lag_table(&description.positions))
    })?;
    Ok(())
}

#[derive(Debug, Serialize)]
struct Move {
    topic: TopicName,
    partition: u32,
    from_offset: Option<u64>,
    to_offset: u64,
}

#[derive(Debug, Serialize)]
struct Reset {
    name: GroupName,
    dry_run: bool,
    partitions: Vec<Move>,
}

async fn reset(
    data: &DataDirectory,
    output: &mut Output,
    name: &GroupName,
    topic: &Topic,
    partitions: &[u32],
    to: OffsetSpec,
    dry_run: bool,
) -> anyhow::Result<()> {
    let partitions = partitions_of(topic, partitions)?;
    let mut moves = Vec::new();
    for partition in &partitions {
        let from = data.groups.committed(name, partition)?;
        moves.push(Move {
            topic: topic.name().clone(),
            partition: partition.index(),
            from_offset: from.map(|committed| committed.offset),
            to_offset: resolve_offset(&data.log, topic, partition, to)?,
        });
    }
    if !dry_run {
        let offsets = partitions.iter().zip(&moves);
        let offsets = offsets.map(|(partition, step)| (&**partition, step.to_offset));
        data.groups.commit(name, offsets).await?;
    }
    let reset = Reset {
        name: name.clone(),
        dry_run,
        partitions: moves,
    };
    output.result(&reset, |output| write_reset(output, &reset, to))?;
    Ok(())
}

fn write_reset(output: &mut Output, reset: &Reset, to: OffsetSpec) -> Result<(), output::Error> {
    let verb = if reset.dry_run { "would move" } else { "moved" };
    output.line(format_args!(
        "{verb} group `{}` to {}:",
        reset.name,
        offset_spec::describe(to)
    ))?;
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

#[derive(Debug, Serialize)]
struct Deleted {
    name: GroupName,
    partitions: usize,
}

async fn delete(data: &DataDirectory, output: &mut Output, name: &GroupName) -> anyhow::Result<()> {
    let partitions = data.groups.positions(name)?.len();
    data.groups.delete(name).await?;
    let deleted = Deleted {
        name: name.clone(),
        partitions,
    };
    output.result(&deleted, |output| {
        output.line(format_args!(
            "deleted group `{name}` with its offsets in {partitions} partition(s)"
        ))
    })?;
    Ok(())
}
