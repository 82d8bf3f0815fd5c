//! The records of a topic.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde::Serialize;

use super::{ConsumeArgs, lines, readable_line};
use crate::cli::client::Client;
use crate::cli::exit::Ending;
use crate::cli::interrupt::Interrupt;
use crate::cli::output::{Format, Output};
use crate::cli::progress;
use crate::log::OffsetSpec;
use crate::model::{GroupName, TopicName};
use crate::server::{NEXT_OFFSETS, OffsetCommit, PartitionOffset, PlaceView, offset_spec};

/// Records and bytes of one answer.
const FETCH_RECORDS: u64 = 16_384;
const FETCH_BYTES: usize = 4 << 20;
/// How long one wait for records lasts.
const WAIT: Duration = Duration::from_secs(20);
/// How often a group's offsets are committed while records are written.
const COMMIT_INTERVAL: Duration = Duration::from_secs(1);

/// Where to read, as the API takes it.
#[derive(Serialize)]
struct PlaceQuery<'a> {
    from: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    partitions: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    group: Option<&'a GroupName>,
}

/// What to fetch, as the API takes it.
#[derive(Serialize)]
struct FetchQuery {
    offsets: String,
    max_records: u64,
    max_bytes: usize,
    wait_ms: u64,
}

/// Writes records until the end, or until it is told to stop.
pub(super) async fn run(
    args: &ConsumeArgs,
    name: &TopicName,
    client: &Client,
    output: &mut Output,
) -> anyhow::Result<Ending> {
    let places = start(args, name, client).await?;
    let mut reading = Reading {
        args,
        client,
        path: format!("/v1/topics/{name}/records"),
        next: places
            .iter()
            .map(|place| (place.partition, place.offset))
            .collect(),
        ends: places
            .iter()
            .map(|place| (place.partition, place.end_offset))
            .collect(),
        left: args.max.unwrap_or(u64::MAX),
    };
    let interrupt = Interrupt::listen("writing what has been read")?;
    let mut commits = args.group.as_ref().map(|group| Commits {
        client,
        path: format!("/v1/groups/{group}/offsets"),
        topic: name,
        committed: BTreeMap::new(),
        due: Instant::now() + COMMIT_INTERVAL,
    });
    let ending = loop {
        let is_interrupted = interrupt.is_requested();
        if is_interrupted || reading.left == 0 || reading.open().is_empty() {
            // Ctrl-C is how following ends.
            let is_complete = !is_interrupted || args.follow;
            break match is_complete {
                true => Ending::Done,
                false => Ending::Interrupted,
            };
        }
        let mut has_read = reading.fetch(Duration::ZERO, output).await?;
        if !has_read && !args.follow {
            // Whatever is missing was removed by retention or the cleaner.
            break Ending::Done;
        }
        if !has_read {
            output.flush()?;
            if let Some(commits) = &mut commits {
                commits.commit(&reading.next, output).await?;
            }
            has_read = tokio::select! {
                () = interrupt.requested() => false,
                read = reading.fetch(WAIT, output) => read?,
            };
        }
        if let Some(commits) = commits
            .as_mut()
            .filter(|commits| has_read && commits.is_due())
        {
            commits.commit(&reading.next, output).await?;
        }
    };
    output.flush()?;
    if let Some(commits) = &mut commits {
        commits.commit(&reading.next, output).await?;
    }
    Ok(ending)
}

/// Where reading starts in each partition: at the group's committed offset, else at `--from`.
async fn start(
    args: &ConsumeArgs,
    name: &TopicName,
    client: &Client,
) -> anyhow::Result<Vec<PlaceView>> {
    let partitions: Vec<_> = args.partition.iter().map(u32::to_string).collect();
    let query = PlaceQuery {
        from: offset_spec::describe(args.from.unwrap_or(OffsetSpec::Earliest)),
        partitions: (!partitions.is_empty()).then(|| partitions.join(",")),
        group: args.group.as_ref(),
    };
    let path = format!("/v1/topics/{name}/offsets");
    let places: Vec<PlaceView> = client.get(&path, &query).await?;
    for place in &places {
        let Some(wanted) = place.out_of_range else {
            continue;
        };
        let (partition, start, end) = (place.partition, place.start_offset, place.end_offset);
        match place.committed {
            true => tracing::warn!(
                partition,
                committed = wanted,
                start,
                "records have been deleted by retention before the group has read them"
            ),
            false => progress::note(&format!(
                "warning: offset {wanted} is out of range: partition {partition} of topic `{name}` starts at {start} and ends at {end}; taking {}",
                place.offset
            )),
        }
    }
    Ok(places)
}

