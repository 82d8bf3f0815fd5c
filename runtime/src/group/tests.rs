//! Tests of consumer groups.

use std::sync::Arc;

use super::{Error, Groups, Lag};
use crate::model::{BatchBuilder, Compression, GroupName};
use crate::storage::schema::group_offset::CommittedOffset;
use crate::storage::tests::support::{START_MS, TestStore, block_on, encode, record};
use crate::storage::{self, Commit, Partition};

fn group(name: &str) -> GroupName {
    name.parse().unwrap()
}

fn groups(directory: &TestStore) -> Groups {
    Groups::new(directory.store().clone())
}

fn two_partitions(directory: &TestStore) -> [Arc<Partition>; 2] {
    [0, 1].map(|index| directory.partition(1, index))
}

/// Five records, in batches of two, ten ms apart.
fn append_five(directory: &TestStore, partition: &Arc<Partition>) {
    let records: Vec<_> = (0..5)
        .map(|number| record("a", Some("x"), START_MS + 10 * number))
        .collect();
    for records in records.chunks(2) {
        directory.append(partition, records);
    }
}

fn commit(directory: &TestStore, name: &str, offsets: &[(&Partition, u64)]) {
    block_on(groups(directory).commit(&group(name), offsets.iter().copied())).unwrap();
}

fn committed(directory: &TestStore, name: &str, partition: &Partition) -> Option<u64> {
    let committed = groups(directory).committed(&group(name), partition);
    committed.unwrap().map(|committed| committed.offset)
}

fn lag(directory: &TestStore, partition: &Partition, offset: u64) -> Lag {
    let topic = "t".parse().unwrap();
    groups(directory).lag(&topic, partition, offset).unwrap()
}

#[test]
fn committed_offsets_are_kept() {
    let mut directory = TestStore::new();
    let partitions = two_partitions(&directory);
    commit(&directory, "a", &[(&partitions[0], 3), (&partitions[1], 7)]);
    directory.clock.advance_ms(5);
    commit(&directory, "a", &[(&partitions[0], 4)]);
    // A group whose name starts like another's is another group.
    commit(&directory, "a.b", &[(&partitions[0], 9)]);
    let check = |directory: &TestStore| {
        let groups = groups(directory);
        let positions = groups.positions(&group("a")).unwrap();
        let positions: Vec<_> = positions
            .iter()
            .map(|position| {
                let CommittedOffset {
                    offset,
                    committed_at_ms,
                } = position.committed;
                (
                    position.topic_id,
                    position.partition,
                    offset,
                    committed_at_ms,
                )
            })
            .collect();
        assert_eq!(positions, [(1, 0, 4, START_MS + 5), (1, 1, 7, START_MS)]);
        assert_eq!(committed(directory, "a", &partitions[1]), Some(7));
        assert_eq!(committed(directory, "a.b", &partitions[0]), Some(9));
        assert_eq!(committed(directory, "b", &partitions[0]), None);
        let listed = groups.list().unwrap();
        let listed: Vec<_> = listed
            .iter()
            .map(|(name, positions)| (name.as_str(), positions.len()))
            .collect();
        assert_eq!(listed, [("a", 2), ("a.b", 1)]);
    };
    check(&directory);
    directory.reopen();
    check(&directory);
    // A reset may go anywhere, also back.
    commit(&directory, "a", &[(&partitions[0], 0)]);
    assert_eq!(committed(&directory, "a", &partitions[0]), Some(0));
}

#[test]
fn a_deleted_group_is_unknown() {
    let directory = TestStore::new();
    let [partition, _] = two_partitions(&directory);
    commit(&directory, "a", &[(&partition, 3)]);
    commit(&directory, "b", &[(&partition, 3)]);
    block_on(groups(&directory).delete(&group("a"))).unwrap();
    for again in [
        block_on(groups(&directory).delete(&group("a"))),
        groups(&directory).positions(&group("a")).map(|_| ()),
    ] {
        assert_eq!(
            again.unwrap_err().to_string(),
            "there is no consumer group `a`: no offset has been committed under this name"
        );
    }
    assert_eq!(committed(&directory, "a", &partition), None);
    assert_eq!(groups(&directory).list().unwrap().len(), 1);
}

