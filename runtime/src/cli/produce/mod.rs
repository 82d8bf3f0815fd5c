//! `millstream produce`: records from a file or standard input into a topic.
//!
//! Lines are read on one thread (`cli/input.rs`), turned into records here (`import.rs`), and
//! written by the commit thread: memory is bounded by what is on its way. What is reported as
//! acknowledged is stored; a bad line stops the command after everything before it has been
//! acknowledged.

mod import;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::ValueEnum;
use serde::Serialize;

use super::GlobalArgs;
use super::exit::{Ending, Usage};
use super::input::Input;
use super::interrupt::Interrupt;
use super::open::{Access, DataDirectory};
use super::output::{self, Column, Output, Table};
use super::progress::{self, Progress, Unit};
use super::quantity;
use super::target::Target;
use crate::log::{Log, Topic, TopicConfig};
use crate::model::TopicName;
use crate::{log, manifest, pipeline};
use import::Import;

/// Arguments of `produce`.
#[derive(Debug, clap::Args)]
pub(super) struct ProduceArgs {
    /// Where the records go, as topic:NAME
    target: Target,

    /// The file to read, decompressed if it ends in .zst or .gz; `-` is standard input [default: -]
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,

    /// What a line is
    #[arg(long, value_enum, default_value_t)]
    format: LineFormat,

    /// The field that holds the key: the text of a string, a number as it is written
    #[arg(long, value_name = "FIELD")]
    key_field: Option<String>,

    /// Store records without a key when the key's field is missing or null
    #[arg(long, requires = "key_field")]
    allow_null_key: bool,

    /// The field that holds the timestamp, as ms since 1970 or RFC 3339 text [default: now]
    #[arg(long, value_name = "FIELD")]
    timestamp_field: Option<String>,

    /// With --format record: choose partitions by key, whatever the records say
    #[arg(long)]
    repartition: bool,

    /// Create the topic if it does not exist
    #[arg(long)]
    create: bool,

    /// With --create: number of partitions of a new topic [default: 1]
    #[arg(long, value_name = "COUNT", requires = "create")]
    partitions: Option<u32>,

    /// Create the topics that this manifest declares first, with its settings
    #[arg(long, value_name = "MANIFEST", conflicts_with = "create")]
    manifest: Option<PathBuf>,

    /// How often a line with the number of acknowledged records is written to standard error, where
    /// that is no terminal
    #[arg(long, value_name = "DURATION", value_parser = quantity::duration, default_value = "1s")]
    progress_interval: Duration,
}

/// What a line is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
enum LineFormat {
    /// A JSON value, stored as it is; blank lines are skipped
    #[default]
    Json,
    /// A record as `consume --output json` writes it; blank lines are skipped
    Record,
    /// Any bytes, stored as they are
    Lines,
}

impl ProduceArgs {
    /// What `clap` does not check.
    fn check(&self) -> Result<(), Usage> {
        let of_json = [
            ("--key-field", self.key_field.is_some()),
            ("--timestamp-field", self.timestamp_field.is_some()),
        ];
        let given = of_json.iter().find(|(_, is_given)| *is_given);
        if let (Some((option, _)), LineFormat::Record | LineFormat::Lines) = (given, self.format) {
            return Err(Usage(format!(
                "{option} names a field of a JSON line; it has no effect with --format {}",
                if self.format == LineFormat::Lines {
                    "lines"
                } else {
                    "record"
                }
            )));
        }
        if self.repartition && self.format != LineFormat::Record {
            return Err(Usage(
                "--repartition has an effect with --format record only: other lines name no partition".to_owned(),
            ));
        }
        Ok(())
    }
}

/// What has been acknowledged.
#[derive(Debug, Serialize)]
struct Summary {
    topic: TopicName,
    /// The first records of the input, which are all stored.
    records: u64,
    seconds: f64,
    records_per_second: u64,
    partitions: Vec<PartitionSummary>,
}

#[derive(Debug, Serialize)]
struct PartitionSummary {
    partition: u32,
    /// Records that the command has stored in it.
    records: u64,
    end_offset: u64,
}

