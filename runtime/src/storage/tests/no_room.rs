//! A disk that is full, files that may not grow, files that cannot be opened: the store says why it
//! takes no more writes, is still read, and has everything acknowledged when there is room again.
//!
//! Each test runs in a process of its own, which a shell gives its limits.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::support::{
    alone, alone_argument, block_on, encode, record, stored_partition, stored_records,
};
use crate::model::Compression;
use crate::storage::{Commit, Durability, Error, Partition, Store, StoreOptions};

const PARTITIONS: u32 = 2;
/// A memtable that is flushed now and then before there is no room.
const SMALL_MEMTABLE_BYTES: usize = 512 << 10;
/// Commits after which a store that should have failed is taken for one that never does.
const MANY_COMMITS: u64 = 100_000;

fn open(path: &Path, memtable_bytes: usize) -> Result<Store, Error> {
    let options = StoreOptions {
        durability: Durability::Sync,
        tail_bytes: 100_000,
        memtable_bytes,
        ..StoreOptions::default()
    };
    Store::open(path, options)
}

fn partitions(store: &Store) -> Vec<Arc<Partition>> {
    (0..PARTITIONS)
        .map(|index| stored_partition(store, 1, index))
        .collect()
}

fn commit(partitions: &[Arc<Partition>], number: u64) -> Commit {
    let value = format!("{number}/{}", "x".repeat(7_000));
    let mut commit = Commit::new();
    for partition in partitions {
        let batch = encode(Compression::None, &[record("k", Some(&value), 0)]);
        commit.append(Arc::clone(partition), batch);
    }
    commit
}

/// Commits until the store takes no more; checks that it is read all the same. Returns how many
/// commits were acknowledged, and the advice.
fn write_until_it_fails(store: &Store, reason: &str) -> (u64, String) {
    let partitions = partitions(store);
    assert_eq!(store.health().failure, None);
    let (acknowledged, error) = commit_until_it_fails(store, &partitions);
    let Error::Poisoned { advice, .. } = &error else {
        panic!("{error}")
    };
    let text = error.to_string();
    assert!(text.contains(reason), "{text}");
    assert!(text.contains("nothing acknowledged is lost"), "{text}");
    let failure = store.health().failure.unwrap();
    assert!(failure.reason.contains(reason), "{failure:?}");
    assert_eq!(failure.advice, *advice);
    // It stays so, and everything acknowledged is read.
    let again = block_on(store.commit(commit(&partitions, 0))).unwrap_err();
    assert_eq!(again.to_string(), text);
    for partition in &partitions {
        assert_eq!(partition.high_watermark(), acknowledged);
        assert_eq!(stored_records(store, partition).len() as u64, acknowledged);
    }
    (acknowledged, advice.clone())
}

/// After a restart with room everything acknowledged is there, and it is written on.
fn check_with_room(path: &Path, acknowledged: u64) {
    let store = open(path, SMALL_MEMTABLE_BYTES).unwrap();
    let partitions = partitions(&store);
    let mut ends = Vec::new();
    for partition in &partitions {
        let records = stored_records(&store, partition);
        // The commit that failed may be there as well: nobody was told that it is not.
        assert!((acknowledged..=acknowledged + 1).contains(&(records.len() as u64)));
        for (number, (offset, record)) in records.iter().enumerate() {
            assert_eq!(*offset, number as u64);
            let start = format!("{number}/");
            assert!(record.value.as_ref().unwrap().starts_with(start.as_bytes()));
        }
        ends.push(partition.high_watermark());
    }
    assert_eq!(ends[0], ends[1], "a commit is there by half");
    for number in 0..10 {
        block_on(store.commit(commit(&partitions, number))).unwrap();
    }
    assert_eq!(store.health().failure, None);
}

