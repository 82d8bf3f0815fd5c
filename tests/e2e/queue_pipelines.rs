//! Queues as inputs and outputs of pipelines: acknowledgements and outputs are one checkpoint.
//!
//! What these checks catch was tried by breaking the engine by hand:
//!
//! | break | caught by |
//! |---|---|
//! | messages are acknowledged before the call, apart from its outputs | `a_kill_*`, `a_message_that_fails_*` |
//! | messages are acknowledged after the outputs are committed | `a_kill_*` |
//! | a full queue is a fault instead of a pause | `a_full_queue_makes_the_pipeline_wait` |
//! | a batch waits for longer than its leases last | `a_batch_that_waits_keeps_its_leases` |
//! | at-most-once drops a batch that waits for room when it is stopped | `at_most_once_tells_*` |
//! | what is given back counts as delivered | `messages_behind_one_*`, `a_run_that_is_stopped_*` |

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{Finished, Random, Sandbox};

/// Records of the tests with kills.
const RECORDS: u64 = 3_000;
/// How long a thread has to come to a step again after it has said that it was there.
const TO_THE_NEXT: Duration = Duration::from_millis(50);

/// `in` → queue `work` → `out`, each with a pipeline of its own.
fn chain(plugin: &str, queue: &str, settings: &str) -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.manifest(&format!(
        r#"
name = "chain"

[topics.in]
partitions = 2

[topics.out]
partitions = 3

[queues.work]
{queue}

[plugins.passthrough]
path = "{{passthrough}}"

[plugins.suspect]
path = "{{{plugin}}}"

[pipelines.fill]
from = "topic:in"
plugin = "passthrough"
to = {{ work = "queue:work" }}
batch = {{ max-records = 16, max-wait = "0s" }}
limits = {{ deadline = "30s" }}

[pipelines.suspect]
from = "queue:work"
plugin = "suspect"
to = "topic:out"
batch = {{ max-records = 16, max-wait = "0s" }}
limits = {{ deadline = "30s" }}
{settings}
"#
    ));
    sandbox
}

fn produce(sandbox: &Sandbox, records: impl IntoIterator<Item = Value>) {
    let lines = records.into_iter().map(|record| record.to_string());
    let file = sandbox.write_lines("records.jsonl", lines);
    sandbox.produce_records("in", &file);
}

fn numbered(count: u64) -> impl Iterator<Item = Value> {
    (0..count).map(
        |number| json!({ "key": format!("k{}", number % 20), "value": format!("record {number}") }),
    )
}

fn run(sandbox: &Sandbox) -> Value {
    sandbox.json(&["run", "millstream.toml", "--until-idle"])
}

fn waiting(sandbox: &Sandbox, queue: &str) -> u64 {
    let described = sandbox.json(&["queue", "describe", queue]);
    described["waiting"].as_u64().unwrap()
}

/// How often each value came out.
fn counts(sandbox: &Sandbox) -> BTreeMap<String, u64> {
    let mut counts = BTreeMap::new();
    for record in sandbox.consume("out") {
        *counts.entry(record.value_text().to_owned()).or_default() += 1;
    }
    counts
}

#[track_caller]
fn assert_each_once(sandbox: &Sandbox, count: u64) {
    let expected: BTreeMap<String, u64> = (0..count)
        .map(|number| (format!("record {number}"), 1))
        .collect();
    assert_eq!(counts(sandbox), expected);
}

#[test]
fn messages_go_through_a_queue_between_two_pipelines() {
    let sandbox = chain("passthrough", "", "");
    produce(&sandbox, numbered(500));
    let summary = run(&sandbox);
    assert_eq!(summary["records_in"], 1_000, "{summary}");
    assert_each_once(&sandbox, 500);
    assert_eq!(waiting(&sandbox, "work"), 0);
    let described = sandbox.json(&["pipeline", "describe", "suspect"]);
    assert_eq!(described["inputs"], json!(["queue:work"]));
    assert_eq!(described["lag_records"], 0);
    assert_eq!(
        described["queues"],
        json!([{ "queue": "work", "messages": 0 }])
    );
    let described = sandbox.json(&["pipeline", "describe", "fill"]);
    assert_eq!(
        described["outputs"],
        json!([{ "port": "work", "target": "queue:work" }])
    );
}

