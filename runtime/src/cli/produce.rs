//! `millstream produce`: records from a file or standard input into a topic.
//!
//! Lines are read on one thread (`input.rs`), turned into batches here, and written by the commit
//! thread: memory is bounded by what is on its way. What is reported as acknowledged is stored; a
//! bad line stops the command after everything before it has been acknowledged.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::ValueEnum;
use serde::Serialize;

use super::GlobalArgs;
use super::exit::{Ending, Usage};
use super::input::{Chunk, Input};
use super::interrupt::Interrupt;
use super::json_line::{Mistake, Selection};
use super::json_record::JsonRecord;
use super::open::{Access, DataDirectory};
use super::output::{self, Column, Output, Table};
use super::progress::{self, Progress, Unit};
use super::quantity;
use super::target::Target;
use crate::log::{Log, Producer, Topic, TopicConfig};
use crate::model::{HeadersBuf, HeadersRef, TopicName};
use crate::{log, manifest, pipeline};

/// How long records wait for more of them before they are sent.
const LINGER: Duration = Duration::from_millis(5);

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
    records: u64,
    seconds: f64,
    records_per_second: u64,
    partitions: Vec<PartitionSummary>,
}

#[derive(Debug, Serialize)]
struct PartitionSummary {
    partition: u32,
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
    for spec in manifest.iter().flat_map(|manifest| &manifest.topics) {
        let config = pipeline::topic_config(spec);
        data.log.ensure_topic(&spec.name, config).await?;
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
    let records = partitions.iter().map(|partition| partition.records).sum();
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

/// Turns lines into records.
struct Import {
    producer: Producer,
    clock: crate::clock::Clock,
    format: LineFormat,
    selection: Selection,
    allow_null_key: bool,
    repartition: bool,
    headers: HeadersBuf,
    /// Lines read, the one in hand included.
    line: u64,
    /// Records handed to the producer.
    sent: u64,
    /// Acknowledged records that have been shown.
    shown: u64,
}

impl Import {
    fn new(log: &Log, topic: &Topic, args: &ProduceArgs) -> Self {
        Self {
            producer: Producer::new(log.clone(), topic.clone()),
            clock: log.store().clock().clone(),
            format: args.format,
            selection: Selection {
                key: args.key_field.clone(),
                timestamp: args.timestamp_field.clone(),
            },
            allow_null_key: args.allow_null_key,
            repartition: args.repartition,
            headers: HeadersBuf::new(),
            line: 0,
            sent: 0,
            shown: 0,
        }
    }

    /// Sends all lines of an input.
    async fn copy(
        &mut self,
        input: &mut Input,
        bar: &mut Progress,
        interrupt: &Interrupt,
    ) -> anyhow::Result<Ending> {
        let started = Instant::now();
        loop {
            let acknowledged = self.producer.acknowledged().records;
            let next = tokio::select! {
                biased;
                () = interrupt.requested() => return Ok(Ending::Interrupted),
                next = input.next() => next,
                // Whoever writes to our standard input waits for an acknowledgement.
                () = tokio::time::sleep(LINGER), if input.is_live() && acknowledged < self.sent => {
                    self.producer.flush().await?;
                    continue;
                }
                () = bar.due(), if self.shown < acknowledged => {
                    self.show(input, bar, started);
                    continue;
                }
            };
            let chunk = match next {
                Ok(Some(chunk)) => chunk,
                Ok(None) => return Ok(Ending::Done),
                Err(error) => {
                    let (name, line) = (input.name(), self.line + 1);
                    anyhow::bail!("{name}:{line}: cannot read the input: {error}");
                }
            };
            self.send(&chunk, input.name()).await?;
            input.recycle(chunk);
            if bar.is_due() {
                self.show(input, bar, started);
            }
        }
    }

    fn show(&mut self, input: &Input, bar: &mut Progress, started: Instant) {
        let acknowledged = self.producer.acknowledged().records;
        let elapsed = started.elapsed();
        let text = match bar.is_drawn() {
            true => format!(
                "{} acknowledged, {}",
                indicatif::HumanCount(acknowledged),
                progress::rate(acknowledged, elapsed)
            ),
            // Without separators: scripts read this.
            false => format!(
                "acknowledged {acknowledged} records, {} records/s",
                progress::per_second(acknowledged, elapsed)
            ),
        };
        bar.show(input.read_bytes(), None, text);
        self.shown = acknowledged;
    }

    async fn send(&mut self, chunk: &Chunk, name: &str) -> anyhow::Result<()> {
        let now_ms = self.clock.now_ms();
        for line in chunk.lines() {
            self.line += 1;
            if let Err(refusal) = self.send_line(line, now_ms).await {
                return Err(refusal.into_error(name, self.line));
            }
        }
        Ok(())
    }

    async fn send_line(&mut self, line: &[u8], now_ms: u64) -> Result<(), Refusal> {
        let is_blank = || line.trim_ascii().is_empty();
        match self.format {
            LineFormat::Lines => {
                let none = HeadersRef::EMPTY;
                self.producer
                    .send(None, now_ms, None, Some(line), none)
                    .await?;
            }
            _ if is_blank() => return Ok(()),
            LineFormat::Json => {
                let fields = self.selection.read(line)?;
                let key = self.selection.key(&fields, self.allow_null_key)?;
                let key = key.as_ref().map(|key| key.as_bytes());
                let timestamp_ms = self.selection.timestamp_ms(&fields)?.unwrap_or(now_ms);
                let none = HeadersRef::EMPTY;
                self.producer
                    .send(None, timestamp_ms, key, Some(line), none)
                    .await?;
            }
            LineFormat::Record => {
                let record = JsonRecord::read(line)?;
                record.encode_headers(&mut self.headers)?;
                let partition = record.partition.filter(|_| !self.repartition);
                let timestamp_ms = record.timestamp.unwrap_or(now_ms);
                let headers = self.headers.as_headers();
                self.producer
                    .send(
                        partition,
                        timestamp_ms,
                        record.key(),
                        record.value(),
                        headers,
                    )
                    .await?;
            }
        }
        self.sent += 1;
        Ok(())
    }
}

/// Why a line could not be sent.
enum Refusal {
    /// It is not what a line must be.
    Line(Mistake),
    /// The record is not what the topic takes, or writing failed.
    Log(log::Error),
}

impl From<Mistake> for Refusal {
    fn from(mistake: Mistake) -> Self {
        Self::Line(mistake)
    }
}

impl From<log::Error> for Refusal {
    fn from(error: log::Error) -> Self {
        Self::Log(error)
    }
}

impl Refusal {
    fn into_error(self, name: &str, line: u64) -> anyhow::Error {
        match self {
            Self::Line(mistake) => anyhow::anyhow!(
                "{name}:{line}:{mistake}; the lines before it are acknowledged, nothing from it on is stored"
            ),
            // Writing failed: no line is to blame.
            Self::Log(error @ log::Error::Storage(_)) => error.into(),
            Self::Log(error) => anyhow::anyhow!("{name}:{line}: {error}"),
        }
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
