//! What a lease and its acknowledgement cost: no more with many messages than with few, whether they wait or have
//! passed. Nothing is timed: what is visited, read and written is counted.

use super::support::*;
use crate::clock::Clock;
use crate::model::{Compression, Record};
use crate::queue::{EXPIRES_AT, GROUP, LeaseRequest, NOT_BEFORE, PRIORITY, Queue};
use crate::storage::tests::support::{EngineReads, encode, engine_reads};
use crate::storage::{Commit, Durability, StoreOptions};

const FEW: u64 = 10_000;
const MANY: u64 = 1_000_000;
/// As many with attributes: each takes more than a bit, and its time.
const MANY_WITH_ATTRIBUTES: u64 = 100_000;
/// Messages that pass through.
const PASSED: u64 = 100_000;

const BATCH_MESSAGES: u64 = 100;
/// Batches in a commit.
const COMMIT_BATCHES: u64 = 100;
/// Leases whose cost is counted: how many, of how many messages.
const LEASES: [(usize, usize); 2] = [(4, 100), (100, 1)];

/// What the messages of a queue are.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Plain,
    /// With a group, one of two priorities and a time to live.
    WithAttributes,
    /// With one of ten priorities.
    Prioritized,
    /// Only one in ten is ready.
    Delayed,
}

/// What was done.
#[derive(Clone, Copy, Debug)]
struct Work {
    /// Of the index.
    visits: u64,
    reads: EngineReads,
    written_bytes: u64,
}

/// A data directory whose messages are read from RocksDB, and not from memory.
fn fixture() -> Fixture {
    Fixture::of(TestStore::with(StoreOptions {
        tail_bytes: 0,
        // Without it RocksDB does not count what it reads.
        statistics: true,
        clock: Clock::manual(START_MS),
        durability: Durability::Os,
        ..StoreOptions::default()
    }))
}

fn record(kind: Kind, number: u64) -> Record {
    let later = (START_MS + 3_600_000).to_string();
    let group = (number % 50).to_string();
    let [of_two, of_ten] = [4 + number % 2, number % 10].map(|priority| priority.to_string());
    let headers: &[(&str, &str)] = match kind {
        Kind::Plain => &[],
        Kind::WithAttributes => &[(GROUP, &group), (PRIORITY, &of_two), (EXPIRES_AT, &later)],
        Kind::Prioritized => &[(PRIORITY, &of_ten)],
        Kind::Delayed if !number.is_multiple_of(10) => &[(NOT_BEFORE, &later)],
        Kind::Delayed => &[],
    };
    message(&format!("{number:032}"), headers)
}

/// Appends messages that are encoded once and for all, and has the index take them in.
fn fill(fixture: &Fixture, queue: &Queue, kind: Kind, count: u64) {
    let records: Vec<_> = (0..BATCH_MESSAGES)
        .map(|number| record(kind, number))
        .collect();
    for _ in 0..count / BATCH_MESSAGES / COMMIT_BATCHES {
        let mut commit = Commit::new();
        for _ in 0..COMMIT_BATCHES {
            let batch = encode(Compression::None, &records);
            commit.append(queue.partition().clone(), batch);
        }
        fixture.directory.commit(commit);
        assert!(queue.has_ready().unwrap());
    }
}

/// Leases and acknowledges so many messages at a time, so often.
fn lease_and_acknowledge(queue: &Queue, times: usize, max_messages: usize) {
    let request = LeaseRequest {
        max_messages,
        max_bytes: usize::MAX,
        ..LeaseRequest::default()
    };
    for _ in 0..times {
        let leased = block_on(queue.lease(&request)).unwrap();
        assert_eq!(leased.len(), max_messages);
        acknowledge(queue, &leased);
    }
}

/// What the leases cost now.
fn work(fixture: &Fixture, queue: &Queue) -> Work {
    let written = || {
        let statistics = fixture.directory.store().commit_statistics();
        statistics.write_bytes.sum
    };
    let visits = || queue.state.index.lock().visit_count();
    let (visits_before, written_before) = (visits(), written());
    let reads = engine_reads(|| {
        for (times, max_messages) in LEASES {
            lease_and_acknowledge(queue, times, max_messages);
        }
    });
    Work {
        visits: visits() - visits_before,
        reads,
        written_bytes: written() - written_before,
    }
}

/// What is read ahead once more or less.
const SPARE_BYTES: u64 = 256 << 10;

/// Asserts that it is at most 1.3 times as much.
#[track_caller]
fn assert_as_little(what: &str, few: Work, many: Work) {
    assert!(few.visits > 0 && few.reads.bytes > 0 && few.written_bytes > 0);
    let is_as_little = |few: u64, many: u64, spare: u64| many <= few + few * 3 / 10 + spare;
    assert!(
        is_as_little(few.visits, many.visits, 0)
            && is_as_little(few.written_bytes, many.written_bytes, 0)
            && is_as_little(few.reads.bytes, many.reads.bytes, SPARE_BYTES)
            && is_as_little(few.reads.skipped_entries, many.reads.skipped_entries, 50),
        "{what}: {many:?}, with few messages {few:?}"
    );
}

/// Fails when a lease, or an acknowledgement, goes through what waits.
#[test]
fn a_lease_costs_the_same_however_many_messages_wait() {
    for (kind, many) in [
        (Kind::Plain, MANY),
        (Kind::WithAttributes, MANY_WITH_ATTRIBUTES),
        (Kind::Delayed, MANY_WITH_ATTRIBUTES),
    ] {
        let [few, many] = [FEW, many].map(|count| {
            let fixture = fixture();
            let queue = fixture.queue();
            fill(&fixture, &queue, kind, count);
            work(&fixture, &queue)
        });
        assert_as_little(&format!("{kind:?}"), few, many);
    }
}

/// What leases cost in a fresh queue, and when many messages have passed through it.
fn before_and_after(kind: Kind, stays: bool) -> (Work, Work) {
    let fixture = fixture();
    let queue = fixture.queue();
    if stays {
        let later = (START_MS + 3_600_000).to_string();
        enqueue_with(&queue, "stays", &[(NOT_BEFORE, &later)]).unwrap();
    }
    fill(&fixture, &queue, kind, FEW);
    let before = work(&fixture, &queue);
    for _ in 0..PASSED / FEW {
        fill(&fixture, &queue, kind, FEW);
        lease_and_acknowledge(&queue, 1, FEW as usize);
    }
    (before, work(&fixture, &queue))
}

/// Fails when a lease, or an acknowledgement, goes through what is done with.
#[test]
fn a_lease_costs_the_same_however_many_messages_have_passed() {
    for kind in [Kind::Plain, Kind::WithAttributes] {
        // One that stays before all others keeps them in the store, and the index from forgetting them.
        for stays in [false, true] {
            let (before, after) = before_and_after(kind, stays);
            assert_as_little(&format!("{kind:?}, stays: {stays}"), before, after);
        }
    }
}

/// Fails when batches that were read long ago keep those out of memory that are read now.
#[test]
fn messages_of_a_low_priority_are_read_as_cheaply_as_those_before_them() {
    let (before, after) = before_and_after(Kind::Prioritized, false);
    let (before, after) = (before.reads.bytes, after.reads.bytes);
    assert!(
        after <= before + before * 3 / 10 + SPARE_BYTES,
        "{after} bytes, before {before}"
    );
}
