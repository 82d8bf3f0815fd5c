//! A record that fails costs nobody else anything, is tried again sensibly, and ends where an engineer
//! can see all of it.
//!
//! The checks of the order have failed on a real fault: a parked record was overtaken by one of its key
//! in a later part of the same batch, when the batch was halved.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::records::Consumed;
use crate::support::{Random, Sandbox, note};

/// A pipeline `suspect` from `in` to `out`, with this plugin and these settings.
fn scene(plugin: &str, partitions: u32, settings: &str) -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.wire_suspect(plugin, partitions, settings);
    sandbox
}

fn produce(sandbox: &Sandbox, records: impl IntoIterator<Item = Value>) {
    let lines = records.into_iter().map(|record| record.to_string());
    let file = sandbox.write_lines("records.jsonl", lines);
    sandbox.produce_records("in", &file);
}

fn run(sandbox: &Sandbox) -> Value {
    let finished = sandbox
        .run(&["run", "millstream.toml", "--until-idle", "--output", "json"])
        .expect_code(0);
    serde_json::from_str(&finished.stdout).unwrap()
}

/// The messages of the pipeline's dead-letter queue.
fn dead_letters(sandbox: &Sandbox) -> Vec<Value> {
    let queue = "queue:suspect.dead-letters";
    let printed = sandbox.succeed(&["consume", queue, "--peek", "--output", "json"]);
    printed
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[track_caller]
fn header<'a>(letter: &'a Value, name: &str) -> &'a str {
    let headers = letter["headers"].as_array().unwrap();
    let found = headers.iter().find(|header| header[0] == name);
    found.unwrap_or_else(|| panic!("no {name} in {letter}"))[1]
        .as_str()
        .unwrap()
}

fn values(records: &[Consumed]) -> Vec<&str> {
    records.iter().map(Consumed::value_text).collect()
}

/// One poisoned record among 200: it becomes a dead letter that tells its story, everything else comes
/// through once, and the pipeline goes on.
#[track_caller]
fn assert_dead_lettered(plugin: &str, settings: &str, reason: &str, attempts: &str, error: &str) {
    const RECORDS: u64 = 200;
    const POISON: u64 = 137;
    let retry = "retry = { max-attempts = 2, initial = \"10ms\" }";
    let sandbox = scene(plugin, 1, &format!("{retry}\n{settings}"));
    produce(
        &sandbox,
        (0..RECORDS).map(|offset| {
            let word = if offset == POISON { "poison" } else { "record" };
            json!({ "key": format!("k{}", offset % 7), "value": format!("{word} {offset}"),
                    "headers": [["traceparent", "00-trace"]] })
        }),
    );
    let summary = run(&sandbox);
    assert_eq!(summary["dead_letters"], 1, "{summary}");
    let out = sandbox.consume("out");
    let mut got: Vec<String> = values(&out).into_iter().map(str::to_owned).collect();
    got.sort();
    let mut expected: Vec<String> = (0..RECORDS)
        .filter(|offset| *offset != POISON)
        .map(|offset| format!("record {offset}"))
        .collect();
    expected.sort();
    assert_eq!(got, expected);

    let letters = dead_letters(&sandbox);
    let [letter] = letters.as_slice() else {
        panic!("{letters:?}");
    };
    assert_eq!(letter["value"], format!("poison {POISON}"));
    assert_eq!(letter["key"], format!("k{}", POISON % 7));
    assert_eq!(header(letter, "traceparent"), "00-trace");
    assert_eq!(
        header(letter, "millstream-origin"),
        format!("topic:in/0/{POISON}")
    );
    assert_eq!(header(letter, "millstream-reason"), reason);
    assert_eq!(header(letter, "millstream-attempts"), attempts);
    assert_eq!(header(letter, "millstream-pipeline"), "suspect");
    assert!(header(letter, "millstream-plugin").starts_with("suspect@"));
    let said = header(letter, "millstream-error");
    assert!(said.contains(error), "{said}");
    let (first, last) = (
        header(letter, "millstream-first-failed-at")
            .parse::<u64>()
            .unwrap(),
        header(letter, "millstream-dead-lettered-at")
            .parse::<u64>()
            .unwrap(),
    );
    assert!(1_600_000_000_000 < first && first <= last, "{first} {last}");
    // Nothing comes again.
    let summary = run(&sandbox);
    assert_eq!(summary["dead_letters"], 0);
    assert_eq!(sandbox.consume("out").len() as u64, RECORDS - 1);
}

