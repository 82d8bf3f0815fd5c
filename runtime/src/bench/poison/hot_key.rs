//! A key that fails all the time, with a long backlog behind it: what that does to the other keys.
//!
//! The hot key's backlog is there before the run, as if it had failed for an hour. Then records of all keys come
//! at an even rate, and each says when it was sent: its latency ends when it is in the output topic. The other
//! side is the same with a hot key that does not fail.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{bail, ensure};
use serde::Serialize;
use tokio::task::{JoinSet, block_in_place};

use super::Args;
use super::run::manifest;
use crate::bench::latency::{Latency, LatencyRecorder};
use crate::bench::report::{Bound, Figures, Report};
use crate::bench::rounds::{Side, order};
use crate::bench::scratch::Scratch;
use crate::bench::synthetic::Records;
use crate::bench::{announce, process};
use crate::group::Groups;
use crate::log::{Cursor, Log, Producer, Topic};
use crate::model::HeadersRef;
use crate::pipeline::{Pipelines, Plugins};
use crate::plugin::PluginEngine;
use crate::queue::Queues;
use crate::storage::{Store, StoreOptions};

/// The key that fails, or does not.
const HOT: &[u8] = b"key-of-the-bad-day";
/// One record in so many is one of the hot key.
const HOT_EVERY: u64 = 10;
/// How often records are sent.
const TICK: Duration = Duration::from_millis(5);
/// How long the last records may take before the run is given up.
const TIMEOUT: Duration = Duration::from_secs(60);
/// Records and bytes that are read from an output at a time.
const READ: (usize, usize) = (4096, 1 << 20);

/// Arguments of this part.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct HotKeyArgs {
    /// Records of the key that fails all the time which are there before anything is measured
    #[arg(long, value_name = "N", default_value_t = 200_000)]
    hot_backlog: u64,
    /// Records a second that are sent while latencies are measured
    #[arg(long, value_name = "N", default_value_t = 20_000, value_parser = clap::value_parser!(u64).range(200..))]
    hot_rate: u64,
    /// For how many seconds
    #[arg(long, value_name = "S", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..))]
    hot_seconds: u64,
}

/// One side.
#[derive(Debug, Serialize)]
struct Case {
    hot_key: &'static str,
    /// Of the other keys' records, from sending to the output topic.
    latency: Latency,
    /// In parts of the p99 while it does not fail.
    p99_ratio: f64,
    retries: u64,
    parked_records: u64,
    peak_memory_bytes: u64,
}

impl Figures for Case {
    const COLUMNS: &'static [&'static str] = &[
        "hot key",
        "other keys: p50 / p99 / p99.9 / max",
        "p99 in parts of normal",
        "retries",
        "parked in the end",
        "peak memory",
    ];

    fn cells(&self) -> Vec<String> {
        vec![
            self.hot_key.to_owned(),
            self.latency.cell(),
            format!("{:.2}", self.p99_ratio),
            self.retries.to_string(),
            self.parked_records.to_string(),
            format!("{} MiB", self.peak_memory_bytes >> 20),
        ]
    }
}

/// The figures of one side, over its rounds.
struct Totals {
    latency: LatencyRecorder,
    retries: u64,
    parked_records: u64,
    peak_memory_bytes: u64,
}

/// Measures both sides in turns.
pub(super) async fn run(
    args: &Args,
    parent: &Path,
    component: &Path,
    engine: &PluginEngine,
    report: &mut Report,
) -> anyhow::Result<()> {
    let new_totals = || {
        Ok::<_, anyhow::Error>(Totals {
            latency: LatencyRecorder::new()?,
            retries: 0,
            parked_records: 0,
            peak_memory_bytes: 0,
        })
    };
    let (mut fine, mut failing) = (new_totals()?, new_totals()?);
    let setup = Setup {
        args,
        parent,
        component,
        engine,
    };
    for round in 0..args.rounds {
        for side in order(round) {
            let (word, totals) = match side {
                Side::Plain => ("fine", &mut fine),
                Side::Ours => ("failing", &mut failing),
            };
            announce(&format!("hot key {word}, round {}", round + 1));
            setup.run(side, totals).await?;
        }
    }
    let normal = fine.latency.summary();
    let cases = [("goes through", fine), ("fails", failing)].map(|(hot_key, totals)| {
        let latency = totals.latency.summary();
        Case {
            hot_key,
            p99_ratio: latency.p99_us / normal.p99_us.max(1.0),
            latency,
            retries: totals.retries,
            parked_records: totals.parked_records,
            peak_memory_bytes: totals.peak_memory_bytes,
        }
    });
    let [_, failing] = &cases;
    let what = "p99 of the other keys while one fails: in parts of normal";
    report.bound(Bound::at_most(what, failing.p99_ratio, 2.0));
    let hot = &args.hot_key;
    let title = format!(
        "One key of 10,000 fails all the time, order key: {} of its records wait, {} records/s come for {} s",
        hot.hot_backlog, hot.hot_rate, hot.hot_seconds
    );
    report.add("hot-key", title, &cases)
}

