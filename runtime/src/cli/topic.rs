//! `millstream topic`: list, describe, create, alter, delete and compact topics.

use std::io::Write as _;

use clap::Subcommand;
use serde::Serialize;

use super::GlobalArgs;
use super::exit::{Ending, Usage};
use super::open::{Access, DataDirectory};
use super::output::{self, Column, Output, Table};
use super::quantity::{self, Bound};
use crate::log::{Cleanup, CompressionName, Topic, TopicConfig};
use crate::model::{Compression, TopicName};

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

/// Settings of a topic, named as in a manifest.
#[derive(Debug, Default, PartialEq, clap::Args)]
pub(super) struct Settings {
    /// What happens to old records
    #[arg(long, value_enum)]
    cleanup: Option<CleanupArg>,
    /// How long records are kept: a duration such as `7d`, or `forever` [default: 7d]
    #[arg(long, value_name = "DURATION", value_parser = quantity::retention, allow_negative_numbers = true)]
    retention: Option<Bound>,
    /// How many bytes each partition keeps: a size such as `10GiB`, or `unlimited` [default: unlimited]
    #[arg(long, value_name = "SIZE", value_parser = quantity::retention_bytes, allow_negative_numbers = true)]
    retention_bytes: Option<Bound>,
    /// How batches are compressed; `producer`: as their producer sent them [default: producer]
    #[arg(long, value_enum)]
    compression: Option<CompressionArg>,
    /// How long a tombstone stays in a compacted topic after it was cleaned [default: 1d]
    #[arg(long, value_name = "DURATION", value_parser = quantity::duration_ms)]
    tombstone_delay: Option<u64>,
    /// The part of a partition, 0 to 1, that must be uncleaned before it is compacted [default: 0.5]
    #[arg(long, value_name = "RATIO")]
    min_cleanable_dirty_ratio: Option<f64>,
    /// The largest batch the topic takes, such as `16MiB` [default: 1048588]
    #[arg(long, value_name = "SIZE", value_parser = quantity::size)]
    max_batch_bytes: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum CleanupArg {
    /// Records beyond the retention go
    Delete,
    /// The newest record of each key stays
    Compact,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum CompressionArg {
    Producer,
    None,
    Gzip,
    Snappy,
    Lz4,
    Zstd,
}

impl CompressionArg {
    fn compression(self) -> Option<CompressionName> {
        match self {
            Self::Producer => None,
            Self::None => Some(CompressionName(Compression::None)),
            Self::Gzip => Some(CompressionName(Compression::Gzip)),
            Self::Snappy => Some(CompressionName(Compression::Snappy)),
            Self::Lz4 => Some(CompressionName(Compression::Lz4)),
            Self::Zstd => Some(CompressionName(Compression::Zstd)),
        }
    }
}

impl Settings {
    /// Changes `config` to these settings, where they are given.
    ///
    /// # Errors
    /// A setting that has no effect under the topic's cleanup: it was given for a reason.
    fn apply(&self, config: &mut TopicConfig) -> Result<(), Usage> {
        if let Some(cleanup) = self.cleanup {
            config.cleanup = match cleanup {
                CleanupArg::Delete => Cleanup::Delete,
                CleanupArg::Compact => Cleanup::Compact,
            };
        }
        let of_delete = [
            ("--retention", self.retention.is_some()),
            ("--retention-bytes", self.retention_bytes.is_some()),
        ];
        let of_compact = [
            ("--tombstone-delay", self.tombstone_delay.is_some()),
            (
                "--min-cleanable-dirty-ratio",
                self.min_cleanable_dirty_ratio.is_some(),
            ),
        ];
        let (foreign, needed, has) = match config.cleanup {
            Cleanup::Delete => (of_compact, "compact", "delete"),
            Cleanup::Compact => (of_delete, "delete", "compact"),
        };
        if let Some((option, _)) = foreign.iter().find(|(_, is_given)| *is_given) {
            return Err(Usage(format!(
                "{option} has no effect on a topic with cleanup `{has}`; leave it out, or give --cleanup {needed}"
            )));
        }
        if let Some(Bound(ms)) = self.retention {
            config.retention_ms = ms;
        }
        if let Some(Bound(bytes)) = self.retention_bytes {
            config.retention_bytes = bytes;
        }
        if let Some(compression) = self.compression {
            config.compression = compression.compression();
        }
        if let Some(ms) = self.tombstone_delay {
            config.tombstone_delay_ms = ms;
        }
        if let Some(ratio) = self.min_cleanable_dirty_ratio {
            config.min_cleanable_dirty_ratio = ratio;
        }
        if let Some(bytes) = self.max_batch_bytes {
            config.max_batch_bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
        }
        Ok(())
    }
}

/// A topic as it is shown.
#[derive(Debug, Serialize)]
struct TopicView {
    name: TopicName,
    #[serde(flatten)]
    config: ConfigView,
    records: u64,
    size_bytes: u64,
}

#[derive(Debug, Serialize)]
struct ConfigView {
    partitions: u32,
    cleanup: Cleanup,
    retention_ms: Option<u64>,
    retention_bytes: Option<u64>,
    compression: String,
    tombstone_delay_ms: u64,
    min_cleanable_dirty_ratio: f64,
    max_batch_bytes: usize,
}

#[derive(Debug, Serialize)]
struct PartitionView {
    partition: u32,
    start_offset: u64,
    end_offset: u64,
    size_bytes: u64,
}

#[derive(Debug, Serialize)]
struct Description {
    #[serde(flatten)]
    topic: TopicView,
    offsets: Vec<PartitionView>,
}

impl TopicView {
    fn of(topic: &Topic) -> Self {
        let config = topic.config();
        let partitions = topic.partitions();
        let records = |p: &std::sync::Arc<crate::storage::Partition>| {
            p.high_watermark().saturating_sub(p.start_offset())
        };
        Self {
            name: topic.name().clone(),
            config: ConfigView {
                partitions: config.partitions,
                cleanup: config.cleanup,
                retention_ms: config.retention_ms,
                retention_bytes: config.retention_bytes,
                compression: config
                    .compression
                    .map_or_else(|| "producer".to_owned(), String::from),
                tombstone_delay_ms: config.tombstone_delay_ms,
                min_cleanable_dirty_ratio: config.min_cleanable_dirty_ratio,
                max_batch_bytes: config.max_batch_bytes,
            },
            records: partitions.iter().map(records).sum(),
            size_bytes: partitions.iter().map(|p| p.size_bytes()).sum(),
        }
    }
}

impl ConfigView {
    fn cleanup(&self) -> &'static str {
        match self.cleanup {
            Cleanup::Delete => "delete",
            Cleanup::Compact => "compact",
        }
    }

    /// What is kept: the retention, or the newest record of each key.
    fn kept(&self, output: &Output) -> String {
        if self.cleanup == Cleanup::Compact {
            return "newest per key".to_owned();
        }
        let age = self
            .retention_ms
            .map_or_else(|| "forever".to_owned(), quantity::format_ms);
        match self.retention_bytes {
            Some(bytes) => format!("{age}, {} per partition", output.bytes(bytes)),
            None => age,
        }
    }

    fn write(&self, output: &mut Output) -> Result<(), output::Error> {
        let mut lines = vec![
            ("partitions", self.partitions.to_string()),
            ("cleanup", self.cleanup().to_owned()),
        ];
        match self.cleanup {
            Cleanup::Delete => {
                let age = self
                    .retention_ms
                    .map_or_else(|| "forever".to_owned(), quantity::format_ms);
                let bytes = self
                    .retention_bytes
                    .map_or_else(|| "unlimited".to_owned(), |bytes| output.bytes(bytes));
                lines.extend([("retention", age), ("retention-bytes", bytes)]);
            }
            Cleanup::Compact => {
                let delay = quantity::format_ms(self.tombstone_delay_ms);
                let ratio = self.min_cleanable_dirty_ratio.to_string();
                lines.extend([
                    ("tombstone-delay", delay),
                    ("min-cleanable-dirty-ratio", ratio),
                ]);
            }
        }
        lines.push(("compression", self.compression.clone()));
        lines.push(("max-batch-bytes", output.bytes(self.max_batch_bytes as u64)));
        output.fields(&lines)
    }
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

/// Asks on the terminal.
///
/// # Errors
/// There is nobody to ask.
fn confirm(question: &str) -> anyhow::Result<bool> {
    use std::io::{self, IsTerminal as _};
    if !io::stdin().is_terminal() {
        return Err(Usage(format!(
            "{question} There is no terminal to ask on; give --yes"
        ))
        .into());
    }
    write!(io::stderr(), "{question} [y/N] ")?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
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

#[cfg(test)]
mod tests {
    use super::*;

    fn applied(settings: &Settings) -> Result<TopicConfig, String> {
        let mut config = TopicConfig::default();
        settings.apply(&mut config).map_err(|Usage(text)| text)?;
        Ok(config)
    }

    #[test]
    fn settings_change_what_they_name_and_nothing_else() {
        let settings = Settings {
            retention: Some(Bound(None)),
            compression: Some(CompressionArg::Zstd),
            ..Settings::default()
        };
        let expected = TopicConfig {
            retention_ms: None,
            compression: Some(CompressionName(Compression::Zstd)),
            ..TopicConfig::default()
        };
        assert_eq!(applied(&settings), Ok(expected));
        assert_eq!(applied(&Settings::default()), Ok(TopicConfig::default()));
    }

    #[test]
    fn a_setting_without_effect_is_refused() {
        let error = applied(&Settings {
            cleanup: Some(CleanupArg::Compact),
            retention: Some(Bound(Some(1))),
            ..Settings::default()
        });
        assert!(error.unwrap_err().starts_with("--retention has no effect"));
        let error = applied(&Settings {
            tombstone_delay: Some(1),
            ..Settings::default()
        });
        assert!(
            error
                .unwrap_err()
                .starts_with("--tombstone-delay has no effect")
        );
    }
}
