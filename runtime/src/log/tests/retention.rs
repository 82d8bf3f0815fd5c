//! Retention by time and by size.

use std::sync::Arc;

use super::support::{
    Fixture, START_MS, append, block_on, consume, encode, record, set, stored_bytes,
};
use crate::log::{Cleanup, Cursor, Error, OffsetSpec, TopicConfig};
use crate::model::{Compression, Record};
use crate::storage::{self, Commit, Partition, layout};

const HOUR_MS: u64 = 3_600_000;

fn keep_for(retention_ms: u64) -> TopicConfig {
    TopicConfig {
        retention_ms: Some(retention_ms),
        ..TopicConfig::default()
    }
}

fn keep_bytes(retention_bytes: u64) -> TopicConfig {
    TopicConfig {
        retention_ms: None,
        retention_bytes: Some(retention_bytes),
        ..TopicConfig::default()
    }
}

/// Appends ten batches of two records, an hour apart; the first record of a batch is older.
fn append_ten(fixture: &Fixture, partition: &Arc<Partition>) {
    for hour in 0..10 {
        let at_ms = START_MS + hour * HOUR_MS;
        append(
            fixture.log(),
            partition,
            &[
                record("a", Some("old"), at_ms - HOUR_MS / 2),
                record("b", Some("new"), at_ms),
            ],
        );
    }
}

fn retain(fixture: &Fixture) -> u64 {
    let topic = fixture.reopened_topic().0;
    block_on(fixture.log().apply_retention(&topic)).unwrap()
}

fn is_before_start(error: &Error, start_offset: u64) -> bool {
    matches!(error, Error::Storage(storage::Error::OffsetOutOfRange { start, .. }) if *start == start_offset)
}

#[test]
fn batches_go_when_their_newest_record_is_too_old() {
    let mut fixture = Fixture::new();
    let topic = fixture.topic(keep_for(3 * HOUR_MS));
    let partition = topic.partition(0).unwrap();
    append_ten(&fixture, partition);
    // At exactly three hours a batch is not older than three hours.
    fixture.clock.advance_ms(3 * HOUR_MS);
    assert_eq!(retain(&fixture), 0);
    fixture.clock.advance_ms(1);
    let size_bytes = partition.size_bytes();
    let freed_bytes = retain(&fixture);
    assert_eq!(freed_bytes, size_bytes / 10);
    assert_eq!(partition.start_offset(), 2);
    fixture.clock.advance_ms(2 * HOUR_MS);
    retain(&fixture);
    assert_eq!(partition.start_offset(), 6);
    assert_eq!(partition.high_watermark(), 20);
    assert_eq!(
        partition.size_bytes(),
        stored_bytes(fixture.log(), partition)
    );
    let offsets = |records: Vec<(u64, Record)>| {
        let offsets = records.into_iter().map(|(offset, _)| offset);
        offsets.collect::<Vec<_>>()
    };
    assert_eq!(
        offsets(consume(fixture.log(), partition, 6)),
        (6..20).collect::<Vec<_>>()
    );

    let (start, size_bytes) = (partition.start_offset(), partition.size_bytes());
    fixture.reopen();
    let (_, partition) = fixture.reopened_topic();
    assert_eq!(
        (partition.start_offset(), partition.size_bytes()),
        (start, size_bytes)
    );
    assert_eq!(partition.high_watermark(), 20);
    assert_eq!(
        offsets(consume(fixture.log(), &partition, 6)),
        (6..20).collect::<Vec<_>>()
    );
}

#[test]
fn the_oldest_batches_go_while_enough_remains() {
    let fixture = Fixture::new();
    let topic = fixture.topic(keep_bytes(0));
    let partition = topic.partition(0).unwrap();
    append_ten(&fixture, partition);
    let batch_bytes = partition.size_bytes() / 10;
    let mut config = keep_bytes(4 * batch_bytes - 1);
    block_on(fixture.log().alter_topic(&topic, set(config))).unwrap();
    // With three batches less than the limit would remain.
    assert_eq!(retain(&fixture), 6 * batch_bytes);
    assert_eq!(partition.start_offset(), 12);
    assert_eq!(partition.size_bytes(), 4 * batch_bytes);
    assert_eq!(retain(&fixture), 0);
    config = keep_bytes(3 * batch_bytes);
    block_on(fixture.log().alter_topic(&topic, set(config))).unwrap();
    assert_eq!(retain(&fixture), batch_bytes);
}