/// Kills the run while a thread stands at the step, again and again. The steps are passed often enough: batches of
/// 16 records make 188 checkpoints in the first pipeline and as many, and as many leases, in the second, and one
/// write takes the commits of four threads at most.
fn kill_at(step: &str) {
    let sandbox = chain("passthrough", "", "");
    produce(&sandbox, numbered(RECORDS));
    let mut random = Random::from_environment();
    for passes in [
        1,
        2,
        random.within(3..20),
        random.within(20..40),
        random.within(40..60),
    ] {
        let mut command = sandbox.command(&["run", "millstream.toml", "--until-idle"]);
        let actions = format!("{step}={passes}*off->1*print(is near)->pause");
        command
            .env("FAILPOINTS", actions)
            .env("RUST_LOG", "warn,fail=info");
        let mut run = sandbox.start_command(command);
        run.wait_for_error("is near");
        std::thread::sleep(TO_THE_NEXT);
        assert!(run.kill().0, "{step}: the run ended by itself");
    }
    run(&sandbox);
    assert_each_once(&sandbox, RECORDS);
    assert_eq!(waiting(&sandbox, "work"), 0);
}

#[test]
fn a_kill_before_a_checkpoint_of_a_queue_is_submitted() {
    kill_at("checkpoint::before-submit");
}

#[test]
fn a_kill_before_a_checkpoint_of_a_queue_is_written() {
    kill_at("commit::before-write");
}

#[test]
fn a_kill_after_a_checkpoint_of_a_queue_is_written() {
    kill_at("commit::after-write");
}

#[test]
fn a_kill_after_a_checkpoint_of_a_queue_is_acknowledged() {
    kill_at("checkpoint::acknowledged");
}

/// A message that fails is tried again by the pipeline's rules, its neighbours stand, and in the end it is
/// a dead letter that says where it comes from.
#[test]
fn a_message_that_fails_is_tried_again_and_then_a_dead_letter() {
    let retry = "retry = { max-attempts = 3, initial = \"5ms\" }";
    let sandbox = chain("testing-flaky", "", retry);
    let word = |number: u64| match number {
        7 => "retry-2",
        8 => "trap-1",
        9 => "retry-9",
        10 => "trap-9",
        _ => "record",
    };
    produce(
        &sandbox,
        (0..40).map(|number| json!({ "key": format!("k{number}"), "value": format!("{} {number}", word(number)) })),
    );
    let summary = run(&sandbox);
    assert_eq!(summary["dead_letters"], 2, "{summary}");
    let out = counts(&sandbox);
    assert_eq!(out.len(), 38);
    assert!(out.values().all(|count| *count == 1));
    assert!(
        out.contains_key("retry-2 7 #3") && out.contains_key("trap-1 8 #2"),
        "{out:?}"
    );
    assert_eq!(waiting(&sandbox, "work"), 0);
    let letters = sandbox.json(&["dead-letter", "list", "suspect"]);
    for letter in letters.as_array().unwrap() {
        let origin = letter["origin"].as_str().unwrap();
        assert!(origin.starts_with("queue:work/"), "{letter}");
        assert_eq!(letter["attempts"], 3, "{letter}");
    }
}

/// A redrive sends a message back to the pipeline that gave up on it.
#[test]
fn a_redriven_message_goes_to_the_pipeline_that_gave_up_on_it() {
    let sandbox = chain("testing-rejects", "", "");
    produce(
        &sandbox,
        (0..30).map(|number| {
            let word = if number % 10 == 0 { "poison" } else { "record" };
            json!({ "key": format!("k{}", number % 3), "value": format!("{word} {number}") })
        }),
    );
    assert_eq!(run(&sandbox)["dead_letters"], 3);
    sandbox.succeed(&["dead-letter", "redrive", "suspect"]);
    assert_eq!(waiting(&sandbox, "suspect.dead-letters"), 0);
    let text = std::fs::read_to_string(sandbox.path("millstream.toml")).unwrap();
    let fixed = text.replace("testing-rejects", "passthrough");
    sandbox.write(
        "millstream.toml",
        fixed.replace("testing_rejects", "passthrough"),
    );
    assert_eq!(run(&sandbox)["dead_letters"], 0);
    let out = counts(&sandbox);
    assert_eq!(out.len(), 30);
    assert!(out.values().all(|count| *count == 1));
}

