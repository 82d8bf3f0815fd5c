//! Append: through the store's commit thread, and to raw files.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::ensure;
use serde::Serialize;

use super::load::Load;
use super::segments::Segments;
use super::{Args, Shape};
use crate::bench::announce;
use crate::bench::latency::{Latency, LatencyRecorder};
use crate::bench::report::{Figures, rate};
use crate::bench::rounds::{Rounds, Side, order};
use crate::bench::scratch::Scratch;
use crate::log::{Log, Topic, TopicConfig};
use crate::model::EncodedBatch;
use crate::storage::{Commit, Durability, Partition, Store, StoreOptions, WriteStatistics};

/// How often, and how long unchanged, statistics are looked at before the store counts as at rest.
const REST_CHECK: Duration = Duration::from_millis(500);

/// The figures of one case.
#[derive(Debug, Serialize)]
pub(super) struct Case {
    pub(super) partitions: u32,
    pub(super) value_bytes: usize,
    pub(super) durability: String,
    pub(super) size_mib: u64,
    batch_records: u32,
    appended_bytes: u64,
    log_records_per_s: f64,
    log_bytes_per_s: f64,
    raw_records_per_s: f64,
    raw_bytes_per_s: f64,
    pub(super) ratio: f64,
    log_rounds: Rounds,
    raw_rounds: Rounds,
    commits_per_write: f64,
    pub(super) write_amplification: f64,
    written: Written,
    /// From handing a commit to the store to its acknowledgement.
    log_commit_latency: Latency,
    /// The write of a batch, with its sync if there is one.
    raw_write_latency: Latency,
}

/// What the store has written, in bytes.
#[derive(Debug, Clone, Copy, Default, Serialize)]
struct Written {
    wal_bytes: u64,
    flush_bytes: u64,
    compaction_bytes: u64,
}

impl Figures for Case {
    const COLUMNS: &'static [&'static str] = &[
        "partitions",
        "value",
        "durability",
        "MiB",
        "raw records/s",
        "log records/s",
        "log MB/s",
        "ratio",
        "write ampl.",
        "commits/write",
        "commit: p50 / p99 / p99.9 / max",
    ];

    fn cells(&self) -> Vec<String> {
        vec![
            self.partitions.to_string(),
            format!("{} B", self.value_bytes),
            self.durability.clone(),
            self.size_mib.to_string(),
            self.raw_rounds.cell(rate),
            self.log_rounds.cell(rate),
            format!("{:.0}", self.log_bytes_per_s / 1e6),
            format!("{:.2}", self.ratio),
            format!("{:.2}", self.write_amplification),
            format!("{:.1}", self.commits_per_write),
            self.log_commit_latency.cell(),
        ]
    }
}

/// What one round of the log's side gave.
struct LogRound {
    taken: Duration,
    commits_per_write: f64,
    written: WriteStatistics,
    latency: LatencyRecorder,
}

/// Runs one case.
pub(super) async fn run(
    args: &Args,
    parent: &Path,
    shape: Shape,
    durability: Durability,
) -> anyhow::Result<Case> {
    announce(&format!("append: {shape}, {durability}"));
    let (mut log_rounds, mut raw_rounds) = (Rounds::default(), Rounds::default());
    let mut log_latency = LatencyRecorder::new()?;
    let mut raw_latency = LatencyRecorder::new()?;
    let (mut last, mut appended_bytes, mut records) = (None, 0, 0);
    for round in 0..args.rounds() {
        for side in order(round) {
            let load = tokio::task::block_in_place(|| shape.load())?;
            (appended_bytes, records) = (load.bytes, load.records);
            let per_s = |taken: Duration| records as f64 / taken.as_secs_f64();
            let scratch = Scratch::create(parent)?;
            match side {
                Side::Plain => {
                    let taken = tokio::task::block_in_place(|| {
                        let batches = load.into_stored(&shape);
                        let segments = Segments::create(scratch.path(), shape.partitions)?;
                        segments.append(&batches, durability, &mut raw_latency)
                    })?;
                    raw_rounds.push(per_s(taken));
                }
                Side::Ours => {
                    // Write amplification is the same in all rounds, and rest takes its time.
                    let is_last = round + 1 == args.rounds();
                    let result =
                        append_to_log(args, scratch.path(), shape, durability, load, is_last)
                            .await?;
                    log_rounds.push(per_s(result.taken));
                    log_latency.add(&result.latency)?;
                    last = Some(result);
                }
            }
        }
    }
    let written = last.as_ref().map(|round| round.written).unwrap_or_default();
    let bytes_per_record = appended_bytes as f64 / records.max(1) as f64;
    Ok(Case {
        partitions: shape.partitions,
        value_bytes: shape.value_bytes,
        durability: durability.to_string(),
        size_mib: shape.total_bytes >> 20,
        batch_records: shape.batch_records,
        appended_bytes,
        log_records_per_s: log_rounds.median(),
        log_bytes_per_s: log_rounds.median() * bytes_per_record,
        raw_records_per_s: raw_rounds.median(),
        raw_bytes_per_s: raw_rounds.median() * bytes_per_record,
        ratio: log_rounds.ratio_to(&raw_rounds),
        log_rounds,
        raw_rounds,
        commits_per_write: last.as_ref().map_or(0.0, |round| round.commits_per_write),
        write_amplification: written.total_bytes() as f64 / appended_bytes.max(1) as f64,
        written: Written {
            wal_bytes: written.wal_bytes,
            flush_bytes: written.flush_bytes,
            compaction_bytes: written.compaction_bytes,
        },
        log_commit_latency: log_latency.summary(),
        raw_write_latency: raw_latency.summary(),
    })
}

