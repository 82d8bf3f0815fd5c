//! Cursors: waiting, gaps that the cleaner leaves, deleted topics.

use std::sync::Arc;

use super::support::{Fixture, append, block_on, consume, encode, read_to_end, record};
use crate::log::{Cursor, Error, TopicConfig};
use crate::model::Compression;
use crate::storage::{self, Commit, Partition};

fn remove_batch(fixture: &Fixture, partition: &Arc<Partition>, base_offset: u64) {
    let mut commit = Commit::new();
    commit.remove_batch(partition, base_offset);
    block_on(fixture.store().commit(commit)).unwrap();
}

fn offsets(fixture: &Fixture, partition: &Arc<Partition>, from: u64) -> Vec<u64> {
    let records = consume(fixture.log(), partition, from);
    records.iter().map(|(offset, _)| *offset).collect()
}

#[test]
fn batches_that_vanished_are_passed() {
    let fixture = Fixture::with_tail_bytes(0);
    let topic = fixture.topic(TopicConfig::default());
    let partition = topic.partition(0).unwrap();
    for step in 0..5 {
        append(
            fixture.log(),
            partition,
            &[record("a", None, step), record("b", None, step)],
        );
    }
    for base_offset in [0, 4, 8] {
        remove_batch(&fixture, partition, base_offset);
    }
    let left = [2, 3, 6, 7];
    for from in 0..=10 {
        let wanted: Vec<u64> = left
            .iter()
            .copied()
            .filter(|offset| *offset >= from)
            .collect();
        assert_eq!(offsets(&fixture, partition, from), wanted, "from {from}");
    }
    // The end of the log is gone, and it goes on behind it.
    let mut cursor = Cursor::new(fixture.store().clone(), partition.clone(), 7);
    assert_eq!(read_to_end(&mut cursor).len(), 1);
    assert_eq!((cursor.offset(), cursor.lag()), (10, 0));
    assert_eq!(
        append(fixture.log(), partition, &[record("c", None, 9)]),
        10
    );
    assert_eq!(read_to_end(&mut cursor)[0].0, 10);
}

#[test]
fn nothing_is_left_but_the_end() {
    let fixture = Fixture::with_tail_bytes(0);
    let topic = fixture.topic(TopicConfig::default());
    let partition = topic.partition(0).unwrap();
    append(fixture.log(), partition, &[record("a", None, 0)]);
    remove_batch(&fixture, partition, 0);
    let mut cursor = Cursor::new(fixture.store().clone(), partition.clone(), 0);
    assert_eq!(cursor.read(10, 1000, |_| ()).unwrap(), 0);
    assert_eq!(cursor.offset(), 1);
    assert!(cursor.is_at_end());
}

/// The store knows of a trim before the partition in memory does.
#[test]
fn a_trim_during_a_read_is_not_taken_for_a_gap() {
    let fixture = Fixture::with_tail_bytes(0);
    let topic = fixture.topic(TopicConfig::default());
    let partition = topic.partition(0).unwrap();
    for step in 0..3 {
        append(fixture.log(), partition, &[record("a", None, step)]);
    }
    // A reader that has looked at the partition before it was trimmed.
    let before = storage::schema::partition_head::PartitionHead {
        next_offset: 3,
        ..Default::default()
    };
    let before = Partition::new(partition.target().clone(), partition.topic_id(), 0, before);
    assert_eq!(fixture.store().read(&before, 0, 1).unwrap().len(), 1);
    let mut commit = Commit::new();
    commit.trim_partition(partition, 2, 10);
    block_on(fixture.store().commit(commit)).unwrap();
    let error = fixture.store().read(&before, 0, 1).unwrap_err();
    assert!(
        matches!(
            error,
            storage::Error::OffsetOutOfRange {
                offset: 0,
                start: 2,
                end: 3
            }
        ),
        "{error:?}"
    );
    block_on(fixture.log().delete_topic(topic.name())).unwrap();
    let error = fixture.store().read(&before, 0, 1).unwrap_err();
    assert!(
        matches!(error, storage::Error::PartitionDeleted { .. }),
        "{error:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_waiting_reader_is_woken_by_an_append() {
    let fixture = Fixture::new();
    let config = TopicConfig::default();
    let name = "t".parse().unwrap();
    let topic = fixture.log().create_topic(&name, config).await.unwrap();
    let partition = topic.partition(0).unwrap();
    let mut cursor = Cursor::new(fixture.store().clone(), partition.clone(), 0);
    let reader = tokio::spawn(async move {
        let mut seen = Vec::new();
        while seen.len() < 200 {
            cursor.wait().await;
            cursor
                .read(100, 1 << 20, |record| seen.push(record.offset))
                .unwrap();
        }
        seen
    });
    for _ in 0..200 {
        let mut commit = Commit::new();
        commit.append(
            partition.clone(),
            encode(Compression::None, &[record("a", None, 0)]),
        );
        fixture.store().commit(commit).await.unwrap();
        tokio::task::yield_now().await;
    }
    assert_eq!(reader.await.unwrap(), (0..200).collect::<Vec<u64>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_waiting_reader_is_told_that_its_topic_is_deleted() {
    let fixture = Fixture::new();
    let config = TopicConfig::default();
    let name = "t".parse().unwrap();
    let topic = fixture.log().create_topic(&name, config).await.unwrap();
    let partition = topic.partition(0).unwrap().clone();
    let mut cursor = Cursor::new(fixture.store().clone(), partition, 0);
    let reader = tokio::spawn(async move {
        cursor.wait().await;
        // Not the end, or a reader would wait and come back for ever.
        assert!(!cursor.is_at_end());
        cursor.read(1, 1, |_| ()).unwrap_err()
    });
    fixture.log().delete_topic(topic.name()).await.unwrap();
    let error = reader.await.unwrap();
    assert!(
        matches!(
            error,
            Error::Storage(storage::Error::PartitionDeleted { .. })
        ),
        "{error:?}"
    );
}
