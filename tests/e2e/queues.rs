//! Queues on the command line.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::server::Server;
use crate::support::Sandbox;

/// The lines of a JSON output.
fn objects(printed: &str) -> Vec<Value> {
    printed
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// A queue `q` with records.
fn with_messages(settings: &[&str], lines: &[&str]) -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.succeed(&[&["queue", "create", "q"], settings].concat());
    let file = sandbox.write_lines("messages.jsonl", lines);
    let file = file.to_str().unwrap();
    sandbox.succeed(&["produce", "queue:q", "--format", "record", "--file", file]);
    sandbox
}

#[test]
fn messages_are_taken_out_once() {
    let sandbox = with_messages(
        &[],
        &[
            r#"{"timestamp":1,"key":"k","value":"low","headers":[["millstream-priority","0"]]}"#,
            r#"{"timestamp":2,"value":"high","headers":[["millstream-priority","9"]]}"#,
            r#"{"timestamp":3,"value":"later","headers":[["millstream-delay","3600000"]]}"#,
        ],
    );
    let described = sandbox.json(&["queue", "describe", "q"]);
    assert_eq!(described["waiting"], 2);
    assert_eq!(described["delayed"], 1);
    assert_eq!(described["visibility_timeout_ms"], 30_000);
    let peeked = objects(&sandbox.succeed(&["queue", "peek", "q", "--output", "json"]));
    assert_eq!(peeked.len(), 3);
    assert_eq!(peeked[0]["state"], "ready");
    assert_eq!(peeked[2]["state"], "delayed");
    assert_eq!(peeked[2]["delivery_count"], 0);
    let first = [
        "consume", "queue:q", "--ack", "--max", "1", "--output", "json",
    ];
    let first = sandbox.succeed(&first);
    let expected = r#"{"queue":"q","offset":1,"delivery_count":1,"timestamp":2,"key":null,"value":"high","headers":[["millstream-priority","9"]]}"#;
    assert_eq!(first.trim_end(), expected);
    let rest = sandbox.succeed(&["consume", "queue:q", "--ack"]);
    assert!(rest.contains("k  low") && !rest.contains("later"), "{rest}");
    assert_eq!(sandbox.succeed(&["consume", "queue:q", "--ack"]), "");
    assert_eq!(
        sandbox.json(&["queue", "purge", "q", "--yes"])["messages"],
        1
    );
    assert_eq!(sandbox.json(&["queue", "list"])[0]["waiting"], 0);
}

#[test]
fn what_consume_prints_can_be_produced_again() {
    let sandbox = with_messages(
        &[],
        &[
            r#"{"timestamp":1,"key":"k","value":{"base64":"AP8="},"headers":[["h","1"],["h",null]]}"#,
        ],
    );
    let peeked = sandbox.succeed(&["consume", "queue:q", "--peek", "--output", "json"]);
    let file = sandbox.write("printed.jsonl", &peeked);
    let file = file.to_str().unwrap();
    sandbox.succeed(&["produce", "queue:q", "--format", "record", "--file", file]);
    let all = objects(&sandbox.succeed(&["consume", "queue:q", "--ack", "--output", "json"]));
    assert_eq!(all.len(), 2);
    assert_eq!(all[0]["value"], all[1]["value"]);
    assert_eq!(all[0]["headers"], all[1]["headers"]);
}