#[test]
fn everything_may_go_and_offsets_go_on() {
    let mut fixture = Fixture::with_tail_bytes(0);
    let topic = fixture.topic(keep_for(HOUR_MS));
    append_ten(&fixture, topic.partition(0).unwrap());
    fixture.clock.advance_ms(100 * HOUR_MS);
    assert!(retain(&fixture) > 0);
    let check = |fixture: &Fixture| {
        let (_, partition) = fixture.reopened_topic();
        assert_eq!(partition.start_offset(), 20);
        assert_eq!(partition.high_watermark(), 20);
        assert_eq!(partition.size_bytes(), 0);
        for spec in [
            OffsetSpec::Earliest,
            OffsetSpec::Latest,
            OffsetSpec::TimeMs(0),
            OffsetSpec::Offset(3),
        ] {
            assert_eq!(
                fixture.log().resolve_offset(&partition, spec).unwrap(),
                20,
                "{spec:?}"
            );
        }
        assert!(consume(fixture.log(), &partition, 20).is_empty());
        assert_eq!(retain(fixture), 0);
    };
    check(&fixture);
    fixture.reopen();
    check(&fixture);
    let (_, partition) = fixture.reopened_topic();
    assert_eq!(
        append(
            fixture.log(),
            &partition,
            &[record("a", None, 1_000_000_000_000_000)]
        ),
        20
    );
    assert_eq!(consume(fixture.log(), &partition, 20).len(), 1);
    // A record from the future keeps what follows it.
    append(fixture.log(), &partition, &[record("a", None, 1)]);
    assert_eq!(retain(&fixture), 0);
}

#[test]
fn a_consumer_that_is_overtaken_is_told_so() {
    let fixture = Fixture::with_tail_bytes(0);
    let topic = fixture.topic(keep_for(HOUR_MS));
    let partition = topic.partition(0).unwrap();
    append_ten(&fixture, partition);
    let mut cursor = Cursor::new(fixture.store().clone(), partition.clone(), 1);
    fixture.clock.advance_ms(4 * HOUR_MS);
    retain(&fixture);
    assert_eq!(partition.start_offset(), 6);
    let error = cursor.read(1, 1, |_| ()).unwrap_err();
    assert!(is_before_start(&error, 6), "{error:?}");
    assert_eq!(cursor.offset(), 1);
    cursor.seek(partition.start_offset());
    assert_eq!(cursor.read(100, 1 << 20, |_| ()).unwrap(), 14);
}

#[test]
fn without_limits_and_in_compacted_topics_nothing_goes() {
    let fixture = Fixture::new();
    let topic = fixture.topic(TopicConfig {
        retention_ms: None,
        ..TopicConfig::default()
    });
    append_ten(&fixture, topic.partition(0).unwrap());
    fixture.clock.advance_ms(1_000 * HOUR_MS);
    assert_eq!(retain(&fixture), 0);
    let compacted = TopicConfig {
        cleanup: Cleanup::Compact,
        ..keep_for(1)
    };
    block_on(fixture.log().alter_topic(&topic, set(compacted))).unwrap();
    assert_eq!(retain(&fixture), 0);
    assert_eq!(topic.partition(0).unwrap().start_offset(), 0);
}

#[tokio::test]
async fn two_at_a_time_free_no_more_than_one() {
    let fixture = Fixture::new();
    let config = keep_for(HOUR_MS);
    let name = "t".parse().unwrap();
    let topic = fixture.log().create_topic(&name, config).await.unwrap();
    let partition = topic.partition(0).unwrap();
    for hour in 0..10 {
        let mut commit = Commit::new();
        let records = [record("a", Some("x"), START_MS + hour * HOUR_MS)];
        commit.append(partition.clone(), encode(Compression::None, &records));
        fixture.store().commit(commit).await.unwrap();
    }
    fixture.clock.advance_ms(5 * HOUR_MS);
    let log = fixture.log();
    let (first, second) = tokio::join!(log.apply_retention(&topic), log.apply_retention(&topic));
    assert!(first.unwrap() > 0);
    assert_eq!(second.unwrap(), 0);
    assert_eq!(partition.size_bytes(), stored_bytes(log, partition));
}

