//! `bench log`: append and read of the log, against raw segment files.
//!
//! The plain side is one file for each partition, to which the same batches are written one after
//! another and from which they are read in pieces: the least that any log does. What it lacks
//! (atomicity over partitions, retention, a crash-safe end) is what the difference buys.

mod append;
mod load;
mod page_cache;
mod scan;
mod schemes;
mod segments;

use std::path::PathBuf;

use serde_json::json;

use super::report::{Bound, Report};
use super::{CommonArgs, announce, scratch, warn_of_debug_build};
use crate::storage::Durability;

/// Arguments of `bench log`.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Compare RocksDB's compaction schemes instead
    #[arg(long)]
    schemes: bool,
    /// A short run: a sixteenth of the data, three rounds
    #[arg(long)]
    quick: bool,
    /// Folder for the data, on a disk; default: the system's for temporary files
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// MiB of batches in a case; an eighth of it under `sync`
    #[arg(long, value_name = "MIB", default_value_t = 1024)]
    size_mib: u64,
    /// MiB of the last case, 16 partitions and values of 100 B under `os`, which is to be more than the
    /// system's page cache takes without waiting for the disk; 0 leaves it out, and so does --quick
    #[arg(long, value_name = "MIB", default_value_t = 8192)]
    sustained_mib: u64,
    /// Number of partitions, one or several
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_values_t = [1, 16])]
    partitions: Vec<u32>,
    /// Durabilities, one or several
    #[arg(long, value_name = "D,…", value_delimiter = ',', default_values_t = default_durabilities())]
    durability: Vec<Durability>,
    /// Bytes of a value, one or several
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_values_t = [100, 1024])]
    value_bytes: Vec<usize>,
    /// Records of a batch
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    batch: u32,
    /// How many producers send at the same time
    #[arg(long, value_name = "N", default_value_t = 4)]
    producers: usize,
    /// Batches that each producer has on their way at most
    #[arg(long, value_name = "N", default_value_t = 5)]
    in_flight: usize,
    /// Rounds of each comparison
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Also read with the system's page cache dropped before each scan, which slows the whole
    /// machine for a while and needs root
    #[arg(long)]
    cold: bool,
    #[command(flatten)]
    pub(super) common: CommonArgs,
}

fn default_durabilities() -> Vec<Durability> {
    let interval = Durability::Interval(std::time::Duration::from_millis(100));
    vec![Durability::Os, interval, Durability::Sync]
}

/// One set of batches.
#[derive(Debug, Clone, Copy)]
struct Shape {
    partitions: u32,
    value_bytes: usize,
    batch_records: u32,
    total_bytes: u64,
}

impl std::fmt::Display for Shape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mib = self.total_bytes >> 20;
        write!(
            f,
            "{} partitions, {} B, {mib} MiB",
            self.partitions, self.value_bytes
        )
    }
}

impl Args {
    fn rounds(&self) -> u32 {
        if self.quick {
            self.rounds.min(3)
        } else {
            self.rounds
        }
    }

    /// The case that writes for so long that both sides wait for the disk.
    fn sustained(&self) -> Option<Shape> {
        let is_asked = self.partitions.contains(&16)
            && self.value_bytes.contains(&100)
            && self.durability.contains(&Durability::Os);
        let is_run = is_asked && !self.quick && self.sustained_mib > 0;
        is_run.then_some(Shape {
            partitions: 16,
            value_bytes: 100,
            batch_records: self.batch,
            total_bytes: self.sustained_mib << 20,
        })
    }

    fn shape(&self, partitions: u32, value_bytes: usize, durability: Durability) -> Shape {
        let bytes = self.size_mib.max(1) << 20;
        let bytes = if self.quick { bytes / 16 } else { bytes };
        // A sync takes long enough to give good figures with less.
        let total_bytes = if durability == Durability::Sync {
            bytes / 8
        } else {
            bytes
        };
        Shape {
            partitions,
            value_bytes,
            batch_records: self.batch,
            total_bytes,
        }
    }
}

/// Runs the benchmark.
pub(super) async fn run(args: &Args) -> anyhow::Result<Report> {
    warn_of_debug_build();
    let parent = scratch::parent(args.dir.as_deref())?;
    let settings = json!({
        "file_system": super::environment::file_system_of(&parent),
        "key_bytes": super::synthetic::KEY_BYTES,
        "batch_records": args.batch,
        "size_mib": args.size_mib,
        "quick": args.quick,
        "producers": args.producers,
        "in_flight": args.in_flight,
        "rounds": args.rounds(),
    });
    if args.schemes {
        let mut report = Report::new("log-schemes", settings);
        tokio::task::block_in_place(|| schemes::run(args, &parent, &mut report))?;
        return Ok(report);
    }
    let mut report = Report::new("log", settings);
    let (mut appends, mut scans) = (Vec::new(), Vec::new());
    for &value_bytes in &args.value_bytes {
        for &partitions in &args.partitions {
            for &durability in &args.durability {
                let shape = args.shape(partitions, value_bytes, durability);
                appends.push(append::run(args, &parent, shape, durability).await?);
            }
            let shape = args.shape(partitions, value_bytes, Durability::Os);
            announce(&format!("read: {partitions} partitions, {value_bytes} B"));
            scans.extend(scan::run(args, &parent, shape).await?);
        }
    }
    if let Some(shape) = args.sustained() {
        appends.push(append::run(args, &parent, shape, Durability::Os).await?);
    }
    add_bounds(&appends, args.batch, &mut report);
    report.add("append", "Append", &appends)?;
    report.add("scan", "Read from beginning to end, every record", &scans)?;
    report.note(format!(
        "Batches of {} records, each a commit of its own, from {} producers with {} on their way each. \
         The raw side writes the same batches to one file for each partition and, under `sync`, \
         calls fdatasync after each; the log syncs once for all commits that wait.",
        args.batch, args.producers, args.in_flight
    ));
    report.note(
        "Under `os` the raw side waits for the disk only once the system's page cache takes no more: with \
         the default sizes in the last case only, which shows what is written minute after minute. The \
         log syncs each memtable that it flushes, also in the others.",
    );
    report.note(
        "Write amplification: bytes that the store has written (write-ahead log, flushes, \
         compactions), once it has come to rest, in parts of the bytes appended. ± is half the \
         range of the rounds.",
    );
    Ok(report)
}

fn add_bounds(appends: &[append::Case], batch_records: u32, report: &mut Report) {
    if batch_records != 512 {
        return;
    }
    for case in appends
        .iter()
        .filter(|case| case.partitions == 16 && case.durability == "os")
    {
        let what = format!(
            "append, 16 partitions, os, {} B, {} MiB",
            case.value_bytes, case.size_mib
        );
        report.bound(Bound::at_least(
            format!("{what}: in parts of raw"),
            case.ratio,
            0.35,
        ));
        let amplification = case.write_amplification;
        report.bound(Bound::at_most(
            format!("{what}: write amplification"),
            amplification,
            2.5,
        ));
    }
}
