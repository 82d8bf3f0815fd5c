//! Failed writes and kills. Each test runs in a process of its own.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::support::{
    alone, alone_argument, block_on, encode, record, stored_partition, stored_records,
};
use crate::model::Compression;
use crate::storage::{Commit, Durability, Partition, Store, StoreOptions, layout};

const PARTITIONS: u32 = 3;

fn open(path: &Path, durability: Durability) -> Store {
    let options = StoreOptions {
        durability,
        tail_bytes: 10_000,
        // So small that flushes do not keep up, and there are several write-ahead logs.
        memtable_bytes: 64 << 10,
        ..StoreOptions::default()
    };
    Store::open(path, options).unwrap()
}

fn partitions(store: &Store) -> Vec<Arc<Partition>> {
    (0..PARTITIONS)
        .map(|index| stored_partition(store, 1, index))
        .collect()
}

/// The same number of records for each partition.
fn commit_to_all(partitions: &[Arc<Partition>], text: &str) -> Commit {
    let mut commit = Commit::new();
    for partition in partitions {
        let records = [record("k", Some(text), 0), record("k", None, 0)];
        commit.append(Arc::clone(partition), encode(Compression::None, &records));
    }
    commit
}

#[cfg(feature = "failpoints")]
#[test]
fn a_failed_write_poisons_the_store() {
    if alone_argument().is_none() {
        let test = "a_failed_write_poisons_the_store";
        let output = alone(module_path!(), test, "").output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(
            output.status.success() && text.contains("1 passed"),
            "{text}{}",
            String::from_utf8_lossy(&output.stderr)
        );
        return;
    }
    let scenario = fail::FailScenario::setup();
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path(), Durability::Sync);
    let partitions = partitions(&store);
    let says_why = |error: crate::storage::Error| {
        let text = error.to_string();
        let start = "the store stopped accepting writes after a failed write: disk full; ";
        assert!(text.starts_with(start), "{text}");
    };
    block_on(async {
        store
            .commit(commit_to_all(&partitions, "acknowledged"))
            .await
            .unwrap();
        let commits = store.commit_count();
        fail::cfg("commit::before-write", "return(disk full)").unwrap();
        let mut pending = Vec::new();
        for _ in 0..3 {
            match store.submit(commit_to_all(&partitions, "lost")).await {
                Ok(commit) => pending.push(commit),
                Err(error) => says_why(error),
            }
        }
        assert!(!pending.is_empty());
        for commit in pending {
            says_why(commit.wait().await.unwrap_err());
        }
        // The disk has room again, but the store does not trust itself any more.
        fail::remove("commit::before-write");
        let again = store.submit(commit_to_all(&partitions, "lost")).await;
        says_why(again.unwrap_err());
        let failure = store.health().failure.unwrap();
        assert_eq!(failure.reason, "disk full");
        assert_eq!(store.commit_count(), commits);
        for partition in &partitions {
            assert_eq!(partition.high_watermark(), 2);
            assert_eq!(store.read(partition, 0, 1 << 20).unwrap().len(), 1);
            assert!(store.read(partition, 2, 1 << 20).unwrap().is_empty());
        }
    });
    drop(store);
    scenario.teardown();

    let store = open(folder.path(), Durability::Sync);
    for partition in self::partitions(&store) {
        let stored = stored_records(&store, &partition);
        assert_eq!(stored.len(), 2);
        assert_eq!(stored[0].1.value.as_deref(), Some(&b"acknowledged"[..]));
    }
    let partitions = self::partitions(&store);
    let committed = block_on(store.commit(commit_to_all(&partitions, "again"))).unwrap();
    assert_eq!(committed.base_offsets, [2, 2, 2]);
}

