//! A plugin that misbehaves stops its pipeline, where the manifest asks for that, with a clear error,
//! keeps its position, and harms nobody else; when it is replaced, nothing is lost. Where it does not
//! ask for it, see `retries.rs`.

use serde_json::{Value, json};

use crate::support::{Finished, Sandbox};

/// Records of each partition.
const RECORDS: u64 = 60;
/// Where the poison is: in partition 1.
const POISON: u64 = 37;
/// Settings of a pipeline that stops at the first failure.
const STOP: &str = "retry = { max-attempts = 1 }\ndead-letter = \"stop\"";

/// A data directory whose pipeline `faulty` meets a poisoned record, and whose `healthy` does not.
struct Scene(Sandbox);

impl Scene {
    fn new() -> Self {
        let scene = Self(Sandbox::new());
        scene.wire("passthrough", "");
        let suspects = (0..2).flat_map(|partition| {
            (0..RECORDS).map(move |offset| {
                let word = match (partition, offset) {
                    (1, POISON) => "poison",
                    _ => "record",
                };
                json!({ "partition": partition, "key": format!("{offset}"),
                        "value": format!("{word} {partition}/{offset}") })
            })
        });
        scene.produce("suspects", suspects);
        let fine = (0..RECORDS).map(|offset| json!({ "value": format!("fine {offset}") }));
        scene.produce("fine", fine);
        scene
    }

    fn produce(&self, topic: &str, records: impl IntoIterator<Item = Value>) {
        let lines = records.into_iter().map(|record| record.to_string());
        let file = self.0.write_lines("records.jsonl", lines);
        self.0.produce_records(topic, &file);
    }

    /// Writes the manifest with this plugin, and these further settings, for `faulty`.
    fn wire(&self, plugin: &str, settings: &str) {
        self.0.manifest(&format!(
            r#"
name = "faults"

[topics.suspects]
partitions = 2

[topics.checked]
partitions = 2

[topics.fine]

[topics.finer]

[plugins.passthrough]
path = "{{passthrough}}"

[plugins.suspect]
path = "{{{plugin}}}"

[pipelines.faulty]
from = "topic:suspects"
plugin = "suspect"
to = "topic:checked"
batch = {{ max-records = 10 }}
{settings}

[pipelines.healthy]
from = "topic:fine"
plugin = "passthrough"
to = "topic:finer"
limits = {{ deadline = "30s" }}
"#
        ));
    }

    fn run(&self) -> Finished {
        self.0
            .run(&["run", "millstream.toml", "--until-idle", "--output", "json"])
    }

    /// The committed offset of `faulty` in partition 1.
    fn position(&self) -> u64 {
        let description = self.0.json(&["pipeline", "describe", "faulty"]);
        let position = &description["positions"][1];
        assert_eq!(position["partition"], 1);
        position["committed_offset"].as_u64().unwrap()
    }

    /// Values of `checked`, sorted.
    fn checked(&self) -> Vec<String> {
        let records = self.0.consume("checked");
        let mut values: Vec<_> = records
            .iter()
            .map(|record| record.value_text().to_owned())
            .collect();
        values.sort();
        values
    }

    fn checked_of_partition_1(&self) -> usize {
        let checked = self.checked();
        checked.iter().filter(|value| value.contains(" 1/")).count()
    }

    #[track_caller]
    fn assert_healthy_is_done(&self) {
        assert_eq!(self.0.consume("finer").len() as u64, RECORDS);
    }

    /// Puts `passthrough` in the plugin's place: everything comes through once.
    #[track_caller]
    fn assert_replacing_completes(&self) {
        self.wire("passthrough", "");
        self.run().expect_code(0);
        let suspects = self.0.consume("suspects");
        let of_partition_1 = suspects.iter().filter(|record| record.partition == 1);
        assert_eq!(self.position(), of_partition_1.count() as u64);
        let mut expected: Vec<String> = suspects
            .iter()
            .map(|record| record.value_text().to_owned())
            .collect();
        expected.sort();
        assert_eq!(self.checked(), expected);
        self.assert_healthy_is_done();
    }
}

