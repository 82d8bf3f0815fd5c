//! `millstream produce`: records from a file or standard input into a topic or a queue.
//!
//! Lines are read on one thread (`cli/input.rs`), turned into records here (`import.rs`), and
//! written by the commit thread: memory is bounded by what is on its way. What is reported as
//! acknowledged is stored; a bad line stops the command after everything before it has been
//! acknowledged.

mod import;
mod remote;
mod sink;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::ValueEnum;
use serde::Serialize;

use super::GlobalArgs;
use super::client::{Client, Place};
use super::exit::{Ending, Usage};
use super::input::Input;
use super::interrupt::Interrupt;
use super::open::{Access, DataDirectory};
use super::output::{self, Column, Output, Table};
use super::progress::{self, Progress, Unit};
use super::quantity;
use crate::clock::Clock;
use crate::log::{Log, Producer, Topic, TopicConfig};
use crate::model::{QueueName, Target, TopicName};
use crate::queue::{Queue, QueueConfig, Queues};
use crate::server::{
    Code, NewQueue, NewTopic, Problem, QueueSettings, QueueView, TopicDescription, TopicSettings,
    TopicView,
};
use crate::{log, manifest, pipeline, queue};
use import::Import;
use remote::RemoteSink;
use sink::{Resume, Sink, TopicSink};

/// Arguments of `produce`.
#[derive(Debug, clap::Args)]
pub(super) struct ProduceArgs {
    /// Where the records go, as topic:NAME or queue:NAME
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

    #[command(flatten)]
    message: Message,

    /// Create the topic or queue if it does not exist
    #[arg(long)]
    create: bool,

    /// With --create: number of partitions of a new topic [default: 1]
    #[arg(long, value_name = "COUNT", requires = "create")]
    partitions: Option<u32>,

    /// Create the topics and queues that this manifest declares first, with its settings
    #[arg(long, value_name = "MANIFEST", conflicts_with = "create")]
    manifest: Option<PathBuf>,

    /// Pass over the first COUNT records of the input
    #[arg(
        long,
        value_name = "COUNT",
        default_value_t = 0,
        conflicts_with = "resume"
    )]
    skip: u64,

    /// Stop after COUNT records
    #[arg(long, value_name = "COUNT")]
    max: Option<u64>,

    /// Go on with an input that was interrupted, into a topic that holds nothing else: records that are there
    /// already are passed over. Each record needs a key, unless the topic has one partition
    #[arg(long)]
    resume: bool,

    /// How often a line with the number of acknowledged records is written to standard error, where
    /// that is no terminal
    #[arg(long, value_name = "DURATION", value_parser = quantity::duration, default_value = "1s")]
    progress_interval: Duration,
}

/// What messages of a queue say; what a record or a field of a line says counts before what is said of all.
#[derive(Debug, Default, PartialEq, clap::Args)]
#[command(next_help_heading = "Messages of a queue")]
struct Message {
    /// The priority, 0 to 9; 9 is delivered first
    #[arg(long, value_name = "PRIORITY", value_parser = clap::value_parser!(u8).range(0..=9))]
    priority: Option<u8>,

    /// The FIFO group
    #[arg(long, value_name = "GROUP")]
    message_group: Option<String>,

    /// How long messages wait before their first delivery
    #[arg(long, value_name = "DURATION", value_parser = quantity::duration_ms)]
    delay: Option<u64>,

    /// How long messages are of use
    #[arg(long, value_name = "DURATION", value_parser = quantity::duration_ms)]
    time_to_live: Option<u64>,

    /// The field that holds the priority
    #[arg(long, value_name = "FIELD")]
    priority_field: Option<String>,

    /// The field that holds the FIFO group
    #[arg(long, value_name = "FIELD")]
    message_group_field: Option<String>,

    /// The field that holds the deduplication id
    #[arg(long, value_name = "FIELD")]
    deduplication_id_field: Option<String>,
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
            ("--priority-field", self.message.priority_field.is_some()),
            (
                "--message-group-field",
                self.message.message_group_field.is_some(),
            ),
            (
                "--deduplication-id-field",
                self.message.deduplication_id_field.is_some(),
            ),
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
        let without_effect = match &self.target {
            Target::Topic(_) if self.message != Message::default() => {
                "--priority, --message-group, --delay, --time-to-live and the fields for them are of messages of a queue; they have no effect on a topic"
            }
            Target::Queue(_) if self.partitions.is_some() => {
                "--partitions has no effect on a queue; leave it out"
            }
            Target::Queue(_) if self.resume => {
                return Err(Usage(
                    "--resume has no effect on a queue; a deduplication id keeps a message from being enqueued twice".to_owned(),
                ));
            }
            Target::Queue(_) if self.repartition => {
                "--repartition has no effect on a queue; leave it out"
            }
            _ => return Ok(()),
        };
        Err(Usage(without_effect.to_owned()))
    }
}

