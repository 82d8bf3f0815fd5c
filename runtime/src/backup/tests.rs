use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::{Error, FileList, check, create, restore};
use crate::model::Compression;
use crate::storage::schema::{KeyKind, manifest};
use crate::storage::tests::support::{
    TestStore, block_on, encode, record, stored_partition, stored_records, wait_for_more,
};
use crate::storage::{Commit, Partition, ReadOnlyStore, Scan, Store, StoreOptions};

fn commit(partition: &Arc<Partition>, value: &str) -> Commit {
    let mut commit = Commit::new();
    let batch = encode(Compression::None, &[record("k", Some(value), 0)]);
    commit.append(Arc::clone(partition), batch);
    commit
}

/// A store with a record and an uploaded component, and its backup.
fn with_backup() -> (TestStore, tempfile::TempDir) {
    let directory = TestStore::new();
    let partition = directory.partition(1, 0);
    // Large enough for a blob file.
    directory.commit(commit(&partition, &"x".repeat(10_000)));
    fs::create_dir_all(directory.path().join("plugins/ab")).unwrap();
    fs::write(directory.path().join("plugins/ab/abcd.wasm"), b"\0asm").unwrap();
    fs::create_dir(directory.path().join("plugin-cache")).unwrap();
    fs::write(directory.path().join("plugin-cache/x.cwasm"), "x").unwrap();
    let folder = tempfile::tempdir().unwrap();
    create(directory.store(), &folder.path().join("backup"), unchecked).unwrap();
    (directory, folder)
}

/// Whatever is in it may be backed up.
fn unchecked(_: &ReadOnlyStore, _: &Path) -> Result<(), Error> {
    Ok(())
}

