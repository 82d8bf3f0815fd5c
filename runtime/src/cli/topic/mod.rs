//! `millstream topic`: list, describe, create, alter, delete and compact topics.

mod settings;
mod view;

use clap::Subcommand;
use serde::Serialize;

use super::GlobalArgs;
use super::confirm::confirm;
use super::exit::{Ending, Usage};
use super::open::{Access, DataDirectory};
use super::output::{Column, Output, Table};
use crate::log::{Cleanup, TopicConfig};
use crate::model::TopicName;
use settings::Settings;
use view::{Description, PartitionView, TopicView};

/// The verbs on topics.
#[derive(Debug, Subcommand)]
pub(super) enum TopicCommand {
    /// List all topics
    List,
    /// Show a topic's settings, and start, end and size of each partition
    Describe {
        /// The topic
        name: TopicName,
    },
    /// Create a topic
    Create {
        /// The topic
        name: TopicName,
        /// Number of partitions; it cannot be changed afterwards
        #[arg(long, default_value_t = 1)]
        partitions: u32,
        #[command(flatten)]
        settings: Settings,
    },
    /// Change the settings of a topic
    Alter {
        /// The topic
        name: TopicName,
        #[command(flatten)]
        settings: Settings,
    },
    /// Delete a topic with all its records
    Delete {
        /// The topic
        name: TopicName,
        /// Do not ask
        #[arg(long, short)]
        yes: bool,
    },
    /// Compact a topic with `cleanup = compact` now, instead of when enough has changed
    Compact {
        /// The topic
        name: TopicName,
    },
}

/// Runs a verb.
pub(super) async fn run(
    command: TopicCommand,
    global: &GlobalArgs,
    output: &mut Output,
) -> anyhow::Result<Ending> {
    match command {
        TopicCommand::List => list(global, output)?,
        TopicCommand::Describe { name } => describe(global, output, &name)?,
        TopicCommand::Create {
            name,
            partitions,
            settings,
        } => create(global, output, &name, partitions, &settings).await?,
        TopicCommand::Alter { name, settings } => alter(global, output, &name, &settings).await?,
        TopicCommand::Delete { name, yes } => return delete(global, output, &name, yes).await,
        TopicCommand::Compact { name } => compact(global, output, &name).await?,
    }
    Ok(Ending::Done)
}

fn list(global: &GlobalArgs, output: &mut Output) -> anyhow::Result<()> {
    let data = DataDirectory::open(global, Access::Existing)?;
    let topics: Vec<_> = data.log.topics().iter().map(TopicView::of).collect();
    output.result(&topics, |output| {
        let mut table = Table::new(&[
            Column::Text("topic"),
            Column::Number("partitions"),
            Column::Number("records"),
            Column::Number("bytes"),
            Column::Text("cleanup"),
            Column::Text("keeps"),
        ]);
        for topic in &topics {
            table.row([
                topic.name.to_string(),
                topic.config.partitions.to_string(),
                topic.records.to_string(),
                output.bytes(topic.size_bytes),
                topic.config.cleanup().to_owned(),
                topic.config.kept(output),
            ]);
        }
        output.table_or(
            &table,
            "There are no topics yet; `millstream topic create NAME` creates one.",
        )
    })?;
    Ok(())
}

fn describe(global: &GlobalArgs, output: &mut Output, name: &TopicName) -> anyhow::Result<()> {
    let data = DataDirectory::open(global, Access::Existing)?;
    let topic = data.log.topic(name)?;
    let offsets = topic.partitions().iter().map(|partition| PartitionView {
        partition: partition.index(),
        start_offset: partition.start_offset(),
        end_offset: partition.high_watermark(),
        size_bytes: partition.size_bytes(),
    });
    let description = Description {
        topic: TopicView::of(&topic),
        offsets: offsets.collect(),
    };
    output.result(&description, |output| {
        output.fields(&[("topic", name.to_string())])?;
        description.topic.config.write(output)?;
        output.line("")?;
        let mut table = Table::new(&[
            Column::Number("partition"),
            Column::Number("start"),
            Column::Number("end"),
            Column::Number("bytes"),
        ]);
        for partition in &description.offsets {
            table.row([
                partition.partition.to_string(),
                partition.start_offset.to_string(),
                partition.end_offset.to_string(),
                output.bytes(partition.size_bytes),
            ]);
        }
        output.table(&table)
    })?;
    Ok(())
}

