//! A kill at each step of the commits that take messages out of a queue: that they are delivered, and
//! that they are acknowledged.
//!
//! It fails when messages are handed out before their delivery is stored, when an acknowledgement is
//! answered before it is written, and when a message is acknowledged before it is printed.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::Value;

use crate::support::Sandbox;

/// Messages of the queue: `consume` leases 500 at a time, so this takes 16 commits.
const MESSAGES: u64 = 4_000;
/// How long the thread has to come to the step again after it has said that it was there.
const TO_THE_NEXT: Duration = Duration::from_millis(100);

/// Delivery counts by offset; the last line may have been cut off by a kill.
fn deliveries(printed: &str) -> BTreeMap<u64, u64> {
    let lines = printed.split_inclusive('\n');
    lines
        .filter(|line| line.ends_with('\n'))
        .map(|line| {
            let message: Value = serde_json::from_str(line).unwrap();
            let number = |key: &str| message[key].as_u64().unwrap();
            assert_eq!(message["value"], number("offset").to_string());
            (number("offset"), number("delivery_count"))
        })
        .collect()
}

fn kill_at(step: &str) {
    let sandbox = Sandbox::new();
    let lines = (0..MESSAGES).map(|number| number.to_string());
    let file = sandbox.write_lines("numbers.txt", lines);
    let file = file.to_str().unwrap();
    sandbox.succeed(&[
        "produce", "queue:q", "--create", "--format", "lines", "--file", file,
    ]);
    let mut printed = BTreeMap::<u64, u64>::new();
    let mut gone = BTreeSet::<u64>::new();
    // With each kill some are taken out, until nothing is left.
    for passes in [1, 0, 2, 1] {
        let mut command = sandbox.command(&[
            "consume", "queue:q", "--ack", "--max", "1200", "--output", "json",
        ]);
        let before = match passes {
            0 => String::new(),
            passes => format!("{passes}*off->"),
        };
        command
            .env(
                "FAILPOINTS",
                format!("{step}={before}1*print(is near)->pause"),
            )
            .env("RUST_LOG", "warn,fail=info");
        let mut run = sandbox.start_command(command);
        run.wait_for_error("is near");
        std::thread::sleep(TO_THE_NEXT);
        let (was_killed, finished) = run.kill();
        assert!(was_killed, "{step}: it ended by itself");
        let now = deliveries(&finished.stdout);
        let peek = ["queue", "peek", "q", "--max", "100000", "--output", "json"];
        let left = deliveries(&sandbox.succeed(&peek));
        for (offset, count) in &now {
            let earlier = printed.insert(*offset, *count);
            assert!(
                earlier.is_none_or(|earlier| earlier < *count),
                "{offset} came back"
            );
            assert!(
                !gone.contains(offset),
                "{offset} was acknowledged and came back"
            );
            // What was printed was delivered.
            assert!(left.get(offset).is_none_or(|stored| stored >= count));
        }
        gone.extend(printed.keys().filter(|offset| !left.contains_key(offset)));
        let all: BTreeSet<u64> = printed.keys().chain(left.keys()).copied().collect();
        assert_eq!(all.len() as u64, MESSAGES, "{step}: messages are lost");
    }
    let rest = sandbox.succeed(&["consume", "queue:q", "--ack", "--output", "json"]);
    let rest = deliveries(&rest);
    for (offset, count) in &rest {
        assert!(!gone.contains(offset));
        assert!(printed.get(offset).is_none_or(|earlier| earlier < count));
    }
    printed.extend(rest);
    assert_eq!(printed.len() as u64, MESSAGES);
    assert_eq!(sandbox.json(&["queue", "describe", "q"])["waiting"], 0);
}

#[test]
fn a_kill_before_a_commit_of_a_queue_is_written() {
    kill_at("commit::before-write");
}

#[test]
fn a_kill_after_a_commit_of_a_queue_is_written() {
    kill_at("commit::after-write");
}

#[test]
fn a_kill_before_a_commit_of_a_queue_is_answered() {
    kill_at("commit::before-reply");
}