struct Setup<'a> {
    args: &'a Args,
    parent: &'a Path,
    component: &'a Path,
    engine: &'a PluginEngine,
}

impl Setup<'_> {
    async fn run(&self, side: Side, totals: &mut Totals) -> anyhow::Result<()> {
        let scratch = Scratch::create(self.parent)?;
        let retry = "{ max-attempts = 1000000, initial = \"20ms\", max = \"1s\", order = \"key\" }";
        let manifest = manifest(scratch.path(), self.component, self.args.partitions, retry)?;
        let options = StoreOptions {
            durability: self.args.durability,
            ..StoreOptions::default()
        };
        let path = scratch.path().join("data");
        let log = Log::open(block_in_place(|| Store::open(&path, options))?)?;
        crate::pipeline::ensure_topics(&log, &manifest).await?;
        let [input, output] = [log.topic(&"in".parse()?)?, log.topic(&"out".parse()?)?];
        let (queues, groups) = (
            Queues::open(log.store().clone())?,
            Groups::new(log.store().clone()),
        );
        let plugins = block_in_place(|| Plugins::load(self.engine, &manifest));
        let start = Instant::now();
        let mut sender = Sender {
            source: Records::new(self.args.value_bytes, 1),
            producer: Producer::new(log.clone(), input),
            fails: side == Side::Ours,
            start,
            value: Vec::new(),
        };
        for _ in 0..self.args.hot_key.hot_backlog {
            sender.send_hot().await?;
        }
        sender.producer.flush().await?;
        let pipelines = Pipelines::start(&log, &queues, &groups, &plugins, &manifest).await?;
        while pipelines.progress().lag_records > 0 {
            tokio::time::sleep(TICK).await;
        }
        process::reset_peak_memory();
        let retries = pipelines.progress().retries;
        let readers = read_outputs(log.store(), &output, start)?;
        let sent = sender.send_for(&self.args.hot_key).await?;
        let latency = wait_for(readers, sent).await?;
        let progress = pipelines.progress();
        totals.peak_memory_bytes = totals.peak_memory_bytes.max(process::peak_memory_bytes());
        if let Some(failure) = pipelines.stop().await.first() {
            bail!("{failure}");
        }
        ensure!(
            (progress.parked_records > 0) == (side == Side::Ours),
            "{} records are parked in the end",
            progress.parked_records
        );
        totals.latency.add(&latency)?;
        totals.retries += progress.retries - retries;
        totals.parked_records = progress.parked_records;
        block_in_place(|| drop((log, groups, queues, pipelines, sender, output)));
        Ok(())
    }
}

/// Sends records that say when they were sent.
struct Sender {
    source: Records,
    producer: Producer,
    fails: bool,
    start: Instant,
    value: Vec<u8>,
}

impl Sender {
    async fn send_hot(&mut self) -> anyhow::Result<()> {
        let word = if self.fails {
            "retry-1000000 0"
        } else {
            "fine 0"
        };
        let (_, filling) = self.source.next();
        self.value.clear();
        self.value.extend_from_slice(word.as_bytes());
        self.value.push(b' ');
        self.value.extend_from_slice(filling);
        let key = Some(HOT);
        Ok(self
            .producer
            .send(None, 1, key, Some(&self.value), HeadersRef::EMPTY)
            .await?)
    }

