//! A queue through which many messages have passed, against a fresh one.

use std::path::Path;

use serde::Serialize;

use super::Args;
use super::load::Subject;
use crate::bench::latency::{Latency, LatencyRecorder};
use crate::bench::report::Figures;
use crate::bench::scratch::Scratch;
use crate::storage::Durability;

const BATCH: usize = 100;
const WAITING: u64 = 10_000;
/// Messages that pass through together.
const PASS_MESSAGES: usize = 1_000;
const LATENCY_TURNS: u64 = 5_000;

/// The figures.
#[derive(Debug, Serialize)]
pub(super) struct Case {
    millions: u64,
    fresh: Latency,
    used: Latency,
    /// The median of the used queue in parts of the fresh one's.
    pub(super) ratio: f64,
    size_bytes: u64,
    disk_bytes: u64,
}

impl Figures for Case {
    const COLUMNS: &'static [&'static str] = &[
        "passed through",
        "fresh: p50 / p99 / p99.9 / max",
        "used: p50 / p99 / p99.9 / max",
        "ratio",
        "queue MiB",
        "on disk MiB",
    ];

    fn cells(&self) -> Vec<String> {
        vec![
            format!("{} million", self.millions),
            self.fresh.cell(),
            self.used.cell(),
            format!("{:.2}", self.ratio),
            (self.size_bytes >> 20).to_string(),
            (self.disk_bytes >> 20).to_string(),
        ]
    }
}

/// Measures a queue in turns with itself: fresh, and after many messages.
pub(super) async fn run(args: &Args, parent: &Path) -> anyhow::Result<Case> {
    let value = vec![b'x'; args.value_bytes];
    let scratch = Scratch::create(parent)?;
    let subject = Subject::open(scratch.path(), Durability::Os).await?;
    subject.preload(WAITING, &value).await?;
    let mut warm_up = LatencyRecorder::new()?;
    subject
        .latency(LATENCY_TURNS / 5, BATCH, &value, &mut warm_up)
        .await?;
    let mut fresh = LatencyRecorder::new()?;
    subject
        .latency(LATENCY_TURNS, BATCH, &value, &mut fresh)
        .await?;
    let millions = if args.quick {
        args.history_millions.min(1)
    } else {
        args.history_millions
    };
    let messages = millions * 1_000_000;
    subject
        .through(messages, PASS_MESSAGES, args.workers, &value)
        .await?;
    let mut used = LatencyRecorder::new()?;
    subject
        .latency(LATENCY_TURNS, BATCH, &value, &mut used)
        .await?;
    let (fresh, used) = (fresh.summary(), used.summary());
    let disk = subject.disk_usage()?;
    let case = Case {
        millions,
        fresh,
        used,
        ratio: used.p50_us / fresh.p50_us.max(f64::MIN_POSITIVE),
        size_bytes: subject.queue.partition().size_bytes(),
        disk_bytes: disk,
    };
    subject.close();
    Ok(case)
}
