//! `millstream consume`: the records of a topic, or the messages of a queue (`consume/queue.rs`), as
//! lines for people or as JSON.

mod queue;

use std::collections::BTreeMap;
use std::fmt::{Display, Write as _};
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tokio::task::JoinSet;

use super::GlobalArgs;
use super::exit::{Ending, Usage};
use super::interrupt::Interrupt;
use super::json_record;
use super::open::{Access, DataDirectory, partitions_of, resolve_offset};
use super::output::{Format, Output};
use super::{offset_spec, quantity};
use crate::group::Groups;
use crate::log::{Cursor, OffsetSpec, Topic};
use crate::model::{GroupName, RecordRef, Target};
use crate::storage::Partition;

/// Records and bytes of one partition before it is another's turn.
const TURN_RECORDS: usize = 4096;
const TURN_BYTES: usize = 1 << 20;
/// How often a group's offsets are committed while records are written.
const COMMIT_INTERVAL: Duration = Duration::from_secs(1);

/// Arguments of `consume`.
#[derive(Debug, clap::Args)]
pub(super) struct ConsumeArgs {
    /// Where the records come from, as topic:NAME or queue:NAME
    source: Target,

    /// Only this partition (may be repeated) [default: all partitions]
    #[arg(long, value_name = "PARTITION")]
    partition: Vec<u32>,

    /// Where to start: `earliest`, `latest`, an offset, or a time such as 2013-01-01T00:00:00Z
    ///
    /// With --group, in the partitions for which the group has no committed offset; `millstream
    /// group reset` moves those that it has.
    /// [default: earliest]
    #[arg(long, value_name = "PLACE", value_parser = offset_spec::parse)]
    from: Option<OffsetSpec>,

    /// Read as this consumer group: go on at its committed offsets, and commit what was written
    #[arg(long)]
    group: Option<GroupName>,

    /// Stop after this many records
    #[arg(long, value_name = "COUNT")]
    max: Option<u64>,

    /// Of a queue: take messages out, each for good once it is written
    #[arg(long, conflicts_with = "peek")]
    ack: bool,

    /// Of a queue: write messages and leave them where they are
    #[arg(long, conflicts_with = "follow")]
    peek: bool,

    /// Wait for more records, until --max or Ctrl-C
    #[arg(long)]
    follow: bool,

    /// Stop at the end that each partition has now (this is what happens anyway)
    #[arg(long, conflicts_with = "follow")]
    until_end: bool,
}

impl ConsumeArgs {
    /// What `clap` does not check.
    fn check(&self) -> Result<(), Usage> {
        let of_topic = [
            ("--partition", !self.partition.is_empty()),
            ("--from", self.from.is_some()),
            ("--group", self.group.is_some()),
        ];
        let of_queue = [("--ack", self.ack), ("--peek", self.peek)];
        let (foreign, kind) = match &self.source {
            Target::Topic(_) => (&of_queue[..], "topic"),
            Target::Queue(_) => (&of_topic[..], "queue"),
        };
        if let Some((option, _)) = foreign.iter().find(|(_, is_given)| *is_given) {
            return Err(Usage(format!(
                "{option} has no effect on a {kind}; leave it out"
            )));
        }
        if let (Target::Queue(name), false) = (&self.source, self.ack || self.peek) {
            return Err(Usage(format!(
                "messages that are consumed are gone: give --ack to take them out of `{name}`, or --peek to leave them there"
            )));
        }
        Ok(())
    }
}

