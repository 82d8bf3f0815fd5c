//! The cleaner against what it promises: random keyed records, cleaned at random moments, with
//! crashes and reopenings in between.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::task::Poll;

use bytes::Bytes;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::{Index, select};

use super::support::{
    Fixture, block_on, cases, consume, encode, stored_batches, stored_bytes, stored_records,
};
use crate::log::{CleanReport, Cleanup, CompressionName, Topic, TopicConfig};
use crate::model::{Compression, Record};
use crate::storage::{Commit, Partition};

#[derive(Clone, Debug)]
enum Op {
    Append(Compression, Vec<Draft>),
    Clean,
    CleanIfDirty,
    /// A run that is dropped when it has waited for this many things.
    CleanPartly(usize),
    Advance(u64),
    Consume(Index),
    Flush,
    Reopen,
}

#[derive(Clone, Debug)]
struct Draft {
    key: Option<u8>,
    value_bytes: Option<usize>,
    timestamp_ms: u64,
}

fn op(keys: u8) -> impl Strategy<Value = Op> {
    let value_bytes =
        prop_oneof![3 => Just(0), 8 => 1..40usize, 1 => Just(3000), 1 => Just(25_000)];
    let draft = (
        option::weighted(0.9, 0..keys),
        option::weighted(0.7, value_bytes),
        0..1000u64,
    );
    let draft = draft.prop_map(|(key, value_bytes, timestamp_ms)| Draft {
        key,
        value_bytes,
        timestamp_ms,
    });
    let compression = prop_oneof![3 => Just(Compression::None), 1 => select(&Compression::ALL)];
    prop_oneof![
        12 => (compression, vec(draft, 1..12)).prop_map(|(compression, drafts)| Op::Append(compression, drafts)),
        3 => Just(Op::Clean),
        2 => Just(Op::CleanIfDirty),
        3 => (1..9usize).prop_map(Op::CleanPartly),
        4 => select(vec![1, 10, 50, 100]).prop_map(Op::Advance),
        2 => any::<Index>().prop_map(Op::Consume),
        1 => Just(Op::Flush),
        1 => Just(Op::Reopen),
    ]
}

fn config() -> impl Strategy<Value = TopicConfig> {
    let compression = select(vec![
        None,
        None,
        Some(Compression::Lz4),
        Some(Compression::None),
    ]);
    let delay_ms = select(vec![0, 10, 60, 500]);
    let ratio = select(vec![0.0, 0.5]);
    (compression, delay_ms, ratio).prop_map(|(compression, tombstone_delay_ms, ratio)| {
        TopicConfig {
            cleanup: Cleanup::Compact,
            compression: compression.map(CompressionName),
            tombstone_delay_ms,
            min_cleanable_dirty_ratio: ratio,
            ..TopicConfig::default()
        }
    })
}

/// When a tombstone has been passed by runs of the cleaner.
#[derive(Clone, Copy, Default)]
struct Passed {
    /// By the first run, which may have come to no end.
    first_ms: Option<u64>,
    /// By the first run that reached its end.
    for_sure_ms: Option<u64>,
    /// Whether a run has been made at which it may, and at which it must have gone.
    may_be_gone: bool,
    must_be_gone: bool,
}

struct Run {
    fixture: Fixture,
    topic: Topic,
    delay_ms: u64,
    appended: Vec<Record>,
    tombstones: BTreeMap<u64, Passed>,
}

impl Run {
    fn new(config: TopicConfig, tail_bytes: usize) -> Self {
        let fixture = Fixture::with_tail_bytes(tail_bytes);
        Self {
            delay_ms: config.tombstone_delay_ms,
            topic: fixture.topic(config),
            fixture,
            appended: Vec::new(),
            tombstones: BTreeMap::new(),
        }
    }

    fn partition(&self) -> &Arc<Partition> {
        self.topic.partition(0).unwrap()
    }

