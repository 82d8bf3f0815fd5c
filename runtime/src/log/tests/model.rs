//! The log against a simple model: random appends, reads, trims, reopenings.

use std::sync::Arc;

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::{Index, select};

use super::support::{Fixture, START_MS, block_on, cases, encode, stored_bytes};
use crate::log::{Cursor, OffsetSpec, Topic, TopicConfig};
use crate::model::{Compression, Header, Record};
use crate::storage::{Commit, Error, Partition};

const PARTITIONS: usize = 3;

#[derive(Clone, Debug)]
enum Op {
    /// One commit: batches of records, each for a partition.
    Append(Vec<(usize, Compression, Vec<Draft>)>),
    /// [`crate::storage::Store::read`]
    Read {
        partition: usize,
        from: Index,
        max_bytes: usize,
    },
    /// Goes on with the partition's cursor, or first moves it.
    Consume {
        partition: usize,
        seek: Option<Index>,
        max_records: usize,
        max_bytes: usize,
    },
    ByTime {
        partition: usize,
        record: Index,
        distance_ms: i64,
    },
    Trim {
        partition: usize,
        at: Index,
    },
    Flush,
    Reopen {
        tail_bytes: usize,
    },
}

/// A record whose timestamp is made relative to the ones before.
#[derive(Clone, Debug)]
struct Draft {
    record: Record,
    back_ms: u64,
}

fn drafts() -> impl Strategy<Value = Vec<Draft>> {
    let bytes = |most| option::weighted(0.8, vec(any::<u8>(), 0..most).prop_map(Into::into));
    let value = prop_oneof![8 => bytes(60), 1 => bytes(9000)];
    let headers = vec(("[a-z]{0,4}", bytes(5)), 0..3).prop_map(|headers| {
        let header = |(name, value): (String, _)| Header::new(name, value);
        headers.into_iter().map(header).collect()
    });
    let draft =
        (bytes(8), value, headers, 0..100u64).prop_map(|(key, value, headers, back_ms)| Draft {
            record: Record {
                key,
                value,
                headers,
                timestamp_ms: 0,
            },
            back_ms,
        });
    vec(draft, 1..8)
}

fn op() -> impl Strategy<Value = Op> {
    let partition = 0..PARTITIONS;
    let compression = prop_oneof![2 => Just(Compression::None), 1 => select(&Compression::ALL)];
    let max_bytes = select(vec![0, 1, 100, 1000, 5000, 1 << 20]);
    let max_records = select(vec![1, 2, 5, 100]);
    let tail_bytes = select(vec![0, 300, 4000, 1 << 20]);
    let index = any::<Index>;
    prop_oneof![
        8 => vec((partition.clone(), compression, drafts()), 1..4).prop_map(Op::Append),
        4 => (partition.clone(), index(), max_bytes.clone())
            .prop_map(|(partition, from, max_bytes)| Op::Read { partition, from, max_bytes }),
        8 => (partition.clone(), option::weighted(0.2, index()), max_records, max_bytes).prop_map(
            |(partition, seek, max_records, max_bytes)| Op::Consume {
                partition, seek, max_records, max_bytes,
            }
        ),
        2 => (partition.clone(), index(), select(vec![-1000, -1, 0, 0, 1, 1000])).prop_map(
            |(partition, record, distance_ms)| Op::ByTime { partition, record, distance_ms }
        ),
        1 => (partition, index()).prop_map(|(partition, at)| Op::Trim { partition, at }),
        1 => Just(Op::Flush),
        1 => tail_bytes.prop_map(|tail_bytes| Op::Reopen { tail_bytes }),
    ]
}

/// A partition as it should be.
#[derive(Default)]
struct Expected {
    /// All records ever appended, by offset.
    records: Vec<Record>,
    /// Base offset and size of each batch, also of those that are gone.
    batches: Vec<(u64, usize)>,
    start: u64,
    /// Where the consumer stands.
    position: u64,
}

impl Expected {
    fn end(&self) -> u64 {
        self.records.len() as u64
    }

    fn batch_end(&self, index: usize) -> u64 {
        let next = self.batches.get(index + 1);
        next.map_or(self.end(), |(base, _)| *base)
    }

    fn size_bytes(&self) -> u64 {
        let held = self.batches.iter().filter(|(base, _)| *base >= self.start);
        held.map(|(_, bytes)| *bytes as u64).sum()
    }
}

