//! What tests of the store and of what stands on it share: a data directory that can be reopened,
//! records, batches.

use std::future::Future;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use proptest::test_runner::Config;
use rocksdb::perf::{PerfContext, PerfMetric, PerfStatsLevel, set_perf_stats};
use tempfile::TempDir;

use crate::clock::Clock;
use crate::model::{BatchBuilder, Compression, EncodedBatch, Header, Record};
use crate::storage::schema::{KeyKind, partition_head};
use crate::storage::{Commit, Durability, Error, Partition, Scan, Store, StoreOptions};

/// Waits until whoever counts, on another thread, has counted some more.
pub(crate) fn wait_for_more(count: &AtomicU64) {
    let (seen, started) = (count.load(Ordering::SeqCst), Instant::now());
    while count.load(Ordering::SeqCst) < seen + 2 {
        assert!(started.elapsed() < Duration::from_secs(60), "nothing more");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Opens a data directory that this process has closed. Work that was under way on another thread may hold it for a
/// moment yet; whoever holds it for longer has leaked it.
pub(crate) fn open_again(path: &Path, options: &StoreOptions) -> Store {
    let started = Instant::now();
    loop {
        match Store::open(path, options.clone()) {
            Err(Error::Locked { .. }) if started.elapsed() < Duration::from_secs(60) => {
                std::thread::sleep(Duration::from_millis(5));
            }
            opened => return opened.unwrap(),
        }
    }
}

/// Where the manual clock of a directory starts.
pub(crate) const START_MS: u64 = 1_700_000_000_000;

/// A data directory with a manual clock, deleted in the end.
pub(crate) struct TestStore {
    pub(crate) clock: Clock,
    pub(crate) options: StoreOptions,
    store: Option<Store>,
    folder: TempDir,
}

impl TestStore {
    /// With small memtables, so that even small tests reach RocksDB's files.
    pub(crate) fn new() -> Self {
        let clock = Clock::manual(START_MS);
        Self::with(StoreOptions {
            durability: Durability::Os,
            clock: clock.clone(),
            tail_bytes: 1 << 20,
            block_cache_bytes: 1 << 20,
            memtable_bytes: 64 << 10,
            ..StoreOptions::default()
        })
    }

    pub(crate) fn with(options: StoreOptions) -> Self {
        let mut store = Self {
            clock: options.clock.clone(),
            options,
            store: None,
            folder: tempfile::tempdir().unwrap(),
        };
        store.reopen();
        store
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn store(&self) -> &Store {
        self.store.as_ref().unwrap()
    }

    /// Closes the data directory, if nobody else holds the store.
    pub(crate) fn close(&mut self) {
        self.store = None;
    }

    /// Closes and opens the data directory; fails if somebody else goes on holding the store.
    pub(crate) fn reopen(&mut self) {
        self.close();
        self.store = Some(open_again(self.folder.path(), &self.options));
    }

    /// A partition as it is stored, or a new one.
    pub(crate) fn partition(&self, topic_id: u32, index: u32) -> Arc<Partition> {
        stored_partition(self.store(), topic_id, index)
    }

    pub(crate) fn commit(&self, commit: Commit) -> Vec<u64> {
        block_on(self.store().commit(commit)).unwrap().base_offsets
    }

    /// Appends one batch; returns its base offset.
    pub(crate) fn append(&self, partition: &Arc<Partition>, records: &[Record]) -> u64 {
        let mut commit = Commit::new();
        let batch = encode(Compression::None, records);
        commit.append(Arc::clone(partition), batch);
        self.commit(commit)[0]
    }
}

pub(crate) fn stored_partition(store: &Store, topic_id: u32, index: u32) -> Arc<Partition> {
    let key = partition_head::key(topic_id, index);
    let head = store.get(KeyKind::PartitionHead, &key).unwrap();
    let head = head.map(|value| partition_head::parse_value(&value).unwrap());
    let target = format!("topic:t{topic_id}").parse().unwrap();
    Arc::new(Partition::new(
        target,
        topic_id,
        index,
        head.unwrap_or_default(),
    ))
}

/// Runs a future on a runtime of its own.
pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    runtime.enable_all().build().unwrap().block_on(future)
}

/// Cases of a property test that opens data directories, which takes its time.
pub(crate) fn cases(cases: u32) -> Config {
    Config {
        cases,
        max_shrink_iters: 400,
        failure_persistence: None,
        ..Config::default()
    }
}

/// A record with a key and a header.
pub(crate) fn record(key: &str, value: Option<&str>, timestamp_ms: u64) -> Record {
    Record {
        key: Some(Bytes::copy_from_slice(key.as_bytes())),
        value: value.map(|value| Bytes::copy_from_slice(value.as_bytes())),
        headers: vec![Header::new("h", None)],
        timestamp_ms,
    }
}

pub(crate) fn encode(compression: Compression, records: &[Record]) -> EncodedBatch {
    let mut builder = BatchBuilder::new(compression);
    for record in records {
        builder.push_record(record).unwrap();
    }
    builder.build().unwrap().unwrap()
}

/// The records as they are stored, with their offsets, whatever the tail in memory says.
pub(crate) fn stored_records(store: &Store, partition: &Partition) -> Vec<(u64, Record)> {
    let mut records = Vec::new();
    store
        .scan_batches(partition, 0, partition.high_watermark(), |batch| {
            for record in &batch.records().unwrap() {
                let record = record.unwrap();
                records.push((record.offset, record.to_record()));
            }
            Ok(Scan::Continue)
        })
        .unwrap();
    records
}

/// What a thread has read from RocksDB.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct EngineReads {
    /// Bytes of keys and values.
    pub(crate) bytes: u64,
    /// Entries that were passed over, since they are replaced or deleted.
    pub(crate) skipped_entries: u64,
}

/// What this thread reads from RocksDB while it does something.
pub(crate) fn engine_reads(work: impl FnOnce()) -> EngineReads {
    let mut context = PerfContext::default();
    context.reset();
    set_perf_stats(PerfStatsLevel::EnableCount);
    work();
    set_perf_stats(PerfStatsLevel::Disable);
    let sum = |metrics: [PerfMetric; 2]| metrics.map(|metric| context.metric(metric)).iter().sum();
    EngineReads {
        bytes: sum([PerfMetric::IterReadBytes, PerfMetric::GetReadBytes]),
        skipped_entries: sum([
            PerfMetric::InternalKeySkippedCount,
            PerfMetric::InternalDeleteSkippedCount,
        ]),
    }
}

/// Set in the process that runs a test alone; the value is for the test.
const ALONE: &str = "MILLSTREAM_TEST_ALONE";

/// The command that runs one test of this binary in a process of its own: failpoints are global to
/// a process, and a kill ends all of it.
pub(crate) fn alone(module: &str, test: &str, argument: &str) -> Command {
    let (_, module) = module.split_once("::").unwrap();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", &format!("{module}::{test}"), "--nocapture"])
        .env(ALONE, argument)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// The argument of a test that runs alone; `None` in the process of all tests.
pub(crate) fn alone_argument() -> Option<String> {
    std::env::var(ALONE).ok()
}
