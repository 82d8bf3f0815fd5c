//! Read: from the first record to the last, through a cursor and from raw files.

use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use anyhow::ensure;
use serde::Serialize;

use super::append::{append_all, open_topic};
use super::segments::Segments;
use super::{Args, Shape, page_cache};
use crate::bench::latency::LatencyRecorder;
use crate::bench::report::{Figures, rate};
use crate::bench::rounds::{Rounds, Side, order};
use crate::bench::scratch::Scratch;
use crate::log::{Cursor, Log, Topic};
use crate::model::RecordRef;
use crate::storage::Durability;

/// The figures of one case.
#[derive(Debug, Serialize)]
pub(super) struct Case {
    partitions: u32,
    value_bytes: usize,
    batch_records: u32,
    /// `warm`: from the system's page cache. `cold`: from the disk.
    cache: &'static str,
    read_bytes: u64,
    log_records_per_s: f64,
    log_bytes_per_s: f64,
    raw_records_per_s: f64,
    raw_bytes_per_s: f64,
    ratio: f64,
    log_rounds: Rounds,
    raw_rounds: Rounds,
}

impl Figures for Case {
    const COLUMNS: &'static [&'static str] = &[
        "partitions",
        "value",
        "cache",
        "raw records/s",
        "log records/s",
        "log MB/s",
        "ratio",
    ];

    fn cells(&self) -> Vec<String> {
        vec![
            self.partitions.to_string(),
            format!("{} B", self.value_bytes),
            self.cache.to_owned(),
            self.raw_rounds.cell(rate),
            self.log_rounds.cell(rate),
            format!("{:.0}", self.log_bytes_per_s / 1e6),
            format!("{:.2}", self.ratio),
        ]
    }
}

/// Writes the data of a case to both sides and reads it again and again.
pub(super) async fn run(args: &Args, parent: &Path, shape: Shape) -> anyhow::Result<Vec<Case>> {
    let scratch = Scratch::create(parent)?;
    let (log_path, raw_path) = (scratch.path().join("log"), scratch.path().join("raw"));
    std::fs::create_dir_all(&raw_path)?;
    let load = tokio::task::block_in_place(|| shape.load())?;
    let (bytes, records) = (load.bytes, load.records);
    {
        let (log, topic) = open_topic(&log_path, shape.partitions, Durability::Os).await?;
        append_all(args, log.store(), &topic, shape, load).await?;
        // Opened again below: without what the store keeps of the newest batches in memory.
        tokio::task::block_in_place(|| log.store().flush())?;
    }
    let segments = tokio::task::block_in_place(|| -> anyhow::Result<_> {
        let batches = shape.load()?.into_stored(&shape);
        let segments = Segments::create(&raw_path, shape.partitions)?;
        segments.append(&batches, Durability::Os, &mut LatencyRecorder::new()?)?;
        Ok(segments)
    })?;
    let (log, topic) = open_topic(&log_path, shape.partitions, Durability::Os).await?;
    let caches = if args.cold {
        ["warm", "cold"].as_slice()
    } else {
        &["warm"]
    };
    let mut cases = Vec::new();
    tokio::task::block_in_place(|| -> anyhow::Result<()> {
        for &cache in caches {
            let contest = Contest {
                shape,
                segments: &segments,
                log: &log,
                topic: &topic,
                records,
                bytes,
            };
            cases.push(contest.run(args, cache, scratch.path())?);
        }
        Ok(())
    })?;
    tokio::task::block_in_place(|| drop((log, topic, segments)));
    Ok(cases)
}

struct Contest<'a> {
    shape: Shape,
    segments: &'a Segments,
    log: &'a Log,
    topic: &'a Topic,
    records: u64,
    bytes: u64,
}

impl Contest<'_> {
    fn run(&self, args: &Args, cache: &'static str, folder: &Path) -> anyhow::Result<Case> {
        let (mut log_rounds, mut raw_rounds) = (Rounds::default(), Rounds::default());
        if cache == "warm" {
            self.scan_raw()?;
            self.scan_log()?;
        }
        for round in 0..args.rounds() {
            for side in order(round) {
                if cache == "cold" {
                    page_cache::drop_all(folder)?;
                }
                let start = Instant::now();
                let sum = match side {
                    Side::Plain => self.scan_raw()?,
                    Side::Ours => self.scan_log()?,
                };
                let per_s = self.records as f64 / start.elapsed().as_secs_f64();
                ensure!(
                    sum.records == self.records,
                    "{} of {} records read",
                    sum.records,
                    self.records
                );
                match side {
                    Side::Plain => raw_rounds.push(per_s),
                    Side::Ours => log_rounds.push(per_s),
                }
            }
        }
        let bytes_per_record = self.bytes as f64 / self.records.max(1) as f64;
        Ok(Case {
            partitions: self.shape.partitions,
            value_bytes: self.shape.value_bytes,
            batch_records: self.shape.batch_records,
            cache,
            read_bytes: self.bytes,
            log_records_per_s: log_rounds.median(),
            log_bytes_per_s: log_rounds.median() * bytes_per_record,
            raw_records_per_s: raw_rounds.median(),
            raw_bytes_per_s: raw_rounds.median() * bytes_per_record,
            ratio: log_rounds.ratio_to(&raw_rounds),
            log_rounds,
            raw_rounds,
        })
    }

    fn scan_raw(&self) -> anyhow::Result<Sum> {
        let mut sum = Sum::default();
        self.segments.scan(|batch| {
            for record in &batch.records()? {
                sum.take(&record?);
            }
            Ok(())
        })?;
        Ok(black_box(sum))
    }

    fn scan_log(&self) -> anyhow::Result<Sum> {
        let mut sum = Sum::default();
        for partition in self.topic.partitions() {
            let mut cursor = Cursor::new(self.log.store().clone(), Arc::clone(partition), 0);
            while cursor.read(4096, usize::MAX, |record| sum.take(record))? > 0 {}
        }
        Ok(black_box(sum))
    }
}

/// Something that needs every record's key and value.
#[derive(Debug, Default)]
pub(super) struct Sum {
    pub(super) records: u64,
    bytes: u64,
    first_bytes: u64,
}

impl Sum {
    /// Takes a record in.
    pub(super) fn take(&mut self, record: &RecordRef<'_>) {
        self.records += 1;
        for field in [record.key, record.value].into_iter().flatten() {
            self.bytes += field.len() as u64;
            self.first_bytes += u64::from(field.first().copied().unwrap_or_default());
        }
    }
}
