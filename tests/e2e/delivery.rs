//! What reaches the outputs: under each guarantee, through chains, from several inputs, to named
//! ports, from where `start` says, with everything a record has.

use serde_json::json;

use crate::support::counting::{self, Workload};
use crate::support::records::assert_dense;
use crate::support::{Consumed, Random, Sandbox};

/// One pipeline `pass` from `in` to `out`, with further settings.
fn passing(plugin: &str, settings: &str) -> String {
    let limits = match settings.contains("limits") {
        true => "",
        false => "limits.deadline = \"60s\"",
    };
    format!(
        r#"
name = "passing"

[topics.in]

[topics.out]

[plugins.plugin]
path = "{{{plugin}}}"

[pipelines.pass]
from = "topic:in"
plugin = "plugin"
to = "topic:out"
{limits}
{settings}
"#
    )
}

fn values(records: &[Consumed]) -> Vec<&str> {
    records.iter().map(Consumed::value_text).collect()
}

#[test]
fn every_guarantee_delivers_all_records_once_when_nothing_fails() {
    for delivery in ["exactly-once", "at-least-once", "at-most-once"] {
        let sandbox = Sandbox::new();
        let settings = format!("delivery = \"{delivery}\"\nbatch = {{ max-records = 7 }}");
        sandbox.manifest(&passing("passthrough", &settings));
        let lines: Vec<_> = (0..1000).map(|number| number.to_string()).collect();
        sandbox.produce("in", &lines, None);
        sandbox.run_until_idle();
        let records = sandbox.consume("out");
        assert_dense(&records);
        assert_eq!(values(&records), lines, "{delivery}");
        let description = sandbox.json(&["pipeline", "describe", "pass"]);
        assert_eq!(description["delivery"], delivery);
        assert_eq!(description["lag_records"], 0);
    }
}

#[test]
fn at_most_once_goes_on_behind_the_batch_that_failed() {
    let sandbox = Sandbox::new();
    let settings =
        "delivery = \"at-most-once\"\nbatch = { max-records = 10 }\ndead-letter = \"stop\"";
    sandbox.manifest(&passing("testing-traps", settings));
    let lines = (0..100).map(|number| match number {
        37 => "\"poison\"".to_owned(),
        _ => number.to_string(),
    });
    sandbox.produce("in", lines, None);
    sandbox
        .run(&["run", "millstream.toml", "--until-idle"])
        .expect_code(1)
        .expect_error(&[
            // The batch's first: which record it was is not looked for, since no record comes twice.
            "offset 30: ",
            "the plugin trapped",
            "the batch does not come again",
        ]);
    assert_eq!(sandbox.consume("out").len(), 30);
    // The batch's progress was committed before the plugin saw it: it does not come again.
    sandbox.run_until_idle();
    let expected: Vec<_> = (0..30).chain(40..100).map(|n| n.to_string()).collect();
    assert_eq!(values(&sandbox.consume("out")), expected);
}

#[test]
fn at_most_once_never_delivers_twice_whatever_is_killed() {
    let sandbox = Sandbox::new();
    let settings = "delivery = \"at-most-once\"\nbatch = { max-records = 8, max-wait = \"0s\" }";
    sandbox.manifest(&passing("passthrough", settings));
    sandbox.produce("in", (0..100_000).map(|number| number.to_string()), None);
    let mut random = Random::from_environment();
    for _ in 0..5 {
        let run = sandbox.start(&["run", "millstream.toml"]);
        std::thread::sleep(random.within_ms(0..500));
        run.kill();
    }
    sandbox.run_until_idle();
    let records = sandbox.consume("out");
    let numbers: Vec<u64> = records
        .iter()
        .map(|record| record.value_text().parse().unwrap())
        .collect();
    assert!(numbers.is_sorted_by(|a, b| a < b), "some came twice");
    let lost = 100_000 - numbers.len();
    assert!(
        lost <= 5 * 8,
        "{lost} records are lost: more than a batch for each kill"
    );
}

