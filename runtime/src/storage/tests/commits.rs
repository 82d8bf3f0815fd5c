//! The commit thread: offsets, order, coalescing, atomicity, durabilities.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::support::{TestStore, block_on, encode, record, stored_records};
use crate::model::Compression;
use crate::storage::schema::KeyKind;
use crate::storage::schema::group_offset::CommittedOffset;
use crate::storage::{Commit, Durability, Error, Partition, Store, StoreOptions};

fn one_record(text: &str) -> crate::model::EncodedBatch {
    encode(Compression::None, &[record("k", Some(text), 0)])
}

fn append_commit(partition: &Arc<Partition>, text: &str) -> Commit {
    let mut commit = Commit::new();
    commit.append(Arc::clone(partition), one_record(text));
    commit
}

/// What a submitter has sent: base offset, partition and records, in order.
type Sent = Vec<(u32, u64, Vec<String>)>;

/// Sends commits without waiting for each; every commit has one to three batches.
async fn submit_many(store: Store, partitions: Vec<Arc<Partition>>, submitter: usize) -> Sent {
    let mut pending = Vec::new();
    for step in 0..60 {
        let mut commit = Commit::new();
        let mut batches = Vec::new();
        for part in 0..=step % 3 {
            let partition = &partitions[(submitter + step + part * part) % partitions.len()];
            let texts: Vec<_> = (0..=(step + part) % 4)
                .map(|at| format!("{submitter}/{step}/{part}/{at}"))
                .collect();
            let records: Vec<_> = texts
                .iter()
                .map(|text| record("k", Some(text), 0))
                .collect();
            commit.append(Arc::clone(partition), encode(Compression::None, &records));
            batches.push((partition.index(), texts));
        }
        pending.push((store.submit(commit).await.unwrap(), batches));
        if step % 7 == 0 {
            tokio::task::yield_now().await;
        }
    }
    let mut sent = Sent::new();
    for (pending, batches) in pending {
        let committed = pending.wait().await.unwrap();
        assert_eq!(committed.base_offsets.len(), batches.len());
        let placed = batches.into_iter().zip(committed.base_offsets);
        sent.extend(placed.map(|((partition, texts), base)| (partition, base, texts)));
    }
    sent
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn concurrent_submitters_get_dense_offsets_in_order() {
    for durability in [Durability::Os, Durability::Sync] {
        let mut directory = TestStore::new();
        directory.options.durability = durability;
        directory.reopen();
        let partitions: Vec<_> = (0..3).map(|index| directory.partition(1, index)).collect();
        let submitters: Vec<_> = (0..8)
            .map(|submitter| {
                let (store, partitions) = (directory.store().clone(), partitions.clone());
                tokio::spawn(submit_many(store, partitions, submitter))
            })
            .collect();
        let mut all: BTreeMap<(u32, u64), Vec<String>> = BTreeMap::new();
        for submitter in submitters {
            let sent = submitter.await.unwrap();
            let mut last: BTreeMap<u32, u64> = BTreeMap::new();
            for (partition, base, texts) in sent {
                // Also within a commit that has several batches for a partition.
                let before = last.insert(partition, base);
                assert!(before.is_none_or(|before| before < base));
                assert!(all.insert((partition, base), texts).is_none());
            }
        }
        let commits = 8 * 60;
        let groups = directory.store().commit_count();
        assert!(groups < commits, "{groups} groups of {commits} commits");

        let mut next = [0; 3];
        let mut wanted: [Vec<String>; 3] = Default::default();
        for ((partition, base), texts) in all {
            let partition = partition as usize;
            assert_eq!(base, next[partition], "offsets are dense");
            next[partition] += texts.len() as u64;
            wanted[partition].extend(texts);
        }
        drop(partitions);
        directory.reopen();
        for (index, wanted) in wanted.into_iter().enumerate() {
            let partition = directory.partition(1, index as u32);
            assert_eq!(partition.high_watermark(), next[index]);
            let stored = stored_records(directory.store(), &partition);
            let texts: Vec<_> = stored
                .into_iter()
                .map(|(_, record)| String::from_utf8(record.value.unwrap().to_vec()).unwrap())
                .collect();
            assert_eq!(texts, wanted);
        }
    }
}

#[test]
fn durabilities_all_keep_what_is_acknowledged() {
    let every = Duration::from_millis(5);
    for durability in [
        Durability::Sync,
        Durability::Os,
        Durability::Interval(every),
    ] {
        let mut directory = TestStore::with(StoreOptions {
            durability,
            ..StoreOptions::default()
        });
        assert_eq!(directory.store().durability(), durability);
        for at in 0..4 {
            let partition = directory.partition(1, 0);
            assert_eq!(directory.commit(append_commit(&partition, "x")), [at]);
            // Time for the syncing thread to have its turn.
            std::thread::sleep(Duration::from_millis(12));
            directory.reopen();
        }
        let partition = directory.partition(1, 0);
        assert_eq!(stored_records(directory.store(), &partition).len(), 4);
    }
}

#[test]
fn what_is_queued_is_written_before_the_store_closes() {
    let mut directory = TestStore::new();
    let partition = directory.partition(1, 0);
    block_on(async {
        let mut pending = Vec::new();
        for _ in 0..100 {
            let commit = append_commit(&partition, "x");
            pending.push(directory.store().submit(commit).await.unwrap());
        }
        directory.close();
        for (at, pending) in pending.into_iter().enumerate() {
            assert_eq!(pending.wait().await.unwrap().base_offsets, [at as u64]);
        }
    });
    directory.reopen();
    assert_eq!(directory.partition(1, 0).high_watermark(), 100);
}

/// The error says that this partition has been deleted.
#[track_caller]
fn assert_names(error: &Error, deleted: &Partition) {
    let Error::PartitionDeleted { target, partition } = error else {
        panic!("{error}");
    };
    assert_eq!((target, *partition), (deleted.target(), deleted.index()));
    let expected =
        "the topic `t2` has been deleted, of which partition 0 was to be read or written to";
    assert_eq!(error.to_string(), expected);
}

#[test]
fn a_commit_to_a_deleted_partition_does_nothing_at_all() {
    let mut directory = TestStore::new();
    let (kept, deleted) = (directory.partition(1, 0), directory.partition(2, 0));
    directory.append(&deleted, &[record("k", None, 0)]);
    // The first commit keeps the thread busy, so that the others wait for it and become one group.
    let (go_on, may_go_on) = std::sync::mpsc::channel();
    let mut busy = append_commit(&kept, "busy");
    busy.on_outcome(move |_| may_go_on.recv().unwrap());
    let groups_before = directory.store().commit_count();
    let results = block_on(async {
        let mut delete = Commit::new();
        delete.delete_partition(&deleted);
        let mut mixed = append_commit(&kept, "lost");
        mixed.append(Arc::clone(&deleted), one_record("lost"));
        mixed.put(KeyKind::Topic, b"\x01mixed", "lost".into());
        let mut offset = append_commit(&kept, "lost");
        let at = CommittedOffset {
            offset: 1,
            committed_at_ms: 0,
        };
        offset.commit_offset("g", deleted.topic_id(), deleted.index(), at);
        let commits = [
            busy,
            append_commit(&deleted, "first"),
            delete,
            mixed,
            offset,
            append_commit(&deleted, "lost"),
            append_commit(&kept, "last"),
        ];
        let mut pending = Vec::new();
        for commit in commits {
            pending.push(directory.store().submit(commit).await.unwrap());
        }
        go_on.send(()).unwrap();
        let mut results = Vec::new();
        for pending in pending {
            results.push(pending.wait().await.map(|committed| committed.base_offsets));
        }
        results
    });
    let groups = directory.store().commit_count() - groups_before;
    assert!(groups <= 2, "{groups} groups: not all was coalesced");
    let [busy, first, delete, mixed, offset, lost, last] = results.try_into().unwrap();
    assert_eq!(busy.unwrap(), [0]);
    assert_eq!(first.unwrap(), [1]);
    assert!(delete.unwrap().is_empty());
    for refused in [mixed, offset, lost] {
        assert_names(&refused.unwrap_err(), &deleted);
    }
    assert_eq!(last.unwrap(), [1]);
    assert!(deleted.is_deleted());
    let read = directory.store().read(&deleted, 0, 1);
    assert_names(&read.unwrap_err(), &deleted);
    // Also in a group of its own, by which it has been gone for a while.
    let mut offset = Commit::new();
    let at = CommittedOffset {
        offset: 1,
        committed_at_ms: 0,
    };
    offset.commit_offset("g", deleted.topic_id(), deleted.index(), at);
    let refused = block_on(directory.store().commit(offset));
    assert_names(&refused.unwrap_err(), &deleted);
    let mixed = directory.store().get(KeyKind::Topic, b"\x01mixed").unwrap();
    assert_eq!(mixed, None);
    directory.reopen();
    assert_eq!(directory.partition(1, 0).high_watermark(), 2);
    assert_eq!(directory.partition(2, 0).high_watermark(), 0);
    assert!(stored_records(directory.store(), &deleted).is_empty());
}

#[test]
fn a_commit_has_a_limit() {
    let directory = TestStore::new();
    let partition = directory.partition(1, 0);
    let mut commit = append_commit(&partition, "x");
    // The bytes are shared: it only counts as that much.
    let large = Bytes::from(vec![0; 8 << 20]);
    for number in 0..128 {
        commit.put(KeyKind::State, [0x30, number], large.clone());
    }
    assert!(commit.len_bytes() > 1 << 30);
    let error = block_on(directory.store().commit(commit)).unwrap_err();
    assert!(
        matches!(error, Error::CommitTooLarge { bytes, .. } if bytes > 1 << 30),
        "{error}"
    );
    assert_eq!(partition.high_watermark(), 0);
    let first = directory.store().get(KeyKind::State, &[0x30, 0]).unwrap();
    assert_eq!(first, None);
}

#[test]
fn more_than_the_queue_takes_waits_its_turn() {
    let directory = TestStore::new();
    let partition = directory.partition(1, 0);
    let large = Bytes::from(vec![0; 7 << 20]);
    let commits = block_on(async {
        let submit = |task| {
            let mut commit = append_commit(&partition, "x");
            for number in 0..4 {
                commit.put(KeyKind::State, [0x30, task, number], large.clone());
            }
            let store = directory.store().clone();
            tokio::spawn(async move { store.commit(commit).await.unwrap() })
        };
        let submitted: Vec<_> = (0..5).map(submit).collect();
        let mut commits = Vec::new();
        for commit in submitted {
            commits.push(commit.await.unwrap().base_offsets[0]);
        }
        commits
    });
    assert_eq!(commits, [0, 1, 2, 3, 4]);
}

#[test]
fn an_empty_commit_changes_nothing() {
    let directory = TestStore::new();
    assert!(Commit::new().is_empty());
    assert!(directory.commit(Commit::new()).is_empty());
}

#[test]
fn entries_are_put_deleted_and_scanned_in_order() {
    let directory = TestStore::new();
    let mut commit = Commit::new();
    for number in [3, 1, 2, 9, 7] {
        commit.put(KeyKind::State, [0x30, number], vec![number].into());
    }
    directory.commit(commit);
    let mut commit = Commit::new();
    commit.delete(KeyKind::State, [0x30, 2]);
    commit.delete_range(KeyKind::State, [0x30, 7], [0x30, 9]);
    directory.commit(commit);
    let keys = |from: u8, to: Option<u8>| {
        let mut keys = Vec::new();
        let to = to.map(|to| [0x30, to]);
        let to = to.as_ref().map(<[u8; 2]>::as_slice);
        directory
            .store()
            .scan(KeyKind::State, &[0x30, from], to, |key, value| {
                assert_eq!(key[1..], *value);
                keys.push(key[1]);
                Ok(if keys.len() == 3 {
                    crate::storage::Scan::Stop
                } else {
                    crate::storage::Scan::Continue
                })
            })
            .unwrap();
        keys
    };
    assert_eq!(keys(0, None), [1, 3, 9]);
    assert_eq!(keys(1, Some(9)), [1, 3]);
    assert_eq!(keys(2, None), [3, 9]);
    assert_eq!(
        directory.store().get(KeyKind::State, &[0x30, 7]).unwrap(),
        None
    );
}

/// Fails when a commit that is refused counts as one, and when a write counts that was none.
#[test]
fn what_is_refused_is_in_no_statistics() {
    let directory = TestStore::new();
    let (kept, deleted) = (directory.partition(1, 0), directory.partition(2, 0));
    let mut delete = Commit::new();
    delete.delete_partition(&deleted);
    directory.commit(delete);
    let statistics = || directory.store().commit_statistics();
    let before = statistics();
    for _ in 0..3 {
        let refused = block_on(directory.store().commit(append_commit(&deleted, "lost")));
        assert!(
            matches!(refused, Err(Error::PartitionDeleted { .. })),
            "{refused:?}"
        );
    }
    assert_eq!(statistics(), before);
    // Also together with one that is not: the first one is large, so that the others wait for it and become one group.
    let results = block_on(async {
        let mut pending = Vec::new();
        for (partition, text) in [
            (&kept, "x".repeat(4 << 20).as_str()),
            (&deleted, "lost"),
            (&kept, "last"),
            (&deleted, "lost"),
        ] {
            let commit = append_commit(partition, text);
            pending.push(directory.store().submit(commit).await.unwrap());
        }
        let mut results = Vec::new();
        for pending in pending {
            results.push(pending.wait().await.is_ok());
        }
        results
    });
    assert_eq!(results, [true, false, true, false]);
    let after = statistics();
    assert_eq!(after.commit_ns.count() - before.commit_ns.count(), 2);
    assert_eq!(after.write_commits.sum - before.write_commits.sum, 2);
}
