//! `bench pipeline`: topic → plugin → topic, exactly once, against the same pipeline with a native
//! function in the plugin's place.
//!
//! Each run has a fresh data directory. The input topic is filled first and the store opened again,
//! so that the pipeline reads from the disk's cache like any that has fallen behind; then the clock
//! runs until the pipeline has processed everything. Afterwards small batches are sent through the
//! idle pipeline, one at a time, for the latency from append to output.

mod preload;
mod run;

use std::path::PathBuf;

use serde::Serialize;
use serde_json::json;

use super::latency::Latency;
use super::plugin::compiled_component;
use super::report::{Bound, Figures, Report, rate};
use super::rounds::{Rounds, Side, order};
use super::{CommonArgs, announce, scratch, warn_of_debug_build};
use crate::storage::Durability;

/// Arguments of `bench pipeline`.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Folder of the shipped plugins' components, in which map.wasm is
    #[arg(long, value_name = "DIR")]
    plugins: Option<PathBuf>,
    /// Component of the shipped plugin `map`
    #[arg(long, value_name = "FILE")]
    map: Option<PathBuf>,
    /// Records in the input topic
    #[arg(long, value_name = "N", default_value_t = 5_000_000)]
    records: u64,
    /// Bytes of a value; keys have 16 more
    #[arg(long, value_name = "N", default_value_t = 100)]
    value_bytes: usize,
    /// Partitions of both topics
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..))]
    partitions: u32,
    /// Records of a batch at most (the manifest's batch.max-records)
    #[arg(long, value_name = "N", default_value_t = 512)]
    batch: u32,
    /// Durabilities, one or several
    #[arg(long, value_name = "D,…", value_delimiter = ',', default_values_t = [Durability::Os, Durability::Sync])]
    durability: Vec<Durability>,
    /// Which sides to run: one alone for its memory, which is the process's
    #[arg(long, value_enum, default_value_t = Sides::Both)]
    side: Sides,
    /// Rounds
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Batches sent through the idle pipeline for the latency
    #[arg(long, value_name = "N", default_value_t = 300)]
    latency_batches: u32,
    /// Folder for the data, on a disk; default: the system's for temporary files
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    #[command(flatten)]
    pub(super) common: CommonArgs,
}

/// The sides that run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Sides {
    /// In turns.
    Both,
    /// The plugin alone.
    Plugin,
    /// The native function alone.
    Native,
}

impl Sides {
    fn includes(self, side: Side) -> bool {
        match self {
            Self::Both => true,
            Self::Plugin => side == Side::Ours,
            Self::Native => side == Side::Plain,
        }
    }
}

/// One side under one durability.
#[derive(Debug, Serialize)]
struct Case {
    side: &'static str,
    durability: String,
    records: u64,
    records_per_s: f64,
    bytes_per_s: f64,
    rounds: Rounds,
    /// In parts of the native side; `None` for that side, or when it did not run.
    ratio: Option<f64>,
    /// Processor time of the whole process for a record.
    cpu_ns_per_record: f64,
    /// Checkpoints that reached the disk together.
    commits_per_write: f64,
    /// Greatest resident size while the backlog was processed, of all rounds.
    peak_memory_bytes: u64,
    /// From the append of a small batch to its output, through an idle pipeline.
    latency: Latency,
}

impl Figures for Case {
    const COLUMNS: &'static [&'static str] = &[
        "function",
        "durability",
        "records/s",
        "MB/s",
        "ratio",
        "CPU ns/record",
        "checkpoints/write",
        "peak memory",
        "latency: p50 / p99 / p99.9 / max",
    ];

    fn cells(&self) -> Vec<String> {
        vec![
            self.side.to_owned(),
            self.durability.clone(),
            self.rounds.cell(rate),
            format!("{:.0}", self.bytes_per_s / 1e6),
            self.ratio
                .map_or_else(String::new, |ratio| format!("{ratio:.2}")),
            format!("{:.0}", self.cpu_ns_per_record),
            format!("{:.1}", self.commits_per_write),
            format!("{} MiB", self.peak_memory_bytes >> 20),
            self.latency.cell(),
        ]
    }
}