#[test]
fn a_chain_is_idle_when_its_last_pipeline_is() {
    let sandbox = Sandbox::new();
    let mut manifest = String::from("name = \"chain\"\n[topics.t0]\npartitions = 2\n");
    manifest.push_str("[plugins.passthrough]\npath = \"{passthrough}\"\n");
    for hop in 0..6 {
        let next = hop + 1;
        manifest.push_str(&format!(
            "[topics.t{next}]\npartitions = {}\n\
             [pipelines.p{hop}]\nfrom = \"topic:t{hop}\"\nplugin = \"passthrough\"\nto = \"topic:t{next}\"\n\
             batch = {{ max-records = 100 }}\n",
            1 + next % 3
        ));
    }
    sandbox.manifest(&manifest);
    let lines = (0..5_000).map(|number| format!("{{\"key\":{number}}}"));
    sandbox.produce("t0", lines, Some("key"));
    sandbox.run_until_idle();
    let records = sandbox.consume("t6");
    assert_dense(&records);
    let mut keys: Vec<u64> = records
        .iter()
        .map(|record| record.key_text().parse().unwrap())
        .collect();
    keys.sort_unstable();
    assert!(keys.into_iter().eq(0..5_000));
}

#[test]
fn several_inputs_share_the_state_of_their_partition() {
    let sandbox = Sandbox::new();
    let manifest = counting::MANIFEST
        .replace(
            "[topics.events]",
            "[topics.more]\npartitions = 4\n\n[topics.events]",
        )
        .replace(
            "from = \"topic:events\"",
            "from = [\"topic:events\", \"topic:more\"]",
        );
    sandbox.manifest(&manifest);
    let mut workload = Workload::new(6);
    workload.produce_to(&sandbox, "events", 3_000);
    workload.produce_to(&sandbox, "more", 3_000);
    sandbox.run_until_idle();
    workload.produce_to(&sandbox, "more", 1_000);
    sandbox.run_until_idle();
    workload.assert_counted_once(&sandbox);
}

#[test]
fn state_goes_on_after_a_restart_whatever_was_folded() {
    let sandbox = Sandbox::new();
    sandbox.manifest(counting::MANIFEST);
    let mut workload = Workload::new(7);
    // The second and third bring more checkpoints than the changelog takes before it is folded.
    for count in [100, 24_000, 24_000, 100] {
        workload.produce(&sandbox, count);
        sandbox.run_until_idle();
        sandbox.run_until_idle();
    }
    workload.assert_counted_once(&sandbox);
}

#[test]
fn output_goes_to_the_port_of_its_name() {
    let sandbox = Sandbox::new();
    sandbox.manifest(
        r#"
name = "ports"

[topics.flights]

[topics.first]

[topics.second]

[plugins.carrier-delays]
path = "{carrier-delays}"

[pipelines.delays]
from = "topic:flights"
plugin = "carrier-delays"
to = { other = "topic:first", stats = "topic:second" }
"#,
    );
    let flight = json!({ "carrier": "UA", "dep_time": 517, "arr_delay": 11 });
    sandbox.produce("flights", [flight.to_string()], Some("carrier"));
    sandbox.run_until_idle();
    assert!(sandbox.consume("first").is_empty());
    let [statistics] = &sandbox.consume("second")[..] else {
        panic!("one record is expected");
    };
    assert_eq!(statistics.value_json()["arr_delay_sum"], 11);
}

#[test]
fn each_port_leads_to_its_topic_and_keeps_the_order() {
    let sandbox = Sandbox::new();
    // Neither the ports nor the topics are in the order in which the plugin names them.
    sandbox.manifest(
        r#"
name = "ports"

[topics.numbers]

[topics.uneven]

[topics.divisible]

[plugins.splits]
path = "{testing-splits}"

[pipelines.split]
from = "topic:numbers"
plugin = "splits"
to = { odd = "topic:uneven", even = "topic:divisible" }
batch = { max-records = 7 }
"#,
    );
    sandbox.produce("numbers", (0..100).map(|number| number.to_string()), None);
    sandbox.run_until_idle();
    for (topic, remainder) in [("divisible", 0), ("uneven", 1)] {
        let records = sandbox.consume(topic);
        assert_dense(&records);
        let expected = (0..100).filter(|number| number % 2 == remainder);
        let expected: Vec<_> = expected.map(|number: u32| number.to_string()).collect();
        assert_eq!(values(&records), expected, "{topic}");
    }
}

