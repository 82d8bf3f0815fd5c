//! Compiled code on disk.

use std::{fs, path::PathBuf};

use super::*;

struct Cached {
    dir: tempfile::TempDir,
}

impl Cached {
    fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
        }
    }

    fn dir(&self) -> PathBuf {
        self.dir.path().join("a/plugins")
    }

    /// Loads and runs the test plugin in an engine of its own.
    fn run(&self) {
        let options = EngineOptions {
            cache_dir: Some(self.dir()),
            max_instances: 4,
        };
        let engine = PluginEngine::new(options).unwrap();
        let plugin = engine.load(Guest::passthrough().build(), "p").unwrap();
        let mut instance = plugin
            .instantiate(context(), &Grants::default(), &limits(), Box::new(NoState))
            .unwrap();
        assert_eq!(instance.process(&batch(2)).unwrap().len(), 2);
    }

    fn entries(&self) -> Vec<PathBuf> {
        let mut entries: Vec<_> = fs::read_dir(self.dir())
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        entries.sort();
        entries
    }
}

#[test]
fn code_is_compiled_once() {
    use std::os::unix::fs::PermissionsExt;
    let cached = Cached::new();
    cached.run();
    let [entry] = &cached.entries()[..] else {
        panic!("one entry expected")
    };
    let name = entry.file_name().unwrap().to_str().unwrap();
    assert!(
        name.starts_with(Digest::of(&Guest::passthrough().build()).as_str()),
        "{name}"
    );
    assert!(name.ends_with(".cwasm"), "{name}");
    let mode = |path: &std::path::Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&cached.dir()), mode(entry)), (0o700, 0o600));
    // A second run leaves the entry as it is.
    let written = fs::read(entry).unwrap();
    cached.run();
    assert_eq!(fs::read(entry).unwrap(), written);
    assert_eq!(cached.entries().len(), 1);
}

#[test]
fn damaged_entries_are_compiled_again() {
    let cached = Cached::new();
    cached.run();
    let entry = cached.entries().pop().unwrap();
    let whole = fs::read(&entry).unwrap();
    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 1;
    for damaged in [&flipped[..], &whole[..whole.len() / 2], b"", b"MSW1"] {
        fs::write(&entry, damaged).unwrap();
        cached.run();
        assert_eq!(fs::read(&entry).unwrap(), whole);
    }
}

#[test]
fn a_directory_that_others_can_write_to_is_not_used() {
    use std::os::unix::fs::PermissionsExt;
    for mode in [0o777, 0o720, 0o702] {
        let cached = Cached::new();
        fs::create_dir_all(cached.dir()).unwrap();
        fs::set_permissions(cached.dir(), fs::Permissions::from_mode(mode)).unwrap();
        cached.run();
        assert!(cached.entries().is_empty(), "{mode:o}");
    }
}

#[test]
fn an_entry_that_others_can_write_to_is_compiled_again() {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt};
    let cached = Cached::new();
    cached.run();
    let entry = cached.entries().pop().unwrap();
    let written = fs::metadata(&entry).unwrap().ino();
    cached.run();
    assert_eq!(fs::metadata(&entry).unwrap().ino(), written);
    for mode in [0o620, 0o602] {
        let before = fs::metadata(&entry).unwrap().ino();
        fs::set_permissions(&entry, fs::Permissions::from_mode(mode)).unwrap();
        cached.run();
        let after = fs::metadata(&entry).unwrap();
        assert_eq!(after.mode() & 0o777, 0o600, "a new file is in its place");
        assert_ne!(after.ino(), before);
    }
}

#[test]
fn what_belongs_to_another_user_is_not_used() {
    let cached = Cached::new();
    cached.run();
    let entry = cached.entries().pop().unwrap();
    let before = fs::metadata(&entry).unwrap();
    // Only root can give a file away.
    let nobody = Some(65_534);
    if std::os::unix::fs::chown(&entry, nobody, None).is_err() {
        return;
    }
    cached.run();
    let after = fs::metadata(&entry).unwrap();
    use std::os::unix::fs::MetadataExt as _;
    assert_eq!(after.uid(), before.uid());
    assert_ne!(after.ino(), before.ino());

    fs::remove_file(&entry).unwrap();
    std::os::unix::fs::chown(cached.dir(), nobody, None).unwrap();
    cached.run();
    assert!(cached.entries().is_empty());
}

#[test]
fn the_least_recently_used_go_first() {
    let cached = Cached::new();
    fs::create_dir_all(cached.dir()).unwrap();
    fs::set_permissions(
        cached.dir(),
        std::os::unix::fs::PermissionsExt::from_mode(0o700),
    )
    .unwrap();
    for i in 0..120u64 {
        let path = cached.dir().join(format!("{i:03}.cwasm"));
        let file = fs::File::create(&path).unwrap();
        file.set_modified(std::time::UNIX_EPOCH + Duration::from_secs(i))
            .unwrap();
    }
    cached.run();
    let entries = cached.entries();
    assert_eq!(entries.len(), 100);
    assert!(entries[0].ends_with("021.cwasm"), "{:?}", entries[0]);
}

#[test]
fn instances_are_limited() {
    let options = EngineOptions {
        cache_dir: None,
        max_instances: 2,
    };
    let engine = PluginEngine::new(options).unwrap();
    let plugin = engine.load(Guest::passthrough().build(), "p").unwrap();
    let make = || plugin.instantiate(context(), &Grants::default(), &limits(), Box::new(NoState));
    let (first, _second) = (make().unwrap(), make().unwrap());
    assert_eq!(make().unwrap_err().kind(), "instantiate");
    drop(first);
    make().unwrap();
}
