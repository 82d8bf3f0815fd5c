//! A key that fails all the time, under `retry.order = "key"`: the others go on, memory stays flat however much
//! queues up behind it, and its order holds when it heals. What stops a task is what bounds it: too many keys, and
//! a disk that runs low. What it does to the latency of the others is measured
//! by `cargo xtask bench poison`.
//!
//! What these checks catch was tried by breaking the engine by hand:
//!
//! | break | caught by |
//! |---|---|
//! | records behind a failed one of their key run | the peak of memory; without it, the order of the hot key |
//! | the task takes no new records while one is parked | `is poison` never comes |
//! | a lane runs parked records before all others | `a_key_that_heals_*` |
//! | a task takes new records however many keys are parked, or none any more | `too_many_keys_*` |
//! | a task takes new records whatever room the disk has, or none any more | `a_disk_that_runs_low_*` |
//! | parked records are kept in memory | the peak of memory, and `retry::parked::tests::records_in_memory_are_bounded` |

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::support::{Sandbox, note};

/// Records of the key that fails, of which each has 1 KiB.
const HOT_RECORDS: usize = 100_000;
/// Records of other keys, among them.
const OTHER_RECORDS: usize = 2_000;
/// Far less than the hot key's records take, and more than a run needs.
const LIMIT_BYTES: u64 = 200 << 20;

/// `in` → `suspect` → `out` → a pipeline that says when it sees the last record.
fn manifest(sandbox: &Sandbox, plugin: &str) {
    sandbox.manifest(&format!(
        r#"
name = "hot-key"

[topics.in]
[topics.out]
[topics.told]

[plugins.suspect]
path = "{{{plugin}}}"

[plugins.logs]
path = "{{testing-logs}}"

[pipelines.suspect]
from = "topic:in"
plugin = "suspect"
to = "topic:out"
limits = {{ deadline = "30s" }}
retry = {{ max-attempts = 1000000, initial = "1ms", max = "4ms", order = "key" }}

[pipelines.watch]
from = "topic:out"
plugin = "logs"
to = "topic:told"
limits = {{ deadline = "30s" }}
"#
    ));
}

/// The keys of the output of `testing-flaky`, which reads records one by one, and what it logs.
fn run_with(
    failpoint: &str,
    concurrency: u32,
    retry: &str,
    records: &[(&str, &str)],
) -> (Vec<String>, String) {
    let sandbox = Sandbox::new();
    let settings = format!(
        "limits = {{ deadline = \"30s\" }}\nbatch = {{ max-records = 1, max-bytes = \"1KiB\" }}\nconcurrency = {concurrency}\n\
         retry = {{ max-attempts = 1000000, jitter = \"none\", order = \"key\", {retry} }}"
    );
    sandbox.wire_suspect("testing-flaky", 1, &settings);
    let lines = records
        .iter()
        .map(|(key, value)| json!({ "key": key, "value": value }));
    let file = sandbox.write_lines("records.jsonl", lines.map(|record| record.to_string()));
    sandbox.produce_records("in", &file);
    let mut command = sandbox.command(&["run", "millstream.toml", "--until-idle"]);
    command
        .env("FAILPOINTS", failpoint)
        .env("RUST_LOG", "warn,millstream::pipeline::retry=info");
    let finished = sandbox.start_command(command).wait().expect_code(0);
    let out = sandbox.consume("out");
    let keys = out.iter().map(|record| record.key_text().to_owned());
    (keys.collect(), finished.stderr)
}

const TAKES_NONE: &str = "takes no new ones until";
const TAKES_AGAIN: &str = "takes new records again";

#[test]
fn too_many_keys_stop_a_task_until_some_are_done() {
    let records = [
        ("a", "retry-30 first"),
        ("b", "retry-60 first"),
        ("a", "behind"),
        ("c", "retry-90 first"),
        ("d", "other"),
        ("a", "last"),
    ];
    let retry = "initial = \"5ms\", max = \"5ms\"";
    let (keys, log) = run_with("retry::max-groups=return(3)", 1, retry, &records);
    assert_eq!(keys.len(), records.len());
    // The fourth key comes when the first one of the others is done.
    assert_eq!(keys[0], "a", "{keys:?}");
    assert!(keys[..4].iter().any(|key| key == "d"), "{keys:?}");
    assert_eq!(log.matches(TAKES_NONE).count(), 1, "{log}");
    assert_eq!(log.matches(TAKES_AGAIN).count(), 1, "{log}");
}

#[test]
fn a_disk_that_runs_low_stops_a_task_until_there_is_room() {
    // The disk is asked each second. It has room again before the first key is done, which takes 5 s, or not at all: then
    // the others come when nothing waits to be tried again.
    for (failures, disk, expected) in [
        (200, "2*return->off", ["b", "a", "a"]),
        (20, "return", ["a", "b", "a"]),
    ] {
        let first = format!("retry-{failures} first");
        let records = [("a", &*first), ("b", "other"), ("a", "last")];
        let retry = "initial = \"25ms\", max = \"25ms\"";
        let (keys, log) = run_with(&format!("disk::is-low={disk}"), 1, retry, &records);
        assert_eq!(keys, expected, "{disk}");
        assert_eq!(log.matches(TAKES_NONE).count(), 1, "{log}");
        assert_eq!(log.matches(TAKES_AGAIN).count(), 1, "{log}");
    }
}