/// `max-length` with the policy to reject: the pipeline that fills the queue waits until there is room, and
/// nothing is lost.
#[test]
fn a_full_queue_makes_the_pipeline_wait() {
    let sandbox = chain("passthrough", "max-length = 20", "");
    produce(&sandbox, numbered(400));
    let summary = run(&sandbox);
    assert_eq!(summary["dead_letters"], 0, "{summary}");
    assert_each_once(&sandbox, 400);
}

/// A queue that drops its oldest messages when what it drops is more than goes with a checkpoint. Fails when the
/// pipeline waits for ever for that, or when the queue is longer than it may be for a moment.
#[test]
fn a_full_queue_of_large_messages_makes_room_for_a_pipeline() {
    const LENGTH: usize = 40;
    for delivery in ["exactly-once", "at-most-once"] {
        let sandbox = Sandbox::new();
        sandbox.manifest(&format!(
            r#"
name = "room"

[topics.in]
partitions = 1

[queues.work]
max-length = {LENGTH}
max-length-policy = "drop-oldest"
dead-letter = "dead"

[queues.dead]

[plugins.passthrough]
path = "{{passthrough}}"

[pipelines.fill]
from = "topic:in"
plugin = "passthrough"
to = {{ work = "queue:work" }}
batch = {{ max-records = 100, max-wait = "0s" }}
delivery = "{delivery}"
"#
        ));
        sandbox.succeed(&["apply", "millstream.toml"]);
        let large = "x".repeat(1_000_000);
        let file = sandbox.write_lines("large.txt", vec![large; LENGTH]);
        let fill = ["produce", "queue:work", "--format", "lines", "--file"];
        sandbox.succeed(&[&fill[..], &[file.to_str().unwrap()]].concat());
        produce(&sandbox, numbered(LENGTH as u64));
        let summary = run(&sandbox);
        assert_eq!(summary["dead_letters"], 0, "{summary}");
        // What the queue gives up on is no output of the pipeline.
        assert_eq!(summary["records_out"], LENGTH, "{summary}");
        let held = |queue: &str| sandbox.json(&["queue", "describe", queue])["waiting"].clone();
        assert_eq!((held("work"), held("dead")), (json!(LENGTH), json!(LENGTH)));
        let kept = sandbox.succeed(&["consume", "queue:work", "--peek", "--max", "100"]);
        assert_eq!(kept.matches("record ").count(), LENGTH);
    }
}

/// A pipeline from the queue `work` alone, which gives up on messages and has these in it.
fn from_work(queue: &str, pipeline: &str, messages: &[String]) -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.manifest(&format!(
        r#"
name = "from-work"

[topics.out]

[queues.work]
dead-letter = "dead"
{queue}

[queues.dead]

[queues.full]
max-length = 5

[plugins.suspect]
path = "{{testing-rejects}}"

[pipelines.suspect]
from = "queue:work"
plugin = "suspect"
{pipeline}
"#
    ));
    sandbox.succeed(&["apply", "millstream.toml"]);
    produce_messages(&sandbox, messages);
    sandbox
}

fn produce_messages(sandbox: &Sandbox, messages: &[String]) {
    let file = sandbox.write_lines("messages.txt", messages);
    let produce = ["produce", "queue:work", "--format", "lines", "--file"];
    sandbox.succeed(&[&produce[..], &[file.to_str().unwrap()]].concat());
}

