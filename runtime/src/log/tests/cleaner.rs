//! The cleaner, case by case.

use std::sync::Arc;

use super::support::{
    Fixture, START_MS, append, block_on, consume, encode, record, stored_batches, stored_bytes,
    stored_records,
};
use crate::log::{CleanReport, Cleanup, CompressionName, TopicConfig};
use crate::model::{Compression, Record};
use crate::storage::{Commit, Partition};

const DELAY_MS: u64 = 1000;

fn compacted() -> TopicConfig {
    TopicConfig {
        cleanup: Cleanup::Compact,
        tombstone_delay_ms: DELAY_MS,
        ..TopicConfig::default()
    }
}

fn clean(fixture: &Fixture) -> CleanReport {
    let (topic, _) = fixture.reopened_topic();
    block_on(fixture.log().clean(&topic)).unwrap()
}

/// One run takes in a limited number of keys, few in tests. Returns the last run's report.
fn clean_to_the_end(fixture: &Fixture) -> CleanReport {
    let (_, partition) = fixture.reopened_topic();
    loop {
        let report = clean(fixture);
        if partition.clean_mark().offset == partition.high_watermark() {
            return report;
        }
    }
}

fn clean_if_dirty(fixture: &Fixture) -> CleanReport {
    let (topic, _) = fixture.reopened_topic();
    block_on(fixture.log().clean_if_dirty(&topic)).unwrap()
}

/// Offset, key and value of what is stored; values as text, `-` for a tombstone.
fn stored(fixture: &Fixture) -> Vec<(u64, String)> {
    let (_, partition) = fixture.reopened_topic();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let show = |record: &Record| {
        let key = record.key.as_deref().map_or("~".to_owned(), text);
        let value = record.value.as_deref().map_or("-".to_owned(), text);
        format!("{key}={value}")
    };
    let records = stored_records(fixture.log(), &partition);
    records
        .iter()
        .map(|(offset, record)| (*offset, show(record)))
        .collect()
}

fn expect(fixture: &Fixture, wanted: &[(u64, &str)]) {
    let wanted: Vec<_> = wanted
        .iter()
        .map(|(offset, text)| (*offset, (*text).to_owned()))
        .collect();
    assert_eq!(stored(fixture), wanted);
    let (_, partition) = fixture.reopened_topic();
    assert_eq!(
        partition.size_bytes(),
        stored_bytes(fixture.log(), &partition)
    );
}

fn append_each(fixture: &Fixture, partition: &Arc<Partition>, records: &[(&str, Option<&str>)]) {
    for (key, value) in records {
        append(fixture.log(), partition, &[record(key, *value, START_MS)]);
    }
}

#[test]
fn the_newest_record_of_each_key_stays_at_its_offset() {
    let mut fixture = Fixture::new();
    let topic = fixture.topic(compacted());
    let partition = topic.partition(0).unwrap();
    append_each(
        &fixture,
        partition,
        &[("a", Some("1")), ("b", Some("1")), ("a", Some("2"))],
    );
    let keyless = Record {
        key: None,
        ..record("", Some("x"), START_MS)
    };
    append(fixture.log(), partition, &[keyless.clone(), keyless]);
    append_each(&fixture, partition, &[("c", Some("1")), ("b", Some("2"))]);
    let report = clean(&fixture);
    assert_eq!((report.records_removed, report.records_kept), (2, 5));
    let left = [(2, "a=2"), (3, "~=x"), (4, "~=x"), (5, "c=1"), (6, "b=2")];
    expect(&fixture, &left);
    assert_eq!(partition.clean_mark().offset, 7);
    assert_eq!(partition.clean_mark().bytes, partition.size_bytes());

    // Once more, and after reopening, with newer values.
    append_each(&fixture, partition, &[("c", Some("2"))]);
    fixture.reopen();
    assert_eq!(fixture.reopened_topic().1.clean_mark().offset, 7);
    clean(&fixture);
    expect(
        &fixture,
        &[(2, "a=2"), (3, "~=x"), (4, "~=x"), (6, "b=2"), (7, "c=2")],
    );
    let (_, partition) = fixture.reopened_topic();
    assert_eq!(partition.start_offset(), 0);
    assert_eq!(partition.high_watermark(), 8);
    assert_eq!(consume(fixture.log(), &partition, 0).len(), 5);
}

/// The tail in memory has the batches as they were appended; the cleaner must not take them for
/// what is stored.
#[test]
fn a_second_run_reads_what_the_first_one_wrote() {
    for tail_bytes in [0, 1 << 20] {
        let fixture = Fixture::with_tail_bytes(tail_bytes);
        let topic = fixture.topic(compacted());
        let partition = topic.partition(0).unwrap();
        for round in 0..4 {
            let large = "x".repeat(20_000);
            for key in ["a", "b", "c", "d", "e"] {
                append_each(&fixture, partition, &[(key, Some(&large))]);
            }
            clean(&fixture);
            let stored = stored(&fixture);
            assert_eq!(stored.len(), 5, "round {round}");
            assert_eq!(
                partition.size_bytes(),
                stored_bytes(fixture.log(), partition)
            );
        }
    }
}

