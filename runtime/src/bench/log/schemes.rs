//! RocksDB's compaction schemes for the log, against one another: `bench log --schemes`.

use std::hint::black_box;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::ensure;
use bytes::Bytes;
use serde::Serialize;

use super::scan::Sum;
use super::{Args, Shape, page_cache};
use crate::bench::announce;
use crate::bench::latency::{Latency, LatencyRecorder};
use crate::bench::report::{Figures, Report, rate};
use crate::bench::rounds::Rounds;
use crate::bench::scratch::Scratch;
use crate::model::RecordBatch;
use crate::storage::schemes::{Entry, Scheme, SchemeLog};
use crate::storage::{DiskUsage, Durability, StoreOptions};

/// Batches that are written at once, as the commit thread coalesces them.
const BATCHES_PER_WRITE: usize = 16;
/// Scans whose median counts.
const SCANS: u32 = 3;

#[derive(Debug, Default, Serialize)]
struct Case {
    scheme: &'static str,
    partitions: u32,
    value_bytes: usize,
    batch_records: u32,
    appended_bytes: u64,
    append_records_per_s: f64,
    append_rounds: Rounds,
    settle_s: f64,
    write_amplification: f64,
    warm_scan_records_per_s: f64,
    warm_rounds: Rounds,
    cold_scan_records_per_s: Option<f64>,
    cold_rounds: Rounds,
    disk_bytes: u64,
    disk_bytes_after_delete: u64,
    live_bytes_after_delete: u64,
    delete_s: f64,
    delete_written_bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    write_latency: Option<Latency>,
}

impl Figures for Case {
    const COLUMNS: &'static [&'static str] = &[
        "scheme",
        "value",
        "append records/s",
        "write ampl.",
        "warm scan records/s",
        "cold scan records/s",
        "disk",
        "after deleting half",
        "rewritten",
        "write: p50 / p99 / p99.9 / max",
    ];

    fn cells(&self) -> Vec<String> {
        let mib = |bytes: u64| format!("{} MiB", bytes >> 20);
        vec![
            self.scheme.to_owned(),
            format!("{} B", self.value_bytes),
            self.append_rounds.cell(rate),
            format!("{:.2}", self.write_amplification),
            self.warm_rounds.cell(rate),
            self.cold_scan_records_per_s
                .map_or_else(|| "–".to_owned(), |_| self.cold_rounds.cell(rate)),
            mib(self.disk_bytes),
            format!(
                "{} in {:.1} s",
                mib(self.disk_bytes_after_delete),
                self.delete_s
            ),
            mib(self.delete_written_bytes),
            self.write_latency
                .map_or_else(String::new, |latency| latency.cell()),
        ]
    }
}

/// Measures all schemes in turns.
pub(super) fn run(args: &Args, parent: &Path, report: &mut Report) -> anyhow::Result<()> {
    let partitions = args.partitions.iter().copied().max().unwrap_or(16);
    let mut cases = Vec::new();
    for &value_bytes in &args.value_bytes {
        let shape = args.shape(partitions, value_bytes, Durability::Os);
        let batches = shape.load()?.into_stored(&shape);
        let records: u64 = batches
            .iter()
            .map(|(_, batch)| u64::from(batch.record_count()))
            .sum();
        let bytes: u64 = batches
            .iter()
            .map(|(_, batch)| batch.len_bytes() as u64)
            .sum();
        let mut results: Vec<_> = Scheme::ALL
            .iter()
            .map(|scheme| case(*scheme, shape, bytes))
            .collect();
        for round in 0..args.rounds() {
            let is_last = round + 1 == args.rounds();
            for (scheme, case) in Scheme::ALL.into_iter().zip(&mut results) {
                announce(&format!(
                    "{}: {value_bytes} B, round {}",
                    scheme.name(),
                    round + 1
                ));
                let scratch = Scratch::create(parent)?;
                let log = SchemeLog::open(
                    scratch.path(),
                    scheme,
                    StoreOptions::default().memtable_bytes,
                )?;
                let mut latency = LatencyRecorder::new()?;
                let taken = append(&log, &batches, &mut latency)?;
                case.append_rounds
                    .push(records as f64 / taken.as_secs_f64());
                if is_last {
                    case.write_latency = Some(latency.summary());
                    finish(args, &log, scheme, scratch.path(), &batches, case)?;
                }
            }
        }
        cases.extend(results);
    }
    for case in &mut cases {
        case.append_records_per_s = case.append_rounds.median();
        case.warm_scan_records_per_s = case.warm_rounds.median();
        case.cold_scan_records_per_s = args.cold.then(|| case.cold_rounds.median());
    }
    report.add(
        "schemes",
        format!("Compaction schemes of the log, {partitions} partitions"),
        &cases,
    )?;
    report.note(format!(
        "{BATCHES_PER_WRITE} batches in a write, no sync, one writer. Scans read every record. \"After deleting \
         half\": delete_range and compact_range of the older half of every partition; FIFO frees \
         nothing then, since it only drops whole files by age."
    ));
    Ok(())
}