#[test]
fn lag_is_what_has_not_been_read_and_its_age() {
    for tail_bytes in [0, 1 << 20] {
        let mut directory = TestStore::new();
        directory.options.tail_bytes = tail_bytes;
        directory.reopen();
        let [partition, _] = two_partitions(&directory);
        assert_eq!(lag(&directory, &partition, 0).lag_records, 0);
        append_five(&directory, &partition);
        directory.clock.advance_ms(1000);
        let wanted = |committed_offset, lag_records, lag_ms| Lag {
            topic: "t".parse().unwrap(),
            partition: 0,
            committed_offset,
            high_watermark: 5,
            lag_records,
            lag_ms,
        };
        assert_eq!(lag(&directory, &partition, 0), wanted(0, 5, 1000));
        // Of the record itself, not of its batch.
        assert_eq!(lag(&directory, &partition, 3), wanted(3, 2, 970));
        assert_eq!(lag(&directory, &partition, 5), wanted(5, 0, 0));
        assert_eq!(lag(&directory, &partition, 9), wanted(9, 0, 0));
        let mut trim = Commit::new();
        trim.trim_partition(&partition, 2, 0);
        directory.commit(trim);
        // What retention has deleted cannot be read any more.
        assert_eq!(lag(&directory, &partition, 0), wanted(0, 3, 980));
    }
}

/// The cleaner keeps the time at which tombstones may go where a batch has its first timestamp.
#[test]
fn the_age_of_tombstones_is_theirs() {
    let directory = TestStore::new();
    let [partition, _] = two_partitions(&directory);
    let mut builder = BatchBuilder::new(Compression::None);
    builder.set_delete_horizon_ms(Some(START_MS + 1_000_000));
    builder.push_record(&record("a", None, START_MS)).unwrap();
    let mut cleaned = Commit::new();
    cleaned.append(Arc::clone(&partition), builder.build().unwrap().unwrap());
    directory.commit(cleaned);
    directory.clock.advance_ms(50);
    assert_eq!(lag(&directory, &partition, 0).lag_ms, 50);
}

#[test]
fn offsets_in_a_deleted_topic_are_refused() {
    let directory = TestStore::new();
    let [kept, deleted] = two_partitions(&directory);
    let mut delete = Commit::new();
    delete.delete_partition(&deleted);
    directory.commit(delete);
    let offsets = [(&*kept, 1), (&*deleted, 1)];
    let error = block_on(groups(&directory).commit(&group("a"), offsets)).unwrap_err();
    assert!(
        matches!(
            error,
            Error::Storage(storage::Error::PartitionDeleted { .. })
        ),
        "{error}"
    );
    assert!(groups(&directory).list().unwrap().is_empty());
}

/// As a checkpoint does it: outputs and progress together.
#[test]
fn an_offset_is_committed_with_appends_or_not_at_all() {
    let directory = TestStore::new();
    let [input, output] = two_partitions(&directory);
    let deleted = directory.partition(2, 0);
    let mut delete = Commit::new();
    delete.delete_partition(&deleted);
    directory.commit(delete);
    let checkpoint = |second_output: &Arc<Partition>| {
        let mut commit = Commit::new();
        let progress = CommittedOffset {
            offset: 1,
            committed_at_ms: 0,
        };
        commit.commit_offset("a", input.topic_id(), 0, progress);
        for partition in [&output, second_output] {
            let records = [record("a", None, 0)];
            commit.append(Arc::clone(partition), encode(Compression::None, &records));
        }
        block_on(directory.store().commit(commit))
    };
    assert!(checkpoint(&deleted).is_err());
    assert_eq!(committed(&directory, "a", &input), None);
    assert_eq!(output.high_watermark(), 0);
    checkpoint(&output).unwrap();
    assert_eq!(committed(&directory, "a", &input), Some(1));
    assert_eq!(output.high_watermark(), 2);
}