struct Run {
    fixture: Fixture,
    topic: Topic,
    expected: [Expected; PARTITIONS],
    cursors: Vec<Cursor>,
    now_ms: u64,
}

impl Run {
    fn new() -> Self {
        let fixture = Fixture::with_tail_bytes(2000);
        let config = TopicConfig {
            partitions: PARTITIONS as u32,
            ..TopicConfig::default()
        };
        let topic = fixture.topic(config);
        let mut run = Self {
            fixture,
            topic,
            expected: Default::default(),
            cursors: Vec::new(),
            now_ms: START_MS,
        };
        run.open_cursors();
        run
    }

    fn open_cursors(&mut self) {
        let cursor = |index: usize| {
            let store = self.fixture.store().clone();
            Cursor::new(
                store,
                self.partition(index).clone(),
                self.expected[index].position,
            )
        };
        self.cursors = (0..PARTITIONS).map(cursor).collect();
    }

    fn partition(&self, index: usize) -> &Arc<Partition> {
        self.topic.partition(index as u32).unwrap()
    }

    fn apply(&mut self, op: Op) -> Result<(), TestCaseError> {
        match op {
            Op::Append(batches) => self.append(batches),
            Op::Read {
                partition,
                from,
                max_bytes,
            } => self.read(partition, from, max_bytes),
            Op::Consume {
                partition,
                seek,
                max_records,
                max_bytes,
            } => self.consume(partition, seek, max_records, max_bytes),
            Op::ByTime {
                partition,
                record,
                distance_ms,
            } => self.by_time(partition, record, distance_ms),
            Op::Trim { partition, at } => self.trim(partition, at),
            Op::Flush => {
                self.fixture.store().flush().unwrap();
                Ok(())
            }
            Op::Reopen { tail_bytes } => self.reopen(tail_bytes),
        }
    }

    fn append(
        &mut self,
        batches: Vec<(usize, Compression, Vec<Draft>)>,
    ) -> Result<(), TestCaseError> {
        let mut commit = Commit::new();
        let mut bases = Vec::new();
        for (index, compression, drafts) in batches {
            // The greatest timestamps of batches rise, those of records need not.
            self.now_ms += drafts[0].back_ms;
            let mut records = Vec::new();
            for (at, draft) in drafts.into_iter().enumerate() {
                let mut record = draft.record;
                record.timestamp_ms = self.now_ms - if at == 0 { 0 } else { draft.back_ms };
                records.push(record);
            }
            records.reverse();
            let batch = encode(compression, &records);
            let expected = &mut self.expected[index];
            bases.push(expected.end());
            expected.batches.push((expected.end(), batch.len_bytes()));
            expected.records.extend(records);
            commit.append(self.partition(index).clone(), batch);
        }
        let committed = block_on(self.fixture.store().commit(commit)).unwrap();
        prop_assert_eq!(committed.base_offsets, bases);
        Ok(())
    }

    fn read(&self, index: usize, from: Index, max_bytes: usize) -> Result<(), TestCaseError> {
        let expected = &self.expected[index];
        let from = from.index(expected.records.len() + 2) as u64;
        let read = self
            .fixture
            .store()
            .read(self.partition(index), from, max_bytes);
        if from < expected.start || from > expected.end() {
            let error = read.unwrap_err();
            let is_right = matches!(error, Error::OffsetOutOfRange { offset, start, end }
                if offset == from && start == expected.start && end == expected.end());
            prop_assert!(is_right, "{error:?}");
            return Ok(());
        }
        let mut wanted = Vec::new();
        let mut bytes = 0;
        for (at, (base, len_bytes)) in expected.batches.iter().enumerate() {
            if expected.batch_end(at) <= from {
                continue;
            }
            if bytes > 0 && bytes + len_bytes > max_bytes {
                break;
            }
            bytes += len_bytes;
            let records = *base as usize..expected.batch_end(at) as usize;
            wanted.push((*base, expected.records[records].to_vec()));
        }
        let mut found = Vec::new();
        for batch in read.unwrap() {
            batch.verify_crc().unwrap();
            let records = batch.records().unwrap();
            let records = records.iter().map(|record| record.unwrap().to_record());
            found.push((batch.base_offset(), records.collect::<Vec<_>>()));
        }
        prop_assert_eq!(found, wanted);
        Ok(())
    }

