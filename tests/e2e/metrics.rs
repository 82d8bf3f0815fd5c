//! The values in `/metrics`.

use serde_json::{Value, json};

use crate::server::Server;
use crate::server_pipelines::wait_until;
use crate::support::{Sandbox, plugins};

/// Records that wait while the pipeline is paused.
const WAITING: u64 = 7;
/// How old they are at least: they are dated 2001.
const OLD_SECONDS: f64 = 1e8;

fn lines(records: impl IntoIterator<Item = Value>) -> String {
    let lines = records.into_iter().map(|record| format!("{record}\n"));
    lines.collect()
}

/// The value of a metric with these labels.
#[track_caller]
fn value(metrics: &str, name: &str, labels: &str) -> f64 {
    let start = format!("{name}{{{labels}}} ");
    let found = metrics.lines().find_map(|line| line.strip_prefix(&start));
    let found = found.unwrap_or_else(|| panic!("no {start}in:\n{metrics}"));
    found.parse().unwrap()
}

/// A pipeline that has given up on one of five records after two attempts, and is paused before old ones come.
fn with_paused_pipeline(sandbox: &Sandbox) -> Server {
    let retry = "retry = { max-attempts = 3, initial = \"1ms\" }";
    sandbox.wire_suspect("testing-retries", 1, retry);
    let server = Server::start(sandbox, &[]);
    sandbox.succeed(&["apply", "millstream.toml"]);
    let values = ["poison", "a", "b", "c", "d"];
    let records = values.map(|value| json!({ "key": value, "value": value }));
    let produce = |records: String| {
        server
            .post_lines("/v1/topics/in/records", &records)
            .expect(200)
    };
    produce(lines(records));
    wait_until("one dead letter, and the rest in `out`", || {
        let count = |path: &str, of: &str| server.get(path).expect(200).json()[of].clone();
        count("/v1/topics/out", "records") == 4
            && count("/v1/queues/suspect.dead-letters", "waiting") == 1
    });
    sandbox.succeed(&["pipeline", "pause", "suspect"]);
    let old = (0..WAITING).map(|number| json!({ "timestamp": 1_000_000_000_000_u64 + number, "key": "old", "value": "old" }));
    produce(lines(old));
    server
}

/// Fails when a value is not what it says: the position, what is behind it, its age, what was tried again and given up on.
#[test]
fn a_paused_pipeline_tells_how_far_it_is_behind() {
    let sandbox = Sandbox::new();
    let server = with_paused_pipeline(&sandbox);
    let metrics = server.get("/metrics").expect(200).body;
    let partition = "topic=\"in\",partition=\"0\"";
    let group = format!("consumergroup=\"suspect\",{partition}");
    let pipeline = "pipeline=\"suspect\",plugin=\"suspect\"";
    for (name, labels, expected) in [
        ("kafka_consumergroup_lag", group.as_str(), WAITING as f64),
        ("kafka_consumergroup_current_offset", &group, 5.0),
        ("kafka_topic_partition_current_offset", partition, 12.0),
        ("kafka_topic_partition_oldest_offset", partition, 0.0),
        ("millstream_pipeline_lag_records", pipeline, WAITING as f64),
        ("millstream_pipeline_dead_letters_total", pipeline, 1.0),
        ("millstream_pipeline_retries_total", pipeline, 2.0),
        ("millstream_pipeline_records_in_total", pipeline, 5.0),
        ("millstream_pipeline_records_out_total", pipeline, 4.0),
        ("millstream_pipeline_parked_records", pipeline, 0.0),
    ] {
        assert_eq!(value(&metrics, name, labels), expected, "{name}");
    }
    let lag_seconds = value(&metrics, "millstream_pipeline_lag_seconds", pipeline);
    assert!(lag_seconds > OLD_SECONDS, "{lag_seconds}");
    let letters = "queue=\"suspect.dead-letters\",state=\"waiting\"";
    assert_eq!(value(&metrics, "millstream_queue_messages", letters), 1.0);
    server.stop();
}

/// What `/metrics` says of the lag of `suspect`, after it was seen that `pipeline list` and `top` say the same.
#[track_caller]
fn lag(sandbox: &Sandbox, server: &Server) -> f64 {
    let metrics = server.get("/metrics").expect(200).body;
    let labels = "pipeline=\"suspect\",plugin=\"suspect\"";
    let records = value(&metrics, "millstream_pipeline_lag_records", labels);
    let seconds = value(&metrics, "millstream_pipeline_lag_seconds", labels);
    assert_eq!(seconds > OLD_SECONDS, records > 0.0, "{seconds}");
    for shown in [
        sandbox.json(&["pipeline", "list"]),
        sandbox.json(&["top", "--count", "1"]),
    ] {
        let running = &shown[0]["running"];
        assert_eq!(shown[0]["lag_records"].as_f64(), Some(records), "{shown}");
        assert_eq!(running["totals"]["lag_records"].as_f64(), Some(records));
        let lag_ms = running["lag_ms"].as_f64().unwrap();
        assert_eq!(lag_ms / 1e3 > OLD_SECONDS, records > 0.0, "{shown}");
    }
    records
}