#[test]
fn what_is_written_to_a_closed_pipe_is_delivered_again() {
    let lines: Vec<_> = (0..20_000)
        .map(|number| format!(r#"{{"value":"{number}"}}"#))
        .collect();
    let lines: Vec<_> = lines.iter().map(String::as_str).collect();
    let sandbox = with_messages(&[], &lines);
    let mut command = sandbox.command(&["consume", "queue:q", "--ack"]);
    command.stdout(std::process::Stdio::piped());
    let mut child = command.spawn().unwrap();
    // `head` does this.
    drop(child.stdout.take());
    assert!(child.wait().unwrap().success());
    let left = sandbox.json(&["queue", "describe", "q"]);
    assert_eq!(left["waiting"], 20_000);
    let peeked = sandbox.succeed(&["queue", "peek", "q", "--max", "1", "--output", "json"]);
    assert_eq!(objects(&peeked)[0]["delivery_count"], 1);
}

#[test]
fn options_are_attributes_and_a_record_can_say_otherwise() {
    let sandbox = Sandbox::new();
    let line = r#"{"value":"own","headers":[["millstream-priority","1"]]}"#;
    let file = sandbox.write_lines("f.jsonl", [line, r#"{"value":"default"}"#]);
    let produce = [
        "produce", "queue:q", "--create", "--format", "record", "--file",
    ];
    let options = [
        "--priority",
        "9",
        "--message-group",
        "g",
        "--time-to-live",
        "1h",
    ];
    let summary = sandbox.json(&[&produce[..], &[file.to_str().unwrap()], &options].concat());
    assert_eq!(summary["queue"], "q");
    assert_eq!(summary["messages"], 2);
    let peeked = objects(&sandbox.succeed(&["queue", "peek", "q", "--output", "json"]));
    let says = |at: usize, name: &str| {
        let headers = peeked[at]["headers"].as_array().unwrap();
        let mut of_name = headers.iter().filter(|header| header[0] == name);
        of_name
            .next_back()
            .map(|header| header[1].as_str().unwrap().to_owned())
    };
    assert_eq!(says(0, "millstream-priority").as_deref(), Some("1"));
    assert_eq!(says(1, "millstream-priority").as_deref(), Some("9"));
    assert_eq!(says(1, "millstream-group").as_deref(), Some("g"));
    assert!(says(1, "millstream-expires-at").is_some());
}

/// The values of messages that are leased and acknowledged, in the order of delivery, and how often each was delivered.
fn taken(sandbox: &Sandbox, queue: &str) -> Vec<(String, u64)> {
    let queue = format!("queue:{queue}");
    let printed = sandbox.succeed(&["consume", &queue, "--ack", "--output", "json"]);
    let messages = objects(&printed).into_iter().map(|message| {
        let value = message["value"].as_str().unwrap().to_owned();
        (value, message["delivery_count"].as_u64().unwrap())
    });
    messages.collect()
}

fn produce_records(sandbox: &Sandbox, queue: &str, lines: &[&str], options: &[&str]) -> Value {
    let file = sandbox.write_lines("records.jsonl", lines);
    let queue = format!("queue:{queue}");
    let produce = ["produce", &queue, "--format", "record", "--file"];
    sandbox.json(&[&produce[..], &[file.to_str().unwrap()], options].concat())
}

fn first(value: &str) -> (String, u64) {
    (value.to_owned(), 1)
}

/// Each setting has its effect; each part fails when the option is not passed on.
#[test]
fn settings_of_a_queue_are_what_was_asked_for() {
    let sandbox = Sandbox::new();
    let create = |name: &str, settings: &[&str]| {
        sandbox.succeed(&[&["queue", "create", name][..], settings].concat());
    };
    // One message of a key at a time is in flight.
    create("by-key", &["--groups", "key"]);
    // Those that do not say theirs come before a priority of 7, and after one of 9.
    create("urgent", &["--default-priority", "8"]);
    create("slow", &["--delay", "1h"]);
    create("forgetful", &["--deduplication-window", "1ms"]);
    create("mindful", &[]);
    create("brief", &["--visibility-timeout", "1ms"]);

    let lines = [
        r#"{"value":"7","headers":[["millstream-priority","7"]]}"#,
        r#"{"value":"none"}"#,
        r#"{"value":"9","headers":[["millstream-priority","9"]]}"#,
    ];
    produce_records(&sandbox, "urgent", &lines, &[]);
    let expected = ["9", "none", "7"].map(first);
    assert_eq!(taken(&sandbox, "urgent"), expected);

    let lines = [
        r#"{"value":"waits"}"#,
        r#"{"value":"does not","headers":[["millstream-delay","0"]]}"#,
    ];
    produce_records(&sandbox, "slow", &lines, &[]);
    assert_eq!(sandbox.json(&["queue", "describe", "slow"])["delayed"], 1);
    assert_eq!(taken(&sandbox, "slow"), [first("does not")]);
    // The option is for messages, whatever their queue says.
    produce_records(
        &sandbox,
        "mindful",
        &[r#"{"value":"waits"}"#],
        &["--delay", "1h"],
    );
    assert_eq!(
        sandbox.json(&["queue", "describe", "mindful"])["delayed"],
        1
    );
    produce_records(
        &sandbox,
        "slow",
        &[r#"{"value":"at once"}"#],
        &["--delay", "0s"],
    );
    assert_eq!(taken(&sandbox, "slow"), [first("at once")]);

    let line = r#"{"value":"x","headers":[["millstream-deduplication-id","1"]]}"#;
    for (queue, duplicates) in [("forgetful", 0), ("mindful", 1)] {
        produce_records(&sandbox, queue, &[line], &[]);
        std::thread::sleep(Duration::from_millis(20));
        let again = produce_records(&sandbox, queue, &[line], &[]);
        assert_eq!(again["duplicates"], duplicates, "{queue}");
    }

    let lines = ["a", "b"].map(|value| json!({ "key": "k", "value": value }).to_string());
    let lines = [&*lines[0], &*lines[1], r#"{"key":"l","value":"c"}"#];
    produce_records(&sandbox, "by-key", &lines, &[]);
    produce_records(&sandbox, "brief", &[r#"{"value":"again"}"#], &[]);
    let server = Server::start(&sandbox, &[]);
    let lease = |queue: &str| {
        let one = json!({ "max_messages": 1 });
        let leased = server.post(&format!("/v1/queues/{queue}/lease"), &one);
        let leased = objects(&leased.expect(200).body);
        leased[0]["value"].as_str().unwrap().to_owned()
    };
    assert_eq!([lease("by-key"), lease("by-key")], ["a", "c"]);
    assert_eq!(lease("brief"), "again");
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(lease("brief"), "again");
    server.stop();
}

#[test]
fn fields_of_a_line_are_attributes() {
    let sandbox = Sandbox::new();
    let lines = [
        r#"{"order":1,"urgency":9,"customer":"c"}"#,
        r#"{"order":1,"urgency":3}"#,
        r#"{"order":2}"#,
    ];
    let file = sandbox.write_lines("f.jsonl", lines);
    let produce = [
        "produce",
        "queue:q",
        "--create",
        "--file",
        file.to_str().unwrap(),
    ];
    let fields = [
        "--priority-field",
        "urgency",
        "--message-group-field",
        "customer",
        "--deduplication-id-field",
        "order",
    ];
    let all = [&produce[..], &fields, &["--priority", "1"]].concat();
    let summary = sandbox.json(&all);
    assert_eq!(summary["messages"], 2);
    assert_eq!(summary["duplicates"], 1);
    let peeked = objects(&sandbox.succeed(&["queue", "peek", "q", "--output", "json"]));
    let headers = peeked[0]["headers"].to_string();
    let expected = r#"[["millstream-priority","1"],["millstream-priority","9"],["millstream-group","c"],["millstream-deduplication-id","1"]]"#;
    assert_eq!(headers, expected);
    // Also in another process, later.
    assert_eq!(sandbox.json(&all)["duplicates"], 3);
}

#[test]
fn mistakes_are_told() {
    let sandbox = with_messages(&["--dead-letter", "failed"], &[r#"{"value":"a"}"#]);
    sandbox
        .run(&["consume", "queue:q"])
        .expect_code(2)
        .expect_error(&["--ack to take them out of `q`, or --peek"]);
    sandbox
        .run(&["consume", "queue:q", "--ack", "--from", "earliest"])
        .expect_code(2)
        .expect_error(&["--from has no effect on a queue"]);
    sandbox
        .run(&["consume", "queue:qq", "--ack"])
        .expect_code(1)
        .expect_error(&["there is no queue `qq`; did you mean `q`?"]);
    sandbox
        .run(&["queue", "delete", "failed", "--yes"])
        .expect_code(1)
        .expect_error(&["takes the dead letters of `q`"]);
    sandbox
        .run(&["queue", "delete", "q"])
        .expect_code(2)
        .expect_error(&["delete queue `q` and its 1 messages?", "give --yes"]);
    let file = sandbox.write_lines(
        "bad.jsonl",
        [
            r#"{"value":"good"}"#,
            r#"{"value":"bad","headers":[["millstream-priority","11"]]}"#,
        ],
    );
    let file = file.to_str().unwrap();
    sandbox
        .run(&["produce", "queue:q", "--format", "record", "--file", file])
        .expect_code(1)
        .expect_error(&["bad.jsonl:2:", "expected a digit from 0 to 9"]);
    assert_eq!(sandbox.json(&["queue", "describe", "q"])["waiting"], 2);
    sandbox.succeed(&["queue", "delete", "q", "--yes"]);
    sandbox.succeed(&["queue", "delete", "failed", "--yes"]);
}

#[test]
fn a_manifest_declares_queues() {
    let sandbox = Sandbox::new();
    let manifest = sandbox.write(
        "millstream.toml",
        "name = \"m\"\n[queues.q]\ndead-letter = \"d\"\nvisibility-timeout = \"5s\"\n",
    );
    let manifest = manifest.to_str().unwrap();
    let file = sandbox.write_lines("f.jsonl", ["{}"]);
    let file = file.to_str().unwrap();
    sandbox.succeed(&["produce", "queue:q", "--manifest", manifest, "--file", file]);
    let described = sandbox.json(&["queue", "describe", "q"]);
    assert_eq!(described["visibility_timeout_ms"], 5_000);
    assert_eq!(described["max_deliveries"], 5);
    assert_eq!(described["dead_letters"], 0);
    let checked = sandbox.json(&["check", manifest]);
    assert_eq!(checked["queues"][0]["dead_letter"], "d");
}

/// Less than a request waits for messages or records, on a machine that is busy.
const SOON: Duration = Duration::from_secs(15);

#[test]
fn whoever_stops_following_a_queue_keeps_no_message() {
    let sandbox = Sandbox::new();
    let server = Server::start(&sandbox, &[]);
    // Longer than the test.
    let queue = json!({"name": "work", "settings": {"visibility_timeout_ms": 3_600_000}});
    server.post("/v1/queues", &queue).expect(201);
    for turn in 0..4_u64 {
        let follow = ["consume", "queue:work", "--ack", "--follow"];
        let mut following = sandbox.start(&follow);
        let is_over = AtomicBool::new(false);
        let (written, sent) = std::thread::scope(|scope| {
            let sending = scope.spawn(|| {
                let mut sent = 0;
                while !is_over.load(Ordering::Relaxed) {
                    let line = "{\"value\":\"x\"}\n";
                    server
                        .post_lines("/v1/queues/work/messages", line)
                        .expect(200);
                    sent += 1;
                }
                sent
            });
            following.wait_until("a message", |it| !it.stdout().is_empty());
            std::thread::sleep(Duration::from_millis(70 * turn));
            let started = Instant::now();
            following.interrupt();
            let written = following.wait().expect_code(0).stdout.lines().count();
            assert!(started.elapsed() < SOON);
            is_over.store(true, Ordering::Relaxed);
            (written, sending.join().unwrap())
        });
        let rest = sandbox.succeed(&["consume", "queue:work", "--ack"]);
        assert_eq!(written + rest.lines().count(), sent);
    }
    // One that waits for messages leaves soon, too; so does one that waits for records.
    server.post("/v1/topics", &json!({"name": "t"})).expect(201);
    for source in ["queue:work", "topic:t"] {
        let mut arguments = vec!["consume", source, "--follow"];
        if source.starts_with("queue") {
            arguments.push("--ack");
        }
        let following = sandbox.start(&arguments);
        server.wait_for_consumers(1);
        let started = Instant::now();
        following.interrupt();
        following.wait().expect_code(0);
        assert!(started.elapsed() < SOON, "{source}");
    }
    server.stop();
}

/// Fails when a queue that drops its oldest refuses more messages at once than it holds.
#[test]
fn a_short_queue_keeps_the_newest_of_many() {
    let sandbox = Sandbox::new();
    let create = ["queue", "create", "small", "--dead-letter", "dropped"];
    let limit = ["--max-length", "5", "--max-length-policy", "drop-oldest"];
    sandbox.succeed(&[&create[..], &limit].concat());
    let file = sandbox.write_lines("lines", (1..=10).map(|line| line.to_string()));
    let produced = sandbox.json(&["produce", "queue:small", "--file", file.to_str().unwrap()]);
    assert_eq!(produced["messages"], 10, "{produced}");
    let each_once = |lines: std::ops::RangeInclusive<u64>| -> Vec<_> {
        lines.map(|line| first(&line.to_string())).collect()
    };
    assert_eq!(taken(&sandbox, "small"), each_once(6..=10));
    assert_eq!(taken(&sandbox, "dropped"), each_once(1..=5));
}