    fn apply(&mut self, op: Op) -> Result<(), TestCaseError> {
        match op {
            Op::Append(compression, drafts) => self.append(compression, drafts),
            Op::Clean => self.clean()?,
            Op::CleanIfDirty => {
                let mark = self.partition().clean_mark();
                self.note_run();
                let report = block_on(self.fixture.log().clean_if_dirty(&self.topic)).unwrap();
                if report != CleanReport::default() || mark != self.partition().clean_mark() {
                    self.note_end();
                }
            }
            Op::CleanPartly(polls) => {
                self.note_run();
                let log = self.fixture.log();
                let cleaned = block_on(partly(log.clean(&self.topic), polls));
                if let Some(report) = cleaned {
                    report.unwrap();
                    self.note_end();
                }
            }
            Op::Advance(by_ms) => self.fixture.clock.advance_ms(by_ms),
            Op::Consume(from) => self.consume(from)?,
            Op::Flush => self.fixture.store().flush().unwrap(),
            Op::Reopen => {
                self.fixture.reopen();
                self.topic = self.fixture.reopened_topic().0;
            }
        }
        Ok(())
    }

    fn append(&mut self, compression: Compression, drafts: Vec<Draft>) {
        let mut records = Vec::new();
        for draft in drafts {
            let offset = (self.appended.len() + records.len()) as u64;
            if draft.key.is_some() && draft.value_bytes.is_none() {
                self.tombstones.insert(offset, Passed::default());
            }
            let value = |bytes| format!("{offset}-").repeat(bytes).into_bytes();
            records.push(Record {
                key: draft.key.map(|key| Bytes::from(vec![b'k', key])),
                value: draft
                    .value_bytes
                    .map(|bytes| value(bytes)[..bytes].to_vec().into()),
                headers: Vec::new(),
                timestamp_ms: draft.timestamp_ms,
            });
        }
        let mut commit = Commit::new();
        commit.append(self.partition().clone(), encode(compression, &records));
        block_on(self.fixture.store().commit(commit)).unwrap();
        self.appended.extend(records);
    }

    /// A run starts now, and may do anything of what it is there for.
    fn note_run(&mut self) {
        let now_ms = self.fixture.clock.now_ms();
        for passed in self.tombstones.values_mut() {
            match passed.first_ms {
                Some(first_ms) => passed.may_be_gone |= now_ms >= first_ms + self.delay_ms,
                None => passed.first_ms = Some(now_ms),
            }
        }
    }

    /// The run has done all it is there for, up to the clean mark.
    fn note_end(&mut self) {
        let now_ms = self.fixture.clock.now_ms();
        let end = self.partition().clean_mark().offset;
        for (_, passed) in self.tombstones.range_mut(..end) {
            match passed.for_sure_ms {
                Some(first_ms) => passed.must_be_gone |= now_ms >= first_ms + self.delay_ms,
                None => passed.for_sure_ms = Some(now_ms),
            }
        }
    }

    /// Cleans to the end: one run takes in a limited number of keys.
    fn clean(&mut self) -> Result<(), TestCaseError> {
        loop {
            let mark = self.partition().clean_mark().offset;
            self.note_run();
            block_on(self.fixture.log().clean(&self.topic)).unwrap();
            self.note_end();
            let end = self.partition().high_watermark();
            let next_mark = self.partition().clean_mark();
            prop_assert!(next_mark.offset > mark || mark == end);
            if next_mark.offset == end {
                break;
            }
        }
        let stored = stored_records(self.fixture.log(), self.partition());
        for (at, (offset, record)) in stored.iter().enumerate() {
            let later = &stored[at + 1..];
            let is_newest = record.key.is_none() || later.iter().all(|(_, r)| r.key != record.key);
            prop_assert!(is_newest, "offset {offset} is outdated");
            let passed = self.tombstones.get(offset);
            let must_be_gone = passed.is_some_and(|passed| passed.must_be_gone);
            prop_assert!(!must_be_gone, "the tombstone at {offset} should be gone");
        }
        let bytes = self.partition().size_bytes();
        prop_assert_eq!(self.partition().clean_mark().bytes, bytes);
        self.check_idempotence()
    }