/// A pipeline that stops at a message gives those back that were leased with it, again and again: nothing is wrong with
/// them, and it is for somebody to decide on the one. Fails when the queue gives up on any of them.
#[test]
fn messages_behind_one_that_stops_the_pipeline_stay_however_often_it_runs() {
    const GOOD: u64 = 100;
    for concurrency in [1, 4] {
        let settings = format!(
            "to = \"topic:out\"\ndead-letter = \"stop\"\nconcurrency = {concurrency}\nlimits.deadline = \"30s\""
        );
        let good = (0..GOOD).map(|number| format!("record {number}"));
        let messages: Vec<String> = std::iter::once("poison".to_owned()).chain(good).collect();
        let sandbox = from_work("max-deliveries = 3", &settings, &messages);
        for _ in 0..5 {
            sandbox
                .run(&["run", "millstream.toml", "--until-idle"])
                .expect_failure()
                .expect_error(&["queue `work`", "the position is kept before it"]);
        }
        assert_eq!(waiting(&sandbox, "dead"), 0);
        let text = std::fs::read_to_string(sandbox.path("millstream.toml")).unwrap();
        sandbox.write(
            "millstream.toml",
            text.replace("\"stop\"", "\"queue:poison\""),
        );
        assert_eq!(run(&sandbox)["dead_letters"], 1);
        assert_each_once(&sandbox, GOOD);
        assert_eq!(
            (waiting(&sandbox, "work"), waiting(&sandbox, "dead")),
            (0, 0)
        );
    }
}

/// Runs until an output takes nothing, and stops the run then.
fn stop_while_full(sandbox: &Sandbox) -> Finished {
    let mut command = sandbox.command(&["run", "millstream.toml"]);
    command.env("RUST_LOG", "info");
    let mut running = sandbox.start_command(command);
    running.wait_for_error("waiting for an output");
    running.terminate();
    running.wait().expect_code(0)
}

/// Lets the queue `full` take all there is.
fn make_room(sandbox: &Sandbox) {
    let text = std::fs::read_to_string(sandbox.path("millstream.toml")).unwrap();
    let with_room = text.replace("max-length = 5", "max-length = 100");
    sandbox.write("millstream.toml", with_room);
}

/// Under at-most-once the messages of the batch that waits for room when the run is stopped are done with: they are dead
/// letters, and come once if they are sent back; without a dead-letter queue it is said that they are lost.
#[test]
fn at_most_once_tells_what_a_stop_costs_while_an_output_is_full() {
    let messages: Vec<String> = (0..20).map(|number| format!("record {number}")).collect();
    for (dead_letter, told) in [
        ("\"queue:given-up\"", "these records become dead letters"),
        ("\"stop\"", "what these records led to is lost"),
    ] {
        let settings = format!(
            "to = \"queue:full\"\ndelivery = \"at-most-once\"\nbatch.max-records = 5\ndead-letter = {dead_letter}\nlimits.deadline = \"30s\""
        );
        let sandbox = from_work("", &settings, &messages);
        let stopped = stop_while_full(&sandbox);
        stopped.expect_error(&[told, "records=5", "first=queue:work/5"]);
        let all = ["work", "full", "dead"].map(|queue| waiting(&sandbox, queue));
        assert_eq!(all, [10, 5, 0]);
        let is_redriven = dead_letter != "\"stop\"";
        if is_redriven {
            let letters = sandbox.json(&["dead-letter", "list", "suspect"]);
            let letters = letters.as_array().unwrap();
            assert_eq!(letters.len(), 5);
            for letter in letters {
                assert_eq!(
                    (&letter["reason"], &letter["attempts"]),
                    (&json!("stopped"), &json!(1))
                );
            }
            sandbox.succeed(&["dead-letter", "redrive", "suspect"]);
        }
        make_room(&sandbox);
        run(&sandbox);
        let peek = [
            "consume",
            "queue:full",
            "--peek",
            "--max",
            "100",
            "--output",
            "json",
        ];
        let out = sandbox.succeed(&peek);
        let value = |line| serde_json::from_str::<Value>(line).unwrap()["value"].clone();
        let out: Vec<Value> = out.lines().map(value).collect();
        // What was sent back comes last or in between, in any case once.
        let expected = messages.iter().enumerate();
        let expected = expected.filter(|(number, _)| is_redriven || !(5..10).contains(number));
        let expected: BTreeSet<&str> = expected.map(|(_, message)| message.as_str()).collect();
        assert_eq!(out.len(), expected.len());
        assert_eq!(
            out.iter()
                .filter_map(Value::as_str)
                .collect::<BTreeSet<_>>(),
            expected
        );
    }
}