#[test]
fn a_record_that_traps() {
    assert_dead_lettered("testing-traps", "", "trap", "2", "a poisoned record");
}

#[test]
fn a_record_that_loops() {
    let limits = "limits = { deadline = \"200ms\" }";
    assert_dead_lettered("testing-loops", limits, "deadline", "2", "limits.deadline");
}

#[test]
fn a_record_that_allocates_without_end() {
    let limits = "limits = { deadline = \"30s\", memory = \"32MiB\" }";
    assert_dead_lettered("testing-allocates", limits, "memory", "2", "limits.memory");
}

#[test]
fn a_record_for_which_an_index_is_out_of_range() {
    assert_dead_lettered("testing-bad-index", "", "output", "2", "source");
}

#[test]
fn a_record_that_is_not_accounted_for() {
    assert_dead_lettered("testing-wrong-processed", "", "output", "2", "`processed`");
}

#[test]
fn a_record_with_too_much_output() {
    let limits = "limits = { deadline = \"30s\" }";
    assert_dead_lettered("testing-greedy-output", limits, "output", "2", "bad output");
}

#[test]
fn a_record_for_which_the_call_returns_an_error() {
    assert_dead_lettered(
        "testing-process-error",
        "",
        "plugin-error",
        "2",
        "the batch holds poison",
    );
}

#[test]
fn a_record_that_is_rejected_goes_at_once() {
    assert_dead_lettered(
        "testing-rejects",
        "",
        "rejected",
        "1",
        "the record is poison",
    );
}

#[test]
fn a_record_that_is_never_ready() {
    assert_dead_lettered(
        "testing-retries",
        "",
        "max-attempts",
        "2",
        "the record is poison for now",
    );
}

/// Under at-most-once nothing is tried again: what fails is a dead letter after one attempt, and a
/// fault takes its batch with it, since some of it may have had effects.
#[test]
fn at_most_once_tries_nothing_again() {
    let sandbox = scene(
        "testing-flaky",
        1,
        "delivery = \"at-most-once\"\nbatch = { max-records = 10 }",
    );
    produce(
        &sandbox,
        (0..30).map(|offset| match offset {
            5 => json!({ "value": "retry-1 5" }),
            17 => json!({ "value": "trap-1 17" }),
            _ => json!({ "value": format!("fine {offset}") }),
        }),
    );
    let summary = run(&sandbox);
    assert_eq!(
        (&summary["retries"], &summary["dead_letters"]),
        (&json!(0), &json!(11))
    );
    let out = sandbox.consume("out");
    let expected = (0..30).filter(|offset| *offset != 5 && !(10..20).contains(offset));
    let expected: Vec<String> = expected.map(|offset| format!("fine {offset} #1")).collect();
    assert_eq!(values(&out), expected);
    let letters = dead_letters(&sandbox);
    let origins: Vec<&str> = letters
        .iter()
        .map(|it| header(it, "millstream-origin"))
        .collect();
    assert_eq!(origins[..2], ["topic:in/0/5", "topic:in/0/10"]);
}

/// Records of a few keys, some of which fail once, twice or thrice, by asking or by trapping.
fn troubled(random: &mut Random, count: u64) -> Vec<Value> {
    (0..count)
        .map(|number| {
            let key = format!("k{}", random.within(0..20));
            let word = match random.within(0..100) {
                0..3 => format!("retry-{}", random.within(1..4)),
                3 => format!("trap-{}", random.within(1..3)),
                _ => "fine".to_owned(),
            };
            json!({ "key": key, "value": format!("{word} {key}/{number}") })
        })
        .collect()
}

/// By key, the numbers of the records in the order of the output.
fn numbers_by_key(out: &[Consumed]) -> BTreeMap<String, Vec<u64>> {
    let mut by_key: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for record in out {
        let value = record.value_text();
        let number = value.split(['/', ' ']).nth(2).unwrap().parse().unwrap();
        by_key
            .entry(record.key_text().to_owned())
            .or_default()
            .push(number);
    }
    by_key
}

