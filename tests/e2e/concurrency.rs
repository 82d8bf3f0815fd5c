//! Several instances of a plugin in each task: nothing is lost or doubled, and the order of each key is kept.
//!
//! What these checks catch was tried by breaking the engine by hand:
//!
//! | break | caught by |
//! |---|---|
//! | a lane's offsets are not stored beyond the committed offset | `kills_*` |
//! | what is stored beyond the offset is not looked at after a restart | `kills_*`, `the_number_of_instances_can_change` |
//! | records of a key go to any lane that is free | `kills_with_state_*`, `retries_keep_*` |
//! | state without an order is not refused | `state_needs_the_order_of_its_keys` |

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::support::counting::{self, Workload};
use crate::support::{Random, Sandbox, note};

fn produce(sandbox: &Sandbox, records: impl IntoIterator<Item = Value>) {
    let lines = records.into_iter().map(|record| record.to_string());
    let file = sandbox.write_lines("records.jsonl", lines);
    sandbox.produce_records("in", &file);
}

fn run(sandbox: &Sandbox) -> Value {
    sandbox.json(&["run", "millstream.toml", "--until-idle"])
}

fn record(key: &str, value: String) -> Value {
    json!({ "key": key, "value": value })
}

/// Values of the output, in its order.
fn values(sandbox: &Sandbox) -> Vec<String> {
    let out = sandbox.consume("out");
    out.iter()
        .map(|record| record.value_text().to_owned())
        .collect()
}

/// Kills runs at random moments; `settings` are those of each run.
fn kill_runs<'a>(
    sandbox: &Sandbox,
    random: &mut Random,
    count: usize,
    mut before: impl FnMut(usize) + 'a,
) {
    for number in 0..count {
        before(number);
        let running = sandbox.start(&["run", "millstream.toml", "--until-idle"]);
        std::thread::sleep(random.within_ms(60..500));
        let (was_running, _) = running.kill();
        note(format_args!("killed while running: {was_running}"));
    }
}

/// State is kept by key: the counts of each key are those of a fold over its records, in their order.
#[test]
fn kills_with_state_count_every_record_once() {
    let sandbox = Sandbox::new();
    let concurrent = counting::MANIFEST
        .replace("plugin = \"count\"", "plugin = \"count\"\nconcurrency = 4")
        .replace(
            "plugin = \"passthrough\"",
            "plugin = \"passthrough\"\nconcurrency = 3",
        );
    sandbox.manifest(&concurrent);
    let mut random = Random::from_environment();
    let mut workload = Workload::new(11);
    workload.produce(&sandbox, 20_000);
    kill_runs(&sandbox, &mut random, 8, |_| {});
    sandbox.run_until_idle();
    workload.assert_counted_once(&sandbox);
    // Everything counts as processed, and nothing is left beyond the offsets.
    for pipeline in ["count", "copy"] {
        let described = sandbox.json(&["pipeline", "describe", pipeline]);
        assert_eq!(described["lag_records"], 0, "{described}");
    }
}

/// What is done beyond the committed offset counts, whatever number of instances the next run has.
#[test]
fn the_number_of_instances_can_change() {
    const RECORDS: u64 = 30_000;
    let sandbox = Sandbox::new();
    let mut random = Random::from_environment();
    let manifest = |concurrency: u32| {
        let settings = format!(
            "concurrency = {concurrency}\nallow = {{ clocks = true }}\nbatch = {{ max-records = 4 }}"
        );
        sandbox.wire_suspect("testing-slow", 2, &settings);
    };
    manifest(1);
    produce(
        &sandbox,
        (0..RECORDS).map(|number| record(&format!("k{}", number % 50), format!("record {number}"))),
    );
    let counts = [8, 1, 3, 16, 2, 1];
    kill_runs(&sandbox, &mut random, counts.len(), |at| {
        manifest(counts[at])
    });
    manifest(1);
    run(&sandbox);
    let mut by_key: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for record in sandbox.consume("out") {
        let number = record
            .value_text()
            .split(' ')
            .nth(1)
            .unwrap()
            .parse()
            .unwrap();
        by_key
            .entry(record.key_text().to_owned())
            .or_default()
            .push(number);
    }
    for (key, numbers) in &by_key {
        assert!(numbers.is_sorted_by(|a, b| a < b), "{key}: {numbers:?}");
    }
    assert_eq!(by_key.values().map(Vec::len).sum::<usize>() as u64, RECORDS);
}

/// State that is spread over so many instances cannot be read by another number of them.
#[test]
fn state_keeps_its_number_of_instances() {
    let sandbox = Sandbox::new();
    let manifest = |concurrency: u32| {
        sandbox.wire_suspect(
            "testing-stateful-count",
            1,
            &format!("concurrency = {concurrency}"),
        );
    };
    manifest(2);
    produce(
        &sandbox,
        (0..10).map(|number| record("k", number.to_string())),
    );
    run(&sandbox);
    manifest(3);
    sandbox
        .run(&["run", "millstream.toml", "--until-idle"])
        .expect_failure()
        .expect_error(&["`suspect`", "2 instances", "concurrency = 3"]);
    manifest(2);
    run(&sandbox);
    assert_eq!(sandbox.consume("out").len(), 10);
}