async fn create(
    global: &GlobalArgs,
    output: &mut Output,
    name: &TopicName,
    partitions: u32,
    settings: &Settings,
) -> anyhow::Result<()> {
    let mut config = TopicConfig {
        partitions,
        ..TopicConfig::default()
    };
    settings.apply(&mut config)?;
    let data = DataDirectory::open(global, Access::Create)?;
    let topic = data.log.create_topic(name, config).await?;
    let partitions = match topic.partition_count() {
        1 => "1 partition".to_owned(),
        count => format!("{count} partitions"),
    };
    output.result(&TopicView::of(&topic), |output| {
        output.line(format_args!("created topic `{name}` with {partitions}"))
    })?;
    Ok(())
}

async fn alter(
    global: &GlobalArgs,
    output: &mut Output,
    name: &TopicName,
    settings: &Settings,
) -> anyhow::Result<()> {
    if *settings == Settings::default() {
        return Err(Usage(
            "nothing to change; expected a setting such as --retention 30d, see `millstream topic alter --help`".to_owned(),
        )
        .into());
    }
    let data = DataDirectory::open(global, Access::Existing)?;
    let topic = data.log.topic(name)?;
    let mut config = topic.config();
    settings.apply(&mut config)?;
    data.log.alter_topic(&topic, config).await?;
    let view = TopicView::of(&topic);
    output.result(&view, |output| {
        output.line(format_args!("changed topic `{name}`; it now has"))?;
        view.config.write(output)
    })?;
    Ok(())
}

#[derive(Debug, Serialize)]
struct Deleted {
    name: TopicName,
    records: u64,
    size_bytes: u64,
}

async fn delete(
    global: &GlobalArgs,
    output: &mut Output,
    name: &TopicName,
    yes: bool,
) -> anyhow::Result<Ending> {
    let data = DataDirectory::open(global, Access::Existing)?;
    let TopicView {
        records,
        size_bytes,
        ..
    } = TopicView::of(&data.log.topic(name)?);
    if !yes && !confirm(&format!("delete topic `{name}` and its {records} records?"))? {
        super::progress::note("nothing was deleted");
        return Ok(Ending::Failed);
    }
    data.log.delete_topic(name).await?;
    let deleted = Deleted {
        name: name.clone(),
        records,
        size_bytes,
    };
    output.result(&deleted, |output| {
        output.line(format_args!(
            "deleted topic `{name}` and its {records} records"
        ))
    })?;
    Ok(Ending::Done)
}

#[derive(Debug, Serialize)]
struct Compacted {
    name: TopicName,
    records_removed: u64,
    records_kept: u64,
    freed_bytes: u64,
}

async fn compact(global: &GlobalArgs, output: &mut Output, name: &TopicName) -> anyhow::Result<()> {
    let data = DataDirectory::open(global, Access::Existing)?;
    let topic = data.log.topic(name)?;
    if topic.config().cleanup != Cleanup::Compact {
        anyhow::bail!(
            "topic `{name}` has cleanup `delete`, there is nothing to compact; `millstream topic alter {name} --cleanup compact` makes it keep the newest record of each key"
        );
    }
    let report = data.log.clean(&topic).await?;
    let compacted = Compacted {
        name: name.clone(),
        records_removed: report.records_removed,
        records_kept: report.records_kept,
        freed_bytes: report.freed_bytes,
    };
    output.result(&compacted, |output| {
        let freed = indicatif::BinaryBytes(compacted.freed_bytes);
        output.line(format_args!(
            "compacted topic `{name}`: {} records removed, {} kept, {freed} freed",
            compacted.records_removed, compacted.records_kept
        ))
    })?;
    Ok(())
}
