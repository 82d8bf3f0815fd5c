//! A queue through which many messages have passed, against a fresh one.

use std::path::Path;

use serde::Serialize;

use super::Args;
use super::load::{Subject, taking};
use crate::bench::latency::Latency;
use crate::bench::report::Figures;
use crate::bench::scratch::Scratch;
use crate::storage::Durability;

const BATCH: usize = 100;
const WAITING: u64 = 10_000;
/// Messages that pass through together.
const PASS_MESSAGES: usize = 1_000;
const TURNS: u64 = 100;

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
        "fresh: µs a batch",
        "used: µs a batch",
        "ratio",
        "queue MiB",
        "on disk MiB",
    ];

    fn cells(&self) -> Vec<String> {
        vec![
            format!("{} million", self.millions),
            format!("{:.1}", self.fresh.p50_us),
            format!("{:.1}", self.used.p50_us),
            format!("{:.2}", self.ratio),
            (self.size_bytes >> 20).to_string(),
            (self.disk_bytes >> 20).to_string(),
        ]
    }
}

/// Measures both in turns.
pub(super) async fn run(args: &Args, parent: &Path) -> anyhow::Result<Case> {
    let value = vec![b'x'; args.value_bytes];
    let (fresh_scratch, used_scratch) = (Scratch::create(parent)?, Scratch::create(parent)?);
    let used = Subject::open(used_scratch.path(), Durability::Os).await?;
    used.preload(WAITING, &value).await?;
    let millions = if args.quick {
        args.history_millions.min(1)
    } else {
        args.history_millions
    };
    let messages = millions * 1_000_000;
    used.through(messages, PASS_MESSAGES, args.workers, &value)
        .await?;
    let fresh = Subject::open(fresh_scratch.path(), Durability::Os).await?;
    fresh.preload(WAITING, &value).await?;
    let both = [&fresh, &used];
    let measured = taking(&both, TURNS, BATCH, args.workers, &value).await?;
    let mut costs = measured.iter().map(|taking| taking.cost.summary());
    let (Some(fresh_cost), Some(used_cost)) = (costs.next(), costs.next()) else {
        anyhow::bail!("nothing was measured");
    };
    let case = Case {
        millions,
        fresh: fresh_cost,
        used: used_cost,
        ratio: used_cost.p50_us / fresh_cost.p50_us.max(f64::MIN_POSITIVE),
        size_bytes: used.queue.partition().size_bytes(),
        disk_bytes: used.disk_usage()?,
    };
    fresh.close();
    used.close();
    Ok(case)
}
