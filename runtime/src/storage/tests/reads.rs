//! Reads: the tail in memory, its budget, ranges, the lock of the directory.

use std::sync::Arc;

use super::support::{TestStore, block_on, encode, record};
use crate::model::{Compression, RecordBatch};
use crate::storage::tail::Tail;
use crate::storage::{Commit, Error, Partition, Store, StoreOptions};

fn batch(base_offset: u64, records: usize) -> RecordBatch {
    let records = vec![record("k", Some("value"), 0); records];
    encode(Compression::None, &records).assign(base_offset)
}

fn bases(batches: &[RecordBatch]) -> Vec<u64> {
    batches.iter().map(RecordBatch::base_offset).collect()
}

#[test]
fn a_tail_is_read_from_any_offset_that_it_holds() {
    let mut tail = Tail::default();
    for base_offset in [10, 12, 14] {
        tail.push(batch(base_offset, 2));
    }
    let len_bytes = batch(10, 2).len_bytes();
    let read = |tail: &Tail, offset, end, max_bytes| {
        let mut batches = Vec::new();
        let is_held = tail.read(offset, end, max_bytes, &mut batches);
        is_held.then(|| bases(&batches))
    };
    assert_eq!(read(&tail, 9, 16, 1000), None);
    assert_eq!(read(&tail, 10, 16, 1000), Some(vec![10, 12, 14]));
    assert_eq!(read(&tail, 11, 16, 1000), Some(vec![10, 12, 14]));
    assert_eq!(read(&tail, 12, 16, 0), Some(vec![12]));
    assert_eq!(read(&tail, 10, 16, 2 * len_bytes - 1), Some(vec![10]));
    assert_eq!(read(&tail, 10, 16, 2 * len_bytes), Some(vec![10, 12]));
    // What is not published yet is not read.
    assert_eq!(read(&tail, 10, 14, 1000), Some(vec![10, 12]));
    tail.evict_oldest();
    assert_eq!(read(&tail, 11, 16, 1000), None);
    assert_eq!(read(&tail, 13, 16, 1000), Some(vec![12, 14]));
    tail.clear();
    assert_eq!(read(&tail, 15, 16, 1000), None);
    tail.evict_oldest();
}

#[test]
fn tails_share_one_budget_and_the_oldest_batch_goes_first() {
    let batch_bytes = batch(0, 1).len_bytes();
    let mut directory = TestStore::new();
    directory.options.tail_bytes = 4 * batch_bytes;
    directory.reopen();
    let partitions: Vec<_> = (0..2).map(|index| directory.partition(1, index)).collect();
    let append = |index: usize| {
        let mut commit = Commit::new();
        let records = [record("k", Some("value"), 0)];
        commit.append(
            Arc::clone(&partitions[index]),
            encode(Compression::None, &records),
        );
        directory.commit(commit);
    };
    let held = |partition: &Partition| {
        let end = partition.high_watermark();
        let from = (0..end).find(|offset| {
            let mut batches = Vec::new();
            partition.read_tail(*offset, end, 0, &mut batches)
        });
        from.map_or(0, |from| end - from)
    };
    for index in [0, 1, 1, 0] {
        append(index);
    }
    assert_eq!([held(&partitions[0]), held(&partitions[1])], [2, 2]);
    append(1);
    assert_eq!([held(&partitions[0]), held(&partitions[1])], [1, 3]);
    append(1);
    append(1);
    assert_eq!([held(&partitions[0]), held(&partitions[1])], [1, 3]);
    append(1);
    assert_eq!([held(&partitions[0]), held(&partitions[1])], [0, 4]);
    // A batch larger than the budget leaves nothing.
    let large = "x".repeat(5 * batch_bytes);
    directory.append(&partitions[0], &[record("k", Some(&large), 0)]);
    assert_eq!([held(&partitions[0]), held(&partitions[1])], [0, 0]);
    for partition in &partitions {
        let read = directory.store().read(partition, 0, 1 << 20).unwrap();
        let next = read.last().unwrap().next_offset();
        assert_eq!(next, partition.high_watermark());
    }
}