/// Writes the records of an input to a topic.
pub(super) async fn run(
    args: ProduceArgs,
    global: &GlobalArgs,
    output: &mut Output,
) -> anyhow::Result<Ending> {
    args.check()?;
    let manifest = args.manifest.as_deref().map(manifest::load).transpose()?;
    // Before the data directory: a mistyped file creates nothing.
    let mut input = Input::open(args.file.as_deref())?;
    let interrupt = Interrupt::listen("waiting for what is on its way")?;
    let creates = args.create || manifest.is_some();
    let access = if creates {
        Access::Create
    } else {
        Access::Existing
    };
    let data = DataDirectory::open(global, access)?;
    if let Some(manifest) = &manifest {
        pipeline::ensure_topics(&data.log, manifest).await?;
    }
    let topic = open_topic(&data.log, &args).await?;

    let started = Instant::now();
    let ends_before: Vec<_> = topic
        .partitions()
        .iter()
        .map(|p| p.high_watermark())
        .collect();
    let mut import = Import::new(&data.log, &topic, &args);
    let mut bar = Progress::start(
        global,
        Unit::Bytes,
        input.total_bytes(),
        Some(args.progress_interval),
    );
    let result = import.copy(&mut input, &mut bar, &interrupt).await;
    // What came before a bad line counts.
    let flushed = import.producer.flush().await;
    drop(bar);

    let elapsed = started.elapsed();
    let partitions = topic.partitions().iter().zip(ends_before);
    let partitions: Vec<_> = partitions
        .map(|(partition, before)| PartitionSummary {
            partition: partition.index(),
            records: partition.high_watermark().saturating_sub(before),
            end_offset: partition.high_watermark(),
        })
        .collect();
    // Not the sum of the partitions: after a failed write some have records beyond these.
    let records = import.producer.acknowledged().records;
    let summary = Summary {
        topic: topic.name().clone(),
        records,
        seconds: elapsed.as_secs_f64(),
        records_per_second: progress::per_second(records, elapsed),
        partitions,
    };
    output.result(&summary, |output| summary.write(output))?;
    output.flush()?;
    match flushed {
        // Not even what came before a bad line is stored.
        Err(error @ log::Error::Storage(_)) => Err(error.into()),
        Err(error) => result.and(Err(error.into())),
        Ok(_) => result,
    }
}

async fn open_topic(log: &Log, args: &ProduceArgs) -> Result<Topic, log::Error> {
    let name = &args.target.0;
    match log.topic(name) {
        Err(log::Error::UnknownTopic { .. }) if args.create => {
            let config = TopicConfig {
                partitions: args.partitions.unwrap_or(1),
                ..TopicConfig::default()
            };
            log.create_topic(name, config).await
        }
        Ok(topic) => match args.partitions {
            Some(wanted) if wanted != topic.partition_count() => Err(log::Error::PartitionCount {
                name: name.clone(),
                existing: topic.partition_count(),
                wanted,
            }),
            _ => Ok(topic),
        },
        Err(error) => Err(error),
    }
}

impl Summary {
    fn write(&self, output: &mut Output) -> Result<(), output::Error> {
        output.line(format_args!(
            "acknowledged {} records in topic `{}`, {:.3} s, {} records/s",
            self.records, self.topic, self.seconds, self.records_per_second
        ))?;
        let mut table = Table::new(&[
            Column::Number("partition"),
            Column::Number("records"),
            Column::Number("end"),
        ]);
        for partition in &self.partitions {
            table.row([
                partition.partition.to_string(),
                partition.records.to_string(),
                partition.end_offset.to_string(),
            ]);
        }
        output.table(&table)
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Words {
        #[command(flatten)]
        args: ProduceArgs,
    }

    fn parse(words: &str) -> Result<ProduceArgs, String> {
        let words = ["produce"].into_iter().chain(words.split(' '));
        let parsed = Words::try_parse_from(words).map_err(|error| error.to_string())?;
        parsed.args.check().map_err(|Usage(text)| text)?;
        Ok(parsed.args)
    }

    #[test]
    fn the_arguments_of_the_documentation() {
        let args = parse("topic:flights --file f.jsonl.zst --key-field carrier").unwrap();
        assert_eq!(args.target.0, "flights");
        assert_eq!(args.format, LineFormat::Json);
        parse("topic:t --create --partitions 4").unwrap();
        parse("topic:t --manifest millstream.toml --file -").unwrap();
        parse("topic:t --format record --repartition").unwrap();
    }

    #[test]
    fn options_without_effect_are_refused() {
        for (words, hint) in [
            (
                "topic:t --format lines --key-field k",
                "--key-field names a field",
            ),
            (
                "topic:t --format record --timestamp-field t",
                "--timestamp-field names",
            ),
            ("topic:t --repartition", "--format record only"),
            ("topic:t --partitions 4", "--create"),
            ("topic:t --allow-null-key", "--key-field"),
            ("t", "did you mean `topic:t`?"),
        ] {
            let error = parse(words).unwrap_err();
            assert!(error.contains(hint), "{words}: {error}");
        }
    }
}