/// Everything comes through once; under `key` and `partition` in the order of each key, whatever
/// failed, also over kills and restarts; a record that failed n times says it is delivery n + 1.
fn assert_all_come_through(order: &str, kills: u32) {
    const RECORDS: u64 = 3000;
    let mut random = Random::from_environment();
    let retry = format!(
        "retry = {{ max-attempts = 5, initial = \"20ms\", order = \"{order}\" }}\nbatch = {{ max-records = 64 }}"
    );
    let sandbox = scene("testing-flaky", 2, &retry);
    produce(&sandbox, troubled(&mut random, RECORDS));
    for _ in 0..kills {
        let running = sandbox.start(&["run", "millstream.toml", "--until-idle"]);
        std::thread::sleep(random.within_ms(30..400));
        let (was_running, _) = running.kill();
        note(format_args!("killed while running: {was_running}"));
    }
    let summary = run(&sandbox);
    assert_eq!(summary["dead_letters"], 0, "{summary}");
    assert!(dead_letters(&sandbox).is_empty());
    let out = sandbox.consume("out");
    assert_eq!(out.len() as u64, RECORDS);
    for record in &out {
        let value = record.value_text();
        let (said, delivery) = value.rsplit_once(" #").unwrap();
        let failures = said
            .split(['-', ' '])
            .nth(1)
            .and_then(|count| count.parse().ok());
        let failures: u32 = if said.starts_with("fine") {
            0
        } else {
            failures.unwrap()
        };
        assert_eq!(delivery, (failures + 1).to_string(), "{value}");
    }
    for (key, numbers) in numbers_by_key(&out) {
        if order == "none" {
            let distinct: std::collections::BTreeSet<_> = numbers.iter().collect();
            assert_eq!(distinct.len(), numbers.len(), "{key}");
        } else {
            assert!(numbers.is_sorted_by(|a, b| a < b), "{key}: {numbers:?}");
        }
    }
    if order == "partition" {
        for partition in 0..2 {
            let of_it = out.iter().filter(|record| record.partition == partition);
            let numbers: Vec<u64> = of_it
                .map(|record| {
                    record
                        .value_text()
                        .split(['/', ' '])
                        .nth(2)
                        .unwrap()
                        .parse()
                        .unwrap()
                })
                .collect();
            assert!(numbers.is_sorted(), "partition {partition}");
        }
    }
}

#[test]
fn retries_keep_the_order_of_each_key() {
    assert_all_come_through("key", 0);
}

#[test]
fn retries_keep_the_order_of_each_key_over_kills() {
    assert_all_come_through("key", 5);
}

#[test]
fn retries_keep_the_order_of_the_partition() {
    assert_all_come_through("partition", 2);
}

#[test]
fn retries_without_an_order_lose_and_double_nothing() {
    assert_all_come_through("none", 3);
}

/// A run of poison records is given up on one by one and does not stop the rest.
#[test]
fn a_run_of_poison_records_does_not_stall_the_partition() {
    let sandbox = scene("testing-traps", 1, "retry = { max-attempts = 1 }");
    produce(
        &sandbox,
        (0..600).map(|offset| match offset {
            100..300 => json!({ "value": format!("poison {offset}") }),
            _ => json!({ "value": format!("fine {offset}") }),
        }),
    );
    let summary = run(&sandbox);
    assert_eq!(summary["dead_letters"], 200);
    assert_eq!(sandbox.consume("out").len(), 400);
    assert_eq!(dead_letters(&sandbox).len(), 200);
}

/// Under a stream of failures the log tells the first ones and how many there were besides, and leaves none
/// out of the count; panics do not fill it either.
///
/// Fails when every record has its line, when a summary is missing, also at the end, and when each instance may
/// write as much to stderr as if it were the only one.
#[test]
fn a_stream_of_failures_does_not_drown_the_log() {
    for (plugin, records) in [("testing-rejects", 5_000), ("testing-traps", 300)] {
        let settings = "retry = { max-attempts = 1 }\nbatch = { max-records = 1 }";
        let sandbox = scene(plugin, 1, settings);
        let poison = (0..records).map(|number| json!({ "value": format!("poison {number}") }));
        produce(&sandbox, poison);
        let run = [
            "run",
            "millstream.toml",
            "--until-idle",
            "--log-format",
            "json",
        ];
        let started = Instant::now();
        let finished = sandbox.run(&run).expect_code(0);
        let most_lines = 100 + 30 * started.elapsed().as_secs();
        let lines: Vec<Value> = finished
            .stderr
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        let of = |message: &str| {
            let lines = lines.iter().filter(|line| line["message"] == message);
            lines.collect::<Vec<_>>()
        };
        let told = of("gave up on a record");
        assert!(told.len() >= 10, "{}", told.len());
        let summaries = of("… and gave up on more records").into_iter();
        let counted: u64 = summaries
            .map(|line| line["records"].as_u64().unwrap())
            .sum();
        assert_eq!(told.len() as u64 + counted, records);
        // A panic is two lines on stderr, and each has a line besides: some of a second are stored.
        let line_count = lines.len() as u64;
        assert!(line_count < most_lines, "{line_count} lines");
    }
}