/// Runs a plugin that faults on the poisoned record, which the error has to name with `reasons`.
fn assert_stops(plugin: &str, settings: &str, reasons: &[&str]) {
    let scene = Scene::new();
    let settings = format!("{STOP}\n{settings}");
    scene.wire(plugin, &settings);
    let finished = scene
        .run()
        .expect_code(1)
        .expect_error(&[
            "error: pipeline `faulty`, partition 1, stopped: ",
            &format!("topic `suspects`, partition 1, offset {POISON}: "),
        ])
        .expect_error(reasons);
    let summary: Value = serde_json::from_str(&finished.stdout).unwrap();
    assert_eq!(summary["outcome"], "failed");
    let failures = summary["failures"].as_array().unwrap();
    assert_eq!(failures.len(), 1, "{failures:?}");
    assert_eq!(failures[0]["pipeline"], "faulty");
    assert_eq!(failures[0]["partition"], 1);

    assert_eq!(scene.position(), POISON, "the position is kept");
    assert_eq!(scene.checked_of_partition_1() as u64, POISON);
    scene.assert_healthy_is_done();

    // The same again: it stops at the same record and nothing comes twice.
    scene.run().expect_code(1).expect_error(reasons);
    assert_eq!(scene.position(), POISON);
    assert_eq!(scene.checked_of_partition_1() as u64, POISON);
    scene.assert_replacing_completes();
}

#[test]
fn a_plugin_that_loops() {
    assert_stops(
        "testing-loops",
        "limits = { deadline = \"200ms\" }",
        &["ran past its deadline of 200ms", "limits.deadline"],
    );
}

#[test]
fn a_plugin_that_allocates_without_end() {
    assert_stops(
        "testing-allocates",
        "limits = { deadline = \"30s\", memory = \"32MiB\" }",
        &[
            "needs more memory than its limit of 33554432 bytes",
            "limits.memory",
        ],
    );
}

#[test]
fn a_plugin_that_traps() {
    assert_stops(
        "testing-traps",
        "",
        &["the plugin trapped", "a poisoned record at offset 37"],
    );
}

#[test]
fn a_trap_is_logged_once_and_not_with_each_step_of_the_search() {
    let scene = Scene::new();
    scene.wire("testing-traps", STOP);
    let finished = scene.run().expect_code(1);
    let lines = finished.stderr.lines();
    let logged = lines.filter(|line| {
        line.contains("WARN") && line.contains("stderr") && line.contains("a poisoned record")
    });
    assert_eq!(logged.count(), 1, "{}", finished.stderr);
}

#[test]
fn a_plugin_that_returns_an_index_out_of_range() {
    assert_stops(
        "testing-bad-index",
        "",
        &["the plugin returned bad output", "source"],
    );
}

#[test]
fn a_plugin_that_returns_a_wrong_number_processed() {
    assert_stops(
        "testing-wrong-processed",
        "",
        &["the plugin returned bad output", "`processed`"],
    );
}

#[test]
fn a_plugin_that_returns_too_much() {
    assert_stops(
        "testing-greedy-output",
        "limits = { deadline = \"30s\" }",
        &[
            "the plugin returned bad output",
            "at most 16777216 are allowed in one call (limits.output)",
        ],
    );
}

#[test]
fn a_plugin_that_returns_an_error() {
    assert_stops(
        "testing-process-error",
        "",
        &["the plugin returned an error: the batch holds poison"],
    );
}

#[test]
fn a_plugin_that_rejects_a_record() {
    assert_stops(
        "testing-rejects",
        "",
        &["the plugin rejected the record: the record is poison"],
    );
}

#[test]
fn a_plugin_that_asks_to_retry() {
    assert_stops(
        "testing-retries",
        "",
        &["the plugin asks to retry the record: the record is poison for now"],
    );
}

#[test]
fn a_plugin_that_does_not_open() {
    let scene = Scene::new();
    scene.wire("testing-open-fails", "");
    scene.run().expect_code(1).expect_error(&[
        "error: pipeline `faulty`, partition ",
        "could not be opened: the plugin refused to open: this plugin never opens",
    ]);
    assert_eq!(scene.position(), 0);
    assert!(scene.checked().is_empty());
    scene.assert_healthy_is_done();
    scene.assert_replacing_completes();
}

/// Runs a plugin that cannot run in its pipeline: only that pipeline stops.
fn assert_refused(plugin: &str, reasons: &[&str]) {
    let scene = Scene::new();
    scene.run().expect_code(0);
    let late = json!({ "partition": 1, "key": "late", "value": "record 1/late" });
    scene.produce("suspects", [late]);
    scene.produce("fine", [json!({ "value": "late" })]);
    scene.wire(plugin, "");
    let check = scene.0.run(&["check", "millstream.toml"]);
    check.expect_code(2).expect_error(reasons);
    let finished = scene
        .run()
        .expect_code(1)
        .expect_error(&["error: pipeline `faulty`, stopped: its plugin `suspect` cannot run: "])
        .expect_error(reasons);
    let summary: Value = serde_json::from_str(&finished.stdout).unwrap();
    assert_eq!(summary["outcome"], "failed");
    let failures = summary["failures"].as_array().unwrap();
    assert_eq!(failures.len(), 1, "{failures:?}");
    assert_eq!(failures[0]["pipeline"], "faulty");
    assert_eq!(failures[0]["partition"], Value::Null);
    assert_eq!(scene.position(), RECORDS, "the position is kept");
    assert_eq!(scene.checked().len() as u64, 2 * RECORDS);
    assert_eq!(scene.0.consume("finer").len() as u64, RECORDS + 1);
    scene.wire("passthrough", "");
    scene.run().expect_code(0);
    assert_eq!(scene.position(), RECORDS + 1);
    assert_eq!(scene.checked().len() as u64, 2 * RECORDS + 1);
}