/// Writes the records of a topic.
pub(super) async fn run(
    args: ConsumeArgs,
    global: &GlobalArgs,
    output: &mut Output,
) -> anyhow::Result<Ending> {
    args.check()?;
    let name = match &args.source {
        Target::Topic(name) => name.clone(),
        Target::Queue(name) => return queue::run(&args, name, global, output).await,
    };
    let data = DataDirectory::open(global, Access::Existing)?;
    let topic = data.log.topic(&name)?;
    let mut readers = Vec::new();
    for partition in partitions_of(&topic, &args.partition)? {
        let offset = start_offset(&data, &topic, &partition, &args)?;
        readers.push(Reader::new(&data, &topic, partition, offset));
    }
    let interrupt = Interrupt::listen("writing what has been read")?;
    let mut commits = args.group.map(|group| Commits {
        groups: data.groups.clone(),
        group,
        committed: BTreeMap::new(),
        next: Instant::now() + COMMIT_INTERVAL,
    });
    let mut left = args.max.unwrap_or(u64::MAX);
    let mut buffer = Vec::new();
    let ending = loop {
        let mut has_read = false;
        for reader in &mut readers {
            let count = reader.turn(left, args.follow, output.format(), &mut buffer)?;
            output.write(&buffer)?;
            has_read |= count > 0;
            left -= count;
        }
        if let Some(commits) = commits.as_mut().filter(|commits| commits.is_due()) {
            commits.commit(&readers, output).await?;
        }
        let is_interrupted = interrupt.is_requested();
        if is_interrupted || left == 0 || (!has_read && !args.follow) {
            // Ctrl-C is how following ends.
            let is_complete = !is_interrupted || args.follow;
            break if is_complete {
                Ending::Done
            } else {
                Ending::Interrupted
            };
        }
        if !has_read {
            output.flush()?;
            if let Some(commits) = &mut commits {
                commits.commit(&readers, output).await?;
            }
            tokio::select! {
                () = interrupt.requested() => {}
                () = wait_for_any(&readers) => {}
            }
        }
    };
    output.flush()?;
    if let Some(commits) = &mut commits {
        commits.commit(&readers, output).await?;
    }
    Ok(ending)
}

/// Where reading starts: at the group's committed offset, else at `--from`.
fn start_offset(
    data: &DataDirectory,
    topic: &Topic,
    partition: &Partition,
    args: &ConsumeArgs,
) -> anyhow::Result<u64> {
    let committed = match &args.group {
        Some(group) => data.groups.committed(group, partition)?,
        None => None,
    };
    let Some(committed) = committed else {
        let from = args.from.unwrap_or(OffsetSpec::Earliest);
        return resolve_offset(&data.log, topic, partition, from);
    };
    let start = partition.start_offset();
    if committed.offset < start {
        tracing::warn!(
            partition = partition.index(),
            committed = committed.offset,
            start,
            "records have been deleted by retention before the group has read them"
        );
    }
    Ok(committed
        .offset
        .clamp(start, partition.high_watermark().max(start)))
}

/// Returns when there is something to read.
async fn wait_for_any(readers: &[Reader]) {
    let mut waiting = JoinSet::new();
    for reader in readers {
        let (partition, offset) = (
            Arc::clone(reader.cursor.partition()),
            reader.cursor.offset(),
        );
        waiting.spawn(async move { partition.wait_beyond(offset).await });
    }
    waiting.join_next().await;
}

/// Reads one partition and formats its records.
struct Reader {
    cursor: Cursor,
    /// Where it ends, unless it follows.
    end: u64,
    json: json_record::Writer,
}

impl Reader {
    fn new(data: &DataDirectory, topic: &Topic, partition: Arc<Partition>, offset: u64) -> Self {
        let json = json_record::Writer::new(topic.name(), partition.index());
        let end = partition.high_watermark();
        let cursor = Cursor::new(data.log.store().clone(), partition, offset);
        Self { cursor, end, json }
    }

    /// Formats the next records into `buffer`, which is cleared first, and returns how many.
    fn turn(
        &mut self,
        max_records: u64,
        follow: bool,
        format: Format,
        buffer: &mut Vec<u8>,
    ) -> anyhow::Result<u64> {
        buffer.clear();
        if !follow && self.cursor.offset() >= self.end {
            return Ok(0);
        }
        let max_records = usize::try_from(max_records)
            .unwrap_or(usize::MAX)
            .min(TURN_RECORDS);
        let (json, partition) = (&self.json, self.cursor.partition().index());
        let count = self
            .cursor
            .read(max_records, TURN_BYTES, |record| match format {
                Format::Json => json.write(record, buffer),
                Format::Table => {
                    write_line(
                        format_args!("{partition}:{}", record.offset),
                        record,
                        buffer,
                    );
                }
            })?;
        Ok(count as u64)
    }
}

/// The offsets that a group has committed for what was written.
struct Commits {
    groups: Groups,
    group: GroupName,
    /// The committed offset of each partition.
    committed: BTreeMap<u32, u64>,
    next: Instant,
}