fn case(scheme: Scheme, shape: Shape, appended_bytes: u64) -> Case {
    Case {
        scheme: scheme.name(),
        partitions: shape.partitions,
        value_bytes: shape.value_bytes,
        batch_records: shape.batch_records,
        appended_bytes,
        ..Case::default()
    }
}

fn append(
    log: &SchemeLog,
    batches: &[(u32, RecordBatch)],
    latency: &mut LatencyRecorder,
) -> anyhow::Result<Duration> {
    let begin = Instant::now();
    let mut entries = Vec::with_capacity(BATCHES_PER_WRITE);
    for chunk in batches.chunks(BATCHES_PER_WRITE) {
        entries.clear();
        entries.extend(chunk.iter().map(|(partition, batch)| Entry {
            partition: *partition,
            base_offset: batch.base_offset(),
            bytes: batch.as_bytes(),
        }));
        let start = Instant::now();
        log.append(&entries)?;
        latency.record(start.elapsed());
    }
    Ok(begin.elapsed())
}

/// What is measured once, after the last append.
fn finish(
    args: &Args,
    log: &SchemeLog,
    scheme: Scheme,
    folder: &Path,
    batches: &[(u32, RecordBatch)],
    case: &mut Case,
) -> anyhow::Result<()> {
    let start = Instant::now();
    log.settle()?;
    case.settle_s = start.elapsed().as_secs_f64();
    let written = log.write_statistics().total_bytes();
    case.write_amplification = written as f64 / case.appended_bytes.max(1) as f64;
    case.disk_bytes = disk_bytes(log.disk_usage()?);
    let records: u64 = batches
        .iter()
        .map(|(_, batch)| u64::from(batch.record_count()))
        .sum();
    scan(log, case.partitions)?;
    for _ in 0..SCANS {
        let start = Instant::now();
        let sum = scan(log, case.partitions)?;
        let taken = start.elapsed().as_secs_f64();
        ensure!(
            sum.records == records,
            "{}: {} of {records} records",
            scheme.name(),
            sum.records
        );
        case.warm_rounds.push(records as f64 / taken);
    }
    // Afterwards, since the cache is gone then.
    for _ in (0..SCANS).filter(|_| args.cold) {
        page_cache::drop_all(folder)?;
        let start = Instant::now();
        scan(log, case.partitions)?;
        case.cold_rounds
            .push(records as f64 / start.elapsed().as_secs_f64());
    }
    let start = Instant::now();
    for partition in 0..case.partitions {
        let of_it = batches.iter().filter(|(of, _)| *of == partition);
        let ends: Vec<_> = of_it
            .map(|(_, batch)| (batch.next_offset(), batch.len_bytes()))
            .collect();
        let (older, newer) = ends.split_at(ends.len() / 2);
        log.delete(partition, older.last().map_or(0, |(end, _)| *end))?;
        case.live_bytes_after_delete += newer.iter().map(|(_, len)| *len as u64).sum::<u64>();
    }
    case.delete_s = start.elapsed().as_secs_f64();
    case.delete_written_bytes = log.write_statistics().total_bytes() - written;
    case.disk_bytes_after_delete = disk_bytes(log.disk_usage()?);
    Ok(())
}

fn disk_bytes(usage: DiskUsage) -> u64 {
    usage.table_bytes + usage.blob_bytes
}

/// Reads every record, copying each batch out of the database as the store does.
fn scan(log: &SchemeLog, partitions: u32) -> anyhow::Result<Sum> {
    let mut sum = Sum::default();
    for partition in 0..partitions {
        let mut failure = None;
        log.scan(partition, |value| {
            if let Err(error) = take_batch(Bytes::copy_from_slice(value), &mut sum) {
                failure.get_or_insert(error);
            }
        })?;
        if let Some(error) = failure {
            return Err(error);
        }
    }
    Ok(black_box(sum))
}

fn take_batch(bytes: Bytes, sum: &mut Sum) -> anyhow::Result<()> {
    for record in &RecordBatch::from_stored(bytes)?.records()? {
        sum.take(&record?);
    }
    Ok(())
}