#[test]
fn space_is_given_back() {
    let fixture = Fixture::new();
    let topic = fixture.topic(keep_for(HOUR_MS));
    let partition = topic.partition(0).unwrap();
    let large = "x".repeat(20_000);
    for step in 0..200 {
        let at_ms = START_MS + u64::from(step >= 180) * 10 * HOUR_MS;
        append(
            fixture.log(),
            partition,
            &[record("a", Some(&large), at_ms)],
        );
    }
    let used_bytes = || {
        fixture.store().flush().unwrap();
        let usage = fixture.store().disk_usage().unwrap();
        usage.table_bytes + usage.blob_bytes
    };
    let before_bytes = used_bytes();
    assert!(before_bytes > 4_000_000, "{before_bytes}");
    fixture.clock.advance_ms(5 * HOUR_MS);
    let freed_bytes = retain(&fixture);
    assert!(freed_bytes > 3_600_000);
    // RocksDB deletes files a moment later, when nobody reads an older version of the tree.
    let falls_below = |limit_bytes: u64| {
        let started = std::time::Instant::now();
        while used_bytes() >= limit_bytes {
            let has_time = started.elapsed() < std::time::Duration::from_secs(60);
            assert!(
                has_time,
                "{} of {before_bytes} bytes are left",
                used_bytes()
            );
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    };
    // A file may hold what several memtables held, and stays while some of it does.
    falls_below(before_bytes - freed_bytes * 3 / 4);
    assert_eq!(consume(fixture.log(), partition, 180).len(), 20);
    block_on(fixture.log().delete_topic(topic.name())).unwrap();
    falls_below(50_000);
}

/// Fails when what a checkpoint shares with the store counts, and when what it alone holds on to does not.
#[test]
fn what_only_checkpoints_hold_on_to_is_told() {
    let fixture = Fixture::new();
    let topic = fixture.topic(keep_for(HOUR_MS));
    let large = "x".repeat(20_000);
    for _ in 0..200 {
        let records = [record("a", Some(&large), START_MS)];
        append(fixture.log(), topic.partition(0).unwrap(), &records);
    }
    let store = fixture.store();
    assert_eq!(store.checkpoint_bytes().unwrap(), 0);
    let folder = store.path().join(layout::CHECKPOINTS);
    std::fs::create_dir(&folder).unwrap();
    for name in ["1", "2"] {
        store.checkpoint(&folder.join(name)).unwrap();
    }
    let shared_bytes = store.checkpoint_bytes().unwrap();
    assert!(shared_bytes < 200_000, "{shared_bytes}");
    fixture.clock.advance_ms(5 * HOUR_MS);
    assert!(retain(&fixture) > 3_600_000);
    let started = std::time::Instant::now();
    loop {
        // RocksDB deletes files that it has dropped by and by.
        store.flush().unwrap();
        let held_bytes = store.checkpoint_bytes().unwrap();
        if (3_600_000..5_000_000).contains(&held_bytes) {
            break;
        }
        assert!(started.elapsed().as_secs() < 30, "{held_bytes}");
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
}

#[test]
fn blob_files_that_are_mostly_garbage_are_rewritten_and_others_are_not() {
    const BATCHES: usize = 2_400;
    let fixture = Fixture::new();
    let short = fixture.topic(keep_for(HOUR_MS));
    let long = block_on(
        fixture
            .log()
            .create_topic(&"long".parse().unwrap(), TopicConfig::default()),
    )
    .unwrap();
    // Batches of both topics lie side by side, several in each file: no blob file goes as a whole.
    let value = "v".repeat(6 << 10);
    for at in 0..BATCHES {
        let record = [record("k", Some(&value), START_MS)];
        append(fixture.log(), short.partition(0).unwrap(), &record);
        if at % 4 == 0 {
            append(fixture.log(), long.partition(0).unwrap(), &record);
        }
    }
    fixture.store().flush().unwrap();
    let before = fixture.store().disk_usage().unwrap().blob_bytes;
    block_on(fixture.log().maintain()).unwrap();
    assert_eq!(fixture.store().disk_usage().unwrap().blob_bytes, before);

    fixture.clock.advance_ms(2 * HOUR_MS);
    block_on(fixture.log().maintain()).unwrap();
    // RocksDB deletes the files a moment later, when nobody reads an older version of the tree.
    for _ in 0..500 {
        block_on(fixture.log().maintain()).unwrap();
        if fixture.store().disk_usage().unwrap().blob_bytes < before / 4 {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let after = fixture.store().disk_usage().unwrap().blob_bytes;
    assert!(after < before / 4, "{after} of {before} bytes are left");
    assert_eq!(
        consume(fixture.log(), long.partition(0).unwrap(), 0).len(),
        BATCHES / 4
    );
}