#[test]
fn a_pipeline_may_have_more_tasks_than_an_engine_has_instances_by_default() {
    let sandbox = Sandbox::new();
    let partitioned = |partitions: u32| {
        let manifest = passing("passthrough", "limits = { deadline = \"30s\" }");
        let topic = format!("[topics.in]\npartitions = {partitions}\n");
        manifest.replace("[topics.in]\n", &topic)
    };
    sandbox.manifest(&partitioned(1_100));
    let lines: Vec<_> = (0..3_000)
        .map(|number| format!("{{\"number\":{number}}}"))
        .collect();
    sandbox.produce("in", &lines, Some("number"));
    sandbox.run_until_idle();
    let mut values: Vec<_> = sandbox
        .consume("out")
        .iter()
        .map(|record| record.value_json()["number"].as_u64().unwrap())
        .collect();
    values.sort_unstable();
    assert_eq!(values, (0..3_000).collect::<Vec<u64>>());
}

#[test]
fn more_tasks_than_there_can_be_instances_are_refused_before_anything_starts() {
    let sandbox = Sandbox::new();
    let mut manifest = String::from(
        "name = \"wide\"\n[topics.in]\npartitions = 4096\n[plugins.p]\npath = \"{passthrough}\"\n",
    );
    for pipeline in ["a", "b", "c"] {
        manifest.push_str(&format!(
            "[pipelines.{pipeline}]\nfrom = \"topic:in\"\nplugin = \"p\"\n"
        ));
    }
    sandbox.manifest(&manifest);
    sandbox
        .run(&["run", "millstream.toml", "--until-idle"])
        .expect_code(2)
        .expect_error(&["need 12288 plugin instances", "at most 8192"]);
    assert!(!sandbox.data_dir().exists());
}

/// 2026-01-01T00:00:00Z, in ms since the epoch.
const NEW_YEAR_MS: u64 = 1_767_225_600_000;

#[test]
fn a_pipeline_starts_where_its_manifest_says() {
    let at = |second: u64| {
        let timestamp_ms = NEW_YEAR_MS + second * 1000;
        json!({ "timestamp": timestamp_ms, "value": second.to_string() }).to_string()
    };
    let starts = [
        ("earliest", 0..15),
        ("2026-01-01T00:00:06Z", 6..15),
        ("2026-01-01T02:00:06.500+02:00", 7..15),
        ("latest", 10..15),
    ];
    let cases = starts
        .into_iter()
        .flat_map(|(start, expected)| [1, 2].map(|instances| (start, instances, expected.clone())));
    for (start, concurrency, expected) in cases {
        let sandbox = Sandbox::new();
        let settings = format!("start = \"{start}\"\nconcurrency = {concurrency}");
        let manifest = passing("passthrough", &settings);
        // The records are older than what a topic keeps by default.
        let forever =
            ["in", "out"].map(|topic| format!("[topics.{topic}]\nretention = \"forever\"\n"));
        sandbox.manifest(&manifest.replace("[topics.in]\n\n[topics.out]\n", &forever.concat()));
        let file = sandbox.write_lines("records.jsonl", (0..10).map(at));
        sandbox.produce_records("in", &file);
        sandbox.run_until_idle();
        // From now on the position counts, and no longer `start`.
        let file = sandbox.write_lines("records.jsonl", (10..15).map(at));
        sandbox.produce_records("in", &file);
        sandbox.run_until_idle();
        let out = sandbox.consume("out");
        let mut seconds: Vec<u64> = values(&out).iter().map(|it| it.parse().unwrap()).collect();
        if concurrency > 1 {
            // Records without a key have no order.
            seconds.sort_unstable();
        }
        assert_eq!(seconds, expected.collect::<Vec<u64>>(), "{settings}");
    }
}