/// The Rust SDK says on which record it panics: nothing is halved.
#[test]
fn a_record_on_which_the_plugin_panics_is_found_at_once() {
    let sandbox = scene("testing-traps", 1, "retry = { max-attempts = 1 }");
    produce(
        &sandbox,
        (0..200).map(|offset| {
            let word = if offset == 137 { "poison" } else { "record" };
            json!({ "key": format!("k{offset}"), "value": format!("{word} {offset}") })
        }),
    );
    let finished = sandbox.run(&["run", "millstream.toml", "--until-idle", "-vv"]);
    let told = finished.expect_code(0).stderr;
    let said = told.matches("the plugin faulted on a record of a batch");
    assert_eq!(said.count(), 1, "{told}");
    assert!(
        told.contains("index=137") && !told.contains("halving"),
        "{told}"
    );
    assert_eq!(dead_letters(&sandbox).len(), 1);
    assert_eq!(sandbox.consume("out").len(), 199);
}

/// How long the only record of a scene was tried, twice, before it was given up on.
#[track_caller]
fn pause_between_two_attempts(plugin: &str, retry: &str, value: &str) -> Duration {
    let retry = format!("retry = {{ max-attempts = 2, {retry} }}");
    let sandbox = scene(plugin, 1, &retry);
    produce(&sandbox, [json!({ "key": "k", "value": value })]);
    let summary = run(&sandbox);
    assert_eq!(summary["retries"], 1, "{summary}");
    let letters = dead_letters(&sandbox);
    assert_eq!(header(&letters[0], "millstream-attempts"), "2");
    let ms = |name: &str| header(&letters[0], name).parse::<u64>().unwrap();
    let pause_ms = ms("millstream-dead-lettered-at") - ms("millstream-first-failed-at");
    Duration::from_millis(pause_ms)
}

/// Fails when a record that is parked is due at once.
#[test]
fn a_record_waits_for_as_long_as_the_pipeline_says() {
    let retry = "initial = \"2s\", jitter = \"none\"";
    let pause = pause_between_two_attempts("testing-traps", retry, "poison");
    assert!(pause >= Duration::from_secs(2), "{pause:?}");
}

/// Fails when what the plugin asks for is bounded by what the pipeline says, which is for those that do not ask.
#[test]
fn a_record_waits_for_as_long_as_the_plugin_asks() {
    let retry = "initial = \"1ms\", max = \"1ms\", jitter = \"none\"";
    let pause = pause_between_two_attempts("testing-retries", retry, "poison-2000");
    assert!(pause >= Duration::from_secs(2), "{pause:?}");
}

/// A batch may wait long until it is full; what is due does not wait with it.
#[test]
fn a_retry_that_is_due_does_not_wait_for_a_full_batch() {
    let settings = "retry = { max-attempts = 9, initial = \"20ms\", jitter = \"none\" }\nbatch = { max-wait = \"60s\", max-records = 2 }";
    let sandbox = scene("testing-flaky", 1, settings);
    // The first two fill a batch, the third one waits for a fourth.
    produce(
        &sandbox,
        ["retry-2 0", "fine 1", "fine 2"].map(|value| json!({ "key": value, "value": value })),
    );
    let mut running = sandbox.start(&["run", "millstream.toml", "-vv"]);
    let started = Instant::now();
    running.wait_for_error("attempt_count=2");
    // Far from `max-wait`, whatever else the machine does.
    assert!(started.elapsed() < Duration::from_secs(40));
    running.kill();
}