/// As `too_many_keys_*`, with several instances.
#[test]
fn too_many_keys_stop_several_instances_until_some_are_done() {
    let keys: Vec<String> = (0..30).map(|at| format!("k{at}")).collect();
    // So large that they are read a few at a time.
    let value = format!("retry-5 {}", "x".repeat(900));
    let records: Vec<(&str, &str)> = keys.iter().map(|key| (&**key, &*value)).collect();
    let retry = "initial = \"20ms\", max = \"20ms\"";
    let (done, log) = run_with("retry::max-groups=return(3)", 2, retry, &records);
    assert_eq!(done.len(), records.len());
    // Whenever some have been read that are not done.
    let stops = log.matches(TAKES_NONE).count();
    assert!(stops >= 2, "{log}");
    assert_eq!(log.matches(TAKES_AGAIN).count(), stops, "{log}");
}

/// Several instances that keep state: each key has its own. What a key that heals has left waiting is long, and the
/// others of its instance have their turn all the same.
#[test]
fn a_key_that_heals_leaves_others_of_its_instance_their_turn() {
    const HOT: usize = 20_000;
    const OTHERS: usize = 1_000;
    let sandbox = Sandbox::new();
    let wire = |plugin: &str| {
        let settings = "concurrency = 2\nlimits = { deadline = \"30s\" }\n\
             retry = { max-attempts = 1000000, initial = \"1ms\", max = \"4ms\", order = \"key\" }";
        sandbox.wire_suspect(plugin, 1, settings);
    };
    let produce = |key: &dyn Fn(usize) -> String, count: usize| {
        let first = |at| if at == 0 { "trap-1000000" } else { "x" };
        let lines = (0..count).map(|at| json!({ "key": key(at), "value": first(at) }).to_string());
        let file = sandbox.write_lines("records.jsonl", lines);
        sandbox.produce_records("in", &file);
    };
    wire("testing-flaky");
    produce(&|_| "hot".to_owned(), HOT);
    let mut command = sandbox.command(&["run", "millstream.toml"]);
    command.env("RUST_LOG", "error,millstream::pipeline=debug");
    let mut running = sandbox.start_command(command);
    running.wait_for_error("parked records behind others");
    running.wait_for_error("attempt_count=1000");
    running.kill();

    wire("testing-stateful-count");
    produce(&|at| format!("k{}", at % 50), OTHERS);
    sandbox
        .run(&["run", "millstream.toml", "--until-idle"])
        .expect_code(0);
    let out = sandbox.consume("out");
    assert_eq!(out.len(), HOT + OTHERS);
    let hot: Vec<usize> = (0..out.len())
        .filter(|at| out[*at].key_text() == "hot")
        .collect();
    let counted = hot
        .iter()
        .map(|at| out[*at].value_text().parse::<usize>().unwrap());
    assert!(counted.eq(1..=HOT), "the hot key is out of order");
    let last_other = (0..out.len()).rev().find(|at| out[*at].key_text() != "hot");
    let hot_after = hot.iter().filter(|at| Some(**at) > last_other).count();
    note(format_args!(
        "{hot_after} of {HOT} records of the hot key came after all others"
    ));
    assert!(hot_after >= HOT / 4, "{hot_after}");
}

fn records() -> impl Iterator<Item = Value> {
    let filling = "x".repeat(1000);
    (0..HOT_RECORDS + OTHER_RECORDS + 1).map(move |at| {
        let every = HOT_RECORDS / OTHER_RECORDS + 1;
        if at == HOT_RECORDS + OTHER_RECORDS {
            // The last one. `testing-logs` tells of it as an error.
            json!({ "key": "last", "value": "poison" })
        } else if at % every == every - 1 {
            json!({ "key": format!("k{}", at % 97), "value": format!("other {at}") })
        } else if at == 0 {
            json!({ "key": "hot", "value": format!("retry-1000000 {at} {filling}") })
        } else {
            json!({ "key": "hot", "value": format!("hot {at} {filling}") })
        }
    })
}

#[test]
fn a_key_that_fails_all_the_time_costs_the_others_nothing() {
    let sandbox = Sandbox::new();
    manifest(&sandbox, "testing-flaky");
    let file = sandbox.write_lines("records.jsonl", records().map(|record| record.to_string()));
    sandbox.produce_records("in", &file);

    let mut command = sandbox.command(&["run", "millstream.toml"]);
    // On a disk that is slow more memtables wait to be written, up to their bound: here it says nothing.
    command.env("FAILPOINTS", "store::memtable-bytes=return(4194304)");
    command.env("RUST_LOG", "error,millstream::pipeline::settle=debug");
    let mut running = sandbox.start_command(command);
    // The others are done, while it has failed again and again.
    running.wait_for_error("is poison");
    running.wait_for_error("attempt_count=200");
    let peak_bytes = running.peak_memory_bytes();
    running.kill();
    note(format_args!("peak memory: {} MiB", peak_bytes >> 20));
    assert!((1..LIMIT_BYTES).contains(&peak_bytes), "{peak_bytes} bytes");

    // It heals.
    manifest(&sandbox, "passthrough");
    sandbox
        .run(&["run", "millstream.toml", "--until-idle"])
        .expect_code(0);
    let out = sandbox.consume("out");
    assert_eq!(out.len(), HOT_RECORDS + OTHER_RECORDS + 1);
    let mut by_key: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for record in &out {
        let value = record.value_text();
        let (word, rest) = value.split_once(' ').unwrap_or((value, ""));
        if word != "poison" {
            let number = rest.split(' ').next().unwrap().parse().unwrap();
            by_key
                .entry(record.key_text().to_owned())
                .or_default()
                .push(number);
        }
    }
    assert_eq!(by_key["hot"].len(), HOT_RECORDS);
    for (key, numbers) in by_key {
        assert!(numbers.is_sorted_by(|a, b| a < b), "{key} is out of order");
    }
}