    fn consume(
        &mut self,
        index: usize,
        seek: Option<Index>,
        max_records: usize,
        max_bytes: usize,
    ) -> Result<(), TestCaseError> {
        let expected = &mut self.expected[index];
        let cursor = &mut self.cursors[index];
        if let Some(seek) = seek {
            let held = expected.end() - expected.start;
            expected.position = expected.start + seek.index(held as usize + 1) as u64;
            cursor.seek(expected.position);
        }
        let (mut wanted, mut bytes) = (Vec::new(), 0);
        while wanted.len() < max_records && bytes < max_bytes && expected.position < expected.end()
        {
            let record = &expected.records[expected.position as usize];
            // The lengths of a header's name and value take a byte each, here.
            bytes += record.size_bytes() + 2 * record.headers.len();
            wanted.push((expected.position, record.clone()));
            expected.position += 1;
        }
        let mut found = Vec::new();
        let count = cursor
            .read(max_records, max_bytes, |record| {
                found.push((record.offset, record.to_record()))
            })
            .unwrap();
        prop_assert_eq!(count, found.len());
        prop_assert_eq!(&found, &wanted);
        prop_assert_eq!(cursor.offset(), expected.position);
        prop_assert_eq!(cursor.lag(), expected.end() - expected.position);
        prop_assert_eq!(cursor.is_at_end(), expected.position == expected.end());
        Ok(())
    }

    /// A time around that of a record.
    fn by_time(&self, index: usize, record: Index, distance_ms: i64) -> Result<(), TestCaseError> {
        let expected = &self.expected[index];
        let around = record.index(expected.records.len().max(1));
        let around_ms = expected
            .records
            .get(around)
            .map_or(START_MS, |record| record.timestamp_ms);
        let time_ms = around_ms.saturating_add_signed(distance_ms);
        let held = expected.start as usize..;
        let after = expected.records[held]
            .iter()
            .position(|record| record.timestamp_ms >= time_ms);
        let wanted = after.map_or(expected.end(), |after| expected.start + after as u64);
        let spec = OffsetSpec::TimeMs(time_ms);
        let found = self
            .fixture
            .log()
            .resolve_offset(self.partition(index), spec);
        prop_assert_eq!(found.unwrap(), wanted);
        Ok(())
    }

    /// As retention does it.
    fn trim(&mut self, index: usize, at: Index) -> Result<(), TestCaseError> {
        let expected = &mut self.expected[index];
        let at = at.index(expected.batches.len() + 1);
        let start = expected
            .batches
            .get(at)
            .map_or(expected.end(), |(base, _)| *base);
        if start <= expected.start {
            return Ok(());
        }
        let before = expected.size_bytes();
        expected.start = start;
        expected.position = expected.position.max(start);
        let freed_bytes = before - expected.size_bytes();
        let mut commit = Commit::new();
        commit.trim_partition(self.partition(index), start, freed_bytes);
        block_on(self.fixture.store().commit(commit)).unwrap();
        self.open_cursors();
        Ok(())
    }

    fn reopen(&mut self, tail_bytes: usize) -> Result<(), TestCaseError> {
        self.cursors.clear();
        self.fixture.set_tail_bytes(tail_bytes);
        self.fixture.reopen();
        self.topic = self.fixture.reopened_topic().0;
        self.open_cursors();
        Ok(())
    }

    fn check_heads(&self) -> Result<(), TestCaseError> {
        for (index, expected) in self.expected.iter().enumerate() {
            let partition = self.partition(index);
            prop_assert_eq!(partition.start_offset(), expected.start);
            prop_assert_eq!(partition.high_watermark(), expected.end());
            prop_assert_eq!(partition.size_bytes(), expected.size_bytes());
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(cases(32))]

    #[test]
    fn reads_are_what_a_simple_model_says(ops in vec(op(), 1..60)) {
        let mut run = Run::new();
        for op in ops {
            run.apply(op)?;
            run.check_heads()?;
        }
        for index in 0..PARTITIONS {
            let bytes = stored_bytes(run.fixture.log(), run.partition(index));
            prop_assert_eq!(bytes, run.expected[index].size_bytes());
        }
    }
}