/// What has been acknowledged in a topic.
#[derive(Debug, Serialize)]
struct Summary {
    topic: TopicName,
    /// The first records of the input, which are all stored.
    records: u64,
    already_there: u64,
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

/// What has been acknowledged in a queue.
#[derive(Debug, Serialize)]
struct QueueSummary {
    queue: QueueName,
    messages: u64,
    duplicates: u64,
    seconds: f64,
    messages_per_second: u64,
}

/// Writes the records of an input to a topic or a queue.
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
    let place = Place::find(global, access)?;
    let (sink, report, clock, _open) = match place {
        Place::Directory(data) => {
            if let Some(manifest) = &manifest {
                pipeline::declare(&data.log, &data.queues, manifest).await?;
            }
            let (sink, report) = embedded(&data, &args).await?;
            let clock = data.log.store().clock().clone();
            // Open to the end: a queue finds there the one that takes its dead letters.
            (sink, report, clock, Some(data))
        }
        Place::Server(_) if manifest.is_some() => {
            return Err(Usage(
                "--manifest declares topics and queues in a data directory; `millstream apply MANIFEST` does it on a server".to_owned(),
            )
            .into());
        }
        Place::Server(server) => {
            let (sink, report) = remote(Client::Remote(server), &args).await?;
            (sink, report, Clock::system(), None)
        }
    };

    let started = Instant::now();
    let mut import = Import::new(sink, clock, &args);
    let mut bar = Progress::start(
        global,
        Unit::Bytes,
        input.total_bytes(),
        Some(args.progress_interval),
    );
    let result = import.copy(&mut input, &mut bar, &interrupt).await;
    // What came before a bad line counts.
    let flushed = import.sink.flush().await;
    drop(bar);

    report
        .write(&import.sink, started.elapsed(), output)
        .await?;
    output.flush()?;
    match flushed {
        // Not even what came before a bad line is stored.
        Err(error) if error.is_storage() => Err(error.into()),
        Err(error) => result.and(Err(error.into())),
        Ok(()) => result,
    }
}

/// Into the data directory.
async fn embedded(data: &DataDirectory, args: &ProduceArgs) -> anyhow::Result<(Sink, Report)> {
    Ok(match &args.target {
        Target::Topic(name) => {
            let topic = open_topic(&data.log, name, args).await?;
            let producer = Producer::new(data.log.clone(), topic.clone());
            let report = Report::topic(topic);
            let sink = TopicSink::new(producer, resume(args, &report));
            (Sink::Topic(Box::new(sink)), report)
        }
        Target::Queue(name) => {
            let queue = open_queue(&data.queues, name, args).await?;
            let report = Report::Queue(queue.name().clone());
            (Sink::queue(&queue, args), report)
        }
    })
}

/// Into a topic or a queue of a server.
async fn remote(client: Client, args: &ProduceArgs) -> anyhow::Result<(Sink, Report)> {
    let report = match &args.target {
        Target::Topic(name) => {
            let path = format!("/v1/topics/{name}");
            let found: anyhow::Result<TopicDescription> = client.get(&path, &()).await;
            let topic = match found {
                Err(error) if args.create && is_code(&error, Code::UnknownTopic) => {
                    let new = NewTopic {
                        name: name.clone(),
                        partitions: args.partitions.unwrap_or(1),
                        settings: TopicSettings::default(),
                    };
                    let _: TopicView = client.post("/v1/topics", &new).await?;
                    client.get(&path, &()).await?
                }
                found => found?,
            };
            let existing = topic.topic.config.partitions;
            if let Some(wanted) = args.partitions.filter(|wanted| *wanted != existing) {
                let name = name.clone();
                return Err(log::Error::PartitionCount {
                    name,
                    existing,
                    wanted,
                }
                .into());
            }
            Report::Remote {
                client: client.clone(),
                ends: topic.offsets.iter().map(|it| it.end_offset).collect(),
                name: name.clone(),
            }
        }
        Target::Queue(name) => {
            let found: anyhow::Result<QueueView> =
                client.get(&format!("/v1/queues/{name}"), &()).await;
            match found {
                Err(error) if args.create && is_code(&error, Code::UnknownQueue) => {
                    let new = NewQueue {
                        name: name.clone(),
                        settings: QueueSettings::default(),
                    };
                    let _: QueueView = client.post("/v1/queues", &new).await?;
                }
                found => _ = found?,
            }
            Report::Queue(name.clone())
        }
    };
    let sink = RemoteSink::new(client, &args.target, args.message.attributes());
    Ok((Sink::remote(sink, resume(args, &report)), report))
}

fn resume(args: &ProduceArgs, report: &Report) -> Resume {
    match args.resume {
        true => Resume::after(report.ends().iter().copied()),
        false => Resume::default(),
    }
}

fn is_code(error: &anyhow::Error, code: Code) -> bool {
    error
        .downcast_ref::<Problem>()
        .is_some_and(|problem| problem.code == code)
}

