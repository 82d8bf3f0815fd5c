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
use tokio::task::block_in_place;

use super::Args;
use super::run::manifest;
use crate::bench::data::Data;
use crate::bench::latency::{Latency, LatencyRecorder};
use crate::bench::paced::{Disturbance, OutputReaders, PacedSender, TICK, Unmeasured};
use crate::bench::report::{Bound, Figures, Report};
use crate::bench::rounds::{Side, order};
use crate::bench::scratch::Scratch;
use crate::bench::{announce, process};
use crate::pipeline::{Pipelines, Plugins};
use crate::plugin::PluginEngine;

/// The key that fails, or does not.
const HOT: &[u8] = b"key-of-the-bad-day";
/// One record in so many is one of the hot key.
const HOT_EVERY: u64 = 10;

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
    for round in 0..args.stored.rounds {
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
        let Data {
            log,
            queues,
            groups,
        } = Data::open(scratch.path(), self.args.stored.options())?;
        crate::pipeline::ensure_topics(&log, &manifest).await?;
        let [input, output] = [log.topic(&"in".parse()?)?, log.topic(&"out".parse()?)?];
        let plugins = block_in_place(|| Plugins::load(self.engine, &manifest));
        let start = Instant::now();
        let hot = || Unmeasured {
            key: HOT,
            word: match side {
                Side::Plain => "fine",
                Side::Ours => "retry-1000000",
            },
        };
        let mut sender = PacedSender::new(&log, input, self.args.value_bytes, start);
        let args = &self.args.hot_key;
        for _ in 0..args.hot_backlog {
            sender.send_unmeasured(&hot()).await?;
        }
        sender.flush().await?;
        let pipelines = Pipelines::start(&log, &queues, &groups, &plugins, &manifest).await?;
        while pipelines.progress().lag_records > 0 {
            tokio::time::sleep(TICK).await;
        }
        process::reset_peak_memory();
        let retries = pipelines.progress().retries;
        let undisturbed = Arc::new(Disturbance::default());
        let readers = OutputReaders::start(log.store(), &output, start, &undisturbed)?;
        let duration = Duration::from_secs(args.hot_seconds);
        let is_hot = |number: u64| number.is_multiple_of(HOT_EVERY).then(hot);
        let sent = sender.send_for(duration, args.hot_rate, is_hot).await?;
        let latency = readers.wait_for(sent).await?.all;
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
