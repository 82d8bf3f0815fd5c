//! SIGKILL while a topic is compacted or retention deletes: nothing goes that has to stay.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::support::{Random, Sandbox, note};

/// Kills of a compaction before its end.
const COMPACTION_KILLS: u32 = 6;
/// Kills of a run whose retention has deleted something.
const RETENTION_KILLS: u32 = 6;
/// Kills that came too late, per kill that is wanted, after which a test gives up.
const MAX_ATTEMPTS: u32 = 10;

/// Versions of keys that replace each other; some end as a tombstone.
struct Versions {
    random: Random,
    newest: BTreeMap<String, Option<String>>,
    made: u64,
}

impl Versions {
    fn next_line(&mut self) -> String {
        self.made += 1;
        let key = format!("key-{}", self.random.within(0..3_000));
        let value = match self.random.within(0..20) {
            0 => None,
            _ => Some(format!("version {:060}", self.made)),
        };
        let line = serde_json::json!({ "key": key, "value": value });
        self.newest.insert(key, value);
        line.to_string()
    }

    /// Asserts that the topic's newest record of each key is the one sent last.
    fn assert_newest(&self, sandbox: &Sandbox) {
        let mut found: BTreeMap<String, Option<String>> = BTreeMap::new();
        let mut last = BTreeMap::new();
        for record in sandbox.consume("versions") {
            let before = last.insert(record.partition, record.offset);
            assert!(before < Some(record.offset), "out of order: {record:?}");
            let value = record
                .value
                .is_some()
                .then(|| record.value_text().to_owned());
            found.insert(record.key_text().to_owned(), value);
        }
        // Tombstones are still within their delay: they stay.
        assert_eq!(found, self.newest);
    }
}

#[test]
fn a_killed_compaction_keeps_the_newest_value_of_each_key() {
    let sandbox = Sandbox::new();
    let create = ["topic", "create", "versions", "--partitions", "2"];
    sandbox.succeed(&[&create[..], &["--cleanup", "compact"]].concat());
    let mut versions = Versions {
        random: Random::from_environment(),
        newest: BTreeMap::new(),
        made: 0,
    };
    let mut window = Duration::from_millis(1000);
    let mut landed = 0;
    for attempt in 0.. {
        assert!(
            attempt < COMPACTION_KILLS * MAX_ATTEMPTS,
            "only {landed} kills landed"
        );
        let lines: Vec<_> = (0..60_000).map(|_| versions.next_line()).collect();
        let file = sandbox.write_lines("versions.jsonl", lines);
        let produce = ["produce", "topic:versions", "--format", "record", "--file"];
        sandbox.succeed(&[&produce[..], &[file.to_str().unwrap()]].concat());

        let compact = sandbox.start(&["topic", "compact", "versions"]);
        let window_us = u64::try_from(window.as_micros()).unwrap();
        std::thread::sleep(Duration::from_micros(versions.random.within(0..window_us)));
        let (was_killed, _) = compact.kill();
        landed += u32::from(was_killed);
        versions.assert_newest(&sandbox);

        let started = Instant::now();
        sandbox.succeed(&["topic", "compact", "versions"]);
        window = started.elapsed();
        versions.assert_newest(&sandbox);
        note(format_args!(
            "compaction takes {window:?}; killed before its end: {was_killed}"
        ));
        if landed == COMPACTION_KILLS {
            return;
        }
    }
}

/// A pipeline that has nothing to do, so that `run` applies the retention of the topic `old`.
const RETENTION: &str = r#"
name = "retention"

[topics.old]
retention-bytes = "256KiB"

[topics.in]

[topics.out]

[plugins.passthrough]
path = "{passthrough}"

[pipelines.pass]
from = "topic:in"
plugin = "passthrough"
to = "topic:out"
"#;

#[test]
fn killed_retention_leaves_an_unbroken_rest() {
    const BATCH: u64 = 20_000;
    let sandbox = Sandbox::new();
    sandbox.manifest(RETENTION);
    // Compiles the plugin, so that the runs to come start fast.
    sandbox.run_until_idle();
    let mut random = Random::from_environment();
    let (mut produced, mut start) = (0, 0);
    let (mut landed, mut window_ms) = (0, 300);
    for attempt in 0.. {
        assert!(
            attempt < RETENTION_KILLS * MAX_ATTEMPTS,
            "only {landed} kills landed"
        );
        if produced < start + 2 * BATCH {
            let lines = (produced..produced + BATCH).map(|number| format!("{number:0100}"));
            let file = sandbox.write_lines("old.jsonl", lines);
            produced += BATCH;
            let produce = ["produce", "topic:old", "--format", "lines", "--file"];
            sandbox.succeed(&[&produce[..], &[file.to_str().unwrap()]].concat());
        }
        let run = sandbox.start(&["run", "millstream.toml"]);
        std::thread::sleep(random.within_ms(0..window_ms));
        assert!(run.kill().0, "the run ended by itself");
        let records = sandbox.consume("old");
        let first = records.first().map_or(produced, |record| record.offset);
        assert!(first >= start, "deleted records came back");
        for (expected, record) in (first..).zip(&records) {
            assert_eq!(record.offset, expected);
            assert_eq!(record.value_text(), format!("{expected:0100}"));
        }
        assert_eq!(
            first + records.len() as u64,
            produced,
            "the newest records stay"
        );
        note(format_args!("starts at {start} -> {first} of {produced}"));
        match first > start {
            true => landed += 1,
            false => window_ms += window_ms / 5,
        }
        start = first;
        if landed == RETENTION_KILLS {
            return;
        }
    }
}
