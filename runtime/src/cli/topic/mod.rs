//! `millstream topic`: list, describe, create, alter, delete and compact topics.

mod settings;
mod view;

use clap::Subcommand;

use super::GlobalArgs;
use super::client::Client;
use super::confirm::confirm;
use super::exit::{Ending, Usage};
use super::open::Access;
use super::output::{Column, Output, Table};
use crate::model::TopicName;
use crate::server::{
    CompactedTopic, DeletedTopic, NewTopic, TopicDescription, TopicSettings, TopicView,
};
use settings::Settings;

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
    /// Delete a topic with all its records, unless an applied pipeline uses it
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
    let access = match &command {
        TopicCommand::Create { .. } => Access::Create,
        _ => Access::Existing,
    };
    if let TopicCommand::Alter { settings, .. } = &command
        && *settings == Settings::default()
    {
        return Err(Usage(
            "nothing to change; expected a setting such as --retention 30d, see `millstream topic alter --help`".to_owned(),
        )
        .into());
    }
    let client = Client::connect(global, access)?;
    match command {
        TopicCommand::List => list(&client, output).await?,
        TopicCommand::Describe { name } => describe(&client, output, &name).await?,
        TopicCommand::Create {
            name,
            partitions,
            settings,
        } => {
            let settings = settings.into();
            let new = NewTopic {
                name,
                partitions,
                settings,
            };
            create(&client, output, &new).await?;
        }
        TopicCommand::Alter { name, settings } => {
            alter(&client, output, &name, &settings.into()).await?;
        }
        TopicCommand::Delete { name, yes } => return delete(&client, output, &name, yes).await,
        TopicCommand::Compact { name } => compact(&client, output, &name).await?,
    }
    Ok(Ending::Done)
}

async fn list(client: &Client, output: &mut Output) -> anyhow::Result<()> {
    let topics: Vec<TopicView> = client.get("/v1/topics", &()).await?;
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
                view::cleanup(&topic.config).to_owned(),
                view::kept(&topic.config, output),
            ]);
        }
        output.table_or(
            &table,
            "There are no topics yet; `millstream topic create NAME` creates one.",
        )
    })?;
    Ok(())
}

async fn describe(client: &Client, output: &mut Output, name: &TopicName) -> anyhow::Result<()> {
    let description: TopicDescription = client.get(&format!("/v1/topics/{name}"), &()).await?;
    output.result(&description, |output| {
        output.fields(&[("topic", name.to_string())])?;
        view::write(&description.topic.config, output)?;
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

async fn create(client: &Client, output: &mut Output, new: &NewTopic) -> anyhow::Result<()> {
    let topic: TopicView = client.post("/v1/topics", new).await?;
    let partitions = match topic.config.partitions {
        1 => "1 partition".to_owned(),
        count => format!("{count} partitions"),
    };
    output.result(&topic, |output| {
        output.line(format_args!(
            "created topic `{}` with {partitions}",
            new.name
        ))
    })?;
    Ok(())
}

async fn alter(
    client: &Client,
    output: &mut Output,
    name: &TopicName,
    settings: &TopicSettings,
) -> anyhow::Result<()> {
    let topic: TopicView = client
        .patch(&format!("/v1/topics/{name}"), settings)
        .await?;
    output.result(&topic, |output| {
        output.line(format_args!("changed topic `{name}`; it now has"))?;
        view::write(&topic.config, output)
    })?;
    Ok(())
}

async fn delete(
    client: &Client,
    output: &mut Output,
    name: &TopicName,
    yes: bool,
) -> anyhow::Result<Ending> {
    let path = format!("/v1/topics/{name}");
    let topic: TopicView = client.get(&path, &()).await?;
    let records = topic.records;
    if !yes && !confirm(&format!("delete topic `{name}` and its {records} records?"))? {
        super::progress::note("nothing was deleted");
        return Ok(Ending::Failed);
    }
    let deleted: DeletedTopic = client.delete(&path).await?;
    output.result(&deleted, |output| {
        output.line(format_args!(
            "deleted topic `{name}` and its {} records",
            deleted.records
        ))
    })?;
    Ok(Ending::Done)
}

async fn compact(client: &Client, output: &mut Output, name: &TopicName) -> anyhow::Result<()> {
    let path = format!("/v1/topics/{name}/compact");
    let compacted: CompactedTopic = client.post(&path, &()).await?;
    output.result(&compacted, |output| {
        let freed = indicatif::BinaryBytes(compacted.freed_bytes);
        output.line(format_args!(
            "compacted topic `{name}`: {} records removed, {} kept, {freed} freed",
            compacted.records_removed, compacted.records_kept
        ))
    })?;
    Ok(())
}