/// A run that waits for room in its output when it is told to stop gives back what it has leased.
#[test]
fn a_run_that_is_stopped_while_its_output_is_full_costs_no_delivery() {
    let messages: Vec<String> = (0..20).map(|number| format!("record {number}")).collect();
    let settings = "to = \"queue:full\"\nlimits.deadline = \"30s\"";
    let sandbox = from_work("max-deliveries = 2", settings, &messages);
    for _ in 0..2 {
        stop_while_full(&sandbox);
    }
    make_room(&sandbox);
    run(&sandbox);
    let all = ["work", "full", "dead"].map(|queue| waiting(&sandbox, queue));
    assert_eq!(all, [0, 20, 0]);
}

/// `max-wait` may be longer than a lease: the batch runs before that ends. Fails when the messages are leased again
/// meanwhile, until the queue gives up on them.
#[test]
fn a_batch_that_waits_keeps_its_leases() {
    let messages: Vec<String> = (0..5).map(|number| format!("record {number}")).collect();
    let sandbox = from_work(
        "max-deliveries = 1\nvisibility-timeout = \"12s\"",
        "to = \"topic:out\"\nbatch.max-wait = \"60s\"\nlimits.deadline = \"60s\"",
        &messages,
    );
    let summary = run(&sandbox);
    assert_eq!(
        (&summary["records_in"], waiting(&sandbox, "dead")),
        (&json!(5), 0)
    );
    assert_each_once(&sandbox, 5);
}

/// What a plugin writes to a queue are messages like any other: the queue drops what it has had before.
#[test]
fn a_record_with_a_known_deduplication_id_is_enqueued_once() {
    let sandbox = chain("passthrough", "deduplication-window = \"1h\"", "");
    let of = |number: u64| {
        json!({ "key": format!("k{number}"), "value": format!("record {}", number % 50),
                "headers": [["millstream-deduplication-id", format!("id-{}", number % 50)]] })
    };
    produce(&sandbox, (0..200).map(of));
    let run = sandbox.run(&["-v", "run", "millstream.toml", "--until-idle"]);
    let run = run.expect_code(0);
    assert_each_once(&sandbox, 50);
    let told = run.stderr.split("the queue dropped outputs").skip(1);
    let counts = told.map(|line| {
        let (_, count) = line.split_once("messages=").unwrap();
        let digits = count.split(|it: char| !it.is_ascii_digit()).next();
        digits.unwrap().parse::<u64>().unwrap()
    });
    assert_eq!(counts.sum::<u64>(), 150, "{}", run.stderr);
}

