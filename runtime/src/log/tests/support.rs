//! What the tests of the log share: a data directory with its log, reading records back.

use std::sync::Arc;

use crate::clock::Clock;
use crate::log::{Cursor, Error, Log, Topic, TopicConfig};
use crate::model::{Compression, Record, RecordBatch};
use crate::storage::tests::support::TestStore;
pub(super) use crate::storage::tests::support::{START_MS, block_on, cases, encode, record};
use crate::storage::{Commit, Partition, Scan, Store};

/// A data directory and its log, with a manual clock; deleted in the end.
pub(super) struct Fixture {
    pub(super) clock: Clock,
    log: Option<Log>,
    directory: TestStore,
}

impl Fixture {
    pub(super) fn new() -> Self {
        Self::with_tail_bytes(1 << 20)
    }

    pub(super) fn with_tail_bytes(tail_bytes: usize) -> Self {
        let directory = TestStore::new();
        let mut fixture = Self {
            clock: directory.clock.clone(),
            log: None,
            directory,
        };
        fixture.set_tail_bytes(tail_bytes);
        fixture.reopen();
        fixture
    }

    pub(super) fn log(&self) -> &Log {
        self.log.as_ref().unwrap()
    }

    pub(super) fn store(&self) -> &Store {
        self.directory.store()
    }

    /// Closes and opens the data directory; fails if a cursor or a store is still around.
    pub(super) fn reopen(&mut self) {
        self.log = None;
        self.directory.reopen();
        self.log = Some(Log::open(self.directory.store().clone()).unwrap());
    }

    /// From the next opening on.
    pub(super) fn set_tail_bytes(&mut self, tail_bytes: usize) {
        self.directory.options.tail_bytes = tail_bytes;
    }

    /// A topic named `t`.
    pub(super) fn topic(&self, config: TopicConfig) -> Topic {
        block_on(self.log().create_topic(&"t".parse().unwrap(), config)).unwrap()
    }

    /// The topic named `t`, and its first partition.
    pub(super) fn reopened_topic(&self) -> (Topic, Arc<Partition>) {
        let topic = self.log().topic(&"t".parse().unwrap()).unwrap();
        let partition = Arc::clone(topic.partition(0).unwrap());
        (topic, partition)
    }
}

/// Changes all settings of a topic, for `alter_topic`.
pub(super) fn set(config: TopicConfig) -> impl FnOnce(&mut TopicConfig) -> Result<(), Error> {
    |settings| {
        *settings = config;
        Ok(())
    }
}

/// Appends one batch; returns its base offset.
pub(super) fn append(log: &Log, partition: &Arc<Partition>, records: &[Record]) -> u64 {
    let mut commit = Commit::new();
    commit.append(Arc::clone(partition), encode(Compression::None, records));
    block_on(log.store().commit(commit)).unwrap().base_offsets[0]
}

/// Reads on to the end, with the offsets.
pub(super) fn read_to_end(cursor: &mut Cursor) -> Vec<(u64, Record)> {
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
pub(super) fn consume(log: &Log, partition: &Arc<Partition>, from: u64) -> Vec<(u64, Record)> {
    read_to_end(&mut Cursor::new(
        log.store().clone(),
        Arc::clone(partition),
        from,
    ))
}

/// The batches as they are stored, whatever the tail in memory says.
pub(super) fn stored_batches(log: &Log, partition: &Partition) -> Vec<RecordBatch> {
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
pub(super) fn stored_records(log: &Log, partition: &Partition) -> Vec<(u64, Record)> {
    crate::storage::tests::support::stored_records(log.store(), partition)
}

/// Bytes of the batches as they are stored.
pub(super) fn stored_bytes(log: &Log, partition: &Partition) -> u64 {
    let batches = stored_batches(log, partition);
    batches.iter().map(|batch| batch.len_bytes() as u64).sum()
}