    async fn send_other(&mut self) -> anyhow::Result<()> {
        let sent_us = self.start.elapsed().as_micros();
        let (key, filling) = self.source.next();
        self.value.clear();
        self.value
            .extend_from_slice(format!("fine {sent_us} ").as_bytes());
        self.value.extend_from_slice(filling);
        Ok(self
            .producer
            .send(None, 1, Some(key), Some(&self.value), HeadersRef::EMPTY)
            .await?)
    }

    /// Sends records at an even rate; returns how many of other keys there were.
    async fn send_for(&mut self, args: &HotKeyArgs) -> anyhow::Result<u64> {
        let (mut number, mut others) = (0, 0);
        let began = Instant::now();
        let mut ticks = tokio::time::interval(TICK);
        loop {
            ticks.tick().await;
            let elapsed = began.elapsed().min(Duration::from_secs(args.hot_seconds));
            let due = (elapsed.as_secs_f64() * args.hot_rate as f64) as u64;
            while number < due {
                if number % HOT_EVERY == 0 {
                    self.send_hot().await?;
                } else {
                    self.send_other().await?;
                    others += 1;
                }
                number += 1;
            }
            self.producer.flush().await?;
            if elapsed.as_secs() >= args.hot_seconds {
                return Ok(others);
            }
        }
    }
}

/// What a reader has seen of one output partition.
type Seen = tokio::sync::watch::Receiver<u64>;

/// Readers of the output's partitions, and how many records of other keys they have seen so far.
struct Readers {
    running: JoinSet<()>,
    seen: Vec<Seen>,
    latency: Arc<parking_lot::Mutex<LatencyRecorder>>,
}

fn read_outputs(store: &Store, output: &Topic, start: Instant) -> anyhow::Result<Readers> {
    let latency = Arc::new(parking_lot::Mutex::new(LatencyRecorder::new()?));
    let mut readers = Readers {
        running: JoinSet::new(),
        seen: Vec::new(),
        latency: Arc::clone(&latency),
    };
    for partition in output.partitions() {
        let end = partition.high_watermark();
        let mut cursor = Cursor::new(store.clone(), Arc::clone(partition), end);
        let (tell, seen) = tokio::sync::watch::channel(0);
        let latency = Arc::clone(&latency);
        readers.seen.push(seen);
        readers.running.spawn(async move {
            loop {
                let mut count = 0;
                let read = block_in_place(|| {
                    let mut latency = latency.lock();
                    cursor.read(READ.0, READ.1, |record| {
                        if record.key != Some(HOT) {
                            let sent_us = record.value.and_then(sent_us).unwrap_or_default();
                            let sent = Duration::from_micros(sent_us);
                            latency.record(start.elapsed().saturating_sub(sent));
                            count += 1;
                        }
                    })
                });
                tell.send_modify(|seen| *seen += count);
                // The run is given up for it.
                if read.is_err() || tell.is_closed() {
                    return;
                }
                if cursor.is_at_end() {
                    cursor.wait().await;
                }
            }
        });
    }
    Ok(readers)
}

/// Waits until all records of other keys are in the output.
async fn wait_for(mut readers: Readers, sent: u64) -> anyhow::Result<LatencyRecorder> {
    let began = Instant::now();
    loop {
        let seen: u64 = readers.seen.iter().map(|seen| *seen.borrow()).sum();
        if seen == sent {
            break;
        }
        ensure!(
            seen < sent && began.elapsed() < TIMEOUT,
            "{seen} of {sent} records of other keys have come out"
        );
        tokio::time::sleep(TICK).await;
    }
    readers.running.shutdown().await;
    let latency = readers.latency.lock().clone();
    Ok(latency)
}

/// When a record says that it was sent, in µs.
fn sent_us(value: &[u8]) -> Option<u64> {
    let mut words = value.split(|byte| *byte == b' ').skip(1);
    std::str::from_utf8(words.next()?).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_says_when_it_was_sent() {
        assert_eq!(sent_us(b"fine 1234 abc #1"), Some(1234));
        assert_eq!(sent_us(b"fine"), None);
        assert_eq!(sent_us(b"fine abc"), None);
    }
}