/// What a batch leads to can be more than one commit takes: then it is split, and a record that is too much
/// alone is given up on. Nothing else suffers.
#[test]
fn a_batch_that_leads_to_more_than_a_commit_takes_is_split() {
    const RECORDS: u64 = 200;
    let sandbox = scene("passthrough", 1, "retry = { max-attempts = 1 }");
    let value = |number: u64| match number {
        70 => format!("large {}", "x".repeat(5000)),
        number => format!("record {number}"),
    };
    produce(
        &sandbox,
        (0..RECORDS).map(|number| json!({ "key": format!("k{number}"), "value": value(number) })),
    );
    let mut command = sandbox.command(&["run", "millstream.toml", "--until-idle"]);
    command.env("FAILPOINTS", "batch::max-part-bytes=return(2000)");
    sandbox.start_command(command).wait().expect_code(0);
    let mut out: Vec<String> = values(&sandbox.consume("out"))
        .into_iter()
        .map(str::to_owned)
        .collect();
    out.sort();
    let mut expected: Vec<String> = (0..RECORDS)
        .filter(|number| *number != 70)
        .map(value)
        .collect();
    expected.sort();
    assert_eq!(out, expected);
    let letters = dead_letters(&sandbox);
    let [letter] = letters.as_slice() else {
        panic!("{letters:?}");
    };
    assert_eq!(header(letter, "millstream-reason"), "output");
    let said = header(letter, "millstream-error");
    assert!(said.contains("go into one commit"), "{said}");
}

/// A pipeline from the topics `a` and `b`, in the order given.
fn two_inputs(sandbox: &Sandbox, plugin: &str, from: &str) {
    sandbox.manifest(&format!(
        r#"
name = "two"

[topics.a]
[topics.b]
[topics.out]

[plugins.suspect]
path = "{{{plugin}}}"

[pipelines.suspect]
from = {from}
plugin = "suspect"
to = "topic:out"
retry = {{ max-attempts = 1000000, initial = "1h", jitter = "none" }}
"#
    ));
}

/// Parked records know their input by its name: `from` can be reordered.
#[test]
fn parked_records_keep_their_input_when_from_is_reordered() {
    let sandbox = Sandbox::new();
    two_inputs(&sandbox, "testing-retries", r#"["topic:a", "topic:b"]"#);
    for (topic, count) in [("a", 1), ("b", 3)] {
        let records = (1..=count).map(|number| {
            let word = if number == count { "poison" } else { "fine" };
            json!({ "key": format!("k{topic}"), "value": format!("{word} {topic}") }).to_string()
        });
        let file = sandbox.write_lines("records.jsonl", records);
        sandbox.produce_records(topic, &file);
    }
    let mut running = sandbox.start(&["run", "millstream.toml", "-vv"]);
    running.wait_for_error("tried again later pipeline=suspect offset=2");
    running.wait_for_error("tried again later pipeline=suspect offset=0");
    running.interrupt();
    running.wait();

    // Without one of them it says so, and keeps what is parked.
    two_inputs(&sandbox, "testing-rejects", r#""topic:a""#);
    let refused = sandbox.run(&["run", "millstream.toml", "--until-idle"]);
    assert!(
        refused.stderr.contains("records from `topic:b` wait"),
        "{}",
        refused.stderr
    );

    two_inputs(&sandbox, "testing-rejects", r#"["topic:b", "topic:a"]"#);
    run(&sandbox);
    let mut origins: Vec<(String, String)> = dead_letters(&sandbox)
        .iter()
        .map(|letter| {
            let value = letter["value"].as_str().unwrap().to_owned();
            (value, header(letter, "millstream-origin").to_owned())
        })
        .collect();
    origins.sort();
    let expected = [("poison a", "topic:a/0/0"), ("poison b", "topic:b/0/2")];
    assert_eq!(
        origins,
        expected.map(|(value, origin)| (value.to_owned(), origin.to_owned()))
    );
}

/// What is parked survives a restart with another plugin: position and parked records are one
/// checkpoint.
#[test]
fn parked_records_are_done_by_the_next_version() {
    // However long the first version takes to end: it does not give up.
    let settings = "retry = { max-attempts = 1000000, initial = \"1h\", jitter = \"none\" }";
    let sandbox = scene("testing-retries", 1, settings);
    produce(
        &sandbox,
        ["fine 0", "poison 1", "fine 2"].map(|value| json!({ "key": "k", "value": value })),
    );
    let mut running = sandbox.start(&["run", "millstream.toml", "-vv"]);
    running.wait_for_error("is tried again later");
    running.interrupt();
    running.wait();
    // `poison 1` asked for 10 ms, and `fine 2` waits behind it.
    sandbox.wire_suspect("passthrough", 1, settings);
    run(&sandbox);
    assert_eq!(
        values(&sandbox.consume("out")),
        ["fine 0", "poison 1", "fine 2"]
    );
}
