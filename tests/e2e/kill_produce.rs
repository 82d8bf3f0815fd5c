//! SIGKILL while `produce` writes: what it said is acknowledged is there, and no record is torn.

use std::collections::BTreeSet;
use std::path::Path;

use crate::support::{Finished, Random, Sandbox, note};

/// Kills under each durability after something was acknowledged, and before everything was.
const KILLS: u32 = 4;
/// Kills of any kind after which the test gives up.
const MAX_ATTEMPTS: u32 = 60;
/// Records in the file.
const RECORDS: u64 = 400_000;

/// Record `number` as it is produced: text that a torn or mixed-up record would not have.
fn line(number: u64) -> String {
    let sum = Random::from_seed(number).next();
    format!(r#"{{"number":{number},"sum":"{sum:016x}","padding":"{sum:040}"}}"#)
}

/// The last number of acknowledged records that a killed `produce` has printed.
fn acknowledged(finished: &Finished) -> u64 {
    let words: Vec<&str> = finished.stderr.split_whitespace().collect();
    words
        .windows(3)
        .filter(|words| words[0] == "acknowledged" && words[2].starts_with("records"))
        .map(|words| words[1].parse().unwrap())
        .next_back()
        .unwrap_or(0)
}

/// Asserts that a topic holds the first records of the file, at least `acknowledged` of them, each
/// once, whole and in order; returns how many.
fn assert_stored(sandbox: &Sandbox, topic: &str, acknowledged: u64) -> u64 {
    let records = sandbox.consume(topic);
    let mut numbers = BTreeSet::new();
    let mut last = [None; 3];
    for record in &records {
        let number = record.value_json()["number"].as_u64().unwrap();
        assert_eq!(record.value_text(), line(number));
        assert_eq!(record.key_text(), number.to_string());
        assert!(numbers.insert(number), "twice: {record:?}");
        let last = &mut last[record.partition as usize];
        assert!(*last < Some(number), "out of order: {record:?}");
        *last = Some(number);
    }
    let stored = records.len() as u64;
    assert!(
        stored >= acknowledged,
        "{acknowledged} records were acknowledged, {stored} are there"
    );
    // Commits are written in their order and as one: what is there has no gaps.
    assert_eq!(numbers.last().map_or(0, |last| last + 1), stored);
    stored
}

fn kill_produce(durability: &'static str, file: &Path) {
    let sandbox = Sandbox::with_durability(durability);
    let mut random = Random::from_environment();
    let mut window_ms = 300;
    let mut landed = 0;
    for attempt in 0.. {
        assert!(
            attempt < MAX_ATTEMPTS,
            "only {landed} kills came in between"
        );
        let topic = format!("records-{attempt}");
        let produce = sandbox.start(&[
            "produce",
            &format!("topic:{topic}"),
            "--create",
            "--partitions",
            "3",
            "--key-field",
            "number",
            "--progress-interval",
            "1ms",
            "--file",
            file.to_str().unwrap(),
        ]);
        std::thread::sleep(random.within_ms(0..window_ms));
        let (was_killed, finished) = produce.kill();
        let acknowledged = acknowledged(&finished);
        let has_topic = sandbox.data_dir().exists()
            && sandbox.run(&["topic", "describe", &topic]).status.success();
        assert!(has_topic || acknowledged == 0);
        let stored = match has_topic {
            true => assert_stored(&sandbox, &topic, acknowledged),
            false => 0,
        };
        note(format_args!(
            "{durability}: {acknowledged} records acknowledged, {stored} stored"
        ));
        if was_killed && (1..RECORDS).contains(&acknowledged) {
            landed += 1;
        } else if acknowledged == 0 {
            window_ms += window_ms / 5;
        } else {
            window_ms -= window_ms / 5;
        }
        if landed == KILLS {
            return;
        }
    }
}

#[test]
fn what_was_acknowledged_is_there() {
    let folder = Sandbox::new();
    let file = folder.write_lines("records.jsonl", (0..RECORDS).map(line));
    for durability in ["sync", "interval(20)", "os"] {
        kill_produce(durability, &file);
    }
}