/// Opens a data directory with a topic.
pub(super) async fn open_topic(
    path: &Path,
    partitions: u32,
    durability: Durability,
) -> anyhow::Result<(Log, Topic)> {
    let options = StoreOptions {
        durability,
        statistics: true,
        ..StoreOptions::default()
    };
    let store = tokio::task::block_in_place(|| Store::open(path, options))?;
    let log = Log::open(store)?;
    let config = TopicConfig {
        partitions,
        max_batch_bytes: crate::model::limits::MAX_BATCH_BYTES,
        ..TopicConfig::default()
    };
    let topic = log.ensure_topic(&"bench".parse()?, |_| Ok(config)).await?;
    Ok((log, topic))
}

async fn append_to_log(
    args: &Args,
    path: &Path,
    shape: Shape,
    durability: Durability,
    load: Load,
    settle: bool,
) -> anyhow::Result<LogRound> {
    let (log, topic) = open_topic(path, shape.partitions, durability).await?;
    let store = log.store().clone();
    let before = store.write_statistics();
    let writes_before = store.commit_count();
    let commits = load.batches.len();
    let (bytes, records) = (load.bytes, load.records);
    let (taken, latency) = append_all(args, &store, &topic, shape, load).await?;
    let writes = store.commit_count() - writes_before;
    let stored: u64 = topic
        .partitions()
        .iter()
        .map(|partition| partition.high_watermark())
        .sum();
    ensure!(
        stored == records,
        "{stored} of {records} records are in the log"
    );
    if settle {
        tokio::task::block_in_place(|| store.flush())?;
        rest(&store).await;
    }
    let after = store.write_statistics();
    let written = WriteStatistics {
        wal_bytes: after.wal_bytes - before.wal_bytes,
        flush_bytes: after.flush_bytes - before.flush_bytes,
        compaction_bytes: after.compaction_bytes - before.compaction_bytes,
    };
    // The counters have to be alive, or write amplification would look wonderful.
    ensure!(
        written.wal_bytes >= bytes,
        "the store's statistics count too little"
    );
    let commits_per_write = commits as f64 / writes.max(1) as f64;
    tokio::task::block_in_place(|| drop((log, topic, store)));
    Ok(LogRound {
        taken,
        commits_per_write,
        written,
        latency,
    })
}

/// Appends all batches from several producers. Returns the time until the last acknowledgement.
pub(super) async fn append_all(
    args: &Args,
    store: &Store,
    topic: &Topic,
    shape: Shape,
    load: Load,
) -> anyhow::Result<(Duration, LatencyRecorder)> {
    let producers = args.producers.max(1);
    let mut shares: Vec<Vec<(Arc<Partition>, EncodedBatch)>> =
        std::iter::repeat_with(Vec::new).take(producers).collect();
    for (number, batch) in load.batches.into_iter().enumerate() {
        let partition = Arc::clone(topic.partition(shape.partition_of(number))?);
        // A producer takes whole turns over the partitions, so that each feeds all of them.
        let turn = number / shape.partitions.max(1) as usize;
        if let Some(share) = shares.get_mut(turn % producers) {
            share.push((partition, batch));
        }
    }
    let begin = Instant::now();
    let in_flight = args.in_flight.max(1);
    let tasks: Vec<_> = shares
        .into_iter()
        .map(|share| tokio::spawn(produce(store.clone(), share, in_flight)))
        .collect();
    let mut latency = LatencyRecorder::new()?;
    for task in tasks {
        latency.add(&task.await??)?;
    }
    Ok((begin.elapsed(), latency))
}

/// One producer: at most `in_flight` commits on their way, acknowledged in order.
async fn produce(
    store: Store,
    share: Vec<(Arc<Partition>, EncodedBatch)>,
    in_flight: usize,
) -> anyhow::Result<LatencyRecorder> {
    let mut latency = LatencyRecorder::new()?;
    let mut pending = std::collections::VecDeque::with_capacity(in_flight);
    for (partition, batch) in share {
        if pending.len() >= in_flight
            && let Some((oldest, start)) = pending.pop_front()
        {
            settle(oldest, start, &mut latency).await?;
        }
        let mut commit = Commit::new();
        commit.append(partition, batch);
        let start = Instant::now();
        pending.push_back((store.submit(commit).await?, start));
    }
    for (oldest, start) in pending {
        settle(oldest, start, &mut latency).await?;
    }
    Ok(latency)
}

async fn settle(
    pending: crate::storage::PendingCommit,
    start: Instant,
    latency: &mut LatencyRecorder,
) -> anyhow::Result<()> {
    pending.wait().await?;
    latency.record(start.elapsed());
    Ok(())
}

/// Waits until the store writes nothing any more.
async fn rest(store: &Store) {
    let mut before = store.write_statistics();
    loop {
        tokio::time::sleep(REST_CHECK).await;
        let now = store.write_statistics();
        if now == before {
            return;
        }
        before = now;
    }
}