async fn open_queue(
    queues: &Queues,
    name: &QueueName,
    args: &ProduceArgs,
) -> Result<Queue, queue::Error> {
    match queues.queue(name) {
        Err(queue::Error::UnknownQueue { .. }) if args.create => {
            queues.create_queue(name, QueueConfig::default()).await
        }
        found => found,
    }
}

async fn open_topic(log: &Log, name: &TopicName, args: &ProduceArgs) -> Result<Topic, log::Error> {
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

/// What is to be said in the end.
enum Report {
    /// With the ends that its partitions had before.
    Topic {
        topic: Topic,
        ends: Vec<u64>,
    },
    /// The same of a topic of a server.
    Remote {
        client: Client,
        name: TopicName,
        ends: Vec<u64>,
    },
    Queue(QueueName),
}

impl Report {
    fn topic(topic: Topic) -> Self {
        let partitions = topic.partitions().iter();
        let ends = partitions.map(|p| p.high_watermark()).collect();
        Self::Topic { topic, ends }
    }

    /// The ends that the partitions had before; none of a queue.
    fn ends(&self) -> &[u64] {
        match self {
            Self::Topic { ends, .. } | Self::Remote { ends, .. } => ends,
            Self::Queue(_) => &[],
        }
    }

    async fn write(
        &self,
        sink: &Sink,
        elapsed: Duration,
        output: &mut Output,
    ) -> anyhow::Result<()> {
        let (name, ends_now): (&TopicName, Vec<u64>) = match self {
            Self::Topic { topic, .. } => {
                let partitions = topic.partitions().iter();
                let ends = partitions.map(|it| it.high_watermark());
                (topic.name(), ends.collect())
            }
            Self::Remote { client, name, .. } => {
                let topic: TopicDescription =
                    client.get(&format!("/v1/topics/{name}"), &()).await?;
                let ends = topic.offsets.iter().map(|it| it.end_offset);
                (name, ends.collect())
            }
            Self::Queue(name) => {
                let messages = sink.acknowledged();
                let summary = QueueSummary {
                    queue: name.clone(),
                    messages,
                    duplicates: sink.left_out(),
                    seconds: elapsed.as_secs_f64(),
                    messages_per_second: progress::per_second(messages, elapsed),
                };
                output.result(&summary, |output| summary.write(output))?;
                return Ok(());
            }
        };
        let partitions = ends_now.iter().zip(self.ends()).zip(0..);
        let partitions = partitions.map(|((now, before), partition)| PartitionSummary {
            partition,
            records: now.saturating_sub(*before),
            end_offset: *now,
        });
        // Not the sum of the partitions: after a failed write some have records beyond these.
        let records = sink.acknowledged();
        let summary = Summary {
            topic: name.clone(),
            records,
            already_there: sink.left_out(),
            seconds: elapsed.as_secs_f64(),
            records_per_second: progress::per_second(records, elapsed),
            partitions: partitions.collect(),
        };
        output.result(&summary, |output| summary.write(output))?;
        Ok(())
    }
}

impl QueueSummary {
    fn write(&self, output: &mut Output) -> Result<(), output::Error> {
        output.line(format_args!(
            "acknowledged {} messages in queue `{}`, {:.3} s, {} messages/s",
            self.messages, self.queue, self.seconds, self.messages_per_second
        ))?;
        if self.duplicates > 0 {
            output.line(format_args!(
                "{} duplicates were not enqueued",
                self.duplicates
            ))?;
        }
        Ok(())
    }
}

impl Summary {
    fn write(&self, output: &mut Output) -> Result<(), output::Error> {
        output.line(format_args!(
            "acknowledged {} records in topic `{}`, {:.3} s, {} records/s",
            self.records, self.topic, self.seconds, self.records_per_second
        ))?;
        if self.already_there > 0 {
            output.line(format_args!(
                "{} records were there already",
                self.already_there
            ))?;
        }
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
        assert_eq!(args.target, "topic:flights".parse().unwrap());
        assert_eq!(args.format, LineFormat::Json);
        parse("topic:t --create --partitions 4").unwrap();
        parse("topic:t --manifest millstream.toml --file -").unwrap();
        parse("topic:t --format record --repartition").unwrap();
        parse("queue:q --priority 9 --delay 10s --message-group g --time-to-live 1h").unwrap();
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
            ("topic:t --delay 1s", "no effect on a topic"),
            ("topic:t --priority-field p", "no effect on a topic"),
            (
                "queue:q --format lines --priority-field p",
                "--priority-field names a field",
            ),
            (
                "queue:q --create --partitions 4",
                "--partitions has no effect",
            ),
            (
                "queue:q --format record --repartition",
                "--repartition has no effect",
            ),
            ("topic:t --allow-null-key", "--key-field"),
            ("t", "did you mean `topic:t`?"),
        ] {
            let error = parse(words).unwrap_err();
            assert!(error.contains(hint), "{words}: {error}");
        }
    }
}