/// Commits from four tasks until it is killed; prints what is acknowledged.
async fn commit_for_ever(path: &Path, durability: Durability) {
    let store = open(path, durability);
    let partitions = partitions(&store);
    let mut tasks = Vec::new();
    for task in 0..4 {
        let (store, partitions) = (store.clone(), partitions.clone());
        tasks.push(tokio::spawn(async move {
            for step in 0.. {
                let text = format!("{task}/{step}/{}", "x".repeat(step % 50 * 40));
                let committed = store.commit(commit_to_all(&partitions, &text)).await;
                let offsets = committed.unwrap().base_offsets;
                #[expect(clippy::print_stdout, reason = "it is read by the process that kills")]
                {
                    println!("acknowledged {} {task}/{step}/", offsets[0]);
                }
            }
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
}

/// The process that is killed.
#[test]
fn commits_until_it_is_killed() {
    let Some(argument) = alone_argument() else {
        return;
    };
    let (durability, path) = argument.split_once(' ').unwrap();
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(commit_for_ever(
        Path::new(path),
        durability.parse().unwrap(),
    ));
}

/// Lets a process commit, and kills it once it has gone on for a while after some acknowledgements. Returns what it has
/// said.
fn commit_until_killed(path: &Path, durability: &str, kill_after_ms: u64) -> Vec<String> {
    let argument = format!("{durability} {}", path.display());
    let test = "commits_until_it_is_killed";
    let mut child = alone(module_path!(), test, &argument).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut line = || lines.next().map(Result::unwrap);
    let mut said = Vec::new();
    while said.len() < 6 {
        let line = line().expect("it has ended by itself");
        if line.contains("acknowledged ") {
            said.push(line);
        }
    }
    std::thread::sleep(Duration::from_millis(kill_after_ms));
    child.kill().unwrap();
    said.extend(std::iter::from_fn(&mut line));
    child.wait().unwrap();
    said
}

#[test]
fn a_kill_loses_nothing_acknowledged() {
    for durability in ["sync", "os", "interval(10)"] {
        let folder = tempfile::tempdir().unwrap();
        let mut acknowledged = Vec::new();
        for kill_after_ms in [40, 150] {
            acknowledged.extend(commit_until_killed(
                folder.path(),
                durability,
                kill_after_ms,
            ));
            check_after_kill(folder.path(), &acknowledged);
        }
    }
}

fn check_after_kill(path: &Path, acknowledged: &[String]) {
    let store = open(path, Durability::Os);
    let partitions = partitions(&store);
    let stored: Vec<_> = partitions
        .iter()
        .map(|partition| stored_records(&store, partition))
        .collect();
    // Every commit was for all partitions: it is in all, at the same offsets, or in none.
    for (partition, stored_there) in partitions.iter().zip(&stored) {
        assert_eq!(stored_there, &stored[0]);
        assert_eq!(partition.high_watermark(), stored_there.len() as u64);
    }
    for line in acknowledged {
        let (_, line) = line.split_once("acknowledged ").unwrap();
        // The last line may have been cut off by the kill.
        let Some((offset, text)) = line.split_once(' ').filter(|(_, text)| text.ends_with('/'))
        else {
            continue;
        };
        let offset: usize = offset.parse().unwrap();
        let (stored_offset, record) = &stored[0][offset];
        assert_eq!(*stored_offset, offset as u64);
        assert!(record.value.as_ref().unwrap().starts_with(text.as_bytes()));
    }
}

/// A process that is killed while it makes the files of a new store leaves no write-ahead log.
#[test]
fn a_store_that_was_never_written_is_made_again() {
    let folder = tempfile::tempdir().unwrap();
    drop(open(folder.path(), Durability::Sync));
    for log in write_ahead_logs(folder.path()) {
        std::fs::remove_file(log).unwrap();
    }
    let store = open(folder.path(), Durability::Sync);
    let partitions = partitions(&store);
    block_on(store.commit(commit_to_all(&partitions, "x"))).unwrap();
    drop(store);
    // One that was written to is not made again, but refused if its log is gone.
    for log in write_ahead_logs(folder.path()) {
        std::fs::remove_file(log).unwrap();
    }
    std::fs::write(folder.path().join(layout::STORE).join("000099.sst"), "").unwrap();
    let options = StoreOptions::default();
    assert!(Store::open(folder.path(), options).is_err());
}

/// Fails when a write-ahead log is replayed whose predecessor has lost its end, and when RocksDB's files can be ahead of
/// the log in one respect and not in another, as with several column families.
#[test]
fn a_power_loss_takes_a_piece_at_the_end() {
    let mut cuts = 0;
    // Now and then all but one have been flushed.
    for kill_after_ms in (20..220).step_by(10) {
        if cuts >= 24 {
            break;
        }
        let killed = tempfile::tempdir().unwrap();
        commit_until_killed(killed.path(), "os", kill_after_ms);
        let logs = write_ahead_logs(killed.path());
        // What follows the one that is cut off has reached the disk.
        for (log, next) in logs.iter().zip(logs.iter().skip(1)) {
            assert!(log < next);
            let bytes = std::fs::read(log).unwrap();
            let ends = record_ends(&bytes);
            let middle = ends.get(ends.len() / 2).copied().unwrap_or(0);
            for len_bytes in [0, middle, middle + 9, bytes.len().saturating_sub(5)] {
                let folder = tempfile::tempdir().unwrap();
                copy(killed.path(), folder.path());
                let cut = folder.path().join(log.strip_prefix(killed.path()).unwrap());
                std::fs::write(cut, &bytes[..len_bytes.min(bytes.len())]).unwrap();
                check_after_kill(folder.path(), &[]);
                cuts += 1;
            }
        }
    }
    assert!(cuts > 0, "there was never more than one write-ahead log");
}

/// The write-ahead logs of a data directory, the oldest first.
fn write_ahead_logs(path: &Path) -> Vec<PathBuf> {
    let files = std::fs::read_dir(path.join(layout::STORE)).unwrap();
    let files = files.map(|file| file.unwrap().path());
    let mut logs: Vec<_> = files
        .filter(|file| file.extension().is_some_and(|it| it == "log"))
        .collect();
    logs.sort();
    logs
}

/// Where the records of a write-ahead log end. Source: `db/log_format.h` of RocksDB: blocks of 32 KiB, in them fragments
/// with 4 bytes of checksum, 2 of length and 1 of type, which is 1 for a record that is whole and 4 for the end of one.
fn record_ends(log: &[u8]) -> Vec<usize> {
    let (mut at, mut ends) = (0, Vec::new());
    while let Some(header) = log.get(at..at + 7) {
        let block_left = 32_768 - at % 32_768;
        if block_left < 7 {
            at += block_left;
            continue;
        }
        at += 7 + usize::from(u16::from_le_bytes([header[4], header[5]]));
        if [1, 4].contains(&header[6]) {
            ends.push(at);
        }
    }
    ends
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &to),
            false => {
                std::fs::copy(entry.path(), to).unwrap();
            }
        }
    }
}