/// Applies the manifest again, so that its pipeline is refused: what is uploaded under the name of its plugin is a producer.
fn apply_with_a_producer(sandbox: &Sandbox) {
    sandbox.succeed(&["plugin", "delete", "suspect", "--yes"]);
    let producer = plugins::component("testing-counter");
    sandbox.succeed(&["plugin", "upload", "suspect", producer.to_str().unwrap()]);
    sandbox
        .run(&["apply", "millstream.toml", "--keep-plugins"])
        .expect_code(1);
}

/// Fails when the lag is what tasks that do not run have in memory, or nothing without tasks.
#[test]
fn a_pipeline_that_does_not_run_tells_how_far_it_is_behind() {
    let sandbox = Sandbox::new();
    let server = with_paused_pipeline(&sandbox);
    assert_eq!(lag(&sandbox, &server), WAITING as f64);
    let reset = |to: &str| {
        let reset = json!({ "topic": "in", "to": to });
        server.post("/v1/groups/suspect/reset", &reset).expect(200);
    };
    reset("latest");
    assert_eq!(lag(&sandbox, &server), 0.0);
    reset("5");
    assert_eq!(lag(&sandbox, &server), WAITING as f64);

    sandbox.succeed(&["pipeline", "delete", "suspect", "--yes"]);
    apply_with_a_producer(&sandbox);
    let state = || sandbox.json(&["pipeline", "describe", "suspect"])["running"]["state"].clone();
    assert_eq!(state(), "refused");
    assert_eq!(lag(&sandbox, &server), WAITING as f64);
    reset("latest");
    assert_eq!(lag(&sandbox, &server), 0.0);
    reset("6");
    server.stop();
    let server = Server::start(&sandbox, &[]);
    assert_eq!(state(), "refused");
    assert_eq!(lag(&sandbox, &server), WAITING as f64 - 1.0);
    server.stop();
}

/// Fails when only what has run is listed: it could neither be seen nor paused then.
#[test]
fn a_pipeline_whose_plugin_was_refused_from_the_start_is_listed() {
    let sandbox = Sandbox::new();
    let server = with_paused_pipeline(&sandbox);
    sandbox.succeed(&["pipeline", "delete", "suspect", "--delete-data", "--yes"]);
    apply_with_a_producer(&sandbox);
    let described = sandbox.json(&["pipeline", "describe", "suspect"]);
    assert_eq!(described["running"]["state"], "refused");
    let listed = sandbox.json(&["pipeline", "list"]);
    assert_eq!(listed[0]["name"], "suspect", "{listed}");
    sandbox.succeed(&["top", "--count", "1"]);
    let paused = server.post("/v1/pipelines/suspect/pause", &json!({}));
    assert_eq!(paused.expect(200).json()["desired_state"], "paused");
    server.stop();
}

/// Fails when a state is counted as another one, and when the age is not in seconds.
#[test]
fn a_queue_tells_what_its_messages_wait_for() {
    let sandbox = Sandbox::new();
    let server = Server::start(&sandbox, &[]);
    server
        .post("/v1/queues", &json!({ "name": "q" }))
        .expect(201);
    let delayed = json!({ "value": "x", "headers": [["millstream-delay", "3600000"]] });
    let mut messages = vec![json!({ "value": "x", "timestamp": 1_000_000_000_000_u64 }); 5];
    messages.extend([delayed.clone(), delayed]);
    server
        .post_lines("/v1/queues/q/messages", &lines(messages))
        .expect(200);
    server
        .post("/v1/queues/q/lease", &json!({ "max_messages": 1 }))
        .expect(200);
    let metrics = server.get("/metrics").expect(200).body;
    for (state, expected) in [("waiting", 4.0), ("delayed", 2.0), ("leased", 1.0)] {
        let labels = format!("queue=\"q\",state=\"{state}\"");
        let count = value(&metrics, "millstream_queue_messages", &labels);
        assert_eq!(count, expected, "{state}");
    }
    let age = value(&metrics, "millstream_queue_oldest_seconds", "queue=\"q\"");
    assert!((OLD_SECONDS..1e10).contains(&age), "{age}");
    server.stop();
}