/// A manifest that says nothing of a setting must not reset it: a shorter retention deletes data.
#[test]
fn a_topic_keeps_the_settings_that_its_manifest_does_not_write() {
    let sandbox = Sandbox::new();
    sandbox.manifest(&passing("passthrough", ""));
    // From 1970, so that any retention but "forever" deletes it.
    let old = json!({ "timestamp": 1, "value": "old" }).to_string();
    let file = sandbox.write_lines("records.jsonl", [old]);
    sandbox.succeed(&["topic", "create", "in", "--retention", "forever"]);
    let out = ["topic", "create", "out", "--partitions", "3"];
    sandbox.succeed(&[&out[..], &["--retention", "forever"]].concat());
    sandbox.produce_records("in", &file);
    sandbox.run_until_idle();
    sandbox.succeed(&["topic", "alter", "out", "--retention", "7d"]);
    // A run applies the retention of all topics when it starts.
    let mut run = sandbox.start(&["run", "millstream.toml", "-v"]);
    run.wait_for_error("retention deleted old records");
    run.interrupt();
    // The output has the same time, and no such setting any more.
    let finished = run.wait().expect_code(0);
    assert_eq!(finished.stderr.matches("retention deleted").count(), 1);
    assert_eq!(values(&sandbox.consume("in")), ["old"]);
    assert!(sandbox.consume("out").is_empty());
    let described = sandbox.json(&["topic", "describe", "in"]);
    assert_eq!(described["retention_ms"], serde_json::Value::Null);

    // What is written counts.
    let written = "[topics.in]\nretention = \"1h\"\n";
    sandbox.manifest(&passing("passthrough", "").replace("[topics.in]\n", written));
    sandbox.run_until_idle();
    let described = sandbox.json(&["topic", "describe", "in"]);
    assert_eq!(described["retention_ms"], 3_600_000);
    let written = "[topics.out]\npartitions = 4\n";
    sandbox.manifest(&passing("passthrough", "").replace("[topics.out]\n", written));
    sandbox
        .run(&["run", "millstream.toml", "--until-idle"])
        .expect_code(2)
        .expect_error(&["`out`", "3 partitions"]);
}

#[test]
fn records_that_retention_took_are_skipped_with_a_warning() {
    let sandbox = Sandbox::new();
    sandbox.manifest(&passing("passthrough", ""));
    sandbox.produce("in", ["1", "2"], None);
    sandbox.run_until_idle();
    sandbox.produce("in", ["3", "4", "5", "6", "7"], None);
    // While nothing reads, the records go: any run applies the retention of all topics.
    sandbox.succeed(&["topic", "alter", "in", "--retention", "1ms"]);
    let another = passing("passthrough", "").replace("pipelines.pass", "pipelines.other");
    sandbox.manifest(
        &another
            .replace("topics.in", "topics.other")
            .replace("topic:in", "topic:other"),
    );
    let mut run = sandbox.start(&["run", "millstream.toml", "-v"]);
    run.wait_for_error("retention deleted old records");
    run.interrupt();
    run.wait().expect_code(0);

    sandbox.succeed(&["topic", "alter", "in", "--retention", "7d"]);
    sandbox.manifest(&passing("passthrough", ""));
    sandbox
        .run_until_idle()
        .expect_error(&["WARN", "start=7", "lost=5"]);
    sandbox.produce("in", ["8"], None);
    sandbox.run_until_idle();
    assert_eq!(values(&sandbox.consume("out")), ["1", "2", "8"]);
    assert_eq!(
        sandbox.json(&["pipeline", "describe", "pass"])["lag_records"],
        0
    );
}

