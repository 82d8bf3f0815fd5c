//! What the store has done since it was opened: for metrics.

use rocksdb::statistics::{Histogram as RocksHistogram, Ticker};

use super::Store;
use super::store::WriteStatistics;
use crate::model::{Histogram, HistogramCounts};

/// Bounds of times, in ns: from 100 µs to 10 s.
const TIME_BOUNDS_NS: [u64; 11] = [
    100_000,
    300_000,
    1_000_000,
    3_000_000,
    10_000_000,
    30_000_000,
    100_000_000,
    300_000_000,
    1_000_000_000,
    3_000_000_000,
    10_000_000_000,
];
/// Bounds of how many commits one write takes.
const COMMIT_BOUNDS: [u64; 7] = [1, 4, 16, 64, 256, 1_024, 4_096];
/// Bounds of how many bytes one write takes: from 1 KiB to 64 MiB.
const BYTE_BOUNDS: [u64; 9] = [
    1 << 10,
    4 << 10,
    16 << 10,
    64 << 10,
    256 << 10,
    1 << 20,
    4 << 20,
    16 << 20,
    64 << 20,
];

/// What the commit thread counts: once for each commit, and once for each write of several.
#[derive(Debug)]
pub(super) struct CommitCounters {
    pub(super) commit_ns: Histogram<{ TIME_BOUNDS_NS.len() }>,
    pub(super) write_ns: Histogram<{ TIME_BOUNDS_NS.len() }>,
    pub(super) write_commits: Histogram<{ COMMIT_BOUNDS.len() }>,
    pub(super) write_bytes: Histogram<{ BYTE_BOUNDS.len() }>,
}

impl CommitCounters {
    pub(super) const fn new() -> Self {
        Self {
            commit_ns: Histogram::new(&TIME_BOUNDS_NS),
            write_ns: Histogram::new(&TIME_BOUNDS_NS),
            write_commits: Histogram::new(&COMMIT_BOUNDS),
            write_bytes: Histogram::new(&BYTE_BOUNDS),
        }
    }
}

/// Commits since the store was opened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CommitStatistics {
    /// How long commits took from when they were handed over until they were acknowledged, in ns.
    pub commit_ns: HistogramCounts,
    /// How long one write took, its sync included if there was one, in ns.
    pub write_ns: HistogramCounts,
    /// How many commits one write took.
    pub write_commits: HistogramCounts,
    /// How many bytes of keys, values and batches one write took.
    pub write_bytes: HistogramCounts,
}

/// Syncs of the write-ahead log since the store was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SyncStatistics {
    /// How many.
    pub count: u64,
    /// How long they took together, in ns.
    pub time_ns: u64,
}

impl Store {
    /// What the commit thread has done.
    pub fn commit_statistics(&self) -> CommitStatistics {
        let counters = self.commit_counters();
        CommitStatistics {
            commit_ns: counters.commit_ns.counts(),
            write_ns: counters.write_ns.counts(),
            write_commits: counters.write_commits.counts(),
            write_bytes: counters.write_bytes.counts(),
        }
    }

    /// How the write-ahead log was synced; zeros unless the store was opened with statistics.
    pub fn sync_statistics(&self) -> SyncStatistics {
        // RocksDB syncs within its writes, and tells no more than this.
        let syncs = self
            .options()
            .get_histogram_data(RocksHistogram::WalFileSyncMicros);
        SyncStatistics {
            count: syncs.count(),
            time_ns: syncs.sum().saturating_mul(1_000),
        }
    }

    /// What RocksDB has written; zeros unless the store was opened with statistics.
    pub fn write_statistics(&self) -> WriteStatistics {
        let count = |ticker| self.options().get_ticker_count(ticker);
        WriteStatistics {
            wal_bytes: count(Ticker::WalFileBytes),
            flush_bytes: count(Ticker::FlushWriteBytes),
            compaction_bytes: count(Ticker::CompactWriteBytes),
        }
    }
}
