//! SIGKILL while `produce` writes: what it said is acknowledged is there, and no record is torn.
//!
//! It fails when commits are answered before they are written, and when a partition's new end is not
//! stored with its batches: both were tried.

use std::path::Path;

use millstream::model::partition_for_key;

use crate::support::{Random, Sandbox, note};

/// Kills under each durability after something was acknowledged, and before everything was.
const KILLS: u32 = 4;
/// Kills of any kind after which the test gives up.
const MAX_ATTEMPTS: u32 = 60;
/// Records in the file.
const RECORDS: u64 = 400_000;
/// Partitions of the topics.
const PARTITIONS: u32 = 3;

/// Record `number` as it is produced: text that a torn or mixed-up record would not have.
fn line(number: u64) -> String {
    let sum = Random::from_seed(number).next();
    format!(r#"{{"number":{number},"sum":"{sum:016x}","padding":"{sum:040}"}}"#)
}

/// Asserts that each partition holds the first of its records, each once, whole and in order, and
/// that all together are at least `acknowledged`; returns how many.
fn assert_stored(sandbox: &Sandbox, topic: &str, acknowledged: u64) -> u64 {
    let records = sandbox.consume(topic);
    let mut stored = records.iter().peekable();
    for partition in 0..PARTITIONS {
        let mut sent = (0..RECORDS).filter(|number| {
            partition_for_key(number.to_string().as_bytes(), PARTITIONS) == partition
        });
        while let Some(record) = stored.next_if(|record| record.partition == partition) {
            let number = sent.next().expect("more records than were sent");
            // Commits are written one after another: what is there has no gap.
            assert_eq!(record.key_text(), number.to_string(), "{record:?}");
            assert_eq!(record.value_text(), line(number));
        }
    }
    let stored = records.len() as u64;
    assert!(
        stored >= acknowledged,
        "{acknowledged} records were acknowledged, {stored} are there"
    );
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
            &PARTITIONS.to_string(),
            "--key-field",
            "number",
            "--progress-interval",
            "1ms",
            "--file",
            file.to_str().unwrap(),
        ]);
        std::thread::sleep(random.within_ms(0..window_ms));
        let (was_killed, finished) = produce.kill();
        let acknowledged = finished.acknowledged_records();
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