/// Where reading is.
struct Reading<'a> {
    args: &'a ConsumeArgs,
    client: &'a Client,
    path: String,
    /// By partition: the offset of the next record.
    next: BTreeMap<u32, u64>,
    /// By partition: where it ended when reading began.
    ends: BTreeMap<u32, u64>,
    /// Records that may still be written.
    left: u64,
}

impl Reading<'_> {
    /// The partitions that are still read, and where.
    fn open(&self) -> BTreeMap<u32, u64> {
        let is_open = |(partition, next): &(&u32, &u64)| {
            self.args.follow || self.ends.get(*partition).is_some_and(|end| *next < end)
        };
        let open = self.next.iter().filter(is_open);
        open.map(|(partition, next)| (*partition, *next)).collect()
    }

    /// Writes the next records, waiting for them for so long; whether there were any.
    async fn fetch(&mut self, wait: Duration, output: &mut Output) -> anyhow::Result<bool> {
        let open = self.open();
        let query = FetchQuery {
            offsets: write_offsets(&open),
            max_records: self.left.min(FETCH_RECORDS),
            max_bytes: FETCH_BYTES,
            wait_ms: wait.as_millis() as u64,
        };
        let answer = self.client.fetch(&self.path, &query).await?;
        let next = answer.header(NEXT_OFFSETS).and_then(read_offsets);
        let next = next.context("the server does not say where to go on")?;
        let mut count = 0;
        match output.format() {
            Format::Json => {
                count = lines(&answer.body).count() as u64;
                output.write(&answer.body)?;
            }
            Format::Table => {
                let mut text = Vec::new();
                for line in lines(&answer.body) {
                    readable_line(
                        line,
                        |place| format!("{}:{}", place.partition, place.offset),
                        &mut text,
                    )?;
                    count += 1;
                }
                output.write(&text)?;
            }
        }
        let has_moved = next != open;
        self.next.extend(next);
        self.left = self.left.saturating_sub(count);
        Ok(has_moved)
    }
}

/// The offsets that a group has committed for what was written.
struct Commits<'a> {
    client: &'a Client,
    path: String,
    topic: &'a TopicName,
    /// The committed offset of each partition.
    committed: BTreeMap<u32, u64>,
    due: Instant,
}

impl Commits<'_> {
    fn is_due(&self) -> bool {
        Instant::now() >= self.due
    }

    /// Commits what has been written, after it has left the process: whoever reads the output has it then, and if
    /// writing fails it is read again.
    async fn commit(
        &mut self,
        next: &BTreeMap<u32, u64>,
        output: &mut Output,
    ) -> anyhow::Result<()> {
        output.flush()?;
        self.due = Instant::now() + COMMIT_INTERVAL;
        let is_new =
            |(partition, offset): &(&u32, &u64)| self.committed.get(*partition) != Some(*offset);
        let offsets: Vec<_> = next
            .iter()
            .filter(is_new)
            .map(|(&partition, &offset)| PartitionOffset { partition, offset })
            .collect();
        if offsets.is_empty() {
            return Ok(());
        }
        let moved = offsets.iter().map(|it| (it.partition, it.offset));
        self.committed.extend(moved);
        let topic = self.topic.clone();
        let request = serde_json::to_vec(&OffsetCommit { topic, offsets })?;
        self.client
            .post_bytes(&self.path, crate::cli::client::JSON, request.into())
            .await?;
        Ok(())
    }
}

fn write_offsets(next: &BTreeMap<u32, u64>) -> String {
    let mut text = String::new();
    for (partition, offset) in next {
        let comma = if text.is_empty() { "" } else { "," };
        // Writing to memory does not fail.
        let _ = write!(text, "{comma}{partition}:{offset}");
    }
    text
}

fn read_offsets(text: &str) -> Option<BTreeMap<u32, u64>> {
    text.split(',')
        .map(|part| {
            let (partition, offset) = part.split_once(':')?;
            Some((partition.parse().ok()?, offset.parse().ok()?))
        })
        .collect()
}