/// Runs a test of this file in a process of its own, started by a shell with `script`, which ends in
/// `exec "$@"`.
fn run_alone(test: &str, argument: &str, script: &str) {
    let plain = alone(module_path!(), test, argument);
    let mut command = Command::new("sh");
    command
        .args(["-c", script, "sh"])
        .arg(plain.get_program())
        .args(plain.get_args());
    for (name, value) in plain.get_envs() {
        command.env(name, value.unwrap());
    }
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && text.contains("1 passed"),
        "{argument}: {text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Needs `unshare` (util-linux) and a system that lets it mount a file system in memory.
#[test]
fn a_full_disk_loses_nothing_acknowledged() {
    if let Some(argument) = alone_argument() {
        let (path, memtable_bytes) = argument.split_once(' ').unwrap();
        return on_a_full_disk(Path::new(path), memtable_bytes.parse().unwrap());
    }
    // With a large memtable the write-ahead log finds no room, with a small one also flushes do.
    for (mib, memtable_bytes) in [
        (12, 64 << 20),
        (14, SMALL_MEMTABLE_BYTES),
        (17, SMALL_MEMTABLE_BYTES),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().display();
        let script = format!(
            r#"[ "$MILLSTREAM_TEST_MOUNTED" ] || MILLSTREAM_TEST_MOUNTED=1 exec unshare --user --map-root-user --mount sh -c 'mount -t tmpfs -o size={mib}m tmpfs {path} && exec "$@"' sh "$@""#
        );
        let argument = format!("{path} {memtable_bytes}");
        run_alone("a_full_disk_loses_nothing_acknowledged", &argument, &script);
    }
}

fn on_a_full_disk(path: &Path, memtable_bytes: usize) {
    let store = open(path, memtable_bytes).unwrap();
    let (acknowledged, advice) = write_until_it_fails(&store, "No space left on device");
    assert!(advice.contains("bytes free: make room there"), "{advice}");
    assert!(acknowledged > 100, "{acknowledged}");
    let disk = store.health().disk.unwrap();
    assert!(disk.free_bytes < disk.total_bytes / 2, "{disk:?}");
    drop(store);
    let remount = Command::new("mount")
        .args(["-o", "remount,size=64m"])
        .arg(path)
        .status();
    assert!(remount.unwrap().success());
    check_with_room(path, acknowledged);
}

#[test]
fn files_that_may_not_grow_lose_nothing_acknowledged() {
    if let Some(path) = alone_argument() {
        let path = Path::new(&path);
        let store = open(path, 64 << 20).unwrap();
        let (acknowledged, advice) = write_until_it_fails(&store, "File too large");
        assert!(advice.contains("ulimit -f"), "{advice}");
        drop(store);
        let Rlimit { maximum, .. } = getrlimit(Resource::Fsize);
        let current = maximum;
        setrlimit(Resource::Fsize, Rlimit { current, maximum }).unwrap();
        check_with_room(path, acknowledged);
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().display().to_string();
    // Soft, so that it can be raised again; and the signal would end the process.
    let script = r#"trap '' XFSZ; ulimit -S -f 8192; exec "$@""#;
    let test = "files_that_may_not_grow_lose_nothing_acknowledged";
    run_alone(test, &path, script);
}

#[test]
fn too_few_open_files_lose_nothing_acknowledged() {
    if let Some(path) = alone_argument() {
        let path = Path::new(&path);
        let store = open(path, SMALL_MEMTABLE_BYTES).unwrap();
        let partitions = partitions(&store);
        for number in 0..20 {
            block_on(store.commit(commit(&partitions, number))).unwrap();
        }
        // From here on no file can be opened: those that are take all that there are.
        let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
        let few = Some(3);
        set_open_files(few, maximum);
        let (acknowledged, error) = commit_until_it_fails(&store, &partitions);
        let Error::Poisoned { advice, .. } = error else {
            panic!("{error}")
        };
        assert!(advice.contains("LimitNOFILE"), "{advice}");
        set_open_files(current, maximum);
        for partition in &partitions {
            assert_eq!(stored_records(&store, partition).len() as u64, acknowledged);
        }
        drop((store, partitions));
        check_with_room(path, acknowledged);
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().display().to_string();
    let test = "too_few_open_files_lose_nothing_acknowledged";
    run_alone(test, &path, r#"exec "$@""#);
}

fn set_open_files(current: Option<u64>, maximum: Option<u64>) {
    setrlimit(Resource::Nofile, Rlimit { current, maximum }).unwrap();
}

fn commit_until_it_fails(store: &Store, partitions: &[Arc<Partition>]) -> (u64, Error) {
    let mut acknowledged = partitions[0].high_watermark();
    loop {
        match commit_without_runtime(store, commit(partitions, acknowledged)) {
            Ok(()) => acknowledged += 1,
            Err(error) => return (acknowledged, error),
        }
        assert!(acknowledged < MANY_COMMITS, "there is room for everything");
    }
}

/// Commits without a runtime, which would open files.
fn commit_without_runtime(store: &Store, commit: Commit) -> Result<(), Error> {
    use std::future::Future as _;
    use std::task::{Context, Poll, Waker};
    let mut commit = std::pin::pin!(store.commit(commit));
    let mut context = Context::from_waker(Waker::noop());
    loop {
        match commit.as_mut().poll(&mut context) {
            Poll::Ready(result) => return result.map(|_| ()),
            Poll::Pending => std::thread::yield_now(),
        }
    }
}