#[test]
fn a_tombstone_stays_for_its_delay() {
    for tail_bytes in [0, 1 << 20] {
        let mut fixture = Fixture::with_tail_bytes(tail_bytes);
        let topic = fixture.topic(compacted());
        let partition = topic.partition(0).unwrap();
        append_each(
            &fixture,
            partition,
            &[("a", Some("1")), ("b", Some("1")), ("a", None)],
        );
        // Its age does not count before the cleaner has passed it.
        fixture.clock.advance_ms(10 * DELAY_MS);
        clean(&fixture);
        let left = [(1, "b=1"), (2, "a=-")];
        expect(&fixture, &left);
        fixture.clock.advance_ms(DELAY_MS - 1);
        clean(&fixture);
        expect(&fixture, &left);
        assert_eq!(clean_if_dirty(&fixture), CleanReport::default());
        fixture.reopen();
        fixture.clock.advance_ms(1);
        // It alone is reason enough for a run.
        assert_eq!(clean_if_dirty(&fixture).records_removed, 1);
        expect(&fixture, &[(1, "b=1")]);
        let (_, partition) = fixture.reopened_topic();
        assert_eq!(partition.clean_mark().tombstones_due_ms, 0);
        assert_eq!(partition.high_watermark(), 3);
        assert_eq!(consume(fixture.log(), &partition, 2), []);
        append_each(&fixture, &partition, &[("a", Some("3"))]);
        clean(&fixture);
        expect(&fixture, &[(1, "b=1"), (3, "a=3")]);
    }
}

#[test]
fn tombstones_of_two_runs_have_their_own_delays() {
    let fixture = Fixture::new();
    let topic = fixture.topic(compacted());
    let partition = topic.partition(0).unwrap();
    append_each(&fixture, partition, &[("a", None), ("b", Some("1"))]);
    clean(&fixture);
    fixture.clock.advance_ms(DELAY_MS / 2);
    append_each(&fixture, partition, &[("c", None), ("d", Some("1"))]);
    clean(&fixture);
    expect(&fixture, &[(0, "a=-"), (1, "b=1"), (2, "c=-"), (3, "d=1")]);
    fixture.clock.advance_ms(DELAY_MS / 2);
    clean_if_dirty(&fixture);
    expect(&fixture, &[(1, "b=1"), (2, "c=-"), (3, "d=1")]);
    fixture.clock.advance_ms(DELAY_MS / 2);
    clean_if_dirty(&fixture);
    expect(&fixture, &[(1, "b=1"), (3, "d=1")]);
}

#[test]
fn everything_may_go() {
    let mut fixture = Fixture::with_tail_bytes(0);
    let topic = fixture.topic(compacted());
    append_each(
        &fixture,
        topic.partition(0).unwrap(),
        &[("a", Some("1")), ("a", None)],
    );
    clean(&fixture);
    fixture.clock.advance_ms(DELAY_MS);
    clean(&fixture);
    expect(&fixture, &[]);
    fixture.reopen();
    let (_, partition) = fixture.reopened_topic();
    assert_eq!((partition.size_bytes(), partition.high_watermark()), (0, 2));
    assert_eq!(consume(fixture.log(), &partition, 0), []);
    append_each(&fixture, &partition, &[("a", Some("2"))]);
    assert_eq!(consume(fixture.log(), &partition, 0)[0].0, 2);
}

#[test]
fn small_batches_are_merged() {
    let fixture = Fixture::with_tail_bytes(0);
    let topic = fixture.topic(compacted());
    let partition = topic.partition(0).unwrap();
    for number in 0..300 {
        // Every third has a tombstone, which must not keep them apart.
        let value = (number % 3 > 0).then_some("a value of some length, to make it a bit larger");
        append_each(&fixture, partition, &[(&format!("{number}"), value)]);
    }
    let before = partition.size_bytes();
    let report = clean_to_the_end(&fixture);
    assert_eq!((report.records_removed, report.records_kept), (0, 300));
    let batches = stored_batches(fixture.log(), partition);
    assert!(batches.len() <= 4, "{}", batches.len());
    let bytes = stored_bytes(fixture.log(), partition);
    assert_eq!(partition.size_bytes(), bytes);
    assert!(bytes < before / 2, "{before} to {bytes}");
    assert_eq!(stored(&fixture).len(), 300);
    for from in [0, 1, 150, 299] {
        assert_eq!(
            consume(fixture.log(), partition, from).len(),
            300 - from as usize
        );
    }
}