/// Fails when an output is a duplicate since the message that it is made of has an id, and when it waits and expires as that
/// message did instead of as its queue says.
#[test]
fn an_output_to_a_queue_has_neither_the_id_nor_the_times_of_its_message() {
    let sandbox = Sandbox::new();
    sandbox.manifest(
        r#"
name = "queues"

[queues.a]
deduplication-window = "0s"
delay = "1ms"
time-to-live = "1h"

[queues.b]
delay = "10m"
time-to-live = "10h"

[plugins.passthrough]
path = "{passthrough}"

[pipelines.a-to-b]
from = "queue:a"
plugin = "passthrough"
to = "queue:b"
"#,
    );
    sandbox.succeed(&["queue", "create", "a", "--deduplication-window", "0s"]);
    sandbox.succeed(&["queue", "create", "b"]);
    let line = json!({ "key": "k", "value": "v",
        "headers": [["own", "1"], ["millstream-deduplication-id", "id"], ["millstream-priority", "7"],
                    ["millstream-time-to-live", "3600000"]] });
    let file = sandbox.write_lines("messages.jsonl", [line.to_string(), line.to_string()]);
    let file = file.to_str().unwrap();
    for queue in ["queue:a", "queue:b"] {
        sandbox.succeed(&["produce", queue, "--format", "record", "--file", file]);
    }
    assert_eq!((waiting(&sandbox, "a"), waiting(&sandbox, "b")), (2, 1));
    let summary = run(&sandbox);
    assert_eq!(
        (&summary["records_in"], &summary["records_out"]),
        (&json!(2), &json!(2)),
        "{summary}"
    );
    let described = sandbox.json(&["queue", "describe", "b"]);
    assert_eq!(
        (&described["waiting"], &described["delayed"]),
        (&json!(1), &json!(2))
    );
    let printed = sandbox.succeed(&["queue", "peek", "b", "--output", "json"]);
    let headers: Vec<Vec<(String, String)>> = serde_json::Deserializer::from_str(&printed)
        .into_iter::<Value>()
        .map(|message| serde_json::from_value(message.unwrap()["headers"].take()).unwrap())
        .collect();
    let names =
        |of: &[(String, String)]| of.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
    let time = |of: &[(String, String)]| of.last().unwrap().1.parse::<u64>().unwrap();
    for output in &headers[1..] {
        assert_eq!(
            names(output),
            [
                "own",
                "millstream-priority",
                "millstream-not-before",
                "millstream-expires-at"
            ]
        );
        assert!(time(output) > time(&headers[0]) + 3_600_000, "{headers:?}");
    }
}

/// A message of which an output is too large for its target is a dead letter, and the others pass.
#[test]
fn an_attribute_that_means_nothing_is_the_records_fault() {
    let sandbox = chain("passthrough", "", "");
    produce(
        &sandbox,
        (0..20).map(|number| match number {
            5 => json!({ "key": "k", "value": "bad", "headers": [["millstream-priority", "12"]] }),
            _ => json!({ "key": "k", "value": format!("record {number}") }),
        }),
    );
    let summary = run(&sandbox);
    assert_eq!(summary["dead_letters"], 1, "{summary}");
    let letters = sandbox.json(&["dead-letter", "list", "fill"]);
    assert_eq!(letters[0]["reason"], "output", "{letters}");
    assert_eq!(counts(&sandbox).len(), 19);
}

/// At-most-once acknowledges before it calls: a message that fails is given up on at once.
#[test]
fn at_most_once_acknowledges_first() {
    let sandbox = chain("testing-flaky", "", "delivery = \"at-most-once\"");
    produce(
        &sandbox,
        (0..40).map(|number| {
            let word = if number == 9 { "retry-1" } else { "record" };
            json!({ "key": "k", "value": format!("{word} {number}") })
        }),
    );
    let summary = run(&sandbox);
    assert_eq!(summary["dead_letters"], 1, "{summary}");
    assert_eq!(counts(&sandbox).len(), 39);
    assert_eq!(waiting(&sandbox, "work"), 0);
}

/// Messages of higher priority come first, and a delayed one is not waited for.
#[test]
fn attributes_of_messages_count_for_a_pipeline() {
    let sandbox = chain("passthrough", "", "");
    let record = |value: &str, name: &str, of: &str| json!({ "key": "k", "value": value, "headers": [[name, of]] });
    let records = [
        record("low", "millstream-priority", "0"),
        record("later", "millstream-delay", "3600000"),
        record("high", "millstream-priority", "9"),
    ];
    let lines = records.iter().map(Value::to_string);
    let file = sandbox.write_lines("messages.jsonl", lines);
    let file = file.to_str().unwrap();
    // The queue exists before the pipelines look at it.
    sandbox.succeed(&["queue", "create", "work"]);
    sandbox.succeed(&[
        "produce",
        "queue:work",
        "--format",
        "record",
        "--file",
        file,
    ]);
    run(&sandbox);
    let out: Vec<String> = sandbox
        .consume("out")
        .iter()
        .map(|record| record.value_text().to_owned())
        .collect();
    assert_eq!(out, ["high", "low"]);
    let described = sandbox.json(&["queue", "describe", "work"]);
    assert_eq!(described["delayed"], 1, "{described}");
}