/// Without an order records go to any instance, and the state of a key would be at several.
#[test]
fn state_needs_the_order_of_its_keys() {
    let sandbox = Sandbox::new();
    sandbox.wire_suspect(
        "testing-stateful-count",
        1,
        "concurrency = 2\nretry = { order = \"none\" }",
    );
    produce(&sandbox, [record("k", "v".to_owned())]);
    sandbox
        .run(&["run", "millstream.toml", "--until-idle"])
        .expect_failure()
        .expect_error(&["`suspect`", "keeps state", "retry.order = \"none\""]);
    assert!(sandbox.consume("out").is_empty());
}

/// Records of a few keys, some of which fail once or twice.
fn troubled(random: &mut Random, count: u64) -> Vec<Value> {
    (0..count)
        .map(|number| {
            let key = format!("k{}", random.within(0..20));
            let word = match random.within(0..100) {
                0..3 => format!("retry-{}", random.within(1..3)),
                3 => "trap-1".to_owned(),
                _ => "fine".to_owned(),
            };
            record(&key, format!("{word} {key}/{number}"))
        })
        .collect()
}

/// Failing records keep the order of their keys, also over kills.
#[test]
fn retries_keep_the_order_of_each_key_in_many_instances() {
    const RECORDS: u64 = 3_000;
    let sandbox = Sandbox::new();
    let mut random = Random::from_environment();
    sandbox.wire_suspect(
        "testing-flaky",
        2,
        "concurrency = 4\nretry = { initial = \"10ms\" }\nbatch = { max-records = 16 }",
    );
    produce(&sandbox, troubled(&mut random, RECORDS));
    kill_runs(&sandbox, &mut random, 4, |_| {});
    assert_eq!(run(&sandbox)["dead_letters"], 0);
    let out = sandbox.consume("out");
    assert_eq!(out.len() as u64, RECORDS);
    let mut last: BTreeMap<String, u64> = BTreeMap::new();
    for record in &out {
        let number = record
            .value_text()
            .split(['/', ' '])
            .nth(2)
            .unwrap()
            .parse()
            .unwrap();
        let before = last.insert(record.key_text().to_owned(), number);
        assert!(
            before.is_none_or(|before| before < number),
            "{} after {before:?}",
            record.value_text()
        );
    }
}

/// Messages of a queue go to many instances, and each comes out once.
#[test]
fn many_instances_share_a_queue() {
    const MESSAGES: u64 = 5_000;
    let sandbox = Sandbox::new();
    sandbox.manifest(
        r#"
name = "shared"

[topics.out]

[queues.work]

[plugins.slow]
path = "{testing-slow}"

[pipelines.slow]
from = "queue:work"
plugin = "slow"
to = "topic:out"
concurrency = 5
allow = { clocks = true }
"#,
    );
    let file = sandbox.write_lines(
        "numbers.txt",
        (0..MESSAGES).map(|number| number.to_string()),
    );
    let file = file.to_str().unwrap();
    sandbox.succeed(&[
        "produce",
        "queue:work",
        "--create",
        "--format",
        "lines",
        "--file",
        file,
    ]);
    let mut random = Random::from_environment();
    kill_runs(&sandbox, &mut random, 4, |_| {});
    run(&sandbox);
    let mut numbers: Vec<u64> = values(&sandbox)
        .iter()
        .map(|value| value.parse().unwrap())
        .collect();
    numbers.sort_unstable();
    assert_eq!(numbers, (0..MESSAGES).collect::<Vec<_>>());
    assert_eq!(sandbox.json(&["queue", "describe", "work"])["waiting"], 0);
}

/// At-most-once doubles nothing, however many instances there are.
#[test]
fn at_most_once_doubles_nothing_in_many_instances() {
    const RECORDS: u64 = 20_000;
    let sandbox = Sandbox::new();
    sandbox.wire_suspect(
        "testing-slow",
        2,
        "concurrency = 4\ndelivery = \"at-most-once\"\nallow = { clocks = true }\nbatch = { max-records = 8 }",
    );
    produce(
        &sandbox,
        (0..RECORDS).map(|number| record(&format!("k{}", number % 50), format!("record {number}"))),
    );
    let mut random = Random::from_environment();
    kill_runs(&sandbox, &mut random, 5, |_| {});
    run(&sandbox);
    let out = values(&sandbox);
    let distinct: std::collections::BTreeSet<_> = out.iter().collect();
    assert_eq!(distinct.len(), out.len());
}