impl Commits {
    fn is_due(&self) -> bool {
        Instant::now() >= self.next
    }

    /// Commits what has been written, after it has left the process: whoever reads the output has
    /// it then, and if writing fails it is read again.
    async fn commit(&mut self, readers: &[Reader], output: &mut Output) -> anyhow::Result<()> {
        output.flush()?;
        self.next = Instant::now() + COMMIT_INTERVAL;
        let position =
            |reader: &Reader| (reader.cursor.partition().index(), reader.cursor.offset());
        let is_new = |reader: &&Reader| {
            let (partition, offset) = position(reader);
            self.committed.get(&partition) != Some(&offset)
        };
        let moved: Vec<_> = readers.iter().filter(is_new).collect();
        if moved.is_empty() {
            return Ok(());
        }
        let offsets = moved
            .iter()
            .map(|reader| (&**reader.cursor.partition(), reader.cursor.offset()));
        self.groups.commit(&self.group, offsets).await?;
        self.committed.extend(moved.into_iter().map(position));
        Ok(())
    }
}

/// A record as a line for people: `0:7  2013-01-01T05:00:00Z  UA  {"year":2013}  [trace=1]`.
fn write_line(place: impl Display, record: &RecordRef<'_>, into: &mut Vec<u8>) {
    let mut line = String::new();
    let time = quantity::format_time_ms(record.timestamp_ms);
    // Writing to memory does not fail.
    let _ = write!(line, "{place}  {time}  ");
    push_readable(record.key, &mut line);
    line.push_str("  ");
    push_readable(record.value, &mut line);
    for (at, (name, value)) in record.headers.iter().enumerate() {
        line.push_str(if at == 0 { "  [" } else { ", " });
        push_readable(Some(name.as_bytes()), &mut line);
        line.push('=');
        push_readable(value, &mut line);
    }
    line.push_str(if record.headers.is_empty() {
        "\n"
    } else {
        "]\n"
    });
    into.extend_from_slice(line.as_bytes());
}

/// A message as a line for people: its offset, what is known of it, and the record.
pub(super) fn message_line(known: &str, record: &RecordRef<'_>, into: &mut Vec<u8>) {
    write_line(format_args!("{}  {known}", record.offset), record, into);
}

/// Appends bytes so that they stay in their line and do nothing to the terminal.
pub(super) fn push_readable(bytes: Option<&[u8]>, into: &mut String) {
    match bytes.map(|bytes| (bytes, std::str::from_utf8(bytes))) {
        None => into.push_str("null"),
        Some((_, Ok(text))) if !text.contains(char::is_control) => into.push_str(text),
        Some((_, Ok(text))) => {
            for character in text.chars() {
                match character.is_control() {
                    true => into.extend(character.escape_default()),
                    false => into.push(character),
                }
            }
        }
        Some((bytes, Err(_))) => {
            into.push_str("base64:");
            STANDARD.encode_string(bytes, into);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{HeadersBuf, HeadersRef};

    fn line(key: Option<&[u8]>, value: Option<&[u8]>, headers: HeadersRef<'_>) -> String {
        let record = RecordRef {
            offset: 7,
            timestamp_ms: 0,
            key,
            value,
            headers,
        };
        let mut into = Vec::new();
        write_line("2:7", &record, &mut into);
        String::from_utf8(into).unwrap()
    }

    #[test]
    fn a_record_is_a_readable_line() {
        let mut headers = HeadersBuf::new();
        headers.push("a", Some(b"1")).unwrap();
        headers.push("b", None).unwrap();
        assert_eq!(
            line(Some(b"UA"), Some("é 1".as_bytes()), headers.as_headers()),
            "2:7  1970-01-01T00:00:00Z  UA  é 1  [a=1, b=null]\n"
        );
        assert_eq!(
            line(None, Some(b"\xff\xfe"), HeadersRef::EMPTY),
            "2:7  1970-01-01T00:00:00Z  null  base64://4=\n"
        );
    }

    #[test]
    fn nothing_reaches_the_terminal_but_text() {
        let line = line(Some(b"a\nb"), Some(b"\x1b[31mred"), HeadersRef::EMPTY);
        assert!(line.ends_with("  a\\nb  \\u{1b}[31mred\n"), "{line}");
    }
}