fn records(data_dir: &Path) -> usize {
    let store = Store::open(data_dir, StoreOptions::default()).unwrap();
    let partition = stored_partition(&store, 1, 0);
    stored_records(&store, &partition).len()
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<_> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn a_backup_is_taken_while_commits_go_on_and_restores_all_that_was_acknowledged() {
    let directory = TestStore::new();
    let folder = tempfile::tempdir().unwrap();
    let (acknowledged, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let partition = directory.partition(1, 0);
            block_on(async {
                while !stop.load(Ordering::Relaxed) {
                    let commit = commit(&partition, &"x".repeat(5_000));
                    directory.store().commit(commit).await.unwrap();
                    acknowledged.fetch_add(1, Ordering::SeqCst);
                }
            });
        });
        for number in 0..3 {
            wait_for_more(&acknowledged);
            let before = acknowledged.load(Ordering::SeqCst) as usize;
            let backup = folder.path().join(format!("backup-{number}"));
            create(directory.store(), &backup, unchecked).unwrap();
            let after = acknowledged.load(Ordering::SeqCst) as usize + 1;
            let restored = folder.path().join(format!("restored-{number}"));
            restore(&backup, &restored).unwrap();
            let found = records(&restored);
            assert!(
                (before..=after).contains(&found),
                "{before} {found} {after}"
            );
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert!(acknowledged.load(Ordering::SeqCst) > 3);
}

#[test]
fn a_backup_holds_what_cannot_be_made_again() {
    let (directory, folder) = with_backup();
    let backup = folder.path().join("backup");
    assert_eq!(names(&backup), ["BACKUP", "FORMAT", "plugins", "store"]);
    assert_eq!(names(folder.path()), ["backup"]);
    let list = FileList::read(&backup).unwrap();
    assert!(list.size_bytes() > 10_000, "{list:?}");
    assert_eq!(list.taken_at_ms, directory.clock.now_ms());
    assert_eq!(list.millstream_version, env!("CARGO_PKG_VERSION"));

    // It needs nothing of the directory that it was taken of, and stays as it is when it is restored.
    drop(directory);
    for name in ["first", "second"] {
        let restored = folder.path().join(name);
        assert_eq!(restore(&backup, &restored).unwrap(), list);
        assert_eq!(records(&restored), 1);
        let component = fs::read(restored.join("plugins/ab/abcd.wasm")).unwrap();
        assert_eq!(component, b"\0asm");
        assert!(!restored.join("BACKUP").exists());
    }
    assert_eq!(check(&backup).unwrap(), (list, Vec::new()));
    assert_eq!(names(folder.path()), ["backup", "first", "second"]);
}

/// Components that come or go around the moment of which the store is a copy: what the copy may name is there.
///
/// Fails when components are copied before that only, or after it only.
#[test]
fn components_of_both_sides_of_the_checkpoint_are_in_a_backup() {
    let (directory, folder) = with_backup();
    let components = directory.path().join("plugins");
    let backup = folder.path().join("other");
    // On this thread alone: other tests come by there, too.
    let thread = std::thread::current().id();
    fail::cfg_callback("backup::after-checkpoint", move || {
        if std::thread::current().id() == thread {
            fs::write(components.join("late.wasm"), b"late").unwrap();
            fs::remove_file(components.join("ab/abcd.wasm")).unwrap();
        }
    })
    .unwrap();
    let made = create(directory.store(), &backup, unchecked);
    fail::remove("backup::after-checkpoint");
    made.unwrap();
    let component = |name: &str| fs::read(backup.join("plugins").join(name)).unwrap();
    assert_eq!(component("late.wasm"), b"late");
    assert_eq!(component("ab/abcd.wasm"), b"\0asm");
    assert_eq!(check(&backup).unwrap().1, [""; 0]);
}

/// What is looked at is the copy, and what is refused leaves nothing.
///
/// Fails when the store itself is looked at, and when the refusal is not heeded.
#[test]
fn a_backup_that_is_refused_for_what_is_in_it_leaves_nothing() {
    let (directory, folder) = with_backup();
    let put = |name: &str| {
        let mut commit = Commit::new();
        commit.put(KeyKind::Manifest, manifest::key(name), "{}".into());
        directory.commit(commit);
    };
    put("early");
    let refused = create(
        directory.store(),
        &folder.path().join("other"),
        |copy, _| {
            put("late");
            let mut found = Vec::new();
            copy.scan_kind(KeyKind::Manifest, |key, _| {
                found.push(manifest::parse_key(key).unwrap().to_owned());
                Ok(Scan::Continue)
            })?;
            assert_eq!(found, ["early"]);
            Err(Error::NotEmpty {
                path: "refused".into(),
            })
        },
    );
    assert!(
        matches!(refused, Err(Error::NotEmpty { .. })),
        "{refused:?}"
    );
    assert_eq!(names(folder.path()), ["backup"]);
}

#[test]
fn nothing_is_written_over_anything() {
    let (directory, folder) = with_backup();
    let backup = folder.path().join("backup");
    let before = FileList::read(&backup).unwrap();
    let again = create(directory.store(), &backup, unchecked).unwrap_err();
    assert!(matches!(again, Error::Exists { .. }), "{again}");
    assert_eq!(check(&backup).unwrap(), (before, Vec::new()));

    let inside = create(
        directory.store(),
        &directory.path().join("backup"),
        unchecked,
    )
    .unwrap_err();
    assert!(matches!(inside, Error::Inside { .. }), "{inside}");

    let target = folder.path().join("target");
    fs::create_dir(&target).unwrap();
    fs::write(target.join("thesis.txt"), "x").unwrap();
    let error = restore(&backup, &target).unwrap_err();
    assert!(matches!(error, Error::NotEmpty { .. }), "{error}");
    assert_eq!(names(&target), ["thesis.txt"]);
    fs::remove_file(target.join("thesis.txt")).unwrap();
    restore(&backup, &target).unwrap();
    assert_eq!(records(&target), 1);
}

#[test]
fn two_do_not_write_to_one_place() {
    let (directory, folder) = with_backup();
    let target = folder.path().join("other");
    let staging = super::staging::Staging::begin(&target).unwrap();
    let error = create(directory.store(), &target, unchecked).unwrap_err();
    assert!(matches!(error, Error::InProgress { .. }), "{error}");
    drop(staging);
    create(directory.store(), &target, unchecked).unwrap();
    assert_eq!(names(folder.path()), ["backup", "other"]);
}

#[test]
fn what_somebody_else_made_is_never_removed() {
    let (directory, folder) = with_backup();
    let target = folder.path().join("other");
    // Under the name of old, or of anybody's own.
    let partial = folder.path().join("other.partial");
    fs::create_dir(&partial).unwrap();
    fs::write(partial.join("thesis.txt"), "x").unwrap();
    create(directory.store(), &target, unchecked).unwrap();
    assert_eq!(names(&partial), ["thesis.txt"]);

    // Even under that under which folders are put together.
    for target in ["mine", "yours"].map(|name| folder.path().join(name)) {
        let partial = beside(&target, ".millstream-partial");
        fs::create_dir(&partial).unwrap();
        fs::write(partial.join("thesis.txt"), "x").unwrap();
        if target.ends_with("yours") {
            // A lock file that was left behind by one that put together another folder.
            fs::write(beside(&target, ".millstream-partial.lock"), "1").unwrap();
        }
        let error = create(directory.store(), &target, unchecked).unwrap_err();
        assert!(matches!(error, Error::InTheWay { .. }), "{error}");
        assert_eq!(names(&partial), ["thesis.txt"]);
        assert!(!beside(&target, ".millstream-partial.lock").exists());
        fs::remove_dir_all(&partial).unwrap();
        create(directory.store(), &target, unchecked).unwrap();
    }

    let lock = folder.path().join("third.millstream-partial.lock");
    fs::write(&lock, "a diary").unwrap();
    let error = create(directory.store(), &folder.path().join("third"), unchecked).unwrap_err();
    assert!(matches!(error, Error::InTheWay { .. }), "{error}");
    assert_eq!(fs::read(&lock).unwrap(), b"a diary");

    for name in ["x.millstream-partial", "x.millstream-partial.lock"] {
        let error = create(directory.store(), &folder.path().join(name), unchecked).unwrap_err();
        assert!(matches!(error, Error::Reserved { .. }), "{error}");
        let error = restore(&folder.path().join("other"), &folder.path().join(name)).unwrap_err();
        assert!(matches!(error, Error::Reserved { .. }), "{error}");
    }
}

/// A process that was killed before it had noted which folder it made has left an empty one.
///
/// Fails when that is taken for somebody else's.
#[test]
fn an_empty_folder_that_a_killed_process_left_is_in_nobodys_way() {
    let (directory, folder) = with_backup();
    for (name, lock) in [("first", ""), ("second", "1")] {
        let target = folder.path().join(name);
        fs::create_dir(beside(&target, ".millstream-partial")).unwrap();
        fs::write(beside(&target, ".millstream-partial.lock"), lock).unwrap();
        create(directory.store(), &target, unchecked).unwrap();
    }
    assert_eq!(names(folder.path()), ["backup", "first", "second"]);
}

/// What somebody has put under the name of the lock file is neither written to nor read.
///
/// Fails when a link is followed, and hangs when a pipe is read.
#[test]
fn a_lock_that_is_no_file_is_left_alone() {
    let (directory, folder) = with_backup();
    let target = folder.path().join("other");
    let lock = beside(&target, ".millstream-partial.lock");
    let is_in_the_way = |what: &str| {
        let error = create(directory.store(), &target, unchecked).unwrap_err();
        assert!(matches!(error, Error::InTheWay { .. }), "{what}: {error}");
        assert!(lock.symlink_metadata().is_ok(), "{what}");
    };
    let thesis = folder.path().join("thesis.txt");
    fs::write(&thesis, "").unwrap();
    std::os::unix::fs::symlink(&thesis, &lock).unwrap();
    is_in_the_way("a link");
    assert_eq!(fs::read(&thesis).unwrap(), b"");
    fs::remove_file(&lock).unwrap();
    std::os::unix::fs::symlink(folder.path().join("nowhere"), &lock).unwrap();
    is_in_the_way("a link to nothing");
    fs::remove_file(&lock).unwrap();
    let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
    rustix::fs::mknodat(rustix::fs::CWD, &lock, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    is_in_the_way("a pipe");
    fs::remove_file(&lock).unwrap();
    fs::create_dir(&lock).unwrap();
    is_in_the_way("a folder");
    fs::remove_dir(&lock).unwrap();
    create(directory.store(), &target, unchecked).unwrap();
    assert_eq!(names(folder.path()), ["backup", "other", "thesis.txt"]);
}

/// `target` with something behind its name.
fn beside(target: &Path, suffix: &str) -> std::path::PathBuf {
    let mut name = target.file_name().unwrap().to_owned();
    name.push(suffix);
    target.with_file_name(name)
}

/// Fails when a data directory is made where the backup lies, or when the name of one that cannot have it is noticed late.
#[test]
fn a_restore_changes_no_backup_and_replaces_no_link() {
    let (_directory, folder) = with_backup();
    let backup = folder.path().join("backup");
    for inside in ["data", "new/data", "../backup/data"] {
        let error = restore(&backup, &backup.join(inside)).unwrap_err();
        assert!(matches!(error, Error::InsideBackup { .. }), "{error}");
    }
    assert!(!backup.join("new").exists());
    let link = folder.path().join("link");
    std::os::unix::fs::symlink(folder.path().join("elsewhere"), &link).unwrap();
    let error = restore(&backup, &link).unwrap_err();
    assert!(matches!(error, Error::Link { .. }), "{error}");
    assert!(check(&backup).unwrap().1.is_empty());
    restore(&backup, &folder.path().join("data")).unwrap();
}

/// Each file in turn is damaged, cut off, and lost: `check` and `restore` name it.
#[test]
fn damage_of_any_file_is_found_before_anything_is_restored() {
    let (_directory, folder) = with_backup();
    let backup = folder.path().join("backup");
    let target = folder.path().join("target");
    let list = FileList::read(&backup).unwrap();
    assert!(list.files.iter().any(|file| file.path.ends_with(".blob")));
    for file in &list.files {
        let path = backup.join(&file.path);
        let intact = fs::read(&path).unwrap();
        let mut damages = vec![None];
        if let Some(last) = intact.len().checked_sub(1) {
            let mut flipped = intact.clone();
            flipped[last / 2] ^= 1;
            damages.extend([Some(flipped), Some(intact[..last].to_vec())]);
        }
        for damage in damages {
            // Not in place: the file may be shared.
            let _ = fs::remove_file(&path);
            if let Some(bytes) = damage {
                fs::write(&path, bytes).unwrap();
            }
            let (_, problems) = check(&backup).unwrap();
            assert_eq!(problems.len(), 1, "{problems:?}");
            assert!(problems[0].contains(&file.path), "{problems:?}");
            let error = restore(&backup, &target).unwrap_err();
            assert!(error.to_string().contains(&file.path), "{error}");
            assert!(!target.exists());
        }
        let _ = fs::remove_file(&path);
        fs::write(&path, intact).unwrap();
    }
    fs::write(backup.join("store/added"), "x").unwrap();
    let (_, problems) = check(&backup).unwrap();
    assert_eq!(problems, ["store/added is not in the file BACKUP"]);
    fs::remove_file(backup.join("store/added")).unwrap();
    restore(&backup, &target).unwrap();

    fs::write(backup.join("BACKUP"), "{").unwrap();
    let error = restore(&backup, &folder.path().join("t")).unwrap_err();
    assert!(matches!(error, Error::NotABackup { .. }), "{error}");
}
