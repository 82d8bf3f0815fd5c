//! What tests of the log and of what stands on it share: a data directory that can be reopened,
//! records, and reading them back.

use std::future::Future;
use std::sync::Arc;

use bytes::Bytes;
use proptest::test_runner::Config;
use tempfile::TempDir;

use crate::clock::Clock;
use crate::log::{Cursor, Log, Topic, TopicConfig};
use crate::model::{BatchBuilder, Compression, EncodedBatch, Header, Record, RecordBatch};
use crate::storage::{Commit, Durability, Partition, Scan, Store, StoreOptions};

/// Where the manual clock of a fixture starts.
pub(crate) const START_MS: u64 = 1_700_000_000_000;

/// A data directory with a manual clock, deleted in the end.
pub(crate) struct Fixture {
    pub(crate) clock: Clock,
    options: StoreOptions,
    log: Option<Log>,
    folder: TempDir,
}

impl Fixture {
    pub(crate) fn new() -> Self {
        Self::with_tail_bytes(1 << 20)
    }

    /// With small memtables, so that even small tests reach RocksDB's files.
    pub(crate) fn with_tail_bytes(tail_bytes: usize) -> Self {
        let clock = Clock::manual(START_MS);
        let options = StoreOptions {
            durability: Durability::Os,
            clock: clock.clone(),
            tail_bytes,
            block_cache_bytes: 1 << 20,
            log_memtable_bytes: 64 << 10,
            ..StoreOptions::default()
        };
        let mut fixture = Self {
            clock,
            options,
            log: None,
            folder: tempfile::tempdir().unwrap(),
        };
        fixture.reopen();
        fixture
    }

    pub(crate) fn log(&self) -> &Log {
        self.log.as_ref().unwrap()
    }

    pub(crate) fn store(&self) -> &Store {
        self.log().store()
    }

    /// Closes and opens the data directory; fails if a cursor or a store is still around.
    pub(crate) fn reopen(&mut self) {
        drop(self.log.take());
        let store = Store::open(self.folder.path(), self.options.clone()).unwrap();
        self.log = Some(Log::open(store).unwrap());
    }

    pub(crate) fn set_tail_bytes(&mut self, tail_bytes: usize) {
        self.options.tail_bytes = tail_bytes;
    }

    /// A topic named `t`.
    pub(crate) fn topic(&self, config: TopicConfig) -> Topic {
        block_on(self.log().create_topic(&"t".parse().unwrap(), config)).unwrap()
    }

    /// The topic named `t`, and its only or first partition.
    pub(crate) fn reopened_topic(&self) -> (Topic, Arc<Partition>) {
        let topic = self.log().topic(&"t".parse().unwrap()).unwrap();
        let partition = Arc::clone(topic.partition(0).unwrap());
        (topic, partition)
    }
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

/// A record with a key, without headers.
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

/// Appends one batch; returns its base offset.
pub(crate) fn append(log: &Log, partition: &Arc<Partition>, records: &[Record]) -> u64 {
    let mut commit = Commit::new();
    commit.append(
        Arc::clone(partition),
        encode(Compression::None, records),
    );
    block_on(log.store().commit(commit)).unwrap().base_offsets[0]
}

/// Reads on to the end, with the offsets.
pub(crate) fn read_to_end(cursor: &mut Cursor) -> Vec<(u64, Record)> {
    let mut records = Vec::new();
    while !cursor.is_at_end() {
        cursor
            .read(7, 1 << 20, |record| {
                records.push((record.offset, record.to_record()))
            })
            .unwrap();
    }
    records
}

/// All records from an offset on, as a consumer gets them.
pub(crate) fn consume(log: &Log, partition: &Arc<Partition>, from: u64) -> Vec<(u64, Record)> {
    read_to_end(&mut Cursor::new(
        log.store().clone(),
        Arc::clone(partition),
        from,
    ))
}

/// The batches as they are stored, whatever the tail in memory says.
pub(crate) fn stored_batches(log: &Log, partition: &Partition) -> Vec<RecordBatch> {
    let mut batches = Vec::new();
    log.store()
        .scan_batches(partition, 0, partition.high_watermark(), |batch| {
            batches.push(batch);
            Ok(Scan::Continue)
        })
        .unwrap();
    batches
}

/// The records as they are stored, with their offsets.
pub(crate) fn stored_records(log: &Log, partition: &Partition) -> Vec<(u64, Record)> {
    let mut records = Vec::new();
    for batch in stored_batches(log, partition) {
        for record in &batch.records().unwrap() {
            let record = record.unwrap();
            records.push((record.offset, record.to_record()));
        }
    }
    records
}

pub(crate) fn stored_bytes(log: &Log, partition: &Partition) -> u64 {
    let batches = stored_batches(log, partition);
    batches.iter().map(|batch| batch.len_bytes() as u64).sum()
}