#[test]
fn everything_a_record_has_passes_through() {
    let sandbox = Sandbox::new();
    // Most of the records are older than what topics keep by default.
    let kept = ["in", "out"]
        .into_iter()
        .fold(passing("passthrough", ""), |manifest, topic| {
            let of = format!("[topics.{topic}]\n");
            manifest.replace(&of, &format!("{of}retention = \"forever\"\n"))
        });
    sandbox.manifest(&kept);
    let records = [
        json!({ "timestamp": 5, "key": "k", "value": "v",
                "headers": [["a", "1"], ["a", null], ["b", ""], ["ü", {"base64": "/w=="}]] }),
        json!({ "timestamp": 4, "key": null, "value": "no key", "headers": [] }),
        json!({ "timestamp": 6, "key": "k", "value": null, "headers": [["why", "tombstone"]] }),
        json!({ "timestamp": 0, "key": "", "value": "", "headers": [] }),
        json!({ "timestamp": 1_800_000_000_000_u64, "key": {"base64": "/wD+"},
                "value": {"base64": "gIGC"}, "headers": [] }),
        json!({ "timestamp": 7, "key": null, "value": null, "headers": [] }),
    ];
    let file = sandbox.write_lines("records.jsonl", records.iter().map(ToString::to_string));
    sandbox.produce_records("in", &file);
    sandbox.run_until_idle();
    let sent = sandbox.consume("in");
    let received = sandbox.consume("out");
    assert_eq!(received.len(), records.len());
    for ((sent, received), record) in sent.iter().zip(&received).zip(&records) {
        assert_eq!(
            (received.offset, received.timestamp, &received.key),
            (sent.offset, sent.timestamp, &sent.key)
        );
        assert_eq!(
            (&received.value, &received.headers),
            (&sent.value, &sent.headers)
        );
        assert_eq!(record["timestamp"], received.timestamp);
    }
}

#[test]
fn a_producer_plugin_resumes_without_gap_or_double() {
    const COUNT: u64 = 60_000;
    let sandbox = Sandbox::new();
    sandbox.manifest(&format!(
        r#"
name = "numbers"

[topics.numbers]

[plugins.counter]
path = "{{testing-counter}}"

[pipelines.numbers]
plugin = "counter"
to = "topic:numbers"
batch = {{ max-records = 8 }}
config = {{ count = {COUNT} }}
limits = {{ deadline = "30s" }}
"#
    ));
    let mut random = Random::from_environment();
    for _ in 0..6 {
        let run = sandbox.start(&["run", "millstream.toml"]);
        std::thread::sleep(random.within_ms(0..400));
        run.kill();
    }
    sandbox.run_until_idle();
    let records = sandbox.consume("numbers");
    assert_dense(&records);
    let expected: Vec<_> = (1..=COUNT).map(|number| number.to_string()).collect();
    assert_eq!(values(&records), expected);
    sandbox.run_until_idle();
    assert_eq!(sandbox.consume("numbers").len() as u64, COUNT);
}

#[test]
fn an_interrupted_run_finishes_its_batches_and_goes_on_later() {
    let sandbox = Sandbox::new();
    sandbox.manifest(counting::MANIFEST);
    let mut workload = Workload::new(8);
    workload.produce(&sandbox, 100_000);
    let mut run = sandbox.start(&["run", "millstream.toml"]);
    // Before that a signal ends it as any other process.
    let lock = sandbox.data_dir().join("LOCK");
    run.wait_until("locked", |run| {
        std::fs::read_to_string(&lock).is_ok_and(|text| text == run.id().to_string())
    });
    std::thread::sleep(Random::from_environment().within_ms(100..500));
    run.interrupt();
    run.wait().expect_code(0);
    let description = sandbox.json(&["pipeline", "describe", "count"]);
    let processed = workload.total() - description["lag_records"].as_u64().unwrap();
    assert_eq!(sandbox.consume("counts").len() as u64, processed);
    sandbox.run_until_idle();
    workload.assert_counted_once(&sandbox);
}
