//! A key that fails all the time, under `retry.order = "key"`: the others go on, memory stays flat however much
//! queues up behind it, and its order holds when it heals. What it does to the latency of the others is measured
//! by `cargo xtask bench poison`.
//!
//! What these checks catch was tried by breaking the engine by hand:
//!
//! | break | caught by |
//! |---|---|
//! | records behind a failed one of their key run | the peak of memory; without it, the order of the hot key |
//! | the task takes no new records while one is parked | `is poison` never comes |
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
