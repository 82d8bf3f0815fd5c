//! What the store tells.

use std::fmt;

use prometheus_client::encoding::EncodeLabelSet;

use super::encoder::{Encoder, Values};
use crate::model::HistogramCounts;
use crate::storage::{self, CommitStatistics, Health, Store, SyncStatistics, WriteStatistics};

/// The unit in which times are counted, of which there are so many in a second.
const NS: f64 = 1e9;

#[derive(Clone, Debug, EncodeLabelSet)]
struct KindLabels {
    kind: &'static str,
}

/// The store at one moment.
#[derive(Debug)]
pub(super) struct StoreScrape {
    disk: Values<KindLabels>,
    health: Health,
    written: WriteStatistics,
    commits: CommitStatistics,
    syncs: SyncStatistics,
    groups: u64,
}

impl StoreScrape {
    pub(super) fn of(store: &Store) -> Result<Self, storage::Error> {
        let health = store.health();
        let usage = store.disk_usage()?;
        let mut disk = vec![
            ("tables", usage.table_bytes),
            ("blobs", usage.blob_bytes),
            ("wal", store.wal_file_bytes()?),
            ("checkpoints", store.checkpoint_bytes()?),
        ];
        if let Some(space) = health.disk {
            disk.extend([("free", space.free_bytes), ("total", space.total_bytes)]);
        }
        Ok(Self {
            disk: kinds(&disk),
            health,
            written: store.write_statistics(),
            commits: store.commit_statistics(),
            syncs: store.sync_statistics(),
            groups: store.commit_count(),
        })
    }

    pub(super) fn encode(&self, encoder: &mut Encoder<'_, '_>) -> fmt::Result {
        encoder.gauges(
            "millstream_store_disk_bytes",
            "Files of the store, and room on their file system",
            &self.disk,
        )?;
        encoder.gauge(
            "millstream_store_poisoned",
            "1 if the store takes no writes since one failed",
            f64::from(u8::from(self.health.failure.is_some())),
        )?;
        encoder.gauge(
            "millstream_store_background_errors",
            "Flushes and compactions that have failed",
            self.health.background_error_count as f64,
        )?;
        encoder.counter(
            "millstream_store_commits",
            "Groups of commits since the server started",
            self.groups as f64,
        )?;
        encoder.counters(
            "millstream_store_written_bytes",
            "Bytes that the store has written since the server started",
            &kinds(&[
                ("wal", self.written.wal_bytes),
                ("flush", self.written.flush_bytes),
                ("compaction", self.written.compaction_bytes),
            ]),
        )?;
        encoder.gauge(
            "millstream_store_write_amplification",
            "Bytes written to the disk for each byte committed, since the server started",
            write_amplification(&self.written, &self.commits),
        )?;
        self.encode_histograms(encoder)
    }

    fn encode_histograms(&self, encoder: &mut Encoder<'_, '_>) -> fmt::Result {
        encoder.histogram(
            "millstream_store_commit_seconds",
            "Time from when a commit is handed over until it is acknowledged",
            &self.commits.commit_ns,
            NS,
        )?;
        encoder.histogram(
            "millstream_store_write_seconds",
            "Time that the write of a group of commits takes, with its sync",
            &self.commits.write_ns,
            NS,
        )?;
        encoder.histogram(
            "millstream_store_write_commits",
            "Commits that are written together",
            &self.commits.write_commits,
            1.0,
        )?;
        encoder.histogram(
            "millstream_store_write_bytes",
            "Bytes of keys, values and batches that are written together",
            &self.commits.write_bytes,
            1.0,
        )?;
        let syncs = HistogramCounts {
            buckets: vec![(u64::MAX, self.syncs.count)],
            sum: self.syncs.time_ns,
        };
        encoder.histogram(
            "millstream_store_fsync_seconds",
            "Time that syncs of the write-ahead log take",
            &syncs,
            NS,
        )
    }
}

/// 0 before anything is committed.
fn write_amplification(written: &WriteStatistics, commits: &CommitStatistics) -> f64 {
    match commits.write_bytes.sum {
        0 => 0.0,
        committed_bytes => written.total_bytes() as f64 / committed_bytes as f64,
    }
}

fn kinds(values: &[(&'static str, u64)]) -> Values<KindLabels> {
    let values = values.iter();
    values
        .map(|(kind, value)| (KindLabels { kind }, *value as f64))
        .collect()
}