#[test]
fn large_clean_batches_are_left_alone() {
    let fixture = Fixture::new();
    let topic = fixture.topic(compacted());
    let partition = topic.partition(0).unwrap();
    let large = "x".repeat(50_000);
    for number in 0..5 {
        append_each(&fixture, partition, &[(&format!("{number}"), Some(&large))]);
    }
    assert_eq!(clean(&fixture).freed_bytes, 0);
    let before = stored_batches(fixture.log(), partition);
    append_each(&fixture, partition, &[("2", Some("small"))]);
    clean(&fixture);
    let after = stored_batches(fixture.log(), partition);
    let bases = after.iter().map(|batch| batch.base_offset());
    assert_eq!(bases.collect::<Vec<_>>(), [0, 1, 3, 4, 5]);
    assert_eq!(before[0].as_bytes(), after[0].as_bytes());
}

#[test]
fn compression_stays_unless_the_topic_says_otherwise() {
    let topics = [None, Some(Compression::Zstd), Some(Compression::None)];
    for topic_compression in topics {
        let fixture = Fixture::new();
        let topic = fixture.topic(TopicConfig {
            compression: topic_compression.map(CompressionName),
            ..compacted()
        });
        let partition = topic.partition(0).unwrap();
        for (round, compression) in Compression::ALL.into_iter().enumerate() {
            let records: Vec<_> = (0..200)
                .map(|number| {
                    record(
                        &format!("{round}-{}", number % 150),
                        Some(&"x".repeat(80)),
                        number,
                    )
                })
                .collect();
            let mut commit = Commit::new();
            commit.append(partition.clone(), encode(compression, &records));
            block_on(fixture.store().commit(commit)).unwrap();
        }
        clean_to_the_end(&fixture);
        let batches = stored_batches(fixture.log(), partition);
        let stored: Vec<_> = batches.iter().map(|batch| batch.compression()).collect();
        match topic_compression {
            None => assert_eq!(stored, Compression::ALL),
            Some(compression) => {
                assert!(
                    stored.iter().all(|stored| *stored == compression),
                    "{stored:?}"
                )
            }
        }
        assert_eq!(stored_records(fixture.log(), partition).len(), 5 * 150);
        assert_eq!(
            partition.size_bytes(),
            stored_bytes(fixture.log(), partition)
        );
    }
}

#[test]
fn a_run_waits_until_enough_is_dirty() {
    let fixture = Fixture::new();
    let topic = fixture.topic(TopicConfig {
        min_cleanable_dirty_ratio: 0.5,
        ..compacted()
    });
    let partition = topic.partition(0).unwrap();
    let value = "x".repeat(1000);
    for number in 0..8 {
        append_each(&fixture, partition, &[(&format!("{number}"), Some(&value))]);
    }
    assert_eq!(clean_if_dirty(&fixture).records_kept, 8);
    for number in 0..7 {
        append_each(&fixture, partition, &[(&format!("{number}"), Some(&value))]);
        assert_eq!(clean_if_dirty(&fixture), CleanReport::default(), "{number}");
    }
    append_each(
        &fixture,
        partition,
        &[("7", Some(&value)), ("8", Some(&value))],
    );
    assert_eq!(clean_if_dirty(&fixture).records_removed, 8);
}

#[test]
fn topics_with_retention_are_not_cleaned() {
    let fixture = Fixture::new();
    let topic = fixture.topic(TopicConfig::default());
    append_each(
        &fixture,
        topic.partition(0).unwrap(),
        &[("a", Some("1")), ("a", Some("2"))],
    );
    assert_eq!(clean(&fixture), CleanReport::default());
    assert_eq!(clean_if_dirty(&fixture), CleanReport::default());
    assert_eq!(stored(&fixture).len(), 2);
}

#[test]
fn maintenance_goes_over_all_topics() {
    let fixture = Fixture::new();
    let compact = fixture.topic(compacted());
    let partition = compact.partition(0).unwrap();
    append_each(&fixture, partition, &[("a", Some("1")), ("a", Some("2"))]);
    let config = TopicConfig {
        retention_ms: Some(10),
        ..TopicConfig::default()
    };
    let name = "u".parse().unwrap();
    let retained = block_on(fixture.log().create_topic(&name, config)).unwrap();
    let partition = retained.partition(0).unwrap();
    append_each(&fixture, partition, &[("a", Some("1"))]);
    fixture.clock.advance_ms(11);
    block_on(fixture.log().maintain()).unwrap();
    assert_eq!(stored(&fixture).len(), 1);
    assert_eq!(partition.start_offset(), 1);
}
