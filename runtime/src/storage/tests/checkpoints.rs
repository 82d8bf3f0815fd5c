//! Checkpoints: what is in them, while commits go on.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::support::{TestStore, block_on, encode, record, wait_for_more};
use crate::model::{Compression, RecordBatch};
use crate::storage::schema::{KeyKind, batch as batch_key, partition_head};
use crate::storage::{Commit, Error, Partition, ReadOnlyStore, Scan, Store};

/// Partitions that every commit of a writer adds a record to.
const PARTITIONS: u32 = 3;
/// Large enough for blob files.
const VALUE_BYTES: usize = 6 << 10;

/// One record for each partition, and a state entry that counts the commits.
fn commit(partitions: &[Arc<Partition>], number: u64) -> Commit {
    let value = format!("{number}/{}", "x".repeat(VALUE_BYTES));
    let mut commit = Commit::new();
    for partition in partitions {
        let batch = encode(Compression::None, &[record("k", Some(&value), 0)]);
        commit.append(Arc::clone(partition), batch);
    }
    commit.put(KeyKind::State, [0x30], number.to_be_bytes().to_vec().into());
    commit
}

/// Commits of a checkpoint, after a look at whether all of each are there.
fn commits_in(checkpoint: &ReadOnlyStore) -> u64 {
    let state = checkpoint.get(KeyKind::State, &[0x30]).unwrap();
    let count = state.map_or(0, |value| {
        1 + u64::from_be_bytes(value.as_ref().try_into().unwrap())
    });
    for index in 0..PARTITIONS {
        let head = checkpoint.get(KeyKind::PartitionHead, &partition_head::key(1, index));
        let head = head.unwrap().unwrap_or_default();
        let head = partition_head::parse_value(&head).unwrap_or_default();
        assert_eq!(head.next_offset, count, "partition {index}");
        let mut next = 0;
        let prefix = &batch_key::key(1, index, 0)[..9];
        checkpoint
            .scan_prefix(KeyKind::Batch, prefix, |key, value| {
                assert_eq!(batch_key::parse(key), Some((1, index, next)));
                let batch = RecordBatch::from_stored(value.to_vec().into()).unwrap();
                batch.verify_crc().unwrap();
                next = batch.next_offset();
                Ok(Scan::Continue)
            })
            .unwrap();
        assert_eq!(next, count, "partition {index}");
    }
    count
}

/// Commits until told to stop; counts what is acknowledged.
fn write(store: &Store, acknowledged: &AtomicU64, stop: &AtomicBool) {
    let partitions: Vec<_> = (0..PARTITIONS)
        .map(|index| super::support::stored_partition(store, 1, index))
        .collect();
    block_on(async {
        let mut number = 0;
        while !stop.load(Ordering::Relaxed) {
            store.commit(commit(&partitions, number)).await.unwrap();
            number += 1;
            acknowledged.store(number, Ordering::SeqCst);
        }
    });
}

#[test]
fn a_checkpoint_holds_whole_commits_and_all_that_were_acknowledged() {
    let mut directory = TestStore::new();
    let folder = tempfile::tempdir().unwrap();
    let (acknowledged, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    let mut taken = Vec::new();
    std::thread::scope(|scope| {
        scope.spawn(|| write(directory.store(), &acknowledged, &stop));
        for number in 0..8 {
            wait_for_more(&acknowledged);
            let path = folder.path().join(number.to_string());
            let before = acknowledged.load(Ordering::SeqCst);
            directory.store().checkpoint(&path).unwrap();
            // One commit may be written, and not be acknowledged yet.
            let after = acknowledged.load(Ordering::SeqCst) + 1;
            taken.push((path, before, after));
        }
        stop.store(true, Ordering::Relaxed);
    });
    let mut counts = Vec::new();
    for (path, before, after) in &taken {
        let count = commits_in(&ReadOnlyStore::open_checkpoint(path).unwrap());
        assert!(
            (*before..=*after).contains(&count),
            "{before} {count} {after}"
        );
        counts.push(count);
    }
    assert!(
        counts[0] < counts[7],
        "nothing was written meanwhile: {counts:?}"
    );

    // They need nothing of the store that they were taken of.
    directory.close();
    std::fs::remove_dir_all(directory.path().join("store")).unwrap();
    for ((path, ..), count) in taken.iter().zip(counts) {
        assert_eq!(
            commits_in(&ReadOnlyStore::open_checkpoint(path).unwrap()),
            count
        );
    }
}

#[test]
fn a_checkpoint_is_not_put_over_another() {
    let directory = TestStore::new();
    let folder = tempfile::tempdir().unwrap();
    let error = directory.store().checkpoint(folder.path()).unwrap_err();
    assert!(matches!(error, Error::Io { .. }), "{error}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn reading_changes_nothing() {
    let mut directory = TestStore::new();
    let partitions: Vec<_> = (0..PARTITIONS)
        .map(|index| directory.partition(1, index))
        .collect();
    directory.commit(commit(&partitions, 0));
    directory.close();
    let files = || {
        let mut files: Vec<_> = std::fs::read_dir(directory.path().join("store"))
            .unwrap()
            .map(|file| file.unwrap())
            .map(|file| (file.file_name(), file.metadata().unwrap().len()))
            .collect();
        files.sort();
        files
    };
    let before = files();
    let store = ReadOnlyStore::open(directory.path()).unwrap();
    assert_eq!(commits_in(&store), 1);
    let second = ReadOnlyStore::open(directory.path()).map(|_| ());
    assert!(matches!(second, Err(Error::Locked { .. })), "{second:?}");
    drop(store);
    assert_eq!(files(), before);

    let empty = tempfile::tempdir().unwrap();
    let missing = ReadOnlyStore::open(empty.path()).map(|_| ());
    assert!(matches!(missing, Err(Error::Io { .. })), "{missing:?}");
    assert_eq!(std::fs::read_dir(empty.path()).unwrap().count(), 0);
}