#[test]
fn offsets_outside_of_a_partition_are_errors() {
    let directory = TestStore::new();
    let partition = directory.partition(1, 0);
    assert!(directory.store().read(&partition, 0, 1).unwrap().is_empty());
    for _ in 0..3 {
        directory.append(&partition, &[record("k", None, 0)]);
    }
    let mut commit = Commit::new();
    commit.trim_partition(&partition, 1, 0);
    directory.commit(commit);
    for offset in [0, 4, u64::MAX] {
        let error = directory.store().read(&partition, offset, 1).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!(
                "offset {offset} is out of range: the partition holds offsets 1 up to, not including, 3"
            )
        );
    }
    assert!(directory.store().read(&partition, 3, 1).unwrap().is_empty());
    assert_eq!(directory.store().read(&partition, 2, 1).unwrap().len(), 1);
}

/// Readers race with the commit thread: whatever is published can be read, from the tail or not.
#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn readers_at_the_end_never_miss_a_batch() {
    for tail_bytes in [0, 1000, 1 << 20] {
        let mut directory = TestStore::new();
        directory.options.tail_bytes = tail_bytes;
        directory.reopen();
        let partition = directory.partition(1, 0);
        let readers: Vec<_> = (0..2)
            .map(|_| {
                let (store, partition) = (directory.store().clone(), Arc::clone(&partition));
                tokio::spawn(async move {
                    let mut next = 0;
                    while next < 500 {
                        partition.wait_beyond(next).await;
                        // The next read is at what the batches say, not at the high watermark.
                        for batch in store.read(&partition, next, 1 << 20).unwrap() {
                            assert_eq!(batch.base_offset(), next);
                            next = batch.next_offset();
                        }
                    }
                })
            })
            .collect();
        let mut pending = Vec::new();
        for _ in 0..250 {
            let mut commit = Commit::new();
            let records = [record("k", Some("value"), 0), record("k", None, 0)];
            commit.append(Arc::clone(&partition), encode(Compression::None, &records));
            pending.push(directory.store().submit(commit).await.unwrap());
            tokio::task::yield_now().await;
        }
        for reader in readers {
            reader.await.unwrap();
        }
    }
}

#[test]
fn a_directory_is_opened_once() {
    let mut directory = TestStore::new();
    let Err(error) = Store::open(directory.path(), StoreOptions::default()) else {
        panic!("opened twice");
    };
    assert!(matches!(error, Error::Locked { .. }));
    let text = error.to_string();
    assert!(
        text.contains(&format!("(pid {})", std::process::id())),
        "{text}"
    );
    // Whoever came too late has changed nothing.
    let partition = directory.partition(1, 0);
    directory.append(&partition, &[record("k", None, 0)]);
    directory.reopen();
    assert_eq!(directory.partition(1, 0).high_watermark(), 1);
}

#[test]
fn a_newer_format_is_refused_and_left_as_it_is() {
    let mut directory = TestStore::new();
    directory.close();
    let file = directory.path().join("FORMAT");
    std::fs::write(&file, "millstream data format 99\n").unwrap();
    let Err(error) = Store::open(directory.path(), StoreOptions::default()) else {
        panic!("opened");
    };
    assert!(
        error
            .to_string()
            .contains("has format 99, this version of millstream reads format 2"),
        "{error}"
    );
    assert_eq!(
        std::fs::read_to_string(&file).unwrap(),
        "millstream data format 99\n"
    );
    std::fs::write(&file, "millstream data format 2\n").unwrap();
    directory.reopen();
}

#[test]
fn bytes_written_are_counted() {
    let mut directory = TestStore::new();
    directory.options.statistics = true;
    directory.reopen();
    let partition = directory.partition(1, 0);
    let large = "x".repeat(30_000);
    for _ in 0..20 {
        directory.append(&partition, &[record("k", Some(&large), 0)]);
    }
    directory.store().flush().unwrap();
    let written = directory.store().write_statistics();
    assert!(written.wal_bytes >= 600_000, "{written:?}");
    // Blob files are part of it.
    assert!(written.flush_bytes >= 600_000, "{written:?}");
    assert!(written.total_bytes() >= 1_200_000);
    block_on(directory.store().commit(Commit::new())).unwrap();
    assert!(directory.store().disk_usage().unwrap().blob_bytes >= 600_000);
}