/// Runs the benchmark.
pub(super) async fn run(args: &Args) -> anyhow::Result<Report> {
    warn_of_debug_build();
    let parent = scratch::parent(args.dir.as_deref())?;
    let (component, engine) =
        compiled_component("map", args.map.as_deref(), args.plugins.as_deref())?;
    let settings = json!({
        "file_system": super::environment::file_system_of(&parent),
        "records": args.records,
        "key_bytes": super::synthetic::KEY_BYTES,
        "value_bytes": args.value_bytes,
        "partitions": args.partitions,
        "batch_records": args.batch,
        "delivery": "exactly-once",
        "rounds": args.rounds,
        "latency_batch_records": run::LATENCY_RECORDS,
    });
    let mut report = Report::new("pipeline", settings);
    let mut cases = Vec::new();
    for &durability in &args.durability {
        let setup = run::Setup {
            args,
            parent: &parent,
            component: &component,
            engine: &engine,
        };
        let (mut ours, mut plain) = (run::Totals::new()?, run::Totals::new()?);
        for round in 0..args.rounds {
            for side in order(round)
                .into_iter()
                .filter(|side| args.side.includes(*side))
            {
                announce(&format!(
                    "{}, {durability}, round {}",
                    name(side),
                    round + 1
                ));
                let totals = match side {
                    Side::Ours => &mut ours,
                    Side::Plain => &mut plain,
                };
                setup.run(side, durability, totals).await?;
            }
        }
        let ratio = (args.side == Sides::Both).then(|| ours.rounds.ratio_to(&plain.rounds));
        for (side, totals) in [(Side::Plain, plain), (Side::Ours, ours)] {
            if args.side.includes(side) {
                let ratio = ratio.filter(|_| side == Side::Ours);
                cases.push(case(args, side, durability, totals, ratio));
            }
        }
    }
    add_bounds(args, &cases, &mut report);
    report.add("pipeline", "Topic → map → topic, exactly once", &cases)?;
    report.note(format!(
        "{} records of {} B (keys of 16 B besides), {} partitions. Latency: {} records at a time through \
         the idle pipeline, from append to output; the manifest's batch.max-wait of 5 ms is part \
         of it. Peak memory is the resident size of the process while it works off the backlog, with what \
         earlier runs have left; for that of one run alone: --side plugin --durability os --rounds 1.",
        args.records,
        args.value_bytes,
        args.partitions,
        run::LATENCY_RECORDS,
    ));
    Ok(report)
}

fn name(side: Side) -> &'static str {
    match side {
        Side::Ours => "plugin",
        Side::Plain => "native",
    }
}

fn case(
    args: &Args,
    side: Side,
    durability: Durability,
    totals: run::Totals,
    ratio: Option<f64>,
) -> Case {
    let records_per_s = totals.rounds.median();
    let record_bytes = args.value_bytes + super::synthetic::KEY_BYTES;
    Case {
        side: name(side),
        durability: durability.to_string(),
        records: args.records,
        records_per_s,
        bytes_per_s: records_per_s * record_bytes as f64,
        rounds: totals.rounds,
        ratio,
        cpu_ns_per_record: totals.cpu_ns_per_record.median(),
        commits_per_write: totals.commits_per_write.median(),
        peak_memory_bytes: totals.peak_memory_bytes,
        latency: totals.latency.summary(),
    }
}

fn add_bounds(args: &Args, cases: &[Case], report: &mut Report) {
    for case in cases.iter().filter(|case| case.side == "plugin") {
        let what = format!("map plugin, {}", case.durability);
        if let Some(ratio) = case.ratio {
            let what = format!("{what}: in parts of native");
            report.bound(Bound::at_least(what, ratio, 0.6));
        }
        let rate = Bound::at_least(format!("{what}: records/s"), case.records_per_s, 500_000.0);
        report.bound(rate);
        // What earlier runs have left in the process would count as this one's.
        if args.rounds == 1 && cases.len() == 1 {
            let mib = case.peak_memory_bytes as f64 / f64::from(1 << 20);
            let what = format!("{what}: peak memory in MiB");
            report.bound(Bound::at_most(what, mib, 512.0));
        }
    }
}