    /// Another run removes nothing; it may put batches together that the limits of a commit have kept
    /// apart. (Without a delay, it takes the tombstones that this one passed.)
    fn check_idempotence(&mut self) -> Result<(), TestCaseError> {
        if self.delay_ms == 0 {
            return Ok(());
        }
        let stored = |run: &Self| stored_records(run.fixture.log(), run.partition());
        block_on(self.fixture.log().clean(&self.topic)).unwrap();
        let (before, mark) = (stored(self), self.partition().clean_mark());
        let report = block_on(self.fixture.log().clean(&self.topic)).unwrap();
        prop_assert_eq!(report.records_removed, 0);
        prop_assert_eq!(report.records_kept, before.len() as u64);
        prop_assert_eq!(stored(self), before);
        let next_mark = self.partition().clean_mark();
        prop_assert_eq!(next_mark.offset, mark.offset);
        prop_assert_eq!(next_mark.tombstones_due_ms, mark.tombstones_due_ms);
        Ok(())
    }

    /// A consumer gets records as they were appended, in order, and misses only what it may.
    fn consume(&self, from: Index) -> Result<(), TestCaseError> {
        let from = from.index(self.appended.len() + 1) as u64;
        let records = consume(self.fixture.log(), self.partition(), from);
        self.check_records(&records, from)
    }

    fn check_records(&self, records: &[(u64, Record)], from: u64) -> Result<(), TestCaseError> {
        let mut next = from;
        for (offset, record) in records {
            prop_assert!(*offset >= next, "offset {offset} after {next}");
            prop_assert_eq!(record, &self.appended[*offset as usize]);
            next = offset + 1;
        }
        let held: BTreeMap<u64, ()> = records.iter().map(|(offset, _)| (*offset, ())).collect();
        let mut newest = BTreeMap::new();
        for (offset, record) in self.appended.iter().enumerate() {
            match &record.key {
                Some(key) => newest.insert(key.clone(), offset as u64),
                None => {
                    let offset = offset as u64;
                    prop_assert!(offset < from || held.contains_key(&offset));
                    None
                }
            };
        }
        for offset in newest.into_values().filter(|offset| *offset >= from) {
            let passed = self.tombstones.get(&offset);
            let may_be_gone = passed.is_some_and(|passed| passed.may_be_gone);
            prop_assert!(
                may_be_gone || held.contains_key(&offset),
                "the newest record of a key, at {offset}, is gone"
            );
        }
        Ok(())
    }

    /// What must be so at any time, also after a run that came to no end.
    fn check(&self) -> Result<(), TestCaseError> {
        // What a dropped run has left in the queue is done before this is answered.
        block_on(self.fixture.store().commit(Commit::new())).unwrap();
        let (log, partition) = (self.fixture.log(), self.partition());
        let mut next = 0;
        for batch in stored_batches(log, partition) {
            batch.verify_crc().unwrap();
            prop_assert!(batch.record_count() > 0);
            prop_assert!(batch.base_offset() >= next, "batches overlap at {next}");
            next = batch.next_offset();
        }
        prop_assert_eq!(partition.high_watermark(), self.appended.len() as u64);
        prop_assert!(next <= partition.high_watermark());
        prop_assert_eq!(partition.size_bytes(), stored_bytes(log, partition));
        self.check_records(&stored_records(log, partition), 0)
    }
}

/// Drives a future until it has been woken so many times, then drops it, as a crash would.
async fn partly<T>(work: impl Future<Output = T>, mut polls: usize) -> Option<T> {
    let mut work = std::pin::pin!(work);
    std::future::poll_fn(|context| match work.as_mut().poll(context) {
        Poll::Ready(done) => Poll::Ready(Some(done)),
        Poll::Pending if polls == 0 => Poll::Ready(None),
        Poll::Pending => {
            polls -= 1;
            Poll::Pending
        }
    })
    .await
}

fn run(config: TopicConfig, tail_bytes: usize, ops: Vec<Op>) -> Result<(), TestCaseError> {
    let mut run = Run::new(config, tail_bytes);
    for op in ops {
        run.apply(op)?;
        run.check()?;
    }
    run.clean()?;
    run.check()
}

proptest! {
    #![proptest_config(cases(32))]

    #[test]
    fn the_cleaner_keeps_its_promises(config in config(), tail_bytes in select(vec![0, 2000, 1 << 20]), ops in vec(op(6), 1..40)) {
        run(config, tail_bytes, ops)?;
    }

}

proptest! {
    #![proptest_config(cases(12))]

    /// More keys than one run takes in.
    #[test]
    fn many_keys_are_cleaned_in_several_runs(config in config(), ops in vec(op(u8::MAX), 20..60)) {
        run(config, 1 << 20, ops)?;
    }
}
