//! `millstream consume`: the records of a topic (`consume/topic.rs`), or the messages of a queue (`consume/queue.rs`), as
//! lines for people or as JSON.

mod queue;
mod topic;

use std::fmt::{Display, Write as _};

use anyhow::anyhow;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::GlobalArgs;
use super::client::Client;
use super::exit::{Ending, Usage};
use super::open::Access;
use super::output::Output;
use super::quantity;
use crate::log::OffsetSpec;
use crate::model::{GroupName, HeadersBuf, RecordRef, Target};
use crate::server::json_record::{self, Place};
use crate::server::offset_spec;

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
    let client = Client::connect(global, Access::Existing)?;
    match &args.source {
        Target::Topic(name) => topic::run(&args, name, &client, output).await,
        Target::Queue(name) => queue::run(&args, name, &client, output).await,
    }
}

/// The lines of an answer.
pub(super) fn lines(body: &[u8]) -> impl Iterator<Item = &[u8]> {
    body.split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty())
}

/// Reads the record of a line, and where it is.
pub(super) fn read_line<T>(
    line: &[u8],
    read: impl FnOnce(&Place<'_>, &RecordRef<'_>) -> T,
) -> anyhow::Result<T> {
    let mistaken = |mistake| anyhow!("the server's answer is not what was expected:{mistake}");
    let (place, record) = json_record::read_back(line).map_err(mistaken)?;
    let mut headers = HeadersBuf::new();
    record.encode_headers(&mut headers).map_err(mistaken)?;
    let record = RecordRef {
        offset: place.offset,
        timestamp_ms: record.timestamp.unwrap_or(0),
        key: record.key(),
        value: record.value(),
        headers: headers.as_headers(),
    };
    Ok(read(&place, &record))
}

/// Appends the record of a line for people; `place` says where it is. Returns its offset.
pub(super) fn readable_line(
    line: &[u8],
    place: impl FnOnce(&Place<'_>) -> String,
    into: &mut Vec<u8>,
) -> anyhow::Result<u64> {
    read_line(line, |read, record| {
        write_line(place(read), record, into);
        read.offset
    })
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
    use crate::model::HeadersRef;

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