#[test]
fn a_plugin_that_imports_what_nobody_grants() {
    assert_refused(
        "testing-imports-ungranted",
        &[
            "imports what it is not granted",
            "wasi:sockets/instance-network",
        ],
    );
}

#[test]
fn a_plugin_that_imports_the_clock_without_a_grant() {
    assert_refused(
        "testing-reads-clock",
        &[
            "imports what it is not granted",
            "wasi:clocks",
            "allow = { clocks = true }",
        ],
    );
}

#[test]
fn a_plugin_of_the_wrong_kind() {
    assert_refused(
        "testing-counter",
        &[
            "the pipeline has a `from`, and the plugin is no consumer",
            "use a consumer plugin",
        ],
    );
}

#[test]
fn a_plugin_that_is_no_component() {
    let scene = Scene::new();
    scene
        .0
        .write("broken.wasm", "\0asm\u{d}\0\u{1}\0 and no component");
    let manifest = std::fs::read_to_string(scene.0.path("millstream.toml")).unwrap();
    let (before, suspect) = manifest.split_once("[plugins.suspect]").unwrap();
    let (_, after) = suspect.split_once("\n\n").unwrap();
    let broken = "[plugins.suspect]\npath = \"broken.wasm\"\n\n";
    scene
        .0
        .write("millstream.toml", format!("{before}{broken}{after}"));
    let reasons = ["broken.wasm", "is not a valid component"];
    let check = scene.0.run(&["check", "millstream.toml"]);
    check.expect_code(2).expect_error(&reasons);
    scene
        .run()
        .expect_code(1)
        .expect_error(&["error: pipeline `faulty`, stopped: its plugin `suspect` cannot run: "])
        .expect_error(&reasons);
    scene.assert_healthy_is_done();
    scene.assert_replacing_completes();
}

#[test]
fn a_run_in_which_no_plugin_fits_creates_nothing() {
    let sandbox = Sandbox::new();
    sandbox.manifest(
        r#"
name = "alone"

[topics.in]

[plugins.clock]
path = "{testing-reads-clock}"

[pipelines.alone]
from = "topic:in"
plugin = "clock"
"#,
    );
    let finished = sandbox
        .run(&["run", "millstream.toml", "--output", "json"])
        .expect_code(1)
        .expect_error(&["error: pipeline `alone`, stopped: its plugin `clock` cannot run: "]);
    let summary: Value = serde_json::from_str(&finished.stdout).unwrap();
    assert_eq!(summary["outcome"], "failed");
    assert!(!sandbox.data_dir().exists());
}

#[test]
fn a_plugin_with_a_granted_clock_runs() {
    let scene = Scene::new();
    scene.wire("testing-reads-clock", "allow = { clocks = true }");
    scene.run().expect_code(0);
    let checked = scene.checked();
    assert_eq!(checked.len() as u64, 2 * RECORDS);
    for value in checked {
        let now_ms: u64 = value.parse().unwrap();
        assert!(now_ms > 1_600_000_000_000, "{value} is no time of day");
    }
}

#[test]
fn a_run_ends_when_all_its_pipelines_have_stopped() {
    let sandbox = Sandbox::new();
    sandbox.manifest(
        r#"
name = "alone"

[topics.in]

[topics.out]

[plugins.traps]
path = "{testing-traps}"

[pipelines.alone]
from = "topic:in"
plugin = "traps"
to = "topic:out"
retry = { max-attempts = 1 }
dead-letter = "stop"
"#,
    );
    sandbox.produce("in", ["1", "\"poison\""], None);
    // Not with --until-idle: it would wait for more records.
    sandbox
        .run(&["run", "millstream.toml"])
        .expect_code(1)
        .expect_error(&[
            "error: pipeline `alone`, partition 0, stopped: ",
            "offset 1",
        ]);
}
